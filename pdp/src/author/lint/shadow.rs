//! Policies that another one makes superfluous: the same effect, a scope as wide or
//! wider, and no condition that this one lacks.
//!
//! Candidates are looked up by what their scopes name, so that thousands of policies are
//! not compared with each other.

use std::collections::{BTreeSet, HashMap};

use cedar_policy::{ActionConstraint, EntityUid};
use palisade_mesh::diagnostic::Diagnostic;

use super::{Finding, Policy, Study};
use crate::{
    author::{codes, kin::Kin},
    decide::{Kind, Shape, Term},
};

/// What the scope of a policy names: principal and resource, none where it is open.
type Key = (bool, Option<EntityUid>, Option<EntityUid>);

pub(super) fn look(study: &Study, findings: &mut Vec<Finding>) {
    let parts: Vec<BTreeSet<String>> = study.policies.iter().map(parts).collect();
    let mut by_scope: HashMap<Key, Vec<usize>> = HashMap::new();
    for (i, policy) in study.policies.iter().enumerate() {
        // What is not enforced, or not for good, replaces nothing.
        let info = &study.read(policy).info;
        if !info.shadow && info.expires_us.is_none() {
            by_scope.entry(key(policy)).or_default().push(i);
        }
    }
    for (i, policy) in study.policies.iter().enumerate() {
        let wider = candidates(study, policy, &by_scope).find_map(|j| {
            let other = study.policies.get(j)?;
            let fewer = parts.get(j)?.is_subset(parts.get(i)?);
            // Of two that are equal, the first stays.
            let equal = j > i && covers(study, policy, other) && parts.get(i) == parts.get(j);
            (i != j && !equal && fewer && covers(study, other, policy)).then_some(other)
        });
        if let Some(wider) = wider {
            findings.push(told(study, policy, wider).into());
        }
    }
}

fn told(study: &Study, policy: &Policy, wider: &Policy) -> Diagnostic {
    let word = if policy.permit { "permits" } else { "forbids" };
    Diagnostic::warning(
        codes::SHADOWED,
        format!(
            "policy `{}` {word} nothing that `{}` does not",
            policy.id, wider.id
        ),
    )
    .label("superfluous")
    .cause(format!(
        "the scope of `{}` ({}) is as wide, and it has no condition that this one lacks",
        wider.id,
        study.place_of(wider)
    ))
    .help("remove it, or narrow the other one")
    .at(study.at(policy, None))
}

/// The conjuncts of a policy, each as it is printed; an `unless` of several is one.
fn parts(policy: &Policy) -> BTreeSet<String> {
    let mut parts = BTreeSet::new();
    for condition in &policy.conditions {
        match (&condition.node.term, condition.kind) {
            (Term::And(all), Kind::When) => parts.extend(all.iter().map(|p| p.printed())),
            (_, Kind::When) => drop(parts.insert(condition.node.printed())),
            (_, Kind::Unless) => drop(parts.insert(format!("unless {}", condition.node.printed()))),
        }
    }
    parts
}

fn key(policy: &Policy) -> Key {
    (
        policy.permit,
        named(Shape::of_principal(&policy.scope.principal)).cloned(),
        named(Shape::of_resource(&policy.scope.resource)).cloned(),
    )
}

fn named(shape: Shape<'_>) -> Option<&EntityUid> {
    match shape {
        Shape::Any | Shape::Is(_) => None,
        Shape::Eq(uid) | Shape::In(_, uid) => Some(uid),
    }
}

/// Policies whose scope names what this one's does, or something above it, or nothing.
fn candidates(
    study: &Study,
    policy: &Policy,
    by_scope: &HashMap<Key, Vec<usize>>,
) -> impl Iterator<Item = usize> {
    let (permit, principal, resource) = key(policy);
    let above = |one: Option<EntityUid>| -> Vec<Option<EntityUid>> {
        let above = one.map_or_else(Vec::new, |one| Kin::above(&one, &study.compiled.entities));
        above.into_iter().map(Some).chain([None]).collect()
    };
    let (principals, resources) = (above(principal), above(resource));
    let mut found = Vec::new();
    for principal in &principals {
        for resource in &resources {
            let key = (permit, principal.clone(), resource.clone());
            found.extend(by_scope.get(&key).into_iter().flatten().copied());
        }
    }
    found.sort_unstable();
    found.into_iter()
}

/// Whether the scope of `wide` takes everything that the scope of `narrow` does.
fn covers(study: &Study, wide: &Policy, narrow: &Policy) -> bool {
    let (w, n) = (&wide.scope, &narrow.scope);
    let kin = &study.kin;
    covers_shape(
        kin,
        Shape::of_principal(&w.principal),
        Shape::of_principal(&n.principal),
    ) && covers_shape(
        kin,
        Shape::of_resource(&w.resource),
        Shape::of_resource(&n.resource),
    ) && covers_action(kin, &w.action, &n.action)
}

fn covers_shape(kin: &Kin, wide: Shape<'_>, narrow: Shape<'_>) -> bool {
    let kind = |shape| match shape {
        Shape::Eq(uid) => Some(uid.type_name().to_string()),
        Shape::Is(kind) | Shape::In(Some(kind), _) => Some(kind.to_string()),
        Shape::Any | Shape::In(None, _) => None,
    };
    let within = |group| named(narrow).is_some_and(|one| kin.is_in(one, group));
    match wide {
        Shape::Any => true,
        Shape::Is(wanted) => kind(narrow).is_some_and(|k| k == wanted.to_string()),
        Shape::Eq(uid) => matches!(narrow, Shape::Eq(one) if one == uid),
        Shape::In(None, group) => within(group),
        Shape::In(Some(wanted), group) => {
            within(group) && kind(narrow).is_some_and(|k| k == wanted.to_string())
        }
    }
}

fn covers_action(kin: &Kin, wide: &ActionConstraint, narrow: &ActionConstraint) -> bool {
    let narrow = match narrow {
        ActionConstraint::Any => return *wide == ActionConstraint::Any,
        ActionConstraint::Eq(uid) => std::slice::from_ref(uid),
        ActionConstraint::In(uids) => uids,
    };
    match wide {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => narrow.iter().all(|one| one == uid),
        ActionConstraint::In(groups) => narrow
            .iter()
            .all(|one| groups.iter().any(|group| kin.is_in(one, group))),
    }
}
