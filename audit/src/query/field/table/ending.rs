//! How a request ended.

use palisade_mesh::wire::record::{Outcome, outcome::End};

use super::{BOOL, OF_DECISIONS, OF_ENDED, word};
use crate::{
    item::Item,
    query::field::{Field, Kind, Value},
};

const ENDS: &[&str] = &[
    "completed",
    "client_aborted",
    "upstream_failed",
    "timed_out",
    "deadline",
    "panicked",
    "rejudged",
];

pub(super) const STATUS: Field = Field {
    name: "status",
    kind: Kind::Number,
    classes: OF_ENDED,
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
};

pub(super) const LATENCY: Field = Field {
    name: "latency",
    kind: Kind::Duration { unit_ns: 1000 },
    classes: OF_ENDED,
    countable: false,
    help: "time from the request to its end",
    example: "latency:>10ms",
    read: |item, put| of_ending(item, put, |o| o.duration_us),
};

pub(super) const ENDED: Field = Field {
    name: "ended",
    kind: BOOL,
    classes: OF_DECISIONS,
    countable: true,
    help: "whether the outcome of the request is known; answers of the decision APIs have none",
    example: "decision:allow ended:false",
    read: |item, put| {
        if item.decision().is_some_and(|d| d.api.is_empty()) {
            put(Value::Text(word(item.outcome.is_some())));
        }
    },
};

pub(super) const END: Field = Field {
    name: "end",
    kind: Kind::Choice(ENDS),
    classes: OF_ENDED,
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
};

pub(super) const BYTES: Field = Field {
    name: "bytes",
    kind: Kind::Size,
    classes: OF_ENDED,
    countable: false,
    help: "bytes in both directions",
    example: "bytes:>=10MiB",
    read: |item, put| of_ending(item, put, |o| o.bytes_in.saturating_add(o.bytes_out)),
};

pub(super) const BYTES_IN: Field = Field {
    name: "bytes_in",
    kind: Kind::Size,
    classes: OF_ENDED,
    countable: false,
    help: "bytes of the request body",
    example: "bytes_in:>1MB",
    read: |item, put| of_ending(item, put, |o| o.bytes_in),
};

pub(super) const BYTES_OUT: Field = Field {
    name: "bytes_out",
    kind: Kind::Size,
    classes: OF_ENDED,
    countable: false,
    help: "bytes of the response body",
    example: "bytes_out:[1KiB TO 64KiB]",
    read: |item, put| of_ending(item, put, |o| o.bytes_out),
};

pub(super) const UPSTREAM: Field = Field {
    name: "upstream",
    kind: Kind::Keyword,
    classes: OF_ENDED,
    countable: true,
    help: "endpoint that served the request",
    example: "upstream:10.0.3.*",
    read: |item, put| {
        if let Some(o) = item.ending() {
            put(Value::Text(&o.upstream));
        }
    },
};

pub(super) const ERROR: Field = Field {
    name: "error",
    kind: Kind::Keyword,
    classes: OF_ENDED,
    countable: true,
    help: "what went wrong between the decision and the end",
    example: "error:*",
    read: |item, put| {
        if let Some(o) = item.ending() {
            put(Value::Text(&o.error));
        }
    },
};

pub(super) const OUTCOME_ENTRY: Field = Field {
    name: "outcome_entry",
    kind: Kind::Number,
    classes: OF_DECISIONS,
    countable: false,
    help: "index of the outcome of the request in the log",
    example: "decision:allow -outcome_entry:>=1000",
    read: |item, put| {
        if let Some((at, _)) = item.outcome {
            put(Value::Number(at));
        }
    },
};

fn of_ending(item: &Item, put: &mut dyn FnMut(Value<'_>), read: impl Fn(&Outcome) -> u64) {
    if let Some(outcome) = item.ending() {
        put(Value::Number(read(outcome)));
    }
}
