//! Policy revisions that the audit service keeps beside its log: what it takes in, and
//! from whom.

use std::sync::{Mutex, PoisonError};

use axum::{Json, Router, response::IntoResponse as _, routing::post};
use bytes::Bytes;
use palisade_audit::{
    ingest::{Keep, Unkept},
    merkle::Hash,
    policies::Policies,
};
use palisade_mesh::{diagnostic::Diagnostic, snapshot::Digest, spiffe_id::SpiffeId};
use palisade_pdp::bundle;
use serde::{Deserialize, Serialize};

use super::{AuditRole, broken};
use crate::control::api::Problem;

/// Keeps the revisions of one PDP.
pub(in crate::run) struct KeptPolicies {
    policies: Policies,
    pdp: SpiffeId,
    /// Held by whoever writes.
    writing: Mutex<()>,
}

impl KeptPolicies {
    pub(super) fn new(policies: Policies, pdp: SpiffeId) -> Self {
        Self {
            policies,
            pdp,
            writing: Mutex::new(()),
        }
    }
}

/// Where the local socket gives a revision that is kept.
pub(crate) const KEPT_ROUTE: &str = "/v1/audit/revision";

/// Which revision is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AskRevision {
    /// Digest, hexadecimal.
    pub(crate) digest: String,
}

impl AuditRole {
    pub(super) fn kept_routes(&self) -> Router {
        let kept = self.kept.clone();
        Router::new().route(
            KEPT_ROUTE,
            post(move |Json(asked): Json<AskRevision>| async move {
                let read = tokio::task::spawn_blocking(move || kept.bundle(&asked.digest)).await;
                match read {
                    Ok(Ok(bundle)) => bundle.into_response(),
                    Ok(Err(told)) => Problem::from(told).into_response(),
                    Err(e) => Problem::from(broken(&e.to_string())).into_response(),
                }
            }),
        )
    }
}

impl KeptPolicies {
    /// The bundle of a revision; nothing where it is not kept, or is not what its digest says.
    fn bundle(&self, digest: &str) -> Result<Vec<u8>, Diagnostic> {
        let Some(digest) = Digest::from_hex(digest) else {
            return Ok(Vec::new());
        };
        let read = self.policies.read(&digest.0);
        let bundle = read.map_err(|e| broken(&e.to_string()))?;
        let is_it = |bundle: &Vec<u8>| whole(&digest.0, bundle.clone().into()).is_ok();
        Ok(bundle.filter(is_it).unwrap_or_default())
    }
}

impl Keep for KeptPolicies {
    fn takes_from(&self, peer: &SpiffeId) -> bool {
        *peer == self.pdp
    }

    fn has(&self, digest: &Hash) -> Result<bool, Unkept> {
        let kept = self.policies.read(digest)?;
        // One that is damaged is given anew.
        Ok(kept.is_some_and(|bundle| whole(digest, bundle.into()).is_ok()))
    }

    fn keep(&self, digest: &Hash, bundle: &[u8]) -> Result<(), Unkept> {
        whole(digest, Bytes::copy_from_slice(bundle)).map_err(Unkept::Other)?;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.policies.keep(digest, bundle)?)
    }
}

/// Whether this is the whole revision of this digest: a slice, of which a proxy has one,
/// has the same.
///
/// # Errors
/// In words, why it is not.
pub(crate) fn whole(digest: &Hash, bundle: Bytes) -> Result<(), String> {
    let opened = bundle::open(&bundle).map_err(|e| match e.cause {
        Some(cause) => format!("{}: {cause}", e.message),
        None => e.message,
    })?;
    match (opened.digest.0 == *digest, opened.is_whole()) {
        (false, _) => Err(format!("its digest is {}", opened.digest)),
        (true, false) => Err("policies are left out of it".to_owned()),
        (true, true) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Hash, Bytes) {
        let policies = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        let compiled = palisade_pdp::author::load(&policies).compiled.unwrap();
        (compiled.digest.0, compiled.bundle)
    }

    /// Another digest, other bytes, half of it: only what its digest says is taken, and what
    /// was damaged on the disk is not counted as kept.
    #[test]
    fn only_the_whole_revision_of_its_digest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let pdp = SpiffeId::parse("spiffe://acme.test/palisade/pdp").unwrap();
        let policies = Policies::beside(dir.path());
        let kept = KeptPolicies::new(policies.clone(), pdp.clone());
        let (digest, bundle) = sample();
        assert!(!kept.has(&digest).unwrap());
        for (digest, bundle) in [
            ([1; 32], &bundle[..]),
            (digest, &bundle[..bundle.len() / 2]),
        ] {
            assert!(matches!(kept.keep(&digest, bundle), Err(Unkept::Other(_))));
        }
        let mut sliced = bundle::open(&bundle).unwrap().bundle;
        sliced.groups[0].policies.clear();
        let sliced = prost::Message::encode_to_vec(&sliced);
        assert!(whole(&digest, sliced.clone().into()).is_err());
        assert!(kept.keep(&digest, &sliced).is_err());
        assert!(!kept.has(&digest).unwrap());
        kept.keep(&digest, &bundle).unwrap();
        assert!(kept.has(&digest).unwrap());
        policies.keep(&digest, &sliced).unwrap();
        assert!(!kept.has(&digest).unwrap());
        assert!(kept.takes_from(&pdp));
        let other = SpiffeId::parse("spiffe://acme.test/palisade/proxy").unwrap();
        assert!(!kept.takes_from(&other));
    }
}
