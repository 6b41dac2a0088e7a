//! Policy revisions, kept beside the log for as long as the log is.
//!
//! A decision names the revision that it was made under by digest. With the revision at
//! hand the decision can be made again years later, by whoever has a copy of the log: so
//! they lie in its folder, each in a file that is named by its digest. What is in them, and
//! that it has this digest, is for others to know; here are bytes and names.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    files::{self, Sync},
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
    /// that is there under this digest is replaced.
    ///
    /// # Errors
    /// When it cannot be written, or is longer than [`BUNDLE_LEN_MAX`].
    pub fn keep(&self, digest: &Hash, bundle: &[u8]) -> io::Result<()> {
        if bundle.len() > BUNDLE_LEN_MAX {
            return Err(too_long(bundle.len()));
        }
        files::replace(&self.file(digest), bundle, Sync::Yes)
    }

    /// The bundle of a revision as it was kept; `None` where it is not here.
    ///
    /// # Errors
    /// When it is here and cannot be read.
    pub fn read(&self, digest: &Hash) -> io::Result<Option<Vec<u8>>> {
        let file = self.file(digest);
        let len = match file.metadata() {
            Ok(metadata) => usize::try_from(metadata.len()).unwrap_or(usize::MAX),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        match len > BUNDLE_LEN_MAX {
            true => Err(too_long(len)),
            false => fs::read(file).map(Some),
        }
    }

    fn file(&self, digest: &Hash) -> PathBuf {
        self.dir.join(format!("{}.bundle", hex(digest)))
    }
}

fn too_long(len: usize) -> io::Error {
    let what = format!("a bundle of {len} bytes is longer than {BUNDLE_LEN_MAX}");
    io::Error::new(io::ErrorKind::FileTooLarge, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_nothing_else_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let policies = Policies::beside(dir.path());
        assert_eq!(policies.read(&[1; 32]).unwrap(), None);
        policies.keep(&[1; 32], b"one").unwrap();
        policies.keep(&[1; 32], b"one, mended").unwrap();
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
        let policies = Policies::beside(dir.path());
        policies.keep(&[1; 32], &vec![0; BUNDLE_LEN_MAX]).unwrap();
        assert!(policies.read(&[1; 32]).unwrap().is_some());
        assert!(
            policies
                .keep(&[2; 32], &vec![0; BUNDLE_LEN_MAX + 1])
                .is_err()
        );
        let file = policies.file(&[1; 32]);
        let longer = fs::OpenOptions::new().write(true).open(file).unwrap();
        longer.set_len(BUNDLE_LEN_MAX as u64 + 1).unwrap();
        assert!(policies.read(&[1; 32]).is_err());
    }
}
