//! What a policy's body can read, found without evaluating it.
//!
//! Everything here goes over expressions with a list of its own instead of the
//! call stack: a policy may be a very long chain of `&&`.

use std::{collections::BTreeSet, sync::Arc};

use cedar_policy::EntityUid;
use cedar_policy_core::ast::{BinaryOp, Expr, ExprKind, Literal, Var};
use smol_str::SmolStr;

use super::Body;
use crate::decide::field::{Field, Layout};

/// What a body uses.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// Fields of the context whose value or presence can change its outcome.
    pub(crate) fields: BTreeSet<Field>,
    /// Entities it names anywhere.
    pub(crate) entities: BTreeSet<EntityUid>,
    /// Entities it names on either side of an `in`, or tests for an attribute or a tag:
    /// where one is missing, these are silently false.
    pub(crate) members: BTreeSet<EntityUid>,
}

/// What `body` uses.
pub(crate) fn uses(body: &Body, layout: &Layout) -> Uses {
    let mut uses = Uses::default();
    let mut open = vec![(&*body.expr, false)];
    while let Some((expr, in_test)) = open.pop() {
        if let Some(fields) = read_here(expr, layout) {
            uses.fields.extend(fields);
            continue;
        }
        if let ExprKind::Lit(Literal::EntityUID(uid)) = expr.expr_kind() {
            let uid = EntityUid::from(uid.as_ref().clone());
            if in_test {
                uses.members.insert(uid.clone());
            }
            uses.entities.insert(uid);
        }
        let in_test = in_test || is_silent(expr);
        open.extend(children(expr).into_iter().map(|child| (child, in_test)));
    }
    uses
}

/// Fields of the context that `expr` reads.
pub(crate) fn fields_of(expr: &Expr, layout: &Layout) -> BTreeSet<Field> {
    let mut fields = BTreeSet::new();
    let mut open = vec![expr];
    while let Some(expr) = open.pop() {
        match read_here(expr, layout) {
            Some(read) => fields.extend(read),
            None => open.extend(children(expr)),
        }
    }
    fields
}

/// What a chain of attributes from the context reads; `None` for anything else.
fn read_here(expr: &Expr, layout: &Layout) -> Option<Vec<Field>> {
    let path = access_of(expr).filter(|path| path.root == Var::Context)?;
    Some(match path.probe {
        true => layout.probe(&path.segments),
        false => layout.read(&path.segments),
    })
}

/// A chain of attributes from one of the four variables.
pub(crate) struct Access {
    pub(crate) root: Var,
    pub(crate) segments: Vec<SmolStr>,
    /// Whether the last segment is only tested for (`has`).
    pub(crate) probe: bool,
}

/// The chain that `expr` is, if it is one.
pub(crate) fn access_of(expr: &Expr) -> Option<Access> {
    let mut segments: Vec<SmolStr> = Vec::new();
    let mut at = expr;
    let mut probe = false;
    match expr.expr_kind() {
        ExprKind::HasAttr { expr, attr } => {
            segments.push(attr.clone());
            (at, probe) = (expr, true);
        }
        ExprKind::ExtHasAttr { expr, attrs } => {
            segments.extend(attrs.iter().rev().cloned());
            (at, probe) = (expr, true);
        }
        _ => {}
    }
    while let ExprKind::GetAttr { expr, attr } = at.expr_kind() {
        segments.push(attr.clone());
        at = expr;
    }
    segments.reverse();
    match at.expr_kind() {
        ExprKind::Var(root) => Some(Access {
            root: *root,
            segments,
            probe,
        }),
        _ => None,
    }
}

/// The direct parts of an expression.
pub(crate) fn children(expr: &Expr) -> Vec<&Expr> {
    match expr.expr_kind() {
        ExprKind::Lit(_) | ExprKind::Var(_) | ExprKind::Slot(_) | ExprKind::Unknown(_) => vec![],
        ExprKind::If {
            test_expr,
            then_expr,
            else_expr,
        } => vec![test_expr, then_expr, else_expr],
        ExprKind::And { left, right } | ExprKind::Or { left, right } => vec![left, right],
        ExprKind::BinaryApp { arg1, arg2, .. } => vec![arg1, arg2],
        ExprKind::UnaryApp { arg, .. } => vec![arg],
        ExprKind::ExtensionFunctionApp { args, .. } => args.iter().collect(),
        ExprKind::GetAttr { expr, .. }
        | ExprKind::HasAttr { expr, .. }
        | ExprKind::ExtHasAttr { expr, .. }
        | ExprKind::Like { expr, .. }
        | ExprKind::Is { expr, .. } => vec![expr],
        ExprKind::Set(items) => items.iter().collect(),
        ExprKind::Record(items) => items.values().collect(),
    }
}

/// The parts that `&&` joins, in order, however they are bracketed.
pub(super) fn operands_of_and(expr: &Arc<Expr>) -> Vec<&Arc<Expr>> {
    operands(expr, &|e| match e.expr_kind() {
        ExprKind::And { left, right } => Some((left, right)),
        _ => None,
    })
}

/// The operands of a chain of one operator, in order, however it is bracketed.
pub(super) fn operands<'e>(
    expr: &'e Arc<Expr>,
    split: &dyn Fn(&'e Expr) -> Option<(&'e Arc<Expr>, &'e Arc<Expr>)>,
) -> Vec<&'e Arc<Expr>> {
    let mut operands = Vec::new();
    let mut open = vec![expr];
    while let Some(expr) = open.pop() {
        match split(expr) {
            Some((left, right)) => open.extend([right, left]),
            None => operands.push(expr),
        }
    }
    operands
}

/// Whether it is a test that is false, and no error, of an entity that is missing.
fn is_silent(expr: &Expr) -> bool {
    matches!(
        expr.expr_kind(),
        ExprKind::BinaryApp {
            op: BinaryOp::In | BinaryOp::HasTag,
            ..
        } | ExprKind::HasAttr { .. }
            | ExprKind::ExtHasAttr { .. }
    )
}

#[cfg(test)]
mod tests {
    use palisade_mesh::catalogue::{DeclaredHeader, HeaderShape};

    use super::*;

    /// `condition` reads what using the values at `paths` reads.
    fn check(condition: &str, paths: &[&str]) {
        let layout = Layout::new(&[DeclaredHeader {
            name: "x-tenant".into(),
            shape: HeaderShape::Single,
        }]);
        let body = Body::new(Arc::new(condition.parse().unwrap()), Default::default());
        let expected: BTreeSet<Field> = paths
            .iter()
            .flat_map(|path| {
                let path = path.split('.').filter(|s| !s.is_empty()).map(SmolStr::new);
                layout.read(&path.collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(uses(&body, &layout).fields, expected, "{condition}");
    }

    #[test]
    fn a_record_that_is_used_as_a_whole_is_read_as_a_whole() {
        for all in [
            "context == {}",
            "[context].contains({})",
            "[{}].containsAny([[context]])",
            "{a: {b: context}}.a.b.tls.mtls",
            "(if true then context else {}).tls.mtls",
            "(if context == {} then true else false) && context.tls.mtls",
            "(if true then {} else context) has tls.mtls",
            "context in principal",
            "context is User",
            "principal.hasTag(context)",
            "principal.getTag((if true then context else {}).http.path) == \"x\"",
            "context.isInRange(ip(\"::1\"))",
            "ip(context).isLoopback()",
            "(context) like \"x\"",
            "-context < 1",
            "!(context)",
            "resource == {a: [context]}",
        ] {
            check(all, &[""]);
        }
        for tls in [
            "context.tls == {}",
            "context[\"tls\"] == {}",
            "{a: context.tls} == {a: {}}",
            "(if true then context.tls else {}) has mtls",
            "[context.tls].contains({}) || context.tls.mtls",
            "principal in context.tls",
        ] {
            check(tls, &["tls"]);
        }
        check("context.http == context.grpc", &["http", "grpc"]);
        check("{a: context.http.headers}.a has b", &["http.headers"]);
    }

    #[test]
    fn a_chain_reads_its_leaf_and_a_test_of_a_record_nothing() {
        check("context.tls.mtls", &["tls.mtls"]);
        check("context.http.path.more", &["http.path"]);
        check("context has http.query.more", &["http.query"]);
        check("context.jwt.scopes has x", &["jwt"]);
        check("(context has tls).mtls", &[]);
        check("context.http has headers", &[]);
        check("{a: 1} has a && principal has tls.mtls", &[]);
        let header = "context.http.headers has \"x-tenant\" && context.nothing";
        check(header, &["http.headers.x-tenant"]);
    }
}
