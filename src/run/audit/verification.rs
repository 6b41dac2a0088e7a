//! Verification of the whole log for readers of the API: a job of which there is one at a
//! time, whoever asks for it. Its progress and its last result are there for all of them.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use palisade_audit::{
    archive::Archive,
    note::Verifier,
    verify::{self, Progress, VerifyOptions, VerifyReport},
};
use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    wire::record::{Admin, Record, record::Body},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    AuditRole, broken,
    reads::{Reader, Reads},
};
use crate::control::api::Problem;

/// The least time from the end of one to the begin of the next, microseconds. Where one took
/// longer, that is: at least half of the time the disk is left to what comes in.
const PAUSE_US: i64 = 60_000_000;

/// The job. Clones are one.
#[derive(Clone, Default)]
pub(super) struct Verifying(Arc<Mutex<Verification>>);

/// How far it is, or what it came to.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Verification {
    state: State,
    /// Who asked for it.
    by: Option<String>,
    /// When it began, RFC 3339.
    begun: Option<String>,
    /// When it ended, RFC 3339.
    ended: Option<String>,
    /// Records that were read.
    records: u64,
    /// Bytes of segments that were read.
    bytes: u64,
    /// Bytes of all segments.
    bytes_total: u64,
    /// Whether every signed byte is as it was signed; not known where not all could be read.
    intact: Option<bool>,
    /// What it came to, as `audit verify -o json` has it.
    report: Option<Value>,
    /// The last one before it that came to a result.
    last: Option<Ended>,
}

/// A verification that came to a result.
#[derive(Debug, Clone, Serialize)]
struct Ended {
    /// Who asked for it.
    by: Option<String>,
    /// When it began, RFC 3339.
    begun: Option<String>,
    /// When it ended, RFC 3339.
    ended: Option<String>,
    /// Whether every signed byte is as it was signed.
    intact: bool,
}

/// What a job is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Done,
    Failed,
    #[default]
    Never,
    Running,
}

impl AuditRole {
    /// How the verification stands.
    ///
    /// # Errors
    /// `PLS7901` when the read cannot be recorded.
    pub(super) async fn verification(self, reader: Reader) -> Result<Verification, Problem> {
        self.reads.note(&reader, "verify", "status", 0).await?;
        Ok(self.verifying.lock().clone())
    }

    /// Begins a verification, where none is at work, and tells how it stands. What it comes
    /// to is a record of the log.
    ///
    /// # Errors
    /// `PLS7901` when the read cannot be recorded, `PLS7910` so soon after another.
    pub(super) async fn begin_verification(self, reader: Reader) -> Result<Verification, Problem> {
        self.reads.note(&reader, "verify", "", 0).await?;
        let verifying = self.verifying.clone();
        let told = {
            let mut now = verifying.lock();
            if now.state == State::Running {
                return Ok(now.clone());
            }
            *now = now.next(reader.actor(), &self.clock)?;
            now.clone()
        };
        let work = Work {
            // Whatever becomes of it, the next one can begin.
            ending: Ending(self.verifying.clone(), self.clock.clone()),
            dir: self.dir.join("log"),
            // The key that this service signs with, not the one that lies in the folder.
            key: self.log.verifier().clone(),
            archive: self.log.archive().cloned(),
            by: reader.actor().to_owned(),
        };
        let reads = self.reads.while_open();
        // A thread of its own: it may take minutes, and nobody waits for it at the end, nor
        // does it keep the log open.
        let begun = std::thread::Builder::new().name("verify".to_owned());
        if let Err(error) = begun.spawn(move || work.done(reads)) {
            return Err(broken(&error.to_string()).into());
        }
        Ok(told)
    }
}

/// One verification.
struct Work {
    ending: Ending,
    dir: PathBuf,
    key: Verifier,
    archive: Option<Arc<Archive>>,
    by: String,
}

impl Work {
    fn done(self, reads: impl Fn() -> Option<Reads>) {
        let mut tell = |progress: Progress| self.ending.0.tell(progress);
        let options = VerifyOptions {
            key: Some(self.key.clone()),
            archive: self.archive.clone(),
            progress: Some(&mut tell),
            ..VerifyOptions::default()
        };
        let report = verify::verify(&self.dir, options);
        let findings = wide(report.findings.len()).saturating_add(report.findings_more);
        match report.verdict() {
            Some(true) => {}
            Some(false) => tracing::error!(findings, "the log is not as it was signed"),
            None => tracing::warn!(findings, "not all of the log could be read in its archive"),
        }
        let stated = Admin {
            actor: self.by.clone(),
            verb: "log_verified".to_owned(),
            object: match report.verdict() {
                Some(true) => "intact",
                Some(false) => "damaged",
                None => "unread",
            }
            .to_owned(),
            detail: format!("{} records, {findings} findings", report.records),
        };
        let record = Record {
            body: Some(Body::Admin(stated)),
            ..Record::default()
        };
        let kept = reads().map(|reads| reads.tell(record));
        if let Some(Err(error)) = kept {
            tracing::error!(%error, "the result of a verification left no record");
        }
        self.ending.0.end(&report);
    }
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl Verification {
    /// The one after this, asked for by somebody.
    fn next(&self, by: &str, clock: &Clock) -> Result<Self, Diagnostic> {
        let now = clock.now();
        let at = |text: &Option<String>| text.as_ref()?.parse::<jiff::Timestamp>().ok();
        if let (Some(begun), Some(ended)) = (at(&self.begun), at(&self.ended)) {
            let took = ended.as_microsecond() - begun.as_microsecond();
            let since = now.as_microsecond() - ended.as_microsecond();
            // A clock that was set back does not bar it.
            if (0..took.max(PAUSE_US)).contains(&since) {
                return Err(Diagnostic::error(7910, "the log was verified just now")
                    .cause(format!("the last verification ended at {ended}"))
                    .help("see what it came to: GET /v1/audit/verify; or ask again later"));
            }
        }
        Ok(Self {
            state: State::Running,
            by: Some(by.to_owned()),
            begun: Some(now.to_string()),
            last: self.result(),
            ..Self::default()
        })
    }

    /// The newest result that is known.
    fn result(&self) -> Option<Ended> {
        match self.intact {
            None => self.last.clone(),
            Some(intact) => Some(Ended {
                by: self.by.clone(),
                begun: self.begun.clone(),
                ended: self.ended.clone(),
                intact,
            }),
        }
    }
}

/// Marks what has not come to its end as failed when it is dropped.
struct Ending(Verifying, Clock);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut now = self.0.lock();
        if now.state == State::Running {
            now.state = State::Failed;
        }
        now.ended = Some(self.1.now().to_string());
    }
}

impl Verifying {
    /// When the last one that came to a result ended, microseconds since the Unix epoch, and
    /// whether it found every signed byte as it was signed; nothing before there was one.
    pub(super) fn last(&self) -> Option<(i64, bool)> {
        let last = self.lock().result()?;
        let ended: jiff::Timestamp = last.ended.as_ref()?.parse().ok()?;
        Some((ended.as_microsecond(), last.intact))
    }

    fn tell(&self, progress: Progress) {
        let mut now = self.lock();
        (now.records, now.bytes) = (progress.records, progress.bytes);
        now.bytes_total = progress.bytes_total;
    }

    fn end(&self, report: &VerifyReport) {
        let value = serde_json::to_value(report);
        let mut now = self.lock();
        now.intact = report.verdict();
        now.state = match &value {
            Ok(_) => State::Done,
            Err(_) => State::Failed,
        };
        now.report = value.ok();
    }

    fn lock(&self) -> MutexGuard<'_, Verification> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(intact: Option<bool>) -> Verification {
        let long_ago = Some("2020-01-01T00:00:00Z".to_owned());
        Verification {
            state: if intact.is_some() {
                State::Done
            } else {
                State::Failed
            },
            begun: long_ago.clone(),
            ended: long_ago,
            intact,
            ..Verification::default()
        }
    }

    /// Damage that was found is told until another one came to a result, whatever begins
    /// or fails meanwhile.
    #[test]
    fn a_result_stays_until_there_is_another() {
        let verifying = Verifying::default();
        assert!(verifying.last().is_none());
        *verifying.lock() = ended(Some(false));
        let found = verifying.last();
        assert_eq!(found.map(|(_, intact)| intact), Some(false));
        for _ in 0..2 {
            let next = verifying.lock().next("a", &Clock::system()).unwrap();
            assert_eq!(next.state, State::Running);
            *verifying.lock() = next;
            assert_eq!(verifying.last(), found);
            let mut now = verifying.lock();
            let failed = ended(None);
            (now.state, now.begun, now.ended) = (failed.state, failed.begun, failed.ended);
            drop(now);
            assert_eq!(verifying.last(), found);
        }
        let next = verifying.lock().next("a", &Clock::system()).unwrap();
        let done = Verification {
            last: next.last,
            ..ended(Some(true))
        };
        *verifying.lock() = done;
        assert_eq!(verifying.last().map(|(_, intact)| intact), Some(true));
    }
}
