//! GitHub Actions: workflow commands that become annotations, and the job summary.
//!
//! GitHub shows ten annotations of a kind (error, warning, notice) of a step, and drops the rest
//! without a word: the later ones, however bad. An action of several commands is one step. So a
//! command makes few enough of a kind for five of them to have room. Where there are more, those
//! of one code become one annotation, and what still has no room is counted in the last one of
//! its kind. The log has everything, between `stop-commands` and a token that nobody can guess,
//! so that no text in it is obeyed; the summary has what it can hold.

use std::{env, fs, io::Write};

use palisade_mesh::diagnostic::{Code, Diagnostic, Severity};
use ulid::Ulid;

use super::{super::snippet::clean, Report, end_of, markdown, sentences};

/// Annotations of a command of one kind: five commands make the ten that GitHub shows of a step.
const ANNOTATIONS_MAX: usize = 2;
/// Where GitHub wants the summary of a step.
const SUMMARY: &str = "GITHUB_STEP_SUMMARY";

/// One annotation and how many it stands for.
struct Annotation<'d> {
    first: &'d Diagnostic,
    more: usize,
}

pub(super) fn text(report: &Report) -> String {
    let token = Ulid::generate();
    let log = report.human();
    let mut out = format!("::group::{}: {}\n", report.command, report.tally());
    out.push_str(&format!("::stop-commands::{token}\n{log}"));
    out.push_str(&format!("::{token}::\n::endgroup::\n"));
    for severity in [Severity::Error, Severity::Warning, Severity::Note] {
        let all: Vec<_> = report
            .problems()
            .filter(|d| d.severity == severity)
            .collect();
        let (shown, hidden) = annotations(&all);
        for one in &shown {
            out.push_str(&annotation(report, one));
        }
        if !hidden.is_empty() {
            out.push_str(&format!(
                "::{} title=Palisade::+{} more, see the log of this step\n",
                word(severity),
                told_by(&hidden)
            ));
        }
    }
    out
}

/// Appends the report to the summary of the step, where there is one.
pub(super) fn summarize(report: &Report) {
    let Some(path) = env::var_os(SUMMARY).filter(|path| !path.is_empty()) else {
        return;
    };
    let file = fs::OpenOptions::new().append(true).create(true).open(&path);
    let written = file.and_then(|mut f| f.write_all(markdown::text(report).as_bytes()));
    if let Err(error) = written {
        super::super::note(&format!(
            "warning: the job summary cannot be written: {error}"
        ));
    }
}

/// How many findings these stand for.
fn told_by(annotations: &[Annotation<'_>]) -> usize {
    annotations.iter().map(|one| one.more + 1).sum()
}

/// What fits of findings of one kind: each for itself, or else by code, or else the first
/// groups; and what has no room.
fn annotations<'d>(all: &[&'d Diagnostic]) -> (Vec<Annotation<'d>>, Vec<Annotation<'d>>) {
    let alone = |first: &&'d Diagnostic| Annotation { first, more: 0 };
    if all.len() <= ANNOTATIONS_MAX {
        return (all.iter().map(alone).collect(), Vec::new());
    }
    let mut groups: Vec<(Code, Annotation<'d>)> = Vec::new();
    for diagnostic in all {
        match groups.iter_mut().find(|(of, _)| *of == diagnostic.code) {
            Some((_, group)) => group.more += 1,
            None => groups.push((diagnostic.code, alone(diagnostic))),
        }
    }
    let mut groups: Vec<Annotation<'d>> = groups.into_iter().map(|(_, group)| group).collect();
    let hidden = match groups.len() > ANNOTATIONS_MAX {
        true => groups.split_off(ANNOTATIONS_MAX - 1),
        false => Vec::new(),
    };
    (groups, hidden)
}

fn annotation(report: &Report, one: &Annotation<'_>) -> String {
    let d = one.first;
    let mut properties = Vec::new();
    if let Some(at) = &d.location {
        let (end_line, end_column) = end_of(at);
        properties.push(format!("file={}", property(&report.path(&at.file))));
        properties.push(format!("line={},endLine={end_line}", at.line));
        // GitHub takes columns only within one line.
        if end_line == at.line {
            properties.push(format!("col={},endColumn={end_column}", at.column));
        }
    }
    properties.push(format!("title={}", d.code));
    let mut said = sentences(d);
    if one.more > 0 {
        said.push(format!("{} more of this code, see the log", one.more));
    }
    let said: Vec<String> = said.iter().map(|s| clean(s)).collect();
    format!(
        "::{} {}::{}\n",
        word(d.severity),
        properties.join(","),
        data(&said.join("\n"))
    )
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Note => "notice",
        Severity::Warning => "warning",
    }
}

/// `text` as the message of a workflow command.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// `text` as a value among the properties of a workflow command.
fn property(text: &str) -> String {
    data(&clean(text)).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(n: usize, code: impl Fn(usize) -> u16) -> Vec<Diagnostic> {
        (0..n)
            .map(|i| Diagnostic::error(code(i), format!("m{i}")))
            .collect()
    }

    /// Shown annotations, findings they stand for beyond themselves, findings untold.
    #[track_caller]
    fn check(all: &[Diagnostic], expected: (usize, usize, usize)) {
        let refs: Vec<&Diagnostic> = all.iter().collect();
        let (shown, hidden) = annotations(&refs);
        let hidden = told_by(&hidden);
        let more: usize = shown.iter().map(|a| a.more).sum();
        assert_eq!((shown.len(), more, hidden), expected);
        assert_eq!(shown.len() + more + hidden, all.len(), "none is lost");
        assert!(shown.len() + usize::from(hidden > 0) <= ANNOTATIONS_MAX);
    }

    #[test]
    fn no_more_is_annotated_than_github_shows_and_the_rest_is_counted() {
        let own = |i| 1000 + u16::try_from(i).unwrap_or(0);
        check(&many(2, own), (2, 0, 0));
        check(&many(3, own), (1, 0, 2));
        check(&many(47, |_| 1100), (1, 46, 0));
        check(&many(40, |i| own(i % 20)), (1, 1, 38));
    }

    #[test]
    fn no_text_becomes_a_command_or_a_property() {
        assert_eq!(data("50% ::error::\r\nx"), "50%25 ::error::%0D%0Ax");
        assert_eq!(property("a,b::c\n%"), "a%2Cb%3A%3Ac\u{fffd}%25");
    }
}
