//! Answers from rows: what of a bucket is counted without looking at a document.

use rustc_hash::FxHashMap;

use super::{
    super::{
        bucket::View,
        tally::{Cell, Tally},
    },
    column_of, covered,
    file::{Block, Rows},
    hours, path_of, whole,
};
use crate::query::{BY_MAX, Demand, Expr, Field, Window, field::Value};

/// Whether rows can answer `tally` about what `filter` finds.
pub(in super::super) fn covers(filter: &Expr, tally: &Tally) -> bool {
    covered(filter)
        && tally
            .fields()
            .iter()
            .all(|field| column_of(field).is_some())
}

/// What of a bucket was counted from rows.
pub(in super::super) struct Rolled {
    /// How many files said so.
    pub(in super::super) files: usize,
    /// The time that is left to be scanned.
    pub(in super::super) left: Vec<Window>,
}

impl Rolled {
    /// Counts what files know of `window` in a bucket; `changing` are times at which it has
    /// documents that are out of date.
    pub(in super::super) fn count(
        view: &View,
        window: Window,
        filter: &Expr,
        changing: &[i64],
        tallies: &mut [Tally],
    ) -> Self {
        let asked = Asked {
            view,
            window,
            filter,
            changing,
        };
        if asked.tally(whole(view), tallies) {
            return Self {
                files: 1,
                left: Vec::new(),
            };
        }
        let mut files = 0;
        let mut left: Vec<Window> = Vec::new();
        let begins = window.from_us.max(view.span.from_us);
        let ends = window.to_us.min(view.span.to_us);
        let mut scanned = begins;
        for hour in hours(view) {
            if asked.tally(hour, tallies) {
                files += 1;
                left.extend(between(scanned, hour.from_us));
                scanned = hour.to_us;
            }
        }
        left.extend(between(scanned, ends));
        Self { files, left }
    }
}

fn between(from_us: i64, to_us: i64) -> Option<Window> {
    (from_us < to_us).then_some(Window { from_us, to_us })
}

/// A question to one bucket.
struct Asked<'a> {
    view: &'a View,
    window: Window,
    filter: &'a Expr,
    changing: &'a [i64],
}

impl Asked<'_> {
    /// Counts a span by its file; says whether that was possible.
    fn tally(&self, span: Window, tallies: &mut [Tally]) -> bool {
        let within = self.window.from_us <= span.from_us && span.to_us <= self.window.to_us;
        let length = span.to_us.saturating_sub(span.from_us);
        let usable = within
            && tallies.iter().all(|tally| tally.steps_fit(length))
            && !self.changing.iter().any(|time_us| span.contains(*time_us));
        if !usable {
            return false;
        }
        let Some(block) = self.block(span) else {
            return false;
        };
        let Some((test, rows)) = block
            .rows
            .as_ref()
            .and_then(|rows| Some((Test::new(self.filter, &block, rows)?, rows)))
        else {
            return false;
        };
        for tally in tallies {
            count(rows, &test, span, tally);
        }
        true
    }

    /// The file of a span, if it is true of the bucket as it is.
    fn block(&self, span: Window) -> Option<Block> {
        let path = path_of(&self.view.folder, span);
        let bytes = std::fs::read(&path).ok()?;
        let ours = |block: &Block| block.head.span == span;
        let Some(block) = Block::decode(&bytes).filter(ours) else {
            tracing::warn!(path = %path.display(), "a roll-up of the audit index is damaged or another's, and made again");
            // What is not there is noticed.
            let _ = std::fs::remove_file(&path);
            return None;
        };
        let is_true = block.head.making == self.view.making
            && block.head.documents == self.view.documents(span);
        is_true.then_some(block)
    }
}

fn count(rows: &Rows, test: &Test, span: Window, tally: &mut Tally) {
    let columns: Vec<usize> = tally.fields().iter().filter_map(|f| column_of(f)).collect();
    let mut cells: FxHashMap<[u64; BY_MAX], Cell> = FxHashMap::default();
    for row in (0..rows.len()).filter(|row| test.passes(rows, *row)) {
        let mut key = [0; BY_MAX];
        for (number, at) in key.iter_mut().zip(&columns) {
            *number = rows.columns.get(*at).map_or(0, |column| column.get(row));
        }
        let cell = rows.cell(row);
        cells.entry(key).or_insert(Cell::EMPTY).join(cell);
    }
    for (key, cell) in cells {
        let named = key.into_iter().zip(&columns).map(|(number, at)| {
            let lists = rows.lists.get(*at)?;
            lists.get(usize::try_from(number).ok()?)
        });
        // The file was read only if every number names a list.
        let values: Vec<&[String]> = named.map(|l| l.map_or(&[][..], Vec::as_slice)).collect();
        tally.rolled(span.from_us, &values, cell);
    }
}

/// A filter in terms of a file: which lists of a field meet a demand.
enum Test {
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
    Is(bool),
    In(usize, Vec<bool>),
}

impl Test {
    /// None where rows cannot tell.
    fn new(filter: &Expr, block: &Block, rows: &Rows) -> Option<Self> {
        let all = |parts: &[Expr]| {
            let tests = parts.iter().map(|part| Self::new(part, block, rows));
            tests.collect::<Option<Vec<Self>>>()
        };
        Some(match filter {
            Expr::All(parts) => Self::All(all(parts)?),
            Expr::Any(parts) => Self::Any(all(parts)?),
            Expr::Not(inner) => Self::Not(Box::new(Self::new(inner, block, rows)?)),
            Expr::Test(field, demand) => match column_of(field) {
                Some(at) => {
                    let meets =
                        |list: &Vec<String>| list.iter().any(|value| meets(field, demand, value));
                    Self::In(at, rows.lists.get(at)?.iter().map(meets).collect())
                }
                None => Self::Is(of_entries(block, demand)?),
            },
        })
    }

    fn passes(&self, rows: &Rows, row: usize) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.passes(rows, row)),
            Self::Any(parts) => parts.iter().any(|part| part.passes(rows, row)),
            Self::Not(inner) => !inner.passes(rows, row),
            Self::Is(so) => *so,
            Self::In(at, lists) => {
                let number = rows.columns.get(*at).map_or(0, |column| column.get(row));
                let at = usize::try_from(number).unwrap_or(usize::MAX);
                lists.get(at).copied().unwrap_or(false)
            }
        }
    }
}

fn meets(field: &Field, demand: &Demand, value: &str) -> bool {
    let value = match field.kind.is_number() {
        true => value.parse().ok().map(Value::Number),
        false => Some(Value::Text(value)),
    };
    value.is_some_and(|value| demand.accepts(field.kind, value))
}

/// Whether the positions of all records meet a demand, or those of none; else nobody knows.
fn of_entries(block: &Block, demand: &Demand) -> Option<bool> {
    let (first, last) = (block.head.first_entry, block.head.last_entry);
    match demand {
        Demand::Exists => Some(true),
        Demand::Range(low, high) if *low <= first && last <= *high => Some(true),
        Demand::Range(low, high) if last < *low || *high < first => Some(false),
        _ => None,
    }
}
