//! Every request leaves its record, on every way out (invariant 5).

use std::{collections::HashSet, time::Duration};

use palisade_mesh::{
    sink::SinkError,
    svid::Claim,
    wire::record::{AuditMode, Verdict, outcome::End},
};
use rcgen::SanType;
use tokio::io::AsyncWriteExt;

use super::support::{App, Client, Reply, Setting, Stage, client, id, soon, until};

fn mode(audit: AuditMode) -> Setting {
    Setting {
        audit,
        ..Setting::default()
    }
}

/// Whoever can reach the port must not be able to fill the disk with records.
#[tokio::test]
async fn failed_handshakes_do_not_make_records_without_end() {
    let stage = Stage::new().await;
    let flood = 600;
    for _ in 0..flood {
        let mut stream = tokio::net::TcpStream::connect(stage.inbound())
            .await
            .unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    }
    let refused = async || {
        let mut admin = Client::plain_h1(stage.proxy.admin.unwrap()).await;
        let mut request = admin.request("/metrics", &[]);
        let host = "127.0.0.1".parse().unwrap();
        request.headers_mut().insert("host", host);
        let metrics = Reply::read(admin.send(request).await.unwrap()).await.body;
        let counts = metrics
            .lines()
            .filter(|l| l.starts_with("palisade_handshakes_refused_total{"))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<usize>().ok());
        counts.sum::<usize>()
    };
    let all = async {
        while refused().await < flood {
            // Its metrics are asked for; nothing tells of them.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(60), all).await;
    all.expect("each of them is counted");
    let recorded = stage.records.failures().len();
    assert!(recorded > 0 && recorded < flood, "{recorded} of {flood}");
}

#[tokio::test]
async fn a_decision_record_says_who_what_and_under_which_versions() {
    let stage = Stage::new().await;
    let mut client = stage.h2().await;
    let reply = client.get("/public/a?b=c", &[]).await;
    let (record, decision) = stage.records.decisions().pop().unwrap();
    assert_eq!(record.reporter, id("ns/shop/sa/orders").as_str());
    assert_eq!(record.mode(), AuditMode::Spool);
    let text = ulid::Ulid::from_bytes(record.id.clone().try_into().unwrap()).to_string();
    assert_eq!(text, reply.header("palisade-decision-id"));
    assert_eq!(decision.verdict(), Verdict::Allow);
    assert_eq!(decision.reason, "permitted");
    let principal = decision.principal.clone().unwrap();
    assert_eq!(principal.spiffe_id, id("ns/shop/sa/web").as_str());
    assert!(!principal.serial.is_empty() && principal.not_after_s > 0);
    assert_eq!(decision.service, "acme.test/shop/orders");
    assert_eq!(
        (decision.method.as_str(), decision.host.as_str()),
        ("GET", "orders")
    );
    assert_eq!(
        (decision.path.as_str(), decision.route.as_str()),
        ("/public/a", "/public/{*rest}")
    );
    assert_eq!(decision.policies, ["p1"]);
    assert_eq!(decision.resource_id, "acme.test/shop/orders/public-rest");
    let versions = decision.versions.unwrap();
    assert_eq!(
        (
            versions.policy_digest.len(),
            versions.policy_sequence,
            versions.kill_list
        ),
        (32, 1, 3)
    );
    assert!(decision.enforced && decision.decision_ns > 0 && decision.source_port > 0);
    assert_eq!(
        (decision.source_ip.as_str(), decision.status),
        ("127.0.0.1", 0)
    );

    let outcome = stage.records.outcome().await;
    assert_eq!((outcome.status, outcome.end()), (200, End::Completed));
    assert_eq!(outcome.bytes_out, reply.body.len() as u64);
    assert_eq!(outcome.upstream, stage.app.address.to_string());
    assert_eq!(outcome.principal, principal.spiffe_id);
}

#[tokio::test]
async fn each_request_leaves_one_decision_and_at_most_one_outcome() {
    for app in [App::start().await, App::start_h2().await] {
        let stage = Stage::with_app(Setting::default(), app).await;
        let mut answers = HashSet::new();
        for client in [&mut stage.h1().await, &mut stage.h2().await] {
            for path in [
                "/public",
                "/admin/x",
                "/other",
                "/undecided",
                "/undeclared",
                "/a%2fb",
            ] {
                let reply = client.get(path, &[]).await;
                answers.insert(reply.header("palisade-decision-id").to_owned());
            }
            for (path, status) in [("/public", 200), ("/admin/x", 403)] {
                let mut head = client.request(path, &[]);
                *head.method_mut() = http::Method::HEAD;
                let reply = Reply::read(client.send(head).await.unwrap()).await;
                assert_eq!((reply.status, reply.body.as_str()), (status, ""));
            }
            assert_eq!(client.post("/public", &[], "body").await.status, 200);
        }
        until("outcomes of the six that passed", || {
            stage.records.outcomes().len() == 6
        })
        .await;
        let decisions = stage.records.decisions();
        assert_eq!((decisions.len(), answers.len()), (18, 12));
        let outcomes = stage.records.outcomes();
        let ids: HashSet<_> = outcomes.iter().map(|(r, _)| r.id.clone()).collect();
        assert_eq!(ids.len(), 6);
        for (record, decision) in &decisions {
            let passed = decision.status == 0;
            assert_eq!(ids.contains(&record.id), passed, "{decision:?}");
        }
        assert!(outcomes.iter().all(|(_, o)| o.end() == End::Completed));
        let posted = outcomes.iter().filter(|(_, o)| o.bytes_in == 4).count();
        assert_eq!(posted, 2);
    }
}

/// T53: a caller that leaves is recorded as gone, in each phase.
#[tokio::test]
async fn an_abort_leaves_an_outcome() {
    let stage = Stage::new().await;
    for path in ["/public/hang", "/public/drip"] {
        let identity = stage.authority.identity("ns/shop/sa/web");
        let mut stream = client::tls(stage.inbound(), &identity, b"http/1.1")
            .await
            .unwrap();
        let before = stage.app.seen().len();
        let request = format!("GET {path} HTTP/1.1\r\nhost: orders\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        until("the application has it", || stage.app.seen().len() > before).await;
        drop(stream);
        let outcome = stage.records.outcome().await;
        assert_eq!(outcome.end(), End::ClientAborted, "{path}");
    }
    let mut client = stage.h2().await;
    let before = stage.records.outcomes().len();
    let request = client.request("/public/drip", &[]);
    let response = client.send(request).await.unwrap();
    drop(response);
    until("the reset is recorded", || {
        stage.records.outcomes().len() > before
    })
    .await;
    assert_eq!(stage.records.outcome().await.end(), End::ClientAborted);
    assert_eq!(client.get("/public", &[]).await.status, 200);
}

#[tokio::test]
async fn a_response_that_takes_too_long_is_ended_and_recorded() {
    let stage = Stage::set(Setting {
        timeout: Duration::from_millis(300),
        ..Setting::default()
    })
    .await;
    let mut client = stage.h2().await;
    let request = client.request("/public/drip", &[]);
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = http_body_util::BodyExt::collect(response.into_body());
    assert!(soon(body).await.is_err());
    let outcome = stage.records.outcome().await;
    assert_eq!((outcome.end(), outcome.status), (End::TimedOut, 200));
}

/// In mode `strict` the record is durable before the application sees anything.
#[tokio::test]
async fn strict_mode_waits_for_the_record() {
    let stage = Stage::set(mode(AuditMode::Strict)).await;
    stage.records.set_durable(None);
    let mut client = stage.h2().await;
    let request = client.request("/public", &[]);
    let asking = tokio::spawn(async move { client.send(request).await.unwrap().status() });
    until("the decision is recorded", || {
        stage.records.decisions().len() == 1
    })
    .await;
    until("it waits until that is durable", || {
        stage.records.asked() == 1
    })
    .await;
    assert!(stage.app.seen().is_empty() && !asking.is_finished());
    stage.records.set_durable(Some(Ok(())));
    assert_eq!(soon(asking).await.unwrap(), 200);
    assert_eq!(stage.app.seen().len(), 1);

    stage
        .records
        .set_durable(Some(Err(SinkError::Io("disk".into()))));
    let reply = stage.h2().await.get("/public", &[]).await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (503, "audit_unavailable")
    );
    assert_eq!(stage.app.seen().len(), 1);
    assert_eq!(stage.records.outcome().await.status, 503);
    // A denial passes nothing on, so it waits for nothing.
    stage.records.set_durable(None);
    assert_eq!(stage.h2().await.get("/admin/x", &[]).await.status, 403);
    stage.records.set_durable(Some(Ok(())));
}

#[tokio::test]
async fn what_cannot_be_recorded_does_not_pass_unless_the_service_says_so() {
    for (audit, status) in [
        (AuditMode::Strict, 503),
        (AuditMode::Spool, 503),
        (AuditMode::Unspecified, 503),
        (AuditMode::BestEffort, 200),
    ] {
        let stage = Stage::set(mode(audit)).await;
        stage.records.set_full(true);
        let reply = stage.h1().await.get("/public", &[]).await;
        assert_eq!(reply.status, status, "{audit:?}");
        assert_eq!(stage.app.seen().is_empty(), status == 503);
    }
}

/// T40 to T42: a handshake without a valid identity ends there, with a reason.
#[tokio::test]
async fn a_refused_handshake_leaves_a_named_reason() {
    use palisade_mesh::{clock::Clock, svid::Identity};
    let stage = Stage::new().await;
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let day = Duration::from_secs(86_400);
    let stranger = super::support::Authority::new();
    let now = time::OffsetDateTime::now_utc();
    let cases = [
        (
            stage.authority.sign(|p| {
                p.subject_alt_names = vec![uri("spiffe://other.test/web")];
            }),
            "wrong_trust_domain",
        ),
        (
            stage.authority.sign(|p| {
                p.subject_alt_names = vec![uri("spiffe://acme.test/web")];
                p.not_before = now - 2 * day;
                p.not_after = now - day;
            }),
            "expired",
        ),
        (
            stage.authority.sign(|p| {
                p.subject_alt_names = vec![uri("spiffe://acme.test/web")];
                p.not_before = now + day;
                p.not_after = now + 2 * day;
            }),
            "not_valid_yet",
        ),
        (
            stage.authority.sign(|p| {
                p.subject_alt_names = vec![uri("spiffe://acme.test/web")];
                p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
            }),
            "missing_usage",
        ),
        (stranger.svid("ns/shop/sa/web", day), "unknown_issuer"),
    ];
    for (svid, reason) in cases {
        let identity = Identity::new(svid, stage.authority.bundle(), Clock::system()).unwrap();
        refused(&stage, &identity, reason).await;
    }
    // Leaves that no `X509Svid` can hold: dressed up as one for the client's side.
    for (sans, reason) in [
        (vec![], "no_uri_san"),
        (
            vec![SanType::DnsName("web.test".try_into().unwrap())],
            "no_uri_san",
        ),
        (
            vec![uri("spiffe://acme.test/a"), uri("spiffe://acme.test/b")],
            "several_uri_sans",
        ),
        (vec![uri("spiffe://acme.test/a/../b")], "not_spiffe"),
        (vec![uri("SPIFFE://acme.test/a")], "not_spiffe"),
        (vec![uri("https://acme.test/a")], "not_spiffe"),
    ] {
        let (chain, key) = stage.authority.sign_raw(|p| p.subject_alt_names = sans);
        let mut svid = stage.authority.svid("ns/shop/sa/web", day);
        (svid.chain, svid.key) = (chain, key);
        let identity = Identity::new(svid, stage.authority.bundle(), Clock::system()).unwrap();
        refused(&stage, &identity, reason).await;
    }
    assert!(stage.records.decisions().is_empty());
    assert_eq!(stage.proxy.counters().requests, 0);
}

async fn refused(stage: &Stage, identity: &palisade_mesh::svid::Identity, reason: &str) {
    let before = stage.records.failures().len();
    let request = b"GET /public HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
    let received = match client::tls(stage.inbound(), identity, b"http/1.1").await {
        Ok(mut stream) => {
            let _ = stream.write_all(request).await;
            let mut received = Vec::new();
            let _ = soon(tokio::io::AsyncReadExt::read_to_end(
                &mut stream,
                &mut received,
            ))
            .await;
            received
        }
        Err(_) => Vec::new(),
    };
    assert!(received.is_empty(), "{reason}");
    until(reason, || stage.records.failures().len() > before).await;
    let failure = stage.records.failures().pop().unwrap();
    assert_eq!(failure.reason, reason, "{}", failure.detail);
    assert_eq!(
        (failure.listener.as_str(), failure.source_ip.as_str()),
        ("inbound", "127.0.0.1")
    );
    let claim = identity.svid().chain.first().map(Claim::of_leaf).unwrap();
    assert_eq!(failure.claimed_id, claim.id, "{reason}");
    assert_eq!(failure.claimed_id.is_empty(), reason == "no_uri_san");
    assert_eq!(failure.serial, claim.serial);
}

/// T47: a handshake that never ends is ended.
#[tokio::test]
async fn a_handshake_has_a_time_limit() {
    let mut setting = Setting::default();
    setting.config.limits.handshake_timeout = Duration::from_millis(200);
    let stage = Stage::set(setting).await;
    let mut stream = tokio::net::TcpStream::connect(stage.inbound())
        .await
        .unwrap();
    stream.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
    let mut end = Vec::new();
    let _ = soon(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut end)).await;
    until("the refusal is recorded", || {
        !stage.records.failures().is_empty()
    })
    .await;
    assert_eq!(stage.records.failures()[0].reason, "handshake_timeout");
    // No TLS at all is a reason of its own; leaving without a word is none.
    let mut stream = tokio::net::TcpStream::connect(stage.inbound())
        .await
        .unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    until("plaintext is recorded", || {
        stage.records.failures().len() == 2
    })
    .await;
    assert_eq!(stage.records.failures()[1].reason, "tls");
    drop(
        tokio::net::TcpStream::connect(stage.inbound())
            .await
            .unwrap(),
    );
    assert_eq!(stage.h1().await.get("/public", &[]).await.status, 200);
    assert_eq!(stage.records.failures().len(), 2);
}
