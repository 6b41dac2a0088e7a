//! Which two facts make a policy impossible that Cedar's type checker refuses.
//!
//! Cedar says only that no request can match. Here parts of the policy are left out until
//! it is possible again: the first part with which it is not is one of the two, and the
//! part without which it would be is the other.

use std::sync::Arc;

use cedar_policy::{
    ActionConstraint, EntityTypeName, EntityUid, Policy, PolicySet, Schema, ValidationMode,
    ValidationWarning, Validator,
    pst::{self, BinaryOp, Clause, Expr},
};

use crate::decide::{Scope, Shape};

/// Most parts of a condition that are tried.
const PARTS_MAX: usize = 64;

/// What contradicts what, as it was written; `None` where it cannot be told apart.
pub(super) fn culprits(policy: &Policy, validator: &Validator) -> Option<(String, String)> {
    let pst::Policy::Static(whole) = policy.to_pst().ok()? else {
        return None;
    };
    let body = whole.body().clone();
    let parts: Vec<Clause> = body.clauses().iter().flat_map(split).collect();
    if parts.is_empty() || parts.len() > PARTS_MAX {
        return None;
    }
    let trial = Trial { body, validator };
    let reaching =
        (1..=parts.len()).find(|n| trial.is_impossible(parts.get(..*n).unwrap_or_default()))?;
    let reaching = parts.get(..reaching)?;
    let (second, before) = reaching.split_last()?;
    let second_text = text(second);
    for (i, first) in before.iter().enumerate() {
        let others = before.iter().enumerate().filter(|(j, _)| *j != i);
        let without: Vec<Clause> = others
            .map(|(_, p)| p.clone())
            .chain([second.clone()])
            .collect();
        if trial.is_possible(&without) {
            return Some((text(first), second_text));
        }
    }
    let part = trial.part_of_scope(&Scope::of(policy), reaching);
    Some((part.unwrap_or_else(|| "its scope".to_owned()), second_text))
}

struct Trial<'v> {
    body: pst::Template,
    validator: &'v Validator,
}

impl Trial<'_> {
    fn is_impossible(&self, parts: &[Clause]) -> bool {
        self.warned(parts) == Some(true)
    }

    fn is_possible(&self, parts: &[Clause]) -> bool {
        self.warned(parts) == Some(false)
    }

    /// The part of the scope without which these parts are possible, as it is written.
    fn part_of_scope(&self, scope: &Scope, parts: &[Clause]) -> Option<String> {
        let open = |change: fn(&mut pst::Template)| {
            let mut body = self.body.clone();
            change(&mut body);
            let trial = Trial { body, ..*self };
            trial.is_possible(parts)
        };
        let principal = written("principal", Shape::of_principal(&scope.principal));
        let resource = written("resource", Shape::of_resource(&scope.resource));
        let action = match &scope.action {
            ActionConstraint::Any => None,
            constraint => Some(named(constraint)),
        };
        let part = match () {
            () if open(|body| body.principal = pst::PrincipalConstraint::Any) => principal,
            () if open(|body| body.action = pst::ActionConstraint::Any) => action,
            () if open(|body| body.resource = pst::ResourceConstraint::Any) => resource,
            () => None,
        };
        part.map(|part| format!("`{part}`"))
    }

    /// Whether Cedar calls the policy with these parts impossible; `None` where they do
    /// not type-check without the rest.
    fn warned(&self, parts: &[Clause]) -> Option<bool> {
        let bare = pst::Template::new(
            self.body.id.clone(),
            self.body.effect,
            self.body.principal.clone(),
            self.body.action.clone(),
            self.body.resource.clone(),
        );
        let template = bare.try_with_clauses(parts.to_vec()).ok()?;
        let policy = Policy::from_pst(pst::Policy::Static(template.try_into().ok()?)).ok()?;
        let set = PolicySet::from_policies([policy]).ok()?;
        let result = self.validator.validate(&set, ValidationMode::Strict);
        let impossible =
            |w: &ValidationWarning| matches!(w, ValidationWarning::ImpossiblePolicy(_));
        result
            .validation_passed()
            .then(|| result.validation_warnings().any(impossible))
    }
}

/// The `&&` parts of a clause, each a clause of its own; an `unless` stays whole.
fn split(clause: &Clause) -> Vec<Clause> {
    let Clause::When(expr) = clause else {
        return vec![clause.clone()];
    };
    let mut parts = Vec::new();
    let mut open = vec![expr];
    while let Some(at) = open.pop() {
        match &**at {
            Expr::BinaryOp {
                op: BinaryOp::And,
                left,
                right,
            } => open.extend([right, left]),
            _ => parts.push(Clause::When(Arc::clone(at))),
        }
    }
    parts
}

fn text(clause: &Clause) -> String {
    match clause {
        Clause::When(expr) => format!("`{expr}`"),
        Clause::Unless(expr) => format!("`unless {{ {expr} }}`"),
    }
}

/// Which two parts of a scope no action has together, and why; `None` where neither principal
/// nor resource is of one type.
pub(super) fn of_scope(policy: &Policy, schema: &Schema) -> Option<String> {
    let scope = Scope::of(policy);
    let (named, actions) = (named(&scope.action), actions(&scope.action, schema));
    let principal = typed("principal", Shape::of_principal(&scope.principal));
    let resource = typed("resource", Shape::of_resource(&scope.resource));
    let principals = types(&actions, |action| schema.principals_for_action(action));
    let resources = types(&actions, |action| schema.resources_for_action(action));
    for (part, known) in [(&principal, principals), (&resource, resources)] {
        if let Some((kind, written)) = part
            && !known.contains(kind)
        {
            let known: Vec<String> = known.iter().map(|k| format!("`{k}`")).collect();
            let takes = match known.as_slice() {
                [] => "that applies to nothing".to_owned(),
                known => format!("that takes {}", known.join(" or ")),
            };
            return Some(format!(
                "`{written}` and `{named}` cannot both hold: {takes}"
            ));
        }
    }
    let shapes = [
        Shape::of_principal(&scope.principal),
        Shape::of_resource(&scope.resource),
    ];
    if let Some(why) = ["principal", "resource"]
        .into_iter()
        .zip(shapes)
        .find_map(|(subject, shape)| outside(subject, shape, schema))
    {
        return Some(why);
    }
    let ((_, principal), (_, resource)) = (principal?, resource?);
    Some(format!(
        "`{principal}` and `{resource}` cannot both hold: `{named}` takes no such two"
    ))
}

/// Why nothing is of the type and in the entity that a part of a scope names: no entity of such a
/// type is in one of the other, by the schema.
fn outside(subject: &str, shape: Shape<'_>, schema: &Schema) -> Option<String> {
    let Shape::In(Some(kind), uid) = shape else {
        return None;
    };
    let holder = uid.type_name();
    let is_in = schema.ancestors(kind)?.any(|above| above == holder);
    let written = written(subject, shape)?;
    (!is_in && kind != holder)
        .then(|| format!("`{written}` holds for nothing: no `{kind}` is in any `{holder}`"))
}

/// How a scope names its actions.
fn named(constraint: &ActionConstraint) -> String {
    match constraint {
        ActionConstraint::Any => "action".to_owned(),
        ActionConstraint::Eq(uid) => format!("action == {uid}"),
        ActionConstraint::In(uids) => {
            let names: Vec<String> = uids.iter().map(ToString::to_string).collect();
            format!("action in {}", names.join(", "))
        }
    }
}

/// The actions that a scope takes.
fn actions(constraint: &ActionConstraint, schema: &Schema) -> Vec<EntityUid> {
    let groups = match constraint {
        ActionConstraint::Any => return schema.actions().cloned().collect(),
        ActionConstraint::Eq(uid) => return vec![uid.clone()],
        ActionConstraint::In(groups) => groups,
    };
    let Ok(hierarchy) = schema.action_entities() else {
        return Vec::new();
    };
    let is_in = |action: &&EntityUid| {
        let below = |group| hierarchy.is_ancestor_of(group, action);
        groups.iter().any(|group| group == *action || below(group))
    };
    schema.actions().filter(is_in).cloned().collect()
}

/// The types that any of the actions takes, in order.
fn types<'s, I: Iterator<Item = &'s EntityTypeName>>(
    actions: &[EntityUid],
    of: impl Fn(&EntityUid) -> Option<I>,
) -> Vec<&'s EntityTypeName> {
    let mut types: Vec<_> = actions.iter().filter_map(of).flatten().collect();
    types.sort_unstable();
    types.dedup();
    types
}

/// The one type that an entity of this shape has, and the shape as it is written.
fn typed<'s>(subject: &str, shape: Shape<'s>) -> Option<(&'s EntityTypeName, String)> {
    let kind = match shape {
        Shape::Eq(uid) => uid.type_name(),
        Shape::In(Some(kind), _) | Shape::Is(kind) => kind,
        Shape::Any | Shape::In(None, _) => return None,
    };
    Some((kind, written(subject, shape)?))
}

/// A part of a scope as it is written, where it says anything.
fn written(subject: &str, shape: Shape<'_>) -> Option<String> {
    Some(match shape {
        Shape::Any => return None,
        Shape::Eq(uid) => format!("{subject} == {uid}"),
        Shape::In(None, uid) => format!("{subject} in {uid}"),
        Shape::In(Some(kind), uid) => format!("{subject} is {kind} in {uid}"),
        Shape::Is(kind) => format!("{subject} is {kind}"),
    })
}
