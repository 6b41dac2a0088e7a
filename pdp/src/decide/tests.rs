//! The engine at its public door: what it decides, and that it says what the
//! reference says.

use palisade_mesh::decision::{Answer, Decision, Pins, Undecided, Verdict};

use super::{
    Engine, Known, Snapshot, SnapshotError, oracle,
    testing::{Ask, BATCH, FOREIGNER, NOW_US, STRANGER, WEB, compiled, snapshot},
};

mod access;
mod explained;
pub(crate) mod property;
mod remembered;
mod replayed;
mod whole;

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
    // So does an attribute or a tag of what is not there.
    for body in [
        r#"Service::"gone" has tier"#,
        r#"Service::"gone" has tier.name"#,
        r#"[Service::"gone".hasTag("blocked")].contains(true)"#,
        r#"(if context.tls.mtls then Service::"gone" else resource) has tier"#,
    ] {
        let body = format!("when {{ {body} }}");
        check("principal, action, resource", &body, &get(WEB), missing);
    }
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
    // What the process's log says of it has nothing of the request.
    assert!(wrong.context_json.contains("http"), "{wrong:?}");
    assert_eq!(
        super::oracle::said(&wrong),
        "Allow by [\"read\"], errors []"
    );
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

/// An index that loses a policy is noticed by live decisions, and nothing passes by it.
#[test]
fn a_broken_index_trips_the_self_check() {
    for (lost, ask, verdict) in [
        (
            "admin",
            Ask::new(WEB, "GET", "orders", "/admin/x"),
            Verdict::Forbidden,
        ),
        ("read", get(WEB), Verdict::NotPermitted),
    ] {
        let mut broken = snapshot(SHOP);
        std::sync::Arc::get_mut(&mut broken).unwrap().lose(lost);
        let mut engine = broken.engine().with_self_check(1);
        let answer = ask.ask(&broken, |q| engine.decide(q));
        let found = broken.self_check();
        assert_eq!((found.checked, found.mismatched), (1, 1), "{lost}");
        assert_eq!(answer.decision.verdict, verdict, "{lost}");
    }
}

/// An answer that was wrong when it was evaluated is noticed where it is remembered, and
/// what is remembered from then on is the deny.
#[test]
fn a_remembered_answer_is_checked_and_corrected() {
    let nothing_read = r#"
        @id("all") permit (principal, action, resource);
        @id("stop") forbid (principal in Service::"acme.test/shop/web", action, resource);"#;
    for (policies, lost, path) in [
        (SHOP, "admin", "/admin/x"),
        (nothing_read, "stop", "/orders"),
    ] {
        let mut broken = snapshot(policies);
        std::sync::Arc::get_mut(&mut broken).unwrap().lose(lost);
        let mut engine = broken.engine().with_self_check(3);
        let ask = Ask::new(WEB, "GET", "orders", path);
        let mut answers = Vec::new();
        for _ in 0..8 {
            let answer = ask.ask(&broken, |q| engine.decide(q));
            answers.push((answer.cached, answer.decision.verdict.is_allow()));
        }
        assert_eq!(answers[0], (false, true), "{lost}");
        assert_eq!(answers[1..3], [(true, true); 2], "{lost}");
        assert_eq!(answers[3..], [(true, false); 5], "{lost}");
        let found = broken.self_check();
        assert_eq!((found.checked, found.mismatched), (2, 1), "{lost}");
    }
}

/// An answer that is pinned to a connection is checked as often as any other that is
/// remembered, and corrected for all connections.
#[test]
fn a_pinned_answer_is_checked_and_corrected() {
    let policies = r#"
        @id("all") permit (principal, action, resource);
        @id("stop") forbid (principal in Service::"acme.test/shop/web", action, resource)
            when { context.tls.mtls };"#;
    let mut broken = snapshot(policies);
    std::sync::Arc::get_mut(&mut broken).unwrap().lose("stop");
    let mut engine = broken.engine().with_self_check(3);
    let (mut here, mut there) = (Pins::default(), Pins::default());
    let ask = Ask::new(WEB, "GET", "orders", "/orders");
    let answer = ask.ask(&broken, |q| engine.decide_on(q, &mut there));
    assert!(answer.decision.verdict.is_allow());
    let mut answers = Vec::new();
    for _ in 0..7 {
        let answer = ask.ask(&broken, |q| engine.decide_on(q, &mut here));
        answers.push((answer.cached, answer.decision.verdict.is_allow()));
    }
    assert_eq!(answers[..2], [(true, true); 2]);
    assert_eq!(answers[2..], [(true, false); 5]);
    // Though its turn to be checked has not come there.
    let answer = ask.ask(&broken, |q| engine.decide_on(q, &mut there));
    assert!(!answer.decision.verdict.is_allow());
    let found = broken.self_check();
    assert_eq!((found.checked, found.mismatched), (2, 1));
}

/// The reference can enforce, too; then nothing depends on the index.
#[test]
fn an_engine_by_reference_needs_no_index() {
    let mut broken = snapshot(SHOP);
    std::sync::Arc::get_mut(&mut broken).unwrap().lose("admin");
    let mut engine = broken.engine().by_reference();
    let ask = Ask::new(WEB, "GET", "orders", "/admin/x");
    for _ in 0..2 {
        let answer = ask.ask(&broken, |q| engine.decide(q));
        assert_eq!(answer.decision.verdict, Verdict::Forbidden);
        assert!(!answer.cached);
    }
}

/// What was not said is no fact to the reference either: it decides without it where it can,
/// and its record does not have it.
#[test]
fn an_engine_by_reference_invents_no_facts() {
    let network = r#"@id("net") permit (principal, action, resource)
        when { context.source.ip.isInRange(ip("0.0.0.0/8")) };"#;
    let ask = get(WEB);
    let told = |policies: &str, lost: Option<&str>| {
        let mut snapshot = snapshot(policies);
        if let Some(lost) = lost {
            std::sync::Arc::get_mut(&mut snapshot).unwrap().lose(lost);
        }
        let mut engine = snapshot.engine().by_reference();
        ask.ask(&snapshot, |q| engine.decide_knowing(q, Known::TIME_ONLY))
    };
    let open = told(r#"@id("all") permit (principal, action, resource);"#, None);
    assert_eq!(open.answer.decision.verdict, Verdict::Allow);
    let context = &open.answer.decision.context_json;
    assert!(context.contains("time"), "{context}");
    for unsaid in ["source", "tls", "path"] {
        assert!(!context.contains(unsaid), "{context}");
    }
    let asked = told(network, None);
    let undecided = Verdict::Undecided(Undecided::NotEncodable);
    assert_eq!(asked.answer.decision.verdict, undecided);
    assert_eq!(asked.missing, ["source.ip"]);
    // It does not take the index's word for what is read.
    let asked = told(network, Some("net"));
    assert_eq!(asked.answer.decision.verdict, undecided);
}

/// Without an index it is not known which clock matters, so every one does.
#[test]
fn an_answer_of_the_reference_ends_with_the_next_tick_of_any_clock() {
    let until = |policies: &str| {
        let snapshot = snapshot(policies);
        let mut engine = snapshot.engine().by_reference();
        get(WEB)
            .ask(&snapshot, |q| engine.decide(q))
            .decision
            .valid_until_us
    };
    assert_eq!(until(SHOP), None);
    let hour = r#"@id("h") permit (principal, action, resource) when { context.time.hour > 3 };"#;
    assert_eq!(until(hour), Some(NOW_US + 30 * 60 * 1_000_000));
    let now = r#"@id("n") forbid (principal in Service::"acme.test/shop/orders", action, resource)
        when { context.time.now > datetime("2030-01-01") };"#;
    assert_eq!(until(&format!("{hour}{now}")), Some(NOW_US + 1_000_000));
}

#[test]
fn a_snapshot_that_could_not_enforce_its_texts_is_not_made() {
    let mut shop = compiled(SHOP);
    shop.info.remove("read");
    assert!(matches!(Snapshot::new(shop, 1), Err(SnapshotError::NoInfo { id }) if id == "read"));
    let mut shop = compiled(SHOP);
    shop.info.get_mut("admin").unwrap().permit = true;
    let made = Snapshot::new(shop, 1);
    assert!(matches!(made, Err(SnapshotError::WrongInfo { id }) if id == "admin"));
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
