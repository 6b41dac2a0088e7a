//! What changed, by whoever may say so.

use palisade_mesh::wire::record::{
    Admin, Credential, Decision, Peer, PolicyChange, Verdict, record::Body,
};

use super::super::seeded::{AUDIT, MINUTE, Seeded, cells, figures, section};
use crate::{
    query::TOP_MAX,
    report::{Report, Section},
    testing::REPORTER,
};

const PDP: &str = "spiffe://acme.test/palisade/pdp";
const AUTHORITY: &str = "spiffe://acme.test/palisade/ca";
const NODE: &str = "spiffe://acme.test/palisade/agent/n1";

/// A report over a log of these records, each with its reporter.
async fn made(kind: &str, records: impl IntoIterator<Item = (&str, Body)>) -> Report {
    let mut seeded = Seeded::new();
    for (reporter, body) in records {
        seeded.ago(MINUTE, reporter, body);
    }
    seeded.made(kind).await
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
        authors: vec![author.into()],
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

/// A revision that several wrote names each of them, and a rejected one nobody.
#[tokio::test]
async fn a_change_names_all_its_authors() {
    let of_two = Body::PolicyChange(PolicyChange {
        verb: "activated".into(),
        authors: vec!["Ana <ana@acme.test>".into(), "Bob <bob@acme.test>".into()],
        ..PolicyChange::default()
    });
    let rejected = Body::PolicyChange(PolicyChange {
        verb: "rejected".into(),
        ..PolicyChange::default()
    });
    let report = made("changes", [(PDP, of_two), (PDP, rejected)]).await;
    let changes = section(&report, "policy-changes");
    let mut rows = cells(changes, ["verb", "author"]);
    rows.sort_unstable();
    let both = "Ana <ana@acme.test>, Bob <bob@acme.test>";
    assert_eq!(rows, [["activated", both], ["rejected", ""]]);
}

/// What became of a rollout stands beside the revisions, a way back to an earlier one too; what
/// a proxy says of rollouts does not.
#[tokio::test]
async fn rollouts_stand_beside_the_changes() {
    let mut seeded = Seeded::new();
    for (minutes, actor, verb, reporter) in [
        (50, PDP, "rollout_planned", PDP),
        (40, PDP, "rollout_halted", PDP),
        (30, "uid:1000", "rollback", PDP),
        (20, "uid:1000", "kill_added", PDP),
        (10, REPORTER, "rollout_completed", REPORTER),
    ] {
        let admin = Admin {
            actor: actor.into(),
            verb: verb.into(),
            object: "734f9587".into(),
            ..Admin::default()
        };
        seeded.ago(minutes * MINUTE, reporter, Body::Admin(admin));
    }
    let report = seeded.made("changes").await;
    let rollouts = section(&report, "rollouts");
    assert_eq!(figures(rollouts), [("records", "3")]);
    assert_eq!(
        cells(rollouts, ["actor", "verb"]),
        [
            ["uid:1000", "rollback"],
            [PDP, "rollout_halted"],
            [PDP, "rollout_planned"],
        ]
    );
    let text = &rollouts.narrative;
    assert!(!text.contains("  "), "{text}");
}

/// An identity has the nodes that its certificates went to.
#[tokio::test]
async fn an_inventory_names_the_nodes_that_asked() {
    let on = |name: &str, node: &str| match issued(name) {
        Body::Credential(credential) => Body::Credential(Credential {
            node: node.into(),
            ..credential
        }),
        other => other,
    };
    let records = [
        on("web", "host-2"),
        on("web", "host-1"),
        on("web", "host-2"),
        on("local", ""),
    ];
    let report = made("certificates", records.map(|body| (AUTHORITY, body))).await;
    let table = section(&report, "certificate-inventory").table.as_ref();
    let table = table.unwrap();
    let at = table.columns.iter().position(|c| c.name == "nodes");
    let nodes = |name: &str| {
        let row = table.rows.iter().find(|row| row[0] == id(name)).unwrap();
        row[at.unwrap()].as_str()
    };
    assert_eq!((nodes("web"), nodes("local")), ("host-1, host-2", ""));
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

/// What operators did, what became of certificates and who read records, each as it was
/// recorded and the newest first: by whomever it was told.
#[tokio::test]
async fn privileged_actions_are_listed_as_they_were_recorded() {
    let mut seeded = Seeded::new();
    let did = |actor: &str, verb: &str, object: &str, detail: &str| {
        Body::Admin(Admin {
            actor: actor.into(),
            verb: verb.into(),
            object: object.into(),
            detail: detail.into(),
        })
    };
    let bad = "=cmd() \"a\", <b>\n\u{202e}";
    let deny = did("uid:0", "kill_added", &id("web"), bad);
    let kill = seeded.ago(50 * MINUTE, PDP, deny).id.clone();
    let join = seeded
        .ago(
            40 * MINUTE,
            AUTHORITY,
            did("uid:1000", "node_joined", "n1", ""),
        )
        .id
        .clone();
    seeded.ago(61 * MINUTE, PDP, did("uid:0", "before", "", ""));
    let credential = |verb: &str, name: &str| match issued(name) {
        Body::Credential(credential) => Body::Credential(Credential {
            verb: verb.into(),
            ..credential
        }),
        other => other,
    };
    for (minutes, verb, name, reporter) in [
        (30, "issued", "web", AUTHORITY),
        (20, "issued", "web", AUTHORITY),
        (15, "refused", "web", NODE),
        (10, "issued", "orders", AUTHORITY),
    ] {
        seeded.ago(minutes * MINUTE, reporter, credential(verb, name));
    }
    let report = seeded.made("privileged").await;
    let time = |minutes: i64| seeded.time(minutes * MINUTE);
    let ulid = |id: &[u8]| ulid::Ulid::from_bytes(id.try_into().unwrap()).to_string();
    let operators = section(&report, "operator-actions");
    let of = [
        "time", "actor", "verb", "object", "detail", "reporter", "id",
    ];
    assert_eq!(
        cells(operators, of),
        [
            [
                time(40).as_str(),
                "uid:1000",
                "node_joined",
                "n1",
                "",
                AUTHORITY,
                &ulid(&join)
            ],
            [
                time(50).as_str(),
                "uid:0",
                "kill_added",
                &id("web"),
                bad,
                PDP,
                &ulid(&kill)
            ],
        ]
    );
    assert_eq!(figures(operators), [("records", "2")]);
    let credentials = section(&report, "credentials");
    let of = ["verb", "spiffe_id", "reporter", "count", "first", "last"];
    let rows = cells(credentials, of);
    let (web, orders) = (id("web"), id("orders"));
    assert_eq!(
        rows[0],
        ["issued", &web, AUTHORITY, "2", &time(30), &time(20)]
    );
    assert_eq!(rows.len(), 3, "{rows:#?}");
    for (verb, of, reporter, minutes) in [
        ("refused", &web, NODE, 15),
        ("issued", &orders, AUTHORITY, 10),
    ] {
        let time = time(minutes);
        assert!(
            rows.contains(&[verb, of, reporter, "1", &time, &time]),
            "{rows:#?}"
        );
    }
    assert_eq!(figures(credentials), [("records", "4")]);
    // The chart counts the same, by what happened.
    let chart = credentials.chart.as_ref().unwrap();
    let sums = (0..chart.series.len()).map(|at| {
        let of_series = chart.points.iter().map(|p| p.values[at]);
        (chart.series[at].as_str(), of_series.sum::<u64>())
    });
    let mut sums: Vec<_> = sums.collect();
    sums.sort_unstable();
    assert_eq!(sums, [("issued", 3), ("refused", 1)]);
    assert_eq!(figures(section(&report, "audit-reads")), [("records", "0")]);
    // What would be a formula, a tag or a turn of the text is none in any form.
    let page = crate::report::to_html(&report).unwrap();
    let shown = page
        .split("<script type=\"application/json\"")
        .next()
        .unwrap();
    assert!(!shown.contains("<b>") && !shown.contains('\u{202e}'));
    let files = crate::report::to_csv(&report).unwrap();
    let table = files
        .iter()
        .find(|(name, _)| name.contains("operator-actions"));
    let table = String::from_utf8(table.unwrap().1.clone()).unwrap();
    assert!(table.contains("\"'=cmd() \"\"a\"\", <b>"), "{table}");
}
