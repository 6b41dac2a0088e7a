//! Paths, targets, hosts and methods (T1 to T19): one reading, or none.

use std::{io::Write, sync::Arc};

use crate::harness::{
    Ask, Door, Expect, Stage, case::refused_head, h1, h2, stage::Setting, upstream::OK,
};

#[test]
fn t1_dot_segments_are_resolved_before_the_decision() {
    let stage = Stage::new();
    for target in ["/public/../admin", "/public/./../admin", "/./admin"] {
        stage.check(&Ask::get(target), &Door::ALL, &Expect::forbidden("/admin"));
    }
}

#[test]
fn t2_slashes_are_merged() {
    let stage = Stage::new();
    for target in ["//admin", "/public//../admin", "///admin"] {
        stage.check(&Ask::get(target), &Door::ALL, &Expect::forbidden("/admin"));
    }
}

#[test]
fn t3_encoded_separators_are_refused() {
    let stage = Stage::new();
    for target in [
        "/public%2f..%2fadmin",
        "/public%2F..%2Fadmin",
        "/public%5c..%5cadmin",
        "/public%5C..%5Cadmin",
    ] {
        let expect = Expect::refused(400, "path_ambiguous");
        stage.check(&Ask::get(target), &Door::ALL, &expect);
    }
}

#[test]
fn t4_encoded_dots_are_dots() {
    let stage = Stage::new();
    for target in ["/public/%2e%2e/admin", "/public/%2E./admin", "/%2e/admin"] {
        stage.check(&Ask::get(target), &Door::ALL, &Expect::forbidden("/admin"));
    }
}

/// Of an escaped escape there are as many readings as decoders on the way.
#[test]
fn t5_double_encoding_is_refused() {
    let stage = Stage::new();
    for target in ["/public/%252e%252e%252fadmin", "/public/%252e%252e/admin"] {
        let expect = Expect::refused(400, "path_ambiguous");
        stage.check(&Ask::get(target), &Door::ALL, &expect);
    }
}

#[test]
fn t6_backslashes_are_refused() {
    let stage = Stage::new();
    let ambiguous = Expect::refused(400, "path_ambiguous");
    for target in ["/public\\..\\admin", "/\\admin"] {
        stage.check(&Ask::get(target), &Door::ALL, &ambiguous);
    }
    stage.check(&Ask::get("\\admin"), &Door::H1, &Expect::malformed());
    stage.check(&Ask::get("\\admin"), &Door::H2, &refused_head());
}

/// A fragment is cut before anything sees the target; a query never takes part in
/// a match and is an attribute of its own.
#[test]
fn t7_fragment_and_query_are_no_part_of_the_path() {
    let stage = Stage::new();
    for target in ["/admin#x", "/admin?x", "/admin?a=/public", "/admin#/public"] {
        stage.check(&Ask::get(target), &Door::ALL, &Expect::forbidden("/admin"));
    }
    for (target, sent) in [
        ("/public#/../admin", "/public"),
        ("/public?x=/../admin", "/public?x=/../admin"),
        ("/public/./a?b=%2e%2e/c", "/public/a?b=%2e%2e/c"),
    ] {
        stage.check(&Ask::get(target), &Door::ALL, &Expect::passes(sent));
    }
    stage.forget();
    stage.ask(Door::InboundH2, &Ask::get("/public?x=1"));
    assert_eq!(stage.asked()[0].query.as_deref(), Some("x=1"));
    let encoded = Expect::forbidden("/admin%23x");
    stage.check(&Ask::get("/admin%23x"), &Door::ALL, &encoded);
}

#[test]
fn t8_wildcards_are_characters() {
    let stage = Stage::new();
    for path in ["/admin*", "/admin/*"] {
        stage.check(&Ask::get(path), &Door::ALL, &Expect::forbidden(path));
    }
    for path in ["/public*", "/public/*/x"] {
        stage.check(&Ask::get(path), &Door::ALL, &Expect::passes(path));
    }
    let other = Expect::not_permitted("/*/admin");
    stage.check(&Ask::get("/*/admin"), &Door::ALL, &other);
}

#[test]
fn t9_a_path_is_never_an_authority() {
    let stage = Stage::new();
    for (target, path) in [
        ("//admin/secret", "/admin/secret"),
        ("//orders/admin", "/orders/admin"),
    ] {
        let expect = match path.starts_with("/admin") {
            true => Expect::forbidden(path),
            false => Expect::not_permitted(path),
        };
        stage.check(&Ask::get(target), &Door::ALL, &expect);
    }
}

#[test]
fn t10_path_parameters_are_refused() {
    let stage = Stage::new();
    for target in ["/admin;x=1/y", "/a;b/admin", "/public;jsessionid=1"] {
        let expect = Expect::refused(400, "path_ambiguous");
        stage.check(&Ask::get(target), &Door::ALL, &expect);
    }
}

#[test]
fn t11_parameters_on_dot_segments_are_refused() {
    let stage = Stage::new();
    for target in ["/public/..;/admin", "/.;/admin", "/public/%2e%2e%3b/admin"] {
        let expect = Expect::refused(400, "path_ambiguous");
        stage.check(&Ask::get(target), &Door::ALL, &expect);
    }
}

/// [`Stage::check`] compares the path that the engine was asked about with the one
/// recorded and the one sent; here it differs from what came.
#[test]
fn t12_router_policy_and_application_see_one_string() {
    let stage = Stage::new();
    for (target, path) in [
        ("/%70ublic/%61", "/public/a"),
        ("/public/caf%c3%a9", "/public/caf%C3%A9"),
        ("/public/a/../b//c/", "/public/b/c/"),
        ("/public/%7e%2D", "/public/~-"),
    ] {
        stage.check(&Ask::get(target), &Door::ALL, &Expect::passes(path));
    }
}

#[test]
fn t13_what_is_no_path_is_refused() {
    let stage = Stage::new();
    let ambiguous = Expect::refused(400, "path_ambiguous");
    for target in [
        "/public/%zz",
        "/public/%",
        "/public/%2",
        "/public/%c0%af",
        "/public/%00",
        "/public/%0d%0a",
        "/../admin",
        "/public/../../admin",
    ] {
        stage.check(&Ask::get(target), &Door::ALL, &ambiguous);
    }
    let raw = Ask::get("/public/caf\u{e9}");
    stage.check(&raw, &Door::ALL, &ambiguous);
    let long = Ask::get(format!("/public/{}", "a".repeat(8 * 1024)));
    let too_long = Expect::refused(414, "target_too_long");
    stage.check(&long, &Door::ALL, &too_long);
    let query = Ask::get(format!("/public?{}", "a".repeat(8 * 1024 + 1)));
    stage.check(&query, &Door::ALL, &too_long);
}

#[test]
fn t14_spellings_of_a_host_are_equal() {
    let stage = Stage::new();
    for host in ["Orders.SHOP.Internal", "orders.shop.internal."] {
        for door in Door::ALL {
            let ask = Ask::get("/public").host(host);
            stage.check(&ask, &[door], &Expect::passes("/public"));
            let decided = stage.records.decisions().remove(0);
            assert_eq!(decided.host, "orders.shop.internal", "{door:?}");
        }
    }
    let unknown = Expect::refused(404, "host_unknown");
    // The A-label of `örders`: not this service, and no kin of it.
    for host in ["xn--rders-kva", "orders.evil", "admin"] {
        stage.check(&Ask::get("/public").host(host), &Door::ALL, &unknown);
    }
    let unicode = Ask::get("/public").host("\u{f6}rders");
    stage.check(&unicode, &Door::H1, &Expect::refused(400, "host_invalid"));
    stage.check(&unicode, &Door::H2, &refused_head());
}

#[test]
fn t15_a_host_is_one_name_without_port_or_user() {
    let stage = Stage::new();
    let ported = Ask::get("/public").host("orders:8443");
    stage.check(&ported, &Door::ALL, &Expect::passes("/public"));
    let conflict = Expect::refused(400, "host_conflict");
    let two = Ask::get("/public").field("host", "web");
    stage.check(&two, &Door::ALL, &conflict);
    let same = Ask::get("/public").field("host", "orders");
    stage.check(&same, &Door::H1, &conflict);
    stage.check(&same, &Door::H2, &Expect::passes("/public"));
    let user = Ask::get("/public").host("a@orders");
    stage.check(&user, &Door::ALL, &Expect::refused(400, "host_invalid"));
    let empty = Ask::get("/public").host("");
    stage.check(&empty, &Door::H1, &Expect::refused(400, "host_missing"));
    stage.check(&empty, &Door::H2, &refused_head());
    for host in ["orders:", "orders:x", "[::1", "or ders"] {
        let ask = Ask::get("/public").host(host);
        stage.check(&ask, &Door::H1, &Expect::refused(400, "host_invalid"));
    }
}

#[test]
fn t16_an_absolute_target_and_host_agree() {
    let stage = Stage::new();
    for (target, expect) in [
        ("http://orders/public", Expect::passes("/public")),
        (
            "http://ORDERS:80/public/../admin",
            Expect::forbidden("/admin"),
        ),
        ("http://orders//admin", Expect::forbidden("/admin")),
        ("http://web/public", Expect::refused(400, "host_conflict")),
        (
            "http://orders@evil/public",
            Expect::refused(400, "host_invalid"),
        ),
    ] {
        stage.check(&Ask::get(target), &Door::H1, &expect);
    }
    let over_h2 = Ask::get("http://orders/public");
    stage.check(&over_h2, &Door::H2, &refused_head());
}

#[test]
fn t17_methods_are_exact() {
    let stage = Stage::new();
    for method in ["get", "PURGE", "TRACE", "GETX"] {
        let expect = Expect::refused(501, "method_unknown");
        stage.check(&Ask::new(method, "/public"), &Door::ALL, &expect);
    }
    // An override is a field like any other, for policy and application alike.
    let named = [("x-http-method-override", "DELETE"), ("x-method", "PUT")];
    let ask = Ask::get("/public").fields(&named);
    stage.check(&ask, &Door::ALL, &Expect::passes("/public").with(&named));
    stage.forget();
    stage.ask(Door::InboundH1, &ask);
    assert_eq!(stage.asked()[0].method, "GET");
}

#[test]
fn t18_targets_without_a_path_are_decided() {
    let stage = Stage::new();
    let all = Ask::new("OPTIONS", "*");
    stage.check(&all, &Door::ALL, &Expect::passes("*"));
    let get = Ask::get("*");
    stage.check(&get, &Door::ALL, &Expect::refused(400, "path_ambiguous"));
    let unknown = Expect::refused(501, "method_unknown");
    let connect = Ask::new("CONNECT", "orders:443");
    stage.check(&connect, &Door::H1, &unknown);
    // Over HTTP/2 it has no target at all.
    for door in Door::H2 {
        stage.forget();
        let mut connection = h2::Connection::open(stage.wire(door));
        let fields = [(":method", "CONNECT"), (":authority", "orders:443")];
        let reply = connection.ask(1, &fields, b"");
        assert_eq!(reply.status, 501, "{reply:?}");
        assert_eq!(stage.seen(), []);
        if door.is_inbound() {
            assert_eq!(stage.decisions(1)[0].reason, "method_unknown");
        }
    }
}

/// An upgrade is a request first: nothing switches before it was allowed.
#[test]
fn t19_an_upgrade_is_authorized_on_its_target() {
    let stage = Stage::set(Setting {
        script: Arc::new(|seen| {
            Some(match seen.field("upgrade") {
                Some(_) => b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\nhello".to_vec(),
                None => OK.to_vec(),
            })
        }),
        ..Setting::default()
    });
    let upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];
    let denied = Ask::get("/public/../admin").fields(&upgrade);
    let mut wire = stage.wire(Door::InboundH1);
    wire.write_all(&denied.h1()).unwrap();
    let bytes = h1::read_to(&mut wire, b"\r\n\r\n");
    assert!(bytes.starts_with(b"HTTP/1.1 403 "), "{bytes:?}");
    assert_eq!(stage.seen(), []);
    let decided = stage.decisions(1).remove(0);
    assert_eq!(
        (decided.path.as_str(), decided.reason.as_str()),
        ("/admin", "forbidden")
    );

    stage.forget();
    let allowed = Ask::get("/public/ws").fields(&upgrade);
    let mut wire = stage.wire(Door::InboundH1);
    wire.write_all(&allowed.h1()).unwrap();
    let received = h1::read_to(&mut wire, b"hello");
    assert!(received.starts_with(b"HTTP/1.1 101 "));
    assert_eq!(stage.seen()[0].target(), "/public/ws");
    assert_eq!(stage.decisions(1)[0].path, "/public/ws");

    // Extended CONNECT (RFC 8441) is decided on its path like any other request.
    stage.forget();
    let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
    let mut fields = h2::pseudo("CONNECT", "/public/../admin");
    fields.push((":protocol", "websocket"));
    let reply = connection.ask(1, &fields, b"");
    assert_eq!((reply.status, reply.reset), (403, None));
    assert_eq!(stage.seen(), []);
    assert_eq!(stage.decisions(1)[0].path, "/admin");

    // And so it is on the calling side's way.
    stage.forget();
    let mut wire = stage.wire(Door::OutboundH1);
    wire.write_all(&denied.h1()).unwrap();
    let bytes = h1::read_to(&mut wire, b"\r\n\r\n");
    assert!(bytes.starts_with(b"HTTP/1.1 403 "), "{bytes:?}");
    assert_eq!(stage.seen(), []);
}
