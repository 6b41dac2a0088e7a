//! One core: its sockets, its engine, its connections, its records.
//!
//! Everything here lives on one thread, in a single-threaded runtime, and is
//! reached without locks. A *ticker* does what must not be done per request:
//! it hands on records (at most [`TICK`] after they were left), ends exchanges
//! whose time is over, sweeps connections and renews those upstream.

use std::{
    cell::{Cell, RefCell},
    net::TcpListener as StdListener,
    rc::Rc,
    sync::{Arc, PoisonError},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use arc_swap::Cache;
use bytes::BytesMut;
use http::HeaderValue;
use palisade_mesh::{clock::Clock, sink::SinkError, snapshot::Versions, wire::record::AuditMode};
use tokio::{runtime::LocalOptions, sync::watch};

use crate::{
    config::{InboundConfig, Limits, UpstreamProtocol},
    connection::{Connections, Order, Wake},
    endpoints::{EndpointTable, Endpoints},
    exchange::Exchanges,
    inbound,
    listener::{self, Doors},
    outbound,
    penalty::Penalties,
    policy::WorkerPolicy,
    proxy::Shared,
    recorder::{CALL_MODE, CallFacts, OutcomeFacts, Recorder},
    rejudge,
    settle::Settling,
    telemetry::Telemetry,
    upstream::{cluster::Clusters, h1, h2},
};

/// Longest time a record stays in a worker's own buffer; what a `kill -9` of
/// the proxy can lose. Each hand-over costs the log a write and an fsync, so at
/// moderate load half of what records cost is how often this is; with the group
/// wait of the log it stays below 50 ms.
pub(crate) const TICK: Duration = Duration::from_millis(40);
/// How often connections are swept.
const SWEEP: Duration = Duration::from_millis(500);
/// Time for the last records to become durable when a worker ends.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// Header values are cut from blocks of this many bytes.
const ARENA: usize = 4096;

/// What a running proxy is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    /// Serve on, but tell that the end is near.
    Leaving,
    /// Take nothing new, finish what there is, cut the rest at the deadline.
    Draining(Instant),
    /// The same, and others accept on the sockets by now, the admin socket included.
    Succeeded(Instant),
}

impl Phase {
    /// When what is left is cut; none while new connections are taken.
    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Serving | Self::Leaving => None,
            Self::Draining(deadline) | Self::Succeeded(deadline) => Some(deadline),
        }
    }
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Connections that were cut.
    pub(crate) cut: usize,
    /// Whether every record became durable.
    pub(crate) flushed: bool,
}

/// One core's worth of proxy.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Clock,
    pub(crate) policy: RefCell<WorkerPolicy>,
    pub(crate) recorder: RefCell<Recorder>,
    pub(crate) telemetry: Telemetry,
    pub(crate) exchanges: Exchanges,
    pub(crate) settling: Settling,
    pub(crate) connections: Rc<Connections>,
    pub(crate) application: Option<Application>,
    pub(crate) clusters: Clusters,
    pub(crate) penalties: RefCell<Penalties>,
    pub(crate) connections_max: usize,
    pub(crate) requests_max: usize,
    endpoints: RefCell<Cache<Endpoints, Arc<EndpointTable>>>,
    arena: RefCell<BytesMut>,
    draining: Cell<bool>,
    stirred: Cell<bool>,
    stir: Wake,
    closing: RefCell<Vec<Waker>>,
}

/// The local application.
pub(crate) enum Application {
    H1(Rc<h1::Pool>),
    H2(Rc<h2::Pool>),
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, index: u32, telemetry: Telemetry) -> Rc<Self> {
        let config = &shared.config;
        let share = |total: usize| total.div_ceil(config.worker_count()).max(1);
        let service = config.inbound.as_ref().map_or("", |i| &i.service);
        let stream = shared.sink.open(index);
        let reporter = shared.identity.id();
        Rc::new(Self {
            clock: shared.clock.clone(),
            policy: RefCell::new(WorkerPolicy::new(shared.policy.clone(), service)),
            recorder: RefCell::new(Recorder::new(stream, reporter.as_str(), config.demo)),
            connections: Connections::new(telemetry.gauges.clone()),
            telemetry,
            exchanges: Exchanges::default(),
            settling: Settling::default(),
            application: config.inbound.as_ref().map(|inbound| {
                let idle = share(config.limits.upstream_idle);
                Application::new(inbound, idle, &shared.clock, &config.limits)
            }),
            clusters: Clusters::new(
                shared.identity.clone(),
                shared.clock.clone(),
                config.limits.clone(),
                shared.policy.clone(),
            ),
            penalties: RefCell::default(),
            connections_max: share(config.limits.connections),
            requests_max: share(config.limits.requests),
            endpoints: RefCell::new(Cache::new(shared.endpoints.clone())),
            arena: RefCell::default(),
            draining: Cell::new(false),
            stirred: Cell::new(false),
            stir: Wake::default(),
            closing: RefCell::default(),
            shared,
        })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.config.limits
    }

    /// The endpoint table in force.
    pub(crate) fn endpoints(&self) -> Arc<EndpointTable> {
        self.endpoints.borrow_mut().load().clone()
    }

    /// The discovery version in force.
    pub(crate) fn discovery(&self) -> u64 {
        self.endpoints.borrow_mut().load().version()
    }

    /// The versions of a policy snapshot, with the discovery version in force.
    pub(crate) fn with_discovery(&self, versions: Versions) -> Versions {
        Versions {
            discovery: self.discovery(),
            ..versions
        }
    }

    /// A header value cut from the worker's arena; `text` is visible ASCII.
    pub(crate) fn header_value(&self, text: &[u8]) -> HeaderValue {
        let mut arena = self.arena.borrow_mut();
        if arena.capacity() < text.len() {
            arena.reserve(ARENA.max(text.len()));
        }
        arena.extend_from_slice(text);
        HeaderValue::from_maybe_shared(arena.split().freeze())
            .unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// Lets the ticker know that there is something to do.
    pub(crate) fn stir(&self) {
        if !self.stirred.replace(true) {
            self.stir.wake();
        }
    }

    /// Records how an exchange ended; a loss is counted.
    pub(crate) fn note_outcome(&self, facts: &OutcomeFacts<'_>) {
        let now_us = self.clock.now_us();
        let noted = self.recorder.borrow_mut().outcome(facts, now_us);
        self.count_record(noted, facts.mode);
        self.stir();
    }

    /// Records a call of the local application; a loss is counted, and declared by the
    /// stream.
    pub(crate) fn note_call(&self, facts: &CallFacts<'_>) {
        let now_us = self.clock.now_us();
        let noted = self.recorder.borrow_mut().call(facts, now_us);
        self.count_record(noted, CALL_MODE);
        self.stir();
    }

    /// Counts a record, as taken by the sink or as lost.
    pub(crate) fn count_record(&self, noted: Result<(), SinkError>, mode: AuditMode) {
        match noted {
            Ok(()) => self.telemetry.recorded(mode),
            Err(error) => self.lost_record(&error, mode),
        }
    }

    /// Counts a record that the sink did not take.
    pub(crate) fn lost_record(&self, error: &SinkError, mode: AuditMode) {
        let reason = reason_of(error);
        self.telemetry
            .event("palisade_audit_records_dropped_total", reason);
        tracing::debug!(%error, mode = mode.as_str_name(), "record was not taken");
    }

    /// Whether no new connection is taken.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Registers a task that has to know when the drain begins.
    pub(crate) fn watch_drain(&self, cx: &std::task::Context<'_>) {
        let mut closing = self.closing.borrow_mut();
        if !closing.iter().any(|w| w.will_wake(cx.waker())) {
            closing.push(cx.waker().clone());
        }
    }

    fn is_calm(&self) -> bool {
        self.exchanges.live() == 0 && !self.recorder.borrow().is_dirty()
    }
}

impl Application {
    fn new(inbound: &InboundConfig, idle_max: usize, clock: &Clock, limits: &Limits) -> Self {
        match inbound.upstream_protocol {
            UpstreamProtocol::Http1 => Self::H1(h1::Pool::new(inbound.upstream, idle_max, limits)),
            UpstreamProtocol::Http2 => Self::H2(h2::Pool::new(
                inbound.upstream,
                h2::Security::Plain,
                clock.clone(),
                limits,
            )),
        }
    }

    fn sweep(&self, now: Instant) {
        match self {
            Self::H1(pool) => pool.sweep(now),
            Self::H2(pool) => pool.maintain(now),
        }
    }
}

/// The word for a record that was not kept, as a metric label.
pub(crate) fn reason_of(error: &SinkError) -> &'static str {
    match error {
        SinkError::Closed => "closed",
        SinkError::Full => "full",
        SinkError::Io(_) => "io",
    }
}

/// Runs one worker to its end, on the calling thread.
///
/// # Errors
/// When the runtime or a socket cannot be set up.
pub(crate) fn run(
    shared: Arc<Shared>,
    index: u32,
    telemetry: Telemetry,
    doors: Doors<StdListener>,
    phase: watch::Receiver<Phase>,
    ready: std::sync::mpsc::Sender<std::io::Result<()>>,
) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(error));
            return Ended::default();
        }
    };
    runtime.block_on(async move {
        let doors = match doors.into_tokio() {
            Ok(doors) => doors,
            Err(error) => {
                let _ = ready.send(Err(error));
                return Ended::default();
            }
        };
        let worker = Worker::new(shared, index, telemetry);
        let _ = ready.send(Ok(()));
        serve(worker, doors, phase).await
    })
}

async fn serve(
    worker: Rc<Worker>,
    doors: Doors<tokio::net::TcpListener>,
    mut phase: watch::Receiver<Phase>,
) -> Ended {
    let ticker = tokio::task::spawn_local(tick(worker.clone()));
    let follower = tokio::task::spawn_local(rejudge::follow(worker.clone()));
    let mut accepting = Vec::new();
    for door in doors.inbound {
        let serve = inbound::service();
        accepting.push(tokio::task::spawn_local(listener::accept(
            worker.clone(),
            door,
            serve,
        )));
    }
    for door in doors.outbound {
        accepting.push(tokio::task::spawn_local(listener::accept(
            worker.clone(),
            door,
            Rc::new(outbound::serve),
        )));
    }
    // The sender is gone only when the proxy was dropped: end at once.
    let _ = phase.wait_for(|phase| phase.deadline().is_some()).await;
    worker.draining.set(true);
    worker.closing.take().into_iter().for_each(Waker::wake);
    for door in accepting {
        let _ = door.await;
    }
    let cut = drain(&worker, &mut phase).await;
    ticker.abort();
    follower.abort();
    tell_differences(&worker);
    let flushed = flush(&worker).await;
    Ended { cut, flushed }
}

/// Waits until every connection has finished; cuts what is left at the deadline.
/// The deadline may still come nearer.
async fn drain(worker: &Worker, phase: &mut watch::Receiver<Phase>) -> usize {
    worker.connections.give_all(Order::Finish);
    loop {
        let deadline = phase.borrow_and_update().deadline();
        let deadline = deadline.unwrap_or_else(Instant::now);
        tokio::select! {
            () = worker.connections.gone() => return 0,
            () = tokio::time::sleep_until(deadline.into()) => break,
            changed = phase.changed() => if changed.is_err() { break },
        }
    }
    let cut = worker.connections.open();
    worker.connections.give_all(Order::Cut);
    let _ = tokio::time::timeout(SWEEP, worker.connections.gone()).await;
    cut
}

async fn flush(worker: &Worker) -> bool {
    let durable = worker.recorder.borrow_mut().durable();
    matches!(tokio::time::timeout(FLUSH_MAX, durable).await, Ok(Ok(())))
}

/// Does what must not be done per request, until the worker ends.
async fn tick(worker: Rc<Worker>) {
    let mut swept = Instant::now();
    loop {
        if worker.is_calm() {
            worker.stirred.set(false);
            let stirred = std::future::poll_fn(|cx| {
                worker.stir.register(cx);
                match worker.stirred.get() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            });
            let _ = tokio::time::timeout(SWEEP, stirred).await;
        } else {
            tokio::time::sleep(TICK).await;
        }
        let now = Instant::now();
        let now_us = worker.clock.now_us();
        for (exchange, due) in worker.exchanges.sweep(now, now_us) {
            rejudge::look(&worker, &exchange, due);
        }
        worker.recorder.borrow_mut().flush();
        if now.saturating_duration_since(swept) >= SWEEP {
            swept = now;
            sweep(&worker, now, now_us / 1_000_000);
        }
    }
}

fn sweep(worker: &Worker, now: Instant, now_s: i64) {
    worker
        .connections
        .sweep(now, now_s, worker.limits(), |reason| {
            worker.telemetry.event(rejudge::CLOSED, reason);
        });
    if let Some(application) = &worker.application {
        application.sweep(now);
    }
    worker.clusters.maintain(now);
    tell_differences(worker);
    let gauges = &worker.telemetry.gauges;
    gauges.in_flight.set(worker.exchanges.live() as u64);
}

/// Records what engines were found to differ: the one in force, and those that this worker has
/// left since the last look. Whoever leaves one last tells all that was found of it.
fn tell_differences(worker: &Worker) {
    // A snapshot nobody asks for should not be kept alive by an idle worker: this lets it go.
    let found = worker.policy.borrow_mut().self_checks();
    let now_us = worker.clock.now_us();
    let record = |sequence, found| {
        let mut recorder = worker.recorder.borrow_mut();
        recorder.differed(now_us, sequence, found)
    };
    let told = worker.shared.differences.lock();
    let mut told = told.unwrap_or_else(PoisonError::into_inner);
    match told.tell(&found, record) {
        Ok(()) => worker.policy.borrow_mut().told(),
        Err(error) => {
            tracing::error!(%error, "a difference of engine and reference is not recorded yet");
        }
    }
}

/// Spawns on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExec;

impl<F> hyper::rt::Executor<F> for LocalExec
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
