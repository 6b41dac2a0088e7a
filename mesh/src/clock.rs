//! The clock, handed to whoever needs the time, so that tests can move it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use rustls_pki_types::UnixTime;

/// Tells the time: the system's, or one that a test moves.
#[derive(Debug, Clone, Default)]
pub struct Clock(Source);

#[derive(Debug, Clone, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until it is moved; clones move together.
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(
            start.as_microsecond(),
        ))))
    }

    /// Now, in microseconds since the Unix epoch.
    pub fn now_us(&self) -> i64 {
        match &self.0 {
            Source::System => Timestamp::now().as_microsecond(),
            Source::Manual(us) => us.load(Ordering::SeqCst),
        }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.now_us()).unwrap_or(Timestamp::MAX)
    }

    /// Moves a manual clock forward; the system's clock stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(us) = &self.0 {
            let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
            us.fetch_add(by, Ordering::SeqCst);
        }
    }

    /// Sets a manual clock back, as NTP does with a wrong one; the system's clock
    /// stays as it is.
    pub fn set_back(&self, by: Duration) {
        if let Source::Manual(us) = &self.0 {
            let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
            us.fetch_sub(by, Ordering::SeqCst);
        }
    }
}

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = u64::try_from(self.now_us() / 1_000_000).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(secs)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told_and_for_all_its_clones() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let other = clock.clone();
        assert_eq!(other.now_us(), 0);
        clock.advance(Duration::from_secs(61));
        assert_eq!(other.now_us(), 61_000_000);
    }
}
