//! Every field a query can name: one table that the parser, the index, the
//! rows, the suggestions and the reference page are made from.

use std::net::IpAddr;

use palisade_mesh::wire::record::{Flip, Record, Rejudgement, Verdict, Versions, record::Body};

use crate::item::Item;

mod table;

pub use table::FIELDS;

/// Longest text that is indexed and compared, bytes; the rest of a longer one
/// is shown but not searched.
pub const VALUE_LEN_MAX: usize = 1024;

/// The classes of records.
pub const CLASSES: &[&str] = &[
    "decision",
    "outcome",
    "rejudgement",
    "authn_failure",
    "admin",
    "credential",
    "policy_change",
    "audit_read",
    "log_lifecycle",
    "stream_head",
    "erasure",
    "spool_event",
    "call",
    "stream_heads",
    "alert",
];

/// The words of `decision:`. `deny` stands for every way a decision said no.
pub const DECISIONS: &[&str] = &[
    "allow",
    "deny",
    "forbidden",
    "not_permitted",
    "undecided",
    "refused",
];

/// The ways a decision says no. A refused request was never decided.
pub const DENIALS: &[&str] = &["forbidden", "not_permitted", "undecided"];

/// One searchable field.
#[derive(Debug)]
pub struct Field {
    /// Name in queries, in rows and in JSON.
    pub name: &'static str,
    /// What its values are and how they are asked for.
    pub kind: Kind,
    /// Classes of records that have it.
    pub classes: &'static [&'static str],
    /// Whether values can be counted (`facets`, `count by`).
    pub countable: bool,
    /// What it says, in a sentence.
    pub help: &'static str,
    /// A query that uses it.
    pub example: &'static str,
    /// Hands out the values of an item.
    pub(crate) read: Read,
}

/// Hands the values of a field of an item to a function.
pub(crate) type Read = fn(&Item, &mut dyn FnMut(Value<'_>));

/// What values a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Text; wildcards allowed.
    Keyword,
    /// A SPIFFE ID or service id; may be shortened to its last segments.
    Name,
    /// Text whose letters are upper case.
    Upper,
    /// Bytes in lower-case hex.
    Hex,
    /// A whole number.
    Number,
    /// A duration; values are counted in units of so many nanoseconds.
    Duration {
        /// Nanoseconds per unit.
        unit_ns: u64,
    },
    /// A number of bytes.
    Size,
    /// An IP address or network.
    Ip,
    /// A ULID or at least the first six characters of one.
    Id,
    /// A W3C trace id.
    Trace,
    /// A policy revision: digest or number.
    Revision,
}

impl Kind {
    /// Whether values are text in the index.
    pub(crate) fn is_text(self) -> bool {
        matches!(
            self,
            Self::Choice(_) | Self::Keyword | Self::Name | Self::Upper | Self::Hex | Self::Revision
        )
    }

    /// Whether values are numbers in the index.
    pub(crate) fn is_number(self) -> bool {
        matches!(self, Self::Number | Self::Duration { .. } | Self::Size)
    }

    /// The kind, for the reference page.
    pub fn describe(self) -> String {
        match self {
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Keyword => "text".into(),
            Self::Name => "name".into(),
            Self::Upper => "text, upper case".into(),
            Self::Hex => "hex".into(),
            Self::Number => "number".into(),
            Self::Duration { unit_ns: 1 } => "duration, in ns".into(),
            Self::Duration { .. } => "duration, in µs".into(),
            Self::Size => "bytes".into(),
            Self::Ip => "IP address or network".into(),
            Self::Id => "ULID".into(),
            Self::Trace => "trace id".into(),
            Self::Revision => "digest or number".into(),
        }
    }
}

/// One value of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Number(u64),
    Ip(IpAddr),
    Id(u128),
    Trace([u8; 16]),
}

impl Field {
    /// The field called `name`.
    pub fn find(name: &str) -> Option<&'static Self> {
        FIELDS.iter().find(|field| field.name == name)
    }

    /// Hands out the values of `item`, texts cut to [`VALUE_LEN_MAX`]; absent
    /// values are not handed out.
    pub(crate) fn values(&self, item: &Item, put: &mut dyn FnMut(Value<'_>)) {
        (self.read)(item, &mut |value| match value {
            Value::Text("") => {}
            Value::Text(text) => put(Value::Text(clip(text))),
            other => put(other),
        });
    }

    /// Whether its values are true or false.
    pub(crate) fn is_flag(&self) -> bool {
        self.kind == Kind::Choice(&["true", "false"])
    }

    /// Whether decisions have it, by themselves or from their outcome.
    pub(crate) fn of_decisions(&self) -> bool {
        self.classes.contains(&"decision")
    }

    /// Whether what decisions have of it can come from their outcome.
    pub(crate) fn of_endings(&self) -> bool {
        table::OF_ENDINGS.contains(&self.name)
    }
}

/// Fields are the same when their names are: the table has each once.
impl PartialEq for Field {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Field {}

fn clip(text: &str) -> &str {
    text.get(..text.floor_char_boundary(VALUE_LEN_MAX))
        .unwrap_or(text)
}

/// Whether a field can have several values; rows show it as a list.
pub(crate) fn is_list(name: &str) -> bool {
    matches!(
        name,
        "author"
            | "flip"
            | "policy"
            | "policy_error"
            | "selector"
            | "shadow"
            | "shadow_policy"
            | "subject"
    )
}

/// The class of a record; `unknown` for one of a later schema.
pub(crate) fn class_of(record: &Record) -> &'static str {
    match &record.body {
        Some(Body::Decision(_)) => "decision",
        Some(Body::Outcome(_)) => "outcome",
        Some(Body::Rejudgement(_)) => "rejudgement",
        Some(Body::AuthnFailure(_)) => "authn_failure",
        Some(Body::Admin(_)) => "admin",
        Some(Body::Credential(_)) => "credential",
        Some(Body::PolicyChange(_)) => "policy_change",
        Some(Body::AuditRead(_)) => "audit_read",
        Some(Body::LogLifecycle(_)) => "log_lifecycle",
        Some(Body::StreamHead(_)) => "stream_head",
        Some(Body::Erasure(_)) => "erasure",
        Some(Body::SpoolEvent(_)) => "spool_event",
        Some(Body::Call(_)) => "call",
        Some(Body::StreamHeads(_)) => "stream_heads",
        Some(Body::Alert(_)) => "alert",
        None => "unknown",
    }
}

/// The word of `decision:` for a verdict; empty where a record has none.
pub fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unspecified => "",
        Verdict::Allow => "allow",
        Verdict::Forbidden => "forbidden",
        Verdict::NotPermitted => "not_permitted",
        Verdict::Undecided => "undecided",
        Verdict::Refused => "refused",
    }
}

pub(crate) fn flip_word(flip: Flip) -> &'static str {
    match flip {
        Flip::Unspecified => "",
        Flip::NewlyAllowed => "newly_allowed",
        Flip::NewlyDenied => "newly_denied",
        Flip::NewlyUndecided => "newly_undecided",
    }
}

pub(crate) fn rejudgement(item: &Item) -> Option<&Rejudgement> {
    match &item.record.body {
        Some(Body::Rejudgement(r)) => Some(r),
        _ => None,
    }
}

/// The versions a record names; for a policy change, those after it.
pub(crate) fn versions(item: &Item) -> Option<&Versions> {
    match &item.record.body {
        Some(Body::Decision(d)) => d.versions.as_ref(),
        Some(Body::Rejudgement(r)) => r.versions.as_ref(),
        Some(Body::PolicyChange(c)) => c.after.as_ref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use palisade_mesh::wire::{
        audit::Envelope,
        record::{Decision, Outcome},
    };

    use super::*;
    use crate::{query::Query, source::Entry};

    #[test]
    fn every_field_is_named_once_and_its_example_parses_and_uses_it() {
        for (i, field) in FIELDS.iter().enumerate() {
            assert!(
                FIELDS[..i].iter().all(|other| other.name != field.name),
                "{} twice",
                field.name
            );
            Query::parse(field.example).unwrap_or_else(|e| panic!("{}: {e}", field.example));
            assert!(
                field.example.contains(&format!("{}:", field.name)),
                "{}",
                field.example
            );
            assert!(!field.help.is_empty() && !field.help.ends_with('.'));
            assert!(field.classes.iter().all(|c| CLASSES.contains(c)));
        }
    }

    /// What an outcome changes of its decision, and nothing else, is of endings.
    #[test]
    fn fields_of_endings_are_those_that_an_outcome_changes() {
        let record = Record {
            body: Some(Body::Decision(Decision::default())),
            ..Record::default()
        };
        let alone = Item::new(Entry {
            index: 0,
            envelope: Envelope::default(),
            record,
        });
        let outcome = Outcome {
            status: 599,
            end: 1,
            bytes_in: 1,
            bytes_out: 2,
            duration_us: 3,
            service: "a".into(),
            principal: "b".into(),
            upstream: "c".into(),
            error: "d".into(),
        };
        let ended = Item {
            outcome: Some((1, outcome)),
            ..alone.clone()
        };
        let values = |field: &Field, item: &Item| {
            let mut values = Vec::new();
            field.values(item, &mut |value| values.push(format!("{value:?}")));
            values
        };
        for field in FIELDS {
            let changed = values(field, &alone) != values(field, &ended);
            assert_eq!(field.of_endings(), changed, "{}", field.name);
        }
    }

    #[test]
    fn a_text_is_cut_at_its_limit_and_not_below() {
        let at_limit = "x".repeat(VALUE_LEN_MAX);
        assert_eq!(clip(&at_limit), at_limit);
        assert_eq!(clip(&format!("{at_limit}y")), at_limit);
        let umlauts = "ä".repeat(VALUE_LEN_MAX);
        assert_eq!(clip(&umlauts).len(), VALUE_LEN_MAX);
        assert_eq!(clip(&format!("x{umlauts}")).len(), VALUE_LEN_MAX - 1);
    }
}
