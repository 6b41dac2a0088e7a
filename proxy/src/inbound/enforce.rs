//! Enforcement: from a request to a permit, or to an answer of ours.
//!
//! Everything up to the permit happens in one step, under one snapshot, without
//! waiting: canonical form, header hygiene, operation, decision, record. A
//! [`Permit`] can be made here only, and nothing is forwarded without one.

use std::{rc::Rc, sync::Arc, time::Instant};

use http::{HeaderValue, Request, Response, header::CONTENT_LENGTH};
use hyper::body::Incoming;
use palisade_mesh::{
    canonical::{CanonicalRequest, RawRequest},
    catalogue::{Service, Unmatched},
    decision::{Answer, DecisionId, Question, Undecided, Verdict},
    operation::Operation,
    sink::{Durable, SinkError},
    snapshot::Versions,
    wire::record::{AuditMode, Verdict as WireVerdict, outcome::End},
};

use super::Caller;
use crate::{
    body::ResponseBody,
    exchange::{Exchange, InFlight, Side},
    headers::{self, Hop, Trace},
    policy::Live,
    recorder::{DecisionFacts, Target},
    respond::{Fault, Refusal},
    upstream::in_time,
    worker::{Application, Worker},
};

/// The right to forward one request, which was allowed and whose record is kept
/// as its service demands.
pub(crate) struct Permit {
    exchange: Rc<Exchange>,
    caller: Rc<Caller>,
    request: CanonicalRequest,
    hop: Hop,
    id: HeaderValue,
    grpc: bool,
}

/// What a permit holds, for the one who uses it.
pub(crate) struct Permitted {
    pub(crate) exchange: Rc<Exchange>,
    pub(crate) caller: Rc<Caller>,
    pub(crate) request: CanonicalRequest,
    pub(crate) hop: Hop,
    pub(crate) id: HeaderValue,
    pub(crate) grpc: bool,
}

impl Permit {
    /// Uses the permit up.
    pub(crate) fn redeem(self) -> Permitted {
        let Self {
            exchange,
            caller,
            request,
            hop,
            id,
            grpc,
        } = self;
        Permitted {
            exchange,
            caller,
            request,
            hop,
            id,
            grpc,
        }
    }
}

/// A permit whose record is not durable yet (mode `strict`).
pub(crate) struct Unsettled {
    permit: Permit,
    durable: Durable,
}

impl Unsettled {
    /// Waits for the record; without it there is no permit.
    pub(crate) async fn settled(self) -> Result<Permit, Response<ResponseBody>> {
        let Self { permit, durable } = self;
        let fault = match in_time(&permit.exchange, durable).await {
            Ok(Ok(())) => return Ok(permit),
            Ok(Err(error)) => {
                tracing::error!(%error, "record did not become durable, request refused");
                Fault::AuditUnavailable
            }
            Err(late) => late.fault(),
        };
        permit.exchange.answered(fault.status());
        permit.exchange.blame(End::UpstreamFailed, fault.reason());
        permit.exchange.finish(End::UpstreamFailed);
        Err(Refusal::from(fault).answer(permit.grpc, Some(&permit.id)))
    }
}

/// What becomes of a request.
pub(crate) enum Judged {
    Pass(Permit),
    Wait(Unsettled),
    Stop(Response<ResponseBody>),
}

/// A request that could be put in canonical form.
struct Examined {
    request: CanonicalRequest,
    hop: Hop,
}

/// What was found about a request, complete enough to be recorded.
struct Ruling {
    verdict: WireVerdict,
    reason: &'static str,
    answer: Option<Answer>,
    refusal: Option<Refusal>,
}

/// The snapshot's part of a case.
struct Basis {
    service: Option<Arc<Service>>,
    versions: Option<Versions>,
}

/// Decides one request and records the decision.
pub(crate) fn judge(
    worker: &Rc<Worker>,
    caller: &Rc<Caller>,
    request: &mut Request<Incoming>,
) -> Judged {
    let started = Instant::now();
    let in_flight = InFlight::begin(&caller.control);
    let now_us = worker.clock.now_us();
    worker.telemetry.gauges.requests.add(1);
    let grpc = headers::is_grpc(request.headers());
    let trace = headers::take_trace(request.headers_mut());

    let mut policy = worker.policy.borrow_mut();
    let mut live = policy.current();
    let basis = Basis {
        service: live.as_ref().and_then(|l| l.service.clone()),
        versions: live.as_ref().map(|l| Versions {
            discovery: worker.discovery(),
            ..l.versions
        }),
    };
    let examined = examine(worker, caller, request, live.as_deref(), now_us);
    let operation = match (&basis.service, &examined) {
        (Some(service), Ok(examined)) => service.operations.find(&examined.request),
        _ => None,
    };
    let ruling = match &examined {
        Err(refusal) => Ruling::refused(refusal.clone()),
        Ok(examined) => rule(
            caller,
            request,
            examined,
            operation,
            live.as_deref_mut(),
            now_us,
        ),
    };
    drop(policy);
    let took = started.elapsed();

    let (id, noted) = note(
        worker, caller, request, &basis, &examined, operation, &ruling, now_us, took, trace,
    );
    count(worker, caller, &ruling, took);
    worker.stir();

    let id_value = worker.header_value(id.0.array_to_str(&mut [0; 26]).as_bytes());
    let mode = mode_of(basis.service.as_deref());
    let refusal = match noted {
        Err(error) if mode != AuditMode::BestEffort => {
            worker.lost_record(&error, mode);
            Some(Fault::AuditUnavailable.into())
        }
        Err(error) => {
            worker.lost_record(&error, mode);
            ruling.refusal
        }
        Ok(()) => ruling.refusal,
    };
    let (refusal, examined, service) = match (refusal, examined, basis.service) {
        (None, Ok(examined), Some(service)) => (None, Some(examined), Some(service)),
        (refusal, ..) => (refusal, None, None),
    };
    let (Some(examined), Some(service)) = (examined, service) else {
        let refusal = refusal.unwrap_or_else(|| Fault::ServiceUnknown.into());
        return Judged::Stop(refusal.answer(grpc, Some(&id_value)));
    };
    let side = Side::Inbound {
        id,
        mode,
        caller: caller.clone(),
    };
    let method = examined.request.method;
    let permit = Permit {
        exchange: Exchange::open(worker, side, service, method, started, in_flight),
        caller: caller.clone(),
        request: examined.request,
        hop: examined.hop,
        id: id_value,
        grpc,
    };
    if mode == AuditMode::Strict {
        let durable = worker.recorder.borrow_mut().durable();
        return Judged::Wait(Unsettled { permit, durable });
    }
    Judged::Pass(permit)
}

/// Puts the request in canonical form and removes from it what must not be seen.
fn examine(
    worker: &Worker,
    caller: &Caller,
    request: &mut Request<Incoming>,
    live: Option<&Live>,
    now_us: i64,
) -> Result<Examined, Refusal> {
    let limits = worker.limits();
    if caller.control.has_ended(now_us) {
        return Err(Fault::CertificateEnded.into());
    }
    if worker.exchanges.live() >= worker.requests_max {
        return Err(Fault::Overloaded.into());
    }
    if request.headers().len() > limits.header_count {
        return Err(Fault::HeadTooLarge.into());
    }
    if let Some(max) = limits.body_bytes
        && declared_length(request).is_some_and(|len| len > max)
    {
        return Err(Fault::BodyTooLarge.into());
    }
    let uri = request.uri();
    let canonical = CanonicalRequest::new(RawRequest {
        method: request.method().as_str(),
        authority: uri.authority().map(http::uri::Authority::as_str),
        host: headers::single_host(request.headers())?,
        path: uri.path(),
        query: uri.query(),
    })?;
    let declared = live.map_or(&[][..], |l| l.catalogue.headers());
    let hop = headers::clean_request(request.headers_mut(), declared).map_err(Fault::from)?;
    if hop.is_websocket() && matches!(worker.application, Some(Application::H2(_))) {
        return Err(Fault::UpgradeUnsupported.into());
    }
    Ok(Examined {
        request: canonical,
        hop,
    })
}

fn declared_length(request: &Request<Incoming>) -> Option<u64> {
    let text = request.headers().get(CONTENT_LENGTH)?.to_str().ok()?;
    text.parse().ok()
}

/// Asks the PDP, under the one snapshot the request is decided under.
fn rule(
    caller: &Caller,
    request: &Request<Incoming>,
    examined: &Examined,
    operation: Option<&Operation>,
    live: Option<&mut Live>,
    now_us: i64,
) -> Ruling {
    let Some(live) = live else {
        return Ruling::undecided(
            Fault::NoSnapshot,
            Verdict::Undecided(Undecided::NoSnapshot).reason(),
        );
    };
    let Some(service) = &live.service else {
        return Ruling::undecided(Fault::ServiceUnknown, Fault::ServiceUnknown.reason());
    };
    let answer = live.decider.decide(&Question {
        connection: &caller.connection,
        request: &examined.request,
        headers: request.headers(),
        service,
        operation,
        now_us,
    });
    let verdict = answer.decision.verdict;
    if !verdict.is_allow() {
        let refusal = Refusal::of_decision(&answer.decision);
        return Ruling::of(answer, verdict.reason(), Some(refusal));
    }
    if operation.is_none() && service.unmatched == Unmatched::NotFound {
        let fault = Fault::OperationUnknown;
        return Ruling::of(answer, fault.reason(), Some(fault.into()));
    }
    Ruling::of(answer, verdict.reason(), None)
}

impl Ruling {
    fn of(answer: Answer, reason: &'static str, refusal: Option<Refusal>) -> Self {
        Self {
            verdict: answer.decision.verdict.wire(),
            reason,
            answer: Some(answer),
            refusal,
        }
    }

    fn refused(refusal: Refusal) -> Self {
        Self {
            verdict: WireVerdict::Refused,
            reason: refusal.reason,
            answer: None,
            refusal: Some(refusal),
        }
    }

    fn undecided(fault: Fault, reason: &'static str) -> Self {
        Self {
            verdict: WireVerdict::Undecided,
            reason,
            answer: None,
            refusal: Some(fault.into()),
        }
    }
}

fn mode_of(service: Option<&Service>) -> AuditMode {
    match service.map(|s| s.audit) {
        None | Some(AuditMode::Unspecified) => AuditMode::Spool,
        Some(mode) => mode,
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the facts of one record, gathered in one place"
)]
fn note(
    worker: &Worker,
    caller: &Caller,
    request: &Request<Incoming>,
    basis: &Basis,
    examined: &Result<Examined, Refusal>,
    operation: Option<&Operation>,
    ruling: &Ruling,
    now_us: i64,
    took: std::time::Duration,
    trace: Option<Trace>,
) -> (DecisionId, Result<(), SinkError>) {
    let service = basis.service.as_deref();
    let target = match examined {
        Ok(examined) => Target::Canonical(&examined.request),
        Err(_) => Target::Raw {
            method: request.method().as_str(),
            path: request.uri().path(),
        },
    };
    let configured = worker.shared.config.inbound.as_ref();
    let mut recorder = worker.recorder.borrow_mut();
    let id = recorder.next_id(now_us);
    let noted = recorder.decision(&DecisionFacts {
        id,
        time_us: now_us,
        mode: mode_of(service),
        verdict: ruling.verdict,
        reason: ruling.reason,
        peer: &caller.connection.peer,
        source: caller.connection.source,
        service: service.map_or_else(
            || configured.map_or("", |c| c.service.as_str()),
            |s| s.id.as_str(),
        ),
        target,
        route: operation.map_or("", |o| o.template.as_str()),
        answer: ruling.answer.as_ref(),
        versions: basis.versions,
        took,
        trace,
        status: ruling.refusal.as_ref().map_or(0, |r| r.status),
    });
    (id, noted)
}

fn count(worker: &Worker, caller: &Caller, ruling: &Ruling, took: std::time::Duration) {
    let telemetry = &worker.telemetry;
    if let Some(answer) = &ruling.answer {
        telemetry.decision_took(took, answer.cached);
    }
    if ruling.refusal.is_none() {
        telemetry.gauges.allowed.add(1);
        caller.allowed.add(1);
    } else {
        telemetry.decided(ruling.verdict, ruling.reason, &caller.source);
    }
}
