//! What the commands of somebody who writes policies cost at 1,000 policies, and what a
//! revision of 10,000 costs whoever compiles it.
//!
//! criterion gives wall time, the lines `cpu` CPU time. Run with
//! `cargo bench --workspace --bench authoring`.

#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot build its input should stop"
)]

use std::hint::black_box;

use cedar_policy::{ValidationMode, Validator};
use criterion::{Criterion, criterion_group, criterion_main};
use palisade_pdp::{
    author::{
        self, fmt,
        lint::{self, Options},
        tests::{self, Engines, Trace},
    },
    decide::Snapshot,
};

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/repository.rs"]
mod repository;

use cpu::cpu;
use repository::{NOW_US, PER_SERVICE, repository};

fn authoring(c: &mut Criterion) {
    let dir = repository(1_000 / PER_SERVICE);
    let dir = dir.path();
    let options = Options {
        now_us: NOW_US,
        ..Options::default()
    };
    let (formatted, broken) = fmt::check(dir);
    assert!(broken.is_empty() && formatted.iter().all(|f| !f.changed));
    let found = lint::run(dir, &options).unwrap().findings;
    assert!(found.is_empty(), "{found:#?}");
    let run = |covering| {
        let compiled = author::load(dir).compiled.unwrap();
        let (cases, _) = tests::read(dir, &compiled, NOW_US);
        let mut engines = Engines::new(compiled, &cases, covering).unwrap();
        let compiled = engines.compiled().clone();
        tests::run(&cases, None, Trace::None, &compiled, &mut engines)
    };
    assert!(run(false).is_success());
    cpu("fmt, 1000 policies", 20, || fmt::check(dir));
    cpu("validate, 1000 policies", 20, || author::load(dir));
    cpu("lint, 1000 policies", 20, || lint::run(dir, &options));
    cpu("test, 1000 policies", 20, || run(false));
    cpu("test with coverage, 1000 policies", 10, || run(true));
    let mut group = c.benchmark_group("1000 policies");
    group.sample_size(20);
    group.bench_function("fmt", |b| b.iter(|| black_box(fmt::check(dir))));
    group.bench_function("validate", |b| b.iter(|| black_box(author::load(dir))));
    group.bench_function("lint", |b| b.iter(|| black_box(lint::run(dir, &options))));
    group.bench_function("test", |b| b.iter(|| black_box(run(false))));
    group.bench_function("test with coverage", |b| b.iter(|| black_box(run(true))));
    group.finish();
}

/// A bundle parsed, validated and indexed, as a proxy does with what it receives; and
/// Cedar's validation of the same policies alone.
fn compiling(_: &mut Criterion) {
    for (policies, passes) in [(100, 50), (1_000, 20), (10_000, 5)] {
        let dir = repository(policies / PER_SERVICE);
        let compiled = author::load(dir.path()).compiled.unwrap();
        assert_eq!(compiled.info.len(), policies);
        let bundle = compiled.bundle.clone();
        cpu(&format!("compile, {policies} policies"), passes, || {
            author::compile(bundle.clone()).compiled.unwrap()
        });
        cpu(
            &format!("compile and index, {policies} policies"),
            passes,
            || {
                let compiled = author::compile(bundle.clone()).compiled.unwrap();
                Snapshot::new(compiled, 1).unwrap()
            },
        );
        if policies <= 1_000 {
            let validator = Validator::new(compiled.schema.clone());
            cpu(
                &format!("Cedar's validation alone, {policies} policies"),
                2,
                || validator.validate_with_level(&compiled.policies, ValidationMode::Strict, 1),
            );
        }
    }
}

criterion_group!(benches, authoring, compiling);
criterion_main!(benches);
