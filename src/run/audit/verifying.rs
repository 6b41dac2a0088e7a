//! The check of the whole log, while it is being written.

use axum::{Json, Router, extract::ConnectInfo, response::Response, routing::post};
use bytes::Bytes;
use palisade_audit::{
    going::Ended,
    policies::Policies,
    query::Query,
    verify::{self, Earlier, VerifyOptions, VerifyReport},
};
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    AuditRole,
    attended::{told, turn_of},
    broken,
    reads::Reader,
};
use crate::{
    control::{api::Problem, server::PeerUid},
    history::{
        self,
        faithful::{self, Replayed, Seen},
    },
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
                    role.verify(Reader::local(uid), asked)
                },
            ),
        )
    }

    /// Answers with lines of how far it is, and with the report.
    fn verify(&self, reader: Reader, asked: VerifyLog) -> Result<Response, Problem> {
        let query = asked.replay.as_deref().map(|text| {
            let query = self.asked(text)?;
            history::read(query.text())
        });
        let query = query.transpose()?;
        let turns = self.turns(query.is_some());
        Ok(told(self, turns, |role| {
            role.verified(reader, asked.earlier(), query)
        }))
    }

    /// What a verification waits for. To make decisions again takes memory and a core, and what
    /// went away is all fetched: each once at a time, whoever asks.
    fn turns(
        &self,
        replays: bool,
    ) -> impl Future<Output = Result<Vec<OwnedSemaphorePermit>, Diagnostic>> + Send + 'static {
        let replay = replays.then(|| turn_of(&self.replays));
        let afresh = self.log.archive().map(|_| turn_of(&self.afresh));
        async move {
            let mut turns = Vec::new();
            for turn in [replay, afresh].into_iter().flatten() {
                turns.push(turn.await?);
            }
            Ok(turns)
        }
    }

    async fn verified(
        self,
        reader: Reader,
        earlier: Vec<Earlier>,
        query: Option<Query>,
    ) -> Result<Bytes, Problem> {
        let told = query.as_ref().map_or("", |query| query.text());
        self.reads.note(&reader, "verify", told, 0).await?;
        let verified = tokio::task::spawn_blocking(move || {
            let dir = self.dir.join("log");
            // The key that this service signs with, not the one that lies in the folder.
            let key = self.log.verifier();
            let mut seen = query.as_ref().map(|_| Seen::of(key.name()));
            let mut see = seen
                .as_mut()
                .map(|seen| |index: u64, leaf: &[u8]| seen.take(index, leaf));
            let options = VerifyOptions {
                key: Some(key.clone()),
                earlier,
                archive: self.log.archive().cloned(),
                seen: see.as_mut().map(|see| see as verify::Seen<'_>),
                ..VerifyOptions::default()
            };
            let going = self.store.going();
            going.parts(1 + usize::from(query.is_some()));
            let report = verify::verify_while(going, &dir, options).map_err(Ended::diagnostic)?;
            going.part_done();
            let seen = seen.filter(|_| report.intact());
            let replayed = query.map(|query| {
                let asked = (&query, self.clock.now_us());
                let policies = Policies::beside(&dir);
                faithful::of_query(&self.log, &policies, asked, seen, going)
            });
            let document = document(&report, replayed)?;
            serde_json::to_vec(&document).map_err(|e| unwritten(&e))
        });
        let verified = verified.await.map_err(|e| broken(&e.to_string()))?;
        Ok(verified?.into())
    }
}

/// A verification, with the decisions that were made again where that was asked for.
///
/// # Errors
/// When it cannot be encoded.
pub(crate) fn document(
    report: &VerifyReport,
    replayed: Option<Result<Replayed, Diagnostic>>,
) -> Result<Value, Diagnostic> {
    let mut document = serde_json::to_value(report).map_err(|e| unwritten(&e))?;
    let replay = match replayed {
        None => return Ok(document),
        Some(Ok(replayed)) => serde_json::to_value(replayed).map_err(|e| unwritten(&e))?,
        Some(Err(why)) => json!({ "failed": why.to_string() }),
    };
    if let Value::Object(fields) = &mut document {
        fields.insert("replay".to_owned(), replay);
    }
    Ok(document)
}

fn unwritten(error: &serde_json::Error) -> Diagnostic {
    Diagnostic::error(7206, "the report cannot be written").cause(error.to_string())
}
