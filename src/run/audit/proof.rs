//! One record as it lies in the log, with the proof that it does.

use std::time::Duration;

use axum::{Json, Router, extract::ConnectInfo, routing::post};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use palisade_audit::{item::Item, proof::Proof, row::Row, source::Entry};
use palisade_mesh::{diagnostic::Diagnostic, wire::record::record::Body};
use serde::{Deserialize, Serialize};

use super::{AuditRole, blocking, broken, reads::Reader, subjects};
use crate::control::{
    api::{Answer, Problem},
    server::PeerUid,
};

/// How long a record may wait for the checkpoint that it will be under; one is signed
/// every second.
const CHECKPOINT_WAIT: Duration = Duration::from_secs(5);

/// What `audit proof` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// The id, or its first characters.
    pub id: String,
    /// Which of its records, by index in the log; its decision, or else its first, where
    /// nothing is said.
    pub entry: Option<u64>,
}

/// A record with its proof.
#[derive(Debug, Serialize, Deserialize)]
pub struct Proven {
    /// Index in the log.
    pub entry: u64,
    /// All records of the id, by index in the log.
    pub entries: Vec<u64>,
    /// The record as it is hashed, base64.
    pub record: String,
    /// The proof (C2SP tlog-proof).
    pub proof: String,
    /// The log's public key, `NAME+HASH+KEY`.
    pub key: String,
    /// The record as a search shows it.
    pub row: serde_json::Value,
}

impl AuditRole {
    pub(super) fn proofs(&self) -> Router {
        let role = self.clone();
        Router::new().route(
            "/v1/audit/proof",
            post(
                move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(wanted): Json<Wanted>| async move {
                    role.proof(Reader::local(uid), wanted).await
                },
            ),
        )
    }

    pub(super) async fn proof(self, reader: Reader, wanted: Wanted) -> Answer<Proven> {
        let (store, id, asked) = (
            self.store.clone(),
            wanted.id.clone(),
            subjects::by_id(&wanted.id),
        );
        let found = blocking(move || store.by_id(&id)).await;
        let seen = |entry: &Entry| reader.rows().matches(&Item::new(entry.clone()));
        let found = found.map(|entries| entries.into_iter().filter(seen).collect::<Vec<_>>());
        if !matches!(&found, Ok(entries) if !entries.is_empty()) {
            // Who looks for what is not there has asked, too.
            self.reads.note(&reader, "proof", &asked, 0).await?;
        }
        let entries = found?;
        let entry = match chosen(&entries, &wanted) {
            Ok(entry) => self.signed(entry).await.map(|()| entry),
            Err(problem) => Err(problem),
        };
        if entry.is_err() {
            self.reads.note(&reader, "proof", &asked, 0).await?;
        }
        let entry = entry?;
        let role = self.clone();
        let proven = tokio::task::spawn_blocking(move || role.proven(entry, &entries)).await;
        let proven = proven.map_err(|e| broken(&e.to_string()))??;
        self.reads.note(&reader, "proof", &asked, 1).await?;
        Ok(Json(proven))
    }

    /// Waits until a checkpoint is over the record.
    async fn signed(&self, entry: u64) -> Result<(), Problem> {
        let mut checkpoints = self.log.subscribe_checkpoints();
        let over = checkpoints.wait_for(|checkpoint| checkpoint.size > entry);
        match tokio::time::timeout(CHECKPOINT_WAIT, over).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Diagnostic::error(
                7209,
                format!("record {entry} is under no signed checkpoint yet"),
            )
            .cause("nothing is proven before the log has signed for it")
            .help("see why the log does not sign: palisade check")
            .into()),
        }
    }

    fn proven(&self, index: u64, entries: &[Entry]) -> Result<Proven, Diagnostic> {
        let read = || {
            let leaf = self.log.leaf(index)?;
            // A checkpoint that others have seen, too, is worth more than a newer one.
            let len = self.log.checkpoint().size;
            let cosigned = self.witnesses.cosigned();
            let cosigned = cosigned.filter(|c| c.size > index && c.size <= len);
            let (checkpoint, hashes) = match cosigned {
                Some(checkpoint) => {
                    let hashes = self.log.prove_under(index, checkpoint.size)?;
                    (checkpoint, hashes)
                }
                None => self.log.prove(index)?,
            };
            Ok((leaf, checkpoint, hashes, self.log.read(index)?))
        };
        let (leaf, checkpoint, hashes, record) =
            read().map_err(|e: palisade_audit::log::LogError| e.diagnostic())?;
        let proof = Proof {
            index,
            hashes,
            checkpoint: checkpoint.note,
        };
        // A damaged tile would make it one that accuses the log before whoever checks it.
        if let Err(why) = proof.verify(&leaf, self.log.verifier()) {
            let what = "the tiles of the log do not prove the record";
            return Err(Diagnostic::error(7204, what)
                .cause(why.to_string())
                .help("see which are damaged, and mend them from a copy: palisade audit verify"));
        }
        Ok(Proven {
            entry: index,
            entries: entries.iter().map(|e| e.index).collect(),
            record: BASE64.encode(leaf),
            proof: proof.to_string(),
            key: self.log.verifier().to_string(),
            row: serde_json::to_value(Row::new(&Item::new(record))).unwrap_or_default(),
        })
    }
}

/// None of its records is one that the reader may see; which is as if there were none.
fn unseen(wanted: &Wanted) -> Diagnostic {
    Diagnostic::error(7111, format!("no record has the id `{}`", wanted.id))
        .help("see which there are: palisade audit search")
}

/// More than one decision has the id, which is no secret: which is the true one is not for the
/// order of their arrival to say.
fn several<'e>(decisions: impl Iterator<Item = &'e Entry>, wanted: &Wanted) -> Diagnostic {
    let by = decisions.map(|e| {
        let stream = e.envelope.stream.as_ref();
        format!("{} by {}", e.index, stream.map_or("", |s| &s.reporter))
    });
    let by: Vec<String> = by.collect();
    Diagnostic::error(
        7215,
        format!("{} decisions have the id `{}`", by.len(), wanted.id),
    )
    .cause(format!("they are {}", by.join(", ")))
    .help("say which, by its place in the log: --entry N")
}

/// The index of the record that is wanted.
fn chosen(entries: &[Entry], wanted: &Wanted) -> Result<u64, Problem> {
    let Some(entry) = wanted.entry else {
        let decision = |e: &&Entry| matches!(e.record.body, Some(Body::Decision(_)));
        let mut decisions = entries.iter().filter(decision);
        let first = decisions.next().or(entries.first());
        return match (first, decisions.next()) {
            (Some(_), Some(_)) => Err(several(entries.iter().filter(decision), wanted).into()),
            (first, _) => first.map(|e| e.index).ok_or_else(|| unseen(wanted).into()),
        };
    };
    if entries.iter().any(|e| e.index == entry) {
        return Ok(entry);
    }
    let known: Vec<String> = entries.iter().map(|e| e.index.to_string()).collect();
    Err(Diagnostic::error(
        7210,
        format!("record {entry} is not one of id `{}`", wanted.id),
    )
    .cause(format!("its records are {}", known.join(", ")))
    .help("take one of these for --entry, or leave it out")
    .into())
}
