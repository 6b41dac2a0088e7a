//! What a spool signs about its streams.

use std::{collections::BTreeMap, fs, sync::atomic::Ordering, time::Instant};

use palisade_mesh::wire::record::{Heads, Reached, StreamHeads};
use ulid::Ulid;

use super::Shared;
use crate::{
    buffer::Chunk,
    files,
    heads::{CERTIFICATES_EVERY, Running, Statement},
};

/// File with the ULID of the last boot that signed heads.
const BOOT: &str = "boot";

/// The streams of a boot, and when they were last told of.
pub(super) struct Attest {
    streams: BTreeMap<u32, Running>,
    told_at: Instant,
    told: u32,
    /// Digest of the certificate that the log has.
    known: Option<[u8; 32]>,
    /// Connections to the log when it was sent: who follows the log may begin anew with one.
    connections: u64,
    previous: Option<Ulid>,
}

impl Attest {
    pub(super) fn new() -> Self {
        Self {
            streams: BTreeMap::new(),
            told_at: Instant::now(),
            told: 0,
            known: None,
            connections: 0,
            previous: None,
        }
    }

    /// Takes in a chunk that will be written.
    pub(super) fn take(&mut self, chunk: &Chunk) {
        self.streams
            .entry(chunk.worker)
            .or_default()
            .take_chunk(chunk);
    }

    /// Whether heads are due.
    pub(super) fn is_due(&self, shared: &Shared) -> bool {
        shared.signer.get().is_some() && self.told_at.elapsed() >= shared.options.heads_every
    }

    /// The signed heads of all streams, with what `earlier` starts left; `None` when nobody signs. A first word is said
    /// by a boot that has nothing else to say, too.
    pub(super) fn sign(
        &mut self,
        shared: &Shared,
        earlier: Vec<Reached>,
        last: bool,
    ) -> Option<StreamHeads> {
        let signer = shared.signer.get()?;
        if self.told == 0 {
            self.begin(shared);
        }
        let streams = self.streams.iter_mut();
        let heads = Heads {
            reporter: shared.reporter.as_str().into(),
            boot: shared.boot.to_bytes().to_vec(),
            previous_boot: self.previous.map_or(Vec::new(), |b| b.to_bytes().to_vec()),
            time_us: shared.clock.now_us(),
            streams: streams
                .map(|(worker, running)| running.head(*worker))
                .collect(),
            last,
            earlier,
        };
        self.told_at = Instant::now();
        let connections = shared.connections.load(Ordering::Relaxed);
        let anew = std::mem::replace(&mut self.connections, connections) != connections;
        let known = self
            .known
            .filter(|_| !anew && !self.told.is_multiple_of(CERTIFICATES_EVERY));
        let (signed, leaf) = Statement::sign(&heads, signer.as_ref(), known)?;
        self.told = self.told.wrapping_add(1);
        self.known = Some(leaf);
        Some(signed)
    }

    /// Remembers that this boot has begun, and which was before it.
    fn begin(&mut self, shared: &Shared) {
        let path = shared.dir.join(BOOT);
        let before = fs::read_to_string(&path).ok();
        self.previous = before.and_then(|text| text.trim().parse().ok());
        let boot = shared.boot.to_string();
        // Without it an earlier boot that was killed is missed a day longer.
        if let Err(error) = files::replace(&path, boot.as_bytes(), files::Sync::No) {
            tracing::warn!(%error, "the boot cannot be remembered");
        }
    }
}
