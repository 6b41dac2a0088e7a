//! The `proxy` role: one proxy, with its policy, records and identity behind it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Json, Router, routing::get};
use palisade_audit::{
    local::LocalSink,
    log::{Log, LogOptions},
    spool::{Spool, SpoolOptions},
};
use palisade_ca::join::NodeRole;
use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    sink::RecordSink,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::Identity,
    wire::policy::{Announcement, Status},
};
use palisade_pdp::publish::{Recorder, Source, SourceConfig, Subscription, SubscriptionConfig};
use palisade_proxy::{EndpointTable, LivePolicy, Parts, PolicySlot, Proxy, RunningProxy};
use tokio_util::sync::CancellationToken;

use super::{Role, keeping, places, policy, unusable};
use crate::{
    config::{Config, PolicySource, ProxySection, RecordTarget},
    control::{
        self,
        api::{Fact, FactState},
        server::SocketFile,
        status::{ProxyStatus, ahead},
    },
    net::{
        directory::{Directory, Whereabouts},
        identity, tls,
    },
};

/// How long requests in flight may take when the proxy is told to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// How long records may wait for an audit service that is not reached, before that
/// is worth a word; every rotation ends one link and opens the next.
const RECORDS_LATE: Duration = Duration::from_secs(5);
/// How often is looked whether the first snapshot is there.
const READY_PAUSE: Duration = Duration::from_millis(20);
/// Worker number of the proxy's own records, apart from those of its workers.
const OWN_WORKER: u32 = u32::MAX;

/// A proxy at work.
pub struct ProxyRole {
    running: Arc<RunningProxy>,
    kept: Kept,
    policy: PolicySlot,
    stop: CancellationToken,
    socket: SocketFile,
}

/// Where its records are kept.
#[derive(Clone)]
enum Kept {
    Log(Log),
    Spool(Arc<Spool>),
}

/// What the local socket tells of it.
#[derive(Clone)]
struct View {
    instance: String,
    running: Arc<RunningProxy>,
    identity: Identity,
    policy: PolicySlot,
    endpoints: palisade_proxy::endpoints::Endpoints,
    kept: Kept,
    sink: Arc<dyn RecordSink>,
    started_us: i64,
    clock: Clock,
}

/// Starts the proxy of `config`, and its local socket. When it returns, every
/// listener is bound.
///
/// # Errors
/// Everything that keeps it from starting.
pub async fn start(config: &Config, clock: Clock) -> Result<ProxyRole, Vec<Diagnostic>> {
    let section = super::section(config.proxy.as_ref(), "proxy")?;
    let identity = identity::acquire(&section.identity, section.spiffe_id.clone(), clock.clone())
        .await
        .map_err(|d| vec![d])?;
    check_identity(&identity.id()).map_err(|d| vec![d])?;
    let stop = CancellationToken::new();
    let mut followed = None;
    let mut directory = || -> Directory {
        let follow = || places::of_agent(config, Some(&section.identity), &stop);
        followed.get_or_insert_with(follow).clone()
    };
    let audit = match &section.records {
        RecordTarget::Audit(address) => Some(Whereabouts::At(*address)),
        RecordTarget::Mesh => Some(Whereabouts::Mesh(NodeRole::Audit, directory())),
        RecordTarget::Log(_) => None,
    };
    let (kept, sink) = keep_records(config, section, audit, &identity, &clock)?;
    let policy = LivePolicy::empty_slot();
    let endpoints = EndpointTable::default().shared();
    let parts = Parts {
        policy: policy.clone(),
        endpoints: endpoints.clone(),
        identity: identity.clone(),
        sink: sink.clone(),
        clock: clock.clone(),
    };
    if let PolicySource::Folder(folder) = &section.policy {
        watch_folder(
            config,
            folder,
            &identity,
            sink.as_ref(),
            &policy,
            &clock,
            &stop,
        )
        .await?;
    }
    let running = Proxy::start(section.listeners(config.demo), parts)
        .map_err(palisade_proxy::ProxyError::diagnostics)?;
    let view = View {
        instance: section.instance.clone(),
        running: Arc::new(running),
        identity,
        policy,
        endpoints: endpoints.clone(),
        kept: kept.clone(),
        sink,
        started_us: clock.now_us(),
        clock: clock.clone(),
    };
    let pdp = match &section.policy {
        PolicySource::Pdp(address) => Some(Whereabouts::At(*address)),
        PolicySource::Mesh => Some(Whereabouts::Mesh(NodeRole::Pdp, directory())),
        PolicySource::Folder(_) => None,
    };
    if let Some(pdp) = pdp {
        subscribe(config, section, pdp, &view, &endpoints, &stop)?;
    }
    let (running, policy) = (view.running.clone(), view.policy.clone());
    let about = super::about(config, &["proxy"], &clock);
    let socket = control::server::serve(
        about,
        &format!("proxy-{}", section.instance),
        routes(view),
        stop.clone(),
    )
    .await
    .map_err(|e| vec![super::unbound("control socket", &e)])?;
    Ok(ProxyRole {
        running,
        kept,
        policy,
        stop,
        socket,
    })
}

impl ProxyRole {
    /// Resolves when the proxy can decide: it has its certificate from the start, and
    /// now a policy snapshot too.
    pub async fn ready(&self) {
        while self.policy.load().is_none() {
            tokio::time::sleep(READY_PAUSE).await;
        }
    }

    /// What an application beside it needs to know: whose Workload API, and which
    /// proxy for its own calls.
    pub fn environment(&self, config: &Config) -> Vec<(&'static str, String)> {
        let identity = config.proxy.as_ref().map(|p| &p.identity);
        let api = match identity {
            Some(identity::IdentityConfig::WorkloadApi(address)) => Some(address.clone()),
            _ => None,
        };
        let outbound = self.running.outbound.map(|a| format!("http://{a}"));
        let for_calls = ["HTTP_PROXY", "http_proxy"].into_iter();
        let for_calls = for_calls.filter_map(|name| Some((name, outbound.clone()?)));
        let endpoint = api.map(|address| ("SPIFFE_ENDPOINT_SOCKET", address));
        endpoint.into_iter().chain(for_calls).collect()
    }

    /// Drains the proxy and writes out its records.
    pub async fn end(self) {
        self.running.drain(DRAIN_DEADLINE).await;
        self.stop.cancel();
        drop(self.socket);
        match self.kept {
            Kept::Log(log) => log.close(),
            Kept::Spool(spool) => spool.close(),
        }
    }
}

/// A proxy without an identity of its own may be offered one of the mesh's parts,
/// for it is the same program; it must not speak for them.
fn check_identity(own: &SpiffeId) -> Result<(), Diagnostic> {
    if !own.is_reserved() {
        return Ok(());
    }
    Err(
        Diagnostic::error(4204, format!("`{own}` is no identity for a proxy"))
            .cause("paths under `/palisade/` name the mesh's own parts")
            .help("register this proxy with the authority: ca.registrations"),
    )
}

fn keep_records(
    config: &Config,
    section: &ProxySection,
    audit: Option<Whereabouts>,
    identity: &Identity,
    clock: &Clock,
) -> Result<(Kept, Arc<dyn RecordSink>), Vec<Diagnostic>> {
    let reporter = identity.id();
    match (&section.records, audit) {
        (RecordTarget::Log(folder), _) => {
            let domain = TrustDomain::parse(reporter.trust_domain())
                .unwrap_or_else(|_| config.trust_domain.clone());
            let log = Log::open(folder, LogOptions::new(domain), clock.clone())
                .map_err(|e| vec![unusable(&e.to_string())])?;
            let sink = Arc::new(LocalSink::new(log.clone(), reporter, clock.clone()));
            Ok((Kept::Log(log), sink))
        }
        (_, None) => Err(vec![unusable("records have nowhere to go")]),
        (_, Some(audit)) => {
            let folder = config.state_dir.join("spool");
            let spool = Spool::open(&folder, reporter, SpoolOptions::default(), clock.clone())
                .map_err(|e| vec![unusable(&e.to_string())])?;
            let identity = identity.clone();
            let expected = config.trust_domain.role(Role::Audit.as_str());
            let connect = move || {
                let channel = tls::channel_to(&audit, &expected, &identity);
                async move { Ok::<_, std::convert::Infallible>(channel) }
            };
            tokio::spawn(spool.clone().uplink(connect));
            Ok((Kept::Spool(spool.clone()), spool))
        }
    }
}

/// Puts in force whatever good revision the folder holds.
async fn watch_folder(
    config: &Config,
    folder: &std::path::Path,
    identity: &Identity,
    sink: &dyn RecordSink,
    slot: &PolicySlot,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<(), Vec<Diagnostic>> {
    let recorder = Recorder::new(
        sink.open(OWN_WORKER),
        identity.id().as_str(),
        config.demo,
        clock.clone(),
    );
    let watched = SourceConfig::new(folder, config.state_dir.join("policy"));
    let source = Source::open(watched, clock.clone(), Arc::new(recorder))
        .await
        .map_err(|e| vec![e.diagnostic().clone()])?;
    let (mut state, slot) = (source.state(), slot.clone());
    let first = state.borrow().clone();
    if let (None, Some(rejected)) = (&first.current, &first.rejected) {
        return Err(rejected.diagnostics.clone());
    }
    let own = identity.id();
    let mut in_force = 0;
    let mut put = move |state: &palisade_pdp::publish::State| {
        let Some(published) = state.current.as_ref().filter(|p| p.sequence() != in_force) else {
            return Ok(());
        };
        let compiled = (*published.compiled).clone();
        let snapshot = policy::snapshot_for(&own, compiled, published.sequence())?;
        slot.store(Some(policy::live(snapshot)));
        in_force = published.sequence();
        Ok(())
    };
    put(&first).map_err(|d: Diagnostic| vec![d])?;
    let stop = stop.clone();
    tokio::spawn(async move {
        let follow = async {
            while state.changed().await.is_ok() {
                let now = state.borrow_and_update().clone();
                if let Some(rejected) = &now.rejected {
                    for diagnostic in &rejected.diagnostics {
                        tracing::error!(%diagnostic, "policy folder was rejected, keeping the present revision");
                    }
                }
                if let Err(error) = put(&now) {
                    tracing::error!(%error, "revision has no engine, keeping the present one");
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = source.run() => {}
            () = follow => {}
        }
    });
    Ok(())
}

/// Follows a PDP: revisions, endpoints, and our status in return.
fn subscribe(
    config: &Config,
    section: &ProxySection,
    pdp: Whereabouts,
    view: &View,
    endpoints: &palisade_proxy::endpoints::Endpoints,
    stop: &CancellationToken,
) -> Result<(), Vec<Diagnostic>> {
    let mut of_subscription =
        SubscriptionConfig::new(&section.instance, config.state_dir.join("policy"));
    let inbound = section.inbound.as_ref().zip(view.running.inbound);
    of_subscription.announcements = inbound
        .map(|(inbound, address)| Announcement {
            service: inbound.service.clone(),
            address: address.to_string(),
        })
        .into_iter()
        .collect();
    let (subscription, mut subscribed) = Subscription::new(of_subscription).map_err(|d| vec![d])?;
    let expected = config.trust_domain.role(Role::Pdp.as_str());
    let identity = view.identity.clone();
    let connect = move || {
        let channel = tls::channel_to(&pdp, &expected, &identity);
        async move { Ok::<_, String>(channel) }
    };
    let (slot, own) = (Mutex::new(view.policy.clone()), view.identity.id());
    let apply = move |revision: palisade_mesh::wire::policy::Revision| {
        let snapshot = policy::of_revision_for(&own, &revision)?;
        slot.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .store(Some(policy::live(snapshot)));
        Ok(())
    };
    let told = view.clone();
    let table = endpoints.clone();
    let stop = stop.clone();
    tokio::spawn(async move {
        let follow = async {
            while subscribed.endpoints.changed().await.is_ok() {
                let wire = subscribed.endpoints.borrow_and_update().clone();
                table.store(Arc::new(policy::endpoints(&wire)));
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = subscription.run(connect, apply, move || told.wire()) => {}
            () = follow => {}
        }
    });
    Ok(())
}

impl View {
    fn versions(&self) -> palisade_mesh::snapshot::Versions {
        self.policy
            .load()
            .as_ref()
            .map_or_else(Default::default, |live| live.snapshot().versions())
    }

    fn waiting(&self) -> u64 {
        match &self.kept {
            Kept::Log(_) => 0,
            Kept::Spool(spool) => spool.stats().waiting,
        }
    }

    fn wire(&self) -> Status {
        let counters = self.running.counters();
        Status {
            policy_sequence: self.versions().sequence,
            discovery: self.versions().discovery,
            svid_not_after_s: self.identity.not_after_s(),
            requests: counters.requests,
            allowed: counters.allowed,
            denied: counters.denied,
            undecided: counters.undecided,
            spooled_records: self.waiting(),
            draining: false,
        }
    }

    fn status(&self) -> ProxyStatus {
        let versions = self.versions();
        ProxyStatus {
            instance: self.instance.clone(),
            spiffe_id: self.identity.id().to_string(),
            svid_not_after_s: self.identity.not_after_s(),
            sequence: versions.sequence,
            digest: versions.policy.to_string(),
            endpoints: self.endpoints.load().iter().count(),
            inbound: self.running.inbound,
            outbound: self.running.outbound,
            admin: self.running.admin,
            requests: self.running.counters().requests,
            spooled: self.waiting(),
        }
    }

    fn check(&self) -> Vec<Fact> {
        let name = &self.instance;
        let mut facts = Vec::new();
        if self.versions().sequence == 0 {
            facts.push(
                Fact::not_ok(
                    "proxies",
                    FactState::Error,
                    5101,
                    format!("{name} has no policy snapshot"),
                )
                .cause("every request is answered with 503")
                .fix("see whether its PDP runs and can be reached"),
            );
        }
        if self.identity.not_after_s() * 1_000_000 < self.clock.now_us() {
            facts.push(
                Fact::not_ok(
                    "proxies",
                    FactState::Error,
                    5102,
                    format!("{name} has an expired certificate"),
                )
                .cause(format!(
                    "it ended {}",
                    ahead(&self.clock, self.identity.not_after_s())
                ))
                .fix("see whether its agent runs and can be reached"),
            );
        }
        facts.extend(self.check_records());
        facts.extend(keeping::facts("proxies", name, &self.sink.health()));
        facts
    }

    fn check_records(&self) -> Option<Fact> {
        let Kept::Spool(spool) = &self.kept else {
            return None;
        };
        let stats = spool.stats();
        let last_us = stats.last_ack_us.unwrap_or(self.started_us);
        let late = u128::try_from(self.clock.now_us() - last_us).unwrap_or_default();
        if stats.connected || stats.waiting == 0 || late < RECORDS_LATE.as_micros() {
            return None;
        }
        let text = format!("{} does not reach the audit service", self.instance);
        Some(
            Fact::not_ok("proxies", FactState::Warning, 5103, text)
                .cause(format!(
                    "{} records wait in its spool",
                    crate::render::thousands(stats.waiting)
                ))
                .fix("see whether it runs; nothing is lost while the disk has room"),
        )
    }
}

/// What the role answers on the local socket.
fn routes(view: View) -> Router {
    let (of_status, of_check) = (view.clone(), view);
    Router::new()
        .route(
            "/v1/proxy/status",
            get(move || async move { Json(of_status.status()) }),
        )
        .route(
            "/v1/proxy/check",
            get(move || async move { Json(of_check.check()) }),
        )
}
