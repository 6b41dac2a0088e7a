//! Scopes that leave everything to conditions. The engine files policies by scope: one
//! that names nobody is evaluated for every request.

use cedar_policy::ActionConstraint;
use palisade_mesh::diagnostic::Diagnostic;

use super::{Finding, Policy, Study};
use crate::{author::codes, decide::Shape};

/// Most policies that every request may have to evaluate.
pub const UNSCOPED_MAX: usize = 10;

/// Whether neither principal nor resource is a certain one, or in one.
fn names_nobody(policy: &Policy) -> bool {
    let open = |shape| matches!(shape, Shape::Any | Shape::Is(_));
    open(Shape::of_principal(&policy.scope.principal))
        && open(Shape::of_resource(&policy.scope.resource))
}

pub(super) fn permit(study: &Study, findings: &mut Vec<Finding>) {
    let all = |p: &Policy| p.conditions.is_empty() && p.scope.action == ActionConstraint::Any;
    let open = study
        .policies
        .iter()
        .filter(|p| p.permit && names_nobody(p) && !all(p));
    findings.extend(open.map(|policy| {
        Diagnostic::warning(
            codes::UNSCOPED_PERMIT,
            format!("the scope of permit `{}` names neither who nor what", policy.id),
        )
        .cause("one slip in a condition would open it to everyone, and every request has to evaluate it")
        .help("say who or what in the scope, such as `principal in Service::\"…\"`")
        .at(study.at(policy, None))
        .into()
    }));
}

pub(super) fn many(study: &Study, findings: &mut Vec<Finding>) {
    let open = |p: &&Policy| names_nobody(p) && p.scope.action == ActionConstraint::Any;
    let all: Vec<&Policy> = study.policies.iter().filter(open).collect();
    if let Some(first_over) = all.get(UNSCOPED_MAX) {
        let diagnostic = Diagnostic::warning(
            codes::MANY_UNSCOPED,
            format!("{} policies are evaluated for every request", all.len()),
        )
        .label(format!("the first beyond {UNSCOPED_MAX}"))
        .cause("their scopes name no principal, no action and no resource")
        .help("name the actions, the namespace or the trust domain that each is about")
        .at(study.at(first_over, None));
        findings.push(diagnostic.into());
    }
}
