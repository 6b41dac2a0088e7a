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
    sink::{Durable, RecordStream, SinkError},
    snapshot::Digest,
    spiffe_id::SpiffeId,
    svid::Peer,
    wire::{
        policy::{
            Announcement, Bundle, Endpoints, PdpMessage, ProxyMessage, Revision, Status,
            distribution_server as server, pdp_message,
        },
        record::{Record, record::Body},
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
};

mod trust;

mod composed;
mod git;
mod remote;

/// Longest wait for anything; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Records(Arc<Mutex<Vec<Record>>>);

impl RecordStream for Records {
    fn append(&mut self, record: &Record) -> Result<(), SinkError> {
        self.0.lock().unwrap().push(record.clone());
        Ok(())
    }

    fn flush(&mut self) {}

    fn durable(&mut self) -> Durable {
        Box::pin(async { Ok(()) })
    }
}

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

mod rolling;

mod sources {
    use super::*;

    #[tokio::test]
    async fn an_edit_becomes_a_revision_and_a_broken_one_keeps_the_good() {
        let (dir, state) = (sample::copy(), tempfile::tempdir().unwrap());
        let records = Records::default();
        let source = open(dir.path(), state.path(), &records).await;
        let mut seen = source.state();
        assert_eq!(sequence(&seen.borrow()), 1);
        let task = tokio::spawn(source.run());

        sample::write(
            dir.path(),
            "policies/x.cedar",
            &format!("@id(\"x\")\n{PERMIT}"),
        );
        until(&mut seen, "second revision", |s| sequence(s) == 2).await;

        sample::write(dir.path(), "policies/x.cedar", "@id(\"x\")\npermit (");
        let broken = until(&mut seen, "rejection", |s| s.rejected.is_some()).await;
        assert_eq!(sequence(&broken), 2);
        assert!(broken.rejected.unwrap().diagnostics[0].location.is_some());

        // Editors replace files by renaming.
        sample::write(
            dir.path(),
            "policies/draft",
            &format!("@id(\"y\")\n{PERMIT}"),
        );
        fs::rename(
            dir.path().join("policies/draft"),
            dir.path().join("policies/x.cedar"),
        )
        .unwrap();
        let mended = until(&mut seen, "third revision", |s| sequence(s) == 3).await;
        assert!(mended.rejected.is_none());
        task.abort();

        let changes = records.changes();
        let verbs: Vec<_> = changes.iter().map(|c| c.verb.as_str()).collect();
        assert_eq!(verbs, ["activated", "activated", "rejected", "activated"]);
        assert_eq!(changes[0].added.len(), 8);
        assert_eq!(changes[1].added, ["x"]);
        assert!(changes[2].detail.contains("PLS1100"));
        assert_eq!(
            (&changes[3].added, &changes[3].removed),
            (&vec!["y".to_owned()], &vec!["x".to_owned()])
        );
        let after = changes[3].after.as_ref().unwrap();
        assert_eq!(after.policy_sequence, 3);
    }

    #[tokio::test]
    async fn going_back_to_the_content_in_force_takes_no_number() {
        let (dir, state) = (sample::copy(), tempfile::tempdir().unwrap());
        let records = Records::default();
        let source = open(dir.path(), state.path(), &records).await;
        let mut seen = source.state();
        let task = tokio::spawn(source.run());
        sample::write(dir.path(), "policies/x.cedar", "permit (");
        until(&mut seen, "rejection", |s| s.rejected.is_some()).await;
        fs::remove_file(dir.path().join("policies/x.cedar")).unwrap();
        let mended = until(&mut seen, "mended", |s| s.rejected.is_none()).await;
        assert_eq!(sequence(&mended), 1);
        task.abort();
    }

    #[tokio::test]
    async fn numbers_survive_a_restart_and_a_broken_folder_serves_the_last_good() {
        let (dir, state) = (sample::copy(), tempfile::tempdir().unwrap());
        let records = Records::default();
        let first = open(dir.path(), state.path(), &records).await;
        let digest = first.state().borrow().current.as_ref().unwrap().digest();
        drop(first);

        let same = open(dir.path(), state.path(), &records).await;
        assert_eq!(sequence(&same.state().borrow()), 1);
        drop(same);

        sample::write(dir.path(), "policies/x.cedar", "permit (");
        let broken = open(dir.path(), state.path(), &records).await;
        let seen = broken.state().borrow().clone();
        assert_eq!(seen.current.unwrap().digest(), digest);
        assert!(seen.rejected.is_some());
        drop(broken);

        sample::write(
            dir.path(),
            "policies/x.cedar",
            &format!("@id(\"x\")\n{PERMIT}"),
        );
        let mended = open(dir.path(), state.path(), &records).await;
        assert_eq!(sequence(&mended.state().borrow()), 2);
    }

    #[tokio::test]
    async fn a_broken_folder_without_a_past_serves_nothing_and_says_why() {
        let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = open(dir.path(), state.path(), &Records::default()).await;
        let mut seen = source.state();
        assert!(seen.borrow().current.is_none() && seen.borrow().rejected.is_some());
        let task = tokio::spawn(source.run());
        sample::write(dir.path(), "palisade.yaml", "trust_domain: demo.test\n");
        until(&mut seen, "first revision", |s| sequence(s) == 1).await;
        task.abort();
    }

    #[tokio::test]
    async fn damaged_state_and_an_absent_folder_are_refused_by_name() {
        let (dir, state) = (sample::copy(), tempfile::tempdir().unwrap());
        let records = Records::default();
        drop(open(dir.path(), state.path(), &records).await);
        let kept = state.path().join("revision.pb");
        let mut bytes = fs::read(&kept).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&kept, bytes).unwrap();
        let clock = Clock::system();
        let opened = Source::open(
            config(dir.path(), state.path()),
            clock.clone(),
            records.recorder(),
        );
        let error = opened.await.unwrap_err();
        assert!(matches!(
            error.diagnostic().code.0,
            BUNDLE_BROKEN | codes::DIGEST | codes::STATE_DIR
        ));
        let nowhere = dir.path().join("nowhere");
        let state = tempfile::tempdir().unwrap();
        let opened = Source::open(config(&nowhere, state.path()), clock, records.recorder());
        assert_eq!(opened.await.unwrap_err().diagnostic().code.0, codes::WATCH);
    }
}

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

mod streams {
    use super::*;

    #[tokio::test]
    async fn a_proxy_gets_the_revision_at_once_and_on_change_and_acknowledges() {
        let mesh = Mesh::start().await;
        let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
        let state = tempfile::tempdir().unwrap();
        let mut proxy = proxy(pdp.connect(), state.path(), &[], false);
        until(&mut proxy.seen.state, "first", |s| {
            s.sequence == 1 && s.connected
        })
        .await;
        let text = format!("@id(\"x\")\n{PERMIT}");
        sample::write(mesh.dir.path(), "policies/x.cedar", &text);
        until(&mut proxy.seen.state, "second", |s| s.sequence == 2).await;
        assert_eq!(*proxy.applied.lock().unwrap(), [1, 2]);
        eventually("acknowledged, with status", || {
            mesh.distribution.proxies().iter().any(|p| {
                p.acked_sequence == 2
                    && p.connected
                    && p.nack.is_none()
                    && p.status.as_ref().is_some_and(|s| s.requests == 7)
                    && p.identity.as_str() == WEB
                    && p.instance == "proxy-1"
            })
        })
        .await;
    }

    /// A status is answered: the snapshot is confirmed and clocks are compared.
    #[tokio::test]
    async fn the_pdp_confirms_what_is_the_newest_and_nothing_else() {
        let mesh = Mesh::start().await;
        let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
        let state = tempfile::tempdir().unwrap();
        let mut good = proxy(pdp.connect(), state.path(), &[], false);
        until(&mut good.seen.state, "first", |s| s.sequence == 1).await;
        let from = good.seen.freshness.confirmed_us().unwrap();
        eventually("confirmed again", || {
            good.seen.freshness.confirmed_us().unwrap() > from
        })
        .await;
        until(&mut good.seen.state, "the clock", |s| {
            s.clock_ahead_us.is_some_and(|us| us.abs() < 5_000_000)
        })
        .await;
        eventually("the other clock", || {
            let proxies = mesh.distribution.proxies();
            proxies.iter().any(|p| p.clock_ahead_us.is_some())
        })
        .await;
        let elsewhere = tempfile::tempdir().unwrap();
        let mut refusing = proxy(pdp.connect(), elsewhere.path(), &[], true);
        until(&mut refusing.seen.state, "an answer", |s| {
            s.clock_ahead_us.is_some()
        })
        .await;
        assert_eq!(refusing.seen.freshness.age(), None);
    }

    /// An address that changes while the stream is open.
    #[tokio::test]
    async fn announcements_are_replaced_on_an_open_stream() {
        let mesh = Mesh::start().await;
        let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
        let state = tempfile::tempdir().unwrap();
        let mut proxy = proxy(pdp.connect(), state.path(), &[], false);
        until(&mut proxy.seen.state, "first", |s| s.sequence == 1).await;
        for address in ["10.0.0.1:443", "10.0.0.2:443"] {
            proxy.seen.tell.announce(vec![Announcement {
                service: "shop/web".to_owned(),
                address: address.to_owned(),
            }]);
            until(&mut proxy.seen.endpoints, "the new address", |e| {
                let own: Vec<_> = e.endpoints.iter().filter(|e| e.identity == WEB).collect();
                own.len() == 1 && own[0].address == address
            })
            .await;
        }
        *proxy.draining.lock().unwrap() = true;
        proxy.seen.tell.status();
        until(&mut proxy.seen.endpoints, "withdrawn", |e| {
            e.endpoints.iter().all(|e| e.identity != WEB)
        })
        .await;
    }

    #[tokio::test]
    async fn a_refused_revision_is_known_to_the_pdp_and_recorded() {
        let mesh = Mesh::start().await;
        let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
        let state = tempfile::tempdir().unwrap();
        let proxy = proxy(pdp.connect(), state.path(), &[], true);
        eventually("nack", || {
            mesh.distribution.proxies().iter().any(|p| {
                let nack = p.nack.as_ref();
                nack.is_some_and(|n| n.code == "PLS3001" && n.sequence == 1)
                    && p.acked_sequence == 0
            })
        })
        .await;
        assert!(proxy.seen.revision.borrow().is_none());
        let verbs = mesh.records.verbs();
        assert!(
            verbs.contains(&"revision_refused PLS3001: engine lacks a feature".to_owned()),
            "{verbs:?}"
        );
    }

    /// Invariant 9: without any PDP the last good revision is in force.
    #[tokio::test]
    async fn a_proxy_starts_from_disk_when_no_pdp_is_there() {
        let mesh = Mesh::start().await;
        let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
        let state = tempfile::tempdir().unwrap();
        let mut first = proxy(pdp.connect(), state.path(), &[], false);
        until(&mut first.seen.state, "first", |s| s.sequence == 1).await;
        let address = pdp.address;
        drop((first, pdp));
        let mut second = proxy(connect(address), state.path(), &[], false);
        let seen = until(&mut second.seen.state, "from disk", |s| {
            s.sequence == 1 && s.last_error.is_some()
        })
        .await;
        assert!(seen.from_disk && !seen.connected);
        assert_eq!(seen.last_error.unwrap().code.0, codes::UNREACHABLE);
        assert_eq!(*second.applied.lock().unwrap(), [1]);
        drop(second);

        // And once a PDP is back, what is the same is not put in force again.
        let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
        let mut third = proxy(pdp.connect(), state.path(), &[], false);
        until(&mut third.seen.state, "confirmed", |s| {
            s.connected && !s.from_disk
        })
        .await;
        assert_eq!(*third.applied.lock().unwrap(), [1]);
    }

    #[tokio::test]
    async fn who_has_no_identity_or_a_foreign_one_gets_nothing() {
        let mesh = Mesh::start().await;
        for (peer, told) in [
            (None, "connection has no SPIFFE identity"),
            (
                Some("spiffe://evil.test/ns/shop/sa/web"),
                "policy is for proxies of its own trust domain",
            ),
            // Of the trust domain, but no service: policies tell who guards what.
            (
                Some("spiffe://demo.test/ns/shop/sa/stranger"),
                "PLS4130: `spiffe://demo.test/ns/shop/sa/stranger` may not subscribe here: no link policy permits it",
            ),
            (
                Some("spiffe://demo.test/palisade/agent/host-2"),
                "PLS4130: `spiffe://demo.test/palisade/agent/host-2` may not subscribe here: no link policy permits it",
            ),
        ] {
            let pdp = Pdp::serve(&mesh.distribution, peer).await;
            let state = tempfile::tempdir().unwrap();
            let mut proxy = proxy(pdp.connect(), state.path(), &[], false);
            let seen = until(&mut proxy.seen.state, told, |s| s.last_error.is_some()).await;
            assert_eq!(seen.last_error.unwrap().cause.as_deref(), Some(told));
        }
        assert!(mesh.distribution.proxies().is_empty());
    }
}

mod discovery {
    use super::*;

    fn listed(endpoints: &Endpoints) -> Vec<(String, String, String)> {
        let all = endpoints.endpoints.iter();
        all.map(|e| (e.service.clone(), e.address.clone(), e.identity.clone()))
            .collect()
    }

    fn web(address: &str) -> (String, String, String) {
        (
            "demo.test/shop/web".to_owned(),
            address.to_owned(),
            WEB.to_owned(),
        )
    }

    /// Attack T98.
    #[tokio::test]
    async fn only_what_the_identity_entitles_to_is_announced_and_it_ends_with_the_stream() {
        let mesh = Mesh::start().await;
        let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
        let state = tempfile::tempdir().unwrap();
        let announced = [
            ("shop/web", "127.0.0.1:9001"),
            ("shop/payments", "127.0.0.1:9001"),
            ("shop/none", "127.0.0.1:9001"),
            ("shop/web", "0.0.0.0:9001"),
            ("shop/web", "127.0.0.1:0"),
            ("shop/web", "localhost:9001"),
        ];
        let mut endpoints = mesh.distribution.endpoints();
        let mut proxy = proxy(pdp.connect(), state.path(), &announced, false);
        let seen = until(&mut proxy.seen.endpoints, "announced", |e| {
            !e.endpoints.is_empty()
        })
        .await;
        assert_eq!(listed(&seen), [web("127.0.0.1:9001")]);
        let refused: Vec<_> = mesh
            .records
            .verbs()
            .into_iter()
            .filter(|v| v.starts_with("announcement_refused PLS3005"))
            .collect();
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(
            refused
                .iter()
                .any(|r| r.contains("is not an identity of `shop/payments`"))
        );
        eventually("reasons in the registry", || {
            mesh.distribution
                .proxies()
                .iter()
                .any(|p| p.refused.len() == 5)
        })
        .await;
        let before = seen.version;
        drop(proxy);
        let gone = until(&mut endpoints, "withdrawn", |e| {
            e.endpoints.is_empty() && e.version > before
        })
        .await;
        assert!(gone.version > before);
    }

    /// Invariant 9, on both sides: a proxy knows the others before it reaches a PDP,
    /// and a PDP knows them before they have come back.
    #[tokio::test]
    async fn endpoints_survive_restarts() {
        let mesh = Mesh::start().await;
        let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
        let (state, address) = (tempfile::tempdir().unwrap(), pdp.address);
        let announced = [("shop/web", "127.0.0.1:9001")];
        let mut first = proxy(pdp.connect(), state.path(), &announced, false);
        until(&mut first.seen.endpoints, "announced", |e| {
            e.endpoints.len() == 1
        })
        .await;
        let (of_proxy, of_pdp) = (state.path(), mesh.state.path());
        for kept in [of_proxy, of_pdp] {
            eventually("kept", || {
                let kept = Keep::open(kept).unwrap().load_endpoints().unwrap();
                kept.is_some_and(|e| e.endpoints.len() == 1)
            })
            .await;
        }
        let after = tempfile::tempdir().unwrap();
        let name = "endpoints.pb";
        fs::copy(of_pdp.join(name), after.path().join(name)).unwrap();
        drop((first, pdp));

        let mut second = proxy(connect(address), state.path(), &[], false);
        let seen = until(&mut second.seen.endpoints, "from disk", |e| {
            !e.endpoints.is_empty()
        })
        .await;
        assert_eq!(listed(&seen), [web("127.0.0.1:9001")]);

        let restarted = Mesh::start_in(after).await;
        let mut endpoints = restarted.distribution.endpoints();
        assert_eq!(listed(&endpoints.borrow()), [web("127.0.0.1:9001")]);
        until(&mut endpoints, "withdrawn", |e| e.endpoints.is_empty()).await;
    }

    #[tokio::test]
    async fn a_draining_proxy_is_withdrawn_at_once() {
        let mesh = Mesh::start().await;
        let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
        let state = tempfile::tempdir().unwrap();
        let mut proxy = proxy(
            pdp.connect(),
            state.path(),
            &[("shop/web", "127.0.0.1:9001")],
            false,
        );
        until(&mut proxy.seen.endpoints, "announced", |e| {
            e.endpoints.len() == 1
        })
        .await;
        *proxy.draining.lock().unwrap() = true;
        until(&mut proxy.seen.endpoints, "withdrawn", |e| {
            e.endpoints.is_empty()
        })
        .await;
        *proxy.draining.lock().unwrap() = false;
        until(&mut proxy.seen.endpoints, "back", |e| {
            e.endpoints.len() == 1
        })
        .await;
    }

    /// The catalogue decides anew with every revision.
    #[tokio::test]
    async fn endpoints_follow_the_catalogue() {
        let mesh = Mesh::start().await;
        let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
        let state = tempfile::tempdir().unwrap();
        let mut proxy = proxy(
            pdp.connect(),
            state.path(),
            &[("shop/web", "127.0.0.1:9001")],
            false,
        );
        until(&mut proxy.seen.endpoints, "announced", |e| {
            e.endpoints.len() == 1
        })
        .await;
        let other =
            "service: shop/web\nidentities: [ns/shop/sa/web2]\nendpoints: [\"127.0.0.1:9002\"]\n";
        sample::write(mesh.dir.path(), "services/web.yaml", other);
        let static_one = (
            "demo.test/shop/web".to_owned(),
            "127.0.0.1:9002".to_owned(),
            format!("{WEB}2"),
        );
        until(&mut proxy.seen.endpoints, "static only", |e| {
            listed(e) == [static_one.clone()]
        })
        .await;
    }
}

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

/// Attack T104: damaged, older and forged revisions are refused by name; numbers
/// and endpoint versions only grow.
#[tokio::test]
async fn a_subscription_takes_only_what_is_whole_and_newer() {
    use palisade_mesh::wire::policy::proxy_message::Kind;
    let script = vec![
        endpoints(9),
        revision(5, "a", "a"),
        revision(6, "b", "other"),
        revision(4, "c", "c"),
        revision(5, "d", "d"),
        revision(5, "a", "a"),
        endpoints(8),
        revision(7, "a", "a"),
    ];
    let (sender, mut heard) = mpsc::channel(64);
    let scripted = Scripted(Mutex::new(Some(script)), sender);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Server::builder()
        .add_service(server::DistributionServer::new(scripted))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let task = tokio::spawn(serving).abort_handle();
    let state = tempfile::tempdir().unwrap();
    let mut proxy = proxy(connect(address), state.path(), &[], false);
    let mut answers = Vec::new();
    while answers.len() < 6 {
        let message = tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap();
        match message.unwrap().kind.unwrap() {
            Kind::Ack(ack) => answers.push(format!("ack {}", ack.sequence)),
            Kind::Nack(nack) => answers.push(format!("nack {} {}", nack.sequence, nack.code)),
            _ => {}
        }
    }
    assert_eq!(
        answers,
        [
            "ack 5",
            "nack 6 PLS3003",
            "nack 4 PLS3004",
            "nack 5 PLS3004",
            "ack 5",
            "ack 7"
        ]
    );
    assert_eq!(*proxy.applied.lock().unwrap(), [5, 7]);
    until(&mut proxy.seen.state, "in force", |s| s.sequence == 7).await;
    assert_eq!(proxy.seen.endpoints.borrow().version, 9);
    task.abort();
}
