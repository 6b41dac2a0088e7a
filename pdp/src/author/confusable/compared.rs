//! What conditions compare with parts of a request that are ASCII in every request.
//!
//! A path, a host and what else the canonical request has are ASCII: anything else is
//! percent-encoded, or punycode. A text with another character is equal to none of them, and
//! most such characters are there because they look like an ASCII one.

use palisade_mesh::{diagnostic::Diagnostic, yaml::Source};

use super::{Doubt, lookalike, looks_like, point, strings};
use crate::{
    author::{codes, policies::Parsed},
    decide::{Body, Node, Term},
};

/// What is ASCII in every request.
const ASCII: &[&str] = &[
    "context.grpc.method",
    "context.grpc.service",
    "context.http.host",
    "context.http.method",
    "context.http.path",
    "context.http.query",
];

/// Looks at the comparisons of a file of policies, where any of its strings could be wrong.
pub(super) fn look(source: &Source, strings: &[strings::Text<'_>]) -> Vec<Doubt> {
    let is_foreign = |s: &strings::Text<'_>| {
        let text = source.text.get(s.span.clone());
        s.annotation.is_none() && text.is_some_and(|text| !text.is_ascii())
    };
    if !strings.iter().any(is_foreign) {
        return Vec::new();
    }
    let parsed = Parsed::of(source);
    let bodies = parsed.policies().filter_map(Body::of);
    let conditions: Vec<_> = bodies.flat_map(|body| body.tree()).collect();
    let parts = conditions.iter().flat_map(|c| c.node.all());
    parts.flat_map(|part| of_part(source, part)).collect()
}

fn of_part(source: &Source, part: &Node) -> Vec<Doubt> {
    match &part.term {
        Term::Equal(two) => {
            let [a, b] = &**two;
            [(a, b), (b, a)]
                .into_iter()
                .filter_map(|(path, text)| of_text(source, ascii(path)?, text))
                .collect()
        }
        Term::Contains(two) => {
            let [set, item] = &**two;
            let (Term::Set(items), Some(path)) = (&set.term, ascii(item)) else {
                return Vec::new();
            };
            items
                .iter()
                .filter_map(|text| of_text(source, path, text))
                .collect()
        }
        Term::Like(one, glob) => ascii(one)
            .zip(glob.foreign())
            .and_then(|(path, c)| doubt(source, path, c, part))
            .into_iter()
            .collect(),
        _ => Vec::new(),
    }
}

/// The path that `node` is, where what it says is ASCII.
fn ascii(node: &Node) -> Option<&str> {
    match &node.term {
        Term::Path(path) => ASCII.contains(&path.as_str()).then_some(path),
        _ => None,
    }
}

fn of_text(source: &Source, path: &str, node: &Node) -> Option<Doubt> {
    let Term::Text(text) = &node.term else {
        return None;
    };
    let c = text.chars().find(|c| !c.is_ascii())?;
    doubt(source, path, c, node)
}

/// Marks the character in `node`; nothing where it is written as an escape, which says what it is.
fn doubt(source: &Source, path: &str, c: char, node: &Node) -> Option<Doubt> {
    let text = source.text.get(node.span.clone()).unwrap_or_default();
    if !text.is_empty() && text.is_ascii() {
        return None;
    }
    let at = match text.find(c) {
        Some(at) => node.span.start + at..node.span.start + at + c.len_utf8(),
        None => node.span.clone(),
    };
    let diagnostic = match lookalike(c) {
        Some(plain) => looks_like(c, plain).help(format!("type `{plain}`")),
        None => Diagnostic::error(
            codes::CONFUSABLE,
            format!("`{c}` ({}) is in no `{path}`", point(c)),
        )
        .help(spelled(path, c)),
    };
    let cause = format!("`{path}` is ASCII in every request, so none has this");
    Some(Doubt::new(at, diagnostic.cause(cause)))
}

/// How a request has a character that is not ASCII.
fn spelled(path: &str, c: char) -> String {
    match path {
        "context.http.path" | "context.http.query" => {
            let mut bytes = [0; 4];
            let bytes = c.encode_utf8(&mut bytes).bytes();
            let escaped: String = bytes.map(|b| format!("%{b:02X}")).collect();
            format!("write `{escaped}`, as a request has it")
        }
        "context.http.host" => "write the host as DNS has it, beginning with `xn--`".to_owned(),
        _ => "write it as a request has it".to_owned(),
    }
}
