//! What operators, authorities and readers of the log did.

use palisade_mesh::wire::record::{Credential, PolicyChange, record::Body};

use super::put_all;
use crate::{
    item::Item,
    merkle::hex,
    query::field::{Field, Kind, Value},
};

/// How bad something is, mildest first.
const SEVERITIES: &[&str] = &["low", "medium", "high", "critical"];

pub(super) const VERB: Field = Field {
    name: "verb",
    kind: Kind::Keyword,
    classes: &[
        "admin",
        "credential",
        "policy_change",
        "audit_read",
        "log_lifecycle",
        "spool_event",
        "alert",
    ],
    countable: true,
    help: "what was done",
    example: "class:credential verb:issued",
    read: |item, put| match &item.record.body {
        Some(Body::Admin(a)) => put(Value::Text(&a.verb)),
        Some(Body::Credential(c)) => put(Value::Text(&c.verb)),
        Some(Body::PolicyChange(c)) => put(Value::Text(&c.verb)),
        Some(Body::AuditRead(r)) => put(Value::Text(&r.verb)),
        Some(Body::LogLifecycle(l)) => put(Value::Text(&l.verb)),
        Some(Body::SpoolEvent(e)) => put(Value::Text(&e.verb)),
        Some(Body::Alert(a)) => put(Value::Text(&a.verb)),
        _ => {}
    },
};

pub(super) const RULE: Field = Field {
    name: "rule",
    kind: Kind::Keyword,
    classes: &["alert"],
    countable: true,
    help: "name of the alert rule that was met",
    example: "class:alert rule:refusals verb:fired",
    read: |item, put| {
        if let Some(Body::Alert(a)) = &item.record.body {
            put(Value::Text(&a.rule));
        }
    },
};

pub(super) const SEVERITY: Field = Field {
    name: "severity",
    kind: Kind::Choice(SEVERITIES),
    classes: &["alert"],
    countable: true,
    help: "how bad the alert rule says that it is",
    example: "class:alert severity:critical last:7d",
    read: |item, put| {
        if let Some(Body::Alert(a)) = &item.record.body {
            put(Value::Text(&a.severity));
        }
    },
};

pub(super) const FIRING: Field = Field {
    name: "firing",
    kind: Kind::Keyword,
    classes: &["alert"],
    countable: true,
    help: "id of the firing that a record about an alert belongs to",
    example: "class:alert firing:01JD8K2XQ4*",
    read: |item, put| {
        if let Some(Body::Alert(a)) = &item.record.body
            && let Ok(id) = <[u8; 16]>::try_from(a.firing.as_slice())
        {
            put(Value::Text(&ulid::Ulid::from_bytes(id).to_string()));
        }
    },
};

pub(super) const ACTOR: Field = Field {
    name: "actor",
    kind: Kind::Name,
    classes: &["admin", "audit_read", "erasure", "alert"],
    countable: true,
    help: "who did it: operator, reader of the log",
    example: "class:admin actor:ana@acme.test",
    read: |item, put| match &item.record.body {
        Some(Body::Admin(a)) => put(Value::Text(&a.actor)),
        Some(Body::AuditRead(r)) => put(Value::Text(&r.actor)),
        Some(Body::Erasure(e)) => put(Value::Text(&e.actor)),
        Some(Body::Alert(a)) => put(Value::Text(&a.actor)),
        _ => {}
    },
};

pub(super) const AUTHOR: Field = Field {
    name: "author",
    kind: Kind::Keyword,
    classes: &["policy_change"],
    countable: true,
    help: "who wrote what is new in policies that a revision added or changed, as git says",
    example: "class:policy_change author:**<ana@acme.test>",
    read: |item, put| {
        if let Some(Body::PolicyChange(c)) = &item.record.body {
            put_all(&c.authors, put);
        }
    },
};

pub(super) const OBJECT: Field = Field {
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
};

pub(super) const SPIFFE_ID: Field = Field {
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
};

pub(super) const AUTHORITY: Field = Field {
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
};

pub(super) const SELECTOR: Field = Field {
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
};

pub(super) const NODE: Field = Field {
    name: "node",
    kind: Kind::Keyword,
    classes: &["credential"],
    countable: true,
    help: "joined node that asked for the certificate; none in records of earlier versions",
    example: "class:credential node:host-3",
    read: |item, put| {
        if let Some(c) = credential(item) {
            put(Value::Text(&c.node));
        }
    },
};

pub(super) const COMMIT: Field = Field {
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
};

pub(super) const SUBJECT: Field = Field {
    name: "subject",
    kind: Kind::Keyword,
    classes: &["decision", "authn_failure", "policy_change", "erasure"],
    countable: true,
    help: "a person whom the record is about: by name, which the log turns into the pseudonym that it has, or by that pseudonym",
    example: "subject:alice@example.org class:* last:7d",
    read: |item, put| {
        if let Some(Body::Erasure(e)) = &item.record.body {
            put(Value::Text(&e.subject));
        }
        for subject in item.subjects() {
            put(Value::Text(&subject.to_string()));
        }
    },
};

pub(super) const ROWS: Field = Field {
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
};

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
