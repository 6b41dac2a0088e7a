//! How deep expressions are, and stack for those who go down.
//!
//! Cedar evaluates by recursion and gives up where the stack of its thread is nearly used:
//! the policy errs, a permit permits nothing, and all depends on which thread asked. So
//! what is evaluated gets the stack that its depth needs, whoever asks. Everything but
//! chains of `&&` and `||` may be [`NESTING_MAX`] deep; that bounds the recursion of all
//! who take conditions apart, for they walk along chains.

use std::mem::discriminant;

use cedar_policy::Policy;
use cedar_policy_core::ast::{self, Expr, ExprKind};

use super::walk::children;

/// Deepest nesting of a condition, where a chain of `&&` or of `||` counts as one.
pub const NESTING_MAX: usize = 100;

/// Stack that one level of an expression takes in Cedar's evaluator, with room to spare.
const LEVEL_BYTES: usize = if cfg!(debug_assertions) {
    64 << 10
} else {
    8 << 10
};
/// What Cedar wants to be left over, and what calls it.
const RESERVE_BYTES: usize = 256 << 10;
/// Levels that an authorizer puts around a body: its scope.
const SCOPE_LEVELS: usize = 8;

/// Levels of `expr`, all counted.
pub(super) fn depth(expr: &Expr) -> usize {
    deepest(expr, |_, _| true)
}

/// Levels of the conditions of `policy`, a chain of `&&` or of `||` counted as one.
pub(crate) fn nesting(policy: &Policy) -> usize {
    let policy: &ast::Policy = policy.as_ref();
    let body = policy.non_scope_constraints();
    body.map_or(0, |body| {
        deepest(body, |above, below| {
            let chained = matches!(above, ExprKind::And { .. } | ExprKind::Or { .. });
            !(chained && discriminant(above) == discriminant(below))
        })
    })
}

/// Levels under `expr`, of which a part begins one where `counts` says so of it and what
/// is above it.
fn deepest(expr: &Expr, counts: impl Fn(&ExprKind, &ExprKind) -> bool) -> usize {
    let (mut open, mut deepest) = (vec![(expr, 1_usize)], 0_usize);
    while let Some((expr, level)) = open.pop() {
        deepest = deepest.max(level);
        let above = expr.expr_kind();
        open.extend(children(expr).into_iter().map(|part| {
            let counted = counts(above, part.expr_kind());
            (part, level + usize::from(counted))
        }));
    }
    deepest
}

/// Does `work`, which evaluates something of this depth, with the stack that it needs.
pub(crate) fn with_stack<T>(depth: usize, work: impl FnOnce() -> T) -> T {
    let needed = RESERVE_BYTES + (depth + SCOPE_LEVELS) * LEVEL_BYTES;
    stacker::maybe_grow(needed, needed + RESERVE_BYTES, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_one_level_of_nesting_and_many_to_evaluate() {
        let check = |condition: &str, levels: (usize, usize)| {
            let text = format!("permit (principal, action, resource) when {{ {condition} }};");
            let policy: Policy = text.parse().unwrap();
            let expr: Expr = condition.parse().unwrap();
            assert_eq!((depth(&expr), nesting(&policy)), levels, "{condition}");
        };
        check("principal.a", (2, 2));
        check("principal.a.b == 1", (4, 4));
        check("principal.a || principal.b || principal.c", (4, 3));
        check("principal.a && (principal.b && principal.c)", (4, 3));
        check("principal.a && (principal.b || principal.c)", (4, 4));
        check("1 + 1 + 1 < principal.a", (4, 4));
        check(
            "if principal.a then 1 else if principal.b then 1 else 1",
            (4, 4),
        );
    }
}
