//! Declarations that no policy makes use of.

use std::collections::BTreeSet;

use cedar_policy::{ActionConstraint, EntityUid};
use palisade_mesh::{
    catalogue::{Protocol, Service},
    diagnostic::{Diagnostic, Location},
    operation::Operation,
    yaml::{Source, Span},
};

use super::{Finding, Policy, Study};
use crate::{
    author::{codes, store::uid},
    decide::{Shape, Term},
};

pub(super) fn groups(study: &Study, findings: &mut Vec<Finding>) {
    let named = named_entities(study);
    for (name, group) in &study.parts.people.groups {
        // A group counts where it, or one that it is in, is named.
        let own = uid("Group", name);
        let above = study.compiled.entities.ancestors(&own);
        let mut all = above.into_iter().flatten().chain([&own]);
        if all.any(|one| named.contains(one)) {
            continue;
        }
        let diagnostic = Diagnostic::warning(
            codes::UNUSED_GROUP,
            format!("no policy names group `{name}`"),
        )
        .cause("being in it makes no difference")
        .help("remove it, or write the policy that it is for")
        .at(group.at.clone());
        findings.push(diagnostic.into());
    }
}

/// Every entity that a policy names, in its scope or its conditions.
fn named_entities(study: &Study) -> BTreeSet<EntityUid> {
    let in_scopes = study.policies.iter().flat_map(|p| p.scope.entities());
    let conditions = study.policies.iter().flat_map(|p| &p.conditions);
    let in_conditions = conditions
        .flat_map(|c| c.node.all())
        .filter_map(|node| match &node.term {
            Term::Entity(uid) => Some(uid.clone()),
            _ => None,
        });
    in_scopes.chain(in_conditions).collect()
}

pub(super) fn headers(study: &Study, findings: &mut Vec<Finding>) {
    let conditions = study.policies.iter().flat_map(|p| &p.conditions);
    let read: BTreeSet<&str> = conditions
        .flat_map(|c| c.node.all())
        .filter_map(|node| match &node.term {
            Term::Path(path) | Term::Has(path) => Some(path.as_str()),
            _ => None,
        })
        .collect();
    let whole = ["context", "context.http", "context.http.headers"];
    if whole.iter().any(|path| read.contains(path)) {
        return;
    }
    for header in study.compiled.catalogue.headers() {
        let name = &header.name;
        let spelled = [
            format!("context.http.headers[\"{name}\"]"),
            format!("context.http.headers.{name}"),
        ];
        if spelled.iter().any(|path| read.contains(path.as_str())) {
            continue;
        }
        let diagnostic = Diagnostic::warning(
            codes::UNUSED_HEADER,
            format!("no policy reads header `{name}`"),
        )
        .cause("proxies hand it to the engine all the same")
        .help("take it out of `headers`, or write the policy that it is for")
        .at(key(&study.parts.settings, name));
        findings.push(diagnostic.into());
    }
}

/// Where a key of a map stands.
fn key(source: &Source, name: &str) -> Location {
    let quoted = [
        format!("{name}:"),
        format!("\"{name}\":"),
        format!("'{name}':"),
    ];
    let found = quoted
        .iter()
        .find_map(|key| Some((source.text.find(key.as_str())?, key.len() - 1)));
    match found {
        Some((start, len)) => source.span(Span::new(start, len)),
        None => source.line(1),
    }
}

pub(super) fn operations(study: &Study, findings: &mut Vec<Finding>) {
    for service in study.compiled.catalogue.services() {
        for operation in service.operations.iter() {
            let reached = study.policies.iter().filter(|p| p.permit);
            if meant(study, operation)
                || reached
                    .into_iter()
                    .any(|permit| reaches(study, permit, service.protocol, operation))
            {
                continue;
            }
            let name = format!("{}/{}", service.id.short(), operation.name);
            let diagnostic = Diagnostic::warning(
                codes::UNUSED_OPERATION,
                format!("no permit reaches operation `{name}`"),
            )
            .cause("every request for it is denied, whoever asks")
            .help("write the permit that it is for, or a test that says who is denied, or remove the operation")
            .at(place(study, service, operation));
            findings.push(diagnostic.into());
        }
    }
}

/// Whether a test says that the operation is denied, so that nobody forgot a permit.
fn meant(study: &Study, operation: &Operation) -> bool {
    let tested = study.tested.as_ref();
    tested.is_some_and(|tested| tested.denied.contains(&operation.id))
}

/// Whether the scope of a permit takes the operation.
fn reaches(study: &Study, permit: &Policy, protocol: Protocol, operation: &Operation) -> bool {
    let own = uid("Operation", &operation.id);
    let within = |group| study.kin.is_in(&own, group);
    let resource = match Shape::of_resource(&permit.scope.resource) {
        Shape::Any => true,
        Shape::Eq(one) => *one == own,
        Shape::Is(kind) => kind.to_string() == "Operation",
        Shape::In(kind, group) => {
            kind.is_none_or(|kind| kind.to_string() == "Operation") && within(group)
        }
    };
    resource
        && actions(protocol, operation)
            .iter()
            .any(|action| acts(study, permit, action))
}

fn acts(study: &Study, permit: &Policy, action: &EntityUid) -> bool {
    match &permit.scope.action {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(one) => one == action,
        ActionConstraint::In(groups) => groups.iter().any(|group| study.kin.is_in(action, group)),
    }
}

/// The actions that requests for it come as.
fn actions(protocol: Protocol, operation: &Operation) -> Vec<EntityUid> {
    match (&operation.action, protocol) {
        (Some(action), _) => vec![uid("Action", action)],
        (None, Protocol::Grpc) => vec![uid("Action", "grpc:call")],
        (None, Protocol::Http) => {
            let methods = operation.methods.iter();
            methods.map(|m| uid("Action", m.as_str())).collect()
        }
    }
}

/// Where an operation is declared.
fn place(study: &Study, service: &Service, operation: &Operation) -> Location {
    let declared = study.parts.declared.iter();
    let found = declared
        .into_iter()
        .find(|d| d.service.id == service.id)
        .and_then(|d| {
            let position = d
                .service
                .operations
                .iter()
                .position(|o| o.id == operation.id)?;
            d.operation_at.get(position).cloned()
        });
    found.unwrap_or_else(|| study.parts.settings.line(1))
}
