//! Tables without lines: aligned columns under a dimmed header, as wide as the
//! terminal at most.
//!
//! Where a row is too wide, columns give way in this order: optional ones are left out,
//! the last first; ids are cut; texts are shortened with `…`, the widest first. Output
//! that goes to no terminal is never cut.

use anstyle::Style;

use super::{
    DIM, line, paint,
    screen::{self, fit},
    snippet::clean,
};

/// Space between two columns.
const GAP: &str = "  ";
/// Fewest columns that a shortened text keeps.
const SHORT_LEN_MIN: usize = 8;

/// A column: its head, and what it gives when there is too little room.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    head: &'static str,
    right: bool,
    give: Give,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Give {
    Nothing,
    /// The end, down to so many characters; what is left is still of use.
    End(usize),
    /// The end, and says so.
    Text,
    All,
}

/// A column that is always whole.
pub const fn col(head: &'static str) -> Column {
    Column {
        head,
        right: false,
        give: Give::Nothing,
    }
}

impl Column {
    /// Aligns to the right, for numbers.
    pub const fn right(mut self) -> Self {
        self.right = true;
        self
    }

    /// May lose its end down to `min` characters, as ids may.
    pub const fn cut(mut self, min: usize) -> Self {
        self.give = Give::End(min);
        self
    }

    /// May be shortened.
    pub const fn short(mut self) -> Self {
        self.give = Give::Text;
        self
    }

    /// May be left out.
    pub const fn optional(mut self) -> Self {
        self.give = Give::All;
        self
    }
}

/// A table that is filled row by row and printed at once.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
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
    /// Starts a table.
    pub fn new(columns: &[Column]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints header and rows, fitted to the terminal.
    pub fn print(&self) {
        for row in self.lines(screen::width()) {
            line(&row);
        }
    }

    /// Header and rows, at most `room` columns wide where the columns can give so much.
    pub fn lines(&self, room: Option<usize>) -> Vec<String> {
        let heads: Vec<Cell> = self.columns.iter().map(|c| styled(DIM, c.head)).collect();
        let mut widths: Vec<Option<usize>> = (0..self.columns.len())
            .map(|i| {
                let cells = self.rows.iter().chain([&heads]).filter_map(|r| r.get(i));
                cells.map(|c| c.text.chars().count()).max()
            })
            .collect();
        if let Some(room) = room {
            self.fit(&mut widths, room);
        }
        let all = [&heads].into_iter().chain(&self.rows);
        all.map(|row| self.row_line(row, &widths)).collect()
    }

    /// Makes columns narrower, or `None`, until they fit.
    fn fit(&self, widths: &mut [Option<usize>], room: usize) {
        let drop = (0..self.columns.len()).rev();
        for i in drop {
            if total(widths) <= room {
                return;
            }
            if self.columns.get(i).is_some_and(|c| c.give == Give::All)
                && let Some(width) = widths.get_mut(i)
            {
                *width = None;
            }
        }
        for (column, width) in self.columns.iter().zip(widths.iter_mut()) {
            if let Give::End(min) = column.give {
                *width = width.map(|w| w.min(min));
            }
        }
        for _ in room..total(widths) {
            let texts = self.columns.iter().zip(widths.iter_mut());
            let widest = texts
                .filter(|(column, _)| column.give == Give::Text)
                .filter_map(|(_, width)| width.as_mut())
                .max_by_key(|width| **width);
            match widest {
                Some(width) if *width > SHORT_LEN_MIN => *width -= 1,
                _ => return,
            }
        }
    }

    fn row_line(&self, row: &[Cell], widths: &[Option<usize>]) -> String {
        let mut out = String::new();
        for ((cell, column), width) in row.iter().zip(&self.columns).zip(widths) {
            let Some(width) = *width else { continue };
            let text = match column.give {
                Give::End(_) => cell.text.chars().take(width).collect(),
                _ => fit(&cell.text, width),
            };
            let pad = " ".repeat(width.saturating_sub(text.chars().count()));
            let text = paint(cell.style, &text);
            out.push_str(&if column.right {
                pad + &text
            } else {
                text + &pad
            });
            out.push_str(GAP);
        }
        out.truncate(out.trim_end().len());
        out
    }
}

/// Columns of a whole row.
fn total(widths: &[Option<usize>]) -> usize {
    let shown = widths.iter().flatten();
    let gaps = shown.clone().count().saturating_sub(1) * GAP.len();
    shown.sum::<usize>() + gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(table: &Table, room: Option<usize>) -> Vec<String> {
        let lines = table.lines(room);
        let strip = |l: &String| anstream::adapter::strip_str(l).to_string();
        lines.iter().map(strip).collect()
    }

    #[test]
    fn columns_are_aligned_whatever_their_colour() {
        let mut table = Table::new(&[col("NAME"), col("N").right()]);
        table.row([styled(super::super::GOOD, "a"), "1".into()]);
        table.row(["long name".into(), "100".into()]);
        assert_eq!(
            plain(&table, None),
            ["NAME         N", "a            1", "long name  100"]
        );
    }

    /// Optional columns go first, then ends of ids, then texts; numbers stay whole.
    #[test]
    fn a_table_gives_way_to_a_narrow_terminal() {
        let mut table = Table::new(&[
            col("WHAT").short(),
            col("N").right(),
            col("MORE").optional(),
            col("ID").cut(4),
        ]);
        table.row([
            "POST /orders/refund".into(),
            "100".into(),
            "x".into(),
            "01ABCDEF".into(),
        ]);
        let row = |room| plain(&table, Some(room)).pop().unwrap();
        assert_eq!(row(42), "POST /orders/refund  100  x     01ABCDEF");
        assert_eq!(row(39), "POST /orders/refund  100  01ABCDEF");
        assert_eq!(row(33), "POST /orders/refund  100  01AB");
        assert_eq!(row(24), "POST /orders…  100  01AB");
        assert_eq!(row(1), "POST /o…  100  01AB", "the least there is");
    }
}
