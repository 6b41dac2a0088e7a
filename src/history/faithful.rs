//! Whether recorded decisions are what their policies say: each made again, with the engine
//! that enforces, under the revision that its record names.
//!
//! What was signed can still be false: by a proxy that was taken over, or by whoever holds
//! the log and its key. A decision is a pure function of revision, caller, request and moment, all of
//! which the record has; so a verdict, a policy or a path that was written otherwise shows. What
//! a record or the revisions that are kept do not tell makes a decision unfit for this: it is counted by its
//! cause, and never guessed.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    ops::ControlFlow,
    path::Path,
};

use bytes::Bytes;
use palisade_audit::{
    checkpoint::origin,
    decisions::Decisions,
    envelope::DecisionRef,
    going::{Ended, Going},
    log::{Log, LogError, whose},
    policies::Policies,
    query::{Limits, Query, Window},
    report::package::Package,
};
use palisade_mesh::{diagnostic::Diagnostic, snapshot::Digest, wire::record::Verdict};
use palisade_pdp::{
    author, bundle,
    decide::{Past, Replay},
};
use serde::Serialize;

mod difference;
mod record;

pub(super) use difference::OPERATION_UNKNOWN;
use difference::{Difference, Said};
use record::{cause, contradiction, moment, says_decision};

use super::{asked::asked, flips::Lacks, in_force::InForce};
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

/// A revision that is not what its digest says.
#[derive(Debug, Serialize)]
pub(crate) struct Damaged {
    /// The digest.
    pub(crate) revision: String,
    /// What is wrong.
    pub(crate) why: String,
}

/// Gives the bundle of a revision; none where it is not kept.
pub(crate) type Bundles<'s> = dyn Fn(&Digest) -> io::Result<Option<Bytes>> + 's;

/// Makes decision after decision again.
pub(crate) struct Replaying<'s> {
    bundles: &'s Bundles<'s>,
    in_force: InForce,
    /// The one that was asked last is the last.
    engines: VecDeque<(Digest, Box<Replay>)>,
    /// How often an engine was made for a revision, and why there is none where it cannot be.
    built: HashMap<Digest, Result<u32, &'static str>>,
    pub(crate) found: Replayed,
}

/// Makes the decisions of a log again that `query` asks for in `window`, under the revisions
/// that are kept beside it, as long as somebody waits. What was
/// `seen` of it already is not read again.
///
/// # Errors
/// When the log cannot be read, or nobody waits any more.
fn of_log(
    log: &Log,
    policies: &Policies,
    (query, window): (&Query, Window),
    seen: Option<Seen>,
    going: &Going,
) -> Result<Replayed, LogError> {
    let bundles = |digest: &Digest| Ok(policies.read(&digest.0)?.map(Bytes::from));
    let seen = seen.unwrap_or_else(|| Seen::of(log.verifier().name()));
    let mut replaying = Replaying::new(&bundles, in_force(log, seen, going)?);
    let mut decisions = Decisions::new(log, query, window)?.heeding(going);
    replaying.dropped(decisions.dropped());
    decisions.visit(|index, leaf| {
        replaying.leaf(index, leaf);
        ControlFlow::<()>::Continue(())
    })?;
    Ok(replaying.found)
}

/// What was in force, by what was seen of a log and the rest of it.
fn in_force(log: &Log, mut seen: Seen, going: &Going) -> Result<InForce, LogError> {
    let mut scan = log.scan(seen.next);
    let mut reading = going.reading(scan.end().saturating_sub(seen.next));
    while let Some(read) = scan.next_leaf() {
        reading.read(1)?;
        let (index, leaf) = read?;
        seen.take(index, leaf);
    }
    seen.in_force.settle();
    Ok(seen.in_force)
}

/// What whoever read a log from its beginning has seen of the revisions in force, so that it is
/// not read once more for that: with an archive that is to fetch all of it.
#[derive(Debug)]
pub(crate) struct Seen {
    origin: String,
    in_force: InForce,
    /// Index of the first record that was seen, and of the one after the last.
    first: Option<u64>,
    next: u64,
}

impl Seen {
    /// Nothing yet, of the log of this name.
    pub(crate) fn of(origin: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            in_force: InForce::of(origin),
            first: None,
            next: 0,
        }
    }

    /// The same, of the log in a folder; none where nobody can tell whose it is.
    pub(crate) fn of_folder(dir: &Path) -> Option<Self> {
        let domain = whose(dir).ok()?;
        Some(Self::of(&origin(domain.as_str())))
    }

    /// Sees a record. The one that was the first begins anew; others count once.
    pub(crate) fn take(&mut self, index: u64, leaf: &[u8]) {
        if self.first == Some(index) {
            *self = Self::of(&self.origin);
        }
        if index >= self.next {
            self.first.get_or_insert(index);
            self.in_force.take(leaf);
            self.next = index + 1;
        }
    }
}

/// Makes the decisions of a package again, under the revisions that it has.
///
/// # Errors
/// When nobody waits any more.
pub(crate) fn of_package(package: &Package, going: &Going) -> Result<Replayed, Ended> {
    let mut bundles: HashMap<Digest, Bytes> = HashMap::new();
    let mut is_all = true;
    for bytes in package.policies().map(Bytes::copy_from_slice) {
        match bundle::open(&bytes) {
            Ok(opened) => drop(bundles.insert(opened.digest, bytes)),
            Err(_) => is_all = false,
        }
    }
    let bundles = |digest: &Digest| match bundles.get(digest) {
        None if !is_all => Err(io::ErrorKind::Unsupported.into()),
        found => Ok(found.cloned()),
    };
    let mut in_force = InForce::of(&package.checkpoint().origin);
    // In the order of the log: of its first change alone it is known what was in force before.
    let told: BTreeMap<u64, &[u8]> = package.in_force().chain(package.leaves()).collect();
    told.values().for_each(|leaf| in_force.take(leaf));
    in_force.settle();
    let mut replaying = Replaying::new(&bundles, in_force);
    let mut reading = going.reading(package.records());
    for (index, leaf) in package.leaves() {
        reading.read(1)?;
        replaying.leaf(index, leaf);
    }
    Ok(replaying.found)
}

/// The decisions of a log that `query` asks for at the moment `now_us`: of all its time, where the
/// query says none.
///
/// # Errors
/// When the query's time is none, the log cannot be read, or nobody waits any more.
pub(crate) fn of_query(
    log: &Log,
    policies: &Policies,
    (query, now_us): (&Query, i64),
    seen: Option<Seen>,
    going: &Going,
) -> Result<Replayed, Diagnostic> {
    let window = match query.names_a_time() {
        true => query.window(now_us, &Limits::default())?,
        false => Window::EVER,
    };
    of_log(log, policies, (query, window), seen, going).map_err(|e| e.diagnostic())
}

impl Replayed {
    /// Whether nothing is recorded otherwise than its policies say, nor a revision changed.
    pub(crate) fn holds(&self) -> bool {
        self.differ == 0 && self.damaged.is_empty()
    }
}

impl<'s> Replaying<'s> {
    /// Takes revisions from `bundles`.
    fn new(bundles: &'s Bundles<'s>, in_force: InForce) -> Self {
        let unreadable = in_force.unreadable;
        let mut replaying = Self {
            bundles,
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
        let past = asked(record).map_err(|cause| cause.words().to_owned())?;
        if record.action.is_empty() {
            return Err(NO_POLICY.to_owned());
        }
        let digest = Digest::from_slice(record.policy_digest).ok_or(NO_REVISION)?;
        let past = Past {
            time_us: moment(record).ok_or(OTHER_MOMENT)?,
            ..past
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
        let bundle = (self.bundles)(&digest).map_err(|e| match e.kind() {
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
