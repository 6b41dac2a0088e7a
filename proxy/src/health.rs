//! What came of requests under each revision: by this a rollout tells a revision that
//! does harm from one that does not.
//!
//! Each worker counts for itself; a [`Ledger`] lives as long as the process, so that a
//! reload, which replaces the workers, forgets nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use palisade_mesh::{
    snapshot::{Digest, Versions},
    spread,
};

use crate::telemetry::Count;

/// Revisions that are remembered.
const REVISIONS_MAX: usize = 3;

/// What came of requests under one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Digest of the revision.
    pub policy: Digest,
    /// Its number.
    pub sequence: u64,
    /// Requests that were put to the engine.
    pub decided: u64,
    /// Of these, undecided.
    pub undecided: u64,
    /// Requests that were forwarded and have ended.
    pub ended: u64,
    /// Of these, answered with 5xx.
    pub server_errors: u64,
    /// How long decisions took, by the buckets of [`spread`].
    pub decision_times: Vec<u64>,
    /// How long requests took to their end, by the buckets of [`spread`].
    pub request_times: Vec<u64>,
}

/// The same in one worker, which alone writes it.
#[derive(Debug)]
pub(crate) struct Tally {
    decided: Count,
    undecided: Count,
    ended: Count,
    server_errors: Count,
    decision_times: [Count; spread::BUCKETS],
    request_times: [Count; spread::BUCKETS],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            decided: Count::default(),
            undecided: Count::default(),
            ended: Count::default(),
            server_errors: Count::default(),
            decision_times: std::array::from_fn(|_| Count::default()),
            request_times: std::array::from_fn(|_| Count::default()),
        }
    }
}

impl Tally {
    /// Counts a decision.
    pub(crate) fn decided(&self, undecided: bool, took: Duration) {
        self.decided.add(1);
        self.undecided.add(u64::from(undecided));
        observe(&self.decision_times, took);
    }

    /// Counts the end of a request that was forwarded.
    pub(crate) fn ended(&self, status: u16, took: Duration) {
        self.ended.add(1);
        self.server_errors.add(u64::from(status >= 500));
        observe(&self.request_times, took);
    }

    fn add_to(&self, sum: &mut Health) {
        let values = |counts: &[Count]| counts.iter().map(Count::value).collect::<Vec<_>>();
        sum.decided += self.decided.value();
        sum.undecided += self.undecided.value();
        sum.ended += self.ended.value();
        sum.server_errors += self.server_errors.value();
        spread::add(&mut sum.decision_times, &values(&self.decision_times));
        spread::add(&mut sum.request_times, &values(&self.request_times));
    }
}

fn observe(counts: &[Count], took: Duration) {
    if let Some(count) = counts.get(spread::bucket(took)) {
        count.add(1);
    }
}

/// The tallies of all workers, by revision; clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    tallies: Arc<Mutex<Vec<Entry>>>,
}

/// What one worker counted under a revision, by digest and number.
type Entry = (Digest, u64, Arc<Tally>);

impl Ledger {
    /// Opens the tally of one worker under a revision; the oldest are forgotten.
    pub(crate) fn open(&self, versions: &Versions) -> Arc<Tally> {
        let tally = Arc::<Tally>::default();
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.push((versions.policy, versions.sequence, tally.clone()));
        let mut known: Vec<u64> = tallies.iter().map(|(_, sequence, _)| *sequence).collect();
        known.sort_unstable_by(|a, b| b.cmp(a));
        known.dedup();
        known.truncate(REVISIONS_MAX);
        tallies.retain(|(_, sequence, _)| known.contains(sequence));
        tally
    }

    /// What came of requests under a revision.
    pub(crate) fn of(&self, versions: &Versions) -> Health {
        let mut sum = Health {
            policy: versions.policy,
            sequence: versions.sequence,
            ..Health::default()
        };
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        for (digest, sequence, tally) in tallies.iter() {
            if (*digest, *sequence) == (versions.policy, versions.sequence) {
                tally.add_to(&mut sum);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(sequence: u64) -> Versions {
        Versions {
            sequence,
            ..Versions::default()
        }
    }

    #[test]
    fn workers_are_added_up_by_revision() {
        let ledger = Ledger::default();
        let (one, other) = (ledger.open(&revision(1)), ledger.open(&revision(1)));
        one.decided(false, Duration::from_micros(1));
        one.ended(499, Duration::from_millis(1));
        other.decided(true, Duration::from_micros(1));
        other.ended(500, Duration::from_millis(1));
        ledger.open(&revision(2)).decided(false, Duration::ZERO);
        let health = ledger.of(&revision(1));
        assert_eq!((health.decided, health.undecided), (2, 1));
        assert_eq!((health.ended, health.server_errors), (2, 1));
        assert_eq!(health.request_times.iter().sum::<u64>(), 2);
        assert_eq!(ledger.of(&revision(2)).decided, 1);
    }

    #[test]
    fn the_last_revisions_are_remembered() {
        let ledger = Ledger::default();
        for n in 1..=REVISIONS_MAX as u64 + 1 {
            ledger.open(&revision(n)).decided(false, Duration::ZERO);
        }
        assert_eq!(ledger.of(&revision(1)).decided, 0);
        assert_eq!(ledger.of(&revision(2)).decided, 1);
    }
}
