//! Request smuggling (T70 to T76): where one request ends there is no doubt, or
//! nothing that follows is believed.

use std::{io::Write, sync::Arc};

use palisade_mesh::wire::record::Verdict;

use crate::harness::{
    Ask, Door, Stage,
    case::refused_head,
    h1,
    h2::{self, DATA, END_STREAM},
    soon,
    stage::Setting,
    upstream::OK,
    wire::Wire,
};

/// What an attacker hides behind a request.
const HIDDEN: &str = "GET /admin/x HTTP/1.1\r\nhost: orders\r\n\r\n";
const UPGRADE: [(&str, &str); 4] = [
    ("connection", "upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-version", "13"),
];

fn post(fields: &str, rest: &str) -> String {
    format!("POST /public HTTP/1.1\r\nhost: orders\r\n{fields}\r\n\r\n{rest}")
}

/// Sends bytes, ends them, and gives the statuses of all answers; nothing of what
/// was hidden may reach the application.
fn statuses(stage: &Stage, door: Door, bytes: &str) -> Vec<u16> {
    stage.forget();
    let mut wire = stage.wire(door);
    let replies = h1::exchange(&mut wire, bytes.as_bytes());
    let seen = stage.upstream.seen();
    assert!(
        seen.iter().all(|s| !s.line.contains("admin")),
        "{door:?} {bytes:?}: {seen:?}"
    );
    replies.iter().map(|r| r.status).collect()
}

/// An upgrade that the application does not take leaves an ordinary connection:
/// what came behind it is a request, decided like any other.
#[test]
fn t70_bytes_behind_an_upgrade_are_held() {
    let stage = Stage::new();
    let mut bytes = Ask::get("/public/ws").fields(&UPGRADE).h1();
    bytes.extend_from_slice(
        HIDDEN
            .replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")
            .as_bytes(),
    );
    let mut wire = stage.wire(Door::InboundH1);
    let replies = h1::exchange(&mut wire, &bytes);
    let found: Vec<u16> = replies.iter().map(|r| r.status).collect();
    assert_eq!(found, [200, 403]);
    let seen = stage.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].behind.is_empty(), "{seen:?}");
    let decided: Vec<String> = stage.decisions(2).into_iter().map(|d| d.path).collect();
    assert_eq!(decided, ["/public/ws", "/admin/x"]);
    // A method that opens a tunnel is unknown; what follows is a request, or nothing.
    for door in Door::H1 {
        let connect = format!(
            "CONNECT orders:443 HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n{HIDDEN}"
        );
        assert_eq!(statuses(&stage, door, &connect), [501], "{door:?}");
        assert_eq!(stage.seen(), []);
    }
}

#[test]
fn t71_only_a_switch_that_was_asked_for_is_a_tunnel() {
    // 200 to an upgrade: see t70. 101 to a request that asked for nothing:
    let stage = Stage::set(Setting {
        script: Arc::new(|_| {
            Some(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_vec())
        }),
        ..Setting::default()
    });
    for door in Door::ALL {
        stage.forget();
        let reply = stage.ask(door, &Ask::get("/public"));
        assert_eq!(reply.status, 502, "{door:?}: {reply:?}");
        assert_eq!(stage.decisions(1)[0].verdict, Verdict::Allow);
        let outcome = soon("the outcome", || stage.records.outcomes().pop()).1;
        assert_eq!(
            (outcome.status, outcome.error.as_str()),
            (502, "upstream_failed"),
            "{door:?}"
        );
    }
}

#[test]
fn t72_ambiguous_lengths_are_refused_and_end_the_connection() {
    let stage = Stage::new();
    let hello = format!("hello{HIDDEN}");
    let chunked = format!("0\r\n\r\n{HIDDEN}");
    for (fields, rest) in [
        ("content-length: +5", &hello),
        ("content-length: 0x5", &hello),
        ("content-length: 5, 6", &hello),
        ("content-length: 5\r\ncontent-length: 6", &hello),
        ("content-length: -1", &hello),
        ("content-length: 99999999999999999999", &hello),
        ("transfer-encoding: identity", &hello),
        ("transfer-encoding: chunked, identity", &hello),
        ("transfer-encoding: gzip", &hello),
        ("transfer-encoding: xchunked", &hello),
        ("transfer-encoding : chunked", &chunked),
        ("transfer-encoding: gzip, chunked", &chunked),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            &chunked,
        ),
        ("transfer-encoding: chunked, chunked", &chunked),
    ] {
        for door in Door::H1 {
            let found = statuses(&stage, door, &post(fields, rest));
            assert_eq!(found, [400], "{door:?} {fields}");
            assert_eq!(stage.seen(), [], "{door:?} {fields}");
            if door.is_inbound() {
                let decided = stage.decisions(1);
                assert_eq!(decided.len(), 1, "{decided:?}");
                assert_eq!(decided[0].verdict, Verdict::Refused);
                let reason = decided[0].reason.as_str();
                assert!(
                    matches!(reason, "malformed" | "transfer_coding"),
                    "{fields}: {reason}"
                );
            }
        }
    }
    for door in Door::H1 {
        let old = format!(
            "POST /public HTTP/1.0\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n{chunked}"
        );
        assert_eq!(statuses(&stage, door, &old), [400], "{door:?}");
    }
}

/// One request goes in, one comes out, and nothing behind it is read.
#[test]
fn t72_a_length_beside_chunked_is_dropped_and_the_connection_closed() {
    let stage = Stage::new();
    for fields in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
        "content-length: 4\r\nTransfer-Encoding:\tchunked",
    ] {
        for door in Door::H1 {
            let bytes = post(fields, &format!("2\r\nhi\r\n0\r\n\r\n{HIDDEN}"));
            assert_eq!(statuses(&stage, door, &bytes), [200], "{door:?} {fields}");
            let seen = stage.seen();
            assert_eq!(seen.len(), 1, "{seen:?}");
            assert_eq!(
                seen[0].all("content-length"),
                Vec::<&[u8]>::new(),
                "{seen:?}"
            );
            assert_eq!(seen[0].body, b"2\r\nhi\r\n0\r\n\r\n", "{seen:?}");
            assert!(seen[0].behind.is_empty());
            assert_eq!(stage.decisions(1).len(), 1);
        }
    }
    // Equal lengths are one length.
    for fields in [
        "content-length: 5\r\ncontent-length: 5",
        "content-length: 5, 5",
    ] {
        for door in Door::H1 {
            let bytes = post(&format!("{fields}\r\nconnection: close"), "hello");
            let found = statuses(&stage, door, &bytes);
            let seen = stage.seen();
            match found[..] {
                [200] => assert_eq!(
                    (seen.len(), seen[0].field("content-length")),
                    (1, Some("5"))
                ),
                [400] => assert_eq!(seen, []),
                _ => panic!("{door:?} {fields}: {found:?}"),
            }
        }
    }
}

#[test]
fn t73_broken_chunks_pass_nothing_on() {
    let stage = Stage::new();
    for body in [
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n".to_owned(),
        "-5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "5\r\nhelloX0\r\n\r\n".to_owned(),
        "5 x\r\nhello\r\n0\r\n\r\n".to_owned(),
        format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1 << 20)),
    ] {
        for door in Door::H1 {
            stage.forget();
            let bytes = post("transfer-encoding: chunked\r\nconnection: close", &body);
            let mut wire = stage.wire(door);
            let _ = wire.write_all(bytes.as_bytes());
            let (received, closed) = wire.read_to_close();
            let what = format!("{door:?} {:?}", &body[..10]);
            assert!(closed && !received.starts_with(b"HTTP/1.1 200"), "{what}");
            let outcome = soon("the outcome", || stage.records.outcomes().pop()).1;
            assert_ne!(outcome.status, 200, "{what}");
            if door.is_inbound() {
                assert_eq!(outcome.error, "body_malformed", "{what}");
            }
            assert!(stage.seen().iter().all(|s| !s.complete), "{what}");
        }
    }
}

#[test]
fn t74_an_unread_body_is_not_the_next_request() {
    let stage = Stage::new();
    let length = HIDDEN.len();
    for door in Door::H1 {
        let get = format!(
            "GET /public HTTP/1.1\r\nhost: orders\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{HIDDEN}"
        );
        stage.forget();
        let replies = h1::exchange(&mut stage.wire(door), get.as_bytes());
        assert_eq!((replies.len(), replies[0].status), (1, 200), "{door:?}");
        let seen = stage.seen();
        assert_eq!(
            (seen.len(), seen[0].body.as_slice()),
            (1, HIDDEN.as_bytes()),
            "{door:?}"
        );
        assert_eq!(stage.decisions(1).len(), 1);
        // Denied, so that nobody reads the body; then the connection is used again.
        let denied = format!(
            "POST /other HTTP/1.1\r\nhost: orders\r\ncontent-length: {length}\r\n\r\n{HIDDEN}GET /public HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n"
        );
        let found = statuses(&stage, door, &denied);
        assert!(found == [403, 200] || found == [403], "{door:?}: {found:?}");
        let paths: Vec<String> = stage.decisions(1).into_iter().map(|d| d.path).collect();
        assert!(
            !paths.iter().any(|p| p.contains("admin")),
            "{door:?}: {paths:?}"
        );
    }
    // An application that answers before it has read the body.
    let stage = Stage::set(Setting {
        script: Arc::new(|seen| (seen.target() == "/public").then(|| OK.to_vec())),
        ..Setting::default()
    });
    for door in Door::H1 {
        let two = format!(
            "POST /public HTTP/1.1\r\nhost: orders\r\ncontent-length: {length}\r\n\r\n{HIDDEN}GET /public HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(statuses(&stage, door, &two), [200, 200], "{door:?}");
        assert_eq!(stage.seen().len(), 2);
    }
}

#[test]
fn t75_http2_keeps_its_own_framing() {
    let stage = Stage::new();
    let path = |path| h2::pseudo("GET", path);
    let with = |extra: &[(&'static str, &'static str)]| {
        let mut fields = path("/public");
        fields.extend_from_slice(extra);
        fields
    };
    let mut late = vec![("x-first", "1")];
    late.extend(path("/public"));
    let mut twice = path("/public");
    twice.insert(0, (":path", "/admin"));
    for fields in [
        with(&[("transfer-encoding", "chunked")]),
        with(&[("connection", "close")]),
        with(&[("keep-alive", "1")]),
        with(&[("upgrade", "websocket")]),
        with(&[("te", "gzip")]),
        with(&[("X-Upper", "1")]),
        with(&[(":status", "200")]),
        with(&[(":unknown", "1")]),
        path(""),
        late,
        twice,
        path("/public")[1..].to_vec(),
        path("/public")[..3].to_vec(),
    ] {
        for door in Door::H2 {
            stage.forget();
            let mut connection = h2::Connection::open(stage.wire(door));
            let reply = connection.ask(1, &fields, b"");
            let what = format!("{door:?} {fields:?}: {reply:?}");
            assert_eq!(reply.status, 0, "{what}");
            assert_eq!((stage.seen(), stage.asked()), (vec![], vec![]), "{what}");
            if door.is_inbound() {
                let decided = stage.decisions(1).remove(0);
                let known = [refused_head().reason, "http2_violation"];
                assert!(
                    known.contains(&decided.reason.as_str()),
                    "{what}: {decided:?}"
                );
                assert_eq!(decided.verdict, Verdict::Refused, "{what}");
            }
        }
    }
    // A length that the body does not keep: the application never sees a whole one.
    for length in ["2", "9", "+5", "5, 5"] {
        for door in Door::H2 {
            stage.forget();
            let mut fields = h2::pseudo("POST", "/public");
            fields.push(("content-length", length));
            let mut connection = h2::Connection::open(stage.wire(door));
            connection.request(1, &fields, false);
            connection.send(&h2::frame(DATA, END_STREAM, 1, b"hello"));
            let reply = connection.reply(1);
            let what = format!("{door:?} {length}: {reply:?}");
            assert_ne!(reply.status, 200, "{what}");
            assert!(stage.seen().iter().all(|s| !s.complete), "{what}");
            if door.is_inbound() {
                assert_eq!(stage.decisions(1).len(), 1, "{what}");
            }
        }
    }
}

/// Nobody in front of us speaks the PROXY protocol: its bytes are no TLS and no HTTP.
#[test]
fn t76_a_proxy_header_is_not_believed() {
    let stage = Stage::new();
    let v1 = b"PROXY TCP4 203.0.113.9 10.0.0.1 4444 443\r\n".to_vec();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
    v2.extend_from_slice(&[7; 400]);
    for header in [v1, v2] {
        stage.forget();
        let mut wire = Wire::plain(stage.address(Door::InboundH1));
        let _ = wire.write_all(&header);
        let (_, closed) = wire.read_to_close();
        assert!(closed);
        let failure = soon("the refused handshake", || stage.records.failures().pop());
        assert_eq!(
            (failure.reason.as_str(), failure.source_ip.as_str()),
            ("tls", "127.0.0.1")
        );
        let mut wire = Wire::plain(stage.address(Door::OutboundH1));
        let request = b"GET /public HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
        let replies = h1::exchange(&mut wire, &[&header[..], request].concat());
        assert_eq!((replies.len(), replies[0].status), (1, 400), "{replies:?}");
        assert_eq!(stage.seen(), []);
    }
}
