//! The proof: no request at all is allowed by the newer revision that the older one denied.
//!
//! # The claim
//!
//! Let *allow(r)* be the engine's: some enforced permit is satisfied, and no `forbid` is
//! satisfied, fails to evaluate, or asks for an entity that is missing. Claimed is: for every
//! request *r* that callers and operations of the newer revision's registry can make, with
//! whatever context, *allow_new(r)* implies *allow_old(r)*, where both sets of policies look at
//! one world of entities. What a change of the entities themselves does is not part of the
//! claim: [`super::access`] shows that, for everybody who is known.
//!
//! # Why asking about little is enough
//!
//! A solver cannot take whole sets. Call a policy *changed* when it is in one revision only or
//! means something else, and let *r* be a request that breaks the claim. Then
//!
//! - **A.** some changed permit of the new revision is satisfied; or
//! - **B.** none is, so an unchanged permit is. It is satisfied in the old revision too, which
//!   denies *r* nevertheless; so some old `forbid` stops *r*, and it is a changed one, because every
//!   unchanged one is in the new revision, which allows *r*.
//!
//! For **A** the solver is asked whether
//! *(changed new permits, without some new forbids)* implies *(some old permits, without all
//! changed old forbids)*. Leaving out forbids on the left and permits on the right makes this
//! harder to be true, never easier. The unchanged old forbids may be left out on the right, although
//! that makes it easier: where the new revision allows *r*, none of them stops it. For **B** it is
//! asked, for each changed old `forbid` *f*, whether *(new permits, without some new forbids)* and
//! *f* have no request in common. Once with all requests in place of the new permits; where that
//! is too much, with the permits whose scope meets *f*'s in the registry, a few at a time: a
//! union is disjoint from *f* when its parts are. So proofs of A and B on the reduced sets prove
//! the claim on the whole ones, whichever policies were left out.
//!
//! An answer that is no proof is a request, and both whole revisions judge it. If the new one
//! allows and the old one denies it, the claim is broken. Else it tells what was missing: the
//! new forbids that stop it go to the left, the old permits that allow it go to the right, and the
//! solver is asked again. Each round adds a policy, so it ends; [`refine::QUERY_POLICIES_MAX`]
//! ends it earlier.
//!
//! Cedar skips a `forbid` that fails to evaluate and the engine does not. On the left that is
//! harmless: skipping allows more. On the right, and for *f*, a changed old `forbid` that the
//! solver cannot show never to fail is taken as its scope without conditions, which stops at
//! least what it stops in the engine. `held` has the other rules of the engine, `facts` what is
//! assumed of every request.
//!
//! Beyond that, trusted are: Cedar's symbolic compiler, and the solver's `unsat`. An error, a
//! time-out or "unknown" is no proof. A counterexample is shown as broken only when the engines of both
//! revisions confirm it on a request that somebody can make; else it is possible in
//! principle, and the claim unproved.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use smol_str::SmolStr;

mod example;
mod facts;
mod held;
mod kind;
mod refine;
mod rewrite;
mod solver;

pub use example::Example;
use example::{Trial, context_of, in_principle};
use held::{Held, Round};
use kind::Kind;
use refine::{Came, Claim, Found, World};
pub use solver::Solver;
use solver::{Failure, on_runtime};

use super::{
    Comparison, Place,
    access::Differing,
    change::{self, Changed},
};
use crate::decide::{
    core::{Body, uses},
    fact::{US_PER_SECOND, moment_text},
    field::Field,
    world::Ent,
};

/// Longest time for a whole proof, unless it is said.
pub const PROOF_TIME_DEFAULT: Duration = Duration::from_secs(60);
/// Most counterexamples that are made into requests and told.
pub const EXAMPLES_MAX: usize = 8;
/// Most permits that a changed `forbid` is compared with for one kind of request.
pub const PERMITS_MAX: usize = 512;
/// Permits in one question about a changed `forbid`.
const BATCH: usize = 8;
/// Most solver processes at a time.
const SOLVERS_MAX: usize = 4;
/// Stack of a thread that asks: Cedar's compilers recurse.
const STACK_LEN: usize = 256 << 20;

/// What was proved, and what was not.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    /// The answer.
    pub verdict: ProofVerdict,
    /// Name and version of the solver.
    pub solver: String,
    /// Policies that mean something else.
    pub changed: Vec<Place>,
    /// Kinds of requests that were asked about: caller, action, resource.
    pub kinds: usize,
    /// Questions to the solver.
    pub queries: usize,
    /// Policies that are not enforced at that moment, and do not count.
    pub unenforced: usize,
    /// The moment from which on the claim is made.
    pub from: String,
    /// Requests by which the revisions differ.
    pub counterexamples: Vec<Counterexample>,
    /// Requests by which they would differ, had the registry other callers or operations;
    /// in this one nobody can make them.
    pub elsewhere: Vec<Counterexample>,
    /// Why it is not proved, each reason once.
    pub unproved: Vec<String>,
}

/// Whether the claim holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofVerdict {
    /// It holds.
    Proved,
    /// It does not: there is a request.
    Refuted,
    /// It cannot be told.
    Unproved,
}

/// A request that the newer revision allows and the older one does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counterexample {
    /// The permits that allow it now.
    pub by: Vec<Place>,
    /// The forbids that stopped it before; none where no permit allowed it.
    pub stopped_by: Vec<Place>,
    /// Kinds of requests in which there are such.
    pub kinds: Vec<String>,
    /// One of them.
    pub example: Example,
}

impl Comparison {
    /// Proves that no request is newly allowed, or finds one that is.
    pub fn prove(&self, solver: &Solver, time_max: Duration) -> Proof {
        let changed = self.changed();
        let mut proof = Proof {
            verdict: ProofVerdict::Proved,
            solver: solver.name().to_owned(),
            changed: changed.iter().map(|c| self.place(&c.id)).collect(),
            kinds: 0,
            queries: 0,
            unenforced: 0,
            from: moment_text(self.now_us.div_euclid(US_PER_SECOND)).unwrap_or_default(),
            counterexamples: Vec::new(),
            elsewhere: Vec::new(),
            unproved: Vec::new(),
        };
        // A source that is not here may forbid, or group callers: of the rest nothing follows.
        proof.unproved.extend(self.absent());
        // Of a source that only one of them has, all would be new, or gone.
        if !changed.is_empty() && self.lopsided().is_empty() {
            match self.proved(&changed, solver, time_max, &mut proof) {
                Ok(()) => {}
                Err(Failure(why)) => proof.unproved.push(why),
            }
        }
        proof.unproved.sort_unstable();
        proof.unproved.dedup();
        proof.verdict = match (&proof.counterexamples, &proof.unproved) {
            (found, _) if found.iter().any(|c| c.example.real) => ProofVerdict::Refuted,
            (found, why) if found.is_empty() && why.is_empty() => ProofVerdict::Proved,
            _ => ProofVerdict::Unproved,
        };
        proof
    }

    fn proved(
        &self,
        changed: &[Changed<'_>],
        solver: &Solver,
        time_max: Duration,
        proof: &mut Proof,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + time_max;
        let old = Held::new(&self.base, self.now_us, Round::Down)?;
        let new = Held::new(&self.head, self.now_us, Round::Up)?;
        proof.unenforced = new.unenforced();
        for id in change::respelled(&self.base, &self.head) {
            proof.unproved.push(format!(
                "`{id}` reads a header that the two revisions do not declare alike"
            ));
        }
        let ids = |side: &Held, permit: bool| -> Vec<SmolStr> {
            let enforced = changed
                .iter()
                .filter_map(|c| Some((&c.id, side.get(&c.id)?)));
            let wanted = enforced.filter(|(_, one)| one.permit == permit);
            wanted.map(|(id, _)| id.clone()).collect()
        };
        // A policy whose effect changed is a permit of one revision and a forbid of the other.
        let weakened: Vec<SmolStr> = ids(&old, false)
            .into_iter()
            .filter(|id| is_changed_forbid(changed, id))
            .collect();
        let world = World {
            head: &self.head,
            schema: &self.head.compiled().schema,
            old: &old,
            new: &new,
            weakened: &weakened,
            now: Some(proof.from.clone()).filter(|t| !t.is_empty()),
        };
        let kinds = Kind::all(&self.head, &self.universe);
        proof.kinds = kinds.len();
        let (wider, forbids) = (ids(&new, true), ids(&new, false));
        let (_, differing) = self.reached();
        let work = Work {
            world,
            kinds: &kinds,
            differing,
            forbids: &forbids,
        };
        let mut jobs = Vec::new();
        for (i, kind) in kinds.iter().enumerate() {
            // A permit that does not take the action allows nothing of the kind.
            let takes = |id: &&SmolStr| {
                let one = new.get(id);
                one.is_some_and(|one| one.takes_action(kind, self.head.world()))
            };
            let wider: Vec<&SmolStr> = wider.iter().filter(takes).collect();
            if !wider.is_empty() {
                let claim = Claim {
                    left: wider.into_iter().chain(&forbids).cloned().collect(),
                    right: ids(&old, true).into_iter().collect(),
                    ..Claim::default()
                };
                jobs.push((i, claim));
            }
            for id in &weakened {
                if work.concerned(id, kind) {
                    let claim = Claim {
                        left: forbids.iter().cloned().collect(),
                        all: true,
                        stopped_by: Some(id.clone()),
                        ..Claim::default()
                    };
                    jobs.push((i, claim));
                }
            }
        }
        let (results, queries) = work.done(&jobs, solver, deadline);
        proof.queries = queries;
        self.tell(&work, results, proof);
        Ok(())
    }

    /// Makes counterexamples into requests, those alike together.
    fn tell(&self, work: &Work<'_>, results: Vec<(usize, Came)>, proof: &mut Proof) {
        let mut trial = Trial::new(&self.base, &self.head, &self.universe, self.now_us);
        let mut broken: BTreeMap<Alike, Vec<(usize, Found)>> = BTreeMap::new();
        for (kind, came) in results {
            let Some(of_kind) = work.kinds.get(kind) else {
                continue;
            };
            match came {
                Came::Broken(found) => {
                    let alike = (found.new.permits.clone(), found.old.stopped_by());
                    broken.entry(alike).or_default().push((kind, *found));
                }
                Came::Holds {
                    everywhere: Some(env),
                } => {
                    if proof.elsewhere.len() < EXAMPLES_MAX {
                        let new = work.world.new.decide(&env.request, &env.entities);
                        let old = work.world.old.decide(&env.request, &env.entities);
                        let example = in_principle(&env.request, &self.read(&new.permits));
                        let one =
                            self.counterexample(&(new.permits, old.stopped_by()), of_kind, example);
                        add(&mut proof.elsewhere, one);
                    }
                }
                Came::Holds { everywhere: None } => {}
                Came::TooWide => proof
                    .unproved
                    .push(format!("bug: `{of_kind}` was left open")),
                Came::Unknown(Failure(why)) => proof.unproved.push(why),
            }
        }
        for (alike, found) in broken {
            let mut told = 0;
            for (kind, found) in found {
                let Some(of_kind) = work.kinds.get(kind) else {
                    continue;
                };
                if told >= EXAMPLES_MAX || proof.counterexamples.len() >= EXAMPLES_MAX {
                    break;
                }
                let context = context_of(&found.env.request);
                let pairs = work.likely(of_kind, &found);
                let real = trial.real(pairs.into_iter(), &context);
                if real.is_none() {
                    proof.unproved.push(match found.informed {
                        true => "a request that is possible in principle would be newly allowed; no caller and operation of the registry was found that can make it".to_owned(),
                        false => "a request would be newly allowed in a registry that this one was too large to be compared with".to_owned(),
                    });
                }
                let example =
                    real.unwrap_or_else(|| in_principle(&found.env.request, &self.read(&alike.0)));
                told += 1;
                let one = self.counterexample(&alike, of_kind, example);
                add(&mut proof.counterexamples, one);
            }
        }
        proof
            .counterexamples
            .sort_by_key(|c| (!c.example.real, c.by.clone()));
    }

    fn counterexample(&self, alike: &Alike, kind: &Kind, example: Example) -> Counterexample {
        let places = |ids: &[SmolStr]| ids.iter().map(|id| self.place(id)).collect();
        Counterexample {
            by: places(&alike.0),
            stopped_by: alike
                .1
                .iter()
                .map(|id| Place::of(&self.base, id).unwrap_or_else(|| Place::nowhere(id)))
                .collect(),
            kinds: vec![kind.to_string()],
            example,
        }
    }

    /// The fields of the context that policies read, with their paths.
    fn read(&self, ids: &[SmolStr]) -> Vec<(Field, String)> {
        let layout = self.head.layout();
        let policies = &self.head.compiled().policies;
        let policies = ids
            .iter()
            .filter_map(|id| policies.policy(&cedar_policy::PolicyId::new(id.as_str())));
        let fields: BTreeSet<Field> = policies
            .filter_map(Body::of)
            .flat_map(|body| uses(&body, layout).fields)
            .collect();
        fields
            .into_iter()
            .map(|f| (f, layout.whole_path(f).join(".")))
            .collect()
    }

    fn place(&self, id: &SmolStr) -> Place {
        Place::of(&self.head, id)
            .or_else(|| Place::of(&self.base, id))
            .unwrap_or_else(|| Place::nowhere(id))
    }
}

/// An ordinary request by one of `pairs` that is newly allowed.
pub(crate) fn ordinary_example(
    of: &Comparison,
    pairs: impl Iterator<Item = (usize, usize)>,
) -> Option<Example> {
    let mut trial = Trial::new(&of.base, &of.head, &of.universe, of.now_us);
    trial.real(pairs, &serde_json::Value::Null)
}

/// Permits that allow now, and forbids that stopped before.
type Alike = (Vec<SmolStr>, Vec<SmolStr>);

/// Adds a counterexample; one by the same policies only adds its kind.
fn add(to: &mut Vec<Counterexample>, one: Counterexample) {
    let alike = |c: &&mut Counterexample| {
        c.by == one.by && c.stopped_by == one.stopped_by && c.example.real == one.example.real
    };
    match to.iter_mut().find(alike) {
        Some(known) => known.kinds.extend(one.kinds),
        None => to.push(one),
    }
}

fn is_changed_forbid(changed: &[Changed<'_>], id: &SmolStr) -> bool {
    let old = changed.iter().find(|c| c.id == *id).and_then(|c| c.old);
    old.is_some_and(|rule| !rule.permit)
}

/// What the threads that ask have in common.
struct Work<'s> {
    world: World<'s>,
    kinds: &'s [Kind],
    /// Pairs of caller and ask whose answer is known to differ.
    differing: &'s [Differing],
    /// Changed forbids of the newer revision.
    forbids: &'s [SmolStr],
}

impl Work<'_> {
    /// Asks everything, on several threads, and says how many questions it took.
    fn done(
        &self,
        jobs: &[(usize, Claim)],
        solver: &Solver,
        deadline: Instant,
    ) -> (Vec<(usize, Came)>, usize) {
        let (next, queries) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results = Mutex::new(Vec::new());
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        let work = || {
            let mut session = solver.session(deadline);
            let asked = on_runtime(async {
                while let Some((kind, claim)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some(of_kind) = self.kinds.get(*kind) else {
                        continue;
                    };
                    let came = self.settle(of_kind, claim, &mut session).await;
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.push((*kind, came));
                }
                Ok(())
            });
            queries.fetch_add(session.queries, Ordering::Relaxed);
            asked
        };
        let failed = thread::scope(|scope| {
            let threads: Vec<_> = (0..cores.min(SOLVERS_MAX).min(jobs.len()))
                .map(|_| {
                    thread::Builder::new()
                        .name("prover".to_owned())
                        .stack_size(STACK_LEN)
                        .spawn_scoped(scope, work)
                })
                .collect();
            let ended = threads.into_iter().map(|thread| match thread {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|_| Err(Failure("bug: the prover panicked".to_owned()))),
                Err(error) => Err(Failure(error.to_string())),
            });
            ended.filter_map(Result::err).last()
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Whoever ended early left jobs that nobody may have taken.
        if let Some(why) = failed {
            results.push((0, Came::Unknown(why)));
        } else if results.len() != jobs.len() {
            let why = Failure("bug: a question was left out".to_owned());
            results.push((0, Came::Unknown(why)));
        }
        results.sort_by_key(|(kind, _)| *kind);
        (results, queries.into_inner())
    }

    async fn settle(&self, kind: &Kind, claim: &Claim, session: &mut solver::Session) -> Came {
        let came = self.world.settle(kind, claim.clone(), session).await;
        let Some(id) = claim
            .stopped_by
            .as_ref()
            .filter(|_| matches!(came, Came::TooWide))
        else {
            return came;
        };
        let permits = self.permits_near(id, kind);
        if permits.len() > PERMITS_MAX {
            return Came::Unknown(Failure(format!(
                "forbid `{id}` concerns {} permits for `{kind}`; at most {PERMITS_MAX} are compared",
                permits.len()
            )));
        }
        let mut elsewhere = None;
        for some in permits.chunks(BATCH) {
            let claim = Claim {
                left: some.iter().chain(self.forbids).cloned().collect(),
                all: false,
                ..claim.clone()
            };
            match self.world.settle(kind, claim, session).await {
                Came::Holds { everywhere } => elsewhere = elsewhere.or(everywhere),
                ended => return ended,
            }
        }
        Came::Holds {
            everywhere: elsewhere,
        }
    }

    /// Whether a `forbid` of the older revision has something of a kind in its scope.
    fn concerned(&self, id: &SmolStr, kind: &Kind) -> bool {
        self.scope(id, self.world.old, kind)
            .is_some_and(|(callers, asks)| !callers.is_empty() && !asks.is_empty())
    }

    /// Permits of the newer revision that can allow something that the old `forbid` takes,
    /// those first that are known to.
    fn permits_near(&self, id: &SmolStr, kind: &Kind) -> Vec<SmolStr> {
        let Some((callers, asks)) = self.scope(id, self.world.old, kind) else {
            return Vec::new();
        };
        let (head, world) = (self.world.head, self.world.head.world());
        let entities = |all: &[(usize, Ent)], some: &[usize]| -> BTreeSet<Ent> {
            let some: BTreeSet<&usize> = some.iter().collect();
            let chosen = all.iter().filter(|(i, _)| some.contains(i));
            chosen.map(|(_, entity)| *entity).collect()
        };
        let principals = entities(&kind.callers, &callers);
        let resources = entities(&kind.asks, &asks);
        let action = world.find(&kind.action);
        let known: BTreeSet<SmolStr> = self
            .differing
            .iter()
            .flat_map(Differing::allowed_by)
            .collect();
        let mut near: Vec<SmolStr> = head
            .rules()
            .iter()
            .filter(|rule| {
                self.world.new.get(&rule.id).is_some_and(|one| one.permit)
                    && action.is_some_and(|a| rule.action.holds(a, world))
                    && principals.iter().any(|p| rule.principal.holds(*p, world))
                    && resources.iter().any(|r| rule.resource.holds(*r, world))
            })
            .map(|rule| rule.id.clone())
            .collect();
        near.sort_by_key(|id| !known.contains(id));
        near
    }

    /// Callers and asks of a kind that are in the scope of a policy, by the newer revision's
    /// registry.
    fn scope(&self, id: &SmolStr, side: &Held, kind: &Kind) -> Option<(Vec<usize>, Vec<usize>)> {
        let world = self.world.head.world();
        side.get(id).map(|one| one.of_kind(kind, world))
    }

    /// Pairs that are likely to show what the solver found: those known to differ, then all of
    /// the kind in the scope of a permit that allowed it.
    fn likely(&self, kind: &Kind, found: &Found) -> Vec<(usize, usize)> {
        let among = |all: &[(usize, Ent)], i: usize| all.iter().any(|(one, _)| *one == i);
        let of_kind = |d: &&Differing| among(&kind.callers, d.caller) && among(&kind.asks, d.ask);
        let mut pairs: Vec<(usize, usize)> = self
            .differing
            .iter()
            .filter(of_kind)
            .map(|d| (d.caller, d.ask))
            .collect();
        for id in &found.new.permits {
            let Some((callers, asks)) = self.scope(id, self.world.new, kind) else {
                continue;
            };
            for ask in &asks {
                pairs.extend(callers.iter().map(|caller| (*caller, *ask)));
            }
        }
        pairs
    }
}
