//! Makes the index of a log, and asks it what people and auditors ask.

use std::path::Path;

use palisade_audit::{
    index::{BucketSpan, Cursor, ROWS_MAX, Store, StoreError},
    log::{Log, LogOptions, whose},
    query::Query,
    report::{CellKind, Report as Document, Section, Table, to_xlsx},
    row::{Row, RowValue},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};

use super::{
    Figure,
    traffic::{BEGINS_US, PERIOD, SPAN_US},
    wrong,
};
use crate::{
    cli::{
        block_on,
        timing::{Span, Whose, timed},
    },
    run::audit::{RunReport, reports::Desk, store_of},
};

/// Rows of a first page.
const PAGE: usize = 50;
/// Rows of the workbook, where there are so many.
const XLSX_ROWS: usize = 100_000;
/// How often a question is asked again; its times are the mean of these.
const AGAIN: u64 = 10;
/// What people filter by, from everything to next to nothing.
const FILTERS: &[&str] = &[
    "last:30d",
    "decision:deny last:30d",
    "principal:caller-007 last:30d",
    "principal:caller-007 decision:deny last:30d",
    "service:shop/* status:5xx latency:>1ms last:30d",
    "path:/v1/things-03/12* last:30d",
    "policy:guard-rails method:DELETE last:30d",
    "decision:allow since:-20d until:-19d",
];
/// What the panel beside the rows counts.
const FACETS: &[&str] = &["decision", "principal", "service", "status", "policy"];
/// Summaries that access reports are made of.
const SUMMARIES: &[&str] = &[
    "decision:allow enforced:true last:30d | first, last by principal, service, policy",
    "decision:deny last:30d | count by principal, service, reason",
    "last:30d | count by principal, service, action",
];
/// Reports that ask the index alone.
const REPORTS: &[&str] = &["access", "access-review", "denials"];
/// Columns of the workbook.
const COLUMNS: &[(&str, CellKind)] = &[
    ("time", CellKind::Time),
    ("decision", CellKind::Text),
    ("principal", CellKind::Text),
    ("service", CellKind::Text),
    ("action", CellKind::Text),
    ("route", CellKind::Text),
    ("policy", CellKind::Text),
    ("reason", CellKind::Text),
    ("status", CellKind::Number),
    ("latency", CellKind::Number),
];

/// What was asked, and what that cost.
pub(super) struct Asked {
    pub(super) decisions: u64,
    pub(super) index_bytes: u64,
    pub(super) figures: Vec<Figure>,
}

/// Makes the index of the log in `dir`, which has `records` records and more of its own,
/// and asks it everything.
pub(super) fn all(dir: &Path, records: u64) -> Result<Asked, Diagnostic> {
    let ends = jiff::Timestamp::from_microsecond(BEGINS_US.saturating_add(SPAN_US));
    let clock = Clock::manual(ends.unwrap_or_default());
    let log_dir = dir.join("log");
    let options = LogOptions {
        read_only: true,
        ..LogOptions::new(whose(&log_dir).map_err(|e| wrong("whose log it is", &e))?)
    };
    let log = Log::open(&log_dir, options, clock.clone())
        .map_err(|e| wrong("the log cannot be read", &e))?;
    let index_dir = dir.join("index");
    let open = || -> Result<Store, StoreError> {
        let store = store_of(&log, &index_dir, &clock, BucketSpan::Day, None)?;
        block_on(store.flush())?;
        block_on(store.tidied_up())?;
        Ok(store)
    };
    let (made, whole) = timed(Whose::Process, 1, open);
    drop(made.map_err(failed)?);
    let (opened, opening) = timed(Whose::Process, 1, open);
    let store = opened.map_err(failed)?;
    let ((), rolling) = timed(Whose::Process, 1, || block_on(store.rolled_up()));
    let index_bytes = bytes_of(&index_dir);
    let mut figures = vec![
        Figure::new("index", "index a record", records, whole.part(log.len())),
        Figure::new("index", "make the whole index from the log", 1, whole),
        Figure::new(
            "index",
            "open the index, every checksum verified",
            1,
            opening,
        ),
        Figure::new("index", "roll up its hours and days", 1, rolling),
    ];
    let ask = Asking {
        store: &store,
        desk: Desk {
            store: &store,
            log: &log,
            dir: &log_dir,
            now_us: clock.now_us(),
        },
    };
    let decisions = ask.decisions(records)?;
    ask.questions(&mut figures).map_err(failed)?;
    ask.reports(&mut figures).map_err(failed)?;
    figures.push(ask.workbook()?);
    Ok(Asked {
        decisions,
        index_bytes,
        figures,
    })
}

struct Asking<'a> {
    store: &'a Store,
    desk: Desk<'a>,
}

impl Asking<'_> {
    /// How many decisions there are; figures about half an index would mean nothing.
    fn decisions(&self, records: u64) -> Result<u64, Diagnostic> {
        let query = Query::parse("last:30d")?;
        let counted = self.store.count(&query).map_err(failed)?;
        if counted != records.div_ceil(2) {
            let cause = format!("{counted} decisions of {} are found", records.div_ceil(2));
            return Err(wrong("the index does not have every record", &cause));
        }
        Ok(counted)
    }

    fn questions(&self, figures: &mut Vec<Figure>) -> Result<(), StoreError> {
        for text in FILTERS {
            let query = Query::parse(text)?;
            let newest = || self.store.search(&query, PAGE, None).map(|_| ());
            figures.push(asked("newest 50", *text, newest)?);
        }
        let every = Query::parse("last:30d")?;
        let panel = || {
            self.store.facets(&every, FACETS, PAGE)?;
            self.store.timeline(&every, None, Some("decision"), PAGE)?;
            Ok(())
        };
        let what = format!("{} and a timeline", FACETS.join(", "));
        figures.push(asked("panel", what, panel)?);
        for text in SUMMARIES {
            let query = Query::parse(text)?;
            let summed_up = || self.store.answer(&query, PAGE, None).map(|_| ());
            figures.push(asked("summary", *text, summed_up)?);
        }
        Ok(())
    }

    fn reports(&self, figures: &mut Vec<Figure>) -> Result<(), StoreError> {
        for name in REPORTS {
            let made = || self.report(name).map(|_| ());
            figures.push(asked("report", format!("{name} of 30 days"), made)?);
        }
        Ok(())
    }

    fn report(&self, name: &str) -> Result<Document, StoreError> {
        self.desk.run(&RunReport {
            name: name.to_owned(),
            period: PERIOD.to_owned(),
            scope: String::new(),
            to: String::new(),
        })
    }

    /// A workbook of the newest records.
    fn workbook(&self) -> Result<Figure, Diagnostic> {
        let mut document = self.report("denials").map_err(failed)?;
        let mut table = Table::new(COLUMNS);
        table.rows = self.newest(XLSX_ROWS).map_err(failed)?;
        table.total = u64::try_from(table.rows.len()).unwrap_or(u64::MAX);
        let what = format!("XLSX of {} rows", table.total);
        let mut section = Section::new("decisions", "Decisions", "The newest of the period.");
        section.table = Some(table);
        document.sections = vec![section];
        let (written, span) = timed(Whose::Thread, 1, || to_xlsx(&document));
        written.map_err(|e| wrong("the workbook cannot be written", &e))?;
        Ok(Figure::new("export", what, 1, span))
    }

    fn newest(&self, most: usize) -> Result<Vec<Vec<String>>, StoreError> {
        let query = Query::parse("last:30d")?;
        let mut rows = Vec::new();
        let mut cursor: Option<Cursor> = None;
        while rows.len() < most {
            let left = (most - rows.len()).min(ROWS_MAX);
            let page = self.store.search(&query, left, cursor)?;
            rows.extend(page.rows.iter().map(cells));
            match page.cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        Ok(rows)
    }
}

/// Asks once, and then [`AGAIN`] times.
fn asked(
    group: &'static str,
    what: impl Into<String>,
    mut ask: impl FnMut() -> Result<(), StoreError>,
) -> Result<Figure, StoreError> {
    let (first, cold) = timed(Whose::Thread, 1, &mut ask);
    first?;
    let (again, each): (Result<(), StoreError>, Span) =
        timed(Whose::Thread, AGAIN, || (0..AGAIN).try_for_each(|_| ask()));
    again?;
    let mut figure = Figure::new(group, what, AGAIN, each);
    figure.first_cpu_ns = Some(cold.cpu_ns);
    Ok(figure)
}

fn cells(row: &Row) -> Vec<String> {
    let cell = |(name, _): &(&str, CellKind)| match row.value(name) {
        _ if *name == "time" => row.time(),
        Some(RowValue::Text(text)) => text.clone(),
        Some(RowValue::Texts(texts)) => texts.join(", "),
        Some(RowValue::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    COLUMNS.iter().map(cell).collect()
}

fn failed(error: StoreError) -> Diagnostic {
    match error {
        StoreError::Query(mistake) => *mistake,
        error => wrong("the index does not answer", &error),
    }
}

/// Bytes of all files below a folder.
pub(super) fn bytes_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
