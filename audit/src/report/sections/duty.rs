//! What has to be looked at each day, and what has to be written down about personal data.

use std::collections::BTreeMap;

use super::{bars, cell, integrity, of_groups, of_rows};
use crate::{
    index::StoreError,
    query::time::rfc3339,
    report::{
        evidence::Evidence,
        model::{CellKind, Section, Table},
    },
    row::Row,
};

/// Records about alerts that are read.
const ALERTS_MAX: usize = 10_000;

/// A firing, and who answered for it.
struct Alert {
    fired: Row,
    acknowledged: Option<Row>,
}

/// What rules found, who answered for it after how long, and what is open.
pub(crate) fn alerts(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let log = e.of_the_log();
    let filter = format!("class:alert (verb:fired OR verb:acknowledged) {log}");
    let queries = [e.records(&filter), e.records_before(&filter)];
    let mut rows = Vec::new();
    for query in &queries {
        // What is behind a place that was not read says nothing of what is before it.
        if rows.len() < ALERTS_MAX {
            e.visit(query, |row| {
                rows.push(row);
                rows.len() < ALERTS_MAX
            })?;
        }
    }
    let whole = rows.len() < ALERTS_MAX;
    let begins = e.period.0.from_us;
    let (answers, fired): (Vec<Row>, Vec<Row>) = rows
        .into_iter()
        .partition(|row| row.text("verb") == Some("acknowledged"));
    // Newest first: of several answers the first that was given stays.
    let mut answers: BTreeMap<String, Row> =
        answers.into_iter().map(|row| (firing(&row), row)).collect();
    let fired = fired.into_iter().map(|fired| Alert {
        acknowledged: answers.remove(&firing(&fired)),
        fired,
    });
    let mut all: Vec<Alert> = fired.collect();
    // Of the time before, what was open when the period began.
    all.retain(|alert| {
        let answered_before = |row: &Row| row.time_us < begins;
        alert.fired.time_us >= begins || !alert.acknowledged.as_ref().is_some_and(answered_before)
    });
    all.sort_by_key(|alert| (alert.acknowledged.is_some(), alert.fired.time_us));
    Ok(section(&all, &queries, e, most, whole))
}

/// Which time that a rule was met a record is about.
fn firing(row: &Row) -> String {
    row.text("firing").unwrap_or_default().to_owned()
}

fn section(
    all: &[Alert],
    queries: &[String],
    e: &Evidence<'_>,
    most: usize,
    whole: bool,
) -> Section {
    let open = all.iter().filter(|alert| alert.acknowledged.is_none());
    let oldest = open.clone().map(|alert| alert.fired.time_us).min();
    let mut waits: Vec<i64> = all.iter().filter_map(Alert::answered_after_us).collect();
    waits.sort_unstable();
    let of = |us: Option<i64>| us.map_or_else(|| "–".to_owned(), about);
    let mut section = Section::new(
        "alerts",
        "Alerts and who answered for them",
        "Each row is a time at which an alert rule was met: those that nobody has answered for come first, the oldest of them before the \
         others. What was open when the period began is among them. An answer is a record of who gave it and why.",
    )
    .figure("met in the period", all.iter().filter(|a| a.fired.time_us >= e.period.0.from_us).count())
    .figure("answered for", waits.len())
    .figure("median time to an answer", of(median(&waits)))
    .figure("longest time to an answer", of(waits.last().copied()))
    .figure("open at the end", open.count())
    .figure("the oldest open since", oldest.map_or_else(|| "–".to_owned(), rfc3339));
    let mut table = Table::new(&[
        ("time", CellKind::Time),
        ("rule", CellKind::Text),
        ("severity", CellKind::Text),
        ("for", CellKind::Text),
        ("records", CellKind::Number),
        ("answered by", CellKind::Text),
        ("answered", CellKind::Time),
        ("after", CellKind::Text),
        ("why", CellKind::Text),
    ]);
    table.total = u64::try_from(all.len()).unwrap_or(u64::MAX);
    table.rows = all.iter().take(most).map(Alert::row).collect();
    section.table = Some(table);
    section.queries.extend(queries.iter().cloned());
    if !whole {
        section = section.cannot_show("alerts older than the newest 10,000 records about them");
    }
    section
        .cannot_show(
            "what was open for longer than the period and the time of the same length before it",
        )
        .cannot_show("what no rule asks for: where no rule is configured, that is everything, and nothing stands here")
}

impl Alert {
    fn answered_after_us(&self) -> Option<i64> {
        let answered = self.acknowledged.as_ref()?;
        let after_us = answered.time_us.saturating_sub(self.fired.time_us);
        // A clock may have been set back meanwhile.
        Some(after_us.max(0))
    }

    fn row(&self) -> Vec<String> {
        let answer = |name: &str| {
            let answered = self.acknowledged.as_ref();
            answered.map_or_else(String::new, |row| cell(row, name))
        };
        vec![
            self.fired.time(),
            cell(&self.fired, "rule"),
            cell(&self.fired, "severity"),
            cell(&self.fired, "group"),
            cell(&self.fired, "count"),
            answer("actor"),
            answer("time"),
            self.answered_after_us().map_or_else(String::new, about),
            answer("detail"),
        ]
    }
}

/// The one in the middle of sorted lengths of time; of an even number, what is between two.
fn median(sorted: &[i64]) -> Option<i64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    match sorted.len() % 2 {
        0 => {
            let lower = *sorted.get(sorted.len() / 2 - 1)?;
            Some(lower + (upper - lower) / 2)
        }
        _ => Some(upper),
    }
}

/// A length of time as people say it, in seconds, minutes, hours or days.
fn about(us: i64) -> String {
    let (second, minute) = (1_000_000, 60_000_000);
    let (hour, day) = (60 * minute, 24 * 60 * minute);
    let unit = match us {
        _ if us >= 2 * day => day,
        _ if us >= 2 * hour => hour,
        _ if us >= 2 * minute => minute,
        _ => second,
    };
    match us / unit {
        n if unit == day => format!("{n}d"),
        n if unit == hour => format!("{n}h"),
        n if unit == minute => format!("{n}m"),
        n => format!("{n}s"),
    }
}

/// Access reviews that somebody signed off.
pub(crate) fn sign_offs(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "sign-offs",
        "Access reviews that were signed off",
        "Each row is a review that the log signed for somebody in the period: when, by whom as was typed, and the SHA-256 of the review, by \
         which its file is found and checked.",
    );
    let section = of_rows(
        section,
        e,
        e.records(&format!(
            "class:admin verb:review_signed {}",
            e.of_the_log()
        )),
        &[
            ("time", CellKind::Time),
            ("actor", CellKind::Text),
            ("object", CellKind::Text),
            ("detail", CellKind::Text),
        ],
        most,
    )?;
    Ok(section
        .cannot_show("the review itself: palisade report review show FILE")
        .cannot_show("reviews that were signed from a folder of the log: these leave no record")
        .cannot_show("whether the name that was typed is that of who typed it"))
}

/// Messages that were given up.
pub(crate) fn undelivered(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "undelivered",
        "Messages that were given up",
        "Alerts and reports that a target did not take within a day, or that gave way to newer ones.",
    );
    of_rows(
        section,
        e,
        e.records(&format!("class:admin verb:undelivered {}", e.of_the_log())),
        &[
            ("time", CellKind::Time),
            ("object", CellKind::Text),
            ("detail", CellKind::Text),
        ],
        most,
    )
}

/// Which services processed requests, and by which operations.
pub(crate) fn processing(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "processing",
        "Processing by service and action",
        "Requests that were allowed, by the service that processed them and the action. Keep the report to services that process personal \
         data with --scope; what the data is and why it is processed, the record of processing activities says beside it.",
    );
    let query = e.decisions("decision:allow") + " | first, last by service, action | sort -count";
    let (mut section, counted) = of_groups(section, e, query, most)?;
    section.chart = Some(bars("requests", &counted));
    Ok(section
        .figure("allowed requests", counted.total)
        .cannot_show("the purposes, the categories of data subjects, and the legal basis (GDPR article 30(1)(b), (c))")
        .cannot_show("processing that did not pass the mesh"))
}

/// To whom data was given.
pub(crate) fn recipients(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "recipients",
        "Recipients",
        "Callers that were let, by service: each of them received what the service answers. A caller whose identity has another trust \
         domain is outside of this mesh.",
    );
    let query =
        e.decisions("decision:allow") + " | first, last by service, principal | sort -count";
    let (section, counted) = of_groups(section, e, query, most)?;
    Ok(section
        .figure("pairs of service and recipient", counted.distinct)
        .cannot_show(
            "whom a caller passes the data on to, and where it is (transfers to third countries)",
        ))
}

/// What was erased.
pub(crate) fn erasures(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "erasures",
        "Erasures",
        "Persons whose data in this log was erased, under their pseudonym.",
    );
    let section = of_rows(
        section,
        e,
        e.records("class:erasure"),
        &[
            ("time", CellKind::Time),
            ("subject", CellKind::Text),
            ("detail", CellKind::Text),
            ("reporter", CellKind::Text),
        ],
        most,
    )?;
    Ok(section.cannot_show("erasures in the services themselves"))
}

/// How long the log keeps what it has.
pub(crate) fn kept(e: &Evidence<'_>) -> Result<Section, StoreError> {
    let begins_us = e.begins_us();
    let (classes, queries) = integrity::dropped_after(e)?;
    let dropped = match classes.is_empty() {
        true => "none".to_owned(),
        false => integrity::in_words(classes.keys()),
    };
    let mut section = Section::new(
        "time-limits",
        "How long records are kept",
        "The log begins when it says. Records go only when the period of their class is over, where one is configured, and the log says each \
         time of which class and after how long; all others are there. A record names caller, operation, path and address, and may be \
         personal data itself.",
    )
    .figure("the log begins", begins_us.map_or_else(|| "unknown".to_owned(), rfc3339))
    .figure("days from there to the end of the period", e.days_kept())
    .figure("classes of which records were dropped", dropped)
    .cannot_show("periods that are configured and were over for no record yet: palisade audit retention status")
    .cannot_show("the time limits for the data that the services keep (GDPR article 30(1)(f))");
    section.queries = queries;
    Ok(section)
}

#[cfg(test)]
mod tests;
