//! What a policy takes for granted where it matches: facts from its scope and its
//! conditions, each with its place, so that two which contradict can be named.
//!
//! A fact says something about one subject, an attribute or a variable. Facts about
//! membership are weighed against the entities of the repository.

use std::{collections::BTreeSet, ops::Range};

use cedar_policy::{ActionConstraint, EntityUid};
use palisade_mesh::operation::Template;
use smol_str::SmolStr;

use super::kin::Kin;
use crate::decide::{Condition, Glob, Kind, Network, Node, Scope, Shape, Term, written};

mod clash;

pub(super) use clash::{Contradiction, contradict, contradiction};

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
    /// An address that is not in these.
    Outside(Network),
    /// A path of one of these templates.
    Path(Vec<Template>),
    Present,
    /// An address that is in these.
    Within(Network),
}

/// A value that a policy compares with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value {
    Bool(bool),
    Duration(i64),
    Entity(EntityUid),
    Long(i64),
    Moment(i64),
    Network(Network),
    Text(SmolStr),
}

impl Fact {
    /// Whether it is about a group, whose members are not for ever.
    pub(super) fn is_of_group(&self) -> bool {
        let is_group = |uid: &EntityUid| uid.type_name().to_string() == "Group";
        match &self.claim {
            Claim::In(all) | Claim::NotIn(all) => all.iter().any(is_group),
            _ => false,
        }
    }
}

impl Value {
    /// What it is where it is put in order with others.
    fn number(&self) -> Option<i64> {
        match self {
            Self::Duration(n) | Self::Long(n) | Self::Moment(n) => Some(*n),
            _ => None,
        }
    }
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
    let constant = |value: bool| Fact {
        subject: value.to_string(),
        claim: one_of([Value::Bool(value)]),
        text: format!("`{value}` is never {}", !value),
        span: None,
        lasting: true,
    };
    let ranges = [
        within("context.time.hour", 0, 23),
        within("context.time.weekday", 1, 7),
        within("context.source.port", 0, 65_535),
    ];
    let constants = [true, false].map(constant);
    ranges.into_iter().flatten().chain(constants).collect()
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

/// An action has its methods, and a business action its operations and their paths.
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
    let fact = |subject: &str, claim: Claim| Fact {
        subject: subject.to_owned(),
        claim,
        text: text.clone(),
        span: None,
        lasting: false,
    };
    let methods = used.methods.iter().map(|m| Value::Text(m.clone()));
    let mut facts = vec![fact("context.http.method", Claim::OneOf(methods.collect()))];
    if let Some(operations) = used.operations {
        let templates = operations.values().cloned().collect();
        facts.push(fact("context.http.path", Claim::Path(templates)));
        let operations = operations.into_keys().map(Value::Entity);
        facts.push(fact("resource", Claim::OneOf(operations.collect())));
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
        // One of several, where all say what one subject is.
        Term::And(parts) | Term::Or(parts) => united(parts, truth),
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
        Term::Within(two) => {
            let [one, range] = &**two;
            let (Some(subject), Term::Network(range)) = (subject(one), &range.term) else {
                return None;
            };
            Some((
                subject,
                either(Claim::Within(*range), Claim::Outside(*range)),
            ))
        }
        _ => None,
    }
}

/// What alternatives claim together: that one subject has one of all their values.
fn united(parts: &[Node], truth: bool) -> Option<(String, Claim)> {
    let mut all: Option<(String, BTreeSet<Value>)> = None;
    for part in parts {
        let mut facts = Vec::new();
        stated(part, truth, &mut facts);
        let [fact] = <[Fact; 1]>::try_from(facts).ok()?;
        let Claim::OneOf(values) = fact.claim else {
            return None;
        };
        match &mut all {
            Some((subject, known)) if *subject == fact.subject => known.extend(values),
            Some(_) => return None,
            None => all = Some((fact.subject, values)),
        }
    }
    all.map(|(subject, values)| (subject, Claim::OneOf(values)))
}

/// `a < b` for `gap` 1, `a <= b` for 0, where one side is a number, moment or duration.
fn bound([a, b]: &[Node; 2], truth: bool, gap: i64) -> Option<(String, Claim)> {
    let number = |node: &Node| value(node)?.number();
    if let Some(n) = number(b) {
        let claim = match truth {
            true => Claim::AtMost(n.saturating_sub(gap)),
            false => Claim::AtLeast(n.saturating_add(1 - gap)),
        };
        return Some((subject(a)?, claim));
    }
    let n = number(a)?;
    let claim = match truth {
        true => Claim::AtLeast(n.saturating_add(gap)),
        false => Claim::AtMost(n.saturating_sub(1 - gap)),
    };
    Some((subject(b)?, claim))
}

fn path_and_value([a, b]: &[Node; 2]) -> Option<(String, Value)> {
    match (value(a), value(b)) {
        (None, Some(value)) => Some((subject(a)?, value)),
        (Some(value), None) => Some((subject(b)?, value)),
        _ => None,
    }
}

/// What a claim is about: a path, or what is made of one, such as `context.time.now.toTime()`.
fn subject(node: &Node) -> Option<String> {
    match &node.term {
        Term::Path(path) => Some(path.clone()),
        Term::Other(_) => Some(node.printed()),
        _ => None,
    }
}

/// The value that a literal is.
pub(super) fn value(node: &Node) -> Option<Value> {
    Some(match &node.term {
        Term::Bool(b) => Value::Bool(*b),
        Term::Duration(n) => Value::Duration(*n),
        Term::Entity(uid) => Value::Entity(uid.clone()),
        Term::Long(n) => Value::Long(*n),
        Term::Moment(n) => Value::Moment(*n),
        Term::Network(network) => Value::Network(*network),
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
