//! What was used, as a reviewer reads it.

use palisade_mesh::{
    clock::Clock,
    wire::record::{Decision, Peer, Record, Verdict, record::Body},
};
use prost::Message as _;

use super::super::seeded::{MINUTE, Seeded, cells, figures, section};
use crate::{
    query::TOP_MAX,
    report::{Report, package::tests::Stage},
    stream::new_ulid,
    testing::REPORTER,
};

/// An allowed request for this action on this route, permitted by this policy.
fn allowed(action: &str, route: &str, policy: &str) -> Record {
    Record {
        id: new_ulid(&Clock::system()).to_bytes().to_vec(),
        time_us: Clock::system().now_us() - 60_000_000,
        reporter: REPORTER.into(),
        body: Some(Body::Decision(Decision {
            verdict: Verdict::Allow.into(),
            reason: "permitted".into(),
            enforced: true,
            principal: Some(Peer {
                spiffe_id: "spiffe://acme.test/ns/shop/sa/web".into(),
                ..Peer::default()
            }),
            service: "acme.test/shop/orders".into(),
            action: action.into(),
            route: route.into(),
            policies: vec![policy.into()],
            ..Decision::default()
        })),
        ..Record::default()
    }
}

fn review(report: &Report, name: &str) -> Vec<(String, String)> {
    let section = report.sections.iter().find(|s| s.id == "access-in-use");
    let table = section.unwrap().table.as_ref().unwrap();
    let place = |name: &str| table.columns.iter().position(|c| c.name == name).unwrap();
    let (policy, column) = (place("policy"), place(name));
    let mut rows: Vec<_> = table
        .rows
        .iter()
        .map(|row| (row[policy].clone(), row[column].clone()))
        .collect();
    rows.sort();
    rows
}

/// Each policy has what was reached by it alone; what has no route is told as that.
#[tokio::test]
async fn a_review_says_which_actions_and_routes_a_policy_was_used_for() {
    let mut records = vec![
        allowed("orders:read", "/orders/{id}", "read"),
        allowed("orders:read", "/orders", "read"),
        allowed("orders:list", "/orders", "read"),
        allowed("orders:write", "", "write"),
        allowed("orders:read", "", "read"),
    ];
    records.extend((0..5).map(|n| allowed("orders:all", &format!("/{n}"), "all")));
    let records = records.into_iter().map(|r| r.encode_to_vec().into());
    let report = Stage::of(records).await.made("access-review").0;
    let of = |rows: [(&str, &str); 3]| rows.map(|(p, v)| (p.to_owned(), v.to_owned()));
    assert_eq!(
        review(&report, "routes"),
        of([
            ("all", "/0, /1, /2 and 2 more"),
            ("read", "/orders, /orders/{id}, none"),
            ("write", "none")
        ])
    );
    assert_eq!(
        review(&report, "actions"),
        of([
            ("all", "orders:all"),
            ("read", "orders:list, orders:read"),
            ("write", "orders:write")
        ])
    );
}

/// More than can be counted are not passed over in silence.
#[tokio::test]
async fn routes_beyond_the_most_are_told() {
    let busy = (0..TOP_MAX).flat_map(|n| {
        let route = format!("/{n}");
        [allowed("a", &route, "busy"), allowed("a", &route, "busy")]
    });
    let rare = [
        allowed("a", "/rare", "quiet"),
        allowed("a", "/rare", "busy"),
    ];
    let records = busy.chain(rare).map(|r| r.encode_to_vec().into());
    let report = Stage::of(records).await.made("access-review").0;
    let expected = [("busy", "/0, /1, /10 and 997 more, …"), ("quiet", "…")];
    let expected = expected.map(|(p, v)| (p.to_owned(), v.to_owned()));
    assert_eq!(review(&report, "routes"), expected);
    let section = report.sections.iter().find(|s| s.id == "access-in-use");
    let told = &section.unwrap().cannot_show;
    assert!(
        told.iter().any(|c| c.contains("routes beyond")),
        "{told:#?}"
    );
}

const ORDERS: &str = "acme.test/shop/orders";
const STOCK: &str = "acme.test/shop/stock";

fn id(name: &str) -> String {
    format!("spiffe://acme.test/ns/shop/sa/{name}")
}

/// An allowed request; `asserted_by` where a decision API answered.
fn request(caller: &str, service: &str, action: &str, asserted_by: &str) -> Body {
    Body::Decision(Decision {
        verdict: Verdict::Allow.into(),
        principal: Some(Peer {
            spiffe_id: id(caller),
            ..Peer::default()
        }),
        service: service.into(),
        action: action.into(),
        api: if asserted_by.is_empty() {
            ""
        } else {
            "authzen"
        }
        .into(),
        asserted_by: asserted_by.into(),
        ..Decision::default()
    })
}

/// Who asked a decision API on a caller's behalf stands beside what the caller accessed, each once,
/// and beside nothing that a proxy decided about.
#[tokio::test]
async fn who_asserted_a_caller_is_told() {
    let mut seeded = Seeded::new();
    let (edge, portal) = (id("edge"), id("portal"));
    for body in [
        request("web", ORDERS, "orders:read", &portal),
        request("web", ORDERS, "orders:read", &edge),
        request("web", ORDERS, "orders:read", &edge),
        request("web", ORDERS, "orders:read", ""),
        request("web", STOCK, "stock:list", ""),
        request("web", STOCK, "stock:list", ""),
        request("cron", ORDERS, "orders:read", &edge),
    ] {
        seeded.ago(5 * MINUTE, REPORTER, body);
    }
    let denied = request("cron", ORDERS, "orders:read", &portal);
    let Body::Decision(denied) = denied else {
        panic!("no decision")
    };
    let denied = Decision {
        verdict: Verdict::Forbidden.into(),
        ..denied
    };
    seeded.ago(5 * MINUTE, REPORTER, Body::Decision(denied));
    let report = seeded.made("access").await;
    let accessed = section(&report, "who-accessed-what");
    let both = format!("{edge}, {portal}");
    let columns = ["principal", "action", "count", "asserted by"];
    assert_eq!(
        cells(accessed, columns),
        [
            [&id("web"), "orders:read", "4", &both],
            [&id("web"), "stock:list", "2", ""],
            [&id("cron"), "orders:read", "1", &edge],
        ]
    );
}

/// What was used in the hour before the period and not in it, with its last use; what is used in
/// both, or now alone, is not there, nor what was only asked for.
#[tokio::test]
async fn what_was_last_used_before_the_period_is_listed() {
    let mut seeded = Seeded::new();
    for (minutes, caller, service, action) in [
        (119, "web", STOCK, "stock:list"),
        (100, "web", ORDERS, "orders:read"),
        (80, "web", ORDERS, "orders:read"),
        (70, "cron", ORDERS, "orders:read"),
        (10, "web", ORDERS, "orders:write"),
        (5, "cron", ORDERS, "orders:read"),
        // Longer ago than the report looks.
        (125, "cron", STOCK, "stock:list"),
    ] {
        let body = request(caller, service, action, "");
        seeded.ago(minutes * MINUTE, REPORTER, body);
    }
    let Body::Decision(denied) = request("cron", STOCK, "stock:write", "") else {
        panic!("no decision")
    };
    let denied = Decision {
        verdict: Verdict::NotPermitted.into(),
        ..denied
    };
    seeded.ago(65 * MINUTE, REPORTER, Body::Decision(denied));
    let time = |minutes: i64| seeded.time(minutes * MINUTE);
    let report = seeded.made("unused").await;
    let before = section(&report, "used-before-the-period");
    let web = id("web");
    assert_eq!(
        cells(
            before,
            ["caller", "service", "action", "last used", "requests"]
        ),
        [
            [web.as_str(), ORDERS, "orders:read", &time(80), "2"],
            [web.as_str(), STOCK, "stock:list", &time(119), "1"],
        ]
    );
    assert_eq!(
        figures(before),
        [
            ("access in use in the time before the period", "3"),
            ("of this not in the period", "2"),
        ]
    );
    // The log is younger than its records say.
    let told = &before.cannot_show;
    assert!(told[0].contains("before the log begins"), "{told:?}");
}

/// Where more is in use than can be counted, nothing is said to be in use no more, and who asserted
/// callers is not said to be nobody.
#[tokio::test]
async fn what_is_in_use_beyond_the_most_is_not_called_unused() {
    let mut seeded = Seeded::new();
    let edge = id("edge");
    let before = request("web", STOCK, "stock:list", "");
    seeded.ago(70 * MINUTE, REPORTER, before);
    for n in 0..=TOP_MAX {
        let body = request("web", ORDERS, &format!("orders:{n}"), &edge);
        seeded.ago(5 * MINUTE, REPORTER, body);
    }
    // Twice, so that it is the first of the table; a proxy decided about it.
    for _ in 0..2 {
        let body = request("web", STOCK, "stock:write", "");
        seeded.ago(5 * MINUTE, REPORTER, body);
    }
    let report = seeded.made("unused").await;
    let before = section(&report, "used-before-the-period");
    assert_eq!(cells(before, ["action"]), [[""; 1]; 0]);
    assert_eq!(figures(before)[1], ("of this not in the period", "unknown"));
    let told = &before.cannot_show[0];
    assert!(told.contains("nothing is named"), "{told}");
    let report = seeded.made("access").await;
    let accessed = section(&report, "who-accessed-what");
    let table = accessed.table.as_ref().unwrap();
    let column = |name: &str| table.columns.iter().position(|c| c.name == name).unwrap();
    let (action, asserted) = (column("action"), column("asserted by"));
    let [first, second, ..] = table.rows.as_slice() else {
        panic!("{table:#?}")
    };
    assert_eq!((&*first[action], &*first[asserted]), ("stock:write", "–"));
    assert_eq!(second[asserted], format!("{edge}, …"));
}
