//! A log in memory, and the records in it.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use palisade_mesh::{
    clock::Clock,
    wire::{
        audit::{Envelope, StreamId},
        record::{
            AuthnFailure, Credential, Decision, Outcome, Peer, Record, Rejudgement, Versions,
            record::Body,
        },
    },
};
use proptest::prelude::*;
use prost::Message;
use tokio::sync::watch;

use crate::{
    archive::{Away, Why},
    index::{BucketSpan, Options, Status, Store},
    item::{Item, JoinKey},
    log::LogError,
    query::{Query, Window},
    source::{Entry, Source, SourceError},
};

/// 2026-11-20T12:00:00Z.
pub(crate) const NOW: i64 = 1_795_176_000_000_000;

pub(crate) struct Log {
    entries: Mutex<Vec<Entry>>,
    broken: Mutex<HashSet<u64>>,
    /// In an archive that has lost it.
    lost: Mutex<Range<u64>>,
    length: watch::Sender<u64>,
    pressed: Mutex<Option<String>>,
    reads: AtomicU64,
}

impl Log {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            entries: Mutex::default(),
            broken: Mutex::default(),
            lost: Mutex::new(0..0),
            length: watch::Sender::new(0),
            pressed: Mutex::default(),
            reads: AtomicU64::new(0),
        })
    }

    /// Appends a record as the reporter named in it, received at its time.
    pub(crate) fn append(&self, record: Record) -> u64 {
        let received_us = record.time_us;
        self.append_received(record, received_us)
    }

    pub(crate) fn append_received(&self, record: Record, received_us: i64) -> u64 {
        let mut entries = self.entries.lock().unwrap();
        let index = entries.len() as u64;
        entries.push(Entry {
            index,
            envelope: Envelope {
                version: 1,
                stream: Some(StreamId {
                    reporter: record.reporter.clone(),
                    ..StreamId::default()
                }),
                sequence: index + 1,
                received_us,
                salt: index.to_be_bytes().to_vec(),
                record: record.encode_to_vec().into(),
                sealed: None,
            },
            record,
        });
        self.length.send_replace(index + 1);
        index
    }

    pub(crate) fn truncate(&self, to: usize) {
        self.entries.lock().unwrap().truncate(to);
        self.length.send_replace(to as u64);
    }

    /// From now on there is no room for an index, or there is again.
    pub(crate) fn press(&self, why: Option<&str>) {
        *self.pressed.lock().unwrap() = why.map(Into::into);
    }

    pub(crate) fn break_entry(&self, index: u64) {
        self.broken.lock().unwrap().insert(index);
    }

    /// How often an entry was read.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    pub(crate) fn lose(&self, entries: Range<u64>) {
        *self.lost.lock().unwrap() = entries;
    }

    /// Every item, joined by the rule, in the obvious way.
    pub(crate) fn items(&self) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        let mut last: HashMap<JoinKey, usize> = HashMap::new();
        for entry in self.entries.lock().unwrap().iter() {
            let item = Item::new(entry.clone());
            if let Some((key, outcome)) = item.joins()
                && let Some(decision) = last.get(&key)
            {
                let outcome = (item.at, outcome.clone());
                items[*decision].outcome.get_or_insert(outcome);
            }
            if let Some(key) = item.joinable() {
                last.insert(key, items.len());
            }
            items.push(item);
        }
        items
    }

    /// What a linear scan finds, newest first.
    pub(crate) fn scan_for(&self, query: &Query, window: Window) -> Vec<Item> {
        let mut found: Vec<Item> = self
            .items()
            .into_iter()
            .filter(|item| window.contains(item.time_us) && query.matches(item))
            .collect();
        found.sort_by_key(|item| std::cmp::Reverse((item.time_us, item.at)));
        found
    }
}

impl Source for Log {
    fn pressed(&self) -> Option<String> {
        self.pressed.lock().unwrap().clone()
    }

    fn len(&self) -> u64 {
        *self.length.borrow()
    }

    fn read(&self, index: u64) -> Result<Entry, SourceError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let lost = self.lost.lock().unwrap().clone();
        if lost.contains(&index) {
            let away = Away {
                store: "file:///archive".into(),
                segment: lost.start,
                next: lost.end,
                object: "lost".into(),
                why: Why::Missing,
                cause: "it is gone".into(),
            };
            let cause = Box::new(LogError::Away(Box::new(away)));
            return Err(SourceError { index, cause });
        }
        let broken = self.broken.lock().unwrap().contains(&index);
        let entries = self.entries.lock().unwrap();
        let entry = entries.get(index as usize).filter(|_| !broken);
        entry.cloned().ok_or_else(|| SourceError {
            index,
            cause: "checksum differs".into(),
        })
    }

    fn scan(&self, from: u64) -> Box<dyn Iterator<Item = Result<Entry, SourceError>> + '_> {
        Box::new((from..self.len()).map(|index| self.read(index)))
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.length.subscribe()
    }
}

pub(crate) fn options() -> Options {
    Options {
        bucket: BucketSpan::Hour,
        writer_heap_bytes: 15_000_000,
        writers_max: 2,
        commit_every: Duration::from_secs(3600),
        recent_max: 24,
        ..Options::default()
    }
}

pub(crate) fn open(log: &Arc<Log>, dir: &Path) -> Store {
    open_with(log, dir, options())
}

pub(crate) fn open_with(log: &Arc<Log>, dir: &Path, options: Options) -> Store {
    let source: Arc<dyn Source> = Arc::clone(log) as _;
    let clock = Clock::manual(jiff::Timestamp::from_microsecond(NOW).unwrap());
    Store::open(source, dir, clock, options).unwrap()
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Waits until everything in the log can be found.
pub(crate) fn caught_up(store: &Store) {
    until(store, |status| {
        status.searchable == status.log_len && status.remaking == 0
    });
}

/// Asks for the status again and again until it is so, for a bounded time.
pub(crate) fn until(store: &Store, holds: impl Fn(&Status) -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let status = store.status();
        if holds(&status) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{status:?}");
        std::thread::yield_now();
    }
}

/// An id of this moment.
pub(crate) fn id_at(time_us: i64, random: u128) -> Vec<u8> {
    let id = ((time_us / 1000) as u128) << 80 | random;
    id.to_be_bytes().to_vec()
}

pub(crate) fn decision(time_us: i64, random: u128) -> Record {
    Record {
        id: id_at(time_us, random),
        time_us,
        reporter: "spiffe://acme.test/palisade/proxy/a".into(),
        mode: 2,
        demo: false,
        body: Some(Body::Decision(Decision {
            verdict: 1,
            reason: "permitted".into(),
            principal: Some(Peer {
                spiffe_id: "spiffe://acme.test/ns/shop/sa/web".into(),
                serial: vec![10, 11],
                not_after_s: 1_795_179_600,
            }),
            action: "GET".into(),
            resource_type: "Operation".into(),
            resource_id: "acme.test/shop/orders/list".into(),
            service: "acme.test/shop/orders".into(),
            method: "GET".into(),
            host: "orders".into(),
            path: "/orders/7".into(),
            route: "/orders/{id}".into(),
            policies: vec!["p1".into()],
            versions: Some(Versions {
                policy_digest: vec![1; 32],
                policy_sequence: 1,
                discovery: 1,
                kill_list: 0,
            }),
            decision_ns: 900,
            enforced: true,
            source_ip: "10.0.0.1".into(),
            trace_id: (0..16).collect(),
            ..Decision::default()
        })),
        ..Record::default()
    }
}

pub(crate) fn outcome_of(decision: &Record, time_us: i64, status: u32) -> Record {
    Record {
        time_us,
        body: Some(Body::Outcome(Outcome {
            status,
            end: 1,
            bytes_in: 10,
            bytes_out: 2000,
            duration_us: (time_us - decision.time_us) as u64,
            service: "acme.test/shop/orders".into(),
            principal: "spiffe://acme.test/ns/shop/sa/web".into(),
            upstream: "127.0.0.1:9000".into(),
            error: String::new(),
        })),
        ..decision.clone()
    }
}

/// Records of all kinds over some hours, with outcomes that belong to earlier
/// decisions, to none, or come twice.
pub(crate) fn any_records() -> impl Strategy<Value = Vec<Record>> {
    prop::collection::vec(any_step(), 1..90).prop_map(|steps| {
        let mut records: Vec<Record> = Vec::new();
        for (kind, pick, seconds, words) in steps {
            let time_us = NOW - 7_200_000_000 + i64::from(seconds) * 1_000_000;
            let record = match kind {
                0..=4 => any_decision(time_us, words),
                5..=7 => match records.get(pick % records.len().max(1)) {
                    Some(earlier) => any_outcome(earlier, time_us, words),
                    None => any_decision(time_us, words),
                },
                _ => any_other(kind, time_us, words),
            };
            records.push(record);
        }
        records
    })
}

fn any_step() -> impl Strategy<Value = (u8, usize, u16, u64)> {
    // Few distinct seconds, so that times are equal now and then.
    (0_u8..11, any::<usize>(), 0_u16..400, any::<u64>()).prop_map(|(k, p, s, w)| (k, p, s * 20, w))
}

/// One of these, by some bits of `words`.
fn one<T: Clone>(words: u64, bit: u32, choices: &[T]) -> T {
    choices[(words.rotate_right(bit) % choices.len() as u64) as usize].clone()
}

fn reporter(words: u64) -> String {
    format!(
        "spiffe://acme.test/palisade/proxy/{}",
        one(words, 3, &["a", "a", "b"])
    )
}

fn any_decision(time_us: i64, words: u64) -> Record {
    let mut record = decision(time_us, u128::from(words % 4));
    record.reporter = reporter(words);
    // Now and then a clock that contradicts the id.
    record.time_us += one(words, 5, &[0, 0, 0, 0, 1_999_000, 600_000_000]);
    record.mode = one(words, 7, &[0, 1, 2, 3]);
    if let Some(Body::Decision(d)) = &mut record.body {
        d.verdict = one(words, 9, &[0, 1, 1, 2, 3, 4, 5]);
        d.reason = one(words, 11, &["permitted", "no_permit", "", "forbid_errored"]).into();
        d.principal.as_mut().unwrap().spiffe_id = one(
            words,
            13,
            &[
                "spiffe://acme.test/ns/shop/sa/web",
                "spiffe://acme.test/ns/shop/sa/cron",
                "spiffe://other.test/web",
                "",
                "odd\nname/web",
            ],
        )
        .into();
        d.service = one(
            words,
            15,
            &["acme.test/shop/orders", "acme.test/shop/stock", ""],
        )
        .into();
        d.method = one(words, 17, &["GET", "POST", "PUT", ""]).into();
        d.path = one(
            words,
            19,
            &["/orders/7", "/orders/17/lines", "/", "/a b", "/ä*"],
        )
        .into();
        d.policies = one(
            words,
            21,
            &[vec![], vec!["p1"], vec!["p1", "p2"], vec!["p1", "p1"]],
        )
        .into_iter()
        .map(String::from)
        .collect();
        d.status = one(words, 23, &[0, 0, 403, 503]);
        d.versions = one(words, 25, &[None, d.versions.clone()]);
        if let Some(v) = &mut d.versions {
            v.policy_sequence = one(words, 27, &[1, 2, 3]);
        }
        d.cached = one(words, 29, &[true, false]);
        d.source_ip = one(words, 31, &["10.0.0.1", "10.9.0.1", "::1", "nowhere", ""]).into();
        d.trace_id = one(
            words,
            33,
            &[
                vec![],
                (0..16).collect(),
                // The same low half: only the log can tell.
                (100..112).chain(12..16).collect(),
                vec![1, 2],
            ],
        );
    }
    record
}

fn any_outcome(earlier: &Record, time_us: i64, words: u64) -> Record {
    let mut record = outcome_of(earlier, time_us.max(earlier.time_us), 200);
    record.reporter = one(
        words,
        35,
        &[
            earlier.reporter.clone(),
            earlier.reporter.clone(),
            reporter(words),
        ],
    );
    if let Some(Body::Outcome(o)) = &mut record.body {
        o.status = one(words, 37, &[0, 200, 404, 500]);
        o.end = one(words, 39, &[0, 1, 4]);
        o.bytes_out = one(words, 41, &[0, 2000]);
        o.bytes_in = 0;
        o.duration_us = one(words, 43, &[0, 400, 2000]);
        o.error = one(words, 45, &["", "reset by peer"]).into();
    }
    record
}

fn any_other(kind: u8, time_us: i64, words: u64) -> Record {
    let mut record = decision(time_us, u128::from(words % 4));
    record.reporter = reporter(words);
    record.body = match kind {
        8 => Some(Body::Rejudgement(Rejudgement {
            verdict: one(words, 47, &[1, 2, 3]),
            reason: "no_permit".into(),
            policies: vec!["p1".into()],
            cause: "policy".into(),
            closed: true,
            ..Rejudgement::default()
        })),
        9 => Some(Body::AuthnFailure(AuthnFailure {
            reason: "wrong_trust_domain".into(),
            claimed_id: "spiffe://evil.test/x".into(),
            serial: vec![10, 11],
            source_ip: "10.0.0.1".into(),
            ..AuthnFailure::default()
        })),
        _ => Some(Body::Credential(Credential {
            verb: "issued".into(),
            spiffe_id: "spiffe://acme.test/ns/shop/sa/web".into(),
            serial: vec![10],
            ..Credential::default()
        })),
    };
    if words.is_multiple_of(7) {
        record.id.clear();
        record.body = None;
    }
    record
}
