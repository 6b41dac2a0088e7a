//! Where a reporter keeps its records until the log has them for good.
//!
//! Workers append to buffers of their own; one thread writes what they hand over,
//! with one fsync for many; a task sends it on. A record leaves the disk only when
//! the log acknowledged it as checkpointed. Each start is a *boot* with a ULID;
//! what an earlier boot left is sent first.
//!
//! A record is lost only when the process is killed between its append and the
//! next flush; [`RecordStream::durable`] waits that out where it must not happen.
//! What finds no room is refused to whoever appends, mode `best_effort` first, and
//! told by a record once there is room again: numbers have no gaps but those that
//! a lost or damaged file makes. Files that are removed or replaced while in use are written
//! again from the open descriptor.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use palisade_mesh::{
    clock::Clock,
    sink::{RecordSink, RecordStream, SinkHealth},
    spiffe_id::SpiffeId,
    wire::record::AuditMode,
};
use serde::Serialize;
use tokio::sync::watch;
use ulid::Ulid;

use crate::{
    buffer::{self, BUFFER_BYTES, BUFFER_RECORDS, Buffer, Chunk, Limits},
    disk::{Disk, Room},
    files,
    heads::HeadSigner,
    privacy::Rules,
    stream::{StreamKey, new_ulid},
};

mod attest;
mod file;
mod frame;
mod loss;
mod marker;
mod names;
mod queue;
mod reached;
mod refusal;
mod stream;
mod uplink;
mod writer;

use marker::Markers;
use queue::{Left, Queue};
use reached::Reached;
use stream::{ClosedStream, Kept, SpoolStream};
use writer::{Command, Writer};

/// Bytes a spool keeps on disk before it is full.
pub const SPOOL_BYTES: u64 = 1 << 30;

/// Longest time a chunk waits for others to share its fsync.
pub const GROUP_WAIT: Duration = Duration::from_millis(1);

/// Chunks that wait for the spool thread; the next stays in its worker's buffer.
pub const QUEUE_CHUNKS: usize = 64;

/// Size at which a spool file is followed by the next, in bytes.
pub const FILE_BYTES: u64 = 8 << 20;

/// Time after which a spool file is followed by the next, so that what the log has does not
/// stay in the file of a reporter that says little; looked at once a second.
pub const FILE_AGE: Duration = Duration::from_secs(600);

/// Time between signed heads of all streams, written to or not.
pub const HEADS_EVERY: Duration = Duration::from_secs(10);

/// Bytes of disk kept back for the moment in which it is full.
pub const RESERVE_BYTES: u64 = 64 << 20;

/// Worker number of the spool's own records.
const OWN_WORKER: u32 = u32::MAX - 1;

/// Part of [`SPOOL_BYTES`] that records of mode `best_effort` leave to the others.
const KEPT_BACK: u64 = 8;

/// Limits of a spool.
#[derive(Debug, Clone)]
pub struct SpoolOptions {
    /// See [`SPOOL_BYTES`].
    pub spool_bytes: u64,
    /// See [`BUFFER_BYTES`].
    pub buffer_bytes: usize,
    /// See [`BUFFER_RECORDS`].
    pub buffer_records: usize,
    /// See [`GROUP_WAIT`].
    pub group_wait: Duration,
    /// See [`FILE_BYTES`].
    pub file_bytes: u64,
    /// See [`FILE_AGE`].
    pub file_age: Duration,
    /// See [`RESERVE_BYTES`]; at most a sixteenth of the file system.
    pub reserve_bytes: u64,
    /// See [`HEADS_EVERY`]; looked at once a second.
    pub heads_every: Duration,
    /// What is personal in the records.
    pub rules: Arc<Rules>,
}

impl Default for SpoolOptions {
    fn default() -> Self {
        Self {
            spool_bytes: SPOOL_BYTES,
            buffer_bytes: BUFFER_BYTES,
            buffer_records: BUFFER_RECORDS,
            group_wait: GROUP_WAIT,
            file_bytes: FILE_BYTES,
            file_age: FILE_AGE,
            reserve_bytes: RESERVE_BYTES,
            heads_every: HEADS_EVERY,
            rules: Arc::default(),
        }
    }
}

/// Why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process uses it.
    #[error("spool `{0}` is in use by another process")]
    Locked(PathBuf),
    /// The file system refused.
    #[error("spool `{path}`: {source}")]
    Io {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How a spool is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SpoolStats {
    /// Records on disk that the log has not acknowledged as checkpointed.
    pub waiting: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Time of the last acknowledgement, microseconds since the Unix epoch.
    pub last_ack_us: Option<i64>,
    /// Whether the log is connected.
    pub connected: bool,
    /// Records that the log refused again and again, which were set aside.
    pub refused: u64,
    /// Whether the last write to the disk failed.
    pub failing: bool,
    /// Bytes it may hold on disk.
    pub bytes_max: u64,
    /// Records that found no room and were refused, by mode: `strict`, `spool`,
    /// `best_effort`.
    pub dropped: [u64; 3],
    /// Room on the disk.
    pub room: Room,
    /// How long the present fsync has not come back, once that is a stall.
    pub stalled: Option<Duration>,
    /// Files that were removed or replaced while in use.
    pub restored: u64,
    /// Files of which something cannot be read, those included that were set aside before.
    pub damaged: u64,
    /// Whether the writing thread is gone; nothing more is kept.
    pub dead: bool,
}

/// The spool of one reporter.
pub struct Spool {
    shared: Arc<Shared>,
    commands: mpsc::SyncSender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
    workers: Mutex<BTreeSet<u32>>,
    has_left: bool,
}

/// What workers, the writing thread and the uplink share.
struct Shared {
    // Held until the spool and its uplink are gone.
    _lock: File,
    dir: PathBuf,
    reporter: SpiffeId,
    boot: Ulid,
    options: SpoolOptions,
    clock: Clock,
    markers: Markers,
    // Written by the spool thread and the uplink, read by all.
    bytes: AtomicU64,
    closed: AtomicBool,
    // Set by the spool thread, once nothing more will be written.
    ended: AtomicBool,
    failing: AtomicBool,
    queue: Mutex<Queue>,
    // How far the streams are on disk, and the log is not known to be.
    reached: Mutex<Reached>,
    // Moves on whenever records became durable, were acknowledged, or all ended.
    moved: watch::Sender<u64>,
    // As of the last look.
    room: AtomicU8,
    // The writing thread panicked.
    dead: AtomicBool,
    dropped: [AtomicU64; 3],
    restored: AtomicU64,
    damaged: AtomicU64,
    // What the spool has to say of itself: a verb, and the detail.
    told: Mutex<Vec<(&'static str, String)>>,
    disk: Disk,
    // Of every stream, to be told when the thread dies.
    streams: Mutex<Vec<watch::Sender<Kept>>>,
    // What ended streams had in their buffers.
    parting: Mutex<Vec<(Chunk, watch::Sender<Kept>)>>,
    // Who signs heads, once there is somebody.
    signer: OnceLock<Arc<dyn HeadSigner>>,
    // Written by the uplink.
    connected: AtomicBool,
    connections: AtomicU64,
    last_ack_us: AtomicI64,
    // Records that were set aside, and the log's words when it last refused some.
    aside: AtomicU64,
    refusal: Mutex<Option<Arc<str>>>,
}

impl Spool {
    /// Opens the spool in `dir` and begins a new boot.
    ///
    /// # Errors
    /// [`SpoolError`] when the directory cannot be used.
    pub fn open(
        dir: &Path,
        reporter: SpiffeId,
        options: SpoolOptions,
        clock: Clock,
    ) -> Result<Arc<Self>, SpoolError> {
        Self::open_on(dir, reporter, options, clock, Disk::default())
    }

    /// As [`Spool::open`], on a disk of the caller's.
    pub(crate) fn open_on(
        dir: &Path,
        reporter: SpiffeId,
        options: SpoolOptions,
        clock: Clock,
        disk: Disk,
    ) -> Result<Arc<Self>, SpoolError> {
        let failed = |source| SpoolError::Io {
            path: dir.into(),
            source,
        };
        files::create_dir(dir).map_err(failed)?;
        let lock = files::lock(&dir.join("lock"))
            .map_err(failed)?
            .ok_or_else(|| SpoolError::Locked(dir.into()))?;
        let markers = Markers::open(dir).map_err(failed)?;
        let left = Left::load(dir, &reporter, &markers).map_err(failed)?;
        let boot = new_ulid(&clock);
        let reached = Reached::load(dir, &reporter, boot, left.queue.reached());
        let has_left = !reached.told().is_empty();
        let shared = Arc::new(Shared {
            _lock: lock,
            dir: dir.into(),
            reporter,
            boot,
            options,
            clock,
            markers,
            bytes: AtomicU64::new(left.bytes),
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            queue: Mutex::new(left.queue),
            reached: Mutex::new(reached),
            moved: watch::Sender::new(0),
            room: AtomicU8::new(Room::Enough.to_u8()),
            dead: AtomicBool::new(false),
            dropped: Default::default(),
            restored: AtomicU64::new(0),
            damaged: AtomicU64::new(left.damaged_before),
            told: Mutex::default(),
            disk,
            streams: Mutex::new(Vec::new()),
            parting: Mutex::new(Vec::new()),
            signer: OnceLock::new(),
            connected: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            last_ack_us: AtomicI64::new(0),
            aside: AtomicU64::new(left.refused_before),
            refusal: Mutex::default(),
        });
        for told in left.damaged {
            shared.found_damaged(told);
        }
        let (commands, received) = mpsc::sync_channel(QUEUE_CHUNKS);
        let writer = Writer::new(shared.clone(), received);
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || {
                let mut watch = Deathwatch(Some(writer.shared()));
                writer.run();
                // It ended as it should.
                watch.0 = None;
            })
            .map_err(failed)?;
        Ok(Arc::new(Self {
            shared,
            commands,
            thread: Mutex::new(Some(thread)),
            workers: Mutex::new(BTreeSet::new()),
            has_left,
        }))
    }

    /// Whether starts before this one had records that the log was not known to have. They are
    /// sent as far as they are here, and told of in signed heads.
    pub fn has_left(&self) -> bool {
        self.has_left
    }

    /// The ULID of this start.
    pub fn boot(&self) -> Ulid {
        self.shared.boot
    }

    /// How it is doing.
    pub fn stats(&self) -> SpoolStats {
        let shared = &self.shared;
        let last_ack_us = shared.last_ack_us.load(Ordering::Relaxed);
        SpoolStats {
            waiting: shared.queue().waiting(),
            bytes: shared.bytes.load(Ordering::Relaxed),
            last_ack_us: (last_ack_us != 0).then_some(last_ack_us),
            connected: shared.connected.load(Ordering::Relaxed),
            refused: shared.aside.load(Ordering::Relaxed),
            failing: shared.failing.load(Ordering::Relaxed),
            bytes_max: shared.options.spool_bytes,
            dropped: shared.dropped.each_ref().map(|n| n.load(Ordering::Relaxed)),
            room: shared.room(),
            stalled: shared.disk.stalled(),
            restored: shared.restored.load(Ordering::Relaxed),
            damaged: shared.damaged.load(Ordering::Relaxed),
            dead: shared.is_dead(),
        }
    }

    /// Signs the heads of its streams from now on; the first signer stays.
    pub fn sign_heads(&self, signer: Arc<dyn HeadSigner>) {
        let _ = self.shared.signer.set(signer);
    }

    /// Waits until everything on disk is acknowledged as checkpointed.
    pub async fn delivered(&self) {
        let mut moved = self.shared.moved.subscribe();
        // The sender lives as long as the spool.
        let _ = moved.wait_for(|_| self.shared.queue().waiting() == 0).await;
    }

    /// Writes what was handed over and what ended streams left, and ends the boot.
    /// Streams are dropped before: each then hands over the rest with its closing
    /// head. Blocks for about one fsync; where the disk refuses, for two seconds.
    pub fn close(&self) {
        if self.shared.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        // An error means that the thread has ended already; when the queue is
        // full it looks at `closed` by itself.
        let _ = self.commands.try_send(Command::Close);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("spool thread panicked");
            // What is on disk can still be delivered.
            self.shared.ended.store(true, Ordering::SeqCst);
        }
        self.shared.moved();
    }
}

impl RecordSink for Spool {
    fn health(&self) -> SinkHealth {
        let stats = self.stats();
        SinkHealth {
            waiting: stats.waiting,
            bytes: stats.bytes,
            bytes_max: stats.bytes_max,
            dropped: stats.dropped,
            restored: stats.restored,
            damaged: stats.damaged,
            refused: stats.refused,
            refusal: self.shared.refusal(),
            fsync: self.shared.disk.fsyncs(),
            stalled: stats.stalled,
            low: stats.room != Room::Enough,
            failing: stats.failing,
            dead: stats.dead,
        }
    }

    fn open(&self, worker: u32) -> Box<dyn RecordStream> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if !workers.insert(worker) {
            tracing::error!(worker, "a second stream of a worker was asked for");
            return Box::new(ClosedStream);
        }
        let stream = StreamKey {
            reporter: self.shared.reporter.clone(),
            boot: self.shared.boot,
            worker,
        };
        let limits = Limits {
            bytes: self.shared.options.buffer_bytes,
            records: self.shared.options.buffer_records,
        };
        let buffer = Buffer::new(Arc::new(stream), limits, self.shared.clock.clone())
            .covering(self.shared.options.rules.clone());
        let kept = watch::Sender::new(Kept {
            closed: self.shared.is_dead(),
            ..Kept::default()
        });
        self.shared
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(kept.clone());
        Box::new(SpoolStream::new(
            buffer,
            kept,
            self.shared.clone(),
            self.commands.clone(),
        ))
    }
}

/// Tells everybody, should the writing thread panic: nothing more will be kept.
struct Deathwatch(Option<Arc<Shared>>);

impl Drop for Deathwatch {
    fn drop(&mut self) {
        let Some(shared) = &self.0 else {
            return;
        };
        shared.dead.store(true, Ordering::SeqCst);
        let streams = shared.streams.lock();
        for kept in streams.unwrap_or_else(PoisonError::into_inner).iter() {
            kept.send_modify(|kept| kept.closed = true);
        }
        shared.moved();
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool")
            .field("dir", &self.shared.dir)
            .field("boot", &self.shared.boot)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reached(&self) -> MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers how far the streams are, and forgets what the log has, or has heard of.
    fn remember(&self, sync: files::Sync) {
        let mut reached = self.reached();
        let queue = self.queue();
        reached.deliver(|boot, worker| queue.done(boot, worker));
        drop(queue);
        reached.save(sync);
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    fn room(&self) -> Room {
        Room::from_u8(self.room.load(Ordering::Relaxed))
    }

    /// Whether there is room on disk for `more` bytes of records of `mode`.
    fn has_room(&self, more: u64, mode: AuditMode) -> bool {
        let max = self.options.spool_bytes;
        let held = self.bytes.load(Ordering::Relaxed) + more;
        match mode {
            AuditMode::BestEffort => self.room() != Room::Full && held < max - max / KEPT_BACK,
            _ => held < max,
        }
    }

    /// Counts a record that was not taken.
    fn count_dropped(&self, mode: AuditMode) {
        buffer::count_of(&self.dropped, mode).fetch_add(1, Ordering::Relaxed);
    }

    /// Has the writing thread record something about the spool, within about a second.
    fn tell(&self, verb: &'static str, detail: String) {
        let told = self.told.lock();
        let mut told = told.unwrap_or_else(PoisonError::into_inner);
        told.push((verb, detail));
    }

    /// Notes what the log said when it refused records.
    fn note_refusal(&self, words: &str) {
        let last = self.refusal.lock();
        *last.unwrap_or_else(PoisonError::into_inner) = Some(words.into());
    }

    /// What was refused was taken later.
    fn forget_refusal(&self) {
        let last = self.refusal.lock();
        *last.unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn refusal(&self) -> Option<Arc<str>> {
        let last = self.refusal.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has it told that a file is damaged.
    fn found_damaged(&self, told: String) {
        tracing::error!(what = %told, "spool file is damaged");
        self.damaged.fetch_add(1, Ordering::Relaxed);
        self.tell("damaged", told);
        let freed = self.queue().free();
        self.release(freed);
        self.moved();
    }

    /// Gives disk space back to whoever appends.
    fn release(&self, bytes: u64) {
        let less = |held: u64| Some(held.saturating_sub(bytes));
        // Never fails: there is always a next value.
        let _ = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Wakes whoever waits for a change.
    fn moved(&self) {
        self.moved.send_modify(|n| *n += 1);
    }
}

#[cfg(test)]
mod tests;
