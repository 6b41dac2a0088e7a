//! Nodes: who joined, who may, and where the parts of the mesh are.
//!
//! What readers see is one immutable roster in memory, swapped whole; the database is
//! written first.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::{Stream, StreamExt};
use palisade_mesh::{
    diagnostic::Diagnostic,
    wire::record::{Admin, AuthnFailure, record::Body},
};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{Ca, CaError, Place, excerpt};
use crate::{
    budget::{Budget, with_suppressed},
    join::{NodeName, NodeRole, refusal::JoinRefusal, sha256, token::JoinToken},
    random,
    store::nodes::{NodeRow, TokenRow},
    trust::{DIRECTORY_MAX, DirectoryEntry},
};

/// Longest life of a join token.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(600);
/// Shortest life of a join token: long enough to carry it to a host.
pub const TOKEN_TTL_MIN: Duration = Duration::from_secs(10);
/// Refusals that are remembered for people.
const REFUSED_KEPT: usize = 64;

/// What the authority knows about its nodes.
pub(crate) struct Nodes {
    pub(super) roster: watch::Sender<Arc<Roster>>,
    connected: Mutex<HashMap<NodeName, usize>>,
    refused: Mutex<VecDeque<RefusedHost>>,
    budget: Budget,
    /// Where other hosts reach this one.
    pub(super) reachable: OnceLock<IpAddr>,
    /// Serializes writers: database, then memory.
    pub(super) writing: tokio::sync::Mutex<()>,
}

/// Nodes and directory at one moment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Roster {
    pub(crate) nodes: BTreeMap<NodeName, NodeRow>,
    pub(crate) directory: Vec<DirectoryEntry>,
}

/// A host that was turned away.
#[derive(Debug, Clone)]
pub struct RefusedHost {
    /// When, microseconds since the Unix epoch.
    pub at_us: i64,
    /// Code of the refusal.
    pub code: u16,
    /// Who and why, in words.
    pub text: String,
}

/// What a new join token is for.
#[derive(Debug, Clone)]
pub struct TokenOrder {
    /// Which node may use it.
    pub node: NodeName,
    /// What the node may run.
    pub roles: Vec<NodeRole>,
    /// How long it can be used.
    pub ttl: Duration,
    /// `IP:PORT` of the authority, as the node will reach it.
    pub address: String,
}

/// A token that was not spent yet, without its secret.
#[derive(Debug, Clone)]
pub struct WaitingToken {
    /// Its public name.
    pub id: String,
    /// Which node may use it.
    pub node: NodeName,
    /// What the node may run.
    pub roles: Vec<NodeRole>,
    /// When it was made, seconds since the Unix epoch.
    pub created_s: i64,
    /// When it ends, seconds since the Unix epoch.
    pub expires_s: i64,
}

/// A host that joined.
#[derive(Debug, Clone)]
pub struct JoinedNode {
    /// Its name.
    pub name: NodeName,
    /// What it may run.
    pub roles: Vec<NodeRole>,
    /// When it joined, seconds since the Unix epoch.
    pub joined_s: i64,
    /// Whether its agent follows the authority now.
    pub connected: bool,
    /// Since when it is banned, seconds since the Unix epoch, and why.
    pub banned: Option<(i64, String)>,
}

impl Nodes {
    pub(super) async fn load(store: &crate::store::Store) -> Result<Self, CaError> {
        let nodes = store.nodes().await?;
        let roster = Roster {
            nodes: nodes.into_iter().map(|n| (n.name.clone(), n)).collect(),
            directory: store.directory().await?,
        };
        Ok(Self {
            roster: watch::Sender::new(Arc::new(roster)),
            connected: Mutex::default(),
            refused: Mutex::default(),
            budget: Budget::default(),
            reachable: OnceLock::new(),
            writing: tokio::sync::Mutex::default(),
        })
    }

    pub(super) fn find(&self, name: &NodeName) -> Option<NodeRow> {
        self.roster.borrow().nodes.get(name).cloned()
    }

    /// Whether the authority itself is reached by loopback.
    pub(super) fn on_one_host(&self) -> bool {
        self.reachable.get().is_some_and(IpAddr::is_loopback)
    }

    pub(super) fn directory(&self) -> Vec<DirectoryEntry> {
        self.roster.borrow().directory.clone()
    }

    /// Counts a node that follows; it is counted until the value is dropped.
    pub(super) fn follow(self: &Arc<Self>, name: &NodeName) -> Following {
        *self.connected().entry(name.clone()).or_default() += 1;
        Following {
            nodes: self.clone(),
            name: name.clone(),
        }
    }

    /// Takes over a change that is on disk.
    pub(super) fn change(&self, change: impl FnOnce(&mut Roster)) {
        self.roster.send_if_modified(|roster| {
            let mut next = (**roster).clone();
            change(&mut next);
            let news = next != **roster;
            if news {
                *roster = Arc::new(next);
            }
            news
        });
    }

    fn connected(&self) -> MutexGuard<'_, HashMap<NodeName, usize>> {
        self.connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, VecDeque<RefusedHost>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node whose agent follows.
pub(super) struct Following {
    nodes: Arc<Nodes>,
    name: NodeName,
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut connected = self.nodes.connected();
        if let Some(count) = connected.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                connected.remove(&self.name);
            }
        }
    }
}

impl Ca {
    /// Makes a join token. Only its digest is kept; what is returned is all there is
    /// of the secret.
    ///
    /// # Errors
    /// `PLS4104` for a life that is too long or too short, `PLS4106` for a banned
    /// node, `PLS4119` when too many tokens wait or the database fails.
    pub async fn create_token(&self, order: &TokenOrder) -> Result<JoinToken, Diagnostic> {
        if order.ttl > TOKEN_TTL_MAX || order.ttl < TOKEN_TTL_MIN {
            return Err(Diagnostic::error(
                4104,
                format!("a join token cannot live for {} s", order.ttl.as_secs()),
            )
            .cause("who finds one may become the node")
            .help("10s to 10m: --ttl 10m"));
        }
        if self
            .nodes
            .find(&order.node)
            .is_some_and(|n| n.banned_s.is_some())
        {
            return Err(JoinRefusal::Banned(order.node.to_string())
                .diagnostic()
                .help("give the host another name, if it may come back"));
        }
        let secret = Zeroizing::new(random::bytes::<32>());
        let id = URL_SAFE_NO_PAD
            .encode(random::bytes::<9>())
            .replace(['-', '_'], "0");
        let now_s = self.now_s();
        let row = TokenRow {
            id: id.clone(),
            secret_hash: sha256(secret.as_slice()),
            node: order.node.clone(),
            roles: order.roles.clone(),
            created_s: now_s,
            expires_s: now_s.saturating_add_unsigned(order.ttl.as_secs()),
        };
        let kept = self.store.add_token(&row).await;
        if !kept.map_err(|e| CaError::from(e).diagnostic())? {
            return Err(JoinRefusal::Busy
                .diagnostic()
                .help("revoke join tokens that nobody needs: palisade join token list"));
        }
        let words: Vec<&str> = order.roles.iter().map(|r| r.as_str()).collect();
        self.note_join(
            "token_created",
            &id,
            &format!("for node {}: {}", order.node, words.join(", ")),
        );
        let trust = self.trust.borrow().clone();
        Ok(JoinToken {
            id,
            address: order.address.clone(),
            trust_domain: self.config.trust_domain.clone(),
            roots: trust.bundle.roots.iter().map(|r| sha256(r)).collect(),
            node: order.node.clone(),
            secret,
        })
    }

    /// Tokens that can still be spent.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn tokens(&self) -> Result<Vec<WaitingToken>, CaError> {
        let rows = self.store.tokens(self.now_s()).await?;
        let waiting = rows.into_iter().map(|t| WaitingToken {
            id: t.id,
            node: t.node,
            roles: t.roles,
            created_s: t.created_s,
            expires_s: t.expires_s,
        });
        Ok(waiting.collect())
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// `PLS4107` when there is none of that id.
    pub async fn revoke_token(&self, id: &str) -> Result<(), Diagnostic> {
        let gone = self.store.revoke_token(id).await;
        if !gone.map_err(|e| CaError::from(e).diagnostic())? {
            return Err(
                Diagnostic::error(4107, format!("no join token `{}` waits", excerpt(id)))
                    .cause("it was used, has expired, or was never made")
                    .help("palisade join token list"),
            );
        }
        self.note_join("token_revoked", id, "");
        Ok(())
    }

    /// Every node that ever joined.
    pub fn nodes(&self) -> Vec<JoinedNode> {
        let roster = self.nodes.roster.borrow().clone();
        let connected = self.nodes.connected();
        let of_row = |n: &NodeRow| JoinedNode {
            name: n.name.clone(),
            roles: n.roles.clone(),
            joined_s: n.joined_s,
            connected: connected.contains_key(&n.name),
            banned: n.banned_s.map(|s| (s, n.ban_reason.clone())),
        };
        roster.nodes.values().map(of_row).collect()
    }

    /// Bans a node: it gets no certificate any more, its stream ends, and it comes
    /// back by no door.
    ///
    /// # Errors
    /// `PLS4107` when there is none of that name.
    pub async fn ban_node(&self, name: &NodeName, reason: &str) -> Result<(), Diagnostic> {
        let _writing = self.nodes.writing.lock().await;
        let now_s = self.now_s();
        let banned = self.store.ban_node(name, now_s, reason).await;
        if !banned.map_err(|e| CaError::from(e).diagnostic())? {
            return Err(
                Diagnostic::error(4107, format!("no node `{name}` has joined"))
                    .help("palisade join node list"),
            );
        }
        self.nodes.change(|roster| {
            if let Some(node) = roster.nodes.get_mut(name) {
                node.banned_s.get_or_insert(now_s);
                node.ban_reason = reason.to_owned();
            }
            roster.directory.retain(|e| e.node != name.as_str());
        });
        // No rotation waits for who may take no new root any more.
        self.acks
            .forget(name.id(&self.config.trust_domain).as_str());
        self.note_join("node_banned", name.as_str(), reason);
        Ok(())
    }

    /// Hosts that were turned away lately, the last one last.
    pub fn refused_hosts(&self) -> Vec<RefusedHost> {
        self.nodes.refused().iter().cloned().collect()
    }

    /// Where the parts of the mesh are, now and with every change, as a process on the
    /// authority's own host sees it.
    pub fn directory(&self) -> Vec<DirectoryEntry> {
        seen_from("", &self.nodes.directory(), self.nodes.on_one_host())
    }

    /// Says where other hosts reach this one; the first word counts.
    pub fn reachable_at(&self, ip: IpAddr) {
        let _ = self.nodes.reachable.set(ip);
    }

    /// The directory with every change, the present one first.
    pub fn directories(&self) -> impl Stream<Item = Vec<DirectoryEntry>> + Send + use<> {
        self.states(Place::Local)
            .map(|state| state.map_or_else(|_| Vec::new(), |s| s.directory))
    }

    /// Takes over where a part on the authority's own host is. `reachable` stands for
    /// an unspecified address; without it, what [`Ca::reachable_at`] said.
    ///
    /// # Errors
    /// When it is no address that others can reach, or it cannot be kept.
    pub async fn announce_local(
        &self,
        role: NodeRole,
        address: SocketAddr,
        reachable: Option<IpAddr>,
    ) -> Result<(), JoinRefusal> {
        let reachable = reachable.or_else(|| self.nodes.reachable.get().copied());
        self.announce("", role, address, reachable).await
    }

    pub(super) async fn announce(
        &self,
        node: &str,
        role: NodeRole,
        mut address: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<(), JoinRefusal> {
        if address.ip().is_unspecified() {
            address.set_ip(source.ok_or(JoinRefusal::Malformed("unspecified address"))?);
        }
        if !role.is_part() || address.port() == 0 || address.ip().is_multicast() {
            return Err(JoinRefusal::Malformed("not an address of a part"));
        }
        let entry = DirectoryEntry {
            role,
            address,
            node: node.to_owned(),
        };
        let _writing = self.nodes.writing.lock().await;
        let known = self.nodes.directory();
        if known.contains(&entry) {
            return Ok(());
        }
        let replaces = |e: &DirectoryEntry| e.role == role && e.node == node;
        if known.len() >= DIRECTORY_MAX && !known.iter().any(replaces) {
            return Err(JoinRefusal::Busy);
        }
        self.store
            .put_directory(&entry)
            .await
            .map_err(|e| JoinRefusal::Store(e.to_string()))?;
        tracing::info!(role = role.as_str(), %address, node, "part of the mesh announced");
        self.note_join(
            "announced",
            role.as_str(),
            &format!("{address} by `{node}`"),
        );
        self.nodes.change(|roster| {
            roster.directory.retain(|e| !replaces(e));
            // The newest first: it is where others look first.
            roster.directory.insert(0, entry);
        });
        Ok(())
    }

    /// Takes over a node that has spent its token.
    pub(super) fn joined(&self, node: NodeRow, token: &str) {
        self.note_join(
            "node_joined",
            node.name.as_str(),
            &format!("with token {token}"),
        );
        self.nodes.change(|roster| {
            roster.nodes.insert(node.name.clone(), node);
        });
    }

    /// Records a host that is turned away, and keeps it for people.
    pub(super) fn turn_away(
        &self,
        listener: &str,
        who: &str,
        source: Option<SocketAddr>,
        refusal: JoinRefusal,
    ) -> JoinRefusal {
        let now_us = self.clock.now_us();
        let who = excerpt(who);
        tracing::warn!(node = who, source = ?source, error = %refusal, "host turned away");
        let mut refused = self.nodes.refused();
        if refused.len() >= REFUSED_KEPT {
            refused.pop_front();
        }
        refused.push_back(RefusedHost {
            at_us: now_us,
            code: refusal.code(),
            text: format!("`{who}`: {refusal}"),
        });
        drop(refused);
        if let Some(suppressed) = self.nodes.budget.spend(now_us) {
            let failure = AuthnFailure {
                reason: refusal.reason().into(),
                claimed_id: who,
                source_ip: source.map(|s| s.ip().to_string()).unwrap_or_default(),
                source_port: source.map_or(0, |s| s.port().into()),
                listener: listener.into(),
                detail: with_suppressed(refusal.wire(), suppressed),
                ..AuthnFailure::default()
            };
            if let Err(error) = self.recorder.note(Body::AuthnFailure(failure)) {
                tracing::error!(%error, "refused host left no record");
            }
        }
        refusal
    }

    fn note_join(&self, verb: &str, object: &str, detail: &str) {
        let admin = Admin {
            actor: self.config.trust_domain.role("ca").to_string(),
            verb: verb.into(),
            object: object.into(),
            detail: detail.into(),
        };
        if let Err(error) = self.recorder.note(Body::Admin(admin)) {
            tracing::error!(%error, verb, "change of the nodes left no record");
        }
    }
}

/// What of a directory is of use on `node`: a loopback address is only on its own,
/// unless all nodes are on one host.
pub(super) fn seen_from(
    node: &str,
    directory: &[DirectoryEntry],
    on_one_host: bool,
) -> Vec<DirectoryEntry> {
    let reaches =
        |e: &&DirectoryEntry| on_one_host || e.node == node || !e.address.ip().is_loopback();
    let mut seen: Vec<_> = directory.iter().filter(reaches).cloned().collect();
    // What is on the same host is nearest.
    seen.sort_by_key(|e| e.node != node);
    seen
}
