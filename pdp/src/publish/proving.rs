//! What must never become possible, proved before a revision is published.
//!
//! A bundle that was built elsewhere comes with the word of those who signed it about what was
//! proved of it. Of what a PDP puts together it has to find out: what does not hold is refused,
//! what is proved is attested beside the content, and of the rest it says that it is not proved.

use std::fmt;

use palisade_mesh::{
    diagnostic::Diagnostic,
    wire::policy::{Attestation, Revision},
};

use crate::{author::Loaded, bundle::proofs, compiled::Compiled};

/// Proves invariants; the binary plugs a solver in.
pub trait Prove: fmt::Debug + Send + Sync {
    /// Finds out about every invariant of a revision. Blocks, for a bounded time.
    fn prove(&self, compiled: &Compiled) -> Proved;
}

/// What was found out about the invariants of a revision.
#[derive(Debug, Clone, Default)]
pub struct Proved {
    /// What does not hold, as errors; what is not proved, as warnings.
    pub findings: Vec<Diagnostic>,
    /// Ids of those that are proved.
    pub ids: Vec<String>,
    /// What proved them.
    pub solver: String,
}

/// What was loaded, and what was found out about it.
#[derive(Debug, Default)]
pub(super) struct Tried {
    pub(super) loaded: Loaded,
    /// What is proved of it, which nobody has signed yet.
    pub(super) proved: Option<Attestation>,
}

impl Tried {
    /// What cannot be compiled at all, and why.
    pub(super) fn refused(diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            loaded: Loaded::refused(diagnostics),
            proved: None,
        }
    }
}

/// `loaded` with what `prover` finds out about its invariants: not compiled where one does not
/// hold. What is proved stands beside it, and its digest is that of its texts.
pub(super) fn proved(mut loaded: Loaded, prover: Option<&dyn Prove>) -> Tried {
    let has_any = |c: &&Compiled| !c.invariants.is_empty();
    let (Some(prover), Some(compiled)) = (prover, loaded.compiled.as_ref().filter(has_any)) else {
        return Tried {
            loaded,
            proved: None,
        };
    };
    let Proved {
        findings,
        ids,
        solver,
    } = prover.prove(compiled);
    loaded.diagnostics.extend(findings);
    if loaded.diagnostics.iter().any(Diagnostic::is_error) {
        loaded.compiled = None;
    }
    Tried {
        loaded,
        proved: proofs::attestation(ids.iter().map(String::as_str), &solver),
    }
}

/// Ids of the invariants of a revision that nobody vouches for to be proved.
pub(super) fn unproved(compiled: &Compiled, revision: &Revision) -> Vec<String> {
    let signed = |a: &&Attestation| !a.signatures.is_empty();
    let proofs = revision.attestation.as_ref().filter(signed);
    let proofs = proofs.map_or(&[][..], |a| &a.proofs);
    let is_proved = |id: &str| proofs.iter().any(|p| p.invariant == id);
    let ids = compiled.invariants.keys().filter(|id| !is_proved(id));
    ids.map(ToString::to_string).collect()
}
