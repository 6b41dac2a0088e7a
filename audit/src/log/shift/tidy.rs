//! Puts in order what moves and returns have left that did not end, and deletes objects that
//! have what was dropped since.
//!
//! Nothing that lies beside the log is believed: what stays of a segment counts where a signed
//! record has its digest, an object is deleted where a signed record names it as one of this
//! log and this segment, and only while the segment itself is here and is, record by record,
//! what the tree and the log say.

use std::{cell::Cell, fs, io, ops::Range};

use bytes::Bytes;
use palisade_mesh::wire::record::Moving;

use super::{
    super::{
        Log, LogError, book,
        recover::log_id,
        thin::{self, Differs},
        writer::about_moving,
    },
    Inspected, archive_of, is_away, path, place_is_new, remove_stub,
};
use crate::{
    archive::{self, Away},
    checkpoint, files,
    merkle::{self, Hash},
    segment::{self, Back, FETCHED, Intent, Stub},
    told::{self, SEGMENTS_LEFT, Standing},
};

/// Errors that are told of all that is to be put in order; the rest is tried all the same.
const ERRORS_MAX: usize = 8;

impl Log {
    /// Puts in order what a run has left that did not end. Gives what could not be done.
    pub(crate) fn tidy(&self) -> Vec<LogError> {
        book::look_again(self);
        if let Some(archive) = self.archive() {
            archive.begin_run();
        }
        self.sweep();
        self.of_each(LogError::is_of_archive, |first| self.tidy_one(first))
    }

    /// Removes what was fetched of segments that are here, or are others by now: what was
    /// dropped of them since is in it.
    pub(crate) fn sweep(&self) {
        let shared = &self.inner.shared;
        let (Some(archive), Ok(mut firsts)) = (&shared.archive, segment::list(&shared.dir)) else {
            return;
        };
        firsts.retain(|first| is_away(&shared.dir, *first));
        let stubs = firsts.into_iter();
        archive.sweep(stubs.filter_map(|first| Stub::read(&shared.dir, first).ok()));
    }

    /// Deletes in the archive what was thinned here; where that `is_down`, nobody waits for it
    /// again. What is `due` to go is told where the rest was not put: until then its object
    /// stays. Gives what could not be done.
    pub(crate) fn disown_all(&self, due: &[u64], is_down: bool) -> Vec<LogError> {
        let is_down = Cell::new(is_down);
        // Each is told, though nobody waits for it.
        self.of_each(
            |_| false,
            |first| {
                let disowned = Back::read(&self.inner.shared.dir, first).and_then(|back| {
                    let Some(back) = back else { return Ok(()) };
                    let why = match is_down.get() {
                        true => "the archive could not be used a moment ago",
                        false => "the rest is not there yet",
                    };
                    match (is_down.get() || due.contains(&first)) && self.is_stale(first, &back)? {
                        true => Err(stays(&back.object, &back.store, why)),
                        false if is_down.get() => Ok(()),
                        false => self.disown(first),
                    }
                });
                let disowned = disowned.map_err(|e| self.inner.shared.failed(&(first..first), e));
                disowned.inspect_err(|error| is_down.set(is_down.get() || error.is_of_archive()))
            },
        )
    }

    /// Believes that the objects at `store` are deleted there which have what was dropped here:
    /// an address of before, where nobody looks for them. Gives how many that were.
    pub(crate) fn write_off(&self, store: &str) -> Result<u64, LogError> {
        let shared = &self.inner.shared;
        let _lock = self.hold()?;
        let mut count = 0;
        for first in segment::list(&shared.dir).map_err(LogError::io(&shared.dir))? {
            let written_off = self.write_off_one(first, store);
            count += written_off.map_err(|e| shared.failed(&(first..first), e))?;
        }
        Ok(count)
    }

    fn write_off_one(&self, first: u64, store: &str) -> io::Result<u64> {
        let shared = &self.inner.shared;
        let dir = &shared.dir;
        let mut count = 0;
        if let Some(back) = Back::read(dir, first)?.filter(|back| back.store == store)
            && self.is_stale(first, &back)?
        {
            let object = String::new();
            Back { object, ..back }.save(dir, first)?;
            count += 1;
        }
        if let Some(intent) = Intent::read(dir, first)?.filter(|intent| intent.store == store)
            && path(shared, first).try_exists()?
        {
            let (_, sum) = self.own(first, &intent.object)?;
            // What has the same bytes still as the segment has nothing that was dropped.
            if archive::sum_of(&mut fs::File::open(path(shared, first))?)? != sum {
                Intent::remove(dir, first)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Works on each segment, until what `ends` is an error.
    fn of_each(
        &self,
        ends: impl Fn(&LogError) -> bool,
        work: impl Fn(u64) -> Result<(), LogError>,
    ) -> Vec<LogError> {
        let dir = &self.inner.shared.dir;
        let firsts = match segment::list(dir) {
            Ok(firsts) => firsts,
            Err(e) => return vec![LogError::io(dir)(e)],
        };
        let mut errors = Vec::new();
        for first in firsts {
            if let Err(error) = work(first) {
                let is_last = ends(&error);
                if errors.len() < ERRORS_MAX {
                    errors.push(error);
                }
                if is_last {
                    break;
                }
            }
        }
        errors
    }

    pub(super) fn tidy_one(&self, first: u64) -> Result<(), LogError> {
        self.place_one(first)?;
        let dir = &self.inner.shared.dir;
        let failed = |e| self.inner.shared.failed(&(first..first), e);
        if let Some(intent) = Intent::read(dir, first).map_err(failed)? {
            self.give_up(first, &intent).map_err(failed)?;
        }
        Ok(())
    }

    /// Ends a move or a return of a segment that did not, so that it is in one place.
    pub(in crate::log) fn place_one(&self, first: u64) -> Result<(), LogError> {
        let shared = &self.inner.shared;
        let dir = &shared.dir;
        let path = path(shared, first);
        let failed = |e| shared.failed(&(first..first), e);
        let _ = fs::remove_file(path.with_extension(FETCHED));
        let back = Back::read(dir, first).map_err(failed)?;
        // What cannot be looked at is not gone.
        let is_here = path.try_exists().map_err(failed)?;
        let is_moved = Stub::path(dir, first).try_exists().map_err(failed)?;
        match (is_here, is_moved, back) {
            (true, true, None) => self.end_move(first),
            (true, true, Some(_)) => self.end_return(first),
            // The file had not come yet.
            (false, true, Some(_)) => Back::remove(dir, first).map_err(failed),
            _ => Ok(()),
        }
    }

    /// Ends a move of which what stays is in its place: the store is asked again, and gets the
    /// object again if it has lost it.
    fn end_move(&self, first: u64) -> Result<(), LogError> {
        let shared = &self.inner.shared;
        let stub = self.stub(first)?;
        let failed = |e| shared.failed(&(first..stub.moved.next), e);
        let bytes = Bytes::from(fs::read(path(shared, first)).map_err(failed)?);
        if merkle::sha256(&bytes) != stub.sum {
            return Err(failed(Differs::error(first, NOT_WHAT_WENT)));
        }
        let archive = archive_of(shared).map_err(failed)?;
        let begun = place_is_new(shared).map_err(failed)?;
        let held = archive
            .begin(&stub, begun)
            .and_then(|()| archive.put(&stub, bytes));
        let held = held.map_err(|e| failed(io::Error::other(e)))?;
        self.let_go(&stub, &held, &mut |_| Ok(())).map_err(failed)
    }

    /// Ends a return of which the file is in its place.
    fn end_return(&self, first: u64) -> Result<(), LogError> {
        let shared = &self.inner.shared;
        let stub = self.stub(first)?;
        let sum =
            fs::File::open(path(shared, first)).and_then(|mut file| archive::sum_of(&mut file));
        let ended = sum.and_then(|sum| match sum == stub.sum {
            true => remove_stub(&shared.dir, first),
            false => Err(Differs::error(first, NOT_WHAT_WENT)),
        });
        ended.map_err(|e| shared.failed(&(first..stub.moved.next), e))
    }

    /// Deletes the object of a segment that has less than it since it came back.
    pub(super) fn disown(&self, first: u64) -> io::Result<()> {
        let shared = &self.inner.shared;
        let Some(back) = Back::read(&shared.dir, first)? else {
            return Ok(());
        };
        if !self.is_stale(first, &back)? {
            return Ok(());
        }
        match self.delete(first, &back.object, &back.store)? {
            true => {
                let object = String::new();
                Back { object, ..back }.save(&shared.dir, first)
            }
            false => Ok(()),
        }
    }

    /// Whether the object of a segment that came back has what this lacks by now.
    fn is_stale(&self, first: u64, back: &Back) -> io::Result<bool> {
        let shared = &self.inner.shared;
        if back.object.is_empty() || is_away(&shared.dir, first) {
            return Ok(false);
        }
        let lacks = shared.sparse(first)?.map(|said| told::digest(&said));
        Ok(lacks.map(|lacks| merkle::hex(&lacks)) != back.lacked)
    }

    /// Looks what became of an object that was to be put of a segment which is here. It is used
    /// when the segment goes, unless that has become another since: then the log says that the
    /// object is of one that did not go, and it is deleted.
    fn give_up(&self, first: u64, intent: &Intent) -> io::Result<()> {
        let shared = &self.inner.shared;
        let path = path(shared, first);
        if !path.try_exists()? {
            // It went after all.
            let went =
                Stub::read(&shared.dir, first).is_ok_and(|s| s.moved.object == intent.object);
            return match went {
                true => Intent::remove(&shared.dir, first),
                false => Ok(()),
            };
        }
        let (segment, sum) = self.own(first, &intent.object)?;
        if archive::sum_of(&mut fs::File::open(&path)?)? == sum {
            return Ok(());
        }
        let is_told = book::with(self, |book| {
            book.told().put_as(first, &intent.object).is_some()
        });
        if !is_told.map_err(io::Error::other)? {
            self.whole(&segment)?;
            let moving = Moving {
                segment: first,
                next: segment.end,
                sha256: sum.to_vec(),
                object: intent.object.clone(),
                ..Moving::default()
            };
            let detail = format!(
                "`{}` in `{}`: the segment did not go, and is another now",
                intent.object, intent.store
            );
            thin::say(self, about_moving(SEGMENTS_LEFT, detail, moving))?;
        }
        self.delete(first, &intent.object, &intent.store)?;
        Intent::remove(&shared.dir, first)
    }

    /// Deletes an object of a segment that is here, whole, and another than it was in that;
    /// says whether it was another.
    fn delete(&self, first: u64, object: &str, store: &str) -> io::Result<bool> {
        let shared = &self.inner.shared;
        let archive = archive_of(shared)?;
        let url = archive.url();
        let told = |why: String| stays(object, store, &why);
        if store != url {
            return Err(told(format!("`audit.archive` is `{url}` now")));
        }
        let (segment, sum) = self.own(first, object).map_err(|e| told(e.to_string()))?;
        let named = book::with(self, |book| {
            book.told().put_as(first, object).map(|to| to.sum)
        });
        if named.map_err(io::Error::other)? != Some(sum) {
            return Err(told("no record of the log names it".into()));
        }
        if self.whole(&segment)?.sum == sum {
            // What lies beside the log says otherwise: there is nothing in it that is not here.
            return Ok(false);
        }
        // What took the place of what is in it has to survive a power cut.
        files::sync_dir(&shared.dir.join(segment::DIR))?;
        archive.delete(object).map_err(|(why, cause)| match why {
            // Nothing else need be tried.
            why if why.is_of_all() => io::Error::other(Away {
                store: store.to_owned(),
                segment: first,
                next: segment.end,
                object: object.to_owned(),
                why,
                cause: format!("it has records that were dropped, and cannot be deleted: {cause}"),
            }),
            why => told(format!("{why}: {cause}")),
        })?;
        Ok(true)
    }

    /// The segment, and the sum in the name of an `object` that is this log's of it.
    fn own(&self, first: u64, object: &str) -> io::Result<(Range<u64>, Hash)> {
        let shared = &self.inner.shared;
        let another = || Differs::error(first, format!("`{object}` is no object of this segment"));
        let domain = checkpoint::domain(shared.verifier.name()).unwrap_or_default();
        let sum = object
            .strip_suffix(".seg")
            .and_then(|name| name.rsplit_once('-'))
            .and_then(|(_, sum)| unhex(sum))
            .ok_or_else(another)?;
        let name = archive::object_name(domain, &log_id(&shared.verifier), first, &sum);
        let mut spans = shared.sealed_spans().into_iter();
        let segment = spans.find(|span| span.start == first);
        match segment.filter(|_| name == object) {
            Some(segment) => Ok((segment, sum)),
            None => Err(another()),
        }
    }

    /// Makes sure that a segment is here, and is, record by record, what was signed and what
    /// the log says was dropped from it.
    fn whole(&self, segment: &Range<u64>) -> io::Result<Inspected> {
        let inspected = self.inspect(segment)?;
        match inspected.standing {
            Standing::Told => Ok(inspected),
            standing => {
                let fault = standing.fault();
                let fault = fault.unwrap_or("what was dropped from it last may not be done");
                Err(Differs::error(segment.start, fault))
            }
        }
    }
}

/// What is told of an object that has what was dropped.
fn stays(object: &str, store: &str, why: &str) -> io::Error {
    io::Error::other(format!(
        "`{object}` in the archive `{store}` has records that were dropped, and cannot be deleted: {why}"
    ))
}

/// The hash that is written so.
fn unhex(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    (merkle::hex(&hash) == text).then_some(hash)
}

/// What is wrong with a file that is beside what stays of a segment.
pub(super) const NOT_WHAT_WENT: &str =
    "the segment is here, and is not the one that went to the archive";
