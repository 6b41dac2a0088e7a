//! Lets go of what the log has dropped.
//!
//! A bucket that has something of it is made again from its own positions, without reading
//! the rest of the log; one of which nothing is left goes. The result is what the whole log,
//! read again, would give.

use std::{fs, ops::Range, sync::Arc};

use super::{
    StoreError,
    bucket::{Bucket, View},
    indexer::{GONE, Indexer, remove},
    search::{Lost, Place},
    writer::Open,
};
use crate::{item::LATE_MAX_US, log::Lacking, query::Window};

/// Ranges of dropped records with which buckets are gone through, more by what one segment
/// has.
const RANGES_MAX: usize = 1 << 18;

/// Where a bucket is made again.
const THINNED: &str = "thinned";

impl Indexer {
    /// Looks whether the log has dropped something, and lets go of it. Gives why a part of that
    /// cannot be had from an archive, once all else is done.
    pub(super) fn let_go(&mut self) -> Result<Option<StoreError>, StoreError> {
        let source = Arc::clone(&self.shared.source);
        let lacking = source.lacking();
        let known = self.lacking.as_ref();
        if known.is_some_and(|known| Arc::ptr_eq(known, &lacking)) {
            return Ok(None);
        }
        let thinned = &self.state.thinned;
        let is_new = |l: &&Lacking| thinned.get(&l.segment) != Some(&l.records());
        let new: Vec<&Lacking> = lacking.iter().filter(is_new).collect();
        if !new.is_empty() {
            // What was read before it was dropped must not come after.
            let waiting = self.shared.read().recent.len();
            self.commit(waiting)?;
        }
        let mut away = None;
        let mut rest = new.into_iter().peekable();
        while rest.peek().is_some() {
            let mut gone = Vec::new();
            let mut batch = Vec::new();
            while gone.len() < RANGES_MAX
                && let Some(lacking) = rest.next()
            {
                if self.overlapping(&[lacking]).is_empty() {
                    // The log is not asked for what is in no bucket.
                    batch.push(lacking);
                    continue;
                }
                // It is asked once it is there again; until then answers say what they lack.
                if self.state.lost.contains_key(&lacking.segment) {
                    continue;
                }
                match source.dropped_from(lacking.segment) {
                    Ok(ranges) => {
                        gone.extend(ranges);
                        batch.push(lacking);
                    }
                    Err(error) if error.waits() => away = Some(error.into()),
                    Err(error) if error.away().is_some() => {
                        self.note_unreadable(lacking.segment, &error)?;
                        self.state.save(&self.dir)?;
                        self.shared.write().unreadable = self.unreadable();
                    }
                    // Its records are told as unreadable, one by one; the others are let go.
                    Err(error) => {
                        tracing::error!(segment = lacking.segment, %error, "what was dropped from a segment cannot be told");
                    }
                }
            }
            gone.sort_unstable_by_key(|range: &Range<u64>| range.start);
            let mut whole = true;
            for start in self.overlapping(&batch) {
                match self.thin(start, &gone) {
                    Err(error) if error.is_away() => {
                        whole = false;
                        away = Some(error);
                    }
                    thinned => thinned?,
                }
            }
            if whole {
                let done = batch.iter().map(|l| (l.segment, l.records()));
                self.state.thinned.extend(done);
                self.state.save(&self.dir)?;
            }
        }
        if away.is_none() {
            self.lacking = Some(lacking);
        }
        Ok(away)
    }

    /// Buckets that may have something of what is `lacking`.
    fn overlapping(&self, lacking: &[&Lacking]) -> Vec<i64> {
        let Some(window) = window_of(lacking) else {
            return Vec::new();
        };
        let spans = self.buckets.iter().filter(|(_, open)| {
            let span = open.bucket.view.span;
            span.from_us < window.to_us && window.from_us < span.to_us
        });
        spans.map(|(start, _)| *start).collect()
    }

    /// Makes a bucket again without what is `gone`.
    fn thin(&mut self, start: i64, gone: &[Range<u64>]) -> Result<(), StoreError> {
        let is_gone = |at: u64| {
            let after = gone.partition_point(|range| range.start <= at);
            let range = after.checked_sub(1).and_then(|last| gone.get(last));
            range.is_some_and(|range| range.contains(&at))
        };
        let Some(open) = self.buckets.get_mut(&start) else {
            return Ok(());
        };
        let mut places = places_of(&open.bucket.view)?;
        if !places.iter().any(|place| place.is_among(&is_gone)) {
            return Ok(());
        }
        open.close()?;
        let applied = open.applied;
        places.retain(|place| !is_gone(place.at));
        let path = self.path_of(start);
        let out_of_the_way = self.dir.join(GONE);
        remove(&out_of_the_way)?;
        // One that is not made again up to the rest stays: it says how far it is.
        if places.is_empty() && !self.state.remaking.contains(&start) {
            // The state forgets it first: what is left after a crash is a stranger's.
            self.state.buckets.remove(&start);
            self.state.save(&self.dir)?;
            self.buckets.remove(&start);
            self.shared.write().views.remove(&start);
            fs::rename(&path, &out_of_the_way)?;
            return Ok(remove(&out_of_the_way)?);
        }
        let aside = self.dir.join(THINNED);
        remove(&aside)?;
        let span = self.shared.options.bucket;
        let bucket = Bucket::open(aside.clone(), start, span, &self.shared.layout)?;
        self.fill(Open::new(bucket, applied), &places)?;
        // A crash between the two leaves none, and the log makes it again.
        fs::rename(&path, &out_of_the_way)?;
        fs::rename(&aside, &path)?;
        remove(&out_of_the_way)?;
        let bucket = Bucket::open(path, start, span, &self.shared.layout)?;
        let view = Arc::clone(&bucket.view);
        self.buckets.insert(start, Open::new(bucket, applied));
        self.shared.write().views.insert(start, view);
        Ok(())
    }

    /// Puts what is at `places` into a fresh bucket.
    fn fill(&mut self, mut fresh: Open, places: &[Place]) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let applied = fresh.applied;
        let writer = fresh.writer(shared.options.writer_heap_bytes)?;
        writer.dirty = true;
        // Segments that are lost are asked for once, and not for each of their records.
        let mut lost = Lost::default();
        let known = self.unreadable();
        for place in places {
            if lost.has(place.at) {
                continue;
            }
            let source = shared.source.as_ref();
            let read = match place.read(source) {
                // The outcome is: it is joined when it is there again.
                Err(StoreError::Source(error)) if error.index != place.at && !error.waits() => {
                    if lost.take(&error) || error.lost().is_none() {
                        self.note_unreadable(error.index, &error)?;
                    }
                    Place::new(place.at, None).read(source)
                }
                read => read,
            };
            match read {
                Ok(item) => {
                    let document = shared.layout.document(&item, false);
                    writer.writer.add_document(document)?;
                }
                Err(StoreError::Source(error)) if error.is_dropped() => {}
                // It is tried again when the archive can be asked.
                Err(StoreError::Source(error)) if error.waits() => {
                    return Err(error.into());
                }
                Err(StoreError::Source(error)) => {
                    lost.take(&error);
                    self.note_unreadable(place.at, &error)?;
                }
                Err(error) => return Err(error),
            }
        }
        if self.unreadable() != known {
            // Before the bucket takes the place of one that may have it.
            self.state.save(&self.dir)?;
        }
        shared.write().unreadable = self.unreadable();
        fresh.commit(applied)?;
        fresh.close()
    }
}

/// The time of the buckets that may have something of what is `lacking`: a decision may have
/// begun so long before its outcome.
fn window_of(lacking: &[&Lacking]) -> Option<Window> {
    let all = || lacking.iter().flat_map(|lacking| &lacking.dropped);
    let from_us = all().map(|dropped| dropped.first_us).min()?;
    let to_us = all().map(|dropped| dropped.last_us).max()?;
    Some(Window {
        from_us: from_us.saturating_sub(LATE_MAX_US),
        to_us: to_us.saturating_add(1),
    })
}

/// Where the records of a bucket are, each once.
fn places_of(view: &View) -> Result<Vec<Place>, StoreError> {
    let mut places = Vec::new();
    for (reader, columns) in view.segments() {
        for doc in 0..reader.max_doc() {
            let at = columns.entry(doc);
            if columns.is_late(doc) || !view.replaced.contains(&at) {
                places.push(Place::new(at, columns.outcome(doc)));
            }
        }
    }
    places.sort_unstable();
    places.dedup();
    Ok(places)
}
