//! A report as one page: no script, nothing loaded from elsewhere, fit to print, with the
//! report itself inside so that it can be verified.

use askama::Template;
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::{
    RenderError,
    chart::{self, Drawing, WIDTH},
    csv::facts_of,
    grouped, moment, visible,
};
use crate::report::{
    check::EMBEDDED,
    model::{CellKind, Chart, Report, Section},
};

/// The page's style, as it stands in it.
const STYLE: &str = include_str!("../../../templates/report.css");

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'r> {
    report: &'r Report,
    facts: Vec<(&'static str, String)>,
    parts: Vec<Part<'r>>,
    style: &'static str,
    policy: String,
    embedded: &'static str,
    json: String,
}

/// A section with what is drawn for it.
struct Part<'r> {
    section: &'r Section,
    anchor: String,
    chart: Option<Drawn<'r>>,
    table: Option<Rows<'r>>,
}

struct Drawn<'r> {
    chart: &'r Chart,
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
        facts: facts_of(report),
        parts: report.sections.iter().enumerate().map(part).collect(),
        style: STYLE,
        policy: format!("default-src 'none'; style-src 'sha256-{style_hash}'; base-uri 'none'; form-action 'none'"),
        embedded: EMBEDDED,
        // In a script element only `</` and `<!--` are read; no `<`, no matter.
        json: serde_json::to_string(report)?.replace('<', "\\u003c"),
    };
    Ok(page.render()?)
}

fn part((i, section): (usize, &Section)) -> Part<'_> {
    let chart = section.chart.as_ref().map(|chart| Drawn {
        drawing: chart::draw(chart),
        words: chart::in_words(chart),
        width: WIDTH,
        chart,
    });
    let table = section.table.as_ref().map(|table| {
        let class = |kind: CellKind| match kind {
            CellKind::Blank => "blank",
            CellKind::Number => "number",
            CellKind::Text => "text",
            CellKind::Time => "time",
        };
        let heads = table.columns.iter().map(|c| (c.name.as_str(), class(c.kind)));
        let cells = |row: &Vec<String>| {
            let cells = row.iter().zip(&table.columns).map(|(cell, column)| {
                let text = match column.kind {
                    CellKind::Number => grouped(cell),
                    CellKind::Time => moment(&visible(cell)).into_owned(),
                    CellKind::Blank | CellKind::Text => visible(cell).into_owned(),
                };
                (text, class(column.kind))
            });
            cells.collect()
        };
        let (shown, total) = (table.rows.len(), table.total);
        Rows {
            heads: heads.collect(),
            rows: table.rows.iter().map(cells).collect(),
            shown: match u64::try_from(shown).is_ok_and(|n| n >= total) {
                true => format!("{} rows, all there are", grouped(&shown.to_string())),
                false => format!(
                    "{} of {} rows",
                    grouped(&shown.to_string()),
                    grouped(&total.to_string())
                ),
            },
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
}
