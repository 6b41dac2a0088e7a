//! Clocks that differ, as several parts tell of them.

use std::time::Duration;

use super::api::{Fact, FactState};
use crate::render;

/// How far clocks may be apart before that is worth a word: certificates and records
/// stand on them.
pub(crate) const CLOCKS_APART: Duration = Duration::from_secs(10);

/// Two clocks that differ, if they do by [`CLOCKS_APART`] at least: the other is
/// `ahead_us` ahead of ours, where it is `now_us`.
pub(crate) fn clocks_apart(ours: &str, theirs: &str, now_us: i64, ahead_us: i64) -> Option<Fact> {
    if u128::from(ahead_us.unsigned_abs()) < CLOCKS_APART.as_micros() {
        return None;
    }
    let time = |us| {
        let time = jiff::Timestamp::from_microsecond(us);
        time.map_or_else(|_| us.to_string(), |t| format!("{t:.0}"))
    };
    let text = format!(
        "{ours} clock and {theirs} differ by {}",
        render::duration(Duration::from_micros(ahead_us.unsigned_abs()))
    );
    let fact = Fact::not_ok("proxies", FactState::Warning, 5315, text)
        .cause(format!(
            "{ours} clock says {}, {theirs} {}",
            time(now_us),
            time(now_us.saturating_add(ahead_us))
        ))
        .fix("set the wrong one: certificates begin and end by these clocks");
    Some(fact)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

    use super::*;

    #[test]
    fn clocks_are_told_of_from_the_limit_on_with_both_times() {
        let limit = i64::try_from(CLOCKS_APART.as_micros()).unwrap();
        for near in [0, limit - 1, 1 - limit] {
            assert_eq!(clocks_apart("a's", "b's", 0, near), None);
        }
        let fact = clocks_apart("a's", "b's", 0, limit).unwrap();
        let cause = fact.cause.unwrap();
        assert!(
            cause.contains("1970-01-01T00:00:00Z") && cause.contains("00:00:10Z"),
            "{cause}"
        );
        assert!(clocks_apart("a's", "b's", 0, -limit).is_some());
    }
}
