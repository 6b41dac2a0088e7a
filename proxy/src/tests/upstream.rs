//! Upstream connections that fail at the worst moment, and starting up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::support::{App, Capture, Rules, Setting, Stage, id, loopback, service};
use crate::{
    config::{InboundConfig, ProxyConfig, UpstreamProtocol},
    endpoints::EndpointTable,
    proxy::{Parts, Proxy, ProxyError},
};

/// Answers one request per connection with keep-alive, and closes it when the
/// next one arrives: what an application does whose idle timer has just fired.
async fn fickle() -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let answered = Arc::new(AtomicU64::new(0));
    let count = answered.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                count.fetch_add(1, SeqCst);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                let _ = stream.write_all(answer).await;
                let _ = stream.read(&mut buffer).await;
            });
        }
    });
    (address, answered)
}

/// Trap 10: a request that met a connection just closed goes out on another, if
/// that is safe; a POST that was sent is not sent twice.
#[tokio::test]
async fn a_closed_idle_connection_fails_no_safe_request() {
    let (address, answered) = fickle().await;
    let mut setting = Setting::default();
    setting.config.workers = 1;
    let mut app = App::start().await;
    app.address = address;
    let stage = Stage::with_app(setting, app).await;
    let mut client = stage.h2().await;
    for n in 1..=5 {
        assert_eq!(client.get("/public", &[]).await.status, 200, "request {n}");
        assert_eq!(answered.load(SeqCst), n);
        // Longer than the idle time after which a connection is not trusted.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reply = client.post("/public", &[], "pay").await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (502, "upstream_failed")
    );
    assert_eq!(answered.load(SeqCst), 5);
    assert_eq!(stage.records.decisions().len(), 6);
}

/// An application that answers without reading the body closes the connection at
/// once: the next request may be on its way before the proxy sees that.
#[tokio::test]
async fn a_connection_that_carried_a_body_is_not_trusted() {
    let (address, answered) = fickle().await;
    let mut setting = Setting::default();
    setting.config.workers = 1;
    let mut app = App::start().await;
    app.address = address;
    let stage = Stage::with_app(setting, app).await;
    let mut client = stage.h2().await;
    assert_eq!(client.post("/public", &[], "pay").await.status, 200);
    assert_eq!(client.get("/public", &[]).await.status, 200);
    assert_eq!(answered.load(SeqCst), 2);
}

/// Bodies are streamed: what the application sends arrives before it has ended.
#[tokio::test]
async fn bodies_are_not_buffered() {
    use http_body_util::BodyExt;
    let stage = Stage::new().await;
    let mut client = stage.h1().await;
    let request = client.request("/public/drip", &[]);
    let mut body = client.send(request).await.unwrap().into_body();
    let frame = super::support::soon(body.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "first");
}

#[tokio::test]
async fn large_bodies_pass_whole_both_ways() {
    for app in [App::start().await, App::start_h2().await] {
        let stage = Stage::with_app(Setting::default(), app).await;
        let body = "0123456789abcdef".repeat(200_000);
        for client in [&mut stage.h1().await, &mut stage.h2().await] {
            let reply = client.post("/public", &[], &body).await;
            assert_eq!(reply.body, format!("POST /public\n{body}"));
            let outcome = stage.records.outcome().await;
            assert_eq!(
                (outcome.bytes_in, outcome.bytes_out),
                (3_200_000, 3_200_013)
            );
        }
    }
}

#[tokio::test]
async fn what_keeps_a_proxy_from_starting_is_told() {
    let authority = super::support::Authority::new();
    let parts = Parts {
        policy: Rules::shop().slot(vec![service("orders", &[id("ns/shop/sa/orders")])]),
        endpoints: EndpointTable::default().shared(),
        identity: authority.identity("ns/shop/sa/orders"),
        sink: Arc::new(Capture::default()),
        clock: palisade_mesh::clock::Clock::system(),
    };
    let error = Proxy::start(ProxyConfig::default(), parts.clone()).unwrap_err();
    assert!(matches!(&error, ProxyError::Config(mistakes) if mistakes.len() == 1));
    let taken = std::net::TcpListener::bind(loopback()).unwrap();
    let config = ProxyConfig {
        inbound: Some(InboundConfig {
            listen: taken.local_addr().unwrap(),
            service: "shop/orders".into(),
            upstream: "127.0.0.1:9".parse().unwrap(),
            upstream_protocol: UpstreamProtocol::Http1,
            upstream_off_host: false,
        }),
        ..ProxyConfig::default()
    };
    let error = Proxy::start(config, parts).unwrap_err();
    let told = error.diagnostics();
    assert_eq!(told[0].code.0, 5004);
    assert!(told[0].message.contains("inbound.listen"));
}
