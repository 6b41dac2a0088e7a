//! YAML as a tree that knows where everything stands.
//!
//! A typed parser stops at its first mistake. Whoever wants to report them all
//! reads this tolerant tree instead: every value carries its place, keys are told
//! apart by their text, and a scalar keeps the text it was written with, so `1.10`
//! stays `1.10`. Aliases are expanded within the library's limits.

use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Spanned, options::DuplicateKeyPolicy};

use crate::diagnostic::{Diagnostic, Location};

/// The codes under which a file's own mistakes are told.
#[derive(Debug, Clone, Copy)]
pub struct Codes {
    /// A key stands twice in one map.
    pub duplicate_key: u16,
    /// It is not YAML.
    pub syntax: u16,
    /// It exceeds a limit of the reader.
    pub too_deep: u16,
}

/// Deepest nesting of maps and lists.
pub const DEPTH_MAX: usize = 32;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where it stands.
    pub span: Span,
    /// What it is.
    pub value: Value,
    /// Whether a reader has taken something out of it.
    pub pruned: bool,
}

/// What a value is.
#[derive(Debug, Clone)]
pub enum Value {
    /// Nothing.
    Null,
    /// A text, number or truth value, as it was written.
    Scalar(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file.
    Map(Vec<Entry>),
}

/// One line of a map.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Parses a file. A syntax error is reported and gives `None`; doubled keys are
/// reported and the first one is kept.
pub fn parse(source: &Source, codes: Codes, found: &mut Vec<Diagnostic>) -> Option<Node> {
    let raw = match read(source, DuplicateKeyPolicy::Error) {
        Err(error) if is_duplicate(&error) => {
            found.push(syntax(source, codes, &error));
            read(source, DuplicateKeyPolicy::FirstWins)
        }
        other => other,
    };
    match raw {
        Ok(raw) => Some(node(raw, source)),
        Err(error) => {
            found.push(syntax(source, codes, &error));
            None
        }
    }
}

fn read(source: &Source, keys: DuplicateKeyPolicy) -> Result<Spanned<Raw>, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        duplicate_keys: keys,
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX },
    };
    serde_saphyr::from_str_with_options(&source.text, options)
}

fn is_duplicate(error: &serde_saphyr::Error) -> bool {
    matches!(
        error.without_snippet(),
        serde_saphyr::Error::DuplicateMappingKey { .. }
    )
}

fn syntax(source: &Source, codes: Codes, error: &serde_saphyr::Error) -> Diagnostic {
    let bare = error.without_snippet();
    let location = error.location().map_or_else(
        || source.line(1),
        |l| {
            let at = l.span();
            match at.byte_offset() {
                Some(offset) => source.span(Span::new(
                    usize_of(offset),
                    usize_of(at.byte_len().unwrap_or(1)).max(1),
                )),
                None => source.line(usize_of(l.line())),
            }
        },
    );
    if let serde_saphyr::Error::DuplicateMappingKey { key, .. } = bare {
        let key = key.as_deref().unwrap_or_default();
        return Diagnostic::error(codes.duplicate_key, format!("key `{key}` is there twice"))
            .label("second time")
            .cause("only one of the two could be meant")
            .help("keep one of them")
            .at(location);
    }
    if matches!(bare, serde_saphyr::Error::Budget { .. }) {
        return Diagnostic::error(codes.too_deep, "YAML exceeds a limit of the reader")
            .cause(format!(
                "{bare}; maps and lists nest at most {DEPTH_MAX} deep"
            ))
            .help("split the file or flatten it")
            .at(location);
    }
    let text = bare.to_string();
    // The place is told by the location; the reader often notices a line too late.
    let first = text.lines().next().unwrap_or_default();
    let cause = first
        .rsplit_once(" at line ")
        .map_or(first, |(cause, _)| cause);
    Diagnostic::error(codes.syntax, "this is not YAML")
        .label("here, or on the line above")
        .cause(cause.to_owned())
        .help("check indentation, colons, brackets and quotes around this place")
        .at(location)
}

fn usize_of(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn node(raw: Spanned<Raw>, source: &Source) -> Node {
    let span = span_of(&raw.referenced);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Scalar(text),
        Raw::Plain => Value::Scalar(source.slice(span_of(&raw.defined)).trim().to_owned()),
        Raw::List(items) => Value::List(items.into_iter().map(|i| node(i, source)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    key_span: span_of(&key.referenced),
                    key: key.value,
                    value: node(value, source),
                })
                .collect(),
        ),
    };
    Node {
        span,
        value,
        pruned: false,
    }
}

fn span_of(location: &serde_saphyr::Location) -> Span {
    let span = location.span();
    Span::new(
        usize_of(span.byte_offset().unwrap_or_default()),
        usize_of(span.byte_len().unwrap_or_default()),
    )
}

/// What the library sees; numbers and booleans keep only their place.
enum Raw {
    Null,
    Plain,
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

/// A text with a name: where diagnostics point.
#[derive(Debug, Clone)]
pub struct Source {
    /// Path as the user knows it.
    pub path: Arc<str>,
    /// Its whole text.
    pub text: Arc<str>,
}

impl Source {
    /// A text under the name by which diagnostics call it.
    pub fn new(path: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }

    /// Marks a span of bytes, widened to whole characters and cut to the text.
    pub fn span(&self, span: Span) -> Location {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = (start + span.len).min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        Location::span(self.path.clone(), self.text.clone(), start, end - start)
    }

    /// Marks one line, counted from 1.
    pub fn line(&self, line: usize) -> Location {
        Location::line(self.path.clone(), self.text.clone(), line)
    }

    /// The text of a span.
    pub fn slice(&self, span: Span) -> &str {
        self.text
            .get(span.start..span.start + span.len)
            .unwrap_or_default()
    }
}

/// Bytes of a [`Source`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// How many.
    pub len: usize,
}

impl Span {
    /// `len` bytes from `start`.
    pub fn new(start: usize, len: usize) -> Self {
        Self { start, len }
    }
}
