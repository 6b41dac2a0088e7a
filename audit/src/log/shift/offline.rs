//! What is done to the folder of a log that nobody writes: its segments come back, or it is made
//! the one that counts among its copies.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use palisade_mesh::clock::Clock;

use super::{is_away, place};
use crate::{
    archive::Archive,
    log::{Log, LogError, LogOptions, lock, recover::whose},
    segment::{self, Stub},
};

/// Brings all segments back of the log in `dir` that nobody writes, compared with what stays
/// of them; the next start compares them with the tree. Gives their bytes, each.
///
/// # Errors
/// [`LogError`]; what is there by then stays.
pub fn restore_all(dir: &Path, archive: &Archive) -> Result<Vec<u64>, LogError> {
    let _lock = alone(dir)?;
    let mut stubs = Vec::new();
    for first in segment::list(dir).map_err(LogError::io(dir))? {
        if is_away(dir, first) {
            let stub = Stub::read(dir, first);
            stubs.push(stub.map_err(LogError::io(Stub::path(dir, first)))?);
        }
    }
    let room = archive.has_room(dir, &stubs);
    room.map_err(|away| LogError::Away(Box::new(away)))?;
    are_signed(dir, &stubs)?;
    let mut all = Vec::new();
    for stub in stubs {
        let since_us = jiff::Timestamp::now().as_microsecond();
        let placed = place(dir, archive, &stub, since_us, &mut |_| Ok(()));
        placed.map_err(LogError::io(Stub::path(dir, stub.moved.first)))?;
        all.push(stub.moved.length);
    }
    Ok(all)
}

/// Makes sure that what stays of segments is what the log says, as far as the log can be asked:
/// where its tiles are lost, the next start compares all with the root that was signed.
fn are_signed(dir: &Path, stubs: &[Stub]) -> Result<(), LogError> {
    let options = LogOptions {
        read_only: true,
        ..LogOptions::new(whose(dir)?)
    };
    let log = Log::open(dir, options, Clock::system())?;
    for stub in stubs {
        match log.stub(stub.moved.first) {
            Err(LogError::Io { .. }) => break,
            asked => asked.map(drop)?,
        }
    }
    Ok(())
}

/// Locks the log in `dir`, which nobody writes, for a user whose files its service can read.
fn alone(dir: &Path) -> Result<File, LogError> {
    let owner = fs::metadata(dir).map_err(LogError::io(dir))?.uid();
    if owner != nix::unistd::geteuid().as_raw() {
        let dir = dir.to_owned();
        return Err(LogError::Owner { dir, owner });
    }
    lock::lock(dir)
}

/// Makes the folder `dir` of a log that nobody writes the one that counts among its copies, for
/// the `archive`; no other puts or deletes anything there after.
///
/// # Errors
/// [`LogError`] when the archive is not the log's, or cannot be asked.
pub fn adopt(dir: &Path, archive: &Archive) -> Result<(), LogError> {
    let _lock = alone(dir)?;
    let failed = LogError::io(dir);
    let mut away = segment::list(dir).map_err(LogError::io(dir))?;
    away.retain(|first| is_away(dir, *first));
    let Some(first) = away.first() else {
        let what = "no segment of this log is in an archive: there is nothing to adopt";
        return Err(failed(io::Error::other(what)));
    };
    let stub = Stub::read(dir, *first).map_err(LogError::io(Stub::path(dir, *first)))?;
    archive
        .adopt(&stub)
        .map_err(|away| LogError::Away(Box::new(away)))
}
