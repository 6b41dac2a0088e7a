//! The authority over the network, for the agents of joined nodes.
//!
//! A node is its SVID, `spiffe://TD/palisade/agent/NAME`. It gets certificates for what
//! is registered for it and for the roles it was given, and its own renewed. Every
//! call asks the gate first, and then whether the node is banned: that ends what is
//! open, too.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use palisade_mesh::{
    link::{Gate, Link, LinkAction},
    svid::Peer,
    wire::{
        ca::{
            Acknowledged, Acknowledgement, AnnounceRequest, AnnounceResponse, IssueRequest,
            IssueResponse, TrustState, WatchRequest,
            authority_server::{Authority, AuthorityServer},
        },
        kill::{
            self, SignedKillList,
            kill_server::{Kill, KillServer},
        },
        record::{Credential, record::Body},
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::{Request, Response, Status};

use super::{
    Ca, enrolment, excerpt,
    service::{MESSAGE_LEN_MAX, code_of},
    states::{Place, admitted},
};
use crate::{
    issue::{Desk, Order, PROOF_LEN_MAX, Refusal, SPKI_LEN_MAX},
    join::{NodeName, NodeRole, refusal::JoinRefusal},
    registration::SELECTORS_MAX,
    renewal::NAP_MAX,
    request::{point_of, proven},
    selector::Selector,
    store::nodes::NodeRow,
};

/// What records and refusals call this door.
const LISTENER: &str = "authority";
/// States that wait for a slow node; the newest follows when it has taken one.
const QUEUE_LEN: usize = 1;
/// How long a node may refuse to take a state.
const SLOW_MAX: Duration = Duration::from_secs(60);

/// Who is at the other end, and where; whoever accepts the connection says so.
#[derive(Debug, Clone)]
pub struct Caller {
    /// As the handshake proved it.
    pub peer: Peer,
    /// Its address.
    pub source: SocketAddr,
}

/// Answers joined nodes.
pub struct NetworkAuthority {
    ca: Arc<Ca>,
    gate: Arc<dyn Gate>,
}

pub(super) fn server(ca: Arc<Ca>, gate: Arc<dyn Gate>) -> AuthorityServer<NetworkAuthority> {
    AuthorityServer::new(NetworkAuthority { ca, gate }).max_decoding_message_size(MESSAGE_LEN_MAX)
}

/// Passes the kill list on to joined nodes.
pub struct NetworkKill(NetworkAuthority);

pub(super) fn kill_server(ca: Arc<Ca>, gate: Arc<dyn Gate>) -> KillServer<NetworkKill> {
    KillServer::new(NetworkKill(NetworkAuthority { ca, gate }))
        .max_decoding_message_size(MESSAGE_LEN_MAX)
}

#[tonic::async_trait]
impl Kill for NetworkKill {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<SignedKillList, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<kill::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (node, caller) = self.0.admit(&request, LinkAction::Watch, None)?;
        let (ca, closing) = (Arc::downgrade(&self.0.ca), self.0.ca.closing.clone());
        // Every list is a chance to see whether the node may hear another.
        let lists = WatchStream::new(self.0.ca.kill_list())
            .take_while(move |_| {
                let may = ca.upgrade().is_some_and(|ca| {
                    admitted(&ca.nodes.roster.borrow(), &node.name).is_ok()
                        && ca.now_s() < caller.peer.not_after_s
                });
                std::future::ready(may)
            })
            .filter_map(async |list| list.map(|list| Ok((*list).clone())))
            .take_until(closing.cancelled_owned());
        Ok(Response::new(Box::pin(lists)))
    }
}

/// The service without tonic around it.
#[cfg(test)]
pub(super) fn tests_authority(ca: Arc<Ca>, gate: Arc<dyn Gate>) -> NetworkAuthority {
    NetworkAuthority { ca, gate }
}

type States = Pin<Box<dyn Stream<Item = Result<TrustState, Status>> + Send>>;

#[tonic::async_trait]
impl Authority for NetworkAuthority {
    type WatchStream = States;

    async fn issue(
        &self,
        request: Request<IssueRequest>,
    ) -> Result<Response<IssueResponse>, Status> {
        let (node, _) = self.admit(&request, LinkAction::Issue, None)?;
        let asked = request.get_ref();
        match self.ca.issue_on(&node, asked).await {
            Ok(response) => Ok(Response::new(response)),
            Err(refusal) => Err(Status::new(code_of(&refusal), refusal.to_string())),
        }
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (node, caller) = self.admit(&request, LinkAction::Watch, None)?;
        let shown = &request.get_ref().role_selectors;
        let shown = Some(shown).filter(|s| s.len() <= SELECTORS_MAX);
        let shown = shown.and_then(|s| s.iter().map(|s| Selector::parse(s).ok()).collect());
        let shown: Vec<Selector> =
            shown.ok_or_else(|| Status::invalid_argument("role_selectors cannot be read"))?;
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        tokio::spawn(follow(self.ca.clone(), node.name, shown, caller, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn announce(
        &self,
        request: Request<AnnounceRequest>,
    ) -> Result<Response<AnnounceResponse>, Status> {
        let asked = request.get_ref();
        let (node, caller) = self.admit(&request, LinkAction::Announce, Some(&asked.role))?;
        let refuse = |refusal| {
            let refusal =
                self.ca
                    .turn_away(LISTENER, node.name.as_str(), Some(caller.source), refusal);
            enrolment::status(&refusal)
        };
        let role: Option<NodeRole> = asked.role.parse().ok();
        let Some(role) = role.filter(|r| node.roles.contains(r)) else {
            return Err(refuse(JoinRefusal::Role {
                node: node.name.to_string(),
                role: excerpt(&asked.role),
            }));
        };
        let address = asked.address.parse();
        let address = address.map_err(|_| refuse(JoinRefusal::Malformed("address")))?;
        let source = caller.source.ip();
        let name = node.name.as_str();
        let announced = self.ca.announce(name, role, address, Some(source)).await;
        announced.map_err(refuse)?;
        Ok(Response::new(AnnounceResponse {}))
    }

    /// A node speaks for itself: whatever name it gives, it is taken under its own.
    async fn acknowledge(
        &self,
        request: Request<Acknowledgement>,
    ) -> Result<Response<Acknowledged>, Status> {
        let (node, _) = self.admit(&request, LinkAction::Watch, None)?;
        let mut word = request.into_inner();
        word.agent = node.name.id(&self.ca.config.trust_domain).to_string();
        let taken = self.ca.acknowledge(word);
        taken.map_err(|e| Status::resource_exhausted(e.to_string()))?;
        Ok(Response::new(Acknowledged {}))
    }
}

impl NetworkAuthority {
    /// The node behind a call, if it may make it.
    fn admit<T>(
        &self,
        request: &Request<T>,
        action: LinkAction,
        role: Option<&str>,
    ) -> Result<(NodeRow, Caller), Status> {
        let caller = request
            .extensions()
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| Status::unauthenticated("connection has no SPIFFE identity"))?;
        let id = &caller.peer.id;
        let name = NodeName::of_id(id, &self.ca.config.trust_domain);
        let roster = self.ca.nodes.roster.borrow().clone();
        let row = name.as_ref().and_then(|name| roster.nodes.get(name));
        let roles: Vec<&str> = row
            .map(|n| n.roles.iter().map(|r| r.as_str()).collect())
            .unwrap_or_default();
        let link = Link {
            roles: &roles,
            role,
            ..Link::new(id, action)
        };
        self.gate
            .ask(&link)
            .map_err(|refused| Status::permission_denied(refused.to_string()))?;
        if caller.peer.not_after_s <= self.ca.now_s() {
            return Err(Status::unauthenticated("the peer's certificate has ended"));
        }
        let unknown = || JoinRefusal::UnknownNode(excerpt(id.as_str()));
        let refuse = |refusal| {
            let source = Some(caller.source);
            let refusal = self.ca.turn_away(LISTENER, id.as_str(), source, refusal);
            enrolment::status(&refusal)
        };
        let name = name.ok_or_else(|| refuse(unknown()))?;
        let node = admitted(&roster, &name).map_err(refuse)?;
        Ok((node.clone(), caller))
    }
}

/// Tells a node every state until it goes, is banned, or its certificate ends.
async fn follow(
    ca: Arc<Ca>,
    name: NodeName,
    shown: Vec<Selector>,
    caller: Caller,
    sender: mpsc::Sender<Result<TrustState, Status>>,
) {
    let _following = ca.nodes.follow(&name);
    let mut states = Box::pin(ca.states(Place::Node(name.clone(), shown)));
    let clock = ca.clock.clone();
    let closing = ca.closing.clone();
    let turned = Arc::downgrade(&ca);
    drop(ca);
    loop {
        let next = tokio::select! {
            next = states.next() => next,
            () = sender.closed() => return,
            () = closing.cancelled() => return,
            () = tokio::time::sleep(NAP_MAX) => {
                // Wall clocks jump, so the end is looked for and not waited for.
                if clock.now_us() / 1_000_000 < caller.peer.not_after_s {
                    continue;
                }
                Some(Err(JoinRefusal::NoCertificate("the peer's has ended".into())))
            }
        };
        let message = match next {
            None => return,
            Some(Ok(state)) => Ok((&state).into()),
            Some(Err(refusal)) => {
                if let Some(ca) = turned.upgrade().filter(|_| !refusal.is_temporary()) {
                    ca.turn_away(
                        LISTENER,
                        name.as_str(),
                        Some(caller.source),
                        refusal.clone(),
                    );
                }
                Err(enrolment::status(&refusal))
            }
        };
        let last = message.is_err();
        let sent = tokio::time::timeout(SLOW_MAX, sender.send(message)).await;
        if last || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

impl Ca {
    /// Issues for a joined node: what is registered there, the roles it was given, and
    /// its own SVID for the key it joined with.
    pub(crate) async fn issue_on(
        &self,
        node: &NodeRow,
        request: &IssueRequest,
    ) -> Result<IssueResponse, Refusal> {
        let order = match self.order_on(node, request) {
            Ok(order) => order,
            Err(refusal) => return Err(self.refused_on(node, request, refusal)),
        };
        match self.fulfil(&order).await {
            Ok((press, leaf)) => Ok(IssueResponse {
                chain: press.chain(&leaf).iter().map(|c| c.to_vec()).collect(),
                not_after_s: leaf.not_after_s,
            }),
            Err(refusal) => Err(self.refused_on(node, request, refusal)),
        }
    }

    fn order_on(&self, node: &NodeRow, request: &IssueRequest) -> Result<Order, Refusal> {
        let domain = &self.config.trust_domain;
        let role = node
            .roles
            .iter()
            .find(|r| r.is_part() && domain.role(r.as_str()).as_str() == request.spiffe_id);
        let own = node.name.id(domain);
        let is_own = own.as_str() == request.spiffe_id;
        if !is_own && role.is_none() {
            let keys = self.authority_keys.load();
            let trust = self.trust.borrow().clone();
            let runs_proxies = node.roles.contains(&NodeRole::Proxy);
            let desk = Desk {
                trust_domain: domain,
                registrations: &trust.registrations,
                authority_keys: keys.as_ref().ok_or(Refusal::NoAuthority)?,
                serves: &|r| runs_proxies && r.is_on(node.name.as_str()),
            };
            let node = Some(node.name.clone());
            return desk.check(request).map(|order| Order { node, ..order });
        }
        if request.spki.len() > SPKI_LEN_MAX
            || request.proof.len() > PROOF_LEN_MAX
            || request.selectors.len() > SELECTORS_MAX
        {
            return Err(Refusal::TooLarge);
        }
        for selector in &request.selectors {
            Selector::parse(selector)?;
        }
        let point = point_of(&request.spki).ok_or(Refusal::KeyType)?;
        if !proven(domain, request, point) {
            return Err(Refusal::Proof);
        }
        // Another key would be another host under this node's name.
        if is_own && request.spki != node.spki {
            return Err(Refusal::KeyBound);
        }
        let spiffe_id = match role {
            Some(role) => domain.role(role.as_str()),
            None => own,
        };
        let order = Order {
            spiffe_id,
            spki: request.spki.clone(),
            ttl: self.config.svid_ttl,
            selectors: request.selectors.clone(),
            node: Some(node.name.clone()),
        };
        let keys = self.authority_keys.load();
        if keys
            .as_ref()
            .is_some_and(|k| k.contains(&order.key_digest()))
        {
            return Err(Refusal::AuthorityKey);
        }
        Ok(order)
    }

    fn refused_on(&self, node: &NodeRow, request: &IssueRequest, refusal: Refusal) -> Refusal {
        tracing::warn!(
            node = %node.name,
            reason = refusal.reason(),
            error = %refusal,
            src.id = excerpt(&request.spiffe_id),
            "issuance refused"
        );
        let record = Credential {
            verb: "refused".into(),
            spiffe_id: excerpt(&request.spiffe_id),
            detail: format!("{}: {refusal}", refusal.reason()),
            node: node.name.to_string(),
            ..Credential::default()
        };
        if let Err(error) = self.recorder.note(Body::Credential(record)) {
            tracing::error!(%error, "refused issuance left no record");
        }
        refusal
    }
}
