//! The four outcomes: from what the policies said to one verdict.
//!
//! The engine and the reference find out what the policies said in different
//! ways; what follows from it is written once, here.

use palisade_mesh::decision::{Undecided, Verdict};
use smol_str::SmolStr;

/// What the policies whose scope holds said.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) forbids: Vec<SmolStr>,
    pub(crate) forbid_errors: Vec<SmolStr>,
    /// Forbids that test for members, attributes or tags of an entity which the snapshot
    /// lacks.
    pub(crate) forbids_missing: Vec<SmolStr>,
    pub(crate) permits: Vec<SmolStr>,
    pub(crate) permit_errors: Vec<SmolStr>,
}

/// A verdict with the policies that made it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    /// Sorted.
    pub(crate) determining: Vec<SmolStr>,
    /// Sorted.
    pub(crate) errors: Vec<SmolStr>,
}

impl Findings {
    /// A forbid that may have been skipped wrongly stops every permit.
    pub(crate) fn outcome(self) -> Outcome {
        let mut errors = self.permit_errors;
        errors.extend(self.forbid_errors.iter().cloned());
        let (verdict, mut determining) = if !self.forbids.is_empty() {
            (Verdict::Forbidden, self.forbids)
        } else if !self.forbid_errors.is_empty() {
            let undecided = Verdict::Undecided(Undecided::ForbidErrored);
            (undecided, self.forbid_errors)
        } else if !self.forbids_missing.is_empty() {
            let undecided = Verdict::Undecided(Undecided::MissingEntity);
            (undecided, self.forbids_missing)
        } else if !self.permits.is_empty() {
            (Verdict::Allow, self.permits)
        } else {
            (Verdict::NotPermitted, Vec::new())
        };
        determining.sort_unstable();
        errors.sort_unstable();
        Outcome {
            verdict,
            determining,
            errors,
        }
    }
}
