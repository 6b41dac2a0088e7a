//! What every record has.

use palisade_mesh::wire::record::AuditMode;

use super::{BOOL, word};
use crate::query::field::{CLASSES, Field, Kind, Value, class_of};

const MODES: &[&str] = &["strict", "spool", "best_effort"];

pub(super) const CLASS: Field = Field {
    name: "class",
    kind: Kind::Choice(CLASSES),
    classes: CLASSES,
    countable: true,
    help: "what kind of record it is; without it a query is about decisions",
    example: "class:policy_change last:7d",
    read: |item, put| put(Value::Text(class_of(&item.record))),
};

pub(super) const MODE: Field = Field {
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
};

pub(super) const ID: Field = Field {
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
};

pub(super) const REPORTER: Field = Field {
    name: "reporter",
    kind: Kind::Name,
    classes: CLASSES,
    countable: true,
    help: "SPIFFE ID of the part that sent the record, proven to the log",
    example: "reporter:palisade/proxy/orders",
    read: |item, put| put(Value::Text(&item.reporter)),
};

pub(super) const DEMO: Field = Field {
    name: "demo",
    kind: BOOL,
    classes: CLASSES,
    countable: true,
    help: "whether a demo mesh left the record",
    example: "demo:true",
    read: |item, put| put(Value::Text(word(item.record.demo))),
};

pub(super) const SUSPECT: Field = Field {
    name: "suspect",
    kind: BOOL,
    classes: CLASSES,
    countable: true,
    help: "whether the reporter's clock was not credible: the record is filed under its time of receipt",
    example: "suspect:true last:7d",
    read: |item, put| put(Value::Text(word(item.is_suspect()))),
};

pub(super) const ENTRY: Field = Field {
    name: "entry",
    kind: Kind::Number,
    classes: CLASSES,
    countable: false,
    help: "index of the record in the log, as `audit verify` names it",
    example: "entry:[1000 TO 1999] class:decision",
    read: |item, put| put(Value::Number(item.at)),
};
