//! Segments that an archive had lost when it was their turn, or that were damaged or gone here.
//! They are looked at again: what was missing once may have been a store that had not caught up, or
//! is put back by a person.
//!
//! When one is there its records are far behind where the index is. They go into the buckets
//! that they belong in, and are joined with what came since. A crash meanwhile leaves the segment
//! among the lost, and what a bucket has of it by then is not added again.

use std::{
    mem,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use super::{StoreError, indexer::Indexer};
use crate::{item::Item, source::SourceError};

/// Wait before lost segments are looked at again.
const LOST_FOR: Duration = Duration::from_secs(60);

/// Longest wait, when they were lost again and again: one that is altered is read whole to see
/// that.
const LOST_FOR_MAX: Duration = Duration::from_secs(3600);

/// Longest wait for a store that could not be asked.
const AWAY_FOR_MAX: Duration = Duration::from_secs(600);

/// How long who waits for the index waits for what was lost; the rest is looked at afterwards.
const NOW_MAX: Duration = Duration::from_secs(30);

/// When lost segments are looked at again.
pub(super) struct Looks {
    due: Instant,
    wait: Duration,
    /// Those that are still to be looked at in this round, the last first.
    round: Vec<Range<u64>>,
    taking: Option<Taking>,
    /// The last that could not be asked for, and why; none once it was.
    waits: Option<(u64, String)>,
}

/// A segment that is being taken in, and how far it is.
struct Taking {
    segment: Range<u64>,
    next: u64,
    /// Those of its records that buckets have, each with whether it is joined with its outcome;
    /// none before the segment is there.
    known: Option<FxHashMap<u64, bool>>,
}

/// What became of a lost segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Its records are in the index.
    Here,
    /// It is as it was, or the index is not so far.
    Lost,
    /// Some of its records are in the index, and the others can be taken in.
    Part,
    /// The archive cannot be asked.
    Unknown,
}

/// What was read of a lost segment: its records, each with whether it is indexed, and how far
/// that is.
type Read = (Vec<(bool, Item)>, u64);

impl Looks {
    pub(super) fn new() -> Self {
        Self {
            due: Instant::now() + LOST_FOR,
            wait: LOST_FOR,
            round: Vec::new(),
            taking: None,
            waits: None,
        }
    }

    /// A segment cannot be had; if it is being taken in, that begins anew another time.
    pub(super) fn is_lost(&mut self, segment: u64, error: &SourceError) {
        self.taking
            .take_if(|taking| taking.segment.start == segment);
        if error.waits() {
            self.waits = Some((segment, error.to_string()));
        }
    }

    /// Why one could not be asked for.
    pub(super) fn why(&self) -> Option<String> {
        self.waits.as_ref().map(|(_, why)| why.clone())
    }

    fn are_open(&self) -> bool {
        self.taking.is_some() || !self.round.is_empty()
    }

    fn put_off(&mut self) {
        self.wait = (self.wait * 2).min(LOST_FOR_MAX);
        self.due = Instant::now() + self.wait;
    }
}

impl Indexer {
    /// Looks at lost segments again, if it is time: at one of them, or takes in some of one that
    /// is there. Says whether there is more to do at once.
    pub(super) fn look_again(&mut self) -> Result<bool, StoreError> {
        if !self.looks.are_open() {
            if self.looks.due > Instant::now() || self.state.lost.is_empty() {
                return Ok(false);
            }
            self.looks.put_off();
            self.begin_round();
        }
        self.look()
    }

    /// Looks at all of them now, for as long as somebody may wait for that.
    pub(super) fn look_now(&mut self) -> Result<(), StoreError> {
        let begun = Instant::now();
        self.begin_round();
        while self.look()? && begun.elapsed() < NOW_MAX {}
        Ok(())
    }

    fn begin_round(&mut self) {
        let lost = self.state.lost.iter().rev();
        let lost = lost.map(|(first, next)| *first..*next);
        let taking = self
            .looks
            .taking
            .as_ref()
            .map(|taking| taking.segment.start);
        self.looks.round = lost.filter(|lost| Some(lost.start) != taking).collect();
    }

    fn look(&mut self) -> Result<bool, StoreError> {
        // Buckets that are made again read the segment as any other.
        if !self.state.remaking.is_empty() {
            self.looks.taking = None;
            self.looks.round.clear();
            return Ok(false);
        }
        let next = self.looks.taking.take().or_else(|| {
            let segment = self.looks.round.pop()?;
            let next = segment.start;
            Some(Taking {
                segment,
                next,
                known: None,
            })
        });
        let Some(next) = next else {
            return Ok(false);
        };
        let segment = next.segment.start;
        self.looks.taking = Some(next);
        let found = self.take_back()?;
        if found != Found::Part {
            self.looks.taking = None;
        }
        if matches!(found, Found::Here | Found::Lost) {
            self.looks.waits.take_if(|(waits, _)| *waits == segment);
        }
        match found {
            Found::Here => {
                tracing::info!(segment, "a lost segment is there again, and is indexed");
                let again = Looks::new();
                (self.looks.due, self.looks.wait) = (again.due, again.wait);
                // What was dropped of it can be let go of.
                (self.lacking, self.put_off) = (None, None);
            }
            Found::Lost | Found::Part => {}
            Found::Unknown => {
                // Nor can it be asked for the others.
                self.looks.round.clear();
                self.looks.due = self.looks.due.min(Instant::now() + AWAY_FOR_MAX);
            }
        }
        Ok(self.looks.are_open())
    }

    /// Takes in what the lost segment has whose turn it is, or some of it, if it is there.
    fn take_back(&mut self) -> Result<Found, StoreError> {
        let waiting = self.shared.read().recent.len();
        self.commit(waiting)?;
        let head = self.shared.read().head;
        let Some(taking) = &mut self.looks.taking else {
            return Ok(Found::Lost);
        };
        let (segment, next) = (taking.segment.clone(), taking.next);
        let mut known = mem::take(&mut taking.known);
        if segment.end > head {
            return Ok(Found::Lost);
        }
        let (items, after) = match self.read_lost(&segment, next, &mut known)? {
            Ok(read) => read,
            Err(found) => return Ok(found),
        };
        let known = known.unwrap_or_default();
        self.add_behind(items, &known, head)?;
        match &mut self.looks.taking {
            // It was lost once more while it was asked for a decision of its own.
            None => Ok(Found::Lost),
            Some(taking) if after < segment.end => {
                (taking.next, taking.known) = (after, Some(known));
                Ok(Found::Part)
            }
            Some(_) => {
                self.state.lost.remove(&segment.start);
                self.state.save(&self.dir)?;
                self.losses.forget(&segment, &self.state);
                self.shared.write().unreadable = self.unreadable();
                self.shared.moved.send_replace(());
                Ok(Found::Here)
            }
        }
    }

    /// Reads some of a lost segment, from `next` on; or says what became of it. Once it is
    /// there, its records are `known` that buckets have.
    fn read_lost(
        &mut self,
        segment: &Range<u64>,
        next: u64,
        known: &mut Option<FxHashMap<u64, bool>>,
    ) -> Result<Result<Read, Found>, StoreError> {
        let source = Arc::clone(&self.shared.source);
        let most = self.shared.options.recent_max.max(1);
        let mut items: Vec<(bool, Item)> = Vec::new();
        for entry in source.scan(next).take(most) {
            match entry {
                Ok(entry) if entry.index >= segment.end => return Ok(Ok((items, segment.end))),
                Ok(entry) => {
                    let known = known.get_or_insert_with(|| self.indexed_of(segment));
                    let next = entry.index + 1;
                    items.push((known.contains_key(&entry.index), Item::new(entry)));
                    if next == segment.end {
                        // The next segment is not fetched to see that this one is over.
                        break;
                    }
                }
                Err(error) => match error.lost() {
                    // What is left of this one was dropped.
                    Some(lost) if lost.start >= segment.end => {
                        return Ok(Ok((items, segment.end)));
                    }
                    Some(_) if error.waits() => {
                        self.looks.is_lost(segment.start, &error);
                        return Ok(Err(Found::Unknown));
                    }
                    Some(_) => return Ok(Err(Found::Lost)),
                    // As it was: a part of a segment that cannot be read.
                    None if error.index == segment.start
                        && source.read(segment.end - 1).is_err() =>
                    {
                        return Ok(Err(Found::Lost));
                    }
                    None => {
                        // It is lost itself, when the rest of its segment is not any more.
                        self.note_single(error.index, &error)?;
                        return Ok(Ok((items, (error.index + 1).max(next + 1))));
                    }
                },
            }
        }
        let after = match items.last() {
            Some((_, last)) if items.len() == most => last.at + 1,
            _ => segment.end,
        };
        Ok(Ok((items, after)))
    }

    /// The records of a segment that buckets have, each with whether it is joined with its
    /// outcome: some were indexed before it was lost.
    fn indexed_of(&self, segment: &Range<u64>) -> FxHashMap<u64, bool> {
        let views: Vec<_> = self.shared.read().views.values().cloned().collect();
        let mut known = FxHashMap::default();
        let all = views.iter().flat_map(|view| view.segments());
        for (reader, columns) in all.filter(|(_, columns)| columns.may_have(segment)) {
            for doc in 0..reader.max_doc() {
                let at = columns.entry(doc);
                if segment.contains(&at) {
                    *known.entry(at).or_default() |= columns.outcome(doc).is_some();
                }
            }
        }
        known
    }

    /// Adds records that lie before `head`, each with whether it is indexed; they are committed
    /// when it returns.
    fn add_behind(
        &mut self,
        mut items: Vec<(bool, Item)>,
        known: &FxHashMap<u64, bool>,
        head: u64,
    ) -> Result<(), StoreError> {
        let joined = self.join_later(&mut items, known)?;
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
        self.replace(joined);
        let waiting = self.shared.read().recent.len();
        self.commit(waiting)
    }
}
