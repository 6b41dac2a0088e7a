//! Records of streams held against what their reporters signed, by number.
//!
//! A digest is over the hashes of the records that it is about. So records wait for their head,
//! or for those that are missing between them, with 32 bytes each, and heads for their
//! records: what comes late, or early, is compared as what comes in its turn.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use aws_lc_rs::digest::{Context, SHA256};
use palisade_mesh::wire::record::Head;

use crate::merkle::Hash;

/// Heads of one stream that wait for records; more are not compared.
const AWAITED_MAX: usize = 2048;

/// Heads that wait in all; more are not compared, but for some of each stream: one that has
/// many waiting leaves the others theirs.
const AWAITED_ALL_MAX: usize = 1 << 18;
const AWAITED_KEPT: usize = 8;

/// The part of all hashes that no live stream needs: one that holds more hoards.
const HOARD: usize = 8;

/// In the place of a hash: the record came, and it is not known any more what it was.
const GONE: Hash = [0; 32];

/// Streams whose records are compared with what was signed of them.
#[derive(Debug, Default)]
pub(crate) struct Order {
    streams: Vec<Stream>,
    /// Streams that are closed, to be used again.
    free: Vec<usize>,
    /// Records that came so far.
    came: u64,
    /// Hashes that are held, and how many may be.
    held: usize,
    held_max: usize,
    /// Heads that wait.
    awaited: usize,
    /// Heads that would have had to wait beyond a limit.
    beyond: u64,
}

/// Records that were signed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stretch {
    /// Number of the first.
    pub(crate) first: u64,
    /// Number of the last.
    pub(crate) last: u64,
    /// What was signed of them.
    digest: Hash,
    /// Where that is: whatever it was given with.
    pub(crate) at: u64,
}

#[derive(Debug, Default)]
struct Stream {
    /// Hashes of records that follow each other, by the number of the first.
    runs: BTreeMap<u64, VecDeque<Hash>>,
    /// How many there are.
    held: usize,
    /// Some were let go.
    let_go: bool,
    /// Something was signed of it.
    signed: bool,
    /// When something of it came last.
    touched: u64,
    /// What was signed of records that are not all here.
    awaited: BTreeSet<Stretch>,
}

impl Order {
    /// One that holds so many hashes.
    pub(crate) fn new(held_max: usize) -> Self {
        Self {
            held_max,
            ..Self::default()
        }
    }

    /// A stream of which nothing has come; gives its number here.
    pub(crate) fn open(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.streams.push(Stream::default());
            self.streams.len() - 1
        })
    }

    /// Forgets a stream, whose number is another's from then on.
    #[cfg(feature = "index")]
    pub(crate) fn close(&mut self, id: usize) {
        if let Some(stream) = self.streams.get_mut(id) {
            let Stream { held, awaited, .. } = std::mem::take(stream);
            self.held -= held;
            self.awaited -= awaited.len();
            self.free.push(id);
        }
    }

    /// Takes in a record that is new in its stream, as the log has it; gives the stretch that
    /// is complete with it, and is not what was signed.
    #[cfg(any(test, feature = "index"))]
    pub(crate) fn take(&mut self, id: usize, sequence: u64, record: &[u8]) -> Option<Stretch> {
        self.take_hashed(id, sequence, crate::merkle::sha256(record))
    }

    /// As [`Order::take`], with the SHA-256 of the record.
    pub(crate) fn take_hashed(&mut self, id: usize, sequence: u64, hash: Hash) -> Option<Stretch> {
        if self.held >= self.held_max {
            self.let_go();
        }
        self.came += 1;
        let stream = self.streams.get_mut(id)?;
        stream.touched = self.came;
        self.held += stream.put(sequence, hash);
        if stream.awaited.is_empty() {
            return None;
        }
        let (stretch, same) = stream.complete_with(sequence)?;
        self.held -= stream.forget(&stretch);
        self.awaited -= 1;
        (!same).then_some(stretch)
    }

    /// Takes in a record of which it is only known that it came: nothing is said of the
    /// stretch that it is in.
    pub(crate) fn pass(&mut self, id: usize, sequence: u64) {
        self.take_hashed(id, sequence, GONE);
    }

    /// Takes in what is signed, at `at`; gives it back if that is not what came. To be called
    /// only where the signature holds.
    pub(crate) fn head(&mut self, id: usize, head: &Head, at: u64) -> Option<Stretch> {
        let stretch = Stretch {
            first: head.first_sequence.max(1),
            last: head.last_sequence,
            // One of another length is of nothing.
            digest: head.digest.as_slice().try_into().unwrap_or(GONE),
            at,
        };
        let stream = self.streams.get_mut(id)?;
        stream.signed = true;
        if stretch.first > stretch.last {
            return None;
        }
        if let Some(same) = stream.compare(&stretch) {
            self.held -= stream.forget(&stretch);
            return (!same).then_some(stretch);
        }
        let waiting = stream.awaited.len();
        let full = self.awaited >= AWAITED_ALL_MAX && waiting >= AWAITED_KEPT;
        if full || waiting >= AWAITED_MAX {
            self.beyond += 1;
        } else {
            self.awaited += usize::from(stream.awaited.insert(stretch));
        }
        None
    }

    /// What was signed of a stream, and waits for records.
    pub(crate) fn awaited(&self, id: usize) -> impl Iterator<Item = &Stretch> {
        let stream = self.streams.get(id);
        stream.into_iter().flat_map(|stream| &stream.awaited)
    }

    /// Heads that would have had to wait, and were more than may.
    pub(crate) fn beyond(&self) -> u64 {
        self.beyond
    }

    /// Heads that were not compared though their records may have come: those beyond, and
    /// those that wait in streams of which records were let go.
    #[cfg(feature = "index")]
    pub(crate) fn uncompared(&self) -> u64 {
        let let_go = self.streams.iter().filter(|stream| stream.let_go);
        let waiting: usize = let_go.map(|stream| stream.awaited.len()).sum();
        self.beyond.saturating_add(waiting as u64)
    }

    /// Makes room: streams let go of all that they hold, until half of it is free. First those of
    /// which nothing was ever signed, then those that hoard, then those of which nothing has come
    /// while as much came as is held: what a start that was killed has left waits for nothing. Of
    /// the others, those that hold most.
    fn let_go(&mut self) {
        let hoard = self.held_max / HOARD;
        let holding = self.streams.iter_mut().filter(|stream| stream.held > 0);
        let mut holding: Vec<&mut Stream> = holding.collect();
        let (came, span) = (self.came, self.held_max as u64);
        holding.sort_unstable_by_key(|s| {
            let is_live = came - s.touched <= span;
            (
                s.signed,
                s.held <= hoard,
                is_live,
                Reverse(s.held),
                s.touched,
            )
        });
        for stream in holding {
            if self.held <= self.held_max / 2 {
                break;
            }
            stream.runs.clear();
            stream.let_go = true;
            self.held -= std::mem::take(&mut stream.held);
        }
    }
}

impl Stream {
    /// Puts a hash in its place; gives how many more are held.
    fn put(&mut self, sequence: u64, hash: Hash) -> usize {
        let before = self.runs.range_mut(..=sequence).next_back();
        let first = match before {
            Some((first, run)) if sequence - first == run.len() as u64 => {
                run.push_back(hash);
                *first
            }
            // It came before.
            Some((first, run)) if sequence - first < run.len() as u64 => return 0,
            _ => {
                self.runs.insert(sequence, VecDeque::from([hash]));
                sequence
            }
        };
        self.held += 1;
        if let Some(next) = sequence.checked_add(1) {
            self.join(first, next);
        }
        1
    }

    /// Makes one of the runs that begin with `first` and `next`, if they follow each other.
    /// The shorter one moves: no order of arrival makes that dear.
    fn join(&mut self, first: u64, next: u64) {
        let Some(mut after) = self.runs.remove(&next) else {
            return;
        };
        let Some(run) = self.runs.get_mut(&first) else {
            return;
        };
        if run.len() < after.len() {
            std::mem::swap(run, &mut after);
            after
                .into_iter()
                .rev()
                .for_each(|hash| run.push_front(hash));
        } else {
            run.extend(after);
        }
    }

    /// Whether a stretch is what was signed; nothing where not all of it is held. Of what is
    /// gone nobody can tell.
    fn compare(&self, stretch: &Stretch) -> Option<bool> {
        let (first, run) = self.runs.range(..=stretch.first).next_back()?;
        let from = usize::try_from(stretch.first - first).ok()?;
        let to = usize::try_from(stretch.last - first).ok()?;
        (to < run.len()).then_some(())?;
        let mut digest = Context::new(&SHA256);
        let (mut skip, mut left) = (from, to - from + 1);
        let (one, other) = run.as_slices();
        for part in [one, other] {
            let part = part.get(skip.min(part.len())..).unwrap_or_default();
            skip = skip.saturating_sub(one.len());
            let part = part.get(..left.min(part.len())).unwrap_or_default();
            left -= part.len();
            if part.contains(&GONE) {
                return Some(true);
            }
            digest.update(part.as_flattened());
        }
        Some(digest.finish().as_ref() == stretch.digest)
    }

    /// What waited for the record with this number alone, and whether it is what was signed.
    fn complete_with(&mut self, sequence: u64) -> Option<(Stretch, bool)> {
        let most = Stretch {
            first: sequence,
            last: u64::MAX,
            digest: [u8::MAX; 32],
            at: u64::MAX,
        };
        let stretch = *self.awaited.range(..=most).next_back()?;
        let same = self.compare(&stretch)?;
        self.awaited.remove(&stretch);
        Some((stretch, same))
    }

    /// Forgets the hashes of a stretch, all of which are held; gives how many.
    fn forget(&mut self, stretch: &Stretch) -> usize {
        let before = self.runs.range(..=stretch.first).next_back();
        let Some(first) = before.map(|(first, _)| *first) else {
            return 0;
        };
        let mut run = self.runs.remove(&first).unwrap_or_default();
        let from = (stretch.first - first) as usize;
        let len = (stretch.last - stretch.first) as usize + 1;
        // The shorter rest moves.
        let (before, after) = if from < run.len() / 2 {
            let before: VecDeque<Hash> = run.drain(..from).collect();
            run.drain(..len);
            (before, run)
        } else {
            let after = run.split_off(from + len);
            run.truncate(from);
            (run, after)
        };
        for (first, run) in [(first, before), (stretch.last.saturating_add(1), after)] {
            if !run.is_empty() {
                self.runs.insert(first, run);
            }
        }
        self.held -= len;
        len
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::heads::Running;

    /// The records of a stream, and the heads that its reporter signs of them, of so many each.
    fn said(lens: &[u64]) -> (Vec<Vec<u8>>, Vec<Head>) {
        let (mut sender, mut records, mut heads) = (Running::default(), Vec::new(), Vec::new());
        for len in lens {
            for _ in 0..*len {
                let record = format!("record {}", records.len()).into_bytes();
                sender.take(&record);
                records.push(record);
            }
            heads.push(sender.head(0));
            sender.said();
        }
        (records, heads)
    }

    /// What comes of a stream.
    #[derive(Debug, Clone, Copy)]
    enum Comes {
        Record(usize),
        Head(usize),
    }

    proptest! {
        /// Whatever the order: a stretch is named if and only if a record of it was changed, and
        /// nothing is left to be compared.
        #[test]
        fn order_of_arrival_changes_nothing(
            lens in prop::collection::vec(0..6u64, 1..8),
            seed in any::<u64>(),
            changed in any::<prop::sample::Index>(),
            change in any::<bool>(),
        ) {
            let (mut records, heads) = said(&lens);
            let mut expected = Vec::new();
            if change && !records.is_empty() {
                let n = changed.index(records.len());
                records[n][0] ^= 1;
                let of = |head: &&Head| {
                    (head.first_sequence..=head.last_sequence).contains(&(n as u64 + 1))
                };
                expected.extend(heads.iter().find(of).map(|head| head.first_sequence));
            }
            let mut order: Vec<Comes> = (0..records.len()).map(Comes::Record).collect();
            order.extend((0..heads.len()).map(Comes::Head));
            let mut state = seed | 1;
            for n in (1..order.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                order.swap(n, (state >> 33) as usize % (n + 1));
            }
            let mut log = Order::new(1 << 10);
            let id = log.open();
            let mut found = Vec::new();
            for comes in order {
                found.extend(match comes {
                    Comes::Record(n) => log.take(id, n as u64 + 1, &records[n]),
                    Comes::Head(n) => log.head(id, &heads[n], n as u64),
                });
            }
            prop_assert_eq!(found.iter().map(|s| s.first).collect::<Vec<_>>(), expected);
            prop_assert_eq!((log.awaited(id).count(), log.awaited, log.held), (0, 0, 0));
        }
    }

    /// Missing is not changed, and what is gone is not judged; what follows is.
    #[test]
    fn a_stretch_that_is_not_whole_is_not_judged() {
        let (records, heads) = said(&[3, 2, 2]);
        let mut log = Order::new(100);
        let id = log.open();
        let take = |log: &mut Order, n: usize| log.take(id, n as u64 + 1, &records[n]);
        assert_eq!((take(&mut log, 0), take(&mut log, 2)), (None, None));
        assert_eq!(log.head(id, &heads[0], 0), None);
        assert_eq!(log.awaited(id).count(), 1);
        log.pass(id, 4);
        assert_eq!(log.take(id, 5, b"changed"), None);
        assert_eq!(log.head(id, &heads[1], 1), None);
        log.take(id, 6, b"changed");
        take(&mut log, 6);
        assert_eq!(
            log.head(id, &heads[2], 7).map(|s| (s.first, s.at)),
            Some((6, 7))
        );
        // Those of the stretch that one is missing from.
        assert_eq!(log.held, 2);
        assert_eq!(log.take(id, 2, b"changed").map(|s| s.first), Some(1));
        assert_eq!((log.held, log.awaited), (0, 0));
    }

    /// Numbers at the end of what there is are numbers.
    #[test]
    fn the_greatest_numbers_are_no_trouble() {
        let mut log = Order::new(100);
        let id = log.open();
        let head = |first_sequence, last_sequence| Head {
            first_sequence,
            last_sequence,
            ..Head::default()
        };
        for (first, last) in [(0, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 0), (0, 0)] {
            assert_eq!(log.head(id, &head(first, last), 0), None);
        }
        assert_eq!(log.awaited(id).count(), 2);
        log.take(id, u64::MAX - 1, b"a");
        let found = log.take(id, u64::MAX, b"b");
        assert_eq!(found.map(|s| s.first), Some(u64::MAX));
        assert_eq!(log.held, 1);
    }

    /// On both sides of the limit: a stream that hoards costs one that signs and is compared
    /// nothing, whether it signs itself or not, nor do those that were left.
    #[test]
    fn so_many_records_wait() {
        let (records, heads) = said(&[4]);
        let nothing = Running::default().head(0);
        for hoarder_signs in [false, true] {
            let mut log = Order::new(40);
            let (left, small, great) = (log.open(), log.open(), log.open());
            for id in [left, small] {
                log.head(id, &nothing, 0);
                for n in 0..3 {
                    log.take(id, n + 1, &records[n as usize]);
                }
            }
            if hoarder_signs {
                log.head(great, &nothing, 0);
            }
            for n in 1..=34 {
                log.take(great, n, b"unsigned");
            }
            assert_eq!(log.held, 40);
            assert!(!log.streams[great].let_go);
            log.take(great, 35, b"unsigned");
            assert_eq!((log.held, log.streams[great].let_go), (7, true));
            // What was let go is not compared, and told.
            assert_eq!(log.head(great, &heads[0], 0), None);
            assert_eq!(log.uncompared(), 1);
            assert_eq!(log.head(small, &heads[0], 0), None);
            let found = log.take(small, 4, b"changed");
            assert_eq!(found.map(|s| s.last), Some(4));
            // Of many that hold little, those that nothing came of for longest.
            let many: Vec<usize> = (0..37).map(|_| log.open()).collect();
            for (n, id) in many.iter().enumerate() {
                log.head(*id, &nothing, 0);
                log.take(*id, 1, &records[0]);
                assert_eq!(log.streams[left].let_go, n == 36);
            }
            let let_go = |id: &&usize| log.streams[**id].let_go;
            let kept = many.iter().skip_while(let_go);
            assert!(kept.clone().all(|id| !log.streams[*id].let_go));
            assert_eq!((log.held, kept.count()), (21, 21));
        }
    }

    /// On both sides of the limit of all streams; each has some beyond it.
    #[test]
    fn so_many_heads_wait_in_all() {
        let mut log = Order::new(100);
        let wait = |log: &mut Order, id, heads: std::ops::RangeInclusive<usize>| {
            for n in heads.map(|n| n as u64) {
                let head = Head {
                    first_sequence: n,
                    last_sequence: n,
                    ..Head::default()
                };
                log.head(id, &head, 0);
            }
        };
        while log.awaited < AWAITED_ALL_MAX {
            let id = log.open();
            wait(&mut log, id, 1..=AWAITED_MAX);
        }
        assert_eq!(log.beyond(), 0);
        let id = log.open();
        wait(&mut log, id, 1..=AWAITED_KEPT);
        assert_eq!(log.beyond(), 0);
        wait(&mut log, id, AWAITED_KEPT + 1..=AWAITED_KEPT + 1);
        assert_eq!((log.beyond(), log.awaited(id).count()), (1, AWAITED_KEPT));
    }

    /// On both sides of the limit.
    #[test]
    fn so_many_heads_wait() {
        let mut log = Order::new(100);
        let id = log.open();
        for n in 1..=AWAITED_MAX as u64 + 1 {
            assert_eq!(log.beyond(), 0);
            let head = Head {
                first_sequence: n,
                last_sequence: n,
                ..Head::default()
            };
            log.head(id, &head, n);
        }
        assert_eq!((log.beyond(), log.awaited(id).count()), (1, AWAITED_MAX));
    }
}
