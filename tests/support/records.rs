//! Records in a log, without a mesh: as if one reporter had sent them.

use std::{ops::RangeInclusive, path::Path, time::Duration};

use palisade_audit::{
    ingest::Ingest,
    log::{Log, LogOptions},
};
use palisade_mesh::{
    clock::Clock,
    spiffe_id::TrustDomain,
    wire::{
        audit::StreamId,
        record::{Decision, Record, record::Body},
    },
};
use prost::Message as _;

use super::{LIMIT, wait_for};

/// Who reports them.
pub const REPORTER: &str = "spiffe://demo.test/ns/shop/sa/orders";

/// Adds decisions of requests below `path`, with these numbers in their stream, to the log in `dir`.
pub fn grow(dir: &Path, numbers: RangeInclusive<u64>, path: &str) {
    let options = LogOptions {
        checkpoint_every: Duration::from_millis(20),
        ..LogOptions::new(TrustDomain::parse("demo.test").unwrap())
    };
    let log = Log::open(dir, options, Clock::system()).unwrap();
    let before = log.len();
    let stream = StreamId {
        reporter: REPORTER.into(),
        boot: vec![1; 16],
        worker: 0,
    };
    let record = |n: u64| -> bytes::Bytes {
        let decision = Decision {
            path: format!("{path}/{n}"),
            ..Decision::default()
        };
        let record = Record {
            id: u128::from(n).to_be_bytes().to_vec(),
            time_us: Clock::system().now_us(),
            reporter: REPORTER.into(),
            body: Some(Body::Decision(decision)),
            ..Record::default()
        };
        record.encode_to_vec().into()
    };
    let records: Vec<_> = numbers.clone().map(record).collect();
    let more = u64::try_from(records.len()).unwrap();
    let ingest = Ingest::new(log.clone(), Clock::system());
    ingest.push(&stream, *numbers.start(), records).unwrap();
    wait_for("records in the log", LIMIT, || {
        (log.len() >= before + more).then_some(())
    });
    log.close();
}
