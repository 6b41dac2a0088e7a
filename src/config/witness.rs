//! Sections `audit.witness` and `audit.witnesses`: whom we cosign for, and who cosigns
//! for us.

use std::{net::SocketAddr, path::PathBuf};

#[cfg(feature = "full")]
use http::Uri;
#[cfg(feature = "full")]
use palisade_audit::{cosignature::CosignerKey, note::Verifier};
#[cfg(feature = "full")]
use palisade_mesh::diagnostic::Diagnostic;
use serde::Deserialize;

/// Section `audit.witness`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessSection {
    /// Where checkpoints are taken, over plain HTTP: every message is signed.
    pub listen: SocketAddr,
    /// Name in cosignatures. Default: `TRUST_DOMAIN/witness`.
    pub name: Option<String>,
    /// Public keys of the logs, `NAME+HASH+KEY`.
    pub logs: Vec<String>,
}

/// Section `audit.witnesses`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessesSection {
    /// The witnesses.
    pub each: Vec<WitnessConfig>,
    /// How many must cosign a checkpoint. Default: all of them.
    pub quorum: Option<usize>,
    /// Roots that their TLS certificates are under. Default: the system's.
    pub ca: Option<PathBuf>,
}

/// One witness.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// Its submission prefix; `/add-checkpoint` is added.
    pub url: String,
    /// Its public key, `NAME+HASH+KEY`.
    pub key: String,
}

#[cfg(feature = "full")]
impl WitnessSection {
    /// The keys of the logs.
    ///
    /// # Errors
    /// Of the first that is none.
    pub fn keys(&self) -> Result<Vec<Verifier>, Diagnostic> {
        let keys = self.logs.iter().map(|text| {
            Verifier::parse(text).map_err(|e| {
                Diagnostic::error(7545, format!("`{text}` is no key of a log"))
                    .cause(e.to_string())
                    .help("it is the line in `checkpoint.pub` of that log")
            })
        });
        keys.collect()
    }

    /// What does not fit together.
    pub fn check(&self) -> Vec<Diagnostic> {
        self.keys().err().into_iter().collect()
    }
}

#[cfg(feature = "full")]
impl WitnessesSection {
    /// How many must cosign a checkpoint.
    pub fn quorum(&self) -> usize {
        self.quorum.unwrap_or(self.each.len())
    }

    /// What does not fit together.
    pub fn check(&self) -> Vec<Diagnostic> {
        let mut found: Vec<Diagnostic> = self
            .each
            .iter()
            .filter_map(|witness| witness.parsed().err())
            .collect();
        let (quorum, count) = (self.quorum(), self.each.len());
        if quorum == 0 || quorum > count {
            let wrong = format!("`quorum` is {quorum}, and there are {count} witnesses");
            found.push(
                Diagnostic::error(7547, wrong)
                    .cause("a quorum that cannot be reached, or that nobody need reach, warns of nothing")
                    .help("from 1 to as many as there are witnesses"),
            );
        }
        let mut keys: Vec<&str> = self.each.iter().map(|w| w.key.as_str()).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair.first() == pair.last()) {
            found.push(
                Diagnostic::error(7547, "two witnesses have the same key")
                    .cause("one witness would count twice")
                    .help("name each witness once"),
            );
        }
        found
    }
}

#[cfg(feature = "full")]
impl WitnessConfig {
    /// Its key, and where it takes checkpoints.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn parsed(&self) -> Result<(CosignerKey, Uri), Diagnostic> {
        let Self { url, key } = self;
        let parsed = CosignerKey::parse(key).map_err(|e| {
            Diagnostic::error(7545, format!("`{key}` is no key of a witness"))
                .cause(e.to_string())
                .help("a witness tells its key; ours is in `audit/witness/witness.pub` of its state folder")
        })?;
        let full = format!("{}/add-checkpoint", url.trim_end_matches('/'));
        let uri = full.parse::<Uri>().ok();
        let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        let uri = uri.filter(|uri| uri.host().is_some() && uri.query().is_none());
        let wrong = || {
            Diagnostic::error(7546, format!("`{url}` is no address of a witness"))
                .help("as in `https://witness.example/acme`")
        };
        Ok((parsed, uri.ok_or_else(wrong)?))
    }
}
