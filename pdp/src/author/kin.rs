//! Who is in whom, and which requests an action stands for: what a policy's constraints
//! mean for the entities of this very repository.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cedar_policy::{Entities, EntityUid};
use palisade_mesh::{
    canonical::Method,
    catalogue::{Catalogue, Protocol},
    operation::Template,
};
use smol_str::SmolStr;

use super::store::uid;

/// Types of principals.
const PRINCIPALS: [&str; 2] = ["Workload", "Unregistered"];
/// Types of resources.
const RESOURCES: [&str; 2] = ["Operation", "Service"];

/// Actions that only hold others.
const GROUPS: [&str; 4] = ["call", "http", "http:read", "http:write"];

/// Relations between the entities of a repository.
#[derive(Default)]
pub(super) struct Kin {
    /// Everything below an entity, itself too, by type.
    below: HashMap<EntityUid, BTreeMap<SmolStr, BTreeSet<EntityUid>>>,
    /// Methods and operations of business actions, by action id.
    business: BTreeMap<SmolStr, Used>,
    /// What all that is in one of the groups of the schema stands for: many policies name them,
    /// and many actions are in them.
    groups: HashMap<EntityUid, Option<Used>>,
}

/// Which requests actions stand for.
#[derive(Debug, Clone, Default)]
pub(super) struct Used {
    pub(super) methods: BTreeSet<SmolStr>,
    /// The only resources and their paths, where every action is of the catalogue.
    pub(super) operations: Option<BTreeMap<EntityUid, Template>>,
}

impl Kin {
    pub(super) fn new(entities: &Entities, catalogue: &Catalogue) -> Self {
        let mut below: HashMap<EntityUid, BTreeMap<SmolStr, BTreeSet<EntityUid>>> = HashMap::new();
        for entity in entities.iter() {
            let one = entity.uid();
            let kind = SmolStr::new(one.type_name().to_string());
            let above = entities.ancestors(&one).into_iter().flatten().cloned();
            for holder in above.chain([one.clone()]) {
                let of_kind = below.entry(holder).or_default().entry(kind.clone());
                of_kind.or_default().insert(one.clone());
            }
        }
        let mut business: BTreeMap<SmolStr, Used> = BTreeMap::new();
        let services = catalogue.services().iter();
        let http = services.filter(|s| s.protocol == Protocol::Http);
        for operation in http.flat_map(|s| s.operations.iter()) {
            let Some(action) = &operation.action else {
                continue;
            };
            let used = business.entry(action.clone()).or_default();
            let methods = operation.methods.iter().map(|m| m.as_str().into());
            used.methods.extend(methods);
            let operations = used.operations.get_or_insert_default();
            let template = operation.template.clone();
            operations.insert(uid("Operation", &operation.id), template);
        }
        let groups = GROUPS.map(|id| uid("Action", id));
        let mut kin = Self {
            below,
            business,
            groups: HashMap::new(),
        };
        let used = groups.map(|group| {
            let used = kin.gathered(std::slice::from_ref(&group));
            (group, used)
        });
        kin.groups = used.into();
        kin
    }

    /// Which requests the actions `named`, or those in them, stand for; `None` where one
    /// of them is no HTTP action.
    pub(super) fn used_by(&self, named: &[EntityUid]) -> Option<Used> {
        let known = match named {
            [one] => self.groups.get(one).cloned(),
            _ => None,
        };
        known.unwrap_or_else(|| self.gathered(named))
    }

    fn gathered(&self, named: &[EntityUid]) -> Option<Used> {
        let mut used = Used::default();
        let mut of_catalogue: Vec<&Used> = Vec::new();
        let mut only_business = true;
        for action in named.iter().flat_map(|n| self.members(n, "Action")) {
            let id = action.id().unescaped();
            match self.business.get(id) {
                Some(own) => of_catalogue.push(own),
                _ if is_method(id) => {
                    only_business = false;
                    used.methods.insert(id.into());
                }
                _ if GROUPS.contains(&id) => {}
                _ => return None,
            }
        }
        for own in of_catalogue {
            used.methods.extend(own.methods.iter().cloned());
            // Paths say something only where no other path can be asked for.
            if only_business {
                let operations = used.operations.get_or_insert_default();
                let own = own.operations.iter().flatten();
                operations.extend(own.map(|(uid, t)| (uid.clone(), t.clone())));
            }
        }
        (!used.methods.is_empty()).then_some(used)
    }

    /// Whether the repository has this entity.
    pub(super) fn knows(&self, one: &EntityUid) -> bool {
        self.below.contains_key(one)
    }

    /// Whether `one` is known to be in `group`.
    pub(super) fn is_in(&self, one: &EntityUid, group: &EntityUid) -> bool {
        let kind = one.type_name().to_string();
        one == group
            || self
                .below
                .get(group)
                .and_then(|all| all.get(kind.as_str()))
                .is_some_and(|of_kind| of_kind.contains(one))
    }

    /// Whether `one` is known to be in none of `groups`.
    pub(super) fn is_outside(&self, one: &EntityUid, groups: &[EntityUid]) -> bool {
        self.knows(one)
            && groups
                .iter()
                .all(|group| self.knows(group) && !self.is_in(one, group))
    }

    /// Whether nobody that `subject` can be is in one of `a` and in one of `b`.
    pub(super) fn share_nobody(&self, subject: &str, a: &[EntityUid], b: &[EntityUid]) -> bool {
        let known = a.iter().chain(b).all(|group| self.knows(group));
        // Strangers are in nothing but their trust domain.
        let domains = |all: &[EntityUid]| all.iter().any(is_domain);
        if !known || domains(a) && domains(b) {
            return false;
        }
        let kinds = if subject == "principal" {
            PRINCIPALS
        } else {
            RESOURCES
        };
        let members = |groups: &[EntityUid]| -> BTreeSet<EntityUid> {
            let of = kinds
                .iter()
                .flat_map(|kind| groups.iter().flat_map(move |g| self.members(g, kind)));
            of.cloned().collect()
        };
        let (a, b) = (members(a), members(b));
        // An empty group says nothing yet, such as one that incidents fill.
        !a.is_empty() && !b.is_empty() && a.is_disjoint(&b)
    }

    /// Whether `groups` have members, but none of this type.
    pub(super) fn hold_none(&self, groups: &[EntityUid], kind: &str) -> bool {
        groups.iter().all(|group| {
            self.knows(group)
                && !(kind == "Unregistered" && is_domain(group))
                && self.members(group, kind).next().is_none()
                && self.has_members(group)
        })
    }

    /// Members of one type, at any depth.
    pub(super) fn members(
        &self,
        group: &EntityUid,
        kind: &str,
    ) -> impl Iterator<Item = &EntityUid> {
        let all = self.below.get(group).and_then(|all| all.get(kind));
        all.into_iter().flatten()
    }

    fn has_members(&self, group: &EntityUid) -> bool {
        let mut all = self
            .below
            .get(group)
            .into_iter()
            .flat_map(BTreeMap::values)
            .flatten();
        all.any(|one| one != group)
    }

    /// Everything that `one` is in, itself first.
    pub(super) fn above(one: &EntityUid, entities: &Entities) -> Vec<EntityUid> {
        let above = entities.ancestors(one).into_iter().flatten().cloned();
        [one.clone()].into_iter().chain(above).collect()
    }
}

fn is_domain(uid: &EntityUid) -> bool {
    uid.type_name().to_string() == "TrustDomain"
}

fn is_method(id: &str) -> bool {
    Method::parse(id).is_some()
}
