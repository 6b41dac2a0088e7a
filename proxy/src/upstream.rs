//! Connections to the application and to other proxies, held per worker.
//!
//! A request that could not be sent comes back from hyper and goes out on
//! another connection. One that was sent is repeated only where that is safe
//! and its connection failed before any answer: then no caller notices that a
//! pooled connection had just been closed.

use std::{future::Future, pin::pin, rc::Rc, task::Poll};

use http::{Method, Request};
use http_body::Body;

use crate::{body::RequestBody, exchange::Exchange, respond::Fault};

pub(crate) mod cluster;
mod connect;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod single;

pub(crate) use connect::is_alert;

/// Why a request got no answer from upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// It ended after the request was sent.
    #[error("connection ended before the answer")]
    Failed,
    /// The other end is not who it has to be.
    #[error("endpoint did not prove the expected identity")]
    PeerIdentity,
    /// The other end refused who we are.
    #[error("peer refused our identity")]
    PeerRefusedUs,
    /// The exchange was ended: its time is over, or it is allowed no more.
    #[error("ended before the answer")]
    Stopped,
    /// No connection; nothing was sent.
    #[error("cannot connect")]
    Unreachable,
}

impl UpstreamError {
    /// The answer to the caller.
    pub(crate) fn fault(self) -> Fault {
        match self {
            Self::Failed => Fault::UpstreamFailed,
            Self::PeerIdentity => Fault::PeerIdentity,
            Self::PeerRefusedUs => Fault::PeerRefusedUs,
            Self::Stopped => Fault::UpstreamTimeout,
            Self::Unreachable => Fault::UpstreamUnreachable,
        }
    }
}

/// A connection in use; dropped without [`Lease::release`] it is not used again.
pub(crate) enum Lease {
    H1(h1::Lease),
    H2(h2::Lease),
    Single(single::Lease),
}

impl Lease {
    /// Gives the connection back for the next request.
    pub(crate) fn release(self) {
        match self {
            Self::H1(lease) => lease.release(),
            Self::H2(lease) => drop(lease),
            Self::Single(lease) => drop(lease),
        }
    }
}

/// Runs `work` until it is done or the exchange is ended.
pub(crate) async fn in_time<F: Future>(
    exchange: &Exchange,
    work: F,
) -> Result<F::Output, UpstreamError> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| {
        if exchange.is_stopped() {
            return Poll::Ready(Err(UpstreamError::Stopped));
        }
        match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => {
                exchange.wake.register(cx);
                Poll::Pending
            }
        }
    })
    .await
}

/// The head of a request without a body, to be sent again if need be.
pub(crate) struct Replay {
    method: Method,
    uri: http::Uri,
    version: http::Version,
    headers: http::HeaderMap,
}

impl Replay {
    /// Remembers `request` if it has no body.
    pub(crate) fn of(request: &Request<RequestBody>) -> Option<Self> {
        request.body().is_end_stream().then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
        })
    }

    /// Whether repeating the request does no more than sending it once (RFC 9110
    /// section 9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }

    /// The request again.
    pub(crate) fn request(self, exchange: &Rc<Exchange>) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::empty(exchange.clone()));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        request
    }
}
