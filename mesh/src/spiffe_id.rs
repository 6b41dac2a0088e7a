//! SPIFFE IDs, parsed strictly.
//!
//! Follows the SPIFFE-ID standard, sections 2.1 to 2.3. The `spiffe` crate's
//! parser accepts upper-case trust domains and over-long IDs; here an ID has one
//! spelling only, so two equal identities are equal byte for byte.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest SPIFFE ID accepted, in bytes (SPIFFE-ID section 2.3).
pub const ID_LEN_MAX: usize = 2048;

/// A trust domain name, lower case: `acme.test`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare name such as `acme.test`; a `spiffe://` prefix is refused.
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        let parsed = spiffe::TrustDomain::new(name)?;
        if parsed.as_str() != name {
            return Err(SpiffeIdError::NotCanonical);
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The identity `spiffe://TRUST_DOMAIN/PATH`; `path` starts without a slash.
    pub fn id(&self, path: &str) -> Result<SpiffeId, SpiffeIdError> {
        SpiffeId::parse(&format!("spiffe://{self}/{path}"))
    }

    /// The reserved identity of a control-plane part, `spiffe://TD/palisade/ROLE`.
    pub fn role(&self, role: &str) -> SpiffeId {
        self.id(&format!("palisade/{role}"))
            .expect("role names are constants of valid characters")
    }
}

/// A SPIFFE ID with a path, in its only spelling: `spiffe://acme.test/ns/shop/sa/web`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    uri: Arc<str>,
    path_start: usize,
}

impl SpiffeId {
    /// Parses an ID; anything but its canonical spelling is an error.
    pub fn parse(uri: &str) -> Result<Self, SpiffeIdError> {
        if uri.len() > ID_LEN_MAX {
            return Err(SpiffeIdError::TooLong { len: uri.len() });
        }
        let parsed = spiffe::SpiffeId::new(uri)?;
        if parsed.path().is_empty() {
            return Err(SpiffeIdError::NoPath);
        }
        let path_start = "spiffe://".len() + parsed.trust_domain_name().len();
        let canonical = uri.starts_with("spiffe://")
            && uri.get("spiffe://".len()..path_start) == Some(parsed.trust_domain_name())
            && uri.get(path_start..) == Some(parsed.path());
        if !canonical {
            return Err(SpiffeIdError::NotCanonical);
        }
        Ok(Self {
            uri: uri.into(),
            path_start,
        })
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The name of the trust domain.
    pub fn trust_domain(&self) -> &str {
        self.uri
            .get("spiffe://".len()..self.path_start)
            .unwrap_or_default()
    }

    /// The path with its leading slash.
    pub fn path(&self) -> &str {
        self.uri.get(self.path_start..).unwrap_or_default()
    }

    /// Whether the ID belongs to `domain`.
    pub fn is_member_of(&self, domain: &TrustDomain) -> bool {
        self.trust_domain() == domain.as_str()
    }

    /// Whether the path is kept for the mesh's own parts (`/palisade/…`).
    pub fn is_reserved(&self) -> bool {
        self.path() == "/palisade" || self.path().starts_with("/palisade/")
    }
}

/// Why a string is not a SPIFFE ID.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpiffeIdError {
    /// The grammar of the standard does not allow it.
    #[error("not a SPIFFE ID: {0}")]
    Grammar(#[from] spiffe::SpiffeIdError),
    /// It names a trust domain only.
    #[error(
        "SPIFFE ID has no path: a workload needs one, as in `spiffe://acme.test/ns/shop/sa/web`"
    )]
    NoPath,
    /// It means an ID but is not spelled as one.
    #[error(
        "SPIFFE ID is not in canonical form: scheme and trust domain are lower case, nothing precedes or follows"
    )]
    NotCanonical,
    /// Longer than [`ID_LEN_MAX`].
    #[error("SPIFFE ID of {len} bytes exceeds the limit of 2048")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
}

macro_rules! text_forms {
    ($type:ident, $as_str:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $type {
            type Err = SpiffeIdError;
            fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
                Self::parse(text)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}
text_forms!(SpiffeId, as_str);
text_forms!(TrustDomain, as_str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_ids_are_accepted_as_they_are() {
        for uri in [
            "spiffe://acme.test/ns/shop/sa/web",
            "spiffe://a/b",
            "spiffe://acme.test/a.b-c_D/...",
        ] {
            let id = SpiffeId::parse(uri).expect(uri);
            assert_eq!(id.as_str(), uri);
            assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), uri);
        }
    }

    /// The refusal list of the SPIFFE-ID standard (attacks T41, T42).
    #[test]
    fn everything_else_is_refused() {
        for uri in [
            "",
            "https://acme.test/web",
            "spiffe://",
            "spiffe:///web",
            "spiffe://acme.test",
            "spiffe://acme.test/",
            "spiffe://acme.test/web/",
            "spiffe://acme.test//web",
            "spiffe://acme.test/a/../web",
            "spiffe://acme.test/./web",
            "spiffe://acme.test:8443/web",
            "spiffe://user@acme.test/web",
            "spiffe://acme.test/web?x=1",
            "spiffe://acme.test/web#x",
            "spiffe://acme.test/w%65b",
            "spiffe://acme.test/w\u{e9}b",
            "spiffe://acme.test/w\0b",
            "spiffe://acme.test/w b",
            "spiffe://[::1]/web",
            "SPIFFE://acme.test/web",
            "Spiffe://acme.test/web",
            "spiffe://Acme.test/web",
            " spiffe://acme.test/web",
        ] {
            assert!(SpiffeId::parse(uri).is_err(), "{uri:?} was accepted");
        }
    }

    #[test]
    fn length_limits_hold_on_both_sides() {
        let prefix = "spiffe://acme.test/";
        let longest = format!("{prefix}{}", "a".repeat(ID_LEN_MAX - prefix.len()));
        assert!(SpiffeId::parse(&longest).is_ok());
        assert!(SpiffeId::parse(&format!("{longest}a")).is_err());
        assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
        assert!(TrustDomain::parse(&"a".repeat(256)).is_err());
    }

    #[test]
    fn reserved_paths_are_the_mesh_s_own() {
        let domain = TrustDomain::parse("acme.test").expect("valid");
        assert!(domain.role("pdp").is_reserved());
        assert!(!domain.id("palisades/web").expect("valid").is_reserved());
    }
}
