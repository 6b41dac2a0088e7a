//! Both sides of a request, held against each other.
//!
//! The proxy of the caller records a call under an id that it sends along; the
//! destination's decision repeats that id, and names the caller that TLS has proven.
//! Two proxies would have to keep silent together for a request to leave no trace: what
//! only one of them recorded is named here. It is a request that went past a proxy,
//! records that are withheld, or records that are still on their way.

use std::collections::{BTreeMap, BTreeSet};

use palisade_mesh::{
    clock::Clock,
    wire::record::{Call, Decision, Record, record::Body},
};
use prost::Message as _;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Serialize, Serializer};
use ulid::Ulid;

use crate::{
    decisions::{first_received, received},
    envelope::{CALL, DECISION, EnvelopeRef, RecordPeek, SPOOL_EVENT},
    item::{AHEAD_MAX_US, filed_time},
    log::{Log, LogError},
    query::{Window, time::rfc3339},
    stream::StreamKey,
};

/// Records that one comparison reads, from the end of its time backwards; as many after it
/// are looked through for other halves.
pub const RECORDS_MAX: u64 = 2_000_000;

/// One-sided records that an answer names; more are counted.
pub const NAMED_MAX: usize = 1000;

/// How long after a record the other half may arrive without being missed: spools are
/// written every 50 ms and sent at once. A call is recorded when its answer begins, so one
/// that has been waiting for longer than this is named until then.
pub const SETTLE_US: i64 = 10 * 1_000_000;

/// How far beyond the asked time the other halves are looked for.
const AROUND_US: i64 = 3600 * 1_000_000;

/// What both sides of the requests of a time recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reconciliation {
    /// From when on requests were compared; later than asked where there were more than
    /// [`RECORDS_MAX`] records.
    #[serde(rename = "from", serialize_with = "time_text")]
    pub from_us: i64,
    /// Until when.
    #[serde(rename = "to", serialize_with = "time_text")]
    pub to_us: i64,
    /// Whether all of the time that was asked for was compared.
    pub whole: bool,
    /// Requests that both sides recorded, and agree about.
    pub agreed: u64,
    /// What one side recorded alone, or the two contradict each other about; in the
    /// order of the log.
    pub one_sided: Vec<OneSided>,
    /// The same beyond [`NAMED_MAX`].
    pub one_sided_more: u64,
    /// Calls that no destination answered and none decided about.
    pub unanswered: u64,
    /// Records whose other half may still arrive.
    pub settling: u64,
    /// Callers that call through no proxy of the mesh, and how many decisions name them:
    /// of these requests there is only one side.
    pub without_proxy: BTreeMap<String, u64>,
}

/// A request that the two sides do not agree about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OneSided {
    /// What is wrong.
    pub kind: Mismatch,
    /// Index in the log of the record that is there.
    pub entry: u64,
    /// Id of that record: the decision's, or the call's.
    pub id: String,
    /// When, as it is filed.
    #[serde(rename = "time", serialize_with = "time_text")]
    pub time_us: i64,
    /// Who recorded it.
    pub reporter: String,
    /// Who called, as far as the record tells.
    pub caller: String,
    /// Which service.
    pub service: String,
    /// Method.
    pub method: String,
    /// Path.
    pub path: String,
    /// Whether the side that kept silent has lost records that are known of: a gap in
    /// its numbers, or a loss that it declared.
    pub loss_known: bool,
}

/// How the two sides disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mismatch {
    /// The caller's proxy was answered, and no destination recorded a decision: the
    /// destination's proxy is silent, or was gone past.
    CallAlone,
    /// The decision names another caller or service than the call of its id.
    Contradiction,
    /// A decision names a caller whose proxy recorded no such call: the caller went past
    /// its proxy, or that proxy is silent.
    DecisionAlone,
    /// A second decision for a call that has one: the id was used again.
    Repeated,
}

impl Mismatch {
    /// A constant word, as answers have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::CallAlone => "call_alone",
            Self::Contradiction => "contradiction",
            Self::DecisionAlone => "decision_alone",
            Self::Repeated => "repeated",
        }
    }
}

fn time_text<S: Serializer>(us: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*us))
}

/// Compares the requests of `window`.
///
/// # Errors
/// When the log cannot be read.
pub fn reconcile(log: &Log, window: Window, clock: &Clock) -> Result<Reconciliation, LogError> {
    let begin = first_received(log, window.from_us.saturating_sub(AHEAD_MAX_US))?;
    // What comes after the time must not use up what can be read of it.
    let over = first_received(log, window.to_us.saturating_add(SETTLE_US))?;
    let end = first_received(log, window.to_us.saturating_add(AROUND_US))?;
    let end = end.min(over.saturating_add(RECORDS_MAX));
    let first = begin.max(over.saturating_sub(RECORDS_MAX));
    let whole = first == begin;
    // A record of the first moments may have its other half before what is read.
    let from_us = match whole {
        true => window.from_us,
        false => received(log, first)?.saturating_add(SETTLE_US),
    };
    let mut sides = Sides::new(Window {
        from_us: from_us.max(window.from_us),
        ..window
    });
    let mut scan = log.scan(first);
    while let Some(read) = scan.next_leaf() {
        let (entry, leaf) = read?;
        if entry >= end {
            break;
        }
        if let Some(envelope) = EnvelopeRef::decode(leaf) {
            sides.take(entry, &envelope);
        }
    }
    for gap in log.gaps().iter() {
        sides.lossy.insert(gap.stream.reporter.to_string());
    }
    let mut report = sides.judged(clock.now_us().saturating_sub(SETTLE_US));
    report.whole = whole;
    Ok(report)
}

/// What was read of both sides, by request id.
struct Sides {
    window: Window,
    /// Those whose other half has not come.
    calls: FxHashMap<[u8; 16], Half>,
    decisions: FxHashMap<[u8; 16], Half>,
    /// Ids of which both halves are there.
    paired: FxHashSet<[u8; 16]>,
    agreed: u64,
    contradicting: Vec<Half>,
    /// Decisions without a request id.
    unnamed: Vec<Half>,
    /// Second decisions of an id.
    repeated: Vec<Half>,
    /// Reporters of calls: callers that have a proxy.
    callers: BTreeSet<String>,
    /// Reporters of decisions, by service.
    destinations: BTreeMap<String, BTreeSet<String>>,
    /// Reporters that lost records, as far as is known.
    lossy: BTreeSet<String>,
}

/// One side's record of a request.
struct Half {
    entry: u64,
    id: [u8; 16],
    time_us: i64,
    received_us: i64,
    reporter: String,
    caller: String,
    service: String,
    method: String,
    path: String,
    answered: bool,
}

impl Sides {
    fn new(window: Window) -> Self {
        Self {
            window,
            calls: FxHashMap::default(),
            decisions: FxHashMap::default(),
            paired: FxHashSet::default(),
            agreed: 0,
            contradicting: Vec::new(),
            unnamed: Vec::new(),
            repeated: Vec::new(),
            callers: BTreeSet::new(),
            destinations: BTreeMap::new(),
            lossy: BTreeSet::new(),
        }
    }

    fn take(&mut self, entry: u64, envelope: &EnvelopeRef<'_>) {
        let Some(peek) = RecordPeek::new(envelope.record) else {
            return;
        };
        if !matches!(peek.class, CALL | DECISION | SPOOL_EVENT) {
            return;
        }
        // Who sent it is proven; what the record says of that is not.
        let Some(stream) = StreamKey::decode(envelope.stream) else {
            return;
        };
        let reporter = stream.reporter.as_str().to_owned();
        let Ok(record) = Record::decode(envelope.record) else {
            return;
        };
        let id = <[u8; 16]>::try_from(record.id.as_slice()).unwrap_or_default();
        let half = Half {
            entry,
            id,
            time_us: filed_time(record.time_us, envelope.received_us),
            received_us: envelope.received_us,
            reporter,
            caller: String::new(),
            service: String::new(),
            method: String::new(),
            path: String::new(),
            answered: false,
        };
        match record.body {
            Some(Body::Call(call)) => self.call(half, call),
            Some(Body::Decision(decision)) => self.decision(half, decision),
            Some(Body::SpoolEvent(event)) if event.verb == "dropped" => {
                self.lossy.insert(half.reporter);
            }
            _ => {}
        }
    }

    fn call(&mut self, half: Half, call: Call) {
        if !self.callers.contains(&half.reporter) {
            self.callers.insert(half.reporter.clone());
        }
        let half = Half {
            caller: half.reporter.clone(),
            service: call.service,
            method: call.method,
            path: call.path,
            answered: call.status != 0,
            ..half
        };
        match self.decisions.remove(&half.id) {
            Some(decision) => self.pair(half.id, &half, decision),
            // Ids of a proxy are unique; somebody who repeats one of another's is told
            // from it by the decision's caller.
            None if self.paired.contains(&half.id) => {}
            None => drop(self.calls.entry(half.id).or_insert(half)),
        }
    }

    /// Takes in that both halves of a request are there.
    fn pair(&mut self, id: [u8; 16], call: &Half, decision: Half) {
        self.paired.insert(id);
        if !self.window.contains(decision.time_us) {
            return;
        }
        match agree(call, &decision) {
            true => self.agreed += 1,
            false => self.contradicting.push(decision),
        }
    }

    fn decision(&mut self, half: Half, decision: Decision) {
        // Answers of the decision APIs are about requests of other proxies than ours.
        if !decision.api.is_empty() {
            return;
        }
        let known = self.destinations.get_mut(&decision.service);
        match known {
            Some(reporters) if reporters.contains(&half.reporter) => {}
            Some(reporters) => drop(reporters.insert(half.reporter.clone())),
            None => {
                let reporters = BTreeSet::from([half.reporter.clone()]);
                self.destinations
                    .insert(decision.service.clone(), reporters);
            }
        }
        let half = Half {
            caller: decision.principal.unwrap_or_default().spiffe_id,
            service: decision.service,
            method: decision.method,
            path: decision.path,
            ..half
        };
        match <[u8; 16]>::try_from(decision.request_id.as_slice()) {
            Err(_) => self.unnamed.push(half),
            Ok(id) if self.paired.contains(&id) || self.decisions.contains_key(&id) => {
                self.repeated.push(half);
            }
            Ok(id) => match self.calls.remove(&id) {
                Some(call) => self.pair(id, &call, half),
                None => drop(self.decisions.insert(id, half)),
            },
        }
    }

    /// What the halves come to, of those received before `settled_us`.
    fn judged(mut self, settled_us: i64) -> Reconciliation {
        let window = self.window;
        let mut report = Reconciliation {
            from_us: window.from_us,
            to_us: window.to_us,
            whole: true,
            agreed: self.agreed,
            one_sided: Vec::new(),
            one_sided_more: 0,
            unanswered: 0,
            settling: 0,
            without_proxy: BTreeMap::new(),
        };
        let mut found: Vec<(Mismatch, Half)> = Vec::new();
        let due = |half: &Half| window.contains(half.time_us);
        let settled = |half: &Half| half.received_us < settled_us;
        for half in std::mem::take(&mut self.contradicting) {
            found.push((Mismatch::Contradiction, half));
        }
        for (_, decision) in std::mem::take(&mut self.decisions) {
            match (due(&decision), settled(&decision)) {
                (false, _) => {}
                (true, false) => report.settling += 1,
                (true, true) => found.push((Mismatch::DecisionAlone, decision)),
            }
        }
        for half in std::mem::take(&mut self.repeated).into_iter().filter(due) {
            found.push((Mismatch::Repeated, half));
        }
        for half in std::mem::take(&mut self.unnamed).into_iter().filter(due) {
            if self.callers.contains(&half.caller) {
                found.push((Mismatch::DecisionAlone, half));
            } else {
                *report.without_proxy.entry(half.caller).or_default() += 1;
            }
        }
        for (_, half) in std::mem::take(&mut self.calls) {
            match (due(&half), half.answered, settled(&half)) {
                (false, ..) => {}
                (true, false, _) => report.unanswered += 1,
                (true, true, false) => report.settling += 1,
                (true, true, true) => found.push((Mismatch::CallAlone, half)),
            }
        }
        found.sort_by_key(|(_, half)| half.entry);
        report.one_sided_more = found.len().saturating_sub(NAMED_MAX) as u64;
        let named = found.into_iter().take(NAMED_MAX);
        report.one_sided = named.map(|(kind, half)| self.named(kind, half)).collect();
        report
    }

    fn named(&self, kind: Mismatch, half: Half) -> OneSided {
        let loss_known = match kind {
            Mismatch::CallAlone => self
                .destinations
                .get(&half.service)
                .is_some_and(|reporters| reporters.iter().any(|r| self.lossy.contains(r))),
            _ => self.lossy.contains(&half.caller),
        };
        OneSided {
            kind,
            entry: half.entry,
            id: Ulid::from_bytes(half.id).to_string(),
            time_us: half.time_us,
            reporter: half.reporter,
            caller: half.caller,
            service: half.service,
            method: half.method,
            path: half.path,
            loss_known,
        }
    }
}

/// Whether two records of one id are about one request.
fn agree(call: &Half, decision: &Half) -> bool {
    // Without a snapshot a destination knows its service by the name in its file alone.
    let service = call.service.strip_suffix(&decision.service);
    let same = service.is_some_and(|before| before.is_empty() || before.ends_with('/'));
    call.caller == decision.caller && (same || decision.service.is_empty())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use palisade_mesh::{spiffe_id::SpiffeId, wire::record::Peer};

    use super::*;
    use crate::{log::Pending, testing::open_log};

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
            let sequence = self.sent.entry(reporter).or_default();
            *sequence += 1;
            let record = Record {
                id: vec![id; 16],
                time_us: self.then_us,
                reporter: reporter.into(),
                body: Some(body),
                ..Record::default()
            };
            let pending = Pending {
                stream: Arc::new(StreamKey {
                    reporter: SpiffeId::parse(reporter).unwrap(),
                    boot: Ulid::from_parts(1, 1),
                    worker: 0,
                }),
                sequence: *sequence,
                record: record.encode_to_vec().into(),
            };
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime
                .block_on(self.log.append(vec![pending]).durable())
                .unwrap();
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

        /// As it looks `later_s` seconds after.
        fn judged(&self, later_s: u64) -> Reconciliation {
            let window = Window {
                from_us: self.then_us - 1,
                to_us: self.then_us + 1,
            };
            let then = jiff::Timestamp::from_microsecond(self.then_us).unwrap();
            let clock = Clock::manual(then);
            clock.advance(std::time::Duration::from_secs(later_s));
            reconcile(&self.log, window, &clock).unwrap()
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
        story.decision(103, WEB, Some(3));
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
        story.decision(102, WEB, Some(2));
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
        story.decision(101, WEB, Some(1));
        let lost = palisade_mesh::wire::record::SpoolEvent {
            verb: "dropped".into(),
            best_effort: 1,
            ..Default::default()
        };
        story.send(WEB, 9, Body::SpoolEvent(lost));
        let report = story.judged(60);
        assert!(report.one_sided[0].loss_known, "{report:?}");
    }
}
