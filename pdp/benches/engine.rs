//! What one decision costs, from 10 to 10,000 policies.
//!
//! Run with `cargo bench --workspace --bench engine`.

#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot build its input should stop"
)]

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use palisade_mesh::decision::Pins;
use palisade_pdp::{
    author,
    compiled::Compiled,
    decide::{DECISIONS_MAX, Snapshot},
};

#[path = "support/repository.rs"]
mod repository;
#[path = "support/workload.rs"]
mod workload;

use repository::repository;
use workload::{Load, compiled, parse, policies, service_id};

fn decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    group.sample_size(20);
    for n in [10, 100, 1_000, 10_000] {
        let snapshot = Snapshot::new(compiled(n), 1).unwrap();
        let load = Load::new(&snapshot);
        let mut engine = snapshot.engine().with_self_check(0);
        let verdict = load.ask(&snapshot, |q| engine.decide(q)).decision.verdict;
        assert!(verdict.is_allow(), "{verdict:?}");
        // The guard rails read the path: the key has it, and the TLS facts.
        group.bench_function(BenchmarkId::new("hit", n), |b| {
            load.ask(&snapshot, |q| b.iter(|| black_box(engine.decide(q))));
        });
        let mut load = load;
        let mut i = 0_u64;
        group.bench_function(BenchmarkId::new("miss", n), |b| {
            b.iter(|| {
                i += 1;
                load.request.path = format!("/orders/{i}").into();
                black_box(load.ask(&snapshot, |q| engine.decide(q)))
            });
        });
        if [10, 1_000].contains(&n) {
            group.bench_function(BenchmarkId::new("reference", n), |b| {
                load.ask(&snapshot, |q| b.iter(|| black_box(snapshot.reference(q))));
            });
        }
    }
    let unread = Snapshot::new(unread(), 1).unwrap();
    let (load, mut engine) = (Load::new(&unread), unread.engine());
    group.bench_function("hit, nothing read", |b| {
        load.ask(&unread, |q| b.iter(|| black_box(engine.decide(q))));
    });
    let mut pins = Pins::default();
    group.bench_function("pinned, nothing read", |b| {
        load.ask(&unread, |q| {
            b.iter(|| black_box(engine.decide_on(q, &mut pins)));
        });
    });
    // Ever new paths, so that each is evaluated: with the records of the context that are its
    // connection's, and without.
    let snapshot = Snapshot::new(compiled(1_000), 1).unwrap();
    for (name, on_connection) in [("miss, alone", false), ("miss, on a connection", true)] {
        let mut load = Load::new(&snapshot);
        let mut engine = snapshot.engine().with_self_check(0);
        let (mut pins, mut i) = (Pins::default(), 0_u64);
        group.bench_function(name, |b| {
            b.iter(|| {
                i += 1;
                load.request.path = format!("/orders/{i}").into();
                load.ask(&snapshot, |q| match on_connection {
                    true => black_box(engine.decide_on(q, &mut pins)),
                    false => black_box(engine.decide(q)),
                })
            });
        });
    }
    group.finish();
}

/// What a request costs while another revision is tried beside the one in force: the same
/// question to two engines, one after the other.
fn shadow(c: &mut Criterion) {
    let mut group = c.benchmark_group("shadow");
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    group.sample_size(20);
    let live = Snapshot::new(compiled(1_000), 1).unwrap();
    let tried = Snapshot::new(compiled(1_005), 2).unwrap();
    let mut load = Load::new(&live);
    let engine = || live.engine().with_self_check(0);
    let mut alone = [engine()];
    let mut beside = [engine(), tried.engine().with_self_check(0)];
    for (name, engines) in [("alone", &mut alone[..]), ("beside", &mut beside[..])] {
        load.request.path = "/orders/0".into();
        group.bench_function(BenchmarkId::new("hit", name), |b| {
            load.ask(&live, |q| {
                b.iter(|| {
                    engines
                        .iter_mut()
                        .for_each(|e| drop(black_box(e.decide(q))))
                });
            });
        });
        let mut i = 0_u64;
        group.bench_function(BenchmarkId::new("miss", name), |b| {
            b.iter(|| {
                i += 1;
                load.request.path = format!("/orders/{i}").into();
                load.ask(&live, |q| {
                    engines
                        .iter_mut()
                        .for_each(|e| drop(black_box(e.decide(q))));
                });
            });
        });
    }
    group.finish();
}

/// A set whose policies read nothing of the request.
fn unread() -> Compiled {
    let mut compiled = compiled(10);
    let text = format!(
        "@id(\"only\") permit (principal in Service::\"{}\", action, resource);",
        service_id(2)
    );
    (compiled.policies, compiled.info) = parse(&text);
    compiled
}

/// What a worker does on its own thread when another revision is in force, before the next
/// request is answered: it takes a new engine and answers the first question. The old engine
/// with its full caches is freed elsewhere, and so is the old snapshot.
fn swap(c: &mut Criterion) {
    let mut group = c.benchmark_group("swap");
    group.warm_up_time(Duration::from_millis(100));
    group.measurement_time(Duration::from_secs(3));
    group.sample_size(10);
    for n in [10, 10_000] {
        let (old, new) = (
            Snapshot::new(compiled(n), 1).unwrap(),
            Snapshot::new(compiled(n), 2).unwrap(),
        );
        let mut load = Load::new(&old);
        let mut warm = || {
            let mut engine = old.engine().with_self_check(0);
            for i in 0..DECISIONS_MAX {
                load.request.path = format!("/orders/{i}").into();
                load.ask(&old, |q| engine.decide(q));
            }
            engine
        };
        let first = Load::new(&new);
        group.bench_function(BenchmarkId::new("worker", n), |b| {
            b.iter_batched(
                &mut warm,
                |before| {
                    let mut engine = new.engine();
                    black_box(first.ask(&new, |q| engine.decide(q)));
                    (engine, before)
                },
                criterion::BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// A bundle of what concerns one proxy, compiled and indexed: ten services with five policies
/// each.
fn slice(c: &mut Criterion) {
    let dir = repository(10);
    let bundle = author::load(dir.path()).compiled.unwrap().bundle;
    let mut group = c.benchmark_group("slice");
    group.bench_function("compile and index 50", |b| {
        b.iter(|| {
            let compiled = author::compile(bundle.clone()).compiled.unwrap();
            black_box(Snapshot::new(compiled, 1).unwrap())
        });
    });
    group.finish();
}

fn building(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    group.warm_up_time(Duration::from_millis(100));
    group.measurement_time(Duration::from_secs(5));
    group.sample_size(10);
    let text = policies(10_000);
    let ready = compiled(10_000);
    group.bench_function("parse 10000", |b| b.iter(|| black_box(parse(&text))));
    group.bench_function("index 10000", |b| {
        b.iter_batched(
            || ready.clone(),
            |ready| black_box(Snapshot::new(ready, 1).unwrap()),
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, decisions, shadow, swap, slice, building);
criterion_main!(benches);
