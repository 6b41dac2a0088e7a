//! Whether recorded decisions are what their policies say: each made again, with the engine
//! that enforces, under the revision that its record names.
//!
//! What was signed can still be false: by a proxy that was taken over, or by whoever holds
//! the log and its key. A decision is a pure function of revision, caller, request and moment, all of
//! which the record has; so a verdict, a policy or a path that was written otherwise shows. What
//! a record or the revisions that are kept do not tell makes a decision unfit for this: it is counted by its
//! cause, and never guessed.

use std::{
    collections::{HashMap, VecDeque},
    io,
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use jiff::Timestamp;
use palisade_audit::{
    decisions::Decisions,
    envelope::{DecisionRef, EnvelopeRef, RecordPeek},
    log::{Log, LogError},
    policies::Policies,
    query::{Query, Window, field::verdict_word},
    report::package::Package,
};
use palisade_mesh::{
    decision::{Decision, DecisionId},
    diagnostic::Diagnostic,
    snapshot::Digest,
    wire::record::Verdict,
};
use palisade_pdp::{
    author, bundle,
    decide::{Lacking, Past, Replay},
};
use serde::Serialize;

use super::{
    flips::{Lacks, past, unfit, words},
    in_force::InForce,
};
use crate::run::{
    audit::{Unlike, whole},
    policy,
};

/// Engines that are held: proxies decide under two revisions while one takes the place of
/// another, and a straggler under a third.
const ENGINES_MAX: usize = 3;
/// How often an engine is made for one revision, where more than [`ENGINES_MAX`] take turns.
const BUILDS_MAX: u32 = 8;
/// Differences that are told; more are counted.
const DIFFERENCES_MAX: usize = 1000;
/// Damaged revisions that are told.
const DAMAGED_MAX: usize = 100;
/// The reason of a request that was allowed and is no operation of its service.
const OPERATION_UNKNOWN: &str = "operation_unknown";

// Why a decision was not made again. What a record says is never part of these: whoever writes
// records could make as many causes as there is memory.
const NOT_KEPT: &str = "its revision is not kept";
const UNREAD: &str = "its revision cannot be read";
const DAMAGED: &str = "its revision is kept, and is not what its digest says";
const NOT_COMPILED: &str = "its revision cannot be compiled by this version";
const IN_TURN: &str = "its revision takes turns with too many others";
const NOT_IN_FORCE: &str = "the same, but the log does not say that its revision was in force then";
const OTHER_MOMENT: &str = "a decision API was asked about another moment";
const UNREADABLE: &str = "the record cannot be read";
const NO_POLICY: &str = "no policy was asked";
const NO_REVISION: &str = "the record names no revision";

/// What came of making recorded decisions again.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Replayed {
    /// Decisions that there were, those that were dropped since among them.
    pub(crate) decisions: u64,
    /// Those that were made again and are the same, under a revision that was in force.
    pub(crate) same: u64,
    /// Those that are not, or contradict themselves.
    pub(crate) differ: u64,
    /// The first of these.
    pub(crate) differences: Vec<Difference>,
    /// Those that cannot be made again, by cause.
    pub(crate) not_replayable: Lacks,
    /// Of these: those of which the record says that they were allowed, or cannot be read.
    pub(crate) allowed_unproven: u64,
    /// Revisions that are kept, and are not what their digest says.
    pub(crate) damaged: Vec<Damaged>,
    /// Revisions under which decisions were made again.
    pub(crate) revisions: u64,
}

/// A decision that is recorded otherwise than its policies say.
#[derive(Debug, Serialize)]
pub(crate) struct Difference {
    /// Index in the log.
    pub(crate) entry: u64,
    /// Decision id.
    pub(crate) id: String,
    /// When, as its reporter says, RFC 3339.
    pub(crate) time: String,
    /// Digest of the revision that the record names, hexadecimal.
    pub(crate) revision: String,
    /// What the record says.
    pub(crate) recorded: Said,
    /// What the revision says; none where it was not asked.
    pub(crate) replayed: Option<Said>,
    /// Why the record cannot be true, whatever its revision says.
    pub(crate) contradiction: Option<&'static str>,
}

/// A decision, in the words of a row.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Said {
    /// The verdict.
    pub(crate) decision: &'static str,
    /// Why, as a constant word.
    pub(crate) reason: String,
    /// Ids of the determining policies.
    pub(crate) policies: Vec<String>,
    /// Cedar action.
    pub(crate) action: String,
    /// Cedar resource, with its type.
    pub(crate) resource: String,
}

/// A revision that is not what its digest says.
#[derive(Debug, Serialize)]
pub(crate) struct Damaged {
    /// The digest.
    pub(crate) revision: String,
    /// What is wrong.
    pub(crate) why: String,
}

/// Gives the bundle of a revision; none where it is not kept.
pub(crate) type Shelf<'s> = dyn Fn(&Digest) -> io::Result<Option<Bytes>> + 's;

/// Makes decision after decision again.
pub(crate) struct Replaying<'s> {
    shelf: &'s Shelf<'s>,
    in_force: InForce,
    /// The one that was asked last is the last.
    engines: VecDeque<(Digest, Box<Replay>)>,
    /// How often an engine was made for a revision, and why there is none where it cannot be.
    built: HashMap<Digest, Result<u32, &'static str>>,
    pub(crate) found: Replayed,
}

/// Makes the decisions of a log again that `query` asks for in `window`, under the revisions
/// that are kept beside it; what was found until then where `stop` becomes true.
///
/// # Errors
/// When the log cannot be read.
pub(crate) fn of_log(
    log: &Log,
    policies: &Policies,
    (query, window): (&Query, Window),
    stop: &AtomicBool,
) -> Result<Replayed, LogError> {
    let shelf = |digest: &Digest| Ok(policies.read(&digest.0)?.map(Bytes::from));
    let mut replaying = Replaying::new(&shelf, in_force(log, stop)?);
    let mut decisions = Decisions::new(log, query, window)?;
    replaying.dropped(decisions.dropped());
    decisions.visit(|index, leaf| {
        replaying.leaf(index, leaf);
        match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    Ok(replaying.found)
}

fn in_force(log: &Log, stop: &AtomicBool) -> Result<InForce, LogError> {
    let mut in_force = InForce::of(log.verifier().name());
    let mut scan = log.scan(0);
    while !stop.load(Ordering::Relaxed)
        && let Some(read) = scan.next_leaf()
    {
        in_force.take(read?.1);
    }
    in_force.settle();
    Ok(in_force)
}

/// Makes the decisions of a package again, under the revisions that it has.
pub(crate) fn of_package(package: &Package) -> Replayed {
    let mut bundles: HashMap<Digest, Bytes> = HashMap::new();
    let mut is_all = true;
    for bytes in package.policies().map(Bytes::copy_from_slice) {
        match bundle::open(&bytes) {
            Ok(opened) => drop(bundles.insert(opened.digest, bytes)),
            Err(_) => is_all = false,
        }
    }
    let shelf = |digest: &Digest| match bundles.get(digest) {
        None if !is_all => Err(io::ErrorKind::Unsupported.into()),
        found => Ok(found.cloned()),
    };
    let mut in_force = InForce::of(&package.checkpoint().origin);
    package.leaves().for_each(|(_, leaf)| in_force.take(leaf));
    in_force.settle();
    let mut replaying = Replaying::new(&shelf, in_force);
    for (index, leaf) in package.leaves() {
        replaying.leaf(index, leaf);
    }
    replaying.found
}

/// All the decisions of a log.
///
/// # Errors
/// When the log cannot be read.
pub(crate) fn of_whole_log(
    log: &Log,
    policies: &Policies,
    stop: &AtomicBool,
) -> Result<Replayed, Diagnostic> {
    let ever = Window {
        from_us: i64::MIN,
        to_us: i64::MAX,
    };
    let everything = Query::parse("")?;
    of_log(log, policies, (&everything, ever), stop).map_err(|e| e.diagnostic())
}

impl Replayed {
    /// Whether nothing is recorded otherwise than its policies say, nor a revision changed.
    pub(crate) fn holds(&self) -> bool {
        self.differ == 0 && self.damaged.is_empty()
    }
}

impl<'s> Replaying<'s> {
    /// Takes revisions from `shelf`.
    fn new(shelf: &'s Shelf<'s>, in_force: InForce) -> Self {
        let unreadable = in_force.unreadable;
        let mut replaying = Self {
            shelf,
            in_force,
            engines: VecDeque::new(),
            built: HashMap::new(),
            found: Replayed::default(),
        };
        replaying.unreadable(unreadable);
        replaying
    }

    /// Counts decisions that were dropped because their time was over.
    fn dropped(&mut self, count: u64) {
        self.found.decisions += count;
        let lacks = &mut self.found.not_replayable;
        lacks.add_unnamed("dropped, because its time was over", count);
    }

    /// Looks at one leaf; `entry` is its index in the log.
    fn leaf(&mut self, entry: u64, leaf: &[u8]) {
        match DecisionRef::of_leaf(leaf) {
            Some(decision) => self.take(entry, &decision),
            None if says_decision(leaf) => self.unreadable(1),
            None => {}
        }
    }

    /// Counts records of which nobody can say what they allow.
    fn unreadable(&mut self, count: u64) {
        self.found.decisions += count;
        self.found.allowed_unproven += count;
        self.found.not_replayable.add_unnamed(UNREADABLE, count);
    }

    fn take(&mut self, entry: u64, record: &DecisionRef<'_>) {
        self.found.decisions += 1;
        if let Some(why) = contradiction(record) {
            return self.differs(Difference::new(entry, record, Err(why)));
        }
        match self.again(record) {
            Err(cause) => {
                let allowed = matches!(record.verdict, Verdict::Allow | Verdict::Unspecified);
                self.found.allowed_unproven += u64::from(allowed);
                self.found.not_replayable.add(cause, record);
            }
            Ok(Some(replayed)) => self.differs(Difference::new(entry, record, Ok(replayed))),
            Ok(None) => self.found.same += 1,
        }
    }

    fn differs(&mut self, difference: Difference) {
        self.found.differ += 1;
        if self.found.differences.len() < DIFFERENCES_MAX {
            self.found.differences.push(difference);
        }
    }

    /// What the revision of a record says, where that is something else; or why that is not
    /// known.
    fn again(&mut self, record: &DecisionRef<'_>) -> Result<Option<Said>, String> {
        if let Some(cause) = unfit(record) {
            return Err(cause.words().to_owned());
        }
        if record.action.is_empty() {
            return Err(NO_POLICY.to_owned());
        }
        let digest = Digest::from_slice(record.policy_digest).ok_or(NO_REVISION)?;
        let past = Past {
            time_us: moment(record).ok_or(OTHER_MOMENT)?,
            ..past(record)
        };
        let engine = self.engine(digest)?;
        let after = engine.decide(&past).map_err(|why| cause(&why, record))?;
        let unserved = after.verdict.is_allow() && !engine.serves(&past);
        let replayed = Said::replayed(&after, unserved);
        match Said::recorded(record) == replayed {
            false => Ok(Some(replayed)),
            true if self.in_force.was(&digest, record) => Ok(None),
            true => Err(NOT_IN_FORCE.to_owned()),
        }
    }

    fn engine(&mut self, digest: Digest) -> Result<&mut Replay, &'static str> {
        let known = self.engines.iter().position(|(of, _)| *of == digest);
        let entry = match known.and_then(|at| self.engines.remove(at)) {
            Some(entry) => entry,
            None => (digest, self.made(digest)?),
        };
        if self.engines.len() >= ENGINES_MAX {
            self.engines.pop_front();
        }
        self.engines.push_back(entry);
        let last = self.engines.back_mut().map(|(_, engine)| &mut **engine);
        last.ok_or("bug: an engine was made and is not there")
    }

    /// A new engine. That there can be none is remembered for what is kept: as many as there
    /// are files.
    fn made(&mut self, digest: Digest) -> Result<Box<Replay>, &'static str> {
        let times = self.built.get(&digest).copied().unwrap_or(Ok(0))?;
        if times >= BUILDS_MAX {
            return Err(IN_TURN);
        }
        let bundle = (self.shelf)(&digest).map_err(|e| match e.kind() {
            io::ErrorKind::Unsupported => NOT_COMPILED,
            _ => UNREAD,
        })?;
        let bundle = bundle.ok_or(NOT_KEPT)?;
        let built = self.built(&digest, bundle);
        self.found.revisions += u64::from(times == 0 && built.is_ok());
        let of = built.as_ref().map(|_| times + 1).map_err(|why| *why);
        self.built.insert(digest, of);
        built
    }

    fn built(&mut self, digest: &Digest, bundle: Bytes) -> Result<Box<Replay>, &'static str> {
        match whole(&digest.0, bundle.clone()) {
            Ok(()) => {}
            Err(Unlike::NotUnderstood(_)) => return Err(NOT_COMPILED),
            Err(Unlike::Other(why)) => {
                self.damaged(digest, why);
                return Err(DAMAGED);
            }
        }
        let compiled = author::compile(bundle).compiled.ok_or(NOT_COMPILED)?;
        let snapshot = policy::snapshot(compiled, 0).map_err(|_| NOT_COMPILED)?;
        Ok(Box::new(Replay::small(snapshot)))
    }

    fn damaged(&mut self, digest: &Digest, why: String) {
        let damaged = &mut self.found.damaged;
        if damaged.len() < DAMAGED_MAX {
            let revision = digest.to_string();
            damaged.push(Damaged { revision, why });
        }
    }
}

/// Whether a leaf that cannot be read as a decision says that it is one.
fn says_decision(leaf: &[u8]) -> bool {
    let peek = EnvelopeRef::decode(leaf).and_then(|envelope| RecordPeek::new(envelope.record));
    peek.is_some_and(|peek| peek.class_name() == "decision")
}

/// Why no proxy and no PDP writes such an allowance.
fn contradiction(record: &DecisionRef<'_>) -> Option<&'static str> {
    if record.verdict != Verdict::Allow {
        return None;
    }
    match record.reason {
        "permitted" | OPERATION_UNKNOWN => {}
        _ => return Some("it allows for a reason for which nothing is allowed"),
    }
    match record {
        _ if !record.enforced => Some("it allows, and was not enforced"),
        _ if record.action.is_empty() => Some("it allows, and no policy was asked"),
        _ if record.policy_digest.len() != 32 => Some("it allows, and names no revision"),
        _ if record.context_json.is_empty() && record.covered.is_empty() => {
            Some("it allows, and has no context")
        }
        _ => None,
    }
}

/// The moment that a decision was about, microseconds since the Unix epoch: whoever asks a
/// decision API may ask about another one than now, and the record has only what was read of
/// it. None where that is not enough.
fn moment(record: &DecisionRef<'_>) -> Option<i64> {
    if record.api.is_empty() {
        return Some(record.time_us);
    }
    let context: serde_json::Value = serde_json::from_str(record.context_json).unwrap_or_default();
    if let Some(at_us) = context
        .get("decided_us")
        .and_then(serde_json::Value::as_i64)
    {
        return Some(at_us);
    }
    let Some(time) = context.get("time") else {
        return Some(record.time_us);
    };
    if let Some(now) = time.get("now").and_then(serde_json::Value::as_str) {
        return now.parse::<Timestamp>().ok().map(Timestamp::as_microsecond);
    }
    // The hour and the day of the week are those of the record, or nothing more is known.
    let zoned = Timestamp::from_microsecond(record.time_us).ok()?;
    let zoned = zoned.to_zoned(jiff::tz::TimeZone::UTC);
    let is = |key: &str, value: i8| {
        let said = time.get(key).and_then(serde_json::Value::as_i64);
        said.is_none_or(|said| said == i64::from(value))
    };
    let weekday = zoned.weekday().to_monday_one_offset();
    (is("hour", zoned.hour()) && is("weekday", weekday)).then_some(record.time_us)
}

/// Why a record cannot be made again under its own revision.
fn cause(why: &Lacking, record: &DecisionRef<'_>) -> String {
    match why {
        Lacking::Service => "its revision has no such service".to_owned(),
        Lacking::Fields(_) | Lacking::Path if !record.covered.is_empty() => {
            "something of it is masked or sealed, because it is personal".to_owned()
        }
        _ => words(why),
    }
}

impl Difference {
    fn new(entry: u64, record: &DecisionRef<'_>, found: Result<Said, &'static str>) -> Self {
        let id = <[u8; 16]>::try_from(record.id).unwrap_or_default();
        let time = Timestamp::from_microsecond(record.time_us).unwrap_or_default();
        let revision = Digest::from_slice(record.policy_digest);
        Self {
            entry,
            id: DecisionId(u128::from_be_bytes(id).into()).to_string(),
            time: time.to_string(),
            revision: revision.map_or_else(String::new, |digest| digest.to_string()),
            recorded: Said::recorded(record),
            contradiction: found.as_ref().err().copied(),
            replayed: found.ok(),
        }
    }
}

impl Said {
    fn recorded(record: &DecisionRef<'_>) -> Self {
        Self {
            decision: verdict_word(record.verdict),
            reason: record.reason.to_owned(),
            policies: record.policies.iter().map(ToString::to_string).collect(),
            action: record.action.to_owned(),
            resource: format!("{}::{:?}", record.resource_type, record.resource_id),
        }
    }

    /// `unserved` for what was allowed and is answered with 404 all the same.
    fn replayed(decision: &Decision, unserved: bool) -> Self {
        let reason = match unserved {
            true => OPERATION_UNKNOWN,
            false => decision.verdict.reason(),
        };
        Self {
            decision: verdict_word(decision.verdict.wire()),
            reason: reason.to_owned(),
            policies: decision
                .determining
                .iter()
                .map(ToString::to_string)
                .collect(),
            action: decision.action.to_string(),
            resource: format!("{}::{:?}", decision.resource_type, &*decision.resource_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy decides about the moment of its record; a decision API about whichever it was
    /// asked about, as far as the record tells.
    #[test]
    fn the_moment_is_the_one_that_was_asked_about() {
        // 1970-01-02, a Friday, 10:00.
        let time_us = 34 * 3600 * 1_000_000;
        let of = |api: &'static str, context_json: &'static str| {
            moment(&DecisionRef {
                time_us,
                api,
                context_json,
                ..DecisionRef::default()
            })
        };
        assert_eq!(of("", r#"{"time":{"hour":22}}"#), Some(time_us));
        assert_eq!(of("grpc", "{}"), Some(time_us));
        assert_eq!(of("grpc", r#"{"decided_us":7}"#), Some(7));
        let now = r#"{"time":{"hour":22,"now":"1970-01-01T22:00:01Z"}}"#;
        assert_eq!(of("grpc", now), Some((22 * 3600 + 1) * 1_000_000));
        let same = r#"{"time":{"hour":10,"weekday":5}}"#;
        assert_eq!(of("authzen", same), Some(time_us));
        assert_eq!(of("authzen", r#"{"time":{"hour":22}}"#), None);
        assert_eq!(of("authzen", r#"{"time":{"weekday":4}}"#), None);
    }
}
