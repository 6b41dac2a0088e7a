//! Policy revisions, kept beside the log for as long as the log is.
//!
//! A decision names the revision that it was made under by digest. With the revision at
//! hand the decision can be made again years later, by whoever has a copy of the log: so
//! they lie in its folder, each in a file that is named by its digest. What is in them, and
//! that it has this digest, is for others to know; here are bytes and names.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    files::{self, Sync},
    log::Log,
    merkle::{Hash, hex},
};

/// Longest bundle that is kept, in bytes; also the longest that is distributed.
pub const BUNDLE_LEN_MAX: usize = 64 << 20;

/// The folder, in that of the log.
const DIR: &str = "policies";

/// Revisions that are kept beside one log.
#[derive(Debug, Clone)]
pub struct Policies {
    dir: PathBuf,
}

impl Policies {
    /// Those beside the log in `log`. Nothing is created before there is one to keep.
    pub fn beside(log: &Path) -> Self {
        Self { dir: log.join(DIR) }
    }

    /// Keeps the bundle of a revision: when this returns, a power cut does not take it. One
    /// that is there under this digest is replaced. The records of `log`, which is on the same
    /// disk, come first.
    ///
    /// # Errors
    /// When it cannot be written, is longer than [`BUNDLE_LEN_MAX`], or records need the room.
    pub fn keep(&self, log: &Log, digest: &Hash, bundle: &[u8]) -> io::Result<()> {
        if bundle.len() > BUNDLE_LEN_MAX {
            return Err(too_long());
        }
        log.room_for(bundle.len() as u64)?;
        files::replace(&self.file(digest), bundle, Sync::Yes)
    }

    /// The bundle of a revision as it was kept; `None` where it is not here.
    ///
    /// # Errors
    /// When it is here and cannot be read.
    pub fn read(&self, digest: &Hash) -> io::Result<Option<Vec<u8>>> {
        match files::read(&self.file(digest), BUNDLE_LEN_MAX) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    fn file(&self, digest: &Hash) -> PathBuf {
        self.dir.join(format!("{}.bundle", hex(digest)))
    }
}

fn too_long() -> io::Error {
    let what = format!("the bundle is longer than {BUNDLE_LEN_MAX} bytes");
    io::Error::new(io::ErrorKind::FileTooLarge, what)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use palisade_mesh::clock::Clock;

    use super::*;
    use crate::{
        disk::Disk,
        log::LogOptions,
        testing::{open_log, options},
    };

    #[test]
    fn what_is_kept_is_read_again_and_nothing_else_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let log = open_log(&dir);
        let policies = Policies::beside(dir.path());
        assert_eq!(policies.read(&[1; 32]).unwrap(), None);
        policies.keep(&log, &[1; 32], b"one").unwrap();
        policies.keep(&log, &[1; 32], b"one, mended").unwrap();
        let again = Policies::beside(dir.path());
        assert_eq!(
            again.read(&[1; 32]).unwrap().as_deref(),
            Some(&b"one, mended"[..])
        );
        assert_eq!(again.read(&[2; 32]).unwrap(), None);
        let names: Vec<_> = fs::read_dir(dir.path().join(DIR)).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    /// On both sides of the limit, also of what somebody else has put there.
    #[test]
    fn a_bundle_has_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let log = open_log(&dir);
        let policies = Policies::beside(dir.path());
        let most = vec![0; BUNDLE_LEN_MAX];
        policies.keep(&log, &[1; 32], &most).unwrap();
        assert!(policies.read(&[1; 32]).unwrap().is_some());
        let more = [&most[..], &[0]].concat();
        assert!(policies.keep(&log, &[2; 32], &more).is_err());
        let file = policies.file(&[1; 32]);
        let longer = fs::OpenOptions::new().write(true).open(file).unwrap();
        longer.set_len(BUNDLE_LEN_MAX as u64 + 1).unwrap();
        assert!(policies.read(&[1; 32]).is_err());
        // What has no end is not read.
        std::os::unix::fs::symlink("/dev/zero", policies.file(&[3; 32])).unwrap();
        assert!(policies.read(&[3; 32]).is_err());
    }

    /// The room that records have left is theirs.
    #[test]
    fn on_a_disk_that_is_nearly_full_a_revision_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, faults) = Disk::faulty();
        let roomy = LogOptions {
            reserve_bytes: 0,
            ..options()
        };
        let log = Log::open_on(dir.path(), roomy, Clock::system(), disk).unwrap();
        let policies = Policies::beside(dir.path());
        policies.keep(&log, &[1; 32], &[0; 100]).unwrap();
        faults.set_free(1 << 20);
        let more = vec![0; (1 << 20) + 1];
        let told = policies.keep(&log, &[2; 32], &more).unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::StorageFull);
        assert_eq!(policies.read(&[2; 32]).unwrap(), None);
    }
}
