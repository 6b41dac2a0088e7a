//! A revision tried beside the one in force: asked the same questions, never enforced.
//!
//! The binary puts a [`Candidate`] beside the snapshot in force
//! ([`PolicySlot::try_beside`](crate::PolicySlot::try_beside)); each worker gives it an
//! engine of its own and asks that after the live one. What it would have done goes
//! into the record of the decision that was enforced, so that a request whose fate
//! would change (a *flip*) is one searchable record. Nothing that goes wrong with a
//! candidate reaches a request: an engine that panics ends the trial in its worker.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use palisade_mesh::{
    decision::Answer,
    flip::Standing,
    snapshot::{Digest, Versions},
    wire::record::{Flip, Verdict},
};

use crate::{
    inbound::enforce::{self, Asked, Ruling},
    policy::{Live, LivePolicy, PolicySnapshot},
    telemetry::Count,
};

/// A revision to try beside the one in force.
pub struct Candidate {
    policy: Arc<LivePolicy>,
    every: u32,
    tallies: Mutex<Vec<(u64, Arc<Tally>)>>,
}

impl Candidate {
    /// Tries `snapshot` on one decision in `every`.
    pub fn new(snapshot: Arc<dyn PolicySnapshot>, every: u32) -> Self {
        Self {
            policy: Arc::new(LivePolicy::new(snapshot)),
            every: every.max(1),
            tallies: Mutex::default(),
        }
    }

    /// Its digest and number.
    pub fn versions(&self) -> Versions {
        self.policy.snapshot().versions()
    }

    /// What came of it so far, compared with the revision of number `beside`.
    pub fn counts(&self, beside: u64) -> Counts {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let of = tallies.iter().filter(|(sequence, _)| *sequence == beside);
        of.fold(Counts::default(), |sum, (_, tally)| sum.plus(tally))
    }

    /// The counters of one worker.
    fn tally(&self, beside: u64) -> Arc<Tally> {
        let tally = Arc::<Tally>::default();
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.push((beside, tally.clone()));
        tally
    }
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Candidate").field(&self.policy).finish()
    }
}

/// What came of trying a revision. Flips go from the older of the two revisions to the
/// newer one, whichever of them is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Requests it was asked about.
    pub evaluated: u64,
    /// Of these, stopped by the older revision and passed by the newer one.
    pub newly_allowed: u64,
    /// Passed by the older revision and denied or refused by the newer one.
    pub newly_denied: u64,
    /// Decided by the older revision and undecided under the newer one.
    pub newly_undecided: u64,
    /// Engines that panicked.
    pub errors: u64,
}

impl Counts {
    fn plus(self, tally: &Tally) -> Self {
        Self {
            evaluated: self.evaluated + tally.evaluated.value(),
            newly_allowed: self.newly_allowed + tally.newly_allowed.value(),
            newly_denied: self.newly_denied + tally.newly_denied.value(),
            newly_undecided: self.newly_undecided + tally.newly_undecided.value(),
            errors: self.errors + tally.errors.value(),
        }
    }

    /// Added up over several tallies.
    pub(crate) fn sum<'t>(tallies: impl Iterator<Item = &'t Tally>) -> Self {
        tallies.fold(Self::default(), Self::plus)
    }
}

/// The same in one worker, which alone writes it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    evaluated: Count,
    newly_allowed: Count,
    newly_denied: Count,
    newly_undecided: Count,
    errors: Count,
}

impl Tally {
    /// Counts one evaluation.
    pub(crate) fn note(&self, flip: Flip) {
        self.evaluated.add(1);
        match flip {
            Flip::NewlyAllowed => self.newly_allowed.add(1),
            Flip::NewlyDenied => self.newly_denied.add(1),
            Flip::NewlyUndecided => self.newly_undecided.add(1),
            Flip::Unspecified => {}
        }
    }

    /// Counts an evaluation that failed altogether.
    pub(crate) fn failed(&self) {
        self.errors.add(1);
    }
}

/// A candidate in one worker.
pub(crate) struct Trial {
    origin: Arc<Candidate>,
    live: Live,
    tally: Arc<Tally>,
    /// Number of the revision in force.
    beside: u64,
    /// Decisions until the next one that is put to it.
    left: u32,
    broken: bool,
}

/// What a candidate said about a request.
pub(crate) struct Tried {
    pub(crate) versions: Versions,
    pub(crate) verdict: Verdict,
    pub(crate) reason: &'static str,
    pub(crate) answer: Option<Answer>,
    pub(crate) flip: Flip,
    /// Time it took.
    pub(crate) took: Duration,
}

/// Its engine panicked.
#[derive(Debug)]
pub(crate) struct Broken;

impl Trial {
    /// Begins to try `origin` beside the revision in force.
    pub(crate) fn begin(origin: Arc<Candidate>, service_name: &str, beside: u64) -> Self {
        Self {
            live: Live::new(origin.policy.clone(), service_name),
            tally: origin.tally(beside),
            left: 1,
            broken: false,
            beside,
            origin,
        }
    }

    /// Whether it tries `candidate` beside the revision of number `beside`.
    pub(crate) fn is_of(&self, candidate: &Arc<Candidate>, beside: u64) -> bool {
        Arc::ptr_eq(&self.origin, candidate) && self.beside == beside
    }

    /// Digest of what is tried.
    pub(crate) fn digest(&self) -> Digest {
        self.live.versions.policy
    }

    /// What is to be freed elsewhere.
    pub(crate) fn into_live(self) -> Live {
        self.live
    }

    /// Asks the candidate about a request that was ruled on; none when it is not its
    /// turn, or its engine has failed here.
    ///
    /// # Errors
    /// When its engine panicked; it is not asked again in this worker.
    pub(crate) fn ask(
        &mut self,
        asked: &Asked<'_>,
        ruled: &Ruling,
    ) -> Option<Result<Tried, Broken>> {
        if self.broken {
            return None;
        }
        self.left -= 1;
        if self.left > 0 {
            return None;
        }
        self.left = self.origin.every;
        let started = Instant::now();
        let service = self.live.service.clone();
        let rule = || enforce::rule(asked, Some(&mut self.live), service.as_deref());
        let Ok(ruling) = catch_unwind(AssertUnwindSafe(rule)) else {
            self.broken = true;
            self.tally.failed();
            return Some(Err(Broken));
        };
        let (now, tried) = (standing(ruled), standing(&ruling));
        let flip = match self.live.versions.sequence < self.beside {
            true => tried.flip_to(now),
            false => now.flip_to(tried),
        };
        self.tally.note(flip);
        Some(Ok(Tried {
            versions: self.live.versions,
            verdict: ruling.verdict,
            reason: ruling.reason,
            answer: ruling.answer,
            flip,
            took: started.elapsed(),
        }))
    }
}

/// What becomes of a request that was ruled on.
fn standing(ruling: &Ruling) -> Standing {
    match (&ruling.refusal, ruling.verdict) {
        (None, _) => Standing::Passes,
        (Some(_), Verdict::Undecided) => Standing::Undecided,
        (Some(_), _) => Standing::Stopped,
    }
}
