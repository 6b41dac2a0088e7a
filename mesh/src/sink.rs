//! Where every part leaves its records.
//!
//! The parts see these two traits only; the spool behind them lives in the
//! audit crate and the binary plugs it in.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::{personal::Mask, wire::record::Record};

/// Hands out one numbered stream to each worker.
pub trait RecordSink: Send + Sync {
    /// Opens the stream of `worker`; each worker of a boot opens its own once.
    fn open(&self, worker: u32) -> Box<dyn RecordStream>;

    /// How the records are doing, for metrics and checks.
    fn health(&self) -> SinkHealth {
        SinkHealth::default()
    }
}

/// How a sink is doing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SinkHealth {
    /// Records on disk that the audit service has not acknowledged for good.
    pub waiting: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes it may have on disk; 0 where there is no such limit.
    pub bytes_max: u64,
    /// Records that were refused for want of room, by mode: `strict`, `spool`,
    /// `best_effort`.
    pub dropped: [u64; 3],
    /// Files that were removed or replaced while in use.
    pub restored: u64,
    /// Files of which something cannot be read any more; they are kept.
    pub damaged: u64,
    /// Records that the audit service refused again and again, and that were set aside.
    pub refused: u64,
    /// What it said when it last refused some.
    pub refusal: Option<Arc<str>>,
    /// How long fsyncs took.
    pub fsync: FsyncTimes,
    /// Since when the present fsync has not come back, if that is too long.
    pub stalled: Option<Duration>,
    /// Whether the disk has too little room.
    pub low: bool,
    /// Whether the last write failed.
    pub failing: bool,
    /// Whether the thread that writes is gone; nothing more is kept.
    pub dead: bool,
}

/// Times of fsyncs, in buckets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FsyncTimes {
    /// Upper bounds of the buckets, in seconds.
    pub bounds: &'static [f64],
    /// How many were in each bucket; one more than bounds.
    pub counts: Vec<u64>,
    /// All of them together, in seconds.
    pub seconds: f64,
    /// The longest.
    pub longest: Duration,
}

/// The stream of one worker: numbered from 1, owned by that worker alone.
pub trait RecordStream: Send {
    /// Encodes `record` into the worker's buffer. Takes no lock, touches no file
    /// and wakes nobody.
    ///
    /// # Errors
    /// [`SinkError::Full`] when the buffer holds its limit: the caller must then
    /// refuse the request (modes `strict` and `spool`) or count the loss.
    fn append(&mut self, record: &Record) -> Result<(), SinkError> {
        self.append_masked(record, &Mask::NONE)
    }

    /// As [`RecordStream::append`]; what `mask` names is taken out of the record before
    /// anything of it is kept, beside what the process itself takes out, and the record
    /// says so.
    ///
    /// # Errors
    /// As [`RecordStream::append`].
    fn append_masked(&mut self, record: &Record, mask: &Mask) -> Result<(), SinkError>;

    /// Hands the buffered records to the spool. Called by a timer, at most some
    /// tens of milliseconds after an append: what is buffered when the process is
    /// killed is lost, and that time is the stated bound of the loss.
    fn flush(&mut self);

    /// Flushes, then resolves when everything appended so far is on disk.
    fn durable(&mut self) -> Durable;
}

/// Resolves once records are fsynced.
pub type Durable = Pin<Box<dyn Future<Output = Result<(), SinkError>> + Send>>;

/// Why a record was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The sink has been shut down.
    #[error("record sink is closed")]
    Closed,
    /// The buffer or the spool is at its limit.
    #[error("record buffer is full")]
    Full,
    /// The disk refused.
    #[error("spool cannot be written: {0}")]
    Io(String),
}
