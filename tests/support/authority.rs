//! A certificate authority of the test's own, as another SPIFFE implementation
//! would be one.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use palisade_mesh::{
    clock::Clock,
    spiffe_id::TrustDomain,
    svid::{Identity, TrustBundle, X509Svid},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

/// The root of a trust domain.
pub struct Authority {
    domain: TrustDomain,
    root: CertificateDer<'static>,
    root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Leaf {
    /// PEM.
    pub chain: String,
    pub der: CertificateDer<'static>,
    pub key: KeyPair,
}

impl Authority {
    pub fn new(domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, domain);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        Self {
            domain: TrustDomain::parse(domain).unwrap(),
            root: root.der().clone(),
            root_pem: root.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// An X.509-SVID of `spiffe://DOMAIN/PATH` that does not end.
    pub fn leaf(&self, path: &str) -> Leaf {
        let id = self.domain.id(path).unwrap().to_string();
        self.sign(&self.issuer, |params| {
            params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        })
    }

    /// As [`Authority::leaf`], valid from now for `ttl`.
    pub fn leaf_for(&self, path: &str, ttl: Duration) -> Leaf {
        let id = self.domain.id(path).unwrap().to_string();
        let now = SystemTime::now();
        self.sign(&self.issuer, |params| {
            params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
            params.not_before = now.into();
            params.not_after = (now + ttl).into();
        })
    }

    /// A leaf without any name, until `change` gives it one.
    pub fn spoilt(&self, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        self.sign(&self.issuer, change)
    }

    /// A leaf that an authority below the root has signed.
    pub fn sign(
        &self,
        issuer: &Issuer<'static, KeyPair>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, issuer).unwrap();
        Leaf {
            chain: leaf.pem(),
            der: leaf.der().clone(),
            key,
        }
    }

    /// Signs another authority.
    pub fn issue(&self, params: &CertificateParams, key: &KeyPair) -> CertificateDer<'static> {
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }

    /// Writes `cert.pem`, `key.pem` and `bundle.pem`.
    pub fn write(&self, leaf: &Leaf, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("cert.pem"), &leaf.chain).unwrap();
        fs::write(dir.join("key.pem"), leaf.key.serialize_pem()).unwrap();
        fs::write(dir.join("bundle.pem"), &self.root_pem).unwrap();
    }

    /// An identity that shows `leaf`, whoever signed it, and trusts this root.
    pub fn trusting(&self, leaf: &Leaf) -> Identity {
        let key = Zeroizing::new(leaf.key.serialize_der());
        let svid = X509Svid::new(vec![leaf.der.clone()], key).unwrap();
        let bundle = TrustBundle {
            trust_domain: self.domain.clone(),
            roots: vec![self.root.clone()],
        };
        Identity::new(svid, bundle, Clock::system()).unwrap()
    }
}
