//! The mesh in this process, under a clock that the test moves.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use palisade::{
    config::Config,
    control::{client::Mesh, status::ProxyStatus},
    run::{self, Role},
};
use palisade_mesh::clock::Clock;
use tokio::net::{TcpListener, TcpStream};

/// Longest wait for something that should take milliseconds.
const LIMIT: Duration = Duration::from_secs(30);

/// Certificates are renewed at half of their life, then again and again, while
/// requests pass; with the authority gone and the clock past the end, nothing does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_follow_the_clock_and_no_request_is_lost_to_it() {
    let home = support::Home::new();
    let name = format!("clock-{}", std::process::id());
    let clock = Clock::manual(jiff::Timestamp::now());
    let app = start_app().await;
    let plane_config = config(&home.path("plane"), &control_plane(&name));
    let plane = run::control_plane(&plane_config, &Role::ALL, clock.clone())
        .await
        .unwrap();
    let pdp = plane.pdp.as_ref().unwrap().address;
    let audit = plane.audit.as_ref().unwrap().address.unwrap();
    let agent = plane_config.agent_socket();
    let mut proxies = Vec::new();
    for service in ["web", "orders"] {
        let yaml = proxy(&name, service, app, pdp, audit, &agent);
        let config = config(&home.path(service), &yaml);
        proxies.push(run::proxy::start(&config, clock.clone()).await.unwrap());
    }
    let outbound = ready(&name).await;

    let first = ends(&name).await;
    assert_eq!(get(outbound, "orders", "/orders").await, 200);
    for _ in 0..3 {
        let before = ends(&name).await;
        clock.advance(Duration::from_secs(45 * 60));
        until("every certificate is renewed", || async {
            ends(&name).await > before
        })
        .await;
        assert_eq!(get(outbound, "orders", "/orders").await, 200);
    }
    assert!(ends(&name).await >= first + 2 * 3600);

    plane.end().await;
    clock.advance(Duration::from_secs(2 * 3600));
    let status = get(outbound, "orders", "/orders").await;
    assert!(
        [502, 503].contains(&status),
        "an expired identity passed: {status}"
    );
    for proxy in proxies {
        proxy.end().await;
    }
}

/// Ten minutes ahead and back: nobody asked for it, no request fails, nothing passes
/// that is denied, and no snapshot grows old or young by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_costs_no_request() {
    let home = support::Home::new();
    let name = format!("jump-{}", std::process::id());
    let clock = Clock::manual(jiff::Timestamp::now());
    let app = start_app().await;
    let plane_config = config(&home.path("plane"), &control_plane(&name));
    let plane = run::control_plane(&plane_config, &Role::ALL, clock.clone())
        .await
        .unwrap();
    let pdp = plane.pdp.as_ref().unwrap().address;
    let audit = plane.audit.as_ref().unwrap().address.unwrap();
    let agent = plane_config.agent_socket();
    let mut proxies = Vec::new();
    for service in ["web", "orders"] {
        let yaml = proxy(&name, service, app, pdp, audit, &agent);
        let config = config(&home.path(service), &yaml);
        proxies.push(run::proxy::start(&config, clock.clone()).await.unwrap());
    }
    let outbound = ready(&name).await;
    let jump = Duration::from_secs(600);
    let is_served = async |times: usize| {
        for _ in 0..times {
            assert_eq!(get(outbound, "orders", "/orders").await, 200);
            assert_eq!(get(outbound, "orders", "/nowhere").await, 403);
        }
    };
    is_served(20).await;
    clock.set_ahead(jump);
    is_served(20).await;
    clock.set_back(jump);
    is_served(20).await;
    for status in statuses(&name).await {
        assert!(
            !status.stale && status.snapshot_age_s == Some(0),
            "{status:?}"
        );
    }
    for proxy in proxies {
        proxy.end().await;
    }
    plane.end().await;
}

/// Root, intermediate and every certificate end while the control plane is down. The
/// authority is repaired, and all come back with the registrations they had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_whose_certificates_have_all_expired_is_repaired() {
    let home = support::Home::new();
    let name = format!("expiry-{}", std::process::id());
    let clock = Clock::manual(jiff::Timestamp::now());
    let app = start_app().await;
    let (pdp, audit) = (support::free_port(), support::free_port());
    let yaml = control_plane(&name)
        .replacen("127.0.0.1:0", &pdp.to_string(), 1)
        .replacen("127.0.0.1:0", &audit.to_string(), 1);
    let plane_config = config(&home.path("plane"), &yaml);
    let plane = run::control_plane(&plane_config, &Role::ALL, clock.clone())
        .await
        .unwrap();
    let agent = plane_config.agent_socket();
    let mut proxies = Vec::new();
    for service in ["web", "orders"] {
        let yaml = proxy(&name, service, app, pdp, audit, &agent);
        let config = config(&home.path(service), &yaml);
        proxies.push(run::proxy::start(&config, clock.clone()).await.unwrap());
    }
    let outbound = ready(&name).await;
    assert_eq!(get(outbound, "orders", "/orders").await, 200);
    let roots = plane.ca.as_ref().unwrap().trust().borrow().bundle.clone();
    plane.end().await;

    clock.advance(Duration::from_secs(400 * 86_400));
    assert_ne!(get(outbound, "orders", "/orders").await, 200);
    let folder = plane_config.state_dir.join("ca");
    let of_ca = palisade_ca::CaConfig::new(plane_config.trust_domain.clone(), folder);
    let repaired = palisade_ca::server::repair(&of_ca, clock.clone())
        .await
        .unwrap();
    assert_eq!(repaired.ended, 2);
    let plane = run::control_plane(&plane_config, &Role::ALL, clock.clone())
        .await
        .unwrap();
    assert_ne!(plane.ca.as_ref().unwrap().trust().borrow().bundle, roots);
    until("a request that passes", || async {
        get(outbound, "orders", "/orders").await == 200
    })
    .await;
    plane.end().await;
    for proxy in proxies {
        proxy.end().await;
    }
}

fn config(dir: &Path, yaml: &str) -> Config {
    std::fs::create_dir_all(dir).unwrap();
    let file = dir.join("mesh.yaml");
    std::fs::write(&file, yaml).unwrap();
    Config::read(&file).unwrap_or_else(|found| panic!("{found:#?}"))
}

fn control_plane(name: &str) -> String {
    let uid = nix::unistd::getuid();
    let policies = support::sample_policies();
    let registrations: String = ["web", "orders"]
        .map(|s| format!("    - {{ spiffe_id: spiffe://demo.test/ns/shop/sa/{s}, selectors: [\"unix:uid:{uid}\"] }}\n"))
        .concat();
    format!(
        "trust_domain: demo.test\nname: {name}\nca:\n  svid_ttl: 1h\n  registrations:\n{registrations}pdp:\n  policies: {}\n  listen: 127.0.0.1:0\naudit:\n  listen: 127.0.0.1:0\n",
        policies.display()
    )
}

fn proxy(
    name: &str,
    service: &str,
    app: SocketAddr,
    pdp: SocketAddr,
    audit: SocketAddr,
    agent: &Path,
) -> String {
    format!(
        "trust_domain: demo.test\nname: {name}\nproxy:\n  instance: {service}\n  identity: {{ workload_api: \"unix://{}\" }}\n  spiffe_id: spiffe://demo.test/ns/shop/sa/{service}\n  policy: {{ pdp: \"{pdp}\" }}\n  records: {{ audit: \"{audit}\" }}\n  workers: 1\n  inbound: {{ listen: \"127.0.0.1:0\", service: shop/{service}, upstream: \"{app}\" }}\n  outbound: {{ listen: \"127.0.0.1:0\" }}\n",
        agent.display()
    )
}

async fn start_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(|| async { "hello" });
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn statuses(name: &str) -> Vec<ProxyStatus> {
    let Ok(mesh) = Mesh::find(Some(name)).await else {
        return Vec::new();
    };
    mesh.get_all("proxy", "/v1/proxy/status")
        .await
        .unwrap_or_default()
}

/// The outbound port of `web`, once every proxy knows policy and endpoints.
async fn ready(name: &str) -> SocketAddr {
    until("both proxies are ready", || async {
        let all = statuses(name).await;
        all.len() == 2 && all.iter().all(|p| p.sequence > 0 && p.endpoints >= 2)
    })
    .await;
    let all = statuses(name).await;
    all.iter()
        .find(|p| p.instance == "web")
        .unwrap()
        .outbound
        .unwrap()
}

/// The earliest end of a certificate.
async fn ends(name: &str) -> i64 {
    statuses(name)
        .await
        .iter()
        .map(|p| p.svid_not_after_s)
        .min()
        .unwrap_or_default()
}

async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    while !ask().await {
        assert!(started.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        ticks.tick().await;
    }
}

async fn get(outbound: SocketAddr, host: &str, path: &str) -> u16 {
    let stream = TcpStream::connect(outbound).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(path)
        .header("host", host)
        .body(Full::new(Bytes::new()))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    answer.into_body().collect().await.unwrap();
    status
}
