//! What a candidate would have decided otherwise: recorded decisions against the same
//! questions under another revision, counted, grouped and with samples.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use palisade_audit::envelope::DecisionRef;
use palisade_mesh::{
    decision::{Decision, DecisionId, Verdict},
    spiffe_id::SpiffeId,
    wire::record::Verdict as WireVerdict,
};
use palisade_pdp::decide::{Lacking, Past, Replay, Snapshot};
use serde::Serialize;

use super::asked::{asked, words};

/// Cedar type of what the catalogue has an operation for.
const OPERATION: &str = "Operation";

/// Groups that are told apart on each side; what comes later is counted together.
pub(crate) const GROUPS_MAX: usize = 10_000;
/// Causes that are told apart.
const CAUSES_MAX: usize = 1000;
/// The cause of what is beyond them.
const OTHER_CAUSES: &str = "for other reasons";
/// Decision ids that a group, or a cause, names.
pub(crate) const SAMPLES_MAX: usize = 3;

/// What a candidate is compared with.
pub(crate) enum Before {
    /// What the records say was decided.
    Recorded,
    /// What another revision decides about the same requests.
    Replayed(Box<Replay>),
}

/// Compares decision by decision.
pub(crate) struct Comparing {
    candidate: Replay,
    before: Before,
    pub(crate) flips: Flips,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Flips {
    /// Decisions that were looked at.
    pub(crate) decisions: u64,
    /// Allowed before, and not by the candidate.
    pub(crate) newly_denied: Side,
    /// Not allowed before, and allowed by the candidate.
    pub(crate) newly_allowed: Side,
    /// Of these: those about services that the revision compared with does not have. It has no
    /// decision about them, and none is a refusal.
    pub(crate) newly_served: u64,
    /// Neither.
    pub(crate) unchanged: Side,
    /// Of these: by another verdict or other policies than before.
    pub(crate) other_reason: u64,
    /// Those that cannot be decided again, by cause.
    pub(crate) not_replayable: Lacks,
    /// Of these: the candidate has a decision about them, which is not known because the record
    /// lacks what it reads. A gate cannot be known to hold of them.
    pub(crate) unknown: u64,
    /// Those that were decided, and that the candidate's catalogue and schema have no decision
    /// about, by cause. Each is counted among the others, too.
    pub(crate) broken: Lacks,
}

/// Decisions that changed in one direction, or did not.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Side {
    /// How many.
    pub(crate) count: u64,
    /// By caller, target and policy, in the order in which they were met.
    #[serde(serialize_with = "sorted")]
    groups: Vec<(Edge, Group)>,
    /// How many are in no group, because there were too many groups.
    pub(crate) ungrouped: u64,
    #[serde(skip)]
    met: Met,
}

/// Which group decisions are of that are alike to the letter. Almost every decision is like
/// one before, and making the words of its group anew would take as long as deciding it.
#[derive(Debug, Default)]
struct Met {
    hasher: RandomState,
    /// By hash: what such decisions say, and the position of their group.
    alike: HashMap<u64, Vec<(Alike, usize)>>,
    known: usize,
    /// Positions of groups.
    groups: HashMap<Edge, usize>,
}

/// What tells the group of a decision.
#[derive(Debug)]
struct Alike {
    principal: Box<str>,
    after: Arc<Decision>,
    /// Recorded policies, where they are part of the group.
    policies: Vec<Box<str>>,
}

/// Who asked for what, and the policies behind the change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Edge {
    /// Service of the caller, `NAMESPACE/NAME`, or its SPIFFE ID if it is none.
    pub(crate) from: String,
    /// Resource without its trust domain.
    pub(crate) to: String,
    /// Cedar action.
    pub(crate) action: String,
    /// Why: the candidate's determining policies, or those that permitted before.
    pub(crate) policies: Vec<String>,
    /// The candidate's verdict, as a constant word.
    pub(crate) reason: &'static str,
}

/// Decisions that are alike.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Group {
    /// How many.
    pub(crate) count: u64,
    /// Ids of the first of them.
    pub(crate) samples: Vec<String>,
}

/// Decisions that cannot be made again.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Lacks {
    /// How many.
    pub(crate) count: u64,
    /// By cause.
    pub(crate) causes: BTreeMap<String, Group>,
}

impl Comparing {
    pub(crate) fn new(candidate: Arc<Snapshot>, before: Before) -> Self {
        Self {
            candidate: Replay::new(candidate),
            before,
            flips: Flips::default(),
        }
    }

    /// Decisions that the candidate evaluated; all others were like one before.
    pub(crate) fn evaluated(&self) -> u64 {
        self.candidate.evaluated()
    }

    /// Looks at one recorded decision.
    pub(crate) fn take(&mut self, record: &DecisionRef<'_>) {
        self.flips.decisions += 1;
        let past = match asked(record) {
            Ok(past) => past,
            Err(cause) => {
                self.flips.unknown += u64::from(cause.is_unknown());
                let lacks = &mut self.flips.not_replayable;
                return lacks.add(cause.words().to_owned(), record);
            }
        };
        let after = match self.candidate.decide(&past) {
            Ok(after) => after,
            Err(why) => {
                if *why == Lacking::Service && self.was_decided(record, &past) {
                    self.flips.broken.add(words(&why), record);
                }
                self.flips.unknown += u64::from(*why != Lacking::Service);
                return self.flips.not_replayable.add(words(&why), record);
            }
        };
        if let Some(cause) = self.breaks(record, &past, &after)
            && self.was_decided(record, &past)
        {
            self.flips.broken.add(cause, record);
        }
        let (allowed, same) = match &mut self.before {
            Before::Recorded => (
                record.verdict == WireVerdict::Allow,
                record.reason == after.verdict.reason()
                    && record
                        .policies
                        .iter()
                        .copied()
                        .eq(after.determining.iter().map(|id| id.as_str())),
            ),
            Before::Replayed(replay) => match replay.decide(&past) {
                Ok(before) => {
                    let same = (before.verdict, &before.determining)
                        == (after.verdict, &after.determining);
                    (before.verdict.is_allow(), same)
                }
                Err(why) if *why == Lacking::Service => {
                    self.flips.newly_served += u64::from(after.verdict.is_allow());
                    (false, false)
                }
                Err(why) => {
                    let cause = format!("{}, which the revision compared with needs", words(&why));
                    self.flips.unknown += 1;
                    return self.flips.not_replayable.add(cause, record);
                }
            },
        };
        let side = match (allowed, after.verdict.is_allow()) {
            (true, false) => &mut self.flips.newly_denied,
            (false, true) => &mut self.flips.newly_allowed,
            _ => {
                self.flips.other_reason += u64::from(!same);
                &mut self.flips.unchanged
            }
        };
        side.add(record, &after, self.candidate.snapshot());
    }

    /// Why the candidate has no decision about a request, where it has none.
    fn breaks(
        &self,
        record: &DecisionRef<'_>,
        past: &Past<'_>,
        after: &Decision,
    ) -> Option<String> {
        // What was no operation when it was recorded is none that the candidate lacks; of a
        // replay of what was before that is known from there.
        let was_served =
            matches!(self.before, Before::Replayed(_)) || record.resource_type == OPERATION;
        match after.verdict {
            Verdict::Undecided(_) => Some(format!(
                "the candidate leaves it undecided ({})",
                after.verdict.reason()
            )),
            _ if was_served && !self.candidate.serves(past) => Some(
                "it is no operation of the candidate's catalogue, and would be answered as none"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// Whether there was a decision about a request, by what it is compared with.
    fn was_decided(&mut self, record: &DecisionRef<'_>, past: &Past<'_>) -> bool {
        match &mut self.before {
            Before::Recorded => record.verdict != WireVerdict::Undecided,
            Before::Replayed(replay) => {
                let before = replay.decide(past);
                let undecided = |d: &Decision| matches!(d.verdict, Verdict::Undecided(_));
                before.is_ok_and(|before| !undecided(&before)) && replay.serves(past)
            }
        }
    }
}

fn edge(candidate: &Snapshot, record: &DecisionRef<'_>, after: &Decision) -> Edge {
    let id = SpiffeId::parse(record.principal).ok();
    let service = id.and_then(|id| candidate.catalogue().by_identity(&id).cloned());
    Edge {
        from: match service {
            Some(service) => service.id.short().to_owned(),
            None => record.principal.to_owned(),
        },
        to: short(&after.resource_id).to_owned(),
        action: after.action.to_string(),
        policies: match after.verdict {
            Verdict::NotPermitted => record.policies.iter().map(ToString::to_string).collect(),
            _ => after.determining.iter().map(ToString::to_string).collect(),
        },
        reason: after.verdict.reason(),
    }
}

/// An id without its trust domain.
pub(crate) fn short(id: &str) -> &str {
    id.split_once('/').map_or(id, |(_, rest)| rest)
}

impl Alike {
    fn is_of(&self, record: &DecisionRef<'_>, after: &Decision) -> bool {
        let policies = self.policies.iter().map(|p| &**p);
        *self.principal == *record.principal
            && self.after.verdict == after.verdict
            && self.after.action == after.action
            && self.after.resource_id == after.resource_id
            && self.after.determining == after.determining
            && policies.eq(named(record, after).iter().copied())
    }
}

/// The recorded policies, where they are part of the group.
fn named<'r>(record: &'r DecisionRef<'_>, after: &Decision) -> &'r [&'r str] {
    match after.verdict {
        Verdict::NotPermitted => &record.policies,
        _ => &[],
    }
}

impl Side {
    fn add(&mut self, record: &DecisionRef<'_>, after: &Arc<Decision>, candidate: &Snapshot) {
        self.count += 1;
        let Some(at) = self.place(record, after, candidate) else {
            self.ungrouped += 1;
            return;
        };
        if let Some((_, group)) = self.groups.get_mut(at) {
            group.add(record);
        }
    }

    /// The position of a decision's group; `None` where there are too many groups.
    fn place(
        &mut self,
        record: &DecisionRef<'_>,
        after: &Arc<Decision>,
        candidate: &Snapshot,
    ) -> Option<usize> {
        let met = &mut self.met;
        let hash = met.hasher.hash_one((
            record.principal,
            &after.action,
            &after.resource_id,
            &after.determining,
            after.verdict,
            named(record, after),
        ));
        let mut known = met.alike.get(&hash).into_iter().flatten();
        if let Some((_, at)) = known.find(|(alike, _)| alike.is_of(record, after)) {
            return Some(*at);
        }
        let edge = edge(candidate, record, after);
        let at = match met.groups.get(&edge) {
            Some(at) => *at,
            None if self.groups.len() >= GROUPS_MAX => return None,
            None => {
                let at = self.groups.len();
                met.groups.insert(edge.clone(), at);
                self.groups.push((edge, Group::default()));
                at
            }
        };
        if met.known < GROUPS_MAX {
            met.known += 1;
            let alike = Alike {
                principal: record.principal.into(),
                after: Arc::clone(after),
                policies: named(record, after).iter().map(|p| Box::from(*p)).collect(),
            };
            met.alike.entry(hash).or_default().push((alike, at));
        }
        Some(at)
    }

    /// The groups, largest first.
    pub(crate) fn largest(&self) -> Vec<(&Edge, &Group)> {
        largest(&self.groups)
    }
}

fn largest(groups: &[(Edge, Group)]) -> Vec<(&Edge, &Group)> {
    let mut groups: Vec<_> = groups.iter().map(|(edge, group)| (edge, group)).collect();
    groups.sort_by_key(|(edge, group)| (std::cmp::Reverse(group.count), *edge));
    groups
}

impl Group {
    fn add(&mut self, record: &DecisionRef<'_>) {
        self.count += 1;
        if self.samples.len() < SAMPLES_MAX
            && let Ok(id) = record.id.try_into()
        {
            let id = DecisionId(u128::from_be_bytes(id).into());
            self.samples.push(id.to_string());
        }
    }
}

impl Lacks {
    pub(crate) fn add(&mut self, cause: String, record: &DecisionRef<'_>) {
        self.count += 1;
        let is_room = self.causes.len() < CAUSES_MAX || self.causes.contains_key(&cause);
        let cause = if is_room {
            cause
        } else {
            OTHER_CAUSES.to_owned()
        };
        self.causes.entry(cause).or_default().add(record);
    }

    /// Counts those of which there is no record any more.
    pub(crate) fn add_unnamed(&mut self, cause: &str, count: u64) {
        if count > 0 {
            self.count += count;
            self.causes.entry(cause.to_owned()).or_default().count += count;
        }
    }

    /// The cause of most of them.
    pub(crate) fn largest(&self) -> Option<&str> {
        let largest = self.causes.iter().max_by_key(|(_, group)| group.count);
        largest.map(|(cause, _)| cause.as_str())
    }
}

/// The groups as a list, largest first.
fn sorted<S: serde::Serializer>(groups: &[(Edge, Group)], s: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Entry<'g> {
        #[serde(flatten)]
        edge: &'g Edge,
        #[serde(flatten)]
        group: &'g Group,
    }
    let groups = largest(groups).into_iter();
    s.collect_seq(groups.map(|(edge, group)| Entry { edge, group }))
}
