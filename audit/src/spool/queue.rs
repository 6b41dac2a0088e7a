//! What waits on disk, oldest first, and what of it the log has.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_mesh::spiffe_id::SpiffeId;
use rustc_hash::FxHashMap;
use ulid::Ulid;

use super::{
    file::{self, Survey},
    frame,
    marker::{Marker, Markers},
    refusal,
};
use crate::buffer::Chunk;

/// What the name of a file that cannot be read through ends in, once the log has the rest
/// of it.
const DAMAGED: &str = "damaged";

/// Such files that are kept: a disk that garbles every file is not to be filled with them. With one
/// more, the oldest goes.
pub(super) const DAMAGED_MAX: usize = 16;

/// Files and acknowledged positions.
#[derive(Debug, Default)]
pub(super) struct Queue {
    files: VecDeque<SpoolFile>,
    /// Of this start, and of those whose files it found, for as long as it runs: what was
    /// delivered is known when the files are gone.
    streams: FxHashMap<(Ulid, u32), Position>,
    next_id: u64,
}

/// One spool file.
#[derive(Debug)]
struct SpoolFile {
    /// Ascending along the queue, never used again.
    id: u64,
    path: PathBuf,
    /// Held open as long as this boot's files are not delivered: a name can be
    /// removed, what is open stays readable.
    file: Option<Arc<File>>,
    boot: Ulid,
    /// Bytes it is counted with.
    bytes: u64,
    start: u64,
    /// What its chunks begin with; nothing in a file of an earlier version.
    marker: Option<Marker>,
    /// End of the last durable chunk.
    end: u64,
    /// Nothing more is written to it.
    sealed: bool,
    /// Last sequence number per worker.
    last: FxHashMap<u32, u64>,
    /// Not all of it can be read: it is evidence, and stays.
    damaged: bool,
}

/// How far a stream is, as record numbers.
#[derive(Debug, Default, Clone, Copy)]
struct Position {
    before_first: u64,
    durable: u64,
    checkpointed: u64,
}

/// Where the uplink reads next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cursor {
    pub(super) id: u64,
    pub(super) offset: u64,
}

/// Where there is something to read.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) cursor: Cursor,
    pub(super) path: PathBuf,
    pub(super) file: Option<Arc<File>>,
    pub(super) boot: Ulid,
    pub(super) marker: Option<Marker>,
    /// End of the last durable chunk.
    pub(super) end: u64,
}

/// The chunks of a file.
#[derive(Debug)]
pub(super) struct Extent {
    /// Where they start, and where the last durable one ends.
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) marker: Option<Marker>,
}

/// A file that is held open.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) id: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    /// End of the last durable chunk.
    pub(super) end: u64,
}

/// What earlier boots left.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) queue: Queue,
    /// Bytes on disk that count.
    pub(super) bytes: u64,
    /// What is said of each file that cannot be read through.
    pub(super) damaged: Vec<String>,
    /// Files that were set aside as such before.
    pub(super) damaged_before: u64,
    /// Records that were set aside because the log refused them.
    pub(super) refused_before: u64,
}

impl Left {
    /// Finds it.
    pub(super) fn load(dir: &Path, reporter: &SpiffeId, markers: &Markers) -> io::Result<Self> {
        let mut left = Self::default();
        let mut boots: Vec<Ulid> = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let boot = name.to_str().and_then(|name| name.parse::<Ulid>().ok());
            // Somebody's file may be called as a boot is.
            boots.extend(boot.filter(|_| entry.path().is_dir()));
        }
        boots.sort_unstable();
        for boot in boots {
            let dir = dir.join(boot.to_string());
            let mut paths = Vec::new();
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                if path.extension().is_some_and(|e| e == "spool") {
                    paths.push(path);
                } else if path.extension().is_some_and(|e| e == DAMAGED) {
                    left.damaged_before += 1;
                } else if path.extension().is_some_and(|e| e == refusal::EXTENSION) {
                    left.refused_before += 1;
                }
            }
            paths.sort();
            let last = paths.last().cloned();
            for path in paths {
                let is_last = last.as_ref() == Some(&path);
                left.load_file(path, boot, reporter, markers, is_last)?;
            }
            // Goes when it is empty.
            let _ = fs::remove_dir(dir);
        }
        let freed = left.queue.free();
        left.bytes = left.bytes.saturating_sub(freed);
        Ok(left)
    }

    /// Adds a file of an earlier boot. What is not ours to send is not counted against our
    /// limit.
    fn load_file(
        &mut self,
        path: PathBuf,
        boot: Ulid,
        reporter: &SpiffeId,
        markers: &Markers,
        is_last: bool,
    ) -> io::Result<()> {
        let file = File::open(&path)?;
        let len = file.metadata()?.len();
        let header = file::read_header(&file)?;
        let (start, marker) = match &header {
            Some(head) if head.stream.reporter == *reporter && head.stream.boot == boot => {
                (head.start, head.marker)
            }
            Some(head) => {
                tracing::error!(file = %path.display(), reporter = %head.stream.reporter, "spool file is of somebody else; it is left as it is");
                return Ok(());
            }
            None => {
                let number = file::number(&path).unwrap_or_default();
                let marker = markers.of(boot, number);
                // Its chunks say whether it has markers.
                match frame::find(&file, 0, len, &marker)? {
                    Some(_) => (
                        file::header(reporter, boot, &marker).len() as u64,
                        Some(marker),
                    ),
                    None => (file::unmarked_header_len(reporter, boot), None),
                }
            }
        };
        let mut survey = Survey::new(&file, start, u64::MAX, marker.as_ref())?;
        if header.is_none() {
            // Its records say whose it is, too.
            if survey.reporter.as_deref() != Some(reporter.as_str()) {
                self.damaged.push(format!(
                    "`{}` cannot be read: whose it is is damaged; it is left as it is",
                    name(&path)
                ));
                return Ok(());
            }
            survey.lose(start);
        }
        if survey.torn > 0 && is_last {
            // The process was killed while it wrote: nobody was told it is durable.
            tracing::warn!(offset = survey.end, bytes = survey.torn, %boot, "spool file ends in half a write");
        } else if survey.torn > 0 {
            // Others were begun after it, so all of it had been written.
            survey.lose(survey.torn);
        }
        if survey.damaged > 0 {
            self.damaged.push(told(&path, &survey));
        }
        let id = self.queue.push(path, None, boot, start, marker);
        self.queue.add(id, len, &survey);
        self.bytes += len;
        Ok(())
    }
}

/// The name of a file, with that of its boot.
fn name(path: &Path) -> String {
    let parts: Vec<_> = path.iter().rev().take(2).collect();
    let parts = parts.iter().rev().map(|part| part.to_string_lossy());
    parts.collect::<Vec<_>>().join("/")
}

/// What is said of a file that cannot be read through.
fn told(path: &Path, survey: &Survey) -> String {
    let (parts, bytes) = (survey.damaged, survey.damaged_bytes);
    let name = name(path);
    format!(
        "`{name}` is damaged: {parts} of its parts, {bytes} bytes, cannot be read; the others are sent, and the file is kept as `{name}.{DAMAGED}`"
    )
}

impl Queue {
    /// Notes what a file has that nobody writes to any more.
    fn add(&mut self, id: u64, len: u64, survey: &Survey) {
        let Some(file) = self.files.back_mut().filter(|file| file.id == id) else {
            return;
        };
        file.last = survey.last();
        file.end = survey.end;
        file.bytes = len;
        file.sealed = true;
        file.damaged = survey.damaged > 0;
        let boot = file.boot;
        for (worker, (first, last)) in &survey.numbers {
            self.number(boot, *worker, *first, *last);
        }
    }

    /// Notes that a file cannot be read through, as a look up to `end` found; `None` when it
    /// is not as it was looked at.
    pub(super) fn damaged(&mut self, id: u64, end: u64, survey: &Survey) -> Option<String> {
        let mut files = self.files.iter_mut();
        let file = files.find(|file| file.id == id && file.end == end && !file.damaged)?;
        file.damaged = true;
        let before = std::mem::replace(&mut file.last, survey.last());
        let (boot, told) = (file.boot, told(&file.path, survey));
        for worker in before.into_keys() {
            self.recount(boot, worker);
        }
        Some(told)
    }

    /// Waits no longer for what nobody can send.
    fn recount(&mut self, boot: Ulid, worker: u32) {
        let files = self.files.iter().filter(|file| file.boot == boot);
        let readable = files.filter_map(|file| file.last.get(&worker)).max();
        if let Some(position) = self.streams.get_mut(&(boot, worker)) {
            let least = position.checkpointed.max(position.before_first);
            position.durable = readable.map_or(least, |last| least.max(*last));
        }
    }

    /// Adds a file whose chunks start at `start`; gives its id.
    pub(super) fn push(
        &mut self,
        path: PathBuf,
        file: Option<Arc<File>>,
        boot: Ulid,
        start: u64,
        marker: Option<Marker>,
    ) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.files.push_back(SpoolFile {
            id,
            path,
            file,
            boot,
            bytes: start,
            start,
            marker,
            end: start,
            sealed: false,
            last: FxHashMap::default(),
            damaged: false,
        });
        id
    }

    /// Notes a durable chunk that ends at `end`.
    pub(super) fn written(&mut self, id: u64, chunk: &Chunk, end: u64) {
        let Some(file) = self.files.iter_mut().rev().find(|file| file.id == id) else {
            return;
        };
        file.end = end;
        file.bytes = file.bytes.max(end);
        let last = file.last.entry(chunk.worker).or_default();
        *last = (*last).max(chunk.last_sequence());
        let boot = file.boot;
        let (first, last) = (chunk.first_sequence, chunk.last_sequence());
        self.number(boot, chunk.worker, first, last);
    }

    /// Notes durable records of a stream.
    fn number(&mut self, boot: Ulid, worker: u32, first: u64, last: u64) {
        let stream = self.streams.entry((boot, worker));
        let position = stream.or_insert_with(|| Position {
            before_first: first - 1,
            ..Position::default()
        });
        position.durable = position.durable.max(last);
    }

    /// How far each stream is on disk.
    pub(super) fn reached(&self) -> Vec<(Ulid, u32, u64)> {
        let streams = self.streams.iter();
        streams
            .map(|((boot, worker), position)| (*boot, *worker, position.durable))
            .collect()
    }

    /// Notes that a file grows no more.
    pub(super) fn seal(&mut self, id: u64) {
        if let Some(file) = self.files.iter_mut().rev().find(|file| file.id == id) {
            file.sealed = true;
        }
    }

    /// Notes what the log has under a checkpoint; false when that is nothing new.
    pub(super) fn checkpointed(&mut self, boot: Ulid, worker: u32, sequence: u64) -> bool {
        let Some(position) = self.streams.get_mut(&(boot, worker)) else {
            return false;
        };
        let sequence = sequence.min(position.durable);
        let new = sequence > position.checkpointed;
        position.checkpointed = position.checkpointed.max(sequence);
        new
    }

    /// Number up to which the log has a stream under a checkpoint.
    pub(super) fn done(&self, boot: Ulid, worker: u32) -> u64 {
        let position = self.streams.get(&(boot, worker));
        position.map_or(0, |position| position.checkpointed)
    }

    /// Removes the files that the log has wholly, and sets those aside that cannot be read
    /// through; gives the bytes that are free.
    pub(super) fn free(&mut self) -> u64 {
        let (mut bytes, mut set_aside) = (0, None);
        let streams = &self.streams;
        self.files.retain(|file| {
            let done = |(worker, last): (&u32, &u64)| {
                streams
                    .get(&(file.boot, *worker))
                    .is_some_and(|position| position.checkpointed >= *last)
            };
            if !file.sealed || !file.last.iter().all(done) {
                return true;
            }
            let gone = match file.damaged {
                true => fs::rename(&file.path, aside(&file.path)),
                false => fs::remove_file(&file.path),
            };
            // Somebody else may have removed it.
            if let Err(e) = gone
                && e.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(file = %file.path.display(), error = %e, "delivered spool file cannot be removed");
                return true;
            }
            if let Some(dir) = file.path.parent() {
                if file.damaged {
                    set_aside = dir.parent().map(Path::to_path_buf);
                }
                // Goes with the last file of its boot.
                let _ = fs::remove_dir(dir);
            }
            bytes += file.bytes;
            false
        });
        if let Some(dir) = set_aside
            && let Err(error) = prune(&dir)
        {
            tracing::warn!(%error, "damaged spool files cannot be looked through");
        }
        bytes
    }

    /// The files that are held open.
    pub(super) fn held(&self) -> Vec<Held> {
        let held = self.files.iter().filter_map(|file| {
            Some(Held {
                id: file.id,
                path: file.path.clone(),
                file: file.file.clone()?,
                end: file.end,
            })
        });
        held.collect()
    }

    /// Notes that a file was written anew.
    pub(super) fn restored(&mut self, id: u64, anew: Arc<File>) {
        if let Some(file) = self.files.iter_mut().find(|file| file.id == id) {
            file.file = Some(anew);
        }
    }

    /// Records on disk that the log does not have under a checkpoint.
    pub(super) fn waiting(&self) -> u64 {
        self.streams
            .values()
            .map(|position| {
                let done = position.checkpointed.max(position.before_first);
                position.durable.saturating_sub(done)
            })
            .sum()
    }

    /// Where to read next at or after `cursor`.
    pub(super) fn place(&self, cursor: Cursor) -> Option<Place> {
        self.files
            .iter()
            .filter(|file| file.id >= cursor.id)
            .map(|file| {
                let offset = match file.id == cursor.id {
                    true => cursor.offset.max(file.start),
                    false => file.start,
                };
                (file, offset)
            })
            .find(|(file, offset)| *offset < file.end)
            .map(|(file, offset)| Place {
                cursor: Cursor {
                    id: file.id,
                    offset,
                },
                path: file.path.clone(),
                file: file.file.clone(),
                boot: file.boot,
                marker: file.marker,
                end: file.end,
            })
    }

    /// Where the chunks of a file are; `None` where it is gone, or is known to be damaged.
    pub(super) fn extent(&self, id: u64) -> Option<Extent> {
        let mut files = self.files.iter();
        let file = files.find(|file| file.id == id && !file.damaged)?;
        Some(Extent {
            start: file.start,
            end: file.end,
            marker: file.marker,
        })
    }

    /// Whether something of a file cannot be read.
    pub(super) fn is_damaged(&self, id: u64) -> bool {
        let file = self.files.iter().rfind(|file| file.id == id);
        file.is_some_and(|file| file.damaged)
    }
}

/// Removes the oldest of the damaged files that are kept in the spool `dir`.
fn prune(dir: &Path) -> io::Result<()> {
    let mut kept = Vec::new();
    for boot in fs::read_dir(dir)? {
        let boot = boot?.path();
        if !boot.is_dir() {
            continue;
        }
        for file in fs::read_dir(boot)? {
            let path = file?.path();
            if path.extension().is_some_and(|e| e == DAMAGED) {
                kept.push(path);
            }
        }
    }
    // Boots and numbers are ascending.
    kept.sort_unstable();
    let more = kept.len().saturating_sub(DAMAGED_MAX);
    for path in kept.into_iter().take(more) {
        tracing::warn!(file = %path.display(), "damaged spool file is removed: newer ones are kept");
        fs::remove_file(&path)?;
        if let Some(boot) = path.parent() {
            // Goes with its last file.
            let _ = fs::remove_dir(boot);
        }
    }
    Ok(())
}

/// The name under which a damaged file is kept.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(DAMAGED);
    name.into()
}
