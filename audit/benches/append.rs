//! What does a record cost on its way into the log, in CPU and in time?
//!
//! `encode`: a worker's `append`, as on the request path. `append`: from a batch of
//! 1,024 to an acknowledged group commit, everything included: dedupe, salt,
//! envelope, CRC, leaf hash, tree, write, fsync. `verify`: offline, everything.
//! `strict`: requests that wait for their record to be in the spool for good, as a
//! proxy's worker lets them share rounds; compare with the fsync it prints.
//! Quote them with the machine; criterion gives wall time, and the line `cpu`
//! the CPU of the whole process per record.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::{hint::black_box, sync::Arc, time::Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use palisade_audit::{
    local::LocalSink,
    log::{Log, LogOptions, Pending},
    spool::{Spool, SpoolOptions},
    stream::StreamKey,
    verify::{VerifyOptions, verify},
};
use palisade_mesh::{
    clock::Clock,
    sink::RecordSink as _,
    spiffe_id::{SpiffeId, TrustDomain},
    wire::record::{AuditMode, Decision, Peer, Record, Verdict, Versions, record::Body},
};
use prost::Message as _;
use tokio::runtime::Runtime;
use ulid::Ulid;

const GROUP: u64 = 1024;

fn reporter() -> SpiffeId {
    SpiffeId::parse("spiffe://acme.test/ns/shop/sa/orders").unwrap()
}

/// A decision as the demo's shop leaves it, about 400 bytes.
fn record(n: u64) -> Record {
    Record {
        id: Ulid::from_parts(1_763_650_000_000 + n, n.into())
            .to_bytes()
            .to_vec(),
        time_us: 1_763_650_000_000_000 + n as i64,
        reporter: reporter().to_string(),
        mode: AuditMode::Spool.into(),
        demo: false,
        body: Some(Body::Decision(Decision {
            verdict: Verdict::Allow.into(),
            reason: "permit".into(),
            principal: Some(Peer {
                spiffe_id: "spiffe://acme.test/ns/shop/sa/web".into(),
                serial: vec![7; 16],
                not_after_s: 1_763_653_600,
            }),
            action: "GET".into(),
            resource_type: "Operation".into(),
            resource_id: "acme.test/shop/orders#get-order".into(),
            service: "acme.test/shop/orders".into(),
            method: "GET".into(),
            host: "orders.shop".into(),
            path: format!("/orders/{n}"),
            route: "/orders/{id}".into(),
            policies: vec!["shop-web-reads-orders".into()],
            versions: Some(Versions {
                policy_digest: vec![3; 32],
                policy_sequence: 12,
                discovery: 4,
                kill_list: 1,
            }),
            decision_ns: 1_800,
            enforced: true,
            source_ip: "10.1.2.3".into(),
            source_port: 43210,
            trace_id: vec![5; 16],
            span_id: vec![6; 8],
            ..Decision::default()
        })),
        ..Record::default()
    }
}

/// CPU time of the process so far, in nanoseconds.
fn cpu_ns() -> u64 {
    // utime and stime, in clock ticks of 10 ms, after the name in parentheses.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let ticks = fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0);
    ticks * 10_000_000
}

fn encode(criterion: &mut Criterion) {
    // Over a log that takes nothing, so that no disk is measured.
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions::new(TrustDomain::parse("acme.test").unwrap());
    drop(Log::open(dir.path(), options.clone(), Clock::system()).unwrap());
    let options = LogOptions {
        read_only: true,
        ..options
    };
    let log = Log::open(dir.path(), options, Clock::system()).unwrap();
    let sink = LocalSink::new(log, reporter(), Clock::system());
    let mut worker = 0;
    let record = record(1);
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(GROUP));
    group.bench_function("append to a worker's buffer, 1,024 records", |bencher| {
        // A fresh stream for each batch; making and dropping it is not timed.
        bencher.iter_batched_ref(
            || {
                worker += 1;
                sink.open(worker)
            },
            |stream| {
                for _ in 0..GROUP {
                    stream.append(black_box(&record)).unwrap();
                }
            },
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn append(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions::new(TrustDomain::parse("acme.test").unwrap());
    let log = Log::open(dir.path(), options, Clock::system()).unwrap();
    let runtime = Runtime::new().unwrap();
    let stream = Arc::new(StreamKey {
        reporter: reporter(),
        boot: Ulid::from_parts(1, 1),
        worker: 0,
    });
    let bytes = bytes::Bytes::from(record(1).encode_to_vec());
    let mut next = 1;
    let mut batch = || -> Vec<Pending> {
        let from = next;
        next += GROUP;
        (from..next)
            .map(|sequence| Pending {
                stream: stream.clone(),
                sequence,
                record: bytes.clone(),
            })
            .collect()
    };
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Elements(GROUP));
    group.bench_function("1,024 records, acknowledged", |bencher| {
        bencher.iter(|| {
            runtime.block_on(log.append(batch()).durable()).unwrap();
        });
    });
    group.finish();

    let records = 500 * GROUP;
    let (cpu, started) = (cpu_ns(), Instant::now());
    // Two batches ahead, so that the writer never waits for us.
    let mut ahead = std::collections::VecDeque::new();
    for _ in 0..500 {
        ahead.push_back(log.append(batch()));
        if ahead.len() > 2 {
            runtime
                .block_on(ahead.pop_front().unwrap().durable())
                .unwrap();
        }
    }
    for mut receipt in ahead {
        runtime.block_on(receipt.durable()).unwrap();
    }
    let per = |ns: u64| ns as f64 / records as f64;
    println!(
        "append: {records} records of {} bytes, cpu {:.0} ns each, {:.0} records/s",
        bytes.len(),
        per(cpu_ns() - cpu),
        records as f64 / started.elapsed().as_secs_f64(),
    );
    drop(log);
    let (cpu, started) = (cpu_ns(), Instant::now());
    let report = verify(dir.path(), VerifyOptions::default());
    assert!(report.intact(), "{:?}", report.findings);
    println!(
        "verify: {} records, cpu {:.0} ns each, {:.0} records/s",
        report.records,
        (cpu_ns() - cpu) as f64 / report.records as f64,
        report.records as f64 / started.elapsed().as_secs_f64(),
    );
}

/// Requests of mode `strict` that one worker has at the same time.
const WAITING: [usize; 3] = [1, 16, 128];

/// Rounds of each.
const ROUNDS: usize = 400;

fn strict(_: &mut Criterion) {
    for waiting in WAITING {
        let dir = tempfile::tempdir().unwrap();
        let options = SpoolOptions::default();
        let spool = Spool::open(dir.path(), reporter(), options, Clock::system()).unwrap();
        let mut stream = spool.open(0);
        let runtime = Runtime::new().unwrap();
        let record = record(1);
        let (cpu, begun) = (cpu_ns(), Instant::now());
        let mut waits = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let asked = Instant::now();
            for _ in 0..waiting {
                stream.append(black_box(&record)).unwrap();
            }
            runtime.block_on(stream.durable()).unwrap();
            waits.push(asked.elapsed());
        }
        let took = begun.elapsed();
        let requests = (ROUNDS * waiting) as f64;
        waits.sort();
        let fsync = spool.health().fsync;
        let fsyncs: u64 = fsync.counts.iter().sum();
        println!(
            "strict: {waiting} at a time, {:.0} requests/s, cpu {:.1} µs each, wait p50 {:?} p99 {:?}, fsync mean {:.0} µs longest {:?}",
            requests / took.as_secs_f64(),
            (cpu_ns() - cpu) as f64 / requests / 1000.0,
            waits.get(ROUNDS / 2).unwrap(),
            waits.get(ROUNDS * 99 / 100).unwrap(),
            fsync.seconds / fsyncs as f64 * 1e6,
            fsync.longest,
        );
    }
}

criterion_group!(benches, encode, append, strict);
criterion_main!(benches);
