//! Sources, proxies and PDPs together: real folders, real streams on loopback.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    snapshot::Digest,
    spiffe_id::SpiffeId,
    svid::Peer,
    wire::{
        policy::{
            Announcement, Bundle, Endpoints, PdpMessage, ProxyMessage, Revision, Status,
            distribution_server as server, pdp_message,
        },
        record::record::Body,
    },
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Streaming,
    service::interceptor::InterceptedService,
    transport::{Endpoint, Server},
};

use prost::Message as _;

use super::{keep::Keep, *};
use crate::{
    author::{codes::BUNDLE_BROKEN, sample},
    bundle::manifest,
    testing::Records,
};

mod commits;
mod composed;
mod discovery;
mod git;
mod proved;
mod remote;
mod returning;
mod rolling;
mod scripted;
mod sources;
mod streams;
mod taken_back;
mod trust;

/// Longest wait for anything; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(20);

impl Records {
    fn recorder(&self) -> Arc<Recorder> {
        let stream = Box::new(self.clone());
        let reporter = "spiffe://demo.test/palisade/pdp";
        Arc::new(Recorder::new(stream, reporter, false, Clock::system()))
    }

    fn changes(&self) -> Vec<palisade_mesh::wire::record::PolicyChange> {
        let records = self.0.lock().unwrap();
        let bodies = records.iter().filter_map(|r| r.body.clone());
        bodies
            .filter_map(|b| match b {
                Body::PolicyChange(change) => Some(change),
                _ => None,
            })
            .collect()
    }

    fn verbs(&self) -> Vec<String> {
        let records = self.0.lock().unwrap();
        let bodies = records.iter().filter_map(|r| r.body.clone());
        bodies
            .filter_map(|b| match b {
                Body::Admin(admin) => Some(format!("{} {}", admin.verb, admin.detail)),
                _ => None,
            })
            .collect()
    }
}

/// A log believes a PDP alone who wrote policies.
#[test]
fn whoever_is_no_pdp_names_no_authors() {
    let change = palisade_mesh::wire::record::PolicyChange {
        authors: vec!["Ana <ana@acme.test>".to_owned()],
        ..Default::default()
    };
    let records = Records::default();
    let recorder = || {
        let stream = Box::new(records.clone());
        Recorder::new(stream, "spiffe://demo.test/any", false, Clock::system())
    };
    recorder().change(change.clone());
    recorder().without_authors().change(change.clone());
    let told: Vec<_> = records.changes().into_iter().map(|c| c.authors).collect();
    assert_eq!(told, [change.authors, Vec::new()]);
}

async fn until<T: Clone>(
    receiver: &mut watch::Receiver<T>,
    what: &str,
    condition: impl FnMut(&T) -> bool,
) -> T {
    let waited = tokio::time::timeout(PATIENCE, receiver.wait_for(condition)).await;
    waited.expect(what).expect(what).clone()
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn config(dir: &Path, state: &Path) -> SourceConfig {
    let mut config = SourceConfig::new(dir, state);
    config.debounce = Duration::from_millis(20);
    config.place.poll = Duration::from_millis(200);
    config
}

async fn open(dir: &Path, state: &Path, records: &Records) -> Source {
    let source = Source::open(config(dir, state), Clock::system(), records.recorder());
    source.await.expect("opens")
}

fn sequence(state: &State) -> u64 {
    state.current.as_ref().map_or(0, |c| c.sequence())
}

const PERMIT: &str = "permit (principal, action, resource in Service::\"demo.test/shop/web\");\n";

/// A PDP on loopback whose callers are all `peer`.
struct Pdp {
    address: SocketAddr,
    task: AbortHandle,
}

impl Pdp {
    async fn serve(distribution: &Distribution, peer: Option<&str>) -> Self {
        let peer = peer.map(|id| Peer {
            id: SpiffeId::parse(id).unwrap(),
            serial: Arc::from([1_u8]),
            not_before_s: 0,
            not_after_s: i64::MAX,
        });
        let service =
            InterceptedService::new(distribution.service(), move |mut request: Request<()>| {
                if let Some(peer) = &peer {
                    request.extensions_mut().insert(peer.clone());
                }
                Ok(request)
            });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpListenerStream::new(listener);
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        Self {
            address,
            task: tokio::spawn(serving).abort_handle(),
        }
    }

    fn connect(&self) -> impl Connect {
        connect(self.address)
    }
}

fn connect(address: SocketAddr) -> impl Connect {
    move || async move {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        endpoint.connect().await.map_err(|e| e.to_string())
    }
}

impl Drop for Pdp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Mesh {
    dir: tempfile::TempDir,
    state: tempfile::TempDir,
    records: Records,
    distribution: Distribution,
    tasks: Vec<AbortHandle>,
}

impl Mesh {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(state: tempfile::TempDir) -> Self {
        let dir = sample::copy();
        let records = Records::default();
        let source = open(dir.path(), state.path(), &records).await;
        let distribution = Distribution::new(
            DistributionConfig {
                grace: Duration::from_millis(50),
                state_dir: Some(state.path().to_owned()),
                restart_grace: Duration::from_millis(200),
            },
            source.state(),
            Clock::system(),
            records.recorder(),
        );
        let following = distribution.clone();
        let tasks = vec![
            tokio::spawn(source.run()).abort_handle(),
            tokio::spawn(async move { following.run().await }).abort_handle(),
        ];
        Self {
            dir,
            state,
            records,
            distribution,
            tasks,
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// A proxy that puts everything in force, or nothing.
struct Proxy {
    seen: Subscribed,
    applied: Arc<Mutex<Vec<u64>>>,
    draining: Arc<Mutex<bool>>,
    task: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn proxy(
    connect: impl Connect,
    state: &Path,
    announcements: &[(&str, &str)],
    refuse: bool,
) -> Proxy {
    let announcements = announcements.iter().map(|(service, address)| Announcement {
        service: (*service).to_owned(),
        address: (*address).to_owned(),
    });
    let (subscription, seen) = Subscription::new(SubscriptionConfig {
        announcements: announcements.collect(),
        status_every: Duration::from_millis(20),
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(20),
        ..SubscriptionConfig::new("proxy-1", state)
    })
    .unwrap();
    let applied = Arc::new(Mutex::new(Vec::new()));
    let log = applied.clone();
    let apply = move |revision: Revision| {
        if refuse {
            return Err(Diagnostic::error(3001, "engine lacks a feature"));
        }
        log.lock().unwrap().push(revision.sequence);
        Ok(())
    };
    let draining = Arc::new(Mutex::new(false));
    let told = draining.clone();
    let status = move || Status {
        draining: *told.lock().unwrap(),
        requests: 7,
        ..Status::default()
    };
    let task = tokio::spawn(subscription.run(connect, apply, status)).abort_handle();
    Proxy {
        seen,
        applied,
        draining,
        task,
    }
}

const WEB: &str = "spiffe://demo.test/ns/shop/sa/web";

/// A PDP that says what a test tells it.
struct Scripted(Mutex<Option<Vec<PdpMessage>>>, mpsc::Sender<ProxyMessage>);

#[tonic::async_trait]
impl server::Distribution for Scripted {
    type SubscribeStream = ReceiverStream<Result<PdpMessage, tonic::Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<ProxyMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, tonic::Status> {
        let (sender, receiver) = mpsc::channel(16);
        for message in self.0.lock().unwrap().take().unwrap_or_default() {
            sender.try_send(Ok(message)).unwrap();
        }
        let mut inbound = request.into_inner();
        let heard = self.1.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                let _ = heard.send(message).await;
            }
            drop(sender);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// A revision with that content, whatever it means.
pub(super) fn revision_of(content: &str, sequence: u64) -> Revision {
    let mut bundle = Bundle {
        trust_domain: "demo.test".to_owned(),
        git_revision: content.to_owned(),
        ..Bundle::default()
    };
    let digest = manifest::digest(&mut bundle).unwrap();
    Revision {
        bundle: bundle.encode_to_vec().into(),
        sha256: digest.0.to_vec(),
        sequence,
        ..Revision::default()
    }
}

fn revision(sequence: u64, content: &str, digest_of: &str) -> PdpMessage {
    PdpMessage {
        kind: Some(pdp_message::Kind::Revision(Revision {
            sha256: revision_of(digest_of, 0).sha256,
            ..revision_of(content, sequence)
        })),
    }
}

fn endpoints(version: u64) -> PdpMessage {
    PdpMessage {
        kind: Some(pdp_message::Kind::Endpoints(Endpoints {
            version,
            endpoints: Vec::new(),
        })),
    }
}
