//! What it costs to compare two revisions of 5,000 policies of which one differs, with proof.
//!
//! Needs cvc5, on PATH or named in `CVC5`; its CPU time counts. Run with
//! `cargo bench --workspace --bench diff`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench that cannot build its input should stop"
)]

use std::{fs, path::Path, sync::Arc, thread};

use bytes::Bytes;
use palisade_pdp::{
    analysis::{
        Comparison,
        prove::{PROOF_TIME_DEFAULT, ProofVerdict, Solver},
    },
    author,
    decide::Snapshot,
};

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

fn bundle(dir: &Path) -> Bytes {
    author::load(dir).compiled.unwrap().bundle
}

fn snapshot(bundle: Bytes) -> Arc<Snapshot> {
    Snapshot::new(author::compile(bundle).compiled.unwrap(), 1).unwrap()
}

/// The repository with the pattern of one permit replaced.
fn changed(dir: &Path, to: &str) -> Bytes {
    let services = POLICIES / PER_SERVICE;
    let file = dir.join(file_of(CHANGED, services));
    let text = fs::read_to_string(&file).unwrap();
    let permit = format!("@id(\"s{CHANGED}-write\")");
    let (before, after) = text.split_once(&permit).unwrap();
    let after = after.replacen(PATTERN, to, 1);
    fs::write(&file, format!("{before}{permit}{after}")).unwrap();
    let bundle = bundle(dir);
    fs::write(&file, text).unwrap();
    bundle
}

fn compare(base: &Arc<Snapshot>, head: &Arc<Snapshot>, solver: &Solver) -> ProofVerdict {
    let comparison = Comparison::new(base.clone(), head.clone(), NOW_US);
    let (texts, access) = (comparison.texts(), comparison.access());
    assert!(texts.len() == 1 && access.complete);
    comparison.prove(solver, PROOF_TIME_DEFAULT).verdict
}

fn main() {
    let solver = Solver::find().ok().flatten();
    let solver = solver.expect("install cvc5, or name it in CVC5");
    println!("{}", solver.name());
    let dir = repository(POLICIES / PER_SERVICE);
    let base = bundle(dir.path());
    let narrowed = changed(dir.path(), "\"/refunds/1*\"");
    let widened = changed(dir.path(), "\"/*\"");
    let old = snapshot(base.clone());
    for (name, head, verdict) in [
        ("narrowed", narrowed, ProofVerdict::Proved),
        ("widened", widened, ProofVerdict::Refuted),
    ] {
        let new = snapshot(head.clone());
        cpu(&format!("compared and proved, {name}"), PASSES, || {
            assert_eq!(compare(&old, &new, &solver), verdict);
        });
        // Both sides at once, as `policy diff` does.
        cpu(
            &format!("compiled, compared and proved, {name}"),
            PASSES,
            || {
                let (one, other) = (base.clone(), head.clone());
                let old = thread::spawn(move || snapshot(one));
                let new = snapshot(other);
                let old = old.join().unwrap();
                assert_eq!(compare(&old, &new, &solver), verdict);
            },
        );
    }
}
