//! Random conditions. Most of what can go wrong between what a policy is thought to
//! read and what it reads lies in records that are used as a whole, in any place where a value may
//! stand; so these are common here, and some of them are equal to what a request has.

use proptest::{prelude::*, sample::select};

/// Some of them err for some requests; that is the point.
const ATOMS: [&str; 34] = [
    "true",
    "false",
    "context.tls.mtls",
    r#"context.tls.version == "1.3""#,
    "context.tls has sni",
    r#"context.tls.sni == "orders""#,
    "context.time.hour >= 16",
    "context.time.weekday == 5",
    r#"context.time.now > datetime("2026-11-20T15:45:00Z")"#,
    r#"context.source.ip.isInRange(ip("10.0.0.0/8"))"#,
    "context.source.port + 9223372036854735807 > 0",
    r#"context.http.path like "/orders/*""#,
    "context has http.query",
    r#"context.http.query == "q""#,
    r#"context.http.headers has "x-change-id""#,
    r#"context.http.headers["x-change-id"] like "CHG-*""#,
    r#"context.http.headers["x-roles"].contains("agent")"#,
    r#"context.http.headers == {"x-change-id": "CHG-1"}"#,
    "context has grpc",
    "context has grpc.method",
    r#"context.grpc.method == "Reserve""#,
    "context has user",
    "context == {}",
    r#"principal.trustDomain == TrustDomain::"acme.test""#,
    r#"principal has service && principal.service == Service::"acme.test/shop/web""#,
    r#"principal.hasTag("env") && principal.getTag("env") == "prod""#,
    r#"principal in [Group::"ops", Namespace::"acme.test/shop"]"#,
    r#"principal in Group::"missing""#,
    r#"Group::"missing" has name"#,
    r#"Service::"missing".hasTag("env")"#,
    r#"resource in principal.service"#,
    r#"[principal].contains(Unregistered::"spiffe://acme.test/ns/shop/sa/stranger")"#,
    r#"Unregistered::"spiffe://acme.test/ns/shop/sa/stranger" in TrustDomain::"acme.test""#,
    r#"User::"nobody".issuer == "x""#,
];
/// Things that have attributes.
const RECORDS: [&str; 24] = [
    "context",
    "context",
    "context",
    "context.tls",
    "context.tls",
    "context.http",
    "context.http",
    "context.grpc",
    "context.grpc",
    "context.source",
    "context.time",
    "context.http.headers",
    r#"context["http"]["headers"]"#,
    "{}",
    r#"{"version": "1.3", "mtls": true, "alpn": "h2"}"#,
    r#"{"service": "shop.v1.Stock", "method": "Reserve"}"#,
    r#"{"ip": ip("10.1.2.3"), "port": 40000}"#,
    r#"{"hour": 15, "now": context.time.now, "weekday": 5}"#,
    r#"{"source": context.source, "tls": context.tls, "time": context.time, "http": context.http}"#,
    r#"{"source": context.source, "tls": context.tls, "time": context.time, "grpc": context.grpc}"#,
    "principal",
    "resource",
    "principal.trustDomain",
    r#"Unregistered::"spiffe://acme.test/ns/shop/sa/stranger""#,
];
const ATTRIBUTES: [&str; 21] = [
    "tls",
    "http",
    "grpc",
    "source",
    "user",
    "jwt",
    "mtls",
    "sni",
    "query",
    "method",
    "headers",
    "trustDomain",
    "service",
    "r",
    "tls.sni",
    "tls.version",
    "http.query",
    "http.headers",
    "grpc.method",
    "r.tls.alpn",
    r#""x-change-id""#,
];
const VALUES: [&str; 18] = [
    "context.http.path",
    "context.http.method",
    "context.http.query",
    "context.http.headers[\"x-roles\"]",
    "context.grpc.method",
    "context.grpc.service",
    "context.tls.alpn",
    "context.source.ip",
    "context.source.port",
    "context.time.hour",
    "context.time.now",
    r#""Reserve""#,
    r#""POST""#,
    r#""env""#,
    "15",
    r#"["viewer", "agent"]"#,
    r#"ip("10.1.2.3")"#,
    "[]",
];
/// How often expressions are put into each other.
const LEVELS: usize = 3;

type Text = BoxedStrategy<String>;

/// Strategies for what is meant to be a boolean, something with attributes, anything.
struct Level {
    test: Text,
    record: Text,
    value: Text,
}

/// The inside of a `when` or `unless`.
pub(super) fn condition() -> Text {
    let mut level = Level {
        test: one_of(&ATOMS),
        record: one_of(&RECORDS),
        value: one_of(&VALUES),
    };
    for _ in 0..LEVELS {
        level = level.deeper();
    }
    level.test
}

impl Level {
    fn deeper(self) -> Self {
        let (t, r, v) = (&self.test, &self.record, &self.value);
        let has = (r.clone(), one_of(&ATTRIBUTES)).prop_map(|(r, a)| format!("({r}) has {a}"));
        let whole = prop_oneof![
            two(r, r, "({}) == ({})"),
            two(r, v, "({}) != ({})"),
            two(v, r, "[{}].contains({})"),
            two(r, r, "[{}, {}].containsAll([context.tls, context])"),
            two(r, v, "[{}].containsAny([{}, {}])"),
            two(r, r, "({}).contains({})"),
            has,
        ];
        let parts = prop_oneof![
            one(r, "({}).mtls"),
            one(r, "({}).tls.mtls"),
            one(r, r#"({}).method == "Reserve""#),
            one(r, r#"({}).path like "/orders/*""#),
            one(r, r#"({}).ip.isInRange(ip("10.0.0.0/8"))"#),
            one(r, r#"({})["x-change-id"] == "CHG-1""#),
        ];
        let odd = prop_oneof![
            two(r, r, "({}) in ({})"),
            one(r, "({}) is Workload"),
            two(r, v, "({}).hasTag({})"),
            one(v, r#"({}) like "R*""#),
            one(v, "ip({}).isLoopback()"),
            one(v, "({}).isEmpty()"),
            two(v, v, "({}) < ({})"),
            two(v, v, "({}) == ({})"),
        ];
        let logic = prop_oneof![
            two(t, t, "({}) && ({})"),
            two(t, t, "({}) || ({})"),
            one(t, "!({})"),
            three(t, t, t),
        ];
        Self {
            test: prop_oneof![3 => t.clone(), 3 => logic, 3 => whole, 2 => parts, 1 => odd].boxed(),
            record: prop_oneof![
                6 => r.clone(),
                1 => three(t, r, r),
                1 => one(r, r#"{"r": {}}"#),
                1 => one(r, r#"{"r": {}}.r"#),
                1 => one(r, "({}).tls"),
                1 => one(r, r#"({})["http"]"#),
                1 => two(v, t, r#"{"method": {}, "mtls": ({})}"#),
            ]
            .boxed(),
            value: prop_oneof![
                3 => v.clone(),
                3 => r.clone(),
                1 => t.clone().prop_map(|t| format!("({t})")),
                1 => two(v, v, "[{}, {}]"),
                1 => three(t, v, v),
                1 => one(r, "({}).method"),
                1 => one(v, "principal.getTag({})"),
            ]
            .boxed(),
        }
    }
}

fn one_of(texts: &'static [&'static str]) -> Text {
    select(texts).prop_map(str::to_owned).boxed()
}

/// `template` with its first `{}` filled in; the braces of an empty record are behind it.
fn filled(template: &str, text: &str) -> String {
    template.replacen("{}", text, 1)
}

fn one(inner: &Text, template: &'static str) -> Text {
    inner.clone().prop_map(|a| filled(template, &a)).boxed()
}

/// As many gaps as there are; the second text goes into all but the first.
fn two(first: &Text, second: &Text, template: &'static str) -> Text {
    let (head, tail) = template.split_at(template.find("{}").expect("a gap") + 2);
    (first.clone(), second.clone())
        .prop_map(move |(a, b)| filled(head, &a) + &tail.replace("{}", &b))
        .boxed()
}

fn three(test: &Text, yes: &Text, no: &Text) -> Text {
    (test.clone(), yes.clone(), no.clone())
        .prop_map(|(a, b, c)| format!("(if {a} then {b} else {c})"))
        .boxed()
}
