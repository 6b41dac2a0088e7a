//! The door to the PDP: what the proxy asks of a policy snapshot.
//!
//! The proxy declares the traits and the binary plugs the engine in. A snapshot
//! is immutable and shared; a [`Decider`] belongs to one worker, so that its
//! caches need no lock. Beside the snapshot in force there may be one that is tried
//! ([`Candidate`]).

use std::{
    fmt,
    rc::Rc,
    sync::{Arc, LazyLock},
};

use arc_swap::{ArcSwapOption, Cache, Guard};
use palisade_mesh::{
    catalogue::{Catalogue, DeclaredHeader, Service},
    changes::{Changes, Follower},
    decision::{Answer, Pins, Question, SelfCheck},
    differences::Found,
    personal::{Mask, Personal},
    snapshot::{Digest, Versions},
    svid::PeerFacts,
};

use crate::{
    health::{self, Health, Ledger},
    shadow::{Candidate, Trial},
};

/// A policy snapshot as the PEP needs it.
pub trait PolicySnapshot: Send + Sync {
    /// Policy digest and sequence, and the kill list's sequence. The discovery
    /// version is filled in from the endpoint table.
    fn versions(&self) -> Versions;

    /// The services of this revision.
    fn catalogue(&self) -> &Arc<Catalogue>;

    /// What the engine's comparison with its reference has found so far; one that
    /// has no reference compares nothing.
    fn self_check(&self) -> SelfCheck {
        SelfCheck::default()
    }

    /// An engine of its own for one worker. Called on the worker's thread when
    /// it first sees the snapshot; must be cheap, requests wait for it.
    fn decider(self: Arc<Self>) -> Box<dyn Decider>;

    /// Digest of the revision without its entities, if it is known: tells a change of
    /// groups from one of policies in re-judgement records.
    fn rules(&self) -> Option<Digest> {
        None
    }

    /// When the authority signed the kill list that is held, microseconds since the
    /// Unix epoch; none where no list is followed or none was heard.
    fn kill_list_signed_us(&self) -> Option<i64> {
        None
    }

    /// Why this peer may hold no connection, as a constant word for records; none
    /// when it may. Asked at each handshake and whenever a snapshot takes over.
    fn barred(&self, peer: &PeerFacts<'_>) -> Option<&'static str> {
        let _ = peer;
        None
    }
}

/// A worker's own engine; owns its caches. One worker uses it, and another thread frees it.
pub trait Decider: Send {
    /// Answers one question.
    fn decide(&mut self, question: &Question<'_>) -> Answer;

    /// Answers one about a request of the connection that `pins` belongs to, so that what
    /// holds for all of its requests is found once.
    fn decide_on(&mut self, question: &Question<'_>, pins: &mut Pins) -> Answer {
        let _ = pins;
        self.decide(question)
    }
}

/// Where the binary puts the snapshot in force; empty until the first arrives.
/// Clones are the same slot.
#[derive(Debug, Clone, Default)]
pub struct PolicySlot {
    present: Arc<ArcSwapOption<LivePolicy>>,
    candidate: Arc<ArcSwapOption<Candidate>>,
    ledger: Ledger,
    changes: Changes,
}

impl PolicySlot {
    /// A slot that holds this snapshot.
    pub fn new(snapshot: Arc<LivePolicy>) -> Self {
        let slot = Self::default();
        slot.store(Some(snapshot));
        slot
    }

    /// Puts a snapshot in force: requests are decided under it from now on, and
    /// what is open is decided again.
    pub fn store(&self, snapshot: Option<Arc<LivePolicy>>) {
        self.swap(snapshot);
    }

    /// As [`PolicySlot::store`]; returns what was in force before.
    pub fn swap(&self, snapshot: Option<Arc<LivePolicy>>) -> Option<Arc<LivePolicy>> {
        let before = self.present.swap(snapshot);
        self.changes.tell();
        before
    }

    /// Puts `next` in force where `present` is; one that came in meanwhile stays.
    pub fn replace(&self, present: &Arc<LivePolicy>, next: Arc<LivePolicy>) {
        let before = self.present.compare_and_swap(present, Some(next));
        if before.as_ref().is_some_and(|b| Arc::ptr_eq(b, present)) {
            self.changes.tell();
        }
    }

    /// The snapshot in force.
    pub fn load(&self) -> Guard<Option<Arc<LivePolicy>>> {
        self.present.load()
    }

    /// Tries a revision beside the one in force, in place of the one that was tried
    /// before; none ends the trial. Nothing that is open is decided again.
    pub fn try_beside(&self, candidate: Option<Arc<Candidate>>) {
        self.candidate.store(candidate);
    }

    /// What is tried beside the snapshot in force.
    pub fn candidate(&self) -> Option<Arc<Candidate>> {
        self.candidate.load_full()
    }

    /// What came of requests under a revision, in this process.
    pub fn health(&self, versions: &Versions) -> Health {
        self.ledger.of(versions)
    }

    /// Follows what is put in force.
    pub(crate) fn follow(&self) -> Follower {
        self.changes.follow()
    }
}

/// A snapshot behind a pointer of known size, as the slot needs it.
pub struct LivePolicy {
    snapshot: Arc<dyn PolicySnapshot>,
    stale: bool,
}

impl LivePolicy {
    /// Wraps a snapshot for the slot.
    pub fn new(snapshot: Arc<dyn PolicySnapshot>) -> Self {
        Self {
            snapshot,
            stale: false,
        }
    }

    /// The same snapshot, as one that nothing may be decided under any more
    /// (`stale`), or again.
    #[must_use]
    pub fn aged(&self, stale: bool) -> Self {
        Self {
            snapshot: self.snapshot.clone(),
            stale,
        }
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &Arc<dyn PolicySnapshot> {
        &self.snapshot
    }

    /// Whether it is too old to decide: every request is undecided.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// A slot that no snapshot has reached yet.
    pub fn empty_slot() -> PolicySlot {
        PolicySlot::default()
    }
}

impl fmt::Debug for LivePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LivePolicy")
            .field(&self.snapshot.versions())
            .field(&self.stale)
            .finish()
    }
}

/// Snapshots that wait to be looked at; more than one takes the place of another only where
/// they come faster than a worker looks, or where nothing can be recorded.
const REPLACED_MAX: usize = 16;

/// A worker's view of the slot: follows it, and keeps what is derived from a
/// snapshot beside the snapshot it was derived from.
pub(crate) struct WorkerPolicy {
    slot: Cache<Arc<ArcSwapOption<LivePolicy>>, Option<Arc<LivePolicy>>>,
    candidate: Cache<Arc<ArcSwapOption<Candidate>>, Option<Arc<Candidate>>>,
    ledger: Ledger,
    service_name: String,
    live: Option<Live>,
    /// What was in force since the last look at what its engines have found.
    replaced: Vec<Arc<LivePolicy>>,
    trial: Option<Trial>,
    epoch: u64,
    cause: &'static str,
}

/// One snapshot, ready to decide.
pub(crate) struct Live {
    origin: Arc<LivePolicy>,
    pub(crate) catalogue: Arc<Catalogue>,
    /// The service of the inbound listener, if this snapshot knows it.
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) versions: Versions,
    /// Whether it is too old to decide.
    pub(crate) stale: bool,
    pub(crate) decider: Box<dyn Decider>,
    /// What of a request an open exchange keeps; the same for every snapshot that
    /// declares the same.
    pub(crate) declared: Rc<[DeclaredHeader]>,
    /// What comes of requests under this revision; of a tried one, nothing.
    pub(crate) health: Arc<health::Tally>,
}

impl WorkerPolicy {
    /// Follows `slot`; `service_name` is the inbound listener's service.
    pub(crate) fn new(slot: PolicySlot, service_name: &str) -> Self {
        Self {
            slot: Cache::new(slot.present),
            candidate: Cache::new(slot.candidate),
            ledger: slot.ledger,
            service_name: service_name.to_owned(),
            live: None,
            replaced: Vec::new(),
            trial: None,
            epoch: 0,
            cause: CAUSE_POLICY,
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
            let mut next = newest.map(|p| Live::new(p.clone(), &self.service_name));
            let mut cause = CAUSE_POLICY;
            if let (Some(before), Some(next)) = (&self.live, &mut next) {
                if before.declared == next.declared {
                    next.declared = before.declared.clone();
                }
                cause = before.cause_of(next);
            }
            if let Some(next) = &mut next {
                let before = self.live.as_ref().filter(|b| b.is_same_revision(next));
                let same = before.map(|before| before.health.clone());
                next.health = same.unwrap_or_else(|| self.ledger.open(&next.versions));
            }
            self.epoch += 1;
            self.cause = cause;
            let before = std::mem::replace(&mut self.live, next);
            self.replaced
                .extend(before.iter().map(|live| live.origin.clone()));
            if self.replaced.len() > REPLACED_MAX {
                self.replaced.remove(0);
            }
            retire(before);
        }
        self.live.as_mut()
    }

    /// What comparing engines with their reference has found, of each snapshot that this worker
    /// has left since [`WorkerPolicy::told`], and of the one in force.
    pub(crate) fn self_checks(&mut self) -> Vec<Found> {
        self.current();
        let live = self.live.as_ref().map(|live| &live.origin);
        let all = self.replaced.iter().chain(live);
        let found = |policy: &Arc<LivePolicy>| {
            let snapshot = &policy.snapshot;
            let sequence = snapshot.versions().sequence;
            Found::of(snapshot, sequence, snapshot.self_check())
        };
        all.map(found).collect()
    }

    /// Forgets what was left.
    pub(crate) fn told(&mut self) {
        let left = std::mem::take(&mut self.replaced);
        if !left.is_empty() {
            tokio::task::spawn_blocking(move || drop(left));
        }
    }

    /// The trial of what stands beside the snapshot in force; none where nothing does,
    /// or the same revision. For a worker without one it costs a pointer's comparison.
    pub(crate) fn trial(&mut self) -> Option<&mut Trial> {
        let newest = self.candidate.load().as_ref();
        let beside = self.live.as_ref().map(|live| live.versions);
        // Nothing is decided then, so there is nothing to compare.
        let stale = self.live.as_ref().is_some_and(|live| live.stale);
        let (Some(newest), Some(beside)) = (newest, beside) else {
            if self.trial.is_some() {
                retire(self.trial.take().map(Trial::into_live));
            }
            return None;
        };
        let known = self.trial.as_ref();
        if !known.is_some_and(|t| t.is_of(newest, beside.sequence)) {
            let next = Trial::begin(newest.clone(), &self.service_name, beside.sequence);
            let before = self.trial.replace(next);
            retire(before.map(Trial::into_live));
        }
        let trial = self.trial.as_mut();
        trial.filter(|trial| !stale && trial.digest() != beside.policy)
    }

    /// Number of the snapshot in force; another one for each that came.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// In what the snapshot in force differs from the one before, as a word for
    /// re-judgement records.
    pub(crate) fn cause(&self) -> &'static str {
        self.cause
    }
}

/// What records leave out while there is no snapshot that says it: all that can be personal in
/// them then, for nothing can be taken out of the log later.
pub(crate) static UNSAID: LazyLock<Mask> =
    LazyLock::new(|| Mask::of([Personal::Path, Personal::SourceIp]));

/// Causes of a re-judgement: policies or services; entities alone; the kill list.
const CAUSE_POLICY: &str = "policy";
const CAUSE_ENTITIES: &str = "entities";
const CAUSE_KILL_LIST: &str = "kill_list";

impl Live {
    /// In what `next` differs.
    fn cause_of(&self, next: &Self) -> &'static str {
        let (old, new) = (self.versions, next.versions);
        if old.policy == new.policy && old.kill_list != new.kill_list {
            return CAUSE_KILL_LIST;
        }
        match (self.origin.snapshot.rules(), next.origin.snapshot.rules()) {
            (Some(was), Some(is)) if was == is && old.policy != new.policy => CAUSE_ENTITIES,
            _ => CAUSE_POLICY,
        }
    }

    fn is_same_revision(&self, other: &Self) -> bool {
        let of = |live: &Self| (live.versions.policy, live.versions.sequence);
        of(self) == of(other)
    }

    /// Why this peer may hold no connection.
    pub(crate) fn barred(&self, peer: &PeerFacts<'_>) -> Option<&'static str> {
        self.origin.snapshot.barred(peer)
    }

    pub(crate) fn new(origin: Arc<LivePolicy>, service_name: &str) -> Self {
        let catalogue = origin.snapshot.catalogue().clone();
        Self {
            service: catalogue.by_name(service_name).cloned(),
            versions: origin.snapshot.versions(),
            decider: origin.snapshot.clone().decider(),
            declared: catalogue.headers().into(),
            stale: origin.stale,
            health: Arc::default(),
            catalogue,
            origin,
        }
    }
}

/// Freeing a large snapshot, or an engine with full caches, takes milliseconds; no request
/// should wait for it.
fn retire(live: Option<Live>) {
    if let Some(Live {
        origin,
        catalogue,
        decider,
        ..
    }) = live
    {
        tokio::task::spawn_blocking(move || drop((decider, origin, catalogue)));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Receiver, Sender, channel},
        thread::{self, ThreadId},
        time::Duration,
    };

    use palisade_mesh::spiffe_id::TrustDomain;

    use super::*;

    /// A snapshot whose deciders say on which thread they are freed.
    struct Snapshot(Arc<Catalogue>, Sender<ThreadId>);

    struct Freed(Sender<ThreadId>);

    impl Drop for Freed {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().id());
        }
    }

    impl Decider for Freed {
        fn decide(&mut self, _: &Question<'_>) -> Answer {
            unreachable!("nobody asks");
        }
    }

    impl PolicySnapshot for Snapshot {
        fn versions(&self) -> Versions {
            Versions::default()
        }

        fn catalogue(&self) -> &Arc<Catalogue> {
            &self.0
        }

        fn decider(self: Arc<Self>) -> Box<dyn Decider> {
            Box::new(Freed(self.1.clone()))
        }
    }

    fn live() -> (Arc<LivePolicy>, Receiver<ThreadId>) {
        let (told, freed) = channel();
        let domain = TrustDomain::parse("acme.test").unwrap();
        let catalogue = Catalogue::new(domain, Vec::new(), Vec::new());
        let snapshot = Snapshot(Arc::new(catalogue), told);
        (Arc::new(LivePolicy::new(Arc::new(snapshot))), freed)
    }

    /// The request that sees a new snapshot first does not wait until the caches of the old
    /// engine are freed; nor does one that sees a trial end.
    #[tokio::test]
    async fn an_old_engine_is_freed_by_another_thread() {
        let (first, freed) = live();
        let slot = PolicySlot::new(first);
        let mut worker = WorkerPolicy::new(slot.clone(), "shop/orders");
        assert!(worker.current().is_some());
        slot.store(Some(live().0));
        assert!(worker.current().is_some());
        let by = freed.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_ne!(by, thread::current().id());

        let (tried, freed) = live();
        let candidate = Candidate::new(tried.snapshot().clone(), 1);
        slot.try_beside(Some(Arc::new(candidate)));
        let _ = worker.trial();
        slot.try_beside(None);
        let _ = worker.trial();
        let by = freed.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_ne!(by, thread::current().id());
    }
}
