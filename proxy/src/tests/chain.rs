//! Two proxies: outbound, mTLS, inbound. Rotation and renewal lose nothing.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use palisade_mesh::{catalogue::ServiceId, spiffe_id::TrustDomain, svid::Identity};

use super::support::{
    App, Client, Rules, Setting, Stage, authority::DOMAIN, id, loopback, service, start,
    start_outbound, until,
};
use crate::{
    config::{InboundConfig, ProxyConfig, UpstreamProtocol},
    endpoints::{Endpoint, EndpointTable, Endpoints},
    policy::PolicySlot,
    proxy::RunningProxy,
};

fn table(version: u64, endpoints: &[(SocketAddr, &str)]) -> EndpointTable {
    let domain = TrustDomain::parse(DOMAIN).unwrap();
    let orders = ServiceId::new(&domain, "shop", "orders");
    let endpoints = endpoints.iter().map(|(address, path)| {
        let identity = id(path);
        let address = *address;
        (orders.clone(), Endpoint { address, identity })
    });
    EndpointTable::new(version, endpoints)
}

/// A proxy that shows `identity` before the application of `stage`.
fn start_inbound(identity: &Identity, stage: &Stage) -> RunningProxy {
    let config = ProxyConfig {
        workers: 1,
        inbound: Some(InboundConfig {
            listen: loopback(),
            service: "shop/orders".into(),
            upstream: stage.app.address,
            upstream_protocol: UpstreamProtocol::Http1,
            upstream_off_host: false,
        }),
        ..ProxyConfig::default()
    };
    let endpoints = EndpointTable::default().shared();
    start(config, identity, &stage.policy, &endpoints, &stage.records)
}

/// The web shop's side of a chain.
struct Caller {
    proxy: RunningProxy,
    identity: Identity,
    endpoints: Endpoints,
    policy: PolicySlot,
}

impl Caller {
    fn of(stage: &Stage) -> Self {
        Self::with(stage, table(1, &[(stage.inbound(), "ns/shop/sa/orders")]))
    }

    fn with(stage: &Stage, table: EndpointTable) -> Self {
        let identity = stage.authority.identity("ns/shop/sa/web");
        let orders = service("orders", &[id("ns/shop/sa/orders")]);
        let policy = Rules::shop().slot(vec![orders]);
        let endpoints = table.shared();
        Self {
            proxy: start_outbound(&identity, &policy, &endpoints),
            identity,
            endpoints,
            policy,
        }
    }

    fn address(&self) -> SocketAddr {
        self.proxy.outbound.unwrap()
    }
}

#[tokio::test]
async fn a_request_travels_through_both_proxies() {
    for app in [App::start().await, App::start_h2().await] {
        let stage = Stage::with_app(Setting::default(), app).await;
        let caller = Caller::of(&stage);
        for client in [
            &mut Client::plain_h1(caller.address()).await,
            &mut Client::plain_h2(caller.address()).await,
        ] {
            let reply = client
                .get("/public/a", &[("x-palisade-caller", "forged")])
                .await;
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(reply.header("palisade-decision-id").len(), 26);
            let seen = stage.app.last();
            assert!(!seen.headers.contains_key("x-palisade-caller"));
            let cert = seen.headers["x-forwarded-client-cert"].to_str().unwrap();
            assert!(cert.ends_with(id("ns/shop/sa/web").as_str()), "{cert}");
            let denied = client.get("/admin/x", &[]).await;
            assert_eq!(
                (denied.status, denied.header("palisade-refused")),
                (403, "forbidden")
            );
            let posted = client.post("/public", &[], &"x".repeat(300_000)).await;
            assert_eq!(posted.body.len(), 300_000 + "POST /public\n".len());
        }
        until("outcomes", || stage.records.outcomes().len() == 4).await;
        assert_eq!(stage.records.decisions().len(), 6);
    }
}

#[tokio::test]
async fn grpc_passes_with_its_trailers() {
    let stage = Stage::with_app(Setting::default(), App::start_h2().await).await;
    let caller = Caller::of(&stage);
    let mut client = Client::plain_h2(caller.address()).await;
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let reply = client.post("/pkg.Service/Call", &fields, "x").await;
    assert_eq!(
        (reply.status, &reply.trailers["grpc-status"]),
        (200, &"0".parse().unwrap())
    );
    let denied = client.post("/admin/Call", &fields, "x").await;
    assert_eq!(denied.header("grpc-status"), "7");
    let unknown = http::Request::post("http://nowhere/pkg.Service/Call")
        .header("content-type", "application/grpc")
        .body(Default::default())
        .unwrap();
    let unknown = client.send(unknown).await.unwrap();
    assert_eq!(unknown.headers()["grpc-status"], "12");
}

#[tokio::test]
async fn the_outbound_side_names_its_own_refusals() {
    let stage = Stage::new().await;
    let caller = Caller::with(&stage, table(1, &[]));
    let mut client = Client::plain_h2(caller.address()).await;
    let reply = client.get("/public", &[]).await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (503, "no_endpoint")
    );
    let mut client = Client::plain_h1(caller.address()).await;
    let unknown = client
        .get("http://nowhere/public", &[("host", "nowhere")])
        .await;
    assert_eq!(unknown.header("palisade-refused"), "host_conflict");
    // A listener that is not there, and one that is somebody else.
    let gone = std::net::TcpListener::bind(loopback())
        .unwrap()
        .local_addr()
        .unwrap();
    caller
        .endpoints
        .store(Arc::new(table(2, &[(gone, "ns/shop/sa/orders")])));
    let reply = client.get("/public", &[]).await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (502, "upstream_unreachable")
    );
    let evil = stage.authority.identity("ns/shop/sa/evil");
    let impostor = start_inbound(&evil, &stage);
    caller.endpoints.store(Arc::new(table(
        3,
        &[(impostor.inbound.unwrap(), "ns/shop/sa/orders")],
    )));
    let reply = client.get("/public", &[]).await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (502, "peer_identity")
    );
    // T98: an endpoint announced under an identity that is not the service's.
    caller
        .endpoints
        .store(Arc::new(table(4, &[(stage.inbound(), "ns/shop/sa/evil")])));
    let reply = client.get("/public", &[]).await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (503, "no_endpoint")
    );
    caller.policy.store(None);
    assert_eq!(
        client.get("/public", &[]).await.header("palisade-refused"),
        "no_snapshot"
    );
    assert!(stage.app.seen().is_empty());
}

/// Trap 5: in TLS 1.3 a refused client connects and hears of it later.
#[tokio::test]
async fn a_peer_that_refuses_us_is_named() {
    let stage = Stage::new().await;
    let caller = Caller::of(&stage);
    let expired = stage.authority.sign(|p| {
        let uri = id("ns/shop/sa/web").to_string();
        p.subject_alt_names = vec![rcgen::SanType::URI(uri.as_str().try_into().unwrap())];
        p.not_after = p.not_before + Duration::from_secs(1);
    });
    caller
        .identity
        .replace(expired, stage.authority.bundle())
        .unwrap();
    let mut client = Client::plain_h2(caller.address()).await;
    let reply = client.get("/public", &[]).await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (502, "peer_identity")
    );
    assert!(
        reply.body.contains("refused our identity"),
        "{}",
        reply.body
    );
    until("the other side recorded it", || {
        !stage.records.failures().is_empty()
    })
    .await;
    assert_eq!(stage.records.failures()[0].reason, "expired");
}

/// Sends requests until told to stop; returns how many, and what failed.
fn traffic(
    caller: SocketAddr,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<(u64, Vec<String>)> {
    tokio::spawn(async move {
        let sent = Arc::new(AtomicU64::new(0));
        let mut failures = Vec::new();
        let mut h1 = Client::plain_h1(caller).await;
        let mut h2 = Client::plain_h2(caller).await;
        while !stop.load(SeqCst) {
            for client in [&mut h1, &mut h2] {
                for request in [client.request("/public/get", &[]), {
                    let mut post = client.request("/public/post", &[]);
                    *post.method_mut() = http::Method::POST;
                    *post.body_mut() = "body".to_owned().into();
                    post
                }] {
                    sent.fetch_add(1, SeqCst);
                    match client.send(request).await {
                        Ok(response) if response.status() == 200 => {
                            let read = http_body_util::BodyExt::collect(response.into_body()).await;
                            if let Err(error) = read {
                                failures.push(format!("body: {error:?}"));
                            }
                        }
                        Ok(response) => failures.push(format!("{response:?}")),
                        Err(error) => failures.push(format!("{error:?}")),
                    }
                }
            }
        }
        (sent.load(SeqCst), failures)
    })
}

/// Certificates of a few seconds on both sides, rotated at half-life under
/// traffic: no request fails, and none is decided twice or not at all.
#[tokio::test]
async fn rotation_of_both_identities_loses_nothing() {
    let stage = Stage::new().await;
    let caller = Caller::of(&stage);
    let rotate = |ttl| {
        for (identity, path) in [
            (&stage.identity, "ns/shop/sa/orders"),
            (&caller.identity, "ns/shop/sa/web"),
        ] {
            let svid = stage.authority.svid(path, ttl);
            identity.replace(svid, stage.authority.bundle()).unwrap();
        }
    };
    let (begun, first) = (Instant::now(), Duration::from_secs(7));
    rotate(first);
    let stop = Arc::new(AtomicBool::new(false));
    let running: Vec<_> = (0..3)
        .map(|_| traffic(caller.address(), stop.clone()))
        .collect();
    let more = async || {
        let enough = stage.records.decisions().len() + 30;
        until("more requests", || stage.records.decisions().len() > enough).await;
    };
    for _ in 0..3 {
        more().await;
        rotate(Duration::from_secs(600));
    }
    until("the first certificates have ended", || {
        begun.elapsed() > first
    })
    .await;
    more().await;
    stop.store(true, SeqCst);
    let mut total = 0;
    for task in running {
        let (sent, failures) = task.await.unwrap();
        assert!(failures.is_empty(), "{failures:?}");
        total += sent;
    }
    assert!(total > 100, "{total}");
    let decided = stage.records.decisions().len() as u64;
    assert_eq!(decided, total);
    until("every outcome", || {
        stage.records.outcomes().len() as u64 == total
    })
    .await;
    assert!(stage.records.failures().is_empty());
}

/// A destination that drains hands its traffic over without losing a request.
#[tokio::test]
async fn a_draining_destination_loses_nothing() {
    let first = Stage::new().await;
    let caller = Caller::of(&first);
    let stop = Arc::new(AtomicBool::new(false));
    let running: Vec<_> = (0..3)
        .map(|_| traffic(caller.address(), stop.clone()))
        .collect();
    until("traffic", || first.proxy.counters().requests > 50).await;
    let second = {
        let setting = Setting::default();
        let mut config = setting.config;
        config.inbound = Some(crate::config::InboundConfig {
            listen: loopback(),
            service: "shop/orders".into(),
            upstream: first.app.address,
            upstream_protocol: Default::default(),
            upstream_off_host: false,
        });
        super::support::start(
            config,
            &first.identity,
            &first.policy,
            &Default::default(),
            &first.records,
        )
    };
    caller.endpoints.store(Arc::new(table(
        2,
        &[(second.inbound.unwrap(), "ns/shop/sa/orders")],
    )));
    let report = first.proxy.drain(Duration::from_secs(5)).await;
    assert_eq!((report.cut, report.flushed), (0, true));
    until("traffic on the other one", || {
        second.counters().requests > 50
    })
    .await;
    stop.store(true, SeqCst);
    for task in running {
        let (_, failures) = task.await.unwrap();
        assert!(failures.is_empty(), "{failures:?}");
    }
}
