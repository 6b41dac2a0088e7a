//! The application over HTTP/1.1: keep-alive connections, last used first.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;

use super::{Replay, UpstreamError, connect, in_time};
use crate::{body::RequestBody, config::Limits, exchange::Exchange};

type Sender = http1::SendRequest<RequestBody>;

/// An application closes idle connections when it likes; a request sent at that
/// moment is lost. Only a connection that was idle for a while runs this risk, or
/// one that carried a body, which the application may have answered without
/// reading it. Only then the head is kept to send it again.
const RISKY_IDLE: Duration = Duration::from_millis(5);

/// Fresh connections tried for one request.
const FRESH_MAX: usize = 2;

/// The connections of one worker to its application.
pub(crate) struct Pool {
    address: SocketAddr,
    idle: RefCell<Vec<Idle>>,
    idle_max: usize,
    idle_timeout: Duration,
    connect_timeout: Duration,
}

struct Idle {
    sender: Sender,
    since: Instant,
    after_body: bool,
}

impl Idle {
    fn is_risky(&self) -> bool {
        self.after_body || self.since.elapsed() >= RISKY_IDLE
    }
}

/// A connection in use.
pub(crate) struct Lease {
    pool: Rc<Pool>,
    sender: Sender,
    with_body: bool,
}

impl Lease {
    pub(super) fn release(self) {
        self.pool.put(self.sender, self.with_body);
    }
}

impl Pool {
    /// A pool for `address` that keeps at most `idle_max` idle connections.
    pub(crate) fn new(address: SocketAddr, idle_max: usize, limits: &Limits) -> Rc<Self> {
        Rc::new(Self {
            address,
            idle: RefCell::default(),
            idle_max,
            idle_timeout: limits.upstream_idle_timeout,
            connect_timeout: limits.connect_timeout,
        })
    }

    /// Where requests go.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        self: &Rc<Self>,
        mut request: Request<RequestBody>,
        exchange: &Rc<Exchange>,
    ) -> Result<(Response<Incoming>, Lease), UpstreamError> {
        let mut fresh = 0;
        let with_body = !request.body().is_end_stream();
        loop {
            let (mut sender, replay) = match self.take() {
                Some(idle) if idle.is_risky() => {
                    let replay = Replay::of(&request).filter(Replay::is_idempotent);
                    (idle.sender, replay)
                }
                Some(idle) => (idle.sender, None),
                None if fresh == FRESH_MAX => return Err(UpstreamError::Failed),
                None => {
                    fresh += 1;
                    (in_time(exchange, self.connect()).await??, None)
                }
            };
            match in_time(exchange, sender.try_send_request(request)).await? {
                Ok(response) => {
                    let lease = Lease {
                        pool: self.clone(),
                        sender,
                        with_body,
                    };
                    return Ok((response, lease));
                }
                Err(mut error) => match (error.take_message(), replay) {
                    (Some(unsent), _) => request = unsent,
                    (None, Some(replay)) => request = replay.request(exchange),
                    (None, None) => {
                        tracing::debug!(upstream = %self.address, error = %error.into_error(), "upstream failed");
                        return Err(UpstreamError::Failed);
                    }
                },
            }
        }
    }

    /// Closes what has been idle too long.
    pub(crate) fn sweep(&self, now: Instant) {
        let keep = |idle: &Idle| {
            !idle.sender.is_closed()
                && now.saturating_duration_since(idle.since) < self.idle_timeout
        };
        self.idle.borrow_mut().retain(keep);
    }

    fn take(&self) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        // One that still uploads the body of an answered request is not ready,
        // and waits its turn.
        let ready = idle.iter().rposition(|i| i.sender.is_ready());
        match ready {
            Some(at) => Some(idle.remove(at)),
            None => {
                idle.retain(|i| !i.sender.is_closed());
                None
            }
        }
    }

    fn put(&self, sender: Sender, after_body: bool) {
        let mut idle = self.idle.borrow_mut();
        if !sender.is_closed() && idle.len() < self.idle_max {
            idle.push(Idle {
                sender,
                since: Instant::now(),
                after_body,
            });
        }
    }

    async fn connect(&self) -> Result<Sender, UpstreamError> {
        let opened = async {
            let stream = connect::tcp(self.address).await?;
            http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|_| UpstreamError::Unreachable)
        };
        let (sender, connection) = tokio::time::timeout(self.connect_timeout, opened)
            .await
            .map_err(|_| UpstreamError::Unreachable)??;
        tokio::task::spawn_local(connection.with_upgrades());
        Ok(sender)
    }
}
