//! Joins what the index has with what comes in: an outcome with its decision of before, and a
//! decision that comes back from an archive with its outcome of since.
//!
//! What is read for that may be in an archive. Nothing is fetched while searches are kept out,
//! and one that cannot be had is not forgotten: its segment is looked at again, and then the
//! join is made.

use std::sync::Arc;

use palisade_mesh::wire::record::Outcome;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    StoreError,
    indexer::Indexer,
    lookup::{self, Reading},
    recent::Replacement,
};
use crate::item::{Item, JoinKey};

impl Indexer {
    /// Gives indexed decisions their outcomes, each with where it is.
    pub(super) fn join(
        &mut self,
        outcomes: Vec<(JoinKey, (u64, Outcome))>,
    ) -> Result<(), StoreError> {
        if outcomes.is_empty() {
            return Ok(());
        }
        let views = self.shared.read().views.clone();
        let source = Arc::clone(&self.shared.source);
        let mut reading = Reading::new(source.as_ref());
        let mut joined = Vec::new();
        for (key, outcome) in outcomes {
            let cause = outcome.0;
            let found = lookup::decision(&views, &mut reading, &key, cause);
            if let Some(found) = found.filter(|found| !found.joined) {
                let mut item = found.item;
                item.outcome = Some(outcome);
                joined.push(Replacement { item, cause });
            }
        }
        self.note_failed(reading)?;
        self.replace(joined);
        Ok(())
    }

    /// Puts joined decisions in the place of those that the index has. The first outcome counts.
    pub(super) fn replace(&self, joined: Vec<Replacement>) {
        let mut inner = self.shared.write();
        for replacement in joined {
            let replacing = &mut inner.recent.replacing;
            replacing.entry(replacement.item.at).or_insert(replacement);
        }
    }

    /// Gives decisions their outcomes that came later and are indexed by now. Of those that are
    /// `known` to be indexed, with or without an outcome, gives what replaces them.
    pub(super) fn join_later(
        &mut self,
        items: &mut [(bool, Item)],
        known: &FxHashMap<u64, bool>,
    ) -> Result<Vec<Replacement>, StoreError> {
        let here: FxHashSet<JoinKey> = items
            .iter()
            .filter_map(|(_, item)| item.joins().map(|(key, _)| key))
            .collect();
        let open = items
            .iter()
            .filter(|(_, item)| known.get(&item.at) != Some(&true));
        let open = open.filter_map(|(_, item)| Some((item.joinable()?, item.at)));
        let open: Vec<_> = open.filter(|(key, _)| !here.contains(key)).collect();
        let views = self.shared.read().views.clone();
        let source = Arc::clone(&self.shared.source);
        let mut reading = Reading::new(source.as_ref());
        let mut found = lookup::outcomes(&views, &mut reading, &open);
        self.note_failed(reading)?;
        let mut joined = Vec::new();
        for (indexed, item) in items {
            let Some(outcome) = found.remove(&item.at) else {
                continue;
            };
            if !*indexed {
                item.outcome = Some(outcome);
                continue;
            }
            let (mut item, cause) = (item.clone(), item.at);
            item.outcome = Some(outcome);
            joined.push(Replacement { item, cause });
        }
        Ok(joined)
    }

    fn note_failed(&mut self, reading: Reading<'_>) -> Result<(), StoreError> {
        let mut failed = reading.failed.iter();
        failed.try_for_each(|error| self.note_unreadable(error.index, error))
    }
}
