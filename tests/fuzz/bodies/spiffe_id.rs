//! SPIFFE IDs and trust domains: what is accepted is accepted as it is spelled.

use palisade_mesh::spiffe_id::{ID_LEN_MAX, SpiffeId, TrustDomain};

/// Checks one input.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(domain) = TrustDomain::parse(text) {
        assert_eq!(domain.as_str(), text);
        check_domain(text);
        let role = domain.role("pdp");
        assert!(role.is_member_of(&domain) && role.is_reserved());
    }
    let Ok(id) = SpiffeId::parse(text) else {
        return;
    };
    assert_eq!(id.as_str(), text);
    assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    assert!(text.len() <= ID_LEN_MAX);
    check_domain(id.trust_domain());
    let domain = TrustDomain::parse(id.trust_domain()).expect("an ID's domain is one");
    assert!(id.is_member_of(&domain));
    let path = id.path().strip_prefix('/').expect("starts with a slash");
    for segment in path.split('/') {
        assert!(!matches!(segment, "" | "." | ".."), "{text:?}");
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        assert!(segment.bytes().all(fits), "{text:?}");
    }
    // The ecosystem's own parser reads the same out of it.
    let theirs = spiffe::SpiffeId::new(text).expect("stricter than the crate");
    assert_eq!(theirs.trust_domain_name(), id.trust_domain());
    assert_eq!(theirs.path(), id.path());
}

fn check_domain(name: &str) {
    assert!(!name.is_empty() && name.len() <= 255, "{name:?}");
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    assert!(name.bytes().all(fits), "{name:?}");
}
