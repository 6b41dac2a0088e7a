//! Answers with three values, as `who-can` and `what-can` print them.

use std::collections::BTreeMap;

use palisade_pdp::decide::{ClauseKind, May, OpenPolicy};

use super::{BAD, DIM, GOOD, NAME, WARN, count, line, paint, snippet::clean, strong};
use crate::run::access::{Answer, Answers};

/// How answers are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum GroupBy {
    /// By service.
    Service,
}

/// Prints who may do something: one block for each target.
pub(crate) fn print_who(answers: &Answers, place: &str) {
    for of_target in answers.answers.chunk_by(same_target) {
        if let Some(first) = of_target.first() {
            let (action, to) = (clean(&first.action), clean(&target(first)));
            line(&strong(format!("{action} on {to}")));
        }
        print_all(of_target, who);
    }
    print_universe(answers, place);
}

/// Prints what one caller may do.
pub(crate) fn print_what(answers: &Answers, by: Option<GroupBy>, place: &str) {
    if let Some(first) = answers.answers.first() {
        line(&strong(who(first)));
    }
    match by {
        None => print_all(&answers.answers, what),
        Some(GroupBy::Service) => {
            let mut services: BTreeMap<&str, Vec<Answer>> = BTreeMap::new();
            for answer in &answers.answers {
                services
                    .entry(&answer.service)
                    .or_default()
                    .push(answer.clone());
            }
            for (service, of_service) in services {
                line(&paint(NAME, clean(service)));
                print_all(&of_service, what);
            }
        }
    }
    print_universe(answers, place);
}

fn same_target(a: &Answer, b: &Answer) -> bool {
    (&a.action, &a.resource, &a.path) == (&b.action, &b.resource, &b.path)
}

/// Yes first, then what has conditions, then how many get a no.
fn print_all(answers: &[Answer], name: fn(&Answer) -> String) {
    let with = |may: May| answers.iter().filter(move |a| a.may == may);
    for answer in with(May::Yes) {
        let by = paint(DIM, format!("by {}", clean(&answer.policies.join(", "))));
        line(&format!(
            "  {}      {}  {by}",
            paint(GOOD, "yes"),
            clean(&name(answer))
        ));
    }
    for answer in with(May::OnlyIf) {
        line(&format!(
            "  {}  {}",
            paint(WARN, "only if"),
            clean(&name(answer))
        ));
        let several = answer.one_of.len() > 1;
        for (i, condition) in answer.one_of.iter().enumerate() {
            print_condition(if several && i > 0 { "or" } else { "" }, condition);
        }
        for condition in &answer.none_of {
            print_condition("and not", condition);
        }
    }
    let mut no: BTreeMap<&str, usize> = BTreeMap::new();
    for answer in with(May::No) {
        *no.entry(answer.reason.as_deref().unwrap_or("forbidden or no_permit"))
            .or_default() += 1;
    }
    if !no.is_empty() {
        let all: usize = no.values().sum();
        let why: Vec<String> = no.iter().map(|(why, n)| format!("{n} {why}")).collect();
        let who = match (all == answers.len(), all) {
            (true, _) => format!("all {all}"),
            (false, 1) => "1 other".to_owned(),
            (false, _) => format!("{all} others"),
        };
        line(&format!(
            "  {}       {who}  {}",
            paint(BAD, "no"),
            paint(DIM, why.join(", "))
        ));
    }
}

fn print_condition(word: &str, condition: &OpenPolicy) {
    let place = format!("{}:{}", condition.file, condition.first_line);
    line(&format!(
        "    {word:>7}  {} {}  {}",
        condition.effect,
        strong(clean(&condition.policy)),
        paint(DIM, clean(&place))
    ));
    for clause in &condition.clauses {
        let kind = match clause.kind {
            ClauseKind::Unless => "unless",
            ClauseKind::When => "when",
        };
        let text: Vec<&str> = clause.text.split_whitespace().collect();
        line(&format!(
            "             {kind} {}  {}",
            clean(&text.join(" ")),
            paint(DIM, format!(":{}", clause.line))
        ));
    }
}

fn who(answer: &Answer) -> String {
    match &answer.caller {
        Some(service) => format!("{service}  {}", answer.principal),
        None => answer.principal.clone(),
    }
}

fn what(answer: &Answer) -> String {
    format!("{:<8} {}", answer.action, target(answer))
}

/// The operation with its path, or a service's other paths.
fn target(answer: &Answer) -> String {
    let id = crate::history::flips::short(&answer.resource);
    match (&answer.path, answer.resource_type.as_str()) {
        (Some(path), "Operation") => format!("{id}  {path}"),
        (Some(path), _) => format!("{id}  {path}, which is no operation"),
        (None, _) => format!("{id}, what is no operation"),
    }
}

/// Of whom and what it was asked, when, and where.
fn print_universe(answers: &Answers, place: &str) {
    let at = jiff::Timestamp::from_microsecond(answers.at_us);
    let at = at.map_or_else(|_| answers.at_us.to_string(), |t| format!("{t:.0}"));
    let clock = match answers.clock {
        true => "",
        false => ", conditions on the clock left open",
    };
    let revision = answers.revision.get(..8).unwrap_or_default();
    let revision = match answers.sequence {
        0 => revision.to_owned(),
        n => format!("revision {n} {revision}"),
    };
    line(&paint(
        DIM,
        format!(
            "asked of {} and {}, at {at}{clock}, in {} ms",
            count(answers.callers, "caller", "callers"),
            count(answers.targets, "target", "targets"),
            answers.took_us.div_ceil(1000),
        ),
    ));
    line(&paint(DIM, format!("answered by the {place}, {revision}")));
}
