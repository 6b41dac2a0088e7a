//! Where finished segments go so that they do not stay on the disk of the log: a folder or a
//! bucket, and a cache of what was fetched back.
//!
//! An object is made once and never written over: its name has the sum of its bytes. What is
//! fetched is compared with the sum that the log has signed before anybody reads it. The
//! cache is no data: it can be removed at any time, and what is found there after a start is
//! compared again.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::{
    ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    local::LocalFileSystem,
    path::{Path as Name, PathPart},
};

use crate::{
    files,
    merkle::{self, Hash},
    segment::Stub,
};

mod cache;
mod courier;
mod run;
mod s3;

use cache::Cache;
use courier::Courier;
pub use run::{After, LastRun, Outcome, Progress, Run};
pub use s3::{S3, http};

/// Folder below the log's, of what was fetched.
pub const CACHE: &str = "fetched";

/// Bytes that the cache may have, unless others are asked for.
pub const CACHE_BYTES: u64 = 4 << 30;

/// Least bytes of a cache: some segments must fit.
pub const CACHE_BYTES_MIN: u64 = 256 << 20;

/// Longest time of an exchange with the store, beside [`BYTES_PER_SECOND_MIN`].
const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(30);

/// A store that is slower counts as away.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// After a store did not answer, nobody waits for it again before this time is over.
const DOWN_FOR: Duration = Duration::from_secs(5);

/// An archive, and the cache of one log.
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    /// As it was written, for people.
    url: String,
    prefix: Name,
    /// The folder of an archive in the file system, which has to be there.
    root: Option<PathBuf>,
    courier: Courier,
    cache: Cache,
    /// Who fetches an object; others wait for them.
    turns: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// Files of the cache that were compared since the start.
    checked: Mutex<HashSet<String>>,
    down: Mutex<Option<(Instant, String)>>,
    health: Mutex<Option<(SystemTime, String)>>,
    fetched: AtomicU64,
    fetched_bytes: AtomicU64,
    failed: AtomicU64,
}

/// How an archive does, since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveHealth {
    /// Why the last exchange with it came to nothing.
    pub fault: Option<String>,
    /// Segments that were fetched.
    pub fetched: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Exchanges that came to nothing.
    pub failed: u64,
    /// Bytes in the cache.
    pub cached_bytes: u64,
}

/// A segment is in an archive and cannot be had from there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the segment that begins with record {segment} is `{object}` in the archive `{store}`: {why}: {cause}"
)]
pub struct Away {
    /// The archive.
    pub store: String,
    /// Index of the first record of the segment.
    pub segment: u64,
    /// Name of the object, below the address of the archive.
    pub object: String,
    /// What it is about.
    pub why: Why,
    /// What the store says.
    pub cause: String,
}

/// Why a segment cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The object has other bytes than those that were signed.
    Altered,
    /// There is no object.
    Missing,
    /// The disk has no room for what would be fetched.
    NoRoom,
    /// A start needs it, and fetches nothing.
    Start,
    /// The store does not answer, or refuses.
    Unreachable,
    /// Nobody said where the archive is.
    Unset,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Altered => "it is not what was signed",
            Self::Missing => "it is not there",
            Self::NoRoom => "there is no room to fetch it",
            Self::Start => "a start needs it here",
            Self::Unreachable => "the store cannot be asked",
            Self::Unset => "it was not said where that is",
        })
    }
}

impl Away {
    /// Of a segment of a log that knows of no archive.
    pub(crate) fn unset(stub: &Stub) -> Self {
        Self {
            store: stub.moved.store.clone(),
            segment: stub.moved.first,
            object: stub.moved.object.clone(),
            why: Why::Unset,
            cause: "`audit.archive` is not set".into(),
        }
    }

    /// Of a segment that a start needs: tiles, or how far streams are, are lost.
    pub(crate) fn at_start(stub: &Stub) -> Self {
        Self {
            why: Why::Start,
            cause: "what can be made again from the records is lost, and needs them here".into(),
            ..Self::unset(stub)
        }
    }
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
        let store = LocalFileSystem::new().with_fsync(true);
        let url = format!("file://{}", folder.display());
        let mut archive = Self::new(Arc::new(store), url, prefix, log, cache_bytes)?;
        archive.root = Some(folder.to_owned());
        Ok(archive)
    }

    /// One that is a bucket.
    ///
    /// # Errors
    /// When what is said of it cannot be used.
    pub fn bucket(s3: S3, log: &Path, cache_bytes: u64) -> io::Result<Self> {
        let (url, prefix) = (s3.url(), s3.prefix()?);
        let store = s3.store().map_err(io::Error::other)?;
        Self::new(Arc::new(store), url, prefix, log, cache_bytes)
    }

    fn new(
        store: Arc<dyn ObjectStore>,
        url: String,
        prefix: Name,
        log: &Path,
        cache_bytes: u64,
    ) -> io::Result<Self> {
        Ok(Self {
            store,
            url,
            prefix,
            root: None,
            courier: Courier::start()?,
            cache: Cache::new(log.join(CACHE), cache_bytes),
            turns: Mutex::default(),
            checked: Mutex::default(),
            down: Mutex::default(),
            health: Mutex::default(),
            fetched: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// Its address, as it was written.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How it does.
    pub fn health(&self) -> ArchiveHealth {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ArchiveHealth {
            fault: lock(&self.health).as_ref().map(|(_, why)| why.clone()),
            fetched: read(&self.fetched),
            fetched_bytes: read(&self.fetched_bytes),
            failed: read(&self.failed),
            cached_bytes: self.cache.bytes(),
        }
    }

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
        let mut file = self.cache.open(name)?;
        if lock(&self.checked).contains(name) {
            return Some(file);
        }
        let sound = file.metadata().is_ok_and(|m| m.len() == stub.moved.length)
            && sum_of(&mut file).is_ok_and(|sum| sum == stub.sum);
        if !sound {
            tracing::warn!(
                file = name,
                "what was fetched earlier is not what it was; it is fetched again"
            );
            self.cache.remove(name);
            return None;
        }
        lock(&self.checked).insert(name.to_owned());
        Some(file)
    }

    fn fetch(&self, stub: &Stub, name: &str) -> Result<File, Away> {
        let moved = &stub.moved;
        let away = |why, cause: String| self.away(stub, why, cause);
        if let Some(cause) = self.is_down() {
            return Err(away(Why::Unreachable, cause));
        }
        let aside = self
            .cache
            .begin(name, moved.length)
            .map_err(|e| away(Why::NoRoom, e.to_string()))?;
        let read = self.read(&moved.object, moved.length, Some(&aside));
        let file = match read {
            Ok(sum) if sum == stub.sum => self.cache.finish(name, &aside),
            Ok(_) => {
                self.cache.abandon(&aside);
                let cause = "its bytes have another SHA-256".to_owned();
                return Err(self.fault(away(Why::Altered, cause)));
            }
            Err((why, cause)) => {
                self.cache.abandon(&aside);
                return Err(self.fault(away(why, cause)));
            }
        };
        let file = file.map_err(|e| away(Why::NoRoom, e.to_string()))?;
        lock(&self.checked).insert(name.to_owned());
        self.fetched.fetch_add(1, Ordering::Relaxed);
        self.fetched_bytes
            .fetch_add(moved.length, Ordering::Relaxed);
        self.answered();
        Ok(file)
    }

    /// Writes a segment that went away to `to`, compared with what was signed; durable when
    /// it returns.
    pub(crate) fn write_to(&self, stub: &Stub, to: &Path) -> io::Result<()> {
        let mut from = self.open(stub).map_err(io::Error::other)?;
        let mut file = files::create(to)?;
        io::Seek::rewind(&mut from)?;
        io::copy(&mut from, &mut file)?;
        file.sync_all()?;
        let sum = sum_of(&mut File::open(to)?)?;
        match sum == stub.sum {
            true => Ok(()),
            false => Err(io::Error::other("what was written is not what was fetched")),
        }
    }

    /// Puts an object that is not there yet, and reads it back. One that is there with the
    /// same bytes is as good; one with others stays as it is.
    pub(crate) fn put(&self, stub: &Stub, bytes: Bytes) -> Result<(), Away> {
        let moved = &stub.moved;
        let away = |why, cause: String| self.fault(self.away(stub, why, cause));
        let there = self.head(&moved.object);
        let there = there.map_err(|(why, cause)| away(why, cause))?;
        if !there {
            self.create(&moved.object, bytes)
                .map_err(|(why, cause)| away(why, cause))?;
        }
        let sum = self.read(&moved.object, moved.length, None);
        match sum.map_err(|(why, cause)| away(why, cause))? == stub.sum {
            true => {
                self.answered();
                Ok(())
            }
            false => Err(away(
                Why::Altered,
                "its bytes have another SHA-256; it is not written over".into(),
            )),
        }
    }

    /// Deletes an object; one that is not there is gone.
    ///
    /// # Errors
    /// Why not, in words.
    pub(crate) fn delete(&self, object: &str) -> Result<(), String> {
        let (store, name) = (self.store.clone(), self.name(object));
        let deleted = self.exchange(0, async move {
            match store.delete(&name).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        });
        deleted.map_err(|(_, cause)| cause)
    }

    fn head(&self, object: &str) -> Result<bool, (Why, String)> {
        let (store, name) = (self.store.clone(), self.name(object));
        self.exchange(0, async move {
            match store.head(&name).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn create(&self, object: &str, bytes: Bytes) -> Result<(), (Why, String)> {
        let (store, name) = (self.store.clone(), self.name(object));
        self.exchange(bytes.len() as u64, async move {
            let options = PutOptions::from(PutMode::Create);
            match store.put_opts(&name, bytes.into(), options).await {
                // An earlier try of ours, perhaps; reading it back tells.
                Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
                Err(object_store::Error::Precondition { .. }) => Ok(()),
                // No object is not there, but the bucket.
                Err(object_store::Error::NotFound { source, .. }) => {
                    Err(object_store::Error::Generic {
                        store: "the store",
                        source,
                    })
                }
                Err(error) => Err(error),
            }
        })
    }

    /// Reads an object of `length` bytes, into the file `to` if that is wanted; gives its sum.
    fn read(&self, object: &str, length: u64, to: Option<&Path>) -> Result<Hash, (Why, String)> {
        let (store, name) = (self.store.clone(), self.name(object));
        let to = to.map(Path::to_path_buf);
        let read = self.exchange(length, async move {
            let mut out = match to {
                Some(path) => Some(files::create(&path).map_err(local)?),
                None => None,
            };
            let got = store.get(&name).await?;
            if got.meta.size != length {
                return Ok(None);
            }
            let mut chunks = got.into_stream();
            let (mut sum, mut len) = (Context::new(&SHA256), 0_u64);
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                len += chunk.len() as u64;
                if len > length {
                    return Ok(None);
                }
                sum.update(&chunk);
                if let Some(out) = &mut out {
                    io::Write::write_all(out, &chunk).map_err(local)?;
                }
            }
            if len < length {
                return Ok(None);
            }
            Ok(Some(hash_of(sum)))
        })?;
        read.ok_or_else(|| {
            (
                Why::Altered,
                format!("it has not the {length} bytes that it had"),
            )
        })
    }

    /// Carries out an exchange in which so many bytes travel, within its time.
    fn exchange<T: Send + 'static>(
        &self,
        bytes: u64,
        ask: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T, (Why, String)> {
        if let Some(root) = self.root.as_ref().filter(|root| !root.is_dir()) {
            let cause = format!("there is no folder `{}`", root.display());
            return Err((Why::Unreachable, cause));
        }
        let limit = EXCHANGE_TIME_MAX + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
        let asked = self
            .courier
            .run(async move { tokio::time::timeout(limit, ask).await.map_err(|_| limit) });
        match asked {
            Some(Ok(Ok(value))) => Ok(value),
            Some(Ok(Err(object_store::Error::NotFound { .. }))) => {
                Err((Why::Missing, "the store has no such object".into()))
            }
            Some(Ok(Err(error))) => Err((Why::Unreachable, told(&error))),
            Some(Err(limit)) => {
                let cause = format!("no whole answer within {} s", limit.as_secs());
                Err((Why::Unreachable, cause))
            }
            None => Err((Why::Unreachable, "the thread that asks it has ended".into())),
        }
    }

    fn name(&self, object: &str) -> Name {
        let parts = object.split('/').map(PathPart::from);
        self.prefix.parts().chain(parts).collect()
    }

    fn away(&self, stub: &Stub, why: Why, cause: String) -> Away {
        Away {
            store: self.url.clone(),
            segment: stub.moved.first,
            object: stub.moved.object.clone(),
            why,
            cause,
        }
    }

    /// Notes that something went wrong.
    fn fault(&self, away: Away) -> Away {
        self.failed.fetch_add(1, Ordering::Relaxed);
        *lock(&self.health) = Some((SystemTime::now(), away.to_string()));
        if away.why == Why::Unreachable {
            *lock(&self.down) = Some((Instant::now(), away.cause.clone()));
        }
        away
    }

    fn answered(&self) {
        *lock(&self.health) = None;
        *lock(&self.down) = None;
    }

    fn is_down(&self) -> Option<String> {
        let down = lock(&self.down);
        let (since, cause) = down.as_ref()?;
        (since.elapsed() < DOWN_FOR).then(|| cause.clone())
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Archive").field(&self.url).finish()
    }
}

/// What the file of a segment is called in the cache.
pub(crate) fn cached_name(stub: &Stub) -> String {
    let sum = merkle::hex(stub.sum.get(..8).unwrap_or_default());
    format!("{:020}-{sum}.seg", stub.moved.first)
}

/// What an object is called: by the log's name, the segment and the sum of its bytes.
pub(crate) fn object_name(domain: &str, log_id: &[u8], first: u64, sum: &Hash) -> String {
    let (log, sum) = (merkle::hex(log_id), merkle::hex(sum));
    format!("{domain}/{log}/{first:020}-{sum}.seg")
}

/// SHA-256 of what follows in a file.
pub(crate) fn sum_of(file: &mut File) -> io::Result<Hash> {
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

fn local(error: io::Error) -> object_store::Error {
    object_store::Error::Generic {
        store: "the cache",
        source: Box::new(error),
    }
}

/// An error of the store with its causes, on one line.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
