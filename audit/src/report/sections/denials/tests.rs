//! Who was denied what and by which policies, and who did not prove an identity.

use palisade_mesh::wire::record::{AuthnFailure, Decision, Peer, Verdict, record::Body};

use super::super::seeded::{MINUTE, Seeded, cells, figures, section};
use crate::testing::REPORTER;

const WEB: &str = "spiffe://acme.test/ns/shop/sa/web";

fn failure(reason: &str, listener: &str, claimed: &str) -> Body {
    Body::AuthnFailure(AuthnFailure {
        reason: reason.into(),
        listener: listener.into(),
        claimed_id: claimed.into(),
        ..AuthnFailure::default()
    })
}

/// A denied request of the web shop: service, action, verdict with its reason, policies.
fn denied(
    service: &str,
    action: &str,
    (verdict, reason): (Verdict, &str),
    policies: &[&str],
) -> Body {
    Body::Decision(Decision {
        verdict: verdict.into(),
        reason: reason.into(),
        principal: Some(Peer {
            spiffe_id: WEB.into(),
            ..Peer::default()
        }),
        service: service.into(),
        action: action.into(),
        policies: policies.iter().map(|policy| (*policy).into()).collect(),
        ..Decision::default()
    })
}

/// Each caller, service and reason with the actions that were asked for and the policies that
/// denied; what has none of either stays in the table and says so.
#[tokio::test]
async fn denied_attempts_have_their_actions_and_the_policies_that_denied() {
    let mut seeded = Seeded::new();
    let (orders, stock) = ("acme.test/shop/orders", "acme.test/shop/stock");
    let mail = "acme.test/shop/mail";
    let forbidden = (Verdict::Forbidden, "forbidden");
    let none = (Verdict::NotPermitted, "no_permit");
    let fault = (Verdict::Undecided, "no_snapshot");
    let (night, weekend) = ("not-at-night", "not-at-weekends");
    for body in [
        denied(orders, "orders:refund", forbidden, &[night, weekend]),
        denied(orders, "orders:refund", forbidden, &[night, weekend]),
        denied(orders, "orders:read", forbidden, &[night]),
        denied(stock, "http:GET", none, &[]),
        denied(stock, "http:GET", none, &[]),
        // As many policies as requests, and one without any.
        denied(mail, "mail:send", none, &[night, weekend]),
        denied(mail, "mail:send", none, &[]),
        // Before the request was understood.
        denied(stock, "", fault, &[]),
    ] {
        seeded.ago(5 * MINUTE, REPORTER, body);
    }
    let before = denied(stock, "http:PUT", none, &["old"]);
    seeded.ago(61 * MINUTE, REPORTER, before);
    for kind in ["denials", "digest", "incident"] {
        let report = seeded.made(kind).await;
        let attempts = section(&report, "denied-attempts");
        assert_eq!(
            cells(
                attempts,
                ["service", "reason", "count", "actions", "policies"]
            ),
            [
                [
                    orders,
                    "forbidden",
                    "3",
                    "orders:read, orders:refund",
                    "not-at-night, not-at-weekends"
                ],
                [
                    mail,
                    "no_permit",
                    "2",
                    "mail:send",
                    "not-at-night, not-at-weekends, none"
                ],
                [stock, "no_permit", "2", "http:GET", "none"],
                [stock, "no_snapshot", "1", "none", "none"],
            ]
        );
        assert_eq!(
            figures(attempts),
            [
                ("caller, service and reason", "4"),
                ("new among the rows shown", "unknown"),
            ]
        );
    }
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
