//! The identities of the control plane's own parts.

use std::{sync::Arc, time::Duration};

use palisade_ca::Ca;
use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    svid::{Identity, TrustBundle},
};
use tracing::warn;

use super::Role;
use crate::{
    config::Config,
    net::identity::{self, IdentityConfig},
};

/// How often a part looks whether its certificate is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where a part's identity comes from.
pub(super) enum Source {
    /// The authority in this process.
    Ca(Arc<Ca>),
    /// Files or a Workload API.
    Configured(IdentityConfig),
}

/// Gets the identity of `role` and keeps it fresh.
///
/// # Errors
/// When it cannot be had. A Workload API that is not there yet is waited for.
pub(super) async fn identity(
    source: &Source,
    role: Role,
    config: &Config,
    clock: &Clock,
) -> Result<Identity, Vec<Diagnostic>> {
    match source {
        Source::Ca(ca) => of_ca(ca.clone(), role, clock).await,
        Source::Configured(configured) => {
            let wanted = config.trust_domain.role(role.as_str());
            identity::acquire(configured, Some(wanted), clock.clone())
                .await
                .map_err(|d| vec![d])
        }
    }
}

async fn of_ca(ca: Arc<Ca>, role: Role, clock: &Clock) -> Result<Identity, Vec<Diagnostic>> {
    let failed = |cause: String| {
        vec![
            Diagnostic::error(
                4202,
                format!("the `{}` role got no certificate", role.as_str()),
            )
            .cause(cause)
            .help("see how the authority stands: palisade check"),
        ]
    };
    let svid = ca
        .svid_for_role(role.as_str())
        .await
        .map_err(|e| failed(e.to_string()))?;
    let identity =
        Identity::new(svid, bundle(&ca), clock.clone()).map_err(|e| failed(e.to_string()))?;
    tokio::spawn(renew(ca, role, identity.clone(), clock.clone()));
    Ok(identity)
}

fn bundle(ca: &Ca) -> TrustBundle {
    ca.trust().borrow().bundle.clone()
}

/// Renews at half of the certificate's life, and whenever the bundle changes.
async fn renew(ca: Arc<Ca>, role: Role, identity: Identity, clock: Clock) {
    let mut trust = ca.trust();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            changed = trust.changed() => if changed.is_err() { return },
        }
        let svid = identity.svid();
        let half = svid.not_before_s + (svid.not_after_s - svid.not_before_s) / 2;
        let due = clock.now_us() / 1_000_000 >= half;
        if !due && bundle(&ca) == identity.bundle() {
            continue;
        }
        match ca.svid_for_role(role.as_str()).await {
            Ok(fresh) => {
                if let Err(error) = identity.replace(fresh, bundle(&ca)) {
                    warn!(role = role.as_str(), %error, "fresh certificate is not usable");
                }
            }
            Err(error) => warn!(role = role.as_str(), %error, "certificate cannot be renewed yet"),
        }
    }
}
