//! A rollout with its two revisions: what each proxy is sent follows from it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palisade_mesh::{catalogue::Service, spiffe_id::SpiffeId};

use super::Published;
use crate::publish::{
    registry::ProxyStatus,
    rollout::{Apis, Evidence, INSTANCE, Proxy, Rollout, Seat, Which},
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

    /// The revision of the two that a proxy shall enforce while `current` is in force; none where
    /// that is it.
    pub fn wanted(
        &self,
        seat: Seat<'_>,
        current: Option<&Arc<Published>>,
    ) -> Option<&Arc<Published>> {
        let candidate = self.candidate.sequence();
        let is_in_force = current.is_some_and(|current| current.sequence() == candidate);
        match self.which(seat) {
            Which::Candidate => Some(&self.candidate),
            // It is in force for everybody else, or is on its way back and not there yet.
            Which::Baseline if is_in_force && !self.rollout.has_ended() => Some(&self.baseline),
            Which::Baseline => None,
        }
    }

    /// What a proxy shall try beside what it enforces.
    pub fn tried(&self, seat: Seat<'_>) -> Option<&Arc<Published>> {
        match self.rollout.tried(self.which(seat))? {
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

    fn which(&self, seat: Seat<'_>) -> Which {
        // From its end on, what is in force is for everybody.
        if self.rollout.has_ended() {
            return Which::Baseline;
        }
        let services = self.services_of(seat.identity);
        self.rollout.wanted(seat, &services)
    }

    /// The services of an identity in either revision.
    fn services_of(&self, identity: &SpiffeId) -> Vec<String> {
        self.services(|service| service.identities.contains(identity))
    }

    /// Services of either revision.
    fn services(&self, is_wanted: impl Fn(&Service) -> bool) -> Vec<String> {
        let mut names: Vec<String> = [&self.baseline, &self.candidate]
            .into_iter()
            .flat_map(|published| published.compiled.catalogue.services())
            .filter(|service| is_wanted(service))
            .map(|service| service.id.short().to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// The candidate, where the decision APIs shall answer any question by it.
    pub fn wanted_of_apis(&self, apis: &Apis) -> Option<&Arc<Published>> {
        let apis = self.apis(apis);
        let rollout = Some(&self.rollout).filter(|rollout| !rollout.has_ended())?;
        match rollout.wanted(apis.seat(), &apis.services) {
            Which::Candidate => Some(&self.candidate),
            Which::Baseline => None,
        }
    }

    /// What the machine sees of the decision APIs, which answer about every service.
    pub(super) fn apis(&self, apis: &Apis) -> Proxy {
        Proxy {
            identity: apis.identity.clone(),
            instance: INSTANCE.to_owned(),
            services: self.services(|_| true),
            apis: true,
            returns: true,
            enforces: apis.enforces,
            tries: apis.tries,
            refused: apis.refused.clone(),
        }
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
            apis: false,
            returns: status.returns,
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
