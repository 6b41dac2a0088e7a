//! Summaries of records, as `palisade audit` prints them: groups, facets, timelines,
//! and what an answer may lack.

use palisade_audit::query::Field;
use serde_json::Value;

use super::{
    DIM, NAME, STRONG, WARN, count, line, paint,
    snippet::clean,
    table::{Table, col, styled},
    thousands,
};

/// Losses that are named below a table; more are counted.
const LOST_SHOWN: usize = 3;

/// Columns of the longest bar.
const BAR_LEN: u64 = 40;

/// Prints groups under the names of their fields.
pub(super) fn print_groups(answer: &Value, groups: &[Value]) {
    let by: Vec<&'static str> = list(answer, "by")
        .iter()
        .filter_map(Value::as_str)
        .filter_map(|name| Field::find(name).map(|field| field.name))
        .collect();
    if by.is_empty() {
        let total = number(answer, "total");
        line(&count(total, "record", "records"));
        return;
    }
    table_of(&by, groups).print();
    let (shown, distinct) = (groups.len(), number(answer, "distinct"));
    let mut said = match u64::try_from(shown).is_ok_and(|n| n == distinct) {
        true => count(distinct, "group", "groups"),
        false => format!("{shown} of {}", count(distinct, "group", "groups")),
    };
    said += &format!(" · {}", count(number(answer, "total"), "record", "records"));
    line(&paint(DIM, said + &lacking(answer)));
}

/// Prints several fields, each with its most frequent values.
pub(crate) fn print_facets(answer: &Value) {
    let total = number(answer, "total");
    for facet in list(answer, "facets") {
        let name = text(facet, "field");
        let groups = list(facet, "groups");
        let more = number(facet, "distinct").saturating_sub(wide(groups.len()));
        let more = match more {
            0 => String::new(),
            n => format!("  +{} more", thousands(n)),
        };
        line(&format!(
            "{}{}",
            paint(STRONG, clean(name)),
            paint(DIM, more + &lacking(facet))
        ));
        for group in groups {
            let n = number(group, "count");
            let value = list(group, "values").first().and_then(Value::as_str);
            let share = format!("{:>5.1} %", share(n, total));
            line(&format!(
                "{:>12}  {}  {}",
                thousands(n),
                paint(DIM, share),
                clean(value.unwrap_or_default())
            ));
        }
    }
    line(&paint(DIM, count(total, "record", "records")));
    print_coverage(answer);
}

/// Prints a timeline: a bar for each step, and what it consists of.
pub(crate) fn print_timeline(answer: &Value) {
    print_steps(list(answer, "steps"));
    let said = count(number(answer, "total"), "record", "records") + &lacking(answer);
    line(&paint(DIM, said));
    print_coverage(answer);
}

pub(super) fn print_steps(steps: &[Value]) {
    let most = steps.iter().map(|s| number(s, "count")).max();
    let most = most.unwrap_or_default().max(1);
    for step in steps {
        let n = number(step, "count");
        // What is there is seen, however little it is beside the rest.
        let len = (n * BAR_LEN).div_ceil(most);
        let bar = "█".repeat(usize::try_from(len).unwrap_or_default());
        let mut parts: Vec<String> = list(step, "values")
            .iter()
            .map(|pair| {
                let value = pair.get(0).and_then(Value::as_str).unwrap_or_default();
                let n = pair.get(1).and_then(Value::as_u64).unwrap_or_default();
                format!("{} {}", clean(value), thousands(n))
            })
            .collect();
        match number(step, "other") {
            0 => {}
            n => parts.push(format!("other {}", thousands(n))),
        }
        let start = text(step, "time").get(..19).unwrap_or_default();
        line(&format!(
            "{start}Z  {:>10}  {}{}",
            thousands(n),
            paint(NAME, bar),
            match parts.is_empty() {
                true => String::new(),
                false => format!("  {}", paint(DIM, parts.join(" · "))),
            }
        ));
    }
}

/// Says it when an answer may lack something, and when its time was not asked for.
pub(super) fn print_coverage(answer: &Value) {
    if flag(answer, "default_time") == Some(true) {
        let from = text(answer, "from");
        let said = format!("from {from}, the default; `last:7d` asks about more");
        line(&paint(DIM, said));
    }
    if let Some(why) = answer.get("stalled").and_then(Value::as_str) {
        line(&paint(WARN, format!("the index waits: {}", clean(why))));
    }
    if flag(answer, "complete") == Some(false) {
        let lacks = lacks(answer).join(", ");
        let said = format!("this answer is not complete: {lacks}");
        line(&paint(WARN, said));
    }
}

/// What an answer that is not complete may lack.
fn lacks(answer: &Value) -> Vec<String> {
    let mut lacks = Vec::new();
    for (key, word) in [("behind", "not indexed yet"), ("unreadable", "unreadable")] {
        match number(answer, key) {
            0 => {}
            n => lacks.push(format!("{} {word}", count(n, "record", "records"))),
        }
    }
    for (key, one, many) in [
        (
            "skipped_buckets",
            "part of the index being made again",
            "parts of the index being made again",
        ),
        ("gaps", "gap", "gaps (palisade audit gaps)"),
        (
            "silent",
            "reporter that has stopped sending",
            "reporters that have stopped sending (palisade audit gaps)",
        ),
    ] {
        let more = number(answer, &format!("{key}_more"));
        match list(answer, key).len() + usize::try_from(more).unwrap_or(usize::MAX) {
            0 => {}
            n => lacks.push(count(n, one, many)),
        }
    }
    lacks.extend(lost(answer));
    for dropped in list(answer, "dropped") {
        let (class, until) = (text(dropped, "class"), text(dropped, "until"));
        let until = until.get(..10).unwrap_or(until);
        lacks.push(format!(
            "{class} records until {until} were dropped, their time was over"
        ));
    }
    lacks
}

/// What reporters declared as lost.
fn lost(answer: &Value) -> Vec<String> {
    let lost = list(answer, "lost");
    let told = lost.iter().take(LOST_SHOWN).map(|lost| {
        let time = |key: &str| text(lost, key).get(..19).unwrap_or_default().to_owned();
        format!(
            "{} that {} lost from {}Z to {}Z",
            count(number(lost, "records"), "record", "records"),
            clean(text(lost, "reporter")),
            time("from"),
            time("until")
        )
    });
    let mut told: Vec<String> = told.collect();
    let more = wide(lost.len().saturating_sub(LOST_SHOWN)) + number(answer, "lost_more");
    if more > 0 {
        told.push(count(more, "declared loss more", "declared losses more"));
    }
    told
}

/// Groups in a table: how many, first and last time, values.
fn table_of(by: &[&'static str], groups: &[Value]) -> Table {
    let mut columns = vec![col("COUNT").right()];
    columns.extend(by.iter().copied().map(|name| col(name).short()));
    columns.push(col("FIRST (UTC)").optional());
    columns.push(col("LAST (UTC)").optional());
    let mut out = Table::new(&columns);
    for group in groups {
        let mut cells = vec![thousands(number(group, "count")).into()];
        let values = list(group, "values").iter().filter_map(Value::as_str);
        cells.extend(values.map(Into::into));
        for key in ["first", "last"] {
            let time = text(group, key).get(..19).unwrap_or_default();
            cells.push(styled(DIM, format!("{time}Z")));
        }
        out.row(cells);
    }
    out
}

/// What a summary does not count, as the end of a line.
fn lacking(answer: &Value) -> String {
    let mut said = String::new();
    match number(answer, "absent") {
        0 => {}
        n => said += &format!(" · {} without a value", thousands(n)),
    }
    match number(answer, "uncounted") {
        0 => {}
        n => {
            said += &format!(
                " · {} in no group: too many groups, counts are lower bounds",
                thousands(n)
            );
        }
    }
    said
}

fn share(n: u64, total: u64) -> f64 {
    let permille = n.saturating_mul(1000) / total.max(1);
    u32::try_from(permille).map_or(100.0, f64::from) / 10.0
}

pub(super) fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

pub(super) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    let found = value.get(key).and_then(Value::as_array);
    found.map_or(&[], Vec::as_slice)
}

pub(super) fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}

pub(super) fn flag(value: &Value, key: &str) -> Option<bool> {
    value.get(key).and_then(Value::as_bool)
}

pub(super) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Beside what else is lacking, and not where nothing is made again.
    #[test]
    fn people_are_told_that_parts_of_the_index_are_made_again() {
        let told = |skipped: &[&str]| {
            let answer = json!({
                "complete": false,
                "behind": 2,
                "skipped_buckets": skipped,
                "gaps": [{}],
            });
            lacks(&answer)
        };
        let [one, two] = ["2026-11-20T10:00:00.000000Z", "2026-11-20T12:00:00.000000Z"];
        let said = told(&[one]);
        assert_eq!(
            said,
            [
                "2 records not indexed yet",
                "1 part of the index being made again",
                "1 gap"
            ]
        );
        assert_eq!(
            told(&[one, two])[1],
            "2 parts of the index being made again"
        );
        assert_eq!(told(&[]), ["2 records not indexed yet", "1 gap"]);
    }
}
