//! The strings of Cedar text, told apart from its comments.

use std::ops::Range;

/// A string of Cedar text.
pub(super) struct Text<'t> {
    /// What is between its quotation marks.
    pub(super) span: Range<usize>,
    /// The annotation whose value it is.
    pub(super) annotation: Option<&'t str>,
}

/// What Cedar text has beside code, each in order.
pub(super) struct Parts<'t> {
    pub(super) strings: Vec<Text<'t>>,
    /// Comments, without the break of the line that ends each.
    pub(super) comments: Vec<Range<usize>>,
}

/// Every string and comment. A string that is not closed ends with the text.
pub(super) fn of(text: &str) -> Parts<'_> {
    let (mut strings, mut comments) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(rest) = text.get(at..)
        && let Some(next) = rest.find(['"', '/'])
    {
        let start = at + next + 1;
        let Some(inside) = text.get(start..) else {
            break;
        };
        if rest.get(next..).is_some_and(|r| r.starts_with('"')) {
            let len = closing(inside);
            strings.push(Text {
                span: start..start + len,
                annotation: text.get(..start - 1).and_then(annotation),
            });
            at = start + len + 1;
        } else {
            at = start;
            if inside.starts_with('/') {
                // Cedar ends a comment at either.
                at += inside.find(['\n', '\r']).unwrap_or(inside.len());
                comments.push(start - 1..at);
            }
        }
    }
    Parts { strings, comments }
}

/// How many bytes a string has that begins here.
fn closing(inside: &str) -> usize {
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match c {
            '"' if !escaped => return at,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    inside.len()
}

/// The name of the annotation that opens at the end of `before`.
fn annotation(before: &str) -> Option<&str> {
    let open = before.trim_end().strip_suffix('(')?;
    let (_, name) = open.rsplit_once('@')?;
    let name = name.trim();
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_');
    (is_name && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_told_from_comments_and_know_their_annotation() {
        let text = "// it's \"no\" string\n@ owner ( \"a\\\"b\" )\npermit (principal, action, resource) // \"x\nwhen { 4 == 8 && context.a(\"c/d//e\") == \"";
        let parts = of(text);
        let comments: Vec<_> = parts.comments.into_iter().map(|c| &text[c]).collect();
        assert_eq!(comments, ["// it's \"no\" string", "// \"x"]);
        let seen: Vec<_> = parts
            .strings
            .into_iter()
            .map(|s| (&text[s.span.clone()], s.annotation))
            .collect();
        assert_eq!(
            seen,
            [("a\\\"b", Some("owner")), ("c/d//e", None), ("", None)]
        );
    }
}
