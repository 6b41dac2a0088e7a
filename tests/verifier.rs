//! The auditors' program, where there is no mesh and none of its data but what is named. That it
//! finds what `palisade` finds is shown beside that, in `evidence` and `faithful`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{fs, process::Output};

use serde_json::Value;
use support::{Home, copy, records::grow, said};

fn ends(output: &Output, code: i32) -> String {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// A whole log, one that was cut back since a checkpoint that an auditor kept, one with a changed
/// byte, and the key of another.
#[test]
fn a_copy_of_a_log_is_verified_or_what_is_wrong_is_named() {
    let home = Home::new();
    grow(&home.path("log"), 1..=40, "/orders");
    copy(&home.path("log"), &home.path("short"));
    grow(&home.path("log"), 41..=60, "/orders");
    for file in ["checkpoint", "checkpoint.pub"] {
        fs::copy(home.path("log").join(file), home.path(file)).unwrap();
    }
    let log = |dir: &str, more: &[&str]| {
        let key = ["--key", "checkpoint.pub"];
        home.verifier(&[&["log", dir], &key[..], more].concat())
    };
    let told = ends(&log("log", &["--checkpoint", "checkpoint"]), 0);
    assert!(told.contains("✓ verified: "), "{told}");
    assert!(told.contains("continues checkpoint ("), "{told}");
    let report = log("log", &["-o", "json"]);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    // The log itself records when its parts start and end.
    assert!(report["records"].as_u64() >= Some(60), "{report}");

    let told = ends(&log("short", &["--checkpoint", "checkpoint"]), 8);
    assert!(told.contains("rolled back"), "{told}");

    grow(&home.path("other"), 1..=3, "/orders");
    let told = ends(&log("other", &[]), 8);
    assert!(told.contains("not verified"), "{told}");

    let mut segments = fs::read_dir(home.path("log").join("segments")).unwrap();
    let segment = segments.next().unwrap().unwrap().path();
    let mut bytes = fs::read(&segment).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&segment, bytes).unwrap();
    ends(&log("log", &[]), 8);
}

/// Nothing is taken for verified because something was not said, and each message names the
/// program that is there.
#[test]
fn what_is_missing_is_asked_for() {
    let home = Home::new();
    grow(&home.path("log"), 1..=3, "/orders");
    let told = ends(&home.verifier(&["log", "log"]), 2);
    assert!(told.contains("--key"), "{told}");
    let told = ends(&home.verifier(&["package", "none.tar.zst"]), 2);
    assert!(told.contains("--key"), "{told}");
    let key = ["--key", "log/checkpoint.pub"];
    let absent = |args: &[&str]| ends(&home.verifier(&[args, &key[..]].concat()), 3);
    let told = absent(&["proof", "none", "--record", "none"]);
    assert!(told.contains("PLS7531"), "{told}");
    let told = absent(&["package", "none.tar.zst"]);
    assert!(told.contains("PLS7820"), "{told}");
    let told = ends(
        &home.verifier(&["log", "none", "--key", "log/checkpoint.pub"]),
        1,
    );
    assert!(told.contains("PLS7208"), "{told}");
    assert!(told.contains("palisade-verify explain PLS7208"), "{told}");
    let told = ends(&home.verifier(&["explain", "PLS7208"]), 0);
    assert!(told.contains("There is no such log folder"), "{told}");
}
