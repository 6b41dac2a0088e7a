//! Markdown for a comment on a pull request and for job summaries.
//!
//! It begins with a comment that names the command, so that a bot finds its own comment
//! and replaces it. Texts that others wrote mention nobody, link nowhere and close no
//! table.

use super::{super::snippet::clean, Grid, Report, level, sentences};

/// Longest text, in bytes: GitHub takes comments of 65,536 characters.
pub(crate) const LEN_MAX: usize = 60_000;
/// Room for the line that says how much was left out.
const REST_LEN: usize = 200;

pub(super) fn text(report: &Report) -> String {
    let command = report.command;
    let mut out = format!("<!-- {command} -->\n### {command}: {}\n", report.tally());
    if let Some(tally) = report.cases_tally() {
        out.push_str(&format!("\n{tally}\n"));
    }
    let problems = Grid {
        head: vec!["", "where", "what"],
        rows: report
            .problems()
            .map(|d| {
                let place = d.location.as_ref().map_or_else(String::new, |at| {
                    format!("`{}:{}`", report.path(&at.file), at.line)
                });
                vec![
                    level(d.severity).to_owned(),
                    place,
                    format!("{}\n{}", d.code, sentences(d).join("\n")),
                ]
            })
            .collect(),
        ..Grid::default()
    };
    for grid in [&problems].into_iter().chain(&report.tables) {
        table(grid, &mut out);
    }
    out
}

/// Appends a table within [`LEN_MAX`]; what has no room is counted.
pub(crate) fn table(grid: &Grid, out: &mut String) {
    if grid.rows.is_empty() {
        return;
    }
    if !grid.title.is_empty() {
        out.push_str(&format!("\n#### {}\n", escape(&grid.title)));
    }
    let rule = vec!["---"; grid.head.len()];
    out.push_str(&format!(
        "\n| {} |\n| {} |\n",
        grid.head.join(" | "),
        rule.join(" | ")
    ));
    for (i, row) in grid.rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| escape(cell)).collect();
        let row = format!("| {} |\n", cells.join(" | "));
        if out.len() + row.len() + REST_LEN > LEN_MAX {
            out.push_str(&format!("\n+{} more, see the log\n", grid.rows.len() - i));
            return;
        }
        out.push_str(&row);
    }
}

/// `text` as it is to be read. What stands between backticks becomes code; everywhere
/// else each character that Markdown, HTML or a code host gives a meaning loses it.
pub(crate) fn escape(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(line).collect();
    lines.join("<br>")
}

fn line(text: &str) -> String {
    let text = clean(text);
    let parts: Vec<&str> = text.split('`').collect();
    // A backtick without its partner is one to be read.
    let paired = parts.len() - usize::from(parts.len().is_multiple_of(2));
    let mut out = String::with_capacity(text.len());
    for (i, part) in parts.into_iter().enumerate() {
        match (i % 2 == 1, i < paired) {
            (true, true) if !part.is_empty() => out.push_str(&code(part)),
            (_, true) => out.push_str(&plain(part)),
            (_, false) => out.push_str(&format!("\\`{}", plain(part))),
        }
    }
    out
}

/// In a code span nothing has a meaning but `|` in a table.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // Kept apart from the name or number behind it: no mention, no reference, no link.
            '@' | '#' | '!' => out.extend([c, '\u{200b}']),
            '\\' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '|' | '~' => {
                out.extend(['\\', c])
            }
            c => out.push(c),
        }
    }
    // Code hosts make links of what looks like one.
    out.replace("://", ":\u{200b}//")
        .replace("www.", "www\u{200b}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_mention_nobody_and_close_no_table() {
        assert_eq!(escape("policy `a|b` is new"), "policy `a\\|b` is new");
        assert_eq!(escape("a ` b"), "a \\` b");
        assert_eq!(escape("a\nb"), "a<br>b");
        for hostile in [
            "@team",
            "<img src=x>",
            "[x](https://evil.test)",
            "| x |",
            "#1",
            "` @team",
        ] {
            let safe = escape(hostile);
            for meant in ["@t", "<img", "](", "https://", "#1"] {
                assert!(!safe.contains(meant), "{hostile} became {safe}");
            }
            assert!(!safe.starts_with('|'), "{safe}");
        }
    }

    #[test]
    fn a_comment_is_bounded_and_says_what_it_leaves_out() {
        let grid = |n: usize| Grid {
            head: vec!["a"],
            rows: vec![vec!["x".repeat(96)]; n],
            ..Grid::default()
        };
        let text = |n| {
            let mut out = String::new();
            table(&grid(n), &mut out);
            out
        };
        assert!(!text(500).contains("more, see"));
        assert!(text(5_000).len() <= LEN_MAX);
        assert!(
            text(5_000).contains("\n+44"),
            "{}",
            &text(5_000)[LEN_MAX - 400..]
        );
    }
}
