//! What a policy repository may say (T94, T96, T106), and how long it may take.

use std::{fs, time::Instant};

use crate::{
    guarded::{BOUND, write_repository},
    support::{Home, said},
};

/// Validates the cases' repository with these files; gives what is said.
fn validate(files: &[(&str, String)]) -> (bool, String) {
    let home = Home::new();
    write_repository(&home, files);
    let output = home.run(&["policy", "validate", "policies"]);
    (output.status.success(), said(&output))
}

#[test]
fn t94_huge_and_deep_policies_end_in_bounded_time() {
    let permit = |n: usize, when: &str| {
        format!(
            "@id(\"p{n}\")\npermit (principal in Service::\"acme.test/shop/web\", action, resource == Operation::\"acme.test/shop/orders/public\") when {{ {when} }};\n"
        )
    };
    let like = |pattern: &str| {
        permit(
            1,
            &format!("context has http && context.http.path like \"{pattern}\""),
        )
    };
    let cases = [
        // A pattern of a megabyte is longer than a file may be.
        (like(&"*a".repeat(1 << 19)), false),
        (like(&"*a".repeat(1 << 18)), true),
        (
            permit(
                1,
                &format!("{}true{}", "(".repeat(100_000), ")".repeat(100_000)),
            ),
            false,
        ),
        (permit(1, &"!".repeat(100_000)), false),
        (permit(1, &["true"; 100_000].join(" && ")), false),
        ("permit(principal, action, resource);".repeat(2_000), false),
        ("@id(".repeat(100_000), false),
    ];
    for (text, good) in cases {
        let started = Instant::now();
        let (passed, told) = validate(&[("policies/hostile.cedar", text)]);
        assert!(started.elapsed() < BOUND * 6, "{:?}", started.elapsed());
        assert!(told.len() < 1 << 20, "an answer of {} bytes", told.len());
        assert_eq!(
            passed,
            good,
            "{}",
            told.chars().take(500).collect::<String>()
        );
    }
}

#[test]
fn t94_a_thousand_rules_more_are_no_harm() {
    let rules = |from: usize| -> String {
        (from..from + 1_000)
            .map(|n| format!("@id(\"r{n}\")\npermit (principal in Service::\"acme.test/shop/web\", action == Action::\"GET\", resource == Operation::\"acme.test/shop/orders/public\");\n"))
            .collect()
    };
    let files: Vec<_> = ["policies/a.cedar", "policies/b.cedar"]
        .into_iter()
        .zip([0, 1_000])
        .map(|(path, from)| (path, rules(from)))
        .collect();
    let started = Instant::now();
    let (passed, told) = validate(&files);
    assert!(passed, "{told}");
    assert!(started.elapsed() < BOUND * 6, "{:?}", started.elapsed());
}

/// A rule on a header that the client chooses cannot rename what is decided: an
/// operation has a host, methods and a path, and nothing else is understood.
#[test]
fn t96_a_client_chosen_header_is_no_part_of_an_operation() {
    for key in [
        "headers: { x-canary: yes }",
        "header: x-canary",
        "query: v=2",
        "weight: 10",
    ] {
        let service = format!(
            "service: shop/orders\nidentities: [ns/shop/sa/orders]\noperations:\n  - {{ name: public, match: \"* /public/{{*rest}}\", {key} }}\n  - {{ name: admin, match: \"* /admin/{{*rest}}\" }}\n"
        );
        let (passed, told) = validate(&[("services/orders.yaml", service)]);
        assert!(!passed, "{key}: {told}");
        assert!(told.contains("services/orders.yaml"), "{told}");
    }
}

#[test]
fn t106_a_forbid_neither_expires_nor_is_tried_out() {
    for annotation in ["@expires(\"2027-01-01T00:00:00Z\")", "@mode(\"shadow\")"] {
        let policy = format!(
            "@id(\"f\")\n{annotation}\nforbid (principal, action, resource == Operation::\"acme.test/shop/orders/public\");\n"
        );
        let (passed, told) = validate(&[("policies/f.cedar", policy)]);
        assert!(!passed && told.contains("policies/f.cedar"), "{told}");
    }
    let home = Home::new();
    write_repository(&home, &[]);
    assert!(fs::exists(home.path("policies/palisade.yaml")).unwrap());
    assert!(
        home.run(&["policy", "validate", "policies"])
            .status
            .success()
    );
}
