//! One line on a terminal while a long command goes on: records, rate, time left.

use std::time::{Duration, Instant};

use super::{duration, screen, thousands};

/// How often a terminal hears how far it is.
const EVERY: Duration = Duration::from_millis(200);

/// How far something is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Far {
    /// Records so far.
    pub(crate) records: u64,
    /// Of how many, where that is known.
    pub(crate) of: Option<u64>,
    /// What the time that is left is told by, where that is not the records: how much of how
    /// much, such as bytes.
    pub(crate) by: Option<(u64, u64)>,
}

/// The line. It is taken away when the value is dropped.
pub(crate) struct Progress {
    shown: bool,
    begun: Instant,
    told: Option<Instant>,
    /// Records of an earlier run, of which this one is the continuation.
    before: u64,
    /// What is said behind it.
    hint: &'static str,
}

impl Progress {
    /// Begins after `before` records. Where nobody watches, it says nothing.
    pub(crate) fn after(before: u64) -> Self {
        Self {
            shown: screen::tells_progress(),
            begun: Instant::now(),
            told: None,
            before,
            hint: "",
        }
    }

    /// With some words behind what it says.
    pub(crate) fn hinting(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }

    /// Begins with nothing done.
    pub(crate) fn begin() -> Self {
        Self::after(0)
    }

    /// Without a word, where that is said.
    pub(crate) fn silent(self, silent: bool) -> Self {
        Self {
            shown: self.shown && !silent,
            ..self
        }
    }

    /// Whether somebody watches.
    pub(crate) fn is_shown(&self) -> bool {
        self.shown
    }

    /// Says how far it is, a few times a second.
    pub(crate) fn tell(&mut self, far: Far) {
        let (before, hint) = (self.before, self.hint);
        self.say(|taken| said(far, before, taken) + hint);
    }

    /// Says what is waited for, and for how long by now.
    pub(crate) fn wait(&mut self, what: &str) {
        self.say(|taken| {
            let whole = Duration::from_secs(taken.as_secs());
            format!("{what} · {} · Ctrl-C ends it", duration(whole))
        });
    }

    fn say(&mut self, text: impl FnOnce(Duration) -> String) {
        if !self.shown || self.told.is_some_and(|told| told.elapsed() < EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        screen::progress(&text(self.begun.elapsed()));
    }

    /// Does `work`, and says meanwhile every now and then what `far` says.
    pub(crate) async fn during<T>(
        &mut self,
        work: impl Future<Output = T>,
        mut far: impl FnMut(&mut Self),
    ) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(EVERY, &mut work).await {
                Ok(done) => return done,
                Err(_) => far(self),
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.told.is_some() {
            screen::progress("");
        }
    }
}

/// How far it is, `taken` after its begin at `before` records: `12,000 of 50,000 records ·
/// 4,000/s · 10 s left`.
fn said(far: Far, before: u64, taken: Duration) -> String {
    let millis = u64::try_from(taken.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = |done: u64| done.saturating_mul(1000) / millis;
    let records = rate(far.records.saturating_sub(before));
    let mut said = thousands(far.records);
    if let Some(all) = far.of {
        said += &format!(" of {}", thousands(all));
    }
    said += &format!(" records · {}/s", thousands(records));
    let (left, per_second) = match (far.by, far.of) {
        (Some((done, all)), _) => (all.saturating_sub(done), rate(done)),
        (None, Some(all)) => (all.saturating_sub(far.records), records),
        (None, None) => return said,
    };
    match per_second {
        0 => said,
        per_second => {
            let left = Duration::from_secs(left.div_ceil(per_second));
            said + &format!(" · {} left", duration(left))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_records_rate_and_time_left() {
        let check = |records, before, of, by, secs, expected: &str| {
            let far = Far { records, of, by };
            assert_eq!(said(far, before, Duration::from_secs(secs)), expected);
        };
        let all = Some(50_000);
        let whole = "12,000 of 50,000 records · 4,000/s · 10 s left";
        check(12_000, 0, all, None, 3, whole);
        // Of a run that went on where an earlier one stopped.
        let whole = "12,000 of 12,000 records · 2,000/s · 0 ms left";
        check(12_000, 10_000, Some(12_000), None, 1, whole);
        check(5, 0, None, None, 1, "5 records · 5/s");
        check(0, 0, Some(7), None, 1, "0 of 7 records · 0/s");
        // By bytes, where records differ in length.
        let bytes = Some((1 << 30, 3 << 30));
        let whole = "2,000,000 records · 1,000,000/s · 4 s left";
        check(2_000_000, 0, None, bytes, 2, whole);
        check(5, 0, None, Some((0, 1 << 30)), 0, "5 records · 5,000/s");
    }

    /// The work goes on while it is told of, and its result comes back.
    #[tokio::test]
    async fn work_is_told_of_while_it_goes_on() {
        let told = std::cell::Cell::new(0);
        // It ends once it was told of twice.
        let work = std::future::poll_fn(|context| match told.get() {
            0 | 1 => {
                context.waker().wake_by_ref();
                std::task::Poll::Pending
            }
            times => std::task::Poll::Ready(times),
        });
        let mut progress = Progress::begin();
        let done = progress.during(work, |_| told.set(told.get() + 1)).await;
        assert_eq!(done, 2);
    }
}
