//! The revision in force, ready to be asked by many at once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use palisade_mesh::{catalogue::Catalogue, snapshot::Versions, spread};

use crate::{
    decide::{Engine, Snapshot},
    publish::rollout::Load,
};

/// Most engines that are kept while nobody uses them; each holds caches of some megabytes.
const IDLE_MAX: usize = 16;

/// The revision in force, and engines of it that nobody uses at the moment. An engine
/// belongs to one thread while it decides.
pub(super) struct Force {
    pub(super) snapshot: Arc<Snapshot>,
    by_reference: bool,
    idle: Mutex<Vec<Engine>>,
    load: Mutex<Load>,
}

impl Force {
    /// A revision that index and caches decide by, or Cedar's own authorizer.
    pub(super) fn new(snapshot: Arc<Snapshot>, by_reference: bool) -> Self {
        Self {
            snapshot,
            by_reference,
            idle: Mutex::default(),
            load: Mutex::default(),
        }
    }

    /// Counts a question that it decided, and how long that took.
    pub(super) fn count(&self, took: Duration) {
        let mut load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        load.decided += 1;
        load.decision_times.resize(spread::BUCKETS, 0);
        if let Some(times) = load.decision_times.get_mut(spread::bucket(took)) {
            *times += 1;
        }
    }

    /// What it decided so far.
    pub(super) fn load(&self) -> Load {
        let load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        load.clone()
    }

    pub(super) fn catalogue(&self) -> &Catalogue {
        self.snapshot.catalogue()
    }

    /// Whether it is the policy revision with these versions.
    pub(super) fn is_of(&self, versions: &Versions) -> bool {
        let own = self.snapshot.versions();
        (own.policy, own.sequence) == (versions.policy, versions.sequence)
    }

    pub(super) fn sequence(&self) -> u64 {
        self.snapshot.versions().sequence
    }

    /// Lends an engine that nobody else uses.
    pub(super) fn with_engine<T>(&self, decide: impl FnOnce(&mut Engine) -> T) -> T {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = idle().pop();
        let mut engine = engine.unwrap_or_else(|| {
            let engine = self.snapshot.engine();
            match self.by_reference {
                true => engine.by_reference(),
                false => engine,
            }
        });
        let decided = decide(&mut engine);
        let mut idle = idle();
        if idle.len() < IDLE_MAX {
            idle.push(engine);
        }
        decided
    }
}
