//! All streams a log knows, with a snapshot file.
//!
//! The snapshot is derived: it spares reading the whole log again on start. It
//! carries a digest, for a wrong position would drop a record as a duplicate.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::Arc,
};

use prost::Message as _;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::{
    Position, Range, STREAMS_MAX, STREAMS_PER_REPORTER_MAX, Seen, StreamKey,
    gaps::{Gaps, TooMany},
};
use crate::{
    files,
    heads::{Certified, Checks, Place, Signature, Statement},
    merkle::{hex, sha256},
};

/// Streams of one reporter from which on room is made, and how many stay then. The
/// distance to the limit is more than one group can open.
const CROWDED: usize = STREAMS_PER_REPORTER_MAX / 8 * 7;
const CROWD_KEPT: usize = STREAMS_PER_REPORTER_MAX / 4 * 3;
/// The same for all streams of the log.
const FULL: usize = STREAMS_MAX / 8 * 7;
const FULL_KEPT: usize = STREAMS_MAX / 4 * 3;

/// Positions of all streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    ids: FxHashMap<Arc<StreamKey>, usize>,
    list: Vec<Stream>,
    per_reporter: FxHashMap<Arc<str>, usize>,
    // Missing ranges of reporters and their starts.
    gaps: Gaps,
    // Counts the changes of what is missing.
    changes: u64,
    // Numbers of the streams that miss something.
    gappy: BTreeSet<usize>,
    // Records noted so far.
    noted: u64,
    crowded: bool,
    // Who signs heads.
    certified: Certified,
    // The newest boot of each reporter of which a stream was forgotten: what is said of
    // those up to it is said of what may have been here.
    forgotten: FxHashMap<Arc<str>, Ulid>,
}

#[derive(Debug)]
struct Stream {
    key: Arc<StreamKey>,
    position: Position,
    encoded: Box<[u8]>,
    // When it was noted last, as a count of records.
    noted: u64,
    // Missing ranges that its reporter is counted with.
    gaps: usize,
}

impl Stream {
    /// Streams that are forgotten first: those that said their last word, then those
    /// that have been silent the longest; those that miss something come last, for a
    /// gap is told as long as it is open.
    fn rank(&self) -> (bool, bool, u64, ulid::Ulid) {
        let Position {
            missing, closed, ..
        } = &self.position;
        (!missing.is_empty(), !closed, self.noted, self.key.boot)
    }
}

/// What the streams were before a group, to go back when it cannot be written.
#[derive(Debug, Default)]
pub(crate) struct Undo {
    before: FxHashMap<usize, Position>,
    // The stream noted last: batches are of one stream.
    last: Option<usize>,
}

/// Why a stream or a batch is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("reporter has more than {STREAMS_PER_REPORTER_MAX} streams")]
    Reporter,
    #[error("log has more than {STREAMS_MAX} streams")]
    Streams,
    #[error(transparent)]
    Gaps(#[from] TooMany),
}

impl Streams {
    /// Number of the stream, which is made when it is new.
    pub(crate) fn enter(&mut self, key: &Arc<StreamKey>) -> Result<usize, Refused> {
        if let Some(id) = self.ids.get(key) {
            return Ok(*id);
        }
        if self.list.len() >= STREAMS_MAX {
            return Err(Refused::Streams);
        }
        let count = self
            .per_reporter
            .entry(key.reporter.as_str().into())
            .or_default();
        if *count >= STREAMS_PER_REPORTER_MAX {
            return Err(Refused::Reporter);
        }
        *count += 1;
        self.crowded |= *count >= CROWDED || self.list.len() >= FULL;
        self.list.push(Stream {
            key: key.clone(),
            position: Position::default(),
            encoded: key.to_wire().encode_to_vec().into(),
            noted: self.noted,
            gaps: 0,
        });
        self.ids.insert(key.clone(), self.list.len() - 1);
        Ok(self.list.len() - 1)
    }

    /// Forgets old streams where there are many: each start of each replica of a
    /// service makes new ones under the same name, and a reporter that is refused
    /// for its past could never deliver again. Numbers of streams change, so no
    /// group may be under way.
    pub(crate) fn make_room(&mut self) {
        if !std::mem::take(&mut self.crowded) {
            return;
        }
        let mut list = std::mem::take(&mut self.list);
        list.sort_by_key(Stream::rank);
        let mut spare = list.len().saturating_sub(FULL_KEPT);
        if list.len() < FULL {
            spare = 0;
        }
        let mut of_reporter: FxHashMap<Arc<str>, usize> = std::mem::take(&mut self.per_reporter)
            .into_iter()
            .filter(|(_, count)| *count >= CROWDED)
            .map(|(reporter, count)| (reporter, count - CROWD_KEPT))
            .collect();
        list.retain(|stream| {
            let own = of_reporter.get_mut(stream.key.reporter.as_str());
            let own = own.filter(|left| **left > 0);
            let forget = own.is_some() || spare > 0;
            if let Some(left) = own {
                *left -= 1;
            }
            spare = spare.saturating_sub(usize::from(forget));
            if forget {
                let newest = self.forgotten.entry(stream.key.reporter.as_str().into());
                let newest = newest.or_insert(stream.key.boot);
                *newest = stream.key.boot.max(*newest);
            }
            !forget
        });
        self.ids = list
            .iter()
            .enumerate()
            .map(|(id, s)| (s.key.clone(), id))
            .collect();
        self.gappy.clear();
        self.gaps = Gaps::default();
        for (id, stream) in list.iter_mut().enumerate() {
            let reporter: Arc<str> = stream.key.reporter.as_str().into();
            stream.gaps = stream.position.missing.len();
            if stream.gaps > 0 {
                self.gappy.insert(id);
                self.gaps.change(&stream.key, 0, stream.gaps);
            }
            *self.per_reporter.entry(reporter).or_default() += 1;
        }
        self.changes += 1;
        self.list = list;
    }

    /// Whether `new_ranges` more gaps may be remembered for a stream.
    pub(crate) fn admit_gaps(&self, id: usize, new_ranges: usize) -> Result<(), Refused> {
        let Some(stream) = self.list.get(id).filter(|_| new_ranges > 0) else {
            return Ok(());
        };
        let of_stream = stream.position.missing.len();
        Ok(self.gaps.admit(&stream.key, of_stream, new_ranges)?)
    }

    /// Whether a sequence number would add to the missing ranges: by leaving numbers
    /// out, or by parting a range in two. Filling one up always may.
    pub(crate) fn adds_gap(&self, id: usize, sequence: u64) -> bool {
        let Some(Stream { position, .. }) = self.list.get(id) else {
            return sequence > 1;
        };
        let parts = |range: &Range| range.from < sequence && sequence < range.to;
        sequence > position.next || position.missing.iter().any(parts)
    }

    /// Whether a number of a stream was noted.
    pub(crate) fn has(&self, id: usize, sequence: u64) -> bool {
        let stream = self.list.get(id);
        stream.is_some_and(|stream| stream.position.has(sequence))
    }

    /// Notes a sequence number; `undo` remembers what was before.
    pub(crate) fn observe(&mut self, id: usize, sequence: u64, undo: Option<&mut Undo>) -> Seen {
        let Some(stream) = self.list.get_mut(id) else {
            return Seen::Duplicate;
        };
        self.noted += 1;
        stream.noted = self.noted;
        if let Some(undo) = undo.filter(|undo| undo.last != Some(id)) {
            undo.last = Some(id);
            undo.before
                .entry(id)
                .or_insert_with(|| stream.position.clone());
        }
        let seen = stream.position.observe(sequence);
        if !matches!(seen, Seen::Next | Seen::Duplicate) {
            self.note_gaps(id);
        }
        seen
    }

    /// Takes in heads that came in the record `at`; gives what should have arrived by now
    /// and has not. Only what is signed says anything, and a signature is checked only where
    /// there is something to learn: heads follow their records, which are here. `checks` says
    /// how many may be; what is said beyond comes again with the next heads.
    pub(crate) fn hear(
        &mut self,
        at: Place<'_>,
        statement: &Statement,
        mut undo: Option<&mut Undo>,
        checks: &mut Checks,
    ) -> Vec<(Arc<StreamKey>, Range)> {
        let own = at.stream;
        let certifies = self.certified.is_new(statement, own);
        let ahead = |(key, last): (StreamKey, u64)| self.is_ahead(&key, last);
        let tells = statement.promised(own).any(ahead);
        if !(certifies || tells) {
            return Vec::new();
        }
        if !checks.take(&own.reporter) {
            if certifies {
                self.certified.claim(statement, own);
            }
            return Vec::new();
        }
        if !matches!(self.certified.check(statement, at), Signature::Holds(_)) {
            return Vec::new();
        }
        self.certified.remember(statement, own);
        if !tells {
            return Vec::new();
        }
        let promised = statement.promised(own).filter_map(|(key, last)| {
            if key.boot != own.boot && self.is_forgotten(&key) {
                return None;
            }
            let key = Arc::new(key);
            let range = self.promise(&key, last, undo.as_deref_mut())?;
            Some((key, range))
        });
        promised.collect()
    }

    /// Whether a stream that is not known may have been before.
    fn is_forgotten(&self, key: &StreamKey) -> bool {
        let newest = self.forgotten.get(key.reporter.as_str());
        !self.ids.contains_key(key) && newest.is_some_and(|newest| key.boot <= *newest)
    }

    /// Whether a stream has not come as far as `last`.
    fn is_ahead(&self, key: &StreamKey, last: u64) -> bool {
        self.ids.get(key).map_or(1, |id| self.next(*id)) <= last
    }

    /// Notes that a stream has records up to `last`; gives those that should have arrived by
    /// now and have not. What its reporter sends comes before what it promises: streams that
    /// are known by promises alone leave room for others.
    fn promise(
        &mut self,
        key: &Arc<StreamKey>,
        last: u64,
        undo: Option<&mut Undo>,
    ) -> Option<Range> {
        let of_reporter = self.per_reporter.get(key.reporter.as_str());
        let crowded = of_reporter.is_some_and(|count| *count >= CROWDED);
        if crowded && !self.ids.contains_key(key) {
            return None;
        }
        let id = self.enter(key).ok()?;
        let adds = usize::from(!self.list.get(id)?.position.adjoins());
        self.admit_gaps(id, adds).ok()?;
        let stream = self.list.get_mut(id)?;
        if let Some(undo) = undo {
            undo.before
                .entry(id)
                .or_insert_with(|| stream.position.clone());
        }
        let range = stream.position.promise(last);
        if range.is_some() {
            self.note_gaps(id);
        }
        range
    }

    fn note_gaps(&mut self, id: usize) {
        let Some(stream) = self.list.get_mut(id) else {
            return;
        };
        let now = stream.position.missing.len();
        let before = std::mem::replace(&mut stream.gaps, now);
        self.changes += 1;
        match now {
            0 => self.gappy.remove(&id),
            _ => self.gappy.insert(id),
        };
        self.gaps.change(&stream.key, before, now);
    }

    /// Grows with every change of what is missing.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Streams that miss something, and what.
    pub(crate) fn with_gaps(&self) -> impl Iterator<Item = (&Arc<StreamKey>, &[Range])> {
        let streams = self.gappy.iter().filter_map(|id| self.list.get(*id));
        streams.map(|s| (&s.key, s.position.missing.as_slice()))
    }

    /// Lowest sequence number never seen in a stream.
    pub(crate) fn next(&self, id: usize) -> u64 {
        self.list.get(id).map_or(1, |stream| stream.position.next)
    }

    /// Marks a stream as closed by its head.
    pub(crate) fn close(&mut self, id: usize) {
        if let Some(stream) = self.list.get_mut(id) {
            stream.position.closed = true;
        }
    }

    /// Encoded `StreamId`.
    pub(crate) fn encoded(&self, id: usize) -> &[u8] {
        self.list.get(id).map_or(&[], |stream| &stream.encoded)
    }

    /// Takes back everything noted with `undo`.
    pub(crate) fn roll_back(&mut self, undo: Undo) {
        for (id, position) in undo.before {
            if let Some(stream) = self.list.get_mut(id) {
                stream.position = position;
            }
            self.note_gaps(id);
        }
    }

    /// Streams and their positions.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<StreamKey>, &Position)> {
        self.list.iter().map(|s| (&s.key, &s.position))
    }

    /// What a snapshot at `size` is as a file.
    pub(crate) fn encode(&self, size: u64) -> io::Result<Vec<u8>> {
        let streams = self
            .iter()
            .map(|(key, position)| Line {
                reporter: key.reporter.as_str().into(),
                boot: key.boot.to_string(),
                worker: key.worker,
                next: position.next,
                missing: position.missing.clone(),
                closed: position.closed,
            })
            .collect();
        let forgotten = self.forgotten.iter();
        let forgotten = forgotten
            .map(|(reporter, boot)| (reporter.to_string(), boot.to_string()))
            .collect();
        let body = serde_json::to_vec(&Snapshot {
            size,
            streams,
            forgotten,
        })?;
        let mut text = hex(&sha256(&body)).into_bytes();
        text.push(b'\n');
        text.extend_from_slice(&body);
        Ok(text)
    }

    /// Writes a snapshot; durable when it returns.
    pub(crate) fn write(path: &Path, snapshot: &[u8]) -> io::Result<()> {
        files::replace(path, snapshot, files::Sync::Yes)
    }

    /// Reads a snapshot and the size it was taken at; `None` when it is of no use.
    pub(crate) fn load(path: &Path) -> Option<(u64, Self)> {
        let text = fs::read(path).ok()?;
        let (digest, body) = text.split_at_checked(65)?;
        if digest.strip_suffix(b"\n")? != hex(&sha256(body)).as_bytes() {
            return None;
        }
        let snapshot: Snapshot = serde_json::from_slice(body).ok()?;
        let mut streams = Self::default();
        for line in snapshot.streams {
            let key = StreamKey {
                reporter: line.reporter.parse().ok()?,
                boot: line.boot.parse().ok()?,
                worker: line.worker,
            };
            let id = streams.enter(&Arc::new(key)).ok()?;
            if let Some(stream) = streams.list.get_mut(id) {
                stream.position = Position {
                    next: line.next,
                    missing: line.missing,
                    closed: line.closed,
                }
                .joined();
            }
            streams.note_gaps(id);
        }
        for (reporter, boot) in snapshot.forgotten {
            let boot = boot.parse().ok()?;
            streams.forgotten.insert(reporter.into(), boot);
        }
        Some((snapshot.size, streams))
    }
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    size: u64,
    streams: Vec<Line>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    forgotten: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    reporter: String,
    boot: String,
    worker: u32,
    next: u64,
    missing: Vec<Range>,
    closed: bool,
}

#[cfg(test)]
mod tests {
    use palisade_mesh::spiffe_id::SpiffeId;

    use super::*;
    use crate::stream::{GAPS_MAX, GAPS_PER_BOOT_KEPT, GAPS_PER_BOOT_MAX, GAPS_PER_REPORTER_MAX};

    fn key(worker: u32) -> Arc<StreamKey> {
        Arc::new(StreamKey {
            reporter: SpiffeId::parse("spiffe://acme.test/web").unwrap(),
            boot: ulid::Ulid::from_parts(1, 2),
            worker,
        })
    }

    #[test]
    fn a_snapshot_gives_back_the_positions_and_a_changed_one_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("streams");
        let mut streams = Streams::default();
        for worker in 0..3 {
            let id = streams.enter(&key(worker)).unwrap();
            streams.observe(id, u64::from(worker) + 1, None);
        }
        streams.close(1);
        Streams::write(&path, &streams.encode(3).unwrap()).unwrap();
        let (size, loaded) = Streams::load(&path).unwrap();
        assert_eq!(size, 3);
        assert!(loaded.iter().eq(streams.iter()));

        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"next\":2", "\"next\":9")).unwrap();
        assert!(Streams::load(&path).is_none());
    }

    #[test]
    fn rolling_back_forgets_the_group_alone() {
        let mut streams = Streams::default();
        let id = streams.enter(&key(0)).unwrap();
        streams.observe(id, 1, None);
        let mut undo = Undo::default();
        streams.observe(id, 2, Some(&mut undo));
        streams.observe(id, 7, Some(&mut undo));
        streams.roll_back(undo);
        assert_eq!(streams.observe(id, 2, None), Seen::Next);
    }

    #[test]
    fn a_reporter_cannot_open_streams_without_end() {
        let mut streams = Streams::default();
        for worker in 0..STREAMS_PER_REPORTER_MAX as u32 {
            streams.enter(&key(worker)).unwrap();
        }
        let more = key(STREAMS_PER_REPORTER_MAX as u32);
        assert_eq!(streams.enter(&more), Err(Refused::Reporter));
    }

    /// Restarts and rollouts of years must not end in a refusal for ever.
    #[test]
    fn finished_streams_make_room_and_open_ones_are_remembered() {
        let mut streams = Streams::default();
        let open = streams.enter(&key(0)).unwrap();
        streams.observe(open, 1, None);
        for worker in 1..3 * STREAMS_PER_REPORTER_MAX as u32 {
            let id = streams.enter(&key(worker)).unwrap();
            streams.observe(id, 1, None);
            streams.close(id);
            streams.make_room();
            assert!(streams.list.len() < STREAMS_PER_REPORTER_MAX);
        }
        let open = streams.enter(&key(0)).unwrap();
        assert_eq!(streams.observe(open, 1, None), Seen::Duplicate);
        let newest = streams
            .enter(&key(3 * STREAMS_PER_REPORTER_MAX as u32 - 1))
            .unwrap();
        assert_eq!(streams.observe(newest, 1, None), Seen::Duplicate);
        let oldest = streams.enter(&key(1)).unwrap();
        assert_eq!(streams.observe(oldest, 1, None), Seen::Next);
    }

    /// A reporter that was always killed leaves no closed streams.
    #[test]
    fn without_finished_streams_the_silent_ones_make_room() {
        let mut streams = Streams::default();
        for worker in 0..2 * STREAMS_PER_REPORTER_MAX as u32 {
            for active in [0, worker] {
                let id = streams.enter(&key(active)).unwrap();
                let next = streams.next(id);
                streams.observe(id, next, None);
            }
            streams.make_room();
        }
        let active = streams.enter(&key(0)).unwrap();
        assert!(streams.next(active) > 2 * STREAMS_PER_REPORTER_MAX as u64);
    }

    /// Opens gaps in streams of a start until one is refused; gives how many there are.
    fn hoard(streams: &mut Streams, boot: u64) -> usize {
        let mut opened = 0;
        for worker in 0.. {
            let id = streams.enter(&of_boot(boot, worker)).unwrap();
            for n in 1..=GAPS_MAX as u64 {
                if streams.admit_gaps(id, 1).is_err() {
                    return opened;
                }
                streams.observe(id, 2 * n, None);
                opened += 1;
            }
        }
        opened
    }

    fn of_boot(boot: u64, worker: u32) -> Arc<StreamKey> {
        Arc::new(StreamKey {
            boot: ulid::Ulid::from_parts(boot, 2),
            worker,
            ..(*key(0)).clone()
        })
    }

    #[test]
    fn gaps_of_a_start_are_bounded() {
        let mut streams = Streams::default();
        assert_eq!(hoard(&mut streams, 1), GAPS_PER_BOOT_MAX);
        let other = streams.enter(&key(99)).unwrap();
        let refused = Err(Refused::Gaps(TooMany::Boot));
        assert_eq!(streams.admit_gaps(other, 1), refused);
        assert_eq!(streams.admit_gaps(other, 0), Ok(()));
        assert_eq!(streams.promise(&key(99), 5, None), None);
        // One that is closed makes room, one that is taken back does not.
        let mut undo = Undo::default();
        streams.observe(0, 1, Some(&mut undo));
        assert_eq!(streams.admit_gaps(other, 1), Ok(()));
        streams.roll_back(undo);
        assert_eq!(streams.admit_gaps(other, 1), refused);
        streams.observe(0, 1, None);
        assert_eq!(
            streams.promise(&key(99), 5, None),
            Some(Range { from: 1, to: 5 })
        );
        assert_eq!(
            streams.promise(&key(99), 7, None),
            Some(Range { from: 6, to: 7 })
        );
        assert_eq!(streams.promise(&key(98), 7, None), None);
    }

    /// One instance of a service does not stop its replicas, and all of them have a bound.
    #[test]
    fn gaps_of_a_start_leave_its_replicas_theirs() {
        let mut streams = Streams::default();
        let many = GAPS_PER_REPORTER_MAX / GAPS_PER_BOOT_MAX;
        for boot in 1..many as u64 {
            assert_eq!(hoard(&mut streams, boot), GAPS_PER_BOOT_MAX);
        }
        let honest = streams.enter(&of_boot(100, 0)).unwrap();
        streams.observe(honest, 2, None);
        assert_eq!(hoard(&mut streams, 99), GAPS_PER_BOOT_MAX - 1);
        for n in 2..=GAPS_PER_BOOT_KEPT as u64 {
            assert_eq!(streams.admit_gaps(honest, 1), Ok(()));
            streams.observe(honest, 2 * n, None);
        }
        let refused = Err(Refused::Gaps(TooMany::Reporter));
        assert_eq!(streams.admit_gaps(honest, 1), refused);
        // And the room that is made of what was forgotten counts the same.
        streams.crowded = true;
        streams.make_room();
        let honest = streams.enter(&of_boot(100, 0)).unwrap();
        assert_eq!(streams.admit_gaps(honest, 1), refused);
        assert_eq!(hoard(&mut streams, 101), GAPS_PER_BOOT_KEPT);
    }

    /// What was forgotten may have been here: nothing is missed of it.
    #[test]
    fn nothing_is_missed_of_starts_that_were_forgotten() {
        let mut streams = Streams::default();
        for worker in 0..CROWDED as u32 {
            let id = streams.enter(&key(worker)).unwrap();
            streams.observe(id, 1, None);
            streams.close(id);
        }
        streams.make_room();
        assert!(streams.is_forgotten(&key(0)));
        assert!(!streams.is_forgotten(&key(CROWDED as u32 - 1)));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("streams");
        Streams::write(&path, &streams.encode(3).unwrap()).unwrap();
        assert!(Streams::load(&path).unwrap().1.is_forgotten(&key(0)));
    }

    #[test]
    fn gaps_per_stream_are_bounded() {
        let mut streams = Streams::default();
        let id = streams.enter(&key(0)).unwrap();
        for n in 1..=GAPS_MAX as u64 {
            assert_eq!(streams.admit_gaps(id, 1), Ok(()));
            streams.observe(id, 2 * n, None);
        }
        let refused = Err(Refused::Gaps(TooMany::Stream));
        assert_eq!(streams.admit_gaps(id, 1), refused);
        assert_eq!(streams.admit_gaps(id, 0), Ok(()));
        // At the limit what adjoins the last one is no other.
        let Position { next, .. } = streams.list[id].position;
        assert_eq!(streams.promise(&key(0), next, None), None);
        // At the limit a gap can still be closed.
        assert!(!streams.adds_gap(id, 1) && !streams.adds_gap(id, 2));
        assert!(streams.adds_gap(id, 3 * GAPS_MAX as u64));
    }
}
