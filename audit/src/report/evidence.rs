//! Asks the store what a report needs, always within a period and under a checkpoint.

use std::{
    cell::{OnceCell, RefCell},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::{
    model::{Header, Mark, Section},
    period::Period,
};
use crate::{
    checkpoint::Checkpoint,
    index::{Answer, Counted, CountedByTime, Coverage, Cursor, Store, StoreError},
    log::Log,
    query::{Query, time::rfc3339},
    row::Row,
    verify::{self, VerifyOptions, VerifyReport},
};

/// Rows of one table where the section does not say.
pub(super) const ROWS_MAX: usize = 1000;

/// Rows that are read at once.
const PAGE_ROWS: usize = 2000;

/// What a report is made from.
pub struct Evidence<'a> {
    store: &'a Store,
    /// The log itself.
    pub(super) log: &'a Log,
    /// The folder of the log.
    pub(super) dir: &'a Path,
    pub(super) period: Period,
    scope: String,
    mark: Mark,
    log_name: String,
    now_us: i64,
    /// What answers lacked, each said once.
    lacks: RefCell<Vec<String>>,
    /// What reading the whole log found, once a section has asked.
    verified: OnceCell<VerifyReport>,
}

impl<'a> Evidence<'a> {
    /// Evidence of `period` under `checkpoint`, of decisions that `scope` asks for.
    ///
    /// # Errors
    /// What is wrong with the scope.
    pub fn new(
        store: &'a Store,
        log: &'a Log,
        dir: &'a Path,
        period: Period,
        scope: &str,
        checkpoint: &Checkpoint,
        now_us: i64,
    ) -> Result<Self, StoreError> {
        Query::parse(scope)?;
        Ok(Self {
            store,
            log,
            dir,
            period,
            scope: scope.trim().to_owned(),
            mark: Mark {
                size: checkpoint.size,
                root: BASE64.encode(checkpoint.root),
                time: rfc3339(checkpoint.time.as_microsecond()),
                note: checkpoint.note.clone(),
            },
            log_name: checkpoint.origin.clone(),
            now_us,
            lacks: RefCell::default(),
            verified: OnceCell::new(),
        })
    }

    /// Decisions of the scope that `filter` asks for, as a query without a summary.
    pub(super) fn decisions(&self, filter: &str) -> String {
        self.within(&self.scoped(filter), self.period)
    }

    /// The same, of the time before the period.
    pub(super) fn decisions_before(&self, filter: &str) -> String {
        self.within(&self.scoped(filter), self.period.before())
    }

    /// Records that `filter` asks for, as a query without a summary.
    pub(super) fn records(&self, filter: &str) -> String {
        self.within(filter, self.period)
    }

    fn scoped(&self, filter: &str) -> String {
        match self.scope.as_str() {
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
        match self.store.answer(&Query::parse(query)?, 1, None)? {
            Answer::Counted(counted) => {
                self.note(&counted.coverage);
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
        match self.store.answer(&Query::parse(query)?, 1, None)? {
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

    /// Every row, newest first, until `visit` says that it is enough.
    pub(super) fn visit(
        &self,
        query: &str,
        mut visit: impl FnMut(Row) -> bool,
    ) -> Result<(), StoreError> {
        let query = Query::parse(query)?;
        let mut cursor: Option<Cursor> = None;
        loop {
            let page = self.store.search(&query, PAGE_ROWS, cursor)?;
            self.note(&page.coverage);
            for row in page.rows {
                if !visit(row) {
                    return Ok(());
                }
            }
            match page.cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// What a reading of the whole log finds.
    pub(super) fn verified(&self) -> &VerifyReport {
        let verify = || verify::verify(self.dir, VerifyOptions::default());
        self.verified.get_or_init(verify)
    }

    /// The checkpoint.
    pub(super) fn mark(&self) -> &Mark {
        &self.mark
    }

    fn note(&self, coverage: &Coverage) {
        if coverage.complete {
            return;
        }
        let mut lacks = self.lacks.borrow_mut();
        let mut say = |what: String| {
            if !lacks.contains(&what) {
                lacks.push(what);
            }
        };
        if coverage.unreadable > 0 {
            say(format!("{} records cannot be read", coverage.unreadable));
        }
        for bucket in &coverage.skipped_buckets {
            say(format!("the index of {bucket} is being made again"));
        }
        for gap in &coverage.gaps {
            say(format!(
                "records {} to {} of {} have not arrived",
                gap.first, gap.last, gap.reporter
            ));
        }
        // What is not indexed yet is no matter unless it is under the checkpoint.
        let indexed = self.log.len().saturating_sub(coverage.behind);
        if indexed < self.mark.size {
            say(format!(
                "{} records are not indexed yet",
                self.mark.size - indexed
            ));
        }
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
        let lacks = self.lacks.borrow().clone();
        let first = self.log.read(0).ok();
        let begins = first.map(|entry| entry.envelope.received_us);
        let begins = begins.filter(|begins| *begins > self.period.0.from_us);
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

/// The program that makes reports, as they name it.
pub(super) fn program() -> String {
    format!("palisade {}", env!("CARGO_PKG_VERSION"))
}
