//! What an auditor asks a mesh for: summaries and files.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use support::{
    Home,
    demo::{Demo, one_at_a_time},
    said,
};

/// Facets, groups and timelines of the same records have the same sums.
#[test]
fn summaries_of_the_same_records_agree() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut demo = Demo::at_rest(&home);
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

/// Every format has every record, once, and a file is never replaced unasked.
#[test]
fn exports_have_every_record_and_replace_nothing() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut demo = Demo::at_rest(&home);
    let rows = home.rows("last:1h").unwrap();
    let total = rows.len() as u64;
    for (name, lines) in [
        ("r.jsonl", rows.len()),
        ("r.ocsf", rows.len()),
        ("r.csv", rows.len() + 1),
        ("r.parquet", 0),
    ] {
        let done = home.json(&["audit", "export", "last:1h", "--to", name]);
        assert_eq!(done["records"], total, "{done}");
        assert_eq!(done["left_out"], 0);
        let bytes = fs::read(home.path(name)).unwrap();
        assert_eq!(done["bytes"], bytes.len());
        if lines > 0 {
            assert_eq!(
                String::from_utf8(bytes).unwrap().lines().count(),
                lines,
                "{name}"
            );
        }
        let again = home.says(&["audit", "export", "last:1h", "--to", name], 3);
        assert!(again.contains("PLS7703"), "{again}");
    }
    let written = fs::read_to_string(home.path("r.jsonl")).unwrap();
    let written: Vec<Value> = written
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(written, rows, "the file has what a search shows");
    let printed = home.run(&[
        "audit", "export", "last:1h", "--to", "-", "--format", "jsonl",
    ]);
    assert_eq!(printed.stdout, fs::read(home.path("r.jsonl")).unwrap());

    for (args, code) in [
        (&["last:1h", "--to", "r.txt"][..], "PLS7702"),
        (&["last:1h", "--to", "-", "--format", "parquet"], "PLS7702"),
        (&["| count by service", "--to", "n.csv"], "PLS7701"),
        (&["last:1h", "--to", "n.csv", "--resume"], "PLS7705"),
        (&["service:", "--to", "n.csv"], "PLS7101"),
    ] {
        let said = home.says(&[&["audit", "export"], args].concat(), 3);
        assert!(said.contains(code), "{args:?}: {said}");
    }
    demo.running.end();
}

/// Programs that we did not write read the files: DuckDB the Parquet, the published
/// schema the events.
#[test]
#[ignore = "needs python3 with duckdb, ocsf-json-schema and jsonschema; .ci/run has them"]
fn other_programs_read_the_exports() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut demo = Demo::at_rest(&home);
    let count = |query: &str| home.json(&["audit", "search", query])["total"].to_string();
    let (all, denied) = (
        count("last:1h | count"),
        count("last:1h decision:deny | count"),
    );
    home.json(&["audit", "export", "last:1h", "--to", "r.parquet"]);
    home.json(&["audit", "export", "last:1h", "--to", "r.ocsf"]);
    demo.running.end();
    let python = std::env::var("PALISADE_TEST_PYTHON").unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/exports.py");
    let output = Command::new(python)
        .arg(script)
        .args([home.path("r.parquet"), home.path("r.ocsf")])
        .args([&all, &denied])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}
