//! The `agent` role: in the control plane's process, or alone beside workloads.

use std::{fs, path::PathBuf, sync::Arc};

use axum::{Json, Router, routing::get};
use palisade_ca::{
    Agent, AgentConfig,
    agent::{Remote, Upstream, node::Node},
    join::NodeRole,
    trust::DirectoryEntry,
};
use palisade_mesh::{
    clock::Clock, diagnostic::Diagnostic, sink::RecordSink, spiffe_id::SpiffeId, svid::TrustBundle,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Role, about, joining, link, places,
    records::{Records, Sink},
    unbound, unheard,
};
use crate::{
    config::{Config, PartAddress},
    control::{
        self,
        api::{Fact, FactState},
        server::SocketFile,
    },
    net::{
        kill::{self, Holder},
        uds,
    },
};

/// An agent that is alone in its process.
pub struct AgentRole {
    agent: Arc<Agent>,
    records: Records,
    stop: CancellationToken,
    socket: SocketFile,
}

/// Starts the agent of `config` on the authority behind its socket, and the local
/// socket. When it returns, the Workload API is served.
///
/// # Errors
/// Everything that keeps it from starting.
pub async fn alone(config: &Config, clock: Clock) -> Result<AgentRole, Vec<Diagnostic>> {
    let stop = CancellationToken::new();
    let mut records = Records::new(config, clock.clone());
    let (agent, kill) = far(config, &mut records, &clock, &stop).await?;
    let identity = link::Source::Configured(config.default_identity());
    records.identify(&identity, &clock);
    let name = Role::Agent.as_str();
    let about = about(config, &[name], &clock);
    let routes = routes(agent.clone(), kill).merge(records.routes());
    let socket = control::server::serve(about, name, routes, stop.clone(), false)
        .await
        .map_err(|e| vec![unbound("control socket", &e)])?;
    Ok(AgentRole {
        agent,
        records,
        stop,
        socket,
    })
}

impl AgentRole {
    /// Resolves when the agent has heard the authority: it can get certificates, and
    /// knows whom to trust.
    pub async fn ready(&self) {
        let mut trust = self.agent.trust();
        if trust.wait_for(Option::is_some).await.is_err() {
            std::future::pending().await
        }
    }

    /// Ends it and writes out its records.
    pub async fn end(self) {
        self.stop.cancel();
        drop(self.socket);
        drop(self.agent);
        self.records.close();
    }
}

/// Starts the agent of an authority in another process: on another host, where this one
/// is a node, else behind its socket.
///
/// # Errors
/// Everything that keeps it from starting.
pub(super) async fn far(
    config: &Config,
    records: &mut Records,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<(Arc<Agent>, Arc<Holder>), Vec<Diagnostic>> {
    let Some(node) = joining::node(config, clock).await? else {
        let written = config.agent.as_ref().and_then(|a| a.audit);
        let directory = || places::of_agent(config, None, stop);
        let audit = written.map(|a| places::whereabouts(a, NodeRole::Audit, directory));
        let sink = records.sink(Role::Agent, audit)?;
        let socket = config.ca_socket();
        let authority = Remote::new(uds::channel(&socket));
        let kill = kill::Source::Far(Box::new(move || uds::channel(&socket)));
        return start(config, authority, kill, None, sink.as_ref(), clock, stop).await;
    };
    let (sink, directory) = sink_of_node(config, &node, records)?;
    let authority = node.upstream().showing(&joining::own_selectors());
    let reporter = Some(node.identity().id());
    let channels = node.clone();
    let kill = kill::Source::Far(Box::new(move || channels.channel()));
    let sink = sink.as_ref();
    let (agent, kill) = start(config, authority, kill, reporter, sink, clock, stop).await?;
    let of_agent = Arc::downgrade(&agent);
    let is_cut_off = move || of_agent.upgrade().is_some_and(|a| a.trouble().is_some());
    tokio::spawn(node.keep(agent.trust(), is_cut_off, stop.clone()));
    places::forward(agent.directory(), directory);
    Ok((agent, kill))
}

/// Starts the agent on an authority, and serves the Workload API.
pub(super) async fn start(
    config: &Config,
    authority: impl Upstream,
    lists: kill::Source,
    reporter: Option<SpiffeId>,
    sink: &dyn RecordSink,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<(Arc<Agent>, Arc<Holder>), Vec<Diagnostic>> {
    let mut of_agent = AgentConfig::new(config.trust_domain.clone());
    of_agent.demo = config.demo;
    of_agent.directory_file = Some(kept_directory(config));
    of_agent.name = name(&config.agent_socket());
    let records = sink.open(0);
    if let Some(reporter) = reporter {
        of_agent.reporter = reporter;
    }
    let agent = Agent::start(of_agent, authority, clock.clone(), records);
    let path = config.agent_socket();
    if let Some(folder) = path.parent() {
        uds::private_folder(folder).map_err(|e| vec![unbound("the Workload API's folder", &e)])?;
    }
    let api = agent.bind(&path).await.map_err(|e| {
        vec![
            Diagnostic::error(4203, "the Workload API cannot be served")
                .cause(e.to_string())
                .help("see who uses the socket, or configure another one: agent.socket"),
        ]
    })?;
    let kill = hold(&agent, config, lists, clock, stop);
    let api = api.relaying(kill.signed());
    tokio::spawn(api.serve(stop.clone().cancelled_owned()));
    Ok((agent, kill))
}

/// Holds the kill list under the bundle that the agent follows, from its first on.
fn hold(
    agent: &Agent,
    config: &Config,
    lists: kill::Source,
    clock: &Clock,
    stop: &CancellationToken,
) -> Arc<Holder> {
    let domain = config.trust_domain.clone();
    let (trust, mut first) = (agent.trust(), agent.trust());
    let bundle = move || {
        let trust = trust.borrow().clone();
        trust.map_or_else(
            || TrustBundle {
                trust_domain: domain.clone(),
                roots: Vec::new(),
            },
            |trust| trust.bundle.clone(),
        )
    };
    let holder = Holder::new(&config.trust_domain, bundle, clock.clone(), None);
    let following = holder.clone();
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        if first.wait_for(Option::is_some).await.is_ok() {
            following.keep_up(lists).await;
        }
    }));
    holder
}

/// Where the directory is kept over a restart.
pub(super) fn kept_directory(config: &Config) -> PathBuf {
    config.state_dir.join("directory.json")
}

/// The sink of a joined agent: it reports as its node, to the audit service that is
/// configured or that the directory names. The directory comes from the agent itself,
/// which starts after it has a sink: hence the sender.
pub(super) fn sink_of_node(
    config: &Config,
    node: &Node,
    records: &mut Records,
) -> Result<(Sink, watch::Sender<Vec<DirectoryEntry>>), Vec<Diagnostic>> {
    let kept = fs::read(kept_directory(config)).ok();
    let kept = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let (sender, directory) = watch::channel(kept.unwrap_or_default());
    let written = config.agent.as_ref().and_then(|a| a.audit);
    let audit = match (written, &config.audit) {
        (None, Some(_)) => None,
        (written, _) => Some(places::whereabouts(
            written.unwrap_or(PartAddress::Mesh),
            NodeRole::Audit,
            || directory,
        )),
    };
    let sink = records.sink_as(Role::Agent, &node.identity(), audit)?;
    Ok((sink, sender))
}

/// The host and the socket: the same after a restart, and no other agent's.
fn name(socket: &std::path::Path) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), socket.display())
}

/// What the role answers on the local socket.
pub(super) fn routes(agent: Arc<Agent>, kill: Arc<Holder>) -> Router {
    let of_check = agent.clone();
    Router::new()
        .route(
            "/v1/agent/identities",
            get(move || async move { identities(&agent) }),
        )
        .route(
            "/v1/agent/check",
            get(move || async move { Json(check(&of_check, &kill)) }),
        )
}

/// What the agent serves stays good without its authority, until it ends.
fn check(agent: &Agent, kill: &Holder) -> Vec<Fact> {
    let told = agent.trouble().map(|trouble| {
        let text = "the agent does not follow its authority";
        Fact::not_ok("identity", FactState::Warning, 4052, text)
            .cause(trouble)
            .fix("see whether it runs; certificates are good until they end")
    });
    let unheard = unheard::fact("identity", "the agent", kill);
    told.into_iter().chain(unheard).collect()
}

fn identities(agent: &Agent) -> Json<Value> {
    let kept: Vec<Value> = agent
        .identities()
        .into_iter()
        .map(|i| {
            json!({
                "spiffe_id": i.spiffe_id,
                "hint": i.hint,
                "not_after_s": i.not_after_s,
                "renew_at_s": i.renew_at_s,
                "error": i.error,
            })
        })
        .collect();
    Json(Value::Array(kept))
}
