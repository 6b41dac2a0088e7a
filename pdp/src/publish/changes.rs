//! What differs between two revisions, as records tell it.

use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Versions,
    wire::record::{PolicyChange, record::Body},
};

use super::source::Published;

/// Most ids listed in one record, for each of added, removed and changed.
const IDS_MAX: usize = 500;
/// Most diagnostics quoted in one record.
const DIAGNOSTICS_MAX: usize = 5;

/// The record of a revision that was put in force.
pub(crate) fn activated(before: Option<&Published>, after: &Published) -> Body {
    let mut change = PolicyChange {
        verb: "activated".to_owned(),
        before: before.map(|b| versions(b).into()),
        after: Some(versions(after).into()),
        git_revision: after.git_revision.clone(),
        ..PolicyChange::default()
    };
    let empty = std::collections::BTreeMap::new();
    let old = before.map_or(&empty, |b| &b.compiled.info);
    let new = &after.compiled.info;
    for (id, info) in new {
        match old.get(id) {
            None => change.added.push(id.to_string()),
            Some(was) if was.text != info.text => change.changed.push(id.to_string()),
            Some(_) => {}
        }
    }
    change.removed = old
        .keys()
        .filter(|id| !new.contains_key(*id))
        .map(ToString::to_string)
        .collect();
    for list in [&mut change.added, &mut change.changed, &mut change.removed] {
        list.truncate(IDS_MAX);
    }
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
