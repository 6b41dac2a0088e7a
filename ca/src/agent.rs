//! The agent: attests workloads and keeps their identities fresh.
//!
//! It holds the last trust state and every certificate in use in memory, so that
//! it goes on serving when the authority is away. Keys are made here and never
//! leave but to the workload they are for. One task follows the authority, one
//! keeps each identity; streams of the Workload API only look.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use palisade_mesh::{
    clock::Clock,
    sink::RecordStream,
    spiffe_id::{SpiffeId, TrustDomain},
    wire::record::{Credential, record::Body},
};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::{
    attest::AttestError,
    upstream::{Remote, States, Upstream, UpstreamError},
    workload_api::WorkloadApi,
};
use self::{attest::Digests, backoff::Backoff, holders::Holders, keeper::Keeper};
use crate::{
    join::NodeRole,
    recorder::Recorder,
    registration::Registration,
    selector::Selector,
    socket::{Socket, SocketError},
    trust::{DirectoryEntry, TrustState},
};

mod attest;
mod backoff;
mod connection;
mod directory;
mod grpcio;
mod holders;
mod keeper;
mod kill;
pub mod node;
mod refusals;
mod tally;
mod upstream;
mod workload_api;

/// Most connections a user may hold to the Workload API, by default.
pub const CONNECTIONS_PER_UID_MAX: usize = 256;
/// Most streams and calls a user may hold open, by default.
pub const STREAMS_PER_UID_MAX: usize = 512;

/// Configuration of an [`Agent`].
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The trust domain it serves; an authority of another one is not believed.
    pub trust_domain: TrustDomain,
    /// Its name among the agents of the trust domain, the same after a restart: the
    /// authority waits for it by this name. Default: the trust domain.
    pub name: String,
    /// Connections each user may hold. Default [`CONNECTIONS_PER_UID_MAX`].
    pub connections_per_uid_max: usize,
    /// Streams and calls each user may hold open. Default [`STREAMS_PER_UID_MAX`].
    pub streams_per_uid_max: usize,
    /// Permission bits of the Workload API's socket. Default 0666: who may connect
    /// is not who gets an identity.
    pub socket_mode: u32,
    /// Marks every record as a demo's.
    pub demo: bool,
    /// Who it is in its records. Default `spiffe://TD/palisade/agent`; on a joined
    /// node, the node.
    pub reporter: SpiffeId,
    /// File that keeps the directory over a restart; none by default.
    pub directory_file: Option<PathBuf>,
}

impl AgentConfig {
    /// The defaults for a trust domain.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            reporter: trust_domain.role("agent"),
            directory_file: None,
            name: trust_domain.to_string(),
            trust_domain,
            connections_per_uid_max: CONNECTIONS_PER_UID_MAX,
            streams_per_uid_max: STREAMS_PER_UID_MAX,
            socket_mode: 0o666,
            demo: false,
        }
    }
}

/// Hands out identities on this host for as long as it is held.
pub struct Agent {
    desk: Arc<Desk>,
    _running: DropGuard,
}

/// An identity the agent keeps, for people.
#[derive(Debug, Clone)]
pub struct KeptIdentity {
    /// Whose.
    pub spiffe_id: SpiffeId,
    /// Its hint.
    pub hint: String,
    /// What a process must show for it.
    pub selectors: Vec<Selector>,
    /// Serial number of the certificate; empty while there is none.
    pub serial: Vec<u8>,
    /// End of the certificate, seconds since the Unix epoch; 0 while there is none.
    pub not_after_s: i64,
    /// When it will be renewed, seconds since the Unix epoch; 0 while there is none.
    pub renew_at_s: i64,
    /// Why the last attempt to get or renew it failed, if it did.
    pub error: Option<String>,
}

impl Agent {
    /// Starts following `upstream`. `records` is this part's own stream. Must be
    /// called inside a tokio runtime.
    pub fn start(
        config: AgentConfig,
        upstream: impl Upstream,
        clock: Clock,
        records: Box<dyn RecordStream>,
    ) -> Arc<Self> {
        let recorder = Recorder::new(records, config.reporter.clone(), clock.clone(), config.demo);
        let kept = config.directory_file.as_deref().map(directory::load);
        let stop = CancellationToken::new();
        let desk = Arc::new(Desk {
            config,
            clock,
            recorder,
            upstream: Box::new(upstream),
            trust: watch::Sender::new(None),
            directory: watch::Sender::new(kept.unwrap_or_default()),
            announced: Mutex::default(),
            changed: watch::Sender::new(()),
            holders: Arc::default(),
            trouble: Mutex::default(),
            keepers: Mutex::new(HashMap::new()),
            digests: Digests::default(),
            stop: stop.clone(),
        });
        tokio::spawn(stop.clone().run_until_cancelled_owned(follow(desk.clone())));
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(holders::report(desk.clone())),
        );
        Arc::new(Self {
            desk,
            _running: stop.drop_guard(),
        })
    }

    /// Bundle and registrations as last heard of, now and with every change.
    pub fn trust(&self) -> watch::Receiver<Option<Arc<TrustState>>> {
        self.desk.trust.subscribe()
    }

    /// Where the parts of the mesh are, as last heard of, now and with every change.
    pub fn directory(&self) -> watch::Receiver<Vec<DirectoryEntry>> {
        self.desk.directory.subscribe()
    }

    /// Why the authority is not followed now, if it is not: it is away, or tells
    /// something that is not believed. What was heard before stays in force.
    pub fn trouble(&self) -> Option<String> {
        self.desk.trouble().clone()
    }

    /// The identities in use, by SPIFFE ID.
    pub fn identities(&self) -> Vec<KeptIdentity> {
        let mut list: Vec<_> = self.desk.keepers().values().map(|k| k.describe()).collect();
        list.sort_by(|a, b| (&a.spiffe_id, &a.selectors).cmp(&(&b.spiffe_id, &b.selectors)));
        list
    }

    /// Binds the Workload API's socket; clients can connect from then on.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub async fn bind(&self, path: &Path) -> Result<WorkloadApi, SocketError> {
        let socket = Socket::bind(path, self.desk.config.socket_mode).await?;
        Ok(WorkloadApi::new(self.desk.clone(), socket))
    }

    /// Serves the Workload API on a unix socket until `shutdown` resolves.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub async fn serve(
        &self,
        path: &Path,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), SocketError> {
        self.bind(path).await?.serve(shutdown).await;
        Ok(())
    }
}

/// What the agent's tasks share.
struct Desk {
    config: AgentConfig,
    clock: Clock,
    recorder: Recorder,
    upstream: Box<dyn Upstream>,
    /// Written by the task that follows the authority.
    trust: watch::Sender<Option<Arc<TrustState>>>,
    /// Written by the task that follows the authority.
    directory: watch::Sender<Vec<DirectoryEntry>>,
    /// What parts on this host have said; said again with every new stream.
    announced: Mutex<BTreeMap<NodeRole, SocketAddr>>,
    /// Rings when a stream should look again.
    changed: watch::Sender<()>,
    /// Written by streams.
    holders: Arc<Holders>,
    /// Why the authority is not followed now, if it is not.
    trouble: Mutex<Option<String>>,
    /// Made by streams, removed by the follower and by the keepers themselves.
    keepers: Mutex<HashMap<Registration, Arc<Keeper>>>,
    digests: Digests,
    stop: CancellationToken,
}

impl Desk {
    fn now_us(&self) -> i64 {
        self.clock.now_us()
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers why the authority is not followed. A trust state that is not
    /// believed leaves a record, once for as long as it is told.
    fn note_trouble(&self, error: &UpstreamError) {
        let text = error.to_string();
        let before = self.trouble().replace(text.clone());
        if before.as_ref() == Some(&text) || !error.is_distrust() {
            return;
        }
        let record = Credential {
            verb: "refused".into(),
            detail: format!("trust state: {text}"),
            ..Credential::default()
        };
        if let Err(error) = self.recorder.note(Body::Credential(record)) {
            tracing::error!(%error, "refused trust state left no record");
        }
    }

    fn keepers(&self) -> MutexGuard<'_, HashMap<Registration, Arc<Keeper>>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announced(&self) -> MutexGuard<'_, BTreeMap<NodeRole, SocketAddr>> {
        self.announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Says again what parts on this host have announced.
    async fn announce_again(&self) {
        let all: Vec<_> = self.announced().iter().map(|(r, a)| (*r, *a)).collect();
        for (role, address) in all {
            if let Err(error) = self.upstream.announce(role, address).await {
                tracing::warn!(role = role.as_str(), %error, "announcement failed");
            }
        }
    }

    fn take_directory(&self, entries: &[DirectoryEntry]) {
        let news = self.directory.send_if_modified(|held| {
            let news = held != entries;
            entries.clone_into(held);
            news
        });
        if let (true, Some(path)) = (news, &self.config.directory_file) {
            directory::store(path, entries);
        }
    }

    /// The keeper of a registration; starts one if there is none.
    fn keeper(self: &Arc<Self>, registration: &Registration) -> Arc<Keeper> {
        let mut keepers = self.keepers();
        if let Some(keeper) = keepers.get(registration) {
            return keeper.clone();
        }
        let keeper = Arc::new(Keeper::new(
            registration.clone(),
            self.now_us(),
            self.stop.child_token(),
        ));
        keepers.insert(registration.clone(), keeper.clone());
        tokio::spawn(keeper.clone().run(self.clone()));
        keeper
    }

    /// Takes a new trust state, and lets go of identities that are gone from it.
    fn take(&self, state: TrustState) -> Result<(), UpstreamError> {
        if state.bundle.trust_domain != self.config.trust_domain {
            let domain = state.bundle.trust_domain.to_string();
            return Err(UpstreamError::TrustDomain(domain));
        }
        let held = self.trust.borrow().clone();
        match held.as_deref() {
            // An older state could bring back a root that has been dropped.
            Some(held) if state.place() < held.place() => {
                return Err(UpstreamError::Backwards {
                    held: held.place(),
                    offered: state.place(),
                });
            }
            // Two authorities that grew from one state would each say this. A node's list
            // may change without a new sequence, the bundle never does.
            Some(held) if state.place() == held.place() && state.bundle != held.bundle => {
                return Err(UpstreamError::Forked(state.place()));
            }
            Some(held) if state.says_as(held) => {
                self.take_directory(&state.directory);
                return Ok(());
            }
            Some(held) if state.epoch > held.epoch => {
                tracing::warn!("authority was made, repaired or restored since it was last heard");
            }
            _ => {}
        }
        self.take_directory(&state.directory);
        tracing::info!(
            sequence = state.sequence,
            roots = state.bundle.roots.len(),
            registrations = state.registrations.len(),
            "trust state changed"
        );
        let state = Arc::new(state);
        // Before the keepers look: one that obtains meanwhile looks after that.
        self.trust.send_replace(Some(state.clone()));
        self.keepers().retain(|registration, keeper| {
            let kept = state.registrations.contains(registration);
            if kept {
                keeper.reconsider(&state, self.now_us());
            } else {
                keeper.stop();
            }
            kept
        });
        self.changed.send_replace(());
        self.holders.news.notify_one();
        Ok(())
    }
}

/// Follows the authority's trust state for ever; what was heard last stays in
/// force while it is away.
async fn follow(desk: Arc<Desk>) {
    let mut backoff = Backoff::default();
    loop {
        let error = match follow_once(&desk, &mut backoff).await {
            Ok(()) => UpstreamError::Ended,
            Err(error) => error,
        };
        desk.note_trouble(&error);
        let pause = backoff.next(backoff::FOLLOW_MAX);
        tracing::warn!(%error, ?pause, "authority cannot be followed");
        tokio::time::sleep(pause).await;
    }
}

async fn follow_once(desk: &Desk, backoff: &mut Backoff) -> Result<(), UpstreamError> {
    let held = desk.trust.borrow().as_ref().map_or(0, |s| s.sequence);
    let mut states = desk.upstream.watch(held).await?;
    desk.announce_again().await;
    while let Some(state) = futures_util::StreamExt::next(&mut states).await {
        desk.take(state?)?;
        desk.trouble().take();
        backoff.reset();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
