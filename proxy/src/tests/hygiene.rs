//! Headers (T20 to T34): identity comes from TLS alone.

use super::support::{App, Setting, Stage, id};

const CLAIMS: &[(&str, &str)] = &[
    ("x-palisade-caller", "spiffe://acme.test/evil"),
    ("x_palisade_caller", "spiffe://acme.test/evil"),
    ("palisade-decision-id", "forged"),
    ("x-forwarded-client-cert", "URI=spiffe://acme.test/evil"),
    ("x_forwarded_client_cert", "URI=spiffe://acme.test/evil"),
    ("x-forwarded-for", "10.0.0.1"),
    ("x-forwarded-proto", "https"),
    ("forwarded", "for=10.0.0.1"),
    ("X-Forwarded-Host", "evil.test"),
];

async fn check(stage: &Stage) {
    for client in [&mut stage.h1().await, &mut stage.h2().await] {
        let mut fields = CLAIMS.to_vec();
        fields.extend([("x-ordinary", "kept"), ("user_id", "kept")]);
        let reply = client.get("/public", &fields).await;
        assert_eq!(reply.status, 200);
        let seen = stage.app.last().headers;
        let claimed = seen.values().any(|v| {
            let v = String::from_utf8_lossy(v.as_bytes());
            v.contains("evil") || v.contains("10.0.0.1") || v == "forged" || v == "https"
        });
        assert!(!claimed, "{seen:?}");
        assert_eq!(
            (&seen["x-ordinary"], &seen["user_id"]),
            (&"kept".parse().unwrap(), &"kept".parse().unwrap())
        );
        let cert = seen["x-forwarded-client-cert"].to_str().unwrap();
        let (by, uri) = (id("ns/shop/sa/orders"), id("ns/shop/sa/web"));
        assert!(
            cert.starts_with(&format!("By={by};Hash=")) && cert.ends_with(&format!(";URI={uri}")),
            "{cert}"
        );
        assert_eq!(
            seen["palisade-decision-id"].to_str().unwrap(),
            reply.header("palisade-decision-id")
        );
        assert_eq!(seen.get_all("x-forwarded-client-cert").iter().count(), 1);
    }
}

/// T30, T33.
#[tokio::test]
async fn claims_of_identity_are_overwritten() {
    let accepting = || {
        let mut setting = Setting::default();
        setting.config.limits.header_underscores = true;
        setting
    };
    check(&Stage::set(accepting()).await).await;
    check(&Stage::with_app(accepting(), App::start_h2().await).await).await;
}

/// T31: `Connection` cannot remove what we set.
#[tokio::test]
async fn connection_cannot_remove_our_headers() {
    let stage = Stage::new().await;
    let named = "close, x-forwarded-client-cert, palisade-decision-id, x-secret, host";
    let reply = stage
        .h1()
        .await
        .get("/public", &[("connection", named), ("x-secret", "1")])
        .await;
    assert_eq!(reply.status, 200);
    let seen = stage.app.last().headers;
    assert!(
        seen.contains_key("x-forwarded-client-cert") && seen.contains_key("palisade-decision-id")
    );
    assert!(!seen.contains_key("x-secret"));
    assert_eq!(seen["host"], "orders");
}

/// T32.
#[tokio::test]
async fn trailers_cannot_repeat_a_managed_header() {
    let stage = Stage::new().await;
    let request = "POST /public HTTP/1.1\r\nhost: orders\r\nconnection: close\r\ntransfer-encoding: chunked\r\ntrailer: x-palisade-caller, x-sum\r\n\r\n1\r\na\r\n0\r\nx-palisade-caller: evil\r\nx_forwarded_for: evil\r\nx-sum: 1\r\n\r\n";
    assert_eq!(stage.raw(request).await.status, 200);
    let seen = stage.app.last();
    assert_eq!(seen.body, "a");
    assert!(
        !seen.trailers.values().any(|v| v == "evil"),
        "{:?}",
        seen.trailers
    );
}

/// T34.
#[tokio::test]
async fn an_application_cannot_speak_for_the_mesh() {
    let stage = Stage::new().await;
    let reply = stage.h2().await.get("/public/impostor", &[]).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "impostor"));
    assert!(
        !reply.headers.values().any(|v| v == "forged"),
        "{:?}",
        reply.headers
    );
    assert_eq!(reply.header("x-ordinary"), "kept");
    assert_eq!(
        reply.headers.get_all("palisade-decision-id").iter().count(),
        1
    );
}

#[tokio::test]
async fn a_valid_trace_is_passed_on_and_recorded() {
    let stage = Stage::new().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut client = stage.h2().await;
    client
        .get("/public", &[("traceparent", trace), ("tracestate", "a=b")])
        .await;
    let seen = stage.app.last().headers;
    assert_eq!(
        (&seen["traceparent"], &seen["tracestate"]),
        (&trace.parse().unwrap(), &"a=b".parse().unwrap())
    );
    let decision = stage.records.decision();
    assert_eq!((decision.trace_id.len(), decision.span_id[0]), (16, 0xb7));
    client
        .get(
            "/public",
            &[("traceparent", "garbage"), ("tracestate", "a=b")],
        )
        .await;
    assert!(!stage.app.last().headers.contains_key("traceparent"));
    assert!(stage.records.decision().trace_id.is_empty());
}

/// T21, T22: bytes that a field may or may not hold.
#[tokio::test]
async fn odd_bytes_in_fields_are_passed_or_refused_but_never_misread() {
    let stage = Stage::new().await;
    let request = |field: &[u8]| {
        let mut bytes = b"GET /public HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n".to_vec();
        bytes.extend_from_slice(field);
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes
    };
    for (field, status) in [
        (&b"x-latin: caf\xe9"[..], 200),
        (b"cookie: a=\xff", 200),
        (b"x-nul: a\0b", 400),
        (b"x-cr: a\rb", 400),
        (b" x-space: a", 400),
        (b"x space: a", 400),
        (b"x-colon : a", 400),
        (b"x-fold: a\r\n b", 400),
        (b"no-colon", 400),
    ] {
        let reply = stage.raw(request(field)).await;
        assert_eq!(reply.status, status, "{:?}", String::from_utf8_lossy(field));
    }
    assert_eq!(stage.records.decision().reason, "malformed");
}

/// T24.
#[tokio::test]
async fn heads_are_bounded() {
    let mut setting = Setting::default();
    setting.config.limits.header_count = 50;
    let stage = Stage::set(setting).await;
    let request = |fields: String| {
        format!("GET /public HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n{fields}\r\n")
    };
    let many = |n| (0..n).map(|i| format!("x-{i}: 1\r\n")).collect::<String>();
    assert_eq!(stage.raw(request(many(48))).await.status, 200);
    assert_eq!(stage.raw(request(many(49))).await.status, 431);
    assert_eq!(stage.raw(request(many(1000))).await.status, 431);
    let large = |n| format!("cookie: {}\r\n", "a".repeat(n));
    assert_eq!(stage.raw(request(large(60_000))).await.status, 200);
    assert_eq!(stage.raw(request(large(66_000))).await.status, 431);
    assert_eq!(stage.raw(request(large(100_000))).await.status, 431);
    assert_eq!(stage.records.decision().status, 431);
    let mut client = stage.h2().await;
    let cookie = "a".repeat(100_000);
    assert_eq!(
        client.get("/public", &[("cookie", &cookie)]).await.status,
        431
    );
    let names: Vec<String> = (0..60).map(|i| format!("x-{i}")).collect();
    let fields: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "1")).collect();
    assert_eq!(stage.h2().await.get("/public", &fields).await.status, 431);
}
