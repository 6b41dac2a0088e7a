//! What happened around the decisions of a scope, in the order of time: what callers sent,
//! what was decided, what was judged again, and how it ended.

use std::collections::{BTreeMap, BTreeSet};

use super::{cell, newest};
use crate::{
    index::StoreError,
    query::{OUTCOME_ENTRY, time::rfc3339},
    report::{
        evidence::Evidence,
        model::{CellKind, Section, Table},
        render::visible,
    },
    row::Row,
};

/// Calls, and re-judgements, that are looked at, newest first.
const LOOKED_MAX: usize = 20_000;
/// Services that calls are kept to by name.
const SERVICES_MAX: usize = 16;
/// Bytes of these names, all together: a query has room for them beside the rest of it.
const NAMES_LEN_MAX: usize = 2000;

const COLUMNS: &[(&str, CellKind)] = &[
    ("time", CellKind::Time),
    ("event", CellKind::Text),
    ("decision", CellKind::Text),
    ("reason", CellKind::Text),
    ("principal", CellKind::Text),
    ("service", CellKind::Text),
    ("method", CellKind::Text),
    ("path", CellKind::Text),
    ("status", CellKind::Number),
    ("policy", CellKind::Text),
    ("sequence", CellKind::Number),
    ("source", CellKind::Text),
    ("id", CellKind::Text),
    ("revision_digest", CellKind::Text),
    ("reporter", CellKind::Text),
];

/// One of them: when, where in the log, and its cells.
type Event = (i64, u64, Vec<String>);

/// What happened, in order.
pub(crate) fn events(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let query = e.decisions("");
    let (decisions, total) = e.rows(&query, most)?;
    let mut events: Vec<Event> = decisions.iter().map(decided).collect();
    events.extend(decisions.iter().filter_map(ended));
    // Ids are chosen by who writes them, and known to others: what belongs together is also
    // from whoever can tell of it.
    let by = |id: &str, who: &str| -> BTreeMap<(String, String), &Row> {
        let of = decisions
            .iter()
            .map(|row| ((cell(row, id), cell(row, who)), row));
        of.filter(|((id, who), _)| !id.is_empty() && !who.is_empty())
            .collect()
    };
    let of_caller = by("id", "principal");
    let of_request = by("request_id", "principal");
    let of_reporter = by("id", "reporter");
    let calls = e.records(&format!("class:call{}", to_services(&decisions)));
    let calls_seen = newest(e, &calls, LOOKED_MAX, |row| {
        let by_caller = |id: &str| (cell(&row, id), cell(&row, "reporter"));
        let of = of_caller.get(&by_caller("decision_id"));
        if let Some(decision) = of.or_else(|| of_request.get(&by_caller("id"))) {
            events.push(called(&row, decision));
        }
    })?;
    let again = e.records("class:rejudgement");
    let again_seen = newest(e, &again, LOOKED_MAX, |row| {
        if let Some(decision) = of_reporter.get(&(cell(&row, "id"), cell(&row, "reporter"))) {
            events.push(judged(&row, decision));
        }
    })?;
    events.sort_unstable_by_key(|event| (event.0, event.1));
    let shown = u64::try_from(decisions.len()).unwrap_or(u64::MAX);
    let found = u64::try_from(events.len()).unwrap_or(u64::MAX);
    let mut table = Table::new(COLUMNS);
    table.total = found.saturating_add(total.saturating_sub(shown));
    let older = events.len().saturating_sub(most);
    table.rows = events
        .into_iter()
        .skip(older)
        .map(|(_, _, row)| row)
        .collect();
    let mut section = Section::new(
        "timeline",
        "What happened, in order",
        "The newest decisions of the scope with what belongs to each, the oldest first: `call`, what the caller's proxy sent and which answer it \
         got; `decision`, by the destination's; `judged again`, while it was open; `ended`, how. What belongs together has the id of the \
         decision; a call is from the caller that was decided about, and a judgement from the proxy that decided. Give the scope as a query to follow one caller, service or trace: `--scope principal:**/web`, `--scope trace:ID`.",
    )
    .figure("decisions", total)
    .figure("calls, ends and re-judgements that belong to those shown", found.saturating_sub(shown));
    section.table = Some(table);
    section.queries.extend([query, calls, again]);
    if calls_seen.max(again_seen) >= LOOKED_MAX {
        section = section.cannot_show(&format!(
            "calls and re-judgements before the newest {LOOKED_MAX} of the period"
        ));
    }
    Ok(section
        .cannot_show("calls that no decision answers: they are under both sides")
        .cannot_show("the order of what two hosts recorded within the difference of their clocks"))
}

/// What keeps calls to the services of some decisions, where these are few, and have such names
/// as services have: whoever sends a record can write what he likes there.
fn to_services(decisions: &[Row]) -> String {
    let services: BTreeSet<&str> = decisions
        .iter()
        .filter_map(|row| row.text("service"))
        .collect();
    let all_named = decisions.iter().all(|row| row.text("service").is_some());
    let is_plain = |name: &&str| !name.contains(['"', '\\', '*']) && visible(name) == **name;
    let plain = services.iter().all(is_plain);
    let len: usize = services.iter().map(|name| name.len()).sum();
    let few = (1..=SERVICES_MAX).contains(&services.len()) && len <= NAMES_LEN_MAX;
    match few && all_named && plain {
        false => String::new(),
        true => {
            let services = services.iter();
            let tests: Vec<String> = services.map(|name| format!("service:\"{name}\"")).collect();
            format!(" ({})", tests.join(" OR "))
        }
    }
}

fn decided(row: &Row) -> Event {
    let cells = COLUMNS.iter().map(|(name, _)| match *name {
        "event" => "decision".to_owned(),
        // How it ended stands where it did.
        "status" if row.value(OUTCOME_ENTRY).is_some() => String::new(),
        name => cell(row, name),
    });
    (row.time_us, row.entry, cells.collect())
}

fn ended(row: &Row) -> Option<Event> {
    let entry = row.number(OUTCOME_ENTRY)?;
    let latency_us = row.number("latency").unwrap_or_default();
    let time_us = row
        .time_us
        .saturating_add(i64::try_from(latency_us).unwrap_or(i64::MAX));
    let cells = COLUMNS.iter().map(|(name, _)| match *name {
        "time" => rfc3339(time_us),
        "event" => "ended".to_owned(),
        "decision" | "policy" | "sequence" | "revision_digest" | "source" => String::new(),
        "reason" => [cell(row, "end"), cell(row, "error")]
            .join(" ")
            .trim()
            .to_owned(),
        name => cell(row, name),
    });
    Some((time_us, entry, cells.collect()))
}

fn called(row: &Row, decision: &Row) -> Event {
    let cells = COLUMNS.iter().map(|(name, _)| match *name {
        "event" => "call".to_owned(),
        "reason" => cell(row, "unanswered"),
        "status" => cell(row, "answered"),
        "id" => cell(decision, "id"),
        "principal" => cell(decision, "principal"),
        "time" | "service" | "method" | "path" | "reporter" => cell(row, name),
        _ => String::new(),
    });
    (row.time_us, row.entry, cells.collect())
}

fn judged(row: &Row, decision: &Row) -> Event {
    let closed = cell(row, "closed") == "true";
    let cells = COLUMNS.iter().map(|(name, _)| match *name {
        "event" => match closed {
            true => "judged again, closed".to_owned(),
            false => "judged again".to_owned(),
        },
        "reason" => [cell(row, "reason"), cell(row, "cause")]
            .join(" ")
            .trim()
            .to_owned(),
        "principal" | "service" | "method" | "path" => cell(decision, name),
        "status" | "source" => String::new(),
        name => cell(row, name),
    });
    (row.time_us, row.entry, cells.collect())
}
