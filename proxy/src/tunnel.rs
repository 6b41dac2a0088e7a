//! Bytes both ways after an upgrade, on either side of the mesh.
//!
//! The connection that was upgraded is gone for hyper, so a tunnel takes a place
//! of its own among the connections of its worker. It ends with what it rests on:
//! the peer's certificate and root, the decision, its greatest age.

use std::{future::Future, pin::pin, rc::Rc, sync::Arc};

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderValue,
    header::{CONNECTION, UPGRADE},
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use palisade_mesh::wire::record::outcome::End;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    connection::{Bytes, Control, Kind, Proof},
    exchange::Exchange,
    inbound::steered,
    upstream::{Lease, in_time},
    worker::Worker,
};

/// Bytes in flight on each way through a tunnel.
const BUFFER: usize = 8 * 1024;

/// The two ends of a tunnel, which have both switched or are about to.
pub(crate) struct Ends {
    pub(crate) downstream: OnUpgrade,
    pub(crate) upstream: OnUpgrade,
    pub(crate) lease: Lease,
}

/// Carries bytes both ways until one side has left for good, or the exchange is
/// ended from outside. `proof` is what the peer's end rests on.
pub(crate) fn open(worker: &Rc<Worker>, exchange: Rc<Exchange>, proof: Rc<Proof>, ends: Ends) {
    exchange.head_came(true);
    let control = Rc::new(Control::proven(
        Arc::new(Bytes::default()),
        Kind::Tunnel,
        proof,
    ));
    worker.connections.steer(&control);
    let place = worker.connections.enter();
    tokio::task::spawn_local(async move {
        let Ends {
            downstream,
            upstream,
            lease,
        } = ends;
        let carried = pin!(in_time(&exchange, carry(&exchange, downstream, upstream)));
        let ended = steered(&control, carried, |_| {}).await;
        // Recorded first; then both connections are closed by being dropped.
        exchange.finish(match (exchange.stopped(), ended) {
            (Some((end, _)), _) => end,
            (None, None | Some(Err(_))) => End::Deadline,
            (None, Some(Ok(Ok(())))) => End::Completed,
            // One side left without saying so.
            (None, Some(Ok(Err(_)))) => End::ClientAborted,
        });
        drop((place, lease));
    });
}

type Failure = Box<dyn std::error::Error>;

async fn carry(
    exchange: &Exchange,
    downstream: impl Future<Output = Result<Upgraded, hyper::Error>>,
    upstream: impl Future<Output = Result<Upgraded, hyper::Error>>,
) -> Result<(), Failure> {
    let (downstream, upstream) = (downstream.await?, upstream.await?);
    let (mut caller_reads, mut caller_writes) = tokio::io::split(TokioIo::new(upstream));
    let (mut caller_sends, mut caller_gets) = tokio::io::split(TokioIo::new(downstream));
    let sent = pump(&mut caller_sends, &mut caller_writes, |n| {
        exchange.count_in(n)
    });
    let received = pump(&mut caller_reads, &mut caller_gets, |n| {
        exchange.count_out(n)
    });
    tokio::try_join!(sent, received)?;
    Ok(())
}

/// Copies until the end, counting what was copied.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: impl Fn(u64),
) -> std::io::Result<()> {
    let mut buffer = BytesMut::with_capacity(BUFFER);
    while from.read_buf(&mut buffer).await? > 0 {
        let read = buffer.len() as u64;
        to.write_all_buf(&mut buffer).await?;
        to.flush().await?;
        count(read);
        buffer.clear();
    }
    to.shutdown().await
}

/// Writes the fields of a WebSocket's handshake that are meant for one hop.
pub(crate) fn switch_to_websocket(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}
