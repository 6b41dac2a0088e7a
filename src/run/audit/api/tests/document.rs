//! The document and the router say the same.

use std::collections::BTreeSet;

use super::*;

/// The document and the router know the same routes, methods and parameters, and every
/// answer is what the document says.
#[tokio::test]
async fn the_document_is_what_the_router_does() {
    let service = Service::ready().await;
    let office = service.office();
    let document = document();
    let mut known = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let at = path.replace("{id}", &service.ids[0]);
        let at = at.replace("{level}", "0").replace("{number}", "000.p/3");
        let at = at.replace("{name}", "denials");
        known.insert(path.clone());
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let operation = &methods[method.to_ascii_lowercase()];
            let reply = service.ask(&office, None, method, &at).await;
            match operation.is_null() {
                true => reply.is_problem(405, "PLS7907"),
                false if operation["operationId"] == "document" => assert_eq!(reply.status, 200),
                false => reply.is_problem(401, "PLS7904"),
            }
            if method != "GET" {
                continue;
            }
            // What is told is taken, and nothing else.
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                if parameter["in"] == "path" || path.ends_with("tail") {
                    continue;
                }
                let value = match (name, &parameter["schema"]["type"]) {
                    ("cursor", _) => "0.1.0.0",
                    ("period", _) => "last:1h",
                    ("scope", _) => "service:shop/*",
                    ("table", _) => "0&format=csv",
                    ("entry", _) => "1",
                    ("step", _) => "1h",
                    ("by", _) => "service",
                    ("format", _) => "csv",
                    ("q", _) => "last:1h",
                    _ => "1",
                };
                let reply = service
                    .ask(
                        &office,
                        Some(AUDITOR),
                        "GET",
                        &format!("{at}?{name}={value}"),
                    )
                    .await;
                assert_eq!(reply.status, 200, "{path} {name}: {reply:?}");
            }
            if !operation.is_null()
                && path != "/v1/openapi.json"
                && !path.ends_with("fields")
                && path != "/metrics"
            {
                let reply = service
                    .ask(&office, Some(AUDITOR), "GET", &format!("{at}?unknown=1"))
                    .await;
                reply.is_problem(400, "PLS7908");
            }
        }
    }
    for none in [
        "/",
        "/v1",
        "/v1/audit",
        "/v1/audit/told",
        "/tile",
        "/v2/audit/search",
    ] {
        let reply = service.ask(&office, Some(AUDITOR), "GET", none).await;
        reply.is_problem(404, "PLS7907");
    }
    assert_eq!(known.len(), 23, "{known:?}");
    let whole = of_the_whole().map(|(name, uri)| (name, uri.to_owned()));
    for (name, uri) in reads(&service.ids[0]).into_iter().chain(whole) {
        let reply = service.get(&office, AUDITOR, &uri).await;
        let kind = reply.header("content-type");
        if let Some(uri) = uri.strip_prefix("/v1/audit/reports/denials")
            && kind == "application/json"
        {
            assert!(uri.starts_with('?'), "{uri}");
            schema::check_answer("/v1/audit/reports/{name}", kind, &reply.json());
        }
        match name {
            // What is no JSON has no schema of ours; whatever is has one.
            "" => assert_ne!(kind, "application/json", "{uri}: {reply:?}"),
            "Row" => reply.text().lines().for_each(|line| {
                schema::check("Row", &serde_json::from_str(line).unwrap());
            }),
            name => schema::check(name, &reply.json()),
        }
    }
    let fields = service
        .get(&office, AUDITOR, "/v1/audit/fields")
        .await
        .json();
    schema::check("Fields", &fields);
}
