//! Numbered streams: which records have arrived, exactly.
//!
//! Each worker of each boot of a reporter numbers its records from 1. A number
//! that was seen is a duplicate and dropped; one beyond the next is accepted and
//! what lies between is remembered as missing until it arrives.

use std::{fmt, sync::Arc};

use palisade_mesh::{
    clock::Clock,
    spiffe_id::{SpiffeId, SpiffeIdError},
    wire::audit::StreamId,
};
use prost::Message as _;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

mod gaps;
mod table;

pub(crate) use table::{Streams, Undo};

/// Largest sequence number accepted.
pub const SEQUENCE_MAX: u64 = i64::MAX as u64;

/// Most separate missing ranges remembered per stream; a batch that would open
/// more is refused.
pub const GAPS_MAX: usize = 1024;

/// Most of them in all streams of one start of a reporter; a batch that would open more is
/// refused, and a head that would promises nothing.
pub const GAPS_PER_BOOT_MAX: usize = 4096;

/// Most of them in all streams of one reporter: replicas of a service have one name.
pub const GAPS_PER_REPORTER_MAX: usize = 16 * 1024;

/// How many a start may have whatever others of its name have.
pub const GAPS_PER_BOOT_KEPT: usize = 64;

/// Most streams known per reporter; more are refused.
pub const STREAMS_PER_REPORTER_MAX: usize = 16 * 1024;

/// Most streams known in all; more are refused.
pub const STREAMS_MAX: usize = 1024 * 1024;

/// Which stream: a worker of a boot of a reporter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    /// Who reports.
    pub reporter: SpiffeId,
    /// One start of the reporter.
    pub boot: Ulid,
    /// One worker of it.
    pub worker: u32,
}

/// Why a `StreamId` from the wire names no stream.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StreamIdError {
    /// There is none.
    #[error("batch names no stream")]
    Missing,
    /// The reporter is no SPIFFE ID.
    #[error("reporter is refused: {0}")]
    Reporter(#[from] SpiffeIdError),
    /// The boot is no ULID.
    #[error("boot has {0} bytes, not the 16 of a ULID")]
    Boot(usize),
}

impl StreamKey {
    /// Reads the wire form.
    ///
    /// # Errors
    /// [`StreamIdError`] when it names no stream.
    pub fn from_wire(id: &StreamId) -> Result<Self, StreamIdError> {
        let boot: [u8; 16] = id
            .boot
            .as_slice()
            .try_into()
            .map_err(|_| StreamIdError::Boot(id.boot.len()))?;
        Ok(Self {
            reporter: SpiffeId::parse(&id.reporter)?,
            boot: Ulid::from_bytes(boot),
            worker: id.worker,
        })
    }

    /// The stream of another worker of the boot.
    pub(crate) fn of_worker(&self, worker: u32) -> Self {
        Self {
            worker,
            ..self.clone()
        }
    }

    /// Reads an encoded wire form.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        Self::from_wire(&StreamId::decode(bytes).ok()?).ok()
    }

    /// The wire form.
    pub fn to_wire(&self) -> StreamId {
        StreamId {
            reporter: self.reporter.as_str().into(),
            boot: self.boot.to_bytes().to_vec(),
            worker: self.worker,
        }
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} boot {} worker {}",
            self.reporter, self.boot, self.worker
        )
    }
}

/// A range of sequence numbers, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First.
    pub from: u64,
    /// Last.
    pub to: u64,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.from, self.to)
    }
}

/// What an arriving sequence number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The one expected.
    Next,
    /// Beyond it: the range before it is missing now.
    Ahead(Range),
    /// One that was missing; its range when that is complete by it.
    Filled(Option<Range>),
    /// One that has been seen.
    Duplicate,
}

/// How far a stream has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// Lowest number never seen.
    pub(crate) next: u64,
    /// Numbers below `next` that have not arrived, ascending.
    pub(crate) missing: Vec<Range>,
    /// Whether a stream head closed it.
    pub(crate) closed: bool,
}

impl Default for Position {
    fn default() -> Self {
        Self {
            next: 1,
            missing: Vec::new(),
            closed: false,
        }
    }
}

impl Position {
    /// Notes that there are records up to `last`; those that have not arrived are missing.
    pub(crate) fn promise(&mut self, last: u64) -> Option<Range> {
        let range = Range {
            from: self.next,
            to: last,
        };
        (self.next <= last && last <= SEQUENCE_MAX).then(|| {
            self.miss(range);
            self.next = last + 1;
            range
        })
    }

    /// Adds numbers that are missing beyond all others; what adjoins is one range.
    fn miss(&mut self, range: Range) {
        match self.missing.last_mut() {
            Some(last) if last.to + 1 == range.from => last.to = range.to,
            _ => self.missing.push(range),
        }
    }

    /// Whether what is missing from the next number on adjoins what is missing already.
    pub(crate) fn adjoins(&self) -> bool {
        let last = self.missing.last();
        last.is_some_and(|last| last.to + 1 == self.next)
    }

    /// Makes one of ranges that adjoin.
    pub(crate) fn joined(mut self) -> Self {
        for range in std::mem::take(&mut self.missing) {
            self.miss(range);
        }
        self
    }

    /// Whether a number was observed.
    pub(crate) fn has(&self, sequence: u64) -> bool {
        let at = self.missing.partition_point(|range| range.to < sequence);
        let is_missing = self.missing.get(at).is_some_and(|r| r.from <= sequence);
        sequence < self.next && !is_missing
    }

    /// Whether all numbers from `first` to `last` were observed.
    pub(crate) fn has_all(&self, first: u64, last: u64) -> bool {
        let at = self.missing.partition_point(|range| range.to < first);
        let lacks = self.missing.get(at).is_some_and(|r| r.from <= last);
        last < self.next && !lacks
    }

    /// Notes the arrival of `sequence`, between 1 and [`SEQUENCE_MAX`].
    pub(crate) fn observe(&mut self, sequence: u64) -> Seen {
        if sequence == self.next {
            self.next += 1;
            return Seen::Next;
        }
        if sequence > self.next {
            let range = Range {
                from: self.next,
                to: sequence - 1,
            };
            self.miss(range);
            self.next = sequence + 1;
            return Seen::Ahead(range);
        }
        let at = self.missing.partition_point(|range| range.to < sequence);
        let Some(range) = self.missing.get_mut(at).filter(|r| r.from <= sequence) else {
            return Seen::Duplicate;
        };
        let whole = *range;
        if whole.from == whole.to {
            self.missing.remove(at);
            return Seen::Filled(Some(whole));
        }
        if whole.from == sequence {
            range.from += 1;
        } else {
            range.to = sequence - 1;
            if sequence < whole.to {
                let after = Range {
                    from: sequence + 1,
                    to: whole.to,
                };
                self.missing.insert(at + 1, after);
            }
        }
        Seen::Filled(None)
    }
}

/// A new ULID at the clock's time.
pub(crate) fn new_ulid(clock: &Clock) -> Ulid {
    let mut random = [0; 16];
    // A generator that gives nothing would have ended TLS and signing long before.
    let _ = aws_lc_rs::rand::fill(&mut random);
    let ms = u64::try_from(clock.now_us() / 1000).unwrap_or(0);
    Ulid::from_parts(ms, u128::from_be_bytes(random))
}

/// Shares one [`StreamKey`] among the records of its stream, by encoded bytes.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    keys: FxHashMap<Box<[u8]>, Arc<StreamKey>>,
}

impl KeyCache {
    /// The key that `encoded` is the wire form of.
    pub(crate) fn key(&mut self, encoded: &[u8]) -> Option<Arc<StreamKey>> {
        if let Some(key) = self.keys.get(encoded) {
            return Some(key.clone());
        }
        let key = Arc::new(StreamKey::decode(encoded)?);
        self.keys.insert(encoded.into(), key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// However often more is promised, what is missing is one range.
    #[test]
    fn what_adjoins_is_one_range() {
        let mut position = Position::default();
        for last in 1..=9 {
            let range = position.promise(last).unwrap();
            assert_eq!((range.from, range.to), (last, last));
        }
        assert_eq!(
            position.observe(12),
            Seen::Ahead(Range { from: 10, to: 11 })
        );
        assert_eq!(position.missing, [Range { from: 1, to: 11 }]);
        assert_eq!(position.promise(12), None);
        assert!(!position.adjoins());
        position.promise(14);
        assert_eq!(position.missing.len(), 2);
        // As a log of before has them.
        let apart = [(1, 2), (3, 5), (7, 8)].map(|(from, to)| Range { from, to });
        position.missing = apart.to_vec();
        let joined = [(1, 5), (7, 8)].map(|(from, to)| Range { from, to });
        assert_eq!(position.joined().missing, joined);
    }

    proptest! {
        /// Whatever the order, the position agrees with a plain set of numbers.
        #[test]
        fn positions_agree_with_a_set(order in prop::collection::vec(1..60u64, 0..120)) {
            let mut position = Position::default();
            let mut seen = BTreeSet::new();
            for sequence in order {
                let new = seen.insert(sequence);
                prop_assert_eq!(position.observe(sequence) != Seen::Duplicate, new);
                let top = *seen.last().unwrap();
                prop_assert_eq!(position.next, top + 1);
                let missing: Vec<u64> = (1..=top).filter(|n| !seen.contains(n)).collect();
                let ours: Vec<u64> =
                    position.missing.iter().flat_map(|r| r.from..=r.to).collect();
                prop_assert_eq!(ours, missing);
                prop_assert!(position.missing.iter().all(|r| r.from <= r.to));
                for (first, last) in [(1, 5), (sequence, sequence + 2), (20, 20)] {
                    let all = (first..=last).all(|n| seen.contains(&n));
                    prop_assert_eq!(position.has_all(first, last), all);
                }
            }
        }
    }

    #[test]
    fn the_wire_form_round_trips_and_bad_ones_are_refused() {
        let key = StreamKey {
            reporter: SpiffeId::parse("spiffe://acme.test/ns/shop/sa/web").unwrap(),
            boot: new_ulid(&Clock::system()),
            worker: 3,
        };
        assert_eq!(StreamKey::from_wire(&key.to_wire()), Ok(key.clone()));
        let mut id = key.to_wire();
        id.boot.pop();
        assert_eq!(StreamKey::from_wire(&id), Err(StreamIdError::Boot(15)));
        let mut id = key.to_wire();
        id.reporter = "SPIFFE://acme.test/x".into();
        assert!(matches!(
            StreamKey::from_wire(&id),
            Err(StreamIdError::Reporter(_))
        ));
    }
}
