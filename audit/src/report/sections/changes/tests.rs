use palisade_mesh::{
    clock::Clock,
    wire::record::{Credential, Decision, Peer, Record, Verdict, record::Body},
};
use prost::Message as _;

use crate::{query::TOP_MAX, report::package::tests::Stage, stream::new_ulid, testing::REPORTER};

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

/// Whoever asked for something, and less often than those that are counted, is not shown as
/// one that asked for nothing.
#[tokio::test]
async fn a_caller_beyond_the_most_is_not_one_that_never_asked() {
    let busy = (0..TOP_MAX).flat_map(|n| {
        let name = format!("busy-{n}");
        [decision(&name), decision(&name)]
    });
    let of_quiet = [decision("quiet")];
    let certificates = ["busy-1", "never", "quiet"].map(issued);
    let bodies = busy.chain(of_quiet).chain(certificates);
    let time_us = Clock::system().now_us() - 60_000_000;
    let records = bodies.map(|body| {
        let record = Record {
            id: new_ulid(&Clock::system()).to_bytes().to_vec(),
            time_us,
            reporter: REPORTER.into(),
            body: Some(body),
            ..Record::default()
        };
        record.encode_to_vec().into()
    });
    let stage = Stage::of(records).await;
    let (report, _) = stage.made("certificates");
    let sections = &report.sections;
    let inventory = sections.iter().find(|s| s.id == "certificate-inventory");
    let inventory = inventory.unwrap();
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
