//! What the log itself has of a period, counted without an index: for holding the index
//! against it, and for what no index has.

use std::collections::BTreeMap;

use crate::{
    decisions::first_received,
    envelope::{EnvelopeRef, RecordPeek, class_name},
    going::Going,
    item::{AHEAD_MAX_US, LATE_MAX_US, filed_time},
    log::{Log, LogError},
    query::Window,
    stream::StreamKey,
};

/// Reporters that are told apart.
const REPORTERS_MAX: usize = 10_000;

/// What is there of a period.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Records by class.
    pub(super) classes: BTreeMap<&'static str, u64>,
    /// How long records took from their own time to receipt, by reporter.
    pub(super) delays: BTreeMap<String, Delay>,
}

/// Receipt less event time, microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delay {
    pub(super) records: u64,
    pub(super) least_us: i64,
    pub(super) most_us: i64,
}

/// Reads the records of `window` among the first `size` of the log.
///
/// # Errors
/// When the log cannot be read, or nobody waits any more.
pub(super) fn scan(
    going: &Going,
    log: &Log,
    window: Window,
    size: u64,
) -> Result<Scanned, LogError> {
    let from = first_received(log, window.from_us.saturating_sub(AHEAD_MAX_US))?;
    let past = window.to_us.saturating_add(LATE_MAX_US);
    let mut scanned = Scanned::default();
    // By encoded stream: a log has few of them beside its records.
    let mut reporters: BTreeMap<Box<[u8]>, Option<String>> = BTreeMap::new();
    let mut scan = log.scan(from);
    let mut reading = going.reading(size.saturating_sub(from));
    while let Some(read) = scan.next_leaf() {
        reading.read(1)?;
        let (index, leaf) = read?;
        let Some(envelope) = EnvelopeRef::decode(leaf) else {
            continue;
        };
        if index >= size || envelope.received_us > past {
            break;
        }
        let peek = RecordPeek::new(envelope.record).unwrap_or_default();
        let filed = filed_time(peek.time_us, envelope.received_us);
        if !window.contains(filed) {
            continue;
        }
        *scanned.classes.entry(class_name(peek.class)).or_default() += 1;
        if !reporters.contains_key(envelope.stream) {
            if reporters.len() >= REPORTERS_MAX {
                continue;
            }
            let reporter = StreamKey::decode(envelope.stream).map(|key| key.reporter.to_string());
            reporters.insert(envelope.stream.into(), reporter);
        }
        if let Some(Some(reporter)) = reporters.get(envelope.stream) {
            let delay_us = envelope.received_us.saturating_sub(peek.time_us);
            scanned.delayed(reporter, delay_us);
        }
    }
    Ok(scanned)
}

impl Scanned {
    fn delayed(&mut self, reporter: &str, delay_us: i64) {
        match self.delays.get_mut(reporter) {
            Some(delay) => {
                delay.records += 1;
                delay.least_us = delay.least_us.min(delay_us);
                delay.most_us = delay.most_us.max(delay_us);
            }
            None => {
                let delay = Delay {
                    records: 1,
                    least_us: delay_us,
                    most_us: delay_us,
                };
                self.delays.insert(reporter.to_owned(), delay);
            }
        }
    }
}
