//! Promises about the slim build, which runs beside workloads: what is not in it
//! cannot be attacked through it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic here is a failed test"
)]

use std::process::Command;

/// What builds it.
const SLIM: [&str; 3] = ["--no-default-features", "--features", "proxy,agent"];
/// Crates that make certificates, keep SQL, prove, search, write reports, or draw a demo.
const ABSENT: [&str; 11] = [
    "askama",
    "cedar-policy-symcc",
    "dejavu",
    "indicatif",
    "krilla",
    "libsqlite3-sys",
    "rcgen",
    "rust-xlsxwriter",
    "sqlx",
    "sqlx-core",
    "tantivy",
];
/// Crates without which it could not do its work: they show that the list is read.
const PRESENT: [&str; 4] = ["cedar-policy", "hyper", "rustls", "tonic"];

/// Names of every crate that is linked into what `features` builds.
fn crates(features: &[&str]) -> Vec<String> {
    let out = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--package", "palisade"])
        .args(["--edges", "normal", "--prefix", "none", "--format", "{lib}"])
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let (text, talk) = (out.stdout, String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{talk}");
    let text = String::from_utf8(text).unwrap();
    text.lines().map(|l| l.trim().replace('_', "-")).collect()
}

#[test]
fn the_slim_build_makes_no_certificates_and_holds_neither_sql_nor_search() {
    let (slim, full) = (crates(&SLIM), crates(&[]));
    let has = |crates: &[String], name: &str| crates.iter().any(|c| c == name);
    for name in PRESENT {
        assert!(has(&slim, name), "{name} is missing");
    }
    for name in ABSENT {
        assert!(!has(&slim, name), "{name} is in the slim build");
        assert!(
            has(&full, name),
            "{name} has left the full build: mend this list"
        );
    }
}
