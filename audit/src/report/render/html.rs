//! A report as one page: no script, nothing loaded from elsewhere, fit to print, with the
//! report itself inside so that it can be verified.

use std::fmt::Write as _;

use askama::Template;
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::{
    NOTHING, RenderError,
    chart::{self, Drawing, WIDTH},
    csv::facts_of,
    grouped, headline, hidden, moment, pieces, rows_shown, visible,
};
use crate::report::{
    check::EMBEDDED,
    model::{CellKind, Figure, Report, Section},
};

/// The page's style, as it stands in it.
const STYLE: &str = include_str!("../../../templates/report.css");

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'r> {
    report: &'r Report,
    headline: Vec<Figure>,
    nothing: &'static str,
    facts: Vec<(&'static str, String)>,
    parts: Vec<Part<'r>>,
    style: &'static str,
    policy: String,
    embedded: &'static str,
    json: String,
}

/// Bytes of a text that is not broken.
const SHORT: usize = 16;

/// A section with what is drawn for it.
struct Part<'r> {
    section: &'r Section,
    anchor: String,
    chart: Option<Drawn>,
    table: Option<Rows<'r>>,
}

struct Drawn {
    drawing: Drawing,
    words: String,
    width: f32,
}

struct Rows<'r> {
    heads: Vec<(&'r str, &'static str)>,
    rows: Vec<Vec<(String, &'static str)>>,
    shown: String,
}

/// The page of a report.
///
/// # Errors
/// When it cannot be written.
pub fn to_html(report: &Report) -> Result<String, RenderError> {
    let style_hash = BASE64.encode(digest(&SHA256, STYLE.as_bytes()));
    let page = Page {
        report,
        headline: headline(report),
        nothing: NOTHING,
        facts: facts_of(report),
        parts: report.sections.iter().enumerate().map(part).collect(),
        style: STYLE,
        policy: format!(
            "default-src 'none'; style-src 'sha256-{style_hash}'; base-uri 'none'; form-action 'none'"
        ),
        embedded: EMBEDDED,
        json: embedded(&serde_json::to_string(report)?),
    };
    let page = page.render()?;
    // Whatever a caller chose and however it came here.
    Ok(page.split('\n').map(visible).collect::<Vec<_>>().join("\n"))
}

/// JSON as it may stand in a script element, where only `</` and `<!--` are read, and in a
/// page in which nothing turns or hides text.
fn embedded(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + json.len() / 16);
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            c if hidden(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out
}

fn part((i, section): (usize, &Section)) -> Part<'_> {
    let chart = section.chart.as_ref().map(|chart| Drawn {
        drawing: chart::draw(chart),
        words: chart::in_words(chart),
        width: WIDTH,
    });
    let table = section.table.as_ref().map(|table| {
        let class = |kind: CellKind| match kind {
            CellKind::Blank => "blank",
            CellKind::Number => "number",
            CellKind::Text => "text",
            CellKind::Time => "time",
        };
        let heads = table
            .columns
            .iter()
            .map(|c| (c.name.as_str(), class(c.kind)));
        let cells = |row: &Vec<String>| {
            let cells = row.iter().zip(&table.columns).map(|(cell, column)| {
                let text = match column.kind {
                    CellKind::Number => grouped(cell),
                    CellKind::Time => moment(&visible(cell)).into_owned(),
                    CellKind::Blank | CellKind::Text => visible(cell).into_owned(),
                };
                // A short word is not worth a second line.
                let class = match column.kind {
                    CellKind::Text if text.len() <= SHORT => "text short",
                    kind => class(kind),
                };
                (text, class)
            });
            cells.collect()
        };
        let (shown, total) = (table.rows.len(), table.total);
        Rows {
            heads: heads.collect(),
            rows: table.rows.iter().map(cells).collect(),
            shown: rows_shown(shown, total),
        }
    });
    Part {
        section,
        anchor: format!("s{}", i + 1),
        chart,
        table,
    }
}

impl Page<'_> {
    fn number(&self, text: &str) -> String {
        grouped(text)
    }

    fn clean(&self, text: &str) -> String {
        visible(text).into_owned()
    }

    /// A text as one word of a shell, whatever is in it: who reads copies the line.
    fn quoted(&self, text: &str) -> String {
        format!("'{}'", visible(text).replace('\'', r"'\''"))
    }

    fn pieces(&self, text: &str) -> Vec<(bool, String)> {
        let pieces = pieces(text).into_iter();
        pieces
            .map(|(is_name, piece)| (is_name, visible(piece).into_owned()))
            .collect()
    }
}
