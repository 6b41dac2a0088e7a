//! Reads that were refused. Whoever may read nothing must not fill the log by asking: the first
//! few of each identity in a minute are recorded one by one, the others by their number.

use std::collections::BTreeMap;

/// Refused reads of an identity that are recorded one by one in each [`SPAN_US`].
pub(super) const EACH_MAX: u64 = 10;
/// A minute, microseconds.
pub(super) const SPAN_US: i64 = 60_000_000;

/// What was refused lately, by identity. No identity stays longer than its minute, and each has a
/// certificate or a token of the trust domain, so there are no more than it has given out.
#[derive(Debug, Default)]
pub(super) struct Refused(BTreeMap<String, Minute>);

/// What one identity was refused since its first refused read.
#[derive(Debug)]
struct Minute {
    since_us: i64,
    recorded: u64,
    more: u64,
}

/// What becomes of a refused read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is recorded by itself.
    Alone,
    /// It is counted.
    Counted,
    /// It is the first of its minute that is counted.
    CountedFirst,
}

impl Refused {
    /// Takes in a read that `actor` was refused. What is [over](Self::over) by now was taken out.
    pub(super) fn take(&mut self, actor: &str, now_us: i64) -> Taken {
        let minute = self.0.entry(actor.to_owned()).or_insert(Minute {
            since_us: now_us,
            recorded: 0,
            more: 0,
        });
        if minute.recorded < EACH_MAX {
            minute.recorded += 1;
            return Taken::Alone;
        }
        minute.more = minute.more.saturating_add(1);
        match minute.more {
            1 => Taken::CountedFirst,
            _ => Taken::Counted,
        }
    }

    /// Takes out the minutes that are over: who was refused more than was recorded, and how much
    /// more.
    pub(super) fn over(&mut self, now_us: i64) -> Vec<(String, u64)> {
        // A clock that was set back ends a minute, too.
        let is_over = |minute: &Minute| !(0..SPAN_US).contains(&(now_us - minute.since_us));
        let over = self.0.extract_if(.., |_, minute| is_over(minute));
        counted(over.collect())
    }

    /// Takes out all of them.
    pub(super) fn all(&mut self) -> Vec<(String, u64)> {
        counted(std::mem::take(&mut self.0))
    }
}

fn counted(minutes: BTreeMap<String, Minute>) -> Vec<(String, u64)> {
    let all = minutes.into_iter();
    let counted = all.filter(|(_, minute)| minute.more > 0);
    counted
        .map(|(actor, minute)| (actor, minute.more))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each identity by itself, on both sides of the number and of the minute; no count is lost.
    #[test]
    fn so_many_are_recorded_in_a_minute_and_the_others_counted() {
        let mut refused = Refused::default();
        for _ in 0..EACH_MAX {
            assert_eq!(refused.take("mallory", 0), Taken::Alone);
        }
        assert_eq!(refused.take("mallory", 1), Taken::CountedFirst);
        assert_eq!(refused.take("mallory", SPAN_US - 1), Taken::Counted);
        assert_eq!(refused.take("trudy", SPAN_US - 1), Taken::Alone);
        assert!(refused.over(SPAN_US - 1).is_empty());
        assert_eq!(refused.over(SPAN_US), [("mallory".to_owned(), 2)]);
        assert_eq!(refused.take("mallory", SPAN_US), Taken::Alone);
        // Of whom nothing was counted nothing is told.
        assert!(refused.over(i64::MAX / 2).is_empty());
        assert!(refused.0.is_empty());
        // At the end, and where a clock was set back, what was counted is told, too.
        for _ in 0..=EACH_MAX {
            refused.take("mallory", SPAN_US);
            refused.take("trudy", 0);
        }
        assert_eq!(refused.over(1), [("mallory".to_owned(), 1)]);
        assert_eq!(refused.all(), [("trudy".to_owned(), 1)]);
    }
}
