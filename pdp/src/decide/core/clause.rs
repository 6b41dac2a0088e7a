//! A policy's body as its author wrote it: conditions and their `&&` parts.

use std::sync::Arc;

use cedar_policy_core::{
    ast::{BinaryOp, Expr, ExprKind, UnaryOp, Value, Var},
    parser::Loc,
};
use smol_str::SmolStr;

use super::{
    Body, Evaluation, Tree, Truth, truth,
    walk::{Access, access_of, children, operands_of_and, uses},
};
use crate::decide::field::{Field, Layout};

/// Which kind of condition a part stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unless,
    When,
}

/// One `&&` part of a condition.
#[derive(Debug)]
pub(crate) struct Conjunct {
    body: Body,
    /// Number of the condition it is part of, from 0.
    pub(crate) condition: usize,
    pub(crate) kind: Kind,
    /// Lines below the policy's first one.
    pub(crate) line: usize,
    /// As it was written; printed anew where the source is not at hand.
    pub(crate) text: String,
}

/// A value that a part looks at.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) name: String,
    /// Fields of the context it needs.
    pub(crate) fields: Vec<Field>,
    expr: Expr,
}

impl Body {
    /// The parts in the order in which Cedar evaluates them; `start` is the byte at
    /// which the policy begins in the text it was parsed from.
    pub(crate) fn conjuncts(&self, start: usize) -> Vec<Conjunct> {
        let mut parts = Vec::new();
        for (condition, expr) in self.conditions().into_iter().enumerate() {
            let (kind, inner) = match written_unless(expr) {
                Some(inner) => (Kind::Unless, inner),
                None => (Kind::When, expr),
            };
            parts.extend(operands_of_and(inner).into_iter().map(|part| Conjunct {
                body: self.part(part),
                condition,
                kind,
                line: part.source_loc().map_or(0, |loc| lines_between(start, loc)),
                text: source_of(part),
            }));
        }
        parts
    }

    /// The `when` and `unless` conditions: they were folded to the right, under
    /// nodes that carry the place of the whole policy.
    pub(super) fn conditions(&self) -> Vec<&Arc<Expr>> {
        let mut conditions = Vec::new();
        let mut at = &self.expr;
        while let ExprKind::And { left, right } = at.expr_kind()
            && is_fold(at)
        {
            conditions.push(left);
            at = right;
        }
        conditions.push(at);
        conditions
    }
}

impl Conjunct {
    /// How it comes out, and why it errs if it does.
    pub(crate) fn test(&self, evaluation: &Evaluation<'_>) -> (Truth, Option<String>) {
        match evaluation.value(&self.body) {
            Ok(value) => (truth(&value), None),
            Err(error) => (Truth::Error, Some(error.to_string())),
        }
    }

    /// It taken apart, to be evaluated while something is left open.
    pub(crate) fn taken_apart(&self, layout: &Layout) -> Tree {
        self.body.taken_apart(layout)
    }

    /// Fields of the context that it reads.
    pub(crate) fn reads(&self, layout: &Layout) -> Vec<Field> {
        uses(&self.body, layout).fields.into_iter().collect()
    }

    /// The values it looks at, in the order of the text, each once.
    pub(crate) fn looked(&self, layout: &Layout) -> Vec<Looked> {
        let mut looked: Vec<Looked> = Vec::new();
        let mut open = vec![&*self.body.expr];
        while let Some(expr) = open.pop() {
            if let Some(mut found) = looked_at(expr, layout) {
                found.fields.sort_unstable();
                if looked.iter().all(|l| l.name != found.name) {
                    looked.push(found);
                }
            } else {
                open.extend(children(expr).into_iter().rev());
            }
        }
        looked
    }
}

impl Looked {
    /// The value as Cedar prints it; `None` when it is absent.
    pub(crate) fn show(&self, evaluation: &Evaluation<'_>) -> Option<String> {
        let value: Value = evaluation
            .0
            .interpret(&self.expr, &Default::default())
            .ok()?;
        Some(value.to_string())
    }
}

fn looked_at(expr: &Expr, layout: &Layout) -> Option<Looked> {
    if let ExprKind::BinaryApp {
        op: BinaryOp::GetTag | BinaryOp::HasTag,
        arg1,
        arg2,
    } = expr.expr_kind()
        && let Some(access) = access_of(arg1)
        && access.root != Var::Context
    {
        return Some(Looked {
            name: format!("{}.getTag({arg2})", name_of(&access)),
            fields: Vec::new(),
            expr: Expr::get_tag(Expr::clone(arg1), Expr::clone(arg2)),
        });
    }
    let access = access_of(expr)?;
    let fields = match (access.root, access.probe) {
        (Var::Context, true) => layout.probe(&access.segments),
        (Var::Context, false) => layout.read(&access.segments),
        _ => Vec::new(),
    };
    Some(Looked {
        name: name_of(&access),
        fields,
        expr: rebuilt(&access),
    })
}

/// The value of the chain, also where the policy only tests for its presence.
fn rebuilt(access: &Access) -> Expr {
    access
        .segments
        .iter()
        .fold(Expr::var(access.root), |at, s| {
            Expr::get_attr(at, s.clone())
        })
}

pub(super) fn name_of(access: &Access) -> String {
    let mut name = access.root.to_string();
    for segment in &access.segments {
        match is_identifier(segment) {
            true => name.extend([".", segment]),
            false => name.push_str(&format!("[{:?}]", segment.as_str())),
        }
    }
    name
}

fn is_identifier(segment: &SmolStr) -> bool {
    let starts = segment.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The operand of the negation that `unless { … }` was turned into.
pub(super) fn written_unless(expr: &Expr) -> Option<&Arc<Expr>> {
    let ExprKind::UnaryApp {
        op: UnaryOp::Not,
        arg,
    } = expr.expr_kind()
    else {
        return None;
    };
    let unless = snippet(expr)?.starts_with("unless");
    unless.then_some(arg)
}

fn is_fold(expr: &Expr) -> bool {
    snippet(expr).is_some_and(|s| s.trim_end().ends_with(';'))
}

pub(super) fn snippet(expr: &Expr) -> Option<&str> {
    expr.source_loc().and_then(Loc::snippet)
}

fn source_of(expr: &Expr) -> String {
    snippet(expr).map_or_else(|| expr.to_string(), str::to_owned)
}

fn lines_between(start: usize, loc: &Loc) -> usize {
    loc.src
        .get(start..loc.start())
        .map_or(0, |between| between.matches('\n').count())
}

/// Where a policy begins in the text it was parsed from.
pub(crate) fn start_of(policy: &cedar_policy::Policy) -> usize {
    let policy: &cedar_policy_core::ast::Policy = policy.as_ref();
    policy.loc().map_or(0, Loc::start)
}
