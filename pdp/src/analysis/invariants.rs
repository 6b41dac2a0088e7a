//! Whether what must never become possible is impossible in a revision.
//!
//! An invariant is put as the question whether anything that it would forbid is allowed: proved
//! where there is a solver, else searched for among those who are known.

use std::{sync::Arc, time::Duration};

use super::{
    Comparison,
    gate::{Gate, GateAnswer},
    prove::Solver,
};
use crate::{
    compiled::PolicyInfo,
    decide::{Snapshot, SnapshotError},
};

/// How one invariant came out.
#[derive(Debug, Clone)]
pub struct InvariantAnswer {
    /// What is known of it.
    pub info: PolicyInfo,
    /// Whether it holds.
    pub answer: GateAnswer,
    /// Pairs of caller and request that were looked at.
    pub searched: usize,
}

/// Answers every invariant of a revision, by id, from the moment `now_us` on.
///
/// # Errors
/// When one cannot be put to the engine; the compiler is to blame.
pub fn check(
    head: &Arc<Snapshot>,
    solver: Option<&Solver>,
    time_max: Duration,
    now_us: i64,
) -> Result<Vec<InvariantAnswer>, SnapshotError> {
    let comparison = Comparison::new(head.clone(), head.clone(), now_us);
    let invariants = head.compiled().invariants.values();
    let answers = invariants.map(|info| {
        let gate = Gate::Invariant(info.clone());
        let answer = comparison.answer(&gate, solver, time_max, None)?;
        Ok(InvariantAnswer {
            info: info.clone(),
            searched: answer.compared,
            answer,
        })
    });
    answers.collect()
}
