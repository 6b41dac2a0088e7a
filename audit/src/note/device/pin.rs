//! The PIN of a token, and the note that it was refused: a token counts wrong ones and locks
//! itself, for good on many devices.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use crate::files;

/// Longest PIN, in bytes.
const LEN_MAX: u64 = 255;

/// A PIN as a file has it.
pub(super) struct Pin<'n> {
    secret: Zeroizing<String>,
    /// Which writing of the file it is of.
    writing: String,
    notes: &'n Path,
}

/// Why there is no PIN to try.
#[derive(Debug, thiserror::Error)]
pub(super) enum PinError {
    #[error("PIN `{0}`: {1}")]
    Io(PathBuf, io::Error),
    #[error("PIN `{0}` is not a file of 1 to {LEN_MAX} bytes that only its owner reads")]
    File(PathBuf),
    #[error(
        "PIN `{0}` was refused and has not been written since: it is not tried again, for the token counts"
    )]
    Refused(PathBuf),
}

impl<'n> Pin<'n> {
    /// Reads it, unless `notes` says that this one was refused.
    pub(super) fn read(path: &Path, notes: &'n Path) -> Result<Self, PinError> {
        let io = |e| PinError::Io(path.to_owned(), e);
        let wrong = || PinError::File(path.to_owned());
        // Without waiting for somebody at the other end of what is no file.
        let meta = fs::metadata(path).map_err(io)?;
        if !meta.is_file() {
            return Err(wrong());
        }
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() || !files::is_private(path, &meta) {
            return Err(wrong());
        }
        let mut secret = Zeroizing::new(String::new());
        // One more than fits, and a line's end.
        let read = file.take(LEN_MAX + 3).read_to_string(&mut secret);
        read.map_err(io)?;
        let len = secret.trim_end().len();
        secret.truncate(len);
        if secret.is_empty() || secret.len() as u64 > LEN_MAX {
            return Err(wrong());
        }
        let writing = format!("{} {} {}", meta.ino(), meta.mtime(), meta.mtime_nsec());
        if fs::read_to_string(notes).is_ok_and(|noted| noted == writing) {
            return Err(PinError::Refused(path.to_owned()));
        }
        Ok(Self {
            secret,
            writing,
            notes,
        })
    }

    pub(super) fn secret(&self) -> AuthPin {
        AuthPin::new(self.secret.as_str().into())
    }

    /// Notes that the token refused it.
    pub(super) fn refused(&self) {
        let noted = files::replace(self.notes, self.writing.as_bytes(), files::Sync::Yes);
        if let Err(error) = noted {
            tracing::error!(%error, "that a PIN was refused cannot be noted; it may be tried again");
        }
    }

    /// Forgets what was noted.
    pub(super) fn taken(&self) {
        let _ = fs::remove_file(self.notes);
    }
}
