//! What is known of the segments of a log from one run to the next.

use std::{collections::BTreeMap, fs, io, ops::Range, path::Path};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Periods;
use crate::{
    envelope::class_name,
    files,
    log::{Lacking, Log},
};

/// Version of the file that a ledger is kept in.
const LEDGER_VERSION: u32 = 2;

/// What is known of the segments of a log without reading them: the time of the oldest record
/// of each class that is there. Lost, it is found out again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    version: u32,
    /// Of which log.
    log: String,
    /// By first record of the segment.
    pub(super) segments: BTreeMap<u64, Known>,
    /// What the last run came to.
    pub last: Option<LastRun>,
    /// Whether the last run did not go on because of damage, which no other try mends.
    #[serde(default)]
    pub damaged: bool,
    /// Where the last run ended because the disk refused: the next goes on behind it first.
    #[serde(default)]
    pub(super) refused: Option<u64>,
}

/// What is known of a segment, as long as it lacks so many records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) dropped: u64,
    /// By class as in `record.proto`.
    pub(super) oldest_us: BTreeMap<u32, i64>,
}

/// A run that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// When, microseconds since the Unix epoch.
    pub ended_us: i64,
    /// Records that were dropped.
    pub records: u64,
    /// Bytes that the segments lost.
    pub bytes: u64,
    /// Why something was not done.
    pub faults: Vec<String>,
    /// Whether another try may do some of that; what is damaged or lost waits for a person.
    #[serde(default = "of_before")]
    pub again: bool,
    /// Whether it was ended before its end.
    pub interrupted: bool,
}

/// Whether what a version of before left undone is tried again soon: it did so with all.
fn of_before() -> bool {
    true
}

impl LastRun {
    /// Whether the next run is to be soon.
    pub fn is_again(&self) -> bool {
        self.interrupted || (self.again && !self.faults.is_empty())
    }
}

impl Ledger {
    /// Of a log of which nothing is known.
    pub fn new(log: &Log) -> Self {
        Self {
            version: LEDGER_VERSION,
            log: log.id(),
            segments: BTreeMap::new(),
            last: None,
            damaged: false,
            refused: None,
        }
    }

    /// Reads the file `path`; what cannot be read, or is about another log, is as if it were
    /// not there.
    pub fn load(path: &Path, log: &Log) -> Self {
        let read = fs::read(path).ok();
        let read: Option<Self> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let new = Self::new(log);
        read.filter(|read| (read.version, &read.log) == (new.version, &new.log))
            .unwrap_or(new)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        files::replace(path, &serde_json::to_vec(self)?, files::Sync::No)
    }

    /// Segments in which something may be over at `now`, the oldest first, but for those up to
    /// where the disk refused to go on, which come last.
    pub(super) fn due(&self, log: &Log, periods: &Periods, now: Timestamp) -> Vec<Range<u64>> {
        let mut sealed = log.sealed();
        if periods.is_empty() {
            sealed.clear();
        }
        let before: BTreeMap<&str, i64> = periods
            .each()
            .filter_map(|(class, _)| Some((class, periods.over_before_us(class, now)?)))
            .collect();
        let over = |(class, first): (&u32, &i64)| {
            let before = before.get(class_name(*class));
            before.is_some_and(|over| first < over)
        };
        let lacking = log.lacking();
        sealed.retain(|segment| {
            let known = self.segments.get(&segment.start);
            // One that was put back, or whose thinning came to nothing, is another.
            let known = known.filter(|known| known.dropped == dropped_of(&lacking, segment.start));
            known.is_none_or(|known| known.oldest_us.iter().any(over))
        });
        if let Some(refused) = self.refused {
            let behind = sealed.partition_point(|segment| segment.start <= refused);
            sealed.rotate_left(behind);
        }
        sealed
    }
}

/// How many records of the segment that begins with `first` were dropped.
pub(super) fn dropped_of(lacking: &[Lacking], first: u64) -> u64 {
    let at = lacking.binary_search_by_key(&first, |lacking| lacking.segment);
    let of = at.ok().and_then(|at| lacking.get(at));
    of.map_or(0, Lacking::records)
}
