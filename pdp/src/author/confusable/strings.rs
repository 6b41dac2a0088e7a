//! The strings of Cedar text, told apart from its comments.

use std::ops::Range;

/// A string of Cedar text.
pub(super) struct Text<'t> {
    /// What is between its quotation marks.
    pub(super) span: Range<usize>,
    /// The annotation whose value it is.
    pub(super) annotation: Option<&'t str>,
}

impl Text<'_> {
    /// Whether it is the value of one of these annotations.
    pub(super) fn is_prose(&self, prose: &[&str]) -> bool {
        self.annotation.is_some_and(|name| prose.contains(&name))
    }
}

/// Every string, in order. One that is not closed ends with the text.
pub(super) fn of(text: &str) -> Vec<Text<'_>> {
    let mut strings = Vec::new();
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
            let comment = inside.starts_with('/');
            let len = inside.find('\n').unwrap_or(inside.len());
            at = start + if comment { len } else { 0 };
        }
    }
    strings
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
        let seen: Vec<_> = of(text)
            .into_iter()
            .map(|s| (&text[s.span.clone()], s.annotation))
            .collect();
        assert_eq!(
            seen,
            [("a\\\"b", Some("owner")), ("c/d//e", None), ("", None)]
        );
    }
}
