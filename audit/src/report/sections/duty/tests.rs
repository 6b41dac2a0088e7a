//! What came up and who answered for it, and what was done with personal data.

use palisade_mesh::wire::record::{
    Admin, Alert, AuditRead, Decision, Erasure, Peer, Verdict, record::Body,
};
use ulid::Ulid;

use super::{
    super::seeded::{AUDIT, MINUTE, SECOND, Seeded, cells, figures, section},
    ALERTS_MAX,
};
use crate::{
    report::{Report, model::Section},
    testing::REPORTER,
};

const ALERT_COLUMNS: [&str; 9] = [
    "time",
    "rule",
    "severity",
    "for",
    "records",
    "answered by",
    "answered",
    "after",
    "why",
];

fn firing(n: u64) -> Vec<u8> {
    Ulid::from_parts(n, 5).to_bytes().to_vec()
}

/// That the rule of this name was met, for `group`.
fn fired(n: u64, rule: &str, group: &str, count: u64) -> Body {
    Body::Alert(Alert {
        verb: "fired".into(),
        rule: rule.into(),
        severity: "high".into(),
        group: group.into(),
        count,
        threshold: 3,
        firing: firing(n),
        ..Alert::default()
    })
}

/// That somebody answered for it.
fn answered(n: u64, rule: &str, actor: &str, why: &str) -> Body {
    Body::Alert(Alert {
        verb: "acknowledged".into(),
        rule: rule.into(),
        severity: "high".into(),
        actor: actor.into(),
        detail: why.into(),
        firing: firing(n),
        ..Alert::default()
    })
}

fn alerts(report: &Report) -> &Section {
    section(report, "alerts")
}

/// Alerts of the period and what was open at its beginning, the unanswered first and each the
/// oldest first; the first answer counts, as long as it is of the period and the log's own.
#[tokio::test]
async fn alerts_are_joined_with_their_answers() {
    let mut seeded = Seeded::new();
    let words = "load test, \"planned\" | <b>of ana</b>\n=1+1";
    let hour = 60 * MINUTE;
    for (us, n, rule, group, count) in [
        (50 * MINUTE, 1, "refusals", "web", 3),
        (40 * MINUTE, 2, "refusals", "orders", 4),
        (30 * MINUTE, 3, "late", "", 5),
        (10 * MINUTE, 4, "late", "", 6),
        // Of the time before: answered in the period, answered before it, never.
        (hour + 30 * MINUTE, 5, "before", "", 7),
        (hour + 20 * MINUTE, 6, "settled", "", 8),
        (hour + 40 * MINUTE, 7, "forgotten", "", 9),
        // Longer ago than is looked.
        (2 * hour + 10 * MINUTE, 8, "ancient", "", 10),
    ] {
        seeded.ago(us, AUDIT, fired(n, rule, group, count));
    }
    seeded.ago(
        49 * MINUTE,
        AUDIT,
        answered(1, "refusals", "uid:1000", words),
    );
    seeded.ago(
        30 * MINUTE,
        AUDIT,
        answered(2, "refusals", "uid:1", "first"),
    );
    seeded.ago(
        20 * MINUTE,
        AUDIT,
        answered(2, "refusals", "uid:2", "again"),
    );
    // After the period, and by whom it is not.
    seeded.ago(-2 * MINUTE, AUDIT, answered(4, "late", "uid:1", "too late"));
    seeded.ago(MINUTE, REPORTER, answered(3, "late", "uid:1", "forged"));
    seeded.ago(MINUTE, REPORTER, fired(9, "forged", "", 1));
    seeded.ago(5 * MINUTE, AUDIT, answered(5, "before", "uid:1", "seen"));
    seeded.ago(
        hour + 10 * MINUTE,
        AUDIT,
        answered(6, "settled", "uid:1", ""),
    );
    seeded.ago(3 * MINUTE, AUDIT, answered(8, "ancient", "uid:1", ""));
    let report = seeded.made("digest").await;

    let time = |minutes: i64| seeded.time(minutes * MINUTE);
    let open = |time, rule, records| [time, rule, "high", "", records, "", "", "", ""];
    let (forgotten, late, later) = (time(100), time(30), time(10));
    let (before, seen) = (time(90), time(5));
    let (web, of_web, orders, of_orders) = (time(50), time(49), time(40), time(30));
    assert_eq!(
        cells(alerts(&report), ALERT_COLUMNS),
        [
            open(forgotten.as_str(), "forgotten", "9"),
            open(late.as_str(), "late", "5"),
            open(later.as_str(), "late", "6"),
            [
                before.as_str(),
                "before",
                "high",
                "",
                "7",
                "uid:1",
                &seen,
                "85m",
                "seen"
            ],
            [
                web.as_str(),
                "refusals",
                "high",
                "web",
                "3",
                "uid:1000",
                &of_web,
                "60s",
                words
            ],
            [
                orders.as_str(),
                "refusals",
                "high",
                "orders",
                "4",
                "uid:1",
                &of_orders,
                "10m",
                "first"
            ],
        ]
    );
    assert_eq!(
        figures(alerts(&report)),
        [
            ("met in the period", "4"),
            ("answered for", "3"),
            ("median time to an answer", "10m"),
            ("longest time to an answer", "85m"),
            ("open at the end", "3"),
            ("the oldest open since", &forgotten),
        ]
    );
}

/// Of an even number of answers the median is between the two in the middle.
#[tokio::test]
async fn the_median_of_an_even_number_of_answers_is_between_two() {
    let of = async |waits: &[i64]| {
        let mut seeded = Seeded::new();
        for (n, wait) in (1..).zip(waits) {
            seeded.ago(50 * MINUTE, AUDIT, fired(n, "any", "", 3));
            seeded.ago(50 * MINUTE - wait, AUDIT, answered(n, "any", "uid:1", ""));
        }
        let report = seeded.made("digest").await;
        let figures = figures(alerts(&report));
        [figures[2].1.to_owned(), figures[3].1.to_owned()]
    };
    assert_eq!(of(&[7 * SECOND]).await, ["7s", "7s"]);
    assert_eq!(of(&[MINUTE, 9 * MINUTE]).await, ["5m", "9m"]);
    let four = [40 * MINUTE, 3 * MINUTE, 10 * SECOND, MINUTE];
    assert_eq!(of(&four).await, ["2m", "40m"]);
    let three = [40 * MINUTE, 10 * SECOND, MINUTE];
    assert_eq!(of(&three).await, ["60s", "40m"]);
}

/// The clock of the log was set back between an alert and its answer: it is answered all the
/// same, and after no time.
#[tokio::test]
async fn an_answer_counts_though_the_clock_was_set_back() {
    let mut seeded = Seeded::new();
    seeded.ago(10 * MINUTE, AUDIT, fired(1, "any", "", 3));
    seeded.ago(12 * MINUTE, AUDIT, answered(1, "any", "uid:1", "back"));
    let report = seeded.made("digest").await;
    let rows = cells(alerts(&report), ["answered by", "after", "why"]);
    assert_eq!(rows, [["uid:1", "0s", "back"]]);
    let figures = figures(alerts(&report));
    assert_eq!(
        figures[1..5].iter().map(|f| f.1).collect::<Vec<_>>(),
        ["1", "0s", "0s", "0"]
    );
}

/// A period without alerts has no median, and nothing is open since a time.
#[tokio::test]
async fn without_alerts_there_is_no_time_to_an_answer() {
    let report = Seeded::new().made("digest").await;
    assert_eq!(cells(alerts(&report), ALERT_COLUMNS), [[""; 9]; 0]);
    assert_eq!(
        figures(alerts(&report)),
        [
            ("met in the period", "0"),
            ("answered for", "0"),
            ("median time to an answer", "–"),
            ("longest time to an answer", "–"),
            ("open at the end", "0"),
            ("the oldest open since", "–"),
        ]
    );
    let undelivered = section(&report, "undelivered");
    assert_eq!(figures(undelivered), [("records", "0")]);
    assert_eq!(
        cells(undelivered, ["time", "object", "detail"]),
        [[""; 3]; 0]
    );
}

/// Beyond as many records as are read nothing is said: an alert whose answer was not read is
/// not one that nobody answered for.
#[tokio::test]
async fn an_alert_is_not_open_because_its_answer_was_not_read() {
    let mut seeded = Seeded::new();
    seeded.ago(70 * MINUTE, AUDIT, fired(0, "answered", "", 3));
    seeded.ago(50 * MINUTE, AUDIT, answered(0, "answered", "uid:1", ""));
    for n in 1..=ALERTS_MAX as u64 {
        seeded.ago(10 * MINUTE, AUDIT, fired(n, "many", "", 3));
    }
    let report = seeded.made("digest").await;
    let alerts = alerts(&report);
    let table = alerts.table.as_ref().unwrap();
    assert_eq!(table.total, ALERTS_MAX as u64);
    assert!(table.rows.iter().all(|row| row[1] == "many"));
    assert_eq!(figures(alerts)[4], ("open at the end", "10000"));
    let told = alerts
        .cannot_show
        .iter()
        .any(|c| c.contains("the newest 10,000"));
    assert!(told, "{:#?}", alerts.cannot_show);
}

/// What was given up is told by the log alone, the newest first.
#[tokio::test]
async fn messages_that_were_given_up_are_named() {
    let mut seeded = Seeded::new();
    let given_up = |object: &str, detail: &str| {
        Body::Admin(Admin {
            actor: AUDIT.into(),
            verb: "undelivered".into(),
            object: object.into(),
            detail: detail.into(),
        })
    };
    seeded.ago(
        9 * MINUTE,
        AUDIT,
        given_up("pager", "not taken within a day"),
    );
    seeded.ago(
        5 * MINUTE,
        AUDIT,
        given_up("ops", "the target is gone, \"ops\""),
    );
    seeded.ago(4 * MINUTE, REPORTER, given_up("forged", ""));
    seeded.ago(61 * MINUTE, AUDIT, given_up("before", ""));
    let report = seeded.made("digest").await;
    let undelivered = section(&report, "undelivered");
    assert_eq!(figures(undelivered), [("records", "2")]);
    let (pager, ops) = (seeded.time(9 * MINUTE), seeded.time(5 * MINUTE));
    assert_eq!(
        cells(undelivered, ["time", "object", "detail"]),
        [
            [ops.as_str(), "ops", "the target is gone, \"ops\""],
            [pager.as_str(), "pager", "not taken within a day"],
        ]
    );
}

/// A request for an action of a service, and how it was decided.
fn request(verdict: Verdict, caller: &str, service: &str, action: &str) -> Body {
    Body::Decision(Decision {
        verdict: verdict.into(),
        principal: Some(Peer {
            spiffe_id: caller.into(),
            ..Peer::default()
        }),
        service: service.into(),
        action: action.into(),
        ..Decision::default()
    })
}

/// What was allowed is counted by what processed it and by who received it, the most first;
/// what was denied is neither.
#[tokio::test]
async fn processing_and_recipients_are_of_what_was_allowed() {
    let (web, other) = (REPORTER, "spiffe://other.test/ns/bank/sa/app");
    let (orders, people) = ("acme.test/shop/orders", "acme.test/shop/people");
    let mut seeded = Seeded::new();
    for (minutes, verdict, caller, service, action) in [
        (50, Verdict::Allow, web, orders, "orders:read"),
        (40, Verdict::Allow, web, orders, "orders:read"),
        (30, Verdict::Allow, other, orders, "orders:read"),
        (20, Verdict::Allow, other, people, "people:list"),
        (10, Verdict::Allow, web, people, "people:list"),
        (9, Verdict::Allow, web, people, "people:list"),
        (8, Verdict::Allow, web, people, "people:list"),
        (7, Verdict::Forbidden, other, people, "people:erase"),
        (6, Verdict::Undecided, other, people, "people:list"),
        // No operation was matched.
        (5, Verdict::Allow, web, orders, ""),
        (61, Verdict::Allow, web, orders, "orders:before"),
    ] {
        seeded.ago(
            minutes * MINUTE,
            web,
            request(verdict, caller, service, action),
        );
    }
    let report = seeded.made("personal-data").await;
    let time = |minutes: i64| seeded.time(minutes * MINUTE);
    let of = ["service", "action", "count", "first", "last"];
    let processing = section(&report, "processing");
    assert_eq!(
        cells(processing, of),
        [
            [people, "people:list", "4", &time(20), &time(8)],
            [orders, "orders:read", "3", &time(50), &time(30)],
        ]
    );
    assert_eq!(
        figures(processing),
        [
            ("records without one of the fields", "1"),
            ("allowed requests", "8"),
        ]
    );
    let bars = processing.chart.as_ref().unwrap().points.iter();
    let bars: Vec<_> = bars.map(|p| (p.label.as_str(), p.values[0])).collect();
    let labels = [
        format!("{people} · people:list"),
        format!("{orders} · orders:read"),
    ];
    assert_eq!(bars, [(labels[0].as_str(), 4), (labels[1].as_str(), 3)]);

    let recipients = section(&report, "recipients");
    assert_eq!(
        figures(recipients),
        [("pairs of service and recipient", "4")]
    );
    let of = ["service", "principal", "count", "first", "last"];
    let rows = cells(recipients, of);
    assert_eq!(rows.len(), 4, "{rows:#?}");
    for expected in [
        [orders, web, "3", &time(50), &time(5)],
        [people, web, "3", &time(10), &time(8)],
        [orders, other, "1", &time(30), &time(30)],
        [people, other, "1", &time(20), &time(20)],
    ] {
        assert!(rows.contains(&expected), "{expected:?}: {rows:#?}");
    }
    let counts: Vec<&str> = rows.iter().map(|row| row[2]).collect();
    assert_eq!(counts, ["3", "3", "1", "1"]);
}

/// Who was erased stands there under a pseudonym, the newest first; who read what beside it.
#[tokio::test]
async fn erasures_and_reads_are_listed() {
    let mut seeded = Seeded::new();
    let erased = |subject: &str, detail: &str| {
        Body::Erasure(Erasure {
            subject: subject.into(),
            detail: detail.into(),
            actor: "uid:1000".into(),
        })
    };
    let (one, two) = ("aa".repeat(16), "bb".repeat(16));
    seeded.ago(
        9 * MINUTE,
        AUDIT,
        erased(&one, "asked on 2026-11-02, ticket 4711"),
    );
    seeded.ago(8 * MINUTE, AUDIT, erased(&two, ""));
    seeded.ago(61 * MINUTE, AUDIT, erased(&one, "before"));
    let read = |verb: &str, query: &str, rows, verdict: Verdict| {
        Body::AuditRead(AuditRead {
            actor: "uid:1000".into(),
            verb: verb.into(),
            query: query.into(),
            rows,
            verdict: verdict.into(),
            ..AuditRead::default()
        })
    };
    let query = "path:\"/a,b\" <i>";
    seeded.ago(7 * MINUTE, AUDIT, read("search", query, 12, Verdict::Allow));
    seeded.ago(
        6 * MINUTE,
        AUDIT,
        read("refused", "class:*", 0, Verdict::NotPermitted),
    );
    // The decision APIs leave no verb and no verdict.
    seeded.ago(5 * MINUTE, REPORTER, read("", "", 3, Verdict::Unspecified));
    let report = seeded.made("personal-data").await;
    let time = |minutes: i64| seeded.time(minutes * MINUTE);
    let erasures = section(&report, "erasures");
    assert_eq!(figures(erasures), [("records", "2")]);
    assert_eq!(
        cells(erasures, ["time", "subject", "detail", "reporter"]),
        [
            [time(8).as_str(), two.as_str(), "", AUDIT],
            [
                time(9).as_str(),
                one.as_str(),
                "asked on 2026-11-02, ticket 4711",
                AUDIT
            ],
        ]
    );
    let reads = section(&report, "audit-reads");
    assert_eq!(figures(reads), [("records", "3")]);
    let of = [
        "time", "actor", "verb", "query", "rows", "decision", "reporter",
    ];
    assert_eq!(
        cells(reads, of),
        [
            [time(5).as_str(), "uid:1000", "", "", "3", "", REPORTER],
            [
                time(6).as_str(),
                "uid:1000",
                "refused",
                "class:*",
                "0",
                "not_permitted",
                AUDIT
            ],
            [
                time(7).as_str(),
                "uid:1000",
                "search",
                query,
                "12",
                "allow",
                AUDIT
            ],
        ]
    );
}

/// Where nothing was processed, nothing is counted and nothing drawn.
#[tokio::test]
async fn a_period_without_requests_has_no_recipients() {
    let report = Seeded::new().made("personal-data").await;
    let processing = section(&report, "processing");
    assert_eq!(figures(processing), [("allowed requests", "0")]);
    assert_eq!(
        cells(processing, ["service", "action", "count"]),
        [[""; 3]; 0]
    );
    assert!(processing.chart.as_ref().unwrap().points.is_empty());
    let recipients = section(&report, "recipients");
    assert_eq!(
        figures(recipients),
        [("pairs of service and recipient", "0")]
    );
    for id in ["erasures", "audit-reads"] {
        assert_eq!(figures(section(&report, id)), [("records", "0")], "{id}");
    }
}
