//! Searches over what nobody wishes for: a reporter whose clock is wrong, and an index that the
//! disk has damaged.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use palisade_audit::query::{QUERY_DEPTH_MAX, QUERY_LEN_MAX, QUERY_TESTS_MAX};
use serde_json::Value;
use support::{
    Home, LIMIT, copy, lone,
    records::{decide_at, grow_of},
    wait_for,
};

const REPORTER: &str = "spiffe://acme.test/ns/shop/sa/orders";

/// A record from an hour ahead is found where people look, and says that its time is not to be
/// believed; one from five minutes ahead, within what clocks differ by, is.
#[test]
fn a_record_of_a_clock_that_is_ahead_is_found_under_its_receipt() {
    let home = Home::new();
    lone::configure(&home, "");
    let log = home.path("state/audit/log");
    let ahead = |minutes| Timestamp::now() + SignedDuration::from_mins(minutes);
    decide_at(&log, REPORTER, 1, "/far", ahead(60).as_microsecond());
    decide_at(&log, REPORTER, 2, "/near", ahead(4).as_microsecond());
    let _audit = lone::start(&home);
    let rows = wait_for("both decisions", LIMIT, || {
        let rows = home.rows(&format!(
            "class:decision since:{} until:{}",
            ahead(-60),
            ahead(120)
        ))?;
        (rows.len() == 2).then_some(rows)
    });
    let suspect: BTreeMap<&str, &Value> = rows
        .iter()
        .map(|row| (row["path"].as_str().unwrap(), &row["suspect"]))
        .collect();
    assert_eq!(suspect["/far"], true, "{rows:#?}");
    assert_ne!(suspect["/near"], true, "{rows:#?}");
    let found = home.rows("class:decision suspect:true last:1h").unwrap();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0]["path"], "/far");
    let later = format!("class:decision since:{} until:{}", ahead(30), ahead(120));
    assert_eq!(home.rows(&later), Some(Vec::new()));
}

/// Each file of a bucket in turn has a changed byte when the service starts: the answers are those
/// of before, whole, and the log is as it was signed.
#[test]
fn a_damaged_index_is_made_again_and_answers_the_same() {
    let home = Home::new();
    lone::configure(&home, "");
    grow_of(&home.path("state/audit/log"), REPORTER, 1..=300, "/orders");
    let query = "class:decision path:/orders/* last:1h";
    let answered = || {
        wait_for("a whole answer", LIMIT, || {
            home.rows(query).filter(|rows| rows.len() == 300)
        })
    };
    let mut audit = lone::start(&home);
    let before = answered();
    let index = home.path("state/audit/index");
    // A few seconds after its records came, a bucket is written.
    wait_for("a bucket on the disk", LIMIT, || {
        (kinds(&index).len() > 5).then_some(())
    });
    assert!(audit.end().success());
    let kinds = kinds(&index);
    let sound = home.path("sound");
    copy(&index, &sound);
    for file in kinds.values() {
        fs::remove_dir_all(&index).unwrap();
        copy(&sound, &index);
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        // One that is empty is damaged by having something.
        match bytes.get_mut(middle) {
            Some(byte) => *byte ^= 1,
            None => bytes.push(1),
        }
        fs::write(file, bytes).unwrap();
        let mut audit = lone::start(&home);
        assert_eq!(answered(), before, "{}", file.display());
        assert!(audit.end().success());
    }
    home.says(&["audit", "verify", "--dir", "state/audit/log"], 0);
}

/// A query as long, as deep, or with as many tests as it may be is answered, with what it asks for
/// and nothing else; with one more it is refused as that, by every command.
#[test]
fn a_query_is_bounded_by_every_command_and_never_widened() {
    let home = Home::new();
    lone::configure(&home, "");
    let log = home.path("state/audit/log");
    grow_of(&log, REPORTER, 1..=3, "/orders");
    grow_of(&log, REPORTER, 4..=5, "/other");
    let mut audit = lone::start(&home);
    wait_for("every record", LIMIT, || {
        let rows = home.rows("class:decision last:1h")?;
        (rows.len() == 5).then_some(())
    });
    for (n, [most, beyond]) in at_the_limits().iter().enumerate() {
        assert_eq!(home.rows(most).unwrap().len(), 3, "{most}");
        let facets = home.json(&["audit", "facets", most, "--by", "class"]);
        assert_eq!(facets["total"], 3, "{most}");
        let timeline = home.json(&["audit", "timeline", most]);
        let steps = timeline["steps"].as_array().unwrap().iter();
        assert_eq!(
            steps.filter_map(|step| step["count"].as_u64()).sum::<u64>(),
            3
        );
        let file = format!("{n}.jsonl");
        let done = home.json(&["audit", "export", most, "--to", &file]);
        assert_eq!(done["records"], 3, "{most}");
        for asked in [
            &["search"][..],
            &["facets", "--by", "class"],
            &["timeline"],
            &["tail"],
            &["tail", "--denied"],
            &["export", "--to", "beyond.jsonl"],
            &["saved", "add", "beyond"],
        ] {
            let said = home.says(&[&["audit"], asked, &[beyond.as_str()]].concat(), 3);
            assert!(said.contains("PLS7107"), "{asked:?}: {said}");
        }
        let said = home.says(&["report", "run", "denials", "--scope", beyond], 3);
        assert!(said.contains("PLS7107"), "{said}");
    }
    assert!(!home.path("beyond.jsonl").exists());
    assert!(audit.end().success());
}

/// A query for what is below `/orders` as long, as deep, or with as many tests as it may be; and
/// with one more.
fn at_the_limits() -> [[String; 2]; 3] {
    const ASKED: &str = "path:/orders/*";
    let long = |n: usize| format!("{ASKED} -host:{}", "x".repeat(n - ASKED.len() - 7));
    let deep = |n: usize| format!("{}{ASKED}{}", "(".repeat(n), ")".repeat(n));
    let many = |n: usize| vec![ASKED; n].join(" ");
    let both = |of: &dyn Fn(usize) -> String, most| [most, most + 1].map(of);
    [
        both(&long, QUERY_LEN_MAX),
        both(&deep, QUERY_DEPTH_MAX),
        both(&many, QUERY_TESTS_MAX),
    ]
}

/// A file of each kind below a folder, by its kind.
fn kinds(dir: &Path) -> BTreeMap<OsString, PathBuf> {
    let kind = |file: &Path| file.extension().or(file.file_name()).unwrap().to_owned();
    let files = files(dir).into_iter();
    files.map(|file| (kind(&file), file)).collect()
}

/// Every file below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let of = |path: PathBuf| match path.is_dir() {
        true => files(&path),
        false => vec![path],
    };
    entries.flat_map(of).collect()
}
