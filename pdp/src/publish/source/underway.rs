//! A rollout with its two revisions: what each proxy is sent follows from it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palisade_mesh::spiffe_id::SpiffeId;

use super::Published;
use crate::publish::{
    registry::ProxyStatus,
    rollout::{Evidence, Proxy, Rollout, Which},
};

/// A revision on its way to the proxies, or the last one that was.
#[derive(Debug, Clone)]
pub struct Underway {
    /// Where it stands.
    pub rollout: Rollout,
    /// The revision before it.
    pub baseline: Arc<Published>,
    /// The revision itself.
    pub candidate: Arc<Published>,
    evidence: Arc<Mutex<Arc<Evidence>>>,
}

impl Underway {
    pub(super) fn new(
        rollout: Rollout,
        baseline: Arc<Published>,
        candidate: Arc<Published>,
    ) -> Self {
        Self {
            rollout,
            baseline,
            candidate,
            evidence: Arc::default(),
        }
    }

    /// The candidate, where a proxy shall enforce it; otherwise it enforces what is in
    /// force.
    pub fn wanted(&self, identity: &SpiffeId, instance: &str) -> Option<&Arc<Published>> {
        match self.which(identity, instance) {
            Which::Candidate => Some(&self.candidate),
            Which::Baseline => None,
        }
    }

    /// What a proxy shall try beside what it enforces.
    pub fn tried(&self, identity: &SpiffeId, instance: &str) -> Option<&Arc<Published>> {
        match self.rollout.tried(self.which(identity, instance))? {
            Which::Candidate => Some(&self.candidate),
            Which::Baseline => Some(&self.baseline),
        }
    }

    /// What came of requests so far.
    pub fn evidence(&self) -> Arc<Evidence> {
        self.lock().clone()
    }

    /// Replaces what is known of requests.
    pub(super) fn tell(&self, evidence: Arc<Evidence>) {
        *self.lock() = evidence;
    }

    fn which(&self, identity: &SpiffeId, instance: &str) -> Which {
        // From its end on, what is in force is for everybody.
        if self.rollout.has_ended() {
            return Which::Baseline;
        }
        let services = self.services_of(identity);
        self.rollout.wanted(identity, instance, &services)
    }

    /// The services of an identity in either revision.
    fn services_of(&self, identity: &SpiffeId) -> Vec<String> {
        let mut names: Vec<String> = [&self.baseline, &self.candidate]
            .into_iter()
            .flat_map(|published| published.compiled.catalogue.services())
            .filter(|service| service.identities.contains(identity))
            .map(|service| service.id.short().to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// What the machine sees of a proxy.
    pub(super) fn proxy(&self, status: &ProxyStatus) -> Proxy {
        let candidate = self.rollout.candidate.sequence;
        let nack = status.nack.as_ref();
        let nack = nack.map(|n| (n.sequence, format!("{}: {}", n.code, n.message)));
        let trial = status.status.as_ref().and_then(|s| s.trial.as_ref());
        let untried = trial.filter(|t| t.sequence == candidate && !t.refused.is_empty());
        Proxy {
            services: self.services_of(&status.identity),
            identity: status.identity.clone(),
            instance: status.instance.clone(),
            enforces: status.acked_sequence,
            tries: trial.map_or(0, |t| match t.refused.is_empty() {
                true => t.sequence,
                false => 0,
            }),
            refused: nack
                .filter(|(sequence, _)| *sequence == candidate)
                .or_else(|| untried.map(|t| (t.sequence, t.refused.clone()))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Evidence>> {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
