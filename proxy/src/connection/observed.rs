//! Streams that can be watched, and ended, from outside.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::upstream::is_alert;

/// What an [`Observed`] stream has seen. Shared as atomics only because an
/// upgraded connection must be `Send`; both ends live on one thread.
#[derive(Debug, Default)]
pub(crate) struct Bytes {
    read: AtomicBool,
    first: AtomicU8,
    waiter: AtomicWaker,
    severed: AtomicBool,
    reader: AtomicWaker,
}

/// How the first read of a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstRead {
    Pending,
    Data,
    /// The stream ended or failed.
    Failed,
    /// The peer sent a TLS alert.
    Refused,
}

impl Bytes {
    pub(super) fn seen(&self) -> bool {
        self.read.load(Relaxed)
    }

    pub(super) fn clear(&self) {
        self.read.store(false, Relaxed);
    }

    /// How the first read ended.
    pub(crate) fn first_read(&self) -> FirstRead {
        match self.first.load(Relaxed) {
            0 => FirstRead::Pending,
            1 => FirstRead::Data,
            2 => FirstRead::Failed,
            _ => FirstRead::Refused,
        }
    }

    /// Resolves with the end of the first read.
    pub(crate) async fn wait_first_read(&self) -> FirstRead {
        std::future::poll_fn(|cx| {
            self.waiter.register(cx.waker());
            match self.first_read() {
                FirstRead::Pending => Poll::Pending,
                read => Poll::Ready(read),
            }
        })
        .await
    }

    /// Ends the stream: whoever reads or writes it gets an error. For connections
    /// that run in tasks which nobody holds.
    pub(crate) fn sever(&self) {
        self.severed.store(true, Relaxed);
        self.reader.wake();
    }

    /// Whether the stream was ended by us.
    pub(crate) fn is_severed(&self) -> bool {
        self.severed.load(Relaxed)
    }

    fn check(&self) -> io::Result<()> {
        match self.is_severed() {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }

    pub(super) fn note(&self, read: FirstRead) {
        if read == FirstRead::Data {
            self.read.store(true, Relaxed);
        }
        if self.first.load(Relaxed) == 0 {
            self.first.store(read as u8, Relaxed);
            self.waiter.wake();
        }
    }
}

/// A stream that notes when something was read.
#[derive(Debug)]
pub(crate) struct Observed<S> {
    inner: S,
    bytes: Arc<Bytes>,
    severable: bool,
}

impl<S> Observed<S> {
    pub(crate) fn new(inner: S, bytes: Arc<Bytes>) -> Self {
        Self {
            inner,
            bytes,
            severable: false,
        }
    }

    /// One that can be ended by [`Bytes::sever`].
    pub(crate) fn severable(inner: S, bytes: Arc<Bytes>) -> Self {
        Self {
            severable: true,
            ..Self::new(inner, bytes)
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.severable {
            self.bytes.reader.register(cx.waker());
            self.bytes.check()?;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Ok(())) if buf.filled().len() > before => self.bytes.note(FirstRead::Data),
            Poll::Ready(Err(e)) if is_alert(e) => self.bytes.note(FirstRead::Refused),
            Poll::Ready(_) => self.bytes.note(FirstRead::Failed),
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bytes.check()?;
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
        self.bytes.check()?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
