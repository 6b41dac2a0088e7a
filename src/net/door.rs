//! The authority's network address: two doors behind one port.
//!
//! Which one a caller wants, it says by ALPN in its first message. `h2` is for nodes:
//! both sides prove who they are. `palisade-enrol` is for hosts that have no identity:
//! only the server does. TLS 1.3 on both, no resumption.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use palisade_ca::server::{Caller, Source};
use palisade_mesh::svid::Identity;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{
    LazyConfigAcceptor, rustls::ServerConfig, rustls::server::Acceptor, server::TlsStream,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::{
    authority::ENROL,
    crowd::{Crowd, Room},
    ties::Ties,
    tls::{self, ACCEPT_PAUSE, ACCEPTED_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, PeerStream},
};

/// ALPN of the door for nodes.
const NODES: &[u8] = b"h2";
/// Connections that the enrolment door holds: they last for a few messages.
pub const STRANGERS_MAX: usize = 256;

/// Both doors' connections.
pub struct Arrivals {
    /// Nodes, proven.
    pub nodes: ReceiverStream<io::Result<NodeStream>>,
    /// Strangers.
    pub strangers: ReceiverStream<io::Result<StrangerStream>>,
}

/// Accepts on `listener`, for tonic's `serve_with_incoming`.
pub fn arrivals(listener: TcpListener, identity: &Identity) -> Arrivals {
    let (to_nodes, nodes) = mpsc::channel(ACCEPTED_MAX);
    let (to_strangers, strangers) = mpsc::channel(ACCEPTED_MAX);
    let porter = Arc::new(Porter {
        nodes: Ties::new(identity),
        for_strangers: Arc::new(identity.introducing_config(&[ENROL])),
        stranger_room: Arc::new(Semaphore::new(STRANGERS_MAX)),
        to_nodes,
        to_strangers,
    });
    tokio::spawn(accept(listener, porter));
    Arrivals {
        nodes: ReceiverStream::new(nodes),
        strangers: ReceiverStream::new(strangers),
    }
}

struct Porter {
    nodes: Ties,
    for_strangers: Arc<ServerConfig>,
    stranger_room: Arc<Semaphore>,
    to_nodes: mpsc::Sender<io::Result<NodeStream>>,
    to_strangers: mpsc::Sender<io::Result<StrangerStream>>,
}

async fn accept(listener: TcpListener, porter: Arc<Porter>) {
    let crowd = Crowd::default();
    let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let (stream, source) = tokio::select! {
            next = listener.accept() => match next {
                Ok(next) => next,
                Err(error) => {
                    warn!(%error, "connection to the authority not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = porter.to_nodes.closed() => return,
        };
        let Some(room) = crowd.enter() else {
            warn!(%source, "connection to the authority refused: too many are open");
            continue;
        };
        let porter = porter.clone();
        tokio::spawn(async move {
            if let Err(error) = porter.open(stream, source, room).await {
                debug!(%source, %error, "connection to the authority refused");
            }
            drop(slot);
        });
    }
}

impl Porter {
    async fn open(&self, stream: TcpStream, source: SocketAddr, room: Room) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let start = timeout(HANDSHAKE_TIMEOUT, hello).await??;
        let offered = start.client_hello().alpn();
        let wants_in = offered.is_some_and(|mut protocols| protocols.any(|p| p == ENROL));
        if !wants_in {
            let (config, witness) = self.nodes.identity().server_session(&[NODES]);
            let stream = start.into_stream(Arc::new(config));
            let stream = timeout(HANDSHAKE_TIMEOUT, stream).await??;
            let stream = tls::proven(stream, source, room, &self.nodes, &witness)?;
            let stream = NodeStream(stream);
            drop(self.to_nodes.send(Ok(stream)).await);
            return Ok(());
        }
        let place = self.stranger_room.clone().try_acquire_owned();
        let place = place.map_err(|_| io::Error::other("too many hosts join"))?;
        let stream = start.into_stream(self.for_strangers.clone());
        let stream = StrangerStream {
            stream: timeout(HANDSHAKE_TIMEOUT, stream).await??,
            source,
            _place: (room, place),
        };
        drop(self.to_strangers.send(Ok(stream)).await);
        Ok(())
    }
}

/// A node's connection.
pub struct NodeStream(PeerStream);

/// The connection of a host that has proven nothing.
pub struct StrangerStream {
    stream: TlsStream<TcpStream>,
    source: SocketAddr,
    _place: (Room, tokio::sync::OwnedSemaphorePermit),
}

impl Connected for NodeStream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller {
            peer: self.0.peer().clone(),
            source: self.0.source(),
        }
    }
}

impl Connected for StrangerStream {
    type ConnectInfo = Source;

    fn connect_info(&self) -> Source {
        Source(self.source)
    }
}

macro_rules! stream {
    ($type:ident, $($inner:tt)+) => {
        impl AsyncRead for $type {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$($inner)+).poll_read(cx, buf)
            }
        }
        impl AsyncWrite for $type {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$($inner)+).poll_write(cx, buf)
            }
            fn poll_flush(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$($inner)+).poll_flush(cx)
            }
            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$($inner)+).poll_shutdown(cx)
            }
        }
    };
}
stream!(NodeStream, 0);
stream!(StrangerStream, stream);
