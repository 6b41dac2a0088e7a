//! Counts what each user holds, and stops at a limit.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Holdings per uid.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    held: Arc<Mutex<HashMap<u32, usize>>>,
    max: usize,
}

/// One holding; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    tally: Tally,
    uid: u32,
}

impl Tally {
    pub(super) fn new(max: usize) -> Self {
        Self {
            held: Arc::default(),
            max,
        }
    }

    /// Takes one more for `uid`; `None` at the limit.
    pub(super) fn take(&self, uid: u32) -> Option<Slot> {
        let mut held = self.held();
        let count = held.entry(uid).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Slot {
            tally: self.clone(),
            uid,
        })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.tally.held();
        if let Some(count) = held.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_limit_of_its_own_and_gets_back_what_it_drops() {
        let tally = Tally::new(2);
        let first = tally.take(1).unwrap();
        let _second = tally.take(1).unwrap();
        assert!(tally.take(1).is_none());
        assert!(tally.take(2).is_some());
        drop(first);
        assert!(tally.take(1).is_some());
        assert_eq!(
            tally.held().len(),
            1,
            "users that hold nothing take no room"
        );
    }
}
