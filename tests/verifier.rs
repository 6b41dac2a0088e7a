//! The auditors' program, where there is no mesh and none of its data but what is named. That it
//! finds what `palisade` finds is shown beside that, in `evidence` and `faithful`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::SystemTime,
};

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

/// What cannot be read was not checked; what is no file is not waited for.
#[test]
fn what_lies_in_the_place_of_a_file_is_a_finding() {
    let home = Home::new();
    grow(&home.path("log"), 1..=3, "/orders");
    fs::copy(home.path("log/checkpoint.pub"), home.path("key")).unwrap();
    for name in ["checkpoint", "checkpoints", "checkpoint.pub", "cosigned"] {
        let dir = format!("with-{name}");
        copy(&home.path("log"), &home.path(&dir));
        let file = home.path(&dir).join(name);
        let _ = fs::remove_file(&file);
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let told = ends(&home.verifier(&["log", &dir, "--key", "key"]), 8);
        assert!(told.contains("it is no file"), "{name}: {told}");
    }
}

/// An auditor's evidence stays as it is.
#[test]
fn nothing_is_written_into_what_is_verified() {
    let home = Home::new();
    grow(&home.path("log"), 1..=40, "/orders");
    fs::remove_file(home.path("log/lock")).unwrap();
    let before = state_of(&home.path("log"));
    let verify = ["log", "log", "--key", "log/checkpoint.pub", "--replay"];
    ends(&home.verifier(&verify), 0);
    assert_eq!(state_of(&home.path("log")), before);
}

/// On a terminal long work says how far it is, how fast, and how long it takes yet; elsewhere
/// nothing stands between what programs read.
#[test]
fn a_terminal_hears_how_far_it_is() {
    let home = Home::new();
    grow(&home.path("log"), 1..=2000, "/orders");
    let verify = ["log", "log", "--key", "log/checkpoint.pub"];
    let quiet = ends(&home.verifier(&verify), 0);
    assert!(!quiet.contains("/s"), "{quiet}");
    let program = env!("CARGO_BIN_EXE_palisade-verify");
    let inside = format!("stty cols 100 rows 40; exec {program} {}", verify.join(" "));
    let told = Command::new("script")
        .args(["--quiet", "--return", "--command", &inside, "typescript"])
        .current_dir(home.path(""))
        .env("TERM", "xterm")
        .output()
        .unwrap();
    let told = ends(&told, 0);
    let line = told.split('\r').find(|line| line.contains(" records · "));
    let line = line.unwrap_or_else(|| panic!("{told}"));
    assert!(
        line.contains("/s · ") && line.trim_end().ends_with(" left"),
        "{line}"
    );
}

/// Each file below a folder, with its contents and when it was changed.
fn state_of(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    for path in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        let changed = path.metadata().unwrap().modified().unwrap();
        match path.is_dir() {
            true => {
                found.extend(state_of(&path));
                found.insert(path, (Vec::new(), changed));
            }
            false => drop(found.insert(path.clone(), (fs::read(&path).unwrap(), changed))),
        }
    }
    found
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
    let told = absent(&["log", "none"]);
    assert!(told.contains("PLS7208"), "{told}");
    assert!(told.contains("palisade-verify explain PLS7208"), "{told}");
    let told = absent(&["log", "none", "-o", "json"]);
    assert!(told.contains("palisade-verify explain PLS7208"), "{told}");
    let told = absent(&["log", "log", "--checkpoint", "none"]);
    assert!(told.contains("PLS7213"), "{told}");
    // Before the log is read, which may take long.
    let told = absent(&["log", "log", "--replay=decision:"]);
    assert!(told.contains("PLS71"), "{told}");
    let proof = ["proof", "none", "--record", "none"];
    let told = absent(&[&proof[..], &["--witness", "nobody"]].concat());
    assert!(told.contains("PLS7533"), "{told}");
    let told = ends(&home.verifier(&["explain", "PLS7208"]), 0);
    assert!(told.contains("There is no such log folder"), "{told}");
}
