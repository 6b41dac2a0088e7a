//! What a checking command found, told to people, programs, code hosts and CI.
//!
//! A command fills one [`Report`]; each format is a module of its own that turns it into
//! text. Everything in a report may come from whoever opened the pull request: each
//! format escapes what its reader would obey (attack T93).

use std::{collections::BTreeMap, path::Path, time::Duration};

use palisade_mesh::{
    diagnostic::{Diagnostic, Location, Severity},
    snapshot::Digest,
};
use serde_json::Value;

use super::{Output, snippet};

mod github;
mod gitlab;
mod junit;
pub(crate) mod markdown;
mod plain;
mod sarif;

/// Characters of a digest that tell findings apart.
const FINGERPRINT_LEN: usize = 32;

/// For whom a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// People, at a terminal.
    Human,
    /// People who have it read to them: no drawings, no columns.
    Plain,
    /// Programs.
    Json,
    /// GitHub Actions: annotations, and the job summary.
    Github,
    /// GitLab: a Code Quality report.
    Gitlab,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// JUnit XML, for whatever shows tests.
    Junit,
    /// Markdown, for a comment on a pull request.
    Markdown,
}

/// What a checking command found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The command, such as `palisade policy lint`.
    pub(crate) command: &'static str,
    /// Folder of the repository within its work tree, with `/` at the end, or nothing.
    pub(crate) root: String,
    /// What is wrong, by file and line.
    pub(crate) findings: Vec<Diagnostic>,
    /// Whether warnings make the command fail.
    pub(crate) strict: bool,
    /// Files that were checked, with and without findings.
    pub(crate) files: Vec<String>,
    /// Test cases, passed ones too.
    pub(crate) cases: Vec<Case>,
    /// Tables beside the findings, such as coverage.
    pub(crate) tables: Vec<Grid>,
    /// What people read after the findings, with colours.
    pub(crate) lines: Vec<String>,
    /// What programs read.
    pub(crate) document: Value,
}

/// One test case.
#[derive(Debug)]
pub(crate) struct Case {
    /// File it stands in.
    pub(crate) file: String,
    /// Line of its row.
    pub(crate) line: usize,
    /// What it says.
    pub(crate) name: String,
    /// How long it took.
    pub(crate) took: Duration,
    /// What is wrong, when something is.
    pub(crate) failure: Option<Diagnostic>,
}

/// A table of texts.
#[derive(Debug, Default)]
pub(crate) struct Grid {
    /// What it shows.
    pub(crate) title: String,
    /// Heads of the columns.
    pub(crate) head: Vec<&'static str>,
    /// Rows, each as long as the head.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Report {
    /// Prints it to standard output; for people, findings go to standard error.
    pub(crate) fn print(&self, format: Format) {
        match format {
            Format::Human => {
                self.findings
                    .iter()
                    .for_each(|d| super::note(&snippet::render(d)));
                self.lines.iter().for_each(|l| super::line(l));
            }
            Format::Github => {
                super::line(self.text(format).trim_end());
                github::summarize(self);
            }
            _ => super::line(self.text(format).trim_end()),
        }
    }

    /// It as text, for a file.
    pub(crate) fn text(&self, format: Format) -> String {
        match format {
            Format::Human => self.human(),
            Format::Plain => plain::text(self),
            Format::Json => pretty(&self.document),
            Format::Github => github::text(self),
            Format::Gitlab => pretty(&gitlab::document(self)),
            Format::Sarif => pretty(&sarif::document(self)),
            Format::Junit => junit::text(self),
            Format::Markdown => markdown::text(self),
        }
    }

    /// It in the form of GitLab, behind the issues of another such report; none where `before`
    /// is none.
    pub(crate) fn added(&self, before: Option<&str>) -> Option<String> {
        gitlab::added(before, self).map(|all| pretty(&all))
    }

    fn human(&self) -> String {
        let findings = self.findings.iter().map(snippet::render);
        let all: Vec<String> = findings.chain(self.lines.iter().cloned()).collect();
        anstream::adapter::strip_str(&all.join("\n")).to_string() + "\n"
    }

    /// Findings and failed cases.
    fn problems(&self) -> impl Iterator<Item = &Diagnostic> {
        let failures = self.cases.iter().filter_map(|c| c.failure.as_ref());
        self.findings.iter().chain(failures)
    }

    /// `2 errors, 1 warning`, or `nothing to mend`.
    fn tally(&self) -> String {
        let counted = |severity, one, many| {
            let n = self.problems().filter(|d| d.severity == severity).count();
            (n > 0).then(|| super::count(n, one, many))
        };
        let said: Vec<String> = [
            counted(Severity::Error, "error", "errors"),
            counted(Severity::Warning, "warning", "warnings"),
            counted(Severity::Note, "note", "notes"),
        ]
        .into_iter()
        .flatten()
        .collect();
        match said.as_slice() {
            [] => "nothing to mend".to_owned(),
            some => some.join(", "),
        }
    }

    /// Where a file of the repository is in its work tree.
    fn path(&self, file: &str) -> String {
        format!("{}{file}", self.root)
    }

    /// `33 cases, 1 failed`; `None` where no case was run.
    fn cases_tally(&self) -> Option<String> {
        let failed = self.cases.iter().filter(|c| c.failure.is_some()).count();
        let cases = super::count(self.cases.len(), "case", "cases");
        match (self.cases.len(), failed) {
            (0, _) => None,
            (_, 0) => Some(format!("{cases}, all passed")),
            (_, n) => Some(format!("{cases}, {n} failed")),
        }
    }

    /// For each problem a name that stays the same while other lines come and go: made of
    /// its code, its file, the text it marks and how many are equal before it.
    fn fingerprints(&self) -> Vec<String> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        self.problems()
            .map(|d| {
                let at = d.location.as_ref();
                let file = at.map_or("", |at| &at.file);
                let marked = at.map_or(d.message.as_str(), marked_line).trim();
                let key = format!("{}\0{file}\0{marked}", d.code);
                let n = seen.entry(key.clone()).or_default();
                *n += 1;
                let digest = Digest::of(format!("{key}\0{n}").as_bytes()).to_string();
                digest.chars().take(FINGERPRINT_LEN).collect()
            })
            .collect()
    }
}

impl Format {
    /// What is asked for: `--format`, or else what `-o` says.
    pub(crate) fn of(asked: Option<Self>, output: Output) -> Self {
        asked.unwrap_or(match output {
            Output::Human => Self::Human,
            Output::Json => Self::Json,
        })
    }
}

/// Where `dir` lies in its work tree, as [`Report::root`] wants it: code hosts know files
/// by their path from the top of the repository. Outside a work tree it is as given.
pub(crate) fn root_of(dir: &Path) -> String {
    let within = dir.canonicalize().ok().and_then(|whole| {
        let top = whole.ancestors().find(|d| d.join(".git").exists())?;
        Some(whole.strip_prefix(top).ok()?.to_path_buf())
    });
    let path = within.unwrap_or_else(|| dir.to_path_buf());
    let path = path.display().to_string();
    match path.trim_start_matches("./").trim_end_matches('/') {
        "" | "." => String::new(),
        path => format!("{path}/"),
    }
}

/// Everything about a problem but its place, a line each.
fn sentences(d: &Diagnostic) -> Vec<String> {
    let mut said = vec![d.message.clone()];
    said.extend(d.label.clone());
    let cause = d.cause.iter().flat_map(|cause| cause.lines());
    said.extend(cause.map(str::to_owned));
    said.extend(d.help.as_ref().map(|help| format!("fix: {help}")));
    said
}

/// The last line and the column after the last character that a place marks.
fn end_of(at: &Location) -> (usize, usize) {
    let marked = at
        .text
        .get(at.offset..at.offset + at.len)
        .unwrap_or_default();
    let last = marked
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count();
    match marked.matches('\n').count() {
        0 => (at.line, at.column + last),
        n => (at.line + n, last + 1),
    }
}

fn marked_line(at: &Location) -> &str {
    at.text
        .lines()
        .nth(at.line.saturating_sub(1))
        .unwrap_or_default()
}

/// The word of a severity in most formats.
fn level(severity: Severity) -> &'static str {
    super::severity(severity).1
}

fn pretty(document: &Value) -> String {
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests;
