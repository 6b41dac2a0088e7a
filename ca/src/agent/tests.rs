//! The Workload API as workloads see it, over its socket.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use palisade_mesh::{
    svid::{PeerError, X509Svid, verify_chain},
    wire::{
        ca::{Acknowledgement, IssueRequest, IssueResponse},
        record::record::Body,
        workload::{
            JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest,
            X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
        },
    },
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::task::JoinHandle;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use zeroize::Zeroizing;

use super::*;
use crate::{
    registration::{RegistrationConfig, parse},
    server::{Ca, CaConfig, IssuedFilter},
    testing::{Records, domain, eventually, standing_clock},
};

/// An authority that can be cut off.
#[derive(Clone)]
struct Line {
    ca: Arc<Ca>,
    cut: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl Upstream for Line {
    async fn issue(&self, request: IssueRequest) -> Result<IssueResponse, UpstreamError> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(UpstreamError::Ended);
        }
        Upstream::issue(&self.ca, request).await
    }

    async fn watch(&self, held: u64) -> Result<States, UpstreamError> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(UpstreamError::Ended);
        }
        Upstream::watch(&self.ca, held).await
    }

    async fn acknowledge(&self, word: Acknowledgement) -> Result<(), UpstreamError> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(UpstreamError::Ended);
        }
        Upstream::acknowledge(&self.ca, word).await
    }
}

/// An authority, an agent on its line, and the agent's socket.
struct Host {
    ca: Arc<Ca>,
    line: Line,
    agent: Arc<Agent>,
    clock: Clock,
    records: Records,
    socket: PathBuf,
    server: JoinHandle<()>,
    quit: CancellationToken,
    _dir: tempfile::TempDir,
}

async fn host(registrations: &[RegistrationConfig]) -> Host {
    host_with(registrations, |_| {}).await
}

async fn host_with(
    registrations: &[RegistrationConfig],
    change: impl FnOnce(&mut AgentConfig),
) -> Host {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let config = CaConfig::new(domain(), dir.path().join("ca"));
    let stream = Records::default().stream();
    let ca = Ca::start(config, clock.clone(), stream).await.unwrap();
    let line = Line {
        ca: ca.clone(),
        cut: Arc::default(),
    };
    let records = Records::default();
    let mut config = AgentConfig::new(domain());
    change(&mut config);
    let agent = Agent::start(config, line.clone(), clock.clone(), records.stream());
    let socket = dir.path().join("s");
    let (api, quit) = (agent.bind(&socket).await.unwrap(), CancellationToken::new());
    let server = tokio::spawn(api.serve(quit.clone().cancelled_owned()));
    let host = Host {
        ca,
        line,
        agent,
        clock,
        records,
        socket,
        server,
        quit,
        _dir: dir,
    };
    host.register(registrations).await;
    host
}

fn web(selector: &str) -> RegistrationConfig {
    RegistrationConfig {
        spiffe_id: "spiffe://acme.test/web".into(),
        selectors: vec![selector.into()],
        ttl: Some("60s".into()),
        hint: Some("external".into()),
        ..RegistrationConfig::default()
    }
}

/// What this very process is registered by.
fn own_uid() -> String {
    format!("unix:uid:{}", nix::unistd::geteuid())
}

fn own_path() -> String {
    format!("unix:path:{}", std::env::current_exe().unwrap().display())
}

fn own_digest() -> String {
    let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    format!(
        "unix:sha256:{}",
        palisade_mesh::snapshot::Digest::of(&bytes)
    )
}

/// Adds the mandatory header.
fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

impl Host {
    async fn register(&self, registrations: &[RegistrationConfig]) {
        let list = parse(registrations, &self.ca.rules()).unwrap();
        self.ca.apply(list).await.unwrap();
        let sequence = self.ca.trust().borrow().sequence;
        if !self.line.cut.load(Ordering::SeqCst) {
            let heard =
                |s: &Option<Arc<TrustState>>| s.as_ref().is_some_and(|s| s.sequence >= sequence);
            self.agent.trust().wait_for(heard).await.unwrap();
        }
    }

    fn uri(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        let endpoint = Endpoint::from_shared(self.uri()).unwrap();
        SpiffeWorkloadApiClient::new(endpoint.connect_lazy())
    }

    async fn stream(&self) -> Streaming<X509svidResponse> {
        let request = with_header(X509svidRequest {});
        self.client()
            .fetch_x509svid(request)
            .await
            .unwrap()
            .into_inner()
    }

    /// The first message, or how it was refused.
    async fn fetch(&self) -> Result<X509svidResponse, Status> {
        self.stream().await.message().await.map(Option::unwrap)
    }

    fn verify(&self, response: &X509svidResponse) -> Result<X509Svid, PeerError> {
        let svid = &response.svids[0];
        let chain = split(&svid.x509_svid);
        let bundle = palisade_mesh::svid::TrustBundle {
            trust_domain: domain(),
            roots: split(&svid.bundle),
        };
        let now = Duration::from_micros(u64::try_from(self.clock.now_us()).unwrap());
        verify_chain(&chain, &bundle, UnixTime::since_unix_epoch(now))?;
        X509Svid::new(chain, Zeroizing::new(svid.x509_svid_key.clone()))
    }
}

/// Splits concatenated DER certificates.
fn split(mut der: &[u8]) -> Vec<CertificateDer<'static>> {
    let mut list = vec![];
    while !der.is_empty() {
        let (rest, _) = x509_parser::parse_x509_certificate(der).unwrap();
        list.push(der[..der.len() - rest.len()].to_vec().into());
        der = rest;
    }
    list
}

#[tokio::test]
async fn a_workload_gets_its_svid_key_bundle_and_hint() {
    let host = host(&[web(&own_uid())]).await;
    let response = host.fetch().await.unwrap();
    let svid = host.verify(&response).unwrap();
    assert_eq!(svid.id.as_str(), "spiffe://acme.test/web");
    assert_eq!(svid.chain.len(), 2);
    assert_eq!(response.svids[0].hint, "external");
    let bundle = host.ca.trust().borrow().bundle.clone();
    palisade_mesh::svid::Identity::new(svid, bundle.clone(), host.clock.clone())
        .expect("the key is the certificate's");
    let request = with_header(X509BundlesRequest {});
    let mut bundles = host
        .client()
        .fetch_x509_bundles(request)
        .await
        .unwrap()
        .into_inner();
    let message = bundles.message().await.unwrap().unwrap();
    assert_eq!(message.bundles.len(), 1);
    assert_eq!(split(&message.bundles["spiffe://acme.test"]), bundle.roots);
}

#[tokio::test]
async fn path_digest_and_user_are_attested() {
    for selector in [own_uid(), own_path(), own_digest()] {
        let host = host(&[web(&selector)]).await;
        assert!(host.fetch().await.is_ok(), "{selector}");
    }
    let all = RegistrationConfig {
        selectors: vec![own_uid(), own_path(), own_digest()],
        ..web("")
    };
    assert!(host(&[all]).await.fetch().await.is_ok());
}

#[tokio::test]
async fn a_process_that_does_not_match_gets_nothing() {
    let digest = format!("unix:sha256:{}", "0".repeat(64));
    for selector in ["unix:uid:4000000000", "unix:path:/bin/other", &digest] {
        let host = host(&[web(selector)]).await;
        let status = host.fetch().await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(status.message(), "no identity issued");
        let request = with_header(X509BundlesRequest {});
        let mut bundles = host
            .client()
            .fetch_x509_bundles(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            bundles.message().await.unwrap_err().code(),
            Code::PermissionDenied
        );
        let Some(Body::AuthnFailure(record)) = host.records.bodies().pop() else {
            panic!("no record");
        };
        assert_eq!(record.reason, "no_identity");
        assert!(record.detail.contains(&own_uid()), "{}", record.detail);
        let issued = host.ca.issued(&IssuedFilter::default()).await.unwrap();
        assert!(issued.is_empty());
    }
}

#[tokio::test]
async fn the_header_is_mandatory_exact_and_single() {
    let host = host(&[web(&own_uid())]).await;
    for values in [&[][..], &["True"], &["1"], &["false"], &["true", "true"]] {
        let mut request = Request::new(X509svidRequest {});
        for value in values {
            request
                .metadata_mut()
                .append("workload.spiffe.io", value.parse().unwrap());
        }
        let status = host.client().fetch_x509svid(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{values:?}");
    }
}

#[tokio::test]
async fn the_jwt_profile_is_not_offered_and_says_so() {
    let host = host(&[web(&own_uid())]).await;
    let mut client = host.client();
    let fetch = with_header(JwtsvidRequest::default());
    let bundles = with_header(JwtBundlesRequest::default());
    let validate = with_header(ValidateJwtsvidRequest::default());
    for code in [
        client.fetch_jwtsvid(fetch).await.err().unwrap().code(),
        client
            .fetch_jwt_bundles(bundles)
            .await
            .err()
            .unwrap()
            .code(),
        client
            .validate_jwtsvid(validate)
            .await
            .err()
            .unwrap()
            .code(),
    ] {
        assert_eq!(code, Code::Unimplemented);
    }
    let bare = client.fetch_jwtsvid(JwtsvidRequest::default()).await;
    assert_eq!(bare.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn identities_come_in_the_order_of_the_list_with_unique_hints() {
    let of = |path: &str| RegistrationConfig {
        spiffe_id: format!("spiffe://acme.test/{path}"),
        ..web(&own_uid())
    };
    let host = host(&[of("z"), of("a"), of("m")]).await;
    for _ in 0..3 {
        let response = host.fetch().await.unwrap();
        let ids: Vec<_> = response
            .svids
            .iter()
            .map(|s| s.spiffe_id.as_str())
            .collect();
        assert_eq!(
            ids,
            [
                "spiffe://acme.test/z",
                "spiffe://acme.test/a",
                "spiffe://acme.test/m"
            ]
        );
        let hints: Vec<_> = response.svids.iter().map(|s| s.hint.as_str()).collect();
        assert_eq!(hints, ["external", "", ""]);
    }
    assert_eq!(host.agent.identities().len(), 3);
}

#[tokio::test]
async fn streams_of_one_registration_share_a_certificate() {
    let host = host(&[web(&own_uid())]).await;
    let first = host.fetch().await.unwrap();
    assert_eq!(host.fetch().await.unwrap(), first);
    let issued = host.ca.issued(&IssuedFilter::default()).await.unwrap();
    assert_eq!(issued.len(), 1);
}

#[tokio::test]
async fn rotation_is_pushed_with_a_new_key() {
    let host = host(&[web(&own_uid())]).await;
    let mut stream = host.stream().await;
    let first = stream.message().await.unwrap().unwrap();
    let kept = &host.agent.identities()[0];
    let renewal = kept.renew_at_s - host.clock.now().as_second();
    assert!(
        (24..=36).contains(&renewal),
        "renewal of 60 s after {renewal} s"
    );
    host.clock.advance(Duration::from_secs(37));
    let second = stream.message().await.unwrap().unwrap();
    assert_ne!(first.svids[0].x509_svid, second.svids[0].x509_svid);
    assert_ne!(first.svids[0].x509_svid_key, second.svids[0].x509_svid_key);
    host.verify(&second).unwrap();
}

#[tokio::test]
async fn the_spiffe_crate_s_client_works_unmodified_and_sees_the_rotation() {
    let host = host(&[web(&own_path())]).await;
    let source = spiffe::X509Source::builder()
        .endpoint(host.uri())
        .build()
        .await
        .unwrap();
    let svid = source.svid().unwrap();
    assert_eq!(svid.spiffe_id().to_string(), "spiffe://acme.test/web");
    assert_eq!(svid.hint(), Some("external"));
    let td = spiffe::TrustDomain::new("acme.test").unwrap();
    let bundle = source.try_bundle_for_trust_domain(&td).unwrap();
    assert_eq!(bundle.authorities().len(), 1);
    let before = svid.cert_chain()[0].as_bytes().to_vec();
    let mut updates = source.updated();
    host.clock.advance(Duration::from_secs(37));
    tokio::time::timeout(Duration::from_secs(10), updates.changed())
        .await
        .unwrap()
        .unwrap();
    let after = source.svid().unwrap().cert_chain()[0].as_bytes().to_vec();
    assert_ne!(before, after);
    source.shutdown().await;
}

#[tokio::test]
async fn a_new_root_is_pushed_to_every_stream() {
    let host = host(&[web(&own_uid())]).await;
    let mut stream = host.stream().await;
    assert_eq!(
        split(&stream.message().await.unwrap().unwrap().svids[0].bundle).len(),
        1
    );
    let request = with_header(X509BundlesRequest {});
    let mut bundles = host
        .client()
        .fetch_x509_bundles(request)
        .await
        .unwrap()
        .into_inner();
    bundles.message().await.unwrap().unwrap();
    host.clock.advance(Duration::from_secs(46 * 86_400));
    let message = bundles.message().await.unwrap().unwrap();
    assert_eq!(split(&message.bundles["spiffe://acme.test"]).len(), 2);
    loop {
        let message = stream.message().await.unwrap().unwrap();
        if split(&message.svids[0].bundle).len() == 2 && host.verify(&message).is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn a_registration_that_goes_takes_its_streams_along() {
    let host = host(&[web(&own_uid())]).await;
    let mut stream = host.stream().await;
    stream.message().await.unwrap().unwrap();
    let other = RegistrationConfig {
        spiffe_id: "spiffe://acme.test/db".into(),
        ..web(&own_uid())
    };
    host.register(&[web(&own_uid()), other.clone()]).await;
    assert_eq!(stream.message().await.unwrap().unwrap().svids.len(), 2);
    host.register(&[other]).await;
    let left = stream.message().await.unwrap().unwrap();
    assert_eq!(left.svids[0].spiffe_id, "spiffe://acme.test/db");
    host.register(&[]).await;
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(host.agent.identities().is_empty());
}

#[tokio::test]
async fn the_agent_serves_on_while_the_authority_is_away() {
    let host = host(&[web(&own_uid())]).await;
    let first = host.fetch().await.unwrap();
    host.line.cut.store(true, Ordering::SeqCst);
    host.clock.advance(Duration::from_secs(40));
    let mut stream = host.stream().await;
    assert_eq!(stream.message().await.unwrap().unwrap(), first);
    let failed = || host.agent.identities()[0].error.is_some();
    eventually("a failed renewal", failed).await;
    assert_eq!(host.fetch().await.unwrap(), first);
    host.line.cut.store(false, Ordering::SeqCst);
    let second = stream.message().await.unwrap().unwrap();
    assert_ne!(second.svids[0].x509_svid, first.svids[0].x509_svid);
    assert!(host.agent.identities()[0].error.is_none());
}

#[tokio::test]
async fn a_clock_that_is_set_back_costs_no_more_than_a_renewal() {
    let host = host(&[web(&own_uid())]).await;
    let mut stream = host.stream().await;
    let first = stream.message().await.unwrap().unwrap();
    host.clock.set_back(Duration::from_secs(400 * 86_400));
    assert!(host.verify(&first).is_err());
    let recovered = async {
        loop {
            let next = stream.message().await.unwrap().unwrap();
            if host.verify(&next).is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), recovered)
        .await
        .expect("no valid certificate after the clock was set back");
}

#[tokio::test]
async fn an_ended_certificate_is_not_handed_out() {
    let host = host(&[web(&own_uid())]).await;
    host.fetch().await.unwrap();
    host.line.cut.store(true, Ordering::SeqCst);
    host.clock.advance(Duration::from_secs(61));
    let nothing = tokio::time::timeout(Duration::from_millis(300), host.fetch()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn nobody_s_certificates_are_not_renewed() {
    let host = host(&[web(&own_uid())]).await;
    host.fetch().await.unwrap();
    // The stream asked after the first certificate, so there is a second.
    host.clock.advance(Duration::from_secs(37));
    let renewed = || host.agent.identities()[0].renew_at_s > host.clock.now().as_second();
    eventually("the renewal", renewed).await;
    host.clock.advance(Duration::from_secs(61));
    eventually("the keeper to leave", || host.agent.identities().is_empty()).await;
    let all = IssuedFilter {
        include_ended: true,
        ..IssuedFilter::default()
    };
    assert_eq!(host.ca.issued(&all).await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_authority_that_goes_back_or_speaks_for_others_is_not_believed() {
    let host = host(&[web(&own_uid())]).await;
    let present = host.agent.trust().borrow().clone().unwrap();
    let with = |change: fn(&mut TrustState)| {
        let mut state = (*present).clone();
        change(&mut state);
        host.agent.desk.take(state)
    };
    let back = with(|s| {
        s.sequence -= 1;
        s.directory.push(DirectoryEntry {
            role: NodeRole::Pdp,
            address: "10.0.0.66:7443".parse().unwrap(),
            node: String::new(),
        });
    });
    assert!(matches!(back, Err(UpstreamError::Backwards { .. })));
    let other = with(|s| {
        s.sequence += 1;
        s.bundle.trust_domain = TrustDomain::parse("other.test").unwrap();
    });
    assert!(matches!(other, Err(UpstreamError::TrustDomain(_))));
    assert_eq!(host.agent.trust().borrow().clone().unwrap(), present);
    assert_eq!(*host.agent.directory().borrow(), present.directory);
    assert!(with(|s| s.sequence += 1).is_ok());
}

/// One that was made anew may happen to count as far as the old one had come.
#[tokio::test]
async fn a_rebuilt_authority_is_believed_and_a_forked_one_is_not() {
    let host = host(&[web(&own_uid())]).await;
    let mut stream = host.stream().await;
    let first = stream.message().await.unwrap().unwrap();
    let known = (**host.ca.trust().borrow()).clone();
    let mut forked = known.clone();
    forked.bundle.roots.clear();
    let error = host.agent.desk.take(forked.clone()).unwrap_err();
    assert!(matches!(error, UpstreamError::Forked(_)), "{error}");
    let refusals = || {
        let bodies = host.records.bodies();
        let told =
            |b: &Body| matches!(b, Body::Credential(c) if c.detail.contains("two different"));
        bodies.iter().filter(|b| told(b)).count()
    };
    for _ in 0..2 {
        host.agent.desk.note_trouble(&error);
        assert_eq!(
            (refusals(), host.agent.trouble()),
            (1, Some(error.to_string()))
        );
    }
    assert!(host.agent.desk.take(known.clone()).is_ok());

    let dir = tempfile::tempdir().unwrap();
    host.clock.advance(Duration::from_secs(1));
    let config = CaConfig::new(domain(), dir.path().join("ca"));
    let records = Records::default().stream();
    let rebuilt = Ca::start(config, host.clock.clone(), records)
        .await
        .unwrap();
    let mut offered = (**rebuilt.trust().borrow()).clone();
    offered.sequence = known.sequence;
    offered.registrations = known.registrations.clone();
    host.agent.desk.take(offered.clone()).unwrap();
    let trust = host.agent.trust().borrow().clone().unwrap();
    assert_eq!(trust.bundle, rebuilt.trust().borrow().bundle);
    let next = stream.message().await.unwrap().unwrap();
    assert_ne!(next.svids[0].bundle, first.svids[0].bundle);
    let back = host.agent.desk.take(known).unwrap_err();
    assert!(matches!(back, UpstreamError::Backwards { .. }), "{back}");
}

/// Under load of nothing else, a workload of a tainted authority has its replacement
/// long before half of its certificate's life.
#[tokio::test]
async fn superseded_certificates_are_replaced_and_acknowledged() {
    use crate::{authority::Kind, server::Rotation};
    let host = host(&[web(&own_uid())]).await;
    let mut stream = host.stream().await;
    stream.message().await.unwrap().unwrap();
    for (kind, compromised) in [
        (Kind::Intermediate, false),
        (Kind::Root, false),
        (Kind::Root, true),
    ] {
        let before = host.ca.authorities().await;
        let issuer = |authorities: &[crate::authority::Authority]| {
            let mut signing = authorities.iter().filter(|a| a.kind == Kind::Intermediate);
            signing.next_back().unwrap().key_id
        };
        let old = issuer(&before);
        let order = Rotation {
            kind,
            stage: None,
            compromised,
            now: false,
        };
        host.ca.rotate(order, "test").await.unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            assert!(std::time::Instant::now() < deadline, "{kind} {compromised}");
            let next = tokio::time::timeout(Duration::from_millis(300), stream.message()).await;
            if let Ok(message) = next {
                host.verify(&message.unwrap().unwrap()).unwrap();
            }
            // Words settle and agents come back in a clock that somebody moves.
            host.clock.advance(Duration::from_secs(6));
            let standing = host.ca.standing().await;
            let agent = &standing.agents[0];
            let new = agent
                .holders
                .first()
                .is_some_and(|h| !h.issuers.is_empty() && h.issuers.iter().all(|i| *i != old));
            if new && standing.waiting.is_none() {
                break;
            }
        }
        assert_ne!(issuer(&host.ca.authorities().await), old);
    }
}

#[tokio::test]
async fn each_user_may_hold_so_many_streams_and_connections() {
    let host = host_with(&[web(&own_uid())], |c| {
        c.streams_per_uid_max = 2;
        c.connections_per_uid_max = 2;
    })
    .await;
    let mut client = host.client();
    let mut open = async || client.fetch_x509svid(with_header(X509svidRequest {})).await;
    let first = open().await.unwrap();
    let second = open().await.unwrap();
    assert_eq!(open().await.unwrap_err().code(), Code::Unavailable);
    drop(first);
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while open().await.is_err() {
        assert!(
            std::time::Instant::now() < deadline,
            "the slot was not given back"
        );
    }
    drop(second);
    let one = tokio::net::UnixStream::connect(&host.socket).await.unwrap();
    let two = tokio::net::UnixStream::connect(&host.socket).await.unwrap();
    two.readable().await.unwrap();
    let read = two.try_read(&mut [0; 16]);
    assert_eq!(read.unwrap(), 0, "the third connection is closed");
    drop(one);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_disconnected() {
    let host = host(&[]).await;
    let silent = tokio::net::UnixStream::connect(&host.socket).await.unwrap();
    let closed = async {
        loop {
            silent.readable().await.unwrap();
            match silent.try_read(&mut [0; 64]) {
                Ok(0) => return,
                Err(e) if e.kind() != std::io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(8), closed)
        .await
        .unwrap();
}

#[tokio::test]
async fn shutdown_ends_streams_as_unavailable_and_removes_the_socket() {
    let host = host(&[web(&own_uid())]).await;
    let mut stream = host.stream().await;
    stream.message().await.unwrap().unwrap();
    host.quit.cancel();
    assert_eq!(
        stream.message().await.unwrap_err().code(),
        Code::Unavailable
    );
    host.server.await.unwrap();
    assert!(!host.socket.exists());
}

/// The client of PyPI's `spiffe` over grpcio, unmodified.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Python with the `spiffe` package"]
async fn python_s_spiffe_package_fetches_svid_and_bundle() {
    let python = std::env::var("PALISADE_TEST_PYTHON").expect("path of an interpreter");
    let host = host(&[web(&own_uid())]).await;
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/interop/workload_api.py"
    );
    let output = tokio::process::Command::new(python)
        .arg(script)
        .env("SPIFFE_ENDPOINT_SOCKET", host.uri())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(answer["svid"]["spiffe_id"], "spiffe://acme.test/web");
    assert_eq!(answer["svid"]["chain"], 2);
    assert_eq!(answer["bundles"]["spiffe://acme.test"], 1);
    assert_eq!(answer["source"]["spiffe_id"], "spiffe://acme.test/web");
    let serial = host.agent.identities()[0].serial.clone();
    let serial: String = serial.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(answer["svid"]["serial"], serial);
}
