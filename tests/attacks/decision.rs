//! Decisions (T51, T61 to T64): no answer is no permission, what is empty matches
//! nobody, and what looks like a pattern is a name.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use palisade_mesh::wire::record::Verdict;

use crate::{
    guarded::{Guarded, Setting, WEB, of_class, request, status},
    harness::{Ask, Door, Expect, Stage, h1},
    support::{free_port, http},
};

const PUBLIC: &str = "GET /public/x HTTP/1.1\r\nhost: orders";

/// A PDP that does `what` with every connection.
fn pdp(what: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || what(stream));
        }
    });
    address
}

fn hold(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

fn reset(stream: TcpStream) {
    // Closing with unread bytes resets the connection.
    let _ = stream.peek(&mut [0]);
}

fn babble(mut stream: TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\ngarbage");
    hold(stream);
}

fn half_of_tls(mut stream: TcpStream) {
    let _ = stream.write_all(&[0x16, 0x03, 0x03, 0x40, 0x00, 0x02]);
    hold(stream);
}

#[test]
fn t51_a_pdp_that_is_gone_or_talks_nonsense_permits_nothing() {
    let addresses = [
        free_port(),
        pdp(hold),
        pdp(reset),
        pdp(babble),
        pdp(half_of_tls),
    ];
    for address in addresses {
        let guarded = Guarded::set(&Setting {
            pdp: Some(address),
            ..Setting::default()
        });
        let config = Guarded::config(&guarded.authority.leaf(WEB), &[]);
        for _ in 0..2 {
            let answer = guarded.raw(&config, &request(PUBLIC)).unwrap();
            assert_eq!(status(&answer), 503, "{answer}");
            let head = answer.to_ascii_lowercase();
            assert!(head.contains("\r\nretry-after: "), "{answer}");
            assert!(
                head.contains("\r\npalisade-refused: no_snapshot\r\n"),
                "{answer}"
            );
        }
        let ready = guarded.admin("GET", "/readyz");
        assert_eq!(
            (ready.status, ready.body.as_str()),
            (503, "no policy snapshot\n")
        );
        assert_eq!(guarded.app.seen(), [""; 0]);
        let (rows, ..) = guarded.end();
        let decisions = of_class(&rows, "decision");
        assert_eq!(decisions.len(), 2);
        for row in decisions {
            assert_eq!(row.text("decision"), Some("undecided"));
            assert_eq!(row.text("reason"), Some("no_snapshot"));
        }
    }
}

/// The decisions that a list of requests of the web service leaves, and how many of
/// them the application saw.
fn decided(files: &[(&str, String)], heads: &[&str]) -> (Vec<(u16, String)>, usize) {
    let guarded = Guarded::set(&Setting {
        files,
        ..Setting::default()
    });
    let statuses: Vec<u16> = heads.iter().map(|head| guarded.status(head)).collect();
    let seen = guarded.app.seen().len();
    let (rows, ..) = guarded.end();
    let reasons = of_class(&rows, "decision");
    let reasons = reasons.iter().map(|r| r.text("reason").unwrap().to_owned());
    (statuses.into_iter().zip(reasons).collect(), seen)
}

fn pairs(expected: &[(u16, &str)]) -> Vec<(u16, String)> {
    expected
        .iter()
        .map(|(s, r)| (*s, (*r).to_owned()))
        .collect()
}

#[test]
fn t61_a_forbid_beside_the_default_deny_is_a_deny() {
    let (told, seen) = decided(
        &[],
        &[
            PUBLIC,
            "GET /admin/x HTTP/1.1\r\nhost: orders",
            "GET /elsewhere HTTP/1.1\r\nhost: orders",
        ],
    );
    let expected = [(200, "permitted"), (403, "forbidden"), (403, "no_permit")];
    assert_eq!(told, pairs(&expected));
    assert_eq!(seen, 1);
}

#[test]
fn t62_what_is_empty_or_absent_never_widens_access() {
    let policy = "@id(\"nobody\")\npermit (principal in Group::\"nobody\", action, resource);\n\n@id(\"tenant\")\npermit (principal, action, resource) when { context has http && context.http has headers && context.http.headers has \"x-tenant\" && context.http.headers[\"x-tenant\"] == \"a\" };\n";
    let files = [
        ("policies/shop.cedar", policy.to_owned()),
        (
            "entities/groups.yaml",
            "groups:\n  nobody:\n    services: []\n".to_owned(),
        ),
    ];
    let (told, seen) = decided(
        &files,
        &[
            PUBLIC,
            "GET /public/x HTTP/1.1\r\nhost: orders\r\nx-tenant: ",
            "GET /public/x HTTP/1.1\r\nhost: orders\r\nx-tenant: *",
            "GET /public/x HTTP/1.1\r\nhost: orders\r\nx-tenant: a",
        ],
    );
    let none = (403, "no_permit");
    assert_eq!(told, pairs(&[none, none, none, (200, "permitted")]));
    assert_eq!(seen, 1);
}

#[test]
fn t63_names_with_the_signs_of_patterns_are_names() {
    let service = "service: shop/orders\nidentities: [ns/shop/sa/orders]\nhosts: [orders.shop]\noperations:\n  - { name: file, match: \"GET /files/a.b\" }\n  - { name: star, match: \"GET /files/*\" }\n";
    let policy = "@id(\"files\")\npermit (principal in Service::\"acme.test/shop/web\", action, resource in Service::\"acme.test/shop/orders\");\n";
    let files = [
        ("services/orders.yaml", service.to_owned()),
        ("policies/shop.cedar", policy.to_owned()),
    ];
    let (told, seen) = decided(
        &files,
        &[
            "GET /files/a.b HTTP/1.1\r\nhost: orders.shop",
            "GET /files/aXb HTTP/1.1\r\nhost: orders.shop",
            "GET /files/* HTTP/1.1\r\nhost: orders.shop",
            "GET /files/a.b HTTP/1.1\r\nhost: ordersXshop",
            "GET /files/a.b HTTP/1.1\r\nhost: *",
        ],
    );
    let expected = [
        (200, "permitted"),
        (404, "operation_unknown"),
        (200, "permitted"),
        (404, "host_unknown"),
        (400, "host_invalid"),
    ];
    let told: Vec<_> = told.iter().map(|(s, r)| (*s, r.as_str())).collect();
    assert_eq!(told, expected);
    assert_eq!(seen, 2);
}

/// Ports that are not the service's: whatever name or address a request carries, it
/// goes to the one application that is configured, or nowhere.
#[test]
fn t64_no_request_reaches_a_port_that_is_not_the_application_s() {
    let guarded = Guarded::start();
    let admin = guarded.admin;
    for host in [
        format!("{admin}"),
        "localhost:15021".into(),
        "[::1]:22".into(),
    ] {
        for target in ["/public/x".to_owned(), format!("http://{host}/public/x")] {
            let head = format!("GET {target} HTTP/1.1\r\nhost: {host}");
            assert_eq!(guarded.status(&head), 404, "{head}");
        }
        let mut out = http::connect(guarded.outbound).unwrap();
        out.write_all(&request(&format!("GET /metrics HTTP/1.1\r\nhost: {host}")))
            .unwrap();
        let mut answer = Vec::new();
        let _ = out.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(status_is_refusal(&answer), "{answer}");
    }
    let connect = guarded.status(&format!("CONNECT {admin} HTTP/1.1\r\nhost: {admin}"));
    assert_eq!(connect, 501);
    assert_eq!(guarded.app.seen(), [""; 0]);
    let (rows, ..) = guarded.end();
    let decisions = of_class(&rows, "decision");
    assert_eq!(decisions.len(), 7);
    for row in decisions {
        assert_eq!(row.text("decision"), Some("refused"));
    }
}

fn status_is_refusal(answer: &str) -> bool {
    matches!(status(answer), 400 | 404 | 502 | 503)
        && answer
            .to_ascii_lowercase()
            .contains("\r\npalisade-refused: ")
}

/// A refusal of the destination, undecided here, is told on and nothing else: no
/// second attempt, and nobody is taken for broken because of it.
#[test]
fn t105_our_own_refusals_are_neither_retried_nor_held_against_anybody() {
    const TIMES: usize = 20;
    let stage = Stage::new();
    for _ in 0..TIMES {
        let mut wire = stage.wire(Door::OutboundH1);
        let bytes = b"GET /public HTTP/1.1\r\nhost: orders\r\nx-role: banned\xff\r\nconnection: close\r\n\r\n";
        let reply = h1::exchange(&mut wire, bytes).remove(0);
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.field("palisade-refused").is_some(), "{reply:?}");
        assert!(reply.field("retry-after").is_some(), "{reply:?}");
    }
    let decided = stage.decisions(TIMES);
    assert_eq!(decided.len(), TIMES);
    assert!(decided.iter().all(|d| d.verdict == Verdict::Undecided));
    assert!(stage.seen().is_empty());
    stage.forget();
    stage.check(&Ask::get("/public"), &Door::ALL, &Expect::passes("/public"));
}
