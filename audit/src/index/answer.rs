//! What the index answers, as people and scripts get it.

use std::sync::Arc;

use serde::Serialize;

use super::search::Key;
use crate::{query::Window, row::Row, watch::Silent};

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "relation", content = "count", rename_all = "snake_case")]
pub enum Total {
    /// Exactly so many.
    Exact(u64),
    /// So many or more; counting stopped there.
    AtLeast(u64),
}

/// Most gaps, silent reporters and losses that an answer names, of each; more are counted.
pub const GAPS_TOLD_MAX: usize = 100;

/// What an answer covers, and what it may lack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Beginning of the time asked about, RFC 3339.
    pub from: String,
    /// End of it, exclusive.
    pub to: String,
    /// Whether the query named no time, and this is the default.
    pub default_time: bool,
    /// Whether everything that was ever recorded in that time was considered; never,
    /// where the reader may not see everything.
    pub complete: bool,
    /// Entries of the log that the index has not read yet.
    pub behind: u64,
    /// Entries of the log that cannot be read.
    pub unreadable: u64,
    /// Buckets that are being made again, by their start.
    pub skipped_buckets: Vec<String>,
    /// Records that proxies numbered and the log never received.
    pub gaps: Vec<Gap>,
    /// How many more such gaps there are.
    #[serde(skip_serializing_if = "is_none")]
    pub gaps_more: usize,
    /// Records that may have been of that time, and were dropped because theirs was over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<DroppedRecords>,
    /// Reporters that have stopped sending: what they recorded of that time may be missing,
    /// and nobody knows its numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<Silent>,
    /// How many more such reporters there are.
    #[serde(skip_serializing_if = "is_none")]
    pub silent_more: usize,
    /// Records of that time that their reporter declared as lost: they never got a number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostRecords>,
    /// How many more such losses there are.
    #[serde(skip_serializing_if = "is_none")]
    pub lost_more: usize,
    /// Gaps that are not told, because the reader may not see every record.
    #[serde(skip_serializing_if = "is_none")]
    pub gaps_withheld: usize,
    /// What the reader may see, where that is not everything; then the answer is not
    /// complete, for other records may match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restricted_to: Option<Arc<str>>,
    /// Why the index does not get on, when it does not.
    pub stalled: Option<String>,
}

/// Records that are missing from a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// SPIFFE ID of the reporter.
    pub reporter: String,
    /// First missing sequence number.
    pub first: u64,
    /// Last missing sequence number.
    pub last: u64,
    /// When it was noticed, microseconds since the Unix epoch.
    pub noticed_us: i64,
}

/// Records of one class that were dropped because their time was over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DroppedRecords {
    /// Their class.
    pub class: &'static str,
    /// How many at most are of the time asked about: what was dropped is counted by segment.
    pub records: u64,
    /// When the last of them happened, RFC 3339.
    pub until: String,
}

/// Records that found no room, as their reporter has declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostRecords {
    /// SPIFFE ID of the reporter.
    pub reporter: String,
    /// How many.
    pub records: u64,
    /// When the first of them happened, RFC 3339.
    pub from: String,
    /// When the last of them happened, RFC 3339.
    pub until: String,
    /// Entry of the log that says so; the first, where several such losses are told as one.
    pub entry: u64,
}

/// What may be missing of a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GapsFound {
    /// At most [`GAPS_TOLD_MAX`] gaps.
    pub told: Vec<Gap>,
    /// How many more there are.
    pub more: usize,
    /// At most [`GAPS_TOLD_MAX`] reporters that have stopped sending.
    pub silent: Vec<Silent>,
    /// How many more there are.
    pub silent_more: usize,
}

impl GapsFound {
    /// Whether nothing is.
    pub(super) fn is_none(&self) -> bool {
        self.told.is_empty() && self.silent.is_empty()
    }
}

/// Tells what may be missing of a window; the parts that number streams and hear reporters
/// know.
pub type Gaps = Arc<dyn Fn(Window) -> GapsFound + Send + Sync>;

/// Where a page ended. Its text can be handed back in the next search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub(super) window: Window,
    pub(super) key: Key,
}

/// A page of records, newest first.
#[derive(Debug, Clone, Serialize)]
pub struct SearchResult {
    /// The records.
    pub rows: Vec<Row>,
    /// How many match in all, from the cursor on.
    pub total: Total,
    /// What was searched.
    #[serde(flatten)]
    pub coverage: Coverage,
    /// Where to go on, when there is more.
    pub cursor: Option<Cursor>,
    /// Time it took, microseconds.
    pub took_us: u64,
}

/// Matches counted by values.
#[derive(Debug, Clone, Serialize)]
pub struct Counted {
    /// The fields, in order.
    pub by: Vec<&'static str>,
    /// The groups that were asked for, in the order that was asked for.
    pub groups: Vec<Group>,
    /// How many groups there are.
    pub distinct: u64,
    /// Matching records.
    pub total: u64,
    /// Matching records that lack one of the fields.
    pub absent: u64,
    /// Values that are in no group, because there were too many groups; unless this is
    /// 0, the counts are lower bounds.
    pub uncounted: u64,
    /// What was searched.
    #[serde(flatten)]
    pub coverage: Coverage,
    /// Time it took, microseconds.
    pub took_us: u64,
}

/// Records that have the same values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The values, in the order of the fields.
    pub values: Vec<String>,
    /// How many there are.
    pub count: u64,
    /// Time of the first of them, RFC 3339.
    pub first: String,
    /// Time of the last of them, RFC 3339.
    pub last: String,
}

/// Values of several fields, counted apart in one pass.
#[derive(Debug, Clone, Serialize)]
pub struct Faceted {
    /// The fields, in the order that was asked for.
    pub facets: Vec<Facet>,
    /// Matching records.
    pub total: u64,
    /// What was searched.
    #[serde(flatten)]
    pub coverage: Coverage,
    /// Time it took, microseconds.
    pub took_us: u64,
}

/// The most frequent values of a field.
#[derive(Debug, Clone, Serialize)]
pub struct Facet {
    /// The field.
    pub field: &'static str,
    /// Its values, most first.
    pub groups: Vec<Group>,
    /// How many values there are.
    pub distinct: u64,
    /// Matching records that lack it.
    pub absent: u64,
    /// As in [`Counted::uncounted`].
    pub uncounted: u64,
}

/// Matches counted by time.
#[derive(Debug, Clone, Serialize)]
pub struct CountedByTime {
    /// Length of a step, seconds.
    pub step_secs: i64,
    /// The field that tells them apart.
    pub by: Option<&'static str>,
    /// Every step from the beginning of the time to its end, or to now.
    pub steps: Vec<Step>,
    /// Matching records.
    pub total: u64,
    /// Matching records that lack the field.
    pub absent: u64,
    /// As in [`Counted::uncounted`].
    pub uncounted: u64,
    /// What was searched.
    #[serde(flatten)]
    pub coverage: Coverage,
    /// Time it took, microseconds.
    pub took_us: u64,
}

/// One step of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its start, RFC 3339.
    pub time: String,
    /// How many matches it has; with a field, how many values.
    pub count: u64,
    /// The most frequent values of the whole timeline, those that this step has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<(String, u64)>,
    /// How many have another value.
    #[serde(skip_serializing_if = "is_zero")]
    pub other: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_none(n: &usize) -> bool {
    *n == 0
}

/// The answer to a query, according to what stands after its `|`.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// Records.
    Rows(SearchResult),
    /// `count by`, `first, last by`.
    Counted(Counted),
    /// `timeline`.
    ByTime(CountedByTime),
}

/// How the index stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Entries of the log.
    pub log_len: u64,
    /// Of these, searchable.
    pub searchable: u64,
    /// Of these, in the index on disk.
    pub committed: u64,
    /// Buckets on disk.
    pub buckets: usize,
    /// Buckets being made again.
    pub remaking: usize,
    /// Entries that cannot be read.
    pub unreadable: u64,
    /// Why it does not get on, when it does not.
    pub stalled: Option<String>,
}

impl Cursor {
    /// The time that the page's query asks about.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Reads what [`Cursor`] prints; anything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.');
        let mut next = || numbers.next();
        let cursor = Self {
            window: Window {
                from_us: next()?.parse().ok()?,
                to_us: next()?.parse().ok()?,
            },
            key: (next()?.parse().ok()?, next()?.parse().ok()?),
        };
        numbers.next().is_none().then_some(cursor)
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Window { from_us, to_us } = self.window;
        write!(f, "{from_us}.{to_us}.{}.{}", self.key.0, self.key.1)
    }
}

impl Serialize for Cursor {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
