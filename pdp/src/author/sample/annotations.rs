//! Annotations of policies.

use super::*;

const OPEN: &str = "permit (principal, action, resource in Service::\"demo.test/shop/web\");";

#[test]
fn ids_are_there_once_and_well_formed() {
    let one = only(policy(OPEN), codes::ID_MISSING, 1, 1);
    assert!(one.help.unwrap().contains("@id("));
    let one = only(
        policy(&format!("@id(\"card-data\")\n{OPEN}")),
        codes::ID_TWICE,
        1,
        1,
    );
    assert!(
        one.cause
            .unwrap()
            .starts_with("`policies/guard-rails.cedar:14`")
    );
    only(
        policy(&format!("@id(\"a b\")\n{OPEN}")),
        codes::ID_INVALID,
        1,
        1,
    );
    let at = |n| policy(&format!("@id(\"{}\")\n{OPEN}", "a".repeat(n)));
    assert_eq!(at(ID_LEN_MAX), []);
    only(at(ID_LEN_MAX + 1), codes::ID_INVALID, 1, 1);
}

#[test]
fn an_unknown_annotation_is_a_warning_with_a_suggestion() {
    let one = only(
        policy(&format!("@id(\"a\")\n@ownr(\"x\")\n{OPEN}")),
        codes::ANNOTATION_UNKNOWN,
        2,
        1,
    );
    assert!(!one.is_error());
    assert_eq!(one.label.as_deref(), Some("did you mean `@owner`?"));
}

/// Attack T106.
#[test]
fn a_forbid_carries_neither_mode_nor_expiry() {
    for annotation in ["@mode(\"shadow\")", "@expires(\"2030-01-01\")"] {
        let text = format!(
            "@id(\"a\")\n{annotation}\nforbid (principal, action, resource in Service::\"demo.test/shop/web\");"
        );
        let one = only(policy(&text), codes::FORBID_WEAKENED, 2, 1);
        assert!(one.cause.unwrap().contains("widen"));
    }
}

#[test]
fn values_are_checked_and_understood() {
    for bad in [
        "@mode(\"shadw\")",
        "@expires(\"soon\")",
        "@help_url(\"wiki\")",
        "@deny_message(\"a\\nb\")",
    ] {
        only(
            policy(&format!("@id(\"a\")\n{bad}\n{OPEN}")),
            codes::ANNOTATION_VALUE,
            2,
            1,
        );
    }
    let dir = copy();
    let text = format!(
        "@id(\"a\")\n@mode(\"shadow\")\n@expires(\"2026-12-31\")\n{OPEN}\n@id(\"b\")\n@expires(\"2026-12-31T00:00:00Z\")\n{OPEN}"
    );
    write(dir.path(), "policies/x.cedar", &text);
    let compiled = load(dir.path()).compiled.unwrap();
    let (a, b) = (&compiled.info["a"], &compiled.info["b"]);
    assert!(a.shadow && !b.shadow);
    assert_eq!(
        (a.expires_us, a.expires_us),
        (b.expires_us, Some(1_798_675_200_000_000))
    );
    assert_eq!((a.first_line, a.last_line, b.first_line), (1, 4, 5));
}

#[test]
fn a_template_is_refused() {
    only(
        policy("@id(\"a\")\npermit (principal == ?principal, action, resource);"),
        codes::TEMPLATE,
        1,
        1,
    );
}
