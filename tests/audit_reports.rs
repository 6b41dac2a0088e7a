//! What an auditor gets from a mesh: reports, made, written in every form, made again.

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
    records::{REPORTER, grow},
    said,
};

/// A report says what the log says: made, written in every form, made again; and one changed
/// number is found.
#[test]
fn reports_are_made_again_and_a_changed_number_is_found() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut demo = Demo::at_rest(&home);
    let kinds = home.json(&["report", "list"]);
    let kinds: Vec<&str> = kinds["reports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|k| k["name"].as_str().unwrap())
        .collect();
    assert!(
        kinds.contains(&"access-review") && kinds.contains(&"hipaa"),
        "{kinds:?}"
    );
    for kind in &kinds {
        let (page, file) = (format!("{kind}.html"), format!("{kind}.json"));
        let made = home.json(&[
            "report", "run", kind, "--period", "last:1h", "--to", &page, "--to", &file,
        ]);
        assert_eq!(made["header"]["complete"], true, "{kind}: {made}");
        assert_eq!(made["header"]["demo"], true);
        for file in [&page, &file] {
            let checked = home.json(&["report", "verify", file]);
            assert_eq!(checked["differences"], serde_json::json!([]), "{kind}");
            assert_eq!(checked["checkpoint"], true, "{kind}");
            assert!(checked["compared"].as_u64() > Some(5), "{kind}: {checked}");
        }
        home.says(&["report", "verify", &page], 0);
    }
    // The numbers are those of a search.
    let denials = home.json(&["report", "run", "denials", "--period", "last:1h"]);
    let denied = home.json(&["audit", "search", "decision:deny last:1h | count"]);
    assert_eq!(
        denials["sections"][0]["figures"][0]["value"],
        denied["total"].to_string()
    );
    let scoped = home.json(&[
        "report",
        "run",
        "access",
        "--period",
        "last:1h",
        "--scope",
        "service:orders",
    ]);
    let orders = home.json(&["audit", "search", "service:orders last:1h | count"]);
    assert_eq!(scoped["header"]["decisions"], orders["total"]);

    let text = fs::read_to_string(home.path("denials.json")).unwrap();
    let mut changed: Value = serde_json::from_str(&text).unwrap();
    changed["sections"][1]["table"]["rows"][0][3] = "999999".into();
    fs::write(home.path("changed.json"), changed.to_string()).unwrap();
    let said = home.says(&["report", "verify", "changed.json"], 8);
    assert!(
        said.contains("999999") && said.contains("✗ does not hold"),
        "{said}"
    );
    let mut forged: Value = serde_json::from_str(&text).unwrap();
    forged["header"]["checkpoint"]["root"] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into();
    fs::write(home.path("forged.json"), forged.to_string()).unwrap();
    let said = home.says(&["report", "verify", "forged.json"], 8);
    assert!(said.contains("checkpoint"), "{said}");

    // What people see is what is compared: a number on the page alone, or a text alone.
    let page = fs::read_to_string(home.path("denials.html")).unwrap();
    let (seen, inside) = page.split_once("<script ").unwrap();
    let (before, after) = seen.split_once("<dd>").unwrap();
    let forged = format!("{before}<dd>7{after}<script {inside}");
    fs::write(home.path("forged.html"), forged).unwrap();
    let said = home.says(&["report", "verify", "forged.html"], 8);
    assert!(said.contains("page, what people see"), "{said}");
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut report: Value = serde_json::from_str(&text).unwrap();
        change(&mut report);
        fs::write(home.path("changed.json"), report.to_string()).unwrap();
        home.says(&["report", "verify", "changed.json"], 8)
    };
    let said = changed(&|r| r["sections"][0]["narrative"] = "Nobody was denied.".into());
    assert!(said.contains("Nobody was denied."), "{said}");
    let said = changed(&|r| r["header"]["demo"] = false.into());
    assert!(said.contains("header, demo"), "{said}");
    // What a program with other forms of reports made is told as that, not as tampered with.
    let mut older: Value = serde_json::from_str(&text).unwrap();
    older["format"] = 1.into();
    older["header"]["program"] = "palisade 0.0.9".into();
    older["sections"][0]["narrative"] = "As it was put then.".into();
    fs::write(home.path("older.json"), older.to_string()).unwrap();
    let said = home.says(&["report", "verify", "older.json"], 3);
    for word in ["PLS7804", "older", "palisade 0.0.9"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!said.contains("As it was put then."), "{said}");
    // A column that is said to be left blank is compared all the same.
    let said = changed(&|r| {
        r["sections"][1]["table"]["columns"][3]["kind"] = "blank".into();
        r["sections"][1]["table"]["rows"][0][3] = "888888".into();
    });
    assert!(said.contains("888888"), "{said}");

    // The first table of a pack is of the sections below it.
    let text = fs::read_to_string(home.path("pci-dss.json")).unwrap();
    let mut forged: Value = serde_json::from_str(&text).unwrap();
    forged["sections"][0]["table"]["rows"][0][3] = "999".into();
    fs::write(home.path("forged.json"), forged.to_string()).unwrap();
    let said = home.says(&["report", "verify", "forged.json"], 8);
    assert!(said.contains("at-a-glance, row 1"), "{said}");
    // What describes the whole log may have been otherwise then: what it was is told.
    let text = fs::read_to_string(home.path("integrity.json")).unwrap();
    let mut forged: Value = serde_json::from_str(&text).unwrap();
    let figures = forged["sections"][1]["figures"].as_array_mut().unwrap();
    figures[1]["value"] = "777".into();
    fs::write(home.path("forged.json"), forged.to_string()).unwrap();
    let said = home.says(&["report", "verify", "forged.json"], 0);
    let told = "not as it was: streams, streams that are not complete: then 777, now";
    assert!(said.contains(told), "{said}");

    for (args, code) in [
        (&["run", "denails"][..], "PLS7801"),
        (&["run", "denials", "--period", "soon"], "PLS7802"),
        (&["run", "denials", "--scope", "srvice:x"], "PLS7102"),
        (&["run", "denials", "--to", "denials.doc"], "PLS7805"),
        (&["run", "denials", "--to", "denials.json"], "PLS7703"),
        (&["verify", "nothing.json"], "PLS7803"),
    ] {
        let said = home.says(&[&["report"], args].concat(), 3);
        assert!(said.contains(code), "{args:?}: {said}");
    }
    demo.running.end();
}

/// Programs that we did not write open the files: openpyxl the workbook, Poppler the PDF.
#[test]
#[ignore = "needs python3 with openpyxl, and pdftotext; .ci/run has them"]
fn other_programs_open_the_reports() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut demo = Demo::at_rest(&home);
    home.json(&[
        "report", "run", "pci-dss", "--period", "last:1h", "--to", "r.xlsx", "--to", "r.pdf",
        "--to", "r.json",
    ]);
    demo.running.end();
    let python = std::env::var("PALISADE_TEST_PYTHON").unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/reports.py");
    let output = Command::new(python)
        .arg(script)
        .args(["r.xlsx", "r.pdf", "r.json"].map(|name| home.path(name)))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

/// A report of a log in a folder says what has not arrived, as that of a running mesh does, and is
/// complete again when it has.
#[test]
fn a_report_of_a_folder_tells_what_has_not_arrived() {
    let home = Home::new();
    let log = home.path("log");
    let dir = log.display().to_string();
    let made = || {
        let args = ["report", "run", "access", "--period", "last:1h", "--log"];
        let made = home.json(&[&args[..], &[&dir]].concat());
        let lacks = made["header"]["lacks"].as_array().unwrap().clone();
        (made["header"]["complete"] == true, lacks)
    };
    grow(&log, 1..=5, "/orders");
    assert_eq!(made(), (true, Vec::new()));
    grow(&log, 8..=10, "/orders");
    let (complete, lacks) = made();
    assert!(!complete);
    let [lack] = lacks.as_slice() else {
        panic!("{lacks:?}")
    };
    let lack = lack.as_str().unwrap();
    for word in ["6", "7", REPORTER, "have not arrived"] {
        assert!(lack.contains(word), "{word}: {lack}");
    }
    grow(&log, 6..=7, "/orders");
    assert_eq!(made(), (true, Vec::new()));
}
