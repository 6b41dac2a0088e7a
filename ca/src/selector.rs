//! What can be attested about a process: `unix:uid:1000`, `unix:path:/usr/bin/app`.

use std::{fmt, str::FromStr};

/// Longest path in a selector, in bytes (Linux' own limit).
pub const PATH_LEN_MAX: usize = 4096;

/// One attested property of a process on a unix host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `unix:gid:N`: primary group, in the agent's user namespace.
    Gid(u32),
    /// `unix:path:/…`: the executable, as the caller's mount namespace names it.
    Path(String),
    /// `unix:sha256:…`: digest of the executable's bytes, lower-case hex.
    Sha256([u8; 32]),
    /// `unix:uid:N`: effective user, in the agent's user namespace.
    Uid(u32),
}

impl Selector {
    /// Parses a selector; anything but its only spelling is an error.
    ///
    /// # Errors
    /// Names what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let rest = text.strip_prefix("unix:").ok_or(SelectorError::Type)?;
        let (key, value) = rest.split_once(':').ok_or(SelectorError::Type)?;
        match key {
            "gid" => number(value).map(Self::Gid),
            "path" => path(value).map(Self::Path),
            "sha256" => digest(value).map(Self::Sha256),
            "uid" => number(value).map(Self::Uid),
            _ => Err(SelectorError::Type),
        }
    }
}

/// Why a string is not a selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Not a digest in lower-case hex.
    #[error("a digest is 64 lower-case hex digits")]
    Digest,
    /// Not a plain decimal number.
    #[error("an id is a decimal number without sign or leading zero")]
    Number,
    /// A path no executable can ever have.
    #[error(
        "a path is absolute, at most 4096 bytes, without `//`, `.`, `..`, controls or a trailing `/`"
    )]
    Path,
    /// Not one of the known types.
    #[error("a selector is `unix:uid:N`, `unix:gid:N`, `unix:path:/…` or `unix:sha256:…`")]
    Type,
}

fn number(value: &str) -> Result<u32, SelectorError> {
    let id: u32 = value.parse().map_err(|_| SelectorError::Number)?;
    if id.to_string() == value {
        Ok(id)
    } else {
        Err(SelectorError::Number)
    }
}

fn path(value: &str) -> Result<String, SelectorError> {
    let segments = value.strip_prefix('/').ok_or(SelectorError::Path)?;
    let odd = value.len() > PATH_LEN_MAX
        || value.chars().any(char::is_control)
        || segments.split('/').any(|s| matches!(s, "" | "." | ".."));
    if odd {
        return Err(SelectorError::Path);
    }
    Ok(value.to_owned())
}

fn digest(value: &str) -> Result<[u8; 32], SelectorError> {
    let nibble = |b: u8| match b {
        b'0'..=b'9' => Ok(b - b'0'),
        b'a'..=b'f' => Ok(b - b'a' + 10),
        _ => Err(SelectorError::Digest),
    };
    if value.len() != 64 {
        return Err(SelectorError::Digest);
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(value.as_bytes().chunks_exact(2)) {
        for digit in pair {
            *byte = (*byte << 4) | nibble(*digit)?;
        }
    }
    Ok(digest)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gid(gid) => write!(f, "unix:gid:{gid}"),
            Self::Path(path) => write!(f, "unix:path:{path}"),
            Self::Sha256(digest) => {
                f.write_str("unix:sha256:")?;
                digest.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
            Self::Uid(uid) => write!(f, "unix:uid:{uid}"),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_selector_is_printed_as_it_was_written() {
        let digest = format!("unix:sha256:{}", "0af9".repeat(16));
        let longest = format!("unix:path:/{}", "a".repeat(PATH_LEN_MAX - 1));
        for text in [
            "unix:uid:0",
            "unix:uid:4294967295",
            "unix:gid:1000",
            "unix:path:/usr/bin/app",
            "unix:path:/opt/a b/app:v2",
            &digest,
            &longest,
        ] {
            assert_eq!(Selector::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_could_never_match_is_refused() {
        let short = format!("unix:sha256:{}", "a".repeat(63));
        let upper = format!("unix:sha256:{}", "A".repeat(64));
        let too_long = format!("unix:path:/{}", "a".repeat(PATH_LEN_MAX));
        for text in [
            "",
            "unix",
            "unix:uid",
            "unix:uid:",
            "unix:uid:-1",
            "unix:uid:+1",
            "unix:uid:01",
            "unix:uid:4294967296",
            "unix:user:root",
            "UNIX:uid:0",
            "k8s:ns:shop",
            "unix:path:app",
            "unix:path:/",
            "unix:path:/usr//bin",
            "unix:path:/usr/./bin",
            "unix:path:/usr/../bin",
            "unix:path:/usr/",
            "unix:path:/a\nb",
            &short,
            &upper,
            &too_long,
        ] {
            assert!(Selector::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_has_one_spelling(text in "(unix:(uid|gid|path|sha256):)?\\PC{0,70}") {
            if let Ok(selector) = Selector::parse(&text) {
                prop_assert_eq!(selector.to_string(), text);
            }
        }
    }
}
