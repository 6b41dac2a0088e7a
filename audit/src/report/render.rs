//! Reports as files: for browsers, spreadsheets, printers and programs.

use std::borrow::Cow;

use super::{Figure, Report};

mod chart;
mod csv;
mod html;
mod oscal;
mod pdf;
mod xlsx;

pub use self::{csv::to_csv, html::to_html, oscal::to_oscal, pdf::to_pdf, xlsx::to_xlsx};

/// A report cannot be put into a format.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// CSV.
    #[error("the table cannot be written: {0}")]
    Csv(#[from] ::csv::Error),
    /// The report itself.
    #[error("the report cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// HTML.
    #[error("the page cannot be written: {0}")]
    Page(#[from] askama::Error),
    /// PDF.
    #[error("the PDF cannot be written: {0}")]
    Pdf(String),
    /// XLSX.
    #[error("the workbook cannot be written: {0}")]
    Xlsx(#[from] rust_xlsxwriter::XlsxError),
}

/// What stands where a table has no row.
const NO_ROWS: &str = "(no record of the period)";

/// What is said of a period in which nothing was recorded.
const NOTHING: &str = "No record at all in this period: nothing below is evidence of anything.";

/// What a report says at first sight.
fn headline(report: &Report) -> Vec<Figure> {
    let header = &report.header;
    let figure = |label: &str, value: String| Figure {
        label: label.to_owned(),
        value,
    };
    vec![
        figure("from (UTC)", moment(&header.from).into_owned()),
        figure("to (UTC)", moment(&header.to).into_owned()),
        figure("records", header.records.to_string()),
        figure("decisions", header.decisions.to_string()),
        figure("rows of evidence", header.rows.to_string()),
        figure(
            "complete",
            if header.complete { "yes" } else { "NO" }.to_owned(),
        ),
    ]
}

/// `text` with everything visible that would change how the rest is read: control
/// characters, and those that turn or hide text.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(hidden) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match hidden(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    out.into()
}

fn hidden(c: char) -> bool {
    let turns = matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{200E}' | '\u{200F}' | '\u{061C}');
    let hides = matches!(
        c,
        '\u{200B}'..='\u{200D}' | '\u{2028}' | '\u{2029}' | '\u{2060}' | '\u{FEFF}' | '\u{00AD}'
    );
    c.is_control() || turns || hides
}

/// A moment as people read it: to the second, `2026-11-20 12:00:00`.
fn moment(time: &str) -> Cow<'_, str> {
    match (time.get(..10), time.get(11..19)) {
        (Some(day), Some(clock)) if time.ends_with('Z') => format!("{day} {clock}").into(),
        _ => time.into(),
    }
}

/// How many of a table's rows are shown, in words.
fn rows_shown(shown: usize, total: u64) -> String {
    let count = grouped(&shown.to_string());
    match u64::try_from(shown).is_ok_and(|shown| shown >= total) {
        true if shown == 1 => "1 row, all there is".to_owned(),
        true => format!("{count} rows, all there are"),
        false => format!("{count} of {} rows", grouped(&total.to_string())),
    }
}

/// `1204118` as `1,204,118`; what is no number as it is.
fn grouped(number: &str) -> String {
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return visible(number).into_owned();
    }
    let mut out = String::with_capacity(number.len() + number.len() / 3);
    for (i, digit) in number.chars().enumerate() {
        if i > 0 && (number.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A text in pieces, of which every second stood between backticks and is a name.
fn pieces(text: &str) -> Vec<(bool, &str)> {
    let pieces = text.split('`').enumerate();
    let pieces = pieces.map(|(i, piece)| (i % 2 == 1, piece));
    pieces.filter(|(_, piece)| !piece.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_or_turns_text_is_visible() {
        assert_eq!(visible("a\u{202E}b"), "a\\u{202e}b");
        assert_eq!(visible("\u{1b}[31mred\n"), "\\u{1b}[31mred\\u{a}");
        assert_eq!(visible("zero\u{200B}width"), "zero\\u{200b}width");
        assert_eq!(visible("Grüße, 日本"), "Grüße, 日本");
    }

    #[test]
    fn numbers_and_moments_are_as_people_read_them() {
        assert_eq!(grouped("1204118"), "1,204,118");
        assert_eq!(grouped("7"), "7");
        assert_eq!(grouped("intact"), "intact");
        assert_eq!(moment("2026-11-20T12:00:00.000001Z"), "2026-11-20 12:00:00");
        assert_eq!(moment("never"), "never");
    }
}
