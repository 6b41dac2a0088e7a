//! Tests in the format of Cedar's command line.

use serde_json::{Value, json};

use super::*;

/// A request that `orders-from-web` allows.
fn reads() -> Value {
    json!({
        "name": "reads",
        "request": {
            "principal": "Workload::\"spiffe://demo.test/ns/shop/sa/web\"",
            "action": "Action::\"GET\"",
            "resource": "Operation::\"demo.test/shop/orders/read\"",
            "context": {
                "source": {"ip": "10.0.0.7", "port": 40000},
                "tls": {"version": "1.3", "mtls": true, "alpn": "h2"},
                "time": {"now": "2026-11-20T12:00:00Z", "hour": 12, "weekday": 5},
                "http": {"method": "GET", "host": "orders", "path": "/orders/42", "headers": {"x-tenant": "a"}},
            },
        },
        "decision": "allow",
        "reason": ["orders-from-web"],
        "num_errors": 0,
    })
}

/// A change of one value: where it is, as a JSON pointer, and what it becomes; nothing takes
/// it out.
fn with(pointer: &str, value: Value) -> Value {
    let mut test = reads();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = test.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Value::Null => drop(parent.remove(key).unwrap()),
        value => drop(parent.insert(key.to_owned(), value)),
    }
    test
}

/// The sample with these files in tests/; its cases and what is wrong.
fn read(
    files: &[(&str, String)],
) -> (
    tempfile::TempDir,
    Compiled,
    Vec<tables::Case>,
    Vec<Diagnostic>,
) {
    let dir = copy();
    for (name, text) in files {
        write(dir.path(), &format!("tests/{name}"), text);
    }
    let compiled = load(dir.path()).compiled.unwrap();
    let (cases, found) = tables::read(dir.path(), &compiled, NOW_US);
    let own = |case: &tables::Case| case.location.file.ends_with(".json");
    let cases = cases.into_iter().filter(own).collect();
    (dir, compiled, cases, found)
}

fn run(files: &[(&str, String)]) -> Vec<tables::CaseResult> {
    let (_dir, compiled, cases, found) = read(files);
    assert_eq!(found, []);
    let mut engines = tables::Engines::new(compiled.clone(), &cases, false).unwrap();
    tables::run(&cases, None, Trace::None, &compiled, &mut engines).results
}

fn list(tests: &[Value]) -> String {
    serde_json::to_string_pretty(tests).unwrap()
}

/// How one test comes out: the label of its failure, if it fails.
fn came(test: Value) -> Option<String> {
    let results = run(&[("x.json", list(&[test]))]);
    let [one] = results.as_slice() else {
        panic!("{results:#?}")
    };
    one.failure
        .as_ref()
        .map(|failure| failure.label.clone().unwrap())
}

#[test]
fn a_request_of_a_proxy_is_decided_by_the_engine() {
    assert_eq!(came(reads()), None);
    assert_eq!(
        came(with("/reason", json!([]))),
        None,
        "reasons need not be all"
    );
    let refund = {
        let mut test = with("/request/action", json!("Action::\"orders:refund\""));
        test["request"]["resource"] = json!("Operation::\"demo.test/shop/orders/refund\"");
        let http = &mut test["request"]["context"]["http"];
        http["method"] = json!("POST");
        http["path"] = json!("/orders/42/refund");
        test["decision"] = json!("deny");
        test["reason"] = json!([]);
        test
    };
    assert_eq!(came(refund), None);
    let stranger = {
        let id = "Unregistered::\"spiffe://evil.test/ns/shop/sa/web\"";
        let mut test = with("/request/principal", json!(id));
        test["decision"] = json!("deny");
        test["reason"] = json!(["own-trust-domain"]);
        test
    };
    assert_eq!(came(stranger), None);
}

#[test]
fn what_is_otherwise_than_expected_is_told() {
    for (test, label) in [
        (with("/decision", json!("deny")), "expected deny, got allow"),
        (
            with("/reason", json!(["orders-from-web", "card-data"])),
            "expected allow by card-data, orders-from-web, got allow",
        ),
        (
            with("/num_errors", json!(1)),
            "expected 1 policies that fail to evaluate, got 0",
        ),
        // Nothing but these entities is there, so nothing is known of the operation.
        (
            with("/entities", json!([])),
            "expected allow, got undecided",
        ),
    ] {
        assert_eq!(came(test.clone()).as_deref(), Some(label), "{test:#}");
    }
}

#[test]
fn entities_are_those_that_the_test_brings() {
    let entity = |kind: &str, id: &str, parents: Value| json!({"uid": {"type": kind, "id": id}, "attrs": {}, "parents": parents});
    let web = "spiffe://demo.test/ns/shop/sa/web";
    let mut caller = entity("Workload", web, json!([]));
    caller["attrs"] =
        json!({"trustDomain": {"__entity": {"type": "TrustDomain", "id": "demo.test"}}});
    let orders = json!([{"type": "Service", "id": "demo.test/shop/orders"}]);
    let mut entities = vec![
        caller.clone(),
        entity("Operation", "demo.test/shop/orders/read", orders),
        entity("Service", "demo.test/shop/orders", json!([])),
        entity("Service", "demo.test/shop/web", json!([])),
    ];
    let mut denied = with("/entities", json!(entities));
    denied["decision"] = json!("deny");
    denied["reason"] = json!([]);
    assert_eq!(came(denied), None);
    entities[0]["parents"] = json!([{"type": "Service", "id": "demo.test/shop/web"}]);
    assert_eq!(came(with("/entities", json!(entities))), None);
    // The same from a file beside the tests, and from one with the fixtures.
    let own = json!(entities).to_string();
    for (test, file, name) in [
        ("x.json", "entities.json", "entities.json"),
        (
            "deep/x.json",
            "fixtures/entities.json",
            "../fixtures/entities.json",
        ),
    ] {
        let files = [
            (test, list(&[with("/entities", json!(name))])),
            (file, own.clone()),
        ];
        let results = run(&files);
        assert!(results.len() == 1 && results[0].passed, "{results:#?}");
    }
}

/// Each mistake is told where it stands.
#[test]
fn what_no_proxy_asks_is_told_where_it_stands() {
    let cedar = codes::TEST_CEDAR;
    let nothing = json!([{"uid": {"type": "Nothing", "id": "a"}, "attrs": {}, "parents": []}]);
    for (pointer, value, code, at, message) in [
        (
            "/request/principal",
            json!("web"),
            cedar,
            "web",
            "is no entity",
        ),
        (
            "/request/principal",
            json!("Workload::\"spiffe://demo.test/ns/shop/sa/nobody\""),
            cedar,
            "sa/nobody",
            "asks as `Unregistered::",
        ),
        (
            "/request/action",
            json!("Action::\"GTE\""),
            cedar,
            "GTE",
            "action `GTE` is not in the schema",
        ),
        (
            "/request/action",
            json!("Action::\"POST\""),
            cedar,
            "POST",
            "a proxy puts this request as `Action::\"GET\"`",
        ),
        (
            "/request/resource",
            json!("Operation::\"demo.test/shop/orders/list\""),
            cedar,
            "orders/list",
            "a proxy puts this request as `Operation::\"demo.test/shop/orders/read\"`",
        ),
        (
            "/request/resource",
            json!("Operation::\"demo.test/shop/orders/raed\""),
            cedar,
            "orders/raed",
            "nothing can be asked of",
        ),
        (
            "/request/context/http",
            Value::Null,
            cedar,
            "",
            "does not fit the schema",
        ),
        (
            "/request/context/time/hour",
            json!(13),
            cedar,
            "",
            "`time.hour` is 13",
        ),
        (
            "/request/context/tls/version",
            json!("1.1"),
            cedar,
            "",
            "no proxy speaks TLS `1.1`",
        ),
        (
            "/request/context/http/host",
            json!("payments"),
            cedar,
            "",
            "is not `shop/orders`",
        ),
        (
            "/request/context/http/path",
            json!("/orders/%34%32"),
            cedar,
            "",
            "a proxy asks about",
        ),
        (
            "/request/context/http/path",
            json!("/orders/a%2fb"),
            codes::TEST_REQUEST,
            "",
            "is never decided",
        ),
        (
            "/request/context",
            Value::Null,
            codes::MISSING_KEY,
            "",
            "lacks `context`",
        ),
        (
            "/decision",
            json!("alow"),
            codes::INVALID_VALUE,
            "alow",
            "cannot be `alow`",
        ),
        (
            "/decision",
            Value::Null,
            codes::MISSING_KEY,
            "",
            "lacks `decision`",
        ),
        (
            "/reason",
            json!(["orders-form-web"]),
            codes::TEST_POLICY,
            "orders-form-web",
            "there is no policy",
        ),
        (
            "/num_errors",
            json!("none"),
            codes::INVALID_VALUE,
            "none",
            "cannot be `none`",
        ),
        (
            "/has_error",
            json!(false),
            codes::UNKNOWN_KEY,
            "has_error",
            "unknown key",
        ),
        (
            "/entities",
            json!("nowhere.json"),
            codes::TEST_ENTITIES,
            "nowhere",
            "no file",
        ),
        (
            "/entities",
            json!("../palisade.yaml"),
            codes::TEST_ENTITIES,
            "palisade",
            "no file",
        ),
        ("/entities", nothing, codes::TEST_ENTITIES, "", "do not fit"),
    ] {
        let test = with(pointer, value);
        let (_dir, _, cases, found) = read(&[("x.json", list(&[test]))]);
        let [one] = found.as_slice() else {
            panic!("{message}: {found:#?}")
        };
        assert_eq!(one.code.0, code, "{one:#?}");
        assert!(marked(one).contains(at) && one.help.is_some(), "{one:#?}");
        assert!(one.message.contains(message), "{message}: {one:#?}");
        assert!(code != cedar || cases.is_empty(), "{one:#?}");
    }
}

#[test]
fn what_is_no_list_of_tests_is_told() {
    let (_dir, _, cases, found) = read(&[("x.json", "[{]".to_owned())]);
    assert!(cases.is_empty());
    let at = found[0].location.as_ref().unwrap();
    assert_eq!(
        (found[0].code.0, at.line, at.column),
        (codes::TEST_JSON, 1, 3)
    );
    let (_dir, _, _, found) = read(&[("x.json", "{}".to_owned())]);
    assert_eq!(found[0].code.0, codes::WRONG_KIND);
}
