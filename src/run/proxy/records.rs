//! Where a proxy's records are kept until the log has them.
//!
//! One process writes a spool at a time. During an upgrade there are two, so each
//! takes the first spool that is free (`spool`, `spool.2`, …) and sends on what the
//! other left as soon as that one has ended, and signs how far that was: what somebody took
//! away meanwhile is missed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

#[cfg(feature = "full")]
use crate::config::RecordTarget;
#[cfg(feature = "full")]
use palisade_audit::log::Log;
use palisade_audit::spool::{Spool, SpoolError, SpoolOptions};
use palisade_mesh::{
    clock::Clock, diagnostic::Diagnostic, sink::RecordSink, spiffe_id::SpiffeId, svid::Identity,
};
use tokio_util::sync::CancellationToken;

use super::super::{Role, unusable};
use crate::{
    config::{Config, ProxySection},
    net::{directory::Whereabouts, heads::SvidSigner, tls},
};

/// Most spools of one state folder: each upgrade that comes before the records of the
/// last one are sent takes another.
const SPOOLS_MAX: u32 = 8;
/// How often a spool that another process still writes is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// Where its records are kept.
#[derive(Clone)]
pub(super) enum Kept {
    #[cfg(feature = "full")]
    Log(Log),
    Spool(Spools),
}

/// A spool of our own, and those that processes before left.
#[derive(Clone)]
pub(super) struct Spools {
    own: Arc<Spool>,
    left: Arc<Mutex<Vec<Arc<Spool>>>>,
}

impl Spools {
    pub(super) fn own(&self) -> &Spool {
        &self.own
    }

    /// Records that the log does not have.
    pub(super) fn waiting(&self) -> u64 {
        let left = lock_all(&self.left);
        let of_left: u64 = left.iter().map(|spool| spool.stats().waiting).sum();
        self.own.stats().waiting + of_left
    }
}

impl Kept {
    /// Writes out everything; blocks for about one fsync.
    pub(super) fn close(&self) {
        match self {
            #[cfg(feature = "full")]
            Self::Log(log) => log.close(),
            Self::Spool(spools) => spools.own.close(),
        }
    }

    /// The spools, where they are not kept in a log here.
    pub(super) fn spools(&self) -> Option<&Spools> {
        match self {
            #[cfg(feature = "full")]
            Self::Log(_) => None,
            Self::Spool(spools) => Some(spools),
        }
    }
}

/// Opens what `section` names. `upgrade` says that another process may still hold a
/// spool.
pub(super) fn open(
    config: &Config,
    section: &ProxySection,
    audit: Option<Whereabouts>,
    identity: &Identity,
    clock: &Clock,
    upgrade: bool,
    stop: &CancellationToken,
) -> Result<(Kept, Arc<dyn RecordSink>), Vec<Diagnostic>> {
    let reporter = identity.id();
    match (&section.records, audit) {
        #[cfg(feature = "full")]
        (RecordTarget::Log(folder), _) => {
            let (log, sink) = super::alone::log(folder, reporter, config.privacy(), clock)?;
            Ok((Kept::Log(log), sink))
        }
        (_, None) => Err(vec![unusable("records have nowhere to go")]),
        (_, Some(audit)) => {
            let opener = Opener {
                reporter,
                options: config.spool_options(),
                clock: clock.clone(),
            };
            let (path, own) = opener
                .first_free(&config.state_dir, upgrade)
                .map_err(|e| vec![unusable(&e.to_string())])?;
            own.sign_heads(Arc::new(SvidSigner(identity.clone())));
            let (identity, connecting) = (identity.clone(), identity.clone());
            let expected = config.trust_domain.role(Role::Audit.as_str());
            let connect = move || {
                let channel = tls::channel_to(&audit, &expected, &connecting);
                async move { Ok::<_, std::convert::Infallible>(channel) }
            };
            tokio::spawn(own.clone().uplink(connect.clone()));
            let spools = Spools {
                own: own.clone(),
                left: Arc::default(),
            };
            for left in others(&config.state_dir, &path) {
                let (opener, left_of) = (opener.clone(), spools.left.clone());
                let (connect, stop) = (connect.clone(), stop.clone());
                let signer = SvidSigner(identity.clone());
                tokio::spawn(async move {
                    let send = async {
                        let spool = opener.once_free(&left).await?;
                        if spool.has_left() {
                            spool.sign_heads(Arc::new(signer));
                            lock_all(&left_of).push(spool.clone());
                            tokio::join!(spool.clone().uplink(connect), last_word(&spool));
                            lock_all(&left_of).retain(|other| !Arc::ptr_eq(other, &spool));
                        }
                        spool.close();
                        Some(())
                    };
                    tokio::select! {
                        _ = send => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
            Ok((Kept::Spool(spools), own))
        }
    }
}

fn lock_all(left: &Mutex<Vec<Arc<Spool>>>) -> MutexGuard<'_, Vec<Arc<Spool>>> {
    left.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a spool once what is in it is delivered: its last heads tell what was.
async fn last_word(spool: &Arc<Spool>) {
    spool.delivered().await;
    let spool = spool.clone();
    // It waits for the disk.
    let _ = tokio::task::spawn_blocking(move || spool.close()).await;
}

#[derive(Clone)]
struct Opener {
    reporter: SpiffeId,
    options: SpoolOptions,
    clock: Clock,
}

impl Opener {
    fn open(&self, folder: &Path) -> Result<Arc<Spool>, SpoolError> {
        Spool::open(
            folder,
            self.reporter.clone(),
            self.options.clone(),
            self.clock.clone(),
        )
    }

    fn first_free(&self, state: &Path, upgrade: bool) -> Result<(PathBuf, Arc<Spool>), SpoolError> {
        let mut number = 1;
        loop {
            let path = folder(state, number);
            match self.open(&path) {
                Err(SpoolError::Locked(_)) if upgrade && number < SPOOLS_MAX => number += 1,
                opened => return opened.map(|spool| (path, spool)),
            }
        }
    }

    /// Opens a spool once its process has ended; none when it cannot be used.
    async fn once_free(&self, folder: &Path) -> Option<Arc<Spool>> {
        loop {
            let (opener, path) = (self.clone(), folder.to_path_buf());
            let opened = tokio::task::spawn_blocking(move || opener.open(&path)).await;
            match opened {
                Ok(Ok(spool)) => return Some(spool),
                Ok(Err(SpoolError::Locked(_))) => tokio::time::sleep(RETRY).await,
                Ok(Err(error)) => {
                    tracing::error!(%error, "records of a process before cannot be sent");
                    return None;
                }
                Err(_) => return None,
            }
        }
    }
}

fn folder(state: &Path, number: u32) -> PathBuf {
    match number {
        1 => state.join("spool"),
        n => state.join(format!("spool.{n}")),
    }
}

/// Spools that are there beside `own`.
fn others(state: &Path, own: &Path) -> Vec<PathBuf> {
    let all = (1..=SPOOLS_MAX).map(|number| folder(state, number));
    all.filter(|path| path != own && path.is_dir()).collect()
}

/// Takes the lock on the state folder of a proxy.
///
/// # Errors
/// `PLS5320` when another process holds it.
pub(super) fn lock(state: &Path) -> Result<fs::File, Diagnostic> {
    let path = state.join("proxy.lock");
    let open = || -> io::Result<fs::File> {
        crate::net::uds::private_folder(state)?;
        let mut options = fs::OpenOptions::new();
        options.create(true).truncate(false).write(true).open(&path)
    };
    let refused = |why: String| {
        Diagnostic::error(
            5320,
            format!("state folder `{}` cannot be used", state.display()),
        )
        .cause(why)
        .help("end the other proxy, or give this one a `state_dir` of its own; to replace a running one: palisade proxy upgrade NAME")
    };
    let file = open().map_err(|e| refused(e.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(refused("another proxy uses it".to_owned())),
        Err(fs::TryLockError::Error(e)) => Err(refused(e.to_string())),
    }
}
