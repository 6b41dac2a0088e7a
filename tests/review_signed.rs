//! An access review that a running audit service signs off: the log says so, and so does every
//! pack that asks for reviews.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::fs;

use serde_json::Value;
use support::{Home, LIMIT, lone, records::grow_of, report::section, wait_for};

/// Packs, and their sections of reviews that were signed off.
const SIGN_OFFS: [(&str, &str); 5] = [
    ("pci-dss", "7.2.4 sign-offs"),
    ("pci-dss", "7.2.5.1 sign-offs"),
    ("soc2", "CC6.2 sign-offs"),
    ("iso27001", "A.5.18 sign-offs"),
    ("hipaa", "164.308(a)(4) sign-offs"),
];

/// Each sign-off leaves one record: who asked for it, which review it is, whose name was given
/// and when. The packs have a row for each. What was not signed leaves none.
#[test]
fn a_review_that_the_running_log_signs_is_a_record_and_a_row_of_each_pack() {
    let home = Home::new();
    lone::configure(&home, "");
    lone::policies(&home);
    let log = home.path("state/audit/log");
    let orders = "spiffe://acme.test/ns/shop/sa/orders";
    grow_of(&log, orders, 1..=5, "/open");
    let _audit = lone::start(&home);
    let start = ["start", "q.json", "--period", "last:1h"];
    review(&home, &[&start[..], &["--policies", "policies"]].concat());
    let told = home.says(&["report", "review", "sign", "q.json", "--by", "ben"], 3);
    assert!(told.contains("PLS7814"), "{told}");
    assert_eq!(recorded(&home), Vec::<Value>::new());
    are_in_every_pack(&home, &[]);

    let decide = ["decide", "q.json", "keep", "--undecided", "--by", "ana"];
    review(&home, &decide);
    let first = signed(&home, "ben");
    // A verdict that is changed takes the sign-off away; the next one is another.
    review(
        &home,
        &["decide", "q.json", "revoke", "--row", "1", "--by", "ana"],
    );
    let second = signed(&home, "eve");
    assert_ne!(first["object"], second["object"]);
    are_in_every_pack(&home, &[second, first]);
}

fn review(home: &Home, args: &[&str]) -> Value {
    home.json(&[&["report", "review"], args].concat())
}

/// The sign-offs that the log knows, newest first.
fn recorded(home: &Home) -> Vec<Value> {
    wait_for("an answer", LIMIT, || {
        home.rows("class:admin verb:review_signed last:1h")
    })
}

/// Signs the review off under a name; the record that says so.
fn signed(home: &Home, by: &str) -> Value {
    let before = recorded(home);
    let said = review(home, &["sign", "q.json", "--by", by]);
    assert_eq!(said["signed"], true, "{said}");
    let after = recorded(home);
    assert_eq!(after.len(), before.len() + 1, "{after:#?}");
    assert_eq!(after[1..], before);
    let record = &after[0];
    let text = fs::read_to_string(home.path("q.json")).unwrap();
    let kept: Value = serde_json::from_str(&text).unwrap();
    let sign_off = &kept["sign_off"];
    assert_eq!(sign_off["by"], by);
    let at = sign_off["at"].as_str().unwrap();
    let uid = nix::unistd::getuid();
    assert_eq!(record["actor"], format!("uid:{uid}"), "{record:#}");
    assert_eq!(record["object"], sign_off["digest"], "{record:#}");
    assert_eq!(record["detail"], format!("by {by} at {at}"), "{record:#}");
    // Whoever holds the file has it checked by the same log.
    let verify = ["report", "verify", "q.json", "--policies", "policies"];
    assert_eq!(home.json(&verify)["signed"], true);
    record.clone()
}

/// That every pack has these records, and no other, among the reviews that were signed off, once
/// a checkpoint is over them; and that each pack holds against the log.
fn are_in_every_pack(home: &Home, records: &[Value]) {
    let columns = ["time", "actor", "object", "detail"];
    let row = |record: &Value| columns.map(|column| record[column].clone());
    let expected: Vec<_> = records.iter().map(row).collect();
    for (pack, id) in SIGN_OFFS {
        let section = wait_for("a checkpoint over the records", LIMIT, || {
            let section = packed(home, pack, id);
            (section["table"]["total"] == records.len()).then_some(section)
        });
        let heads = section["table"]["columns"].as_array().unwrap().iter();
        let heads: Vec<&Value> = heads.map(|column| &column["name"]).collect();
        assert_eq!(heads, columns, "{pack}: {section:#}");
        assert_eq!(section["table"]["rows"], serde_json::json!(expected));
        let checked = home.json(&["report", "verify", "pack.json"]);
        assert_eq!(checked["differences"], serde_json::json!([]), "{pack}");
    }
}

/// A section of a pack that is made now.
fn packed(home: &Home, pack: &str, id: &str) -> Value {
    let run = ["report", "run", pack, "--period", "last:1h"];
    let to = ["--to", "pack.json", "--overwrite"];
    home.json(&[&run[..], &to].concat());
    let text = fs::read_to_string(home.path("pack.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    section(&report, id).clone()
}
