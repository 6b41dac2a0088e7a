//! What is said about Cedar text.

use super::*;

#[test]
fn a_syntax_error_is_placed_and_its_expectations_condensed() {
    let found =
        policy("@id(\"a\")\npermit (principal, action, resource)\nwhen { context.tls.mtls \n");
    let one = only(found, codes::CEDAR_SYNTAX, 3, 23);
    assert!(one.label.clone().unwrap_or_default().len() < 60, "{one:#?}");
    assert!(one.help.is_some());
}

#[test]
fn several_files_tell_all_their_mistakes_at_once() {
    let dir = copy();
    write(
        dir.path(),
        "policies/a.cedar",
        "permit (principal action, resource);",
    );
    write(
        dir.path(),
        "policies/b.cedar",
        "permit (principal, action, resource) when { 1 };",
    );
    write(dir.path(), "services/web.yaml", "servce: shop/web\n");
    write(dir.path(), "entities/groups.yaml", "groups: [a]\n");
    let found = load(dir.path()).diagnostics;
    let files: HashSet<_> = found
        .iter()
        .map(|d| d.location.as_ref().unwrap().file.to_string())
        .collect();
    for file in [
        "policies/a.cedar",
        "policies/b.cedar",
        "services/web.yaml",
        "entities/groups.yaml",
    ] {
        assert!(files.contains(file), "{file} in {found:#?}");
    }
}

/// What the sample says when it has mistakes in many kinds of files: code and file.
fn all_of(files: &[(&str, &str)]) -> Vec<(u16, String)> {
    let dir = copy();
    for (name, text) in files {
        write(dir.path(), name, text);
    }
    let loaded = load(dir.path());
    assert!(loaded.compiled.is_none());
    let linted = lint::run(dir.path(), &lint::Options::default()).unwrap();
    let mut found = loaded.diagnostics;
    found.extend(tables::mistakes(dir.path()));
    let told = |found: &[Diagnostic]| -> Vec<(u16, String)> {
        let errors = found.iter().filter(|d| d.is_error());
        let told = errors.map(|d| {
            let at = d.location.as_ref().expect("located");
            (d.code.0, at.file.to_string())
        });
        let mut told: Vec<_> = told.collect();
        told.sort_unstable();
        told
    };
    assert_eq!(
        told(&linted.findings),
        told(&found),
        "the lint tells the same"
    );
    told(&found)
}

const GTE: (&str, &str) = (
    "policies/gte.cedar",
    "@id(\"gte\") permit (principal, action == Action::\"GTE\", resource in Service::\"demo.test/shop/orders\");",
);

/// One mistake in each kind of file, and one run tells them all.
#[test]
fn a_mistake_in_each_kind_of_file_is_told_at_once() {
    let found = all_of(&[
        GTE,
        (
            "policies/wbe.cedar",
            "forbid (principal == Workload::\"spiffe://demo.test/ns/shop/sa/wbe\", action, resource);",
        ),
        ("services/x.yaml", "service: shop/x\nhosst: [x]\n"),
        ("entities/x.yaml", "groups:\n  x: { servces: [shop/web] }\n"),
        (
            "invariants/x.cedar",
            "@id(\"i\") permit (principal, action, resource);",
        ),
        (
            "tests/a.yaml",
            "tests:\n  - { principle: web, principal: web, request: GET orders/orders, expect: allow }\n",
        ),
        ("tests/b.yaml", "tests: [\n"),
        ("tests/fixtures/c.yaml", "principal: {}\n"),
        ("tests/bad.json", "[{]"),
    ]);
    let expected = [
        (codes::YAML_SYNTAX, "tests/b.yaml"),
        (codes::UNKNOWN_KEY, "entities/x.yaml"),
        (codes::UNKNOWN_KEY, "services/x.yaml"),
        (codes::UNKNOWN_KEY, "tests/a.yaml"),
        (codes::UNKNOWN_KEY, "tests/fixtures/c.yaml"),
        (codes::UNKNOWN_ACTION, "policies/gte.cedar"),
        (codes::ID_MISSING, "policies/wbe.cedar"),
        (codes::UNKNOWN_ENTITY, "policies/wbe.cedar"),
        (codes::TEST_JSON, "tests/bad.json"),
        (codes::INVARIANT_PERMIT, "invariants/x.cedar"),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(c, f)| (*c, (*f).to_owned()))
        .collect();
    assert_eq!(found, expected);
}

/// What is not there because of another mistake is not told as well.
#[test]
fn a_follow_up_of_a_mistake_is_not_told() {
    let about = |action: &str| {
        format!(
            "@id(\"x\") permit (principal, action == Action::\"{action}\", resource in Service::\"demo.test/shop/orders\");"
        )
    };
    let service =
        "service: shop/x\noperations:\n  - { name: a, match: GET /, actoin: \"x:read\" }\n";
    for (file, text, action, told) in [
        // The operation lacks its action, and nobody knows what the file would have given.
        ("services/x.yaml", service, "x:read", false),
        ("services/x.yaml", "service: [", "x:read", false),
        ("services/x.yaml", "service: [", "GTE", true),
        (
            "services/x.yaml",
            "service: shop/x\nhosst: [x]\n",
            "x:read",
            true,
        ),
        (
            "services/x.yaml",
            "service: shop/x\noperatoins:\n  - { name: a, match: GET /, action: \"x:read\" }\n",
            "x:read",
            false,
        ),
        (
            "services/x.yaml",
            "service: shop/x\nops:\n  - { name: a, match: GET /, action: \"x:read\" }\n",
            "x:read",
            false,
        ),
        (
            "services/x.yaml",
            "service: shop/x\noperations:\n  - { name: a, match: GET /, does: \"x:read\" }\n",
            "x:read",
            false,
        ),
        ("entities/x.yaml", "groups: [", "x:read", true),
    ] {
        let found = all_of(&[(file, text), ("policies/x.cedar", &about(action))]);
        let is_told = found.iter().any(|(code, _)| *code == codes::UNKNOWN_ACTION);
        assert_eq!(is_told, told, "{text} {action}: {found:?}");
    }
    let group = "@id(\"x\") forbid (principal in Group::\"lost\", action, resource);";
    let workload = "@id(\"x\") forbid (principal == Workload::\"spiffe://demo.test/ns/shop/sa/wbe\", action, resource);";
    for (text, told) in [(group, false), (workload, true)] {
        let found = all_of(&[("entities/x.yaml", "groups: ["), ("policies/x.cedar", text)]);
        let is_told = found.iter().any(|(code, _)| *code == codes::UNKNOWN_ENTITY);
        assert_eq!(is_told, told, "{text}: {found:?}");
    }
}

/// A key that was mistyped declares nothing; whoever names what it was to declare is right.
#[test]
fn what_a_mistyped_key_was_to_declare_is_not_told_to_be_missing() {
    let group = "forbid (principal in Group::\"lost\", action, resource);";
    let workload = "forbid (principal == Workload::\"spiffe://demo.test/ns/shop/sa/spare\", action, resource);";
    let operation = "forbid (principal, action, resource == Operation::\"demo.test/shop/x/a\");";
    let operations = "service: shop/x\nKEY:\n  - { name: a, match: GET / }\n";
    let identities = "service: shop/x\nKEY: [ns/shop/sa/spare]\n";
    let groups = "KEY:\n  lost: { services: [shop/web] }\n";
    for (file, text, key, policy, told) in [
        (
            "services/x.yaml",
            operations,
            "operatoins",
            operation,
            false,
        ),
        ("services/x.yaml", operations, "ops", operation, false),
        ("services/x.yaml", identities, "identites", workload, false),
        ("services/x.yaml", identities, "labelz", workload, true),
        ("entities/x.yaml", groups, "grups", group, false),
        ("entities/x.yaml", groups, "teams", group, false),
        ("entities/x.yaml", groups, "servces", group, true),
    ] {
        let policy = format!("@id(\"x\") {policy}");
        let text = text.replace("KEY", key);
        let found = all_of(&[(file, text.as_str()), ("policies/x.cedar", policy.as_str())]);
        let mut expected = vec![codes::UNKNOWN_KEY];
        expected.extend(told.then_some(codes::UNKNOWN_ENTITY));
        let codes: Vec<u16> = found.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, expected, "{key}: {found:?}");
    }
}

/// A policy whose id is no good is checked like any other.
#[test]
fn a_policy_without_a_usable_id_has_its_other_mistakes_told() {
    let rest = "forbid (principal == Workload::\"spiffe://demo.test/ns/shop/sa/wbe\", action == Action::\"GTE\", resource)\nwhen { principal.namespace == Namespace::\"demo.test/shop\" };";
    let free = rest.replace("action == Action::\"GTE\"", "action");
    for (id, code) in [
        ("", codes::ID_MISSING),
        ("@id(\"a b\")", codes::ID_INVALID),
        ("@id(\"require-mtls\")", codes::ID_TWICE),
    ] {
        let text = format!("{id}\n{rest}\n{id} {free}");
        let mut found: Vec<u16> = policy(&text).iter().map(|d| d.code.0).collect();
        found.sort_unstable();
        let mut expected = vec![
            codes::UNKNOWN_ACTION,
            code,
            code,
            codes::FORBID_OPTIONAL,
            codes::UNKNOWN_ENTITY,
            codes::UNKNOWN_ENTITY,
        ];
        expected.sort_unstable();
        assert_eq!(found, expected, "{id}");
    }
    // Where its id is another's, it is called by both.
    let id = "@id(\"require-mtls\")";
    let skipped = |text: &str| -> Vec<String> {
        let found = policy(text).into_iter();
        let skipped = found.filter(|d| d.code.0 == codes::FORBID_OPTIONAL);
        skipped.map(|d| d.message).collect()
    };
    let name = "require-mtls (policies/x.cedar line 2)";
    let one = format!("\n{id} {free}\n");
    assert_eq!(skipped(&one), [format!("forbid `{name}` may be skipped")]);
    let two = format!("\n{id} {} {id} {free}\n", free.replace('\n', " "));
    let byte = two.rfind("@id").unwrap();
    let names = [name.to_owned(), format!("{name} byte {byte}")];
    assert_eq!(
        skipped(&two),
        names.map(|name| format!("forbid `{name}` may be skipped"))
    );
}

#[test]
fn a_mistyped_action_is_one_message() {
    let text = "@id(\"a\")\npermit (principal, action == Action::\"GTE\", resource in Service::\"demo.test/shop/orders\");";
    let one = only(policy(text), codes::UNKNOWN_ACTION, 2, 30);
    assert_eq!(one.message, "action `GTE` is not in the schema");
    assert_eq!(
        one.label.as_deref(),
        Some("did you mean `Action::\"GET\"`?")
    );
    assert_eq!(marked(&one), "Action::\"GTE\"");
    assert!(one.cause.unwrap().contains("impossible to match"));
}

#[test]
fn a_mistyped_type_is_one_message() {
    let text = "@id(\"a\")\npermit (principal is Worklod, action, resource in Service::\"demo.test/shop/orders\");";
    let one = only(policy(text), codes::UNKNOWN_TYPE, 2, 22);
    assert_eq!(one.label.as_deref(), Some("did you mean `Workload`?"));
}

#[test]
fn an_unknown_attribute_or_header_is_placed() {
    let text = "@id(\"a\")\npermit (principal, action, resource in Service::\"demo.test/shop/orders\")\nwhen { context.tls.mtl };";
    let one = only(policy(text), codes::UNKNOWN_ATTRIBUTE, 3, 8);
    assert_eq!(
        one.message,
        "policy `a`: `context.tls.mtl` is not in the schema"
    );
    assert_eq!(one.label.as_deref(), Some("did you mean `mtls`?"));
    let text = "@id(\"a\")\npermit (principal, action in Action::\"http\", resource)\nwhen { context.http.headers has \"x-none\" && context.http.headers[\"x-none\"] == \"1\" };";
    let found = policy(text);
    assert!(
        found
            .iter()
            .all(|d| matches!(d.code.0, codes::UNKNOWN_ATTRIBUTE | codes::IMPOSSIBLE)),
        "{found:#?}"
    );
}

/// Attack T62, in the words of the message standard.
#[test]
fn a_forbid_that_reads_an_optional_attribute_says_what_would_happen() {
    let text = "@id(\"a\")\nforbid (principal, action in Action::\"http:write\", resource)\nunless { context.http.headers[\"x-change-id\"] like \"CHG-*\" };";
    let one = only(policy(text), codes::FORBID_OPTIONAL, 3, 10);
    assert_eq!(one.message, "forbid `a` may be skipped");
    assert_eq!(
        one.label.as_deref(),
        Some("optional attribute read without `has`")
    );
    assert!(one.cause.unwrap().contains("ALLOWED"));
    let help = one.help.unwrap();
    assert!(
        help.contains("has") && help.contains("x-change-id"),
        "{help}"
    );
    let permit = text.replace("forbid", "permit").replace("unless", "when");
    only(policy(&permit), codes::PERMIT_OPTIONAL, 3, 8);
}

#[test]
fn a_guard_is_suggested_in_the_author_s_words() {
    let text = "@id(\"a\")\nforbid (principal is Workload, action, resource)\nwhen { principal.namespace == Namespace::\"demo.test/shop\" };";
    let one = only(policy(text), codes::FORBID_OPTIONAL, 3, 8);
    let help = "say what a request without it is: in `when`, `principal has namespace && principal.namespace` spares it, and `!(principal has namespace) || principal.namespace` forbids it, too";
    assert_eq!(one.help.as_deref(), Some(help));
    let permit = text.replace("forbid", "permit");
    let one = only(policy(&permit), codes::PERMIT_OPTIONAL, 3, 8);
    let help = "ask first: `principal has namespace && principal.namespace`";
    assert_eq!(one.help.as_deref(), Some(help));
}

/// A tag may be missing as an attribute may.
#[test]
fn a_tag_that_is_read_without_asking_is_told_as_an_optional_attribute_is() {
    let text = "@id(\"a\")\nforbid (principal is Workload, action, resource)\nwhen { principal.getTag(\"b\") == \"x\" };";
    let one = only(policy(text), codes::FORBID_OPTIONAL, 3, 8);
    assert_eq!(one.message, "forbid `a` may be skipped");
    assert_eq!(
        one.label.as_deref(),
        Some("optional tag read without `hasTag`")
    );
    let help = "say what a request without it is: in `when`, `principal.hasTag(\"b\") && principal.getTag(\"b\") == \"…\"` spares it, and `!(principal.hasTag(\"b\")) || principal.getTag(\"b\") == \"…\"` forbids it, too";
    assert_eq!(one.help.as_deref(), Some(help));
    let permit = text.replace("forbid", "permit");
    let one = only(policy(&permit), codes::PERMIT_OPTIONAL, 3, 8);
    let help = "ask first: `principal.hasTag(\"b\") && principal.getTag(\"b\") == \"…\"`";
    assert_eq!(one.help.as_deref(), Some(help));
    for text in [text, &permit] {
        let asked = text.replace("{ ", "{ principal.hasTag(\"b\") && ");
        assert_eq!(policy(&asked), []);
    }
    // One tag in another, and in a text: the outer one is asked for.
    for tag in ["resource.getTag(\"x\")", "\"a.getTag(\\\"\""] {
        let text = format!(
            "@id(\"a\")\npermit (principal is Workload, action, resource is Service)\nwhen {{ resource.hasTag(\"x\") && principal.getTag({tag}) == \"x\" }};"
        );
        let one = only(policy(&text), codes::PERMIT_OPTIONAL, 3, 32);
        let help =
            format!("ask first: `principal.hasTag({tag}) && principal.getTag({tag}) == \"…\"`");
        assert_eq!(one.help, Some(help));
    }
}

#[test]
fn what_only_some_callers_or_actions_have_is_told_as_that() {
    let text = "@id(\"a\")\npermit (principal, action, resource in Service::\"demo.test/shop/web\")\nwhen { principal has namespace && principal.namespace == Namespace::\"demo.test/shop\" };";
    assert_eq!(policy(text), []);
    let text = "@id(\"a\")\npermit (principal, action, resource in Service::\"demo.test/shop/web\")\nwhen { context.http.method == \"GET\" };";
    let one = only(policy(text), codes::UNKNOWN_ATTRIBUTE, 3, 8);
    assert_eq!(one.label, None);
    assert!(one.help.unwrap().contains("action in Action::\"http\""));
}

#[test]
fn types_functions_and_levels_are_told_apart() {
    let body = |b: &str| {
        format!(
            "@id(\"a\")\npermit (principal is Workload, action in Action::\"http\", resource)\nwhen {{ {b} }};"
        )
    };
    only(policy(&body("context.http.path == 1")), codes::TYPES, 3, 8);
    let level =
        "principal has service && principal.service has tier && principal.service.tier == \"x\"";
    let found = policy(&body(level));
    assert!(
        found.iter().all(|d| d.code.0 == codes::LEVEL) && !found.is_empty(),
        "{found:#?}"
    );
    only(
        policy(&body("context.source.ip == ip(\"x\")")),
        codes::FUNCTION,
        3,
        29,
    );
}

#[test]
fn an_impossible_policy_is_an_error_with_a_reason() {
    let text = "@id(\"a\")\npermit (principal is User, action, resource);";
    let one = only(policy(text), codes::IMPOSSIBLE, 2, 1);
    assert!(one.is_error() && one.message == "policy `a` can never match");
    assert_eq!(
        one.cause.as_deref(),
        Some(
            "`principal is User` and `action` cannot both hold: that takes `Unregistered` or `Workload`"
        )
    );
}

/// A scope that no action has is told by the two parts of it that never meet.
#[test]
fn an_impossible_scope_names_the_two_parts() {
    for (scope, cause) in [
        (
            "principal is Group, action == Action::\"GET\", resource",
            "`principal is Group` and `action == Action::\"GET\"` cannot both hold: that takes `Unregistered` or `Workload`",
        ),
        (
            "principal, action in Action::\"http\", resource is User",
            "`resource is User` and `action in Action::\"http\"` cannot both hold: that takes `Operation` or `Service`",
        ),
        (
            "principal is Workload, action == Action::\"call\", resource",
            "`principal is Workload` and `action == Action::\"call\"` cannot both hold: that applies to nothing",
        ),
        (
            "principal is Workload in User::\"x\", action, resource is Service",
            "`principal is Workload in User::\"x\"` holds for nothing: no `Workload` is in any `User`",
        ),
        (
            "principal, action, resource is Service in Operation::\"demo.test/shop/orders/list\"",
            "`resource is Service in Operation::\"demo.test/shop/orders/list\"` holds for nothing: no `Service` is in any `Operation`",
        ),
    ] {
        let text = format!("@id(\"a\")\nforbid ({scope});");
        let one = only(policy(&text), codes::IMPOSSIBLE, 2, 1);
        assert!(one.is_error());
        assert_eq!(one.cause.as_deref(), Some(cause), "{scope}");
    }
}

#[test]
fn confusable_characters_are_an_error() {
    let text = "@id(\"a\")\npermit (principal, action in Action::\"http\", resource)\nwhen { context.http.path == \"/\u{430}dmin\" };";
    let one = only(policy(text), codes::CONFUSABLE, 3, 29);
    assert!(one.is_error());
}
