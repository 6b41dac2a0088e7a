//! The kill list on its way: whoever holds it passes it on, whoever hears of it
//! checks it first.
//!
//! The authority signs; agents and PDPs relay what they have verified. A relay can
//! withhold the list and nothing else, and that shows in its age.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use palisade_mesh::{
    clock::Clock,
    kill::{self, KillList, KillListError},
    spiffe_id::TrustDomain,
    svid::{Peer, TrustBundle},
    wire::kill::{
        SignedKillList, WatchRequest,
        kill_client::KillClient,
        kill_server::{Kill, KillServer},
    },
};
use rustls_pki_types::UnixTime;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{
    Request, Response, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use super::directory::HEADER;

/// Largest message: a list at its limit and its chain.
const MESSAGE_LEN_MAX: usize = kill::LIST_LEN_MAX + (64 << 10);
/// Shortest and longest rest before a lost source is asked again.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The newest signed list; `None` before the first.
pub type Signed = watch::Receiver<Option<Arc<SignedKillList>>>;

/// Passes on what arrives in `signed`.
pub fn service(signed: Signed) -> KillServer<Relay> {
    KillServer::new(Relay { signed }).max_encoding_message_size(MESSAGE_LEN_MAX)
}

/// As [`service`], for peers that `admit` lets in.
pub fn guarded_service(
    signed: Signed,
    admit: impl Fn(&Peer) -> Result<(), Status> + Clone + Send + Sync + 'static,
) -> InterceptedService<KillServer<Relay>, impl Interceptor + Clone + Send + Sync + 'static> {
    let ask = move |request: Request<()>| {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| Status::unauthenticated("connection has no SPIFFE identity"));
        admit(peer?).map(|()| request)
    };
    InterceptedService::new(service(signed), ask)
}

/// Answers whoever wants to follow the list.
pub struct Relay {
    signed: Signed,
}

#[tonic::async_trait]
impl Kill for Relay {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<SignedKillList, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let lists = WatchStream::new(self.signed.clone())
            .filter_map(async |list| list.map(|list| Ok((*list).clone())));
        Ok(Response::new(Box::pin(lists)))
    }
}

/// Where a list comes from.
pub enum Source {
    /// From the authority in this process.
    Local(Signed),
    /// From whomever this reaches.
    Far(Box<dyn Fn() -> Channel + Send + Sync>),
}

/// What this process knows of the list.
#[derive(Debug, Clone)]
pub struct Held {
    /// The list, as it was verified.
    pub list: Arc<KillList>,
    /// Whether it was heard in this life of the process, and not read from disk.
    pub heard: bool,
}

/// Takes lists from anywhere, believes those of the authority, and keeps the newest.
pub struct Holder {
    bundle: Box<dyn Fn() -> TrustBundle + Send + Sync>,
    clock: Clock,
    began_us: i64,
    file: Option<PathBuf>,
    held: watch::Sender<Held>,
    signed: watch::Sender<Option<Arc<SignedKillList>>>,
    /// One list after the other.
    turn: Mutex<()>,
}

impl Holder {
    /// Starts with the list in `file`, if one was kept there. An entry that was in
    /// force before a restart is in force after it, whoever can be reached then.
    pub fn new(
        trust_domain: &TrustDomain,
        bundle: impl Fn() -> TrustBundle + Send + Sync + 'static,
        clock: Clock,
        file: Option<PathBuf>,
    ) -> Arc<Self> {
        let kept = file.as_deref().and_then(|f| kept(f, trust_domain));
        let list = kept.unwrap_or_else(|| nobody(trust_domain));
        let held = Held {
            list: Arc::new(list),
            heard: false,
        };
        Arc::new(Self {
            bundle: Box::new(bundle),
            began_us: clock.now_us(),
            clock,
            file,
            held: watch::channel(held).0,
            signed: watch::channel(None).0,
            turn: Mutex::new(()),
        })
    }

    /// Takes a list that arrived; says whether its entries are news.
    ///
    /// # Errors
    /// When it is not believed, or is older than the one held.
    pub fn take(&self, signed: SignedKillList) -> Result<bool, KillListError> {
        let now = u64::try_from(self.clock.now_us()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_micros(now));
        let list = kill::open(&signed, &(self.bundle)(), now)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.held.borrow().clone();
        list.check_supersedes(&present.list)?;
        let news = list.sequence() != present.list.sequence() || !present.heard;
        if news {
            self.keep(&signed);
        }
        let list = Arc::new(list);
        self.held.send_replace(Held { list, heard: true });
        self.signed.send_replace(Some(Arc::new(signed)));
        Ok(news)
    }

    /// What is held, now and with every list that arrives.
    pub fn held(&self) -> watch::Receiver<Held> {
        self.held.subscribe()
    }

    /// The signed form of it, to pass on.
    pub fn signed(&self) -> Signed {
        self.signed.subscribe()
    }

    /// How long ago the authority signed what is held; none when nothing was ever heard.
    /// A relay that withholds newer lists, or says an old one again and again, cannot
    /// make it shorter.
    pub fn age(&self) -> Option<Duration> {
        let issued_us = self.held.borrow().list.issued_us();
        let age_us = self.clock.now_us().saturating_sub(issued_us);
        let age = Duration::from_micros(u64::try_from(age_us).unwrap_or_default());
        (issued_us != 0).then_some(age)
    }

    /// How long nothing was heard that is newer: the age of the list, and before the
    /// first the time since the start.
    pub fn silence(&self) -> Duration {
        let since_us = self.clock.now_us().saturating_sub(self.began_us);
        let since = Duration::from_micros(u64::try_from(since_us).unwrap_or_default());
        match self.age() {
            Some(age) if self.held.borrow().heard => age,
            // What was kept is as old as the time that we were not there.
            Some(age) => age.min(since),
            None => since,
        }
    }

    /// Follows `source` for as long as it can be.
    pub async fn keep_up(self: Arc<Self>, source: Source) {
        match source {
            Source::Local(signed) => self.follow_local(signed).await,
            Source::Far(connect) => match self.follow(connect).await {},
        }
    }

    /// Follows the list in this process until its sender is gone.
    pub async fn follow_local(self: Arc<Self>, mut source: Signed) {
        loop {
            let newest = source.borrow_and_update().clone();
            if let Some(signed) = newest {
                self.offer((*signed).clone());
            }
            if source.changed().await.is_err() {
                return;
            }
        }
    }

    /// Follows whoever `connect` reaches, for ever.
    pub async fn follow(self: Arc<Self>, connect: impl Fn() -> Channel) -> Infallible {
        let mut rest = REST.0;
        loop {
            if self.hear(connect()).await {
                rest = REST.0;
            }
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(REST.1);
        }
    }

    /// Listens until the stream ends; says whether anything was heard.
    async fn hear(&self, channel: Channel) -> bool {
        let mut client = KillClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX);
        let mut heard = false;
        let mut request = Request::new(WatchRequest {});
        let value = MetadataValue::from_static("true");
        request.metadata_mut().insert(HEADER, value);
        match client.watch(request).await {
            Ok(stream) => {
                let mut lists = stream.into_inner();
                while let Ok(Some(signed)) = lists.message().await {
                    heard = true;
                    self.offer(signed);
                }
            }
            Err(status) => tracing::debug!(%status, "kill list cannot be followed"),
        }
        heard
    }

    fn offer(&self, signed: SignedKillList) {
        match self.take(signed) {
            Ok(true) => {
                let held = self.held.borrow();
                tracing::info!(
                    sequence = held.list.sequence(),
                    entries = held.list.entries().len(),
                    "kill list in force"
                );
            }
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "kill list refused, keeping the present one"),
        }
    }

    /// A list that cannot be kept is in force all the same, until a restart.
    fn keep(&self, signed: &SignedKillList) {
        let Some(file) = &self.file else { return };
        // During an upgrade two processes keep it.
        let draft = file.with_extension(format!("{}.new", std::process::id()));
        let written = std::fs::write(&draft, &signed.list)
            .and_then(|()| std::fs::File::open(&draft)?.sync_all())
            .and_then(|()| std::fs::rename(&draft, file));
        if let Err(error) = written {
            tracing::error!(%error, file = %file.display(), "kill list cannot be kept on disk");
        }
    }
}

/// The list of nobody, before any is known.
fn nobody(domain: &TrustDomain) -> KillList {
    KillList::new(domain.clone(), 0, 0, Vec::new()).expect("no entry breaks no rule")
}

fn kept(file: &Path, domain: &TrustDomain) -> Option<KillList> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::error!(%error, file = %file.display(), "kept kill list cannot be read");
            return None;
        }
    };
    match kill::read(&bytes, domain) {
        Ok(list) => Some(list),
        Err(error) => {
            tracing::error!(%error, file = %file.display(), "kept kill list cannot be used");
            None
        }
    }
}

#[cfg(test)]
#[cfg(feature = "full")]
mod tests;
