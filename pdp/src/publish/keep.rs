//! The last good revision and the last endpoints on disk: what both sides start
//! from when the other is away (design, invariant 9).
//!
//! Files replaced whole: written beside and renamed, so that a crash at any point
//! leaves the old or the new one. A revision is fsynced, too, and so is the folder.
//! Endpoints are not: they change often, and a lost file costs a few seconds.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Digest,
    wire::policy::{Endpoints, KeptWord, Revision, RevisionEntry, RevisionLog},
};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};

use super::codes;
use crate::bundle::{
    self, Opened,
    codes::SIGNING_KEY,
    key::{self, SigningKey},
    read_bounded,
};

/// Largest encoded revision.
pub const REVISION_LEN_MAX: usize = 64 << 20;

const REVISION: &str = "revision.pb";
/// The revisions before it, newest first.
const PAST: [&str; 2] = ["revision.1.pb", "revision.2.pb"];
const ENDPOINTS: &str = "endpoints.pb";
const WORD: &str = "word.pb";
const ROLLOUT: &str = "rollout.json";
/// The two revisions of a rollout.
pub(crate) const BASELINE: &str = "baseline.pb";
/// See [`BASELINE`].
pub(crate) const CANDIDATE: &str = "candidate.pb";
const KEY: &str = "signing-key.pem";
const LOG: &str = "log.pb";

/// Revisions that are noted.
pub const LOG_MAX: usize = 64;
/// Length of the digest that a kept word begins with.
const DIGEST_LEN: usize = 32;

/// The recent past of a PDP or a proxy, as it is on disk. Each call blocks.
#[derive(Debug, Clone)]
pub struct History(Keep);

impl History {
    pub(crate) fn new(keep: Keep) -> Self {
        Self(keep)
    }

    /// What was noted of the revisions in force lately, the newest last.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> Result<Vec<RevisionEntry>, Diagnostic> {
        self.0.log().map(|log| log.entries)
    }

    /// The last revisions whole, as far as they can be read, the newest first.
    pub fn revisions(&self) -> Vec<Revision> {
        let past = self.0.past().unwrap_or_default();
        past.into_iter().rev().collect()
    }
}

/// Where a revision and endpoints are kept.
#[derive(Debug, Clone)]
pub(crate) struct Keep {
    dir: PathBuf,
}

impl Keep {
    /// Uses `dir`, which is created if it is not there.
    pub(crate) fn open(dir: &Path) -> Result<Self, Diagnostic> {
        fs::create_dir_all(dir).map_err(|e| state_dir(dir, &e))?;
        let keep = Self {
            dir: dir.to_owned(),
        };
        keep.remove_drafts();
        Ok(keep)
    }

    /// The kept revision; `None` when there is none yet.
    ///
    /// # Errors
    /// When the file cannot be read or its bytes do not have their digest.
    pub(crate) fn load(&self) -> Result<Option<Revision>, Diagnostic> {
        self.load_as(REVISION)
    }

    /// The number of the kept revision, also where this build cannot use the rest of it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn load_number(&self) -> Result<u64, Diagnostic> {
        let revision: Option<Revision> = self.read(REVISION)?;
        Ok(revision.map_or(0, |r| r.sequence))
    }

    /// Replaces the kept revision; when this returns it survives a power loss.
    pub(crate) fn store(&self, revision: &Revision) -> Result<(), Diagnostic> {
        self.replace(REVISION, &revision.encode_to_vec())
    }

    /// As [`Keep::store`]; the last two that had other content are kept, too.
    pub(crate) fn succeed(&self, revision: &Revision) -> Result<(), Diagnostic> {
        // A damaged one is nothing to go back to.
        let mut past = self.past().unwrap_or_default();
        past.retain(|r| r.sha256 != revision.sha256);
        let mut newest_first = past.iter().rev();
        for name in PAST {
            match newest_first.next() {
                Some(old) => self.replace(name, &old.encode_to_vec())?,
                None => drop(fs::remove_file(self.dir.join(name))),
            }
        }
        self.store(revision)
    }

    /// The kept revisions, oldest first, the present one last.
    ///
    /// # Errors
    /// As [`Keep::load`].
    pub(crate) fn past(&self) -> Result<Vec<Revision>, Diagnostic> {
        let names = [PAST[1], PAST[0], REVISION];
        let kept = names.into_iter().map(|name| self.load_as(name));
        Ok(kept
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    /// The revision in one of the files; `None` when there is none.
    ///
    /// # Errors
    /// As [`Keep::load`].
    pub(crate) fn load_as(&self, name: &str) -> Result<Option<Revision>, Diagnostic> {
        let revision: Option<Revision> = self.read(name)?;
        if let Some(revision) = &revision {
            open(revision)?;
        }
        Ok(revision)
    }

    /// Replaces one of the revisions of a rollout, as [`Keep::store`].
    pub(crate) fn store_as(&self, name: &str, revision: &Revision) -> Result<(), Diagnostic> {
        self.replace(name, &revision.encode_to_vec())
    }

    /// What is known of rollouts; the default when there was none.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub(crate) fn load_journal<T: DeserializeOwned + Default>(&self) -> Result<T, Diagnostic> {
        let Some(bytes) = self.read_bytes(ROLLOUT)? else {
            return Ok(T::default());
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            let path = self.dir.join(ROLLOUT);
            Diagnostic::error(
                codes::ROLLOUT_JOURNAL,
                format!("the rollout in `{}` cannot be read", path.display()),
            )
            .cause(error.to_string())
            .help("restore the file; or remove it: the revision in force stays, and what was under way is forgotten")
        })
    }

    /// Replaces what is known of rollouts; when this returns it survives a power loss.
    pub(crate) fn store_journal(&self, journal: &impl Serialize) -> Result<(), Diagnostic> {
        let bytes = serde_json::to_vec_pretty(journal)
            .map_err(|e| state_dir(&self.dir.join(ROLLOUT), &io::Error::other(e)))?;
        self.replace(ROLLOUT, &bytes)
    }

    /// What was noted of the last revisions, the newest last.
    pub(crate) fn log(&self) -> Result<RevisionLog, Diagnostic> {
        Ok(self.read(LOG)?.unwrap_or_default())
    }

    /// Notes a revision; the oldest is forgotten beyond [`LOG_MAX`].
    pub(crate) fn note(&self, entry: RevisionEntry) -> Result<(), Diagnostic> {
        let mut log = self.log().unwrap_or_default();
        log.entries.push(entry);
        let surplus = log.entries.len().saturating_sub(LOG_MAX);
        log.entries.drain(..surplus);
        self.replace(LOG, &log.encode_to_vec())
    }

    /// The kept word of the PDP; `None` when there is none yet.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub(crate) fn load_word(&self) -> Result<Option<KeptWord>, Diagnostic> {
        let Some(bytes) = self.read_bytes(WORD)? else {
            return Ok(None);
        };
        let damaged = |why: &str| {
            let why = io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
            state_dir(&self.dir.join(WORD), &why)
        };
        let (digest, word) = bytes
            .split_at_checked(DIGEST_LEN)
            .ok_or_else(|| damaged("it is cut short"))?;
        if Digest::from_slice(digest) != Some(Digest::of(word)) {
            return Err(damaged("its bytes have another digest"));
        }
        let word = KeptWord::decode(word).map_err(|e| damaged(&e.to_string()))?;
        Ok(Some(word))
    }

    /// Replaces the kept word; when this returns it survives a power loss.
    pub(crate) fn store_word(&self, word: &KeptWord) -> Result<(), Diagnostic> {
        let word = word.encode_to_vec();
        let digest = Digest::of(&word);
        self.replace(WORD, &[&digest.0[..], &word].concat())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Diagnostic> {
        let replace = || -> io::Result<()> {
            let file = self.write_draft(name, bytes)?;
            file.sync_all()?;
            self.rename_draft(name)?;
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
        let Some(bytes) = self.read_bytes(name)? else {
            return Ok(None);
        };
        let path = self.dir.join(name);
        let message = M::decode(bytes.as_slice())
            .map_err(|e| state_dir(&path, &io::Error::new(io::ErrorKind::InvalidData, e)))?;
        Ok(Some(message))
    }

    fn read_bytes(&self, name: &str) -> Result<Option<Vec<u8>>, Diagnostic> {
        let path = self.dir.join(name);
        match read_bounded(&path, REVISION_LEN_MAX) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(state_dir(&path, &error)),
        }
    }

    /// The key that signs in the name of this PDP, made at its first use.
    ///
    /// # Errors
    /// When it can neither be read nor made.
    pub(crate) fn signing_key(&self) -> Result<SigningKey, Diagnostic> {
        let path = self.dir.join(KEY);
        let unusable = |cause: String| {
            Diagnostic::error(
                SIGNING_KEY,
                format!("the signing key `{}` cannot be used", path.display()),
            )
            .cause(cause)
            .help("restore it, or remove it: a new one is made, which those who trust the old one must be told")
        };
        match key::read(&path) {
            Ok(key) => Ok(key),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (key, pem) = SigningKey::generate().map_err(|e| unusable(e.to_string()))?;
                self.replace(KEY, pem.as_bytes())?;
                Ok(key)
            }
            Err(error) => Err(unusable(error.to_string())),
        }
    }

    /// Each process has drafts of its own: during an upgrade there are two.
    fn draft(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.{}.new", std::process::id()))
    }

    /// Removes drafts that processes left when they crashed.
    fn remove_drafts(&self) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let draft = name.to_str().and_then(|n| n.strip_suffix(".new"));
            let writer = draft.and_then(|n| n.rsplit('.').next());
            let runs = |pid: &str| Path::new("/proc").join(pid).exists();
            if writer.is_some_and(|pid| pid.parse::<u32>().is_ok() && !runs(pid)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn write_draft(&self, name: &str, bytes: &[u8]) -> io::Result<fs::File> {
        let mut options = fs::File::options();
        options.write(true).create(true).truncate(true);
        if name == KEY {
            options.mode(0o600);
        }
        let mut file = options.open(self.draft(name))?;
        file.write_all(bytes)?;
        Ok(file)
    }

    fn rename_draft(&self, name: &str) -> io::Result<()> {
        fs::rename(self.draft(name), self.dir.join(name))
    }
}

/// Opens a revision, if what it holds has the digest it names.
pub(crate) fn open(revision: &Revision) -> Result<Opened, Diagnostic> {
    let opened = bundle::open(&revision.bundle)?;
    if Digest::from_slice(&revision.sha256) == Some(opened.digest) {
        return Ok(opened);
    }
    Err(Diagnostic::error(
        codes::DIGEST,
        format!("policy revision {} is damaged", revision.sequence),
    )
    .cause(format!(
        "it has the digest {}, it claims another",
        opened.digest.short()
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
        crate::publish::tests::revision_of("abc", 7)
    }

    #[test]
    fn a_kept_revision_comes_back_and_a_draft_left_by_a_crash_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::open(&dir.path().join("state")).unwrap();
        assert_eq!(keep.load().unwrap(), None);
        keep.store(&revision()).unwrap();
        // No process has this number: the kernel's limit is lower.
        let draft = dir.path().join("state").join("revision.pb.4194305.new");
        fs::write(&draft, b"half").unwrap();
        let own = keep.draft(REVISION);
        fs::write(&own, b"half").unwrap();
        assert_eq!(keep.load().unwrap(), Some(revision()));
        let keep = Keep::open(&dir.path().join("state")).unwrap();
        assert!(!draft.exists() && own.exists());
        keep.store(&revision()).unwrap();
        assert!(!own.exists());
    }

    #[test]
    fn what_is_noted_of_revisions_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::open(dir.path()).unwrap();
        for sequence in 0..=LOG_MAX as u64 {
            let entry = RevisionEntry {
                sequence,
                ..RevisionEntry::default()
            };
            keep.note(entry).unwrap();
        }
        let log = keep.log().unwrap().entries;
        let ends = (log[0].sequence, log[LOG_MAX - 1].sequence);
        assert_eq!((log.len(), ends), (LOG_MAX, (1, LOG_MAX as u64)));
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
    fn a_kept_word_is_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::open(dir.path()).unwrap();
        assert_eq!(keep.load_word().unwrap(), None);
        let word = KeptWord {
            sequence: 7,
            age_us: 5,
            ..KeptWord::default()
        };
        keep.store_word(&word).unwrap();
        assert_eq!(keep.load_word().unwrap(), Some(word));
        let path = dir.path().join(WORD);
        let whole = fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() - 1], &whole[..DIGEST_LEN - 1], b""] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(keep.load_word().unwrap_err().code.0, codes::STATE_DIR);
        }
    }

    #[test]
    fn one_changed_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::open(dir.path()).unwrap();
        let mut damaged = revision();
        damaged.bundle = crate::publish::tests::revision_of("abd", 7).bundle;
        keep.store(&damaged).unwrap();
        assert_eq!(keep.load().unwrap_err().code.0, codes::DIGEST);
        fs::write(dir.path().join(REVISION), b"\xff\xff").unwrap();
        assert_eq!(keep.load().unwrap_err().code.0, codes::STATE_DIR);
    }
}
