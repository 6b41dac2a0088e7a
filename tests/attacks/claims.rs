//! Fields that claim an identity (T30 to T34): it comes from TLS alone.

use std::{net::Ipv4Addr, sync::Arc};

use crate::harness::{
    Ask, Door, Expect, Stage, h1,
    h2::{self, DATA},
    policy::WEB,
    stage::{self, Setting},
    wire::Wire,
};

const CLAIMS: [(&str, &str); 12] = [
    ("x-palisade-client-id", "spiffe://demo.test/evil"),
    ("x-palisade-caller", "spiffe://demo.test/evil"),
    ("palisade-decision-id", "forged"),
    ("palisade-refused", "forged"),
    (
        "x-forwarded-client-cert",
        "By=spiffe://demo.test/evil;URI=spiffe://demo.test/evil",
    ),
    ("x-forwarded-for", "10.0.0.1"),
    ("x-forwarded-for", "203.0.113.9"),
    ("x-forwarded-host", "admin"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-uri", "/public"),
    ("x-forwarded-port", "443"),
    ("forwarded", "for=10.0.0.1;host=admin"),
];

/// [`Stage::check`] demands that the application sees our fields and no others.
#[test]
fn t30_claims_are_removed_whoever_makes_them() {
    let stage = Stage::new();
    let ask = Ask::get("/public")
        .fields(&CLAIMS)
        .field("x-ordinary", "kept");
    let expect = Expect::passes("/public").with(&[("x-ordinary", "kept")]);
    stage.check(&ask, &Door::ALL, &expect);
    let denied = Ask::get("/admin").fields(&CLAIMS);
    stage.check(&denied, &Door::ALL, &Expect::forbidden("/admin"));
}

/// No source address is trusted more than another: not loopback, and not an
/// address that a load balancer would have.
#[test]
fn t30_the_source_address_gives_no_right_to_claim() {
    let stage = Stage::new();
    for source in [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 77, 0, 9)] {
        stage.forget();
        let wire = Wire::tls_from(
            source,
            stage.address(Door::InboundH1),
            &stage.caller,
            &stage.server,
        );
        let ask = Ask::get("/public").fields(&CLAIMS);
        let mut wire = wire;
        let reply = h1::exchange(&mut wire, &ask.h1()).remove(0);
        assert_eq!(reply.status, 200);
        let seen = stage.seen().remove(0);
        assert_eq!(
            seen.names(),
            ["host", "palisade-decision-id", "x-forwarded-client-cert"],
            "{source}"
        );
        let caller = stage::id(WEB).to_string();
        assert_eq!(stage.decisions(1)[0].principal, caller, "{source}");
    }
}

#[test]
fn t31_connection_cannot_name_our_fields_away() {
    let stage = Stage::new();
    let named = "close, x-forwarded-client-cert, palisade-decision-id, x-palisade-client-id, x-secret, host, content-length";
    let ask = Ask::new("POST", "/public")
        .field("connection", named)
        .fields(&[("x-secret", "1"), ("x-ordinary", "kept")])
        .body("hello");
    let seen = [("x-ordinary", "kept"), ("content-length", "5")];
    stage.check(&ask, &Door::H1, &Expect::passes("/public").with(&seen));
    // HTTP/2 has no such field (RFC 9113 section 8.2.2).
    let ask = Ask::get("/public").field("connection", "x-forwarded-client-cert");
    stage.check(&ask, &Door::H2, &crate::harness::case::refused_head());
}

#[test]
fn t32_trailers_cannot_repeat_our_fields() {
    let stage = Stage::new();
    let trailers = [
        ("x-palisade-caller", "evil"),
        ("x-forwarded-client-cert", "evil"),
        ("x_forwarded_for", "evil"),
        ("palisade-decision-id", "evil"),
        ("content-length", "evil"),
        ("authorization", "evil"),
        ("x-sum", "kept"),
    ];
    for door in Door::ALL {
        stage.forget();
        let reply = if door.is_h2() {
            let mut connection = h2::Connection::open(stage.wire(door));
            connection.request(1, &h2::pseudo("POST", "/public"), false);
            connection.send(&h2::frame(DATA, 0, 1, b"a"));
            // A trailer with `content-length` is refused by HTTP/2 itself.
            let block: Vec<_> = trailers
                .iter()
                .filter(|(n, _)| *n != "content-length")
                .copied()
                .collect();
            connection.request(1, &block, true);
            connection.reply(1)
        } else {
            let mut text = "POST /public HTTP/1.1\r\nhost: orders\r\nconnection: close\r\ntransfer-encoding: chunked\r\ntrailer: x-sum, x-palisade-caller\r\n\r\n1\r\na\r\n0\r\n".to_owned();
            for (name, value) in trailers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            text.push_str("\r\n");
            h1::exchange(&mut stage.wire(door), text.as_bytes()).remove(0)
        };
        assert_eq!(reply.status, 200, "{door:?}: {reply:?}");
        let seen = stage.seen().remove(0);
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        assert!(seen.complete && !body.contains("evil"), "{door:?}: {body}");
        assert_eq!(
            stage.decisions(1)[0].id,
            seen.field("palisade-decision-id").unwrap()
        );
    }
}

#[test]
fn t33_other_spellings_of_our_fields_are_dropped() {
    let mut setting = Setting::default();
    setting.limits.header_underscores = true;
    let stage = Stage::set(setting);
    let spelled = [
        ("x_palisade_id", "evil"),
        ("x-palisade_id", "evil"),
        ("x_forwarded_for", "evil"),
        ("x-forwarded_client-cert", "evil"),
        ("palisade_decision_id", "evil"),
    ];
    let ask = Ask::get("/public").fields(&spelled);
    stage.check(&ask, &Door::ALL, &Expect::passes("/public"));
    let upper = [
        ("X-Palisade-Id", "evil"),
        ("X_Forwarded_Client_Cert", "evil"),
        ("FORWARDED", "for=evil"),
        ("Palisade-Decision-Id", "evil"),
    ];
    let ask = Ask::get("/public").fields(&upper);
    stage.check(&ask, &Door::H1, &Expect::passes("/public"));
    // HTTP/2 has lower case only (RFC 9113 section 8.2.1).
    stage.check(&ask, &Door::H2, &crate::harness::case::broken_fields());
}

/// What the application says in the name of the mesh does not reach the caller, in
/// fields or trailers; what the mesh says does.
#[test]
fn t34_an_application_cannot_speak_for_the_mesh() {
    let answer = "HTTP/1.1 200 OK\r\npalisade-decision-id: forged\r\npalisade-refused: forged\r\nx-palisade-caller: forged\r\nX_Palisade_Caller: forged\r\nx-ordinary: kept\r\nconnection: x-hop\r\nx-hop: forged\r\ntransfer-encoding: chunked\r\ntrailer: palisade-refused, x-sum\r\n\r\n2\r\nok\r\n0\r\npalisade-refused: forged\r\nx-palisade-caller: forged\r\nx-sum: kept\r\n\r\n";
    let stage = Stage::set(Setting {
        script: Arc::new(move |_| Some(answer.as_bytes().to_vec())),
        ..Setting::default()
    });
    for door in Door::ALL {
        stage.forget();
        let ask = Ask::get("/public").field("te", "trailers");
        let reply = stage.ask(door, &ask);
        let what = format!("{door:?}: {reply:?}");
        assert_eq!(
            (reply.status, reply.body.as_slice()),
            (200, &b"ok"[..]),
            "{what}"
        );
        assert!(!what.contains("forged"), "{what}");
        assert_eq!(reply.field("x-ordinary"), Some("kept"), "{what}");
        let id = reply.field("palisade-decision-id");
        assert_eq!(id, Some(stage.decisions(1)[0].id.as_str()), "{what}");
        if door.is_h2() {
            assert_eq!(reply.trailers, [("x-sum".into(), "kept".into())], "{what}");
        }
    }
}
