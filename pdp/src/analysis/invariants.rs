//! Whether what must never become possible is impossible in a revision.
//!
//! An invariant is put as the question whether anything that it would forbid is allowed: proved
//! where there is a solver, else searched for among those who are known.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use palisade_mesh::diagnostic::{Diagnostic, Location, Severity};

use super::{
    Comparison, codes,
    gate::{Gate, GateAnswer, GateVerdict},
    prove::{Example, PROOF_TIME_DEFAULT, Solver},
};
use crate::{
    author,
    compiled::PolicyInfo,
    decide::{Snapshot, SnapshotError},
};

/// An invariant cannot be put to the engine.
const ENGINE: u16 = 6001;

/// How one invariant came out.
#[derive(Debug, Clone)]
pub struct InvariantAnswer {
    /// What is known of it.
    pub info: PolicyInfo,
    /// Whether it holds.
    pub answer: GateAnswer,
    /// Pairs of caller and request that were looked at.
    pub searched: usize,
}

/// What was found out about all invariants of a revision.
#[derive(Debug, Default)]
pub struct Checked {
    /// How each came out, by id.
    pub answers: Vec<InvariantAnswer>,
    /// What is broken, as errors; what is not proved, as warnings.
    pub findings: Vec<Diagnostic>,
    /// Name and version of the solver, where there is one.
    pub solver: Option<String>,
}

impl Checked {
    /// Ids of those that are proved.
    pub fn proved(&self) -> impl Iterator<Item = &str> {
        let kept = |a: &&InvariantAnswer| a.answer.verdict == GateVerdict::Kept;
        self.answers.iter().filter(kept).map(|a| a.info.id.as_str())
    }
}

/// Answers every invariant of a revision from the moment `now_us` on, with the solver of this
/// machine, within `time_max` altogether; what it leaves no time for is not proved.
///
/// Blocks on CPU and on the solver.
pub fn checked(head: &Arc<Snapshot>, time_max: Duration, now_us: i64) -> Checked {
    let mut checked = Checked::default();
    if head.compiled().invariants.is_empty() {
        return checked;
    }
    let solver = Solver::find().unwrap_or_else(|mut unusable| {
        unusable.severity = Severity::Warning;
        checked.findings.push(unusable);
        None
    });
    checked.solver = solver.as_ref().map(|solver| solver.name().to_owned());
    match check(head, solver.as_ref(), time_max, now_us) {
        Ok(answers) => {
            let texts = author::texts_of(head.compiled());
            let partial = !head.compiled().absent.is_empty();
            let told = answers.iter().filter_map(|a| told(a, &texts, partial));
            checked.findings.extend(told);
            checked.answers = answers;
        }
        Err(error) => checked.findings.push(
            Diagnostic::error(ENGINE, "an invariant cannot be put to the engine")
                .cause(error.to_string())
                .help("see the invariant it names"),
        ),
    }
    checked
}

/// Answers every invariant of a revision, by id, from the moment `now_us` on, within
/// `time_max` altogether.
///
/// # Errors
/// When one cannot be put to the engine; the compiler is to blame.
pub fn check(
    head: &Arc<Snapshot>,
    solver: Option<&Solver>,
    time_max: Duration,
    now_us: i64,
) -> Result<Vec<InvariantAnswer>, SnapshotError> {
    let begun = Instant::now();
    let comparison = Comparison::new(head.clone(), head.clone(), now_us);
    let invariants = head.compiled().invariants.values();
    let answers = invariants.map(|info| {
        let gate = Gate::Invariant(info.clone());
        let left = time_max.saturating_sub(begun.elapsed());
        let time_max = left.min(PROOF_TIME_DEFAULT);
        let answer = comparison.answer(&gate, solver, time_max, None)?;
        Ok(InvariantAnswer {
            info: info.clone(),
            searched: answer.compared,
            answer,
        })
    });
    answers.collect()
}

fn told(
    one: &InvariantAnswer,
    texts: &[(Arc<str>, Arc<str>)],
    partial: bool,
) -> Option<Diagnostic> {
    let id = &one.info.id;
    let text = texts.iter().find(|(path, _)| *path == one.info.file);
    let at =
        text.map(|(path, text)| Location::line(path.clone(), text.clone(), one.info.first_line));
    let located = |diagnostic: Diagnostic| match at {
        Some(at) => diagnostic.at(at),
        None => diagnostic,
    };
    match one.answer.verdict {
        GateVerdict::Kept => None,
        GateVerdict::Broken => Some(located(
            Diagnostic::error(
                codes::INVARIANT_BROKEN,
                format!("invariant `{id}` does not hold"),
            )
            .cause(shown(one))
            .help("narrow the permit that it names, or forbid what the invariant says"),
        )),
        GateVerdict::Unproved => Some(located(
            Diagnostic::warning(
                codes::INVARIANT_UNPROVED,
                format!("invariant `{id}` is not proved"),
            )
            .cause(format!(
                "{}; among {} of callers and requests nothing breaks it",
                one.answer.why.join("; "),
                pairs(one.searched)
            ))
            .help(match partial {
                true => "have the whole of it: --fetch, or --checkout NAME=DIR for each source that is not here",
                false => "install cvc5, or name it in CVC5; see docs/policy-changes.md for what can be proved",
            }),
        )),
    }
}

/// `1,234 pairs`
fn pairs(n: usize) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    match n {
        1 => format!("{grouped} pair"),
        _ => format!("{grouped} pairs"),
    }
}

/// A request that breaks an invariant, and the permit that allows it.
fn shown(one: &InvariantAnswer) -> String {
    let answer = &one.answer;
    let of = |example: &Example| {
        format!(
            "{} {} on {}",
            example.caller, example.action, example.target
        )
    };
    let proved = answer
        .counterexamples
        .first()
        .map(|c| (of(&c.example), &c.by));
    let example = answer.example.as_ref().map(of);
    let known = answer
        .access
        .first()
        .map(|a| (example.unwrap_or_else(|| a.callers.join(", ")), &a.by));
    match proved.or(known) {
        Some((request, by)) => {
            let by: Vec<String> = by
                .iter()
                .filter(|p| p.id != one.info.id.as_str())
                .map(|p| format!("`{}` ({}:{})", p.id, p.file, p.line))
                .collect();
            format!("{request} is allowed by {}", by.join(", "))
        }
        None => "a request that it forbids is allowed".to_owned(),
    }
}
