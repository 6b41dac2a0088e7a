//! What it costs to compare two revisions of 5,000 policies of which one differs, with proof:
//! the comparison alone, and all that `policy diff` does, from two folders to the answer of a
//! gate, the solver's test questions included.
//!
//! Needs cvc5, on PATH or named in `CVC5`; its CPU time counts. Run with
//! `cargo bench --workspace --bench diff`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench that cannot build its input should stop"
)]

use std::{fs, path::Path, sync::Arc, thread};

use palisade_pdp::{
    analysis::{
        Comparison,
        gate::{Gate, GateVerdict},
        prove::{PROOF_TIME_DEFAULT, ProofVerdict, Solver},
    },
    author::{self, Shared},
    decide::Snapshot,
};
use tempfile::TempDir;

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/repository.rs"]
mod repository;

use cpu::cpu;
use repository::{NOW_US, PER_SERVICE, file_of, repository};

const POLICIES: usize = 5_000;
const PASSES: u32 = 10;
/// The service whose policy is changed.
const CHANGED: usize = 77;
/// What is replaced in it.
const PATTERN: &str = "\"/refunds/*\"";

fn snapshot(dir: &Path, shared: &Shared) -> Arc<Snapshot> {
    let compiled = author::load_with(dir, shared).compiled.unwrap();
    Snapshot::new(compiled, 1).unwrap()
}

/// A copy of the repository with the pattern of one permit replaced.
fn changed(to: &str) -> TempDir {
    let services = POLICIES / PER_SERVICE;
    let dir = repository(services);
    let file = dir.path().join(file_of(CHANGED, services));
    let text = fs::read_to_string(&file).unwrap();
    let permit = format!("@id(\"s{CHANGED}-write\")");
    let (before, after) = text.split_once(&permit).unwrap();
    let after = after.replacen(PATTERN, to, 1);
    fs::write(&file, format!("{before}{permit}{after}")).unwrap();
    dir
}

fn compare(base: &Arc<Snapshot>, head: &Arc<Snapshot>, solver: &Solver) -> Comparison {
    let comparison = Comparison::new(base.clone(), head.clone(), NOW_US);
    thread::scope(|scope| {
        let proving = scope.spawn(|| comparison.prove(solver, PROOF_TIME_DEFAULT));
        let (access, texts) = (comparison.access(), comparison.texts());
        assert!(texts.len() == 1 && access.complete);
        let proof = proving.join().unwrap();
        let gate = comparison.answer(
            &Gate::NoNewAccess,
            Some(solver),
            PROOF_TIME_DEFAULT,
            Some(&proof),
        );
        let kept = gate.unwrap().verdict == GateVerdict::Kept;
        assert_eq!(kept, proof.verdict == ProofVerdict::Proved);
    });
    comparison
}

/// From two folders to the answer, as `policy diff` goes about it.
fn whole(base: &Path, head: &Path) -> Comparison {
    let shared = Shared::default();
    thread::scope(|scope| {
        let finding = scope.spawn(Solver::find);
        let old = scope.spawn(|| snapshot(base, &shared));
        let new = snapshot(head, &shared);
        let old = old.join().unwrap();
        let solver = finding.join().unwrap().unwrap().unwrap();
        compare(&old, &new, &solver)
    })
}

fn main() {
    let solver = Solver::find().ok().flatten();
    let solver = solver.expect("install cvc5, or name it in CVC5");
    println!("{}", solver.name());
    let base = repository(POLICIES / PER_SERVICE);
    let old = snapshot(base.path(), &Shared::default());
    for (name, to) in [("narrowed", "\"/refunds/1*\""), ("widened", "\"/*\"")] {
        let head = changed(to);
        let new = snapshot(head.path(), &Shared::default());
        cpu(&format!("compared and proved, {name}"), PASSES, || {
            compare(&old, &new, &solver)
        });
        cpu(
            &format!("the whole of `policy diff`, {name}"),
            PASSES,
            || whole(base.path(), head.path()),
        );
    }
}
