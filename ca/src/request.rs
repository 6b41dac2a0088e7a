//! What an agent asks of the authority: a key of its own, and the proof of it.
//!
//! Between our own parts no certificate request (PKCS#10) travels: it would carry
//! names and extensions that somebody must then ignore. An agent sends the public
//! key, the identity and a signature by that key over both, so that nobody can
//! have a stranger's key certified or turn a request into one for another name.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use palisade_mesh::{
    spiffe_id::{SpiffeId, TrustDomain},
    wire::ca::IssueRequest,
};
use zeroize::Zeroizing;

use crate::{context::framed, selector::Selector};

/// Names the purpose of the signature, so that it serves no other.
const PROOF_DOMAIN: &str = "palisade/ca/proof-of-possession/v1";

/// SubjectPublicKeyInfo of a P-256 key up to its 65 bytes of point (RFC 5480).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Length of an uncompressed P-256 point.
#[cfg(feature = "server")]
const POINT_LEN: usize = 65;

/// A new P-256 key for one certificate.
pub struct SvidKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl SvidKey {
    /// Generates a key.
    ///
    /// # Errors
    /// When the cryptographic library fails, which it does not in practice.
    pub fn generate() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let pkcs8 = Zeroizing::new(pair.to_pkcs8v1()?.as_ref().to_vec());
        Ok(Self { pair, pkcs8 })
    }

    /// Reads a key that was kept.
    ///
    /// # Errors
    /// When it is no P-256 key in PKCS#8.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, aws_lc_rs::error::KeyRejected> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)?;
        let pkcs8 = Zeroizing::new(pkcs8.to_vec());
        Ok(Self { pair, pkcs8 })
    }

    /// The key itself, PKCS#8 in DER.
    pub fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }

    /// Signs bytes that say themselves what they are for.
    #[cfg(feature = "agent")]
    pub(crate) fn sign(&self, context: &[u8]) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
        let signature = self.pair.sign(&SystemRandom::new(), context)?;
        Ok(signature.as_ref().to_vec())
    }

    /// Its public half, SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> Vec<u8> {
        [&SPKI_PREFIX, self.pair.public_key().as_ref()].concat()
    }

    /// The key itself, PKCS#8 in DER.
    pub fn into_pkcs8(self) -> Zeroizing<Vec<u8>> {
        self.pkcs8
    }

    /// Asks for a certificate of `id` for this key.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn request(
        &self,
        domain: &TrustDomain,
        id: &SpiffeId,
        selectors: &[Selector],
    ) -> Result<IssueRequest, aws_lc_rs::error::Unspecified> {
        let spki = self.spki();
        let context = proof_context(domain, id.as_str(), &spki);
        let proof = self.pair.sign(&SystemRandom::new(), &context)?;
        Ok(IssueRequest {
            spiffe_id: id.to_string(),
            spki,
            proof: proof.as_ref().to_vec(),
            selectors: selectors.iter().map(Selector::to_string).collect(),
        })
    }
}

/// The point of a P-256 key in its only encoding; `None` for everything else:
/// other curves, compressed points, RSA, trailing bytes.
#[cfg(feature = "server")]
pub(crate) fn point_of(spki: &[u8]) -> Option<&[u8]> {
    spki.strip_prefix(&SPKI_PREFIX)
        .filter(|point| point.len() == POINT_LEN && point.first() == Some(&0x04))
}

/// Whether `proof` was made by the key with this `point` for this request.
#[cfg(feature = "server")]
pub(crate) fn proven(domain: &TrustDomain, request: &IssueRequest, point: &[u8]) -> bool {
    let context = proof_context(domain, &request.spiffe_id, &request.spki);
    signed(&context, &request.proof, point)
}

/// Whether `signature` over `context` was made by the key with this `point`.
#[cfg(feature = "server")]
pub(crate) fn signed(context: &[u8], signature: &[u8], point: &[u8]) -> bool {
    aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
        point,
    )
    .verify(context, signature)
    .is_ok()
}

fn proof_context(domain: &TrustDomain, id: &str, spki: &[u8]) -> Vec<u8> {
    framed(
        PROOF_DOMAIN,
        &[domain.as_str().as_bytes(), id.as_bytes(), spki],
    )
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    #[test]
    fn a_proof_serves_one_key_one_identity_and_one_domain() {
        let (acme, other) = (
            TrustDomain::parse("acme.test").unwrap(),
            TrustDomain::parse("other.test").unwrap(),
        );
        let (key, stranger) = (SvidKey::generate().unwrap(), SvidKey::generate().unwrap());
        let id = acme.id("web").unwrap();
        let request = key.request(&acme, &id, &[]).unwrap();
        let spki = key.spki();
        let point = point_of(&spki).unwrap();
        assert!(proven(&acme, &request, point));
        assert!(!proven(&other, &request, point));
        let mut changed = request.clone();
        changed.spiffe_id = "spiffe://acme.test/admin".into();
        assert!(!proven(&acme, &changed, point));
        let mut changed = request.clone();
        changed.spki = stranger.spki();
        assert!(!proven(&acme, &changed, point_of(&changed.spki).unwrap()));
    }

    #[test]
    fn only_an_uncompressed_p256_point_is_a_key() {
        let spki = SvidKey::generate().unwrap().spki();
        assert!(point_of(&spki).is_some());
        assert!(point_of(&[&spki[..], b"x"].concat()).is_none());
        assert!(point_of(&spki[..spki.len() - 1]).is_none());
        assert!(point_of(b"").is_none());
        let mut compressed = spki.clone();
        compressed[SPKI_PREFIX.len()] = 0x02;
        assert!(point_of(&compressed).is_none());
    }
}
