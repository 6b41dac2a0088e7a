//! What was asked, by whom, and where it came from.

use std::net::IpAddr;

use palisade_mesh::wire::record::{AuthnFailure, Decision, record::Body};

use super::{OF_DECISIONS, of_decision, of_question, of_search};
use crate::{
    item::Item,
    merkle::hex,
    query::field::{Field, Kind, Value},
};

/// Both halves of a request: the destination's and the caller's.
const OF_REQUESTS: &[&str] = &["decision", "call"];
/// Decisions, and searches of the decision APIs for what would be decided.
const OF_QUESTIONS: &[&str] = &["decision", "audit_read"];
const APIS: &[&str] = &["authzen", "ext_authz", "grpc"];

pub(super) const PRINCIPAL: Field = Field {
    name: "principal",
    kind: Kind::Name,
    classes: &["decision", "outcome", "audit_read"],
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
        Some(Body::AuditRead(r)) => of_search(r, put, |s| &s.principal),
        _ => {}
    },
};

pub(super) const CLAIMED: Field = Field {
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
};

pub(super) const SERVICE: Field = Field {
    name: "service",
    kind: Kind::Name,
    classes: &["decision", "outcome", "call", "audit_read"],
    countable: true,
    help: "service that was called, `TRUST_DOMAIN/NAMESPACE/NAME`",
    example: "service:shop/orders",
    read: |item, put| match &item.record.body {
        Some(Body::Decision(d)) => put(Value::Text(&d.service)),
        Some(Body::Outcome(o)) => put(Value::Text(&o.service)),
        Some(Body::Call(c)) => put(Value::Text(&c.service)),
        Some(Body::AuditRead(r)) => of_search(r, put, |s| &s.service),
        _ => {}
    },
};

pub(super) const ACTION: Field = Field {
    name: "action",
    kind: Kind::Keyword,
    classes: OF_QUESTIONS,
    countable: true,
    help: "Cedar action id",
    example: "action:orders:refund",
    read: |item, put| of_question(item, put, |d| &d.action, |s| &s.action),
};

pub(super) const RESOURCE: Field = Field {
    name: "resource",
    kind: Kind::Keyword,
    classes: OF_QUESTIONS,
    countable: true,
    help: "Cedar resource id",
    example: "resource:**list-orders",
    read: |item, put| of_question(item, put, |d| &d.resource_id, |s| &s.resource_id),
};

pub(super) const RESOURCE_TYPE: Field = Field {
    name: "resource_type",
    kind: Kind::Keyword,
    classes: OF_QUESTIONS,
    countable: true,
    help: "Cedar resource type: `Operation`, or `Service` when no operation matched",
    example: "resource_type:Service",
    read: |item, put| of_question(item, put, |d| &d.resource_type, |s| &s.resource_type),
};

pub(super) const METHOD: Field = Field {
    name: "method",
    kind: Kind::Upper,
    classes: OF_REQUESTS,
    countable: true,
    help: "HTTP method; written in any case",
    example: "method:post",
    read: |item, put| match &item.record.body {
        Some(Body::Decision(d)) => put(Value::Text(&d.method)),
        Some(Body::Call(c)) => put(Value::Text(&c.method)),
        _ => {}
    },
};

pub(super) const HOST: Field = Field {
    name: "host",
    kind: Kind::Keyword,
    classes: OF_DECISIONS,
    countable: true,
    help: "host of the request",
    example: "host:orders.*",
    read: |item, put| of_decision(item, put, |d| &d.host),
};

pub(super) const PATH: Field = Field {
    name: "path",
    kind: Kind::Keyword,
    classes: OF_REQUESTS,
    countable: false,
    help: "canonical path without the query",
    example: "path:/orders/*",
    read: |item, put| match &item.record.body {
        Some(Body::Decision(d)) => put(Value::Text(&d.path)),
        Some(Body::Call(c)) => put(Value::Text(&c.path)),
        _ => {}
    },
};

pub(super) const ROUTE: Field = Field {
    name: "route",
    kind: Kind::Keyword,
    classes: OF_DECISIONS,
    countable: true,
    help: "path template of the matched operation",
    example: "route:/orders/**",
    read: |item, put| of_decision(item, put, |d| &d.route),
};

pub(super) const SOURCE: Field = Field {
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
};

pub(super) const TRACE: Field = Field {
    name: "trace",
    kind: Kind::Trace,
    classes: OF_DECISIONS,
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
};

pub(super) const SERIAL: Field = Field {
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
};

pub(super) const LISTENER: Field = Field {
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
};

pub(super) const API: Field = Field {
    name: "api",
    kind: Kind::Choice(APIS),
    classes: OF_DECISIONS,
    countable: true,
    help: "of an answer of the decision APIs: which one; other decisions have none",
    example: "api:ext_authz decision:deny",
    read: |item, put| of_answer(item, put, |d| &d.api),
};

pub(super) const ASSERTED_BY: Field = Field {
    name: "asserted_by",
    kind: Kind::Name,
    classes: OF_DECISIONS,
    countable: true,
    help: "of an answer of the decision APIs: SPIFFE ID of the caller who asserted the principal",
    example: "asserted_by:spiffe://acme.test/ns/edge/**",
    read: |item, put| of_answer(item, put, |d| &d.asserted_by),
};

fn of_answer<'a>(
    item: &'a Item,
    put: &mut dyn FnMut(Value<'_>),
    read: impl Fn(&'a Decision) -> &'a str,
) {
    if item.decision().is_some_and(|d| !d.api.is_empty()) {
        of_decision(item, put, read);
    }
}

fn authn_failure(item: &Item) -> Option<&AuthnFailure> {
    match &item.record.body {
        Some(Body::AuthnFailure(failure)) => Some(failure),
        _ => None,
    }
}
