//! Forwarding: a permitted request goes to the application, its answer back.
//!
//! Nothing here decides. What is sent is the canonical request that was decided;
//! the target is rebuilt only when it was not canonical as it came.

use std::{rc::Rc, sync::Arc};

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, HOST, UPGRADE},
    uri::{PathAndQuery, Scheme},
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use palisade_mesh::{canonical::CanonicalRequest, wire::record::outcome::End};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    body::{RequestBody, ResponseBody},
    connection::{Bytes, Control, Kind},
    exchange::Exchange,
    headers::{self, DECISION_ID, XFCC},
    hosts::HostForms,
    inbound::{
        Caller,
        enforce::{Permit, Permitted},
    },
    respond::Fault,
    upstream::{Lease, UpstreamError},
    worker::{Application, Worker},
};

/// Bytes in flight on each way through a tunnel.
const TUNNEL_BUFFER: usize = 8 * 1024;

/// Forwards a permitted request to the application.
pub(crate) async fn forward(
    worker: &Rc<Worker>,
    permit: Permit,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let Permitted {
        exchange,
        caller,
        request: canonical,
        hop,
        id,
        grpc,
    } = permit.redeem();
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.filter(|_| hop.is_websocket());
    let body_limit = worker.limits().body_bytes;
    let outgoing = address(worker, &caller, &canonical, request).map(|mut request| {
        let headers = request.headers_mut();
        headers.insert(XFCC, caller.client_cert.clone());
        headers.insert(DECISION_ID, id.clone());
        if upgrade.is_some() {
            ask_for_websocket(headers);
        }
        request.map(|body| RequestBody::new(body, exchange.clone(), body_limit))
    });
    let sent = match (outgoing, &worker.application) {
        (Some(request), Some(application)) => application.send(request, &exchange).await,
        _ => Err(UpstreamError::Failed),
    };
    match sent {
        Ok((response, lease)) => relay(
            worker, &caller, exchange, response, lease, upgrade, &id, grpc,
        ),
        Err(error) => fail(&caller, &exchange, error, grpc, &id),
    }
}

impl Application {
    async fn send(
        &self,
        request: Request<RequestBody>,
        exchange: &Rc<Exchange>,
    ) -> Result<(Response<Incoming>, Lease), UpstreamError> {
        match self {
            Self::H1(pool) => {
                exchange.sent_to(pool.address());
                let (response, lease) = pool.send(request, exchange).await?;
                Ok((response, Lease::H1(lease)))
            }
            Self::H2(pool) => {
                exchange.sent_to(pool.address());
                let sent = pool.send(request, exchange).await;
                let (response, lease) = sent.map_err(|(error, _)| error)?;
                Ok((response, Lease::H2(lease)))
            }
        }
    }
}

/// Gives the request the target, host and version that the application expects.
fn address(
    worker: &Worker,
    caller: &Caller,
    canonical: &CanonicalRequest,
    mut request: Request<Incoming>,
) -> Option<Request<Incoming>> {
    let forms = caller.hosts.forms(&canonical.host)?;
    match worker.application {
        Some(Application::H2(_)) => {
            request.headers_mut().remove(HOST);
            *request.version_mut() = Version::HTTP_2;
            let uri = absolute_form(
                Scheme::HTTP,
                std::mem::take(request.uri_mut()),
                canonical,
                &forms,
            )?;
            *request.uri_mut() = uri;
        }
        _ => {
            request.headers_mut().insert(HOST, forms.value);
            *request.version_mut() = Version::HTTP_11;
            if canonical.rewritten || request.uri().authority().is_some() {
                let target = target(std::mem::take(request.uri_mut()), canonical)?;
                *request.uri_mut() = Uri::from(target);
            }
        }
    }
    Some(request)
}

/// Path and query as they were decided.
pub(crate) fn target(uri: Uri, canonical: &CanonicalRequest) -> Option<PathAndQuery> {
    // `?x` alone is read as `/?x`; the upstream must not have to guess.
    if !canonical.rewritten
        && let Some(received) = uri.into_parts().path_and_query
        && received.as_str().starts_with(['/', '*'])
    {
        return Some(received);
    }
    let text = match &canonical.query {
        Some(query) => format!("{}?{query}", canonical.path),
        None => canonical.path.to_string(),
    };
    PathAndQuery::try_from(text).ok()
}

/// The whole URI, as HTTP/2 needs it.
pub(crate) fn absolute_form(
    scheme: Scheme,
    uri: Uri,
    canonical: &CanonicalRequest,
    forms: &HostForms,
) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(forms.authority.clone());
    parts.path_and_query = Some(target(uri, canonical)?);
    Uri::from_parts(parts).ok()
}

#[expect(clippy::too_many_arguments, reason = "all that is known of one answer")]
fn relay(
    worker: &Rc<Worker>,
    caller: &Rc<Caller>,
    exchange: Rc<Exchange>,
    mut response: Response<Incoming>,
    lease: Lease,
    upgrade: Option<OnUpgrade>,
    id: &HeaderValue,
    grpc: bool,
) -> Response<ResponseBody> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // An application that switches without having been asked is broken.
        let Some(downstream) = upgrade else {
            return fail(caller, &exchange, UpstreamError::Failed, grpc, id);
        };
        exchange.answered(response.status().as_u16());
        let upstream = hyper::upgrade::on(&mut response);
        tunnel(worker, caller, exchange, downstream, upstream, lease);
        let (mut parts, _) = response.into_parts();
        headers::clean_response(&mut parts.headers);
        ask_for_websocket(&mut parts.headers);
        parts.headers.insert(DECISION_ID, id.clone());
        return Response::from_parts(parts, ResponseBody::empty());
    }
    exchange.answered(response.status().as_u16());
    let (mut parts, body) = response.into_parts();
    headers::clean_response(&mut parts.headers);
    parts.headers.insert(DECISION_ID, id.clone());
    parts.version = Version::HTTP_11;
    Response::from_parts(parts, ResponseBody::upstream(body, exchange, lease))
}

fn ask_for_websocket(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// The answer when the application gave none.
fn fail(
    caller: &Caller,
    exchange: &Exchange,
    error: UpstreamError,
    grpc: bool,
    id: &HeaderValue,
) -> Response<ResponseBody> {
    // A body that ran into its limit is why the upstream failed.
    let fault = exchange.fault().unwrap_or_else(|| error.fault());
    let end = match (fault, error) {
        (Fault::BodyMalformed | Fault::BodyTooLarge, _) => End::ClientAborted,
        (_, UpstreamError::TimedOut) => End::TimedOut,
        _ => End::UpstreamFailed,
    };
    exchange.answered(fault.status());
    exchange.blame(end, fault.reason());
    exchange.finish(end);
    caller.refuse(&fault.into(), grpc, id)
}

/// Carries bytes both ways once both sides have switched. The connection that
/// was upgraded is gone for hyper, so the tunnel takes a place of its own; it is
/// cut when the caller's certificate ends.
fn tunnel(
    worker: &Rc<Worker>,
    caller: &Rc<Caller>,
    exchange: Rc<Exchange>,
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    lease: Lease,
) {
    exchange.lift_deadline();
    let peer = &caller.connection.peer;
    let control = Rc::new(Control::new(
        Arc::new(Bytes::default()),
        Kind::Tunnel,
        peer.not_before_s,
        peer.not_after_s,
    ));
    worker.connections.steer(&control);
    let place = worker.connections.enter();
    tokio::task::spawn_local(async move {
        let carried = std::pin::pin!(carry(&exchange, downstream, upstream));
        let ended = crate::inbound::steered(&control, carried, |_| {}).await;
        exchange.finish(match ended {
            None => End::Deadline,
            Some(Ok(())) => End::Completed,
            // One side left without saying so.
            Some(Err(_)) => End::ClientAborted,
        });
        drop((place, lease));
    });
}

async fn carry(
    exchange: &Exchange,
    downstream: OnUpgrade,
    upstream: OnUpgrade,
) -> Result<(), Box<dyn std::error::Error>> {
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
    let mut buffer = BytesMut::with_capacity(TUNNEL_BUFFER);
    while from.read_buf(&mut buffer).await? > 0 {
        let read = buffer.len() as u64;
        to.write_all_buf(&mut buffer).await?;
        to.flush().await?;
        count(read);
        buffer.clear();
    }
    to.shutdown().await
}
