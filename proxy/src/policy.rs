//! The door to the PDP: what the proxy asks of a policy snapshot.
//!
//! The proxy declares the traits and the binary plugs the engine in. A snapshot
//! is immutable and shared; a [`Decider`] belongs to one worker, so that its
//! caches need no lock.

use std::{fmt, sync::Arc};

use arc_swap::{ArcSwapOption, Cache};
use palisade_mesh::{
    catalogue::{Catalogue, Service},
    decision::{Answer, Question},
    snapshot::Versions,
};

/// A policy snapshot as the PEP needs it.
pub trait PolicySnapshot: Send + Sync {
    /// Policy digest and sequence, and the kill list's sequence. The discovery
    /// version is filled in from the endpoint table.
    fn versions(&self) -> Versions;

    /// The services of this revision.
    fn catalogue(&self) -> &Arc<Catalogue>;

    /// An engine of its own for one worker. Called on the worker's thread when
    /// it first sees the snapshot; must be cheap, requests wait for it.
    fn decider(self: Arc<Self>) -> Box<dyn Decider>;
}

/// A worker's own engine; owns its caches, is not `Send`.
pub trait Decider {
    /// Answers one question.
    fn decide(&mut self, question: &Question<'_>) -> Answer;
}

/// Where the binary puts the snapshot in force; empty until the first arrives.
pub type PolicySlot = Arc<ArcSwapOption<LivePolicy>>;

/// A snapshot behind a pointer of known size, as the slot needs it.
pub struct LivePolicy(Arc<dyn PolicySnapshot>);

impl LivePolicy {
    /// Wraps a snapshot for the slot.
    pub fn new(snapshot: Arc<dyn PolicySnapshot>) -> Self {
        Self(snapshot)
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &Arc<dyn PolicySnapshot> {
        &self.0
    }

    /// A slot that no snapshot has reached yet.
    pub fn empty_slot() -> PolicySlot {
        Arc::new(ArcSwapOption::empty())
    }
}

impl fmt::Debug for LivePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LivePolicy")
            .field(&self.0.versions())
            .finish()
    }
}

/// A worker's view of the slot: follows it, and keeps what is derived from a
/// snapshot beside the snapshot it was derived from.
pub(crate) struct WorkerPolicy {
    slot: Cache<PolicySlot, Option<Arc<LivePolicy>>>,
    service_name: String,
    live: Option<Live>,
}

/// One snapshot, ready to decide.
pub(crate) struct Live {
    origin: Arc<LivePolicy>,
    pub(crate) catalogue: Arc<Catalogue>,
    /// The service of the inbound listener, if this snapshot knows it.
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) versions: Versions,
    pub(crate) decider: Box<dyn Decider>,
}

impl WorkerPolicy {
    /// Follows `slot`; `service_name` is the inbound listener's service.
    pub(crate) fn new(slot: PolicySlot, service_name: &str) -> Self {
        Self {
            slot: Cache::new(slot),
            service_name: service_name.to_owned(),
            live: None,
        }
    }

    /// The snapshot in force, or `None` when there is none yet.
    pub(crate) fn current(&mut self) -> Option<&mut Live> {
        let newest = self.slot.load().as_ref();
        let fresh = match (&self.live, newest) {
            (Some(live), Some(newest)) => Arc::ptr_eq(&live.origin, newest),
            (None, None) => true,
            _ => false,
        };
        if !fresh {
            let next = newest.map(|p| Live::new(p.clone(), &self.service_name));
            retire(std::mem::replace(&mut self.live, next));
        }
        self.live.as_mut()
    }
}

impl Live {
    fn new(origin: Arc<LivePolicy>, service_name: &str) -> Self {
        let catalogue = origin.0.catalogue().clone();
        Self {
            service: catalogue.by_name(service_name).cloned(),
            versions: origin.0.versions(),
            decider: origin.0.clone().decider(),
            catalogue,
            origin,
        }
    }
}

/// Freeing a large snapshot takes milliseconds; no request should wait for it.
fn retire(live: Option<Live>) {
    if let Some(Live {
        origin, catalogue, ..
    }) = live
    {
        tokio::task::spawn_blocking(move || drop((origin, catalogue)));
    }
}
