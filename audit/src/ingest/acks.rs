//! Tells a sender how far its records are kept.

use std::{collections::VecDeque, sync::Arc};

use palisade_mesh::wire::audit::Ack;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::CREDIT;
use crate::{
    checkpoint::Checkpoint,
    log::{AppendError, Receipt},
    stream::StreamKey,
};

/// A batch that was read, in order.
pub(super) enum InFlight {
    Receipt {
        stream: Arc<StreamKey>,
        /// Number of its last record.
        last: u64,
        receipt: Receipt,
    },
    Refused {
        stream: Arc<StreamKey>,
        refusal: String,
        /// Whether it is refused at any time.
        never: bool,
    },
}

/// How far one stream is.
#[derive(Default)]
struct Progress {
    durable: u64,
    checkpointed: u64,
    /// Size of the log that covers a sequence number, oldest first.
    waiting: VecDeque<(u64, u64)>,
}

type Acks = mpsc::Sender<Result<Ack, Status>>;

/// Acknowledges until everything read is under a checkpoint, or something fails.
pub(super) async fn acknowledge(
    mut receipts: mpsc::Receiver<InFlight>,
    mut checkpoints: watch::Receiver<Arc<Checkpoint>>,
    acks: Acks,
) {
    let mut streams: FxHashMap<Arc<StreamKey>, Progress> = FxHashMap::default();
    let welcome = Ack {
        credit: CREDIT,
        ..Ack::default()
    };
    let mut open = acks.send(Ok(welcome)).await.is_ok();
    while open || streams.values().any(|s| !s.waiting.is_empty()) {
        tokio::select! {
            item = receipts.recv(), if open => match item {
                None => open = false,
                Some(item) => {
                    if !take(item, &mut streams, &acks).await {
                        return;
                    }
                    // It may be under a checkpoint that was signed meanwhile.
                    let size = checkpoints.borrow_and_update().size;
                    if !cover(size, &mut streams, &acks).await {
                        return;
                    }
                }
            },
            changed = checkpoints.changed() => {
                let size = checkpoints.borrow_and_update().size;
                if changed.is_err() || !cover(size, &mut streams, &acks).await {
                    return;
                }
            }
            // Without a peer nobody needs an answer.
            () = acks.closed() => return,
        }
    }
}

/// Waits for a batch to be durable; false ends the connection.
async fn take(
    item: InFlight,
    streams: &mut FxHashMap<Arc<StreamKey>, Progress>,
    acks: &Acks,
) -> bool {
    let (stream, refusal, never) = match item {
        InFlight::Receipt {
            stream,
            last,
            mut receipt,
        } => match receipt.durable().await {
            Ok(appended) => {
                let progress = streams.entry(stream.clone()).or_default();
                progress.durable = progress.durable.max(last);
                progress.waiting.push_back((appended.size, last));
                return send(&stream, progress, acks).await;
            }
            Err(AppendError::Refused(refusal)) => (stream, refusal.to_string(), false),
            Err(e) => {
                let _ = acks.send(Err(Status::unavailable(e.to_string()))).await;
                return false;
            }
        },
        InFlight::Refused {
            stream,
            refusal,
            never,
        } => (stream, refusal, never),
    };
    let ack = Ack {
        stream: Some(stream.to_wire()),
        refused: refusal,
        never,
        ..Ack::default()
    };
    // The sender learns of it and starts again; going on would leave a gap.
    let _ = acks.send(Ok(ack)).await;
    false
}

/// Passes on that the log is signed up to `size`.
async fn cover(size: u64, streams: &mut FxHashMap<Arc<StreamKey>, Progress>, acks: &Acks) -> bool {
    for (stream, progress) in streams {
        let before = progress.checkpointed;
        while let Some(&(needs, last)) = progress.waiting.front()
            && needs <= size
        {
            progress.checkpointed = progress.checkpointed.max(last);
            progress.waiting.pop_front();
        }
        if progress.checkpointed > before && !send(stream, progress, acks).await {
            return false;
        }
    }
    true
}

async fn send(stream: &StreamKey, progress: &Progress, acks: &Acks) -> bool {
    let ack = Ack {
        stream: Some(stream.to_wire()),
        durable: progress.durable,
        checkpointed: progress.checkpointed,
        credit: CREDIT,
        ..Ack::default()
    };
    acks.send(Ok(ack)).await.is_ok()
}
