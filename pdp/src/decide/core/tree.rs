//! A policy's conditions as a tree that tools read: what each part says and where it
//! stands. Cedar's own public tree (`pst`) has no places, so it cannot mark anything.

use std::ops::Range;

use cedar_policy::EntityUid;
use cedar_policy_core::ast::{BinaryOp, Expr, ExprKind, Literal, Pattern, PatternElem, UnaryOp};
use smol_str::SmolStr;

use super::{
    Body,
    clause::{Kind, name_of, snippet, written_unless},
    literal::{Network, constructed},
    walk::{access_of, children},
};

/// One `when` or `unless`.
#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) kind: Kind,
    pub(crate) node: Node,
}

/// A part of a condition.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) term: Term,
    /// Where it stands in its file, in bytes.
    pub(crate) span: Range<usize>,
    expr: Expr,
}

/// What a part says. Cedar writes `a != b` as `!(a == b)` and `a >= b` as `!(a < b)`.
#[derive(Debug)]
pub(crate) enum Term {
    And(Vec<Node>),
    Bool(bool),
    /// Milliseconds.
    Duration(i64),
    /// The first contains the second.
    Contains(Box<[Node; 2]>),
    Entity(EntityUid),
    Equal(Box<[Node; 2]>),
    /// The name of the attribute that it asks for.
    Has(String),
    /// Test, then, else.
    If(Box<[Node; 3]>),
    In(Box<[Node; 2]>),
    /// An entity's type by name.
    Is(Box<Node>, String),
    Less(Box<[Node; 2]>),
    LessEq(Box<[Node; 2]>),
    Like(Box<Node>, Glob),
    Long(i64),
    /// Milliseconds since the Unix epoch.
    Moment(i64),
    Network(Network),
    Not(Box<Node>),
    Or(Vec<Node>),
    /// A variable or an attribute below one, such as `context.http.path`.
    Path(String),
    Set(Vec<Node>),
    Text(SmolStr),
    /// An address is in a range of them: `isInRange`.
    Within(Box<[Node; 2]>),
    Other(Vec<Node>),
}

/// A pattern of `like`.
#[derive(Debug, Clone)]
pub(crate) struct Glob(Pattern);

impl Body {
    /// Its conditions in the order of the text.
    pub(crate) fn tree(&self) -> Vec<Condition> {
        self.conditions()
            .into_iter()
            .map(|expr| match written_unless(expr) {
                Some(inner) => (Kind::Unless, inner),
                None => (Kind::When, expr),
            })
            .map(|(kind, expr)| Condition {
                kind,
                node: node(expr),
            })
            .collect()
    }
}

impl Node {
    /// As Cedar prints it: the same for all spellings of one expression.
    pub(crate) fn printed(&self) -> String {
        self.expr.to_string()
    }

    /// The parts it consists of.
    pub(crate) fn children(&self) -> Vec<&Node> {
        match &self.term {
            Term::And(all) | Term::Or(all) | Term::Set(all) | Term::Other(all) => {
                all.iter().collect()
            }
            Term::Contains(two)
            | Term::Equal(two)
            | Term::In(two)
            | Term::Less(two)
            | Term::LessEq(two)
            | Term::Within(two) => two.iter().collect(),
            Term::If(three) => three.iter().collect(),
            Term::Is(one, _) | Term::Like(one, _) | Term::Not(one) => vec![one],
            Term::Bool(_)
            | Term::Duration(_)
            | Term::Entity(_)
            | Term::Has(_)
            | Term::Long(_)
            | Term::Moment(_)
            | Term::Network(_)
            | Term::Path(_)
            | Term::Text(_) => vec![],
        }
    }

    /// Itself and everything below it, in the order of the text.
    pub(crate) fn all(&self) -> Vec<&Node> {
        let mut all = Vec::new();
        let mut open = vec![self];
        while let Some(node) = open.pop() {
            all.push(node);
            open.extend(node.children().into_iter().rev());
        }
        all
    }
}

impl Glob {
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.0.wildcard_match(text)
    }

    /// Whether it has no `*`, so that it is an equality.
    pub(crate) fn is_exact(&self) -> bool {
        !self.0.iter().any(is_wildcard)
    }

    /// Whether every text matches.
    pub(crate) fn is_everything(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(is_wildcard)
    }

    /// The first character of it that is not ASCII.
    pub(crate) fn foreign(&self) -> Option<char> {
        let mut elems = self.0.iter();
        elems.find_map(|elem| match elem {
            PatternElem::Char(c) if !c.is_ascii() => Some(*c),
            _ => None,
        })
    }

    /// What every match begins with.
    pub(crate) fn prefix(&self) -> String {
        literal(self.0.iter())
    }

    /// What every match ends with.
    pub(crate) fn suffix(&self) -> String {
        let reversed = literal(self.0.get_elems().iter().rev());
        reversed.chars().rev().collect()
    }
}

fn is_wildcard(elem: &PatternElem) -> bool {
    matches!(elem, PatternElem::Wildcard)
}

fn literal<'e>(elems: impl Iterator<Item = &'e PatternElem>) -> String {
    elems
        .map_while(|e| match e {
            PatternElem::Char(c) => Some(*c),
            PatternElem::Wildcard => None,
        })
        .collect()
}

fn node(expr: &Expr) -> Node {
    let span = expr.source_loc().map_or(0..0, |loc| loc.start()..loc.end());
    Node {
        term: term(expr),
        span,
        expr: expr.clone(),
    }
}

fn term(expr: &Expr) -> Term {
    if let Some(access) = access_of(expr) {
        let name = name_of(&access);
        return match access.probe {
            true => Term::Has(name),
            false => Term::Path(name),
        };
    }
    if let Some(literal) = constructed(expr) {
        return literal;
    }
    match expr.expr_kind() {
        ExprKind::Lit(Literal::Bool(b)) => Term::Bool(*b),
        ExprKind::Lit(Literal::Long(n)) => Term::Long(*n),
        ExprKind::Lit(Literal::String(text)) => Term::Text(text.clone()),
        ExprKind::Lit(Literal::EntityUID(uid)) => {
            Term::Entity(EntityUid::from(uid.as_ref().clone()))
        }
        ExprKind::And { .. } => Term::And(operands(expr, true)),
        ExprKind::Or { .. } => Term::Or(operands(expr, false)),
        ExprKind::UnaryApp {
            op: UnaryOp::Not,
            arg,
        } => Term::Not(Box::new(node(arg))),
        ExprKind::If {
            test_expr,
            then_expr,
            else_expr,
        } => Term::If(Box::new([
            node(test_expr),
            node(then_expr),
            node(else_expr),
        ])),
        ExprKind::BinaryApp { op, arg1, arg2 } => binary(*op, [node(arg1), node(arg2)]),
        ExprKind::Like { expr, pattern } => Term::Like(Box::new(node(expr)), Glob(pattern.clone())),
        ExprKind::Is { expr, entity_type } => {
            Term::Is(Box::new(node(expr)), entity_type.to_string())
        }
        ExprKind::Set(items) => Term::Set(items.iter().map(node).collect()),
        ExprKind::ExtensionFunctionApp { fn_name, args } => match args.as_slice() {
            [one, range] if fn_name.to_string() == "isInRange" => {
                Term::Within(Box::new([node(one), node(range)]))
            }
            _ => Term::Other(args.iter().map(node).collect()),
        },
        _ => Term::Other(children(expr).into_iter().map(node).collect()),
    }
}

fn binary(op: BinaryOp, two: [Node; 2]) -> Term {
    let two = Box::new(two);
    match op {
        BinaryOp::Eq => Term::Equal(two),
        BinaryOp::Less => Term::Less(two),
        BinaryOp::LessEq => Term::LessEq(two),
        BinaryOp::In => Term::In(two),
        BinaryOp::Contains => Term::Contains(two),
        _ => Term::Other(Vec::from(*two)),
    }
}

/// The operands of a chain of `&&` or of `||`, in order.
fn operands(expr: &Expr, and: bool) -> Vec<Node> {
    let mut found = Vec::new();
    let mut open = vec![expr];
    while let Some(at) = open.pop() {
        match at.expr_kind() {
            ExprKind::And { left, right } if and => open.extend([&**right, &**left]),
            ExprKind::Or { left, right } if !and => open.extend([&**right, &**left]),
            _ => found.push(node(at)),
        }
    }
    found
}

/// As it was written, on one line.
pub(crate) fn written(node: &Node) -> String {
    let text = snippet(&node.expr).map_or_else(|| node.printed(), str::to_owned);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}
