//! Statements that are signed with the key of an SVID, outside of TLS.
//!
//! What is signed must begin with words of its own: the same key signs handshakes,
//! whose messages begin with 64 spaces (RFC 8446 section 4.4.3).

use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::{Identity, Peer, PeerError, peer_of_chain};

/// Schemes that are used, best first.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];

/// A signature with an SVID's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Number of the scheme, as TLS has it (RFC 8446 section 4.2.3).
    pub scheme: u16,
    /// The signature.
    pub signature: Vec<u8>,
    /// DER certificates, leaf first, without the root.
    pub certificates: Vec<CertificateDer<'static>>,
}

impl Identity {
    /// Signs `message` with the key of the present SVID; `None` when that has ended, or the
    /// key is of a kind that none of our schemes is for.
    pub fn sign(&self, message: &[u8]) -> Option<Signed> {
        let state = self.state.load();
        if state.svid.not_after_s < self.clock.now_us() / 1_000_000 {
            return None;
        }
        let signer = state.certified.key.choose_scheme(&SCHEMES)?;
        Some(Signed {
            scheme: signer.scheme().into(),
            signature: signer.sign(message).ok()?,
            certificates: state.svid.chain.clone(),
        })
    }
}

/// Checks that the key of `leaf` has signed `message`; gives whose it is. Whether the
/// leaf is to be trusted is for [`super::verify_chain`] to say.
///
/// # Errors
/// When it is no X.509-SVID, or the signature is not by its key.
pub fn verify_signed(
    leaf: &[u8],
    scheme: u16,
    message: &[u8],
    signature: &[u8],
) -> Result<Peer, PeerError> {
    let leaf = CertificateDer::from(leaf);
    let end = EndEntityCert::try_from(&leaf).map_err(|_| PeerError::Unreadable)?;
    let scheme = SignatureScheme::from(scheme);
    let known = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let mut of_scheme = known.mapping.iter().filter(|(s, _)| *s == scheme);
    let algorithms = of_scheme
        .next()
        .map_or(&[][..], |(_, algorithms)| algorithms);
    let holds = |a: &&dyn rustls_pki_types::SignatureVerificationAlgorithm| {
        end.verify_signature(*a, message, signature).is_ok()
    };
    match SCHEMES.contains(&scheme) && algorithms.iter().any(holds) {
        true => peer_of_chain(std::slice::from_ref(&leaf)),
        false => Err(PeerError::Chain(
            webpki::Error::InvalidSignatureForPublicKey,
        )),
    }
}
