//! Where the segments of a log are, and how one is opened wherever it is.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    path::Path,
    sync::{Arc, PoisonError},
};

use palisade_mesh::wire::{
    audit::{Envelope, Moved},
    record::{Record, record::Body},
};
use prost::Message as _;

use super::super::{
    Log, LogError, Scan,
    reader::Shared,
    recover::{STREAMS, lacks},
};
use crate::{
    archive::{self, Archive, Away},
    files,
    holds::HOLD_ADDED,
    segment::{self, Back, Stub},
    stream::Streams,
};

/// A segment that went away.
pub(crate) struct Span {
    /// Its records.
    pub(crate) segment: Range<u64>,
    /// The first time of receipt, microseconds since the Unix epoch, and the latest.
    pub(crate) first_us: i64,
    pub(crate) latest_us: i64,
}

impl Span {
    fn of(moved: &Moved) -> Self {
        Self {
            segment: moved.first..moved.next,
            first_us: moved.first_us,
            latest_us: moved.latest_us,
        }
    }
}

/// Where the segments of a log are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// Segments that are in the archive alone.
    pub moved: u64,
    /// Their bytes.
    pub moved_bytes: u64,
    /// Segments that are here.
    pub here: u64,
    /// Their bytes.
    pub here_bytes: u64,
    /// Of these, how many were brought back.
    pub back: u64,
}

/// What the records of a log need beside them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// The keys of persons: something is sealed.
    pub keys: bool,
    /// The holds: at least one was ordered.
    pub holds: bool,
}

impl Log {
    /// Where its old segments go, if anywhere.
    pub fn archive(&self) -> Option<&Arc<Archive>> {
        self.inner.shared.archive.as_ref()
    }

    /// Where its segments are.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn whereabouts(&self) -> Result<Whereabouts, LogError> {
        let dir = &self.inner.shared.dir;
        let mut found = Whereabouts::default();
        for first in segment::list(dir).map_err(LogError::io(dir))? {
            let path = dir.join(segment::relative(first));
            match fs::metadata(&path) {
                Ok(metadata) => {
                    found.here += 1;
                    found.here_bytes += metadata.len();
                    found.back += u64::from(Back::path(dir, first).exists());
                }
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(LogError::io(path)(e)),
                Err(_) => {
                    // One that is damaged is named by who needs it.
                    let stub = Stub::read(dir, first);
                    found.moved += 1;
                    found.moved_bytes += stub.map_or(0, |stub| stub.moved.length);
                }
            }
        }
        Ok(found)
    }

    /// The first record that no archive is needed for, nor for any that follows.
    pub(crate) fn here_from(&self) -> u64 {
        let dir = &self.inner.shared.dir;
        let mut firsts = segment::list(dir).unwrap_or_default();
        while let Some(first) = firsts.pop() {
            if is_away(dir, first) {
                return Stub::read(dir, first).map_or(first, |stub| stub.moved.next);
            }
        }
        0
    }

    /// When it received its first record, microseconds since the Unix epoch; nothing where it
    /// has none. Nothing is fetched for that.
    ///
    /// # Errors
    /// [`LogError`] when it cannot be read.
    pub fn begins_us(&self) -> Result<Option<i64>, LogError> {
        if self.len() == 0 {
            return Ok(None);
        }
        if self.is_away(0) {
            return self.stub(0).map(|stub| Some(stub.moved.first_us));
        }
        self.received_us(0).map(Some)
    }

    /// Where the first record lies that was received at `us` or later, as far as that is known
    /// of what went away: not before the first of these, nor after the second.
    pub(crate) fn received_within(&self, us: i64) -> (u64, u64) {
        let dir = &self.inner.shared.dir;
        let (mut low, mut high) = (0, self.len());
        for first in segment::list(dir).unwrap_or_default() {
            if !is_away(dir, first) {
                continue;
            }
            // Of one that nobody signed nothing is known.
            let Ok(Stub { moved, .. }) = self.stub(first) else {
                continue;
            };
            if moved.latest_us < us {
                low = moved.next.min(high);
            } else if moved.first_us >= us {
                high = first.max(low);
                break;
            }
        }
        (low, high)
    }

    /// Segments that could go: finished, signed, here, and not the newest of them, which a
    /// start after a crash may have to read; with the time of the last record of each. Of one
    /// of which that cannot be told, the fault is told.
    pub(crate) fn movable(&self, faults: &mut Vec<LogError>) -> Vec<(Range<u64>, i64)> {
        let shared = &self.inner.shared;
        let mut sealed = self.sealed();
        sealed.pop();
        // Beyond what is kept of the streams a start reads the records again.
        let kept = Streams::load(&shared.dir.join(STREAMS)).map_or(0, |(size, _)| size);
        sealed.retain(|segment| segment.end <= kept);
        sealed.retain(|segment| !is_away(&shared.dir, segment.start));
        let mut all = Vec::new();
        for segment in sealed {
            match self.due_us(&segment) {
                Ok(due_us) => all.push((segment, due_us)),
                Err(fault) => faults.push(fault),
            }
        }
        all
    }

    /// From when on a segment that is here counts as old.
    fn due_us(&self, segment: &Range<u64>) -> Result<i64, LogError> {
        let dir = &self.inner.shared.dir;
        let last_us = match self.received_us(segment.end.saturating_sub(1)) {
            // It is compared whole before it goes, and named.
            Err(LogError::Tampered(_)) => i64::MIN,
            received => received?,
        };
        let back = Back::read(dir, segment.start).map_err(LogError::io(dir))?;
        Ok(last_us.max(back.map_or(i64::MIN, |back| back.since_us)))
    }

    /// Segments that are in the archive alone, with the first and the latest time of each. Of
    /// one of which what stays is damaged, the fault is told.
    pub(crate) fn moved(&self, faults: &mut Vec<LogError>) -> Result<Vec<Span>, LogError> {
        let dir = &self.inner.shared.dir;
        let mut all = Vec::new();
        for first in segment::list(dir).map_err(LogError::io(dir))? {
            if !is_away(dir, first) {
                continue;
            }
            match Stub::read(dir, first).map_err(LogError::io(Stub::path(dir, first))) {
                Ok(stub) => all.push(Span::of(&stub.moved)),
                Err(fault) => faults.push(fault),
            }
        }
        Ok(all)
    }

    /// Whether the record at `index` is in the archive alone.
    pub(crate) fn is_elsewhere(&self, index: u64) -> bool {
        let segments = self.inner.shared.segments.read();
        let segments = segments.unwrap_or_else(PoisonError::into_inner);
        let after = segments.firsts.partition_point(|first| *first <= index);
        let first = after.checked_sub(1).and_then(|at| segments.firsts.get(at));
        first.is_some_and(|first| is_away(&self.inner.shared.dir, *first))
    }

    /// Whether the segment that begins with `first` is in the archive alone.
    pub(crate) fn is_away(&self, first: u64) -> bool {
        is_away(&self.inner.shared.dir, first)
    }

    /// What its signed records need beside them. Blocks while it reads the log, as far as it
    /// must; of a segment that is in the archive alone what stays tells, so that nothing is
    /// fetched.
    ///
    /// # Errors
    /// [`LogError`] when it cannot be read, or no record says that what stays of a segment does.
    pub fn needs(&self) -> Result<Needs, LogError> {
        let shared = &self.inner.shared;
        let mut needs = Needs::default();
        let mut index = 0;
        // What is beyond is cut off if it is torn, and nobody was told to forget it.
        let signed = self.checkpoint().size;
        for first in segment::list(&shared.dir).map_err(LogError::io(&shared.dir))? {
            if is_away(&shared.dir, first) && first < signed {
                self.needs_here(index..first.min(signed), &mut needs)?;
                let moved = self.stub(first)?.moved;
                needs.keys |= moved.sealed;
                needs.holds |= moved.said.iter().any(|said| orders_hold(&said.leaf));
                index = moved.next;
            }
        }
        self.needs_here(index..signed, &mut needs)?;
        Ok(needs)
    }

    fn needs_here(&self, records: Range<u64>, needs: &mut Needs) -> Result<(), LogError> {
        if needs.keys && needs.holds || records.is_empty() {
            return Ok(());
        }
        for entry in Scan::new(self.inner.shared.clone(), records.start).until(records.end) {
            let entry = match entry {
                Err(LogError::Tampered(damage)) if damage.leaf >= records.end => break,
                // Of a later version.
                Err(LogError::Undecodable { .. }) => continue,
                entry => entry?,
            };
            needs.keys |= entry.envelope.sealed.is_some();
            needs.holds |= entry.record.body.as_ref().is_some_and(is_hold);
            if needs.keys && needs.holds {
                break;
            }
        }
        Ok(())
    }
}

impl Shared {
    /// Opens a segment that is finished, wherever it is. What went away is compared with what
    /// stays of it; that is what the log says, or who reads on is told.
    pub(in crate::log) fn open(&self, first: u64) -> io::Result<(File, Option<String>)> {
        open(&self.dir, first, self.archive.as_deref(), Archive::open)
    }

    /// As [`Shared::open`], for one reader alone: what is fetched for that does not stay.
    pub(in crate::log) fn open_once(&self, first: u64) -> io::Result<File> {
        let opened = open(
            &self.dir,
            first,
            self.archive.as_deref(),
            Archive::open_once,
        );
        opened.map(|(file, _)| file)
    }

    /// What a segment says that it lacks.
    pub(in crate::log) fn sparse(&self, first: u64) -> io::Result<Option<Vec<u8>>> {
        lacks(&self.dir, first)
    }

    /// Lets go of an open segment that has another place now.
    pub(super) fn forget(&self, first: u64) {
        let mut open = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|sealed| sealed.first() != first);
    }
}

/// Has what went away, by what stays of it.
type Fetch = fn(&Archive, &Stub) -> Result<File, Away>;

/// Opens the segment of the log in `dir` that begins with `first`, here or by `archive`; with
/// its name in the cache.
fn open(
    dir: &Path,
    first: u64,
    archive: Option<&Archive>,
    fetch: Fetch,
) -> io::Result<(File, Option<String>)> {
    let path = dir.join(segment::relative(first));
    let mut asked: Option<Stub> = None;
    let replaced = |asked: Option<Stub>, now: Option<&Stub>| {
        if let (Some(archive), Some(asked)) = (archive, asked) {
            archive.is_replaced(&asked.moved.object, now);
        }
    };
    loop {
        let missing = match files::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => e,
            opened => {
                let file = opened?;
                replaced(asked, None);
                return Ok((file, None));
            }
        };
        let stub = match Stub::read(dir, first) {
            // It came back meanwhile, or is gone.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let file = files::open(&path).map_err(|_| missing)?;
                replaced(asked, None);
                return Ok((file, None));
            }
            stub => stub?,
        };
        let opened = match archive {
            Some(archive) => fetch(archive, &stub),
            None => Err(Away::unset(&stub)),
        };
        match opened {
            Ok(file) => {
                replaced(asked, Some(&stub));
                return Ok((file, Some(archive::cached_name(&stub))));
            }
            // It may have become another while it was asked for, and its object gone.
            Err(away)
                if away.why.is_damage()
                    && asked
                        .as_ref()
                        .is_none_or(|asked| asked.digest != stub.digest) =>
            {
                replaced(asked.take(), Some(&stub));
                asked = Some(stub);
            }
            Err(away) => return Err(io::Error::other(away)),
        }
    }
}

/// Whether a segment is in the archive alone. One that cannot be looked at is here: whoever
/// opens it is told why.
pub(in crate::log) fn is_away(dir: &Path, first: u64) -> bool {
    files::is_gone(&dir.join(segment::relative(first))) && !files::is_gone(&Stub::path(dir, first))
}

/// Why a segment that a start needs cannot be had, if it went to an archive; it needs all that
/// follow, too.
pub(in crate::log) fn is_needed(dir: &Path, first: u64) -> Option<Away> {
    let read = |first: u64| {
        let is_away = is_away(dir, first);
        is_away.then(|| Stub::read(dir, first).ok()).flatten()
    };
    let stub = read(first)?;
    let all = segment::list(dir).unwrap_or_default().into_iter();
    let lengths = all.filter(|other| *other >= first).filter_map(read);
    let lengths: Vec<u64> = lengths.map(|stub| stub.moved.length).collect();
    Some(Away::at_start(&stub, lengths.len(), lengths.iter().sum()))
}

fn is_hold(body: &Body) -> bool {
    matches!(body, Body::Admin(admin) if admin.verb == HOLD_ADDED)
}

fn orders_hold(leaf: &[u8]) -> bool {
    let envelope = Envelope::decode(leaf).ok();
    let record = envelope.and_then(|envelope| Record::decode(envelope.record).ok());
    record
        .and_then(|record| record.body)
        .is_some_and(|body| is_hold(&body))
}
