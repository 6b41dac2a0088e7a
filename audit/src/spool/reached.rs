//! How far each start numbered what it has on disk, in a file beside the spool's.
//!
//! What a start that was killed left here can be taken away before the log has it. So the
//! next one says how far that was, in its signed heads, and what does not come is missed.
//! What the log is known to have is not said: another log, which never had it, would miss it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use palisade_mesh::{spiffe_id::SpiffeId, wire::record::Reached as Told};
use ulid::Ulid;

use super::OWN_WORKER;
use crate::files;

/// The file: a line with the reporter, and one for each stream with boot, worker and number, in
/// the order in which the starts began. That is not the order of their ULIDs: clocks are set back.
const REACHED: &str = "reached";

/// Most earlier starts that are told of at once, the newest first; of the others when the log has
/// heard of these.
pub(super) const STARTS_MAX: usize = 8;

/// Most of their streams that are told of at once.
pub(super) const STREAMS_MAX: usize = 512;

/// Most streams of earlier starts that are known; of more those of the newest.
pub(super) const KNOWN_MAX: usize = 4096;

/// Numbers of the last durable records that the log is not known to have.
pub(super) struct Reached {
    path: PathBuf,
    reporter: SpiffeId,
    boot: Ulid,
    own: BTreeMap<u32, u64>,
    /// By start, the oldest first.
    earlier: Vec<(Stream, u64)>,
    /// What signed heads of this start tell of, until the log has heard it.
    introduced: Option<Introduced>,
    /// What is in the file, as far as we wrote it.
    saved: String,
}

/// A stream of an earlier start: boot and worker.
type Stream = (Ulid, u32);

struct Introduced {
    /// Number of the first of these heads, in the spool's own stream.
    number: u64,
    streams: HashSet<Stream>,
}

impl Reached {
    /// Of a start of `reporter` in `dir`, where earlier ones have `left` this much.
    pub(super) fn load(
        dir: &Path,
        reporter: &SpiffeId,
        boot: Ulid,
        left: Vec<(Ulid, u32, u64)>,
    ) -> Self {
        let path = dir.join(REACHED);
        let text = fs::read_to_string(&path).unwrap_or_default();
        // What is somebody else's is not ours to tell.
        let of_it = text.strip_prefix(reporter.as_str());
        let lines = of_it
            .and_then(|text| text.strip_prefix('\n'))
            .unwrap_or_default();
        let known: Vec<_> = lines.lines().filter_map(read).collect();
        let mut order: HashMap<Ulid, usize> = HashMap::new();
        for (at, (boot, ..)) in (1..).zip(&known) {
            order.entry(*boot).or_insert(at);
        }
        let mut last: BTreeMap<Stream, u64> = BTreeMap::new();
        for (boot, worker, number) in known.into_iter().chain(left) {
            let last = last.entry((boot, worker)).or_default();
            *last = number.max(*last);
        }
        let mut earlier: Vec<_> = last.into_iter().filter(|(_, last)| *last > 0).collect();
        // Those that are not in the file were there before, and the log has heard of them.
        earlier.sort_by_key(|((boot, _), _)| order.get(boot).copied().unwrap_or_default());
        earlier.drain(..earlier.len().saturating_sub(KNOWN_MAX));
        Self {
            path,
            reporter: reporter.clone(),
            boot,
            own: BTreeMap::new(),
            earlier,
            introduced: None,
            saved: String::new(),
        }
    }

    /// Notes that the records of a worker are durable up to this one.
    pub(super) fn note(&mut self, worker: u32, last: u64) {
        self.own.insert(worker, last);
    }

    /// Heads that tell of [`Reached::told`] have this number.
    pub(super) fn tell(&mut self, number: u64) {
        if self.introduced.is_none() {
            let streams = self.newest().map(|(stream, _)| *stream).collect();
            self.introduced = Some(Introduced { number, streams });
        }
    }

    /// Forgets the streams that the log has, and those that it has heard of; `done` says how far
    /// it is known to have each.
    pub(super) fn deliver(&mut self, done: impl Fn(Ulid, u32) -> u64) {
        let boot = self.boot;
        self.own.retain(|worker, last| done(boot, *worker) < *last);
        let heard = self
            .introduced
            .take_if(|told| done(boot, OWN_WORKER) >= told.number);
        let heard = heard.map(|told| told.streams).unwrap_or_default();
        self.earlier
            .retain(|(stream, last)| !heard.contains(stream) && done(stream.0, stream.1) < *last);
    }

    /// What there is to tell of earlier starts now.
    pub(super) fn told(&self) -> Vec<Told> {
        let is_told = |stream: &Stream| match &self.introduced {
            Some(introduced) => introduced.streams.contains(stream),
            None => true,
        };
        let told = self.newest().filter(|(stream, _)| is_told(stream));
        told.map(|((boot, worker), last)| Told {
            boot: boot.to_bytes().to_vec(),
            worker: *worker,
            last_sequence: *last,
        })
        .collect()
    }

    /// Of the earlier starts as many as can be told of at once, the newest first.
    fn newest(&self) -> impl Iterator<Item = &(Stream, u64)> {
        let mut starts = 0;
        let mut start = None;
        let of_newest = self.earlier.iter().rev().take_while(move |((boot, _), _)| {
            starts += usize::from(start.replace(*boot) != Some(*boot));
            starts <= STARTS_MAX
        });
        of_newest.take(STREAMS_MAX)
    }

    /// Writes the file, if there is something new. It survives the process, and what is
    /// written with [`files::Sync::Yes`] a power cut.
    pub(super) fn save(&mut self, sync: files::Sync) {
        // That it has begun, and after which others, is said though nothing of it is here.
        let begun = (!self.own.contains_key(&OWN_WORKER)).then_some((OWN_WORKER, 0));
        let own = self.own.iter().map(|(worker, last)| (*worker, *last));
        let own = own.chain(begun);
        let own = own.map(|(worker, last)| ((self.boot, worker), last));
        let lines = self.earlier.iter().copied().chain(own);
        let lines = lines.map(|((boot, worker), last)| format!("{boot} {worker} {last}\n"));
        let text: String = std::iter::once(format!("{}\n", self.reporter))
            .chain(lines)
            .collect();
        if text == self.saved && sync == files::Sync::No {
            return;
        }
        match files::replace(&self.path, text.as_bytes(), sync) {
            Ok(()) => self.saved = text,
            Err(error) => {
                tracing::warn!(%error, "how far records are on this disk cannot be remembered");
            }
        }
    }
}

fn read(line: &str) -> Option<(Ulid, u32, u64)> {
    let mut words = line.split(' ');
    let boot = words.next()?.parse().ok()?;
    let worker = words.next()?.parse().ok()?;
    Some((boot, worker, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::reporter;

    fn boot(n: usize) -> Ulid {
        Ulid::from_parts(n as u64, 0)
    }

    fn told(reached: &Reached) -> Vec<(Ulid, u32, u64)> {
        let told = reached.told().into_iter();
        told.map(|t| {
            let boot = Ulid::from_bytes(t.boot.try_into().unwrap());
            (boot, t.worker, t.last_sequence)
        })
        .collect()
    }

    /// Until the log has heard of them, and also over starts that signed nothing.
    #[test]
    fn earlier_starts_are_told_until_they_were_heard_of() {
        let dir = tempfile::tempdir().unwrap();
        let load = |n| Reached::load(dir.path(), &reporter(), boot(n), Vec::new());
        for n in 1..=2 {
            let mut reached = load(n);
            reached.note(0, 7);
            reached.note(0, 9);
            reached.save(files::Sync::No);
        }
        let mut third = load(3);
        third.note(1, 1);
        assert_eq!(told(&third), [(boot(2), 0, 9), (boot(1), 0, 9)]);
        third.tell(4);
        third.deliver(|_, worker| if worker == OWN_WORKER { 3 } else { 0 });
        assert_eq!(told(&third).len(), 2);
        third.deliver(|_, worker| if worker == OWN_WORKER { 4 } else { 0 });
        assert_eq!(told(&third), []);
        third.save(files::Sync::No);
        // What the files say counts where it is more.
        let left = vec![(boot(3), 1, 4)];
        let fourth = Reached::load(dir.path(), &reporter(), boot(4), left);
        assert_eq!(told(&fourth), [(boot(3), 1, 4)]);
        let other = SpiffeId::parse("spiffe://acme.test/ns/shop/sa/web2").unwrap();
        let other = Reached::load(dir.path(), &other, boot(4), Vec::new());
        assert_eq!(told(&other), []);
    }

    /// A log that begins anew never had what another one has, and misses nothing of it.
    #[test]
    fn what_was_delivered_is_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let load = |n| Reached::load(dir.path(), &reporter(), boot(n), Vec::new());
        let mut first = load(1);
        for worker in 0..3 {
            first.note(worker, 7);
        }
        let done = |_, worker| [7, 6, 0][worker as usize];
        first.deliver(done);
        first.save(files::Sync::No);
        let mut second = load(2);
        assert_eq!(told(&second), [(boot(1), 2, 7), (boot(1), 1, 7)]);
        // What it left is sent by the one that follows.
        second.deliver(|_, worker| if worker == 1 { 7 } else { 0 });
        assert_eq!(told(&second), [(boot(1), 2, 7)]);
    }

    /// On both sides of both limits; the others are told once these were heard of.
    #[test]
    fn so_many_starts_and_streams_are_told_of_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let of = |starts: usize, streams: usize| {
            let left = (1..=starts).flat_map(|n| (0..streams).map(move |w| (boot(n), w as u32, 1)));
            Reached::load(dir.path(), &reporter(), boot(9999), left.collect())
        };
        let hear = |reached: &mut Reached| {
            reached.tell(1);
            reached.deliver(|_, worker| u64::from(worker == OWN_WORKER));
            told(reached)
        };
        assert_eq!(told(&of(STARTS_MAX, 1)).len(), STARTS_MAX);
        let mut more = of(STARTS_MAX + 1, 1);
        let newest = told(&more);
        assert_eq!(
            (newest.len(), newest[0].0),
            (STARTS_MAX, boot(STARTS_MAX + 1))
        );
        assert_eq!(hear(&mut more), [(boot(1), 0, 1)]);
        assert_eq!(hear(&mut more), []);

        assert_eq!(told(&of(2, STREAMS_MAX / 2)).len(), STREAMS_MAX);
        let mut more = of(2, STREAMS_MAX / 2 + 1);
        let newest = told(&more);
        assert_eq!(newest.len(), STREAMS_MAX);
        let of_second = newest.iter().filter(|t| t.0 == boot(2));
        assert_eq!(of_second.count(), STREAMS_MAX / 2 + 1);
        assert_eq!(hear(&mut more).len(), 2);
        assert_eq!(of(KNOWN_MAX, 1).earlier.len(), KNOWN_MAX);
        let most = of(KNOWN_MAX + 1, 1).earlier;
        assert_eq!((most.len(), most[0].0), (KNOWN_MAX, (boot(2), 0)));
    }

    /// A start whose clock was set back is no older one.
    #[test]
    fn the_newest_start_is_the_one_that_began_last() {
        let dir = tempfile::tempdir().unwrap();
        let load = |n| Reached::load(dir.path(), &reporter(), boot(n), Vec::new());
        for n in 100..100 + STARTS_MAX {
            let mut reached = load(n);
            reached.note(0, 7);
            reached.save(files::Sync::No);
        }
        let mut set_back = load(1);
        // It is known before anything of it is.
        set_back.save(files::Sync::No);
        let left = vec![(boot(1), 0, 3)];
        let after = Reached::load(dir.path(), &reporter(), boot(2), left);
        assert_eq!(told(&after)[0], (boot(1), 0, 3));
        set_back.note(0, 3);
        set_back.save(files::Sync::No);
        load(2).save(files::Sync::No);
        let third = told(&load(3));
        assert_eq!((third.len(), third[0]), (STARTS_MAX, (boot(1), 0, 3)));
    }
}
