//! Where entities are declared, for people who ask why a policy saw what it saw.

use std::collections::BTreeMap;

use palisade_mesh::diagnostic::Location;

use super::{Parts, Texts, entities::Member, on_own_stack, store::uid};
use crate::compiled::Compiled;

/// Files and lines of the entities of a repository.
#[derive(Debug, Default)]
pub struct Places {
    declared: BTreeMap<String, String>,
    /// Group, then member as it is listed.
    members: BTreeMap<String, Vec<(String, String)>>,
}

impl Places {
    /// Reads a compiled repository once more, for its places.
    pub fn of(compiled: &Compiled) -> Self {
        let texts = Texts::of_compiled(compiled).unwrap_or_default();
        let files = texts.files;
        let read = on_own_stack(move || super::draft(&files, None, None, &mut Vec::new()));
        let parts = read.ok().flatten().map(|draft| draft.parts);
        parts.map_or_else(Self::default, |parts| Self::new(&parts))
    }

    fn new(parts: &Parts) -> Self {
        let mut places = Self::default();
        for (name, group) in &parts.people.groups {
            let own = places.declare(uid("Group", name).to_string(), &group.at);
            let lists = [
                &group.services,
                &group.workloads,
                &group.groups,
                &group.users,
            ];
            let members = lists.into_iter().flatten();
            let members = members.map(|Member { name, at }| (name.to_string(), line(at)));
            places.members.insert(own, members.collect());
        }
        for declared in &parts.declared {
            let service = &declared.service;
            places.declare(
                uid("Service", service.id.as_str()).to_string(),
                &declared.at,
            );
            for identity in &service.identities {
                places.declare(uid("Workload", identity.as_str()).to_string(), &declared.at);
            }
            for (operation, at) in service.operations.iter().zip(&declared.operation_at) {
                places.declare(uid("Operation", &operation.id).to_string(), at);
            }
        }
        places
    }

    fn declare(&mut self, entity: String, at: &Location) -> String {
        self.declared.insert(entity.clone(), line(at));
        entity
    }

    /// The entities that `text` names, each with its place, and for a group its members:
    /// `Group::"card-handlers" entities/groups.yaml:3, has shop/payments (entities/groups.yaml:4)`.
    pub fn named_in(&self, text: &str) -> Vec<String> {
        let named = self
            .declared
            .iter()
            .filter(|(entity, _)| text.contains(entity.as_str()));
        named
            .map(|(entity, place)| {
                let members = self.members.get(entity).map_or(&[][..], Vec::as_slice);
                let listed: Vec<String> = members
                    .iter()
                    .map(|(name, place)| format!("{name} ({place})"))
                    .collect();
                match (self.members.contains_key(entity), listed.as_slice()) {
                    (false, _) => format!("{entity} {place}"),
                    (true, []) => format!("{entity} {place}, has no members"),
                    (true, some) => format!("{entity} {place}, has {}", some.join(", ")),
                }
            })
            .collect()
    }
}

fn line(at: &Location) -> String {
    format!("{}:{}", at.file, at.line)
}
