//! The index of the log: search, count, facets, lookup by id and tail.
//!
//! Derived and disposable. Every record of the log is one item; a decision's
//! item also carries its outcome once that is known. An answer says whether it
//! is complete, and is the same as a linear scan of the log would give.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;

use crate::{
    going::{Ended, Going},
    item::Item,
    log::LogError,
    query::{IdPrefix, Limits, Query, Window, time::rfc3339},
    row::Row,
    source::{Entry, Source, SourceError},
};

mod answer;
mod bucket;
mod compile;
mod follow;
mod indexer;
mod join;
mod lookup;
mod losses;
mod lost;
mod names;
mod narrow;
mod opened;
mod recent;
mod rollup;
mod schema;
mod search;
mod shared;
mod state;
mod sum;
mod tally;
mod terms;
mod thin;
mod tidy;
mod worker;
mod writer;

pub use answer::{
    Answer, Counted, CountedByTime, Coverage, Cursor, DroppedRecords, Facet, Faceted,
    GAPS_TOLD_MAX, Gap, Gaps, GapsFound, Group, LostRecords, SearchResult, Status, Step, Total,
};
pub use bucket::BucketSpan;
pub use follow::{LAG_MAX, TailEvent};
pub use rollup::RollUps;

use rollup::Keeper;
use search::{Counter, Key, Lost, Newest, Snapshot, key_of};
use shared::Shared;

/// Most rows one search gives.
pub const ROWS_MAX: usize = 10_000;
/// Most fields of one facet request.
pub const FACETS_MAX: usize = 16;

/// Entries behind the log from which on nobody waits for the index.
const FAR: u64 = 10_000;

/// How the index is kept. [`Options::default`] suits one machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time that one bucket covers. Changing it makes the index again.
    pub bucket: BucketSpan,
    /// Memory of one writer before it writes a segment, bytes; at least 15 MB.
    pub writer_heap_bytes: usize,
    /// Writers open at once; each bucket that is written needs one.
    pub writers_max: usize,
    /// After how long without work a writer is closed.
    pub writer_idle: Duration,
    /// Longest time until a record leaves memory for the index. It is searchable
    /// before that.
    pub commit_every: Duration,
    /// How long a record stays in memory at least, so that its outcome can join it.
    pub hold: Duration,
    /// Most records in memory.
    pub recent_max: usize,
    /// How far a search counts beyond the rows it gives; a tenth of it where matches have to be
    /// told one by one from what is like them.
    pub count_max: u64,
    /// How much time a query may ask about.
    pub limits: Limits,
    /// Which roll-ups are worth keeping.
    pub rollups: RollUps,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bucket: BucketSpan::Day,
            writer_heap_bytes: 20_000_000,
            writers_max: 4,
            writer_idle: Duration::from_secs(60),
            commit_every: Duration::from_secs(5),
            hold: Duration::from_secs(1),
            recent_max: 32_768,
            count_max: 10_000,
            limits: Limits::default(),
            rollups: RollUps::default(),
        }
    }
}

/// What goes wrong with the index.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The asker's mistake.
    #[error(transparent)]
    Query(#[from] Box<Diagnostic>),
    /// Nobody waits for the answer any more.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// The log cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// More entries of the log than this cannot be read; the index waits.
    #[error("more than {count} log entries cannot be read")]
    Unreadable {
        /// The limit.
        count: usize,
    },
    /// tantivy failed.
    #[error("audit index failed: {0}")]
    Index(#[from] tantivy::TantivyError),
    /// The disk failed.
    #[error("audit index cannot be written: {0}")]
    Io(#[from] std::io::Error),
    /// The index's own thread is gone.
    #[error("audit index has stopped")]
    Stopped,
    /// A promise of this module was broken.
    #[error("bug: {0}")]
    Bug(&'static str),
}

impl StoreError {
    /// Whether a record is in an archive that cannot be asked. Answers say so.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Source(error) if error.waits())
    }

    /// Whether a record cannot be had because it was dropped.
    fn is_dropped(&self) -> bool {
        matches!(self, Self::Source(error) if error.is_dropped())
    }
}

impl From<LogError> for StoreError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Ended(ended) => ended.into(),
            error => error.diagnostic().into(),
        }
    }
}

impl From<Diagnostic> for StoreError {
    fn from(told: Diagnostic) -> Self {
        Self::Query(Box::new(told))
    }
}

/// The index, open. Clones are one, and differ in who waits for their answers. Dropping the
/// last stops its thread; nothing is lost, because everything can be read from the log again.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    clock: Clock,
    gaps: Option<Gaps>,
    going: Going,
    threads: Arc<Threads>,
}

/// What goes on beside the questions. It ends with the value.
struct Threads {
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
    keeper: Keeper,
}

/// What the index's thread is asked to do.
enum Command {
    /// Commit everything the log has.
    Flush(oneshot::Sender<Result<(), StoreError>>),
    /// Merge what is over.
    Tidy(oneshot::Sender<Result<(), StoreError>>),
}

impl Store {
    /// Opens the index of `source` in `dir` and starts the thread that keeps it.
    ///
    /// What is damaged, was made by another version or belongs to another log is
    /// made again from the log in the background; answers say so.
    ///
    /// # Errors
    /// When `dir` cannot be used.
    pub fn open(
        source: Arc<dyn Source>,
        dir: &Path,
        clock: Clock,
        options: Options,
    ) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared::new(source, options));
        let (commands, receiver) = mpsc::unbounded_channel();
        let thread = worker::start(Arc::clone(&shared), dir.to_owned(), receiver)?;
        let keeper = Keeper::start(Arc::clone(&shared))?;
        Ok(Self {
            shared,
            clock,
            gaps: None,
            going: Going::default(),
            threads: Arc::new(Threads {
                commands,
                thread: Some(thread),
                keeper,
            }),
        })
    }

    /// The same index, whose answers are given up when nobody waits for `going` any more.
    #[must_use]
    pub fn heeding(&self, going: &Going) -> Self {
        Self {
            going: going.clone(),
            ..self.clone()
        }
    }

    /// Whether somebody waits for its answers, and how far they are.
    pub fn going(&self) -> &Going {
        &self.going
    }

    /// Lets answers name the gaps of their time.
    #[must_use]
    pub fn with_gaps(mut self, gaps: Gaps) -> Self {
        self.gaps = Some(gaps);
        self
    }

    /// The newest matches, at most `limit` and [`ROWS_MAX`], from `cursor` on.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError::Query`] when the query's time is wrong, or that of the cursor;
    /// [`StoreError::Ended`] when nobody waits any more.
    pub fn search(
        &self,
        query: &Query,
        limit: usize,
        cursor: Option<Cursor>,
    ) -> Result<SearchResult, StoreError> {
        let begun = Instant::now();
        let window = match cursor {
            Some(cursor) => {
                let (now_us, limits) = (self.clock.now_us(), &self.shared.options.limits);
                query.page_window(cursor.window, now_us, limits)?
            }
            None => self.window(query)?,
        };
        let before = cursor.map(|cursor| cursor.key);
        let limit = limit.clamp(1, ROWS_MAX);
        // One more than wanted tells whether there is more.
        let snapshot = self.snapshot(query, window, before, limit + 1);
        let count_max = match snapshot.plan.asks {
            true => self.shared.options.count_max / 10,
            false => self.shared.options.count_max,
        };
        let mut newest = Newest::new(limit, count_max, snapshot.recent_count);
        let mut stopped = false;
        for view in &snapshot.views {
            if newest.is_done() {
                stopped = true;
                break;
            }
            snapshot.visit(view, self.source(), before, &mut newest)?;
        }
        let total = match newest.counted {
            counted if counted >= count_max && (stopped || newest.is_full()) => {
                Total::AtLeast(counted)
            }
            counted => Total::Exact(counted),
        };
        let mut coverage = self.coverage(&snapshot, query);
        let (rows, cursor) = self.rows(snapshot, newest, limit, &mut coverage)?;
        Ok(SearchResult {
            rows,
            total,
            coverage,
            cursor,
            took_us: micros(begun),
        })
    }

    /// How many match, exactly.
    ///
    /// # Errors
    /// As [`Store::search`].
    pub fn count(&self, query: &Query) -> Result<u64, StoreError> {
        self.count_whole(query).map(|(counted, _)| counted)
    }

    /// How many match, and whether everything that could was looked at: nothing is behind,
    /// being made again or unreadable.
    ///
    /// # Errors
    /// As [`Store::search`].
    pub fn count_whole(&self, query: &Query) -> Result<(u64, bool), StoreError> {
        let snapshot = self.everything(query, 0)?;
        let mut counter = Counter::default();
        for view in &snapshot.views {
            snapshot.visit(view, self.source(), None, &mut counter)?;
        }
        let counted = counter.counted.saturating_add(snapshot.recent_count);
        Ok((counted, snapshot.is_whole() && snapshot.stalled.is_none()))
    }

    /// All times that there are records of; none where there is no record.
    pub fn times(&self) -> Option<Window> {
        let length_us = self.shared.options.bucket.length_us();
        let inner = self.shared.read();
        let views = inner.views.values().map(|view| Window {
            from_us: view.span.from_us,
            to_us: view.span.to_us,
        });
        let remaking = inner.remaking.iter().map(|start| Window {
            from_us: *start,
            to_us: start.saturating_add(length_us),
        });
        let recent = inner.recent.visible().map(|item| Window {
            from_us: item.time_us,
            to_us: item.time_us.saturating_add(1),
        });
        let both = |a: Window, b: Window| Window {
            from_us: a.from_us.min(b.from_us),
            to_us: a.to_us.max(b.to_us),
        };
        views.chain(remaking).chain(recent).reduce(both)
    }

    /// Everything recorded under an id: the decision, its outcome, its
    /// re-judgements, in log order. `id` may be its first six or more
    /// characters, when no other id begins with them.
    ///
    /// # Errors
    /// `PLS7110` when it is not an id or fits several, `PLS7111` when there is
    /// no such record.
    pub fn by_id(&self, id: &str) -> Result<Vec<Entry>, StoreError> {
        let prefix = IdPrefix::read(id).map_err(|bad| {
            let told = Diagnostic::error(7110, bad.message);
            match bad.help {
                Some(help) => told.help(help),
                None => told,
            }
        })?;
        let (views, recent) = {
            let inner = self.shared.read();
            let recent: Vec<_> = inner
                .recent
                .visible()
                .filter_map(|item| Some((item.at, item.id()?)))
                .collect();
            (inner.views.clone(), recent)
        };
        match lookup::by_id(&views, &recent, self.source(), &prefix, &self.going)? {
            lookup::ById::Entries(entries) if entries.is_empty() => Err(self.unknown(&prefix)),
            lookup::ById::Entries(entries) => Ok(entries),
            lookup::ById::Ambiguous(ids) => Err(ambiguous(&prefix, &ids)),
        }
    }

    /// The item behind an id: the decision joined with its outcome, if it is the
    /// id of a decision.
    ///
    /// # Errors
    /// As [`Store::by_id`].
    pub fn row_by_id(&self, id: &str) -> Result<Row, StoreError> {
        let items: Vec<Item> = self.by_id(id)?.into_iter().map(Item::new).collect();
        let outcome = items
            .iter()
            .find_map(|item| item.joins().map(|(key, o)| (item.at, key, o.clone())));
        let at = items.iter().position(|item| item.decision().is_some());
        let mut item = items
            .into_iter()
            .nth(at.unwrap_or(0))
            .ok_or(StoreError::Bug("an id was found and has no record"))?;
        if let (Some(key), Some((at, theirs, outcome))) = (item.joinable(), outcome)
            && key == theirs
            && item.at < at
        {
            item.outcome = Some((at, outcome));
        }
        Ok(Row::new(&item))
    }

    /// Matching records as they become durable, from now on. The time bounds of
    /// the query do not apply. Needs a tokio runtime.
    pub fn tail(&self, query: &Query) -> impl Stream<Item = TailEvent> + use<> {
        follow::follow(Arc::clone(&self.shared.source), query)
    }

    /// Commits everything the log has now; for tests and orderly ends.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.order(Command::Flush).await
    }

    /// Resolves when each bucket that is over is in few segments; for tests and measurements.
    /// It happens by itself when nothing waits to be read.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn tidied_up(&self) -> Result<(), StoreError> {
        self.order(Command::Tidy).await
    }

    async fn order(
        &self,
        command: fn(oneshot::Sender<Result<(), StoreError>>) -> Command,
    ) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        let sent = self.threads.commands.send(command(done));
        sent.map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    /// Resolves when what is committed now is rolled up, as far as its hours are over; for
    /// tests and measurements. It happens by itself once a minute.
    pub async fn rolled_up(&self) {
        // Without an answer nothing is rolled up, and everything is scanned.
        let _ = self.threads.keeper.caught_up().await;
    }

    /// Resolves when everything that the log has now can be searched; after `limit` where
    /// that takes longer, and at once where it would. Answers say how it is.
    pub async fn caught_up(&self, limit: Duration) {
        let wanted = self.source().len();
        let mut moved = self.shared.moved.subscribe();
        let caught_up = async {
            loop {
                moved.borrow_and_update();
                if self.is_settled(wanted) || moved.changed().await.is_err() {
                    return;
                }
            }
        };
        // Who asks does not wait for ever.
        let _ = tokio::time::timeout(limit, caught_up).await;
    }

    /// Whether there is nothing to wait for before entry `wanted` is searched for.
    fn is_settled(&self, wanted: u64) -> bool {
        let inner = self.shared.read();
        let behind = wanted.saturating_sub(inner.head);
        behind == 0 || behind > FAR || inner.stalled.is_some()
    }

    /// How the index stands.
    pub fn status(&self) -> Status {
        let log_len = self.source().len();
        let inner = self.shared.read();
        Status {
            log_len,
            searchable: inner.head,
            committed: inner.committed,
            buckets: inner.views.len(),
            remaking: inner.remaking.len(),
            unreadable: inner.unreadable,
            stalled: inner.stalled.clone(),
        }
    }

    fn source(&self) -> &dyn Source {
        self.shared.source.as_ref()
    }

    fn window(&self, query: &Query) -> Result<Window, StoreError> {
        Ok(query.window(self.clock.now_us(), &self.shared.options.limits)?)
    }

    /// The query without a page.
    fn everything(&self, query: &Query, keep: usize) -> Result<Snapshot, StoreError> {
        let window = self.window(query)?;
        Ok(self.snapshot(query, window, None, keep))
    }

    fn snapshot(
        &self,
        query: &Query,
        window: Window,
        before: Option<Key>,
        keep: usize,
    ) -> Snapshot {
        let of = (query, window, before);
        Snapshot::take(&self.shared, &self.going, of, keep)
    }

    fn coverage(&self, snapshot: &Snapshot, query: &Query) -> Coverage {
        let found = self.gaps.as_ref().map(|gaps| gaps(snapshot.window));
        let mut missing = found.unwrap_or_default();
        let mut dropped = self.dropped(snapshot.window, query);
        let losses = Arc::clone(&self.shared.read().losses);
        let (mut lost, mut lost_more) = losses.of(snapshot.window);
        let restricted_to = query.kept_to().cloned();
        let complete = snapshot.is_whole()
            && restricted_to.is_none()
            && missing.is_none()
            && (lost.is_empty() && lost_more == 0)
            && dropped.is_empty();
        let mut gaps_withheld = 0;
        if restricted_to.is_some() {
            // They name reporters whose records the reader may not see.
            gaps_withheld = missing.told.len() + missing.more;
            missing = GapsFound::default();
            dropped.clear();
            (lost, lost_more) = (Vec::new(), 0);
        }
        Coverage {
            gaps: missing.told,
            gaps_more: missing.more,
            silent: missing.silent,
            silent_more: missing.silent_more,
            lost,
            lost_more,
            dropped,
            gaps_withheld,
            restricted_to,
            from: rfc3339(snapshot.window.from_us),
            to: rfc3339(snapshot.window.to_us),
            default_time: !query.names_its_beginning(),
            complete,
            behind: snapshot.behind,
            unreadable: snapshot.unreadable(),
            skipped_buckets: snapshot.remaking.iter().map(|s| rfc3339(*s)).collect(),
            stalled: snapshot.stalled.clone(),
        }
    }

    /// What was dropped that may have been asked for.
    fn dropped(&self, window: Window, query: &Query) -> Vec<DroppedRecords> {
        let mut found: BTreeMap<&'static str, (u64, i64)> = BTreeMap::new();
        let lacking = self.source().lacking();
        let of_window = lacking.iter().flat_map(|lacking| &lacking.dropped);
        let of_window =
            of_window.filter(|d| d.first_us < window.to_us && window.from_us <= d.last_us);
        for dropped in of_window {
            let (records, last_us) = found.entry(dropped.class).or_insert((0, i64::MIN));
            *records += dropped.records;
            *last_us = dropped.last_us.max(*last_us);
        }
        found.retain(|class, _| query.may_match_class(class));
        let told = found.into_iter();
        told.map(|(class, (records, last_us))| DroppedRecords {
            class,
            records,
            until: rfc3339(last_us),
        })
        .collect()
    }

    /// Merges recent and indexed matches, and reads the latter from the log.
    fn rows(
        &self,
        snapshot: Snapshot,
        newest: Newest,
        limit: usize,
        coverage: &mut Coverage,
    ) -> Result<(Vec<Row>, Option<Cursor>), StoreError> {
        let mut recent = snapshot.recent.into_iter().peekable();
        let mut indexed = newest.into_sorted().into_iter().peekable();
        let mut rows = Vec::with_capacity(limit.min(256));
        let mut last = None;
        let mut lost = Lost::default();
        for _ in 0..limit {
            self.going.ask()?;
            let from_recent = match (recent.peek(), indexed.peek()) {
                (Some(item), Some((key, _))) => key_of(item) > *key,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            let item = if from_recent {
                recent.next()
            } else {
                match indexed
                    .next()
                    .map(|(key, place)| (key, place, place.read(self.source())))
                {
                    None => None,
                    Some((key, _, Ok(item))) => {
                        last = Some(key);
                        Some(item)
                    }
                    // Asked again later, the page has it.
                    Some((_, _, Err(StoreError::Source(error)))) if error.waits() => {
                        return Err(error.into());
                    }
                    Some((key, place, Err(error))) => {
                        last = Some(key);
                        // The log names it when it is verified.
                        coverage.complete = false;
                        // One that goes at this moment is told with what was dropped.
                        if !error.is_dropped() {
                            let known =
                                matches!(&error, StoreError::Source(e) if lost.has(e.index));
                            if !known {
                                tracing::error!(index = place.at, %error, "audit record cannot be read");
                            }
                            if let StoreError::Source(error) = &error {
                                lost.take(error);
                            }
                            coverage.unreadable += 1;
                        }
                        None
                    }
                }
            };
            if let Some(item) = item {
                last = Some(key_of(&item));
                rows.push(Row::new(&item));
            }
        }
        let more = recent.peek().is_some() || indexed.peek().is_some() || rows.len() >= limit;
        let window = snapshot.window;
        let cursor = last.filter(|_| more).map(|key| Cursor { window, key });
        Ok((rows, cursor))
    }

    fn unknown(&self, prefix: &IdPrefix) -> StoreError {
        let told = Diagnostic::error(7111, format!("no record has the id `{}`", prefix.text()));
        let status = self.status();
        let behind = status.log_len.saturating_sub(status.searchable);
        if behind > 0 {
            told.cause(format!("{behind} records are not indexed yet"))
        } else if !self.source().lacking().is_empty() {
            told.cause("it may be one that was dropped because its time was over")
                .help("what was dropped: palisade audit retention status")
        } else {
            told.help("`palisade audit search last:1h` lists recent ids")
        }
        .into()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Closing the channel ends the thread; the next index in this folder
        // must not find its locks.
        let (closed, _) = mpsc::unbounded_channel();
        self.commands = closed;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("audit index thread panicked");
        }
    }
}

/// Ids that are named where the beginning of one is the beginning of several.
const AMBIGUOUS_SHOWN: usize = 3;

fn ambiguous(prefix: &IdPrefix, ids: &[u128]) -> StoreError {
    let mut some: Vec<String> = ids
        .iter()
        .take(AMBIGUOUS_SHOWN)
        .map(|id| ulid::Ulid::from(*id).to_string())
        .collect();
    if ids.len() > AMBIGUOUS_SHOWN {
        some.push("…".into());
    }
    Diagnostic::error(
        7110,
        format!("`{}` is the beginning of several ids", prefix.text()),
    )
    .cause(some.join(", "))
    .help("write more of it: the first ten characters are only the millisecond")
    .into()
}

fn micros(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
