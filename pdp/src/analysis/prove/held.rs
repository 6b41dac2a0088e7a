//! The enforced policies of a revision, written so that Cedar's own rules alone give the engine's
//! answer.
//!
//! The engine knows rules that Cedar does not: permits expire or are in shadow mode, and a
//! `forbid` that asks for an entity which is missing stops everything in its scope. Here these
//! are part of the policies themselves: a shadow permit is left out, one that expires has
//! one more condition, and such a `forbid` is its widened scope without conditions.

use std::collections::BTreeMap;

use cedar_policy::{
    ActionConstraint, AuthorizationError, Authorizer, Entities, EntityTypeName, EntityUid, Policy,
    PolicyId, PolicySet, Request,
};
use palisade_mesh::spiffe_id::SpiffeId;
use smol_str::SmolStr;

use super::{
    kind::{Kind, is_stranger_in},
    rewrite::{scope_only, when},
    solver::Failure,
};
use crate::decide::{
    Snapshot,
    fact::{US_PER_SECOND, moment_text},
    rule::{Rule, Scope, Shape},
    world::{Ent, World},
};

/// Which way to round an `@expires` within a second: the clock of a context has seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// The permit ends with the second before.
    Down,
    /// It lasts to the end of that second.
    Up,
}

/// The enforced policies of one revision.
pub(crate) struct Held {
    policies: BTreeMap<SmolStr, One>,
    /// Permits that are not enforced, or have expired: they are not in the set.
    unenforced: usize,
}

/// One enforced policy.
pub(crate) struct One {
    pub(crate) permit: bool,
    pub(crate) policy: Policy,
    scope: Scope,
}

/// The policies that are satisfied by one request, and the forbids that fail.
#[derive(Debug, Default)]
pub(crate) struct Fired {
    pub(crate) permits: Vec<SmolStr>,
    pub(crate) forbids: Vec<SmolStr>,
    pub(crate) failed: Vec<SmolStr>,
}

impl Fired {
    /// Whether the engine would let the request pass.
    pub(crate) fn allows(&self) -> bool {
        !self.permits.is_empty() && self.forbids.is_empty() && self.failed.is_empty()
    }

    /// The forbids that stop it.
    pub(crate) fn stopped_by(&self) -> Vec<SmolStr> {
        self.forbids.iter().chain(&self.failed).cloned().collect()
    }
}

impl Held {
    /// What `snapshot` enforces from `now_us` on.
    pub(crate) fn new(snapshot: &Snapshot, now_us: i64, round: Round) -> Result<Self, Failure> {
        let mut policies = BTreeMap::new();
        let mut unenforced = 0;
        for rule in snapshot.rules() {
            if !rule.enforced(now_us) {
                unenforced += 1;
                continue;
            }
            let policy = snapshot
                .compiled()
                .policies
                .policy(&PolicyId::new(rule.id.as_str()))
                .ok_or_else(|| Failure(format!("bug: policy `{}` is gone", rule.id)))?;
            let policy = as_enforced(policy, rule, round)?;
            let one = One {
                permit: rule.permit,
                scope: Scope::of(&policy),
                policy,
            };
            policies.insert(rule.id.clone(), one);
        }
        Ok(Self {
            policies,
            unenforced,
        })
    }

    pub(crate) fn get(&self, id: &str) -> Option<&One> {
        self.policies.get(id)
    }

    /// How many policies of the revision are not enforced.
    pub(crate) fn unenforced(&self) -> usize {
        self.unenforced
    }

    /// What the policies say about a request, in whatever world.
    pub(crate) fn decide(&self, request: &Request, entities: &Entities) -> Fired {
        let (mut permits, mut forbids) = (PolicySet::new(), PolicySet::new());
        for one in self.policies.values() {
            if !one.in_scope(request, entities) {
                continue;
            }
            let set = if one.permit {
                &mut permits
            } else {
                &mut forbids
            };
            // Ids are those of a map, so none is there twice.
            let _ = set.add(one.policy.clone());
        }
        let ask = |set: &PolicySet| Authorizer::new().is_authorized(request, set, entities);
        let (allow, deny) = (ask(&permits), ask(&forbids));
        let ids = |answer: &cedar_policy::Response| -> Vec<SmolStr> {
            let reason = answer.diagnostics().reason();
            reason.map(SmolStr::new).collect()
        };
        Fired {
            permits: ids(&allow),
            forbids: ids(&deny),
            failed: deny
                .diagnostics()
                .errors()
                .map(|AuthorizationError::PolicyEvaluationError(e)| SmolStr::new(e.policy_id()))
                .collect(),
        }
    }
}

impl One {
    /// Scope tests cannot fail, so a policy whose scope is false says nothing.
    pub(crate) fn in_scope(&self, request: &Request, entities: &Entities) -> bool {
        let is_in = |uid: &EntityUid, other: &EntityUid| {
            uid == other || entities.is_ancestor_of(other, uid)
        };
        let holds = |shape: Shape<'_>, uid: Option<&EntityUid>| {
            let Some(uid) = uid else { return true };
            match shape {
                Shape::Any => true,
                Shape::Eq(other) => uid == other,
                Shape::In(kind, other) => {
                    kind.is_none_or(|k| uid.type_name() == k) && is_in(uid, other)
                }
                Shape::Is(kind) => uid.type_name() == kind,
            }
        };
        let action = match (&self.scope.action, request.action()) {
            (ActionConstraint::Any, _) | (_, None) => true,
            (ActionConstraint::Eq(uid), Some(action)) => uid == action,
            (ActionConstraint::In(uids), Some(action)) => uids.iter().any(|u| is_in(action, u)),
        };
        action
            && holds(
                Shape::of_principal(&self.scope.principal),
                request.principal(),
            )
            && holds(Shape::of_resource(&self.scope.resource), request.resource())
    }
}

/// The same scope in the registry of a snapshot.
impl One {
    /// Whether its scope takes the action of a kind, which no registry changes.
    pub(crate) fn takes_action(&self, kind: &Kind, world: &World) -> bool {
        match &self.scope.action {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => *uid == kind.action,
            ActionConstraint::In(uids) => {
                let action = world.find(&kind.action);
                action.is_some_and(|a| uids.iter().any(|uid| is_in(world, a, uid)))
            }
        }
    }

    /// Callers and asks of a kind that are in its scope, by position.
    pub(crate) fn of_kind(&self, kind: &Kind, world: &World) -> (Vec<usize>, Vec<usize>) {
        let is_in = |entity: Ent, uid: &EntityUid| is_in(world, entity, uid);
        if !self.takes_action(kind, world) {
            return (Vec::new(), Vec::new());
        }
        let takes = |shape: Shape<'_>, entity: Ent| {
            let is = |kind: &EntityTypeName| {
                world.uid(entity).is_some_and(|uid| uid.type_name() == kind)
            };
            match shape {
                Shape::Any => true,
                Shape::Eq(uid) => world.find(uid) == Some(entity),
                Shape::In(kind, uid) => kind.is_none_or(is) && is_in(entity, uid),
                Shape::Is(kind) => is(kind),
            }
        };
        // What the newer revision does not name, it does not tell apart.
        let takes_stranger = |shape: Shape<'_>, id: &SpiffeId| match shape {
            Shape::Any => true,
            Shape::Eq(uid) => {
                uid.type_name().to_string() == kind.principal && is_stranger_in(id, uid)
            }
            Shape::In(of, uid) => {
                of.is_none_or(|of| of.to_string() == kind.principal) && is_stranger_in(id, uid)
            }
            Shape::Is(of) => of.to_string() == kind.principal,
        };
        let principal = Shape::of_principal(&self.scope.principal);
        let callers = kind.callers.iter().zip(&kind.ids);
        let callers = callers.filter(|((_, entity), id)| match kind.of_strangers() {
            true => takes_stranger(principal, id),
            false => takes(principal, *entity),
        });
        let resource = Shape::of_resource(&self.scope.resource);
        let asks = kind
            .asks
            .iter()
            .filter(|(_, entity)| takes(resource, *entity));
        (
            callers.map(|((i, _), _)| *i).collect(),
            asks.map(|(i, _)| *i).collect(),
        )
    }
}

fn as_enforced(policy: &Policy, rule: &Rule, round: Round) -> Result<Policy, Failure> {
    if !rule.permit && !rule.missing.is_empty() {
        return scope_only(policy, &rule.missing);
    }
    let Some(at) = rule.expires_us else {
        return Ok(policy.clone());
    };
    let second = match round {
        Round::Down => at.div_euclid(US_PER_SECOND),
        Round::Up => at.div_euclid(US_PER_SECOND) + i64::from(at.rem_euclid(US_PER_SECOND) != 0),
    };
    match moment_text(second) {
        Some(text) => when(policy, &format!("context.time.now < datetime(\"{text}\")")),
        None => Err(Failure(format!(
            "`@expires` of `{}` is out of the years that Cedar has",
            rule.id
        ))),
    }
}

fn is_in(world: &World, entity: Ent, uid: &EntityUid) -> bool {
    let above = world.above(entity);
    world
        .find(uid)
        .is_some_and(|e| above.binary_search(&e).is_ok())
}

#[cfg(test)]
mod tests {
    use cedar_policy::Context;

    use super::*;
    use crate::decide::testing::{NOW_US, WEB, snapshot};

    /// What is held of `policies`, as Cedar text.
    fn check(policies: &str, round: Round, expected: &[&str]) {
        let held = Held::new(&snapshot(policies), NOW_US, round).unwrap();
        let texts: Vec<String> = held
            .policies
            .values()
            .map(|one| {
                let json = one.policy.to_json().unwrap();
                let mut bare = json.as_object().unwrap().clone();
                bare.remove("annotations");
                let policy = Policy::from_json(None, bare.into()).unwrap();
                policy
                    .to_string()
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        assert_eq!(texts, expected, "{policies}");
    }

    #[test]
    fn rules_that_cedar_lacks_are_written_into_the_policies() {
        check(
            "@id(\"s\") @mode(\"shadow\") permit (principal, action, resource);",
            Round::Up,
            &[],
        );
        check(
            "@id(\"old\") @expires(\"2020-01-01T00:00:00Z\") permit (principal, action, resource);",
            Round::Up,
            &[],
        );
        let fraction =
            "@id(\"e\") @expires(\"2027-01-01T00:00:00.5Z\") permit (principal, action, resource);";
        for (round, text) in [(Round::Down, "00"), (Round::Up, "01")] {
            let expected = format!(
                "permit(principal, action, resource) when {{ context.time.now < datetime(\"2027-01-01T00:00:{text}Z\") }};"
            );
            check(fraction, round, &[expected.as_str()]);
        }
        check(
            "@id(\"f\") forbid (principal in Group::\"nowhere\", action, resource) when { context.tls.mtls };",
            Round::Up,
            &["forbid(principal, action, resource);"],
        );
    }

    #[test]
    fn what_fired_is_told_also_for_a_deny() {
        let policies = "@id(\"p\") permit (principal in Service::\"acme.test/shop/web\", action, resource); \
             @id(\"q\") permit (principal in Service::\"acme.test/jobs/batch\", action, resource); \
             @id(\"f\") forbid (principal, action, resource) when { 1 < 2 };";
        let snapshot = snapshot(policies);
        let held = Held::new(&snapshot, NOW_US, Round::Up).unwrap();
        let uid = |kind: &str, id: &str| crate::decide::world::uid(kind, id);
        let request = Request::new(
            uid("Workload", WEB),
            uid("Action", "GET"),
            uid("Service", "acme.test/shop/orders"),
            Context::empty(),
            None,
        );
        let fired = held.decide(&request.unwrap(), &snapshot.compiled().entities);
        assert_eq!(
            (fired.permits, fired.forbids),
            (vec!["p".into()], vec!["f".into()])
        );
        assert_eq!(fired.failed, [] as [SmolStr; 0]);
    }
}
