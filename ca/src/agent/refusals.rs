//! Records of callers that got no identity, at a bounded rate.
//!
//! A refused client asks again, and a hostile one asks in a loop: beyond the rate
//! refusals are counted and the next record says how many there were.

use std::sync::{Mutex, PoisonError};

use palisade_mesh::wire::record::{AuthnFailure, record::Body};

use super::Desk;

/// Records that may be left at once.
const BURST: u32 = 20;
/// Time after which one more may be left.
const REFILL_US: i64 = 1_000_000;

/// The budget for such records.
#[derive(Debug)]
pub(super) struct Refusals(Mutex<Budget>);

#[derive(Debug)]
struct Budget {
    tokens: u32,
    refilled_us: i64,
    suppressed: u64,
}

impl Default for Refusals {
    fn default() -> Self {
        Self(Mutex::new(Budget {
            tokens: BURST,
            refilled_us: i64::MIN,
            suppressed: 0,
        }))
    }
}

impl Refusals {
    /// Leaves a record of a refused caller, or counts it.
    pub(super) fn note(&self, desk: &Desk, reason: &'static str, detail: String) {
        tracing::warn!(reason, detail, "workload got no identity");
        let Some(suppressed) = self.spend(desk.now_us()) else {
            return;
        };
        let detail = match suppressed {
            0 => detail,
            n => format!("{detail}; {n} more were not recorded before"),
        };
        let failure = AuthnFailure {
            reason: reason.into(),
            listener: "workload_api".into(),
            detail,
            ..AuthnFailure::default()
        };
        if let Err(error) = desk.recorder.note(Body::AuthnFailure(failure)) {
            tracing::error!(%error, "refused workload left no record");
        }
    }

    /// Takes a token; returns how many refusals went unrecorded before it.
    fn spend(&self, now_us: i64) -> Option<u64> {
        let mut budget = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = now_us.saturating_sub(budget.refilled_us) / REFILL_US;
        if due > 0 {
            let due = u32::try_from(due).unwrap_or(u32::MAX);
            budget.tokens = budget.tokens.saturating_add(due).min(BURST);
            budget.refilled_us = now_us;
        }
        if budget.tokens == 0 {
            budget.suppressed += 1;
            return None;
        }
        budget.tokens -= 1;
        Some(std::mem::take(&mut budget.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_told_later() {
        let refusals = Refusals::default();
        for _ in 0..BURST {
            assert_eq!(refusals.spend(0), Some(0));
        }
        assert_eq!(refusals.spend(0), None);
        assert_eq!(refusals.spend(REFILL_US - 1), None);
        assert_eq!(refusals.spend(REFILL_US), Some(2));
        assert_eq!(refusals.spend(REFILL_US), None);
    }
}
