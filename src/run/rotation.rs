//! Rotation of the authorities, as the local socket tells of it and takes orders.

use std::sync::Arc;

use axum::{Json, Router, routing::post};
use palisade_ca::{
    Ca,
    authority::{Authority, Kind, State},
    server::{AgentStanding, Missing, Rotation, Stage, Waiting, name_missing},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, snapshot::Digest};
use serde::{Deserialize, Serialize};

use super::authority::{identities_now, short};
use crate::control::{
    api::{Answer, Fact, FactState, Problem},
    status::{
        AgentStatus, AuthorityStatus, CaStatus, HolderStatus, MissingStatus, WaitingStatus, ahead,
    },
};
use crate::render::hex;

/// Who gave an order: the socket answers the mesh's own user and root alone.
const ACTOR: &str = "local socket";

/// What `palisade ca rotate` asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RotateOrder {
    /// `root` or `issuer`.
    pub(crate) what: String,
    /// `prepare`, `activate` or `retire`.
    pub(crate) stage: Option<String>,
    /// Taint and revoke.
    pub(crate) compromised: bool,
    /// Do not wait for acknowledgements.
    pub(crate) now: bool,
}

/// Answers orders.
pub(super) fn routes(ca: Arc<Ca>) -> Router {
    Router::new().route(
        "/v1/ca/rotate",
        post(move |Json(order): Json<RotateOrder>| async move { rotate(&ca, &order).await }),
    )
}

async fn rotate(ca: &Ca, order: &RotateOrder) -> Answer<CaStatus> {
    let unknown = || {
        let found = Diagnostic::error(4036, "this rotation is not known");
        Problem::from(found.help("see the choices: palisade ca rotate --help"))
    };
    let wanted = Rotation {
        kind: match order.what.as_str() {
            "root" => Kind::Root,
            "issuer" => Kind::Intermediate,
            _ => return Err(unknown()),
        },
        stage: match order.stage.as_deref() {
            None => None,
            Some("prepare") => Some(Stage::Prepare),
            Some("activate") => Some(Stage::Activate),
            Some("retire") => Some(Stage::Retire),
            Some(_) => return Err(unknown()),
        },
        compromised: order.compromised,
        now: order.now,
    };
    ca.rotate(wanted, ACTOR)
        .await
        .map_err(|e| Problem::from(e.diagnostic()))?;
    Ok(Json(status(ca, identities_now(ca).await?).await))
}

/// How the authority stands.
pub(super) async fn status(ca: &Ca, identities: usize) -> CaStatus {
    let standing = ca.standing().await;
    CaStatus {
        trust_domain: ca.rules().trust_domain.to_string(),
        authorities: standing
            .authorities
            .iter()
            .map(|(a, since_us)| authority(a, *since_us))
            .collect(),
        identities,
        epoch: standing.epoch,
        sequence: standing.sequence,
        waiting: standing.waiting.map(waiting),
        agents: standing.agents.into_iter().map(agent).collect(),
    }
}

/// An authority, as it is told of.
pub(crate) fn authority(authority: &Authority, since_us: i64) -> AuthorityStatus {
    AuthorityStatus {
        kind: authority.kind.as_str().into(),
        key_id: authority.key_id.to_string(),
        state: authority.state.as_str().into(),
        since_us,
        issuer: authority.issuer.to_string(),
        digest: hex(&Digest::of(&authority.certificate).0),
        not_before_s: authority.not_before_s,
        not_after_s: authority.not_after_s,
    }
}

fn waiting(waiting: Waiting) -> WaitingStatus {
    WaitingStatus {
        key_id: waiting.authority.to_string(),
        state: waiting.state.as_str().into(),
        deadline_s: waiting.deadline_s,
        missing: waiting.missing.into_iter().map(missing).collect(),
    }
}

fn missing(missing: Missing) -> MissingStatus {
    MissingStatus {
        agent: missing.agent,
        spiffe_id: missing.spiffe_id,
        heard_us: missing.heard_us,
    }
}

fn agent(agent: AgentStanding) -> AgentStatus {
    let holders = agent.holders.into_iter().map(|h| HolderStatus {
        spiffe_id: h.spiffe_id,
        streams: h.streams,
        sequence: h.sequence,
        issuers: h.issuers.iter().map(ToString::to_string).collect(),
    });
    AgentStatus {
        name: agent.name,
        epoch: agent.epoch,
        sequence: agent.sequence,
        heard_us: agent.heard_us,
        holders: holders.collect(),
    }
}

/// Facts about tainted authorities and rotations that wait.
pub(super) async fn check(ca: &Ca, clock: &Clock) -> Vec<Fact> {
    let standing = ca.standing().await;
    let tainted = standing
        .authorities
        .iter()
        .filter(|(a, _)| a.state == State::Tainted);
    let mut facts: Vec<Fact> = tainted
        .map(|(a, _)| {
            let text = format!("{} {} is tainted", a.kind, short(a.key_id.as_bytes()));
            Fact::not_ok("identity", FactState::Warning, 4050, text)
                .cause("what it signed is being replaced; it is trusted until that is done")
                .fix("palisade ca status; to revoke at once: palisade ca rotate root --compromised --now --yes")
        })
        .collect();
    if let Some(waiting) = standing.waiting.filter(|w| !w.missing.is_empty()) {
        let then = match waiting.state {
            State::Tainted => "is revoked",
            _ => "signs",
        };
        let text = format!(
            "the rotation of root {} waits for {} of the mesh",
            short(waiting.authority.as_bytes()),
            waiting.missing.len()
        );
        facts.push(
            Fact::not_ok("identity", FactState::Warning, 4051, text)
                .cause(name_missing(&waiting.missing))
                .fix(format!(
                    "see whether they run; without them it {then} {}",
                    ahead(clock, waiting.deadline_s)
                )),
        );
    }
    facts
}
