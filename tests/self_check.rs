//! A running proxy, and a running PDP, whose index is broken: it notices, denies, and says
//! so; and who does not trust the index does without it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{fs, net::SocketAddr, process::Command};

use palisade::run::{self, ControlPlane, Role};
use palisade_mesh::{clock::Clock, snapshot::Digest};
use palisade_pdp::decide::{SELF_CHECK_FIRST, faults};
use support::{
    decisions::request,
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
    // It is a record of the proxy's, for which the audit service has a rule.
    let query = "class:admin verb:engine_differs reporter:*/orders last:1h";
    support::wait_for(query, support::LIMIT, || {
        let found = asked(&name, &["audit", "search", query, "-o", "json"]);
        found.contains("1 of").then_some(())
    });
    for proxy in proxies {
        proxy.end().await;
    }
    plane.end().await;
}

/// A client that may ask about everybody.
const LINKS: &str =
    "@id(\"ci\") permit (principal is Client, action == Action::\"assert\", resource);\n";
const TOKEN: &str = "0123456789abcdef";

/// A control plane that answers the decision APIs with `engine`, and where it does.
async fn asked_plane(home: &support::Home, name: &str, engine: &str) -> (ControlPlane, SocketAddr) {
    faults::lose_policy(LOST);
    let dir = home.path(engine);
    let policies = dir.join("policies");
    support::copy(&support::sample_policies(), &policies);
    let file = policies.join("policies/orders.cedar");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + FORBID).unwrap();
    fs::create_dir_all(dir.join("links")).unwrap();
    fs::write(dir.join("links/mine.cedar"), LINKS).unwrap();
    let hash = Digest::of(TOKEN.as_bytes());
    fs::write(dir.join("tokens"), format!("ci {hash}\n")).unwrap();
    let plain = support::free_port();
    let yaml = control_plane(name, &policies.display().to_string()).replacen(
        "  listen: 127.0.0.1:0\naudit",
        &format!(
            "  listen: 127.0.0.1:0\n  engine: {engine}\n  decisions:\n    listen: 127.0.0.1:0\n    tokens: tokens\n    insecure_loopback: {plain}\naudit"
        ),
        1,
    ) + "  deliver:\n    - { name: ops, exec: [/bin/true] }\nlinks: links\n";
    let plane = run::control_plane(&config(&dir, &yaml), &Role::ALL, Clock::system())
        .await
        .unwrap();
    support::wait_for("a PDP that decides", support::LIMIT, || {
        drafts(plain).map(|_| ())
    });
    (plane, plain)
}

/// Whether `web` may read a draft; none while there is no revision.
fn drafts(plain: SocketAddr) -> Option<bool> {
    let asked = r#"{"subject":{"type":"workload","id":"web"},"action":{"name":"GET"},"resource":{"type":"url","id":"http://orders/orders/draft"},"context":{"tls":{"mtls":true}}}"#;
    let bearer = format!("Bearer {TOKEN}");
    let fields = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let mut stream = http::connect(plain).ok()?;
    let reply = request(&mut stream, "POST", "/access/v1/evaluation", &fields, asked).ok()?;
    let decided = (reply.status == 200).then(|| reply.json())?;
    decided["decision"].as_bool()
}

/// The same through the decision APIs: noticed by a sample, denied from then on, and told by
/// `check`, `status` and the metrics of the PDP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_index_is_noticed_by_those_who_ask_the_pdp() {
    let home = support::Home::new();
    let name = format!("asked-{}", std::process::id());
    let (plane, plain) = asked_plane(&home, &name, "indexed").await;
    let quiet = [&["check"][..], &["status"]].map(|verb| asked(&name, verb));
    assert!(
        quiet.iter().all(|said| !said.contains("Cedar")),
        "{quiet:?}"
    );
    let mut passed = 0;
    while drafts(plain) == Some(true) {
        passed += 1;
        assert!(
            passed <= 2 * SELF_CHECK_FIRST,
            "not noticed in {passed} questions"
        );
    }
    assert!(passed > 0, "the index was not broken");
    for _ in 0..3 {
        assert_eq!(drafts(plain), Some(false));
    }
    let check = asked(&name, &["check"]);
    assert!(check.contains("PLS5231"), "{check}");
    assert!(check.contains("✗ the PDP decides otherwise"), "{check}");
    let status = asked(&name, &["status"]);
    assert!(status.contains("✗ the PDP decides otherwise"), "{status}");
    let differed = "palisade_engine_self_checks_total{result=\"differed\"} 1";
    let metrics = metrics(&name);
    assert!(metrics.contains(differed), "{metrics}");
    // It is a record of its own, and an alert that nobody had to configure.
    for (query, word) in [
        ("class:admin verb:engine_differs", "1 of"),
        ("class:alert rule:palisade-engine verb:fired", "critical"),
    ] {
        support::wait_for(query, support::LIMIT, || {
            let found = asked(&name, &["audit", "search", query, "last:1h", "-o", "json"]);
            found.contains(word).then_some(())
        });
    }
    plane.end().await;
}

/// With the reference switched in the lost policy counts from the first question on, and
/// `status` says who decides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pdp_that_decides_by_the_reference_does_not_need_the_index() {
    let home = support::Home::new();
    let name = format!("by-reference-{}", std::process::id());
    let (plane, plain) = asked_plane(&home, &name, "reference").await;
    for _ in 0..3 {
        assert_eq!(drafts(plain), Some(false));
    }
    let status = asked(&name, &["status"]);
    assert!(
        status.contains("decided by Cedar's own authorizer"),
        "{status}"
    );
    let metrics = metrics(&name);
    let none = "palisade_engine_self_checks_total{result=\"differed\"} 0";
    assert!(metrics.contains(none), "{metrics}");
    plane.end().await;
}

/// What the PDP counts, from its local socket.
fn metrics(name: &str) -> String {
    let socket = palisade::control::socket(name, "control");
    http::over_unix(&socket, "/v1/pdp/metrics").unwrap().body
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
