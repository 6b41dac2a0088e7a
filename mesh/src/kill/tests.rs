//! Who is barred and who is not; and that only the authority's own word counts.

use rustls_pki_types::UnixTime;
use std::time::Duration;

use super::*;
use crate::svid::{
    PeerError,
    tests::{Domain, NOW, domain, id},
};

const NOW_US: i64 = NOW * 1_000_000;
const KEY_ID: &[u8] = b"an authority's key id";
const SERIAL: &[u8] = &[0x2a; 16];

fn entry(target: Target) -> Entry {
    Entry {
        id: Ulid::from_parts(1, 2),
        target,
        reason: "key seen on a public host".into(),
        author: "uid:1000".into(),
        created_us: NOW_US,
        expires_us: None,
    }
}

fn list(targets: impl IntoIterator<Item = Target>) -> KillList {
    let entries = targets.into_iter().map(entry).collect();
    KillList::new(domain(), 7, NOW_US, entries).unwrap()
}

fn refused(target: Target) -> Option<BadEntry> {
    refused_entry(entry(target))
}

fn refused_entry(entry: Entry) -> Option<BadEntry> {
    match KillList::new(domain(), 1, 0, vec![entry]) {
        Ok(_) => None,
        Err(KillListError::Entry(why)) => Some(why),
        Err(other) => panic!("{other}"),
    }
}

/// Asks whether `path` with a serial and an authority of its own is barred.
fn bars(list: &KillList, path: &str, serial: &[u8], authority: &[u8]) -> bool {
    let (id, authorities) = (id(path), [Box::from(authority)]);
    let subject = Subject {
        id: &id,
        serial,
        authorities: &authorities,
    };
    list.bars(&subject, NOW_US).is_some()
}

fn at(second: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(second.try_into().unwrap()))
}

#[test]
fn each_kind_bars_what_it_names_and_nothing_beside_it() {
    let identity = list([Target::Identity(id("ns/shop/sa/web"))]);
    assert!(bars(&identity, "ns/shop/sa/web", b"1", b"a"));
    assert!(!bars(&identity, "ns/shop/sa/web2", b"1", b"a"));
    assert!(!bars(&identity, "ns/shop/sa/web/b", b"1", b"a"));

    let prefix = list([Target::Prefix(id("ns/shop"))]);
    assert!(bars(&prefix, "ns/shop", b"1", b"a"));
    assert!(bars(&prefix, "ns/shop/sa/web", b"1", b"a"));
    assert!(!bars(&prefix, "ns/shopping/sa/web", b"1", b"a"));

    let serial = list([Target::Serial(SERIAL.into())]);
    assert!(bars(&serial, "ns/shop/sa/web", SERIAL, b"a"));
    assert!(!bars(&serial, "ns/shop/sa/web", &SERIAL[1..], b"a"));

    let authority = list([Target::Authority(KEY_ID.into())]);
    assert!(bars(&authority, "ns/shop/sa/web", b"1", KEY_ID));
    assert!(!bars(&authority, "ns/shop/sa/web", KEY_ID, b"a"));

    assert!(!bars(&list([]), "ns/shop/sa/web", SERIAL, KEY_ID));
}

/// A second entry for the same target must not cut the first one short.
#[test]
fn an_entry_ends_at_its_time_unless_another_holds_longer() {
    let ending = |expires_us| Entry {
        expires_us,
        ..entry(Target::Identity(id("web")))
    };
    let (web, end) = (id("web"), NOW_US + 10);
    let subject = Subject {
        id: &web,
        serial: b"1",
        authorities: &[],
    };
    let one = KillList::new(domain(), 1, 0, vec![ending(Some(end))]).unwrap();
    assert!(one.bars(&subject, end - 1).is_some());
    assert!(one.bars(&subject, end).is_none());
    for both in [
        vec![ending(Some(end)), ending(None)],
        vec![ending(None), ending(Some(end))],
    ] {
        let both = KillList::new(domain(), 1, 0, both).unwrap();
        assert!(both.bars(&subject, end).is_some());
    }
}

#[test]
fn entries_that_cannot_stand_are_refused() {
    let other = SpiffeId::parse("spiffe://other.test/ns/shop/sa/web").unwrap();
    let domain_error = Some(BadEntry::Domain(other.clone()));
    assert_eq!(refused(Target::Identity(other.clone())), domain_error);
    assert_eq!(refused(Target::Prefix(other)), domain_error);

    let signer = domain().role("ca");
    assert_eq!(
        refused(Target::Identity(signer.clone())),
        Some(BadEntry::Signer)
    );
    assert_eq!(refused(Target::Prefix(signer)), Some(BadEntry::Signer));
    assert_eq!(
        refused(Target::Prefix(id("palisade"))),
        Some(BadEntry::Signer)
    );
    assert_eq!(refused(Target::Identity(id("palisade/pdp"))), None);

    assert_eq!(refused(Target::Serial([].into())), Some(BadEntry::Serial));
    assert_eq!(refused(Target::Serial([1; 20].into())), None);
    assert_eq!(
        refused(Target::Serial([1; 21].into())),
        Some(BadEntry::Serial)
    );
    assert_eq!(refused(Target::Authority([].into())), Some(BadEntry::KeyId));
    assert_eq!(refused(Target::Authority([1; 64].into())), None);
    assert_eq!(
        refused(Target::Authority([1; 65].into())),
        Some(BadEntry::KeyId)
    );
    let worded = |reason: usize, author: usize| Entry {
        reason: "r".repeat(reason),
        author: "a".repeat(author),
        ..entry(Target::Identity(id("web")))
    };
    assert_eq!(refused_entry(worded(512, 256)), None);
    assert_eq!(refused_entry(worded(513, 256)), Some(BadEntry::Reason));
    assert_eq!(refused_entry(worded(512, 257)), Some(BadEntry::Author));
}

#[test]
fn a_list_holds_so_many_entries_and_no_more() {
    let of = |n: usize| vec![entry(Target::Identity(id("web"))); n];
    assert!(KillList::new(domain(), 1, 0, of(ENTRIES_MAX)).is_ok());
    let more = KillList::new(domain(), 1, 0, of(ENTRIES_MAX + 1));
    assert!(matches!(more, Err(KillListError::TooManyEntries(n)) if n == ENTRIES_MAX + 1));
}

/// The bytes are bounded too: a full list of the longest entries is not signed.
#[test]
fn a_list_that_is_too_long_is_not_signed() {
    let svid = Domain::new("acme").svid("palisade/ca");
    let of = |n: usize| {
        let long = Entry {
            reason: "r".repeat(REASON_LEN_MAX),
            author: "a".repeat(AUTHOR_LEN_MAX),
            ..entry(Target::Identity(id(&"w".repeat(2000))))
        };
        KillList::new(domain(), 1, 0, vec![long; n]).unwrap()
    };
    assert!(sign(&of(1000), &svid).is_ok());
    let more = sign(&of(1200), &svid);
    assert!(matches!(more, Err(KillListError::TooLong(n)) if n > LIST_LEN_MAX));
}

#[test]
fn a_signed_list_is_read_as_it_was_written() {
    let acme = Domain::new("acme");
    let written = list([
        Target::Identity(id("ns/shop/sa/web")),
        Target::Prefix(id("ns/shop")),
        Target::Serial(SERIAL.into()),
        Target::Authority(KEY_ID.into()),
    ]);
    let signed = sign(&written, &acme.svid("palisade/ca")).unwrap();
    let read = open(&signed, &acme.bundle(), at(NOW)).unwrap();
    assert_eq!(read.entries(), written.entries());
    assert_eq!((read.sequence(), read.issued_us()), (7, NOW_US));
}

#[test]
fn only_the_authority_of_the_bundle_is_believed() {
    let (acme, stranger) = (Domain::new("acme"), Domain::new("stranger"));
    let list = list([Target::Identity(id("web"))]);
    let signed = sign(&list, &acme.svid("palisade/ca")).unwrap();

    let by_pdp = sign(&list, &acme.svid("palisade/pdp")).unwrap();
    assert!(matches!(
        open(&by_pdp, &acme.bundle(), at(NOW)),
        Err(KillListError::NotTheAuthority(id)) if id == domain().role("pdp")
    ));
    assert!(matches!(
        open(&signed, &stranger.bundle(), at(NOW)),
        Err(KillListError::Chain(PeerError::UnknownIssuer))
    ));
    assert!(matches!(
        open(&signed, &acme.bundle(), at(NOW + 7200)),
        Err(KillListError::Chain(PeerError::Expired { .. }))
    ));
    let mut other_key = signed.clone();
    other_key.chain = sign(&list, &acme.svid("palisade/ca")).unwrap().chain;
    assert!(matches!(
        open(&other_key, &acme.bundle(), at(NOW)),
        Err(KillListError::Signature)
    ));
}

/// Whoever passes a list on can cut it, lengthen it or turn a bit; nothing of it is taken.
#[test]
fn changed_bytes_are_refused_wherever_they_are() {
    let acme = Domain::new("acme");
    let list = list([Target::Identity(id("web"))]);
    let signed = sign(&list, &acme.svid("palisade/ca")).unwrap();
    for at_byte in 0..signed.list.len() {
        let mut changed = signed.clone();
        changed.list[at_byte] ^= 1;
        let read = open(&changed, &acme.bundle(), at(NOW));
        assert!(matches!(read, Err(KillListError::Signature)), "{at_byte}");
    }
    let mut empty = signed;
    empty.list.clear();
    let read = open(&empty, &acme.bundle(), at(NOW));
    assert!(matches!(read, Err(KillListError::Signature)));
}

#[test]
fn an_older_list_does_not_supersede_a_newer_one() {
    let of = |sequence, issued_us| KillList::new(domain(), sequence, issued_us, vec![]).unwrap();
    let present = of(7, 1000);
    assert!(of(7, 1000).check_supersedes(&present).is_ok());
    assert!(of(7, 1001).check_supersedes(&present).is_ok());
    assert!(of(8, 900).check_supersedes(&present).is_ok());
    assert!(of(7, 999).check_supersedes(&present).is_err());
    assert!(of(6, 2000).check_supersedes(&present).is_err());
}
