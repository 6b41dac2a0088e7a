//! The solver of this machine, for what the PDP puts together itself.

use std::time::Duration;

use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::{
    analysis::invariants,
    compiled::Compiled,
    publish::{Prove, Proved},
};

use crate::run::policy;

/// Longest time for all invariants of one candidate: meanwhile no other is looked at. What is
/// not proved by then is not proved.
pub(super) const TIME_MAX: Duration = Duration::from_secs(20);
/// What is written where it is attested.
const SOLVER: &str = "cvc5";

/// Proves invariants with cvc5, where it is installed.
#[derive(Debug)]
pub(super) struct Cvc5;

impl Prove for Cvc5 {
    fn prove(&self, compiled: &Compiled) -> Proved {
        let snapshot = match policy::snapshot(compiled.clone(), 0) {
            Ok(snapshot) => snapshot,
            Err(wrong) => return refused(wrong),
        };
        // Whatever the clock says here, no permit has expired where it will be enforced.
        let checked = invariants::checked(&snapshot, TIME_MAX, 0);
        Proved {
            ids: checked.proved().map(str::to_owned).collect(),
            findings: checked.findings,
            solver: SOLVER.to_owned(),
        }
    }
}

fn refused(wrong: Diagnostic) -> Proved {
    Proved {
        findings: vec![wrong],
        ..Proved::default()
    }
}
