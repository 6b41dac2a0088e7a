//! Charts as shapes, for a page and for a printer.

use super::{grouped, moment, visible};
use crate::report::model::{Chart, Point, Shape};

/// Width of every chart.
pub(super) const WIDTH: f32 = 720.0;
/// Colours of the series, told apart also by those who see few colours (Okabe and Ito).
pub(super) const COLOURS: [(u8, u8, u8); 7] = [
    (0x00, 0x72, 0xB2),
    (0xD5, 0x5E, 0x00),
    (0x00, 0x9E, 0x73),
    (0xCC, 0x79, 0xA7),
    (0xE6, 0x9F, 0x00),
    (0x56, 0xB4, 0xE9),
    (0x80, 0x80, 0x80),
];

const BAR_HEIGHT: f32 = 22.0;
const LABEL_WIDTH: f32 = 300.0;
const LABEL_LEN: usize = 48;
const NUMBER_WIDTH: f32 = 80.0;
const PLOT_HEIGHT: f32 = 160.0;
const AXIS_WIDTH: f32 = 64.0;
const TOP: f32 = 10.0;
const FOOT: f32 = 24.0;

/// A chart, drawn.
#[derive(Debug, Default)]
pub(super) struct Drawing {
    pub(super) height: f32,
    pub(super) boxes: Vec<Box>,
    pub(super) lines: Vec<Line>,
    pub(super) words: Vec<Word>,
    /// Colour, and name and sum, of each series where there are several.
    pub(super) legend: Vec<(usize, String)>,
}

/// A filled rectangle of a series.
#[derive(Debug)]
pub(super) struct Box {
    pub(super) x: f32,
    pub(super) y: f32,
    pub(super) width: f32,
    pub(super) height: f32,
    pub(super) colour: usize,
    /// What it stands for.
    pub(super) says: String,
}

/// A thin horizontal line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) x1: f32,
    pub(super) x2: f32,
    pub(super) y: f32,
}

/// A word of the chart.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) x: f32,
    pub(super) y: f32,
    pub(super) anchor: Anchor,
    pub(super) text: String,
}

/// Which end of a word stands at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    /// As SVG calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

/// Draws a chart.
pub(super) fn draw(chart: &Chart) -> Drawing {
    match chart.shape {
        Shape::Bars => bars(chart),
        Shape::Columns => columns(chart),
    }
}

/// What a chart says, for whoever cannot see it.
pub(super) fn in_words(chart: &Chart) -> String {
    let most = chart.points.iter().max_by_key(|point| sum(point));
    // There may be more bars than are drawn.
    let all = match chart.shape {
        Shape::Bars => "in the bars shown",
        Shape::Columns => "in all",
    };
    match most {
        Some(most) if sum(most) > 0 => format!(
            "{}: {} {}; the most, {}, at {}",
            chart.title,
            grouped(&chart.points.iter().map(sum).sum::<u64>().to_string()),
            all,
            grouped(&sum(most).to_string()),
            label(most, LABEL_LEN),
        ),
        _ => format!("{}: none", chart.title),
    }
}

fn bars(chart: &Chart) -> Drawing {
    let most = chart.points.iter().map(sum).max().unwrap_or(0).max(1);
    let room = WIDTH - LABEL_WIDTH - NUMBER_WIDTH;
    let mut drawing = Drawing::default();
    for (i, point) in chart.points.iter().enumerate() {
        let y = TOP + BAR_HEIGHT * small(i);
        let width = (room * ratio(sum(point), most)).max(1.0);
        drawing.words.push(Word {
            x: LABEL_WIDTH - 8.0,
            y: y + 15.0,
            anchor: Anchor::End,
            text: label(point, LABEL_LEN),
        });
        drawing.boxes.push(Box {
            x: LABEL_WIDTH,
            y: y + 3.0,
            width,
            height: BAR_HEIGHT - 6.0,
            colour: 0,
            says: format!("{}: {}", label(point, LABEL_LEN), sum(point)),
        });
        drawing.words.push(Word {
            x: LABEL_WIDTH + width + 6.0,
            y: y + 15.0,
            anchor: Anchor::Start,
            text: grouped(&sum(point).to_string()),
        });
    }
    drawing.height = TOP + BAR_HEIGHT * small(chart.points.len()) + 4.0;
    drawing
}

fn columns(chart: &Chart) -> Drawing {
    let most = nice(chart.points.iter().map(sum).max().unwrap_or(0));
    let room = WIDTH - AXIS_WIDTH - 8.0;
    let step = room / small(chart.points.len().max(1));
    let gap = if step > 4.0 { 1.0 } else { 0.0 };
    let foot = TOP + PLOT_HEIGHT;
    let mut drawing = Drawing {
        height: foot + FOOT,
        ..Drawing::default()
    };
    for part in [0_u64, 1, 2] {
        let y = foot - PLOT_HEIGHT * small_u64(part) / 2.0;
        drawing.lines.push(Line {
            x1: AXIS_WIDTH,
            x2: WIDTH - 8.0,
            y,
        });
        drawing.words.push(Word {
            x: AXIS_WIDTH - 6.0,
            y: y + 4.0,
            anchor: Anchor::End,
            text: grouped(&(most * part / 2).to_string()),
        });
    }
    for (i, point) in chart.points.iter().enumerate() {
        let mut y = foot;
        for (series, value) in point.values.iter().enumerate().filter(|(_, v)| **v > 0) {
            // What is there is seen, however little it is beside the rest.
            let height = (PLOT_HEIGHT * ratio(*value, most)).max(1.0);
            y -= height;
            let name = chart.series.get(series).map_or("", String::as_str);
            drawing.boxes.push(Box {
                x: AXIS_WIDTH + step * small(i),
                y,
                width: (step - gap).max(0.5),
                height,
                colour: series.min(COLOURS.len() - 1),
                says: format!("{} {}: {value}", label(point, LABEL_LEN), visible(name)),
            });
        }
    }
    let last = chart.points.len().saturating_sub(1);
    for (at, anchor) in [
        (0, Anchor::Start),
        (last / 2, Anchor::Middle),
        (last, Anchor::End),
    ] {
        let Some(point) = chart.points.get(at) else {
            continue;
        };
        if last < 4 && anchor == Anchor::Middle {
            continue;
        }
        let x = AXIS_WIDTH + step * small(at);
        drawing.words.push(Word {
            x: match anchor {
                Anchor::Start => x,
                Anchor::Middle => x + step / 2.0,
                Anchor::End => WIDTH - 8.0,
            },
            y: foot + 16.0,
            anchor,
            text: label(point, 16),
        });
    }
    if chart.series.len() > 1 {
        drawing.legend = chart
            .series
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let of = |point: &Point| point.values.get(i).copied().unwrap_or_default();
                let all: u64 = chart.points.iter().map(of).sum();
                (
                    i.min(COLOURS.len() - 1),
                    format!("{} {}", visible(name), grouped(&all.to_string())),
                )
            })
            .collect();
    }
    drawing
}

/// A colour by its number in a drawing.
pub(super) fn colour(number: usize) -> (u8, u8, u8) {
    COLOURS.get(number).copied().unwrap_or_default()
}

fn sum(point: &Point) -> u64 {
    point.values.iter().sum()
}

fn label(point: &Point, most: usize) -> String {
    let text = visible(&point.label);
    let text = moment(&text);
    match text.chars().count() > most {
        false => text.into_owned(),
        // A day and a time lose their seconds, a name its beginning: its end tells it apart.
        true if most < 20 => text.chars().take(most).collect(),
        true => {
            let end: Vec<char> = text.chars().rev().take(most - 1).collect();
            let end: String = end.into_iter().rev().collect();
            format!("…{end}")
        }
    }
}

/// The least even number of one leading digit (or 1.5, 2.5) that is not below `n`.
fn nice(n: u64) -> u64 {
    let mut scale = 1_u64;
    loop {
        for step in [2, 4, 6, 8, 10, 16, 20] {
            let candidate = scale.saturating_mul(step);
            if candidate >= n {
                return candidate;
            }
        }
        scale = scale.saturating_mul(10);
    }
}

fn ratio(n: u64, of: u64) -> f32 {
    let parts = u128::from(n) * 100_000 / u128::from(of.max(1));
    small_u64(u64::try_from(parts).unwrap_or(100_000)) / 100_000.0
}

fn small(n: usize) -> f32 {
    small_u64(u64::try_from(n).unwrap_or(u64::MAX))
}

/// Exact up to 2²⁴, which is more than any chart has of anything.
fn small_u64(n: u64) -> f32 {
    let n = u32::try_from(n).unwrap_or(u32::MAX);
    f64::from(n) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (n, end) in [
            (0, 2),
            (2, 2),
            (3, 4),
            (17, 20),
            (21, 40),
            (99, 100),
            (101, 160),
            (161, 200),
            (1001, 1600),
        ] {
            assert_eq!(nice(n), end, "{n}");
        }
    }

    #[test]
    fn columns_stack_up_to_the_axis_and_small_ones_are_seen() {
        let chart = Chart {
            title: "t".into(),
            shape: Shape::Columns,
            series: vec!["a".into(), "b".into()],
            points: vec![
                Point {
                    label: "2026-11-20T12:00:00.000000Z".into(),
                    values: vec![1_000_000, 0],
                },
                Point {
                    label: "2026-11-20T13:00:00.000000Z".into(),
                    values: vec![600_000, 1],
                },
            ],
        };
        let drawing = draw(&chart);
        assert_eq!(drawing.boxes.len(), 3);
        assert!(drawing.boxes.iter().all(|b| b.height >= 1.0 && b.y >= 0.0));
        assert_eq!(drawing.legend.len(), 2);
        assert!(in_words(&chart).contains("1,600,001 in all"));
        let bars = Chart {
            shape: Shape::Bars,
            ..chart
        };
        assert!(in_words(&bars).contains("1,600,001 in the bars shown"));
    }
}
