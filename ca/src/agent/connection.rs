//! One connection to the Workload API: who is behind it, and its bytes.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

use super::{
    attest::{AttestError, Process},
    grpcio::Rewriter,
    tally::Slot,
};

/// How long a client may take to say HTTP/2's first words.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Bytes read at once.
const READ_LEN: usize = 8 * 1024;

/// Who opened the connection, as the kernel says.
pub(super) type Caller = Arc<Result<Process, AttestError>>;

/// An accepted connection, its requests rewritten where grpcio needs it.
pub(super) struct Connection {
    inner: UnixStream,
    caller: Caller,
    rewriter: Rewriter,
    /// Bytes for HTTP/2, from `given` on.
    ready: Vec<u8>,
    given: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    _slot: Slot,
}

impl Connection {
    pub(super) fn new(inner: UnixStream, caller: Caller, slot: Slot) -> Self {
        Self {
            inner,
            caller,
            rewriter: Rewriter::default(),
            ready: Vec::new(),
            given: 0,
            deadline: Some(Box::pin(sleep(HANDSHAKE_MAX))),
            _slot: slot,
        }
    }

    /// Gives out bytes that are ready; says whether there were any.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = self.ready.get(self.given..).unwrap_or_default();
        let (now, _) = rest.split_at(rest.len().min(buf.remaining()));
        buf.put_slice(now);
        self.given += now.len();
        let gave = !now.is_empty();
        if self.given == self.ready.len() {
            self.ready.clear();
            self.given = 0;
        }
        gave
    }

    fn check_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.rewriter.has_begun() {
            self.deadline = None;
        }
        let late = match &mut self.deadline {
            Some(deadline) => deadline.as_mut().poll(cx).is_ready(),
            None => false,
        };
        if late {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.give(buf) || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            this.check_deadline(cx)?;
            let mut bytes = [0; READ_LEN];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                this.rewriter.finish(&mut this.ready);
                this.give(buf);
                return Poll::Ready(Ok(()));
            }
            this.rewriter.feed(read.filled(), &mut this.ready);
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}
