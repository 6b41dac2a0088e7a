//! Why an authority does not start or a change was not made, as told to operators.

use std::{io, path::PathBuf};

use palisade_mesh::diagnostic::Diagnostic;

use crate::{
    authority::mint::MintError, journal::JournalError, keystore::KeystoreError, store::StoreError,
};

/// Why the authority cannot work.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// There is an authority already.
    #[error("state directory `{0}` holds an authority already")]
    Exists(PathBuf),
    /// A repair found nothing to do.
    #[error("root and intermediate are valid")]
    Healthy,
    /// Another process holds the state directory.
    #[error("state directory `{0}` is in use by another process")]
    InUse(PathBuf),
    /// The journal of authorities does not verify.
    #[error("journal of authorities does not verify: {0}")]
    Journal(#[from] JournalError),
    /// Private keys cannot be sealed or opened.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// Lifetimes contradict each other.
    #[error("lifetimes contradict each other: {0}")]
    Lifetimes(&'static str),
    /// A certificate of an authority cannot be made.
    #[error(transparent)]
    Mint(#[from] MintError),
    /// No authority can sign, though the plan says one should.
    #[error("bug: no authority is active")]
    NoAuthority,
    /// A new authority's first certificate was refused by our own verification.
    #[error("new authority does not issue verifiable certificates: {0}")]
    Probe(String),
    /// There is no authority.
    #[error("state directory `{0}` holds no authority")]
    NoState(PathBuf),
    /// The state directory cannot be used.
    #[error("state directory `{path}` cannot be used: {source}")]
    StateDir {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read or write the state directory.
    #[error("state directory `{path}` has mode {mode:04o}")]
    StateDirLoose {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state belongs to another trust domain.
    #[error("state directory belongs to trust domain `{found}`, not `{expected}`")]
    TrustDomain {
        /// Configured.
        expected: String,
        /// On disk.
        found: String,
    },
}

impl CaError {
    /// The error as a person should read it.
    pub fn diagnostic(&self) -> Diagnostic {
        let error = |code| Diagnostic::error(code, self.to_string());
        match self {
            Self::Lifetimes(_) => error(4010)
                .help("set `root_lifetime`, `intermediate_lifetime` and `svid_ttl` so that each fits into the one before"),
            Self::StateDir { .. } => error(4011)
                .help("make it writable for the user that runs the authority"),
            Self::StateDirLoose { path, .. } => error(4011)
                .cause("it holds private keys; only its owner may enter")
                .help(format!("chmod 700 {}", path.display())),
            Self::Keystore(e) => keystore(e, error),
            Self::Journal(_) => error(4014)
                .cause("somebody changed the database, or it was restored beside another key-encryption key")
                .help("restore database and key-encryption key from one backup; compare with `palisade audit search class:credential`"),
            Self::Store(_) => error(4015)
                .help("check free space and permissions of the state directory"),
            Self::Exists(_) => error(4030)
                .cause("a second first start would make roots that nobody trusts")
                .help("start it: palisade run ca; or see how it stands: palisade ca status"),
            Self::NoState(_) => error(4031)
                .help("make one: palisade ca init; or put a backup back: palisade ca restore FILE"),
            Self::Healthy => error(4040)
                .cause("a repair is for an authority whose root or intermediate has ended")
                .help("to replace them all the same: palisade ca rotate root"),
            Self::InUse(_) => error(4016)
                .help("stop the other process, or give this one a state directory of its own"),
            Self::TrustDomain { .. } => error(4017)
                .cause("a trust domain cannot be renamed: every certificate carries it")
                .help("configure the trust domain it was made for, or use another state directory"),
            Self::Mint(_) | Self::NoAuthority | Self::Probe(_) => error(4018)
                .help("this is a fault in palisade; please report it with the log"),
        }
    }
}

fn keystore(e: &KeystoreError, error: impl Fn(u16) -> Diagnostic) -> Diagnostic {
    match e {
        KeystoreError::Sealed(_) => error(4013)
            .cause("it was sealed with another key-encryption key, or the database is damaged")
            .help("restore the key-encryption key that belongs to this state directory"),
        KeystoreError::Missing(_) => error(4012)
            .cause("a new one would not open the keys that exist")
            .help("restore the file from where it is kept; without it, start with a new state directory and new roots"),
        KeystoreError::Loose { path, .. } => error(4012)
            .cause("only its owner, the user that runs the authority or root, may read it")
            .help(format!("chmod 600 {}", path.display())),
        KeystoreError::Io { .. } | KeystoreError::Length(_) => error(4012)
            .help("the file holds 32 random bytes; it is made on the first start"),
        KeystoreError::Crypto => error(4018).help("this is a fault in palisade; please report it"),
    }
}
