//! Expressions without their places in the source.
//!
//! The evaluator hands the place of every expression on to its value, which
//! counts references up and down at each step. Only explanations need places,
//! and they take the policy as it was parsed.

use std::sync::Arc;

use cedar_policy_core::ast::{Expr, ExprKind};

/// How deep an expression is rebuilt; what lies deeper keeps its places.
pub(super) const DEPTH_MAX: usize = 128;

/// `expr` without places, down to `depth`.
pub(super) fn bare(expr: &Expr, depth: usize) -> Expr {
    let Some(depth) = depth.checked_sub(1) else {
        return expr.clone();
    };
    let part = |e: &Arc<Expr>| bare(e, depth);
    match expr.expr_kind() {
        ExprKind::Lit(_) | ExprKind::Var(_) | ExprKind::Slot(_) | ExprKind::Unknown(_) => {
            expr.clone().with_maybe_source_loc(None)
        }
        ExprKind::If {
            test_expr,
            then_expr,
            else_expr,
        } => Expr::ite(part(test_expr), part(then_expr), part(else_expr)),
        ExprKind::And { left, right } => Expr::and(part(left), part(right)),
        ExprKind::Or { left, right } => Expr::or(part(left), part(right)),
        ExprKind::UnaryApp { op, arg } => Expr::unary_app(*op, part(arg)),
        ExprKind::BinaryApp { op, arg1, arg2 } => Expr::binary_app(*op, part(arg1), part(arg2)),
        ExprKind::ExtensionFunctionApp { fn_name, args } => Expr::call_extension_fn(
            fn_name.clone(),
            args.iter().map(|e| bare(e, depth)).collect(),
        ),
        ExprKind::GetAttr { expr, attr } => Expr::get_attr(part(expr), attr.clone()),
        ExprKind::HasAttr { expr, attr } => Expr::has_attr(part(expr), attr.clone()),
        ExprKind::ExtHasAttr { expr, attrs } => Expr::extended_has_attr(part(expr), attrs.clone()),
        ExprKind::Like { expr, pattern } => Expr::like(part(expr), pattern.clone()),
        ExprKind::Is { expr, entity_type } => Expr::is_entity_type(part(expr), entity_type.clone()),
        ExprKind::Set(items) => Expr::set(items.iter().map(|e| bare(e, depth))),
        ExprKind::Record(items) => Expr::record_arc(Arc::new(
            items
                .iter()
                .map(|(name, e)| (name.clone(), bare(e, depth)))
                .collect(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(expr: &Expr) -> usize {
        let with = |e: &&Expr| e.source_loc().is_some();
        expr.subexpressions().filter(with).count()
    }

    #[test]
    fn a_bare_expression_means_the_same() {
        for text in [
            "if context has a.b then [1, -2] else {x: principal.y}",
            r#"principal is User in [Group::"g"] && context.p like "*x" || !(ip("::1").isLoopback())"#,
            r#"resource.hasTag("t") && 1 + 2 * 3 < context["a b"]"#,
        ] {
            let expr: Expr = text.parse().unwrap();
            assert!(places(&expr) > 0);
            let bare = bare(&expr, DEPTH_MAX);
            assert!(bare.eq_shape(&expr), "{bare}");
            assert_eq!(places(&bare), 0, "{bare:?}");
        }
    }

    #[test]
    fn what_lies_too_deep_is_kept_as_it_is() {
        let chain = |n: usize| -> Expr { vec!["principal"; n].join(" && ").parse().unwrap() };
        assert_eq!(places(&bare(&chain(DEPTH_MAX), DEPTH_MAX)), 0);
        let deeper = bare(&chain(DEPTH_MAX + 1), DEPTH_MAX);
        assert_eq!(places(&deeper), 2);
        assert!(deeper.eq_shape(&chain(DEPTH_MAX + 1)));
    }
}
