//! The state directory as it is found: entered, locked, compared with its journal.

use std::{
    fs::{DirBuilder, File},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

use palisade_mesh::snapshot::Digest;

use super::super::{CaConfig, CaError};
use crate::{
    authority::Authority,
    journal::{Journal, JournalError},
    store::Stored,
};

/// Name of the database in the state directory.
pub(in crate::server) const DATABASE: &str = "ca.sqlite";
/// Name of the lock in the state directory.
pub(in crate::server) const LOCK: &str = "lock";

/// Makes or enters the state directory and takes its lock.
pub(in crate::server) fn enter(dir: &Path) -> Result<File, CaError> {
    let failed = |source| CaError::StateDir {
        path: dir.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed)?;
    let mode = std::fs::metadata(dir).map_err(failed)?.mode();
    if mode & 0o077 != 0 {
        return Err(CaError::StateDirLoose {
            path: dir.to_owned(),
            mode: mode & 0o7777,
        });
    }
    let lock = File::create(dir.join(LOCK)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(CaError::InUse(dir.to_owned())),
        Err(std::fs::TryLockError::Error(e)) => Err(failed(e)),
    }
}

pub(super) fn check_domain(config: &CaConfig, stored: &Stored) -> Result<(), CaError> {
    match &stored.trust_domain {
        Some(found) if found != config.trust_domain.as_str() => Err(CaError::TrustDomain {
            expected: config.trust_domain.to_string(),
            found: found.clone(),
        }),
        _ => Ok(()),
    }
}

/// Gives stored authorities the states of the journal, and leaves out those that
/// are over. Each must be in both, with the same certificate.
pub(super) fn verified(
    stored: &Stored,
    journal: &Journal,
) -> Result<Vec<(Authority, Vec<u8>)>, CaError> {
    let mut live = Vec::new();
    for (authority, sealed) in &stored.authorities {
        let digest = Digest::of(&authority.certificate).0;
        let state = journal.state(authority.key_id, &digest)?;
        if state.is_over() {
            continue;
        }
        let sealed = sealed
            .clone()
            .ok_or(JournalError::Authority(authority.key_id))?;
        live.push((
            Authority {
                state,
                ..authority.clone()
            },
            sealed,
        ));
    }
    match journal.missing(stored.authorities.iter().map(|(a, _)| a.key_id)) {
        Some(id) => Err(JournalError::Authority(id).into()),
        None => Ok(live),
    }
}
