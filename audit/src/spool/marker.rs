//! What tells the chunks of a spool file from everything else in it.
//!
//! Records have text of callers, in which there can be anything that looks like a chunk. So each
//! file has 16 bytes that nobody outside of this folder knows, and each of its chunks begins with
//! them: where something cannot be read, the next chunk is looked for by them. They stand in the
//! head of the file, and follow from a secret of the spool, should the head be damaged.

use std::{fs, io, path::Path};

use aws_lc_rs::rand;
use ulid::Ulid;

use crate::{files, merkle};

/// File beside the boots.
const FILE: &str = "markers";

/// Bytes of a marker.
pub(super) const MARKER_LEN: usize = 16;

/// The marker of a file.
pub(super) type Marker = [u8; MARKER_LEN];

/// The secret that the markers of a spool follow from.
pub(super) struct Markers([u8; 32]);

impl Markers {
    /// The one of the spool in `dir`; a new one where it has none.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE);
        let kept = fs::read(&path).ok();
        if let Some(secret) = kept.and_then(|bytes| bytes.try_into().ok()) {
            return Ok(Self(secret));
        }
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(|_| io::Error::other("the system has no randomness"))?;
        if let Err(error) = files::replace(&path, &secret, files::Sync::Yes) {
            tracing::warn!(%error, "markers of spool files stand in their heads alone");
        }
        Ok(Self(secret))
    }

    /// The marker of the `number`th file of a boot.
    pub(super) fn of(&self, boot: Ulid, number: u64) -> Marker {
        let said = [&self.0[..], &boot.to_bytes(), &number.to_le_bytes()].concat();
        let sum = merkle::sha256(&said);
        sum.first_chunk().copied().unwrap_or_default()
    }
}
