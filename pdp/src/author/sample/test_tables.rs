//! Test tables and questions in words.

use super::*;

fn table(text: &str) -> (Vec<tables::Case>, Vec<Diagnostic>, Compiled) {
    let (_dir, cases, found, compiled) = tables_of(&[("tests/t.yaml", text)]);
    (cases, found, compiled)
}

/// The sample with these files in place of its tests.
fn tables_of(
    files: &[(&str, &str)],
) -> (
    tempfile::TempDir,
    Vec<tables::Case>,
    Vec<Diagnostic>,
    Compiled,
) {
    let dir = copy();
    fs::remove_dir_all(dir.path().join("tests")).unwrap();
    for (path, text) in files {
        write(dir.path(), path, text);
    }
    let compiled = load(dir.path()).compiled.unwrap();
    let (cases, found) = tables::read(dir.path(), &compiled, NOW_US);
    (dir, cases, found, compiled)
}

/// Three lists, and their product: each is a case, told by what it asks, and counts for coverage.
#[test]
fn every_principal_asks_every_action_of_every_resource() {
    let row = "tests:\n  - principals: [web, reports]\n    actions: [GET, PUT]\n    resources: [orders/orders, orders/42]\n    expect: EXPECT\n";
    let (cases, found, compiled) = table(&row.replace("EXPECT", "deny"));
    assert_eq!(found, []);
    let asked: Vec<String> = cases
        .iter()
        .map(|c| format!("{} {}", c.principal, c.request))
        .collect();
    assert_eq!(
        asked,
        [
            "web GET orders/orders",
            "web GET orders/42",
            "web PUT orders/orders",
            "web PUT orders/42",
            "reports GET orders/orders",
            "reports GET orders/42",
            "reports PUT orders/orders",
            "reports PUT orders/42",
        ]
    );
    let mut engines = tables::Engines::new(compiled.clone(), &cases, true).unwrap();
    let report = tables::run(&cases, None, Trace::None, &compiled, &mut engines);
    let passed: Vec<bool> = report.results.iter().map(|r| r.passed).collect();
    // The shop reads both, the reports the list alone; nobody writes.
    assert_eq!(
        passed,
        [false, false, true, true, false, true, true, true],
        "{report:#?}"
    );
    let coverage = engines.coverage().unwrap();
    let decided = |id: &str| {
        let policy = coverage.policies.iter().find(|p| p.id == id);
        policy.unwrap().decided
    };
    assert_eq!(decided("orders-from-web"), 2);
    assert_eq!(decided("orders-list-for-reports"), 1);

    let one = "tests:\n  - {principal: web, action: GET, resource: orders/orders, expect: allow}\n";
    assert_eq!(table(one).0.len(), 1);
    let both = "tests:\n  - {principal: web, request: GET orders/42, action: GET, resource: orders/orders, expect: allow}\n";
    assert_eq!(table(both).0.len(), 2);
    for (lacking, key) in [
        ("actions: [GET]", "`resource`"),
        ("resource: orders/orders", "`action`"),
        ("actions: [GET], resources: []", "`resource`"),
        ("requests: []", "`request`"),
    ] {
        let text = format!("tests:\n  - {{principal: web, {lacking}, expect: allow}}\n");
        let (cases, found, _) = table(&text);
        assert_eq!((cases.len(), found.len()), (0, 1), "{lacking}: {found:#?}");
        assert_eq!(found[0].code.0, codes::MISSING_KEY);
        assert!(found[0].message.contains(key), "{lacking}: {found:#?}");
    }
}

const FIXTURES: &str = "principals:\n  readers: [web, reports]\n  gone: nobody\ncontexts:\n  night: { now: 2026-11-20T23:00:00Z, source: 10.0.0.7 }\n  broken: { nwo: x }\nentities:\n  web-handles-cards:\n    groups: { card-handlers: { services: [shop/web] } }\n  wrong:\n    groups: { card-handlers: { services: [shop/wbe] } }\n";

#[test]
fn fixtures_stand_for_callers_contexts_and_entities() {
    let table = "fixtures: fixtures/f.yaml\ntests:\n  - {principal: readers, request: GET inventory/stock, context: night, expect: allow}\n  \
         - {principal: web, request: GET payments/cards, entities: web-handles-cards, expect: not_permitted}\n  \
         - {principal: web, request: GET payments/cards, expect: forbidden, policies: [card-data]}\n  \
         - {principal: web, request: GET inventory/stock, context: {mtls: false}, expect: forbidden, policies: [require-mtls]}\n";
    let (_dir, cases, found, compiled) =
        tables_of(&[("tests/t.yaml", table), ("tests/fixtures/f.yaml", FIXTURES)]);
    assert_eq!(found, []);
    let names: Vec<&str> = cases.iter().map(|c| c.principal.as_str()).collect();
    assert_eq!(
        names,
        ["readers (web)", "readers (reports)", "web", "web", "web"]
    );
    assert_eq!(
        cases[0].question.connection.source.to_string(),
        "10.0.0.7:40000"
    );
    let mut engines = tables::Engines::new(compiled.clone(), &cases, false).unwrap();
    let report = tables::run(&cases, None, Trace::None, &compiled, &mut engines);
    assert!(report.is_success(), "{report:#?}");
}

#[test]
fn mistakes_about_fixtures_are_told_where_they_are() {
    let table = "fixtures: [fixtures/f.yaml, fixtures/g.yaml]\ntests:\n  - {principal: gone, request: GET orders/orders, expect: allow}\n  \
         - {principal: web, request: GET orders/orders, context: nigt, expect: allow}\n  \
         - {principal: web, request: GET orders/orders, entities: web-handle-cards, expect: allow}\n  \
         - {principal: web, request: GET orders/orders, context: broken, expect: allow}\n  \
         - {principal: web, request: GET orders/orders, entities: wrong, expect: allow}\n";
    let (_dir, cases, found, _) =
        tables_of(&[("tests/t.yaml", table), ("tests/fixtures/f.yaml", FIXTURES)]);
    assert_eq!(cases.len(), 1, "an unknown key does not take its row away");
    let seen: Vec<_> = found
        .iter()
        .map(|d| {
            let at = d.location.as_ref().unwrap();
            (
                d.code.0,
                &*at.file,
                at.line,
                d.label.as_deref().unwrap_or_default(),
            )
        })
        .collect();
    let fixtures = "tests/fixtures/f.yaml";
    assert_eq!(
        seen,
        [
            (
                codes::TEST_FIXTURE,
                "tests/t.yaml",
                1,
                "did you mean `fixtures/f.yaml`?"
            ),
            (codes::TEST_PRINCIPAL, "tests/t.yaml", 3, ""),
            (
                codes::TEST_FIXTURE,
                "tests/t.yaml",
                4,
                "did you mean `night`?"
            ),
            (
                codes::TEST_FIXTURE,
                "tests/t.yaml",
                5,
                "did you mean `web-handles-cards`?"
            ),
            (codes::UNKNOWN_KEY, fixtures, 6, "did you mean `now`?"),
            (
                codes::UNKNOWN_MEMBER,
                fixtures,
                11,
                "did you mean `shop/web`?"
            ),
        ]
    );
}

/// Both sides of each clause, and what decided nothing.
#[test]
fn coverage_counts_policies_and_both_sides_of_clauses() {
    let row = |who: &str, expect: &str| {
        format!("  - {{principal: {who}, request: GET payments/cards, expect: {expect}}}\n")
    };
    let stranger = "spiffe://evil.test/ns/shop/sa/web";
    let of = |rows: &[String]| {
        let (_dir, cases, found, compiled) =
            tables_of(&[("tests/t.yaml", &format!("tests:\n{}", rows.concat()))]);
        assert_eq!(found, []);
        let mut engines = tables::Engines::new(compiled.clone(), &cases, true).unwrap();
        tables::run(&cases, None, Trace::None, &compiled, &mut engines);
        engines.coverage().unwrap()
    };
    let one = |coverage: &tables::Coverage, id: &str| {
        let policy = coverage
            .policies
            .iter()
            .find(|p| p.id == id)
            .unwrap()
            .clone();
        let clause = policy
            .clauses
            .first()
            .map(|c| (c.seen_true, c.seen_false, c.lack()));
        (policy.decided, clause, policy.is_whole())
    };
    let some = of(&[row("web", "forbidden")]);
    assert_eq!(
        one(&some, "card-data"),
        (1, Some((0, 1, Some("never true"))), false)
    );
    assert_eq!(
        one(&some, "own-trust-domain"),
        (0, Some((1, 0, Some("never false"))), false)
    );
    assert_eq!(
        one(&some, "inventory-read"),
        (0, Some((0, 0, Some("never seen"))), false)
    );
    assert_eq!(one(&some, "payments-charge-from-orders"), (0, None, false));
    let more = of(&[
        row("web", "forbidden"),
        row("payments", "not_permitted"),
        row(stranger, "forbidden"),
    ]);
    assert_eq!(one(&more, "card-data"), (2, Some((1, 2, None)), true));
    assert_eq!(
        one(&more, "own-trust-domain"),
        (1, Some((2, 1, None)), true)
    );
    assert!(more.percent() > some.percent() && more.percent() < 100);
}

#[test]
fn a_trace_says_what_each_clause_saw_and_where_entities_are_declared() {
    let (cases, _, compiled) = table(
        "tests:\n  - {principal: web, request: GET payments/cards, expect: allow}\n  \
         - {principal: web, request: GET orders/orders, expect: allow}\n",
    );
    let mut engines = tables::Engines::new(compiled.clone(), &cases, false).unwrap();
    let report = tables::run(&cases, None, Trace::Failed, &compiled, &mut engines);
    assert!(report.results[1].trace.is_none(), "it passed");
    let trace = report.results[0].trace.as_ref().unwrap();
    let clause = &trace.determining[0].clauses[0];
    assert_eq!(clause.text, "principal in Group::\"card-handlers\"");
    let places = Places::of(&compiled).named_in(&clause.text);
    assert_eq!(
        places,
        [
            "Group::\"card-handlers\" entities/groups.yaml:3, has shop/payments (entities/groups.yaml:4)"
        ]
    );
    let all = tables::run(&cases, None, Trace::All, &compiled, &mut engines);
    assert!(all.results.iter().all(|r| r.trace.is_some()));
}

/// Only rows that are as expected and decided by the same policies throughout; every
/// other byte stays.
#[test]
fn determining_policies_are_written_into_rows() {
    let text = "tests:\n  # kept\n  - name: a\n    principal: web\n    request: GET orders/orders\n    expect: allow   # kept\n\n  - { principal: web, request: GET payments/cards, expect: deny }\n  - name: wrong\n    principal: web\n    request: GET orders/orders\n    expect: forbidden\n  - name: two ways\n    principals: [web, reports]\n    request: GET orders/orders\n    expect: allow\n  - name: other\n    principal: web\n    request: GET orders/orders\n    policies:\n      - card-data\n    expect: allow\n";
    let (dir, cases, found, compiled) = tables_of(&[("tests/t.yaml", text)]);
    assert_eq!(found, []);
    let mut engines = tables::Engines::new(compiled.clone(), &cases, false).unwrap();
    let updated = tables::update(dir.path(), &cases, &mut engines).unwrap();
    assert_eq!(updated, tables::Updated { rows: 3, left: 2 });
    let after = fs::read_to_string(dir.path().join("tests/t.yaml")).unwrap();
    let expected = text
        .replace(
            "expect: allow   # kept",
            "expect: allow\n    policies: [orders-from-web]   # kept",
        )
        .replace("expect: deny }", "expect: deny, policies: [card-data] }")
        .replace(
            "policies:\n      - card-data\n",
            "policies:\n      [orders-from-web]\n",
        );
    assert_eq!(after, expected);
    let (cases, found) = tables::read(dir.path(), &compiled, NOW_US);
    assert_eq!(found, []);
    let again = tables::update(dir.path(), &cases, &mut engines).unwrap();
    assert_eq!(again, tables::Updated { rows: 0, left: 2 });
}

#[test]
fn a_failed_case_says_what_was_expected_and_what_came() {
    let (cases, found, compiled) = table(
        "tests:\n  - {name: n, principal: web, requests: [GET orders/orders, POST orders/42/refund], expect: allow, policies: [orders-from-web]}\n  \
         - {name: m, principal: web, request: GET payments/cards, expect: deny}\n  \
         - {name: o, principal: web, request: GET orders/orders, expect: allow, policies: [card-data]}\n",
    );
    assert_eq!(found, []);
    let report = tables::run(
        &cases,
        None,
        Trace::None,
        &compiled,
        &mut Reference(compiled.clone()),
    );
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
    let report = tables::run(
        &cases,
        Some("nothing like it"),
        Trace::None,
        &compiled,
        &mut decider,
    );
    assert_eq!(report.diagnostics[0].code.0, codes::NO_TESTS);
    assert!(!report.is_success());
    assert!(tables::run(&cases, Some("web"), Trace::None, &compiled, &mut decider).is_success());
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

/// A case that expects a deny would not show that a permit did not get to permit.
#[test]
fn a_policy_that_fails_to_evaluate_is_told() {
    let dir = copy();
    let text = "@id(\"x\")\npermit (principal in Service::\"demo.test/shop/web\", action, resource in Service::\"demo.test/shop/reports\")\nwhen { context.source.port * 9223372036854775807 > 0 };\n";
    write(dir.path(), "policies/x.cedar", text);
    let row = "tests:\n  - {principal: web, request: GET reports/x, expect: deny}\n";
    write(dir.path(), "tests/x.yaml", row);
    let compiled = load(dir.path()).compiled.unwrap();
    let (cases, found) = tables::read(dir.path(), &compiled, NOW_US);
    assert_eq!(found, []);
    let mut engines = tables::Engines::new(compiled.clone(), &cases, false).unwrap();
    let report = tables::run(&cases, None, Trace::None, &compiled, &mut engines);
    assert!(report.is_success(), "a warning is none: {report:#?}");
    let [one] = report.diagnostics.as_slice() else {
        panic!("{report:#?}")
    };
    let at = one.location.as_ref().unwrap();
    assert_eq!(
        (one.code.0, &*at.file, at.line),
        (codes::TEST_ERRED, "policies/x.cedar", 1)
    );
}
