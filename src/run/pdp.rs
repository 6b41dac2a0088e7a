//! The `pdp` role: watches the repository, distributes it, answers `can` and `why`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    place::Place,
    sink::RecordSink,
    snapshot::{Digest, Versions},
    spiffe_id::TrustDomain,
    svid::Identity,
};
use palisade_pdp::{
    apis::{Desk, DeskConfig, Underway},
    bundle::trust::TrustConfig,
    decide::Snapshot,
    publish::{
        Distribution, DistributionConfig, History, Published, Recorder, Source, SourceConfig,
        Standing, State, rollout::Rollout,
    },
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    Role, access,
    decisions::{self, Decisions},
    links::{self, LinkGate},
    policy,
    revisions::Revisions,
    rollout::Rollouts,
    unbound,
};
use crate::{
    config::{Config, EngineChoice, PdpSection, rollout::RolloutSection},
    control::{
        api::{Answer, Problem},
        status::PastRevision,
    },
    net::{
        bundles::Bundles,
        kill::{self, Holder},
        tls,
    },
    render,
};

mod facts;
mod keeping;
mod proving;
mod questions;

/// How soon an engine that could not be built is tried again at first, and at last.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

pub(super) use keeping::Shelf;
pub use questions::{Can, CanAnswer, Explained, Recorded};

/// Where the local socket gives the revision in force, encoded.
pub(crate) const REVISION_ROUTE: &str = "/v1/pdp/revision";

/// Worker number of the records of the decision APIs.
const DECISIONS_WORKER: u32 = 0x4445_4349;

/// The decision point of this process.
#[derive(Clone)]
pub struct PdpRole {
    /// What is in force and what was rejected, now and later.
    pub state: watch::Receiver<State>,
    /// Subscribed proxies and their endpoints.
    pub distribution: Distribution,
    /// Where proxies subscribe.
    pub address: std::net::SocketAddr,
    rollouts: Rollouts,
    revisions: Arc<Revisions>,
    history: History,
    trust: Option<TrustConfig>,
    place: Place,
    standings: watch::Receiver<Vec<Standing>>,
    gate: Arc<LinkGate>,
    kill: Arc<Holder>,
    decisions: Option<Decisions>,
    unshelved: keeping::Unshelved,
    clock: Clock,
}

impl PdpRole {
    pub(super) async fn start(
        config: &Config,
        section: &PdpSection,
        identity: Identity,
        lists: kill::Source,
        sink: &dyn RecordSink,
        clock: &Clock,
        stop: &CancellationToken,
    ) -> Result<Self, Vec<Diagnostic>> {
        let reporter = config.trust_domain.role(Role::Pdp.as_str());
        let recorder = Arc::new(Recorder::new(
            sink.open(0),
            reporter.as_str(),
            config.demo,
            clock.clone(),
        ));
        let plan = section.rollout.as_ref().map(RolloutSection::plan);
        let plan = plan.transpose()?;
        let trust = section.policy_trust.as_ref().map(policy::trust);
        let mut followed = followed(section, &config.trust_domain, config.state_dir.join("pdp"))?;
        followed.rollout.clone_from(&plan);
        followed.trust.clone_from(&trust);
        let source = Source::open(followed, clock.clone(), recorder.clone())
            .await
            .map_err(|e| vec![e.diagnostic().clone()])?;
        let (state, history, standings) = (source.state(), source.history(), source.standings());
        let own = sink.open(links::OWN_WORKER);
        let gate = LinkGate::new(config, reporter.clone(), own, clock)?;
        let distribution = Distribution::guarded(
            DistributionConfig {
                state_dir: Some(config.state_dir.join("pdp")),
                ..DistributionConfig::default()
            },
            state.clone(),
            clock.clone(),
            recorder,
            gate.clone(),
        );
        let mut rollouts = Rollouts {
            orders: source.orders(),
            state: state.clone(),
            distribution: distribution.clone(),
            desk: None,
            plan: plan.unwrap_or_default(),
            clock: clock.clone(),
        };
        let observed = distribution.clone();
        let mut source = source.observing(move || observed.proxies());
        let listener = TcpListener::bind(section.listen)
            .await
            .map_err(|e| vec![unbound("pdp.listen", &e)])?;
        let address = listener
            .local_addr()
            .map_err(|e| vec![unbound("pdp.listen", &e)])?;
        let service = distribution.service();
        let revisions = Arc::<Revisions>::default();
        let bundle = {
            let identity = identity.clone();
            move || identity.bundle()
        };
        let kill = Holder::new(&config.trust_domain, bundle, clock.clone(), None);
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(kill.clone().keep_up(lists)),
        );
        let decisions = match &section.decisions {
            Some(written) => {
                let held = kill.held();
                let desk = Desk::new(DeskConfig {
                    gate: gate.clone(),
                    records: sink.open(DECISIONS_WORKER),
                    reporter,
                    demo: config.demo,
                    kill_list: Box::new(move || held.borrow().list.clone()),
                    clock: clock.clone(),
                    limits: written.limits(),
                    by_reference: section.engine == EngineChoice::Reference,
                });
                let keeping = keep_up(desk.clone(), state.clone(), revisions.clone());
                tokio::spawn(stop.clone().run_until_cancelled_owned(keeping));
                rollouts.desk = Some(desk.clone());
                let asked = desk.clone();
                source = source.answering(move || asked.standing());
                let identity = &identity;
                let engine = section.engine;
                Some(Decisions::start(config, (written, engine), identity, desk, stop).await?)
            }
            None => None,
        };
        let door = distribution.clone();
        let of_kill = kill::guarded_service(kill.signed(), move |peer| door.admit(&peer.id));
        let served = tonic::transport::Server::builder()
            .add_service(service)
            .add_service(of_kill)
            .serve_with_incoming_shutdown(
                tls::incoming(listener, &identity),
                stop.clone().cancelled_owned(),
            );
        tokio::spawn(served);
        let role = Self {
            state,
            standings,
            distribution: distribution.clone(),
            address,
            rollouts,
            revisions,
            history,
            trust,
            place: section.policies.place.clone(),
            gate,
            kill,
            decisions,
            unshelved: keeping::Unshelved::default(),
            clock: clock.clone(),
        };
        let follower = role.clone();
        let stop = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = source.run() => {}
                () = distribution.run() => {}
                () = follower.remember() => {}
            }
        });
        Ok(role)
    }

    /// Records what is left to record, when it is to end.
    pub fn close(&self) {
        if let Some(decisions) = &self.decisions {
            decisions.close();
        }
    }

    /// Remembers each revision that comes into force, and those of before the start.
    async fn remember(self) {
        let history = self.history.clone();
        let past = tokio::task::spawn_blocking(move || history.revisions()).await;
        for revision in past.unwrap_or_default().iter().rev() {
            self.revisions.note(revision);
        }
        let mut state = self.state.clone();
        loop {
            let now = state.borrow_and_update().clone();
            // Some proxies may decide by it, and others try it.
            let underway = now.rollout.iter().map(|u| &u.candidate);
            for published in now.current.iter().chain(underway) {
                self.revisions.note(&published.revision);
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether an identity is a service, by the catalogue in force.
    pub(super) fn services(&self) -> Box<links::Services> {
        let state = self.state.clone();
        Box::new(move |identity, service| {
            let current = state.borrow().current.clone()?;
            questions::is_service(&current.compiled.catalogue, identity, service)
        })
    }

    async fn current(&self) -> Result<Arc<Snapshot>, Problem> {
        let current = self.state.borrow().current.clone();
        let Some(published) = current else {
            return Err(self.nothing_in_force().into());
        };
        self.revisions.note(&published.revision);
        let engine = self.revisions.engine(&published.digest()).await?;
        engine.ok_or_else(|| self.nothing_in_force().into())
    }

    fn nothing_in_force(&self) -> Diagnostic {
        Diagnostic::error(6002, "no policy revision is in force")
            .cause(format!("`{}` has not compiled yet", self.place))
            .help(self.how_to_see())
    }

    /// How to see what is wrong with the repository.
    fn how_to_see(&self) -> String {
        match self.place.folder() {
            Some(folder) => format!("palisade policy validate {}", folder.display()),
            None => {
                "palisade status shows it; then, in a check-out: palisade policy validate".into()
            }
        }
    }

    /// What the role answers on the local socket.
    pub(super) fn routes(&self) -> Router {
        let (of_status, of_check, of_can, of_explain) =
            (self.clone(), self.clone(), self.clone(), self.clone());
        let (of_access, of_revision) = (self.clone(), self.clone());
        let of_decisions = self.decisions.clone();
        let history = self.history.clone();
        Router::new()
            .route(
                "/v1/pdp/status",
                get(move || async move { Json(of_status.status()) }),
            )
            .route(
                "/v1/pdp/check",
                get(move || async move { Json(of_check.check()) }),
            )
            .route(
                "/v1/pdp/metrics",
                get(async move || {
                    let status = of_decisions.as_ref().map(Decisions::status);
                    status.map_or_else(String::new, |status| decisions::metrics(&status))
                }),
            )
            .route(
                "/v1/pdp/revisions",
                get(move || async move { past(history).await }),
            )
            .route(
                "/v1/pdp/can",
                post(move |Json(asked): Json<Can>| async move { of_can.can(&asked).await }),
            )
            .route(
                access::ROUTE,
                post(move |Json(asked): Json<access::Asked>| async move {
                    of_access.access(asked).await
                }),
            )
            .route(
                REVISION_ROUTE,
                post(move || async move { of_revision.revision() }),
            )
            .route(
                "/v1/pdp/explain",
                post(move |Json(asked): Json<Recorded>| async move { of_explain.explain(&asked).await }),
            )
            .merge(self.rollouts.routes())
    }

    /// The revision in force, as proxies get it.
    fn revision(&self) -> Response {
        match &self.state.borrow().current {
            Some(published) => published.revision.encode_to_vec().into_response(),
            None => Problem::from(self.nothing_in_force()).into_response(),
        }
    }

    async fn can(&self, asked: &Can) -> Answer<CanAnswer> {
        let snapshot = self.current().await?;
        let answer = asked.answer(&snapshot, &self.clock);
        answer
            .map(Json)
            .map_err(|found| match found.into_iter().next() {
                Some(first) => first.into(),
                None => {
                    Diagnostic::error(9199, "bug: a question was refused without a reason").into()
                }
            })
    }

    /// Answers about many; blocks for as long as there are many.
    async fn access(&self, asked: access::Asked) -> Answer<access::Answers> {
        let (snapshot, clock) = (self.current().await?, self.clock.clone());
        let answered = tokio::task::spawn_blocking(move || asked.answer(&snapshot, &clock)).await;
        let answered = answered
            .map_err(|e| Diagnostic::error(9199, format!("bug: a question was given up: {e}")))?;
        Ok(Json(answered?))
    }

    async fn explain(&self, recorded: &Recorded) -> Answer<Explained> {
        let of_then = match Digest::from_hex(&recorded.revision) {
            Some(digest) => self.revisions.engine(&digest).await?,
            None => None,
        };
        let exact = of_then.is_some();
        let snapshot = match of_then {
            Some(snapshot) => snapshot,
            None => self.current().await?,
        };
        Ok(Json(recorded.explained(&snapshot, exact)?))
    }
}

/// Puts every revision that comes into force before the decision APIs, and the one that is on
/// its way, and has their records handed on, for ever.
async fn keep_up(desk: Desk, mut state: watch::Receiver<State>, revisions: Arc<Revisions>) {
    let follow = async {
        let mut wait = AGAIN_MIN;
        loop {
            let now = state.borrow_and_update().clone();
            let whole = put(&desk, &revisions, &now).await;
            let changed = match whole {
                true => {
                    desk.refuse(None);
                    wait = AGAIN_MIN;
                    state.changed().await
                }
                false => {
                    let changed = tokio::time::timeout(wait, state.changed()).await;
                    wait = (wait * 2).min(AGAIN_MAX);
                    changed.unwrap_or(Ok(()))
                }
            };
            if changed.is_err() {
                return;
            }
        }
    };
    tokio::join!(follow, desk.run());
}

/// Puts what is wanted now before the decision APIs; says whether there is an engine of all of it.
async fn put(desk: &Desk, revisions: &Revisions, now: &State) -> bool {
    let Some(published) = now.settled() else {
        return true;
    };
    let stopped = now.rollout.as_deref();
    let stopped = stopped.filter(|u| u.rollout.stopped().is_some());
    // What was halted decides nothing any more, whatever has to be built first.
    if desk.holds(&versions(published)).is_none()
        && let Some(before) = stopped.and_then(|u| desk.holds(&versions(&u.baseline)))
    {
        desk.put(before, None);
    }
    let Some(snapshot) = built(desk, revisions, published).await else {
        return false;
    };
    match underway(desk, revisions, now).await {
        Ok(underway) => {
            desk.put(snapshot, underway);
            true
        }
        Err(Unbuilt) => {
            desk.put(snapshot, None);
            false
        }
    }
}

fn versions(published: &Published) -> Versions {
    Versions {
        policy: published.digest(),
        sequence: published.sequence(),
        ..Versions::default()
    }
}

/// There is no engine of a revision.
struct Unbuilt;

/// The engine of a revision; none where it cannot be built, and then the APIs stay at the
/// one before.
async fn built(desk: &Desk, revisions: &Revisions, published: &Published) -> Option<Arc<Snapshot>> {
    revisions.note(&published.revision);
    let held = desk.holds(&versions(published));
    if held.is_some() {
        return held;
    }
    match revisions.engine(&published.digest()).await {
        Ok(found) => {
            if found.is_none() {
                tracing::error!("bug: a revision is forgotten that the decision APIs need");
            }
            found
        }
        Err(error) => {
            tracing::error!(%error, "the decision APIs go without this revision");
            desk.refuse(Some((published.sequence(), error.to_string())));
            None
        }
    }
}

/// The revision that is on its way, while it may decide or be tried.
async fn underway(
    desk: &Desk,
    revisions: &Revisions,
    state: &State,
) -> Result<Option<Underway>, Unbuilt> {
    let underway = state.rollout.as_ref();
    let is_running = |r: &Rollout| !r.has_ended() && r.stopped().is_none();
    let Some(underway) = underway.filter(|u| is_running(&u.rollout)) else {
        return Ok(None);
    };
    let engine = async |published| built(desk, revisions, published).await.ok_or(Unbuilt);
    Ok(Some(Underway {
        baseline: engine(&underway.baseline).await?,
        candidate: engine(&underway.candidate).await?,
        rollout: underway.rollout.clone(),
    }))
}

/// What is followed, as the configuration says.
fn followed(
    section: &PdpSection,
    domain: &TrustDomain,
    state_dir: PathBuf,
) -> Result<SourceConfig, Vec<Diagnostic>> {
    let policies = &section.policies;
    let mut followed = SourceConfig::new(policies.place.clone(), state_dir);
    followed.fetch = Some(Arc::new(Bundles));
    followed.domain = Some(domain.clone());
    followed.prove = Some(Arc::new(proving::Cvc5::new()));
    if let Some(file) = &policies.require_signed {
        let signers = std::fs::read_to_string(file).map_err(|error| {
            let wrong = format!("signers in `{}` cannot be read", file.display());
            vec![
                Diagnostic::error(3209, wrong)
                    .cause(error.to_string())
                    .help("name a file of lines such as `alice@acme.test ssh-ed25519 AAAAC3…`"),
            ]
        })?;
        followed.signers = Some(signers);
    }
    Ok(followed)
}

/// The revisions that were in force lately, the newest first.
async fn past(history: History) -> Answer<Vec<PastRevision>> {
    let read = tokio::task::spawn_blocking(move || {
        let kept: Vec<u64> = history.revisions().iter().map(|r| r.sequence).collect();
        history.log().map(|entries| (entries, kept))
    });
    let (entries, kept) = read.await.map_err(|e| {
        Diagnostic::error(9199, "bug: the list of revisions was not read").cause(e.to_string())
    })??;
    let past = entries.into_iter().rev().map(|e| PastRevision {
        sequence: e.sequence,
        digest: render::hex(&e.sha256),
        since_us: e.since_us,
        git_revision: e.git_revision,
        signed: e.signed,
        signers: e.signers,
        policies: e.policies,
        kept: kept.contains(&e.sequence),
    });
    Ok(Json(past.collect()))
}
