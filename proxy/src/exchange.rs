//! One request and its answer, from the decision to the last byte.
//!
//! An exchange is finished once: by whoever sees its end, or by being dropped,
//! so that every way out leaves the outcome record (invariant 5).

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName};
use palisade_mesh::{
    canonical::{CanonicalRequest, Method},
    catalogue::{DeclaredHeader, Service},
    decision::{Answer, Decision, DecisionId},
    wire::record::{AuditMode, outcome::End},
};

use crate::{
    connection::{Control, Order, Wake},
    health,
    inbound::Caller,
    recorder::{CallFacts, OutcomeFacts},
    respond::{Fault, Refusal},
    worker::Worker,
};

/// How long after it was ended an exchange may take to end by itself; then its
/// connection is cut.
const STALL_MAX: Duration = Duration::from_secs(2);
/// The same for one that is not allowed any more.
const REVOKED_STALL_MAX: Duration = Duration::from_millis(500);

/// Marks a connection busy for as long as it lives.
pub(crate) struct InFlight(Option<Rc<Control>>);

impl InFlight {
    pub(crate) fn begin(control: &Rc<Control>) -> Self {
        control.begin();
        Self(Some(control.clone()))
    }

    fn end(&mut self, now: Instant) {
        if let Some(control) = self.0.take() {
            control.end(now);
        }
    }

    fn is_http1(&self) -> bool {
        self.0.as_ref().is_some_and(|c| c.is_http1())
    }

    fn cut(&self) {
        if let Some(control) = &self.0 {
            control.give(Order::Cut);
        }
    }

    fn was_cut(&self) -> bool {
        self.0.as_ref().is_some_and(|c| c.order() == Order::Cut)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.end(Instant::now());
        }
    }
}

/// Which listener the request came to.
pub(crate) enum Side {
    /// It was decided here; an outcome record is due.
    Inbound(Decided),
    /// The destination decides; a record of the call is due.
    Outbound(Called),
}

/// A request of the local application to another service.
pub(crate) struct Called {
    /// Under which both sides record it.
    pub(crate) id: DecisionId,
    pub(crate) request: CanonicalRequest,
    noted: Cell<bool>,
}

impl Called {
    pub(crate) fn new(id: DecisionId, request: CanonicalRequest) -> Self {
        Self {
            id,
            request,
            noted: Cell::new(false),
        }
    }
}

/// A request that was allowed, with what it takes to decide it again.
pub(crate) struct Decided {
    pub(crate) id: DecisionId,
    pub(crate) mode: AuditMode,
    pub(crate) caller: Rc<Caller>,
    pub(crate) request: CanonicalRequest,
    /// The fields that policies may read.
    pub(crate) headers: HeaderMap,
    /// What `headers` would hold; `None` when it holds all fields.
    pub(crate) declared: Option<Rc<[DeclaredHeader]>>,
    /// Which snapshot it was last decided under.
    pub(crate) epoch: Cell<u64>,
    /// Where its end counts: with the revision that let it pass first.
    pub(crate) health: Option<Arc<health::Tally>>,
    /// When the decision must be looked at again although nothing changed,
    /// microseconds since the Unix epoch.
    due_us: Cell<i64>,
    /// The last decision, if the clock can change it.
    clocked: RefCell<Option<Arc<Decision>>>,
}

impl Decided {
    /// Of a request that was decided under the snapshot of `epoch`.
    pub(crate) fn new(
        id: DecisionId,
        mode: AuditMode,
        caller: Rc<Caller>,
        request: CanonicalRequest,
        epoch: u64,
    ) -> Self {
        Self {
            due_us: Cell::new(caller.control.end_us()),
            clocked: RefCell::new(None),
            headers: HeaderMap::new(),
            declared: None,
            health: None,
            epoch: Cell::new(epoch),
            id,
            mode,
            caller,
            request,
        }
    }

    /// Keeps of the request's fields what deciding it again takes: all of a request
    /// that opens a stream, so that a policy which reads more does not end it; of
    /// any other only what policies may read now, which is mostly nothing.
    pub(crate) fn keep(
        &mut self,
        fields: &HeaderMap,
        declared: Option<Rc<[DeclaredHeader]>>,
        all: bool,
    ) {
        if all {
            self.headers = fields.clone();
            return;
        }
        for field in declared.iter().flat_map(|d| d.iter()) {
            for value in fields.get_all(field.name.as_str()) {
                if let Ok(name) = HeaderName::from_bytes(field.name.as_bytes()) {
                    self.headers.append(name, value.clone());
                }
            }
        }
        self.declared = declared;
    }

    /// Notes until when an answer holds: to the end of the caller's certificate,
    /// or until a clock that the policies read can change it.
    pub(crate) fn hold(&self, answer: Option<&Answer>) {
        let end_us = self.caller.control.end_us();
        let clocked = answer.and_then(|a| Some((&a.decision, a.decision.valid_until_us?)));
        self.due_us
            .set(clocked.map_or(end_us, |(_, until_us)| until_us.min(end_us)));
        if clocked.is_some() || self.clocked.borrow().is_some() {
            *self.clocked.borrow_mut() = clocked.map(|(decision, _)| decision.clone());
        }
    }

    /// Whether `decision` says what the last one said.
    pub(crate) fn says_the_same(&self, decision: &Decision) -> bool {
        self.clocked.borrow().as_ref().is_some_and(|last| {
            last.verdict == decision.verdict && last.determining == decision.determining
        })
    }
}

/// A new exchange.
pub(crate) struct Opening {
    pub(crate) side: Side,
    pub(crate) service: Arc<Service>,
    pub(crate) method: Method,
    pub(crate) started: Instant,
    pub(crate) in_flight: InFlight,
    pub(crate) grpc: bool,
}

/// One request and its answer.
pub(crate) struct Exchange {
    worker: Rc<Worker>,
    place: Cell<Option<usize>>,
    side: Side,
    service: Arc<Service>,
    method: Method,
    grpc: bool,
    started: Instant,
    deadline: Cell<Instant>,
    /// Whether the deadline is the greatest age of a stream.
    ages: Cell<bool>,
    in_flight: RefCell<InFlight>,
    status: Cell<u16>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    upstream: Cell<Option<SocketAddr>>,
    blame: Cell<Option<(End, &'static str)>>,
    fault: Cell<Option<Fault>>,
    stopped_at: Cell<Option<Instant>>,
    stopped: RefCell<Option<(End, Refusal)>>,
    finished: Cell<bool>,
    /// Wakes whoever waits for the upstream.
    pub(crate) wake: Wake,
    /// Wakes whoever waits for the request's body.
    pub(crate) upload: Wake,
}

/// What the sweep found due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// The caller's certificate has ended, or the clock may change the decision.
    Clock,
    /// The stream is as old as it may become.
    Age,
}

impl Exchange {
    /// Opens an exchange and puts it under the worker's sweep.
    pub(crate) fn open(worker: &Rc<Worker>, opening: Opening) -> Rc<Self> {
        let Opening {
            side,
            service,
            method,
            started,
            in_flight,
            grpc,
        } = opening;
        let place = worker.exchanges.reserve();
        let deadline = started + service.request_timeout;
        let exchange = Rc::new(Self {
            worker: worker.clone(),
            place: Cell::new(Some(place)),
            side,
            service,
            method,
            grpc,
            started,
            deadline: Cell::new(deadline),
            ages: Cell::new(false),
            in_flight: RefCell::new(in_flight),
            status: Cell::new(0),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            upstream: Cell::new(None),
            blame: Cell::new(None),
            fault: Cell::new(None),
            stopped_at: Cell::new(None),
            stopped: RefCell::new(None),
            finished: Cell::new(false),
            wake: Wake::default(),
            upload: Wake::default(),
        });
        worker.exchanges.fill(place, Rc::downgrade(&exchange));
        worker.stir();
        exchange
    }

    /// What was decided, on the side that decides.
    pub(crate) fn decided(&self) -> Option<&Decided> {
        match &self.side {
            Side::Inbound(decided) => Some(decided),
            Side::Outbound(_) => None,
        }
    }

    /// Records the call, on the side that calls, with what the destination answered;
    /// only what is known first is recorded.
    pub(crate) fn note_call(&self, answer: Option<(u16, Option<DecisionId>)>, error: &str) {
        let Side::Outbound(called) = &self.side else {
            return;
        };
        if called.noted.replace(true) {
            return;
        }
        self.worker.note_call(&CallFacts {
            id: called.id,
            service: self.service.id.as_str(),
            mask: self.service.mask_for(&called.request),
            request: &called.request,
            upstream: self.upstream.get(),
            answer,
            error,
        });
    }

    pub(crate) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    pub(crate) fn count_in(&self, bytes: u64) {
        self.bytes_in.set(self.bytes_in.get() + bytes);
    }

    pub(crate) fn count_out(&self, bytes: u64) {
        self.bytes_out.set(self.bytes_out.get() + bytes);
    }

    /// Notes the status that the caller is told.
    pub(crate) fn answered(&self, status: u16) {
        self.status.set(status);
    }

    /// Notes where the request was sent.
    pub(crate) fn sent_to(&self, address: SocketAddr) {
        self.upstream.set(Some(address));
    }

    /// Notes why the exchange will end; the first cause stays.
    pub(crate) fn blame(&self, end: End, error: &'static str) {
        if self.blame.get().is_none() {
            self.blame.set(Some((end, error)));
        }
    }

    /// Notes a fault that should be the answer, if none has been given yet.
    pub(crate) fn fail(&self, fault: Fault, end: End) {
        self.blame(end, fault.reason());
        self.fault.set(Some(fault));
    }

    /// The fault that a body ran into.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault.get()
    }

    /// Whether it was ended from outside: out of time, or not allowed any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped_at.get().is_some()
    }

    /// How it was ended from outside.
    pub(crate) fn stopped(&self) -> Option<(End, Refusal)> {
        self.stopped.borrow().clone()
    }

    /// Whether nothing more is to come of it.
    pub(crate) fn is_over(&self) -> bool {
        self.finished.get() || self.is_stopped()
    }

    /// Ends the exchange from outside. A caller that was told nothing yet is told
    /// `refusal`, any other sees the stream end.
    pub(crate) fn stop(&self, end: End, refusal: Refusal) {
        if self.is_over() {
            return;
        }
        self.blame(end, refusal.reason);
        self.stopped_at.set(Some(Instant::now()));
        *self.stopped.borrow_mut() = Some((end, refusal));
        self.wake.wake();
        self.upload.wake();
    }

    /// Whether an answer that has begun can still end in a status of ours.
    pub(crate) fn ends_in_trailers(&self) -> bool {
        self.grpc && !self.in_flight.borrow().is_http1()
    }

    /// The head of the answer has come. A stream is from now on bounded by its age
    /// and not by the request timeout, which is about an answer that is awaited.
    pub(crate) fn head_came(&self, is_stream: bool) {
        if self.grpc || is_stream {
            self.ages.set(true);
            let age = self.worker.limits().stream_age;
            self.deadline.set(self.started + age);
        }
    }

    fn sweep(&self, now: Instant, now_us: i64) -> Option<Due> {
        if self.finished.get() {
            return None;
        }
        if let Some(since) = self.stopped_at.get() {
            self.cut_if_stalled(now.saturating_duration_since(since));
            return None;
        }
        if now >= self.deadline.get() {
            if self.ages.get() {
                return Some(Due::Age);
            }
            self.stop(End::TimedOut, Fault::UpstreamTimeout.into());
            return None;
        }
        let decided = self.decided()?;
        (now_us >= decided.due_us.get()).then_some(Due::Clock)
    }

    /// A peer that takes no bytes keeps hyper from asking for more, so nobody
    /// hears that the exchange was ended (T85).
    fn cut_if_stalled(&self, since: Duration) {
        let timed_out = matches!(self.blame.get(), Some((End::TimedOut, _)));
        let patience = if timed_out {
            STALL_MAX
        } else {
            REVOKED_STALL_MAX
        };
        if since >= patience {
            self.in_flight.borrow().cut();
        }
    }

    fn leave_sweep(&self) {
        if let Some(place) = self.place.take() {
            self.worker.exchanges.release(place);
        }
    }

    /// Ends the exchange: the outcome is recorded and counted, once.
    pub(crate) fn finish(&self, end: End) {
        if self.finished.replace(true) {
            return;
        }
        let now = Instant::now();
        self.in_flight.borrow_mut().end(now);
        let duration = now.saturating_duration_since(self.started);
        match &self.side {
            Side::Inbound(decided) => {
                if end == End::ClientAborted && self.status.get() == 0 {
                    decided.caller.control.taken_back(duration);
                }
                self.worker
                    .telemetry
                    .served(self.method, self.status.get(), duration);
                if let Some(health) = &decided.health {
                    health.ended(self.status.get(), duration);
                }
                self.record(decided, end, duration);
            }
            Side::Outbound(_) => {
                // Whoever left before there was an answer has not seen one.
                let error = self.blame.get().map_or("abandoned", |(_, error)| error);
                self.note_call(None, error);
                self.worker
                    .telemetry
                    .called(&self.service, self.status.get(), duration);
            }
        }
    }

    fn record(&self, decided: &Decided, end: End, duration: Duration) {
        let facts = OutcomeFacts {
            id: decided.id,
            mode: decided.mode,
            end,
            status: self.status.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            duration,
            service: self.service.id.as_str(),
            principal: decided.caller.id(),
            upstream: self.upstream.get(),
            error: self.blame.get().map_or("", |(_, error)| error),
        };
        self.worker.note_outcome(&facts);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let cut = self.in_flight.borrow().was_cut();
        self.finish(match self.blame.get() {
            _ if std::thread::panicking() => End::Panicked,
            Some((end, _)) => end,
            None if cut => End::Deadline,
            None => End::ClientAborted,
        });
        self.leave_sweep();
    }
}

/// The open exchanges of one worker.
#[derive(Default)]
pub(crate) struct Exchanges {
    slots: RefCell<Vec<Option<Weak<Exchange>>>>,
    free: RefCell<Vec<usize>>,
    live: Cell<usize>,
}

impl Exchanges {
    /// How many are in flight.
    pub(crate) fn live(&self) -> usize {
        self.live.get()
    }

    fn reserve(&self) -> usize {
        self.live.set(self.live.get() + 1);
        self.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut slots = self.slots.borrow_mut();
            slots.push(None);
            slots.len() - 1
        })
    }

    fn fill(&self, place: usize, exchange: Weak<Exchange>) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(place) {
            *slot = Some(exchange);
        }
    }

    fn release(&self, place: usize) {
        let taken = self
            .slots
            .borrow_mut()
            .get_mut(place)
            .and_then(Option::take);
        if taken.is_some() {
            self.live.set(self.live.get().saturating_sub(1));
            self.free.borrow_mut().push(place);
        }
    }

    /// Every open exchange. Weak, so that looking at them keeps none alive.
    pub(crate) fn open(&self) -> Vec<Weak<Exchange>> {
        self.slots.borrow().iter().flatten().cloned().collect()
    }

    /// Ends the wait of every exchange whose time is over; returns those that are
    /// to be looked at again.
    pub(crate) fn sweep(&self, now: Instant, now_us: i64) -> Vec<(Rc<Exchange>, Due)> {
        if self.live.get() == 0 {
            return Vec::new();
        }
        let slots = self.slots.borrow();
        let open = slots.iter().flatten().filter_map(Weak::upgrade);
        open.filter_map(|exchange| {
            let due = exchange.sweep(now, now_us)?;
            Some((exchange, due))
        })
        .collect()
    }
}
