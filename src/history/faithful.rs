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
};

use bytes::Bytes;
use jiff::Timestamp;
use palisade_audit::{
    decisions::Decisions,
    envelope::DecisionRef,
    log::{Log, LogError},
    policies::Policies,
    query::{Query, Window},
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
    decide::{Lacking, Replay},
};
use serde::Serialize;

use super::flips::{Lacks, past, unfit, words};
use crate::run::{audit::whole, policy};

/// Engines that are held: proxies decide under two revisions while one takes the place of
/// another, and a straggler under a third.
const ENGINES_MAX: usize = 3;
/// Differences that are told; more are counted.
const DIFFERENCES_MAX: usize = 1000;
/// Damaged revisions that are told.
const DAMAGED_MAX: usize = 100;
/// The reason of a request that was allowed and is no operation of its service.
const OPERATION_UNKNOWN: &str = "operation_unknown";

/// What came of making recorded decisions again.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Replayed {
    /// Decisions that there were, those that were dropped since among them.
    pub(crate) decisions: u64,
    /// Those that were made again and are the same.
    pub(crate) same: u64,
    /// Those that are not.
    pub(crate) differ: u64,
    /// The first of these.
    pub(crate) differences: Vec<Difference>,
    /// Those that cannot be made again, by cause.
    pub(crate) not_replayable: Lacks,
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
    /// What the revision says.
    pub(crate) replayed: Said,
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
    /// The one that was asked last is the last.
    engines: VecDeque<(Digest, Result<Box<Replay>, String>)>,
    pub(crate) found: Replayed,
}

/// Makes the decisions of a log again that `query` asks for in `window`, under the revisions
/// that are kept beside it.
///
/// # Errors
/// When the log cannot be read.
pub(crate) fn of_log(
    log: &Log,
    policies: &Policies,
    (query, window): (&Query, Window),
) -> Result<Replayed, LogError> {
    let shelf = |digest: &Digest| Ok(policies.read(&digest.0)?.map(Bytes::from));
    let mut replaying = Replaying::new(&shelf);
    let mut decisions = Decisions::new(log, query, window)?;
    replaying.dropped(decisions.dropped());
    decisions.visit(|index, leaf| {
        if let Some(decision) = DecisionRef::of_leaf(leaf) {
            replaying.take(index, &decision);
        }
        std::ops::ControlFlow::<()>::Continue(())
    })?;
    Ok(replaying.found)
}

/// Makes the decisions of a package again, under the revisions that it has.
pub(crate) fn of_package(package: &Package) -> Replayed {
    let bundles = package.policies().map(Bytes::copy_from_slice);
    let bundles: HashMap<Digest, Bytes> = bundles
        .filter_map(|bytes| Some((bundle::open(&bytes).ok()?.digest, bytes)))
        .collect();
    let shelf = |digest: &Digest| Ok(bundles.get(digest).cloned());
    let mut replaying = Replaying::new(&shelf);
    for (index, leaf) in package.leaves() {
        if let Some(decision) = DecisionRef::of_leaf(leaf) {
            replaying.take(index, &decision);
        }
    }
    replaying.found
}

/// All the decisions of a log.
///
/// # Errors
/// When the log cannot be read.
pub(crate) fn of_whole_log(log: &Log, policies: &Policies) -> Result<Replayed, Diagnostic> {
    let ever = Window {
        from_us: i64::MIN,
        to_us: i64::MAX,
    };
    let everything = Query::parse("")?;
    of_log(log, policies, (&everything, ever)).map_err(|e| e.diagnostic())
}

impl Replayed {
    /// Whether nothing is recorded otherwise than its policies say, nor a revision changed.
    pub(crate) fn holds(&self) -> bool {
        self.differ == 0 && self.damaged.is_empty()
    }
}

impl<'s> Replaying<'s> {
    /// Takes revisions from `shelf`.
    pub(crate) fn new(shelf: &'s Shelf<'s>) -> Self {
        Self {
            shelf,
            engines: VecDeque::new(),
            found: Replayed::default(),
        }
    }

    /// Counts decisions that were dropped because their time was over.
    pub(crate) fn dropped(&mut self, count: u64) {
        self.found.decisions += count;
        let lacks = &mut self.found.not_replayable;
        lacks.add_unnamed("dropped, because its time was over", count);
    }

    /// Makes one decision again; `entry` is its index in the log.
    pub(crate) fn take(&mut self, entry: u64, record: &DecisionRef<'_>) {
        self.found.decisions += 1;
        match self.again(record) {
            Err(cause) => self.found.not_replayable.add(cause, record),
            Ok(replayed) => {
                let recorded = Said::recorded(record);
                if recorded == replayed {
                    self.found.same += 1;
                    return;
                }
                self.found.differ += 1;
                if self.found.differences.len() < DIFFERENCES_MAX {
                    let difference = Difference::new(entry, record, recorded, replayed);
                    self.found.differences.push(difference);
                }
            }
        }
    }

    /// What the revision of a record says; or why that is not known.
    fn again(&mut self, record: &DecisionRef<'_>) -> Result<Said, String> {
        if let Some(cause) = unfit(record) {
            return Err(cause.to_owned());
        }
        if record.action.is_empty() {
            return Err(format!("no policy was asked ({})", record.reason));
        }
        let digest = Digest::from_slice(record.policy_digest);
        let digest = digest.ok_or("the record names no revision")?;
        let engine = self.engine(digest)?;
        let past = past(record);
        let after = engine.decide(&past).map_err(|why| cause(&why, record))?;
        let unserved = after.verdict.is_allow() && !engine.serves(&past);
        Ok(Said::replayed(&after, unserved))
    }

    fn engine(&mut self, digest: Digest) -> Result<&mut Replay, String> {
        let known = self.engines.iter().position(|(of, _)| *of == digest);
        let entry = match known.and_then(|at| self.engines.remove(at)) {
            Some(entry) => entry,
            None => {
                let built = self.built(&digest);
                self.found.revisions += u64::from(built.is_ok());
                (digest, built)
            }
        };
        if self.engines.len() >= ENGINES_MAX {
            self.engines.pop_front();
        }
        self.engines.push_back(entry);
        match self.engines.back_mut() {
            Some((_, Ok(engine))) => Ok(engine),
            Some((_, Err(why))) => Err(why.clone()),
            None => Err("bug: an engine was made and is not there".to_owned()),
        }
    }

    fn built(&mut self, digest: &Digest) -> Result<Box<Replay>, String> {
        let of = |what: &str| format!("revision {} {what}", digest.short());
        let read = (self.shelf)(digest).map_err(|e| of(&format!("cannot be read: {e}")))?;
        let bundle = read.ok_or_else(|| of("is not kept"))?;
        if let Err(why) = whole(&digest.0, bundle.clone()) {
            self.damaged(digest, why);
            return Err(of("is kept, and is not what its digest says"));
        }
        let loaded = author::compile(bundle);
        let first = loaded.diagnostics.into_iter().find(Diagnostic::is_error);
        let cannot = |why: String| of(&format!("cannot be compiled by this version: {why}"));
        let compiled = loaded.compiled.ok_or_else(|| {
            cannot(first.map_or_else(|| "no reason is given".to_owned(), |d| d.to_string()))
        })?;
        let snapshot = policy::snapshot(compiled, 0).map_err(|d| cannot(d.to_string()))?;
        Ok(Box::new(Replay::new(snapshot)))
    }

    fn damaged(&mut self, digest: &Digest, why: String) {
        let damaged = &mut self.found.damaged;
        let revision = digest.to_string();
        let known = damaged.iter().any(|d| d.revision == revision);
        if !known && damaged.len() < DAMAGED_MAX {
            damaged.push(Damaged { revision, why });
        }
    }
}

/// Why a record cannot be made again under its own revision.
fn cause(why: &Lacking, record: &DecisionRef<'_>) -> String {
    match why {
        Lacking::Service => "its revision has no such service".to_owned(),
        Lacking::Fields(_) | Lacking::Path if !record.covered.is_empty() => {
            let covered = record.covered.join(", ");
            format!("masked or sealed, because it is personal: {covered}")
        }
        _ => words(why),
    }
}

impl Difference {
    fn new(entry: u64, record: &DecisionRef<'_>, recorded: Said, replayed: Said) -> Self {
        let id = <[u8; 16]>::try_from(record.id).unwrap_or_default();
        let time = Timestamp::from_microsecond(record.time_us).unwrap_or_default();
        let revision = Digest::from_slice(record.policy_digest);
        Self {
            entry,
            id: DecisionId(u128::from_be_bytes(id).into()).to_string(),
            time: time.to_string(),
            revision: revision.map_or_else(String::new, |digest| digest.to_string()),
            recorded,
            replayed,
        }
    }
}

impl Said {
    fn recorded(record: &DecisionRef<'_>) -> Self {
        Self {
            decision: word(record.verdict),
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
            decision: word(decision.verdict.wire()),
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

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Forbidden => "forbidden",
        Verdict::NotPermitted => "not_permitted",
        Verdict::Undecided => "undecided",
        Verdict::Refused => "refused",
        Verdict::Unspecified => "unspecified",
    }
}
