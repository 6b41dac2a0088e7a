//! How much a peer may have on its way here.
//!
//! A message is gathered before it can be read, and how long that takes is the peer's to
//! choose. So nothing of a message is taken from the connection before there is room
//! for all of it, in what its certificate, its identity and all together may have; the room is
//! given back when the log has written its records, or they are refused. Whoever has no room waits, and with it nobody else.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use palisade_mesh::{spiffe_id::SpiffeId, svid::Peer};
use rustc_hash::FxHashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

use super::{
    BATCH_BYTES_MAX, Ingest,
    messages::{Brief, Handed, Messages},
};

/// Streams of batches that one identity has open: every replica of a service has one.
const STREAMS_MAX: usize = 4096;

/// Bytes of one certificate that have begun to arrive and that the log has not written. Every
/// replica has a certificate of its own, so none has all of what its identity may have.
const BYTES_CERTIFICATE_MAX: usize = 16 << 20;

/// Such bytes of one identity.
const BYTES_MAX: usize = 64 << 20;

/// Bytes of all identities together.
const BYTES_ALL_MAX: usize = 512 << 20;

/// Time from the first byte of a message to its last.
const MESSAGE_TIME: Duration = Duration::from_secs(30);

/// Time between two looks whether the peer of a stream is still who may leave records.
const PRESENT_EVERY: Duration = Duration::from_secs(5);

/// The call that brings batches; all others are of the PDP.
const PUSH: &str = "/Push";

/// The call that has one short message.
const HAS_REVISION: &str = "/HasRevision";

/// Identities that are remembered before those that have ended are looked for.
const REMEMBERED_MIN: usize = 64;

/// What a peer may have on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) streams: usize,
    pub(super) bytes_certificate: usize,
    pub(super) bytes: usize,
    pub(super) bytes_all: usize,
    pub(super) message_time: Duration,
    pub(super) present_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: STREAMS_MAX,
            bytes_certificate: BYTES_CERTIFICATE_MAX,
            bytes: BYTES_MAX,
            bytes_all: BYTES_ALL_MAX,
            message_time: MESSAGE_TIME,
            present_every: PRESENT_EVERY,
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
    /// By serial number.
    certificates: Mutex<FxHashMap<Arc<[u8]>, Weak<Semaphore>>>,
}

/// Room for one message; given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    _permits: [Option<OwnedSemaphorePermit>; 3],
}

/// The place of one stream.
#[derive(Debug)]
pub(super) struct Seat {
    rooms: Rooms,
    identity: Arc<Identity>,
    certificate: Arc<Semaphore>,
    _stream: OwnedSemaphorePermit,
}

impl Rooms {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            all: Arc::new(Semaphore::new(limits.bytes_all)),
            identities: Arc::default(),
        }
    }

    /// A place for one more stream of `peer`; none when its identity has its share.
    fn seat(&self, peer: &Peer) -> Option<Seat> {
        let identity = self.identity(&peer.id);
        let stream = identity.streams.clone().try_acquire_owned().ok()?;
        let certificate = identity.certificate(&peer.serial, self.limits.bytes_certificate);
        Some(Seat {
            rooms: self.clone(),
            identity,
            certificate,
            _stream: stream,
        })
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
            certificates: Mutex::default(),
        });
        known.insert(id.clone(), Arc::downgrade(&identity));
        identity
    }
}

impl Identity {
    /// The room of one certificate, `bytes` where it has no stream yet.
    fn certificate(&self, serial: &Arc<[u8]>, bytes: usize) -> Arc<Semaphore> {
        let known = self.certificates.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = known.get(serial).and_then(Weak::upgrade) {
            return room;
        }
        // At most as many stay as the identity has streams.
        known.retain(|_, room| room.strong_count() > 0);
        let room = Arc::new(Semaphore::new(bytes));
        known.insert(serial.clone(), Arc::downgrade(&room));
        room
    }
}

impl Seat {
    /// Waits for room for a message of `len` bytes, which is none that is refused by its length.
    pub(super) async fn room(&self, len: usize) -> Room {
        let limits = self.rooms.limits;
        let least = limits.bytes_certificate.min(limits.bytes);
        let len = len.min(least).min(limits.bytes_all).min(BATCH_BYTES_MAX);
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        // The narrowest first, so that whoever waits there has nothing of the others.
        let certificate = self.certificate.clone().acquire_many_owned(len).await.ok();
        let identity = self.identity.bytes.clone().acquire_many_owned(len);
        let identity = identity.await.ok();
        let all = self.rooms.all.clone().acquire_many_owned(len).await.ok();
        Room {
            _permits: [certificate, identity, all],
        }
    }

    /// Time that a message may take.
    pub(super) fn message_time(&self) -> Duration {
        self.rooms.limits.message_time
    }
}

/// A service whose streams of batches are kept to the limits, and whose other calls are refused
/// before their first byte is read to all who may not make them.
#[derive(Debug, Clone)]
pub struct Metered<S> {
    inner: S,
    rooms: Rooms,
    door: Ingest,
}

impl<S> Metered<S> {
    pub(super) fn new(inner: S, rooms: Rooms, door: Ingest) -> Self {
        Self { inner, rooms, door }
    }

    /// The request as the service is to have it: a stream of batches comes beside it, message by
    /// message.
    fn metered(&self, request: http::Request<Body>) -> Result<http::Request<Body>, Status> {
        let peer = request.extensions().get::<Peer>();
        let path = request.uri().path();
        if !path.ends_with(PUSH) {
            self.door.keeper(peer)?;
            let is_short = path.ends_with(HAS_REVISION);
            let time = self.rooms.limits.message_time;
            return Ok(match is_short {
                true => request.map(|body| Body::new(Brief::new(body, time))),
                false => request,
            });
        }
        // Who has proven nothing is refused before its first byte is read.
        let Some(peer) = peer else {
            return Ok(request);
        };
        let seat = self.rooms.seat(peer).ok_or_else(|| {
            tracing::warn!(peer = %peer.id, "stream refused: its identity has too many");
            Status::resource_exhausted(format!(
                "`{}` has {} streams of records open; an identity has no more",
                peer.id, self.rooms.limits.streams
            ))
        })?;
        let (mut parts, body) = request.into_parts();
        parts
            .extensions
            .insert(Handed::new(Messages::new(body, seat)));
        Ok(http::Request::from_parts(parts, Body::empty()))
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
        match self.metered(request) {
            Ok(request) => Box::pin(self.inner.call(request)),
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests;
