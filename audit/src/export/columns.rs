//! The columns of flat formats: every field of the query language, and what rows show
//! beside those.

use crate::query::{FIELDS, field::is_list};

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name, as in rows.
    pub name: &'static str,
    /// What its cells are.
    pub kind: ColumnKind,
}

/// What the cells of a column are; any cell may be empty but those of `time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// True or false.
    Flag,
    /// A JSON value.
    Json,
    /// A whole number, not negative.
    Number,
    /// A text.
    Text,
    /// Several texts.
    Texts,
    /// A moment: RFC 3339 in rows, microseconds in Parquet.
    Time,
}

/// What rows show and queries cannot name.
const DETAILS: &[Column] = &[
    of("received", ColumnKind::Time),
    of("reported_time", ColumnKind::Time),
    of("revision_digest", ColumnKind::Text),
    of("discovery", ColumnKind::Number),
    of("kill_list", ColumnKind::Number),
    of("source_port", ColumnKind::Number),
    of("span", ColumnKind::Text),
    of("request_id", ColumnKind::Text),
    of("decision_id", ColumnKind::Text),
    of("answered", ColumnKind::Number),
    of("sent_to", ColumnKind::Text),
    of("unanswered", ColumnKind::Text),
    of("not_before", ColumnKind::Time),
    of("not_after", ColumnKind::Time),
    of("sequence_before", ColumnKind::Number),
    of("added", ColumnKind::Texts),
    of("removed", ColumnKind::Texts),
    of("changed", ColumnKind::Texts),
    of("query", ColumnKind::Text),
    of("kept_to", ColumnKind::Text),
    of("request", ColumnKind::Text),
    of("because", ColumnKind::Text),
    of("exported_to", ColumnKind::Text),
    of("more", ColumnKind::Number),
    of("begun", ColumnKind::Flag),
    of("group", ColumnKind::Text),
    of("count", ColumnKind::Number),
    of("threshold", ColumnKind::Number),
    of("from", ColumnKind::Time),
    of("until", ColumnKind::Time),
    of("last_sequence", ColumnKind::Number),
    of("certificate", ColumnKind::Text),
    of("heads", ColumnKind::Json),
    of("dropped_strict", ColumnKind::Number),
    of("dropped_spool", ColumnKind::Number),
    of("dropped_best_effort", ColumnKind::Number),
    of("lost_from", ColumnKind::Time),
    of("lost_until", ColumnKind::Time),
    of("detail", ColumnKind::Text),
    of("context", ColumnKind::Json),
    of("covered", ColumnKind::Json),
    of("shadows", ColumnKind::Json),
];

const fn of(name: &'static str, kind: ColumnKind) -> Column {
    Column { name, kind }
}

/// Every column, in the order of files: time, fields, details.
pub fn columns() -> impl Iterator<Item = Column> {
    let fields = FIELDS.iter().map(|field| {
        let kind = match field.kind {
            _ if is_list(field.name) => ColumnKind::Texts,
            _ if field.is_flag() => ColumnKind::Flag,
            kind if kind.is_number() => ColumnKind::Number,
            _ => ColumnKind::Text,
        };
        of(field.name, kind)
    });
    [of("time", ColumnKind::Time)]
        .into_iter()
        .chain(fields)
        .chain(DETAILS.iter().copied())
}
