//! Services, groups and the schema they make.

use super::*;

fn service(rest: &str) -> Vec<Diagnostic> {
    with("services/x.yaml", &format!("service: shop/x\n{rest}\n"))
}

#[test]
fn every_mistake_of_a_service_file_is_told_at_once() {
    let found = service(
        "hostss: [x]\nhosts: [X, \"a b\"]\nprotocol: htp\nidentities: [/palisade/pdp, spiffe://evil.test/a, \"a b\"]\n\
         endpoints: [localhost:80]\ntimeout: 3d\nunmatched: maybe\naudit: 1\ntier: [a]\noperations:\n  - {name: \"a b\", match: GET /a}\n  \
         - {name: b, match: GTE /b}\n  - {name: c, match: \"GET b\"}\n  - {match: GET /d}\n  - {name: e, match: GET /e, action: \"http:x\"}\n  \
         - {name: f, match: GET /f, host: nowhere}\n  - {name: g}\n  - {name: h, match: GET /h, audit: strikt}",
    );
    let seen: Vec<_> = found
        .iter()
        .map(|d| {
            (
                d.location.as_ref().map_or(0, |l| l.line),
                d.code.0,
                marked(d),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (2, codes::UNKNOWN_KEY, "hostss"),
            (3, codes::HOST, "X"),
            (3, codes::HOST, "\"a b\""),
            (4, codes::INVALID_VALUE, "htp"),
            (5, codes::IDENTITY_RESERVED, "/palisade/pdp"),
            (5, codes::IDENTITY, "spiffe://evil.test/a"),
            (5, codes::IDENTITY, "\"a b\""),
            (6, codes::ENDPOINT, "localhost:80"),
            (7, codes::DURATION, "3d"),
            (8, codes::INVALID_VALUE, "maybe"),
            (9, codes::INVALID_VALUE, "1"),
            (10, codes::WRONG_KIND, "["),
            (12, codes::NAME, "\"a b\""),
            (13, codes::OPERATION_MATCH, "GTE /b"),
            (14, codes::OPERATION_MATCH, "\"GET b\""),
            (15, codes::MISSING_KEY, "match"),
            (16, codes::ACTION_NAME, "\"http:x\""),
            (17, codes::HOST, "nowhere"),
            (18, codes::MISSING_KEY, "name"),
            (19, codes::INVALID_VALUE, "strikt"),
        ]
    );
}

#[test]
fn two_services_do_not_share_a_name_an_identity_or_a_host() {
    let found = with("services/x.yaml", "service: shop/orders\n");
    only(found, codes::SERVICE_TWICE, 1, 10);
    let found = service("identities: [ns/shop/sa/orders]\nhosts: [orders]");
    let codes: Vec<_> = found.iter().map(|d| d.code.0).collect();
    assert_eq!(codes, [codes::IDENTITY_TWICE, codes::HOST_TWICE]);
    assert_eq!(
        found[1].location.as_ref().map(|l| (l.line, l.column)),
        Some((3, 9))
    );
}

#[test]
fn operations_neither_overlap_nor_share_a_name() {
    let found = service(
        "operations:\n  - {name: a, match: \"GET /a/{id}\"}\n  - {name: b, match: GET /a/b}",
    );
    let one = only(found, codes::OPERATIONS_OVERLAP, 4, 12);
    assert_eq!(one.message, "operations `a` and `b` overlap");
    let found = service("operations:\n  - {name: a, match: GET /a}\n  - {name: a, match: GET /b}");
    only(found, codes::OPERATION_TWICE, 4, 12);
}

#[test]
fn methods_may_be_several_or_all_and_an_action_spans_them() {
    let dir = copy();
    write(
        dir.path(),
        "services/x.yaml",
        "service: shop/x\noperations:\n  - {name: a, match: \"GET,HEAD /a\", action: \"x:read\"}\n  \
         - {name: b, match: \"* /b\", action: \"x:any\"}\n  - {name: c, match: \"POST,PUT /c\", action: \"x:write\"}\n",
    );
    let compiled = load(dir.path()).compiled.unwrap();
    for (action, groups) in [
        ("x:read", ["call", "http", "http:read"].as_slice()),
        ("x:any", &["call", "http"]),
        ("x:write", &["call", "http", "http:write"]),
    ] {
        assert_eq!(groups_of(&compiled, action), groups, "{action}");
    }
}

/// The groups that an action belongs to, by the schema that `policy schema` prints.
fn groups_of(compiled: &Compiled, action: &str) -> Vec<String> {
    let text = generated_schema(&compiled.catalogue);
    let (schema, _) = cedar_policy::Schema::from_cedarschema_str(&text).unwrap();
    let actions = schema.action_entities().unwrap();
    let groups = actions.ancestors(&uid("Action", action)).unwrap();
    let mut groups: Vec<String> = groups.map(|g| g.id().unescaped().to_owned()).collect();
    groups.sort();
    groups
}

#[test]
fn grpc_operations_are_methods_of_services() {
    let text = "service: shop/g\nprotocol: grpc\noperations:\n  - {name: a, match: shop.v1.Stock/Get, action: \"g:get\"}\n";
    let dir = copy();
    write(dir.path(), "services/g.yaml", text);
    let compiled = load(dir.path()).compiled.unwrap();
    assert_eq!(groups_of(&compiled, "g:get"), ["call", "grpc:call"]);
    let found = with(
        "services/g.yaml",
        &text.replace("shop.v1.Stock/Get", "GET /x"),
    );
    only(found, codes::OPERATION_MATCH, 4, 22);
    let found = with("services/g.yaml", &text.replace("g:get", "orders:refund"));
    assert_eq!(
        found.iter().map(|d| d.code.0).collect::<Vec<_>>(),
        [codes::ACTION_NAME]
    );
}

#[test]
fn groups_know_their_members() {
    let found = with(
        "entities/x.yaml",
        "groups:\n  a: {services: [shop/ordrs], groups: [b], workloads: [ns/shop/sa/nobody], users: [eve]}\n  b: {groups: [a]}\n  card-handlers: {}\n",
    );
    let mut codes: Vec<_> = found.iter().map(|d| d.code.0).collect();
    codes.sort_unstable();
    assert_eq!(
        codes,
        [
            codes::UNKNOWN_MEMBER,
            codes::UNKNOWN_MEMBER,
            codes::UNKNOWN_MEMBER,
            codes::DECLARED_TWICE,
            codes::GROUP_CYCLE,
            codes::GROUP_CYCLE
        ],
        "{found:#?}"
    );
    // What a file that cannot be read declares is not told to be missing.
    let lost = "groups: [a]\n";
    let member = "groups:\n  b: {groups: [a]}\n";
    let dir = copy();
    write(dir.path(), "entities/x.yaml", lost);
    write(dir.path(), "entities/y.yaml", member);
    let found = load(dir.path()).diagnostics;
    let codes: Vec<_> = found.iter().map(|d| d.code.0).collect();
    assert_eq!(codes, [codes::WRONG_KIND], "{found:#?}");
    let found = with(
        "entities/x.yaml",
        "groups:\n  a: {services: [shop/ordrs], groups: [b], workloads: [ns/shop/sa/nobody], users: [eve]}\n  b: {groups: [a]}\n",
    );
    let mut codes: Vec<_> = found.iter().map(|d| d.code.0).collect();
    codes.sort_unstable();
    assert_eq!(
        codes,
        [
            codes::UNKNOWN_MEMBER,
            codes::UNKNOWN_MEMBER,
            codes::UNKNOWN_MEMBER,
            codes::GROUP_CYCLE,
            codes::GROUP_CYCLE
        ]
    );
    assert_eq!(
        found[1].label.as_deref(),
        Some("did you mean `shop/orders`?"),
        "{found:#?}"
    );
}

#[test]
fn entities_carry_users_attributes_and_memberships() {
    let dir = copy();
    write(
        dir.path(),
        "entities/x.yaml",
        "groups:\n  staff: {groups: [support]}\n  support: {users: [ana]}\n\
         users:\n  ana: {issuer: https://login.demo.test, subject: u1, email: ana@demo.test}\n\
         services:\n  shop/web: {labels: {team: shop}}\n",
    );
    let compiled = load(dir.path()).compiled.unwrap();
    let user = uid("User", "https://login.demo.test#u1");
    assert!(
        compiled
            .entities
            .is_ancestor_of(&uid("Group", "staff"), &user)
    );
    let web = uid("Workload", "spiffe://demo.test/ns/shop/sa/web");
    assert!(
        compiled
            .entities
            .is_ancestor_of(&uid("TrustDomain", "demo.test"), &web)
    );
    assert!(compiled.entities.get(&web).unwrap().tag("team").is_some());
    let labels = |name: &str| {
        let service =
            palisade_mesh::catalogue::ServiceId::new(&compiled.trust_domain, "shop", name);
        compiled.labels(&service).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(labels("web"), [("team", "shop".to_owned())]);
    assert_eq!(labels("nowhere"), []);
    let payments = uid("Workload", "spiffe://demo.test/ns/shop/sa/payments");
    assert!(
        compiled
            .entities
            .is_ancestor_of(&uid("Group", "card-handlers"), &payments)
    );
    let found = with(
        "entities/x.yaml",
        "users:\n  ana: {issuer: x}\nservices:\n  shop/wep: {tier: a}\n  shop/web: {tier: b}\n",
    );
    let codes: Vec<_> = found.iter().map(|d| d.code.0).collect();
    assert_eq!(
        codes,
        [
            codes::MISSING_KEY,
            codes::UNKNOWN_MEMBER,
            codes::DECLARED_TWICE
        ]
    );
}

#[test]
fn a_team_adds_types_but_cannot_redefine_ours() {
    assert_eq!(
        with(
            "schema.cedarschema",
            "namespace Team { entity Folder; }\nentity Thing;"
        ),
        []
    );
    let found = with("schema.cedarschema", "entity Service;\n");
    assert_eq!(
        found.iter().map(|d| d.code.0).collect::<Vec<_>>(),
        [codes::SCHEMA],
        "{found:#?}"
    );
    let found = with("schema.cedarschema", "entity Thing\nentity Other;");
    let one = only(found, codes::SCHEMA, 2, 1);
    assert!(one.is_error());
}
