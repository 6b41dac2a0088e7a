//! What reporters declared as lost: how much, and of which time.
//!
//! A record that found no room never got a number, so no gap tells of it: its reporter does, by a
//! record that may come long after the time that it is about. So these are kept apart from the
//! buckets, which are by the time of a record, and every answer asks them about its own time.
//! They are in a file of their own, written before a commit where there is something new. Like
//! the buckets they can be made again from the log.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    ops::Range,
    path::Path,
    sync::Arc,
};

use palisade_mesh::wire::record::record::Body;
use serde::{Deserialize, Serialize};

use super::{
    answer::{GAPS_TOLD_MAX, LostRecords},
    state::{self, State},
};
use crate::{
    item::{AHEAD_MAX_US, Item, LATE_MAX_US},
    query::{Window, time::rfc3339},
};

const FILE: &str = "losses.json";

/// Losses that are told apart, less than a megabyte. Beyond it those of the reporter that has the
/// most become one where they are the nearest to one another in time; where there are more
/// reporters than that, those of the oldest are only counted, over the time that all of them span.
pub(super) const LOSSES_MAX: usize = 4096;

/// What remains told apart when room is made: it is made seldom, and for many.
const LOSSES_LEFT: usize = LOSSES_MAX / 4 * 3;

/// What a reporter lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Loss {
    reporter: String,
    records: u64,
    /// Times of the first and of the last of them, microseconds since the Unix epoch.
    from_us: i64,
    until_us: i64,
    /// Entry of the log that tells it; the first, where several became one.
    entry: u64,
}

/// Losses that are only counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Others {
    losses: usize,
    from_us: i64,
    until_us: i64,
}

/// Everything that was declared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Losses {
    /// In the order of the log.
    told: Vec<Loss>,
    others: Option<Others>,
}

/// How they are kept: by the indexer alone, while searches look at them.
#[derive(Default)]
pub(super) struct Kept {
    /// Entries of the log before this one were looked at, but for those in `unread`.
    upto: u64,
    /// Those that could not be read when it was their turn: the first, and that after the last.
    unread: BTreeMap<u64, u64>,
    /// Those among them that were read after all, and whose losses were taken in.
    found: BTreeSet<u64>,
    losses: Arc<Losses>,
    /// Whether there is more than on disk.
    unsaved: bool,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Saved<'l> {
    upto: u64,
    unread: Cow<'l, BTreeMap<u64, u64>>,
    found: Cow<'l, BTreeSet<u64>>,
    losses: Cow<'l, Losses>,
}

impl Kept {
    /// Reads them, if they are there and of a log of `len` entries.
    pub(super) fn load(dir: &Path, len: u64) -> io::Result<Option<Self>> {
        let saved: Option<Saved<'static>> = state::read(&dir.join(FILE))?;
        let saved = saved.filter(|saved| saved.upto <= len);
        Ok(saved.map(|saved| Self {
            upto: saved.upto,
            unread: saved.unread.into_owned(),
            found: saved.found.into_owned(),
            losses: Arc::new(saved.losses.into_owned()),
            unsaved: false,
        }))
    }

    /// Writes what is new, whole or not at all.
    pub(super) fn save_new(&mut self, dir: &Path) -> io::Result<()> {
        if self.unsaved {
            self.save(dir)?;
            self.unsaved = false;
        }
        Ok(())
    }

    /// Writes them, whole or not at all.
    pub(super) fn save(&self, dir: &Path) -> io::Result<()> {
        let saved = Saved {
            upto: self.upto,
            unread: Cow::Borrowed(&self.unread),
            found: Cow::Borrowed(&self.found),
            losses: Cow::Borrowed(&self.losses),
        };
        let new = dir.join("losses.json.new");
        let mut file = fs::File::create(&new)?;
        serde_json::to_writer(&mut file, &saved)?;
        file.sync_all()?;
        fs::rename(&new, dir.join(FILE))?;
        fs::File::open(dir)?.sync_all()
    }

    pub(super) fn losses(&self) -> &Arc<Losses> {
        &self.losses
    }

    /// Takes in what these records of the log declare, up to the entry `next`; `state` has which
    /// could not be read until then. Those that were looked at are passed over.
    pub(super) fn take<'i>(
        &mut self,
        items: impl Iterator<Item = &'i Item>,
        next: u64,
        state: &State,
    ) {
        self.note_unread(next, state);
        for loss in items.filter_map(Loss::of) {
            let at = loss.entry;
            let is_new = match state::has(&self.unread, at) {
                true => self.found.insert(at),
                false => at >= self.upto,
            };
            if is_new {
                // A copy, where a search looks at them: it is seldom, and they are few.
                Arc::make_mut(&mut self.losses).add(loss);
                self.unsaved = true;
            }
        }
        self.upto = self.upto.max(next);
    }

    /// Notes which of the entries from the first that was not looked at to `next` could not be
    /// read: what is noted of others later was looked at before.
    fn note_unread(&mut self, next: u64, state: &State) {
        let turn = self.upto..self.upto.max(next);
        let spans = state.lost.range(..turn.end);
        let spans = spans.map(|(first, next)| (*first.max(&turn.start), *next.min(&turn.end)));
        let mut unread: Vec<(u64, u64)> = spans.filter(|(first, next)| first < next).collect();
        let single = state.unreadable.range(turn.clone());
        unread.extend(single.map(|at| (*at, at + 1)));
        unread.sort_unstable();
        for (first, next) in unread {
            match self.unread.last_entry() {
                Some(mut last) if first <= *last.get() => {
                    let next = next.max(*last.get());
                    last.insert(next);
                }
                _ => {
                    self.unread.insert(first, next);
                }
            }
        }
    }

    /// Forgets which entries of a segment could not be read, where all of it could by now.
    pub(super) fn forget(&mut self, segment: &Range<u64>, state: &State) {
        let single = state.unreadable.range(segment.clone()).next();
        if single.is_some() || state.lost.range(segment.clone()).next().is_some() {
            return;
        }
        let unread = std::mem::take(&mut self.unread).into_iter();
        let around = unread.flat_map(|(first, next)| {
            let before = (first, next.min(segment.start));
            [before, (first.max(segment.end), next)]
        });
        self.unread = around.filter(|(first, next)| first < next).collect();
        self.found.retain(|at| !segment.contains(at));
    }
}

impl Losses {
    fn add(&mut self, loss: Loss) {
        let at = self.told.partition_point(|told| told.entry < loss.entry);
        self.told.insert(at, loss);
        if self.told.len() > LOSSES_MAX {
            self.make_room();
        }
    }

    fn make_room(&mut self) {
        let mut all = std::mem::take(&mut self.told);
        all.sort_unstable_by(|a, b| {
            (&a.reporter, a.from_us, a.entry).cmp(&(&b.reporter, b.from_us, b.entry))
        });
        let of_one = || all.chunk_by(|a, b| a.reporter == b.reporter);
        let counts: Vec<usize> = of_one().map(<[Loss]>::len).collect();
        let left = left_of_each(&counts);
        for losses in of_one() {
            join_nearest(losses, left, &mut self.told);
        }
        self.told.sort_unstable_by_key(|loss| loss.entry);
        let surplus = self.told.len().saturating_sub(LOSSES_LEFT);
        for loss in self.told.drain(..surplus) {
            let others = self.others.get_or_insert(Others {
                losses: 0,
                from_us: loss.from_us,
                until_us: loss.until_us,
            });
            others.losses += 1;
            others.from_us = others.from_us.min(loss.from_us);
            others.until_us = others.until_us.max(loss.until_us);
        }
    }

    /// Those of a time, as answers tell them, and how many more there are.
    pub(super) fn of(&self, window: Window) -> (Vec<LostRecords>, usize) {
        let touches = |from_us, until_us| from_us < window.to_us && window.from_us <= until_us;
        let told = self.told.iter();
        let mut of_window = told.filter(|loss| touches(loss.from_us, loss.until_us));
        let named = of_window.by_ref().take(GAPS_TOLD_MAX).map(Loss::told);
        let named = named.collect();
        let others = self.others.as_ref();
        let others = others.filter(|others| touches(others.from_us, others.until_us));
        let more = of_window.count() + others.map_or(0, |others| others.losses);
        (named, more)
    }
}

/// How many losses of each reporter remain, of which there are so `many`: room is made among
/// those of who has the most, so that one reporter blurs nothing of the others.
fn left_of_each(many: &[usize]) -> usize {
    let fit = |left: usize| many.iter().map(|n| n.min(&left)).sum::<usize>() <= LOSSES_LEFT;
    let mut all = 1..=LOSSES_LEFT;
    all.rfind(|left| fit(*left)).unwrap_or(1)
}

/// Adds to `told` the losses of one reporter, by when they begin: those that are the nearest to
/// one another become one, until so many are `left`.
fn join_nearest(losses: &[Loss], left: usize, told: &mut Vec<Loss>) {
    let mut until_us = i64::MIN;
    let mut apart = Vec::new();
    for (at, loss) in losses.iter().enumerate() {
        if at > 0 {
            apart.push((loss.from_us.saturating_sub(until_us).max(0), at));
        }
        until_us = until_us.max(loss.until_us);
    }
    apart.sort_unstable();
    apart.truncate(losses.len().saturating_sub(left));
    let near: BTreeSet<usize> = apart.into_iter().map(|(_, at)| at).collect();
    for (at, loss) in losses.iter().enumerate() {
        match told.last_mut().filter(|_| near.contains(&at)) {
            Some(last) => last.join(loss),
            None => told.push(loss.clone()),
        }
    }
}

/// The time of what a record declares as lost from `from_us` until `until_us`, as far as it can
/// be believed, so that it has the time under which the lost records would have been filed.
fn credible(item: &Item, mut from_us: i64, mut until_us: i64) -> (i64, i64) {
    let received_us = item.received_us;
    // What has not come yet nobody has lost, and what is older is filed under its receipt.
    let first_us = received_us.saturating_sub(LATE_MAX_US);
    let last_us = received_us.saturating_add(AHEAD_MAX_US);
    let is_filed_so = first_us <= from_us && until_us <= last_us && !item.is_suspect();
    if item.is_suspect() {
        // By a clock that is wrong: so long before the receipt as before the declaration.
        let ahead_us = item.record.time_us.saturating_sub(received_us);
        from_us = from_us.min(from_us.saturating_sub(ahead_us));
        until_us = until_us.max(until_us.saturating_sub(ahead_us));
    }
    if !is_filed_so {
        from_us = from_us.min(received_us);
        until_us = until_us.max(received_us);
    }
    (from_us.max(first_us), until_us.min(last_us))
}

impl Loss {
    /// What a record declares; nothing of another.
    fn of(item: &Item) -> Option<Self> {
        let Some(Body::SpoolEvent(event)) = &item.record.body else {
            return None;
        };
        let by_mode = [event.strict, event.spool, event.best_effort];
        let records = by_mode.into_iter().fold(0, u64::saturating_add);
        if event.verb != "dropped" || records == 0 {
            return None;
        }
        let (from_us, until_us) = match (event.from_us, event.until_us) {
            // It does not say when.
            (0, 0) => (item.time_us, item.time_us),
            (from_us, until_us) => credible(item, from_us.min(until_us), from_us.max(until_us)),
        };
        Some(Self {
            reporter: item.reporter.clone(),
            records,
            from_us,
            until_us,
            entry: item.at,
        })
    }

    fn join(&mut self, other: &Self) {
        self.records = self.records.saturating_add(other.records);
        self.from_us = self.from_us.min(other.from_us);
        self.until_us = self.until_us.max(other.until_us);
        self.entry = self.entry.min(other.entry);
    }

    fn told(&self) -> LostRecords {
        LostRecords {
            reporter: self.reporter.clone(),
            records: self.records,
            from: rfc3339(self.from_us),
            until: rfc3339(self.until_us),
            entry: self.entry,
        }
    }
}

#[cfg(test)]
mod tests {
    use palisade_mesh::wire::{
        audit::Envelope,
        record::{Record, SpoolEvent},
    };

    use super::*;
    use crate::source::Entry;

    const SECOND: i64 = 1_000_000;

    fn loss(reporter: usize, from_us: i64, entry: usize) -> Loss {
        Loss {
            reporter: format!("spiffe://acme.test/{reporter}"),
            records: 2,
            from_us,
            until_us: from_us + SECOND,
            entry: entry as u64,
        }
    }

    fn of(losses: &Losses, from_us: i64, to_us: i64) -> (u64, usize) {
        let (named, more) = losses.of(Window { from_us, to_us });
        (named.iter().map(|lost| lost.records).sum(), more)
    }

    /// One reporter that tells of many leaves those of another as they are, though they lie
    /// closer together.
    #[test]
    fn room_is_made_among_the_losses_of_who_has_the_most() {
        let mut losses = Losses::default();
        let few = 10;
        for n in 0..few {
            losses.add(loss(1, n as i64 * 2 * SECOND, n));
        }
        for n in few..=LOSSES_MAX {
            losses.add(loss(2, n as i64 * 1000 * SECOND, n));
        }
        assert_eq!((losses.told.len(), &losses.others), (LOSSES_LEFT, &None));
        for n in 0..few as i64 {
            let from_us = n * 2 * SECOND;
            assert_eq!(of(&losses, from_us, from_us + 1), (2, 0));
            assert_eq!(
                of(&losses, from_us + SECOND + 1, from_us + 2 * SECOND),
                (0, 0)
            );
        }
        let records: u64 = losses.told.iter().map(|loss| loss.records).sum();
        assert_eq!(records, 2 * (LOSSES_MAX as u64 + 1));
    }

    /// One declared loss that is the only record of an entry.
    fn declared(at: u64) -> Item {
        let now = 1_795_176_000_000_000;
        let event = SpoolEvent {
            verb: "dropped".into(),
            strict: 2,
            from_us: now - SECOND,
            until_us: now,
            ..SpoolEvent::default()
        };
        Item::new(Entry {
            index: at,
            envelope: Envelope {
                received_us: now,
                ..Envelope::default()
            },
            record: Record {
                reporter: "spiffe://acme.test/1".into(),
                time_us: now,
                body: Some(Body::SpoolEvent(event)),
                ..Record::default()
            },
        })
    }

    fn records(kept: &Kept) -> u64 {
        kept.losses.told.iter().map(|loss| loss.records).sum()
    }

    /// Also where it has become part of another meanwhile, and after a start.
    #[test]
    fn what_could_not_be_read_is_taken_in_once() {
        let dir = tempfile::tempdir().unwrap();
        let (mut kept, mut state) = (Kept::default(), State::new(1));
        let items = [declared(0), declared(1), declared(2)];
        state.lost.insert(0, 2);
        kept.take(items.iter().skip(2), 3, &state);
        assert_eq!(records(&kept), 2);
        for _ in 0..2 {
            kept.take(items.iter(), 3, &state);
            assert_eq!(records(&kept), 6);
            let losses = Arc::make_mut(&mut kept.losses);
            let all = std::mem::take(&mut losses.told);
            join_nearest(&all, 1, &mut losses.told);
            assert_eq!(losses.told.len(), 1);
            kept.save(dir.path()).unwrap();
            kept = Kept::load(dir.path(), 3).unwrap().unwrap();
        }
        state.lost.clear();
        kept.forget(&(0..2), &state);
        kept.take(items.iter(), 3, &state);
        assert_eq!(records(&kept), 6);
        assert!(kept.unread.is_empty() && kept.found.is_empty());
    }

    /// What was read when it was its turn, and could not be later.
    #[test]
    fn what_was_read_before_it_was_lost_is_not_taken_in_again() {
        let (mut kept, mut state) = (Kept::default(), State::new(1));
        let items = [declared(0), declared(1)];
        kept.take(items.iter(), 2, &state);
        state.unreadable.insert(0);
        state.lost.insert(1, 2);
        kept.take(std::iter::empty(), 2, &state);
        kept.take(items.iter(), 2, &state);
        assert_eq!(records(&kept), 4);
    }

    /// On both sides of the limit: those that lie close together become one, and the others
    /// are told as they were; none is lost.
    #[test]
    fn beyond_the_limit_the_nearest_of_a_reporter_become_one() {
        let mut losses = Losses::default();
        let far = 1_000_000 * SECOND;
        losses.add(loss(1, far, 0));
        losses.add(loss(2, 0, 1));
        for n in 2..LOSSES_MAX {
            losses.add(loss(1, n as i64 * 2 * SECOND, n));
        }
        assert_eq!(losses.told.len(), LOSSES_MAX);
        losses.add(loss(1, 2 * far, LOSSES_MAX));
        assert!(losses.told.len() <= LOSSES_LEFT, "{}", losses.told.len());
        assert_eq!(losses.others, None);
        let records: u64 = losses.told.iter().map(|loss| loss.records).sum();
        assert_eq!(records, 2 * (LOSSES_MAX as u64 + 1));
        for alone in [far, 2 * far] {
            assert_eq!(of(&losses, alone, alone + 1), (2, 0));
            assert_eq!(of(&losses, alone - SECOND, alone), (0, 0));
            assert_eq!(of(&losses, alone + SECOND + 1, alone + 9 * SECOND), (0, 0));
        }
        let entries = losses.told.iter().map(|loss| loss.entry);
        assert!(entries.is_sorted());
    }

    /// Of more reporters than that, the oldest are counted, of the time that they span.
    #[test]
    fn more_reporters_than_the_limit_are_counted() {
        let mut losses = Losses::default();
        for n in 0..=LOSSES_MAX {
            losses.add(loss(n, n as i64 * 10 * SECOND, n));
        }
        let counted = LOSSES_MAX + 1 - LOSSES_LEFT;
        assert_eq!(losses.told.len(), LOSSES_LEFT);
        assert_eq!(of(&losses, 0, 1), (0, counted));
        let first_named = counted as i64 * 10 * SECOND;
        assert_eq!(of(&losses, first_named, first_named + 1), (2, 0));
        let (named, more) = of(&losses, 0, i64::MAX);
        assert_eq!(named, 2 * GAPS_TOLD_MAX as u64);
        assert_eq!(more, counted + LOSSES_LEFT - GAPS_TOLD_MAX);
    }
}
