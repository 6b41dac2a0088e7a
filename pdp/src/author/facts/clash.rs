//! Which facts cannot both hold.
//!
//! What a condition states in any case is looked at first. Where it has alternatives, a policy
//! can match by one of them; where each contradicts something, it cannot match at all.

use palisade_mesh::operation::Template;

use super::{Claim, Fact, Value, stated};
use crate::{
    author::kin::Kin,
    decide::{Condition, Glob, Kind, Node, Term},
};

/// Two facts that cannot both hold.
#[derive(Debug, Clone)]
pub(in crate::author) struct Contradiction {
    pub(in crate::author) first: Fact,
    pub(in crate::author) second: Fact,
    /// Whether the second is one of alternatives, each of which contradicts something.
    pub(in crate::author) of_alternatives: bool,
}

impl Contradiction {
    /// Whether members of a group make it one, who may change.
    pub(in crate::author) fn is_by_groups(&self) -> bool {
        self.first.is_of_group() || self.second.is_of_group()
    }
}

/// What keeps conditions from being true where `known` holds, beside what they state themselves.
pub(in crate::author) fn contradiction(
    conditions: &[Condition],
    mut known: Vec<Fact>,
    kin: &Kin,
) -> Option<Contradiction> {
    known.extend(conditions.iter().flat_map(super::of_condition));
    let stated = against(&known, 0, kin);
    let choices = conditions.iter();
    let choices = choices.map(|c| (&c.node, c.kind == Kind::When));
    surest(
        stated
            .into_iter()
            .chain(choices.filter_map(|(node, truth)| dead_end(node, truth, &mut known, kin))),
    )
}

/// The first that holds whoever is in which group; the first of all where there is none.
fn surest(mut all: impl Iterator<Item = Contradiction>) -> Option<Contradiction> {
    let first = all.next()?;
    match first.is_by_groups() {
        true => Some(all.find(|c| !c.is_by_groups()).unwrap_or(first)),
        false => Some(first),
    }
}

/// A fact from the one numbered `from` on that contradicts one before it, and that one.
fn against(facts: &[Fact], from: usize, kin: &Kin) -> Option<Contradiction> {
    let pairs = facts.iter().enumerate().skip(from).flat_map(|(i, second)| {
        let before = facts.get(..i).unwrap_or_default().iter();
        before.map(move |first| (first, second))
    });
    let clashing = pairs.filter(|(first, second)| contradict(first, second, kin));
    surest(clashing.map(|(first, second)| Contradiction {
        first: first.clone(),
        second: second.clone(),
        of_alternatives: false,
    }))
}

/// Why `node` cannot come out as `truth`, where each of its alternatives contradicts what is
/// known. One that only today's members rule out goes before: it may be possible tomorrow.
fn dead_end(node: &Node, truth: bool, known: &mut Vec<Fact>, kin: &Kin) -> Option<Contradiction> {
    match (&node.term, truth) {
        (Term::And(parts), true) | (Term::Or(parts), false) => {
            let parts = parts.iter();
            return surest(parts.filter_map(|part| dead_end(part, truth, known, kin)));
        }
        (Term::Not(inner), _) => return dead_end(inner, !truth, known, kin),
        _ => {}
    }
    let mut chosen: Option<Contradiction> = None;
    for way in ways(node, truth) {
        let why = blocked(&way, known, kin)?;
        match &chosen {
            Some(first) if first.is_by_groups() || !why.is_by_groups() => {}
            _ => chosen = Some(why),
        }
    }
    chosen.map(|why| Contradiction {
        of_alternatives: true,
        ..why
    })
}

/// The ways in which `node` comes out as `truth`; none where it is no choice.
fn ways(node: &Node, truth: bool) -> Vec<Vec<(&Node, bool)>> {
    match (&node.term, truth) {
        (Term::Or(parts), true) | (Term::And(parts), false) => {
            parts.iter().map(|part| vec![(part, truth)]).collect()
        }
        (Term::If(three), _) => {
            let [test, then, otherwise] = &**three;
            vec![
                vec![(test, true), (then, truth)],
                vec![(test, false), (otherwise, truth)],
            ]
        }
        _ => Vec::new(),
    }
}

/// What keeps all parts of a way from being as they must.
fn blocked(way: &[(&Node, bool)], known: &mut Vec<Fact>, kin: &Kin) -> Option<Contradiction> {
    let before = known.len();
    for (part, truth) in way {
        stated(part, *truth, known);
    }
    let stated = against(known, before, kin);
    let choices = way.iter();
    let choices = choices.filter_map(|(part, truth)| dead_end(part, *truth, known, kin));
    let why = surest(stated.into_iter().chain(choices));
    known.truncate(before);
    why
}

/// Whether no request can have both.
pub(in crate::author) fn contradict(a: &Fact, b: &Fact, kin: &Kin) -> bool {
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
        (Claim::Within(a), Claim::Within(b)) => a.is_apart_from(b),
        (Claim::Within(a), Claim::Outside(b)) => a.is_within(b),
        (Claim::OneOf(values), other) => values.iter().all(|value| is_ruled_out(value, other, kin)),
        (Claim::In(inner), Claim::NotIn(outer)) => inner
            .iter()
            .all(|one| outer.iter().any(|group| kin.is_in(one, group))),
        (Claim::In(a), Claim::In(b)) if entity => kin.share_nobody(subject, a, b),
        (Claim::In(groups), Claim::Is(kind)) if entity => kin.hold_none(groups, kind),
        (Claim::Like(a), Claim::Like(b)) => {
            apart(&a.prefix(), &b.prefix()) || behind(&a.suffix(), &b.suffix())
        }
        (Claim::Like(glob), Claim::Path(templates)) => {
            templates.iter().all(|t| !can_match(glob, t))
        }
        _ => false,
    }
}

/// Whether a subject with this value cannot be as `other` claims.
fn is_ruled_out(value: &Value, other: &Claim, kin: &Kin) -> bool {
    match (value, other) {
        (_, Claim::OneOf(others)) => !others.contains(value),
        (_, Claim::NoneOf(others)) => others.contains(value),
        (_, Claim::AtLeast(low)) => value.number().is_some_and(|n| n < *low),
        (_, Claim::AtMost(high)) => value.number().is_some_and(|n| n > *high),
        (Value::Text(text), Claim::Like(glob)) => !glob.matches(text),
        (Value::Text(text), Claim::NotLike(glob)) => glob.matches(text),
        (Value::Text(text), Claim::Path(templates)) => {
            // What is no path of a template is left to whoever reads it.
            let path = Template::parse(text);
            path.is_ok_and(|path| !templates.iter().any(|t| t.overlaps(&path)))
        }
        (Value::Network(one), Claim::Within(all)) => !one.is_within(all),
        (Value::Network(one), Claim::Outside(all)) => one.is_within(all),
        (Value::Entity(uid), Claim::Is(kind)) => uid.type_name().to_string() != *kind,
        (Value::Entity(uid), Claim::IsNot(kind)) => uid.type_name().to_string() == *kind,
        (Value::Entity(uid), Claim::In(groups)) => kin.is_outside(uid, groups),
        (Value::Entity(uid), Claim::NotIn(groups)) => groups.iter().any(|g| kin.is_in(uid, g)),
        _ => false,
    }
}

fn apart(a: &str, b: &str) -> bool {
    !a.starts_with(b) && !b.starts_with(a)
}

fn behind(a: &str, b: &str) -> bool {
    !a.ends_with(b) && !b.ends_with(a)
}

/// Whether a path of the template may match the pattern.
fn can_match(glob: &Glob, template: &Template) -> bool {
    let text = template.as_str();
    match text.split_once('{') {
        Some((literal, _)) => !apart(literal, &glob.prefix()),
        None => glob.matches(text),
    }
}
