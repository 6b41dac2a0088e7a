//! The listener of the APIs for whoever is no part of the mesh: the PDP's decisions, the
//! audit service's log. gRPC and HTTP on one port, for peers that prove themselves by an
//! SVID, or without one by what each request brings.

use std::{io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::body::Body;
use http::Response;
use http_body_util::BodyExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use palisade_mesh::{
    diagnostic::Diagnostic,
    svid::{Identity, Peer, peer_of_chain},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    arrival::{Arrival, accept},
    crowd::Crowd,
    ties::Ties,
    tls::{self, HANDSHAKE_TIMEOUT},
};
use crate::run::unbound;

/// Connections of the listener; of them of one identity. Callers keep few.
const CONNECTIONS: (usize, usize) = (4096, 1024);
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// How long the head of an HTTP/1.1 request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what is in flight may take at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// How peers come in.
#[derive(Clone)]
pub enum Door {
    /// TLS; whether a peer without a certificate may come in, too.
    Tls {
        /// Our own identity, which also says whom we trust.
        identity: Identity,
        /// Whether callers may prove themselves by a token.
        open: bool,
    },
    /// Plain text, for loopback.
    Plain,
}

/// Binds the address that the configuration gives at `key`; also tells which port it got.
pub(crate) async fn bind(
    key: &str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), Vec<Diagnostic>> {
    let bound = TcpListener::bind(address).await;
    let bound = bound.and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.map_err(|e| vec![unbound(key, &e)])
}

/// An answer that keeps `seat` until its last byte has gone.
pub(crate) fn seated<T: Send + 'static>(answer: Response<Body>, seat: Option<T>) -> Response<Body> {
    let Some(seat) = seat else { return answer };
    answer.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _kept = &seat;
            frame
        }))
    })
}

/// Serves every connection of `part` with the service that `office` makes for its peer,
/// until `stop`; what is in flight then is finished.
pub async fn serve<S>(
    listener: TcpListener,
    part: &'static str,
    door: Door,
    office: impl Fn(Option<Peer>) -> S + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) where
    S: tower::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<axum::body::Body>,
            Error = std::convert::Infallible,
        > + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let ties = match &door {
        Door::Tls { identity, open } => Some((Ties::new(identity), *open)),
        Door::Plain => None,
    };
    let crowd = Crowd::new(CONNECTIONS.0, CONNECTIONS.1);
    let strangers = Arc::new(Semaphore::new(CONNECTIONS.1));
    let end = stop.clone().cancelled_owned();
    let receive = move |arrival: Arrival| {
        let (ties, office, stop) = (ties.clone(), office.clone(), stop.clone());
        let strangers = strangers.clone();
        async move {
            let opened = open(ties.as_ref(), arrival, &strangers).await?;
            converse(opened, office, stop).await;
            Ok(())
        }
    };
    accept(listener, part, crowd, end, receive).await;
}

/// A connection of either kind.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

struct Opened {
    stream: Pin<Box<dyn Io>>,
    peer: Option<Peer>,
    _place: Box<dyn Send>,
}

async fn open(
    ties: Option<&(Ties, bool)>,
    arrival: Arrival,
    strangers: &Arc<Semaphore>,
) -> io::Result<Opened> {
    let Arrival {
        stream,
        source,
        room,
        slot: _slot,
    } = arrival;
    stream.set_nodelay(true)?;
    let stranger = || {
        let place = strangers.clone().try_acquire_owned();
        place.map_err(|_| io::Error::other("too many callers without a certificate"))
    };
    let Some((ties, optional)) = ties else {
        return Ok(Opened {
            stream: Box::pin(stream),
            peer: None,
            _place: Box::new((room, stranger()?)),
        });
    };
    let alpn: [&[u8]; 2] = [b"h2", b"http/1.1"];
    let (config, witness) = match optional {
        true => ties.identity().open_session(&alpn),
        false => ties.identity().server_session(&alpn),
    };
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(stream);
    let stream = timeout(HANDSHAKE_TIMEOUT, accepting).await??;
    let chain = stream.get_ref().1.peer_certificates();
    if chain.is_none_or(<[_]>::is_empty) && *optional {
        return Ok(Opened {
            stream: Box::pin(stream),
            peer: None,
            _place: Box::new((room, stranger()?)),
        });
    }
    let peer = peer_of_chain(chain.unwrap_or_default()).map_err(io::Error::other)?;
    let stream = tls::proven(stream, source, room, ties, &witness)?;
    Ok(Opened {
        stream: Box::pin(stream),
        peer: Some(peer),
        _place: Box::new(()),
    })
}

async fn converse<S>(opened: Opened, office: impl Fn(Option<Peer>) -> S, stop: CancellationToken)
where
    S: tower::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<axum::body::Body>,
            Error = std::convert::Infallible,
        > + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let service = TowerToHyperService::new(office(opened.peer));
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Some(Duration::from_secs(20)));
    let connection = builder.serve_connection(TokioIo::new(opened.stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(DRAIN, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection to an API ended");
    }
}
