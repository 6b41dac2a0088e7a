//! A revision that is tried beside the one in force, and what is told of it.

use std::{fmt, sync::Arc};

use palisade_mesh::{
    diagnostic::Diagnostic,
    spiffe_id::SpiffeId,
    wire::policy::{Health, Revision, Trial},
};
use palisade_pdp::publish::Beside;
use palisade_proxy::{Candidate, PolicySlot};

use super::super::policy;
use crate::config::EngineChoice;

/// Tries revisions in the proxy `own`.
pub(super) struct InProxy {
    pub(super) slot: PolicySlot,
    pub(super) own: SpiffeId,
    /// The engine that decides here.
    pub(super) engine: EngineChoice,
}

impl fmt::Debug for InProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InProxy").field(&self.own).finish()
    }
}

impl Beside for InProxy {
    fn begin(&self, revision: &Revision, every: u32) -> Result<(), Diagnostic> {
        let snapshot = policy::of_revision_for(&self.own, revision)?;
        let candidate = Candidate::new(policy::plugged(snapshot, self.engine), every);
        self.slot.try_beside(Some(Arc::new(candidate)));
        Ok(())
    }

    fn end(&self) {
        self.slot.try_beside(None);
    }
}

/// What came of requests under the revision in force.
pub(super) fn health(slot: &PolicySlot) -> Option<Health> {
    let live = slot.load();
    let versions = live.as_ref()?.snapshot().versions();
    let health = slot.health(&versions);
    Some(Health {
        sha256: health.policy.0.to_vec(),
        sequence: health.sequence,
        decided: health.decided,
        undecided: health.undecided,
        ended: health.ended,
        server_errors: health.server_errors,
        decision_times: health.decision_times,
        request_times: health.request_times,
    })
}

/// What came of the revision that is tried beside it.
pub(super) fn trial(slot: &PolicySlot) -> Option<Trial> {
    let candidate = slot.candidate()?;
    let beside = slot.load().as_ref()?.snapshot().versions().sequence;
    let (versions, counts) = (candidate.versions(), candidate.counts(beside));
    Some(Trial {
        sha256: versions.policy.0.to_vec(),
        sequence: versions.sequence,
        beside,
        evaluated: counts.evaluated,
        newly_allowed: counts.newly_allowed,
        newly_denied: counts.newly_denied,
        newly_undecided: counts.newly_undecided,
        errors: counts.errors,
        refused: String::new(),
    })
}
