//! The terminal under standard output: whether there is one, how large it is, and
//! text cut to fit it.

use std::io::IsTerminal;

/// Columns and lines of the terminal, `None` where standard output is none.
pub(crate) fn size() -> Option<(usize, usize)> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let (width, height) = terminal_size::terminal_size_of(stdout)?;
    // A terminal that does not know its size says zero.
    let known = |n: u16| (n > 0).then_some(usize::from(n));
    Some((known(width.0)?, known(height.0)?))
}

/// Columns of the terminal, `None` where text may be as wide as it is.
pub(crate) fn width() -> Option<usize> {
    size().map(|(width, _)| width)
}

#[cfg(feature = "full")]
/// Whether somebody watches standard error while a long command goes on.
pub(crate) fn tells_progress() -> bool {
    std::io::stderr().is_terminal() && can_redraw()
}

#[cfg(feature = "full")]
/// Puts `text` in place of the line that was put there before; an empty one takes it away.
pub(crate) fn progress(text: &str) {
    use std::io::Write;
    let width = width().unwrap_or(80);
    let _ = write!(
        anstream::stderr(),
        "\r{:<width$}\r{0}",
        fit(text, width.saturating_sub(1))
    );
    let _ = anstream::stderr().flush();
}

#[cfg(feature = "full")]
/// Whether the cursor can be moved: a terminal that is more than a teletype.
pub(crate) fn can_redraw() -> bool {
    size().is_some() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// `text` without colours, at most `width` columns wide; what was cut shows as `…`.
pub(crate) fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        cut.push('…');
    }
    cut
}

/// `text` broken into lines of at most `width` columns, between words.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_where_it_is_too_wide_and_nowhere_else() {
        assert_eq!(fit("orders", 6), "orders");
        assert_eq!(fit("orders", 5), "orde…");
        assert_eq!(fit("→→→", 2), "→…");
        assert_eq!(fit("orders", 0), "");
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrap("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable x", 4), ["unbreakable", "x"]);
        assert!(wrap("", 10).is_empty());
    }
}
