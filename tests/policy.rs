//! A policy that is edited while requests pass.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{collections::BTreeMap, fs, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use support::{Home, LIMIT, demo::Demo, wait_for};

/// Every decision about a refund.
const REFUNDS: &str = "class:decision route:/orders/*/refund last:1h";
/// How late an edit may be in force on a machine that does much else. Idle: tenths.
const IN_FORCE_MAX: SignedDuration = SignedDuration::from_secs(5);

/// An edit flips an edge; a mistake changes nothing but what `status` says; and each
/// record names the revision that decided it.
#[test]
fn an_edit_flips_an_edge_and_a_mistake_keeps_the_last_revision() {
    let home = Home::new();
    let demo = Demo::start(&home, &["--rate", "200"]);
    let file = demo.policies.join("policies/orders.cedar");
    let sample = fs::read_to_string(&file).unwrap();
    refunds(&home, |r| r["sequence"] == 1);

    let edited = permit_refunds(&sample);
    let written = Timestamp::now();
    fs::write(&file, &edited).unwrap();
    let rows = refunds(&home, |r| r["decision"] == "allow");
    let first = rows.iter().filter(|r| r["decision"] == "allow").map(time);
    let took = first.min().unwrap().duration_since(written);
    println!("first allowed refund {took:#} after the write");
    assert!(took < IN_FORCE_MAX, "{took:#}");
    let allowed = home.json(&["can", "web", "POST", "orders/42/refund"]);
    assert_eq!(allowed["explanation"]["verdict"], "allow");

    fs::write(&file, edited.replace("permit (", "permit {")).unwrap();
    let status = wait_for("a rejected edit", LIMIT, || rejected(&home));
    assert_eq!(status["pdp"][0]["revision"]["sequence"], 2);
    for command in ["status", "check"] {
        let said = home.says(&[command], 0);
        assert!(said.contains("policies/orders.cedar"), "{said}");
    }
    let said = home.says(&["status"], 0);
    assert!(said.contains("permit {"), "{said}");
    assert!(said.contains("stays in force"), "{said}");
    home.says(&["check", "--fail-on", "warn"], 9);
    let since = Timestamp::now();
    refunds(&home, |r| r["decision"] == "allow" && time(r) > since);

    fs::write(&file, &sample).unwrap();
    let rows = refunds(&home, |r| r["sequence"] == 3 || r["sequence"] == 4);
    assert!(rejected(&home).is_none());
    home.says(&["check", "--fail-on", "warn"], 0);
    revisions_are_named(&rows, &home);
}

/// The sample with its last permit, which is a comment, in force.
fn permit_refunds(sample: &str) -> String {
    let (before, permit) = sample.split_once("// @id(\"orders-refund").unwrap();
    let permit = permit.replace("\n// ", "\n");
    format!("{before}@id(\"orders-refund{permit}")
}

/// All refunds so far, once one of them is as wanted; in the order of the log.
fn refunds(home: &Home, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    wait_for("a refund under the new policy", LIMIT, || {
        let mut rows = home.rows(REFUNDS)?;
        rows.reverse();
        rows.iter().any(&wanted).then_some(rows)
    })
}

fn time(row: &Value) -> Timestamp {
    row["time"].as_str().unwrap().parse().unwrap()
}

/// The status of a mesh whose policy folder is not what is in force.
fn rejected(home: &Home) -> Option<Value> {
    let status = home.json(&["status"]);
    (!status["pdp"][0]["rejected"].is_null()).then_some(status)
}

/// Revisions follow each other without overlap at the one proxy in front of orders;
/// each decides as it reads; and one digest belongs to each number.
fn revisions_are_named(rows: &[Value], home: &Home) {
    let mut entries = rows.to_vec();
    entries.sort_by_key(|r| r["entry"].as_u64());
    let sequences: Vec<u64> = entries
        .iter()
        .map(|r| r["sequence"].as_u64().unwrap())
        .collect();
    assert!(sequences.is_sorted(), "{sequences:?}");
    let mut digests = BTreeMap::new();
    for row in &entries {
        let sequence = row["sequence"].as_u64().unwrap();
        let digest = row["revision_digest"].as_str().unwrap();
        assert_eq!(*digests.entry(sequence).or_insert(digest), digest);
        let verdict = if sequence == 2 {
            "allow"
        } else {
            "not_permitted"
        };
        assert_eq!(row["decision"], verdict, "{row}");
        let policies = row["policy"].as_array().map_or(0, Vec::len);
        assert_eq!(policies, usize::from(sequence == 2), "{row}");
    }
    println!("refunds under revisions: {:?}", digests.keys());
    assert!(digests.len() >= 3, "{digests:?}");
    let last = sequences.last().unwrap();
    let status = wait_for("the newest revision", Duration::from_secs(5), || {
        let status = home.json(&["status"]);
        (status["pdp"][0]["revision"]["sequence"] == *last).then_some(status)
    });
    let digest = status["pdp"][0]["revision"]["digest"].as_str().unwrap();
    assert_eq!(digests[last], digest);
    assert_eq!(digests[&1], digest, "the same text has the same digest");
    wait_for("a record of each change", LIMIT, || {
        let changes = home.rows("class:policy_change")?;
        (changes.len() >= 3).then_some(())
    });
}
