//! Asks the store what a report needs, always within a period and under a checkpoint.

use std::{
    cell::{OnceCell, RefCell},
    collections::{BTreeSet, HashMap},
    path::Path,
};

use palisade_mesh::diagnostic::Diagnostic;

use super::{
    lacks::{self, Missing},
    model::{Header, Mark, Section},
    period::Period,
    scanned::{self, Scanned},
};
use crate::{
    checkpoint::{Checkpoint, domain},
    going::Going,
    index::{Answer, Counted, CountedByTime, Coverage, SearchResult, Store, StoreError},
    log::{Log, LogError, gaps_told},
    query::{Limits, OUTCOME_ENTRY, Query, Window, time::rfc3339},
    reconcile::{ReconcileError, Reconciliation, reconcile},
    row::Row,
    verify::{self, VerifyOptions, VerifyReport},
};

/// Rows of one table where the section does not say.
pub(super) const ROWS_MAX: usize = 1000;

/// Microseconds of a day.
pub(super) const DAY_US: i64 = 86_400 * 1_000_000;

/// Rows that are read at once.
const PAGE_ROWS: usize = 2000;

/// What a report is made from.
pub struct Evidence<'a> {
    store: &'a Store,
    ground: Ground<'a>,
    pub(super) period: Period,
    scope: String,
    /// The scope as it is asked: what it says of endings is bounded by the checkpoint, too.
    asked_scope: String,
    mark: Mark,
    log_name: String,
    now_us: i64,
    /// What answers lacked, each said once.
    lacks: RefCell<Vec<String>>,
    /// Every query that was asked.
    asked: RefCell<BTreeSet<String>>,
    /// Groups that were asked for: controls of a pack ask for the same.
    counted: RefCell<HashMap<String, Counted>>,
    /// What reading the whole log found, once a section has asked.
    verified: OnceCell<VerifyReport>,
    /// What the log was found to have of the period, once a section has asked.
    scanned: OnceCell<Scanned>,
}

/// What lies behind the store.
#[derive(Clone, Copy)]
pub enum Ground<'a> {
    /// A whole log, and its folder.
    Log(&'a Log, &'a Path),
    /// Some records of a log, each proven: what describes the whole log is not known.
    Records {
        /// When the log received its first record, microseconds since the Unix epoch.
        begins_us: Option<i64>,
    },
}

impl<'a> Evidence<'a> {
    /// Evidence of `period` under `checkpoint`, of decisions that `scope` asks for.
    ///
    /// # Errors
    /// What is wrong with the scope.
    pub fn new(
        store: &'a Store,
        ground: Ground<'a>,
        period: Period,
        scope: &str,
        checkpoint: &Checkpoint,
        now_us: i64,
    ) -> Result<Self, StoreError> {
        let bounded = Query::parse(scope)?.ended_before(checkpoint.size);
        Ok(Self {
            store,
            ground,
            period,
            scope: scope.trim().to_owned(),
            asked_scope: bounded.text().trim().to_owned(),
            mark: Mark::of(checkpoint),
            log_name: checkpoint.origin.clone(),
            now_us,
            lacks: RefCell::default(),
            asked: RefCell::default(),
            counted: RefCell::default(),
            verified: OnceCell::new(),
            scanned: OnceCell::new(),
        })
    }

    /// Whether somebody waits for it, and how far it is.
    pub(super) fn going(&self) -> &Going {
        self.store.going()
    }

    /// Decisions of the scope that `filter` asks for, as a query without a summary.
    pub(super) fn decisions(&self, filter: &str) -> String {
        self.within(&self.scoped(filter), self.period)
    }

    /// The same, of the time before the period.
    pub(super) fn decisions_before(&self, filter: &str) -> String {
        self.within(&self.scoped(filter), self.period.before())
    }

    /// The command that lists what is missing of the period.
    pub(super) fn gaps(&self) -> String {
        format!("palisade audit gaps {}", self.period.bounds())
    }

    /// Records that `filter` asks for, as a query without a summary.
    pub(super) fn records(&self, filter: &str) -> String {
        self.within(filter, self.period)
    }

    /// The same, of the time before the period.
    pub(super) fn records_before(&self, filter: &str) -> String {
        self.within(filter, self.period.before())
    }

    /// Records that `filter` asks for, from the beginning of the log to the checkpoint and to
    /// the end of the period: a query for each of these times.
    pub(super) fn records_ever(&self, filter: &str) -> Vec<String> {
        let signed = self.mark.time.parse::<jiff::Timestamp>();
        let signed_us = signed.map_or(self.now_us, |time| time.as_microsecond());
        let until_us = self.period.0.to_us.max(signed_us.saturating_add(1));
        let parts = self.since_the_beginning(until_us).into_iter();
        parts.map(|part| self.within(filter, part)).collect()
    }

    /// The time from the beginning of the log to `until_us`, in parts that one query may ask
    /// about.
    fn since_the_beginning(&self, until_us: i64) -> Vec<Period> {
        let begins_us = self.begins_us().unwrap_or(until_us);
        // Of a clock that was wrong then.
        let mut from_us = begins_us.saturating_sub(DAY_US);
        let mut parts = Vec::new();
        while from_us < until_us {
            let to_us = until_us.min(from_us.saturating_add(365 * DAY_US));
            parts.push(Period(Window { from_us, to_us }));
            from_us = to_us;
        }
        parts
    }

    fn scoped(&self, filter: &str) -> String {
        match self.asked_scope.as_str() {
            "" => format!("class:decision {filter}"),
            scope => format!("class:decision ({scope}) {filter}"),
        }
    }

    fn within(&self, filter: &str, period: Period) -> String {
        let filter = filter.trim();
        format!("{filter} entry:<{} {}", self.mark.size, period.bounds())
    }

    /// Groups of a query that ends in a summary by fields.
    pub(super) fn groups(&self, query: &str) -> Result<Counted, StoreError> {
        if let Some(counted) = self.counted.borrow().get(query) {
            return Ok(counted.clone());
        }
        match self.store.answer(&self.asking(query)?, 1, None)? {
            Answer::Counted(counted) => {
                self.note(&counted.coverage);
                let known = counted.clone();
                self.counted.borrow_mut().insert(query.to_owned(), known);
                Ok(counted)
            }
            _ => Err(StoreError::Bug("a report asked for groups and got none")),
        }
    }

    /// How many match a query without a summary.
    pub(super) fn count(&self, query: &str) -> Result<u64, StoreError> {
        Ok(self.groups(&format!("{query} | count"))?.total)
    }

    /// Steps of a query that ends in a timeline.
    pub(super) fn steps(&self, query: &str) -> Result<CountedByTime, StoreError> {
        match self.store.answer(&self.asking(query)?, 1, None)? {
            Answer::ByTime(by_time) => {
                self.note(&by_time.coverage);
                Ok(by_time)
            }
            _ => Err(StoreError::Bug("a report asked for steps and got none")),
        }
    }

    /// The newest rows, at most `most`, and how many there are.
    pub(super) fn rows(&self, query: &str, most: usize) -> Result<(Vec<Row>, u64), StoreError> {
        let total = self.count(query)?;
        let mut rows = Vec::new();
        self.visit(query, |row| {
            rows.push(row);
            rows.len() < most
        })?;
        Ok((rows, total))
    }

    /// Every row, newest first, until `visit` says that it is enough. How a request ended is
    /// in it where that is under the checkpoint, too.
    pub(super) fn visit(
        &self,
        query: &str,
        visit: impl FnMut(Row) -> bool,
    ) -> Result<(), StoreError> {
        self.pages(query, &|_| {}, visit)
    }

    /// The same of records that the log itself writes, of any time: what reporters have lost, or
    /// numbered and the log did not receive, is none of these.
    pub(super) fn visit_own(
        &self,
        query: &str,
        visit: impl FnMut(Row) -> bool,
    ) -> Result<(), StoreError> {
        let of_reporters = |coverage: &mut Coverage| {
            coverage.gaps.clear();
            coverage.gaps_more = 0;
            coverage.silent.clear();
            coverage.silent_more = 0;
            coverage.lost.clear();
            coverage.lost_more = 0;
        };
        self.pages(query, &of_reporters, visit)
    }

    fn pages(
        &self,
        query: &str,
        without: &dyn Fn(&mut Coverage),
        mut visit: impl FnMut(Row) -> bool,
    ) -> Result<(), StoreError> {
        let query = self.asking(query)?;
        self.each_page(&query, |mut page| {
            without(&mut page.coverage);
            self.note(&page.coverage);
            let mut rows = page.rows.into_iter();
            Ok(rows.all(|row| visit(row.ended_before(self.mark.size))))
        })
    }

    /// Shows the pages of a query, newest first, until `see` says that it is enough.
    fn each_page(
        &self,
        query: &Query,
        mut see: impl FnMut(SearchResult) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut cursor = None;
        loop {
            let mut page = self.store.search(query, PAGE_ROWS, cursor)?;
            cursor = page.cursor.take();
            if !see(page)? || cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Reads a query, and remembers that it was asked.
    fn asking(&self, query: &str) -> Result<Query, StoreError> {
        let parsed = Query::parse(query)?;
        self.asked.borrow_mut().insert(query.to_owned());
        Ok(parsed)
    }

    /// Indexes of the records that every answer so far rests on, and of all of the period:
    /// the first of the log, those that match a query, and their outcomes. Only what is
    /// under the checkpoint.
    ///
    /// # Errors
    /// `PLS7821` when they are more than `most`.
    pub(super) fn records_behind(&self, most: usize) -> Result<BTreeSet<u64>, StoreError> {
        let mut found = BTreeSet::from([0]);
        let whole = self.records("class:*");
        let window = |query: &Query| query.window(self.now_us, &Limits::default());
        let period = self.period.0;
        let mut queries = vec![whole];
        for text in self.asked.borrow().iter() {
            let window = window(&Query::parse(text)?)?;
            // What is of the period is among all of it.
            if window.from_us < period.from_us || window.to_us > period.to_us {
                queries.push(text.clone());
            }
        }
        for text in queries {
            self.each_page(&Query::parse(&text)?, |page| {
                for row in &page.rows {
                    let entries = [Some(row.entry), row.number(OUTCOME_ENTRY)];
                    let signed = entries
                        .into_iter()
                        .flatten()
                        .filter(|e| *e < self.mark.size);
                    found.extend(signed);
                }
                if found.len() > most {
                    return Err(too_many(most).into());
                }
                Ok(true)
            })?;
        }
        Ok(found)
    }

    /// Indices of the records that `filter` asks for, of any time.
    ///
    /// # Errors
    /// `PLS7821` for more than `most`, and what the index answers.
    pub(super) fn entries_ever(
        &self,
        filter: &str,
        most: usize,
    ) -> Result<BTreeSet<u64>, StoreError> {
        let mut found = BTreeSet::new();
        for part in self.since_the_beginning(self.period.0.to_us.max(self.now_us)) {
            let query = Query::parse(&self.within(filter, part))?;
            self.each_page(&query, |page| {
                found.extend(page.rows.iter().map(|row| row.entry));
                if found.len() > most {
                    return Err(too_many(most).into());
                }
                Ok(true)
            })?;
        }
        Ok(found)
    }

    /// What a reading of the whole log finds; nothing where there is none.
    ///
    /// # Errors
    /// When nobody waits for it any more.
    pub(super) fn verified(&self) -> Result<&VerifyReport, StoreError> {
        if let Some(verified) = self.verified.get() {
            return Ok(verified);
        }
        let found = match self.ground {
            Ground::Log(log, dir) => {
                let options = VerifyOptions {
                    key: Some(log.verifier().clone()),
                    archive: log.archive().cloned(),
                    ..VerifyOptions::default()
                };
                verify::verify_while(self.going(), dir, options)?
            }
            Ground::Records { .. } => VerifyReport::default(),
        };
        Ok(self.verified.get_or_init(|| found))
    }

    /// What the log has of the period, counted without the index; `None` where there is no
    /// whole log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) fn scanned(&self) -> Result<Option<&Scanned>, StoreError> {
        let Ground::Log(log, _) = self.ground else {
            return Ok(None);
        };
        if let Some(scanned) = self.scanned.get() {
            return Ok(Some(scanned));
        }
        let found = scanned::scan(self.going(), log, self.period.0, self.mark.size);
        let found = found.map_err(unreadable)?;
        Ok(Some(self.scanned.get_or_init(|| found)))
    }

    /// Both sides of the requests of the period; nothing where there is no whole log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) fn reconciled(&self) -> Result<Reconciliation, StoreError> {
        match self.ground {
            Ground::Log(log, _) => {
                let compared = reconcile(self.going(), log, self.period.0, self.now_us);
                compared.map_err(|error| match error {
                    ReconcileError::Log(error) => unreadable(error),
                    error => StoreError::Io(std::io::Error::other(error)),
                })
            }
            Ground::Records { .. } => Ok(Reconciliation::default()),
        }
    }

    /// The whole log, where there is one.
    pub(super) fn log(&self) -> Option<&'a Log> {
        match self.ground {
            Ground::Log(log, _) => Some(log),
            Ground::Records { .. } => None,
        }
    }

    /// What keeps a query to what a part of the mesh says: logs of earlier versions have
    /// records like its own of anybody.
    pub(super) fn of_part(&self, part: &str) -> String {
        let domain = domain(&self.log_name).unwrap_or(&self.log_name);
        format!("reporter:\"spiffe://{domain}/palisade/{part}\"")
    }

    /// What keeps a query to what the log says of itself.
    pub(super) fn of_the_log(&self) -> String {
        self.of_part("audit")
    }

    /// When the log received its first record, microseconds since the Unix epoch.
    pub(super) fn begins_us(&self) -> Option<i64> {
        match self.ground {
            Ground::Log(log, _) => log.begins_us().ok().flatten(),
            Ground::Records { begins_us } => begins_us,
        }
    }

    /// Days from the beginning of the log to the end of the period.
    pub(super) fn days_kept(&self) -> i64 {
        self.begins_us().map_or(0, |first| {
            self.period.0.to_us.saturating_sub(first).max(0) / DAY_US
        })
    }

    /// The present moment, microseconds since the Unix epoch.
    pub(super) fn now_us(&self) -> i64 {
        self.now_us
    }

    /// The checkpoint.
    pub(super) fn mark(&self) -> &Mark {
        &self.mark
    }

    fn note(&self, coverage: &Coverage) {
        // What is not indexed yet is no matter unless it is under the checkpoint.
        let indexed = self.store.status().log_len.saturating_sub(coverage.behind);
        let unindexed = self.mark.size.saturating_sub(indexed);
        let mut lacks = self.lacks.borrow_mut();
        for lack in lacks::of(coverage, self.mark.size, unindexed) {
            if !lacks.contains(&lack) {
                lacks.push(lack);
            }
        }
    }

    /// Of each of these gaps, whether the log has noticed under the checkpoint that its records
    /// are missing: it says so where it finds one. What it noticed later is no matter of what is
    /// under it, and what it noticed before the period was missing before.
    ///
    /// # Errors
    /// When the index cannot answer.
    pub(super) fn noticed(&self, gaps: &[Missing<'_>]) -> Result<Vec<bool>, StoreError> {
        let mut noticed = vec![false; gaps.len()];
        let Some(log) = self.log() else {
            return Ok(noticed);
        };
        let open = log.gaps();
        let streams_of = |gap: &Missing<'_>| -> Vec<String> {
            let of_it = open.iter().filter(|open| {
                let numbers = (open.missing.from, open.missing.to);
                numbers == (gap.first, gap.last) && open.stream.reporter.to_string() == gap.reporter
            });
            of_it.map(|open| open.stream.to_string()).collect()
        };
        let streams: Vec<Vec<String>> = gaps.iter().map(streams_of).collect();
        let noted = format!("class:log_lifecycle verb:gap {}", self.of_the_log());
        for text in self.records_ever(&noted) {
            if noticed.iter().all(|noticed| *noticed) {
                break;
            }
            self.each_page(&Query::parse(&text)?, |page| {
                let from_us = self.period.0.from_us;
                let rows = page.rows.iter().filter(|row| row.time_us() >= from_us);
                for detail in rows.filter_map(|row| row.text("detail")) {
                    for ((noticed, gap), streams) in noticed.iter_mut().zip(gaps).zip(&streams) {
                        *noticed = *noticed || is_told(detail, gap, streams);
                    }
                }
                Ok(!noticed.iter().all(|noticed| *noticed))
            })?;
        }
        Ok(noticed)
    }

    /// What a verification found, where a section needed one.
    fn damage(&self) -> Option<String> {
        let report = self.verified.get().filter(|report| !report.intact())?;
        let found = report.errors;
        Some(match report.verdict() {
            None => format!("{}{}", report.unread, lacks::AWAY),
            _ => format!("the log is not what was signed: {found} findings, see log integrity"),
        })
    }

    pub(super) fn header(
        &self,
        controls: Vec<String>,
        sections: &[Section],
    ) -> Result<Header, StoreError> {
        let records = self.count(&self.records("class:*"))?;
        let decisions = self.count(&self.decisions(""))?;
        let demo = self.count(&self.records("class:* demo:true"))? > 0;
        let tables = sections.iter().filter_map(|s| s.table.as_ref());
        let rows: usize = tables.map(|t| t.rows.len()).sum();
        let mut lacks = self.lacks.borrow().clone();
        lacks.extend(self.damage());
        let begins = self
            .begins_us()
            .filter(|begins| *begins > self.period.0.from_us);
        Ok(Header {
            log: self.log_name.clone(),
            from: rfc3339(self.period.0.from_us),
            to: rfc3339(self.period.0.to_us),
            scope: self.scope.clone(),
            made: rfc3339(self.now_us),
            records,
            decisions,
            rows: u64::try_from(rows).unwrap_or(u64::MAX),
            checkpoint: self.mark.clone(),
            complete: lacks.is_empty(),
            lacks,
            begins: begins.map(rfc3339),
            demo,
            controls,
            program: program(),
        })
    }
}

/// Why a reading of the log gave nothing.
fn unreadable(error: LogError) -> StoreError {
    match error {
        LogError::Ended(ended) => ended.into(),
        error => StoreError::Io(std::io::Error::other(error)),
    }
}

/// Whether the log says in `detail` that the records of a gap, of one of these streams, are
/// missing.
fn is_told(detail: &str, gap: &Missing<'_>, streams: &[String]) -> bool {
    gaps_told(detail).any(|(stream, told)| {
        let of_it = streams.iter().any(|of_gap| of_gap == stream);
        of_it && told.from <= gap.first && gap.last <= told.to
    })
}

fn too_many(most: usize) -> Diagnostic {
    Diagnostic::error(
        7821,
        format!("the report rests on more than {most} records"),
    )
    .cause("a package has every record of the period with its proof")
    .help("make it of a shorter period, or let it have more: --records-max")
}

/// The program that makes reports, as they name it.
pub(super) fn program() -> String {
    format!("palisade {}", env!("CARGO_PKG_VERSION"))
}
