//! SARIF 2.1.0 (OASIS), as code scanning takes it.

use std::collections::BTreeMap;

use palisade_mesh::diagnostic::{Code, Diagnostic, Severity};
use serde_json::{Value, json};

use super::{Report, end_of, level, sentences};
use crate::cli::explain;

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

pub(super) fn document(report: &Report) -> Value {
    let mut rules: BTreeMap<Code, usize> = report.problems().map(|d| (d.code, 0)).collect();
    for (i, index) in rules.values_mut().enumerate() {
        *index = i;
    }
    let problems = report.problems().zip(report.fingerprints());
    let results: Vec<Value> = problems
        .map(|(d, fingerprint)| result(report, d, &rules, &fingerprint))
        .collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "palisade",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules.keys().map(rule).collect::<Vec<Value>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "automationDetails": { "id": format!("{}/", report.command.replace(' ', "/")) },
            "results": results,
        }],
    })
}

/// The code as a rule, in the words of the reference.
fn rule(code: &Code) -> Value {
    let id = code.to_string();
    let (title, text) = explain::section(&id).unwrap_or((&id, ""));
    json!({
        "id": &id,
        "shortDescription": { "text": title },
        "fullDescription": { "text": title },
        "help": { "text": format!("{text}\n\npalisade explain {id}").trim() },
    })
}

fn result(
    report: &Report,
    d: &Diagnostic,
    rules: &BTreeMap<Code, usize>,
    fingerprint: &str,
) -> Value {
    let mut result = json!({
        "ruleId": d.code,
        "ruleIndex": rules.get(&d.code),
        "level": match d.severity {
            Severity::Note => "note",
            other => level(other),
        },
        "message": { "text": sentences(d).join("\n") },
        "partialFingerprints": { "primaryLocationLineHash": fingerprint },
    });
    if let (Some(at), Value::Object(fields)) = (&d.location, &mut result) {
        let (end_line, end_column) = end_of(at);
        let location = json!([{ "physicalLocation": {
            "artifactLocation": { "uri": uri(&report.path(&at.file)), "uriBaseId": "%SRCROOT%" },
            "region": {
                "startLine": at.line, "startColumn": at.column,
                "endLine": end_line, "endColumn": end_column,
            },
        } }]);
        fields.insert("locations".to_owned(), location);
    }
    result
}

/// A path as a relative URI reference (RFC 3986).
fn uri(path: &str) -> String {
    let encoded: Vec<String> = path.split('/').map(crate::cli::path_segment).collect();
    encoded.join("/")
}
