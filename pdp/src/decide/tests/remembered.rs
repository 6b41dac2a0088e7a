//! What the engine remembers, what separates answers, and when they end.

use palisade_mesh::decision::{Pins, Verdict};

use super::{
    super::{
        KEY_LEN_MAX, PINS_MAX,
        pinned::Pinned,
        testing::{Ask, BATCH, STRANGER, WEB, snapshot},
    },
    SHOP, decide, get,
};

#[test]
fn only_what_is_read_separates_cached_decisions() {
    let snapshot = snapshot(SHOP);
    let mut engine = snapshot.engine();
    assert!(!decide(&mut engine, &get(WEB)).cached);
    assert!(decide(&mut engine, &get(WEB)).cached);
    let mut other = get(WEB).header("x-roles", b"agent");
    other.connection.source = "192.0.2.1:9".parse().unwrap();
    assert!(decide(&mut engine, &other).cached, "nothing of it is read");
    let path = Ask::new(WEB, "GET", "orders", "/orders/43");
    assert!(!decide(&mut engine, &path).cached, "the path is read");
    let caller = get(BATCH);
    assert!(!decide(&mut engine, &caller).cached);
}

/// One policy for each thing that can be read, and a request in which only that
/// differs: what was remembered for the first must not answer the second.
#[test]
fn each_thing_that_is_read_separates_answers() {
    let check = |condition: &str, change: fn(&mut Ask)| {
        let text =
            format!(r#"@id("p") permit (principal, action, resource) when {{ {condition} }};"#);
        let snapshot = snapshot(&text);
        let mut engine = snapshot.engine();
        let first = get(WEB)
            .header("x-change-id", b"CHG-1")
            .header("x-roles", b"agent");
        let mut second = first.clone();
        change(&mut second);
        let allowed = decide(&mut engine, &first).decision;
        assert_eq!(allowed.verdict, Verdict::Allow, "{condition}");
        let denied = decide(&mut engine, &second).decision;
        assert_eq!(denied.verdict, Verdict::NotPermitted, "{condition}");
        assert_eq!(decide(&mut engine, &first).decision, allowed, "{condition}");
    };
    let network = r#"context.source.ip.isInRange(ip("10.0.0.0/8"))"#;
    check(network, |a| {
        a.connection.source.set_ip([192, 0, 2, 1].into())
    });
    check("context.source.port == 40000", |a| {
        a.connection.source.set_port(1)
    });
    check("context.tls.mtls", |a| a.connection.tls.mtls = false);
    check(r#"context.tls.version == "1.3""#, |a| {
        a.connection.tls.version = "1.2"
    });
    check("!(context.tls has sni)", |a| {
        a.connection.tls.sni = Some("x".into())
    });
    check(r#"context.tls.alpn == "h2""#, |a| {
        a.connection.tls.alpn = Some("x".into())
    });
    check("context.time.hour == 15", |a| a.now_us += 3_600_000_000);
    check("context.time.weekday == 5", |a| a.now_us += 86_400_000_000);
    let before = r#"context.time.now <= datetime("2026-11-20T15:30:00Z")"#;
    check(before, |a| a.now_us += 1_000_000);
    check(r#"context.http.host == "orders""#, |a| {
        a.request.host = "web".into()
    });
    check(r#"context.http.path == "/orders/42""#, |a| {
        a.request.path = "/orders/4".into()
    });
    check("!(context.http has query)", |a| {
        a.request.query = Some("".into())
    });
    check(r#"context.http.headers["x-change-id"] == "CHG-1""#, |a| {
        a.headers.insert("x-change-id", "CHG-2".parse().unwrap());
    });
    check(r#"context.http.headers has "x-roles""#, |a| {
        drop(a.headers.remove("x-roles"))
    });
    let whole = r#"context.tls == {"version": "1.3", "mtls": true, "alpn": "h2"}"#;
    check(whole, |a| a.connection.tls.sni = Some("x".into()));
    let guarded =
        r#"context has http.query && context.http.query == "" || true && context.tls.mtls"#;
    check(guarded, |a| a.connection.tls.mtls = false);
}

#[test]
fn nobody_fills_the_cache_with_identities() {
    let snapshot = snapshot(r#"@id("none") permit (principal is Workload, action, resource);"#);
    let mut engine = snapshot.engine();
    assert!(!decide(&mut engine, &get(STRANGER)).cached);
    for i in 0..50 {
        let caller = format!("spiffe://acme.test/ns/shop/sa/stranger-{i}");
        assert!(decide(&mut engine, &get(&caller)).cached, "{caller}");
    }
}

#[test]
fn an_expired_permit_does_not_exist() {
    let policies = r#"
        @id("late") @expires("2026-11-20T16:00:00Z") permit (principal, action, resource);
        @id("later") @expires("2026-11-20T17:00:00Z") permit (principal, action == Action::"GET", resource);
    "#;
    let us = |time: &str| Some(time.parse::<jiff::Timestamp>().unwrap().as_microsecond());
    let snapshot = snapshot(policies);
    let mut engine = snapshot.engine();
    let mut check = |time: &str, determining: &[&str], until: Option<i64>| {
        let answer = decide(&mut engine, &get(WEB).at(time));
        assert_eq!(answer.decision.determining, determining, "{time}");
        assert_eq!(answer.decision.valid_until_us, until, "{time}");
        answer
    };
    check(
        "2026-11-20T15:59:59.999999Z",
        &["late", "later"],
        us("2026-11-20T16:00:00Z"),
    );
    check(
        "2026-11-20T16:00:00Z",
        &["later"],
        us("2026-11-20T17:00:00Z"),
    );
    let answer = check("2026-11-20T17:00:00Z", &[], None);
    assert_eq!(
        answer.decision.context_json,
        r#"{"decided_us":1795194000000000}"#
    );
    assert!(check("2026-11-20T19:00:00Z", &[], None).cached);
    // A clock that is set back does not get an answer of the future.
    check(
        "2026-11-20T15:00:00Z",
        &["late", "later"],
        us("2026-11-20T16:00:00Z"),
    );
}

#[test]
fn a_clock_that_is_read_ends_the_answer() {
    let check = |condition: &str, until: Option<&str>, again: &str, cached: bool| {
        let policies =
            format!(r#"@id("c") permit (principal, action, resource) when {{ {condition} }};"#);
        let snapshot = snapshot(&policies);
        let mut engine = snapshot.engine();
        let first = decide(&mut engine, &get(WEB).at("2026-11-20T15:30:00.5Z"));
        let until = until.map(|u| u.parse::<jiff::Timestamp>().unwrap().as_microsecond());
        assert_eq!(first.decision.valid_until_us, until, "{condition}");
        let second = decide(&mut engine, &get(WEB).at(again));
        assert_eq!(second.cached, cached, "{condition} at {again}");
    };
    check("true", None, "2030-01-01T00:00:00Z", true);
    let hour = Some("2026-11-20T16:00:00Z");
    check("context.time.hour >= 8", hour, "2026-11-20T15:59:59Z", true);
    check(
        "context.time.hour >= 8",
        hour,
        "2026-11-20T16:00:00Z",
        false,
    );
    // The same hour of another day is another answer: it ends at another moment.
    check(
        "context.time.hour >= 8",
        hour,
        "2026-11-21T15:30:00Z",
        false,
    );
    check(
        "context.time.weekday == 5",
        hour,
        "2026-11-20T15:59:59Z",
        true,
    );
    let now = r#"context.time.now > datetime("2026-01-01")"#;
    let second = Some("2026-11-20T15:30:01Z");
    check(now, second, "2026-11-20T15:30:00.999Z", true);
    check(now, second, "2026-11-20T15:30:01Z", false);
}

/// Where something of the request is read there is nothing to pin; where not, the answer holds
/// for every request of the connection until a clock or an expiry says otherwise.
#[test]
fn what_reads_nothing_of_a_request_is_pinned_to_its_connection() {
    let pinned = |policies: &str| {
        let snapshot = snapshot(policies);
        let (mut engine, mut pins) = (snapshot.engine(), Pins::default());
        get(WEB).ask(&snapshot, |q| engine.decide_on(q, &mut pins));
        pins.of::<Pinned>().len()
    };
    let with = |condition: &str| {
        pinned(&format!(
            r#"@id("c") permit (principal, action, resource) when {{ {condition} }};"#
        ))
    };
    for pin in [
        "true",
        "context.tls.mtls",
        r#"context.tls has sni && context.tls.sni == "orders""#,
        "context.source.port > 1024",
        "context.time.hour >= 8",
    ] {
        assert_eq!(with(pin), 1, "{pin}");
    }
    for read in [
        r#"context.http.path == "/orders/1""#,
        r#"context.http.headers has "x-change-id""#,
        "context.tls.mtls && context.http has query",
    ] {
        assert_eq!(with(read), 0, "{read}");
    }
}

/// A connection that asks for many things keeps the newest of them.
#[test]
fn pins_are_bounded() {
    let snapshot = snapshot(r#"@id("all") permit (principal, action, resource);"#);
    let (mut engine, mut pins) = (snapshot.engine(), Pins::default());
    for round in 0..2 {
        for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"] {
            for (host, path) in [("orders", "/orders"), ("orders", "/x"), ("web", "/")] {
                let ask = Ask::new(WEB, method, host, path);
                let answer = ask.ask(&snapshot, |q| engine.decide_on(q, &mut pins));
                assert!(
                    answer.decision.verdict.is_allow(),
                    "{round} {method} {path}"
                );
                assert!(pins.of::<Pinned>().len() <= PINS_MAX);
            }
        }
    }
    assert_eq!(pins.of::<Pinned>().len(), PINS_MAX);
}

#[test]
fn a_shadow_permit_is_counted_and_not_enforced() {
    let policies = r#"
        @id("try") @mode("shadow") permit (principal, action, resource) when { context.http.path like "/orders/*" };
        @id("now") @mode("shadow") permit (principal, action, resource) when { context.time.now > datetime("2026-01-01") };
        @id("never") @mode("shadow") permit (principal in Group::"quarantine", action, resource);
    "#;
    let snapshot = snapshot(policies);
    let mut engine = snapshot.engine();
    for _ in 0..3 {
        let answer = decide(&mut engine, &get(WEB));
        assert_eq!(answer.decision.verdict, Verdict::NotPermitted);
        assert_eq!(
            answer.decision.valid_until_us, None,
            "shadows do not end connections"
        );
    }
    let counted = snapshot.shadow_matches();
    let counted: Vec<_> = counted.iter().map(|(id, n)| (id.as_str(), *n)).collect();
    assert_eq!(counted, [("never", 0), ("now", 3), ("try", 3)]);
}

#[test]
fn an_overlong_key_is_evaluated_each_time() {
    let snapshot = snapshot(SHOP);
    let mut engine = snapshot.engine();
    let path = |len: usize| Ask::new(WEB, "GET", "orders", &format!("/{}", "p".repeat(len - 1)));
    // Slice number, tag and length take 17 bytes of the key.
    let longest = KEY_LEN_MAX - 17;
    for (len, cached) in [(longest, true), (longest + 1, false)] {
        decide(&mut engine, &path(len));
        assert_eq!(decide(&mut engine, &path(len)).cached, cached, "{len}");
    }
}
