//! Parts of conditions that say nothing, or never get to say anything.
//!
//! Each part is looked at knowing what holds where it stands: the vocabulary, the scope,
//! the conditions and parts before it.

use std::ops::Range;

use palisade_mesh::diagnostic::Diagnostic;

use super::{Edit, Finding, Policy, Study, known};
use crate::{
    author::{
        codes,
        facts::{self, Fact, contradict},
        kin::Kin,
    },
    decide::{Kind, Node, Term, written},
};

/// What is remarkable about a part.
struct Remark<'n> {
    node: &'n Node,
    always: bool,
    /// Whether it is one of several alternatives.
    branch: bool,
    /// What says so; nothing where the part itself does.
    because: Option<String>,
    /// What could be cut without a change, now and later.
    cut: Option<Range<usize>>,
}

/// Looks for both: parts that are constant, and alternatives that cannot be true.
pub(super) fn look(study: &Study, findings: &mut Vec<Finding>) {
    for (policy, remark) in remarks(study) {
        let code = match remark.branch && !remark.always {
            true => codes::UNREACHABLE,
            false => codes::CONSTANT,
        };
        findings.push(told(study, policy, &remark, code));
    }
}

fn told(study: &Study, policy: &Policy, remark: &Remark<'_>, code: u16) -> Finding {
    let text = written(remark.node);
    let id = &policy.id;
    let word = if remark.always { "true" } else { "false" };
    let (message, help) = match code {
        codes::UNREACHABLE => (
            format!("policy `{id}`: `{text}` can never be true here"),
            "remove the alternative, or correct what contradicts it",
        ),
        _ => (
            format!("policy `{id}`: `{text}` is always {word} here"),
            "leave it out, or write what was meant",
        ),
    };
    let cause = match &remark.because {
        Some(fact) => format!("{fact} already says so"),
        None => "it does not depend on the request".to_owned(),
    };
    let diagnostic = Diagnostic::warning(code, message)
        .label(format!("always {word}"))
        .cause(cause)
        .help(help)
        .at(study.at(policy, Some(&remark.node.span)));
    let file = &study.read(policy).source.path;
    let edit = remark.cut.clone().map(|span| Edit {
        file: file.clone(),
        span,
        text: String::new(),
    });
    Finding { diagnostic, edit }
}

/// What is remarkable, in every policy that could match at all.
fn remarks(study: &Study) -> Vec<(&Policy, Remark<'_>)> {
    let mut all = Vec::new();
    let possible = study.policies.iter().filter(|p| p.contradiction.is_none());
    for policy in possible.filter(|p| !p.conditions.is_empty()) {
        let mut walk = Walk {
            study,
            source: &study.read(policy).source.text,
            known: known(&policy.scope, &study.vocabulary, &study.kin),
            remarks: Vec::new(),
        };
        for condition in &policy.conditions {
            walk.part(&condition.node, false, None);
            facts::stated(
                &condition.node,
                condition.kind == Kind::When,
                &mut walk.known,
            );
        }
        all.extend(walk.remarks.into_iter().map(|remark| (policy, remark)));
    }
    all
}

struct Walk<'s> {
    study: &'s Study,
    source: &'s str,
    known: Vec<Fact>,
    remarks: Vec<Remark<'s>>,
}

impl<'s> Walk<'s> {
    /// Looks at a part; `cut` is what could go with it where it is always true.
    fn part(&mut self, node: &'s Node, branch: bool, cut: Option<Range<usize>>) {
        match &node.term {
            Term::And(parts) => {
                let before = self.known.len();
                for (i, part) in parts.iter().enumerate() {
                    let cut = self.cut(parts, i);
                    self.part(part, branch, cut);
                    facts::stated(part, true, &mut self.known);
                }
                self.known.truncate(before);
            }
            Term::Or(parts) => parts.iter().for_each(|part| self.part(part, true, None)),
            Term::Not(inner) if inner.span != node.span => self.part(inner, false, None),
            Term::If(parts) => {
                let [test, then, otherwise] = &**parts;
                self.part(test, false, None);
                for (part, truth) in [(then, true), (otherwise, false)] {
                    let before = self.known.len();
                    facts::stated(test, truth, &mut self.known);
                    self.part(part, true, None);
                    self.known.truncate(before);
                }
            }
            _ => self.atom(node, branch, cut),
        }
    }

    fn atom(&mut self, node: &'s Node, branch: bool, cut: Option<Range<usize>>) {
        let found = match by_itself(node) {
            Some(always) => Some((always, None)),
            None => match (self.against(node, true), self.against(node, false)) {
                (Some(fact), _) => Some((false, Some(fact))),
                (None, Some(fact)) => Some((true, Some(fact))),
                (None, None) => None,
            },
        };
        let cut = cut.filter(|_| self.is_always_true(node));
        self.remarks.extend(found.map(|(always, because)| Remark {
            node,
            always,
            branch,
            because,
            cut,
        }));
    }

    /// The known fact that keeps `node` from coming out as `truth`.
    fn against(&self, node: &Node, truth: bool) -> Option<String> {
        let mut facts = Vec::new();
        facts::stated(node, truth, &mut facts);
        let kin = &self.study.kin;
        let known = |fact: &Fact| self.known.iter().find(|k| contradict(k, fact, kin));
        facts.iter().find_map(known).map(|fact| fact.text.clone())
    }

    /// Whether `node` is true whatever becomes of entities and catalogue: a test that only
    /// today's members pass is a guard against tomorrow's.
    fn is_always_true(&self, node: &Node) -> bool {
        by_itself(node).unwrap_or_else(|| {
            let mut facts = Vec::new();
            facts::stated(node, false, &mut facts);
            let (nobody, mut known) = (Kin::default(), self.known.iter());
            known.any(|k| k.lasting && facts.iter().any(|fact| contradict(k, fact, &nobody)))
        })
    }

    /// The bytes of the `i`th operand with its `&&`, where nothing else stands between.
    fn cut(&self, parts: &[Node], i: usize) -> Option<Range<usize>> {
        let joined = |a: &Node, b: &Node| {
            let between = self.source.get(a.span.end..b.span.start);
            between.is_some_and(|text| text.trim() == "&&")
        };
        let own = parts.get(i)?;
        if let Some(before) = i.checked_sub(1).and_then(|i| parts.get(i)) {
            return joined(before, own).then_some(before.span.end..own.span.end);
        }
        let next = parts.get(i + 1)?;
        joined(own, next).then_some(own.span.start..next.span.start)
    }
}

/// The value of a part that does not depend on the request.
fn by_itself(node: &Node) -> Option<bool> {
    let literal = |two: &[Node; 2]| Some((facts::value(&two[0])?, facts::value(&two[1])?));
    match &node.term {
        Term::Bool(value) => Some(*value),
        Term::Equal(two) => match literal(two) {
            Some((a, b)) => Some(a == b),
            None => {
                let [a, b] = &**two;
                (a.printed() == b.printed()).then_some(true)
            }
        },
        Term::Less(two) => literal(two).map(|(a, b)| a < b),
        Term::LessEq(two) => literal(two).map(|(a, b)| a <= b),
        Term::Not(inner) => by_itself(inner).map(|value| !value),
        _ => None,
    }
}
