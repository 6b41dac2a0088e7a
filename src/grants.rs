//! What a revision grants and what of it was used: the population of an access review,
//! and what is cut from the policies that grant more than is used.
//!
//! A grant is one caller, one action and one resource, with the permits it rests on. It
//! is found by asking the engine about every caller and every operation, and its uses by
//! making recorded decisions again: a permit that lost the race to another one is used,
//! too, and a request that was denied then and would be allowed now counts as one that
//! somebody needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_audit::envelope::DecisionRef;
use palisade_mesh::{
    clock::Clock, diagnostic::Diagnostic, spiffe_id::SpiffeId, wire::record::Verdict as WireVerdict,
};
use palisade_pdp::{
    author::narrow::{Cut, Ended, Holder},
    decide::{ClauseKind, May, Replay, Snapshot, Who},
};
use serde::{Deserialize, Serialize};

use crate::{
    history::{
        asked::{asked, words},
        flips::Lacks,
    },
    run::access::{Answer, Asked},
};

mod proposal;
pub(crate) mod sections;

pub(crate) use proposal::Proposal;

/// Who may do what to what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Edge {
    /// Service of the caller, `NAMESPACE/NAME`; the SPIFFE ID of one that is no service;
    /// or who is meant, in words.
    pub(crate) caller: String,
    /// Service that is asked, `NAMESPACE/NAME`.
    pub(crate) service: String,
    /// Cedar action.
    pub(crate) action: String,
    /// Cedar resource type.
    pub(crate) resource_type: String,
    /// Cedar resource id.
    pub(crate) resource: String,
}

/// What is known of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// Always, or under conditions.
    pub(crate) may: May,
    /// Permits of which each gives it, or may give it.
    pub(crate) permits: BTreeSet<String>,
    /// Open conditions, as they were written.
    pub(crate) conditions: Vec<String>,
    /// Recorded requests that it would let pass.
    pub(crate) uses: u64,
    /// Time of the last of them, microseconds since the Unix epoch.
    pub(crate) last_us: Option<i64>,
    /// How a policy names the caller; `None` for strangers, who have no name.
    pub(crate) holder: Option<Holder>,
}

/// Every grant of a revision.
pub(crate) struct Grants {
    replay: Replay,
    /// By who may do what to what.
    pub(crate) all: BTreeMap<Edge, Grant>,
    /// Decisions that were looked at.
    pub(crate) decisions: u64,
    /// Of these, those that could not be made again.
    pub(crate) lacks: Lacks,
}

impl Grants {
    /// What `snapshot` grants, without any use yet.
    ///
    /// # Errors
    /// When there is more than can be listed.
    pub(crate) fn of(snapshot: Arc<Snapshot>, clock: &Clock) -> Result<Self, Diagnostic> {
        let everything = Asked {
            principal: None,
            action: None,
            resource: None,
            at_us: None,
        };
        let answers = everything.answer(&snapshot, clock)?.answers;
        let mut all: BTreeMap<Edge, Grant> = BTreeMap::new();
        for answer in answers.into_iter().filter(|a| a.may != May::No) {
            let (edge, grant) = granted(answer, &snapshot);
            match all.get_mut(&edge) {
                Some(known) => known.join(grant),
                None => drop(all.insert(edge, grant)),
            }
        }
        Ok(Self {
            replay: Replay::new(snapshot),
            all,
            decisions: 0,
            lacks: Lacks::default(),
        })
    }

    /// The revision.
    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        self.replay.snapshot()
    }

    /// Looks at one recorded decision.
    pub(crate) fn take(&mut self, record: &DecisionRef<'_>) {
        self.decisions += 1;
        if record.verdict == WireVerdict::Allow {
            let asked = (record.action, record.resource_type, record.resource_id);
            self.used(record, asked);
        }
        let past = match asked(record) {
            Ok(past) => past,
            Err(cause) => return self.lacks.add(cause.words().to_owned(), record),
        };
        match self.replay.decide(&past) {
            Ok(again) => {
                let asked = (&*again.action, again.resource_type, &*again.resource_id);
                let told = record.verdict == WireVerdict::Allow
                    && asked == (record.action, record.resource_type, record.resource_id);
                if again.verdict.is_allow() && !told {
                    self.used(record, asked);
                }
            }
            Err(why) => self.lacks.add(words(&why), record),
        }
    }

    fn used(&mut self, record: &DecisionRef<'_>, (action, kind, id): (&str, &str, &str)) {
        let Some(service) = self.short_service(record.service) else {
            return;
        };
        let edge = |caller: String| Edge {
            caller,
            service: service.clone(),
            action: action.to_owned(),
            resource_type: kind.to_owned(),
            resource: id.to_owned(),
        };
        let callers = callers(self.snapshot(), record.principal);
        let found = callers
            .into_iter()
            .map(edge)
            .find(|e| self.all.contains_key(e));
        if let Some(grant) = found.and_then(|edge| self.all.get_mut(&edge)) {
            grant.uses += 1;
            grant.last_us = grant.last_us.max(Some(record.time_us));
        }
    }

    fn short_service(&self, id: &str) -> Option<String> {
        let services = self.snapshot().catalogue().services().iter();
        let mut services = services.filter(|s| s.id.as_str() == id);
        services.next().map(|s| s.id.short().to_owned())
    }

    /// Grants that nobody used.
    pub(crate) fn unused(&self) -> impl Iterator<Item = (&Edge, &Grant)> {
        self.all.iter().filter(|(_, grant)| grant.uses == 0)
    }

    /// Of these, the ones that a change of the policies can end: all but those of callers
    /// that no policy can name, unless their permits go altogether.
    pub(crate) fn endable(&self, wanted: impl IntoIterator<Item = Edge>) -> BTreeSet<Edge> {
        let mut ended: BTreeSet<Edge> = wanted.into_iter().collect();
        loop {
            let left: BTreeSet<&Edge> = ended.iter().collect();
            let stays = |edge: &&Edge| {
                let grant = self.all.get(*edge);
                grant.is_none_or(|grant| {
                    let mut permits = grant.permits.iter();
                    grant.holder.is_none() && !permits.all(|p| self.is_left_nothing(p, &left))
                })
            };
            let stay: Vec<Edge> = ended.iter().filter(stays).cloned().collect();
            if stay.is_empty() {
                return ended;
            }
            ended.retain(|edge| !stay.contains(edge));
        }
    }

    /// What to cut from the permits so that these grants end and no other does.
    ///
    /// # Errors
    /// The first of them that no policy can name.
    pub(crate) fn cuts<'e>(
        &self,
        ended: impl IntoIterator<Item = &'e Edge>,
    ) -> Result<BTreeMap<String, Cut>, Diagnostic> {
        let ended: BTreeSet<&Edge> = ended.into_iter().collect();
        let mut cuts = BTreeMap::new();
        for (edge, grant) in ended.iter().filter_map(|e| self.all.get_key_value(e)) {
            for permit in &grant.permits {
                if self.is_left_nothing(permit, &ended) {
                    cuts.insert(permit.clone(), Cut::Removed);
                    continue;
                }
                let holder = grant.holder.clone().ok_or_else(|| unnamed(edge, permit))?;
                let one = Ended {
                    caller: holder,
                    action: edge.action.clone(),
                    resource_type: edge.resource_type.clone(),
                    resource: edge.resource.clone(),
                };
                match cuts
                    .entry(permit.clone())
                    .or_insert_with(|| Cut::Narrowed(BTreeSet::new()))
                {
                    Cut::Narrowed(all) => drop(all.insert(one)),
                    Cut::Removed => {}
                }
            }
        }
        Ok(cuts)
    }

    /// Whether every grant of the permit is to end.
    pub(crate) fn is_left_nothing(&self, permit: &str, ended: &BTreeSet<&Edge>) -> bool {
        let mut its = self.all.iter().filter(|(_, g)| g.permits.contains(permit));
        its.all(|(edge, _)| ended.contains(edge))
    }
}

impl Grant {
    fn join(&mut self, other: Self) {
        self.may = self.may.max(other.may);
        self.permits.extend(other.permits);
        for condition in other.conditions {
            if !self.conditions.contains(&condition) {
                self.conditions.push(condition);
            }
        }
    }
}

fn granted(answer: Answer, snapshot: &Snapshot) -> (Edge, Grant) {
    let services = snapshot.catalogue().services().iter();
    let service = answer.caller.as_deref().and_then(|short| {
        let mut named = services.filter(|s| s.id.short() == short);
        named.next().map(|s| Holder::Service(s.id.to_string()))
    });
    let stranger = || {
        let id = SpiffeId::parse(&answer.principal).ok()?;
        Some(Holder::Unregistered(id.to_string()))
    };
    let open = answer.one_of.iter().chain(&answer.none_of);
    let clauses = open.flat_map(|policy| {
        let (effect, id) = (&policy.effect, &policy.policy);
        let clauses = policy.clauses.iter();
        clauses.map(move |clause| {
            format!(
                "{effect} {id}: {} {}",
                kind_word(clause.kind),
                squeezed(&clause.text)
            )
        })
    });
    let permits = answer.policies.iter().cloned();
    let grant = Grant {
        may: answer.may,
        permits: permits
            .chain(answer.one_of.iter().map(|p| p.policy.clone()))
            .filter(|id| {
                snapshot
                    .compiled()
                    .info
                    .get(id.as_str())
                    .is_some_and(|i| i.permit)
            })
            .collect(),
        conditions: clauses.collect(),
        uses: 0,
        last_us: None,
        holder: service.or_else(stranger),
    };
    let edge = Edge {
        caller: answer
            .caller
            .clone()
            .unwrap_or_else(|| answer.principal.clone()),
        service: answer.service,
        action: answer.action,
        resource_type: answer.resource_type,
        resource: answer.resource,
    };
    (edge, grant)
}

/// As which callers of the grants a principal may stand there, the closest first.
fn callers(snapshot: &Snapshot, principal: &str) -> Vec<String> {
    let Ok(id) = SpiffeId::parse(principal) else {
        return Vec::new();
    };
    match snapshot.catalogue().by_identity(&id) {
        Some(service) => vec![service.id.short().to_owned()],
        None => vec![
            principal.to_owned(),
            Who::Others(id.trust_domain().into()).to_string(),
            Who::Anyone.to_string(),
        ],
    }
}

fn kind_word(kind: ClauseKind) -> &'static str {
    match kind {
        ClauseKind::Unless => "unless",
        ClauseKind::When => "when",
    }
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unnamed(edge: &Edge, permit: &str) -> Diagnostic {
    Diagnostic::error(
        7807,
        format!("`{permit}` cannot be kept from {}", edge.caller),
    )
    .cause("no policy can name a workload that is not known, and the permit grants more than this")
    .help(format!(
        "change `{permit}` by hand, and keep the grant in the review"
    ))
}
