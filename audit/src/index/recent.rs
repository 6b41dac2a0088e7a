//! The newest records, searched one by one until they are in the index, so that
//! a record is found as soon as it is durable.

use std::{collections::VecDeque, time::Instant};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::item::{Item, JoinKey};

/// Records pulled from the log and not yet committed to the index, in order.
#[derive(Debug, Default)]
pub(super) struct Recent {
    waiting: VecDeque<Waiting>,
    /// The last decision of each key among them.
    decisions: FxHashMap<JoinKey, u64>,
    /// Decisions that are in the index without the outcome that is among the
    /// waiting: by position, what replaces them.
    pub(super) replacing: FxHashMap<u64, Replacement>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) item: Item,
    /// It is in the index already: the log is read again for another bucket.
    pub(super) indexed: bool,
    pulled: Instant,
}

/// A decision of the index, joined with an outcome that came later.
#[derive(Debug)]
pub(super) struct Replacement {
    pub(super) item: Item,
    /// Position of the waiting record that it comes with: the outcome, or a decision that came
    /// back.
    pub(super) cause: u64,
}

impl Recent {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes an item in. An outcome goes to its decision when that is among the
    /// waiting; otherwise the answer says whose outcome it is, and the decision
    /// must be looked for in the index.
    pub(super) fn push(&mut self, item: Item, indexed: bool) -> Option<JoinKey> {
        let mut elsewhere = None;
        if let Some((key, outcome)) = item.joins() {
            match self.decisions.get(&key).copied() {
                Some(at) => {
                    let joined = (item.at, outcome.clone());
                    if let Some(decision) = self.find(at) {
                        // The first outcome counts.
                        decision.outcome.get_or_insert(joined);
                    }
                }
                None => elsewhere = Some(key),
            }
        } else if !indexed && let Some(key) = item.joinable() {
            self.decisions.insert(key, item.at);
        }
        self.waiting.push_back(Waiting {
            item,
            indexed,
            pulled: Instant::now(),
        });
        elsewhere
    }

    fn find(&mut self, at: u64) -> Option<&mut Item> {
        let first = self.waiting.front()?.item.at;
        let near = usize::try_from(at.checked_sub(first)?).ok()?;
        // Nothing lies between two positions unless an entry could not be read.
        let is_there = self.waiting.get(near).is_some_and(|w| w.item.at == at);
        let place = match is_there {
            true => near,
            false => self.waiting.binary_search_by_key(&at, |w| w.item.at).ok()?,
        };
        self.waiting.get_mut(place).map(|waiting| &mut waiting.item)
    }

    /// How many, from the oldest, were pulled before `moment`.
    pub(super) fn pulled_before(&self, moment: Instant) -> usize {
        self.waiting.partition_point(|w| w.pulled < moment)
    }

    /// When the oldest was pulled.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.pulled)
    }

    /// The `count` oldest.
    pub(super) fn oldest_items(&self, count: usize) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter().take(count)
    }

    /// Lets the `count` oldest go, with what they replaced: the index has them.
    pub(super) fn release(&mut self, count: usize) {
        let mut released = None;
        for waiting in self.waiting.drain(..count.min(self.waiting.len())) {
            released = Some(waiting.item.at);
            if let Some(key) = waiting.item.joinable()
                && self.decisions.get(&key) == Some(&waiting.item.at)
            {
                self.decisions.remove(&key);
            }
        }
        if let Some(released) = released {
            self.replacing.retain(|_, r| r.cause > released);
        }
    }

    /// What searches see of it, beside the index.
    pub(super) fn visible(&self) -> impl Iterator<Item = &Item> {
        let waiting = self.waiting.iter().filter(|w| !w.indexed).map(|w| &w.item);
        waiting.chain(self.replacing.values().map(|r| &r.item))
    }

    /// The times at which there are such documents.
    pub(super) fn replaced_times(&self) -> Vec<i64> {
        self.replacing.values().map(|r| r.item.time_us).collect()
    }

    /// Documents of the index that are out of date.
    pub(super) fn replaced(&self) -> FxHashSet<u64> {
        self.replacing.keys().copied().collect()
    }
}
