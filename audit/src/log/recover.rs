//! What a start finds on disk, and what it makes of it.
//!
//! Below the last checkpoint every byte is vouched for by a signature: a
//! difference there is tampering, and the log stays shut. Above it a crash may
//! have left half a group: the log is cut back to its last whole record, and what
//! is cut off is kept aside. Spools resend it, for it was never acknowledged as
//! checkpointed.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
};

use palisade_mesh::{clock::Clock, spiffe_id::TrustDomain, wire::record::Dropping};
use tokio::sync::watch;

use super::{
    Checkpoint, LogError, LogOptions, history, lock,
    reader::{Segments, Shared},
};
use crate::{
    checkpoint, files,
    merkle::{self, Tiles, Tree},
    note::{NOTE_LEN_MAX, Signer, Verifier},
    segment::{self, FrameReader, HEADER_LEN, Header, Lacking, Offsets},
    stream::Streams,
};

mod cut;
mod replay;
mod sealed;

pub(crate) use cut::EVIDENCE;
use replay::{Cut, Replay};

/// File of the latest checkpoint.
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// File of earlier checkpoints.
pub(crate) const HISTORY: &str = "checkpoints";
/// File of the latest checkpoint that witnesses have cosigned.
pub(crate) const COSIGNED: &str = "cosigned";
/// File of the public key.
pub(crate) const PUBLIC_KEY: &str = "checkpoint.pub";
/// File of the stream positions.
pub(crate) const STREAMS: &str = "streams";
const KEY: &str = "checkpoint.key";
/// File that notes which PIN a device has refused.
#[cfg(feature = "pkcs11")]
const PIN_REFUSED: &str = "pin-refused";

/// A log that is ready to be written.
pub(super) struct Recovered {
    pub(super) shared: Arc<Shared>,
    pub(super) signer: Arc<Signer>,
    pub(super) lock: Arc<File>,
    pub(super) active: ActiveFile,
    pub(super) tree: Tree,
    pub(super) streams: Streams,
    /// What was cut off, in words, when something was.
    pub(super) cut: Option<String>,
    /// What may have been told to be dropped, and was not when a process ended.
    pub(super) left: Vec<Dropping>,
    /// What records above the checkpoint say of what is dropped, and of holds, must be told to
    /// count for nothing before they are signed.
    pub(super) unsigned: bool,
}

/// The segment that grows.
pub(super) struct ActiveFile {
    pub(super) file: Arc<File>,
    pub(super) first: u64,
    /// End of the last durable frame.
    pub(super) end: u64,
}

/// First 16 bytes of the SHA-256 of the verifier key.
pub(crate) fn log_id(verifier: &Verifier) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(
        verifier
            .fingerprint()
            .first_chunk::<16>()
            .unwrap_or(&[0; 16]),
    );
    id
}

/// Begins or continues the log in `dir`.
pub(super) fn recover(
    dir: &Path,
    options: &LogOptions,
    clock: &Clock,
) -> Result<Recovered, LogError> {
    files::create_dir(&dir.join(segment::DIR)).map_err(LogError::io(dir))?;
    let lock = Arc::new(lock::lock(dir)?);
    let mut firsts = segment::list(dir).map_err(LogError::io(dir))?;
    let fresh = firsts.is_empty() && !dir.join(CHECKPOINT).exists();
    let signer = Arc::new(load_key(dir, options, fresh)?);
    let verifier = signer.verifier().clone();
    if fresh {
        let empty = Checkpoint::sign(&signer, 0, Tree::new().root(), clock.now())
            .map_err(|e| LogError::Key(e.to_string()))?;
        write_checkpoint(dir, &empty).map_err(LogError::io(dir.join(CHECKPOINT)))?;
    }
    let checkpoint = read_checkpoint(dir, &verifier)?;
    let replayed = replay::replay(dir, &verifier, &checkpoint, &firsts)?;
    let Replay {
        tree,
        streams,
        offsets,
        cut,
        unsigned,
    } = replayed;
    let left = left(dir, &firsts).map_err(LogError::io(dir))?;
    // What replaced a segment shall survive a power cut before more is told.
    files::sync_dir(&dir.join(segment::DIR)).map_err(LogError::io(dir))?;
    let cut = cut
        .map(|cut| cut::cut(dir, &mut firsts, &cut, clock))
        .transpose()
        .map_err(LogError::io(dir))?;
    let active = match firsts.last() {
        Some(&first) => reopen(dir, first, offsets.end())?,
        None => {
            firsts.push(0);
            create_segment(dir, &verifier, 0).map_err(LogError::io(dir))?
        }
    };
    let segments = Segments {
        firsts,
        active: Some(active.file.clone()),
        offsets,
    };
    let shared = shared(dir, options, verifier, tree.size(), checkpoint, segments)?;
    #[cfg(feature = "index")]
    let shared = Shared {
        lock: Arc::downgrade(&lock),
        ..shared
    };
    Ok(Recovered {
        shared: Arc::new(shared),
        signer,
        lock,
        active,
        tree,
        streams,
        cut,
        left,
        unsigned,
    })
}

/// Opens what can be read, without changing or judging anything.
pub(super) fn open_read_only(dir: &Path, options: &LogOptions) -> Result<Shared, LogError> {
    let verifier = load_public_key(dir)?;
    let origin = checkpoint::origin(options.trust_domain.as_str());
    if verifier.name() != origin {
        let name = verifier.name();
        return Err(LogError::Key(format!("it is of `{name}`, not `{origin}`")));
    }
    let checkpoint = read_checkpoint(dir, &verifier)?;
    let firsts = segment::list(dir).map_err(LogError::io(dir))?;
    let mut offsets = Offsets::empty();
    let mut active = None;
    if let Some(&last) = firsts.last() {
        let path = dir.join(segment::relative(last));
        let file = Arc::new(files::open(&path).map_err(LogError::io(&path))?);
        let len = file.metadata().map_err(LogError::io(&path))?.len();
        let mut reader = FrameReader::new(file.clone(), HEADER_LEN, len);
        loop {
            match reader.next().map_err(LogError::io(&path))? {
                Some(Ok(frame)) if offsets.take(&frame, last).is_some() => {}
                Some(Err(segment::Fault::Crc { .. })) => offsets.push(reader.offset()),
                _ => break,
            }
        }
        active = Some(file);
    }
    let len = firsts.last().copied().unwrap_or(0) + offsets.len();
    let segments = Segments {
        firsts,
        active,
        offsets,
    };
    shared(dir, options, verifier, len, checkpoint, segments)
}

#[cfg_attr(
    not(feature = "index"),
    expect(unused_variables, reason = "only an archive is an option")
)]
fn shared(
    dir: &Path,
    options: &LogOptions,
    verifier: Verifier,
    len: u64,
    checkpoint: Checkpoint,
    segments: Segments,
) -> Result<Shared, LogError> {
    let lacking = lacking(dir, &segments.firsts)?;
    let damaged = sealed::damaged(dir, &verifier, &segments.firsts);
    Ok(Shared {
        damaged,
        dir: dir.into(),
        tiles: Tiles::new(dir),
        verifier,
        len: watch::Sender::new(len),
        checkpoint: watch::Sender::new(Arc::new(checkpoint)),
        gaps: watch::Sender::new(Arc::default()),
        #[cfg(feature = "index")]
        lock: std::sync::Weak::new(),
        segments: RwLock::new(segments),
        lacking: watch::Sender::new(lacking.into()),
        sealed: Mutex::new(VecDeque::new()),
        #[cfg(feature = "index")]
        book: Mutex::default(),
        #[cfg(feature = "index")]
        archive: options.archive.clone(),
    })
}

/// What each segment says that it lacks.
fn lacking(dir: &Path, firsts: &[u64]) -> Result<Vec<Lacking>, LogError> {
    let mut all = Vec::new();
    for first in firsts {
        let path = dir.join(segment::relative(*first));
        let sparse = files::open(&path).and_then(|file| segment::sparse_of(&file));
        match sparse {
            Ok(sparse) => all.extend(sparse.and_then(|s| Lacking::read(*first, &s))),
            // Whoever reads it is told, unless it went to an archive.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                #[cfg(feature = "index")]
                if let Ok(stub) = segment::Stub::read(dir, *first) {
                    all.extend(stub.sparse().and_then(|s| Lacking::read(*first, s)));
                }
            }
            Err(e) => return Err(LogError::io(path)(e)),
        }
    }
    Ok(all)
}

/// What was to become a segment when a process ended, and never did.
fn left(dir: &Path, firsts: &[u64]) -> io::Result<Vec<Dropping>> {
    let mut all = Vec::new();
    for first in firsts {
        let path = dir.join(segment::relative(*first));
        let aside = match files::open(&path.with_extension(segment::ASIDE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        // One that is half written was not told of.
        let Some(sparse) = segment::sparse_of(&aside)? else {
            continue;
        };
        let before = lacks(dir, *first)?;
        all.push(Dropping {
            segment: *first,
            digest: merkle::sha256(&sparse).to_vec(),
            previous: before.map_or_else(Vec::new, |before| merkle::sha256(&before).to_vec()),
        });
    }
    Ok(all)
}

/// What a segment says that it lacks, here or in an archive.
pub(super) fn lacks(dir: &Path, first: u64) -> io::Result<Option<Vec<u8>>> {
    match files::open(&dir.join(segment::relative(first))) {
        #[cfg(feature = "index")]
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let stub = segment::Stub::read(dir, first)?;
            Ok(stub.sparse().map(<[u8]>::to_vec))
        }
        opened => segment::sparse_of(&opened?),
    }
}

/// Removes what was to become a segment when a process ended.
pub(super) fn remove_aside(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir.join(segment::DIR))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == segment::ASIDE) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Loads the signing key, or makes it for a log that begins. A new key in an old
/// log would leave nothing to check the old checkpoints against.
fn load_key(dir: &Path, options: &LogOptions, fresh: bool) -> Result<Signer, LogError> {
    let origin = checkpoint::origin(options.trust_domain.as_str());
    let signer = signer(dir, options, &origin, fresh).map_err(LogError::Key)?;
    let public = dir.join(PUBLIC_KEY);
    if fresh {
        let text = format!("{}\n", signer.verifier());
        files::replace(&public, text.as_bytes(), files::Sync::Yes)
            .map_err(LogError::io(&public))?;
    }
    if load_public_key(dir)? != *signer.verifier() {
        let public = public.display();
        return Err(LogError::Key(format!(
            "it is not the one in `{public}`, or the log is not `{origin}`"
        )));
    }
    Ok(signer)
}

/// The key where the options say that it is; a file is made for a log that is.
#[cfg_attr(
    not(feature = "pkcs11"),
    expect(unused_variables, reason = "only a device is an option")
)]
fn signer(dir: &Path, options: &LogOptions, name: &str, fresh: bool) -> Result<Signer, String> {
    #[cfg(feature = "pkcs11")]
    if let Some(place) = &options.device {
        let known = match fresh {
            true => None,
            false => Some(load_public_key(dir).map_err(|e| e.to_string())?),
        };
        let signer = Signer::on_device(place, name, dir.join(PIN_REFUSED), known.as_ref());
        return signer.map_err(|e| format!("on token `{}`: {e}", place.token));
    }
    let path = dir.join(KEY);
    Signer::load(&path, name, fresh).map_err(|e| format!("`{}`: {e}", path.display()))
}

/// The signing key of a log that is only read, where it is there and the log's own.
pub(super) fn signer_of(dir: &Path, options: &LogOptions) -> Option<Signer> {
    load_key(dir, options, false).ok()
}

/// The trust domain whose log lies in `dir`.
pub(super) fn whose(dir: &Path) -> Result<TrustDomain, LogError> {
    let verifier = load_public_key(dir)?;
    let name = verifier.name();
    let domain = checkpoint::domain(name).and_then(|domain| TrustDomain::parse(domain).ok());
    domain.ok_or_else(|| LogError::Key(format!("it is of `{name}`, which is no log of a mesh")))
}

pub(super) fn load_public_key(dir: &Path) -> Result<Verifier, LogError> {
    let path = dir.join(PUBLIC_KEY);
    let text = files::read_text(&path, NOTE_LEN_MAX).map_err(LogError::io(&path))?;
    Verifier::parse(&text).map_err(|e| LogError::Key(format!("`{}`: {e}", path.display())))
}

/// Reads the latest checkpoint; the history must not know a later one.
fn read_checkpoint(dir: &Path, verifier: &Verifier) -> Result<Checkpoint, LogError> {
    let bad = |what: String| LogError::tampered(CHECKPOINT.into(), 0, 0, what);
    let note = match files::read_text(&dir.join(CHECKPOINT), NOTE_LEN_MAX) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(bad("the latest checkpoint is gone".into()));
        }
        other => other.map_err(LogError::io(dir.join(CHECKPOINT)))?,
    };
    let latest = Checkpoint::open(verifier, &note).map_err(|e| bad(e.to_string()))?;
    let history = history::read(dir).map_err(LogError::io(dir.join(HISTORY)))?;
    let known = checkpoint::notes(&history)
        .filter_map(|note| Checkpoint::open(verifier, note).ok())
        .map(|checkpoint| checkpoint.size)
        .max();
    match known {
        Some(size) if size > latest.size => Err(bad(format!(
            "it is of {} records, but one of {size} was signed before",
            latest.size
        ))),
        _ => Ok(latest),
    }
}

/// Replaces the latest checkpoint; durable when it returns.
pub(super) fn write_checkpoint(dir: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
    files::replace(
        &dir.join(CHECKPOINT),
        checkpoint.note.as_bytes(),
        files::Sync::Yes,
    )
}

/// Makes the segment that starts at `first`; durable when it returns.
pub(super) fn create_segment(
    dir: &Path,
    verifier: &Verifier,
    first: u64,
) -> io::Result<ActiveFile> {
    let path = dir.join(segment::relative(first));
    let header = Header {
        first_leaf: first,
        log_id: log_id(verifier),
    };
    // Whole or not at all: a segment with a torn header never has a name.
    files::replace(&path, &header.encode(), files::Sync::Yes)?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    Ok(ActiveFile {
        file: Arc::new(file),
        first,
        end: HEADER_LEN,
    })
}

fn reopen(dir: &Path, first: u64, end: u64) -> Result<ActiveFile, LogError> {
    let path: PathBuf = dir.join(segment::relative(first));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(LogError::io(&path))?;
    Ok(ActiveFile {
        file: Arc::new(file),
        first,
        end,
    })
}
