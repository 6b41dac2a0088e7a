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

use super::file;
use crate::buffer::Chunk;

/// Files and acknowledged positions.
#[derive(Debug, Default)]
pub(super) struct Queue {
    files: VecDeque<SpoolFile>,
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
    /// End of the last durable chunk.
    end: u64,
    /// Nothing more is written to it.
    sealed: bool,
    /// Last sequence number per worker.
    last: FxHashMap<u32, u64>,
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

impl Queue {
    /// Finds what earlier boots left; gives the bytes it holds on disk.
    pub(super) fn load(dir: &Path, reporter: &SpiffeId) -> io::Result<(Self, u64)> {
        let mut queue = Self::default();
        let mut bytes = 0;
        let mut boots: Vec<Ulid> = Vec::new();
        for entry in fs::read_dir(dir)? {
            boots.extend(
                entry?
                    .file_name()
                    .to_str()
                    .and_then(|n| n.parse::<Ulid>().ok()),
            );
        }
        boots.sort_unstable();
        for boot in boots {
            let dir = dir.join(boot.to_string());
            let mut paths = Vec::new();
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                if path.extension().is_some_and(|e| e == "spool") {
                    paths.push(path);
                }
            }
            paths.sort();
            for path in paths {
                // What is not ours to send is not counted against our limit.
                bytes += queue.load_file(path, boot, reporter)?;
            }
            // Goes when it is empty.
            let _ = fs::remove_dir(dir);
        }
        Ok((queue, bytes))
    }

    /// Adds a file of an earlier boot; gives the bytes it counts with.
    fn load_file(&mut self, path: PathBuf, boot: Ulid, reporter: &SpiffeId) -> io::Result<u64> {
        let file = File::open(&path)?;
        let len = file.metadata()?.len();
        let (key, start) = match file::read_header(&file)? {
            Some(header) => header,
            None => {
                tracing::error!(file = %path.display(), "spool file cannot be read; it is left as it is");
                return Ok(0);
            }
        };
        if key.reporter != *reporter || key.boot != boot {
            tracing::error!(file = %path.display(), reporter = %key.reporter, "spool file is of somebody else; it is left as it is");
            return Ok(0);
        }
        let id = self.push(path, None, boot, start);
        let mut end = start;
        while let Some((chunk, next)) = file::read_chunk(&file, end)? {
            self.written(id, &chunk, next);
            end = next;
        }
        if end < len {
            // The process was killed while it wrote: nobody was told it is durable.
            tracing::warn!(offset = end, bytes = len - end, %boot, "spool file ends in half a write");
        }
        self.seal(id);
        if let Some(file) = self.files.back_mut() {
            file.bytes = len;
        }
        Ok(len)
    }

    /// Adds a file whose chunks start at `start`; gives its id.
    pub(super) fn push(
        &mut self,
        path: PathBuf,
        file: Option<Arc<File>>,
        boot: Ulid,
        start: u64,
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
            end: start,
            sealed: false,
            last: FxHashMap::default(),
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
        let position = self
            .streams
            .entry((file.boot, chunk.worker))
            .or_insert_with(|| Position {
                before_first: chunk.first_sequence - 1,
                ..Position::default()
            });
        position.durable = position.durable.max(chunk.last_sequence());
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

    /// Whether the log has a record under a checkpoint.
    pub(super) fn is_checkpointed(&self, boot: Ulid, worker: u32, sequence: u64) -> bool {
        self.streams
            .get(&(boot, worker))
            .is_some_and(|position| position.checkpointed >= sequence)
    }

    /// Removes the files that the log has wholly; gives the bytes that are free.
    pub(super) fn free(&mut self) -> u64 {
        let mut bytes = 0;
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
            // Somebody else may have removed it.
            if let Err(e) = fs::remove_file(&file.path)
                && e.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(file = %file.path.display(), error = %e, "delivered spool file cannot be removed");
                return true;
            }
            if let Some(dir) = file.path.parent() {
                // Goes with the last file of its boot.
                let _ = fs::remove_dir(dir);
            }
            bytes += file.bytes;
            false
        });
        let files = &self.files;
        self.streams.retain(|(boot, _), position| {
            position.checkpointed < position.durable || files.iter().any(|file| file.boot == *boot)
        });
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
            })
    }
}
