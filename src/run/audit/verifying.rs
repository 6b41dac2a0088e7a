//! Verification of the whole log for readers of the API: a job of which there is one at a
//! time, whoever asks for it. Its progress and its last result are there for all of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palisade_audit::verify::{self, Progress, VerifyOptions, VerifyReport};
use palisade_mesh::clock::Clock;
use serde::Serialize;
use serde_json::Value;

use super::{AuditRole, broken, reads::Reader};
use crate::control::api::Problem;

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
    /// Whether every signed byte is as it was signed.
    intact: Option<bool>,
    /// What it came to, as `audit verify -o json` has it.
    report: Option<Value>,
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

    /// Begins a verification, where none is at work, and tells how it stands.
    ///
    /// # Errors
    /// `PLS7901` when the read cannot be recorded.
    pub(super) async fn begin_verification(self, reader: Reader) -> Result<Verification, Problem> {
        self.reads.note(&reader, "verify", "", 0).await?;
        let verifying = self.verifying.clone();
        let told = {
            let mut now = verifying.lock();
            if now.state == State::Running {
                return Ok(now.clone());
            }
            *now = Verification {
                state: State::Running,
                by: Some(reader.actor().to_owned()),
                begun: Some(self.clock.now().to_string()),
                ..Verification::default()
            };
            now.clone()
        };
        // A thread of its own: it may take minutes, and nobody waits for it at the end.
        let begun = std::thread::Builder::new()
            .name("verify".to_owned())
            .spawn(move || {
                // Whatever becomes of it, the next one can begin.
                let ending = Ending(self.verifying.clone(), self.clock.clone());
                let mut tell = |progress: Progress| ending.0.tell(progress);
                let options = VerifyOptions {
                    progress: Some(&mut tell),
                    ..VerifyOptions::default()
                };
                let report = verify::verify(&self.dir.join("log"), options);
                ending.0.end(&report);
            });
        if let Err(error) = begun {
            verifying.lock().state = State::Failed;
            return Err(broken(&error.to_string()).into());
        }
        Ok(told)
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
    /// When the last one ended, microseconds since the Unix epoch, and whether it found every
    /// signed byte as it was signed; nothing before there was one.
    pub(super) fn last(&self) -> Option<(i64, bool)> {
        let now = self.lock();
        let ended: jiff::Timestamp = now.ended.as_ref()?.parse().ok()?;
        Some((ended.as_microsecond(), now.intact?))
    }

    fn tell(&self, progress: Progress) {
        let mut now = self.lock();
        (now.records, now.bytes) = (progress.records, progress.bytes);
        now.bytes_total = progress.bytes_total;
    }

    fn end(&self, report: &VerifyReport) {
        let value = serde_json::to_value(report);
        let mut now = self.lock();
        now.intact = Some(report.intact());
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
