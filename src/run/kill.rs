//! What the authority answers about its kill list on the local socket.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::ConnectInfo,
    routing::{get, post},
};
use palisade_ca::{
    Ca,
    server::{KillError, KillOrder},
};
use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    kill::{Entry, Target},
    spiffe_id::SpiffeId,
};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::{
    control::{
        api::{Answer, Problem},
        server::PeerUid,
    },
    render::{hex, unhex},
};

/// Most certificates that a preview names; it counts the others.
const NAMED_MAX: usize = 20;

/// The list, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillListStatus {
    /// Its number.
    pub sequence: u64,
    /// When it was last signed, microseconds since the Unix epoch.
    pub signed_us: i64,
    /// Its entries, oldest first.
    pub entries: Vec<KillEntry>,
}

/// One entry, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillEntry {
    /// ULID.
    pub id: String,
    /// What it bars.
    pub target: TargetText,
    /// Why.
    pub reason: String,
    /// Who put it there.
    pub author: String,
    /// When, microseconds since the Unix epoch.
    pub created_us: i64,
    /// When it ends, microseconds since the Unix epoch; absent for never.
    pub expires_us: Option<i64>,
    /// Whether it bars anybody now.
    pub live: bool,
}

/// What an entry bars, in text: SPIFFE IDs as they are, bytes as hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetText {
    /// `authority`, `identity`, `prefix` or `serial`.
    pub kind: String,
    /// Which.
    pub value: String,
}

/// A wish to bar somebody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KillWish {
    /// Whom or what.
    pub target: TargetText,
    /// Why.
    pub reason: String,
    /// For how long, in seconds; absent for ever.
    pub for_s: Option<u64>,
    /// Only say who would be hit.
    pub preview: bool,
}

/// What became of a wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillOutcome {
    /// The entry; absent in a preview.
    pub entry: Option<KillEntry>,
    /// How many certificates that are valid now it hits.
    pub certificates: usize,
    /// The identities they prove, each once, the first twenty.
    pub identities: Vec<String>,
}

pub(super) fn routes(ca: Arc<Ca>, clock: Clock) -> Router {
    let (of_list, of_add, of_remove) = (ca.clone(), ca.clone(), ca);
    let (list_clock, add_clock, remove_clock) = (clock.clone(), clock.clone(), clock);
    Router::new()
        .route(
            "/v1/ca/kill",
            get(move || async move { Json(status(&of_list, &list_clock)) }).post(
                move |ConnectInfo(peer): ConnectInfo<PeerUid>, Json(wish): Json<KillWish>| async move {
                    add(&of_add, &add_clock, peer, wish).await
                },
            ),
        )
        .route(
            "/v1/ca/kill/remove",
            post(
                move |ConnectInfo(peer): ConnectInfo<PeerUid>, Json(id): Json<String>| async move {
                    remove(&of_remove, &remove_clock, peer, &id).await
                },
            ),
        )
}

fn status(ca: &Ca, clock: &Clock) -> KillListStatus {
    let list = ca.killed();
    KillListStatus {
        sequence: list.sequence(),
        signed_us: list.issued_us(),
        entries: list.entries().iter().map(|e| shown(e, clock)).collect(),
    }
}

async fn add(ca: &Ca, clock: &Clock, peer: PeerUid, wish: KillWish) -> Answer<KillOutcome> {
    let target = wish.target.parse()?;
    let hit = ca.hit_by(&target).await.map_err(problem)?;
    let mut identities: Vec<String> = hit.iter().map(|c| c.spiffe_id.to_string()).collect();
    identities.sort();
    identities.dedup();
    identities.truncate(NAMED_MAX);
    let mut outcome = KillOutcome {
        entry: None,
        certificates: hit.len(),
        identities,
    };
    if !wish.preview {
        let life_us = wish.for_s.map(|s| {
            i64::try_from(s)
                .unwrap_or(i64::MAX)
                .saturating_mul(1_000_000)
        });
        let order = KillOrder {
            target,
            reason: wish.reason,
            author: peer.to_string(),
            expires_us: life_us.map(|life| clock.now_us().saturating_add(life)),
        };
        let entry = ca.kill(order).await.map_err(problem)?;
        outcome.entry = Some(shown(&entry, clock));
    }
    Ok(Json(outcome))
}

async fn remove(ca: &Ca, clock: &Clock, peer: PeerUid, id: &str) -> Answer<KillEntry> {
    let unknown = || {
        Diagnostic::error(4404, format!("the kill list has no entry `{id}`"))
            .help("palisade kill list")
    };
    let id: Ulid = id.parse().map_err(|_| unknown())?;
    match ca.pardon(id, &peer.to_string()).await {
        Ok(entry) => Ok(Json(shown(&entry, clock))),
        Err(KillError::Unknown(_)) => Err(unknown().into()),
        Err(error) => Err(problem(error)),
    }
}

fn shown(entry: &Entry, clock: &Clock) -> KillEntry {
    KillEntry {
        id: entry.id.to_string(),
        target: TargetText::of(&entry.target),
        reason: entry.reason.clone(),
        author: entry.author.clone(),
        created_us: entry.created_us,
        expires_us: entry.expires_us,
        live: entry.is_live(clock.now_us()),
    }
}

impl TargetText {
    fn of(target: &Target) -> Self {
        Self {
            kind: target.kind().into(),
            value: match target {
                Target::Authority(bytes) | Target::Serial(bytes) => hex(bytes),
                Target::Identity(id) | Target::Prefix(id) => id.to_string(),
            },
        }
    }

    fn parse(&self) -> Result<Target, Diagnostic> {
        let wrong = |cause: String| {
            Diagnostic::error(4401, format!("`{}` is no {}", self.value, self.kind))
                .cause(cause)
                .help("palisade identity list shows SPIFFE IDs, identity show serial and authority")
        };
        let id = || SpiffeId::parse(&self.value).map_err(|e| wrong(e.to_string()));
        let bytes = || {
            let bytes = unhex(&self.value);
            bytes.ok_or_else(|| wrong("it is not a string of hexadecimal digits".into()))
        };
        Ok(match self.kind.as_str() {
            "authority" => Target::Authority(bytes()?.into()),
            "identity" => Target::Identity(id()?),
            "prefix" => Target::Prefix(id()?),
            "serial" => Target::Serial(bytes()?.into()),
            other => return Err(wrong(format!("`{other}` is nothing that can be barred"))),
        })
    }
}

fn problem(error: KillError) -> Problem {
    match error {
        KillError::Ended | KillError::List(_) => {
            Diagnostic::error(4402, "this cannot stand on the kill list")
                .cause(error.to_string())
                .help("palisade explain PLS4402 tells what can")
        }
        KillError::Store(_) | KillError::Unknown(_) | KillError::Unrecorded(_) => {
            Diagnostic::error(4405, "the kill list was not changed")
                .cause(error.to_string())
                .help("nobody is barred; mend the cause and ask again")
        }
    }
    .into()
}
