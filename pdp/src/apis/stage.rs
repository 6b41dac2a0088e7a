//! The revisions that answers come from while one is on its way to the proxies: which of the
//! two decides, and which is tried beside it.
//!
//! What the APIs answer about a service is what its proxies enforce. Where a canary takes
//! a share of the proxies, the APIs of a PDP have one place among them, as one more proxy of
//! the PDP's identity. What is tried is asked the same question after the answer is made; what
//! it says goes into the record of the answer, and nothing that goes wrong with it reaches the caller.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use palisade_mesh::{
    flip::Standing,
    kill::KillList,
    snapshot::Versions,
    spiffe_id::SpiffeId,
    wire::record::{Flip, Verdict as WireVerdict},
};
use smol_str::SmolStr;

use super::{
    force::Force,
    inquiry::{Inquiry, Misread},
    judged::{Judged, judge},
};
use crate::{
    decide::Snapshot,
    publish::rollout::{Asked, Flips, INSTANCE, Rollout, Seat, Which},
};

/// A question, to be understood under whichever revision.
pub(super) type Ask<'a> = Box<dyn Fn(&Force) -> Result<Inquiry, Misread> + Send + Sync + 'a>;

/// The revision in force, and the one that is on its way, if one is.
pub(super) struct Stage {
    force: Arc<Force>,
    trial: Option<Trial>,
}

/// A revision that is on its way, as a desk gets it.
pub struct Underway {
    /// The revision before it. From the phase `full` on it is not in force any more, and is
    /// tried.
    pub baseline: Arc<Snapshot>,
    /// The revision itself.
    pub candidate: Arc<Snapshot>,
    /// Where it stands.
    pub rollout: Rollout,
}

/// The same, ready to be asked.
struct Trial {
    baseline: Arc<Force>,
    candidate: Arc<Force>,
    rollout: Rollout,
    own: SpiffeId,
    /// Of this pair, however often it is put there.
    progress: Arc<Progress>,
}

impl Trial {
    fn seat(&self) -> Seat<'_> {
        Seat {
            identity: &self.own,
            instance: INSTANCE,
            returns: true,
        }
    }
}

/// How far the trial of one pair of revisions is.
#[derive(Default)]
struct Progress {
    /// Questions that were put to one revision only, to know whose turn it is.
    turns: AtomicU32,
    /// Whether an engine failed while it was tried; then the trial is over.
    broken: AtomicBool,
    /// What it has shown.
    flips: Mutex<Flips>,
}

impl Progress {
    /// Counts what came of a question; no flip where the engine failed.
    fn count(&self, flip: Option<Flip>) {
        let mut flips = self.flips.lock().unwrap_or_else(PoisonError::into_inner);
        match flip {
            None => flips.errors += 1,
            Some(flip) => {
                flips.evaluated += 1;
                match flip {
                    Flip::NewlyAllowed => flips.newly_allowed += 1,
                    Flip::NewlyDenied => flips.newly_denied += 1,
                    Flip::NewlyUndecided => flips.newly_undecided += 1,
                    Flip::Unspecified => {}
                }
            }
        }
    }

    fn flips(&self) -> Flips {
        *self.flips.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question under the revision that decides it.
pub(super) struct Case<'s> {
    stage: Option<&'s Stage>,
    pub(super) force: Option<&'s Arc<Force>>,
    pub(super) understood: Result<Inquiry, Misread>,
    beside: Option<(&'s Trial, &'s Arc<Force>)>,
    ask: Ask<'s>,
}

/// What the revision beside the one that decided said.
pub(super) struct Tried {
    pub(super) versions: Versions,
    pub(super) verdict: WireVerdict,
    pub(super) reason: &'static str,
    pub(super) policies: Vec<SmolStr>,
    pub(super) flip: Flip,
}

impl Stage {
    /// `current`, and what is on its way beside it, for a PDP that is `own`. What is known of
    /// a revision or of a trial that was there `before` stays known: what engines have found,
    /// whose turn it is, and that a trial broke.
    pub(super) fn new(
        current: Arc<Snapshot>,
        underway: Option<Underway>,
        before: Option<&Self>,
        (own, by_reference): (&SpiffeId, bool),
    ) -> Self {
        let mut known: Vec<Arc<Force>> = before.map(Self::all).unwrap_or_default();
        let mut force = |snapshot: Arc<Snapshot>| {
            let found = known.iter().find(|force| force.is_of(&snapshot.versions()));
            found.cloned().unwrap_or_else(|| {
                let made = Arc::new(Force::new(snapshot, by_reference));
                known.push(made.clone());
                made
            })
        };
        let current = force(current);
        let trial = underway.map(|underway| {
            let (baseline, candidate) = (force(underway.baseline), force(underway.candidate));
            let before = before.and_then(|stage| stage.trial.as_ref());
            let same = before.filter(|before| {
                Arc::ptr_eq(&before.baseline, &baseline)
                    && Arc::ptr_eq(&before.candidate, &candidate)
            });
            Trial {
                progress: same.map(|same| same.progress.clone()).unwrap_or_default(),
                baseline,
                candidate,
                rollout: underway.rollout,
                own: own.clone(),
            }
        });
        Self {
            force: current,
            trial,
        }
    }

    /// Every revision that answers come from or that is tried, the one in force first.
    pub(super) fn all(&self) -> Vec<Arc<Force>> {
        let mut all = vec![self.force.clone()];
        let tried = self.trial.iter().flat_map(|t| [&t.baseline, &t.candidate]);
        for force in tried {
            if all.iter().all(|known| !Arc::ptr_eq(known, force)) {
                all.push(force.clone());
            }
        }
        all
    }

    /// Number of the highest revision that any question is decided by, of what is tried beside
    /// it, and what came of that.
    pub(super) fn standing(&self) -> (u64, u64, Option<Asked>) {
        let Some(trial) = &self.trial else {
            return (self.force.sequence(), 0, None);
        };
        let services = self.all();
        let services = services.iter().flat_map(|f| f.catalogue().services());
        let services: Vec<String> = services.map(|s| s.id.short().to_owned()).collect();
        let wanted = trial.rollout.wanted(trial.seat(), &services);
        let tried = trial.rollout.tried(wanted).map(|which| match which {
            Which::Baseline => &trial.baseline,
            Which::Candidate => &trial.candidate,
        });
        let enforces = match wanted {
            Which::Baseline => &self.force,
            Which::Candidate => &trial.candidate,
        };
        let asked = Asked {
            baseline: trial.rollout.baseline,
            candidate: trial.rollout.candidate,
            flips: trial.progress.flips(),
            old: trial.baseline.load(),
            new: trial.candidate.load(),
        };
        let tries = tried.map_or(0, |force| force.sequence());
        (enforces.sequence(), tries, Some(asked))
    }

    /// The revision that decides about a service, `NAMESPACE/NAME`, or about none.
    pub(super) fn of(&self, service: Option<&str>) -> &Arc<Force> {
        self.pair(service).0
    }

    /// What `ask` comes to under the revision in force; or, where that finds no `service` in it,
    /// under the one that is on its way, if that finds one which it decides about already.
    pub(super) fn understood<T>(
        &self,
        ask: impl Fn(&Force) -> T,
        service: impl Fn(&T) -> Option<SmolStr>,
    ) -> T {
        let found = self.watched(&self.force, || ask(&self.force));
        let Some(trial) = self.trial.as_ref().filter(|_| service(&found).is_none()) else {
            return found;
        };
        let other = self.watched(&trial.candidate, || ask(&trial.candidate));
        match service(&other) {
            Some(name) if Arc::ptr_eq(self.of(Some(&name)), &trial.candidate) => other,
            _ => found,
        }
    }

    /// What `decide` comes to; where the revision that is on its way breaks off, that is counted
    /// before the question does.
    fn watched<T>(&self, force: &Arc<Force>, decide: impl FnOnce() -> T) -> T {
        let trial = self.trial.as_ref();
        let Some(trial) = trial.filter(|trial| Arc::ptr_eq(&trial.candidate, force)) else {
            return decide();
        };
        catch_unwind(AssertUnwindSafe(decide)).unwrap_or_else(|broken| {
            trial.progress.count(None);
            resume_unwind(broken)
        })
    }

    fn pair(&self, service: Option<&str>) -> (&Arc<Force>, Option<(&Trial, &Arc<Force>)>) {
        let Some(trial) = &self.trial else {
            return (&self.force, None);
        };
        let services: Vec<String> = service.into_iter().map(str::to_owned).collect();
        let rollout = &trial.rollout;
        let wanted = rollout.wanted(trial.seat(), &services);
        // As with proxies: what is in force is enforced, be it the baseline or not.
        let decides = match wanted {
            Which::Baseline => &self.force,
            Which::Candidate => &trial.candidate,
        };
        let tried = rollout.tried(wanted).map(|which| match which {
            Which::Baseline => (trial, &trial.baseline),
            Which::Candidate => (trial, &trial.candidate),
        });
        (decides, tried)
    }
}

impl<'s> Case<'s> {
    /// Understands a question, and finds out which revision decides it.
    pub(super) fn of(stage: Option<&'s Stage>, ask: Ask<'s>) -> Self {
        let Some(stage) = stage else {
            return Self {
                stage: None,
                force: None,
                understood: Err(Misread::no_snapshot()),
                beside: None,
                ask,
            };
        };
        let service = |understood: &Result<Inquiry, Misread>| {
            let id = match understood {
                Ok(inquiry) => Some(&inquiry.question.service.id),
                Err(misread) => misread.service.as_ref().map(|s| &s.id),
            };
            id.map(|id| SmolStr::from(id.short()))
        };
        let understood = stage.understood(&ask, service);
        let (force, beside) = stage.pair(service(&understood).as_deref());
        Self {
            understood: match Arc::ptr_eq(force, &stage.force) {
                true => understood,
                false => stage.watched(force, || ask(force)),
            },
            stage: Some(stage),
            force: Some(force),
            beside,
            ask,
        }
    }

    /// What `decide` comes to under the revision that decides; that of one that is on its way is
    /// counted where it breaks off.
    pub(super) fn watched<T>(&self, decide: impl FnOnce() -> T) -> T {
        match self.stage.zip(self.force) {
            Some((stage, force)) => stage.watched(force, decide),
            None => decide(),
        }
    }

    /// Asks what is tried, if it is its turn, about a question that was judged. What only one of
    /// the two understands is a question; what neither does is none.
    pub(super) fn try_beside(
        &self,
        (judged, is_question): (&Judged, bool),
        list: &KillList,
        now_us: i64,
    ) -> Option<Result<Tried, Broken>> {
        let (trial, tried) = self.beside?;
        let now = self.force?.snapshot.versions();
        let versions = tried.snapshot.versions();
        let every = trial.rollout.plan.every.max(1);
        let progress = &trial.progress;
        if now.policy == versions.policy || progress.broken.load(Ordering::Relaxed) {
            return None;
        }
        let is_turn = || progress.turns.fetch_add(1, Ordering::Relaxed) % every == 0;
        if is_question && !is_turn() {
            return None;
        }
        let ask = || {
            let understood = (self.ask)(tried);
            let is_one = is_question || (understood.is_ok() && is_turn());
            if !is_one {
                return None;
            }
            Some(match understood {
                Ok(inquiry) => judge(inquiry, tried, list, now_us),
                Err(misread) => Judged::misread(misread, Some(tried.catalogue())),
            })
        };
        let Ok(other) = catch_unwind(AssertUnwindSafe(ask)) else {
            progress.broken.store(true, Ordering::Relaxed);
            progress.count(None);
            return Some(Err(Broken));
        };
        let other = other?;
        let (was, is) = match versions.sequence < now.sequence {
            true => (other.standing(), judged.standing()),
            false => (judged.standing(), other.standing()),
        };
        let flip = was.flip_to(is);
        progress.count(Some(flip));
        let determining = other.answer.map(|a| a.decision.determining.clone());
        Some(Ok(Tried {
            versions,
            verdict: other.verdict,
            reason: other.reason,
            policies: determining.unwrap_or_default(),
            flip,
        }))
    }
}

/// An engine failed while it was tried.
#[derive(Debug)]
pub(super) struct Broken;

impl Judged {
    /// What becomes of the request.
    fn standing(&self) -> Standing {
        match self.verdict {
            WireVerdict::Allow => Standing::Passes,
            WireVerdict::Undecided => Standing::Undecided,
            _ => Standing::Stopped,
        }
    }
}
