//! Segments that an archive had lost when it was their turn. They are looked at again: what was
//! missing once may have been a store that had not caught up, or is put back by a person.
//!
//! When one is there its records are far behind where the index is. They go into the buckets
//! that they belong in, and are joined with what came since. A crash meanwhile leaves the segment
//! among the lost, and what a bucket has of it by then is not added again.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use rustc_hash::FxHashSet;

use super::{StoreError, indexer::Indexer, lookup};
use crate::item::{Item, JoinKey};

/// Wait before lost segments are looked at again.
const LOST_FOR: Duration = Duration::from_secs(60);

/// Longest wait, when they were lost again and again: one that is altered is read whole to see
/// that.
const LOST_FOR_MAX: Duration = Duration::from_secs(3600);

/// When lost segments are looked at again.
pub(super) struct Looks {
    due: Instant,
    wait: Duration,
}

/// What became of a lost segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Its records are in the index.
    Here,
    /// It is as it was.
    Lost,
    /// The archive cannot be asked, or the index is not so far.
    Unknown,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self {
            due: Instant::now() + LOST_FOR,
            wait: LOST_FOR,
        }
    }

    fn put_off(&mut self) {
        self.wait = (self.wait * 2).min(LOST_FOR_MAX);
        self.due = Instant::now() + self.wait;
    }
}

impl Indexer {
    /// Looks at lost segments again, if it is time or `at_once`, and takes in what is there.
    pub(super) fn look_again(&mut self, at_once: bool) -> Result<(), StoreError> {
        let is_due = self.looks.due <= Instant::now();
        if self.state.lost.is_empty() || !(at_once || is_due) {
            return Ok(());
        }
        // Buckets that are made again read the segment as any other.
        if !self.state.remaking.is_empty() {
            return Ok(());
        }
        let lost = self.state.lost.iter().map(|(first, next)| *first..*next);
        for segment in lost.collect::<Vec<_>>() {
            match self.take_back(&segment)? {
                Found::Here => {
                    tracing::info!(
                        segment = segment.start,
                        "a lost segment is there again, and is indexed"
                    );
                    self.looks = Looks::new();
                }
                Found::Lost => {}
                // Nor can it be asked for the others.
                Found::Unknown => break,
            }
        }
        if is_due && self.looks.due <= Instant::now() {
            self.looks.put_off();
        }
        Ok(())
    }

    /// Takes in what a lost segment has, if it is there.
    fn take_back(&mut self, segment: &Range<u64>) -> Result<Found, StoreError> {
        let waiting = self.shared.read().recent.len();
        self.commit(waiting)?;
        let head = self.shared.read().head;
        if segment.end > head {
            return Ok(Found::Unknown);
        }
        let mut indexed = None;
        let mut next = segment.start;
        while next < segment.end {
            let (items, after) = match self.read_lost(next..segment.end)? {
                Ok(read) => read,
                Err(found) => return Ok(found),
            };
            let indexed = indexed.get_or_insert_with(|| self.indexed_of(segment));
            let items = items.into_iter();
            let items = items.map(|item| (indexed.contains(&item.at), item));
            self.add_behind(items.collect(), head)?;
            next = after;
        }
        self.state.lost.remove(&segment.start);
        self.state.save(&self.dir)?;
        self.shared.write().unreadable = self.unreadable();
        self.shared.moved.send_replace(());
        Ok(Found::Here)
    }

    /// Reads some of a lost segment, and how far that is; or what became of it.
    fn read_lost(
        &mut self,
        part: Range<u64>,
    ) -> Result<Result<(Vec<Item>, u64), Found>, StoreError> {
        let source = std::sync::Arc::clone(&self.shared.source);
        let most = self.shared.options.recent_max.max(1);
        let mut items = Vec::new();
        for entry in source.scan(part.start).take(most) {
            match entry {
                Ok(entry) if entry.index >= part.end => return Ok(Ok((items, part.end))),
                Ok(entry) => items.push(Item::new(entry)),
                Err(error) => match error.away() {
                    // What is left of this one was dropped.
                    Some(away) if away.segment >= part.end => return Ok(Ok((items, part.end))),
                    Some(_) if error.waits() => return Ok(Err(Found::Unknown)),
                    Some(_) => return Ok(Err(Found::Lost)),
                    None => {
                        self.note_unreadable(error.index, &error)?;
                        return Ok(Ok((items, (error.index + 1).max(part.start + 1))));
                    }
                },
            }
        }
        let after = match items.last() {
            Some(last) if items.len() == most => last.at + 1,
            _ => part.end,
        };
        Ok(Ok((items, after)))
    }

    /// The records of a segment that buckets have: some were indexed before it was lost.
    fn indexed_of(&self, segment: &Range<u64>) -> FxHashSet<u64> {
        let views: Vec<_> = self.shared.read().views.values().cloned().collect();
        let mut known = FxHashSet::default();
        for view in &views {
            for (reader, columns) in view.segments() {
                let all = (0..reader.max_doc()).map(|doc| columns.entry(doc));
                known.extend(all.filter(|at| segment.contains(at)));
            }
        }
        known
    }

    /// Adds records that lie before `head`, each with whether it is indexed; they are committed
    /// when it returns.
    fn add_behind(&mut self, mut items: Vec<(bool, Item)>, head: u64) -> Result<(), StoreError> {
        self.join_later(&mut items);
        let span = self.shared.options.bucket;
        let mut is_lower = false;
        for (_, item) in items.iter().filter(|(indexed, _)| !indexed) {
            let first = self.state.buckets.get_mut(&span.start_us(item.time_us));
            if let Some(first) = first.filter(|first| item.at < **first) {
                (*first, is_lower) = (item.at, true);
            }
        }
        if is_lower {
            // A bucket that is made again begins there.
            self.state.save(&self.dir)?;
        }
        self.take_in(items, head)?;
        let waiting = self.shared.read().recent.len();
        self.commit(waiting)
    }

    /// Gives decisions their outcomes that came later and are indexed by now.
    fn join_later(&self, items: &mut [(bool, Item)]) {
        let views = self.shared.read().views.clone();
        let here: FxHashSet<JoinKey> = items
            .iter()
            .filter_map(|(_, item)| item.joins().map(|(key, _)| key))
            .collect();
        for (_, item) in items.iter_mut().filter(|(indexed, _)| !indexed) {
            if let Some(key) = item.joinable().filter(|key| !here.contains(key)) {
                let source = self.shared.source.as_ref();
                item.outcome = lookup::outcome(&views, source, &key, item.at);
            }
        }
    }
}
