//! What was proved of a bundle when it was built.
//!
//! It depends on who builds: without a solver nothing is proved, and the same texts must
//! be the same bundle all the same. So it stands beside the bundle, and is signed as a statement of
//! its own, about the bundle's digest. Whoever could make up one could sign as many keys as are
//! trusted; and one about another bundle is about another digest.

use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Digest,
    wire::policy::{Attestation, Bundle, Proof},
};

use prost::Message as _;

use super::{codes, statement::Says};
use crate::{author::codes::BUNDLE_BROKEN, compiled::Compiled};

/// What is said of these proofs.
///
/// # Errors
/// What is not in order: there is one spelling of each list.
pub(crate) fn says(attestation: &Attestation) -> Result<Says, String> {
    let proofs = &attestation.proofs;
    if proofs.is_empty() {
        return Err("it attests nothing".to_owned());
    }
    if !proofs.is_sorted_by(|a, b| a.invariant < b.invariant) {
        return Err("its proofs are not in order".to_owned());
    }
    let is_word = |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    let mut lines = String::new();
    for Proof { invariant, solver } in proofs {
        if !is_word(invariant) || !is_word(solver) {
            return Err("a proof in it has no name, or one that is no word".to_owned());
        }
        lines.push_str(&format!("{invariant} {solver}\n"));
    }
    Ok(Says::Proved {
        proofs: Digest::of(lines.as_bytes()),
    })
}

/// The word that these invariants were proved by `solver`, signed by nobody yet; `None` where
/// none was.
pub fn attestation<'i>(
    proved: impl IntoIterator<Item = &'i str>,
    solver: &str,
) -> Option<Attestation> {
    let proof = |invariant: &str| Proof {
        invariant: invariant.to_owned(),
        solver: solver.to_owned(),
    };
    let mut proofs: Vec<Proof> = proved.into_iter().map(proof).collect();
    proofs.sort_by(|a, b| a.invariant.cmp(&b.invariant));
    (!proofs.is_empty()).then_some(Attestation {
        proofs,
        signatures: Vec::new(),
    })
}

/// Whether what is attested about `compiled` are invariants that it has: the word about
/// something that nobody can look up is none, and a demand for it would be met by nothing.
///
/// # Errors
/// The first that is none of them.
pub fn fit(attestation: Option<&Attestation>, compiled: &Compiled) -> Result<(), Diagnostic> {
    let proofs = attestation.map_or(&[][..], |a| &a.proofs);
    let is_one = |proof: &&Proof| compiled.invariants.contains_key(proof.invariant.as_str());
    match proofs.iter().find(|proof| !is_one(proof)) {
        None => Ok(()),
        Some(proof) => Err(Diagnostic::error(
            BUNDLE_BROKEN,
            format!(
                "it attests `{}`, which is none of its invariants",
                proof.invariant
            ),
        )
        .cause("what was proved of a bundle stands beside it, and this was not")
        .help("build it again: palisade bundle build DIR -f FILE")),
    }
}

/// What was proved of an encoded bundle of the format before, which had that in its content:
/// whoever signed the content has signed it. Nothing where it cannot be read.
pub(super) fn within(bundle: &[u8]) -> Vec<Proof> {
    let bundle = Bundle::decode(bundle).unwrap_or_default();
    bundle.old_proofs
}

/// That a bundle is of the format before, if it is.
pub(crate) fn of_the_format_before(bundle: &Bundle) -> Option<Diagnostic> {
    (!bundle.old_proofs.is_empty()).then(|| {
        Diagnostic::warning(
            codes::OLD_PROOFS,
            "what was proved of this bundle is attested as the format before did",
        )
        .cause("it is a part of the content there, and beside the content now; it holds as long as this bundle is in force")
        .help("have it proved again: palisade bundle build DIR -f FILE --proved, and sign that")
    })
}

/// Whether all of `demanded` are attested; diagnostics call the bundle `what`.
///
/// # Errors
/// The first invariant that is not.
pub(super) fn check(proofs: &[Proof], demanded: &[String], what: &str) -> Result<(), Diagnostic> {
    let is_attested = |id: &&String| proofs.iter().any(|p| p.invariant == **id);
    let Some(missing) = demanded.iter().find(|id| !is_attested(id)) else {
        return Ok(());
    };
    let attested: Vec<_> = proofs
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
