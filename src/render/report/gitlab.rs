//! GitLab's Code Quality report: a list in the format of Code Climate issues.

use palisade_mesh::diagnostic::Severity;
use serde_json::{Value, json};

use super::{Report, end_of, sentences};

/// The file that a finding about the whole repository is shown at: GitLab drops those
/// without a place.
const WHOLE: &str = "palisade.yaml";

pub(super) fn document(report: &Report) -> Value {
    let issues = report.problems().zip(report.fingerprints());
    let issues: Vec<Value> = issues
        .map(|(d, fingerprint)| {
            let (file, begin, end) = match &d.location {
                Some(at) => (&*at.file, at.line, end_of(at).0),
                None => (WHOLE, 1, 1),
            };
            json!({
                "description": sentences(d).join(" · "),
                "check_name": d.code,
                "fingerprint": fingerprint,
                "severity": severity(d.severity),
                "location": {
                    "path": report.path(file),
                    "lines": { "begin": begin, "end": end },
                },
            })
        })
        .collect();
    Value::Array(issues)
}

/// The issues of `before`, and behind them those of `report` that are not among them. A job has
/// one Code Quality report: the runner takes no second file.
pub(super) fn added(before: Option<&str>, report: &Report) -> Option<Value> {
    let before = before.map(serde_json::from_str::<Vec<Value>>);
    let mut issues = before.transpose().ok()?.unwrap_or_default();
    let of = |issue: &Value| issue.get("fingerprint").cloned();
    let known: Vec<Option<Value>> = issues.iter().map(of).collect();
    if let Value::Array(own) = document(report) {
        issues.extend(own.into_iter().filter(|issue| !known.contains(&of(issue))));
    }
    Some(Value::Array(issues))
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "critical",
        Severity::Note => "info",
        Severity::Warning => "minor",
    }
}
