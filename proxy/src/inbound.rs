//! The listener that protects the application.
//!
//! The handshake proves who calls, once per connection; each request on it is
//! then put in canonical form, decided, recorded and only with a permit
//! forwarded.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use palisade_mesh::{
    decision::{Connection, Pins, TlsFacts},
    snapshot::Digest,
    svid::{Claim, Peer, PeerError, peer_of_chain},
    wire::record::{AuditMode, Verdict},
};
use smol_str::SmolStr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    body::{ResponseBody, discard},
    connection::{Bytes, Control, Kind, Observed, Order, Place, Proof},
    forward,
    hosts::HostCache,
    inbound::{
        enforce::Judged,
        heads::{Counted, Heads, Watched},
    },
    listener::Serve,
    penalty::Turn,
    policy::UNSAID,
    recorder::{DecisionFacts, FailureFacts, Target},
    rejudge,
    respond::{Refusal, without_body},
    telemetry::Count,
    worker::{LocalExec, Worker},
};

pub(crate) mod enforce;
pub(crate) mod extended;
mod heads;

/// Name of this listener in records.
const LISTENER: &str = "inbound";
/// Protocols offered, best first.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
/// How long, and for how many bytes, a refused peer is still listened to.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 16 * 1024;
/// Label of a caller that is no service of the catalogue.
const UNREGISTERED: &str = "unregistered";

/// Who is at the other end of a connection, and what follows from it for every
/// request that comes on it.
pub(crate) struct Caller {
    pub(crate) connection: Connection,
    pub(crate) control: Rc<Control>,
    /// `x-forwarded-client-cert` for the application.
    pub(crate) client_cert: HeaderValue,
    /// The service that calls, as a metric label.
    pub(crate) source: SmolStr,
    pub(crate) allowed: Arc<Count>,
    pub(crate) hosts: HostCache,
    /// What the engine in force, and the one that is tried, keep of this connection.
    pub(crate) pins: RefCell<Pins>,
    pub(crate) tried_pins: RefCell<Pins>,
}

impl Caller {
    /// The caller's SPIFFE ID.
    pub(crate) fn id(&self) -> &str {
        self.connection.peer.id.as_str()
    }

    /// The answer to a request that does not pass; ends the connection if what
    /// follows on it cannot be trusted.
    pub(crate) fn refuse(
        &self,
        refusal: &Refusal,
        grpc: bool,
        id: &HeaderValue,
    ) -> Response<ResponseBody> {
        self.control.refuse(refusal, refusal.answer(grpc, Some(id)))
    }
}

/// What serves a connection to the inbound listener.
pub(crate) fn service() -> Rc<Serve> {
    Rc::new(|worker, stream, source, place| Box::pin(serve(worker, stream, source, place)))
}

async fn serve(worker: Rc<Worker>, stream: TcpStream, source: SocketAddr, place: Place) {
    let turn = worker
        .penalties
        .borrow_mut()
        .turn(source.ip(), Instant::now());
    match turn {
        Turn::Now => {}
        Turn::In(wait) => tokio::time::sleep(wait).await,
        Turn::Never => {
            return worker
                .telemetry
                .event("palisade_connections_refused_total", "penalty");
        }
    }
    let limit = worker.limits().handshake_timeout;
    let (config, witness) = worker.shared.identity.server_session(ALPN);
    let accepting = TlsAcceptor::from(Arc::new(config))
        .accept(stream)
        .into_fallible();
    let stream = match tokio::time::timeout(limit, accepting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err((error, stream))) => {
            refuse_handshake(&worker, source, &error);
            return linger(stream).await;
        }
        Err(_) => {
            let nothing = Claim::default();
            return note_refusal(&worker, source, "handshake_timeout", "", &nothing);
        }
    };
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default();
    let peer = match peer_of_chain(chain) {
        Ok(peer) => peer,
        Err(error) => {
            let claim = chain.first().map(Claim::of_leaf).unwrap_or_default();
            return note_refusal(&worker, source, error.reason(), &error.to_string(), &claim);
        }
    };
    let Some(foundation) = witness.foundation() else {
        let error = PeerError::NoCertificate;
        let claim = chain.first().map(Claim::of_leaf).unwrap_or_default();
        return note_refusal(&worker, source, error.reason(), &error.to_string(), &claim);
    };
    let leaf = chain.first().map(|c| Digest::of(c)).unwrap_or_default();
    let tls = TlsFacts {
        version: "1.3",
        mtls: true,
        sni: session.server_name().map(SmolStr::new),
        alpn: session
            .alpn_protocol()
            .and_then(|p| std::str::from_utf8(p).ok())
            .map(SmolStr::new),
    };
    let kind = match session.alpn_protocol() {
        Some(b"h2") => Kind::Http2,
        _ => Kind::Http1,
    };
    let proof = Rc::new(Proof {
        peer: peer.clone(),
        foundation,
    });
    let connection = Connection { peer, source, tls };
    let bytes = Arc::new(Bytes::default());
    let control = Rc::new(Control::proven(bytes.clone(), kind, proof));
    worker.connections.steer(&control);
    // What was in force during the handshake may be so no more.
    if let Some(why) = rejudge::is_revoked(&worker, &control) {
        let claim = chain.first().map(Claim::of_leaf).unwrap_or_default();
        return note_refusal(&worker, source, why.refusal().reason, "", &claim);
    }
    let caller = Rc::new(admit(&worker, connection, &leaf, control));
    drive(worker, caller, Observed::new(stream, bytes), kind).await;
    drop(place);
}

/// What follows from the handshake, worked out once.
fn admit(
    worker: &Rc<Worker>,
    connection: Connection,
    leaf: &Digest,
    control: Rc<Control>,
) -> Caller {
    let Peer { id, .. } = &connection.peer;
    let source = match worker.policy.borrow_mut().current() {
        Some(live) => live
            .catalogue
            .by_identity(id)
            .map(|s| SmolStr::new(s.id.short())),
        None => None,
    }
    .unwrap_or(SmolStr::new_static(UNREGISTERED));
    let own = worker.shared.identity.id();
    let client_cert = format!("By={own};Hash={leaf};URI={id}");
    Caller {
        client_cert: HeaderValue::try_from(client_cert)
            .unwrap_or_else(|_| HeaderValue::from_static("")),
        allowed: worker.telemetry.allowed_from(&source),
        source,
        control,
        hosts: HostCache::default(),
        pins: RefCell::default(),
        tried_pins: RefCell::default(),
        connection,
    }
}

fn refuse_handshake(worker: &Worker, source: SocketAddr, error: &std::io::Error) {
    let claim = Claim::of_handshake(error);
    match PeerError::of_handshake(error) {
        Some(reason) => note_refusal(worker, source, reason.reason(), &reason.to_string(), &claim),
        // A port scan or a health check of a load balancer: nobody claimed anything.
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            worker
                .telemetry
                .event("palisade_handshakes_refused_total", "closed");
        }
        None => note_refusal(worker, source, "tls", &error.to_string(), &claim),
    }
}

/// Reads on for a moment: closing with unread bytes resets the connection, and
/// the peer would lose the alert that tells it why.
async fn linger(mut stream: TcpStream) {
    let mut ignored = [0; 1024];
    let drain = async {
        let _ = stream.shutdown().await;
        let mut left = LINGER_BYTES;
        while let Ok(read @ 1..) = stream.read(&mut ignored).await
            && read < left
        {
            left -= read;
        }
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

fn note_refusal(
    worker: &Worker,
    source: SocketAddr,
    reason: &'static str,
    detail: &str,
    claim: &Claim,
) {
    worker
        .telemetry
        .event("palisade_handshakes_refused_total", reason);
    let now_us = worker.clock.now_us();
    let mut recorder = worker.recorder.borrow_mut();
    if !recorder.may_note_failure(now_us) {
        worker
            .telemetry
            .event("palisade_handshakes_unrecorded_total", reason);
        return;
    }
    // No request was made, so there is no operation that could add something.
    let mut policy = worker.policy.borrow_mut();
    let live = policy.current();
    let mask = match &live {
        None => &*UNSAID,
        Some(live) => match live.service.as_deref() {
            None => live.catalogue.mask_of(None),
            Some(service) => &service.mask,
        },
    };
    let facts = FailureFacts {
        reason,
        detail,
        claim,
        source,
        listener: LISTENER,
        mask,
    };
    let noted = recorder.authn_failure(&facts, now_us);
    drop(policy);
    drop(recorder);
    worker.count_record(noted, AuditMode::Spool);
    worker.stir();
}

async fn drive(
    worker: Rc<Worker>,
    caller: Rc<Caller>,
    stream: Observed<TlsStream<TcpStream>>,
    kind: Kind,
) {
    match kind {
        Kind::Http2 => drive_h2(&worker, &caller, stream).await,
        _ => drive_h1(&worker, &caller, stream).await,
    }
}

async fn drive_h1(
    worker: &Rc<Worker>,
    caller: &Rc<Caller>,
    stream: Observed<TlsStream<TcpStream>>,
) {
    let serve = {
        let (worker, caller) = (worker.clone(), caller.clone());
        service_fn(move |request| handle(worker.clone(), caller.clone(), request))
    };
    let connection = h1_server(worker.limits())
        .serve_connection(TokioIo::new(stream), serve)
        .with_upgrades();
    let connection = pin!(connection);
    let ended = steered(&caller.control, connection, |c| c.graceful_shutdown()).await;
    if let Some(Err(error)) = ended
        && error.is_parse()
    {
        let (reason, status) = if error.is_parse_too_large() {
            ("head_too_large", 431)
        } else {
            ("malformed", 400)
        };
        note_unreadable(worker, caller, reason, status);
    }
}

async fn drive_h2(
    worker: &Rc<Worker>,
    caller: &Rc<Caller>,
    stream: Observed<TlsStream<TcpStream>>,
) {
    let heads = Heads::new();
    let serve = {
        let (worker, caller, heads) = (worker.clone(), caller.clone(), heads.clone());
        service_fn(move |request| {
            heads.served();
            handle(worker.clone(), caller.clone(), request)
        })
    };
    let stream = TokioIo::new(Counted::new(stream, heads.clone()));
    let mut server = h2_server(worker.limits());
    server.enable_connect_protocol();
    let connection = pin!(server.serve_connection(stream, serve));
    let watched = pin!(Watched {
        connection,
        heads,
        refused: || {
            // After a farewell the peer repeats elsewhere what came too late.
            if caller.control.order() == Order::Serve {
                note_unreadable(worker, caller, "head_refused", 400);
            }
        },
    });
    let ended = steered(&caller.control, watched, |mut w| {
        w.connection.as_mut().graceful_shutdown();
    })
    .await;
    let abused = caller.control.is_abused();
    if abused || matches!(&ended, Some(Err(error)) if heads::is_violation(error)) {
        let source = caller.connection.source.ip();
        worker.penalties.borrow_mut().note(source, Instant::now());
        note_unreadable(worker, caller, "http2_violation", 400);
    }
}

/// An HTTP/1.1 server with our limits; reading heads is timed by the sweep.
pub(crate) fn h1_server(limits: &crate::config::Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    let bytes = limits.header_bytes as usize;
    builder.max_header_size(bytes).header_read_timeout(None);
    builder.max_buf_size(bytes.max(64 * 1024));
    if limits.header_count > DEFAULT_HEADERS {
        builder.max_headers(limits.header_count);
    }
    builder
}

/// Bytes of a response body held for one HTTP/2 stream.
const STREAM_BUFFER: usize = 128 * 1024;
/// Fields hyper accepts without allocating for them.
const DEFAULT_HEADERS: usize = 100;

/// Errors of its peer that make us reset a stream, before a connection is ended with
/// ENHANCE_YOUR_CALM (T80): an honest peer makes none.
const ERROR_RESETS_MAX: usize = 100;

/// An HTTP/2 server with our limits.
pub(crate) fn h2_server(limits: &crate::config::Limits) -> http2::Builder<LocalExec> {
    let mut builder = http2::Builder::new(LocalExec);
    builder
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(limits.header_bytes)
        .max_local_error_reset_streams(ERROR_RESETS_MAX)
        .max_send_buf_size(STREAM_BUFFER);
    builder
}

/// Drives a connection under its orders; `None` when it was cut.
pub(crate) async fn steered<C: Future>(
    control: &Control,
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
) -> Option<C::Output> {
    let mut finishing = false;
    std::future::poll_fn(|cx| {
        match control.poll_order(cx) {
            Order::Serve => {}
            Order::Finish => {
                if !std::mem::replace(&mut finishing, true) {
                    finish(connection.as_mut());
                }
            }
            Order::Cut => return Poll::Ready(None),
        }
        connection.as_mut().poll(cx).map(Some)
    })
    .await
}

/// Records a request that was no HTTP; hyper has answered it already.
fn note_unreadable(worker: &Worker, caller: &Caller, reason: &'static str, status: u16) {
    let now_us = worker.clock.now_us();
    let mut policy = worker.policy.borrow_mut();
    let live = policy.current();
    let service = live.as_ref().and_then(|l| l.service.clone());
    let mode = service
        .as_ref()
        .map_or(AuditMode::Spool, |s| s.audit_of(None));
    let mask = match &live {
        None => &*UNSAID,
        Some(live) => live.catalogue.mask_of(service.as_deref()),
    };
    let mut recorder = worker.recorder.borrow_mut();
    let id = recorder.next_id(now_us);
    let noted = recorder.decision(&DecisionFacts {
        id,
        time_us: now_us,
        mode,
        mask,
        verdict: Verdict::Refused,
        reason,
        peer: &caller.connection.peer,
        source: caller.connection.source,
        service: service.as_ref().map_or("", |s| s.id.as_str()),
        target: Target::Raw {
            method: "",
            path: "",
        },
        route: "",
        answer: None,
        versions: live.as_ref().map(|l| l.versions),
        took: Duration::ZERO,
        trace: None,
        request: None,
        status,
        tried: None,
        permits: None,
    });
    drop(recorder);
    worker.telemetry.gauges.requests.add(1);
    worker
        .telemetry
        .decided(Verdict::Refused, reason, &caller.source);
    worker.count_record(noted, mode);
    worker.stir();
}

async fn handle(
    worker: Rc<Worker>,
    caller: Rc<Caller>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    if request.method() == Method::HEAD {
        return Ok(without_body(respond(&worker, &caller, request).await));
    }
    Ok(respond(&worker, &caller, request).await)
}

async fn respond(
    worker: &Rc<Worker>,
    caller: &Rc<Caller>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    extended::unfold(&mut request);
    let permit = match enforce::judge(worker, caller, &mut request) {
        Judged::Pass(permit) => permit,
        Judged::Wait(unsettled) => match unsettled.settled().await {
            Ok(permit) => permit,
            Err(response) => {
                discard(request);
                return response;
            }
        },
        Judged::Stop(response) => {
            discard(request);
            return response;
        }
    };
    forward::forward(worker, permit, request).await
}
