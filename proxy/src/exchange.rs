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

use palisade_mesh::{
    canonical::Method,
    catalogue::Service,
    decision::DecisionId,
    wire::record::{AuditMode, outcome::End},
};

use crate::{
    connection::{Control, Order, Wake},
    inbound::Caller,
    recorder::OutcomeFacts,
    respond::Fault,
    worker::Worker,
};

/// How long after its deadline an exchange may take to end by itself; then its
/// connection is cut.
const STALL_MAX: Duration = Duration::from_secs(2);

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
    Inbound {
        id: DecisionId,
        mode: AuditMode,
        caller: Rc<Caller>,
    },
    /// The destination decides and records.
    Outbound,
}

/// One request and its answer.
pub(crate) struct Exchange {
    worker: Rc<Worker>,
    place: Cell<Option<usize>>,
    side: Side,
    service: Arc<Service>,
    method: Method,
    started: Instant,
    deadline: Instant,
    in_flight: RefCell<InFlight>,
    status: Cell<u16>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    upstream: Cell<Option<SocketAddr>>,
    blame: Cell<Option<(End, &'static str)>>,
    fault: Cell<Option<Fault>>,
    expired: Cell<bool>,
    finished: Cell<bool>,
    /// Wakes whoever waits for the upstream.
    pub(crate) wake: Wake,
}

impl Exchange {
    /// Opens an exchange and puts it under the worker's sweep.
    pub(crate) fn open(
        worker: &Rc<Worker>,
        side: Side,
        service: Arc<Service>,
        method: Method,
        started: Instant,
        in_flight: InFlight,
    ) -> Rc<Self> {
        let place = worker.exchanges.reserve();
        let deadline = started + service.request_timeout;
        let exchange = Rc::new(Self {
            worker: worker.clone(),
            place: Cell::new(Some(place)),
            side,
            service,
            method,
            started,
            deadline,
            in_flight: RefCell::new(in_flight),
            status: Cell::new(0),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            upstream: Cell::new(None),
            blame: Cell::new(None),
            fault: Cell::new(None),
            expired: Cell::new(false),
            finished: Cell::new(false),
            wake: Wake::default(),
        });
        worker.exchanges.fill(place, Rc::downgrade(&exchange));
        worker.stir();
        exchange
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

    /// Whether its time is over.
    pub(crate) fn has_expired(&self) -> bool {
        self.expired.get()
    }

    fn expire(&self, now: Instant) {
        if now >= self.deadline && !self.finished.get() {
            self.expired.set(true);
            self.wake.wake();
            // A peer that takes no bytes keeps hyper from asking for more, so nobody
            // hears that the time is over (T85).
            if now >= self.deadline + STALL_MAX {
                self.in_flight.borrow().cut();
            }
        }
    }

    /// Takes the exchange out of the sweep: an upgraded connection has no last byte.
    pub(crate) fn lift_deadline(&self) {
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
            Side::Inbound { id, mode, caller } => {
                self.worker
                    .telemetry
                    .served(self.method, self.status.get(), duration);
                self.record(*id, *mode, caller, end, duration);
            }
            Side::Outbound => {
                self.worker
                    .telemetry
                    .called(&self.service, self.status.get(), duration);
            }
        }
    }

    fn record(
        &self,
        id: DecisionId,
        mode: AuditMode,
        caller: &Caller,
        end: End,
        duration: Duration,
    ) {
        let facts = OutcomeFacts {
            id,
            mode,
            end,
            status: self.status.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            duration,
            service: self.service.id.as_str(),
            principal: caller.id(),
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
        self.lift_deadline();
    }
}

/// The exchanges of one worker that have a deadline.
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

    /// Ends the wait of every exchange whose time is over.
    pub(crate) fn sweep(&self, now: Instant) {
        if self.live.get() == 0 {
            return;
        }
        for exchange in self.slots.borrow().iter().flatten() {
            if let Some(exchange) = exchange.upgrade() {
                exchange.expire(now);
            }
        }
    }
}
