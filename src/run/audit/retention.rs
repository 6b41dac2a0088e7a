//! What drops records whose time is over: once a day by itself, and when it is asked.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::ConnectInfo,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use bytes::Bytes;
use palisade_audit::{
    log::Log,
    retention::{LastRun, Ledger, Outcome, Periods, Progress, Run, Turn},
};
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::error::TrySendError;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{AuditRole, Reader};
use crate::{
    config::AuditSection,
    control::{
        api::{Answer, Fact, FactState, Problem},
        server::PeerUid,
    },
};

/// Time between two runs.
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// Time until something that was not done is tried again.
const AGAIN: Duration = Duration::from_secs(3600);
/// Time between two looks at the clock, the first of them so long after a start: what waits
/// then goes first.
const LOOK: Duration = Duration::from_secs(300);

/// How long records are kept, and what is known of that. Clones are one.
#[derive(Clone)]
pub(super) struct Retention(Arc<Inner>);

struct Inner {
    periods: Periods,
    file: PathBuf,
    ledger: Mutex<Ledger>,
    /// Why the last run ended before its end, and when.
    fault: Mutex<Option<(i64, String)>>,
    /// One run at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What `audit retention status` tells.
#[derive(Debug, Serialize, Deserialize)]
pub struct RetentionStatus {
    /// The classes that are not kept for ever.
    pub periods: Vec<Kept>,
    /// What was dropped.
    pub dropped: Vec<DroppedSoFar>,
    /// What the last run came to.
    pub last: Option<LastRun>,
    /// When the next is due, microseconds since the Unix epoch; never without periods.
    pub next_us: Option<i64>,
    /// Why the last one ended before its end.
    pub fault: Option<String>,
}

/// How long a class is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The class.
    pub class: String,
    /// How long, as it was written.
    pub period: String,
    /// What was received before is over now, microseconds since the Unix epoch.
    pub over_before_us: Option<i64>,
}

/// Records of a class that were dropped since the log began.
#[derive(Debug, Serialize, Deserialize)]
pub struct DroppedSoFar {
    /// The class.
    pub class: String,
    /// How many.
    pub records: u64,
    /// When the last of them happened, microseconds since the Unix epoch.
    pub until_us: i64,
}

/// What `audit retention run` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunRetention {
    /// Tell what would be done, and do nothing.
    pub dry_run: bool,
    /// The clock is right though it has leapt.
    #[serde(default)]
    pub trust_clock: bool,
}

/// A line of the answer to it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetentionLine {
    /// How far it is.
    Progress(Progress),
    /// What it did; the last line.
    Outcome(Outcome),
    /// Why it ended; the last line.
    Failed {
        /// The code.
        code: u16,
        /// What is wrong.
        message: String,
        /// Why.
        cause: Option<String>,
        /// What to do.
        help: Option<String>,
    },
}

impl Retention {
    /// That of `section`, with what is known in `dir` of `log`.
    pub(super) fn open(
        section: &AuditSection,
        dir: &Path,
        log: &Log,
    ) -> Result<Self, Vec<Diagnostic>> {
        let file = dir.join("retention.json");
        Ok(Self(Arc::new(Inner {
            periods: section.retention.periods()?,
            ledger: Mutex::new(Ledger::load(&file, log)),
            file,
            fault: Mutex::default(),
            turn: Arc::default(),
        })))
    }

    /// Held by who works on the segments.
    pub(super) fn turn(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.0.turn.clone()
    }

    /// Runs once a day, until `stop`.
    pub(super) fn start(&self, role: &AuditRole, stop: &CancellationToken) {
        if !self.0.periods.is_empty() {
            tokio::spawn(self.clone().follow(role.clone(), stop.clone()));
        }
    }

    async fn follow(self, role: AuditRole, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            let due_us = self.next_us().unwrap_or(i64::MIN);
            if due_us <= role.clock.now_us() {
                let turn = tokio::select! {
                    turn = self.0.turn.clone().lock_owned() => turn,
                    () = stop.cancelled() => return,
                };
                let (role, stop) = (role.clone(), stop.clone());
                let run = move || {
                    let _turn = turn;
                    role.retain(false, false, &mut |_| match stop.is_cancelled() {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    })
                };
                match tokio::task::spawn_blocking(run).await {
                    Ok(Ok(outcome)) => {
                        let (records, bytes) = (outcome.records(), outcome.bytes);
                        tracing::info!(records, bytes, "records whose time is over were dropped");
                    }
                    Ok(Err(told)) => {
                        tracing::error!(error = %told.message, cause = told.cause, "records whose time is over are not dropped")
                    }
                    Err(error) => {
                        tracing::error!(%error, "records whose time is over are not dropped")
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// When the next run is due; none without periods.
    fn next_us(&self) -> Option<i64> {
        let failed = lock(&self.0.fault).as_ref().map(|(at_us, _)| *at_us);
        let next = due_us(&lock(&self.0.ledger), failed);
        (!self.0.periods.is_empty()).then_some(next)
    }

    /// What is to be told of what was not done.
    pub(super) fn check(&self) -> Vec<Fact> {
        let failed = lock(&self.0.fault).as_ref().map(|(_, why)| why.clone());
        let last = lock(&self.0.ledger).last.clone();
        let cause = failed.or(last.and_then(|last| last.faults.into_iter().next()));
        let told = |cause| {
            let text = "records whose time is over are not dropped";
            Fact::not_ok("audit", FactState::Warning, 7576, text)
                .cause(cause)
                .fix("see what stands in the way: palisade audit retention status")
        };
        cause.map(told).into_iter().collect()
    }
}

impl AuditRole {
    pub(super) fn retention_routes(&self) -> Router {
        let (of_status, of_run) = (self.clone(), self.clone());
        Router::new()
            .route(
                "/v1/audit/retention",
                get(move |ConnectInfo(uid): ConnectInfo<PeerUid>| async move {
                    of_status.retention_status(&Reader::local(uid)).await
                }),
            )
            .route(
                "/v1/audit/retention/run",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<RunRetention>| async move {
                        match of_run.run_retention(uid, &q).await {
                            Ok(lines) => lines,
                            Err(told) => Problem::from(told).into_response(),
                        }
                    },
                ),
            )
    }

    async fn retention_status(self, reader: &Reader) -> Answer<RetentionStatus> {
        self.reads.note(reader, "retention", "", 1).await?;
        let inner = &self.retention.0;
        let now = self.clock.now();
        let periods = inner.periods.each().map(|(class, period)| Kept {
            class: class.to_owned(),
            period: period.to_owned(),
            over_before_us: inner.periods.over_before_us(class, now),
        });
        let mut dropped: BTreeMap<&str, (u64, i64)> = BTreeMap::new();
        let lacking = self.log.lacking();
        for part in lacking.iter().flat_map(|lacking| &lacking.dropped) {
            let (records, until_us) = dropped.entry(part.class).or_insert((0, i64::MIN));
            *records += part.records;
            *until_us = part.last_us.max(*until_us);
        }
        let dropped = dropped.into_iter();
        let dropped = dropped.map(|(class, (records, until_us))| DroppedSoFar {
            class: class.to_owned(),
            records,
            until_us,
        });
        let next_us = self.retention.next_us();
        Ok(Json(RetentionStatus {
            periods: periods.collect(),
            dropped: dropped.collect(),
            last: lock(&inner.ledger).last.clone(),
            next_us: next_us.map(|next| next.max(now.as_microsecond())),
            fault: lock(&inner.fault).as_ref().map(|(_, why)| why.clone()),
        }))
    }

    /// Runs now, and tells how far it is, line by line. It ends after the segment at hand
    /// when nobody listens any more.
    async fn run_retention(
        self,
        uid: PeerUid,
        asked: &RunRetention,
    ) -> Result<Response, Diagnostic> {
        let turn = self.retention.0.turn.clone();
        let Ok(turn) = turn.try_lock_owned() else {
            return Err(
                Diagnostic::error(7577, "another retention run is under way")
                    .help("see how it ended: palisade audit retention status"),
            );
        };
        self.holds.held(self.clock.now_us())?;
        let (dry, sure) = (asked.dry_run, asked.trust_clock);
        let (actor, verb) = (uid.to_string(), "retention_run");
        let how = match sure {
            true => "by hand, trusting the clock",
            false => "by hand",
        };
        match dry {
            true => {
                self.reads
                    .note(&Reader::local(uid), "retention", "", 1)
                    .await?
            }
            false => self.reads.acted(&actor, verb, "", how).await?,
        }
        let (lines, body) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(4);
        tokio::task::spawn_blocking(move || {
            let line = |line: &RetentionLine| {
                let mut bytes = serde_json::to_vec(line).unwrap_or_default();
                bytes.push(b'\n');
                Ok(Bytes::from(bytes))
            };
            let run = self.retain(dry, sure, &mut |far| {
                // Who does not read keeps nobody waiting.
                match lines.try_send(line(&RetentionLine::Progress(far))) {
                    Err(TrySendError::Closed(_)) => ControlFlow::Break(()),
                    Ok(()) | Err(TrySendError::Full(_)) => ControlFlow::Continue(()),
                }
            });
            drop(turn);
            // Who has gone away is told by the next status.
            let _ = lines.blocking_send(line(&match run {
                Ok(outcome) => RetentionLine::Outcome(outcome),
                Err(told) => RetentionLine::Failed {
                    code: told.code.0,
                    message: told.message.to_string(),
                    cause: told.cause.map(|cause| cause.to_string()),
                    help: told.help.map(|help| help.to_string()),
                },
            }));
        });
        Ok(Body::from_stream(ReceiverStream::new(body)).into_response())
    }

    /// One run. Blocks; what is ordered of holds and erasures goes on between two segments.
    fn retain(
        &self,
        dry: bool,
        sure: bool,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, Diagnostic> {
        let inner = &self.retention.0;
        let mut ledger = lock(&inner.ledger).clone();
        let now = self.clock.now();
        let run = Run {
            log: &self.log,
            periods: &inner.periods,
            now,
            dry,
            sure,
        };
        let mut turn = || {
            let guard = Some(self.orders.clone().blocking_lock_owned());
            // A clock that goes ahead meanwhile ends no hold.
            let now_us = self.clock.now_us().min(now.as_microsecond());
            let holds = self.holds.held(now_us)?;
            Ok(Turn { holds, guard })
        };
        let outcome = run.go(&mut ledger, &mut turn, progress);
        if dry {
            return outcome;
        }
        *lock(&inner.fault) = outcome.as_ref().err().map(|told| {
            let cause = told
                .cause
                .as_ref()
                .map_or(String::new(), |c| format!(": {c}"));
            (self.clock.now_us(), format!("{}{cause}", told.message))
        });
        if let Err(error) = ledger.save(&inner.file) {
            tracing::warn!(%error, "what is known of segments is not kept; it is found out again");
        }
        *lock(&inner.ledger) = ledger;
        outcome
    }
}

/// When the next run is due after what is known of the last one, and after one that ended at
/// `failed`, microseconds since the Unix epoch. What is damaged or lost is not looked for
/// every hour: with a hold in force that would be the whole log.
fn due_us(ledger: &Ledger, failed: Option<i64>) -> i64 {
    let after = |us: i64, soon: bool| {
        let time = if soon { AGAIN } else { EVERY };
        us.saturating_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
    };
    match (failed, &ledger.last) {
        (Some(at_us), _) => after(at_us, !ledger.damaged),
        (None, Some(last)) => after(last.ended_us, last.is_again()),
        (None, None) => i64::MIN,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

    use super::*;

    /// What a person has to mend is tried once a day, what may go by itself within the hour.
    #[test]
    fn what_is_damaged_is_not_tried_every_hour() {
        let hours = |ledger: &Ledger, failed| due_us(ledger, failed) / 3_600_000_000;
        let known = |last: serde_json::Value, damaged: bool| -> Ledger {
            let ledger = serde_json::json!({
                "version": 2, "log": "", "segments": {}, "last": last, "damaged": damaged,
            });
            serde_json::from_value(ledger).unwrap()
        };
        let last = |faults: &[&str], again: bool, interrupted: bool| {
            serde_json::json!({
                "ended_us": 0, "records": 0, "bytes": 0,
                "faults": faults, "again": again, "interrupted": interrupted,
            })
        };
        for (last, after) in [
            (last(&[], false, false), 24),
            (last(&["it is lost"], false, false), 24),
            (last(&["the store is away"], true, false), 1),
            (last(&[], false, true), 1),
        ] {
            assert_eq!(hours(&known(last.clone(), false), None), after, "{last}");
        }
        // One that a version wrote which did not tell them apart.
        for (faults, after) in [(&[][..], 24), (&["the store is away"], 1)] {
            let mut last = last(faults, false, false);
            last.as_object_mut().unwrap().remove("again");
            assert_eq!(hours(&known(last, false), None), after, "{faults:?}");
        }
        assert_eq!(
            due_us(&known(serde_json::Value::Null, false), None),
            i64::MIN
        );
        let ended = last(&[], false, false);
        assert_eq!(hours(&known(ended.clone(), false), Some(0)), 1);
        assert_eq!(
            hours(&known(ended, true), Some(0)),
            24,
            "what is held is lost"
        );
    }
}
