//! A body under evaluation while some fields of the context are left open.
//!
//! Cedar's own partial evaluation is an experimental feature; what is needed here is
//! less. A body is taken apart at `&&`, `||`, `!` and `if`; a part that reads only
//! known fields is evaluated as it stands, any other can come out in several ways.
//! Parts that read the same open field are not seen to depend on each other, so an
//! answer may be open that a closer look would settle, and never the other way round.

use std::sync::Arc;

use cedar_policy_core::ast::{BinaryOp, Expr, ExprKind, Literal, PatternElem, UnaryOp, Var};

use super::{
    Body, Evaluation, Truth,
    walk::{access_of, children, fields_of, operands, operands_of_and},
};
use crate::decide::field::{Field, Layout};

/// Every way in which something can come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcomes(u8);

impl Outcomes {
    const EITHER: Self = Self(Self::TRUE.0 | Self::FALSE.0);
    const ANY: Self = Self(Self::EITHER.0 | Self::ERROR.0);
    pub(crate) const ERROR: Self = Self(1);
    pub(crate) const FALSE: Self = Self(2);
    pub(crate) const TRUE: Self = Self(4);

    /// Whether it can be `one` of these.
    pub(crate) fn may_be(self, one: Self) -> bool {
        self.0 & one.0 != 0
    }

    /// Whether there is one way only.
    pub(crate) fn is_certain(self) -> bool {
        self.0.is_power_of_two()
    }

    fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What comes of going on to `next` where this is `on`.
    fn then(self, on: Self, next: impl FnOnce() -> Self) -> Self {
        match self.may_be(on) {
            true => Self(self.0 & !on.0).or(next()),
            false => self,
        }
    }

    fn not(self) -> Self {
        let swapped = [(Self::TRUE, Self::FALSE), (Self::FALSE, Self::TRUE)];
        let kept = Self(self.0 & Self::ERROR.0);
        let swapped = swapped.into_iter().filter(|(from, _)| self.may_be(*from));
        swapped.fold(kept, |all, (_, to)| all.or(to))
    }
}

impl From<Truth> for Outcomes {
    fn from(truth: Truth) -> Self {
        match truth {
            Truth::Error => Self::ERROR,
            Truth::False => Self::FALSE,
            Truth::True => Self::TRUE,
        }
    }
}

/// A path of which only the template is known: `{x}` as `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathShape(Box<[Option<char>]>);

impl PathShape {
    /// The shape of `template`; `None` for a template that has but one path.
    pub(crate) fn new(template: &str) -> Option<Self> {
        let mut shape = Vec::new();
        let mut rest = template;
        while let Some((literal, after)) = rest.split_once('{') {
            shape.extend(literal.chars().map(Some));
            shape.push(None);
            rest = after.split_once('}').map_or("", |(_, rest)| rest);
        }
        shape.extend(rest.chars().map(Some));
        shape.contains(&None).then(|| Self(shape.into()))
    }

    /// How `context.http.path like PATTERN` can come out.
    fn like(&self, pattern: &[PatternElem]) -> Outcomes {
        if matches(pattern, &self.0) {
            return Outcomes::TRUE;
        }
        let forwards = differ(pattern.iter(), self.0.iter());
        let backwards = differ(pattern.iter().rev(), self.0.iter().rev());
        match forwards || backwards {
            true => Outcomes::FALSE,
            false => Outcomes::EITHER,
        }
    }
}

/// Whether every path of this shape matches: a parameter is taken by `*` alone.
fn matches(pattern: &[PatternElem], shape: &[Option<char>]) -> bool {
    let (mut p, mut s) = (0, 0);
    // Where the last `*` stands, and up to where it has taken.
    let mut star: Option<(usize, usize)> = None;
    while s < shape.len() {
        match (pattern.get(p), shape.get(s)) {
            (Some(PatternElem::Wildcard), _) => {
                star = Some((p, s));
                p += 1;
            }
            (Some(PatternElem::Char(a)), Some(Some(b))) if a == b => (p, s) = (p + 1, s + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, s) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    let rest = pattern.get(p..).unwrap_or_default();
    rest.iter().all(|e| matches!(e, PatternElem::Wildcard))
}

/// Whether the two differ before either leaves something open.
fn differ<'a>(
    pattern: impl Iterator<Item = &'a PatternElem>,
    shape: impl Iterator<Item = &'a Option<char>>,
) -> bool {
    pattern
        .zip(shape)
        .find_map(|pair| match pair {
            (PatternElem::Char(a), Some(b)) if a == b => None,
            (PatternElem::Char(_), Some(_)) => Some(true),
            _ => Some(false),
        })
        .unwrap_or(false)
}

/// A body, or a part of one, taken apart.
#[derive(Debug)]
pub(crate) enum Tree {
    All(Box<[Tree]>),
    Any(Box<[Tree]>),
    If(Box<[Tree; 3]>),
    Leaf(Leaf),
    Not(Box<Tree>),
}

/// A part that is evaluated as a whole.
#[derive(Debug)]
pub(crate) struct Leaf {
    body: Body,
    reads: Box<[Field]>,
    /// Whether it can fail to evaluate in a policy that validates strictly.
    risky: bool,
    /// What it compares the path with, if that is all it does.
    path: Option<Box<[PatternElem]>>,
}

/// What is known while a tree is evaluated.
pub(crate) struct Known<'k> {
    pub(crate) is_known: &'k dyn Fn(Field) -> bool,
    /// What is known of the path where it is not known itself.
    pub(crate) path: Option<&'k PathShape>,
}

impl Body {
    /// The body taken apart.
    pub(crate) fn taken_apart(&self, layout: &Layout) -> Tree {
        self.tree_of(&self.expr, layout)
    }

    fn tree_of(&self, expr: &Arc<Expr>, layout: &Layout) -> Tree {
        let part = |e: &Arc<Expr>| self.tree_of(e, layout);
        match expr.expr_kind() {
            ExprKind::And { .. } => {
                Tree::All(operands_of_and(expr).into_iter().map(part).collect())
            }
            ExprKind::Or { .. } => {
                let parts = operands(expr, &|e| match e.expr_kind() {
                    ExprKind::Or { left, right } => Some((left, right)),
                    _ => None,
                });
                Tree::Any(parts.into_iter().map(part).collect())
            }
            ExprKind::UnaryApp {
                op: UnaryOp::Not,
                arg,
            } => Tree::Not(Box::new(part(arg))),
            ExprKind::If {
                test_expr,
                then_expr,
                else_expr,
            } => Tree::If(Box::new([test_expr, then_expr, else_expr].map(part))),
            _ => Tree::Leaf(Leaf {
                body: self.part(expr),
                reads: fields_of(expr, layout).into_iter().collect(),
                risky: is_risky(expr),
                path: path_pattern(expr),
            }),
        }
    }
}

impl Evaluation<'_> {
    /// Every way in which `tree` can come out.
    pub(crate) fn outcomes(&self, tree: &Tree, known: &Known<'_>) -> Outcomes {
        let of = |part: &Tree| self.outcomes(part, known);
        match tree {
            Tree::All(parts) => parts.iter().fold(Outcomes::TRUE, |so_far, part| {
                so_far.then(Outcomes::TRUE, || of(part))
            }),
            Tree::Any(parts) => parts.iter().fold(Outcomes::FALSE, |so_far, part| {
                so_far.then(Outcomes::FALSE, || of(part))
            }),
            Tree::If(parts) => {
                let [test, then, otherwise] = &**parts;
                let test = of(test);
                let either = [(Outcomes::TRUE, then), (Outcomes::FALSE, otherwise)];
                let taken = either.into_iter().filter(|(on, _)| test.may_be(*on));
                let failed = Outcomes(test.0 & Outcomes::ERROR.0);
                taken.fold(failed, |all, (_, part)| all.or(of(part)))
            }
            Tree::Leaf(leaf) => self.leaf(leaf, known),
            Tree::Not(part) => of(part).not(),
        }
    }

    fn leaf(&self, leaf: &Leaf, known: &Known<'_>) -> Outcomes {
        if leaf.reads.iter().all(|field| (known.is_known)(*field)) {
            return self.test(&leaf.body).into();
        }
        match (&leaf.path, known.path) {
            (Some(pattern), Some(shape)) => shape.like(pattern),
            _ if leaf.risky => Outcomes::ANY,
            _ => Outcomes::EITHER,
        }
    }
}

/// Whether a part that Cedar validates strictly can still err: by arithmetic, by a
/// conversion of text, or by what an entity lacks.
fn is_risky(expr: &Expr) -> bool {
    let mut open = vec![expr];
    while let Some(expr) = open.pop() {
        if access_of(expr).is_some_and(|access| access.root == Var::Context) {
            continue;
        }
        let risky = match expr.expr_kind() {
            ExprKind::BinaryApp { op, .. } => matches!(
                op,
                BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::GetTag
            ),
            ExprKind::UnaryApp { op, .. } => *op == UnaryOp::Neg,
            // A constructor takes a literal in a strict policy, which was checked.
            ExprKind::ExtensionFunctionApp { .. } => false,
            ExprKind::GetAttr { .. } => true,
            _ => false,
        };
        if risky {
            return true;
        }
        open.extend(children(expr));
    }
    false
}

/// The pattern of `context.http.path like PATTERN`, or of `== TEXT`.
fn path_pattern(expr: &Expr) -> Option<Box<[PatternElem]>> {
    match expr.expr_kind() {
        ExprKind::Like { expr, pattern } => {
            is_path(expr).then(|| pattern.get_elems().to_vec().into())
        }
        ExprKind::BinaryApp {
            op: BinaryOp::Eq,
            arg1,
            arg2,
        } => {
            let text = match (arg1.expr_kind(), arg2.expr_kind()) {
                (_, ExprKind::Lit(Literal::String(text))) if is_path(arg1) => text,
                (ExprKind::Lit(Literal::String(text)), _) if is_path(arg2) => text,
                _ => return None,
            };
            Some(text.chars().map(PatternElem::Char).collect())
        }
        _ => None,
    }
}

fn is_path(expr: &Expr) -> bool {
    access_of(expr).is_some_and(|access| {
        access.root == Var::Context && !access.probe && access.segments == ["http", "path"]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a path of `template` compares with `pattern`.
    fn check(template: &str, pattern: &str, expected: Outcomes) {
        let expr: Expr = format!("context.http.path like {pattern:?}")
            .parse()
            .unwrap();
        let pattern = path_pattern(&expr).unwrap();
        let shape = PathShape::new(template).unwrap();
        assert_eq!(shape.like(&pattern), expected, "{template} {expr}");
    }

    #[test]
    fn a_template_answers_for_all_its_paths_or_for_none() {
        check("/orders/{id}", "/orders/*", Outcomes::TRUE);
        check("/orders/{id}", "*", Outcomes::TRUE);
        check("/orders/{id}/refund", "/orders/*/refund", Outcomes::TRUE);
        check("/orders/{id}/refund", "*refund", Outcomes::TRUE);
        check("/{*rest}", "/*", Outcomes::TRUE);
        check("/orders/{id}", "/admin/*", Outcomes::FALSE);
        check("/orders/{id}/refund", "/orders/*/items", Outcomes::FALSE);
        check("/{*rest}", "/admin/*", Outcomes::EITHER);
        check("/orders/{id}", "/orders/4*", Outcomes::EITHER);
        check("/orders/{id}", "/orders/*/refund", Outcomes::EITHER);
        check("/orders/{id}", "/orders/42", Outcomes::EITHER);
        check("/orders/{id}", "/reports", Outcomes::FALSE);
        assert_eq!(PathShape::new("/orders"), None);
    }

    #[test]
    fn logic_goes_over_sets_of_outcomes() {
        let Outcomes(any) = Outcomes::ANY;
        for bits in 1..=any {
            let one = Outcomes(bits);
            assert_eq!(one.not().not(), one);
            // `false && x` is false, whatever x is.
            let and = Outcomes::FALSE.then(Outcomes::TRUE, || one);
            assert_eq!(and, Outcomes::FALSE);
        }
        let either_and_false = Outcomes::EITHER.then(Outcomes::TRUE, || Outcomes::FALSE);
        assert_eq!(either_and_false, Outcomes::FALSE);
        let risky_and_false = Outcomes::ANY.then(Outcomes::TRUE, || Outcomes::FALSE);
        assert!(risky_and_false.may_be(Outcomes::ERROR) && !risky_and_false.is_certain());
    }
}
