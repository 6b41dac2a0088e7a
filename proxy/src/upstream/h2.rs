//! One endpoint over HTTP/2: few multiplexed connections, renewed in time.
//!
//! A connection is lent only after the other end has said something: in TLS 1.3
//! a peer refuses our certificate after the handshake has succeeded, and no
//! request may be lost to that. It is renewed in the background when our SVID
//! has been replaced or a certificate nears its end; what is in flight on the
//! old one finishes there.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::TokioIo;
use palisade_mesh::{clock::Clock, spiffe_id::SpiffeId, svid::Identity};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

use super::{Replay, UpstreamError, connect, in_time};
use crate::{
    body::RequestBody,
    config::Limits,
    connection::{Bytes, FirstRead, Observed, Proof, Revocation},
    exchange::Exchange,
    policy::PolicySlot,
    worker::LocalExec,
};

type Sender = http2::SendRequest<RequestBody>;
type Waiter = oneshot::Sender<Result<(), UpstreamError>>;

/// Streams on one connection before another is opened; below what peers allow.
const STREAMS_MAX: u32 = 200;
/// Connections to one endpoint.
const CONNECTIONS_MAX: usize = 8;
/// Longest lead with which a connection is renewed before a certificate ends.
const RENEW_LEAD_MAX_S: i64 = 60;
/// Bytes of a request body held for one stream.
const STREAM_BUFFER: usize = 128 * 1024;
/// Times a request is put on a connection.
const ATTEMPTS_MAX: usize = 3;

/// How the endpoint is spoken to.
pub(crate) enum Security {
    /// An application on loopback, with prior knowledge.
    Plain,
    /// Another proxy.
    Mutual(Mutual),
}

/// How another proxy is spoken to.
pub(crate) struct Mutual {
    pub(crate) identity: Identity,
    /// Who it may be.
    pub(crate) ids: Box<[SpiffeId]>,
    /// Says who is barred.
    pub(crate) policy: PolicySlot,
}

/// The protocol of pooled connections.
const ALPN: &[u8] = b"h2";

/// The connections of one worker to one endpoint.
pub(crate) struct Pool {
    address: SocketAddr,
    security: Security,
    clock: Clock,
    header_bytes: u32,
    connect_timeout: Duration,
    idle_timeout: Duration,
    open: RefCell<Vec<Rc<Connection>>>,
    /// Also those that only finish what they have.
    all: RefCell<Vec<Weak<Connection>>>,
    /// Who waits for the connection that is being opened, if one is.
    waiting: RefCell<Option<Vec<Waiter>>>,
    last_used: Cell<Instant>,
}

struct Connection {
    sender: RefCell<Sender>,
    streams: Cell<u32>,
    /// End of our SVID when it was opened, to notice its successor.
    own_end_s: i64,
    renew_at_s: i64,
    end_s: i64,
    /// What the endpoint's identity rests on; none on loopback.
    proof: Option<Proof>,
    bytes: Arc<Bytes>,
}

/// A stream in use.
pub(crate) struct Lease(Rc<Connection>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

impl Pool {
    /// A pool for `address`.
    pub(crate) fn new(
        address: SocketAddr,
        security: Security,
        clock: Clock,
        limits: &Limits,
    ) -> Rc<Self> {
        Rc::new(Self {
            address,
            security,
            clock,
            header_bytes: limits.header_bytes,
            connect_timeout: limits.connect_timeout,
            idle_timeout: limits.upstream_idle_timeout,
            open: RefCell::default(),
            all: RefCell::default(),
            waiting: RefCell::new(None),
            last_used: Cell::new(Instant::now()),
        })
    }

    /// Where requests go.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests in flight, for balancing.
    pub(crate) fn pending(&self) -> u32 {
        self.open.borrow().iter().map(|c| c.streams.get()).sum()
    }

    /// Sends a request and waits for the head of its answer. On error the
    /// request comes back if nothing of it was sent.
    pub(crate) async fn send(
        self: &Rc<Self>,
        mut request: Request<RequestBody>,
        exchange: &Rc<Exchange>,
    ) -> Result<(Response<Incoming>, Lease), (UpstreamError, Option<Request<RequestBody>>)> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let lease = match in_time(exchange, self.lend()).await {
                Ok(Ok(lease)) => lease,
                Ok(Err(error)) | Err(error) => return Err((error, Some(request))),
            };
            let replay = Replay::of(&request);
            let sending = lease.0.sender.borrow_mut().try_send_request(request);
            let mut error = match in_time(exchange, sending).await {
                Ok(Ok(response)) => return Ok((response, lease)),
                Ok(Err(error)) => error,
                Err(late) => return Err((late, None)),
            };
            let unsent = error.take_message();
            let error = error.into_error();
            let again = unsent.or_else(|| {
                let replay = replay.filter(|r| r.is_idempotent() || was_not_processed(&error))?;
                Some(replay.request(exchange))
            });
            match again {
                Some(again) if attempt < ATTEMPTS_MAX => request = again,
                again => {
                    tracing::debug!(upstream = %self.address, %error, "upstream failed");
                    return Err((UpstreamError::Failed, again));
                }
            }
        }
    }

    /// Renews connections before their certificates end, and closes them when
    /// nobody has used them for a while.
    pub(crate) fn maintain(self: &Rc<Self>, now: Instant) {
        self.open.borrow_mut().retain(|c| c.is_open());
        let now_s = self.clock.now_us() / 1_000_000;
        // A stream does not outlive the certificates of its connection.
        self.close(|c| (now_s >= c.end_s).then_some(()));
        if now.saturating_duration_since(self.last_used.get()) >= self.idle_timeout {
            self.open.borrow_mut().retain(|c| c.streams.get() > 0);
            return;
        }
        let own_end_s = self.own_end_s();
        let stale = |c: &Rc<Connection>| c.own_end_s != own_end_s || now_s >= c.renew_at_s;
        if self.open.borrow().iter().any(stale) {
            self.connect_in_background();
        }
    }

    /// How other proxies are spoken to here; none for an application.
    pub(crate) fn mutual(&self) -> Option<&Mutual> {
        match &self.security {
            Security::Plain => None,
            Security::Mutual(mutual) => Some(mutual),
        }
    }

    /// Closes the connections, with the streams on them, whose endpoint is trusted
    /// no more, or barred.
    pub(crate) fn revoke(&self) -> Vec<Revocation> {
        let Some(mutual) = self.mutual() else {
            return Vec::new();
        };
        self.close(|c| mutual.revoked(c.proof.as_ref()?))
    }

    /// Closes the connections for which there is a reason.
    fn close<R>(&self, reason: impl Fn(&Connection) -> Option<R>) -> Vec<R> {
        let mut found = Vec::new();
        let mut keep = |connection: &Connection| match reason(connection) {
            None => true,
            Some(reason) => {
                connection.bytes.sever();
                found.push(reason);
                false
            }
        };
        let mut all = self.all.borrow_mut();
        all.retain(|c| c.upgrade().is_some_and(|c| keep(&c)));
        drop(all);
        self.open.borrow_mut().retain(|c| !c.bytes.is_severed());
        found
    }

    /// Whether the pool holds nothing and was not used for a while.
    pub(crate) fn is_forgotten(&self, now: Instant) -> bool {
        self.open.borrow().is_empty()
            && self.all.borrow().iter().all(|c| c.strong_count() == 0)
            && self.waiting.borrow().is_none()
            && now.saturating_duration_since(self.last_used.get()) >= self.idle_timeout
    }

    fn own_end_s(&self) -> i64 {
        match &self.security {
            Security::Plain => i64::MAX,
            Security::Mutual(mutual) => mutual.identity.not_after_s(),
        }
    }

    async fn lend(self: &Rc<Self>) -> Result<Lease, UpstreamError> {
        self.last_used.set(Instant::now());
        loop {
            if let Some(connection) = self.pick() {
                connection.streams.set(connection.streams.get() + 1);
                return Ok(Lease(connection));
            }
            self.next_connection()
                .await
                .unwrap_or(Err(UpstreamError::Unreachable))?;
        }
    }

    /// The least busy connection; opens another one when all are full.
    fn pick(self: &Rc<Self>) -> Option<Rc<Connection>> {
        let now_s = self.clock.now_us() / 1_000_000;
        let open = self.open.borrow();
        let usable = open.iter().filter(|c| c.is_open() && now_s < c.end_s);
        let best = usable.min_by_key(|c| c.streams.get()).cloned()?;
        let full = best.streams.get() >= STREAMS_MAX;
        (!full || open.len() >= CONNECTIONS_MAX).then_some(best)
    }

    fn next_connection(self: &Rc<Self>) -> oneshot::Receiver<Result<(), UpstreamError>> {
        let (tell, told) = oneshot::channel();
        self.connect_in_background();
        if let Some(waiting) = self.waiting.borrow_mut().as_mut() {
            waiting.push(tell);
        }
        told
    }

    /// Opens a connection unless one is being opened.
    fn connect_in_background(self: &Rc<Self>) {
        if self.waiting.borrow().is_some() {
            return;
        }
        *self.waiting.borrow_mut() = Some(Vec::new());
        let pool = self.clone();
        tokio::task::spawn_local(async move {
            let opened = tokio::time::timeout(pool.connect_timeout, pool.connect()).await;
            let outcome = opened
                .unwrap_or(Err(UpstreamError::Unreachable))
                .map(|connection| pool.adopt(connection));
            if let Err(error) = outcome {
                tracing::debug!(upstream = %pool.address, %error, "no connection");
            }
            let waiting = pool.waiting.borrow_mut().take();
            for tell in waiting.into_iter().flatten() {
                let _ = tell.send(outcome);
            }
        });
    }

    /// Takes a new connection into use; those that it replaces only finish what
    /// they have.
    fn adopt(&self, connection: Connection) {
        let mut open = self.open.borrow_mut();
        let now_s = self.clock.now_us() / 1_000_000;
        open.retain(|c| c.is_open() && c.own_end_s == connection.own_end_s && now_s < c.renew_at_s);
        let connection = Rc::new(connection);
        self.all.borrow_mut().push(Rc::downgrade(&connection));
        open.push(connection);
    }

    async fn connect(&self) -> Result<Connection, UpstreamError> {
        let now_s = self.clock.now_us() / 1_000_000;
        match &self.security {
            Security::Plain => {
                let stream = connect::tcp(self.address).await?;
                let handle = self.handshake(stream).await?;
                Ok(Connection::new(handle, now_s, i64::MAX, None))
            }
            Security::Mutual(mutual) => {
                let own_end_s = mutual.identity.not_after_s();
                let (stream, proof) = connect::tls(self.address, mutual, ALPN).await?;
                let handle = self.handshake(stream).await?;
                Ok(Connection::new(handle, now_s, own_end_s, Some(proof)))
            }
        }
    }

    async fn handshake<S>(&self, stream: S) -> Result<(Sender, Arc<Bytes>), UpstreamError>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let bytes = Arc::new(Bytes::default());
        let io = TokioIo::new(Observed::severable(stream, bytes.clone()));
        let (sender, connection) = http2::Builder::new(LocalExec)
            .max_header_list_size(self.header_bytes)
            .max_send_buf_size(STREAM_BUFFER)
            .handshake(io)
            .await
            .map_err(|_| UpstreamError::Unreachable)?;
        tokio::task::spawn_local(connection);
        match bytes.wait_first_read().await {
            FirstRead::Data => Ok((sender, bytes)),
            FirstRead::Refused => {
                tracing::warn!(upstream = %self.address, "peer refused our identity");
                Err(UpstreamError::PeerRefusedUs)
            }
            FirstRead::Pending | FirstRead::Failed => Err(UpstreamError::Unreachable),
        }
    }
}

impl Connection {
    fn new(
        (sender, bytes): (Sender, Arc<Bytes>),
        now_s: i64,
        own_end_s: i64,
        proof: Option<Proof>,
    ) -> Self {
        let peer_end_s = proof.as_ref().map_or(i64::MAX, |p| p.peer.not_after_s);
        let end_s = own_end_s.min(peer_end_s);
        let lead = (end_s.saturating_sub(now_s) / 3).clamp(0, RENEW_LEAD_MAX_S);
        Self {
            sender: RefCell::new(sender),
            streams: Cell::new(0),
            own_end_s,
            renew_at_s: end_s.saturating_sub(lead),
            end_s,
            proof,
            bytes,
        }
    }

    fn is_open(&self) -> bool {
        !self.sender.borrow().is_closed()
    }
}

/// Whether the peer said that it did not touch the request (RFC 9113 sections
/// 6.8 and 8.7).
fn was_not_processed(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<::h2::Error>() {
            let refused = h2.reason() == Some(::h2::Reason::REFUSED_STREAM);
            return h2.is_remote() && (h2.is_go_away() || refused);
        }
        source = cause.source();
    }
    false
}
