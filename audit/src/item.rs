//! What a query is asked about: one record of the log, and for a decision that
//! has ended the outcome that belongs to it.
//!
//! Search, tail, facets and rows all look at an [`Item`], so they cannot
//! disagree about what a record says.

use palisade_mesh::{
    decision::DecisionId,
    wire::{
        audit::{Envelope, SealedValue},
        record::{Decision, Outcome, Record, record::Body},
    },
};

use crate::{privacy::Pseudonym, source::Entry};

/// How far a reporter's clock may be ahead of the log's before the record is
/// filed under its time of receipt.
pub const AHEAD_MAX_US: i64 = 5 * 60 * 1_000_000;

/// How old a record may be when it arrives (a spool that was cut off for weeks)
/// before it is filed under its time of receipt.
pub const LATE_MAX_US: i64 = 31 * 24 * 3600 * 1_000_000;

/// How far a decision's time may be from the time in its id for an outcome to
/// find it. Both come from one clock reading in our own parts.
pub const JOIN_SLACK_US: i64 = 2 * 1_000_000;

/// One record, ready to be asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Index in the log.
    pub at: u64,
    /// The time it is filed under, microseconds since the Unix epoch: the
    /// reporter's, or the time of receipt when the reporter's is not credible.
    pub time_us: i64,
    /// When the log received it, microseconds since the Unix epoch.
    pub received_us: i64,
    /// SPIFFE ID that sent it, proven to the log.
    pub reporter: String,
    /// The record.
    pub record: Record,
    /// For a decision: index and text of its outcome.
    pub outcome: Option<(u64, Outcome)>,
    /// What the log keeps of what the record covers.
    pub sealed: Vec<SealedValue>,
}

/// Which outcome belongs to which decision: same id, same sender. An outcome
/// sent by another proxy never touches a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct JoinKey {
    pub(crate) id: u128,
    pub(crate) reporter: String,
}

impl Item {
    /// The item of a log entry, not yet joined.
    pub fn new(entry: Entry) -> Self {
        let Entry {
            index,
            mut envelope,
            record,
        } = entry;
        let sealed = envelope.sealed.take().unwrap_or_default();
        Self {
            sealed: sealed.values,
            at: index,
            time_us: filed_time(record.time_us, envelope.received_us),
            received_us: envelope.received_us,
            reporter: proven_reporter(envelope, &record),
            record,
            outcome: None,
        }
    }

    /// Whether the reporter's clock was not credible: more than [`AHEAD_MAX_US`]
    /// ahead of the log's or more than [`LATE_MAX_US`] behind it.
    pub fn is_suspect(&self) -> bool {
        filed_time(self.record.time_us, self.received_us) != self.record.time_us
    }

    /// Pseudonyms of those whom it is about.
    pub fn subjects(&self) -> impl Iterator<Item = Pseudonym> {
        let all = self.sealed.iter();
        all.filter_map(|value| Pseudonym::of(&value.pseudonym))
    }

    /// The id as a number, if the record carries one.
    pub fn id(&self) -> Option<u128> {
        let bytes: [u8; 16] = self.record.id.as_slice().try_into().ok()?;
        Some(u128::from_be_bytes(bytes)).filter(|id| *id != 0)
    }

    /// The id that joins a decision with its outcome and re-judgements.
    pub fn decision_id(&self) -> Option<DecisionId> {
        self.id().map(|id| DecisionId(ulid::Ulid::from(id)))
    }

    /// The decision in it, if it is one.
    pub fn decision(&self) -> Option<&Decision> {
        match &self.record.body {
            Some(Body::Decision(decision)) => Some(decision),
            _ => None,
        }
    }

    /// The outcome in it: its own, or the one that belongs to the decision.
    pub fn ending(&self) -> Option<&Outcome> {
        match &self.record.body {
            Some(Body::Outcome(outcome)) => Some(outcome),
            _ => self.outcome.as_ref().map(|(_, outcome)| outcome),
        }
    }

    /// The key under which a later outcome finds this decision. None for other
    /// classes, for a decision whose time contradicts its id, and for one that has answered
    /// the request itself: how that ended is in it, and nothing that is said later changes it.
    pub(crate) fn joinable(&self) -> Option<JoinKey> {
        self.decision().filter(|decision| decision.status == 0)?;
        let id = self.id()?;
        (self.time_us.abs_diff(id_time_us(id)) <= JOIN_SLACK_US.unsigned_abs()).then(|| JoinKey {
            id,
            reporter: self.reporter.clone(),
        })
    }

    /// The key of the decision this outcome belongs to. None for other classes.
    pub(crate) fn joins(&self) -> Option<(JoinKey, &Outcome)> {
        let Some(Body::Outcome(outcome)) = &self.record.body else {
            return None;
        };
        let key = JoinKey {
            id: self.id()?,
            reporter: self.reporter.clone(),
        };
        Some((key, outcome))
    }
}

/// The millisecond in an id, as microseconds since the Unix epoch.
pub(crate) fn id_time_us(id: u128) -> i64 {
    i64::try_from(id >> 80).unwrap_or(i64::MAX / 1000) * 1000
}

pub(crate) fn filed_time(reported_us: i64, received_us: i64) -> i64 {
    let credible =
        received_us.saturating_sub(LATE_MAX_US)..=received_us.saturating_add(AHEAD_MAX_US);
    if credible.contains(&reported_us) {
        reported_us
    } else {
        received_us
    }
}

fn proven_reporter(envelope: Envelope, record: &Record) -> String {
    envelope
        .stream
        .map(|stream| stream.reporter)
        .filter(|reporter| !reporter.is_empty())
        .unwrap_or_else(|| record.reporter.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incredible_clock_is_replaced_by_the_time_of_receipt() {
        let now = 1_800_000_000_000_000;
        let check = |reported: i64, expected: i64| assert_eq!(filed_time(reported, now), expected);
        check(now - LATE_MAX_US, now - LATE_MAX_US);
        check(now - LATE_MAX_US - 1, now);
        check(now + AHEAD_MAX_US, now + AHEAD_MAX_US);
        check(now + AHEAD_MAX_US + 1, now);
        check(i64::MIN, now);
        check(i64::MAX, now);
    }

    #[test]
    fn an_outcome_finds_a_decision_only_near_the_time_of_its_id() {
        let id_us = 1_800_000_000_000_000;
        let of_status = |status: u32, time_us: i64, expected: bool| {
            let record = Record {
                id: ((u128::from(id_us as u64 / 1000) << 80) | 1)
                    .to_be_bytes()
                    .to_vec(),
                time_us,
                body: Some(Body::Decision(Decision {
                    status,
                    ..Decision::default()
                })),
                ..Record::default()
            };
            let envelope = Envelope {
                received_us: time_us,
                ..Envelope::default()
            };
            let item = Item::new(Entry {
                index: 0,
                envelope,
                record,
            });
            assert_eq!(item.joinable().is_some(), expected);
        };
        let check = |time_us, expected| of_status(0, time_us, expected);
        of_status(403, id_us, false);
        check(id_us + JOIN_SLACK_US, true);
        check(id_us - JOIN_SLACK_US, true);
        check(id_us + JOIN_SLACK_US + 1, false);
        check(id_us - JOIN_SLACK_US - 1, false);
    }
}
