//! Policies and callers without use, as `policy unused` prints them.

use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::decide::{ClauseKind, OneWay};

use super::{
    DIM, GOOD, Output, WARN, count, diagnostics, impact, line, paint, snippet::clean, strong,
    thousands,
};
use crate::cli::policy::unused::{Report, Used};

/// Prints a report for people.
pub(crate) fn print(report: &Report) {
    let (shadows, enforced): (Vec<&Used>, Vec<&Used>) =
        report.policies.iter().partition(|used| used.policy.shadow);
    for (effect, note) in [
        ("permit", ""),
        (
            "forbid",
            "  a guard rail that never fires may be doing its work",
        ),
    ] {
        let idle = enforced
            .iter()
            .filter(|u| u.policy.effect == effect && u.matched == 0);
        let idle: Vec<&&Used> = idle.collect();
        let heading = format!("{effect}s without a match");
        line(&format!(
            "{}{}",
            strong(heading),
            paint(DIM, if idle.is_empty() { "" } else { note })
        ));
        none(idle.is_empty());
        idle.into_iter().for_each(|used| print_policy(used));
    }
    let used = enforced
        .iter()
        .filter(|u| u.matched > 0 && !u.policy.one_way.is_empty());
    let used: Vec<&&Used> = used.collect();
    line(&strong("conditions that came out one way only"));
    none(used.is_empty());
    for used in used {
        line(&format!("  {}", named(used)));
        used.policy.one_way.iter().for_each(print_clause);
    }
    if !shadows.is_empty() {
        line(&strong("shadow permits"));
        for used in shadows {
            let n = count(used.matched, "decision", "decisions");
            line(&format!("  {}  would have permitted {n}", named(used)));
        }
    }
    print_names("identities that asked for nothing", &report.silent);
    print_names("services that nobody asked", &report.unasked);
    line(&paint(
        DIM,
        format!(
            "{} looked at, {}",
            count(report.covered.decisions, "decision", "decisions"),
            impact::read(&report.covered)
        ),
    ));
    let lacking = report.not_replayable.count;
    if lacking > 0 {
        line(&paint(
            DIM,
            format!("{} of them could not be made again", thousands(lacking)),
        ));
    }
    if let Some(begins) = &report.shorter {
        let told = Diagnostic::warning(2205, "the log is shorter than the time asked about")
            .cause(format!("it begins at {begins}"))
            .help("what is not used in this time may be used in another");
        diagnostics(Output::Human, &[told]);
    }
}

fn none(is: bool) {
    if is {
        line(&paint(GOOD, "  none"));
    }
}

fn print_policy(used: &Used) {
    let scope = match used.policy.in_scope {
        0 => "nobody asked for what it is about".to_owned(),
        n => format!(
            "in scope of {}",
            count(n, "different question", "different questions")
        ),
    };
    line(&format!("  {}  {}", named(used), paint(DIM, scope)));
    let never = used
        .policy
        .one_way
        .iter()
        .filter(|c| used.policy.in_scope > 0 && !c.was_true);
    never.for_each(print_clause);
}

fn print_clause(clause: &OneWay) {
    let kind = match clause.kind {
        ClauseKind::Unless => "unless",
        ClauseKind::When => "when",
    };
    let came = match (clause.was_true, clause.was_false) {
        (true, _) => "always true",
        (false, true) => "never true",
        (false, false) => "never reached",
    };
    let text: Vec<&str> = clause.text.split_whitespace().collect();
    line(&format!(
        "      {:>4} {}  {kind} {}",
        clause.line,
        paint(WARN, format!("{came:<13}")),
        clean(&text.join(" "))
    ));
}

fn named(used: &Used) -> String {
    let policy = &used.policy;
    let owner = policy
        .owner
        .as_ref()
        .map_or_else(String::new, |o| format!(" · owner {o}"));
    let place = format!("{}:{}{owner}", policy.file, policy.first_line);
    format!("{}  {}", clean(&policy.id), paint(DIM, clean(&place)))
}

fn print_names(heading: &str, names: &[String]) {
    line(&strong(heading));
    none(names.is_empty());
    for name in names {
        line(&format!("  {}", clean(name)));
    }
}
