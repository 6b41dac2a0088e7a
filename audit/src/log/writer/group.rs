//! A group on its way to disk: frames in one buffer, and how to take it back.

use std::sync::Arc;

use aws_lc_rs::rand;
use palisade_mesh::{
    clock::Clock,
    wire::record::{AuditMode, Record, record::Body},
};
use prost::Message as _;

use super::{
    super::{AppendError, Appended, Pending, gaps},
    lifecycle,
};
use crate::{
    envelope::{EnvelopeRef, RECORD_LEN_MAX, RecordPeek, SALT_LEN, VERSION},
    heads::{Checks, Place, Statement},
    merkle::{self, Hash},
    privacy::Vault,
    segment::{self, FRAME_HEADER_LEN},
    stream::{Range, SEQUENCE_MAX, Seen, StreamKey, Streams, Undo, new_ulid},
};

/// Memory kept from one group to the next, in bytes.
const BUF_KEPT_MAX: usize = 8 << 20;

/// About what frame and envelope add to a record, in bytes.
const FRAMING_HINT: usize = 160;

/// Signatures of heads that are checked in one group for each reporter, where they say more
/// than is here, and in all.
const CHECKS_MAX: usize = 64;
const CHECKS_ALL_MAX: usize = 4096;

/// Salts drawn at once.
const SALTS: usize = 256;

pub(super) struct Group {
    pub(super) buf: Vec<u8>,
    /// End of each frame in `buf`.
    pub(super) ends: Vec<u64>,
    /// Of what is in `buf`, once it was hashed.
    pub(super) leaves: Vec<Hash>,
    pub(super) undo: Undo,
    now_us: i64,
    /// How many signatures of heads may still be checked.
    checks: Checks,
    salts: Salts,
    vault: Option<Arc<Vault>>,
}

/// What of a record becomes a leaf.
struct Leaf<'r> {
    record: &'r [u8],
    /// Encoded `Sealed`.
    sealed: Vec<u8>,
    /// What can be told of the record.
    peek: RecordPeek<'r>,
}

/// What a batch came to.
pub(super) struct Staged {
    accepted: usize,
    duplicates: usize,
}

impl Staged {
    pub(super) fn at(self, size: u64) -> Appended {
        Appended {
            accepted: self.accepted,
            duplicates: self.duplicates,
            size,
        }
    }
}

impl Group {
    /// With keys for what goes beside records, if there are any.
    pub(super) fn new(vault: Option<Arc<Vault>>) -> Self {
        Self {
            vault,
            buf: Vec::new(),
            ends: Vec::new(),
            leaves: Vec::new(),
            undo: Undo::default(),
            now_us: 0,
            checks: Checks::new(CHECKS_MAX, CHECKS_ALL_MAX),
            salts: Salts::default(),
        }
    }

    /// Empties it for the next group, keeping its memory: giving half a megabyte
    /// back to the system and asking for it again costs as much as the CRCs.
    pub(super) fn begin(&mut self, now_us: i64) {
        self.buf.clear();
        if self.buf.capacity() > BUF_KEPT_MAX {
            self.buf.shrink_to(BUF_KEPT_MAX);
        }
        self.ends.clear();
        self.undo = Undo::default();
        self.now_us = now_us;
        self.checks = Checks::new(CHECKS_MAX, CHECKS_ALL_MAX);
    }

    /// Takes in a batch, whole or not at all; where the keys fail, what came before that
    /// record, and the rest when it is sent again.
    pub(super) fn stage(
        &mut self,
        streams: &mut Streams,
        own: &Arc<StreamKey>,
        batch: &[Pending],
    ) -> Result<Staged, AppendError> {
        admit(streams, batch).map_err(|e| AppendError::Refused(e.into()))?;
        self.reserve(batch);
        let mut staged = Staged {
            accepted: 0,
            duplicates: 0,
        };
        let mut current: Option<(&Arc<StreamKey>, usize)> = None;
        for pending in batch {
            let id = match current {
                Some((key, id)) if Arc::ptr_eq(key, &pending.stream) => id,
                _ => streams
                    .enter(&pending.stream)
                    .map_err(|e| AppendError::Refused(e.to_string().into()))?,
            };
            current = Some((&pending.stream, id));
            // What is here already makes no key: it may be sent again after an erasure.
            let leaf = match streams.has(id, pending.sequence) {
                true => None,
                false => Some(self.leaf(&pending.record)?),
            };
            let seen = streams.observe(id, pending.sequence, Some(&mut self.undo));
            let Some(leaf) = leaf.filter(|_| seen != Seen::Duplicate) else {
                staged.duplicates += 1;
                continue;
            };
            if let Seen::Ahead(range) = seen {
                self.gap(streams, own, "gap", &pending.stream, range);
            }
            self.push(streams, id, pending.sequence, &leaf);
            self.promises(streams, own, pending, &leaf.peek);
            staged.accepted += 1;
            if let Seen::Filled(Some(range)) = seen {
                self.gap(streams, own, "gap_closed", &pending.stream, range);
            }
        }
        Ok(staged)
    }

    /// Notes how far a reporter has signed that its streams are: what is not here by now,
    /// though what was written after it is, is missing.
    fn promises(
        &mut self,
        streams: &mut Streams,
        own: &Arc<StreamKey>,
        pending: &Pending,
        peek: &RecordPeek<'_>,
    ) {
        let Some(statement) = Statement::read(peek) else {
            return;
        };
        let at = Place {
            stream: &pending.stream,
            sequence: pending.sequence,
        };
        let (undo, checks) = (Some(&mut self.undo), &mut self.checks);
        let missing = streams.hear(at, &statement, undo, checks);
        let Some((stream, range)) = missing.first() else {
            return;
        };
        // One note for one record, however much that says.
        match missing.len() - 1 {
            0 => self.gap(streams, own, "gap", stream, *range),
            more => {
                tracing::warn!(%stream, %range, more, "records of several streams are missing");
                self.note(streams, own, lifecycle("gap", gaps::noted(&missing)));
            }
        }
    }

    /// Hashes its leaves.
    pub(super) fn hash(&mut self) {
        let mut start = 0;
        let payloads = self.ends.iter().map(|end| {
            let frame = start..*end as usize;
            start = frame.end;
            let frame = self.buf.get(frame).unwrap_or_default();
            frame.get(FRAME_HEADER_LEN..).unwrap_or_default()
        });
        self.leaves.clear();
        merkle::leaves_in_place(payloads, &mut self.leaves);
    }

    /// Makes room at once: a group is a megabyte under load, and growing to it by
    /// doubling would copy it as often.
    fn reserve(&mut self, batch: &[Pending]) {
        let records: usize = batch.iter().map(|p| p.record.len()).sum();
        self.buf.reserve(records + batch.len() * FRAMING_HINT);
        self.ends.reserve(batch.len());
    }

    /// Adds a record of the log about itself.
    pub(super) fn note(&mut self, streams: &mut Streams, own: &Arc<StreamKey>, mut body: Body) {
        // The log's own reporter has one stream per start: far from any limit.
        let Ok(id) = streams.enter(own) else {
            tracing::error!(?body, "audit log cannot record about itself");
            return;
        };
        let sequence = streams.next(id);
        if let Body::StreamHead(head) = &mut body {
            head.last_sequence = sequence - 1;
        }
        streams.observe(id, sequence, Some(&mut self.undo));
        let record = Record {
            id: new_ulid(&Clock::system()).to_bytes().to_vec(),
            time_us: self.now_us,
            reporter: own.reporter.as_str().into(),
            mode: AuditMode::Strict.into(),
            body: Some(body),
            ..Record::default()
        };
        let record = record.encode_to_vec();
        let leaf = Leaf {
            record: &record,
            sealed: Vec::new(),
            peek: RecordPeek::new(&record).unwrap_or_default(),
        };
        self.push(streams, id, sequence, &leaf);
    }

    fn gap(
        &mut self,
        streams: &mut Streams,
        own: &Arc<StreamKey>,
        verb: &str,
        stream: &StreamKey,
        range: Range,
    ) {
        tracing::warn!(verb, %stream, %range, "records of a stream");
        self.note(streams, own, lifecycle(verb, gaps::one(stream, range)));
    }

    /// Splits a record from what goes beside it, which is sealed.
    fn leaf<'r>(&self, record: &'r [u8]) -> Result<Leaf<'r>, AppendError> {
        // What is no record has nothing beside it.
        let peek = RecordPeek::new(record).unwrap_or(RecordPeek {
            attested: record.len(),
            ..RecordPeek::default()
        });
        let sealed = match &self.vault {
            _ if peek.attested == record.len() => Vec::new(),
            Some(vault) => vault
                .seal(record)
                .map_err(|e| AppendError::Io(e.to_string().into()))?,
            None => {
                tracing::error!("no keys for what is personal in a record; it is not kept");
                Vec::new()
            }
        };
        Ok(Leaf {
            record: record.get(..peek.attested).unwrap_or(record),
            sealed,
            peek,
        })
    }

    fn push(&mut self, streams: &mut Streams, id: usize, sequence: u64, leaf: &Leaf<'_>) {
        let record = leaf.record;
        let envelope = EnvelopeRef {
            version: VERSION,
            stream: streams.encoded(id),
            sequence,
            received_us: self.now_us,
            salt: &self.salts.draw(),
            record,
            sealed: &leaf.sealed,
        };
        segment::frame(&mut self.buf, |buf| envelope.encode(buf));
        self.ends.push(self.buf.len() as u64);
        if leaf.peek.closes_stream() {
            streams.close(id);
        }
    }
}

/// Checks every limit before anything of a batch is taken.
fn admit(streams: &mut Streams, batch: &[Pending]) -> Result<(), String> {
    let mut run: Option<(&Arc<StreamKey>, usize, u64)> = None;
    let mut breaks = 0;
    for pending in batch {
        let Pending {
            stream,
            sequence,
            record,
        } = pending;
        if !(1..=SEQUENCE_MAX).contains(sequence) {
            return Err(format!("sequence {sequence} is out of range"));
        }
        if record.is_empty() || record.len() > RECORD_LEN_MAX {
            let len = record.len();
            return Err(format!(
                "record of {len} bytes; a record has 1 to {RECORD_LEN_MAX}"
            ));
        }
        let (id, expected) = match run {
            Some((key, id, next)) if Arc::ptr_eq(key, stream) => (id, next),
            _ => {
                let id = streams.enter(stream).map_err(|e| e.to_string())?;
                breaks = 0;
                (id, streams.next(id))
            }
        };
        if *sequence != expected && streams.adds_gap(id, *sequence) {
            breaks += 1;
            streams.admit_gaps(id, breaks).map_err(|e| e.to_string())?;
        }
        run = Some((stream, id, sequence + 1));
    }
    Ok(())
}

/// Random bytes, drawn in bulk.
#[derive(Default)]
struct Salts {
    pool: Vec<[u8; SALT_LEN]>,
}

impl Salts {
    fn draw(&mut self) -> [u8; SALT_LEN] {
        if self.pool.is_empty() {
            self.pool.resize(SALTS, [0; SALT_LEN]);
            // Salts hide the contents of leaves, nothing else rests on them.
            if rand::fill(self.pool.as_flattened_mut()).is_err() {
                tracing::error!("no randomness for leaf salts");
            }
        }
        self.pool.pop().unwrap_or_default()
    }
}
