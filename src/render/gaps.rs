//! What is missing from the log, as `palisade audit gaps` prints it: numbers that have not
//! arrived, declared losses, what the log noted of gaps, requests of one side.

use palisade_audit::log::gaps_told;
use serde_json::Value;

use super::{
    DIM, GOOD, STRONG, WARN, count, line, paint,
    snippet::clean,
    summaries::{flag, list, number, print_coverage, text, wide},
    table::{Cell, Table, col, styled},
    thousands,
};

/// Counts of a declared loss, each with the mode that its records had.
const MODES: [(&str, &str); 3] = [
    ("dropped_strict", "strict"),
    ("dropped_spool", "spool"),
    ("dropped_best_effort", "best_effort"),
];

/// Prints what is missing from the log, and what was said about it.
pub(crate) fn print(answer: &Value) {
    print_open(answer);
    print_declared(answer.get("declared").unwrap_or(&Value::Null));
    let noted = answer.get("noted").unwrap_or(&Value::Null);
    print_noted(noted);
    for silent in list(answer, "silent") {
        let (who, boot) = (clean(text(silent, "reporter")), text(silent, "boot"));
        line(&paint(
            WARN,
            format!("{who} (boot {boot}) has stopped sending"),
        ));
    }
    print_calls(answer.get("calls").unwrap_or(&Value::Null));
    line(&paint(
        DIM,
        format!(
            "losses from {} to {}",
            text(noted, "from"),
            text(noted, "to")
        ),
    ));
    print_coverage(noted);
}

/// Prints the numbers that have not arrived.
fn print_open(answer: &Value) {
    let open = list(answer, "open");
    if open.is_empty() {
        line(&format!(
            "{}: every number of every stream has arrived",
            paint(GOOD.bold(), "✓ no gap")
        ));
    } else {
        let mut out = Table::new(&[
            col("REPORTER").short(),
            col("WORKER").right(),
            col("FIRST").right(),
            col("LAST").right(),
            col("MISSING").right(),
            col("NOTICED (UTC)"),
            col("BOOT").optional(),
        ]);
        for gap in open {
            let n = |key: &str| thousands(number(gap, key));
            out.row([
                text(gap, "reporter").into(),
                n("worker").into(),
                n("first").into(),
                n("last").into(),
                styled(WARN, n("missing")),
                text(gap, "noticed").into(),
                styled(DIM, text(gap, "boot")),
            ]);
        }
        out.print();
    }
    match number(answer, "open_more") {
        0 => {}
        more => line(&paint(WARN, format!("and {} more", thousands(more)))),
    }
}

/// Prints what reporters declared as lost: whose, how many, of which time, and why.
fn print_declared(declared: &Value) {
    let rows = list(declared, "rows");
    if rows.is_empty() {
        return;
    }
    let mut out = Table::new(&[
        col("REPORTER").short(),
        col("RECORDS").right(),
        col("FROM (UTC)"),
        col("UNTIL (UTC)"),
        col("BY MODE").optional(),
        col("WHY").short(),
    ]);
    for row in rows {
        let by_mode = MODES.map(|(key, mode)| (mode, number(row, key)));
        // A reporter counts as it likes.
        let all = by_mode
            .iter()
            .fold(0, |all: u64, (_, n)| all.saturating_add(*n));
        let by_mode = by_mode.into_iter().filter(|(_, n)| *n > 0);
        let by_mode = by_mode.map(|(mode, n)| format!("{mode} {}", thousands(n)));
        out.row([
            text(row, "reporter").into(),
            styled(WARN, thousands(all)),
            moment(text(row, "lost_from")).into(),
            moment(text(row, "lost_until")).into(),
            by_mode.collect::<Vec<_>>().join(", ").into(),
            text(row, "detail").into(),
        ]);
    }
    line(&paint(STRONG, "declared as lost by their reporter"));
    out.print();
    print_more(declared);
}

/// Prints what the log noted of gaps in the time: each stream by itself, with its numbers; of a
/// gap that closed, the last of them, for its first ones may have come long before.
fn print_noted(noted: &Value) {
    let rows = list(noted, "rows");
    if rows.is_empty() {
        return;
    }
    let mut out = Table::new(&[
        col("TIME (UTC)"),
        col("GAP"),
        col("STREAM").short(),
        col("FIRST").right(),
        col("LAST").right(),
    ]);
    for row in rows {
        let what = match text(row, "verb") {
            "gap_closed" => styled(GOOD, "closed"),
            _ => styled(WARN, "noticed"),
        };
        let time = moment(text(row, "time"));
        let detail = text(row, "detail");
        for (stream, range) in gaps_told(detail) {
            let first = match text(row, "verb") {
                "gap_closed" => "…".to_owned(),
                _ => thousands(range.from),
            };
            let numbers = [first, thousands(range.to)].map(Cell::from);
            let named = [time.into(), what.clone(), stream.into()];
            out.row(named.into_iter().chain(numbers));
        }
        if gaps_told(detail).next().is_none() {
            out.row([time.into(), what.clone(), detail.into()]);
        }
        // A note has room for so many streams, and ends with how many others there were.
        if let Some((_, more)) = detail.rsplit_once(", and ") {
            out.row([time.into(), what, format!("and {more}").into()]);
        }
    }
    line(&paint(STRONG, "noticed and closed"));
    out.print();
    print_more(noted);
}

/// Says how many records of an answer are not shown.
fn print_more(answer: &Value) {
    let total = answer.get("total").unwrap_or(&Value::Null);
    let shown = wide(list(answer, "rows").len());
    match number(total, "count").saturating_sub(shown) {
        0 => {}
        more => line(&paint(WARN, format!("and {} more", thousands(more)))),
    }
}

/// A time to the millisecond; a dash for one that is not known.
fn moment(time: &str) -> &str {
    match time {
        "" => "–",
        time => time.get(..23).unwrap_or(time),
    }
}

/// Prints the requests of which only one side has left a record.
fn print_calls(calls: &Value) {
    let found = list(calls, "one_sided");
    let agreed = count(number(calls, "agreed"), "request", "requests");
    if found.is_empty() {
        line(&format!(
            "{}: both sides recorded {agreed} and agree",
            paint(GOOD.bold(), "✓ no one-sided request"),
        ));
    } else {
        let mut out = Table::new(&[
            col("TIME (UTC)"),
            col("WHAT").short(),
            col("FROM").short(),
            col("TO").short(),
            col("REQUEST").short(),
            col("ID"),
        ]);
        for one in found {
            let what = match (text(one, "kind"), flag(one, "loss_known")) {
                (_, Some(true)) => "a loss is known",
                ("call_alone", _) => "no decision",
                ("decision_alone", _) => "no call",
                ("repeated", _) => "id used again",
                _ => "contradicts its call",
            };
            out.row([
                text(one, "time").get(..23).unwrap_or_default().into(),
                styled(WARN, what),
                text(one, "caller").into(),
                text(one, "service").into(),
                format!("{} {}", text(one, "method"), text(one, "path")).into(),
                styled(DIM, text(one, "id")),
            ]);
        }
        out.print();
        let all = wide(found.len()) + number(calls, "one_sided_more");
        line(&paint(
            WARN,
            format!(
                "{} that only one side recorded, beside {agreed} that both did",
                count(all, "request", "requests")
            ),
        ));
    }
    for (caller, n) in calls
        .get("without_proxy")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let n = count(n.as_u64().unwrap_or_default(), "request", "requests");
        let said = format!("{n} of {} came through no proxy of the mesh", clean(caller));
        line(&paint(DIM, said));
    }
    let more = number(calls, "without_proxy_more");
    if more > 0 {
        let said = format!("{} of others, too", count(more, "request", "requests"));
        line(&paint(DIM, said));
    }
    if flag(calls, "whole") == Some(false) {
        let (from, to) = (text(calls, "from"), text(calls, "to"));
        let said = format!("both sides were compared from {from} to {to}, and not before or after");
        line(&paint(WARN, said));
    }
}
