//! A whole proxy: started, watched, drained, stopped.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, sink::RecordSink, svid::Identity};
use tokio::sync::{oneshot, watch};

use crate::{
    admin,
    config::ProxyConfig,
    endpoints::Endpoints,
    listener::{self, Doors},
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

/// What all workers read and none writes.
pub(crate) struct Shared {
    pub(crate) config: ProxyConfig,
    pub(crate) policy: PolicySlot,
    pub(crate) endpoints: Endpoints,
    pub(crate) identity: Identity,
    pub(crate) sink: Arc<dyn RecordSink>,
    pub(crate) clock: Clock,
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
        let mistakes = config.check();
        if !mistakes.is_empty() {
            return Err(ProxyError::Config(mistakes));
        }
        let workers = config.worker_count();
        let inbound = door(
            config.inbound.as_ref().map(|c| c.listen),
            "inbound.listen",
            workers,
        )?;
        let outbound = door(
            config.outbound.as_ref().map(|c| c.listen),
            "outbound.listen",
            workers,
        )?;
        let admin = door(config.admin.as_ref().map(|c| c.listen), "admin.listen", 1)?;
        let shared = Arc::new(Shared {
            config,
            policy: parts.policy,
            endpoints: parts.endpoints,
            identity: parts.identity,
            sink: parts.sink,
            clock: parts.clock,
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
        };
        let mut inbound = listeners(inbound);
        let mut outbound = listeners(outbound);
        for index in 0..workers {
            let doors = Doors {
                inbound: inbound.next(),
                outbound: outbound.next(),
            };
            running.spawn(&shared, index, doors)?;
        }
        if let Some(listener) = listeners(admin).next() {
            let view = admin::View::new(shared, running.gauges.clone(), running.phase.subscribe());
            admin::spawn(listener, view).map_err(ProxyError::Thread)?;
        }
        Ok(running)
    }
}

/// The sockets of one listener, one per worker.
struct Door {
    address: SocketAddr,
    listeners: Vec<StdListener>,
}

fn door(
    address: Option<SocketAddr>,
    key: &'static str,
    workers: usize,
) -> Result<Option<Door>, ProxyError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let (address, listeners) =
        listener::open(address, workers).map_err(|source| ProxyError::Bind {
            key,
            address,
            source,
        })?;
    Ok(Some(Door { address, listeners }))
}

fn listeners(door: Option<Door>) -> impl Iterator<Item = StdListener> {
    door.into_iter().flat_map(|d| d.listeners)
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
}

impl RunningProxy {
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
    /// is left then is cut. A second call waits for nothing.
    pub async fn drain(&self, deadline: Duration) -> DrainReport {
        let until = Instant::now() + deadline;
        self.phase.send_replace(Phase::Draining(until));
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
                let ended = worker::run(shared, index, telemetry, doors, phase, tell_ready);
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
