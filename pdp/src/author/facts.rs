//! What a policy takes for granted where it matches: facts from its scope and its
//! conditions, each with its place, so that two which contradict can be named.
//!
//! A fact says something about one subject, an attribute or a variable. Facts about
//! membership are weighed against the entities of the repository.

use std::{collections::BTreeSet, ops::Range};

use cedar_policy::{ActionConstraint, EntityUid};
use smol_str::SmolStr;

use super::kin::Kin;
use crate::decide::{Condition, Glob, Kind, Node, Scope, Shape, Term, written};

/// Something that holds where a policy matches.
#[derive(Debug, Clone)]
pub(super) struct Fact {
    /// What it is about, such as `context.http.method`.
    pub(super) subject: String,
    pub(super) claim: Claim,
    /// As it was written.
    pub(super) text: String,
    /// Where it stands in the file; scopes and the vocabulary have no place.
    pub(super) span: Option<Range<usize>>,
    /// Whether it holds whatever becomes of the catalogue.
    pub(super) lasting: bool,
}

/// What a fact says about its subject.
#[derive(Debug, Clone)]
pub(super) enum Claim {
    Absent,
    AtLeast(i64),
    AtMost(i64),
    In(Vec<EntityUid>),
    Is(String),
    IsNot(String),
    Like(Glob),
    NoneOf(BTreeSet<Value>),
    NotIn(Vec<EntityUid>),
    NotLike(Glob),
    OneOf(BTreeSet<Value>),
    Present,
}

/// A value that a policy compares with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value {
    Bool(bool),
    Entity(EntityUid),
    Long(i64),
    Text(SmolStr),
}

/// Facts that hold for every request, by the vocabulary.
pub(super) fn vocabulary() -> Vec<Fact> {
    let within = |subject: &str, low, high| {
        let text = format!("`{subject}` is {low} to {high}");
        [Claim::AtLeast(low), Claim::AtMost(high)].map(|claim| Fact {
            subject: subject.to_owned(),
            claim,
            text: text.clone(),
            span: None,
            lasting: true,
        })
    };
    [
        within("context.time.hour", 0, 23),
        within("context.time.weekday", 1, 7),
        within("context.source.port", 0, 65_535),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Facts that the scope states, and what the catalogue concludes from its actions.
pub(super) fn of_scope(scope: &Scope, kin: &Kin) -> Vec<Fact> {
    let mut facts = Vec::new();
    let shapes = [
        ("principal", Shape::of_principal(&scope.principal)),
        ("resource", Shape::of_resource(&scope.resource)),
    ];
    for (subject, shape) in shapes {
        let mut fact = |claim, text| {
            facts.push(Fact {
                subject: subject.to_owned(),
                claim,
                text: format!("`{subject} {text}`"),
                span: None,
                lasting: true,
            });
        };
        match shape {
            Shape::Any => {}
            Shape::Eq(uid) => fact(one_of([Value::Entity(uid.clone())]), format!("== {uid}")),
            Shape::In(None, uid) => fact(Claim::In(vec![uid.clone()]), format!("in {uid}")),
            Shape::In(Some(kind), uid) => {
                fact(Claim::Is(kind.to_string()), format!("is {kind}"));
                fact(Claim::In(vec![uid.clone()]), format!("in {uid}"));
            }
            Shape::Is(kind) => fact(Claim::Is(kind.to_string()), format!("is {kind}")),
        }
    }
    facts.extend(of_action(&scope.action, kin));
    facts
}

/// An action has its methods, and a business action its operations.
fn of_action(action: &ActionConstraint, kin: &Kin) -> Vec<Fact> {
    let (named, text) = match action {
        ActionConstraint::Any => return Vec::new(),
        ActionConstraint::Eq(uid) => (vec![uid.clone()], format!("`action == {uid}`")),
        ActionConstraint::In(uids) => {
            let names: Vec<String> = uids.iter().map(ToString::to_string).collect();
            (uids.clone(), format!("`action in {}`", names.join(", ")))
        }
    };
    let Some(used) = kin.used_by(&named) else {
        return Vec::new();
    };
    let fact = |subject: &str, values: BTreeSet<Value>| Fact {
        subject: subject.to_owned(),
        claim: Claim::OneOf(values),
        text: text.clone(),
        span: None,
        lasting: false,
    };
    let methods = used.methods.iter().map(|m| Value::Text(m.clone()));
    let mut facts = vec![fact("context.http.method", methods.collect())];
    if let Some(operations) = used.operations {
        let operations = operations.into_iter().map(Value::Entity);
        facts.push(fact("resource", operations.collect()));
    }
    facts
}

/// Facts that a condition states when it lets its policy match.
pub(super) fn of_condition(condition: &Condition) -> Vec<Fact> {
    let mut facts = Vec::new();
    stated(&condition.node, condition.kind == Kind::When, &mut facts);
    facts
}

/// Facts that follow when `node` comes out as `truth`.
pub(super) fn stated(node: &Node, truth: bool, facts: &mut Vec<Fact>) {
    match (&node.term, truth) {
        (Term::And(parts), true) | (Term::Or(parts), false) => {
            parts.iter().for_each(|part| stated(part, truth, facts));
        }
        (Term::Not(inner), _) => {
            let before = facts.len();
            stated(inner, !truth, facts);
            // `a != b` is written as one, and so it is told as one.
            if inner.span == node.span {
                let text = told(node, truth);
                facts
                    .iter_mut()
                    .skip(before)
                    .for_each(|f| f.text.clone_from(&text));
            }
        }
        _ => {
            // What cannot be taken apart is at least as it is.
            let (subject, claim) = claim(node, truth)
                .unwrap_or_else(|| (node.printed(), one_of([Value::Bool(truth)])));
            facts.push(Fact {
                subject,
                claim,
                text: told(node, truth),
                span: Some(node.span.clone()),
                lasting: true,
            });
        }
    }
}

fn told(node: &Node, truth: bool) -> String {
    let text = written(node);
    match truth {
        true => format!("`{text}`"),
        false => format!("not `{text}`"),
    }
}

fn claim(node: &Node, truth: bool) -> Option<(String, Claim)> {
    let either = |yes: Claim, no: Claim| if truth { yes } else { no };
    match &node.term {
        Term::Path(path) => Some((path.clone(), one_of([Value::Bool(truth)]))),
        Term::Has(path) => Some((path.clone(), either(Claim::Present, Claim::Absent))),
        Term::Equal(two) => {
            let (path, value) = path_and_value(two)?;
            let values = BTreeSet::from([value]);
            Some((
                path,
                either(Claim::OneOf(values.clone()), Claim::NoneOf(values)),
            ))
        }
        Term::Contains(two) => {
            let [set, item] = &**two;
            let (Term::Set(items), Term::Path(path)) = (&set.term, &item.term) else {
                return None;
            };
            let values: Option<BTreeSet<Value>> = items.iter().map(value).collect();
            let values = values?;
            Some((
                path.clone(),
                either(Claim::OneOf(values.clone()), Claim::NoneOf(values)),
            ))
        }
        Term::Less(two) => bound(two, truth, 1),
        Term::LessEq(two) => bound(two, truth, 0),
        Term::In(two) => {
            let [one, groups] = &**two;
            let (Term::Path(path), Some(groups)) = (&one.term, entities(groups)) else {
                return None;
            };
            Some((
                path.clone(),
                either(Claim::In(groups.clone()), Claim::NotIn(groups)),
            ))
        }
        Term::Is(one, kind) => match &one.term {
            Term::Path(path) => {
                let claim = either(Claim::Is(kind.clone()), Claim::IsNot(kind.clone()));
                Some((path.clone(), claim))
            }
            _ => None,
        },
        Term::Like(one, glob) => match &one.term {
            Term::Path(path) => {
                let claim = either(Claim::Like(glob.clone()), Claim::NotLike(glob.clone()));
                Some((path.clone(), claim))
            }
            _ => None,
        },
        _ => None,
    }
}

/// `a < b` for `gap` 1, `a <= b` for 0, where one side is a number.
fn bound(two: &[Node; 2], truth: bool, gap: i64) -> Option<(String, Claim)> {
    match (&two[0].term, &two[1].term, truth) {
        (Term::Path(p), Term::Long(n), true) => {
            Some((p.clone(), Claim::AtMost(n.saturating_sub(gap))))
        }
        (Term::Path(p), Term::Long(n), false) => {
            Some((p.clone(), Claim::AtLeast(n.saturating_add(1 - gap))))
        }
        (Term::Long(n), Term::Path(p), true) => {
            Some((p.clone(), Claim::AtLeast(n.saturating_add(gap))))
        }
        (Term::Long(n), Term::Path(p), false) => {
            Some((p.clone(), Claim::AtMost(n.saturating_sub(1 - gap))))
        }
        _ => None,
    }
}

fn path_and_value([a, b]: &[Node; 2]) -> Option<(String, Value)> {
    match (&a.term, &b.term) {
        (Term::Path(path), _) => Some((path.clone(), value(b)?)),
        (_, Term::Path(path)) => Some((path.clone(), value(a)?)),
        _ => None,
    }
}

/// The value that a literal is.
pub(super) fn value(node: &Node) -> Option<Value> {
    Some(match &node.term {
        Term::Bool(b) => Value::Bool(*b),
        Term::Entity(uid) => Value::Entity(uid.clone()),
        Term::Long(n) => Value::Long(*n),
        Term::Text(text) => Value::Text(text.clone()),
        _ => return None,
    })
}

fn entities(node: &Node) -> Option<Vec<EntityUid>> {
    match &node.term {
        Term::Entity(uid) => Some(vec![uid.clone()]),
        Term::Set(items) => items
            .iter()
            .map(|item| match &item.term {
                Term::Entity(uid) => Some(uid.clone()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

fn one_of<const N: usize>(values: [Value; N]) -> Claim {
    Claim::OneOf(BTreeSet::from(values))
}

/// The first fact that contradicts one before it, and that one.
pub(super) fn contradiction<'f>(facts: &'f [Fact], kin: &Kin) -> Option<(&'f Fact, &'f Fact)> {
    facts.iter().enumerate().find_map(|(i, second)| {
        let before = facts.get(..i)?;
        let first = before.iter().find(|first| contradict(first, second, kin))?;
        Some((first, second))
    })
}

/// Whether no request can have both.
pub(super) fn contradict(a: &Fact, b: &Fact, kin: &Kin) -> bool {
    a.subject == b.subject
        && (clash(&a.subject, &a.claim, &b.claim, kin)
            || clash(&a.subject, &b.claim, &a.claim, kin))
}

/// Whether two claims about one subject cannot both hold; looked at from one side.
fn clash(subject: &str, a: &Claim, b: &Claim, kin: &Kin) -> bool {
    let entity = matches!(subject, "principal" | "resource");
    match (a, b) {
        (Claim::Absent, Claim::Present) => true,
        (Claim::Is(a), Claim::Is(b)) => a != b,
        (Claim::Is(a), Claim::IsNot(b)) => a == b,
        (Claim::AtLeast(low), Claim::AtMost(high)) => low > high,
        (Claim::OneOf(a), Claim::OneOf(b)) => a.is_disjoint(b),
        (Claim::OneOf(a), Claim::NoneOf(b)) => a.is_subset(b),
        (Claim::OneOf(values), Claim::AtLeast(low)) => values
            .iter()
            .all(|v| matches!(v, Value::Long(n) if n < low)),
        (Claim::OneOf(values), Claim::AtMost(high)) => values
            .iter()
            .all(|v| matches!(v, Value::Long(n) if n > high)),
        (Claim::OneOf(values), Claim::Like(glob)) => values
            .iter()
            .all(|v| matches!(v, Value::Text(text) if !glob.matches(text))),
        (Claim::OneOf(values), Claim::NotLike(glob)) => values
            .iter()
            .all(|v| matches!(v, Value::Text(text) if glob.matches(text))),
        (Claim::OneOf(values), Claim::Is(kind)) => values
            .iter()
            .all(|v| matches!(v, Value::Entity(uid) if uid.type_name().to_string() != *kind)),
        (Claim::OneOf(values), Claim::IsNot(kind)) => values
            .iter()
            .all(|v| matches!(v, Value::Entity(uid) if uid.type_name().to_string() == *kind)),
        (Claim::OneOf(values), Claim::In(groups)) => values
            .iter()
            .all(|v| matches!(v, Value::Entity(uid) if kin.is_outside(uid, groups))),
        (Claim::OneOf(values), Claim::NotIn(groups)) => values
            .iter()
            .all(|v| matches!(v, Value::Entity(uid) if groups.iter().any(|g| kin.is_in(uid, g)))),
        (Claim::In(inner), Claim::NotIn(outer)) => inner
            .iter()
            .all(|one| outer.iter().any(|group| kin.is_in(one, group))),
        (Claim::In(a), Claim::In(b)) if entity => kin.share_nobody(subject, a, b),
        (Claim::In(groups), Claim::Is(kind)) if entity => kin.hold_none(groups, kind),
        (Claim::Like(a), Claim::Like(b)) => {
            let apart = |x: &str, y: &str| !x.starts_with(y) && !y.starts_with(x);
            let behind = |x: &str, y: &str| !x.ends_with(y) && !y.ends_with(x);
            apart(&a.prefix(), &b.prefix()) || behind(&a.suffix(), &b.suffix())
        }
        _ => false,
    }
}
