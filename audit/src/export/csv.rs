//! CSV (RFC 4180) that is safe to open in a spreadsheet.
//!
//! A cell that begins with `=`, `+`, `-`, `@`, a tab or a line break is a formula to a
//! spreadsheet, and callers choose their paths and hosts; such a cell gets a `'` before it.
//! Where lists are separated by `;`, as in much of Europe, so is a file of commas, whatever is
//! quoted in it: what follows a `;` is treated as a beginning, too.

use std::borrow::Cow;

use csv::{Terminator, WriterBuilder};
use serde_json::Value;

use super::{Object, columns};

/// How formulas begin; some programs take the wide forms of East Asia, too.
const FORMULA: [char; 11] = [
    '=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}',
];

/// Between the texts of a cell that has several.
const BETWEEN: &str = "; ";

/// Appends the names of the columns.
///
/// # Errors
/// When `out` does not take it.
pub fn write_csv_head(out: &mut Vec<u8>) -> csv::Result<()> {
    record(out, columns().map(|column| column.name.as_bytes().to_vec()))
}

/// Appends a row.
///
/// # Errors
/// When `out` does not take it.
pub fn write_csv(row: &Object, out: &mut Vec<u8>) -> csv::Result<()> {
    let cells = columns().map(|column| {
        let text = row.get(column.name).map(cell).unwrap_or_default();
        neutral(&text).into_owned().into_bytes()
    });
    record(out, cells)
}

/// `text` so that a spreadsheet takes it for a text.
pub fn neutral(text: &str) -> Cow<'_, str> {
    let parts = || text.split(';');
    if !parts().any(is_formula) {
        return text.into();
    }
    let quoted = parts().map(|part| match is_formula(part) {
        true => format!("'{part}"),
        false => part.to_owned(),
    });
    quoted.collect::<Vec<_>>().join(";").into()
}

/// Whether a spreadsheet takes a text for a formula.
fn is_formula(text: &str) -> bool {
    text.trim_start_matches(' ').starts_with(FORMULA)
}

fn record(out: &mut Vec<u8>, cells: impl Iterator<Item = Vec<u8>>) -> csv::Result<()> {
    let mut writer = WriterBuilder::new()
        .terminator(Terminator::CRLF)
        .from_writer(out);
    writer.write_record(cells)?;
    writer.flush()?;
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let texts: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            texts.join(BETWEEN)
        }
        other => other.to_string(),
    }
}
