//! JUnit XML: each test case, passed ones too; for checks, each file and each finding.

use palisade_mesh::diagnostic::{Diagnostic, Severity};

use super::{Report, level, sentences};

/// One `testcase`.
struct Case<'r> {
    suite: &'r str,
    name: String,
    line: usize,
    secs: f64,
    problem: Option<&'r Diagnostic>,
    failed: bool,
}

pub(super) fn text(report: &Report) -> String {
    let mut cases = cases(report);
    // One suite for each file, whatever order its parts came in.
    cases.sort_by_key(|c| c.suite);
    let failed = |cases: &[Case<'_>]| cases.iter().filter(|c| c.failed).count();
    let secs = |cases: &[Case<'_>]| cases.iter().map(|c| c.secs).sum::<f64>();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" time=\"{:.6}\">\n",
        escape(report.command),
        cases.len(),
        failed(&cases),
        secs(&cases),
    );
    for suite in cases.chunk_by(|a, b| a.suite == b.suite) {
        let name = suite.first().map_or("", |c| c.suite);
        out.push_str(&format!(
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"0\" time=\"{:.6}\">\n",
            escape(&report.path(name)),
            suite.len(),
            failed(suite),
            secs(suite),
        ));
        for case in suite {
            out.push_str(&testcase(report, case));
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn cases(report: &Report) -> Vec<Case<'_>> {
    let tests = report.cases.iter().map(|case| Case {
        suite: &case.file,
        name: case.name.clone(),
        line: case.line,
        secs: case.took.as_secs_f64(),
        problem: case.failure.as_ref(),
        failed: case.failure.is_some(),
    });
    let findings = report.findings.iter().map(|d| Case {
        suite: d.location.as_ref().map_or("", |at| &at.file),
        name: format!("{} {}", d.code, d.message),
        line: d.location.as_ref().map_or(0, |at| at.line),
        secs: 0.0,
        problem: Some(d),
        failed: d.is_error() || report.strict && d.severity == Severity::Warning,
    });
    let files = report.files.iter().map(|file| Case {
        suite: file,
        name: format!("{file} was checked"),
        line: 1,
        secs: 0.0,
        problem: None,
        failed: false,
    });
    files.chain(findings).chain(tests).collect()
}

fn testcase(report: &Report, case: &Case<'_>) -> String {
    let path = escape(&report.path(case.suite));
    let head = format!(
        "    <testcase classname=\"{path}\" name=\"{}\" file=\"{path}\" line=\"{}\" time=\"{:.6}\"",
        escape(&case.name),
        case.line,
        case.secs
    );
    let Some(problem) = case.problem else {
        return format!("{head}/>\n");
    };
    let said = sentences(problem).join("\n");
    let body = match case.failed {
        true => format!(
            "<failure message=\"{}\" type=\"{}\">{}</failure>",
            escape(&problem.message),
            problem.code,
            escape(&said)
        ),
        false => format!(
            "<system-out>{}: {}</system-out>",
            level(problem.severity),
            escape(&said)
        ),
    };
    format!("{head}>{body}</testcase>\n")
}

/// `text` for element content and attributes; what XML 1.0 cannot hold is replaced.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn no_text_becomes_markup() {
        assert_eq!(
            escape("]]></failure>&\"'"),
            "]]&gt;&lt;/failure&gt;&amp;&quot;&apos;"
        );
        assert_eq!(
            escape("a\u{1b}[2J\n\u{0}\u{ffff}"),
            "a\u{fffd}[2J&#10;\u{fffd}\u{fffd}"
        );
    }
}
