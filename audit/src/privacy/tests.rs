use palisade_mesh::wire::{
    audit::{Envelope, Sealed},
    record::{AuthnFailure, Call, Cover, Decision, Disclosure, PolicyChange, Record, record::Body},
};
use prost::Message as _;
use serde_json::Value;

use super::*;
use crate::{
    envelope::{
        EnvelopeRef, LEAF_LEN_MAX, RECORD_LEN_MAX, RecordPeek, SALT_LEN, VERSION, attested,
    },
    item::Item,
    row::Row,
    source::Entry,
};

const ALICE: &str = "alice@example.org";
/// Bytes of the table before its first slot.
const HEADER_LEN: usize = 32;

fn rules(rules: &[(&str, Handling)]) -> Rules {
    Rules::new(rules.iter().map(|(name, h)| (name.parse().unwrap(), *h)))
}

fn decision() -> Record {
    let context = serde_json::json!({
        "decided_us": 7,
        "http": {
            "headers": { "x-user": ALICE, "x-team": ["red", "blue"], "x-none": null },
            "path": "/orders/alice", "query": "user=alice",
        },
        "jwt": { "aud": ["x"] },
        "source": { "ip": "10.1.2.3", "port": 4711 },
        "user": { "sub": ALICE, "email": ALICE },
    });
    Record {
        id: vec![7; 16],
        body: Some(Body::Decision(Decision {
            source_ip: "10.1.2.3".into(),
            source_port: 4711,
            path: "/orders/alice".into(),
            context_json: context.to_string(),
            ..Decision::default()
        })),
        ..Record::default()
    }
}

/// A decision that names her in one place.
fn by_alice() -> Record {
    let mut record = decision();
    if let Some(Body::Decision(decision)) = &mut record.body {
        let context = serde_json::json!({ "http": { "headers": { "x-user": ALICE } } });
        decision.context_json = context.to_string();
        decision.path = "/orders".into();
    }
    record
}

fn body(record: &Record) -> &Decision {
    match &record.body {
        Some(Body::Decision(decision)) => decision,
        other => panic!("{other:?}"),
    }
}

fn context(record: &Record) -> Value {
    serde_json::from_str(&body(record).context_json).unwrap()
}

/// Of what can be personal only what is allowed is kept, headers that nobody thought of among
/// the rest; what is left out is said, and a field that has its own rule follows that.
#[test]
fn what_is_not_allowed_is_left_out_and_said() {
    let personal = |name: &str| name.parse::<Personal>().unwrap();
    let covered = |rules: &Rules, record: &Record| -> (Value, Vec<String>) {
        let covered = rules.cover(record).unwrap();
        let named = |c: &Cover| format!("{} {}", c.field, c.handling().as_str_name());
        let mut covers: Vec<String> = covered.covers.iter().map(named).collect();
        covers.sort();
        (context(&covered), covers)
    };
    let nothing = rules(&[]).allowing([]);
    let record = decision();
    let (kept, covers) = covered(&nothing, &record);
    let headers = serde_json::json!({ "x-none": null });
    let expected = serde_json::json!({
        "decided_us": 7, "http": { "headers": headers }, "source": {},
    });
    assert_eq!(kept, expected, "an absent header stays absent");
    let masked = |names: &[&str]| -> Vec<String> {
        names
            .iter()
            .map(|n| format!("{n} HANDLING_MASKED"))
            .collect()
    };
    let all = [
        "header:x-team",
        "header:x-user",
        "path",
        "query",
        "source_ip",
        "user",
    ];
    assert_eq!(covers, masked(&all));
    let bare = nothing.cover(&record).unwrap();
    assert_eq!(
        (body(&bare).path.as_str(), body(&bare).source_ip.as_str()),
        ("", "")
    );
    assert_eq!(body(&bare).source_port, 0);

    let some = rules(&[("header:x-user", Handling::Sealed)]);
    let some = some.allowing([personal("header:X-Team"), personal("path")]);
    let (kept, covers) = covered(&some, &record);
    assert_eq!(
        kept["http"]["headers"]["x-team"],
        serde_json::json!(["red", "blue"])
    );
    assert_eq!(kept["http"]["path"], "/orders/alice");
    assert_eq!(kept["http"].get("query"), None, "{kept}");
    let mut expected = masked(&["query", "source_ip", "user"]);
    expected.push("header:x-user HANDLING_SEALED".to_owned());
    expected.sort();
    assert_eq!(covers, expected);
    assert!(!kept.to_string().contains(ALICE), "{kept}");

    // What cannot be read may hold anything.
    let mut broken = decision();
    if let Some(Body::Decision(decision)) = &mut broken.body {
        decision.context_json = "{".to_owned();
    }
    let covered = nothing.cover(&broken).unwrap();
    assert_eq!(body(&covered).context_json, "");
    // Also where each known field is allowed: it may be a header, which is not.
    let known = ["path", "query", "source_ip", "user"].map(personal);
    let known = rules(&[]).allowing(known);
    for text in [
        "{",
        r#"{"http":{"headers":"x-user: alice"}}"#,
        r#"{"http":["alice"]}"#,
    ] {
        if let Some(Body::Decision(decision)) = &mut broken.body {
            decision.context_json = text.to_owned();
        }
        let covered = known.cover(&broken).unwrap();
        assert_eq!(body(&covered).context_json, "");
        assert_eq!(covered.covers[0].field, "header:*");
    }
    // Records without anything personal are as they were.
    let admin = Record::default();
    assert_eq!(nothing.cover(&admin), None);
    let change = Record {
        body: Some(Body::PolicyChange(PolicyChange {
            authors: vec![ALICE.into()],
            ..PolicyChange::default()
        })),
        ..Record::default()
    };
    assert_eq!(nothing.cover(&change).unwrap().covers[0].field, "author");
    assert!(
        rules(&[])
            .allowing([personal("author")])
            .cover(&change)
            .is_none()
    );
}

struct Keys {
    dir: tempfile::TempDir,
}

impl Keys {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn open(&self) -> Vault {
        self.open_for(SUBJECTS_MAX).unwrap()
    }

    fn open_for(&self, max: u32) -> Result<Vault, VaultError> {
        Vault::open_for(&self.folder(), &self.kek(), true, max)
    }

    fn folder(&self) -> std::path::PathBuf {
        self.dir.path().join("subjects")
    }

    fn kek(&self) -> std::path::PathBuf {
        self.dir.path().join("kek")
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(table::path(&self.folder())).unwrap()
    }

    /// Changes a bit of the first slot.
    fn damage(&self, at: usize) {
        let mut bytes = self.bytes();
        bytes[HEADER_LEN + at] ^= 1;
        std::fs::write(table::path(&self.folder()), &bytes).unwrap();
    }
}

/// A record as the log keeps it, and what it seals.
fn logged(vault: &Vault, rules: &Rules, record: &Record) -> (Record, Sealed) {
    let covered = rules.cover(record).unwrap();
    check(&covered).unwrap();
    let bytes = covered.encode_to_vec();
    let sealed = vault.seal(&bytes).unwrap();
    vault.commit().unwrap();
    let kept = Record::decode(attested(&bytes)).unwrap();
    assert!(kept.disclosures.is_empty());
    (kept, Sealed::decode(&sealed[..]).unwrap())
}

fn fates(vault: &Vault, (record, sealed): &(Record, Sealed)) -> Vec<(String, Fate)> {
    let revealed = vault.reveal(record, &sealed.values).unwrap();
    revealed.into_iter().map(|r| (r.field, r.fate)).collect()
}

#[test]
fn what_has_no_rule_is_kept_as_it_is() {
    assert_eq!(Rules::default().cover(&decision()), None);
    let other = rules(&[
        ("author", Handling::Sealed),
        ("header:x-none", Handling::Masked),
    ]);
    assert_eq!(other.cover(&decision()), None, "absent is not personal");
}

#[test]
fn each_field_is_taken_from_every_place_that_has_it() {
    let all = rules(&[
        ("header:X-User", Handling::Sealed),
        ("path", Handling::Masked),
        ("query", Handling::Pseudonym),
        ("source_ip", Handling::Pseudonym),
        ("user", Handling::Sealed),
    ]);
    let covered = all.cover(&decision()).unwrap();
    let decision = body(&covered);
    assert_eq!((decision.source_ip.as_str(), decision.source_port), ("", 0));
    assert_eq!(decision.path, "");
    assert_eq!(
        context(&covered),
        serde_json::json!({
            "decided_us": 7,
            "http": { "headers": { "x-team": ["red", "blue"], "x-none": null } },
            "source": {},
        })
    );
    let covers: Vec<_> = covered
        .covers
        .iter()
        .map(|c| (c.field.as_str(), c.handling(), c.commitment.len()))
        .collect();
    assert_eq!(
        covers,
        [
            ("source_ip", Handling::Pseudonym, 32),
            ("path", Handling::Masked, 0),
            ("header:x-user", Handling::Sealed, 32),
            // A query string names nobody.
            ("query", Handling::Masked, 0),
            ("user", Handling::Sealed, 32),
        ]
    );
    let values: Vec<_> = covered
        .disclosures
        .iter()
        .map(|d| d.value.as_str())
        .collect();
    assert_eq!(values, ["10.1.2.3", ALICE, ALICE]);
    check(&covered).unwrap();
}

#[test]
fn other_classes_are_covered_too() {
    let all = rules(&[
        ("author", Handling::Sealed),
        ("path", Handling::Masked),
        ("source_ip", Handling::Masked),
    ]);
    let fields = |body: Body| {
        let record = Record {
            body: Some(body),
            ..Record::default()
        };
        let covered = all.cover(&record).unwrap();
        let text = format!("{:?}", covered.body);
        assert!(!text.contains("alice") && !text.contains("4711"), "{text}");
        let covers = covered.covers.into_iter();
        covers.map(|c| c.field).collect::<Vec<_>>()
    };
    let failure = AuthnFailure {
        source_ip: "fe80::a11ce".into(),
        source_port: 4711,
        ..AuthnFailure::default()
    };
    assert_eq!(fields(Body::AuthnFailure(failure)), ["source_ip"]);
    let call = Call {
        path: "/alice".into(),
        ..Call::default()
    };
    assert_eq!(fields(Body::Call(call)), ["path"]);
    let change = PolicyChange {
        authors: vec![ALICE.into()],
        ..PolicyChange::default()
    };
    assert_eq!(fields(Body::PolicyChange(change)), ["author"]);
}

#[test]
fn a_context_that_cannot_be_read_is_not_kept() {
    for text in ["[\"alice\"]", "alice", "{\"user\":\"alice\""] {
        let mut record = decision();
        if let Some(Body::Decision(decision)) = &mut record.body {
            decision.context_json = text.into();
        }
        let covered = rules(&[("user", Handling::Sealed)]).cover(&record).unwrap();
        assert_eq!(body(&covered).context_json, "", "{text}");
        assert_eq!(covered.covers[0].handling(), Handling::Masked);
    }
}

/// A decision with this context, of which the headers are sealed.
fn with_headers(headers: Value) -> Record {
    let names: Vec<String> = headers.as_object().unwrap().keys().cloned().collect();
    let mut record = decision();
    if let Some(Body::Decision(decision)) = &mut record.body {
        let context = serde_json::json!({ "http": { "headers": headers } });
        decision.context_json = context.to_string();
    }
    let rules = names
        .iter()
        .map(|name| (Personal::Header(name.clone()), Handling::Sealed));
    Rules::new(rules).cover(&record).unwrap()
}

/// On both sides of the limits: of the values of a list, and of all.
#[test]
fn values_beyond_the_limits_are_masked() {
    let list = |n: usize| {
        let names: Vec<String> = (0..n).map(|i| format!("name{i}")).collect();
        with_headers(serde_json::json!({ "x-user": names }))
    };
    let last = |record: &Record| record.covers.last().unwrap().handling();
    let kept = |record: &Record| (record.covers.len(), record.disclosures.len());
    let full = list(LIST_VALUES_MAX);
    assert_eq!(kept(&full), (LIST_VALUES_MAX, LIST_VALUES_MAX));
    let more = list(LIST_VALUES_MAX + 1);
    assert_eq!(kept(&more), (LIST_VALUES_MAX + 1, LIST_VALUES_MAX));
    assert_eq!(last(&more), Handling::Masked);
    assert!(!more.encode_to_vec().windows(5).any(|w| w == b"name4"));

    let many = |n: usize| {
        let headers = (0..n).map(|i| (format!("x-{i:02}"), Value::from(format!("name{i}"))));
        with_headers(Value::Object(headers.collect()))
    };
    assert_eq!(kept(&many(VALUES_MAX)), (VALUES_MAX, VALUES_MAX));
    let more = many(VALUES_MAX + 1);
    assert_eq!(kept(&more), (VALUES_MAX + 1, VALUES_MAX));
    assert_eq!(last(&more), Handling::Masked);
}

/// Who wrote what a revision brings is no caller's to choose: as many as a record can have are
/// kept, on both sides of the limit, and a row tells what became of them.
#[test]
fn authors_beyond_the_limit_are_masked() {
    let rules = rules(&[("author", Handling::Sealed)]);
    let of = |n: usize| {
        let change = PolicyChange {
            authors: (0..n).map(|i| format!("Ana {i} <{i}@acme.test>")).collect(),
            ..PolicyChange::default()
        };
        let record = Record {
            body: Some(Body::PolicyChange(change)),
            ..Record::default()
        };
        rules.cover(&record).unwrap()
    };
    let kept = |record: &Record| (record.covers.len(), record.disclosures.len());
    assert_eq!(kept(&of(VALUES_MAX)), (VALUES_MAX, VALUES_MAX));
    let more = of(VALUES_MAX + 1);
    assert_eq!(kept(&more), (VALUES_MAX + 1, VALUES_MAX));
    assert_eq!(more.covers.last().unwrap().handling(), Handling::Masked);
    assert!(!more.encode_to_vec().windows(7).any(|w| w == b"<12@acm"));
    let item = Item::new(Entry {
        index: 0,
        envelope: Envelope::default(),
        record: more,
    });
    let row = serde_json::to_value(Row::new(&item)).unwrap();
    assert_eq!(row["covered"], serde_json::json!({ "author": "sealed" }));
}

/// Whoever sends a request chooses its lists, and cannot have its own name crowded out.
#[test]
fn a_list_crowds_out_nobody() {
    let roles: Vec<String> = (0..VALUES_MAX).map(|i| format!("role{i}")).collect();
    let covered = with_headers(serde_json::json!({
        "x-a-roles": roles, "x-b-roles": roles, "x-c-roles": roles, "x-user": ALICE,
    }));
    let first = &covered.covers[0];
    assert_eq!(
        (first.field.as_str(), first.handling()),
        ("header:x-user", Handling::Sealed)
    );
    assert_eq!(covered.disclosures[0].value, ALICE);
    assert_eq!(covered.disclosures.len(), VALUES_MAX);
    check(&covered).unwrap();
}

#[test]
fn what_goes_beside_a_record_must_be_what_it_promises() {
    let covered = rules(&[("source_ip", Handling::Sealed)])
        .cover(&decision())
        .unwrap();
    let check = |change: &dyn Fn(&mut Record), expected: Result<(), &str>| {
        let mut record = covered.clone();
        change(&mut record);
        assert_eq!(super::check(&record), expected);
    };
    let wrong = Err("a value is not the one that its cover commits to");
    check(&|_| {}, Ok(()));
    check(&|r| r.disclosures.clear(), Err("a cover has no value"));
    check(&|r| r.disclosures[0].value.push('1'), wrong);
    check(&|r| r.disclosures[0].salt.push(1), wrong);
    check(&|r| r.covers[0].field = "user".into(), wrong);
    check(
        &|r| r.covers[0].handling = Handling::Masked.into(),
        Err("a cover has no value"),
    );
    check(&|r| r.covers.clear(), Err("a value has no cover"));
    let many = |n: usize| {
        let one = (covered.covers[0].clone(), covered.disclosures[0].clone());
        let (covers, disclosures): (Vec<Cover>, Vec<Disclosure>) = vec![one; n].into_iter().unzip();
        let record = Record {
            covers,
            disclosures,
            ..decision()
        };
        super::check(&record)
    };
    assert_eq!(many(VALUES_MAX), Ok(()));
    assert_eq!(many(VALUES_MAX + 1), Err("it has too many covered values"));
}

/// With every value that a record can have, its leaf is within the limit.
#[test]
fn the_longest_covered_record_fits_a_leaf() {
    let keys = Keys::new();
    let vault = keys.open();
    let value = |i: usize| {
        let value = format!("{i}{}", "x".repeat(RECORD_LEN_MAX / VALUES_MAX - 120));
        commitment::commit(&Personal::User, Handling::Sealed, &value).unwrap()
    };
    let (covers, disclosures) = (0..VALUES_MAX).map(value).unzip();
    let mut record = Record {
        covers,
        disclosures,
        ..Record::default()
    };
    let left = RECORD_LEN_MAX - record.encoded_len();
    record.reporter = "x".repeat(left - 4);
    let bytes = record.encode_to_vec();
    assert!(bytes.len() <= RECORD_LEN_MAX && bytes.len() > RECORD_LEN_MAX - 4);
    let stream = vec![1; palisade_mesh::spiffe_id::ID_LEN_MAX + 30];
    let sealed = vault.seal(&bytes).unwrap();
    let mut leaf = Vec::new();
    EnvelopeRef {
        version: VERSION,
        stream: &stream,
        sequence: u64::MAX,
        received_us: -1,
        salt: &[1; SALT_LEN],
        record: attested(&bytes),
        sealed: &sealed,
    }
    .encode(&mut leaf);
    assert!(leaf.len() <= LEAF_LEN_MAX, "{}", leaf.len());
    assert_eq!(
        RecordPeek::new(attested(&bytes)).unwrap().attested,
        attested(&bytes).len()
    );
}

#[test]
fn a_sealed_value_is_opened_until_its_key_is_destroyed() {
    let keys = Keys::new();
    let mut vault = keys.open();
    let rules = rules(&[
        ("header:x-user", Handling::Sealed),
        ("source_ip", Handling::Pseudonym),
    ]);
    let kept = logged(&vault, &rules, &by_alice());
    let person = vault.pseudonym(ALICE);
    assert_eq!(kept.1.values[1].pseudonym, person.0);
    let fate = |fate: Fate| {
        vec![
            ("source_ip".to_owned(), Fate::Pseudonym),
            ("header:x-user".to_owned(), fate),
        ]
    };
    assert_eq!(fates(&vault, &kept), fate(Fate::Value(ALICE.into())));
    assert_eq!(vault.known(&person).unwrap(), Known::Sealed);
    for bytes in [keys.bytes(), kept.0.encode_to_vec(), kept.1.encode_to_vec()] {
        assert!(!bytes.windows(5).any(|w| w == b"alice"));
    }
    let before = keys.bytes();

    drop(vault);
    vault = keys.open();
    assert_eq!(
        fates(&vault, &kept),
        fate(Fate::Value(ALICE.into())),
        "after a start"
    );
    vault.doom(&person).unwrap();
    assert_eq!(vault.doomed(), [person]);
    assert_eq!(fates(&vault, &kept), fate(Fate::Erased), "it is ordered");
    drop(vault);
    vault = keys.open();
    assert_eq!(vault.doomed(), [person], "an erasure that was interrupted");
    vault.spare(&person).unwrap();
    assert_eq!(fates(&vault, &kept), fate(Fate::Value(ALICE.into())));
    assert_eq!(vault.doomed(), [], "taken back");
    vault.doom(&person).unwrap();
    vault.destroy(&person, 99).unwrap();
    assert_eq!(fates(&vault, &kept), fate(Fate::Erased));
    assert_eq!(vault.known(&person).unwrap(), Known::Erased(99));
    vault.destroy(&person, 100).unwrap();
    assert_eq!(vault.known(&person).unwrap(), Known::Erased(99), "once");
    vault.spare(&person).unwrap();
    assert_eq!(vault.doomed(), []);
    let after = keys.bytes();
    assert_eq!(after.len(), before.len(), "in place");
    let wrapped = &before[HEADER_LEN + 28..HEADER_LEN + 28 + 60];
    assert!(!after.windows(60).any(|w| w == wrapped), "overwritten");

    // Who is heard of again is sealed under another key, which opens nothing of before;
    // what happened before and arrives late is not sealed at all, then and after a start.
    let at = |time_us| Record {
        time_us,
        ..by_alice()
    };
    let late = |vault: &Vault| fates(vault, &logged(vault, &rules, &at(99)));
    assert_eq!(late(&vault), fate(Fate::Pseudonym));
    assert_eq!(vault.known(&person).unwrap(), Known::Erased(99));
    let again = logged(&vault, &rules, &at(100));
    assert_eq!(fates(&vault, &again), fate(Fate::Value(ALICE.into())));
    assert_eq!(fates(&vault, &kept), fate(Fate::Erased));
    assert_eq!(keys.bytes().len(), before.len());
    drop(vault);
    vault = keys.open();
    assert_eq!(late(&vault), fate(Fate::Pseudonym));
    assert_eq!(fates(&vault, &again), fate(Fate::Value(ALICE.into())));
    vault.doom(&person).unwrap();
    vault.destroy(&person, 200).unwrap();
    assert_eq!(vault.known(&person).unwrap(), Known::Erased(200));
    assert_eq!(fates(&vault, &again), fate(Fate::Erased));
    assert_eq!(vault.keeping().unsealed, 0, "all of it as it should be");
}

#[test]
fn a_changed_ciphertext_or_cover_opens_nothing() {
    let keys = Keys::new();
    let vault = keys.open();
    let rules = rules(&[("header:x-user", Handling::Sealed)]);
    let kept = logged(&vault, &rules, &decision());
    let mut changed = kept.clone();
    changed.1.values[0].ciphertext[20] ^= 1;
    assert_eq!(fates(&vault, &changed)[0].1, Fate::Unreadable);
    let mut moved = kept.clone();
    moved.0.covers[0].commitment[3] ^= 1;
    assert_eq!(fates(&vault, &moved)[0].1, Fate::Unreadable);
}

/// On both sides of the limit of persons.
#[test]
fn beyond_the_limit_of_persons_there_is_a_pseudonym_alone() {
    let keys = Keys::new();
    let vault = keys.open_for(2).unwrap();
    let rules = rules(&[("author", Handling::Sealed)]);
    let fate = |author: &str| {
        let change = PolicyChange {
            authors: vec![author.into()],
            ..PolicyChange::default()
        };
        let record = Record {
            body: Some(Body::PolicyChange(change)),
            ..Record::default()
        };
        fates(&vault, &logged(&vault, &rules, &record)).remove(0).1
    };
    for (author, expected) in [
        ("a", Fate::Value("a".into())),
        ("b", Fate::Value("b".into())),
        ("c", Fate::Pseudonym),
        ("a", Fate::Value("a".into())),
    ] {
        assert_eq!(fate(author), expected);
    }
    let keeping = vault.keeping();
    assert_eq!((keeping.used, keeping.max, keeping.unsealed), (2, 2, 1));
}

/// Nothing is written over a damaged slot: it can be mended, and what is sealed is read
/// again. Meanwhile its person has a pseudonym alone, and is told of.
#[test]
fn a_damaged_slot_is_told_and_can_be_mended() {
    let rules = rules(&[("header:x-user", Handling::Sealed)]);
    // State, erasure, key, checksum.
    for at in [16, 20, 40, 94] {
        let keys = Keys::new();
        let vault = keys.open();
        let kept = logged(&vault, &rules, &decision());
        let person = vault.pseudonym(ALICE);
        let whole = keys.bytes();
        drop(vault);
        keys.damage(at);
        let vault = keys.open();
        assert_eq!(vault.keeping().damaged, 1);
        assert_eq!(fates(&vault, &kept)[0].1, Fate::Unreadable, "{at}");
        let meanwhile = logged(&vault, &rules, &decision());
        assert_eq!(fates(&vault, &meanwhile)[0].1, Fate::Pseudonym, "{at}");
        assert_eq!(vault.keeping().unsealed, 1);
        assert_eq!(vault.known(&person).unwrap(), Known::Sealed);
        drop(vault);
        keys.damage(at);
        assert_eq!(keys.bytes(), whole, "nothing was written");
        let vault = keys.open();
        assert_eq!(fates(&vault, &kept)[0].1, Fate::Value(ALICE.into()));
        assert_eq!(vault.keeping().damaged, 0);
    }
}

/// An erasure destroys the key in a damaged slot as well, also where the slot does not say
/// any more whose it is.
#[test]
fn a_damaged_slot_is_erased_with_its_person() {
    let rules = rules(&[("header:x-user", Handling::Sealed)]);
    for at in [3, 16, 94] {
        let keys = Keys::new();
        let vault = keys.open();
        let kept = logged(&vault, &rules, &decision());
        let person = vault.pseudonym(ALICE);
        let wrapped = keys.bytes()[HEADER_LEN + 28..HEADER_LEN + 28 + 60].to_vec();
        drop(vault);
        keys.damage(at);
        let vault = keys.open();
        assert_eq!(vault.known(&person).unwrap(), Known::Sealed, "{at}");
        vault.doom(&person).unwrap();
        vault.destroy(&person, 7).unwrap();
        drop(vault);
        assert!(!keys.bytes().windows(60).any(|w| w == wrapped), "{at}");
        let vault = keys.open();
        assert_eq!(vault.known(&person).unwrap(), Known::Erased(7), "{at}");
        assert_eq!(vault.keeping().damaged, 0);
        assert_eq!(fates(&vault, &kept)[0].1, Fate::Erased);
    }
}

#[test]
fn keys_without_their_key_are_refused_and_never_made_anew() {
    let keys = Keys::new();
    drop(keys.open());
    let refused = |keys: &Keys| keys.open_for(1).unwrap_err();
    let whole = std::fs::read(keys.kek()).unwrap();
    std::fs::remove_file(keys.kek()).unwrap();
    assert!(matches!(refused(&keys), VaultError::Missing(_)));
    std::fs::write(keys.kek(), &whole).unwrap();
    assert!(
        matches!(refused(&keys), VaultError::Key(_)),
        "others read it"
    );
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(keys.kek(), private).unwrap();
    let open = keys.open();
    assert!(matches!(refused(&keys), VaultError::Io { .. }), "in use");
    drop(open);
    std::fs::write(keys.kek(), &whole[1..]).unwrap();
    assert!(matches!(refused(&keys), VaultError::Key(_)), "too short");
    std::fs::write(keys.kek(), &whole).unwrap();
    let path = table::path(&keys.dir.path().join("subjects"));
    std::fs::write(&path, b"something else").unwrap();
    assert!(matches!(refused(&keys), VaultError::Io { .. }), "no table");

    // Another key is noticed, and so is a table that is gone while the log has records.
    std::fs::remove_file(&path).unwrap();
    drop(keys.open());
    let mut other = whole.clone();
    other[0] ^= 1;
    std::fs::write(keys.kek(), &other).unwrap();
    assert!(matches!(refused(&keys), VaultError::Other(_)));
    std::fs::write(keys.kek(), &whole).unwrap();
    let later = || Vault::open(&keys.folder(), &keys.kek(), false).map(drop);
    later().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(later(), Err(VaultError::NoTable(_))));
    std::fs::write(&path, b"").unwrap();
    assert!(
        matches!(later(), Err(VaultError::NoTable(_))),
        "cut to nothing"
    );
    drop(keys.open());
    later().unwrap();
}

#[test]
fn names_of_fields_are_read_as_they_are_written() {
    for name in Personal::NAMES.into_iter().chain(["header:x-user"]) {
        assert_eq!(name.parse::<Personal>().unwrap().to_string(), name);
    }
    assert_eq!(
        "header:X-User".parse(),
        Ok(Personal::Header("x-user".into()))
    );
    let long = format!("header:{}", "x".repeat(256));
    long.parse::<Personal>().unwrap();
    for name in [
        "",
        "header:",
        "header:a b",
        "Source_ip",
        "id",
        &format!("{long}x"),
    ] {
        assert_eq!(name.parse::<Personal>(), Err(UnknownField(name.into())));
    }
}

/// A name of 32 digits is a name.
#[test]
fn a_pseudonym_is_marked_as_one() {
    let some = Pseudonym([0xa0; PSEUDONYM_LEN]);
    assert_eq!(some.to_string(), format!("p-{}", "a0".repeat(16)));
    assert_eq!(some.to_string().parse(), Ok(some));
    for text in [
        "",
        "alice",
        "p-",
        &"a0".repeat(16),
        &format!("p-{}", "A0".repeat(16)),
        &format!("p-{}", "a0".repeat(15)),
        &format!("p-{}", "a0".repeat(17)),
    ] {
        assert_eq!(text.parse::<Pseudonym>(), Err(()), "{text}");
    }
}

/// Policy masks beside the rules of the process: what either takes out is gone, and what
/// policy masks has no pseudonym, is not sealed, and is kept by no allow-list.
#[test]
fn a_mask_wins_over_every_rule_of_the_process() {
    use palisade_mesh::personal::Mask;

    let personal = |name: &str| name.parse::<Personal>().unwrap();
    let mask = |names: &[&str]| Mask::of(names.iter().map(|name| personal(name)));
    let covers = |rules: &Rules, names: &[&str]| -> Vec<String> {
        let covered = rules.masking(&mask(names)).cover(&decision()).unwrap();
        let named = |c: &Cover| format!("{} {}", c.field, c.handling().as_str_name());
        let mut covers: Vec<String> = covered.covers.iter().map(named).collect();
        covers.sort();
        covers
    };
    let sealing = rules(&[
        ("header:x-user", Handling::Sealed),
        ("source_ip", Handling::Pseudonym),
        ("query", Handling::Masked),
    ]);
    let by_both = covers(&sealing, &["header:x-user", "path", "query"]);
    let expected = [
        "header:x-user HANDLING_MASKED",
        "path HANDLING_MASKED",
        "query HANDLING_MASKED",
        "source_ip HANDLING_PSEUDONYM",
    ];
    assert_eq!(by_both, expected);
    assert_eq!(
        covers(&rules(&[]), &["source_ip"]),
        ["source_ip HANDLING_MASKED"]
    );

    let allowing = rules(&[("header:x-team", Handling::Pseudonym)]);
    let allowing = allowing.allowing(["header:x-user", "path", "query", "user"].map(personal));
    let expected = [
        "header:x-team HANDLING_PSEUDONYM",
        "header:x-team HANDLING_PSEUDONYM",
        "header:x-user HANDLING_MASKED",
        "path HANDLING_MASKED",
        "source_ip HANDLING_MASKED",
    ];
    assert_eq!(covers(&allowing, &["header:x-user", "path"]), expected);
    let covered = allowing.masking(&mask(&["header:x-user", "path"]));
    let covered = covered.cover(&decision()).unwrap();
    assert_eq!(context(&covered)["http"]["query"], "user=alice", "allowed");
    let disclosed = format!("{:?}", covered.disclosures);
    assert!(!disclosed.contains(ALICE), "{disclosed}");
}

/// Of a request of gRPC service and method are the path: who takes out the one takes out the
/// others, and says so once.
#[test]
fn the_path_of_grpc_is_its_service_and_its_method() {
    use palisade_mesh::personal::Mask;

    let mut record = decision();
    if let Some(Body::Decision(decision)) = &mut record.body {
        let context = serde_json::json!({
            "grpc": { "service": "clinic.v1.Alice", "method": "Read" },
            "http": { "method": "POST", "path": "/clinic.v1.Alice/Read" },
        });
        decision.context_json = context.to_string();
        decision.path = "/clinic.v1.Alice/Read".to_owned();
    }
    let by_process = rules(&[("path", Handling::Masked)]);
    let by_policy = Rules::default().masking(&Mask::of([Personal::Path]));
    let unnamed = rules(&[]).allowing([Personal::SourceIp]);
    for rules in [by_process, by_policy, unnamed] {
        // What policies read can be less than the path, and it is told all the same.
        for without in [None, Some("http"), Some("grpc")] {
            let mut record = record.clone();
            if let (Some(without), Some(Body::Decision(decision))) = (without, &mut record.body) {
                let mut context: Value = serde_json::from_str(&decision.context_json).unwrap();
                context.as_object_mut().unwrap().remove(without);
                decision.context_json = context.to_string();
                decision.path = String::new();
            }
            let covered = rules.cover(&record).unwrap();
            let fields: Vec<_> = covered.covers.iter().map(|c| c.field.as_str()).collect();
            assert_eq!(fields, ["path"], "{without:?}");
            let kept = format!("{covered:?}");
            assert!(!kept.contains("Alice") && !kept.contains("Read"), "{kept}");
            let kept = context(&covered);
            assert_eq!(kept["http"].get("path"), None, "{kept}");
        }
    }
}

/// What only other kinds of records or other fields have takes nothing from a record.
#[test]
fn a_rule_concerns_the_records_that_have_its_field() {
    let call = |path: &str| Record {
        body: Some(Body::Call(Call {
            path: path.to_owned(),
            ..Call::default()
        })),
        ..Record::default()
    };
    let failure = Record {
        body: Some(Body::AuthnFailure(AuthnFailure {
            source_ip: "10.1.2.3".to_owned(),
            ..AuthnFailure::default()
        })),
        ..Record::default()
    };
    let mut bare = decision();
    if let Some(Body::Decision(decision)) = &mut bare.body {
        decision.context_json = String::new();
    }
    let check = |field: &str, record: &Record, concerned: bool| {
        let rules = rules(&[(field, Handling::Masked)]);
        assert_eq!(rules.concern(record), concerned, "{field} {record:?}");
        assert_eq!(rules.cover(record).is_some(), concerned, "{field}");
    };
    check("path", &call("/orders"), true);
    check("path", &call(""), false);
    check("source_ip", &call("/orders"), false);
    check("source_ip", &failure, true);
    check("path", &failure, false);
    for (field, in_context) in [("path", true), ("source_ip", true), ("query", false)] {
        check(field, &bare, in_context);
        check(field, &decision(), true);
    }
    check("author", &decision(), false);
    check("header:x-user", &bare, false);
}
