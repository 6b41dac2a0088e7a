//! The entities of a snapshot as small numbers, with everything above each.
//!
//! Scope tests then compare integers. A principal that no service claims is not
//! in the entity store. A policy can tell such strangers apart by their trust
//! domain, and one of them from the others only by its name in a policy or an
//! entity; so all strangers of a trust domain that are not named share one stand-in, and
//! nobody can fill the caches with identities.

use std::collections::BTreeSet;

use cedar_policy::{Entities, EntityId, EntityTypeName, EntityUid};
use palisade_mesh::{catalogue::Catalogue, spiffe_id::SpiffeId};
use rustc_hash::{FxHashMap, FxHashSet};
use smol_str::SmolStr;

use super::core::{EntitiesFault, Extra, Named, Store, referred};

/// An entity of the snapshot.
pub(crate) type Ent = u32;
/// A principal, an action and a resource.
pub(crate) type Triple = (Ent, Ent, Ent);
/// An entity type of the snapshot.
pub(crate) type Kind = u32;

pub(crate) const OPERATION: &str = "Operation";
pub(crate) const SERVICE: &str = "Service";
pub(crate) const TRUST_DOMAIN: &str = "TrustDomain";
pub(crate) const UNREGISTERED: &str = "Unregistered";
pub(crate) const WORKLOAD: &str = "Workload";
const ACTION: &str = "Action";

/// The entities of a snapshot.
#[derive(Debug)]
pub(crate) struct World {
    entities: Vec<Known>,
    by_uid: FxHashMap<EntityUid, Ent>,
    kinds: FxHashMap<EntityTypeName, Kind>,
    /// By type and id, for what requests name.
    requested: [FxHashMap<SmolStr, Ent>; 4],
    strangers: Strangers,
}

#[derive(Debug)]
struct Known {
    uid: EntityUid,
    named: Named,
    kind: Kind,
    /// Itself and all its ancestors, sorted.
    above: Box<[Ent]>,
    stored: bool,
}

#[derive(Debug, Default)]
struct Strangers {
    /// By SPIFFE ID: those that some text of the revision names.
    named: FxHashMap<SmolStr, Ent>,
    /// By trust domain: all others of a trust domain that is known or named.
    of_domain: FxHashMap<SmolStr, Ent>,
    /// All others.
    rest: Option<Ent>,
}

/// Which lookup table an entity type has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Requested {
    Action,
    Operation,
    Service,
    Workload,
}

impl World {
    /// Numbers the entities of the store, those that they refer to, and those that
    /// policies name (`named`).
    pub(crate) fn new(
        entities: &Entities,
        named: &BTreeSet<EntityUid>,
        catalogue: &Catalogue,
    ) -> Result<(Self, Store), EntitiesFault> {
        let mut world = Self {
            entities: Vec::new(),
            by_uid: FxHashMap::default(),
            kinds: FxHashMap::default(),
            requested: Default::default(),
            strangers: Strangers::default(),
        };
        for entity in entities.iter() {
            world.number(&entity.uid(), true);
        }
        for uid in referred(entities).iter().chain(named) {
            world.number(uid, false);
        }
        for entity in entities.iter() {
            let uid = entity.uid();
            let above = entities.ancestors(&uid).into_iter().flatten().cloned();
            world.raise(&uid, above.collect());
        }
        let extras = world.meet_strangers(catalogue);
        world.list_requested();
        let store = Store::new(entities, &extras)?;
        Ok((world, store))
    }

    /// The number of `uid`, if anything of this snapshot names it.
    pub(crate) fn find(&self, uid: &EntityUid) -> Option<Ent> {
        self.by_uid.get(uid).copied()
    }

    /// The number of an entity type, if any entity has it.
    pub(crate) fn kind_of_type(&self, name: &EntityTypeName) -> Option<Kind> {
        self.kinds.get(name).copied()
    }

    /// The stored entity that a request names.
    pub(crate) fn requested(&self, table: Requested, id: &str) -> Option<Ent> {
        self.requested.get(table as usize)?.get(id).copied()
    }

    /// The stand-in for a workload that no service claims.
    pub(crate) fn stranger(&self, id: &SpiffeId) -> Option<Ent> {
        let strangers = &self.strangers;
        strangers
            .named
            .get(id.as_str())
            .or_else(|| strangers.of_domain.get(id.trust_domain()))
            .copied()
            .or(strangers.rest)
    }

    /// Every stored workload, with its SPIFFE ID.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = (&SmolStr, Ent)> {
        let table = self.requested.get(Requested::Workload as usize);
        table
            .into_iter()
            .flatten()
            .map(|(id, entity)| (id, *entity))
    }

    /// The stand-ins for strangers that nothing names: of each trust domain, and of all
    /// that nothing names either.
    pub(crate) fn strangers(&self) -> impl Iterator<Item = (Option<&SmolStr>, Ent)> {
        let domains = self.strangers.of_domain.iter();
        let domains = domains.map(|(domain, entity)| (Some(domain), *entity));
        domains.chain(self.strangers.rest.map(|entity| (None, entity)))
    }

    /// The SPIFFE IDs of the strangers that some text of the revision names.
    pub(crate) fn named_strangers(&self) -> impl Iterator<Item = &str> {
        self.strangers.named.keys().map(SmolStr::as_str)
    }

    /// The trust domains that some text of the revision names, and its own.
    #[cfg(feature = "analysis")]
    pub(crate) fn domains(&self) -> impl Iterator<Item = &str> {
        self.strangers.of_domain.keys().map(SmolStr::as_str)
    }

    /// Whether membership in `uid` is known: it is in the store, or follows from
    /// the name of its members alone.
    pub(crate) fn has_members(&self, uid: &EntityUid) -> bool {
        let kind = uid.type_name().to_string();
        matches!(kind.as_str(), TRUST_DOMAIN | UNREGISTERED)
            || self
                .find(uid)
                .and_then(|e| self.known(e))
                .is_some_and(|k| k.stored)
    }

    /// The entity's name.
    pub(crate) fn uid(&self, entity: Ent) -> Option<&EntityUid> {
        self.known(entity).map(|k| &k.uid)
    }

    /// The entity as requests want it.
    pub(crate) fn named(&self, entity: Ent) -> Option<&Named> {
        self.known(entity).map(|k| &k.named)
    }

    /// The entity's type.
    pub(crate) fn kind(&self, entity: Ent) -> Option<Kind> {
        self.known(entity).map(|k| k.kind)
    }

    /// The entity and all its ancestors, sorted.
    pub(crate) fn above(&self, entity: Ent) -> &[Ent] {
        self.known(entity).map_or(&[], |k| &k.above)
    }

    fn known(&self, entity: Ent) -> Option<&Known> {
        self.entities.get(usize::try_from(entity).ok()?)
    }

    fn number(&mut self, uid: &EntityUid, stored: bool) -> Ent {
        if let Some(entity) = self.by_uid.get(uid) {
            return *entity;
        }
        let entity = small(self.entities.len());
        let next_kind = small(self.kinds.len());
        let kind = *self
            .kinds
            .entry(uid.type_name().clone())
            .or_insert(next_kind);
        self.entities.push(Known {
            uid: uid.clone(),
            named: Named::new(uid),
            kind,
            above: Box::new([entity]),
            stored,
        });
        self.by_uid.insert(uid.clone(), entity);
        entity
    }

    fn raise(&mut self, uid: &EntityUid, ancestors: Vec<EntityUid>) {
        let entity = self.number(uid, false);
        let mut above: Vec<Ent> = ancestors.iter().map(|a| self.number(a, false)).collect();
        above.push(entity);
        above.sort_unstable();
        above.dedup();
        let known = usize::try_from(entity)
            .ok()
            .and_then(|i| self.entities.get_mut(i));
        if let Some(known) = known {
            known.above = above.into();
        }
    }

    /// Adds the stand-ins, and the strangers that are named.
    fn meet_strangers(&mut self, catalogue: &Catalogue) -> Vec<Extra> {
        let taken: FxHashSet<SmolStr> = self.ids_of(UNREGISTERED);
        let mut domains = self.ids_of(TRUST_DOMAIN);
        domains.insert(catalogue.trust_domain().as_str().into());
        domains.extend(taken.iter().filter_map(|id| domain_of(id)));
        let mut extras = Vec::new();
        for id in &taken {
            let Some(domain) = domain_of(id) else {
                continue;
            };
            let entity = self.add_stranger(id, &domain, &mut extras);
            self.strangers.named.insert(id.clone(), entity);
        }
        for domain in domains {
            let id = unused(&format!("spiffe://{domain}/*"), &taken);
            let entity = self.add_stranger(&id, &domain, &mut extras);
            self.strangers.of_domain.insert(domain, entity);
        }
        let nowhere = unused("*", &self.ids_of(TRUST_DOMAIN));
        let id = unused("spiffe://*/*", &taken);
        self.strangers.rest = Some(self.add_stranger(&id, &nowhere, &mut extras));
        extras
    }

    /// Numbers a stranger; one that the store holds stays as it is.
    fn add_stranger(&mut self, id: &str, domain: &str, extras: &mut Vec<Extra>) -> Ent {
        let uid = uid(UNREGISTERED, id);
        let parent = uid_of_domain(domain);
        let entity = self.number(&uid, false);
        if self.known(entity).is_some_and(|k| k.stored) {
            return entity;
        }
        let mut above = vec![parent.clone()];
        if let Some(known) = self.find(&parent) {
            let higher = self.above(known).iter();
            above.extend(higher.filter_map(|a| self.uid(*a)).cloned());
        }
        self.raise(&uid, above);
        extras.push(Extra {
            uid,
            parent,
            attribute: "trustDomain",
        });
        entity
    }

    fn ids_of(&self, kind: &str) -> FxHashSet<SmolStr> {
        self.by_uid
            .keys()
            .filter(|uid| uid.type_name().to_string() == kind)
            .map(|uid| SmolStr::new(uid.id().unescaped()))
            .collect()
    }

    fn list_requested(&mut self) {
        let tables = [ACTION, OPERATION, SERVICE, WORKLOAD];
        for known in self.entities.iter().filter(|k| k.stored) {
            let kind = known.uid.type_name().to_string();
            let Some(table) = tables.iter().position(|t| *t == kind) else {
                continue;
            };
            if let (Some(table), Some(entity)) =
                (self.requested.get_mut(table), self.by_uid.get(&known.uid))
            {
                table.insert(known.uid.id().unescaped().into(), *entity);
            }
        }
    }
}

/// `KIND::"ID"` in the empty namespace.
pub(crate) fn uid(kind: &str, id: &str) -> EntityUid {
    let kind = kind
        .parse::<EntityTypeName>()
        .expect("names of the mesh vocabulary are identifiers");
    EntityUid::from_type_name_and_id(kind, EntityId::new(id))
}

/// The trust domain as an entity.
pub(crate) fn uid_of_domain(domain: &str) -> EntityUid {
    uid(TRUST_DOMAIN, domain)
}

fn domain_of(id: &str) -> Option<SmolStr> {
    SpiffeId::parse(id).ok().map(|id| id.trust_domain().into())
}

/// `id`, made longer until nothing has it. No SPIFFE ID contains `*`.
fn unused(id: &str, taken: &FxHashSet<SmolStr>) -> SmolStr {
    let mut id = id.to_owned();
    while taken.contains(id.as_str()) {
        id.push('*');
    }
    id.into()
}

/// A revision with 2³² entities or policies does not fit into memory.
pub(crate) fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
