//! From a request's three entities to the policies whose scope holds.
//!
//! A scope tests nothing but the three entities and their ancestors and cannot
//! err; a policy whose scope is false is neither determining nor erroneous. So
//! leaving it out changes nothing that can be observed. Policies are filed by
//! their resource constraint, and within that by their principal constraint:
//! a request looks only into the drawers of its own entities' ancestors and
//! types, whatever the number of policies.

use rustc_hash::FxHashMap;

use super::{
    rule::{Rule, Test},
    world::{Ent, Kind, Triple, World, small},
};

/// The index; policies are named by their position.
#[derive(Debug, Default)]
pub(crate) struct Index {
    by_resource: Drawers<Drawers<Vec<u32>>>,
}

/// One drawer for each entity, one for each type, one for no constraint.
#[derive(Debug, Default)]
struct Drawers<T> {
    any: T,
    by_entity: FxHashMap<Ent, T>,
    by_kind: FxHashMap<Kind, T>,
}

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        Self::of(rules, |rule| !is_lost(rule))
    }

    /// Files those rules that are `wanted`.
    pub(crate) fn of(rules: &[Rule], wanted: impl Fn(&Rule) -> bool) -> Self {
        let mut index = Self::default();
        let rules = rules.iter().enumerate();
        for (i, rule) in rules.filter(|(_, rule)| wanted(rule)) {
            let drawer = index.by_resource.drawer(rule.resource);
            if let Some(drawer) = drawer.and_then(|d| d.drawer(rule.principal)) {
                drawer.push(small(i));
            }
        }
        index
    }

    /// The policies whose scope holds, in order.
    pub(crate) fn candidates(
        &self,
        rules: &[Rule],
        world: &World,
        (principal, action, resource): Triple,
    ) -> Vec<u32> {
        let mut found = Vec::new();
        self.by_resource.visit(resource, world, &mut |drawers| {
            drawers.visit(principal, world, &mut |filed| {
                found.extend(filed.iter().copied().filter(|i| {
                    rule_at(rules, *i).is_some_and(|rule| {
                        rule.action.holds(action, world)
                            && rule.principal.holds(principal, world)
                            && rule.resource.holds(resource, world)
                    })
                }));
            });
        });
        found.sort_unstable();
        found
    }
}

impl<T: Default> Drawers<T> {
    /// Where a policy with this constraint is filed.
    fn drawer(&mut self, test: Test) -> Option<&mut T> {
        match test {
            Test::Any => Some(&mut self.any),
            Test::Eq(e) | Test::In(e) | Test::IsIn(_, e) => {
                Some(self.by_entity.entry(e).or_default())
            }
            Test::Is(kind) => Some(self.by_kind.entry(kind).or_default()),
            Test::Never => None,
        }
    }

    /// Opens every drawer that can hold a policy for `entity`.
    fn visit<'a>(&'a self, entity: Ent, world: &World, open: &mut dyn FnMut(&'a T)) {
        open(&self.any);
        if let Some(drawer) = world.kind(entity).and_then(|k| self.by_kind.get(&k)) {
            open(drawer);
        }
        if self.by_entity.is_empty() {
            return;
        }
        for above in world.above(entity) {
            if let Some(drawer) = self.by_entity.get(above) {
                open(drawer);
            }
        }
    }
}

#[cfg(feature = "faults")]
fn is_lost(rule: &Rule) -> bool {
    super::faults::is_lost(&rule.id)
}

/// Every policy is filed, where no test says otherwise.
#[cfg(not(feature = "faults"))]
fn is_lost(_: &Rule) -> bool {
    false
}

pub(crate) fn rule_at(rules: &[Rule], index: u32) -> Option<&Rule> {
    rules.get(usize::try_from(index).ok()?)
}
