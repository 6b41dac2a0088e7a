//! For people who have it read to them: whole sentences, one on each line, no drawings.

use palisade_mesh::diagnostic::Diagnostic;

use super::{super::snippet::clean, Report, level};

pub(super) fn text(report: &Report) -> String {
    let mut out = format!("{}: {}.\n", report.command, report.tally());
    if let Some(tally) = report.cases_tally() {
        out.push_str(&format!("{tally}.\n"));
    }
    for (i, problem) in report.problems().enumerate() {
        out.push_str(&format!("\nProblem {}.\n", i + 1));
        for line in told(report, problem) {
            out.push_str(&clean(&line));
            out.push('\n');
        }
    }
    for table in report.tables.iter().filter(|t| !t.rows.is_empty()) {
        out.push_str(&format!("\n{}.\n", table.title));
        for row in &table.rows {
            let cells = table.head.iter().zip(row).filter(|(_, c)| !c.is_empty());
            let said: Vec<String> = cells.map(|(h, c)| said(h, c)).collect();
            out.push_str(&format!("{}.\n", said.join("; ")));
        }
    }
    out
}

/// A cell, after the name of its column if that has one.
fn said(head: &str, cell: &str) -> String {
    match head {
        "" => clean(cell).to_string(),
        head => format!("{head}: {}", clean(cell)),
    }
}

fn told(report: &Report, d: &Diagnostic) -> Vec<String> {
    let mut lines = vec![format!("{} {}: {}", level(d.severity), d.code, d.message)];
    if let Some(at) = &d.location {
        let path = report.path(&at.file);
        lines.push(format!(
            "Where: {path}, line {}, column {}",
            at.line, at.column
        ));
        let marked = at
            .text
            .get(at.offset..at.offset + at.len)
            .unwrap_or_default();
        lines.extend(marked.lines().next().map(|text| format!("Text: {text}")));
    }
    for (word, text) in [("Note", &d.label), ("Why", &d.cause), ("Fix", &d.help)] {
        let Some(text) = text else { continue };
        let mut rows = text.lines();
        lines.extend(rows.next().map(|first| format!("{word}: {first}")));
        lines.extend(rows.map(str::to_owned));
    }
    lines.push(format!("More: palisade explain {}", d.code));
    lines
}
