//! Handshakes between two identities, in memory: who is let in, who is refused and
//! with which word, and that rotation is never noticed.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConnection, Connection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection,
};
use rustls_pki_types::{ServerName, UnixTime};
use time::OffsetDateTime;

use super::*;

pub(crate) const NOW: i64 = 1_800_000_000;
const ALPN: &[&[u8]] = &[b"h2"];
type Issuer = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::parse("acme.test").unwrap()
}

pub(crate) fn id(path: &str) -> SpiffeId {
    domain().id(path).unwrap()
}

fn clock() -> Clock {
    Clock::manual(Timestamp::from_second(NOW).unwrap())
}

fn at(second: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(second).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A root and an intermediate under it.
pub(crate) struct Domain {
    root: CertificateDer<'static>,
    issuer: Issuer,
}

impl Domain {
    pub(crate) fn new(name: &str) -> Self {
        let ca = |level: &str, path_len| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params
                .distinguished_name
                .push(DnType::CommonName, format!("{name} {level}"));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            (params, KeyPair::generate().unwrap())
        };
        let (params, key) = ca("root", 1);
        let root: Issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let (params, key) = ca("intermediate", 0);
        Self {
            root: root.der().clone(),
            issuer: CertifiedIssuer::signed_by(params, key, &root).unwrap(),
        }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        bundle(&[self])
    }

    /// Signs a leaf; `change` spoils it.
    fn leaf(
        &self,
        spiffe_id: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Vec<CertificateDer<'static>>, Zeroizing<Vec<u8>>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(spiffe_id)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        (params.not_before, params.not_after) = (at(NOW - 60), at(NOW + 3600));
        change(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![leaf.into(), self.issuer.der().clone()];
        (chain, Zeroizing::new(key.serialize_der()))
    }

    pub(crate) fn svid(&self, path: &str) -> X509Svid {
        let (chain, key) = self.leaf(id(path).as_str(), |_| {});
        X509Svid::new(chain, key).unwrap()
    }

    fn identity(&self, path: &str) -> Identity {
        Identity::new(self.svid(path), self.bundle(), clock()).unwrap()
    }

    /// An identity whose certificate `X509Svid::new` would not even take.
    fn impostor(
        &self,
        spiffe_id: &str,
        change: impl FnOnce(&mut CertificateParams),
        trusted: TrustBundle,
    ) -> Identity {
        let (chain, key) = self.leaf(spiffe_id, change);
        let svid = X509Svid {
            chain,
            key,
            ..self.svid("impostor")
        };
        Identity::new(svid, trusted, clock()).unwrap()
    }
}

fn bundle(domains: &[&Domain]) -> TrustBundle {
    TrustBundle {
        trust_domain: domain(),
        roots: domains.iter().map(|d| d.root.clone()).collect(),
    }
}

/// Both ends of a finished handshake.
struct Pair {
    client: ClientConnection,
    server: ServerConnection,
}

#[derive(Debug)]
enum Failure {
    Client(rustls::Error),
    Server(rustls::Error),
}

fn handshake(client: &ClientConfig, server: &ServerConfig) -> Result<Pair, Failure> {
    let name = ServerName::try_from("peer.invalid").unwrap();
    let mut pair = Pair {
        client: ClientConnection::new(Arc::new(client.clone()), name).unwrap(),
        server: ServerConnection::new(Arc::new(server.clone())).unwrap(),
    };
    for _ in 0..6 {
        let mut wire = VecDeque::new();
        while pair.client.wants_write() {
            pair.client.write_tls(&mut wire).unwrap();
        }
        while !wire.is_empty() {
            pair.server.read_tls(&mut wire).unwrap();
            pair.server.process_new_packets().map_err(Failure::Server)?;
        }
        while pair.server.wants_write() {
            pair.server.write_tls(&mut wire).unwrap();
        }
        while !wire.is_empty() {
            pair.client.read_tls(&mut wire).unwrap();
            pair.client.process_new_packets().map_err(Failure::Client)?;
        }
    }
    assert!(!pair.client.is_handshaking() && !pair.server.is_handshaking());
    Ok(pair)
}

/// Runs a handshake in which `client` wants one of `ids`.
fn meet(client: &Identity, server: &Identity, ids: &[SpiffeId]) -> Result<Pair, Failure> {
    handshake(
        &client.client_config(ids, ALPN),
        &server.server_config(ALPN),
    )
}

fn reason(error: &rustls::Error) -> &'static str {
    PeerError::of_handshake(error)
        .expect("a named refusal")
        .reason()
}

/// Lets `impostor` try both sides against an honest identity of `home`.
fn refused(home: &Domain, impostor: &Identity, expected: &str) {
    let honest = home.identity("honest");
    let Err(Failure::Server(error)) = meet(impostor, &honest, &[id("honest")]) else {
        panic!("{expected}: accepted as a client");
    };
    assert_eq!(reason(&error), expected, "as a client: {error}");
    let Err(Failure::Client(error)) = meet(&honest, impostor, &[id("impostor")]) else {
        panic!("{expected}: accepted as a server");
    };
    assert_eq!(reason(&error), expected, "as a server: {error}");
}

#[test]
fn two_svids_of_a_domain_know_each_other_after_the_handshake() {
    let home = Domain::new("home");
    let (web, db) = (home.identity("web"), home.identity("db"));
    let pair = meet(&web, &db, &[id("other"), id("db")]).unwrap();
    let peer = peer_of_chain(pair.server.peer_certificates().unwrap()).unwrap();
    assert_eq!(peer.id, id("web"));
    assert_eq!(*peer.serial, *web.svid().serial);
    let peer = peer_of_chain(pair.client.peer_certificates().unwrap()).unwrap();
    assert_eq!(peer.id, id("db"));
    assert_eq!(pair.server.alpn_protocol(), Some(b"h2".as_slice()));
}

#[test]
fn tls_13_with_the_hybrid_group_and_without_tickets() {
    let home = Domain::new("home");
    let (web, db) = (home.identity("web"), home.identity("db"));
    let (client, server) = (web.client_config(&[id("db")], ALPN), db.server_config(ALPN));
    assert_eq!(server.send_tls13_tickets, 0);
    // The same configurations twice: the second must be a full handshake again.
    for _ in 0..2 {
        let pair = handshake(&client, &server).unwrap();
        let ends: [Connection; 2] = [pair.client.into(), pair.server.into()];
        for end in ends {
            assert_eq!(end.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            assert_eq!(end.handshake_kind(), Some(HandshakeKind::Full));
            let group = end.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, NamedGroup::X25519MLKEM768);
        }
    }
}

/// Attacks T40, T41 and T42.
#[test]
fn certificates_that_are_no_svids_are_refused_by_name() {
    let home = Domain::new("home");
    let trusted = home.bundle();
    let impostor = id("impostor").to_string();
    let check = |uri: &str, change: fn(&mut CertificateParams), expected: &str| {
        refused(
            &home,
            &home.impostor(uri, change, trusted.clone()),
            expected,
        );
    };
    let names = |uri: &str, expected: &str| check(uri, |_| {}, expected);
    check(&impostor, |p| p.subject_alt_names.clear(), "no_uri_san");
    check(
        &impostor,
        |p| p.subject_alt_names = vec![SanType::DnsName("acme.test".try_into().unwrap())],
        "no_uri_san",
    );
    check(
        &impostor,
        |p| {
            // The name in the subject counts for nothing.
            p.subject_alt_names.clear();
            p.distinguished_name
                .push(DnType::CommonName, "spiffe://acme.test/impostor");
        },
        "no_uri_san",
    );
    check(
        &impostor,
        |p| p.subject_alt_names.push(uri("spiffe://acme.test/second")),
        "several_uri_sans",
    );
    for foreign in ["spiffe://other.test/web", "spiffe://acme.test.evil/web"] {
        names(foreign, "wrong_trust_domain");
    }
    for odd in [
        "https://acme.test/web",
        "SPIFFE://acme.test/web",
        "spiffe://Acme.test/web",
        "spiffe://acme.test",
        "spiffe://acme.test/",
        "spiffe://acme.test/web/",
        "spiffe://acme.test/a/../web",
        "spiffe://acme.test//web",
        "spiffe://acme.test:443/web",
        "spiffe://x@acme.test/web",
        "spiffe://acme.test/w%65b",
        "spiffe://acme.test/web?x",
        "spiffe://acme.test/we\0b",
    ] {
        names(odd, "not_spiffe");
    }
    check(
        &impostor,
        |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        "leaf_is_ca",
    );
    check(
        &impostor,
        |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
        "leaf_is_ca",
    );
    check(
        &impostor,
        |p| p.key_usages.push(KeyUsagePurpose::CrlSign),
        "leaf_is_ca",
    );
    check(
        &impostor,
        |p| p.extended_key_usages.clear(),
        "missing_usage",
    );
    check(
        &impostor,
        |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
        "missing_usage",
    );
    check(
        &impostor,
        |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
        "missing_usage",
    );
    check(&impostor, |p| p.not_after = at(NOW - 1), "expired");
    check(&impostor, |p| p.not_before = at(NOW + 1), "not_valid_yet");
}

/// A twin has our authorities' names, but not their keys.
#[test]
fn another_root_is_an_unknown_issuer_whatever_its_name() {
    let home = Domain::new("home");
    for other in [Domain::new("elsewhere"), Domain::new("home")] {
        let impostor = other.impostor(id("impostor").as_str(), |_| {}, home.bundle());
        refused(&home, &impostor, "unknown_issuer");
    }
}

#[test]
fn a_peer_without_a_certificate_is_refused() {
    let home = Domain::new("home");
    let server = home.identity("db");
    let mut bare = home.identity("web").client_config(&[id("db")], ALPN);
    bare.client_auth_cert_resolver = Arc::new(Nobody);
    let Err(Failure::Server(error)) = handshake(&bare, &server.server_config(ALPN)) else {
        panic!("accepted");
    };
    assert_eq!(reason(&error), "no_certificate");
}

#[derive(Debug)]
struct Nobody;

impl rustls::client::ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn a_valid_svid_that_was_not_expected_is_refused() {
    let home = Domain::new("home");
    let (web, db) = (home.identity("web"), home.identity("db"));
    for ids in [&[][..], &[id("orders")]] {
        let Err(Failure::Client(error)) = meet(&web, &db, ids) else {
            panic!("accepted");
        };
        assert_eq!(reason(&error), "unexpected_id");
    }
}

/// Attack T46, first part.
#[test]
fn chain_length_is_bounded_on_both_sides() {
    let home = Domain::new("home");
    let with = |len: usize| {
        let (mut chain, key) = home.leaf(id("impostor").as_str(), |_| {});
        chain.resize(len, chain[1].clone());
        let svid = X509Svid::new(chain, key).unwrap();
        Identity::new(svid, home.bundle(), clock()).unwrap()
    };
    let honest = home.identity("honest");
    assert!(meet(&with(8), &honest, &[id("honest")]).is_ok());
    refused(&home, &with(9), "chain_too_long");
}

#[test]
fn the_clock_decides_and_both_times_are_told() {
    let home = Domain::new("home");
    let (clock, trusted) = (clock(), home.bundle());
    let identity =
        |path: &str| Identity::new(home.svid(path), trusted.clone(), clock.clone()).unwrap();
    let (web, db) = (identity("web"), identity("db"));
    clock.advance(Duration::from_secs(3600));
    assert!(
        meet(&web, &db, &[id("db")]).is_ok(),
        "the last second counts"
    );
    clock.advance(Duration::from_secs(1));
    let Err(Failure::Client(error)) = meet(&web, &db, &[id("db")]) else {
        panic!("accepted");
    };
    let (now_s, not_after_s) = (1_800_003_601, 1_800_003_600);
    assert_eq!(
        PeerError::of_handshake(&error),
        Some(PeerError::Expired { now_s, not_after_s })
    );
}

#[test]
fn a_root_that_leaves_the_bundle_takes_its_svids_along() {
    let (old, new) = (Domain::new("old"), Domain::new("new"));
    let (web, db) = (old.identity("web"), old.identity("db"));
    assert!(meet(&web, &db, &[id("db")]).is_ok());
    db.replace(new.svid("db"), new.bundle()).unwrap();
    assert!(meet(&web, &db, &[id("db")]).is_err());
    web.replace(new.svid("web"), new.bundle()).unwrap();
    assert!(meet(&web, &db, &[id("db")]).is_ok());
}

/// Invariant 8: what an open connection rests on can be asked for again.
#[test]
fn an_open_connection_knows_the_root_it_rests_on() {
    let (old, new) = (Domain::new("old"), Domain::new("new"));
    let (client, server) = (old.identity("a"), old.identity("b"));
    let (config, witness) = server.server_session(ALPN);
    let (of_client, of_server) = client.client_session(&[id("b")], ALPN);
    assert_eq!(witness.foundation(), None);
    handshake(&of_client, &config).unwrap();
    for (identity, witness) in [(&server, witness), (&client, of_server)] {
        let foundation = witness.foundation().unwrap();
        assert!(identity.trusts(&foundation));
        // The intermediate signed the leaf, the root the intermediate.
        let named = foundation.authorities().count();
        assert!(named <= 2, "{named}");
        let path = if identity.id() == id("a") { "a" } else { "b" };
        let both = bundle(&[&old, &new]);
        identity.replace(old.svid(path), both).unwrap();
        assert!(identity.trusts(&foundation));
        identity.replace(new.svid(path), new.bundle()).unwrap();
        assert!(!identity.trusts(&foundation));
    }
}

#[test]
fn a_state_that_does_not_fit_together_changes_nothing() {
    let home = Domain::new("home");
    let web = home.identity("web");
    let before = web.svid().serial;
    let mixed = X509Svid {
        key: home.svid("web").key,
        ..home.svid("web")
    };
    assert!(matches!(
        web.replace(mixed, home.bundle()),
        Err(IdentityError::Key(_))
    ));
    let mut broken = home.bundle();
    broken.roots.push(vec![0x30, 0].into());
    assert!(matches!(
        web.replace(home.svid("web"), broken),
        Err(IdentityError::Root(_))
    ));
    assert_eq!(web.svid().serial, before);
}

/// Attack T97: whatever was opened under one identity is never used for another,
/// because nobody changes who he is.
#[test]
fn nobody_becomes_somebody_else() {
    let home = Domain::new("home");
    let web = home.identity("web");
    assert!(matches!(
        web.replace(home.svid("db"), home.bundle()),
        Err(IdentityError::OtherId { .. })
    ));
    assert_eq!(web.id(), id("web"));
    assert!(web.replace(home.svid("web"), home.bundle()).is_ok());
}

#[test]
fn a_chain_is_verified_as_a_handshake_would() {
    let (home, elsewhere) = (Domain::new("home"), Domain::new("elsewhere"));
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let verify = |chain: &[CertificateDer<'_>], d: &Domain| verify_chain(chain, &d.bundle(), now);
    let svid = home.svid("web");
    assert_eq!(verify(&svid.chain, &home).unwrap().id, id("web"));
    assert_eq!(verify(&[], &home), Err(PeerError::NoCertificate));
    assert_eq!(
        verify(&svid.chain, &elsewhere),
        Err(PeerError::UnknownIssuer)
    );
    assert_eq!(
        verify(&svid.chain[..1], &home),
        Err(PeerError::UnknownIssuer)
    );
    let (foreign, _) = home.leaf("spiffe://other.test/web", |_| {});
    let refused = verify(&foreign, &home).unwrap_err();
    assert_eq!(refused.reason(), "wrong_trust_domain");
}

/// A session that was resumed would skip the verification against the new bundle.
#[test]
fn no_session_is_resumed_after_a_rotation_and_the_change_of_trust_can_be_seen() {
    let (one, two) = (Domain::new("one"), Domain::new("two"));
    let (web, db) = (one.identity("web"), one.identity("db"));
    let (client, server) = (web.client_config(&[id("db")], ALPN), db.server_config(ALPN));
    handshake(&client, &server).unwrap();
    assert_eq!(db.trust_revision(), 0);
    db.replace(one.svid("db"), one.bundle()).unwrap();
    assert_eq!(db.trust_revision(), 0, "only the certificate is another");
    for (revision, trusted) in [(1, bundle(&[&one, &two])), (2, two.bundle())] {
        db.replace(two.svid("db"), trusted.clone()).unwrap();
        assert_eq!(db.trust_revision(), revision);
        web.replace(two.svid("web"), trusted).unwrap();
        let pair = handshake(&client, &server).unwrap();
        let ends: [Connection; 2] = [pair.client.into(), pair.server.into()];
        for end in ends {
            assert_eq!(end.handshake_kind(), Some(HandshakeKind::Full));
        }
    }
    // The same client as in the first handshake, with its old certificate.
    web.replace(one.svid("web"), bundle(&[&one, &two])).unwrap();
    let refused = handshake(&client, &server).err().unwrap();
    assert!(matches!(refused, Failure::Server(_)), "{refused:?}");
}

/// Leaves and roots are rotated without a pause while handshakes run. The roots
/// rotate in the order an authority keeps (published, used, gone), and each phase
/// lasts until every handshake that began before it is over.
#[test]
fn rotation_fails_no_handshake() {
    const HANDSHAKES: usize = 2000;
    let (one, two) = (Domain::new("one"), Domain::new("two"));
    let (only_one, both, only_two) = (bundle(&[&one]), bundle(&[&one, &two]), bundle(&[&two]));
    let (web, db) = (one.identity("web"), one.identity("db"));
    let (done, finished) = (AtomicBool::new(false), AtomicUsize::new(0));
    let replaced = AtomicUsize::new(0);
    let phases = [
        (&one, &both),
        (&two, &both),
        (&two, &only_two),
        (&two, &both),
        (&one, &both),
        (&one, &only_one),
    ];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (signer, trusted) in phases.into_iter().cycle() {
                // Counted from the first replacement on, not from before it.
                let mut begun = None;
                while begun.is_none_or(|n| finished.load(Ordering::SeqCst) < n + 2) {
                    // The two ends are replaced one after the other, as in a fleet.
                    web.replace(signer.svid("web"), trusted.clone()).unwrap();
                    db.replace(signer.svid("db"), trusted.clone()).unwrap();
                    replaced.fetch_add(2, Ordering::SeqCst);
                    begun = begun.or_else(|| Some(finished.load(Ordering::SeqCst)));
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                }
            }
        });
        let (client, server) = (web.client_config(&[id("db")], ALPN), db.server_config(ALPN));
        let mut failed = Vec::new();
        for n in 0..HANDSHAKES {
            failed.extend(handshake(&client, &server).err().map(|e| (n, e)));
            finished.fetch_add(1, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
        assert!(
            failed.is_empty(),
            "{} failed: {:?}",
            failed.len(),
            failed.first()
        );
    });
    let replaced = replaced.into_inner();
    assert!(replaced > HANDSHAKES / 2, "only {replaced} rotations");
}

/// On both sides of its end: a certificate that is over signs nothing.
#[test]
fn an_svid_that_has_ended_signs_nothing() {
    let domain = Domain::new("one");
    let clock = clock();
    let identity = Identity::new(domain.svid("web"), domain.bundle(), clock.clone()).unwrap();
    clock.advance(Duration::from_secs(3600));
    let signed = identity.sign(b"message").unwrap();
    let verified = verify_signed(
        &signed.certificates[0],
        signed.scheme,
        b"message",
        &signed.signature,
    );
    assert_eq!(verified.unwrap().id, id("web"));
    clock.advance(Duration::from_secs(1));
    assert!(identity.sign(b"message").is_none());
}
