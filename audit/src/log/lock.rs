//! One writer per log directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use super::LogError;
use crate::files;

/// Times the lock is asked for before giving up: a verifier holds it for an
/// instant, and a process that was just killed may still be going away.
const TRIES: u32 = 20;

/// Time between tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Takes the lock; it is let go when the file is closed, at the latest by the kernel.
pub(super) fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(files::FILE_MODE)
        .open(&path)
        .map_err(LogError::io(&path))?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(e)) => return Err(LogError::io(&path)(e)),
        }
    }
    Err(LogError::Locked(dir.into()))
}

/// Whether some process writes the log in `dir` now.
pub(crate) fn is_live(dir: &Path) -> bool {
    File::open(dir.join("lock"))
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}
