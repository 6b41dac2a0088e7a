//! The audit API as others use it: over TLS, by certificate and by token, beside the
//! command line that asks the same log.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{fs, net::SocketAddr, path::Path, process::Command, sync::Arc};

use palisade_mesh::{snapshot::Digest, spiffe_id::TrustDomain, svid::Identity};
use rustls::ClientConnection;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use support::{
    Home, LIMIT,
    decisions::{Desk, request},
    free_port, http, said, wait_for,
};

const DOMAIN: &str = "acme.test";
const WEB: &str = "ns/shop/sa/web";
const AUDITOR: &str = "9f8e7d6c";

const LINKS: &str = r#"
@id("the-pipeline-asks-anything")
permit (principal is Client, action in [Action::"assert", Action::"search"], resource)
when { principal.name == "ci" };
"#;

const READERS: &str = r#"
@id("auditors-read")
@rows("*")
permit (principal is Client, action in Action::"audit:read", resource)
when { principal.name == "auditor" };

@id("monitoring-watches")
@rows("*")
permit (principal is Client, action in [Action::"audit:metrics", Action::"audit:holds"], resource)
when { principal.name == "auditor" };

@id("the-shop-sees-its-orders")
@rows("service:shop/orders")
permit (principal is Workload, action in Action::"audit:read", resource)
when { principal.path == "/ns/shop/sa/web" };
"#;

/// A mesh that answers decisions and lets its log be read.
struct Api<'h> {
    desk: Desk<'h>,
    address: SocketAddr,
}

impl<'h> Api<'h> {
    /// With records of two services, standing still.
    fn ready(home: &'h Home) -> Self {
        for name in ["orders", "stock"] {
            let text = format!(
                "service: shop/{name}\nidentities: [ns/shop/sa/{name}]\nhosts: [{name}]\noperations:\n  - {{ name: open, match: \"* /open/{{*rest}}\" }}\n  - {{ name: closed, match: \"* /closed/{{*rest}}\" }}\n"
            );
            write(home, &format!("policies/services/{name}.yaml"), &text);
        }
        write(
            home,
            "policies/services/web.yaml",
            "service: shop/web\nidentities: [ns/shop/sa/web]\nhosts: [web]\n",
        );
        write(home, "policies/palisade.yaml", "trust_domain: acme.test\n");
        write(
            home,
            "policies/policies/shop.cedar",
            "@id(\"orders\") permit (principal, action, resource == Operation::\"acme.test/shop/orders/open\");\n@id(\"stock\") permit (principal, action, resource == Operation::\"acme.test/shop/stock/open\");\n",
        );
        write(home, "readers.cedar", READERS);
        let hash = Digest::of(AUDITOR.as_bytes());
        write(home, "reader-tokens", &format!("auditor {hash}\n"));
        let address = free_port();
        let of_audit = format!(
            "api:\n  listen: {address}\n  policy: readers.cedar\n  tokens: reader-tokens\n  in_flight: 2\n"
        );
        let desk = Desk::ready_beside(home, DOMAIN, LINKS, "", &of_audit);
        let api = Self { desk, address };
        for n in 0..6 {
            for service in ["orders", "stock"] {
                let path = ["open", "closed"][n % 2];
                api.desk.answer(
                    "/access/v1/evaluation",
                    &format!("{{\"subject\":{{\"type\":\"workload\",\"id\":\"web\"}},\"action\":{{\"name\":\"GET\"}},\"resource\":{{\"type\":\"url\",\"id\":\"http://{service}/{path}/{n}\"}},\"context\":{{\"tls\":{{\"mtls\":true}}}}}}"),
                );
            }
        }
        wait_for("every record", LIMIT, || {
            let rows = home.rows("service:* last:1h")?;
            (rows.len() == 12).then_some(())
        });
        api
    }

    fn stream(
        &self,
        identity: Option<Identity>,
    ) -> rustls::StreamOwned<ClientConnection, std::net::TcpStream> {
        let config = match identity {
            Some(identity) => {
                let expected = TrustDomain::parse(DOMAIN).unwrap().role("audit");
                identity.client_config(&[expected], &[b"http/1.1"])
            }
            None => nobody(),
        };
        let name = ServerName::IpAddress(self.address.ip().into());
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        rustls::StreamOwned::new(session, http::connect(self.address).unwrap())
    }

    /// As the workload, by its certificate.
    fn as_workload(&self, path: &str, method: &str, at: &str, body: &str) -> http::Reply {
        let fields = [("content-type", "application/json")];
        let mut stream = self.stream(Some(self.desk.identity(path)));
        request(&mut stream, method, at, &fields, body).unwrap()
    }

    /// As whoever has a token, without a certificate.
    fn as_client(&self, token: &str, at: &str, more: &[(&str, &str)]) -> http::Reply {
        let bearer = format!("Bearer {token}");
        let mut fields = more.to_vec();
        if !token.is_empty() {
            fields.push(("authorization", &bearer));
        }
        request(&mut self.stream(None), "GET", at, &fields, "").unwrap()
    }

    fn auditor(&self, at: &str) -> http::Reply {
        let reply = self.as_client(AUDITOR, at, &[]);
        assert_eq!(reply.status, 200, "{at}: {reply:?}");
        reply
    }
}

fn write(home: &Home, name: &str, text: &str) {
    let path = home.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A caller without an identity of the mesh, that takes whatever server answers: who that
/// is, is not what is asked here.
fn nobody() -> rustls::ClientConfig {
    let mut config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 alone".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![
            rustls::SignatureScheme::ECDSA_NISTP256_SHA256,
            rustls::SignatureScheme::ECDSA_NISTP384_SHA384,
            rustls::SignatureScheme::ED25519,
        ]
    }
}

/// As a part of an address.
fn encoded(query: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => (b as char).to_string(),
        b => format!("%{b:02X}"),
    };
    query.bytes().map(byte).collect()
}

/// The same question by the command line and over HTTP has the same answer.
#[test]
fn the_command_line_and_the_api_give_the_same_rows() {
    let home = Home::new();
    let api = Api::ready(&home);
    for (query, rows) in [
        ("service:* last:1h", 12),
        ("decision:deny service:* last:1h", 6),
        ("service:shop/orders path:/open/* last:1h", 3),
        ("service:stock -decision:allow last:1h", 3),
        ("last:1h (path:**/4 OR path:**/5)", 4),
        ("class:credential last:1h", 0),
    ] {
        let told = home
            .rows(query)
            .unwrap_or_else(|| panic!("{}", said(&home.run(&["audit", "search", query]))));
        assert_eq!(told.len(), rows, "{query}");
        let at = format!("/v1/audit/search?limit=10000&q={}", encoded(query));
        assert_eq!(
            api.auditor(&at).json()["rows"],
            Value::Array(told.clone()),
            "{query}"
        );
        // Page by page, and as a file.
        let mut paged = Vec::new();
        let mut cursor = String::new();
        loop {
            let at = format!("/v1/audit/search?limit=5&q={}{cursor}", encoded(query));
            let page = api.auditor(&at).json();
            paged.extend(page["rows"].as_array().unwrap().clone());
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(paged, told, "{query}");
        let file = api.auditor(&format!("/v1/audit/export?q={}", encoded(query)));
        let lines: Vec<Value> = unchunked(&file)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines, told, "{query}");
        for format in ["csv", "ocsf"] {
            let at = format!("/v1/audit/export?format={format}&q={}", encoded(query));
            let exported = home.run(&["audit", "export", query, "--to", "-", "--format", format]);
            let file = api.auditor(&at);
            assert_eq!(unchunked(&file).as_bytes(), exported.stdout, "{query}");
        }
    }
    let same = |args: &[&str], at: &str, drop: &[&str]| {
        // The record of the question before may not be in the index yet.
        let (mut told, mut asked) = wait_for("an index that is not behind", LIMIT, || {
            let answers = (home.json(args), api.auditor(at).json());
            let behind = |answer: &Value| answer["behind"].as_u64().unwrap_or(0) > 0;
            (!behind(&answers.0) && !behind(&answers.1)).then_some(answers)
        });
        for answer in [&mut told, &mut asked] {
            for key in ["took_us", "to", "from"].iter().chain(drop) {
                answer.as_object_mut().unwrap().remove(*key);
            }
            // The same hour, asked a moment later.
            if let Some(calls) = answer.get_mut("calls").and_then(Value::as_object_mut) {
                calls.retain(|key, _| key != "from" && key != "to");
            }
        }
        assert_eq!(told, asked, "{at}");
    };
    same(
        &[
            "audit",
            "facets",
            "last:1h",
            "--by",
            "decision,service",
            "-n",
            "3",
        ],
        "/v1/audit/facets?q=last:1h&by=decision,service&top=3",
        &[],
    );
    same(
        &["audit", "search", "last:1h | count by service, decision"],
        "/v1/audit/search?q=last:1h%20%7C%20count%20by%20service,%20decision",
        &[],
    );
    same(
        &[
            "audit", "timeline", "last:1d", "--step", "1d", "--by", "decision",
        ],
        "/v1/audit/timeline?q=last:1d&step=1d&by=decision",
        &[],
    );
    same(
        &["audit", "gaps", "last:1h"],
        "/v1/audit/gaps?q=last:1h",
        &["noted", "declared"],
    );
    let id = home.rows("last:1h").unwrap()[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    same(
        &["audit", "show", &id],
        &format!("/v1/audit/records/{id}"),
        &["checkpointed"],
    );
    same(&["audit", "alerts", "list"], "/v1/audit/alerts", &[]);
    same(&["audit", "hold", "list"], "/v1/audit/holds", &[]);
    same(&["report", "list"], "/v1/audit/reports", &[]);
    // A report of the same time has the same sections; a checkpoint more may be under it.
    // It is over, so that both are of the same time to the microsecond.
    let newest: jiff::Timestamp = id_time(&home).parse().unwrap();
    let before = newest - jiff::SignedDuration::from_hours(24);
    let period = format!("since:{before} until:{newest}");
    let mut told = home.json(&["report", "run", "denials", "--period", &period]);
    let at = format!("/v1/audit/reports/denials?period={}", encoded(&period));
    let mut asked = api.auditor(&at).json();
    for report in [&mut told, &mut asked] {
        for section in report["sections"].as_array_mut().unwrap() {
            section.as_object_mut().unwrap().remove("queries");
        }
    }
    assert_eq!(told["sections"], asked["sections"], "{asked}");
    let proven = api.auditor(&format!("/v1/audit/records/{id}/proof")).json();
    assert_eq!(proven["row"]["id"], id.as_str(), "{proven}");
    let note = api.auditor("/v1/audit/checkpoint");
    assert!(note.body.starts_with("palisade/acme.test\n"), "{note:?}");
    let document = api.auditor("/v1/openapi.json").json();
    assert_eq!(document, home.json(&["audit", "openapi"]));
}

/// When the newest decision was made.
fn id_time(home: &Home) -> String {
    let rows = home.rows("last:1h").unwrap();
    rows[0]["time"].as_str().unwrap().to_owned()
}

/// What a reviewer asks of a row stands in it: how often the same was denied, what was decided
/// under a revision; and a pack has what the control is about.
#[test]
fn reports_have_the_columns_that_reviewers_ask_for() {
    let home = Home::new();
    let _api = Api::ready(&home);
    wait_for("a checkpoint over every decision", LIMIT, || {
        let made = home.json(&["report", "run", "digest", "--period", "last:1h"]);
        (made["header"]["decisions"].as_u64()? >= 12).then_some(())
    });
    let section = |report: &str, id: &str| -> Value {
        let made = home.json(&["report", "run", report, "--period", "last:1h"]);
        support::report::section(&made, id).clone()
    };
    let column = |section: &Value, name: &str| {
        let columns = section["table"]["columns"].as_array().unwrap();
        let at = columns.iter().position(|column| column["name"] == name);
        at.unwrap_or_else(|| panic!("no {name}: {section:#}"))
    };
    let access = section("access", "who-accessed-what");
    let rows = access["table"]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{access:#}");
    let denied = home.rows("decision:deny service:* last:1h").unwrap();
    assert_eq!(denied.len(), 6);
    for row in rows {
        let same = |record: &&Value| {
            let of = |name: &str| {
                let value = &record[name];
                value == &row[column(&access, name)]
            };
            of("principal") && of("service") && of("action")
        };
        let expected = denied.iter().filter(same).count().to_string();
        assert_eq!(
            row[column(&access, "denied")],
            expected,
            "{access:#}\n{denied:#?}"
        );
        assert!(row[column(&access, "addresses")].is_string());
    }
    let changes = section("changes", "policy-changes");
    let rows = changes["table"]["rows"].as_array().unwrap();
    let of = |name: &str| -> u64 {
        let at = column(&changes, name);
        rows.iter()
            .map(|row| row[at].as_str().unwrap().parse::<u64>().unwrap())
            .sum()
    };
    let counted = |query: &str| {
        let query = format!("class:decision sequence:* {query} last:1h | count");
        let answer = home.json(&["audit", "search", &query]);
        answer["total"].as_u64().unwrap()
    };
    let expected = (counted(""), counted("decision:deny"));
    assert!(expected.0 >= 12 && expected.1 >= 6, "{expected:?}");
    assert_eq!((of("decisions"), of("denied")), expected, "{changes:#}");
    let inventory = section("certificates", "certificate-inventory");
    column(&inventory, "last request");
    let timeline = section("incident", "timeline");
    let digest = column(&timeline, "revision_digest");
    let event = column(&timeline, "event");
    let mut rows = timeline["table"]["rows"].as_array().unwrap().iter();
    let last = rows.rfind(|row| row[event] == "decision").unwrap()[digest].as_str();
    assert_eq!(
        last.unwrap().len(),
        64,
        "the policy that decided: {timeline:#}"
    );
    section("incident", "both-sides");
    let review = section("pci-dss", "10.4.1");
    column(&review, "answered by");
    for (pack, id, name) in [
        ("pci-dss", "7.2.4 sign-offs", "object"),
        ("pci-dss", "10.4.1 denied-attempts", "principal"),
        ("hipaa", "164.308(a)(1)(ii)(D)", "answered by"),
        ("soc2", "CC7.3", "answered by"),
    ] {
        column(&section(pack, id), name);
    }
    section("soc2", "CC4.1 both-sides");
}

/// How the service is, at both doors, each metric on the page and each of the page told.
#[test]
fn metrics_tell_how_the_service_is() {
    let home = Home::new();
    let api = Api::ready(&home);
    let of = |scrape: &str| -> std::collections::BTreeMap<String, f64> {
        let lines = scrape.lines().filter(|line| !line.starts_with('#'));
        let pair = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        };
        lines.map(pair).collect()
    };
    let reply = api.auditor("/metrics");
    assert!(
        reply
            .header("content-type")
            .unwrap()
            .starts_with("text/plain"),
        "{reply:?}"
    );
    let scrape = unchunked(&reply);
    let told = of(&scrape);
    let value = |name: &str| told.get(name).copied().unwrap_or(-1.0);
    assert!(value("palisade_log_records_total") >= 12.0, "{scrape}");
    assert!(value("palisade_log_bytes") > 1000.0, "{scrape}");
    assert!(value("palisade_log_index_bytes") > 0.0, "{scrape}");
    assert!(
        (0.0..60.0).contains(&value("palisade_log_receive_delay_seconds")),
        "{scrape}"
    );
    for none in [
        "disk_low",
        "failing",
        "dead",
        "unsigned",
        "gaps",
        "open_alerts",
    ] {
        assert_eq!(
            value(&format!("palisade_log_{none}")),
            0.0,
            "{none}: {scrape}"
        );
    }
    let counted = value("palisade_log_fsync_seconds_count");
    assert!(counted > 0.0, "{scrape}");
    assert_eq!(
        value("palisade_log_fsync_seconds_bucket{le=\"+Inf\"}"),
        counted
    );
    assert_eq!(
        value("palisade_log_verified_intact"),
        -1.0,
        "nothing was verified"
    );
    // Asking leaves no record; whoever may not, does.
    let refused = api.as_workload(WEB, "GET", "/metrics", "");
    assert_eq!(refused.json()["code"], "PLS7906", "{refused:?}");
    let rows = wait_for("the record of the refusal", LIMIT, || {
        let rows = home.rows("class:audit_read verb:metrics last:1h")?;
        (!rows.is_empty()).then_some(rows)
    });
    assert!(
        rows.iter().all(|row| row["decision"] == "not_permitted"),
        "{rows:?}"
    );
    // After a verification, what that found.
    let bearer = format!("Bearer {AUDITOR}");
    let fields = [("authorization", bearer.as_str())];
    let begun = request(
        &mut api.stream(None),
        "POST",
        "/v1/audit/verify",
        &fields,
        "",
    )
    .unwrap();
    assert_eq!(begun.json()["state"], "running", "{begun:?}");
    wait_for("the verification", LIMIT, || {
        let done = api.auditor("/v1/audit/verify").json();
        (done["state"] == "done").then_some(())
    });
    let sockets = fs::read_dir(home.path("run/palisade")).unwrap();
    let mut sockets = sockets.map(|entry| entry.unwrap().path());
    let socket = sockets
        .find(|path| path.to_string_lossy().ends_with(".audit.sock"))
        .unwrap();
    let local = http::over_unix(&socket, "/v1/audit/metrics").unwrap();
    let local = unchunked(&local);
    assert_eq!(of(&local)["palisade_log_verified_intact"], 1.0, "{local}");
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/metrics.md");
    let page = fs::read_to_string(page).unwrap();
    for name in local
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
    {
        let name = name.split(' ').next().unwrap();
        assert!(
            page.contains(&format!("| `{name}` |")),
            "not on the page: {name}"
        );
    }
    let source = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/run/audit/metrics.rs"
    ));
    let source = source.unwrap();
    for line in page
        .lines()
        .filter_map(|line| line.strip_prefix("| `palisade_log_"))
    {
        let name = format!("\"palisade_log_{}\"", line.split('`').next().unwrap());
        let family = name.replace('"', "");
        assert!(
            source.contains(&name) || source.contains(&format!("\"{family}{{")),
            "{name}"
        );
    }
}

/// What Prometheus' own tool says of a scrape: nothing.
#[test]
#[ignore = "needs promtool; .ci/run installs it"]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    use std::io::Write as _;
    let home = Home::new();
    let api = Api::ready(&home);
    let scrape = unchunked(&api.auditor("/metrics"));
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(scrape.as_bytes()).unwrap();
    drop(input);
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && said.is_empty(), "{said}\n{scrape}");
}

/// Of a chunked body what was sent.
fn unchunked(reply: &http::Reply) -> String {
    if reply.header("transfer-encoding") != Some("chunked") {
        return reply.body.clone();
    }
    let (mut rest, mut whole) = (reply.body.as_str(), String::new());
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole.push_str(&after[..length]);
        rest = after[length..].trim_start_matches("\r\n");
        if length == 0 {
            return whole;
        }
    }
    panic!("cut: {reply:?}");
}

/// Nobody unproven, nobody who is not let; a certificate sees what its policy says; and
/// all of it is in the log.
#[test]
fn who_reads_proves_itself_sees_its_rows_and_is_recorded() {
    let home = Home::new();
    let api = Api::ready(&home);
    for token in ["", "wrong"] {
        let reply = api.as_client(token, "/v1/audit/search", &[]);
        assert_eq!(reply.status, 401, "{reply:?}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        assert_eq!(
            reply.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(reply.json()["code"], "PLS7904");
        let document = api.as_client(token, "/v1/openapi.json", &[]);
        assert_eq!(document.status, 200, "what can be asked is no secret");
    }
    let own = api.as_workload(WEB, "GET", "/v1/audit/search?q=last:1h", "");
    let answer = own.json();
    assert_eq!(answer["rows"].as_array().unwrap().len(), 6, "{answer}");
    assert!(!own.body.contains("shop/stock"), "{answer}");
    assert_eq!(answer["restricted_to"], "service:shop/orders");
    assert_eq!(answer["complete"], false);
    assert_eq!(own.header("cache-control"), Some("no-store"));
    let refused = api.as_workload("ns/shop/sa/stock", "GET", "/v1/audit/search", "");
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_eq!(refused.json()["code"], "PLS7906");
    // A token does not add to what a certificate is.
    let bearer = format!("Bearer {AUDITOR}");
    let mut stream = api.stream(Some(api.desk.identity("ns/shop/sa/stock")));
    let fields = [("authorization", bearer.as_str())];
    let reply = request(&mut stream, "GET", "/v1/audit/search", &fields, "").unwrap();
    assert_eq!(reply.status, 403, "{reply:?}");

    // The identifier of a request comes back, and is in the record.
    let named = api.as_client(
        AUDITOR,
        "/v1/audit/search?q=servce:x",
        &[("x-request-id", "r-1")],
    );
    assert_eq!(named.header("x-request-id"), Some("r-1"));
    let problem = named.json();
    assert_eq!(problem["request_id"], "r-1");
    assert_eq!(
        (&problem["code"], problem["status"].as_u64()),
        (&"PLS7102".into(), Some(400))
    );
    assert_eq!(problem["at"]["len"], "servce".len());
    assert!(
        problem["help"].as_str().unwrap().contains("service"),
        "{problem}"
    );
    let named = api.as_client(AUDITOR, "/v1/audit/search", &[("x-request-id", "r-2")]);
    assert_eq!(named.status, 200);
    let reads = wait_for("the records of reads", LIMIT, || {
        let rows = home.rows("class:audit_read last:1h")?;
        rows.iter()
            .any(|row| row["request"] == "r-2")
            .then_some(rows)
    });
    let of = |actor: &str| -> Vec<&Value> {
        reads.iter().filter(|row| row["actor"] == *actor).collect()
    };
    let web = of("spiffe://acme.test/ns/shop/sa/web")[0];
    assert_eq!(web["rows"], 6, "{web}");
    assert_eq!(web["query"], "last:1h");
    assert_eq!(web["policy"][0], "the-shop-sees-its-orders");
    let stock = of("spiffe://acme.test/ns/shop/sa/stock");
    assert!(stock.len() == 2 && stock.iter().all(|row| row["decision"] == "not_permitted"));
    let uid = format!("uid:{}", nix::unistd::getuid());
    assert!(
        of(&uid).iter().any(|row| row["verb"] == "search"),
        "who asks on this host, too"
    );
}

/// The body of a message: as long as it may be, and a byte longer; what is no JSON.
#[test]
fn a_body_is_read_up_to_its_limit() {
    let home = Home::new();
    let api = Api::ready(&home);
    let ask = |body: &str| {
        let bearer = format!("Bearer {AUDITOR}");
        let fields = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        request(
            &mut api.stream(None),
            "POST",
            "/v1/audit/search",
            &fields,
            body,
        )
        .unwrap()
    };
    let asked = r#"{"q":"last:1h","limit":3}"#;
    let fill = |len: usize| format!("{asked}{}", " ".repeat(len - asked.len()));
    let reply = ask(&fill(64 << 10));
    assert_eq!(
        reply.json()["rows"].as_array().unwrap().len(),
        3,
        "{reply:?}"
    );
    assert_eq!(ask(&fill((64 << 10) + 1)).status, 413);
    for wrong in [
        "",
        "{",
        "[]",
        r#"{"q":1}"#,
        r#"{"query":"last:1h"}"#,
        r#"{"limit":-1}"#,
    ] {
        let reply = ask(wrong);
        assert_eq!(
            (reply.status, &reply.json()["code"]),
            (400, &"PLS7908".into()),
            "{wrong}"
        );
    }
    let bearer = format!("Bearer {AUDITOR}");
    let fields = [("authorization", bearer.as_str())];
    let reply = request(
        &mut api.stream(None),
        "POST",
        "/v1/audit/search",
        &fields,
        asked,
    )
    .unwrap();
    assert_eq!(reply.status, 415, "{reply:?}");
    // Two of one caller are in flight; a third waits.
    let mut tails: Vec<_> = (0..2).map(|_| api.stream(None)).collect();
    for stream in &mut tails {
        use std::io::{Read, Write};
        write!(
            stream,
            "GET /v1/audit/tail HTTP/1.1\r\nhost: a\r\nauthorization: {bearer}\r\n\r\n"
        )
        .unwrap();
        stream.flush().unwrap();
        let mut head = [0; 15];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
    }
    let reply = api.as_client(AUDITOR, "/v1/audit/fields", &[]);
    assert_eq!(
        (reply.status, &reply.json()["code"]),
        (429, &"PLS7910".into()),
        "{reply:?}"
    );
    drop(tails);
    wait_for("room for a request", LIMIT, || {
        let reply = api.as_client(AUDITOR, "/v1/audit/fields", &[]);
        (reply.status == 200).then_some(())
    });
}

/// A mistake in the policies keeps the service from starting, and is told with its line.
#[test]
fn a_mistake_in_the_policies_is_told_with_its_line() {
    let home = Home::new();
    let text = "trust_domain: acme.test\naudit:\n  listen: 127.0.0.1:1\n  api: { listen: \"127.0.0.1:2\", policy: readers.cedar }\n";
    fs::write(home.path("mesh.yaml"), text).unwrap();
    let check = || home.run(&["config", "check", "mesh.yaml"]);
    for (policy, code, place) in [
        ("\npermit (principal, action", "PLS7902", "readers.cedar:2"),
        (
            "@id(\"a\")\npermit (principal, action, resource);",
            "PLS7902",
            "readers.cedar:1",
        ),
        (
            "@id(\"a\")\n@rows(\"servce:x\")\npermit (principal, action, resource);",
            "PLS7903",
            "readers.cedar:2",
        ),
    ] {
        fs::write(home.path("readers.cedar"), policy).unwrap();
        let output = check();
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert!(said(&output).contains(code), "{}", said(&output));
        assert!(said(&output).contains(place), "{}", said(&output));
    }
    fs::write(home.path("readers.cedar"), READERS).unwrap();
    assert!(check().status.success(), "{}", said(&check()));
}

/// Saved queries: kept, listed, asked, narrowed, forgotten.
#[test]
fn a_saved_query_is_asked_by_its_name() {
    let home = Home::new();
    let run = |args: &[&str]| {
        let mut command = home.palisade(args);
        command.env("XDG_CONFIG_HOME", home.path("config"));
        command.output().unwrap()
    };
    let expect = |args: &[&str], code: i32| {
        let output = run(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            said(&output)
        );
        said(&output)
    };
    expect(
        &[
            "audit",
            "saved",
            "add",
            "denied",
            "decision:deny service:*",
            "last:1h",
        ],
        0,
    );
    expect(
        &[
            "audit",
            "saved",
            "add",
            "by-service",
            "last:1h | count by service",
        ],
        0,
    );
    let told = expect(&["audit", "saved", "add", "denied", "last:1h"], 3);
    assert!(told.contains("PLS7922"), "{told}");
    let told = expect(&["audit", "saved", "add", "bad", "servce:x"], 3);
    assert!(told.contains("PLS7102"), "{told}");
    let told = expect(&["audit", "search", "@denid"], 3);
    assert!(
        told.contains("PLS7920") && told.contains("`@denied`"),
        "{told}"
    );
    let told = expect(&["audit", "search", "@by-service", "service:x"], 3);
    assert!(told.contains("PLS7923"), "{told}");
    let listed = expect(&["audit", "saved", "list"], 0);
    assert!(
        listed.contains("denied") && listed.contains("decision:deny service:* last:1h"),
        "{listed}"
    );
    let _api = Api::ready(&home);
    let rows = |args: &[&str]| {
        let output = run(&[&["audit", "search"], args, &["-o", "json"]].concat());
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer
    };
    assert_eq!(rows(&["@denied"])["rows"].as_array().unwrap().len(), 6);
    assert_eq!(
        rows(&["@denied", "service:orders"])["rows"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(rows(&["@denied", "| count"])["total"], 6);
    assert_eq!(
        rows(&["@by-service"])["groups"].as_array().unwrap().len(),
        2
    );
    expect(&["audit", "saved", "remove", "denied"], 0);
    let told = expect(&["audit", "saved", "remove", "denied"], 3);
    assert!(told.contains("PLS7920"), "{told}");
}

/// A program that we did not write finds the document to be OpenAPI 3.1, and real answers
/// to be what it says.
#[test]
#[ignore = "needs python3 with openapi-spec-validator and jsonschema; .ci/run has them"]
fn the_document_is_valid_openapi_and_answers_keep_to_it() {
    let home = Home::new();
    let api = Api::ready(&home);
    fs::create_dir_all(home.path("answers")).unwrap();
    let id = home.rows("last:1h").unwrap()[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    for (schema, at) in [
        ("SearchAnswer", "/v1/audit/search?q=class:*".to_owned()),
        ("Facets", "/v1/audit/facets".into()),
        ("StepsAnswer", "/v1/audit/timeline".into()),
        ("Gaps", "/v1/audit/gaps".into()),
        ("Fields", "/v1/audit/fields".into()),
        ("Found", format!("/v1/audit/records/{id}")),
    ] {
        write(
            &home,
            &format!("answers/{schema}.json"),
            &api.auditor(&at).body,
        );
    }
    let problem = api.as_client("", "/v1/audit/search", &[]);
    write(&home, "answers/Problem.json", &problem.body);
    let document = home.run(&["audit", "openapi"]).stdout;
    fs::write(home.path("openapi.json"), document).unwrap();
    let python = std::env::var("PALISADE_TEST_PYTHON").unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/openapi.py");
    let output = Command::new(python)
        .arg(script)
        .args([home.path("openapi.json"), home.path("answers")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}
