//! Policies from policies: one more condition, or nothing but the scope.

use cedar_policy::{
    ActionConstraint, EntityUid, Policy, PolicyId, PrincipalConstraint, ResourceConstraint,
};
use serde_json::Value;

use super::solver::Failure;
use crate::decide::rule::{Scope, Shape};

/// The policy with one more condition, `when { text }`.
pub(crate) fn when(policy: &Policy, text: &str) -> Result<Policy, Failure> {
    let helper = parsed(
        "condition",
        &format!("permit (principal, action, resource) when {{ {text} }};"),
    )?;
    let more = helper.to_json().map_err(failed)?;
    let more = more.get("conditions").and_then(Value::as_array).cloned();
    edited(policy, |json| {
        let conditions = json
            .entry("conditions")
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Some(conditions) = conditions.as_array_mut() {
            conditions.extend(more.unwrap_or_default());
        }
    })
}

/// Whatever is in the policy's scope, without its conditions, and without membership in the
/// entities that are `absent`.
pub(crate) fn scope_only(policy: &Policy, absent: &[EntityUid]) -> Result<Policy, Failure> {
    let effect = policy.effect();
    let scope = scope_text(&Scope::of(policy), absent);
    let id = policy.id().to_string();
    parsed(&id, &format!("{effect} ({scope});"))
}

/// A policy of ours.
pub(crate) fn parsed(id: &str, text: &str) -> Result<Policy, Failure> {
    Policy::parse(Some(PolicyId::new(id)), text).map_err(failed)
}

/// `principal in …, action, resource`
fn scope_text(scope: &Scope, absent: &[EntityUid]) -> String {
    let action = match &scope.action {
        ActionConstraint::Any => "action".to_owned(),
        ActionConstraint::Eq(uid) => format!("action == {uid}"),
        ActionConstraint::In(uids) => {
            let uids: Vec<String> = uids.iter().map(ToString::to_string).collect();
            format!("action in [{}]", uids.join(", "))
        }
    };
    let (principal, resource): (&PrincipalConstraint, &ResourceConstraint) =
        (&scope.principal, &scope.resource);
    format!(
        "principal{}, {action}, resource{}",
        shape_text(Shape::of_principal(principal), absent),
        shape_text(Shape::of_resource(resource), absent)
    )
}

fn shape_text(shape: Shape<'_>, absent: &[EntityUid]) -> String {
    match shape {
        Shape::Any => String::new(),
        Shape::Eq(uid) => format!(" == {uid}"),
        Shape::In(None, uid) if absent.contains(uid) => String::new(),
        Shape::In(None, uid) => format!(" in {uid}"),
        Shape::In(Some(kind), uid) if absent.contains(uid) => format!(" is {kind}"),
        Shape::In(Some(kind), uid) => format!(" is {kind} in {uid}"),
        Shape::Is(kind) => format!(" is {kind}"),
    }
}

fn edited(
    policy: &Policy,
    edit: impl FnOnce(&mut serde_json::Map<String, Value>),
) -> Result<Policy, Failure> {
    let mut json = policy.to_json().map_err(failed)?;
    if let Some(json) = json.as_object_mut() {
        edit(json);
    }
    Policy::from_json(Some(policy.id().clone()), json).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure(format!("a policy cannot be rewritten: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        parsed("p", text).unwrap()
    }

    #[track_caller]
    fn check(made: Result<Policy, Failure>, expected: &str) {
        let (made, expected) = (made.unwrap(), policy(expected));
        assert_eq!(made.to_json().unwrap(), expected.to_json().unwrap());
        assert_eq!(made.id(), expected.id());
    }

    const FORBID: &str = "forbid (principal is Workload in Group::\"g\", action in [Action::\"a\", Action::\"b\"], resource == Service::\"x \\\" y\") \
         when { context.a } unless { context.b };";

    #[test]
    fn a_policy_is_rewritten_and_nothing_else_changes() {
        let forbid = policy(FORBID);
        check(
            when(&forbid, "context.n < 3"),
            &FORBID.replace("context.b };", "context.b } when { context.n < 3 };"),
        );
        let scope = FORBID.split(" when").next().unwrap();
        check(scope_only(&forbid, &[]), &format!("{scope};"));
        let group: EntityUid = "Group::\"g\"".parse().unwrap();
        check(
            scope_only(&forbid, &[group]),
            &format!("{};", scope.replace(" in Group::\"g\"", "")),
        );
    }
}
