//! Questions to the audit service whose answer is a summary: facets, timelines, gaps.

use axum::{Json, Router, extract::ConnectInfo, routing::post};
use palisade_audit::{
    index::{Faceted, SearchResult},
    log::{LogError, OpenGap},
    query::{Limits, Query, TOP_DEFAULT},
    reconcile::{ReconcileError, Reconciliation, reconcile},
    watch::Silent,
};
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};

use super::{AuditRole, Reader, attended, broken};
use crate::control::{
    api::{Answer, Problem},
    server::PeerUid,
};

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
pub(super) const FACET_TOP_DEFAULT: usize = 5;

/// Records about losses that one answer names.
const LOSSES_MAX: usize = 1000;

/// Open gaps that one answer names; more are counted.
const OPEN_MAX: usize = 1000;

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
pub(super) struct Missing {
    /// Numbers that are missing now, whenever they were noticed.
    open: Vec<MissingRange>,
    /// How many more there are.
    #[serde(skip_serializing_if = "is_none")]
    open_more: usize,
    /// How many of these are not told, because the reader may not see every record.
    #[serde(skip_serializing_if = "is_none")]
    open_withheld: usize,
    /// What the log noted of gaps in the time: found, closed.
    noted: SearchResult,
    /// What reporters declared as lost in the time: records that never got a number.
    declared: SearchResult,
    /// Reporters that have stopped sending, now; not for readers of some rows.
    silent: Vec<Silent>,
    /// Requests of the time of which only one side has left a record; not for readers of
    /// some rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    calls: Option<Reconciliation>,
}

fn is_none(n: &usize) -> bool {
    *n == 0
}

/// Numbers of a stream that have not arrived.
#[derive(Debug, Serialize)]
pub(super) struct MissingRange {
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
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Facets>| async move {
                        attended(&of_facets, (), |role| role.facets(Reader::local(uid), q)).await?
                    },
                ),
            )
            .route(
                "/v1/audit/timeline",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Timeline>| async move {
                        attended(&of_timeline, (), |role| role.timeline(Reader::local(uid), q)).await?
                    },
                ),
            )
            .route(
                "/v1/audit/gaps",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Gaps>| async move {
                        attended(&of_gaps, (), |role| role.gaps(Reader::local(uid), q)).await?
                    },
                ),
            )
    }

    pub(super) async fn facets(self, reader: Reader, asked: Facets) -> Answer<Faceted> {
        let query = reader.sees(&self.records(&asked.query)?);
        let told = query.text().to_owned();
        let (by, store) = (asked.by, self.store.clone());
        self.settled().await;
        let ask = move || {
            let fields: Vec<&str> = match by.is_empty() {
                true => FACETS_DEFAULT.to_vec(),
                false => by.iter().map(String::as_str).collect(),
            };
            let top = asked.top.unwrap_or(FACET_TOP_DEFAULT);
            store.facets(&query, &fields, top)
        };
        let answer = self.answered((&reader, "facets", &told), ask).await?;
        let groups = answer.facets.iter().map(|facet| facet.groups.len()).sum();
        self.reads.note(&reader, "facets", &told, groups).await?;
        Ok(Json(answer))
    }

    pub(super) async fn timeline(
        self,
        reader: Reader,
        asked: Timeline,
    ) -> Answer<serde_json::Value> {
        let query = reader.sees(&self.records(&asked.query)?);
        let told = query.text().to_owned();
        let step_us = asked.step.as_deref().map(step).transpose()?;
        let store = self.store.clone();
        self.settled().await;
        let ask = move || {
            let top = asked.top.unwrap_or(TOP_DEFAULT);
            store.timeline(&query, step_us, asked.by.as_deref(), top)
        };
        let answer = self.answered((&reader, "timeline", &told), ask).await?;
        let steps = answer.steps.len();
        self.reads.note(&reader, "timeline", &told, steps).await?;
        serde_json::to_value(answer)
            .map(Json)
            .map_err(|e| Problem::from(broken(&e.to_string())))
    }

    pub(super) async fn gaps(self, reader: Reader, asked: Gaps) -> Answer<Missing> {
        let time = self.records(&asked.query)?;
        if !time.is_of_time_alone() {
            return Err(Problem::from(
                Diagnostic::error(7113, "gaps are asked for by time alone")
                    .cause("a record that never arrived has no fields to ask about")
                    .help("as in `palisade audit gaps last:7d`"),
            ));
        }
        let of = |class: &str| {
            let query = self.records(&format!("{class} {}", asked.query))?;
            Ok::<_, Problem>(reader.sees(&query))
        };
        let noted = of("class:log_lifecycle (verb:gap OR verb:gap_closed)")?;
        let declared = of("class:spool_event verb:dropped")?;
        let (open, store) = (self.log.gaps(), self.store.clone());
        self.settled().await;
        let sees_all = reader.rows().text().is_none();
        // They name reporters and both sides, whichever of them the reader may see.
        let (calls, silent) = match sees_all {
            true => (Some(self.calls(&time).await?), self.watch.silent()),
            false => (None, Vec::new()),
        };
        let ask = move || {
            let (told, open_withheld) = match sees_all {
                true => (&*open, 0),
                // They name reporters whose records the reader may not see.
                false => (Default::default(), open.len()),
            };
            Ok(Missing {
                open: told.iter().take(OPEN_MAX).map(MissingRange::of).collect(),
                open_more: told.len().saturating_sub(OPEN_MAX),
                open_withheld,
                noted: store.search(&noted, LOSSES_MAX, None)?,
                declared: store.search(&declared, LOSSES_MAX, None)?,
                silent,
                calls,
            })
        };
        let question = (&reader, "gaps", asked.query.as_str());
        let missing = self.answered(question, ask).await?;
        let rows = missing.open.len() + missing.noted.rows.len() + missing.declared.rows.len();
        self.reads.note(&reader, "gaps", &asked.query, rows).await?;
        Ok(Json(missing))
    }

    /// A query that asks for records, with persons by their pseudonyms.
    pub(super) fn records(&self, text: &str) -> Result<Query, Problem> {
        records_of(self.asked(text)?).map_err(Problem::from)
    }

    /// What both sides recorded of the requests of a time, held against each other.
    async fn calls(&self, time: &Query) -> Result<Reconciliation, Problem> {
        let now_us = self.clock.now_us();
        let window = time.window(now_us, &Limits::default());
        let window = window.map_err(Problem::from)?;
        let log = self.log.clone();
        let going = self.store.going().clone();
        let compared =
            tokio::task::spawn_blocking(move || reconcile(&going, &log, window, now_us)).await;
        let compared = compared.map_err(|e| broken(&e.to_string()))?;
        compared.map_err(|error| match error {
            ReconcileError::Busy => Problem::from(
                Diagnostic::error(7116, error.to_string())
                    .cause("each may take some hundred megabytes, so there is one at a time")
                    .help("ask again in a moment, or for a shorter time"),
            ),
            ReconcileError::Log(LogError::Ended(ended)) => ended.diagnostic().into(),
            ReconcileError::Log(error) => broken(&error.to_string()).into(),
        })
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
pub(super) fn records_of(query: Query) -> Result<Query, Diagnostic> {
    match query.stage() {
        None => Ok(query),
        Some(stage) => Err(
            Diagnostic::error(7109, format!("`{stage}` is a summary already"))
                .help("leave out what stands after `|`, or ask with `palisade audit search`"),
        ),
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
