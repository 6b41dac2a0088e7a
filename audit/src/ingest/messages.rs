//! Messages as they come from a connection.
//!
//! Each stream of batches is read message by message, each into memory of its own: what is
//! kept of it goes with its records, and a stream that rests has nothing.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body as _, Frame};
use palisade_mesh::wire::audit::Batch;
use prost::Message as _;
use tokio::time::Sleep;
use tonic::{Status, body::Body};

use super::{
    BATCH_BYTES_MAX,
    room::{Room, Seat},
};

/// Bytes before a message: whether it is compressed, and its length.
const HEAD_LEN: usize = 5;

/// Bytes of a call with one short message: a digest, and what frames it.
const BRIEF_LEN_MAX: usize = 1024;

/// The batches of one stream, each let in once there is room for it.
pub(super) struct Messages {
    body: Body,
    seat: Seat,
    /// Arrived and not let in.
    held: Bytes,
}

impl Messages {
    pub(super) fn new(body: Body, seat: Seat) -> Self {
        Self {
            body,
            seat,
            held: Bytes::new(),
        }
    }

    /// The next batch and its room; none at the end.
    ///
    /// # Errors
    /// When it is too long, does not end in time or is no batch.
    pub(super) async fn next(&mut self) -> Result<Option<(Batch, Room)>, Status> {
        let Some(len) = self.head().await? else {
            return Ok(None);
        };
        let room = self.seat.room(len).await;
        let time = self.seat.message_time();
        let whole = tokio::time::timeout(time, self.whole(len)).await;
        let message = whole.map_err(|_| late("a batch", time))??;
        let batch = Batch::decode(message).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Some((batch, room)))
    }

    /// The length of the next message; none at the end.
    async fn head(&mut self) -> Result<Option<usize>, Status> {
        let mut head = BytesMut::with_capacity(HEAD_LEN);
        while head.len() < HEAD_LEN {
            if !self.more().await? {
                return match head.is_empty() {
                    true => Ok(None),
                    false => Err(cut()),
                };
            }
            self.move_to(&mut head, HEAD_LEN);
        }
        let compressed = head.get_u8();
        let len = head.get_u32() as usize;
        if compressed != 0 {
            return Err(Status::internal("batches are not compressed here"));
        }
        if len > BATCH_BYTES_MAX {
            let told = format!("batch of {len} bytes; a batch has at most {BATCH_BYTES_MAX}");
            return Err(Status::out_of_range(told));
        }
        Ok(Some(len))
    }

    /// All of a message.
    async fn whole(&mut self, len: usize) -> Result<Bytes, Status> {
        let mut message = BytesMut::with_capacity(len);
        while message.len() < len {
            if !self.more().await? {
                return Err(cut());
            }
            self.move_to(&mut message, len);
        }
        Ok(message.freeze())
    }

    /// Moves what is held behind `message`, until that has `len` bytes.
    fn move_to(&mut self, message: &mut BytesMut, len: usize) {
        let more = self.held.len().min(len - message.len());
        message.extend_from_slice(&self.held.split_to(more));
    }

    /// Has something held; false at the end.
    async fn more(&mut self) -> Result<bool, Status> {
        while self.held.is_empty() {
            let body = &mut self.body;
            let next = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
            let Some(frame) = next.await else {
                return Ok(false);
            };
            if let Ok(data) = frame?.into_data() {
                self.held = data;
            }
        }
        Ok(true)
    }
}

fn late(what: &str, time: Duration) -> Status {
    Status::deadline_exceeded(format!("{what} did not arrive within {} s", time.as_secs()))
}

fn cut() -> Status {
    Status::internal("the stream ended within a batch")
}

/// Messages on their way to whoever reads them, beside their request.
#[derive(Clone)]
pub(super) struct Handed(Arc<Mutex<Option<Messages>>>);

impl Handed {
    pub(super) fn new(messages: Messages) -> Self {
        Self(Arc::new(Mutex::new(Some(messages))))
    }

    /// Takes them, once.
    pub(super) fn take(&self) -> Option<Messages> {
        let mut handed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        handed.take()
    }
}

/// A body that is short, and there in time.
pub(super) struct Brief {
    inner: Body,
    left: usize,
    time: Duration,
    deadline: Pin<Box<Sleep>>,
}

impl Brief {
    pub(super) fn new(inner: Body, time: Duration) -> Self {
        Self {
            inner,
            left: BRIEF_LEN_MAX,
            time,
            deadline: Box::pin(tokio::time::sleep(time)),
        }
    }

    /// A frame, if it is not too much.
    fn counted(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Status> {
        let len = frame.data_ref().map_or(0, Bytes::len);
        let left = self.left.checked_sub(len).ok_or_else(|| {
            Status::out_of_range(format!("more than {BRIEF_LEN_MAX} bytes for one digest"))
        })?;
        self.left = left;
        Ok(frame)
    }
}

impl http_body::Body for Brief {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                Poll::Ready(frame.map(|frame| frame.and_then(|frame| this.counted(frame))))
            }
            Poll::Pending => this
                .deadline
                .as_mut()
                .poll(cx)
                .map(|()| Some(Err(late("a digest", this.time)))),
        }
    }
}
