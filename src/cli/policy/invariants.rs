//! What must never become possible: proved where there is a solver, else searched for.

use std::sync::Arc;

use palisade_mesh::diagnostic::{Diagnostic, Location, Severity};
use palisade_pdp::{
    analysis::{
        codes,
        gate::GateVerdict,
        invariants::{self, InvariantAnswer},
        prove::{Example, PROOF_TIME_DEFAULT, Solver},
    },
    author,
    compiled::Compiled,
};

use crate::render::{self, paint};

/// What was found out about the invariants of a revision.
#[derive(Default)]
pub(in crate::cli) struct Checked {
    /// What is broken, and what is not proved.
    pub(in crate::cli) findings: Vec<Diagnostic>,
    /// What people read.
    pub(in crate::cli) lines: Vec<String>,
    /// Ids of those that are proved.
    pub(in crate::cli) proved: Vec<String>,
}

/// Checks every invariant of a revision, for all time from `now_us` on.
pub(in crate::cli) fn check(compiled: &Compiled, now_us: i64) -> Checked {
    let mut checked = Checked::default();
    if compiled.invariants.is_empty() {
        return checked;
    }
    let snapshot = match crate::run::policy::snapshot(compiled.clone(), 0) {
        Ok(snapshot) => snapshot,
        Err(wrong) => {
            checked.findings.push(wrong);
            return checked;
        }
    };
    let solver = match Solver::find() {
        Ok(solver) => solver,
        Err(mut unusable) => {
            unusable.severity = Severity::Warning;
            checked.findings.push(unusable);
            None
        }
    };
    match invariants::check(&snapshot, solver.as_ref(), PROOF_TIME_DEFAULT, now_us) {
        Ok(answers) => {
            let texts = author::texts_of(compiled);
            let told = answers.iter().filter_map(|a| told(a, &texts));
            checked.findings.extend(told);
            checked.lines.push(line(&answers, solver.as_ref()));
            let kept = answers
                .iter()
                .filter(|a| a.answer.verdict == GateVerdict::Kept);
            checked.proved = kept.map(|a| a.info.id.to_string()).collect();
        }
        Err(error) => checked.findings.push(
            Diagnostic::error(6001, "an invariant cannot be put to the engine")
                .cause(error.to_string())
                .help("see the invariant it names"),
        ),
    }
    checked
}

/// `✓ 2 invariants: 1 proved by cvc5 1.0.3, 1 searched`
fn line(answers: &[InvariantAnswer], solver: Option<&Solver>) -> String {
    let of = |verdict| {
        answers
            .iter()
            .filter(|a| a.answer.verdict == verdict)
            .count()
    };
    let (proved, broken) = (of(GateVerdict::Kept), of(GateVerdict::Broken));
    let searched = answers.len() - proved - broken;
    let mut parts = Vec::new();
    if proved > 0 {
        let by = solver.map_or_else(String::new, |s| format!(" by {}", s.name()));
        parts.push(format!("{proved} proved{by}"));
    }
    if searched > 0 {
        parts.push(format!("{searched} searched, not proved"));
    }
    if broken > 0 {
        parts.push(format!("{broken} broken"));
    }
    let mark = match (broken, searched) {
        (0, 0) => paint(render::GOOD, "✓"),
        (0, _) => paint(render::WARN, "!"),
        _ => paint(render::BAD, "✗"),
    };
    format!(
        "{mark} {}: {}",
        render::count(answers.len(), "invariant", "invariants"),
        parts.join(", ")
    )
}

fn told(one: &InvariantAnswer, texts: &[(Arc<str>, Arc<str>)]) -> Option<Diagnostic> {
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
                render::count(one.searched, "pair", "pairs")
            ))
            .help("install cvc5, or name it in CVC5; see docs/policy-changes.md for what can be proved"),
        )),
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
