//! Fetches what went away: for all who read, for one, or past the cache.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{Archive, Away, Why, away::Refused, cache::Aside, lock, sum_of};
use crate::{disk::Disk, files, log::RESERVE_BYTES, merkle, segment::Stub};

impl Archive {
    /// Opens a segment that went away: from the cache, or after fetching it. Blocks, and at
    /// most for as long as a store that is not away may take.
    pub(crate) fn open(&self, stub: &Stub) -> Result<File, Away> {
        let name = cached_name(stub);
        let turn = lock(&self.turns).entry(name.clone()).or_default().clone();
        let opened = {
            let _turn = lock(&turn);
            match self.cached(stub, &name) {
                Some(file) => Ok(file),
                None => self.fetch(stub, &name),
            }
        };
        let mut turns = lock(&self.turns);
        // The map and we ourselves: nobody waits.
        if Arc::strong_count(&turn) == 2 {
            turns.remove(&name);
        }
        opened
    }

    /// Whether the cache still has a segment that was opened.
    pub(crate) fn keeps(&self, cached: &str) -> bool {
        self.cache.has(cached)
    }

    /// What is in the cache, if it is what was signed; it goes if it is not.
    fn cached(&self, stub: &Stub, name: &str) -> Option<File> {
        let file = self.cache.open(name)?;
        if self.cache.is_checked(name) {
            return Some(file);
        }
        if !is_of(stub, &file) {
            tracing::warn!(
                file = name,
                "what was fetched earlier is not what it was; it is fetched again"
            );
            self.cache.remove(name);
            return None;
        }
        self.cache.note_checked(name);
        Some(file)
    }

    fn fetch(&self, stub: &Stub, name: &str) -> Result<File, Away> {
        let aside = self.fetch_aside(stub, name)?;
        let file = aside.finish(name);
        file.map_err(|e| self.fault(stub, here(&e)))
    }

    /// Opens a segment that went away for one reader alone: what is fetched for that does not
    /// stay.
    pub(crate) fn open_once(&self, stub: &Stub) -> Result<File, Away> {
        let name = cached_name(stub);
        if let Some(file) = self.cached(stub, &name) {
            return Ok(file);
        }
        let aside = self.fetch_aside(stub, &name)?;
        aside.open().map_err(|e| self.fault(stub, here(&e)))
    }

    fn fetch_aside(&self, stub: &Stub, name: &str) -> Result<Aside<'_>, Away> {
        let length = stub.moved.length;
        self.may_ask(stub)?;
        let fault = |refused| self.fault(stub, refused);
        let aside = self
            .cache
            .begin(name, length)
            .map_err(|e| fault(here(&e)))?;
        // Who had the place before may have found out.
        self.may_ask(stub)?;
        let to = aside.create().map_err(|e| fault(here(&e)))?;
        self.is_read(stub, Some(to)).map_err(fault)?;
        self.note_fetched(length);
        Ok(aside)
    }

    /// Says at once what was found a moment ago: that the store cannot be asked, or has lost
    /// the object, or another in its place.
    fn may_ask(&self, stub: &Stub) -> Result<(), Away> {
        if let Some(cause) = self.is_down() {
            return Err(Away::of(stub, &self.url, (Why::Unreachable, cause)));
        }
        let known = lock(&self.faults).known(&stub.moved.object, Instant::now());
        known.map_or(Ok(()), Err)
    }

    fn note_fetched(&self, length: u64) {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        self.fetched_bytes.fetch_add(length, Ordering::Relaxed);
        lock(&self.faults).is_written();
    }

    /// Removes what was fetched of the segment that begins with `first`, unless it is what
    /// `stays` of it in the archive.
    pub(crate) fn forget(&self, first: u64, stays: Option<&Stub>) {
        let object = stays.map(|stub| stub.moved.object.as_str());
        lock(&self.faults).has_moved(first, object);
        let stays = stays.map(cached_name);
        self.cache.retain(|name| {
            let is_stays = || stays.as_ref().is_some_and(|stays| name.starts_with(stays));
            !name.starts_with(&cached_as(first)) || is_stays()
        });
    }

    /// Removes what was fetched and is not what one of `stubs` names, and what nobody goes on
    /// fetching.
    pub(crate) fn sweep(&self, stubs: impl Iterator<Item = Stub>) {
        let stubs = stubs.inspect(|stub| {
            lock(&self.faults).has_moved(stub.moved.first, Some(&stub.moved.object));
        });
        let names: HashSet<String> = stubs.map(|stub| cached_name(&stub)).collect();
        self.cache.retain(|name| {
            let cached = name.split_inclusive(EXT).next().unwrap_or(name);
            names.contains(cached)
        });
        self.cache.tidy();
    }

    fn fetch_into(&self, stub: &Stub, to: File) -> Result<(), Away> {
        if let Some(cause) = self.is_down() {
            return Err(Away::of(stub, &self.url, (Why::Unreachable, cause)));
        }
        let read = self.is_read(stub, Some(to));
        read.map_err(|refused| self.fault(stub, refused))?;
        self.note_fetched(stub.moved.length);
        Ok(())
    }

    /// Makes sure that all of these fit on the disk of the log in `dir`, and leave the room
    /// that records need.
    pub(crate) fn has_room(&self, dir: &Path, stubs: &[Stub]) -> Result<(), Away> {
        let Some(first) = stubs.first() else {
            return Ok(());
        };
        let space = Disk::default().space(dir);
        let free = space.map_err(|e| self.fault(first, here(&e)))?.free;
        let bytes = stubs.iter().map(|stub| stub.moved.length);
        let bytes = bytes.fold(RESERVE_BYTES, u64::saturating_add);
        if free >= bytes {
            return Ok(());
        }
        let cause = format!(
            "the disk of the log has {free} bytes left, and {bytes} are needed to bring {} segments back",
            stubs.len()
        );
        Err(self.fault(first, (Why::NoRoom, cause)))
    }

    /// Reads what is in the store now, past the cache and into a file that has no name, in the
    /// folder of the system for temporary ones: nothing is written beside the log.
    pub(crate) fn open_afresh(&self, stub: &Stub) -> Result<File, Away> {
        if let Some(cause) = self.is_down() {
            return Err(Away::of(stub, &self.url, (Why::Unreachable, cause)));
        }
        let fault = |refused| self.fault(stub, refused);
        let (file, to) = nameless().map_err(|e| fault(here(&e)))?;
        self.is_read(stub, Some(to)).map_err(fault)?;
        lock(&self.faults).is_written();
        Ok(file)
    }

    /// Writes a segment that went away to `to`, compared with what was signed; durable when
    /// it returns. It comes from what was `fetched` of it, if that is it still, and else from
    /// the cache or the store. What is not in the cache does not come there: it has its room once.
    pub(crate) fn write_to(&self, stub: &Stub, fetched: Option<File>, to: &Path) -> io::Result<()> {
        let mut file = files::create(to)?;
        let fetched = fetched.filter(|file| is_of(stub, file));
        match fetched.or_else(|| self.cached(stub, &cached_name(stub))) {
            Some(mut from) => {
                io::Seek::rewind(&mut from)?;
                io::copy(&mut from, &mut file)?;
            }
            None => self.fetch_into(stub, file).map_err(io::Error::other)?,
        }
        let mut file = File::open(to)?;
        file.sync_all()?;
        match sum_of(&mut file)? == stub.sum {
            true => Ok(()),
            false => Err(io::Error::other("what was written is not what was fetched")),
        }
    }
}

/// Whether a file has the bytes of a segment that went away.
fn is_of(stub: &Stub, mut file: &File) -> bool {
    io::Seek::rewind(&mut file).is_ok()
        && file.metadata().is_ok_and(|m| m.len() == stub.moved.length)
        && sum_of(&mut file).is_ok_and(|sum| sum == stub.sum)
}

/// End of the names of segments in the cache.
const EXT: &str = ".seg";

/// What the file of a segment is called in the cache.
pub(crate) fn cached_name(stub: &Stub) -> String {
    let sum = merkle::hex(stub.sum.get(..SUM_LEN).unwrap_or_default());
    format!("{}{sum}{EXT}", cached_as(stub.moved.first))
}

/// Bytes of a sum that are in such a name.
const SUM_LEN: usize = 8;

/// What the names of all that was fetched of a segment begin with.
fn cached_as(first: u64) -> String {
    format!("{first:020}-")
}

/// What an object is called in the cache.
pub(super) fn cached_of(object: &str) -> Option<String> {
    let name = object.rsplit('/').next()?.strip_suffix(EXT)?;
    let (first, sum) = name.split_once('-')?;
    Some(format!("{first}-{}{EXT}", sum.get(..2 * SUM_LEN)?))
}

/// A file that nobody else can open, to be read and to be written; it goes when both are closed.
fn nameless() -> io::Result<(File, File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (pid, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(format!("palisade-segment-{pid}-{n}"));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(files::FILE_MODE)
        .open(&path)?;
    fs::remove_file(&path)?;
    let to = file.try_clone()?;
    Ok((file, to))
}

/// Why what is fetched finds no place here.
fn here(error: &io::Error) -> Refused {
    match error.kind() {
        io::ErrorKind::StorageFull => (Why::NoRoom, error.to_string()),
        // Others fetch, and have not come to an end.
        io::ErrorKind::TimedOut => (Why::Unreachable, error.to_string()),
        _ => (Why::Local, error.to_string()),
    }
}
