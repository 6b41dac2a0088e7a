//! The permits that came nearest to a request that none permitted.

use cedar_policy::{ActionConstraint, EntityUid, PolicyId};

use super::{
    super::rule::{Rule, Scope, Shape},
    case::Case,
    view::PolicyView,
};

/// Most permits named in an explanation.
const NEAREST_MAX: usize = 3;
/// Most permits whose conditions are tried although their scope fails.
const TRIED_MAX: usize = 64;

/// The part of a scope that fails, most telling first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    None,
    Action,
    Principal,
    Resource,
}

/// The nearest permits, nearest first: those in scope, then those whose scope
/// fails in one place.
pub(super) fn nearest(case: &Case<'_>) -> Vec<PolicyView> {
    let permits = case.snapshot.rules().iter().filter(|rule| rule.permit);
    let mut near: Vec<(Part, &Rule)> = permits
        .filter_map(|rule| failing(case, rule).map(|part| (part, rule)))
        .collect();
    near.sort_by_key(|(part, rule)| (*part, rule.id.clone()));
    let in_scope = near.partition_point(|(part, _)| *part == Part::None);
    near.truncate(in_scope.saturating_add(TRIED_MAX));
    let mut views: Vec<(Part, usize, PolicyView)> = near
        .into_iter()
        .filter_map(|(part, rule)| {
            let scope: Vec<String> = words(case, rule, part).into_iter().collect();
            let view = case.view(rule, &scope)?;
            Some((part, view.clauses.len() - view.passed, view))
        })
        .collect();
    views.sort_by(|a, b| (a.0, a.1, &a.2.id).cmp(&(b.0, b.1, &b.2.id)));
    let views = views.into_iter().map(|(_, _, view)| view);
    views.take(NEAREST_MAX).collect()
}

/// The one part of the scope that fails; `None` when more than one does.
fn failing(case: &Case<'_>, rule: &Rule) -> Option<Part> {
    let world = case.snapshot.world();
    let (principal, action, resource) = case.entities;
    let parts = [
        (rule.action.holds(action, world), Part::Action),
        (rule.principal.holds(principal, world), Part::Principal),
        (rule.resource.holds(resource, world), Part::Resource),
    ];
    let mut failed = parts.into_iter().filter(|(holds, _)| !holds);
    match (failed.next(), failed.next()) {
        (None, _) => Some(Part::None),
        (Some((_, part)), None) => Some(part),
        _ => None,
    }
}

/// What the failing part wants.
fn words(case: &Case<'_>, rule: &Rule, part: Part) -> Option<String> {
    let policies = &case.snapshot.compiled().policies;
    let scope = Scope::of(policies.policy(&PolicyId::new(rule.id.as_str()))?);
    match part {
        Part::None => None,
        Part::Action => Some(match &scope.action {
            ActionConstraint::Any => return None,
            ActionConstraint::Eq(uid) => format!("wrong action: wants {}", name(uid)),
            ActionConstraint::In(uids) => {
                let names: Vec<String> = uids.iter().map(name).collect();
                format!("wrong action: wants one in {}", names.join(", "))
            }
        }),
        Part::Principal => wanted("principal", Shape::of_principal(&scope.principal)),
        Part::Resource => wanted("resource", Shape::of_resource(&scope.resource)),
    }
}

fn wanted(who: &str, shape: Shape<'_>) -> Option<String> {
    Some(match shape {
        Shape::Any => return None,
        Shape::Eq(uid) => format!("{who} is not {uid}"),
        Shape::In(None, uid) => format!("{who} is not in {uid}"),
        Shape::In(Some(kind), uid) => format!("{who} is not a {kind} in {uid}"),
        Shape::Is(kind) => format!("{who} is not a {kind}"),
    })
}

fn name(uid: &EntityUid) -> String {
    uid.id().unescaped().to_owned()
}
