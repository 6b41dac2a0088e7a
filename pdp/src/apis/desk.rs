//! From a question to a recorded answer, the same for every API.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{HeaderMap, Response};
use palisade_mesh::{
    clock::Clock,
    decision::{DecisionId, SelfCheck},
    differences::{Differences, Found},
    kill::KillList,
    link::{About, Gate, Link, LinkAction, LinkRefused},
    sink::RecordStream,
    snapshot::Versions,
    spiffe_id::SpiffeId,
    svid::Peer,
    wire::record::{AuditMode, Searched, Verdict as WireVerdict},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Api, Caller, authzen,
    caller::{Busy, Loads, Proof, Seat},
    codes::{BARRED, UNPROVEN, UNRECORDED},
    counts::{Counters, Counts},
    force::Force,
    inquiry::Misread,
    is_grpc,
    judged::{Judged, judge, subject_of},
    ledger::{Ledger, Noted},
    native,
    stage::{Ask, Case, Stage, Underway},
};
use crate::{decide::Snapshot, publish::rollout::Apis};

/// How often records are handed on: the stated bound of what a killed process loses.
const FLUSH_EVERY: Duration = Duration::from_millis(20);
/// How often it is looked whether engine and reference have differed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Stages of before that wait for their last answers.
const LEAVING_MAX: usize = 16;
/// How long an answer waits for its record, where its service demands that.
const DURABLE_WAIT: Duration = Duration::from_secs(2);
/// Searches at the same time; each may take a thread for as long as the catalogue is
/// long. Others wait for their turn.
pub(super) const SEARCHES_MAX: usize = 4;

/// What one caller may ask at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight.
    pub in_flight: usize,
    /// Questions in a second; a batch counts each of its own.
    pub questions_per_s: u32,
}

/// What a desk is made of.
pub struct DeskConfig {
    /// Who may ask about whom.
    pub gate: Arc<dyn Gate>,
    /// A record stream of its own.
    pub records: Box<dyn RecordStream>,
    /// SPIFFE ID of this PDP.
    pub reporter: SpiffeId,
    /// Whether records carry the demo mark.
    pub demo: bool,
    /// The kill list in force.
    pub kill_list: Box<dyn Fn() -> Arc<KillList> + Send + Sync>,
    /// The time.
    pub clock: Clock,
    /// What one caller may ask at once.
    pub limits: Limits,
    /// Whether Cedar's own authorizer decides, on the whole set.
    pub by_reference: bool,
}

/// Where all questions arrive. Clones are one desk.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    stage: RwLock<Option<Arc<Stage>>>,
    /// What answers came from before, until nobody is answered by it any more and what its
    /// engines have found is recorded.
    leaving: Mutex<Vec<Arc<Stage>>>,
    refused: RwLock<Option<(u64, String)>>,
    /// Differences of engine and reference that are recorded, by snapshot.
    differed: Mutex<Differences>,
    config: Parts,
    ledger: Ledger,
    loads: Loads,
    counts: Counters,
    searches: Arc<Semaphore>,
}

struct Parts {
    gate: Arc<dyn Gate>,
    kill_list: Box<dyn Fn() -> Arc<KillList> + Send + Sync>,
    clock: Clock,
    limits: Limits,
    by_reference: bool,
    reporter: SpiffeId,
}

/// A recorded answer.
pub(super) struct Ruling {
    pub(super) id: DecisionId,
    pub(super) judged: Judged,
    pub(super) versions: Option<Versions>,
    /// Whether the caller may see which policies made it.
    pub(super) explained: bool,
}

impl Ruling {
    pub(super) fn is_allow(&self) -> bool {
        self.judged.verdict == WireVerdict::Allow
    }

    pub(super) fn is_undecided(&self) -> bool {
        self.judged.verdict == WireVerdict::Undecided
    }
}

/// Why a caller gets no answer at all.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// By the kill list, for this reason.
    Barred(&'static str),
    Busy(Busy),
    /// The caller's certificate has ended since the handshake, or its token is none any
    /// more.
    Ended,
    Refused(LinkRefused),
    Unrecorded,
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Barred(reason) => {
                write!(
                    f,
                    "PLS{BARRED}: the caller is barred by the kill list ({reason})"
                )
            }
            Self::Busy(busy) => busy.fmt(f),
            Self::Ended => {
                write!(
                    f,
                    "PLS{UNPROVEN}: the caller's certificate or token has ended"
                )
            }
            Self::Refused(refused) => refused.fmt(f),
            Self::Unrecorded => {
                write!(
                    f,
                    "PLS{UNRECORDED}: the answer cannot be recorded at the moment"
                )
            }
        }
    }
}

impl From<Busy> for NoAnswer {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

impl From<LinkRefused> for NoAnswer {
    fn from(refused: LinkRefused) -> Self {
        Self::Refused(refused)
    }
}

/// What the comparison of engine and reference has found of each revision of a stage.
fn found(stage: &Stage) -> Vec<Found> {
    let all = stage.all();
    let found = |force: &Arc<Force>| {
        let check = force.snapshot.self_check();
        Found::of(&force.snapshot, force.sequence(), check)
    };
    all.iter().map(found).collect()
}

impl Desk {
    /// A desk without a revision: everything is undecided.
    pub fn new(config: DeskConfig) -> Self {
        Self(Arc::new(Inner {
            stage: RwLock::new(None),
            leaving: Mutex::default(),
            refused: RwLock::new(None),
            differed: Mutex::default(),
            ledger: Ledger::new(config.records, &config.reporter, config.demo),
            config: Parts {
                gate: config.gate,
                kill_list: config.kill_list,
                clock: config.clock,
                limits: config.limits,
                by_reference: config.by_reference,
                reporter: config.reporter,
            },
            loads: Loads::default(),
            counts: Counters::default(),
            searches: Arc::new(Semaphore::new(SEARCHES_MAX)),
        }))
    }

    /// Puts a revision in force, and beside it one that is on its way, which decides and is
    /// tried as its rollout says. What is being answered ends under what was there before.
    pub fn put(&self, snapshot: Arc<Snapshot>, underway: Option<Underway>) {
        let config = &self.0.config;
        let before = self.stage();
        let how = (&config.reporter, config.by_reference);
        let stage = Stage::new(snapshot, underway, before.as_deref(), how);
        let mut slot = self.0.stage.write().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(Arc::new(stage));
        drop(slot);
        let mut leaving = self.leaving();
        leaving.extend(before);
        if leaving.len() > LEAVING_MAX {
            leaving.remove(0);
        }
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Arc<Stage>>> {
        let leaving = self.0.leaving.lock();
        leaving.unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that there is no engine of the revision with this number, or that there is one of
    /// every revision.
    pub fn refuse(&self, refused: Option<(u64, String)>) {
        let slot = self.0.refused.write();
        *slot.unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// How it stands in a rollout.
    pub fn standing(&self) -> Apis {
        let stage = self.stage();
        let (enforces, tries, asked) = stage.map_or((0, 0, None), |stage| stage.standing());
        let refused = self.0.refused.read();
        Apis {
            identity: self.0.config.reporter.clone(),
            enforces,
            tries,
            refused: refused.unwrap_or_else(PoisonError::into_inner).clone(),
            asked,
        }
    }

    /// The revision with these versions, where answers come from it or it is tried: what its
    /// comparison with the reference has found is the snapshot's, and another one of the same
    /// revision would begin anew.
    pub fn holds(&self, versions: &Versions) -> Option<Arc<Snapshot>> {
        let all = self.stage()?.all();
        let found = all.iter().find(|force| force.is_of(versions))?;
        Some(found.snapshot.clone())
    }

    /// Hands records on, and looks whether engine and reference have differed, for ever.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(FLUSH_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.0.ledger.flush(),
                _ = looks.tick() => self.record_differences(),
            }
        }
    }

    /// Records what is left to record, when nobody is to be answered any more.
    pub fn close(&self) {
        self.record_differences();
        self.0.ledger.flush();
    }

    /// Records that engine and reference have differed, as often as [`Differences`] says, also
    /// under what was in force until now.
    pub(super) fn record_differences(&self) {
        let mut leaving = self.leaving();
        // Whoever is still answered by one may find more.
        let is_asked: Vec<bool> = leaving.iter().map(|s| Arc::strong_count(s) > 1).collect();
        let told = self.0.differed.lock();
        let mut told = told.unwrap_or_else(PoisonError::into_inner);
        let before = leaving.iter().flat_map(|stage| found(stage));
        let found: Vec<_> = before.chain(self.found()).collect();
        let now_us = self.0.config.clock.now_us();
        let record = |sequence, found| self.0.ledger.differed(now_us, sequence, found);
        match told.tell(&found, record) {
            Ok(()) => {
                let mut is_asked = is_asked.into_iter();
                leaving.retain(|_| is_asked.next().unwrap_or_default());
            }
            Err(error) => {
                tracing::error!(%error, "a difference of engine and reference is not recorded yet");
            }
        }
    }

    /// The caller that a certificate proved.
    pub fn caller(&self, peer: &Peer) -> Caller {
        Caller {
            id: peer.id.clone(),
            proof: Proof::Certificate {
                serial: peer.serial.clone(),
                until_s: peer.not_after_s,
            },
            load: self.0.loads.of(&peer.id, &self.0.config.limits),
        }
    }

    /// The caller that a token proved, for as long as `is_good` says so.
    pub fn client(
        &self,
        id: &SpiffeId,
        is_good: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Caller {
        Caller {
            id: id.clone(),
            proof: Proof::Token(Arc::new(is_good)),
            load: self.0.loads.of(id, &self.0.config.limits),
        }
    }

    /// What was answered so far.
    pub fn counts(&self) -> Counts {
        self.0.counts.read()
    }

    /// What the comparison of engine and reference has found, by the number of each revision
    /// that answers come from or that is tried, the one in force first. A revision that comes
    /// begins anew.
    pub fn self_checks(&self) -> Vec<(u64, SelfCheck)> {
        let found = self.found().into_iter();
        found.map(|found| (found.sequence, found.check)).collect()
    }

    fn found(&self) -> Vec<Found> {
        self.stage().map_or_else(Vec::new, |stage| found(&stage))
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.config.clock
    }

    /// The revisions that answers come from now.
    pub(super) fn stage(&self) -> Option<Arc<Stage>> {
        let slot = self.0.stage.read().unwrap_or_else(PoisonError::into_inner);
        slot.clone()
    }

    /// Lets a request with these `headers` in before anything of its message is read. The
    /// seat is the request's until its answer has gone: what callers can have lie about
    /// here is bounded by their seats. Whoever has proven nothing has none, and gets as far
    /// as an API that reads nothing of strangers.
    ///
    /// # Errors
    /// The answer, in the form of gRPC or of HTTP.
    pub fn enter(
        &self,
        caller: Option<&Caller>,
        headers: &HeaderMap,
    ) -> Result<Option<Seat>, Response<Body>> {
        let grpc = is_grpc(headers);
        let Some(caller) = caller else {
            return match grpc {
                true => Err(native::unproven().into_http()),
                false => Ok(None),
            };
        };
        let entered = self.present(caller).and_then(|()| {
            let entered = caller.load.enter(&self.0.config.limits);
            Ok(entered.inspect_err(|_| self.0.counts.busy())?)
        });
        entered.map(Some).map_err(|why| match grpc {
            true => native::status_of(why).into_http(),
            false => authzen::refused(why, headers),
        })
    }

    /// Lets so many questions be asked, while the caller is who it was.
    pub(super) fn ask(&self, caller: &Caller, questions: usize) -> Result<(), NoAnswer> {
        self.present(caller)?;
        let asked = caller.load.ask(&self.0.config.limits, questions);
        Ok(asked.inspect_err(|_| self.0.counts.busy())?)
    }

    fn present(&self, caller: &Caller) -> Result<(), NoAnswer> {
        let now_us = self.0.config.clock.now_us();
        if !caller.proof.holds(now_us) {
            return Err(NoAnswer::Ended);
        }
        let subject = subject_of(&caller.id, caller.proof.serial());
        match self.kill_list().bars(&subject, now_us) {
            Some(entry) => {
                self.0.counts.refused();
                Err(NoAnswer::Barred(entry.target.reason()))
            }
            None => Ok(()),
        }
    }

    /// The kill list in force.
    pub(super) fn kill_list(&self) -> Arc<KillList> {
        (self.0.config.kill_list)()
    }

    /// A turn to search.
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        let turn = self.0.searches.clone().acquire_owned().await;
        turn.expect("nobody closes it")
    }

    /// Answers one question, once its record is as durable as its service demands.
    pub(super) async fn answer(
        &self,
        caller: &Caller,
        api: Api,
        stage: Option<&Stage>,
        ask: Ask<'_>,
    ) -> Result<Ruling, NoAnswer> {
        let mut rulings = self.answers(caller, api, stage, vec![ask]).await?;
        rulings.pop().ok_or(NoAnswer::Unrecorded)
    }

    /// As [`Desk::answer`], for several: all of them may be asked, or none is answered.
    pub(super) async fn answers(
        &self,
        caller: &Caller,
        api: Api,
        stage: Option<&Stage>,
        asks: Vec<Ask<'_>>,
    ) -> Result<Vec<Ruling>, NoAnswer> {
        let rulings = self.rule_each(caller, api, stage, asks)?;
        let strict = |r: &Ruling| r.judged.mode == AuditMode::Strict;
        if rulings.iter().any(strict) {
            let durable = tokio::time::timeout(DURABLE_WAIT, self.0.ledger.durable()).await;
            if !matches!(durable, Ok(Ok(()))) {
                tracing::warn!("record did not become durable, question not answered");
                return Err(NoAnswer::Unrecorded);
            }
        }
        Ok(rulings)
    }

    fn rule_each(
        &self,
        caller: &Caller,
        api: Api,
        stage: Option<&Stage>,
        asks: Vec<Ask<'_>>,
    ) -> Result<Vec<Ruling>, NoAnswer> {
        let cases = asks.into_iter().map(|ask| Case::of(stage, ask));
        let cases: Vec<Case<'_>> = cases.collect();
        // Before there is a revision nothing is told, and no policy could name a service.
        if stage.is_some() {
            self.permit_each(caller, api, &cases)?;
        }
        let rulings = cases.into_iter().map(|case| self.rule(caller, api, case));
        rulings.collect()
    }

    fn permit_each(
        &self,
        caller: &Caller,
        api: Api,
        cases: &[Case<'_>],
    ) -> Result<(), LinkRefused> {
        for case in cases {
            let (subject, service) = match &case.understood {
                Ok(inquiry) => {
                    let q = &inquiry.question;
                    (Some(&q.connection.peer.id), Some(q.service.id.as_str()))
                }
                Err(misread) => (
                    misread.subject.as_ref(),
                    misread.service.as_ref().map(|s| s.id.as_str()),
                ),
            };
            let action = match subject {
                Some(subject) if *subject == caller.id => LinkAction::Ask,
                _ => LinkAction::Assert,
            };
            let about = About {
                api: api.as_str(),
                subject,
                service,
            };
            self.permit(caller, case.force.map(|f| &**f), action, about)?;
        }
        Ok(())
    }

    /// Lets the caller do `action`, or not; whoever may not is recorded by the gate.
    pub(super) fn permit(
        &self,
        caller: &Caller,
        force: Option<&Force>,
        action: LinkAction,
        about: About<'_>,
    ) -> Result<(), LinkRefused> {
        let ask = |link: &Link<'_>| self.0.config.gate.ask(link);
        let key = key(action, &about);
        let sequence = force.map_or(0, Force::sequence);
        if caller.load.remembered(sequence, &key) == Some(true) {
            return Ok(());
        }
        let asked = with_link(caller, force, action, about, ask);
        match asked {
            Ok(()) => caller.load.remember(sequence, &key, true),
            Err(_) => self.0.counts.refused(),
        }
        asked
    }

    /// Whether the caller may see which policies made an answer about a service.
    fn explains(&self, caller: &Caller, force: Option<&Force>, about: About<'_>) -> bool {
        let key = key(LinkAction::Explain, &about);
        let sequence = force.map_or(0, Force::sequence);
        if let Some(may) = caller.load.remembered(sequence, &key) {
            return may;
        }
        let permits = |link: &Link<'_>| self.0.config.gate.permits(link);
        let may = with_link(caller, force, LinkAction::Explain, about, permits);
        caller.load.remember(sequence, &key, may);
        may
    }

    fn rule(&self, caller: &Caller, api: Api, mut case: Case<'_>) -> Result<Ruling, NoAnswer> {
        let started = Instant::now();
        let force = case.force;
        let understood = std::mem::replace(&mut case.understood, Err(Misread::no_snapshot()));
        let is_question = understood.is_ok();
        let now_us = self.0.config.clock.now_us();
        let list = self.kill_list();
        let versions = force.map(|f| Versions {
            kill_list: list.sequence(),
            ..f.snapshot.versions()
        });
        let judged = match (understood, force) {
            (Ok(inquiry), Some(force)) => case.watched(|| judge(inquiry, force, &list, now_us)),
            (Ok(_), None) => Judged::misread(Misread::no_snapshot(), None),
            (Err(misread), _) => Judged::misread(misread, force.map(|f| f.catalogue())),
        };
        let id = self.0.ledger.next_id(now_us);
        let took = started.elapsed();
        if let Some(force) = force.filter(|_| is_question) {
            force.count(took);
        }
        let tried = case.try_beside((&judged, is_question), &list, now_us);
        let tried = tried.and_then(|tried| {
            self.0
                .counts
                .tried(tried.as_ref().ok().map(|tried| tried.flip));
            tried.ok()
        });
        let recorded = self.0.ledger.answer(&Noted {
            id,
            now_us,
            caller: &caller.id,
            api,
            judged: &judged,
            versions,
            tried: tried.as_ref(),
            took_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        });
        if let Err(error) = recorded
            && judged.mode != AuditMode::BestEffort
        {
            tracing::error!(%error, "answer cannot be recorded, and is not given");
            return Err(NoAnswer::Unrecorded);
        }
        self.0.counts.answered(api, judged.verdict, took);
        let explained = judged.answer.is_some() && {
            let about = About {
                api: api.as_str(),
                subject: None,
                service: judged.service.as_ref().map(|s| s.id.as_str()),
            };
            self.explains(caller, force.map(|f| &**f), about)
        };
        Ok(Ruling {
            id,
            judged,
            versions,
            explained,
        })
    }

    /// Records a search that found so many.
    pub(super) fn searched(
        &self,
        caller: &Caller,
        (query, searched): (&str, Searched),
        rows: usize,
    ) -> Result<DecisionId, NoAnswer> {
        let now_us = self.0.config.clock.now_us();
        let id = self.0.ledger.next_id(now_us);
        let rows = u64::try_from(rows).unwrap_or(u64::MAX);
        let recorded = self
            .0
            .ledger
            .search(id, now_us, &caller.id, (query, searched), rows);
        self.0.counts.searched();
        recorded.map(|()| id).map_err(|error| {
            tracing::error!(%error, "search cannot be recorded, and is not answered");
            NoAnswer::Unrecorded
        })
    }
}

fn key(action: LinkAction, about: &About<'_>) -> String {
    let subject = about.subject.map(SpiffeId::as_str).unwrap_or_default();
    let service = about.service.unwrap_or_default();
    // No SPIFFE ID and no service has a space.
    [action.as_str(), about.api, subject, service].join(" ")
}

/// Puts the question of one caller to `ask`.
fn with_link<T>(
    caller: &Caller,
    force: Option<&Force>,
    action: LinkAction,
    about: About<'_>,
    ask: impl FnOnce(&Link<'_>) -> T,
) -> T {
    let all = force.map_or(&[][..], |f| f.catalogue().services());
    let services: Vec<&str> = all
        .iter()
        .filter(|s| s.identities.contains(&caller.id))
        .map(|s| s.id.as_str())
        .collect();
    ask(&Link {
        is_catalogued: !services.is_empty(),
        services: &services,
        about: Some(about),
        ..Link::new(&caller.id, action)
    })
}
