//! What is kept comes back; what is not ours, or not whole, does not.

use std::os::unix::fs::PermissionsExt;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

use super::*;

const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";

struct Issuer(CertifiedIssuer<'static, KeyPair>);

impl Issuer {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// An SVID that is valid from 1 to 2 in the year 2026.
    fn issue(&self, id: &str) -> (X509Svid, TrustBundle) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 2, 1);
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let svid = X509Svid::new(
            vec![leaf.der().clone()],
            Zeroizing::new(key.serialize_der()),
        );
        let bundle = TrustBundle {
            trust_domain: domain(),
            roots: vec![self.0.der().clone()],
        };
        (svid.unwrap(), bundle)
    }
}

fn domain() -> TrustDomain {
    TrustDomain::parse("demo.test").unwrap()
}

fn keep(folder: &Path, seal: Option<&[u8]>) -> Keep {
    let credential = folder.join("credential");
    Keep {
        path: folder.join("svid.json"),
        instance: "orders-1".to_owned(),
        trust_domain: domain(),
        wanted: None,
        seal: seal.map(|secret| {
            fs::write(&credential, secret).unwrap();
            key(&credential).unwrap()
        }),
    }
}

fn january() -> Clock {
    Clock::manual("2026-01-10T00:00:00Z".parse().unwrap())
}

fn code(keep: &Keep) -> u16 {
    keep.load(&january()).unwrap_err().code.0
}

#[test]
fn what_is_kept_comes_back_for_us_alone_to_read() {
    let dir = tempfile::tempdir().unwrap();
    let (svid, bundle) = Issuer::new().issue(ORDERS);
    for seal in [None, Some([7; 32])] {
        let keep = keep(dir.path(), seal.as_ref().map(<[u8; 32]>::as_slice));
        keep.store(&svid, &bundle).unwrap();
        let (back, roots) = keep.load(&january()).unwrap().unwrap();
        assert_eq!(
            (back.id, &back.chain, &*back.key),
            (svid.id.clone(), &svid.chain, &*svid.key)
        );
        assert_eq!(roots, bundle);
        let mode = fs::metadata(&keep.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read(&keep.path).unwrap();
        let plain = BASE64.encode(&*svid.key);
        let seen = text.windows(plain.len()).any(|w| w == plain.as_bytes());
        assert_eq!(seen, seal.is_none());
    }
    assert!(
        keep(&dir.path().join("other"), None)
            .load(&january())
            .unwrap()
            .is_none()
    );
}

#[test]
fn what_is_of_somebody_else_or_has_ended_is_not_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (svid, bundle) = Issuer::new().issue(ORDERS);
    let mut keep = keep(dir.path(), None);
    keep.store(&svid, &bundle).unwrap();
    let later = Clock::manual("2026-03-01T00:00:00Z".parse().unwrap());
    assert_eq!(keep.load(&later).unwrap_err().code.0, 5304);
    keep.wanted = Some(SpiffeId::parse("spiffe://demo.test/ns/shop/sa/web").unwrap());
    assert_eq!(code(&keep), 5304);
    keep.wanted = None;
    keep.instance = "orders-2".to_owned();
    assert_eq!(code(&keep), 5304);
    keep.trust_domain = TrustDomain::parse("other.test").unwrap();
    keep.instance = "orders-1".to_owned();
    assert_eq!(code(&keep), 5304);
    keep.trust_domain = domain();
    // A certificate that another authority gave.
    let (_, other) = Issuer::new().issue(ORDERS);
    keep.store(&svid, &other).unwrap();
    assert_eq!(code(&keep), 5304);
}

#[test]
fn what_is_not_whole_or_open_to_others_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (svid, bundle) = Issuer::new().issue(ORDERS);
    let plain = keep(dir.path(), None);
    plain.store(&svid, &bundle).unwrap();
    let whole = fs::read(&plain.path).unwrap();
    for bytes in [&whole[..whole.len() / 2], b"", b"{}", SEALED] {
        fs::write(&plain.path, bytes).unwrap();
        assert_eq!(code(&plain), 5303);
    }
    let sealed = keep(dir.path(), Some(&[7; 32]));
    fs::write(&plain.path, &whole).unwrap();
    assert_eq!(code(&sealed), 5303, "not sealed though there is a key");
    sealed.store(&svid, &bundle).unwrap();
    assert_eq!(code(&plain), 5303, "sealed, and there is no key");
    assert_eq!(code(&keep(dir.path(), Some(&[8; 32]))), 5303, "another key");
    let mut changed = fs::read(&plain.path).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&plain.path, changed).unwrap();
    assert_eq!(code(&sealed), 5303, "one bit");
    sealed.store(&svid, &bundle).unwrap();
    fs::set_permissions(&sealed.path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(code(&sealed), 5303, "others may read it");
}

#[test]
fn a_credential_of_too_few_bytes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credential");
    fs::write(&path, [7; CREDENTIAL_LEN_MIN - 1]).unwrap();
    assert!(key(&path).is_err());
    fs::write(&path, [7; CREDENTIAL_LEN_MIN]).unwrap();
    assert!(key(&path).is_ok());
}
