//! The parts that reports and packs are put together from, and the reports.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    evidence::{Evidence, ROWS_MAX},
    model::{CellKind, Chart, Column, Point, Section, Shape, Table},
};
use crate::{
    index::{Counted, CountedByTime, StoreError},
    query::time::{length, step_for},
    row::{Row, RowValue},
};

pub(super) mod access;
pub(super) mod beyond;
pub(super) mod changes;
pub(super) mod denials;
pub(super) mod duty;
pub(super) mod integrity;
pub(super) mod posture;
mod reached;
pub(super) mod timeline;

#[cfg(test)]
mod seeded;

/// Points of a chart, at most.
const STEPS: i64 = 60;
/// Bars of a chart, at most.
const BARS: usize = 10;
/// Values that are named in a cell.
const NAMED_MAX: usize = 3;

type Sections = Result<Vec<Section>, StoreError>;

/// What makes one part of a report.
pub(super) type Build = fn(&Evidence<'_>) -> Result<Section, StoreError>;

/// The parts of a report, made one after the other.
fn all(e: &Evidence<'_>, parts: &[Build]) -> Sections {
    e.going().parts(parts.len());
    parts.iter().map(|build| made(*build, e)).collect()
}

/// A part; whoever waits hears that it is done.
pub(super) fn made(build: Build, e: &Evidence<'_>) -> Result<Section, StoreError> {
    let section = build(e)?;
    e.going().part_done();
    Ok(section)
}

pub(super) fn access_review(e: &Evidence<'_>) -> Sections {
    all(
        e,
        &[
            |e| access::in_use(e, ROWS_MAX),
            |e| access::policies(e, ROWS_MAX),
            |e| access::callers(e, ROWS_MAX),
        ],
    )
}

/// Of a report whose other parts only the policies can tell.
pub(super) fn unused(e: &Evidence<'_>) -> Sections {
    all(e, &[|e| access::used_before(e, ROWS_MAX)])
}

/// Of a report that only the policies can tell.
pub(super) fn none(_: &Evidence<'_>) -> Sections {
    Ok(Vec::new())
}

pub(super) fn access(e: &Evidence<'_>) -> Sections {
    all(
        e,
        &[access::over_time, access::services, |e| {
            access::who_what(e, ROWS_MAX)
        }],
    )
}

pub(super) fn privileged(e: &Evidence<'_>) -> Sections {
    all(
        e,
        &[
            |e| changes::operators(e, ROWS_MAX),
            |e| changes::credentials(e, ROWS_MAX),
            |e| changes::reads(e, ROWS_MAX),
        ],
    )
}

pub(super) fn denials(e: &Evidence<'_>) -> Sections {
    all(
        e,
        &[
            denials::over_time,
            |e| denials::who(e, ROWS_MAX),
            |e| denials::policies(e, ROWS_MAX),
            |e| denials::handshakes(e, ROWS_MAX),
        ],
    )
}

pub(super) fn certificates(e: &Evidence<'_>) -> Sections {
    all(
        e,
        &[
            |e| changes::inventory(e, ROWS_MAX),
            |e| changes::credentials(e, ROWS_MAX),
        ],
    )
}

pub(super) fn changes(e: &Evidence<'_>) -> Sections {
    all(
        e,
        &[
            |e| changes::policies(e, ROWS_MAX),
            |e| changes::revisions(e, ROWS_MAX),
            |e| changes::rollouts(e, ROWS_MAX),
            |e| changes::rejudgements(e, ROWS_MAX),
        ],
    )
}

pub(super) fn integrity(e: &Evidence<'_>) -> Sections {
    all(
        e,
        &[
            integrity::statement,
            |e| integrity::streams(e, ROWS_MAX),
            |e| integrity::certificates(e, ROWS_MAX),
            |e| integrity::both_sides(e, ROWS_MAX),
            |e| integrity::losses(e, ROWS_MAX),
            |e| integrity::lifecycle(e, ROWS_MAX),
            integrity::modes,
            |e| integrity::clocks(e, ROWS_MAX),
            |e| beyond::offsets(e, ROWS_MAX),
            beyond::index,
            beyond::witnesses,
            integrity::fields,
            integrity::retention,
        ],
    )
}

pub(super) fn hygiene(e: &Evidence<'_>) -> Sections {
    all(
        e,
        &[
            |e| posture::shared(e, ROWS_MAX),
            |e| posture::silent(e, ROWS_MAX),
            |e| posture::proven(e, ROWS_MAX),
            |e| denials::handshakes(e, ROWS_MAX),
        ],
    )
}

pub(super) fn scorecard(e: &Evidence<'_>) -> Sections {
    all(e, &[posture::tenets, access::over_time, integrity::modes])
}

pub(super) fn incident(e: &Evidence<'_>) -> Sections {
    all(
        e,
        &[
            access::over_time,
            |e| posture::reasons(e, ROWS_MAX),
            |e| timeline::events(e, ROWS_MAX),
            |e| denials::who(e, ROWS_MAX),
            |e| integrity::both_sides(e, ROWS_MAX),
            |e| changes::policies(e, ROWS_MAX),
            |e| changes::operators(e, ROWS_MAX),
        ],
    )
}

pub(super) fn digest(e: &Evidence<'_>) -> Sections {
    all(
        e,
        &[
            |e| duty::alerts(e, ROWS_MAX),
            |e| duty::undelivered(e, ROWS_MAX),
            |e| denials::who(e, ROWS_MAX),
            |e| changes::policies(e, ROWS_MAX),
            |e| changes::operators(e, ROWS_MAX),
            |e| integrity::losses(e, ROWS_MAX),
        ],
    )
}

pub(super) fn personal_data(e: &Evidence<'_>) -> Sections {
    all(
        e,
        &[
            |e| duty::processing(e, ROWS_MAX),
            |e| duty::recipients(e, ROWS_MAX),
            |e| changes::reads(e, ROWS_MAX),
            |e| duty::erasures(e, ROWS_MAX),
            duty::kept,
        ],
    )
}

/// A section whose table is the answer to a query that ends in a summary by fields.
fn of_groups(
    section: Section,
    e: &Evidence<'_>,
    query: String,
    most: usize,
) -> Result<(Section, Counted), StoreError> {
    let most = most.min(crate::query::TOP_MAX);
    let counted = e.groups(&format!("{query} | top {most}"))?;
    let mut section = section;
    section.table = Some(groups_table(&counted));
    if counted.uncounted > 0 {
        section = section.cannot_show(&format!(
            "{} values are in no group, because there were too many groups: the counts are lower bounds",
            counted.uncounted
        ));
    }
    if counted.absent > 0 {
        section = section.figure("records without one of the fields", counted.absent);
    }
    section.queries.push(query);
    Ok((section, counted))
}

fn groups_table(counted: &Counted) -> Table {
    let mut columns: Vec<(&str, CellKind)> = counted
        .by
        .iter()
        .map(|name| (*name, CellKind::Text))
        .collect();
    columns.extend([
        ("count", CellKind::Number),
        ("first", CellKind::Time),
        ("last", CellKind::Time),
    ]);
    let mut table = Table::new(&columns);
    table.total = counted.distinct;
    for group in &counted.groups {
        let mut row = group.values.clone();
        row.extend([
            group.count.to_string(),
            group.first.clone(),
            group.last.clone(),
        ]);
        table.rows.push(row);
    }
    table
}

/// One more column of a table: what `of` says of each row.
fn add_column(
    table: &mut Option<Table>,
    (name, kind): (&str, CellKind),
    of: impl Fn(&[String]) -> String,
) {
    let Some(table) = table else { return };
    table.columns.push(Column {
        name: name.to_owned(),
        kind,
    });
    for row in &mut table.rows {
        row.push(of(row));
    }
}

/// A query that ends in a count by fields, of as many groups as can be counted.
fn most_of(query: &str) -> String {
    format!("{query} | top {}", crate::query::TOP_MAX)
}

/// How many records of a query by [`most_of`] each group has, and whether
/// these are all groups: of one that is not there nothing is known otherwise.
fn counts(e: &Evidence<'_>, query: &str) -> Result<(BTreeMap<Vec<String>, u64>, bool), StoreError> {
    let counted = e.groups(query)?;
    let whole = is_whole(&counted);
    let groups = counted.groups.into_iter();
    Ok((
        groups.map(|group| (group.values, group.count)).collect(),
        whole,
    ))
}

/// Whether every group was read.
fn is_whole(counted: &Counted) -> bool {
    let named = u64::try_from(counted.groups.len()).unwrap_or(u64::MAX);
    named == counted.distinct && counted.uncounted == 0
}

/// Whether the log goes back over all of the time of the same length before the period.
fn is_recorded_before(e: &Evidence<'_>) -> bool {
    let begins = e.begins_us();
    begins.is_some_and(|begins| begins <= e.period.before().0.from_us)
}

/// A section whose table is the newest records of a query.
fn of_rows(
    section: Section,
    e: &Evidence<'_>,
    query: String,
    columns: &[(&str, CellKind)],
    most: usize,
) -> Result<Section, StoreError> {
    let (rows, total) = e.rows(&query, most)?;
    let mut table = Table::new(columns);
    table.total = total;
    for row in &rows {
        table
            .rows
            .push(columns.iter().map(|(name, _)| cell(row, name)).collect());
    }
    let mut section = section.figure("records", total);
    section.table = Some(table);
    section.queries.push(query);
    Ok(section)
}

/// Shows the newest rows of a query, at most `most`; how many these were.
fn newest(
    e: &Evidence<'_>,
    query: &str,
    most: usize,
    mut show: impl FnMut(Row),
) -> Result<usize, StoreError> {
    let mut looked = 0;
    e.visit(query, |row| {
        looked += 1;
        show(row);
        looked < most
    })?;
    Ok(looked)
}

fn cell(row: &Row, name: &str) -> String {
    match (name, row.value(name)) {
        ("time", _) => row.time(),
        (_, None) => String::new(),
        (_, Some(RowValue::Flag(flag))) => flag.to_string(),
        (_, Some(RowValue::Number(number))) => number.to_string(),
        (_, Some(RowValue::Text(text))) => text.clone(),
        (_, Some(RowValue::Texts(texts))) => texts.join(", "),
        (_, Some(RowValue::Json(json))) => json.to_string(),
    }
}

/// The first of some values in words, and how many more there are.
fn named(values: Option<&BTreeSet<String>>) -> String {
    let count = values.map_or(0, BTreeSet::len);
    let first = values.into_iter().flatten().take(NAMED_MAX);
    let first = first.map(String::as_str).collect::<Vec<_>>().join(", ");
    match count.saturating_sub(NAMED_MAX) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// A step for a chart of the period, as a query has it.
fn step(e: &Evidence<'_>) -> String {
    let window = e.period.0;
    length(step_for(window.to_us - window.from_us, STEPS))
}

fn columns(title: &str, by_time: &CountedByTime) -> Chart {
    let mut series: Vec<String> = Vec::new();
    let mut others = false;
    for step in &by_time.steps {
        for (value, _) in &step.values {
            if !series.contains(value) {
                series.push(value.clone());
            }
        }
        others |= step.other > 0;
    }
    if series.is_empty() {
        series.push("records".to_owned());
    }
    let plain = by_time.by.is_none();
    let points = by_time.steps.iter().map(|step| {
        let of = |name: &String| match plain {
            true => step.count,
            false => {
                let found = step.values.iter().find(|(value, _)| value == name);
                found.map_or(0, |(_, n)| *n)
            }
        };
        let mut values: Vec<u64> = series.iter().map(of).collect();
        if others {
            values.push(step.other);
        }
        Point {
            label: step.time.clone(),
            values,
        }
    });
    let points = points.collect();
    if others {
        series.push("other".to_owned());
    }
    Chart {
        title: title.to_owned(),
        shape: Shape::Columns,
        series,
        points,
    }
}

fn bars(title: &str, counted: &Counted) -> Chart {
    let point = |group: &crate::index::Group| Point {
        label: group.values.join(" · "),
        values: vec![group.count],
    };
    Chart {
        title: title.to_owned(),
        shape: Shape::Bars,
        series: vec!["records".to_owned()],
        points: counted.groups.iter().take(BARS).map(point).collect(),
    }
}

/// `of` as a share of `all`, in per cent with one digit.
fn share(of: u64, all: u64) -> String {
    match all {
        0 => "–".to_owned(),
        all => {
            let permille = u128::from(of) * 1000 / u128::from(all);
            format!("{}.{} %", permille / 10, permille % 10)
        }
    }
}
