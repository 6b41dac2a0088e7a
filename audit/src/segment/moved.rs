//! What stays in the place of a segment that went to an object store.
//!
//! ```text
//! FIRST_LEAF.moved    what stays: magic 8 · encoded `Moved` · crc32 u32
//! FIRST_LEAF.back     beside a segment that was brought back: which object it has
//! FIRST_LEAF.moving   beside a segment that is to go: which object is put of it
//! ```
//! Where the segment itself is there, too, it is what counts: a stub beside it is the end of
//! a move that is to be finished, or the beginning of a return, which a `.back` tells.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use palisade_mesh::wire::audit::Moved;
use prost::Message as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{numbered, relative};
use crate::{
    files,
    merkle::{self, Hash},
};

/// What the file is called that stays.
pub(crate) const MOVED: &str = "moved";

/// What the file is called that tells of a return.
const BACK: &str = "back";

/// What the file is called that tells of what is to be put.
const MOVING: &str = "moving";

/// What the file is called that is to become a segment again.
pub(crate) const FETCHED: &str = "fetched";

/// First bytes of a stub.
const MAGIC: &[u8; 8] = b"palismov";

/// Longest stub: far more than a segment can have to say.
const STUB_LEN_MAX: usize = 256 << 20;

/// The first leaf of a segment that went away, by the name of what stays.
pub(super) fn first_leaf(name: &str) -> Option<u64> {
    numbered(name.strip_suffix(MOVED)?.strip_suffix('.')?)
}

/// What stays of a segment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stub {
    /// What it says.
    pub(crate) moved: Moved,
    /// SHA-256 of the object.
    pub(crate) sum: Hash,
    /// SHA-256 of what it says, encoded.
    pub(crate) digest: Hash,
}

impl Stub {
    /// Of what it is to say; `None` without a sum.
    pub(crate) fn new(moved: Moved) -> Option<Self> {
        let sum = Hash::try_from(moved.sha256.as_slice()).ok()?;
        let digest = merkle::sha256(&moved.encode_to_vec());
        Some(Self { moved, sum, digest })
    }

    /// Where it lies.
    pub(crate) fn path(dir: &Path, first: u64) -> PathBuf {
        dir.join(relative(first)).with_extension(MOVED)
    }

    /// Reads what stays of the segment that begins with `first`; `InvalidData` when it is
    /// damaged or of another.
    pub(crate) fn read(dir: &Path, first: u64) -> io::Result<Self> {
        let path = Self::path(dir, first);
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let bytes = files::read(&path, STUB_LEN_MAX)?;
        let body = bytes.split_last_chunk::<4>().and_then(|(body, crc)| {
            let sound = crc32fast::hash(body) == u32::from_le_bytes(*crc);
            body.strip_prefix(MAGIC).filter(|_| sound)
        });
        let body = body.ok_or_else(|| invalid("what stays of the segment is damaged"))?;
        let moved = Moved::decode(body).map_err(|_| invalid("it says nothing of a segment"))?;
        let stub = Self::new(moved).ok_or_else(|| invalid("it names no sum"))?;
        match stub.moved.first == first
            && stub.moved.next > first
            && stub.digest == merkle::sha256(body)
        {
            true => Ok(stub),
            false => Err(invalid("it is not of this segment")),
        }
    }

    /// Writes it; durable when it returns.
    pub(crate) fn save(&self, dir: &Path) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        self.moved.encode(&mut bytes).map_err(io::Error::other)?;
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        files::replace(&Self::path(dir, self.moved.first), &bytes, files::Sync::Yes)
    }

    /// What the segment says that it lacks, if anything.
    pub(crate) fn sparse(&self) -> Option<&[u8]> {
        (!self.moved.sparse.is_empty()).then_some(self.moved.sparse.as_slice())
    }
}

/// Which object a segment has that was brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Back {
    /// Name of the object; empty once it is deleted.
    pub(crate) object: String,
    /// The address of the archive that it is in.
    pub(crate) store: String,
    /// What the segment lacked in it: the digest of that, in hexadecimal.
    pub(crate) lacked: Option<String>,
    /// When it came back, microseconds since the Unix epoch; 0 when it may go again at once.
    pub(crate) since_us: i64,
}

impl Back {
    pub(crate) fn path(dir: &Path, first: u64) -> PathBuf {
        dir.join(relative(first)).with_extension(BACK)
    }

    /// Reads what is told of a return; `None` where there was none.
    pub(crate) fn read(dir: &Path, first: u64) -> io::Result<Option<Self>> {
        read(&Self::path(dir, first))
    }

    /// Writes it; durable when it returns.
    pub(crate) fn save(&self, dir: &Path, first: u64) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        files::replace(&Self::path(dir, first), &bytes, files::Sync::Yes)
    }

    /// Removes it, if it is there.
    pub(crate) fn remove(dir: &Path, first: u64) -> io::Result<()> {
        remove(&Self::path(dir, first))
    }
}

/// What is about to be put of a segment, kept from before that until the segment has gone: an
/// object that a crash has left behind is found by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    /// Name of the object.
    pub(crate) object: String,
    /// The address of the archive that it goes to.
    pub(crate) store: String,
}

impl Intent {
    fn path(dir: &Path, first: u64) -> PathBuf {
        dir.join(relative(first)).with_extension(MOVING)
    }

    /// Reads what is about to be put; `None` where nothing is.
    pub(crate) fn read(dir: &Path, first: u64) -> io::Result<Option<Self>> {
        read(&Self::path(dir, first))
    }

    /// Writes it; durable when it returns.
    pub(crate) fn save(&self, dir: &Path, first: u64) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        files::replace(&Self::path(dir, first), &bytes, files::Sync::Yes)
    }

    /// Removes it, if it is there.
    pub(crate) fn remove(dir: &Path, first: u64) -> io::Result<()> {
        remove(&Self::path(dir, first))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stub() -> Stub {
        Stub::new(Moved {
            first: 7,
            next: 19,
            length: 400,
            sha256: vec![3; 32],
            object: "acme.test/00/7.seg".into(),
            ..Moved::default()
        })
        .unwrap()
    }

    #[test]
    fn what_stays_reads_back_and_one_changed_bit_is_always_noticed() {
        let dir = tempfile::tempdir().unwrap();
        stub().save(dir.path()).unwrap();
        assert_eq!(Stub::read(dir.path(), 7).unwrap(), stub());
        let path = Stub::path(dir.path(), 7);
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 4;
            fs::write(&path, bytes).unwrap();
            assert!(Stub::read(dir.path(), 7).is_err(), "byte {at}");
        }
        fs::write(&path, &bytes[..20]).unwrap();
        assert!(Stub::read(dir.path(), 7).is_err());
        // That of another segment says nothing of this one.
        fs::write(Stub::path(dir.path(), 8), bytes).unwrap();
        assert!(Stub::read(dir.path(), 8).is_err());
        assert_eq!(super::super::list(dir.path()).unwrap(), [7, 8]);
    }
}
