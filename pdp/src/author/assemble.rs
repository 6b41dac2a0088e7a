//! From policies in files to groups of a bundle, and whether the two agree.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use palisade_mesh::wire::policy::{Bundle, File, PolicyGroup, PolicyText};
use smol_str::SmolStr;

use super::{Draft, policies::Read};
use crate::bundle::manifest;

/// Every policy with the text that stands before it in its file, by scope.
pub(super) fn groups(read: &BTreeMap<SmolStr, Read>) -> Vec<PolicyGroup> {
    let mut in_order: Vec<&Read> = read.values().collect();
    let place = |read: &Read| (read.info.file.clone(), read.span.start);
    in_order.sort_by_cached_key(|read| place(read));
    let mut groups: BTreeMap<String, Vec<PolicyText>> = BTreeMap::new();
    for of_file in in_order.chunk_by(|a, b| a.info.file == b.info.file) {
        let (mut offset, mut line) = (0, 1);
        for (i, policy) in of_file.iter().enumerate() {
            let whole = &policy.source.text;
            // The last one takes what follows it, so that nothing of the file is lost.
            let end = match i + 1 == of_file.len() {
                true => whole.len(),
                false => policy.span.start + policy.span.len,
            };
            let text = whole.get(offset..end).unwrap_or_default();
            let next_line = line + text.matches('\n').count();
            groups
                .entry(policy.scope.clone())
                .or_default()
                .push(PolicyText {
                    policy_id: policy.info.id.to_string(),
                    file: policy.info.file.to_string(),
                    offset: small(offset),
                    line: small(line),
                    text: text.to_owned(),
                    commit: of(&policy.info.commit),
                    author: of(&policy.info.author),
                });
            (offset, line) = (end, next_line);
        }
    }
    let groups = groups.into_iter();
    groups
        .map(|(s, policies)| manifest::group(s, policies))
        .collect()
}

/// The files that hold no policy.
pub(super) fn without_policies(files: Vec<File>, read: &BTreeMap<SmolStr, Read>) -> Vec<File> {
    let with: BTreeSet<&str> = read.values().map(|read| &*read.info.file).collect();
    let mut files = files;
    files.retain(|file| !with.contains(file.path.as_str()));
    files
}

/// Takes over what only the bundle knows of its policies.
///
/// # Errors
/// When it names other policies, scopes or another trust domain than its texts do.
pub(super) fn fit(bundle: &Bundle, draft: &mut Draft) -> Result<(), String> {
    if draft.trust_domain.as_str() != bundle.trust_domain {
        return Err(format!(
            "it is labelled `{}`, its settings say `{}`",
            bundle.trust_domain, draft.trust_domain
        ));
    }
    let old = bundle.old_proofs.iter().map(|p| p.invariant.as_str());
    if !old.clone().is_sorted_by(|a, b| a < b) {
        return Err("its proofs are not in order".to_owned());
    }
    let mut old = old;
    if let Some(id) = old.find(|id| !draft.invariants.contains_key(*id)) {
        return Err(format!(
            "it attests `{id}`, which is none of its invariants"
        ));
    }
    let mut named: HashMap<&str, (&str, &PolicyText)> = HashMap::new();
    for group in &bundle.groups {
        let of_group = group.policies.iter();
        named.extend(of_group.map(|p| (p.policy_id.as_str(), (group.scope.as_str(), p))));
    }
    for (id, read) in &mut draft.parts.read {
        let Some((scope, policy)) = named.remove(id.as_str()) else {
            return Err(format!("its manifest lacks the policy `{id}`"));
        };
        if scope != read.scope || policy.file != *read.info.file {
            return Err(format!(
                "its manifest has `{id}` as a policy of `{}` about `{scope}`",
                policy.file
            ));
        }
        read.info.commit = not_empty(&policy.commit);
        read.info.author = not_empty(&policy.author);
    }
    match named.keys().min() {
        Some(id) => Err(format!(
            "its manifest names a policy `{id}` that is not there"
        )),
        None => Ok(()),
    }
}

fn of(text: &Option<SmolStr>) -> String {
    text.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn not_empty(text: &str) -> Option<SmolStr> {
    (!text.is_empty()).then(|| text.into())
}

/// Files have at most a MiB.
fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
