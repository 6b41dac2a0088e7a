//! Walks what matches, newest first, in the index and among the recent records.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    ops::{ControlFlow, Range},
    sync::Arc,
};

use rustc_hash::FxHashSet;
use tantivy::{
    SegmentReader, TERMINATED,
    query::{EnableScoring, Scorer},
};

use super::{
    StoreError,
    bucket::{Columns, View},
    compile::Plan,
    shared::Shared,
    state,
};
use crate::{
    going::{Going, Reading},
    item::Item,
    query::{Query, Window},
    source::{Source, SourceError},
};

/// Order of results: time, then position in the log, newest first.
pub(super) type Key = (i64, u64);

/// Where an item stands among results.
pub(super) fn key_of(item: &Item) -> Key {
    (item.time_us, item.at)
}

/// A query against what was there at one moment.
pub(super) struct Snapshot {
    pub(super) plan: Plan,
    pub(super) window: Window,
    /// Buckets of the window, newest first.
    pub(super) views: Vec<Arc<View>>,
    /// The newest matching recent records, as many as were wanted, newest first.
    pub(super) recent: Vec<Item>,
    /// How many there are.
    pub(super) recent_count: u64,
    /// Documents that a recent outcome has made out of date.
    outdated: FxHashSet<u64>,
    /// The times of these.
    pub(super) changing: Vec<i64>,
    pub(super) behind: u64,
    /// Entries that could not be read when they were indexed.
    unindexed: u64,
    /// Those that had to be looked at, and cannot be read any more.
    lost: Cell<u64>,
    pub(super) remaking: Vec<i64>,
    pub(super) stalled: Option<String>,
    /// Whether somebody waits for what is found.
    going: Going,
}

/// What looks at the matching documents.
pub(super) trait Visitor {
    /// A new segment begins.
    fn segment(&mut self, _reader: &SegmentReader) -> tantivy::Result<()> {
        Ok(())
    }

    /// A match, newest first within its segment.
    fn document(&mut self, hit: Hit<'_>) -> ControlFlow<()>;

    /// The segment ends.
    fn finish(&mut self) -> tantivy::Result<()> {
        Ok(())
    }
}

/// The matching documents of a part of one segment.
struct Matches<'a> {
    scorer: Box<dyn Scorer>,
    columns: &'a Columns,
    range: Range<u32>,
    reading: Reading,
}

/// A matching document.
#[derive(Clone, Copy)]
pub(super) struct Hit<'a> {
    pub(super) doc: u32,
    pub(super) key: Key,
    columns: &'a Columns,
}

impl Hit<'_> {
    /// Where the record is in the log, and its outcome.
    pub(super) fn place(&self) -> Place {
        Place {
            at: self.key.1,
            outcome: self.columns.outcome(self.doc),
        }
    }
}

/// Where an item is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) at: u64,
    outcome: Option<u64>,
}

impl Place {
    /// Reads it from the log.
    pub(super) fn read(self, source: &dyn Source) -> Result<Item, StoreError> {
        let mut item = Item::new(source.read(self.at)?);
        let Some(at) = self.outcome else {
            return Ok(item);
        };
        match source.read(at) {
            Ok(outcome) => {
                let outcome = Item::new(outcome);
                item.outcome = outcome.joins().map(|(_, outcome)| (at, outcome.clone()));
            }
            // A decision may outlive its outcome.
            Err(error) if error.is_dropped() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(item)
    }

    /// A place that a bucket names.
    pub(super) fn new(at: u64, outcome: Option<u64>) -> Self {
        Self { at, outcome }
    }

    /// Whether its record, or its outcome, is one of these.
    pub(super) fn is_among(self, gone: &impl Fn(u64) -> bool) -> bool {
        gone(self.at) || self.outcome.is_some_and(gone)
    }
}

/// Segments, or parts of them, that an archive was found to have lost, or to have otherwise than
/// they were signed, or that are damaged or gone here.
#[derive(Default)]
pub(super) struct Lost(BTreeMap<u64, u64>);

impl Lost {
    /// Whether the record at `at` is in one of them.
    pub(super) fn has(&self, at: u64) -> bool {
        state::has(&self.0, at)
    }

    /// Takes in the segment that an error is about, if it is of one; says whether it is new.
    pub(super) fn take(&mut self, error: &SourceError) -> bool {
        let lost = error.lost().filter(|_| !error.waits());
        lost.is_some_and(|lost| self.0.insert(lost.start, lost.end).is_none())
    }
}

impl Snapshot {
    /// Takes the recent matches and the views in one step: nothing is missing
    /// and nothing is there twice. Keeps the `keep` newest recent matches below
    /// `before`.
    pub(super) fn take(
        shared: &Shared,
        going: &Going,
        (query, window, before): (&Query, Window, Option<Key>),
        keep: usize,
    ) -> Self {
        let filter = query.filter();
        let inner = shared.read();
        let mut matching: Vec<&Item> = inner
            .recent
            .visible()
            .filter(|item| {
                window.contains(item.time_us)
                    && before.is_none_or(|before| key_of(item) < before)
                    && filter.matches(item)
            })
            .collect();
        let recent_count = u64::try_from(matching.len()).unwrap_or(u64::MAX);
        if keep > 0 {
            matching.sort_unstable_by_key(|item| Reverse(key_of(item)));
        }
        let recent = matching.into_iter().take(keep).cloned().collect();
        let views = inner
            .views
            .values()
            .rev()
            .filter(|view| view.span.from_us < window.to_us && window.from_us < view.span.to_us)
            .cloned()
            .collect();
        Self {
            plan: Plan::new(&shared.layout, &shared.names, &shared.opened, filter),
            window,
            views,
            recent,
            recent_count,
            outdated: inner.recent.replaced(),
            changing: inner.recent.replaced_times(),
            behind: shared.source.len().saturating_sub(inner.head),
            unindexed: inner.unreadable,
            lost: Cell::new(0),
            remaking: inner
                .remaking
                .iter()
                .copied()
                .filter(|start| {
                    let end = start.saturating_add(shared.options.bucket.length_us());
                    *start < window.to_us && window.from_us < end
                })
                .collect(),
            stalled: inner.stalled.clone(),
            going: going.clone(),
        }
    }

    /// Whether it has everything of its time.
    pub(super) fn is_whole(&self) -> bool {
        self.behind == 0 && self.unreadable() == 0 && self.remaking.is_empty()
    }

    /// Entries that cannot be read, as far as is known by now.
    pub(super) fn unreadable(&self) -> u64 {
        self.unindexed + self.lost.get()
    }

    /// Shows the matches of one bucket to `visitor`, starting below `before`, as long as somebody
    /// waits for them.
    pub(super) fn visit(
        &self,
        view: &View,
        source: &dyn Source,
        before: Option<Key>,
        visitor: &mut dyn Visitor,
    ) -> Result<(), StoreError> {
        self.visit_within(self.window, view, source, before, visitor)
    }

    /// As [`Snapshot::visit`], of a part of the time.
    pub(super) fn visit_within(
        &self,
        mut window: Window,
        view: &View,
        source: &dyn Source,
        before: Option<Key>,
        visitor: &mut dyn Visitor,
    ) -> Result<(), StoreError> {
        let scoring = EnableScoring::disabled_from_searcher(&view.searcher);
        let weight = self.plan.query.weight(scoring)?;
        if let Some((time_us, _)) = before {
            window.to_us = window.to_us.min(time_us.saturating_add(1));
        }
        for (reader, columns) in view.segments() {
            // Where nothing matches nothing else asks.
            self.going.ask()?;
            let range = columns.range(window, reader.max_doc());
            if range.is_empty() {
                continue;
            }
            let matches = Matches {
                scorer: weight.scorer(reader, 1.0)?,
                reading: self.going.reading(u64::from(range.end - range.start)),
                columns,
                range,
            };
            visitor.segment(reader)?;
            self.visit_range(view, source, before, matches, visitor)?;
            visitor.finish()?;
        }
        Ok(())
    }

    fn visit_range(
        &self,
        view: &View,
        source: &dyn Source,
        before: Option<Key>,
        matches: Matches<'_>,
        visitor: &mut dyn Visitor,
    ) -> Result<(), StoreError> {
        let Matches {
            mut scorer,
            columns,
            range,
            mut reading,
        } = matches;
        let mut doc = scorer.doc();
        if doc < range.start {
            doc = scorer.seek(range.start);
        }
        let mut next = range.start;
        while doc < range.end && doc != TERMINATED {
            reading.read(u64::from(doc - next) + 1)?;
            next = doc + 1;
            let hit = Hit {
                doc,
                key: (columns.time(doc), columns.entry(doc)),
                columns,
            };
            let stale = self.outdated.contains(&hit.key.1)
                || (view.replaced.contains(&hit.key.1) && !columns.is_late(doc));
            let seen = before.is_some_and(|before| hit.key >= before);
            if !stale && !seen && self.is_match(&hit, source) && visitor.document(hit).is_break() {
                break;
            }
            doc = scorer.advance();
        }
        Ok(())
    }

    fn is_match(&self, hit: &Hit<'_>, source: &dyn Source) -> bool {
        if self.plan.exact {
            return true;
        }
        match hit.place().read(source) {
            Ok(item) => self.plan.filter.matches(&item),
            // It may be one, and the answer says that it is not whole.
            Err(error) => {
                tracing::error!(index = hit.key.1, %error, "audit record cannot be read");
                self.lost.set(self.lost.get() + 1);
                false
            }
        }
    }
}

/// Keeps the newest matches and counts on up to a limit.
///
/// Segments are sorted, so it can stop in each as soon as everything kept is
/// newer: what makes "the newest 50" independent of how much there is.
pub(super) struct Newest {
    limit: usize,
    count_max: u64,
    kept: BinaryHeap<Reverse<(Key, Place)>>,
    pub(super) counted: u64,
}

impl Newest {
    pub(super) fn new(limit: usize, count_max: u64, counted: u64) -> Self {
        Self {
            limit,
            count_max,
            kept: BinaryHeap::with_capacity(limit + 1),
            counted,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= self.limit
    }

    /// Whether there is nothing left to learn.
    pub(super) fn is_done(&self) -> bool {
        self.is_full() && self.counted >= self.count_max
    }

    /// Newest first.
    pub(super) fn into_sorted(self) -> Vec<(Key, Place)> {
        let mut kept: Vec<_> = self.kept.into_iter().map(|Reverse(kept)| kept).collect();
        kept.sort_unstable_by_key(|kept| Reverse(*kept));
        kept
    }
}

impl Visitor for Newest {
    fn document(&mut self, hit: Hit<'_>) -> ControlFlow<()> {
        self.counted += 1;
        let oldest = self.kept.peek().map(|Reverse((key, _))| *key);
        let older = self.is_full() && oldest.is_none_or(|oldest| hit.key < oldest);
        if !older {
            self.kept.push(Reverse((hit.key, hit.place())));
            if self.kept.len() > self.limit {
                self.kept.pop();
            }
            return ControlFlow::Continue(());
        }
        // Equal times are not sorted by position: go on through them.
        let same_time = oldest.is_some_and(|oldest| oldest.0 == hit.key.0);
        if same_time || self.counted < self.count_max {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

/// Counts every match.
#[derive(Default)]
pub(super) struct Counter {
    pub(super) counted: u64,
}

impl Visitor for Counter {
    fn document(&mut self, _: Hit<'_>) -> ControlFlow<()> {
        self.counted += 1;
        ControlFlow::Continue(())
    }
}
