//! For how long what is kept: what may be written of it, and what is told later.

use std::collections::BTreeSet;

use super::*;
use crate::envelope::class_name;

#[test]
fn periods_are_limited_on_both_sides() {
    let codes = |written: &[(&'static str, &str)]| -> Vec<u16> {
        let found = Periods::parse(written.iter().copied()).err();
        found.iter().flatten().map(|d| d.code.0).collect()
    };
    for good in [
        "31 days",
        "31d",
        "5w",
        "2 months",
        "13 months",
        "7y",
        "100 years",
    ] {
        assert_eq!(codes(&[("decision", good)]), [0_u16; 0], "{good}");
    }
    for bad in [
        "30 days",
        "1 month",
        "4w",
        "101 years",
        "0d",
        "-60 days",
        "60",
        "60 days 3 hours",
        "9000h",
        "",
        "for ever",
    ] {
        assert_eq!(codes(&[("decision", bad)]), [7574], "{bad}");
    }
    // Answers about decisions rest on their outcomes, which may be kept longer and no shorter.
    let with = |decision: &'static str, outcome: &'static str| {
        codes(&[("decision", decision), ("outcome", outcome)])
    };
    assert_eq!(with("1y", "1y"), [0_u16; 0]);
    assert_eq!(with("1y", "11 months"), [7574]);
    // Which is longer is a matter of the calendar, not of 28 days.
    assert_eq!(with("13 months", "1y"), [7574]);
    assert_eq!(with("12 months", "1y"), [0_u16; 0]);
    // What is kept for ever is kept longer than any time.
    assert_eq!(codes(&[("outcome", "1y")]), [7574]);
}

/// The words and the numbers of what is always kept are the same.
#[test]
fn what_is_always_kept_has_no_period() {
    for class in ALWAYS_KEPT {
        let told = Periods::parse([(class, "1y")]).unwrap_err();
        assert_eq!(told[0].code.0, 7574, "{class}");
    }
    let always: BTreeSet<&str> = (0..64)
        .filter(|class| crate::envelope::is_always_kept(*class))
        .map(class_name)
        .collect();
    assert_eq!(always, BTreeSet::from(ALWAYS_KEPT));
    assert!(Periods::parse([("unknown", "1y")]).is_err());
}

/// Months are those of the calendar, and what is not named is never over.
#[test]
fn what_is_over_is_counted_back_from_now() {
    let periods = periods(&[("decision", "13 months")]);
    let now: Timestamp = "2026-03-31T12:00:00Z".parse().unwrap();
    let over: Timestamp = "2025-02-28T12:00:00Z".parse().unwrap();
    assert_eq!(
        periods.over_before_us("decision", now),
        Some(over.as_microsecond())
    );
    assert_eq!(periods.over_before_us("admin", now), None);
}

/// What a run records of itself is read back by reports.
#[test]
fn how_long_records_were_kept_is_told_by_what_was_recorded() {
    let mut stage = Stage::of_old(6);
    stage.hold("h", "path:/old/1");
    stage.clock.advance(301 * DAY);
    stage.fill();
    stage.run();
    let mut told = BTreeSet::new();
    for entry in stage.log().scan(0).map(Result::unwrap) {
        if let Some(Body::LogLifecycle(said)) = entry.record.body
            && said.verb == "records_dropped"
        {
            let owned = |(class, period): (&str, &str)| format!("{class} {period}");
            told.extend(kept_for(&said.detail).map(owned));
        }
    }
    let told: Vec<String> = told.into_iter().collect();
    assert_eq!(
        told,
        ["admin 300 days", "decision 60 days", "outcome 60 days"]
    );
    for (period, days) in [("60 days", 60), ("12 months", 366), ("364 days", 364)] {
        assert_eq!(days_of(period), Some(days), "{period}");
    }
    assert!(days_of("6 years").unwrap() >= 6 * 365 + 2);
    assert_eq!(kept_for("12 records").count(), 0);
}
