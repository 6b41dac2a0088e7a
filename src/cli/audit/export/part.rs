//! A file that is not whole yet, and the note that says how far it is.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use palisade_audit::export::{self, Object, columns};
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Format, out};
use crate::render;

/// How far an export is. Kept beside the part with every page, and enough to go on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Note {
    /// The query.
    pub(super) query: String,
    format: String,
    /// Where the last page ended.
    pub(super) cursor: Option<String>,
    /// Whether there is no further page.
    pub(super) done: bool,
    /// How many records there should be; none where nobody counted.
    pub(super) expected: Option<u64>,
    /// Records in the part.
    pub(super) records: u64,
    /// Records that the format has no place for.
    pub(super) left_out: u64,
    /// Bytes of the part that belong to whole pages.
    bytes: u64,
    from: String,
    to: String,
    complete: bool,
    /// What its records lack, as the last answer says.
    #[serde(default)]
    lacks: Object,
    /// The columns of its head.
    #[serde(default)]
    columns: String,
}

impl Note {
    pub(super) fn new(query: &str, format: &str) -> Self {
        Self {
            query: query.to_owned(),
            format: format.to_owned(),
            cursor: None,
            done: false,
            expected: None,
            records: 0,
            left_out: 0,
            bytes: 0,
            from: String::new(),
            to: String::new(),
            complete: true,
            lacks: Object::new(),
            columns: columns_now(),
        }
    }

    /// Records that were looked at.
    pub(super) fn seen(&self) -> u64 {
        self.records + self.left_out
    }

    /// Takes over what a page says about itself and the next one.
    pub(super) fn turn(&mut self, page: &Value) {
        let text = |key: &str| page.get(key).and_then(Value::as_str).map(str::to_owned);
        self.cursor = text("cursor");
        self.done = self.cursor.is_none();
        self.from = text("from").unwrap_or_default();
        self.to = text("to").unwrap_or_default();
        self.complete &= page.get("complete") != Some(&Value::Bool(false));
        self.lacks = export::lacks(page);
    }
}

/// The part of a file that is being written.
pub(super) struct Part {
    file: File,
    to: PathBuf,
    note: Note,
    format: Format,
    overwrite: bool,
}

impl Part {
    /// Begins an export to `to`, or goes on with one.
    pub(super) fn open(
        to: &Path,
        query: &str,
        format: Format,
        resume: bool,
        overwrite: bool,
    ) -> Result<Self, Diagnostic> {
        let fresh = Note::new(query, format.name());
        if to.exists() && !overwrite {
            return Err(Diagnostic::error(
                7703,
                format!("there is a file `{}` already", to.display()),
            )
            .help("choose another name, or replace it: --overwrite"));
        }
        let (part, known) = (part_of(to), note_of(to));
        if resume && !part.exists() {
            return Err(Diagnostic::error(
                7705,
                format!("there is no `{}` to go on with", part.display()),
            )
            .help("leave --resume out to begin"));
        }
        if part.exists() && !resume && !overwrite {
            return Err(Diagnostic::error(
                7704,
                format!("an earlier export has left `{}`", part.display()),
            )
            .help("go on with it: --resume; or begin anew: --overwrite"));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&part).map_err(|e| failed(&part, &e))?;
        if file.try_lock().is_err() {
            return Err(Diagnostic::error(
                7704,
                format!("`{}` is being written by another export", part.display()),
            )
            .help("wait for it, or choose another name"));
        }
        // Another export may have given it its name, and it is whole then.
        if !is_named(&file, &part).map_err(|e| failed(&part, &e))? {
            return Err(Diagnostic::error(
                7704,
                format!("another export has finished `{}`", part.display()),
            )
            .help("choose another name, or replace what is there: --overwrite"));
        }
        let note = match resume {
            true => earlier(&known, &fresh, &file)?,
            false => fresh,
        };
        // What is left of an earlier export says nothing about one that begins.
        keep(&note, to)?;
        // What came after the last whole page is asked for again.
        file.set_len(note.bytes)
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .map_err(|e| failed(&part, &e))?;
        Ok(Self {
            file,
            to: to.to_owned(),
            note,
            format,
            overwrite,
        })
    }

    /// How far it is.
    pub(super) fn note(&self) -> &Note {
        &self.note
    }

    /// Adds a page, then notes that it is there.
    pub(super) fn add(&mut self, rows: &[Value], note: &mut Note) -> Result<(), Diagnostic> {
        let mut page = Vec::new();
        if note.bytes == 0 {
            out::head(self.format, &mut page)?;
        }
        out::rows(self.format, rows, &mut page, note)?;
        note.bytes += wide(page.len());
        let written = self.file.write_all(&page);
        let written = written.and_then(|()| self.file.sync_data());
        written.map_err(|e| failed(&part_of(&self.to), &e))?;
        keep(note, &self.to)
    }

    /// Gives the file its name, and says what is in it.
    pub(super) fn finish(mut self, note: &Note) -> Result<Value, Diagnostic> {
        let part = part_of(&self.to);
        let whole = match self.format {
            Format::Parquet => {
                let whole = with_ending(&self.to, ".part.parquet");
                out::parquet(&mut self.file, &whole, note)?;
                whole
            }
            Format::Csv | Format::Jsonl | Format::Ocsf => part.clone(),
        };
        let (bytes, sha256) = digest(&whole).map_err(|e| failed(&whole, &e))?;
        if self.to.exists() && !self.overwrite {
            return Err(Diagnostic::error(
                7703,
                format!("a file `{}` has come up meanwhile", self.to.display()),
            )
            .help("move it away and go on: --resume"));
        }
        fs::rename(&whole, &self.to).map_err(|e| failed(&self.to, &e))?;
        remove(&part)?;
        remove(&note_of(&self.to))?;
        Ok(json!({
            "file": self.to.display().to_string(),
            "format": note.format,
            "query": note.query,
            "records": note.records,
            "left_out": note.left_out,
            "bytes": bytes,
            "sha256": sha256,
            "from": note.from,
            "to": note.to,
            "complete": note.complete,
            "gaps": note.gaps(),
            "lacks": note.lacks,
        }))
    }
}

impl Note {
    fn gaps(&self) -> Value {
        let gaps = self.lacks.get("gaps");
        gaps.cloned().unwrap_or_else(|| json!([]))
    }

    /// What there is to say about it.
    pub(super) fn summary(&self) -> Value {
        json!({
            "format": self.format,
            "query": self.query,
            "records": self.records,
            "left_out": self.left_out,
            "from": self.from,
            "to": self.to,
            "complete": self.complete,
            "gaps": self.gaps(),
            "lacks": self.lacks,
        })
    }

    /// What a Parquet file says about itself.
    pub(super) fn facts(&self) -> [(&'static str, String); 7] {
        [
            ("palisade.query", self.query.clone()),
            ("palisade.from", self.from.clone()),
            ("palisade.to", self.to.clone()),
            ("palisade.records", self.records.to_string()),
            ("palisade.complete", self.complete.to_string()),
            ("palisade.gaps", self.gaps().to_string()),
            (
                "palisade.lacks",
                Value::Object(self.lacks.clone()).to_string(),
            ),
        ]
    }
}

/// Puts the note beside the part of `to`.
fn keep(note: &Note, to: &Path) -> Result<(), Diagnostic> {
    let (kept, new) = (note_of(to), with_ending(to, ".part.json.new"));
    let text = serde_json::to_vec(note).map_err(|e| failed(&kept, &e))?;
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &kept))
        .map_err(|e| failed(&kept, &e))
}

/// Whether `path` is the name of this file.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The note of an interrupted export, if it was of the same records in the same format, and
/// all that it says is in the part.
fn earlier(path: &Path, asked: &Note, part: &File) -> Result<Note, Diagnostic> {
    let len = part.metadata().map_err(|e| failed(path, &e))?.len();
    let text = match fs::read(path) {
        // It ended before it had noted anything.
        Err(error) if error.kind() == io::ErrorKind::NotFound && len == 0 => {
            return Ok(asked.clone());
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(
                Diagnostic::error(7705, "how far the interrupted export was is not known")
                    .cause(format!("there is no `{}`", path.display()))
                    .help("put it back, or begin anew: --overwrite"),
            );
        }
        text => text.map_err(|e| failed(path, &e))?,
    };
    let note: Note = serde_json::from_slice(&text).map_err(|e| failed(path, &e))?;
    if (&note.query, &note.format) != (&asked.query, &asked.format) {
        return Err(
            Diagnostic::error(7705, "the interrupted export was of something else")
                .cause(format!("it has `{}` as {}", note.query, note.format))
                .help("ask for the same, or begin anew: --overwrite"),
        );
    }
    if note.columns != asked.columns {
        return Err(
            Diagnostic::error(7705, "the interrupted export has other columns")
                .cause("another version of palisade began it")
                .help("begin anew: --overwrite"),
        );
    }
    if len < note.bytes {
        return Err(
            Diagnostic::error(7705, "the part of the interrupted export was cut")
                .cause(format!("it has {len} bytes, and had {}", note.bytes))
                .help("begin anew: --overwrite"),
        );
    }
    Ok(note)
}

/// The columns that a file which is begun now has, in their order.
fn columns_now() -> String {
    let names = columns().map(|column| column.name);
    names.collect::<Vec<_>>().join(",")
}

fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((bytes, render::hex(context.finish().as_ref())));
        }
        context.update(buffer.get(..n).unwrap_or_default());
        bytes += wide(n);
    }
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<(), Diagnostic> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, &error)),
        _ => Ok(()),
    }
}

fn part_of(to: &Path) -> PathBuf {
    with_ending(to, ".part")
}

fn note_of(to: &Path) -> PathBuf {
    with_ending(to, ".part.json")
}

fn with_ending(to: &Path, ending: &str) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

pub(super) fn failed(path: &Path, why: &impl std::fmt::Display) -> Diagnostic {
    Diagnostic::error(
        7706,
        format!("`{}` cannot be written or read", path.display()),
    )
    .cause(why.to_string())
    .help("check the folder, its rights and the room on the disk; then go on: --resume")
}

/// What is told of an export to a file that its user ended.
pub(super) fn interrupted(note: &Note) -> Diagnostic {
    let seen = render::count(note.seen(), "record is", "records are");
    Diagnostic::error(7707, "the export was interrupted")
        .cause(format!("{seen} in the `.part` file"))
        .help("go on with the same command and --resume")
}

/// The same of what went to a program or a receiver.
pub(super) fn cut_short(note: &Note) -> Diagnostic {
    let seen = render::count(note.seen(), "record was", "records were");
    Diagnostic::error(7707, "the export was interrupted")
        .cause(format!("{seen} given out"))
        .help("it begins anew; to go on with it later, export to a file: --to FILE")
}

pub(super) fn reader_gone() -> Diagnostic {
    Diagnostic::error(7707, "the export was interrupted")
        .cause("nobody reads its output any more")
        .help("export to a file: --to FILE")
}

#[cfg(test)]
mod tests;
