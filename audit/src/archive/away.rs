//! Why a segment cannot be had from an archive, or not be put there.

use std::fmt;

use crate::segment::Stub;

/// A segment is in an archive, or shall go there, and the archive does not do its part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the segment that begins with record {segment} is `{object}` in the archive `{store}`: {why}: {cause}"
)]
pub struct Away {
    /// The archive, as what stays of the segment names it.
    pub store: String,
    /// Index of the first record of the segment.
    pub segment: u64,
    /// Index of the record after its last.
    pub next: u64,
    /// Name of the object, below the address of the archive.
    pub object: String,
    /// What it is about.
    pub why: Why,
    /// What the store says.
    pub cause: String,
}

/// Why a segment cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The object has other bytes than those that were signed.
    Altered,
    /// The place has not the mark of the archive that this log uses.
    Foreign,
    /// What was fetched cannot be written here.
    Local,
    /// There is no object.
    Missing,
    /// The disk has no room for what would be fetched.
    NoRoom,
    /// A start needs it, and fetches nothing.
    Start,
    /// The store does not answer, or refuses.
    Unreachable,
    /// Nobody said where the archive is.
    Unset,
}

/// What went wrong in an exchange with the store, and what it says.
pub(super) type Refused = (Why, String);

impl Why {
    /// Whether the archive as a whole cannot be used: nothing else need be tried.
    pub(crate) fn is_of_all(self) -> bool {
        matches!(self, Self::Foreign | Self::Unreachable | Self::Unset)
    }

    /// Whether it is known that the archive has not what was signed.
    pub(crate) fn is_damage(self) -> bool {
        matches!(self, Self::Altered | Self::Missing)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Altered => "it is not what was signed",
            Self::Foreign => "the place is not the archive that this log uses",
            Self::Local => "what is fetched cannot be written here",
            Self::Missing => "it is not there",
            Self::NoRoom => "there is no room to fetch it",
            Self::Start => "a start needs it here",
            Self::Unreachable => "the store cannot be asked",
            Self::Unset => "it was not said where that is",
        })
    }
}

impl Away {
    /// Of a segment in the archive that `url` names now.
    pub(super) fn of(stub: &Stub, url: &str, (why, cause): Refused) -> Self {
        let moved = &stub.moved;
        let cause = match moved.store == url {
            true => cause,
            false => format!("{cause} (`{url}` was asked, which is the archive now)"),
        };
        Self {
            store: moved.store.clone(),
            segment: moved.first,
            next: moved.next,
            object: moved.object.clone(),
            why,
            cause,
        }
    }

    /// Of a segment of a log that knows of no archive.
    pub(crate) fn unset(stub: &Stub) -> Self {
        let unset = (Why::Unset, "`audit.archive` is not set".to_owned());
        Self::of(stub, &stub.moved.store, unset)
    }

    /// Of a segment that a start needs: tiles, or how far streams are, are lost.
    pub(crate) fn at_start(stub: &Stub, segments: usize, bytes: u64) -> Self {
        let cause = format!(
            "tiles, or how far streams are, are lost, and are made again from all records; {segments} segments with {bytes} bytes are in the archive alone, and a start fetches nothing"
        );
        Self::of(stub, &stub.moved.store, (Why::Start, cause))
    }
}
