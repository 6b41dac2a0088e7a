//! How many answers there were, of which kind.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use palisade_mesh::wire::record::{Flip, Verdict as WireVerdict};

use super::Api;

/// What was answered, by API and verdict.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// By API, then by verdict as on the wire.
    answers: [[AtomicU64; 6]; 3],
    took_ns: AtomicU64,
    searches: AtomicU64,
    refused: AtomicU64,
    busy: AtomicU64,
    tried: AtomicU64,
    /// By flip as on the wire.
    flips: [AtomicU64; 4],
    trials_failed: AtomicU64,
}

/// What was answered since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answers by API and verdict, those that there were.
    pub answers: Vec<Tally>,
    /// Time that deciding them took, all together.
    pub took: Duration,
    /// Searches.
    pub searches: u64,
    /// Callers that may not ask what they asked.
    pub refused: u64,
    /// Callers that were at a limit.
    pub busy: u64,
    /// Answers that a revision tried beside the one that decided was asked about, too.
    pub tried: u64,
    /// Of these, how many one of the revisions stops and the newer one passes.
    pub newly_allowed: u64,
    /// How many the older one passes and the newer one stops.
    pub newly_denied: u64,
    /// How many the older one decides and the newer one does not.
    pub newly_undecided: u64,
    /// Trials that ended because an engine failed.
    pub trials_failed: u64,
}

/// How many answers were of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// The API.
    pub api: Api,
    /// The verdict.
    pub verdict: WireVerdict,
    /// How many.
    pub count: u64,
}

impl Counters {
    pub(super) fn answered(&self, api: Api, verdict: WireVerdict, took: Duration) {
        let of_api = Api::ALL.iter().position(|a| *a == api);
        let row = of_api.and_then(|i| self.answers.get(i));
        let verdict = usize::try_from(i32::from(verdict)).ok();
        if let Some(cell) = row.zip(verdict).and_then(|(row, v)| row.get(v)) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.took_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub(super) fn busy(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what came of a question that was put to a revision beside.
    pub(super) fn tried(&self, flip: Option<Flip>) {
        let Some(flip) = flip else {
            self.trials_failed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.tried.fetch_add(1, Ordering::Relaxed);
        let cell = usize::try_from(i32::from(flip)).ok();
        if let Some(cell) = cell.and_then(|i| self.flips.get(i)) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flipped(&self, flip: Flip) -> u64 {
        let cell = usize::try_from(i32::from(flip)).ok();
        let cell = cell.and_then(|i| self.flips.get(i));
        cell.map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn searched(&self) {
        self.searches.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Counts {
        let rows = Api::ALL.into_iter().zip(&self.answers);
        let tallies = rows.flat_map(|(api, row)| {
            row.iter().enumerate().filter_map(move |(v, cell)| {
                let count = cell.load(Ordering::Relaxed);
                let verdict = WireVerdict::try_from(i32::try_from(v).ok()?).ok()?;
                (count > 0).then_some(Tally {
                    api,
                    verdict,
                    count,
                })
            })
        });
        Counts {
            answers: tallies.collect(),
            took: Duration::from_nanos(self.took_ns.load(Ordering::Relaxed)),
            searches: self.searches.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            busy: self.busy.load(Ordering::Relaxed),
            tried: self.tried.load(Ordering::Relaxed),
            newly_allowed: self.flipped(Flip::NewlyAllowed),
            newly_denied: self.flipped(Flip::NewlyDenied),
            newly_undecided: self.flipped(Flip::NewlyUndecided),
            trials_failed: self.trials_failed.load(Ordering::Relaxed),
        }
    }
}
