//! Who did not prove an identity.

use palisade_mesh::wire::record::{AuthnFailure, record::Body};

use super::super::seeded::{MINUTE, Seeded, cells, figures, section};
use crate::testing::REPORTER;

fn failure(reason: &str, listener: &str, claimed: &str) -> Body {
    Body::AuthnFailure(AuthnFailure {
        reason: reason.into(),
        listener: listener.into(),
        claimed_id: claimed.into(),
        ..AuthnFailure::default()
    })
}

/// Failed handshakes by reason and listener, the most first, with how many identities they
/// claimed; one without a listener is counted, and said to be in no row.
#[tokio::test]
async fn failed_handshakes_are_counted_by_reason_and_listener() {
    let mut seeded = Seeded::new();
    let evil = "spiffe://evil.test/ns/shop/sa/web";
    for (minutes, reason, listener, claimed) in [
        (50, "no_certificate", "inbound", ""),
        (40, "no_certificate", "inbound", ""),
        (30, "no_certificate", "inbound", ""),
        (25, "no_certificate", "decide", ""),
        (20, "wrong_trust_domain", "inbound", evil),
        (15, "wrong_trust_domain", "inbound", evil),
        (10, "expired", "", REPORTER),
        (61, "expired", "inbound", "spiffe://before.test/a"),
    ] {
        let body = failure(reason, listener, claimed);
        seeded.ago(minutes * MINUTE, REPORTER, body);
    }
    let time = |minutes: i64| seeded.time(minutes * MINUTE);
    for kind in ["denials", "hygiene"] {
        let report = seeded.made(kind).await;
        let failed = section(&report, "failed-authentication");
        assert_eq!(
            cells(failed, ["reason", "listener", "count", "first", "last"]),
            [
                ["no_certificate", "inbound", "3", &time(50), &time(30)],
                ["wrong_trust_domain", "inbound", "2", &time(20), &time(15)],
                ["no_certificate", "decide", "1", &time(25), &time(25)],
            ]
        );
        assert_eq!(
            figures(failed),
            [
                ("records without one of the fields", "1"),
                ("failed handshakes", "7"),
                ("identities they claimed", "2"),
            ]
        );
    }
}

#[tokio::test]
async fn without_failed_handshakes_nothing_is_claimed() {
    let report = Seeded::new().made("denials").await;
    let failed = section(&report, "failed-authentication");
    assert_eq!(cells(failed, ["reason", "listener"]), [[""; 2]; 0]);
    assert_eq!(
        figures(failed),
        [("failed handshakes", "0"), ("identities they claimed", "0")]
    );
    // Nothing was decided: nothing is the share of it.
    let over_time = section(&report, "denials-over-time");
    assert_eq!(
        figures(over_time)[..2],
        [("denied", "0"), ("share of all decisions", "–")]
    );
}
