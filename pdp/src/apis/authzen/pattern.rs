//! A text in which one `*` may stand for a piece that two names share.

/// Longest piece that a `*` stands for, in bytes.
pub(super) const PIECE_LEN_MAX: usize = 256;

/// A literal text, or one with a `*`: one or more unreserved characters (RFC 3986 section
/// 2.3), which mean the same in an address as in an id and never begin another part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    before: String,
    /// What follows the `*`; none in a literal.
    after: Option<String>,
}

impl Pattern {
    /// Reads a text; none where it has several `*`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('*').map(str::to_owned);
        let pattern = Self {
            before: parts.next().unwrap_or_default(),
            after: parts.next(),
        };
        parts.next().is_none().then_some(pattern)
    }

    /// Whether it has no `*`.
    pub(super) fn is_literal(&self) -> bool {
        self.after.is_none()
    }

    /// What the `*` stands for in `text`, nothing for a literal; none where `text` does not
    /// fit.
    pub(super) fn piece<'t>(&self, text: &'t str) -> Option<&'t str> {
        let rest = text.strip_prefix(self.before.as_str())?;
        let Some(after) = &self.after else {
            return rest.is_empty().then_some("");
        };
        let piece = rest.strip_suffix(after.as_str())?;
        let dots = matches!(piece, "" | "." | "..");
        let fits = !dots && piece.len() <= PIECE_LEN_MAX && piece.bytes().all(is_unreserved);
        fits.then_some(piece)
    }

    /// The text in which the `*` stands for `piece`.
    pub(super) fn filled(&self, piece: &str) -> String {
        match &self.after {
            Some(after) => [&self.before, piece, after].concat(),
            None => self.before.clone(),
        }
    }

    /// Whether some text fits both.
    pub(super) fn meets(&self, other: &Self) -> bool {
        match (&self.after, &other.after) {
            (None, _) => other.piece(&self.before).is_some(),
            (_, None) => self.piece(&other.before).is_some(),
            (Some(a), Some(b)) => {
                let ends = |long: &str, short: &str| long.strip_suffix(short).map(str::to_owned);
                let begins = |long: &str, short: &str| long.strip_prefix(short).map(str::to_owned);
                overlap(&self.before, &other.before, begins) && overlap(a, b, ends)
            }
        }
    }
}

/// Whether one of two texts is cut off the other by `cut`, and what is left can be part of a
/// piece.
fn overlap(a: &str, b: &str, cut: impl Fn(&str, &str) -> Option<String>) -> bool {
    let left = cut(a, b).or_else(|| cut(b, a));
    left.is_some_and(|left| left.bytes().all(is_unreserved))
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn a_star_stands_for_unreserved_characters_alone() {
        assert_eq!(pattern("a").piece("a"), Some(""));
        assert_eq!(pattern("a").piece("ab"), None);
        let star = pattern("x-*@acme.test");
        assert_eq!(star.piece("x-al.ice@acme.test"), Some("al.ice"));
        assert_eq!(star.filled("bob"), "x-bob@acme.test");
        let longest = "a".repeat(PIECE_LEN_MAX);
        assert!(pattern("*").piece(&longest).is_some());
        for bad in ["", ".", "..", "a/b", "a?b", "a%2fb", "a b", "é", "a*"] {
            assert_eq!(pattern("*").piece(bad), None, "{bad}");
        }
        assert_eq!(pattern("*").piece(&(longest + "a")), None);
        assert!(Pattern::parse("a*b*").is_none());
    }

    #[test]
    fn patterns_meet_where_a_text_fits_both() {
        for (a, b, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "*", true),
            ("a/b", "*", false),
            ("a*", "*b", true),
            ("a*", "b*", false),
            ("a*", "a/b*", false),
            ("*@acme.test", "*@other.test", false),
            ("x*", "xy*", true),
        ] {
            let (one, other) = (pattern(a), pattern(b));
            assert_eq!(one.meets(&other), expected, "{a} {b}");
            assert_eq!(other.meets(&one), expected, "{b} {a}");
        }
    }
}
