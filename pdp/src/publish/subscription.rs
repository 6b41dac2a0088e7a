//! The stream to the PDP, from a proxy's side.
//!
//! Begins from the last good revision and endpoints on disk, before any PDP is
//! reached, and keeps trying for ever. The binary owns sockets and TLS: it hands in a function
//! that makes a channel, and one that puts a revision in force.

use std::{
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    snapshot::Digest,
    spiffe_id::TrustDomain,
    wire::policy::{
        Ack, Announce, Announcement, Endpoints, Hello, Nack, Newest, PdpMessage, ProxyMessage,
        Revision, Stamp, Status, distribution_client::DistributionClient,
        pdp_message::Kind as FromPdp, proxy_message::Kind as ToPdp,
    },
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{
    backoff::Backoff,
    beside::{Beside, Tried},
    codes,
    keep::{self, Keep, REVISION_LEN_MAX},
    older,
    word::{self, Freshness, Held},
};
use crate::bundle::{
    FEATURES, Opened,
    codes::{KEYS, NOT_SIGNED, STAMP},
    trust::{self, SignedBy, Trust, TrustConfig},
};

/// Messages waiting to be sent.
const QUEUE_LEN: usize = 8;
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

/// Why a revision is refused that may yet be believed as it is.
const MAY_PASS: [u16; 3] = [NOT_SIGNED, STAMP, KEYS];

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

    /// What was good before the restart is good now, unless somebody put something
    /// else in its place.
    async fn restore<A>(&self, apply: &Apply<A>)
    where
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
    {
        let keep = self.keep.clone();
        let freshness = self.freshness.clone();
        let trust = self.config.trust.clone();
        let load = move || {
            let word = keep.load_word()?;
            // Known also when the revision itself is lost: nothing older comes in.
            if let Some(word) = &word {
                freshness.restore(word);
            }
            let Some(kept) = keep.load()? else {
                return Ok(None);
            };
            word::check(&kept, word.as_ref())?;
            let Opened { bundle, digest } = keep::open(&kept)?;
            let domain = trust::domain_of(&bundle.trust_domain)?;
            let trust = trust::load(trust.as_ref())?;
            let signed = trust::check(trust.as_ref(), &domain, digest, &kept)?;
            Ok(Some((kept, Believed { domain, signed })))
        };
        let kept = spawn_blocking(load).await;
        let failed = match kept {
            Ok(Ok(Some((kept, believed)))) => match applied(apply, kept.clone()).await {
                Ok(()) => {
                    self.in_force(kept, believed, true);
                    return;
                }
                Err(diagnostic) => diagnostic,
            },
            Ok(Err(diagnostic)) => diagnostic,
            Ok(Ok(None)) | Err(_) => return,
        };
        tracing::warn!(error = %failed, "kept policy revision cannot be used");
        self.state.send_modify(|s| s.last_error = Some(failed));
    }

    /// Where the others were is where they most likely are; each still has to prove
    /// who it is.
    async fn restore_endpoints(&self) {
        let keep = self.keep.clone();
        match spawn_blocking(move || keep.load_endpoints()).await {
            Ok(Ok(Some(kept))) => drop(self.endpoints.send_replace(Arc::new(kept))),
            Ok(Err(error)) => tracing::warn!(%error, "kept endpoints cannot be used"),
            Ok(Ok(None)) | Err(_) => {}
        }
    }

    async fn keep_endpoints(&self, endpoints: Arc<Endpoints>) {
        let keep = self.keep.clone();
        let kept = spawn_blocking(move || keep.store_endpoints(&endpoints)).await;
        if let Ok(Err(error)) = kept {
            tracing::error!(%error, "endpoints are not kept");
        }
    }

    fn in_force(&self, revision: Revision, believed: Believed, from_disk: bool) {
        self.state.send_modify(|s| {
            s.sequence = revision.sequence;
            s.digest = Digest::from_slice(&revision.sha256).unwrap_or_default();
            s.from_disk = from_disk;
            s.domain = Some(believed.domain.clone());
            s.signed = Some(believed.signed.clone());
            s.last_error = None;
        });
        self.revision.send_replace(Some(Arc::new(revision)));
    }

    /// Serves one stream to its end; says why it ended.
    async fn session<A, S>(
        &self,
        channel: Channel,
        apply: &Apply<A>,
        status: &S,
        backoff: &mut Backoff,
    ) -> String
    where
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
        S: Fn() -> Status + Send + Sync,
    {
        // Before the hello: what changes after it is told on its own.
        let mut announcements = self.tell.announcements.subscribe();
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        let outbound = Outbound(sender);
        if outbound.send(ToPdp::Hello(self.hello())).await.is_err() {
            return "stream closed at once".to_owned();
        }
        let mut client =
            DistributionClient::new(channel).max_decoding_message_size(REVISION_LEN_MAX);
        let opened = timeout(
            OPEN_TIMEOUT,
            client.subscribe(ReceiverStream::new(receiver)),
        );
        let mut inbound = match opened.await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return status.message().to_owned(),
            Err(_) => return "it does not answer".to_owned(),
        };
        let mut due = interval(self.config.status_every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tried = interval(TRIED_EVERY.min(self.config.status_every));
        tried.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let sent = tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(message)) => {
                        backoff.reset();
                        self.take(message, apply, &outbound).await
                    }
                    Ok(None) => return "it closed the stream".to_owned(),
                    Err(status) => return status.message().to_owned(),
                },
                _ = due.tick() => self.report(status, &outbound).await,
                _ = tried.tick(), if self.tried.is_held() => self.report(status, &outbound).await,
                () = self.tell.status.notified() => self.report(status, &outbound).await,
                Ok(()) = announcements.changed() => {
                    let announcements = announcements.borrow_and_update().clone();
                    outbound.send(ToPdp::Announce(Announce { announcements })).await
                }
            };
            if sent.is_err() {
                return "stream is closed".to_owned();
            }
        }
    }

    async fn report<S>(&self, status: &S, outbound: &Outbound) -> Result<(), Closed>
    where
        S: Fn() -> Status + Send + Sync,
    {
        if self.freshness.is_write_due() {
            self.keep_word().await;
        }
        let now_us = self.config.clock.now_us();
        let mut status = Status { now_us, ..status() };
        if let Some(refused) = self.tried.refused() {
            status.trial = Some(refused);
        }
        outbound.send(ToPdp::Status(status)).await
    }

    async fn keep_word(&self) {
        let (keep, freshness) = (self.keep.clone(), self.freshness.clone());
        let store = move || freshness.to_keep().map_or(Ok(()), |w| keep.store_word(&w));
        if let Ok(Err(error)) = spawn_blocking(store).await {
            tracing::error!(%error, "age of the policy revision is not kept");
        }
    }

    /// The PDP said what the newest revision is.
    async fn note_newest(&self, newest: &Newest) {
        let ahead_us = newest.now_us - self.config.clock.now_us();
        self.state
            .send_modify(|s| s.clock_ahead_us = Some(ahead_us));
        let (sequence, digest, domain) = {
            let state = self.state.borrow();
            (state.sequence, state.digest, state.domain.clone())
        };
        let Some(domain) = domain else {
            return;
        };
        if newest.sequence != sequence || Digest::from_slice(&newest.sha256) != Some(digest) {
            return;
        }
        let (trust, now_us) = (self.config.trust.clone(), self.freshness.now_us());
        let stamp = newest.stamp.clone();
        let in_force = self.revision.borrow().clone();
        let stamped = blocking(move || {
            let trust = trust::load(trust.as_ref())?;
            // A key that was taken out counts no longer, also for what is in force.
            if let (Some(trust), Some(in_force)) = (&trust, &in_force) {
                trust.check(&domain, digest, in_force)?;
            }
            held(trust.as_ref(), &domain, (digest, sequence), stamp, now_us)
        })
        .await;
        if let Ok(stamp) = stamped {
            self.freshness.confirm(sequence, digest, stamp);
        }
        self.state.send_if_modified(|s| {
            let unstamped = stamped.err();
            let news = s.unstamped != unstamped;
            if news && let Some(error) = &unstamped {
                tracing::error!(%error, "policy revision is not confirmed");
            }
            s.unstamped = unstamped;
            news
        });
    }

    /// Whether those who must have signed a revision have, and stamped it.
    async fn believed(
        &self,
        domain: TrustDomain,
        digest: Digest,
        revision: &Revision,
    ) -> Result<(Believed, Option<Held>), Diagnostic> {
        let (trust, now_us) = (self.config.trust.clone(), self.freshness.now_us());
        let revision = revision.clone();
        blocking(move || {
            let trust = trust::load(trust.as_ref())?;
            let signed = trust::check(trust.as_ref(), &domain, digest, &revision)?;
            let of = (digest, revision.sequence);
            let stamp = held(trust.as_ref(), &domain, of, revision.stamp, now_us)?;
            Ok((Believed { domain, signed }, stamp))
        })
        .await
    }

    fn hello(&self) -> Hello {
        let have = self.revision.borrow();
        Hello {
            instance: self.config.instance.clone(),
            boot: self.config.boot.clone(),
            build: self.config.build.clone(),
            features: FEATURES.iter().map(|f| (*f).to_owned()).collect(),
            have_sha256: have.as_ref().map(|r| r.sha256.clone()).unwrap_or_default(),
            have_sequence: have.as_ref().map_or(0, |r| r.sequence),
            announcements: self.tell.announcements.borrow().clone(),
        }
    }

    async fn take<A>(
        &self,
        message: PdpMessage,
        apply: &Apply<A>,
        outbound: &Outbound,
    ) -> Result<(), Closed>
    where
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
    {
        self.state.send_if_modified(|s| {
            let news = !s.connected || s.from_disk;
            if s.last_error
                .as_ref()
                .is_some_and(|e| e.code.0 == codes::UNREACHABLE)
            {
                s.last_error = None;
            }
            (s.connected, s.from_disk, s.away_since_us) = (true, false, None);
            news
        });
        match message.kind {
            Some(FromPdp::Revision(revision)) => {
                let (sha256, sequence) = (revision.sha256.clone(), revision.sequence);
                let answer = match self.accept(revision.clone(), apply).await {
                    Ok(()) => {
                        self.doubt(None);
                        ToPdp::Ack(Ack { sha256, sequence })
                    }
                    Err(diagnostic) => {
                        let may_pass = MAY_PASS.contains(&diagnostic.code.0);
                        self.doubt(may_pass.then_some(revision));
                        tracing::warn!(error = %diagnostic, sequence, "policy revision refused");
                        let nack = Nack {
                            sha256,
                            sequence,
                            code: diagnostic.code.to_string(),
                            message: told(&diagnostic),
                        };
                        self.state.send_modify(|s| s.last_error = Some(diagnostic));
                        ToPdp::Nack(nack)
                    }
                };
                outbound.send(answer).await
            }
            Some(FromPdp::Endpoints(next)) => {
                let next = Arc::new(next);
                let is_news = self.endpoints.send_if_modified(|current| {
                    // A replica that lags behind must not take endpoints back.
                    let news = next.version > current.version;
                    if news {
                        *current = next.clone();
                    }
                    news
                });
                if is_news {
                    self.keep_endpoints(next).await;
                }
                Ok(())
            }
            Some(FromPdp::Candidate(candidate)) => {
                self.tried.take(candidate).await;
                // Whether it is tried, or not any more, is waited for.
                self.tell.status();
                Ok(())
            }
            Some(FromPdp::TryOn(on)) => {
                self.tried.confirm(&on.sha256);
                Ok(())
            }
            Some(FromPdp::Newest(newest)) => {
                self.note_newest(&newest).await;
                match self.reconsider(&newest, apply).await {
                    Some(ack) => outbound.send(ToPdp::Ack(ack)).await,
                    None => Ok(()),
                }
            }
            None => Ok(()),
        }
    }

    fn doubt(&self, revision: Option<Revision>) {
        *self.doubted.lock().unwrap_or_else(PoisonError::into_inner) = revision;
    }

    /// Puts in force what was not believed when it came, if it is now.
    async fn reconsider<A>(&self, newest: &Newest, apply: &Apply<A>) -> Option<Ack>
    where
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
    {
        let doubted = self
            .doubted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut revision =
            doubted.filter(|r| r.sequence == newest.sequence && r.sha256 == newest.sha256)?;
        revision.stamp = newest.stamp.clone().or(revision.stamp);
        let (sha256, sequence) = (revision.sha256.clone(), revision.sequence);
        self.accept(revision, apply).await.ok()?;
        self.doubt(None);
        Some(Ack { sha256, sequence })
    }

    /// The revision in force has come with other signatures.
    async fn resigned(
        &self,
        domain: TrustDomain,
        digest: Digest,
        revision: Revision,
    ) -> Result<(), Diagnostic> {
        let is_news = self.revision.borrow().as_ref().is_some_and(|had| {
            had.content_signatures != revision.content_signatures
                || had.release_signatures != revision.release_signatures
        });
        if !is_news {
            return Ok(());
        }
        let (believed, stamp) = self.believed(domain, digest, &revision).await?;
        let (keep, kept) = (self.keep.clone(), revision.clone());
        if let Ok(Err(diagnostic)) = spawn_blocking(move || keep.store(&kept)).await {
            tracing::error!(error = %diagnostic, "policy revision is not kept");
        }
        self.freshness.confirm(revision.sequence, digest, stamp);
        self.in_force(revision, believed, false);
        Ok(())
    }

    async fn accept<A>(&self, revision: Revision, apply: &Apply<A>) -> Result<(), Diagnostic>
    where
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
    {
        let Opened { bundle, digest } = keep::open(&revision)?;
        let (have_sequence, have_digest) = {
            let state = self.state.borrow();
            (state.sequence, state.digest)
        };
        if revision.sequence == have_sequence && digest == have_digest {
            let domain = trust::domain_of(&bundle.trust_domain)?;
            return self.resigned(domain, digest, revision).await;
        }
        if revision.sequence <= have_sequence {
            return Err(older(revision.sequence, have_sequence));
        }
        // The last one that was in force may be lost, or have been refused on disk.
        if let Some((seen, seen_digest)) = self.freshness.highest()
            && (revision.sequence < seen || (revision.sequence == seen && digest != seen_digest))
        {
            return Err(older(revision.sequence, seen));
        }
        let domain = trust::domain_of(&bundle.trust_domain)?;
        drop(bundle);
        let (believed, stamp) = self.believed(domain, digest, &revision).await?;
        applied(apply, revision.clone()).await?;
        let keep = self.keep.clone();
        let kept = revision.clone();
        // In force whether or not it can be kept: the older one on disk would be
        // worse, and is what a restart falls back to.
        if let Ok(Err(diagnostic)) = spawn_blocking(move || keep.succeed(&kept)).await {
            tracing::error!(error = %diagnostic, "policy revision is not kept");
        }
        self.freshness.confirm(revision.sequence, digest, stamp);
        self.keep_word().await;
        self.in_force(revision, believed, false);
        Ok(())
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

/// Whose word a revision is.
struct Believed {
    domain: TrustDomain,
    signed: SignedBy,
}

/// The stamp of a revision, where one is demanded and this one is good.
fn held(
    trust: Option<&Trust>,
    domain: &TrustDomain,
    revision: (Digest, u64),
    stamp: Option<Stamp>,
    now_us: i64,
) -> Result<Option<Held>, Diagnostic> {
    let Some(trust) = trust else {
        return Ok(None);
    };
    let until_us = trust.check_stamp(domain, revision, stamp.as_ref(), now_us)?;
    let held = stamp.zip(until_us).map(|(stamp, until_us)| Held {
        issued_us: stamp.issued_us,
        until_us,
    });
    Ok(held)
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Diagnostic> + Send + 'static,
) -> Result<T, Diagnostic> {
    spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Diagnostic::error(
            codes::APPLY_FAILED,
            "policy revision could not be put in force",
        )
        .cause(format!("bug: {error}"))
        .help("the revision before stays in force; report this with the log"))
    })
}

async fn applied<A>(apply: &Apply<A>, revision: Revision) -> Result<(), Diagnostic>
where
    A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
{
    let apply = apply.clone();
    blocking(move || {
        let mut apply = apply.lock().unwrap_or_else(PoisonError::into_inner);
        apply(revision)
    })
    .await
}

/// Message, place and cause on one line.
fn told(diagnostic: &Diagnostic) -> String {
    let whole = diagnostic.to_string();
    match whole.split_once(": ") {
        Some((code, rest)) if code == diagnostic.code.to_string() => rest.to_owned(),
        _ => whole,
    }
}

/// The stream does not take messages any more.
struct Closed;

struct Outbound(mpsc::Sender<ProxyMessage>);

impl Outbound {
    async fn send(&self, kind: ToPdp) -> Result<(), Closed> {
        let message = ProxyMessage { kind: Some(kind) };
        self.0.send(message).await.map_err(|_| Closed)
    }
}
