//! The enrolment door: for hosts that have no identity yet, or no longer.
//!
//! Only the server proves who it is here, so everything a caller says is checked:
//! sizes first, then the challenge, then the signature, and only then the database is
//! asked. Challenges are not kept but authenticated; the few that led to a valid
//! signature are remembered until they are stale, so that none is used twice.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::hmac;
use palisade_mesh::wire::ca::{
    ChallengeRequest, ChallengeResponse, EnrolRequest, NodeCredential, ReturnRequest,
    enrolment_server::{Enrolment, EnrolmentServer},
};
use tonic::{Code, Request, Response, Status};

use super::Ca;
use crate::{
    context::framed,
    issue::{Order, SPKI_LEN_MAX},
    join::{
        NodeName, SKEW_MAX_S,
        proof::{NONCE_LEN, enrol_context, return_context, vouch},
        refusal::JoinRefusal,
        sha256,
    },
    random,
    request::{point_of, signed},
    store::nodes::{NodeRow, Spend, Spent},
};

/// What records and refusals call this door.
const LISTENER: &str = "enrolment";
/// How long a challenge can be answered, in seconds.
const CHALLENGE_LIFE_S: i64 = 60;
/// Challenges that are remembered as used.
const USED_MAX: usize = 10_000;
/// Largest message accepted, in bytes.
const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Longest signature accepted, in bytes.
const PROOF_LEN_MAX: usize = 256;
/// Names the purpose of a challenge.
const CHALLENGE_DOMAIN: &str = "palisade/ca/challenge/v1";
/// Time, chance and authentication code.
const CHALLENGE_LEN: usize = 8 + 16 + 32;

/// Where a connection of this door comes from; whoever accepts it says so.
#[derive(Debug, Clone, Copy)]
pub struct Source(pub SocketAddr);

/// Lets hosts in.
pub struct EnrolmentService {
    ca: Arc<Ca>,
    key: hmac::Key,
    used: Mutex<HashMap<Vec<u8>, i64>>,
}

pub(super) fn server(ca: Arc<Ca>) -> EnrolmentServer<EnrolmentService> {
    let service = EnrolmentService {
        ca,
        key: hmac::Key::new(hmac::HMAC_SHA256, &random::bytes::<32>()),
        used: Mutex::default(),
    };
    EnrolmentServer::new(service).max_decoding_message_size(MESSAGE_LEN_MAX)
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn challenge(
        &self,
        request: Request<ChallengeRequest>,
    ) -> Result<Response<ChallengeResponse>, Status> {
        let source = source(&request);
        let asked = request.into_inner();
        match self.give_challenge(&asked).await {
            Ok(response) => Ok(Response::new(response)),
            Err(refusal) => Err(self.turn_away(&asked.node, source, refusal)),
        }
    }

    async fn enrol(
        &self,
        request: Request<EnrolRequest>,
    ) -> Result<Response<NodeCredential>, Status> {
        let source = source(&request);
        let asked = request.into_inner();
        match self.let_in(&asked).await {
            Ok(credential) => Ok(Response::new(credential)),
            Err(refusal) => Err(self.turn_away(&asked.node, source, refusal)),
        }
    }

    async fn r#return(
        &self,
        request: Request<ReturnRequest>,
    ) -> Result<Response<NodeCredential>, Status> {
        let source = source(&request);
        let asked = request.into_inner();
        match self.let_back(&asked).await {
            Ok(credential) => Ok(Response::new(credential)),
            Err(refusal) => Err(self.turn_away(&asked.node, source, refusal)),
        }
    }
}

impl EnrolmentService {
    async fn give_challenge(
        &self,
        asked: &ChallengeRequest,
    ) -> Result<ChallengeResponse, JoinRefusal> {
        let name = node_name(&asked.node)?;
        point(&asked.spki)?;
        if asked.nonce.len() != NONCE_LEN {
            return Err(JoinRefusal::Malformed("nonce"));
        }
        let now_us = self.ca.clock.now_us();
        check_clock(asked.time_us, now_us)?;
        let trust = self.ca.trust.borrow().clone();
        let roots: Vec<Vec<u8>> = trust
            .bundle
            .roots
            .iter()
            .map(|r| sha256(r).to_vec())
            .collect();
        let known = self.ca.nodes.find(&name).filter(|n| n.spki == asked.spki);
        let vouch = match known {
            Some(node) => vouch(&self.return_secret(&node).await, &asked.nonce, &roots),
            None => Vec::new(),
        };
        let time = (now_us / 1_000_000).to_be_bytes();
        let chance = random::bytes::<16>();
        let tag = self.tag(&asked.node, &asked.spki, &time, &chance);
        Ok(ChallengeResponse {
            challenge: [&time[..], &chance, tag.as_ref()].concat(),
            roots,
            vouch,
            time_us: now_us,
        })
    }

    async fn let_in(&self, asked: &EnrolRequest) -> Result<NodeCredential, JoinRefusal> {
        let name = node_name(&asked.node)?;
        let point = point(&asked.spki)?;
        if asked.secret.len() != 32
            || asked.token_id.len() > 64
            || asked.proof.len() > PROOF_LEN_MAX
        {
            return Err(JoinRefusal::Malformed("token or proof"));
        }
        self.check_challenge(&asked.node, &asked.spki, &asked.challenge)?;
        let context = enrol_context(&self.ca.config.trust_domain, asked);
        if !signed(&context, &asked.proof, point) {
            return Err(JoinRefusal::Proof);
        }
        self.use_up(&asked.challenge)?;
        let spend = Spend {
            id: &asked.token_id,
            secret_hash: sha256(&asked.secret),
            node: &name,
            spki: &asked.spki,
            now_s: self.ca.now_s(),
        };
        let token = super::excerpt(&asked.token_id);
        // A ban is before or after both, disk and memory.
        let writing = self.ca.nodes.writing.lock().await;
        let spent = self.ca.store.spend_token(&spend).await;
        let node = match spent.map_err(|e| JoinRefusal::Store(e.to_string()))? {
            Spent::Joined(node) => node,
            Spent::Banned => return Err(JoinRefusal::Banned(name.to_string())),
            Spent::Full => return Err(JoinRefusal::Busy),
            Spent::OtherNode => {
                let node = name.to_string();
                return Err(JoinRefusal::OtherNode { token, node });
            }
            Spent::Used(node) => return Err(JoinRefusal::UsedToken { token, node }),
            Spent::Unknown => return Err(JoinRefusal::UnknownToken(token)),
        };
        self.ca.joined(node.clone(), &token);
        drop(writing);
        self.credential(&node, "join:token").await
    }

    async fn let_back(&self, asked: &ReturnRequest) -> Result<NodeCredential, JoinRefusal> {
        let name = node_name(&asked.node)?;
        let point = point(&asked.spki)?;
        if asked.proof.len() > PROOF_LEN_MAX {
            return Err(JoinRefusal::Malformed("proof"));
        }
        self.check_challenge(&asked.node, &asked.spki, &asked.challenge)?;
        let unknown = || JoinRefusal::UnknownNode(name.to_string());
        let node = self.ca.nodes.find(&name).ok_or_else(unknown)?;
        if node.spki != asked.spki {
            return Err(unknown());
        }
        let context = return_context(&self.ca.config.trust_domain, asked);
        if !signed(&context, &asked.proof, point) {
            return Err(JoinRefusal::Proof);
        }
        if node.banned_s.is_some() {
            return Err(JoinRefusal::Banned(name.to_string()));
        }
        self.use_up(&asked.challenge)?;
        self.credential(&node, "join:key").await
    }

    async fn credential(&self, node: &NodeRow, how: &str) -> Result<NodeCredential, JoinRefusal> {
        let order = Order {
            spiffe_id: node.name.id(&self.ca.config.trust_domain),
            spki: node.spki.clone(),
            ttl: self.ca.config.svid_ttl,
            selectors: vec![how.to_owned()],
            node: Some(node.name.clone()),
        };
        let (press, leaf) = self
            .ca
            .fulfil(&order)
            .await
            .map_err(|e| JoinRefusal::NoCertificate(e.to_string()))?;
        let trust = self.ca.trust.borrow().clone();
        Ok(NodeCredential {
            chain: press.chain(&leaf).iter().map(|c| c.to_vec()).collect(),
            roots: trust.bundle.roots.iter().map(|r| r.to_vec()).collect(),
            roles: node.roles.iter().map(|r| r.as_str().to_owned()).collect(),
            return_secret: self.return_secret(node).await.to_vec(),
        })
    }

    async fn return_secret(&self, node: &NodeRow) -> [u8; 32] {
        let books = self.ca.books.lock().await;
        books.return_secret(node.name.as_str(), &node.spki)
    }

    fn tag(&self, node: &str, spki: &[u8], time: &[u8], chance: &[u8]) -> hmac::Tag {
        let context = framed(CHALLENGE_DOMAIN, &[node.as_bytes(), spki, time, chance]);
        hmac::sign(&self.key, &context)
    }

    /// Whether we gave this challenge to this node and key, lately.
    fn check_challenge(
        &self,
        node: &str,
        spki: &[u8],
        challenge: &[u8],
    ) -> Result<(), JoinRefusal> {
        let (time, rest) = challenge
            .split_first_chunk::<8>()
            .filter(|_| challenge.len() == CHALLENGE_LEN)
            .ok_or(JoinRefusal::Challenge)?;
        let (chance, tag) = rest.split_at_checked(16).ok_or(JoinRefusal::Challenge)?;
        let context = framed(CHALLENGE_DOMAIN, &[node.as_bytes(), spki, time, chance]);
        let age_s = self.ca.now_s() - i64::from_be_bytes(*time);
        let is_ours = hmac::verify(&self.key, &context, tag).is_ok();
        if is_ours && (0..=CHALLENGE_LIFE_S).contains(&age_s) {
            return Ok(());
        }
        Err(JoinRefusal::Challenge)
    }

    /// Remembers a challenge as used; only those with a valid signature get here.
    fn use_up(&self, challenge: &[u8]) -> Result<(), JoinRefusal> {
        let now_s = self.ca.now_s();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, at_s| now_s - *at_s <= 2 * CHALLENGE_LIFE_S);
        if used.len() >= USED_MAX {
            return Err(JoinRefusal::Busy);
        }
        match used.insert(challenge.to_vec(), now_s) {
            None => Ok(()),
            Some(_) => Err(JoinRefusal::Challenge),
        }
    }

    fn turn_away(&self, node: &str, source: Option<SocketAddr>, refusal: JoinRefusal) -> Status {
        status(&self.ca.turn_away(LISTENER, node, source, refusal))
    }
}

/// A refusal as gRPC says it.
pub(super) fn status(refusal: &JoinRefusal) -> Status {
    let code = match refusal {
        refusal if refusal.is_temporary() => Code::Unavailable,
        JoinRefusal::Malformed(_) => Code::InvalidArgument,
        JoinRefusal::Clock { .. } | JoinRefusal::Challenge => Code::FailedPrecondition,
        _ => Code::PermissionDenied,
    };
    Status::new(code, refusal.wire())
}

fn source<T>(request: &Request<T>) -> Option<SocketAddr> {
    request.extensions().get::<Source>().map(|s| s.0)
}

fn node_name(name: &str) -> Result<NodeName, JoinRefusal> {
    NodeName::parse(name).map_err(|_| JoinRefusal::Malformed("name of the node"))
}

fn point(spki: &[u8]) -> Result<&[u8], JoinRefusal> {
    let fits = spki.len() <= SPKI_LEN_MAX;
    fits.then(|| point_of(spki))
        .flatten()
        .ok_or(JoinRefusal::Malformed("public key"))
}

fn check_clock(node_us: i64, ours_us: i64) -> Result<(), JoinRefusal> {
    let apart = node_us.abs_diff(ours_us);
    if apart <= SKEW_MAX_S.unsigned_abs() * 1_000_000 {
        return Ok(());
    }
    let at = |us: i64| {
        let second = jiff::Timestamp::from_second(us / 1_000_000);
        second.map_or_else(|_| format!("{us} us"), |t| t.to_string())
    };
    Err(JoinRefusal::Clock {
        node: at(node_us),
        ours: at(ours_us),
    })
}

#[cfg(test)]
mod tests;
