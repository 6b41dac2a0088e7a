//! A witness of other logs (C2SP tlog-witness): cosigns what is consistent with all it
//! has seen of a log, and remembers it.
//!
//! Of each log it keeps the latest checkpoint that it cosigned, in a file of its own.
//! A log that shows two histories to two parties cannot get both cosigned.
//!
//! Answers to requests are those that the specification names; a size that was cosigned
//! may be asked about by anybody, for a checkpoint and its signature are public.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use palisade_mesh::clock::Clock;

use crate::{
    checkpoint::Head,
    cosignature::{Cosigner, CosignerKey},
    files,
    merkle::{self, Hash},
    note::{self, NoteError, Verifier},
};

mod request;

pub use request::{AddCheckpoint, REQUEST_LEN_MAX};

/// File of the key that its cosignatures are checked with.
const PUBLIC_KEY: &str = "witness.pub";

/// Cosigns checkpoints of the logs that it knows.
#[derive(Debug)]
pub struct Witness {
    dir: PathBuf,
    cosigner: Cosigner,
    logs: BTreeMap<String, Vec<Verifier>>,
    clock: Clock,
    // Held from reading what was cosigned to having written what is: two requests must
    // not both be measured against the same checkpoint.
    turn: Mutex<()>,
}

/// Why a checkpoint is not cosigned; each has its status of HTTP.
#[derive(Debug, thiserror::Error)]
pub enum WitnessRefusal {
    /// 400: the request is none.
    #[error("{0}")]
    Malformed(&'static str),
    /// 403: no key that is trusted for the log has signed.
    #[error("checkpoint: {0}")]
    Unsigned(NoteError),
    /// 404: the log is not one of ours.
    #[error("log `{0}` is not witnessed here")]
    Unknown(String),
    /// 409: the sender starts at another size than was cosigned last, or has two roots
    /// for one size.
    #[error("{size} records were cosigned last")]
    Conflict {
        /// Size of the latest checkpoint that was cosigned.
        size: u64,
        /// Whether the log has shown two roots for one size.
        forked: bool,
    },
    /// 422: the tree is not a continuation of what was cosigned.
    #[error("the proof does not lead from {old} to {size} records: {cause}")]
    Inconsistent {
        /// Size that was cosigned last.
        old: u64,
        /// Size that was to be cosigned.
        size: u64,
        /// What is wrong with the proof.
        cause: merkle::ProofError,
    },
    /// 500: what was cosigned cannot be read or written; nothing is cosigned then.
    #[error("state of the witness: {0}")]
    State(#[from] io::Error),
}

impl WitnessRefusal {
    /// The status of HTTP that the specification asks for.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::Unsigned(_) => 403,
            Self::Unknown(_) => 404,
            Self::Conflict { .. } => 409,
            Self::Inconsistent { .. } => 422,
            Self::State(_) => 500,
        }
    }
}

/// What a witness knows of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which log.
    pub origin: String,
    /// Records under the checkpoint that was cosigned last; 0 before the first.
    pub size: u64,
    /// Whether the log has shown two histories; both are kept in the witness's folder.
    pub forked: bool,
}

/// The latest checkpoint that was cosigned.
struct Last {
    size: u64,
    root: Hash,
    note: String,
}

impl Witness {
    /// A witness of `logs` that keeps its memory in `dir`.
    ///
    /// # Errors
    /// Those of the file system; what was cosigned before must be readable.
    pub fn open(
        dir: &Path,
        cosigner: Cosigner,
        logs: Vec<Verifier>,
        clock: Clock,
    ) -> io::Result<Self> {
        files::create_dir(dir)?;
        let public = format!("{}\n", cosigner.key());
        files::replace(&dir.join(PUBLIC_KEY), public.as_bytes(), files::Sync::Yes)?;
        let mut by_origin: BTreeMap<String, Vec<Verifier>> = BTreeMap::new();
        for log in logs {
            by_origin.entry(log.name().into()).or_default().push(log);
        }
        let witness = Self {
            dir: dir.into(),
            cosigner,
            logs: by_origin,
            clock,
            turn: Mutex::new(()),
        };
        for origin in witness.logs.keys() {
            witness.last(origin)?;
        }
        Ok(witness)
    }

    /// The key that its cosignatures are checked with.
    pub fn key(&self) -> CosignerKey {
        self.cosigner.key()
    }

    /// What it knows of its logs.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = |origin: &String| Seen {
            origin: origin.clone(),
            size: self.last(origin).map_or(0, |last| last.size),
            forked: self.file(origin, "fork").exists(),
        };
        self.logs.keys().map(seen).collect()
    }

    /// Answers an `add-checkpoint`: gives the signature lines of the cosignature, once
    /// the checkpoint is on disk. Blocks for an fsync.
    ///
    /// # Errors
    /// [`WitnessRefusal`] when the checkpoint is not cosigned.
    pub fn add_checkpoint(&self, body: &str) -> Result<String, WitnessRefusal> {
        let AddCheckpoint {
            old,
            proof,
            checkpoint,
        } = AddCheckpoint::parse(body).map_err(WitnessRefusal::Malformed)?;
        let text = self.signed_text(&checkpoint)?;
        let malformed = |_| WitnessRefusal::Malformed("the text is no checkpoint");
        let head = Head::read(text).map_err(malformed)?;
        if old > head.size {
            let what = "the old size is larger than the checkpoint's";
            return Err(WitnessRefusal::Malformed(what));
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.last(head.origin)?;
        // Both are signed, whichever size up to its own the sender says that it begins at.
        if !last.note.is_empty() && head.size == last.size && head.root != last.root {
            self.keep_fork(head.origin, &last.note, &checkpoint)?;
            let (size, forked) = (last.size, true);
            return Err(WitnessRefusal::Conflict { size, forked });
        }
        if old != last.size {
            let (size, forked) = (last.size, false);
            return Err(WitnessRefusal::Conflict { size, forked });
        }
        let size = head.size;
        merkle::verify_consistency(old, &last.root, size, &head.root, &proof)
            .map_err(|cause| WitnessRefusal::Inconsistent { old, size, cause })?;
        // The point of no return: what is cosigned is remembered first.
        // Of a tree that is known nothing has to be remembered anew.
        if head.size != last.size || last.note.is_empty() {
            let file = self.file(head.origin, "checkpoint");
            files::replace(&file, checkpoint.as_bytes(), files::Sync::Yes)?;
        }
        let now_s = u64::try_from(self.clock.now_us() / 1_000_000).unwrap_or_default();
        Ok(self.cosigner.cosign(text, now_s)?)
    }

    /// The text of a checkpoint that a trusted key has signed.
    fn signed_text<'a>(&self, checkpoint: &'a str) -> Result<&'a str, WitnessRefusal> {
        let malformed = |_| WitnessRefusal::Malformed("the checkpoint is no signed note");
        let (text, _) = note::parts(checkpoint).map_err(malformed)?;
        let origin = text.lines().next().unwrap_or_default();
        let keys = self.logs.get(origin);
        let keys = keys.ok_or_else(|| WitnessRefusal::Unknown(origin.into()))?;
        let mut refused = NoteError::Unsigned(origin.into());
        for key in keys {
            match key.open(checkpoint) {
                Ok(text) => return Ok(text),
                Err(error) => refused = error,
            }
        }
        Err(WitnessRefusal::Unsigned(refused))
    }

    fn last(&self, origin: &str) -> io::Result<Last> {
        let path = self.file(origin, "checkpoint");
        let note = match fs::read_to_string(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Last {
                    size: 0,
                    root: merkle::empty_root(),
                    note: String::new(),
                });
            }
            other => other?,
        };
        // Beginning anew would let the log begin anew, too.
        let damaged = |e: NoteError| {
            let what = format!("`{}` is damaged: {e}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, what)
        };
        let (text, _) = note::parts(&note).map_err(damaged)?;
        let Head { size, root, .. } = Head::read(text).map_err(damaged)?;
        Ok(Last { size, root, note })
    }

    /// Keeps two checkpoints of one size that the log has signed: the first such pair
    /// is proof enough.
    fn keep_fork(&self, origin: &str, ours: &str, theirs: &str) -> io::Result<()> {
        tracing::error!(origin, "a witnessed log has signed two roots for one size");
        let file = self.file(origin, "fork");
        if file.exists() {
            return Ok(());
        }
        files::replace(
            &file,
            format!("{ours}{theirs}").as_bytes(),
            files::Sync::Yes,
        )
    }

    /// A file about one log; an origin may hold what a file name must not.
    fn file(&self, origin: &str, ending: &str) -> PathBuf {
        let name = merkle::hex(&merkle::sha256(origin.as_bytes()));
        self.dir.join(format!("{name}.{ending}"))
    }
}

#[cfg(test)]
mod tests;
