//! Where every part leaves its records.
//!
//! The parts see these two traits only; the spool behind them lives in the
//! audit crate and the binary plugs it in.

use std::{future::Future, pin::Pin};

use crate::wire::record::Record;

/// Hands out one numbered stream to each worker.
pub trait RecordSink: Send + Sync {
    /// Opens the stream of `worker`; each worker of a boot opens its own once.
    fn open(&self, worker: u32) -> Box<dyn RecordStream>;
}

/// The stream of one worker: numbered from 1, owned by that worker alone.
pub trait RecordStream: Send {
    /// Encodes `record` into the worker's buffer. Takes no lock, touches no file
    /// and wakes nobody.
    ///
    /// # Errors
    /// [`SinkError::Full`] when the buffer holds its limit: the caller must then
    /// refuse the request (modes `strict` and `spool`) or count the loss.
    fn append(&mut self, record: &Record) -> Result<(), SinkError>;

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
