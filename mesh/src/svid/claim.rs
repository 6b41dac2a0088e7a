//! What a certificate says of itself before anything about it is proven.
//!
//! For the record of a refused handshake only: whoever looks for an impostor or a
//! forgotten certificate wants to know which name was tried. Nothing is ever decided
//! by a claim, so it is plain text, escaped and cut, and no SPIFFE ID.

use std::fmt::Write;

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Longest name kept of a claim, in bytes.
pub const CLAIM_LEN_MAX: usize = 512;
/// Longest serial number kept of a claim, in bytes (RFC 5280 section 4.1.2.2).
pub const SERIAL_LEN_MAX: usize = 20;

/// An unproven claim.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claim {
    /// The first URI SAN, whatever it is, with everything but visible ASCII
    /// escaped; empty when there is none.
    pub id: String,
    /// Serial number, big-endian.
    pub serial: Vec<u8>,
}

impl Claim {
    /// What `leaf` claims; nothing, when it cannot be read.
    pub fn of_leaf(leaf: &CertificateDer<'_>) -> Self {
        let Ok((_, cert)) = X509Certificate::from_der(leaf) else {
            return Self::default();
        };
        let names = cert.subject_alternative_name().ok().flatten();
        let uri = names.and_then(|san| {
            san.value.general_names.iter().find_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
        });
        let serial = cert.raw_serial();
        Self {
            id: uri.map(escaped).unwrap_or_default(),
            serial: serial.get(..SERIAL_LEN_MAX).unwrap_or(serial).to_vec(),
        }
    }
}

fn escaped(uri: &str) -> String {
    let mut text = String::new();
    for c in uri.chars() {
        let len = text.len();
        match c {
            '\\' => text.push_str("\\\\"),
            '!'..='~' => text.push(c),
            _ => {
                let _ = write!(text, "{}", c.escape_unicode());
            }
        }
        if text.len() > CLAIM_LEN_MAX {
            text.truncate(len);
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_visible_ascii_of_bounded_length() {
        assert_eq!(escaped("spiffe://acme.test/web"), "spiffe://acme.test/web");
        assert_eq!(
            escaped("a\u{1b}[31m\n\\ \u{e9}"),
            "a\\u{1b}[31m\\u{a}\\\\\\u{20}\\u{e9}"
        );
        assert_eq!(escaped(&"a".repeat(CLAIM_LEN_MAX)).len(), CLAIM_LEN_MAX);
        assert_eq!(escaped(&"a".repeat(CLAIM_LEN_MAX + 1)).len(), CLAIM_LEN_MAX);
        // No half of an escape is left at the end.
        let cut = escaped(&"\n".repeat(CLAIM_LEN_MAX));
        assert!(cut.len() <= CLAIM_LEN_MAX && cut.ends_with("\\u{a}"));
    }

    #[test]
    fn what_cannot_be_read_claims_nothing() {
        let none = Claim::of_leaf(&CertificateDer::from(&b"\x30\x03\x02\x01\x01"[..]));
        assert_eq!(none, Claim::default());
    }
}
