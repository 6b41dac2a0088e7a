//! One caller, action and resource of a survey.

use cedar_policy::PolicyId;
use palisade_mesh::decision::{Undecided, Verdict};
use smol_str::SmolStr;

use super::{
    super::{
        Snapshot,
        core::{
            Body, Conjunct, Evaluation, Kind, Known, Outcomes, Tree, ValueCache, context, start_of,
        },
        fact::{Fact, Facts, US_PER_SECOND},
        field::Field,
        index::rule_at,
        outcome::Findings,
        rule::Rule,
        slice::Slice,
        world::Triple,
    },
    Access, ClauseKind, May, OpenClause, OpenFacts, OpenPolicy, Survey,
};

/// One caller, action and resource, ready to be evaluated.
pub(super) struct Case<'c> {
    survey: &'c Survey<'c>,
    facts: OpenFacts<'c>,
    slice: Slice,
    evaluation: Evaluation<'c>,
}

/// One `&&` part of a policy's conditions.
pub(super) struct Part {
    conjunct: Conjunct,
    tree: Tree,
}

impl Part {
    /// Every part of a policy, in the order of the text.
    pub(super) fn all(snapshot: &Snapshot, id: &SmolStr) -> Vec<Self> {
        let policies = &snapshot.compiled().policies;
        let policy = policies.policy(&PolicyId::new(id.as_str()));
        let conjuncts = policy.and_then(|policy| {
            let body = Body::of(policy)?;
            Some(body.conjuncts(start_of(policy)))
        });
        let parts = conjuncts.into_iter().flatten();
        parts
            .map(|conjunct| Self {
                tree: conjunct.taken_apart(snapshot.layout()),
                conjunct,
            })
            .collect()
    }
}

/// What became of the policies of one effect.
#[derive(Default)]
struct Side {
    hold: Vec<SmolStr>,
    err: Vec<SmolStr>,
    /// May hold or err, and may not.
    open: Vec<SmolStr>,
}

impl<'c> Case<'c> {
    /// `None` for numbers of another snapshot.
    pub(super) fn new(
        survey: &'c Survey<'c>,
        facts: OpenFacts<'c>,
        entities: Triple,
        slice: Slice,
    ) -> Option<Self> {
        let snapshot = survey.snapshot;
        let mut values = ValueCache::default();
        let fields = &slice.enforced;
        let known = context(&facts, fields, facts.form, snapshot.layout(), &mut values);
        Some(Self {
            evaluation: snapshot.begin(entities, known)?,
            survey,
            facts,
            slice,
        })
    }

    pub(super) fn access(&self) -> Access {
        let forbids = self.side(&self.slice.forbids);
        if !forbids.hold.is_empty() {
            return Access::certain(Verdict::Forbidden, forbids.hold);
        }
        let missing = self.ids(&self.slice.missing);
        if !forbids.err.is_empty() || !missing.is_empty() {
            return self.undecided(forbids, missing);
        }
        let permits = self.side(&self.slice.permits);
        if permits.hold.is_empty() && permits.open.is_empty() {
            let verdict = forbids.open.is_empty().then_some(Verdict::NotPermitted);
            return Access {
                verdict,
                ..Access::certain(Verdict::NotPermitted, Vec::new())
            };
        }
        if forbids.open.is_empty() && !permits.hold.is_empty() {
            return Access::certain(Verdict::Allow, permits.hold);
        }
        Access {
            may: May::OnlyIf,
            verdict: None,
            deciding: Vec::new(),
            permits: sorted(permits.hold, permits.open),
            forbids: sorted(forbids.open, Vec::new()),
        }
    }

    /// A forbid errs, or asks about what is missing: nothing passes, whatever is open.
    fn undecided(&self, forbids: Side, missing: Vec<SmolStr>) -> Access {
        let certain = forbids.open.is_empty();
        let findings = Findings {
            forbid_errors: forbids.err,
            forbids_missing: missing,
            ..Findings::default()
        };
        let outcome = findings.outcome();
        let why = match outcome.verdict {
            Verdict::Undecided(why) => why,
            _ => Undecided::ForbidErrored,
        };
        Access {
            verdict: certain.then_some(outcome.verdict),
            ..Access::certain(Verdict::Undecided(why), outcome.determining)
        }
    }

    /// The open parts of a policy's conditions.
    pub(super) fn condition(&self, id: &SmolStr) -> Option<OpenPolicy> {
        let info = self.survey.snapshot.info(id)?;
        let open = self.open(id).into_iter().flatten();
        let clauses = open.map(|part| OpenClause {
            kind: match part.kind {
                Kind::Unless => ClauseKind::Unless,
                Kind::When => ClauseKind::When,
            },
            line: info.first_line + part.line,
            text: part.text.clone(),
        });
        Some(OpenPolicy {
            policy: info.id.to_string(),
            effect: if info.permit { "permit" } else { "forbid" }.to_owned(),
            file: info.file.to_string(),
            first_line: info.first_line,
            clauses: clauses.collect(),
        })
    }

    /// The same as texts, each of which has to hold; an `unless` is one.
    #[cfg(feature = "analysis")]
    pub(super) fn terms(&self, id: &SmolStr) -> Vec<String> {
        let one_line = |part: &&Conjunct| {
            let words: Vec<&str> = part.text.split_whitespace().collect();
            words.join(" ")
        };
        let terms = self.open(id).into_iter().flat_map(|condition| {
            let texts: Vec<String> = condition.iter().map(one_line).collect();
            match condition.first().map(|part| part.kind) {
                Some(Kind::Unless) => vec![format!("!({})", texts.join(" && "))],
                _ => texts,
            }
        });
        let rules = self.survey.snapshot.rules();
        let rule = rules.binary_search_by(|rule| rule.id.cmp(id)).ok();
        let rule = rule.and_then(|at| rules.get(at));
        let end = rule
            .and_then(|rule| self.ends(rule))
            .and_then(super::super::fact::moment_text);
        let end = end.map(|end| format!("context.time.now < datetime(\"{end}\")"));
        terms.chain(end).collect()
    }

    /// The first second in which a permit has expired, where later moments count.
    fn ends(&self, rule: &Rule) -> Option<i64> {
        let at = rule.expires_us.filter(|_| self.survey.given.onwards)?;
        Some(at.div_euclid(US_PER_SECOND) + i64::from(at.rem_euclid(US_PER_SECOND) != 0))
    }

    /// The open parts of each condition on which a policy depends.
    fn open(&self, id: &SmolStr) -> Vec<Vec<&Conjunct>> {
        let parts = self.survey.parts(id);
        let conditions = parts.chunk_by(|a, b| a.conjunct.condition == b.conjunct.condition);
        let mut open = Vec::new();
        for condition in conditions {
            let outcomes: Vec<Outcomes> = condition
                .iter()
                .map(|part| self.outcomes(&part.tree))
                .collect();
            // An `unless` with a part that never holds is met, if what comes before it
            // cannot fail.
            let decided = outcomes
                .iter()
                .find(|o| **o == Outcomes::FALSE || o.may_be(Outcomes::ERROR));
            if decided == Some(&Outcomes::FALSE) {
                continue;
            }
            let parts = condition.iter().zip(&outcomes);
            let parts = parts.filter(|(_, outcomes)| !outcomes.is_certain());
            open.push(parts.map(|(part, _)| &part.conjunct).collect());
        }
        open.retain(|parts: &Vec<&Conjunct>| !parts.is_empty());
        open
    }

    fn side(&self, positions: &[u32]) -> Side {
        let mut side = Side::default();
        for position in positions {
            let Some(rule) = rule_at(self.survey.snapshot.rules(), *position) else {
                continue;
            };
            let outcomes = match &rule.body {
                None => Outcomes::TRUE,
                Some(body) if rule.reads.iter().all(|f| self.is_known(*f)) => {
                    self.evaluation.test(body).into()
                }
                Some(body) => self.outcomes(self.survey.tree(*position, body)),
            };
            // A permit that errs does not count, nor does it matter.
            let can_matter = match rule.permit {
                true => outcomes.may_be(Outcomes::TRUE),
                false => outcomes != Outcomes::FALSE,
            };
            let list = match outcomes {
                Outcomes::TRUE if self.ends(rule).is_some() => &mut side.open,
                Outcomes::TRUE => &mut side.hold,
                Outcomes::ERROR => &mut side.err,
                _ if can_matter => &mut side.open,
                _ => continue,
            };
            list.push(rule.id.clone());
        }
        side
    }

    fn outcomes(&self, tree: &Tree) -> Outcomes {
        let known = Known {
            is_known: &|field| self.is_known(field),
            path: self.facts.target.shape.as_ref(),
        };
        self.evaluation.outcomes(tree, &known)
    }

    fn is_known(&self, field: Field) -> bool {
        !matches!(self.facts.fact(field), Fact::Unknown | Fact::Unfit)
    }

    fn ids(&self, positions: &[u32]) -> Vec<SmolStr> {
        let rules = positions.iter();
        let rules = rules.filter_map(|at| rule_at(self.survey.snapshot.rules(), *at));
        rules.map(|rule| rule.id.clone()).collect()
    }
}

fn sorted(mut ids: Vec<SmolStr>, more: Vec<SmolStr>) -> Vec<SmolStr> {
    ids.extend(more);
    ids.sort_unstable();
    ids
}
