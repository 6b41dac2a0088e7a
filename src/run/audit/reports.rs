//! Reports of the running log: made, and made again to check one.

use axum::{Json, Router, extract::DefaultBodyLimit, routing::post};
use palisade_audit::{
    index::StoreError,
    report::{self, Checked, Evidence, Kind, Period, Report},
};
use serde::{Deserialize, Serialize};

use super::{AuditRole, blocking, broken};
use crate::control::api::{Answer, Problem};

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

impl AuditRole {
    pub(super) fn reports(&self) -> Router {
        let (of_run, of_check) = (self.clone(), self.clone());
        Router::new()
            .route(
                "/v1/audit/report/run",
                post(move |Json(q): Json<RunReport>| async move { of_run.report(q).await }),
            )
            .route(
                "/v1/audit/report/check",
                post(move |Json(r): Json<Report>| async move { of_check.check_report(r).await }),
            )
            .layer(DefaultBodyLimit::max(REPORT_LEN_MAX))
    }

    async fn report(self, asked: RunReport) -> Answer<Report> {
        let kind = Kind::find(&asked.name).map_err(Problem::from)?;
        let period = Period::read(&asked.period, self.clock.now_us()).map_err(Problem::from)?;
        self.catch_up().await?;
        blocking(move || {
            let checkpoint = self.log.checkpoint();
            let dir = self.dir.join("log");
            let now_us = self.clock.now_us();
            let (store, log) = (&self.store, &self.log);
            let evidence =
                Evidence::new(store, log, &dir, period, &asked.scope, &checkpoint, now_us)?;
            report::run(kind, &evidence)
        })
        .await
        .map(Json)
    }

    async fn check_report(self, report: Report) -> Answer<Checked> {
        self.catch_up().await?;
        blocking(move || {
            let dir = self.dir.join("log");
            let now_us = self.clock.now_us();
            let scope = &report.header.scope;
            report::check(&report, &self.log, |period, checkpoint| {
                let (store, log) = (&self.store, &self.log);
                Evidence::new(store, log, &dir, period, scope, checkpoint, now_us)
            })
        })
        .await
        .map(Json)
    }

    /// Lets the index take in what the log has.
    async fn catch_up(&self) -> Result<(), Problem> {
        match self.store.flush().await {
            Ok(()) => Ok(()),
            Err(StoreError::Query(mistake)) => Err((*mistake).into()),
            Err(error) => Err(broken(&error.to_string()).into()),
        }
    }
}
