//! What commands report as SARIF, against the official schema of version 2.1.0.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{env, fs, path::Path, process::Command};

use serde_json::Value;
use support::{Home, copy, said, sample_policies};

/// A permit without owner, an action that does not exist, names that a reader might obey, and a
/// path that is no URI as it stands.
const BROKEN: &str = "@id(\"<b>%0a::error::\")\npermit (principal, action, resource);\n\n\
    @id(\"no-action\")\npermit (\n  principal,\n  action == Action::\"order:refund\",\n  resource\n);\n";

/// Every command that reports, with findings and without; and a log that is spoilt, so that it
/// is known that the validator looks.
#[test]
#[ignore = "by name: needs Python with jsonschema, and the schema"]
fn reports_are_valid_sarif() {
    let python = env::var_os("PALISADE_TEST_PYTHON").expect("names an interpreter");
    let schema = env::var_os("PALISADE_TEST_SARIF_SCHEMA").expect("names the schema");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/sarif.py");
    let home = Home::new();
    let validate = |logs: &[String]| {
        let mut command = Command::new(&python);
        command.arg(&script).arg(&schema).args(logs);
        command.current_dir(home.path("")).output().unwrap()
    };
    copy(&sample_policies(), &home.path("clean"));
    copy(&sample_policies(), &home.path("wider"));
    copy(&sample_policies(), &home.path("broken"));
    fs::write(home.path("broken/policies/a b%é.cedar"), BROKEN).unwrap();
    let orders = home.path("wider/policies/orders.cedar");
    let text = fs::read_to_string(&orders).unwrap();
    let list = "resource == Operation::\"demo.test/shop/orders/list\"\n);";
    let wide = text.replace(list, "resource in   Service::\"demo.test/shop/orders\"\n);");
    assert_ne!(wide, text);
    fs::write(&orders, wide).unwrap();

    copy(&sample_policies(), &home.path("narrower"));
    let narrow = text.replace("demo.test/shop/reports", "demo.test/shop/inventory");
    fs::write(home.path("narrower/policies/orders.cedar"), narrow).unwrap();
    let rows = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/examples/rows.json");
    fs::copy(rows, home.path("rows.json")).unwrap();
    let mut logs = Vec::new();
    for (name, args, code, findings) in [
        ("lint-clean", &["lint", "clean"][..], 0, false),
        ("validate-clean", &["validate", "clean"], 0, false),
        ("test-clean", &["test", "clean"], 0, false),
        ("fmt-clean", &["fmt", "--check", "clean"], 0, false),
        ("lint", &["lint", "broken"], 3, true),
        ("validate", &["validate", "broken"], 3, true),
        ("nothing", &["validate", "nowhere"], 3, true),
        ("test", &["test", "wider"], 4, true),
        ("fmt", &["fmt", "--check", "wider"], 1, true),
        (
            "diff",
            &["diff", "clean", "wider", "--no-proof", "--no-new-access"],
            5,
            true,
        ),
        (
            "impact-clean",
            &["impact", "clean", "--log", "rows.json"],
            0,
            false,
        ),
        (
            "impact",
            &[
                "impact",
                "narrower",
                "--log",
                "rows.json",
                "--max-newly-denied",
                "0",
            ],
            5,
            true,
        ),
    ] {
        let log = format!("{name}.sarif");
        let into = format!("sarif={log}");
        let args = [&["policy"], args, &["--report", &into]].concat();
        home.says(&args, code);
        let written: Value = serde_json::from_slice(&fs::read(home.path(&log)).unwrap()).unwrap();
        let results = written["runs"][0]["results"].as_array().unwrap();
        assert_eq!(!results.is_empty(), findings, "{args:?}: {written:#}");
        logs.push(log);
    }
    let output = validate(&logs);
    assert!(output.status.success(), "{}", said(&output));

    for (from, to) in [
        ("\"level\": \"error\"", "\"level\": \"fatal\""),
        ("\"startLine\": ", "\"startLine\": -"),
        ("\"ruleId\"", "\"rule\""),
    ] {
        let log: Value =
            serde_json::from_slice(&fs::read(home.path("lint.sarif")).unwrap()).unwrap();
        let log = serde_json::to_string_pretty(&log).unwrap();
        assert!(log.contains(from), "{log}");
        fs::write(home.path("spoilt.sarif"), log.replacen(from, to, 1)).unwrap();
        let output = validate(&["spoilt.sarif".to_owned()]);
        assert_eq!(output.status.code(), Some(1), "{to}: {}", said(&output));
    }
}
