//! How long a bundle of 10,000 policies for 1,000 services takes: its digest, cutting
//! the slice of one proxy, and what that proxy does with it.
//!
//! `cargo bench -p palisade-pdp --bench bundle`

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a bench; a panic is a failed run"
)]

use std::{fmt::Write, hint::black_box};

use criterion::{Criterion, criterion_group, criterion_main};
use palisade_mesh::{spiffe_id::SpiffeId, wire::policy::Bundle};
use palisade_pdp::{
    author,
    bundle::{self, manifest, slice},
    compiled::Compiled,
    decide::Snapshot,
};
use prost::Message;

const SERVICES: usize = 1_000;
const PER_SERVICE: usize = 10;
/// Guard rails that concern everybody.
const EVERYWHERE: usize = 40;

fn repository() -> Vec<(String, Vec<u8>)> {
    let file = |path: String, text: String| (path, text.into_bytes());
    let mut files = vec![file(
        "palisade.yaml".into(),
        "trust_domain: acme.test\n".into(),
    )];
    let mut rails = String::new();
    for n in 0..EVERYWHERE {
        let _ = writeln!(
            rails,
            "@id(\"rail-{n}\")\nforbid (principal, action, resource)\nwhen {{ context.tls.version == \"1.{n}\" }};"
        );
    }
    files.push(file("policies/rails.cedar".into(), rails));
    for k in 0..SERVICES {
        let service = format!(
            "service: shop/s{k}\nidentities: [ns/shop/sa/s{k}]\noperations:\n  - {{name: list, match: GET /orders}}\n  - {{name: read, match: \"GET /orders/{{id}}\"}}\n"
        );
        files.push(file(format!("services/s{k}.yaml"), service));
        let mut policies = String::new();
        for n in 0..PER_SERVICE {
            let caller = (k + n) % SERVICES;
            let _ = writeln!(
                policies,
                "// What s{caller} may do.\n@id(\"s{k}-{n}\")\npermit (\n  principal in Service::\"acme.test/shop/s{caller}\",\n  action == Action::\"GET\",\n  resource in Service::\"acme.test/shop/s{k}\"\n)\nwhen {{ context.tls.mtls }};"
            );
        }
        files.push(file(format!("policies/s{k}.cedar"), policies));
    }
    files
}

fn whole() -> Compiled {
    let loaded = author::of_files(repository(), String::new());
    loaded.compiled.unwrap()
}

fn benches(c: &mut Criterion) {
    let compiled = whole();
    let bundle = Bundle::decode(compiled.bundle.clone()).unwrap();
    let own = SpiffeId::parse("spiffe://acme.test/ns/shop/sa/s500").unwrap();
    let part = slice::of(&compiled, &bundle, &own);
    println!(
        "whole {} bytes, slice {} bytes",
        compiled.bundle.len(),
        part.len()
    );
    c.bench_function("digest of 10,000 policies", |b| {
        let mut bundle = bundle.clone();
        b.iter(|| manifest::digest(black_box(&mut bundle)).unwrap());
    });
    c.bench_function("open 10,000 policies", |b| {
        b.iter(|| bundle::open(black_box(&compiled.bundle)).unwrap());
    });
    c.bench_function("cut a slice of 50 of 10,000 policies", |b| {
        b.iter(|| slice::of(black_box(&compiled), &bundle, &own));
    });
    c.bench_function("verify a slice of 50 of 10,000 policies", |b| {
        b.iter(|| bundle::open(black_box(&part)).unwrap());
    });
    c.bench_function("compile a slice of 50 of 10,000 policies", |b| {
        b.iter(|| {
            author::compile_slice(black_box(part.clone()), &own)
                .compiled
                .unwrap()
        });
    });
    let ready = author::compile_slice(part.clone(), &own).compiled.unwrap();
    c.bench_function("engine of a slice of 50 of 10,000 policies", |b| {
        b.iter(|| Snapshot::new(black_box(ready.clone()), 1).unwrap());
    });
}

criterion_group! {
    name = group;
    config = Criterion::default().sample_size(20);
    targets = benches
}
criterion_main!(group);
