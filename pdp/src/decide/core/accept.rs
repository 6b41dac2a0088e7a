//! What Cedar's validation has nothing against, found with a fraction of its work.
//!
//! Cedar types each policy under every action of the schema, and twice where levels count:
//! with business actions the work is policies times actions. But a policy tells actions
//! apart only by naming them, or what is above them. So of actions that stand below
//! the same ones and apply alike, one answers for all that the policy does not name; and
//! an action outside the policy's scope is not looked at. Whatever does not pass here is
//! given to the whole validation, whose word counts.

use std::{collections::BTreeSet, iter};

use cedar_policy::{Policy, Schema};
use cedar_policy_core::{
    ast::{self, ActionConstraint, BinaryOp, EntityUID, Expr, ExprKind, Literal, Template},
    parser::Loc,
    validator::{
        ValidationMode, Validator, ValidatorSchema, confusable_string_checks,
        typecheck::{PolicyCheck, Typechecker},
        types::{RequestEnv, Type},
    },
};
use rustc_hash::FxHashMap;

/// Most attributes of a `has a.b` on the context that cannot reach beyond one entity.
const CHAIN_MAX: usize = 2;

/// Accepts policies that strict validation at level 1 has nothing against.
pub(crate) struct Accepting<'s> {
    /// None where the schema is not complete: nothing is accepted.
    schema: Option<&'s ValidatorSchema>,
    typechecker: Typechecker<'s>,
    classes: Vec<Class<'s>>,
    /// Class and position of each action.
    places: FxHashMap<&'s EntityUID, (usize, usize)>,
}

/// Actions that a policy which names none of them cannot tell apart.
struct Class<'s> {
    /// What is above each of them.
    above: BTreeSet<EntityUID>,
    /// Whether something is below; such an action is alone.
    group: bool,
    actions: Vec<Action<'s>>,
}

/// An action, and the kinds of requests that have it.
struct Action<'s> {
    uid: &'s EntityUID,
    requests: Vec<RequestEnv<'s>>,
}

impl<'s> Accepting<'s> {
    pub(crate) fn new(schema: &'s Schema) -> Self {
        let core: &ValidatorSchema = schema.as_ref();
        let mut accepting = Self {
            schema: schema.is_complete().then_some(core),
            typechecker: Typechecker::new(core, ValidationMode::Strict),
            classes: Vec::new(),
            places: FxHashMap::default(),
        };
        let Ok(entities) = schema.action_entities() else {
            accepting.schema = None;
            return accepting;
        };
        let mut above: FxHashMap<EntityUID, BTreeSet<EntityUID>> = FxHashMap::default();
        for entity in entities.iter() {
            let entity: &ast::Entity = entity.as_ref();
            let ancestors = entity.ancestors().cloned().collect();
            above.insert(entity.uid().clone(), ancestors);
        }
        let groups: BTreeSet<EntityUID> = above.values().flatten().cloned().collect();
        let mut actions: Vec<Action<'s>> = Vec::new();
        let mut at: FxHashMap<&EntityUID, usize> = FxHashMap::default();
        for request in core.unlinked_request_envs(ValidationMode::Strict) {
            let Some(uid) = request.action_entity_uid() else {
                continue;
            };
            let place = *at.entry(uid).or_insert(actions.len());
            match actions.get_mut(place) {
                Some(action) => action.requests.push(request),
                None => actions.push(Action {
                    uid,
                    requests: vec![request],
                }),
            }
        }
        for action in actions {
            let above = above.remove(action.uid).unwrap_or_default();
            let group = groups.contains(action.uid);
            accepting.add(action, above, group);
        }
        accepting
    }

    fn add(&mut self, action: Action<'s>, above: BTreeSet<EntityUID>, group: bool) {
        let same = |class: &Class<'s>| {
            let first = class.actions.first();
            !group
                && !class.group
                && class.above == above
                && first.is_some_and(|f| f.alike(&action))
        };
        let class = self.classes.iter().position(same).unwrap_or_else(|| {
            self.classes.push(Class {
                above,
                group,
                actions: Vec::new(),
            });
            self.classes.len() - 1
        });
        if let Some(of) = self.classes.get_mut(class) {
            self.places.insert(action.uid, (class, of.actions.len()));
            of.actions.push(action);
        }
    }

    /// Whether validation has nothing against `policy`, not even a warning. False says
    /// nothing.
    pub(crate) fn accepts(&self, policy: &Policy) -> bool {
        let policy: &ast::Policy = policy.as_ref();
        let template = policy.template();
        let Some(schema) = self.schema else {
            return false;
        };
        let mut unknown = Validator::validate_entity_types_and_literals(schema, template);
        if unknown.next().is_some() || !is_readable(template) {
            return false;
        }
        let condition = template.condition();
        let named: BTreeSet<&EntityUID> = condition.subexpressions().filter_map(literal).collect();
        let mut applies = false;
        for request in self.requests(template.action_constraint(), &named) {
            let check = self
                .typechecker
                .typecheck_by_single_request_env(template, request);
            match &check {
                PolicyCheck::Success(typed) if is_near(typed) => applies = true,
                PolicyCheck::Irrelevant(errors, typed) if errors.is_empty() && is_near(typed) => {}
                _ => return false,
            }
        }
        applies
    }

    /// The kinds of requests that a policy with this scope, which names these entities, can
    /// tell apart.
    fn requests<'a>(
        &'a self,
        scope: &'a ActionConstraint,
        named: &'a BTreeSet<&EntityUID>,
    ) -> impl Iterator<Item = &'a RequestEnv<'s>> {
        let places = named.iter().filter_map(|uid| self.places.get(*uid));
        let own = places.filter_map(|(class, at)| {
            let class = self.classes.get(*class)?;
            Some((class, class.actions.get(*at)?))
        });
        let others = self.classes.iter().filter_map(|class| {
            let mut actions = class.actions.iter();
            Some((class, actions.find(|action| !named.contains(action.uid))?))
        });
        let held = own.chain(others);
        let held = held.filter(|(class, action)| holds(scope, class, action));
        held.flat_map(|(_, action)| &action.requests)
    }
}

impl Action<'_> {
    /// Whether it applies to the same, with the same context.
    fn alike(&self, other: &Self) -> bool {
        let types = |action: &Self| {
            let requests = action.requests.iter();
            let types = requests.map(|r| {
                let (principal, resource) = (r.principal_entity_type(), r.resource_entity_type());
                (principal.cloned(), resource.cloned())
            });
            types.collect::<BTreeSet<_>>()
        };
        let context = |action: &Self| action.requests.first().map(RequestEnv::context_type);
        types(self) == types(other) && context(self) == context(other)
    }
}

fn holds(scope: &ActionConstraint, class: &Class<'_>, action: &Action<'_>) -> bool {
    if let ActionConstraint::Eq(uid) = scope {
        return **uid == *action.uid;
    }
    if let ActionConstraint::In(uids) = scope {
        let is_it = |uid: &EntityUID| uid == action.uid || class.above.contains(uid);
        return uids.iter().any(|uid| is_it(uid));
    }
    true
}

/// Whether no text in it looks like another, or hides its direction.
fn is_readable(template: &Template) -> bool {
    let text = template.loc().and_then(Loc::snippet);
    text.is_some_and(is_plain)
        || confusable_string_checks(iter::once(template))
            .next()
            .is_none()
}

/// Whether a policy has nothing but printable ASCII, without escapes and with its line
/// ends outside of quotation marks: then so have all its texts, and looking the script of each
/// character up is needless. A quotation mark in a comment makes it not plain, if anything.
fn is_plain(text: &str) -> bool {
    let mut quoted = false;
    text.bytes().all(|byte| match byte {
        b'"' => {
            quoted = !quoted;
            true
        }
        b'\n' => !quoted,
        b'\\' => false,
        byte => (b' '..=b'~').contains(&byte),
    })
}

fn literal(expr: &Expr) -> Option<&EntityUID> {
    match expr.expr_kind() {
        ExprKind::Lit(Literal::EntityUID(uid)) => Some(uid),
        _ => None,
    }
}

/// Whether no part looks further than into `principal`, `action`, `resource` and what the
/// context names. False also for what is rarely written.
fn is_near(typed: &Expr<Option<Type>>) -> bool {
    typed.subexpressions().all(|part| match part.expr_kind() {
        ExprKind::GetAttr { expr, .. } | ExprKind::HasAttr { expr, .. } => match expr.data() {
            Some(Type::Record { .. }) => true,
            Some(Type::Entity(_)) => is_at_hand(expr),
            _ => false,
        },
        ExprKind::ExtHasAttr { expr, attrs } => {
            let record = matches!(expr.data(), Some(Type::Record { .. }));
            record && matches!(expr.expr_kind(), ExprKind::Var(_)) && attrs.len() <= CHAIN_MAX
        }
        ExprKind::BinaryApp {
            op: BinaryOp::In | BinaryOp::HasTag | BinaryOp::GetTag,
            arg1,
            ..
        } => is_at_hand(arg1),
        _ => true,
    })
}

/// Whether it is a variable, or a part of the context on the way to which no entity is.
fn is_at_hand(typed: &Expr<Option<Type>>) -> bool {
    match typed.expr_kind() {
        ExprKind::Var(_) => true,
        ExprKind::GetAttr { expr, .. } => {
            matches!(expr.data(), Some(Type::Record { .. })) && is_at_hand(expr)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::{PolicySet, ValidationMode, Validator};
    use proptest::prelude::*;

    use super::*;
    use crate::decide::{testing::SCHEMA, tests::property::policy};

    fn schema(more: &str) -> Schema {
        let text = format!("{SCHEMA}{more}");
        Schema::from_cedarschema_str(&text).expect("schema").0
    }

    /// Whether it is accepted, and whether the whole validation has nothing against it.
    fn both(schema: &Schema, text: &str) -> (bool, bool) {
        let set: PolicySet = text.parse().unwrap_or_else(|e| panic!("{e:?}\n{text}"));
        let accepting = Accepting::new(schema);
        let accepted = set.policies().all(|policy| accepting.accepts(policy));
        let validator = Validator::new(schema.clone());
        let result = validator.validate_with_level(&set, ValidationMode::Strict, 1);
        let clean = result.validation_passed_without_warnings();
        (accepted, clean)
    }

    #[test]
    fn what_is_plainly_right_is_accepted() {
        let schema = schema("");
        for text in [
            "permit (principal, action, resource);",
            r#"permit (principal in Service::"a", action in Action::"http:read", resource in Service::"b");"#,
            r#"permit (principal is Workload, action == Action::"orders:refund", resource) when { context.http.path like "/a*" };"#,
            r#"forbid (principal, action in Action::"http", resource) unless { context.http.headers has "x-change-id" && context.http.headers["x-change-id"] like "CHG-*" };"#,
            r#"permit (principal, action, resource) when { principal.trustDomain == TrustDomain::"acme.test" };"#,
            r#"permit (principal, action in Action::"http", resource) when { context has user && context.user in Group::"admins" && context.user.issuer == "x" };"#,
            r#"permit (principal, action, resource) when { context has http.query };"#,
            r#"permit (principal is Workload, action, resource is Service) when { principal.hasTag("a") && resource has tier };"#,
            r#"permit (principal, action in Action::"http", resource) when { action != Action::"GET" && context.http.host == "a" };"#,
        ] {
            assert_eq!(both(&schema, text), (true, true), "{text}");
        }
    }

    #[test]
    fn what_validation_objects_to_is_not_accepted() {
        let schema = schema("");
        for text in [
            r#"permit (principal, action, resource) when { context.http.path == "/" };"#,
            r#"permit (principal, action == Action::"nothing", resource);"#,
            r#"permit (principal in Servce::"a", action, resource);"#,
            r#"permit (principal in Operation::"a", action, resource);"#,
            r#"permit (principal, action in Action::"http", resource) when { context.http.query == "q" };"#,
            r#"permit (principal is Workload, action, resource) when { principal has namespace && principal.namespace in TrustDomain::"a" };"#,
            r#"permit (principal, action, resource) when { Group::"a" in Group::"b" };"#,
            r#"permit (principal, action in Action::"http", resource) when { action == Action::"GET" && context.grpc.method == "a" };"#,
            r#"permit (principal, action == Action::"http:read", resource);"#,
            "permit (principal, action in Action::\"http\", resource) when { context.http.host == \"\u{430}bc\" };",
            r#"permit (principal, action in Action::"http", resource) when { context.http.host == "\u{430}bc" };"#,
            "permit (principal in Group::\"a\u{1}b\", action, resource);",
            "permit (principal in Group::\"a\nb\", action, resource);",
            "permit (principal // \"\n in Group::\"a\nb\", action, resource);",
            "permit (principal, action, resource) when { 1 == \"a\" };",
        ] {
            assert_eq!(both(&schema, text), (false, false), "{text}");
        }
    }

    /// An action of the team's own applies to something else; one that the policy names is
    /// told apart from those like it.
    #[test]
    fn actions_that_differ_do_not_answer_for_each_other() {
        let schema = schema(
            "entity Ticket { owner: User };
             action own in [\"http:read\"] appliesTo { principal: [Workload], resource: [Service], context: { ticket: Ticket, http: User } };
             action plain in [\"http:read\"] appliesTo { principal: [Workload, Unregistered], resource: [Operation, Service], context: HttpCtx };",
        );
        for (text, clean) in [
            (
                r#"permit (principal, action in Action::"http:read", resource) when { context.http.path == "/" };"#,
                false,
            ),
            (
                r#"permit (principal, action == Action::"own", resource) when { context.http.issuer == "x" };"#,
                true,
            ),
            (
                r#"permit (principal, action == Action::"own", resource) when { context.ticket.owner.issuer == "x" };"#,
                false,
            ),
            (
                r#"permit (principal, action == Action::"plain", resource) when { context.http.path == "/" };"#,
                true,
            ),
            (
                r#"permit (principal, action in [Action::"plain", Action::"GET"], resource) when { context.http.path == "/" };"#,
                true,
            ),
        ] {
            assert_eq!(both(&schema, text), (clean, clean), "{text}");
        }
    }

    proptest! {
        /// What is accepted, validation has nothing against.
        #[test]
        fn nothing_is_accepted_that_validation_objects_to(text in policy()) {
            let (accepted, clean) = both(&schema(""), &text);
            prop_assert!(!accepted || clean, "{text}");
        }
    }
}
