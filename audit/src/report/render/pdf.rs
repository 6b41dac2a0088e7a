//! A report as a PDF: A4 pages with their own fonts, a head and a foot, tables that go on.
//!
//! Everything is laid out first, so that each page can say of how many it is one, and then
//! drawn.

use dejavu::{sans, sans_condensed};
use krilla::{
    Document,
    color::rgb,
    geom::{PathBuilder, Point, Rect},
    metadata::Metadata,
    num::NormalizedF32,
    page::PageSettings,
    paint::{Fill, FillRule},
    text::{Font, GlyphId, KrillaGlyph},
};

use super::{RenderError, visible};
use crate::report::model::Report;

mod layout;
mod measure;

use layout::{HEIGHT, Ink, MARGIN, Page, WIDTH};
use measure::{Face, Measure};

/// The PDF of a report.
///
/// # Errors
/// When it cannot be written.
pub fn to_pdf(report: &Report) -> Result<Vec<u8>, RenderError> {
    let failed = |what: &str| RenderError::Pdf(what.to_owned());
    let measure = Measure::new().ok_or_else(|| failed("the fonts cannot be read"))?;
    let pages = layout::pages(report, &measure);
    let fonts = Fonts::new().ok_or_else(|| failed("the fonts cannot be embedded"))?;
    let mut document = Document::new();
    document.set_metadata(
        Metadata::new()
            .title(visible(&report.title).into_owned())
            .description(visible(&report.question).into_owned())
            .creator(report.header.program.clone())
            .language("en".to_owned()),
    );
    let count = pages.len();
    for (i, page) in pages.into_iter().enumerate() {
        let settings =
            PageSettings::from_wh(WIDTH, HEIGHT).ok_or_else(|| failed("the page has no size"))?;
        let mut sheet = document.start_page_with(settings);
        let mut surface = sheet.surface();
        let foot = foot(report, i + 1, count, &measure);
        for ink in page.0.iter().chain(&foot.0) {
            draw(&mut surface, ink, &fonts, &measure);
        }
        surface.finish();
        sheet.finish();
    }
    document.finish().map_err(|e| failed(&format!("{e:?}")))
}

/// The last line of a page.
fn foot(report: &Report, number: usize, of: usize, measure: &Measure) -> Page {
    let left = format!(
        "{} · {} · checkpoint {}",
        visible(&report.title),
        visible(&report.header.log),
        visible(report.header.checkpoint.root.get(..16).unwrap_or_default()),
    );
    let right = format!("page {number} of {of}");
    let size = 7.5;
    let at = HEIGHT - MARGIN + 14.0;
    let end = WIDTH - MARGIN - measure.width(&right, Face::Regular, size);
    Page(vec![
        Ink::text(MARGIN, at, size, Face::Regular, layout::SOFT, left),
        Ink::text(end, at, size, Face::Regular, layout::SOFT, right),
    ])
}

struct Fonts {
    regular: Font,
    bold: Font,
    narrow: Font,
}

impl Fonts {
    fn new() -> Option<Self> {
        let font = |data: &'static [u8]| Font::new(data.into(), 0);
        Some(Self {
            regular: font(sans::regular())?,
            bold: font(sans::bold())?,
            narrow: font(sans_condensed::regular())?,
        })
    }

    fn of(&self, face: Face) -> Font {
        match face {
            Face::Regular => self.regular.clone(),
            Face::Bold => self.bold.clone(),
            Face::Narrow => self.narrow.clone(),
        }
    }
}

fn draw(surface: &mut krilla::surface::Surface<'_>, ink: &Ink, fonts: &Fonts, measure: &Measure) {
    let (red, green, blue) = match ink {
        Ink::Box { colour, .. } | Ink::Text { colour, .. } => *colour,
    };
    surface.set_fill(Some(Fill {
        paint: rgb::Color::new(red, green, blue).into(),
        opacity: NormalizedF32::ONE,
        rule: FillRule::default(),
    }));
    match ink {
        Ink::Box {
            x,
            y,
            width,
            height,
            ..
        } => {
            let mut path = PathBuilder::new();
            if let Some(rect) = Rect::from_xywh(*x, *y, *width, *height) {
                path.push_rect(rect);
            }
            if let Some(path) = path.finish() {
                surface.draw_path(&path);
            }
        }
        Ink::Text {
            x,
            y,
            size,
            face,
            text,
            ..
        } => {
            let glyphs: Vec<KrillaGlyph> = text
                .char_indices()
                .map(|(at, c)| {
                    let (glyph, advance) = measure.glyph(c, *face);
                    let range = at..at + c.len_utf8();
                    KrillaGlyph::new(GlyphId::new(glyph), advance, 0.0, 0.0, 0.0, range, None)
                })
                .collect();
            if !glyphs.is_empty() {
                let start = Point::from_xy(*x, *y);
                surface.draw_glyphs(start, &glyphs, fonts.of(*face), text, *size, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn a_long_table_goes_on_over_pages() {
        let measure = Measure::new().unwrap();
        let mut report = sample("x");
        let short = layout::pages(&report, &measure).len();
        let table = report.sections[0].table.as_mut().unwrap();
        table.rows = vec![table.rows[0].clone(); 200];
        let long = layout::pages(&report, &measure).len();
        assert!(long > short + 2, "{short} and {long} pages");
    }

    /// What a section can be asked by again stands below it.
    #[test]
    fn queries_and_commands_stand_below_their_section() {
        let measure = Measure::new().unwrap();
        let mut report = sample("x");
        report.sections[0].queries = vec!["class:decision".into()];
        report.sections[0].commands = vec!["palisade audit verify".into()];
        let pages = layout::pages(&report, &measure);
        let words = pages.iter().flat_map(|page| &page.0);
        let words = words.filter_map(|ink| match ink {
            Ink::Text { text, .. } => Some(text.as_str()),
            Ink::Box { .. } => None,
        });
        let words: Vec<&str> = words.collect();
        for said in ["query: class:decision", "command: palisade audit verify"] {
            assert!(words.contains(&said), "{words:?}");
        }
    }
}
