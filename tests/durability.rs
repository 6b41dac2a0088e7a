//! Roles that die without a word, under load.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{collections::BTreeSet, fs, path::Path};

use support::{
    Home, LIMIT,
    demo::one_at_a_time,
    mesh::{Separate, pause, to_orders},
    wait_for,
};

/// Calls of web per second, to orders and, where nobody listens, to inventory.
const RATE: f64 = 60.0;

/// Every record that was acknowledged, and every one that was not yet, is in the log
/// once.
#[test]
fn kill_9_of_audit_loses_and_repeats_no_record() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    let before = decided_so_far(&home, 1);
    mesh.start_calls(RATE);
    for _ in 0..3 {
        mesh.wait_for_calls(60);
        mesh.kill("audit");
        mesh.wait_for_calls(60);
        mesh.start("audit");
        wait_for("an audit service that answers", LIMIT, || home.decisions());
    }
    mesh.wait_for_calls(60);
    let tally = pause(&mesh);
    all_are_there_once(&home, before + to_orders(&tally));
}

/// Without the whole control plane but the agent, proxies decide, and spool.
#[test]
fn proxies_go_on_without_ca_pdp_and_audit() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    let before = decided_so_far(&home, 1);
    mesh.start_calls(RATE);
    mesh.wait_for_calls(60);
    for role in ["ca", "pdp", "audit"] {
        mesh.kill(role);
    }
    let spool = home.path("state-orders/spool");
    let spooled = size(&spool);
    mesh.wait_for_calls(300);
    let said = wait_for("a word about waiting records", LIMIT, || {
        let said = support::said(&home.run(&["check"]));
        said.contains("PLS5103").then_some(said)
    });
    for role in ["ca", "pdp", "audit"] {
        assert!(said.contains(&format!("answers for `{role}`")), "{said}");
    }
    let grown = size(&spool) - spooled;
    println!("spool grew by {grown} bytes");
    assert!(grown > 10_000, "{grown}");
    for role in ["ca", "audit", "pdp"] {
        mesh.start(role);
    }
    mesh.wait_for_calls(60);
    let tally = pause(&mesh);
    all_are_there_once(&home, before + to_orders(&tally));
    wait_for("empty spools", LIMIT, || {
        let status = home.json(&["status"]);
        let proxies = status["pdp"][0]["proxies"].as_array()?.clone();
        (proxies.len() == 2 && proxies.iter().all(|p| p["spooled"] == 0)).then_some(())
    });
}

/// A proxy that starts while its PDP is down takes policy and endpoints from its disk.
#[test]
fn a_proxy_starts_from_its_disk() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    let before = wait_for("the request that made it ready", LIMIT, || {
        allowed_so_far(&home).filter(|n| *n > 0)
    });
    for role in ["ca", "pdp", "audit"] {
        mesh.kill(role);
    }
    for proxy in ["proxy-orders", "proxy-web"] {
        mesh.end(proxy);
        mesh.start(proxy);
        mesh.wait_until_ready();
    }
    assert_eq!(mesh.get("/nowhere"), Some(403));
    for role in ["ca", "audit", "pdp"] {
        mesh.start(role);
    }
    // Other probes may have met a proxy without policy yet, which is a record, too.
    let granted = wait_for("every allowed request in the log", LIMIT, || {
        let granted = allowed_so_far(&home)?;
        (granted >= before + 2).then_some(granted)
    });
    assert_eq!(granted, before + 2);
    assert_eq!(
        home.rows("decision:not_permitted last:1h").unwrap().len(),
        1
    );
    all_are_there_once(&home, home.decisions().unwrap());
}

/// Waits until the log holds the decisions that were made to see the mesh ready.
fn decided_so_far(home: &Home, n: u64) -> u64 {
    wait_for("the first decisions", LIMIT, || {
        home.decisions().filter(|d| *d >= n)
    })
}

/// How many requests the log knows that were allowed.
fn allowed_so_far(home: &Home) -> Option<u64> {
    Some(home.rows("decision:allow last:1h")?.len() as u64)
}

fn all_are_there_once(home: &Home, expected: u64) {
    let mut seen = None;
    let decisions = wait_for("every decision in the log", LIMIT, || {
        let now = home.decisions();
        if seen != now {
            println!("{now:?} of {expected} decisions");
            seen = now;
        }
        now.filter(|n| *n >= expected)
    });
    assert_eq!(decisions, expected);
    let rows = home.rows("class:decision last:1h").unwrap();
    let ids: BTreeSet<&str> = rows.iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len() as u64, expected);
    let report = home.json(&["audit", "verify"]);
    assert_eq!(report["findings"], serde_json::json!([]));
    for stream in report["streams"].as_array().unwrap() {
        assert_eq!(stream["missing"], serde_json::json!([]), "{stream}");
    }
    home.says(&["audit", "verify"], 0);
}

/// Bytes in a folder and below.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(at) if at.is_dir() => size(&entry.path()),
            Ok(at) => at.len(),
            Err(_) => 0,
        })
        .sum()
}
