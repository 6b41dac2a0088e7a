//! Policies that use whole records of the context, of either protocol: a record is
//! never more or less than the request has.

use palisade_mesh::decision::{Undecided, Verdict};

use super::{
    super::testing::{Ask, FOREIGNER, STRANGER, WEB, snapshot},
    decide, get, once,
};

const ALL: &str = r#"@id("all") permit (principal, action, resource);"#;

fn call() -> Ask {
    Ask::new(WEB, "POST", "inventory", "/shop.v1.Stock/Reserve")
}

/// A `forbid` beside a permit for everything comes out as `expected`.
fn check(condition: &str, ask: &Ask, expected: Verdict) {
    let policies =
        format!(r#"{ALL} @id("no") forbid (principal, action, resource) when {{ {condition} }};"#);
    assert_eq!(once(&policies, ask).verdict, expected, "{condition}");
}

/// Both records have a `method`. What the HTTP request says about itself once stood in for what
/// the gRPC call says, as soon as some policy in scope used the whole context.
#[test]
fn a_call_keeps_its_method_when_the_whole_context_is_used() {
    let forbidden = Verdict::Forbidden;
    for whole in [
        "(if context == {} then true else context.tls.mtls)",
        "context != {}",
        "![context].contains({})",
        "(if context.tls.mtls then context else {}) has tls",
        "{\"c\": context}.c.tls.mtls",
    ] {
        check(
            &format!(r#"context.grpc.method == "Reserve" && {whole}"#),
            &call(),
            forbidden,
        );
    }
    let record = r#"context.grpc == {"service": "shop.v1.Stock", "method": "Reserve"}"#;
    check(record, &call(), forbidden);
    check(&format!("context != {{}} && {record}"), &call(), forbidden);
    let again = r#"context == {"source": context.source, "tls": context.tls, "time": context.time,
        "grpc": {"service": "shop.v1.Stock", "method": "Reserve"}}"#;
    check(again, &call(), forbidden);
    // Of two policies, one may be the cause that the other is misled.
    let policies = format!(
        r#"{ALL} @id("whole") forbid (principal, action, resource) when {{ context == {{}} }};
           @id("call") forbid (principal, action, resource)
             when {{ context has grpc && context.grpc.method == "Reserve" }};"#
    );
    assert_eq!(once(&policies, &call()).determining, ["call"]);
}

/// What the other protocol's record would hold is not there, so nothing can be wrong with it.
#[test]
fn the_other_protocol_makes_nothing_undecided() {
    check("context == {}", &get(WEB), Verdict::Allow);
    check("context != {}", &get(WEB), Verdict::Forbidden);
    check("context has grpc.method", &get(WEB), Verdict::Allow);
    check("context has http.query", &call(), Verdict::Allow);
    let odd = call().header("x-change-id", b"\xff");
    check("context == {}", &odd, Verdict::Allow);
    check("context has http.headers", &odd, Verdict::Allow);
    // A value of the request's own protocol can be.
    let odd = get(WEB).header("x-change-id", b"\xff");
    check(
        "context == {}",
        &odd,
        Verdict::Undecided(Undecided::NotEncodable),
    );
    // To ask for what cannot be there without testing for it is an error of the policy.
    let errs = Verdict::Undecided(Undecided::ForbidErrored);
    check(r#"context.grpc.method == "Reserve""#, &get(WEB), errs);
    check(r#"context.http.path like "/*""#, &call(), errs);
}

/// What is remembered and recorded is what the request has.
#[test]
fn the_whole_context_separates_answers_and_is_recorded_as_it_is() {
    let text = format!(
        r#"{ALL} @id("no") forbid (principal, action, resource) when {{ context == {{}} }};"#
    );
    let snapshot = snapshot(&text);
    let mut engine = snapshot.engine();
    let recorded = decide(&mut engine, &call()).decision.context_json.clone();
    let expected = concat!(
        r#"{"grpc":{"method":"Reserve","service":"shop.v1.Stock"},"jwt":null,"#,
        r#""source":{"ip":"10.1.2.3","port":40000},"#,
        r#""time":{"hour":15,"now":"2026-11-20T15:30:00Z","weekday":5},"#,
        r#""tls":{"alpn":"h2","mtls":true,"sni":null,"version":"1.3"},"user":null}"#,
    );
    assert_eq!(recorded, expected);
    assert!(decide(&mut engine, &call()).cached);
    // A gRPC context has no headers and no query: they separate nothing.
    assert!(decide(&mut engine, &call().header("x-change-id", b"1")).cached);
    let mut other = call();
    other.connection.source.set_port(1);
    assert!(!decide(&mut engine, &other).cached);
}

/// A stranger whom a policy names is known by his name, also when another one asks.
#[test]
fn a_named_stranger_is_known_whoever_asks() {
    let is_in = format!(r#"Unregistered::"{STRANGER}" in TrustDomain::"acme.test""#);
    let domain = format!(r#"Unregistered::"{STRANGER}".trustDomain == TrustDomain::"acme.test""#);
    let tested = format!(r#"Unregistered::"{STRANGER}" has trustDomain"#);
    for condition in [is_in, domain, tested] {
        for caller in [WEB, STRANGER, FOREIGNER] {
            check(&condition, &get(caller), Verdict::Forbidden);
        }
    }
}
