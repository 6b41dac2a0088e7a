//! What the requests of a row had in common, and what told them apart.

use std::collections::{BTreeMap, BTreeSet};

use super::{add_column, counts, most_of, named};
use crate::{
    index::StoreError,
    report::{
        evidence::Evidence,
        model::{CellKind, Section},
    },
};

/// Fields that rows are told apart by: one less than a query counts by.
const BY: usize = 3;

/// More columns of a table that counts decisions of `filter` by three fields: for each of `columns`,
/// a name and a field, the values of that field among the requests of the row. `none` is said of
/// requests that had none; `…` stands for what is not named.
pub(super) fn with_values(
    mut section: Section,
    e: &Evidence<'_>,
    (filter, by): (&str, [&str; BY]),
    columns: &[(&str, &str)],
) -> Result<Section, StoreError> {
    for (name, field) in columns {
        let query = e.decisions(filter) + &format!(" | count by {}, {field}", by.join(", "));
        let query = most_of(&query);
        let (counted, whole) = counts(e, &query)?;
        let mut of_row: BTreeMap<Vec<String>, (BTreeSet<String>, u64)> = BTreeMap::new();
        for (mut values, count) in counted {
            let Some(value) = values.pop() else { continue };
            let (named, requests) = of_row.entry(values).or_default();
            named.insert(value);
            *requests += count;
        }
        add_column(&mut section.table, (name, CellKind::Text), |row| {
            let (values, requests) = row
                .get(..BY)
                .and_then(|of| of_row.get(of))
                .map_or((None, 0), |(values, requests)| (Some(values), *requests));
            let all = row.get(BY).and_then(|count| count.parse().ok());
            let rest = match all.is_some_and(|all: u64| requests < all) {
                false => "",
                true if whole => "none",
                true => "…",
            };
            let parts = [named(values), rest.to_owned()];
            let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            parts.join(", ")
        });
        section.queries.push(query);
        if !whole {
            section = section.cannot_show(&format!(
                "{name} beyond those of the thousand most frequent combinations: `…` stands for what is not named"
            ));
        }
    }
    Ok(section)
}
