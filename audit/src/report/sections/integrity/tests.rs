//! What was lost, how durable records were, whose clock was not believed, what decisions say.

use palisade_mesh::wire::record::{
    AuditMode, Decision, LogLifecycle, Peer, SpoolEvent, Verdict, record::Body,
};

use super::{
    super::seeded::{AUDIT, MINUTE, Seeded, cells, figures, section},
    DAY_US, is_short,
};
use crate::testing::REPORTER;

const OTHER: &str = "spiffe://acme.test/ns/shop/sa/orders";

fn lifecycle(verb: &str, detail: &str) -> Body {
    Body::LogLifecycle(LogLifecycle {
        verb: verb.into(),
        detail: detail.into(),
        ..LogLifecycle::default()
    })
}

/// Declared losses and gaps, the newest first; other words of spools and of the log are none.
#[tokio::test]
async fn declared_losses_and_gaps_are_listed() {
    let mut seeded = Seeded::new();
    let dropped = |strict, spool, best_effort| SpoolEvent {
        verb: "dropped".into(),
        detail: "no room, disk full".into(),
        strict,
        spool,
        best_effort,
        ..SpoolEvent::default()
    };
    let (from, until) = (seeded.time_us(55 * MINUTE), seeded.time_us(52 * MINUTE));
    let timed = SpoolEvent {
        from_us: from,
        until_us: until,
        ..dropped(4, 0, 3)
    };
    seeded.ago(50 * MINUTE, REPORTER, Body::SpoolEvent(timed));
    // One that does not say of which time it is.
    let dropped =
        |strict, spool, best_effort| Body::SpoolEvent(dropped(strict, spool, best_effort));
    seeded.ago(40 * MINUTE, OTHER, dropped(0, 70_000, 0));
    seeded.ago(
        30 * MINUTE,
        AUDIT,
        lifecycle("gap", "web boot 1 worker 0: 5 to 7"),
    );
    seeded.ago(
        20 * MINUTE,
        AUDIT,
        lifecycle("gap_closed", "web boot 1 worker 0: 5 to 7"),
    );
    seeded.ago(10 * MINUTE, AUDIT, lifecycle("recovered", ""));
    let low = SpoolEvent {
        verb: "disk_low".into(),
        ..SpoolEvent::default()
    };
    seeded.ago(5 * MINUTE, REPORTER, Body::SpoolEvent(low));
    seeded.ago(61 * MINUTE, REPORTER, dropped(1, 1, 1));
    let time = |minutes: i64| seeded.time(minutes * MINUTE);
    let gap = "web boot 1 worker 0: 5 to 7";
    let (of_log, of_spool) = ("log_lifecycle", "spool_event");
    let room = "no room, disk full";
    for kind in ["integrity", "digest"] {
        let report = seeded.made(kind).await;
        let losses = section(&report, "losses");
        assert_eq!(
            cells(losses, ["time", "class", "verb", "reporter", "detail"]),
            [
                [time(20).as_str(), of_log, "gap_closed", AUDIT, gap],
                [time(30).as_str(), of_log, "gap", AUDIT, gap],
                [time(40).as_str(), of_spool, "dropped", OTHER, room],
                [time(50).as_str(), of_spool, "dropped", REPORTER, room],
            ]
        );
        let lost = [
            "lost_from",
            "lost_until",
            "dropped_strict",
            "dropped_spool",
            "dropped_best_effort",
        ];
        assert_eq!(
            cells(losses, lost),
            [
                [""; 5],
                [""; 5],
                ["", "", "", "70000", ""],
                [time(55).as_str(), time(52).as_str(), "4", "", "3"],
            ]
        );
        assert_eq!(
            figures(losses),
            [("records", "4"), ("declarations of a loss", "2")]
        );
    }
}

/// Records by mode and class, the most first; those that name no mode are counted and in no
/// row. The share is that of decisions alone.
#[tokio::test]
async fn modes_are_counted_and_the_weak_ones_are_a_share_of_decisions() {
    let mut seeded = Seeded::new();
    let decision = || Body::Decision(Decision::default());
    let modes = [
        (AuditMode::Strict, 4),
        (AuditMode::Spool, 2),
        (AuditMode::BestEffort, 3),
        (AuditMode::Unspecified, 1),
    ];
    for (mode, count) in modes {
        for _ in 0..count {
            seeded.ago(5 * MINUTE, REPORTER, decision()).mode = mode.into();
        }
    }
    let weak = seeded.ago(4 * MINUTE, REPORTER, lifecycle("other", ""));
    weak.mode = AuditMode::BestEffort.into();
    let old = seeded.ago(61 * MINUTE, REPORTER, decision());
    old.mode = AuditMode::BestEffort.into();
    for kind in ["integrity", "zero-trust"] {
        let report = seeded.made(kind).await;
        let modes = section(&report, "modes");
        let rows = cells(modes, ["mode", "class", "count"]);
        assert_eq!(
            rows[..3],
            [
                ["strict", "decision", "4"],
                ["best_effort", "decision", "3"],
                ["spool", "decision", "2"],
            ]
        );
        // The log has begun, which it says itself.
        let opened = ["strict", "log_lifecycle", "1"];
        let other = ["best_effort", "log_lifecycle", "1"];
        assert_eq!(rows.len(), 5, "{rows:?}");
        assert!(rows.contains(&opened) && rows.contains(&other), "{rows:?}");
        assert_eq!(
            figures(modes),
            [
                ("records without one of the fields", "1"),
                ("records", "12"),
                ("decisions in mode best_effort", "3"),
                ("share of all decisions", "30.0 %"),
            ]
        );
    }
}

/// Records whose time is too far from that of their receipt, by reporter: filed under their
/// receipt, they are of the period in which they came.
#[tokio::test]
async fn clocks_that_were_not_believed_are_counted_by_reporter() {
    let day = 24 * 60 * MINUTE;
    let mut seeded = Seeded::new();
    let decision = || Body::Decision(Decision::default());
    seeded.ago(32 * day, REPORTER, decision());
    seeded.ago(-10 * MINUTE, OTHER, decision());
    seeded.ago(-60 * day, OTHER, decision());
    // Believed: old, but not too old; a little ahead.
    seeded.ago(30 * day, REPORTER, decision());
    seeded.ago(-4 * MINUTE, REPORTER, decision());
    seeded.ago(MINUTE, REPORTER, decision());
    let report = seeded.made("integrity").await;
    let clocks = section(&report, "clocks");
    assert_eq!(
        cells(clocks, ["reporter", "count"]),
        [[OTHER, "2"], [REPORTER, "1"]]
    );
    let figure = ("records with a clock that was not believed", "3");
    assert_eq!(figures(clocks), [figure]);
    // Filed under their receipt, which is now.
    for row in cells(clocks, ["first", "last"]) {
        assert!(
            row[0] >= seeded.time(0).as_str() && row[0] <= row[1],
            "{row:?}"
        );
    }
}

/// How many decisions have each detail, out of all of the period.
#[tokio::test]
async fn details_that_decisions_must_have_are_counted_one_by_one() {
    let mut seeded = Seeded::new();
    let whole = Decision {
        verdict: Verdict::Allow.into(),
        principal: Some(Peer {
            spiffe_id: REPORTER.into(),
            ..Peer::default()
        }),
        service: "acme.test/shop/orders".into(),
        resource_id: "acme.test/shop/orders/read".into(),
        source_ip: "10.0.0.1".into(),
        ..Decision::default()
    };
    for decision in [
        whole.clone(),
        whole.clone(),
        Decision {
            principal: None,
            verdict: Verdict::NotPermitted.into(),
            ..whole.clone()
        },
        Decision {
            source_ip: "not an address".into(),
            service: String::new(),
            ..whole.clone()
        },
        Decision::default(),
        Decision::default(),
    ] {
        seeded.ago(5 * MINUTE, REPORTER, Body::Decision(decision));
    }
    seeded.ago(61 * MINUTE, REPORTER, Body::Decision(whole));
    let report = seeded.made("integrity").await;
    let fields = section(&report, "record-fields");
    assert_eq!(figures(fields), [("decisions", "6")]);
    assert_eq!(
        cells(
            fields,
            ["detail", "field", "decisions with it", "decisions", "share"]
        ),
        [
            ["user identification", "principal", "3", "6", "50.0 %"],
            ["type of event", "class", "6", "6", "100.0 %"],
            ["success or failure", "decision", "4", "6", "66.6 %"],
            ["origination", "source", "3", "6", "50.0 %"],
            ["affected component", "service", "3", "6", "50.0 %"],
            ["affected resource", "resource", "4", "6", "66.6 %"],
        ]
    );
}

/// Where nothing was decided nothing has a share, and nothing was lost.
#[tokio::test]
async fn a_period_without_decisions_has_no_shares() {
    let report = Seeded::new().made("integrity").await;
    let fields = section(&report, "record-fields");
    assert_eq!(figures(fields), [("decisions", "0")]);
    let rows = cells(fields, ["decisions with it", "decisions", "share"]);
    assert_eq!(rows, [["0", "0", "–"]; 6]);
    let modes = section(&report, "modes");
    assert_eq!(
        figures(modes),
        [
            ("records", "1"),
            ("decisions in mode best_effort", "0"),
            ("share of all decisions", "–"),
        ]
    );
    let losses = section(&report, "losses");
    assert_eq!(
        figures(losses),
        [("records", "0"), ("declarations of a loss", "0")]
    );
    assert_eq!(cells(losses, ["time", "verb"]), [[""; 2]; 0]);
    let figure = ("records with a clock that was not believed", "0");
    let clocks = section(&report, "clocks");
    assert_eq!(figures(clocks), [figure]);
    assert_eq!(cells(clocks, ["reporter", "count"]), [[""; 2]; 0]);
}

/// What went long before the time that is to be kept does not shorten it, on both sides of
/// the first day of that.
#[test]
fn only_what_went_of_the_time_that_is_to_be_kept_shortens_it() {
    let day = |n: i64| n * DAY_US;
    let to = day(1000);
    // Everything before day 700 is gone, then everything before 635 and one.
    assert!(is_short("60 days", day(760), to, 365));
    assert!(is_short("60 days", day(695) + 1, to, 365));
    assert!(!is_short("60 days", day(695), to, 365));
    assert!(!is_short("60 days", day(200), to, 365));
    assert!(is_short("60 days", day(200), to, 6 * 365));
    // Who keeps for so long keeps, also when it is over long after the period.
    assert!(!is_short("365 days", day(5000), to, 365));
    assert!(is_short("364 days", day(5000), to, 365));
    assert!(is_short("no time", day(200), to, 365));
}
