//! What differs between two revisions, as records tell it.

use std::collections::BTreeMap;

use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Versions,
    wire::record::{PolicyChange, record::Body},
};

use smol_str::SmolStr;

use super::source::Published;
use crate::compiled::PolicyInfo;

/// Most ids listed in one record, for each of added, removed and changed.
const IDS_MAX: usize = 500;
/// Most diagnostics quoted in one record.
const DIAGNOSTICS_MAX: usize = 5;

type Policies = BTreeMap<SmolStr, PolicyInfo>;

/// Ids of the policies that were added, removed and changed, at most [`IDS_MAX`] of each.
pub(crate) fn of(old: &Policies, new: &Policies) -> [Vec<String>; 3] {
    let ids = |ids: &mut dyn Iterator<Item = &SmolStr>| -> Vec<String> {
        ids.take(IDS_MAX).map(ToString::to_string).collect()
    };
    let differs = |id: &&SmolStr| match (old.get(*id), new.get(*id)) {
        (Some(was), Some(is)) => was.text != is.text,
        _ => false,
    };
    [
        ids(&mut new.keys().filter(|id| !old.contains_key(*id))),
        ids(&mut old.keys().filter(|id| !new.contains_key(*id))),
        ids(&mut new.keys().filter(differs)),
    ]
}

/// The record of a revision that was put in force.
pub(crate) fn activated(before: Option<&Published>, after: &Published) -> Body {
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
    Body::PolicyChange(change)
}

/// The record of a revision that was refused.
pub(crate) fn rejected(current: Option<&Published>, diagnostics: &[Diagnostic]) -> Body {
    let first: Vec<_> = diagnostics
        .iter()
        .filter(|d| d.is_error())
        .take(DIAGNOSTICS_MAX)
        .map(ToString::to_string)
        .collect();
    Body::PolicyChange(PolicyChange {
        verb: "rejected".to_owned(),
        before: current.map(|c| versions(c).into()),
        after: current.map(|c| versions(c).into()),
        detail: first.join("\n"),
        ..PolicyChange::default()
    })
}

fn versions(published: &Published) -> Versions {
    Versions {
        policy: published.compiled.digest,
        sequence: published.revision.sequence,
        ..Versions::default()
    }
}
