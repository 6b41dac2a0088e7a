//! One policy as the engine holds it: scope as numbers, body, what it reads.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use cedar_policy::{ActionConstraint, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};
use smol_str::SmolStr;

use super::{
    core::{Body, Uses},
    field::Field,
    world::{Ent, Kind, World},
};
use crate::compiled::PolicyInfo;

/// A scope constraint on principal or resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Any,
    Eq(Ent),
    In(Ent),
    Is(Kind),
    IsIn(Kind, Ent),
    /// Its type or entity occurs nowhere.
    Never,
}

/// A scope constraint on the action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ActionTest {
    Any,
    Eq(Ent),
    In(Box<[Ent]>),
}

/// The three scope constraints of a policy as they were written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scope {
    pub(crate) principal: PrincipalConstraint,
    pub(crate) action: ActionConstraint,
    pub(crate) resource: ResourceConstraint,
}

/// One policy.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) id: SmolStr,
    pub(crate) permit: bool,
    /// Evaluated and counted, never enforced.
    pub(crate) shadow: bool,
    pub(crate) expires_us: Option<i64>,
    pub(crate) principal: Test,
    pub(crate) action: ActionTest,
    pub(crate) resource: Test,
    pub(crate) body: Option<Body>,
    /// Fields of the context that its body reads.
    pub(crate) reads: Box<[Field]>,
    /// Entities whose members, attributes or tags it tests for and which the snapshot
    /// lacks; forbids only.
    pub(crate) missing: Box<[EntityUid]>,
    /// Its scope asks for members of a missing entity. Its tests then leave that
    /// part out, and it is never evaluated.
    pub(crate) void: bool,
    /// How many decisions it would have permitted; shadow permits only.
    pub(crate) matched: AtomicU64,
}

impl Rule {
    pub(crate) fn new(policy: &Policy, info: &PolicyInfo, uses: Uses, world: &World) -> Self {
        let scope = Scope::of(policy);
        let absent = |uid: &&EntityUid| !info.permit && !world.has_members(uid);
        let void: BTreeSet<EntityUid> = scope.members().iter().filter(absent).cloned().collect();
        let missing = uses.members.iter().filter(absent).chain(&void);
        let missing: BTreeSet<EntityUid> = missing.cloned().collect();
        Self {
            id: info.id.clone(),
            permit: info.permit,
            shadow: info.shadow,
            expires_us: info.expires_us,
            principal: principal_test(&scope.principal, world, &void),
            action: action_test(&scope.action, world),
            resource: resource_test(&scope.resource, world, &void),
            body: Body::of(policy).map(|body| body.bare()),
            reads: uses.fields.into_iter().collect(),
            missing: missing.into_iter().collect(),
            void: !void.is_empty(),
            matched: AtomicU64::new(0),
        }
    }

    /// Whether it is past its `@expires`.
    pub(crate) fn expired(&self, now_us: i64) -> bool {
        self.expires_us.is_some_and(|at| at <= now_us)
    }

    /// Whether it can take part in a verdict at all.
    pub(crate) fn enforced(&self, now_us: i64) -> bool {
        !self.shadow && !self.expired(now_us)
    }

    pub(crate) fn count(&self) {
        self.matched.fetch_add(1, Ordering::Relaxed);
    }
}

impl Test {
    pub(crate) fn holds(self, entity: Ent, world: &World) -> bool {
        let is = |kind| world.kind(entity) == Some(kind);
        let is_in = |e: Ent| world.above(entity).binary_search(&e).is_ok();
        match self {
            Self::Any => true,
            Self::Eq(e) => e == entity,
            Self::In(e) => is_in(e),
            Self::Is(kind) => is(kind),
            Self::IsIn(kind, e) => is(kind) && is_in(e),
            Self::Never => false,
        }
    }

    fn new(shape: Shape<'_>, world: &World, void: &BTreeSet<EntityUid>) -> Self {
        let entity = |uid| world.find(uid);
        let made = match shape {
            Shape::Any => Some(Self::Any),
            Shape::Eq(uid) => entity(uid).map(Self::Eq),
            Shape::In(None, uid) if void.contains(uid) => Some(Self::Any),
            Shape::In(None, uid) => entity(uid).map(Self::In),
            Shape::In(Some(name), uid) if void.contains(uid) => {
                world.kind_of_type(name).map(Self::Is)
            }
            Shape::In(Some(name), uid) => world
                .kind_of_type(name)
                .zip(entity(uid))
                .map(|(kind, e)| Self::IsIn(kind, e)),
            Shape::Is(name) => world.kind_of_type(name).map(Self::Is),
        };
        made.unwrap_or(Self::Never)
    }
}

impl ActionTest {
    pub(crate) fn holds(&self, action: Ent, world: &World) -> bool {
        match self {
            Self::Any => true,
            Self::Eq(e) => *e == action,
            Self::In(set) => {
                let above = world.above(action);
                set.iter().any(|e| above.binary_search(e).is_ok())
            }
        }
    }
}

impl Scope {
    pub(crate) fn of(policy: &Policy) -> Self {
        Self {
            principal: policy.principal_constraint(),
            action: policy.action_constraint(),
            resource: policy.resource_constraint(),
        }
    }

    /// Every entity it names.
    pub(crate) fn entities(&self) -> Vec<EntityUid> {
        let mut named = self.members();
        if let PrincipalConstraint::Eq(uid) = &self.principal {
            named.push(uid.clone());
        }
        if let ResourceConstraint::Eq(uid) = &self.resource {
            named.push(uid.clone());
        }
        match &self.action {
            ActionConstraint::Any => {}
            ActionConstraint::Eq(uid) => named.push(uid.clone()),
            ActionConstraint::In(uids) => named.extend(uids.iter().cloned()),
        }
        named
    }

    /// Every entity whose members it asks for; the schema knows those of actions.
    fn members(&self) -> Vec<EntityUid> {
        let shapes = [
            Shape::of_principal(&self.principal),
            Shape::of_resource(&self.resource),
        ];
        let members = shapes.into_iter().filter_map(|shape| match shape {
            Shape::In(_, uid) => Some(uid.clone()),
            _ => None,
        });
        members.collect()
    }
}

/// What principal and resource constraints have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape<'a> {
    Any,
    Eq(&'a EntityUid),
    In(Option<&'a cedar_policy::EntityTypeName>, &'a EntityUid),
    Is(&'a cedar_policy::EntityTypeName),
}

impl<'a> Shape<'a> {
    pub(crate) fn of_principal(constraint: &'a PrincipalConstraint) -> Self {
        match constraint {
            PrincipalConstraint::Any => Self::Any,
            PrincipalConstraint::Eq(uid) => Self::Eq(uid),
            PrincipalConstraint::In(uid) => Self::In(None, uid),
            PrincipalConstraint::Is(name) => Self::Is(name),
            PrincipalConstraint::IsIn(name, uid) => Self::In(Some(name), uid),
        }
    }

    pub(crate) fn of_resource(constraint: &'a ResourceConstraint) -> Self {
        match constraint {
            ResourceConstraint::Any => Self::Any,
            ResourceConstraint::Eq(uid) => Self::Eq(uid),
            ResourceConstraint::In(uid) => Self::In(None, uid),
            ResourceConstraint::Is(name) => Self::Is(name),
            ResourceConstraint::IsIn(name, uid) => Self::In(Some(name), uid),
        }
    }
}

fn principal_test(c: &PrincipalConstraint, world: &World, void: &BTreeSet<EntityUid>) -> Test {
    Test::new(Shape::of_principal(c), world, void)
}

fn resource_test(c: &ResourceConstraint, world: &World, void: &BTreeSet<EntityUid>) -> Test {
    Test::new(Shape::of_resource(c), world, void)
}

fn action_test(constraint: &ActionConstraint, world: &World) -> ActionTest {
    match constraint {
        ActionConstraint::Any => ActionTest::Any,
        ActionConstraint::Eq(uid) => match world.find(uid) {
            Some(e) => ActionTest::Eq(e),
            None => ActionTest::In(Box::new([])),
        },
        ActionConstraint::In(uids) => {
            ActionTest::In(uids.iter().filter_map(|u| world.find(u)).collect())
        }
    }
}
