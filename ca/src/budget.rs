//! A bounded rate for records that a stranger can cause.
//!
//! A refused client asks again, and a hostile one asks in a loop: beyond the rate
//! refusals are counted, and the next record says how many there were.

use std::sync::{Mutex, PoisonError};

/// Records that may be left at once.
pub(crate) const BURST: u32 = 20;
/// Time after which one more may be left.
pub(crate) const REFILL_US: i64 = 1_000_000;

/// What may still be left.
#[derive(Debug)]
pub(crate) struct Budget(Mutex<State>);

#[derive(Debug)]
struct State {
    tokens: u32,
    refilled_us: i64,
    suppressed: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self(Mutex::new(State {
            tokens: BURST,
            refilled_us: i64::MIN,
            suppressed: 0,
        }))
    }
}

impl Budget {
    /// Takes one; returns how many refusals went unrecorded before it, or `None` when
    /// this one does.
    pub(crate) fn spend(&self, now_us: i64) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = now_us.saturating_sub(state.refilled_us) / REFILL_US;
        if due > 0 {
            let due = u32::try_from(due).unwrap_or(u32::MAX);
            state.tokens = state.tokens.saturating_add(due).min(BURST);
            state.refilled_us = now_us;
        }
        if state.tokens == 0 {
            state.suppressed += 1;
            return None;
        }
        state.tokens -= 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

/// `detail`, with the number of those that were not recorded before it.
pub(crate) fn with_suppressed(detail: String, suppressed: u64) -> String {
    match suppressed {
        0 => detail,
        n => format!("{detail}; {n} more were not recorded before"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_told_later() {
        let budget = Budget::default();
        for _ in 0..BURST {
            assert_eq!(budget.spend(0), Some(0));
        }
        assert_eq!(budget.spend(0), None);
        assert_eq!(budget.spend(REFILL_US - 1), None);
        assert_eq!(budget.spend(REFILL_US), Some(2));
        assert_eq!(budget.spend(REFILL_US), None);
    }
}
