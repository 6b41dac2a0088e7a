//! A connection of HTTP/1.1 over mTLS for one request: what becomes a tunnel is
//! no use to a pool.

use std::{net::SocketAddr, pin::pin, rc::Rc, sync::Arc};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;

use super::{UpstreamError, connect, h2::Mutual, in_time};
use crate::{
    body::RequestBody,
    connection::{Bytes, Control, FirstRead, Kind, Observed, Proof},
    exchange::Exchange,
    inbound::steered,
    worker::Worker,
};

/// The protocol such connections speak.
const ALPN: &[u8] = b"http/1.1";

/// A connection in use; it is closed after its request, unless that became a
/// tunnel.
pub(crate) struct Lease {
    proof: Rc<Proof>,
    _sender: http1::SendRequest<RequestBody>,
}

impl Lease {
    /// Who is at the other end.
    pub(crate) fn proof(&self) -> &Rc<Proof> {
        &self.proof
    }
}

/// Sends a request over a connection of its own and waits for the head of its
/// answer. On error the request comes back if nothing of it was sent.
pub(crate) async fn send(
    worker: &Rc<Worker>,
    address: SocketAddr,
    security: &Mutual,
    request: Request<RequestBody>,
    exchange: &Rc<Exchange>,
) -> Result<(Response<Incoming>, Lease), (UpstreamError, Option<Request<RequestBody>>)> {
    let limit = worker.limits().connect_timeout;
    let opening = tokio::time::timeout(limit, connect::tls(address, security, ALPN));
    let (stream, proof) = match in_time(exchange, opening).await {
        Ok(Ok(Ok(opened))) => opened,
        Ok(Ok(Err(error))) | Err(error) => return Err((error, Some(request))),
        Ok(Err(_)) => return Err((UpstreamError::Unreachable, Some(request))),
    };
    let proof = Rc::new(proof);
    let bytes = Arc::new(Bytes::default());
    let io = TokioIo::new(Observed::new(stream, bytes.clone()));
    let Ok((mut sender, connection)) = http1::handshake(io).await else {
        return Err((UpstreamError::Unreachable, Some(request)));
    };
    // The peer's certificate and root bound this connection as they do a caller's.
    let control = Rc::new(Control::proven(bytes.clone(), Kind::Tunnel, proof.clone()));
    worker.connections.steer(&control);
    tokio::task::spawn_local(async move {
        steered(&control, pin!(connection.with_upgrades()), |_| {}).await;
    });
    match in_time(exchange, sender.try_send_request(request)).await {
        Ok(Ok(response)) => {
            let lease = Lease {
                proof,
                _sender: sender,
            };
            Ok((response, lease))
        }
        Ok(Err(error)) => {
            tracing::debug!(upstream = %address, error = %error.into_error(), "upstream failed");
            let refused = bytes.first_read() == FirstRead::Refused;
            let error = match refused {
                true => UpstreamError::PeerRefusedUs,
                false => UpstreamError::Failed,
            };
            Err((error, None))
        }
        Err(stopped) => Err((stopped, None)),
    }
}
