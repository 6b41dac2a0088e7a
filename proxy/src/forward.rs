//! Forwarding: a permitted request goes to the application, its answer back.
//!
//! Nothing here decides. What is sent is the canonical request that was decided;
//! the target is rebuilt only when it was not canonical as it came.

use std::rc::Rc;

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_TYPE, HOST, SEC_WEBSOCKET_KEY},
    uri::{PathAndQuery, Scheme},
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use palisade_mesh::{canonical::CanonicalRequest, wire::record::outcome::End};

use crate::{
    body::{RequestBody, ResponseBody},
    exchange::Exchange,
    headers::{self, DECISION_ID, XFCC},
    hosts::HostForms,
    inbound::{
        Caller,
        enforce::{Permit, Permitted},
        extended::{self, Extended},
    },
    respond::{Fault, Refusal},
    tunnel::{self, switch_to_websocket},
    upstream::{Lease, UpstreamError},
    worker::{Application, Worker},
};

/// Forwards a permitted request to the application.
pub(crate) async fn forward(
    worker: &Rc<Worker>,
    permit: Permit,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let Permitted {
        exchange,
        caller,
        hop,
        id,
        grpc,
    } = permit.redeem();
    let version = request.version();
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.filter(|_| hop.is_websocket());
    let extended = request.extensions_mut().remove::<Extended>();
    let upgrade = upgrade.map(|downstream| (downstream, extended));
    let body_limit = worker.limits().body_bytes;
    let canonical = exchange.decided().map(|decided| &decided.request);
    let outgoing = canonical.and_then(|canonical| address(worker, &caller, canonical, request));
    let outgoing = outgoing.map(|mut request| {
        let headers = request.headers_mut();
        headers.insert(XFCC, caller.client_cert.clone());
        headers.insert(DECISION_ID, id.clone());
        if upgrade.is_some() {
            switch_to_websocket(headers);
            if let (Some(_), Some(key)) = (extended, extended::key(&id)) {
                headers.insert(SEC_WEBSOCKET_KEY, key);
            }
        }
        request.map(|body| RequestBody::new(body, version, exchange.clone(), body_limit))
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
    upgrade: Option<(OnUpgrade, Option<Extended>)>,
    id: &HeaderValue,
    grpc: bool,
) -> Response<ResponseBody> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // An application that switches without having been asked is broken.
        let Some((downstream, extended)) = upgrade else {
            return fail(caller, &exchange, UpstreamError::Failed, grpc, id);
        };
        let status = extended.map_or(response.status(), |_| StatusCode::OK);
        exchange.answered(status.as_u16());
        let upstream = hyper::upgrade::on(&mut response);
        let Some(proof) = caller.control.proof().cloned() else {
            return fail(caller, &exchange, UpstreamError::Failed, grpc, id);
        };
        let ends = tunnel::Ends {
            downstream,
            upstream,
            lease,
        };
        tunnel::open(worker, exchange, proof, ends);
        let (mut parts, _) = response.into_parts();
        headers::clean_response(&mut parts.headers);
        parts.headers.insert(DECISION_ID, id.clone());
        if extended.is_some() {
            return extended::opened(parts);
        }
        switch_to_websocket(&mut parts.headers);
        return Response::from_parts(parts, ResponseBody::empty());
    }
    exchange.answered(response.status().as_u16());
    exchange.head_came(is_event_stream(response.headers()));
    let (mut parts, body) = response.into_parts();
    headers::clean_response(&mut parts.headers);
    parts.headers.insert(DECISION_ID, id.clone());
    parts.version = Version::HTTP_11;
    Response::from_parts(parts, ResponseBody::upstream(body, exchange, lease))
}

/// The answer when the application gave none.
fn fail(
    caller: &Caller,
    exchange: &Exchange,
    error: UpstreamError,
    grpc: bool,
    id: &HeaderValue,
) -> Response<ResponseBody> {
    let (end, refusal) = exchange.stopped().unwrap_or_else(|| blame(exchange, error));
    exchange.answered(refusal.status);
    exchange.blame(end, refusal.reason);
    exchange.finish(end);
    caller.refuse(&refusal, grpc, id)
}

fn blame(exchange: &Exchange, error: UpstreamError) -> (End, Refusal) {
    // A body that ran into its limit is why the upstream failed.
    let fault = exchange.fault().unwrap_or_else(|| error.fault());
    let end = match fault {
        Fault::BodyMalformed | Fault::BodyTooLarge => End::ClientAborted,
        _ => End::UpstreamFailed,
    };
    (end, fault.into())
}

/// Whether an answer has no end by nature (HTML Living Standard, section 9.2).
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"))
}
