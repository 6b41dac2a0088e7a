//! Bodies on their way through: streamed, counted, bounded, never buffered.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use palisade_mesh::wire::record::outcome::End;

use crate::{
    exchange::Exchange,
    headers::clean_trailers,
    respond::{Fault, Refusal},
    upstream::Lease,
};

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The exchange was ended from outside. HTTP/2 is told with a reset of the
    /// stream for the reason within.
    #[error("ended before its last byte")]
    Stopped(#[source] h2::Error),
    /// The sender failed.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// More bytes than allowed.
    #[error("request body exceeds its limit")]
    TooLarge,
}

impl BodyError {
    fn stopped() -> Self {
        // What a peer neither repeats nor takes for an error of the protocol.
        Self::Stopped(h2::Reason::CANCEL.into())
    }
}

/// Bytes, and time, that the rest of a body which nobody takes is still read for.
const UNREAD_BYTES: usize = 64 * 1024;
const UNREAD_TIME: Duration = Duration::from_secs(1);

/// Takes leave of the body of a request that is answered without it.
///
/// Over HTTP/2 a body that is dropped before its end resets the stream. What the peer
/// had sent by then arrives on a stream that h2 has forgotten, counts as an error of the
/// peer, and after a hundred of them ends the connection (T80) with every other request
/// on it. So a short rest is read and thrown away; only a long one is cut off, as
/// RFC 9113, section 8.1, has it.
pub(crate) fn discard(request: Request<Incoming>) {
    if request.version() == Version::HTTP_2 {
        read_to_its_end(request.into_body());
    }
}

fn read_to_its_end(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    let read = async move {
        let mut left = UNREAD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    tokio::task::spawn_local(tokio::time::timeout(UNREAD_TIME, read));
}

/// A request's body on its way upstream.
pub(crate) struct RequestBody {
    inner: Option<Incoming>,
    exchange: Rc<Exchange>,
    left: u64,
    /// Whether it shares its connection with other requests.
    multiplexed: bool,
}

impl RequestBody {
    /// Streams `inner`, which came over `version`, at most `limit` bytes of it.
    pub(crate) fn new(
        inner: Incoming,
        version: Version,
        exchange: Rc<Exchange>,
        limit: Option<u64>,
    ) -> Self {
        Self {
            inner: Some(inner),
            exchange,
            left: limit.unwrap_or(u64::MAX),
            multiplexed: version == Version::HTTP_2,
        }
    }

    /// No body, for a request that is sent again.
    pub(crate) fn empty(exchange: Rc<Exchange>) -> Self {
        Self {
            inner: None,
            exchange,
            left: 0,
            multiplexed: false,
        }
    }

    fn pass(&mut self, mut frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        if let Some(data) = frame.data_ref() {
            let len = data.len() as u64;
            self.exchange.count_in(len);
            match self.left.checked_sub(len) {
                Some(left) => self.left = left,
                None => {
                    self.exchange.fail(Fault::BodyTooLarge, End::ClientAborted);
                    return Err(BodyError::TooLarge);
                }
            }
        } else if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers);
        }
        Ok(frame)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.inner.is_some() && self.exchange.is_stopped() {
            return Poll::Ready(Some(Err(BodyError::stopped())));
        }
        let Some(inner) = self.inner.as_mut() else {
            return Poll::Ready(None);
        };
        let Poll::Ready(polled) = Pin::new(inner).poll_frame(cx) else {
            self.exchange.upload.register(cx);
            return Poll::Pending;
        };
        Poll::Ready(match polled {
            Some(Ok(frame)) => Some(self.pass(frame)),
            Some(Err(e)) => {
                // Seen by the caller only if it is still there.
                self.exchange.fail(Fault::BodyMalformed, End::ClientAborted);
                Some(Err(e.into()))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // Upstream answered, or failed, before it had read all.
        if self.multiplexed
            && let Some(inner) = self.inner.take()
        {
            read_to_its_end(inner);
        }
    }
}

/// A response's body on its way to the caller: ours, or an upstream's.
pub(crate) enum ResponseBody {
    Own(Option<Bytes>),
    Upstream(Upstream),
}

/// An upstream's body, with the connection it comes on.
pub(crate) struct Upstream {
    inner: Incoming,
    exchange: Rc<Exchange>,
    lease: Option<Lease>,
    /// Whether the last frame has been passed on although `inner` has more.
    cut: bool,
}

impl ResponseBody {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self::Own(None)
    }

    /// A body of ours.
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self::Own(Some(bytes))
    }

    /// Streams `inner`; gives the connection back when it has ended.
    pub(crate) fn upstream(inner: Incoming, exchange: Rc<Exchange>, lease: Lease) -> Self {
        let mut upstream = Upstream {
            inner,
            exchange,
            lease: Some(lease),
            cut: false,
        };
        if upstream.inner.is_end_stream() {
            upstream.complete();
        }
        Self::Upstream(upstream)
    }
}

impl Upstream {
    fn complete(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.release();
        }
        self.exchange.finish(End::Completed);
    }

    /// Ends an answer that has begun: with a status where the protocol has one
    /// after the head, else so that nobody takes it for whole.
    fn cut_short(&mut self, end: End, refusal: &Refusal) -> Result<Frame<Bytes>, BodyError> {
        self.lease = None;
        self.cut = true;
        self.exchange.finish(end);
        if self.exchange.ends_in_trailers() {
            return Ok(Frame::trailers(refusal.trailers()));
        }
        Err(BodyError::stopped())
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.cut {
            return Poll::Ready(None);
        }
        if let Some((end, refusal)) = self.exchange.stopped() {
            return Poll::Ready(Some(self.cut_short(end, &refusal)));
        }
        let Poll::Ready(polled) = Pin::new(&mut self.inner).poll_frame(cx) else {
            self.exchange.wake.register(cx);
            return Poll::Pending;
        };
        Poll::Ready(match polled {
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.exchange.count_out(data.len() as u64);
                } else if let Some(trailers) = frame.trailers_mut() {
                    clean_trailers(trailers);
                }
                if self.inner.is_end_stream() {
                    self.complete();
                }
                Some(Ok(frame))
            }
            Some(Err(e)) => {
                self.lease = None;
                self.exchange.blame(End::UpstreamFailed, "response_body");
                self.exchange.finish(End::UpstreamFailed);
                Some(Err(e.into()))
            }
            None => {
                self.complete();
                None
            }
        })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // A body that hyper need not read to its end is complete all the same.
        if self.lease.is_some() && self.inner.is_end_stream() {
            self.complete();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Upstream(upstream) => upstream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Upstream(upstream) => upstream.cut || upstream.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Upstream(upstream) => upstream.inner.size_hint(),
        }
    }
}
