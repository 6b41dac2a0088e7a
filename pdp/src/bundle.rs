//! Policy bundles: a revision's content, how it is told by one digest, and who
//! vouches for it.
//!
//! ```text
//! texts ─► groups by scope ─► Merkle root = digest ─► statements about it ─► signatures
//!                │
//!                └─► slice: some groups without their texts, the same digest
//! ```
//!
//! The bytes of all of this: `docs/reference/bundles.md`.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use bytes::Bytes;
use palisade_mesh::{diagnostic::Diagnostic, snapshot::Digest, wire::policy::Bundle};
use prost::Message;

use crate::author::codes::{BUNDLE_BROKEN, FEATURE_UNKNOWN};

mod census;
pub mod codes;
pub mod file;
pub mod key;
pub mod manifest;
pub mod proofs;
pub(crate) mod scope;
pub mod slice;
pub mod statement;
pub(crate) mod texts;
pub mod trust;

/// Features of the bundle format that this build understands.
pub const FEATURES: &[&str] = &["cedar-4", "catalogue-1", "manifest-1", MASKS, OLD_PROOFS];
/// What a proxy says at its hello that can be taken back to a lower number, where the signers
/// of the higher said so ([`trust::way_back`]).
pub const WAY_BACK: &str = "way-back-1";
/// Those that every bundle needs.
pub(crate) const BASE: &[&str] = &["cedar-4", "catalogue-1", "manifest-1"];
/// What a bundle needs beside them whose files mask something.
pub(crate) const MASKS: &str = "masks-1";

/// What a bundle of the format before has that says what was proved of it.
pub(crate) const OLD_PROOFS: &str = "proofs-1";

/// A bundle whose digest was computed from what is in it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The content.
    pub bundle: Bundle,
    /// Its digest, also that of the whole of which it may be a slice.
    pub digest: Digest,
}

impl Opened {
    /// Whether no policy is left out.
    pub fn is_whole(&self) -> bool {
        !slice::is_slice(&self.bundle)
    }
}

/// Reads an encoded bundle, whole or a slice, and computes its digest.
///
/// # Errors
/// When it is no bundle, is not in its one canonical order, or needs a feature that
/// this build lacks.
pub fn open(bytes: &Bytes) -> Result<Opened, Diagnostic> {
    census::bundle(bytes).map_err(broken)?;
    let mut bundle = Bundle::decode(bytes.clone()).map_err(|e| broken(e.to_string()))?;
    if let Some(unknown) = unknown_feature(&bundle) {
        return Err(unknown);
    }
    let is_announced = bundle.features.iter().any(|f| f == OLD_PROOFS);
    if is_announced == bundle.old_proofs.is_empty() {
        return Err(broken("what was proved of it is not what it announces"));
    }
    let digest = manifest::digest(&mut bundle).map_err(broken)?;
    Ok(Opened { bundle, digest })
}

/// What cannot be a bundle of ours.
pub(crate) fn broken(cause: impl Into<String>) -> Diagnostic {
    Diagnostic::error(BUNDLE_BROKEN, "this is no policy bundle")
        .cause(cause)
        .help("fetch it again; if it stays so, rebuild it from its repository")
}

/// Attack T60. A newer bundle may also hold what this build does not see, so this
/// comes before the digest.
fn unknown_feature(bundle: &Bundle) -> Option<Diagnostic> {
    let known = |f: &&String| FEATURES.contains(&f.as_str());
    let feature = bundle.features.iter().find(|f| !known(f))?;
    Some(
        Diagnostic::error(
            FEATURE_UNKNOWN,
            format!("bundle needs the feature `{feature}`, which this build lacks"),
        )
        .cause("a feature that is not understood could be one that forbids")
        .help("upgrade this part before the policy repository uses the feature"),
    )
}

/// The bytes of a file of at most `max`.
pub(crate) fn read_bounded(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(max).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() > max {
        let cause = format!("it has more than {max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, cause));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
