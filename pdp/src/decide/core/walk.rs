//! What a policy's body can read, found without evaluating it.
//!
//! Everything here goes over expressions with a list of its own instead of the
//! call stack: a policy may be a very long chain of `&&`.

use std::collections::BTreeSet;

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
    /// Entities it names on either side of an `in`.
    pub(crate) members: BTreeSet<EntityUid>,
}

/// What `body` uses.
pub(crate) fn uses(body: &Body, layout: &Layout) -> Uses {
    let mut uses = Uses::default();
    let mut open = vec![(&*body.expr, false)];
    while let Some((expr, in_test)) = open.pop() {
        if let Some(path) = access_of(expr)
            && path.root == Var::Context
        {
            let fields = match path.probe {
                true => layout.probe(&path.segments),
                false => layout.read(&path.segments),
            };
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
        let in_test = in_test || is_in(expr);
        open.extend(children(expr).into_iter().map(|child| (child, in_test)));
    }
    uses
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

fn is_in(expr: &Expr) -> bool {
    matches!(
        expr.expr_kind(),
        ExprKind::BinaryApp {
            op: BinaryOp::In,
            ..
        }
    )
}
