//! Time bounds of a query. Every query has them: the last 24 hours when none
//! are written. All times are UTC.

use std::fmt;

use jiff::{
    Timestamp,
    civil::Date,
    tz::{Offset, TimeZone},
};
use palisade_mesh::diagnostic::{Diagnostic, Location};

use crate::item::AHEAD_MAX_US;

/// Microseconds of a second.
pub(crate) const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

const UNITS: &[(&str, i64)] = &[
    ("w", 7 * DAY_US),
    ("d", DAY_US),
    ("h", 3600 * SECOND_US),
    ("m", 60 * SECOND_US),
    ("s", SECOND_US),
];

/// One end of the time asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// So many microseconds before now.
    Ago(i64),
    /// This moment, microseconds since the Unix epoch.
    At(i64),
    /// This day: its beginning as a lower bound, its end as an upper one.
    On(Date),
    /// So many days before today, likewise.
    DaysAgo(u8),
}

/// How much time a query may ask about.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// When nothing is written, seconds.
    pub default_secs: i64,
    /// At most, seconds.
    pub max_secs: i64,
}

impl Default for Limits {
    /// The last day, at most 400 days.
    fn default() -> Self {
        Self {
            default_secs: 86_400,
            max_secs: 400 * 86_400,
        }
    }
}

/// A span of time: from the first moment to before the second, microseconds
/// since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// First moment in it.
    pub from_us: i64,
    /// First moment after it.
    pub to_us: i64,
}

impl Window {
    /// All time.
    pub const EVER: Self = Self {
        from_us: i64::MIN,
        to_us: i64::MAX,
    };

    /// Itself, unless no query may ask about so much time.
    pub(crate) fn checked(self, now_us: i64, limits: &Limits) -> Result<Self, BadWindow> {
        let Self { from_us, to_us } = self;
        if from_us >= to_us {
            return Err(BadWindow::Empty);
        }
        let max_secs = limits.max_secs;
        match to_us.min(now_us).saturating_sub(from_us) > max_secs.saturating_mul(SECOND_US) {
            true => Err(BadWindow::TooLong { max_secs }),
            false => Ok(self),
        }
    }

    /// Whether the moment is in it.
    pub fn contains(&self, time_us: i64) -> bool {
        (self.from_us..self.to_us).contains(&time_us)
    }
}

/// Why bounds make no window.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadWindow {
    Empty,
    TooLong { max_secs: i64 },
}

impl BadWindow {
    pub(crate) fn tell(self, at: Location) -> Diagnostic {
        match self {
            Self::Empty => Diagnostic::error(7105, "the time asked about ends before it begins")
                .help("`since:` must be before `until:`"),
            Self::TooLong { max_secs } => Diagnostic::error(
                7106,
                format!(
                    "the time asked about is longer than {} days",
                    max_secs / 86_400
                ),
            )
            .help("narrow it with `since:` and `until:`, and ask about the rest of the time for itself"),
        }
        .at(at)
    }
}

pub(crate) fn window(
    since: Option<Bound>,
    until: Option<Bound>,
    now_us: i64,
    limits: &Limits,
) -> Result<Window, BadWindow> {
    // A reporter's clock may run a little ahead; what it sends now is not hidden.
    let to_us = until.map_or(now_us.saturating_add(AHEAD_MAX_US), |b| b.end(now_us));
    let default_us = limits.default_secs.saturating_mul(SECOND_US);
    let from_us = since.map_or(to_us.min(now_us).saturating_sub(default_us), |b| {
        b.start(now_us)
    });
    Window { from_us, to_us }.checked(now_us, limits)
}

impl Bound {
    /// Reads a lower or upper bound: a moment, a date, `-2h`, `now`, `today`,
    /// `yesterday`.
    pub(crate) fn read(text: &str) -> Option<Self> {
        match text {
            "now" => return Some(Self::Ago(0)),
            "today" => return Some(Self::DaysAgo(0)),
            "yesterday" => return Some(Self::DaysAgo(1)),
            _ => {}
        }
        // A moment before the year 0 begins with the same sign.
        if let Some(ago) = text.strip_prefix('-').and_then(Self::read_last) {
            return Some(ago);
        }
        if let Ok(time) = text.parse::<Timestamp>() {
            return Some(Self::At(time.as_microsecond()));
        }
        // A bare date only: a date-time without offset would be a guess.
        (text.len() == 10).then(|| text.parse().ok().map(Self::On))?
    }

    /// Reads how far back: `24h`, `30m`, `7d`.
    pub(crate) fn read_last(text: &str) -> Option<Self> {
        let (digits, scale) = UNITS
            .iter()
            .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)))?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number: i64 = digits.parse().ok()?;
        Some(Self::Ago(number.checked_mul(scale)?))
    }

    pub(super) fn start(self, now_us: i64) -> i64 {
        match self {
            Self::Ago(us) => now_us.saturating_sub(us),
            Self::At(us) => us,
            Self::On(day) => midnight_us(day),
            Self::DaysAgo(days) => day_start_us(now_us).saturating_sub(i64::from(days) * DAY_US),
        }
    }

    pub(super) fn end(self, now_us: i64) -> i64 {
        match self {
            Self::Ago(_) | Self::At(_) => self.start(now_us),
            Self::On(_) | Self::DaysAgo(_) => self.start(now_us).saturating_add(DAY_US),
        }
    }
}

fn midnight_us(day: Date) -> i64 {
    day.to_zoned(TimeZone::fixed(Offset::UTC))
        .map_or(i64::MAX, |start| start.timestamp().as_microsecond())
}

fn day_start_us(time_us: i64) -> i64 {
    time_us.saturating_sub(time_us.rem_euclid(DAY_US))
}

/// Lengths of a step that people read easily, seconds.
const STEPS_SECS: &[i64] = &[
    1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 604_800,
];

/// The shortest easily read step, microseconds, of which no more than `most` fit into
/// `length_us`.
pub(crate) fn step_for(length_us: i64, most: i64) -> i64 {
    STEPS_SECS
        .iter()
        .map(|secs| secs * SECOND_US)
        .find(|step| length_us / step <= most)
        .unwrap_or(7 * DAY_US)
}

/// A length of time in its largest whole unit, as `15m`.
pub(crate) fn length(us: i64) -> String {
    let (unit, scale) = UNITS
        .iter()
        .find(|(_, scale)| us % scale == 0)
        .copied()
        .unwrap_or(("s", SECOND_US));
    format!("{}{unit}", us / scale)
}

/// A moment as RFC 3339 with microseconds.
pub(crate) fn rfc3339(time_us: i64) -> String {
    let time = Timestamp::from_microsecond(time_us).unwrap_or(if time_us < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    });
    format!("{time:.6}")
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ago(0) => f.write_str("now"),
            Self::Ago(us) => write!(f, "-{}", length(*us)),
            Self::At(us) => f.write_str(&rfc3339(*us)),
            Self::On(day) => day.fmt(f),
            Self::DaysAgo(0) => f.write_str("today"),
            Self::DaysAgo(_) => f.write_str("yesterday"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20T12:00:00Z.
    const NOW: i64 = 1_795_176_000_000_000;

    fn resolved(since: Option<&str>, until: Option<&str>) -> Result<(String, String), BadWindow> {
        let read = |text: Option<&str>| text.map(|t| Bound::read(t).unwrap());
        window(read(since), read(until), NOW, &Limits::default())
            .map(|w| (rfc3339(w.from_us), rfc3339(w.to_us)))
    }

    #[test]
    fn bounds_are_resolved_against_now_in_utc() {
        let check = |since, until, from: &str, to: &str| {
            let (a, b) = resolved(since, until).unwrap();
            assert!(a.starts_with(from), "{since:?}: {a}");
            assert!(b.starts_with(to), "{until:?}: {b}");
        };
        check(None, None, "2026-11-19T12:00:00", "2026-11-20T12:05:00");
        check(Some("-2h"), None, "2026-11-20T10:00:00", "2026-11-20T12:05");
        check(Some("today"), None, "2026-11-20T00:00", "2026-11-20T12:05");
        check(
            Some("yesterday"),
            Some("yesterday"),
            "2026-11-19T00:00",
            "2026-11-20T00:00",
        );
        check(
            Some("2026-10-01"),
            Some("2026-10-31"),
            "2026-10-01T00",
            "2026-11-01T00",
        );
        check(
            None,
            Some("2026-10-31T06:00:00Z"),
            "2026-10-30T06",
            "2026-10-31T06",
        );
        check(
            Some("2026-11-20T12:00:00+02:00"),
            None,
            "2026-11-20T10:00",
            "2026-11-20T12:05",
        );
    }

    #[test]
    fn a_window_is_neither_empty_nor_longer_than_its_limit() {
        assert_eq!(resolved(Some("-1h"), Some("-2h")), Err(BadWindow::Empty));
        assert!(resolved(Some("-400d"), None).is_ok());
        assert!(resolved(Some("-401d"), None).is_err());
    }

    #[test]
    fn what_is_no_time_is_not_guessed() {
        for text in [
            "",
            "2026",
            "2026-11-20T12:00",
            "-5",
            "5h",
            "-h",
            "tomorrow",
            "-9999999999999w",
        ] {
            assert_eq!(Bound::read(text), None, "{text}");
        }
    }
}
