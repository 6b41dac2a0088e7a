//! What was proved of a bundle when it was built, as part of what is signed.

use palisade_mesh::{
    diagnostic::Diagnostic,
    wire::policy::{Bundle, Proof},
};

use super::{PROOFS, codes, file::BundleFile};

impl BundleFile {
    /// The same bundle, with the word that these invariants were proved of it by `solver`.
    /// It has another digest, and is signed by nobody yet.
    ///
    /// # Errors
    /// When it is not a whole bundle any more; that is a bug.
    pub fn attesting<'i>(
        self,
        proved: impl IntoIterator<Item = &'i str>,
        solver: &str,
    ) -> Result<Self, Diagnostic> {
        let mut bundle = self.bundle;
        let proof = |invariant: &str| Proof {
            invariant: invariant.to_owned(),
            solver: solver.to_owned(),
        };
        bundle.proofs = proved.into_iter().map(proof).collect();
        bundle.proofs.sort_by(|a, b| a.invariant.cmp(&b.invariant));
        bundle.features.retain(|f| f != PROOFS);
        if !bundle.proofs.is_empty() {
            bundle.features.push(PROOFS.to_owned());
        }
        Self::new(prost::Message::encode_to_vec(&bundle).into())
    }
}

/// Whether all of `demanded` are attested in `bundle`, which diagnostics call `what`.
///
/// # Errors
/// The first invariant that is not.
pub(super) fn check(bundle: &Bundle, demanded: &[String], what: &str) -> Result<(), Diagnostic> {
    let is_attested = |id: &&String| bundle.proofs.iter().any(|p| p.invariant == **id);
    let Some(missing) = demanded.iter().find(|id| !is_attested(id)) else {
        return Ok(());
    };
    let attested: Vec<_> = bundle
        .proofs
        .iter()
        .map(|p| format!("`{}`", p.invariant))
        .collect();
    Err(Diagnostic::error(
        codes::NOT_PROVED,
        format!("{what} is not proved to keep the invariant `{missing}`"),
    )
    .cause(match attested.is_empty() {
        true => "it attests no proof; who builds it makes one, with a solver beside it".to_owned(),
        false => format!("what it attests is {}", attested.join(", ")),
    })
    .help("see that `invariants/` has it, and build the bundle where cvc5 is installed: palisade bundle build DIR -f FILE --proved"))
}
