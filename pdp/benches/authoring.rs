//! What the commands of somebody who writes policies cost, at 1,000 policies.
//!
//! A repository of 200 services with five policies each, every one tested, in 20 files.
//! Run with `cargo bench --workspace --bench authoring`.

#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot build its input should stop"
)]

use std::{fmt::Write, fs, hint::black_box, path::Path};

use criterion::{Criterion, criterion_group, criterion_main};
use palisade_pdp::author::{
    self, fmt,
    lint::{self, Options},
    tests::{self, Engines, Trace},
};

const SERVICES: usize = 200;
const FILES: usize = 20;
const NOW_US: i64 = 1_795_348_800_000_000;

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn policies(k: usize) -> String {
    let (to, from) = (format!("acme.test/n/s{k}"), (k + 1) % SERVICES);
    format!(
        r#"@id("s{k}-read")
@owner("team")
permit (
  principal in Service::"acme.test/n/s{from}",
  action in Action::"http:read",
  resource in Service::"{to}"
);

@id("s{k}-write")
@owner("team")
permit (
  principal in Service::"acme.test/n/s{from}",
  action == Action::"POST",
  resource in Service::"{to}"
)
when {{ context.http.path like "/orders/*" && context.source.ip.isInRange(ip("10.0.0.0/8")) }};

@id("s{k}-batch")
@owner("team")
permit (
  principal in Group::"batch",
  action == Action::"DELETE",
  resource in Service::"{to}"
)
when {{ context.time.hour >= 8 && context.time.hour < 18 }};

@id("s{k}-change")
@owner("team")
forbid (
  principal,
  action == Action::"PUT",
  resource in Service::"{to}"
)
unless
{{
  context.http.headers has "x-change-id" &&
  context.http.headers["x-change-id"] like "CHG-*"
}};

@id("s{k}-own")
@owner("team")
forbid (
  principal,
  action == Action::"PATCH",
  resource in Service::"{to}"
)
unless {{ principal has namespace && principal.namespace == Namespace::"acme.test/n" }};

"#
    )
}

fn rows(k: usize) -> String {
    let from = (k + 1) % SERVICES;
    format!(
        "  - {{ principal: s{from}, request: GET s{k}/orders/1, expect: allow, policies: [s{k}-read] }}\n  \
         - {{ principal: s{from}, request: POST s{k}/orders/1, context: {{ source: 10.0.0.7 }}, expect: allow, policies: [s{k}-write] }}\n  \
         - {{ principal: s0, request: DELETE s{k}/orders/1, context: {{ now: 2026-11-20T12:00:00Z }}, expect: allow, policies: [s{k}-batch] }}\n  \
         - {{ principal: s{from}, request: PUT s{k}/orders/1, expect: forbidden, policies: [s{k}-change] }}\n  \
         - {{ principal: ns/other/sa/x, request: PATCH s{k}/orders/1, expect: forbidden, policies: [s{k}-own] }}\n"
    )
}

fn repository() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let settings = "trust_domain: acme.test\nheaders:\n  x-change-id: single\n";
    write(dir.path(), "palisade.yaml", settings);
    write(
        dir.path(),
        "entities/groups.yaml",
        "groups:\n  batch: { services: [n/s0] }\n",
    );
    let (mut cedar, mut tables) = (
        vec![String::new(); FILES],
        vec!["tests:\n".to_owned(); FILES],
    );
    for k in 0..SERVICES {
        let mut service = format!("service: n/s{k}\noperations:\n");
        writeln!(service, "  - {{ name: all, match: \"* /{{*path}}\" }}").unwrap();
        write(dir.path(), &format!("services/s{k}.yaml"), &service);
        let (text, table) = (cedar.get_mut(k % FILES), tables.get_mut(k % FILES));
        text.unwrap().push_str(&policies(k));
        table.unwrap().push_str(&rows(k));
    }
    for (i, (text, table)) in cedar.iter().zip(&tables).enumerate() {
        write(
            dir.path(),
            &format!("policies/f{i}.cedar"),
            &format!("{}\n", text.trim_end()),
        );
        write(dir.path(), &format!("tests/f{i}.yaml"), table);
    }
    dir
}

fn authoring(c: &mut Criterion) {
    let dir = repository();
    let dir = dir.path();
    let options = Options {
        now_us: NOW_US,
        ..Options::default()
    };
    let (formatted, broken) = fmt::check(dir);
    assert!(broken.is_empty() && formatted.len() == FILES);
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
    let mut group = c.benchmark_group("1000 policies");
    group.sample_size(20);
    group.bench_function("fmt", |b| b.iter(|| black_box(fmt::check(dir))));
    group.bench_function("validate", |b| b.iter(|| black_box(author::load(dir))));
    group.bench_function("lint", |b| b.iter(|| black_box(lint::run(dir, &options))));
    group.bench_function("test", |b| b.iter(|| black_box(run(false))));
    group.bench_function("test with coverage", |b| b.iter(|| black_box(run(true))));
    group.finish();
}

criterion_group!(benches, authoring);
criterion_main!(benches);
