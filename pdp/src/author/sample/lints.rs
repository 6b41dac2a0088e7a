//! What lints say.

use super::*;

#[test]
fn an_entity_that_does_not_exist_is_an_error_for_forbid_and_a_warning_for_permit() {
    let text = "@id(\"a\")\nforbid (principal, action, resource in Service::\"shop/orders\");";
    let one = only(policy(text), codes::UNKNOWN_ENTITY, 2, 40);
    assert!(one.is_error());
    assert_eq!(
        one.label.as_deref(),
        Some("did you mean `Service::\"demo.test/shop/orders\"`?")
    );
    assert!(
        one.cause
            .unwrap()
            .contains("ids carry the trust domain `demo.test`")
    );
    let one = only(
        policy(&text.replace("forbid", "permit")),
        codes::UNKNOWN_ENTITY,
        2,
        40,
    );
    assert!(!one.is_error());
}

#[test]
fn a_near_id_of_any_type_is_suggested() {
    for (wrong, right) in [
        (
            "principal in Group::\"card-handler\"",
            "Group::\"card-handlers\"",
        ),
        (
            "principal == Workload::\"ns/shop/sa/web\"",
            "Workload::\"spiffe://demo.test/ns/shop/sa/web\"",
        ),
        (
            "principal in Namespace::\"shop\"",
            "Namespace::\"demo.test/shop\"",
        ),
        (
            "resource == Operation::\"shop/orders/refnd\"",
            "Operation::\"demo.test/shop/orders/refund\"",
        ),
    ] {
        let text = format!("@id(\"a\")\nforbid (principal, action, resource)\nwhen {{ {wrong} }};");
        let found = policy(&text);
        let label = format!("did you mean `{right}`?");
        assert!(
            found.iter().any(|d| d.label.as_deref() == Some(&label)),
            "{found:#?}"
        );
    }
}

/// A foreign trust domain may be named: its callers are known by the handshake.
#[test]
fn other_trust_domains_and_users_may_be_named() {
    let text = "@id(\"a\")\nforbid (principal in TrustDomain::\"evil.test\", action, resource);";
    assert_eq!(policy(text), []);
}

#[test]
fn a_permit_for_everything_is_a_warning() {
    let one = only(
        policy("@id(\"a\")\npermit (principal, action, resource);"),
        codes::PERMIT_ALL,
        2,
        1,
    );
    assert!(!one.is_error());
}
