//! One shape for everything that is wrong with somebody's input.
//!
//! Says what happened, where, why, how to mend it, under a code that
//! `palisade explain CODE` documents. Crates build these; the binary renders
//! them for people, and as JSON.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use serde::Serialize;

/// What the program is called that tells of it: one for a process, whichever crate told first.
static PROGRAM: OnceLock<&str> = OnceLock::new();

/// What the program is called, for commands that its messages name.
pub fn program() -> &'static str {
    PROGRAM.get_or_init(|| "palisade")
}

/// Calls the program so; to be said before anything is told.
pub fn call_program(name: &'static str) {
    let _ = PROGRAM.set(name);
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For your information.
    Note,
    /// It will stop working, or is unsafe.
    Warning,
    /// It does not work.
    Error,
}

/// A stable code such as `PLS1103`.
///
/// Ranges: 1xxx policy, 2xxx tests and impact, 3xxx bundles and rollout, 4xxx
/// identity and CA, 5xxx proxy and routing, 6xxx decisions, 7xxx audit, 8xxx
/// configuration, 9xxx demo and command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u16);

/// Where in which text. Offsets are bytes, lines and columns start at 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Path as the user knows it.
    pub file: Arc<str>,
    /// First line.
    pub line: usize,
    /// First column.
    pub column: usize,
    /// Start of the marked span.
    pub offset: usize,
    /// Length of the marked span.
    pub len: usize,
    /// The whole text of the file, for the snippet.
    pub text: Arc<str>,
}

impl Location {
    /// Marks `len` bytes at `offset` of `text`.
    pub fn span(
        file: impl Into<Arc<str>>,
        text: impl Into<Arc<str>>,
        offset: usize,
        len: usize,
    ) -> Self {
        let text = text.into();
        let before = text.get(..offset).unwrap_or(&text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        Self {
            file: file.into(),
            line,
            column,
            offset: before.len(),
            len: len.min(text.len() - before.len()),
            text,
        }
    }

    /// Marks a whole line of `text`, without its indentation; `line` starts at 1.
    pub fn line(file: impl Into<Arc<str>>, text: impl Into<Arc<str>>, line: usize) -> Self {
        let text = text.into();
        let start: usize = text
            .split_inclusive('\n')
            .take(line.saturating_sub(1))
            .map(str::len)
            .sum();
        let body = text
            .get(start..)
            .and_then(|t| t.lines().next())
            .unwrap_or_default();
        let trimmed = body.trim_start();
        let (offset, len) = (start + body.len() - trimmed.len(), trimmed.trim_end().len());
        Self::span(file, text, offset, len)
    }
}

/// One thing that is wrong, as it should be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable code.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// What happened, in the user's words.
    pub message: String,
    /// What the marked span should say next to it.
    pub label: Option<String>,
    /// Why: observed against expected.
    pub cause: Option<String>,
    /// How to mend it; a command or an edit.
    pub help: Option<String>,
    /// Where.
    pub location: Option<Location>,
}

impl Diagnostic {
    /// An error with a code and a message.
    pub fn error(code: u16, message: impl Into<String>) -> Self {
        Self {
            code: Code(code),
            severity: Severity::Error,
            message: message.into(),
            label: None,
            cause: None,
            help: None,
            location: None,
        }
    }

    /// A warning with a code and a message.
    pub fn warning(code: u16, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, message)
        }
    }

    /// Adds what the marked span says.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds the fix.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the place.
    #[must_use]
    pub fn at(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }

    /// Whether this keeps the input from being used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// Nearest of `candidates` to a mistyped `word`, if one is near enough to suggest.
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| {
            (
                strsim::damerau_levenshtein(&word.to_lowercase(), &c.to_lowercase()),
                c,
            )
        })
        .filter(|(distance, c)| *distance <= 1 + c.len().min(word.len()) / 4)
        .min_by(|(a, x), (b, y)| {
            let likeness = |c| strsim::jaro_winkler(word, c);
            a.cmp(b).then(likeness(y).total_cmp(&likeness(x)))
        })
        .map(|(_, c)| c)
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PLS{:04}", self.0)
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.location {
            write!(f, "{}:{}:{}: ", at.file, at.line, at.column)?;
        }
        write!(f, "{}: {}", self.code, self.message)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

impl Serialize for Diagnostic {
    /// The machine form: `code, severity, message, cause, help, location, docs`.
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct At<'a> {
            file: &'a str,
            line: usize,
            column: usize,
        }
        #[derive(Serialize)]
        struct Form<'a> {
            code: Code,
            severity: Severity,
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            label: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            cause: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            help: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            location: Option<At<'a>>,
            docs: String,
        }
        Form {
            code: self.code,
            severity: self.severity,
            message: &self.message,
            label: self.label.as_deref(),
            cause: self.cause.as_deref(),
            help: self.help.as_deref(),
            location: self.location.as_ref().map(|at| At {
                file: &at.file,
                line: at.line,
                column: at.column,
            }),
            docs: format!("{} explain {}", program(), self.code),
        }
        .serialize(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_marked_without_its_indentation() {
        let at = Location::line("a.yaml", "one: 1\n  two: 2\n", 2);
        assert_eq!((at.line, at.column, at.len), (2, 3, 6));
    }

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        assert_eq!(
            did_you_mean("listn", ["list", "listen", "upstream"]),
            Some("listen")
        );
        assert_eq!(did_you_mean("GTE", ["GET", "POST"]), Some("GET"));
        assert_eq!(did_you_mean("banana", ["listen", "upstream"]), None);
    }
}
