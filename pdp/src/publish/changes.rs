//! What differs between two revisions, as records tell it.

use std::collections::{BTreeMap, BTreeSet};

use palisade_mesh::{diagnostic::Diagnostic, snapshot::Versions, wire::record::PolicyChange};

use smol_str::SmolStr;

use super::source::Published;
use crate::compiled::PolicyInfo;

/// Most ids listed in one record, for each of added, removed and changed.
const IDS_MAX: usize = 500;
/// Most authors named in one record; with more, [`OTHERS`] is the last.
const AUTHORS_MAX: usize = 50;
/// Stands for all authors that are not named.
const OTHERS: &str = "…";
/// Most diagnostics quoted in one record.
const DIAGNOSTICS_MAX: usize = 5;

type Policies = BTreeMap<SmolStr, PolicyInfo>;

/// Ids of the policies that were added, removed and changed, at most [`IDS_MAX`] of each.
pub(crate) fn of(old: &Policies, new: &Policies) -> [Vec<String>; 3] {
    let ids = |ids: &mut dyn Iterator<Item = &SmolStr>| -> Vec<String> {
        ids.take(IDS_MAX).map(ToString::to_string).collect()
    };
    let changed = new
        .iter()
        .filter(|(id, is)| old.get(*id).is_some_and(|was| was.text != is.text));
    [
        ids(&mut new.keys().filter(|id| !old.contains_key(*id))),
        ids(&mut old.keys().filter(|id| !new.contains_key(*id))),
        ids(&mut changed.map(|(id, _)| id)),
    ]
}

/// Who wrote what stands in the policies that were added or changed, as far as that is known; at
/// most [`AUTHORS_MAX`], in the order of their names.
fn authors(old: &Policies, new: &Policies) -> Vec<String> {
    let touched = new
        .iter()
        .filter(|(id, is)| old.get(*id).is_none_or(|was| was.text != is.text));
    let known: BTreeSet<_> = touched.filter_map(|(_, is)| is.author.as_ref()).collect();
    let named = known.into_iter().filter(|author| !author.is_empty());
    let mut named: Vec<_> = named.map(ToString::to_string).collect();
    if named.len() > AUTHORS_MAX {
        named.truncate(AUTHORS_MAX - 1);
        named.push(OTHERS.to_owned());
    }
    named
}

/// The record of a revision that was put in force.
pub(crate) fn activated(before: Option<&Published>, after: &Published) -> PolicyChange {
    let mut change = PolicyChange {
        verb: "activated".to_owned(),
        before: before.map(|b| versions(b).into()),
        after: Some(versions(after).into()),
        git_revision: after.git_revision.clone(),
        ..PolicyChange::default()
    };
    let empty = Policies::new();
    let old = before.map_or(&empty, |b| &b.compiled.info);
    [change.added, change.removed, change.changed] = of(old, &after.compiled.info);
    change.authors = authors(old, &after.compiled.info);
    change
}

/// The record of a revision that was refused.
pub(crate) fn rejected(current: Option<&Published>, diagnostics: &[Diagnostic]) -> PolicyChange {
    let first: Vec<_> = diagnostics
        .iter()
        .filter(|d| d.is_error())
        .take(DIAGNOSTICS_MAX)
        .map(ToString::to_string)
        .collect();
    PolicyChange {
        verb: "rejected".to_owned(),
        before: current.map(|c| versions(c).into()),
        after: current.map(|c| versions(c).into()),
        detail: first.join("\n"),
        ..PolicyChange::default()
    }
}

fn versions(published: &Published) -> Versions {
    Versions {
        policy: published.compiled.digest,
        sequence: published.revision.sequence,
        ..Versions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::{self, sample};

    /// Policies, each with an author of its own.
    fn written_by(authors: std::ops::Range<usize>) -> Policies {
        let dir = sample::copy();
        let compiled = author::load(dir.path()).compiled.unwrap();
        let info = compiled.info.values().next().unwrap();
        let written = |n: usize| PolicyInfo {
            author: Some(format!("{n:03} <{n}@acme.test>").into()),
            ..info.clone()
        };
        authors
            .map(|n| (format!("p{n}").into(), written(n)))
            .collect()
    }

    /// Those of what was added or changed, each once; on both sides of the limit.
    #[test]
    fn authors_are_those_of_what_a_revision_brings() {
        let none = Policies::new();
        assert_eq!(
            authors(&none, &written_by(0..AUTHORS_MAX)).len(),
            AUTHORS_MAX
        );
        let more = authors(&none, &written_by(0..AUTHORS_MAX + 1));
        assert_eq!(more.len(), AUTHORS_MAX);
        assert_eq!(more.last().map(String::as_str), Some(OTHERS));

        let old = written_by(0..3);
        let mut new = written_by(1..5);
        for id in ["p1", "p3"] {
            new.get_mut(id).unwrap().author = Some("Ana <ana@acme.test>".into());
        }
        new.get_mut("p2").unwrap().text = "permit (principal, action, resource);".into();
        new.get_mut("p4").unwrap().author = None;
        // p1 says what it said, whoever wrote that line last, and p0 is gone.
        let expected = ["002 <2@acme.test>", "Ana <ana@acme.test>"];
        assert_eq!(authors(&old, &new), expected);
        assert_eq!(authors(&new, &new), Vec::<String>::new());
    }
}
