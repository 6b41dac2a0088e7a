//! Takes records out of a segment because their time is over, and leaves what proves the
//! rest.
//!
//! The segment is written again without them, aside; it is read back and compared with the
//! tree; what is dropped is recorded and signed; then it takes the place of the old one. A
//! crash before that leaves the old one, a crash after it the new one: never none, and never
//! one that drops what no signed record tells of. What was recorded and not done is recorded
//! as that, too, so that nobody can do it later.
//!
//! What an earlier run has left is believed only if it is what the log says of it.

use std::{collections::BTreeMap, fs::File, io, ops::Range};

use palisade_mesh::wire::record::Admin;
use prost::Message as _;

use super::{Log, LogError, book};
use crate::{
    envelope::{ADMIN, EnvelopeRef, RecordPeek, class_name, is_always_kept},
    holds::{HOLD_ADDED, HOLD_RELEASED},
    item::filed_time,
    merkle::Hash,
    segment::{SparseSum, sum_of},
};

mod hashes;
mod replace;
mod settle;
mod walk;

pub(super) use hashes::Hashes;
pub(super) use settle::{await_signature, conclude, say, settle};
pub(super) use walk::{Differs, Part, dropped_from, envelope_of, lacks, walk};

/// What is to become of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is dropped.
    Drop,
    /// It stays.
    Keep,
}

/// Records of a class that are to be dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weight {
    /// How many.
    pub records: u64,
    /// What they take, in bytes.
    pub bytes: u64,
}

/// A segment of which it is known what is to be dropped.
#[derive(Debug)]
pub struct Thinning {
    log: Log,
    segment: Range<u64>,
    /// Ascending.
    drop: Vec<u64>,
    /// What the segment lacks afterwards, without its digest.
    sum: SparseSum,
    /// The digest of what it says that it lacks now.
    before: Option<Hash>,
    /// What was fetched of a segment that is in an archive.
    fetched: Option<File>,
    /// What is to be dropped, by class.
    pub dropped: BTreeMap<&'static str, Weight>,
    /// What stays and might go, by class as in `record.proto`: the time of the oldest of them,
    /// microseconds since the Unix epoch.
    pub kept: BTreeMap<u32, i64>,
}

/// What counts as the time of a record.
struct Age {
    now_us: i64,
    latest_us: i64,
}

impl Age {
    /// Of the next one, which was received then.
    fn of(&mut self, received_us: i64) -> i64 {
        if received_us <= self.now_us {
            self.latest_us = self.latest_us.max(received_us);
        }
        self.latest_us.max(received_us)
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinned {
    /// Size of the segment before, in bytes.
    pub bytes_before: u64,
    /// Its size now.
    pub bytes: u64,
}

/// Where a crash is tried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The new segment is written aside.
    Written,
    /// What is dropped is recorded.
    Recorded,
    /// The offsets of the old one are gone.
    Unindexed,
    /// The new one is in place, the rest is not done.
    Replaced,
}

impl Log {
    /// Opens a segment for one reader alone: what is fetched for that does not stay.
    pub(crate) fn open_once(&self, segment: &Range<u64>) -> Result<File, LogError> {
        let shared = &self.inner.shared;
        let opened = shared.open_once(segment.start);
        opened.map_err(|e| shared.failed(segment, e))
    }
}

impl Thinning {
    /// Asks of every record of `segment`, one of [`Log::sealed`], what is to become of it,
    /// with its time: when it was received, or any before it, whichever is later; of these, one
    /// that is to come at `now_us` counts for itself alone, for the clock was ahead then. Each is
    /// compared with the tree, and what is missing already with what the log says of it. What
    /// is no record that this version reads stays, and so does what is never dropped.
    ///
    /// # Errors
    /// [`LogError`] when the segment is not what was signed or cannot be read.
    pub fn weigh(
        log: &Log,
        segment: Range<u64>,
        now_us: i64,
        fate: impl FnMut(u64, i64, &EnvelopeRef<'_>, &RecordPeek<'_>) -> Fate,
    ) -> Result<Self, LogError> {
        let file = log.open_once(&segment)?;
        Self::weigh_in(log, file, segment, now_us, fate)
    }

    /// As [`Thinning::weigh`], in the file of the segment, which was opened before.
    pub(crate) fn weigh_in(
        log: &Log,
        file: File,
        segment: Range<u64>,
        now_us: i64,
        mut fate: impl FnMut(u64, i64, &EnvelopeRef<'_>, &RecordPeek<'_>) -> Fate,
    ) -> Result<Self, LogError> {
        let shared = &log.inner.shared;
        let mut age = Age {
            now_us,
            latest_us: book::with(log, |book| book.before_us(segment.start, now_us))?,
        };
        let mut found = Self {
            log: log.clone(),
            segment: segment.clone(),
            drop: Vec::new(),
            sum: SparseSum::default(),
            before: None,
            fetched: None,
            dropped: BTreeMap::new(),
            kept: BTreeMap::new(),
        };
        if log.is_away(segment.start) {
            let again = file.try_clone();
            found.fetched = Some(again.map_err(|e| shared.failed(&segment, e))?);
        }
        let own = (segment.start, &file);
        let hashes = Hashes::new(shared, own);
        let mut hashes = hashes.map_err(|e| shared.failed(&segment, e))?;
        let mut was = SparseSum::default();
        let walked = walk(shared, &segment, file, |part| {
            match part {
                Part::Gone(encoded, run) => {
                    sum_of(&mut was, encoded, &run);
                    for (index, record) in (run.first()..).zip(run.records()) {
                        hashes.check(index, &record.leaf)?;
                        if is_always_kept(record.class) {
                            return Err(Differs::error(index, never(record.class)));
                        }
                        age.of(record.received_us);
                        found.sum.count(record.class, record.filed_us);
                    }
                }
                Part::Leaf {
                    index,
                    leaf,
                    hash,
                    len,
                } => {
                    hashes.check(index, &hash)?;
                    if let Some((envelope, peek)) = envelope_of(leaf) {
                        let time_us = age.of(envelope.received_us);
                        if may_go(&peek) {
                            let fate = fate(index, time_us, &envelope, &peek);
                            found.note(index, time_us, (&envelope, &peek), len, fate);
                        }
                    }
                }
            }
            Ok(())
        });
        let (_, said) = walked.map_err(|e| shared.failed(&segment, e))?;
        let lacks = lacks(&segment, was, said).map_err(|e| shared.failed(&segment, e))?;
        let standing = book::with(log, |book| book.told().standing(segment.start, lacks))?;
        if let Some(fault) = standing.fault() {
            return Err(shared.failed(&segment, Differs::error(segment.start, fault)));
        }
        found.before = lacks;
        Ok(found)
    }

    fn note(
        &mut self,
        index: u64,
        time_us: i64,
        (envelope, peek): (&EnvelopeRef<'_>, &RecordPeek<'_>),
        len: u64,
        fate: Fate,
    ) {
        match fate {
            Fate::Drop => {
                self.drop.push(index);
                let filed_us = filed_time(peek.time_us, envelope.received_us);
                self.sum.count(peek.class, filed_us);
                let weight = self.dropped.entry(peek.class_name()).or_default();
                weight.records += 1;
                weight.bytes += len;
            }
            Fate::Keep => {
                let first = self.kept.entry(peek.class).or_insert(time_us);
                *first = time_us.min(*first);
            }
        }
    }

    /// Whether nothing is to be dropped.
    pub fn is_empty(&self) -> bool {
        self.drop.is_empty()
    }
}

/// Whether a record may be dropped at all.
fn may_go(peek: &RecordPeek<'_>) -> bool {
    match peek.class {
        // They tell a start that there are holds.
        ADMIN => !Admin::decode(peek.body)
            .is_ok_and(|admin| [HOLD_ADDED, HOLD_RELEASED].contains(&admin.verb.as_str())),
        class => !is_always_kept(class),
    }
}

fn never(class: u32) -> String {
    format!(
        "records of the class {} are never dropped",
        class_name(class)
    )
}

/// A crash that is tried out: nothing is put in order after it.
#[cfg(test)]
#[derive(Debug, thiserror::Error)]
#[error("a crash")]
pub(crate) struct Crash;

fn is_crash(error: &io::Error) -> bool {
    #[cfg(test)]
    return error.get_ref().is_some_and(|inner| inner.is::<Crash>());
    #[cfg(not(test))]
    {
        let _ = error;
        false
    }
}
