//! The authority on the network: its two doors, join tokens and nodes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::Path,
    routing::{delete, get, post},
};
use palisade_ca::{
    Ca,
    join::{NodeName, NodeRole},
    server::TokenOrder,
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, sink::RecordSink};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::{
    Role,
    links::{self, LinkGate},
    unbound,
};
use crate::{
    config::{CaSection, Config},
    control::{
        api::{Answer, Fact, FactState},
        status::ago,
    },
    net::door,
};

/// How often an idle node is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long one message at the enrolment door may take.
const ENROL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection at the enrolment door may last, and how long after that what it
/// asks may take: whoever only holds a place keeps others from joining.
const ENROL_AGE: Duration = Duration::from_secs(30);
const ENROL_AGE_GRACE: Duration = Duration::from_secs(15);
/// Messages of one connection at the enrolment door at a time.
const ENROL_STREAMS: u32 = 4;
/// How long a host that was turned away is shown.
const SHOWN_US: i64 = 3_600_000_000;

/// The authority's doors, open.
#[derive(Clone)]
pub struct Network {
    /// Where they are bound.
    pub address: SocketAddr,
    /// Where other hosts reach them; none when nobody has said.
    advertised: Option<SocketAddr>,
    gate: Arc<LinkGate>,
}

/// Opens the doors that `ca.listen` names.
pub(super) async fn open(
    config: &Config,
    section: &CaSection,
    ca: &Arc<Ca>,
    sink: &dyn RecordSink,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<Option<Network>, Vec<Diagnostic>> {
    let Some(listen) = section.listen else {
        return Ok(None);
    };
    let reporter = config.trust_domain.role(Role::Ca.as_str());
    let gate = LinkGate::new(config, reporter, sink.open(links::OWN_WORKER), clock)?;
    let identity = ca.identity_for_role(Role::Ca.as_str()).await.map_err(|e| {
        vec![Diagnostic::error(4202, "the `ca` role got no certificate").cause(e.to_string())]
    })?;
    let failed = |e: std::io::Error| vec![unbound("ca.listen", &e)];
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let advertised = section
        .advertise
        .or(Some(address).filter(|a| !a.ip().is_unspecified()));
    if let Some(advertised) = advertised {
        ca.reachable_at(advertised.ip());
    }
    let arrivals = door::arrivals(listener, &identity);
    let nodes = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_service(ca.network_service(gate.clone()))
        .add_service(ca.network_kill_service(gate.clone()))
        .serve_with_incoming_shutdown(arrivals.nodes, stop.clone().cancelled_owned());
    let strangers = Server::builder()
        .max_concurrent_streams(ENROL_STREAMS)
        .timeout(ENROL_TIMEOUT)
        .max_connection_age(ENROL_AGE)
        .max_connection_age_grace(ENROL_AGE_GRACE)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_service(ca.enrolment_service())
        .serve_with_incoming_shutdown(arrivals.strangers, stop.clone().cancelled_owned());
    tokio::spawn(nodes);
    tokio::spawn(strangers);
    Ok(Some(Network {
        address,
        advertised,
        gate,
    }))
}

/// What is asked for a new token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewToken {
    /// Name of the node.
    pub node: String,
    /// What it may run.
    pub roles: Vec<NodeRole>,
    /// Seconds it can be used.
    pub ttl_s: u64,
}

/// A new token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenMade {
    /// Its public name.
    pub id: String,
    /// Name of the node.
    pub node: String,
    /// The token itself; it is told this once.
    pub token: String,
    /// Seconds it can be used.
    pub ttl_s: u64,
}

/// A token that waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Its public name.
    pub id: String,
    /// Name of the node.
    pub node: String,
    /// What the node may run.
    pub roles: Vec<NodeRole>,
    /// When it ends, seconds since the Unix epoch.
    pub expires_s: i64,
}

/// A node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// What it may run.
    pub roles: Vec<NodeRole>,
    /// When it joined, seconds since the Unix epoch.
    pub joined_s: i64,
    /// Whether its agent follows the authority now.
    pub connected: bool,
    /// Since when it is banned, seconds since the Unix epoch.
    pub banned_s: Option<i64>,
    /// Why it is banned.
    pub reason: String,
}

/// Why a node is banned.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ban {
    /// For people.
    pub reason: String,
}

/// What the role answers on the local socket about joining.
pub(super) fn routes(ca: Arc<Ca>, network: Option<Network>) -> Router {
    let (of_create, of_list, of_revoke) = (ca.clone(), ca.clone(), ca.clone());
    let (of_nodes, of_ban) = (ca.clone(), ca);
    Router::new()
        .route(
            "/v1/ca/tokens",
            post(move |Json(new): Json<NewToken>| async move {
                create(&of_create, network.as_ref(), &new).await
            })
            .get(move || async move { tokens(&of_list).await }),
        )
        .route(
            "/v1/ca/tokens/{id}",
            delete({
                let ca = of_revoke.clone();
                move |Path(id): Path<String>| async move { revoke(&ca, &id).await }
            })
            .post(move |Path(id): Path<String>| async move { revoke(&of_revoke, &id).await }),
        )
        .route(
            "/v1/ca/nodes",
            get(move || async move { Json(nodes(&of_nodes)) }),
        )
        .route(
            "/v1/ca/nodes/{name}/ban",
            post(
                move |Path(name): Path<String>, Json(why): Json<Ban>| async move {
                    ban(&of_ban, &name, &why).await
                },
            ),
        )
}

async fn create(ca: &Ca, network: Option<&Network>, new: &NewToken) -> Answer<TokenMade> {
    let address = network.and_then(|n| n.advertised).ok_or_else(|| {
        Diagnostic::error(4102, "no other host can reach this authority")
            .cause("`ca.listen` is not set, or stands for every address and `ca.advertise` is not set")
            .help("set `ca.listen`, such as `0.0.0.0:7440`, and `ca.advertise` to the address that hosts reach")
    })?;
    let order = TokenOrder {
        node: NodeName::parse(&new.node)?,
        roles: new.roles.clone(),
        ttl: Duration::from_secs(new.ttl_s),
        address: address.to_string(),
    };
    let token = ca.create_token(&order).await?;
    Ok(Json(TokenMade {
        id: token.id.clone(),
        node: token.node.to_string(),
        token: token.to_text().to_string(),
        ttl_s: new.ttl_s,
    }))
}

async fn tokens(ca: &Ca) -> Answer<Vec<TokenStatus>> {
    let waiting = ca.tokens().await.map_err(|e| e.diagnostic())?;
    let status = waiting.into_iter().map(|t| TokenStatus {
        id: t.id,
        node: t.node.to_string(),
        roles: t.roles,
        expires_s: t.expires_s,
    });
    Ok(Json(status.collect()))
}

async fn revoke(ca: &Ca, id: &str) -> Answer<()> {
    Ok(Json(ca.revoke_token(id).await?))
}

fn nodes(ca: &Ca) -> Vec<NodeStatus> {
    let status = ca.nodes().into_iter().map(|n| NodeStatus {
        name: n.name.to_string(),
        roles: n.roles,
        joined_s: n.joined_s,
        connected: n.connected,
        banned_s: n.banned.as_ref().map(|(at, _)| *at),
        reason: n.banned.map(|(_, why)| why).unwrap_or_default(),
    });
    status.collect()
}

async fn ban(ca: &Ca, name: &str, why: &Ban) -> Answer<()> {
    let name = NodeName::parse(name)?;
    Ok(Json(ca.ban_node(&name, &why.reason).await?))
}

/// What `check` says about nodes and about hosts that were turned away.
pub(super) fn check(ca: &Ca, network: Option<&Network>, clock: &Clock) -> Vec<Fact> {
    let mut facts = network.map(|n| n.gate.check()).unwrap_or_default();
    let now_us = clock.now_us();
    let refused = ca.refused_hosts();
    let lately = refused.iter().rev().filter(|r| now_us - r.at_us < SHOWN_US);
    let mut told: Vec<&str> = Vec::new();
    for host in lately {
        if told.contains(&host.text.as_str()) {
            continue;
        }
        told.push(&host.text);
        facts.push(
            Fact::not_ok(
                "nodes",
                FactState::Warning,
                host.code,
                format!("turned away: {}", host.text),
            )
            .cause(format!("last {}", ago(clock, host.at_us)))
            .fix(format!("palisade explain PLS{}", host.code)),
        );
    }
    let nodes = ca.nodes();
    let active: Vec<_> = nodes.iter().filter(|n| n.banned.is_none()).collect();
    if let (Some(_), false) = (network, active.is_empty()) {
        let away: Vec<_> = active.iter().filter(|n| !n.connected).collect();
        facts.push(match away.first() {
            None => Fact::ok(
                "nodes",
                format!("{} nodes follow the authority", active.len()),
            ),
            Some(first) => Fact::not_ok(
                "nodes",
                FactState::Warning,
                4126,
                format!(
                    "{} of {} nodes do not follow the authority",
                    away.len(),
                    active.len()
                ),
            )
            .cause(format!("`{}` is one", first.name))
            .fix("see whether its agent runs; its workloads go on until their certificates end"),
        });
    }
    facts
}
