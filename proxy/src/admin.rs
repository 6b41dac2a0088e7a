//! The admin listener: health, metrics, state. On loopback, read only.

use std::{
    io,
    net::{IpAddr, TcpListener as StdListener},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, HOST},
        uri::Authority,
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use palisade_mesh::snapshot::Versions;
use serde::Serialize;
use tokio::sync::watch;

use crate::{proxy::Shared, telemetry::Gauges, worker::Phase};

mod metrics;

/// What the admin listener can see.
#[derive(Clone)]
pub(crate) struct View {
    shared: Arc<Shared>,
    gauges: Arc<[Arc<Gauges>]>,
    phase: watch::Receiver<Phase>,
}

/// Serves the admin listener on a thread of its own, so that it answers when the
/// workers are busy. The thread ends with the proxy.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn spawn(listener: StdListener, view: View) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("palisade-admin".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                let mut phase = view.phase.clone();
                let serve = async {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    axum::serve(listener, app(view)).await
                };
                // With the proxy, or when a successor answers on the socket.
                let gone = phase.wait_for(|phase| matches!(phase, Phase::Succeeded(_)));
                tokio::select! {
                    served = serve => if let Err(error) = served {
                        tracing::error!(%error, "admin listener ended");
                    },
                    _ = gone => {}
                }
            });
        })?;
    Ok(())
}

fn app(view: View) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/state", get(state))
        .with_state(view)
        .layer(middleware::from_fn(only_by_address))
}

/// Refuses requests under any name but an address or `localhost`: a page in a
/// browser of this machine reaches us under a name of its own (DNS rebinding), and
/// would be let read the answer.
async fn only_by_address(request: Request, next: Next) -> Response {
    let authority = request.uri().authority().map(Authority::as_str);
    let field = request.headers().get(HOST).map(HeaderValue::as_bytes);
    let named = authority.map(str::as_bytes).or(field);
    if named.is_none_or(is_address) {
        return next.run(request).await;
    }
    let text = "ask by address or as `localhost`\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

fn is_address(authority: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(authority) else {
        return false;
    };
    let host = authority.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

impl View {
    pub(crate) fn new(
        shared: Arc<Shared>,
        gauges: Vec<Arc<Gauges>>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        Self {
            shared,
            gauges: gauges.into(),
            phase,
        }
    }

    fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    fn is_stale(&self) -> bool {
        let live = self.shared.policy.load();
        live.as_ref().is_some_and(|live| live.is_stale())
    }

    fn versions(&self) -> Option<Versions> {
        let live = self.shared.policy.load();
        let mut versions = live.as_ref()?.snapshot().versions();
        versions.discovery = self.shared.endpoints.load().version();
        Some(versions)
    }

    fn svid_valid(&self) -> bool {
        self.shared.identity.not_after_s() > self.shared.clock.now_us() / 1_000_000
    }

    /// What keeps the proxy from being sent traffic; empty when nothing does.
    fn obstacles(&self) -> Vec<&'static str> {
        let checks = [
            (self.is_draining(), "draining"),
            (self.shared.policy.load().is_none(), "no policy snapshot"),
            (self.is_stale(), "policy snapshot is stale"),
            (!self.svid_valid(), "certificate has ended"),
        ];
        checks
            .into_iter()
            .filter_map(|(hit, why)| hit.then_some(why))
            .collect()
    }
}

async fn ready(State(view): State<View>) -> Response {
    let obstacles = view.obstacles();
    if obstacles.is_empty() {
        return "ok\n".into_response();
    }
    let text = format!("{}\n", obstacles.join("\n"));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn metrics(State(view): State<View>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, kind)], metrics::render(&view)).into_response()
}

async fn state(State(view): State<View>) -> Json<Snapshot> {
    let table = view.shared.endpoints.load();
    let mut endpoints: Vec<_> = table
        .iter()
        .flat_map(|(service, endpoints)| {
            endpoints.iter().map(|e| EndpointState {
                service: service.to_string(),
                address: e.address.to_string(),
                identity: e.identity.to_string(),
            })
        })
        .collect();
    endpoints.sort();
    let sum = |of: fn(&Gauges) -> u64| view.gauges.iter().map(|g| of(g)).sum();
    Json(Snapshot {
        ready: view.obstacles().is_empty(),
        draining: view.is_draining(),
        identity: view.shared.identity.id().to_string(),
        svid_not_after_s: view.shared.identity.not_after_s(),
        policy: view.versions().map(|v| PolicyState {
            digest: v.policy.to_string(),
            sequence: v.sequence,
            kill_list: v.kill_list,
        }),
        discovery: table.version(),
        endpoints,
        workers: view.gauges.len(),
        connections: sum(|g| g.connections.value()),
        requests: sum(|g| g.requests.value()),
        allowed: sum(|g| g.allowed.value()),
        denied: sum(|g| g.denied.value()),
        undecided: sum(|g| g.undecided.value()),
        refused: sum(|g| g.refused.value()),
    })
}

#[derive(Serialize)]
struct Snapshot {
    ready: bool,
    draining: bool,
    identity: String,
    svid_not_after_s: i64,
    policy: Option<PolicyState>,
    discovery: u64,
    endpoints: Vec<EndpointState>,
    workers: usize,
    connections: u64,
    requests: u64,
    allowed: u64,
    denied: u64,
    undecided: u64,
    refused: u64,
}

#[derive(Serialize)]
struct PolicyState {
    digest: String,
    sequence: u64,
    kill_list: u64,
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct EndpointState {
    service: String,
    address: String,
    identity: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_our_names() {
        for ours in ["127.0.0.1", "127.0.0.1:15021", "[::1]:15021", "LOCALHOST:1"] {
            assert!(is_address(ours.as_bytes()), "{ours}");
        }
        for name in [
            "evil.test",
            "127.0.0.1.evil.test:15021",
            "localhost.evil.test",
            "",
            "a b",
        ] {
            assert!(!is_address(name.as_bytes()), "{name:?}");
        }
    }
}
