//! The `proxy` role: one proxy, with its policy, records and identity behind it.
//!
//! Its workers come in generations: a reload starts new ones on the same sockets, an
//! upgrade does so in a new process. Everything else lives as long as the process.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use palisade_ca::join::NodeRole;
use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::Identity,
};
use palisade_proxy::{Counters, EndpointTable, LivePolicy, Parts, PolicySlot, Proxy};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use self::barring::Bars;
use super::{Signals, places};
use crate::{
    config::{Config, PolicySource, ProxySection, RecordTarget, layers::Overrides},
    control::{self, server::SocketFile},
    net::{
        directory::{Directory, Whereabouts},
        identity,
        inherited::Inherited,
        kill::Holder,
        uds,
    },
};

#[cfg(feature = "full")]
mod alone;
mod barring;
mod beside;
mod core;
mod drain;
mod feed;
mod orders;
mod records;
mod reload;
mod upgrade;
mod view;

use self::core::{Changing, Core};
use orders::{Order, routes};

pub use orders::{DrainOrder, Ordered, UpgradeOrder};
pub use upgrade::Launch;
#[cfg(feature = "full")]
pub(crate) use view::engine_fact;

/// How long a process that takes over waits for its PDP before it says that it is
/// ready: with an endpoint of its own on record it is found when the other leaves.
const PDP_PATIENCE: Duration = Duration::from_secs(2);
/// How long a process that was succeeded is still found under the address that both
/// have: the other one may not have reached its PDP yet.
const SUCCESSION: Duration = Duration::from_secs(5);
/// Orders that wait to be carried out.
const ORDERS_MAX: usize = 8;

/// A proxy at work.
pub struct ProxyRole {
    core: Arc<Core>,
    orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
    socket: SocketFile,
}

/// How a proxy is started, apart from its configuration.
#[derive(Debug, Default)]
pub struct Start {
    /// What this process was started with.
    pub inherited: Inherited,
    /// The configuration file, to read again.
    pub file: Option<PathBuf>,
    /// What overrides it, then as now.
    pub overrides: Overrides,
    /// How the next process is started; without it there can be none.
    pub launch: Option<Launch>,
}

/// What happens to a proxy while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Its configuration is read again.
    Reloading,
    /// It serves, with the configuration that was read or with the one before.
    Reloaded,
    /// The process with this id has taken over.
    TookOver(u32),
}

/// How a proxy came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Drained,
    /// The process with this id has taken over.
    Succeeded(u32),
}

/// Starts the proxy of `config`, and its local socket. When it returns, every
/// listener is bound.
///
/// # Errors
/// Everything that keeps it from starting.
pub async fn start(config: &Config, clock: Clock) -> Result<ProxyRole, Vec<Diagnostic>> {
    start_as(config, clock, Start::default()).await
}

/// As [`start`], perhaps in place of another process.
///
/// # Errors
/// As [`start`].
pub async fn start_as(
    config: &Config,
    clock: Clock,
    start: Start,
) -> Result<ProxyRole, Vec<Diagnostic>> {
    let section = super::section(config.proxy.as_ref(), "proxy")?;
    check_activated(section, &start.inherited).map_err(|d| vec![d])?;
    let Inherited {
        sockets, handover, ..
    } = start.inherited;
    let (lock, word) = match handover {
        Some(handover) => (handover.lock, Some(handover.word)),
        None => (records::lock(&config.state_dir).map_err(|d| vec![d])?, None),
    };
    let identity = acquire(config, section, &clock)
        .await
        .map_err(|d| vec![d])?;
    let stop = CancellationToken::new();
    let mut followed = None;
    let mut directory = || -> Directory {
        let follow = || places::of_agent(config, Some(&section.identity), &stop);
        followed.get_or_insert_with(follow).clone()
    };
    let audit = match &section.records {
        RecordTarget::Audit(address) => Some(Whereabouts::At(*address)),
        RecordTarget::Mesh => Some(Whereabouts::Mesh(NodeRole::Audit, directory())),
        RecordTarget::Log(_) => None,
    };
    let upgrade = word.is_some();
    let (kept, sink) = records::open(config, section, audit, &identity, &clock, upgrade, &stop)?;
    let policy = LivePolicy::empty_slot();
    let endpoints = EndpointTable::default().shared();
    // Without an agent or a PDP there is nobody to hear the kill list from.
    let beside = match (&section.policy, &section.identity) {
        (PolicySource::Folder(_), api @ identity::IdentityConfig::WorkloadApi(_)) => {
            Some(places::agent_socket(config, Some(api)))
        }
        _ => None,
    };
    let is_followed = beside.is_some() || !matches!(section.policy, PolicySource::Folder(_));
    let holder = hold(config, &identity, &clock);
    let bars = Bars::new(policy.clone(), holder.clone(), is_followed, clock.clone());
    tokio::spawn(
        stop.clone()
            .run_until_cancelled_owned(bars.clone().follow()),
    );
    let feeding = feed::Parts {
        config,
        identity: &identity,
        policy: &policy,
        bars: &bars,
        holder: &holder,
        endpoints: &endpoints,
        clock: &clock,
        stop: &stop,
    };
    if let Some(socket) = beside {
        feed::follow_kill_list(&feeding, move || uds::channel(&socket));
    }
    let later = Arc::new(OnceLock::new());
    let subscribed = match &section.policy {
        #[cfg(feature = "full")]
        PolicySource::Folder(folder) => {
            alone::folder(&feeding, sink.as_ref(), section, folder).await?;
            None
        }
        #[cfg(not(feature = "full"))]
        PolicySource::Folder(_) => return Err(section.check_alone(false)),
        PolicySource::Pdp(address) => {
            let pdp = Whereabouts::At(*address);
            Some(feed::pdp(&feeding, section, pdp, later.clone()).await?)
        }
        PolicySource::Mesh => {
            let pdp = Whereabouts::Mesh(NodeRole::Pdp, directory());
            Some(feed::pdp(&feeding, section, pdp, later.clone()).await?)
        }
    };
    if word.is_some() {
        // The other one decides until we can.
        snapshot_is_there(&policy).await;
    }
    let parts = Parts {
        policy: policy.clone(),
        endpoints: endpoints.clone(),
        identity: identity.clone(),
        sink: sink.clone(),
        clock: clock.clone(),
    };
    let running = Proxy::start_on(section.listeners(config.demo), parts, sockets)
        .map_err(palisade_proxy::ProxyError::diagnostics)?;
    let announced = feed::announcements(section, running.inbound);
    if let (Some(subscribed), Some(_)) = (&subscribed, &word) {
        subscribed.tell.announce(announced.clone());
        let mut state = subscribed.state.clone();
        let connected = state.wait_for(|s| s.connected);
        let _ = tokio::time::timeout(PDP_PATIENCE, connected).await;
    }
    let core = Arc::new(Core {
        file: start.file,
        overrides: start.overrides,
        launch: start.launch,
        started_us: clock.now_us(),
        identity,
        policy,
        bars,
        endpoints,
        kept,
        sink,
        subscribed,
        lock,
        changing: Mutex::new(Changing {
            config: config.clone(),
            section: section.clone(),
            since_us: clock.now_us(),
            rejected: None,
            announced,
            running: Arc::new(running),
            retiring: Vec::new(),
            past: Counters::default(),
            word: None,
        }),
        gone: watch::Sender::new(0),
        succeeded: AtomicBool::new(false),
        clock,
    });
    let _ = later.set(core.clone());
    tokio::spawn(
        stop.clone()
            .run_until_cancelled_owned(feed::watch_age(core.clone())),
    );
    tokio::spawn(
        stop.clone()
            .run_until_cancelled_owned(feed::announce_when_able(core.clone())),
    );
    let (sender, orders) = mpsc::channel(ORDERS_MAX);
    let socket = control::server::serve(
        super::about(config, &["proxy"], &core.clock),
        &format!("proxy-{}", section.instance),
        routes(&core, &sender),
        stop.clone(),
        word.is_some(),
    )
    .await
    .map_err(|e| vec![super::unbound("control socket", &e)])?;
    if let Some(word) = &word {
        // An error means that the other has gone already: then we are alone.
        let _ = upgrade::say_ready(word);
    }
    Ok(ProxyRole {
        core,
        orders,
        stop,
        socket,
    })
}

/// What is known of the kill list: from before, and what the bundle of `identity`
/// vouches for.
fn hold(config: &Config, identity: &Identity, clock: &Clock) -> Arc<Holder> {
    let domain = TrustDomain::parse(identity.id().trust_domain())
        .unwrap_or_else(|_| config.trust_domain.clone());
    let file = config.state_dir.join("kill-list");
    let trusting = identity.clone();
    let bundle = move || trusting.bundle();
    Holder::new(&domain, bundle, clock.clone(), Some(file))
}

/// The identity, from the last one on disk if need be.
async fn acquire(
    config: &Config,
    section: &ProxySection,
    clock: &Clock,
) -> Result<Identity, Diagnostic> {
    let keep = identity::kept::Keep::new(
        &config.state_dir,
        &section.instance,
        config.trust_domain.clone(),
        section.spiffe_id.clone(),
    )?;
    let wanted = section.spiffe_id.clone();
    let identity =
        identity::acquire_or_kept(&section.identity, wanted, clock.clone(), Some(keep)).await?;
    check_identity(&identity.id())?;
    Ok(identity)
}

/// A proxy without an identity of its own may be offered one of the mesh's parts,
/// for it is the same program; it must not speak for them.
fn check_identity(own: &SpiffeId) -> Result<(), Diagnostic> {
    if !own.is_reserved() {
        return Ok(());
    }
    Err(
        Diagnostic::error(4204, format!("`{own}` is no identity for a proxy"))
            .cause("paths under `/palisade/` name the mesh's own parts")
            .help("register this proxy with the authority: ca.registrations"),
    )
}

/// Sockets of systemd must be those that are configured: else nobody would accept
/// what comes to them.
fn check_activated(section: &ProxySection, inherited: &Inherited) -> Result<(), Diagnostic> {
    if !inherited.activated {
        return Ok(());
    }
    let configured = |name: &str| match name {
        "inbound" => section.inbound.as_ref().map(|c| c.listen),
        "outbound" => section.outbound.as_ref().map(|c| c.listen),
        _ => section.admin.as_ref().map(|c| c.listen),
    };
    let strange = inherited.addresses().into_iter().find(|(name, at)| {
        let fits = |c: std::net::SocketAddr| c == *at || (c.port() == 0 && c.ip() == at.ip());
        !configured(name).is_some_and(fits)
    });
    match strange {
        None => Ok(()),
        Some((name, at)) => Err(Diagnostic::error(
            5321,
            format!("the socket `{name}` of the service manager listens on `{at}`"),
        )
        .cause(match configured(name) {
            Some(address) => format!("`proxy.{name}.listen` is `{address}`"),
            None => format!("the configuration has no `proxy.{name}`"),
        })
        .help("make ListenStream of the socket unit and the configuration the same")),
    }
}

async fn snapshot_is_there(slot: &PolicySlot) {
    while slot.load().is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl ProxyRole {
    /// Resolves when the local socket asks for a drain; for a proxy that does not
    /// [`run`](Self::run), because it lives as long as something else. It gives the
    /// deadline for [`end_within`](Self::end_within), if the order named one.
    pub async fn told_to_drain(&mut self) -> Option<Duration> {
        loop {
            match self.orders.recv().await {
                Some(Order::Drain(deadline)) => return deadline,
                Some(Order::Upgrade(binary, reply)) => {
                    let _ = reply.send(upgrade::start_next(&self.core, binary).await);
                }
                // The socket holds the other end.
                None => std::future::pending().await,
            }
        }
    }

    /// Drains the proxy and writes out its records.
    pub async fn end(self) {
        self.end_within(None).await;
    }

    /// As [`ProxyRole::end`], perhaps with another deadline than the configured one.
    pub async fn end_within(self, deadline: Option<Duration>) {
        let deadline = deadline.unwrap_or_else(|| self.core.section().drain.deadline);
        drain::drain(&self.core, deadline, std::future::pending()).await;
        self.close();
    }

    /// Resolves when the proxy can decide: it has its certificate from the start, and
    /// then a policy snapshot too.
    pub fn ready(&self) -> impl Future<Output = ()> + use<> {
        let slot = self.core.policy.clone();
        async move { snapshot_is_there(&slot).await }
    }

    /// What an application beside it needs to know: whose Workload API, and which
    /// proxy for its own calls.
    pub fn environment(&self, config: &Config) -> Vec<(&'static str, String)> {
        let identity = config.proxy.as_ref().map(|p| &p.identity);
        let api = match identity {
            Some(identity::IdentityConfig::WorkloadApi(address)) => Some(address.clone()),
            _ => None,
        };
        let outbound = self.core.running().outbound;
        let outbound = outbound.map(|a| format!("http://{a}"));
        let for_calls = ["HTTP_PROXY", "http_proxy"].into_iter();
        let for_calls = for_calls.filter_map(|name| Some((name, outbound.clone()?)));
        let endpoint = api.map(|address| ("SPIFFE_ENDPOINT_SOCKET", address));
        endpoint.into_iter().chain(for_calls).collect()
    }

    /// Puts another configuration in force; says whether anything has changed.
    ///
    /// # Errors
    /// Every reason why it cannot be; nothing has changed then.
    pub async fn reload(&self, next: &Config) -> Result<bool, Vec<Diagnostic>> {
        reload::apply(&self.core, next).await
    }

    /// Runs until it is told to end, by a signal, on the local socket, or by `told`, or
    /// until another process has taken over. `turn` hears at once of what whoever has
    /// started it has to know.
    ///
    /// # Errors
    /// When signals cannot be received.
    pub async fn run(
        mut self,
        mut signals: Signals,
        told: impl Future<Output = ()>,
        mut turn: impl FnMut(Turn),
    ) -> std::io::Result<Ended> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut upgrade = signal(SignalKind::user_defined2())?;
        let mut file = reload::Watch::new(&self.core);
        let mut told = std::pin::pin!(told);
        let core = self.core.clone();
        let deadline = loop {
            let (binary, reply) = tokio::select! {
                () = &mut told => break None,
                () = signals.end() => break None,
                _ = hangup.recv() => {
                    turn(Turn::Reloading);
                    reload::from_file(&core).await;
                    turn(Turn::Reloaded);
                    continue;
                }
                () = file.changed(&core) => {
                    turn(Turn::Reloading);
                    reload::from_file(&core).await;
                    turn(Turn::Reloaded);
                    continue;
                }
                _ = upgrade.recv() => (None, None),
                order = self.orders.recv() => match order {
                    Some(Order::Drain(deadline)) => break deadline,
                    Some(Order::Upgrade(binary, reply)) => (binary, Some(reply)),
                    // The socket holds the other end.
                    None => continue,
                },
            };
            let started = tokio::select! {
                started = upgrade::start_next(&core, binary) => started,
                () = signals.end() => break None,
            };
            let next = started.as_ref().ok().copied();
            if let Err(error) = &started {
                tracing::error!(%error, "upgrade failed");
            }
            if let Some(reply) = reply {
                let _ = reply.send(started);
            }
            if let Some(pid) = next {
                turn(Turn::TookOver(pid));
                self.give_way(&mut signals).await;
                return Ok(Ended::Succeeded(pid));
            }
        };
        let deadline = deadline.unwrap_or_else(|| core.section().drain.deadline);
        drain::drain(&core, deadline, signals.end()).await;
        self.close();
        Ok(Ended::Drained)
    }

    /// Ends after another process has taken over: nothing is accepted any more, what is
    /// in flight finishes. Policy is followed to the end: what is in flight may be
    /// allowed no more.
    async fn give_way(self, signals: &mut Signals) {
        let core = &self.core;
        core.succeeded.store(true, Ordering::Relaxed);
        let deadline = core.section().drain.deadline;
        let running = core.running();
        let finish = async {
            running.retire(deadline).await;
            core.generations_gone().await;
        };
        let finish = async {
            tokio::select! {
                () = finish => {}
                () = self.tell_succession() => {}
            }
        };
        tokio::select! {
            () = finish => {}
            () = signals.end() => {
                for generation in core.generations() {
                    generation.stop().await;
                }
            }
        }
        self.close();
    }

    /// Has the PDP forget this process where the other one serves, once that one had the
    /// time to announce itself; never resolves.
    async fn tell_succession(&self) {
        tokio::time::sleep(SUCCESSION).await;
        self.core.succeeded.store(false, Ordering::Relaxed);
        if let Some(subscribed) = &self.core.subscribed {
            subscribed.tell.status();
        }
        std::future::pending().await
    }

    fn close(self) {
        self.stop.cancel();
        drop(self.socket);
        self.core.kept.close();
    }
}
