//! What the index needs from a log, [`Log`] or another: numbered entries, and word of new
//! ones.

use tokio::sync::watch;

use crate::{
    disk::Room,
    log::{Log, LogError},
};

pub use crate::log::Entry;

/// The log as the index reads it. Entries below [`Source::len`] are durable and
/// never change.
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

    /// Reads entries in order from `from` to the end as it stands now.
    fn scan(&self, from: u64) -> Box<dyn Iterator<Item = Result<Entry, SourceError>> + '_>;

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

impl Source for Log {
    fn len(&self) -> u64 {
        Self::len(self)
    }

    fn read(&self, index: u64) -> Result<Entry, SourceError> {
        Self::read(self, index).map_err(|e| failed(index, e))
    }

    fn scan(&self, from: u64) -> Box<dyn Iterator<Item = Result<Entry, SourceError>> + '_> {
        let numbered = (from..).zip(Self::scan(self, from));
        Box::new(numbered.map(|(index, read)| read.map_err(|e| failed(index, e))))
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
