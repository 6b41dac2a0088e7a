//! How long the newest 50 take, and what a record costs to index.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use palisade_audit::{
    index::{Options, Store},
    query::Query,
    source::{Entry, Source, SourceError},
};
use palisade_mesh::{
    clock::Clock,
    wire::{
        audit::{Envelope, StreamId},
        record::{Decision, Outcome, Peer, Record, Versions, record::Body},
    },
};
use tokio::sync::watch;

/// Requests; each leaves a decision and an outcome.
const REQUESTS: u64 = 100_000;
/// 2026-11-20T00:00:00Z.
const START: i64 = 1_795_132_800_000_000;
/// Between requests.
const STEP_US: i64 = 400_000;

/// Makes its entries up as they are read, so that only the index is measured.
struct Synthetic(watch::Sender<u64>);

fn entry(index: u64) -> Entry {
    let request = index / 2;
    let mix = request.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let time_us = START + i64::try_from(request).expect("small") * STEP_US;
    let caller = (mix % 40).min(mix % 7);
    let service = format!("acme.test/shop/svc-{:02}", (caller * 3 + mix % 5) % 20);
    let principal = format!("spiffe://acme.test/ns/shop/sa/caller-{caller:02}");
    let id = (u128::from(time_us.unsigned_abs() / 1000) << 80) | u128::from(request);
    let denied = mix.is_multiple_of(40);
    let body = if index.is_multiple_of(2) {
        Body::Decision(Decision {
            verdict: if denied { 3 } else { 1 },
            reason: if denied { "no_permit" } else { "permitted" }.into(),
            principal: Some(Peer {
                spiffe_id: principal,
                serial: vec![7; 16],
                not_after_s: 0,
            }),
            action: "GET".into(),
            resource_type: "Operation".into(),
            resource_id: format!("{service}/op-{}", mix % 6),
            method: "GET".into(),
            host: "svc".into(),
            path: format!("/things/{}", mix % 5000),
            route: "/things/{id}".into(),
            policies: vec![format!("policy-{}", mix % 30)],
            versions: Some(Versions {
                policy_digest: vec![9; 32],
                policy_sequence: 4,
                discovery: 2,
                kill_list: 0,
            }),
            decision_ns: 800 + mix % 4000,
            cached: !mix.is_multiple_of(3),
            enforced: true,
            source_ip: "127.0.0.1".into(),
            trace_id: (id ^ u128::from(mix) << 40).to_be_bytes().to_vec(),
            service,
            ..Decision::default()
        })
    } else {
        Body::Outcome(Outcome {
            status: if mix.is_multiple_of(100) { 500 } else { 200 },
            end: 1,
            bytes_in: mix % 900,
            bytes_out: mix % 20_000,
            duration_us: 300 + mix % 9000,
            upstream: "127.0.0.1:9000".into(),
            service,
            principal,
            ..Outcome::default()
        })
    };
    let reporter = "spiffe://acme.test/palisade/proxy/edge".to_owned();
    Entry {
        index,
        envelope: Envelope {
            stream: Some(StreamId {
                reporter: reporter.clone(),
                ..StreamId::default()
            }),
            received_us: time_us + 2000,
            ..Envelope::default()
        },
        record: Record {
            id: id.to_be_bytes().to_vec(),
            time_us: time_us + i64::try_from(index % 2).expect("small") * 900,
            reporter,
            mode: 2,
            demo: false,
            body: Some(body),
            ..Record::default()
        },
    }
}

impl Source for Synthetic {
    fn len(&self) -> u64 {
        *self.0.borrow()
    }

    fn read(&self, index: u64) -> Result<Entry, SourceError> {
        Ok(entry(index))
    }

    fn scan(&self, from: u64) -> Box<dyn Iterator<Item = Result<Entry, SourceError>> + '_> {
        Box::new((from..self.len()).map(|index| Ok(entry(index))))
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

fn bytes_of(dir: &std::path::Path) -> u64 {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

fn search(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a folder");
    let records = REQUESTS * 2;
    let source: Arc<dyn Source> = Arc::new(Synthetic(watch::Sender::new(records)));
    let end = START + i64::try_from(REQUESTS).expect("small") * STEP_US;
    let clock = Clock::manual(jiff::Timestamp::from_microsecond(end).expect("a time"));

    let made_up = Instant::now();
    for index in 0..records {
        black_box(entry(index));
    }
    let making = made_up.elapsed();
    let begun = Instant::now();
    let store = Store::open(source, dir.path(), clock, Options::default()).expect("opens");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(store.flush()).expect("commits");
    let took = begun.elapsed().saturating_sub(making);
    // A figure about half an index would look good and mean nothing.
    let all = Query::parse("last:12h").expect("parses");
    let found = store.count(&all).expect("answers");
    assert_eq!(found, REQUESTS, "every decision is in the index");
    println!(
        "indexing: {records} records, {:.1} µs wall per record, {:.1} bytes per record",
        took.as_secs_f64() * 1e6 / 200_000.0,
        f64::from(u32::try_from(bytes_of(dir.path())).unwrap_or(u32::MAX)) / 200_000.0,
    );

    let mut group = criterion.benchmark_group("newest 50 of 200,000");
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500));
    for text in [
        "last:12h",
        "decision:deny last:12h",
        "principal:caller-03 decision:deny last:12h",
        "service:shop/* status:5xx latency:>1ms last:12h",
        "path:/things/12* last:12h",
        "decision:allow since:-9h until:-8h",
    ] {
        let query = Query::parse(text).expect("parses");
        group.bench_function(text, |bencher| {
            bencher.iter(|| store.search(black_box(&query), 50, None).expect("answers"));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("whole window");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500));
    let query = Query::parse("last:12h").expect("parses");
    group.bench_function("count", |bencher| {
        bencher.iter(|| store.count(black_box(&query)).expect("answers"));
    });
    let fields = ["decision", "principal", "service", "status", "policy"];
    group.bench_function("five facets", |bencher| {
        bencher.iter(|| {
            store
                .facets(black_box(&query), &fields, 10)
                .expect("answers")
        });
    });
    group.finish();
}

criterion_group!(benches, search);
criterion_main!(benches);
