//! How a log is kept.

use std::{sync::Arc, time::Duration};

use palisade_mesh::spiffe_id::TrustDomain;

#[cfg(feature = "index")]
use crate::archive::Archive;
#[cfg(feature = "pkcs11")]
use crate::note::DeviceKey;
use crate::privacy::{Rules, Vault};

/// Most records that share one fsync, unless a single batch is larger.
pub const GROUP_RECORDS: usize = 1024;

/// Longest time a record waits for others to share its fsync.
pub const GROUP_WAIT: Duration = Duration::from_millis(5);

/// Size at which a segment is sealed and the next begun, in bytes.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Largest such size that can be asked for, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Age at which a segment is sealed.
pub const SEGMENT_AGE: Duration = Duration::from_secs(3600);

/// Time between checkpoints while records arrive.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// Bytes of disk kept back for the moment in which it is full.
pub const RESERVE_BYTES: u64 = 256 << 20;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Whose log it is; gives origin and reporter of its own records.
    pub trust_domain: TrustDomain,
    /// See [`SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// See [`SEGMENT_AGE`].
    pub segment_age: Duration,
    /// See [`GROUP_RECORDS`].
    pub group_records: usize,
    /// See [`GROUP_WAIT`].
    pub group_wait: Duration,
    /// See [`CHECKPOINT_EVERY`].
    pub checkpoint_every: Duration,
    /// See [`RESERVE_BYTES`]; at most a sixteenth of the file system.
    pub reserve_bytes: u64,
    /// Open a damaged log, or one that another process writes, to read from it.
    pub read_only: bool,
    /// What is personal in the records of this process.
    pub rules: Arc<Rules>,
    /// Keys for what reporters send beside their records; without them nothing of that is
    /// kept.
    pub vault: Option<Arc<Vault>>,
    /// The device that has the key of the log; a file of the log has it otherwise.
    #[cfg(feature = "pkcs11")]
    pub device: Option<DeviceKey>,
    /// Where old segments go; without it those that went cannot be read.
    #[cfg(feature = "index")]
    pub archive: Option<Arc<Archive>>,
}

impl LogOptions {
    /// The defaults for the log of `trust_domain`.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            segment_bytes: SEGMENT_BYTES,
            segment_age: SEGMENT_AGE,
            group_records: GROUP_RECORDS,
            group_wait: GROUP_WAIT,
            checkpoint_every: CHECKPOINT_EVERY,
            reserve_bytes: RESERVE_BYTES,
            read_only: false,
            rules: Arc::default(),
            vault: None,
            #[cfg(feature = "pkcs11")]
            device: None,
            #[cfg(feature = "index")]
            archive: None,
        }
    }
}
