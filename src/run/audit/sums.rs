//! Questions to the audit service whose answer is a summary: facets, timelines, gaps.

use axum::{Json, Router, routing::post};
use palisade_audit::{
    index::{Faceted, SearchResult},
    log::OpenGap,
    query::{Limits, Query, TOP_DEFAULT},
    reconcile::{Reconciliation, reconcile},
};
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};

use super::{AuditRole, blocking, broken};
use crate::control::api::{Answer, Problem};

/// Fields that are counted where none are named: who, what, and how it went.
const FACETS_DEFAULT: &[&str] = &[
    "decision",
    "reason",
    "principal",
    "service",
    "route",
    "policy",
    "status",
];

/// Values of each facet where nothing is said.
const FACET_TOP_DEFAULT: usize = 5;

/// Records about losses that one answer names.
const LOSSES_MAX: usize = 1000;

/// What `audit facets` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Facets {
    /// The query.
    pub query: String,
    /// The fields; none for the usual ones.
    pub by: Vec<String>,
    /// Values of each.
    pub top: Option<usize>,
}

/// What `audit timeline` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Timeline {
    /// The query.
    pub query: String,
    /// Length of a step as in a query, `5m`; what suits a screen where nothing is said.
    pub step: Option<String>,
    /// A field that tells matches apart.
    pub by: Option<String>,
    /// Values of that field.
    pub top: Option<usize>,
}

/// What `audit gaps` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Gaps {
    /// A query of time bounds alone.
    pub query: String,
}

/// What is missing from the log, and what was said about it.
#[derive(Debug, Serialize)]
struct Missing {
    /// Numbers that are missing now, whenever they were noticed.
    open: Vec<MissingRange>,
    /// What the log noted of gaps in the time: found, closed.
    noted: SearchResult,
    /// What reporters declared as lost in the time: records that never got a number.
    declared: SearchResult,
    /// Requests of the time of which only one side has left a record.
    calls: Reconciliation,
}

/// Numbers of a stream that have not arrived.
#[derive(Debug, Serialize)]
struct MissingRange {
    reporter: String,
    boot: String,
    worker: u32,
    first: u64,
    last: u64,
    missing: u64,
    noticed: String,
}

impl AuditRole {
    pub(super) fn sums(&self) -> Router {
        let (of_facets, of_timeline, of_gaps) = (self.clone(), self.clone(), self.clone());
        Router::new()
            .route(
                "/v1/audit/facets",
                post(move |Json(q): Json<Facets>| async move { of_facets.facets(q).await }),
            )
            .route(
                "/v1/audit/timeline",
                post(move |Json(q): Json<Timeline>| async move { of_timeline.timeline(q).await }),
            )
            .route(
                "/v1/audit/gaps",
                post(move |Json(q): Json<Gaps>| async move { of_gaps.gaps(q).await }),
            )
    }

    async fn facets(self, asked: Facets) -> Answer<Faceted> {
        let query = records(&asked.query)?;
        let by = asked.by;
        blocking(move || {
            let fields: Vec<&str> = match by.is_empty() {
                true => FACETS_DEFAULT.to_vec(),
                false => by.iter().map(String::as_str).collect(),
            };
            let top = asked.top.unwrap_or(FACET_TOP_DEFAULT);
            self.store.facets(&query, &fields, top)
        })
        .await
        .map(Json)
    }

    async fn timeline(self, asked: Timeline) -> Answer<serde_json::Value> {
        let query = records(&asked.query)?;
        let step_us = asked.step.as_deref().map(step).transpose()?;
        let answer = blocking(move || {
            let top = asked.top.unwrap_or(TOP_DEFAULT);
            self.store
                .timeline(&query, step_us, asked.by.as_deref(), top)
        })
        .await?;
        serde_json::to_value(answer)
            .map(Json)
            .map_err(|e| Problem::from(broken(&e.to_string())))
    }

    async fn gaps(self, asked: Gaps) -> Answer<Missing> {
        let time = records(&asked.query)?;
        if !time.is_of_time_alone() {
            return Err(Problem::from(
                Diagnostic::error(7113, "gaps are asked for by time alone")
                    .cause("a record that never arrived has no fields to ask about")
                    .help("as in `palisade audit gaps last:7d`"),
            ));
        }
        let of = |class: &str| records(&format!("{class} {}", asked.query));
        let noted = of("class:log_lifecycle (verb:gap OR verb:gap_closed)")?;
        let declared = of("class:spool_event verb:dropped")?;
        let open = self.log.gaps();
        let window = time
            .window(self.clock.now_us(), &Limits::default())
            .map_err(Problem::from)?;
        let (log, clock) = (self.log.clone(), self.clock.clone());
        let calls = tokio::task::spawn_blocking(move || reconcile(&log, window, &clock));
        let calls = calls.await.map_err(|e| broken(&e.to_string()))?;
        let calls = calls.map_err(|e| broken(&e.to_string()))?;
        blocking(move || {
            Ok(Missing {
                open: open.iter().map(MissingRange::of).collect(),
                noted: self.store.search(&noted, LOSSES_MAX, None)?,
                declared: self.store.search(&declared, LOSSES_MAX, None)?,
                calls,
            })
        })
        .await
        .map(Json)
    }
}

impl MissingRange {
    fn of(gap: &OpenGap) -> Self {
        let noticed = jiff::Timestamp::from_microsecond(gap.noticed_us).unwrap_or_default();
        Self {
            reporter: gap.stream.reporter.to_string(),
            boot: gap.stream.boot.to_string(),
            worker: gap.stream.worker,
            first: gap.missing.from,
            last: gap.missing.to,
            missing: (gap.missing.to - gap.missing.from).saturating_add(1),
            noticed: format!("{noticed:.6}"),
        }
    }
}

/// A query that asks for records, not for a summary of them.
fn records(text: &str) -> Result<Query, Problem> {
    let query = Query::parse(text).map_err(Problem::from)?;
    match query.stage() {
        None => Ok(query),
        Some(stage) => Err(Problem::from(
            Diagnostic::error(7109, format!("`{stage}` is a summary already"))
                .help("leave out what stands after `|`, or ask with `palisade audit search`"),
        )),
    }
}

fn step(text: &str) -> Result<i64, Problem> {
    palisade_audit::query::length_us(text).ok_or_else(|| {
        Problem::from(
            Diagnostic::error(7109, format!("`{text}` is not the length of a step"))
                .help("as in `--step 30s`, `5m`, `1h` or `1d`"),
        )
    })
}
