//! How much a peer may have on its way here.
//!
//! A message is gathered before it can be read, and how long that takes is the peer's to
//! choose. So nothing of a message is taken from the connection before there is room
//! for all of it, in what its identity may have and in what all may have together; the room is given back
//! when the log has taken its records over, or they are refused. Whoever has no room waits, and with it nobody else.
//! A message that has begun must end in time.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http_body::Frame;
use palisade_mesh::{spiffe_id::SpiffeId, svid::Peer};
use rustc_hash::FxHashMap;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

use super::BATCH_BYTES_MAX;

/// Streams of batches that one identity has open: every replica of a service has one.
const STREAMS_MAX: usize = 4096;

/// Bytes of one identity that have begun to arrive and that the log has not taken over.
const BYTES_MAX: usize = 64 << 20;

/// Bytes of all identities together.
const BYTES_ALL_MAX: usize = 512 << 20;

/// Time from the first byte of a message to its last.
const MESSAGE_TIME: Duration = Duration::from_secs(30);

/// Bytes before a message: whether it is compressed, and its length.
const HEAD_LEN: usize = 5;

/// Identities that are remembered before those that have ended are looked for.
const REMEMBERED_MIN: usize = 64;

/// What a peer may have on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) streams: usize,
    pub(super) bytes: usize,
    pub(super) bytes_all: usize,
    pub(super) message_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: STREAMS_MAX,
            bytes: BYTES_MAX,
            bytes_all: BYTES_ALL_MAX,
            message_time: MESSAGE_TIME,
        }
    }
}

/// The room of all peers; clones are one.
#[derive(Debug, Clone)]
pub(super) struct Rooms {
    limits: Limits,
    all: Arc<Semaphore>,
    identities: Arc<Mutex<FxHashMap<SpiffeId, Weak<Identity>>>>,
}

/// The room of one identity.
#[derive(Debug)]
struct Identity {
    streams: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// Room for one message; given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Room {
    _own: Option<OwnedSemaphorePermit>,
    _all: Option<OwnedSemaphorePermit>,
}

/// The place of one stream, with the room of its messages that nobody has read yet.
#[derive(Debug)]
pub(super) struct Seat {
    rooms: Rooms,
    identity: Arc<Identity>,
    _stream: OwnedSemaphorePermit,
    taken: Mutex<VecDeque<Room>>,
}

impl Rooms {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            all: Arc::new(Semaphore::new(limits.bytes_all)),
            identities: Arc::default(),
        }
    }

    /// A place for one more stream of `id`; none when it has its share.
    fn seat(&self, id: &SpiffeId) -> Option<Arc<Seat>> {
        let identity = self.identity(id);
        let stream = identity.streams.clone().try_acquire_owned().ok()?;
        Some(Arc::new(Seat {
            rooms: self.clone(),
            identity,
            _stream: stream,
            taken: Mutex::default(),
        }))
    }

    fn identity(&self, id: &SpiffeId) -> Arc<Identity> {
        let known = self.identities.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = known.get(id).and_then(Weak::upgrade) {
            return identity;
        }
        if known.len() >= REMEMBERED_MIN {
            known.retain(|_, identity| identity.strong_count() > 0);
        }
        let identity = Arc::new(Identity {
            streams: Arc::new(Semaphore::new(self.limits.streams)),
            bytes: Arc::new(Semaphore::new(self.limits.bytes)),
        });
        known.insert(id.clone(), Arc::downgrade(&identity));
        identity
    }
}

impl Seat {
    /// The room of the message that was read next.
    pub(super) fn next(&self) -> Room {
        self.taken().pop_front().unwrap_or_default()
    }

    /// Waits for room for a message of `len` bytes.
    async fn room(self: Arc<Self>, len: usize) -> Room {
        let limits = self.rooms.limits;
        // A longer one is refused by its length.
        let most = BATCH_BYTES_MAX.min(limits.bytes).min(limits.bytes_all);
        let len = u32::try_from(len.min(most)).unwrap_or(u32::MAX);
        let own = self.identity.bytes.clone().acquire_many_owned(len);
        let own = own.await.ok();
        let all = self.rooms.all.clone().acquire_many_owned(len).await.ok();
        Room {
            _own: own,
            _all: all,
        }
    }

    fn taken(&self) -> MutexGuard<'_, VecDeque<Room>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A service whose streams of batches are kept to the limits.
#[derive(Debug, Clone)]
pub struct Metered<S> {
    inner: S,
    rooms: Rooms,
}

impl<S> Metered<S> {
    pub(super) fn new(inner: S, rooms: Rooms) -> Self {
        Self { inner, rooms }
    }
}

impl<S: NamedService> NamedService for Metered<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<S> Service<http::Request<Body>> for Metered<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let peer = request.extensions().get::<Peer>();
        // Who has proven nothing is refused before its first byte is read.
        let Some(peer) = peer.filter(|_| request.uri().path().ends_with("/Push")) else {
            return Box::pin(self.inner.call(request));
        };
        let Some(seat) = self.rooms.seat(&peer.id) else {
            tracing::warn!(peer = %peer.id, "stream refused: its identity has too many");
            let told = format!(
                "`{}` has {} streams of records open; an identity has no more",
                peer.id, self.rooms.limits.streams
            );
            let refused = Status::resource_exhausted(told).into_http();
            return Box::pin(std::future::ready(Ok(refused)));
        };
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(seat.clone());
        let body = Body::new(Gathering::new(body, seat));
        Box::pin(self.inner.call(http::Request::from_parts(parts, body)))
    }
}

/// What comes next in a body.
#[derive(Debug)]
enum At {
    /// The rest of a message's head.
    Head(Vec<u8>),
    /// So many bytes of a message and its head.
    Message(usize),
}

/// A body that lets a message in once there is room for it.
struct Gathering {
    inner: Body,
    seat: Arc<Seat>,
    at: At,
    /// Arrived and not let in.
    held: Bytes,
    waiting: Option<Pin<Box<dyn Future<Output = Room> + Send>>>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Gathering {
    fn new(inner: Body, seat: Arc<Seat>) -> Self {
        Self {
            inner,
            seat,
            at: At::Head(Vec::new()),
            held: Bytes::new(),
            waiting: None,
            deadline: None,
        }
    }

    /// Lets in what may come in of what is held.
    fn let_in(&mut self) -> Option<Bytes> {
        match &mut self.at {
            At::Head(head) => {
                let more = self.held.len().min(HEAD_LEN - head.len());
                head.extend_from_slice(&self.held.split_to(more));
                let (_, len) = head.split_first_chunk::<1>()?;
                let len = u32::from_be_bytes(*len.first_chunk()?) as usize;
                let head = Bytes::from(std::mem::take(head));
                if len == 0 {
                    self.seat.taken().push_back(Room::default());
                    return Some(head);
                }
                self.waiting = Some(Box::pin(self.seat.clone().room(len)));
                self.at = At::Message(HEAD_LEN + len);
                // It goes in with what follows.
                self.held = join(head, &self.held);
                None
            }
            At::Message(left) => {
                let more = self.held.split_to(self.held.len().min(*left));
                *left -= more.len();
                if *left == 0 {
                    self.at = At::Head(Vec::new());
                    self.deadline = None;
                }
                Some(more)
            }
        }
    }
}

fn join(head: Bytes, rest: &Bytes) -> Bytes {
    let mut all = Vec::with_capacity(head.len() + rest.len());
    all.extend_from_slice(&head);
    all.extend_from_slice(rest);
    all.into()
}

impl http_body::Body for Gathering {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(waiting) = &mut this.waiting {
                let Poll::Ready(room) = waiting.as_mut().poll(cx) else {
                    return Poll::Pending;
                };
                this.waiting = None;
                this.seat.taken().push_back(room);
                let time = this.seat.rooms.limits.message_time;
                this.deadline = Some(Box::pin(tokio::time::sleep(time)));
            }
            if this.held.has_remaining() {
                if let Some(bytes) = this.let_in() {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                continue;
            }
            match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.held = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                Poll::Ready(other) => return Poll::Ready(other),
                Poll::Pending => {
                    let late = this.deadline.as_mut().map(|at| at.as_mut().poll(cx));
                    return match late {
                        Some(Poll::Ready(())) => {
                            let time = this.seat.rooms.limits.message_time.as_secs();
                            let told = format!("a batch did not arrive within {time} s");
                            Poll::Ready(Some(Err(Status::deadline_exceeded(told))))
                        }
                        _ => Poll::Pending,
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
