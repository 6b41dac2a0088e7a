//! Test tables and questions in words.

use super::*;

fn table(text: &str) -> (Vec<tables::Case>, Vec<Diagnostic>, Compiled) {
    let dir = copy();
    fs::remove_dir_all(dir.path().join("tests")).unwrap();
    write(dir.path(), "tests/t.yaml", text);
    let compiled = load(dir.path()).compiled.unwrap();
    let (cases, found) = tables::read(dir.path(), &compiled, NOW_US);
    (cases, found, compiled)
}

#[test]
fn a_failed_case_says_what_was_expected_and_what_came() {
    let (cases, found, compiled) = table(
        "tests:\n  - {name: n, principal: web, requests: [GET orders/orders, POST orders/42/refund], expect: allow, policies: [orders-from-web]}\n  \
         - {name: m, principal: web, request: GET payments/cards, expect: deny}\n  \
         - {name: o, principal: web, request: GET orders/orders, expect: allow, policies: [card-data]}\n",
    );
    assert_eq!(found, []);
    let report = tables::run(&cases, None, &compiled, &mut Reference(compiled.clone()));
    let passed: Vec<_> = report.results.iter().map(|r| r.passed).collect();
    assert_eq!(passed, [true, false, true, false]);
    let failure = report.results[1].failure.as_ref().unwrap();
    assert_eq!(failure.code.0, codes::TEST_FAILED);
    assert_eq!(
        failure.label.as_deref(),
        Some("expected allow, got not_permitted")
    );
    assert_eq!(report.results[1].line, 2);
    let failure = report.results[3].failure.as_ref().unwrap();
    assert_eq!(
        failure.label.as_deref(),
        Some("expected allow by card-data, got allow")
    );
    assert!(
        failure
            .cause
            .as_ref()
            .unwrap()
            .contains("policies/orders.cedar:3")
    );
    assert!(!report.is_success());
    assert!(serde_json::to_value(&report).unwrap()["results"][1]["failure"]["code"] == "PLS2003");
}

#[test]
fn no_selected_test_is_a_failure() {
    let (cases, _, compiled) =
        table("tests:\n  - {principal: web, request: GET orders/orders, expect: allow}\n");
    let mut decider = Reference(compiled.clone());
    let report = tables::run(&cases, Some("nothing like it"), &compiled, &mut decider);
    assert_eq!(report.diagnostics[0].code.0, codes::NO_TESTS);
    assert!(!report.is_success());
    assert!(tables::run(&cases, Some("web"), &compiled, &mut decider).is_success());
}

#[test]
fn mistakes_in_a_table_are_told_where_they_are() {
    let (cases, found, _) = table(
        "tests:\n  - {principal: wep, request: GET orders/orders, expect: allow}\n  - {principal: web, request: GTE orders/orders, expect: allow}\n  \
         - {principal: web, request: GET ordrs/1, expect: allow}\n  - {principal: web, request: GET orders/a%2fb, expect: allow}\n  \
         - {principal: web, request: GET orders/orders, expect: alow}\n  - {principal: web, request: GET orders/orders, expect: allow, policies: [x]}\n  \
         - {principal: web, request: GET orders/orders, expect: allow, context: {headers: {x-chang-id: a}}}\n  - {principal: web, expect: allow}\n  \
         - {principal: web, request: GET orders/orders, expect: allow, context: {now: noon}}\n  - {principal: web, request: GET orders/orders, expect: allow, context: {source: here}}\n",
    );
    let seen: Vec<_> = found
        .iter()
        .map(|d| (d.code.0, d.location.as_ref().unwrap().line))
        .collect();
    assert_eq!(
        seen,
        [
            (codes::TEST_PRINCIPAL, 2),
            (codes::TEST_ACTION, 3),
            (codes::TEST_TARGET, 4),
            (codes::TEST_REQUEST, 5),
            (codes::INVALID_VALUE, 6),
            (codes::TEST_POLICY, 7),
            (codes::TEST_CONTEXT, 8),
            (codes::MISSING_KEY, 9),
            (codes::TEST_CONTEXT, 10),
            (codes::TEST_CONTEXT, 11),
        ]
    );
    assert_eq!(found[0].label.as_deref(), Some("did you mean `web`?"));
    assert_eq!(found[1].label.as_deref(), Some("did you mean `GET`?"));
    assert_eq!(found[2].label.as_deref(), Some("did you mean `orders`?"));
    assert_eq!(
        found[6].label.as_deref(),
        Some("did you mean `x-change-id`?")
    );
    assert_eq!(cases.len(), 1);
}

#[test]
fn a_target_has_many_spellings_and_one_meaning() {
    let compiled = load(&sample()).compiled.unwrap();
    let understood = |principal: &str, verb: &str, target: &str, on: Option<&str>| {
        let ask = Ask {
            principal: principal.into(),
            verb: verb.into(),
            target: target.into(),
            on: on.map(str::to_owned),
            ..Ask::default()
        };
        question(&compiled.catalogue, &ask).map(|q| (q.understood(), q.operation.map(|o| o.name)))
    };
    let refund = (
        "POST http://orders/orders/42/refund".to_owned(),
        Some(SmolStr::new("refund")),
    );
    for (verb, target, on) in [
        ("POST", "orders/42/refund", None),
        ("post", "orders/orders/42/refund", None),
        ("POST", "shop/orders/42/refund", None),
        ("POST", "shop/orders/orders/42/refund", None),
        ("POST", "http://orders:8443/orders/42/refund", None),
        ("POST", "/orders/42/refund", Some("orders")),
        ("POST", "/orders/42/refund", Some("shop/orders")),
        ("orders:refund", "orders/42/refund", None),
    ] {
        for principal in [
            "web",
            "shop/web",
            "ns/shop/sa/web",
            "spiffe://demo.test/ns/shop/sa/web",
        ] {
            assert_eq!(
                understood(principal, verb, target, on).unwrap(),
                refund,
                "{principal} {verb} {target} {on:?}"
            );
        }
    }
    let (text, operation) = understood("web", "orders:refund", "", None).unwrap();
    assert_eq!(
        (text.as_str(), operation.as_deref()),
        ("POST http://orders/orders/id/refund", Some("refund"))
    );
    let (text, operation) = understood("web", "GET", "orders", None).unwrap();
    assert_eq!(
        (text.as_str(), operation.as_deref()),
        ("GET http://orders/orders", Some("list"))
    );
    let (text, operation) = understood("web", "GET", "orders/nothing/here", None).unwrap();
    assert_eq!(
        (text.as_str(), operation),
        ("GET http://orders/nothing/here", None)
    );
    let found = understood("web", "payments:read-cards", "", None).unwrap_err();
    assert_eq!(found[0].code.0, codes::TEST_ACTION);
    assert!(
        found[0]
            .cause
            .as_ref()
            .unwrap()
            .contains("several operations")
    );
    let found = understood("wep", "GTE", "nowhere/x", None).unwrap_err();
    assert_eq!(found.len(), 2);
}

static SAMPLE: std::sync::LazyLock<Compiled> =
    std::sync::LazyLock::new(|| load(&sample()).compiled.expect("compiles"));

proptest::proptest! {
    /// Whatever words are given, they are understood or refused, and what is
    /// understood is spelled in the only way.
    #[test]
    fn words_are_understood_or_refused(
        principal in "(web|shop/|ns/|spiffe://|demo\\.test|/|[a-z%. ]){0,4}",
        verb in "(GET|post|orders:refund|grpc:call|[A-Z:]{0,5})",
        target in "(http://|orders|shop|/|42|refund|\\?|%2e|\\.\\.|\u{e9}|[a-z:@]){0,8}",
        on in proptest::option::of("(orders|shop/orders|[a-z/]{0,6})"),
    ) {
        let ask = Ask { principal, verb, target, on, ..Ask::default() };
        if let Ok(q) = question(&SAMPLE.catalogue, &ask) {
            let path = palisade_mesh::canonical::canonical_path(&q.request.path);
            proptest::prop_assert_eq!(path.as_deref(), Ok(q.request.path.as_str()));
            proptest::prop_assert!(q.service.operations.find(&q.request) == q.operation.as_ref());
        }
    }
}
