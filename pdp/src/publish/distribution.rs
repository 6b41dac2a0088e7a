//! The stream to the proxies, from the PDP's side.
//!
//! State-based: a proxy says what it has, and is sent what it should have, at
//! once and on every change. Only the newest state is ever queued for a proxy,
//! so a slow one costs no memory.

use std::{
    collections::{BTreeSet, HashSet},
    path::PathBuf,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::Stream;
use palisade_mesh::{
    catalogue::Catalogue,
    clock::Clock,
    link::{Gate, Link, LinkAction, LinkRefused},
    snapshot::Digest,
    spiffe_id::SpiffeId,
    svid::Peer,
    wire::policy::{
        Announcement, Candidate, Endpoints, Hello, Newest, PdpMessage, ProxyMessage, Revision,
        TryOn, distribution_server as server, pdp_message, proxy_message::Kind,
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    codes,
    endpoints::{self, Announced},
    keep::Keep,
    recorder::Recorder,
    registry::{self, ProxyStatus, Registry},
    rollout::Seat,
    source::{Published, State},
};
use crate::links::Links;

/// Most announcements of one proxy.
pub const ANNOUNCEMENTS_MAX: usize = 64;
/// How long a new stream may take to say hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stream may be silent, or refuse to take a message.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a proxy tries a revision that its PDP does not speak of.
const TRIAL_LIMIT_MS: u64 = 60_000;
/// Identities of services that are remembered.
const IDENTITIES_MAX: usize = 100_000;
/// Messages waiting for one proxy.
const QUEUE_LEN: usize = 2;

/// How the distribution behaves.
#[derive(Debug, Clone)]
pub struct DistributionConfig {
    /// How long the endpoints of a proxy stay after its stream ended.
    pub grace: Duration,
    /// Where endpoints are kept over a restart; nowhere when there is none.
    pub state_dir: Option<PathBuf>,
    /// How long endpoints from before a restart stay: longer than a proxy waits
    /// before it tries again, or those that are back would not find the others.
    pub restart_grace: Duration,
}

impl Default for DistributionConfig {
    /// Five seconds of grace, fifteen after a restart: a PDP or proxy that reconnects
    /// moves no traffic.
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(5),
            state_dir: None,
            restart_grace: Duration::from_secs(15),
        }
    }
}

/// Pushes revisions and endpoints; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Distribution {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Distribution").finish_non_exhaustive()
    }
}

/// The built-in policies, for whoever plugs nothing in.
impl Gate for Links {
    fn ask(&self, link: &Link<'_>) -> Result<(), LinkRefused> {
        self.decide(link)
    }
}

struct Shared {
    config: DistributionConfig,
    clock: Clock,
    recorder: Arc<Recorder>,
    state: watch::Receiver<State>,
    endpoints: watch::Sender<Arc<Endpoints>>,
    streams: AtomicU64,
    registry: Mutex<Registry>,
    announced: Mutex<Announced>,
    keep: Option<Keep>,
    gate: Arc<dyn Gate>,
    /// Identities of a service in any revision since the start: a proxy whose service
    /// has gone must hear of that.
    catalogued: Mutex<HashSet<SpiffeId>>,
    /// Stand-ins for the streams of before a restart.
    restored: Mutex<Vec<u64>>,
}

impl Distribution {
    /// Distributes what `state` says. [`Distribution::run`] must run beside it.
    pub fn new(
        config: DistributionConfig,
        state: watch::Receiver<State>,
        clock: Clock,
        recorder: Arc<Recorder>,
    ) -> Self {
        let gate = Arc::new(Links::default());
        Self::guarded(config, state, clock, recorder, gate)
    }

    /// Whether `peer` may subscribe, for what else is served beside the distribution.
    ///
    /// # Errors
    /// The answer that it gets instead.
    pub fn admit(&self, peer: &SpiffeId) -> Result<(), Status> {
        let current = self.shared.state.borrow().current.clone();
        let current =
            current.ok_or_else(|| Status::unavailable("no policy revision is in force"))?;
        self.shared.admit(peer, &current)
    }

    /// As [`Distribution::new`], asking `gate` who may subscribe.
    pub fn guarded(
        config: DistributionConfig,
        state: watch::Receiver<State>,
        clock: Clock,
        recorder: Arc<Recorder>,
        gate: Arc<dyn Gate>,
    ) -> Self {
        let keep = config.state_dir.as_deref().and_then(|dir| {
            Keep::open(dir)
                .inspect_err(|error| tracing::error!(%error, "endpoints are not kept"))
                .ok()
        });
        let shared = Shared {
            config,
            keep,
            gate,
            catalogued: Mutex::default(),
            restored: Mutex::default(),
            clock,
            recorder,
            state,
            endpoints: watch::Sender::new(Arc::default()),
            streams: AtomicU64::new(0),
            registry: Mutex::default(),
            announced: Mutex::default(),
        };
        shared.restore();
        shared.recompute();
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The tonic service. Each request must carry the [`Peer`] of its connection as
    /// an extension; one without is refused.
    pub fn service(&self) -> server::DistributionServer<Self> {
        server::DistributionServer::new(self.clone())
    }

    /// Every proxy that is or recently was there.
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        lock(&self.shared.registry).snapshot()
    }

    /// Every endpoint, now and later.
    pub fn endpoints(&self) -> watch::Receiver<Arc<Endpoints>> {
        self.shared.endpoints.subscribe()
    }

    /// Follows revisions, whose catalogue decides who may announce what, and keeps
    /// endpoints on disk. Ends when the source is gone.
    pub async fn run(&self) {
        let mut state = self.shared.state.clone();
        let mut endpoints = self.shared.endpoints.subscribe();
        let mut settled = pin!(sleep(self.shared.config.restart_grace));
        let mut is_settled = false;
        loop {
            self.shared.recompute();
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                Ok(()) = endpoints.changed() => {
                    let newest = endpoints.borrow_and_update().clone();
                    self.shared.store(newest).await;
                }
                () = &mut settled, if !is_settled => {
                    is_settled = true;
                    self.shared.forget_restored();
                }
            }
        }
    }
}

type PdpStream = Pin<Box<dyn Stream<Item = Result<PdpMessage, Status>> + Send>>;

#[tonic::async_trait]
impl server::Distribution for Distribution {
    type SubscribeStream = PdpStream;

    async fn subscribe(
        &self,
        request: Request<Streaming<ProxyMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let Some(peer) = request.extensions().get::<Peer>().cloned() else {
            return Err(Status::unauthenticated("connection has no SPIFFE identity"));
        };
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        let session = Session {
            stream: self.shared.streams.fetch_add(1, Ordering::Relaxed),
            shared: self.shared.clone(),
            identity: peer.id,
            not_after_s: peer.not_after_s,
            nacked: AtomicU64::new(0),
            returns: AtomicBool::new(false),
            sender: sender.clone(),
        };
        let inbound = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = session.run(inbound).await {
                // The proxy may be gone; then nobody needs to be told.
                let _ = sender.try_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Shared {
    /// Policies tell who guards what; they are for the trust domain alone, and in it
    /// for those whom the gate lets in.
    fn admit(&self, identity: &SpiffeId, current: &Published) -> Result<(), Status> {
        if !identity.is_member_of(&current.compiled.trust_domain) {
            return Err(Status::permission_denied(
                "policy is for proxies of its own trust domain",
            ));
        }
        // The present revision may be newer than what was remembered last.
        let catalogue = &current.compiled.catalogue;
        let is_catalogued = lock(&self.catalogued).contains(identity)
            || catalogue
                .services()
                .iter()
                .any(|s| s.identities.contains(identity));
        let link = Link {
            is_catalogued,
            ..Link::new(identity, LinkAction::Subscribe)
        };
        let asked = self.gate.ask(&link);
        asked.map_err(|refused| Status::permission_denied(refused.to_string()))
    }

    /// Announces in the name of those who were there before a restart, until they
    /// have had the time to come back.
    fn restore(&self) {
        let kept = match self.keep.as_ref().map(Keep::load_endpoints) {
            Some(Ok(Some(kept))) => kept,
            Some(Err(error)) => return tracing::warn!(%error, "kept endpoints cannot be used"),
            Some(Ok(None)) | None => return,
        };
        let announced = kept.endpoints.iter().filter_map(endpoints::announcement);
        for (identity, announcement) in announced {
            let stream = self.streams.fetch_add(1, Ordering::Relaxed);
            lock(&self.announced).set(stream, &identity, vec![announcement]);
            lock(&self.restored).push(stream);
        }
    }

    fn forget_restored(&self) {
        for stream in lock(&self.restored).drain(..) {
            lock(&self.announced).remove(stream);
        }
    }

    async fn store(&self, endpoints: Arc<Endpoints>) {
        let Some(keep) = self.keep.clone() else {
            return;
        };
        let stored = spawn_blocking(move || keep.store_endpoints(&endpoints)).await;
        if let Ok(Err(error)) = stored {
            tracing::error!(%error, "endpoints are not kept");
        }
    }

    fn remember(&self, catalogue: Option<&Catalogue>) {
        let services = catalogue.iter().flat_map(|c| c.services());
        let mut catalogued = lock(&self.catalogued);
        for identity in services.flat_map(|s| &s.identities) {
            if catalogued.len() >= IDENTITIES_MAX {
                return;
            }
            if !catalogued.contains(identity) {
                catalogued.insert(identity.clone());
            }
        }
    }

    fn recompute(&self) {
        let State {
            current, rollout, ..
        } = self.state.borrow().clone();
        // Its proxies are to be let in before everybody has it.
        self.remember(rollout.as_ref().map(|u| &*u.candidate.compiled.catalogue));
        let catalogue = current.as_ref().map(|c| &*c.compiled.catalogue);
        self.remember(catalogue);
        // The lock is held until the result is sent, so that two changes cannot
        // overtake each other.
        let announced = lock(&self.announced);
        let all = announced.endpoints(catalogue);
        let now_us = self.clock.now_us();
        self.endpoints.send_if_modified(|current| {
            let Some(next) = endpoints::next(current, all, now_us) else {
                return false;
            };
            *current = Arc::new(next);
            true
        });
        drop(announced);
    }
}

/// One proxy's stream.
struct Session {
    shared: Arc<Shared>,
    stream: u64,
    identity: SpiffeId,
    /// End of the peer's certificate, seconds since the Unix epoch.
    not_after_s: i64,
    /// The newest revision whose refusal is recorded.
    nacked: AtomicU64,
    /// Whether it is of a build that can be taken back to a lower number.
    returns: AtomicBool,
    sender: mpsc::Sender<Result<PdpMessage, Status>>,
}

type Key = (SpiffeId, String);

impl Session {
    async fn run(&self, mut inbound: Streaming<ProxyMessage>) -> Result<(), Status> {
        let hello = match timeout(HELLO_TIMEOUT, inbound.message()).await {
            Ok(Ok(Some(ProxyMessage {
                kind: Some(Kind::Hello(hello)),
            }))) => hello,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(status)) => return Err(status),
            Ok(Ok(Some(_))) | Err(_) => {
                return Err(Status::failed_precondition("stream must begin with hello"));
            }
        };
        let current = self.shared.state.borrow().current.clone();
        if let Some(current) = current {
            self.admit(&current)?;
        }
        let key = self.hello(&hello)?;
        let have = (
            Digest::from_slice(&hello.have_sha256).unwrap_or_default(),
            hello.have_sequence,
        );
        let ended = self.serve(inbound, &key, have).await;
        let now_us = self.shared.clock.now_us();
        lock(&self.shared.registry).gone(&key, self.stream, now_us);
        self.withdraw_later();
        ended
    }

    fn hello(&self, hello: &Hello) -> Result<Key, Status> {
        let now_us = self.shared.clock.now_us();
        let returns = registry::returns(hello);
        self.returns.store(returns, Ordering::Relaxed);
        let key = lock(&self.shared.registry)
            .hello(&self.identity, hello, self.stream, now_us)
            .map_err(|_| Status::resource_exhausted("too many proxies"))?;
        self.announce(&hello.announcements, &key);
        Ok(key)
    }

    /// Keeps all announcements, because the catalogue may come to entitle them;
    /// those it does not entitle now are recorded and not told to anybody.
    fn announce(&self, announced: &[Announcement], key: &Key) {
        let current = self.shared.state.borrow().current.clone();
        let announcements: Vec<_> = announced.iter().take(ANNOUNCEMENTS_MAX).cloned().collect();
        let mut reasons = BTreeSet::new();
        if announced.len() > ANNOUNCEMENTS_MAX {
            reasons.insert(format!("more than {ANNOUNCEMENTS_MAX} announcements"));
        }
        if let Some(current) = current {
            let catalogue = &current.compiled.catalogue;
            for announcement in &announcements {
                let checked = endpoints::entitled(announcement, &self.identity, catalogue);
                reasons.extend(checked.err());
            }
        }
        let reasons: Vec<_> = reasons.into_iter().collect();
        if !reasons.is_empty() {
            // One record for all, so that a peer cannot fill the log with them.
            let detail = format!("PLS{}: {}", codes::ANNOUNCEMENT, reasons.join("; "));
            tracing::warn!(src.id = %self.identity, detail, "announcements refused");
            self.shared.recorder.admin(
                self.identity.as_str(),
                "announcement_refused",
                &key.1,
                &super::registry::cut(&detail),
            );
        }
        let now_us = self.shared.clock.now_us();
        lock(&self.shared.registry).refused(key, self.stream, reasons, now_us);
        lock(&self.shared.announced).set(self.stream, &self.identity, announcements);
        self.shared.recompute();
    }

    fn admit(&self, current: &Published) -> Result<(), Status> {
        self.shared.admit(&self.identity, current)
    }

    async fn serve(
        &self,
        mut inbound: Streaming<ProxyMessage>,
        key: &Key,
        have: (Digest, u64),
    ) -> Result<(), Status> {
        let mut state = self.shared.state.clone();
        let mut endpoints = self.shared.endpoints.subscribe();
        let (mut sent_policy, mut sent_endpoints) = (have, 0);
        // Of what it has already, it is not known how that was signed.
        let mut sent_signatures = None;
        // What it tried on a stream before this one is not known.
        let mut sent_trial = None;
        loop {
            // It comes back with its next one; who gets none any more is not told more.
            if self.shared.clock.now_us() / 1_000_000 >= self.not_after_s {
                return Err(Status::unauthenticated("the peer's certificate has ended"));
            }
            let now = state.borrow_and_update().clone();
            if let Some(current) = &now.current {
                self.admit(current)?;
            }
            if let Some(wanted) = now.wanted(self.seat(&key.1)) {
                let name = (wanted.digest(), wanted.sequence());
                let signatures = wanted.signatures();
                let is_resigned = sent_signatures.is_some_and(|sent| sent != signatures);
                if name != sent_policy || is_resigned {
                    let revision = self.revision(wanted).await;
                    self.send(pdp_message::Kind::Revision(revision)).await?;
                    sent_policy = name;
                }
                sent_signatures = Some(signatures);
            }
            let tried = now.tried(self.seat(&key.1));
            let name = tried.map(|t| (t.digest(), t.sequence()));
            if sent_trial != Some(name) {
                sent_trial = Some(name);
                let revision = match tried {
                    Some(tried) => Some(self.revision(tried).await),
                    None => None,
                };
                let every = now.rollout.as_ref().map_or(1, |u| u.rollout.plan.every);
                self.send(pdp_message::Kind::Candidate(Candidate {
                    revision,
                    every,
                    limit_ms: TRIAL_LIMIT_MS,
                }))
                .await?;
            }
            let current = endpoints.borrow_and_update().clone();
            if current.version != sent_endpoints {
                sent_endpoints = current.version;
                self.send(pdp_message::Kind::Endpoints((*current).clone()))
                    .await?;
            }
            tokio::select! {
                changed = state.changed() => {
                    changed.map_err(|_| Status::unavailable("policy decision point stops"))?;
                }
                _ = endpoints.changed() => {}
                message = timeout(IDLE_TIMEOUT, inbound.message()) => match message {
                    Ok(Ok(Some(message))) => {
                        for answer in self.take(message, key)? {
                            self.send(answer).await?;
                        }
                    }
                    Ok(Ok(None)) => return Ok(()),
                    Ok(Err(status)) => return Err(status),
                    Err(_) => return Err(Status::deadline_exceeded("proxy is silent")),
                },
            }
        }
    }

    /// Who it is, to a rollout.
    fn seat<'s>(&'s self, instance: &'s str) -> Seat<'s> {
        Seat {
            identity: &self.identity,
            instance,
            returns: self.returns.load(Ordering::Relaxed),
        }
    }

    /// What this proxy is to have of a revision.
    async fn revision(&self, current: &Arc<Published>) -> Revision {
        let (published, identity) = (current.clone(), self.identity.clone());
        let slice = spawn_blocking(move || published.slice(&identity)).await;
        Revision {
            bundle: slice.unwrap_or_else(|_| current.revision.bundle.clone()),
            stamp: Some(current.stamp(self.shared.clock.now_us())),
            ..current.revision.clone()
        }
    }

    async fn send(&self, kind: pdp_message::Kind) -> Result<(), Status> {
        let message = PdpMessage { kind: Some(kind) };
        match timeout(IDLE_TIMEOUT, self.sender.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("proxy is gone")),
            Err(_) => Err(Status::deadline_exceeded("proxy takes no messages")),
        }
    }

    fn take(&self, message: ProxyMessage, key: &Key) -> Result<Vec<pdp_message::Kind>, Status> {
        let now_us = self.shared.clock.now_us();
        match message.kind {
            Some(Kind::Hello(_)) => {
                return Err(Status::failed_precondition("a stream says hello once"));
            }
            Some(Kind::Ack(ack)) => {
                lock(&self.shared.registry).ack(key, self.stream, &ack, now_us);
            }
            Some(Kind::Nack(nack)) => {
                tracing::warn!(
                    src.id = %self.identity,
                    sequence = nack.sequence,
                    code = nack.code,
                    "policy revision refused by proxy"
                );
                lock(&self.shared.registry).nack(key, self.stream, &nack, now_us);
                if !self.is_news(nack.sequence) {
                    return Ok(Vec::new());
                }
                let detail = super::registry::cut(&format!("{}: {}", nack.code, nack.message));
                self.shared.recorder.admin(
                    self.identity.as_str(),
                    "revision_refused",
                    &format!("revision {}", nack.sequence),
                    &detail,
                );
            }
            Some(Kind::Status(status)) => {
                let news = lock(&self.shared.announced).drain(self.stream, status.draining);
                lock(&self.shared.registry).status(key, self.stream, status, now_us);
                if news {
                    self.shared.recompute();
                }
                return Ok(self.words(&key.1, now_us));
            }
            Some(Kind::Announce(announce)) => self.announce(&announce.announcements, key),
            None => {}
        }
        Ok(Vec::new())
    }

    /// What the proxy shall enforce and try, for as long as it hears so.
    fn words(&self, instance: &str, now_us: i64) -> Vec<pdp_message::Kind> {
        let now = self.shared.state.borrow().clone();
        let newest = now.wanted(self.seat(instance)).map(|wanted| {
            pdp_message::Kind::Newest(Newest {
                sha256: wanted.digest().0.to_vec(),
                sequence: wanted.sequence(),
                now_us,
                stamp: Some(wanted.stamp(now_us)),
            })
        });
        let tried = now.tried(self.seat(instance)).map(|tried| {
            pdp_message::Kind::TryOn(TryOn {
                sha256: tried.digest().0.to_vec(),
            })
        });
        newest.into_iter().chain(tried).collect()
    }

    /// Whether a refusal is of a revision that exists and was not refused before: a
    /// peer must not fill the log with them.
    fn is_news(&self, sequence: u64) -> bool {
        let now = self.shared.state.borrow().clone();
        let current = now.current.iter().map(|c| c.sequence());
        let underway = now.rollout.iter().map(|u| u.candidate.sequence());
        current.chain(underway).any(|newest| sequence <= newest)
            && self.nacked.fetch_max(sequence, Ordering::Relaxed) < sequence
    }

    /// Withdraws the endpoints after the grace; a proxy that is back by then has
    /// announced them on its new stream.
    fn withdraw_later(&self) {
        let (shared, stream) = (self.shared.clone(), self.stream);
        tokio::spawn(async move {
            sleep(shared.config.grace).await;
            lock(&shared.announced).remove(stream);
            shared.recompute();
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
