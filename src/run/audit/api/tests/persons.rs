//! Who is shown a person, and who finds records by one.

use palisade_mesh::wire::record::PolicyChange;

use super::*;

impl Service {
    /// The id of a policy change by somebody.
    async fn change_by(&self, author: &str) -> String {
        let clock = Clock::system();
        let reporter = self.config.trust_domain.id("palisade/pdp").unwrap();
        let sink = LocalSink::new(self.role.log.clone(), reporter.clone(), clock.clone());
        let mut stream = sink.open(0);
        let id = DecisionIds::new().next(clock.now_us());
        let change = PolicyChange {
            authors: vec![author.into()],
            ..PolicyChange::default()
        };
        let record = Record {
            id: id.to_bytes().to_vec(),
            time_us: clock.now_us(),
            reporter: reporter.to_string(),
            body: Some(What::PolicyChange(change)),
            ..Record::default()
        };
        stream.append(&record).unwrap();
        stream.flush();
        stream.durable().await.unwrap();
        id.to_string()
    }
}

/// Persons are shown to whom a policy names for it, for a reason; and looking for somebody
/// is on record without the name.
#[tokio::test]
async fn persons_are_shown_to_whom_a_policy_lets_reveal_and_says_why() {
    let service = Service::ready().await;
    let office = service.office();
    let alice = "alice@example.org";
    let id = service.change_by(alice).await;
    let at = format!("/v1/audit/records/{id}");
    let named = format!("/v1/audit/search?q=subject:{alice}%20class:*");
    let search = format!("{named}&reason=ticket%208");
    let found = service.get(&office, AUDITOR, &search).await;
    assert_eq!(found.json()["rows"][0]["id"], id.as_str(), "{found:?}");
    for uri in [&at, &search] {
        let reply = service.get(&office, AUDITOR, uri).await;
        assert!(!reply.text().contains("alice"), "{reply:?}");
    }
    let revealed = format!("{at}/revealed?reason=ticket%207");
    let reply = service.get(&office, AUDITOR, &revealed).await.json();
    schema::check("Revealed", &reply);
    assert_eq!(reply["records"][0]["values"][0]["value"], alice, "{reply}");
    let refused = async |path, uri: &str, status, code| {
        let reply = service.ask(&office, Some(path), "GET", uri).await;
        reply.is_problem(status, code);
    };
    refused(AUDITOR, &format!("{at}/revealed"), 400, "PLS7565").await;
    refused(ORDERS, &revealed, 404, "PLS7913").await;
    refused(BANK, &revealed, 403, "PLS7906").await;
    refused(BANK, &search, 403, "PLS7906").await;
    // A name is for whoever may reveal and says why, by every question; a pseudonym is free.
    refused(AUDITOR, &named, 400, "PLS7565").await;
    refused(AUDITOR, &format!("{named}&reason={alice}"), 400, "PLS7565").await;
    for uri in ["search", "facets", "timeline", "export", "tail"] {
        let uri = format!("/v1/audit/{uri}?q=subject:{alice}&reason=1");
        refused(READER, &uri, 403, "PLS7906").await;
    }
    let person = found.json()["rows"][0]["subject"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let free = format!("/v1/audit/search?q=subject:{person}%20class:*");
    let found = service.get(&office, READER, &free).await;
    assert_eq!(found.json()["rows"][0]["id"], id.as_str(), "{found:?}");
    // What may be revealed to it bounds what it finds by name.
    let of_change = service.get(&office, ORDERS, &search).await;
    assert_eq!(of_change.json()["rows"].as_array().unwrap().len(), 0);
    let unknown = "/v1/audit/records/01JD8K2XQ4ABCDEFGH01234567/revealed?reason=ticket%209";
    refused(AUDITOR, unknown, 404, "PLS7913").await;
    let reads = service.rows("class:audit_read").await;
    let because = |r: &Value| r["because"] == "ticket 7" && r["verb"] == "reveal";
    assert!(reads.iter().any(because), "{reads:#?}");
    let because = |why: &str| reads.iter().find(|r| r["because"] == why);
    assert_eq!(because("ticket 8").unwrap()["verb"], "search");
    assert_eq!(because("ticket 9").unwrap()["rows"], 0, "it was not there");
    let denied = |r: &Value| r["verb"] == "reveal" && r["decision"] == "not_permitted";
    assert!(
        reads.iter().filter(|r| denied(r)).count() >= 5,
        "{reads:#?}"
    );
    assert!(!format!("{reads:?}").contains("alice"), "{reads:#?}");
}

/// Who reads everything and reveals some rows alone gets a report of a person from nobody:
/// it would count the others' rows, too.
#[tokio::test]
async fn a_report_of_a_person_is_kept_to_what_may_be_revealed() {
    let service = Service::ready().await;
    let office = service.office();
    let of = |name: &str| {
        format!("/v1/audit/reports/{name}?scope=subject:alice@bank.test&reason=case%201")
    };
    for name in ["access", "denials"] {
        let reply = service.ask(&office, Some(CLERK), "GET", &of(name)).await;
        reply.is_problem(403, "PLS7914");
        assert!(reply.text().contains("service:shop/*"), "{reply:?}");
    }
    service.get(&office, AUDITOR, &of("access")).await;
    let whole = "/v1/audit/reports/access?scope=service:shop/*";
    let office = service.office();
    service.get(&office, CLERK, whole).await;
    let rows = service.rows("class:audit_read verb:reports decision:deny last:1h");
    let rows = rows.await;
    assert_eq!(rows.len(), 2, "{rows:#?}");
    assert!(!format!("{rows:?}").contains("alice"), "{rows:#?}");
}
