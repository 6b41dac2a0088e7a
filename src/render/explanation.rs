//! A verdict and its reasons, as `can` and `why` print them.

use palisade_pdp::decide::{Clause, ClauseKind, ClauseState, Explanation, Outcome, PolicyView};

use super::{BAD, DIM, GOOD, NAME, WARN, line, paint, screen, snippet::clean, strong};
use crate::run::pdp::CanAnswer;

/// Columns that clauses are broken to where there is no terminal to fit.
const WIDTH_DEFAULT: usize = 100;

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
        line(&format!(
            "{}  {} on {} {}",
            paint(NAME, "asked "),
            clean(&explanation.action),
            clean(&explanation.resource.kind),
            clean(&explanation.resource.id),
        ));
        print_reasons(explanation);
    }
    let revision: String = explanation.revision.chars().take(8).collect();
    let revision = match explanation.sequence {
        // A folder has no number; a published revision has.
        0 => revision,
        n => format!("revision {n} {revision}"),
    };
    line(&paint(DIM, format!("answered by the {asked}, {revision}")));
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

/// Prints what a decision rests on.
pub(crate) fn print_reasons(explanation: &Explanation) {
    reasons(explanation).iter().for_each(|l| line(l));
}

/// What a decision rests on, for a report that has no colours and little room: at most so many
/// lines, none longer than `len_max` characters; the last one says how many have no room.
pub(crate) fn in_words(explanation: &Explanation, lines_max: usize, len_max: usize) -> Vec<String> {
    let plain = |line: String| {
        let line = anstream::adapter::strip_str(&line).to_string();
        let line = line.trim();
        match line.char_indices().nth(len_max) {
            Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
            None => line.to_owned(),
        }
    };
    let lines = reasons(explanation).into_iter().map(plain);
    let mut lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    if lines.len() > lines_max {
        let rest = lines.split_off(lines_max.saturating_sub(1));
        lines.push(format!("and {} more lines: --trace failed", rest.len()));
    }
    lines
}

/// Determining policies, or the nearest permits with their first false clause.
pub(crate) fn reasons(explanation: &Explanation) -> Vec<String> {
    let mut lines = Vec::new();
    let own = explanation.determining.iter().chain(&explanation.errors);
    for view in own {
        lines.push(String::new());
        lines.extend(policy(view));
    }
    if explanation.determining.is_empty() && !explanation.nearest.is_empty() {
        lines.push(String::new());
        lines.push(strong("nearest policies"));
        lines.extend(explanation.nearest.iter().flat_map(policy));
    }
    for missing in &explanation.missing_entities {
        lines.push(format!(
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
        lines.push(String::new());
        lines.push(format!("{}  {}", paint(NAME, "inputs"), inputs.join(" · ")));
    }
    if !explanation.not_recorded.is_empty() {
        let names = explanation.not_recorded.join(", ");
        lines.push(format!("{}  {names}", paint(WARN, "not recorded")));
    }
    lines
}

fn policy(policy: &PolicyView) -> Vec<String> {
    let owner = policy
        .owner
        .as_deref()
        .map(|o| format!(" · owner {}", clean(o)))
        .unwrap_or_default();
    let conditions = match policy.clauses.len() {
        0 => String::new(),
        1 if policy.passed == 1 => " · its condition holds".into(),
        1 => " · its condition does not hold".into(),
        n => format!(" · {} of {n} conditions hold", policy.passed),
    };
    let mut lines = vec![format!(
        "  {}{}",
        named(policy),
        paint(DIM, format!("{conditions}{owner}"))
    )];
    for why_not in &policy.scope {
        lines.push(format!("      {} {}", paint(BAD, "✗"), clean(why_not)));
    }
    for note in &policy.notes {
        lines.push(format!("      {} {}", paint(WARN, "!"), clean(note)));
    }
    let width = screen::width().unwrap_or(WIDTH_DEFAULT);
    lines.extend(policy.clauses.iter().flat_map(|c| clause_lines(c, width)));
    if let Some(message) = &policy.deny_message {
        lines.push(format!("      {}", paint(DIM, clean(message))));
    }
    if let Some(commit) = &policy.commit {
        let by = policy
            .author
            .as_deref()
            .map_or(String::new(), |a| format!(" by {}", clean(a)));
        let commit: String = clean(commit).chars().take(10).collect();
        lines.push(format!(
            "      {}",
            paint(DIM, format!("last changed in {commit}{by}"))
        ));
    }
    lines
}

/// A clause with its mark and what it saw, on one line where it fits `width`, else
/// broken at its operators.
fn clause_lines(clause: &Clause, width: usize) -> Vec<String> {
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
    let mut saw: Vec<String> = match clause.state {
        ClauseState::NotReached => vec!["not reached".into()],
        _ => clause
            .saw
            .iter()
            .map(|s| format!("{} = {}", s.name, clean(&s.value)))
            .collect(),
    };
    saw.extend(clause.error.as_deref().map(clean));
    let text: Vec<&str> = clause.text.split_whitespace().collect();
    let text = format!("{kind}{}", clean(&text.join(" ")));
    let head = format!("    {:>4} {} ", clause.line, paint(style, mark));
    let indent = " ".repeat(11);
    let room = width.saturating_sub(indent.len());
    let whole = format!("{text}  {}", saw.join(", "));
    if whole.chars().count() <= room {
        let saw = paint(DIM, saw.join(", "));
        return vec![format!("{head}{text}  {saw}").trim_end().to_owned()];
    }
    let operands = text.replace(" || ", "\n|| ").replace(" && ", "\n&& ");
    let mut lines = Vec::new();
    for operand in operands.lines() {
        lines.extend(screen::wrap(operand, room));
    }
    let mut out: Vec<String> = lines
        .iter()
        .enumerate()
        .map(|(i, text)| match i {
            0 => format!("{head}{text}"),
            _ => format!("{indent}{text}"),
        })
        .collect();
    out.extend(saw.iter().map(|saw| format!("{indent}{}", paint(DIM, saw))));
    out
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
