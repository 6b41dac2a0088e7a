//! The three versions under which a decision is made.

use std::fmt;

use crate::wire::record::Versions as WireVersions;

/// SHA-256 of a policy bundle's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let mut digest = [0; 32];
        digest.copy_from_slice(hash.as_ref());
        Self(digest)
    }

    /// From 32 bytes; anything else is `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From 64 hexadecimal digits; anything else is `None`.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut digest = [0; 32];
        for (i, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        Some(Self(digest))
    }

    /// The first eight hex digits, for people.
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Policy revision, discovery version and kill-list sequence, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Versions {
    /// Digest of the policy bundle.
    pub policy: Digest,
    /// Number of the policy revision; grows with every activation.
    pub sequence: u64,
    /// Version of the endpoints.
    pub discovery: u64,
    /// Sequence of the kill list.
    pub kill_list: u64,
}

impl From<Versions> for WireVersions {
    fn from(v: Versions) -> Self {
        Self {
            policy_digest: v.policy.0.to_vec(),
            policy_sequence: v.sequence,
            discovery: v.discovery,
            kill_list: v.kill_list,
        }
    }
}

impl From<&WireVersions> for Versions {
    fn from(v: &WireVersions) -> Self {
        Self {
            policy: Digest::from_slice(&v.policy_digest).unwrap_or_default(),
            sequence: v.policy_sequence,
            discovery: v.discovery,
            kill_list: v.kill_list,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written_and_nothing_else_is() {
        let digest = Digest::of(b"palisade");
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        for text in [
            "",
            "abc",
            &"g".repeat(64),
            &"a".repeat(65),
            &"\u{e9}".repeat(32),
        ] {
            assert_eq!(Digest::from_hex(text), None, "{text}");
        }
    }
}
