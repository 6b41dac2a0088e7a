//! gRPC over mTLS between roles: our own accept loop and our own connector,
//! because tonic's TLS settings take no verifier of ours.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use hyper_util::rt::TokioIo;
use palisade_mesh::{
    spiffe_id::SpiffeId,
    svid::{Identity, Peer, PeerError, Witness, peer_of_chain},
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri, server::Connected};
use tracing::warn;

/// How long a peer may take for its handshake.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that have shaken hands and wait to be served.
pub(super) const ACCEPTED_MAX: usize = 64;
/// Handshakes at the same time; further peers wait in the listen queue.
pub(super) const HANDSHAKES_MAX: usize = 256;
/// How long to rest when accepting fails, as it does without file descriptors.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

use super::{
    arrival::{Arrival, accept},
    crowd::{Crowd, Place, Room},
    directory::Whereabouts,
    ties::{Tied, Ties},
};

/// A connection whose peer has proven who it is; it ends when that is trusted no more.
/// gRPC services find the [`Peer`] among the extensions of their requests.
pub struct PeerStream {
    stream: Tied<TlsStream<TcpStream>>,
    peer: Peer,
    source: SocketAddr,
    _place: Place,
}

impl PeerStream {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Where it is.
    pub fn source(&self) -> SocketAddr {
        self.source
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Accepts peers of the trust domain on `listener`, for tonic's
/// `serve_with_incoming`. One slow or hostile handshake does not hold up others,
/// and no failure ends the stream.
pub fn incoming(
    listener: TcpListener,
    identity: &Identity,
) -> impl Stream<Item = io::Result<PeerStream>> + Send + use<> {
    incoming_within(listener, identity, Crowd::default())
}

/// As [`incoming`], with the room that `crowd` has: connections beyond it are closed,
/// before the handshake for the whole listener and after it for one identity.
pub fn incoming_within(
    listener: TcpListener,
    identity: &Identity,
    crowd: Crowd,
) -> impl Stream<Item = io::Result<PeerStream>> + Send + use<> {
    let ties = Ties::new(identity);
    let (accepted, ready) = mpsc::channel(ACCEPTED_MAX);
    let served = accepted.clone();
    let end = async move { served.closed().await };
    let receive = move |arrival: Arrival| {
        let (ties, accepted) = (ties.clone(), accepted.clone());
        async move {
            let (stream, slot) = handshake(&ties, arrival).await?;
            drop(accepted.send(Ok(stream)).await);
            drop(slot);
            Ok(())
        }
    };
    tokio::spawn(accept(listener, "control", crowd, end, receive));
    tokio_stream::wrappers::ReceiverStream::new(ready)
}

async fn handshake(
    ties: &Ties,
    arrival: Arrival,
) -> io::Result<(PeerStream, OwnedSemaphorePermit)> {
    let Arrival {
        stream,
        source,
        room,
        slot,
    } = arrival;
    stream.set_nodelay(true)?;
    let (config, witness) = ties.identity().server_session(&[b"h2"]);
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(stream);
    let stream = timeout(HANDSHAKE_TIMEOUT, accepting).await??;
    Ok((proven(stream, source, room, ties, &witness)?, slot))
}

/// A connection whose handshake is done, if its peer has not too many already. `witness`
/// was there.
pub(super) fn proven(
    stream: TlsStream<TcpStream>,
    source: SocketAddr,
    room: Room,
    ties: &Ties,
    witness: &Witness,
) -> io::Result<PeerStream> {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = peer_of_chain(chain).map_err(io::Error::other)?;
    let place = room.of(&peer.id).ok_or_else(|| {
        warn!(%source, src.id = %peer.id, "control connection refused: its identity holds too many");
        io::Error::other("too many connections of one identity")
    })?;
    Ok(PeerStream {
        stream: ties.tie(stream, witness)?,
        peer,
        source,
        _place: place,
    })
}

/// A gRPC channel to `address` that accepts only a server proving `expected`.
/// Connects when first used and again after a loss.
pub fn channel(address: SocketAddr, expected: &SpiffeId, identity: &Identity) -> Channel {
    channel_to(&Whereabouts::At(address), expected, identity)
}

/// As [`channel`], to wherever the part is at the time of each connection.
pub fn channel_to(place: &Whereabouts, expected: &SpiffeId, identity: &Identity) -> Channel {
    let (ties, expected) = (Ties::new(identity), expected.clone());
    let place = place.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (ties, expected, place) = (ties.clone(), expected.clone(), place.clone());
        async move {
            let mut last = io::Error::other("it has no address");
            for address in place.addresses().await? {
                match connect(&ties, &expected, address).await {
                    Ok(stream) => return Ok(TokioIo::new(stream)),
                    Err(error) => last = error,
                }
            }
            Err::<_, io::Error>(last)
        }
    });
    Endpoint::from_static("http://palisade")
        .connect_timeout(HANDSHAKE_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

async fn connect(ties: &Ties, expected: &SpiffeId, address: SocketAddr) -> io::Result<Link> {
    let stream = timeout(HANDSHAKE_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    shake(ties, expected, stream, address).await
}

/// A link that we opened.
pub(super) type Link = Tied<tokio_rustls::client::TlsStream<TcpStream>>;

/// Has the server at the other end of `stream` prove that it is `expected`.
pub(super) async fn shake(
    ties: &Ties,
    expected: &SpiffeId,
    stream: TcpStream,
    address: SocketAddr,
) -> io::Result<Link> {
    let expected = std::slice::from_ref(expected);
    let (config, witness) = ties.identity().client_session(expected, &[b"h2"]);
    let name = ServerName::IpAddress(address.ip().into());
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    ties.tie(timeout(HANDSHAKE_TIMEOUT, connecting).await??, &witness)
}

/// Says in one sentence why a TLS link failed, when a peer's identity was the reason.
pub fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<PeerError> {
    PeerError::of_handshake(error)
}
