//! What an authority must refuse (attack T45), asked at its public door, and what
//! a good certificate looks like.

use rcgen::PublicKeyData;

use super::*;
use crate::{
    registration::RegistrationConfig,
    request::SvidKey,
    server::{Ca, CaConfig, IssuedFilter},
    testing::{Records, domain, standing_clock},
};
use palisade_mesh::wire::record::record::Body;
use std::sync::Arc;

struct Office {
    ca: Arc<Ca>,
    records: Records,
    _dir: tempfile::TempDir,
}

fn registration(path: &str, selectors: &[&str], ttl: &str) -> RegistrationConfig {
    RegistrationConfig {
        spiffe_id: format!("spiffe://acme.test/{path}"),
        selectors: selectors.iter().map(|s| s.to_string()).collect(),
        ttl: Some(ttl.into()),
        ..RegistrationConfig::default()
    }
}

async fn office() -> Office {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::default();
    let config = CaConfig::new(domain(), dir.path().join("ca"));
    let ca = Ca::start(config, standing_clock(), records.stream())
        .await
        .unwrap();
    let list = [
        registration("web", &["unix:uid:1", "unix:path:/bin/web"], "60s"),
        registration("web", &["unix:uid:2"], "10s"),
        registration("db", &["unix:uid:1"], "1h"),
    ];
    let list = crate::registration::parse(&list, &ca.rules()).unwrap();
    ca.apply(list).await.unwrap();
    Office {
        ca,
        records,
        _dir: dir,
    }
}

fn request(key: &SvidKey, path: &str, selectors: &[&str]) -> IssueRequest {
    let id = domain().id(path).unwrap();
    let selectors: Vec<_> = selectors.iter().map(|s| s.parse().unwrap()).collect();
    key.request(&domain(), &id, &selectors).unwrap()
}

const WEB: &[&str] = &["unix:uid:1", "unix:gid:9", "unix:path:/bin/web"];

#[tokio::test]
async fn a_good_request_gets_an_svid_to_the_letter() {
    let office = office().await;
    let key = SvidKey::generate().unwrap();
    let response = office.ca.issue(&request(&key, "web", WEB)).await.unwrap();
    let chain: Vec<CertificateDer<'static>> = response.chain.into_iter().map(Into::into).collect();
    assert_eq!(chain.len(), 2, "leaf and intermediate, no root");
    let (rest, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    assert!(rest.is_empty());
    assert_eq!(leaf.public_key().raw, key.spki());
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth);
    let (start, end) = (leaf.validity().not_before, leaf.validity().not_after);
    assert_eq!(
        end.timestamp() - start.timestamp(),
        70,
        "60 s and 10 s dated back"
    );
    assert_eq!(end.timestamp(), response.not_after_s);
    let bundle = office.ca.trust().borrow().bundle.clone();
    let now = UnixTime::now();
    assert_eq!(
        verify_chain(&chain, &bundle, now).unwrap().id.path(),
        "/web"
    );

    let list = office.ca.issued(&IssuedFilter::default()).await.unwrap();
    assert_eq!(list[0].serial, leaf.raw_serial());
    assert_eq!(list[0].selectors, WEB);
    let Some(Body::Credential(record)) = office.records.bodies().pop() else {
        panic!("no record");
    };
    assert_eq!(
        (record.verb.as_str(), record.serial),
        ("issued", list[0].serial.clone())
    );
    assert_eq!(record.authority, list[0].authority.as_bytes());
}

#[tokio::test]
async fn everything_else_is_refused_by_name_and_recorded() {
    let office = office().await;
    let key = SvidKey::generate().unwrap();
    let good = request(&key, "web", WEB);
    let with = |change: &dyn Fn(&mut IssueRequest)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    let id = |uri: &str| with(&|r: &mut IssueRequest| r.spiffe_id = uri.into());
    let spki = |spki: Vec<u8>| with(&move |r: &mut IssueRequest| r.spki.clone_from(&spki));
    let selectors = |list: &[&str]| request(&key, "web", list);
    let pkcs10 = rcgen::CertificateParams::default()
        .serialize_request(&rcgen::KeyPair::generate().unwrap())
        .unwrap();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
        .unwrap();
    let mut off_curve = key.spki();
    *off_curve.last_mut().unwrap() ^= 1;
    let cases = [
        (id("spiffe://acme.test/unknown"), "unregistered"),
        (id("spiffe://acme.test/palisade/ca"), "unregistered"),
        (id("spiffe://acme.test/palisade/admin"), "unregistered"),
        (id("spiffe://evil.test/web"), "wrong_trust_domain"),
        (id("spiffe://acme.test.evil.test/web"), "wrong_trust_domain"),
        (id("spiffe://ACME.test/web"), "not_spiffe"),
        (id("spiffe://acme.test/web/"), "not_spiffe"),
        (id("spiffe://acme.test/x/../web"), "not_spiffe"),
        (id("spiffe://acme.test"), "not_spiffe"),
        (id(""), "not_spiffe"),
        (selectors(&[]), "not_attested"),
        (selectors(&["unix:uid:1"]), "not_attested"),
        (
            selectors(&["unix:uid:3", "unix:path:/bin/web"]),
            "not_attested",
        ),
        (
            with(&|r| r.selectors.push("any".into())),
            "selector_invalid",
        ),
        (
            with(&|r| r.selectors = vec!["unix:uid:1".into(); SELECTORS_MAX + 1]),
            "too_large",
        ),
        (spki(vec![]), "key_type"),
        (spki(b"garbage".to_vec()), "key_type"),
        (spki(pkcs10.der().to_vec()), "key_type"),
        (spki([&key.spki()[..], b"\0"].concat()), "key_type"),
        (spki(p384.subject_public_key_info()), "key_type"),
        (spki(ed25519.subject_public_key_info()), "key_type"),
        (spki(rsa.subject_public_key_info()), "key_type"),
        (spki(vec![0x30; SPKI_LEN_MAX]), "key_type"),
        (spki(vec![0x30; SPKI_LEN_MAX + 1]), "too_large"),
        (spki(off_curve), "proof_invalid"),
        (spki(SvidKey::generate().unwrap().spki()), "proof_invalid"),
        (with(&|r| r.proof.clear()), "proof_invalid"),
        (with(&|r| r.proof = vec![0; PROOF_LEN_MAX]), "proof_invalid"),
        (with(&|r| r.proof = vec![0; PROOF_LEN_MAX + 1]), "too_large"),
    ];
    for (request, reason) in cases {
        let before = office.records.bodies().len();
        let refusal = office.ca.issue(&request).await.expect_err(reason);
        assert_eq!(refusal.reason(), reason, "{refusal}");
        let bodies = office.records.bodies();
        assert_eq!(bodies.len(), before + 1, "one record for each refusal");
        assert!(matches!(bodies.last(), Some(Body::Credential(c)) if c.verb == "refused"));
    }
    // A proof made for one identity does not serve for another that is also ours.
    let mut moved = request(&key, "db", &["unix:uid:1"]);
    moved.proof = good.proof;
    assert_eq!(
        office.ca.issue(&moved).await.unwrap_err().reason(),
        "proof_invalid"
    );
    let issued = office.ca.issued(&IssuedFilter::default()).await.unwrap();
    assert!(issued.is_empty(), "nothing was issued");
}

#[tokio::test]
async fn a_key_serves_one_identity() {
    let office = office().await;
    let key = SvidKey::generate().unwrap();
    for _ in 0..2 {
        office.ca.issue(&request(&key, "web", WEB)).await.unwrap();
    }
    let stolen = office.ca.issue(&request(&key, "db", &["unix:uid:1"])).await;
    assert_eq!(stolen.unwrap_err().reason(), "key_bound");
}

#[tokio::test]
async fn the_first_registration_that_is_attested_decides() {
    let office = office().await;
    let key = SvidKey::generate().unwrap();
    let response = office
        .ca
        .issue(&request(&key, "web", &["unix:uid:2"]))
        .await
        .unwrap();
    let (_, leaf) = X509Certificate::from_der(&response.chain[0]).unwrap();
    let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(life, 11);
}

#[tokio::test]
async fn a_certificate_without_a_record_does_not_leave() {
    let office = office().await;
    let key = SvidKey::generate().unwrap();
    office.records.set_full(true);
    let refusal = office
        .ca
        .issue(&request(&key, "web", WEB))
        .await
        .unwrap_err();
    assert_eq!(refusal.reason(), "unrecorded");
    assert!(refusal.is_temporary());
    office.records.set_full(false);
    assert!(office.ca.issue(&request(&key, "web", WEB)).await.is_ok());
}

#[test]
fn an_authority_s_key_is_not_certified() {
    let key = SvidKey::generate().unwrap();
    let list = [registration("web", &["unix:uid:1"], "60s")];
    let rules = CaConfig::new(domain(), "/nowhere").rules();
    let list = crate::registration::parse(&list, &rules).unwrap();
    let keys = HashSet::from([Digest::of(&key.spki()).0]);
    let desk = Desk {
        trust_domain: &domain(),
        registrations: &list,
        authority_keys: &keys,
        serves: &Registration::is_local,
    };
    let refusal = desk
        .check(&request(&key, "web", &["unix:uid:1"]))
        .unwrap_err();
    assert_eq!(refusal.reason(), "authority_key");
}

const NOW: i64 = 1_700_000_000;

fn press() -> Press {
    let root = Signer::root(&domain(), NOW, 90 * 86_400).unwrap();
    let anchor = TrustBundle {
        trust_domain: domain(),
        roots: vec![root.authority.certificate.clone()],
    };
    let signer = root.intermediate(&domain(), NOW, 3600).unwrap();
    Press { signer, anchor }
}

fn order(ttl_s: u64) -> Order {
    Order {
        spiffe_id: domain().id("web").unwrap(),
        spki: SvidKey::generate().unwrap().spki(),
        ttl: Duration::from_secs(ttl_s),
        selectors: vec![],
        node: None,
    }
}

#[test]
fn a_leaf_never_outlives_its_issuer() {
    let press = press();
    assert!(press.sign(&order(3600), NOW).is_ok());
    let late = press.sign(&order(3601), NOW).unwrap_err();
    assert!(matches!(late, Refusal::TtlPastIssuer(1)));
    assert!(press.sign(&order(60), NOW + 3540).is_ok());
    assert!(press.sign(&order(60), NOW + 3541).is_err());
}

#[test]
fn what_would_not_verify_does_not_leave() {
    let other = Signer::root(&domain(), NOW, 90 * 86_400).unwrap();
    let mut press = press();
    press.anchor.roots = vec![other.authority.certificate];
    let faulty = press.sign(&order(60), NOW).unwrap_err();
    assert_eq!(faulty.reason(), "faulty");
}
