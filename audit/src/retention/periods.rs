//! How long records of each class are kept, as it is written.

use std::collections::BTreeMap;

use jiff::{Span, Timestamp, tz::TimeZone};
use palisade_mesh::diagnostic::Diagnostic;

use crate::query::field::CLASSES;

/// Shortest period, in days, a month counted as 28: a record that a spool brings so late
/// still finds what belongs to it, and both sides of a request are there to be compared.
pub const PERIOD_DAYS_MIN: i64 = 31;

/// Longest period, in days, a year counted as 366.
pub const PERIOD_DAYS_MAX: i64 = 100 * 366;

/// Classes that are always kept: they say what else is in the log, what is missing from it,
/// and what was dropped or erased.
pub const ALWAYS_KEPT: [&str; 4] = ["log_lifecycle", "stream_head", "stream_heads", "erasure"];

/// Classes of which the second is kept no shorter than the first: what is asked of the first
/// is answered from both.
const TOGETHER: (&str, &str) = ("decision", "outcome");

/// 2101-01-01T00:00:00Z, after a year without a leap day.
const FIXED_S: i64 = 4_133_980_800;

/// How long records of each class are kept.
#[derive(Debug, Clone, Default)]
pub struct Periods(BTreeMap<&'static str, Period>);

/// A period, as it was written.
#[derive(Debug, Clone)]
struct Period {
    span: Span,
    text: String,
}

impl Periods {
    /// Reads what is written, by class: `13 months`.
    ///
    /// # Errors
    /// `PLS7574` for each period that is none, is out of range, is of a class that is always
    /// kept, or lets outcomes go before their decisions.
    pub fn parse<'t>(
        written: impl IntoIterator<Item = (&'static str, &'t str)>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let mut periods = BTreeMap::new();
        let mut found = Vec::new();
        for (class, text) in written {
            let period = match CLASSES.contains(&class) && !ALWAYS_KEPT.contains(&class) {
                true => period(class, text),
                false => Err(
                    Diagnostic::error(7574, format!("`{class}` is kept for ever"))
                        .help("the check of the log rests on it; leave it out"),
                ),
            };
            match period {
                Ok(period) => drop(periods.insert(class, period)),
                Err(mistake) => found.push(mistake),
            }
        }
        let (first, second) = TOGETHER;
        if let Some(short) = periods.get(second)
            && periods
                .get(first)
                .is_none_or(|long| seconds(&short.span) < seconds(&long.span))
            && found.is_empty()
        {
            let kept = periods.get(first).map_or("ever", |long| &long.text);
            let told = format!(
                "`{second}` is kept for {}, `{first}` for {kept}",
                short.text
            );
            found.push(
                Diagnostic::error(7574, told)
                    .cause(format!(
                        "what is asked of a {first} is answered from its {second}, too"
                    ))
                    .help(format!(
                        "give {second} the period of {first} or a longer one"
                    )),
            );
        }
        match found.is_empty() {
            true => Ok(Self(periods)),
            false => Err(found),
        }
    }

    /// Whether everything is kept for ever.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each class that is not kept for ever, with its period as it was written.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0
            .iter()
            .map(|(class, period)| (*class, period.text.as_str()))
    }

    /// The period of `class`, as it was written.
    pub fn of(&self, class: &str) -> Option<&str> {
        self.0.get(class).map(|period| period.text.as_str())
    }

    /// The moment, microseconds since the Unix epoch, such that the time of what was received
    /// before it is over; none for a class that is kept for ever.
    pub fn over_before_us(&self, class: &str, now: Timestamp) -> Option<i64> {
        let period = self.0.get(class)?;
        let now = now.to_zoned(TimeZone::UTC);
        // Before all time, nothing is over.
        let moment = now.checked_sub(period.span).ok()?;
        Some(moment.timestamp().as_microsecond())
    }
}

/// Reads a span of whole days, such as `13 months`; none for what is no such span.
pub(crate) fn whole_days(text: &str) -> Option<Span> {
    let span: Option<Span> = text.parse().ok();
    span.filter(|span| {
        let hours = span.get_hours() != 0 || span.get_minutes() != 0 || span.get_seconds() != 0;
        let less = span.get_milliseconds() != 0
            || span.get_microseconds() != 0
            || span.get_nanoseconds() != 0;
        !hours && !less && !span.is_negative()
    })
}

fn period(class: &str, text: &str) -> Result<Period, Diagnostic> {
    let help = "a whole number of days, weeks, months or years: `13 months`, `7y`";
    let Some(span) = whole_days(text) else {
        let told = format!("`{class}` cannot be kept for `{text}`");
        return Err(Diagnostic::error(7574, told).help(help));
    };
    let told = format!("`{class}` cannot be kept for `{text}`, out of range");
    match days(&span) {
        ..PERIOD_DAYS_MIN => Err(Diagnostic::error(7574, told)
            .cause(format!(
                "a spool may bring records {PERIOD_DAYS_MIN} days late, and they must find what belongs to them"
            ))
            .help(format!("{PERIOD_DAYS_MIN} days or more; a month counts as 28 here"))),
        PERIOD_DAYS_MIN..=PERIOD_DAYS_MAX => Ok(Period {
            span,
            text: text.trim().to_owned(),
        }),
        _ => Err(Diagnostic::error(7574, told)
            .help("at most 100 years; what is not named is kept for ever")),
    }
}

/// How many days a period has, as it was written; in a year with a leap day one more counts
/// for it.
pub(crate) fn days_of(period: &str) -> Option<i64> {
    let span: Span = period.parse().ok()?;
    let years = i64::from(span.get_years()) + i64::from(span.get_months()) / 12;
    let leap_days = if years > 0 { years / 4 + 1 } else { 0 };
    Some(seconds(&span) / 86_400 + leap_days)
}

/// How many days a span has at least.
fn days(span: &Span) -> i64 {
    let (years, months) = (i64::from(span.get_years()), i64::from(span.get_months()));
    years * 365 + months * 28 + i64::from(span.get_weeks()) * 7 + i64::from(span.get_days())
}

/// How long a span is before a fixed moment, to tell which of two is longer.
fn seconds(span: &Span) -> i64 {
    let fixed = Timestamp::from_second(FIXED_S).unwrap_or_default();
    let before = fixed.to_zoned(TimeZone::UTC).checked_sub(*span);
    before.map_or(i64::MAX, |before| FIXED_S - before.timestamp().as_second())
}
