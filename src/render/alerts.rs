//! Alerts on a terminal: rules, what is open, how a test went.

use std::time::Duration;

use palisade_mesh::clock::Clock;
use serde_json::Value;

use super::{
    BAD, DIM, GOOD, NAME, WARN, count, duration, line, next, paint,
    snippet::clean,
    table::{Cell, Table, col, styled},
    thousands,
};
use crate::{
    control::status::ago,
    run::audit::{Listed, RuleStatus, Tested},
};

/// Prints the rules and what is open.
pub(crate) fn print_list(listed: &Listed) {
    let clock = Clock::system();
    if !listed.open.is_empty() {
        let mut out = Table::new(&[
            col("ALERT"),
            col("SEVERITY"),
            col("RULE"),
            col("FOR").short(),
            col("RECORDS"),
            col("WHEN"),
        ]);
        for open in listed.open.iter().rev() {
            out.row([
                styled(NAME, open.id.as_str()),
                severity(&open.severity),
                clean(&open.rule).into(),
                clean(&open.group).into(),
                thousands(open.count).into(),
                ago(&clock, open.at_us).into(),
            ]);
        }
        out.print();
    }
    let mut out = Table::new(&[
        col("RULE"),
        col("SEVERITY"),
        col("MET BY"),
        col("QUERY").short(),
        col("TO").short().optional(),
    ]);
    for rule in &listed.rules {
        out.row([
            styled(NAME, rule.name.as_str()),
            severity(&rule.severity),
            bounds(rule).into(),
            clean(&rule.query).into(),
            styled(DIM, rule.deliver.join(", ")),
        ]);
    }
    match listed.rules.is_empty() {
        true => line("no alert rules: write some, `audit.alerts` in the configuration"),
        false => out.print(),
    }
    for waiting in &listed.waiting {
        let n = count(waiting.messages, "message waits", "messages wait");
        let why = waiting
            .fault
            .as_deref()
            .map(|why| format!(": {}", clean(why)));
        let text = format!("{n} for {}{}", waiting.target, why.unwrap_or_default());
        line(&paint(WARN, text));
    }
    if let Some(open) = listed.open.last() {
        next(&[(
            format!("palisade audit alerts ack {} --reason WHY", open.id),
            "answer for it",
        )]);
    }
}

fn bounds(rule: &RuleStatus) -> String {
    let window = Duration::from_micros(u64::try_from(rule.window_us).unwrap_or_default());
    let each = match rule.by.as_str() {
        "" => String::new(),
        by => format!(" of one {by}"),
    };
    format!("{}{each} in {}", rule.threshold, duration(window))
}

fn severity(word: &str) -> Cell {
    match word {
        "critical" | "high" => styled(BAD, word),
        "medium" => styled(WARN, word),
        word => clean(word).into(),
    }
}

/// Prints what was acknowledged.
pub(crate) fn print_acknowledged(open: &Value) {
    let text = |key: &str| clean(open.get(key).and_then(Value::as_str).unwrap_or_default());
    line(&format!(
        "{} {} {}",
        paint(GOOD.bold(), "✓ acknowledged"),
        text("rule"),
        paint(DIM, text("id")),
    ));
}

/// Prints what a rule would have met, and who took a test message.
pub(crate) fn print_tested(name: &str, tested: &Tested) {
    let clock = Clock::system();
    let from = tested
        .from_us
        .map(|us| format!(", the first received {}", ago(&clock, us)));
    line(&format!(
        "`{}` would have been met {} by the newest {}{}",
        clean(name),
        count(tested.met, "time", "times"),
        count(tested.records, "record", "records"),
        from.unwrap_or_default(),
    ));
    for firing in &tested.firings {
        let group = clean(&firing.group);
        let when = ago(&clock, firing.until_us);
        line(&format!(
            "  record {}  {group}  {when}",
            thousands(firing.entry)
        ));
    }
    for delivered in &tested.delivered {
        line(&match &delivered.fault {
            None => format!("{} {}", paint(GOOD.bold(), "✓ taken by"), delivered.target),
            Some(why) => format!(
                "{} {}: {}",
                paint(BAD.bold(), "✗ not taken by"),
                delivered.target,
                clean(why)
            ),
        });
    }
}
