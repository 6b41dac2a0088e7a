//! What in a record can be personal, and what policy leaves out of records.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

/// What names of headers begin with.
const HEADER: &str = "header:";
/// Longest name of a header, in bytes.
const HEADER_LEN_MAX: usize = 256;

/// Something in a record that can be personal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Personal {
    /// Who wrote a policy change.
    Author,
    /// A header that policies read, by its name in lower case.
    Header(String),
    /// The path of a request. It names no person by itself: it can be masked only.
    Path,
    /// The query string of a request; likewise.
    Query,
    /// The address that a request came from, and its port.
    SourceIp,
    /// The end user of a request: its token's subject, and every other claim with it.
    User,
}

/// No field that can be personal has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no field that can be personal")]
pub struct UnknownField(pub String);

impl Personal {
    /// Every name but those of headers.
    pub const NAMES: [&str; 5] = ["author", "path", "query", "source_ip", "user"];

    /// Whether its value names a person, so that it can have a pseudonym.
    pub fn names_somebody(&self) -> bool {
        !matches!(self, Self::Path | Self::Query)
    }
}

impl FromStr for Personal {
    type Err = UnknownField;

    fn from_str(text: &str) -> Result<Self, UnknownField> {
        Ok(match text {
            "author" => Self::Author,
            "path" => Self::Path,
            "query" => Self::Query,
            "source_ip" => Self::SourceIp,
            "user" => Self::User,
            _ => {
                let name = text.strip_prefix(HEADER).filter(|name| is_header(name));
                let name = name.ok_or_else(|| UnknownField(text.to_owned()))?;
                Self::Header(name.to_ascii_lowercase())
            }
        })
    }
}

/// Whether it can be the name of a header (RFC 9110 section 5.1).
fn is_header(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=HEADER_LEN_MAX).contains(&name.len()) && name.bytes().all(token)
}

impl fmt::Display for Personal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Author => f.write_str("author"),
            Self::Header(name) => write!(f, "{HEADER}{name}"),
            Self::Path => f.write_str("path"),
            Self::Query => f.write_str("query"),
            Self::SourceIp => f.write_str("source_ip"),
            Self::User => f.write_str("user"),
        }
    }
}

/// The fields that policy leaves out of a record. Mostly none: then it is a null pointer,
/// and a copy costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mask(Option<Arc<BTreeSet<Personal>>>);

impl Mask {
    /// Nothing is left out.
    pub const NONE: Self = Self(None);

    /// These fields are left out.
    pub fn of(fields: impl IntoIterator<Item = Personal>) -> Self {
        let fields: BTreeSet<Personal> = fields.into_iter().collect();
        Self((!fields.is_empty()).then(|| Arc::new(fields)))
    }

    /// Whether nothing is left out.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// What is left out, sorted.
    pub fn fields(&self) -> impl Iterator<Item = &Personal> {
        self.0.iter().flat_map(|fields| fields.iter())
    }

    /// What either leaves out: a mask is widened, never narrowed.
    #[must_use]
    pub fn and(&self, more: &Self) -> Self {
        match (&self.0, &more.0) {
            (_, None) => self.clone(),
            (None, _) => more.clone(),
            (Some(fields), Some(more)) if more.is_subset(fields) => self.clone(),
            (Some(fields), Some(more)) => Self(Some(Arc::new(&**fields | &**more))),
        }
    }

    /// Whether it is the very same value, not only an equal one; this is cheap to know.
    pub fn is_same(&self, other: &Self) -> bool {
        self.address() == other.address()
    }

    /// A number that is another's only where both are the very same value, for as long as
    /// both are there; 0 where nothing is left out.
    pub fn address(&self) -> usize {
        self.0.as_ref().map_or(0, |own| Arc::as_ptr(own).addr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(names: &[&str]) -> Mask {
        Mask::of(names.iter().map(|name| name.parse().unwrap()))
    }

    #[test]
    fn a_mask_only_grows() {
        let check = |a: &[&str], b: &[&str], both: &[&str]| {
            assert_eq!(mask(a).and(&mask(b)), mask(both), "{a:?} {b:?}");
            assert_eq!(mask(b).and(&mask(a)), mask(both), "{b:?} {a:?}");
        };
        check(&[], &[], &[]);
        check(&["path"], &[], &["path"]);
        check(&["path"], &["path"], &["path"]);
        check(
            &["path", "header:X-A"],
            &["query", "path"],
            &["header:x-a", "path", "query"],
        );
        assert_eq!(Mask::of([]), Mask::NONE);
        let both = mask(&["path", "query"]);
        assert!(both.and(&mask(&["path"])).is_same(&both));
        assert!(both.and(&Mask::NONE).is_same(&both));
        assert!(!both.is_same(&mask(&["path", "query"])));
        assert_eq!(both.address(), both.clone().address());
        assert_ne!(both.address(), mask(&["path", "query"]).address());
        assert_eq!(Mask::NONE.address(), 0);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in Personal::NAMES.iter().copied().chain(["header:x-user"]) {
            assert_eq!(name.parse::<Personal>().unwrap().to_string(), name);
        }
        for bad in ["", "paths", "Path", "header", "header:", "header:a b"] {
            assert_eq!(bad.parse::<Personal>(), Err(UnknownField(bad.to_owned())));
        }
        let long = |len| format!("header:{}", "x".repeat(len)).parse::<Personal>();
        assert!(long(HEADER_LEN_MAX).is_ok() && long(HEADER_LEN_MAX + 1).is_err());
    }
}
