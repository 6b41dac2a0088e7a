//! What an agent asks of the authority, as it comes off the wire. Nothing but a
//! registered identity, attested, for a key that signed for it, is fulfilled.

use std::{collections::HashSet, sync::LazyLock, time::Duration};

use palisade_ca::{
    issue::{Desk, Refusal},
    registration::{self, Registration, RegistrationConfig, Rules},
};
use palisade_mesh::{spiffe_id::TrustDomain, wire::ca::IssueRequest};
use prost::Message as _;

static DOMAIN: LazyLock<TrustDomain> =
    LazyLock::new(|| TrustDomain::parse("acme.test").expect("valid"));

static REGISTRATIONS: LazyLock<Vec<Registration>> = LazyLock::new(|| {
    let config = |id: &str, selectors: &[&str]| RegistrationConfig {
        spiffe_id: id.into(),
        selectors: selectors.iter().map(|s| (*s).to_owned()).collect(),
        ..RegistrationConfig::default()
    };
    let rules = Rules {
        trust_domain: DOMAIN.clone(),
        ttl_default: Duration::from_secs(3600),
        ttl_max: Duration::from_secs(86_400),
    };
    let list = [
        config("spiffe://acme.test/web", &["unix:uid:1000"]),
        config(
            "spiffe://acme.test/db",
            &["unix:uid:1000", "unix:path:/bin/db"],
        ),
    ];
    registration::parse(&list, &rules).expect("both are valid")
});

/// Checks one input.
pub fn check(bytes: &[u8]) {
    let Ok(request) = IssueRequest::decode(bytes) else {
        return;
    };
    let nothing = HashSet::new();
    let desk = Desk {
        trust_domain: &DOMAIN,
        registrations: &REGISTRATIONS,
        authority_keys: &nothing,
        serves: &|_| true,
    };
    let order = match desk.check(&request) {
        Ok(order) => order,
        Err(refusal) => {
            assert!(!refusal.reason().is_empty());
            return;
        }
    };
    assert!(order.spiffe_id.is_member_of(&DOMAIN));
    assert!(!order.spiffe_id.is_reserved());
    let of_id = |r: &&Registration| r.spiffe_id == order.spiffe_id;
    let registration = REGISTRATIONS.iter().find(of_id).expect("registered");
    assert_eq!(order.ttl, registration.ttl);
    for needed in registration.selectors.iter() {
        assert!(request.selectors.contains(&needed.to_string()), "{needed}");
    }
    assert_eq!(order.spki.len(), 91, "a P-256 key in its only encoding");
    // The proof is for these bytes: another identity or key does not pass with it.
    let mut other = request.clone();
    other.spiffe_id.push('x');
    assert!(desk.check(&other).is_err());
    let mut other = request;
    if let Some(last) = other.spki.last_mut() {
        *last ^= 1;
    }
    assert!(matches!(desk.check(&other), Err(Refusal::Proof)));
}
