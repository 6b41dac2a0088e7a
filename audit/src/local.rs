//! A sink that leaves records in a log of the same process.
//!
//! For a proxy that runs alone and for the control plane's own records. They pass
//! the same numbering and dedupe as those that come by the wire.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use palisade_mesh::{
    clock::Clock,
    personal::Mask,
    sink::{Durable, RecordSink, RecordStream, SinkError, SinkHealth},
    spiffe_id::SpiffeId,
    wire::record::{AuditMode, Record},
};
use ulid::Ulid;

use crate::{
    buffer::{self, BUFFER_BYTES, BUFFER_RECORDS, Buffer, Chunk, Limits},
    disk::Room,
    log::{AppendError, Log, Pending, Receipt},
    stream::{StreamKey, new_ulid},
};

/// Bytes of one stream that may be with the log and not durable yet. A disk that
/// stalls for a second must not refuse requests at full load; beyond this the
/// stream's own buffer fills, and then it refuses.
pub const HANDED_BYTES: usize = 32 << 20;

/// Records of one stream that may be with the log and not durable yet.
pub const HANDED_RECORDS: usize = 128 * 1024;

/// Leaves records in a [`Log`] directly.
#[derive(Debug)]
pub struct LocalSink {
    log: Log,
    reporter: SpiffeId,
    boot: Ulid,
    clock: Clock,
    workers: Mutex<BTreeSet<u32>>,
    /// Records that found no room, over all streams.
    dropped: Arc<[AtomicU64; 3]>,
}

impl LocalSink {
    /// Begins a new boot of `reporter`.
    pub fn new(log: Log, reporter: SpiffeId, clock: Clock) -> Self {
        Self {
            log,
            reporter,
            boot: new_ulid(&clock),
            clock,
            workers: Mutex::new(BTreeSet::new()),
            dropped: Arc::default(),
        }
    }

    /// The ULID of this start.
    pub fn boot(&self) -> Ulid {
        self.boot
    }
}

impl RecordSink for LocalSink {
    fn open(&self, worker: u32) -> Box<dyn RecordStream> {
        let handed = Limits {
            bytes: HANDED_BYTES,
            records: HANDED_RECORDS,
        };
        Box::new(self.stream(worker, handed))
    }

    fn health(&self) -> SinkHealth {
        SinkHealth {
            dropped: self.dropped.each_ref().map(|n| n.load(Ordering::Relaxed)),
            ..self.log.health().into()
        }
    }
}

impl LocalSink {
    fn stream(&self, worker: u32, handed_max: Limits) -> LocalStream {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = workers.insert(worker);
        if !fresh {
            tracing::error!(worker, "a second stream of a worker was asked for");
        }
        let stream = StreamKey {
            reporter: self.reporter.clone(),
            boot: self.boot,
            worker,
        };
        let limits = Limits {
            bytes: BUFFER_BYTES,
            records: BUFFER_RECORDS,
        };
        LocalStream {
            log: self.log.clone(),
            buffer: Buffer::new(Arc::new(stream), limits, self.clock.clone())
                .covering(self.log.rules()),
            handed: VecDeque::new(),
            handed_max,
            usable: fresh,
            dropped: self.dropped.clone(),
        }
    }
}

/// The stream of one worker into a log.
struct LocalStream {
    log: Log,
    buffer: Buffer,
    /// Handed to the log, oldest first, until it is known to be durable.
    handed: VecDeque<(Chunk, Receipt)>,
    handed_max: Limits,
    usable: bool,
    dropped: Arc<[AtomicU64; 3]>,
}

impl LocalStream {
    /// Forgets what is durable and hands over again what the log could not write:
    /// what it took in between is dropped there as duplicates.
    fn settle(&mut self) {
        while self
            .handed
            .front()
            .is_some_and(|(_, receipt)| matches!(receipt.result(), Some(Ok(_))))
        {
            self.handed.pop_front();
        }
        let failed = self
            .handed
            .iter()
            .any(|(_, receipt)| matches!(receipt.result(), Some(Err(_))));
        if failed {
            let again: Vec<Chunk> = self.handed.drain(..).map(|(chunk, _)| chunk).collect();
            for chunk in again {
                self.hand(chunk);
            }
        }
    }

    fn hand(&mut self, chunk: Chunk) {
        let receipt = self.log.append(self.batch(&chunk));
        self.handed.push_back((chunk, receipt));
    }

    fn batch(&self, chunk: &Chunk) -> Vec<Pending> {
        let pending = |(sequence, record)| Pending {
            stream: self.buffer.stream().clone(),
            sequence,
            record,
        };
        (chunk.first_sequence..)
            .zip(chunk.records())
            .map(pending)
            .collect()
    }

    fn held(&self) -> (usize, u64) {
        let bytes = self.handed.iter().map(|(chunk, _)| chunk.bytes.len()).sum();
        let records = self.handed.iter().map(|(chunk, _)| chunk.count).sum();
        (bytes, records)
    }
}

impl RecordStream for LocalStream {
    fn append_masked(&mut self, record: &Record, mask: &Mask) -> Result<(), SinkError> {
        if !self.usable {
            return Err(SinkError::Closed);
        }
        // A full disk sheds what may be lost before anything else.
        let shed = record.mode() == AuditMode::BestEffort && self.log.room() == Room::Full;
        let taken = match shed {
            false => self.buffer.append_masked(record, mask),
            true => Err(SinkError::Full),
        };
        if taken.is_err() {
            let mode = record.mode();
            self.buffer.dropped(mode);
            buffer::count_of(&self.dropped, mode).fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    fn flush(&mut self) {
        self.settle();
        let (bytes, records) = self.held();
        if bytes >= self.handed_max.bytes || records >= self.handed_max.records as u64 {
            return;
        }
        if let Some(chunk) = self.buffer.take() {
            self.hand(chunk);
        }
    }

    fn durable(&mut self) -> Durable {
        if !self.usable {
            return Box::pin(std::future::ready(Err(SinkError::Closed)));
        }
        self.flush();
        if self.buffer.len() > 0 {
            return Box::pin(std::future::ready(Err(SinkError::Full)));
        }
        let receipts: Vec<Receipt> = self.handed.iter().map(|(_, r)| r.clone()).collect();
        Box::pin(async move {
            for mut receipt in receipts {
                receipt.durable().await.map_err(refused)?;
            }
            Ok(())
        })
    }
}

impl Drop for LocalStream {
    fn drop(&mut self) {
        if !self.usable {
            return;
        }
        self.settle();
        if let Some(chunk) = self.buffer.take_last() {
            self.log.append_last(self.batch(&chunk));
        }
    }
}

fn refused(error: AppendError) -> SinkError {
    match error {
        AppendError::Busy => SinkError::Full,
        AppendError::Closed => SinkError::Closed,
        AppendError::Io(cause) => SinkError::Io(cause.to_string()),
        AppendError::ReadOnly | AppendError::Refused(_) => SinkError::Io(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
