//! The stream to the PDP, from a proxy's side.
//!
//! Begins from the last good revision and endpoints on disk, before any PDP is
//! reached, and keeps trying for ever. The binary owns sockets and TLS: it hands in a function
//! that makes a channel, and one that puts a revision in force.

use std::{
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    snapshot::Digest,
    spiffe_id::TrustDomain,
    wire::policy::{Announcement, Endpoints, Revision, Status},
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tonic::transport::Channel;

use super::{
    backoff::Backoff,
    beside::{Beside, Tried},
    codes,
    keep::Keep,
    word::Freshness,
};
use crate::bundle::trust::{SignedBy, TrustConfig};

mod disk;
mod judged;
mod session;

/// How often the status is sent while a revision is tried, at most.
const TRIED_EVERY: Duration = Duration::from_secs(1);
/// How long opening a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Who subscribes, and how patiently.
#[derive(Debug, Clone)]
pub struct SubscriptionConfig {
    /// Name of this proxy, for people.
    pub instance: String,
    /// ULID of this start, 16 bytes.
    pub boot: Vec<u8>,
    /// Build of this program.
    pub build: String,
    /// Services served here, and where.
    pub announcements: Vec<Announcement>,
    /// Where the last good revision and the last endpoints are kept.
    pub state_dir: PathBuf,
    /// How often the status is sent.
    pub status_every: Duration,
    /// First wait after a failure.
    pub backoff_min: Duration,
    /// Longest wait after failures.
    pub backoff_max: Duration,
    /// The time.
    pub clock: Clock,
    /// Who tries revisions beside the one in force, if anybody can.
    pub beside: Option<Arc<dyn Beside>>,
    /// Who must have signed; without it, nobody.
    pub trust: Option<TrustConfig>,
}

impl SubscriptionConfig {
    /// Status every 5 s, waits from 100 ms to 10 s.
    pub fn new(instance: impl Into<String>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            instance: instance.into(),
            boot: ulid::Ulid::generate().to_bytes().to_vec(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            announcements: Vec::new(),
            state_dir: state_dir.into(),
            status_every: Duration::from_secs(5),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            clock: Clock::system(),
            beside: None,
            trust: None,
        }
    }
}

/// Makes a channel to a PDP.
pub trait Connect: Send + Sync + 'static {
    /// Opens one; the error is told to the operator.
    fn connect(&self) -> impl Future<Output = Result<Channel, String>> + Send;
}

impl<F, R> Connect for F
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<Channel, String>> + Send,
{
    fn connect(&self) -> impl Future<Output = Result<Channel, String>> + Send {
        self()
    }
}

/// How the subscription is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriptionState {
    /// Whether a stream is open.
    pub connected: bool,
    /// Whether the revision in force came from disk and no PDP has confirmed it yet.
    pub from_disk: bool,
    /// Number of the revision in force; 0 for none.
    pub sequence: u64,
    /// Its digest.
    pub digest: Digest,
    /// Whose policy it is.
    pub domain: Option<TrustDomain>,
    /// Who vouches for it.
    pub signed: Option<SignedBy>,
    /// Why the last stamp is not believed, where one is demanded.
    pub unstamped: Option<Diagnostic>,
    /// Why the last attempt or revision failed.
    pub last_error: Option<Diagnostic>,
    /// Since when no stream is open, microseconds since the Unix epoch.
    pub away_since_us: Option<i64>,
    /// How far the PDP's clock was ahead of ours at its last word, microseconds.
    pub clock_ahead_us: Option<i64>,
}

/// What a subscriber sees.
#[derive(Debug, Clone)]
pub struct Subscribed {
    /// The revision in force.
    pub revision: watch::Receiver<Option<Arc<Revision>>>,
    /// Every endpoint, from disk until a PDP has sent them; version 0 without either.
    pub endpoints: watch::Receiver<Arc<Endpoints>>,
    /// How the subscription is doing.
    pub state: watch::Receiver<SubscriptionState>,
    /// How old the revision in force is.
    pub freshness: Freshness,
    /// What to tell the PDP out of turn.
    pub tell: Tell,
}

/// Tells the PDP something before the next status is due; clones are one.
#[derive(Debug, Clone)]
pub struct Tell {
    announcements: watch::Sender<Vec<Announcement>>,
    status: Arc<Notify>,
}

impl Tell {
    /// Replaces what is announced.
    pub fn announce(&self, announcements: Vec<Announcement>) {
        self.announcements.send_if_modified(|now| {
            let news = *now != announcements;
            *now = announcements;
            news
        });
    }

    /// Has the status sent now.
    pub fn status(&self) {
        self.status.notify_one();
    }
}

/// Keeps a stream to a PDP open. One task owns it.
#[derive(Debug)]
pub struct Subscription {
    config: SubscriptionConfig,
    keep: Keep,
    revision: watch::Sender<Option<Arc<Revision>>>,
    endpoints: watch::Sender<Arc<Endpoints>>,
    state: watch::Sender<SubscriptionState>,
    freshness: Freshness,
    tell: Tell,
    tried: Tried,
    /// A revision that may yet be believed: once it is stamped, or a key is trusted.
    doubted: Mutex<Option<Revision>>,
}

/// A subscription that has begun from its disk.
#[derive(Debug)]
pub struct Restored<A> {
    subscription: Subscription,
    apply: Apply<A>,
}

type Apply<A> = Arc<Mutex<A>>;

impl Subscription {
    /// Prepares a subscription.
    ///
    /// # Errors
    /// When the state folder cannot be created.
    pub fn new(config: SubscriptionConfig) -> Result<(Self, Subscribed), Diagnostic> {
        let keep = Keep::open(&config.state_dir)?;
        let tell = Tell {
            announcements: watch::Sender::new(config.announcements.clone()),
            status: Arc::default(),
        };
        let subscription = Self {
            freshness: Freshness::new(config.clock.clone()),
            tell,
            tried: Tried::new(config.beside.clone(), config.trust.clone()),
            doubted: Mutex::default(),
            config,
            keep,
            revision: watch::Sender::new(None),
            endpoints: watch::Sender::new(Arc::default()),
            state: watch::Sender::new(SubscriptionState::default()),
        };
        let subscribed = Subscribed {
            revision: subscription.revision.subscribe(),
            endpoints: subscription.endpoints.subscribe(),
            state: subscription.state.subscribe(),
            freshness: subscription.freshness.clone(),
            tell: subscription.tell.clone(),
        };
        Ok((subscription, subscribed))
    }

    /// Runs until dropped. `apply` puts a revision in force, on a thread that may
    /// block; its error becomes the NACK. `status` is asked whenever one is due.
    pub async fn run<C, A, S>(self, connect: C, apply: A, status: S)
    where
        C: Connect,
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
        S: Fn() -> Status + Send + Sync,
    {
        self.start_from_disk(apply).await.run(connect, status).await;
    }

    /// Puts in force what was kept, if it may be: static stability. `apply` is as in
    /// [`Subscription::run`].
    pub async fn start_from_disk<A>(self, apply: A) -> Restored<A>
    where
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
    {
        let apply = Arc::new(Mutex::new(apply));
        self.restore_endpoints().await;
        self.restore(&apply).await;
        Restored {
            subscription: self,
            apply,
        }
    }

    async fn follow<C, A, S>(self, connect: C, apply: Apply<A>, status: S)
    where
        C: Connect,
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
        S: Fn() -> Status + Send + Sync,
    {
        tokio::select! {
            () = self.connect_for_ever(connect, &apply, &status) => {}
            () = self.expire_tried() => {}
        }
    }

    /// Looks after the time of what is tried, whether or not a PDP is reached.
    async fn expire_tried(&self) {
        loop {
            sleep(TRIED_EVERY).await;
            self.tried.expire();
        }
    }

    async fn connect_for_ever<C, A, S>(&self, connect: C, apply: &Apply<A>, status: &S)
    where
        C: Connect,
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
        S: Fn() -> Status + Send + Sync,
    {
        let mut backoff = Backoff::new(self.config.backoff_min, self.config.backoff_max);
        loop {
            let ended = match timeout(OPEN_TIMEOUT, connect.connect()).await {
                Ok(Ok(channel)) => self.session(channel, apply, status, &mut backoff).await,
                Ok(Err(cause)) => cause,
                Err(_) => "it does not answer".to_owned(),
            };
            tracing::debug!(cause = ended, "policy stream ended");
            self.state.send_modify(|s| {
                s.connected = false;
                let now_us = self.config.clock.now_us();
                s.away_since_us = s.away_since_us.or(Some(now_us));
                s.last_error = Some(
                    Diagnostic::warning(codes::UNREACHABLE, "policy decision point is not reached")
                        .cause(ended)
                        .help("the last good revision stays in force; check address and `palisade status`"),
                );
            });
            sleep(backoff.wait()).await;
        }
    }
}

impl<A> Restored<A>
where
    A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
{
    /// Runs until dropped; as [`Subscription::run`].
    pub async fn run<C, S>(self, connect: C, status: S)
    where
        C: Connect,
        S: Fn() -> Status + Send + Sync,
    {
        self.subscription.follow(connect, self.apply, status).await;
    }
}
