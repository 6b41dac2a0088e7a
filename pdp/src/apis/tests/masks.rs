//! What records of answers leave out, by the revision that answers come from.

use palisade_mesh::personal::Mask;

use super::*;
use crate::author::sample::write;

const SETTINGS: &str = "trust_domain: acme.test\n";
const OPERATIONS: &str = "operations:\n  - { name: read, match: \"GET /orders/{id}\" }\n  - { name: notes, match: \"GET /notes/{id}\", mask: [path] }\n";

/// A revision with these defaults, in which `shop/orders` has `mask`.
fn revision(defaults: &str, mask: &str) -> Arc<Snapshot> {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "palisade.yaml",
        &format!("{SETTINGS}{defaults}"),
    );
    write(
        dir.path(),
        "services/orders.yaml",
        &format!("service: shop/orders\n{mask}{OPERATIONS}"),
    );
    write(dir.path(), "services/web.yaml", "service: shop/web\n");
    write(dir.path(), "policies/all.cedar", POLICIES);
    let loaded = author::load(dir.path());
    let compiled = loaded
        .compiled
        .unwrap_or_else(|| panic!("{:#?}", loaded.diagnostics));
    Snapshot::new(compiled, 1).unwrap()
}

fn about(resource: &str) -> Value {
    json!({
        "subject": { "type": "workload", "id": WEB },
        "action": { "name": "GET" },
        "resource": { "type": "url", "id": resource },
    })
}

fn mask(names: &[&str]) -> Mask {
    Mask::of(names.iter().map(|name| name.parse().unwrap()))
}

#[tokio::test]
async fn a_record_of_an_answer_leaves_out_what_the_revision_says() {
    let office = office();
    let recorded = async |resource: &str| {
        office
            .post(office.caller(), EVALUATION, &about(resource))
            .await;
        let kept = office.records.0.lock().unwrap().last().cloned().unwrap();
        assert!(matches!(kept.body, Some(Of::Decision(_))), "{kept:?}");
        office.records.2.lock().unwrap().last().cloned().unwrap()
    };
    let defaults = "defaults: { mask: [user] }\n";
    office
        .desk
        .put(revision(defaults, "mask: [source_ip]\n"), None);
    let (service, all) = (
        mask(&["source_ip", "user"]),
        mask(&["path", "source_ip", "user"]),
    );
    let read = "http://orders/orders/7";
    assert_eq!(recorded(read).await, service);
    assert_eq!(recorded("http://orders/notes/7").await, all, "it adds");
    // What is no operation may have been meant to be any, and so may what is no question.
    assert_eq!(recorded("http://orders/note/7").await, all);
    assert_eq!(recorded("http://orders/notes/%2e%2e%2f7").await, all);
    // Nobody knows which service this one was meant for.
    assert_eq!(recorded("http://nowhere/notes/7").await, all);
    assert_eq!(recorded("http://no where/notes/7").await, all);

    office.desk.put(revision("", ""), None);
    assert_eq!(recorded(read).await, Mask::NONE);
    office.desk.put(revision("", "mask: [query]\n"), None);
    assert_eq!(recorded(read).await, mask(&["query"]));
}

/// Which service a request was meant for is known by whatever names its host; where nothing
/// does, it may have been any.
#[test]
fn a_request_of_no_service_leaves_out_what_the_one_does_that_it_names() {
    let force = Force::new(
        revision("defaults: { mask: [user] }\n", "mask: [query]\n"),
        false,
    );
    let recorded = |host: &str, field: Option<&str>| {
        let fields = field.map(|host| (http::header::HOST, host.parse().unwrap()));
        let raw = Raw {
            method: "GET",
            host,
            target: "/notes/alice",
            headers: Lines {
                map: fields.into_iter().collect(),
                complete: true,
                joined: false,
            },
        };
        let asked = inquiry::request(force.catalogue(), id(WEB), raw, Stated::default());
        let judged = Judged::misread(asked.err().unwrap(), Some(force.catalogue()));
        (judged.reason, judged.mask)
    };
    let all = mask(&["path", "query", "user"]);
    let check = |(host, field), reason: &str, expected: &Mask| {
        let found = recorded(host, field);
        assert_eq!(found, (reason, expected.clone()), "{host} {field:?}");
    };
    check(("", Some("web")), "host_unknown", &mask(&["user"]));
    check(("", Some("orders")), "host_unknown", &all);
    check(("", Some("nowhere")), "host_unknown", &all);
    check(("nowhere", None), "host_unknown", &all);
    check(("no where", None), "host_invalid", &all);
    check(("", None), "host_missing", &all);
}

/// A caller's free text is no method; what is one, or an action, stays.
#[tokio::test]
async fn a_method_that_could_be_any_text_is_not_recorded() {
    let office = office();
    for (verb, kept) in [
        ("GET /patients/alice", ""),
        ("alice@example.org", ""),
        ("FETCH", "FETCH"),
        ("orders:refund", "orders:refund"),
    ] {
        let mut asked = about("http://orders/nothing/of/this");
        asked["action"]["name"] = json!(verb);
        office.post(office.caller(), EVALUATION, &asked).await;
        let last = office.records.0.lock().unwrap().last().cloned().unwrap();
        let Some(Of::Decision(decision)) = last.body else {
            panic!("{last:?}");
        };
        assert_eq!(decision.reason, "not_understood", "{verb}");
        assert_eq!(decision.method, kept, "{verb}");
    }
}
