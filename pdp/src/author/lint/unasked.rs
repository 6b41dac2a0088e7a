//! Policies about requests that nobody can make, and parts of conditions about what no request
//! carries: what they say is never asked for.

use std::collections::BTreeSet;

use cedar_policy::{ActionConstraint, EntityTypeName, EntityUid, RequestEnv, Schema};
use palisade_mesh::{canonical::Method, diagnostic::Diagnostic};

use super::{Finding, Policy, Study};
use crate::{
    author::codes,
    decide::{Shape, Term},
};

/// What callers are.
const PRINCIPALS: [&str; 2] = ["Unregistered", "Workload"];
/// What is asked for.
const RESOURCES: [&str; 2] = ["Operation", "Service"];
/// Records of a context that the vocabulary has room for, and that no listener fills.
const EMPTY: [&str; 2] = ["context.jwt", "context.user"];

pub(super) fn asked(study: &Study, findings: &mut Vec<Finding>) {
    let actions = actions(study);
    let is_asked = |env: &RequestEnv| {
        PRINCIPALS.contains(&env.principal().to_string().as_str())
            && RESOURCES.contains(&env.resource().to_string().as_str())
            && actions.contains(env.action().id().unescaped())
    };
    let asked: Vec<RequestEnv> = study
        .compiled
        .schema
        .request_envs()
        .filter(is_asked)
        .collect();
    for policy in &study.policies {
        if !asked.iter().any(|env| may_match(study, policy, env)) {
            findings.push(never_asked(study, policy));
        }
    }
}

pub(super) fn carried(study: &Study, findings: &mut Vec<Finding>) {
    let policies = study.policies.iter();
    findings.extend(policies.flat_map(|policy| never_carried(study, policy)));
}

/// Names of every action that a request can be.
fn actions(study: &Study) -> BTreeSet<&str> {
    let methods = Method::ALL.iter().map(|method| method.as_str());
    let services = study.compiled.catalogue.services().iter();
    let own = services.flat_map(|s| s.operations.iter().filter_map(|o| o.action.as_deref()));
    methods.chain(["grpc:call"]).chain(own).collect()
}

/// Whether the scope of a policy has room for such requests.
fn may_match(study: &Study, policy: &Policy, env: &RequestEnv) -> bool {
    let within = |group: &EntityUid| {
        group == env.action() || study.compiled.entities.is_ancestor_of(group, env.action())
    };
    let action = match &policy.scope.action {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(action) => action == env.action(),
        ActionConstraint::In(groups) => groups.iter().any(within),
    };
    let schema = &study.compiled.schema;
    let (principal, resource) = (env.principal(), env.resource());
    action
        && is_of(
            &Shape::of_principal(&policy.scope.principal),
            principal,
            schema,
        )
        && is_of(
            &Shape::of_resource(&policy.scope.resource),
            resource,
            schema,
        )
}

/// Whether a part of a scope has room for entities of a type.
fn is_of(shape: &Shape<'_>, kind: &EntityTypeName, schema: &Schema) -> bool {
    let within = |group: &EntityTypeName| {
        let mut above = schema.ancestors(kind).into_iter().flatten();
        group == kind || above.any(|one| one == group)
    };
    match shape {
        Shape::Any => true,
        Shape::Eq(uid) => uid.type_name() == kind,
        Shape::Is(name) => *name == kind,
        Shape::In(name, uid) => name.is_none_or(|name| name == kind) && within(uid.type_name()),
    }
}

fn never_asked(study: &Study, policy: &Policy) -> Finding {
    let diagnostic = Diagnostic::warning(
        codes::NEVER_ASKED,
        format!(
            "policy `{}` is about requests that nobody can make",
            policy.id
        ),
    )
    .cause("callers are of type `Workload` or `Unregistered`, what they ask for is an `Operation` or a `Service`, and actions are methods, `grpc:call` and those of operations; types and actions that schema.cedarschema adds are never asked")
    .help("write it about those; to ask for an action, give an operation in services/ this `action`")
    .at(study.at(policy, None));
    diagnostic.into()
}

/// The first place where each of [`EMPTY`] is read.
fn never_carried<'s>(
    study: &'s Study,
    policy: &'s Policy,
) -> impl Iterator<Item = Finding> + use<'s> {
    EMPTY.into_iter().filter_map(move |record| {
        let mut nodes = policy.conditions.iter().flat_map(|c| c.node.all());
        let node = nodes.find(|node| match &node.term {
            Term::Path(path) | Term::Has(path) => path
                .strip_prefix(record)
                .is_some_and(|rest| !rest.starts_with(|c: char| c == '_' || c.is_alphanumeric())),
            _ => false,
        })?;
        let diagnostic = Diagnostic::warning(
            codes::NEVER_CARRIED,
            format!("policy `{}` reads `{record}`, which no request has", policy.id),
        )
        .label("never there")
        .cause("no listener verifies tokens of people yet: `has` is false for it, and what depends on it is never true")
        .help("take the part out; write who may by workload, service or group, or by a declared header")
        .at(study.at(policy, Some(&node.span)));
        Some(diagnostic.into())
    })
}
