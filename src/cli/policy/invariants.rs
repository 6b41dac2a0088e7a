//! What must never become possible: proved where there is a solver, else searched for.

use std::time::Duration;

use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::{
    analysis::{gate::GateVerdict, invariants},
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

/// Checks every invariant of a revision, for all time from `now_us` on; each has as long as a
/// proof has.
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
    let found = invariants::checked(&snapshot, Duration::MAX, now_us);
    checked.proved = found.proved().map(str::to_owned).collect();
    if !found.answers.is_empty() {
        checked.lines.push(line(&found));
    }
    checked.findings = found.findings;
    checked
}

/// `✓ 2 invariants: 1 proved by cvc5 1.0.3, 1 searched`
fn line(checked: &invariants::Checked) -> String {
    let answers = &checked.answers;
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
        let by = checked.solver.as_ref();
        let by = by.map_or_else(String::new, |name| format!(" by {name}"));
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
