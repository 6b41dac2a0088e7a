//! The log: every record once, in one order, provable.
//!
//! One writer thread owns the files. A batch is handed to it, and what waits is
//! written together: one `write`, one `fdatasync`, for up to [`GROUP_RECORDS`]
//! records or [`GROUP_WAIT`]. Readers share an immutable view of everything that is
//! durable. On disk, below the log's directory:
//!
//! ```text
//! segments/FIRST_LEAF.seg    leaves; the truth           .idx  where each starts
//!                    .moved  what stays of one that went to an archive
//!                    .back   which object one has that came back
//!                    .moving which object is about to be put of one
//! archive.mark               by what the archive is known
//! fetched/                   what was fetched from there (derived)
//! checkpoint                 the latest signed tree head
//! checkpoints                earlier ones, a sample by the minute
//! cosigned                   the latest one that enough witnesses have cosigned
//! checkpoint.key  .pub       the signing key, and what others verify with
//! tile/                      C2SP tlog-tiles             (derived)
//! streams                    how far each stream is      (derived)
//! evidence/                  what recovery cut off or moved aside
//! reserve                    room kept back, once the disk is not roomy
//! lock                       held by the process that writes
//! ```

#[cfg(feature = "index")]
use std::ops::Range;
use std::{
    fmt, io,
    path::Path,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use bytes::Bytes;
use palisade_mesh::{
    clock::Clock,
    spiffe_id::TrustDomain,
    wire::{audit::Envelope, record::Record},
};
use tokio::sync::{Semaphore, watch};

pub use crate::{
    checkpoint::Checkpoint,
    segment::{Dropped, Lacking},
};
use crate::{
    disk::{Disk, Room},
    files,
    merkle::Hash,
    note::{Signer, Verifier},
    privacy::Rules,
    segment,
    statement::Statement,
    stream::StreamKey,
};
#[cfg(feature = "index")]
use crate::{
    going::{Ended, Going},
    verify::{VerifyOptions, verify_while},
};

#[cfg(feature = "index")]
mod book;
mod error;
mod gaps;
mod health;
pub(crate) mod history;
mod lock;
mod options;
mod reader;
mod receipt;
mod recover;
mod remake;
#[cfg(feature = "index")]
mod shift;
#[cfg(feature = "index")]
mod thin;
mod writer;

pub use error::{Damage, LogError};
pub use gaps::OpenGap;
#[cfg(feature = "index")]
pub use gaps::told as gaps_told;
pub use health::LogHealth;
use health::{Deathwatch, Health};
pub use options::{
    CHECKPOINT_EVERY, GROUP_RECORDS, GROUP_WAIT, LogOptions, RESERVE_BYTES, SEGMENT_AGE,
    SEGMENT_BYTES, SEGMENT_BYTES_MAX,
};
pub use reader::Scan;
use reader::Shared;
pub use receipt::{AppendError, Appended, Receipt};
#[cfg(all(test, feature = "index"))]
pub(crate) use shift::Step;
#[cfg(feature = "index")]
use shift::is_needed;
#[cfg(feature = "index")]
pub use shift::{Needs, Restored, Whereabouts, adopt, restore_all};
#[cfg(all(test, feature = "index"))]
pub(crate) use thin::{Crash, Point};
#[cfg(feature = "index")]
pub use thin::{Fate, Thinned, Thinning, Weight};
use writer::{Command, Job, Writer};

/// Batches waiting for the writer; one more is [`AppendError::Busy`].
pub const QUEUE_BATCHES: usize = 256;

/// A record on its way into the log.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Its stream.
    pub stream: Arc<StreamKey>,
    /// Its number there, from 1.
    pub sequence: u64,
    /// Encoded `Record`, at most [`crate::envelope::RECORD_LEN_MAX`]. Its disclosures are
    /// sealed, and not in the log.
    pub record: Bytes,
}

/// A record in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Index of its leaf, from 0.
    pub index: u64,
    /// The leaf.
    pub envelope: Envelope,
    /// The record in it.
    pub record: Record,
}

/// A handle to the log; clones share it. The last one to go closes the log.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    rules: Arc<Rules>,
    health: Arc<Health>,
    permits: Arc<Semaphore>,
    // Of a log that is open for reading only, where its key is there.
    signer: Option<Arc<Signer>>,
    // Absent in a log that is open for reading only.
    commands: Option<mpsc::Sender<Command>>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// Opens the log in `dir`, or begins one, and recovers what a crash left.
    ///
    /// Recovery cuts an incomplete record off the end, but only above the last
    /// checkpoint: nothing that a spool was told to forget. Blocks while it reads
    /// the newest segment; the whole log when tiles or stream positions are lost.
    ///
    /// # Errors
    /// [`LogError::Tampered`] for damage below a checkpoint, unless opened for
    /// reading only; [`LogError::Locked`], [`LogError::Key`], [`LogError::Io`].
    pub fn open(dir: &Path, options: LogOptions, clock: Clock) -> Result<Self, LogError> {
        Self::open_on(dir, options, clock, Disk::default())
    }

    /// As [`Log::open`], on a disk of the caller's.
    pub(crate) fn open_on(
        dir: &Path,
        options: LogOptions,
        clock: Clock,
        disk: Disk,
    ) -> Result<Self, LogError> {
        let health = Arc::new(Health::new(disk));
        let permits = Arc::new(Semaphore::new(QUEUE_BATCHES));
        let rules = options.rules.clone();
        if options.read_only {
            let inner = Inner {
                shared: Arc::new(recover::open_read_only(dir, &options)?),
                rules,
                signer: recover::signer_of(dir, &options).map(Arc::new),
                health,
                permits,
                commands: None,
                thread: std::sync::Mutex::new(None),
            };
            return Ok(Self {
                inner: Arc::new(inner),
            });
        }
        let recovered = recover::recover(dir, &options, &clock)?;
        let signer = recovered.signer.clone();
        let (sender, commands) = mpsc::channel();
        let writer = Writer::new(recovered, options, clock, commands, health.clone())?;
        let shared = writer.shared();
        let watched = health.clone();
        let thread = std::thread::Builder::new()
            .name("audit-log".into())
            .spawn(move || {
                let mut watch = Deathwatch(Some(watched));
                writer.run();
                // It ended as it should.
                watch.0 = None;
            })
            .map_err(LogError::io(dir))?;
        let inner = Inner {
            shared,
            rules,
            signer: Some(signer),
            health,
            permits,
            commands: Some(sender),
            thread: std::sync::Mutex::new(Some(thread)),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Whether there is no log in `dir` yet, so that whatever belongs to one is to be begun.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn is_new(dir: &Path) -> Result<bool, LogError> {
        let segments = match segment::list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(LogError::io(dir))?,
        };
        let checkpoint = dir.join(recover::CHECKPOINT).try_exists();
        Ok(segments.is_empty() && !checkpoint.map_err(LogError::io(dir))?)
    }

    /// Hands a batch to the writer and returns at once; the receipt tells the rest.
    pub fn append(&self, batch: Vec<Pending>) -> Receipt {
        match self.inner.permits.clone().try_acquire_owned() {
            Ok(permit) => self.send(batch, Some(permit)),
            Err(_) => self.receipt(Some(AppendError::Busy)).1,
        }
    }

    /// As [`Log::append`], after waiting for a place in the queue.
    pub async fn append_when_ready(&self, batch: Vec<Pending>) -> Receipt {
        // The semaphore is never closed.
        let permit = self.inner.permits.clone().acquire_owned().await.ok();
        self.send(batch, permit)
    }

    /// As [`Log::append`], past the queue's limit: for what a stream holds when it
    /// ends, which is bounded by its own buffer.
    pub(crate) fn append_last(&self, batch: Vec<Pending>) -> Receipt {
        self.send(batch, None)
    }

    fn send(
        &self,
        batch: Vec<Pending>,
        permit: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> Receipt {
        let Some(commands) = &self.inner.commands else {
            return self.receipt(Some(AppendError::ReadOnly)).1;
        };
        let (done, receipt) = self.receipt(None);
        let job = Job {
            batch,
            note: None,
            done: done.clone(),
            _permit: permit,
        };
        if commands.send(Command::Append(job)).is_err() {
            done.send_replace(Some(Err(AppendError::Closed)));
        }
        receipt
    }

    /// Records what the log has to say about itself.
    #[cfg(feature = "index")]
    fn note(&self, body: palisade_mesh::wire::record::record::Body) -> Receipt {
        let Some(commands) = &self.inner.commands else {
            return self.receipt(Some(AppendError::ReadOnly)).1;
        };
        let (done, receipt) = self.receipt(None);
        let job = Job {
            batch: Vec::new(),
            note: Some(Box::new(body)),
            done: done.clone(),
            _permit: None,
        };
        if commands.send(Command::Append(job)).is_err() {
            done.send_replace(Some(Err(AppendError::Closed)));
        }
        receipt
    }

    fn receipt(&self, failed: Option<AppendError>) -> (receipt::Done, Receipt) {
        receipt::receipt(failed.map(Err), self.inner.shared.checkpoint.subscribe())
    }

    /// Number of durable records.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a log that was opened is never empty"
    )]
    pub fn len(&self) -> u64 {
        *self.inner.shared.len.borrow()
    }

    /// The latest signed checkpoint.
    pub fn checkpoint(&self) -> Checkpoint {
        self.inner.shared.checkpoint.borrow().as_ref().clone()
    }

    /// The key that checkpoints are verified with.
    pub fn verifier(&self) -> &Verifier {
        &self.inner.shared.verifier
    }

    /// Reads the record at `index`.
    ///
    /// # Errors
    /// [`LogError`] when there is none, or it is not as it was written.
    pub fn read(&self, index: u64) -> Result<Entry, LogError> {
        self.inner.shared.read(index)
    }

    /// The record at `index` as it is hashed: an encoded `Envelope`.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn leaf(&self, index: u64) -> Result<Bytes, LogError> {
        self.inner.shared.leaf(index)
    }

    /// When the record at `index` was received, microseconds since the Unix epoch; also of
    /// one that was dropped.
    ///
    /// # Errors
    /// As [`Log::read`].
    #[cfg(feature = "index")]
    pub fn received_us(&self, index: u64) -> Result<i64, LogError> {
        self.inner.shared.received_us(index)
    }

    /// What the start found of finished segments: those that are damaged or gone, as far as
    /// that is seen without reading them.
    pub fn damaged(&self) -> &[Damage] {
        &self.inner.shared.damaged
    }

    /// The records of each segment that is finished and under the latest checkpoint, the
    /// oldest first.
    #[cfg(feature = "index")]
    pub fn sealed(&self) -> Vec<Range<u64>> {
        self.inner.shared.sealed_spans()
    }

    /// Which records of the segment that begins with `segment` were dropped.
    ///
    /// # Errors
    /// [`LogError`] when it cannot be read.
    #[cfg(feature = "index")]
    pub fn dropped_from(&self, segment: u64) -> Result<Vec<Range<u64>>, LogError> {
        thin::dropped_from(&self.inner.shared, segment)
    }

    /// From when to when its clock leapt last, by more than a month between two records or
    /// from the last to `now_us`, and after `seen_us`, when it was looked at; microseconds
    /// since the Unix epoch.
    ///
    /// # Errors
    /// [`LogError`] when it cannot be read.
    #[cfg(feature = "index")]
    pub fn leap(&self, seen_us: Option<i64>, now_us: i64) -> Result<Option<(i64, i64)>, LogError> {
        book::with(self, |book| book.leap(seen_us, now_us))
    }

    /// The holds that it says are in force at `now_us`, microseconds since the Unix epoch: what
    /// lies beside it can be changed by whoever can write there.
    ///
    /// # Errors
    /// [`LogError`] when it cannot be read.
    #[cfg(feature = "index")]
    pub fn holds(&self, now_us: i64) -> Result<Vec<crate::holds::Ordered>, LogError> {
        book::with(self, |book| book.holds(now_us))
    }

    /// Waits until all that is there is under a checkpoint, a minute at most. Blocks.
    ///
    /// # Errors
    /// [`LogError`] when it is not signed in time.
    #[cfg(feature = "index")]
    pub fn await_signature(&self) -> Result<(), LogError> {
        thin::await_signature(self)
    }

    /// Says of what was told to be dropped and is there that it is, and of what was told last
    /// and is done that it is. Blocks until that is signed.
    ///
    /// # Errors
    /// [`LogError`] when it cannot be said.
    #[cfg(feature = "index")]
    pub fn settle(&self) -> Result<(), LogError> {
        book::look_again(self);
        thin::settle(self)?;
        thin::conclude(self)
    }

    /// What names it among other logs: the beginning of the digest of its key, in
    /// hexadecimal.
    #[cfg(feature = "index")]
    pub(crate) fn id(&self) -> String {
        crate::merkle::hex(&recover::log_id(self.verifier()))
    }

    /// What was dropped because its time was over, by segment, the oldest first.
    pub fn lacking(&self) -> Arc<[Lacking]> {
        self.inner.shared.lacking.borrow().clone()
    }

    /// Reads from leaf `from` to what is durable at this call.
    pub fn scan(&self, from: u64) -> Scan {
        Scan::new(self.inner.shared.clone(), from)
    }

    /// Lets a log that is open for reading only know its gaps: all of it is read for that, because
    /// nobody follows its streams.
    ///
    /// # Errors
    /// When nobody waits for it any more.
    #[cfg(feature = "index")]
    pub fn find_gaps(&self, going: &Going, now_us: i64) -> Result<(), Ended> {
        going.parts(1);
        let mut noticed = gaps::Noticed::of(self.verifier().name());
        let mut see = |_: u64, leaf: &[u8]| noticed.take(leaf);
        let options = VerifyOptions {
            key: Some(self.verifier().clone()),
            archive: self.archive().cloned(),
            seen: Some(&mut see),
            ..VerifyOptions::default()
        };
        let found = verify_while(going, &self.inner.shared.dir, options)?;
        let gaps = noticed.gaps(&found, now_us);
        self.inner.shared.gaps.send_replace(gaps);
        going.part_done();
        Ok(())
    }

    /// Numbers that are missing from streams, as of the last checkpoint; of a log that is open for
    /// reading only, once they were [found](Self::find_gaps).
    pub fn gaps(&self) -> Arc<[OpenGap]> {
        self.inner.shared.gaps.borrow().clone()
    }

    /// What is personal in the records of this process.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.inner.rules.clone()
    }

    /// Room on its disk, as of the last look.
    pub(crate) fn room(&self) -> Room {
        self.inner.health.room()
    }

    /// Refuses to write so much beside the records as long as these need the room.
    pub(crate) fn room_for(&self, bytes: u64) -> io::Result<()> {
        let free = self.inner.health.disk.space(&self.inner.shared.dir)?.free;
        match self.room() == Room::Enough && free >= bytes {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("the disk is nearly full: records need the room, not {bytes} other bytes"),
            )),
        }
    }

    /// How the log is doing.
    pub fn health(&self) -> LogHealth {
        self.inner.health.read()
    }

    /// Follows the number of durable records.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.shared.len.subscribe()
    }

    /// Follows the checkpoints.
    pub fn subscribe_checkpoints(&self) -> watch::Receiver<Arc<Checkpoint>> {
        self.inner.shared.checkpoint.subscribe()
    }

    /// Proves that record `index` is under the latest checkpoint.
    ///
    /// # Errors
    /// [`LogError`] when it is not under it yet, or the tiles cannot be read.
    pub fn prove(&self, index: u64) -> Result<(Checkpoint, Vec<Hash>), LogError> {
        self.inner.shared.prove(index)
    }

    /// Proves that the log of `size` records is a prefix of the latest checkpoint's.
    ///
    /// # Errors
    /// [`LogError`] when it is not under it yet, or the tiles cannot be read.
    pub fn prove_prefix(&self, size: u64) -> Result<(Checkpoint, Vec<Hash>), LogError> {
        self.inner.shared.prove_prefix(size)
    }

    /// Proves that record `index` is under an earlier checkpoint of `size` records.
    ///
    /// # Errors
    /// As [`Log::prove`].
    pub fn prove_under(&self, index: u64, size: u64) -> Result<Vec<Hash>, LogError> {
        self.inner.shared.prove_under(index, size)
    }

    /// Proves that the log of `first` records is a prefix of an earlier checkpoint's of
    /// `size`.
    ///
    /// # Errors
    /// As [`Log::prove_prefix`].
    pub fn prove_prefix_of(&self, first: u64, size: u64) -> Result<Vec<Hash>, LogError> {
        self.inner.shared.prove_prefix_of(first, size)
    }

    /// Signs a statement with the key of the log; gives the signed note.
    ///
    /// # Errors
    /// [`LogError::Key`] for a log that is only read and whose key is not there, or when the
    /// device that has the key does not sign.
    pub fn sign(&self, statement: &Statement) -> Result<String, LogError> {
        match &self.inner.signer {
            Some(signer) => statement
                .sign(signer)
                .map_err(|e| LogError::Key(e.to_string())),
            None => Err(LogError::Key("it is not in this folder".into())),
        }
    }

    /// Keeps the latest checkpoint that witnesses have cosigned beside the log, whole or
    /// not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn keep_cosigned(&self, note: &str) -> io::Result<()> {
        let path = self.inner.shared.dir.join(recover::COSIGNED);
        files::replace(&path, note.as_bytes(), files::Sync::Yes)
    }

    /// The latest checkpoint that witnesses have cosigned, if it is one of this log.
    pub fn cosigned(&self) -> Option<Checkpoint> {
        let path = self.inner.shared.dir.join(recover::COSIGNED);
        let note = std::fs::read_to_string(path).ok()?;
        Checkpoint::open(self.verifier(), &note).ok()
    }

    /// Writes what waits, signs a last checkpoint and lets the directory go.
    /// Later appends are [`AppendError::Closed`]; reading goes on. Blocks for
    /// about as long as one group commit.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.inner.shared.dir)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn close(&self) {
        if let Some(commands) = &self.commands {
            // An error means that the writer has closed already.
            let _ = commands.send(Command::Close);
        }
        let thread = match self.thread.lock() {
            Ok(mut thread) => thread.take(),
            Err(poisoned) => poisoned.into_inner().take(),
        };
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("audit log writer panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a verifier must know of the files.
pub(crate) mod stored {
    pub(crate) use super::{
        lock::is_live,
        recover::{CHECKPOINT, COSIGNED, HISTORY, PUBLIC_KEY, log_id},
        writer::OWN_WORKER,
    };
}

/// The trust domain whose log lies in `dir`, by its public key.
///
/// # Errors
/// [`LogError::Key`] or [`LogError::Io`] when there is no such key.
pub fn whose(dir: &Path) -> Result<TrustDomain, LogError> {
    recover::whose(dir)
}

#[cfg(test)]
mod tests;
