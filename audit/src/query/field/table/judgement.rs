//! What was decided, why, and under which policy.

use palisade_mesh::wire::record::{Shadow, record::Body};

use super::{BOOL, OF_DECISIONS, of_decision, put_all, word};
use crate::{
    item::Item,
    merkle::hex,
    query::field::{DECISIONS, Field, Kind, Value, flip_word, rejudgement, verdict_word, versions},
};

const FLIPS: &[&str] = &["newly_allowed", "newly_denied", "newly_undecided"];

pub(super) const DECISION: Field = Field {
    name: "decision",
    kind: Kind::Choice(DECISIONS),
    classes: &["decision", "rejudgement", "audit_read"],
    countable: true,
    help: "the outcome of a decision, or whether a reader of the log was let; `deny` is forbidden, not_permitted or undecided, a refused request was never decided",
    example: "decision:deny",
    read: |item, put| {
        if let Some(d) = item.decision() {
            put(Value::Text(verdict_word(d.verdict())));
        } else if let Some(r) = rejudgement(item) {
            put(Value::Text(verdict_word(r.verdict())));
        } else if let Some(Body::AuditRead(r)) = &item.record.body {
            put(Value::Text(verdict_word(r.verdict())));
        }
    },
};

pub(super) const REASON: Field = Field {
    name: "reason",
    kind: Kind::Keyword,
    classes: &["decision", "rejudgement", "authn_failure"],
    countable: true,
    help: "why, as a constant word",
    example: "reason:no_permit",
    read: |item, put| match &item.record.body {
        Some(Body::Decision(d)) => put(Value::Text(&d.reason)),
        Some(Body::Rejudgement(r)) => put(Value::Text(&r.reason)),
        Some(Body::AuthnFailure(f)) => put(Value::Text(&f.reason)),
        _ => {}
    },
};

pub(super) const POLICY: Field = Field {
    name: "policy",
    kind: Kind::Keyword,
    classes: &["decision", "rejudgement", "policy_change", "audit_read"],
    countable: true,
    help: "id of a determining policy, or of one that a change added, removed or changed",
    example: "policy:orders-refund",
    read: |item, put| match &item.record.body {
        Some(Body::Decision(d)) => put_all(&d.policies, put),
        Some(Body::Rejudgement(r)) => put_all(&r.policies, put),
        Some(Body::AuditRead(r)) => put_all(&r.policies, put),
        Some(Body::PolicyChange(c)) => {
            put_all(&c.added, put);
            put_all(&c.removed, put);
            put_all(&c.changed, put);
        }
        _ => {}
    },
};

pub(super) const POLICY_ERROR: Field = Field {
    name: "policy_error",
    kind: Kind::Keyword,
    classes: OF_DECISIONS,
    countable: true,
    help: "id of a policy that failed to evaluate",
    example: "policy_error:*",
    read: |item, put| {
        if let Some(d) = item.decision() {
            put_all(&d.policy_errors, put);
        }
    },
};

pub(super) const REVISION: Field = Field {
    name: "revision",
    kind: Kind::Revision,
    classes: &["decision", "rejudgement", "policy_change"],
    countable: true,
    help: "policy revision in force: eight or more hex digits of its digest, or its number",
    example: "revision:12",
    read: |item, put| {
        if let Some(v) = versions(item) {
            put(Value::Text(&hex(&v.policy_digest)));
        }
    },
};

pub(super) const SEQUENCE: Field = Field {
    name: "sequence",
    kind: Kind::Number,
    classes: &["decision", "rejudgement", "policy_change"],
    countable: true,
    help: "number of the policy revision in force",
    example: "sequence:>=12",
    read: |item, put| {
        if let Some(v) = versions(item) {
            put(Value::Number(v.policy_sequence));
        }
    },
};

pub(super) const DECISION_NS: Field = Field {
    name: "decision_ns",
    kind: Kind::Duration { unit_ns: 1 },
    classes: OF_DECISIONS,
    countable: false,
    help: "time the decision took",
    example: "decision_ns:>50us",
    read: |item, put| {
        if let Some(d) = item.decision() {
            put(Value::Number(d.decision_ns));
        }
    },
};

pub(super) const CACHED: Field = Field {
    name: "cached",
    kind: BOOL,
    classes: OF_DECISIONS,
    countable: true,
    help: "whether the decision came out of the decision cache",
    example: "cached:false",
    read: |item, put| of_decision(item, put, |d| word(d.cached)),
};

pub(super) const ENFORCED: Field = Field {
    name: "enforced",
    kind: BOOL,
    classes: OF_DECISIONS,
    countable: true,
    help: "false for a shadow decision",
    example: "enforced:false",
    read: |item, put| of_decision(item, put, |d| word(d.enforced)),
};

pub(super) const SHADOW: Field = Field {
    name: "shadow",
    kind: Kind::Choice(DECISIONS),
    classes: OF_DECISIONS,
    countable: true,
    help: "what the revision tried beside the one in force would have decided, or the permits in shadow mode",
    example: "shadow:deny decision:allow",
    read: |item, put| {
        for shadow in shadows(item) {
            put(Value::Text(verdict_word(shadow.verdict())));
        }
    },
};

pub(super) const FLIP: Field = Field {
    name: "flip",
    kind: Kind::Choice(FLIPS),
    classes: OF_DECISIONS,
    countable: true,
    help: "what the newer of the two revisions changes for the request, or the permits in shadow mode would",
    example: "flip:newly_denied last:1h",
    read: |item, put| {
        for shadow in shadows(item) {
            put(Value::Text(flip_word(shadow.flip())));
        }
    },
};

pub(super) const SHADOW_POLICY: Field = Field {
    name: "shadow_policy",
    kind: Kind::Keyword,
    classes: OF_DECISIONS,
    countable: true,
    help: "id of a policy that determined what the tried revision would have decided, or of a permit in shadow mode that matched",
    example: "shadow_policy:orders-refund",
    read: |item, put| {
        for shadow in shadows(item) {
            put_all(&shadow.policies, put);
        }
    },
};

pub(super) const SHADOW_REVISION: Field = Field {
    name: "shadow_revision",
    kind: Kind::Hex,
    classes: OF_DECISIONS,
    countable: true,
    help: "digest of the revision tried beside the one in force",
    example: "shadow_revision:9f2c*",
    read: |item, put| {
        for shadow in shadows(item) {
            put(Value::Text(&hex(&shadow.policy_digest)));
        }
    },
};

pub(super) const SHADOW_SEQUENCE: Field = Field {
    name: "shadow_sequence",
    kind: Kind::Number,
    classes: OF_DECISIONS,
    countable: true,
    help: "number of the revision tried beside the one in force",
    example: "shadow_sequence:12 | count by flip",
    read: |item, put| {
        for shadow in shadows(item).iter().filter(|s| s.policy_sequence != 0) {
            put(Value::Number(shadow.policy_sequence));
        }
    },
};

pub(super) const CAUSE: Field = Field {
    name: "cause",
    kind: Kind::Keyword,
    classes: &["rejudgement"],
    countable: true,
    help: "what made it necessary to judge an open stream again",
    example: "class:rejudgement cause:kill_list",
    read: |item, put| {
        if let Some(r) = rejudgement(item) {
            put(Value::Text(&r.cause));
        }
    },
};

pub(super) const CLOSED: Field = Field {
    name: "closed",
    kind: BOOL,
    classes: &["rejudgement", "stream_head"],
    countable: true,
    help: "whether a re-judged stream was closed, or a record stream ended",
    example: "class:rejudgement closed:true",
    read: |item, put| match &item.record.body {
        Some(Body::Rejudgement(r)) => put(Value::Text(word(r.closed))),
        Some(Body::StreamHead(h)) => put(Value::Text(word(h.closed))),
        _ => {}
    },
};

fn shadows(item: &Item) -> &[Shadow] {
    item.decision().map_or(&[], |decision| &decision.shadows)
}
