//! Section `pdp.decisions`: where others ask for decisions.

use std::{net::SocketAddr, path::PathBuf};

use palisade_mesh::diagnostic::Diagnostic;
#[cfg(feature = "full")]
use palisade_pdp::apis::Limits;
use serde::Deserialize;

use super::authzen::AuthzenSection;

/// Section `pdp.decisions`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionsSection {
    /// Where it is served: mTLS with SVIDs, or TLS with a bearer token.
    pub listen: SocketAddr,
    /// File of hashed bearer tokens for callers without an SVID. Default: none, there are
    /// no such callers.
    pub tokens: Option<PathBuf>,
    /// Loopback address where it is served in plain text, to callers with a token.
    /// Default: none.
    pub insecure_loopback: Option<SocketAddr>,
    /// Requests of one caller in flight. Default: 128.
    #[serde(default = "default_in_flight")]
    pub in_flight: usize,
    /// Questions of one caller in a second. Default: 20,000.
    #[serde(default = "default_questions_per_s")]
    pub questions_per_s: u32,
    /// What the words of callers of AuthZEN mean. Default: every word is ours.
    pub authzen: Option<AuthzenSection>,
}

fn default_in_flight() -> usize {
    128
}

fn default_questions_per_s() -> u32 {
    20_000
}

impl DecisionsSection {
    /// What one caller may ask at once.
    #[cfg(feature = "full")]
    pub fn limits(&self) -> Limits {
        Limits {
            in_flight: self.in_flight,
            questions_per_s: self.questions_per_s,
        }
    }

    /// What does not fit together.
    pub fn check(&self) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        if let Some(address) = self.insecure_loopback {
            if !address.ip().is_loopback() {
                let wrong = format!("`insecure_loopback` is `{address}`, which others can reach");
                found.push(
                    Diagnostic::error(6122, wrong)
                        .cause("what is asked and answered there is in plain text, tokens too")
                        .help("use an address of this host alone, such as 127.0.0.1:7446"),
                );
            }
            if self.tokens.is_none() {
                found.push(
                    Diagnostic::error(6123, "`insecure_loopback` has nobody who may ask")
                        .cause("callers prove themselves there by a bearer token only")
                        .help("name the file of hashed tokens: `tokens: FILE`"),
                );
            }
        }
        found
    }
}
