//! OpenID AuthZEN Authorization API 1.0: the requests of the specification's text, and the
//! shape of each answer to the letter.
//!
//! Alice and Bob are workloads; documents, accounts and todos are operations of services.
//! What the specification calls them is what `pdp.decisions.authzen` maps; the other tests
//! ask in the words that need no mapping.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{
    Home, LIMIT,
    decisions::{Desk, TOKEN, request},
    http, wait_for,
};

const DOMAIN: &str = "example.com";

/// The client `ci` is the enforcement point of the examples.
const LINKS: &str = r#"
@id("the-enforcement-point")
permit (principal is Client, action in [Action::"assert", Action::"search"], resource);
"#;

const FILES: &[(&str, &str)] = &[
    (
        "palisade.yaml",
        "trust_domain: example.com\nheaders:\n  x-tenant: single\n",
    ),
    (
        "services/alice.yaml",
        "service: people/alice\nidentities: [ns/people/sa/alice]\nhosts: [alice]\n",
    ),
    (
        "services/bob.yaml",
        "service: people/bob\nidentities: [ns/people/sa/bob]\nhosts: [bob]\n",
    ),
    (
        "services/document.yaml",
        "service: files/document\nidentities: [ns/files/sa/document]\nhosts: [document]\noperations:\n  - { name: one, match: GET /1 }\n  - { name: two, match: GET /2 }\n  - { name: three, match: GET /3 }\n",
    ),
    (
        "services/account.yaml",
        "service: bank/account\nidentities: [ns/bank/sa/account]\nhosts: [account]\noperations:\n  - { name: a123, match: \"GET,PUT /123\" }\n  - { name: a456, match: GET /456 }\n  - { name: a789, match: GET /789 }\n  - { name: refund, match: \"POST /{id}/refund\", action: \"account:refund\" }\n",
    ),
    (
        "services/todo.yaml",
        "service: todo/list\nidentities: [ns/todo/sa/list]\nhosts: [todo]\noperations:\n  - { name: read, match: \"GET /todos/{id}\" }\n",
    ),
    (
        "policies/all.cedar",
        r#"
@id("documents")
permit (principal in Service::"example.com/people/alice", action == Action::"GET", resource)
when { resource == Operation::"example.com/files/document/one" || resource == Operation::"example.com/files/document/three" };

@id("no-second-document")
@deny_message("Document 2 is sealed.")
forbid (principal, action, resource == Operation::"example.com/files/document/two");

@id("accounts")
permit (principal, action in Action::"http:read", resource in Service::"example.com/bank/account")
when { principal in Service::"example.com/people/alice" || principal in Service::"example.com/people/bob" };

@id("alice-writes")
permit (principal in Service::"example.com/people/alice", action == Action::"PUT", resource == Operation::"example.com/bank/account/a123");

@id("alice-refunds-her-own")
permit (principal in Service::"example.com/people/alice", action == Action::"account:refund", resource)
when { context.http.path == "/7/refund" };

@id("todos-in-office-hours")
permit (principal, action == Action::"GET", resource in Service::"example.com/todo/list")
when { context.time.hour >= 8 && context.time.hour < 18 };
"#,
    ),
];

fn home() -> Home {
    let home = Home::new();
    for (name, text) in FILES {
        let path = home.path("policies").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    home
}

fn workload(name: &str) -> Value {
    json!({ "type": "workload", "id": name })
}

fn operation(id: &str) -> Value {
    json!({ "type": "operation", "id": id })
}

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";

/// Only what the specification says is looked at; the context is ours.
fn decisions(answer: &Value) -> Vec<bool> {
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
    let all = answer["evaluations"].as_array().unwrap();
    all.iter()
        .map(|d| d["decision"].as_bool().unwrap())
        .collect()
}

/// Sections "Access Evaluation API" and "Transport".
#[test]
fn an_evaluation_is_answered_as_the_specification_shows() {
    let home = home();
    let desk = Desk::ready(&home, DOMAIN, LINKS);
    let asked = json!({
        "subject": workload("alice"),
        "resource": operation("bank/account/a123"),
        "action": { "name": "GET", "properties": { "method": "GET" } },
        "context": { "time": "1985-10-26T01:22-07:00" },
        "unknown": "is ignored",
    });
    let id = "bfe9eb29-ab87-4ca3-be83-a1d5d8305716";
    let reply = desk.post(EVALUATION, &[("x-request-id", id)], &asked.to_string());
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("x-request-id"), Some(id));
    assert_eq!(reply.json()["decision"], true);
    let answer = reply.json();
    let record = desk.record(answer["context"]["id"].as_str().unwrap());
    assert_eq!(record["api"], "authzen");
    assert_eq!(
        record["asserted_by"],
        "spiffe://example.com/palisade/client/ci"
    );

    // A denial is 200.
    let denied = desk.answer(
        EVALUATION,
        &json!({ "subject": workload("alice"), "action": { "name": "GET" }, "resource": operation("files/document/two") })
            .to_string(),
    );
    assert_eq!(denied["decision"], false);
    assert_eq!(
        denied["context"]["reason_user"]["en"],
        "Document 2 is sealed."
    );
    assert!(denied["context"].get("policies").is_none(), "{denied}");

    // The time of the question is the time that is asked about.
    for (time, expected) in [
        ("2024-06-11T10:30:00Z", true),
        ("2024-06-11T20:30:00Z", false),
        ("2024-05-31T15:22-07:00", false),
    ] {
        let asked = json!({
            "subject": workload("bob"), "action": { "name": "GET" },
            "resource": { "type": "url", "id": "http://todo/todos/1" },
            "context": { "time": time },
        });
        let answer = desk.answer(EVALUATION, &asked.to_string());
        assert_eq!(answer["decision"], expected, "{time}: {answer}");
    }

    // Every way to be no question: 400 and a text.
    let good = asked.as_object().unwrap();
    let without = |key: &str| {
        let mut map = good.clone();
        map.remove(key);
        Value::Object(map)
    };
    let with = |key: &str, value: Value| {
        let mut map = good.clone();
        map.insert(key.into(), value);
        Value::Object(map)
    };
    for (bad, expected) in [
        (without("subject"), "`subject` is missing"),
        (without("action"), "`action` is missing"),
        (without("resource"), "`resource` is missing"),
        (
            with("subject", json!({ "type": "workload" })),
            "`subject.id` is missing",
        ),
        (
            with("subject", json!({ "id": "alice" })),
            "missing field `type`",
        ),
        (
            with(
                "subject",
                json!({ "type": "user", "id": "alice@example.com" }),
            ),
            "`workload`",
        ),
        (with("subject", workload("alcie")), "did you mean `alice`?"),
        (
            with(
                "subject",
                json!({ "type": "workload", "id": "alice", "properties": { "department": "Sales" } }),
            ),
            "no policy can read `department`",
        ),
        (
            with("action", json!({ "name": "can_read" })),
            "neither a method nor an action",
        ),
        (
            with("resource", operation("bank/account/none")),
            "there is no operation",
        ),
        (
            with("resource", json!({ "type": "book", "id": "123" })),
            "type `book`",
        ),
        (
            with("context", json!({ "colour": "red" })),
            "no policy can read `colour`",
        ),
        (with("context", json!({ "time": "noon" })), "context.time"),
        (json!([1]), "PLS6107"),
    ] {
        let reply = desk.post(EVALUATION, &[("x-request-id", "1")], &bad.to_string());
        assert_eq!(reply.status, 400, "{bad}: {reply:?}");
        assert!(reply.body.contains(expected), "{bad}: {}", reply.body);
        assert_eq!(reply.header("x-request-id"), Some("1"));
    }
    let text = asked.to_string();
    let reply = desk.post(EVALUATION, &[("content-type", "text/plain")], &text);
    assert_eq!(reply.status, 415, "{reply:?}");
    let reply = desk.post(EVALUATION, &[("authorization", "")], &text);
    assert_eq!(reply.status, 401, "{reply:?}");
    assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    assert_eq!(desk.post("/access/v1/nothing", &[], &text).status, 404);

    // What could not be decided is neither true nor false.
    let open = json!({ "subject": workload("alice"), "action": { "name": "account:refund" }, "resource": operation("bank/account/refund") });
    let reply = desk.post(EVALUATION, &[], &open.to_string());
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.body.contains("http.path"), "{reply:?}");
    assert_eq!(reply.header("retry-after"), Some("1"));
    for (path, expected) in [("/7/refund", true), ("/8/refund", false)] {
        let mut asked = open.clone();
        asked["resource"]["properties"] = json!({ "path": path });
        let answer = desk.answer(EVALUATION, &asked.to_string());
        assert_eq!(answer["decision"], expected, "{path}: {answer}");
    }
}

/// Section "Access Evaluations API": defaults, all three semantics, errors.
#[test]
fn evaluations_are_answered_as_the_specification_shows() {
    let home = home();
    let desk = Desk::ready(&home, DOMAIN, LINKS);
    let documents: Vec<Value> = ["one", "two", "three"]
        .map(|name| json!({ "resource": operation(&format!("files/document/{name}")) }))
        .into();
    for (semantic, expected) in [
        (None, &[true, false, true][..]),
        (Some("execute_all"), &[true, false, true]),
        (Some("deny_on_first_deny"), &[true, false]),
        (Some("permit_on_first_permit"), &[true]),
    ] {
        let mut asked = json!({
            "subject": workload("alice"), "action": { "name": "GET" },
            "context": { "time": "2024-05-31T15:22-07:00" },
            "evaluations": documents,
        });
        if let Some(semantic) = semantic {
            asked["options"] =
                json!({ "evaluations_semantic": semantic, "another_option": "value" });
        }
        let answer = desk.answer(EVALUATIONS, &asked.to_string());
        assert_eq!(decisions(&answer), expected, "{semantic:?}");
        for one in answer["evaluations"].as_array().unwrap() {
            desk.record(one["context"]["id"].as_str().unwrap());
        }
    }
    // Everything in each question, and a default that one of them overrides.
    let whole = json!({ "evaluations": [
        { "subject": workload("alice"), "action": { "name": "GET" }, "resource": operation("bank/account/a123") },
        { "subject": workload("bob"), "action": { "name": "PUT" }, "resource": operation("bank/account/a123") },
    ]});
    assert_eq!(
        decisions(&desk.answer(EVALUATIONS, &whole.to_string())),
        [true, false]
    );
    let overridden = json!({
        "subject": workload("alice"), "action": { "name": "GET" },
        "evaluations": [
            { "resource": operation("bank/account/a123") },
            { "resource": operation("bank/account/a456") },
            { "action": { "name": "PUT" }, "resource": operation("bank/account/a123") },
        ],
    });
    assert_eq!(
        decisions(&desk.answer(EVALUATIONS, &overridden.to_string())),
        [true, true, true]
    );
    // Without evaluations it is one evaluation.
    for evaluations in [json!([]), Value::Null] {
        let mut single = json!({ "subject": workload("alice"), "action": { "name": "GET" }, "resource": operation("bank/account/a123") });
        if !evaluations.is_null() {
            single["evaluations"] = evaluations;
        }
        assert_eq!(
            desk.answer(EVALUATIONS, &single.to_string())["decision"],
            true
        );
    }
    // An error of one is its own; what is missing in one is a fault of all.
    let one_wrong = json!({
        "subject": workload("alice"), "action": { "name": "GET" },
        "evaluations": [{ "resource": operation("bank/account/a123") }, { "resource": operation("bank/account/none") }],
    });
    let answer = desk.answer(EVALUATIONS, &one_wrong.to_string());
    assert_eq!(decisions(&answer), [true, false]);
    let error = &answer["evaluations"][1]["context"]["error"];
    assert_eq!(error["status"], 400, "{answer}");
    assert!(
        error["message"].as_str().unwrap().contains("no operation"),
        "{answer}"
    );
    // What cannot be decided is as an error, and stops what an error stops.
    let refund = json!({ "action": { "name": "account:refund" }, "resource": operation("bank/account/refund") });
    let mut one_open = json!({
        "subject": workload("alice"), "action": { "name": "GET" },
        "evaluations": [{ "resource": operation("bank/account/a123") }, refund, { "resource": operation("bank/account/a456") }],
    });
    for (semantic, expected) in [
        ("execute_all", &[true, false, true][..]),
        ("deny_on_first_deny", &[true, false]),
        ("permit_on_first_permit", &[true]),
    ] {
        one_open["options"] = json!({ "evaluations_semantic": semantic });
        let answer = desk.answer(EVALUATIONS, &one_open.to_string());
        assert_eq!(decisions(&answer), expected, "{answer}");
        let error = &answer["evaluations"][1]["context"]["error"];
        assert!(expected.len() < 2 || error["status"] == 503, "{answer}");
    }
    let twice = r#"{"subject":{"type":"workload","id":"alice"},"action":{"name":"GET"},"resource":{"type":"operation","id":"bank/account/a123"},"context":{"time":"2024-06-11T10:30:00Z","time":"2024-06-11T20:30:00Z"}}"#;
    let reply = desk.post(EVALUATION, &[], twice);
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(reply.body.contains("`time` is there twice"), "{reply:?}");
    for (bad, expected) in [
        (
            json!({ "evaluations": [{ "resource": operation("bank/account/a123") }] }),
            "`subject` is missing",
        ),
        (
            json!({ "subject": workload("alice"), "evaluations": [{}], "options": { "evaluations_semantic": "any" } }),
            "any",
        ),
    ] {
        let reply = desk.post(EVALUATIONS, &[], &bad.to_string());
        assert_eq!(reply.status, 400, "{bad}: {reply:?}");
        assert!(reply.body.contains(expected), "{reply:?}");
    }
    let batch = |count: usize| {
        json!({
            "subject": workload("alice"), "action": { "name": "GET" },
            "evaluations": vec![json!({ "resource": operation("bank/account/a123") }); count],
        })
    };
    assert_eq!(
        decisions(&desk.answer(EVALUATIONS, &batch(256).to_string())).len(),
        256
    );
    let reply = desk.post(EVALUATIONS, &[], &batch(257).to_string());
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(reply.body.contains("PLS6112"), "{reply:?}");
}

/// Section "Search APIs", with the pages of its example, and the metadata.
#[test]
fn searches_and_metadata_are_answered_as_the_specification_shows() {
    let home = home();
    let desk = Desk::ready(&home, DOMAIN, LINKS);
    let ids = |answer: &Value, key: &str| -> Vec<String> {
        let results = answer["results"].as_array().unwrap();
        results
            .iter()
            .map(|r| r[key].as_str().unwrap().to_owned())
            .collect()
    };
    let subjects = json!({
        "subject": { "type": "workload" }, "action": { "name": "GET" },
        "resource": operation("bank/account/a123"),
        "context": { "time": "2024-10-26T01:22-07:00" },
    });
    let answer = desk.answer("/access/v1/search/subject", &subjects.to_string());
    assert_eq!(
        answer["results"],
        json!([
            { "type": "workload", "id": "spiffe://example.com/ns/people/sa/alice" },
            { "type": "workload", "id": "spiffe://example.com/ns/people/sa/bob" },
        ])
    );
    assert_eq!(
        answer["page"],
        json!({ "next_token": "", "count": 2, "total": 2 })
    );

    let mut accounts = json!({
        "subject": workload("alice"), "action": { "name": "GET" },
        "resource": { "type": "operation", "id": "is ignored" },
        "context": { "time": "2024-06-11T20:30:00Z" },
        "page": { "limit": 4 },
    });
    let path = "/access/v1/search/resource";
    let first = desk.answer(path, &accounts.to_string());
    assert_eq!(ids(&first, "id").len(), 4, "{first}");
    assert_eq!(first["page"]["total"], 5, "{first}");
    let token = first["page"]["next_token"].as_str().unwrap().to_owned();
    assert!(!token.is_empty());
    accounts["page"] = json!({ "token": token });
    let second = desk.answer(path, &accounts.to_string());
    assert_eq!(
        second["page"],
        json!({ "next_token": "", "count": 1, "total": 5 })
    );
    let all: Vec<String> = [ids(&first, "id"), ids(&second, "id")].concat();
    let expected = [
        "bank/account/a123",
        "bank/account/a456",
        "bank/account/a789",
        "files/document/one",
        "files/document/three",
    ];
    assert_eq!(all, expected.map(|id| format!("{DOMAIN}/{id}")));
    // Each result is a permitted evaluation.
    for id in all {
        let asked = json!({ "subject": workload("alice"), "action": { "name": "GET" }, "resource": operation(&id) });
        assert_eq!(
            desk.answer(EVALUATION, &asked.to_string())["decision"],
            true,
            "{id}"
        );
    }
    // A token is good for its own search alone.
    accounts["subject"] = workload("bob");
    let reply = desk.post(path, &[], &accounts.to_string());
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(reply.body.contains("PLS6115"), "{reply:?}");

    let actions =
        json!({ "subject": workload("alice"), "resource": operation("bank/account/a123") });
    let answer = desk.answer("/access/v1/search/action", &actions.to_string());
    assert_eq!(
        answer["results"],
        json!([{ "name": "GET" }, { "name": "PUT" }])
    );
    // What depends on what nobody said is no result, and is counted.
    let open = json!({ "subject": workload("alice"), "action": { "name": "account:refund" }, "resource": { "type": "operation" } });
    let answer = desk.answer(path, &open.to_string());
    assert_eq!(answer["results"], json!([]));
    assert_eq!(answer["context"]["undecided"], 1, "{answer}");
    for bad in [
        json!({ "subject": { "type": "user" }, "action": { "name": "GET" }, "resource": operation("bank/account/a123") }),
        json!({ "subject": { "type": "workload" }, "resource": operation("bank/account/a123") }),
        json!({ "subject": { "type": "workload" }, "action": { "name": "can_read" }, "resource": operation("bank/account/a123") }),
    ] {
        let reply = desk.post("/access/v1/search/subject", &[], &bad.to_string());
        assert_eq!(reply.status, 400, "{bad}: {reply:?}");
    }

    let bearer = format!("Bearer {TOKEN}");
    let reply = request(
        &mut http::connect(desk.plain).unwrap(),
        "GET",
        "/.well-known/authzen-configuration",
        &[("authorization", &bearer)],
        "",
    )
    .unwrap();
    assert_eq!(
        reply.json(),
        json!({
            "policy_decision_point": "http://pdp.example.com",
            "access_evaluation_endpoint": "http://pdp.example.com/access/v1/evaluation",
            "access_evaluations_endpoint": "http://pdp.example.com/access/v1/evaluations",
            "search_subject_endpoint": "http://pdp.example.com/access/v1/search/subject",
            "search_resource_endpoint": "http://pdp.example.com/access/v1/search/resource",
            "search_action_endpoint": "http://pdp.example.com/access/v1/search/action",
        })
    );
}

/// What the specification's text speaks of, as services.
const OF_THE_TEXT: &[(&str, &str)] = &[
    ("palisade.yaml", "trust_domain: example.com\n"),
    (
        "services/alice.yaml",
        "service: people/alice\nidentities: [ns/people/sa/alice]\nhosts: [alice]\n",
    ),
    (
        "services/bob.yaml",
        "service: people/bob\nidentities: [ns/people/sa/bob]\nhosts: [bob]\n",
    ),
    (
        "services/account.yaml",
        "service: bank/account\nidentities: [ns/bank/sa/account]\nhosts: [account]\noperations:\n  - { name: a123, match: \"GET,PUT,DELETE /123\" }\n  - { name: a456, match: GET /456 }\n  - { name: a789, match: GET /789 }\n",
    ),
    (
        "services/document.yaml",
        "service: files/document\nidentities: [ns/files/sa/document]\nhosts: [document]\noperations:\n  - { name: boxcarring, match: \"GET,PUT /boxcarring.md\" }\n  - { name: resources, match: \"GET,PUT /resource-search.md\" }\n  - { name: one, match: GET /1, action: \"document:read\" }\n  - { name: two, match: GET /2, action: \"document:read\" }\n  - { name: three, match: GET /3, action: \"document:read\" }\n",
    ),
    (
        "services/library.yaml",
        "service: city/library\nidentities: [ns/city/sa/library]\nhosts: [library]\noperations:\n  - { name: read, match: \"GET /books/{id}\" }\n  - { name: extend, match: \"PUT /books/{id}\", action: \"library:extend-loan\" }\n",
    ),
    (
        "policies/all.cedar",
        r#"
@id("people-read-accounts")
permit (principal, action == Action::"GET", resource in Service::"example.com/bank/account")
when { principal in Service::"example.com/people/alice" || principal in Service::"example.com/people/bob" };

@id("alice-writes")
permit (principal in Service::"example.com/people/alice", action == Action::"PUT", resource == Operation::"example.com/bank/account/a123");

@id("alice-boxcars")
permit (principal in Service::"example.com/people/alice", action == Action::"GET", resource == Operation::"example.com/files/document/boxcarring");

@id("alice-reads-odd-documents")
permit (principal in Service::"example.com/people/alice", action == Action::"document:read", resource)
when { resource == Operation::"example.com/files/document/one" || resource == Operation::"example.com/files/document/three" };

@id("alice-at-the-library")
permit (principal in Service::"example.com/people/alice", action in [Action::"GET", Action::"library:extend-loan"], resource in Service::"example.com/city/library");
"#,
    ),
];

/// The words of the specification's text.
const WORDS: &str = r#"authzen:
  subjects:
    - { type: user, id: "*@example.com", is: "spiffe://example.com/ns/people/sa/*" }
  actions:
    - { name: can_read, is: GET }
    - { name: can_write, is: PUT, on: [account] }
    - { name: can_edit, is: PUT, on: [document] }
    - { name: read, is: "document:read", on: [document] }
    - { name: extend-loan, is: "library:extend-loan", on: [book] }
  resources:
    - { type: account, id: "*", url: "http://account/*" }
    - { type: document, id: "*", url: "http://document/*" }
    - { type: book, id: "*", url: "http://library/books/*" }
    - { type: shelf, id: main, service: city/library }
  unread: [subject.department, subject.device_id, resource.library_record, action.period, context.schema]
"#;

fn of_the_text(home: &Home) -> Desk<'_> {
    for (name, text) in OF_THE_TEXT {
        let path = home.path("policies").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Desk::ready_with(home, DOMAIN, LINKS, WORDS)
}

/// Figures "Example Subject" to "Example Access Evaluations with options": each request as
/// it stands in the text, and the decisions that the text answers with.
#[test]
fn evaluations_of_the_text_are_answered_as_the_text_does() {
    let home = Home::new();
    let desk = of_the_text(&home);
    let request = r#"{"subject":{"type":"user","id":"alice@example.com"},"resource":{"type":"account","id":"123"},"action":{"name":"can_read","properties":{"method":"GET"}},"context":{"time":"1985-10-26T01:22-07:00"}}"#;
    let answer = desk.answer(EVALUATION, request);
    assert_eq!(answer["decision"], true, "{answer}");
    // The record says whom and what that was here.
    let record = desk.record(answer["context"]["id"].as_str().unwrap());
    assert_eq!(
        record["principal"],
        "spiffe://example.com/ns/people/sa/alice"
    );
    let service = record["service"].as_str().unwrap();
    assert!(service.ends_with("bank/account"), "{record}");
    assert_eq!(record["path"], "/123");

    // Every form of subject, resource, action and context of the information model.
    let subjects = [
        json!({"type": "user", "id": "alice@example.com"}),
        json!({"type": "user", "id": "alice@example.com", "properties": {"department": "Sales"}}),
        json!({"type": "user", "id": "alice@example.com", "properties": {"ip_address": "172.217.22.14", "device_id": "8:65:ee:17:7e:0b"}}),
    ];
    let resources = [
        json!({"type": "book", "id": "123"}),
        json!({"type": "book", "id": "123", "properties": {"library_record": {"title": "AuthZEN in Action", "isbn": "978-0593383322"}}}),
    ];
    let actions = [
        json!({"name": "can_read"}),
        json!({"name": "extend-loan", "properties": {"period": "2W"}}),
    ];
    let contexts = [
        json!({"time": "1985-10-26T01:22-07:00"}),
        json!({"time": "1985-10-26T01:22-07:00", "schema": "https://schema.example.com/access-request.schema.json"}),
    ];
    for subject in &subjects {
        for resource in &resources {
            for (action, context) in actions.iter().zip(&contexts) {
                let asked = json!({ "subject": subject, "resource": resource, "action": action, "context": context });
                let answer = desk.answer(EVALUATION, &asked.to_string());
                assert_eq!(answer["decision"], true, "{asked}: {answer}");
            }
        }
    }

    let alice = json!({"type": "user", "id": "alice@example.com"});
    let context = json!({"time": "2024-05-31T15:22-07:00"});
    let document = |id: &str| json!({"type": "document", "id": id});
    let names = ["boxcarring.md", "subject-search.md", "resource-search.md"].map(document);
    let read = json!({"name": "can_read"});
    let [boxcarring, subject_search, resource_search] = &names;
    for (asked, expected) in [
        (
            json!({"evaluations": names.iter().map(|one| json!({"subject": alice, "action": read, "resource": one, "context": context})).collect::<Vec<_>>()}),
            &[true, false, false][..],
        ),
        (
            json!({"subject": alice, "context": context, "evaluations": names.iter().map(|one| json!({"action": read, "resource": one})).collect::<Vec<_>>()}),
            &[true, false, false],
        ),
        (
            json!({"subject": alice, "context": context, "action": read, "evaluations": [
                {"resource": boxcarring}, {"resource": subject_search},
                {"action": {"name": "can_edit"}, "resource": resource_search}]}),
            &[true, false, false],
        ),
    ] {
        let answer = desk.answer(EVALUATIONS, &asked.to_string());
        assert_eq!(decisions(&answer), expected, "{asked}: {answer}");
    }
    for (semantic, expected) in [
        ("execute_all", &[true, false, true][..]),
        ("deny_on_first_deny", &[true, false]),
        ("permit_on_first_permit", &[true]),
    ] {
        let asked = json!({
            "subject": alice, "action": {"name": "read"},
            "options": {"evaluations_semantic": semantic},
            "evaluations": Vec::from(["1", "2", "3"].map(|id| json!({"resource": document(id)}))),
        });
        let answer = desk.answer(EVALUATIONS, &asked.to_string());
        assert_eq!(decisions(&answer), expected, "{asked}: {answer}");
    }
}

/// Section "Search APIs": each request as it stands in the text, and its results, in the
/// caller's words; and what no rule says.
#[test]
fn searches_of_the_text_are_answered_as_the_text_does() {
    let home = Home::new();
    let desk = of_the_text(&home);
    let post = |kind: &str, asked: &str| desk.answer(&format!("/access/v1/search/{kind}"), asked);
    let first = post(
        "resource",
        r#"{"subject":{"type":"user","id":"alice@example.com"},"action":{"name":"can_read"},"resource":{"type":"account"},"page":{"limit":2}}"#,
    );
    let account = |id: &str| json!({"type": "account", "id": id});
    assert_eq!(first["results"], json!([account("123"), account("456")]));
    assert_eq!(first["page"]["count"], 2, "{first}");
    assert_eq!(first["page"]["total"], 3, "{first}");
    let next = json!({
        "subject": {"type": "user", "id": "alice@example.com"}, "action": {"name": "can_read"},
        "resource": {"type": "account"}, "page": {"token": first["page"]["next_token"]},
    });
    let second = post("resource", &next.to_string());
    assert_eq!(second["results"], json!([account("789")]));
    let page = json!({"next_token": "", "count": 1, "total": 3});
    assert_eq!(second["page"], page);

    let found = post(
        "subject",
        r#"{"subject":{"type":"user"},"action":{"name":"can_read"},"resource":{"type":"account","id":"123"},"context":{"time":"2024-10-26T01:22-07:00"}}"#,
    );
    let user = |id: &str| json!({"type": "user", "id": id});
    assert_eq!(
        found["results"],
        json!([user("alice@example.com"), user("bob@example.com")])
    );
    let found = post(
        "action",
        r#"{"subject":{"type":"user","id":"alice@example.com"},"resource":{"type":"account","id":"123"},"context":{"time":"2024-10-26T01:22-07:00"}}"#,
    );
    assert_eq!(
        found["results"],
        json!([{"name": "can_read"}, {"name": "can_write"}])
    );

    // Each search is recorded as what it was about here, whatever the caller calls that.
    for query in [
        "class:audit_read action:GET resource_type:Operation resource:example.com/bank/account/a123",
        "class:audit_read principal:spiffe://example.com/ns/people/sa/alice service:example.com/bank/account",
        "class:audit_read action:GET principal:spiffe://example.com/ns/people/sa/alice rows:2",
    ] {
        let rows = wait_for(query, LIMIT, || {
            let rows = home.rows(&format!("{query} last:1h"))?;
            (!rows.is_empty()).then_some(rows)
        });
        assert_eq!(rows.len(), 1, "{query}: {rows:?}");
        let said = rows[0]["query"].as_str().unwrap();
        assert!(said.starts_with("authzen search "), "{said}");
    }

    // What the caller says names persons, and nothing of it is recorded.
    let asked = json!({
        "subject": {"type": "user", "id": "alice@example.com", "properties": {"ip_address": "192.0.2.7"}},
        "resource": account("456"), "context": {"source": {"ip": "192.0.2.7"}},
    });
    post("action", &asked.to_string());
    let rows = wait_for("the record of it", LIMIT, || {
        let rows = home.rows("class:audit_read last:1h")?;
        let searches = |row: &&Value| row["query"] == "authzen search action";
        (rows.iter().filter(searches).count() == 2).then_some(rows)
    });
    for said in ["alice@example.com", "192.0.2.7", "ip_address"] {
        assert!(!format!("{rows:?}").contains(said), "{said}: {rows:#?}");
    }

    // What has no rule keeps its name, both ways.
    let ours = json!({
        "subject": workload("alice"), "resource": operation("bank/account/a123"),
    });
    let found = post("action", &ours.to_string());
    assert_eq!(
        found["results"],
        json!([{"name": "can_read"}, {"name": "PUT"}])
    );
    let ours = json!({
        "subject": {"type": "workload"}, "action": {"name": "GET"}, "resource": account("123"),
    });
    let found = post("subject", &ours.to_string());
    let ids = found["results"].to_string();
    assert!(
        ids.contains("spiffe://example.com/ns/people/sa/bob"),
        "{ids}"
    );
    // Books are not in the catalogue, their shelf is.
    let books = json!({
        "subject": user("alice@example.com"), "action": {"name": "can_read"}, "resource": {"type": "book"},
    });
    let found = post("resource", &books.to_string());
    assert_eq!(found["results"], json!([]), "{found}");
    assert_eq!(found["context"]["unlisted"], 1, "{found}");

    for (bad, word) in [
        (
            json!({"subject": user("carol@other.com"), "action": {"name": "can_read"}, "resource": account("123")}),
            "there is no `user`",
        ),
        (
            json!({"subject": user("alice@example.com"), "action": {"name": "can_read"}, "resource": account("1/../2")}),
            "there is no `account`",
        ),
        (
            json!({"subject": user("alice@example.com"), "action": {"name": "can_read"}, "resource": account("1?x=y")}),
            "there is no `account`",
        ),
        (
            json!({"subject": {"type": "robot", "id": "a"}, "action": {"name": "can_read"}, "resource": account("123")}),
            "type `robot`",
        ),
        (
            json!({"subject": user("alice@example.com"), "action": {"name": "can_edit"}, "resource": account("123")}),
            "`can_edit`",
        ),
        (
            json!({"subject": {"type": "user", "id": "alice@example.com", "properties": {"age": 1}}, "action": {"name": "can_read"}, "resource": account("123")}),
            "`age`",
        ),
    ] {
        let reply = desk.post(EVALUATION, &[], &bad.to_string());
        assert_eq!(reply.status, 400, "{bad}: {reply:?}");
        assert!(reply.body.contains(word), "{bad}: {}", reply.body);
    }
}

/// Everything that the page shows is what a PDP of the sample shop answers; `…` stands
/// for what is another each time.
#[test]
fn the_examples_of_the_page_are_true() {
    let page = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/reference/decision-apis.md"
    );
    let page = fs::read_to_string(page).unwrap();
    let home = Home::new();
    support::copy(&support::sample_policies(), &home.path("policies"));
    let desk = Desk::ready(&home, "demo.test", LINKS);
    let blocks: Vec<&str> = page.split("```http\n").skip(1).collect();
    assert!(blocks.len() >= 6, "{}", blocks.len());
    for block in blocks {
        let block = block.split("```").next().unwrap();
        let parts: Vec<&str> = block.split("\n\n").map(str::trim).collect();
        let [request, body, status, expected] = parts[..] else {
            panic!("{block}");
        };
        let reply = desk.post(request.strip_prefix("POST ").unwrap(), &[], body);
        assert_eq!(reply.status.to_string(), status, "{block}\n{reply:?}");
        if status == "200" {
            let expected: Value = serde_json::from_str(expected).unwrap();
            assert!(
                alike(&expected, &reply.json()),
                "{expected}\n{}",
                reply.body
            );
        } else {
            let mut at = 0;
            for piece in expected.split('…') {
                let found = reply.body[at..].find(piece);
                at += found.unwrap_or_else(|| panic!("{piece} in {}", reply.body)) + piece.len();
            }
        }
    }
}

fn alike(expected: &Value, actual: &Value) -> bool {
    match (expected, actual) {
        (Value::String(text), Value::String(other)) if text == "…" => !other.is_empty(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| alike(a, b)))
        }
        (a, b) => a == b,
    }
}
