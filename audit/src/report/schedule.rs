//! When reports are due: the five fields of cron, in a time zone, and the period that a due
//! report is about.

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, Weekday},
    tz::{AmbiguousOffset, TimeZone},
};

use super::Period;

/// Days that are looked through for the next moment: 29 February comes within eight years.
const DAYS_MAX: u32 = 8 * 366 + 1;

/// Missed moments that are counted.
pub const MISSED_MAX: u64 = 1000;

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Moments that come again, by minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
    zone: TimeZone,
}

/// The values of a field, a bit for each, and whether these are not all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    bits: u64,
    restricted: bool,
}

/// The time before a due moment that a report is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// The day, the week from Monday, the month, the quarter or the year before.
    Previous(Unit),
    /// As in a query: `last:7d`.
    Last(String),
}

/// A unit of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A day.
    Day,
    /// A month.
    Month,
    /// Three months.
    Quarter,
    /// Seven days from Monday.
    Week,
    /// A year.
    Year,
}

impl Cron {
    /// Reads `MINUTE HOUR DAY MONTH WEEKDAY`: in each `*`, a value, `FROM-TO`, `…/STEP`, and
    /// several of these with commas; months and weekdays also by their first three letters,
    /// Sunday is 0 or 7. Where day and weekday are both restricted, either is enough.
    ///
    /// # Errors
    /// In words, which field is wrong.
    pub fn parse(text: &str, zone: &str) -> Result<Self, String> {
        let zone = match zone {
            "UTC" => TimeZone::UTC,
            name => TimeZone::get(name).map_err(|e| format!("time zone `{name}`: {e}"))?,
        };
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(format!("`{text}` has not five fields"));
        };
        let mut cron = Self {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: field(weekdays, 0, 7, &WEEKDAYS)?,
            zone,
        };
        if cron.weekdays.has(7) {
            cron.weekdays.bits |= 1;
        }
        cron.weekdays.restricted = (0..7).any(|day| !cron.weekdays.has(day));
        match cron.after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(cron),
            None => Err(format!("`{text}` is never")),
        }
    }

    /// The first moment after `time`. A time of the clock that a day does not have, because
    /// summer begins, is taken as much later; one that it has twice, the first time, and
    /// where every hour is meant, both times.
    pub fn after(&self, time: Timestamp) -> Option<Timestamp> {
        let mut day = time.to_zoned(self.zone.clone()).date();
        for _ in 0..DAYS_MAX {
            if self.is_day(day) {
                let later = self.of_day(day)?.into_iter().filter(|at| *at > time);
                if let Some(first) = later.min() {
                    return Some(first);
                }
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    /// The moments of a day, in the order of its clock; which is not always that of time.
    fn of_day(&self, day: Date) -> Option<Vec<Timestamp>> {
        let minutes = (0..24 * 60).filter(|m| self.hours.has(m / 60) && self.minutes.has(m % 60));
        let mut moments = Vec::new();
        for minute in minutes {
            let (hour, minute) = (minute / 60, minute % 60);
            let (hour, minute) = (i8::try_from(hour).ok()?, i8::try_from(minute).ok()?);
            let on_clock = day.at(hour, minute, 0, 0);
            let at = self.zone.to_ambiguous_zoned(on_clock);
            if matches!(at.offset(), AmbiguousOffset::Fold { .. }) && !self.hours.restricted {
                moments.push(at.clone().later().ok()?.timestamp());
            }
            moments.push(at.compatible().ok()?.timestamp());
        }
        Some(moments)
    }

    /// The last moment after `since` that is not after `now`, and how many there were; more
    /// than [`MISSED_MAX`] are not counted.
    pub fn missed(&self, since: Timestamp, now: Timestamp) -> Option<(Timestamp, u64)> {
        let (last, n) = self.within(since, now, MISSED_MAX)?;
        if n < MISSED_MAX {
            return Some((last, n));
        }
        let near = [1, 24, 24 * 366].into_iter().find_map(|hours: i64| {
            let from = now.checked_sub(hours.hours()).ok()?;
            self.within(from.max(since), now, u64::MAX)
        });
        Some((near.map_or(last, |(last, _)| last), n))
    }

    /// The last of the first `most` moments after `since` and not after `now`, and how many.
    fn within(&self, since: Timestamp, now: Timestamp, most: u64) -> Option<(Timestamp, u64)> {
        let (mut at, mut n) = (since, 0);
        while n < most {
            match self.after(at).filter(|next| *next <= now) {
                Some(next) => (at, n) = (next, n + 1),
                None => break,
            }
        }
        (n > 0).then_some((at, n))
    }

    /// The bounds of `span` before the moment `due`, as a report's period has them.
    pub fn period(&self, span: &Span, due: Timestamp) -> Option<String> {
        let unit = match span {
            Span::Last(text) => return last(text, due),
            Span::Previous(unit) => *unit,
        };
        let today = due.to_zoned(self.zone.clone()).date();
        let end = first_of(unit, today)?;
        let begin = first_of(unit, end.yesterday().ok()?)?;
        let moment = |day: Date| {
            let at = day.to_zoned(self.zone.clone()).ok()?;
            Some(format!("{:.6}", at.timestamp()))
        };
        Some(format!("since:{} until:{}", moment(begin)?, moment(end)?))
    }

    fn is_day(&self, day: Date) -> bool {
        let number = |n: i8| u32::try_from(n).unwrap_or_default();
        let weekday = day.weekday().to_sunday_zero_offset();
        let (of_month, of_week) = (
            self.days.has(number(day.day())),
            self.weekdays.has(number(weekday)),
        );
        let fits = match (self.days.restricted, self.weekdays.restricted) {
            (true, true) => of_month || of_week,
            _ => of_month && of_week,
        };
        fits && self.months.has(number(day.month()))
    }
}

impl Span {
    /// Reads `previous-day`, `-week`, `-month`, `-quarter`, `-year`, or `last:7d`.
    ///
    /// # Errors
    /// In words.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::Previous(match text {
            "previous-day" => Unit::Day,
            "previous-week" => Unit::Week,
            "previous-month" => Unit::Month,
            "previous-quarter" => Unit::Quarter,
            "previous-year" => Unit::Year,
            text if last(text, Timestamp::UNIX_EPOCH).is_some() => {
                let epoch_us = Timestamp::UNIX_EPOCH.as_microsecond();
                Period::read(text, epoch_us).map_err(|d| d.message)?;
                return Ok(Self::Last(text.to_owned()));
            }
            text => {
                return Err(format!(
                    "`{text}` is none of previous-day, -week, -month, -quarter, -year and last:7d"
                ));
            }
        }))
    }
}

/// The bounds of `last:LENGTH` before `due`.
fn last(text: &str, due: Timestamp) -> Option<String> {
    let us = crate::query::length_us(text.strip_prefix("last:")?)?;
    let from = due.as_microsecond().checked_sub(us)?;
    let from = Timestamp::from_microsecond(from).ok()?;
    Some(format!("since:{from:.6} until:{due:.6}"))
}

/// The first day of the unit that `day` is in.
fn first_of(unit: Unit, day: Date) -> Option<Date> {
    let month = day.first_of_month();
    match unit {
        Unit::Day => Some(day),
        Unit::Month => Some(month),
        Unit::Quarter => month.checked_sub(((day.month() - 1) % 3).months()).ok(),
        Unit::Week => {
            let since = day.weekday().since(Weekday::Monday);
            day.checked_sub(since.days()).ok()
        }
        Unit::Year => Some(day.first_of_year()),
    }
}

impl Field {
    fn has(self, value: u32) -> bool {
        self.bits >> value & 1 == 1
    }
}

fn field(text: &str, least: u32, most: u32, names: &[&str]) -> Result<Field, String> {
    let bad = || format!("`{text}` is no field of {least} to {most}");
    let value = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let named = names.iter().position(|name| *name == lower);
        let named = named
            .and_then(|at| u32::try_from(at).ok())
            .map(|at| at + least);
        let plain = text
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse().ok());
        let value = named
            .or(plain.flatten())
            .filter(|v| (least..=most).contains(v));
        value.ok_or_else(bad)
    };
    let mut bits = 0_u64;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step = step.parse::<u32>().ok().filter(|s| (1..=most).contains(s));
                (range, step.ok_or_else(bad)?)
            }
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((from, to)) => (value(from)?, value(to)?),
            // `5/10` goes on to the end, as other crons have it.
            None if part.contains('/') => (value(range)?, most),
            None => (value(range)?, value(range)?),
        };
        if from > to {
            return Err(bad());
        }
        for value in (from..=to).step_by(usize::try_from(step).unwrap_or(1)) {
            bits |= 1 << value;
        }
    }
    Ok(Field {
        bits,
        restricted: (least..=most).any(|value| bits >> value & 1 == 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn check(cron: &str, after: &str, expected: &str) {
        let cron = Cron::parse(cron, "UTC").unwrap();
        assert_eq!(cron.after(at(after)), Some(at(expected)), "{cron:?}");
    }

    #[test]
    fn the_next_moment_is_the_first_that_every_field_has() {
        check("0 6 * * *", "2026-11-29T06:00:00Z", "2026-11-30T06:00:00Z");
        check("0 6 * * *", "2026-11-29T05:59:59Z", "2026-11-29T06:00:00Z");
        check(
            "*/15 * * * *",
            "2026-11-29T05:46:00Z",
            "2026-11-29T06:00:00Z",
        );
        check("30 2 1 * *", "2026-11-29T00:00:00Z", "2026-12-01T02:30:00Z");
        check(
            "0 0 29 feb *",
            "2026-11-29T00:00:00Z",
            "2028-02-29T00:00:00Z",
        );
        check(
            "0 7 * * mon-fri",
            "2026-11-27T08:00:00Z",
            "2026-11-30T07:00:00Z",
        );
        check("0 7 * * 7", "2026-11-27T08:00:00Z", "2026-11-29T07:00:00Z");
        // Day or weekday, where both are restricted.
        check(
            "0 0 13 * fri",
            "2026-11-01T00:00:00Z",
            "2026-11-06T00:00:00Z",
        );
        check(
            "0 9,17 * 1,7 *",
            "2026-11-29T00:00:00Z",
            "2027-01-01T09:00:00Z",
        );
        check(
            "10/20 0 * * *",
            "2026-11-29T00:10:00Z",
            "2026-11-29T00:30:00Z",
        );
    }

    /// What a schedule gives in a zone between two moments.
    fn within(cron: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
        let cron = Cron::parse(cron, zone).unwrap();
        let (mut time, to) = (at(from), at(to));
        let mut all = Vec::new();
        while let Some(next) = cron.after(time).filter(|next| *next <= to) {
            all.push(format!("{next:.0}")[11..16].to_owned());
            time = next;
        }
        all
    }

    /// Summer begins in Berlin on 2026-03-29 at 01:00 UTC and ends on 2026-10-25 at 01:00
    /// UTC; on Lord Howe it is half an hour, and ends on 2026-04-04 at 15:00 UTC.
    #[test]
    fn a_time_that_a_day_has_twice_or_not_at_all_is_one() {
        let (berlin, spring) = ("Europe/Berlin", "2026-03-29T00:00:00Z");
        let autumn = "2026-10-24T23:00:00Z";
        let spring = |cron| within(cron, berlin, spring, "2026-03-29T03:00:00Z");
        assert_eq!(spring("30 2 * * *"), ["01:30"]);
        assert_eq!(spring("30 * * * *"), ["00:30", "01:30", "02:30"]);
        let autumn = |cron| within(cron, berlin, autumn, "2026-10-25T02:45:00Z");
        assert_eq!(autumn("30 2 * * *"), ["00:30"]);
        assert_eq!(autumn("30 * * * *"), ["23:30", "00:30", "01:30", "02:30"]);
        assert_eq!(
            autumn("*/30 2-3 * * *"),
            ["00:00", "00:30", "02:00", "02:30"]
        );
        let island = |cron, from, to| within(cron, "Australia/Lord_Howe", from, to);
        let (from, to) = ("2026-04-04T14:00:00Z", "2026-04-04T16:30:00Z");
        assert_eq!(
            island("*/30 * * * *", from, to),
            ["14:30", "15:00", "15:30", "16:00", "16:30"]
        );
        assert_eq!(island("45 1 * * *", from, to), ["14:45"]);
        // It begins on 2026-10-03 at 15:30 UTC.
        let (from, to) = ("2026-10-03T15:00:00Z", "2026-10-03T16:31:00Z");
        assert_eq!(island("15 2 * * *", from, to), ["15:45"]);
        assert_eq!(island("*/15 2 * * *", from, to), ["15:30", "15:45"]);
    }

    #[test]
    fn a_step_restricts_a_field() {
        // The 1st, the 3rd and so on, or a Monday.
        check(
            "0 0 */2 * mon",
            "2026-11-29T00:00:00Z",
            "2026-11-30T00:00:00Z",
        );
        check(
            "0 0 */2 * mon",
            "2026-11-30T00:00:00Z",
            "2026-12-01T00:00:00Z",
        );
        check(
            "0 0 1-31 * mon",
            "2026-11-30T00:00:00Z",
            "2026-12-07T00:00:00Z",
        );
    }

    #[test]
    fn what_is_no_cron_is_refused() {
        for bad in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 *",
            "* * * * 8",
            "*/0 * * * *",
            "5-1 * * * *",
            "a * * * *",
            "-1 * * * *",
            "1,,2 * * * *",
            "+1 * * * *",
            "0 0 30 feb *",
        ] {
            assert!(Cron::parse(bad, "UTC").is_err(), "{bad}");
        }
        assert!(Cron::parse("* * * * *", "Mars/Olympus").is_err());
    }

    #[test]
    fn many_missed_moments_are_one_with_their_number() {
        let cron = Cron::parse("0 * * * *", "UTC").unwrap();
        let missed = |since: &str, now: &str| cron.missed(at(since), at(now));
        assert_eq!(missed("2026-11-29T05:00:00Z", "2026-11-29T05:59:59Z"), None);
        assert_eq!(
            missed("2026-11-29T05:00:00Z", "2026-11-29T09:30:00Z"),
            Some((at("2026-11-29T09:00:00Z"), 4))
        );
        let cron = Cron::parse("*/2 * * * *", "UTC").unwrap();
        let missed = cron.missed(at("2025-11-29T05:00:00Z"), at("2026-11-29T09:31:00Z"));
        assert_eq!(missed, Some((at("2026-11-29T09:30:00Z"), MISSED_MAX)));
    }

    #[test]
    fn a_period_is_the_whole_unit_before() {
        let cron = Cron::parse("0 6 * * *", "UTC").unwrap();
        let due = at("2026-11-29T06:00:00Z");
        let of = |span: &str| cron.period(&Span::parse(span).unwrap(), due).unwrap();
        let days = |from: &str, to: &str| {
            format!("since:{from}T00:00:00.000000Z until:{to}T00:00:00.000000Z")
        };
        assert_eq!(of("previous-day"), days("2026-11-28", "2026-11-29"));
        assert_eq!(of("previous-week"), days("2026-11-16", "2026-11-23"));
        assert_eq!(of("previous-month"), days("2026-10-01", "2026-11-01"));
        assert_eq!(of("previous-quarter"), days("2026-07-01", "2026-10-01"));
        assert_eq!(of("previous-year"), days("2025-01-01", "2026-01-01"));
        for span in ["previous-day", "previous-year", "last:7d"] {
            Period::read(&of(span), due.as_microsecond()).unwrap();
        }
        for bad in [
            "",
            "previous",
            "previous-century",
            "last:",
            "last:soon",
            "last:401d",
            "2026-11",
        ] {
            assert!(Span::parse(bad).is_err(), "{bad}");
        }
    }
}
