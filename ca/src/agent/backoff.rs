//! Pauses between attempts: doubling, with jitter, bounded.

use std::time::Duration;

use crate::random;

/// Pause after the first failure.
pub(super) const FIRST: Duration = Duration::from_millis(500);
/// Longest pause between attempts to renew a certificate.
pub(super) const RENEW_MAX: Duration = Duration::from_secs(150);
/// Longest pause between attempts to follow the authority: one connection per
/// agent, and news of trust should not wait.
pub(super) const FOLLOW_MAX: Duration = Duration::from_secs(10);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next pause: half to all of 0.5 s doubled per failure, at most `max`.
    pub(super) fn next(&mut self, max: Duration) -> Duration {
        let doubled = FIRST.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        doubled.min(max).mul_f64(0.5 + random::fraction() / 2.0)
    }

    /// Starts over after a success.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_start_over() {
        let mut backoff = Backoff::default();
        for doubled in [500, 1000, 2000, 4000, 4000, 4000] {
            let pause = backoff.next(Duration::from_secs(4)).as_millis();
            assert!(
                (doubled / 2..=doubled).contains(&pause),
                "{pause} of {doubled}"
            );
        }
        for _ in 0..100 {
            assert!(backoff.next(RENEW_MAX) <= RENEW_MAX);
        }
        backoff.reset();
        assert!(backoff.next(RENEW_MAX) <= FIRST);
    }
}
