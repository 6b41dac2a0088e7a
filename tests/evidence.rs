//! A log that somebody has touched, and an index that is gone.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{fs, path::PathBuf};

use serde_json::Value;
use support::{
    Home, LIMIT,
    demo::one_at_a_time,
    mesh::{ROLES, Separate},
    wait_for,
};

/// Questions whose answers must not depend on the index that gives them.
const QUERIES: [&str; 3] = [
    "decision:deny last:1h",
    "class:decision principal:web last:1h",
    "class:* last:1h",
];

/// One changed byte is found, told by record, and kept as it is.
#[test]
fn one_changed_byte_is_named_and_stops_the_service() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = with_records(&home);
    let denied = wait_for("a denied request", LIMIT, || {
        // A probe that met a proxy without policy was not decided, which denies, too.
        home.rows("decision:not_permitted last:1h")?
            .first()
            .cloned()
    });
    wait_for("a checkpoint over everything", LIMIT, || {
        let report = home.json(&["audit", "verify"]);
        (report["unsigned"] == 0).then_some(())
    });
    for role in ["pdp", "audit"] {
        mesh.end(role);
    }
    let dir = home.path("state/audit/log").display().to_string();
    let verify = ["audit", "verify", "--dir", &dir];
    let untouched = home.json(&verify);
    assert_eq!(untouched["findings"], serde_json::json!([]));
    home.says(&verify, 0);

    let segment = segment(&home);
    let whole = fs::read(&segment).unwrap();
    let mut changed = whole.clone();
    // The path of the denied request stands in its record and nowhere else.
    let at = find(&whole, b"/nowhere");
    changed[at + 1] ^= 1;
    fs::write(&segment, &changed).unwrap();
    let said = home.says(&verify, 8);
    let id = denied["id"].as_str().unwrap();
    assert!(said.contains(id), "{said}");
    assert!(said.contains("not verified"), "{said}");
    let report = home.json(&verify);
    assert!(!report["findings"].as_array().unwrap().is_empty());
    assert_eq!(report["findings"][0]["leaf"], denied["entry"]);

    mesh.start("audit");
    let refused = mesh.wait_for_end("audit");
    assert_eq!(refused.0, Some(1), "{}", refused.1);
    assert!(refused.1.contains("PLS7205"), "{}", refused.1);
    assert_eq!(
        fs::read(&segment).unwrap(),
        changed,
        "evidence is not touched"
    );

    fs::write(&segment, &whole).unwrap();
    home.says(&verify, 0);
    mesh.start("audit");
    wait_for("the denied request", LIMIT, || {
        let rows = home.rows("decision:deny last:1h")?;
        (rows.first()? == &denied).then_some(())
    });
}

/// The index is derived: without it the same questions have the same answers.
#[test]
fn a_deleted_index_is_built_again_and_answers_the_same() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = with_records(&home);
    wait_for("a denied request", LIMIT, || {
        home.rows("decision:deny last:1h")?.first().cloned()
    });
    // Without these, no record comes between the two answers.
    for role in ["proxy-web", "proxy-orders", "pdp", "agent", "ca"] {
        mesh.end(role);
    }
    let before = answers(&home);
    mesh.end("audit");
    fs::remove_dir_all(home.path("state/audit/index")).unwrap();
    for role in ROLES {
        mesh.start(role);
    }
    wait_for("an audit service that answers", LIMIT, || home.decisions());
    for (query, before) in QUERIES.iter().zip(before) {
        // The newest by time need not be the last to arrive.
        let entries = before.iter().map(|r| r["entry"].as_u64().unwrap());
        let last = entries.max().unwrap();
        let rows = wait_for("a whole answer", LIMIT, || home.rows(query));
        let then: Vec<Value> = rows
            .into_iter()
            .filter(|r| r["entry"].as_u64().unwrap() <= last)
            .collect();
        assert_eq!(then, before, "{query}");
    }
}

/// A mesh that has allowed and denied.
fn with_records(home: &Home) -> Separate<'_> {
    let mesh = Separate::ready(home);
    for _ in 0..20 {
        assert_eq!(mesh.get("/orders"), Some(200));
        assert_eq!(mesh.get("/orders/42"), Some(200));
    }
    assert_eq!(mesh.get("/nowhere"), Some(403));
    mesh
}

fn answers(home: &Home) -> Vec<Vec<Value>> {
    let rows = |query: &&str| wait_for("a whole answer", LIMIT, || home.rows(query));
    QUERIES.iter().map(rows).collect()
}

fn segment(home: &Home) -> PathBuf {
    let folder = fs::read_dir(home.path("state/audit/log/segments")).unwrap();
    let mut segments: Vec<PathBuf> = folder.map(|e| e.unwrap().path()).collect();
    segments.sort();
    segments.remove(0)
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    let mut windows = bytes.windows(wanted.len());
    windows.position(|w| w == wanted).unwrap()
}
