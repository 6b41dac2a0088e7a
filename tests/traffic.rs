//! Nothing is lost to rotation, and every request leaves exactly one decision.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use support::{
    Home, LIMIT,
    demo::{Demo, SHOP},
    wait_for,
};

/// The shortest certificates, so that each is renewed several times.
#[test]
fn every_request_has_one_decision_while_certificates_rotate() {
    rotate("10s", Duration::from_secs(40), 5);
}

/// As the demo is by default, for long.
#[test]
#[ignore = "takes ten minutes"]
fn ten_minutes_of_one_minute_certificates_lose_nothing() {
    rotate("60s", Duration::from_secs(600), 15);
}

/// Traffic for `span`, in which each service gets at least `certificates`.
fn rotate(ttl: &str, span: Duration, certificates: u64) {
    let home = Home::new();
    let demo = Demo::start(&home, &["--svid-ttl", ttl]);
    let end = Instant::now() + span;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
    let tallies = demo.pause();
    let sent: u64 = tallies.values().map(|t| t.sent).sum();
    for fault in home.rows("status:>=500").into_iter().flatten() {
        println!("{fault}");
    }
    for (name, tally) in &tallies {
        println!("{name}: {tally:?}");
        assert_eq!((tally.failed, tally.faults()), (0, 0), "{name}: {tally:?}");
    }
    let decisions = wait_for("a decision for each request", LIMIT, || {
        home.decisions().filter(|n| *n >= sent)
    });
    println!("{sent} requests sent, {decisions} decisions");
    assert_eq!(decisions, sent);
    let allowed: u64 = tallies.values().map(|t| t.received).sum();
    let denied: u64 = tallies.values().filter_map(|t| t.answered.get(&403)).sum();
    assert_eq!(allowed + denied, sent);
    for (query, expected) in [("decision:allow", allowed), ("decision:deny", denied)] {
        let query = format!("{query} last:1h | count");
        let answer = home.json(&["audit", "search", &query]);
        assert_eq!(answer["total"], expected, "{query}");
    }
    assert_eq!(home.rows("class:authn_failure"), Some(Vec::new()));
    rows_are_distinct(&home, sent);
    for name in SHOP {
        let shown = home.json(&["identity", "show", name]);
        let issued = shown[0]["issued"].as_u64().unwrap();
        println!("{name}: {issued} certificates");
        assert!(issued >= certificates, "{name}: {issued}");
    }
    let report = home.json(&["audit", "verify"]);
    assert_eq!(report["findings"], serde_json::json!([]));
    let missing = |s: &serde_json::Value| s["missing"].as_array().map_or(0, Vec::len);
    let streams = report["streams"].as_array().unwrap();
    assert_eq!(streams.iter().map(missing).sum::<usize>(), 0, "{streams:?}");
}

/// As far as one page shows them, which is all of them in the short run.
fn rows_are_distinct(home: &Home, sent: u64) {
    let rows = home.rows("class:decision last:1h").unwrap();
    let ids: BTreeSet<&str> = rows.iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), rows.len());
    assert_eq!(rows.len() as u64, sent.min(10_000));
}
