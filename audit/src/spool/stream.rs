//! The stream of one worker into the spool.

use std::sync::{Arc, PoisonError, mpsc};

use palisade_mesh::{
    personal::Mask,
    sink::{Durable, RecordStream, SinkError},
    wire::record::Record,
};
use tokio::sync::watch;

use super::{Shared, writer::Command};
use crate::buffer::Buffer;

/// How far the records of a stream are on disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    /// Number of the last fsynced record.
    pub(super) durable: u64,
    /// Why the last write failed, until one succeeds.
    pub(super) failed: Option<Arc<str>>,
    /// The spool has ended.
    pub(super) closed: bool,
}

pub(super) struct SpoolStream {
    buffer: Buffer,
    shared: Arc<Shared>,
    commands: mpsc::SyncSender<Command>,
    kept: watch::Sender<Kept>,
}

impl SpoolStream {
    pub(super) fn new(
        buffer: Buffer,
        kept: watch::Sender<Kept>,
        shared: Arc<Shared>,
        commands: mpsc::SyncSender<Command>,
    ) -> Self {
        Self {
            buffer,
            shared,
            commands,
            kept,
        }
    }
}

impl SpoolStream {
    fn put_back(&mut self, command: Command) {
        if let Command::Chunk(chunk, _) = command {
            self.buffer.put_back(chunk);
        }
    }
}

impl RecordStream for SpoolStream {
    fn append_masked(&mut self, record: &Record, mask: &Mask) -> Result<(), SinkError> {
        if self.shared.is_closed() || self.shared.is_dead() {
            return Err(SinkError::Closed);
        }
        let mode = record.mode();
        let taken = match self.shared.has_room(self.buffer.len() as u64, mode) {
            true => self.buffer.append_masked(record, mask),
            false => Err(SinkError::Full),
        };
        if taken.is_err() {
            self.buffer.dropped(mode);
            self.shared.count_dropped(mode);
        }
        taken
    }

    fn flush(&mut self) {
        let Some(chunk) = self.buffer.take() else {
            return;
        };
        let command = Command::Chunk(chunk, self.kept.clone());
        match self.commands.try_send(command) {
            Ok(()) => {}
            // The disk is slow: what is buffered stays until the next flush.
            Err(mpsc::TrySendError::Full(command)) => self.put_back(command),
            Err(mpsc::TrySendError::Disconnected(command)) => {
                self.put_back(command);
                self.kept.send_modify(|kept| kept.closed = true);
            }
        }
    }

    fn durable(&mut self) -> Durable {
        self.flush();
        let wanted = self.buffer.last_sequence();
        let mut kept = self.kept.subscribe();
        Box::pin(async move {
            let known =
                |kept: &Kept| kept.durable >= wanted || kept.failed.is_some() || kept.closed;
            let kept = kept.wait_for(known).await.map_err(|_| SinkError::Closed)?;
            match &kept.failed {
                _ if kept.durable >= wanted => Ok(()),
                Some(cause) => Err(SinkError::Io(cause.to_string())),
                None => Err(SinkError::Closed),
            }
        })
    }
}

impl Drop for SpoolStream {
    fn drop(&mut self) {
        let Some(chunk) = self.buffer.take_last() else {
            return;
        };
        // Not through the bounded channel: dropping must neither wait nor lose.
        self.shared
            .parting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((chunk, self.kept.clone()));
        // Full means that the thread is awake and will look.
        let _ = self.commands.try_send(Command::Parting);
    }
}

/// What a worker gets that has a stream already.
pub(super) struct ClosedStream;

impl RecordStream for ClosedStream {
    fn append_masked(&mut self, _: &Record, _: &Mask) -> Result<(), SinkError> {
        Err(SinkError::Closed)
    }

    fn flush(&mut self) {}

    fn durable(&mut self) -> Durable {
        Box::pin(std::future::ready(Err(SinkError::Closed)))
    }
}
