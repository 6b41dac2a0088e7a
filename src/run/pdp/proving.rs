//! The solver of this machine, for what the PDP puts together itself.

use std::{
    num::NonZero,
    sync::{Condvar, Mutex, PoisonError},
    thread::available_parallelism,
    time::Duration,
};

use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::{
    analysis::invariants,
    compiled::Compiled,
    publish::{Prove, Proved},
};

use crate::run::policy;

/// Longest time for all invariants of one candidate, from when a core is free for its solver:
/// meanwhile no other content of the source is looked at. What is not proved by then is not proved.
pub(super) const TIME_MAX: Duration = Duration::from_secs(20);
/// What is written where it is attested.
const SOLVER: &str = "cvc5";

/// Proves invariants with cvc5, where it is installed; of as many candidates at once as there are
/// cores, since several that share one would each use up their time and prove less.
#[derive(Debug)]
pub(super) struct Cvc5 {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Cvc5 {
    pub(super) fn new() -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        Self {
            free: Mutex::new(cores),
            freed: Condvar::new(),
        }
    }

    /// Waits for a core.
    fn turn(&self) -> Turn<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_while(free, |free| *free == 0);
        *waited.unwrap_or_else(PoisonError::into_inner) -= 1;
        Turn(self)
    }
}

/// The use of a core, until it is dropped.
struct Turn<'c>(&'c Cvc5);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

impl Prove for Cvc5 {
    fn prove(&self, compiled: &Compiled) -> Proved {
        let _turn = self.turn();
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

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;

    /// However many candidates there are, and whatever becomes of who waits.
    #[test]
    fn no_more_solvers_run_at_once_than_there_are_cores() {
        let (solver, at_once, most) = (Cvc5::new(), AtomicUsize::new(0), AtomicUsize::new(0));
        let cores = available_parallelism().unwrap().get();
        thread::scope(|scope| {
            for _ in 0..4 * cores {
                scope.spawn(|| {
                    let _turn = solver.turn();
                    most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    at_once.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= cores);
        assert_eq!(
            *solver.free.lock().unwrap(),
            cores,
            "each gave its core back"
        );
    }
}
