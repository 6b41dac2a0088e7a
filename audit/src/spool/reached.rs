//! How far each start numbered what it has on disk, in a file beside the spool's.
//!
//! What a start that was killed left here can be taken away before the log has it. So the
//! next one says how far that was, in its signed heads, and what does not come is missed.
//! What the log is known to have is not said: another log, which never had it, would miss it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use palisade_mesh::{spiffe_id::SpiffeId, wire::record::Reached as Told};
use ulid::Ulid;

use super::OWN_WORKER;
use crate::files;

/// The file: a line with the reporter, and one for each stream with boot, worker and number.
const REACHED: &str = "reached";

/// Most earlier starts that are told of; of more that the log never heard of, the newest.
pub(super) const STARTS_MAX: usize = 8;

/// Most of their streams in all, the newest starts first.
pub(super) const STREAMS_MAX: usize = 512;

/// Numbers of the last durable records that the log is not known to have.
pub(super) struct Reached {
    path: PathBuf,
    reporter: SpiffeId,
    boot: Ulid,
    own: BTreeMap<u32, u64>,
    earlier: BTreeMap<(Ulid, u32), u64>,
    /// Number of the first signed heads of this start, in the spool's own stream.
    introduced: Option<u64>,
    /// What is in the file, as far as we wrote it.
    saved: String,
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
        let mut earlier = BTreeMap::new();
        for (boot, worker, number) in lines.lines().filter_map(read).chain(left) {
            let last = earlier.entry((boot, worker)).or_insert(0);
            *last = number.max(*last);
        }
        let starts: BTreeSet<Ulid> = earlier.keys().map(|(boot, _)| *boot).collect();
        let newest: BTreeSet<Ulid> = starts.into_iter().rev().take(STARTS_MAX).collect();
        let mut room = STREAMS_MAX;
        let mut kept = BTreeMap::new();
        for (stream, last) in earlier.into_iter().rev() {
            if room > 0 && newest.contains(&stream.0) {
                room -= 1;
                kept.insert(stream, last);
            }
        }
        Self {
            path,
            reporter: reporter.clone(),
            boot,
            own: BTreeMap::new(),
            earlier: kept,
            introduced: None,
            saved: String::new(),
        }
    }

    /// Notes that the records of a worker are durable up to this one.
    pub(super) fn note(&mut self, worker: u32, last: u64) {
        self.own.insert(worker, last);
    }

    /// Heads that tell of the earlier starts have this number.
    pub(super) fn tell(&mut self, number: u64) {
        self.introduced.get_or_insert(number);
    }

    /// Forgets the streams that the log has, and the earlier ones when it has heard of them;
    /// `done` says how far it is known to have each.
    pub(super) fn deliver(&mut self, done: impl Fn(Ulid, u32) -> u64) {
        let boot = self.boot;
        let heard = self.introduced.is_some_and(|n| done(boot, OWN_WORKER) >= n);
        self.own.retain(|worker, last| done(boot, *worker) < *last);
        self.earlier
            .retain(|(boot, worker), last| !heard && done(*boot, *worker) < *last);
    }

    /// What there is to tell of earlier starts.
    pub(super) fn told(&self) -> Vec<Told> {
        let earlier = self.earlier.iter();
        earlier
            .map(|((boot, worker), last)| Told {
                boot: boot.to_bytes().to_vec(),
                worker: *worker,
                last_sequence: *last,
            })
            .collect()
    }

    /// Writes the file, if there is something new. It survives the process, and what is
    /// written with [`files::Sync::Yes`] a power cut.
    pub(super) fn save(&mut self, sync: files::Sync) {
        let own = self.own.iter().map(|(w, last)| ((self.boot, *w), *last));
        let earlier = self.earlier.iter().map(|(stream, last)| (*stream, *last));
        let lines = earlier.chain(own);
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
        assert_eq!(told(&third), [(boot(1), 0, 9), (boot(2), 0, 9)]);
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
        assert_eq!(told(&second), [(boot(1), 1, 7), (boot(1), 2, 7)]);
        // What it left is sent by the one that follows.
        second.deliver(|_, worker| if worker == 1 { 7 } else { 0 });
        assert_eq!(told(&second), [(boot(1), 2, 7)]);
    }

    /// On both sides of both limits.
    #[test]
    fn so_many_starts_and_streams_are_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let of = |starts: usize, streams: usize| {
            let left = (1..=starts).flat_map(|n| (0..streams).map(move |w| (boot(n), w as u32, 1)));
            let left = left.collect();
            told(&Reached::load(dir.path(), &reporter(), boot(99), left))
        };
        assert_eq!(of(STARTS_MAX, 1).len(), STARTS_MAX);
        let more = of(STARTS_MAX + 1, 1);
        assert_eq!((more.len(), more[0].0), (STARTS_MAX, boot(2)));
        assert_eq!(of(2, STREAMS_MAX / 2).len(), STREAMS_MAX);
        let more = of(2, STREAMS_MAX / 2 + 1);
        assert_eq!(more.len(), STREAMS_MAX);
        assert_eq!(
            more.iter().filter(|t| t.0 == boot(2)).count(),
            STREAMS_MAX / 2 + 1
        );
    }
}
