//! Rows and decisions as a stream, for as long as somebody reads it.

use std::ops::ControlFlow;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use palisade_audit::{
    decisions::Decisions, envelope::LEAF_LEN_MAX, index::TailEvent, log::LogError, query::Limits,
};
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    AuditRole,
    attended::Asker,
    broken,
    reads::{Begun, Reader},
};
use crate::{
    control::api::Problem,
    history::{self, frames},
};

impl AuditRole {
    /// Streams matching records as lines of JSON, from now on.
    pub(super) async fn tail(self, reader: &Reader, asked: &Tail) -> Response {
        match self.follow(reader, &asked.query).await {
            Ok(lines) => Body::from_stream(lines).into_response(),
            Err(mistake) => Problem::from(mistake).into_response(),
        }
    }

    pub(super) async fn follow(
        &self,
        reader: &Reader,
        query: &str,
    ) -> Result<impl Stream<Item = serde_json::Result<Bytes>> + use<>, Diagnostic> {
        let asked = reader.sees(&self.asked(query)?);
        let mut begun = self.reads.begin(reader, "tail", asked.text()).await?;
        Ok(self.store.tail(&asked).map(move |event| {
            let line = match &event {
                TailEvent::Row(row) => {
                    begun.gave(1);
                    serde_json::to_vec(row)
                }
                TailEvent::Skipped(n) => serde_json::to_vec(&serde_json::json!({ "skipped": n })),
                TailEvent::Unreadable(at) => {
                    serde_json::to_vec(&serde_json::json!({ "unreadable": at }))
                }
            };
            line.map(|mut line| {
                line.push(b'\n');
                Bytes::from(line)
            })
        }))
    }

    /// Streams all decisions that a query asks for as they lie in the log, oldest first.
    pub(super) async fn decisions(self, reader: &Reader, asked: &Tail) -> Response {
        let asker = Asker::default();
        let begun = async {
            let query = history::read(&asked.query)?;
            let query = query.naming(&|name| self.vault.pseudonym(name));
            let window = query.window(self.clock.now_us(), &Limits::default())?;
            let decisions = Decisions::new(&self.log, &query, window);
            let decisions = decisions.map_err(|e| broken(&e.to_string()))?;
            let decisions = decisions.heeding(asker.going());
            let begins_us = decisions
                .log_begins_us()
                .map_err(|e| broken(&e.to_string()))?;
            let begun = self.reads.begin(reader, "decisions", query.text()).await?;
            Ok::<_, Diagnostic>((decisions, window, begins_us, begun))
        };
        let (decisions, window, begins_us, begun) = match begun.await {
            Ok(begun) => begun,
            Err(mistake) => return Problem::from(mistake).into_response(),
        };
        let head = frames::Head {
            from_us: window.from_us,
            to_us: window.to_us,
            begins_us,
            first: decisions.position(),
            end: decisions.end(),
        };
        let (chunks, body) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(4);
        tokio::task::spawn_blocking(move || send_decisions(decisions, begun, &head, &chunks));
        Body::from_stream(asker.while_read(ReceiverStream::new(body))).into_response()
    }
}

/// What `audit tail` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tail {
    /// The query.
    pub query: String,
}

/// Bytes of decisions that are handed on at once.
const CHUNK_LEN: usize = 256 << 10;

/// Sends frames until all are sent or nobody reads them any more.
fn send_decisions(
    mut decisions: Decisions,
    mut begun: Begun,
    head: &frames::Head,
    chunks: &tokio::sync::mpsc::Sender<Result<Bytes, std::io::Error>>,
) {
    let mut chunk = Vec::with_capacity(CHUNK_LEN + LEAF_LEN_MAX);
    match serde_json::to_vec(head) {
        Ok(head) => frames::write(&mut chunk, &[&head]),
        Err(error) => return tracing::error!(%error, "decisions cannot be sent"),
    }
    let sent = decisions.visit(|index, leaf| {
        begun.gave(1);
        frames::write(&mut chunk, &[&index.to_le_bytes(), leaf]);
        if chunk.len() < CHUNK_LEN {
            return ControlFlow::Continue(());
        }
        let full = Bytes::from(std::mem::replace(
            &mut chunk,
            Vec::with_capacity(CHUNK_LEN + LEAF_LEN_MAX),
        ));
        match chunks.blocking_send(Ok(full)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    match sent {
        Ok(None) => frames::write(&mut chunk, &[]),
        Ok(Some(())) => return,
        // Nobody reads them any more.
        Err(LogError::Ended(_)) => return,
        Err(error) => tracing::error!(%error, "decision log cannot be read on"),
    }
    let _ = chunks.blocking_send(Ok(chunk.into()));
}
