//! Enforcement: from a request to a permit, or to an answer of ours.
//!
//! Everything up to the permit happens in one step, under one snapshot, without
//! waiting: canonical form, header hygiene, operation, decision, record. A
//! [`Permit`] can be made here only, and nothing is forwarded without one.

use std::{
    borrow::Cow,
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_LENGTH};
use hyper::body::Incoming;
use palisade_mesh::{
    canonical::CanonicalRequest,
    catalogue::{Service, Unmatched},
    decision::{Answer, Connection, DecisionId, Pins, Question},
    personal::Mask,
    snapshot::Versions,
    wire::record::{AuditMode, Verdict as WireVerdict, outcome::End},
};

use super::Caller;
use smol_str::SmolStr;

use crate::{
    body::ResponseBody,
    exchange::{Decided, Exchange, InFlight, Opening, Side},
    headers::{self, Hop, Trace},
    policy::{Live, UNSAID, WorkerPolicy},
    recorder::{DecisionFacts, Permits, Target},
    rejudge,
    respond::{Fault, Refusal},
    settle::{self, Ticket},
    shadow::Tried,
    upstream::in_time,
    worker::{Application, Worker, reason_of},
};

/// The right to forward one request, which was allowed and whose record is kept
/// as its service demands.
pub(crate) struct Permit {
    exchange: Rc<Exchange>,
    caller: Rc<Caller>,
    hop: Hop,
    id: HeaderValue,
    grpc: bool,
}

/// What a permit holds, for the one who uses it.
pub(crate) struct Permitted {
    pub(crate) exchange: Rc<Exchange>,
    pub(crate) caller: Rc<Caller>,
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
            hop,
            id,
            grpc,
        } = self;
        Permitted {
            exchange,
            caller,
            hop,
            id,
            grpc,
        }
    }
}

/// A permit whose record is not durable yet (mode `strict`).
pub(crate) struct Unsettled {
    permit: Permit,
    worker: Rc<Worker>,
    ticket: Ticket,
}

impl Unsettled {
    /// Waits for the record; without it there is no permit. The wait ends with
    /// the request's own time, and before that after `limits.audit_wait`.
    pub(crate) async fn settled(self) -> Result<Permit, Response<ResponseBody>> {
        let Self {
            permit,
            worker,
            ticket,
        } = self;
        let begun = Instant::now();
        let limited = tokio::time::timeout(worker.limits().audit_wait, ticket);
        let settled = in_time(&permit.exchange, limited).await;
        worker.telemetry.strict_waited(begun.elapsed());
        let (end, refusal, refused) = match settled {
            Ok(Ok(Ok(()))) => return Ok(permit),
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, "record did not become durable, request refused");
                let fault = Fault::AuditUnavailable.into();
                (End::UpstreamFailed, fault, reason_of(&error))
            }
            Ok(Err(_)) => (End::UpstreamFailed, Fault::AuditUnavailable.into(), "late"),
            Err(late) => {
                let stopped = permit.exchange.stopped();
                let (end, refusal) =
                    stopped.unwrap_or_else(|| (End::TimedOut, late.fault().into()));
                (end, refusal, "late")
            }
        };
        worker
            .telemetry
            .event("palisade_audit_strict_refused_total", refused);
        permit.exchange.answered(refusal.status);
        permit.exchange.blame(end, refusal.reason);
        permit.exchange.finish(end);
        Err(permit.caller.refuse(&refusal, permit.grpc, &permit.id))
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
pub(crate) struct Ruling {
    pub(crate) verdict: WireVerdict,
    pub(crate) reason: &'static str,
    route: Option<SmolStr>,
    pub(crate) answer: Option<Answer>,
    /// Set unless the request is allowed.
    pub(crate) refusal: Option<Refusal>,
    /// Whether an allowed request would be known to the catalogue, or forwarded all the same.
    is_known: bool,
    /// What the operation demands of its records, once it was looked for.
    mode: Option<AuditMode>,
}

/// What a record leaves out. The masks of a service are lent: workers that count references
/// to one value get in each other's way.
type Left<'s> = Cow<'s, Mask>;

/// What the PDP is asked about, for the first time or again.
pub(crate) struct Asked<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) request: &'a CanonicalRequest,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) now_us: i64,
    /// What the engine keeps of the connection.
    pub(crate) pins: &'a RefCell<Pins>,
}

/// What is recorded of a request.
struct Noting<'a> {
    examined: &'a Result<Examined, Refusal>,
    ruling: Ruling,
    tried: Option<&'a Tried>,
    mode: AuditMode,
    mask: Left<'a>,
    /// Time the decision took.
    took: Duration,
}

/// One request on its way to a ruling, and the one snapshot it is decided under.
struct Case<'a> {
    worker: &'a Rc<Worker>,
    caller: &'a Rc<Caller>,
    now_us: i64,
    trace: Option<Trace>,
    /// Id of the call, as the caller's proxy gave it.
    request: Option<DecisionId>,
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
    worker.telemetry.gauges.requests.add(1);
    let grpc = headers::is_grpc(request.headers());
    let trace = headers::take_trace(request.headers_mut());
    let call = headers::id_in(request.headers(), &headers::REQUEST_ID);

    let mut policy = worker.policy.borrow_mut();
    let _ = policy.current();
    let epoch = policy.epoch();
    if caller.control.enters(epoch)
        && let Some(why) = rejudge::is_barred(&mut policy, &caller.control)
    {
        caller.control.revoke(why);
    }
    let live = policy.current();
    let declared = live.as_ref().map(|l| l.declared.clone());
    let case = Case {
        worker,
        caller,
        now_us: worker.clock.now_us(),
        trace,
        request: call,
        service: live.as_ref().and_then(|l| l.service.clone()),
        versions: live.as_ref().map(|l| worker.with_discovery(l.versions)),
    };
    let examined = case.examine(request, live.as_deref());
    let health = live.as_ref().map(|l| l.health.clone());
    let of_any = case.mask(live.as_deref());
    let (ruling, mask) = match &examined {
        Ok(examined) => case.rule(request, examined, live),
        Err(refusal) => (Ruling::refused(refusal.clone()), None),
    };
    let mask = mask.unwrap_or(of_any);
    let took = started.elapsed();
    let tried = match &examined {
        Ok(examined) => case.try_beside(request, examined, &ruling, &mut policy),
        Err(_) => None,
    };
    drop(policy);

    let answer = ruling.answer.clone();
    let mode = case.mode(&ruling);
    if let (Some(health), Some(_)) = (&health, &answer) {
        health.decided(ruling.verdict == WireVerdict::Undecided, took);
    }
    let noted = Noting {
        examined: &examined,
        ruling,
        tried: tried.as_ref(),
        mode,
        mask,
        took,
    };
    let (id, refusal) = case.note(request, noted);
    worker.stir();
    let id_value = worker.header_value(id.0.array_to_str(&mut [0; 26]).as_bytes());
    let (examined, service) = match (refusal, examined, case.service) {
        (None, Ok(examined), Some(service)) => (examined, service),
        (refusal, ..) => {
            let refusal = refusal.unwrap_or_else(|| Fault::ServiceUnknown.into());
            return Judged::Stop(caller.refuse(&refusal, grpc, &id_value));
        }
    };
    let Examined {
        request: canonical,
        hop,
    } = examined;
    let method = canonical.method;
    let mut decided = Decided::new(id, mode, caller.clone(), canonical, epoch);
    decided.health = health;
    decided.hold(answer.as_ref());
    decided.keep(request.headers(), declared, grpc || hop.is_websocket());
    let opening = Opening {
        side: Side::Inbound(decided),
        service,
        method,
        started,
        in_flight,
        grpc,
    };
    let permit = Permit {
        exchange: Exchange::open(worker, opening),
        caller: caller.clone(),
        hop,
        id: id_value,
        grpc,
    };
    if mode == AuditMode::Strict {
        return Judged::Wait(Unsettled {
            permit,
            worker: worker.clone(),
            ticket: settle::join(worker),
        });
    }
    Judged::Pass(permit)
}

impl Case<'_> {
    /// Puts the request in canonical form and removes from it what must not be
    /// seen.
    fn examine(
        &self,
        request: &mut Request<Incoming>,
        live: Option<&Live>,
    ) -> Result<Examined, Refusal> {
        let limits = self.worker.limits();
        if self.caller.control.has_ended(self.now_us) {
            return Err(Fault::CertificateEnded.into());
        }
        if let Some(why) = self.caller.control.revoked() {
            return Err(why.refusal());
        }
        if self.worker.exchanges.live() >= self.worker.requests_max {
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
        let canonical = headers::canonical(request)?;
        let declared = live.map_or(&[][..], |l| l.catalogue.headers());
        let underscores = limits.header_underscores;
        let hop = headers::clean_request(request.headers_mut(), declared, underscores)
            .map_err(Fault::from)?;
        if hop.is_websocket() && matches!(self.worker.application, Some(Application::H2(_))) {
            return Err(Fault::UpgradeUnsupported.into());
        }
        Ok(Examined {
            request: canonical,
            hop,
        })
    }

    /// What the record leaves out, unless it is of a known operation.
    fn mask(&self, live: Option<&Live>) -> Left<'_> {
        match (live, &self.service) {
            (None, _) => Cow::Borrowed(&*UNSAID),
            (Some(_), Some(service)) => Cow::Borrowed(service.mask_of(None)),
            (Some(live), None) => Cow::Owned(live.catalogue.mask_of(None).clone()),
        }
    }

    fn rule(
        &self,
        request: &Request<Incoming>,
        examined: &Examined,
        live: Option<&mut Live>,
    ) -> (Ruling, Option<Left<'_>>) {
        let asked = Asked {
            connection: &self.caller.connection,
            request: &examined.request,
            headers: request.headers(),
            now_us: self.now_us,
            pins: &self.caller.pins,
        };
        rule_masking(&asked, live, self.service.as_deref())
    }

    /// Asks what stands beside the snapshot in force, if anything does, about a request
    /// that was ruled on.
    fn try_beside(
        &self,
        request: &Request<Incoming>,
        examined: &Examined,
        ruling: &Ruling,
        policy: &mut WorkerPolicy,
    ) -> Option<Tried> {
        let trial = policy.trial()?;
        let asked = Asked {
            connection: &self.caller.connection,
            request: &examined.request,
            headers: request.headers(),
            now_us: self.now_us,
            pins: &self.caller.tried_pins,
        };
        let tried = trial.ask(&asked, ruling)?;
        self.worker.telemetry.tried(tried.as_ref());
        tried.ok()
    }

    /// Records and counts the ruling; a request whose record is not taken is
    /// refused, unless its service does without.
    fn note(
        &self,
        request: &Request<Incoming>,
        noting: Noting<'_>,
    ) -> (DecisionId, Option<Refusal>) {
        let Noting {
            examined,
            ruling,
            tried,
            mode,
            mask,
            took,
        } = noting;
        let target = match examined {
            Ok(examined) => Target::Canonical(&examined.request),
            Err(_) => Target::Raw {
                method: request.method().as_str(),
                path: request.uri().path(),
            },
        };
        let mut recorder = self.worker.recorder.borrow_mut();
        let id = recorder.next_id(self.now_us);
        let noted = recorder.decision(&DecisionFacts {
            id,
            time_us: self.now_us,
            mode,
            mask: &mask,
            verdict: ruling.verdict,
            reason: ruling.reason,
            peer: &self.caller.connection.peer,
            source: self.caller.connection.source,
            service: self.service_name(),
            target,
            route: ruling.route.as_deref().unwrap_or_default(),
            answer: ruling.answer.as_ref(),
            versions: self.versions,
            took,
            trace: self.trace,
            request: self.request,
            status: ruling.refusal.as_ref().map_or(0, |r| r.status),
            tried,
            permits: Permits::of(&ruling),
        });
        drop(recorder);
        self.count(&ruling, took);
        let Err(error) = noted else {
            self.worker.telemetry.recorded(mode);
            return (id, ruling.refusal);
        };
        self.worker.lost_record(&error, mode);
        match mode {
            AuditMode::BestEffort => (id, ruling.refusal),
            _ => (id, Some(Fault::AuditUnavailable.into())),
        }
    }

    fn count(&self, ruling: &Ruling, took: Duration) {
        let telemetry = &self.worker.telemetry;
        if let Some(answer) = &ruling.answer {
            telemetry.decision_took(took, answer.cached);
        }
        if let Some(permits) = Permits::of(ruling) {
            telemetry.shadow_permits(permits.flip);
        }
        if ruling.refusal.is_none() {
            telemetry.gauges.allowed.add(1);
            self.caller.allowed.add(1);
        } else {
            telemetry.decided(ruling.verdict, ruling.reason, &self.caller.source);
        }
    }

    /// How durable the record must be: as the operation says, else the service.
    fn mode(&self, ruling: &Ruling) -> AuditMode {
        let of_service = || self.service.as_ref().map(|s| s.audit_of(None));
        ruling.mode.or_else(of_service).unwrap_or(AuditMode::Spool)
    }

    /// The service's id; as it is configured where no snapshot knows it.
    fn service_name(&self) -> &str {
        let configured = self.worker.shared.config.inbound.as_ref();
        match &self.service {
            Some(service) => service.id.as_str(),
            None => configured.map_or("", |c| &c.service),
        }
    }
}

/// Asks the PDP about a request to `service` of the snapshot `live`.
pub(crate) fn rule(
    asked: &Asked<'_>,
    live: Option<&mut Live>,
    service: Option<&Service>,
) -> Ruling {
    rule_masking(asked, live, service).0
}

/// The same, and what the record leaves out, if something else than that of a request of
/// which no operation is known.
fn rule_masking<'s>(
    asked: &Asked<'_>,
    live: Option<&mut Live>,
    service: Option<&'s Service>,
) -> (Ruling, Option<Left<'s>>) {
    let Some(live) = live else {
        return (Ruling::undecided(Fault::NoSnapshot), None);
    };
    if live.stale {
        return (Ruling::undecided(Fault::SnapshotStale), None);
    }
    let Some(service) = service else {
        return (Ruling::undecided(Fault::ServiceUnknown), None);
    };
    // Under another name the application may take it for something else, and no
    // operation that is limited to a host would be found.
    let host = &asked.request.host;
    if !service.hosts.is_empty() && !service.hosts.contains(host) {
        // It was meant for another service, or for none.
        let mask = live.catalogue.mask_of(None).clone();
        let ruling = Ruling::refused(Fault::HostUnknown.into());
        return (ruling, Some(Cow::Owned(mask)));
    }
    let operation = service.operations.find(asked.request);
    let question = Question {
        connection: asked.connection,
        request: asked.request,
        headers: asked.headers,
        service,
        operation,
        now_us: asked.now_us,
    };
    let pins = &mut asked.pins.borrow_mut();
    let answer = live.decider.decide_on(&question, pins);
    let verdict = answer.decision.verdict;
    let (reason, refusal) = if !verdict.is_allow() {
        let refusal = Refusal::of_decision(&answer.decision);
        (verdict.reason(), Some(refusal))
    } else if operation.is_none() && service.unmatched == Unmatched::NotFound {
        let fault = Fault::OperationUnknown;
        (fault.reason(), Some(fault.into()))
    } else {
        (verdict.reason(), None)
    };
    let ruling = Ruling {
        verdict: verdict.wire(),
        reason,
        route: operation.map(|o| o.template.as_str().into()),
        answer: Some(answer),
        refusal,
        is_known: operation.is_some() || service.unmatched != Unmatched::NotFound,
        mode: Some(service.audit_of(operation)),
    };
    (ruling, Some(Cow::Borrowed(service.mask_of(operation))))
}

fn declared_length(request: &Request<Incoming>) -> Option<u64> {
    let text = request.headers().get(CONTENT_LENGTH)?.to_str().ok()?;
    text.parse().ok()
}

impl<'r> Permits<'r> {
    /// The permits in shadow mode that matched, if any did.
    fn of(ruling: &'r Ruling) -> Option<Self> {
        let decision = &ruling.answer.as_ref()?.decision;
        let (verdict, flip) = decision.with_shadow_permits(ruling.is_known)?;
        Some(Self {
            verdict,
            ids: &decision.shadow_permits,
            flip,
        })
    }
}

impl Ruling {
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self {
            verdict: WireVerdict::Refused,
            reason: refusal.reason,
            route: None,
            answer: None,
            refusal: Some(refusal),
            is_known: false,
            mode: None,
        }
    }

    pub(crate) fn undecided(fault: Fault) -> Self {
        Self {
            verdict: WireVerdict::Undecided,
            ..Self::refused(fault.into())
        }
    }
}
