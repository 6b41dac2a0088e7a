//! Bringing a revision to the proxies step by step, and back by itself when it does harm.
//!
//! ```text
//! planned ─► shadow ─► canary 1 ─► … ─► canary n ─► full ─► completed
//!    └─────────┴───────────┴───────────────┴──────────┴──► halted ─► rolled back
//! ```
//!
//! The machine is pure: the time and what is seen of the proxies are passed in, and what
//! follows is a phase from which everything else is derived: which revision a proxy
//! shall have, and which one it tries beside it. Every phase has a time limit, and says
//! what happens at its end ([`Rollout::outlook`]).
//!
//! Proxies that have the new revision try the old one beside it, so that what it changes
//! is seen in every phase, whether or not there was a shadow before.

mod apis;
pub(crate) mod evidence;
mod gate;
mod plan;
mod state;
mod taken;
#[cfg(test)]
mod tests;

use std::time::Duration;

use palisade_mesh::snapshot::Digest;
use serde::{Deserialize, Serialize};
use taken::Taken;

pub use apis::{Apis, Asked, INSTANCE};
pub use evidence::{Evidence, Flips, Load, Questions};
pub use gate::{Gates, Reading, Standing, Threshold};
pub use plan::{Plan, STEPS_MAX, Step, TIME_MAX, Target};
pub use state::{Name, OrderError, Pause, Phase, Proxy, Seat, Seen, Stop, Turn, Which, Why};

/// Turns that are remembered of one rollout.
const TURNS_MAX: usize = 64;
/// What a turn to the halt is called.
pub(crate) const HALTED: &str = "halted";
/// Proxies that are named where some are missing.
const NAMED_MAX: usize = 5;

/// One revision on its way to the proxies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// What shall happen.
    pub plan: Plan,
    /// What is in force before it.
    pub baseline: Name,
    /// What shall be.
    pub candidate: Name,
    /// Who started it.
    pub actor: String,
    /// When, microseconds since the Unix epoch.
    pub started_us: i64,
    /// Where it stands.
    pub phase: Phase,
    /// Since when, microseconds since the Unix epoch; later where a pause lay between.
    pub since_us: i64,
    /// Whether it waits.
    pub paused: Option<Pause>,
    /// What has happened, oldest first.
    pub turns: Vec<Turn>,
    /// Ten-thousandths of the proxies that enforce the candidate, by their place.
    share: u32,
    /// Who is part of every share besides, because nobody stood in one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    taken: Vec<Taken>,
    /// Decisions of proxies at the begin of the phase.
    mark: u64,
    /// Those of the decision APIs: a restart of the PDP forgets them.
    #[serde(default)]
    mark_of_apis: u64,
    /// Whether a proxy was seen that the phase is about: its own decisions are waited for then.
    #[serde(default)]
    by_proxies: bool,
    /// Whether every proxy has done once what the phase begins with.
    ready: bool,
    /// Number under which the old content was put in force again.
    pub restored: Option<u64>,
    /// Until when whoever has the candidate may be taken back to the revision before, as those
    /// said who have numbered both, microseconds since the Unix epoch. None where the old
    /// content goes back under a number of the PDP's own, or nobody goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_until_us: Option<i64>,
    /// Turns that nobody has taken note of yet.
    #[serde(skip)]
    news: Vec<Turn>,
}

impl Rollout {
    /// Begins to bring `candidate` where `baseline` is.
    pub fn begin(
        plan: Plan,
        baseline: Name,
        candidate: Name,
        actor: &str,
        seen: &Seen<'_>,
    ) -> Self {
        let mut rollout = Self {
            plan,
            baseline,
            candidate,
            actor: actor.to_owned(),
            started_us: seen.now_us,
            phase: Phase::Planned,
            since_us: seen.now_us,
            paused: None,
            turns: Vec::new(),
            share: 0,
            taken: Vec::new(),
            mark: 0,
            mark_of_apis: 0,
            by_proxies: false,
            ready: false,
            restored: None,
            back_until_us: None,
            news: Vec::new(),
        };
        let first = match rollout.plan.shadow {
            Some(_) => Phase::Planned,
            None => rollout.next(),
        };
        rollout.enter(first, "started", Some(actor), seen);
        rollout
    }

    /// Looks at what is seen; says whether that changed the phase. To be asked until it
    /// does not.
    pub fn step(&mut self, seen: &Seen<'_>) -> bool {
        if self.has_ended() {
            return false;
        }
        if let Phase::Halted(why) = &self.phase {
            let why = why.clone();
            return self.finish_halt(why, seen);
        }
        self.fill_share(seen);
        self.by_proxies |= self.is_about_proxies(seen);
        self.ready |= self.unready(seen).is_none();
        if self.phase == Phase::Full && self.is_beyond_return(seen.now_us) {
            self.paused = None;
            self.enter(Phase::Completed, "its way back ends", None, seen);
            return true;
        }
        if let Some((by, text)) = self.harm(seen).or_else(|| self.overdue(seen)) {
            self.halt(by, text, None, seen);
            return true;
        }
        if self.paused.is_some() || !self.is_ripe(seen) {
            return false;
        }
        let next = self.next();
        self.enter(next, "its time is over and every gate holds", None, seen);
        true
    }

    /// Which revision a proxy of these services shall enforce. Who could not leave the candidate
    /// again gets it when nobody has to.
    pub fn wanted(&self, seat: Seat<'_>, services: &[String]) -> Which {
        let is_candidate = match &self.phase {
            Phase::Planned | Phase::Shadow | Phase::Halted(_) | Phase::RolledBack(_) => false,
            Phase::Canary(step) => self.can_leave(seat) && self.is_canary(*step, seat, services),
            Phase::Full => self.can_leave(seat),
            Phase::Completed => true,
        };
        match is_candidate {
            true => Which::Candidate,
            false => Which::Baseline,
        }
    }

    /// Which revision a proxy shall try beside the one it enforces.
    pub fn tried(&self, wanted: Which) -> Option<Which> {
        match (&self.phase, wanted) {
            (Phase::Planned | Phase::Shadow, _)
            | (Phase::Canary(_) | Phase::Full, Which::Baseline) => Some(Which::Candidate),
            (Phase::Canary(_) | Phase::Full, Which::Candidate) => Some(Which::Baseline),
            (Phase::Halted(_) | Phase::RolledBack(_) | Phase::Completed, _) => None,
        }
    }

    /// Whether somebody who has the candidate can be taken back as this rollout would do it.
    fn can_leave(&self, seat: Seat<'_>) -> bool {
        seat.returns || self.back_until_us.is_none()
    }

    /// Whether nothing more is to come of it.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::RolledBack(_) | Phase::Completed)
    }

    /// Why it was stopped, if it was.
    pub fn stopped(&self) -> Option<&Why> {
        match &self.phase {
            Phase::Halted(why) | Phase::RolledBack(why) => Some(why),
            _ => None,
        }
    }

    /// Whether it is stopped and the old content is not in force again yet, though
    /// proxies have had the new one.
    pub fn owes_restoring(&self) -> bool {
        matches!(self.phase, Phase::Halted(_)) && self.share_began() && self.restored.is_none()
    }

    /// Until when it may be taken back, where the old content goes back under its own number.
    #[must_use]
    pub fn returning_until(mut self, back_until_us: Option<i64>) -> Self {
        self.back_until_us = back_until_us;
        self
    }

    /// When whoever has the candidate has to be on the way back at the latest, microseconds
    /// since the Unix epoch.
    fn return_us(&self) -> Option<i64> {
        let ready_us = after(0, self.plan.ready_within);
        self.back_until_us.map(|us| us.saturating_sub(ready_us))
    }

    /// Whether nobody is taken back any more whom nothing holds up.
    fn is_beyond_return(&self, now_us: i64) -> bool {
        let last = match self.paused {
            None => self.return_us(),
            Some(_) => self.back_until_us,
        };
        last.is_some_and(|us| now_us >= us)
    }

    /// Lets it end well at once, where everybody has the candidate and something newer is
    /// to take its place; says whether it does.
    pub fn complete(&mut self, why: &str, seen: &Seen<'_>) -> bool {
        let is_full = self.phase == Phase::Full;
        if is_full {
            self.paused = None;
            self.enter(Phase::Completed, why, None, seen);
        }
        is_full
    }

    /// The old content is in force again, under this number.
    pub fn restored_as(&mut self, sequence: u64) {
        self.restored = Some(sequence);
    }

    /// When the phase ends at the latest, microseconds since the Unix epoch, and what
    /// happens then; none where it has ended.
    pub fn outlook(&self) -> Option<(i64, &'static str)> {
        let outlook = self.outlook_by_plan()?;
        let is_carried = matches!(self.phase, Phase::Canary(_) | Phase::Full);
        match self.return_us().filter(|us| is_carried && *us < outlook.0) {
            Some(us) if self.phase == Phase::Full && self.paused.is_none() => {
                Some((us, "it is complete, because its way back ends"))
            }
            Some(us) => Some((us, "it is rolled back, because its way back ends")),
            None => Some(outlook),
        }
    }

    fn outlook_by_plan(&self) -> Option<(i64, &'static str)> {
        if let Some(pause) = &self.paused {
            let ends = after(pause.since_us, self.plan.pause_limit);
            return Some((ends, "it is rolled back, because nobody resumed it"));
        }
        let ends = |limit| after(self.since_us, limit);
        let patient = |last| ends(last + self.plan.patience);
        match &self.phase {
            Phase::Planned => Some((
                ends(self.plan.ready_within),
                "it halts, unless every connected proxy tries the candidate by then",
            )),
            Phase::Shadow => Some((
                patient(self.plan.shadow.unwrap_or_default()),
                "it halts, unless enough decisions were seen by then",
            )),
            Phase::Canary(step) => Some((
                patient(self.last(*step)),
                "it is rolled back, unless enough decisions were seen by then",
            )),
            Phase::Full => Some((ends(self.plan.watch), "it is complete")),
            Phase::Halted(_) => Some((
                ends(self.plan.ready_within),
                "it counts as rolled back, whoever is missing",
            )),
            Phase::RolledBack(_) | Phase::Completed => None,
        }
    }

    /// When the phase may end well, microseconds since the Unix epoch.
    pub fn ripe_us(&self) -> Option<i64> {
        let last = match &self.phase {
            Phase::Planned => Duration::ZERO,
            Phase::Shadow => self.plan.shadow.unwrap_or_default(),
            Phase::Canary(step) => self.last(*step),
            Phase::Full => self.plan.watch,
            Phase::Halted(_) | Phase::RolledBack(_) | Phase::Completed => return None,
        };
        Some(after(self.since_us, last))
    }

    /// How every gate stands.
    pub fn readings(&self, evidence: &Evidence) -> Vec<Reading> {
        self.plan.gates.read(evidence)
    }

    /// Decisions that the phase has seen, and how many it needs: of proxies, where it is about
    /// any; what the decision APIs are asked says nothing about those.
    pub fn seen_of_needed(&self, evidence: &Evidence) -> (u64, u64) {
        let proxies = self.decisions(evidence).saturating_sub(self.mark);
        let apis = self.decisions_of_apis(evidence);
        let apis = apis.saturating_sub(self.mark_of_apis);
        let seen = match self.by_proxies {
            true => proxies,
            false => proxies + apis,
        };
        let needed = match self.phase {
            Phase::Shadow | Phase::Canary(_) => self.plan.gates.min_decisions,
            _ => 0,
        };
        (seen, needed)
    }

    /// Goes on to the next phase now, whether or not the time is over.
    ///
    /// # Errors
    /// When it has ended or is on its way back.
    pub fn promote(&mut self, actor: &str, seen: &Seen<'_>) -> Result<(), OrderError> {
        self.check_running()?;
        self.paused = None;
        let next = self.next();
        self.enter(next, "promoted", Some(actor), seen);
        Ok(())
    }

    /// Stops the clock; gates are still watched.
    ///
    /// # Errors
    /// When it has ended, or waits already.
    pub fn pause(&mut self, actor: &str, now_us: i64) -> Result<(), OrderError> {
        self.check_running()?;
        if self.paused.is_some() {
            return Err(OrderError::Paused);
        }
        self.paused = Some(Pause {
            since_us: now_us,
            by: actor.to_owned(),
        });
        self.note(now_us, "paused", "", Some(actor));
        Ok(())
    }

    /// Lets the clock go on where it stood.
    ///
    /// # Errors
    /// When it has ended, or does not wait.
    pub fn resume(&mut self, actor: &str, now_us: i64) -> Result<(), OrderError> {
        self.check_running()?;
        let pause = self.paused.take().ok_or(OrderError::Running)?;
        self.since_us += (now_us - pause.since_us).max(0);
        self.note(now_us, "resumed", "", Some(actor));
        Ok(())
    }

    /// Stops it, and brings proxies back.
    ///
    /// # Errors
    /// When it has ended or is on its way back.
    pub fn abort(
        &mut self,
        by: Stop,
        text: &str,
        actor: Option<&str>,
        seen: &Seen<'_>,
    ) -> Result<(), OrderError> {
        self.check_running()?;
        if self.phase == Phase::Full && self.back_until_us.is_some_and(|us| seen.now_us >= us) {
            return Err(OrderError::NoWayBack);
        }
        self.halt(by, text.to_owned(), actor, seen);
        Ok(())
    }

    /// Stops it because the candidate may not be in force any more, whatever its way back says.
    pub fn refuse(&mut self, text: String, seen: &Seen<'_>) {
        if self.check_running().is_ok() {
            self.halt(Stop::Refused, text, None, seen);
        }
    }

    fn check_running(&self) -> Result<(), OrderError> {
        match self.has_ended() || self.stopped().is_some() {
            true => Err(OrderError::Ended),
            false => Ok(()),
        }
    }

    /// What does harm now.
    fn harm(&self, seen: &Seen<'_>) -> Option<(Stop, String)> {
        let refused = seen.proxies.iter().find_map(|p| {
            let (sequence, why) = p.refused.as_ref()?;
            (*sequence == self.candidate.sequence)
                .then(|| format!("{} refused the candidate: {why}", p.instance))
        });
        if let Some(text) = refused {
            return Some((Stop::Refused, text));
        }
        let readings = self.readings(seen.evidence);
        let tripped = readings.iter().find(|r| r.standing == Standing::Exceeded);
        tripped.map(|r| {
            (
                Stop::Gate,
                format!("{}: {}, the limit is {}", r.gate, r.value, r.limit),
            )
        })
    }

    /// What the phase still lacks at the end of its time.
    fn overdue(&self, seen: &Seen<'_>) -> Option<(Stop, String)> {
        let is_carried = matches!(self.phase, Phase::Canary(_) | Phase::Full);
        if is_carried && self.return_us().is_some_and(|us| seen.now_us >= us) {
            let text = match &self.paused {
                Some(pause) => format!("its way back ends, and it was paused by {}", pause.by),
                None => "its way back ends".to_owned(),
            };
            return Some((Stop::TimedOut, text));
        }
        if let Some(pause) = &self.paused {
            let ends = after(pause.since_us, self.plan.pause_limit);
            let text = || format!("paused by {} and not resumed in time", pause.by);
            return (seen.now_us >= ends).then(|| (Stop::TimedOut, text()));
        }
        let is_over = |limit| seen.now_us >= after(self.since_us, limit);
        let unready = self.unready(seen).map(|text| (Stop::TimedOut, text));
        // One that was there and is away for a while halts nothing.
        if !self.ready && is_over(self.plan.ready_within) && unready.is_some() {
            return unready;
        }
        let last = match self.phase {
            Phase::Shadow => self.plan.shadow.unwrap_or_default(),
            Phase::Canary(step) => self.last(step),
            _ => return None,
        };
        let (got, needed) = self.seen_of_needed(seen.evidence);
        if !is_over(last + self.plan.patience) {
            return None;
        }
        let few = (got < needed).then(|| {
            let text = format!("only {got} of {needed} decisions were seen in time");
            (Stop::TimedOut, text)
        });
        few.or(unready)
    }

    /// Who has not done yet what the phase begins with, in words.
    fn unready(&self, seen: &Seen<'_>) -> Option<String> {
        let candidate = self.candidate.sequence;
        let (verb, missing): (&str, Vec<&str>) = match &self.phase {
            Phase::Planned => {
                let idle = seen.proxies.iter().filter(|p| p.tries != candidate);
                ("try", idle.map(|p| p.instance.as_str()).collect())
            }
            Phase::Canary(_) => {
                let idle = self.targets(seen).filter(|p| p.enforces != candidate);
                ("have", idle.map(|p| p.instance.as_str()).collect())
            }
            _ => return None,
        };
        let nobody = match &self.phase {
            Phase::Planned => seen.proxies.is_empty(),
            _ => self.targets(seen).next().is_none() || self.waits_for_proxies(seen),
        };
        let away = self.away(seen);
        if !away.is_empty() {
            return Some(format!("these are not connected: {}", named(&away)));
        }
        match (nobody, missing.is_empty()) {
            (true, _) => {
                Some("no proxy that it is for is connected, and no decision API answers".to_owned())
            }
            (false, true) => None,
            (false, false) => Some(format!(
                "these do not {verb} the candidate: {}",
                named(&missing)
            )),
        }
    }

    /// Whether the decision APIs are alone in a share, and a proxy may still come.
    fn waits_for_proxies(&self, seen: &Seen<'_>) -> bool {
        let is_waited_for = |p: &Proxy| p.apis && !self.is_taken(p.seat());
        self.is_share() && self.targets(seen).all(is_waited_for)
    }

    /// The proxies of a step's services, where all of them are gone: the decision APIs alone, who
    /// answer about these services, say nothing about them.
    fn away<'s>(&self, seen: &Seen<'s>) -> Vec<&'s str> {
        if !matches!(self.phase, Phase::Canary(_)) || self.is_share() || self.is_about_proxies(seen)
        {
            return Vec::new();
        }
        let away = seen.away.iter();
        let away = away.filter(|p| self.wanted(p.seat(), &p.services) == Which::Candidate);
        away.map(|p| p.instance.as_str()).collect()
    }

    /// Whether a proxy is connected that the phase is about.
    fn is_about_proxies(&self, seen: &Seen<'_>) -> bool {
        match self.phase {
            Phase::Canary(_) => self.targets(seen).any(|p| !p.apis),
            _ => seen.proxies.iter().any(|p| !p.apis),
        }
    }

    /// Whether the phase may end well now.
    fn is_ripe(&self, seen: &Seen<'_>) -> bool {
        let (got, needed) = self.seen_of_needed(seen.evidence);
        self.ripe_us().is_some_and(|ripe| seen.now_us >= ripe)
            && got >= needed
            && self.unready(seen).is_none()
    }

    fn next(&self) -> Phase {
        let step = |at: usize| match at < self.plan.steps.len() {
            true => Phase::Canary(at),
            false => Phase::Full,
        };
        match &self.phase {
            Phase::Planned if self.plan.shadow.is_some() => Phase::Shadow,
            Phase::Planned | Phase::Shadow => step(0),
            Phase::Canary(at) => step(at + 1),
            Phase::Full => Phase::Completed,
            ended => ended.clone(),
        }
    }

    fn enter(&mut self, phase: Phase, why: &str, by: Option<&str>, seen: &Seen<'_>) {
        if let Phase::Canary(step) = &phase
            && let Some(Target::Share(share)) = self.plan.steps.get(*step).map(|s| &s.target)
        {
            self.share = self.share.max(*share);
        }
        if phase == Phase::Full {
            self.share = SHARES;
        }
        self.phase = phase;
        self.since_us = seen.now_us;
        self.mark = self.decisions(seen.evidence);
        self.mark_of_apis = self.decisions_of_apis(seen.evidence);
        self.ready = false;
        self.fill_share(seen);
        self.by_proxies = self.is_about_proxies(seen);
        self.note(seen.now_us, &self.word(), why, by);
    }

    fn halt(&mut self, by: Stop, text: String, actor: Option<&str>, seen: &Seen<'_>) {
        let during = self.word();
        self.paused = None;
        self.phase = Phase::Halted(Why {
            by,
            text: text.clone(),
            during,
        });
        self.since_us = seen.now_us;
        self.note(seen.now_us, HALTED, &text, actor);
    }

    fn finish_halt(&mut self, why: Why, seen: &Seen<'_>) -> bool {
        if self.owes_restoring() {
            return false;
        }
        let candidate = self.candidate.sequence;
        let on_it = seen.proxies.iter().filter(|p| {
            let is_back = self.restored.is_none_or(|n| p.enforces >= n);
            !is_back || p.enforces == candidate || p.tries == candidate
        });
        let missing: Vec<&str> = on_it.map(|p| p.instance.as_str()).collect();
        let is_over = seen.now_us >= after(self.since_us, self.plan.ready_within);
        if !missing.is_empty() && !is_over {
            return false;
        }
        let told = match missing.is_empty() {
            true => "every connected proxy is back".to_owned(),
            false => format!("still missing: {}", named(&missing)),
        };
        self.phase = Phase::RolledBack(why);
        self.since_us = seen.now_us;
        self.note(seen.now_us, "rolled back", &told, None);
        true
    }

    fn note(&mut self, at_us: i64, what: &str, why: &str, by: Option<&str>) {
        if self.turns.len() >= TURNS_MAX {
            self.turns.remove(0);
        }
        let turn = Turn {
            at_us,
            what: what.to_owned(),
            why: why.to_owned(),
            by: by.map(str::to_owned),
        };
        self.turns.push(turn.clone());
        self.news.push(turn);
    }

    /// Gives proxies, who have to come back first, the time that they had at the begin of
    /// the phase. Proxies go on counting; what the decision APIs have counted is lost.
    pub fn restarted(&mut self, now_us: i64) {
        self.mark_of_apis = 0;
        if !self.ready && !self.has_ended() {
            self.since_us = self.since_us.max(now_us);
        }
    }

    /// What has happened since this was last asked.
    pub fn take_news(&mut self) -> Vec<Turn> {
        std::mem::take(&mut self.news)
    }

    /// The phase in words.
    pub fn word(&self) -> String {
        match &self.phase {
            Phase::Planned => "planned".into(),
            Phase::Shadow => "shadow".into(),
            Phase::Canary(step) => {
                let target = self.plan.steps.get(*step).map(|s| s.target.to_string());
                format!("canary {} ({})", step + 1, target.unwrap_or_default())
            }
            Phase::Full => "full".into(),
            Phase::Halted(_) => "halted".into(),
            Phase::RolledBack(_) => "rolled back".into(),
            Phase::Completed => "completed".into(),
        }
    }

    /// Decisions of proxies that count for the phase: those the candidate made while it was
    /// tried, or while it was enforced.
    fn decisions(&self, evidence: &Evidence) -> u64 {
        match self.phase {
            Phase::Canary(_) | Phase::Full => evidence.new.decided,
            _ => evidence.flips.evaluated,
        }
    }

    fn decisions_of_apis(&self, evidence: &Evidence) -> u64 {
        match self.phase {
            Phase::Canary(_) | Phase::Full => evidence.asked.new.decided,
            _ => evidence.asked.flips.evaluated,
        }
    }

    fn last(&self, step: usize) -> Duration {
        self.plan.steps.get(step).map_or(Duration::ZERO, |s| s.last)
    }

    fn share_began(&self) -> bool {
        let stopped = self.stopped().map_or("", |why| why.during.as_str());
        stopped.starts_with("canary") || stopped == "full"
    }

    fn targets<'s>(&'s self, seen: &Seen<'s>) -> impl Iterator<Item = &'s Proxy> {
        seen.proxies
            .iter()
            .filter(|p| self.wanted(p.seat(), &p.services) == Which::Candidate)
    }

    fn is_canary(&self, step: usize, seat: Seat<'_>, services: &[String]) -> bool {
        let steps = self.plan.steps.iter().take(step + 1);
        let mut named = steps.filter_map(|s| match &s.target {
            Target::Services(names) => Some(names),
            Target::Share(_) => None,
        });
        self.is_of_share(seat) || named.any(|names| services.iter().any(|s| names.contains(s)))
    }

    /// The place of a proxy among all, in ten-thousandths: the same as long as the
    /// rollout lasts, another one in the next.
    fn place(&self, seat: Seat<'_>) -> u32 {
        let (id, instance) = (seat.identity.as_str().as_bytes(), seat.instance.as_bytes());
        let text = [&self.candidate.digest.0[..], id, b"\0", instance].concat();
        let [a, b, c, d, ..] = Digest::of(&text).0;
        u32::from_be_bytes([a, b, c, d]) % SHARES
    }
}

/// All proxies, as a share.
const SHARES: u32 = 10_000;

fn after(since_us: i64, time: Duration) -> i64 {
    since_us.saturating_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
}

/// Names, the first few of them where they are many.
pub(crate) fn named(missing: &[&str]) -> String {
    let first: Vec<&str> = missing.iter().take(NAMED_MAX).copied().collect();
    match missing.len().saturating_sub(NAMED_MAX) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
