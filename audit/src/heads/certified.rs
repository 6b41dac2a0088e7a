//! The certificates that boots sign with, for whoever follows many of them.

use palisade_mesh::spiffe_id::SpiffeId;
use rustc_hash::FxHashMap;
use ulid::Ulid;

use super::{Signature, Statement};
use crate::stream::StreamKey;

/// Most boots whose certificate is remembered; those heard longest ago are forgotten, until
/// they send it again.
const BOOTS_MAX: usize = 16 * 1024;

/// How many are forgotten at once.
const FORGOTTEN: usize = BOOTS_MAX / 4;

/// Longest certificate that is remembered, in bytes.
const CERTIFICATE_LEN_MAX: usize = 4096;

/// Certificates by boot.
#[derive(Debug, Default)]
pub(crate) struct Certified {
    boots: FxHashMap<(SpiffeId, Ulid), Known>,
    /// Statements that held so far.
    heard: u64,
}

#[derive(Debug)]
struct Known {
    leaf: Vec<u8>,
    heard: u64,
}

impl Certified {
    /// Checks who has signed a statement that came in `stream`.
    pub(crate) fn check(&mut self, statement: &Statement, stream: &StreamKey) -> Signature {
        let boot = (stream.reporter.clone(), stream.boot);
        let known = self.boots.get(&boot);
        let mut leaf = known.map_or_else(Vec::new, |known| known.leaf.clone());
        let found = statement.check(stream, &mut leaf);
        if matches!(found, Signature::Holds(_)) && leaf.len() <= CERTIFICATE_LEN_MAX {
            self.heard += 1;
            let heard = self.heard;
            self.boots.insert(boot, Known { leaf, heard });
            self.make_room();
        }
        found
    }

    fn make_room(&mut self) {
        if self.boots.len() <= BOOTS_MAX {
            return;
        }
        let mut heard: Vec<u64> = self.boots.values().map(|known| known.heard).collect();
        let (_, last, _) = heard.select_nth_unstable(FORGOTTEN);
        let last = *last;
        self.boots.retain(|_, known| known.heard > last);
    }
}
