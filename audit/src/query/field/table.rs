//! The table of fields, in the order rows show them.

use palisade_mesh::wire::record::{AuditRead, Decision, Searched, record::Body};

use super::{Field, Kind, Value};
use crate::item::Item;

mod ending;
mod filing;
mod judgement;
mod operation;
mod request;

const BOOL: Kind = Kind::Choice(&["true", "false"]);
const OF_DECISIONS: &[&str] = &["decision"];
const OF_ENDED: &[&str] = &["decision", "outcome"];
/// Fields that decisions have from their outcome.
pub(super) const OF_ENDINGS: &[&str] = &[
    "status",
    "latency",
    "ended",
    "end",
    "bytes",
    "bytes_in",
    "bytes_out",
    "upstream",
    "error",
    "outcome_entry",
];

/// Every field.
pub static FIELDS: &[Field] = &[
    filing::CLASS,
    judgement::DECISION,
    judgement::REASON,
    request::PRINCIPAL,
    request::CLAIMED,
    request::SERVICE,
    request::ACTION,
    request::RESOURCE,
    request::RESOURCE_TYPE,
    request::METHOD,
    request::HOST,
    request::PATH,
    request::ROUTE,
    ending::STATUS,
    ending::LATENCY,
    judgement::POLICY,
    judgement::POLICY_ERROR,
    judgement::REVISION,
    judgement::SEQUENCE,
    filing::MODE,
    request::SOURCE,
    request::TRACE,
    filing::ID,
    judgement::DECISION_NS,
    judgement::CACHED,
    judgement::ENFORCED,
    judgement::SHADOW,
    judgement::FLIP,
    judgement::SHADOW_POLICY,
    judgement::SHADOW_REVISION,
    judgement::SHADOW_SEQUENCE,
    request::API,
    request::ASSERTED_BY,
    ending::ENDED,
    ending::END,
    ending::BYTES,
    ending::BYTES_IN,
    ending::BYTES_OUT,
    ending::UPSTREAM,
    ending::ERROR,
    ending::OUTCOME_ENTRY,
    judgement::CAUSE,
    judgement::CLOSED,
    operation::VERB,
    operation::ACTOR,
    operation::AUTHOR,
    operation::OBJECT,
    operation::SPIFFE_ID,
    request::SERIAL,
    operation::AUTHORITY,
    operation::SELECTOR,
    operation::NODE,
    operation::COMMIT,
    request::LISTENER,
    operation::RULE,
    operation::SEVERITY,
    operation::FIRING,
    operation::SUBJECT,
    operation::ROWS,
    filing::REPORTER,
    filing::DEMO,
    filing::SUSPECT,
    filing::ENTRY,
];

fn word(yes: bool) -> &'static str {
    if yes { "true" } else { "false" }
}

fn of_decision<'a>(
    item: &'a Item,
    put: &mut dyn FnMut(Value<'_>),
    read: impl Fn(&'a Decision) -> &'a str,
) {
    if let Some(decision) = item.decision() {
        put(Value::Text(read(decision)));
    }
}

/// The same, and what a search of the decision APIs was about.
fn of_question<'a>(
    item: &'a Item,
    put: &mut dyn FnMut(Value<'_>),
    read: impl Fn(&'a Decision) -> &'a str,
    searched: impl Fn(&'a Searched) -> &'a str,
) {
    of_decision(item, put, read);
    if let Some(Body::AuditRead(read)) = &item.record.body {
        of_search(read, put, searched);
    }
}

fn of_search<'a>(
    read: &'a AuditRead,
    put: &mut dyn FnMut(Value<'_>),
    searched: impl Fn(&'a Searched) -> &'a str,
) {
    if let Some(of) = &read.searched {
        put(Value::Text(searched(of)));
    }
}

fn put_all(texts: &[String], put: &mut dyn FnMut(Value<'_>)) {
    for text in texts {
        put(Value::Text(text));
    }
}
