//! Records of callers that got no identity, at a bounded rate.

use palisade_mesh::wire::record::{AuthnFailure, record::Body};

use super::Desk;
use crate::budget::{Budget, with_suppressed};

/// The budget for such records.
#[derive(Debug, Default)]
pub(super) struct Refusals(Budget);

impl Refusals {
    /// Leaves a record of a refused caller, or counts it.
    pub(super) fn note(&self, desk: &Desk, reason: &'static str, detail: String) {
        tracing::warn!(reason, detail, "workload got no identity");
        let Some(suppressed) = self.0.spend(desk.now_us()) else {
            return;
        };
        let failure = AuthnFailure {
            reason: reason.into(),
            listener: "workload_api".into(),
            detail: with_suppressed(detail, suppressed),
            ..AuthnFailure::default()
        };
        if let Err(error) = desk.recorder.note(Body::AuthnFailure(failure)) {
            tracing::error!(%error, "refused workload left no record");
        }
    }
}
