//! TLS and identity (T40 to T47, T65, T66): who gets past the handshake, what a
//! refusal leaves in the log, and what a slow or silent peer may do.

use std::{
    io::{Read, Write},
    time::Instant,
};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::HandshakeKind;
use rustls_pki_types::CertificateDer;

use crate::{
    guarded::{BOUND, Guarded, Setting, WEB, of_class, request, status},
    support::{
        LIMIT,
        authority::{Authority, Leaf},
        http, wait_for,
    },
};

const PUBLIC: &str = "GET /public/x HTTP/1.1\r\nhost: orders";

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A subjectAltName of one URI whose bytes no library would write.
fn raw_uri(bytes: &[u8]) -> CustomExtension {
    let len = u8::try_from(bytes.len()).unwrap();
    let name = [&[0x86, len], bytes].concat();
    let content = [&[0x30, len + 2], name.as_slice()].concat();
    CustomExtension::from_oid_content(&[2, 5, 29, 17], content)
}

/// Every way in which a certificate is no SVID of ours: its reason, and what the
/// record says that it claimed.
fn impostors(authority: &Authority) -> Vec<(Leaf, &'static str, &'static str)> {
    let sans = |names: Vec<SanType>| authority.spoilt(|p| p.subject_alt_names = names);
    let named = |text: &str| sans(vec![uri(text)]);
    let web = "spiffe://acme.test/ns/shop/sa/web";
    let but = |change: fn(&mut CertificateParams)| {
        authority.spoilt(|p| {
            p.subject_alt_names = vec![uri(web)];
            change(p);
        })
    };
    let mut all = vec![
        // T40
        (sans(vec![]), "no_uri_san", ""),
        (
            sans(vec![SanType::DnsName("web".try_into().unwrap())]),
            "no_uri_san",
            "",
        ),
        (
            sans(vec![SanType::OtherName((vec![1, 2, 3], web.into()))]),
            "no_uri_san",
            "",
        ),
        (
            authority.spoilt(|p| p.distinguished_name.push(DnType::CommonName, web)),
            "no_uri_san",
            "",
        ),
        (
            sans(vec![uri(web), uri("spiffe://acme.test/ns/shop/sa/orders")]),
            "several_uri_sans",
            web,
        ),
        // T41
        (
            named("spiffe://acme.test.evil/web"),
            "wrong_trust_domain",
            "spiffe://acme.test.evil/web",
        ),
        // T42
        (
            authority.spoilt(|p| p.custom_extensions = vec![raw_uri(b"spiffe://acme.test/\xe9")]),
            "no_uri_san",
            "",
        ),
        (
            named("spiffe://acme.test/we\0b"),
            "not_spiffe",
            "spiffe://acme.test/we\\u{0}b",
        ),
        (
            named("spiffe://acme.test/\u{1b}[31m"),
            "not_spiffe",
            "spiffe://acme.test/\\u{1b}[31m",
        ),
        (
            but(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "missing_usage",
            web,
        ),
        (but(|p| p.extended_key_usages.clear()), "missing_usage", web),
        (
            but(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "leaf_is_ca",
            web,
        ),
        (
            but(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            "leaf_is_ca",
            web,
        ),
        (
            but(|p| p.not_after = rcgen::date_time_ymd(2001, 1, 1)),
            "expired",
            web,
        ),
        (
            but(|p| p.not_before = rcgen::date_time_ymd(4000, 1, 1)),
            "not_valid_yet",
            web,
        ),
        (Authority::new("acme.test").leaf(WEB), "unknown_issuer", web),
    ];
    for odd in [
        "https://acme.test/web",
        "SPIFFE://acme.test/web",
        "spiffe://Acme.test/web",
        "spiffe://acme.test",
        "spiffe://acme.test/web/",
        "spiffe://acme.test/ns/a/sa/b/../c",
        "spiffe://acme.test//web",
        "spiffe://acme.test:443/web",
        "spiffe://x@acme.test/web",
        "spiffe://acme.test/w%65b",
        "spiffe://acme.test/web?x",
        "spiffe://acme.test/web#x",
    ] {
        all.push((named(odd), "not_spiffe", odd));
    }
    all
}

#[test]
fn t40_t41_t42_who_is_no_svid_is_refused_and_named() {
    let guarded = Guarded::start();
    let impostors = impostors(&guarded.authority);
    for (leaf, reason, _) in &impostors {
        let config = Guarded::config(leaf, &[]);
        let answer = guarded.raw(&config, &request(PUBLIC));
        assert!(answer.is_err(), "{reason}: {answer:?}");
    }
    assert_eq!(guarded.status(PUBLIC), 200, "an SVID passes");
    assert_eq!(guarded.app.seen().len(), 1);
    let (rows, ..) = guarded.end();
    let failures = of_class(&rows, "authn_failure");
    let told: Vec<_> = failures
        .iter()
        .map(|r| {
            (
                r.text("reason").unwrap(),
                r.text("claimed").unwrap_or_default(),
            )
        })
        .collect();
    let expected: Vec<_> = impostors.iter().map(|(_, r, c)| (*r, *c)).collect();
    assert_eq!(told, expected);
    assert_eq!(of_class(&rows, "decision").len(), 1);
}

#[test]
fn t43_no_session_is_resumed_and_a_root_that_left_takes_its_svids_along() {
    let guarded = Guarded::start();
    let config = Guarded::config(&guarded.authority.leaf(WEB), &[]);
    for _ in 0..2 {
        let mut stream = guarded.dial(&config, "orders");
        stream.write_all(&request(PUBLIC)).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
        assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(stream.conn.tls13_tickets_received(), 0);
    }
    let other = Authority::new("acme.test");
    other.write(
        &other.leaf("ns/shop/sa/orders"),
        &guarded.home.path("identity"),
    );
    let next = Guarded::config(&other.leaf(WEB), &[]);
    wait_for("the new root", LIMIT, || {
        let answer = guarded.raw(&next, &request(PUBLIC)).ok()?;
        (status(&answer) == 200).then_some(())
    });
    assert!(guarded.raw(&config, &request(PUBLIC)).is_err());
    let (rows, ..) = guarded.end();
    let last = of_class(&rows, "authn_failure").pop().unwrap();
    assert_eq!(last.text("reason"), Some("unknown_issuer"));
}

/// An authority below the root, or beside it.
struct Below {
    params: CertificateParams,
    key: KeyPair,
}

impl Below {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        Self {
            params,
            key: KeyPair::generate().unwrap(),
        }
    }

    fn issuer(&self) -> Issuer<'static, KeyPair> {
        let key = KeyPair::from_pem(&self.key.serialize_pem()).unwrap();
        Issuer::new(self.params.clone(), key)
    }

    fn signed_by(&self, other: &Self) -> CertificateDer<'static> {
        let signed = self.params.signed_by(&self.key, &other.issuer());
        signed.unwrap().der().clone()
    }
}

#[test]
fn t46_long_and_cyclic_chains_are_refused_in_bounded_time() {
    let guarded = Guarded::start();
    let web = |p: &mut CertificateParams| {
        p.subject_alt_names = vec![uri("spiffe://acme.test/ns/shop/sa/web")];
    };
    let refused = |leaf: &Leaf, above: &[CertificateDer<'static>]| {
        let started = Instant::now();
        let config = Guarded::config(leaf, above);
        assert!(guarded.raw(&config, &request(PUBLIC)).is_err());
        assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    };
    let (a, b) = (Below::new("a"), Below::new("b"));
    let leaf = guarded.authority.sign(&a.issuer(), web);
    let good = guarded.authority.issue(&a.params, &a.key);
    let config = Guarded::config(&leaf, std::slice::from_ref(&good));
    let answer = guarded.raw(&config, &request(PUBLIC)).unwrap();
    assert_eq!(
        status(&answer),
        200,
        "an intermediate under the root passes"
    );

    // Each signs the other, several times over; no path ends at a root.
    let cycle: Vec<_> = (0..3)
        .flat_map(|_| [a.signed_by(&b), b.signed_by(&a)])
        .collect();
    refused(&leaf, &cycle);
    refused(&leaf, &vec![good.clone(); 8]);
    refused(&leaf, &vec![good; 100]);
    // A name constraint that the leaf's only name violates (RFC 5280 section 4.2.1.10).
    let mut narrow = Below::new("narrow");
    let other = b"other.test";
    let len = u8::try_from(other.len()).unwrap();
    let content = [
        &[0x30, len + 6, 0xa0, len + 4, 0x30, len + 2, 0x86, len],
        other.as_slice(),
    ]
    .concat();
    let mut constraint = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    constraint.set_criticality(true);
    narrow.params.custom_extensions = vec![constraint];
    let leaf = guarded.authority.sign(&narrow.issuer(), web);
    refused(
        &leaf,
        &[guarded.authority.issue(&narrow.params, &narrow.key)],
    );

    assert_eq!(guarded.app.seen().len(), 1);
    let (rows, ..) = guarded.end();
    let failures = of_class(&rows, "authn_failure");
    let reasons: Vec<_> = failures.iter().filter_map(|r| r.text("reason")).collect();
    assert_eq!(
        reasons,
        [
            "unknown_issuer",
            "chain_too_long",
            "chain_too_long",
            "chain_invalid"
        ]
    );
}

/// The records of a flight, cut so that each holds one byte.
fn in_single_bytes(mut flight: &[u8]) -> Vec<u8> {
    let mut cut = Vec::new();
    while let [kind, major, minor, high, low, rest @ ..] = flight {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        for byte in &rest[..len] {
            cut.extend_from_slice(&[*kind, *major, *minor, 0, 1, *byte]);
        }
        flight = &rest[len..];
    }
    cut
}

#[test]
fn t47_a_client_hello_in_single_bytes_is_read_and_one_that_never_ends_is_ended() {
    let guarded = Guarded::set(&Setting {
        limits: &["handshake_timeout: 2s"],
        ..Setting::default()
    });
    let config = Guarded::config(&guarded.authority.leaf(WEB), &[]);
    let mut stream = guarded.dial(&config, "orders");
    let mut hello = Vec::new();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut hello).unwrap();
    }
    let cut = in_single_bytes(&hello);
    let _ = stream.sock.set_nodelay(true);
    for piece in cut.chunks(97) {
        stream.sock.write_all(piece).unwrap();
    }
    stream.write_all(&request(PUBLIC)).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");

    for part in [&cut[..], &hello[..]] {
        let mut silent = http::connect(guarded.inbound).unwrap();
        silent.write_all(&part[..part.len() / 2]).unwrap();
        let mut end = Vec::new();
        let _ = silent.read_to_end(&mut end);
        assert!(end.is_empty(), "{end:?}");
    }
    assert_eq!(guarded.status(PUBLIC), 200, "others are served");
    assert_eq!(guarded.app.seen().len(), 2);
    let (rows, ..) = guarded.end();
    let failures = of_class(&rows, "authn_failure");
    let reasons: Vec<_> = failures.iter().filter_map(|r| r.text("reason")).collect();
    assert_eq!(reasons, ["handshake_timeout", "handshake_timeout"]);
}

/// The name that a client asks for in the handshake chooses nothing: what is behind
/// a listener is in its configuration.
#[test]
fn t65_a_server_name_leads_nowhere_else() {
    let guarded = Guarded::start();
    let config = Guarded::config(&guarded.authority.leaf(WEB), &[]);
    for name in ["payments", "admin.evil.test", "localhost"] {
        for (path, expected) in [("/public/x", 200), ("/admin/x", 403)] {
            let mut stream = guarded.dial(&config, name);
            let head = format!("GET {path} HTTP/1.1\r\nhost: orders");
            stream.write_all(&request(&head)).unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert_eq!(status(&answer), expected, "{name}: {answer}");
        }
    }
    assert_eq!(guarded.app.seen().len(), 3);
    let (rows, ..) = guarded.end();
    let decisions = of_class(&rows, "decision");
    assert_eq!(decisions.len(), 6);
    for row in decisions {
        assert_eq!(row.text("service"), Some("acme.test/shop/orders"));
    }
}

/// What is no HTTP is never passed on as plain bytes, on either side.
#[test]
fn t66_a_silent_or_foreign_protocol_is_not_tunnelled() {
    let guarded = Guarded::set(&Setting {
        limits: &["header_read_timeout: 1s", "idle_timeout: 2s"],
        ..Setting::default()
    });
    let config = Guarded::config(&guarded.authority.leaf(WEB), &[]);
    for bytes in [
        &b""[..],
        b"SSH-2.0-x\r\n",
        b"\x16\x03\x01\0\x05hello",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
    ] {
        let mut inside = guarded.dial(&config, "orders");
        inside.write_all(bytes).unwrap();
        while inside.conn.is_handshaking() {
            inside.conn.complete_io(&mut inside.sock).unwrap();
        }
        let mut answer = Vec::new();
        let _ = inside.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!([0, 400, 408].contains(&status(&answer)), "{answer}");

        let mut outside = http::connect(guarded.outbound).unwrap();
        outside.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = outside.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!([0, 400, 408].contains(&status(&answer)), "{answer}");
    }
    assert_eq!(guarded.app.seen(), [""; 0]);
    let (rows, ..) = guarded.end();
    for row in of_class(&rows, "decision") {
        assert_eq!(row.text("decision"), Some("refused"));
    }
}
