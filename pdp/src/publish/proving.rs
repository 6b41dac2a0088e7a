//! What must never become possible, proved before a revision is published.
//!
//! A bundle that was built elsewhere says itself what was proved of it. Of what a PDP puts
//! together it has to find out: what does not hold is refused, what is proved is part of what
//! it signs, and of the rest it says that it is not proved.

use std::fmt;

use palisade_mesh::{diagnostic::Diagnostic, wire::policy::Bundle};
use prost::Message;

use crate::{author::Loaded, bundle::file::BundleFile, compiled::Compiled};

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

/// `loaded` with what `prover` finds out about its invariants: not compiled where one does not
/// hold; else with the word of what is proved, which is part of its content and its digest.
pub(super) fn proved(mut loaded: Loaded, prover: Option<&dyn Prove>) -> Loaded {
    let has_any = |c: &&mut Compiled| !c.invariants.is_empty();
    let (Some(prover), Some(compiled)) = (prover, loaded.compiled.as_mut().filter(has_any)) else {
        return loaded;
    };
    let Proved {
        findings,
        ids,
        solver,
    } = prover.prove(compiled);
    loaded.diagnostics.extend(findings);
    if !ids.is_empty() {
        let attesting = BundleFile::new(compiled.bundle.clone())
            .and_then(|file| file.attesting(ids.iter().map(String::as_str), &solver));
        match attesting {
            Ok(file) => (compiled.bundle, compiled.digest) = (file.signed.bundle, file.digest),
            Err(broken) => loaded.diagnostics.push(broken),
        }
    }
    if loaded.diagnostics.iter().any(Diagnostic::is_error) {
        loaded.compiled = None;
    }
    loaded
}

/// Ids of the invariants of a revision that its bundle does not attest.
pub(super) fn unproved(compiled: &Compiled) -> Vec<String> {
    if compiled.invariants.is_empty() {
        return Vec::new();
    }
    let bundle = Bundle::decode(compiled.bundle.clone()).unwrap_or_default();
    let is_proved = |id: &str| bundle.proofs.iter().any(|p| p.invariant == id);
    let ids = compiled.invariants.keys().filter(|id| !is_proved(id));
    ids.map(ToString::to_string).collect()
}
