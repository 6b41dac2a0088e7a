//! Where everything of a report stands on its pages.

use super::measure::{Face, Measure};
use crate::report::{
    model::{CellKind, Chart, Figure, Report, Section, Table},
    render::{
        NO_ROWS, NOTHING,
        chart::{self, Anchor},
        csv::facts_of,
        grouped, headline, moment, pieces, rows_shown,
    },
};

/// A4 in points.
pub(super) const WIDTH: f32 = 595.0;
pub(super) const HEIGHT: f32 = 842.0;
/// Free on every side.
pub(super) const MARGIN: f32 = 40.0;
/// Colour of what is less important.
pub(super) const SOFT: Colour = (0x57, 0x60, 0x6A);

const INK: Colour = (0x1B, 0x1F, 0x24);
const LINE: Colour = (0xD0, 0xD7, 0xDE);
const SHADE: Colour = (0xF2, 0xF4, 0xF7);
const BAD: Colour = (0xA4, 0x0E, 0x26);
const NOTE: Colour = (0x8A, 0x5A, 0x00);
const ACCENT: Colour = (0x0B, 0x3D, 0x5C);

const ROOM: f32 = WIDTH - 2.0 * MARGIN;
/// Line height as a share of the letters' size.
const LEADING: f32 = 1.35;
/// Letters of a table.
const CELL: f32 = 7.0;
/// Between two columns of a table.
const GUTTER: f32 = 8.0;
/// Narrowest column that wraps.
const COLUMN_MIN: f32 = 44.0;
/// Most that a column gets of room that is left.
const SPREAD_MAX: f32 = 60.0;
/// Lines of one cell.
const CELL_LINES_MAX: usize = 6;
/// Rows of one table; beyond them paper is of no use.
const ROWS_MAX: usize = 250;
/// Rows that decide how wide columns are.
const ROWS_MEASURED: usize = 250;

type Colour = (u8, u8, u8);

/// What is drawn on a page, in order.
pub(super) struct Page(pub(super) Vec<Ink>);

/// Something drawn.
pub(super) enum Ink {
    Box {
        x: f32,
        y: f32,
        width: f32,
        height: f32,
        colour: Colour,
    },
    Text {
        x: f32,
        /// Of the base line.
        y: f32,
        size: f32,
        face: Face,
        colour: Colour,
        text: String,
    },
}

impl Ink {
    pub(super) fn text(
        x: f32,
        y: f32,
        size: f32,
        face: Face,
        colour: Colour,
        text: String,
    ) -> Self {
        Self::Text {
            x,
            y,
            size,
            face,
            colour,
            text,
        }
    }
}

/// The pages of a report.
pub(super) fn pages(report: &Report, measure: &Measure) -> Vec<Page> {
    let mut sheet = Sheet {
        measure,
        pages: vec![Page(Vec::new())],
        y: MARGIN,
    };
    sheet.head(report);
    for section in &report.sections {
        sheet.section(section);
    }
    sheet.pages
}

struct Sheet<'m> {
    measure: &'m Measure,
    pages: Vec<Page>,
    /// Top of what comes next.
    y: f32,
}

impl Sheet<'_> {
    fn head(&mut self, report: &Report) {
        let header = &report.header;
        let demo = if header.demo { " · demo" } else { "" };
        self.fill(MARGIN, self.y, ROOM, 3.0, ACCENT);
        self.y += 12.0;
        self.paragraph(&format!("{}{demo}", header.log), 9.0, Face::Regular, SOFT);
        self.paragraph(&report.title, 22.0, Face::Bold, ACCENT);
        self.paragraph(&report.question, 11.0, Face::Regular, SOFT);
        self.y += 6.0;
        self.figures(&headline(report));
        if !header.complete {
            let said = "Not complete: the period lacks records; see “lacks” below.";
            self.paragraph(said, 11.0, Face::Bold, BAD);
        }
        if header.records == 0 {
            self.paragraph(NOTHING, 11.0, Face::Bold, BAD);
        } else if header.begins.is_some() {
            let said = "The log begins after the period does; see “log begins” below.";
            self.paragraph(said, 9.0, Face::Bold, NOTE);
        }
        for (name, value) in facts_of(report) {
            self.fact(name, &value);
        }
        self.y += 8.0;
    }

    fn fact(&mut self, name: &str, value: &str) {
        let (size, left) = (8.0, 120.0);
        let value = self.measure.shown(value).into_owned();
        let lines = self.measure.lines(&value, Face::Regular, size, ROOM - left);
        let height = small(lines.len()) * size * LEADING + 4.0;
        self.room(height);
        self.rule(self.y, LINE);
        let top = self.y + 2.0;
        self.word(MARGIN, top, size, Face::Bold, INK, name.to_owned());
        for (i, line) in lines.into_iter().enumerate() {
            let y = top + small(i) * size * LEADING;
            self.word(MARGIN + left, y, size, Face::Regular, INK, line);
        }
        self.y += height;
    }

    fn section(&mut self, section: &Section) {
        // A title with nothing below it would stand for the next page.
        self.room(if section.chart.is_some() {
            320.0
        } else {
            190.0
        });
        self.y += 14.0;
        self.rule(self.y, INK);
        self.y += 6.0;
        self.paragraph(&section.title, 13.0, Face::Bold, ACCENT);
        if !section.controls.is_empty() {
            self.paragraph(&section.controls.join(" · "), 8.0, Face::Bold, SOFT);
        }
        self.paragraph(&plain(&section.narrative), 9.0, Face::Regular, INK);
        if section.momentary {
            let said = "This section describes the whole log as it was when the report was made.";
            self.paragraph(said, 8.0, Face::Regular, SOFT);
        }
        self.figures(&section.figures);
        if let Some(chart) = &section.chart {
            self.chart(chart);
        }
        if let Some(table) = &section.table {
            self.table(table);
        }
        for line in section.listing.iter().flat_map(|text| text.lines()) {
            self.paragraph(line, 7.0, Face::Narrow, INK);
            self.y -= 2.0;
        }
        if !section.cannot_show.is_empty() {
            self.room(30.0);
            self.y += 4.0;
            self.paragraph("What this cannot show", 8.0, Face::Bold, SOFT);
            for what in &section.cannot_show {
                self.paragraph(&format!("• {}", plain(what)), 8.0, Face::Regular, SOFT);
            }
        }
        for query in &section.queries {
            self.paragraph(&format!("query: {query}"), 6.5, Face::Narrow, SOFT);
        }
        for command in &section.commands {
            self.paragraph(&format!("command: {command}"), 6.5, Face::Narrow, SOFT);
        }
    }

    /// Numbers with their names, beside each other.
    fn figures(&mut self, figures: &[Figure]) {
        let (name_size, size, padding) = (7.0, 12.0, 8.0);
        let mut x = MARGIN;
        let height = 30.0;
        if figures.is_empty() {
            return;
        }
        self.y += 4.0;
        self.room(height);
        for figure in figures {
            let name = self.measure.shown(&figure.label).into_owned();
            let value = grouped(&figure.value);
            let value = self.measure.shown(&value).into_owned();
            // A root or a key is long, and smaller.
            let fits = self.measure.width(&value, Face::Bold, size) + 2.0 * padding <= ROOM;
            let size = if fits { size } else { 7.0 };
            let wide = self
                .measure
                .width(&value, Face::Bold, size)
                .max(self.measure.width(&name, Face::Regular, name_size));
            let width = (wide + 2.0 * padding).min(ROOM);
            if x > MARGIN && x + width > MARGIN + ROOM {
                x = MARGIN;
                self.y += height + 4.0;
                self.room(height);
            }
            self.fill(x, self.y, width, height, SHADE);
            self.word(
                x + padding,
                self.y + 4.0,
                name_size,
                Face::Regular,
                SOFT,
                name,
            );
            self.word(x + padding, self.y + 14.0, size, Face::Bold, INK, value);
            x += width + 6.0;
        }
        self.y += height + 8.0;
    }

    fn chart(&mut self, chart: &Chart) {
        let drawing = chart::draw(chart);
        let scale = ROOM / chart::WIDTH;
        let size = 12.0 * scale;
        let legend = if drawing.legend.is_empty() { 0.0 } else { 14.0 };
        self.room(drawing.height * scale + legend + 20.0);
        let (left, top) = (MARGIN, self.y);
        for line in &drawing.lines {
            let width = (line.x2 - line.x1) * scale;
            self.fill(
                left + line.x1 * scale,
                top + line.y * scale,
                width,
                0.5,
                LINE,
            );
        }
        for shape in &drawing.boxes {
            self.fill(
                left + shape.x * scale,
                top + shape.y * scale,
                shape.width * scale,
                shape.height * scale,
                chart::colour(shape.colour),
            );
        }
        for word in &drawing.words {
            let text = self.measure.shown(&word.text).into_owned();
            let width = self.measure.width(&text, Face::Narrow, size);
            let x = left + word.x * scale
                - match word.anchor {
                    Anchor::Start => 0.0,
                    Anchor::Middle => width / 2.0,
                    Anchor::End => width,
                };
            let y = top + word.y * scale;
            self.ink(Ink::text(x, y, size, Face::Narrow, INK, text));
        }
        self.y += drawing.height * scale + 4.0;
        let mut x = MARGIN;
        for (series, name) in &drawing.legend {
            let name = self.measure.shown(name).into_owned();
            self.fill(x, self.y + 1.0, 7.0, 7.0, chart::colour(*series));
            let width = self.measure.width(&name, Face::Regular, 8.0);
            self.word(x + 11.0, self.y, 8.0, Face::Regular, INK, name);
            x += width + 26.0;
        }
        self.y += legend;
        self.paragraph(&chart::in_words(chart), 7.5, Face::Regular, SOFT);
    }

    fn table(&mut self, table: &Table) {
        let shown = table.rows.len().min(ROWS_MAX);
        let said = match shown {
            0 => NO_ROWS.to_owned(),
            shown if shown < table.rows.len() => format!(
                "{}; more of them are in the XLSX, CSV and JSON of this report",
                rows_shown(shown, table.total)
            ),
            shown => rows_shown(shown, table.total),
        };
        // A caption without a row below it would stand for the next page.
        self.room(60.0);
        self.paragraph(&said, 7.5, Face::Regular, SOFT);
        if shown == 0 {
            return;
        }
        let cells: Vec<Vec<String>> = table
            .rows
            .iter()
            .take(shown)
            .map(|row| self.cells(table, row))
            .collect();
        let widths = self.widths(table, &cells);
        self.table_head(table, &widths);
        for row in &cells {
            let lines: Vec<Vec<String>> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| self.wrapped(cell, *width))
                .collect();
            let most = lines.iter().map(Vec::len).max().unwrap_or(1);
            let height = small(most) * CELL * LEADING + 3.0;
            if self.y + height > HEIGHT - MARGIN {
                self.turn();
                self.table_head(table, &widths);
            }
            self.cells_at(self.y + 1.5, table, &widths, lines, Face::Narrow);
            self.y += height;
            self.rule(self.y - 0.5, LINE);
        }
        self.y += 6.0;
    }

    fn table_head(&mut self, table: &Table, widths: &[f32]) {
        let heads: Vec<Vec<String>> = table
            .columns
            .iter()
            .zip(widths)
            .map(|(column, width)| {
                let name = self.measure.shown(&column.name);
                self.measure.lines(&name, Face::Bold, CELL, *width)
            })
            .collect();
        let most = heads.iter().map(Vec::len).max().unwrap_or(1);
        let height = small(most) * CELL * LEADING + 4.0;
        self.room(height + 30.0);
        self.fill(MARGIN, self.y, ROOM, height, SHADE);
        self.cells_at(self.y + 2.0, table, widths, heads, Face::Bold);
        self.y += height + 1.0;
    }

    /// The lines of each cell of one row, from `top`; numbers end where their column does.
    fn cells_at(
        &mut self,
        top: f32,
        table: &Table,
        widths: &[f32],
        cells: Vec<Vec<String>>,
        face: Face,
    ) {
        let mut x = MARGIN;
        for ((lines, width), column) in cells.into_iter().zip(widths).zip(&table.columns) {
            for (i, line) in lines.into_iter().enumerate() {
                let y = top + small(i) * CELL * LEADING;
                let at = match column.kind {
                    CellKind::Number => x + width - self.measure.width(&line, face, CELL),
                    _ => x,
                };
                self.word(at, y, CELL, face, INK, line);
            }
            x += width + GUTTER;
        }
    }

    fn cells(&self, table: &Table, row: &[String]) -> Vec<String> {
        row.iter()
            .zip(&table.columns)
            .map(|(cell, column)| {
                let text = match column.kind {
                    CellKind::Number => grouped(cell),
                    CellKind::Time => moment(cell).into_owned(),
                    CellKind::Blank | CellKind::Text => cell.clone(),
                };
                self.measure.shown(&text).into_owned()
            })
            .collect()
    }

    /// Widths that together fit the page: numbers, times and short texts whole, the others
    /// share what is left by how much they have.
    fn widths(&self, table: &Table, cells: &[Vec<String>]) -> Vec<f32> {
        let natural: Vec<f32> = table
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| {
                let head = self.measure.width(&column.name, Face::Bold, CELL);
                let texts = cells
                    .iter()
                    .take(ROWS_MEASURED)
                    .filter_map(|row| row.get(at));
                let widest = texts
                    .map(|text| self.measure.width(text, Face::Narrow, CELL))
                    .fold(0.0, f32::max);
                match column.kind {
                    CellKind::Blank => 48.0,
                    _ => widest.max(head.min(COLUMN_MIN)) + 1.0,
                }
            })
            .collect();
        let room = ROOM - GUTTER * small(natural.len().saturating_sub(1));
        match natural.iter().sum::<f32>() <= room {
            true => spread(natural, table, room),
            false => capped(natural, room),
        }
    }

    fn wrapped(&self, cell: &str, width: f32) -> Vec<String> {
        let mut lines = self.measure.lines(cell, Face::Narrow, CELL, width);
        if lines.len() > CELL_LINES_MAX {
            lines.truncate(CELL_LINES_MAX);
            if let Some(last) = lines.last_mut() {
                last.pop();
                last.push('…');
            }
        }
        lines
    }

    fn paragraph(&mut self, text: &str, size: f32, face: Face, colour: Colour) {
        let text = self.measure.shown(text).into_owned();
        let height = size * LEADING;
        for line in self.measure.lines(&text, face, size, ROOM) {
            self.room(height);
            self.word(MARGIN, self.y, size, face, colour, line);
            self.y += height;
        }
        self.y += 2.0;
    }

    // The page at hand.

    /// Turns the page unless there is room for `height`.
    fn room(&mut self, height: f32) {
        if self.y + height > HEIGHT - MARGIN {
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.pages.push(Page(Vec::new()));
        self.y = MARGIN;
    }

    /// A text whose line begins at `top`.
    fn word(&mut self, x: f32, top: f32, size: f32, face: Face, colour: Colour, text: String) {
        self.ink(Ink::text(x, top + size, size, face, colour, text));
    }

    fn fill(&mut self, x: f32, y: f32, width: f32, height: f32, colour: Colour) {
        self.ink(Ink::Box {
            x,
            y,
            width,
            height,
            colour,
        });
    }

    fn rule(&mut self, y: f32, colour: Colour) {
        self.fill(MARGIN, y, ROOM, 0.5, colour);
    }

    fn ink(&mut self, ink: Ink) {
        if let Some(page) = self.pages.last_mut() {
            page.0.push(ink);
        }
    }
}

/// Widths whose sum is `room`: the widest become one width, the others stay.
fn capped(natural: Vec<f32>, room: f32) -> Vec<f32> {
    let mut order = natural.clone();
    order.sort_by(f32::total_cmp);
    let (mut left, mut cap) = (room, room);
    for (i, width) in order.iter().enumerate() {
        let share = left / small(order.len() - i);
        if *width > share {
            cap = share;
            break;
        }
        left -= width;
    }
    natural.into_iter().map(|width| width.min(cap)).collect()
}

/// Widths with what is left of `room` between the columns that have texts.
fn spread(natural: Vec<f32>, table: &Table, room: f32) -> Vec<f32> {
    let left = room - natural.iter().sum::<f32>();
    let takes = |kind: CellKind| matches!(kind, CellKind::Text | CellKind::Time);
    let takers = table.columns.iter().filter(|c| takes(c.kind)).count();
    let more = (left / small(takers.max(1))).min(SPREAD_MAX);
    let widths = natural.into_iter().zip(&table.columns);
    widths
        .map(|(width, column)| match takes(column.kind) {
            true => width + more,
            false => width,
        })
        .collect()
}

/// A text without the marks around names.
fn plain(text: &str) -> String {
    pieces(text).into_iter().map(|(_, piece)| piece).collect()
}

fn small(n: usize) -> f32 {
    f32::from(u16::try_from(n).unwrap_or(u16::MAX))
}
