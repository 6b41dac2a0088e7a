//! The `agent` role.

use std::sync::Arc;

use axum::{Json, Router, routing::get};
use palisade_ca::{Agent, AgentConfig, Ca, agent::Remote};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, sink::RecordSink};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::unbound;
use crate::{config::Config, net::uds};

/// Starts the agent on the authority in this process, or on the one behind its
/// socket, and serves the Workload API.
pub(super) async fn start(
    config: &Config,
    ca: Option<Arc<Ca>>,
    sink: &dyn RecordSink,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<Arc<Agent>, Vec<Diagnostic>> {
    let mut of_agent = AgentConfig::new(config.trust_domain.clone());
    of_agent.demo = config.demo;
    let records = sink.open(0);
    let agent = match ca {
        Some(ca) => Agent::start(of_agent, ca, clock.clone(), records),
        None => Agent::start(
            of_agent,
            Remote::new(uds::channel(&config.ca_socket())),
            clock.clone(),
            records,
        ),
    };
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
