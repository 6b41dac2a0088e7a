//! Where a role's own identity comes from: files, or a SPIFFE Workload API.
//!
//! Either way the result is an [`Identity`] that keeps rotating by itself while
//! listeners and connections use it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::StreamExt;
use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::{Identity, TrustBundle, X509Svid},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Context};
use tracing::{info, warn};
use zeroize::Zeroizing;

pub mod kept;

/// How long a Workload API is waited for before the kept SVID is taken.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often files are looked at for a change.
const FILES_INTERVAL: Duration = Duration::from_secs(1);
/// First and longest pause before the Workload API is asked again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Configuration of a role's identity; exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityConfig {
    /// PEM files, read again when they change.
    Files(Files),
    /// Address of a SPIFFE Workload API, `unix:///path` or `tcp://IP:PORT`.
    WorkloadApi(String),
}

impl IdentityConfig {
    /// Makes relative paths start at `base`.
    pub fn resolve(&mut self, base: &Path) {
        if let Self::Files(files) = self {
            for path in [&mut files.cert, &mut files.key, &mut files.bundle] {
                *path = base.join(&*path);
            }
        }
    }
}

/// PEM files of one identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key, PKCS#8.
    pub key: PathBuf,
    /// Root certificates of the trust domain.
    pub bundle: PathBuf,
}

/// Gets the identity and keeps it fresh in the background.
///
/// With several SVIDs to choose from, `wanted` picks one; else the first is taken.
///
/// # Errors
/// `PLS4201` when files cannot be used. A Workload API that does not answer yet is
/// waited for, not an error.
pub async fn acquire(
    config: &IdentityConfig,
    wanted: Option<SpiffeId>,
    clock: Clock,
) -> Result<Identity, Diagnostic> {
    acquire_or_kept(config, wanted, clock, None).await
}

/// As [`acquire`], but a Workload API that is not there does not keep a proxy from
/// starting as who it was: the kept SVID is used after two seconds, until there is a
/// newer one. One that answers that there is no identity for us is obeyed.
///
/// # Errors
/// As [`acquire`].
pub async fn acquire_or_kept(
    config: &IdentityConfig,
    wanted: Option<SpiffeId>,
    clock: Clock,
    keep: Option<kept::Keep>,
) -> Result<Identity, Diagnostic> {
    match config {
        IdentityConfig::Files(files) => from_files(files.clone(), clock),
        IdentityConfig::WorkloadApi(address) => {
            Ok(from_workload_api(address.clone(), wanted, clock, keep.map(Arc::new)).await)
        }
    }
}

fn from_files(files: Files, clock: Clock) -> Result<Identity, Diagnostic> {
    // Looked at before reading: what changes meanwhile is read again.
    let mut seen = modified(&files);
    let (svid, bundle) = read_files(&files)?;
    let identity = Identity::new(svid, bundle, clock).map_err(|e| unusable(&files.cert, &e))?;
    let watched = identity.clone();
    tokio::spawn(async move {
        let mut failed = false;
        loop {
            tokio::time::sleep(FILES_INTERVAL).await;
            let now = modified(&files);
            if now == seen && !failed {
                continue;
            }
            let news = now != seen;
            seen = now;
            match read_files(&files).and_then(|(svid, bundle)| {
                watched
                    .replace(svid, bundle)
                    .map_err(|e| unusable(&files.cert, &e))
            }) {
                Ok(()) => {
                    failed = false;
                    info!(
                        not_after_s = watched.not_after_s(),
                        "identity read again from files"
                    );
                }
                Err(error) => {
                    // Tried again: the fault may be ours, such as a lack of descriptors.
                    failed = true;
                    if news {
                        warn!(%error, "identity files are not usable, keeping the present one");
                    }
                }
            }
        }
    });
    Ok(identity)
}

fn modified(files: &Files) -> [Option<SystemTime>; 3] {
    [&files.cert, &files.key, &files.bundle].map(|p| p.metadata().and_then(|m| m.modified()).ok())
}

fn read_files(files: &Files) -> Result<(X509Svid, TrustBundle), Diagnostic> {
    let chain = read_certs(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| unusable(&files.key, &e))?;
    let svid = X509Svid::new(chain, Zeroizing::new(key.secret_der().to_vec()))
        .map_err(|e| unusable(&files.cert, &e))?;
    let trust_domain =
        TrustDomain::parse(svid.id.trust_domain()).map_err(|e| unusable(&files.cert, &e))?;
    let roots = read_certs(&files.bundle)?;
    Ok((
        svid,
        TrustBundle {
            trust_domain,
            roots,
        },
    ))
}

fn read_certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, Diagnostic> {
    let certs = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| unusable(path, &e))?;
    if certs.is_empty() {
        return Err(unusable(path, &"it holds no certificate"));
    }
    Ok(certs)
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> Diagnostic {
    Diagnostic::error(
        4201,
        format!("`{}` cannot be used as identity", path.display()),
    )
    .cause(why.to_string())
    .help("give PEM files: the chain leaf first, its PKCS#8 key, and the roots of the trust domain")
}

async fn from_workload_api(
    address: String,
    wanted: Option<SpiffeId>,
    clock: Clock,
    keep: Option<Arc<kept::Keep>>,
) -> Identity {
    let (first, mut ready) = tokio::sync::oneshot::channel();
    let mut first = Some(first);
    tokio::spawn(async move {
        let mut identity: Option<Identity> = None;
        let mut pause = RETRY.0;
        let patience = tokio::time::Instant::now() + PATIENCE;
        // Whether the Workload API gave an identity.
        let begun = AtomicBool::new(false);
        // What is kept is looked at once, and not at all when we were turned away.
        let mut may_use_kept = keep.is_some();
        loop {
            let followed = tokio::select! {
                followed = follow(
                    &address, wanted.as_ref(), &clock, &mut identity, &mut first,
                    (keep.as_ref(), &begun),
                ) => followed,
                () = out_of_patience(patience, &begun), if may_use_kept && identity.is_none() => {
                    may_use_kept = false;
                    identity = from_disk(keep.as_deref(), &clock);
                    if let Some(identity) = &identity
                        && let Some(first) = first.take()
                    {
                        drop(first.send(identity.clone()));
                    }
                    continue;
                }
            };
            match followed {
                Ok(()) => pause = RETRY.0,
                Err(error) => {
                    may_use_kept &= !is_refusal(error.as_ref());
                    warn!(%address, %error, "workload api gives no identity yet, asking again");
                    pause = (pause * 2).min(RETRY.1);
                }
            }
            let until = tokio::time::Instant::now() + pause;
            let until = match may_use_kept && identity.is_none() {
                true => until.min(patience.max(tokio::time::Instant::now())),
                false => until,
            };
            tokio::time::sleep_until(until).await;
        }
    });
    loop {
        match (&mut ready).await {
            Ok(identity) => return identity,
            // The task above never ends, so its sender is never lost.
            Err(_) => std::future::pending::<()>().await,
        }
    }
}

/// Resolves at `until`, unless there is an identity by then.
async fn out_of_patience(until: tokio::time::Instant, begun: &AtomicBool) {
    tokio::time::sleep_until(until).await;
    if begun.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

/// Whether a Workload API answered, and has no identity for us.
fn is_refusal(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(
        error.downcast_ref(),
        Some(WorkloadApiError::PermissionDenied(_) | WorkloadApiError::NoIdentityIssued)
    )
}

fn from_disk(keep: Option<&kept::Keep>, clock: &Clock) -> Option<Identity> {
    let loaded = keep?.load(clock).and_then(|kept| {
        let Some((svid, bundle)) = kept else {
            return Ok(None);
        };
        let identity = Identity::new(svid, bundle, clock.clone());
        identity.map(Some).map_err(|e| {
            Diagnostic::error(5303, "kept identity cannot be used")
                .cause(e.to_string())
                .help("the proxy waits for its Workload API")
        })
    });
    match loaded {
        Ok(Some(identity)) => {
            warn!(
                src.id = %identity.id(),
                not_after_s = identity.not_after_s(),
                "workload api is not there, going on with the kept identity"
            );
            Some(identity)
        }
        Ok(None) => None,
        Err(error) => {
            tracing::error!(%error, "kept identity is refused");
            None
        }
    }
}

/// Follows one stream until it ends; each message is the complete state.
async fn follow(
    address: &str,
    wanted: Option<&SpiffeId>,
    clock: &Clock,
    identity: &mut Option<Identity>,
    first: &mut Option<tokio::sync::oneshot::Sender<Identity>>,
    (keep, begun): (Option<&Arc<kept::Keep>>, &AtomicBool),
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let client = WorkloadApiClient::connect_to(address).await?;
    let mut updates = client.stream_x509_contexts().await?;
    while let Some(update) = updates.next().await {
        // Whoever has begun as somebody stays that.
        let own = identity.as_ref().map(Identity::id);
        let (svid, bundle) = pick(&update?, own.as_ref().or(wanted))?;
        if let Some(keep) = keep.cloned() {
            let (svid, bundle) = (svid.clone(), bundle.clone());
            let stored = tokio::task::spawn_blocking(move || keep.store(&svid, &bundle)).await;
            if let Ok(Err(error)) = stored {
                tracing::error!(%error, "identity is not kept");
            }
        }
        match identity {
            Some(identity) => identity.replace(svid, bundle)?,
            None => {
                let fresh = Identity::new(svid, bundle, clock.clone())?;
                begun.store(true, Ordering::Relaxed);
                if let Some(first) = first.take() {
                    drop(first.send(fresh.clone()));
                }
                *identity = Some(fresh);
            }
        }
    }
    Ok(())
}

fn pick(
    context: &X509Context,
    wanted: Option<&SpiffeId>,
) -> Result<(X509Svid, TrustBundle), Box<dyn std::error::Error + Send + Sync>> {
    let svid = match wanted {
        None => context.default_svid(),
        Some(id) => context
            .svids()
            .iter()
            .find(|s| s.spiffe_id().to_string() == id.as_str()),
    }
    .ok_or("the workload api gave no fitting SVID")?;
    let chain = svid
        .cert_chain()
        .iter()
        .map(|c| CertificateDer::from(c.as_bytes().to_vec()))
        .collect();
    let key = Zeroizing::new(svid.private_key().as_bytes().to_vec());
    let ours = X509Svid::new(chain, key)?;
    let trust_domain = TrustDomain::parse(ours.id.trust_domain())?;
    let roots = context
        .bundle_set()
        .get(svid.spiffe_id().trust_domain())
        .ok_or("the workload api gave no bundle of the trust domain")?
        .authorities()
        .iter()
        .map(|c| CertificateDer::from(c.as_bytes().to_vec()))
        .collect();
    Ok((
        ours,
        TrustBundle {
            trust_domain,
            roots,
        },
    ))
}
