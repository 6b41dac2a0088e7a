//! A running proxy whose index is broken: it notices, denies, and says so.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{fs, process::Command};

use palisade::run::{self, Role};
use palisade_mesh::clock::Clock;
use palisade_pdp::decide::{SELF_CHECK_FIRST, faults};
use support::{
    http,
    inside::{config, control_plane, get, proxy, ready, start_app, statuses},
};

/// What the index does not find.
const LOST: &str = "no-drafts";
const FORBID: &str = "\n@id(\"no-drafts\")\n@owner(\"team-orders\")\nforbid (\n  principal,\n  \
    action in Action::\"http\",\n  resource in Service::\"demo.test/shop/orders\"\n)\n\
    when { context.http.path like \"/orders/draft*\" };\n";

/// A forbid that the index does not find lets requests through, until one of them is put
/// to Cedar's own authorizer as well; from then on it is denied, and `check`, `status` and
/// the metrics say that something is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_index_is_noticed_by_live_traffic() {
    faults::lose_policy(LOST);
    let home = support::Home::new();
    let policies = home.path("policies");
    support::copy(&support::sample_policies(), &policies);
    let file = policies.join("policies/orders.cedar");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + FORBID).unwrap();

    let name = format!("self-check-{}", std::process::id());
    let clock = Clock::system();
    let app = start_app().await;
    let sources = policies.display().to_string();
    let plane_config = config(&home.path("plane"), &control_plane(&name, &sources));
    let plane = run::control_plane(&plane_config, &Role::ALL, clock.clone())
        .await
        .unwrap();
    let pdp = plane.pdp.as_ref().unwrap().address;
    let audit = plane.audit.as_ref().unwrap().address.unwrap();
    let agent = plane_config.agent_socket();
    let mut proxies = Vec::new();
    for service in ["web", "orders"] {
        let yaml = proxy(&name, service, app, pdp, audit, &agent);
        let yaml = yaml + "  admin: { listen: \"127.0.0.1:0\" }\n";
        let config = config(&home.path(service), &yaml);
        proxies.push(run::proxy::start(&config, clock.clone()).await.unwrap());
    }
    let outbound = ready(&name).await;
    assert_eq!(get(outbound, "orders", "/orders").await, 200);
    let quiet = [&["check"][..], &["status"]].map(|verb| asked(&name, verb));
    assert!(
        quiet.iter().all(|said| !said.contains("Cedar")),
        "{quiet:?}"
    );

    let asks = 2 * SELF_CHECK_FIRST;
    let mut passed = 0;
    while get(outbound, "orders", "/orders/draft").await == 200 {
        passed += 1;
        assert!(passed <= asks, "not noticed in {passed} requests");
    }
    assert!(passed > 0, "the index was not broken");
    for _ in 0..3 {
        assert_eq!(get(outbound, "orders", "/orders/draft").await, 403);
    }
    assert_eq!(get(outbound, "orders", "/orders").await, 200);

    let check = asked(&name, &["check"]);
    assert!(check.contains("PLS5231"), "{check}");
    assert!(check.contains("✗ orders decides otherwise"), "{check}");
    let status = asked(&name, &["status"]);
    assert!(status.contains("✗ orders decides otherwise"), "{status}");
    let all = statuses(&name).await;
    let admin = all.iter().find(|p| p.instance == "orders").unwrap().admin;
    let reply = http::send(admin.unwrap(), "GET", "127.0.0.1", "/metrics", "").unwrap();
    let differed = "palisade_engine_self_checks_total{result=\"differed\"} 1";
    assert!(reply.body.contains(differed), "{}", reply.body);
    for proxy in proxies {
        proxy.end().await;
    }
    plane.end().await;
}

/// What a command says of the mesh in this process.
fn asked(name: &str, verb: &[&str]) -> String {
    let command = Command::new(env!("CARGO_BIN_EXE_palisade"))
        .args(verb)
        .args(["--mesh", name])
        .env("NO_COLOR", "1")
        .output();
    support::said(&command.unwrap())
}
