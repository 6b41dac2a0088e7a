//! The endpoints of other services, as one worker reaches them.
//!
//! A cluster is derived from the catalogue and the endpoint table and thrown
//! away when either changes; the connections stay. An endpoint whose identity
//! is not one of the service's own is left out: who announced it was not
//! entitled to (attack T98).

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use palisade_mesh::{
    catalogue::{Catalogue, Service, ServiceId},
    clock::Clock,
    spiffe_id::SpiffeId,
    svid::Identity,
};
use rustc_hash::FxHashMap;

use super::h2::{Mutual, Pool, Security};
use crate::{config::Limits, connection::Revocation, endpoints::EndpointTable, policy::PolicySlot};

/// Endpoints compared for one request; of more, a window moves round.
const COMPARED_MAX: usize = 8;
/// How long an endpoint that could not be reached is tried last.
const COOL_DOWN: Duration = Duration::from_secs(1);

type Key = (SocketAddr, Box<[SpiffeId]>);

/// Every cluster of one worker.
pub(crate) struct Clusters {
    identity: Identity,
    clock: Clock,
    limits: Limits,
    policy: PolicySlot,
    basis: RefCell<Option<(Arc<Catalogue>, Arc<EndpointTable>)>>,
    clusters: RefCell<FxHashMap<ServiceId, Rc<Cluster>>>,
    members: RefCell<FxHashMap<Key, Rc<Member>>>,
}

/// The endpoints of one service.
pub(crate) struct Cluster {
    members: Vec<Rc<Member>>,
    next: Cell<usize>,
}

/// One endpoint.
pub(crate) struct Member {
    pub(crate) pool: Rc<Pool>,
    cool_until: Cell<Option<Instant>>,
}

impl Clusters {
    pub(crate) fn new(
        identity: Identity,
        clock: Clock,
        limits: Limits,
        policy: PolicySlot,
    ) -> Self {
        Self {
            identity,
            clock,
            limits,
            policy,
            basis: RefCell::new(None),
            clusters: RefCell::default(),
            members: RefCell::default(),
        }
    }

    /// The cluster of `service` under this catalogue and table.
    pub(crate) fn of(
        &self,
        service: &Service,
        catalogue: &Arc<Catalogue>,
        table: &Arc<EndpointTable>,
    ) -> Rc<Cluster> {
        self.follow(catalogue, table);
        if let Some(cluster) = self.clusters.borrow().get(&service.id) {
            return cluster.clone();
        }
        let cluster = Rc::new(Cluster {
            members: self.members_of(service, table),
            next: Cell::new(0),
        });
        self.clusters
            .borrow_mut()
            .insert(service.id.clone(), cluster.clone());
        cluster
    }

    /// Renews and closes connections; forgets endpoints that nobody uses.
    pub(crate) fn maintain(&self, now: Instant) {
        self.members.borrow_mut().retain(|_, member| {
            member.pool.maintain(now);
            Rc::strong_count(member) > 1 || !member.pool.is_forgotten(now)
        });
    }

    /// Closes connections to endpoints that are trusted no more, or barred; says
    /// why for each.
    pub(crate) fn revoke(&self) -> Vec<Revocation> {
        let members = self.members.borrow();
        members.values().flat_map(|m| m.pool.revoke()).collect()
    }

    fn follow(&self, catalogue: &Arc<Catalogue>, table: &Arc<EndpointTable>) {
        let mut basis = self.basis.borrow_mut();
        let same = basis
            .as_ref()
            .is_some_and(|(c, t)| Arc::ptr_eq(c, catalogue) && Arc::ptr_eq(t, table));
        if !same {
            *basis = Some((catalogue.clone(), table.clone()));
            self.clusters.borrow_mut().clear();
        }
    }

    fn members_of(&self, service: &Service, table: &EndpointTable) -> Vec<Rc<Member>> {
        let announced = table.of(&service.id).iter();
        let mut found: Vec<_> = announced
            .filter(|e| {
                let entitled = service.identities.contains(&e.identity);
                if !entitled {
                    tracing::warn!(service = %service.id, endpoint = %e.address, identity = %e.identity, "endpoint is not the service");
                }
                entitled
            })
            .map(|e| self.member(e.address, std::slice::from_ref(&e.identity)))
            .collect();
        for address in &service.endpoints {
            if !found.iter().any(|m| m.pool.address() == *address) {
                found.push(self.member(*address, &service.identities));
            }
        }
        found
    }

    fn member(&self, address: SocketAddr, ids: &[SpiffeId]) -> Rc<Member> {
        let key: Key = (address, ids.into());
        if let Some(member) = self.members.borrow().get(&key) {
            return member.clone();
        }
        let security = Security::Mutual(Mutual {
            identity: self.identity.clone(),
            ids: ids.into(),
            policy: self.policy.clone(),
        });
        let member = Rc::new(Member {
            pool: Pool::new(address, security, self.clock.clone(), &self.limits),
            cool_until: Cell::new(None),
        });
        self.members.borrow_mut().insert(key, member.clone());
        member
    }
}

impl Cluster {
    /// The least busy endpoint of the next few, other than `not`; one that just
    /// failed only when there is no other.
    pub(crate) fn choose(&self, now: Instant, not: Option<SocketAddr>) -> Option<Rc<Member>> {
        let count = self.members.len();
        let start = self.next.get();
        self.next.set(start.wrapping_add(1));
        (0..count.min(COMPARED_MAX))
            .filter_map(|i| self.members.get(start.wrapping_add(i) % count))
            .filter(|m| count == 1 || Some(m.pool.address()) != not)
            .min_by_key(|m| (m.is_cooling(now), m.pool.pending()))
            .cloned()
    }
}

impl Member {
    /// Notes that the endpoint could not be reached.
    pub(crate) fn failed(&self, now: Instant) {
        self.cool_until.set(Some(now + COOL_DOWN));
    }

    fn is_cooling(&self, now: Instant) -> bool {
        self.cool_until.get().is_some_and(|until| now < until)
    }
}
