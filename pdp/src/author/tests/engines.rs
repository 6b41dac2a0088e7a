//! The production engine under test: one for the repository, and one for each set of
//! entities that fixtures make of it.

use std::sync::Arc;

use palisade_mesh::decision::Answer;

use super::{Case, Coverage, Decide};
use crate::{
    compiled::Compiled,
    decide::{Engine, Explanation, Snapshot, SnapshotError},
};

/// Engines, and what they saw of the policies.
#[derive(Debug)]
pub struct Engines {
    own: World,
    others: Vec<(Arc<Compiled>, World)>,
    coverage: Option<Coverage>,
}

#[derive(Debug)]
struct World {
    snapshot: Arc<Snapshot>,
    engine: Engine,
}

impl Engines {
    /// Builds the engines that `cases` need; `covering` watches what they see of the
    /// policies.
    ///
    /// # Errors
    /// When an engine cannot be built; the compiler is to blame.
    pub fn new(compiled: Compiled, cases: &[Case], covering: bool) -> Result<Self, SnapshotError> {
        let own = World::new(compiled)?;
        let mut others: Vec<(Arc<Compiled>, World)> = Vec::new();
        for compiled in cases.iter().filter_map(|c| c.world.as_ref()) {
            if !others.iter().any(|(known, _)| Arc::ptr_eq(known, compiled)) {
                others.push((compiled.clone(), World::new(Compiled::clone(compiled))?));
            }
        }
        let coverage = covering.then(|| Coverage::new(&own.snapshot));
        Ok(Self {
            own,
            others,
            coverage,
        })
    }

    /// The repository as it is.
    pub fn compiled(&self) -> &Compiled {
        self.own.snapshot.compiled()
    }

    /// What the decided cases saw of the policies, where it was watched.
    pub fn coverage(self) -> Option<Coverage> {
        self.coverage
    }

    fn world(&mut self, case: &Case) -> &mut World {
        let other = case.world.as_ref().and_then(|world| {
            self.others
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, world))
        });
        match other {
            Some((_, world)) => world,
            None => &mut self.own,
        }
    }
}

impl World {
    fn new(compiled: Compiled) -> Result<Self, SnapshotError> {
        let snapshot = Snapshot::new(compiled, 0)?;
        let engine = snapshot.engine();
        Ok(Self { snapshot, engine })
    }
}

impl Decide for Engines {
    fn decide(&mut self, case: &Case) -> Answer {
        let question = case.question.as_question();
        let answer = self.world(case).engine.decide(&question);
        if self.coverage.is_some() {
            let seen = self.world(case).snapshot.in_scope(&question);
            if let Some(coverage) = &mut self.coverage {
                coverage.add(&seen, &answer.decision.determining);
            }
        }
        answer
    }

    fn explain(&mut self, case: &Case) -> Option<Explanation> {
        Some(
            self.world(case)
                .snapshot
                .explain(&case.question.as_question()),
        )
    }
}
