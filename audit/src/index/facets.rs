//! Counting matches by the values of fields, and by time.

use std::{collections::BTreeMap, ops::ControlFlow};

use rustc_hash::FxHashMap;
use tantivy::{
    SegmentReader,
    columnar::{Column, StrColumn},
};

use super::search::{Hit, Visitor};
use crate::{
    item::Item,
    query::{Field, field::Value},
};

/// Most distinct combinations that are counted; what comes after is in
/// [`Groups::uncounted`].
pub(super) const GROUPS_MAX: usize = 100_000;

/// Counts by the values of some fields together. A record with several values
/// in a field counts under each.
pub(super) struct Groups {
    fields: Vec<&'static Field>,
    counts: FxHashMap<Vec<String>, u64>,
    /// Matches that would have made more groups than are counted.
    pub(super) uncounted: u64,
    /// Matches without a value in one of the fields.
    pub(super) absent: u64,
    pub(super) counted: u64,
    segment: Vec<Values>,
    by_ordinals: FxHashMap<Vec<u64>, u64>,
}

enum Values {
    None,
    Text(StrColumn),
    Number(Column<u64>),
}

impl Groups {
    pub(super) fn new(fields: Vec<&'static Field>) -> Self {
        Self {
            fields,
            counts: FxHashMap::default(),
            uncounted: 0,
            absent: 0,
            counted: 0,
            segment: Vec::new(),
            by_ordinals: FxHashMap::default(),
        }
    }

    /// Counts a recent record.
    pub(super) fn item(&mut self, item: &Item) {
        self.counted += 1;
        let fields = self.fields.clone();
        let values = fields.iter().map(|field| {
            let mut values = Vec::new();
            field.values(item, &mut |value| values.extend(text_of(value)));
            values.sort_unstable();
            values.dedup();
            values
        });
        for combination in combinations(values.collect()) {
            self.add(combination, 1);
        }
        self.note_absence(|field| {
            let mut any = false;
            field.values(item, &mut |_| any = true);
            any
        });
    }

    /// The groups, most first; equal ones by name.
    pub(super) fn into_sorted(self, top: usize) -> Vec<(Vec<String>, u64)> {
        let mut groups: Vec<_> = self.counts.into_iter().collect();
        groups.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        groups.truncate(top);
        groups
    }

    fn note_absence(&mut self, has: impl Fn(&Field) -> bool) {
        if !self.fields.iter().all(|field| has(field)) {
            self.absent += 1;
        }
    }

    fn add(&mut self, group: Vec<String>, count: u64) {
        if self.counts.len() >= GROUPS_MAX && !self.counts.contains_key(&group) {
            self.uncounted += count;
        } else {
            *self.counts.entry(group).or_default() += count;
        }
    }
}

impl Visitor for Groups {
    fn segment(&mut self, reader: &SegmentReader) -> tantivy::Result<()> {
        let fast = reader.fast_fields();
        self.segment.clear();
        for field in &self.fields {
            let values = if field.kind.is_number() {
                fast.column_opt(field.name)?.map(Values::Number)
            } else {
                fast.str(field.name)?.map(Values::Text)
            };
            self.segment.push(values.unwrap_or(Values::None));
        }
        Ok(())
    }

    fn document(&mut self, hit: Hit<'_>) -> ControlFlow<()> {
        self.counted += 1;
        // The common case, one field with one value, makes no list of lists.
        let values: Vec<Vec<u64>> = self
            .segment
            .iter()
            .map(|values| {
                let mut found: Vec<u64> = match values {
                    Values::None => Vec::new(),
                    Values::Text(column) => column.term_ords(hit.doc).collect(),
                    Values::Number(column) => column.values_for_doc(hit.doc).collect(),
                };
                found.sort_unstable();
                found.dedup();
                found
            })
            .collect();
        if values.iter().any(Vec::is_empty) {
            self.absent += 1;
        }
        for combination in combinations(values) {
            if self.by_ordinals.len() >= GROUPS_MAX && !self.by_ordinals.contains_key(&combination)
            {
                self.uncounted += 1;
            } else {
                *self.by_ordinals.entry(combination).or_default() += 1;
            }
        }
        ControlFlow::Continue(())
    }

    /// Ordinals mean something in their segment only.
    fn finish(&mut self) -> tantivy::Result<()> {
        for (ordinals, count) in std::mem::take(&mut self.by_ordinals) {
            let mut group = Vec::with_capacity(ordinals.len());
            for (ordinal, values) in ordinals.into_iter().zip(&self.segment) {
                let mut text = String::new();
                match values {
                    Values::Text(column) => {
                        column.ord_to_str(ordinal, &mut text)?;
                    }
                    Values::Number(_) => text = ordinal.to_string(),
                    Values::None => {}
                }
                group.push(text);
            }
            self.add(group, count);
        }
        Ok(())
    }
}

/// Every way to take one value from each list.
fn combinations<T: Clone>(lists: Vec<Vec<T>>) -> Vec<Vec<T>> {
    lists.into_iter().fold(vec![Vec::new()], |so_far, list| {
        so_far
            .iter()
            .flat_map(|group| {
                list.iter().map(|value| {
                    let mut group = group.clone();
                    group.push(value.clone());
                    group
                })
            })
            .collect()
    })
}

fn text_of(value: Value<'_>) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Ip(_) | Value::Id(_) | Value::Trace(_) => None,
    }
}

/// Counts by steps of time.
pub(super) struct Timeline {
    step_us: i64,
    pub(super) steps: BTreeMap<i64, u64>,
    pub(super) counted: u64,
}

impl Timeline {
    pub(super) fn new(step_us: i64) -> Self {
        Self {
            step_us: step_us.max(1),
            steps: BTreeMap::new(),
            counted: 0,
        }
    }

    /// Counts a match at this time.
    pub(super) fn add(&mut self, time_us: i64) {
        self.counted += 1;
        let start = time_us.saturating_sub(time_us.rem_euclid(self.step_us));
        *self.steps.entry(start).or_default() += 1;
    }
}

impl Visitor for Timeline {
    fn document(&mut self, hit: Hit<'_>) -> ControlFlow<()> {
        self.add(hit.key.0);
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_counted_up_to_their_limit_and_the_rest_is_told() {
        let mut groups = Groups::new(Vec::new());
        for i in 0..GROUPS_MAX {
            groups.add(vec![i.to_string()], 1);
        }
        assert_eq!(groups.uncounted, 0);
        groups.add(vec!["one more".into()], 3);
        groups.add(vec!["0".into()], 1);
        assert_eq!(groups.uncounted, 3);
        assert_eq!(groups.into_sorted(1), vec![(vec!["0".into()], 2)]);
    }
}
