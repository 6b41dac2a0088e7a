//! Matches summed up: how many there are of each combination of values, when each was
//! first and last seen, and how many there are in each step of time.
//!
//! Everything comes out of the index's columns. A bucket's segment numbers the texts of a
//! column for itself, so counts are kept by those numbers and become texts when the
//! segment ends.

use std::ops::ControlFlow;

use rustc_hash::FxHashMap;
use tantivy::{
    SegmentReader, TantivyError,
    columnar::{Column, StrColumn},
};

use super::search::{Hit, Visitor};
use crate::{
    item::Item,
    query::{BY_MAX, Field, Sort, SortKey, field::Value},
};

/// Most distinct combinations that are counted; what comes after is in
/// [`Tally::uncounted`].
pub(super) const GROUPS_MAX: usize = 100_000;

/// Most values of a segment's column for which there is a counter each, in place of a map.
const DENSE_MAX: usize = 1 << 16;

/// Counts matches by the values of some fields together, and by steps of time. A record
/// with several values in a field counts under each.
pub(super) struct Tally {
    fields: Vec<&'static Field>,
    step_us: Option<i64>,
    groups: FxHashMap<Name, Cell>,
    /// Matches that would have made more groups than are counted.
    pub(super) uncounted: u64,
    /// Matches without a value in one of the fields.
    pub(super) absent: u64,
    pub(super) counted: u64,
    segment: Segment,
    failed: Option<TantivyError>,
}

/// A group: the start of its step (0 without steps) and its values.
pub(super) type Name = (i64, Vec<String>);

/// What is known of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) count: u64,
    pub(super) first_us: i64,
    pub(super) last_us: i64,
}

impl Cell {
    pub(super) const EMPTY: Self = Self {
        count: 0,
        first_us: i64::MAX,
        last_us: i64::MIN,
    };

    pub(super) fn see(&mut self, time_us: i64) {
        self.count += 1;
        self.first_us = self.first_us.min(time_us);
        self.last_us = self.last_us.max(time_us);
    }

    pub(super) fn join(&mut self, other: Self) {
        self.count += other.count;
        self.first_us = self.first_us.min(other.first_us);
        self.last_us = self.last_us.max(other.last_us);
    }
}

/// Numbers of the values of a record, 0 where there is no such field.
type Key = [u64; BY_MAX];

/// The columns of the segment at hand, and what it has so far.
#[derive(Default)]
struct Segment {
    columns: Vec<Numbers>,
    /// The step that the sparse cells belong to.
    step: i64,
    dense: Vec<Cell>,
    sparse: FxHashMap<Key, Cell>,
    /// The numbers of the record at hand, field by field.
    found: [Vec<u64>; BY_MAX],
}

/// Where the numbers of a field come from.
pub(super) enum Numbers {
    None,
    Text(StrColumn),
    Number(Column<u64>),
}

impl Tally {
    /// Nothing counted yet; with `step_us`, in steps of so many microseconds.
    pub(super) fn new(fields: Vec<&'static Field>, step_us: Option<i64>) -> Self {
        Self {
            fields,
            step_us,
            groups: FxHashMap::default(),
            uncounted: 0,
            absent: 0,
            counted: 0,
            segment: Segment::default(),
            failed: None,
        }
    }

    /// The same question, before anything was counted.
    pub(super) fn emptied(&self) -> Self {
        Self::new(self.fields.clone(), self.step_us)
    }

    /// The fields.
    pub(super) fn fields(&self) -> &[&'static Field] {
        &self.fields
    }

    /// Whether everything within a span of this length, microseconds, belongs to one
    /// step; spans begin at whole multiples of their length.
    pub(super) fn steps_fit(&self, length_us: i64) -> bool {
        self.step_us
            .is_none_or(|step| step.checked_rem(length_us) == Some(0))
    }

    /// Takes in matches that were counted before: each has these values of the fields,
    /// and is in the step of `time_us`.
    pub(super) fn rolled(&mut self, time_us: i64, values: &[&[String]], cell: Cell) {
        self.counted += cell.count;
        if values.iter().any(|list| list.is_empty()) {
            self.absent += cell.count;
        }
        let start = self.start(time_us);
        let Some(groups) = combinations(values) else {
            self.uncounted += cell.count;
            return;
        };
        for values in groups {
            self.add((start, values), cell);
        }
    }

    /// The names of the fields.
    pub(super) fn by(&self) -> Vec<&'static str> {
        self.fields.iter().map(|field| field.name).collect()
    }

    /// Counts a recent record.
    pub(super) fn item(&mut self, item: &Item) {
        let values: Vec<Vec<String>> = self.fields.iter().map(|f| values_of(f, item)).collect();
        let values: Vec<&[String]> = values.iter().map(Vec::as_slice).collect();
        let mut cell = Cell::EMPTY;
        cell.see(item.time_us);
        self.rolled(item.time_us, &values, cell);
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// The groups, in no order.
    pub(super) fn into_groups(self) -> impl Iterator<Item = (Name, Cell)> {
        self.groups.into_iter()
    }

    /// The first `top` groups in an order.
    pub(super) fn into_sorted(self, sort: Sort, top: usize) -> Vec<(Vec<String>, Cell)> {
        let fields = self.fields.clone();
        let mut groups: Vec<_> = self.groups.into_iter().map(|((_, v), c)| (v, c)).collect();
        groups.sort_unstable_by(|(a, a_cell), (b, b_cell)| {
            let order = match sort.key {
                SortKey::Count => a_cell.count.cmp(&b_cell.count),
                SortKey::First => a_cell.first_us.cmp(&b_cell.first_us),
                SortKey::Last => a_cell.last_us.cmp(&b_cell.last_us),
                SortKey::Value(at, _) => compare(&fields, at, a, b),
            };
            let order = if sort.descending {
                order.reverse()
            } else {
                order
            };
            order.then_with(|| a.cmp(b))
        });
        groups.truncate(top);
        groups
    }

    fn start(&self, time_us: i64) -> i64 {
        self.step_us
            .map_or(0, |step| time_us.saturating_sub(time_us.rem_euclid(step)))
    }

    fn add(&mut self, name: Name, cell: Cell) {
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&name) {
            self.uncounted += cell.count;
        } else {
            self.groups.entry(name).or_insert(Cell::EMPTY).join(cell);
        }
    }

    /// Turns the numbers of the segment into texts.
    fn settle(&mut self) -> tantivy::Result<()> {
        let step = self.segment.step;
        let dense = std::mem::take(&mut self.segment.dense);
        let numbered = (0..).zip(dense).filter(|(_, cell)| cell.count > 0);
        let sparse = std::mem::take(&mut self.segment.sparse);
        let cells = numbered.map(|(n, cell)| ([n, 0, 0, 0], cell)).chain(sparse);
        for (key, cell) in cells {
            let mut values = Vec::with_capacity(self.segment.columns.len());
            for (number, column) in key.into_iter().zip(&self.segment.columns) {
                values.push(column.text(number)?);
            }
            self.add((step, values), cell);
        }
        Ok(())
    }
}

impl Segment {
    fn see(&mut self, time_us: i64, uncounted: &mut u64) {
        let [first, second, third, fourth] = &self.found;
        if !self.dense.is_empty() {
            for number in first {
                let at = usize::try_from(*number).unwrap_or(usize::MAX);
                if let Some(cell) = self.dense.get_mut(at) {
                    cell.see(time_us);
                }
            }
            return;
        }
        if is_too_many(self.found.iter().map(Vec::len)) {
            *uncounted += 1;
            return;
        }
        for a in first {
            for b in second {
                for c in third {
                    for d in fourth {
                        let key = [*a, *b, *c, *d];
                        if self.sparse.len() >= GROUPS_MAX && !self.sparse.contains_key(&key) {
                            *uncounted += 1;
                        } else {
                            self.sparse.entry(key).or_insert(Cell::EMPTY).see(time_us);
                        }
                    }
                }
            }
        }
    }
}

impl Numbers {
    /// The column of `field` in a segment; one without values where it has none.
    pub(super) fn open(reader: &SegmentReader, field: Option<&Field>) -> tantivy::Result<Self> {
        let fast = reader.fast_fields();
        let found = match field {
            Some(field) if field.kind.is_number() => fast.column_opt(field.name)?.map(Self::Number),
            Some(field) => fast.str(field.name)?.map(Self::Text),
            None => None,
        };
        Ok(found.unwrap_or(Self::None))
    }

    /// Reads the numbers of a document's values, each once, in order.
    pub(super) fn read(&self, doc: u32, into: &mut Vec<u64>) {
        into.clear();
        match self {
            Self::None => {}
            Self::Text(column) => into.extend(column.term_ords(doc)),
            Self::Number(column) => into.extend(column.values_for_doc(doc)),
        }
        if into.len() > 1 {
            into.sort_unstable();
            into.dedup();
        }
    }

    /// The value that a number stands for.
    pub(super) fn text(&self, number: u64) -> tantivy::Result<String> {
        let mut text = String::new();
        match self {
            Self::Text(column) => {
                column.ord_to_str(number, &mut text)?;
            }
            Self::Number(_) => text = number.to_string(),
            Self::None => {}
        }
        Ok(text)
    }
}

impl Visitor for Tally {
    fn segment(&mut self, reader: &SegmentReader) -> tantivy::Result<()> {
        self.segment.columns.clear();
        for field in &self.fields {
            let numbers = Numbers::open(reader, Some(*field))?;
            self.segment.columns.push(numbers);
        }
        self.segment.found = std::array::from_fn(|_| vec![0]);
        if let ([Numbers::Text(column)], None) = (self.segment.columns.as_slice(), self.step_us) {
            let texts = column.num_terms();
            if texts <= DENSE_MAX {
                self.segment.dense = vec![Cell::EMPTY; texts];
            }
        }
        Ok(())
    }

    fn document(&mut self, hit: Hit<'_>) -> ControlFlow<()> {
        self.counted += 1;
        let time_us = hit.key.0;
        let start = self.start(time_us);
        // A segment is in the order of time: each of its steps comes once.
        if start != self.segment.step {
            if let Err(error) = self.settle() {
                self.failed = Some(error);
                return ControlFlow::Break(());
            }
            self.segment.step = start;
        }
        let segment = &mut self.segment;
        let mut absent = false;
        for (column, found) in segment.columns.iter().zip(&mut segment.found) {
            column.read(hit.doc, found);
            absent |= found.is_empty();
        }
        if absent {
            self.absent += 1;
        } else {
            segment.see(time_us, &mut self.uncounted);
        }
        ControlFlow::Continue(())
    }

    fn finish(&mut self) -> tantivy::Result<()> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.settle(),
        }
    }
}

/// Several tallies of the same matches.
impl Visitor for Vec<Tally> {
    fn segment(&mut self, reader: &SegmentReader) -> tantivy::Result<()> {
        self.iter_mut().try_for_each(|tally| tally.segment(reader))
    }

    fn document(&mut self, hit: Hit<'_>) -> ControlFlow<()> {
        self.iter_mut().try_for_each(|tally| tally.document(hit))
    }

    fn finish(&mut self) -> tantivy::Result<()> {
        self.iter_mut().try_for_each(Visitor::finish)
    }
}

/// Numbers by their size, texts by their letters.
fn compare(fields: &[&'static Field], at: usize, a: &[String], b: &[String]) -> std::cmp::Ordering {
    let numbers = fields.get(at).is_some_and(|field| field.kind.is_number());
    let (a, b) = (a.get(at), b.get(at));
    let number = |text: Option<&String>| text.and_then(|t| t.parse::<u64>().ok());
    match numbers {
        true => number(a).cmp(&number(b)),
        false => a.cmp(&b),
    }
}

fn values_of(field: &Field, item: &Item) -> Vec<String> {
    let mut values = Vec::new();
    field.values(item, &mut |value| values.extend(text_of(value)));
    values.sort_unstable();
    values.dedup();
    values
}

/// Most groups that one record is in, which is more than it has room for values of one field:
/// beyond, it is in none, and told as not counted.
const COMBINATIONS_MAX: usize = 1 << 15;

/// Every way to take one value from each list; none of too many.
fn combinations(lists: &[&[String]]) -> Option<Vec<Vec<String>>> {
    let lens = lists.iter().map(|list| list.len());
    if is_too_many(lens) {
        return None;
    }
    let none = vec![Vec::new()];
    Some(lists.iter().fold(none, |so_far, list| {
        let with = |group: &Vec<String>, value: &String| {
            let mut group = group.clone();
            group.push(value.clone());
            group
        };
        so_far
            .iter()
            .flat_map(|group| list.iter().map(move |value| with(group, value)))
            .collect()
    }))
}

/// Whether lists of these lengths are combined in more ways than are counted.
fn is_too_many(lens: impl Iterator<Item = usize>) -> bool {
    lens.fold(1, usize::saturating_mul) > COMBINATIONS_MAX
}

fn text_of(value: Value<'_>) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Ip(_) | Value::Id(_) | Value::Trace(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Cell = Cell {
        count: 1,
        first_us: 5,
        last_us: 5,
    };
    const MOST_FIRST: Sort = Sort {
        key: SortKey::Count,
        descending: true,
    };

    #[test]
    fn groups_are_counted_up_to_their_limit_and_the_rest_is_told() {
        let mut tally = Tally::new(Vec::new(), None);
        for i in 0..GROUPS_MAX {
            tally.add((0, vec![i.to_string()]), ONE);
        }
        assert_eq!(tally.uncounted, 0);
        tally.add((0, vec!["one more".into()]), Cell { count: 3, ..ONE });
        tally.add((0, vec!["0".into()]), ONE);
        assert_eq!(tally.uncounted, 3);
        let sorted = tally.into_sorted(MOST_FIRST, 1);
        assert_eq!(sorted, [(vec!["0".to_owned()], Cell { count: 2, ..ONE })]);
    }

    #[test]
    fn a_record_is_in_so_many_groups_and_in_none_beyond() {
        let (policy, error) = (Field::find("policy"), Field::find("policy_error"));
        for (policies, errors, groups, uncounted) in [(256, 128, 1 << 15, 0), (257, 128, 0, 1)] {
            let list = |len| (0..len).map(|n: usize| n.to_string()).collect::<Vec<_>>();
            let mut tally = Tally::new(vec![policy.unwrap(), error.unwrap()], None);
            tally.rolled(5, &[&list(policies), &list(errors)], ONE);
            assert_eq!((tally.len(), tally.uncounted), (groups, uncounted));
            assert_eq!(tally.counted, 1);
        }
    }

    #[test]
    fn numbers_are_sorted_by_their_size() {
        let field = Field::find("status").unwrap();
        let mut tally = Tally::new(vec![field], None);
        for status in ["500", "99", "1000"] {
            tally.add((0, vec![status.into()]), ONE);
        }
        let sort = Sort {
            key: SortKey::Value(0, field),
            descending: false,
        };
        let sorted = tally.into_sorted(sort, 10);
        let values: Vec<String> = sorted.into_iter().flat_map(|(v, _)| v).collect();
        assert_eq!(values, ["99", "500", "1000"]);
    }
}
