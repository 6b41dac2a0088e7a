//! Why a log cannot be opened or read.

use std::{fmt, io, ops::Range, path::PathBuf, sync::Arc};

#[cfg(feature = "index")]
use crate::archive::Away;
use crate::going::Ended;

/// Why a log cannot be opened or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Something below a signed checkpoint is not what was signed.
    #[error("log was tampered with: {0}")]
    Tampered(Box<Damage>),
    /// Another process writes this log.
    #[error("log `{0}` is in use by another process")]
    Locked(PathBuf),
    /// The signing key is missing or is not the one of this log.
    #[error("checkpoint key of the log: {0}")]
    Key(String),
    /// There is no such record.
    #[error("log has no record {index}: it holds {len}")]
    NotFound {
        /// What was asked for.
        index: u64,
        /// How many there are.
        len: u64,
    },
    /// The record was dropped because its time was over; what proves it is there.
    #[error("record {index} was dropped: its time was over")]
    Dropped {
        /// Index of its leaf.
        index: u64,
    },
    /// The segment with the record is in an archive, and cannot be had from there.
    #[cfg(feature = "index")]
    #[error(transparent)]
    Away(Box<Away>),
    /// The folder is another user's, whose service could not read what is written there.
    #[error("the folder of the log `{dir}` belongs to the user {owner}")]
    Owner {
        /// The folder.
        dir: PathBuf,
        /// Number of the user.
        owner: u32,
    },
    /// Nobody waits for what is read any more.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// The leaf is as it was written, but holds no record that this version reads.
    #[error("record {index} cannot be decoded: {cause}")]
    Undecodable {
        /// Index of its leaf.
        index: u64,
        /// What the decoder says.
        cause: String,
    },
    /// The file system refused.
    #[error("log file `{path}`: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
}

/// Where something differs from what was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// File, relative to the log's directory.
    pub file: PathBuf,
    /// Index of the first leaf concerned.
    pub leaf: u64,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// What differs.
    pub what: String,
    /// Records of which none can be had for it: a segment is gone, or cannot be read on.
    pub lost: Option<Range<u64>>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            leaf,
            offset,
            what,
            ..
        } = self;
        let file = file.display();
        write!(f, "record {leaf} in `{file}` at byte {offset}: {what}")
    }
}

impl LogError {
    /// Whether the archive as a whole cannot be used: nothing else of it need be tried.
    #[cfg(feature = "index")]
    pub(crate) fn is_of_archive(&self) -> bool {
        matches!(self, Self::Away(away) if away.why.is_of_all())
    }

    /// Whether a segment is not what was signed, or is lost: no other try mends that, and it says
    /// nothing of other segments.
    #[cfg(feature = "index")]
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Tampered(_) => true,
            error => error.is_lost(),
        }
    }

    /// Whether a segment is in the archive otherwise than it was put there, or not at all.
    #[cfg(feature = "index")]
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Away(away) if away.why.is_damage())
    }

    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| {
            #[cfg(feature = "index")]
            let source = match source.downcast::<Away>() {
                Ok(away) => return Self::Away(Box::new(away)),
                Err(source) => source,
            };
            Self::Io {
                path,
                source: Arc::new(source),
            }
        }
    }

    pub(super) fn tampered(file: PathBuf, leaf: u64, offset: u64, what: impl Into<String>) -> Self {
        Self::Tampered(Box::new(Damage {
            file,
            leaf,
            offset,
            what: what.into(),
            lost: None,
        }))
    }

    /// None of these records can be had.
    pub(super) fn lost(file: PathBuf, records: Range<u64>, what: impl Into<String>) -> Self {
        Self::Tampered(Box::new(Damage {
            file,
            leaf: records.start,
            offset: 0,
            what: what.into(),
            lost: Some(records),
        }))
    }
}
