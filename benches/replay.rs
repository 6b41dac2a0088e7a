//! How fast are recorded decisions made again, from the segments of a log to a verdict?
//!
//! The sample repository decides requests between its services; their records are a log on
//! disk. `alike`: fifty orders, asked for again and again; `all different`: no path twice, and
//! a guard rail that reads the path, so every decision is evaluated. One thread, frames
//! checked and records decoded on the way. criterion gives wall time, and the line `cpu` the
//! CPU of the process for one record. Run with `cargo bench --workspace --bench replay`.

#![allow(
    missing_docs,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a bench that cannot build its input should stop"
)]

use std::{hint::black_box, ops::ControlFlow, path::Path, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nix::time::{ClockId, clock_gettime};
use palisade_audit::{
    decisions::Decisions,
    envelope::DecisionRef,
    log::{Log, LogOptions, Pending, Receipt},
    query::{Query, Window},
    stream::StreamKey,
};
use palisade_mesh::{
    clock::Clock,
    wire::record::{AuditMode, Decision, Peer, Record, Verdict, Versions, record::Body},
};
use palisade_pdp::{
    author::{self, Ask},
    decide::{Past, Replay, Snapshot},
};
use prost::Message as _;
use ulid::Ulid;

const RECORDS: u64 = 100_000;
/// Passes over which CPU is taken.
const PASSES: u64 = 5;
const GROUP: usize = 1024;
const NOW_US: i64 = 1_795_188_600_000_000;
const ASKED: [(&str, &str, &str); 6] = [
    ("web", "GET", "orders/orders"),
    ("web", "GET", "orders/orders/ID"),
    ("reports", "GET", "orders/orders"),
    ("web", "POST", "orders/orders/ID/refund"),
    ("reports", "GET", "payments/cards/ID"),
    ("orders", "POST", "payments/payments"),
];
/// Everything with a path is looked at, as by a rule against one that only operators may use.
const GUARD: &str = "\n@id(\"no-admin\")\n@owner(\"o\")\nforbid (principal, action in Action::\"http\", resource)\nwhen { context.http.path like \"/admin/*\" };\n";

fn snapshot(dir: &Path) -> Arc<Snapshot> {
    let loaded = author::load(dir);
    let compiled = loaded.compiled.unwrap();
    Snapshot::new(compiled, 1).unwrap()
}

/// A copy of the sample repository with the guard.
fn repository(dir: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"))
        .arg(dir)
        .status();
    assert!(copied.unwrap().success());
    let file = dir.join("policies/guard-rails.cedar");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(file, text + GUARD).unwrap();
}

/// A log of decisions of which every `distinct` in a row differ.
fn log(dir: &Path, snapshot: &Arc<Snapshot>, distinct: u64) -> Log {
    let domain = snapshot.catalogue().trust_domain().clone();
    let reporter = domain.id("ns/shop/sa/orders").unwrap();
    let options = LogOptions::new(domain);
    let log = Log::open(dir, options, Clock::system()).unwrap();
    let boot = Ulid::from_parts(1, 1);
    let stream = Arc::new(StreamKey {
        reporter: reporter.clone(),
        boot,
        worker: 0,
    });
    let mut engine = snapshot.engine().with_self_check(0);
    let mut batch = Vec::new();
    for n in 0..RECORDS {
        let (who, method, target) = ASKED[usize::try_from(n).unwrap() % ASKED.len()];
        let ask = Ask {
            principal: who.into(),
            verb: method.into(),
            target: target.replace("ID", &(n % distinct).to_string()),
            now_us: NOW_US,
            ..Ask::default()
        };
        let question = author::question(snapshot.catalogue(), &ask).unwrap();
        let answer = engine.decide(&question.as_question()).decision;
        let body = Decision {
            verdict: answer.verdict.wire().into(),
            reason: answer.verdict.reason().into(),
            principal: Some(Peer {
                spiffe_id: question.connection.peer.id.to_string(),
                serial: vec![7; 16],
                not_after_s: 1_795_192_200,
            }),
            action: answer.action.to_string(),
            resource_type: answer.resource_type.into(),
            resource_id: answer.resource_id.to_string(),
            service: question.service.id.to_string(),
            method: question.request.method.as_str().into(),
            host: question.request.host.to_string(),
            path: question.request.path.to_string(),
            route: "/orders/{id}".into(),
            policies: answer.determining.iter().map(ToString::to_string).collect(),
            versions: Some(Versions {
                policy_digest: vec![3; 32],
                policy_sequence: 12,
                discovery: 4,
                kill_list: 1,
            }),
            decision_ns: 1_800,
            enforced: true,
            source_ip: "10.1.2.3".into(),
            source_port: 43_210,
            context_json: answer.context_json.to_string(),
            ..Decision::default()
        };
        let record = Record {
            id: Ulid::from_parts(1_795_188_600_000 + n, n.into())
                .to_bytes()
                .to_vec(),
            time_us: NOW_US,
            reporter: reporter.to_string(),
            mode: AuditMode::Spool.into(),
            demo: false,
            body: Some(Body::Decision(body)),
            ..Record::default()
        };
        batch.push(Pending {
            stream: Arc::clone(&stream),
            sequence: n + 1,
            record: record.encode_to_vec().into(),
        });
        if batch.len() == GROUP || n + 1 == RECORDS {
            let receipt = log.append(std::mem::take(&mut batch));
            wait(receipt);
        }
    }
    log
}

fn wait(mut receipt: Receipt) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(receipt.durable()).unwrap();
}

/// Goes through the whole log; how many verdicts differ.
fn replay(log: &Log, candidate: &Arc<Snapshot>) -> u64 {
    let window = Window {
        from_us: i64::MIN,
        to_us: i64::MAX,
    };
    let mut replay = Replay::new(Arc::clone(candidate));
    let (mut seen, mut flips) = (0, 0);
    let mut decisions = Decisions::new(log, &Query::parse("").unwrap(), window).unwrap();
    decisions
        .visit(|_, leaf| {
            let record = DecisionRef::of_leaf(leaf).unwrap();
            let past = Past {
                time_us: record.time_us,
                principal: record.principal,
                proven: !record.serial.is_empty(),
                service: record.service,
                method: record.method,
                host: record.host,
                path: record.path,
                source_ip: record.source_ip,
                source_port: record.source_port,
                context_json: record.context_json,
                covered: &record.covered,
            };
            let again = replay.decide(&past).unwrap();
            seen += 1;
            flips += u64::from((record.verdict == Verdict::Allow) != again.verdict.is_allow());
            ControlFlow::<()>::Continue(())
        })
        .unwrap();
    assert_eq!(seen, RECORDS);
    flips
}

/// CPU time of this thread so far, in nanoseconds.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unwrap()
}

fn replays(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    repository(&dir.path().join("policies"));
    let snapshot = snapshot(&dir.path().join("policies"));
    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Elements(RECORDS));
    group.warm_up_time(Duration::from_secs(1));
    group.measurement_time(Duration::from_secs(5));
    group.sample_size(10);
    for (name, distinct) in [("alike", 50), ("all different", RECORDS)] {
        let log = log(&dir.path().join(name), &snapshot, distinct);
        assert_eq!(replay(&log, &snapshot), 0);
        let begun = cpu_ns();
        for _ in 0..PASSES {
            black_box(replay(&log, &snapshot));
        }
        let each = (cpu_ns() - begun) as f64 / (PASSES * RECORDS) as f64;
        println!(
            "cpu {name}: {each:.0} ns a record, {:.0} a second",
            1e9 / each
        );
        group.bench_function(name, |b| b.iter(|| black_box(replay(&log, &snapshot))));
        log.close();
    }
    group.finish();
}

criterion_group!(benches, replays);
criterion_main!(benches);
