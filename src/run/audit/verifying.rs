//! The check of the whole log, while it is being written.

use std::{path::Path, sync::Arc};

use axum::{Json, Router, extract::ConnectInfo, routing::post};
use palisade_audit::{
    going::{Ended, Going},
    log::Log,
    policies::Policies,
    query::{Limits, Query},
    verify::{self, Earlier, VerifyOptions, VerifyReport},
};
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{AuditRole, attended, broken, reads::Reader};
use crate::{
    control::{api::Answer, server::PeerUid},
    history::faithful::{self, Replayed, Seen},
};

/// What `audit verify` asks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct VerifyLog {
    /// Which decisions are to be made again; all of them where it is empty, none where nothing
    /// is said.
    #[serde(default)]
    pub replay: Option<String>,
    /// Checkpoints from before: name and signed note.
    #[serde(default)]
    pub earlier: Vec<(String, String)>,
}

impl VerifyLog {
    /// The checkpoints from before, as a verification takes them.
    pub(crate) fn earlier(&self) -> Vec<Earlier> {
        let given = self.earlier.iter();
        given
            .map(|(name, note)| Earlier {
                name: name.clone(),
                note: note.clone(),
            })
            .collect()
    }
}

impl AuditRole {
    pub(super) fn verifying(&self) -> Router {
        let role = self.clone();
        Router::new().route(
            "/v1/audit/verify",
            post(
                move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(asked): Json<VerifyLog>| async move {
                    attended(&role, (), |role| role.verify(Reader::local(uid), asked)).await?
                },
            ),
        )
    }

    async fn verify(self, reader: Reader, asked: VerifyLog) -> Answer<Value> {
        let query = match asked.replay.as_deref() {
            None => None,
            Some(text) => Some(self.asked(text)?),
        };
        let told = query.as_ref().map_or("", |query| query.text());
        self.reads.note(&reader, "verify", told, 0).await?;
        // It takes memory and a core: one at a time, and only as long as somebody waits.
        let turn = match query {
            Some(_) => Some(self.turn_of(&self.replays).await?),
            None => None,
        };
        // It fetches all that went away: once at a time, whoever asks.
        let afresh = match self.log.archive() {
            Some(_) => Some(self.turn_of(&self.afresh).await?),
            None => None,
        };
        let role = self.clone();
        let verified = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let _afresh = afresh;
            let dir = role.dir.join("log");
            // The key that this service signs with, not the one that lies in the folder.
            let key = role.log.verifier();
            let mut seen = query.as_ref().map(|_| Seen::of(key.name()));
            let mut see = seen
                .as_mut()
                .map(|seen| |index: u64, leaf: &[u8]| seen.take(index, leaf));
            let options = VerifyOptions {
                key: Some(key.clone()),
                earlier: asked.earlier(),
                archive: role.log.archive().cloned(),
                seen: see.as_mut().map(|see| see as verify::Seen<'_>),
                ..VerifyOptions::default()
            };
            let going = role.store.going();
            let report = verify::verify_while(going, &dir, options).map_err(Ended::diagnostic)?;
            let seen = seen.filter(|_| report.intact());
            let replayed = query.map(|query| {
                let asked = (&query, role.clock.now_us());
                replayed(&role.log, &dir, asked, seen, going)
            });
            document(&report, replayed)
        });
        Ok(Json(verified.await.map_err(|e| broken(&e.to_string()))??))
    }

    /// One of these turns, as long as somebody waits for it.
    async fn turn_of(&self, turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Diagnostic> {
        tokio::select! {
            turn = turns.clone().acquire_owned() => turn.map_err(|e| broken(&e.to_string())),
            () = self.store.going().gone() => Err(Ended.diagnostic()),
        }
    }
}

/// Makes decisions of the log in `dir` again: all, where the query says nothing; as long as
/// somebody waits. What a verification has `seen` of the log is not read again.
///
/// # Errors
/// When the log cannot be read, or the query asks for no list of records.
pub(crate) fn replayed(
    log: &Log,
    dir: &Path,
    (query, now_us): (&Query, i64),
    seen: Option<Seen>,
    going: &Going,
) -> Result<Replayed, Diagnostic> {
    let policies = Policies::beside(dir);
    if query.text().trim().is_empty() {
        return faithful::of_whole_log(log, &policies, seen, going);
    }
    let query = crate::history::read(query.text())?;
    let window = query.window(now_us, &Limits::default())?;
    faithful::of_log(log, &policies, (&query, window), seen, going).map_err(|e| e.diagnostic())
}

/// A verification, with the decisions that were made again where that was asked for.
///
/// # Errors
/// When it cannot be encoded.
pub(crate) fn document(
    report: &VerifyReport,
    replayed: Option<Result<Replayed, Diagnostic>>,
) -> Result<Value, Diagnostic> {
    let unwritten = |e: serde_json::Error| {
        Diagnostic::error(7206, "the report cannot be written").cause(e.to_string())
    };
    let mut document = serde_json::to_value(report).map_err(unwritten)?;
    let replay = match replayed {
        None => return Ok(document),
        Some(Ok(replayed)) => serde_json::to_value(replayed).map_err(unwritten)?,
        Some(Err(why)) => json!({ "failed": why.to_string() }),
    };
    if let Value::Object(fields) = &mut document {
        fields.insert("replay".to_owned(), replay);
    }
    Ok(document)
}
