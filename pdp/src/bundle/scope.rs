//! What a policy can concern: its resource constraint, as the manifest names it.
//!
//! A policy whose resource constraint does not hold is neither determining nor
//! erroneous, so whoever decides about one service needs no policy of another. A
//! `forbid` on members of an entity that is not there makes every decision undecided,
//! so it concerns everybody.

use std::collections::{HashMap, HashSet};

use cedar_policy::{Entities, EntityId, EntityTypeName, EntityUid, Policy, ResourceConstraint};
use palisade_mesh::catalogue::Service;

use crate::author::uid;

/// The scope of policies without a resource constraint.
pub(crate) const ANY: &str = "*";

/// The scope under which a policy is filed: `*`, a type, or an entity.
pub(crate) fn of(policy: &Policy) -> String {
    match policy.resource_constraint() {
        ResourceConstraint::Any => ANY.to_owned(),
        ResourceConstraint::Is(kind) => kind.to_string(),
        ResourceConstraint::Eq(uid)
        | ResourceConstraint::In(uid)
        | ResourceConstraint::IsIn(_, uid) => uid.to_string(),
    }
}

/// Types of what is asked for.
const RESOURCES: [&str; 2] = ["Operation", "Service"];

/// What can concern one service.
pub(crate) struct Concern<'e> {
    entities: &'e Entities,
    /// The service, its operations, and whatever they are in.
    own: HashSet<EntityUid>,
    types: HashMap<String, Option<EntityTypeName>>,
}

impl<'e> Concern<'e> {
    /// Of requests for `service`; without one, of no request.
    pub(crate) fn new(entities: &'e Entities, service: Option<&Service>) -> Self {
        let mut own = HashSet::new();
        if let Some(service) = service {
            let id = uid(RESOURCES[1], service.id.as_str());
            own.extend(entities.ancestors(&id).into_iter().flatten().cloned());
            own.insert(id);
            for operation in service.operations.iter() {
                let id = uid(RESOURCES[0], &operation.id);
                own.extend(entities.ancestors(&id).into_iter().flatten().cloned());
                own.insert(id);
            }
        }
        Self {
            entities,
            own,
            types: HashMap::new(),
        }
    }

    /// Whether a policy with this scope can have a say.
    pub(crate) fn is_of(&mut self, scope: &str) -> bool {
        if scope == ANY {
            return true;
        }
        let Some((kind, id)) = scope.split_once("::\"") else {
            return RESOURCES.contains(&scope);
        };
        match self.entity(kind, id, scope) {
            Some(uid) => self.own.contains(&uid) || self.entities.get(&uid).is_none(),
            None => true,
        }
    }

    /// The entity of a scope; Cedar's own parser is slow, and hardly any id needs it.
    fn entity(&mut self, kind: &str, id: &str, scope: &str) -> Option<EntityUid> {
        let id = id.strip_suffix('"')?;
        if id.contains(['\\', '"']) {
            return scope.parse().ok();
        }
        let known = self.types.get(kind).cloned();
        let kind = known.unwrap_or_else(|| {
            let parsed: Option<EntityTypeName> = kind.parse().ok();
            self.types.insert(kind.to_owned(), parsed.clone());
            parsed
        })?;
        Some(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
    }
}
