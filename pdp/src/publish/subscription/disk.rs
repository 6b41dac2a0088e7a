//! What outlives a restart: the last good revision, its age, the last endpoints.

use std::sync::Arc;

use palisade_mesh::{
    diagnostic::Diagnostic,
    wire::policy::{Endpoints, Revision},
};
use tokio::task::spawn_blocking;

use super::{
    super::{keep, word},
    Apply, Subscription,
    judged::{Believed, applied},
};
use crate::bundle::{Opened, trust};

impl Subscription {
    /// What was good before the restart is good now, unless somebody put something
    /// else in its place.
    pub(super) async fn restore<A>(&self, apply: &Apply<A>)
    where
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
    {
        let keep = self.keep.clone();
        let freshness = self.freshness.clone();
        let trust = self.config.trust.clone();
        let load = move || {
            let word = keep.load_word()?;
            // Known also when the revision itself is lost: nothing older comes in.
            if let Some(word) = &word {
                freshness.restore(word);
            }
            let Some(kept) = keep.load()? else {
                return Ok(None);
            };
            word::check(&kept, word.as_ref())?;
            let Opened { bundle, digest } = keep::open(&kept)?;
            let domain = trust::domain_of(&bundle.trust_domain)?;
            let trust = trust::load(trust.as_ref())?;
            let signed = trust::check(trust.as_ref(), &domain, digest, &kept)?;
            Ok(Some((kept, Believed { domain, signed })))
        };
        let kept = spawn_blocking(load).await;
        let failed = match kept {
            Ok(Ok(Some((kept, believed)))) => match applied(apply, kept.clone()).await {
                Ok(()) => {
                    self.in_force(kept, believed, true);
                    return;
                }
                Err(diagnostic) => diagnostic,
            },
            Ok(Err(diagnostic)) => diagnostic,
            Ok(Ok(None)) | Err(_) => return,
        };
        tracing::warn!(error = %failed, "kept policy revision cannot be used");
        self.state.send_modify(|s| s.last_error = Some(failed));
    }

    /// Where the others were is where they most likely are; each still has to prove
    /// who it is.
    pub(super) async fn restore_endpoints(&self) {
        let keep = self.keep.clone();
        match spawn_blocking(move || keep.load_endpoints()).await {
            Ok(Ok(Some(kept))) => drop(self.endpoints.send_replace(Arc::new(kept))),
            Ok(Err(error)) => tracing::warn!(%error, "kept endpoints cannot be used"),
            Ok(Ok(None)) | Err(_) => {}
        }
    }

    pub(super) async fn keep_endpoints(&self, endpoints: Arc<Endpoints>) {
        let keep = self.keep.clone();
        let kept = spawn_blocking(move || keep.store_endpoints(&endpoints)).await;
        if let Ok(Err(error)) = kept {
            tracing::error!(%error, "endpoints are not kept");
        }
    }

    pub(super) async fn keep_word(&self) {
        let (keep, freshness) = (self.keep.clone(), self.freshness.clone());
        let store = move || freshness.to_keep().map_or(Ok(()), |w| keep.store_word(&w));
        if let Ok(Err(error)) = spawn_blocking(store).await {
            tracing::error!(%error, "age of the policy revision is not kept");
        }
    }
}
