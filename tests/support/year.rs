//! A year of decisions, put into a log as a mesh would have left them.

use std::{path::Path, sync::Arc, time::Duration};

use jiff::{Timestamp, ToSpan};
use palisade_audit::{
    log::{Log, LogOptions, Pending},
    stream::StreamKey,
};
use palisade_mesh::{
    clock::Clock,
    decision::DecisionIds,
    spiffe_id::{SpiffeId, TrustDomain},
    wire::record::{AuditMode, Decision, Peer, Record, Verdict, Versions, record::Body},
};
use prost::Message as _;

/// Days of it, up to yesterday.
pub const DAYS: u32 = 360;
/// Days whose records arrive together; what is older than a month is not believed.
const BATCH_DAYS: usize = 20;
const DAY_US: i64 = 86_400_000_000;
const DOMAIN: &str = "demo.test";
const REPORTER: &str = "spiffe://demo.test/ns/shop/sa/orders";

/// A request that comes once a day.
#[derive(Debug, Clone)]
pub struct Habit {
    /// SPIFFE ID of the caller.
    pub principal: String,
    /// `NAMESPACE/NAME` of the service that is asked.
    pub service: String,
    pub action: String,
    pub method: &'static str,
    pub resource: String,
    pub path: String,
    pub verdict: Verdict,
}

/// Fills the log in `dir` with a year in which every habit is followed each day.
pub fn fill(dir: &Path, habits: &[Habit]) {
    fill_with(dir, habits, |_, _| {});
}

/// The same, with each record as `edit` leaves it.
pub fn fill_with(dir: &Path, habits: &[Habit], edit: impl Fn(&Habit, &mut Record)) {
    let begins = Timestamp::now() - (24 * i64::from(DAYS) + 24).hours();
    let clock = Clock::manual(begins);
    let options = LogOptions {
        group_wait: Duration::ZERO,
        ..LogOptions::new(TrustDomain::parse(DOMAIN).unwrap())
    };
    let log = Log::open(dir, options, clock.clone()).unwrap();
    let mut ids = DecisionIds::new();
    let stream = Arc::new(StreamKey {
        reporter: SpiffeId::parse(REPORTER).unwrap(),
        boot: ulid::Ulid::from_bytes(id(&mut ids, clock.now_us())),
        worker: 0,
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut sequence = 0;
    for first in (0..DAYS).step_by(BATCH_DAYS) {
        let mut batch = Vec::new();
        for day in first..DAYS.min(first + BATCH_DAYS as u32) {
            let time_us = begins.as_microsecond() + i64::from(day) * DAY_US;
            batch.extend(habits.iter().map(|habit| {
                sequence += 1;
                let mut record = record(habit, &mut ids, time_us);
                edit(habit, &mut record);
                Pending {
                    stream: stream.clone(),
                    sequence,
                    record: record.encode_to_vec().into(),
                }
            }));
        }
        clock.advance(Duration::from_micros(DAY_US as u64) * BATCH_DAYS as u32);
        let mut receipt = log.append(batch);
        runtime.block_on(receipt.durable()).unwrap();
    }
    log.close();
}

fn id(ids: &mut DecisionIds, now_us: i64) -> [u8; 16] {
    ids.next(now_us).to_bytes()
}

fn record(habit: &Habit, ids: &mut DecisionIds, now_us: i64) -> Record {
    let (_, host) = habit.service.split_once('/').unwrap();
    Record {
        id: id(ids, now_us).to_vec(),
        time_us: now_us,
        reporter: REPORTER.into(),
        mode: AuditMode::Spool.into(),
        body: Some(Body::Decision(Decision {
            verdict: habit.verdict.into(),
            reason: match habit.verdict {
                Verdict::Allow => "permitted".into(),
                _ => "no_permit".into(),
            },
            principal: Some(Peer {
                spiffe_id: habit.principal.clone(),
                serial: vec![7; 16],
                ..Peer::default()
            }),
            action: habit.action.clone(),
            resource_type: "Operation".into(),
            resource_id: habit.resource.clone(),
            service: format!("{DOMAIN}/{}", habit.service),
            method: habit.method.into(),
            host: host.into(),
            path: habit.path.clone(),
            enforced: true,
            source_ip: "10.0.0.7".into(),
            context_json: "{\"tls\":{\"mtls\":true}}".into(),
            versions: Some(Versions {
                policy_digest: vec![7; 32],
                policy_sequence: 1,
                ..Versions::default()
            }),
            ..Decision::default()
        })),
        ..Record::default()
    }
}
