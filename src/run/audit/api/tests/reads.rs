//! Every read leaves a record, refused and given up ones too.

use super::*;

/// Whoever asks and does not wait for the answer has asked, and was given nothing.
#[tokio::test]
async fn a_question_that_was_given_up_is_a_read() {
    let service = Service::ready().await;
    let going = palisade_audit::going::Going::default();
    going.end();
    let asked = crate::run::audit::Search {
        query: "class:admin".into(),
        limit: None,
        cursor: None,
    };
    let id = service.config.trust_domain.id(READER).unwrap();
    let everything = palisade_audit::query::RowFilter::everything();
    let reader = Reader::permitted(&id, everything, Vec::new(), "r-1");
    let given_up = service.role.heeding(&going).search(reader, asked).await;
    assert_eq!(Diagnostic::from(given_up.unwrap_err()).code.0, 7911);
    let reads = service.rows("class:audit_read verb:search last:1h").await;
    let [read] = reads.as_slice() else {
        panic!("{reads:#?}")
    };
    assert_eq!(
        (&read["rows"], &read["request"]),
        (&0.into(), &"r-1".into())
    );
}

/// Whoever may read nothing does not fill the log by asking: what is beyond the first few reads of
/// a minute is counted, and the count recorded.
#[tokio::test]
async fn of_many_refused_reads_some_are_recorded_and_the_others_counted() {
    let service = Service::ready().await;
    let each = crate::run::audit::refused::EACH_MAX;
    for _ in 0..each + 3 {
        // Each by an office of its own: no limit of requests is met.
        let office = service.office();
        let reply = service
            .ask(&office, Some(BANK), "GET", "/v1/audit/search")
            .await;
        reply.is_problem(403, "PLS7906");
    }
    let office = service.office();
    let other = service.ask(&office, Some("ns/bank/sa/clerk"), "GET", "/v1/audit/search");
    other.await.is_problem(403, "PLS7906");
    let refused = "class:audit_read decision:deny last:1h";
    let rows = service.rows(refused).await;
    let of = |path: &str| {
        let id = format!("spiffe://acme.test/{path}");
        rows.iter().filter(|r| r["actor"] == id).count() as u64
    };
    assert_eq!((of(BANK), of("ns/bank/sa/clerk")), (each, 1), "{rows:#?}");
    service.role.reads.close();
    let patience = std::time::Instant::now();
    let counted = loop {
        let rows = service.rows("class:audit_read verb:refused last:1h").await;
        match rows.as_slice() {
            [counted] => break counted.clone(),
            rows => assert!(rows.is_empty(), "{rows:#?}"),
        }
        assert!(patience.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(counted["actor"], format!("spiffe://acme.test/{BANK}"));
    assert_eq!(counted["more"], 3);
    assert_eq!(counted["decision"], "not_permitted");
}

/// Who asked what, how much was given, by which policy; and who was not let.
#[tokio::test]
async fn every_read_leaves_a_record() {
    let service = Service::ready().await;
    let office = service.office();
    for (_, uri) in reads(&service.ids[0]) {
        service.get(&office, ORDERS, &uri).await;
    }
    let denied = "/v1/audit/search?q=decision:deny";
    let reply = service.ask(&office, Some(BANK), "GET", denied).await;
    reply.is_problem(403, "PLS7906");
    let reply = service
        .ask(&office, Some(WEB), "GET", "/v1/audit/export")
        .await;
    reply.is_problem(403, "PLS7906");
    assert_eq!(
        reply.json()["cause"],
        "forbidden by nobody-exports-the-shop"
    );
    let rows = service.rows("class:audit_read last:1h").await;
    let of = |verb: &str, actor: &str| -> Vec<&Value> {
        let actor = format!("spiffe://acme.test/{actor}");
        let all = rows
            .iter()
            .filter(|r| r["verb"] == verb && r["actor"] == *actor);
        all.collect()
    };
    for (verb, times) in [
        ("search", 3),
        ("facets", 1),
        ("timeline", 1),
        ("gaps", 1),
        // Where tile logs have it, too.
        ("checkpoint", 2),
        ("show", 1),
        ("proof", 1),
        ("saved", 1),
        ("reports", 1),
        ("tiles", 1),
        // Begun and ended, in two formats.
        ("export", 4),
    ] {
        let found = of(verb, ORDERS);
        assert_eq!(found.len(), times, "{verb}: {rows:#?}");
        for row in found {
            assert_eq!(row["decision"], "allow");
            assert_eq!(row["policy"][0], "shop-sees-its-own");
            assert_eq!(row["kept_to"], "service:shop/*");
            assert_eq!(row["request"].as_str().unwrap().len(), 26);
        }
    }
    let exports = of("export", ORDERS);
    let (begun, ended): (Vec<&Value>, Vec<&Value>) =
        exports.into_iter().partition(|row| row["begun"] == true);
    assert_eq!(begun.len(), 2);
    assert!(ended.iter().all(|row| row["rows"] == 2 * EACH), "{ended:?}");
    let bound = |row: &&Value| row["query"].as_str().unwrap().contains(" since:2");
    assert!(ended.iter().all(bound), "{ended:?}");
    let [show] = of("show", ORDERS)[..] else {
        panic!()
    };
    assert_eq!(show["query"], format!("id:{}", service.ids[0]));
    assert_eq!(show["rows"], 2);
    let [refused] = of("search", BANK)[..] else {
        panic!()
    };
    assert_eq!(refused["decision"], "not_permitted");
    assert_eq!(refused["query"], "decision:deny");
    assert_eq!(refused["rows"], 0);
    let [forbidden] = of("export", WEB)[..] else {
        panic!()
    };
    assert_eq!(forbidden["decision"], "forbidden");
    assert_eq!(forbidden["policy"][0], "nobody-exports-the-shop");
    // A log that takes no records gives none.
    service.role.reads.close();
    let reply = service.ask(&office, Some(ORDERS), "GET", denied).await;
    reply.is_problem(503, "PLS7901");
}
