//! Draining, limits on connections, the admin listener.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use palisade_mesh::{
    differences::DIFFERS,
    svid::Identity,
    wire::record::{outcome::End, record::Body},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{Client, Reply, Rules, Setting, Stage, client, id, service, soon, until};

async fn admin(stage: &Stage, path: &str) -> Reply {
    admin_as(stage, "127.0.0.1", path).await
}

async fn admin_as(stage: &Stage, host: &str, path: &str) -> Reply {
    let mut client = Client::plain_h1(stage.proxy.admin.unwrap()).await;
    let mut request = client.request(path, &[]);
    request.headers_mut().insert("host", host.parse().unwrap());
    Reply::read(client.send(request).await.unwrap()).await
}

/// T92: a page in a browser reaches the listener under a name of its own.
#[tokio::test]
async fn the_admin_listener_answers_under_no_other_name() {
    let stage = Stage::new().await;
    assert_eq!(admin_as(&stage, "evil.test", "/state").await.status, 421);
    assert_eq!(admin_as(&stage, "localhost:1", "/state").await.status, 200);
}

#[tokio::test]
async fn what_is_in_flight_finishes_and_nothing_new_begins() {
    let stage = Stage::new().await;
    let (mut h1, mut h2) = (stage.h1().await, stage.h2().await);
    assert_eq!(h1.status("/public").await, 200);
    assert_eq!(h2.status("/public").await, 200);
    let before = stage.app.seen().len();
    let slow = tokio::spawn(async move {
        let (one, two) = (
            h1.request("/public/slow", &[]),
            h2.request("/public/slow", &[]),
        );
        let (one, two) = tokio::join!(h1.send(one), h2.send(two));
        (one.unwrap(), two.unwrap())
    });
    until("both are in flight", || {
        stage.app.seen().len() == before + 2
    })
    .await;
    let report = stage.proxy.drain(Duration::from_secs(5)).await;
    assert_eq!((report.cut, report.flushed), (0, true));
    let (one, two) = soon(slow).await.unwrap();
    assert_eq!(
        (one.status(), two.status()),
        (http::StatusCode::OK, http::StatusCode::OK)
    );
    assert_eq!(one.headers()["connection"], "close");
    assert!(std::net::TcpStream::connect(stage.inbound()).is_err());
    assert!(
        stage
            .records
            .outcomes()
            .iter()
            .all(|(_, o)| o.end() == End::Completed)
    );
    assert_eq!(stage.records.outcomes().len(), 4);
}

/// A connection that is still in its handshake when the drain begins gets its
/// one request served, and does not hold the drain up afterwards.
#[tokio::test]
async fn a_handshake_that_ends_during_a_drain_is_served_and_closed() {
    let mut setting = Setting::default();
    setting.config.workers = 1;
    let stage = Stage::set(setting).await;
    let identity = stage.authority.identity("ns/shop/sa/web");
    let tcp = tokio::net::TcpStream::connect(stage.inbound())
        .await
        .unwrap();
    until("it was accepted", || {
        stage.proxy.counters().connections == 1
    })
    .await;
    let proxy = &stage.proxy;
    let asking = async {
        until("the drain has begun", || {
            std::net::TcpStream::connect(stage.inbound()).is_err()
        })
        .await;
        let config = identity.client_config(&[id("ns/shop/sa/orders")], &[b"http/1.1"]);
        let name = rustls_pki_types::ServerName::from(stage.inbound().ip());
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let mut stream = connector.connect(name, tcp).await.unwrap();
        let request = b"GET /public HTTP/1.1\r\nhost: orders\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut received = Vec::new();
        let _ = soon(stream.read_to_end(&mut received)).await;
        received
    };
    let (report, received) = tokio::join!(proxy.drain(Duration::from_secs(4)), asking);
    assert!(received.starts_with(b"HTTP/1.1 200"));
    assert_eq!((report.cut, report.flushed), (0, true));
}

#[tokio::test]
async fn the_deadline_of_a_drain_cuts_what_is_left() {
    let stage = Stage::new().await;
    let mut h2 = stage.h2().await;
    let request = h2.request("/public/drip", &[]);
    let response = h2.send(request).await.unwrap();
    let report = stage.proxy.drain(Duration::from_millis(300)).await;
    assert_eq!(report.cut, 1);
    assert!(soon(response.into_body().collect()).await.is_err());
    assert_eq!(stage.records.outcome().await.end(), End::Deadline);
    // A second drain has nothing to wait for.
    assert_eq!(stage.proxy.stop().await.cut, 0);
}

/// A certificate that ends takes its open connections with it (invariant 8).
#[tokio::test]
async fn nothing_is_decided_after_the_caller_s_certificate_ended() {
    let stage = Stage::new().await;
    let identity = stage.authority.identity("ns/shop/sa/web");
    let short = stage
        .authority
        .svid("ns/shop/sa/web", Duration::from_secs(2));
    identity.replace(short, stage.authority.bundle()).unwrap();
    let mut h2 = Client::h2(stage.inbound(), &identity).await;
    let mut stream = client::tls(stage.inbound(), &identity, b"http/1.1")
        .await
        .unwrap();
    assert_eq!(h2.status("/public").await, 200);
    let request = b"GET /public HTTP/1.1\r\nhost: orders\r\n\r\n";
    stream.write_all(request).await.unwrap();
    until("both passed", || stage.app.seen().len() == 2).await;
    let mut rest = Vec::new();
    // It ends; whether with a farewell is up to how busy the machine is.
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert!(rest.starts_with(b"HTTP/1.1 200"));
    until("both connections are closed", || {
        stage.proxy.counters().connections == 0
    })
    .await;
    let late = h2.request("/public", &[]);
    assert!(h2.send(late).await.is_err());
    assert_eq!(stage.records.decisions().len(), 2);
}

/// T102: what is in flight ends with the certificate, too.
#[tokio::test]
async fn a_request_in_flight_ends_with_the_caller_s_certificate() {
    let stage = Stage::new().await;
    let identity = stage.authority.identity("ns/shop/sa/web");
    let short = stage
        .authority
        .svid("ns/shop/sa/web", Duration::from_secs(2));
    identity.replace(short, stage.authority.bundle()).unwrap();
    let mut h2 = Client::h2(stage.inbound(), &identity).await;
    let request = h2.request("/public/drip", &[]);
    let response = h2.send(request).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(6), response.into_body().collect()).await;
    assert!(ended.expect("the stream outlives the certificate").is_err());
    assert_eq!(stage.records.outcome().await.end(), End::Deadline);
}

/// T85: a caller that takes no bytes holds its place no longer than its time.
#[tokio::test]
async fn a_caller_that_does_not_read_is_cut_after_its_time() {
    let stage = Stage::set(Setting {
        timeout: Duration::from_secs(1),
        ..Setting::default()
    })
    .await;
    let identity = stage.authority.identity("ns/shop/sa/web");
    let mut h2 = Client::h2_with_window(stage.inbound(), &identity, 1024).await;
    let mut request = h2.request("/public", &[]);
    *request.method_mut() = http::Method::POST;
    *request.body_mut() = vec![b'x'; 4 << 20].into();
    let response = h2.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    stage.records.outcome().await;
    until("the connection is closed", || {
        stage.proxy.counters().connections == 0
    })
    .await;
    drop(response);
}

/// T87: connections beyond the cap are refused, the admin listener still answers.
#[tokio::test]
async fn connections_are_bounded() {
    let mut setting = Setting::default();
    setting.config.workers = 1;
    setting.config.limits.connections = 2;
    let stage = Stage::set(setting).await;
    let mut kept = (stage.h1().await, stage.h2().await);
    assert_eq!(kept.0.status("/public").await, 200);
    let identity = stage.authority.identity("ns/shop/sa/web");
    assert!(
        client::tls(stage.inbound(), &identity, b"h2")
            .await
            .is_err()
    );
    assert_eq!(admin(&stage, "/readyz").await.status, 200);
    let metrics = admin(&stage, "/metrics").await.body;
    assert!(
        metrics.contains("palisade_connections_refused_total{reason=\"limit\"} 1"),
        "{metrics}"
    );
    assert_eq!(kept.1.status("/public").await, 200);
    drop(kept);
    until("places are free", || {
        stage.proxy.counters().connections == 0
    })
    .await;
    assert_eq!(stage.h1().await.status("/public").await, 200);
}

/// T85: dribbling a head does not hold a connection.
#[tokio::test]
async fn a_slow_head_and_an_idle_connection_are_closed() {
    let mut setting = Setting::default();
    setting.config.limits.header_read_timeout = Duration::from_millis(600);
    setting.config.limits.idle_timeout = Duration::from_millis(1500);
    let stage = Stage::set(setting).await;
    let identity = stage.authority.identity("ns/shop/sa/web");
    let mut slow = client::tls(stage.inbound(), &identity, b"http/1.1")
        .await
        .unwrap();
    slow.write_all(b"GET /public HTTP/1.1\r\nhost: ord")
        .await
        .unwrap();
    let mut idle = client::tls(stage.inbound(), &identity, b"http/1.1")
        .await
        .unwrap();
    let mut end = Vec::new();
    let _ = soon(slow.read_to_end(&mut end)).await;
    let _ = soon(idle.read_to_end(&mut end)).await;
    assert!(end.is_empty());
    let metrics = admin(&stage, "/metrics").await.body;
    for reason in ["header_timeout", "idle"] {
        let line = format!("palisade_connections_closed_total{{reason=\"{reason}\"}} 1");
        assert!(metrics.contains(&line), "{metrics}");
    }
    assert!(stage.app.seen().is_empty());
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let stage = Stage::new().await;
    assert_eq!(admin(&stage, "/livez").await.status, 200);
    assert_eq!(admin(&stage, "/readyz").await.status, 200);
    stage.policy.store(None);
    let reply = admin(&stage, "/readyz").await;
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (503, "no policy snapshot\n")
    );
    assert_eq!(admin(&stage, "/livez").await.status, 200);
    let mut client = Client::plain_h1(stage.proxy.admin.unwrap()).await;
    let mut post = client.request("/readyz", &[]);
    *post.method_mut() = http::Method::POST;
    let host = "127.0.0.1".parse().unwrap();
    post.headers_mut().insert("host", host);
    assert_eq!(client.send(post).await.unwrap().status(), 405);
    assert_eq!(admin(&stage, "/unknown").await.status, 404);
}

#[tokio::test]
async fn metrics_and_state_tell_what_happened() {
    let stage = Stage::new().await;
    let mut client = stage.h2().await;
    for path in ["/public", "/public", "/admin/x", "/a%2fb"] {
        client.get(path, &[]).await;
    }
    let metrics = admin(&stage, "/metrics").await.body;
    for line in [
        "palisade_decisions_total{decision=\"allow\",reason=\"permitted\",service=\"shop/orders\",source_service=\"shop/web\"} 2",
        "palisade_decisions_total{decision=\"deny\",reason=\"forbidden\",service=\"shop/orders\",source_service=\"shop/web\"} 1",
        "palisade_decisions_total{decision=\"refused\",reason=\"path_ambiguous\",service=\"shop/orders\",source_service=\"shop/web\"} 1",
        "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"200\"} 2",
        "palisade_decision_duration_seconds_count 3",
        "palisade_decision_cache_total{result=\"miss\"} 3",
        "palisade_requests_total 4",
        "palisade_connections_open 1",
        "palisade_engine_self_checks_total{result=\"agreed\"} 5",
        "palisade_engine_self_checks_total{result=\"differed\"} 2",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    assert!(metrics.contains("palisade_svid_not_after_timestamp_seconds{spiffe_id="));
    let state: serde_json::Value =
        serde_json::from_str(&admin(&stage, "/state").await.body).unwrap();
    assert_eq!(state["identity"], id("ns/shop/sa/orders").as_str());
    assert_eq!(
        (&state["policy"]["sequence"], &state["requests"]),
        (&1.into(), &4.into())
    );
}

/// What an engine was found to differ is recorded also where nobody comes to look again: its
/// snapshot is replaced, or the proxy ends.
#[tokio::test]
async fn a_difference_that_is_found_last_is_recorded() {
    let [one, two]: [Arc<AtomicU64>; 2] = Default::default();
    let rules = |number, differed| Rules::shop().numbered(number).differing(differed);
    let stage = Stage::set(Setting {
        rules: rules(1, &one),
        ..Setting::default()
    })
    .await;
    let told = || -> Vec<String> {
        let bodies = stage.records.all().into_iter().filter_map(|r| r.body);
        let told = bodies.filter_map(|body| match body {
            Body::Admin(admin) if admin.verb == DIFFERS => Some(admin.object),
            _ => None,
        });
        told.collect()
    };
    assert_eq!(stage.h1().await.status("/public").await, 200);
    one.store(3, Ordering::Relaxed);
    let orders = service("orders", &[id("ns/shop/sa/orders")]);
    let next = rules(2, &two).snapshot(vec![orders]);
    stage.policy.store(Some(next));
    until("the first is told", || told() == ["revision 1"]).await;
    two.store(1, Ordering::Relaxed);
    stage.proxy.drain(Duration::from_secs(5)).await;
    assert_eq!(told(), ["revision 1", "revision 2"]);
}

/// Nothing is negotiated that we do not speak; without ALPN it is HTTP/1.1.
#[tokio::test]
async fn without_alpn_it_is_http1() {
    let stage = Stage::new().await;
    let identity: Identity = stage.authority.identity("ns/shop/sa/web");
    let mut stream = client::tls(stage.inbound(), &identity, b"").await.unwrap();
    let request = b"GET /public HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut received = Vec::new();
    let _ = soon(stream.read_to_end(&mut received)).await;
    assert!(received.starts_with(b"HTTP/1.1 200"));
    assert!(
        client::tls(stage.inbound(), &identity, b"spdy/3")
            .await
            .is_err()
    );
}
