//! What a spool could not write when it was closed, told by its next start.
//!
//! The file is there from the start on: to write over it needs no room on a disk that has
//! none. On a disk that takes nothing at all, nothing can be kept.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use bytes::{Buf as _, BufMut as _};
use palisade_mesh::wire::record::{Record, SpoolEvent};
use prost::Message as _;

use crate::{
    buffer::{self, Chunk},
    files,
    segment::read_at_most,
};

/// File beside the boots.
const FILE: &str = "loss";

/// Three counts, two times, and a CRC.
const LEN: usize = 5 * 8 + 4;

/// Where it is noted.
#[derive(Debug)]
pub(super) struct Loss {
    file: Option<File>,
    /// What is noted there, until the log can have it.
    noted: Option<SpoolEvent>,
}

impl Loss {
    /// Has the file in `dir`.
    pub(super) fn open(dir: &Path) -> Self {
        let file = Self::file(dir)
            .inspect_err(|error| {
                tracing::warn!(%error, "what is lost at the end of this spool could not be noted");
            })
            .ok();
        let noted = file.as_ref().and_then(read);
        Self { file, noted }
    }

    /// What earlier starts noted and nobody has told.
    pub(super) fn noted(&self) -> Option<SpoolEvent> {
        self.noted.clone()
    }

    fn file(dir: &Path) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(files::FILE_MODE)
            .open(dir.join(FILE))?;
        if file.metadata()?.len() != LEN as u64 {
            file.set_len(0)?;
            file.write_all_at(&[0; LEN], 0)?;
            file.sync_all()?;
        }
        Ok(file)
    }

    /// Notes the records of `chunks`, which are lost, beside what was noted and could not be told.
    pub(super) fn note<'c>(&self, chunks: impl Iterator<Item = &'c Chunk>) -> io::Result<()> {
        let mut lost = self.noted().unwrap_or_else(|| SpoolEvent {
            from_us: i64::MAX,
            until_us: i64::MIN,
            ..SpoolEvent::default()
        });
        for record in chunks.flat_map(Chunk::records) {
            let Ok(record) = Record::decode(record) else {
                continue;
            };
            buffer::count(&mut lost, record.mode());
            lost.from_us = lost.from_us.min(record.time_us);
            lost.until_us = lost.until_us.max(record.time_us);
        }
        if !buffer::any(&lost) {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(LEN);
        bytes.put_u64_le(lost.strict);
        bytes.put_u64_le(lost.spool);
        bytes.put_u64_le(lost.best_effort);
        bytes.put_i64_le(lost.from_us);
        bytes.put_i64_le(lost.until_us);
        bytes.put_u32_le(crc32fast::hash(&bytes));
        self.write(&bytes)
    }

    /// What was noted is told.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.write(&[0; LEN])?;
        self.noted = None;
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Err(io::Error::other("there is no file for it"));
        };
        file.write_all_at(bytes, 0)?;
        file.sync_data()
    }
}

/// What a file says, if it says something.
fn read(file: &File) -> Option<SpoolEvent> {
    let mut bytes = [0; LEN];
    if read_at_most(file, &mut bytes, 0).ok()? < LEN {
        return None;
    }
    let (said, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(said) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut said = said;
    Some(SpoolEvent {
        verb: "dropped".into(),
        detail: "the disk took nothing when the process before this one ended".into(),
        strict: said.try_get_u64_le().ok()?,
        spool: said.try_get_u64_le().ok()?,
        best_effort: said.try_get_u64_le().ok()?,
        from_us: said.try_get_i64_le().ok()?,
        until_us: said.try_get_i64_le().ok()?,
    })
}
