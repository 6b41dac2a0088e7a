//! `sources:` of `palisade.yaml`: what those who contribute may say.

use std::sync::LazyLock;

use proptest::{prelude::*, sample::select};

use super::*;
use crate::decide::{Outcome, Snapshot};

const LEDGER: &str = "service: pay/ledger\noperations:\n  - { name: list, match: GET /entries }\n  - { name: book, match: POST /entries }\n";

/// The sample, and a source `pay` in a folder of its own that may speak for `pay`.
pub(super) fn composed(files: &[(&str, &str)]) -> (tempfile::TempDir, Loaded) {
    let dir = copy();
    let settings = fs::read_to_string(dir.path().join("palisade.yaml")).unwrap();
    let sources = "sources:\n  pay: { namespaces: [pay], folder: teams/pay }\n";
    write(
        dir.path(),
        "palisade.yaml",
        &format!("{settings}\n{sources}"),
    );
    write(dir.path(), "teams/pay/services/ledger.yaml", LEDGER);
    for (name, text) in files {
        write(dir.path(), &format!("teams/pay/{name}"), text);
    }
    let loaded = load(dir.path());
    (dir, loaded)
}

/// What is said about one more file of the source: code, file and line.
fn check(name: &str, text: &str, expected: Option<(u16, usize)>) {
    let (_dir, loaded) = composed(&[(name, text)]);
    let errors: Vec<_> = loaded.diagnostics.iter().filter(|d| d.is_error()).collect();
    let said: Vec<_> = errors
        .iter()
        .map(|d| {
            let at = d.location.as_ref().expect("located");
            assert_eq!(&*at.file, format!("pay/{name}"));
            assert!(d.help.is_some() && d.cause.is_some(), "{d:?}");
            (d.code.0, at.line)
        })
        .collect();
    assert_eq!(
        said,
        expected.into_iter().collect::<Vec<_>>(),
        "{text}: {errors:#?}"
    );
    assert_eq!(loaded.compiled.is_some(), expected.is_none());
}

fn policy_about(resource: &str) -> String {
    format!("@id(\"pay-x\")\npermit (\n  principal,\n  action,\n  resource {resource}\n);\n")
}

#[test]
fn a_policy_of_a_source_is_about_its_own_namespaces() {
    for own in [
        "in Namespace::\"demo.test/pay\"",
        "in Service::\"demo.test/pay/ledger\"",
        "== Service::\"demo.test/pay/ledger\"",
        "== Operation::\"demo.test/pay/ledger/list\"",
        "is Operation in Service::\"demo.test/pay/ledger\"",
    ] {
        check("policies/x.cedar", &policy_about(own), None);
    }
    for foreign in [
        "",
        "is Operation",
        "in Namespace::\"demo.test/shop\"",
        "in TrustDomain::\"demo.test\"",
        "in Service::\"demo.test/shop/orders\"",
        "== Operation::\"demo.test/shop/orders/list\"",
        "is Operation in Namespace::\"demo.test/shop\"",
    ] {
        let expected = Some((codes::FOREIGN_RESOURCE, 5));
        check("policies/x.cedar", &policy_about(foreign), expected);
    }
    let forbid = "@id(\"pay-x\")\nforbid (principal, action, resource);\n";
    check(
        "policies/x.cedar",
        forbid,
        Some((codes::FOREIGN_RESOURCE, 2)),
    );
}

#[test]
fn services_and_entities_of_a_source_are_its_own() {
    let own = "service: pay/books\nidentities: [ns/pay/sa/books, ns/pay/sa/more]\n";
    check("services/x.yaml", own, None);
    check(
        "services/x.yaml",
        "service: shop/extra\nidentities: [ns/pay/sa/extra]\n",
        Some((codes::FOREIGN_SERVICE, 1)),
    );
    check(
        "services/x.yaml",
        "service: pay/books\nidentities: [ns/shop/sa/spare]\n",
        Some((codes::FOREIGN_IDENTITY, 2)),
    );
    check(
        "services/x.yaml",
        "service: pay/books\nidentities: [vm/books]\n",
        Some((codes::FOREIGN_IDENTITY, 2)),
    );
    check(
        "entities/x.yaml",
        "groups:\n  pay.all: { services: [pay/ledger, shop/web] }\n",
        None,
    );
    check(
        "entities/x.yaml",
        "groups:\n  everybody: { services: [pay/ledger] }\n",
        Some((codes::FOREIGN_ENTITY, 2)),
    );
    check(
        "entities/x.yaml",
        "groups:\n  shop.all: { services: [pay/ledger] }\n",
        Some((codes::FOREIGN_ENTITY, 2)),
    );
    check(
        "entities/x.yaml",
        "users:\n  zoe: { issuer: \"https://login.demo.test\", subject: z }\n",
        Some((codes::FOREIGN_ENTITY, 2)),
    );
    check(
        "entities/x.yaml",
        "services:\n  pay/ledger: { tier: internal }\n",
        None,
    );
    check(
        "entities/x.yaml",
        "services:\n  shop/web: { labels: { a: b } }\n",
        Some((codes::FOREIGN_ENTITY, 2)),
    );
    check(
        "schema.cedarschema",
        "entity Thing;\n",
        Some((codes::FOREIGN_FILE, 1)),
    );
    // Its own settings are for working on it alone.
    check("palisade.yaml", "trust_domain: elsewhere.test\n", None);
}

#[test]
fn a_source_that_is_elsewhere_is_told_and_left_out() {
    let dir = copy();
    let settings = fs::read_to_string(dir.path().join("palisade.yaml")).unwrap();
    let sources =
        "sources:\n  pay: { namespaces: [pay], git: \"https://git.acme.test/pay.git\" }\n";
    write(
        dir.path(),
        "palisade.yaml",
        &format!("{settings}\n{sources}"),
    );
    let loaded = load(dir.path());
    assert!(loaded.compiled.is_some());
    let told: Vec<_> = loaded.diagnostics.iter().map(|d| d.code.0).collect();
    assert!(told.contains(&codes::SOURCE_ELSEWHERE), "{told:?}");
}

/// A proxy holds a bundle that was made elsewhere to the same rules.
#[test]
fn a_bundle_that_says_more_than_it_may_is_refused() {
    let (_dir, loaded) = composed(&[]);
    let mut bundle = Bundle::decode(loaded.compiled.unwrap().bundle).unwrap();
    bundle.files.push(File {
        path: "pay/policies/x.cedar".into(),
        text: policy_about(""),
    });
    let codes_of = |bundle: &Bundle| {
        let mut bundle = bundle.clone();
        bundle.files.sort_by(|a, b| a.path.cmp(&b.path));
        let found = compile(bundle.encode_to_vec().into()).diagnostics;
        found.iter().map(|d| d.code.0).collect::<Vec<_>>()
    };
    assert!(codes_of(&bundle).contains(&codes::FOREIGN_RESOURCE));
    bundle.files.last_mut().unwrap().path = "nobody/policies/x.cedar".into();
    assert!(codes_of(&bundle).contains(&codes::SOURCE_UNKNOWN));
}

const CALLERS: [&str; 4] = [
    "shop/web",
    "shop/orders",
    "pay/ledger",
    "spiffe://demo.test/vm/unknown",
];
const REQUESTS: [(&str, &str); 8] = [
    ("GET", "orders/orders"),
    ("GET", "orders/orders/42"),
    ("POST", "orders/orders/42/refund"),
    ("DELETE", "orders/elsewhere"),
    ("GET", "inventory/stock/7"),
    ("GET", "payments/payments"),
    ("POST", "payments/payments"),
    ("GET", "reports/summary"),
];

/// Outcome of every request of every caller to services of the repository itself; the
/// caller of the source is asked too.
fn outcomes(loaded: &Loaded) -> Vec<Option<Outcome>> {
    let snapshot = Snapshot::new(loaded.compiled.clone().unwrap(), 1).unwrap();
    let callers = CALLERS.iter();
    callers
        .flat_map(|caller| REQUESTS.iter().map(move |request| (caller, request)))
        .map(|(caller, (verb, target))| {
            let asked = question(
                snapshot.catalogue(),
                &Ask {
                    principal: (*caller).into(),
                    anonymous: false,
                    verb: (*verb).into(),
                    target: (*target).into(),
                    on: None,
                    headers: Vec::new(),
                    source: None,
                    now_us: NOW_US,
                },
            );
            Some(snapshot.explain(&asked.ok()?.as_question()).verdict)
        })
        .collect()
}

/// The same without anything but services of the source; most of it is decided.
static WITHOUT: LazyLock<Vec<Option<Outcome>>> = LazyLock::new(|| {
    let (_dir, loaded) = composed(&[]);
    let outcomes = outcomes(&loaded);
    assert!(outcomes.iter().flatten().count() >= 20, "{outcomes:?}");
    outcomes
});

fn any_policy() -> impl Strategy<Value = String> {
    let scope = |kinds: &'static [&'static str]| select(kinds);
    (
        select(vec![
            "permit",
            "permit",
            "forbid",
            "@mode(\"shadow\") permit",
        ]),
        scope(&[
            "principal",
            "principal in Namespace::\"demo.test/shop\"",
            "principal == Workload::\"spiffe://demo.test/ns/shop/sa/web\"",
            "principal is Unregistered",
        ]),
        scope(&[
            "action",
            "action == Action::\"GET\"",
            "action in Action::\"http:write\"",
        ]),
        scope(&[
            "resource",
            "resource is Operation",
            "resource is Operation in Namespace::\"demo.test/pay\"",
            "resource in Namespace::\"demo.test/pay\"",
            "resource in Namespace::\"demo.test/shop\"",
            "resource in Service::\"demo.test/pay/ledger\"",
            "resource in Service::\"demo.test/shop/orders\"",
            "resource == Operation::\"demo.test/pay/ledger/list\"",
            "resource in TrustDomain::\"demo.test\"",
        ]),
        scope(&[
            "",
            " when { true }",
            " unless { principal in Group::\"pay.all\" }",
            " when { context.source.port > 5 }",
        ]),
    )
        .prop_map(|(effect, principal, action, resource, condition)| {
            format!("{effect} ({principal}, {action}, {resource}){condition};\n")
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever policies and groups a source holds, it is refused, or no decision about
    /// another namespace's resource changes.
    #[test]
    fn no_source_changes_decisions_about_resources_of_others(
        policies in proptest::collection::vec(any_policy(), 1..4),
        group in select(vec!["pay.all", "pay.some", "shop.all", "staff"]),
    ) {
        let text: String = policies
            .iter()
            .enumerate()
            .map(|(i, policy)| format!("@id(\"pay-{i}\")\n{policy}"))
            .collect();
        let groups = format!("groups:\n  {group}: {{ services: [shop/web, pay/ledger] }}\n");
        let (_dir, with) = composed(&[("policies/x.cedar", &text), ("entities/x.yaml", &groups)]);
        let errors = with.diagnostics.iter().filter(|d| d.is_error()).count();
        prop_assert_eq!(with.compiled.is_none(), errors > 0);
        if with.compiled.is_some() {
            prop_assert_eq!(&outcomes(&with), &*WITHOUT, "{}", text);
        }
    }
}
