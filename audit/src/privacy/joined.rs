//! What a process takes out of its records, joined with what policy does.

use std::sync::Arc;

use palisade_mesh::personal::Mask;
use rustc_hash::FxHashMap;

use super::Rules;

/// Most joins that are kept; beyond it all are made again. A revision has one for each
/// service or operation that masks something of its own.
const JOINS_MAX: usize = 1024;

/// The rules of a process under the masks of policy. A join is made once for each mask, and
/// the very same mask again is found by its address, also where others come in between.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    rules: Arc<Rules>,
    /// By address; that the mask is held keeps another one from having it.
    known: FxHashMap<usize, (Mask, Arc<Rules>)>,
    joins: FxHashMap<Mask, Arc<Rules>>,
}

impl Joined {
    /// Rules that masks come to.
    pub(crate) fn new(rules: Arc<Rules>) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// The rules for a record that leaves out `mask`.
    pub(crate) fn under(&mut self, mask: &Mask) -> &Rules {
        if mask.is_none() {
            return &self.rules;
        }
        let Self {
            rules,
            known,
            joins,
        } = self;
        let address = mask.address();
        if known.len() >= JOINS_MAX && !known.contains_key(&address) {
            known.clear();
        }
        let join = || (mask.clone(), join(rules, joins, mask));
        let (_, join) = known.entry(address).or_insert_with(join);
        join
    }
}

/// The join of an equal mask, which each revision has anew.
fn join(rules: &Rules, joins: &mut FxHashMap<Mask, Arc<Rules>>, mask: &Mask) -> Arc<Rules> {
    if let Some(join) = joins.get(mask) {
        return join.clone();
    }
    if joins.len() >= JOINS_MAX {
        joins.clear();
    }
    let join = Arc::new(rules.masking(mask));
    joins.insert(mask.clone(), join.clone());
    join
}

#[cfg(test)]
mod tests {
    use super::super::{Handling, Personal};
    use super::*;

    /// What is made is kept, also where another mask comes in between, and only so much.
    #[test]
    fn a_join_is_made_once_and_only_so_many_are_kept() {
        let rules = Rules::new([(Personal::SourceIp, Handling::Sealed)]);
        let mut joined = Joined::new(Arc::new(rules.clone()));
        assert_eq!(joined.under(&Mask::NONE), &rules);
        assert!(joined.joins.is_empty());
        let mask = |n: usize| Mask::of([Personal::Header(format!("x-{n}"))]);
        let (one, two) = (mask(1), mask(2));
        let first: *const Rules = joined.under(&one);
        joined.under(&two);
        assert_eq!(joined.under(&one) as *const Rules, first);
        assert_eq!(joined.under(&mask(1)) as *const Rules, first);
        assert_eq!(joined.joins.len(), 2);
        // The very same ones are not looked for among equal ones, whichever was last.
        joined.joins.clear();
        for mask in [&one, &two, &one, &two] {
            joined.under(mask);
        }
        assert!(joined.joins.is_empty());
        for n in 0..=JOINS_MAX {
            joined.under(&mask(n));
            assert!(joined.joins.len() <= JOINS_MAX && joined.known.len() <= JOINS_MAX);
        }
        assert_eq!(joined.under(&one), &rules.masking(&one));
    }
}
