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

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "critical",
        Severity::Note => "info",
        Severity::Warning => "minor",
    }
}
