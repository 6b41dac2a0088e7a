//! What policies did over many decisions: which matched, and which parts of their
//! conditions came out which way.

use std::cell::OnceCell;

use serde::Serialize;

use super::{
    ClauseKind, Snapshot,
    core::{Body, Conjunct, Evaluation, Kind, Truth, start_of},
    index::rule_at,
    rule::Rule,
    slice::Slice,
};

/// Looks on while decisions are made.
pub(crate) struct Watch {
    /// By position of the policy.
    seen: Vec<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Evaluations in whose scope it was.
    evaluated: u64,
    parts: OnceCell<Vec<Part>>,
}

struct Part {
    conjunct: Conjunct,
    was_true: bool,
    was_false: bool,
}

/// What a policy did.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyUse {
    /// Policy id.
    pub id: String,
    /// `permit` or `forbid`.
    pub effect: &'static str,
    /// Whether it is in shadow mode.
    pub shadow: bool,
    /// File in the repository.
    pub file: String,
    /// First line in the file.
    pub first_line: usize,
    /// `@owner`.
    pub owner: Option<String>,
    /// Different questions that its scope held for.
    pub in_scope: u64,
    /// Parts of its conditions that came out one way only, or were never reached.
    pub one_way: Vec<OneWay>,
}

/// One `&&` part of a condition that did not come out both ways.
#[derive(Debug, Clone, Serialize)]
pub struct OneWay {
    /// Which kind of condition it stands in.
    pub kind: ClauseKind,
    /// Line in the file.
    pub line: usize,
    /// As it was written.
    pub text: String,
    /// Whether it was ever true.
    pub was_true: bool,
    /// Whether it was ever false.
    pub was_false: bool,
}

impl Watch {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        Self {
            seen: snapshot.rules().iter().map(|_| Seen::default()).collect(),
        }
    }

    /// Looks at the policies of one evaluated slice.
    pub(crate) fn look(&mut self, snapshot: &Snapshot, slice: &Slice, evaluation: &Evaluation<'_>) {
        let policies = slice
            .forbids
            .iter()
            .chain(&slice.permits)
            .chain(&slice.shadows);
        for position in policies {
            let at = usize::try_from(*position).ok();
            let seen = at.and_then(|at| self.seen.get_mut(at));
            let (Some(rule), Some(seen)) = (rule_at(snapshot.rules(), *position), seen) else {
                continue;
            };
            seen.evaluated += 1;
            seen.parts.get_or_init(|| parts_of(snapshot, rule));
            if let Some(parts) = seen.parts.get_mut() {
                mark(parts, evaluation);
            }
        }
    }

    /// What each policy did, sorted by id.
    pub(crate) fn told(&self, snapshot: &Snapshot) -> Vec<PolicyUse> {
        let rules = snapshot.rules().iter().zip(&self.seen);
        rules
            .filter_map(|(rule, seen)| told(snapshot, rule, seen))
            .collect()
    }
}

fn parts_of(snapshot: &Snapshot, rule: &Rule) -> Vec<Part> {
    let id = cedar_policy::PolicyId::new(rule.id.as_str());
    let policy = snapshot.compiled().policies.policy(&id);
    let parts = policy.and_then(|p| Some(Body::of(p)?.conjuncts(start_of(p))));
    let parts = parts.into_iter().flatten();
    parts
        .map(|conjunct| Part {
            conjunct,
            was_true: false,
            was_false: false,
        })
        .collect()
}

/// Evaluates parts in Cedar's order, as far as it would come.
fn mark(parts: &mut [Part], evaluation: &Evaluation<'_>) {
    for condition in parts.chunk_by_mut(|a, b| a.conjunct.condition == b.conjunct.condition) {
        let mut all_true = true;
        for part in condition.iter_mut() {
            match part.conjunct.test(evaluation).0 {
                Truth::True => part.was_true = true,
                Truth::False => {
                    part.was_false = true;
                    all_true = false;
                    break;
                }
                Truth::Error => return,
            }
        }
        let unless = condition
            .first()
            .is_some_and(|p| p.conjunct.kind == Kind::Unless);
        if all_true == unless {
            return;
        }
    }
}

fn told(snapshot: &Snapshot, rule: &Rule, seen: &Seen) -> Option<PolicyUse> {
    let info = snapshot.info(&rule.id)?;
    let fresh;
    let parts = match seen.parts.get() {
        Some(parts) => parts,
        None => {
            fresh = parts_of(snapshot, rule);
            &fresh
        }
    };
    let one_way = parts.iter().filter(|p| !(p.was_true && p.was_false));
    Some(PolicyUse {
        id: info.id.to_string(),
        effect: if info.permit { "permit" } else { "forbid" },
        shadow: info.shadow,
        file: info.file.to_string(),
        first_line: info.first_line,
        owner: info.owner.as_ref().map(ToString::to_string),
        in_scope: seen.evaluated,
        one_way: one_way
            .map(|part| OneWay {
                kind: match part.conjunct.kind {
                    Kind::Unless => ClauseKind::Unless,
                    Kind::When => ClauseKind::When,
                },
                line: info.first_line + part.conjunct.line,
                text: part.conjunct.text.clone(),
                was_true: part.was_true,
                was_false: part.was_false,
            })
            .collect(),
    })
}
