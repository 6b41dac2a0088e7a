//! What a spool signs about its streams.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::atomic::Ordering,
    time::Instant,
};

use palisade_mesh::wire::record::{Head, Heads, Reached, StreamHeads};
use ulid::Ulid;

use super::{OWN_WORKER, Shared};
use crate::{
    buffer::Chunk,
    files,
    heads::{CERTIFICATES_EVERY, HeadSigner, Running, Statement},
};

/// Most streams in one record of heads: with the longest numbers, earlier starts and
/// certificates it is still one that the log takes.
const STREAMS_PER_RECORD: usize = 512;

/// File with the ULID of the last boot that signed heads.
const BOOT: &str = "boot";

/// The streams of a boot, and when they were last told of.
pub(super) struct Attest {
    streams: BTreeMap<u32, Running>,
    /// Those that have ended, and are told of once more.
    ended: BTreeSet<u32>,
    told_at: Instant,
    /// Some were said.
    told: bool,
    /// Digest of the certificate that the log has, and how many records of heads have come
    /// since the one that had it.
    known: Option<[u8; 32]>,
    since_known: usize,
    /// Connections to the log when it was sent: who follows the log may begin anew with one.
    connections: u64,
    /// It is remembered that this boot has begun.
    begun: bool,
    previous: Option<Ulid>,
}

impl Attest {
    pub(super) fn new() -> Self {
        Self {
            streams: BTreeMap::new(),
            ended: BTreeSet::new(),
            told_at: Instant::now(),
            told: false,
            known: None,
            since_known: 0,
            connections: 0,
            begun: false,
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

    /// Whether heads are due: the first at once, for it says what a start before left, and one
    /// that ends soon may say no other.
    pub(super) fn is_due(&self, shared: &Shared) -> bool {
        let due = !self.told || self.told_at.elapsed() >= shared.options.heads_every;
        due && shared.signer.get().is_some()
    }

    /// The last chunk of a worker was taken in.
    pub(super) fn ended(&mut self, worker: u32) {
        self.ended.insert(worker);
    }

    /// The signed heads of all streams, in as many records as they need, with what `earlier`
    /// starts left; none when nobody signs, and then the next ones are about all of it. They
    /// go into the records of the spool's own stream from the number `next` on. A first word
    /// is said by a boot that has nothing else to say, too.
    pub(super) fn sign(
        &mut self,
        shared: &Shared,
        earlier: Vec<Reached>,
        last: bool,
        next: u64,
    ) -> Vec<StreamHeads> {
        let Some(signer) = shared.signer.get() else {
            return Vec::new();
        };
        if !std::mem::replace(&mut self.begun, true) {
            self.begin(shared);
        }
        // Its own stream, which has the greatest number, first: the others' records follow.
        let streams = self.streams.iter().rev();
        let streams: Vec<Head> = streams
            .map(|(worker, running)| running.head(*worker))
            .collect();
        self.told_at = Instant::now();
        let connections = shared.connections.load(Ordering::Relaxed);
        let anew = std::mem::replace(&mut self.connections, connections) != connections;
        let records = streams.len().div_ceil(STREAMS_PER_RECORD).max(1);
        if anew || self.since_known + records > CERTIFICATES_EVERY as usize {
            (self.known, self.since_known) = (None, 0);
        }
        let heads = Heads {
            reporter: shared.reporter.as_str().into(),
            boot: shared.boot.to_bytes().to_vec(),
            previous_boot: self.previous.map_or(Vec::new(), |b| b.to_bytes().to_vec()),
            time_us: shared.clock.now_us(),
            earlier,
            last,
            worker: OWN_WORKER,
            sequence: next,
            ..Heads::default()
        };
        let Some(signed) = self.sign_each(heads, &streams, signer.as_ref()) else {
            return Vec::new();
        };
        self.told = true;
        self.since_known += signed.len();
        self.streams.values_mut().for_each(Running::said);
        for worker in std::mem::take(&mut self.ended) {
            self.streams.remove(&worker);
        }
        signed
    }

    /// Signs heads about these streams, in as many records as they need.
    fn sign_each(
        &mut self,
        mut heads: Heads,
        streams: &[Head],
        signer: &dyn HeadSigner,
    ) -> Option<Vec<StreamHeads>> {
        let parts = streams.chunks(STREAMS_PER_RECORD);
        let more = parts.len().saturating_sub(1);
        let parts = parts.chain(streams.is_empty().then_some(streams));
        let mut signed = Vec::new();
        let mut known = self.known;
        for (n, streams) in parts.enumerate() {
            let part = Heads {
                streams: streams.to_vec(),
                last: heads.last && n == more,
                ..heads.clone()
            };
            // The first alone has it.
            heads.earlier.clear();
            heads.sequence += 1;
            let (record, leaf) = Statement::sign(&part, signer, known)?;
            known = Some(leaf);
            signed.push(record);
        }
        self.known = known;
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
