//! Reports that are due: made by the audit service itself, put into a folder, told to whom
//! it may concern.
//!
//! What a schedule missed while nobody ran is made up for once. Each run is a record.

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::ConnectInfo,
    routing::{get, post},
};
use bytes::Bytes;
use jiff::Timestamp;
use palisade_audit::{
    going::Ended,
    index::StoreError,
    report::{
        Report,
        schedule::{Cron, Span},
    },
};
use palisade_mesh::{
    clock::Clock,
    diagnostic::{Diagnostic, did_you_mean},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    Asker, AuditRole, PackReport, RunReport,
    attended::{told, turn_of},
    blocking, broken,
    deliver::Outbox,
    reports::{Desk, attached, encoded},
    state::{Lost, keep, read},
};
use crate::{
    cli::report::{
        behind,
        files::{self, Format},
    },
    config::{
        AuditSection,
        schedules::{FormatWord, ScheduleSection},
    },
    control::{
        api::{Fact, FactState, Problem},
        server::PeerUid,
    },
};

/// How the log says that a report was made: a record of the service itself, about the schedule.
pub(super) const MADE: &str = "report_made";
/// Time between two looks at the clock.
const EVERY: Duration = Duration::from_secs(1);
/// How long after it is due a report is made: what reporters still had at the end of its
/// period arrives.
const GRACE: Duration = Duration::from_secs(60);
/// How long a checkpoint over what the log has by then is waited for.
const CHECKPOINT_TIME_MAX: Duration = Duration::from_secs(60);
/// Names that are tried where files of the same moment are there.
const NAMES_MAX: u32 = 20;

/// The schedules. Clones are one.
#[derive(Clone)]
pub(super) struct Schedules(Arc<Inner>);

struct Inner {
    each: Vec<Schedule>,
    file: PathBuf,
    clock: Clock,
    outbox: Outbox,
    actor: String,
    last: Mutex<BTreeMap<String, Last>>,
}

struct Schedule {
    section: ScheduleSection,
    cron: Cron,
    span: Span,
}

/// The last run of a schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// What was due last, microseconds since the Unix epoch; the first start where nothing
    /// was.
    pub due_us: i64,
    /// When the last run ended, microseconds since the Unix epoch.
    pub made_us: Option<i64>,
    /// The files it wrote.
    pub files: Vec<String>,
    /// Why it did not.
    pub fault: Option<String>,
}

impl Schedules {
    /// Those of `section`, with what is known of their last runs in `dir`.
    pub(super) fn open(
        section: &AuditSection,
        dir: &Path,
        outbox: Outbox,
        actor: String,
        clock: &Clock,
        lost: &mut Vec<Lost>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let each = section.schedules.iter().map(|section| {
            let (cron, span) = section.parsed().map_err(|d| vec![d])?;
            Ok::<_, Vec<Diagnostic>>(Schedule {
                section: section.clone(),
                cron,
                span,
            })
        });
        let each = each.collect::<Result<Vec<_>, _>>()?;
        let file = dir.join("schedules.json");
        let mut last: BTreeMap<String, Last> = read(&file, lost).unwrap_or_default();
        last.retain(|name, _| each.iter().any(|s| s.section.name == *name));
        for schedule in &each {
            let name = schedule.section.name.clone();
            // A new one makes nothing up.
            last.entry(name).or_insert_with(|| Last {
                due_us: clock.now_us(),
                ..Last::default()
            });
        }
        Ok(Self(Arc::new(Inner {
            each,
            file,
            clock: clock.clone(),
            outbox,
            actor,
            last: Mutex::new(last),
        })))
    }

    /// Makes what is due, until `stop`.
    pub(super) fn start(&self, role: &AuditRole, stop: &CancellationToken) {
        if !self.0.each.is_empty() {
            let making = self.clone().follow(role.clone());
            tokio::spawn(stop.clone().run_until_cancelled_owned(making));
        }
    }

    async fn follow(self, role: AuditRole) {
        let inner = &*self.0;
        // A new schedule begins now, also if nothing is due before the next start.
        let kept = self.keep();
        if let Err(error) = kept {
            tracing::error!(%error, "the last runs of schedules cannot be kept");
        }
        loop {
            for schedule in &inner.each {
                let last = inner.last().get(&schedule.section.name).cloned();
                // A clock that was ahead had made what is not due yet.
                let since = last.unwrap_or_default().due_us.min(inner.clock.now_us());
                let until = inner.clock.now().checked_sub(GRACE);
                let until = until.unwrap_or(Timestamp::MIN);
                if let Some((due, missed)) = schedule.cron.missed(moment(since), until) {
                    let made = self.make_due(&role, schedule, (due, missed)).await;
                    if let Err(error) = made {
                        tracing::error!(schedule = schedule.section.name, %error, "report is not made");
                    }
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Makes one report that is due when it is its turn. When this is dropped, the service ends,
    /// and the report is given up.
    async fn make_due(
        &self,
        role: &AuditRole,
        schedule: &Schedule,
        due: (Timestamp, u64),
    ) -> Result<Last, Diagnostic> {
        let turn = role.reporting.clone().acquire_owned().await;
        let _turn = turn.map_err(|e| broken(&e.to_string()))?;
        let asker = Asker::default();
        let role = role.heeding(asker.going());
        self.make(&role, schedule, due, &self.0.actor).await
    }

    /// Makes one report, for so many moments that were due, none by hand; and records and
    /// tells what came of it.
    async fn make(
        &self,
        role: &AuditRole,
        schedule: &Schedule,
        (due, missed): (Timestamp, u64),
        actor: &str,
    ) -> Result<Last, Diagnostic> {
        let section = &schedule.section;
        let made = self.written(role, schedule, due).await;
        // Whoever gave it up by hand knows; what is due is due all the same.
        if role.store.going().has_ended() && made.is_err() {
            return Err(Ended.diagnostic());
        }
        let (last, complete) = match &made {
            Ok((files, report)) => (
                Last {
                    files: files.iter().map(|f| f.display().to_string()).collect(),
                    ..Last::default()
                },
                Some(report.header.complete),
            ),
            Err(fault) => (
                Last {
                    fault: Some(fault.cause.clone().unwrap_or_else(|| fault.message.clone())),
                    ..Last::default()
                },
                None,
            ),
        };
        let due_us = match missed {
            // By hand: what is due is due all the same.
            0 => self
                .0
                .last()
                .get(&section.name)
                .map_or(0, |last| last.due_us),
            _ => due.as_microsecond(),
        };
        let last = Last {
            due_us,
            made_us: Some(self.0.clock.now_us()),
            ..last
        };
        // This process does not make it again, whatever becomes of the rest.
        self.0.last().insert(section.name.clone(), last.clone());
        let more = match missed {
            0 | 1 => String::new(),
            n => format!(", for {n} that were due"),
        };
        let (verb, what) = match &last.fault {
            None => (MADE, last.files.join(", ")),
            Some(fault) => ("report_failed", fault.clone()),
        };
        let detail = format!(
            "{} {}, due {due:.0}{more}: {what}",
            section.report, section.period
        );
        role.reads
            .acted(actor, verb, &section.name, &detail)
            .await?;
        let body = json!({
            "kind": "report",
            "id": format!("{}-{}", section.name, due.as_second()),
            "schedule": section.name,
            "report": section.report,
            "due": due.to_string(),
            "files": last.files,
            "complete": complete,
            "error": last.fault,
        });
        let id = format!("{}-{}", section.name, due.as_second());
        let by = (&role.reads, self.0.actor.as_str());
        let put = self.0.outbox.tell(&id, &section.deliver, &body, by);
        put.await.map_err(|e| broken(&e.to_string()))?;
        // On disk last: what a crash comes before is done again.
        self.keep().map_err(|e| broken(&e.to_string()))?;
        Ok(last)
    }

    async fn written(
        &self,
        role: &AuditRole,
        schedule: &Schedule,
        due: Timestamp,
    ) -> Result<(Vec<PathBuf>, Report), Diagnostic> {
        let section = &schedule.section;
        let period = schedule.cron.period(&schedule.span, due);
        let asked = RunReport {
            name: section.report.clone(),
            period: period.ok_or_else(|| broken("the period cannot be computed"))?,
            scope: section.scope.clone(),
            to: String::new(),
        };
        let (working, section) = (role.clone(), section.clone());
        // The record of the run names it; nobody was given any row. The checkpoint is taken
        // before the index catches up, so that it has everything under it.
        let whole = signed(&working).await;
        let checkpoint = working.log.checkpoint();
        working.catch_up().await.map_err(Diagnostic::from)?;
        let desk_of = working.clone();
        let made = blocking(move || {
            let dir = desk_of.dir.join("log");
            let mut report = desk_of.desk(&dir).run_under(&checkpoint, &asked)?;
            if let Some(lack) = behind(&report).filter(|_| !whole) {
                report.header.lacks.push(lack);
                report.header.complete = false;
            }
            Ok(report)
        });
        let (report, of) = working.joined(made.await?).await?;
        let written = blocking(move || {
            let dir = working.dir.join("log");
            let of = of.iter().map(|of| attached(&of.compiled().bundle));
            let told = (&report, of.collect());
            let all = put(&working.desk(&dir), &section, &told, due)?;
            Ok((all, report))
        });
        written.await.map_err(Diagnostic::from)
    }

    fn keep(&self) -> std::io::Result<()> {
        let last = self.0.last();
        keep(&self.0.file, &*last)
    }

    fn listed(&self) -> Vec<Scheduled> {
        let now = self.0.clock.now();
        let last = self.0.last();
        let scheduled = |schedule: &Schedule| {
            let section = &schedule.section;
            Scheduled {
                name: section.name.clone(),
                report: section.report.clone(),
                period: section.period.clone(),
                cron: section.cron.clone(),
                zone: section.zone.clone(),
                next_us: schedule.cron.after(now).map(Timestamp::as_microsecond),
                last: last.get(&section.name).cloned().unwrap_or_default(),
            }
        };
        self.0.each.iter().map(scheduled).collect()
    }

    /// What is to be told of reports that could not be made.
    pub(super) fn check(&self) -> Vec<Fact> {
        let failed = self.listed().into_iter().filter_map(|scheduled| {
            let fault = scheduled.last.fault?;
            let text = format!("the scheduled report `{}` was not made", scheduled.name);
            let again = format!(
                "mend it, then: palisade report schedule run {}",
                scheduled.name
            );
            Some(
                Fact::not_ok("audit", FactState::Warning, 7942, text)
                    .cause(fault)
                    .fix(again),
            )
        });
        failed.collect()
    }

    async fn run_now(
        self,
        role: AuditRole,
        actor: &str,
        asked: RunSchedule,
    ) -> Result<Bytes, Problem> {
        let inner = &*self.0;
        let found = inner.each.iter().find(|s| s.section.name == asked.name);
        let schedule = found.ok_or_else(|| inner.unknown(&asked.name))?;
        let last = self
            .make(&role, schedule, (inner.clock.now(), 0), actor)
            .await?;
        match last.fault {
            Some(fault) => Err(Diagnostic::error(
                7942,
                format!("the scheduled report `{}` was not made", asked.name),
            )
            .cause(fault)
            .help("mend it and try again")
            .into()),
            None => {
                let one = self.listed().into_iter().find(|s| s.name == asked.name);
                let one = one.ok_or_else(|| broken("a schedule is gone"))?;
                encoded(&one)
            }
        }
    }

    pub(super) fn routes(&self, role: &AuditRole) -> Router {
        let (of_list, of_run, role) = (self.clone(), self.clone(), role.clone());
        Router::new()
            .route(
                "/v1/audit/schedules",
                get(move || async move { Json(of_list.listed()) }),
            )
            .route(
                "/v1/audit/schedules/run",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<RunSchedule>| async move {
                        let work = |role| async move {
                            of_run.run_now(role, &uid.to_string(), q).await
                        };
                        told(&role, turn_of(&role.reporting), work)
                    },
                ),
            )
    }
}

impl Inner {
    fn last(&self) -> MutexGuard<'_, BTreeMap<String, Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unknown(&self, name: &str) -> Diagnostic {
        let near = did_you_mean(name, self.each.iter().map(|s| s.section.name.as_str()));
        Diagnostic::error(7941, format!("there is no schedule `{name}`")).help(near.map_or_else(
            || "palisade report schedule list has all; write some: `audit.schedules`".to_owned(),
            |near| format!("did you mean `{near}`?"),
        ))
    }
}

/// Waits until everything that the log has now is under a checkpoint; whether it is.
async fn signed(role: &AuditRole) -> bool {
    let len = role.log.len();
    let mut newest = role.log.subscribe_checkpoints();
    let covered = newest.wait_for(|checkpoint| checkpoint.size >= len);
    tokio::select! {
        covered = tokio::time::timeout(CHECKPOINT_TIME_MAX, covered) => matches!(covered, Ok(Ok(_))),
        () = role.store.going().gone() => false,
    }
}

/// Writes a report in the forms of a schedule, under names that are free.
fn put(
    desk: &Desk<'_>,
    section: &ScheduleSection,
    told: &Told<'_>,
    due: Timestamp,
) -> Result<Vec<PathBuf>, StoreError> {
    let stem = format!("{}-{}", section.name, due.strftime("%Y%m%dT%H%M%SZ"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&section.folder)?;
    for n in 1..=NAMES_MAX {
        let stem = match n {
            1 => stem.clone(),
            n => format!("{stem}-{n}"),
        };
        let all = forms(desk, section, told, &stem)?;
        // From here on it is whole, or not there.
        desk.store.going().ask()?;
        if all.iter().all(|(path, _)| files::free(path).is_ok()) {
            for (path, bytes) in &all {
                files::put(path, bytes)?;
            }
            return Ok(all.into_iter().map(|(path, _)| path).collect());
        }
    }
    let taken = std::io::Error::other(format!("{NAMES_MAX} reports of `{stem}` are there"));
    Err(taken.into())
}

/// A report, and the files that go with it.
type Told<'r> = (&'r Report, BTreeMap<String, String>);

/// All files of a report; each is made before the first is written.
fn forms(
    desk: &Desk<'_>,
    section: &ScheduleSection,
    (report, attached): &Told<'_>,
    stem: &str,
) -> Result<Vec<(PathBuf, Vec<u8>)>, StoreError> {
    let mut all = Vec::new();
    for format in &section.formats {
        let to = section.folder.join(format!("{stem}.{}", ending(*format)));
        let format = match format {
            FormatWord::Csv => Format::Csv,
            FormatWord::Html => Format::Html,
            FormatWord::Json => Format::Json,
            FormatWord::Oscal => Format::Oscal,
            FormatWord::Pdf => Format::Pdf,
            FormatWord::Xlsx => Format::Xlsx,
            FormatWord::Package => {
                let packed = desk.pack(&PackReport {
                    report: (*report).clone(),
                    attached: attached.clone(),
                    records_max: section.records_max,
                    to: String::new(),
                })?;
                all.push((to, packed));
                continue;
            }
        };
        all.extend(files::contents(report, &to, format)?);
    }
    Ok(all)
}

fn moment(us: i64) -> Timestamp {
    Timestamp::from_microsecond(us).unwrap_or_default()
}

fn ending(format: FormatWord) -> &'static str {
    match format {
        FormatWord::Csv => "csv",
        FormatWord::Html => "html",
        FormatWord::Json => "json",
        FormatWord::Oscal => "oscal.json",
        FormatWord::Package => "tar.zst",
        FormatWord::Pdf => "pdf",
        FormatWord::Xlsx => "xlsx",
    }
}

/// A schedule and how it stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct Scheduled {
    /// Its name.
    pub name: String,
    /// Which report.
    pub report: String,
    /// What it is about.
    pub period: String,
    /// When.
    pub cron: String,
    /// In which time zone.
    pub zone: String,
    /// When it is due next, microseconds since the Unix epoch.
    pub next_us: Option<i64>,
    /// Its last run.
    pub last: Last,
}

/// What `report schedule run` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunSchedule {
    /// Which.
    pub name: String,
}
