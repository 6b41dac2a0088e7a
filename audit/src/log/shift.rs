//! Moves a finished segment to the archive, and brings it back.
//!
//! Away: every record is compared with the tree; the place is known by its mark; what is to be
//! put is noted; the object is put and read back; that it goes is recorded and signed; what
//! stays takes its place; the store is asked once more, and only then the file goes. A crash
//! before that leaves the file, and the next run goes on from what it finds. Back: the object
//! is compared with the sum that was signed, written aside, and takes its old place.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use palisade_mesh::wire::{
    audit::{Moved, MovedLeaf},
    record::Moving,
};

use super::{
    AppendError, Log, LogError,
    book::{self, Said},
    reader::Shared,
    recover::log_id,
    thin::{self, Differs, Hashes, Part},
    writer::{about_moving, lifecycle},
};
use crate::{
    archive::{self, Archive, First, Held},
    checkpoint, files,
    merkle::Hash,
    segment::{self, Back, FETCHED, Intent, SparseSum, Stub, sum_of},
    told::{self, SEGMENTS_MOVED, SEGMENTS_RESTORED, Standing},
};

mod offline;
mod places;
mod tidy;
mod times;

pub use offline::{Restored, adopt, restore_all};
pub use places::{Needs, Whereabouts};
pub(super) use places::{is_away, is_needed};
use tidy::NOT_WHAT_WENT;
use times::Times;

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

impl Log {
    /// Moves `segment`, one of [`Log::movable`]; gives its bytes. Blocks on disk and store,
    /// and until the log has signed the record.
    pub(crate) fn move_away(&self, segment: &Range<u64>, at: At<'_>) -> Result<u64, LogError> {
        let shared = &self.inner.shared;
        // Nobody else opens the log for writing before it is done.
        let _lock = self.hold()?;
        thin::settle(self)?;
        // What was to take its place and did not is told of by now.
        remove(&path(shared, segment.start).with_extension(segment::ASIDE))
            .map_err(|e| shared.failed(segment, e))?;
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
        let bytes = Bytes::from(fs::read(path(shared, segment.start))?);
        let (sum, length) = (crate::merkle::sha256(&bytes), bytes.len() as u64);
        let inspected = self.inspect(segment)?;
        if let Some(fault) = inspected.standing.fault() {
            return Err(Differs::error(segment.start, fault));
        }
        if inspected.sum != sum {
            let what = "it is not as it was a moment ago";
            return Err(Differs::error(segment.start, what));
        }
        let stub = self.stay(segment, archive, length, inspected)?;
        archive
            .begin(&stub, place_is_new(shared)?)
            .map_err(io::Error::other)?;
        let intent = Intent {
            object: stub.moved.object.clone(),
            store: archive.url().to_owned(),
        };
        intent.save(&shared.dir, segment.start)?;
        archive.put(&stub, bytes).map_err(io::Error::other)?;
        at(Step::Put)?;
        // Only now: what was dropped goes once the rest is there.
        self.disown(segment.start)?;
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
        thin::say(self, about_moving(SEGMENTS_MOVED, detail, moving))?;
        at(Step::Recorded)?;
        stub.save(&shared.dir)?;
        at(Step::Stubbed)?;
        // Until that was signed the object may have gone.
        let held = archive.ask(&stub).map_err(io::Error::other)?;
        self.let_go(&stub, &held, at)?;
        Ok(length)
    }

    /// Lets the file of a segment go, which the store has just said that it holds, and of which
    /// what stays is in its place. Who has it open reads on.
    fn let_go(&self, stub: &Stub, held: &Held, at: At<'_>) -> io::Result<()> {
        let shared = &self.inner.shared;
        let first = stub.moved.first;
        let path = path(shared, first);
        let told = book::with(self, |book| {
            let told = book.told().moved_as(first, &stub.digest);
            told.is_some_and(|to| to.object == held.object && to.sum == held.sum)
        });
        if !told.map_err(io::Error::other)? {
            let what = "no record of the log names what the archive holds of it";
            return Err(Differs::error(first, what));
        }
        if archive::sum_of(&mut File::open(&path)?)? != held.sum {
            return Err(Differs::error(first, NOT_WHAT_WENT));
        }
        // A start cannot make them again from what is elsewhere.
        let signed = shared.checkpoint.borrow().size;
        shared.tiles.sync(&(first..stub.moved.next), signed)?;
        Back::remove(&shared.dir, first)?;
        // The point of no return.
        fs::remove_file(&path)?;
        files::sync_dir(path.parent().unwrap_or(&shared.dir))?;
        // What was fetched when the segment was another has what it lacks now.
        if let Some(archive) = &shared.archive {
            archive.forget(first, Some(stub));
        }
        at(Step::Gone)?;
        shared.forget(first);
        Intent::remove(&shared.dir, first)
    }

    /// Compares every record of a segment that is here with the tree, and what it lacks with
    /// what the log says.
    fn inspect(&self, segment: &Range<u64>) -> io::Result<Inspected> {
        let shared = &self.inner.shared;
        let file = path(shared, segment.start);
        let sum = archive::sum_of(&mut File::open(&file)?)?;
        let before_us = book::with(self, |book| book.before_us(segment.start, i64::MAX));
        let mut times = Times::after(before_us.map_err(io::Error::other)?);
        let opened = File::open(&file)?;
        let mut hashes = Hashes::new(shared, (segment.start, &opened))?;
        let (mut was, mut said, mut sealed) = (SparseSum::default(), Vec::new(), false);
        let (_, sparse) = thin::walk(shared, segment, opened, |part| {
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
                        sealed |= !envelope.sealed.is_empty();
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
        Ok(Inspected {
            sum,
            times,
            said,
            sealed,
            sparse,
            standing: standing.map_err(io::Error::other)?,
        })
    }

    /// What is to stay of a segment.
    fn stay(
        &self,
        segment: &Range<u64>,
        archive: &Archive,
        length: u64,
        inspected: Inspected,
    ) -> io::Result<Stub> {
        let shared = &self.inner.shared;
        let Inspected {
            sum,
            times,
            said,
            sealed,
            sparse,
            ..
        } = inspected;
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
            sealed,
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
        self.bring_back_from(first, None, since_us, at)
    }

    /// As [`Log::bring_back`], of what was `fetched` already, if that is it still.
    pub(crate) fn bring_back_from(
        &self,
        first: u64,
        fetched: Option<File>,
        since_us: i64,
        at: At<'_>,
    ) -> Result<u64, LogError> {
        let shared = &self.inner.shared;
        let _lock = self.hold()?;
        let stub = self.stub(first)?;
        let length = stub.moved.length;
        let fetched = archive_of(shared)
            .and_then(|archive| self.room_for(length).map(|()| archive))
            .and_then(|archive| place(&shared.dir, archive, (&stub, fetched), since_us, at));
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

/// Puts a segment into its place, from what was fetched of it or from the archive.
fn place(
    dir: &Path,
    archive: &Archive,
    (stub, fetched): (&Stub, Option<File>),
    since_us: i64,
    at: At<'_>,
) -> io::Result<()> {
    let first = stub.moved.first;
    let path = dir.join(segment::relative(first));
    let aside = path.with_extension(FETCHED);
    archive.write_to(stub, fetched, &aside)?;
    at(Step::Fetched)?;
    let lacked = stub
        .sparse()
        .map(|said| crate::merkle::hex(&told::digest(said)));
    let back = Back {
        object: stub.moved.object.clone(),
        store: archive.url().to_owned(),
        lacked,
        since_us,
    };
    back.save(dir, first)?;
    at(Step::Noted)?;
    fs::rename(&aside, &path)?;
    files::sync_dir(path.parent().unwrap_or(dir))?;
    at(Step::Placed)?;
    remove_stub(dir, first)?;
    // It is here, and may lack something soon.
    archive.forget(first, None);
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn remove_stub(dir: &Path, first: u64) -> io::Result<()> {
    let path = Stub::path(dir, first);
    fs::remove_file(&path)?;
    files::sync_dir(path.parent().unwrap_or(dir))
}

/// A segment that is what the tree says.
struct Inspected {
    /// SHA-256 of its bytes.
    sum: Hash,
    times: Times,
    /// What records in it tell of segments and holds.
    said: Vec<MovedLeaf>,
    /// Whether something is sealed in it.
    sealed: bool,
    /// What it says that it lacks.
    sparse: Option<Vec<u8>>,
    /// What is to be thought of that.
    standing: Standing,
}

/// Whether the archive may be one that the log begins: no segment is in another.
fn place_is_new(shared: &Shared) -> io::Result<First> {
    let mut firsts = segment::list(&shared.dir)?.into_iter();
    Ok(match firsts.any(|first| is_away(&shared.dir, first)) {
        true => First::Never,
        false => First::May,
    })
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
