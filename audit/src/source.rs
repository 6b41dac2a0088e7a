//! What the index needs from the log: numbered entries, and word of new ones.

use std::{ops::Range, sync::Arc};

use palisade_mesh::wire::{audit::Envelope, record::Record};
use tokio::sync::watch;

use crate::log::{Lacking, LogError};

/// One entry of the log, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Position in the log, from 0.
    pub index: u64,
    /// The leaf as it is hashed.
    pub envelope: Envelope,
    /// The record in it.
    pub record: Record,
}

/// The log as the index reads it. Entries below [`Source::len`] are durable and
/// never change; one that was dropped is there no more.
pub trait Source: Send + Sync + 'static {
    /// How many entries are durable.
    fn len(&self) -> u64;

    /// Whether there is none yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads one entry.
    ///
    /// # Errors
    /// When there is no such entry, or its bytes cannot be read or decoded.
    fn read(&self, index: u64) -> Result<Entry, SourceError>;

    /// Reads entries in order from `from` to the end as it stands now; those that were
    /// dropped are passed over.
    fn scan(&self, from: u64) -> Box<dyn Iterator<Item = Result<Entry, SourceError>> + '_>;

    /// What was dropped because its time was over; another value each time there is more.
    fn lacking(&self) -> Arc<[Lacking]> {
        Arc::default()
    }

    /// Which entries of the segment that begins with `segment` were dropped.
    ///
    /// # Errors
    /// When the segment cannot be read.
    fn dropped_from(&self, segment: u64) -> Result<Vec<Range<u64>>, SourceError> {
        let _ = segment;
        Ok(Vec::new())
    }

    /// Why nothing that can be made again should be written now; the index then
    /// waits, so that what room there is belongs to the log.
    fn pressed(&self) -> Option<String> {
        None
    }

    /// Follows [`Source::len`].
    fn subscribe(&self) -> watch::Receiver<u64>;
}

/// An entry of the log could not be had.
#[derive(Debug, thiserror::Error)]
#[error("log entry {index} cannot be read: {cause}")]
pub struct SourceError {
    /// Which entry.
    pub index: u64,
    /// What the log said.
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

impl SourceError {
    /// Whether it was dropped because its time was over.
    pub fn is_dropped(&self) -> bool {
        matches!(self.cause.downcast_ref(), Some(LogError::Dropped { .. }))
    }
}
