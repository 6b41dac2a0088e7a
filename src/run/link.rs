//! The identities of the control plane's own parts.

#[cfg(feature = "full")]
use std::sync::Arc;

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, svid::Identity};

use super::Role;
use crate::{
    config::Config,
    net::identity::{self, IdentityConfig},
};

/// Where a part's identity comes from.
#[derive(Clone)]
pub(super) enum Source {
    /// The authority in this process.
    #[cfg(feature = "full")]
    Ca(Arc<palisade_ca::Ca>),
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
        #[cfg(feature = "full")]
        Source::Ca(ca) => ca
            .identity_for_role(role.as_str())
            .await
            .map_err(|refusal| {
                vec![
                    Diagnostic::error(
                        4202,
                        format!("the `{}` role got no certificate", role.as_str()),
                    )
                    .cause(refusal.to_string())
                    .help("see how the authority stands: palisade check"),
                ]
            }),
        Source::Configured(configured) => {
            let wanted = config.trust_domain.role(role.as_str());
            identity::acquire(configured, Some(wanted), clock.clone())
                .await
                .map_err(|d| vec![d])
        }
    }
}
