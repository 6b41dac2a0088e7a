//! Rows as the bytes of a format.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufRead, BufReader, ErrorKind, IsTerminal as _, Seek, SeekFrom, Write},
    path::Path,
};

use palisade_audit::export::{self, Object, ParquetFile};
use palisade_mesh::diagnostic::Diagnostic;
use serde_json::Value;

use super::{
    Format,
    part::{Note, failed, reader_gone},
};
use crate::render::snippet::{clean, inert};

/// Standard output.
pub(super) struct Sink {
    format: Format,
}

impl Sink {
    /// Begins with the head of the format.
    pub(super) fn stdout(format: Format) -> Result<Self, Diagnostic> {
        let mut bytes = Vec::new();
        head(format, &mut bytes)?;
        print(format, &bytes)?;
        Ok(Self { format })
    }

    pub(super) fn rows(&mut self, page: &[Value], note: &mut Note) -> Result<(), Diagnostic> {
        let mut bytes = Vec::new();
        rows(self.format, page, &mut bytes, note)?;
        print(self.format, &bytes)
    }
}

fn print(format: Format, bytes: &[u8]) -> Result<(), Diagnostic> {
    let mut stdout = std::io::stdout().lock();
    let bytes = match stdout.is_terminal() {
        true => Cow::Owned(on_screen(format, bytes)),
        false => Cow::Borrowed(bytes),
    };
    let written = stdout.write_all(&bytes).and_then(|()| stdout.flush());
    written.map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => reader_gone(),
        _ => failed(Path::new("-"), &e),
    })
}

/// Lines as a terminal may get them: callers choose what is in records, and nothing of that
/// moves the cursor or turns the text around; JSON has it escaped. Files and programs get the bytes.
fn on_screen(format: Format, bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    if matches!(format, Format::Jsonl | Format::Ocsf) {
        return inert(&text).into_owned().into_bytes();
    }
    let lines = text
        .split('\n')
        .map(|line| clean(line.trim_end_matches('\r')));
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}

/// What stands before all rows.
pub(super) fn head(format: Format, bytes: &mut Vec<u8>) -> Result<(), Diagnostic> {
    match format {
        Format::Csv => export::write_csv_head(bytes).map_err(|e| broken(&e)),
        Format::Jsonl | Format::Ocsf | Format::Parquet => Ok(()),
    }
}

/// Appends a page. Rows for Parquet are lines of JSON until all are there.
pub(super) fn rows(
    format: Format,
    page: &[Value],
    bytes: &mut Vec<u8>,
    note: &mut Note,
) -> Result<(), Diagnostic> {
    for row in page.iter().filter_map(Value::as_object) {
        match format {
            Format::Csv => export::write_csv(row, bytes).map_err(|e| broken(&e))?,
            Format::Jsonl | Format::Parquet => {
                export::write_jsonl(row, bytes).map_err(|e| broken(&e))?;
            }
            Format::Ocsf => {
                let Some(event) = export::ocsf_event(row) else {
                    note.left_out += 1;
                    continue;
                };
                serde_json::to_writer(&mut *bytes, &event).map_err(|e| broken(&e))?;
                bytes.push(b'\n');
            }
        }
        note.records += 1;
    }
    Ok(())
}

/// Makes a Parquet file of the lines of `part`.
pub(super) fn parquet(part: &mut File, whole: &Path, note: &Note) -> Result<(), Diagnostic> {
    part.seek(SeekFrom::Start(0))
        .map_err(|e| failed(whole, &e))?;
    let out = File::create(whole).map_err(|e| failed(whole, &e))?;
    let mut file = ParquetFile::new(out).map_err(|e| failed(whole, &e))?;
    for line in BufReader::new(part).lines() {
        let line = line.map_err(|e| failed(whole, &e))?;
        let row: Object = serde_json::from_str(&line).map_err(|e| failed(whole, &e))?;
        file.row(&row).map_err(|e| failed(whole, &e))?;
    }
    let out = file.finish(&note.facts()).map_err(|e| failed(whole, &e))?;
    out.sync_all().map_err(|e| failed(whole, &e))
}

fn broken(why: &impl std::fmt::Display) -> Diagnostic {
    failed(Path::new("the export"), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_nothing_that_moves_it() {
        let shown = |format, rows: &str| String::from_utf8(on_screen(format, rows.as_bytes()));
        let rows = "id,path\r\n1,/a\u{9b}2J\u{202e}b\u{1b}[1m\t\r\n";
        let cleaned = "id,path\n1,/a\u{fffd}2J\u{fffd}b\u{fffd}[1m \n";
        assert_eq!(shown(Format::Csv, rows).as_deref(), Ok(cleaned));
        // The text in JSON stays what it is.
        let row = "{\"path\":\"/a\u{9b}2J\u{202e}b\"}\n";
        let escaped = "{\"path\":\"/a\\u009b2J\\u202eb\"}\n";
        assert_eq!(shown(Format::Jsonl, row).as_deref(), Ok(escaped));
    }
}
