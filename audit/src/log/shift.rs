//! Moves a finished segment to the archive, and brings it back.
//!
//! Away: every record is compared with the tree; the object is put and read back; that it
//! goes is recorded and signed; what stays takes its place; only then the file goes. A crash
//! before that leaves the file, and the next run goes on from what it finds. Back: the object
//! is compared with the sum that was signed, written aside, and takes its old place.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use palisade_mesh::wire::{
    audit::{Moved, MovedLeaf},
    record::Moving,
};

use super::{
    AppendError, Log, LogError,
    book::{self, LEAP_US, Said},
    lock,
    reader::Shared,
    recover::log_id,
    thin::{self, Differs, Hashes, Part},
    writer::{about_moving, lifecycle},
};
use crate::{
    archive::{self, Archive, Away},
    checkpoint, files,
    merkle::Hash,
    segment::{self, Back, FETCHED, SparseSum, Stub, sum_of},
    told::{self, SEGMENTS_RESTORED},
};

/// Where a crash is tried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The object is there and was read back.
    Put,
    /// That the segment goes is recorded.
    Recorded,
    /// What stays is in its place, beside the file.
    Stubbed,
    /// The file is gone.
    Gone,
    /// What comes back is written aside.
    Fetched,
    /// It is told what comes back.
    Noted,
    /// The file is in its place, beside what stayed.
    Placed,
}

/// Asked at each step whether to go on.
pub(crate) type At<'a> = &'a mut dyn FnMut(Step) -> io::Result<()>;

/// A segment that went away.
pub(crate) struct Span {
    /// Its records.
    pub(crate) segment: Range<u64>,
    /// The first time of receipt, microseconds since the Unix epoch, and the latest.
    pub(crate) first_us: i64,
    pub(crate) latest_us: i64,
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
                Err(_) => {
                    let stub = Stub::read(dir, first).map_err(LogError::io(path))?;
                    found.moved += 1;
                    found.moved_bytes += stub.moved.length;
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

    /// Segments that could go: finished, signed, here, and not the newest of them, which a
    /// start after a crash may have to read; with the time of the last record of each.
    pub(crate) fn movable(&self) -> Result<Vec<(Range<u64>, i64)>, LogError> {
        let shared = &self.inner.shared;
        let mut sealed = self.sealed();
        sealed.pop();
        sealed.retain(|segment| !is_away(&shared.dir, segment.start));
        let mut all = Vec::new();
        for segment in sealed {
            let last_us = self.received_us(segment.end.saturating_sub(1))?;
            let back = Back::read(&shared.dir, segment.start).map_err(LogError::io(&shared.dir))?;
            let since_us = back.map_or(i64::MIN, |back| back.since_us);
            all.push((segment, last_us.max(since_us)));
        }
        Ok(all)
    }

    /// Segments that are in the archive alone, with the first and the latest time of each.
    pub(crate) fn moved(&self) -> Result<Vec<Span>, LogError> {
        let dir = &self.inner.shared.dir;
        let firsts = segment::list(dir).map_err(LogError::io(dir))?;
        let away = firsts.into_iter().filter(|first| is_away(dir, *first));
        let stubs = away.map(|first| {
            let stub = Stub::read(dir, first).map_err(LogError::io(Stub::path(dir, first)))?;
            let Moved {
                first,
                next,
                first_us,
                latest_us,
                ..
            } = stub.moved;
            Ok(Span {
                segment: first..next,
                first_us,
                latest_us,
            })
        });
        stubs.collect()
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

    /// Puts in order what a run has left that did not end. What was thinned here is deleted
    /// in the archive.
    pub(crate) fn tidy(&self) -> Vec<LogError> {
        let dir = &self.inner.shared.dir;
        let firsts = match segment::list(dir) {
            Ok(firsts) => firsts,
            Err(e) => return vec![LogError::io(dir)(e)],
        };
        let tidied = firsts.into_iter().map(|first| self.tidy_one(first));
        tidied.filter_map(Result::err).collect()
    }

    fn tidy_one(&self, first: u64) -> Result<(), LogError> {
        let shared = &self.inner.shared;
        let dir = &shared.dir;
        let path = path(shared, first);
        let failed = |e| shared.failed(&(first..first), e);
        let _ = fs::remove_file(path.with_extension(FETCHED));
        let back = Back::read(dir, first).map_err(failed)?;
        match (path.exists(), Stub::path(dir, first).exists(), back) {
            // A move that did not end.
            (true, true, None) => {
                let stub = self.stub(first)?;
                self.let_go(&stub, &mut |_| Ok(())).map_err(failed)
            }
            // A return that did not end, before and after the file was there.
            (false, true, Some(_)) => Back::remove(dir, first).map_err(failed),
            (true, true, Some(_)) => remove_stub(dir, first).map_err(failed),
            (true, false, Some(back)) => self.disown(first, back).map_err(failed),
            _ => Ok(()),
        }
    }

    /// Deletes the object of a segment that has less than it since it came back.
    fn disown(&self, first: u64, back: Back) -> io::Result<()> {
        let shared = &self.inner.shared;
        let lacks = shared.sparse(first)?.map(|said| told::digest(&said));
        if back.object.is_empty() || lacks.map(|lacks| crate::merkle::hex(&lacks)) == back.lacked {
            return Ok(());
        }
        let archive = archive_of(shared)?;
        archive.delete(&back.object).map_err(|cause| {
            let (object, url) = (&back.object, archive.url());
            io::Error::other(format!(
                "`{object}` in the archive `{url}` has records that were dropped, and cannot be deleted: {cause}"
            ))
        })?;
        let object = String::new();
        Back { object, ..back }.save(&shared.dir, first)
    }

    /// Moves `segment`, one of [`Log::movable`]; gives its bytes. Blocks on disk and store,
    /// and until the log has signed the record.
    pub(crate) fn move_away(&self, segment: &Range<u64>, at: At<'_>) -> Result<u64, LogError> {
        let shared = &self.inner.shared;
        // Nobody else opens the log for writing before it is done.
        let _lock = self.hold()?;
        thin::settle(self)?;
        self.tidy_one(segment.start)?;
        if is_away(&shared.dir, segment.start) {
            return Ok(0);
        }
        self.put_away(segment, at)
            .map_err(|e| shared.failed(segment, e))
    }

    fn put_away(&self, segment: &Range<u64>, at: At<'_>) -> io::Result<u64> {
        let shared = &self.inner.shared;
        let archive = archive_of(shared)?;
        let path = path(shared, segment.start);
        let bytes = Bytes::from(fs::read(&path)?);
        let (sum, length) = (crate::merkle::sha256(&bytes), bytes.len() as u64);
        let stub = self.survey(segment, archive, sum, length)?;
        if archive::sum_of(&mut File::open(&path)?)? != sum {
            let what = "it is not as it was a moment ago";
            return Err(Differs::error(segment.start, what));
        }
        archive.put(&stub, bytes).map_err(io::Error::other)?;
        at(Step::Put)?;
        let moving = Moving {
            segment: segment.start,
            next: segment.end,
            length,
            sha256: sum.to_vec(),
            object: stub.moved.object.clone(),
            stub: stub.digest.to_vec(),
        };
        let detail = format!(
            "records {} to {} to `{}`: {length} bytes, sha256 {}",
            segment.start,
            segment.end.saturating_sub(1),
            archive.url(),
            crate::merkle::hex(&sum),
        );
        thin::say(self, about_moving(detail, moving))?;
        at(Step::Recorded)?;
        stub.save(&shared.dir)?;
        at(Step::Stubbed)?;
        self.let_go(&stub, at)?;
        Ok(length)
    }

    /// Lets the file of a segment go, of which the archive and what stays are in place. Who
    /// has it open reads on.
    fn let_go(&self, stub: &Stub, at: At<'_>) -> io::Result<()> {
        let shared = &self.inner.shared;
        let first = stub.moved.first;
        let path = path(shared, first);
        if archive::sum_of(&mut File::open(&path)?)? != stub.sum {
            let what = "the segment is here, and is not the one that went to the archive";
            return Err(Differs::error(first, what));
        }
        Back::remove(&shared.dir, first)?;
        // The point of no return.
        fs::remove_file(&path)?;
        files::sync_dir(path.parent().unwrap_or(&shared.dir))?;
        at(Step::Gone)?;
        shared.forget(first);
        Ok(())
    }

    /// Compares every record with the tree; gives what is to stay.
    fn survey(
        &self,
        segment: &Range<u64>,
        archive: &Archive,
        sum: Hash,
        length: u64,
    ) -> io::Result<Stub> {
        let shared = &self.inner.shared;
        let file = File::open(path(shared, segment.start))?;
        let before_us = book::with(self, |book| book.before_us(segment.start, i64::MAX));
        let mut times = Times::after(before_us.map_err(io::Error::other)?);
        let mut hashes = Hashes::new(shared);
        let (mut was, mut said) = (SparseSum::default(), Vec::new());
        let (_, sparse) = thin::walk(shared, segment, file, |part| {
            match part {
                Part::Gone(encoded, run) => {
                    sum_of(&mut was, encoded, &run);
                    for (index, record) in (run.first()..).zip(run.records()) {
                        hashes.check(index, &record.leaf)?;
                        times.receive(record.received_us);
                    }
                }
                Part::Leaf {
                    index, leaf, hash, ..
                } => {
                    hashes.check(index, &hash)?;
                    if let Some((envelope, _)) = thin::envelope_of(leaf) {
                        times.receive(envelope.received_us);
                        if Said::of(shared, &envelope).is_some() {
                            let leaf = leaf.to_vec();
                            said.push(MovedLeaf { index, leaf });
                        }
                    }
                }
            }
            Ok(())
        })?;
        let lacks = thin::lacks(segment, was, sparse.clone())?;
        let standing = book::with(self, |book| book.told().standing(segment.start, lacks));
        if let Some(fault) = standing.map_err(io::Error::other)?.fault() {
            return Err(Differs::error(segment.start, fault));
        }
        let domain = checkpoint::domain(shared.verifier.name()).unwrap_or_default();
        let log = log_id(&shared.verifier);
        let stub = Stub::new(Moved {
            first: segment.start,
            next: segment.end,
            length,
            sha256: sum.to_vec(),
            object: archive::object_name(domain, &log, segment.start, &sum),
            store: archive.url().to_owned(),
            sparse: sparse.unwrap_or_default(),
            latest_us: times.last_us.unwrap_or(i64::MIN),
            leap_from_us: times.leap.map_or(0, |(from, _)| from),
            leap_to_us: times.leap.map_or(0, |(_, to)| to),
            said,
            first_us: times.first_us.unwrap_or(i64::MIN),
        });
        stub.ok_or_else(|| io::Error::other("bug: a sum of another length"))
    }

    /// What stays of a segment, as the log says it.
    fn stub(&self, first: u64) -> Result<Stub, LogError> {
        let shared = &self.inner.shared;
        let stub =
            Stub::read(&shared.dir, first).map_err(LogError::io(Stub::path(&shared.dir, first)))?;
        match book::with(self, |book| book.told().is_moved(first, &stub.digest))? {
            true => Ok(stub),
            false => Err(untold(first)),
        }
    }

    /// Brings a segment back that is in the archive alone; it may go again once its time
    /// since `since_us` is over. Gives its bytes.
    pub(crate) fn bring_back(
        &self,
        first: u64,
        since_us: i64,
        at: At<'_>,
    ) -> Result<u64, LogError> {
        let shared = &self.inner.shared;
        let _lock = self.hold()?;
        let stub = self.stub(first)?;
        let length = stub.moved.length;
        let fetched = archive_of(shared)
            .and_then(|archive| thin::room_for(self, length).map(|()| archive))
            .and_then(|archive| place(&shared.dir, archive, &stub, since_us, at));
        fetched.map_err(|e| shared.failed(&(first..stub.moved.next), e))?;
        shared.forget(first);
        Ok(length)
    }

    /// Keeps the log locked.
    fn hold(&self) -> Result<Arc<File>, LogError> {
        let shared = &self.inner.shared;
        let closed = || io::Error::other(AppendError::Closed);
        let lock = shared.lock.upgrade().ok_or_else(closed);
        lock.map_err(LogError::io(&shared.dir))
    }

    /// Records that segments were brought back.
    pub(crate) fn say_restored(&self, detail: String) -> Result<(), LogError> {
        let shared = &self.inner.shared;
        let said = thin::say(self, lifecycle(SEGMENTS_RESTORED, detail));
        said.map_err(LogError::io(&shared.dir))
    }
}

/// Brings all segments back of the log in `dir` that nobody writes, compared with what stays
/// of them; the next start compares them with the tree. Gives their bytes, each.
///
/// # Errors
/// [`LogError`]; what is there by then stays.
pub fn restore_all(dir: &Path, archive: &Archive) -> Result<Vec<u64>, LogError> {
    let _lock = lock::lock(dir)?;
    let mut all = Vec::new();
    for first in segment::list(dir).map_err(LogError::io(dir))? {
        if !is_away(dir, first) {
            continue;
        }
        let path = Stub::path(dir, first);
        let stub = Stub::read(dir, first).map_err(LogError::io(&path))?;
        let since_us = jiff::Timestamp::now().as_microsecond();
        let placed = place(dir, archive, &stub, since_us, &mut |_| Ok(()));
        placed.map_err(LogError::io(&path))?;
        all.push(stub.moved.length);
    }
    Ok(all)
}

fn place(dir: &Path, archive: &Archive, stub: &Stub, since_us: i64, at: At<'_>) -> io::Result<()> {
    let first = stub.moved.first;
    let path = dir.join(segment::relative(first));
    let aside = path.with_extension(FETCHED);
    archive.write_to(stub, &aside)?;
    at(Step::Fetched)?;
    let lacked = stub
        .sparse()
        .map(|said| crate::merkle::hex(&told::digest(said)));
    let object = stub.moved.object.clone();
    Back {
        object,
        lacked,
        since_us,
    }
    .save(dir, first)?;
    at(Step::Noted)?;
    fs::rename(&aside, &path)?;
    files::sync_dir(path.parent().unwrap_or(dir))?;
    at(Step::Placed)?;
    remove_stub(dir, first)
}

fn remove_stub(dir: &Path, first: u64) -> io::Result<()> {
    let path = Stub::path(dir, first);
    fs::remove_file(&path)?;
    files::sync_dir(path.parent().unwrap_or(dir))
}

/// The times of receipt of a segment, as the book of the log reads them.
struct Times {
    /// The earliest and the latest in the segment alone.
    first_us: Option<i64>,
    last_us: Option<i64>,
    /// The latest up to there.
    latest_us: Option<i64>,
    leap: Option<(i64, i64)>,
}

impl Times {
    fn after(before_us: i64) -> Self {
        Self {
            first_us: None,
            last_us: None,
            latest_us: (before_us > i64::MIN).then_some(before_us),
            leap: None,
        }
    }

    fn receive(&mut self, us: i64) {
        self.first_us = Some(self.first_us.map_or(us, |first_us| first_us.min(us)));
        self.last_us = self.last_us.max(Some(us));
        if let Some(latest_us) = self.latest_us
            && us.saturating_sub(latest_us) > LEAP_US
        {
            self.leap = Some((latest_us, us));
        }
        self.latest_us = self.latest_us.max(Some(us));
    }
}

impl Shared {
    /// Opens a segment that is finished, wherever it is. What went away is compared with what
    /// stays of it; that is what the log says, or who reads on is told.
    pub(super) fn open(&self, first: u64) -> io::Result<(File, Option<String>)> {
        open(&self.dir, first, self.archive.as_deref())
    }

    /// What a segment says that it lacks.
    pub(super) fn sparse(&self, first: u64) -> io::Result<Option<Vec<u8>>> {
        match File::open(path(self, first)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let stub = Stub::read(&self.dir, first)?;
                Ok(stub.sparse().map(<[u8]>::to_vec))
            }
            opened => segment::sparse_of(&opened?),
        }
    }

    /// Lets go of an open segment that has another place now.
    fn forget(&self, first: u64) {
        let mut open = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|sealed| sealed.first() != first);
    }
}

/// Opens the segment of the log in `dir` that begins with `first`, here or by `archive`; with
/// its name in the cache.
pub(crate) fn open(
    dir: &Path,
    first: u64,
    archive: Option<&Archive>,
) -> io::Result<(File, Option<String>)> {
    let path = dir.join(segment::relative(first));
    let missing = match File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => e,
        opened => return Ok((opened?, None)),
    };
    let stub = match Stub::read(dir, first) {
        // It came back meanwhile, or is gone.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return File::open(&path)
                .map(|file| (file, None))
                .map_err(|_| missing);
        }
        stub => stub?,
    };
    let opened = match archive {
        Some(archive) => archive.open(&stub),
        None => Err(Away::unset(&stub)),
    };
    let file = opened.map_err(io::Error::other)?;
    Ok((file, Some(archive::cached_name(&stub))))
}

/// Whether a segment is in the archive alone.
pub(crate) fn is_away(dir: &Path, first: u64) -> bool {
    !dir.join(segment::relative(first)).exists() && Stub::path(dir, first).exists()
}

/// Why a segment that a start needs cannot be had, if it went to an archive.
pub(super) fn is_needed(dir: &Path, first: u64) -> Option<Away> {
    let away = is_away(dir, first).then(|| Stub::read(dir, first).ok())?;
    away.map(|stub| Away::at_start(&stub))
}

/// What stays of a segment of which no signed record says that it went.
pub(super) fn untold(first: u64) -> LogError {
    let what =
        "no record of the log says that this segment went to an archive, or that this stays of it";
    LogError::tampered(
        segment::relative(first).with_extension(segment::MOVED),
        first,
        0,
        what,
    )
}

fn archive_of(shared: &Shared) -> io::Result<&Archive> {
    let none = || io::Error::other("the log has no archive: `audit.archive` is not set");
    shared.archive.as_deref().ok_or_else(none)
}

fn path(shared: &Shared, first: u64) -> PathBuf {
    shared.dir.join(segment::relative(first))
}
