//! Long work for whoever waits for it: it ends soon when nobody does any more, gives its turn back
//! when it has ended and not before, and tells meanwhile how far it is.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use palisade_audit::going::{Far, Going};
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    mpsc::{self, Sender},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{AuditRole, broken};
use crate::control::api::Problem;

/// Time between two lines of how far it is.
const EVERY: Duration = Duration::from_millis(200);

/// A line of the answer to long work.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkLine {
    /// It waits for its turn.
    Waits,
    /// How far it is.
    Far(Far),
    /// It is done; what came of it are the bytes behind this line.
    Done,
    /// Why nothing came of it; the last line.
    Failed(Box<Problem>),
}

/// Whoever asked for work and waits for it. When it is dropped nobody does, and the work ends.
#[derive(Debug, Default)]
pub(super) struct Asker(Going);

impl Asker {
    /// What the work asks.
    pub(super) fn going(&self) -> &Going {
        &self.0
    }

    /// Waits as long as somebody reads `answer`.
    pub(super) fn while_read<S: Stream>(self, answer: S) -> impl Stream<Item = S::Item> {
        answer.map(move |part| {
            let _asker = &self;
            part
        })
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Does `work` with a role whose answers are given up when this future is dropped. What has begun
/// goes on until it hears of that, and keeps `turn` until then.
///
/// # Errors
/// When the work broke off.
pub(super) async fn attended<T, W>(
    role: &AuditRole,
    turn: impl Send + 'static,
    work: impl FnOnce(AuditRole) -> W,
) -> Result<T, Diagnostic>
where
    T: Send + 'static,
    W: Future<Output = T> + Send + 'static,
{
    let asker = Asker::default();
    let work = work(role.heeding(asker.going()));
    let done = tokio::spawn(async move {
        let _turn = turn;
        work.await
    });
    done.await.map_err(|e| broken(&e.to_string()))
}

/// One of these turns, when it is free.
pub(super) fn turn_of(
    turns: &Arc<Semaphore>,
) -> impl Future<Output = Result<OwnedSemaphorePermit, Diagnostic>> + Send + 'static {
    let turn = turns.clone().acquire_owned();
    async move { turn.await.map_err(|e| broken(&e.to_string())) }
}

/// Answers with lines of how far `work` is, which begins when it is its `turn`, and with what
/// came of it. Whoever stops reading ends the work.
pub(super) fn told<T, W>(
    role: &AuditRole,
    turn: impl Future<Output = Result<T, Diagnostic>> + Send + 'static,
    work: impl FnOnce(AuditRole) -> W,
) -> Response
where
    T: Send + 'static,
    W: Future<Output = Result<Bytes, Problem>> + Send + 'static,
{
    let (lines, body) = mpsc::channel(4);
    let asker = Asker::default();
    let work = work(role.heeding(asker.going()));
    let telling = Telling { lines, asker };
    tokio::spawn(telling.work(turn, work));
    Body::from_stream(ReceiverStream::new(body)).into_response()
}

/// Where it is told how far work is.
struct Telling {
    lines: Sender<io::Result<Bytes>>,
    /// Dropped with this, also where the service ends: then the work ends, too.
    asker: Asker,
}

impl Telling {
    async fn work<T>(
        self,
        turn: impl Future<Output = Result<T, Diagnostic>>,
        work: impl Future<Output = Result<Bytes, Problem>>,
    ) {
        let turn = tokio::select! {
            turn = self.during(turn, || WorkLine::Waits) => turn,
            () = self.lines.closed() => return,
        };
        let done = match turn {
            Ok(_turn) => {
                self.during(work, || WorkLine::Far(self.asker.going().far()))
                    .await
            }
            Err(error) => Err(error.into()),
        };
        let (line, bytes) = match done {
            Ok(bytes) => (WorkLine::Done, Some(bytes)),
            Err(problem) => (WorkLine::Failed(Box::new(problem)), None),
        };
        // Who has gone away is told nothing.
        for bytes in [Some(encoded(&line)), bytes].into_iter().flatten() {
            let _ = self.lines.send(Ok(bytes)).await;
        }
    }

    /// Waits for `work`, and tells meanwhile what `line` says; it is ended when nobody reads that.
    async fn during<T>(&self, work: impl Future<Output = T>, line: impl Fn() -> WorkLine) -> T {
        let mut work = pin!(work);
        let mut next = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.lines.closed(), if !self.asker.going().has_ended() => {
                    self.asker.going().end();
                }
                // Who does not read keeps nobody waiting.
                _ = next.tick() => drop(self.lines.try_send(Ok(encoded(&line())))),
            }
        }
    }
}

fn encoded(line: &WorkLine) -> Bytes {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

#[cfg(test)]
mod tests;
