//! `invariants/**/*.cedar`: what must never become possible.
//!
//! An invariant has the form of a `forbid`: no request that it matches may ever be allowed.
//! It forbids nothing, though. It is type-checked with all others and is part of the
//! revision, but no engine enforces it: whoever builds the revision proves that it holds.

use std::collections::BTreeMap;

use palisade_mesh::{diagnostic::Diagnostic, yaml::Source};
use smol_str::SmolStr;

use super::{
    codes,
    policies::{Parsed, Policies},
};
use crate::compiled::PolicyInfo;

/// Puts the invariants of files together; an id is theirs alone, also among `policies`.
pub(crate) fn read<'a>(
    files: impl IntoIterator<Item = (&'a Source, Parsed)>,
    policies: &Policies,
    found: &mut Vec<Diagnostic>,
) -> Policies {
    let invariants = Policies::of(files, policies.turn, found);
    for (id, read) in &invariants.read {
        if read.info.permit {
            found.push(
                Diagnostic::error(
                    codes::INVARIANT_PERMIT,
                    format!("invariant `{id}` is a `permit`"),
                )
                .cause("an invariant says what must never be allowed")
                .help("write a `forbid`: no request that it matches may ever be allowed")
                .at(read.find("permit")),
            );
        }
        if let Some(other) = policies.read.get(id) {
            found.push(
                Diagnostic::error(
                    codes::ID_TWICE,
                    format!("an invariant and a policy have the id `{id}`"),
                )
                .cause(format!(
                    "`{}:{}` has it too",
                    other.info.file, other.info.first_line
                ))
                .help("give each its own `@id`")
                .at(read.find("@id")),
            );
        }
    }
    invariants
}

/// What is kept of them.
pub(crate) fn infos(invariants: Policies) -> BTreeMap<SmolStr, PolicyInfo> {
    let read = invariants.read.into_iter();
    read.map(|(id, read)| (id, read.info)).collect()
}
