//! What two proxies say of their requests, and what is made of it.

use std::{collections::BTreeMap, sync::Arc};

use palisade_mesh::{
    clock::Clock,
    spiffe_id::SpiffeId,
    wire::record::{Call, Decision, Outcome, Peer, Record, record::Body},
};
use prost::Message as _;
use ulid::Ulid;

use super::*;
use crate::{log::Pending, stream::StreamKey, testing::open_log};

const WEB: &str = "spiffe://acme.test/ns/shop/sa/web";
const ORDERS: &str = "spiffe://acme.test/ns/shop/sa/orders";
const SERVICE: &str = "acme.test/shop/orders";

/// What two proxies send, an hour ago.
struct Story {
    _dir: tempfile::TempDir,
    log: Log,
    sent: BTreeMap<&'static str, u64>,
    then_us: i64,
}

impl Story {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            log: open_log(&dir),
            _dir: dir,
            sent: BTreeMap::new(),
            then_us: Clock::system().now_us(),
        }
    }

    fn send(&mut self, reporter: &'static str, id: u8, body: Body) {
        self.send_as(reporter, id, [body]);
    }

    /// Records of one reporter in one batch.
    fn send_all(&mut self, reporter: &'static str, bodies: impl IntoIterator<Item = Body>) {
        self.send_as(reporter, 9, bodies);
    }

    fn send_as(&mut self, reporter: &'static str, id: u8, bodies: impl IntoIterator<Item = Body>) {
        let sequence = self.sent.entry(reporter).or_default();
        let stream = Arc::new(StreamKey {
            reporter: SpiffeId::parse(reporter).unwrap(),
            boot: Ulid::from_parts(1, 1),
            worker: 0,
        });
        let pending = |body| {
            *sequence += 1;
            let record = Record {
                id: vec![id; 16],
                time_us: self.then_us,
                reporter: reporter.into(),
                body: Some(body),
                ..Record::default()
            };
            Pending {
                stream: stream.clone(),
                sequence: *sequence,
                record: record.encode_to_vec().into(),
            }
        };
        let batch = bodies.into_iter().map(pending).collect();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(self.log.append(batch).durable()).unwrap();
    }

    fn call(&mut self, id: u8, status: u32) {
        let call = Call {
            service: SERVICE.into(),
            status,
            ..Call::default()
        };
        self.send(WEB, id, Body::Call(call));
    }

    fn decision(&mut self, id: u8, caller: &str, request: Option<u8>) {
        let decision = Decision {
            principal: Some(Peer {
                spiffe_id: caller.into(),
                ..Peer::default()
            }),
            service: SERVICE.into(),
            request_id: request.map_or(Vec::new(), |id| vec![id; 16]),
            ..Decision::default()
        };
        self.send(ORDERS, id, Body::Decision(decision));
    }

    /// A decision whose request has ended.
    fn ended(&mut self, id: u8, caller: &str, request: u8) {
        self.decision(id, caller, Some(request));
        self.send(ORDERS, id, Body::Outcome(Outcome::default()));
    }

    /// As it looks `later_s` seconds after.
    fn judged(&self, later_s: u64) -> Reconciliation {
        self.judged_within(later_s, HALVES_MAX)
    }

    fn judged_within(&self, later_s: u64, halves_max: usize) -> Reconciliation {
        let window = Window {
            from_us: self.then_us - 1,
            to_us: self.then_us + 1,
        };
        let now_us = self.then_us + i64::try_from(later_s).unwrap() * 1_000_000;
        compare(&Going::default(), &self.log, window, now_us, halves_max).unwrap()
    }
}

fn kinds(report: &Reconciliation) -> Vec<(Mismatch, u8)> {
    let id = |one: &OneSided| Ulid::from_string(&one.id).unwrap().to_bytes()[0];
    report.one_sided.iter().map(|o| (o.kind, id(o))).collect()
}

#[test]
fn what_both_sides_recorded_agrees_and_what_one_did_is_named() {
    let mut story = Story::new();
    story.call(1, 200);
    story.decision(101, WEB, Some(1));
    story.call(2, 403);
    story.ended(103, WEB, 3);
    story.decision(104, WEB, None);
    story.decision(105, ORDERS, Some(1));
    story.call(6, 0);
    let report = story.judged(60);
    assert_eq!(report.agreed, 1, "{report:?}");
    assert_eq!(
        kinds(&report),
        [
            (Mismatch::CallAlone, 2),
            (Mismatch::DecisionAlone, 103),
            (Mismatch::DecisionAlone, 104),
            (Mismatch::Repeated, 105),
        ]
    );
    assert_eq!((report.unanswered, report.settling), (1, 0));
    assert!(report.whole && report.one_sided.iter().all(|o| !o.loss_known));
}

#[test]
fn an_id_that_another_caller_borrowed_contradicts_its_call() {
    let mut story = Story::new();
    story.call(1, 200);
    story.decision(101, ORDERS, Some(1));
    assert_eq!(kinds(&story.judged(60)), [(Mismatch::Contradiction, 101)]);
}

#[test]
fn what_has_just_arrived_may_wait_for_its_other_half() {
    let mut story = Story::new();
    story.call(1, 200);
    story.ended(102, WEB, 2);
    let report = story.judged(1);
    assert_eq!((report.one_sided.len(), report.settling), (0, 2));
    assert_eq!(story.judged(60).one_sided.len(), 2);
}

#[test]
fn callers_without_a_proxy_are_counted_and_not_accused() {
    let mut story = Story::new();
    story.decision(101, "spiffe://acme.test/ns/ops/sa/cron", None);
    let report = story.judged(60);
    assert!(report.one_sided.is_empty());
    assert_eq!(report.without_proxy.len(), 1);
}

#[test]
fn a_known_loss_of_the_silent_side_is_said() {
    let mut story = Story::new();
    story.ended(101, WEB, 1);
    let lost = palisade_mesh::wire::record::SpoolEvent {
        verb: "dropped".into(),
        best_effort: 1,
        ..Default::default()
    };
    story.send(WEB, 9, Body::SpoolEvent(lost));
    let report = story.judged(60);
    assert!(report.one_sided[0].loss_known, "{report:?}");
}

/// The call is recorded when the answer begins: until the outcome says that the request has
/// ended, nothing is missing; and not for ever.
#[test]
fn a_decision_whose_request_goes_on_waits_for_its_outcome() {
    let mut story = Story::new();
    story.decision(101, WEB, Some(1));
    let minutes = |story: &Story, n: u64| {
        let report = story.judged(n * 60);
        (report.settling, report.one_sided.len())
    };
    assert_eq!(minutes(&story, 1), (1, 0));
    assert_eq!(minutes(&story, 59), (1, 0));
    assert_eq!(minutes(&story, 61), (0, 1));
    // An outcome of somebody else's says nothing.
    story.send(WEB, 101, Body::Outcome(Outcome::default()));
    assert_eq!(minutes(&story, 1), (1, 0));
    story.send(ORDERS, 101, Body::Outcome(Outcome::default()));
    assert_eq!(minutes(&story, 1), (0, 1));
    // The call that comes after all clears it.
    story.call(1, 200);
    assert_eq!(minutes(&story, 1), (0, 0));
    assert_eq!(story.judged(60).agreed, 1);
}

/// What the destination answers by itself has no outcome to wait for.
#[test]
fn a_decision_that_was_the_answer_is_missed_a_call_at_once() {
    let mut story = Story::new();
    let decision = Decision {
        principal: Some(Peer {
            spiffe_id: WEB.into(),
            ..Peer::default()
        }),
        service: SERVICE.into(),
        request_id: vec![1; 16],
        status: 403,
        ..Decision::default()
    };
    story.send(ORDERS, 101, Body::Decision(decision));
    assert_eq!(kinds(&story.judged(60)), [(Mismatch::DecisionAlone, 101)]);
}

#[test]
fn a_comparison_that_holds_its_limit_ends_there_and_says_so() {
    let mut story = Story::new();
    for n in 1..=9 {
        story.call(n, 200);
    }
    let all = story.judged_within(60, 10);
    assert!(all.whole);
    assert_eq!(all.one_sided.len(), 9);
    let cut = story.judged_within(60, 5);
    assert!(!cut.whole);
    assert!(cut.to_us < all.to_us && cut.one_sided.is_empty(), "{cut:?}");
}

/// The service that a destination names may lack what stands before it.
#[test]
fn a_destination_may_know_the_end_of_its_name_alone() {
    for (known, agreed) in [
        ("acme.test/shop/orders", 1),
        ("shop/orders", 1),
        ("orders", 1),
        ("", 1),
        ("rders", 0),
        ("acme.test/shop", 0),
        ("acme.test/shop/stock", 0),
    ] {
        let mut story = Story::new();
        story.call(1, 200);
        let decision = Decision {
            principal: Some(Peer {
                spiffe_id: WEB.into(),
                ..Peer::default()
            }),
            service: known.into(),
            request_id: vec![1; 16],
            ..Decision::default()
        };
        story.send(ORDERS, 101, Body::Decision(decision));
        assert_eq!(story.judged(60).agreed, agreed, "{known}");
    }
}

#[test]
fn callers_without_a_proxy_are_named_up_to_a_limit() {
    const CALLERS: usize = NAMED_MAX + 1;
    let mut story = Story::new();
    let names: Vec<String> = (0..CALLERS)
        .map(|n| format!("spiffe://acme.test/ns/ops/sa/cron-{n}"))
        .collect();
    let records = names.iter().map(|name| {
        let decision = Decision {
            principal: Some(Peer {
                spiffe_id: name.clone(),
                ..Peer::default()
            }),
            ..Decision::default()
        };
        Body::Decision(decision)
    });
    story.send_all(ORDERS, records);
    let report = story.judged(60);
    assert_eq!(report.without_proxy.len(), NAMED_MAX);
    assert_eq!(report.without_proxy_more, 1);
    assert!(report.without_proxy.contains_key(&names[0]));
}
