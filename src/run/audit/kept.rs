//! Policy revisions that the audit service keeps beside its log: what it takes in, and
//! from whom.

use std::sync::{Mutex, PoisonError};

use axum::{Json, Router, response::IntoResponse as _, routing::post};
use bytes::Bytes;
use palisade_audit::{
    ingest::{Keep, Unkept},
    log::Log,
    merkle::Hash,
    policies::Policies,
};
use palisade_mesh::{diagnostic::Diagnostic, snapshot::Digest, spiffe_id::SpiffeId};
use palisade_pdp::{author::codes::FEATURE_UNKNOWN, bundle};
use serde::{Deserialize, Serialize};

use super::{AuditRole, broken};
use crate::control::api::Problem;

/// Keeps the revisions of one PDP.
pub(in crate::run) struct KeptPolicies {
    policies: Policies,
    /// The log that they are kept beside.
    log: Log,
    pdp: SpiffeId,
    /// Held by whoever writes.
    writing: Mutex<()>,
}

impl KeptPolicies {
    pub(super) fn new(policies: Policies, log: Log, pdp: SpiffeId) -> Self {
        Self {
            policies,
            log,
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

    fn keep(&self, digest: &Hash, bundle: Bytes) -> Result<(), Unkept> {
        whole(digest, bundle.clone()).map_err(|unlike| match unlike {
            Unlike::Other(why) => Unkept::Other(why),
            Unlike::NotUnderstood(why) => Unkept::NotUnderstood(why),
        })?;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.policies.keep(&self.log, digest, &bundle)?)
    }
}

/// Why bytes are not taken for the revision of a digest, in words.
#[derive(Debug)]
pub(crate) enum Unlike {
    /// They are something else.
    Other(String),
    /// They may be: they need a feature that this version lacks.
    NotUnderstood(String),
}

/// Whether this is the whole revision of this digest: a slice, of which a proxy has one,
/// has the same.
///
/// # Errors
/// Why it is not, or is not known to be.
pub(crate) fn whole(digest: &Hash, bundle: Bytes) -> Result<(), Unlike> {
    let opened = bundle::open(&bundle).map_err(|e| match (e.code.0, e.cause) {
        (FEATURE_UNKNOWN, _) => Unlike::NotUnderstood(e.message),
        (_, Some(cause)) => Unlike::Other(format!("{}: {cause}", e.message)),
        (_, None) => Unlike::Other(e.message),
    })?;
    let other = |why: String| Err(Unlike::Other(why));
    match (opened.digest.0 == *digest, opened.is_whole()) {
        (false, _) => other(format!("its digest is {}", opened.digest)),
        (true, false) => other("policies are left out of it".to_owned()),
        (true, true) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use palisade_audit::log::LogOptions;
    use palisade_mesh::{clock::Clock, spiffe_id::TrustDomain};

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
        let log = LogOptions::new(TrustDomain::parse("acme.test").unwrap());
        let log = Log::open(dir.path(), log, Clock::system()).unwrap();
        let kept = KeptPolicies::new(policies.clone(), log.clone(), pdp.clone());
        let (digest, bundle) = sample();
        assert!(!kept.has(&digest).unwrap());
        for (digest, bundle) in [
            ([1; 32], bundle.clone()),
            (digest, bundle.slice(..bundle.len() / 2)),
        ] {
            assert!(matches!(kept.keep(&digest, bundle), Err(Unkept::Other(_))));
        }
        let mut sliced = bundle::open(&bundle).unwrap().bundle;
        sliced.groups[0].policies.clear();
        let sliced = Bytes::from(prost::Message::encode_to_vec(&sliced));
        assert!(whole(&digest, sliced.clone()).is_err());
        assert!(kept.keep(&digest, sliced.clone()).is_err());
        assert!(!kept.has(&digest).unwrap());
        // What a later version wrote is no damage, and is asked for again.
        let mut later = bundle::open(&bundle).unwrap().bundle;
        later.features.push("later-1".to_owned());
        let later = Bytes::from(prost::Message::encode_to_vec(&later));
        let told = whole(&digest, later.clone()).unwrap_err();
        assert!(matches!(told, Unlike::NotUnderstood(_)), "{told:?}");
        let told = kept.keep(&digest, later).unwrap_err();
        assert!(matches!(told, Unkept::NotUnderstood(_)), "{told:?}");
        assert!(!kept.has(&digest).unwrap());
        kept.keep(&digest, bundle).unwrap();
        assert!(kept.has(&digest).unwrap());
        policies.keep(&log, &digest, &sliced).unwrap();
        assert!(!kept.has(&digest).unwrap());
        assert!(kept.takes_from(&pdp));
        let other = SpiffeId::parse("spiffe://acme.test/palisade/proxy").unwrap();
        assert!(!kept.takes_from(&other));
    }
}
