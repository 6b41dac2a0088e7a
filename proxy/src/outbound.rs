//! The listener through which the local application calls other services:
//! plaintext on loopback in, mTLS and HTTP/2 out.
//!
//! The host names the service, the catalogue its identities, the endpoint table
//! where it is. The destination decides; here only hygiene is kept, the call is
//! recorded under an id that the destination repeats in its decision, and the request
//! is brought there. It goes to another endpoint only when nothing of it was sent.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, Request, Response, Version, header::HOST, uri::Scheme};
use hyper::{body::Incoming, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use palisade_mesh::{canonical::CanonicalRequest, catalogue::Service, wire::record::outcome::End};
use tokio::net::TcpStream;

use crate::{
    body::{RequestBody, ResponseBody, discard},
    connection::{Bytes, Control, Kind, Observed, Place},
    exchange::{Called, Exchange, InFlight, Opening, Side},
    forward::{absolute_form, is_event_stream},
    headers,
    hosts::HostCache,
    inbound::{h1_server, h2_server, steered},
    respond::{Fault, Refusal, without_body},
    upstream::{Lease, UpstreamError, cluster::Cluster},
    worker::Worker,
};

mod websocket;

use websocket::upgrade;

/// Endpoints tried for one request.
const ATTEMPTS_MAX: usize = 2;
/// The first bytes of an HTTP/2 connection (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI ";

/// A connection of the local application.
struct Local {
    control: Rc<Control>,
    hosts: HostCache,
}

/// Serves one connection.
pub(crate) fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    _: SocketAddr,
    place: Place,
) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let limit = worker.limits().header_read_timeout;
        if let Ok(Some(kind)) = tokio::time::timeout(limit, kind_of(&stream)).await {
            drive(worker, stream, kind).await;
        }
        drop(place);
    })
}

/// What the caller speaks; `None` when it left without a word.
async fn kind_of(stream: &TcpStream) -> Option<Kind> {
    let mut first = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut first).await.ok().filter(|n| *n > 0)?;
        let seen = first.get(..count)?;
        if seen == PREFACE {
            return Some(Kind::Http2);
        }
        if !PREFACE.starts_with(seen) {
            return Some(Kind::Http1);
        }
        // Part of a preface is readable already and gives no further notice.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn drive(worker: Rc<Worker>, stream: TcpStream, kind: Kind) {
    let bytes = Arc::new(Bytes::default());
    let local = Rc::new(Local {
        control: Rc::new(Control::endless(bytes.clone(), kind)),
        hosts: HostCache::default(),
    });
    worker.connections.steer(&local.control);
    let control = local.control.clone();
    let io = TokioIo::new(Observed::new(stream, bytes));
    let serve = {
        let worker = worker.clone();
        service_fn(move |request| handle(worker.clone(), local.clone(), request))
    };
    if kind == Kind::Http2 {
        let connection = h2_server(worker.limits()).serve_connection(io, serve);
        let mut connection = pin!(connection);
        steered(&control, connection.as_mut(), |c| c.graceful_shutdown()).await;
    } else {
        let connection = h1_server(worker.limits())
            .serve_connection(io, serve)
            .with_upgrades();
        let mut connection = pin!(connection);
        steered(&control, connection.as_mut(), |c| c.graceful_shutdown()).await;
    }
}

async fn handle(
    worker: Rc<Worker>,
    local: Rc<Local>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    if request.method() == Method::HEAD {
        return Ok(without_body(respond(&worker, &local, request).await));
    }
    Ok(respond(&worker, &local, request).await)
}

async fn respond(
    worker: &Rc<Worker>,
    local: &Local,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let started = Instant::now();
    let in_flight = InFlight::begin(&local.control);
    let grpc = headers::is_grpc(request.headers());
    let mut routed = match route(worker, &mut request) {
        Ok(routed) => routed,
        Err(refusal) => {
            worker
                .telemetry
                .event("palisade_outbound_refused_total", refusal.reason);
            discard(request);
            return local.control.refuse(&refusal, refusal.answer(grpc, None));
        }
    };
    let opening = Opening {
        side: Side::Outbound(number(worker, &routed.request, &mut request)),
        service: routed.service.clone(),
        method: routed.request.method,
        started,
        in_flight,
        grpc,
    };
    let exchange = Exchange::open(worker, opening);
    if let Some(downstream) = routed.upgrade.take() {
        return upgrade(worker, local, &routed, request, exchange, downstream).await;
    }
    let response = match prepare(local, &routed.request, request, &exchange) {
        Some(request) => send(&routed.cluster, request, &exchange).await,
        None => Err(UpstreamError::Failed.fault()),
    };
    match response {
        Ok((response, lease)) => relay(exchange, response, lease),
        Err(fault) => fail(worker, &exchange, fault, grpc),
    }
}

/// Gives the request the id under which both sides record it.
fn number(
    worker: &Worker,
    canonical: &CanonicalRequest,
    request: &mut Request<Incoming>,
) -> Called {
    let id = worker.recorder.borrow_mut().next_id(worker.clock.now_us());
    let value = worker.header_value(id.0.array_to_str(&mut [0; 26]).as_bytes());
    request.headers_mut().insert(headers::REQUEST_ID, value);
    Called::new(id, canonical.clone())
}

/// A request whose service is known.
struct Routed {
    request: CanonicalRequest,
    service: Arc<Service>,
    cluster: Rc<Cluster>,
    /// The caller's end of the WebSocket that the request opens.
    upgrade: Option<OnUpgrade>,
}

fn route(worker: &Worker, request: &mut Request<Incoming>) -> Result<Routed, Refusal> {
    if worker.exchanges.live() >= worker.requests_max {
        return Err(Fault::Overloaded.into());
    }
    if request.headers().len() > worker.limits().header_count {
        return Err(Fault::HeadTooLarge.into());
    }
    let canonical = headers::canonical(request)?;
    let mut policy = worker.policy.borrow_mut();
    let live = policy.current().ok_or(Fault::NoSnapshot)?;
    let declared = live.catalogue.headers();
    let underscores = worker.limits().header_underscores;
    let hop = headers::clean_request(request.headers_mut(), declared, underscores)
        .map_err(Fault::from)?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.filter(|_| hop.is_websocket());
    let _ = headers::take_trace(request.headers_mut());
    let service = live.catalogue.by_host(&canonical.host);
    let service = service.ok_or(Fault::HostUnknown)?.clone();
    let table = worker.endpoints();
    let cluster = worker.clusters.of(&service, &live.catalogue, &table);
    Ok(Routed {
        request: canonical,
        service,
        cluster,
        upgrade,
    })
}

fn prepare(
    local: &Local,
    canonical: &CanonicalRequest,
    mut request: Request<Incoming>,
    exchange: &Rc<Exchange>,
) -> Option<Request<RequestBody>> {
    let forms = local.hosts.forms(&canonical.host)?;
    request.headers_mut().remove(HOST);
    let version = std::mem::replace(request.version_mut(), Version::HTTP_2);
    let received = std::mem::take(request.uri_mut());
    *request.uri_mut() = absolute_form(Scheme::HTTPS, received, canonical, &forms)?;
    Some(request.map(|body| RequestBody::new(body, version, exchange.clone(), None)))
}

async fn send(
    cluster: &Cluster,
    mut request: Request<RequestBody>,
    exchange: &Rc<Exchange>,
) -> Result<(Response<Incoming>, Lease), Fault> {
    let mut tried = None;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let Some(member) = cluster.choose(Instant::now(), tried) else {
            return Err(Fault::NoEndpoint);
        };
        let address = member.pool.address();
        exchange.sent_to(address);
        let (error, unsent) = match member.pool.send(request, exchange).await {
            Ok((response, lease)) => return Ok((response, Lease::H2(lease))),
            Err(failed) => failed,
        };
        if unsent.is_some() && error != UpstreamError::Stopped {
            member.failed(Instant::now());
        }
        match unsent {
            Some(again) if attempt < ATTEMPTS_MAX && error != UpstreamError::Stopped => {
                request = again;
                tried = Some(address);
            }
            _ => return Err(error.fault()),
        }
    }
}

fn relay(
    exchange: Rc<Exchange>,
    response: Response<Incoming>,
    lease: Lease,
) -> Response<ResponseBody> {
    let status = response.status().as_u16();
    exchange.answered(status);
    exchange.note_call(
        Some((
            status,
            headers::id_in(response.headers(), &headers::DECISION_ID),
        )),
        "",
    );
    exchange.head_came(is_event_stream(response.headers()));
    let (mut parts, body) = response.into_parts();
    headers::clean_peer_response(&mut parts.headers);
    parts.version = Version::HTTP_11;
    Response::from_parts(parts, ResponseBody::upstream(body, exchange, lease))
}

fn fail(worker: &Worker, exchange: &Exchange, fault: Fault, grpc: bool) -> Response<ResponseBody> {
    worker
        .telemetry
        .event("palisade_outbound_refused_total", fault.reason());
    tracing::info!(service = %exchange.service().id, reason = fault.reason(), "outbound request failed");
    let (end, refusal) = exchange
        .stopped()
        .unwrap_or_else(|| (End::UpstreamFailed, fault.into()));
    exchange.answered(refusal.status);
    exchange.note_call(None, refusal.reason);
    exchange.blame(end, refusal.reason);
    exchange.finish(end);
    refusal.answer(grpc, None)
}
