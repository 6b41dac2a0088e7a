//! What policies cost: how many concern a question, and how long each takes.

use palisade_mesh::decision::Question;
use serde::Serialize;

use super::{
    Snapshot,
    core::{ValueCache, context},
    fact::Live,
    index::rule_at,
};

/// Evaluations of a body between two looks at the clock, which takes as long as some.
const REPEAT: u32 = 32;

/// What questions cost, policy by policy.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Costs {
    /// Policies that concern each question, sorted.
    pub candidates: Vec<usize>,
    /// Fields of the context that each question's policies read, sorted.
    pub fields: Vec<usize>,
    /// The policies that concern any of them, dearest first.
    pub policies: Vec<PolicyCost>,
}

/// What one policy's conditions cost.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyCost {
    /// Policy id.
    pub id: String,
    /// File in the repository.
    pub file: String,
    /// First line in the file.
    pub first_line: usize,
    /// Nanoseconds that its conditions take, in the mean.
    pub ns: f64,
    /// Questions that it concerns.
    pub questions: u64,
}

impl Snapshot {
    /// Measures the policies that concern `questions`, by a clock in nanoseconds.
    pub fn costs(&self, questions: &[Question<'_>], clock_ns: &dyn Fn() -> u64) -> Costs {
        let mut costs = Costs::default();
        let mut spent: Vec<(u64, u64)> = vec![(0, 0); self.rules().len()];
        for question in questions {
            self.measure(question, clock_ns, &mut costs, &mut spent);
        }
        costs.candidates.sort_unstable();
        costs.fields.sort_unstable();
        let rules = self.rules().iter().zip(spent);
        let policies = rules.filter_map(|(rule, (ns, questions))| {
            let info = self.info(&rule.id).filter(|_| questions > 0)?;
            Some(PolicyCost {
                id: rule.id.to_string(),
                file: info.file.to_string(),
                first_line: info.first_line,
                ns: ns as f64 / (questions * u64::from(REPEAT)) as f64,
                questions,
            })
        });
        costs.policies = policies.collect();
        costs.policies.sort_by(|a, b| b.ns.total_cmp(&a.ns));
        costs
    }

    fn measure(
        &self,
        question: &Question<'_>,
        clock_ns: &dyn Fn() -> u64,
        costs: &mut Costs,
        spent: &mut [(u64, u64)],
    ) {
        let Ok(asked) = self.ask(question) else {
            return;
        };
        let slice = self.slice(asked.entities(), question.now_us);
        let facts = Live::new(question, self.layout(), asked.form);
        let mut values = ValueCache::default();
        let context = context(
            &facts,
            &slice.fields,
            asked.form,
            self.layout(),
            &mut values,
        );
        let Some(evaluation) = self.begin(asked.entities(), context) else {
            return;
        };
        let candidates = slice
            .forbids
            .iter()
            .chain(&slice.permits)
            .chain(&slice.shadows);
        costs.candidates.push(candidates.clone().count());
        costs.fields.push(slice.fields.len());
        for position in candidates {
            let at = usize::try_from(*position).ok();
            let (Some(rule), Some((ns, questions))) = (
                rule_at(self.rules(), *position),
                at.and_then(|at| spent.get_mut(at)),
            ) else {
                continue;
            };
            *questions += 1;
            if let Some(body) = &rule.body {
                let begun = clock_ns();
                for _ in 0..REPEAT {
                    std::hint::black_box(evaluation.test(body));
                }
                *ns += clock_ns().saturating_sub(begun);
            }
        }
    }
}
