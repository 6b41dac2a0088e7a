//! Who newly reaches, or no longer reaches, what: every caller of the registry, every operation of the
//! catalogue, every method, by the engine that enforces.
//!
//! Only pairs that something changed can concern are looked at: those in the scope of a
//! changed policy, and those whose caller or operation is another entity than before. Where the answer
//! depends on the request (its path, its time, its headers), the clauses on which it
//! depends are compared and told.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::EntityUid;
use palisade_mesh::{catalogue::Service, operation::Operation};
use serde::Serialize;
use smol_str::SmolStr;

use super::{
    Place,
    change::Changed,
    possible::{Depends, Open, Possible},
    universe::{Ask, Caller, Universe},
};
use crate::decide::{Caller as Who, Given, Snapshot, Survey, Target, rule::Rule, world::Ent};

/// Most pairs of caller and request that are compared; beyond, the answer is incomplete and
/// says so.
pub const PAIRS_MAX: usize = 250_000;

/// What a change does to the access of those who are known.
#[derive(Debug, Clone, Serialize)]
pub struct Access {
    /// Identities of services, in either revision.
    pub identities: usize,
    /// Kinds of callers that no service claims.
    pub strangers: usize,
    /// Operations, in either revision.
    pub operations: usize,
    /// Pairs of caller and request that were compared: those that the change can concern.
    pub compared: usize,
    /// Whether these were all that it can concern.
    pub complete: bool,
    /// Whether callers or operations are others than before: groups, attributes, the catalogue.
    pub registry_changed: bool,
    /// Sources that only one of the two revisions has; where there are such, no change is told,
    /// for it may be none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub untold: Vec<String>,
    /// What is different, grouped.
    pub changes: Vec<AccessChange>,
}

/// Callers and operations whose access changes in one way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct AccessChange {
    /// In which way.
    pub kind: AccessKind,
    /// Callers, as people write them.
    pub callers: Vec<String>,
    /// `NAMESPACE/NAME` of the service.
    pub service: String,
    /// Operations, each with its actions.
    pub operations: Vec<String>,
    /// Policies that are why.
    pub by: Vec<Place>,
    /// The request must meet one of these now; none for every request.
    pub only_if: Vec<String>,
    /// It must not meet any of these now.
    pub unless: Vec<String>,
    /// The request had to meet one of these before.
    pub was_only_if: Vec<String>,
    /// It must not have met any of these.
    pub was_unless: Vec<String>,
}

/// In which way access changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessKind {
    /// Requests are allowed that were not.
    Gained,
    /// The conditions are others; some requests may be allowed that were not.
    Changed,
    /// Requests are denied that were allowed.
    Lost,
}

impl Access {
    /// Whether somebody known may have gained something.
    pub fn gains(&self) -> bool {
        self.changes.iter().any(|c| c.kind != AccessKind::Lost)
    }
}

/// One pair whose answer differs.
pub(crate) struct Differing {
    pub(crate) caller: usize,
    pub(crate) ask: usize,
    kind: AccessKind,
    old: Possible,
    new: Possible,
}

impl Differing {
    /// The permits that allow it now, where something does.
    pub(crate) fn allowed_by(&self) -> BTreeSet<SmolStr> {
        match &self.new {
            Possible::Allowed(by) => by.clone(),
            Possible::Denied(_) => BTreeSet::new(),
            Possible::Depends(on) => on.permits.values().flatten().cloned().collect(),
        }
    }
}

/// Both revisions, the universe they share, and what changed.
pub(crate) struct Comparing<'s> {
    pub(crate) base: &'s Snapshot,
    pub(crate) head: &'s Snapshot,
    pub(crate) universe: &'s Universe,
    pub(crate) changed: &'s [Changed<'s>],
    pub(crate) now_us: i64,
}

impl Comparing<'_> {
    /// Compares every pair that the change can concern.
    pub(crate) fn access(&self) -> (Access, Vec<Differing>) {
        let others = (self.callers_that_changed(), self.asks_that_changed());
        let old = Side::new(self.base, self.universe, self.now_us);
        let new = Side::new(self.head, self.universe, self.now_us);
        let (pairs, complete) = self.pairs(&others, [(&old, false), (&new, true)]);
        let takes_more = |i: &usize| {
            self.universe
                .asks
                .get(*i)
                .is_some_and(|a| self.takes_more(a))
        };
        let wider: BTreeSet<usize> = others.1.iter().copied().filter(takes_more).collect();
        let mut differing = Vec::new();
        for (caller, ask) in &pairs {
            let (before, after) = (old.look(*caller, *ask), new.look(*caller, *ask));
            // A clause may read the caller or the resource, which are others now.
            let other = others.0.contains(caller) || others.1.contains(ask);
            let more = wider.contains(ask) && !matches!(after, Possible::Denied(_));
            let kind = kind_of(&before, &after).or_else(|| {
                (more || other && reads_entities(&after)).then_some(AccessKind::Changed)
            });
            if let Some(kind) = kind {
                differing.push(Differing {
                    caller: *caller,
                    ask: *ask,
                    kind,
                    old: before,
                    new: after,
                });
            }
        }
        let access = Access {
            identities: self.universe.identities,
            strangers: self.universe.callers.len() - self.universe.identities,
            operations: self.universe.operations,
            compared: pairs.len(),
            complete,
            registry_changed: !(others.0.is_empty() && others.1.is_empty()),
            untold: Vec::new(),
            changes: self.grouped(&differing),
        };
        (access, differing)
    }

    /// Positions of callers and asks that the change can concern.
    fn pairs(
        &self,
        (other_callers, other_asks): &(BTreeSet<usize>, BTreeSet<usize>),
        sides: [(&Side<'_>, bool); 2],
    ) -> (Vec<(usize, usize)>, bool) {
        let Universe { callers, asks, .. } = self.universe;
        let (mut whole_callers, mut whole_asks) = (other_callers.clone(), other_asks.clone());
        let mut found: BTreeSet<(usize, usize)> = BTreeSet::new();
        let mut complete = true;
        let mut put = |pair: (usize, usize)| {
            if found.len() < PAIRS_MAX {
                found.insert(pair);
            } else {
                complete = false;
            }
        };
        for (side, new) in sides {
            for changed in self.changed {
                let Some(rule) = (if new { changed.new } else { changed.old }) else {
                    continue;
                };
                let (by, to) = side.in_scope(rule);
                if by.len() == callers.len() {
                    whole_asks.extend(to);
                } else if to.len() == asks.len() {
                    whole_callers.extend(by);
                } else {
                    by.iter()
                        .for_each(|c| to.iter().for_each(|a| put((*c, *a))));
                }
            }
        }
        for caller in &whole_callers {
            (0..asks.len()).for_each(|ask| put((*caller, ask)));
        }
        for ask in &whole_asks {
            (0..callers.len()).for_each(|caller| put((caller, *ask)));
        }
        (found.into_iter().collect(), complete)
    }

    fn callers_that_changed(&self) -> BTreeSet<usize> {
        fn entity<'s>(snapshot: &'s Snapshot, caller: &Caller) -> Option<Seen<'s>> {
            let uid = snapshot.world().uid(snapshot.principal(&caller.id)?)?;
            Some(Seen::of(snapshot, uid))
        }
        let callers = self.universe.callers.iter().enumerate();
        callers
            .filter(|(_, c)| entity(self.base, c) != entity(self.head, c))
            .map(|(i, _)| i)
            .collect()
    }

    fn asks_that_changed(&self) -> BTreeSet<usize> {
        type Both<'s> = [Option<Seen<'s>>; 2];
        fn entities<'s>(snapshot: &'s Snapshot, ask: &Ask) -> Option<Both<'s>> {
            let (action, resource) = ask.resolve(snapshot)?.entities(snapshot)?;
            let world = snapshot.world();
            let seen = |e| world.uid(e).map(|uid| Seen::of(snapshot, uid));
            Some([action, resource].map(seen))
        }
        let asks = self.universe.asks.iter().enumerate();
        asks.filter(|(_, a)| entities(self.base, a) != entities(self.head, a) || self.takes_more(a))
            .map(|(i, _)| i)
            .collect()
    }

    /// Whether the operation takes requests that it did not.
    fn takes_more(&self, ask: &Ask) -> bool {
        let resolved = |snapshot: &Snapshot| {
            let resolved = ask.resolve(snapshot)?;
            Some((resolved.operation?, resolved.service))
        };
        let (Some((old, of_old)), Some((new, of_new))) = (resolved(self.base), resolved(self.head))
        else {
            return false;
        };
        // Another name of the whole service is another way to the same.
        let limited = !(old.hosts.is_empty() && new.hosts.is_empty());
        let hosts = |operation: &Operation, service: &Service| match operation.hosts.is_empty() {
            true => service.hosts.clone(),
            false => operation.hosts.clone(),
        };
        let old_hosts = hosts(&old, &of_old);
        let more_hosts = limited && !hosts(&new, &of_new).iter().all(|h| old_hosts.contains(h));
        old.id == new.id && (more_hosts || !old.template.covers(&new.template))
    }

    fn grouped(&self, differing: &[Differing]) -> Vec<AccessChange> {
        type Way = (AccessKind, String, Vec<SmolStr>, [Vec<String>; 4]);
        let mut ways: BTreeMap<Way, BTreeMap<usize, BTreeSet<usize>>> = BTreeMap::new();
        for one in differing {
            let Some(ask) = self.universe.asks.get(one.ask) else {
                continue;
            };
            let service = ask.service.short().to_owned();
            let by = self.reasons(one).into_iter().collect();
            let (only_if, unless) = terms(&one.new);
            let (was_only_if, was_unless) = terms(&one.old);
            let way = (
                one.kind,
                service,
                by,
                [only_if, unless, was_only_if, was_unless],
            );
            let asks = ways.entry(way).or_default().entry(one.caller).or_default();
            asks.insert(one.ask);
        }
        let mut changes = Vec::new();
        for ((kind, service, by, terms), of_callers) in ways {
            let mut alike: BTreeMap<BTreeSet<usize>, Vec<usize>> = BTreeMap::new();
            for (caller, asks) in of_callers {
                alike.entry(asks).or_default().push(caller);
            }
            let [only_if, unless, was_only_if, was_unless] = terms;
            for (asks, callers) in alike {
                let callers = callers.iter().filter_map(|i| self.universe.callers.get(*i));
                changes.push(AccessChange {
                    kind,
                    callers: callers.map(|c| c.name.clone()).collect(),
                    service: service.clone(),
                    operations: self.named(&asks),
                    by: by.iter().map(|id| self.place(id)).collect(),
                    only_if: only_if.clone(),
                    unless: unless.clone(),
                    was_only_if: was_only_if.clone(),
                    was_unless: was_unless.clone(),
                });
            }
        }
        changes
    }

    /// `refund POST`, `list GET HEAD`, `cards payments:read-cards`.
    fn named(&self, asks: &BTreeSet<usize>) -> Vec<String> {
        let mut operations: Vec<(&str, Vec<SmolStr>)> = Vec::new();
        for ask in asks.iter().filter_map(|i| self.universe.asks.get(*i)) {
            let resolved = ask.resolve(self.head).or_else(|| ask.resolve(self.base));
            let action = resolved.map_or_else(SmolStr::default, |r| r.action);
            match operations.last_mut() {
                Some((name, actions)) if *name == ask.operation => {
                    if !actions.contains(&action) {
                        actions.push(action);
                    }
                }
                _ => operations.push((&ask.operation, vec![action])),
            }
        }
        let words = |(name, actions): (&str, Vec<SmolStr>)| format!("{name} {}", actions.join(" "));
        operations.into_iter().map(words).collect()
    }

    /// The policies that are why an answer differs: those it rests on in one revision
    /// and not in the other, and of these the changed ones where there are any. What is newly
    /// allowed, some permit allows, changed or not.
    fn reasons(&self, one: &Differing) -> BTreeSet<SmolStr> {
        let mut reasons = self.differences(one);
        if one.kind == AccessKind::Gained {
            reasons.extend(one.allowed_by());
        }
        reasons
    }

    fn differences(&self, one: &Differing) -> BTreeSet<SmolStr> {
        let (before, after) = (rests_on(&one.old), rests_on(&one.new));
        let differing: BTreeSet<SmolStr> = before.symmetric_difference(&after).cloned().collect();
        let is_changed = |id: &&SmolStr| self.changed.iter().any(|c| c.id == **id);
        for candidates in [&differing, &after, &before] {
            let changed: BTreeSet<SmolStr> =
                candidates.iter().filter(is_changed).cloned().collect();
            if !changed.is_empty() {
                return changed;
            }
        }
        match differing.is_empty() {
            true => &after | &before,
            false => differing,
        }
    }

    fn place(&self, id: &SmolStr) -> Place {
        Place::of(self.head, id)
            .or_else(|| Place::of(self.base, id))
            .unwrap_or_else(|| Place::nowhere(id))
    }
}

/// What a policy can see of an entity.
struct Seen<'s> {
    uid: &'s EntityUid,
    entity: Option<&'s cedar_policy::Entity>,
}

impl<'s> Seen<'s> {
    fn of(snapshot: &'s Snapshot, uid: &'s EntityUid) -> Self {
        Self {
            uid,
            entity: snapshot.compiled().entities.get(uid),
        }
    }
}

impl PartialEq for Seen<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.uid == other.uid
            && match (&self.entity, &other.entity) {
                (Some(a), Some(b)) => a.deep_eq(b),
                (a, b) => a.is_none() == b.is_none(),
            }
    }
}

/// One revision, with everything of the universe in its terms.
struct Side<'s> {
    snapshot: &'s Snapshot,
    survey: Survey<'s>,
    callers: Vec<Option<Who>>,
    asks: Vec<Option<Asked>>,
}

/// An ask in terms of one snapshot.
struct Asked {
    action: Ent,
    resource: Ent,
    target: Target,
}

impl<'s> Side<'s> {
    fn new(snapshot: &'s Snapshot, universe: &Universe, now_us: i64) -> Self {
        let callers = universe.callers.iter();
        let ask_of = |ask: &Ask| {
            let resolved = ask.resolve(snapshot)?;
            let (action, resource) = resolved.entities(snapshot)?;
            Some(Asked {
                action,
                resource,
                target: resolved.target(snapshot),
            })
        };
        let given = Given {
            now_us,
            onwards: true,
            ..Given::default()
        };
        let survey = snapshot.survey(given);
        Self {
            snapshot,
            survey: survey.expect("an empty context is one"),
            callers: callers.map(|c| snapshot.caller(&c.id)).collect(),
            asks: universe.asks.iter().map(ask_of).collect(),
        }
    }

    fn look(&self, caller: usize, ask: usize) -> Possible {
        let caller = self.callers.get(caller).and_then(Option::as_ref);
        let asked = self.asks.get(ask).and_then(Option::as_ref);
        match (caller, asked) {
            (Some(caller), Some(asked)) => Possible::of(&self.survey, caller, &asked.target),
            _ => Possible::Denied(BTreeSet::new()),
        }
    }

    /// Callers and asks that a policy's scope takes.
    fn in_scope(&self, rule: &Rule) -> (Vec<usize>, Vec<usize>) {
        let world = self.snapshot.world();
        let callers = self.callers.iter().enumerate();
        let by = callers.filter(|(_, caller)| {
            let entity = caller.as_ref().map(Who::entity);
            entity.is_some_and(|entity| rule.principal.holds(entity, world))
        });
        let asks = self.asks.iter().enumerate();
        let to = asks.filter(|(_, ask)| {
            ask.as_ref().is_some_and(|asked| {
                rule.action.holds(asked.action, world) && rule.resource.holds(asked.resource, world)
            })
        });
        (by.map(|(i, _)| i).collect(), to.map(|(i, _)| i).collect())
    }
}

/// How an answer changes; `None` where it is the same.
fn kind_of(old: &Possible, new: &Possible) -> Option<AccessKind> {
    use AccessKind::{Changed, Gained, Lost};
    use Possible::{Allowed, Denied, Depends};
    match (old, new) {
        (Allowed(_), Allowed(_)) | (Denied(_), Denied(_)) => None,
        (Denied(_) | Depends(_), Allowed(_)) | (Denied(_), Depends(_)) => Some(Gained),
        (Allowed(_) | Depends(_), Denied(_)) | (Allowed(_), Depends(_)) => Some(Lost),
        (Depends(a), Depends(b)) => {
            let (wider, narrower) = (covers(b, a), covers(a, b));
            match (wider, narrower) {
                (true, true) => None,
                (true, false) => Some(Gained),
                (false, true) => Some(Lost),
                (false, false) => Some(Changed),
            }
        }
    }
}

/// Whether what meets `a` surely meets `b`: every permit of `a` is one of `b`, or asks for more;
/// every forbid of `b` is one of `a`, or asks for more.
fn covers(b: &Depends, a: &Depends) -> bool {
    let within = |more: &Open, less: &Open| {
        let weaker = |clauses: &Vec<String>| {
            less.keys()
                .any(|other| other.iter().all(|c| clauses.contains(c)))
        };
        more.keys().all(weaker)
    };
    within(&a.permits, &b.permits) && within(&b.forbids, &a.forbids)
}

fn rests_on(possible: &Possible) -> BTreeSet<SmolStr> {
    match possible {
        Possible::Allowed(by) | Possible::Denied(by) => by.clone(),
        Possible::Depends(on) => {
            let all = on.permits.values().chain(on.forbids.values());
            all.flatten().cloned().collect()
        }
    }
}

fn reads_entities(possible: &Possible) -> bool {
    let (permits, forbids) = terms(possible);
    let mut clauses = permits.iter().chain(&forbids);
    clauses.any(|c| c.contains("principal") || c.contains("resource"))
}

/// What must hold, and what must not, as texts.
fn terms(possible: &Possible) -> (Vec<String>, Vec<String>) {
    let Possible::Depends(on) = possible else {
        return (Vec::new(), Vec::new());
    };
    let texts = |open: &Open| -> Vec<String> {
        let some = open.keys().filter(|clauses| !clauses.is_empty());
        some.map(|clauses| clauses.join(" && ")).collect()
    };
    (texts(&on.permits), texts(&on.forbids))
}
