//! A text with a name: where diagnostics point.

use std::sync::Arc;

use palisade_mesh::diagnostic::Location;

/// One file of a repository.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Path in the repository.
    pub(crate) path: Arc<str>,
    /// Its whole text.
    pub(crate) text: Arc<str>,
}

impl Source {
    pub(crate) fn new(path: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }

    /// Marks a span of bytes; one that does not fit is cut to what does.
    pub(crate) fn span(&self, span: Span) -> Location {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        Location::span(self.path.clone(), self.text.clone(), start, span.len)
    }

    /// Marks one line, counted from 1.
    pub(crate) fn line(&self, line: usize) -> Location {
        Location::line(self.path.clone(), self.text.clone(), line)
    }

    /// The text of a span.
    pub(crate) fn slice(&self, span: Span) -> &str {
        self.text
            .get(span.start..span.start + span.len)
            .unwrap_or_default()
    }
}

/// Bytes of a [`Source`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

impl Span {
    pub(crate) fn new(start: usize, len: usize) -> Self {
        Self { start, len }
    }
}
