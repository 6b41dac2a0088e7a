//! The revisions that answers come from while one is on its way to the proxies: which of the
//! two decides, and which is tried beside it.
//!
//! What the APIs answer about a service is what its proxies enforce. Where a canary takes
//! a share of the proxies, the APIs of a PDP have one place among them, as one more proxy of
//! the PDP's identity. What is tried is asked the same question after the answer is made; what
//! it says goes into the record of the answer, and nothing that goes wrong with it reaches the caller.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
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
    publish::rollout::{Rollout, Which},
};

/// What the APIs call themselves among the proxies of a share.
const INSTANCE: &str = "decisions";

/// A question, to be understood under whichever revision.
pub(super) type Ask<'a> = Box<dyn Fn(&Force) -> Result<Inquiry, Misread> + Send + Sync + 'a>;

/// The revision in force, and the one that is on its way, if one is.
pub(super) struct Stage {
    force: Arc<Force>,
    underway: Option<Underway>,
}

struct Underway {
    candidate: Arc<Force>,
    rollout: Rollout,
    own: SpiffeId,
    /// Questions that were put to one revision only, to know whose turn it is.
    turns: AtomicU32,
    /// Whether an engine failed while it was tried; then the trial is over.
    broken: AtomicBool,
}

/// A question under the revision that decides it.
pub(super) struct Case<'s> {
    pub(super) force: Option<&'s Arc<Force>>,
    pub(super) understood: Result<Inquiry, Misread>,
    beside: Option<(&'s Underway, &'s Arc<Force>)>,
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
    /// `current`, and a candidate with its rollout, for a PDP that is `own`.
    pub(super) fn new(
        current: Arc<Force>,
        underway: Option<(Arc<Force>, Rollout)>,
        own: &SpiffeId,
    ) -> Self {
        Self {
            force: current,
            underway: underway.map(|(candidate, rollout)| Underway {
                candidate,
                rollout,
                own: own.clone(),
                turns: AtomicU32::new(0),
                broken: AtomicBool::new(false),
            }),
        }
    }

    /// The revision with this snapshot, with what its engines have found already.
    pub(super) fn known(&self, snapshot: &Arc<Snapshot>) -> Option<Arc<Force>> {
        let candidate = self.underway.as_ref().map(|u| &u.candidate);
        let mut all = std::iter::once(&self.force).chain(candidate);
        all.find(|force| Arc::ptr_eq(&force.snapshot, snapshot))
            .cloned()
    }

    /// The revision in force.
    pub(super) fn current(&self) -> &Arc<Force> {
        &self.force
    }

    /// The revision that decides about a service, `NAMESPACE/NAME`, or about none.
    pub(super) fn of(&self, service: Option<&str>) -> &Arc<Force> {
        self.pair(service).0
    }

    fn pair(&self, service: Option<&str>) -> (&Arc<Force>, Option<(&Underway, &Arc<Force>)>) {
        let Some(underway) = &self.underway else {
            return (&self.force, None);
        };
        let services: Vec<String> = service.into_iter().map(str::to_owned).collect();
        let rollout = &underway.rollout;
        let wanted = rollout.wanted(&underway.own, INSTANCE, &services);
        let of = |which| match which {
            Which::Baseline => &self.force,
            Which::Candidate => &underway.candidate,
        };
        let tried = rollout.tried(wanted).map(|which| (underway, of(which)));
        (of(wanted), tried)
    }
}

impl<'s> Case<'s> {
    /// Understands a question, and finds out which revision decides it.
    pub(super) fn of(stage: Option<&'s Stage>, ask: Ask<'s>) -> Self {
        let Some(stage) = stage else {
            return Self {
                force: None,
                understood: Err(Misread::no_snapshot()),
                beside: None,
                ask,
            };
        };
        let understood = ask(&stage.force);
        let service = match &understood {
            Ok(inquiry) => Some(inquiry.question.service.id.clone()),
            Err(misread) => misread.service.as_ref().map(|s| s.id.clone()),
        };
        let (force, beside) = stage.pair(service.as_ref().map(|id| id.short()));
        Self {
            understood: match Arc::ptr_eq(force, &stage.force) {
                true => understood,
                false => ask(force),
            },
            force: Some(force),
            beside,
            ask,
        }
    }

    /// Asks what is tried, if it is its turn, about a question that was judged.
    pub(super) fn try_beside(
        &self,
        judged: &Judged,
        list: &KillList,
        now_us: i64,
    ) -> Option<Result<Tried, Broken>> {
        let (underway, tried) = self.beside?;
        let now = self.force?.snapshot.versions();
        let versions = tried.snapshot.versions();
        let every = underway.rollout.plan.every.max(1);
        if now.policy == versions.policy || underway.broken.load(Ordering::Relaxed) {
            return None;
        }
        if underway.turns.fetch_add(1, Ordering::Relaxed) % every != 0 {
            return None;
        }
        let ask = || match (self.ask)(tried) {
            Ok(inquiry) => judge(inquiry, tried, list, now_us),
            Err(misread) => Judged::misread(misread),
        };
        let Ok(other) = catch_unwind(AssertUnwindSafe(ask)) else {
            underway.broken.store(true, Ordering::Relaxed);
            return Some(Err(Broken));
        };
        let (was, is) = match versions.sequence < now.sequence {
            true => (other.standing(), judged.standing()),
            false => (judged.standing(), other.standing()),
        };
        let determining = other.answer.map(|a| a.decision.determining.clone());
        Some(Ok(Tried {
            versions,
            verdict: other.verdict,
            reason: other.reason,
            policies: determining.unwrap_or_default(),
            flip: was.flip_to(is),
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
