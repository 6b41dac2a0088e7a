//! The clock, handed to whoever needs the time, so that tests can move it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
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
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    wall_us: AtomicI64,
    steady_us: AtomicU64,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until it is moved; clones move together.
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(Manual {
            wall_us: AtomicI64::new(start.as_microsecond()),
            steady_us: AtomicU64::new(0),
        })))
    }

    /// Now, in microseconds since the Unix epoch.
    pub fn now_us(&self) -> i64 {
        match &self.0 {
            Source::System => Timestamp::now().as_microsecond(),
            Source::Manual(manual) => manual.wall_us.load(Ordering::SeqCst),
        }
    }

    /// The time that has passed on a manual clock, however it was set meanwhile,
    /// microseconds; none for the system's, of which the machine keeps that time.
    pub fn steady_us(&self) -> Option<u64> {
        match &self.0 {
            Source::System => None,
            Source::Manual(manual) => Some(manual.steady_us.load(Ordering::SeqCst)),
        }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.now_us()).unwrap_or(Timestamp::MAX)
    }

    /// Lets time pass on a manual clock; the system's clock stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(manual) = &self.0 {
            let passed = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
            manual.steady_us.fetch_add(passed, Ordering::SeqCst);
            self.set_ahead(by);
        }
    }

    /// Sets a manual clock forward though no time has passed; the system's clock
    /// stays as it is.
    pub fn set_ahead(&self, by: Duration) {
        if let Source::Manual(manual) = &self.0 {
            let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
            manual.wall_us.fetch_add(by, Ordering::SeqCst);
        }
    }

    /// Sets a manual clock back, as NTP does with a wrong one; the system's clock
    /// stays as it is.
    pub fn set_back(&self, by: Duration) {
        if let Source::Manual(manual) = &self.0 {
            let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
            manual.wall_us.fetch_sub(by, Ordering::SeqCst);
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
        clock.set_back(Duration::from_secs(1));
        clock.set_ahead(Duration::from_secs(3));
        assert_eq!(other.now_us(), 63_000_000);
        assert_eq!(other.steady_us(), Some(61_000_000));
        assert_eq!(Clock::system().steady_us(), None);
    }
}
