//! The table of fields, in the order rows show them.

use std::net::IpAddr;

use palisade_mesh::wire::record::{
    AuditMode, AuthnFailure, Credential, Decision, Outcome, PolicyChange, Shadow, outcome::End,
    record::Body,
};

use super::{
    CLASSES, DECISIONS, Field, Kind, Value, class_of, flip_word, rejudgement, verdict_word,
    versions,
};
use crate::{item::Item, merkle::hex};

const BOOL: Kind = Kind::Choice(&["true", "false"]);
const ENDS: &[&str] = &[
    "completed",
    "client_aborted",
    "upstream_failed",
    "timed_out",
    "deadline",
    "panicked",
    "rejudged",
];
const FLIPS: &[&str] = &["newly_allowed", "newly_denied", "newly_undecided"];
const APIS: &[&str] = &["authzen", "ext_authz", "grpc"];
const MODES: &[&str] = &["strict", "spool", "best_effort"];

/// Decisions, which also have the fields of their outcome once they have ended.
const DECISION: &[&str] = &["decision"];
const ENDED: &[&str] = &["decision", "outcome"];
const JUDGED: &[&str] = &["decision", "rejudgement"];

/// Every field.
pub static FIELDS: &[Field] = &[
    Field {
        name: "class",
        kind: Kind::Choice(CLASSES),
        classes: CLASSES,
        countable: true,
        help: "what kind of record it is; without it a query is about decisions",
        example: "class:policy_change last:7d",
        read: |item, put| put(Value::Text(class_of(&item.record))),
    },
    Field {
        name: "decision",
        kind: Kind::Choice(DECISIONS),
        classes: JUDGED,
        countable: true,
        help: "the outcome of a decision; `deny` is forbidden, not_permitted or undecided, a refused request was never decided",
        example: "decision:deny",
        read: |item, put| {
            if let Some(d) = item.decision() {
                put(Value::Text(verdict_word(d.verdict())));
            } else if let Some(r) = rejudgement(item) {
                put(Value::Text(verdict_word(r.verdict())));
            }
        },
    },
    Field {
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
    },
    Field {
        name: "principal",
        kind: Kind::Name,
        classes: ENDED,
        countable: true,
        help: "SPIFFE ID of the caller, proven by TLS",
        example: "principal:spiffe://acme.test/ns/shop/**",
        read: |item, put| match &item.record.body {
            Some(Body::Decision(d)) => {
                if let Some(peer) = &d.principal {
                    put(Value::Text(&peer.spiffe_id));
                }
            }
            Some(Body::Outcome(o)) => put(Value::Text(&o.principal)),
            _ => {}
        },
    },
    Field {
        name: "claimed",
        kind: Kind::Name,
        classes: &["authn_failure"],
        countable: true,
        help: "what a refused certificate claimed to be; unproven",
        example: "class:authn_failure claimed:spiffe://evil.test/**",
        read: |item, put| {
            if let Some(f) = authn_failure(item) {
                put(Value::Text(&f.claimed_id));
            }
        },
    },
    Field {
        name: "service",
        kind: Kind::Name,
        classes: ENDED,
        countable: true,
        help: "service that was called, `TRUST_DOMAIN/NAMESPACE/NAME`",
        example: "service:shop/orders",
        read: |item, put| match &item.record.body {
            Some(Body::Decision(d)) => put(Value::Text(&d.service)),
            Some(Body::Outcome(o)) => put(Value::Text(&o.service)),
            _ => {}
        },
    },
    Field {
        name: "action",
        kind: Kind::Keyword,
        classes: DECISION,
        countable: true,
        help: "Cedar action id",
        example: "action:orders:refund",
        read: |item, put| of_decision(item, put, |d| &d.action),
    },
    Field {
        name: "resource",
        kind: Kind::Keyword,
        classes: DECISION,
        countable: true,
        help: "Cedar resource id",
        example: "resource:**list-orders",
        read: |item, put| of_decision(item, put, |d| &d.resource_id),
    },
    Field {
        name: "resource_type",
        kind: Kind::Keyword,
        classes: DECISION,
        countable: true,
        help: "Cedar resource type: `Operation`, or `Service` when no operation matched",
        example: "resource_type:Service",
        read: |item, put| of_decision(item, put, |d| &d.resource_type),
    },
    Field {
        name: "method",
        kind: Kind::Upper,
        classes: DECISION,
        countable: true,
        help: "HTTP method; written in any case",
        example: "method:post",
        read: |item, put| of_decision(item, put, |d| &d.method),
    },
    Field {
        name: "host",
        kind: Kind::Keyword,
        classes: DECISION,
        countable: true,
        help: "host of the request",
        example: "host:orders.*",
        read: |item, put| of_decision(item, put, |d| &d.host),
    },
    Field {
        name: "path",
        kind: Kind::Keyword,
        classes: DECISION,
        countable: false,
        help: "canonical path without the query",
        example: "path:/orders/*",
        read: |item, put| of_decision(item, put, |d| &d.path),
    },
    Field {
        name: "route",
        kind: Kind::Keyword,
        classes: DECISION,
        countable: true,
        help: "path template of the matched operation",
        example: "route:/orders/**",
        read: |item, put| of_decision(item, put, |d| &d.route),
    },
    Field {
        name: "status",
        kind: Kind::Number,
        classes: ENDED,
        countable: true,
        help: "status the client saw: the outcome's, or our own answer; `4xx` is 400 to 499",
        example: "status:>=500",
        read: |item, put| {
            let ended = item.ending().map(|o| o.status).filter(|s| *s != 0);
            let own = item.decision().map(|d| d.status).filter(|s| *s != 0);
            if let Some(status) = ended.or(own) {
                put(Value::Number(status.into()));
            }
        },
    },
    Field {
        name: "latency",
        kind: Kind::Duration { unit_ns: 1000 },
        classes: ENDED,
        countable: false,
        help: "time from the request to its end",
        example: "latency:>10ms",
        read: |item, put| of_ending(item, put, |o| o.duration_us),
    },
    Field {
        name: "policy",
        kind: Kind::Keyword,
        classes: &["decision", "rejudgement", "policy_change"],
        countable: true,
        help: "id of a determining policy, or of one that a change added, removed or changed",
        example: "policy:orders-refund",
        read: |item, put| match &item.record.body {
            Some(Body::Decision(d)) => put_all(&d.policies, put),
            Some(Body::Rejudgement(r)) => put_all(&r.policies, put),
            Some(Body::PolicyChange(c)) => {
                put_all(&c.added, put);
                put_all(&c.removed, put);
                put_all(&c.changed, put);
            }
            _ => {}
        },
    },
    Field {
        name: "policy_error",
        kind: Kind::Keyword,
        classes: DECISION,
        countable: true,
        help: "id of a policy that failed to evaluate",
        example: "policy_error:*",
        read: |item, put| {
            if let Some(d) = item.decision() {
                put_all(&d.policy_errors, put);
            }
        },
    },
    Field {
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
    },
    Field {
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
    },
    Field {
        name: "mode",
        kind: Kind::Choice(MODES),
        classes: CLASSES,
        countable: true,
        help: "how durable the record had to be before the request went on",
        example: "mode:strict",
        read: |item, put| {
            put(Value::Text(match item.record.mode() {
                AuditMode::Unspecified => "",
                AuditMode::Strict => "strict",
                AuditMode::Spool => "spool",
                AuditMode::BestEffort => "best_effort",
            }));
        },
    },
    Field {
        name: "source",
        kind: Kind::Ip,
        classes: &["decision", "authn_failure"],
        countable: false,
        help: "address of the peer",
        example: "source:10.0.0.0/8",
        read: |item, put| {
            let text = match &item.record.body {
                Some(Body::Decision(d)) => &d.source_ip,
                Some(Body::AuthnFailure(f)) => &f.source_ip,
                _ => return,
            };
            if let Ok(ip) = text.parse::<IpAddr>() {
                put(Value::Ip(ip));
            }
        },
    },
    Field {
        name: "trace",
        kind: Kind::Trace,
        classes: DECISION,
        countable: false,
        help: "W3C trace id, all 32 hex digits",
        example: "trace:4bf92f3577b34da6a3ce929d0e0e4736",
        read: |item, put| {
            if let Some(trace) = item
                .decision()
                .and_then(|d| <[u8; 16]>::try_from(d.trace_id.as_slice()).ok())
            {
                put(Value::Trace(trace));
            }
        },
    },
    Field {
        name: "id",
        kind: Kind::Id,
        classes: CLASSES,
        countable: false,
        help: "decision id, whole or at least its first six characters",
        example: "id:01JD8K2XQ4",
        read: |item, put| {
            if let Some(id) = item.id() {
                put(Value::Id(id));
            }
        },
    },
    Field {
        name: "decision_ns",
        kind: Kind::Duration { unit_ns: 1 },
        classes: DECISION,
        countable: false,
        help: "time the decision took",
        example: "decision_ns:>50us",
        read: |item, put| {
            if let Some(d) = item.decision() {
                put(Value::Number(d.decision_ns));
            }
        },
    },
    Field {
        name: "cached",
        kind: BOOL,
        classes: DECISION,
        countable: true,
        help: "whether the decision came out of the decision cache",
        example: "cached:false",
        read: |item, put| of_decision(item, put, |d| word(d.cached)),
    },
    Field {
        name: "enforced",
        kind: BOOL,
        classes: DECISION,
        countable: true,
        help: "false for a shadow decision",
        example: "enforced:false",
        read: |item, put| of_decision(item, put, |d| word(d.enforced)),
    },
    Field {
        name: "shadow",
        kind: Kind::Choice(DECISIONS),
        classes: DECISION,
        countable: true,
        help: "what the revision tried beside the one in force would have decided, or the permits in shadow mode",
        example: "shadow:deny decision:allow",
        read: |item, put| {
            for shadow in shadows(item) {
                put(Value::Text(verdict_word(shadow.verdict())));
            }
        },
    },
    Field {
        name: "flip",
        kind: Kind::Choice(FLIPS),
        classes: DECISION,
        countable: true,
        help: "what the newer of the two revisions changes for the request, or the permits in shadow mode would",
        example: "flip:newly_denied last:1h",
        read: |item, put| {
            for shadow in shadows(item) {
                put(Value::Text(flip_word(shadow.flip())));
            }
        },
    },
    Field {
        name: "shadow_policy",
        kind: Kind::Keyword,
        classes: DECISION,
        countable: true,
        help: "id of a policy that determined what the tried revision would have decided, or of a permit in shadow mode that matched",
        example: "shadow_policy:orders-refund",
        read: |item, put| {
            for shadow in shadows(item) {
                put_all(&shadow.policies, put);
            }
        },
    },
    Field {
        name: "shadow_revision",
        kind: Kind::Hex,
        classes: DECISION,
        countable: true,
        help: "digest of the revision tried beside the one in force",
        example: "shadow_revision:9f2c*",
        read: |item, put| {
            for shadow in shadows(item) {
                put(Value::Text(&hex(&shadow.policy_digest)));
            }
        },
    },
    Field {
        name: "shadow_sequence",
        kind: Kind::Number,
        classes: DECISION,
        countable: true,
        help: "number of the revision tried beside the one in force",
        example: "shadow_sequence:12 | count by flip",
        read: |item, put| {
            for shadow in shadows(item).iter().filter(|s| s.policy_sequence != 0) {
                put(Value::Number(shadow.policy_sequence));
            }
        },
    },
    Field {
        name: "api",
        kind: Kind::Choice(APIS),
        classes: DECISION,
        countable: true,
        help: "of an answer of the decision APIs: which one; other decisions have none",
        example: "api:ext_authz decision:deny",
        read: |item, put| of_answer(item, put, |d| &d.api),
    },
    Field {
        name: "asserted_by",
        kind: Kind::Name,
        classes: DECISION,
        countable: true,
        help: "of an answer of the decision APIs: SPIFFE ID of the caller who asserted the principal",
        example: "asserted_by:spiffe://acme.test/ns/edge/**",
        read: |item, put| of_answer(item, put, |d| &d.asserted_by),
    },
    Field {
        name: "ended",
        kind: BOOL,
        classes: DECISION,
        countable: true,
        help: "whether the outcome of the request is known; answers of the decision APIs have none",
        example: "decision:allow ended:false",
        read: |item, put| {
            if item.decision().is_some_and(|d| d.api.is_empty()) {
                put(Value::Text(word(item.outcome.is_some())));
            }
        },
    },
    Field {
        name: "end",
        kind: Kind::Choice(ENDS),
        classes: ENDED,
        countable: true,
        help: "how the request ended",
        example: "end:timed_out",
        read: |item, put| {
            let Some(outcome) = item.ending() else { return };
            put(Value::Text(match outcome.end() {
                End::Unspecified => "",
                End::Completed => "completed",
                End::ClientAborted => "client_aborted",
                End::UpstreamFailed => "upstream_failed",
                End::TimedOut => "timed_out",
                End::Deadline => "deadline",
                End::Panicked => "panicked",
                End::Rejudged => "rejudged",
            }));
        },
    },
    Field {
        name: "bytes",
        kind: Kind::Size,
        classes: ENDED,
        countable: false,
        help: "bytes in both directions",
        example: "bytes:>=10MiB",
        read: |item, put| of_ending(item, put, |o| o.bytes_in.saturating_add(o.bytes_out)),
    },
    Field {
        name: "bytes_in",
        kind: Kind::Size,
        classes: ENDED,
        countable: false,
        help: "bytes of the request body",
        example: "bytes_in:>1MB",
        read: |item, put| of_ending(item, put, |o| o.bytes_in),
    },
    Field {
        name: "bytes_out",
        kind: Kind::Size,
        classes: ENDED,
        countable: false,
        help: "bytes of the response body",
        example: "bytes_out:[1KiB TO 64KiB]",
        read: |item, put| of_ending(item, put, |o| o.bytes_out),
    },
    Field {
        name: "upstream",
        kind: Kind::Keyword,
        classes: ENDED,
        countable: true,
        help: "endpoint that served the request",
        example: "upstream:10.0.3.*",
        read: |item, put| {
            if let Some(o) = item.ending() {
                put(Value::Text(&o.upstream));
            }
        },
    },
    Field {
        name: "error",
        kind: Kind::Keyword,
        classes: ENDED,
        countable: true,
        help: "what went wrong between the decision and the end",
        example: "error:*",
        read: |item, put| {
            if let Some(o) = item.ending() {
                put(Value::Text(&o.error));
            }
        },
    },
    Field {
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
    },
    Field {
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
    },
    Field {
        name: "verb",
        kind: Kind::Keyword,
        classes: &[
            "admin",
            "credential",
            "policy_change",
            "log_lifecycle",
            "spool_event",
        ],
        countable: true,
        help: "what was done",
        example: "class:credential verb:issued",
        read: |item, put| match &item.record.body {
            Some(Body::Admin(a)) => put(Value::Text(&a.verb)),
            Some(Body::Credential(c)) => put(Value::Text(&c.verb)),
            Some(Body::PolicyChange(c)) => put(Value::Text(&c.verb)),
            Some(Body::LogLifecycle(l)) => put(Value::Text(&l.verb)),
            Some(Body::SpoolEvent(e)) => put(Value::Text(&e.verb)),
            _ => {}
        },
    },
    Field {
        name: "actor",
        kind: Kind::Name,
        classes: &["admin", "policy_change", "audit_read"],
        countable: true,
        help: "who did it: operator, author of the change, reader of the log",
        example: "class:admin actor:ana@acme.test",
        read: |item, put| match &item.record.body {
            Some(Body::Admin(a)) => put(Value::Text(&a.actor)),
            Some(Body::PolicyChange(c)) => put(Value::Text(&c.author)),
            Some(Body::AuditRead(r)) => put(Value::Text(&r.actor)),
            _ => {}
        },
    },
    Field {
        name: "object",
        kind: Kind::Keyword,
        classes: &["admin"],
        countable: true,
        help: "what an operator's action was done to",
        example: "class:admin object:**orders",
        read: |item, put| {
            if let Some(Body::Admin(a)) = &item.record.body {
                put(Value::Text(&a.object));
            }
        },
    },
    Field {
        name: "spiffe_id",
        kind: Kind::Name,
        classes: &["credential"],
        countable: true,
        help: "identity a certificate was issued for",
        example: "class:credential spiffe_id:orders",
        read: |item, put| {
            if let Some(c) = credential(item) {
                put(Value::Text(&c.spiffe_id));
            }
        },
    },
    Field {
        name: "serial",
        kind: Kind::Hex,
        classes: &["decision", "authn_failure", "credential"],
        countable: false,
        help: "serial number of the certificate; colons and case do not matter",
        example: "serial:3f:a1*",
        read: |item, put| {
            let bytes = match &item.record.body {
                Some(Body::Decision(d)) => d.principal.as_ref().map(|peer| &peer.serial),
                Some(Body::AuthnFailure(f)) => Some(&f.serial),
                Some(Body::Credential(c)) => Some(&c.serial),
                _ => None,
            };
            if let Some(bytes) = bytes {
                put(Value::Text(&hex(bytes)));
            }
        },
    },
    Field {
        name: "authority",
        kind: Kind::Hex,
        classes: &["credential"],
        countable: true,
        help: "key id of the authority that issued the certificate",
        example: "class:credential authority:9a*",
        read: |item, put| {
            if let Some(c) = credential(item) {
                put(Value::Text(&hex(&c.authority)));
            }
        },
    },
    Field {
        name: "selector",
        kind: Kind::Keyword,
        classes: &["credential"],
        countable: true,
        help: "selector that attested the workload",
        example: "class:credential selector:unix:uid:1000",
        read: |item, put| {
            if let Some(c) = credential(item) {
                put_all(&c.selectors, put);
            }
        },
    },
    Field {
        name: "commit",
        kind: Kind::Keyword,
        classes: &["policy_change"],
        countable: true,
        help: "git revision of the policy repository",
        example: "class:policy_change commit:9f2c*",
        read: |item, put| {
            if let Some(c) = policy_change(item) {
                put(Value::Text(&c.git_revision));
            }
        },
    },
    Field {
        name: "listener",
        kind: Kind::Keyword,
        classes: &["authn_failure"],
        countable: true,
        help: "listener that refused the handshake",
        example: "class:authn_failure listener:inbound",
        read: |item, put| {
            if let Some(f) = authn_failure(item) {
                put(Value::Text(&f.listener));
            }
        },
    },
    Field {
        name: "subject",
        kind: Kind::Keyword,
        classes: &["erasure"],
        countable: false,
        help: "pseudonym of the person whose data was erased",
        example: "class:erasure subject:*",
        read: |item, put| {
            if let Some(Body::Erasure(e)) = &item.record.body {
                put(Value::Text(&e.subject));
            }
        },
    },
    Field {
        name: "rows",
        kind: Kind::Number,
        classes: &["audit_read"],
        countable: false,
        help: "how many rows a reader of the log was given",
        example: "class:audit_read rows:>1000",
        read: |item, put| {
            if let Some(Body::AuditRead(r)) = &item.record.body {
                put(Value::Number(r.rows));
            }
        },
    },
    Field {
        name: "reporter",
        kind: Kind::Name,
        classes: CLASSES,
        countable: true,
        help: "SPIFFE ID of the part that sent the record, proven to the log",
        example: "reporter:palisade/proxy/orders",
        read: |item, put| put(Value::Text(&item.reporter)),
    },
    Field {
        name: "demo",
        kind: BOOL,
        classes: CLASSES,
        countable: true,
        help: "whether a demo mesh left the record",
        example: "demo:true",
        read: |item, put| put(Value::Text(word(item.record.demo))),
    },
    Field {
        name: "suspect",
        kind: BOOL,
        classes: CLASSES,
        countable: true,
        help: "whether the reporter's clock was not credible: the record is filed under its time of receipt",
        example: "suspect:true last:7d",
        read: |item, put| put(Value::Text(word(item.is_suspect()))),
    },
    Field {
        name: "entry",
        kind: Kind::Number,
        classes: CLASSES,
        countable: false,
        help: "index of the record in the log, as `audit verify` names it",
        example: "entry:[1000 TO 1999] class:decision",
        read: |item, put| put(Value::Number(item.at)),
    },
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

/// A field that only answers of the decision APIs have.
fn of_answer<'a>(
    item: &'a Item,
    put: &mut dyn FnMut(Value<'_>),
    read: impl Fn(&'a Decision) -> &'a str,
) {
    if item.decision().is_some_and(|d| !d.api.is_empty()) {
        of_decision(item, put, read);
    }
}

fn of_ending(item: &Item, put: &mut dyn FnMut(Value<'_>), read: impl Fn(&Outcome) -> u64) {
    if let Some(outcome) = item.ending() {
        put(Value::Number(read(outcome)));
    }
}

fn put_all(texts: &[String], put: &mut dyn FnMut(Value<'_>)) {
    for text in texts {
        put(Value::Text(text));
    }
}

fn shadows(item: &Item) -> &[Shadow] {
    item.decision().map_or(&[], |decision| &decision.shadows)
}

fn authn_failure(item: &Item) -> Option<&AuthnFailure> {
    match &item.record.body {
        Some(Body::AuthnFailure(failure)) => Some(failure),
        _ => None,
    }
}

fn credential(item: &Item) -> Option<&Credential> {
    match &item.record.body {
        Some(Body::Credential(credential)) => Some(credential),
        _ => None,
    }
}

fn policy_change(item: &Item) -> Option<&PolicyChange> {
    match &item.record.body {
        Some(Body::PolicyChange(change)) => Some(change),
        _ => None,
    }
}
