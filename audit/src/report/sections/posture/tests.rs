//! Places that identities are used from, and what share of the decisions shows each tenet.

use palisade_mesh::wire::record::{Decision, Peer, Verdict, Versions, record::Body};

use super::super::seeded::{MINUTE, Seeded, cells, figures, section};
use crate::{query::TOP_MAX, testing::REPORTER};

fn id(name: &str) -> String {
    format!("spiffe://acme.test/ns/shop/sa/{name}")
}

/// A request from an address.
fn from(caller: &str, source: &str) -> Body {
    Body::Decision(Decision {
        verdict: Verdict::Allow.into(),
        principal: Some(Peer {
            spiffe_id: caller.into(),
            ..Peer::default()
        }),
        source_ip: source.into(),
        ..Decision::default()
    })
}

/// Each caller once, the most addresses first and by name where these are as many; an address
/// counts once however often it called, and five of them are named.
#[tokio::test]
async fn identities_are_listed_with_the_places_they_are_used_from() {
    let mut seeded = Seeded::new();
    let mut minutes = 1;
    let mut called = |seeded: &mut Seeded, caller: &str, source: &str| {
        minutes += 1;
        seeded.ago(minutes * MINUTE, REPORTER, from(caller, source));
    };
    let (web, batch, pair, lone) = (id("web"), id("batch"), id("pair"), id("lone"));
    for n in (1..=7).rev() {
        called(&mut seeded, &web, &format!("10.0.0.{n}"));
    }
    for source in ["10.1.0.1", "10.1.0.1", "10.1.0.1"] {
        called(&mut seeded, &lone, source);
        called(&mut seeded, &batch, source);
    }
    for source in ["10.2.0.2", "2001:db8::1", "10.2.0.2"] {
        called(&mut seeded, &pair, source);
    }
    // Neither a caller without an identity nor one without an address is one of them.
    called(&mut seeded, "", "10.3.0.1");
    called(&mut seeded, &id("nowhere"), "");
    seeded.ago(61 * MINUTE, REPORTER, from(&lone, "10.9.9.9"));
    let report = seeded.made("hygiene").await;
    let shared = section(&report, "shared-identities");
    let some = "10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5";
    assert_eq!(
        cells(
            shared,
            ["principal", "addresses", "requests", "some of them"]
        ),
        [
            [web.as_str(), "7", "7", some],
            [pair.as_str(), "2", "3", "10.2.0.2, 2001:db8::1"],
            [batch.as_str(), "1", "3", "10.1.0.1"],
            [lone.as_str(), "1", "3", "10.1.0.1"],
        ]
    );
    assert_eq!(
        figures(shared),
        [
            ("callers", "4"),
            ("decisions looked at", "16"),
            ("from more than one address", "2"),
        ]
    );
}

#[tokio::test]
async fn without_requests_no_identity_is_shared() {
    let report = Seeded::new().made("hygiene").await;
    let shared = section(&report, "shared-identities");
    assert_eq!(cells(shared, ["principal", "addresses"]), [[""; 2]; 0]);
    let none = [
        "callers",
        "decisions looked at",
        "from more than one address",
    ];
    assert_eq!(figures(shared), none.map(|label| (label, "0")));
}

/// A request to a service, of a caller with this serial number of a certificate.
fn to(service: &str, serial: &[u8]) -> Body {
    Body::Decision(Decision {
        verdict: Verdict::Allow.into(),
        service: service.into(),
        principal: Some(Peer {
            spiffe_id: id("web"),
            serial: serial.into(),
            ..Peer::default()
        }),
        ..Decision::default()
    })
}

/// A service with fewer proven callers than requests, one where all were, and requests of none.
#[tokio::test]
async fn callers_that_proved_who_they_are_are_counted_by_service() {
    let mut seeded = Seeded::new();
    let (orders, stock) = ("acme.test/shop/orders", "acme.test/shop/stock");
    for (service, serial) in [
        (orders, &[7][..]),
        (orders, &[7]),
        (orders, &[]),
        (stock, &[8]),
        (stock, &[9]),
        ("", &[7]),
        ("", &[]),
    ] {
        seeded.ago(5 * MINUTE, REPORTER, to(service, serial));
    }
    seeded.ago(61 * MINUTE, REPORTER, to(orders, &[7]));
    let report = seeded.made("hygiene").await;
    let proven = section(&report, "proven-callers");
    assert_eq!(
        cells(proven, ["service", "requests", "proven", "share"]),
        [[orders, "3", "2", "66.6 %"], [stock, "2", "2", "100.0 %"]]
    );
    assert_eq!(
        figures(proven),
        [
            ("requests", "7"),
            ("of proven callers", "5"),
            ("their share", "71.4 %"),
            ("requests of no known service", "2"),
        ]
    );
}

#[tokio::test]
async fn without_requests_there_is_no_share_of_proven_callers() {
    let report = Seeded::new().made("hygiene").await;
    let proven = section(&report, "proven-callers");
    assert_eq!(cells(proven, ["service", "share"]), [[""; 2]; 0]);
    let found: Vec<_> = figures(proven)
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    assert_eq!(found, ["0", "0", "–", "0"]);
}

/// With more services than can be counted, one of which nothing is known is not said to have no
/// proven caller.
#[tokio::test]
async fn proven_callers_of_a_service_beyond_the_most_are_not_known() {
    let mut seeded = Seeded::new();
    for n in 0..TOP_MAX {
        for _ in 0..2 {
            let service = format!("acme.test/many/{n}");
            seeded.ago(5 * MINUTE, REPORTER, to(&service, &[7]));
        }
    }
    let (asked, never) = ("acme.test/shop/asked", "acme.test/shop/never");
    seeded.ago(5 * MINUTE, REPORTER, to(asked, &[7]));
    for (service, requests) in [(asked, 5), (never, 4)] {
        for _ in 0..requests {
            seeded.ago(5 * MINUTE, REPORTER, to(service, &[]));
        }
    }
    let report = seeded.made("hygiene").await;
    let proven = section(&report, "proven-callers");
    let table = proven.table.as_ref().unwrap();
    assert_eq!((table.rows.len(), table.total), (1000, 1002));
    assert_eq!(
        table.rows[..3],
        [
            [asked, "6", "–", "–"],
            [never, "4", "–", "–"],
            ["acme.test/many/0", "2", "2", "100.0 %"],
        ]
    );
    assert_eq!(
        figures(proven)[..3],
        [
            ("requests", "2010"),
            ("of proven callers", "2001"),
            ("their share", "99.5 %"),
        ]
    );
    let told = &proven.cannot_show[0];
    assert!(told.contains("beyond the 1000"), "{told}");
}

const TENET: [&str; 4] = ["tenet", "decisions", "of", "share"];

/// Each tenet with the decisions that show it and its share of all of them, rounded down: not
/// even all but one of many are all.
#[tokio::test]
async fn tenets_are_measured_by_their_share_of_all_decisions() {
    let mut seeded = Seeded::new();
    let whole = Decision {
        verdict: Verdict::Allow.into(),
        principal: Some(Peer {
            spiffe_id: id("web"),
            serial: vec![7],
            ..Peer::default()
        }),
        service: "acme.test/shop/orders".into(),
        resource_id: "acme.test/shop/orders/read".into(),
        source_ip: "10.0.0.1".into(),
        versions: Some(Versions {
            policy_digest: vec![1; 32],
            policy_sequence: 3,
            ..Versions::default()
        }),
        ..Decision::default()
    };
    let with = |verdict: Verdict| Decision {
        verdict: verdict.into(),
        ..whole.clone()
    };
    let decisions = [
        whole.clone(),
        with(Verdict::Forbidden),
        with(Verdict::NotPermitted),
        // Not decided for a reason, under no revision.
        Decision {
            versions: None,
            ..with(Verdict::Undecided)
        },
        // Nobody has proven to be anybody; no service of the catalogue; no address.
        Decision {
            principal: None,
            ..with(Verdict::NotPermitted)
        },
        Decision {
            service: String::new(),
            resource_id: String::new(),
            ..whole.clone()
        },
        Decision {
            source_ip: String::new(),
            ..whole.clone()
        },
        // What could not even be asked.
        Decision {
            verdict: Verdict::Refused.into(),
            ..Decision::default()
        },
    ];
    for decision in decisions {
        seeded.ago(5 * MINUTE, REPORTER, Body::Decision(decision));
    }
    seeded.ago(61 * MINUTE, REPORTER, Body::Decision(whole));
    let report = seeded.made("zero-trust").await;
    let tenets = section(&report, "tenets");
    assert_eq!(figures(tenets), [("decisions", "8")]);
    assert_eq!(
        cells(tenets, TENET),
        [
            ["1 everything is a resource", "6", "8", "75.0 %"],
            [
                "2 communication is secured wherever it is",
                "6",
                "8",
                "75.0 %"
            ],
            ["3 access is granted per session", "7", "8", "87.5 %"],
            ["4 access follows dynamic policy", "6", "8", "75.0 %"],
            [
                "6 authentication and authorization come first",
                "6",
                "8",
                "75.0 %"
            ],
            ["7 as much as possible is recorded", "4", "8", "50.0 %"],
        ]
    );
    assert_eq!(tenets.queries.len(), 6);
    let share = super::share;
    assert_eq!(share(99_999, 100_000), "99.9 %");
    assert_eq!(
        (share(0, 3).as_str(), share(1, 3).as_str()),
        ("0.0 %", "33.3 %")
    );
    assert_eq!(share(u64::MAX, u64::MAX), "100.0 %");
}

/// Of no decision there is no share, which is not the same as none of them.
#[tokio::test]
async fn without_decisions_a_tenet_has_no_share() {
    let report = Seeded::new().made("zero-trust").await;
    let tenets = section(&report, "tenets");
    assert_eq!(figures(tenets), [("decisions", "0")]);
    let rows = cells(tenets, ["decisions", "of", "share"]);
    assert_eq!(rows, [["0", "0", "–"]; 6]);
}
