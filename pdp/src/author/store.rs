//! The entity store of a revision, built from catalogue, groups and users.
//!
//! It is ancestor-closed: whatever is named as a parent is in it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cedar_policy::{
    Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression, Schema,
};
use palisade_mesh::{catalogue::Service, diagnostic::Diagnostic, spiffe_id::TrustDomain};
use smol_str::SmolStr;

use super::{codes, entities::People, services::Declared};

/// An entity id of one of our own types.
pub(crate) fn uid(kind: &'static str, id: &str) -> EntityUid {
    let kind: EntityTypeName = kind.parse().expect("our type names are identifiers");
    EntityUid::from_type_name_and_id(kind, EntityId::new(id))
}

/// Builds the store; the schema adds its action entities.
pub(crate) fn build(
    domain: &TrustDomain,
    declared: &[Declared],
    people: &People,
    schema: &Schema,
) -> Result<Entities, Diagnostic> {
    let mut store = Store::new(domain, people);
    store.services(declared);
    store.people(people);
    Entities::from_entities(store.built, Some(schema)).map_err(|error| {
        Diagnostic::error(codes::ENTITIES, "entities do not fit the schema")
            .cause(error.to_string())
            .help("compare the entities with `palisade policy schema`")
    })
}

struct Store<'a> {
    domain: EntityUid,
    domain_name: &'a str,
    groups_of: BTreeMap<(&'static str, SmolStr), Vec<EntityUid>>,
    built: Vec<Entity>,
}

impl<'a> Store<'a> {
    fn new(domain: &'a TrustDomain, people: &People) -> Self {
        let mut groups_of: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, group) in &people.groups {
            let lists = [
                ("Service", &group.services),
                ("Workload", &group.workloads),
                ("Group", &group.groups),
                ("User", &group.users),
            ];
            for (kind, members) in lists {
                for member in members {
                    let groups = groups_of.entry((kind, member.name.clone())).or_default();
                    groups.push(uid("Group", name));
                }
            }
        }
        let uid = uid("TrustDomain", domain.as_str());
        Self {
            built: vec![Entity::new_no_attrs(uid.clone(), HashSet::new())],
            domain: uid,
            domain_name: domain.as_str(),
            groups_of,
        }
    }

    fn groups(&self, kind: &'static str, name: &str) -> Vec<EntityUid> {
        let key = (kind, SmolStr::new(name));
        self.groups_of.get(&key).cloned().unwrap_or_default()
    }

    fn namespace(&self, name: &str) -> EntityUid {
        uid("Namespace", &format!("{}/{name}", self.domain_name))
    }

    fn services(&mut self, declared: &[Declared]) {
        let namespaces: BTreeSet<_> = declared.iter().map(|d| &d.service.namespace).collect();
        for name in namespaces {
            let parents = HashSet::from([self.domain.clone()]);
            let namespace = Entity::new_no_attrs(self.namespace(name), parents);
            self.built.push(namespace);
        }
        for one in declared {
            self.service(one);
            self.workloads(&one.service, one);
        }
    }

    fn service(&mut self, declared: &Declared) {
        let service = &declared.service;
        let id = uid("Service", service.id.as_str());
        let mut parents = HashSet::from([self.namespace(&service.namespace)]);
        parents.extend(self.groups("Service", service.id.short()));
        let tier = declared.tier.as_ref().map(|t| ("tier", text(t)));
        self.push(id.clone(), tier.into_iter().collect(), parents, declared);
        for operation in service.operations.iter() {
            let entity =
                Entity::new_no_attrs(uid("Operation", &operation.id), HashSet::from([id.clone()]));
            self.built.push(entity);
        }
    }

    fn workloads(&mut self, service: &Service, declared: &Declared) {
        let namespace = self.namespace(&service.namespace);
        let service_uid = uid("Service", service.id.as_str());
        for identity in &service.identities {
            let mut parents =
                HashSet::from([self.domain.clone(), namespace.clone(), service_uid.clone()]);
            parents.extend(self.groups("Workload", identity.as_str()));
            let entity = RestrictedExpression::new_entity_uid;
            let attributes = vec![
                ("trustDomain", entity(self.domain.clone())),
                ("namespace", entity(namespace.clone())),
                ("service", entity(service_uid.clone())),
            ];
            let id = uid("Workload", identity.as_str());
            self.push(id, attributes, parents, declared);
        }
    }

    fn push(
        &mut self,
        id: EntityUid,
        attributes: Vec<(&str, RestrictedExpression)>,
        parents: HashSet<EntityUid>,
        declared: &Declared,
    ) {
        let attributes: HashMap<_, _> = attributes
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v))
            .collect();
        let tags = declared
            .labels
            .iter()
            .map(|(k, v)| (k.to_string(), text(v)));
        let entity = Entity::new_with_tags(id, attributes, parents, tags)
            .expect("strings and entity ids evaluate to themselves");
        self.built.push(entity);
    }

    fn people(&mut self, people: &People) {
        for name in people.groups.keys() {
            let parents = self.groups("Group", name).into_iter().collect();
            self.built
                .push(Entity::new_no_attrs(uid("Group", name), parents));
        }
        for (name, user) in &people.users {
            let mut attributes = HashMap::from([
                ("issuer".to_owned(), text(&user.issuer)),
                ("subject".to_owned(), text(&user.subject)),
            ]);
            if let Some(email) = &user.email {
                attributes.insert("email".to_owned(), text(email));
            }
            let parents = self.groups("User", name).into_iter().collect();
            let entity = Entity::new(uid("User", &user.id()), attributes, parents)
                .expect("strings evaluate to themselves");
            self.built.push(entity);
        }
    }
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}
