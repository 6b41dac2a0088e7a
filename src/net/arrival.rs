//! The accept loop of every listener of control links and of the APIs.

use std::{future::Future, net::SocketAddr, pin::pin, sync::Arc};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tracing::{debug, warn};

use super::{
    crowd::{Crowd, Room},
    tls::{ACCEPT_PAUSE, HANDSHAKES_MAX},
};

/// A connection that has just come in; nobody has proven anything on it.
pub(super) struct Arrival {
    pub(super) stream: TcpStream,
    pub(super) source: SocketAddr,
    pub(super) room: Room,
    /// One of [`HANDSHAKES_MAX`]: dropped when the handshake is over.
    pub(super) slot: OwnedSemaphorePermit,
}

/// Accepts on `listener` until `end`, and has each connection received in a task of its
/// own: one slow or hostile handshake does not hold up others, and no failure ends the
/// loop. Connections beyond what `crowd` has room for are closed. `part` is whose they
/// are, for those who read the log.
pub(super) async fn accept<F>(
    listener: TcpListener,
    part: &'static str,
    crowd: Crowd,
    end: impl Future<Output = ()>,
    receive: impl Fn(Arrival) -> F,
) where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut end = pin!(end);
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let (stream, source) = tokio::select! {
            next = listener.accept() => match next {
                Ok(next) => next,
                Err(error) => {
                    warn!(part, %error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = end.as_mut() => return,
        };
        let Some(room) = crowd.enter() else {
            warn!(part, %source, "connection refused: too many are open");
            continue;
        };
        let received = receive(Arrival {
            stream,
            source,
            room,
            slot,
        });
        tokio::spawn(async move {
            if let Err(error) = received.await {
                debug!(part, %source, %error, "connection refused");
            }
        });
    }
}
