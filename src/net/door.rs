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

use super::{
    arrival::{Arrival, accept},
    authority::ENROL,
    crowd::{Crowd, Room},
    ties::Ties,
    tls::{self, ACCEPTED_MAX, HANDSHAKE_TIMEOUT, PeerStream},
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
    let nodes_served = porter.to_nodes.clone();
    let end = async move { nodes_served.closed().await };
    let receive = move |arrival| {
        let porter = porter.clone();
        async move { porter.open(arrival).await }
    };
    tokio::spawn(accept(
        listener,
        "authority",
        Crowd::default(),
        end,
        receive,
    ));
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

impl Porter {
    /// Keeps the arrival's slot until somebody has taken the connection.
    async fn open(&self, arrival: Arrival) -> io::Result<()> {
        let Arrival {
            stream,
            source,
            room,
            slot: _slot,
        } = arrival;
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
