//! The `pdp` role: watches the repository, distributes it, answers `can` and `why`.

use std::{path::PathBuf, sync::Arc};

use axum::{
    Json, Router,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use palisade_mesh::{
    clock::Clock, diagnostic::Diagnostic, place::Place, sink::RecordSink, snapshot::Digest,
    spiffe_id::TrustDomain, svid::Identity,
};
use palisade_pdp::{
    apis::{Desk, DeskConfig},
    author::{self, Ask},
    bundle::trust::TrustConfig,
    decide::{Explanation, Snapshot},
    publish::{
        Distribution, DistributionConfig, History, ProxyStatus, Published, Recorder, Source,
        SourceConfig, Standing, State,
    },
};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    Role, access,
    decisions::{self, Decisions},
    links::{self, LinkGate},
    policy,
    revisions::Revisions,
    rollout::Rollouts,
    sources, unbound,
};
use crate::{
    config::{Config, PdpSection, rollout::RolloutSection},
    control::{
        api::{Answer, Fact, FactState, Problem},
        status::{
            PastRevision, PdpStatus, RejectedStatus, RevisionStatus, SubscriberStatus, ago, ahead,
            span,
        },
    },
    net::{
        bundles::Bundles,
        kill::{self, Holder},
        tls,
    },
    render,
};

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
        let rollouts = Rollouts {
            orders: source.orders(),
            state: state.clone(),
            distribution: distribution.clone(),
            plan: plan.unwrap_or_default(),
            clock: clock.clone(),
        };
        let observed = distribution.clone();
        let source = source.observing(move || observed.proxies());
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
                });
                let keeping = keep_up(desk.clone(), state.clone(), revisions.clone());
                tokio::spawn(stop.clone().run_until_cancelled_owned(keeping));
                let identity = &identity;
                Some(Decisions::start(config, written, identity, desk, stop).await?)
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
            let mut services = current.compiled.catalogue.services().iter();
            let named = services.find(|s| s.id.as_str() == service)?;
            Some(named.identities.contains(identity))
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
        Ok(Json(Explained {
            exact,
            explanation: recorded.explain(&snapshot)?,
        }))
    }

    fn status(&self) -> PdpStatus {
        let state = self.state.borrow().clone();
        PdpStatus {
            folder: self.place.to_string(),
            sources: sources::status(&self.standings.borrow(), &self.clock),
            revision: state.current.as_deref().map(revision),
            rejected: state.rejected.map(|r| RejectedStatus {
                at_us: r.at_us,
                problems: r.diagnostics.iter().cloned().map(Into::into).collect(),
            }),
            proxies: {
                let proxies = self.distribution.proxies();
                let of = |p| subscriber(p, self.state.borrow().wanted(&p.identity, &p.instance));
                proxies.iter().map(of).collect()
            },
            rollout: self.rollouts.status(),
            decisions: self.decisions.as_ref().map(Decisions::status),
        }
    }

    fn check(&self) -> Vec<Fact> {
        let status = self.status();
        let mut facts = vec![match &status.revision {
            Some(r) => Fact::ok(
                "policy",
                format!(
                    "revision {} ({}) in force for {}, {}",
                    r.sequence,
                    short(&r.digest),
                    span(&self.clock, r.since_us),
                    r.signed
                ),
            ),
            None => Fact::not_ok(
                "policy",
                FactState::Error,
                6002,
                "no policy revision is in force",
            )
            .fix(self.how_to_see()),
        }];
        facts.extend(self.check_stamp());
        if let Some(rejected) = &status.rejected {
            let first = rejected.problems.first().cloned().map(Diagnostic::from);
            facts.push(
                Fact::not_ok(
                    "policy",
                    FactState::Warning,
                    3021,
                    format!(
                        "a change of the policies was rejected {}",
                        ago(&self.clock, rejected.at_us)
                    ),
                )
                .cause(first.map_or_else(String::new, |d| d.to_string()))
                .fix(self.how_to_see()),
            );
        }
        facts.extend(self.rollouts.check());
        facts.extend(sources::check(&status.sources, &self.clock));
        let since_us = status.revision.as_ref().map_or(0, |r| r.since_us);
        for proxy in &status.proxies {
            facts.push(self.check_proxy(proxy, since_us));
            facts.extend(self.check_drift(proxy));
        }
        facts.extend(self.gate.check());
        facts.extend(super::unheard::fact("policy", "the PDP", &self.kill));
        facts
    }

    /// Whether what is served would be taken by whoever demands a stamp as this PDP does.
    fn check_stamp(&self) -> Option<Fact> {
        let current = self.state.borrow().current.clone()?;
        let trust = self.trust.as_ref()?.load();
        let now_us = self.clock.now_us();
        let of = (current.digest(), current.sequence());
        let stamp = current.revision.stamp.as_ref();
        let domain = &current.compiled.trust_domain;
        let stamped = trust.and_then(|t| t.check_stamp(domain, of, stamp, now_us));
        let error = stamped.err()?;
        Some(
            Fact::not_ok("policy", FactState::Error, 3111, error.message)
                .cause(error.cause.unwrap_or_default())
                .fix(error.help.unwrap_or_default()),
        )
    }

    /// What does not fit about a proxy that is connected.
    fn check_drift(&self, proxy: &SubscriberStatus) -> Vec<Fact> {
        let name = &proxy.instance;
        let mut facts = Vec::new();
        if proxy.rivals > 0 {
            let text = format!("{} processes call themselves {name}", proxy.rivals + 1);
            facts.push(
                Fact::not_ok("proxies", FactState::Warning, 5317, text)
                    .cause(format!(
                        "all are `{}`; only the newest of them is shown",
                        proxy.spiffe_id
                    ))
                    .fix("give each its own `proxy.instance`, or end the one that is left over"),
            );
        }
        let ahead_us = proxy.clock_ahead_us.filter(|_| proxy.connected);
        facts.extend(ahead_us.and_then(|ahead_us| {
            super::proxy::clocks_apart("the PDP's", &format!("{name}'s"), proxy.seen_us, ahead_us)
        }));
        facts
    }

    fn check_proxy(&self, proxy: &SubscriberStatus, since_us: i64) -> Fact {
        let sequence = proxy.wanted;
        let name = &proxy.instance;
        if !proxy.connected {
            return Fact::not_ok(
                "proxies",
                FactState::Warning,
                3022,
                format!("{name} is not connected"),
            )
            .cause(format!(
                "last heard of {}, with revision {}",
                ago(&self.clock, proxy.seen_us),
                proxy.sequence
            ))
            .fix("see whether it runs; it goes on with the last good revision");
        }
        if let Some(nack) = &proxy.nack {
            return Fact::not_ok(
                "proxies",
                FactState::Error,
                3023,
                format!("{name} refused the revision"),
            )
            .cause(nack.clone())
            .fix("upgrade the proxy, or mend what it names");
        }
        if proxy.sequence != sequence {
            return Fact::not_ok(
                "proxies",
                FactState::Warning,
                3024,
                format!(
                    "{name} runs revision {} instead of {sequence}, for {}",
                    proxy.sequence,
                    span(&self.clock, since_us)
                ),
            )
            .cause("it is connected, and has neither taken nor refused the newer one yet")
            .fix("wait a second; if it stays so, see the proxy's log");
        }
        let ends = ahead(&self.clock, proxy.svid_not_after_s);
        Fact::ok(
            "proxies",
            format!("{name} runs revision {sequence}, certificate ends {ends}"),
        )
    }
}

/// Puts every revision that comes into force before the decision APIs, and has their
/// records handed on, for ever.
async fn keep_up(desk: Desk, mut state: watch::Receiver<State>, revisions: Arc<Revisions>) {
    let follow = async {
        loop {
            let current = state.borrow_and_update().current.clone();
            if let Some(published) = current {
                revisions.note(&published.revision);
                match revisions.engine(&published.digest()).await {
                    Ok(Some(snapshot)) => desk.put(snapshot),
                    Ok(None) => tracing::error!("bug: the revision in force is forgotten"),
                    Err(error) => {
                        tracing::error!(%error, "the decision APIs stay at the revision before");
                    }
                }
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::join!(follow, desk.run());
}

/// A question of `can`, as it is asked of the running mesh.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Can {
    /// Who.
    pub principal: String,
    /// Does what.
    pub verb: String,
    /// To what.
    pub target: String,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// Address of the caller.
    pub source: Option<String>,
    /// When, microseconds since the Unix epoch; now where nothing is said.
    pub now_us: Option<i64>,
}

/// The answer of `can`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CanAnswer {
    /// The request as it was understood.
    pub understood: String,
    /// Verdict and reasons.
    pub explanation: Explanation,
}

impl Can {
    /// Answers under `snapshot`.
    ///
    /// # Errors
    /// Everything about the question that is not understood.
    pub fn answer(&self, snapshot: &Snapshot, clock: &Clock) -> Result<CanAnswer, Vec<Diagnostic>> {
        let question = author::question(
            snapshot.catalogue(),
            &Ask {
                principal: self.principal.clone(),
                verb: self.verb.clone(),
                target: self.target.clone(),
                on: None,
                headers: self.headers.clone(),
                source: self.source.clone(),
                anonymous: false,
                now_us: self.now_us.unwrap_or_else(|| clock.now_us()),
            },
        )?;
        Ok(CanAnswer {
            understood: question.understood(),
            explanation: snapshot.explain(&question.as_question()),
        })
    }
}

/// What a decision record says, as far as a replay needs it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recorded {
    /// SPIFFE ID of the caller.
    pub principal: String,
    /// Cedar action.
    pub action: String,
    /// Cedar resource type.
    pub resource_type: String,
    /// Cedar resource id.
    pub resource_id: String,
    /// What the policies read of the context.
    pub context_json: String,
    /// Digest of the revision it was decided under.
    pub revision: String,
}

/// An explained record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explained {
    /// Whether it was explained under the very revision that decided.
    pub exact: bool,
    /// Verdict and reasons.
    pub explanation: Explanation,
}

impl Recorded {
    /// Explains the record under `snapshot`.
    ///
    /// # Errors
    /// When the record is malformed.
    pub fn explain(&self, snapshot: &Snapshot) -> Result<Explanation, Diagnostic> {
        snapshot
            .explain_recorded(
                &self.principal,
                &self.action,
                &self.resource_type,
                &self.resource_id,
                &self.context_json,
            )
            .map_err(|error| {
                Diagnostic::error(6003, "this record cannot be explained")
                    .cause(error.to_string())
                    .help("see it as it is: palisade audit show ID")
            })
    }
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

fn revision(published: &Published) -> RevisionStatus {
    RevisionStatus {
        sequence: published.sequence(),
        digest: published.digest().to_string(),
        since_us: published.since_us,
        policies: published.compiled.info.len(),
        services: published.compiled.catalogue.services().len(),
        git_revision: published.git_revision.clone(),
        signed: published.signed.to_string(),
    }
}

fn subscriber(proxy: &ProxyStatus, wanted: Option<&Arc<Published>>) -> SubscriberStatus {
    let status = proxy.status.clone().unwrap_or_default();
    SubscriberStatus {
        instance: proxy.instance.clone(),
        spiffe_id: proxy.identity.to_string(),
        sequence: proxy.acked_sequence,
        wanted: wanted.map_or(0, |wanted| wanted.sequence()),
        nack: proxy
            .nack
            .as_ref()
            .map(|n| format!("{}: {}", n.code, n.message)),
        svid_not_after_s: status.svid_not_after_s,
        requests: status.requests,
        allowed: status.allowed,
        denied: status.denied,
        undecided: status.undecided,
        spooled: status.spooled_records,
        connected: proxy.connected,
        seen_us: proxy.last_seen_us,
        draining: status.draining,
        clock_ahead_us: proxy.clock_ahead_us,
        rivals: proxy.rivals,
    }
}

fn short(digest: &str) -> String {
    digest.chars().take(8).collect()
}
