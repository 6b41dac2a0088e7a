//! Records in a log, without a mesh: as if one reporter had sent them.

use std::{ops::RangeInclusive, path::Path, time::Duration};

use palisade_audit::{
    ingest::Ingest,
    log::{Log, LogOptions},
};
use palisade_mesh::{
    clock::Clock,
    spiffe_id::{SpiffeId, TrustDomain},
    wire::{
        audit::StreamId,
        record::{Decision, Record, SpoolEvent, record::Body},
    },
};
use prost::Message as _;

use super::{LIMIT, wait_for};

/// Who reports them.
pub const REPORTER: &str = "spiffe://demo.test/ns/shop/sa/orders";

/// Records that are sent at once.
const BATCH: usize = 1000;

/// Adds decisions of requests below `path`, with these numbers in their stream, to the log in `dir`.
pub fn grow(dir: &Path, numbers: RangeInclusive<u64>, path: &str) {
    grow_of(dir, REPORTER, numbers, path);
}

/// The same of another reporter, to a log of its trust domain.
pub fn grow_of(dir: &Path, reporter: &str, numbers: RangeInclusive<u64>, path: &str) {
    let record = |n: u64| -> bytes::Bytes {
        let decision = Decision {
            path: format!("{path}/{n}"),
            ..Decision::default()
        };
        encoded(
            n,
            reporter,
            Clock::system().now_us(),
            Body::Decision(decision),
        )
    };
    push(dir, *numbers.start(), reporter, numbers.map(record));
}

/// Adds a decision about `path`, with this number in its stream, to the same log, of a reporter
/// whose clock said `time_us`.
pub fn decide_at(dir: &Path, reporter: &str, number: u64, path: &str, time_us: i64) {
    let decision = Decision {
        path: path.into(),
        ..Decision::default()
    };
    let record = encoded(number, reporter, time_us, Body::Decision(decision));
    push(dir, number, reporter, [record].into_iter());
}

/// Adds what a reporter declares, with this number in its stream, to the log in `dir` of the trust
/// domain that it is of.
pub fn declare(dir: &Path, number: u64, reporter: &str, event: SpoolEvent) {
    let body = Body::SpoolEvent(event);
    let record = encoded(number, reporter, Clock::system().now_us(), body);
    push(dir, number, reporter, [record].into_iter());
}

fn encoded(number: u64, reporter: &str, time_us: i64, body: Body) -> bytes::Bytes {
    let record = Record {
        id: u128::from(number).to_be_bytes().to_vec(),
        time_us,
        reporter: reporter.into(),
        body: Some(body),
        ..Record::default()
    };
    record.encode_to_vec().into()
}

fn push(dir: &Path, first: u64, reporter: &str, records: impl Iterator<Item = bytes::Bytes>) {
    let id: SpiffeId = reporter.parse().unwrap();
    let options = LogOptions {
        checkpoint_every: Duration::from_millis(20),
        ..LogOptions::new(TrustDomain::parse(id.trust_domain()).unwrap())
    };
    let log = Log::open(dir, options, Clock::system()).unwrap();
    let before = log.len();
    let stream = StreamId {
        reporter: reporter.into(),
        boot: vec![1; 16],
        worker: 0,
    };
    let records: Vec<_> = records.collect();
    let more = u64::try_from(records.len()).unwrap();
    let ingest = Ingest::new(log.clone(), Clock::system());
    let mut next = first;
    for batch in records.chunks(BATCH) {
        ingest.push(&stream, next, batch.to_vec()).unwrap();
        next += u64::try_from(batch.len()).unwrap();
    }
    wait_for("records in the log", LIMIT, || {
        (log.len() >= before + more).then_some(())
    });
    log.close();
}
