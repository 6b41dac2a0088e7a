//! What the requests of a row had in common, and what told them apart.

use std::collections::{BTreeMap, BTreeSet};

use super::{add_column, counts, most_of};
use crate::{
    index::StoreError,
    report::{
        evidence::Evidence,
        model::{CellKind, Section},
    },
};

/// Values of a field by those of the fields before it.
pub(super) type Values = BTreeMap<Vec<String>, BTreeSet<String>>;

/// Fields that rows are told apart by: one less than a query counts by.
const BY: usize = 3;

/// More columns of a table that counts decisions of `filter` by three fields: for each of `columns`,
/// a name and a field, the values of that field among the requests of the row. `none` is said where
/// some of these had none; `…` stands for what is not known.
pub(super) fn with_values(
    mut section: Section,
    e: &Evidence<'_>,
    (filter, by): (&str, [&str; BY]),
    columns: &[(&str, &str)],
) -> Result<Section, StoreError> {
    let by = by.join(", ");
    for (name, field) in columns {
        let values = most_of(&(e.decisions(filter) + &format!(" | count by {by}, {field}")));
        let having = e.decisions(&format!("{filter} {field}:*"));
        let having = most_of(&(having + &format!(" | count by {by}")));
        let (named, all_named) = named_by_row(e, &values)?;
        // A request with several values is in several groups of the former.
        let (present, all_present) = counts(e, &having)?;
        add_column(&mut section.table, (name, CellKind::Text), |row| {
            let key = row.get(..BY).unwrap_or_default();
            let all: Option<u64> = row.get(BY).and_then(|count| count.parse().ok());
            let present = present.get(key).copied().or(all_present.then_some(0));
            let rest = match present.zip(all) {
                Some((present, all)) if present < all => "none",
                Some(_) if all_named => "",
                _ => "…",
            };
            let parts = [super::named(named.get(key)), rest.to_owned()];
            let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            parts.join(", ")
        });
        section.queries.extend([values, having]);
        if !(all_named && all_present) {
            section = section.cannot_show(&format!(
                "{name} beyond those of the thousand most frequent combinations: `…` stands for what is not known"
            ));
        }
    }
    Ok(section)
}

/// The last of the fields that a query counts by, for each of the others, and whether all are here.
pub(super) fn named_by_row(e: &Evidence<'_>, query: &str) -> Result<(Values, bool), StoreError> {
    let (counted, whole) = counts(e, query)?;
    let mut found = Values::new();
    for mut values in counted.into_keys() {
        let Some(value) = values.pop() else { continue };
        found.entry(values).or_default().insert(value);
    }
    Ok((found, whole))
}
