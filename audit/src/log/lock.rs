//! One writer per log directory.

use std::{
    fs::{File, TryLockError},
    path::Path,
};

use super::LogError;
use crate::files;

/// Takes the lock; it is let go when the file is closed, at the latest by the kernel.
pub(super) fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join("lock");
    files::lock(&path)
        .map_err(LogError::io(&path))?
        .ok_or_else(|| LogError::Locked(dir.into()))
}

/// Whether some process writes the log in `dir` now.
pub(crate) fn is_live(dir: &Path) -> bool {
    files::open(&dir.join("lock"))
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}
