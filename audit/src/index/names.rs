//! Names in the index, kept as they are asked for.
//!
//! `principal:web` asks which names end with `/web`, and the terms of a segment are ordered by
//! how they begin: each search would look at all of them. So those of a segment and column
//! that was asked stay in memory, by their last part; segments never change.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;
use tantivy::{
    InvertedIndexReader, SegmentReader, index::SegmentId, postings::TermInfo,
    schema::Field as Column,
};

use crate::query::Pattern;

/// Most names of a segment and column that are kept; where there are more, each search
/// looks at all of them.
const NAMES_MAX: usize = 50_000;

/// About how many bytes of names are kept in all.
const BYTES_MAX: usize = 64 << 20;

/// What a name takes beside its text: itself and its place by its last part.
const NAME_BYTES: usize = 96;

/// Names of a segment's column.
pub(super) struct Names {
    all: Vec<(Box<str>, TermInfo)>,
    /// Places in `all` by what follows the last `/`.
    by_last: FxHashMap<Box<str>, Vec<usize>>,
    bytes: usize,
}

impl Names {
    /// Reads them; none where there are too many.
    fn read(inverted: &InvertedIndexReader) -> tantivy::Result<Option<Self>> {
        let terms = inverted.terms();
        if terms.num_terms() > NAMES_MAX {
            return Ok(None);
        }
        let mut names = Self {
            all: Vec::with_capacity(terms.num_terms()),
            by_last: FxHashMap::default(),
            bytes: 0,
        };
        let mut stream = terms.stream()?;
        while stream.advance() {
            // What is no text matches no pattern.
            if let Ok(name) = std::str::from_utf8(stream.key()) {
                names.bytes += 2 * name.len() + NAME_BYTES;
                let places = names.by_last.entry(last(name).into()).or_default();
                places.push(names.all.len());
                names.all.push((name.into(), stream.value().clone()));
            }
        }
        Ok(Some(names))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Of each, in their order, whether a pattern finds it.
    pub(super) fn accepted(&self, pattern: &Pattern) -> Vec<bool> {
        let all = self.all.iter();
        all.map(|(name, _)| pattern.matches_name(name)).collect()
    }

    /// The terms that a pattern finds.
    pub(super) fn matching(&self, pattern: &Pattern) -> Vec<TermInfo> {
        let found =
            |(name, term): &(Box<str>, TermInfo)| pattern.matches_name(name).then(|| term.clone());
        match pattern.as_literal() {
            Some(text) => {
                let places = self.by_last.get(last(text)).into_iter().flatten();
                let named = places.filter_map(|place| self.all.get(*place));
                named.filter_map(found).collect()
            }
            None => self.all.iter().filter_map(found).collect(),
        }
    }
}

fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Those that were asked for lately.
#[derive(Default)]
pub(super) struct NameCache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// With the turn at which each was asked for last.
    names: FxHashMap<(SegmentId, Column), (u64, Arc<Names>)>,
    bytes: usize,
    turn: u64,
}

impl NameCache {
    /// The names of a column; none where there are too many.
    pub(super) fn of(
        &self,
        reader: &SegmentReader,
        column: Column,
    ) -> tantivy::Result<Option<Arc<Names>>> {
        let key = (reader.segment_id(), column);
        if let Some(known) = self.kept().get(&key) {
            return Ok(Some(known));
        }
        // Without the lock: others need not wait, at worst it is read twice.
        let read = Names::read(reader.inverted_index(column)?.as_ref())?;
        Ok(read.map(|names| self.kept().put(key, Arc::new(names))))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn get(&mut self, key: &(SegmentId, Column)) -> Option<Arc<Names>> {
        self.turn += 1;
        let (turn, names) = self.names.get_mut(key)?;
        *turn = self.turn;
        Some(names.clone())
    }

    fn put(&mut self, key: (SegmentId, Column), names: Arc<Names>) -> Arc<Names> {
        self.turn += 1;
        self.bytes += names.bytes;
        if let Some((_, before)) = self.names.insert(key, (self.turn, names.clone())) {
            self.bytes -= before.bytes;
        }
        while self.bytes > BYTES_MAX && self.names.len() > 1 {
            let oldest = self.names.iter().min_by_key(|(_, (turn, _))| *turn);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            if let Some((_, gone)) = self.names.remove(&oldest) {
                self.bytes -= gone.bytes;
            }
        }
        names
    }
}

impl std::fmt::Debug for NameCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept = self.kept();
        f.debug_struct("NameCache")
            .field("names", &kept.names.len())
            .field("bytes", &kept.bytes)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(len: usize) -> Arc<Names> {
        Arc::new(Names {
            all: Vec::new(),
            by_last: FxHashMap::default(),
            bytes: len,
        })
    }

    /// Who was asked for last stays; one that is too large stays alone.
    #[test]
    fn what_was_not_asked_for_longest_goes_at_the_limit() {
        let key = |n: u32| (SegmentId::generate_random(), Column::from_field_id(n));
        let (a, b, c, d) = (key(0), key(1), key(2), key(3));
        let mut kept = Kept::default();
        kept.put(a, names(BYTES_MAX / 2));
        kept.put(b, names(BYTES_MAX - BYTES_MAX / 2));
        assert!(kept.get(&a).is_some());
        kept.put(c, names(1));
        assert_eq!(kept.names.len(), 2, "one byte beyond");
        assert!(kept.get(&b).is_none() && kept.get(&a).is_some());
        kept.put(d, names(BYTES_MAX + 1));
        assert!(kept.get(&a).is_none() && kept.get(&d).is_some());
        assert_eq!(kept.bytes, BYTES_MAX + 1);
    }
}
