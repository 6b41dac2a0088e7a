//! Turns the log into the index: one thread, which alone writes.
//!
//! Records go log → [`Recent`] → writers → commit. A commit makes them visible
//! in the index and lets them go from the recent ones in one step, so no search
//! sees a record twice or not at all. What survives a crash:
//!
//! 1. Each bucket's commit carries the position up to which it is complete.
//! 2. `state.json` follows when all buckets are committed. Reading the log again
//!    from there skips, bucket by bucket, what a bucket's own commit covers.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    StoreError,
    bucket::Bucket,
    losses,
    lost::Looks,
    recent::Recent,
    shared::{Inner, Shared},
    state::{self, State, UNREADABLE_MAX},
    tidy::Tidying,
    writer::Open,
};
use crate::{item::Item, log::Lacking};

/// Entries read before others get their turn.
const PULL_MAX: usize = 1024;

/// Part of the recent records that stays behind when they are full, so that
/// outcomes still find their decisions among them.
const LOOKAHEAD_PART: usize = 4;

/// What is left to do after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// More of the log can be had at once.
    Again,
    /// Nothing before new records come or this time has passed.
    Wait(Duration),
}

/// The one writer of the index.
pub(super) struct Indexer {
    pub(super) shared: Arc<Shared>,
    pub(super) dir: PathBuf,
    pub(super) state: State,
    /// What reporters declared as lost.
    pub(super) losses: losses::Kept,
    pub(super) buckets: BTreeMap<i64, Open>,
    /// What the log had dropped when it was looked at last.
    pub(super) lacking: Option<Arc<[Lacking]>>,
    /// When segments that an archive has lost are looked at again.
    pub(super) looks: Looks,
    /// Until when it is not tried again to let go of the rest, and why.
    pub(super) put_off: Option<(Instant, String)>,
    /// How long the next wait is.
    away_for: Duration,
    pub(super) tidying: Tidying,
}

impl Indexer {
    /// Opens what is there. What is damaged, from another log or another layout
    /// is thrown away and made again from the log.
    pub(super) fn open(shared: Arc<Shared>, dir: PathBuf) -> Result<Self, StoreError> {
        fs::create_dir_all(&dir)?;
        let bucket_us = shared.options.bucket.length_us();
        let state = State::load(&dir, bucket_us, shared.source.as_ref())?;
        let losses = losses::Kept::load(&dir, shared.source.len())?;
        let (state, losses) = match state.zip(losses) {
            Some(known) => known,
            None => {
                tracing::info!(dir = %dir.display(), "audit index begins anew");
                let (state, losses) = (State::new(bucket_us), losses::Kept::default());
                // Until the new state is there, everything begins anew once more.
                State::remove(&dir)?;
                losses.save(&dir)?;
                state.save(&dir)?;
                (state, losses)
            }
        };
        let mut indexer = Self {
            shared,
            dir,
            state,
            losses,
            buckets: BTreeMap::new(),
            lacking: None,
            looks: Looks::new(),
            put_off: None,
            away_for: AWAY_FOR,
            tidying: Tidying::default(),
        };
        indexer.remove_strangers()?;
        indexer.open_buckets()?;
        let start = indexer.start();
        let mut inner = indexer.shared.write();
        *inner = Inner {
            views: indexer
                .buckets
                .iter()
                .map(|(start, open)| (*start, Arc::clone(&open.bucket.view)))
                .collect(),
            recent: Recent::default(),
            head: start,
            committed: start,
            remaking: indexer.state.remaking.iter().copied().collect(),
            losses: Arc::clone(indexer.losses.losses()),
            unreadable: indexer.unreadable(),
            stalled: None,
        };
        drop(inner);
        Ok(indexer)
    }

    pub(super) fn unreadable(&self) -> u64 {
        let single = u64::try_from(self.state.unreadable.len()).unwrap_or(u64::MAX);
        let lost = self.state.lost.iter();
        lost.map(|(first, next)| next - first)
            .fold(single, u64::saturating_add)
    }

    /// Removes every bucket that the state does not know.
    fn remove_strangers(&self) -> Result<(), StoreError> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let known = bucket_of(&entry.file_name().to_string_lossy())
                .is_none_or(|start| self.state.buckets.contains_key(&start));
            if !known {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn open_buckets(&mut self) -> Result<(), StoreError> {
        remove(&self.dir.join(GONE))?;
        let starts: Vec<(i64, u64)> = self.state.buckets.iter().map(|(k, v)| (*k, *v)).collect();
        for (start, first) in starts {
            let open = match self.open_sound(start) {
                // One that was never committed is what a crash has left.
                Some(bucket)
                    if bucket.applied().is_some() || self.state.remaking.contains(&start) =>
                {
                    let own = bucket.applied();
                    let applied = if self.state.remaking.contains(&start) {
                        own.unwrap_or(first)
                    } else {
                        own.unwrap_or(0).max(self.state.position)
                    };
                    Open::new(bucket, applied)
                }
                _ => self.begin_again(start, first)?,
            };
            self.buckets.insert(start, open);
        }
        Ok(())
    }

    fn open_sound(&self, start: i64) -> Option<Bucket> {
        let path = self.path_of(start);
        if !path.is_dir() {
            return None;
        }
        let span = self.shared.options.bucket;
        match Bucket::open(path, start, span, &self.shared.layout) {
            Ok(bucket) if bucket.is_sound() => Some(bucket),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "audit index bucket does not open");
                None
            }
        }
    }

    /// Throws a bucket away and notes that it must be made again from `first`.
    fn begin_again(&mut self, start: i64, first: u64) -> Result<Open, StoreError> {
        let path = self.path_of(start);
        tracing::warn!(bucket = %path.display(), from = first, "audit index bucket is made again");
        // Noted before anything goes, and out of the way before it is taken apart: what is
        // left of a bucket after a crash must not pass for a whole one.
        self.state.remaking.insert(start);
        self.state.save(&self.dir)?;
        if path.exists() {
            let gone = self.dir.join(GONE);
            remove(&gone)?;
            fs::rename(&path, &gone)?;
            remove(&gone)?;
        }
        let span = self.shared.options.bucket;
        let bucket = Bucket::open(path, start, span, &self.shared.layout)?;
        Ok(Open::new(bucket, first))
    }

    pub(super) fn path_of(&self, start: i64) -> PathBuf {
        self.dir.join(name_of(start))
    }

    /// Where the log must be read from.
    fn start(&self) -> u64 {
        let remade = self
            .state
            .remaking
            .iter()
            .filter_map(|start| self.buckets.get(start))
            .map(|open| open.applied);
        remade.fold(self.state.position, u64::min)
    }

    /// Reads some of the log, and commits when it is time. After an error the
    /// index must be opened again: writers may hold half of a commit.
    pub(super) fn step(&mut self) -> Result<Step, StoreError> {
        let (pulled, pull_away) = put_apart(self.pull())?;
        let looks = self.look_again()?;
        self.let_go_when_it_can(pull_away.as_ref())?;
        let pulled = pulled.unwrap_or(false);
        let options = &self.shared.options;
        let (every, full) = (options.commit_every, options.recent_max);
        let (waiting, age, calm) = {
            let inner = self.shared.read();
            let calm = Instant::now()
                .checked_sub(options.hold)
                .map_or(0, |moment| inner.recent.pulled_before(moment));
            let age = inner.recent.oldest().map(|moment| moment.elapsed());
            (inner.recent.len(), age, calm)
        };
        if waiting >= full {
            self.commit(waiting - full / LOOKAHEAD_PART)?;
        } else if age.is_some_and(|age| age >= every) {
            self.commit(calm.max(1))?;
        }
        self.close_idle_writers()?;
        let head = self.shared.read().head;
        let behind = self.shared.source.len().saturating_sub(head);
        if behind <= PULL_MAX as u64 {
            self.tidy()?;
        }
        if looks || (pulled && behind > 0) {
            return Ok(Step::Again);
        }
        let left = age.map_or(every, |age| every.saturating_sub(age));
        Ok(Step::Wait(left.max(MIN_WAIT)))
    }

    /// Commits everything that has been read, after reading all there is, and looks at once
    /// whether what was lost is there. That something which was dropped is not let go of yet,
    /// because it is in an archive that cannot be asked, is said by the answers.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        let away = loop {
            let (pulled, away) = put_apart(self.pull())?;
            if !pulled.unwrap_or(false) {
                break away;
            }
            let waiting = self.shared.read().recent.len();
            if waiting >= self.shared.options.recent_max {
                self.commit(waiting)?;
            }
        };
        let waiting = self.shared.read().recent.len();
        self.commit(waiting)?;
        if away.is_none() {
            self.look_now()?;
        }
        self.let_go_when_it_can(away.as_ref())?;
        away.map_or(Ok(()), Err)
    }

    /// Lets go of what the log has dropped. What cannot be had from an archive is put off; all
    /// else goes on. Says what the index waits for: that, what could not be read of the log
    /// (`pull_away`), or a segment that is looked at again.
    fn let_go_when_it_can(&mut self, pull_away: Option<&StoreError>) -> Result<(), StoreError> {
        // What waits does so until its time.
        let waits = self.put_off.take();
        self.put_off = match waits.filter(|(until, _)| *until > Instant::now()) {
            Some(waits) => Some(waits),
            None => {
                let away = self.let_go()?;
                self.away_for = match away {
                    // The thread itself waits for a store that hangs.
                    Some(_) => (self.away_for * 2).min(AWAY_FOR_MAX),
                    None => AWAY_FOR,
                };
                away.map(|error| (Instant::now() + self.away_for, error.to_string()))
            }
        };
        let put_off = self.put_off.as_ref().map(|(_, why)| why.clone());
        let why = pull_away.map(StoreError::to_string).or(put_off);
        let why = why.or_else(|| self.looks.why());
        if self.shared.read().stalled != why {
            self.shared.write().stalled = why;
        }
        Ok(())
    }

    /// Takes entries of the log among the recent ones; says whether there were
    /// any, and room for them.
    fn pull(&mut self) -> Result<bool, StoreError> {
        let (head, waiting) = {
            let inner = self.shared.read();
            (inner.head, inner.recent.len())
        };
        let room = self.shared.options.recent_max.saturating_sub(waiting);
        let source = Arc::clone(&self.shared.source);
        let end = source.len();
        if head >= end || room == 0 {
            return Ok(false);
        }
        let mut next = head;
        let most = PULL_MAX.min(room);
        let mut items = Vec::with_capacity(most);
        let mut failed = false;
        for entry in source.scan(head).take(most) {
            match entry {
                Ok(entry) => {
                    next = entry.index + 1;
                    let item = Item::new(entry);
                    items.push((self.is_applied(item.time_us, item.at), item));
                }
                // It is read when the archive can be asked again; what came before it is taken in.
                Err(error) if error.waits() => {
                    if items.is_empty() {
                        return Err(error.into());
                    }
                    failed = true;
                    break;
                }
                Err(error) => {
                    self.note_unreadable(error.index, &error)?;
                    // Of a segment that is lost, no record can be read.
                    let lost = error.lost().map(|lost| lost.end);
                    next = lost.unwrap_or(error.index + 1).max(next);
                    failed = true;
                    break;
                }
            }
        }
        if !failed && items.len() < most {
            // What follows the last one to the end as it was has been dropped.
            next = next.max(end);
        }
        if next == head {
            return Ok(false);
        }
        self.take_in(items, next)?;
        Ok(true)
    }

    /// A record that cannot be read is not searchable; the others are. A segment that is away,
    /// damaged or gone is looked at again.
    pub(super) fn note_unreadable(
        &mut self,
        index: u64,
        error: &crate::source::SourceError,
    ) -> Result<(), StoreError> {
        if let Some(lost) = error.lost() {
            if self.state.lost.insert(lost.start, lost.end).is_none() {
                tracing::error!(%error, "the index lacks what is in this segment");
            }
            self.looks.is_lost(lost.start, error);
            return Ok(());
        }
        match state::has(&self.state.lost, index) {
            true => Ok(()),
            false => self.note_single(index, error),
        }
    }

    /// A record that cannot be read, in a segment that is here.
    pub(super) fn note_single(
        &mut self,
        index: u64,
        error: &crate::source::SourceError,
    ) -> Result<(), StoreError> {
        tracing::error!(index, %error, "audit record cannot be read and is not indexed");
        self.state.note_single(index);
        if self.state.unreadable.len() > UNREADABLE_MAX {
            self.state.unreadable.remove(&index);
            return Err(StoreError::Unreadable {
                count: UNREADABLE_MAX,
            });
        }
        Ok(())
    }

    /// Takes records among the recent ones, each with whether it is indexed already; what comes
    /// next is at `next`.
    pub(super) fn take_in(
        &mut self,
        items: Vec<(bool, Item)>,
        next: u64,
    ) -> Result<(), StoreError> {
        self.note_losses(&items, next);
        let shared = Arc::clone(&self.shared);
        let mut elsewhere = Vec::new();
        let mut inner = shared.write();
        for (indexed, item) in items {
            let joins = item.joins();
            let outcome = joins.map(|(_, outcome)| (item.at, outcome.clone()));
            let key = inner.recent.push(item, indexed);
            elsewhere.extend(key.zip(outcome));
        }
        drop(inner);
        // Until the head moves, answers say that they are behind.
        self.join(elsewhere)?;
        let mut inner = shared.write();
        inner.head = next;
        inner.losses = Arc::clone(self.losses.losses());
        inner.unreadable = self.unreadable();
        self.shared.moved.send_replace(());
        Ok(())
    }

    /// Takes in what records declare as lost, what comes next being at `next`.
    fn note_losses(&mut self, items: &[(bool, Item)], next: u64) {
        let items = items.iter().map(|(_, item)| item);
        self.losses.take(items, next, &self.state);
    }

    /// Whether the bucket of `time_us` holds everything up to and with `at`.
    fn is_applied(&self, time_us: i64, at: u64) -> bool {
        let start = self.shared.options.bucket.start_us(time_us);
        match self.buckets.get(&start) {
            Some(open) => at < open.applied,
            // A bucket that is not there lacks nothing before the position
            // that all buckets have reached.
            None => at < self.state.position,
        }
    }

    /// Puts the `count` oldest of the recent records into the index.
    pub(super) fn commit(&mut self, count: usize) -> Result<(), StoreError> {
        if count == 0 {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        // First: what a bucket has is not always looked at again. They say themselves what was
        // passed over unread, so they need no state of the same moment.
        self.losses.save_new(&self.dir)?;
        let position = {
            let inner = shared.read();
            self.make_room_for(&inner, count)?;
            self.write_oldest(&inner, count)?
        };
        let mut views = Vec::new();
        for (start, open) in &mut self.buckets {
            open.commit(position)?;
            open.applied = open.applied.max(position);
            if std::mem::take(&mut open.unseen) {
                let replaced = std::mem::take(&mut open.replaced);
                views.push((*start, Arc::new(open.bucket.reopened(&replaced)?)));
            }
        }
        let mut inner = shared.write();
        for (start, view) in views {
            inner.views.insert(start, Arc::clone(&view));
            if let Some(open) = self.buckets.get_mut(&start) {
                open.bucket.view = view;
            }
        }
        inner.recent.release(count);
        inner.committed = position;
        if position >= self.state.position {
            self.state.remaking.clear();
            inner.remaking.clear();
        }
        drop(inner);
        self.state.advance(position, shared.source.as_ref());
        self.state.save(&self.dir)?;
        Ok(())
    }

    /// Creates the buckets that the `count` oldest need. The state knows of them
    /// before their first commit, or they would be strangers after a crash.
    fn make_room_for(&mut self, inner: &Inner, count: usize) -> Result<(), StoreError> {
        let span = self.shared.options.bucket;
        let mut fresh = BTreeMap::new();
        for waiting in inner.recent.oldest_items(count).filter(|w| !w.indexed) {
            let start = span.start_us(waiting.item.time_us);
            if !self.buckets.contains_key(&start) {
                fresh.entry(start).or_insert(waiting.item.at);
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        self.state.buckets.extend(&fresh);
        self.state.save(&self.dir)?;
        for (start, first) in fresh {
            let path = self.path_of(start);
            if path.exists() {
                fs::remove_dir_all(&path)?;
            }
            let bucket = Bucket::open(path, start, span, &self.shared.layout)?;
            self.buckets.insert(start, Open::new(bucket, first));
        }
        Ok(())
    }

    /// Hands the `count` oldest to the writers of their buckets, and what
    /// replaces documents. Answers the position after them.
    ///
    /// One bucket after the other: when there are more than may have a writer, one that
    /// loses its writer has all it gets, and each is committed once, however its records
    /// stand in the log.
    fn write_oldest(&mut self, inner: &Inner, count: usize) -> Result<u64, StoreError> {
        let span = self.shared.options.bucket;
        let mut position = inner.head;
        if count < inner.recent.len() {
            let last = inner.recent.oldest_items(count).last();
            position = last.map_or(inner.committed, |waiting| waiting.item.at + 1);
        }
        let mut buckets: BTreeMap<i64, Vec<(&Item, bool)>> = BTreeMap::new();
        for waiting in inner.recent.oldest_items(count).filter(|w| !w.indexed) {
            let start = span.start_us(waiting.item.time_us);
            buckets
                .entry(start)
                .or_default()
                .push((&waiting.item, false));
        }
        for replacement in inner.recent.replacing.values() {
            if replacement.cause < position {
                let start = span.start_us(replacement.item.time_us);
                buckets
                    .entry(start)
                    .or_default()
                    .push((&replacement.item, true));
            }
        }
        for (start, items) in buckets {
            self.spare_writers(start, position)?;
            for (item, is_late) in items {
                self.add(start, item, is_late)?;
            }
        }
        Ok(position)
    }

    /// Adds the document of `item`, `is_late` when it replaces another.
    fn add(&mut self, start: i64, item: &Item, is_late: bool) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let Some(open) = self.buckets.get_mut(&start) else {
            return Err(StoreError::Bug("a record has no bucket"));
        };
        open.unseen = true;
        if is_late {
            open.replaced.push(item.at);
        }
        let document = shared.layout.document(item, is_late);
        let writer = open.writer(shared.options.writer_heap_bytes)?;
        writer.used = Instant::now();
        writer.dirty = true;
        writer.writer.add_document(document)?;
        Ok(())
    }

    /// Closes the writer unused for longest when there are too many. What it
    /// holds is complete up to `covered`.
    fn spare_writers(&mut self, wanted: i64, covered: u64) -> Result<(), StoreError> {
        let max = self.shared.options.writers_max;
        let merging = self.tidying.bucket();
        let others = |start: &i64, open: &Open| open.writer.is_some() && Some(*start) != merging;
        let opened = self.buckets.iter().filter(|(s, o)| others(s, o)).count();
        let has = self
            .buckets
            .get(&wanted)
            .is_some_and(|open| open.writer.is_some());
        if has || opened < max {
            return Ok(());
        }
        let longest = self
            .buckets
            .iter_mut()
            .filter(|(start, open)| others(start, open))
            .min_by_key(|(_, open)| open.writer.as_ref().map(|w| w.used));
        match longest {
            Some((_, open)) => {
                open.commit(covered)?;
                open.close()
            }
            None => Ok(()),
        }
    }

    fn close_idle_writers(&mut self) -> Result<(), StoreError> {
        let idle = self.shared.options.writer_idle;
        let merging = self.tidying.bucket();
        self.close_writers(|start, writer| {
            !writer.dirty && writer.used.elapsed() >= idle && Some(start) != merging
        })
    }
}

/// Keeps apart that something is in an archive which cannot be asked: nothing is wrong with the
/// index then.
fn put_apart<T>(
    done: Result<T, StoreError>,
) -> Result<(Option<T>, Option<StoreError>), StoreError> {
    match done {
        Ok(done) => Ok((Some(done), None)),
        Err(error) if error.is_away() => Ok((None, Some(error))),
        Err(error) => Err(error),
    }
}

/// Wait before an archive is asked again that could not be asked.
const AWAY_FOR: Duration = Duration::from_secs(5);

/// Longest wait, when it could not be asked again and again.
const AWAY_FOR_MAX: Duration = Duration::from_secs(600);

/// Shortest wait between steps, so that a slow disk does not make a busy loop.
const MIN_WAIT: Duration = Duration::from_millis(20);

/// Where a bucket is taken apart.
pub(super) const GONE: &str = "gone";

pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Directory of a bucket: its first hour, as `bucket-2026-11-20T00`.
fn name_of(start_us: i64) -> String {
    let time = crate::query::time::rfc3339(start_us);
    let text: String = time.chars().take(13).collect();
    format!("bucket-{text}")
}

/// Start of the bucket in a directory called `name`; none for other files.
fn bucket_of(name: &str) -> Option<i64> {
    let hour = name.strip_prefix("bucket-")?;
    let time: jiff::Timestamp = format!("{hour}:00:00Z").parse().ok()?;
    Some(time.as_microsecond())
}
