//! Header fields (T20 to T24): every value counts, none has two readings.

use palisade_mesh::wire::record::Verdict;

use crate::harness::{
    Ask, Door, Expect, Reply, Stage,
    case::{broken_fields, refused_head},
    h1, h2, hpack,
    stage::Setting,
};

#[test]
fn t20_a_forbid_sees_every_value() {
    let stage = Stage::new();
    let banned = Expect::forbidden("/public");
    for values in [
        &["banned"][..],
        &["reader", "banned"],
        &["banned", "reader"],
        &["reader, banned"],
        &["reader,banned,x"],
        &["", "banned"],
    ] {
        let pairs: Vec<_> = values.iter().map(|v| ("x-role", *v)).collect();
        let ask = Ask::get("/public").fields(&pairs);
        stage.check(&ask, &Door::ALL, &banned);
    }
    let mixed = Ask::get("/public").fields(&[("x-role", "reader"), ("X-Role", "banned")]);
    stage.check(&mixed, &Door::H1, &banned);
    // A field declared `single` has one value or none.
    let twice = Ask::get("/public").fields(&[("x-tenant", "good"), ("x-tenant", "evil")]);
    stage.check(&twice, &Door::ALL, &Expect::refused(400, "header_repeated"));
    let evil = Ask::get("/public").field("x-tenant", "evil");
    stage.check(&evil, &Door::ALL, &banned);
    let plain = [("x-role", "reader"), ("x-tenant", "good")];
    let ask = Ask::get("/public").fields(&plain);
    stage.check(&ask, &Door::ALL, &Expect::passes("/public").with(&plain));
}

/// Sends one field as bytes through a door.
fn send(stage: &Stage, door: Door, name: &[u8], value: &[u8]) -> Reply {
    if door.is_h2() {
        let mut block = h2::block(&h2::pseudo("GET", "/public"));
        hpack::literal(&mut block, name, value);
        let mut connection = h2::Connection::open(stage.wire(door));
        connection.head(1, &block, true);
        return connection.reply(1);
    }
    let mut bytes = b"GET /public HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n".to_vec();
    bytes.extend_from_slice(&[name, b": ", value, b"\r\n\r\n"].concat());
    h1::exchange(&mut stage.wire(door), &bytes).remove(0)
}

/// Bytes above ASCII reach the application as they came; a policy that reads such a
/// field cannot decide, and then nothing passes.
#[test]
fn t21_bytes_above_ascii_never_skip_a_rule() {
    let stage = Stage::new();
    for door in Door::ALL {
        for (name, value) in [("x-latin", &b"caf\xe9"[..]), ("cookie", b"a=\x80\xff")] {
            stage.forget();
            let reply = send(&stage, door, name.as_bytes(), value);
            assert_eq!(reply.status, 200, "{door:?} {name}: {reply:?}");
            assert_eq!(stage.seen()[0].all(name), [value], "{door:?}");
        }
        for value in [&b"banned\xff"[..], b"\xff, banned"] {
            stage.forget();
            let reply = send(&stage, door, b"x-role", value);
            assert_eq!(reply.status, 503, "{door:?}: {reply:?}");
            let decided = stage.decisions(1).remove(0);
            assert_eq!(
                (decided.verdict, stage.seen()),
                (Verdict::Undecided, vec![]),
                "{door:?}: {decided:?}"
            );
        }
    }
}

#[test]
fn t22_bytes_that_break_a_field_are_refused() {
    let stage = Stage::new();
    for (name, value) in [
        (&b"x-nul"[..], &b"a\0b"[..]),
        (b"x-cr", b"a\rb"),
        (b"x-fold", b"a\r\n b"),
        (b" x-space", b"a"),
        (b"x space", b"a"),
        (b"x-colon ", b"a"),
        (b"x:colon", b"a\x01"),
        (b"", b"a"),
    ] {
        for door in Door::ALL {
            stage.forget();
            let reply = send(&stage, door, name, value);
            let what = format!("{door:?} {name:?} {value:?}: {reply:?}");
            assert_eq!((stage.seen(), stage.asked()), (vec![], vec![]), "{what}");
            let (status, reason) = match door.is_h2() {
                true => (0, broken_fields().reason),
                false => (400, "malformed"),
            };
            assert_eq!(reply.status, status, "{what}");
            if door.is_inbound() {
                let decided = stage.decisions(1).remove(0);
                assert_eq!(
                    (decided.verdict, decided.reason.as_str()),
                    (Verdict::Refused, reason),
                    "{what}"
                );
            }
        }
    }
    // A bare LF ends a line, as RFC 9112 section 2.2 allows: two fields, no more.
    for door in Door::H1 {
        stage.forget();
        let reply = send(&stage, door, b"x-lf", b"a\nx-role: banned");
        assert_eq!(reply.status, 403, "{door:?}: {reply:?}");
    }
}

#[test]
fn t23_names_with_an_underscore_are_refused() {
    let stage = Stage::new();
    for name in ["x_palisade_id", "user_id", "x_role"] {
        let ask = Ask::get("/public").field(name, "banned");
        stage.check(&ask, &Door::ALL, &Expect::refused(400, "header_underscore"));
    }
    // Where they are accepted, no spelling of what policies read gets through.
    let mut setting = Setting::default();
    setting.limits.header_underscores = true;
    let stage = Stage::set(setting);
    let ask = Ask::get("/public").fields(&[("user_id", "1"), ("x_role", "banned")]);
    stage.check(
        &ask,
        &Door::ALL,
        &Expect::passes("/public").with(&[("user_id", "1")]),
    );
}

#[test]
fn t24_heads_are_bounded() {
    let stage = Stage::new();
    let many = |n| {
        let names: Vec<String> = (0..n).map(|i| format!("x-{i}")).collect();
        let pairs: Vec<_> = names.iter().map(|n| (n.as_str(), "1")).collect();
        Ask::get("/public").fields(&pairs)
    };
    let too_large = Expect::refused(431, "head_too_large");
    for n in [101, 1000] {
        stage.check(&many(n), &Door::ALL, &too_large);
    }
    for size in [65 * 1024, 100 * 1000] {
        let ask = Ask::get("/public").field("cookie", &"a".repeat(size));
        stage.check(&ask, &Door::H1, &too_large);
        for door in Door::H2 {
            stage.forget();
            let reply = stage.ask(door, &ask);
            assert_eq!(reply.status, 431, "{door:?}: {reply:?}");
            assert_eq!((stage.seen(), stage.asked()), (vec![], vec![]));
            if door.is_inbound() {
                assert_eq!(stage.decisions(1)[0].reason, refused_head().reason);
            }
        }
    }
    let fits = "a".repeat(60_000);
    let ask = Ask::get("/public").field("cookie", &fits);
    stage.check(
        &ask,
        &Door::ALL,
        &Expect::passes("/public").with(&[("cookie", &fits)]),
    );
}
