//! Ends grants: a patch to the policies, and the proof of what it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use palisade_pdp::{
    author::narrow::{self, Cut},
    decide::Snapshot,
};

use super::{Edge, Grants};
use crate::run::policy;

/// How often what is still granted, by a permit that another one stood before, is cut.
const ROUNDS_MAX: usize = 16;

/// A change of the policies that ends grants.
pub(crate) struct Proposal {
    /// The grants that end.
    pub(crate) ended: BTreeSet<Edge>,
    /// What becomes of which permit.
    pub(crate) cuts: BTreeMap<String, Cut>,
    /// The change, for `git apply` in the repository's folder.
    pub(crate) patch: String,
    /// The revision as it would be.
    pub(crate) candidate: Arc<Snapshot>,
}

impl Proposal {
    /// What ends `ended` and nothing else: afterwards every other grant is asked for again
    /// and has to be as it was. `prefix` is what paths in the patch begin with.
    ///
    /// # Errors
    /// `PLS7807` when no policy can name who is to lose a grant, `PLS7808` when another
    /// grant would change, and whatever is wrong with the repository that would be.
    pub(crate) fn to_end(
        grants: &Grants,
        ended: BTreeSet<Edge>,
        prefix: &str,
        clock: &Clock,
    ) -> Result<Self, Vec<Diagnostic>> {
        let one = |d: Diagnostic| vec![d];
        let present = grants.snapshot();
        let mut cuts = grants.cuts(&ended).map_err(one)?;
        for _ in 0..ROUNDS_MAX {
            let narrower = narrow::narrower(present.compiled(), &cuts, prefix)?;
            let compiled = narrower.loaded.compiled;
            let compiled = compiled.ok_or(narrower.loaded.diagnostics)?;
            let candidate = policy::snapshot(compiled, 0).map_err(one)?;
            let after = Grants::of(Arc::clone(&candidate), clock).map_err(one)?;
            let still: BTreeSet<&Edge> = ended
                .iter()
                .filter(|edge| after.all.contains_key(*edge))
                .collect();
            if still.is_empty() {
                others_stay(grants, &after, &ended).map_err(one)?;
                return Ok(Self {
                    ended,
                    cuts,
                    patch: narrower.patch,
                    candidate,
                });
            }
            // Another permit gives it, too, and is seen only now.
            for (permit, cut) in after.cuts(still).map_err(one)? {
                join(&mut cuts, permit, cut);
            }
        }
        Err(vec![
            Diagnostic::error(
                7808,
                "what is to end is still granted after every change that was tried",
            )
            .help("change the permits by hand: palisade what-can CALLER --policies DIR"),
        ])
    }

    /// The same, with `prefix` before the paths in its patch.
    ///
    /// # Errors
    /// When the repository's bundle cannot be read, or a permit not be laid out.
    pub(crate) fn under(self, grants: &Grants, prefix: &str) -> Result<Self, Vec<Diagnostic>> {
        let narrower = narrow::narrower(grants.snapshot().compiled(), &self.cuts, prefix)?;
        Ok(Self {
            patch: narrower.patch,
            ..self
        })
    }
}

/// A permit that was narrowed already goes on being narrowed: what it grants to others was
/// not seen as long as another permit stood before it.
fn join(cuts: &mut BTreeMap<String, Cut>, permit: String, cut: Cut) {
    match (cuts.get_mut(&permit), cut) {
        (Some(Cut::Narrowed(known)), Cut::Narrowed(more)) => known.extend(more),
        (_, cut) => drop(cuts.insert(permit, cut)),
    }
}

fn others_stay(before: &Grants, after: &Grants, ended: &BTreeSet<Edge>) -> Result<(), Diagnostic> {
    let kept = before.all.iter().filter(|(edge, _)| !ended.contains(*edge));
    for (edge, grant) in kept {
        if after.all.get(edge).is_none_or(|left| left.may != grant.may) {
            return Err(changed(edge));
        }
    }
    match after
        .all
        .keys()
        .find(|edge| !before.all.contains_key(*edge))
    {
        Some(edge) => Err(changed(edge)),
        None => Ok(()),
    }
}

fn changed(edge: &Edge) -> Diagnostic {
    let Edge {
        caller,
        action,
        resource,
        ..
    } = edge;
    Diagnostic::error(
        7808,
        format!("the change would also alter {action} on {resource} for {caller}"),
    )
    .cause("the permits cannot be cut so that only what is to end ends")
    .help("change them by hand, and keep these grants in the review")
}
