//! Tables without lines: aligned columns under a dimmed header.

use anstyle::Style;

use super::{DIM, line, paint, snippet::clean};

/// Space between two columns.
const GAP: &str = "  ";

/// A table that is filled row by row and printed at once.
#[derive(Debug)]
pub struct Table {
    header: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<Cell>>,
}

/// A cell's text, already cleaned, and its style.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    style: Style,
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        styled(Style::new(), text)
    }
}

/// A cell in a style.
pub fn styled(style: Style, text: impl AsRef<str>) -> Cell {
    Cell {
        text: clean(text.as_ref()),
        style,
    }
}

impl Table {
    /// Starts a table; a header that begins with `>` aligns its column to the right.
    pub fn new(header: &[&'static str]) -> Self {
        Self {
            right: header.iter().map(|h| h.starts_with('>')).collect(),
            header: header.iter().map(|h| h.trim_start_matches('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Prints header and rows.
    pub fn print(&self) {
        for row in self.lines() {
            line(&row);
        }
    }

    fn lines(&self) -> Vec<String> {
        let header: Vec<Cell> = self.header.iter().map(|h| styled(DIM, h)).collect();
        let widths: Vec<usize> = (0..self.header.len())
            .map(|i| {
                let cells = self.rows.iter().chain([&header]).filter_map(|r| r.get(i));
                cells.map(|c| c.text.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let all = [&header].into_iter().chain(&self.rows);
        all.map(|row| self.row_line(row, &widths)).collect()
    }

    fn row_line(&self, row: &[Cell], widths: &[usize]) -> String {
        let mut out = String::new();
        for (i, (cell, width)) in row.iter().zip(widths).enumerate() {
            let pad = " ".repeat(width.saturating_sub(cell.text.chars().count()));
            let text = paint(cell.style, &cell.text);
            let last = i + 1 == row.len();
            if i > 0 {
                out.push_str(GAP);
            }
            match (self.right.get(i), last) {
                (Some(true), _) => out.push_str(&(pad + &text)),
                (_, true) => out.push_str(&text),
                _ => out.push_str(&(text + &pad)),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_their_colour() {
        let mut table = Table::new(&["NAME", ">N"]);
        table.row([styled(super::super::GOOD, "a"), "1".into()]);
        table.row(["long name".into(), "100".into()]);
        let lines = table.lines();
        let plain: Vec<String> = lines
            .iter()
            .map(|l| anstream::adapter::strip_str(l).to_string())
            .collect();
        assert_eq!(
            plain,
            ["NAME         N", "a            1", "long name  100"]
        );
    }
}
