//! What is signed at the enrolment door, and what the authority vouches for.

use aws_lc_rs::hmac;
use palisade_mesh::{
    spiffe_id::TrustDomain,
    wire::ca::{EnrolRequest, ReturnRequest},
};

use crate::context::framed;

const ENROL_DOMAIN: &str = "palisade/ca/enrol/v1";
const RETURN_DOMAIN: &str = "palisade/ca/return/v1";
const VOUCH_DOMAIN: &str = "palisade/ca/vouch/v1";

/// Length of a nonce and of a return secret, in bytes.
pub const NONCE_LEN: usize = 32;

/// What a new node signs. The secret is part of it, so that a proof serves one token.
pub(crate) fn enrol_context(domain: &TrustDomain, request: &EnrolRequest) -> Vec<u8> {
    framed(
        ENROL_DOMAIN,
        &[
            domain.as_str().as_bytes(),
            request.node.as_bytes(),
            request.token_id.as_bytes(),
            &request.secret,
            &request.spki,
            &request.challenge,
        ],
    )
}

/// What a known node signs.
pub(crate) fn return_context(domain: &TrustDomain, request: &ReturnRequest) -> Vec<u8> {
    framed(
        RETURN_DOMAIN,
        &[
            domain.as_str().as_bytes(),
            request.node.as_bytes(),
            &request.spki,
            &request.challenge,
        ],
    )
}

/// The authority's word for its roots, to one node.
#[cfg(feature = "server")]
pub(crate) fn vouch(secret: &[u8], nonce: &[u8], roots: &[Vec<u8>]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, &vouch_context(nonce, roots))
        .as_ref()
        .to_vec()
}

/// Whether `vouch` is the authority's word for `roots`.
#[cfg(feature = "agent")]
pub(crate) fn vouched(secret: &[u8], nonce: &[u8], roots: &[Vec<u8>], vouch: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::verify(&key, &vouch_context(nonce, roots), vouch).is_ok()
}

fn vouch_context(nonce: &[u8], roots: &[Vec<u8>]) -> Vec<u8> {
    let mut fields: Vec<&[u8]> = vec![nonce];
    fields.extend(roots.iter().map(Vec::as_slice));
    framed(VOUCH_DOMAIN, &fields)
}

#[cfg(all(test, feature = "agent", feature = "server"))]
mod tests {
    use super::*;

    #[test]
    fn a_word_for_roots_serves_one_node_one_nonce_and_these_roots() {
        let roots = [vec![1; 32], vec![2; 32]];
        let word = vouch(b"secret", b"nonce", &roots);
        assert!(vouched(b"secret", b"nonce", &roots, &word));
        assert!(!vouched(b"other", b"nonce", &roots, &word));
        assert!(!vouched(b"secret", b"other", &roots, &word));
        assert!(!vouched(b"secret", b"nonce", &roots[..1], &word));
    }
}
