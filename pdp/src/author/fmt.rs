//! `policy fmt`: one layout for all Cedar files of a repository.

use std::{fs, io, path::Path};

use cedar_policy::PolicySet;
use cedar_policy_formatter::{Config, policies_str_to_pretty};
use palisade_mesh::{
    diagnostic::{Diagnostic, Location},
    yaml::Source,
};
use serde::Serialize;

use super::{cedar, codes, files, nesting};

/// Widest line.
pub const LINE_WIDTH: usize = 100;
/// Lines shown around a change.
pub(crate) const CONTEXT: usize = 3;

/// What formatting makes of one file.
#[derive(Debug, Clone, Serialize)]
pub struct Formatted {
    /// Path in the repository.
    pub file: String,
    /// Whether the layout differs.
    pub changed: bool,
    /// The difference as a unified diff; empty when there is none.
    pub diff: String,
    /// The text in the one layout.
    #[serde(skip)]
    pub text: String,
    #[serde(skip)]
    old: String,
}

impl Formatted {
    /// What to say where the layout must not differ.
    pub fn diagnostic(&self) -> Option<Diagnostic> {
        let (old, new) = (self.old.lines(), self.text.lines());
        let first = old.zip(new).take_while(|(a, b)| a == b).count() + 1;
        let at = Location::line(self.file.as_str(), self.old.as_str(), first);
        self.changed.then(|| {
            Diagnostic::error(
                codes::LAYOUT,
                format!("`{}` is not in the one layout", self.file),
            )
            .label("differs from here on")
            .help("palisade policy fmt")
            .at(at)
        })
    }
}

/// Lays out every Cedar policy file of the repository in `dir`; writes nothing.
/// A file that does not parse is reported and left out.
pub fn check(dir: &Path) -> (Vec<Formatted>, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let files = files::read(dir, &mut found);
    let mut all = Vec::new();
    let is_laid_out =
        |path: &str| super::files::is_policy(path) || super::files::is_invariant(path);
    for file in files.iter().filter(|f| is_laid_out(&f.path)) {
        let source = Source::new(file.path.as_str(), file.text.as_str());
        match format(&source) {
            Ok(text) => all.push(Formatted {
                file: file.path.clone(),
                changed: text != file.text,
                diff: diff(&file.path, &file.path, &file.text, &text),
                text,
                old: file.text.clone(),
            }),
            Err(mut diagnostics) => found.append(&mut diagnostics),
        }
    }
    (all, found)
}

/// Writes the files that [`check`] found to differ, each by replacing it whole.
///
/// # Errors
/// The first file that cannot be written; those before it are.
pub fn write(dir: &Path, formatted: &[Formatted]) -> Result<(), Diagnostic> {
    for one in formatted.iter().filter(|f| f.changed) {
        replace(&dir.join(&one.file), &one.text).map_err(|error| unwritten(&one.file, &error))?;
    }
    Ok(())
}

/// What to say of a file that cannot be written.
pub(super) fn unwritten(file: &str, error: &io::Error) -> Diagnostic {
    Diagnostic::error(codes::UNREADABLE, format!("`{file}` cannot be written"))
        .cause(error.to_string())
        .help("check that this user may write it")
}

/// Replaces a file as a whole.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("tmp");
    fs::write(&draft, text)?;
    fs::set_permissions(&draft, fs::metadata(path)?.permissions())?;
    fs::rename(&draft, path)
}

/// Lays out each policy; comments and blank lines between policies stay, the
/// latter one at most.
pub(crate) fn format(source: &Source) -> Result<String, Vec<Diagnostic>> {
    nesting::check(source).map_err(|d| vec![*d])?;
    let parsed: PolicySet = source
        .text
        .parse()
        .map_err(|errors| cedar::of_parse(&errors, source))?;
    let policies = parsed.policies().map(|p| p.as_ref().loc());
    let templates = parsed.templates().map(|t| t.as_ref().loc());
    let mut bounds: Vec<_> = policies
        .chain(templates)
        .flatten()
        .map(|l| (l.start(), l.end()))
        .collect();
    bounds.sort_unstable();
    let mut out = String::with_capacity(source.text.len());
    let mut at = 0;
    for (start, end) in bounds {
        gap(source.text.get(at..start).unwrap_or_default(), &mut out);
        let policy = source.text.get(start..end).unwrap_or_default();
        out.push_str(pretty(policy, source)?.trim());
        at = end;
    }
    gap(source.text.get(at..).unwrap_or_default(), &mut out);
    let trimmed = out.trim();
    Ok(if trimmed.is_empty() {
        String::new()
    } else {
        format!("{trimmed}\n")
    })
}

fn pretty(policy: &str, source: &Source) -> Result<String, Vec<Diagnostic>> {
    let config = Config {
        line_width: LINE_WIDTH,
        indent_width: 2,
    };
    policies_str_to_pretty(policy, &config).map_err(|error| {
        let report: &dyn miette::Diagnostic = error.as_ref();
        vec![cedar::of_report(codes::CEDAR_SYNTAX, report, source)]
    })
}

/// What stands between two policies: comments as they are, at most one blank line
/// in a row, and the next policy on a line of its own.
fn gap(text: &str, out: &mut String) {
    let lines: Vec<_> = text.split('\n').map(str::trim).collect();
    let mut joined = lines.join("\n");
    while joined.contains("\n\n\n") {
        joined = joined.replace("\n\n\n", "\n\n");
    }
    if !out.is_empty() && joined.starts_with("//") {
        out.push(' ');
    }
    out.push_str(&joined);
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
}

/// One hunk from the first to the last difference, of a file that is called `from` and is
/// to be called `to`.
pub(super) fn diff(from: &str, to: &str, old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let (old, new): (Vec<_>, Vec<_>) = (lines(old), lines(new));
    let same = |(a, b): &(&&str, &&str)| a == b;
    let head = old.iter().zip(&new).take_while(same).count();
    let room = old.len().min(new.len()) - head;
    let tail = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take_while(same)
        .count()
        .min(room);
    let start = head.saturating_sub(CONTEXT);
    let after = CONTEXT.min(tail);
    let range = |len: usize| {
        let count = len - tail + after - start;
        // What is empty begins at line 0.
        format!("{},{count}", start + usize::from(count > 0))
    };
    let mut out = format!(
        "--- {from}\n+++ {to}\n@@ -{} +{} @@\n",
        range(old.len()),
        range(new.len()),
    );
    let mut add = |mark: char, lines: &[&str], from: usize, to: usize| {
        for line in lines.get(from..to).unwrap_or_default() {
            out.push(mark);
            out.push_str(line);
            if !line.ends_with('\n') {
                out.push_str("\n\\ No newline at end of file\n");
            }
        }
    };
    add(' ', &old, start, head);
    add('-', &old, head, old.len() - tail);
    add('+', &new, head, new.len() - tail);
    add(' ', &old, old.len() - tail, old.len() - tail + after);
    out
}

/// Lines with what ends them, so that a last one without an end differs from one with it.
fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}
