//! Questions while twenty thousand records arrive each second: what was acknowledged before a
//! question is in its answer, unless the answer says how far it is behind.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use palisade_audit::{
    index::{Options, Store},
    log::{Log, LogOptions, Pending},
    query::Query,
    stream::StreamKey,
};
use palisade_mesh::{
    clock::Clock,
    spiffe_id::{SpiffeId, TrustDomain},
    wire::record::{AuditMode, Decision, Record, record::Body},
};
use prost::Message as _;
use tokio::runtime::Runtime;
use ulid::Ulid;

const REPORTER: &str = "spiffe://acme.test/ns/shop/sa/web";
/// Records of a group, and the time from one group to the next: 20,000 a second.
const GROUP: u64 = 400;
const EVERY: Duration = Duration::from_millis(20);
/// One record of so many is asked for.
const ONE_OF: u64 = 20;
/// Rows of a page, so that an answer has several.
const PAGE: usize = 500;
/// For an index on a busy machine to have everything, once nothing arrives any more.
const PATIENCE: Duration = Duration::from_secs(120);

/// An encoded decision with the number `n` in its path.
fn record(n: u64, clock: &Clock) -> Bytes {
    let now_us = clock.now_us();
    let id = Ulid::from_parts(now_us.unsigned_abs() / 1000, u128::from(n));
    let kind = match n.is_multiple_of(ONE_OF) {
        true => "asked",
        false => "other",
    };
    let record = Record {
        id: id.to_bytes().to_vec(),
        time_us: now_us,
        reporter: REPORTER.into(),
        mode: AuditMode::Spool.into(),
        body: Some(Body::Decision(Decision {
            verdict: 1,
            reason: "permitted".into(),
            method: "GET".into(),
            service: "acme.test/shop/orders".into(),
            path: format!("/{kind}/{n}"),
            ..Decision::default()
        })),
        ..Record::default()
    };
    record.encode_to_vec().into()
}

struct Stage {
    log: Log,
    store: Store,
    clock: Clock,
    /// How many records the log has acknowledged.
    acknowledged: AtomicU64,
    over: AtomicBool,
}

impl Stage {
    /// Appends a group every [`EVERY`]; each is acknowledged before the next is made.
    fn arrive(&self, groups: u64) {
        let runtime = Runtime::new().unwrap();
        let stream = Arc::new(StreamKey {
            reporter: SpiffeId::parse(REPORTER).unwrap(),
            boot: Ulid::from_parts(1, 1),
            worker: 0,
        });
        let begun = Instant::now();
        for group in 0..groups {
            let due = EVERY.saturating_mul(u32::try_from(group).unwrap());
            std::thread::park_timeout(due.saturating_sub(begun.elapsed()));
            let first = group * GROUP;
            let batch = (first..first + GROUP).map(|n| Pending {
                stream: stream.clone(),
                sequence: n + 1,
                record: record(n, &self.clock),
            });
            let mut receipt = self.log.append(batch.collect());
            runtime.block_on(receipt.durable()).unwrap();
            self.acknowledged.store(first + GROUP, Ordering::SeqCst);
        }
        self.over.store(true, Ordering::SeqCst);
        let rate = (groups * GROUP) as f64 / begun.elapsed().as_secs_f64();
        println!("{rate:.0} records arrived each second");
    }

    /// Asks for everything, page by page; gives how far behind the index was.
    fn ask(&self, query: &Query) -> u64 {
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        let (mut found, mut behind, mut cursor) = (BTreeSet::new(), None, None);
        loop {
            let page = self.store.search(query, PAGE, cursor).unwrap();
            let coverage = &page.coverage;
            assert_eq!(coverage.unreadable, 0);
            assert_eq!(coverage.complete, coverage.behind == 0, "{coverage:?}");
            behind.get_or_insert(coverage.behind);
            for row in &page.rows {
                let row = serde_json::to_value(row).unwrap();
                let path = row["path"].as_str().unwrap();
                let n: u64 = path.strip_prefix("/asked/").unwrap().parse().unwrap();
                assert!(found.insert(n), "{n} is in two pages");
            }
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        let behind = behind.unwrap();
        let had = acknowledged.saturating_sub(behind);
        let missed: Vec<u64> = (0..had)
            .filter(|n| n.is_multiple_of(ONE_OF) && !found.contains(n))
            .collect();
        assert!(
            missed.is_empty(),
            "{missed:?} of {acknowledged} acknowledged, {behind} behind"
        );
        behind
    }
}

fn misses_nothing(groups: u64) {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let options = LogOptions::new(TrustDomain::parse("acme.test").unwrap());
    let log = Log::open(&dir.path().join("log"), options, clock.clone()).unwrap();
    let source = Arc::new(log.clone());
    let index = dir.path().join("index");
    let store = Store::open(source, &index, clock.clone(), Options::default()).unwrap();
    let stage = Stage {
        log,
        store,
        clock,
        acknowledged: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    let query = Query::parse("path:/asked/* last:1h").unwrap();
    let (mut questions, mut whole) = (0_u64, 0_u64);
    std::thread::scope(|scope| {
        scope.spawn(|| stage.arrive(groups));
        while !stage.over.load(Ordering::SeqCst) {
            questions += 1;
            whole += u64::from(stage.ask(&query) == 0);
        }
    });
    println!("{questions} questions, {whole} of them with everything");
    assert!(questions > 0);
    // All of it is there without another word, a little later.
    let begun = Instant::now();
    while stage.ask(&query) > 0 {
        assert!(begun.elapsed() < PATIENCE, "the index does not catch up");
        std::thread::park_timeout(EVERY);
    }
    assert_eq!(stage.store.count(&query).unwrap(), groups * GROUP / ONE_OF);
}

#[test]
fn a_search_while_records_arrive_misses_nothing() {
    misses_nothing(100);
}

/// A minute of it.
#[test]
#[ignore = "takes long; in release, by name"]
fn a_search_while_a_million_records_arrive_misses_nothing() {
    misses_nothing(3000);
}
