//! What was used, as a reviewer reads it.

use palisade_mesh::{
    clock::Clock,
    wire::record::{Decision, Peer, Record, Verdict, record::Body},
};
use prost::Message as _;

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
