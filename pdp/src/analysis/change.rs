//! Which policies mean something else in one revision than in the other.

use std::{cmp::Ordering, collections::BTreeSet};

use cedar_policy::PolicyId;
use palisade_mesh::catalogue::HeaderShape;
use serde_json::Value;
use smol_str::SmolStr;

use crate::decide::{
    Snapshot,
    core::{Body, uses, with_stack},
    field::{Field, Layout},
    rule::Rule,
};

/// A policy that is in one revision only, or means something else in the other.
#[derive(Debug, Clone)]
pub(crate) struct Changed<'s> {
    pub(crate) id: SmolStr,
    pub(crate) old: Option<&'s Rule>,
    pub(crate) new: Option<&'s Rule>,
}

/// The changed policies, by id. What only looks different, or has another owner or
/// message, is not among them; a forbid that now finds an entity which was missing is, and
/// so is what reads a header that one of the revisions does not declare.
pub(crate) fn changed<'s>(base: &'s Snapshot, head: &'s Snapshot) -> Vec<Changed<'s>> {
    let mut found = Vec::new();
    for (old, new) in joined(base.rules(), head.rules(), |r| r.id.as_str()) {
        if let (Some(old), Some(new)) = (old, new)
            && old.missing == new.missing
            && same(base, head, old, new)
        {
            continue;
        }
        let Some(any) = old.or(new) else { continue };
        found.push(Changed {
            id: any.id.clone(),
            old,
            new,
        });
    }
    found
}

/// Pairs two sorted lists by key.
pub(crate) fn joined<'a, T>(
    old: &'a [T],
    new: &'a [T],
    key: impl Fn(&'a T) -> &'a str,
) -> Vec<(Option<&'a T>, Option<&'a T>)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut pairs = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return pairs,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => key(a).cmp(key(b)),
        };
        pairs.push(match order {
            Ordering::Less => (old.next(), None),
            Ordering::Equal => (old.next(), new.next()),
            Ordering::Greater => (None, new.next()),
        });
    }
}

/// Old policies that read a header which the revisions do not declare alike: what is not
/// declared is never there, so the newer revision's schema does not say what they meant.
pub(crate) fn respelled(base: &Snapshot, head: &Snapshot) -> Vec<SmolStr> {
    if base.catalogue().headers() == head.catalogue().headers() {
        return Vec::new();
    }
    let policies = &base.compiled().policies;
    let reads_other = |rule: &&Rule| {
        let policy = policies.policy(&PolicyId::new(rule.id.as_str()));
        let body = policy.and_then(Body::of);
        let reads = body.map(|body| uses(&body, head.layout()).fields);
        let now = headers(reads.into_iter().flatten(), head.layout());
        headers(rule.reads.iter().copied(), base.layout()) != now
    };
    let rules = base.rules().iter().filter(reads_other);
    rules.map(|rule| rule.id.clone()).collect()
}

/// The declared headers among `fields`, and whether each is a list.
fn headers(fields: impl Iterator<Item = Field>, layout: &Layout) -> BTreeSet<(SmolStr, bool)> {
    let headers = fields.filter_map(|field| match field {
        Field::Header(i) => layout.header(i),
        _ => None,
    });
    headers
        .map(|h| (h.text.clone(), h.shape == HeaderShape::List))
        .collect()
}

fn same(base: &Snapshot, head: &Snapshot, old: &Rule, new: &Rule) -> bool {
    let read =
        |snapshot: &Snapshot, rule: &Rule| headers(rule.reads.iter().copied(), snapshot.layout());
    if read(base, old) != read(head, new) {
        return false;
    }
    let text = |snapshot: &Snapshot| snapshot.info(&old.id).map(|i| i.text.clone());
    if text(base) == text(head) {
        return true;
    }
    let enforced = |rule: &Rule| (rule.permit, rule.shadow, rule.expires_us);
    let depth = |rule: &Rule| rule.body.as_ref().map_or(0, Body::depth);
    let deepest = depth(old).max(depth(new));
    enforced(old) == enforced(new)
        && with_stack(deepest, || meaning(base, old) == meaning(head, new))
}

/// Scope, effect and conditions, without annotations and layout.
fn meaning(snapshot: &Snapshot, rule: &Rule) -> Option<Value> {
    let policies = &snapshot.compiled().policies;
    let policy = policies.policy(&PolicyId::new(rule.id.as_str()))?;
    let mut json = policy.to_json().ok()?;
    json.as_object_mut()?.remove("annotations");
    Some(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::testing::snapshot;

    fn check(old: &str, new: &str, expected: &[&str]) {
        let (base, head) = (snapshot(old), snapshot(new));
        let found = changed(&base, &head);
        let ids: Vec<&str> = found.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, expected, "{old} → {new}");
    }

    #[test]
    fn only_what_means_something_else_is_changed() {
        let permit = "@id(\"p\") permit (principal, action, resource);";
        check(permit, permit, &[]);
        check(permit, "", &["p"]);
        check("", permit, &["p"]);
        check(
            permit,
            "@id(\"p\")\n@owner(\"me\")\npermit (principal,\n action, resource );",
            &[],
        );
        check(
            permit,
            "@id(\"p\") forbid (principal, action, resource);",
            &["p"],
        );
        check(
            permit,
            "@id(\"p\") @mode(\"shadow\") permit (principal, action, resource);",
            &["p"],
        );
        check(
            permit,
            "@id(\"p\") permit (principal, action, resource) when { context.tls.mtls };",
            &["p"],
        );
    }
}
