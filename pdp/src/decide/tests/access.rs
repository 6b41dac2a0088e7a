//! Questions about many requests at once.

use palisade_mesh::decision::Verdict;

use super::super::{
    Access, Given, May, Snapshot, Who,
    testing::{BATCH, FOREIGNER, NOW_US, STRANGER, WEB, snapshot},
};

const GIVEN: Given<'_> = Given {
    now_us: NOW_US,
    clock: false,
    onwards: false,
    context_json: None,
};

/// What the caller with this SPIFFE ID may do under `action` on `operation` of the shop.
fn access(
    snapshot: &Snapshot,
    caller: &str,
    action: &str,
    operation: &str,
    given: Given<'_>,
) -> Access {
    let caller = snapshot.caller(&caller.parse().unwrap()).unwrap();
    let targets = snapshot.targets();
    let wanted = format!("acme.test/shop/{operation}");
    let target = targets
        .iter()
        .find(|t| t.action == action && t.resource_id() == wanted);
    let survey = snapshot.survey(given).unwrap();
    survey.access(&caller, target.expect("a target"))
}

#[track_caller]
fn check(policies: &str, (caller, action, operation): (&str, &str, &str), expected: May) {
    let snapshot = snapshot(policies);
    let access = access(&snapshot, caller, action, operation, GIVEN);
    assert_eq!(access.may, expected, "{policies}\n{access:?}");
}

const READ: (&str, &str, &str) = (WEB, "GET", "orders/read");
const REFUND: (&str, &str, &str) = (WEB, "orders:refund", "orders/refund");

#[test]
fn what_is_open_makes_an_answer_conditional_only_where_it_matters() {
    let permit =
        |condition: &str| format!(r#"@id("p") permit (principal, action, resource) {condition};"#);
    let forbid = |condition: &str| {
        format!(
            r#"{} @id("f") forbid (principal, action, resource) {condition};"#,
            permit("")
        )
    };
    for (condition, with_permit, with_forbid) in [
        ("", May::Yes, May::No),
        (
            "when { context.http.headers has \"x-change-id\" }",
            May::OnlyIf,
            May::OnlyIf,
        ),
        ("unless { context.tls.mtls }", May::No, May::Yes),
        ("when { context.tls.version == \"1.3\" }", May::Yes, May::No),
        ("when { context.http.method == \"GET\" }", May::Yes, May::No),
        (
            "when { context.http.path like \"/orders/*\" }",
            May::Yes,
            May::No,
        ),
        (
            "when { context.http.path like \"/admin/*\" }",
            May::No,
            May::Yes,
        ),
        (
            "when { context.http.path == \"/orders/42\" }",
            May::OnlyIf,
            May::OnlyIf,
        ),
        (
            "when { context.time.hour < 8 && principal in Group::\"ops\" }",
            May::No,
            May::Yes,
        ),
        (
            "when { context.time.hour < 8 || principal in Namespace::\"acme.test/shop\" }",
            May::Yes,
            May::No,
        ),
        (
            "when { if context.time.hour < 8 then true else true }",
            May::Yes,
            May::No,
        ),
        ("when { context has user }", May::No, May::Yes),
        (
            "when { context.time.hour + 1 == 8 && principal in Group::\"ops\" }",
            May::No,
            May::OnlyIf,
        ),
    ] {
        check(&permit(condition), READ, with_permit);
        check(&forbid(condition), READ, with_forbid);
    }
}

#[test]
fn a_business_action_of_one_method_has_that_method() {
    let policy = r#"@id("p") permit (principal, action, resource)
        when { context.http.method == "POST" && context.http.path like "/orders/*/refund" };"#;
    check(policy, REFUND, May::Yes);
}

#[test]
fn the_clock_is_open_unless_it_is_given() {
    let snapshot = snapshot(
        r#"@id("p") permit (principal, action, resource) when { context.time.hour == 15 };
           @id("q") @expires("2026-11-20T15:40:00Z") permit (principal, action, resource);"#,
    );
    let at = |now_us, clock| {
        let given = Given {
            now_us,
            clock,
            ..GIVEN
        };
        access(&snapshot, WEB, "GET", "orders/read", given).may
    };
    let hour = 3_600_000_000;
    assert_eq!(at(NOW_US, false), May::Yes, "q has not expired");
    assert_eq!(at(NOW_US + hour, false), May::OnlyIf);
    assert_eq!(at(NOW_US + hour, true), May::No);
}

#[test]
fn more_of_the_context_can_be_given() {
    let snapshot = snapshot(
        r#"@id("p") permit (principal, action, resource)
           when { context.http.headers has "x-change-id" && context.http.headers["x-change-id"] like "CHG-*" };"#,
    );
    let with = |json| {
        let given = Given {
            context_json: Some(json),
            ..GIVEN
        };
        access(&snapshot, WEB, "GET", "orders/read", given).may
    };
    assert_eq!(
        with(r#"{"http":{"headers":{"x-change-id":"CHG-1"}}}"#),
        May::Yes
    );
    assert_eq!(with(r#"{"http":{"headers":{"x-change-id":"1"}}}"#), May::No);
    assert_eq!(
        with(r#"{"http":{"headers":{"x-change-id":null}}}"#),
        May::No
    );
    assert_eq!(with("{}"), May::OnlyIf);
    assert!(
        snapshot
            .survey(Given {
                context_json: Some("["),
                ..GIVEN
            })
            .is_err()
    );
}

#[test]
fn a_conditional_answer_names_policies_and_open_clauses() {
    let snapshot = snapshot(
        "@id(\"p\") permit (principal in Service::\"acme.test/shop/web\", action, resource)\nwhen {\n  context.tls.mtls &&\n  context.http.headers has \"x-change-id\" };\n@id(\"f\") forbid (principal, action, resource)\nunless { context.time.hour >= 8 };\n@id(\"other\") permit (principal == Workload::\"spiffe://acme.test/ns/jobs/sa/batch\", action, resource);",
    );
    let access = access(&snapshot, WEB, "GET", "orders/read", GIVEN);
    assert_eq!(access.may, May::OnlyIf);
    assert_eq!(
        (access.permits.join(" "), access.forbids.join(" ")),
        ("p".into(), "f".into())
    );
    let caller = snapshot.caller(&WEB.parse().unwrap()).unwrap();
    let targets = snapshot.targets();
    let target = targets
        .iter()
        .find(|t| t.resource_id() == "acme.test/shop/orders/read")
        .unwrap();
    let survey = snapshot.survey(GIVEN).unwrap();
    let conditions = survey.conditions(&caller, target, &access);
    let told: Vec<(String, usize, String)> = conditions
        .iter()
        .flat_map(|c| {
            c.clauses
                .iter()
                .map(|o| (c.policy.clone(), o.line, o.text.clone()))
        })
        .collect();
    assert_eq!(
        told,
        [
            (
                "p".to_owned(),
                4,
                "context.http.headers has \"x-change-id\"".to_owned()
            ),
            ("f".to_owned(), 6, "context.time.hour >= 8".to_owned()),
        ]
    );
}

#[test]
fn verdicts_are_told_apart_where_they_are_certain() {
    let verdict = |policies: &str, caller| {
        access(&snapshot(policies), caller, "GET", "orders/read", GIVEN).verdict
    };
    let permit = r#"@id("p") permit (principal is Workload, action, resource);"#;
    assert_eq!(verdict(permit, WEB), Some(Verdict::Allow));
    assert_eq!(verdict(permit, STRANGER), Some(Verdict::NotPermitted));
    let forbid = r#"@id("f") forbid (principal, action, resource) when { context.time.hour < 8 };"#;
    assert_eq!(verdict(forbid, WEB), None, "denied either way, but not why");
    let missing = r#"@id("f") forbid (principal in Group::"missing", action, resource);"#;
    assert_eq!(
        verdict(&format!("{permit}{missing}"), WEB).map(Verdict::reason),
        Some("missing_entity")
    );
}

#[test]
fn everybody_who_can_be_told_apart_is_a_caller() {
    let snapshot = snapshot(&format!(
        r#"@id("f") forbid (principal == Unregistered::"{STRANGER}", action, resource);"#
    ));
    let callers = snapshot.callers();
    let who: Vec<String> = callers.iter().map(|c| c.who.to_string()).collect();
    assert!(
        who.contains(&BATCH.to_owned()) && who.contains(&STRANGER.to_owned()),
        "{who:?}"
    );
    assert_eq!(
        who.iter().filter(|w| w.starts_with("any ")).count(),
        2,
        "{who:?}"
    );
    let web = callers
        .iter()
        .find(|c| c.who == Who::Workload(WEB.into()))
        .unwrap();
    assert_eq!(web.service.as_ref().map(|s| s.name.as_str()), Some("web"));
    let foreigner = snapshot.caller(&FOREIGNER.parse().unwrap()).unwrap();
    assert_eq!(foreigner.service.map(|s| s.name.clone()), None);
}
