//! Revisions that go to the proxies step by step: what a source does about a rollout.
//!
//! The machine ([`Rollout`]) says where it stands; here follows what that means: the
//! number that a candidate gets, what is in force when everybody has it, the old content
//! under a new number when it is stopped, and what a restart has to know. The journal is
//! written before anything follows from it, a number before it is given out.

use std::sync::Arc;

use bytes::Bytes;
use palisade_mesh::{diagnostic::Diagnostic, snapshot::Digest, wire::policy::Revision};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    Published, Source, Underway,
    orders::{Given, Orders},
};
use crate::{
    author,
    bundle::codes::KEYS,
    compiled::Compiled,
    publish::{
        bundled::Vouched,
        changes,
        keep::{BASELINE, CANDIDATE},
        older,
        registry::ProxyStatus,
        rollout::{
            Apis, Evidence, HALTED, INSTANCE, Name, Phase, Plan, Proxy, Rollout, Seat, Seen, Stop,
            evidence::{Boot, Collected},
        },
    },
};

/// Who starts a rollout when the source changes.
const BY_SOURCE: &str = "a change of the source";
/// Orders that wait to be carried out.
const ORDERS_MAX: usize = 4;

/// Tells of every proxy.
pub type Observe = Box<dyn Fn() -> Vec<ProxyStatus> + Send + Sync>;

/// Tells how the decision APIs stand.
type Answering = Box<dyn Fn() -> Apis + Send + Sync>;

/// What a restart has to know.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    rollout: Option<Rollout>,
    /// Content of the source that was stopped or replaced: not put in force by itself.
    set_aside: Option<String>,
    /// The revision that was taken back last: neither it nor one before it is begun again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    taken_back: Option<Name>,
    /// The latest that the clock ever showed, microseconds since the Unix epoch, where something
    /// may be taken back until a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen_us: Option<i64>,
}

/// A source's part in rollouts.
pub(super) struct Rolling {
    plan: Option<Plan>,
    underway: Option<Underway>,
    pub(super) set_aside: Option<Digest>,
    pub(super) taken_back: Option<Name>,
    /// The latest that the clock ever showed, and that of which was written down.
    pub(super) seen_us: i64,
    /// See `seen_us`.
    pub(super) noted_us: i64,
    /// What the source had last.
    pub(super) offered: Option<Digest>,
    collected: Collected,
    observe: Option<Observe>,
    answering: Option<Answering>,
    sender: mpsc::Sender<Given>,
    given: mpsc::Receiver<Given>,
}

impl std::fmt::Debug for Rolling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rolling")
            .field("underway", &self.underway)
            .finish_non_exhaustive()
    }
}

impl Rolling {
    pub(super) fn new(plan: Option<Plan>) -> Self {
        let (sender, given) = mpsc::channel(ORDERS_MAX);
        Self {
            plan,
            underway: None,
            set_aside: None,
            taken_back: None,
            seen_us: i64::MIN,
            noted_us: i64::MIN,
            offered: None,
            collected: Collected::default(),
            observe: None,
            answering: None,
            sender,
            given,
        }
    }

    /// The next order.
    pub(super) async fn ordered(&mut self) -> Given {
        match self.given.recv().await {
            Some(given) => given,
            // This holds the other end itself.
            None => std::future::pending().await,
        }
    }

    /// Whether there is anything to look after.
    pub(super) fn is_busy(&self) -> bool {
        self.running().is_some()
    }

    /// What has not ended.
    pub(super) fn running(&self) -> Option<&Underway> {
        self.underway.as_ref().filter(|u| !u.rollout.has_ended())
    }

    pub(super) fn proxies(&self) -> Vec<ProxyStatus> {
        let all = self.observe.as_ref().map(|observe| observe());
        all.unwrap_or_default()
    }

    fn apis(&self) -> Option<Apis> {
        self.answering.as_ref().map(|answering| answering())
    }

    /// Who is there when a rollout begins; what they do is seen at the first look.
    fn seats(&self) -> Vec<Proxy> {
        let proxies = self.proxies().into_iter().filter(|p| p.connected);
        let proxies = proxies.map(|p| Proxy::seated(p.seat(), false));
        let apis = self.apis().map(|apis| {
            let seat = Seat {
                identity: &apis.identity,
                instance: INSTANCE,
                returns: true,
            };
            Proxy::seated(seat, true)
        });
        proxies.chain(apis).collect()
    }
}

impl Source {
    /// Who is looked at during a rollout; without it no proxy is seen.
    #[must_use]
    pub fn observing(
        mut self,
        observe: impl Fn() -> Vec<ProxyStatus> + Send + Sync + 'static,
    ) -> Self {
        self.rolling.observe = Some(Box::new(observe));
        self
    }

    /// The decision APIs that answer by what is in force here; without them nobody is asked.
    #[must_use]
    pub fn answering(mut self, apis: impl Fn() -> Apis + Send + Sync + 'static) -> Self {
        self.rolling.answering = Some(Box::new(apis));
        self
    }

    /// The door for orders.
    pub fn orders(&self) -> Orders {
        Orders(self.rolling.sender.clone())
    }

    /// Takes up what was under way before a restart.
    ///
    /// # Errors
    /// When that cannot be read.
    pub(super) async fn resume(&mut self) -> Result<(), Diagnostic> {
        let journal: Journal = self.keep.load_journal()?;
        let candidate = self.keep.load_as(CANDIDATE)?;
        let baseline = self.keep.load_as(BASELINE)?;
        // Its number may be used, whether or not the journal knows.
        let used = candidate.as_ref().map_or(0, |c| c.sequence);
        let kept = self.sequence;
        let restored = journal.rollout.as_ref().and_then(|r| r.restored);
        self.sequence = self.sequence.max(used).max(restored.unwrap_or_default());
        if let Some(candidate) = candidate.as_ref().filter(|c| c.sequence == self.sequence) {
            self.use_number(candidate);
        }
        self.rolling.taken_back = journal.taken_back;
        self.rolling.seen_us = journal.seen_us.unwrap_or(i64::MIN);
        if let Some(taken) = journal.taken_back.filter(|t| t.sequence >= self.sequence) {
            self.sequence = taken.sequence;
            self.used = Some((taken.sequence, taken.digest));
        }
        let set_aside = journal.set_aside.as_deref().and_then(Digest::from_hex);
        self.rolling.set_aside = set_aside;
        self.state.send_modify(|s| s.set_aside = set_aside);
        let Some(mut rollout) = journal.rollout else {
            return Ok(());
        };
        rollout.restarted(self.clock.now_us());
        let of = |revision: Option<Revision>, name: Name| {
            let revision =
                revision.filter(|r| r.sequence == name.sequence && r.sha256 == name.digest.0);
            async move { Some((revision.clone()?, compiled(revision?.bundle).await?)) }
        };
        let both = (
            of(baseline, rollout.baseline).await,
            of(candidate, rollout.candidate).await,
        );
        let (Some((old, old_compiled)), Some((new, new_compiled))) = both else {
            tracing::error!("the rollout under way cannot be taken up again, and is stopped");
            return self.forget(rollout);
        };
        let published = |revision: Revision, compiled| {
            Arc::new(self.published(compiled, revision.issued_us, revision, Vec::new()))
        };
        let is_believed = self
            .believed(&old_compiled, &old)
            .and(self.believed(&new_compiled, &new));
        // Keys that cannot be read now may be there in a moment; nothing is put in force without.
        if let Err(error) = is_believed
            && error.code.0 != KEYS
        {
            tracing::error!(%error, "the last rollout is not taken up again");
            return match rollout.has_ended() {
                true => self.write_journal(),
                false => self.forget(rollout),
            };
        }
        let is_over = rollout.has_ended() && rollout.candidate.sequence <= kept;
        let underway = Underway::new(
            rollout,
            published(old, old_compiled),
            published(new, new_compiled),
        );
        self.rolling.underway = Some(underway.clone());
        if is_over {
            self.state
                .send_modify(|s| s.rollout = Some(Arc::new(underway)));
            return Ok(());
        }
        self.follow_up();
        self.look();
        Ok(())
    }

    /// Gives up a rollout of which a revision is lost: nobody may be left with it.
    fn forget(&mut self, rollout: Rollout) -> Result<(), Diagnostic> {
        self.rolling.set_aside = Some(rollout.candidate.digest);
        let is_in_force = |c: &Arc<Published>| c.sequence() >= rollout.candidate.sequence;
        if rollout.back_until_us.is_some() {
            // Whoever has it is sent what is in force, or will be, and takes it.
            if !self.current().is_some_and(|c| is_in_force(&c)) {
                self.rolling.taken_back = Some(rollout.candidate);
            }
        } else if let Some(current) = self.current().filter(|_| self.trust.is_none()) {
            // What others have numbered without a way back nobody enforces before all do, so
            // nobody has to go back.
            self.republish(&current)?;
        }
        let set_aside = self.rolling.set_aside;
        self.state.send_modify(|s| s.set_aside = set_aside);
        self.write_journal()
    }

    /// Takes what the source has now: puts it in force, or begins a rollout.
    ///
    /// # Errors
    /// When it cannot be kept, or those who must have signed have not: it is not in force then.
    pub(super) fn offer(
        &mut self,
        compiled: Compiled,
        vouched: Vouched,
        mut diagnostics: Vec<Diagnostic>,
    ) -> Result<(), Diagnostic> {
        let digest = compiled.digest;
        let numbered = vouched.release.as_ref().map(|r| r.sequence);
        let is = |c: &Published| c.digest() == digest && numbered.is_none_or(|n| n == c.sequence());
        if let Some(underway) = self.rolling.running() {
            let is_stopped = underway.rollout.stopped().is_some();
            if !is_stopped && is(&underway.candidate) {
                self.rolling.offered = Some(digest);
                return self.renew_candidate(vouched);
            }
            // A copy that lags behind ends nothing.
            let highest = underway.candidate.sequence();
            if let Some(older_one) = numbered.filter(|n| *n < highest && !is_stopped) {
                return Err(older(older_one, highest));
            }
        }
        let is_there = self.current().is_some_and(|c| is(&c));
        if !is_there && self.rolling.set_aside != Some(digest) {
            // Before anything has to make room for it.
            let revision = self.signed(&compiled, vouched.clone(), self.clock.now_us());
            self.check_number(&revision)?;
            self.accepted(&compiled, &revision)?;
        }
        self.rolling.offered = Some(digest);
        if self.rolling.running().is_some() {
            // The newest content is what is wanted, so nothing waits behind another.
            self.make_room();
        }
        let current = self.current();
        if let Some(same) = current.as_ref().filter(|c| is(c)) {
            // Nothing new but perhaps signatures; what was set aside is not there any more.
            self.set_aside(None);
            return self.renew(&same.clone(), vouched);
        }
        if self.rolling.set_aside == Some(digest) {
            return Ok(());
        }
        let Some((plan, current)) = self.rolling.plan.clone().zip(current) else {
            return self.publish(compiled, vouched, diagnostics);
        };
        let course = self.course(plan, &compiled, &vouched, &current);
        if let Some(note) = &course.note {
            tracing::warn!(%note, "policy revision goes to all proxies at once");
        }
        diagnostics.extend(course.note);
        match course.plan {
            Some(plan) => {
                let plan = (plan, course.back_until_us);
                self.begin(plan, compiled, vouched, diagnostics, BY_SOURCE, &current)
            }
            None => self.publish(compiled, vouched, diagnostics),
        }
    }

    /// Ends what is under way for something newer. What somebody paused is in doubt, and goes
    /// back first.
    fn make_room(&mut self) {
        const WHY: &str = "the source has something newer";
        let completed = self.with_underway(|rollout, seen| {
            let is_sure = rollout.back_until_us.is_some() && rollout.paused.is_none();
            is_sure && rollout.complete(WHY, seen)
        });
        if completed != Some(true) {
            self.stop(Stop::Superseded, WHY, None);
        }
    }

    /// What is on its way is there again, perhaps signed by more or stamped anew.
    fn renew_candidate(&mut self, vouched: Vouched) -> Result<(), Diagnostic> {
        let Some(mut underway) = self.rolling.underway.clone() else {
            return Ok(());
        };
        if let Some(renewed) = self.renewed(&underway.candidate, vouched)? {
            self.keep.store_as(CANDIDATE, &renewed.revision)?;
            underway.candidate = Arc::new(renewed);
            self.rolling.underway = Some(underway);
            self.follow_up();
        }
        Ok(())
    }

    /// Puts content in force at once, for everybody.
    pub(super) fn publish(
        &mut self,
        compiled: Compiled,
        vouched: Vouched,
        diagnostics: Vec<Diagnostic>,
    ) -> Result<(), Diagnostic> {
        let now_us = self.clock.now_us();
        let revision = self.signed(&compiled, vouched, now_us);
        self.check_number(&revision)?;
        self.accepted(&compiled, &revision)?;
        // Point of no return: the number is used once it is on disk. If it cannot
        // be kept it must not be given out, or a restart would give it out again.
        self.keep.succeed(&revision)?;
        self.use_number(&revision);
        let next = self.published(compiled, now_us, revision, diagnostics);
        self.set_aside(None);
        self.put_in_force(Arc::new(next));
        Ok(())
    }

    /// Puts old content in force again, under the next number.
    fn republish(&mut self, old: &Published) -> Result<u64, Diagnostic> {
        let compiled = (*old.compiled).clone();
        let now_us = self.clock.now_us();
        let vouched = Vouched {
            attestation: old.revision.attestation.clone(),
            ..Vouched::default()
        };
        let revision = self.signed(&compiled, vouched, now_us);
        self.accepted(&compiled, &revision)?;
        self.keep.succeed(&revision)?;
        self.use_number(&revision);
        let next = self.published(compiled, now_us, revision, old.diagnostics.clone());
        self.put_in_force(Arc::new(next));
        Ok(self.sequence)
    }

    pub(super) fn put_in_force(&self, next: Arc<Published>) {
        self.activate(next, None);
    }

    /// Puts a revision in force, at one moment with the rollout that says for whom it is not.
    fn activate(&self, next: Arc<Published>, rollout: Option<Arc<Underway>>) {
        tracing::info!(
            sequence = next.sequence(),
            digest = %next.digest(),
            policies = next.compiled.info.len(),
            signed = %next.signed,
            "policy revision activated"
        );
        self.note(&next);
        let current = self.current();
        self.recorder
            .change(changes::activated(current.as_deref(), &next));
        self.state.send_modify(|s| {
            s.current = Some(next);
            s.rollout = rollout.or(s.rollout.take());
        });
    }

    pub(super) fn begin(
        &mut self,
        (plan, back_until_us): (Plan, Option<i64>),
        compiled: Compiled,
        vouched: Vouched,
        diagnostics: Vec<Diagnostic>,
        actor: &str,
        current: &Arc<Published>,
    ) -> Result<(), Diagnostic> {
        let now_us = self.clock.now_us();
        let revision = self.signed(&compiled, vouched, now_us);
        self.check_number(&revision)?;
        self.accepted(&compiled, &revision)?;
        self.keep.store_as(BASELINE, &current.revision)?;
        self.keep.store_as(CANDIDATE, &revision)?;
        self.use_number(&revision);
        let candidate = Arc::new(self.published(compiled, now_us, revision, diagnostics));
        self.rolling.collected = Collected::default();
        let proxies = self.rolling.seats();
        let evidence = Evidence::default();
        let seen = Seen {
            now_us,
            proxies: &proxies,
            away: &[],
            evidence: &evidence,
        };
        let rollout = Rollout::begin(plan, name(current), name(&candidate), actor, &seen)
            .returning_until(back_until_us);
        self.rolling.underway = Some(Underway::new(rollout, current.clone(), candidate));
        self.set_aside(None);
        self.look();
        Ok(())
    }

    /// Looks at what is under way, and does what follows.
    pub(super) fn look(&mut self) {
        self.with_underway(|rollout, seen| while rollout.step(seen) {});
    }

    pub(super) fn stop(&mut self, by: Stop, text: &str, actor: Option<&str>) {
        self.with_underway(|rollout, seen| {
            // One that is on its way back already goes on doing so.
            let _ = rollout.abort(by, text, actor, seen);
        });
    }

    /// Changes what is under way, and does what follows from it. None where nothing is.
    pub(super) fn with_underway<T>(
        &mut self,
        change: impl FnOnce(&mut Rollout, &Seen<'_>) -> T,
    ) -> Option<T> {
        let mut underway = self.rolling.underway.take()?;
        let names = (underway.rollout.baseline, underway.rollout.candidate);
        let (mut proxies, mut away) = (Vec::new(), Vec::new());
        for status in self.rolling.proxies() {
            let proxy = underway.proxy(&status);
            if let Some(told) = &status.status {
                let boot = Boot {
                    proxy: (status.identity.to_string(), status.instance.clone()),
                    boot: status.boot.clone(),
                };
                self.rolling
                    .collected
                    .note(boot, &proxy.services, told, names);
            }
            match status.connected {
                true => proxies.push(proxy),
                false => away.push(proxy),
            }
        }
        if let Some(apis) = self.rolling.apis() {
            proxies.push(underway.apis(&apis));
            self.rolling.collected.hear(apis.asked, names);
        }
        let evidence = Arc::new(self.rolling.collected.evidence());
        underway.tell(evidence.clone());
        let seen = Seen {
            now_us: self.clock.now_us(),
            proxies: &proxies,
            away: &away,
            evidence: &evidence,
        };
        let before = underway.rollout.clone();
        let changed = change(&mut underway.rollout, &seen);
        let news = underway.rollout.take_news();
        for turn in &news {
            tracing::info!(candidate = %underway.rollout.candidate, why = turn.why, "rollout: {}", turn.what);
            let actor = turn.by.as_deref();
            let actor = actor.unwrap_or_else(|| self.recorder.reporter());
            let object = underway.rollout.candidate.to_string();
            let detail = [turn.what.as_str(), turn.why.as_str()].join(": ");
            let verb = format!("rollout_{}", verb(&turn.what));
            self.recorder.admin(actor, &verb, &object, &detail);
        }
        let stopped = underway.rollout.stopped().map(|why| why.by);
        if news.iter().any(|turn| turn.what == HALTED) && stopped != Some(Stop::Superseded) {
            self.rolling.set_aside = Some(underway.candidate.digest());
        }
        // Keys that could not be read may be there now.
        let is_owing = underway.rollout.owes_restoring() || self.owes_full(&underway);
        let is_news = underway.rollout != before || !news.is_empty();
        self.rolling.underway = Some(underway);
        if is_news || is_owing {
            self.follow_up();
        }
        Some(changed)
    }

    /// What a phase means for what is in force. The journal comes first: a restart then
    /// does what is left.
    fn follow_up(&mut self) {
        let Some(mut underway) = self.rolling.underway.clone() else {
            return;
        };
        self.log_failure(self.write_journal());
        if self.owes_full(&underway) {
            let (compiled, revision) = (&underway.candidate.compiled, &underway.candidate.revision);
            match self.accepted(compiled, revision) {
                Ok(_) => {
                    self.log_failure(self.keep.succeed(revision));
                    self.activate(underway.candidate.clone(), Some(Arc::new(underway.clone())));
                }
                // Told, and tried again at every look.
                Err(error) if error.code.0 == KEYS => self.reject(vec![error]),
                // A key was removed, or the stamp has ended, while it was tried: nobody is left
                // with it.
                Err(error) if !underway.rollout.has_ended() => {
                    return self.refuse_candidate(error);
                }
                Err(error) => self.reject(vec![error]),
            }
            if self.rolling.offered != Some(underway.candidate.digest()) {
                self.set_aside(self.rolling.offered);
            }
        }
        if underway.rollout.owes_restoring() {
            match self.restore_old(&underway) {
                Ok(sequence) => {
                    underway.rollout.restored_as(sequence);
                    self.tell_refused();
                }
                // Told, and tried again at every look.
                Err(error) => self.reject(vec![error]),
            }
            self.rolling.underway = Some(underway.clone());
            self.log_failure(self.write_journal());
        }
        let set_aside = self.rolling.set_aside;
        self.state.send_modify(|s| {
            s.rollout = Some(Arc::new(underway));
            s.set_aside = set_aside;
        });
    }

    /// Whether everybody is to have the candidate, and it is not in force yet.
    fn owes_full(&self, underway: &Underway) -> bool {
        let next = underway.candidate.sequence();
        matches!(underway.rollout.phase, Phase::Full | Phase::Completed)
            && self.current().is_none_or(|c| c.sequence() < next)
            && !self.was_taken_back(next)
    }

    /// Stops what is under way, because those who must have signed it have not any more.
    pub(super) fn refuse_candidate(&mut self, error: Diagnostic) {
        let text = format!("it is not accepted any more: {error}");
        self.reject(vec![error]);
        self.with_underway(|rollout, seen| rollout.refuse(text, seen));
    }

    /// Puts the revision before in force again: under its own number where those who have
    /// numbered both said so, else its content under the next.
    fn restore_old(&mut self, underway: &Underway) -> Result<u64, Diagnostic> {
        let old = &underway.baseline;
        if underway.rollout.back_until_us.is_none() {
            return self.republish(old);
        }
        let to = (old.digest(), old.sequence());
        if self.trust.is_none() && self.leads_back(&underway.candidate, to).is_err() {
            // Nobody else has to have numbered what is in force.
            return self.republish(old);
        }
        let to = ((*old.compiled).clone(), old.revision.clone());
        self.take_back(underway.rollout.candidate, to, old.diagnostics.clone())
    }

    pub(super) fn log_failure(&self, done: Result<(), Diagnostic>) {
        if let Err(error) = done {
            tracing::error!(%error, "the rollout is not kept on disk");
        }
    }

    pub(super) fn write_journal(&self) -> Result<(), Diagnostic> {
        self.keep.store_journal(&Journal {
            rollout: self.rolling.underway.as_ref().map(|u| u.rollout.clone()),
            set_aside: self.rolling.set_aside.map(|digest| digest.to_string()),
            taken_back: self.rolling.taken_back,
            seen_us: self.has_way_back().then(|| self.latest_us()),
        })
    }

    pub(super) fn set_aside(&mut self, digest: Option<Digest>) {
        if self.rolling.set_aside != digest {
            self.rolling.set_aside = digest;
            self.log_failure(self.write_journal());
        }
        self.state.send_modify(|s| s.set_aside = digest);
    }

    pub(super) fn current(&self) -> Option<Arc<Published>> {
        self.state.borrow().current.clone()
    }
}

/// A turn as one word for records: the steps of a canary are one kind.
fn verb(what: &str) -> String {
    match what.split_once(' ') {
        Some(("canary", _)) => "canary".to_owned(),
        _ => what.replace(' ', "_"),
    }
}

pub(super) fn name(of: &Published) -> Name {
    Name {
        digest: of.digest(),
        sequence: of.sequence(),
    }
}

async fn compiled(bundle: Bytes) -> Option<Compiled> {
    let loaded = spawn_blocking(move || author::compile(bundle)).await;
    loaded.unwrap_or_default().compiled
}
