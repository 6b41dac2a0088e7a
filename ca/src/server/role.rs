//! Identities of the mesh's own parts, kept fresh in the process of the authority.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use palisade_mesh::svid::{Identity, IdentityError, X509Svid, verify_chain};
use rustls_pki_types::UnixTime;

use super::Ca;
use crate::{
    issue::Refusal,
    renewal::{NAP_MAX, is_superseded, renewal_after},
    trust::TrustState,
};

/// Why a part of the mesh has no identity.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// What was issued does not serve TLS.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The authority refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Ca {
    /// The identity of a part of the mesh itself, renewed at half-life and given
    /// every new bundle for as long as the authority is held.
    ///
    /// # Errors
    /// As [`Ca::svid_for_role`].
    pub async fn identity_for_role(self: &Arc<Self>, role: &str) -> Result<Identity, RoleError> {
        let svid = self.svid_for_role(role).await?;
        let bundle = self.trust.borrow().bundle.clone();
        let identity = Identity::new(svid, bundle, self.clock.clone())?;
        let due_s = self.renewal_s(&identity);
        let keeping = keep(
            Arc::downgrade(self),
            role.to_owned(),
            identity.clone(),
            due_s,
        );
        tokio::spawn(self.closing.clone().run_until_cancelled_owned(keeping));
        Ok(identity)
    }

    /// When the identity's certificate should be renewed, seconds since the epoch.
    fn renewal_s(&self, identity: &Identity) -> i64 {
        let now_s = self.now_s();
        let left_s = u64::try_from(identity.not_after_s() - now_s).unwrap_or_default();
        let pause = renewal_after(Duration::from_secs(left_s));
        now_s.saturating_add_unsigned(pause.as_secs())
    }

    /// Takes over the present bundle, with a new certificate where `renew`.
    async fn refresh(&self, role: &str, identity: &Identity, renew: bool) -> Result<(), RoleError> {
        let svid = if renew {
            self.svid_for_role(role).await?
        } else {
            identity.svid()
        };
        let bundle = self.trust.borrow().bundle.clone();
        Ok(identity.replace(svid, bundle)?)
    }
}

/// Whether this certificate is to be replaced before its time: its authority goes, or
/// has gone already, where nobody was waited for.
fn is_refused(svid: &X509Svid, trust: &TrustState, now_s: i64) -> bool {
    let now = Duration::from_secs(u64::try_from(now_s).unwrap_or_default());
    let now = UnixTime::since_unix_epoch(now);
    is_superseded(svid, &trust.superseded).is_some()
        || verify_chain(&svid.chain, &trust.bundle, now).is_err()
}

async fn keep(ca: Weak<Ca>, role: String, identity: Identity, mut due_s: i64) {
    let Some(mut trust) = ca.upgrade().map(|ca| ca.trust()) else {
        return;
    };
    loop {
        let news = tokio::time::timeout(NAP_MAX, trust.changed()).await;
        let Some(ca) = ca.upgrade() else { return };
        let now_s = ca.now_s();
        // One that has not begun was issued before the clock was set back.
        let svid = identity.svid();
        let renew = now_s >= due_s
            || now_s < svid.not_before_s
            || is_refused(&svid, &trust.borrow(), now_s);
        if !renew && news.is_err() {
            continue;
        }
        match ca.refresh(&role, &identity, renew).await {
            Ok(()) if renew => due_s = ca.renewal_s(&identity),
            Ok(()) => {}
            // Asked again after a nap: the authority is in this very process.
            Err(error) => tracing::warn!(role, %error, "identity of a role cannot be renewed"),
        }
    }
}
