//! The decisions of a log in their order, as they were written: for whoever goes
//! through all of them, which an index does not help with.

use std::ops::ControlFlow;

use palisade_mesh::wire::{audit::Envelope, record::Record};
use prost::Message as _;

use crate::{
    envelope::{DECISION, EnvelopeRef, RecordPeek},
    going::Going,
    item::{AHEAD_MAX_US, Item, LATE_MAX_US, filed_time},
    log::{Log, LogError, Scan},
    query::{Query, Window},
    source::Entry,
};

/// Which records are decisions of a window that a query asks for.
pub struct Asked {
    window: Window,
    /// What each must be beside a decision; none where only the time is asked about.
    filter: Option<Query>,
}

/// The decisions of a window that a query asks for.
pub struct Decisions {
    log: Log,
    scan: Scan,
    asked: Asked,
    going: Going,
}

impl Asked {
    /// The decisions that `query` asks for in `window`.
    pub fn new(query: &Query, window: Window) -> Self {
        Self {
            window,
            filter: (!query.is_of_time_alone()).then(|| query.clone()),
        }
    }

    /// Whether the leaf at `index` is one. A leaf that cannot be decoded is none.
    pub fn is_for(&self, index: u64, leaf: &[u8]) -> bool {
        EnvelopeRef::decode(leaf)
            .is_some_and(|envelope| self.is_for_envelope(index, leaf, &envelope))
    }

    fn is_for_envelope(&self, index: u64, leaf: &[u8], envelope: &EnvelopeRef<'_>) -> bool {
        let Some(peek) = RecordPeek::new(envelope.record).filter(|p| p.class == DECISION) else {
            return false;
        };
        let filed = filed_time(peek.time_us, envelope.received_us);
        self.window.contains(filed)
            && self.filter.as_ref().is_none_or(|query| {
                // The filter looks at decoded records; what is not one is no match.
                decoded(index, leaf).is_some_and(|entry| query.matches(&Item::new(entry)))
            })
    }
}

impl Decisions {
    /// The decisions that `query` asks for in `window`, up to what is durable now.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn new(log: &Log, query: &Query, window: Window) -> Result<Self, LogError> {
        // Records lie in the order of their receipt; one that is filed under its own
        // time was received shortly before it at the earliest.
        let from = first_received(log, window.from_us.saturating_sub(AHEAD_MAX_US))?;
        Ok(Self {
            scan: log.scan(from),
            log: log.clone(),
            asked: Asked::new(query, window),
            going: Going::default(),
        })
    }

    /// The same, as long as somebody waits for them.
    #[must_use]
    pub fn heeding(self, going: &Going) -> Self {
        Self {
            going: going.clone(),
            ..self
        }
    }

    /// Index of the leaf that is looked at next.
    pub fn position(&self) -> u64 {
        self.scan.position()
    }

    /// Index at which it ends.
    pub fn end(&self) -> u64 {
        self.scan.end()
    }

    /// How many decisions of this time were dropped because theirs was over; where only a part
    /// of what one segment lacks is of this time, all of it is counted. None where more than
    /// the time was asked about: nobody knows what these said.
    pub fn dropped(&self) -> u64 {
        if self.asked.filter.is_some() {
            return 0;
        }
        let window = self.asked.window;
        let lacking = self.log.lacking();
        let dropped = lacking.iter().flat_map(|lacking| &lacking.dropped);
        let of_then = dropped.filter(|dropped| {
            dropped.class == "decision"
                && dropped.first_us < window.to_us
                && dropped.last_us >= window.from_us
        });
        of_then.map(|dropped| dropped.records).sum()
    }

    /// Gives each leaf to `visit`, with its index, until that breaks; whether it did.
    /// Leaves that cannot be decoded are no decisions.
    ///
    /// # Errors
    /// When the log cannot be read on, or nobody waits any more.
    pub fn visit<B>(
        &mut self,
        mut visit: impl FnMut(u64, &[u8]) -> ControlFlow<B>,
    ) -> Result<Option<B>, LogError> {
        let past = self.asked.window.to_us.saturating_add(LATE_MAX_US);
        let mut reading = self
            .going
            .reading(self.end().saturating_sub(self.position()));
        while let Some(read) = self.scan.next_leaf() {
            reading.read(1)?;
            let (index, leaf) = read?;
            let Some(envelope) = EnvelopeRef::decode(leaf) else {
                continue;
            };
            if envelope.received_us > past {
                return Ok(None);
            }
            if !self.asked.is_for_envelope(index, leaf, &envelope) {
                continue;
            }
            if let ControlFlow::Break(broke) = visit(index, leaf) {
                return Ok(Some(broke));
            }
        }
        Ok(None)
    }

    /// Since when the log has every decision, microseconds since the Unix epoch: since its
    /// first record was received, or after the last decision that was dropped because its
    /// time was over.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log_begins_us(&self) -> Result<Option<i64>, LogError> {
        let begins_us = match self.log.begins_us() {
            Err(LogError::Undecodable { .. }) => Some(i64::MAX),
            begins_us => begins_us?,
        };
        let whole = whole_since(&self.log, &["decision"]);
        Ok(begins_us.map(|first| first.max(whole)))
    }
}

fn decoded(index: u64, leaf: &[u8]) -> Option<Entry> {
    let envelope = Envelope::decode(leaf).ok()?;
    let record = Record::decode(envelope.record.clone()).ok()?;
    Some(Entry {
        index,
        envelope,
        record,
    })
}

/// Index of the first record that was received at `us` or later.
pub(crate) fn first_received(log: &Log, us: i64) -> Result<u64, LogError> {
    // What is in an archive is not fetched to be compared, as far as what stays of it tells.
    let (mut low, mut high) = log.received_within(us);
    while low < high {
        let middle = low + (high - low) / 2;
        match received(log, middle)? < us {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    Ok(low)
}

/// Since when every record of these classes is there that ever arrived, microseconds since
/// the Unix epoch.
pub(crate) fn whole_since(log: &Log, classes: &[&str]) -> i64 {
    let lacking = log.lacking();
    let dropped = lacking.iter().flat_map(|lacking| &lacking.dropped);
    let dropped = dropped.filter(|dropped| classes.contains(&dropped.class));
    let last = dropped.map(|dropped| dropped.last_us).max();
    last.map_or(i64::MIN, |last| last.saturating_add(1))
}

pub(crate) fn received(log: &Log, index: u64) -> Result<i64, LogError> {
    match log.received_us(index) {
        Ok(received_us) => Ok(received_us),
        // As if it were new: the search then begins earlier, never too late.
        Err(LogError::Undecodable { .. }) => Ok(i64::MAX),
        Err(error) => Err(error),
    }
}
