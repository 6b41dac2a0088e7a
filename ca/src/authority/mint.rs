//! Makes certificates of authorities.
//!
//! Profile: X509-SVID sections 3 and 4 for signing certificates: a URI SAN with
//! the trust domain and no path, critical cA with a path length, keyCertSign and
//! cRLSign. No name constraints: rustls-webpki refuses URI constraints whatever
//! they say, which would break every peer.

use palisade_mesh::spiffe_id::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use super::{Authority, KeyId, Kind, State};
use crate::{
    keystore::{AuthorityKey, KeystoreError},
    random,
};

/// Longest span by which a certificate is dated back, for clocks that are behind.
const BACKDATE_MAX_S: i64 = 60;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// rcgen or the cryptographic library refused.
    #[error("bug: certificate cannot be encoded: {0}")]
    Encode(#[from] rcgen::Error),
    /// The private key cannot be made or opened.
    #[error(transparent)]
    Key(#[from] KeystoreError),
    /// The validity cannot be expressed.
    #[error("validity is outside of what a certificate can say")]
    Validity,
}

/// An authority with the key to sign.
pub(crate) struct Signer {
    pub(crate) authority: Authority,
    pub(crate) issuer: Issuer<'static, AuthorityKey>,
}

impl Signer {
    /// Puts a stored authority to work again.
    pub(crate) fn load(authority: Authority, key: AuthorityKey) -> Result<Self, MintError> {
        let issuer = Issuer::from_ca_cert_der(&authority.certificate, key)?;
        Ok(Self { authority, issuer })
    }

    /// Makes a self-signed root.
    pub(crate) fn root(domain: &TrustDomain, now_s: i64, life_s: i64) -> Result<Self, MintError> {
        let key = AuthorityKey::generate()?;
        let (params, key_id) = params(domain, Kind::Root, &key, now_s, life_s)?;
        let certificate = params.self_signed(&key)?.into();
        let authority = prepared(Kind::Root, key_id, key_id, certificate, &params);
        Self::load(authority, key)
    }

    /// Makes an intermediate signed by this root.
    pub(crate) fn intermediate(
        &self,
        domain: &TrustDomain,
        now_s: i64,
        life_s: i64,
    ) -> Result<Self, MintError> {
        let key = AuthorityKey::generate()?;
        let (mut params, key_id) = params(domain, Kind::Intermediate, &key, now_s, life_s)?;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.into();
        let parent = self.authority.key_id;
        let authority = prepared(Kind::Intermediate, key_id, parent, certificate, &params);
        Self::load(authority, key)
    }
}

fn prepared(
    kind: Kind,
    key_id: KeyId,
    issuer: KeyId,
    certificate: CertificateDer<'static>,
    params: &CertificateParams,
) -> Authority {
    Authority {
        kind,
        key_id,
        issuer,
        state: State::Prepared,
        certificate,
        not_before_s: params.not_before.unix_timestamp(),
        not_after_s: params.not_after.unix_timestamp(),
    }
}

fn params(
    domain: &TrustDomain,
    kind: Kind,
    key: &AuthorityKey,
    now_s: i64,
    life_s: i64,
) -> Result<(CertificateParams, KeyId), MintError> {
    let mut params = CertificateParams::default();
    set_validity(&mut params, now_s, life_s)?;
    params.serial_number = Some(serial());
    params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(match kind {
        Kind::Root => 1,
        Kind::Intermediate => 0,
    }));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key_id = KeyId::from_slice(&params.key_identifier(key)).ok_or(MintError::Validity)?;
    // At most 62 characters; X.520 allows 64 in a common name.
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("palisade {kind} {key_id}"));
    Ok((params, key_id))
}

/// Sets a validity of `life_s` from now, dated back by a minute or a sixth of it.
pub(crate) fn set_validity(
    params: &mut CertificateParams,
    now_s: i64,
    life_s: i64,
) -> Result<(), MintError> {
    let at = |s| OffsetDateTime::from_unix_timestamp(s).map_err(|_| MintError::Validity);
    params.not_before = at(now_s - BACKDATE_MAX_S.min(life_s / 6))?;
    params.not_after = at(now_s.checked_add(life_s).ok_or(MintError::Validity)?)?;
    Ok(())
}

/// A random serial number: 16 bytes, positive, never shortened or padded by DER.
pub(crate) fn serial() -> SerialNumber {
    let mut bytes = random::bytes::<16>();
    let [first, ..] = &mut bytes;
    *first = (*first & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// A URI SAN.
pub(crate) fn uri(text: &str) -> Result<SanType, MintError> {
    Ok(SanType::URI(text.try_into()?))
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

    use super::*;

    const NOW: i64 = 1_700_000_000;

    #[test]
    fn authorities_follow_the_profile_for_signing_certificates() {
        let domain = TrustDomain::parse("acme.test").unwrap();
        let root = Signer::root(&domain, NOW, 90 * 86_400).unwrap();
        let child = root.intermediate(&domain, NOW, 7 * 86_400).unwrap();
        for (signer, path_len) in [(&root, 1), (&child, 0)] {
            let (rest, cert) = X509Certificate::from_der(&signer.authority.certificate).unwrap();
            assert!(rest.is_empty());
            let basic = cert.basic_constraints().unwrap().unwrap();
            assert!(basic.critical && basic.value.ca);
            assert_eq!(basic.value.path_len_constraint, Some(path_len));
            let usage = cert.key_usage().unwrap().unwrap();
            assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
            assert!(!usage.value.digital_signature());
            let names = &cert
                .subject_alternative_name()
                .unwrap()
                .unwrap()
                .value
                .general_names;
            assert_eq!(names, &[GeneralName::URI("spiffe://acme.test")]);
            assert!(cert.name_constraints().unwrap().is_none());
            assert!(
                cert.subject()
                    .to_string()
                    .contains(&signer.authority.key_id.to_string())
            );
            assert_eq!(cert.raw_serial().len(), 16);
            assert_eq!(cert.validity().not_before.timestamp(), NOW - 60);
        }
        let (_, cert) = X509Certificate::from_der(&child.authority.certificate).unwrap();
        assert_eq!(cert.validity().not_after.timestamp(), NOW + 7 * 86_400);
        assert_eq!(child.authority.issuer, root.authority.key_id);
    }

    #[test]
    fn no_two_authorities_share_subject_key_id_or_serial() {
        let domain = TrustDomain::parse("acme.test").unwrap();
        let (a, b) = (
            Signer::root(&domain, NOW, 86_400).unwrap(),
            Signer::root(&domain, NOW, 86_400).unwrap(),
        );
        assert_ne!(a.authority.key_id, b.authority.key_id);
        let (_, a) = X509Certificate::from_der(&a.authority.certificate).unwrap();
        let (_, b) = X509Certificate::from_der(&b.authority.certificate).unwrap();
        assert_ne!(a.subject(), b.subject());
        assert_ne!(a.raw_serial(), b.raw_serial());
    }

    #[test]
    fn short_lives_are_dated_back_by_a_sixth() {
        for (life, back) in [(10, 1), (60, 10), (360, 60), (3600, 60)] {
            let mut params = CertificateParams::default();
            set_validity(&mut params, NOW, life).unwrap();
            assert_eq!(params.not_before.unix_timestamp(), NOW - back);
        }
    }
}
