//! Section `privacy`: what is personal in the records of this process, and what becomes of
//! it.

use std::collections::{BTreeMap, BTreeSet};

use palisade_audit::privacy::{Handling, Personal, Rules};
use palisade_mesh::diagnostic::{Diagnostic, did_you_mean};
use serde::Deserialize;

/// Section `privacy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacySection {
    /// The fields that are kept as they are; every other is left out. Default: all that are
    /// not named under the other keys.
    pub allow: Option<Vec<String>>,
    /// Fields that are left out. Default: none.
    #[serde(default)]
    pub mask: Vec<String>,
    /// Fields of which the log keeps a pseudonym. Default: none.
    #[serde(default)]
    pub pseudonym: Vec<String>,
    /// Fields that the log keeps under a key of that person, with a pseudonym. Default: none.
    #[serde(default)]
    pub seal: Vec<String>,
}

impl PrivacySection {
    /// What becomes of each field.
    ///
    /// # Errors
    /// `PLS7560` for each name that is none, `PLS7561` for what cannot be done.
    pub fn rules(&self) -> Result<Rules, Vec<Diagnostic>> {
        let mut rules = BTreeMap::new();
        let mut found = Vec::new();
        for (key, fields, handling) in [
            ("mask", &self.mask, Handling::Masked),
            ("pseudonym", &self.pseudonym, Handling::Pseudonym),
            ("seal", &self.seal, Handling::Sealed),
        ] {
            for name in fields {
                let field = match name.parse::<Personal>() {
                    Ok(field) => field,
                    Err(_) => {
                        found.push(unknown(key, name));
                        continue;
                    }
                };
                if handling != Handling::Masked && !field.names_somebody() {
                    let told = format!("`{key}` cannot be done to `{name}`");
                    found.push(
                        Diagnostic::error(7561, told)
                            .cause("it names no person by itself, so that nobody could look for it")
                            .help(format!("write it under `mask`, or leave `{name}` out")),
                    );
                } else if rules.insert(field, handling).is_some() {
                    let told = format!("`{key}` names `{name}`, which is named before");
                    found.push(Diagnostic::error(7561, told).help(
                        "name each field once: under `allow`, `mask`, `pseudonym` or `seal`",
                    ));
                }
            }
        }
        let mut allowed = BTreeSet::new();
        for name in self.allow.iter().flatten() {
            match name.parse::<Personal>() {
                Err(_) => found.push(unknown("allow", name)),
                Ok(field) if rules.contains_key(&field) || allowed.contains(&field) => {
                    let told = format!("`allow` names `{name}`, which is named before");
                    found.push(Diagnostic::error(7561, told).help(
                        "name each field once: under `allow`, `mask`, `pseudonym` or `seal`",
                    ));
                }
                Ok(field) => drop(allowed.insert(field)),
            }
        }
        let rules = Rules::new(rules);
        match (found.is_empty(), &self.allow) {
            (false, _) => Err(found),
            (true, None) => Ok(rules),
            (true, Some(_)) => Ok(rules.allowing(allowed)),
        }
    }
}

fn unknown(key: &str, name: &str) -> Diagnostic {
    let told = format!("`{key}` names `{name}`, which is no field that can be personal");
    let near = did_you_mean(name, Personal::NAMES.iter().copied());
    Diagnostic::error(7560, told).help(match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("one of {}, or `header:NAME`", Personal::NAMES.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(mask: &[&str], pseudonym: &[&str], seal: &[&str]) -> PrivacySection {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        PrivacySection {
            allow: None,
            mask: owned(mask),
            pseudonym: owned(pseudonym),
            seal: owned(seal),
        }
    }

    #[test]
    fn each_field_is_named_once_and_by_its_name() {
        let check = |section: PrivacySection, codes: &[u16]| {
            let found = section.rules().err().unwrap_or_default();
            let found: Vec<u16> = found.iter().map(|d| d.code.0).collect();
            assert_eq!(found, codes, "{section:?}");
        };
        check(section(&[], &[], &[]), &[]);
        check(
            section(
                &["query", "path"],
                &["source_ip"],
                &["header:X-User", "user"],
            ),
            &[],
        );
        check(
            section(&["qeury"], &["name"], &["header:"]),
            &[7560, 7560, 7560],
        );
        check(section(&["user"], &["user"], &[]), &[7561]);
        let allowing = |fields: &[&str]| PrivacySection {
            allow: Some(fields.iter().map(ToString::to_string).collect()),
            ..section(&["query"], &[], &[])
        };
        check(allowing(&[]), &[]);
        check(allowing(&["path", "header:X-Tenant"]), &[]);
        check(allowing(&["pth"]), &[7560]);
        check(allowing(&["query"]), &[7561]);
        check(allowing(&["header:a", "header:A"]), &[7561]);
        check(section(&["header:a"], &[], &["header:A"]), &[7561]);
        check(section(&[], &["query"], &["path"]), &[7561, 7561]);
    }
}
