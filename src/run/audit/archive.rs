//! What moves old segments to the archive: once a day by itself, and when it is asked.

use std::{
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
    archive::{After, Archive, LastRun, Outcome, Progress, Run, S3},
    log::Log,
};
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};
use tokio::sync::{
    OwnedMutexGuard,
    mpsc::{Sender, error::TrySendError},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{AuditRole, Reader, broken};
use crate::{
    config::archive::{ArchiveSection, Place},
    control::{
        api::{Answer, Fact, FactState, Problem},
        server::PeerUid,
    },
    net::storage,
};

/// Time between two runs.
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// Time until something that was not done is tried again.
const AGAIN: Duration = Duration::from_secs(3600);
/// Time between two looks at the clock, the first of them so long after a start.
const LOOK: Duration = Duration::from_secs(420);
/// The region that servers assume which have none.
const REGION: &str = "us-east-1";

type Turn = Arc<tokio::sync::Mutex<()>>;

/// The archive that `section` names, for the log in `log`.
///
/// # Errors
/// `PLS7580` when it cannot be used.
pub(crate) fn archive_of(section: &ArchiveSection, log: &Path) -> Result<Arc<Archive>, Diagnostic> {
    let wrong = |cause: String| {
        Diagnostic::error(7580, "`audit.archive` cannot be used")
            .cause(cause)
            .help("see docs/operations/archive.md")
    };
    let cache = section.cache_bytes();
    let opened = match section.place()? {
        Place::Folder(folder) => Archive::folder(&folder, log, cache),
        Place::Bucket(bucket, prefix) => {
            match &section.credentials {
                Some(file) => S3::check_credentials(file)
                    .map_err(|cause| wrong(format!("`{}`: {cause}", file.display())))?,
                None if S3::is_in_environment() => {}
                None => {
                    let cause = "there are no credentials: neither a file nor AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, nor AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN";
                    return Err(wrong(cause.into()));
                }
            }
            let s3 = S3 {
                bucket,
                prefix,
                endpoint: section.endpoint.clone(),
                region: section.region.clone().unwrap_or_else(|| REGION.to_owned()),
                credentials: section.credentials.clone(),
                plain: section.is_plain(),
                carry: storage::carry(section.ca.as_deref(), section.endpoint.as_deref())?,
            };
            Archive::bucket(s3, log, cache)
        }
    };
    Ok(Arc::new(opened.map_err(|e| wrong(e.to_string()))?))
}

/// When segments go, and what is known of that. Clones are one.
#[derive(Clone)]
pub(super) struct Archiving(Arc<Inner>);

struct Inner {
    /// Nothing goes where there is no archive.
    after: Option<After>,
    file: PathBuf,
    last: Mutex<Option<LastRun>>,
    /// Why the last run did not begin, and when.
    fault: Mutex<Option<(i64, String)>>,
    /// One run over the segments at a time, whatever it does.
    turn: Turn,
}

/// What `audit archive status` tells.
#[derive(Debug, Serialize, Deserialize)]
pub struct ArchiveStatus {
    /// Its address; none where there is no archive.
    pub url: Option<String>,
    /// How old a segment is when it goes.
    pub after: Option<String>,
    /// Segments that are in the archive alone.
    pub moved: u64,
    /// Their bytes.
    pub moved_bytes: u64,
    /// Segments that are here.
    pub here: u64,
    /// Their bytes.
    pub here_bytes: u64,
    /// Of these, how many were brought back.
    pub back: u64,
    /// Bytes of what was fetched.
    pub cached_bytes: u64,
    /// Segments that were fetched since the start.
    pub fetched: u64,
    /// What the last run came to.
    pub last: Option<LastRun>,
    /// When the next is due, microseconds since the Unix epoch.
    pub next_us: Option<i64>,
    /// What is wrong with the archive, until that is seen to be right again.
    pub fault: Option<String>,
    /// Whether the bucket keeps earlier versions, as far as it has said since the start: what is
    /// deleted there is not gone.
    #[serde(default)]
    pub versions: bool,
}

/// What `audit archive run` asks.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RunArchive {
    /// How old a segment is when it goes, where that is not what the configuration says.
    pub after: Option<String>,
}

/// What `audit archive restore` asks.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Restore {
    /// Records received since, microseconds since the Unix epoch.
    pub from_us: Option<i64>,
    /// Records received until then.
    pub to_us: Option<i64>,
}

/// What `audit archive deleted` says.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Deleted {
    /// The address where objects were deleted by hand.
    pub store: String,
}

/// A line of the answer to them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveLine {
    /// How far it is.
    Progress(Progress),
    /// What it did; the last line.
    Outcome(Outcome),
    /// Why it did not begin; the last line.
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

type Work = Box<dyn FnOnce(&AuditRole, Go<'_>) -> Result<Outcome, Diagnostic> + Send>;
type Go<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

impl Archiving {
    /// That of `section`, with what is known in `dir`; it takes turns with others by `turn`.
    pub(super) fn open(
        section: Option<&ArchiveSection>,
        dir: &Path,
        turn: Turn,
    ) -> Result<Self, Diagnostic> {
        let file = dir.join("archive.json");
        Ok(Self(Arc::new(Inner {
            after: section.map(ArchiveSection::after).transpose()?,
            last: Mutex::new(LastRun::load(&file)),
            file,
            fault: Mutex::default(),
            turn,
        })))
    }

    /// Runs once a day, until `stop`.
    pub(super) fn start(&self, role: &AuditRole, stop: &CancellationToken) {
        if self.0.after.is_some() {
            tokio::spawn(self.clone().follow(role.clone(), stop.clone()));
        }
    }

    async fn follow(self, role: AuditRole, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            if self.next_us().is_none_or(|next| next > role.clock.now_us()) {
                continue;
            }
            let turn = tokio::select! {
                turn = self.0.turn.clone().lock_owned() => turn,
                () = stop.cancelled() => return,
            };
            let (role, stop) = (role.clone(), stop.clone());
            let run = move || {
                let _turn = turn;
                role.archive(None, &mut |_| match stop.is_cancelled() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                })
            };
            match tokio::task::spawn_blocking(run).await {
                Ok(Ok(outcome)) => {
                    let (segments, bytes) = (outcome.segments, outcome.bytes);
                    tracing::info!(segments, bytes, "old segments were moved to the archive");
                }
                Ok(Err(told)) => {
                    tracing::error!(error = %told.message, cause = told.cause, "old segments are not moved to the archive")
                }
                Err(error) => tracing::error!(%error, "old segments are not moved to the archive"),
            }
        }
    }

    /// When the next run is due; none without an archive.
    fn next_us(&self) -> Option<i64> {
        self.0.after.as_ref()?;
        let after = |us: i64, time: Duration| {
            us.saturating_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
        };
        let failed = lock(&self.0.fault).as_ref().map(|(at_us, _)| *at_us);
        let last = lock(&self.0.last);
        let last = last.as_ref().map(|last| {
            let time = if last.is_again() { AGAIN } else { EVERY };
            after(last.ended_us, time)
        });
        Some(match failed {
            Some(at_us) => after(at_us, AGAIN),
            None => last.unwrap_or(i64::MIN),
        })
    }

    /// What is to be told of what was not done.
    pub(super) fn check(&self, log: &Log) -> Vec<Fact> {
        let mut facts = Vec::new();
        let health = log.archive().map(|archive| archive.health());
        if health.as_ref().is_some_and(|health| health.versions) {
            let text = "the bucket of the archive keeps versions: records that retention drops stay in earlier ones";
            facts.push(
                Fact::not_ok("audit", FactState::Warning, 7594, text)
                    .fix("let a rule of the bucket remove earlier versions in time, or use one without: docs/operations/archive.md"),
            );
        }
        if let Some(cause) = health.and_then(|health| health.fault) {
            let text = "a segment could not be had from the archive, or not be put there";
            facts.push(
                Fact::not_ok("audit", FactState::Warning, 7588, text)
                    .cause(cause)
                    .fix("see that the store runs and lets us in: palisade audit archive status"),
            );
        }
        let failed = lock(&self.0.fault).as_ref().map(|(_, why)| why.clone());
        let last = lock(&self.0.last).clone();
        let cause = failed.or(last.and_then(|last| last.outcome.faults.into_iter().next()));
        facts.extend(cause.map(|cause| {
            let text = "old segments are not moved to the archive";
            Fact::not_ok("audit", FactState::Warning, 7589, text)
                .cause(cause)
                .fix("see what stands in the way: palisade audit archive status")
        }));
        facts
    }
}

impl AuditRole {
    pub(super) fn archive_routes(&self) -> Router {
        let (of_status, of_run, of_restore) = (self.clone(), self.clone(), self.clone());
        let of_deleted = self.clone();
        Router::new()
            .route(
                "/v1/audit/archive",
                get(move |ConnectInfo(uid): ConnectInfo<PeerUid>| async move {
                    of_status.archive_status(&Reader::local(uid)).await
                }),
            )
            .route(
                "/v1/audit/archive/run",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<RunArchive>| async move {
                        let how = q.after.clone().unwrap_or_else(|| "by hand".to_owned());
                        let after = q.after.as_deref().map(After::parse).transpose();
                        let work = after.map(|after| -> Work {
                            Box::new(move |role, go| role.archive(after.as_ref(), go))
                        });
                        lines(of_run.work(uid, "archive_run", how, work).await)
                    },
                ),
            )
            .route(
                "/v1/audit/archive/restore",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Restore>| async move {
                        let of = (q.from_us.unwrap_or(i64::MIN), q.to_us.unwrap_or(i64::MAX));
                        let work: Work = Box::new(move |role, go| role.plan().restore(of, go));
                        lines(of_restore.work(uid, "archive_restore", "by hand".to_owned(), Ok(work)).await)
                    },
                ),
            )
            .route(
                "/v1/audit/archive/deleted",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Deleted>| async move {
                        let store = q.store.clone();
                        let work: Work = Box::new(move |role, _| role.plan().written_off(&q.store));
                        lines(of_deleted.work(uid, "archive_deleted", store, Ok(work)).await)
                    },
                ),
            )
    }

    async fn archive_status(self, reader: &Reader) -> Answer<ArchiveStatus> {
        self.reads.note(reader, "archive", "", 1).await?;
        let log = self.log.clone();
        let found = tokio::task::spawn_blocking(move || log.whereabouts()).await;
        let found = found
            .map_err(|e| Problem::from(broken(&e.to_string())))?
            .map_err(|e| Problem::from(e.diagnostic()))?;
        let inner = &self.archiving.0;
        let archive = self.log.archive();
        let health = archive.map(|archive| archive.health()).unwrap_or_default();
        let failed = lock(&inner.fault).as_ref().map(|(_, why)| why.clone());
        let now_us = self.clock.now_us();
        let last = lock(&inner.last).clone();
        let next_us = self.archiving.next_us();
        Ok(Json(ArchiveStatus {
            url: archive.map(|archive| archive.url().to_owned()),
            after: inner.after.as_ref().map(|after| after.text().to_owned()),
            moved: found.moved,
            moved_bytes: found.moved_bytes,
            here: found.here,
            here_bytes: found.here_bytes,
            back: found.back,
            cached_bytes: health.cached_bytes,
            fetched: health.fetched,
            last,
            next_us: next_us.map(|next| next.max(now_us)),
            fault: failed.or(health.fault),
            versions: health.versions,
        }))
    }

    /// Works now, and tells how far it is, line by line. It ends after the segment at hand
    /// when nobody listens any more.
    async fn work(
        self,
        uid: PeerUid,
        verb: &'static str,
        how: String,
        work: Result<Work, Diagnostic>,
    ) -> Result<Response, Diagnostic> {
        let work = work?;
        if self.log.archive().is_none() {
            return Err(Diagnostic::error(7585, "the log has no archive")
                .help("name one: `audit.archive` in the configuration"));
        }
        let Ok(turn) = self.archiving.0.turn.clone().try_lock_owned() else {
            return Err(Diagnostic::error(
                7591,
                "another run over the segments of the log is under way",
            )
            .help("see how it ended: palisade audit archive status, or retention status"));
        };
        self.reads.acted(&uid.to_string(), verb, "", &how).await?;
        let (lines, body) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(4);
        tokio::task::spawn_blocking(move || tell(turn, &lines, |go| work(&self, go)));
        Ok(Body::from_stream(ReceiverStream::new(body)).into_response())
    }

    fn plan(&self) -> Run<'_> {
        Run {
            log: &self.log,
            now: self.clock.now(),
            behind: lock(&self.archiving.0.last)
                .as_ref()
                .and_then(|last| last.outcome.lost_at),
        }
    }

    /// One run, of what is older than `after` or else the configuration says. Blocks.
    fn archive(&self, after: Option<&After>, progress: Go<'_>) -> Result<Outcome, Diagnostic> {
        let inner = &self.archiving.0;
        let Some(after) = after.or(inner.after.as_ref()) else {
            return Ok(Outcome::default());
        };
        let done = self.plan().go(after, progress);
        *lock(&inner.fault) = done.as_ref().err().map(|told| {
            let cause = told.cause.as_ref();
            let cause = cause.map_or(String::new(), |cause| format!(": {cause}"));
            (self.clock.now_us(), format!("{}{cause}", told.message))
        });
        let outcome = done?;
        let last = LastRun {
            ended_us: self.clock.now_us(),
            outcome: outcome.clone(),
        };
        if let Err(error) = last.save(&inner.file) {
            tracing::warn!(%error, "what the last run came to is not kept");
        }
        *lock(&inner.last) = Some(last);
        Ok(outcome)
    }
}

/// Works, and tells in `lines` how far it is; the turn is given back when the work is done.
fn tell(
    turn: OwnedMutexGuard<()>,
    lines: &Sender<std::io::Result<Bytes>>,
    work: impl FnOnce(Go<'_>) -> Result<Outcome, Diagnostic>,
) {
    let line = |line: &ArchiveLine| {
        let mut bytes = serde_json::to_vec(line).unwrap_or_default();
        bytes.push(b'\n');
        Ok(Bytes::from(bytes))
    };
    let done = work(&mut |far| {
        // Who does not read keeps nobody waiting.
        match lines.try_send(line(&ArchiveLine::Progress(far))) {
            Err(TrySendError::Closed(_)) => ControlFlow::Break(()),
            Ok(()) | Err(TrySendError::Full(_)) => ControlFlow::Continue(()),
        }
    });
    drop(turn);
    // Who has gone away is told by the next status.
    let _ = lines.blocking_send(line(&match done {
        Ok(outcome) => ArchiveLine::Outcome(outcome),
        Err(told) => ArchiveLine::Failed {
            code: told.code.0,
            message: told.message.to_string(),
            cause: told.cause.map(|cause| cause.to_string()),
            help: told.help.map(|help| help.to_string()),
        },
    }));
}

fn lines(answer: Result<Response, Diagnostic>) -> Response {
    answer.unwrap_or_else(|told| Problem::from(told).into_response())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

    use super::*;

    /// A client that does not read has no hold on the turn, nor on the work.
    #[tokio::test]
    async fn who_does_not_read_keeps_nobody_waiting() {
        let turns: Turn = Arc::default();
        let turn = turns.clone().lock_owned().await;
        let (lines, mut unread) = tokio::sync::mpsc::channel(2);
        let told = tokio::task::spawn_blocking(move || {
            tell(turn, &lines, |go| {
                for _ in 0..50 {
                    assert!(go(Progress::default()).is_continue());
                }
                Ok(Outcome::default())
            });
        });
        let free = tokio::time::timeout(Duration::from_secs(60), turns.lock()).await;
        drop(free.unwrap());
        // Its last line waits for whoever reads on.
        let mut last = None;
        while let Some(line) = unread.recv().await {
            last = Some(line.unwrap());
        }
        told.await.unwrap();
        let last: ArchiveLine = serde_json::from_slice(&last.unwrap()).unwrap();
        assert!(matches!(last, ArchiveLine::Outcome(_)));
    }

    /// Who has gone away ends it.
    #[tokio::test]
    async fn who_goes_away_ends_the_work() {
        let turn = Turn::default().lock_owned().await;
        let (lines, gone) = tokio::sync::mpsc::channel(2);
        drop(gone);
        let told = tokio::task::spawn_blocking(move || {
            tell(turn, &lines, |go| {
                assert!(go(Progress::default()).is_break());
                Ok(Outcome::default())
            });
        });
        told.await.unwrap();
    }
}
