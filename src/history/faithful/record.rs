//! What a record of a decision tells of itself: whether it can be true at all, which moment it
//! is about, and what it lacks.

use jiff::Timestamp;
use palisade_audit::envelope::{DecisionRef, EnvelopeRef, RecordPeek};
use palisade_mesh::wire::record::Verdict;
use palisade_pdp::decide::Lacking;

use super::difference::OPERATION_UNKNOWN;
use crate::history::asked::words;

/// Whether a leaf that cannot be read as a decision says that it is one.
pub(super) fn says_decision(leaf: &[u8]) -> bool {
    let peek = EnvelopeRef::decode(leaf).and_then(|envelope| RecordPeek::new(envelope.record));
    peek.is_some_and(|peek| peek.class_name() == "decision")
}

/// Why no proxy and no PDP writes such an allowance.
pub(super) fn contradiction(record: &DecisionRef<'_>) -> Option<&'static str> {
    if record.verdict != Verdict::Allow {
        return None;
    }
    match record.reason {
        "permitted" | OPERATION_UNKNOWN => {}
        _ => return Some("it allows for a reason for which nothing is allowed"),
    }
    match record {
        _ if !record.enforced => Some("it allows, and was not enforced"),
        _ if record.action.is_empty() => Some("it allows, and no policy was asked"),
        _ if record.policy_digest.len() != 32 => Some("it allows, and names no revision"),
        _ if record.context_json.is_empty() && record.covered.is_empty() => {
            Some("it allows, and has no context")
        }
        _ => None,
    }
}

/// The moment that a decision was about, microseconds since the Unix epoch: whoever asks a
/// decision API may ask about another one than now, and the record has only what was read of
/// it. None where that is not enough.
pub(super) fn moment(record: &DecisionRef<'_>) -> Option<i64> {
    if record.api.is_empty() {
        return Some(record.time_us);
    }
    let context: serde_json::Value = serde_json::from_str(record.context_json).unwrap_or_default();
    if let Some(at_us) = context
        .get("decided_us")
        .and_then(serde_json::Value::as_i64)
    {
        return Some(at_us);
    }
    let Some(time) = context.get("time") else {
        return Some(record.time_us);
    };
    if let Some(now) = time.get("now").and_then(serde_json::Value::as_str) {
        return now.parse::<Timestamp>().ok().map(Timestamp::as_microsecond);
    }
    // The hour and the day of the week are those of the record, or nothing more is known.
    let zoned = Timestamp::from_microsecond(record.time_us).ok()?;
    let zoned = zoned.to_zoned(jiff::tz::TimeZone::UTC);
    let is = |key: &str, value: i8| {
        let said = time.get(key).and_then(serde_json::Value::as_i64);
        said.is_none_or(|said| said == i64::from(value))
    };
    let weekday = zoned.weekday().to_monday_one_offset();
    (is("hour", zoned.hour()) && is("weekday", weekday)).then_some(record.time_us)
}

/// Why a record cannot be made again under its own revision.
pub(super) fn cause(why: &Lacking, record: &DecisionRef<'_>) -> String {
    match why {
        Lacking::Service => "its revision has no such service".to_owned(),
        Lacking::Fields(_) | Lacking::Path if !record.covered.is_empty() => {
            "something of it is masked or sealed, because it is personal".to_owned()
        }
        _ => words(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy decides about the moment of its record; a decision API about whichever it was
    /// asked about, as far as the record tells.
    #[test]
    fn the_moment_is_the_one_that_was_asked_about() {
        // 1970-01-02, a Friday, 10:00.
        let time_us = 34 * 3600 * 1_000_000;
        let of = |api: &'static str, context_json: &'static str| {
            moment(&DecisionRef {
                time_us,
                api,
                context_json,
                ..DecisionRef::default()
            })
        };
        assert_eq!(of("", r#"{"time":{"hour":22}}"#), Some(time_us));
        assert_eq!(of("grpc", "{}"), Some(time_us));
        assert_eq!(of("grpc", r#"{"decided_us":7}"#), Some(7));
        let now = r#"{"time":{"hour":22,"now":"1970-01-01T22:00:01Z"}}"#;
        assert_eq!(of("grpc", now), Some((22 * 3600 + 1) * 1_000_000));
        let same = r#"{"time":{"hour":10,"weekday":5}}"#;
        assert_eq!(of("authzen", same), Some(time_us));
        assert_eq!(of("authzen", r#"{"time":{"hour":22}}"#), None);
        assert_eq!(of("authzen", r#"{"time":{"weekday":4}}"#), None);
    }
}
