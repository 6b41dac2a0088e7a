//! The times of receipt of a segment, as the book of the log reads them.

use super::super::book::LEAP_US;

/// Those of one segment.
pub(super) struct Times {
    /// The earliest and the latest in the segment alone.
    pub(super) first_us: Option<i64>,
    pub(super) last_us: Option<i64>,
    /// The latest up to there.
    latest_us: Option<i64>,
    pub(super) leap: Option<(i64, i64)>,
}

impl Times {
    pub(super) fn after(before_us: i64) -> Self {
        Self {
            first_us: None,
            last_us: None,
            latest_us: (before_us > i64::MIN).then_some(before_us),
            leap: None,
        }
    }

    pub(super) fn receive(&mut self, us: i64) {
        self.first_us = Some(self.first_us.map_or(us, |first_us| first_us.min(us)));
        self.last_us = self.last_us.max(Some(us));
        if let Some(latest_us) = self.latest_us
            && us.saturating_sub(latest_us) > LEAP_US
        {
            self.leap = Some((latest_us, us));
        }
        self.latest_us = self.latest_us.max(Some(us));
    }
}
