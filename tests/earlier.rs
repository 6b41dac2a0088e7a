//! An auditor's checkpoint from before, against a log that goes on, was cut back, written
//! anew, or damaged.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{fs, path::Path};

use support::{Home, copy, records::grow};

#[test]
fn a_log_continues_what_an_auditor_kept_or_is_named() {
    let home = Home::new();
    let log = home.path("log");
    grow(&log, 1..=40, "/orders");
    let short = home.path("short");
    copy(&log, &short);
    let early = kept(&home, &log, "early");
    let other = home.path("other");
    copy(&log, &other);
    grow(&log, 41..=60, "/orders");
    let late = kept(&home, &log, "late");
    grow(&log, 61..=80, "/orders");

    // It goes on, and continues both.
    let verify = |dir: &Path, more: &[&str], code| {
        let dir = dir.display().to_string();
        let args = [&["audit", "verify", "--dir", &dir], more].concat();
        let said = home.says(&args, code);
        (said, home.json(&args))
    };
    let both = ["--checkpoint", &early, "--checkpoint", &late];
    let (said, report) = verify(&log, &both, 0);
    assert!(said.contains(&format!("continues {late}")), "{said}");
    let standings: Vec<&str> = report["earlier"]
        .as_array()
        .unwrap()
        .iter()
        .map(standing)
        .collect();
    assert_eq!(standings, ["continued", "continued"]);

    // An old copy was put back.
    let (said, report) = verify(&short, &both, 8);
    assert!(said.contains("rolled back"), "{said}");
    assert_eq!(standing(&report["earlier"][0]), "continued");
    assert_eq!(standing(&report["earlier"][1]), "rolled_back");
    assert_eq!(report["findings"].as_array().unwrap().len(), 1);
    verify(&short, &[], 0);

    // The same key has signed other records since.
    grow(&other, 41..=90, "/payments");
    let (said, report) = verify(&other, &both, 8);
    assert!(said.contains("split view"), "{said}");
    assert_eq!(standing(&report["earlier"][0]), "continued");
    assert_eq!(standing(&report["earlier"][1]), "split_view");
    assert_eq!(report["findings"][0]["kind"], "split_view");
    verify(&other, &[], 0);

    // A log that is damaged is that, and no split view.
    let segment = segment(&log);
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(7).position(|w| w == b"/orders").unwrap();
    let whole = bytes.clone();
    bytes[at + 1] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let (_, report) = verify(&log, &both, 8);
    let findings = report["findings"].as_array().unwrap();
    assert!(
        findings.iter().all(|f| f["kind"] == "record"),
        "{findings:?}"
    );
    fs::write(&segment, whole).unwrap();

    // Another log's is none of this one, and no checkpoint is none of anybody.
    let stranger = home.path("stranger");
    grow(&stranger, 1..=3, "/orders");
    let theirs = kept(&home, &stranger, "theirs");
    let (_, report) = verify(&log, &["--checkpoint", &theirs], 8);
    assert_eq!(standing(&report["earlier"][0]), "unsigned");
    let dir = log.display().to_string();
    let none = ["audit", "verify", "--dir", &dir, "--checkpoint", "nowhere"];
    assert!(home.says(&none, 3).contains("PLS7213"));
}

fn standing(one: &serde_json::Value) -> &str {
    one["standing"].as_str().unwrap()
}

/// A copy of the latest checkpoint, as an auditor takes it away.
fn kept(home: &Home, log: &Path, name: &str) -> String {
    let file = home.path(name);
    fs::copy(log.join("checkpoint"), &file).unwrap();
    file.display().to_string()
}

fn segment(log: &Path) -> std::path::PathBuf {
    let mut folder = fs::read_dir(log.join("segments")).unwrap();
    folder.next().unwrap().unwrap().path()
}
