//! What was read of both sides, as little of each record as tells them apart: where it is,
//! when it was, and prints of who called whom. The rest is read again for what is named.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
};

use palisade_mesh::wire::record::{Call, Decision, Record, record::Body};
use prost::Message as _;
use rustc_hash::{FxHashMap, FxHashSet};
use ulid::Ulid;

use super::{Mismatch, OPEN_MAX_US, OneSided, SETTLE_US};
use crate::{
    envelope::{CALL, DECISION, EnvelopeRef, OUTCOME, RecordPeek, SPOOL_EVENT},
    item::{Item, filed_time},
    log::{Log, LogError},
    query::Window,
    source::Entry,
    stream::StreamKey,
};

type Id = [u8; 16];

/// A text, told from others: equal where the texts are, and else by chance once in 2^64.
/// Nobody outside can aim at it.
type Print = u64;

/// Both sides, by request id.
pub(super) struct Sides {
    window: Window,
    prints: RandomState,
    /// Those whose other half has not come. Callers choose ids, hence the keyed hash.
    calls: HashMap<Id, Half>,
    decisions: HashMap<Id, Half>,
    /// Decisions among these that wait for their outcome, by their own id: under which
    /// request id, and whose.
    open: HashMap<Id, (Id, Print)>,
    /// Ids of which both halves are there.
    paired: HashSet<Id>,
    agreed: u64,
    contradicting: Vec<Half>,
    /// Decisions of the time without a request id: where, when, and about whom.
    unnamed: Vec<(u64, i64, Print)>,
    /// Second decisions of an id.
    repeated: Vec<Half>,
    /// Reporters of calls: callers that have a proxy.
    callers: FxHashSet<Print>,
    /// Services, and who reported decisions about them.
    destinations: FxHashSet<(Print, Print)>,
    /// Reporters that lost records, as far as is known.
    lossy: FxHashSet<Print>,
}

/// One side's record of a request.
#[derive(Debug, Clone, Copy)]
struct Half {
    entry: u64,
    time_us: i64,
    caller: Print,
    /// The service, and of a call also its last two names and its last.
    services: [Print; 3],
    /// Of a call: the destination answered.
    answered: bool,
    received_us: i64,
    /// When it was heard that the request had ended, as far as its other half waits for
    /// that; never, where it has not been.
    ended_us: i64,
}

impl Half {
    /// Whether the other half had time to arrive before `horizon_us`, up to which was read.
    fn is_settled(&self, horizon_us: i64) -> bool {
        let by_us = horizon_us.saturating_sub(SETTLE_US);
        let given_up = self.received_us < by_us.saturating_sub(OPEN_MAX_US);
        self.received_us < by_us && (self.ended_us < by_us || given_up)
    }
}

/// What the halves come to.
pub(super) struct Judged {
    pub(super) agreed: u64,
    pub(super) unanswered: u64,
    pub(super) settling: u64,
    /// In the order of the log.
    pub(super) found: Vec<Found>,
    /// For each caller without a proxy the first decision that names it, and how many do;
    /// in the order of the log.
    pub(super) without_proxy: Vec<(u64, u64)>,
}

/// A request that the two sides do not agree about.
pub(super) struct Found {
    kind: Mismatch,
    entry: u64,
    loss_known: bool,
}

impl Sides {
    pub(super) fn new(window: Window) -> Self {
        Self {
            window,
            prints: RandomState::new(),
            calls: HashMap::new(),
            decisions: HashMap::new(),
            open: HashMap::new(),
            paired: HashSet::new(),
            agreed: 0,
            contradicting: Vec::new(),
            unnamed: Vec::new(),
            repeated: Vec::new(),
            callers: FxHashSet::default(),
            destinations: FxHashSet::default(),
            lossy: FxHashSet::default(),
        }
    }

    /// How much is held, beside what no record read adds more than a few bytes to.
    pub(super) fn halves(&self) -> usize {
        self.calls.len()
            + self.decisions.len()
            + self.open.len()
            + self.contradicting.len()
            + self.repeated.len()
            + self.destinations.len()
    }

    /// Notes that a reporter has lost records.
    pub(super) fn lost(&mut self, reporter: &str) {
        let reporter = self.print(reporter);
        self.lossy.insert(reporter);
    }

    pub(super) fn take(&mut self, entry: u64, envelope: &EnvelopeRef<'_>) {
        let Some(peek) = RecordPeek::new(envelope.record) else {
            return;
        };
        if !matches!(peek.class, CALL | DECISION | OUTCOME | SPOOL_EVENT) {
            return;
        }
        // Who sent it is proven; what the record says of that is not.
        let Some(stream) = StreamKey::decode(envelope.stream) else {
            return;
        };
        let reporter = stream.reporter.as_str();
        let id = Id::try_from(peek.id).unwrap_or_default();
        if peek.class == OUTCOME {
            let reporter = self.print(reporter);
            return self.outcome(id, reporter, envelope.received_us);
        }
        let Ok(record) = Record::decode(envelope.record) else {
            return;
        };
        let half = Half {
            entry,
            time_us: filed_time(record.time_us, envelope.received_us),
            caller: 0,
            services: [0; 3],
            answered: false,
            received_us: envelope.received_us,
            ended_us: envelope.received_us,
        };
        match record.body {
            Some(Body::Call(call)) => self.call(id, reporter, half, &call),
            Some(Body::Decision(decision)) => self.decision(id, reporter, half, &decision),
            Some(Body::SpoolEvent(event)) if event.verb == "dropped" => self.lost(reporter),
            _ => {}
        }
    }

    fn call(&mut self, id: Id, reporter: &str, half: Half, call: &Call) {
        let caller = self.print(reporter);
        self.callers.insert(caller);
        let half = Half {
            caller,
            services: self.services(&call.service),
            answered: call.status != 0,
            ..half
        };
        match self.decisions.remove(&id) {
            Some(decision) => self.pair(id, &half, decision),
            // Ids of a proxy are unique; somebody who repeats one of another's is told
            // from it by the decision's caller.
            None if self.paired.contains(&id) => {}
            None => {
                self.calls.entry(id).or_insert(half);
            }
        }
    }

    /// Takes in that both halves of a request are there.
    fn pair(&mut self, id: Id, call: &Half, decision: Half) {
        self.paired.insert(id);
        if !self.window.contains(decision.time_us) {
            return;
        }
        match self.agree(call, &decision) {
            true => self.agreed += 1,
            false => self.contradicting.push(decision),
        }
    }

    fn decision(&mut self, id: Id, reporter: &str, half: Half, decision: &Decision) {
        // Answers of the decision APIs are about requests of other proxies than ours.
        if !decision.api.is_empty() {
            return;
        }
        let (service, reporter) = (self.print(&decision.service), self.print(reporter));
        self.destinations.insert((service, reporter));
        let caller = decision
            .principal
            .as_ref()
            .map(|peer| peer.spiffe_id.as_str());
        // What the destination answered by itself has ended with the decision.
        let ended = decision.status != 0;
        let half = Half {
            caller: self.print(caller.unwrap_or_default()),
            services: [service, 0, 0],
            ended_us: if ended { half.ended_us } else { i64::MAX },
            ..half
        };
        let Ok(request) = Id::try_from(decision.request_id.as_slice()) else {
            if self.window.contains(half.time_us) {
                self.unnamed.push((half.entry, half.time_us, half.caller));
            }
            return;
        };
        if self.paired.contains(&request) || self.decisions.contains_key(&request) {
            return self.repeated.push(half);
        }
        match self.calls.remove(&request) {
            Some(call) => self.pair(request, &call, half),
            None => {
                self.decisions.insert(request, half);
                if !ended {
                    self.open.insert(id, (request, reporter));
                }
            }
        }
    }

    /// The request of a decision has ended: its call is due.
    fn outcome(&mut self, id: Id, reporter: Print, received_us: i64) {
        let of_this = self.open.get(&id).filter(|(_, who)| *who == reporter);
        let Some((request, _)) = of_this.copied() else {
            return;
        };
        self.open.remove(&id);
        if let Some(decision) = self.decisions.get_mut(&request) {
            decision.ended_us = received_us;
        }
    }

    /// What the halves of `window` come to, where the log was read up to what was received
    /// at `horizon_us`.
    pub(super) fn judged(self, window: Window, horizon_us: i64) -> Judged {
        let mut judged = Judged {
            agreed: self.agreed,
            unanswered: 0,
            settling: 0,
            found: Vec::new(),
            without_proxy: Vec::new(),
        };
        let due = |half: &&Half| window.contains(half.time_us);
        for half in self.contradicting.iter().filter(due) {
            judged.found.push(self.found(Mismatch::Contradiction, half));
        }
        for half in self.decisions.values().filter(due) {
            match half.is_settled(horizon_us) {
                false => judged.settling += 1,
                true => judged.found.push(self.found(Mismatch::DecisionAlone, half)),
            }
        }
        for half in self.repeated.iter().filter(due) {
            judged.found.push(self.found(Mismatch::Repeated, half));
        }
        let mut without_proxy: FxHashMap<Print, (u64, u64)> = FxHashMap::default();
        for (entry, time_us, caller) in &self.unnamed {
            if !window.contains(*time_us) {
                continue;
            }
            if self.callers.contains(caller) {
                judged.found.push(Found {
                    kind: Mismatch::DecisionAlone,
                    entry: *entry,
                    loss_known: self.lossy.contains(caller),
                });
            } else {
                let first = (*entry, 0);
                without_proxy.entry(*caller).or_insert(first).1 += 1;
            }
        }
        for half in self.calls.values().filter(due) {
            match (half.answered, half.is_settled(horizon_us)) {
                (false, _) => judged.unanswered += 1,
                (true, false) => judged.settling += 1,
                (true, true) => judged.found.push(self.found(Mismatch::CallAlone, half)),
            }
        }
        judged.found.sort_unstable_by_key(|found| found.entry);
        judged.without_proxy = without_proxy.into_values().collect();
        judged.without_proxy.sort_unstable();
        judged
    }

    fn found(&self, kind: Mismatch, half: &Half) -> Found {
        let [service, ..] = half.services;
        let loss_known = match kind {
            Mismatch::CallAlone => self
                .lossy
                .iter()
                .any(|reporter| self.destinations.contains(&(service, *reporter))),
            _ => self.lossy.contains(&half.caller),
        };
        Found {
            kind,
            entry: half.entry,
            loss_known,
        }
    }

    /// Whether two records of one id are about one request.
    fn agree(&self, call: &Half, decision: &Half) -> bool {
        // Without a snapshot a destination knows its service by the name in its file alone.
        let [service, ..] = decision.services;
        let same = call.services.contains(&service) || service == self.print("");
        call.caller == decision.caller && same
    }

    /// A service, its last two names and its last.
    fn services(&self, service: &str) -> [Print; 3] {
        let last = |names: usize| {
            let cut = service.rmatch_indices('/').nth(names - 1);
            cut.and_then(|(at, _)| service.get(at + 1..))
                .unwrap_or(service)
        };
        [service, last(2), last(1)].map(|text| self.print(text))
    }

    fn print(&self, text: &str) -> Print {
        self.prints.hash_one(text)
    }
}

impl Found {
    /// Reads what there is to say about it. None where the log has something else there
    /// now, which verification names.
    pub(super) fn read(&self, log: &Log) -> Result<Option<OneSided>, LogError> {
        let item = item(log, self.entry)?;
        let (caller, service, method, path) = match &item.record.body {
            Some(Body::Call(call)) => (&item.reporter, &call.service, &call.method, &call.path),
            Some(Body::Decision(decision)) => {
                let caller = decision.principal.as_ref().map(|peer| &peer.spiffe_id);
                let none = const { &String::new() };
                let caller = caller.unwrap_or(none);
                (caller, &decision.service, &decision.method, &decision.path)
            }
            _ => return Ok(None),
        };
        let id = Id::try_from(item.record.id.as_slice()).unwrap_or_default();
        Ok(Some(OneSided {
            kind: self.kind,
            entry: self.entry,
            id: Ulid::from_bytes(id).to_string(),
            time_us: item.time_us,
            caller: caller.clone(),
            service: service.clone(),
            method: method.clone(),
            path: path.clone(),
            reporter: item.reporter.clone(),
            loss_known: self.loss_known,
        }))
    }
}

/// Whom the decision at `entry` names as the caller.
pub(super) fn caller_of(log: &Log, entry: u64) -> Result<String, LogError> {
    let item = match item(log, entry) {
        // Its time was over a moment ago.
        Err(LogError::Dropped { .. }) => return Ok(String::new()),
        item => item?,
    };
    let principal = item.decision().and_then(|d| d.principal.as_ref());
    Ok(principal
        .map(|peer| peer.spiffe_id.clone())
        .unwrap_or_default())
}

fn item(log: &Log, entry: u64) -> Result<Item, LogError> {
    let read = log.read(entry)?;
    Ok(Item::new(Entry {
        index: read.index,
        envelope: read.envelope,
        record: read.record,
    }))
}
