//! The measurement of log, index and reports, as a user runs it: what it leaves is a log
//! like any other.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::fs;

use serde_json::Value;
use support::Home;

/// An odd number: the last request has no outcome yet.
const RECORDS: u64 = 3001;

/// Who was denied, from a report that is made of a log.
fn denied(home: &Home, log: &str) -> Value {
    let args = [
        "report",
        "run",
        "denials",
        "--period",
        "2026-01-01..2026-01-30",
    ];
    let report = home.json(&[&args[..], &["--log", log]].concat());
    assert_eq!(report["header"]["decisions"], RECORDS.div_ceil(2));
    assert_eq!(report["header"]["complete"], true, "{}", report["header"]);
    report["sections"][1]["table"]["rows"].clone()
}

#[test]
fn a_measurement_fills_a_log_that_verifies_and_is_found_whole() {
    let home = Home::new();
    let records = RECORDS.to_string();
    let report = home.json(&["audit", "bench", "a", "--records", &records]);
    assert_eq!(report["records"], RECORDS);
    assert_eq!(report["decisions"], RECORDS.div_ceil(2));
    for figure in report["figures"].as_array().unwrap() {
        assert!(figure["cpu_ns"].as_f64().unwrap() > 0.0, "{figure}");
        assert!(figure["wall_ns"].as_f64().unwrap() > 0.0, "{figure}");
    }
    for group in [
        "log",
        "index",
        "newest 50",
        "panel",
        "summary",
        "report",
        "export",
    ] {
        let figures = report["figures"].as_array().unwrap();
        assert!(figures.iter().any(|f| f["group"] == group), "{group}");
    }
    let waits = &report["acknowledged"];
    assert!(waits["p50_us"].as_u64().unwrap() > 0, "{waits}");
    assert!(waits["p50_us"].as_u64() <= waits["p99_us"].as_u64());
    assert!(report["index_bytes"].as_f64().unwrap() > 1.0);

    let verified = home.json(&["audit", "verify", "--dir", "a/log"]);
    assert_eq!(verified["findings"], serde_json::json!([]), "{verified}");
    assert!(verified["records"].as_u64().unwrap() >= RECORDS);

    let rows = denied(&home, "a/log");
    assert!(rows.as_array().unwrap().len() > 10, "{rows}");
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let home = Home::new();
    fs::create_dir(home.path("mine")).unwrap();
    fs::write(home.path("mine/notes"), "mine").unwrap();
    for dir in ["mine", "mine/notes"] {
        let told = home.says(&["audit", "bench", dir, "--records", "1000"], 3);
        assert!(told.contains("PLS7114"), "{told}");
    }
    assert_eq!(fs::read_dir(home.path("mine")).unwrap().count(), 1);
    // Fewer would say nothing, more would fill the disk by accident.
    for records in ["999", "100000001"] {
        home.says(&["audit", "bench", "fresh", "--records", records], 2);
    }
    assert!(!home.path("fresh").exists());
}
