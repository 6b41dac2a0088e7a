//! A report as OSCAL says what the report says, the same way each time, and others read it.

use std::{collections::BTreeSet, fs, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;

use super::*;
use crate::report::{KINDS, visible};

fn document(report: &Report) -> Value {
    let document: Value = serde_json::from_slice(&to_oscal(report).unwrap()).unwrap();
    document["assessment-results"].clone()
}

/// Every value that stands under `key` anywhere.
fn all<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            found.extend((name == key).then_some(member));
            all(member, key, found);
        }),
        Value::Array(items) => items.iter().for_each(|item| all(item, key, found)),
        _ => {}
    }
}

fn texts<'v>(value: &'v Value, key: &str) -> Vec<&'v str> {
    let mut found = Vec::new();
    all(value, key, &mut found);
    found.iter().map(|value| value.as_str().unwrap()).collect()
}

fn titled<'v>(list: &'v Value, title: &str) -> Option<&'v Value> {
    let mut items = list.as_array()?.iter();
    items.find(|item| item["title"] == title)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_control_number_and_limit_of_a_report_is_in_it() {
    let stage = stage().await;
    for kind in KINDS {
        let (report, _) = stage.made(kind.name);
        let document = document(&report);
        let result = &document["results"][0];
        let controls: BTreeSet<&str> = texts(&result["reviewed-controls"], "description")
            .into_iter()
            .skip(1)
            .collect();
        let named: BTreeSet<&str> = report.header.controls.iter().map(String::as_str).collect();
        assert_eq!(controls, named, "{}", kind.name);
        let observations = &result["observations"];
        for section in &report.sections {
            let shown = titled(observations, &section.title).unwrap();
            for figure in section.figures.iter().filter(|f| !f.value.is_empty()) {
                let mut props = shown["props"].as_array().unwrap().iter();
                let same = |p: &Value| p["remarks"] == *figure.label && p["value"] == *figure.value;
                assert!(props.any(same), "{}: {figure:?}", kind.name);
            }
            // What cannot be shown stands with it, and once more for whoever skips remarks.
            let limits = titled(observations, "What this report cannot show");
            for limit in &section.cannot_show {
                let limit = visible(limit);
                assert!(shown["remarks"].as_str().unwrap().contains(&*limit));
                let all = limits.unwrap()["description"].as_str().unwrap();
                assert!(all.contains(&*limit), "{limit}: {all}");
            }
        }
        // The only reference that has to be there leads to a resource that says why not.
        let plan = document["import-ap"]["href"].as_str().unwrap();
        let mut resources = document["back-matter"]["resources"]
            .as_array()
            .unwrap()
            .iter();
        let plan = resources.find(|r| format!("#{}", r["uuid"].as_str().unwrap()) == plan);
        let why = plan.unwrap()["description"].as_str().unwrap();
        assert!(why.contains("There is no assessment plan"), "{why}");
        let uuids = texts(&document, "uuid");
        let different: BTreeSet<&&str> = uuids.iter().collect();
        assert_eq!(different.len(), uuids.len(), "{}", kind.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_evidence_gives_the_same_bytes_and_other_evidence_other_names() {
    let stage = stage().await;
    let (report, _) = stage.made("pci-dss");
    let mut later = report.clone();
    later.header.made = "2031-01-01T00:00:00.000000Z".into();
    assert_eq!(to_oscal(&report).unwrap(), to_oscal(&later).unwrap());
    let uuids = |report: &Report| -> BTreeSet<String> {
        let document = document(report);
        texts(&document, "uuid")
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    let mut other = report.clone();
    other.header.checkpoint.root = BASE64.encode([7; 32]);
    let mut scoped = report.clone();
    scoped.header.scope = "service:orders".into();
    let all = [&report, &other, &scoped].map(uuids);
    assert!(all[0].is_disjoint(&all[1]) && all[0].is_disjoint(&all[2]));
}

/// A finding is satisfied or not: there is one for a test of ours that is, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn findings_are_the_tests_with_two_ends() {
    let stage = stage().await;
    let (report, _) = stage.made("integrity");
    let states = |report: &Report| -> Vec<(String, String)> {
        let document = document(report);
        let findings = document["results"][0]["findings"].as_array().cloned();
        let state = |f: &Value| {
            let target = &f["target"];
            let text = |v: &Value| v.as_str().unwrap().to_owned();
            (text(&target["target-id"]), text(&target["status"]["state"]))
        };
        findings.unwrap_or_default().iter().map(state).collect()
    };
    let said = |all: &[(&str, &str)]| -> Vec<(String, String)> {
        all.iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    };
    // The log is younger than the hour that is asked for: it cannot be called complete.
    assert!(report.header.begins.is_some());
    let held = [
        ("palisade-log-intact", "satisfied"),
        ("palisade-index-same", "satisfied"),
    ];
    assert_eq!(states(&report), said(&held));
    let mut broken = report.clone();
    broken.header.complete = false;
    broken.header.lacks = vec!["3 records cannot be read".into()];
    for figure in broken.sections.iter_mut().flat_map(|s| &mut s.figures) {
        match figure.value.as_str() {
            "intact" => figure.value = "NOT INTACT".into(),
            "the same" => figure.value = "NOT THE SAME".into(),
            _ => {}
        }
    }
    let failed = [
        ("palisade-period-complete", "not-satisfied"),
        ("palisade-log-intact", "not-satisfied"),
        ("palisade-index-same", "not-satisfied"),
    ];
    assert_eq!(states(&broken), said(&failed));
    let document = document(&broken);
    let lacks = titled(
        &document["results"][0]["observations"],
        "Completeness of the records",
    );
    let words = lacks.unwrap()["description"].as_str().unwrap();
    assert!(words.contains("- 3 records cannot be read"), "{words}");
    let mut whole = report.clone();
    whole.header.begins = None;
    assert_eq!(
        states(&whole)[0],
        said(&[("palisade-period-complete", "satisfied")])[0]
    );
    // Nothing recorded is nothing shown.
    whole.header.records = 0;
    assert_eq!(states(&whole), said(&held));
    let (denials, _) = stage.made("denials");
    assert_eq!(states(&denials), []);
}

/// Values are of one line, whatever a caller chose.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_of_a_caller_is_one_line() {
    let stage = stage().await;
    let (mut report, _) = stage.made("denials");
    report.header.scope = "path:\"a\nb\u{202e}c\"".into();
    report.sections[0].figures[0].value = " two\r\nlines ".into();
    report.sections[0].figures[1].label = "<1> \u{7} name: of".into();
    let document = document(&report);
    let result = &document["results"][0];
    let shown = &result["observations"][1]["props"];
    assert_eq!(shown[0]["value"], r"two\u{d}\u{a}lines");
    assert_eq!(shown[1]["name"], "_1-name-of");
    let mut props = result["props"].as_array().unwrap().iter();
    let scope = props.find(|p| p["name"] == "scope").unwrap();
    assert_eq!(scope["value"], r#"path:"a\u{a}b\u{202e}c""#);
}

/// A validator that we did not write takes every report: compliance-trestle, of the OSCAL
/// Compass project.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3 with compliance-trestle; .ci/run has it"]
async fn trestle_takes_every_report() {
    let stage = stage().await;
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for kind in KINDS {
        let (report, _) = stage.made(kind.name);
        let file = folder.path().join(format!("{}.json", kind.name));
        fs::write(&file, to_oscal(&report).unwrap()).unwrap();
        files.push(file);
    }
    let python = std::env::var("PALISADE_TEST_TRESTLE").unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/interop/oscal.py");
    let output = Command::new(python)
        .arg(script)
        .args(&files)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let more = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{more}");
    assert_eq!(said.matches("valid: ").count(), KINDS.len(), "{said}");
}
