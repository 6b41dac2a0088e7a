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
                annotation: text.get(..start - 1).and_then(|t| annotation(t, &comments)),
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

/// The name of the annotation that opens at the end of `before`, in which these are comments.
fn annotation<'t>(before: &'t str, comments: &[Range<usize>]) -> Option<&'t str> {
    let open = code(before, comments).strip_suffix('(')?;
    let named = code(open, comments);
    let is_sign = |c: char| !c.is_alphanumeric() && c != '_';
    let at = named.rfind(is_sign)? + 1;
    let (before, name) = named
        .split_at_checked(at)
        .filter(|(_, name)| !name.is_empty())?;
    code(before, comments).ends_with('@').then_some(name)
}

/// The text without spaces and comments at its end.
fn code<'t>(mut text: &'t str, comments: &[Range<usize>]) -> &'t str {
    for comment in comments.iter().rev() {
        text = text.trim_end();
        if comment.start >= text.len() {
            continue;
        }
        match text.get(..comment.start) {
            Some(before) if text.len() <= comment.end => text = before,
            _ => break,
        }
    }
    text.trim_end()
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

    #[test]
    fn comments_stand_where_spaces_may() {
        for text in [
            "@owner( // x (\n \"a\")",
            "@owner // @id\n// y  \n( \"a\")",
            "// @\n@ // z\rowner(\"a\")",
        ] {
            let parts = of(text);
            let named: Vec<_> = parts.strings.iter().map(|s| s.annotation).collect();
            assert_eq!(named, [Some("owner")], "{text:?}");
        }
        for text in ["x.owner( // @owner(\n \"a\")", "@( \"a\")", "ip(\"a\")"] {
            let named = of(text).strings.iter().any(|s| s.annotation.is_some());
            assert!(!named, "{text:?}");
        }
    }
}
