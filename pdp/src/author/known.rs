//! What validation cannot see and every compiler must tell: entities that do not exist,
//! permits that permit everything.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{
    ActionConstraint, Entities, EntityUid, PrincipalConstraint, ResourceConstraint,
};
use palisade_mesh::{
    diagnostic::{Diagnostic, did_you_mean},
    spiffe_id::TrustDomain,
};
use smol_str::SmolStr;

use super::{
    SUGGESTIONS_MAX, codes,
    policies::{Policies, Read},
};

/// Types whose entities are all known from the repository.
const COMPLETE: &[&str] = &["Group", "Namespace", "Operation", "Service", "Workload"];

/// Looks for entities that do not exist and permits that permit everything. Where
/// `groups_missing`, groups are not all there, and none is told to be missing.
pub(crate) fn check(
    policies: &Policies,
    entities: &Entities,
    domain: &TrustDomain,
    groups_missing: bool,
    found: &mut Vec<Diagnostic>,
) {
    let known = Known::new(entities);
    for policy in policies.set.policies() {
        let Some(read) = policies.read.get::<str>(policy.id().as_ref()) else {
            continue;
        };
        if read.info.permit
            && !policy.has_non_scope_constraint()
            && policy.principal_constraint() == PrincipalConstraint::Any
            && policy.action_constraint() == ActionConstraint::Any
            && policy.resource_constraint() == ResourceConstraint::Any
        {
            found.push(
                Diagnostic::warning(
                    codes::PERMIT_ALL,
                    format!("permit `{}` permits everything to everyone", read.info.id),
                )
                .cause("its scope is open and it has no condition")
                .help("name who may do what, for example `principal in Service::\"…\"`")
                .at(read.find("permit")),
            );
        }
        let literals: BTreeSet<EntityUid> = policy.entity_literals().into_iter().collect();
        let is_sure = |uid: &EntityUid| !groups_missing || uid.type_name().to_string() != "Group";
        for uid in literals.into_iter().filter(is_sure) {
            let suggest = found.len() < SUGGESTIONS_MAX;
            if let Some(diagnostic) = known.unknown(&uid, read, domain, suggest) {
                found.push(diagnostic);
            }
        }
    }
}

/// The ids of the store, by type.
struct Known(BTreeMap<String, BTreeSet<SmolStr>>);

impl Known {
    fn new(entities: &Entities) -> Self {
        let mut known: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for entity in entities.iter() {
            let uid = entity.uid();
            let id = SmolStr::new(uid.id().unescaped());
            known
                .entry(uid.type_name().to_string())
                .or_default()
                .insert(id);
        }
        Self(known)
    }

    fn unknown(
        &self,
        uid: &EntityUid,
        read: &Read,
        domain: &TrustDomain,
        suggest: bool,
    ) -> Option<Diagnostic> {
        let kind = uid.type_name().to_string();
        let id = uid.id().unescaped();
        let empty = BTreeSet::new();
        let ids = self.0.get(&kind).unwrap_or(&empty);
        if !COMPLETE.contains(&kind.as_str()) || ids.contains(id) {
            return None;
        }
        let message = format!("{} `{id}` does not exist", kind.to_lowercase());
        let policy = &read.info.id;
        let (mut diagnostic, consequence) = if read.info.permit {
            (
                Diagnostic::warning(codes::UNKNOWN_ENTITY, message),
                format!("permit `{policy}` permits nothing through it"),
            )
        } else {
            (
                Diagnostic::error(codes::UNKNOWN_ENTITY, message),
                format!("forbid `{policy}` would silently forbid nothing through it"),
            )
        };
        let near = suggest.then(|| near(id, ids, domain)).flatten();
        let lacks_domain = near.is_some_and(|n| n.len() > id.len() && n.ends_with(id));
        diagnostic = diagnostic.cause(if lacks_domain {
            format!("ids carry the trust domain `{domain}`; {consequence}")
        } else {
            consequence
        });
        if let Some(near) = near {
            diagnostic = diagnostic.label(format!("did you mean `{kind}::\"{near}\"`?"));
        }
        let place = match kind.as_str() {
            "Group" => "entities/",
            _ => "services/",
        };
        Some(
            diagnostic
                .help(format!("correct the id, or declare it in {place}"))
                .at(read.find(&uid.to_string())),
        )
    }
}

/// The id that was meant: the same in this trust domain, or one typed nearly so.
fn near<'k>(id: &str, ids: &'k BTreeSet<SmolStr>, domain: &TrustDomain) -> Option<&'k str> {
    let spelled = [
        format!("{domain}/{id}"),
        format!("spiffe://{domain}/{id}"),
        format!("spiffe://{id}"),
        id.to_owned(),
    ];
    spelled
        .iter()
        .find_map(|s| ids.get(s.as_str()).map(SmolStr::as_str))
        .or_else(|| {
            spelled
                .iter()
                .find_map(|s| did_you_mean(s, ids.iter().map(SmolStr::as_str)))
        })
}
