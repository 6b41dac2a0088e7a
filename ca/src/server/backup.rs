//! Backup and restore: the journal, the store and the sealed keys in one file.
//!
//! The archive is a line that names the format, a length and a header in JSON, the
//! database, and the SHA-256 of everything before. It holds no key that opens the
//! sealed ones: the key-encryption key is kept apart, and a fingerprint in the header
//! tells which one belongs to it.
//!
//! A restored state may be older than what agents have seen. It begins a new epoch,
//! so that they take it for newer, replace what it does not know, and never take an
//! older one for it. Join tokens do not come back: one that was spent after the backup
//! would be good once more.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, snapshot::Digest};
use serde::{Deserialize, Serialize};

use super::{CaConfig, CaError, books::disk, offline};
use crate::{authority::Authority, keystore::Keystore, store};

/// First line of an archive.
const MAGIC: &[u8] = b"palisade ca backup 1\n";
/// Longest archive that is read, in bytes.
pub const ARCHIVE_LEN_MAX: u64 = 4 << 30;
/// Longest header, in bytes.
const HEADER_LEN_MAX: usize = 4096;
const DIGEST_LEN: usize = 32;

/// What an archive says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Whose authority it is.
    pub trust_domain: String,
    /// Epoch of the trust state.
    pub epoch: u64,
    /// Sequence of the trust state.
    pub sequence: u64,
    /// Number of the last journal entry.
    pub journal_head: i64,
    /// When it was made, microseconds since the Unix epoch.
    pub made_us: i64,
    /// Fingerprint of the key-encryption key, hexadecimal.
    pub kek: String,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// What it says of itself.
    pub header: Header,
    /// SHA-256 of the archive without its last 32 bytes, which are this.
    pub digest: Digest,
    /// Length of the file.
    pub len: u64,
}

/// A backup that was put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What it says of itself.
    pub header: Header,
    /// Epoch that begins with it.
    pub epoch: u64,
    /// Authorities that are there now, roots first, and since when each is in its
    /// state, microseconds since the Unix epoch.
    pub authorities: Vec<(Authority, i64)>,
}

/// Why there is no backup, or none was put back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The authority's folder cannot be used.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Not an archive, or not as it was written.
    #[error("`{path}` is not a whole backup: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// The file is there already.
    #[error("`{0}` is there already")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("`{path}` cannot be used: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder holds something.
    #[error("state directory `{0}` is not empty")]
    NotEmpty(PathBuf),
    /// The key-encryption key is another one.
    #[error("backup was made beside key-encryption key {made}, `{path}` is {found}")]
    OtherKek {
        /// The file of the present one.
        path: PathBuf,
        /// Fingerprint in the backup.
        made: String,
        /// Fingerprint of the present one.
        found: String,
    },
}

impl BackupError {
    /// The error as a person should read it.
    pub fn diagnostic(&self) -> Diagnostic {
        let error = |code| Diagnostic::error(code, self.to_string());
        match self {
            Self::Ca(e) => e.diagnostic(),
            Self::Exists(_) | Self::Io { .. } => error(4032)
                .help("name a new file, in a folder that the authority's user may write"),
            Self::Damaged { .. } => error(4033)
                .cause("it was cut, changed or is another file; nothing was restored")
                .help("take another backup, and compare the digest that `palisade ca backup` printed"),
            Self::NotEmpty(path) => error(4034)
                .cause("an authority's state is never overwritten")
                .help(format!("stop the authority and move the folder away, but for the key-encryption key: {}", path.display())),
            Self::OtherKek { .. } => error(4035)
                .cause("it opens none of the keys in the backup")
                .help("put the key-encryption key of that time there"),
        }
    }
}

/// Writes a backup of the authority's state, whether or not it runs.
///
/// # Errors
/// When there is no state, it does not verify, or the file cannot be made.
pub async fn backup(config: &CaConfig, clock: &Clock, to: &Path) -> Result<Backup, BackupError> {
    let database = config.state_dir.join(disk::DATABASE);
    if !database.exists() {
        return Err(CaError::NoState(config.state_dir.clone()).into());
    }
    if to.exists() {
        return Err(BackupError::Exists(to.into()));
    }
    let folder = Scratch::beside(to)?;
    let copy = folder.0.join(disk::DATABASE);
    store::copy(&database, &copy).await.map_err(CaError::from)?;
    let keystore = Keystore::open(&config.kek_path(), false).map_err(CaError::from)?;
    let header = verify(config, &copy, &keystore, clock).await?;
    let bytes = fs::read(&copy).map_err(|e| io_error(&copy, e))?;
    let archive = pack(&header, &bytes);
    write_new(to, &archive)?;
    Ok(Backup {
        header,
        digest: digest_of(&archive),
        len: archive.len() as u64,
    })
}

/// Puts a backup into an empty state directory. The key-encryption key must be in its
/// place.
///
/// # Errors
/// When the archive is damaged or of somebody else, or the folder is not empty.
pub async fn restore(
    config: &CaConfig,
    clock: &Clock,
    from: &Path,
) -> Result<Restored, BackupError> {
    let archive = read(from)?;
    let (header, database) = unpack(from, &archive)?;
    if header.trust_domain != config.trust_domain.as_str() {
        return Err(BackupError::Ca(CaError::TrustDomain {
            expected: config.trust_domain.to_string(),
            found: header.trust_domain,
        }));
    }
    check_empty(config)?;
    let kek = config.kek_path();
    let found = Keystore::open(&kek, false)
        .map_err(CaError::from)?
        .fingerprint();
    if found != header.kek {
        return Err(BackupError::OtherKek {
            path: kek,
            made: header.kek,
            found,
        });
    }
    let lock = disk::enter(&config.state_dir)?;
    let target = config.state_dir.join(disk::DATABASE);
    write_new(&target, database)?;
    drop(lock);
    let opened = begin_again(config, clock, &header).await;
    if opened.is_err() {
        let _ = fs::remove_file(&target);
    }
    let (epoch, authorities) = opened?;
    Ok(Restored {
        header,
        epoch,
        authorities,
    })
}

async fn begin_again(
    config: &CaConfig,
    clock: &Clock,
    header: &Header,
) -> Result<(u64, Vec<(Authority, i64)>), CaError> {
    let mut books = offline::open(config, clock.clone()).await?;
    books.store().forget_tokens().await?;
    books.begin().await?;
    outrun_kill_list(&books.store(), clock).await?;
    let trust = books.trust();
    let authorities = books.dated();
    books.store().close().await;
    tracing::debug!(from = header.epoch, to = trust.epoch, "a new epoch begins");
    Ok((trust.epoch, authorities))
}

/// Numbers the kill list from the time on: whoever heard of a newer one than the backup
/// holds would refuse ours as a replay, and every entry to come.
async fn outrun_kill_list(store: &store::Store, clock: &Clock) -> Result<(), CaError> {
    let (sequence, entries) = store.kill_list().await?;
    let now_s = u64::try_from(clock.now_us() / 1_000_000).unwrap_or_default();
    store
        .replace_kill_list(now_s.max(sequence + 1), &entries)
        .await?;
    Ok(())
}

/// Opens a copy as the authority would, so that no backup is made of what could not
/// be used.
async fn verify(
    config: &CaConfig,
    copy: &Path,
    keystore: &Keystore,
    clock: &Clock,
) -> Result<Header, BackupError> {
    let folder = copy.parent().unwrap_or(Path::new("."));
    let beside = CaConfig {
        state_dir: folder.into(),
        kek_path: Some(config.kek_path()),
        ..config.clone()
    };
    let books = offline::open(&beside, clock.clone()).await?;
    let trust = books.trust();
    let header = Header {
        trust_domain: config.trust_domain.to_string(),
        epoch: trust.epoch,
        sequence: trust.sequence,
        journal_head: books.journal_head(),
        made_us: clock.now_us(),
        kek: keystore.fingerprint(),
    };
    books.store().close().await;
    Ok(header)
}

fn pack(header: &Header, database: &[u8]) -> Vec<u8> {
    let header = serde_json::to_vec(header).unwrap_or_default();
    let len = u32::try_from(header.len()).unwrap_or(u32::MAX);
    let mut archive = [MAGIC, &len.to_be_bytes(), &header, database].concat();
    archive.extend_from_slice(&Digest::of(&archive).0);
    archive
}

fn unpack<'a>(path: &Path, archive: &'a [u8]) -> Result<(Header, &'a [u8]), BackupError> {
    let damaged = |what| BackupError::Damaged {
        path: path.into(),
        what,
    };
    let rest = archive
        .strip_prefix(MAGIC)
        .ok_or_else(|| damaged("it does not begin like one"))?;
    if archive.len() < MAGIC.len() + DIGEST_LEN || !archive.ends_with(&digest_of(archive).0) {
        return Err(damaged("its digest does not fit"));
    }
    let rest = rest
        .get(..rest.len().saturating_sub(DIGEST_LEN))
        .unwrap_or_default();
    let (len, rest) = rest
        .split_first_chunk::<4>()
        .ok_or_else(|| damaged("it has no header"))?;
    let len = u32::from_be_bytes(*len) as usize;
    if len > HEADER_LEN_MAX || len > rest.len() {
        return Err(damaged("its header is too long"));
    }
    let (header, database) = rest.split_at(len);
    let header = serde_json::from_slice(header).map_err(|_| damaged("its header is unreadable"))?;
    Ok((header, database))
}

/// Digest of all but the last 32 bytes.
fn digest_of(archive: &[u8]) -> Digest {
    let end = archive.len().saturating_sub(DIGEST_LEN);
    Digest::of(archive.get(..end).unwrap_or_default())
}

fn read(path: &Path) -> Result<Vec<u8>, BackupError> {
    let failed = |e| io_error(path, e);
    let mut archive = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(ARCHIVE_LEN_MAX + 1)
        .read_to_end(&mut archive)
        .map_err(failed)?;
    if archive.len() as u64 > ARCHIVE_LEN_MAX {
        return Err(BackupError::Damaged {
            path: path.into(),
            what: "it is longer than any backup",
        });
    }
    Ok(archive)
}

/// The folder may hold the key-encryption key, and nothing else.
fn check_empty(config: &CaConfig) -> Result<(), BackupError> {
    let dir = &config.state_dir;
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error(dir, e)),
    };
    for entry in entries {
        let path = entry.map_err(|e| io_error(dir, e))?.path();
        if path != config.kek_path() && !path.ends_with(disk::LOCK) {
            return Err(BackupError::NotEmpty(dir.clone()));
        }
    }
    Ok(())
}

/// Writes a file that was not there, for its owner alone, and brings it to the disk.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let failed = |e| io_error(path, e);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| File::open(folder_of(path))?.sync_all()) {
        let _ = fs::remove_file(path);
        return Err(failed(error));
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn io_error(path: &Path, source: io::Error) -> BackupError {
    BackupError::Io {
        path: path.into(),
        source,
    }
}

/// A folder for the copy, which goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn beside(path: &Path) -> Result<Self, BackupError> {
        let name = format!(".palisade-backup-{}", std::process::id());
        let folder = folder_of(path).join(name);
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|e| io_error(&folder, e))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
