//! Text patterns: `*` stands for one path segment or a part of it, `**` for
//! anything.

use std::fmt::{self, Write};

/// A text with wildcards, matched against whole values byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Piece {
    Text(String),
    /// Any run of bytes without `/`.
    Segment,
    /// Any run of bytes.
    Anything,
}

impl Pattern {
    /// A text without wildcards.
    pub fn literal(text: impl Into<String>) -> Self {
        let text = text.into();
        let pieces = if text.is_empty() {
            Vec::new()
        } else {
            vec![Piece::Text(text)]
        };
        Self { pieces }
    }

    /// Any text that ends in this one.
    pub fn ending_in(text: impl Into<String>) -> Self {
        Self {
            pieces: vec![Piece::Anything, Piece::Text(text.into())],
        }
    }

    /// Reads a bare word: `*` and `**` are wildcards, a backslash takes the
    /// next character as it is.
    pub(crate) fn parse(word: &str) -> Self {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut chars = word.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '*' => {
                    flush(&mut text, &mut pieces);
                    let mut piece = Piece::Segment;
                    while chars.next_if_eq(&'*').is_some() {
                        piece = Piece::Anything;
                    }
                    pieces.push(piece);
                }
                '\\' => text.push(chars.next().unwrap_or('\\')),
                other => text.push(other),
            }
        }
        flush(&mut text, &mut pieces);
        Self { pieces }
    }

    /// This pattern, followed by anything.
    #[must_use]
    pub(crate) fn then_anything(mut self) -> Self {
        self.pieces.push(Piece::Anything);
        self
    }

    /// The text, when there is no wildcard.
    pub fn as_literal(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it is a lone wildcard, which asks only that there is a value.
    pub(crate) fn is_wildcard_alone(&self) -> bool {
        matches!(self.pieces.as_slice(), [Piece::Segment | Piece::Anything])
    }

    /// What every match begins with.
    pub(crate) fn prefix(&self) -> &str {
        match self.pieces.first() {
            Some(Piece::Text(text)) => text,
            _ => "",
        }
    }

    /// Each text in it, for rewriting into a canonical spelling.
    pub(crate) fn map_text(&mut self, rewrite: impl Fn(&str) -> String) {
        for piece in &mut self.pieces {
            if let Piece::Text(text) = piece {
                *text = rewrite(text);
            }
        }
        self.pieces
            .retain(|piece| !matches!(piece, Piece::Text(text) if text.is_empty()));
        // Wildcards between which the text is gone are one.
        self.pieces.dedup_by(|next, kept| {
            let wild = !matches!(next, Piece::Text(_)) && !matches!(kept, Piece::Text(_));
            if wild && *next == Piece::Anything {
                *kept = Piece::Anything;
            }
            wild
        });
    }

    /// Whether the whole `value` matches.
    pub fn matches(&self, value: &str) -> bool {
        match self.as_literal() {
            Some(text) => text == value,
            None => self.run(value, |at| at == 0),
        }
    }

    /// Whether `value` matches whole, or from the beginning of one of its
    /// segments to its end: `web` matches `spiffe://acme.test/ns/shop/sa/web`.
    /// A pattern that begins with `spiffe://` is whole.
    pub fn matches_name(&self, value: &str) -> bool {
        if self.is_whole_name() {
            return self.matches(value);
        }
        if let Some(text) = self.as_literal() {
            return value
                .strip_suffix(text)
                .is_some_and(|before| before.is_empty() || before.ends_with('/'));
        }
        let bytes = value.as_bytes();
        self.run(value, |at| {
            at == 0 || bytes.get(at - 1).is_some_and(|b| *b == b'/')
        })
    }

    /// Whether a name must match from its first character.
    pub(crate) fn is_whole_name(&self) -> bool {
        self.prefix().starts_with("spiffe://")
    }

    /// Follows all ways to match at once: `reached[i]` says whether the pieces
    /// so far can end at byte `i`. Linear in pieces times length, whatever the
    /// pattern.
    fn run(&self, value: &str, starts: impl Fn(usize) -> bool) -> bool {
        let bytes = value.as_bytes();
        let mut reached: Vec<bool> = (0..=bytes.len()).map(starts).collect();
        for piece in &self.pieces {
            reached = match piece {
                Piece::Text(text) => step_text(bytes, text.as_bytes(), &reached),
                Piece::Segment => spread(bytes, &reached, |byte| byte != b'/'),
                Piece::Anything => spread(bytes, &reached, |_| true),
            };
        }
        reached.last().copied().unwrap_or(false)
    }
}

fn flush(text: &mut String, pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        pieces.push(Piece::Text(std::mem::take(text)));
    }
}

fn step_text(value: &[u8], text: &[u8], reached: &[bool]) -> Vec<bool> {
    let mut next = vec![false; reached.len()];
    for (at, _) in reached.iter().enumerate().filter(|(_, hit)| **hit) {
        if value.get(at..).is_some_and(|rest| rest.starts_with(text))
            && let Some(end) = next.get_mut(at + text.len())
        {
            *end = true;
        }
    }
    next
}

fn spread(value: &[u8], reached: &[bool], passes: impl Fn(u8) -> bool) -> Vec<bool> {
    let mut open = false;
    reached
        .iter()
        .enumerate()
        .map(|(at, hit)| {
            let carried = open
                && at
                    .checked_sub(1)
                    .and_then(|i| value.get(i))
                    .is_some_and(|byte| passes(*byte));
            open = *hit || carried;
            open
        })
        .collect()
}

impl fmt::Display for Pattern {
    /// The shortest spelling that reads back as the same pattern.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = self.as_literal() {
            return write_literal(f, text);
        }
        for piece in &self.pieces {
            match piece {
                Piece::Segment => f.write_char('*')?,
                Piece::Anything => f.write_str("**")?,
                Piece::Text(text) => {
                    for c in text.chars() {
                        if is_special(c) || c == '*' || c == '\\' {
                            f.write_char('\\')?;
                        }
                        f.write_char(c)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn write_literal(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let bare = !text.is_empty() && !text.chars().any(|c| is_special(c) || c == '*' || c == '\\');
    if bare {
        return f.write_str(text);
    }
    f.write_char('"')?;
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    f.write_char('"')
}

/// Characters that end a bare word.
pub(crate) fn is_special(c: char) -> bool {
    c.is_whitespace() || matches!(c, '(' | ')' | '"' | '|')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_star_stays_in_its_segment_and_two_do_not() {
        let check = |pattern: &str, value: &str, expected: bool| {
            assert_eq!(
                Pattern::parse(pattern).matches(value),
                expected,
                "{pattern} on {value}"
            );
        };
        check("/orders/*", "/orders/17", true);
        check("/orders/*", "/orders/17/lines", false);
        check("/orders/**", "/orders/17/lines", true);
        check("/orders/*/lines", "/orders/17/lines", true);
        check("/orders/*/lines", "/orders//lines", true);
        check("*.acme.test", "api.acme.test", true);
        check("10.0.*", "10.0.3.4", true);
        check("**lines", "/orders/17/lines", true);
        check(r"a\*b", "a*b", true);
        check(r"a\*b", "axb", false);
        check("ä*", "äöü", true);
    }

    #[test]
    fn a_name_may_be_shortened_to_its_last_segments() {
        let id = "spiffe://acme.test/ns/shop/sa/web";
        let check = |pattern: &str, expected: bool| {
            assert_eq!(
                Pattern::parse(pattern).matches_name(id),
                expected,
                "{pattern}"
            );
        };
        check("web", true);
        check("sa/web", true);
        check("eb", false);
        check("we*", true);
        check("shop", false);
        check("ns/shop/**", true);
        check("spiffe://acme.test/ns/shop/**", true);
        check("spiffe://acme.test/ns/*", false);
        check("spiffe://**", true);
    }

    /// The obvious matcher, by backtracking.
    fn oracle(pieces: &[Piece], value: &[u8]) -> bool {
        match pieces.split_first() {
            None => value.is_empty(),
            Some((Piece::Text(text), rest)) => value
                .strip_prefix(text.as_bytes())
                .is_some_and(|value| oracle(rest, value)),
            Some((wild, rest)) => (0..=value.len())
                .take_while(|n| *wild == Piece::Anything || !value[..*n].contains(&b'/'))
                .any(|n| oracle(rest, &value[n..])),
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_backtracking(word in "[ab/*]{0,8}", value in "[ab/]{0,8}") {
            let pattern = Pattern::parse(&word);
            prop_assert_eq!(pattern.matches(&value), oracle(&pattern.pieces, value.as_bytes()));
        }

        #[test]
        fn what_is_printed_reads_back(word in ".{1,12}") {
            let pattern = Pattern::parse(&word);
            let printed = pattern.to_string();
            if pattern.as_literal().is_none() {
                prop_assert_eq!(Pattern::parse(&printed), pattern);
            }
        }
    }
}
