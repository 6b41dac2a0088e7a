//! What changed, by whoever may say so.

use palisade_mesh::{
    clock::Clock,
    wire::record::{
        Admin, Credential, Decision, Peer, PolicyChange, Record, Verdict, record::Body,
    },
};
use prost::Message as _;

use crate::{
    query::TOP_MAX,
    report::{Report, Section, package::tests::Stage},
    stream::new_ulid,
    testing::REPORTER,
};

const PDP: &str = "spiffe://acme.test/palisade/pdp";
const AUTHORITY: &str = "spiffe://acme.test/palisade/ca";
const AUDIT: &str = "spiffe://acme.test/palisade/audit";
const NODE: &str = "spiffe://acme.test/palisade/agent/n1";

/// A report over a log of these records, each with its reporter.
async fn made(kind: &str, records: impl IntoIterator<Item = (&str, Body)>) -> Report {
    let time_us = Clock::system().now_us() - 60_000_000;
    let records = records.into_iter().map(|(reporter, body)| {
        let record = Record {
            id: new_ulid(&Clock::system()).to_bytes().to_vec(),
            time_us,
            reporter: reporter.into(),
            body: Some(body),
            ..Record::default()
        };
        record.encode_to_vec().into()
    });
    Stage::of(records).await.made(kind).0
}

fn section<'r>(report: &'r Report, id: &str) -> &'r Section {
    report.sections.iter().find(|s| s.id == id).unwrap()
}

fn figure(section: &Section, label: &str) -> String {
    let found = section.figures.iter().find(|f| f.label.contains(label));
    found.unwrap().value.clone()
}

fn id(name: &str) -> String {
    format!("spiffe://acme.test/ns/shop/sa/{name}")
}

fn decision(caller: &str) -> Body {
    Body::Decision(Decision {
        verdict: Verdict::Allow.into(),
        reason: "permitted".into(),
        principal: Some(Peer {
            spiffe_id: id(caller),
            ..Peer::default()
        }),
        service: "acme.test/shop/orders".into(),
        ..Decision::default()
    })
}

fn issued(name: &str) -> Body {
    Body::Credential(Credential {
        verb: "issued".into(),
        spiffe_id: id(name),
        serial: vec![7],
        ..Credential::default()
    })
}

fn change(verb: &str, author: &str) -> Body {
    Body::PolicyChange(PolicyChange {
        verb: verb.into(),
        author: author.into(),
        ..PolicyChange::default()
    })
}

fn admin(verb: &str) -> Body {
    Body::Admin(Admin {
        actor: REPORTER.into(),
        verb: verb.into(),
        ..Admin::default()
    })
}

/// Whoever asked for something, and less often than those that are counted, is not shown as
/// one that asked for nothing.
#[tokio::test]
async fn a_caller_beyond_the_most_is_not_one_that_never_asked() {
    let busy = (0..TOP_MAX).flat_map(|n| {
        let name = format!("busy-{n}");
        [decision(&name), decision(&name)]
    });
    let of_quiet = [decision("quiet")];
    let decisions = busy.chain(of_quiet).map(|body| (REPORTER, body));
    let certificates = ["busy-1", "never", "quiet"].map(|name| (AUTHORITY, issued(name)));
    let report = made("certificates", decisions.chain(certificates)).await;
    let inventory = section(&report, "certificate-inventory");
    let table = inventory.table.as_ref().unwrap();
    let at = table.columns.iter().position(|c| c.name == "last request");
    let last = |name: &str| {
        let row = table.rows.iter().find(|row| row[0] == id(name)).unwrap();
        row[at.unwrap()].as_str()
    };
    assert!(last("busy-1").starts_with("20"), "{table:#?}");
    assert_eq!((last("quiet"), last("never")), ("–", "–"));
    let told = |words: &str| inventory.cannot_show.iter().any(|c| c.contains(words));
    assert!(told("asked most"), "{:#?}", inventory.cannot_show);
    let run = |query: &String| query.ends_with(&format!("| top {TOP_MAX}"));
    assert!(
        inventory.queries.iter().any(run),
        "{:#?}",
        inventory.queries
    );
}

/// Earlier versions took such records of anybody: they are in the log, and in no report as
/// the mesh's own.
#[tokio::test]
async fn what_others_said_of_policies_and_certificates_is_not_shown_as_the_mesh_s() {
    let records = [
        (PDP, change("activated", "bo@acme.test")),
        (REPORTER, change("activated", "ana@acme.test")),
        (NODE, change("rejected", "ana@acme.test")),
    ];
    let report = made("changes", records).await;
    let changes = section(&report, "policy-changes");
    let table = changes.table.as_ref().unwrap();
    assert_eq!(table.total, 1, "{table:#?}");
    assert!(table.rows[0].iter().any(|cell| cell == "bo@acme.test"));
    assert_eq!(figure(changes, "rejected revisions"), "0");

    let records = [(AUTHORITY, issued("web")), (NODE, issued("forged"))];
    let report = made("certificates", records).await;
    let inventory = section(&report, "certificate-inventory").table.as_ref();
    assert_eq!(inventory.unwrap().rows.len(), 1);
    let records = [(AUTHORITY, issued("web")), (NODE, issued("forged"))];
    let report = made("hygiene", records).await;
    let silent = section(&report, "silent-identities").table.as_ref();
    let rows = &silent.unwrap().rows;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(rows[0][0], id("web"));
}

/// What others issued is a certificate all the same, and shown as theirs.
#[tokio::test]
async fn certificates_are_shown_with_whoever_told_of_them() {
    let records = [(AUTHORITY, issued("web")), (NODE, issued("forged"))];
    let report = made("certificates", records).await;
    let credentials = section(&report, "credentials").table.as_ref().unwrap();
    for reporter in [AUTHORITY, NODE] {
        let named = |row: &Vec<String>| row.iter().any(|cell| cell == reporter);
        assert!(credentials.rows.iter().any(named), "{credentials:#?}");
    }
}

#[tokio::test]
async fn holds_and_conflicts_of_witnesses_are_the_log_s_own_words() {
    for (reporter, count) in [(AUDIT, "1"), (REPORTER, "0")] {
        let verbs = ["hold_added", "hold_released", "witness_conflict"];
        let told = async |kind: &str, label: &str| {
            let report = made(kind, verbs.map(|verb| (reporter, admin(verb)))).await;
            let mut figures = report.sections.iter().flat_map(|s| &s.figures);
            let found = figures.find(|f| f.label.contains(label)).unwrap();
            assert_eq!(found.value, count, "{label} of {reporter}");
        };
        told("pci-dss", "holds added").await;
        told("pci-dss", "holds released").await;
        told("integrity", "conflicts").await;
    }
}
