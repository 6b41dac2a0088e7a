//! Reads that were refused. Whoever may read nothing must not fill the log by asking: the first
//! few of each identity in a minute are recorded one by one, the others by their number.

use std::{collections::BTreeMap, time::Duration};

use palisade_mesh::wire::record::Verdict;
use tokio::time::Instant;

/// Refused reads of an identity that are recorded one by one in each [`SPAN`].
pub(super) const EACH_MAX: u64 = 10;
/// A minute, however the clock is set meanwhile.
pub(super) const SPAN: Duration = Duration::from_secs(60);

/// What was refused lately, by identity. Each has a certificate or a token of the trust domain, so
/// there are no more than it has given out; they stay until somebody is refused after their minute.
#[derive(Debug, Default)]
pub(super) struct Refused {
    minutes: BTreeMap<String, Minute>,
    /// When the oldest of them began.
    oldest: Option<Instant>,
    /// Nothing is counted any more: nobody would tell it.
    ended: bool,
}

/// What one identity was refused since its first refused read.
#[derive(Debug)]
struct Minute {
    since: Instant,
    recorded: u64,
    more: u64,
    /// How the first of these was judged.
    verdict: Verdict,
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

/// What was refused in a minute beyond what is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct More {
    pub(super) actor: String,
    pub(super) reads: u64,
    pub(super) verdict: Verdict,
}

impl Refused {
    /// Takes in a read that `actor` was refused so. What is [over](Self::over) by now was taken out.
    pub(super) fn take(&mut self, actor: &str, verdict: Verdict, now: Instant) -> Taken {
        if self.ended {
            return Taken::Alone;
        }
        let minute = self.minute(actor, 0, now);
        if minute.recorded < EACH_MAX {
            minute.recorded += 1;
            return Taken::Alone;
        }
        if minute.more == 0 {
            minute.verdict = verdict;
        }
        minute.more = minute.more.saturating_add(1);
        match minute.more {
            1 => Taken::CountedFirst,
            _ => Taken::Counted,
        }
    }

    /// Takes back what could not be told, to be told with what comes in a minute that begins now.
    /// False where nothing is told any more.
    pub(super) fn put_back(&mut self, told: More, now: Instant) -> bool {
        if self.ended {
            return false;
        }
        let minute = self.minute(&told.actor, EACH_MAX, now);
        minute.more = minute.more.saturating_add(told.reads);
        minute.verdict = told.verdict;
        true
    }

    fn minute(&mut self, actor: &str, recorded: u64, now: Instant) -> &mut Minute {
        self.oldest.get_or_insert(now);
        self.minutes.entry(actor.to_owned()).or_insert(Minute {
            since: now,
            recorded,
            more: 0,
            verdict: Verdict::NotPermitted,
        })
    }

    /// Takes out the minutes that are over: who was refused more than was recorded, and how much
    /// more.
    pub(super) fn over(&mut self, now: Instant) -> Vec<More> {
        let is_over = |since: Instant| now.saturating_duration_since(since) >= SPAN;
        if !self.oldest.is_some_and(is_over) {
            return Vec::new();
        }
        let over = self
            .minutes
            .extract_if(.., |_, minute| is_over(minute.since));
        let over = counted(over.collect());
        self.oldest = self.minutes.values().map(|minute| minute.since).min();
        over
    }

    /// Takes out all of them, for good: what is refused from here on is recorded one by one.
    pub(super) fn end(&mut self) -> Vec<More> {
        self.ended = true;
        counted(std::mem::take(&mut self.minutes))
    }
}

fn counted(minutes: BTreeMap<String, Minute>) -> Vec<More> {
    let all = minutes.into_iter();
    let counted = all.filter(|(_, minute)| minute.more > 0);
    counted
        .map(|(actor, minute)| More {
            actor,
            reads: minute.more,
            verdict: minute.verdict,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn more(actor: &str, reads: u64) -> More {
        More {
            actor: actor.to_owned(),
            reads,
            verdict: Verdict::Forbidden,
        }
    }

    /// Each identity by itself, on both sides of the number and of the minute; no count is lost.
    #[test]
    fn so_many_are_recorded_in_a_minute_and_the_others_counted() {
        let (mut refused, begin) = (Refused::default(), Instant::now());
        let take =
            |refused: &mut Refused, actor, at| refused.take(actor, Verdict::Forbidden, begin + at);
        let (start, late) = (Duration::ZERO, SPAN - Duration::from_micros(1));
        for _ in 0..EACH_MAX {
            assert_eq!(take(&mut refused, "mallory", start), Taken::Alone);
        }
        assert_eq!(take(&mut refused, "mallory", start), Taken::CountedFirst);
        assert_eq!(take(&mut refused, "mallory", late), Taken::Counted);
        assert_eq!(take(&mut refused, "trudy", late), Taken::Alone);
        assert!(refused.over(begin + late).is_empty());
        // One that took its time before another began the minute.
        assert!(refused.over(begin - late).is_empty());
        assert_eq!(refused.over(begin + SPAN), [more("mallory", 2)]);
        assert_eq!(take(&mut refused, "mallory", SPAN), Taken::Alone);
        // Of whom nothing was counted nothing is told.
        assert!(refused.over(begin + 3 * SPAN).is_empty());
        assert!(refused.minutes.is_empty());
    }

    /// Where the log takes nothing, and where the service ends.
    #[test]
    fn what_cannot_be_told_is_told_later() {
        let (mut refused, begin) = (Refused::default(), Instant::now());
        assert!(refused.put_back(more("mallory", 7), begin));
        let take = |refused: &mut Refused| refused.take("mallory", Verdict::Forbidden, begin);
        assert_eq!(take(&mut refused), Taken::Counted);
        assert!(refused.over(begin).is_empty());
        assert_eq!(refused.over(begin + SPAN), [more("mallory", 8)]);
        assert!(refused.put_back(more("trudy", 1), begin));
        assert_eq!(refused.end(), [more("trudy", 1)]);
        assert!(!refused.put_back(more("trudy", 1), begin));
        for _ in 0..=EACH_MAX {
            assert_eq!(take(&mut refused), Taken::Alone);
        }
    }
}
