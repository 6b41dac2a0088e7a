//! Records as other programs read them: CSV, JSON lines, Parquet, OCSF events, syslog.
//!
//! Every format is made from the rows that a search answers, as JSON objects, so that
//! whoever asks the HTTP API can make the same files.

use serde_json::{Map, Value};

pub mod columns;
mod csv;
mod ocsf;
mod parquet;
mod syslog;

pub use self::columns::{Column, ColumnKind, columns};
pub use self::csv::{neutral, write_csv, write_csv_head};
pub use self::ocsf::{OCSF_VERSION, ocsf_event};
pub use self::parquet::{GROUP_ROWS, ParquetError, ParquetFile};
pub use self::syslog::{Content, FACILITY, FACILITY_MAX, MESSAGE_LEN_MAX, Syslog};

/// One row as it is on the wire.
pub type Object = Map<String, Value>;

/// What an answer may say that it lacks.
const LACKS: [&str; 13] = [
    "behind",
    "unreadable",
    "skipped_buckets",
    "gaps",
    "gaps_more",
    "gaps_withheld",
    "dropped",
    "silent",
    "silent_more",
    "lost",
    "lost_more",
    "restricted_to",
    "stalled",
];

/// What an answer says that it lacks, under the names that it has for it.
#[must_use]
pub fn lacks(answer: &Value) -> Object {
    let is_nothing = |said: &Value| match said {
        Value::Null => true,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    let said = LACKS.iter().filter_map(|name| {
        let said = answer.get(*name).filter(|said| !is_nothing(said))?;
        Some(((*name).to_owned(), said.clone()))
    });
    said.collect()
}

/// Appends a row as a line of JSON.
///
/// # Errors
/// When `out` does not take it.
pub fn write_jsonl(row: &Object, out: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, row)?;
    out.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests;
