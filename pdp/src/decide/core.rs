//! The one door to `cedar-policy-core`.
//!
//! Its interface is internal to Cedar and may change with any release, so the
//! version is pinned, only this module and those below it name its types, and
//! the reference path (public interface alone) checks what comes out.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use cedar_policy::{EntityUid, Policy, Schema};
use cedar_policy_core::{
    ast::{self, Context, EntityUIDEntry, Literal, SlotEnv, ValueKind},
    entities::{Entities, NoEntitiesSchema, TCComputation},
    evaluator::{EvaluationError, Evaluator},
    extensions::Extensions,
    validator::{ValidatorSchema, types::Type},
};

mod accept;
mod bare;
mod clause;
mod depth;
mod literal;
mod open;
mod tree;
mod values;
mod walk;

pub(crate) use accept::Accepting;
pub(crate) use clause::{Conjunct, Kind, start_of};
pub use depth::NESTING_MAX;
pub(crate) use depth::{nesting, with_stack};
pub(crate) use literal::Network;
pub(crate) use open::{Known, Outcomes, PathShape, Tree};
pub(crate) use tree::{Condition, Glob, Node, Term, written};
pub(crate) use values::{FixedRecords, ValueCache, context};
pub(crate) use walk::{Uses, uses};

/// The type of the context that an action comes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContextType<'s>(&'s Type);

impl<'s> ContextType<'s> {
    /// `None` where the schema does not say.
    pub(crate) fn of(schema: &'s Schema, action: &EntityUid) -> Option<Self> {
        let schema: &ValidatorSchema = schema.as_ref();
        schema.context_type(action.as_ref()).map(Self)
    }
}

/// An entity in the shape a request wants it: cloning it copies a pointer.
#[derive(Debug, Clone)]
pub(crate) struct Named(EntityUIDEntry);

impl Named {
    pub(crate) fn new(uid: &EntityUid) -> Self {
        Self(EntityUIDEntry::known(uid.as_ref().clone(), None))
    }
}

/// What is left of a policy when its scope is known to hold, in whole or in part.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    expr: Arc<ast::Expr>,
    slots: SlotEnv,
    /// Levels of the expression.
    depth: usize,
}

impl Body {
    /// The body of `policy`; `None` when it has neither `when` nor `unless`.
    pub(crate) fn of(policy: &Policy) -> Option<Self> {
        let policy: &ast::Policy = policy.as_ref();
        let expr = policy.non_scope_constraints_arc()?.clone();
        Some(Self::new(expr, policy.env().clone()))
    }

    fn new(expr: Arc<ast::Expr>, slots: SlotEnv) -> Self {
        let depth = depth::depth(&expr);
        Self { expr, slots, depth }
    }

    /// Levels of the expression.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// A part of it.
    fn part(&self, expr: &Arc<ast::Expr>) -> Self {
        Self::new(Arc::clone(expr), self.slots.clone())
    }

    /// The same without places in the source, which the evaluator would copy at
    /// every step.
    pub(crate) fn bare(&self) -> Self {
        Self {
            expr: Arc::new(bare::bare(&self.expr, bare::DEPTH_MAX)),
            slots: self.slots.clone(),
            depth: self.depth,
        }
    }
}

/// A context, ready to be evaluated against.
pub(crate) type Values = Context;

/// How a body came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truth {
    Error,
    False,
    True,
}

/// An entity that the store lacks and that has one parent, named by an attribute.
#[derive(Debug, Clone)]
pub(crate) struct Extra {
    pub(crate) uid: EntityUid,
    pub(crate) parent: EntityUid,
    pub(crate) attribute: &'static str,
}

/// What Cedar has against a set of entities.
pub(crate) type EntitiesFault = Box<cedar_policy::entities_errors::EntitiesError>;

/// The entities a body is evaluated against.
#[derive(Debug)]
pub(crate) struct Store(Entities);

impl Store {
    /// `entities` and `extras` together; shares what it can.
    pub(crate) fn new(
        entities: &cedar_policy::Entities,
        extras: &[Extra],
    ) -> Result<Self, EntitiesFault> {
        let made = extras.iter().map(entity).map(Arc::new);
        let core: &Entities = entities.as_ref();
        core.clone()
            .add_entities(
                made,
                None::<&NoEntitiesSchema>,
                // Nothing is above a parent that its own entry does not say, and
                // nothing is below an extra.
                TCComputation::AssumeAlreadyComputed,
                Extensions::all_available(),
            )
            .map(Self)
            .map_err(Box::new)
    }

    /// Begins to evaluate bodies for one request.
    pub(crate) fn ask(
        &self,
        principal: &Named,
        action: &Named,
        resource: &Named,
        context: Context,
    ) -> Evaluation<'_> {
        let request = ast::Request::new_unchecked(
            principal.0.clone(),
            action.0.clone(),
            resource.0.clone(),
            Some(context),
        );
        Evaluation(Evaluator::new(
            request,
            &self.0,
            Extensions::all_available(),
        ))
    }
}

/// Every entity that an attribute or tag of `entities` refers to.
pub(crate) fn referred(entities: &cedar_policy::Entities) -> BTreeSet<EntityUid> {
    let core: &Entities = entities.as_ref();
    let values = core.iter().flat_map(|e| e.attrs().chain(e.tags()));
    let mut referred = BTreeSet::new();
    for (_, value) in values {
        if let ast::PartialValue::Value(value) = value {
            referred.extend(value.all_literal_uids().into_iter().map(EntityUid::from));
        }
    }
    referred
}

/// One request against one store.
pub(crate) struct Evaluation<'s>(Evaluator<'s>);

impl Evaluation<'_> {
    /// How `body` comes out; a value that is no boolean is an error, as in Cedar.
    pub(crate) fn test(&self, body: &Body) -> Truth {
        match self.value(body) {
            Ok(value) => truth(&value),
            Err(_) => Truth::Error,
        }
    }

    fn value(&self, body: &Body) -> Result<ast::Value, Box<EvaluationError>> {
        with_stack(body.depth, || {
            let value = self.0.interpret(&body.expr, &body.slots);
            value.map_err(Box::new)
        })
    }
}

fn truth(value: &ast::Value) -> Truth {
    match value.value_kind() {
        ValueKind::Lit(Literal::Bool(true)) => Truth::True,
        ValueKind::Lit(Literal::Bool(false)) => Truth::False,
        _ => Truth::Error,
    }
}

fn entity(extra: &Extra) -> ast::Entity {
    let parent: &ast::EntityUID = extra.parent.as_ref();
    let value = ast::PartialValue::Value(ast::Value::new(Literal::from(parent.clone()), None));
    ast::Entity::new_with_attr_partial_value(
        extra.uid.as_ref().clone(),
        HashMap::from([(extra.attribute.into(), value)]),
        HashSet::new(),
        HashSet::from([parent.clone()]),
        [],
    )
}
