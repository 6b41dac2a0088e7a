//! The log as the index over it reads it, with what is missing from it.

use std::{ops::Range, path::Path, sync::Arc};

use palisade_audit::{
    disk::Room,
    index::{BucketSpan, Gap, Options, Store, StoreError},
    log::{self, Lacking, Log, LogError, OpenGap},
    query::Window,
    source::{Entry, Source, SourceError},
};
use palisade_mesh::clock::Clock;

/// The index of a log, kept in `dir`.
///
/// # Errors
/// When `dir` cannot be used.
pub(crate) fn store_of(
    log: &Log,
    dir: &Path,
    clock: &Clock,
    bucket: BucketSpan,
) -> Result<Store, StoreError> {
    let source = Arc::new(LogSource(log.clone()));
    let of_gaps = log.clone();
    let options = Options {
        bucket,
        ..Options::default()
    };
    let store = Store::open(source, dir, clock.clone(), options)?;
    Ok(store.with_gaps(Arc::new(move |window| gaps_of(&of_gaps, window))))
}

/// The gaps whose records can be of this window: numbered after the boot of their
/// reporter, missed before they were noticed.
fn gaps_of(log: &Log, window: Window) -> Vec<Gap> {
    let boot_us = |gap: &OpenGap| {
        i64::try_from(gap.stream.boot.timestamp_ms())
            .unwrap_or(i64::MAX)
            .saturating_mul(1000)
    };
    let gaps = log.gaps();
    let overlapping = gaps
        .iter()
        .filter(|g| boot_us(g) < window.to_us && window.from_us <= g.noticed_us);
    overlapping
        .map(|gap| Gap {
            reporter: gap.stream.reporter.to_string(),
            first: gap.missing.from,
            last: gap.missing.to,
            noticed_us: gap.noticed_us,
        })
        .collect()
}

/// The log as the index reads it.
struct LogSource(Log);

impl Source for LogSource {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read(&self, index: u64) -> Result<Entry, SourceError> {
        self.0.read(index).map(entry).map_err(|e| failed(index, e))
    }

    fn scan(&self, from: u64) -> Box<dyn Iterator<Item = Result<Entry, SourceError>> + '_> {
        let mut next = from;
        Box::new(self.0.scan(from).map(move |read| match read {
            Ok(read) => {
                next = read.index + 1;
                Ok(entry(read))
            }
            Err(error) => {
                let index = match &error {
                    LogError::Undecodable { index, .. } => *index,
                    LogError::Tampered(damage) => damage.leaf,
                    _ => next,
                };
                next = index + 1;
                Err(failed(index, error))
            }
        }))
    }

    fn lacking(&self) -> Arc<[Lacking]> {
        self.0.lacking()
    }

    fn dropped_from(&self, segment: u64) -> Result<Vec<Range<u64>>, SourceError> {
        self.0.dropped_from(segment).map_err(|e| failed(segment, e))
    }

    fn pressed(&self) -> Option<String> {
        let room = self.0.health().room;
        (room != Room::Enough).then(|| "the disk of the log is nearly full".to_owned())
    }

    fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.subscribe()
    }
}

pub(super) fn entry(entry: log::Entry) -> Entry {
    Entry {
        index: entry.index,
        envelope: entry.envelope,
        record: entry.record,
    }
}

fn failed(index: u64, error: LogError) -> SourceError {
    SourceError {
        index,
        cause: Box::new(error),
    }
}
