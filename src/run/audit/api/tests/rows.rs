//! What of the log each reader sees.

use super::*;

/// Whoever may see one service's records sees nothing of another's, by whatever question.
#[tokio::test]
async fn a_reader_sees_its_own_rows_by_every_question() {
    let service = Service::ready().await;
    let office = service.office();
    let [shop, bank] = &service.ids;
    for (name, uri) in reads(shop) {
        let of_all = service.get(&office, AUDITOR, &uri).await;
        if uri.contains("export") {
            // Our own reads are among the records, so one more each time.
            assert_eq!(of_all.header("palisade-restricted"), "false");
            let reply = service.get(&office, ORDERS, &uri).await;
            assert_eq!(reply.header("palisade-restricted"), "true");
            assert_eq!(reply.header("palisade-complete"), "false");
            assert_eq!(reply.header("palisade-records"), (2 * EACH).to_string());
            assert!(!reply.text().contains("bank"), "{uri}: {reply:?}");
            assert!(of_all.text().contains("bank"), "{uri}");
            continue;
        }
        let reply = service.get(&office, ORDERS, &uri).await;
        if uri.starts_with("/tile/") {
            assert_eq!(
                reply.body.unwrap(),
                of_all.body.unwrap(),
                "hashes are for all"
            );
            continue;
        }
        assert!(!reply.text().contains("bank"), "{uri}: {reply:?}");
        if uri.contains("service") || uri.contains("class") {
            assert!(of_all.text().contains("bank"), "{uri}: {of_all:?}");
        }
        if !name.is_empty() {
            schema::check(name, &reply.json());
        }
        if ["RowsAnswer", "GroupsAnswer", "StepsAnswer", "Facets"].contains(&name) {
            let answer = reply.json();
            assert_eq!(answer["restricted_to"], "service:shop/*", "{answer}");
            assert_eq!(
                answer["complete"], false,
                "other records may match: {answer}"
            );
            assert!(of_all.json().get("restricted_to").is_none());
        }
    }
    // Counts, and queries that try to get out.
    let count = async |path: &str, q: &str| {
        let uri = format!("/v1/audit/search?q={q}%20%7C%20count");
        service.get(&office, path, &uri).await.json()["total"]
            .as_u64()
            .unwrap()
    };
    let each = EACH as u64;
    assert_eq!(count(AUDITOR, "class:decision").await, 2 * each);
    for q in [
        "class:decision",
        "class:decision%20OR%20-service:nothing%20class:decision",
    ] {
        assert_eq!(count(ORDERS, q).await, each, "{q}");
    }
    for q in [
        "service:bank/*",
        "class:admin",
        "verb:*",
        "-service:*",
        "class:audit_read",
    ] {
        assert_eq!(count(ORDERS, q).await, 0, "{q}");
    }
    // One that it may not see is one that there is not.
    let unknown = "01JD8K2XQ4ABCDEFGH01234567";
    for id in [bank.as_str(), unknown] {
        let uri = format!("/v1/audit/records/{id}");
        let reply = service.ask(&office, Some(ORDERS), "GET", &uri).await;
        reply.is_problem(404, "PLS7913");
        assert_eq!(
            reply.json()["detail"],
            format!("there is no record `{id}` that the caller may see")
        );
    }
    let found = service
        .get(&office, AUDITOR, &format!("/v1/audit/records/{bank}"))
        .await;
    assert_eq!(found.json()["rows"].as_array().unwrap().len(), 2);
    let part = format!("/v1/audit/records/{}", &shop[..10]);
    let reply = service.ask(&office, Some(ORDERS), "GET", &part).await;
    reply.is_problem(400, "PLS7110");
    // A page's cursor brings no rows that the first page would not have had.
    let page = service
        .get(&office, AUDITOR, "/v1/audit/search?q=class:*&limit=2")
        .await
        .json();
    let cursor = page["cursor"].as_str().unwrap();
    let uri = format!("/v1/audit/search?q=class:*&cursor={cursor}");
    let rest = service.get(&office, ORDERS, &uri).await;
    assert!(!rest.text().contains("bank"), "{rest:?}");
    // It is recorded with the time that it asks about, whatever its text says.
    let uri = format!("/v1/audit/search?q=last:1m%20class:credential&cursor={cursor}");
    service.get(&office, AUDITOR, &uri).await;
    let reads = service.rows("class:audit_read verb:search last:1h").await;
    let of_page = |row: &&Value| row["query"].as_str().unwrap().contains("class:credential");
    let [read] = reads.iter().filter(of_page).collect::<Vec<_>>()[..] else {
        panic!("{reads:#?}")
    };
    assert!(
        read["query"].as_str().unwrap().contains("since:2"),
        "{read}"
    );
    let everything = format!("/v1/audit/search?cursor=0.{0}.{0}.{0}", i64::MAX);
    let reply = service
        .ask(&office, Some(AUDITOR), "GET", &everything)
        .await;
    reply.is_problem(400, "PLS7106");
}

/// What cannot be kept to some rows is for whoever sees all of them, and the attempt is on
/// record; hashes tell nothing and are for every reader.
#[tokio::test]
async fn what_is_about_the_whole_log_is_for_whoever_sees_all_of_it() {
    let service = Service::ready().await;
    let office = service.office();
    for (_, uri) in of_the_whole() {
        service.get(&office, AUDITOR, uri).await;
        let reply = service.ask(&office, Some(ORDERS), "GET", uri).await;
        reply.is_problem(403, "PLS7914");
        assert!(!reply.text().contains("bank"), "{reply:?}");
        let reply = service.ask(&office, Some(BANK), "GET", uri).await;
        reply.is_problem(403, "PLS7906");
    }
    // Not of the same reader: so many are recorded one by one.
    let begun = service
        .ask(&office, Some(WEB), "POST", "/v1/audit/verify")
        .await;
    begun.is_problem(403, "PLS7914");
    let [_, bank] = &service.ids;
    let at = format!("/v1/audit/records/{bank}/proof");
    let reply = service.ask(&office, Some(ORDERS), "GET", &at).await;
    reply.is_problem(404, "PLS7913");
    let rows = service.rows("class:audit_read decision:deny last:1h").await;
    let refused = |path: &str, verb: &str| {
        let of =
            |r: &&Value| r["verb"] == verb && r["actor"] == format!("spiffe://acme.test/{path}");
        rows.iter().filter(of).count()
    };
    for (path, verb, times) in [
        (ORDERS, "alerts", 1),
        (ORDERS, "holds", 1),
        (ORDERS, "reports", 6),
        (ORDERS, "verify", 1),
        (WEB, "verify", 1),
        (ORDERS, "tiles", 1),
    ] {
        assert_eq!(refused(path, verb), times, "{path} {verb}: {rows:#?}");
    }
    let report = rows.iter().find(|r| r["verb"] == "reports").unwrap();
    assert_eq!(report["query"], "denials of last:30d");
}
