//! Rollouts of a PDP whose policy no proxy enforces: whoever enforces it asks the decision APIs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Home, LIMIT, decisions::Desk, wait_for};

const DOMAIN: &str = "acme.test";
const LINKS: &str = r#"
@id("the-pipeline-asks-anything")
permit (principal is Client, action == Action::"assert", resource)
when { principal.name == "ci" };
"#;
const FILES: &[(&str, &str)] = &[
    ("palisade.yaml", "trust_domain: acme.test\n"),
    (
        "services/orders.yaml",
        "service: shop/orders\nidentities: [ns/shop/sa/orders]\nhosts: [orders]\noperations:\n  - { name: list, match: GET /orders }\n  - { name: refund, match: POST /refunds }\n",
    ),
    (
        "services/web.yaml",
        "service: shop/web\nidentities: [ns/shop/sa/web]\nhosts: [web]\n",
    ),
    ("policies/shop.cedar", BEFORE),
];
const BEFORE: &str = r#"
@id("list")
permit (principal in Service::"acme.test/shop/web", action, resource == Operation::"acme.test/shop/orders/list");
"#;
const REFUND: &str = r#"
@id("refund")
permit (principal in Service::"acme.test/shop/web", action, resource == Operation::"acme.test/shop/orders/refund");
"#;

/// Every phase is short, and needs a few decisions.
const PLAN: &str = "rollout:
  shadow: 1s
  canary:
    - { services: [shop/orders], for: 1s }
    - { share: 50%, for: 1s }
  watch: 1s
  patience: 60s
  ready_within: 8s
  min_decisions: 5
";

fn home() -> Home {
    let home = Home::new();
    for (name, text) in FILES {
        let path = home.path("policies").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    home
}

fn write(home: &Home, policies: &str) {
    fs::write(home.path("policies/policies/shop.cedar"), policies).unwrap();
}

/// Whether the web may do `name` of orders, as one that asks is told.
fn asks(desk: &Desk<'_>, name: &str) -> bool {
    let asked = json!({
        "subject": { "type": "workload", "id": "ns/shop/sa/web" },
        "action": { "name": if name == "list" { "GET" } else { "POST" } },
        "resource": { "type": "operation", "id": format!("shop/orders/{name}") },
    });
    let answer = desk.answer("/access/v1/evaluation", &asked.to_string());
    answer["decision"] == true
}

fn rollout(home: &Home) -> Option<Value> {
    let output = home.run(&["rollout", "status", "-o", "json"]);
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    status.get("phase").is_some().then_some(status)
}

/// Asks as an application does until the rollout has come to `phase`.
fn reaches(desk: &Desk<'_>, phase: &str) -> Value {
    wait_for(phase, LIMIT, || {
        assert!(asks(desk, "list"), "what was allowed stays so");
        let status = rollout(desk.home)?;
        (status["phase"] == phase).then_some(status)
    })
}

fn turns(status: &Value) -> Vec<String> {
    let turns = status["turns"].as_array().unwrap();
    let what = turns.iter().map(|turn| turn["what"].as_str().unwrap());
    what.map(str::to_owned).collect()
}

/// The APIs are where policy is enforced: what they are asked takes a revision through every
/// phase, and with nobody else there it arrives.
#[test]
fn without_a_proxy_a_revision_arrives_by_what_the_apis_are_asked() {
    let home = home();
    let desk = Desk::ready_with_pdp(&home, DOMAIN, LINKS, PLAN);
    assert!(!asks(&desk, "refund"));
    write(&home, &[BEFORE, REFUND].concat());
    let status = reaches(&desk, "completed");
    let phases = turns(&status);
    for phase in [
        "planned",
        "shadow",
        "canary 1 (shop/orders)",
        "canary 2 (50%)",
        "full",
    ] {
        assert!(phases.iter().any(|p| p == phase), "{phase}: {status}");
    }
    assert!(asks(&desk, "refund"), "the new revision decides");
    let places = status["proxies"].as_array().unwrap();
    let apis = places.iter().find(|p| p["apis"] == true).unwrap();
    assert_eq!(places.len(), 1, "{places:?}");
    assert_eq!((&apis["wanted"], &apis["enforces"]), (&json!(2), &json!(2)));
}

/// Questions that the candidate would deny halt it in shadow, and nobody was ever denied.
#[test]
fn what_flips_for_those_who_ask_halts_a_rollout() {
    let home = home();
    let desk = Desk::ready_with_pdp(&home, DOMAIN, LINKS, PLAN);
    write(&home, REFUND);
    let status = reaches(&desk, "rolled_back");
    assert_eq!(status["stopped"]["by"], "gate", "{status}");
    let why = status["stopped"]["why"].as_str().unwrap();
    assert!(why.starts_with("newly_denied"), "{why}");
    assert!(!asks(&desk, "refund") && asks(&desk, "list"));
}

/// Nobody asks: a revision of which nothing was seen is not put in force.
#[test]
fn apis_that_nobody_asks_let_nothing_pass() {
    let home = home();
    let plan = PLAN.replace("patience: 60s", "patience: 1s");
    let desk = Desk::ready_with_pdp(&home, DOMAIN, LINKS, &plan);
    write(&home, &[BEFORE, REFUND].concat());
    let status = wait_for("a rollout that ends", LIMIT, || {
        rollout(&home).filter(|status| status["phase"] == "rolled_back")
    });
    let why = status["stopped"]["why"].as_str().unwrap();
    assert!(why.contains("of 5 decisions were seen in time"), "{why}");
    assert!(!asks(&desk, "refund"));
}
