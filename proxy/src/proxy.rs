//! A whole proxy: started, watched, drained, stopped.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use palisade_mesh::{
    clock::Clock, diagnostic::Diagnostic, differences::Differences, sink::RecordSink,
    svid::Identity,
};
use tokio::sync::{oneshot, watch};

use crate::{
    admin,
    config::ProxyConfig,
    endpoints::Endpoints,
    listener::{self, Doors, Sockets},
    policy::PolicySlot,
    telemetry::{Gauges, Telemetry},
    worker::{self, Ended, Phase},
};

/// What a proxy is given: everything that changes while it runs changes behind
/// these handles.
#[derive(Clone)]
pub struct Parts {
    /// The policy snapshot in force.
    pub policy: PolicySlot,
    /// The endpoints of the mesh.
    pub endpoints: Endpoints,
    /// Who the proxy is; rotates by itself.
    pub identity: Identity,
    /// Where records go; each worker opens one stream.
    pub sink: Arc<dyn RecordSink>,
    /// The time.
    pub clock: Clock,
}

/// What all workers have together.
pub(crate) struct Shared {
    pub(crate) config: ProxyConfig,
    /// Number of the first worker's record stream.
    pub(crate) first_stream: u32,
    pub(crate) policy: PolicySlot,
    pub(crate) endpoints: Endpoints,
    pub(crate) identity: Identity,
    pub(crate) sink: Arc<dyn RecordSink>,
    pub(crate) clock: Clock,
    /// What is recorded of engines that differ from their reference: what they found is a
    /// snapshot's, of all workers together.
    pub(crate) differences: Mutex<Differences>,
}

/// The entry to this crate.
#[derive(Debug)]
pub struct Proxy;

impl Proxy {
    /// Binds every listener and starts the workers. When it returns, connections
    /// are accepted; until the first snapshot arrives requests are answered
    /// with 503.
    ///
    /// # Errors
    /// When the configuration is wrong (all mistakes at once) or a socket or
    /// thread cannot be had. Nothing keeps running then.
    pub fn start(config: ProxyConfig, parts: Parts) -> Result<RunningProxy, ProxyError> {
        Self::start_on(config, parts, Sockets::default())
    }

    /// As [`Proxy::start`], but where `sockets` listen on a configured address
    /// already, connections are accepted from them. The others are closed.
    ///
    /// # Errors
    /// As [`Proxy::start`].
    pub fn start_on(
        config: ProxyConfig,
        parts: Parts,
        sockets: Sockets,
    ) -> Result<RunningProxy, ProxyError> {
        Self::start_as(config, parts, sockets, 0)
    }

    fn start_as(
        config: ProxyConfig,
        parts: Parts,
        sockets: Sockets,
        first_stream: u32,
    ) -> Result<RunningProxy, ProxyError> {
        let mistakes = config.check();
        if !mistakes.is_empty() {
            return Err(ProxyError::Config(mistakes));
        }
        let workers = config.worker_count();
        let inbound = door(
            config.inbound.as_ref().map(|c| c.listen),
            "inbound.listen",
            sockets.inbound,
            workers,
        )?;
        let outbound = door(
            config.outbound.as_ref().map(|c| c.listen),
            "outbound.listen",
            sockets.outbound,
            workers,
        )?;
        let admin = door(
            config.admin.as_ref().map(|c| c.listen),
            "admin.listen",
            sockets.admin,
            1,
        )?;
        let kept = parts.clone();
        let shared = Arc::new(Shared {
            config,
            first_stream,
            policy: parts.policy,
            endpoints: parts.endpoints,
            identity: parts.identity,
            sink: parts.sink,
            clock: parts.clock,
            differences: Mutex::default(),
        });
        let (phase, _) = watch::channel(Phase::Serving);
        let addresses = [&inbound, &outbound, &admin].map(|d| d.as_ref().map(|d| d.address));
        let [inbound_at, outbound_at, admin_at] = addresses;
        let mut running = RunningProxy {
            inbound: inbound_at,
            outbound: outbound_at,
            admin: admin_at,
            phase,
            gauges: Vec::with_capacity(workers),
            ended: Mutex::default(),
            next_stream: first_stream.saturating_add(u32::try_from(workers).unwrap_or(u32::MAX)),
            parts: kept,
            sockets: Mutex::new(Some(Sockets {
                inbound: doubles(inbound.as_ref()).map_err(ProxyError::Thread)?,
                outbound: doubles(outbound.as_ref()).map_err(ProxyError::Thread)?,
                admin: doubles(admin.as_ref()).map_err(ProxyError::Thread)?,
            })),
        };
        let mut inbound = listeners(inbound);
        let mut outbound = listeners(outbound);
        for index in 0..workers {
            let doors = Doors {
                inbound: inbound.next().unwrap_or_default(),
                outbound: outbound.next().unwrap_or_default(),
            };
            running.spawn(&shared, index, doors)?;
        }
        for listener in listeners(admin).flatten().take(1) {
            let shared = shared.clone();
            let view = admin::View::new(shared, running.gauges.clone(), running.phase.subscribe());
            admin::spawn(listener, view).map_err(ProxyError::Thread)?;
        }
        Ok(running)
    }
}

/// The sockets of one listener, by worker.
struct Door {
    address: SocketAddr,
    listeners: Vec<Vec<StdListener>>,
}

fn door(
    address: Option<SocketAddr>,
    key: &'static str,
    open: Vec<StdListener>,
    workers: usize,
) -> Result<Option<Door>, ProxyError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let open_door = || {
        let open = listener::fitting(open, address);
        let (address, sockets) = match open.first() {
            Some(first) => (first.local_addr()?, open),
            None => listener::open(address, workers)?,
        };
        let listeners = listener::deal(sockets, workers)?;
        Ok(Door { address, listeners })
    };
    open_door().map(Some).map_err(|source| ProxyError::Bind {
        key,
        address,
        source,
    })
}

fn listeners(door: Option<Door>) -> impl Iterator<Item = Vec<StdListener>> {
    door.into_iter().flat_map(|d| d.listeners)
}

fn doubles(door: Option<&Door>) -> io::Result<Vec<StdListener>> {
    let sockets = door.into_iter().flat_map(|d| d.listeners.iter().flatten());
    sockets.map(StdListener::try_clone).collect()
}

/// Why a proxy could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// An address cannot be listened on.
    #[error("cannot listen on `{address}` (`{key}`): {source}")]
    Bind {
        /// Key in the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration is wrong.
    #[error("configuration is invalid: {} mistakes", .0.len())]
    Config(Vec<Diagnostic>),
    /// A worker or its runtime cannot be set up.
    #[error("cannot start a worker: {0}")]
    Thread(io::Error),
}

impl ProxyError {
    /// The error as people are told.
    pub fn diagnostics(self) -> Vec<Diagnostic> {
        match self {
            Self::Config(mistakes) => mistakes,
            Self::Bind {
                key,
                address,
                source,
            } => {
                let help = match source.kind() {
                    io::ErrorKind::AddrInUse => "stop what listens there, or choose another port",
                    io::ErrorKind::PermissionDenied => {
                        "choose a port of 1024 or more, or grant CAP_NET_BIND_SERVICE"
                    }
                    _ => "choose an address of this machine",
                };
                vec![
                    Diagnostic::error(5004, format!("cannot listen on `{address}` (`{key}`)"))
                        .cause(source.to_string())
                        .help(help),
                ]
            }
            Self::Thread(source) => vec![
                Diagnostic::error(5006, "cannot start a proxy worker")
                    .cause(source.to_string())
                    .help("raise the limits on threads and open files, or lower `workers`"),
            ],
        }
    }
}

/// What a proxy has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Requests that came to the inbound listener.
    pub requests: u64,
    /// Of these, allowed.
    pub allowed: u64,
    /// Of these, denied by policy.
    pub denied: u64,
    /// Of these, undecided.
    pub undecided: u64,
    /// Of these, refused before a decision.
    pub refused: u64,
    /// Open connections on both listeners.
    pub connections: u64,
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainReport {
    /// Connections that were cut at the deadline.
    pub cut: usize,
    /// Whether every record became durable.
    pub flushed: bool,
}

/// A proxy at work. Dropping it ends it at once, without a drain.
pub struct RunningProxy {
    /// Where the inbound listener is.
    pub inbound: Option<SocketAddr>,
    /// Where the outbound listener is.
    pub outbound: Option<SocketAddr>,
    /// Where the admin listener is.
    pub admin: Option<SocketAddr>,
    phase: watch::Sender<Phase>,
    gauges: Vec<Arc<Gauges>>,
    ended: Mutex<Vec<oneshot::Receiver<Ended>>>,
    next_stream: u32,
    parts: Parts,
    /// For whoever accepts on them next; none once nobody may.
    sockets: Mutex<Option<Sockets>>,
}

impl RunningProxy {
    /// Starts the same proxy under another configuration: new workers accept on the
    /// sockets whose address stays. This one should [`retire`](Self::retire) then.
    ///
    /// # Errors
    /// As [`Proxy::start`]; nothing has changed then.
    pub fn succeed(&self, config: ProxyConfig) -> Result<Self, ProxyError> {
        let sockets = self.sockets().map_err(ProxyError::Thread)?;
        Proxy::start_as(config, self.parts.clone(), sockets, self.next_stream)
    }

    /// The sockets that are listened on, for a successor; none once this one drains.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn sockets(&self) -> io::Result<Sockets> {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets
            .as_ref()
            .map_or(Ok(Sockets::default()), Sockets::try_clone)
    }

    /// Fails readiness from now on, so that others stop sending; everything is
    /// served as before.
    pub fn leave(&self) {
        self.phase.send_if_modified(|phase| {
            let news = *phase == Phase::Serving;
            if news {
                *phase = Phase::Leaving;
            }
            news
        });
    }

    /// Whether the proxy is about to end.
    pub fn is_leaving(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    /// What was done so far, added up over the workers.
    pub fn counters(&self) -> Counters {
        let sum = |of: fn(&Gauges) -> u64| self.gauges.iter().map(|g| of(g)).sum();
        Counters {
            requests: sum(|g| g.requests.value()),
            allowed: sum(|g| g.allowed.value()),
            denied: sum(|g| g.denied.value()),
            undecided: sum(|g| g.undecided.value()),
            refused: sum(|g| g.refused.value()),
            connections: sum(|g| g.connections.value()),
        }
    }

    /// Ends the proxy without losing a request: readiness fails, nothing new is
    /// accepted, clients are told to go elsewhere (GOAWAY, `Connection: close`),
    /// what is in flight finishes within `deadline`, records are flushed. What
    /// is left then is cut. A second call waits for nothing, but can bring the
    /// deadline nearer.
    pub async fn drain(&self, deadline: Duration) -> DrainReport {
        self.end(Instant::now() + deadline, Phase::Draining).await
    }

    /// Drains while a successor accepts on the same sockets: nothing is refused, and
    /// the admin listener is the successor's at once.
    pub async fn retire(&self, deadline: Duration) -> DrainReport {
        self.end(Instant::now() + deadline, Phase::Succeeded).await
    }

    async fn end(&self, until: Instant, phase: fn(Instant) -> Phase) -> DrainReport {
        self.phase.send_modify(|now| {
            *now = match *now {
                Phase::Serving | Phase::Leaving => phase(until),
                Phase::Draining(before) => Phase::Draining(before.min(until)),
                Phase::Succeeded(before) => Phase::Succeeded(before.min(until)),
            };
        });
        // The last copies: closed with those of the workers.
        drop(
            self.sockets
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let workers =
            std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner));
        let mut report = DrainReport {
            cut: 0,
            flushed: true,
        };
        for worker in workers {
            let ended = worker.await.unwrap_or_default();
            report.cut += ended.cut;
            report.flushed &= ended.flushed;
        }
        report
    }

    /// Ends the proxy at once; records are flushed.
    pub async fn stop(&self) -> DrainReport {
        self.drain(Duration::ZERO).await
    }

    fn spawn(
        &mut self,
        shared: &Arc<Shared>,
        index: usize,
        doors: Doors<StdListener>,
    ) -> Result<(), ProxyError> {
        let telemetry_of = mpsc::channel();
        let (tell_ready, ready) = mpsc::channel();
        let (tell_ended, ended) = oneshot::channel();
        let shared = shared.clone();
        let phase = self.phase.subscribe();
        std::thread::Builder::new()
            .name(format!("palisade-proxy-{index}"))
            .spawn(move || {
                // The writing end is bound to its thread.
                let telemetry = Telemetry::new();
                let _ = telemetry_of.0.send(telemetry.gauges.clone());
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                let stream = shared.first_stream.saturating_add(index);
                let ended = worker::run(shared, stream, telemetry, doors, phase, tell_ready);
                let _ = tell_ended.send(ended);
            })
            .map_err(ProxyError::Thread)?;
        let gone = || ProxyError::Thread(io::Error::other("worker ended while it started"));
        self.gauges.push(telemetry_of.1.recv().map_err(|_| gone())?);
        ready
            .recv()
            .map_err(|_| gone())?
            .map_err(ProxyError::Thread)?;
        self.ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(ended);
        Ok(())
    }
}

impl std::fmt::Debug for RunningProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningProxy")
            .field("inbound", &self.inbound)
            .field("outbound", &self.outbound)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}
