//! What the PDP answers about rollouts on the local socket.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::ConnectInfo,
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use palisade_pdp::{
    apis::Desk,
    publish::{
        Content, Difference, Distribution, Order, Orders, State, Underway,
        codes::{ROLLOUT_HALTED, ROLLOUT_PLAN},
        rollout::{Apis, INSTANCE, Name, Phase, Plan, Reading, Step, Stop, Target, Turn},
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    config::rollout,
    control::{
        api::{Answer, Fact, FactState},
        server::PeerUid,
        status::{ago, ahead},
    },
};

/// Content of the source is set aside.
const SET_ASIDE: u16 = 3309;
/// A rollout is paused.
const PAUSED: u16 = 3310;

/// What is to be rolled out and how; what is absent is as it is configured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RolloutWish {
    /// A bundle, base64.
    pub bundle: Option<String>,
    /// Or a kept revision: number or beginning of its digest. Else what the source has.
    pub kept: Option<String>,
    /// Shadow, in milliseconds; 0 for none.
    pub shadow_ms: Option<u64>,
    /// One decision in this many is put to both revisions.
    pub every: Option<u32>,
    /// Steps: `svc=NAMESPACE/NAME` or `25%`.
    pub canary: Option<Vec<String>>,
    /// Time of each step, in milliseconds.
    pub step_ms: Option<u64>,
    /// Time of watching everybody, in milliseconds.
    pub watch_ms: Option<u64>,
    /// Decisions that a phase must have seen.
    pub min_decisions: Option<u64>,
    /// Gates: `newly-denied>0.1%`.
    pub abort_on: Vec<String>,
}

/// What would be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolloutPreview {
    /// Digest of the candidate, hexadecimal.
    pub digest: String,
    /// The revision in force.
    pub baseline: Name,
    /// Ids of policies that are new.
    pub added: Vec<String>,
    /// Ids of policies that are gone.
    pub removed: Vec<String>,
    /// Ids of policies whose text differs.
    pub changed: Vec<String>,
    /// Phases in their order.
    pub phases: Vec<PlannedPhase>,
    /// Gates in words.
    pub gates: Vec<String>,
    /// Decisions that a phase must have seen.
    pub min_decisions: u64,
    /// Until when it could be taken back, where others have numbered it, microseconds since
    /// the Unix epoch.
    pub back_until_us: Option<i64>,
    /// Why its way back does not serve, if it has one and it does not.
    pub note: Option<String>,
}

/// A phase of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedPhase {
    /// Its name.
    pub phase: String,
    /// For how long at least, in seconds.
    pub for_s: u64,
    /// For how long at most, in seconds.
    pub limit_s: u64,
    /// What happens when its time is over without what it needs.
    pub then: String,
}

/// How a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// Where it stands: `planned`, `shadow`, `canary`, `full`, `halted`, `rolled_back`,
    /// `completed`.
    pub phase: String,
    /// The same in words, with the step.
    pub text: String,
    /// What is rolled out.
    pub candidate: Name,
    /// What was in force before.
    pub baseline: Name,
    /// Who started it.
    pub actor: String,
    /// When, microseconds since the Unix epoch.
    pub started_us: i64,
    /// Since when it is in this phase, microseconds since the Unix epoch.
    pub since_us: i64,
    /// When the phase may end well, microseconds since the Unix epoch.
    pub ripe_us: Option<i64>,
    /// When it ends at the latest, microseconds since the Unix epoch.
    pub ends_us: Option<i64>,
    /// What happens then.
    pub then: Option<String>,
    /// Who paused it, if it waits.
    pub paused_by: Option<String>,
    /// Why it was stopped, if it was.
    pub stopped: Option<StoppedStatus>,
    /// Number under which the old content was put in force again.
    pub restored: Option<u64>,
    /// Until when it may be taken back to the revision before as that is numbered, where
    /// others have numbered both, microseconds since the Unix epoch.
    pub back_until_us: Option<i64>,
    /// Decisions that the phase has seen.
    pub decisions: u64,
    /// How many it needs.
    pub decisions_needed: u64,
    /// Requests put to both revisions.
    pub evaluated: u64,
    /// Stopped before and passed now.
    pub newly_allowed: u64,
    /// Passed before and stopped now.
    pub newly_denied: u64,
    /// Decided before and undecided now.
    pub newly_undecided: u64,
    /// How every gate stands.
    pub gates: Vec<Reading>,
    /// Connected proxies, and the decision APIs, where they are served.
    pub proxies: Vec<RolloutProxy>,
    /// What has happened, oldest first.
    pub turns: Vec<Turn>,
}

/// Why a rollout was stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedStatus {
    /// `aborted`, `gate`, `refused`, `superseded`, `timed_out`.
    pub by: Stop,
    /// In words.
    pub why: String,
    /// The phase it was stopped in.
    pub during: String,
}

/// A proxy's part in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutProxy {
    /// Its name.
    pub instance: String,
    /// Number of the revision it shall enforce.
    pub wanted: u64,
    /// Number of the revision it enforces.
    pub enforces: u64,
    /// Number of the revision it tries beside it; 0 for none.
    pub tries: u64,
    /// Whether it is the decision APIs of the PDP, and no proxy.
    #[serde(default)]
    pub apis: bool,
}

/// An order that says all by itself.
type Simple = dyn Fn() -> Order + Send + Sync;

/// The rollouts of this process's PDP.
#[derive(Clone)]
pub(super) struct Rollouts {
    pub(super) orders: Orders,
    pub(super) state: watch::Receiver<State>,
    pub(super) distribution: Distribution,
    /// The decision APIs, where they are served.
    pub(super) desk: Option<Desk>,
    /// What holds where a wish says nothing.
    pub(super) plan: Plan,
    pub(super) clock: Clock,
}

impl Rollouts {
    pub(super) fn routes(&self) -> Router {
        let of_status = self.clone();
        let mut routes = Router::new().route(
            "/v1/pdp/rollout",
            get(move || async move { Json(of_status.status()) }),
        );
        let of_start = self.clone();
        routes =
            routes.route(
                "/v1/pdp/rollout/start",
                post(
                    move |ConnectInfo(peer): ConnectInfo<PeerUid>,
                          Json(wish): Json<RolloutWish>| async move {
                        of_start.start(peer, wish).await
                    },
                ),
            );
        let of_preview = self.clone();
        routes = routes.route(
            "/v1/pdp/rollout/plan",
            post(
                move |Json(wish): Json<RolloutWish>| async move { of_preview.preview(wish).await },
            ),
        );
        let of_rollback = self.clone();
        routes =
            routes.route(
                "/v1/pdp/rollout/rollback",
                post(
                    move |ConnectInfo(peer): ConnectInfo<PeerUid>,
                          Json(to): Json<Option<String>>| async move {
                        of_rollback.give(peer, Order::Rollback(to)).await
                    },
                ),
            );
        for (path, order) in [
            ("promote", &(|| Order::Promote) as &'static Simple),
            ("pause", &|| Order::Pause),
            ("resume", &|| Order::Resume),
            ("abort", &|| Order::Abort),
        ] {
            let rollouts = self.clone();
            routes = routes.route(
                &format!("/v1/pdp/rollout/{path}"),
                post(move |ConnectInfo(peer): ConnectInfo<PeerUid>| async move {
                    rollouts.give(peer, order()).await
                }),
            );
        }
        routes
    }

    async fn start(&self, peer: PeerUid, wish: RolloutWish) -> Answer<Option<RolloutStatus>> {
        let plan = wish.plan(&self.plan)?;
        let content = wish.content()?;
        self.give(peer, Order::Start(plan, content)).await
    }

    async fn preview(&self, wish: RolloutWish) -> Answer<RolloutPreview> {
        let plan = wish.plan(&self.plan)?;
        let content = wish.content()?;
        let difference = self.orders.preview(plan.clone(), content).await?;
        Ok(Json(preview(difference, &plan)))
    }

    async fn give(&self, peer: PeerUid, order: Order) -> Answer<Option<RolloutStatus>> {
        self.orders.give(&peer.to_string(), order).await?;
        Ok(Json(self.status()))
    }

    /// The rollout under way, or the last one.
    pub(super) fn status(&self) -> Option<RolloutStatus> {
        let state = self.state.borrow().clone();
        let underway = state.rollout.as_deref()?;
        let mut told = status(underway, &state, &self.distribution);
        let apis = self.desk.as_ref().map(Desk::standing);
        told.proxies
            .extend(apis.map(|apis| place(underway, &state, apis)));
        Some(told)
    }

    /// What `check` says of it.
    pub(super) fn check(&self) -> Option<Fact> {
        let status = self.status();
        let set_aside = self.state.borrow().set_aside;
        match (status, set_aside) {
            // One that is over and out of the way is history.
            (Some(status), None)
                if matches!(status.phase.as_str(), "completed" | "rolled_back") =>
            {
                None
            }
            (Some(status), _) if status.phase != "completed" => Some(self.fact(&status)),
            (_, Some(digest)) => Some(
                Fact::not_ok(
                    "rollout",
                    FactState::Warning,
                    SET_ASIDE,
                    format!("the content {} of the source is set aside", digest.short()),
                )
                .cause("it was rolled back, or other content was put in force in its place")
                .fix("mend the source; or try again: palisade rollout start"),
            ),
            _ => None,
        }
    }

    fn fact(&self, status: &RolloutStatus) -> Fact {
        let name = status.candidate.to_string();
        if let Some(stopped) = &status.stopped {
            let at = ago(&self.clock, status.since_us);
            let text = format!("the rollout of {name} was halted, {} {at}", status.text);
            let state = match stopped.by {
                Stop::Aborted | Stop::Superseded => FactState::Warning,
                Stop::Gate | Stop::Refused | Stop::TimedOut => FactState::Error,
            };
            return Fact::not_ok("rollout", state, ROLLOUT_HALTED, text)
                .cause(format!("{}, during {}", stopped.why, stopped.during))
                .fix(
                    "mend the source: what it has then is tried anew; see palisade rollout status",
                );
        }
        let ends = status.ends_us.map(|us| ahead(&self.clock, us / 1_000_000));
        let ends = ends.zip(status.then.as_ref());
        let then = ends.map_or_else(String::new, |(at, then)| format!("; {at} {then}"));
        match &status.paused_by {
            Some(by) => Fact::not_ok(
                "rollout",
                FactState::Warning,
                PAUSED,
                format!("the rollout of {name} is paused in {}", status.text),
            )
            .cause(format!("by {by}{then}"))
            .fix("palisade rollout resume, or palisade rollout abort"),
            None => Fact::ok("rollout", format!("{name} is in {}{then}", status.text)),
        }
    }
}

fn status(underway: &Underway, state: &State, distribution: &Distribution) -> RolloutStatus {
    let rollout = &underway.rollout;
    let evidence = underway.evidence();
    let flips = evidence.all_flips();
    let outlook = rollout.outlook();
    let (decisions, decisions_needed) = rollout.seen_of_needed(&evidence);
    let connected = distribution.proxies().into_iter().filter(|p| p.connected);
    let proxies = connected.map(|p| RolloutProxy {
        wanted: state.wanted(p.seat()).map_or(0, |wanted| wanted.sequence()),
        enforces: p.acked_sequence,
        tries: p
            .status
            .as_ref()
            .and_then(|s| s.trial.as_ref())
            .map_or(0, |t| t.sequence),
        instance: p.instance,
        apis: false,
    });
    RolloutStatus {
        phase: word(&rollout.phase).to_owned(),
        text: rollout.word(),
        candidate: rollout.candidate,
        baseline: rollout.baseline,
        actor: rollout.actor.clone(),
        started_us: rollout.started_us,
        since_us: rollout.since_us,
        ripe_us: rollout.ripe_us(),
        ends_us: outlook.map(|(at, _)| at),
        then: outlook.map(|(_, what)| what.to_owned()),
        paused_by: rollout.paused.as_ref().map(|p| p.by.clone()),
        stopped: rollout.stopped().map(|why| StoppedStatus {
            by: why.by,
            why: why.text.clone(),
            during: why.during.clone(),
        }),
        restored: rollout.restored,
        back_until_us: rollout.back_until_us,
        decisions,
        decisions_needed,
        evaluated: flips.evaluated,
        newly_allowed: flips.newly_allowed,
        newly_denied: flips.newly_denied,
        newly_undecided: flips.newly_undecided,
        gates: rollout.readings(&evidence),
        proxies: proxies.collect(),
        turns: rollout.turns.clone(),
    }
}

/// The decision APIs' part in it.
fn place(underway: &Underway, state: &State, apis: Apis) -> RolloutProxy {
    let wanted = underway.wanted_of_apis(&apis).or(state.settled());
    RolloutProxy {
        instance: INSTANCE.to_owned(),
        wanted: wanted.map_or(0, |wanted| wanted.sequence()),
        enforces: apis.enforces,
        tries: apis.tries,
        apis: true,
    }
}

fn word(phase: &Phase) -> &'static str {
    match phase {
        Phase::Planned => "planned",
        Phase::Shadow => "shadow",
        Phase::Canary(_) => "canary",
        Phase::Full => "full",
        Phase::Halted(_) => "halted",
        Phase::RolledBack(_) => "rolled_back",
        Phase::Completed => "completed",
    }
}

/// What would come of `wanted`, where it may be carried out so.
fn preview(difference: Difference, wanted: &Plan) -> RolloutPreview {
    let phases = match &difference.plan {
        Some(plan) => phases(plan),
        None => vec![PlannedPhase {
            phase: "full".into(),
            for_s: 0,
            limit_s: 0,
            then: "it is in force everywhere at once".into(),
        }],
    };
    let gates = wanted
        .gates
        .read(&palisade_pdp::publish::rollout::Evidence::default());
    RolloutPreview {
        digest: difference.digest.to_string(),
        baseline: difference.baseline,
        added: difference.added,
        removed: difference.removed,
        changed: difference.changed,
        phases,
        gates: gates
            .iter()
            .map(|g| format!("{} > {}", g.gate, g.limit))
            .collect(),
        min_decisions: wanted.gates.min_decisions,
        back_until_us: difference.back_until_us,
        note: difference.note.map(|note| note.to_string()),
    }
}

fn phases(plan: &Plan) -> Vec<PlannedPhase> {
    let secs = |time: Duration| time.as_secs();
    let patient = |phase: String, last: Duration, then: &str| PlannedPhase {
        phase,
        for_s: secs(last),
        limit_s: secs(last + plan.patience),
        then: then.to_owned(),
    };
    let mut phases = Vec::new();
    if let Some(shadow) = plan.shadow {
        phases.push(PlannedPhase {
            phase: "planned".into(),
            for_s: 0,
            limit_s: secs(plan.ready_within),
            then: "it halts, unless every connected proxy tries the candidate".into(),
        });
        phases.push(patient(
            "shadow".into(),
            shadow,
            "it halts; no proxy has enforced it",
        ));
    }
    for (at, Step { target, last }) in plan.steps.iter().enumerate() {
        let phase = format!("canary {} ({target})", at + 1);
        phases.push(patient(phase, *last, "it halts and is rolled back"));
    }
    phases.push(PlannedPhase {
        phase: "full".into(),
        for_s: secs(plan.watch),
        limit_s: secs(plan.watch),
        then: "it is complete".into(),
    });
    phases
}

impl RolloutWish {
    fn content(&self) -> Result<Content, Diagnostic> {
        match (&self.bundle, &self.kept) {
            (Some(bundle), _) => STANDARD
                .decode(bundle)
                .map(|bytes| Content::Bundle(bytes.into()))
                .map_err(|error| {
                    Diagnostic::error(ROLLOUT_PLAN, "the bundle of a wish is no base64")
                        .cause(error.to_string())
                        .help("use the command of this very build")
                }),
            (None, Some(kept)) => Ok(Content::Kept(kept.clone())),
            (None, None) => Ok(Content::Source),
        }
    }

    /// The plan it means, over what is configured.
    fn plan(&self, usual: &Plan) -> Result<Plan, Diagnostic> {
        let mut plan = usual.clone();
        let time = Duration::from_millis;
        match self.shadow_ms {
            Some(0) => plan.shadow = None,
            Some(ms) => plan.shadow = Some(time(ms)),
            None => {}
        }
        if let Some(steps) = &self.canary {
            let last = plan
                .steps
                .first()
                .map_or(Duration::from_secs(600), |s| s.last);
            let read = |text: &String| {
                let target = Target::parse(text).ok_or_else(|| {
                    Diagnostic::error(ROLLOUT_PLAN, format!("`{text}` is no step of a canary"))
                        .help("give `svc=NAMESPACE/NAME` or a share such as `25%`")
                })?;
                Ok(Step { target, last })
            };
            plan.steps = steps.iter().map(read).collect::<Result<_, Diagnostic>>()?;
        }
        if let Some(ms) = self.step_ms {
            plan.steps.iter_mut().for_each(|step| step.last = time(ms));
        }
        plan.every = self.every.unwrap_or(plan.every);
        plan.watch = self.watch_ms.map_or(plan.watch, time);
        plan.gates.min_decisions = self.min_decisions.unwrap_or(plan.gates.min_decisions);
        for text in &self.abort_on {
            let (name, limit) = text.split_once('>').ok_or_else(|| {
                Diagnostic::error(ROLLOUT_PLAN, format!("`{text}` is no gate"))
                    .help("write it as `newly-denied>0.1%`")
            })?;
            rollout::set(
                &mut plan.gates,
                &name.trim().replace('-', "_"),
                limit.trim(),
            )?;
        }
        match plan.check().into_iter().next() {
            None => Ok(plan),
            Some(first) => Err(first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_changes_what_it_names_and_nothing_else() {
        let usual = Plan::default();
        let wish = |change: fn(&mut RolloutWish)| {
            let mut wish = RolloutWish::default();
            change(&mut wish);
            wish.plan(&usual)
        };
        assert_eq!(wish(|_| {}).unwrap(), usual);
        assert_eq!(wish(|w| w.shadow_ms = Some(0)).unwrap().shadow, None);
        let plan = wish(|w| {
            w.canary = Some(vec!["svc=shop/orders".into(), "25%".into()]);
            w.step_ms = Some(2_000);
            w.abort_on = vec!["newly-denied > 5".into(), "p99>1.5".into()];
        })
        .unwrap();
        let last: Vec<_> = plan
            .steps
            .iter()
            .map(|s| (s.target.to_string(), s.last))
            .collect();
        let two = Duration::from_secs(2);
        assert_eq!(
            last,
            [("shop/orders".to_owned(), two), ("25%".to_owned(), two)]
        );
        assert_eq!(plan.gates.p99_percent, Some(150));
        assert_eq!(plan.gates.newly_denied.unwrap().to_string(), "5");
        for wrong in ["newly-denied", "newly-denied>", "newly-denide>1"] {
            let wish = RolloutWish {
                abort_on: vec![wrong.into()],
                ..RolloutWish::default()
            };
            assert_eq!(
                wish.plan(&usual).unwrap_err().code.0,
                ROLLOUT_PLAN,
                "{wrong}"
            );
        }
        assert!(wish(|w| w.canary = Some(vec!["orders".into()])).is_err());
        assert!(wish(|w| w.canary = Some(vec!["25%".into(), "25%".into()])).is_err());
    }
}
