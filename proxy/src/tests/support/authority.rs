//! A throwaway trust domain.

use std::{sync::Arc, time::Duration};

use palisade_mesh::{
    clock::Clock,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::{Identity, TrustBundle, X509Svid},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

pub(crate) const DOMAIN: &str = "acme.test";

/// `spiffe://acme.test/PATH`.
pub(crate) fn id(path: &str) -> SpiffeId {
    TrustDomain::parse(DOMAIN).unwrap().id(path).unwrap()
}

/// A root that signs what it is told to.
#[derive(Clone)]
pub(crate) struct Authority {
    root: CertificateDer<'static>,
    issuer: Arc<Issuer<'static, KeyPair>>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        // A name of its own, so that a stranger's chain is not taken for ours.
        let name = ulid::Ulid::generate().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            root,
            issuer: Arc::new(Issuer::new(params, key)),
        }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle {
            trust_domain: TrustDomain::parse(DOMAIN).unwrap(),
            roots: vec![self.root.clone()],
        }
    }

    /// An identity of this domain, valid for an hour.
    pub(crate) fn identity(&self, path: &str) -> Identity {
        let svid = self.svid(path, Duration::from_secs(3600));
        Identity::new(svid, self.bundle(), Clock::system()).unwrap()
    }

    /// An SVID that is valid from a minute ago for `ttl` from now.
    pub(crate) fn svid(&self, path: &str, ttl: Duration) -> X509Svid {
        let uri = id(path).to_string();
        self.sign(|params| {
            params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
            params.not_after = time::OffsetDateTime::now_utc() + ttl;
        })
    }

    /// A leaf as `change` makes it.
    pub(crate) fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> X509Svid {
        let (chain, key) = self.sign_raw(change);
        X509Svid::new(chain, key).unwrap()
    }

    /// A leaf that need not be an SVID.
    pub(crate) fn sign_raw(
        &self,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Vec<CertificateDer<'static>>, Zeroizing<Vec<u8>>) {
        let now = time::OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.not_before = now - Duration::from_secs(60);
        params.not_after = now + Duration::from_secs(3600);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (
            vec![leaf.der().clone()],
            Zeroizing::new(key.serialize_der()),
        )
    }
}
