//! Control connections that end when what their peer's identity rests on is trusted no
//! more.
//!
//! A handshake verifies a chain once. When its root leaves the bundle, because it was
//! revoked or has retired, the connection ends, and whoever has a certificate under
//! another root comes again. Else a peer under a stolen authority could go on asking
//! for certificates, policy or records until its own certificate ends.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use palisade_mesh::{
    changes::Follower,
    svid::{Foundation, Identity, Witness},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

/// Connections that are noted before those that have ended are looked for.
const NOTED_MIN: usize = 64;

/// The connections of one listener or channel; clones are one.
#[derive(Debug, Clone)]
pub(super) struct Ties {
    identity: Identity,
    lines: Arc<Mutex<Lines>>,
    _following: Arc<DropGuard>,
}

#[derive(Debug)]
struct Lines {
    open: Vec<Weak<Line>>,
    /// How many are noted before the next look for those that have ended.
    room: usize,
}

/// One connection.
#[derive(Debug)]
struct Line {
    foundation: Arc<Foundation>,
    severed: AtomicBool,
    reader: AtomicWaker,
}

impl Ties {
    /// For connections that `identity` verifies. Must be called inside a tokio runtime.
    pub(super) fn new(identity: &Identity) -> Self {
        let lines = Arc::new(Mutex::new(Lines {
            open: Vec::new(),
            room: NOTED_MIN,
        }));
        let stop = CancellationToken::new();
        let following = follow(identity.clone(), identity.follow(), lines.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(following));
        Self {
            identity: identity.clone(),
            lines,
            _following: Arc::new(stop.drop_guard()),
        }
    }

    /// Who verifies.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Ties a connection to what `witness` has learned in its handshake.
    ///
    /// # Errors
    /// When that is trusted no more already.
    pub(super) fn tie<S>(&self, stream: S, witness: &Witness) -> io::Result<Tied<S>> {
        let unproven = || io::Error::other("peer's chain was not verified");
        let line = Arc::new(Line {
            foundation: witness.foundation().ok_or_else(unproven)?,
            severed: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        });
        self.lines().note(&line);
        // What was in force during the handshake may be so no more.
        if !self.identity.trusts(&line.foundation) {
            return Err(gone());
        }
        Ok(Tied { stream, line })
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn note(&mut self, line: &Arc<Line>) {
        if self.open.len() >= self.room {
            self.open.retain(|line| line.strong_count() > 0);
            self.room = (self.open.len() * 2).max(NOTED_MIN);
        }
        self.open.push(Arc::downgrade(line));
    }
}

/// Ends what rests on nothing any more, with every change of the bundle.
async fn follow(identity: Identity, mut changes: Follower, lines: Arc<Mutex<Lines>>) {
    loop {
        changes.changed().await;
        let open = lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open
            .clone();
        let lost: Vec<_> = open
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|line| !identity.trusts(&line.foundation))
            .collect();
        if !lost.is_empty() {
            warn!(
                connections = lost.len(),
                "control connections end with the root they rest on"
            );
        }
        lost.iter().for_each(|line| line.sever());
    }
}

impl Line {
    fn sever(&self) {
        self.severed.store(true, Ordering::SeqCst);
        self.reader.wake();
    }

    fn check(&self) -> io::Result<()> {
        match self.severed.load(Ordering::SeqCst) {
            true => Err(gone()),
            false => Ok(()),
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the root of the peer's chain is trusted no more",
    )
}

/// A connection that ends with what it rests on.
#[derive(Debug)]
pub(super) struct Tied<S> {
    stream: S,
    line: Arc<Line>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tied<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.line.reader.register(cx.waker());
        self.line.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tied<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.line.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
