//! The time a report is about.

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use palisade_mesh::diagnostic::Diagnostic;

use crate::query::{Limits, Query, Window, time::rfc3339};

/// A period, from its first moment to before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(pub Window);

impl Period {
    /// Reads a year (`2026`), a quarter (`2026-Q4`), a month (`2026-11`), a day
    /// (`2026-11-20`), days (`2026-11-01..2026-11-20`, the last included) or time bounds of the
    /// query language (`last:30d`). All are UTC; an end ahead of `now_us` is put to now.
    ///
    /// # Errors
    /// `PLS7802` when it is none of these, is empty or has not begun; `PLS7106` when it
    /// is longer than queries may be.
    pub fn read(text: &str, now_us: i64) -> Result<Self, Diagnostic> {
        let window = match calendar(text) {
            Some((first, end)) => Window {
                from_us: micros(first).ok_or_else(|| not_one(text))?,
                to_us: micros(end).ok_or_else(|| not_one(text))?,
            },
            None => bounds(text, now_us)?,
        };
        // The moment itself belongs to the period: a record of just now is in it.
        let to_us = window.to_us.min(now_us.saturating_add(1));
        if window.from_us >= to_us.min(now_us) {
            return Err(
                Diagnostic::error(7802, format!("the period `{text}` is empty"))
                    .cause("it ends before it begins, or has not begun")
                    .help("give one in the past, such as 2026-10 or last:30d"),
            );
        }
        let max_us = Limits::default().max_secs.saturating_mul(1_000_000);
        // Which makes the longest one no longer.
        let over_us = to_us.saturating_sub(window.from_us).saturating_sub(max_us);
        let from_us = match to_us > now_us && over_us == 1 {
            true => window.from_us.saturating_add(1),
            false => window.from_us,
        };
        if to_us.saturating_sub(from_us) > max_us {
            return Err(
                Diagnostic::error(7106, format!("the period `{text}` is too long"))
                    .help("a report covers at most 400 days: make one for each year"),
            );
        }
        Ok(Self(Window { from_us, to_us }))
    }

    /// The bounds as a query has them.
    pub(super) fn bounds(self) -> String {
        let Window { from_us, to_us } = self.0;
        format!("since:{} until:{}", rfc3339(from_us), rfc3339(to_us))
    }

    /// The time of the same length before it.
    pub(super) fn before(self) -> Self {
        let Window { from_us, to_us } = self.0;
        Self(Window {
            from_us: from_us.saturating_sub(to_us - from_us),
            to_us: from_us,
        })
    }
}

fn bounds(text: &str, now_us: i64) -> Result<Window, Diagnostic> {
    let query = Query::parse(text).map_err(|_| not_one(text))?;
    let of_time = query.is_of_time_alone() && query.stage().is_none();
    if !of_time || !query.names_its_beginning() {
        return Err(not_one(text));
    }
    query.window(now_us, &Limits::default())
}

/// First day and the day after the last.
fn calendar(text: &str) -> Option<(Date, Date)> {
    if let Some((first, last)) = text.split_once("..") {
        let (first, last): (Date, Date) = (first.parse().ok()?, last.parse().ok()?);
        return Some((first, last.tomorrow().ok()?));
    }
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if text.len() == 4 && digits(text) {
        let first = Date::new(text.parse().ok()?, 1, 1).ok()?;
        return Some((first, first.checked_add(1.year()).ok()?));
    }
    if let Some((year, quarter)) = text.split_once("-Q") {
        let quarter: i8 = quarter.parse().ok().filter(|q| (1..=4).contains(q))?;
        let first = Date::new(year.parse().ok()?, quarter * 3 - 2, 1).ok()?;
        return Some((first, first.checked_add(3.months()).ok()?));
    }
    if text.len() == 7 {
        let first: Date = format!("{text}-01").parse().ok()?;
        return Some((first, first.checked_add(1.month()).ok()?));
    }
    let day: Date = (text.len() == 10).then(|| text.parse().ok())??;
    Some((day, day.tomorrow().ok()?))
}

fn micros(day: Date) -> Option<i64> {
    let start: Timestamp = day.to_zoned(TimeZone::UTC).ok()?.timestamp();
    Some(start.as_microsecond())
}

fn not_one(text: &str) -> Diagnostic {
    Diagnostic::error(7802, format!("`{text}` is not a period"))
        .help("write 2026, 2026-Q4, 2026-11, 2026-11-20, 2026-11-01..2026-11-20 or last:30d")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20T12:00:00Z.
    const NOW: i64 = 1_795_176_000_000_000;

    fn read(text: &str) -> Result<(String, String), u16> {
        let Period(window) = Period::read(text, NOW).map_err(|told| told.code.0)?;
        Ok((rfc3339(window.from_us), rfc3339(window.to_us)))
    }

    #[test]
    fn calendar_periods_are_whole_and_end_now_at_the_latest() {
        let check = |text: &str, from: &str, to: &str| {
            let (a, b) = read(text).unwrap();
            assert!(a.starts_with(from) && b.starts_with(to), "{text}: {a} {b}");
        };
        check("2026", "2026-01-01T00:00", "2026-11-20T12:00");
        check("2025", "2025-01-01T00:00", "2026-01-01T00:00");
        check("2026-Q3", "2026-07-01T00:00", "2026-10-01T00:00");
        check("2026-10", "2026-10-01T00:00", "2026-11-01T00:00");
        check("2026-11-19", "2026-11-19T00:00", "2026-11-20T00:00");
        check("2026-10-01..2026-10-31", "2026-10-01T00", "2026-11-01T00");
        check("last:30d", "2026-10-21T12:00", "2026-11-20T12:00");
        check(
            "since:2026-11-01 until:2026-11-02",
            "2026-11-01T00",
            "2026-11-03T00",
        );
    }

    #[test]
    fn what_is_no_period_is_not_guessed() {
        for text in [
            "",
            "26",
            "2026-Q5",
            "2026-13",
            "2026-11-31",
            "soon",
            "2026-12",
            "last:0s",
            "2026-10-31..2026-10-01",
            "service:orders",
            "until:2026-01-01",
            "last:1d | count",
        ] {
            assert_eq!(read(text), Err(7802), "{text}");
        }
        // And every question that a report asks about it is one that may be asked.
        let Period(longest) = Period::read("last:400d", NOW).unwrap();
        let query = Query::parse(&Period(longest).bounds()).unwrap();
        assert_eq!(query.window(NOW, &Limits::default()).ok(), Some(longest));
        assert!(read("2025-01-01..2026-11-01").is_err());
    }
}
