//! What the caller is told, and that nothing passes without a decision.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use palisade_mesh::{decision::Verdict, wire::record::Verdict as WireVerdict};

use super::support::{App, Reply, Rules, Setting, Stage, id, service, until};

/// Invariant 2, over both protocols.
#[tokio::test]
async fn outcomes_are_told_apart() {
    let stage = Stage::new().await;
    for client in [&mut stage.h1().await, &mut stage.h2().await] {
        for (path, status, reason) in [
            ("/public", 200, ""),
            ("/admin/x", 403, "forbidden"),
            ("/other", 403, "no_permit"),
            ("/undecided", 503, "forbid_errored"),
            ("/undeclared", 404, "operation_unknown"),
        ] {
            let reply = client.get(path, &[]).await;
            assert_eq!(
                (reply.status, reply.header("palisade-refused")),
                (status, reason),
                "{path}"
            );
            assert_eq!(reply.header("palisade-decision-id").len(), 26);
            assert_eq!(reply.headers.contains_key("retry-after"), status == 503);
        }
    }
    let counters = stage.proxy.counters();
    assert_eq!(
        (
            counters.requests,
            counters.allowed,
            counters.denied,
            counters.undecided
        ),
        (10, 4, 4, 2)
    );
}

#[tokio::test]
async fn a_denial_is_a_problem_document_with_the_author_s_words() {
    let stage = Stage::new().await;
    let reply = stage.h1().await.get("/admin/x", &[]).await;
    assert_eq!(reply.header("content-type"), "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(problem["type"], "urn:palisade:problem:forbidden");
    assert_eq!(problem["status"], 403);
    assert_eq!(problem["title"], "Forbidden");
    assert_eq!(problem["detail"], "Admins only; ask the shop team.");
    assert_eq!(problem["decision_id"], reply.header("palisade-decision-id"));
    assert!(!reply.body.contains("p1"), "policy ids are not told");
}

/// A gRPC caller gets trailers-only answers, whatever kept its call from passing.
#[tokio::test]
async fn grpc_callers_get_grpc_answers() {
    let stage = Stage::with_app(Setting::default(), App::start_h2().await).await;
    let mut client = stage.h2().await;
    let grpc = [
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
    ];
    for (path, status) in [
        ("/admin/Call", "7"),
        ("/other/Call", "7"),
        ("/undecided/Call", "14"),
        ("/undeclared/Call", "12"),
        ("/a%2fb", "3"),
    ] {
        let reply = client.post(path, &grpc, "").await;
        assert_eq!(
            (reply.status, reply.header("grpc-status")),
            (200, status),
            "{path}"
        );
        assert_eq!(reply.header("content-type"), "application/grpc");
        assert!(reply.body.is_empty() && reply.trailers.is_empty());
        assert_eq!(reply.header("palisade-decision-id").len(), 26);
    }
    let reply = client.post("/pkg.Service/Call", &grpc, "x").await;
    assert_eq!(reply.trailers["grpc-status"], "0");
    assert!(!reply.trailers.contains_key("palisade-refused"));
    let seen = stage.app.last();
    assert_eq!(
        (seen.headers["te"].as_bytes(), seen.body.as_str()),
        (&b"trailers"[..], "x")
    );
}

/// T51: nothing to decide with is no permission, and no denial either.
#[tokio::test]
async fn without_a_snapshot_nothing_passes() {
    let stage = Stage::new().await;
    let before = stage.policy.swap(None);
    let mut client = stage.h2().await;
    let reply = client.get("/public", &[]).await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (503, "no_snapshot")
    );
    let decision = stage.records.decision();
    assert_eq!(decision.verdict(), WireVerdict::Undecided);
    assert_eq!(decision.service, "shop/orders");
    assert!(decision.versions.unwrap().policy_digest.is_empty());
    stage.policy.store(before);
    assert_eq!(client.get("/public", &[]).await.status, 200);
    // A snapshot in which the service does not exist decides nothing either.
    stage.policy.store(Some(Rules::shop().snapshot(vec![])));
    let reply = client.get("/public", &[]).await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (503, "service_unknown")
    );
    assert_eq!(stage.app.seen().len(), 1);
}

/// T55: each decision is made under one revision and names it.
#[tokio::test]
async fn a_new_revision_applies_to_open_connections() {
    let stage = Stage::new().await;
    let mut client = stage.h2().await;
    assert_eq!(client.get("/public", &[]).await.status, 200);
    assert_eq!(
        stage.records.decision().versions.unwrap().policy_sequence,
        1
    );
    let closed = Rules::new(|_| Verdict::NotPermitted).numbered(2);
    let services = vec![service("orders", &[id("ns/shop/sa/orders")])];
    stage.policy.store(Some(closed.snapshot(services)));
    assert_eq!(client.get("/public", &[]).await.status, 403);
    assert_eq!(
        stage.records.decision().versions.unwrap().policy_sequence,
        2
    );
}

/// T54: streams that share a connection do not share decisions.
#[tokio::test]
async fn concurrent_streams_get_their_own_decisions() {
    let stage = Stage::new().await;
    let client = stage.h2().await;
    let super::support::Client::H2(sender) = &client else {
        unreachable!("an HTTP/2 client");
    };
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..100 {
        let path = if n % 2 == 0 { "/public" } else { "/admin/x" };
        let (mut sender, request) = (sender.clone(), client.request(path, &[]));
        asked.spawn(async move {
            let reply = Reply::read(sender.send_request(request).await.unwrap()).await;
            (n % 2 == 0, reply.status)
        });
    }
    while let Some(answer) = asked.join_next().await {
        let (allowed, status) = answer.unwrap();
        assert_eq!(status, if allowed { 200 } else { 403 });
    }
    assert_eq!(stage.app.seen().len(), 50);
    assert_eq!(stage.records.decisions().len(), 100);
}

/// A request that the engine panics on is not forwarded and harms no other.
#[tokio::test]
async fn a_panic_ends_one_request_only() {
    let stage = Stage::new().await;
    let mut client = stage.h2().await;
    let request = client.request("/panic", &[]);
    assert!(client.send(request).await.is_err());
    assert_eq!(client.get("/public", &[]).await.status, 200);
    let mut other = stage.h1().await;
    assert_eq!(other.get("/public", &[]).await.status, 200);
    assert_eq!(stage.app.seen().len(), 2);
}

/// T70, T71, T19: an upgrade is authorized on its path, and only a 101 is one.
#[tokio::test]
async fn a_websocket_passes_after_authorization() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stage = Stage::new().await;
    let upgrade = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "x"),
    ];
    let denied = stage.h1().await.get("/admin/ws", &upgrade).await;
    assert_eq!(denied.status, 403);

    let mut client = stage.h1().await;
    let request = client.request("/public/ws", &upgrade);
    let mut response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-accept"], "x");
    assert_eq!(response.headers()["palisade-decision-id"].len(), 26);
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    let mut io = hyper_util::rt::TokioIo::new(upgraded);
    io.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    io.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
    drop(io);
    let outcome = stage.records.outcome().await;
    assert_eq!(
        (outcome.status, outcome.bytes_in, outcome.bytes_out),
        (101, 4, 4)
    );

    // Bytes sent ahead of a switch that never comes reach nobody.
    let request = "GET /public/switch HTTP/1.1\r\nhost: orders\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nGET /admin/x HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
    let reply = stage.raw(request).await;
    assert_eq!(reply.status, 200);
    assert!(stage.app.seen().iter().all(|s| s.target != "/admin/x"));
}

/// Protocols other than WebSocket are not upgraded to: h2c would be a tunnel
/// past the decisions.
#[tokio::test]
async fn no_other_upgrade_is_passed_on() {
    let stage = Stage::new().await;
    let fields = [
        ("connection", "Upgrade, HTTP2-Settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABk"),
    ];
    let reply = stage.h1().await.get("/public", &fields).await;
    assert_eq!(reply.status, 200);
    let seen = stage.app.last().headers;
    assert!(!seen.contains_key("upgrade") && !seen.contains_key("http2-settings"));
}

#[tokio::test]
async fn an_application_that_is_gone_or_slow_is_no_denial() {
    let mut setting = Setting {
        timeout: std::time::Duration::from_millis(200),
        ..Setting::default()
    };
    setting.config.workers = 1;
    let stage = Stage::set(setting).await;
    let mut client = stage.h1().await;
    let reply = client.get("/public/hang", &[]).await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (504, "upstream_timeout")
    );
    assert_eq!(stage.records.outcome().await.status, 504);
    stage.app.stop();
    until("the application is gone", || {
        std::net::TcpStream::connect(stage.app.address).is_err()
    })
    .await;
    let reply = client.get("/public", &[]).await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (502, "upstream_unreachable")
    );
    assert_eq!(stage.records.outcome().await.error, "upstream_unreachable");
}

#[tokio::test]
async fn a_body_beyond_its_limit_is_refused_on_both_ways() {
    let mut setting = Setting::default();
    setting.config.limits.body_bytes = Some(10);
    let stage = Stage::set(setting).await;
    let mut client = stage.h2().await;
    assert_eq!(client.post("/public", &[], "0123456789").await.status, 200);
    let reply = client.post("/public", &[], "0123456789a").await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (413, "body_too_large")
    );
    let chunked = "POST /public HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n";
    assert_eq!(stage.raw(chunked).await.status, 413);
    assert_eq!(stage.records.outcome().await.error, "body_too_large");
}

/// The decision sees what the application will see.
#[tokio::test]
async fn policies_read_all_values_of_a_header() {
    let stage = Stage::new().await;
    let mut client = stage.h2().await;
    for fields in [
        &[("x-role", "banned")][..],
        &[("x-role", "friend"), ("x-role", "banned")],
        &[("X-Role", "banned"), ("x-role", "friend")],
    ] {
        assert_eq!(
            client.get("/public", fields).await.status,
            403,
            "{fields:?}"
        );
    }
    let twice = [("x-tenant", "a"), ("x-tenant", "b")];
    let reply = client.get("/public", &twice).await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (400, "header_repeated")
    );
}

/// Requests beyond the limit are refused, and the proxy recovers.
#[tokio::test]
async fn requests_in_flight_are_bounded() {
    let mut setting = Setting::default();
    setting.config.workers = 1;
    setting.config.limits.requests = 2;
    let stage = Stage::set(setting).await;
    let client = stage.h2().await;
    let super::support::Client::H2(sender) = &client else {
        unreachable!("an HTTP/2 client");
    };
    let hung = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (mut sender, request) = (sender.clone(), client.request("/public/hang", &[]));
        tasks.spawn(async move { sender.send_request(request).await.map(|_| ()) });
    }
    until("both hang", || {
        hung.store(stage.app.seen().len() as u64, SeqCst);
        hung.load(SeqCst) == 2
    })
    .await;
    let mut other = stage.h1().await;
    let reply = other.get("/public", &[]).await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (503, "overloaded")
    );
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    until("the places are free", || {
        stage.records.outcomes().len() == 2
    })
    .await;
    assert_eq!(other.get("/public", &[]).await.status, 200);
}
