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
