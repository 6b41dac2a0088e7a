//! n of m keys, each side of every limit.

use palisade_mesh::wire::policy::WayBack;

use super::*;
use crate::bundle::key::SigningKey;

fn domain() -> TrustDomain {
    TrustDomain::parse("acme.test").unwrap()
}

fn keys(n: usize) -> Vec<SigningKey> {
    (0..n).map(|_| SigningKey::generate().unwrap().0).collect()
}

/// A file with these keys as `k0`, `k1` …; the ones in `removed` no longer count.
fn file(keys: &[SigningKey], removed: &[usize]) -> String {
    let line = |(i, key): (usize, &SigningKey)| {
        let end = if removed.contains(&i) {
            " removed 2026-11-02"
        } else {
            ""
        };
        format!("k{i} {}{end}\n", key.public())
    };
    keys.iter().enumerate().map(line).collect()
}

fn trust(keys: &[SigningKey], removed: &[usize], threshold: usize) -> Trust {
    Trust::new(
        Keys::parse("keys", &file(keys, removed)).unwrap(),
        threshold,
    )
}

fn digest() -> Digest {
    Digest::of(b"content")
}

/// Number 7, content and number signed by these.
fn signed(content: &[&SigningKey], release: &[&SigningKey]) -> Revision {
    let domain = domain();
    let mut revision = Revision {
        sequence: 7,
        issued_us: 11,
        ..Revision::default()
    };
    let said = statement::content(&domain, digest());
    revision.content_signatures = content.iter().map(|key| said.sign(key)).collect();
    let said = statement::release(&domain, digest(), &revision);
    revision.release_signatures = release.iter().map(|key| said.sign(key)).collect();
    revision
}

/// The bytes that are signed, as the reference page has them.
#[test]
fn statements_are_short_texts() {
    let domain = domain();
    let digest = Digest([0xab; 32]);
    let hex = "ab".repeat(32);
    let revision = signed(&[], &[]);
    let texts = [
        statement::content(&domain, digest).to_string(),
        statement::release(&domain, digest, &revision).to_string(),
        statement::stamp(
            &domain,
            digest,
            7,
            &Stamp {
                issued_us: 12,
                until_us: 13,
                signatures: Vec::new(),
            },
        )
        .to_string(),
    ];
    let of = |kind: &str, rest: &str| {
        format!("palisade policy {kind} v1\ntrust-domain acme.test\ndigest sha256:{hex}\n{rest}")
    };
    assert_eq!(
        texts,
        [
            of("content", ""),
            of("release", "sequence 7\nissued-us 11\n"),
            of("stamp", "sequence 7\nissued-us 12\nuntil-us 13\n"),
        ]
    );
}

#[test]
fn as_many_as_the_threshold_must_have_signed_content_and_number() {
    let all = keys(3);
    let [a, b, c] = [&all[0], &all[1], &all[2]];
    let stranger = &keys(1)[0];
    let check = |revision: &Revision, expected: Result<usize, &str>| {
        let got = trust(&all, &[], 2).check(&domain(), digest(), revision);
        match (got, expected) {
            (Ok(SignedBy::Trusted { signers, of: 3 }), Ok(n)) => assert_eq!(signers.len(), n),
            (Err(error), Err(cause)) => {
                assert_eq!(error.code.0, codes::NOT_SIGNED);
                let told = error.cause.unwrap();
                assert!(told.contains(cause), "{told}");
            }
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    };
    check(&signed(&[a, b], &[a, c]), Ok(2));
    check(&signed(&[a, b, c], &[a, b]), Ok(3));
    check(&signed(&[a, b, stranger], &[a, b]), Ok(2));
    check(
        &signed(&[a], &[a, b]),
        Err("1 of 2 that its content needs: it is signed by `k0`; `k1`, `k2` could"),
    );
    check(&signed(&[a, a], &[a, b]), Err("1 of 2"));
    check(
        &signed(&[a, stranger], &[a, b]),
        Err("an unknown key (ed25519:"),
    );
    check(&signed(&[a, b], &[c]), Err("1 of 2 that its number needs"));
    check(&signed(&[], &[a, b]), Err("signed by nobody"));
}

#[test]
fn a_key_that_was_removed_counts_no_longer_and_is_named() {
    let all = keys(2);
    let revision = signed(&[&all[0], &all[1]], &[&all[0], &all[1]]);
    assert!(
        trust(&all, &[], 2)
            .check(&domain(), digest(), &revision)
            .is_ok()
    );
    let error = trust(&all, &[1], 1);
    assert!(error.check(&domain(), digest(), &revision).is_ok());
    let revision = signed(&[&all[1]], &[&all[1]]);
    let error = error.check(&domain(), digest(), &revision).unwrap_err();
    let cause = error.cause.unwrap();
    assert!(
        cause.contains("`k1`, which was removed from trust on 2026-11-02; `k0` could"),
        "{cause}"
    );
}

/// A signature of one statement, domain, number or bundle is none of another.
#[test]
fn a_signature_holds_for_what_it_was_made_for_alone() {
    let all = keys(1);
    let key = &all[0];
    let trust = trust(&all, &[], 1);
    let good = signed(&[key], &[key]);
    assert!(trust.check(&domain(), digest(), &good).is_ok());
    let forged = |got: Result<SignedBy, Diagnostic>| {
        assert_eq!(got.unwrap_err().code.0, codes::FORGED);
    };
    forged(trust.check(&domain(), Digest::of(b"other"), &good));
    let other = TrustDomain::parse("other.test").unwrap();
    forged(trust.check(&other, digest(), &good));
    let later = Revision {
        sequence: 8,
        ..good.clone()
    };
    forged(trust.check(&domain(), digest(), &later));
    let swapped = Revision {
        content_signatures: good.release_signatures.clone(),
        ..good.clone()
    };
    forged(trust.check(&domain(), digest(), &swapped));
    forged(check_untrusting(&domain(), digest(), &later));
    let mut broken = good.clone();
    broken.content_signatures[0].key.pop();
    forged(trust.check(&domain(), digest(), &broken));
    assert_eq!(
        check_untrusting(&domain(), digest(), &good),
        Ok(SignedBy::Pdp)
    );
}

/// Attack T104: a stamp ends by what it says or by what is demanded here, whichever
/// comes first.
#[test]
fn a_stamp_holds_until_its_end_and_no_longer_than_is_demanded() {
    let all = keys(2);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    std::fs::write(&path, file(&all, &[1])).unwrap();
    let of = |age: Option<u64>| TrustConfig {
        keys: path.clone(),
        threshold: 1,
        stamp_age: age.map(Duration::from_micros),
        stamp_keys: None,
        proved: Vec::new(),
    };
    let stamp = |key: &SigningKey| {
        let mut stamp = Stamp {
            issued_us: 100,
            until_us: 200,
            signatures: Vec::new(),
        };
        let domain = domain();
        let said = statement::stamp(&domain, digest(), 7, &stamp);
        stamp.signatures = vec![said.sign(key)];
        stamp
    };
    let good = stamp(&all[0]);
    let check = |age: Option<u64>, sequence: u64, stamp: Option<&Stamp>, now_us: i64| {
        let trust = of(age).load().unwrap();
        let checked = trust.check_stamp(&domain(), (digest(), sequence), stamp, now_us);
        checked.map_err(|d| d.code.0)
    };
    assert_eq!(check(Some(1000), 7, Some(&good), 200), Ok(Some(200)));
    assert_eq!(check(Some(1000), 7, Some(&good), 201), Err(codes::STAMP));
    assert_eq!(check(Some(50), 7, Some(&good), 150), Ok(Some(150)));
    assert_eq!(check(Some(50), 7, Some(&good), 151), Err(codes::STAMP));
    assert_eq!(check(Some(1000), 7, None, 150), Err(codes::STAMP));
    assert_eq!(check(Some(1000), 8, Some(&good), 150), Err(codes::FORGED));
    assert_eq!(
        check(Some(1000), 7, Some(&stamp(&all[1])), 150),
        Err(codes::STAMP)
    );
    assert_eq!(check(None, 7, None, 150), Ok(None));
}

#[test]
fn a_file_of_keys_is_read_line_by_line_and_doubles_are_refused() {
    let all = keys(2);
    let [a, b] = [all[0].public(), all[1].public()];
    let count = |text: &str| Keys::parse("keys", text).map(|k| k.trusted().count());
    let good = format!("# who may\n\n  k0  {a}  \nk1 {b} removed 2026-01-31\n");
    assert_eq!(count(&good), Ok(1));
    for bad in [
        "k0".to_owned(),
        "k0 rsa:AAAA".to_owned(),
        format!("k0 {a} until 2026-01-31"),
        format!("k0 {a} removed"),
        format!("k0 {a} removed yesterday"),
        format!("k0 {a} removed 2026-01-31 x"),
        format!("k/0 {a}"),
        format!("{} {a}", "k".repeat(NAME_LEN_MAX + 1)),
        format!("k0 {a}\nk0 {b}"),
        format!("k0 {a}\nk1 {a}"),
    ] {
        assert_eq!(count(&bad).unwrap_err().code.0, codes::KEYS, "{bad}");
    }
    assert_eq!(count(&format!("{} {a}", "k".repeat(NAME_LEN_MAX))), Ok(1));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let load = |threshold| {
        let config = TrustConfig {
            keys: path.clone(),
            threshold,
            stamp_age: None,
            stamp_keys: None,
            proved: Vec::new(),
        };
        config.load().map(drop).map_err(|d| d.code.0)
    };
    assert_eq!(load(1), Err(codes::KEYS));
    std::fs::write(&path, &good).unwrap();
    assert_eq!(
        (load(0), load(1), load(2)),
        (Err(codes::KEYS), Ok(()), Err(codes::KEYS))
    );
}

/// The bytes that are signed about a way back, as the reference page has them.
#[test]
fn a_way_back_names_where_it_leads_and_until_when() {
    let back = WayBack {
        sha256: vec![0xcd; 32],
        sequence: 6,
        until_us: 13,
        signatures: Vec::new(),
    };
    let (domain, digest) = (domain(), Digest([0xab; 32]));
    let said = statement::way_back(&domain, digest, 7, &back).unwrap();
    assert_eq!(
        said.to_string(),
        format!(
            "palisade policy way-back v1\ntrust-domain acme.test\ndigest sha256:{}\nsequence 7\nback-digest sha256:{}\nback-sequence 6\nuntil-us 13\n",
            "ab".repeat(32),
            "cd".repeat(32),
        )
    );
    let none = WayBack {
        sha256: vec![0xcd; 31],
        ..back
    };
    assert_eq!(statement::way_back(&domain, digest, 7, &none), None);
}

/// Attack T104: as many must have signed a way back as a number, and it leads to nothing else
/// and no longer than they said. Who does not demand signatures demands one.
#[test]
fn a_way_back_is_as_good_as_its_signatures() {
    let keys = keys(3);
    let (k0, k1, k2) = (&keys[0], &keys[1], &keys[2]);
    let domain = domain();
    let to = (Digest::of(b"old"), 6);
    let with = |by: &[&SigningKey], sequence: u64| {
        let mut revision = signed(&[k0, k1], &[k0, k1]);
        revision.sha256 = digest().0.to_vec();
        let mut back = WayBack {
            sha256: to.0.0.to_vec(),
            sequence,
            until_us: 100,
            signatures: Vec::new(),
        };
        let said = statement::way_back(&domain, digest(), 7, &back).unwrap();
        back.signatures = by.iter().map(|key| said.sign(key)).collect();
        revision.way_back = Some(back);
        revision
    };
    let two = trust(&keys, &[], 2);
    let code = |trust: Option<&Trust>, revision: &Revision| {
        check(trust, &domain, digest(), revision)
            .map(|_| ())
            .map_err(|d| d.code.0)
    };
    assert_eq!(code(Some(&two), &with(&[k1, k2], 6)), Ok(()));
    assert_eq!(code(None, &with(&[k2], 6)), Ok(()));
    let broken = crate::author::codes::BUNDLE_BROKEN;
    // Too few leave the revision good, and lead nowhere.
    let weak = |trust: Option<&Trust>, by: &[&SigningKey]| {
        let revision = with(by, 6);
        assert_eq!(code(trust, &revision), Ok(()));
        way_back(trust, &domain, &revision, to, 99).map_err(|d| d.code.0)
    };
    assert_eq!(weak(Some(&two), &[k1]), Err(codes::NOT_SIGNED));
    assert_eq!(weak(Some(&two), &[]), Err(codes::NOT_SIGNED));
    assert_eq!(weak(None, &[]), Err(codes::WAY_BACK));
    assert_eq!(weak(None, &[k2]), Ok(100));
    for trusting in [Some(&two), None] {
        // It does not lead to a lower number, or to none.
        assert_eq!(code(trusting, &with(&[k0, k1], 7)), Err(broken));
        assert_eq!(code(trusting, &with(&[k0, k1], 0)), Err(broken));
        let mut later = with(&[k0, k1], 6);
        later.way_back.as_mut().unwrap().until_us += 1;
        assert_eq!(code(trusting, &later), Err(codes::FORGED));
        // It was given to another number of the same content.
        let mut moved = with(&[k0, k1], 6);
        moved.sequence = 8;
        let said = statement::release(&domain, digest(), &moved);
        moved.release_signatures = vec![said.sign(k0), said.sign(k1)];
        assert_eq!(code(trusting, &moved), Err(codes::FORGED));
    }

    let good = with(&[k0, k1], 6);
    let leads = |trust: &Trust, to, now_us| {
        way_back(Some(trust), &domain, &good, to, now_us).map_err(|d| d.code.0)
    };
    assert_eq!(leads(&two, to, 99), Ok(100));
    assert_eq!(leads(&two, to, 100), Err(codes::WAY_BACK));
    assert_eq!(leads(&two, (to.0, 5), 99), Err(codes::WAY_BACK));
    let other = (Digest::of(b"other"), 6);
    assert_eq!(leads(&two, other, 99), Err(codes::WAY_BACK));
    // A key that was taken out since counts no longer.
    let without = trust(&keys, &[0], 2);
    assert_eq!(leads(&without, to, 99), Err(codes::NOT_SIGNED));
    let none = signed(&[k0, k1], &[k0, k1]);
    let none = way_back(Some(&two), &domain, &none, to, 99).unwrap_err();
    assert_eq!(none.code.0, codes::WAY_BACK);
}
