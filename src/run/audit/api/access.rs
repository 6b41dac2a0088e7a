//! Who may read what, and see which rows: the operator's policy file, both halves of it
//! understood. Cedar knows who; the query language knows which rows.

use std::{collections::HashMap, path::Path};

use palisade_audit::query::RowFilter;
use palisade_mesh::{diagnostic::Diagnostic, spiffe_id::SpiffeId};
use palisade_pdp::readers::{NotGranted, ReadAction, Readers};

/// The policies in force.
pub(crate) struct Access {
    readers: Readers,
    /// What each `@rows` text means.
    rows: HashMap<String, RowFilter>,
}

impl Access {
    /// Reads the policy file.
    ///
    /// # Errors
    /// `PLS7902` for what is wrong with a policy, `PLS7903` for each `@rows` that is no row
    /// filter, each with its line.
    pub(crate) fn read(path: &Path) -> Result<Self, Vec<Diagnostic>> {
        Self::of(Readers::read(path)?)
    }

    /// The policies of a file that was read.
    ///
    /// # Errors
    /// As [`Access::read`], for the rows.
    pub(super) fn of(readers: Readers) -> Result<Self, Vec<Diagnostic>> {
        let mut rows = HashMap::new();
        let mut found = Vec::new();
        for written in readers.rows() {
            match RowFilter::parse(&written.text) {
                Ok(filter) => drop(rows.insert(written.text.clone(), filter)),
                Err(wrong) => found.push(
                    Diagnostic::error(7903, format!("`@rows` is no row filter: {}", wrong.message))
                        .cause(format!("it is `{}`", written.text))
                        .help(wrong.help.unwrap_or_else(|| {
                            "its language is that of queries: docs/reference/audit-query.md".into()
                        }))
                        .at(written.location.clone()),
                ),
            }
        }
        match found.is_empty() {
            true => Ok(Self { readers, rows }),
            false => Err(found),
        }
    }

    /// Which rows `reader` may see of what it asks, and by which policies.
    ///
    /// # Errors
    /// Which policies forbid it; none, where nothing permits it.
    pub(super) fn decide(
        &self,
        reader: &SpiffeId,
        action: ReadAction,
    ) -> Result<(RowFilter, Vec<String>), NotGranted> {
        let granted = self.readers.decide(reader, action)?;
        let filters = granted.rows.iter().filter_map(|text| self.rows.get(*text));
        Ok((RowFilter::any(filters), granted.policies))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_filter_is_checked_where_it_stands() {
        let check = |rows: &str, code: u16, said: &str| {
            let text =
                format!("\n@id(\"a\")\n@rows(\"{rows}\")\npermit (principal, action, resource);");
            let found = Access::of(Readers::parse("readers.cedar", &text).unwrap());
            let found = found.err().unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].code.0, code);
            assert_eq!(found[0].location.as_ref().unwrap().line, 3);
            let told = format!("{} {:?}", found[0], found[0].help);
            assert!(told.contains(said), "{told}");
        };
        check("servce:shop/*", 7903, "did you mean `service:`?");
        check("service:shop/* last:1h", 7903, "every query brings its own");
        check("service:shop/* | count", 7903, "no summary");
        check("", 7903, "to say which rows");
    }
}
