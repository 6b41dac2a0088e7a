//! The engine at its public door: what it decides, when it may remember it, and
//! that it says what the reference says.

use palisade_mesh::decision::{Answer, Decision, Undecided, Verdict};

use super::{
    Engine, Snapshot, SnapshotError, oracle,
    testing::{Ask, BATCH, FOREIGNER, NOW_US, STRANGER, WEB, compiled, snapshot},
};

mod explained;
mod property;

fn decide(engine: &mut Engine, ask: &Ask) -> Answer {
    let snapshot = engine.snapshot().clone();
    let answer = ask.ask(&snapshot, |q| engine.decide(q));
    let reference = ask.ask(&snapshot, |q| snapshot.reference(q));
    assert!(
        oracle::agree(&answer.decision, &reference),
        "engine {:?}\nreference {reference:?}",
        answer.decision
    );
    answer
}

fn once(policies: &str, ask: &Ask) -> std::sync::Arc<Decision> {
    decide(&mut snapshot(policies).engine(), ask).decision
}

fn get(caller: &str) -> Ask {
    Ask::new(caller, "GET", "orders", "/orders/42")
}

const SHOP: &str = r#"
@id("read") permit (principal in Service::"acme.test/shop/web",
  action in Action::"http:read", resource in Service::"acme.test/shop/orders");
@id("admin") @deny_message("ask the ops team") @help_url("https://wiki.acme.test/admin")
forbid (principal, action in Action::"http", resource) when { context.http.path like "/admin*" };
@id("refund") permit (principal, action == Action::"orders:refund",
  resource == Operation::"acme.test/shop/orders/refund") when { context.http.headers has "x-roles"
  && context.http.headers["x-roles"].contains("agent") };
"#;

#[test]
fn each_outcome_names_its_policies() {
    let allowed = once(SHOP, &get(WEB));
    assert_eq!(allowed.verdict, Verdict::Allow);
    assert_eq!(allowed.determining, ["read"]);
    assert_eq!(
        (allowed.action.as_str(), allowed.resource_type),
        ("GET", "Operation")
    );
    assert_eq!(allowed.resource_id, "acme.test/shop/orders/read");

    let forbidden = once(SHOP, &Ask::new(WEB, "GET", "orders", "/admin/x"));
    assert_eq!(forbidden.verdict, Verdict::Forbidden);
    assert_eq!(forbidden.determining, ["admin"]);
    assert_eq!(forbidden.deny_message.as_deref(), Some("ask the ops team"));
    assert_eq!(
        forbidden.help_url.as_deref(),
        Some("https://wiki.acme.test/admin")
    );
    assert_eq!(forbidden.resource_type, "Service");

    let nobody = once(SHOP, &get(BATCH));
    assert_eq!(nobody.verdict, Verdict::NotPermitted);
    assert!(nobody.determining.is_empty() && nobody.deny_message.is_none());
}

#[test]
fn a_business_action_and_a_list_header_are_understood() {
    let refund = Ask::new(WEB, "POST", "orders", "/orders/42/refund");
    assert_eq!(once(SHOP, &refund).verdict, Verdict::NotPermitted);
    let agent = refund
        .header("x-roles", b"viewer")
        .header("x-roles", b"x, agent");
    let decision = once(SHOP, &agent);
    assert_eq!(decision.determining, ["refund"]);
    assert_eq!(decision.action, "orders:refund");
    assert_eq!(
        decision.context_json,
        r#"{"http":{"headers":{"x-roles":["agent","viewer","x"]},"path":"/orders/42/refund"}}"#
    );
}

#[test]
fn all_satisfied_policies_are_reported_sorted() {
    let policies = r#"
        @id("b") permit (principal, action, resource);
        @id("a") permit (principal, action, resource);
        @id("z") forbid (principal == Workload::"spiffe://acme.test/ns/jobs/sa/batch", action, resource);
        @id("y") forbid (principal in Group::"staff", action, resource);
    "#;
    assert_eq!(once(policies, &get(WEB)).determining, ["a", "b"]);
    assert_eq!(once(policies, &get(BATCH)).determining, ["y", "z"]);
}

#[test]
fn a_forbid_that_errs_leaves_the_request_undecided() {
    let policies = r#"
        @id("all") permit (principal, action, resource);
        @id("sum") forbid (principal, action, resource)
          when { context.source.port + 9223372036854775807 > 0 };
        @id("ops") forbid (principal in Group::"ops", action, resource);
        @id("odd") permit (principal, action, resource)
          when { context.source.port + 9223372036854775807 > 0 };
    "#;
    let undecided = once(policies, &get(WEB));
    assert_eq!(
        undecided.verdict,
        Verdict::Undecided(Undecided::ForbidErrored)
    );
    assert_eq!(undecided.determining, ["sum"]);
    assert_eq!(undecided.errors, ["odd", "sum"]);
    let forbidden = once(policies, &get(BATCH));
    assert_eq!(forbidden.verdict, Verdict::Forbidden);
    assert_eq!(forbidden.determining, ["ops"]);
    assert_eq!(forbidden.errors, ["odd", "sum"]);
}

/// Attack T101: Cedar's `in` on an entity that the snapshot lacks is silently false.
#[test]
fn a_forbid_on_a_missing_group_still_holds() {
    let check = |scope: &str, condition: &str, ask: &Ask, expected: Verdict| {
        let policies = format!(
            r#"@id("all") permit (principal, action, resource);
               @id("gone") forbid ({scope}) {condition};"#
        );
        assert_eq!(
            once(&policies, ask).verdict,
            expected,
            "{scope} {condition}"
        );
    };
    let missing = Verdict::Undecided(Undecided::MissingEntity);
    check(
        r#"principal in Group::"gone", action, resource"#,
        "",
        &get(WEB),
        missing,
    );
    check(
        r#"principal is Workload in Group::"gone", action, resource"#,
        "",
        &get(WEB),
        missing,
    );
    check(
        r#"principal, action, resource in Service::"gone""#,
        "",
        &get(WEB),
        missing,
    );
    let body = r#"when { principal in [Group::"ops", Group::"gone"] }"#;
    check("principal, action, resource", body, &get(WEB), missing);
    check(
        "principal, action, resource",
        body,
        &get(BATCH),
        Verdict::Forbidden,
    );
    // The rest of the scope still has its say.
    let other = r#"principal in Group::"gone", action == Action::"POST", resource"#;
    check(other, "", &get(WEB), Verdict::Allow);
    let registered = r#"principal is Unregistered in Group::"gone", action, resource"#;
    check(registered, "", &get(WEB), Verdict::Allow);
    // Names that need no registry are never missing.
    let named = r#"principal in TrustDomain::"evil.test", action, resource"#;
    check(named, "", &get(WEB), Verdict::Allow);
    check(named, "", &get(FOREIGNER), Verdict::Forbidden);
}

/// Attack T103 among others: a stranger belongs to his trust domain and to nothing else.
#[test]
fn a_stranger_is_a_member_of_his_trust_domain_only() {
    let policies = r#"
        @id("td") permit (principal in TrustDomain::"acme.test", action, resource);
        @id("ns") permit (principal in Namespace::"acme.test/shop", action, resource);
        @id("type") permit (principal is Unregistered, action, resource)
          when { principal.trustDomain == TrustDomain::"acme.test" };
        @id("one") forbid (principal == Unregistered::"spiffe://acme.test/ns/shop/sa/intruder", action, resource);
    "#;
    assert_eq!(once(policies, &get(WEB)).determining, ["ns", "td"]);
    assert_eq!(once(policies, &get(STRANGER)).determining, ["td", "type"]);
    assert_eq!(
        once(policies, &get(FOREIGNER)).verdict,
        Verdict::NotPermitted
    );
    let intruder = get("spiffe://acme.test/ns/shop/sa/intruder");
    assert_eq!(once(policies, &intruder).determining, ["one"]);
}

/// Strangers are alike only as far as nothing tells them apart, entities included.
#[test]
fn a_stranger_named_by_an_entity_is_himself() {
    let mut shop = compiled(
        r#"@id("guest") permit (principal, action, resource) when { resource.guest == principal };
           @id("partner") permit (principal, action, resource)
             when { resource.partner == principal.trustDomain };"#,
    );
    let schema = super::testing::SCHEMA.replace(
        "{ tier?: String }",
        "{ guest?: Unregistered, partner?: TrustDomain }",
    );
    shop.schema = cedar_policy::Schema::from_cedarschema_str(&schema)
        .unwrap()
        .0;
    let uid = |kind: &str, id: &str| -> cedar_policy::EntityUid {
        format!("{kind}::{id:?}").parse().unwrap()
    };
    let orders = uid("Service", "acme.test/shop/orders");
    let refer = cedar_policy::RestrictedExpression::new_entity_uid;
    let attributes = std::collections::HashMap::from([
        ("guest".to_owned(), refer(uid("Unregistered", STRANGER))),
        ("partner".to_owned(), refer(uid("TrustDomain", "evil.test"))),
    ]);
    let parents = [uid("Namespace", "acme.test/shop")].into();
    let orders = cedar_policy::Entity::new(orders, attributes, parents).unwrap();
    shop.entities = shop.entities.upsert_entities([orders], None).unwrap();
    let snapshot = Snapshot::new(shop, 1).unwrap();
    let mut engine = snapshot.engine();
    let mut check = |caller: &str, determining: &[&str]| {
        let ask = Ask::new(caller, "GET", "orders", "/elsewhere");
        assert_eq!(
            decide(&mut engine, &ask).decision.determining,
            determining,
            "{caller}"
        );
    };
    check("spiffe://acme.test/ns/shop/sa/other", &[]);
    check(STRANGER, &["guest"]);
    check(FOREIGNER, &["partner"]);
    check("spiffe://else.test/x", &[]);
}

#[test]
fn a_service_that_policies_cannot_know_is_undecided() {
    let mut shop = compiled(SHOP);
    let gone = cedar_policy::EntityUid::from_type_name_and_id(
        "Workload".parse().unwrap(),
        cedar_policy::EntityId::new(WEB),
    );
    shop.entities = shop.entities.remove_entities([gone]).unwrap();
    let snapshot = Snapshot::new(shop, 1).unwrap();
    let answer = decide(&mut snapshot.engine(), &get(WEB));
    assert_eq!(
        answer.decision.verdict,
        Verdict::Undecided(Undecided::MissingEntity)
    );
}

#[test]
fn a_call_is_decided_with_its_grpc_context() {
    let policies = r#"@id("stock") permit (principal, action == Action::"grpc:call", resource)
        when { context.grpc.service == "shop.v1.Stock" && context.grpc.method == "Reserve" };"#;
    let call = Ask::new(WEB, "POST", "inventory", "/shop.v1.Stock/Reserve");
    let decision = once(policies, &call);
    assert_eq!(decision.determining, ["stock"]);
    assert_eq!(decision.action, "grpc:call");
    let other = Ask::new(WEB, "POST", "inventory", "/shop.v1.Stock/Drop");
    assert_eq!(once(policies, &other).verdict, Verdict::NotPermitted);
    let odd = Ask::new(WEB, "POST", "inventory", "/shop.v1.Stock");
    assert_eq!(
        once(policies, &odd).verdict,
        Verdict::Undecided(Undecided::NotEncodable)
    );
}

/// Attacks T20 and T21.
#[test]
fn a_header_that_cannot_be_read_is_undecided_where_it_is_read() {
    let reads = r#"@id("all") permit (principal, action, resource);
        @id("change") forbid (principal, action == Action::"POST", resource)
          unless { context.http.headers has "x-change-id" };"#;
    let post = || Ask::new(WEB, "POST", "orders", "/orders");
    assert_eq!(once(reads, &post()).verdict, Verdict::Forbidden);
    assert_eq!(
        once(reads, &post().header("x-change-id", b"1")).verdict,
        Verdict::Allow
    );
    let not_encodable = Verdict::Undecided(Undecided::NotEncodable);
    let repeated = post()
        .header("x-change-id", b"1")
        .header("x-change-id", b"2");
    assert_eq!(once(reads, &repeated).verdict, not_encodable);
    assert_eq!(
        once(reads, &post().header("x-change-id", b"\xff")).verdict,
        not_encodable
    );
    let unread = get(WEB).header("x-change-id", b"\xff");
    assert_eq!(once(reads, &unread).verdict, Verdict::Allow);
}

#[test]
fn an_ipv4_peer_of_a_dual_stack_socket_is_ipv4() {
    let policies = r#"@id("net") permit (principal, action, resource)
        when { context.source.ip.isInRange(ip("10.0.0.0/8")) };"#;
    let mut ask = get(WEB);
    ask.connection.source = "[::ffff:10.9.9.9]:1".parse().unwrap();
    assert_eq!(once(policies, &ask).verdict, Verdict::Allow);
}

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
fn the_self_check_counts_and_agrees() {
    let snapshot = snapshot(SHOP);
    let mut engine = snapshot.engine().with_self_check(2);
    for i in 0..10 {
        let ask = Ask::new(WEB, "GET", "orders", &format!("/orders/{i}"));
        ask.ask(&snapshot, |q| engine.decide(q));
    }
    assert_eq!(
        (
            snapshot.self_check().checked,
            snapshot.self_check().mismatched
        ),
        (5, 0)
    );
    let mut silent = snapshot.engine().with_self_check(0);
    get(WEB).ask(&snapshot, |q| silent.decide(q));
    assert_eq!(snapshot.self_check().checked, 5);
}

/// Where engine and reference differ, a deny holds, and the reference's comes first.
#[test]
fn a_mismatch_is_counted_and_ends_in_a_deny() {
    let snapshot = snapshot(SHOP);
    let ask = get(BATCH);
    let denied = ask.ask(&snapshot, |q| snapshot.reference(q));
    let wrong = Decision {
        verdict: Verdict::Allow,
        determining: vec!["read".into()],
        ..denied
    };
    let corrected = ask
        .ask(&snapshot, |q| snapshot.check(q, &wrong))
        .expect("they differ");
    assert_eq!(corrected.verdict, Verdict::NotPermitted);
    let allowed = get(WEB).ask(&snapshot, |q| snapshot.reference(q));
    let denying = Decision {
        verdict: Verdict::NotPermitted,
        determining: vec![],
        ..allowed
    };
    assert_eq!(
        get(WEB).ask(&snapshot, |q| snapshot.check(q, &denying)),
        None
    );
    assert_eq!(snapshot.self_check().mismatched, 2);
}

#[test]
fn an_overlong_key_is_evaluated_each_time() {
    let snapshot = snapshot(SHOP);
    let mut engine = snapshot.engine();
    let path = |len: usize| Ask::new(WEB, "GET", "orders", &format!("/{}", "p".repeat(len - 1)));
    // Slice number, tag and length take 17 bytes of the key.
    let longest = super::KEY_LEN_MAX - 17;
    for (len, cached) in [(longest, true), (longest + 1, false)] {
        decide(&mut engine, &path(len));
        assert_eq!(decide(&mut engine, &path(len)).cached, cached, "{len}");
    }
}

#[test]
fn a_snapshot_that_could_not_enforce_its_texts_is_not_made() {
    let mut shop = compiled(SHOP);
    shop.info.remove("read");
    assert!(matches!(Snapshot::new(shop, 1), Err(SnapshotError::NoInfo { id }) if id == "read"));
    for change in [
        |info: &mut crate::compiled::PolicyInfo| info.shadow = true,
        |info: &mut crate::compiled::PolicyInfo| info.expires_us = Some(NOW_US),
    ] {
        let mut shop = compiled(SHOP);
        change(shop.info.get_mut("admin").unwrap());
        let made = Snapshot::new(shop, 1);
        assert!(matches!(made, Err(SnapshotError::WeakenedForbid { id }) if id == "admin"));
    }
    let mut shop = compiled(SHOP);
    let strict = super::testing::SCHEMA.replace("mtls: Bool,", "mtls: Bool, cipher: String,");
    shop.schema = cedar_policy::Schema::from_cedarschema_str(&strict)
        .unwrap()
        .0;
    let made = Snapshot::new(shop, 1);
    assert!(
        matches!(made, Err(SnapshotError::Context { .. })),
        "{made:?}"
    );
}

#[test]
fn a_snapshot_knows_its_versions() {
    let snapshot = snapshot(SHOP);
    assert_eq!(snapshot.versions().sequence, 7);
    assert_eq!(snapshot.versions().policy, snapshot.compiled().digest);
}

/// Workers share a snapshot; each may build its engine wherever it runs.
#[test]
fn snapshots_are_shared_and_engines_move() {
    fn shared<T: Send + Sync>() {}
    fn moves<T: Send>() {}
    shared::<Snapshot>();
    moves::<Engine>();
}
