//! Bounds what Cedar's recursive parser and validator are given.
//!
//! A short scan that knows strings and comments counts brackets and operators;
//! a text beyond the limits is refused before anything recurses over it
//! (attack T94). What was parsed is looked at once more: a chain of `+` or of `else if`
//! nests without a bracket.

use cedar_policy::Policy;
use palisade_mesh::{
    diagnostic::Diagnostic,
    yaml::{Source, Span},
};

use super::codes;
use crate::decide::{self, NESTING_MAX};

/// Deepest nesting of brackets in Cedar text.
pub const BRACKETS_MAX: usize = 32;
/// Most operators, member accesses and calls in one policy or declaration.
pub const OPERATORS_MAX: usize = 2_000;

/// Checks one Cedar file, policies or schema.
pub(crate) fn check(source: &Source) -> Result<(), Box<Diagnostic>> {
    let bytes = source.text.as_bytes();
    let mut at = 0;
    let (mut depth, mut operators) = (0_usize, 0_usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'/') => at = line_end(bytes, at),
            b'(' | b'[' | b'{' => {
                depth += 1;
                operators += 1;
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => operators = 0,
            b'&' | b'|' | b'=' | b'<' | b'>' | b'+' | b'-' | b'*' | b'!' | b'.' => operators += 1,
            b'i' if keyword(bytes, at, b"if") => operators += 1,
            b'i' if keyword(bytes, at, b"in") => operators += 1,
            _ => {}
        }
        if depth > BRACKETS_MAX {
            return Err(refused(
                source,
                at,
                format!("brackets nest at most {BRACKETS_MAX} deep"),
            ));
        }
        if operators > OPERATORS_MAX {
            return Err(refused(
                source,
                at,
                format!("one policy has at most {OPERATORS_MAX} operators"),
            ));
        }
        at += 1;
    }
    Ok(())
}

/// Checks one policy that was parsed, at `span` of its file.
pub(crate) fn check_policy(
    policy: &Policy,
    source: &Source,
    span: Span,
) -> Result<(), Box<Diagnostic>> {
    if decide::nesting(policy) <= NESTING_MAX {
        return Ok(());
    }
    Err(Box::new(
        Diagnostic::error(codes::TOO_DEEP, "policy is too deep to be evaluated")
            .cause(format!(
                "operators other than `&&` and `||` nest at most {NESTING_MAX} deep"
            ))
            .help("split it into several policies; compare with a set instead of one value after the other")
            .at(source.span(Span::new(span.start, 1))),
    ))
}

fn refused(source: &Source, at: usize, cause: String) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error(codes::TOO_DEEP, "policy is too large to be checked")
            .label("limit exceeded here")
            .cause(cause)
            .help("split it into several policies, or use a group instead of a long list")
            .at(source.span(Span::new(at, 1))),
    )
}

/// Index of the quote that ends the string at `start`, or the last byte.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            b'"' => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

fn line_end(bytes: &[u8], start: usize) -> usize {
    let rest = bytes.get(start..).unwrap_or_default();
    start + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
}

fn keyword(bytes: &[u8], at: usize, word: &[u8]) -> bool {
    let part = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    bytes.get(at..at + word.len()) == Some(word)
        && !part(bytes.get(at + word.len()))
        && (at == 0 || !part(bytes.get(at - 1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> bool {
        check(&Source::new("a.cedar", text)).is_err()
    }

    #[test]
    fn brackets_are_bounded_on_both_sides() {
        let nested = |n: usize| format!("{}true{}", "(".repeat(n), ")".repeat(n));
        assert!(!refused(&nested(BRACKETS_MAX)));
        assert!(refused(&nested(BRACKETS_MAX + 1)));
    }

    #[test]
    fn operators_are_bounded_per_policy_on_both_sides() {
        let chain = |n: usize| format!("a{};", ".b".repeat(n));
        assert!(!refused(&chain(OPERATORS_MAX)));
        assert!(refused(&chain(OPERATORS_MAX + 1)));
        assert!(!refused(&chain(OPERATORS_MAX).repeat(3)));
    }

    #[test]
    fn strings_and_comments_do_not_count() {
        let many = "(".repeat(100);
        assert!(!refused(&format!("\"\\\"{many}\" // {many}\n;")));
        assert!(refused(&format!("\"\\\\\" {many}")));
    }

    proptest! {
        #[test]
        fn any_text_is_scanned_to_its_end(text in "\\PC{0,60}") {
            let _ = check(&Source::new("a.cedar", text));
        }
    }
}
