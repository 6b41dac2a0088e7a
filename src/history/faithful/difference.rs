//! A decision that is recorded otherwise than its policies say.

use jiff::Timestamp;
use palisade_audit::{envelope::DecisionRef, query::field::verdict_word};
use palisade_mesh::{
    decision::{Decision, DecisionId},
    snapshot::Digest,
};
use serde::Serialize;

/// The reason of a request that was allowed and is no operation of its service.
pub(super) const OPERATION_UNKNOWN: &str = "operation_unknown";

/// A decision that is recorded otherwise than its policies say.
#[derive(Debug, Serialize)]
pub(crate) struct Difference {
    /// Index in the log.
    pub(crate) entry: u64,
    /// Decision id.
    pub(crate) id: String,
    /// When, as its reporter says, RFC 3339.
    pub(crate) time: String,
    /// Digest of the revision that the record names, hexadecimal.
    pub(crate) revision: String,
    /// What the record says.
    pub(crate) recorded: Said,
    /// What the revision says; none where it was not asked.
    pub(crate) replayed: Option<Said>,
    /// Why the record cannot be true, whatever its revision says.
    pub(crate) contradiction: Option<&'static str>,
}

/// A decision, in the words of a row.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Said {
    /// The verdict.
    pub(crate) decision: &'static str,
    /// Why, as a constant word.
    pub(crate) reason: String,
    /// Ids of the determining policies.
    pub(crate) policies: Vec<String>,
    /// Cedar action.
    pub(crate) action: String,
    /// Cedar resource, with its type.
    pub(crate) resource: String,
}

impl Difference {
    pub(super) fn new(
        entry: u64,
        record: &DecisionRef<'_>,
        found: Result<Said, &'static str>,
    ) -> Self {
        let id = <[u8; 16]>::try_from(record.id).unwrap_or_default();
        let time = Timestamp::from_microsecond(record.time_us).unwrap_or_default();
        let revision = Digest::from_slice(record.policy_digest);
        Self {
            entry,
            id: DecisionId(u128::from_be_bytes(id).into()).to_string(),
            time: time.to_string(),
            revision: revision.map_or_else(String::new, |digest| digest.to_string()),
            recorded: Said::recorded(record),
            contradiction: found.as_ref().err().copied(),
            replayed: found.ok(),
        }
    }
}

impl Said {
    pub(super) fn recorded(record: &DecisionRef<'_>) -> Self {
        Self {
            decision: verdict_word(record.verdict),
            reason: record.reason.to_owned(),
            policies: record.policies.iter().map(ToString::to_string).collect(),
            action: record.action.to_owned(),
            resource: format!("{}::{:?}", record.resource_type, record.resource_id),
        }
    }

    /// `unserved` for what was allowed and is answered with 404 all the same.
    pub(super) fn replayed(decision: &Decision, unserved: bool) -> Self {
        let reason = match unserved {
            true => OPERATION_UNKNOWN,
            false => decision.verdict.reason(),
        };
        Self {
            decision: verdict_word(decision.verdict.wire()),
            reason: reason.to_owned(),
            policies: decision
                .determining
                .iter()
                .map(ToString::to_string)
                .collect(),
            action: decision.action.to_string(),
            resource: format!("{}::{:?}", decision.resource_type, &*decision.resource_id),
        }
    }
}
