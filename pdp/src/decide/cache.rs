//! A bounded cache that forgets what was not asked for lately.
//!
//! Two generations: new and used entries are in the young one; when it has
//! reached half of a limit it becomes the old one, and what was in the old one
//! is forgotten. Every operation is O(1); nothing is walked, nothing is locked.

use std::{borrow::Borrow, collections::HashMap, hash::BuildHasher, hash::Hash};

/// How much a cache may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Entries.
    pub(crate) entries: usize,
    /// Bytes, as its user counts them.
    pub(crate) bytes: usize,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct Generations<K, V, S> {
    young: HashMap<K, (V, usize), S>,
    old: HashMap<K, (V, usize), S>,
    /// Bytes in the young generation.
    bytes: usize,
    limits: Limits,
}

impl<K: Eq + Hash, V: Clone, S: BuildHasher + Default> Generations<K, V, S> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            young: HashMap::default(),
            old: HashMap::default(),
            bytes: 0,
            limits,
        }
    }

    /// The entry under `key`; an old one becomes young again.
    pub(crate) fn get<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some((value, _)) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, (value, bytes)) = self.old.remove_entry(key)?;
        self.insert(key, value.clone(), bytes);
        Some(value)
    }

    /// Keeps `value`, which takes about `bytes`. One that would fill half the
    /// cache alone is not kept.
    pub(crate) fn insert(&mut self, key: K, value: V, bytes: usize) {
        let (entries_max, bytes_max) = (self.limits.entries / 2, self.limits.bytes / 2);
        if bytes > bytes_max {
            return;
        }
        if self.young.len() >= entries_max || self.bytes + bytes > bytes_max {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.old.remove(&key);
        self.bytes += bytes;
        if let Some((_, replaced)) = self.young.insert(key, (value, bytes)) {
            self.bytes = self.bytes.saturating_sub(replaced);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    fn cache(entries: usize, bytes: usize) -> Generations<u32, u32, RandomState> {
        Generations::new(Limits { entries, bytes })
    }

    #[test]
    fn entries_stay_within_the_limit_and_used_ones_stay() {
        let mut cache = cache(100, 1 << 20);
        for i in 0..1_000 {
            cache.insert(i, i, 1);
            assert!(cache.len() <= 100);
            assert_eq!(cache.get(&0), Some(0), "in use at {i}");
        }
        assert_eq!(cache.get(&999), Some(999));
        assert_eq!(cache.get(&500), None);
    }

    #[test]
    fn bytes_stay_within_the_limit() {
        let mut cache = cache(1_000, 100);
        for i in 0..1_000 {
            cache.insert(i, i, 10);
            assert!(cache.len() <= 10);
        }
        cache.insert(5_000, 0, 50);
        assert_eq!(cache.get(&5_000), Some(0));
        cache.insert(5_001, 0, 51);
        assert_eq!(cache.get(&5_001), None);
    }
}
