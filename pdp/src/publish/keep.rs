//! The last good revision and the last endpoints on disk: what both sides start
//! from when the other is away (design, invariant 9).
//!
//! Files replaced whole: written beside and renamed, so that a crash at any point
//! leaves the old or the new one. A revision is fsynced, too, and so is the folder.
//! Endpoints are not: they change often, and a lost file costs a few seconds.

use std::{
    fs, io,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Digest,
    wire::policy::{Endpoints, Revision},
};
use prost::Message;

use super::codes;

/// Largest encoded revision.
pub const REVISION_LEN_MAX: usize = 64 << 20;

const REVISION: &str = "revision.pb";
const ENDPOINTS: &str = "endpoints.pb";

/// Where a revision and endpoints are kept.
#[derive(Debug, Clone)]
pub(crate) struct Keep {
    dir: PathBuf,
}

impl Keep {
    /// Uses `dir`, which is created if it is not there.
    pub(crate) fn open(dir: &Path) -> Result<Self, Diagnostic> {
        fs::create_dir_all(dir).map_err(|e| state_dir(dir, &e))?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// The kept revision; `None` when there is none yet.
    ///
    /// # Errors
    /// When the file cannot be read or its bytes do not have their digest.
    pub(crate) fn load(&self) -> Result<Option<Revision>, Diagnostic> {
        let revision: Option<Revision> = self.read(REVISION)?;
        if let Some(revision) = &revision {
            check_digest(revision)?;
        }
        Ok(revision)
    }

    /// Replaces the kept revision; when this returns it survives a power loss.
    pub(crate) fn store(&self, revision: &Revision) -> Result<(), Diagnostic> {
        let replace = || -> io::Result<()> {
            let file = self.write_draft(REVISION, &revision.encode_to_vec())?;
            file.sync_all()?;
            self.rename_draft(REVISION)?;
            fs::File::open(&self.dir)?.sync_all()
        };
        replace().map_err(|e| state_dir(&self.dir, &e))
    }

    /// The kept endpoints; `None` when there are none yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn load_endpoints(&self) -> Result<Option<Endpoints>, Diagnostic> {
        self.read(ENDPOINTS)
    }

    /// Replaces the kept endpoints; when this returns they survive the end of this
    /// process, though not a power loss.
    pub(crate) fn store_endpoints(&self, endpoints: &Endpoints) -> Result<(), Diagnostic> {
        self.write_draft(ENDPOINTS, &endpoints.encode_to_vec())
            .and_then(|_| self.rename_draft(ENDPOINTS))
            .map_err(|e| state_dir(&self.dir, &e))
    }

    fn read<M: Message + Default>(&self, name: &str) -> Result<Option<M>, Diagnostic> {
        let path = self.dir.join(name);
        let mut bytes = Vec::new();
        match fs::File::open(&path) {
            Ok(file) => {
                let limit = u64::try_from(REVISION_LEN_MAX).unwrap_or(u64::MAX);
                file.take(limit)
                    .read_to_end(&mut bytes)
                    .map_err(|e| state_dir(&path, &e))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(state_dir(&path, &error)),
        }
        let message = M::decode(bytes.as_slice())
            .map_err(|e| state_dir(&path, &io::Error::new(io::ErrorKind::InvalidData, e)))?;
        Ok(Some(message))
    }

    fn draft(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.new"))
    }

    fn write_draft(&self, name: &str, bytes: &[u8]) -> io::Result<fs::File> {
        let mut file = fs::File::create(self.draft(name))?;
        file.write_all(bytes)?;
        Ok(file)
    }

    fn rename_draft(&self, name: &str) -> io::Result<()> {
        fs::rename(self.draft(name), self.dir.join(name))
    }
}

/// Refuses a revision whose bytes are not those it names.
pub(crate) fn check_digest(revision: &Revision) -> Result<Digest, Diagnostic> {
    let digest = Digest::of(&revision.bundle);
    if Digest::from_slice(&revision.sha256) == Some(digest) {
        return Ok(digest);
    }
    Err(Diagnostic::error(
        codes::DIGEST,
        format!("policy revision {} is damaged", revision.sequence),
    )
    .cause(format!(
        "its bytes have the digest {}, it claims another",
        digest.short()
    ))
    .help("it is fetched again by itself; if it stays so, check the disk and the path to the PDP"))
}

fn state_dir(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::error(
        codes::STATE_DIR,
        format!("state in `{}` cannot be used", path.display()),
    )
    .cause(error.to_string())
    .help("check that the folder exists, that this user may write it, and that the disk has room")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision() -> Revision {
        Revision {
            bundle: "abc".into(),
            sha256: Digest::of(b"abc").0.to_vec(),
            sequence: 7,
            issued_us: 1,
        }
    }

    #[test]
    fn a_kept_revision_comes_back_and_a_draft_left_by_a_crash_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::open(&dir.path().join("state")).unwrap();
        assert_eq!(keep.load().unwrap(), None);
        keep.store(&revision()).unwrap();
        let draft = dir.path().join("state").join("revision.pb.new");
        fs::write(&draft, b"half").unwrap();
        assert_eq!(keep.load().unwrap(), Some(revision()));
        keep.store(&revision()).unwrap();
        assert!(!draft.exists());
    }

    #[test]
    fn endpoints_are_kept_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::open(dir.path()).unwrap();
        assert_eq!(keep.load_endpoints().unwrap(), None);
        let endpoints = Endpoints {
            version: 3,
            ..Endpoints::default()
        };
        keep.store_endpoints(&endpoints).unwrap();
        assert_eq!(keep.load_endpoints().unwrap(), Some(endpoints));
        assert_eq!(keep.load().unwrap(), None);
        fs::write(dir.path().join(ENDPOINTS), b"\xff\xff").unwrap();
        assert_eq!(keep.load_endpoints().unwrap_err().code.0, codes::STATE_DIR);
    }

    #[test]
    fn one_changed_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::open(dir.path()).unwrap();
        let mut damaged = revision();
        damaged.bundle = "abd".into();
        keep.store(&damaged).unwrap();
        assert_eq!(keep.load().unwrap_err().code.0, codes::DIGEST);
        fs::write(dir.path().join(REVISION), b"\xff\xff").unwrap();
        assert_eq!(keep.load().unwrap_err().code.0, codes::STATE_DIR);
    }
}
