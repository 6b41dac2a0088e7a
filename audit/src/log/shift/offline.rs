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
    archive::{Archive, log_name},
    checkpoint,
    log::{
        Log, LogError, LogOptions, lock,
        recover::{load_public_key, log_id, whose},
    },
    merkle::Tiles,
    segment::{self, Stub},
};

/// What came back to a folder.
#[derive(Debug, Default)]
pub struct Restored {
    /// Bytes of each segment that came.
    pub bytes: Vec<u64>,
    /// Why others did not.
    pub refused: Vec<LogError>,
}

/// Brings all segments back of the log in `dir` that nobody writes, compared with what stays
/// of them; the next start compares them with the tree. One of which what stays is damaged, or
/// is not what the log says, or whose object is lost, keeps no other from coming.
///
/// # Errors
/// [`LogError`] when nothing can come: the folder is in use or another user's, its disk has no
/// room for all, or the archive cannot be used; what is there by then stays.
pub fn restore_all(dir: &Path, archive: &Archive) -> Result<Restored, LogError> {
    let _lock = alone(dir)?;
    let mut restored = Restored::default();
    let mut stubs = Vec::new();
    for first in segment::list(dir).map_err(LogError::io(dir))? {
        if is_away(dir, first) {
            let stub = Stub::read(dir, first).map_err(LogError::io(Stub::path(dir, first)));
            stubs.extend(stub.map_err(|e| restored.refused.push(e)).ok());
        }
    }
    let stubs = signed(dir, stubs, &mut restored.refused)?;
    let room = archive.has_room(dir, &stubs);
    room.map_err(|away| LogError::Away(Box::new(away)))?;
    for stub in stubs {
        let since_us = jiff::Timestamp::now().as_microsecond();
        let placed = place(dir, archive, (&stub, None), since_us, &mut |_| Ok(()));
        match placed.map_err(LogError::io(Stub::path(dir, stub.moved.first))) {
            Ok(()) => restored.bytes.push(stub.moved.length),
            Err(LogError::Away(away)) if away.why.is_damage() => {
                restored.refused.push(LogError::Away(away));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(restored)
}

/// Of these the ones that are what the log says, as far as the log can be asked: where its
/// tiles are lost, or are not those of the root that was signed, the next start compares all
/// with that; and where what stays of another segment is damaged, each verification does.
fn signed(
    dir: &Path,
    stubs: Vec<Stub>,
    refused: &mut Vec<LogError>,
) -> Result<Vec<Stub>, LogError> {
    let options = LogOptions {
        read_only: true,
        ..LogOptions::new(whose(dir)?)
    };
    let log = Log::open(dir, options, Clock::system())?;
    let signed = log.checkpoint();
    let tree = Tiles::new(dir).tree(signed.size);
    if !tree.is_ok_and(|tree| tree.root() == signed.root) {
        return Ok(stubs);
    }
    let mut told = Vec::new();
    for stub in stubs {
        match log.stub(stub.moved.first) {
            Ok(_) | Err(LogError::Io { .. }) => told.push(stub),
            // What stays of another keeps the log from being asked about this one.
            Err(LogError::Tampered(damage)) if damage.leaf != stub.moved.first => told.push(stub),
            Err(error) => refused.push(error),
        }
    }
    Ok(told)
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
/// the `archive`; no other puts or deletes anything there after. Whether a segment is there now
/// makes no difference: what came back has its object there still.
///
/// # Errors
/// [`LogError`] when the archive is not the log's, or cannot be asked.
pub fn adopt(dir: &Path, archive: &Archive) -> Result<(), LogError> {
    let _lock = alone(dir)?;
    let key = load_public_key(dir)?;
    let domain = checkpoint::domain(key.name()).unwrap_or_default();
    let adopted = archive.adopt(&log_name(domain, &log_id(&key)));
    adopted.map_err(|(why, cause)| LogError::io(dir)(io::Error::other(format!("{why}: {cause}"))))
}
