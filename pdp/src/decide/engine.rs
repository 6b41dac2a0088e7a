//! A worker's own decider: the snapshot's rules behind caches that nobody shares.
//!
//! | layer | key | holds |
//! |---|---|---|
//! | connection | service, operation, method | the answer, where nothing of a request is read |
//! | decisions | slice, and the values of exactly the fields it reads | the answer |
//! | slices | principal, action, resource | candidates, fields read, the answer where none is read |
//! | evaluation | | bodies of the candidates, against the snapshot's entities |
//! | index | | candidates by resource and principal |

use std::{
    hash::{BuildHasherDefault, RandomState},
    sync::Arc,
};

use palisade_mesh::decision::{Answer, Decision, Pins, Question, Undecided};
use rustc_hash::FxHasher;

use super::{
    Snapshot,
    asked::Names,
    cache::{Generations, Limits},
    core::ValueCache,
    fact::Live,
    index::rule_at,
    known::Known,
    pinned::Pinned,
    slice::{Cached, Slice},
    world::Triple,
};

/// Most slices an engine keeps, and about how many bytes they may take. Beyond
/// either, what was not used lately is forgotten.
pub const SLICES_MAX: usize = 4096;
/// See [`SLICES_MAX`].
pub const SLICE_BYTES_MAX: usize = 2 << 20;
/// Most decisions an engine keeps, and about how many bytes they may take. Beyond
/// either, what was not used lately is forgotten.
pub const DECISIONS_MAX: usize = 8192;
/// See [`DECISIONS_MAX`].
pub const DECISION_BYTES_MAX: usize = 4 << 20;
/// Longest cache key of a decision, in bytes. A request with longer values of the
/// fields read is evaluated each time.
pub const KEY_LEN_MAX: usize = 1024;
/// One evaluation in this many is checked against the reference, unless
/// [`Engine::with_self_check`] says otherwise.
pub const SELF_CHECK_EVERY: u32 = 4096;
/// In large sets the reference is slow (1 to 2 µs a policy, and the worker waits),
/// so the interval is at least this many evaluations for each policy: on average
/// the check then costs less than half a microsecond per evaluation, whatever the size.
pub const SELF_CHECK_EVERY_PER_POLICY: u32 = 4;
/// One remembered answer in this many is checked, too: an answer that is asked for all the
/// time was evaluated once.
pub const SELF_CHECK_HITS_EVERY: u32 = 1 << 16;
/// The interval is at least this many remembered answers for each policy: some
/// nanoseconds each, whatever the size.
pub const SELF_CHECK_HITS_EVERY_PER_POLICY: u32 = 256;
/// A new engine is checked sooner: first after this many, or one for each policy, then after
/// twice as many each time, until the interval is reached.
pub const SELF_CHECK_FIRST: u32 = 64;

/// A worker's own decider.
///
/// It belongs to one snapshot; when another becomes live, the worker takes a new
/// engine from that. Nothing in it is shared or locked.
#[derive(Debug)]
pub struct Engine {
    snapshot: Arc<Snapshot>,
    slices: Slices,
    /// Keyed by bytes that callers choose, hence the keyed hash.
    decisions: Generations<Box<[u8]>, Cached, RandomState>,
    values: ValueCache,
    /// Tells this engine from every other one, and from itself before its last correction:
    /// what connections have pinned until then is forgotten.
    token: Arc<()>,
    /// The key of the present question.
    key: Vec<u8>,
    /// Of evaluations, and of answers that were remembered.
    sampled: [Sampler; 2],
    way: Way,
}

/// How an engine comes to its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By index and caches.
    Indexed,
    /// By index; no answer is kept.
    Forgetful,
    /// By Cedar's own authorizer on the whole set, each time.
    Reference,
}

impl Engine {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        let policies = u32::try_from(snapshot.rules().len()).unwrap_or(u32::MAX);
        let sampler = |per_policy, least| Sampler {
            every: policies.saturating_mul(per_policy).max(least),
            ..Sampler::new(policies.max(SELF_CHECK_FIRST))
        };
        Self {
            snapshot,
            slices: Slices::new(),
            decisions: Generations::new(Limits {
                entries: DECISIONS_MAX,
                bytes: DECISION_BYTES_MAX,
            }),
            values: ValueCache::default(),
            token: Arc::default(),
            key: Vec::new(),
            sampled: [
                sampler(SELF_CHECK_EVERY_PER_POLICY, SELF_CHECK_EVERY),
                sampler(SELF_CHECK_HITS_EVERY_PER_POLICY, SELF_CHECK_HITS_EVERY),
            ],
            way: Way::Indexed,
        }
    }

    /// Decides by Cedar's own authorizer on the whole set instead of index and caches:
    /// for who distrusts these, at 1 to 2 µs a policy and request. What permits in shadow
    /// mode would have allowed is not found out.
    #[must_use]
    pub fn by_reference(mut self) -> Self {
        self.way = Way::Reference;
        self
    }

    /// Keeps no answers, so that each question is evaluated: for measurements.
    #[must_use]
    pub fn forgetful(mut self) -> Self {
        self.way = Way::Forgetful;
        self
    }

    /// Checks one evaluation in `every`, and as many of the remembered answers, against
    /// the reference; 0 means none.
    #[must_use]
    pub fn with_self_check(mut self, every: u32) -> Self {
        self.sampled = [Sampler::new(every), Sampler::new(every)];
        self
    }

    /// The snapshot it decides under.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Decides.
    pub fn decide(&mut self, question: &Question<'_>) -> Answer {
        self.decide_knowing(question, Known::ALL).answer
    }

    /// Decides a question about a request of the connection that `pins` belongs to, as
    /// [`Engine::decide`] does: principal, address and TLS facts must be the same each time.
    pub fn decide_on(&mut self, question: &Question<'_>, pins: &mut Pins) -> Answer {
        if self.way != Way::Indexed {
            return self.decide(question);
        }
        let pinned = pins.of::<Pinned>();
        pinned.belong_to(&self.token);
        let [_, remembered] = &mut self.sampled;
        if let Some(cached) = pinned.find(question)
            && remembered.spares()
        {
            return answer(&self.snapshot, cached, true).answer;
        }
        self.values.fixed = Some(std::mem::take(&mut pinned.records));
        let told = self.decided(question, Known::ALL, Some(&mut *pinned));
        pinned.records = self.values.fixed.take().unwrap_or_default();
        told.answer
    }

    /// Decides a question of which only `known` is known. If a policy that counts reads
    /// anything else there is no answer: what was not said is never guessed.
    pub fn decide_knowing(&mut self, question: &Question<'_>, known: Known) -> Told {
        self.decided(question, known, None)
    }

    fn decided(
        &mut self,
        question: &Question<'_>,
        known: Known,
        mut pinned: Option<&mut Pinned>,
    ) -> Told {
        // Not cloned: other workers count references to it, too.
        let snapshot = &*self.snapshot;
        let [evaluated, remembered] = &mut self.sampled;
        let now_us = question.now_us;
        if self.way == Way::Reference && known == Known::ALL {
            return fresh(snapshot.referred(question, known), Vec::new());
        }
        let asked = match snapshot.ask(question) {
            Ok(asked) => asked,
            Err(why) => return fresh(snapshot.fault(Names::of(question), why), Vec::new()),
        };
        let (serial, slice) = self.slices.get(snapshot, asked.entities(), now_us);
        let mut pin = |cached: &Cached, owner: &Arc<()>| {
            if let Some(pinned) = &mut pinned {
                pinned.belong_to(owner);
                pinned.keep(question, &slice, asked.form, cached);
            }
        };
        if let Some(cached) = slice.constant.get() {
            if remembered.is_due()
                && let Some(corrected) = cached.checked(snapshot, question)
            {
                self.token = Arc::default();
                pin(&corrected, &self.token);
                let told = answer(snapshot, &corrected, true);
                self.slices
                    .correct(snapshot, asked.entities(), now_us, corrected);
                return told;
            }
            pin(cached, &self.token);
            return answer(snapshot, cached, true);
        }
        if known != Known::ALL {
            let unsaid = slice.enforced.iter().filter(|field| !known.has(**field));
            let missing: Vec<String> = unsaid
                .map(|field| snapshot.layout().whole_path(*field).join("."))
                .collect();
            if !missing.is_empty() {
                let decision = snapshot.fault(asked.names, Undecided::NotEncodable);
                return fresh(decision, missing);
            }
            if self.way == Way::Reference {
                return fresh(snapshot.referred(question, known), Vec::new());
            }
        }
        let facts = Live::knowing(question, snapshot.layout(), asked.form, known);
        self.key.clear();
        self.key.extend(serial.to_le_bytes());
        let keyed = slice.write_key(&facts, now_us, &mut self.key) && self.key.len() <= KEY_LEN_MAX;
        if keyed && let Some(cached) = self.decisions.get(self.key.as_slice()) {
            if remembered.is_due()
                && let Some(corrected) = cached.checked(snapshot, question)
            {
                self.token = Arc::default();
                pin(&corrected, &self.token);
                let bytes = self.key.len() + bytes_of(&corrected.decision);
                self.decisions
                    .insert(self.key.as_slice().into(), corrected.clone(), bytes);
                return answer(snapshot, &corrected, true);
            }
            pin(&cached, &self.token);
            return answer(snapshot, &cached, true);
        }
        let mut cached = snapshot.evaluate(&asked, &slice, &facts, now_us, &mut self.values);
        if evaluated.is_due()
            && let Some(corrected) = cached.checked(snapshot, question)
        {
            self.token = Arc::default();
            cached = corrected;
        }
        if self.way == Way::Forgetful {
            return answer(snapshot, &cached, false);
        }
        if slice.fields.is_empty() {
            // Only this engine has the slice, and it has just found it empty.
            let _ = slice.constant.set(cached.clone());
            pin(&cached, &self.token);
        } else if keyed {
            pin(&cached, &self.token);
            let bytes = self.key.len() + bytes_of(&cached.decision);
            self.decisions
                .insert(self.key.as_slice().into(), cached.clone(), bytes);
        }
        answer(snapshot, &cached, false)
    }
}

/// An answer, and why there is none where the question did not say enough.
#[derive(Debug, Clone)]
pub struct Told {
    /// The answer.
    pub answer: Answer,
    /// Paths of the context that policies read and the question does not state; the
    /// answer is undecided when there are any.
    pub missing: Vec<String>,
}

/// The slices an engine has looked up.
#[derive(Debug)]
struct Slices {
    /// Keyed by numbers of the snapshot, so nobody outside chooses them.
    known: Generations<Triple, (u64, Arc<Slice>), BuildHasherDefault<FxHasher>>,
    /// Number of the next slice; part of the keys of its decisions.
    serial: u64,
}

impl Slices {
    fn new() -> Self {
        let limits = Limits {
            entries: SLICES_MAX,
            bytes: SLICE_BYTES_MAX,
        };
        Self {
            known: Generations::new(limits),
            serial: 0,
        }
    }

    fn get(&mut self, snapshot: &Snapshot, key: Triple, now_us: i64) -> (u64, Arc<Slice>) {
        if let Some((serial, slice)) = self.known.get(&key)
            && slice.covers(now_us)
        {
            return (serial, slice);
        }
        let slice = Arc::new(snapshot.slice(key, now_us));
        let serial = self.serial;
        self.serial += 1;
        let entry = (serial, Arc::clone(&slice));
        self.known.insert(key, entry, slice.bytes());
        (serial, slice)
    }

    /// Has another answer for all requests of a slice that reads nothing of them.
    fn correct(&mut self, snapshot: &Snapshot, key: Triple, now_us: i64, corrected: Cached) {
        let slice = snapshot.slice(key, now_us);
        let _ = slice.constant.set(corrected);
        let bytes = slice.bytes();
        self.known
            .insert(key, (self.serial, Arc::new(slice)), bytes);
        self.serial += 1;
    }
}

/// Says which answers are checked.
#[derive(Debug)]
struct Sampler {
    /// The longest interval; 0 for never.
    every: u32,
    /// The present one.
    interval: u32,
    left: u32,
}

impl Sampler {
    fn new(every: u32) -> Self {
        Self {
            every,
            interval: every,
            left: every,
        }
    }

    /// Counts an answer that was not even looked for; false where it is the turn of the next
    /// one, which must then be looked for.
    fn spares(&mut self) -> bool {
        if self.every == 0 {
            return true;
        }
        let spared = self.left > 1;
        self.left -= u32::from(spared);
        spared
    }

    fn is_due(&mut self) -> bool {
        if self.every == 0 {
            return false;
        }
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return false;
        }
        self.interval = self.interval.saturating_mul(2).min(self.every);
        self.left = self.interval;
        true
    }
}

impl Cached {
    /// What shall be remembered instead, where the reference decides otherwise.
    fn checked(&self, snapshot: &Snapshot, question: &Question<'_>) -> Option<Self> {
        let corrected = snapshot.check(question, &self.decision)?;
        Some(Self {
            decision: Arc::new(corrected),
            shadows: self.shadows.clone(),
        })
    }
}

/// An answer that nobody keeps.
fn fresh(decision: Decision, missing: Vec<String>) -> Told {
    let answer = Answer {
        decision: Arc::new(decision),
        cached: false,
    };
    Told { answer, missing }
}

fn answer(snapshot: &Snapshot, found: &Cached, cached: bool) -> Told {
    for i in found.shadows.iter().flat_map(|s| s.iter()) {
        if let Some(rule) = rule_at(snapshot.rules(), *i) {
            rule.count();
        }
    }
    let answer = Answer {
        decision: Arc::clone(&found.decision),
        cached,
    };
    Told {
        answer,
        missing: Vec::new(),
    }
}

fn bytes_of(decision: &Decision) -> usize {
    let ids = decision.determining.iter().chain(&decision.errors);
    let ids = ids.chain(&decision.shadow_permits);
    size_of::<Decision>()
        + decision.context_json.len()
        + ids.map(|id| size_of_val(id) + id.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Soon at first, then twice as late each time, until the interval is reached.
    #[test]
    fn checks_become_rarer_until_the_interval_is_reached() {
        let mut sampler = Sampler {
            every: 200,
            ..Sampler::new(64)
        };
        let due: Vec<u32> = (1..=800).filter(|_| sampler.is_due()).collect();
        assert_eq!(due, [64, 192, 392, 592, 792]);
        let mut never = Sampler::new(0);
        assert!(!(0..10).any(|_| never.is_due()));
    }
}
