//! How wide a text is in the fonts of the PDF.

use std::borrow::Cow;

use dejavu::{sans, sans_condensed};
use skrifa::{
    FontRef, MetadataProvider,
    charmap::Charmap,
    instance::{LocationRef, Size},
    metrics::GlyphMetrics,
};

use crate::report::render::visible;

/// One of the fonts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Face {
    Regular,
    Bold,
    /// For tables.
    Narrow,
}

/// The glyphs of the fonts and their widths.
pub(super) struct Measure {
    regular: Glyphs,
    bold: Glyphs,
    narrow: Glyphs,
}

struct Glyphs {
    map: Charmap<'static>,
    metrics: GlyphMetrics<'static>,
    units: f32,
}

impl Measure {
    pub(super) fn new() -> Option<Self> {
        Some(Self {
            regular: Glyphs::new(sans::regular())?,
            bold: Glyphs::new(sans::bold())?,
            narrow: Glyphs::new(sans_condensed::regular())?,
        })
    }

    /// The glyph of a character, 0 where there is none, and its width in ems.
    pub(super) fn glyph(&self, c: char, face: Face) -> (u32, f32) {
        let glyphs = self.of(face);
        let glyph = glyphs.map.map(c).unwrap_or_default();
        let advance = glyphs.metrics.advance_width(glyph).unwrap_or_default();
        (glyph.to_u32(), advance / glyphs.units)
    }

    pub(super) fn width(&self, text: &str, face: Face, size: f32) -> f32 {
        text.chars().map(|c| self.glyph(c, face).1).sum::<f32>() * size
    }

    /// `text` as it can be shown: what is hidden, and what the fonts do not have, spelled
    /// out.
    pub(super) fn shown<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let text = visible(text);
        if text.chars().all(|c| self.glyph(c, Face::Narrow).0 != 0) {
            return text;
        }
        let mut out = String::with_capacity(text.len() + 8);
        for c in text.chars() {
            match self.glyph(c, Face::Narrow).0 {
                0 => out.extend(c.escape_unicode()),
                _ => out.push(c),
            }
        }
        out.into()
    }

    /// `text` in lines of at most `width`, cut between words where that is possible.
    pub(super) fn lines(&self, text: &str, face: Face, size: f32, width: f32) -> Vec<String> {
        let mut lines = Vec::new();
        let (mut line, mut used) = (String::new(), 0.0);
        for word in text.split_inclusive([' ', '/', '-', ',', '.', ':']) {
            let wide = self.width(word, face, size);
            let bare = self.width(word.trim_end(), face, size);
            if used + bare > width && !line.is_empty() {
                lines.push(std::mem::take(&mut line).trim_end().to_owned());
                used = 0.0;
            }
            if bare <= width {
                line.push_str(word);
                used += wide;
                continue;
            }
            for c in word.chars() {
                let wide = self.glyph(c, face).1 * size;
                if used + wide > width && !line.is_empty() {
                    lines.push(std::mem::take(&mut line));
                    used = 0.0;
                }
                line.push(c);
                used += wide;
            }
        }
        let rest = line.trim_end();
        if !rest.is_empty() || lines.is_empty() {
            lines.push(rest.to_owned());
        }
        lines
    }

    fn of(&self, face: Face) -> &Glyphs {
        match face {
            Face::Regular => &self.regular,
            Face::Bold => &self.bold,
            Face::Narrow => &self.narrow,
        }
    }
}

impl Glyphs {
    fn new(data: &'static [u8]) -> Option<Self> {
        let font = FontRef::new(data).ok()?;
        let size = Size::unscaled();
        Some(Self {
            map: font.charmap(),
            metrics: font.glyph_metrics(size, LocationRef::default()),
            units: f32::from(font.metrics(size, LocationRef::default()).units_per_em),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_their_width_and_lose_nothing() {
        let measure = Measure::new().unwrap();
        for text in [
            "Each row is a caller, a service it reached, and a policy.",
            "spiffe://acme.test/ns/shop/sa/a-very-long-service-account-name-without-end",
            "x".repeat(200).as_str(),
            "",
        ] {
            let lines = measure.lines(text, Face::Narrow, 7.0, 90.0);
            for line in &lines {
                assert!(measure.width(line, Face::Narrow, 7.0) <= 90.0, "{line}");
            }
            let all: String = lines.concat().split_whitespace().collect();
            assert_eq!(all, text.split_whitespace().collect::<String>());
        }
    }

    #[test]
    fn what_the_fonts_lack_is_spelled_out() {
        let measure = Measure::new().unwrap();
        assert_eq!(measure.shown("Grüße ≥ …"), "Grüße ≥ …");
        assert_eq!(measure.shown("日"), "\\u{65e5}");
    }
}
