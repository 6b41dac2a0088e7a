//! WebSockets of the local application: HTTP/1.1 all the way, over a connection
//! of its own to the destination, which decides before anything is switched.

use std::{rc::Rc, time::Instant};

use http::{Request, Response, StatusCode, Uri, Version, header::HOST};
use hyper::{body::Incoming, upgrade::OnUpgrade};

use super::{ATTEMPTS_MAX, Local, Routed, fail, relay};
use crate::{
    body::{RequestBody, ResponseBody},
    exchange::Exchange,
    forward::target,
    headers,
    respond::Fault,
    tunnel::{self, switch_to_websocket},
    upstream::{Lease, UpstreamError, cluster::Cluster, single},
    worker::Worker,
};

/// Asks the destination to switch; only its 101 makes a tunnel.
pub(super) async fn upgrade(
    worker: &Rc<Worker>,
    local: &Local,
    routed: &Routed,
    request: Request<Incoming>,
    exchange: Rc<Exchange>,
    downstream: OnUpgrade,
) -> Response<ResponseBody> {
    let sent = match prepare(local, routed, request, &exchange) {
        Some(request) => send(worker, &routed.cluster, request, &exchange).await,
        None => Err(UpstreamError::Failed.fault()),
    };
    let (mut response, lease) = match sent {
        Ok(answered) => answered,
        Err(fault) => return fail(worker, &exchange, fault, false),
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return relay(exchange, response, Lease::Single(lease));
    }
    let status = response.status().as_u16();
    exchange.answered(status);
    exchange.note_call(
        Some((
            status,
            headers::id_in(response.headers(), &headers::DECISION_ID),
        )),
        "",
    );
    let proof = lease.proof().clone();
    let ends = tunnel::Ends {
        downstream,
        upstream: hyper::upgrade::on(&mut response),
        lease: Lease::Single(lease),
    };
    tunnel::open(worker, exchange, proof, ends);
    let (mut parts, _) = response.into_parts();
    headers::clean_peer_response(&mut parts.headers);
    switch_to_websocket(&mut parts.headers);
    Response::from_parts(parts, ResponseBody::empty())
}

fn prepare(
    local: &Local,
    routed: &Routed,
    mut request: Request<Incoming>,
    exchange: &Rc<Exchange>,
) -> Option<Request<RequestBody>> {
    let forms = local.hosts.forms(&routed.request.host)?;
    request.headers_mut().insert(HOST, forms.value);
    switch_to_websocket(request.headers_mut());
    *request.version_mut() = Version::HTTP_11;
    let target = target(std::mem::take(request.uri_mut()), &routed.request)?;
    *request.uri_mut() = Uri::from(target);
    Some(request.map(|body| RequestBody::new(body, Version::HTTP_11, exchange.clone(), None)))
}

/// Goes to another endpoint only when nothing of the request was sent.
async fn send(
    worker: &Rc<Worker>,
    cluster: &Cluster,
    mut request: Request<RequestBody>,
    exchange: &Rc<Exchange>,
) -> Result<(Response<Incoming>, single::Lease), Fault> {
    let mut tried = None;
    for attempt in 1..=ATTEMPTS_MAX {
        let Some(member) = cluster.choose(Instant::now(), tried) else {
            return Err(Fault::NoEndpoint);
        };
        let address = member.pool.address();
        let Some(security) = member.pool.mutual() else {
            return Err(Fault::NoEndpoint);
        };
        exchange.sent_to(address);
        let (error, unsent) = match single::send(worker, address, security, request, exchange).await
        {
            Ok(answered) => return Ok(answered),
            Err(failed) => failed,
        };
        match unsent {
            Some(again) if attempt < ATTEMPTS_MAX && error != UpstreamError::Stopped => {
                member.failed(Instant::now());
                request = again;
                tried = Some(address);
            }
            _ => return Err(error.fault()),
        }
    }
    Err(Fault::NoEndpoint)
}
