//! What an auditor asks a mesh for: summaries, files, reports.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use serde_json::Value;
use support::{
    Home, LIMIT,
    demo::{Demo, one_at_a_time},
    wait_for,
};

/// A demo whose records stand still, all of them searchable.
fn at_rest(home: &Home) -> Demo {
    let demo = Demo::start(home, &["--svid-ttl", "1h"]);
    wait_for("requests of every kind", LIMIT, || {
        let kinds = home.json(&["audit", "search", "last:1h | count by decision"]);
        (kinds["distinct"].as_u64()? >= 2 && kinds["total"].as_u64()? > 50).then_some(())
    });
    demo.pause();
    let mut before = None;
    wait_for("records that stand still", LIMIT, || {
        let now = home.decisions()?;
        (before.replace(now) == Some(now)).then_some(())
    });
    demo
}

/// Facets, groups and timelines of the same records have the same sums.
#[test]
fn summaries_of_the_same_records_agree() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut demo = at_rest(&home);
    let rows = home.rows("last:1h").unwrap();
    let total = rows.len() as u64;

    let facets = home.json(&[
        "audit",
        "facets",
        "last:1h",
        "--by",
        "decision,service",
        "-n",
        "100",
    ]);
    assert_eq!(facets["total"], total);
    for facet in facets["facets"].as_array().unwrap() {
        let field = facet["field"].as_str().unwrap();
        for group in facet["groups"].as_array().unwrap() {
            let of = |row: &&Value| row[field] == group["values"][0];
            assert_eq!(
                rows.iter().filter(of).count() as u64,
                group["count"],
                "{field}"
            );
        }
    }
    let timeline = home.json(&[
        "audit", "timeline", "last:1h", "--step", "1m", "--by", "decision",
    ]);
    let steps = timeline["steps"].as_array().unwrap();
    assert!(steps.len() >= 60, "{}", steps.len());
    let counted: u64 = steps.iter().map(|s| s["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, total);

    let said = home.says(&["audit", "facets", "last:1h"], 0);
    assert!(said.contains("decision") && said.contains(" % "), "{said}");
    let said = home.says(
        &[
            "audit",
            "search",
            "| first, last by principal, service | top 2",
        ],
        0,
    );
    assert!(
        said.contains("FIRST (UTC)") && said.contains("the default"),
        "{said}"
    );
    assert!(home.says(&["audit", "gaps"], 0).contains("✓ no gap"));
    let wrong = home.says(&["audit", "facets", "--by", "servce"], 3);
    assert!(
        wrong.contains("PLS7102") && wrong.contains("`service`"),
        "{wrong}"
    );
    let wrong = home.says(&["audit", "timeline", "last:30d", "--step", "1s"], 3);
    assert!(wrong.contains("PLS7112"), "{wrong}");
    let wrong = home.says(&["audit", "gaps", "service:orders"], 3);
    assert!(wrong.contains("PLS7113"), "{wrong}");
    demo.running.end();
}
