//! Requests of which only one side has left a record, and how the audit service names
//! them: to whoever asks for gaps, and in the statement on integrity.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use palisade::{
    control::client::Mesh,
    net::identity::{self, IdentityConfig},
    run::{self, Role, audit::Gaps},
};
use palisade_mesh::{clock::Clock, spiffe_id::SpiffeId, svid::Identity};
use rustls_pki_types::ServerName;
use serde_json::Value;
use support::{
    Home, free_port,
    inside::{self, Story, config, control_plane, start_app, statuses, until},
    report::{figure, section},
    sample_policies,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longer than a record may wait for its other half.
const SETTLED: Duration = Duration::from_secs(30);

const WEB: &str = "spiffe://demo.test/ns/shop/sa/web";
const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";
/// What is called.
const SERVICE: &str = "demo.test/shop/orders";

/// What passes two proxies that both record, permitted or refused, agrees, and neither the
/// comparison nor the statement on integrity names a request.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_both_sides_recorded_are_named_nowhere() {
    let home = Home::new();
    let story = Story::start(&home, "agreed", &sample()).await;
    for _ in 0..3 {
        assert_eq!(story.orders().await, 200);
    }
    assert_eq!(story.get("/nowhere").await, 403);
    until("the records have arrived", || async {
        let calls = asked(&story.name).await;
        calls["agreed"] == 4 && calls["settling"] == 0
    })
    .await;
    story.clock.advance(SETTLED);

    let found = asked(&story.name).await;
    assert_eq!(found["one_sided"], serde_json::json!([]), "{found:#}");
    let section = stated(&home, &story.name);
    for (label, value) in [
        ("requests that both recorded", "4"),
        ("one-sided requests", "0"),
        ("calls that nobody answered or decided about", "0"),
        ("records whose other half may still arrive", "0"),
    ] {
        assert_eq!(figure(&section, label), value, "{section:#}");
    }
    assert_eq!(section["table"], Value::Null, "{section:#}");
    story.end().await;
}

/// A caller goes past its proxy with its own certificate: policy lets it, and the
/// records tell it apart from all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_past_the_caller_s_proxy_is_named() {
    let home = Home::new();
    let story = Story::start(&home, "past", &sample()).await;
    assert_eq!(story.orders().await, 200);
    assert_eq!(story.get("/nowhere").await, 403);

    let web = identity_of("web", &story.plane_config.agent_socket(), &story.clock).await;
    let inbound = inbound_of(&story.name, "orders").await;
    assert_eq!(past(&web, inbound, "/orders", None).await, 200);
    let borrowed = one_call(&story.name).await;
    assert_eq!(past(&web, inbound, "/orders", Some(&borrowed)).await, 200);

    let found = compared(&story.name, &story.clock, 2).await;
    let one_sided = found["one_sided"].as_array().unwrap();
    assert_eq!(one_sided.len(), 2, "{found:#}");
    assert_eq!(one_sided[0]["kind"], "decision_alone", "{found:#}");
    assert_eq!(one_sided[0]["caller"], WEB);
    assert_eq!(one_sided[0]["path"], "/orders");
    assert_eq!(one_sided[0]["loss_known"], false);
    assert_eq!(one_sided[1]["kind"], "repeated", "{found:#}");
    // Those that went the usual way agree, the refused one too.
    assert!(found["agreed"].as_u64().unwrap() >= 2, "{found:#}");
    assert_eq!(found["whole"], true);

    let section = stated(&home, &story.name);
    let row = |kind| [kind, ORDERS, WEB, SERVICE, "GET", "/orders", "no"];
    assert_eq!(rows(&section), [row("decision_alone"), row("repeated")]);
    agree(&section, &found);
    story.end().await;
}

/// A destination decides and answers, and what it recorded does not arrive: the calls
/// of the other side tell of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_withholds_its_records_is_named() {
    let home = Home::new();
    let name = format!("withheld-{}", std::process::id());
    let clock = Clock::manual(jiff::Timestamp::now());
    let app = start_app().await;
    let (pdp, audit, nobody) = (free_port(), free_port(), free_port());
    let yaml = control_plane(&name, &sample())
        .replacen("127.0.0.1:0", &pdp.to_string(), 1)
        .replacen("127.0.0.1:0", &audit.to_string(), 1);
    let plane = config(&home.path("plane"), &yaml);
    let agent = plane.agent_socket();
    let plane = run::control_plane(&plane, &Role::ALL, clock.clone()).await;
    let plane = plane.unwrap();
    let mut proxies = Vec::new();
    for (service, audit) in [("web", audit), ("orders", nobody)] {
        let yaml = inside::proxy(&name, service, app, pdp, audit, &agent);
        let config = config(&home.path(service), &yaml);
        proxies.push(run::proxy::start(&config, clock.clone()).await.unwrap());
    }
    let outbound = inside::ready(&name).await;
    for _ in 0..3 {
        assert_eq!(inside::get(outbound, "orders", "/orders").await, 200);
    }
    let found = compared(&name, &clock, 3).await;
    let one_sided = found["one_sided"].as_array().unwrap();
    assert_eq!(one_sided.len(), 3, "{found:#}");
    for one in one_sided {
        assert_eq!(one["kind"], "call_alone", "{found:#}");
        assert_eq!(one["service"], SERVICE);
    }
    assert_eq!(found["agreed"], 0);

    let section = stated(&home, &name);
    let row = ["call_alone", WEB, WEB, SERVICE, "GET", "/orders", "no"];
    assert_eq!(rows(&section), [row; 3]);
    agree(&section, &found);
    for proxy in proxies {
        proxy.end().await;
    }
    plane.end().await;
}

fn sample() -> String {
    sample_policies().display().to_string()
}

/// The comparison of the last hour.
async fn asked(name: &str) -> Value {
    let mesh = Mesh::find(Some(name)).await.unwrap();
    let asked = Gaps {
        query: "last:1h".into(),
    };
    let answer = mesh.post::<Value>("audit", "/v1/audit/gaps", &asked).await;
    answer.unwrap()["calls"].clone()
}

/// The comparison of the last hour, once it names `expected` requests.
async fn compared(name: &str, clock: &Clock, expected: usize) -> Value {
    // Everything has arrived before time goes on.
    until("the records have arrived", || async {
        let calls = asked(name).await;
        let waiting = calls["settling"].as_u64().unwrap() as usize;
        waiting + calls["one_sided"].as_array().unwrap().len() >= expected
    })
    .await;
    clock.advance(SETTLED);
    until("the requests are named", || async {
        asked(name).await["one_sided"].as_array().unwrap().len() >= expected
    })
    .await;
    asked(name).await
}

/// What the statement on integrity of the last hour says of both sides, as an auditor gets it
/// in a file.
fn stated(home: &Home, name: &str) -> Value {
    let file = home.path("integrity.json");
    let to = ["--to", file.to_str().unwrap(), "--overwrite"];
    let run = ["report", "run", "integrity", "--period", "last:1h"];
    inside::palisade(name, &[&run[..], &to].concat());
    let text = fs::read_to_string(file).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    section(&report, "both-sides").clone()
}

/// The rows of a section, without when a request was, and the record and the id that it has.
fn rows(section: &Value) -> Vec<[&str; 7]> {
    let columns = section["table"]["columns"].as_array().unwrap();
    let at = |name: &str| columns.iter().position(|c| c["name"] == name).unwrap();
    let told = [
        "kind",
        "reporter",
        "caller",
        "service",
        "method",
        "path",
        "loss known",
    ]
    .map(at);
    let rows = section["table"]["rows"].as_array().unwrap().iter();
    rows.map(|row| told.map(|at| row[at].as_str().unwrap()))
        .collect()
}

/// That the statement says the same as the comparison, record for record.
fn agree(section: &Value, found: &Value) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rows = section["table"]["rows"].as_array().unwrap().iter();
    let told: Vec<_> = rows.map(|row| (text(&row[2]), text(&row[3]))).collect();
    let one_sided = found["one_sided"].as_array().unwrap().iter();
    let named: Vec<_> = one_sided
        .map(|one| (one["entry"].to_string(), text(&one["id"])))
        .collect();
    assert_eq!(told, named);
    assert_eq!(
        figure(section, "one-sided requests"),
        named.len().to_string()
    );
    let agreed = found["agreed"].to_string();
    assert_eq!(figure(section, "requests that both recorded"), agreed);
}

/// Request id of a call that web's proxy has recorded.
async fn one_call(name: &str) -> String {
    let mut id = None;
    let started = std::time::Instant::now();
    while id.is_none() {
        assert!(started.elapsed() < inside::LIMIT, "no record of a call");
        let mesh = Mesh::find(Some(name)).await.unwrap();
        let asked = run::audit::Search {
            query: "class:call path:/orders last:1h".into(),
            limit: Some(1),
            cursor: None,
        };
        let answer = mesh
            .post::<Value>("audit", "/v1/audit/search", &asked)
            .await;
        let row = answer.unwrap()["rows"][0]["id"].clone();
        id = row.as_str().map(str::to_owned);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    id.unwrap()
}

async fn identity_of(service: &str, agent: &std::path::Path, clock: &Clock) -> Identity {
    let api = IdentityConfig::WorkloadApi(format!("unix://{}", agent.display()));
    let id = SpiffeId::parse(&format!("spiffe://demo.test/ns/shop/sa/{service}")).unwrap();
    identity::acquire(&api, Some(id), clock.clone())
        .await
        .unwrap()
}

async fn inbound_of(name: &str, service: &str) -> SocketAddr {
    let all = statuses(name).await;
    let proxy = all.iter().find(|p| p.instance == service).unwrap();
    proxy.inbound.unwrap()
}

/// Status of a GET straight to an inbound port, with a request id if one is claimed.
async fn past(caller: &Identity, inbound: SocketAddr, path: &str, claimed: Option<&str>) -> u16 {
    let orders = SpiffeId::parse(ORDERS).unwrap();
    let config = caller.client_config(&[orders], &[b"http/1.1"]);
    let tcp = TcpStream::connect(inbound).await.unwrap();
    let name = ServerName::from(inbound.ip());
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    let stream = TokioIo::new(tls.await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::get(path).header("host", "orders");
    if let Some(id) = claimed {
        request = request.header("palisade-request-id", id);
    }
    let request = request.body(Full::new(Bytes::new())).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    answer.into_body().collect().await.unwrap();
    status
}
