//! Framing (T72 to T75): one request goes in, one goes out, or none.

use super::support::{Stage, client};

fn post(fields: &str, body: &str) -> String {
    format!("POST /public HTTP/1.1\r\nhost: orders\r\n{fields}\r\n\r\n{body}")
}

/// Sends a request with a smuggled one behind it; neither may reach the
/// application as `/admin`, and no answer to a second request may come back.
async fn check(stage: &Stage, request: &str, statuses: &[u16]) {
    let before = stage.app.seen().len();
    let identity = stage.authority.identity("ns/shop/sa/web");
    let received = client::raw_bytes(stage.inbound(), &identity, request.as_bytes()).await;
    let text = String::from_utf8_lossy(&received);
    let found: Vec<u16> = text
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|r| r[..3].parse().unwrap())
        .collect();
    assert_eq!(found, statuses, "{request:?} -> {text}");
    let seen = stage.app.seen();
    let passed = statuses.iter().filter(|s| **s == 200).count();
    assert_eq!(seen.len() - before, passed, "{request:?}");
    assert!(seen.iter().all(|s| !s.target.contains("admin")), "{seen:?}");
}

#[tokio::test]
async fn ambiguous_lengths_end_the_connection() {
    let stage = Stage::new().await;
    for fields in [
        "content-length: +5",
        "content-length: 0x5",
        "content-length: 5, 6",
        "content-length: 5\r\ncontent-length: 6",
        "content-length: -1",
        "content-length: 99999999999999999999",
        "transfer-encoding: identity",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: gzip",
    ] {
        check(&stage, &post(fields, "hello"), &[400]).await;
    }
    let old =
        "POST /public HTTP/1.0\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    check(&stage, old, &[400]).await;
    for fields in [
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked, chunked",
    ] {
        check(&stage, &post(fields, "0\r\n\r\n"), &[400]).await;
    }
}

/// hyper takes the chunked body, drops the length, and closes.
#[tokio::test]
async fn length_beside_chunked_is_normalised_and_the_connection_closed() {
    let stage = Stage::new().await;
    let hidden = "GET /admin/x HTTP/1.1\r\nhost: orders\r\n\r\n";
    for fields in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
    ] {
        let request = post(fields, &format!("0\r\n\r\n{hidden}"));
        check(&stage, &request, &[200]).await;
        let seen = stage.app.last();
        let framed = seen.headers.contains_key("content-length");
        assert!(!framed || seen.headers["content-length"] == "0");
        assert_eq!(seen.body, "");
    }
    let same = "content-length: 5\r\ncontent-length: 5\r\nconnection: close";
    check(&stage, &post(same, "hello"), &[200]).await;
}

/// T73.
#[tokio::test]
async fn broken_chunks_pass_nothing_on() {
    let stage = Stage::new().await;
    let identity = stage.authority.identity("ns/shop/sa/web");
    let chunked = "transfer-encoding: chunked\r\nconnection: close";
    for body in [
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n".to_owned(),
        "-5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "5\r\nhelloX0\r\n\r\n".to_owned(),
        "5 x\r\nhello\r\n0\r\n\r\n".to_owned(),
        format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1 << 20)),
    ] {
        let request = post(chunked, &body);
        let received = client::raw_bytes(stage.inbound(), &identity, request.as_bytes()).await;
        assert!(!received.starts_with(b"HTTP/1.1 200"), "{:?}", &body[..20]);
    }
    assert!(stage.app.seen().iter().all(|s| s.body == "(aborted)"));
    let outcomes = stage.records.outcomes();
    assert!(
        outcomes.iter().all(|(_, o)| o.error == "body_malformed"),
        "{outcomes:?}"
    );
}

/// T74: a body nobody read is not the next request.
#[tokio::test]
async fn an_unread_body_is_not_the_next_request() {
    let stage = Stage::new().await;
    let hidden = "GET /admin/x HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
    let get = format!(
        "GET /public HTTP/1.1\r\nhost: orders\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{hidden}",
        hidden.len()
    );
    check(&stage, &get, &[200]).await;
    assert_eq!(stage.app.last().body, hidden);
    let denied = format!(
        "POST /other HTTP/1.1\r\nhost: orders\r\ncontent-length: {}\r\n\r\n{hidden}GET /public HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n",
        hidden.len()
    );
    let identity = stage.authority.identity("ns/shop/sa/web");
    let received = client::raw_bytes(stage.inbound(), &identity, denied.as_bytes()).await;
    let text = String::from_utf8_lossy(&received);
    assert!(text.starts_with("HTTP/1.1 403"), "{text}");
    assert!(stage.app.seen().iter().all(|s| !s.target.contains("admin")));
}

/// T75: what HTTP/2 forbids never becomes an HTTP/1.1 request.
#[tokio::test]
async fn http2_keeps_its_own_framing() {
    let stage = Stage::new().await;
    let mut client = stage.h2().await;
    for length in ["2", "9", "+5", "5, 5"] {
        let mut request = client.request("/public", &[("content-length", length)]);
        *request.method_mut() = http::Method::POST;
        *request.body_mut() = "hello".to_owned().into();
        assert!(client.send(request).await.is_err(), "{length}");
    }
    assert_eq!(client.get("/public", &[]).await.status, 200);
    let bodies: Vec<_> = stage.app.seen().into_iter().map(|s| s.body).collect();
    assert!(!bodies.iter().any(|b| b == "hello"), "{bodies:?}");
}
