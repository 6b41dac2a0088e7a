//! Asking the solver about little, and letting both whole revisions judge what it answers.
//!
//! See [`super`] for why an answer about the little is one about the whole.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Effect, Policy, PolicySet, RequestEnv, Schema};
use cedar_policy_symcc::{CompiledPolicy, Env};
use smol_str::SmolStr;

use super::{
    facts,
    held::{Fired, Held},
    kind::Kind,
    rewrite::{parsed, scope_only},
    solver::{Failure, Query, Session},
};
use crate::decide::Snapshot;

/// Most policies in one query; a query beyond that is given up.
pub(crate) const QUERY_POLICIES_MAX: usize = 96;

/// Most forbids that are learnt about all requests, before it is asked about permits.
const ALL_FORBIDS_MAX: usize = 16;

/// Id of the permit that stands for every request. No `@id` has a blank: none of the
/// repository's policies can be taken for it, and it for none of them.
const EVERYTHING: &str = "every request";

/// What everything is about.
pub(crate) struct World<'s> {
    pub(crate) head: &'s Snapshot,
    pub(crate) schema: &'s Schema,
    /// What the older revision holds, as seen by the newer one's schema.
    pub(crate) old: &'s Held,
    pub(crate) new: &'s Held,
    /// Old forbids that changed.
    pub(crate) weakened: &'s [SmolStr],
    /// The moment from which on requests count, as Cedar text.
    pub(crate) now: Option<String>,
}

/// A claim: what `left` allows, `right` allows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claim {
    /// Policies of the newer revision.
    pub(crate) left: BTreeSet<SmolStr>,
    /// Everything instead of the permits of the newer revision.
    pub(crate) all: bool,
    /// Policies of the older revision.
    pub(crate) right: BTreeSet<SmolStr>,
    /// Instead of `right`: nothing may be left of what this old `forbid` stopped.
    pub(crate) stopped_by: Option<SmolStr>,
}

/// How a claim came out for one kind of request.
pub(crate) enum Came {
    /// It holds; of this registry only, or of every one.
    Holds { everywhere: Option<Box<Env>> },
    /// A request that the newer revision allows and the older one does not.
    Broken(Box<Found>),
    /// It cannot be told.
    Unknown(Failure),
    /// The permits of `all` are too few to break it; ask about the real ones.
    TooWide,
}

/// A counterexample, as the solver found it and both revisions confirmed it.
pub(crate) struct Found {
    pub(crate) env: Env,
    pub(crate) new: Fired,
    pub(crate) old: Fired,
    /// Whether everything that is known of the registry was told to the solver.
    pub(crate) informed: bool,
}

impl World<'_> {
    /// Asks, and asks again with what the answer was missing, until it holds or is broken.
    pub(crate) async fn settle(
        &self,
        kind: &Kind,
        mut claim: Claim,
        session: &mut Session,
    ) -> Came {
        match self.rounds(kind, &mut claim, session).await {
            Ok(came) => came,
            Err(failure) => Came::Unknown(failure),
        }
    }

    async fn rounds(
        &self,
        kind: &Kind,
        claim: &mut Claim,
        session: &mut Session,
    ) -> Result<Came, Failure> {
        let env = kind
            .env()
            .ok_or_else(|| Failure(format!("bug: `{kind}` is no kind of request")))?;
        let denying = self.denying(&env, claim, session).await?;
        // First for every registry; then, where that fails, for the one that there is.
        let mut elsewhere: Option<Box<Env>> = None;
        let mut informed = false;
        loop {
            let asked = self.asked(kind, claim, &denying, elsewhere.is_some(), &mut informed)?;
            let Some(env) = asked.ask(&env, self.schema, session).await? else {
                return Ok(Came::Holds {
                    everywhere: elsewhere,
                });
            };
            let new = self.new.decide(&env.request, &env.entities);
            let old = self.old.decide(&env.request, &env.entities);
            if new.allows() && !old.allows() {
                if elsewhere.is_none() {
                    elsewhere = Some(Box::new(env));
                    continue;
                }
                return Ok(Came::Broken(Box::new(Found {
                    env,
                    new,
                    old,
                    informed,
                })));
            }
            if let Some(id) = claim.stopped_by.as_ref().filter(|_| new.allows()) {
                return Err(Failure(format!(
                    "`{id}` may fail to evaluate, and then stops everything in its scope"
                )));
            }
            let unstopped = new.permits.is_empty() && new.forbids.is_empty();
            if claim.all && (unstopped || claim.left.len() > ALL_FORBIDS_MAX) {
                return Ok(Came::TooWide);
            }
            if !claim.learn(&new, &old) {
                return Err(Failure(format!(
                    "the solver's answer for `{kind}` is none, and there is nothing to learn from it"
                )));
            }
            if claim.left.len() + claim.right.len() > QUERY_POLICIES_MAX {
                return Err(Failure(format!(
                    "`{kind}` takes more than {QUERY_POLICIES_MAX} policies at once"
                )));
            }
        }
    }

    /// The old forbids that changed, so that none of them stops less than it did: one that may
    /// fail to evaluate stops everything in its scope, as it does in the engine.
    async fn denying(
        &self,
        env: &RequestEnv,
        claim: &Claim,
        session: &mut Session,
    ) -> Result<Vec<Policy>, Failure> {
        let of_claim: Vec<&SmolStr> = match &claim.stopped_by {
            Some(id) => vec![id],
            None => self.weakened.iter().collect(),
        };
        let mut denying = Vec::new();
        for one in of_claim.iter().filter_map(|id| self.old.get(id)) {
            let compiled = CompiledPolicy::compile(&one.policy, env, self.schema)
                .map_err(|e| Failure(format!("`{}`: {e}", one.policy.id())))?;
            denying.push(match session.never_errs(&compiled).await? {
                true => one.policy.clone(),
                false => scope_only(&one.policy, &[])?,
            });
        }
        Ok(denying)
    }

    /// The two sides of a query.
    fn asked(
        &self,
        kind: &Kind,
        claim: &Claim,
        denying: &[Policy],
        registry: bool,
        informed: &mut bool,
    ) -> Result<Asked, Failure> {
        let held = |ids: &BTreeSet<SmolStr>, side: &Held| -> Vec<Policy> {
            let some = ids.iter().filter_map(|id| side.get(id));
            some.map(|one| one.policy.clone()).collect()
        };
        let mut left = held(&claim.left, self.new);
        let mut right = held(&claim.right, self.old);
        if claim.all {
            left.push(everything()?);
        }
        if claim.stopped_by.is_some() {
            right.push(everything()?);
        }
        right.extend(denying.iter().cloned());
        let both: Vec<&Policy> = left.iter().chain(&right).collect();
        let mut known = facts::ranges(&both, kind, self.head, self.now.as_deref())?;
        if registry {
            let told = facts::registry(&both, kind, self.head)?;
            *informed = told.is_some();
            known.extend(told.into_iter().flatten());
        }
        left.extend(known);
        Ok(Asked { left, right })
    }
}

fn everything() -> Result<Policy, Failure> {
    parsed(EVERYTHING, "permit (principal, action, resource);")
}

impl Claim {
    /// Takes in what was missing for a wrong answer; false when nothing was.
    fn learn(&mut self, new: &Fired, old: &Fired) -> bool {
        let before = (self.left.len(), self.right.len());
        if new.allows() {
            // Then the older revision allows it too, by permits that were not asked about.
            self.right.extend(old.permits.iter().cloned());
        } else {
            self.left.extend(new.forbids.iter().cloned());
        }
        before != (self.left.len(), self.right.len())
    }
}

/// A query in full.
struct Asked {
    left: Vec<Policy>,
    right: Vec<Policy>,
}

impl Asked {
    async fn ask(
        &self,
        env: &RequestEnv,
        schema: &Schema,
        session: &mut Session,
    ) -> Result<Option<Env>, Failure> {
        let set = |policies: &[Policy]| -> Result<Query, Failure> {
            let mut known: BTreeMap<String, &Policy> = BTreeMap::new();
            for policy in policies {
                known.entry(policy.id().to_string()).or_insert(policy);
            }
            let set = PolicySet::from_policies(known.into_values().cloned())
                .map_err(|e| Failure(format!("bug: {e}")))?;
            Query::compile(&set, env, schema)
        };
        if !self.left.iter().any(|p| p.effect() == Effect::Permit) {
            return Ok(None);
        }
        session.implies(&set(&self.left)?, &set(&self.right)?).await
    }
}
