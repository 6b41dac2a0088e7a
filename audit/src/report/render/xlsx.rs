//! A report as a workbook: a sheet with what it covers, then one for each section, with
//! typed cells, a head that stays, and filters.

use rust_xlsxwriter::{
    Color, DocProperties, ExcelDateTime, Format, FormatAlign, FormatBorder, Workbook, Worksheet,
    XlsxError,
};

use super::{
    NO_ROWS, NOTHING, RenderError, chart,
    csv::{facts_of, file_name},
    visible,
};
use crate::report::model::{CellKind, Report, Section, Table};

/// Longest text of a cell that Excel reads, in units of UTF-16: an emoji has two.
const CELL_LEN_MAX: usize = 32_767;
/// Longest name of a sheet.
const SHEET_LEN_MAX: usize = 31;
/// Widest column, characters.
const WIDTH_MAX: usize = 60;

/// How cells look.
struct Formats {
    title: Format,
    name: Format,
    alarm: Format,
    wrapped: Format,
    head: Format,
    text: Format,
    number: Format,
    time: Format,
    blank: Format,
}

/// The workbook of a report.
///
/// # Errors
/// When it cannot be written.
pub fn to_xlsx(report: &Report) -> Result<Vec<u8>, RenderError> {
    let formats = Formats::new();
    let mut book = Workbook::new();
    let mut properties = DocProperties::new()
        .set_title(visible(&report.title))
        .set_subject(visible(&report.question))
        .set_author(visible(&report.header.program));
    // The moment of the report, not of this file: the same report is the same workbook.
    let made = report.header.made.parse::<jiff::Timestamp>().ok();
    if let Some(made) = made.and_then(|t| ExcelDateTime::from_timestamp(t.as_second()).ok()) {
        properties = properties.set_creation_datetime(&made);
    }
    book.set_properties(&properties);
    provenance(book.add_worksheet(), report, &formats)?;
    for (i, section) in report.sections.iter().enumerate() {
        let nothing = report.header.records == 0;
        sheet(book.add_worksheet(), i, (section, nothing), &formats)?;
    }
    Ok(book.save_to_buffer()?)
}

fn provenance(sheet: &mut Worksheet, report: &Report, formats: &Formats) -> Result<(), XlsxError> {
    sheet.set_name("Provenance")?;
    sheet.set_column_width(0, 24)?;
    sheet.set_column_width(1, 100)?;
    sheet.write_string_with_format(0, 0, clip(&report.title), &formats.title)?;
    sheet.write_string(1, 0, clip(&report.question))?;
    let mut row = 3;
    if report.header.records == 0 {
        sheet.write_string_with_format(2, 0, NOTHING, &formats.alarm)?;
    }
    for (name, value) in facts_of(report) {
        sheet.write_string_with_format(row, 0, name, &formats.name)?;
        sheet.write_string_with_format(row, 1, clip(&value), &formats.wrapped)?;
        row += 1;
    }
    sheet.write_string_with_format(row, 0, "signed note", &formats.name)?;
    let note = report.header.checkpoint.note.lines();
    let note: Vec<String> = note.map(|line| visible(line).into_owned()).collect();
    sheet.write_string_with_format(row, 1, clip_raw(&note.join("\n")), &formats.wrapped)?;
    Ok(())
}

fn sheet(
    sheet: &mut Worksheet,
    index: usize,
    (section, nothing): (&Section, bool),
    formats: &Formats,
) -> Result<(), XlsxError> {
    // Excel takes no `/`, `[` and the like, and no two sheets of one name.
    let name = format!("{:02} {}", index + 1, file_name(&section.id));
    sheet.set_name(name.chars().take(SHEET_LEN_MAX).collect::<String>())?;
    sheet.set_landscape();
    sheet.set_print_fit_to_pages(1, 0);
    sheet.write_string_with_format(0, 0, clip(&section.title), &formats.title)?;
    let mut row = 1;
    let mut line = |name: &str, value: &str| -> Result<(), XlsxError> {
        sheet.write_string_with_format(row, 0, clip(name), &formats.name)?;
        sheet.write_string(row, 1, clip(value))?;
        row += 1;
        Ok(())
    };
    // Each sheet is printed and passed on by itself.
    if nothing {
        line("no records", NOTHING)?;
    }
    if !section.controls.is_empty() {
        line("controls", &section.controls.join(", "))?;
    }
    line("narrative", &section.narrative)?;
    for query in &section.queries {
        line("query", query)?;
    }
    for command in &section.commands {
        line("command", command)?;
    }
    for figure in &section.figures {
        line(&figure.label, &figure.value)?;
    }
    for what in &section.cannot_show {
        line("cannot show", what)?;
    }
    for text in section.listing.iter().flat_map(|text| text.lines()) {
        line("", text)?;
    }
    if let Some(chart) = &section.chart {
        line("chart", &chart::in_words(chart))?;
    }
    let head = row + 1;
    if let Some(shown) = &section.table {
        table(sheet, head, shown, formats)?;
    } else if let Some(chart) = &section.chart {
        points(sheet, head, chart, formats)?;
    } else {
        sheet.set_column_width(0, 24)?;
    }
    Ok(())
}

fn table(
    sheet: &mut Worksheet,
    head: u32,
    table: &Table,
    formats: &Formats,
) -> Result<(), XlsxError> {
    for (at, column) in (0_u16..).zip(&table.columns) {
        sheet.write_string_with_format(head, at, clip(&column.name), &formats.head)?;
        let cells = table.rows.iter().filter_map(|row| row.get(usize::from(at)));
        let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        let least = if at == 0 { 24 } else { 8 };
        let width = match column.kind {
            CellKind::Time => 20,
            CellKind::Blank => 18,
            CellKind::Number | CellKind::Text => longest.max(column.name.len() + 3),
        };
        let width = u16::try_from(width.clamp(least, WIDTH_MAX)).unwrap_or(20);
        sheet.set_column_width(at, width)?;
    }
    for (row, cells) in (head + 1..).zip(&table.rows) {
        for ((at, column), cell) in (0_u16..).zip(&table.columns).zip(cells) {
            write(sheet, row, at, column.kind, cell, formats)?;
        }
    }
    if table.rows.is_empty() {
        sheet.write_string_with_format(head + 1, 0, NO_ROWS, &formats.wrapped)?;
    }
    sheet.set_freeze_panes(head + 1, 0)?;
    sheet.set_repeat_rows(head, head)?;
    let last = u16::try_from(table.columns.len().saturating_sub(1)).unwrap_or(u16::MAX);
    if let Some(rows) = u32::try_from(table.rows.len()).ok().filter(|n| *n > 0) {
        sheet.autofilter(head, 0, head + rows, last)?;
    }
    Ok(())
}

fn write(
    sheet: &mut Worksheet,
    row: u32,
    at: u16,
    kind: CellKind,
    cell: &str,
    formats: &Formats,
) -> Result<(), XlsxError> {
    let number = || cell.parse::<u32>().ok().map(f64::from);
    let time = || {
        let zoneless = cell.get(..23)?;
        ExcelDateTime::parse_from_str(zoneless).ok()
    };
    match kind {
        CellKind::Blank => sheet.write_string_with_format(row, at, clip(cell), &formats.blank)?,
        CellKind::Number => match number() {
            Some(number) => sheet.write_number_with_format(row, at, number, &formats.number)?,
            // Above 2³² or no number at all: every digit matters more than its type.
            None => sheet.write_string_with_format(row, at, clip(cell), &formats.text)?,
        },
        CellKind::Time => match time() {
            Some(time) => sheet.write_datetime_with_format(row, at, time, &formats.time)?,
            None => sheet.write_string_with_format(row, at, clip(cell), &formats.text)?,
        },
        CellKind::Text => sheet.write_string_with_format(row, at, clip(cell), &formats.text)?,
    };
    Ok(())
}

/// The points of a chart, where there is no table.
fn points(
    sheet: &mut Worksheet,
    head: u32,
    chart: &crate::report::model::Chart,
    formats: &Formats,
) -> Result<(), XlsxError> {
    sheet.set_column_width(0, 24)?;
    sheet.write_string_with_format(head, 0, "time", &formats.head)?;
    for (at, series) in (1_u16..).zip(&chart.series) {
        sheet.write_string_with_format(head, at, clip(series), &formats.head)?;
        sheet.set_column_width(at, 16)?;
    }
    for (row, point) in (head + 1..).zip(&chart.points) {
        write(sheet, row, 0, CellKind::Time, &point.label, formats)?;
        for (at, value) in (1_u16..).zip(&point.values) {
            write(
                sheet,
                row,
                at,
                CellKind::Number,
                &value.to_string(),
                formats,
            )?;
        }
    }
    sheet.set_freeze_panes(head + 1, 0)?;
    Ok(())
}

impl Formats {
    fn new() -> Self {
        let shade = Color::RGB(0x00E8_EDF2);
        Self {
            title: Format::new().set_bold().set_font_size(16),
            name: Format::new().set_bold().set_align(FormatAlign::Top),
            alarm: Format::new()
                .set_bold()
                .set_font_color(Color::RGB(0x00B0_1E1E)),
            wrapped: Format::new().set_text_wrap().set_align(FormatAlign::Top),
            head: Format::new()
                .set_bold()
                .set_background_color(shade)
                .set_border_bottom(FormatBorder::Thin),
            text: Format::new().set_num_format("@"),
            number: Format::new().set_num_format("#,##0"),
            time: Format::new().set_num_format("yyyy-mm-dd hh:mm:ss"),
            blank: Format::new().set_border(FormatBorder::Thin),
        }
    }
}

/// A text that a cell can have, and that hides nothing.
fn clip(text: &str) -> String {
    clip_raw(&visible(text))
}

fn clip_raw(text: &str) -> String {
    // What keeps a text plain is one more.
    let room = CELL_LEN_MAX - 1;
    if text.encode_utf16().count() <= room {
        return plain(text.to_owned());
    }
    let mut len = 0;
    let shown = text.chars().take_while(|c| {
        len += c.len_utf16();
        len < room
    });
    plain(shown.chain(['…']).collect())
}

/// A text that `rust_xlsxwriter` escapes: one from `<r>` to `</r>` it takes for the XML of a
/// string with formats and writes as it is, so that whoever chose the text could put strings
/// between those of the workbook. Such a one gets a blank before it.
fn plain(text: String) -> String {
    match text.starts_with("<r>") && text.ends_with("</r>") {
        true => format!(" {text}"),
        false => text,
    }
}
