//! A peer's leaf certificate, before anything about it is proven.

use palisade_mesh::{
    spiffe_id::TrustDomain,
    svid::{TrustBundle, peer_of_chain, verify_chain},
};
use rustls_pki_types::{CertificateDer, UnixTime};

/// Checks one input.
pub fn check(bytes: &[u8]) {
    let leaf = CertificateDer::from(bytes);
    let read = peer_of_chain(std::slice::from_ref(&leaf));
    if let Ok(peer) = &read {
        assert!(peer.id.as_str().is_ascii());
    }
    let nobody = TrustBundle {
        trust_domain: TrustDomain::parse("acme.test").expect("valid"),
        roots: Vec::new(),
    };
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
    let chain = [leaf.clone(), leaf];
    assert!(verify_chain(&chain, &nobody, now).is_err());
}
