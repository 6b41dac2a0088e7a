//! The decision APIs as others use them: our own gRPC over mTLS, Envoy's ext_authz, who
//! may ask about whom, limits, and the records that every answer leaves.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
};

use palisade_mesh::wire::{
    decide::{
        Answer, CheckBatchRequest, CheckRequest, CheckStreamRequest, Context, Header, HttpRequest,
        Question, Tls, Verdict, Words, decisions_client::DecisionsClient, question::What,
    },
    ext_authz::{
        self, CheckResponse, authorization_client::AuthorizationClient,
        check_response::HttpResponse,
    },
};
use support::{
    Home,
    decisions::{Desk, request},
    http,
};
use tonic::Code;

const DOMAIN: &str = "acme.test";
const WEB: &str = "ns/shop/sa/web";
const EDGE: &str = "ns/edge/sa/envoy";
const WEB_ID: &str = "spiffe://acme.test/ns/shop/sa/web";

/// Who may ask: the edge about anybody who calls orders.
const LINKS: &str = r#"
@id("edge-asks-for-orders")
permit (principal is Workload, action == Action::"assert", resource)
when { principal.path == "/ns/edge/sa/envoy" && context has service && context.service == "acme.test/shop/orders" };

@id("edge-sees-policies")
permit (principal is Workload, action == Action::"explain", resource)
when { principal.path == "/ns/edge/sa/envoy" && context.api == "grpc" };

@id("the-pipeline-asks-anything")
permit (principal is Client, action in [Action::"assert", Action::"search"], resource)
when { principal.name == "ci" };
"#;

const FILES: &[(&str, &str)] = &[
    (
        "palisade.yaml",
        "trust_domain: acme.test\nheaders:\n  x-tenant: single\n",
    ),
    (
        "services/orders.yaml",
        "service: shop/orders\nidentities: [ns/shop/sa/orders]\nhosts: [orders]\noperations:\n  - { name: public, match: \"* /public/{*rest}\" }\n  - { name: admin, match: \"* /admin/{*rest}\" }\n  - { name: tenant, match: GET /tenant }\n  - { name: pay, match: POST /pay, action: \"orders:pay\", audit: strict }\n",
    ),
    (
        "services/web.yaml",
        "service: shop/web\nidentities: [ns/shop/sa/web]\nhosts: [web]\n",
    ),
    (
        "policies/shop.cedar",
        r#"
@id("public")
permit (principal in Service::"acme.test/shop/web", action, resource == Operation::"acme.test/shop/orders/public");

@id("admin")
@deny_message("Not for you.")
forbid (principal, action, resource == Operation::"acme.test/shop/orders/admin");

@id("tenant")
permit (principal, action == Action::"GET", resource == Operation::"acme.test/shop/orders/tenant")
when { context.http.headers has "x-tenant" && context.http.headers["x-tenant"] == "gold" };

@id("pay")
permit (principal, action == Action::"orders:pay", resource);

@id("unproven-do-not-pay")
forbid (principal, action == Action::"orders:pay", resource)
unless { context.tls.mtls };
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

fn get(path: &str) -> What {
    What::Request(HttpRequest {
        method: "GET".into(),
        host: "orders".into(),
        path: path.into(),
        headers: Vec::new(),
    })
}

fn ask(principal: &str, what: What) -> CheckRequest {
    CheckRequest {
        question: Some(Question {
            principal: principal.into(),
            what: Some(what),
            context: None,
        }),
    }
}

type Client = DecisionsClient<tonic::transport::Channel>;

async fn answer(client: &mut Client, principal: &str, what: What) -> Answer {
    let response = client.check(ask(principal, what)).await.unwrap();
    response.into_inner().answer.unwrap()
}

/// Four outcomes, the proxy's own refusals, what is unknown, and the record of each.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_gets_the_answer_of_a_proxy_and_leaves_a_record() {
    let home = home();
    let desk = Desk::ready(&home, DOMAIN, LINKS);
    let mut edge = DecisionsClient::new(desk.channel(EDGE));
    for (path, verdict, reason, status) in [
        ("/public/a", Verdict::Allow, "permitted", 0),
        ("/admin/a", Verdict::Forbidden, "forbidden", 403),
        ("/public/../admin/a", Verdict::Forbidden, "forbidden", 403),
        ("/%61dmin/a", Verdict::Forbidden, "forbidden", 403),
        (
            "/public/..%2fadmin/a",
            Verdict::Refused,
            "path_ambiguous",
            400,
        ),
        ("/public/..;/admin", Verdict::Refused, "path_ambiguous", 400),
        ("/tenant", Verdict::NotPermitted, "no_permit", 403),
        ("/nothing", Verdict::NotPermitted, "no_permit", 403),
    ] {
        let answer = answer(&mut edge, "web", get(path)).await;
        assert_eq!(answer.verdict(), verdict, "{path}: {answer:?}");
        assert_eq!(answer.reason, reason, "{path}");
        assert_eq!(answer.status, status, "{path}");
    }
    let denied = answer(&mut edge, WEB_ID, get("/admin/a")).await;
    assert_eq!(denied.message, "Not for you.");
    assert_eq!(denied.policies, ["admin"], "this caller may see them");
    assert_eq!(denied.service, "acme.test/shop/orders");
    assert_eq!(denied.versions.as_ref().unwrap().policy_sequence, 1);
    let record = desk.record(&denied.decision_id);
    assert_eq!(record["decision"], "forbidden");
    assert_eq!(record["principal"], WEB_ID);
    assert_eq!(record["asserted_by"], "spiffe://acme.test/ns/edge/sa/envoy");
    assert_eq!(record["api"], "grpc");
    assert_eq!(record["path"], "/admin/a");
    let why = home.says(&["why", &denied.decision_id], 0);
    assert!(why.contains("admin"), "{why}");
    support::wait_for("all that were forbidden", support::LIMIT, || {
        let asked = "api:grpc asserted_by:spiffe://acme.test/ns/edge/** decision:forbidden last:1h";
        (home.rows(asked)?.len() == 4).then_some(())
    });
    let status = home.says(&["status"], 0);
    assert!(status.contains("decisions"), "{status}");

    // A header that policies read: said, said twice, said with a byte beyond ASCII.
    let tenant = |values: &[&[u8]]| {
        let headers = values.iter().map(|value| Header {
            name: "X-Tenant".into(),
            value: value.to_vec(),
        });
        What::Request(HttpRequest {
            method: "GET".into(),
            host: "orders:8080".into(),
            path: "/tenant?x=1".into(),
            headers: headers.collect(),
        })
    };
    for (values, verdict) in [
        (&[&b"gold"[..]][..], Verdict::Allow),
        (&[b"tin"], Verdict::NotPermitted),
        (&[b"gold", b"gold"], Verdict::Refused),
        (&[b"\xff"], Verdict::Undecided),
    ] {
        let answer = answer(&mut edge, "web", tenant(values)).await;
        assert_eq!(answer.verdict(), verdict, "{values:?}: {answer:?}");
    }

    // What a policy reads and nobody said is unknown, and named.
    let words = |action: &str, resource: &str| {
        What::Words(Words {
            action: action.into(),
            resource: resource.into(),
        })
    };
    let unsaid = answer(&mut edge, "web", words("orders:pay", "orders/pay")).await;
    assert_eq!(unsaid.verdict(), Verdict::Undecided, "{unsaid:?}");
    assert_eq!(unsaid.missing, ["tls.mtls"]);
    for (mtls, verdict) in [(true, Verdict::Allow), (false, Verdict::Forbidden)] {
        let mut asked = ask("web", words("orders:pay", "orders/pay"));
        asked.question.as_mut().unwrap().context = Some(Context {
            tls: Some(Tls {
                mtls,
                ..Tls::default()
            }),
            ..Context::default()
        });
        let answer = edge
            .check(asked)
            .await
            .unwrap()
            .into_inner()
            .answer
            .unwrap();
        assert_eq!(answer.verdict(), verdict, "{answer:?}");
        assert_eq!(desk.record(&answer.decision_id)["mode"], "strict");
    }
    // What means nothing is about no service: whoever may ask about one is not told more.
    let mut web = DecisionsClient::new(desk.channel(WEB));
    let nonsense = answer(&mut web, "", words("orders:pay", "orders/public/x")).await;
    assert_eq!(nonsense.verdict(), Verdict::Refused, "{nonsense:?}");
    assert_eq!(nonsense.reason, "not_understood");
}

/// Batches and streams: order, limit on both sides, one revision.
#[tokio::test(flavor = "multi_thread")]
async fn batches_and_streams_answer_in_order_within_their_limits() {
    let home = home();
    let desk = Desk::ready(&home, DOMAIN, LINKS);
    let mut edge = DecisionsClient::new(desk.channel(EDGE));
    let questions = |count: usize| CheckBatchRequest {
        questions: (0..count)
            .map(|n| {
                let path = if n % 2 == 0 { "/public/a" } else { "/admin/a" };
                ask("web", get(path)).question.unwrap()
            })
            .collect(),
    };
    let answers = edge
        .check_batch(questions(256))
        .await
        .unwrap()
        .into_inner()
        .answers;
    assert_eq!(answers.len(), 256);
    for (n, answer) in answers.iter().enumerate() {
        let expected = if n % 2 == 0 {
            Verdict::Allow
        } else {
            Verdict::Forbidden
        };
        assert_eq!(answer.verdict(), expected, "{n}");
        assert_eq!(answer.versions, answers[0].versions);
    }
    let refused = edge.check_batch(questions(257)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("PLS6112"), "{refused:?}");
    // Longer than a message may be.
    let long = ask("web", get(&format!("/public/{}", "a".repeat(1 << 20))));
    assert!(edge.check(long).await.is_err());

    let asked = tokio_stream::iter((0..10).map(|tag| CheckStreamRequest {
        tag,
        question: ask("web", get("/public/a")).question,
    }));
    let mut stream = edge.check_stream(asked).await.unwrap().into_inner();
    for tag in 0..10 {
        let response = stream.message().await.unwrap().unwrap();
        assert_eq!(response.tag, tag);
        assert_eq!(response.answer.unwrap().verdict(), Verdict::Allow);
    }
    assert!(stream.message().await.unwrap().is_none());
    let last = desk.record(&answers[255].decision_id);
    assert_eq!(last["decision"], "forbidden");
}

/// T99: nobody uses the PDP as an oracle, or speaks for somebody else, unless a policy
/// lets it; who tried is on record.
#[tokio::test(flavor = "multi_thread")]
async fn t99_who_may_not_ask_learns_nothing_and_is_recorded() {
    let home = home();
    let desk = Desk::ready(&home, DOMAIN, LINKS);
    let mut web = DecisionsClient::new(desk.channel(WEB));
    // About itself, yes.
    let own = answer(&mut web, "", get("/public/a")).await;
    assert_eq!(own.verdict(), Verdict::Allow, "{own:?}");
    assert!(own.policies.is_empty(), "it may not see them");
    assert_eq!(
        answer(&mut web, WEB_ID, get("/admin/a")).await.verdict(),
        Verdict::Forbidden
    );
    // About others, no: not one by one, not hidden in a batch.
    let orders = "spiffe://acme.test/ns/shop/sa/orders";
    let refused = web.check(ask(orders, get("/public/a"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(refused.message().contains("PLS4130"), "{refused:?}");
    let batch = CheckBatchRequest {
        questions: [WEB_ID, orders]
            .into_iter()
            .map(|who| ask(who, get("/public/a")).question.unwrap())
            .collect(),
    };
    let refused = web.check_batch(batch).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    // Within what a policy permits, and not a service further.
    let mut edge = DecisionsClient::new(desk.channel(EDGE));
    assert_eq!(
        answer(&mut edge, "web", get("/public/a")).await.verdict(),
        Verdict::Allow
    );
    let other = What::Request(HttpRequest {
        method: "GET".into(),
        host: "web".into(),
        path: "/".into(),
        headers: Vec::new(),
    });
    let refused = edge.check(ask("web", other)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    // Nor by the other APIs: an Envoy that is none, a search.
    let mut envoy = AuthorizationClient::new(desk.channel(WEB));
    let refused = envoy
        .check(envoy_asks(orders, "/public/a", &[]))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let search = r#"{"subject":{"type":"workload"},"action":{"name":"GET"},"resource":{"type":"operation","id":"shop/orders/public"}}"#;
    let reply = over_tls(&desk, WEB, "/access/v1/search/subject", search);
    assert_eq!(reply.status, 403, "{reply:?}");
    let reply = desk.post(
        "/access/v1/search/subject",
        &[("authorization", "")],
        search,
    );
    assert_eq!(reply.status, 401, "{reply:?}");
    let reply = desk.post(
        "/access/v1/search/subject",
        &[("authorization", "Bearer 0")],
        search,
    );
    assert_eq!(reply.status, 401, "{reply:?}");
    assert_eq!(
        desk.post("/access/v1/search/subject", &[], search).status,
        200
    );

    let rows = support::wait_for("records of the refused", support::LIMIT, || {
        let rows = home.rows("class:authn_failure last:1h")?;
        (rows.len() >= 3).then_some(rows)
    });
    let said = format!("{rows:?}");
    for reason in ["link_assert", "link_search"] {
        assert!(said.contains(reason), "{reason}: {said}");
    }
    assert!(said.contains(orders), "whom it was about: {said}");
    let reads = support::wait_for("the record of a search", support::LIMIT, || {
        let rows = home.rows("class:audit_read last:1h")?;
        (!rows.is_empty()).then_some(rows)
    });
    assert!(
        format!("{reads:?}").contains("palisade/client/ci"),
        "{reads:?}"
    );
}

/// A search over mTLS, as the workload `path`.
fn over_tls(desk: &Desk<'_>, path: &str, at: &str, body: &str) -> http::Reply {
    let expected = "spiffe://acme.test/palisade/pdp".parse_id();
    let config = desk
        .identity(path)
        .client_config(&[expected], &[b"http/1.1"]);
    let name = rustls_pki_types::ServerName::IpAddress(desk.address.ip().into());
    let session = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let socket = http::connect(desk.address).unwrap();
    let mut stream = rustls::StreamOwned::new(session, socket);
    let fields = [("content-type", "application/json")];
    request(&mut stream, "POST", at, &fields, body).unwrap()
}

trait ParseId {
    fn parse_id(&self) -> palisade_mesh::spiffe_id::SpiffeId;
}

impl ParseId for str {
    fn parse_id(&self) -> palisade_mesh::spiffe_id::SpiffeId {
        palisade_mesh::spiffe_id::SpiffeId::parse(self).unwrap()
    }
}

/// What an Envoy asks; header fields joined, as it does where nothing else is said.
fn envoy_asks(principal: &str, path: &str, headers: &[(&str, &str)]) -> ext_authz::CheckRequest {
    use ext_authz::{
        Address, AttributeContext, SocketAddress,
        attribute_context::{HttpRequest, Peer, Request},
    };
    let pseudo = [
        (":path", path),
        (":method", "GET"),
        (":authority", "orders"),
    ];
    let all = pseudo.iter().chain(headers);
    let source: SocketAddr = "10.1.2.3:4567".parse().unwrap();
    ext_authz::CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer {
                principal: principal.into(),
                certificate: String::new(),
                address: Some(Address {
                    socket_address: Some(SocketAddress {
                        address: source.ip().to_string(),
                        port_value: source.port().into(),
                    }),
                }),
            }),
            destination: None,
            request: Some(Request {
                http: Some(HttpRequest {
                    method: "GET".into(),
                    host: "orders".into(),
                    path: path.into(),
                    headers: all.map(|(n, v)| ((*n).into(), (*v).into())).collect(),
                    protocol: "HTTP/1.1".into(),
                    header_map: None,
                }),
            }),
            tls_session: None,
        }),
    }
}

fn denied(response: &CheckResponse) -> (i32, String) {
    match &response.http_response {
        Some(HttpResponse::DeniedResponse(denied)) => {
            (denied.status.as_ref().unwrap().code, denied.body.clone())
        }
        _ => (200, String::new()),
    }
}

/// T100: whatever form Envoy gives a request, the answer is our own proxy's, or there is
/// none.
#[tokio::test(flavor = "multi_thread")]
async fn t100_ext_authz_answers_as_a_proxy_or_not_at_all() {
    let home = home();
    let desk = Desk::ready(&home, DOMAIN, LINKS);
    let mut envoy = AuthorizationClient::new(desk.channel(EDGE));
    for (path, expected) in [
        ("/public/a", 200),
        ("/admin/a", 403),
        ("/public/../admin/a", 403),
        ("//admin/a", 403),
        ("/%61dmin/a", 403),
        ("/public/..%2fadmin/a", 400),
        ("/public/%2e%2e%2fadmin", 400),
        ("/public\\..\\admin", 400),
        ("/public/..;/admin", 400),
        ("/public/%252e%252e/admin", 400),
    ] {
        let response = envoy.check(envoy_asks(WEB_ID, path, &[])).await.unwrap();
        let (status, body) = denied(response.get_ref());
        assert_eq!(status, expected, "{path}: {body}");
    }
    for (headers, expected) in [
        (&[("x-tenant", "gold")][..], 200),
        (&[("x-tenant", "tin")], 403),
        // Two lines, or one with a comma? A byte beyond UTF-8, or an exclamation mark?
        (&[("x-tenant", "gold,gold")], 503),
        (&[("x-tenant", "gold,tin")], 503),
        (&[("x-tenant", "gold!")], 503),
        (&[("x_tenant", "gold")], 400),
    ] {
        let response = envoy
            .check(envoy_asks(WEB_ID, "/tenant", headers))
            .await
            .unwrap();
        let (status, body) = denied(response.get_ref());
        assert_eq!(status, expected, "{headers:?}: {body}");
    }
    // Raw lines have one reading each.
    for (values, expected) in [
        (&[&b"gold"[..]][..], 200),
        (&[b"gold,gold"], 403),
        (&[b"gold", b"gold"], 400),
        (&[b"\xff"], 503),
    ] {
        let mut asked = envoy_asks(WEB_ID, "/tenant", &[]);
        let http = asked
            .attributes
            .as_mut()
            .unwrap()
            .request
            .as_mut()
            .unwrap()
            .http
            .as_mut()
            .unwrap();
        http.headers.clear();
        let mut headers = vec![ext_authz::HeaderValue {
            key: ":path".into(),
            value: String::new(),
            raw_value: b"/tenant".to_vec(),
        }];
        headers.extend(values.iter().map(|value| ext_authz::HeaderValue {
            key: "x-tenant".into(),
            value: String::new(),
            raw_value: value.to_vec(),
        }));
        http.header_map = Some(ext_authz::HeaderMap { headers });
        let response = envoy.check(asked).await.unwrap();
        let (status, body) = denied(response.get_ref());
        assert_eq!(status, expected, "{values:?}: {body}");
    }
    // Header fields that were filtered out are not absent but unknown.
    let mut asked = envoy_asks(WEB_ID, "/tenant", &[]);
    let http = asked
        .attributes
        .as_mut()
        .unwrap()
        .request
        .as_mut()
        .unwrap()
        .http
        .as_mut()
        .unwrap();
    http.headers.clear();
    let response = envoy.check(asked).await.unwrap();
    assert_eq!(denied(response.get_ref()).0, 503);
    // A certificate proves the principal, or the request is nobody's.
    let pem = |path: &str| {
        let chain = desk.authority.leaf(path).chain;
        let escaped = chain.bytes().map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        });
        escaped.collect::<String>()
    };
    for (certificate, expected) in [
        (pem(WEB), 200),
        (pem("ns/shop/sa/orders"), 403),
        ("%2".into(), 403),
        ("none".into(), 403),
    ] {
        let mut asked = envoy_asks(WEB_ID, "/public/a", &[]);
        let attributes = asked.attributes.as_mut().unwrap();
        attributes.source.as_mut().unwrap().certificate = certificate;
        // Whom the question is about is known, and with it which service.
        let status = match envoy.check(asked).await {
            Ok(response) => denied(response.get_ref()).0,
            Err(refused) if refused.code() == Code::PermissionDenied => 403,
            Err(error) => panic!("{error:?}"),
        };
        assert_eq!(status, expected);
    }
    // A principal that is none.
    for principal in ["", "CN=web", "spiffe://acme.test/a?b"] {
        let response = envoy.check(envoy_asks(principal, "/public/a", &[])).await;
        let status = response.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{principal}");
    }

    // What goes on carries the decision, under its canonical path, without claims.
    let headers = [
        (
            "x-forwarded-client-cert",
            "URI=spiffe://acme.test/ns/shop/sa/orders",
        ),
        ("palisade-decision-id", "1"),
        ("x-palisade-principal", "orders"),
        ("x-forwarded-proto", "https"),
    ];
    let asked = envoy_asks(WEB_ID, "/public/./a?q=1", &headers);
    let response = envoy.check(asked).await.unwrap().into_inner();
    let Some(HttpResponse::OkResponse(ok)) = response.http_response else {
        panic!("{response:?}");
    };
    let set = |name: &str| {
        let mut fields = ok.headers.iter().filter_map(|h| h.header.as_ref());
        fields.find(|h| h.key == name).map(|h| h.value.clone())
    };
    assert_eq!(set(":path").as_deref(), Some("/public/a?q=1"));
    assert_eq!(
        set("x-forwarded-client-cert"),
        Some(format!("URI={WEB_ID}"))
    );
    assert_eq!(ok.headers_to_remove, ["x-palisade-principal"]);
    let record = desk.record(&set("palisade-decision-id").unwrap());
    assert_eq!(record["api"], "ext_authz");
    assert!(
        record["source"].as_str().unwrap().starts_with("10.1.2.3"),
        "{record}"
    );
    // What is denied is told as our own proxy tells it.
    let response = envoy
        .check(envoy_asks(WEB_ID, "/admin/a", &[]))
        .await
        .unwrap();
    let body: serde_json::Value = serde_json::from_str(&denied(response.get_ref()).1).unwrap();
    assert_eq!(body["detail"], "Not for you.");
    assert_eq!(body["type"], "urn:palisade:problem:forbidden");
    assert_eq!(body["decision_id"].as_str().unwrap().len(), 26);
}

/// Both sides of the limits of one caller, by each kind of API.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_at_its_limit_waits_and_others_do_not() {
    let home = home();
    let desk = Desk::ready_with(&home, DOMAIN, LINKS, "questions_per_s: 20\nin_flight: 4");
    let mut edge = DecisionsClient::new(desk.channel(EDGE));
    let batch = |count: usize| CheckBatchRequest {
        questions: vec![ask("web", get("/public/a")).question.unwrap(); count],
    };
    assert!(edge.check_batch(batch(20)).await.is_ok());
    let refused = edge.check_batch(batch(21)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("PLS6111"), "{refused:?}");
    let mut web = DecisionsClient::new(desk.channel(WEB));
    assert!(web.check(ask("", get("/public/a"))).await.is_ok());
    let asked = r#"{"subject":{"type":"workload","id":"web"},"action":{"name":"GET"},"resource":{"type":"url","id":"http://orders/public/a"}}"#;
    let evaluations =
        |count: usize| format!(r#"{{"evaluations":[{}]}}"#, vec![asked; count].join(","));
    let reply = desk.post("/access/v1/evaluations", &[], &evaluations(21));
    assert_eq!(reply.status, 429, "{reply:?}");
    assert_eq!(reply.header("retry-after"), Some("1"));
    support::wait_for("room for a batch", support::LIMIT, || {
        let reply = desk.post("/access/v1/evaluations", &[], &evaluations(20));
        (reply.status == 200).then_some(())
    });
    // The body of a message: as long as it may be, and a byte longer.
    let fill = |len: usize| format!("{}{}", asked, " ".repeat(len - asked.len()));
    support::wait_for("the longest message", support::LIMIT, || {
        let reply = desk.post("/access/v1/evaluation", &[], &fill(1 << 20));
        assert!([200, 429].contains(&reply.status), "{reply:?}");
        (reply.status == 200).then_some(())
    });
    let reply = desk.post("/access/v1/evaluation", &[], &fill((1 << 20) + 1));
    assert_eq!(reply.status, 413, "{reply:?}");
}

/// What the PDP tells on its local socket, by name and labels.
fn metrics(home: &Home) -> BTreeMap<String, f64> {
    let sockets = fs::read_dir(home.path("run/palisade")).unwrap();
    let mut sockets = sockets.map(|entry| entry.unwrap().path());
    let socket = sockets
        .find(|path| path.to_string_lossy().ends_with(".pdp.sock"))
        .unwrap();
    let text = http::over_unix(&socket, "/v1/pdp/metrics").unwrap().body;
    let values = text.lines().filter(|line| !line.starts_with('#'));
    values
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// Every answer, search, refusal and limit is counted once, and the page tells each counter.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_counted() {
    let home = home();
    let desk = Desk::ready_with(&home, DOMAIN, LINKS, "questions_per_s: 20");
    let before = metrics(&home);
    let mut edge = DecisionsClient::new(desk.channel(EDGE));
    for path in ["/public/a", "/public/b", "/admin/a"] {
        answer(&mut edge, "web", get(path)).await;
    }
    let mut envoy = AuthorizationClient::new(desk.channel(EDGE));
    let asked = envoy_asks(WEB_ID, "/nothing", &[]);
    assert_eq!(denied(envoy.check(asked).await.unwrap().get_ref()).0, 403);
    let mut web = DecisionsClient::new(desk.channel(WEB));
    let other = ask("spiffe://acme.test/ns/shop/sa/orders", get("/public/a"));
    assert!(web.check(other).await.is_err());
    let search = r#"{"subject":{"type":"workload"},"action":{"name":"GET"},"resource":{"type":"operation","id":"shop/orders/public"}}"#;
    desk.answer("/access/v1/search/subject", search);
    let many = CheckBatchRequest {
        questions: vec![ask("", get("/public/a")).question.unwrap(); 21],
    };
    assert!(web.check_batch(many).await.is_err());

    let after = metrics(&home);
    let gained = |name: &str| {
        let of = |all: &BTreeMap<String, f64>| all.get(name).copied().unwrap_or_default();
        of(&after) - of(&before)
    };
    let answers = |api: &str, decision: &str| {
        let labels = format!("{{api=\"{api}\",decision=\"{decision}\"}}");
        gained(&format!("palisade_decision_api_answers_total{labels}"))
    };
    assert_eq!(answers("grpc", "allow"), 2.0, "{after:?}");
    assert_eq!(answers("grpc", "forbidden"), 1.0, "{after:?}");
    assert_eq!(answers("ext_authz", "not_permitted"), 1.0, "{after:?}");
    for (what, expected) in [("searches", 1.0), ("refused", 1.0), ("busy", 1.0)] {
        let name = format!("palisade_decision_api_{what}_total");
        assert_eq!(gained(&name), expected, "{what}: {after:?}");
    }
    assert!(gained("palisade_decision_api_seconds_total") > 0.0);

    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/metrics.md");
    let page = fs::read_to_string(page).unwrap();
    let told = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `palisade_decision_api_"));
    let told: BTreeSet<&str> = told.filter_map(|rest| rest.split('`').next()).collect();
    let name = |line: &String| {
        let name = line.strip_prefix("palisade_decision_api_")?;
        Some(name.split('{').next().unwrap().to_owned())
    };
    let counted: BTreeSet<String> = after.keys().filter_map(name).collect();
    assert!(counted.iter().map(String::as_str).eq(told), "{counted:?}");
}
