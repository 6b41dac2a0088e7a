//! A join token: where the authority is, how to know it, and a secret to spend.
//!
//! One string, `palisade-join-1.` and base64url (RFC 4648, without padding) of JSON,
//! so that it survives a shell, a file and a systemd credential. It is worth a node
//! until it is spent: keep it as you keep a password.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use palisade_mesh::{diagnostic::Diagnostic, spiffe_id::TrustDomain};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::NodeName;

/// What every token begins with.
const PREFIX: &str = "palisade-join-1.";
/// Longest token that is looked at, in bytes.
pub const TOKEN_LEN_MAX: usize = 4096;
/// Most roots a token can name.
pub const ROOTS_MAX: usize = 8;

/// A token, read.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Its public name, for lists and records.
    pub id: String,
    /// `HOST:PORT` of the authority.
    pub address: String,
    /// Trust domain of the authority.
    pub trust_domain: TrustDomain,
    /// SHA-256 of each root that the authority may prove itself under.
    pub roots: Vec<[u8; 32]>,
    /// Which node it is for.
    pub node: NodeName,
    /// What is spent.
    pub secret: Zeroizing<[u8; 32]>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    ca: String,
    trust_domain: TrustDomain,
    roots: Vec<String>,
    node: NodeName,
    secret: String,
}

impl JoinToken {
    /// The string an operator carries to the host.
    pub fn to_text(&self) -> Zeroizing<String> {
        let written = Written {
            id: self.id.clone(),
            ca: self.address.clone(),
            trust_domain: self.trust_domain.clone(),
            roots: self
                .roots
                .iter()
                .map(|r| URL_SAFE_NO_PAD.encode(r))
                .collect(),
            node: self.node.clone(),
            secret: URL_SAFE_NO_PAD.encode(self.secret.as_slice()),
        };
        let json = Zeroizing::new(
            serde_json::to_vec(&written).expect("texts and lists of texts are always JSON"),
        );
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*json)))
    }

    /// Reads a token; white space around it is left out.
    ///
    /// # Errors
    /// `PLS4110`, without repeating any of it.
    pub fn parse(text: &str) -> Result<Self, Diagnostic> {
        Self::read(text.trim()).ok_or_else(|| {
            Diagnostic::error(4110, "this is not a join token")
                .cause("it is cut off, or holds something else")
                .help("make a new one where the authority runs: palisade join token create --node NAME")
        })
    }

    fn read(text: &str) -> Option<Self> {
        if text.len() > TOKEN_LEN_MAX {
            return None;
        }
        let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?);
        let written: Written = serde_json::from_slice(&json).ok()?;
        let roots: Vec<[u8; 32]> = written
            .roots
            .iter()
            .map(|r| URL_SAFE_NO_PAD.decode(r).ok()?.try_into().ok())
            .collect::<Option<_>>()?;
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.decode(&written.secret).ok()?);
        if roots.is_empty() || roots.len() > ROOTS_MAX || written.id.len() > 64 {
            return None;
        }
        Some(Self {
            id: written.id,
            address: written.ca,
            trust_domain: written.trust_domain,
            roots,
            node: written.node,
            secret: Zeroizing::new(secret.as_slice().try_into().ok()?),
        })
    }
}

/// Without the secret.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .field("address", &self.address)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            id: "abc".into(),
            address: "10.0.0.1:7440".into(),
            trust_domain: TrustDomain::parse("acme.test").unwrap(),
            roots: vec![[7; 32]],
            node: NodeName::parse("host-2").unwrap(),
            secret: Zeroizing::new([9; 32]),
        }
    }

    #[test]
    fn a_token_survives_its_text_and_does_not_show_its_secret() {
        let text = token().to_text();
        assert_eq!(JoinToken::parse(&format!(" {}\n", *text)).unwrap(), token());
        assert!(!format!("{:?}", token()).contains('9'));
    }

    #[test]
    fn what_is_cut_off_changed_or_too_long_is_no_token() {
        let text = token().to_text();
        let many = JoinToken {
            roots: vec![[7; 32]; ROOTS_MAX + 1],
            ..token()
        };
        let none = JoinToken {
            roots: Vec::new(),
            ..token()
        };
        for bad in [
            "",
            PREFIX,
            &text[..text.len() - 3],
            &text[1..],
            &"a".repeat(TOKEN_LEN_MAX + 1),
            &many.to_text(),
            &none.to_text(),
        ] {
            assert_eq!(JoinToken::parse(bad).unwrap_err().code.0, 4110, "{bad}");
        }
        let most = JoinToken {
            roots: vec![[7; 32]; ROOTS_MAX],
            ..token()
        };
        assert!(JoinToken::parse(&most.to_text()).is_ok());
    }
}
