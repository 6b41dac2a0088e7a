//! What is small in buckets whose time is over, made one segment each.
//!
//! Each commit leaves a segment, and a search opens every segment of its time, which costs more
//! than what it does in the small ones. While a bucket is written, tantivy merges its segments as
//! they become many. Once nobody writes in it, those that are small are merged: beside everything
//! else, one bucket at a time, and only where little waits to be read. The large ones stay, for
//! to write them again costs as much as to index a fifth of their records.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tantivy::{
    FutureResult,
    index::{SegmentId, SegmentMeta},
};

use super::{
    StoreError,
    indexer::Indexer,
    writer::{Open, Writer},
};

/// So many small segments are merged, and not fewer: a bucket that gets a late record now and then
/// is not merged for each.
const SMALL_MIN: usize = 4;

/// Small are those that have together no more than this part of a bucket's documents.
const SMALL_PART: u64 = 8;

/// How often it is looked whether there is anything to merge.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long nothing is merged after that failed.
const PUT_OFF: Duration = Duration::from_secs(600);

/// What is merged now, and when to go on.
#[derive(Default)]
pub(super) struct Tidying {
    merging: Option<Merging>,
    not_before: Option<Instant>,
}

/// A bucket that is being merged.
struct Merging {
    start: i64,
    done: FutureResult<Option<SegmentMeta>>,
}

/// What came of it.
type Merged = tantivy::Result<Option<SegmentMeta>>;

impl Tidying {
    /// The bucket that is being merged, whose writer stays.
    pub(super) fn bucket(&self) -> Option<i64> {
        self.merging.as_ref().map(|merging| merging.start)
    }
}

impl Indexer {
    /// Takes in the bucket that was merged, if it is done by now, and begins with the next.
    pub(super) fn tidy(&mut self) -> Result<(), StoreError> {
        if let Some(merging) = &mut self.tidying.merging {
            let mut looks = Context::from_waker(Waker::noop());
            let Poll::Ready(merged) = Pin::new(&mut merging.done).poll(&mut looks) else {
                return Ok(());
            };
            let start = merging.start;
            self.merged(start, merged)?;
        }
        self.merge_next()
    }

    /// Merges all that is over, and waits for it.
    pub(super) fn tidy_up(&mut self) -> Result<(), StoreError> {
        self.tidying.not_before = None;
        self.close_writers(|_, writer| !writer.dirty)?;
        loop {
            if self.tidying.merging.is_none() {
                self.merge_next()?;
            }
            let Some(Merging { start, done }) = self.tidying.merging.take() else {
                return Ok(());
            };
            self.merged(start, done.wait())?;
        }
    }

    fn merge_next(&mut self) -> Result<(), StoreError> {
        let tidying = &self.tidying;
        let waits = tidying
            .not_before
            .is_some_and(|moment| moment > Instant::now());
        if waits || tidying.merging.is_some() {
            return Ok(());
        }
        // The newest is not over.
        let newest = self.buckets.keys().next_back().copied();
        let mut over = self.buckets.iter_mut();
        let next = over.find_map(|(start, open)| {
            let small = open.small_segments().filter(|_| Some(*start) != newest)?;
            Some((start, open, small))
        });
        let Some((start, open, small)) = next else {
            self.tidying.not_before = Some(Instant::now() + LOOK_EVERY);
            return Ok(());
        };
        let start = *start;
        match open.writer(self.shared.options.writer_heap_bytes) {
            Ok(writer) => {
                let done = writer.writer.merge(&small);
                self.tidying.merging = Some(Merging { start, done });
                Ok(())
            }
            Err(error) => {
                self.put_off_merging(start, &error);
                Ok(())
            }
        }
    }

    /// Shows searches what came of a bucket. A failure takes nothing away: its segments stay.
    fn merged(&mut self, start: i64, merged: Merged) -> Result<(), StoreError> {
        self.tidying.merging = None;
        if let Err(error) = merged {
            self.put_off_merging(start, &error.into());
        }
        let writer = self
            .buckets
            .get(&start)
            .and_then(|open| open.writer.as_ref());
        match writer.is_some_and(|writer| !writer.dirty) {
            true => self.close_writer(start),
            false => self.show_segments(start),
        }
    }

    fn put_off_merging(&mut self, start: i64, error: &StoreError) {
        let path = self.path_of(start);
        tracing::warn!(%error, bucket = %path.display(), "audit index bucket is not merged");
        self.tidying.not_before = Some(Instant::now() + PUT_OFF);
    }

    /// Closes those writers that are `due`, by the start of their bucket.
    pub(super) fn close_writers(
        &mut self,
        due: impl Fn(i64, &Writer) -> bool,
    ) -> Result<(), StoreError> {
        let is_due = |(start, open): &(&i64, &Open)| {
            let writer = open.writer.as_ref();
            writer.is_some_and(|writer| due(**start, writer))
        };
        let due = self.buckets.iter().filter(is_due);
        for start in due.map(|(start, _)| *start).collect::<Vec<_>>() {
            self.close_writer(start)?;
        }
        Ok(())
    }

    /// Closes the writer of a bucket. tantivy may have merged segments meanwhile.
    fn close_writer(&mut self, start: i64) -> Result<(), StoreError> {
        if let Some(open) = self.buckets.get_mut(&start) {
            open.close()?;
        }
        self.show_segments(start)
    }

    /// Has searches look at the segments that a bucket has now. What was added since the last
    /// commit is shown by the next.
    fn show_segments(&mut self, start: i64) -> Result<(), StoreError> {
        if let Some(open) = self.buckets.get_mut(&start)
            && !open.unseen
        {
            let view = Arc::new(open.bucket.reopened(&[])?);
            open.bucket.view = Arc::clone(&view);
            self.shared.write().views.insert(start, view);
        }
        Ok(())
    }
}

impl Open {
    /// Its small segments, where nobody writes in it and they are worth being merged.
    fn small_segments(&self) -> Option<Vec<SegmentId>> {
        if self.writer.is_some() || self.unseen {
            return None;
        }
        let segments = self.bucket.view.segments();
        let mut segments: Vec<_> = segments
            .map(|(reader, _)| (reader.max_doc(), reader.segment_id()))
            .collect();
        segments.sort_unstable();
        let all: u64 = segments
            .iter()
            .map(|(documents, _)| u64::from(*documents))
            .sum();
        let mut together = 0;
        let small = segments.iter().take_while(|(documents, _)| {
            together += u64::from(*documents);
            together <= all / SMALL_PART
        });
        let small: Vec<_> = small.map(|(_, segment)| *segment).collect();
        (small.len() >= SMALL_MIN).then_some(small)
    }
}
