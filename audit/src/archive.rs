//! Where finished segments go so that they do not stay on the disk of the log: a folder or a
//! bucket, and a cache of what was fetched back.
//!
//! An object is made once and never written over: its name has the sum of its bytes. What is
//! fetched is compared with the sum in what stays of the segment before anybody reads it, and
//! a signed record has the digest of that. The cache is no data: it can be removed at any time,
//! and what is found there after a start is compared again.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use object_store::{local::LocalFileSystem, path::Path as Name};

use crate::{
    merkle::{self, Hash},
    segment::Stub,
};

mod away;
mod cache;
mod courier;
mod faults;
mod fetch;
mod mark;
mod run;
mod s3;
mod store;

use away::Refused;
pub use away::{Away, Why};
use cache::Cache;
use faults::Faults;
pub(crate) use fetch::cached_name;
pub(crate) use mark::First;
use mark::Marks;
pub use run::{After, LastRun, Outcome, Progress, Run};
pub use s3::{S3, http};
use store::Store;

/// Folder below the log's, of what was fetched.
pub const CACHE: &str = "fetched";

/// Bytes that the cache may have, unless others are asked for.
pub const CACHE_BYTES: u64 = 4 << 30;

/// Least bytes of a cache: some segments must fit.
pub const CACHE_BYTES_MIN: u64 = 256 << 20;

/// An archive, and the cache of one log.
pub struct Archive {
    store: Store,
    /// As it was written, for people.
    url: String,
    marks: Marks,
    /// Whether this run has drawn its turn.
    has_turn: AtomicBool,
    cache: Cache,
    /// Who fetches an object; others wait for them.
    turns: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    faults: Mutex<Faults>,
    fetched: AtomicU64,
    fetched_bytes: AtomicU64,
    /// What happens before the next object is read.
    #[cfg(test)]
    meanwhile: Mutex<Option<Meanwhile>>,
}

#[cfg(test)]
type Meanwhile = Box<dyn FnOnce() + Send>;

/// How an archive does, since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveHealth {
    /// What is wrong with it, for as long as that is not seen to be right again.
    pub fault: Option<String>,
    /// Whether the bucket keeps earlier versions of what is deleted, as far as it has said.
    pub versions: bool,
    /// Segments that were fetched.
    pub fetched: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Exchanges that came to nothing.
    pub failed: u64,
    /// Bytes in the cache.
    pub cached_bytes: u64,
}

/// The word of the store, just given, that it holds an object with the bytes of a sum. Nothing
/// else lets the file of a segment go.
#[derive(Debug)]
pub(crate) struct Held {
    /// Name of the object.
    pub(crate) object: String,
    /// SHA-256 of what was read of it.
    pub(crate) sum: Hash,
}

impl Archive {
    /// One that is a `folder`, for the log in `log`, with so many bytes of cache.
    ///
    /// It has to be there only when it is used, as a bucket has.
    ///
    /// # Errors
    /// When the path is not a whole one.
    pub fn folder(folder: &Path, log: &Path, cache_bytes: u64) -> io::Result<Self> {
        let prefix = Name::from_absolute_path(folder).map_err(io::Error::other)?;
        let objects = Arc::new(LocalFileSystem::new().with_fsync(true));
        let root = Some(folder.to_owned());
        let store = Store::new(objects, prefix, root, Arc::default())?;
        let url = format!("file://{}", folder.display());
        Ok(Self::new(store, url, log, cache_bytes))
    }

    /// One that is a bucket.
    ///
    /// # Errors
    /// When what is said of it cannot be used.
    pub fn bucket(s3: S3, log: &Path, cache_bytes: u64) -> io::Result<Self> {
        let (url, prefix) = (s3.url(), s3.prefix()?);
        let versions: Arc<AtomicBool> = Arc::default();
        let objects = s3.store(versions.clone()).map_err(io::Error::other)?;
        let store = Store::new(Arc::new(objects), prefix, None, versions)?;
        Ok(Self::new(store, url, log, cache_bytes))
    }

    fn new(store: Store, url: String, log: &Path, cache_bytes: u64) -> Self {
        Self {
            store,
            marks: Marks::new(log, &url),
            url,
            has_turn: AtomicBool::new(false),
            cache: Cache::new(log.join(CACHE), cache_bytes),
            turns: Mutex::default(),
            faults: Mutex::default(),
            fetched: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
            #[cfg(test)]
            meanwhile: Mutex::default(),
        }
    }

    /// Gives an exchange less time.
    #[cfg(test)]
    pub(crate) fn hurry(&mut self, time_max: std::time::Duration) {
        self.store.hurry(time_max);
    }

    /// Lets something happen before the next object is read.
    #[cfg(test)]
    pub(crate) fn meanwhile(&self, happens: impl FnOnce() + Send + 'static) {
        *lock(&self.meanwhile) = Some(Box::new(happens));
    }

    #[cfg(test)]
    fn happen(&self) {
        let happens = lock(&self.meanwhile).take();
        if let Some(happens) = happens {
            happens();
        }
    }

    /// As if it were long ago that the store was away, or objects were missing or altered.
    #[cfg(test)]
    pub(crate) fn doubt(&self) {
        lock(&self.faults).doubt();
    }

    /// Its address, as it was written.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How it does.
    pub fn health(&self) -> ArchiveHealth {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let faults = lock(&self.faults);
        ArchiveHealth {
            fault: faults.told(),
            versions: self.store.keeps_versions(),
            fetched: read(&self.fetched),
            fetched_bytes: read(&self.fetched_bytes),
            failed: faults.failed,
            cached_bytes: self.cache.bytes(),
        }
    }

    /// Reads an object, and compares it with what was signed.
    fn is_read(&self, stub: &Stub, to: Option<File>) -> Result<Held, Refused> {
        #[cfg(test)]
        self.happen();
        let (object, length) = (&stub.moved.object, stub.moved.length);
        match self.store.read(object, length, to) {
            Ok(sum) if sum == stub.sum => {
                lock(&self.faults).reads_well(object);
                self.look_for_mark(object);
                let object = object.clone();
                Ok(Held { object, sum })
            }
            Ok(_) => Err((Why::Altered, "its bytes have another SHA-256".into())),
            // A place that is another has none of ours.
            Err((Why::Missing, cause)) => {
                self.is_ours(object)?;
                Err((Why::Missing, cause))
            }
            Err(refused) => Err(refused),
        }
    }

    /// Makes sure that the place is the archive of this log before a segment goes there, and
    /// makes a new place that if it `may` be one.
    pub(crate) fn begin(&self, stub: &Stub, may: First) -> Result<(), Away> {
        let log = log_of(&stub.moved.object);
        let begun = self.marks.begin(&self.store, log, may);
        let begun = begun.and_then(|()| self.has_turn(log));
        begun.map_err(|refused| self.fault(stub, refused))?;
        lock(&self.faults).is_marked();
        Ok(())
    }

    /// Puts an object that is not there yet, and reads it back. One that is there with the
    /// same bytes is as good; one with others stays as it is.
    pub(crate) fn put(&self, stub: &Stub, bytes: Bytes) -> Result<Held, Away> {
        let object = &stub.moved.object;
        let put = self.has_turn(log_of(object));
        let put = put.and_then(|()| self.store.create(object, bytes));
        let put = put.and_then(|()| match self.is_read(stub, None) {
            Err((Why::Altered, cause)) => {
                Err((Why::Altered, format!("{cause}; it is not written over")))
            }
            read => read,
        });
        put.map_err(|refused| self.fault(stub, refused))
    }

    /// Asks whether the object is there, by reading it.
    pub(crate) fn ask(&self, stub: &Stub) -> Result<Held, Away> {
        let asked = self.has_turn(log_of(&stub.moved.object));
        let asked = asked.and_then(|()| self.is_read(stub, None));
        asked.map_err(|refused| self.fault(stub, refused))
    }

    /// Deletes an object, and what was fetched of it; one that is not there is gone.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn delete(&self, object: &str) -> Result<(), Refused> {
        self.has_turn(log_of(object))?;
        self.store.delete(object)?;
        lock(&self.faults).is_gone(object);
        if let Some(cached) = fetch::cached_of(object) {
            self.cache.retain(|name| !name.starts_with(&cached));
        }
        Ok(())
    }

    /// A run begins: it draws a turn before it puts or deletes.
    pub(crate) fn begin_run(&self) {
        self.has_turn.store(false, Ordering::Relaxed);
    }

    /// Makes the folder of the log whose objects begin with `log` the one that counts among its
    /// copies.
    pub(crate) fn adopt(&self, log: &str) -> Result<(), Refused> {
        self.marks.adopt(&self.store, log)
    }

    /// Makes sure that no copy of the log's folder has put or deleted anything since this one
    /// did, nor does after.
    fn has_turn(&self, log: &str) -> Result<(), Refused> {
        match self.has_turn.load(Ordering::Relaxed) {
            true => self.marks.holds(&self.store, log)?,
            false => self.marks.take_turn(&self.store, log)?,
        }
        self.has_turn.store(true, Ordering::Relaxed);
        lock(&self.faults).is_marked();
        Ok(())
    }

    /// Makes sure that the place is still the archive of the log whose `object` this is.
    fn is_ours(&self, object: &str) -> Result<(), Refused> {
        self.marks.check(&self.store, log_of(object))?;
        lock(&self.faults).is_marked();
        Ok(())
    }

    /// Looks whether a place that was another is the log's by now. Whether it is not is told to
    /// those who need it.
    fn look_for_mark(&self, object: &str) {
        let was_foreign = lock(&self.faults).is_foreign();
        if was_foreign && self.marks.holds(&self.store, log_of(object)).is_ok() {
            lock(&self.faults).is_marked();
        }
    }

    /// Takes back what was found of an object whose segment is another `now`, or has come back:
    /// it is nothing to be told of.
    pub(crate) fn is_replaced(&self, object: &str, now: Option<&Stub>) {
        if now.is_none_or(|now| now.moved.object != object) {
            lock(&self.faults).is_replaced(object);
        }
    }

    /// Notes that something went wrong.
    fn fault(&self, stub: &Stub, refused: Refused) -> Away {
        let away = Away::of(stub, &self.url, refused);
        lock(&self.faults).take(&away);
        away
    }

    fn is_down(&self) -> Option<String> {
        lock(&self.faults).down()
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Archive").field(&self.url).finish()
    }
}

/// What an object is called: by the log's name, the segment and the sum of its bytes.
pub(crate) fn object_name(domain: &str, log_id: &[u8], first: u64, sum: &Hash) -> String {
    let (log, sum) = (log_name(domain, log_id), merkle::hex(sum));
    format!("{log}/{first:020}-{sum}.seg")
}

/// What the names of all objects of a log begin with.
pub(crate) fn log_name(domain: &str, log_id: &[u8]) -> String {
    format!("{domain}/{}", merkle::hex(log_id))
}

/// The same, of one of them.
fn log_of(object: &str) -> &str {
    object.rsplit_once('/').map_or("", |(log, _)| log)
}

/// SHA-256 of what follows in a file.
pub(crate) fn sum_of(file: &mut impl Read) -> io::Result<Hash> {
    let mut sum = Context::new(&SHA256);
    let mut buf = vec![0; 1 << 20];
    loop {
        match file.read(&mut buf)? {
            0 => return Ok(hash_of(sum)),
            n => sum.update(buf.get(..n).unwrap_or_default()),
        }
    }
}

fn hash_of(sum: Context) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(sum.finish().as_ref());
    hash
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
