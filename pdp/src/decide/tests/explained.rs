//! Explanations: what a person reads when a request was denied.

use super::super::{
    ClauseKind, ClauseState, Explanation, Outcome, PolicyView,
    testing::{Ask, STRANGER, WEB, snapshot},
};

const POLICIES: &str = r#"@id("orders-refund")
@owner("team-orders")
permit (principal in Namespace::"acme.test/shop", action == Action::"orders:refund", resource)
when { context.http.path like "/orders/*/refund"
    && context.http.headers has "x-roles"
    && context.http.headers["x-roles"].contains("agent")
    && principal.hasTag("env") }
unless { context.time.hour >= 22 };

@id("orders-read")
permit (principal, action == Action::"GET", resource in Service::"acme.test/shop/orders");

@id("orders-batch")
permit (principal in Service::"acme.test/jobs/batch", action, resource);

@id("elsewhere")
permit (principal in Service::"acme.test/jobs/batch", action == Action::"GET", resource);

@id("frozen")
forbid (principal, action == Action::"DELETE", resource)
unless { context.http.headers has "x-change-id" && context.http.headers["x-change-id"] like "CHG-*" };
"#;

fn explain(ask: &Ask) -> Explanation {
    let snapshot = snapshot(POLICIES);
    ask.ask(&snapshot, |q| snapshot.explain(q))
}

fn refund(roles: &[u8]) -> Ask {
    Ask::new(WEB, "POST", "orders", "/orders/42/refund").header("x-roles", roles)
}

fn states(view: &PolicyView) -> Vec<(usize, ClauseState)> {
    view.clauses.iter().map(|c| (c.line, c.state)).collect()
}

#[test]
fn a_default_deny_names_the_nearest_permits() {
    let why = explain(&refund(b"viewer"));
    assert_eq!(
        (why.verdict, why.reason.as_str()),
        (Outcome::NotPermitted, "no_permit")
    );
    let ids: Vec<&str> = why.nearest.iter().map(|p| p.id.as_str()).collect();
    assert_eq!(ids, ["orders-refund", "orders-read", "orders-batch"]);

    let refund = &why.nearest[0];
    assert!(refund.scope.is_empty());
    assert_eq!((refund.first_line, refund.last_line), (1, 8));
    use ClauseState::{False, NotReached, True};
    let expected = [
        (4, True),
        (5, True),
        (6, False),
        (7, NotReached),
        (8, NotReached),
    ];
    assert_eq!(states(refund), expected);
    assert_eq!((refund.passed, refund.clauses.len()), (2, 5));
    let failed = &refund.clauses[2];
    assert!(failed.blocks);
    assert_eq!(
        failed.text,
        r#"context.http.headers["x-roles"].contains("agent")"#
    );
    assert_eq!(failed.saw[0].name, r#"context.http.headers["x-roles"]"#);
    assert_eq!(failed.saw[0].value, r#"["viewer"]"#);
    assert_eq!(refund.clauses[4].kind, ClauseKind::Unless);

    assert_eq!(why.nearest[1].scope, ["wrong action: wants GET"]);
    assert_eq!(
        why.nearest[2].scope,
        [r#"principal is not in Service::"acme.test/jobs/batch""#]
    );
    assert_eq!(why.inputs["context.http.path"], r#""/orders/42/refund""#);
}

#[test]
fn an_unless_that_holds_blocks() {
    let why = explain(&refund(b"agent").at("2026-11-20T22:00:00Z"));
    let view = &why.nearest[0];
    let last = view.clauses.last().unwrap();
    assert_eq!((last.state, last.blocks), (ClauseState::True, true));
    assert_eq!(
        (last.saw[0].name.as_str(), last.saw[0].value.as_str()),
        ("context.time.hour", "22")
    );
    assert_eq!(view.passed, 4);
}

#[test]
fn a_forbid_is_shown_with_what_it_saw() {
    let why = explain(&Ask::new(WEB, "DELETE", "orders", "/x"));
    assert_eq!(why.verdict, Outcome::Forbidden);
    assert!(why.nearest.is_empty());
    let frozen = &why.determining[0];
    use ClauseState::{False, NotReached};
    assert_eq!(states(frozen), [(21, False), (21, NotReached)]);
    assert_eq!(frozen.clauses[0].saw[0].value, "absent");
    assert_eq!(frozen.effect, "forbid");
}

#[test]
fn a_record_is_explained_from_what_it_holds() {
    let snapshot = snapshot(POLICIES);
    let explain = |json: &str| {
        let operation = "acme.test/shop/orders/refund";
        snapshot
            .explain_recorded(WEB, "orders:refund", "Operation", operation, json)
            .unwrap()
    };
    let full = r#"{"http":{"headers":{"x-roles":["viewer"]},"path":"/orders/42/refund"},"time":{"hour":3}}"#;
    let why = explain(full);
    assert_eq!(why.verdict, Outcome::NotPermitted);
    assert_eq!(why.nearest[0].passed, 2);

    let why = explain(r#"{"http":{"path":"/orders/42/refund"},"time":{"hour":3}}"#);
    assert_eq!(
        (why.verdict, why.reason.as_str()),
        (Outcome::Unknown, "not_recorded")
    );
    assert_eq!(why.not_recorded, ["context.http.headers.x-roles"]);
    use ClauseState::{NotRecorded, True};
    let first = &why.nearest[0].clauses;
    assert_eq!(
        (first[0].state, first[1].state, first[3].state),
        (True, NotRecorded, True)
    );
    assert_eq!(first[1].saw[0].value, "not recorded");
}

#[test]
fn a_malformed_record_is_refused_and_unknown_parties_are_named() {
    let snapshot = snapshot(POLICIES);
    let explain = |principal: &str, kind: &str, json: &str| {
        snapshot.explain_recorded(principal, "GET", kind, "acme.test/shop/gone", json)
    };
    assert!(explain("web", "Service", "{}").is_err());
    assert!(explain(WEB, "Group", "{}").is_err());
    assert!(explain(WEB, "Service", "nonsense").is_err());
    let why = explain(WEB, "Service", "{}").unwrap();
    assert_eq!(
        (why.verdict, why.reason.as_str()),
        (Outcome::Undecided, "missing_entity")
    );
    assert_eq!(why.missing_entities, [r#"Service::"acme.test/shop/gone""#]);
}

#[test]
fn a_stranger_is_shown_by_his_own_name() {
    let snapshot = snapshot(
        r#"@id("p") permit (principal, action, resource)
        when { principal == Unregistered::"spiffe://acme.test/x" };"#,
    );
    let ask = Ask::new(STRANGER, "GET", "orders", "/x");
    let why = ask.ask(&snapshot, |q| snapshot.explain(q));
    let seen = &why.nearest[0].clauses[0].saw[0];
    assert_eq!(seen.value, format!("Unregistered::{STRANGER:?}"));
    assert_eq!(
        (why.principal.kind.as_str(), why.principal.id.as_str()),
        ("Unregistered", STRANGER)
    );
}

#[test]
fn expired_and_shadow_permits_are_near_and_say_why_they_do_not_count() {
    let snapshot = snapshot(
        r#"@id("old") @expires("2026-11-20T00:00:00Z") permit (principal, action, resource);
           @id("try") @mode("shadow") permit (principal, action, resource);"#,
    );
    let ask = Ask::new(WEB, "GET", "orders", "/x");
    let why = ask.ask(&snapshot, |q| snapshot.explain(q));
    assert_eq!(why.nearest[0].notes, ["expired 2026-11-20T00:00:00Z"]);
    assert_eq!(
        why.nearest[1].notes,
        ["shadow mode: evaluated, never enforced"]
    );
    assert_eq!(why.shadow, ["try"]);

    // The same record without its time: nothing is guessed about the expiry.
    let service = "acme.test/shop/orders";
    let why = snapshot
        .explain_recorded(WEB, "GET", "Service", service, "{}")
        .unwrap();
    assert_eq!(why.verdict, Outcome::Unknown);
    assert_eq!(why.not_recorded, ["decided_us"]);
}

#[test]
fn at_most_three_permits_are_near_and_long_values_are_cut() {
    let permit = |id: &str| {
        format!(
            "@id({id:?}) permit (principal, action, resource) when {{ context.http.path == \"\" }};"
        )
    };
    let snapshot = snapshot(&["a", "b", "c", "d"].map(permit).join("\n"));
    let seen = |len: usize| {
        let ask = Ask::new(WEB, "GET", "orders", &format!("/{}", "p".repeat(len - 1)));
        let why = ask.ask(&snapshot, |q| snapshot.explain(q));
        let ids: Vec<&str> = why.nearest.iter().map(|p| p.id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "c"]);
        why.nearest[0].clauses[0].saw[0].value.clone()
    };
    assert_eq!(seen(254).chars().count(), 256);
    assert!(seen(254).ends_with('"'));
    assert_eq!(seen(255).chars().count(), 257);
    assert!(seen(255).ends_with('…'));
}

/// Conditions are taken apart without the call stack.
#[test]
fn a_very_long_condition_is_decided_and_explained() {
    let long = vec!["context.tls.mtls"; 1_000].join("\n && ");
    let text = format!(
        "@id(\"long\") permit (principal, action, resource)\nwhen {{ {long}\n && false }};"
    );
    let snapshot = snapshot(&text);
    let ask = Ask::new(WEB, "GET", "orders", "/x");
    let why = ask.ask(&snapshot, |q| snapshot.explain(q));
    let view = &why.nearest[0];
    assert_eq!((view.passed, view.clauses.len()), (1_000, 1_001));
    assert_eq!(
        view.clauses.last().map(|c| (c.line, c.blocks)),
        Some((1_002, true))
    );
}

#[test]
fn an_explanation_survives_json() {
    let why = explain(&refund(b"viewer"));
    let json = serde_json::to_string(&why).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), why);
}
