//! The `agent` role: in the control plane's process, or alone beside workloads.

use std::sync::Arc;

use axum::{Json, Router, routing::get};
use palisade_ca::{
    Agent, AgentConfig,
    agent::{Remote, Upstream},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, sink::RecordSink};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Role, about, link, records::Records, unbound};
use crate::{
    config::Config,
    control::{self, server::SocketFile},
    net::uds,
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
    let sink = records.sink(Role::Agent, audit(config))?;
    let agent = start(config, remote(config), sink.as_ref(), &clock, &stop).await?;
    let identity = link::Source::Configured(config.default_identity());
    records.identify(&identity, &clock);
    let name = Role::Agent.as_str();
    let about = about(config, &[name], &clock);
    let socket = control::server::serve(about, name, routes(agent.clone()), stop.clone())
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

/// Where its records go, when that is said.
pub(super) fn audit(config: &Config) -> Option<std::net::SocketAddr> {
    config.agent.as_ref().and_then(|agent| agent.audit)
}

/// The authority behind its socket.
pub(super) fn remote(config: &Config) -> Remote {
    Remote::new(uds::channel(&config.ca_socket()))
}

/// Starts the agent on an authority, and serves the Workload API.
pub(super) async fn start(
    config: &Config,
    authority: impl Upstream,
    sink: &dyn RecordSink,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<Arc<Agent>, Vec<Diagnostic>> {
    let mut of_agent = AgentConfig::new(config.trust_domain.clone());
    of_agent.demo = config.demo;
    let records = sink.open(0);
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
    tokio::spawn(api.serve(stop.clone().cancelled_owned()));
    Ok(agent)
}

/// What the role answers on the local socket.
pub(super) fn routes(agent: Arc<Agent>) -> Router {
    Router::new().route(
        "/v1/agent/identities",
        get(move || async move { identities(&agent) }),
    )
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
