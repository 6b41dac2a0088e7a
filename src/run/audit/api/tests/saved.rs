//! Queries that readers keep.

use super::*;

/// A reader's queries are its own, narrow what they are asked with, and name nobody.
#[tokio::test]
async fn saved_queries_are_the_reader_s_own() {
    let service = Service::ready().await;
    let office = service.office();
    let put = async |path: &str, name: &str, q: &str| {
        let at = format!("/v1/audit/saved/{name}");
        service
            .ask_with(
                &office,
                Some(path),
                "PUT",
                &at,
                &format!("{{\"q\":\"{q}\"}}"),
            )
            .await
    };
    let reply = put(AUDITOR, "denied", "decision:deny class:decision").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    schema::check("SavedQuery", &reply.json());
    put(AUDITOR, "counted", "class:decision | count").await;
    for (name, q, code) in [
        ("de%20nied", "last:1h", "PLS7922"),
        ("bad", "servce:a", "PLS7102"),
        ("alice", "subject:alice@example.org", "PLS7922"),
    ] {
        put(AUDITOR, name, q).await.is_problem(400, code);
    }
    let saved = service
        .get(&office, AUDITOR, "/v1/audit/saved")
        .await
        .json();
    assert_eq!(saved["saved"][1]["name"], "denied", "{saved}");
    assert_eq!(saved["saved"].as_array().unwrap().len(), 2, "{saved}");
    let rows = async |path: &str, q: &str| {
        let uri = format!("/v1/audit/search?q={q}");
        service.ask(&office, Some(path), "GET", &uri).await
    };
    let of_both = rows(AUDITOR, "@denied").await.json();
    assert_eq!(of_both["rows"].as_array().unwrap().len(), 4, "{of_both}");
    let of_shop = rows(AUDITOR, "@denied%20service:shop/*").await.json();
    assert_eq!(of_shop["rows"].as_array().unwrap().len(), 2, "{of_shop}");
    rows(AUDITOR, "@counted%20last:1h")
        .await
        .is_problem(400, "PLS7923");
    rows(AUDITOR, "@denid").await.is_problem(404, "PLS7920");
    rows(ORDERS, "@denied").await.is_problem(404, "PLS7920");
    put(ORDERS, "denied", "decision:deny class:decision").await;
    let own = rows(ORDERS, "@denied").await.json();
    assert_eq!(own["rows"].as_array().unwrap().len(), 2, "{own}");
    // They outlive the service, and one that is forgotten is gone.
    let file = service._dir.path().join("audit/saved.json");
    let kept = crate::run::audit::saved::Saved::open(file, &mut Vec::new());
    let actor = format!("spiffe://acme.test/{AUDITOR}");
    assert_eq!(
        kept.expanded(&actor, "@denied").unwrap(),
        "decision:deny class:decision"
    );
    let at = "/v1/audit/saved/denied";
    let reply = service.ask(&office, Some(AUDITOR), "DELETE", at).await;
    assert_eq!(reply.json()["query"], "decision:deny class:decision");
    let reply = service.ask(&office, Some(AUDITOR), "DELETE", at).await;
    reply.is_problem(404, "PLS7920");
    let admin = service.rows("class:admin last:1h verb:query_*").await;
    let of = |verb: &str| admin.iter().filter(|r| r["verb"] == verb).count();
    assert_eq!(
        (of("query_saved"), of("query_forgotten")),
        (3, 1),
        "{admin:#?}"
    );
}
