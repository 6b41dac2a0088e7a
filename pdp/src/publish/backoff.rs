//! Waits between attempts: doubling, with jitter, so that a fleet does not come
//! back all at once.

use std::time::Duration;

/// Grows from `min` to `max` until it is reset.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            next: min,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }

    /// The next wait: between half and all of what doubling gives.
    pub(crate) fn wait(&mut self) -> Duration {
        let full = self.next.min(self.max);
        self.next = full.saturating_mul(2).min(self.max);
        let half = full / 2;
        half + half.mul_f64(random_unit())
    }
}

/// Between 0 and 1. The system's generator does not fail where we run; without it
/// the wait would merely not be spread.
fn random_unit() -> f64 {
    let mut bytes = [0_u8; 2];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u16::from_be_bytes(bytes)) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_are_spread_over_their_upper_half() {
        let (min, max) = (Duration::from_millis(100), Duration::from_millis(350));
        let mut backoff = Backoff::new(min, max);
        for full in [100, 200, 350, 350] {
            let full = Duration::from_millis(full);
            let wait = backoff.wait();
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= min);
    }
}
