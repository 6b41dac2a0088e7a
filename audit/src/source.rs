//! What the index needs from a log, [`Log`] or another: numbered entries, and word of new
//! ones.

use std::{ops::Range, sync::Arc};

use tokio::sync::watch;

use crate::{
    archive::Away,
    disk::Room,
    log::{Lacking, Log, LogError},
};

pub use crate::log::Entry;

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

    /// Whether an entry can be read without fetching it from elsewhere.
    fn is_here(&self, index: u64) -> bool {
        let _ = index;
        true
    }

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

    /// Whether it is in an archive that cannot be asked now; one that has lost it, or has it
    /// otherwise than it was signed, is not waited for.
    pub fn waits(&self) -> bool {
        self.away().is_some_and(|away| !away.why.is_damage())
    }

    /// Records of which none can be had for the same reason: those of its segment, or of what
    /// is left of it.
    pub fn lost(&self) -> Option<Range<u64>> {
        match self.cause.downcast_ref() {
            Some(LogError::Away(away)) => Some(away.segment..away.next),
            Some(LogError::Tampered(damage)) => damage.lost.clone(),
            _ => None,
        }
    }

    /// Where it is, if it went to an archive and cannot be had from there.
    pub fn away(&self) -> Option<&Away> {
        match self.cause.downcast_ref() {
            Some(LogError::Away(away)) => Some(away),
            _ => None,
        }
    }
}

impl Source for Log {
    fn len(&self) -> u64 {
        Self::len(self)
    }

    fn read(&self, index: u64) -> Result<Entry, SourceError> {
        Self::read(self, index).map_err(|e| failed(index, e))
    }

    fn is_here(&self, index: u64) -> bool {
        !self.is_elsewhere(index)
    }

    fn scan(&self, from: u64) -> Box<dyn Iterator<Item = Result<Entry, SourceError>> + '_> {
        let mut next = from;
        Box::new(Self::scan(self, from).map(move |read| {
            let index = match &read {
                Ok(read) => read.index,
                Err(LogError::Undecodable { index, .. }) => *index,
                // Of a segment that cannot be read through, its first is named.
                Err(LogError::Tampered(damage)) => damage.leaf.max(next),
                Err(_) => next,
            };
            next = index + 1;
            read.map_err(|e| failed(index, e))
        }))
    }

    fn lacking(&self) -> Arc<[Lacking]> {
        Self::lacking(self)
    }

    fn dropped_from(&self, segment: u64) -> Result<Vec<Range<u64>>, SourceError> {
        Self::dropped_from(self, segment).map_err(|e| failed(segment, e))
    }

    fn pressed(&self) -> Option<String> {
        let room = self.health().room;
        (room != Room::Enough).then(|| "the disk of the log is nearly full".to_owned())
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        Self::subscribe(self)
    }
}

fn failed(index: u64, error: LogError) -> SourceError {
    SourceError {
        index,
        cause: Box::new(error),
    }
}
