//! Authorities: the roots and intermediates, and the states they go through.
//!
//! ```text
//! prepared ──► active ──► retiring ──► retired
//!     │          │            │
//!     └──────────┴──► tainted ┴──► revoked
//! ```
//!
//! A prepared root is in the bundle but signs nothing; an active authority signs;
//! a retiring one signs no more but what it signed still counts; a retired one is
//! out of the bundle and its key is destroyed. Tainted is an active, prepared or
//! retiring one that must be replaced at once: it stays in the bundle, and signs
//! while there is no other, until its replacement is in everybody's hands. A
//! revoked one is out of the bundle and its key is destroyed.
//! Every authority has a subject and a key id of its own: verifiers that meet two
//! CAs of one name spend their signature budget on the wrong one.

use std::fmt;

use rustls_pki_types::CertificateDer;
use serde::{Serialize, Serializer};

pub(crate) mod mint;
pub(crate) mod orders;
pub(crate) mod plan;

/// Identifies an authority: its certificate's subject key identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 20]);

impl KeyId {
    /// From its 20 bytes; anything else is `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From its 40 hexadecimal digits, as it is displayed; anything else is `None`.
    pub fn from_hex(text: &str) -> Option<Self> {
        if !text.is_ascii() {
            return None;
        }
        let digits: Vec<&[u8]> = text.as_bytes().chunks(2).collect();
        let byte = |pair: &&[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = digits.iter().map(byte).collect();
        Self::from_slice(&bytes?).filter(|id| id.to_string() == text)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Its word in the journal, in records and on the screen.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            pub(crate) fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// Its place in a chain.
    Kind {
        /// Signs leaves; signed by a root.
        Intermediate = "intermediate",
        /// Signs intermediates; is in the bundle.
        Root = "root",
    }
}

words! {
    /// Where it is in its life.
    State {
        /// Made, published if it is a root, not signing yet.
        Prepared = "prepared",
        /// Signing.
        Active = "active",
        /// Not signing; what it signed is still trusted.
        Retiring = "retiring",
        /// Over; its key is destroyed.
        Retired = "retired",
        /// Compromised or feared so; to be replaced at once.
        Tainted = "tainted",
        /// Compromised; nothing it signed is trusted.
        Revoked = "revoked",
    }
}

impl State {
    /// Whether an authority may go from here to `next`. The way into the world is
    /// `prepared`.
    pub fn may_become(self, next: Self) -> bool {
        use State::{Active, Prepared, Retired, Retiring, Revoked, Tainted};
        matches!(
            (self, next),
            (Prepared, Active | Retired | Tainted)
                | (Active, Retiring | Retired | Tainted)
                | (Retiring, Retired | Tainted)
                | (Tainted, Revoked)
        )
    }

    /// Whether what it signed, or will sign, may stay in use.
    pub fn is_trusted(self) -> bool {
        matches!(self, Self::Prepared | Self::Active | Self::Retiring)
    }

    /// Whether a root in this state is in the bundle.
    pub fn is_published(self) -> bool {
        self.is_trusted() || self == Self::Tainted
    }

    /// Whether its private key is of no use any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Retired | Self::Revoked)
    }
}

/// One authority, for people and for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Root or intermediate.
    pub kind: Kind,
    /// Subject key identifier.
    pub key_id: KeyId,
    /// Key id of the root that signed it; its own for a root.
    pub issuer: KeyId,
    /// Where it is in its life.
    pub state: State,
    /// Certificate.
    pub certificate: CertificateDer<'static>,
    /// Start of its validity, seconds since the Unix epoch.
    pub not_before_s: i64,
    /// End of its validity, seconds since the Unix epoch.
    pub not_after_s: i64,
}

impl Authority {
    pub(crate) fn is(&self, kind: Kind, state: State) -> bool {
        self.kind == kind && self.state == state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_go_forward_only() {
        use State::{Active, Prepared, Retired, Retiring, Revoked, Tainted};
        let all = [Prepared, Active, Retiring, Retired, Tainted, Revoked];
        let allowed: Vec<_> = all
            .iter()
            .flat_map(|a| all.iter().map(move |b| (*a, *b)))
            .filter(|(a, b)| a.may_become(*b))
            .collect();
        assert_eq!(allowed.len(), 9, "{allowed:?}");
        for end in [Retired, Revoked] {
            assert!(all.iter().all(|next| !end.may_become(*next)));
        }
        assert!(!Retiring.may_become(Active) && !Tainted.may_become(Active));
        for state in all {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
    }
}
