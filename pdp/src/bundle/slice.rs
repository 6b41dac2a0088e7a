//! The part of a bundle that one proxy needs.
//!
//! Settings, schema, catalogue and entities are in it whole: the outbound side and the
//! engine need those of others. What is left out are policies that cannot concern
//! requests for the proxy's own service; their groups stay, with scope and root, so
//! that the digest is that of the whole and an omission shows.

use bytes::Bytes;
use palisade_mesh::{
    diagnostic::Diagnostic,
    spiffe_id::SpiffeId,
    wire::policy::{Bundle, PolicyGroup},
};
use prost::Message;

use super::{codes, scope::Concern};
use crate::compiled::Compiled;

/// What the proxy with this identity is sent of a revision: `whole` is its bundle.
pub fn of(compiled: &Compiled, whole: &Bundle, identity: &SpiffeId) -> Bytes {
    let service = compiled.catalogue.by_identity(identity);
    let mut concern = Concern::new(&compiled.entities, service.map(|s| &**s));
    cut(whole, &mut concern).encode_to_vec().into()
}

/// Leaves out what is not of `concern`.
fn cut(whole: &Bundle, concern: &mut Concern<'_>) -> Bundle {
    let groups = whole.groups.iter().map(|group| PolicyGroup {
        scope: group.scope.clone(),
        count: group.count,
        root: group.root.clone(),
        policies: match concern.is_of(&group.scope) {
            true => group.policies.clone(),
            false => Vec::new(),
        },
    });
    Bundle {
        trust_domain: whole.trust_domain.clone(),
        files: whole.files.clone(),
        git_revision: whole.git_revision.clone(),
        features: whole.features.clone(),
        groups: groups.collect(),
        contributions: whole.contributions.clone(),
        old_proofs: whole.old_proofs.clone(),
    }
}

/// Whether any policy is left out.
pub(crate) fn is_slice(bundle: &Bundle) -> bool {
    bundle.groups.iter().any(|g| g.policies.is_empty())
}

/// Refuses a slice that leaves out what is of `concern`, perhaps a guard rail.
///
/// # Errors
/// The first group that must not be missing.
pub(crate) fn check(slice: &Bundle, concern: &mut Concern<'_>) -> Result<(), Diagnostic> {
    let left_out = slice.groups.iter().filter(|g| g.policies.is_empty());
    let Some(group) = left_out.into_iter().find(|g| concern.is_of(&g.scope)) else {
        return Ok(());
    };
    Err(Diagnostic::error(
        codes::OMITTED,
        "policies that concern this proxy are left out",
    )
    .cause(format!(
        "{} with the scope `{}`; one could be a `forbid`",
        match group.count {
            1 => "one policy".to_owned(),
            n => format!("{n} policies"),
        },
        group.scope
    ))
    .help("find out why the PDP withholds them; the revision in force stays"))
}

/// Refuses a slice where the whole is needed.
pub(crate) fn not_whole() -> Diagnostic {
    Diagnostic::error(codes::NOT_WHOLE, "this is a part of a bundle")
        .cause("policies are left out; only the proxy it was made for can use it")
        .help("take the whole bundle, from the repository or from the PDP's state folder")
}
