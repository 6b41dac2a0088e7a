//! Which fields are personal in a mesh, and what becomes of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use palisade_mesh::wire::record::cover::Handling;

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

/// What is personal in the records of a mesh. Without a rule a field is kept as it is, or,
/// where only some are allowed, left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    named: BTreeMap<Personal, Handling>,
    /// The fields that are kept as they are; without it all that are not named.
    allowed: Option<BTreeSet<Personal>>,
}

impl Rules {
    /// These fields, and what becomes of each. A path or query string is masked whatever
    /// is said.
    pub fn new(rules: impl IntoIterator<Item = (Personal, Handling)>) -> Self {
        let handled = rules.into_iter().map(|(field, handling)| {
            let can = field.names_somebody();
            (field, if can { handling } else { Handling::Masked })
        });
        Self {
            named: handled.collect(),
            allowed: None,
        }
    }

    /// The same rules, and of fields that they do not name only these are kept: what is
    /// neither named nor allowed is left out.
    #[must_use]
    pub fn allowing(self, fields: impl IntoIterator<Item = Personal>) -> Self {
        Self {
            allowed: Some(fields.into_iter().collect()),
            ..self
        }
    }

    /// Whether everything is kept.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.allowed.is_none()
    }

    /// Whether only what is named or allowed may be kept.
    pub(super) fn has_allow_list(&self) -> bool {
        self.allowed.is_some()
    }

    /// Whether the log needs keys for what its reporters send.
    pub fn needs_keys(&self) -> bool {
        self.named
            .values()
            .any(|handling| *handling != Handling::Masked)
    }

    /// What becomes of `field`.
    pub(super) fn of(&self, field: &Personal) -> Option<Handling> {
        let named = self.named.get(field).copied();
        named.or_else(|| (!self.keeps(field)).then_some(Handling::Masked))
    }

    /// Whether a field that has no rule of its own is kept.
    fn keeps(&self, field: &Personal) -> bool {
        let allowed = self.allowed.as_ref();
        allowed.is_none_or(|allowed| allowed.contains(field))
    }

    /// What becomes of each field of a context with these `headers`; of one that cannot be
    /// read, of each that is known by name.
    pub(super) fn of_context(
        &self,
        headers: impl Iterator<Item = String>,
    ) -> BTreeMap<Personal, Handling> {
        let mut all = self.named.clone();
        if self.allowed.is_none() {
            return all;
        }
        let fixed = [
            Personal::Path,
            Personal::Query,
            Personal::SourceIp,
            Personal::User,
        ];
        for field in headers.map(Personal::Header).chain(fixed) {
            if let Some(handling) = self.of(&field) {
                all.insert(field, handling);
            }
        }
        all
    }
}
