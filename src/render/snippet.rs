//! A diagnostic as a person reads it: message, place, marked line, cause, fix.
//!
//! ```text
//! error PLS1103: action `GTE` is not in the schema
//!    ┌─ policies/orders.cedar:12:14
//! 12 │   action == Action::"GTE",
//!    │             ^^^^^^^^^^^^^ did you mean `Action::"GET"`?
//!    = the cause
//!    fix   what to do
//!    docs  palisade explain PLS1103
//! ```

use std::{borrow::Cow, fmt::Write};

use palisade_mesh::diagnostic::{Diagnostic, Location, program};

use super::{DIM, NAME, STRONG, paint, severity};

/// Most columns of a source line that are shown.
const LINE_LEN_MAX: usize = 160;

/// Renders a diagnostic over several lines.
pub fn render(diagnostic: &Diagnostic) -> String {
    let (style, word) = severity(diagnostic.severity);
    let mut out = format!(
        "{} {}",
        paint(style.bold(), format!("{word} {}:", diagnostic.code)),
        paint(STRONG, clean(&diagnostic.message)),
    );
    let gutter = diagnostic
        .location
        .as_ref()
        .map_or(3, |at| at.line.to_string().len().max(2) + 1);
    let pad = " ".repeat(gutter);
    if let Some(at) = &diagnostic.location {
        place(&mut out, at, diagnostic.label.as_deref(), &pad, style);
    }
    // Without a place to stand at, the label is a remark like the cause.
    let label = diagnostic.label.as_ref();
    if let Some(label) = label.filter(|_| diagnostic.location.is_none()) {
        let _ = write!(out, "\n{pad}{} {}", paint(NAME, "="), clean(label));
    }
    if let Some(cause) = &diagnostic.cause {
        for line in cause.lines() {
            let _ = write!(out, "\n{pad}{} {}", paint(NAME, "="), clean(line));
        }
    }
    if let Some(help) = &diagnostic.help {
        for (i, line) in help.lines().enumerate() {
            let word = if i == 0 { "fix " } else { "    " };
            let _ = write!(out, "\n{pad}{}  {}", paint(NAME, word), clean(line));
        }
    }
    let docs = format!("{} explain {}", program(), diagnostic.code);
    let _ = write!(
        out,
        "\n{pad}{}  {}\n",
        paint(NAME, "docs"),
        paint(DIM, docs)
    );
    out
}

fn place(out: &mut String, at: &Location, label: Option<&str>, pad: &str, style: anstyle::Style) {
    let corner = paint(NAME, "┌─");
    let _ = write!(
        out,
        "\n{pad}{corner} {}:{}:{}",
        clean(&at.file),
        at.line,
        at.column
    );
    let Some(source) = at.text.lines().nth(at.line.saturating_sub(1)) else {
        return;
    };
    let bar = paint(NAME, "│");
    let number = paint(NAME, format!("{:>width$}", at.line, width = pad.len() - 1));
    let shown: String = clean(source).chars().take(LINE_LEN_MAX).collect();
    let _ = write!(out, "\n{number} {bar} {shown}");
    let before = at.column.saturating_sub(1).min(LINE_LEN_MAX);
    let rest_of_line = source.chars().count().saturating_sub(at.column - 1).max(1);
    let marked = at
        .text
        .get(at.offset..at.offset + at.len)
        .map_or(1, |s| s.lines().next().unwrap_or_default().chars().count())
        .clamp(1, rest_of_line);
    let carets = paint(style, "^".repeat(marked.min(LINE_LEN_MAX)));
    let label = label
        .map(|l| paint(style, format!(" {}", clean(l))))
        .unwrap_or_default();
    let _ = write!(out, "\n{pad}{bar} {}{carets}{label}", " ".repeat(before));
}

/// Replaces control characters, and those that turn or hide what follows, so that
/// no input can steer the terminal or its reader (attack T93).
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() || is_invisible(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// JSON in which what [`clean`] takes away is escaped: the texts in it are the same, and a terminal
/// obeys none of them. What steers one alone is not left to be taken out on the way.
#[must_use]
pub fn inert(json: &str) -> Cow<'_, str> {
    let steers = |c: char| (c.is_control() && c != '\n') || is_invisible(c);
    if !json.contains(steers) {
        return json.into();
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match steers(c) {
            // None of them is beyond the basic plane.
            true => drop(write!(out, "\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out.into()
}

/// Zero width, line and paragraph separators, and the marks of text direction
/// (Unicode Standard Annex 9, section 2).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program reads what was written, also what a pipe into it would take out.
    #[test]
    fn json_on_a_terminal_steers_nothing_and_says_the_same() {
        let texts = [
            "a\u{1b}[2J\u{7f}",
            "\u{9b}2J\u{202e}\u{feff}",
            "Grüße, 日本\n",
        ];
        let json = serde_json::to_string_pretty(&texts).expect("texts are JSON");
        let shown = inert(&json);
        let steers = |c: char| (c.is_control() && c != '\n') || is_invisible(c);
        assert!(!shown.contains(steers), "{shown:?}");
        assert_eq!(anstream::adapter::strip_str(&shown).to_string(), shown);
        let read: Vec<String> = serde_json::from_str(&shown).expect("it is JSON");
        assert_eq!(read, texts);
    }

    #[test]
    fn a_mistake_is_shown_where_it_stands_with_its_fix() {
        let text = "permit (\n  action == Action::\"GTE\",\n);";
        let offset = text.find("Action").expect("is there");
        let diagnostic = Diagnostic::error(1103, "action `GTE` is not in the schema")
            .at(Location::span("orders.cedar", text, offset, 13))
            .label("did you mean `GET`?")
            .help("replace it");
        let plain = anstream::adapter::strip_str(&render(&diagnostic)).to_string();
        let expected = "error PLS1103: action `GTE` is not in the schema\n   ┌─ orders.cedar:2:13\n 2 │   action == Action::\"GTE\",\n   │             ^^^^^^^^^^^^^ did you mean `GET`?\n   fix   replace it\n   docs  palisade explain PLS1103\n";
        assert_eq!(plain, expected);
    }

    /// `can` asks without a file, and must still say what was probably meant.
    #[test]
    fn a_label_without_a_place_is_not_lost() {
        let diagnostic =
            Diagnostic::error(2010, "nobody is called `wbe`").label("did you mean `web`?");
        let plain = anstream::adapter::strip_str(&render(&diagnostic)).to_string();
        assert!(plain.contains("\n   = did you mean `web`?\n"), "{plain}");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        let diagnostic = Diagnostic::error(9000, "evil \u{1b}[2J name");
        let rendered = render(&diagnostic);
        let plain = anstream::adapter::strip_str(&rendered).to_string();
        assert!(plain.contains("evil \u{fffd}[2J name"));
        for c in [
            '\n', '\r', '\u{9b}', '\u{200b}', '\u{2028}', '\u{202e}', '\u{2066}', '\u{feff}',
        ] {
            assert_eq!(clean(&format!("a{c}b")), "a\u{fffd}b", "{c:?}");
        }
        assert_eq!(clean("caf\u{e9} \u{5d0} a\tb"), "caf\u{e9} \u{5d0} a b");
    }
}
