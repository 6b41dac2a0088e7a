//! How much of the policies the cases saw.
//!
//! A policy counts once when it decided a case, and each `&&` part of its conditions
//! counts twice: seen true, and seen false. A part behind one that had already decided
//! was not seen.

use serde::Serialize;
use smol_str::SmolStr;

use crate::decide::{ClauseKind, ClauseState, PolicyView, Snapshot};

/// How much of the policies was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Coverage {
    /// Every policy, by id.
    pub policies: Vec<PolicyCoverage>,
}

/// How much of one policy was seen.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyCoverage {
    /// Policy id.
    pub id: SmolStr,
    /// File in the repository.
    pub file: String,
    /// First line in the file.
    pub line: usize,
    /// Cases that it decided.
    pub decided: usize,
    /// The `&&` parts of its conditions, in order.
    pub clauses: Vec<ClauseCoverage>,
}

/// How often a part of a condition came out as what.
#[derive(Debug, Clone, Serialize)]
pub struct ClauseCoverage {
    /// Which kind of condition it stands in.
    pub kind: ClauseKind,
    /// Line in the file.
    pub line: usize,
    /// As it was written.
    pub text: String,
    /// Cases in which it was true.
    pub seen_true: usize,
    /// Cases in which it was false.
    pub seen_false: usize,
}

impl Coverage {
    /// Of nothing yet.
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let policies = snapshot
            .compiled()
            .info
            .values()
            .map(|info| PolicyCoverage {
                id: info.id.clone(),
                file: info.file.to_string(),
                line: info.first_line,
                decided: 0,
                clauses: snapshot
                    .clauses(info)
                    .into_iter()
                    .map(|(kind, line, text)| ClauseCoverage {
                        kind,
                        line,
                        text,
                        seen_true: 0,
                        seen_false: 0,
                    })
                    .collect(),
            });
        Self {
            policies: policies.collect(),
        }
    }

    /// Counts what one case saw.
    pub(super) fn add(&mut self, seen: &[PolicyView], determining: &[SmolStr]) {
        for id in determining {
            if let Some(policy) = self.policy(id) {
                policy.decided += 1;
            }
        }
        for view in seen {
            let Some(policy) = self.policy(&view.id) else {
                continue;
            };
            for (clause, own) in view.clauses.iter().zip(&mut policy.clauses) {
                match clause.state {
                    ClauseState::True => own.seen_true += 1,
                    ClauseState::False => own.seen_false += 1,
                    ClauseState::Error | ClauseState::NotReached | ClauseState::NotRecorded => {}
                }
            }
        }
    }

    fn policy(&mut self, id: &str) -> Option<&mut PolicyCoverage> {
        let at = self
            .policies
            .binary_search_by(|p| p.id.as_str().cmp(id))
            .ok()?;
        self.policies.get_mut(at)
    }

    /// What was seen, and what there is to see.
    pub fn seen(&self) -> (usize, usize) {
        let counts = self.policies.iter().map(PolicyCoverage::seen);
        counts.fold((0, 0), |(a, b), (seen, all)| (a + seen, b + all))
    }

    /// What was seen, in whole per cent, rounded down; of nothing, all.
    pub fn percent(&self) -> usize {
        let (seen, all) = self.seen();
        (seen * 100).checked_div(all).unwrap_or(100)
    }
}

impl PolicyCoverage {
    /// What was seen of it, and what there is to see.
    pub fn seen(&self) -> (usize, usize) {
        let sides = self
            .clauses
            .iter()
            .flat_map(|c| [c.seen_true, c.seen_false]);
        let seen = sides.chain([self.decided]).filter(|n| *n > 0).count();
        (seen, self.clauses.len() * 2 + 1)
    }

    /// Whether everything was.
    pub fn is_whole(&self) -> bool {
        let (seen, all) = self.seen();
        seen == all
    }
}

impl ClauseCoverage {
    /// `never true`, `never false`, `never seen`; `None` where it was both.
    pub fn lack(&self) -> Option<&'static str> {
        match (self.seen_true, self.seen_false) {
            (0, 0) => Some("never seen"),
            (0, _) => Some("never true"),
            (_, 0) => Some("never false"),
            _ => None,
        }
    }
}
