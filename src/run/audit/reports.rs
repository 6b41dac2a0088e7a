//! Reports of a log: made, and made again to check one.

use std::path::Path;

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit},
    routing::post,
};
use palisade_audit::{
    index::{Store, StoreError},
    log::Log,
    report::{self, Checked, Evidence, Kind, Period, Report},
};
use serde::{Deserialize, Serialize};

use super::{AuditRole, blocking, broken, reads::Reader};
use crate::control::{
    api::{Answer, Problem},
    server::PeerUid,
};

/// Longest report that is checked, bytes.
const REPORT_LEN_MAX: usize = 64 << 20;

/// What `report run` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunReport {
    /// Which report.
    pub name: String,
    /// The time it is about, as [`Period::read`] reads it.
    pub period: String,
    /// What decisions are kept to, as a query.
    pub scope: String,
}

/// What reports are made from.
pub(crate) struct Desk<'a> {
    /// The index.
    pub(crate) store: &'a Store,
    /// The log.
    pub(crate) log: &'a Log,
    /// The folder of the log.
    pub(crate) dir: &'a Path,
    /// The present moment, microseconds since the Unix epoch.
    pub(crate) now_us: i64,
}

impl Desk<'_> {
    /// Makes a report under the newest checkpoint. Blocks on the disk.
    ///
    /// # Errors
    /// What is wrong with the question, or with the log.
    pub(crate) fn run(&self, asked: &RunReport) -> Result<Report, StoreError> {
        let kind = Kind::find(&asked.name)?;
        let period = Period::read(&asked.period, self.now_us)?;
        let checkpoint = self.log.checkpoint();
        let (store, log) = (self.store, self.log);
        let evidence = Evidence::new(
            store,
            log,
            self.dir,
            period,
            &asked.scope,
            &checkpoint,
            self.now_us,
        )?;
        report::run(kind, &evidence)
    }

    /// Makes a report again and compares. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Desk::run`].
    pub(crate) fn check(&self, told: &Report) -> Result<Checked, StoreError> {
        let scope = &told.header.scope;
        report::check(told, self.log, |period, checkpoint| {
            let (store, log) = (self.store, self.log);
            Evidence::new(store, log, self.dir, period, scope, checkpoint, self.now_us)
        })
    }
}

impl AuditRole {
    pub(super) fn reports(&self) -> Router {
        let (of_run, of_check) = (self.clone(), self.clone());
        Router::new()
            .route(
                "/v1/audit/report/run",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<RunReport>| async move {
                        of_run.report(Reader::local(uid), q).await
                    },
                ),
            )
            .route(
                "/v1/audit/report/check",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(r): Json<Report>| async move {
                        of_check.check_report(Reader::local(uid), r).await
                    },
                ),
            )
            .layer(DefaultBodyLimit::max(REPORT_LEN_MAX))
    }

    async fn report(self, reader: Reader, mut asked: RunReport) -> Answer<Report> {
        self.catch_up().await?;
        asked.scope = self.asked(&asked.scope)?.text().to_owned();
        let (role, question) = (self.clone(), told(&asked.name, &asked.period, &asked.scope));
        let made = blocking(move || role.desk(&role.dir.join("log")).run(&asked)).await?;
        let rows = usize::try_from(made.header.rows).unwrap_or(usize::MAX);
        self.reads.note(&reader, "report", &question, rows).await?;
        Ok(Json(made))
    }

    async fn check_report(self, reader: Reader, report: Report) -> Answer<Checked> {
        self.catch_up().await?;
        let header = &report.header;
        let question = told(&report.name, &header.from, &self.told(&header.scope));
        let role = self.clone();
        let checked = blocking(move || role.desk(&role.dir.join("log")).check(&report)).await?;
        self.reads
            .note(&reader, "report_verify", &question, 0)
            .await?;
        Ok(Json(checked))
    }

    fn desk<'a>(&'a self, dir: &'a Path) -> Desk<'a> {
        Desk {
            store: &self.store,
            log: &self.log,
            dir,
            now_us: self.clock.now_us(),
        }
    }

    /// Lets the index take in what the log has.
    pub(super) async fn catch_up(&self) -> Result<(), Problem> {
        match self.store.flush().await {
            Ok(()) => Ok(()),
            Err(StoreError::Query(mistake)) => Err((*mistake).into()),
            Err(error) => Err(broken(&error.to_string()).into()),
        }
    }
}

/// A report as the record of its reading names it.
fn told(name: &str, period: &str, scope: &str) -> String {
    match scope {
        "" => format!("{name} of {period}"),
        scope => format!("{name} of {period}: {scope}"),
    }
}
