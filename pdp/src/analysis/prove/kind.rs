//! Kinds of requests: a principal type, an action, a resource type. Each is a claim of its own
//! to the solver.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use cedar_policy::{EntityUid, RequestEnv};
use palisade_mesh::{canonical::Method, spiffe_id::SpiffeId};

use crate::{
    analysis::universe::{Ask, Universe},
    decide::{
        Snapshot,
        field::Form,
        world::{Ent, OPERATION, SERVICE, TRUST_DOMAIN, UNREGISTERED, WORKLOAD},
    },
};

/// One kind of request that the mesh makes.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    /// `Workload` or `Unregistered`.
    pub(crate) principal: String,
    pub(crate) action: EntityUid,
    /// `Operation` or `Service`.
    pub(crate) resource: String,
    pub(crate) form: Form,
    /// Whether the action is a method.
    pub(crate) method: bool,
    /// Callers that can make it, by position, each with his entity.
    pub(crate) callers: Vec<(usize, Ent)>,
    /// Their SPIFFE IDs, in the same order. Strangers whom the newer revision does not tell
    /// apart are one entity there, and may be several in the older one.
    pub(crate) ids: Vec<SpiffeId>,
    /// What is asked, by position, each with the resource that it is.
    pub(crate) asks: Vec<(usize, Ent)>,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = self.action.id().unescaped();
        write!(f, "{} {action} {}", self.principal, self.resource)
    }
}

/// Callers of one type, by position with their entities, and their SPIFFE IDs.
type Callers = (Vec<(usize, Ent)>, Vec<SpiffeId>);

impl Kind {
    /// Every kind of request that somebody can make under `head`.
    pub(crate) fn all(head: &Snapshot, universe: &Universe) -> Vec<Self> {
        let mut callers: BTreeMap<String, Callers> = BTreeMap::new();
        for (i, caller) in universe.callers.iter().enumerate() {
            if let Some(principal) = head.principal(&caller.id)
                && let Some(kind) = type_of(head, principal)
            {
                let (entities, ids) = callers.entry(kind).or_default();
                entities.push((i, principal));
                ids.push(caller.id.clone());
            }
        }
        let mut asks: BTreeMap<(EntityUid, String), Vec<(usize, Ent)>> = BTreeMap::new();
        for (i, ask) in universe.asks.iter().enumerate() {
            if let Some((action, resource)) = action_and_resource(head, ask)
                && let Some(action) = head.world().uid(action)
                && let Some(kind) = type_of(head, resource)
            {
                let key = (action.clone(), kind);
                asks.entry(key).or_default().push((i, resource));
            }
        }
        let mut kinds = Vec::new();
        for ((action, resource), asks) in &asks {
            let number = head.world().find(action);
            let Some(form) = number.and_then(|a| head.form(a)) else {
                continue;
            };
            for (principal, (callers, ids)) in &callers {
                kinds.push(Self {
                    principal: principal.clone(),
                    method: Method::parse(action.id().unescaped()).is_some(),
                    action: action.clone(),
                    resource: resource.clone(),
                    form,
                    callers: callers.clone(),
                    ids: ids.clone(),
                    asks: asks.clone(),
                });
            }
        }
        kinds
    }

    /// Whether callers are workloads that no service claims: what they are in follows from
    /// their SPIFFE IDs alone.
    pub(crate) fn of_strangers(&self) -> bool {
        self.principal == UNREGISTERED
    }

    /// As Cedar names it.
    pub(crate) fn env(&self) -> Option<RequestEnv> {
        let (principal, resource) = (self.principal.parse().ok()?, self.resource.parse().ok()?);
        Some(RequestEnv::new(principal, self.action.clone(), resource))
    }

    /// Everybody who can make such a request.
    pub(crate) fn principals(&self) -> BTreeSet<Ent> {
        self.callers
            .iter()
            .map(|(_, principal)| *principal)
            .collect()
    }

    /// Everything that such a request can be to.
    pub(crate) fn resources(&self) -> BTreeSet<Ent> {
        self.asks.iter().map(|(_, resource)| *resource).collect()
    }
}

/// Whether a stranger is this entity, or in it.
pub(crate) fn is_stranger_in(id: &SpiffeId, uid: &EntityUid) -> bool {
    let name = uid.id().unescaped();
    match uid.type_name().to_string().as_str() {
        TRUST_DOMAIN => id.trust_domain() == name,
        UNREGISTERED => id.as_str() == name,
        _ => false,
    }
}

fn action_and_resource(head: &Snapshot, ask: &Ask) -> Option<(Ent, Ent)> {
    ask.resolve(head)?.entities(head)
}

fn type_of(head: &Snapshot, entity: Ent) -> Option<String> {
    let kind = head.world().uid(entity)?.type_name().to_string();
    let spoken = matches!(kind.as_str(), OPERATION | SERVICE | UNREGISTERED | WORKLOAD);
    spoken.then_some(kind)
}
