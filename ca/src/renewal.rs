//! When a certificate is renewed.

use std::time::Duration;

use crate::random;

/// Longest sleep of whoever waits for a wall-clock time: the wall clock may jump
/// (suspend, NTP), and timers do not see it.
pub(crate) const NAP_MAX: Duration = Duration::from_secs(1);

/// When to renew a certificate that has `left` to live: at half of it, 20 % sooner
/// or later, so that a fleet that started together does not renew together.
pub(crate) fn renewal_after(left: Duration) -> Duration {
    left.mul_f64(0.4 + 0.2 * random::fraction())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_at_half_of_the_life_give_or_take_a_fifth() {
        let times: Vec<_> = (0..1000)
            .map(|_| renewal_after(Duration::from_secs(3600)).as_secs())
            .collect();
        assert!(times.iter().all(|t| (1440..=2160).contains(t)));
        let spread = times.iter().max().unwrap() - times.iter().min().unwrap();
        assert!(spread > 360, "jitter is missing");
        assert_eq!(renewal_after(Duration::ZERO), Duration::ZERO);
    }
}
