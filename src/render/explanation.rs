//! A verdict and its reasons, as `can` and `why` print them.

use palisade_pdp::decide::{Clause, ClauseKind, ClauseState, Explanation, Outcome, PolicyView};

use super::{BAD, DIM, GOOD, NAME, WARN, line, paint, snippet::clean, strong};
use crate::run::pdp::CanAnswer;

/// Prints the answer of `can`; with `why` also what it rests on.
pub(crate) fn print_can(principal: &str, answer: &CanAnswer, asked: &str, why: bool) {
    let explanation = &answer.explanation;
    let (style, word) = verdict(explanation.verdict);
    line(&format!(
        "{}  {} → {}",
        paint(style.bold(), word),
        clean(principal),
        clean(&answer.understood),
    ));
    line(&format!(
        "{}  {}",
        paint(NAME, "reason"),
        reason(explanation)
    ));
    if why {
        print_reasons(explanation);
    }
    let revision: String = explanation.revision.chars().take(8).collect();
    line(&paint(
        DIM,
        format!(
            "asked the {asked}, revision {} {revision}",
            explanation.sequence
        ),
    ));
}

/// The sentence that says why.
pub(crate) fn reason(explanation: &Explanation) -> String {
    let by = |policies: &[PolicyView]| {
        let named: Vec<String> = policies.iter().map(named).collect();
        named.join(", ")
    };
    match explanation.verdict {
        Outcome::Allow => format!("permitted by {}", by(&explanation.determining)),
        Outcome::Forbidden => format!("forbidden by {}", by(&explanation.determining)),
        Outcome::NotPermitted => "no permit matched (and nothing forbids it)".into(),
        Outcome::Undecided => format!("could not decide: {}", explanation.reason),
        Outcome::Unknown => "the record lacks an input, so the outcome cannot be told".into(),
    }
}

/// Determining policies, or the nearest permits with their first false clause.
pub(crate) fn print_reasons(explanation: &Explanation) {
    let own = explanation.determining.iter().chain(&explanation.errors);
    for policy in own {
        line("");
        print_policy(policy);
    }
    if explanation.determining.is_empty() && !explanation.nearest.is_empty() {
        line(&format!("\n{}", strong("nearest policies")));
        for policy in &explanation.nearest {
            print_policy(policy);
        }
    }
    for missing in &explanation.missing_entities {
        line(&format!(
            "{}  {} is not in the snapshot",
            paint(WARN, "missing"),
            clean(missing)
        ));
    }
    if !explanation.inputs.is_empty() {
        let inputs: Vec<String> = explanation
            .inputs
            .iter()
            .map(|(k, v)| format!("{k} = {}", clean(v)))
            .collect();
        line(&format!(
            "\n{}  {}",
            paint(NAME, "inputs"),
            inputs.join(" · ")
        ));
    }
    if !explanation.not_recorded.is_empty() {
        let names = explanation.not_recorded.join(", ");
        line(&format!("{}  {names}", paint(WARN, "not recorded")));
    }
}

fn print_policy(policy: &PolicyView) {
    let owner = policy
        .owner
        .as_deref()
        .map(|o| format!(" · owner {}", clean(o)))
        .unwrap_or_default();
    let conditions = match policy.clauses.len() {
        0 => String::new(),
        n => format!(" · {} of {n} conditions hold", policy.passed),
    };
    line(&format!(
        "  {}{}",
        named(policy),
        paint(DIM, format!("{conditions}{owner}"))
    ));
    for why_not in &policy.scope {
        line(&format!("      {} {}", paint(BAD, "✗"), clean(why_not)));
    }
    for note in &policy.notes {
        line(&format!("      {} {}", paint(WARN, "!"), clean(note)));
    }
    for clause in &policy.clauses {
        line(&clause_line(clause));
    }
    if let Some(message) = &policy.deny_message {
        line(&format!("      {}", paint(DIM, clean(message))));
    }
}

fn clause_line(clause: &Clause) -> String {
    let (style, mark) = match clause.state {
        _ if clause.blocks => (BAD, "✗"),
        ClauseState::True | ClauseState::False => (GOOD, "✓"),
        ClauseState::Error => (BAD, "‼"),
        ClauseState::NotReached => (DIM, "–"),
        ClauseState::NotRecorded => (WARN, "?"),
    };
    let kind = match clause.kind {
        ClauseKind::Unless => "unless ",
        ClauseKind::When => "",
    };
    let saw: Vec<String> = clause
        .saw
        .iter()
        .map(|s| format!("{} = {}", s.name, clean(&s.value)))
        .collect();
    let saw = match (saw.is_empty(), clause.state) {
        (_, ClauseState::NotReached) => "  not reached".into(),
        (true, _) => String::new(),
        (false, _) => format!("  {}", saw.join(", ")),
    };
    let error = clause
        .error
        .as_deref()
        .map(|e| format!("  {}", clean(e)))
        .unwrap_or_default();
    let text = clause.text.split_whitespace().collect::<Vec<_>>().join(" ");
    format!(
        "    {:>4} {} {kind}{}{}",
        clause.line,
        paint(style, mark),
        clean(&text),
        paint(DIM, saw + &error)
    )
}

fn named(policy: &PolicyView) -> String {
    let place = format!("{}:{}–{}", policy.file, policy.first_line, policy.last_line);
    format!(
        "{} {}",
        strong(clean(&policy.id)),
        paint(DIM, clean(&place))
    )
}

/// The word and style of an outcome.
pub(crate) fn verdict(outcome: Outcome) -> (anstyle::Style, &'static str) {
    match outcome {
        Outcome::Allow => (GOOD, "ALLOW"),
        Outcome::Forbidden | Outcome::NotPermitted => (BAD, "DENY"),
        Outcome::Undecided => (WARN, "FAULT"),
        Outcome::Unknown => (WARN, "UNKNOWN"),
    }
}
