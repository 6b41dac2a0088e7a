//! Faults for tests of a running mesh, which has to notice them. No program that is shipped
//! has the feature.

use std::sync::{Mutex, PoisonError};

static LOST: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Breaks the index of every snapshot that this process makes from now on: it does not find
/// the policy `id`.
pub fn lose_policy(id: &str) {
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    lost.push(id.to_owned());
}

pub(super) fn is_lost(id: &str) -> bool {
    let lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    lost.iter().any(|l| l == id)
}
