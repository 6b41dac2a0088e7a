//! Heads of HTTP/2 requests that HTTP/2 itself refuses.
//!
//! A head that is malformed (RFC 9113 section 8.1.1) or too large is answered
//! inside the protocol's library and never becomes a request. It must leave its
//! record all the same (invariant 5), so the heads that arrive are counted in the
//! bytes read and compared with the requests that came of them. The comparison
//! holds whenever the library has read all there is and waits for more.

use std::{
    cell::Cell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes before the first frame (RFC 9113 section 3.4).
const PREFACE_LEN: usize = 24;
/// Bytes of a frame's header (RFC 9113 section 4.1).
const FRAME_HEADER_LEN: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// The heads of one connection.
#[derive(Debug)]
pub(crate) struct Heads {
    arrived: Cell<u64>,
    settled: Cell<u64>,
    /// Whether the last read found nothing.
    dry: Cell<bool>,
}

impl Heads {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            arrived: Cell::new(0),
            settled: Cell::new(0),
            dry: Cell::new(false),
        })
    }

    /// Notes that a head has become a request.
    pub(crate) fn served(&self) {
        self.settled.set(self.settled.get() + 1);
    }

    /// How many were refused since the last time. To be asked only when the
    /// connection waits for bytes.
    fn take_refused(&self) -> u64 {
        if !self.dry.get() {
            return 0;
        }
        let arrived = self.arrived.get();
        arrived.saturating_sub(self.settled.replace(arrived))
    }
}

/// Follows frames through pieces of any size.
#[derive(Debug)]
struct Scanner {
    /// Bytes to pass over.
    skip: usize,
    header: [u8; FRAME_HEADER_LEN],
    filled: usize,
    /// Highest stream so far; only a higher one opens a request.
    last: u32,
    /// Whether a head waits for its CONTINUATION.
    open: bool,
}

impl Scanner {
    fn new() -> Self {
        Self {
            skip: PREFACE_LEN,
            header: [0; FRAME_HEADER_LEN],
            filled: 0,
            last: 0,
            open: false,
        }
    }

    /// How many heads end in `bytes`.
    fn scan(&mut self, mut bytes: &[u8]) -> u64 {
        let mut heads = 0;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((first, rest)) = bytes.split_first() else {
                return heads;
            };
            if let Some(slot) = self.header.get_mut(self.filled) {
                *slot = *first;
            }
            bytes = rest;
            self.filled += 1;
            if self.filled == FRAME_HEADER_LEN {
                self.filled = 0;
                heads += u64::from(self.frame());
            }
        }
    }

    /// Takes a whole frame header; whether the frame ends a request's head.
    fn frame(&mut self) -> bool {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.header;
        self.skip = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        match kind {
            HEADERS if stream > self.last => {
                self.last = stream;
                self.open = true;
            }
            CONTINUATION if self.open => {}
            _ => return false,
        }
        let ended = flags & END_HEADERS != 0;
        self.open = !ended;
        ended
    }
}

/// A stream in which heads are counted.
pub(crate) struct Counted<S> {
    inner: S,
    heads: Rc<Heads>,
    scanner: Scanner,
}

impl<S> Counted<S> {
    pub(crate) fn new(inner: S, heads: Rc<Heads>) -> Self {
        Self {
            inner,
            heads,
            scanner: Scanner::new(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.heads.dry.set(polled.is_pending());
        let read = buf.filled().get(before..).unwrap_or_default();
        let ended = self.scanner.scan(read);
        if ended > 0 {
            self.heads.arrived.set(self.heads.arrived.get() + ended);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// A connection whose refused heads are told.
pub(crate) struct Watched<'c, C, F> {
    pub(crate) connection: Pin<&'c mut C>,
    pub(crate) heads: Rc<Heads>,
    /// Told of each refused head.
    pub(crate) refused: F,
}

impl<C: Future, F: FnMut() + Unpin> Future for Watched<'_, C, F> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.get_mut();
        let polled = this.connection.as_mut().poll(cx);
        if polled.is_pending() {
            for _ in 0..this.heads.take_refused() {
                (this.refused)();
            }
        }
        polled
    }
}

/// Whether a connection ended because its peer broke HTTP/2 or abused it; what
/// is in flight on it then ends with it.
pub(crate) fn is_violation(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    source
        .and_then(|e| e.downcast_ref::<h2::Error>())
        .is_some_and(|e| e.is_go_away() && e.is_library())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![len[1], len[2], len[3], kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// Two requests, one with CONTINUATION and trailers, and frames between them.
    fn traffic() -> Vec<u8> {
        [
            vec![0; PREFACE_LEN],
            frame(4, 0, 0, &[0; 6]),
            frame(HEADERS, 0, 1, &[1; 100]),
            frame(CONTINUATION, 0, 1, &[1; 7]),
            frame(CONTINUATION, END_HEADERS, 1, b""),
            frame(0, 0, 1, &[1; 300]),
            frame(HEADERS, END_HEADERS | 1, 1, &[4; 9]),
            frame(HEADERS, END_HEADERS, 3, &[9; 9]),
            frame(6, 0, 0, &[0; 8]),
        ]
        .concat()
    }

    #[test]
    fn a_refused_head_is_the_one_that_became_no_request() {
        let heads = Heads::new();
        heads.arrived.set(3);
        heads.served();
        assert_eq!(heads.take_refused(), 0, "bytes may be left to read");
        heads.dry.set(true);
        assert_eq!(heads.take_refused(), 2);
        assert_eq!(heads.take_refused(), 0);
    }

    proptest! {
        #[test]
        fn heads_are_counted_however_bytes_are_cut(cuts in proptest::collection::vec(1_usize..40, 1..60)) {
            let traffic = traffic();
            let mut scanner = Scanner::new();
            let mut rest = traffic.as_slice();
            let mut found = 0;
            for cut in cuts.iter().cycle() {
                let (piece, left) = rest.split_at((*cut).min(rest.len()));
                found += scanner.scan(piece);
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, 2);
        }

        #[test]
        fn no_bytes_make_the_scanner_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            Scanner::new().scan(&bytes);
        }
    }
}
