use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use axum::body::to_bytes;
use bytes::Bytes;
use palisade_audit::{export::ParquetFile, local::LocalSink};
use palisade_mesh::{
    clock::Clock,
    decision::DecisionIds,
    kill::{Entry, KillList, Target},
    sink::RecordSink,
    wire::record::{
        Admin, AuditMode, Decision, Outcome, Peer as WirePeer, PolicyChange, Record, Verdict,
        record::Body as What,
    },
};
use palisade_pdp::readers::Readers;
use serde_json::Value;
use tower::ServiceExt;

use super::*;

mod schema;

const POLICIES: &str = r#"
@id("auditors-read") @rows("*")
permit (principal is Client, action in Action::"audit:read", resource)
when { principal.name == "auditor" };

@id("readers-read") @rows("*")
permit (principal is Client, action in Action::"audit:read", resource)
when { principal.name == "reader" };

@id("shop-sees-its-own") @rows("service:shop/*")
permit (principal is Workload, action in Action::"audit:read", resource)
when { principal.path like "/ns/shop/*" };

@id("auditors-reveal") @rows("*")
permit (principal is Client, action == Action::"audit:reveal", resource)
when { principal.name == "auditor" };

@id("auditors-watch") @rows("*")
permit (principal is Client, action in [Action::"audit:metrics", Action::"audit:holds"], resource)
when { principal.name == "auditor" };

@id("clerks-read") @rows("*")
permit (principal is Client, action in Action::"audit:read", resource)
when { principal.name == "clerk" };

@id("clerks-reveal-the-shop") @rows("service:shop/*")
permit (principal is Client, action == Action::"audit:reveal", resource)
when { principal.name == "clerk" };

@id("clerks-export-nothing")
forbid (principal is Client, action == Action::"audit:export", resource)
when { principal.name == "clerk" };

@id("shop-reveals-its-own") @rows("service:shop/*")
permit (principal is Workload, action in [Action::"audit:reveal", Action::"audit:holds"], resource)
when { principal.path like "/ns/shop/*" };

@id("nobody-exports-the-shop")
forbid (principal is Workload, action == Action::"audit:export", resource)
when { principal.path == "/ns/shop/sa/web" };
"#;
const AUDITOR: &str = "palisade/client/auditor";
const READER: &str = "palisade/client/reader";
const CLERK: &str = "palisade/client/clerk";
const ORDERS: &str = "ns/shop/sa/orders";
const WEB: &str = "ns/shop/sa/web";
const BANK: &str = "ns/bank/sa/teller";

/// An audit service with some records of two services, and an office before it.
struct Service {
    config: Config,
    section: ReadersSection,
    role: AuditRole,
    kill: watch::Sender<Held>,
    /// Ids of a decision of the shop and of one of the bank.
    ids: [String; 2],
    _dir: tempfile::TempDir,
}

/// Decisions of each service; every third is denied.
const EACH: usize = 6;

impl Service {
    async fn ready() -> Self {
        Self::on(tempfile::tempdir().unwrap(), "").await
    }

    /// In this folder, with `more` below `audit`.
    async fn on(dir: tempfile::TempDir, more: &str) -> Self {
        let text = format!(
            "trust_domain: acme.test\nprivacy: {{ seal: [author] }}\naudit:\n  listen: 127.0.0.1:0\n  api: {{ listen: \"127.0.0.1:0\", policy: p, tails: 1, in_flight: 2, requests_per_s: 4 }}\n{more}"
        );
        let mut config = Config::parse("mesh.yaml", &text).unwrap();
        config.state_dir = dir.path().to_owned();
        let clock = Clock::system();
        let audit = config.audit.clone().unwrap();
        let role = AuditRole::open(&config, &audit, &clock).unwrap();
        let reporter = config.trust_domain.id(ORDERS).unwrap();
        let sink = LocalSink::new(role.log.clone(), reporter.clone(), clock.clone());
        let mut stream = sink.open(0);
        let mut ids = DecisionIds::new();
        let mut firsts = Vec::new();
        for service in ["acme.test/shop/orders", "acme.test/bank/accounts"] {
            for n in 0..EACH {
                let id = ids.next(clock.now_us());
                if n == 0 {
                    firsts.push(id.to_string());
                }
                let of = |body| Record {
                    id: id.to_bytes().to_vec(),
                    time_us: clock.now_us(),
                    reporter: reporter.to_string(),
                    mode: AuditMode::Spool.into(),
                    body: Some(body),
                    ..Record::default()
                };
                stream.append(&of(decision(service, n))).unwrap();
                let outcome = Outcome {
                    status: 200,
                    service: service.to_owned(),
                    ..Outcome::default()
                };
                stream.append(&of(What::Outcome(outcome))).unwrap();
            }
        }
        let admin = Admin {
            verb: "kill".into(),
            actor: "ana@bank.test".into(),
            object: "acme.test/bank/accounts".into(),
            ..Admin::default()
        };
        let record = Record {
            id: ids.next(clock.now_us()).to_bytes().to_vec(),
            time_us: clock.now_us(),
            body: Some(What::Admin(admin)),
            ..Record::default()
        };
        stream.append(&record).unwrap();
        stream.flush();
        stream.durable().await.unwrap();
        drop(stream);
        role.store.flush().await.unwrap();
        let len = role.log.len();
        let mut signed = role.log.subscribe_checkpoints();
        signed.wait_for(|now| now.size >= len).await.unwrap();
        drop(signed);
        Self {
            section: audit.api.unwrap(),
            kill: watch::channel(held(&config, Vec::new())).0,
            role,
            config,
            ids: firsts.try_into().unwrap(),
            _dir: dir,
        }
    }

    /// The id of a policy change by somebody.
    async fn change_by(&self, author: &str) -> String {
        let clock = Clock::system();
        let reporter = self.config.trust_domain.id("palisade/pdp").unwrap();
        let sink = LocalSink::new(self.role.log.clone(), reporter.clone(), clock.clone());
        let mut stream = sink.open(0);
        let id = DecisionIds::new().next(clock.now_us());
        let change = PolicyChange {
            author: author.into(),
            ..PolicyChange::default()
        };
        let record = Record {
            id: id.to_bytes().to_vec(),
            time_us: clock.now_us(),
            reporter: reporter.to_string(),
            body: Some(What::PolicyChange(change)),
            ..Record::default()
        };
        stream.append(&record).unwrap();
        stream.flush();
        stream.durable().await.unwrap();
        id.to_string()
    }

    fn office(&self) -> Office {
        self.office_within(Bounds::of(&self.section))
    }

    fn office_within(&self, bounds: Bounds) -> Office {
        let readers = Readers::parse("readers.cedar", POLICIES).unwrap();
        let access = Access::of(readers).unwrap_or_else(|found| panic!("{found:?}"));
        let (role, kill) = (self.role.clone(), self.kill.subscribe());
        Office::new(&self.section, bounds, role, access, None, kill)
    }

    fn caller(&self, office: &Office, path: &str) -> Caller {
        self.caller_while(office, path, || true)
    }

    fn caller_while(
        &self,
        office: &Office,
        path: &str,
        is_good: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Caller {
        let id = self.config.trust_domain.id(path).unwrap();
        Caller {
            load: office.0.loads.of(&id, &office.0.limits),
            proof: Proof::Token(Arc::new(is_good)),
            id,
        }
    }

    /// Asks as `path`, as nobody where there is none.
    async fn ask(&self, office: &Office, path: Option<&str>, method: &str, uri: &str) -> Reply {
        let caller = path.map(|path| self.caller(office, path));
        self.ask_by(office, caller, method, uri).await
    }

    async fn ask_by(
        &self,
        office: &Office,
        caller: Option<Caller>,
        method: &str,
        uri: &str,
    ) -> Reply {
        let body = if method == "POST" { "{}" } else { "" };
        self.ask_of(office, caller, method, uri, body).await
    }

    async fn ask_of(
        &self,
        office: &Office,
        caller: Option<Caller>,
        method: &str,
        uri: &str,
        body: &str,
    ) -> Reply {
        let mut request = AxumRequest::builder()
            .method(method)
            .uri(uri)
            .header("content-type", "application/json")
            .body(Body::from(body.to_owned()))
            .unwrap();
        let id = RequestId::of(request.headers());
        let visit = Visit {
            caller,
            request: id,
        };
        request.extensions_mut().insert(visit);
        let answer = router(office).oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: to_bytes(body, 1 << 24).await,
        }
    }

    /// Asks as `path` with a body of JSON.
    async fn ask_with(
        &self,
        office: &Office,
        path: Option<&str>,
        method: &str,
        uri: &str,
        body: &str,
    ) -> Reply {
        let caller = path.map(|path| self.caller(office, path));
        self.ask_of(office, caller, method, uri, body).await
    }

    /// The answer to a GET as `path`, which must be given.
    async fn get(&self, office: &Office, path: &str, uri: &str) -> Reply {
        let reply = self.ask(office, Some(path), "GET", uri).await;
        assert_eq!(reply.status, 200, "{uri}: {reply:?}");
        reply
    }

    /// What a verification came to.
    async fn verified(&self) -> Value {
        let patience = std::time::Instant::now();
        loop {
            let (office, at) = (self.office(), "/v1/audit/verify");
            let now = self.get(&office, READER, at).await.json();
            schema::check("Verification", &now);
            if now["state"] != "running" {
                break now;
            }
            assert!(patience.elapsed() < Duration::from_secs(30), "{now}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Rows of a search on the local socket.
    async fn rows(&self, query: &str) -> Vec<Value> {
        self.role.settled().await;
        self.role.store.flush().await.unwrap();
        let query = palisade_audit::query::Query::parse(query).unwrap();
        let found = self.role.store.search(&query, 1000, None).unwrap();
        let rows = found.rows.iter().map(|r| serde_json::to_value(r).unwrap());
        rows.collect()
    }
}

fn held(config: &Config, entries: Vec<Entry>) -> Held {
    let list = KillList::new(config.trust_domain.clone(), 1, 1, entries).unwrap();
    Held {
        list: Arc::new(list),
        heard: true,
    }
}

fn decision(service: &str, n: usize) -> What {
    let verdict = match n % 3 {
        0 => Verdict::NotPermitted,
        _ => Verdict::Allow,
    };
    let principal = WirePeer {
        spiffe_id: format!("spiffe://{}/caller", service.replacen('/', "/ns/", 1)),
        ..WirePeer::default()
    };
    What::Decision(Decision {
        verdict: verdict.into(),
        reason: "permitted".into(),
        principal: Some(principal),
        service: service.to_owned(),
        method: "GET".into(),
        path: format!("/{n}"),
        enforced: true,
        ..Decision::default()
    })
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Result<Bytes, axum::Error>,
}

impl Reply {
    fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().unwrap()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(self.text()).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let told = self.json();
        assert_eq!(told["code"], code, "{told}");
        assert_eq!(told["status"], status);
        assert_eq!(told["type"], format!("urn:palisade:problem:{code}"));
        schema::check("Problem", &told);
    }
}

/// Every address of every read, with what makes an answer of it.
fn reads(id: &str) -> Vec<(&'static str, String)> {
    [
        ("RowsAnswer", "search?q=class:*&limit=1000"),
        (
            "GroupsAnswer",
            "search?q=class:*%20%7C%20count%20by%20service",
        ),
        ("StepsAnswer", "search?q=%7C%20timeline%201h%20by%20service"),
        (
            "Facets",
            "facets?q=class:*&by=service,principal,actor,class&top=100",
        ),
        ("StepsAnswer", "timeline?q=class:*&by=service"),
        ("Gaps", "gaps?q=last:1h"),
        ("Row", "export?q=class:*"),
        ("", "export?q=class:*&format=csv"),
        ("", "checkpoint"),
        ("SavedQueries", "saved"),
        ("Reports", "reports"),
    ]
    .into_iter()
    .map(|(schema, rest)| (schema, format!("/v1/audit/{rest}")))
    .chain([
        ("", "/checkpoint".to_owned()),
        ("", "/tile/0/000.p/3".to_owned()),
        ("Found", format!("/v1/audit/records/{id}")),
        ("Proven", format!("/v1/audit/records/{id}/proof")),
        (
            "Revealed",
            format!("/v1/audit/records/{id}/revealed?reason=1"),
        ),
    ])
    .collect()
}

/// What is about the log as a whole: every address, with what makes an answer of it.
fn of_the_whole() -> [(&'static str, &'static str); 10] {
    [
        ("Alerts", "/v1/audit/alerts"),
        ("Holds", "/v1/audit/holds"),
        ("Report", "/v1/audit/reports/denials?period=last:1h"),
        ("", "/v1/audit/reports/denials?format=html"),
        ("", "/v1/audit/reports/denials?format=pdf"),
        (
            "AssessmentResults",
            "/v1/audit/reports/denials?format=oscal",
        ),
        ("", "/v1/audit/reports/denials?format=xlsx"),
        ("", "/v1/audit/reports/denials?format=csv&table=1"),
        ("Verification", "/v1/audit/verify"),
        ("", "/tile/entries/000.p/3"),
    ]
}

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

/// Persons are shown to whom a policy names for it, for a reason; and looking for somebody
/// is on record without the name.
#[tokio::test]
async fn persons_are_shown_to_whom_a_policy_lets_reveal_and_says_why() {
    let service = Service::ready().await;
    let office = service.office();
    let alice = "alice@example.org";
    let id = service.change_by(alice).await;
    let at = format!("/v1/audit/records/{id}");
    let named = format!("/v1/audit/search?q=subject:{alice}%20class:*");
    let search = format!("{named}&reason=ticket%208");
    let found = service.get(&office, AUDITOR, &search).await;
    assert_eq!(found.json()["rows"][0]["id"], id.as_str(), "{found:?}");
    for uri in [&at, &search] {
        let reply = service.get(&office, AUDITOR, uri).await;
        assert!(!reply.text().contains("alice"), "{reply:?}");
    }
    let revealed = format!("{at}/revealed?reason=ticket%207");
    let reply = service.get(&office, AUDITOR, &revealed).await.json();
    schema::check("Revealed", &reply);
    assert_eq!(reply["records"][0]["values"][0]["value"], alice, "{reply}");
    let refused = async |path, uri: &str, status, code| {
        let reply = service.ask(&office, Some(path), "GET", uri).await;
        reply.is_problem(status, code);
    };
    refused(AUDITOR, &format!("{at}/revealed"), 400, "PLS7565").await;
    refused(ORDERS, &revealed, 404, "PLS7913").await;
    refused(BANK, &revealed, 403, "PLS7906").await;
    refused(BANK, &search, 403, "PLS7906").await;
    // A name is for whoever may reveal and says why, by every question; a pseudonym is free.
    refused(AUDITOR, &named, 400, "PLS7565").await;
    refused(AUDITOR, &format!("{named}&reason={alice}"), 400, "PLS7565").await;
    for uri in ["search", "facets", "timeline", "export", "tail"] {
        let uri = format!("/v1/audit/{uri}?q=subject:{alice}&reason=1");
        refused(READER, &uri, 403, "PLS7906").await;
    }
    let person = found.json()["rows"][0]["subject"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let free = format!("/v1/audit/search?q=subject:{person}%20class:*");
    let found = service.get(&office, READER, &free).await;
    assert_eq!(found.json()["rows"][0]["id"], id.as_str(), "{found:?}");
    // What may be revealed to it bounds what it finds by name.
    let of_change = service.get(&office, ORDERS, &search).await;
    assert_eq!(of_change.json()["rows"].as_array().unwrap().len(), 0);
    let unknown = "/v1/audit/records/01JD8K2XQ4ABCDEFGH01234567/revealed?reason=ticket%209";
    refused(AUDITOR, unknown, 404, "PLS7913").await;
    let reads = service.rows("class:audit_read").await;
    let because = |r: &Value| r["because"] == "ticket 7" && r["verb"] == "reveal";
    assert!(reads.iter().any(because), "{reads:#?}");
    let because = |why: &str| reads.iter().find(|r| r["because"] == why);
    assert_eq!(because("ticket 8").unwrap()["verb"], "search");
    assert_eq!(because("ticket 9").unwrap()["rows"], 0, "it was not there");
    let denied = |r: &Value| r["verb"] == "reveal" && r["decision"] == "not_permitted";
    assert!(
        reads.iter().filter(|r| denied(r)).count() >= 5,
        "{reads:#?}"
    );
    assert!(!format!("{reads:?}").contains("alice"), "{reads:#?}");
}

/// Whoever may see one service's records sees nothing of another's, by whatever question.
#[tokio::test]
async fn a_reader_sees_its_own_rows_by_every_question() {
    let service = Service::ready().await;
    let office = service.office();
    let [shop, bank] = &service.ids;
    for (name, uri) in reads(shop) {
        let of_all = service.get(&office, AUDITOR, &uri).await;
        if uri.contains("export") {
            // Our own reads are among the records, so one more each time.
            assert_eq!(of_all.header("palisade-restricted"), "false");
            let reply = service.get(&office, ORDERS, &uri).await;
            assert_eq!(reply.header("palisade-restricted"), "true");
            assert_eq!(reply.header("palisade-complete"), "false");
            assert_eq!(reply.header("palisade-records"), (2 * EACH).to_string());
            assert!(!reply.text().contains("bank"), "{uri}: {reply:?}");
            assert!(of_all.text().contains("bank"), "{uri}");
            continue;
        }
        let reply = service.get(&office, ORDERS, &uri).await;
        if uri.starts_with("/tile/") {
            assert_eq!(
                reply.body.unwrap(),
                of_all.body.unwrap(),
                "hashes are for all"
            );
            continue;
        }
        assert!(!reply.text().contains("bank"), "{uri}: {reply:?}");
        if uri.contains("service") || uri.contains("class") {
            assert!(of_all.text().contains("bank"), "{uri}: {of_all:?}");
        }
        if !name.is_empty() {
            schema::check(name, &reply.json());
        }
        if ["RowsAnswer", "GroupsAnswer", "StepsAnswer", "Facets"].contains(&name) {
            let answer = reply.json();
            assert_eq!(answer["restricted_to"], "service:shop/*", "{answer}");
            assert_eq!(
                answer["complete"], false,
                "other records may match: {answer}"
            );
            assert!(of_all.json().get("restricted_to").is_none());
        }
    }
    // Counts, and queries that try to get out.
    let count = async |path: &str, q: &str| {
        let uri = format!("/v1/audit/search?q={q}%20%7C%20count");
        service.get(&office, path, &uri).await.json()["total"]
            .as_u64()
            .unwrap()
    };
    let each = EACH as u64;
    assert_eq!(count(AUDITOR, "class:decision").await, 2 * each);
    for q in [
        "class:decision",
        "class:decision%20OR%20-service:nothing%20class:decision",
    ] {
        assert_eq!(count(ORDERS, q).await, each, "{q}");
    }
    for q in [
        "service:bank/*",
        "class:admin",
        "verb:*",
        "-service:*",
        "class:audit_read",
    ] {
        assert_eq!(count(ORDERS, q).await, 0, "{q}");
    }
    // One that it may not see is one that there is not.
    let unknown = "01JD8K2XQ4ABCDEFGH01234567";
    for id in [bank.as_str(), unknown] {
        let uri = format!("/v1/audit/records/{id}");
        let reply = service.ask(&office, Some(ORDERS), "GET", &uri).await;
        reply.is_problem(404, "PLS7913");
        assert_eq!(
            reply.json()["detail"],
            format!("there is no record `{id}` that the caller may see")
        );
    }
    let found = service
        .get(&office, AUDITOR, &format!("/v1/audit/records/{bank}"))
        .await;
    assert_eq!(found.json()["rows"].as_array().unwrap().len(), 2);
    let part = format!("/v1/audit/records/{}", &shop[..10]);
    let reply = service.ask(&office, Some(ORDERS), "GET", &part).await;
    reply.is_problem(400, "PLS7110");
    // A page's cursor brings no rows that the first page would not have had.
    let page = service
        .get(&office, AUDITOR, "/v1/audit/search?q=class:*&limit=2")
        .await
        .json();
    let cursor = page["cursor"].as_str().unwrap();
    let uri = format!("/v1/audit/search?q=class:*&cursor={cursor}");
    let rest = service.get(&office, ORDERS, &uri).await;
    assert!(!rest.text().contains("bank"), "{rest:?}");
    // It is recorded with the time that it asks about, whatever its text says.
    let uri = format!("/v1/audit/search?q=last:1m%20class:credential&cursor={cursor}");
    service.get(&office, AUDITOR, &uri).await;
    let reads = service.rows("class:audit_read verb:search last:1h").await;
    let of_page = |row: &&Value| row["query"].as_str().unwrap().contains("class:credential");
    let [read] = reads.iter().filter(of_page).collect::<Vec<_>>()[..] else {
        panic!("{reads:#?}")
    };
    assert!(
        read["query"].as_str().unwrap().contains("since:2"),
        "{read}"
    );
    let everything = format!("/v1/audit/search?cursor=0.{0}.{0}.{0}", i64::MAX);
    let reply = service
        .ask(&office, Some(AUDITOR), "GET", &everything)
        .await;
    reply.is_problem(400, "PLS7106");
}

/// What cannot be kept to some rows is for whoever sees all of them, and the attempt is on
/// record; hashes tell nothing and are for every reader.
#[tokio::test]
async fn what_is_about_the_whole_log_is_for_whoever_sees_all_of_it() {
    let service = Service::ready().await;
    let office = service.office();
    for (_, uri) in of_the_whole() {
        service.get(&office, AUDITOR, uri).await;
        let reply = service.ask(&office, Some(ORDERS), "GET", uri).await;
        reply.is_problem(403, "PLS7914");
        assert!(!reply.text().contains("bank"), "{reply:?}");
        let reply = service.ask(&office, Some(BANK), "GET", uri).await;
        reply.is_problem(403, "PLS7906");
    }
    // Not of the same reader: so many are recorded one by one.
    let begun = service
        .ask(&office, Some(WEB), "POST", "/v1/audit/verify")
        .await;
    begun.is_problem(403, "PLS7914");
    let [_, bank] = &service.ids;
    let at = format!("/v1/audit/records/{bank}/proof");
    let reply = service.ask(&office, Some(ORDERS), "GET", &at).await;
    reply.is_problem(404, "PLS7913");
    let rows = service.rows("class:audit_read decision:deny last:1h").await;
    let refused = |path: &str, verb: &str| {
        let of =
            |r: &&Value| r["verb"] == verb && r["actor"] == format!("spiffe://acme.test/{path}");
        rows.iter().filter(of).count()
    };
    for (path, verb, times) in [
        (ORDERS, "alerts", 1),
        (ORDERS, "holds", 1),
        (ORDERS, "reports", 6),
        (ORDERS, "verify", 1),
        (WEB, "verify", 1),
        (ORDERS, "tiles", 1),
    ] {
        assert_eq!(refused(path, verb), times, "{path} {verb}: {rows:#?}");
    }
    let report = rows.iter().find(|r| r["verb"] == "reports").unwrap();
    assert_eq!(report["query"], "denials of last:30d");
}

/// Who reads everything and reveals some rows alone gets a report of a person from nobody:
/// it would count the others' rows, too.
#[tokio::test]
async fn a_report_of_a_person_is_kept_to_what_may_be_revealed() {
    let service = Service::ready().await;
    let office = service.office();
    let of = |name: &str| {
        format!("/v1/audit/reports/{name}?scope=subject:alice@bank.test&reason=case%201")
    };
    for name in ["access", "denials"] {
        let reply = service.ask(&office, Some(CLERK), "GET", &of(name)).await;
        reply.is_problem(403, "PLS7914");
        assert!(reply.text().contains("service:shop/*"), "{reply:?}");
    }
    service.get(&office, AUDITOR, &of("access")).await;
    let whole = "/v1/audit/reports/access?scope=service:shop/*";
    let office = service.office();
    service.get(&office, CLERK, whole).await;
    let rows = service.rows("class:audit_read verb:reports decision:deny last:1h");
    let rows = rows.await;
    assert_eq!(rows.len(), 2, "{rows:#?}");
    assert!(!format!("{rows:?}").contains("alice"), "{rows:#?}");
}

/// `audit:read` lets nobody past a policy that was written against exports, and shows no
/// cases.
#[tokio::test]
async fn records_as_they_are_hashed_are_an_export() {
    let service = Service::ready().await;
    let office = service.office();
    let entries = "/tile/entries/000.p/3";
    let reply = service.ask(&office, Some(CLERK), "GET", entries).await;
    reply.is_problem(403, "PLS7906");
    assert!(reply.text().contains("clerks-export-nothing"), "{reply:?}");
    service.get(&office, CLERK, "/tile/0/000.p/3").await;
    let holds = "/v1/audit/holds";
    let reply = service.ask(&office, Some(CLERK), "GET", holds).await;
    reply.is_problem(403, "PLS7906");
    service.get(&office, AUDITOR, entries).await;
}

/// A report takes no turn of those who ask, and measuring waits for nobody; one report is
/// made at a time.
#[tokio::test]
async fn reports_and_questions_do_not_wait_for_each_other() {
    let service = Service::ready().await;
    let office = service.office_within(Bounds {
        answer: Duration::from_millis(500),
        ..Bounds::of(&service.section)
    });
    let turns = office.0.turns.available_permits();
    let turns = u32::try_from(turns).unwrap();
    let taken = office.0.turns.clone().acquire_many_owned(turns).await;
    let taken = taken.unwrap();
    let search = "/v1/audit/search?q=last:1h";
    let late = service.ask(&office, Some(READER), "GET", search).await;
    late.is_problem(503, "PLS7911");
    service.get(&office, AUDITOR, "/metrics").await;
    let report = "/v1/audit/reports/denials?period=last:1h";
    service.get(&office, AUDITOR, report).await;
    drop(taken);
    // As a schedule does that makes one.
    let turn = service.role.reporting.clone().acquire_owned().await;
    let reply = service.ask(&office, Some(AUDITOR), "GET", report).await;
    reply.is_problem(429, "PLS7910");
    drop(turn);
    service.get(&service.office(), AUDITOR, report).await;
}

/// A question that takes too long, or whose reader has gone, ends and gives its turn back; so does
/// a report.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_ends_and_gives_its_turn_back() {
    let service = Service::ready().await;
    let asking = |role: AuditRole| async move {
        let query = palisade_audit::query::Query::parse("class:*").unwrap();
        let ask = move || loop {
            role.store.search(&query, 1000, None)?;
        };
        Ok(super::super::blocking::<()>(ask).await?)
    };
    let reporting = |role: AuditRole| async move {
        let asked = super::super::RunReport {
            name: "integrity".into(),
            period: "last:1h".into(),
            scope: String::new(),
            to: String::new(),
        };
        let ask = move || loop {
            role.desk(&role.dir.join("log")).run(&asked)?;
        };
        Ok(super::super::blocking::<()>(ask).await?)
    };
    let short = Duration::from_millis(300);
    let office = service.office_within(Bounds {
        answer: short,
        export: short,
        ..Bounds::of(&service.section)
    });
    let all = async |turns: &Arc<Semaphore>, many: usize| {
        let many = u32::try_from(many).unwrap();
        let all = tokio::time::timeout(Duration::from_secs(60), turns.acquire_many(many));
        drop(all.await.unwrap().unwrap());
    };
    assert_eq!(office.timed(asking).await.unwrap_err().told.code.0, 7911);
    all(&office.0.turns, TURNS).await;
    assert_eq!(
        office.reporting(reporting).await.unwrap_err().told.code.0,
        7911
    );
    all(&service.role.reporting, 1).await;
    let office = service.office();
    let asked = tokio::spawn({
        let office = office.clone();
        async move { office.timed(asking).await }
    });
    while office.0.turns.available_permits() == TURNS {
        tokio::task::yield_now().await;
    }
    asked.abort();
    all(&office.0.turns, TURNS).await;
}

/// Whoever asks and does not wait for the answer has asked, and was given nothing.
#[tokio::test]
async fn a_question_that_was_given_up_is_a_read() {
    let service = Service::ready().await;
    let going = palisade_audit::going::Going::default();
    going.end();
    let asked = super::super::Search {
        query: "class:admin".into(),
        limit: None,
        cursor: None,
    };
    let id = service.config.trust_domain.id(READER).unwrap();
    let everything = palisade_audit::query::RowFilter::everything();
    let reader = Reader::permitted(&id, everything, Vec::new(), "r-1");
    let given_up = service.role.heeding(&going).search(reader, asked).await;
    assert_eq!(Diagnostic::from(given_up.unwrap_err()).code.0, 7911);
    let reads = service.rows("class:audit_read verb:search last:1h").await;
    let [read] = reads.as_slice() else {
        panic!("{reads:#?}")
    };
    assert_eq!(
        (&read["rows"], &read["request"]),
        (&0.into(), &"r-1".into())
    );
}

/// Whoever may read nothing does not fill the log by asking: what is beyond the first few reads of
/// a minute is counted, and the count recorded.
#[tokio::test]
async fn of_many_refused_reads_some_are_recorded_and_the_others_counted() {
    let service = Service::ready().await;
    let each = super::super::refused::EACH_MAX;
    for _ in 0..each + 3 {
        // Each by an office of its own: no limit of requests is met.
        let office = service.office();
        let reply = service
            .ask(&office, Some(BANK), "GET", "/v1/audit/search")
            .await;
        reply.is_problem(403, "PLS7906");
    }
    let office = service.office();
    let other = service.ask(&office, Some("ns/bank/sa/clerk"), "GET", "/v1/audit/search");
    other.await.is_problem(403, "PLS7906");
    let refused = "class:audit_read decision:deny last:1h";
    let rows = service.rows(refused).await;
    let of = |path: &str| {
        let id = format!("spiffe://acme.test/{path}");
        rows.iter().filter(|r| r["actor"] == id).count() as u64
    };
    assert_eq!((of(BANK), of("ns/bank/sa/clerk")), (each, 1), "{rows:#?}");
    service.role.reads.close();
    let patience = std::time::Instant::now();
    let counted = loop {
        let rows = service.rows("class:audit_read verb:refused last:1h").await;
        match rows.as_slice() {
            [counted] => break counted.clone(),
            rows => assert!(rows.is_empty(), "{rows:#?}"),
        }
        assert!(patience.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(counted["actor"], format!("spiffe://acme.test/{BANK}"));
    assert_eq!(counted["more"], 3);
    assert_eq!(counted["decision"], "not_permitted");
}

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
    let kept = super::super::saved::Saved::open(file, &mut Vec::new());
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

/// What the routes of the tile log give is enough to prove a record to whoever has nothing
/// else but the log's key.
#[tokio::test]
async fn tiles_checkpoint_and_entries_prove_each_other() {
    use palisade_audit::merkle;
    let service = Service::ready().await;
    let office = service.office();
    let note = service.get(&office, AUDITOR, "/checkpoint").await;
    let key = service.role.log.verifier();
    let signed = palisade_audit::checkpoint::Checkpoint::open(key, note.text()).unwrap();
    let size = usize::try_from(signed.size).unwrap();
    assert!((1..256).contains(&size), "one tile: {size}");
    let of = |kind: &str| format!("/tile/{kind}/000.p/{size}");
    let hashes = service.get(&office, AUDITOR, &of("0")).await.body.unwrap();
    let (hashes, rest) = hashes.as_chunks::<32>();
    assert!(rest.is_empty());
    assert_eq!(palisade_mesh::merkle::root(hashes), signed.root);
    let entries = service
        .get(&office, AUDITOR, &of("entries"))
        .await
        .body
        .unwrap();
    let mut left = &entries[..];
    for hash in hashes {
        let (len, rest) = left.split_at(2);
        let (leaf, rest) = rest.split_at(usize::from(u16::from_be_bytes([len[0], len[1]])));
        assert_eq!(merkle::leaf(leaf), *hash);
        left = rest;
    }
    assert!(left.is_empty());
    let beyond = service.role.log.len() + 50;
    for none in [
        "/tile/1/000",
        "/tile/0/001",
        "/tile/entries/001",
        &format!("/tile/0/000.p/{beyond}"),
    ] {
        let reply = service.ask(&office, Some(AUDITOR), "GET", none).await;
        reply.is_problem(404, "PLS7915");
    }
    for none in ["/tile/0/0", "/tile/0/000.p/0", "/tile/entries/000.p/0"] {
        let reply = service.ask(&office, Some(READER), "GET", none).await;
        reply.is_problem(400, "PLS7908");
    }
    // A proof stands for itself.
    let at = format!("/v1/audit/records/{}/proof", service.ids[0]);
    let proven = service.get(&office, ORDERS, &at).await.json();
    let proof = palisade_audit::proof::Proof::parse(proven["proof"].as_str().unwrap()).unwrap();
    use base64::Engine as _;
    let record = proven["record"].as_str().unwrap();
    let mut record = base64::engine::general_purpose::STANDARD
        .decode(record)
        .unwrap();
    proof.verify(&record, key).unwrap();
    record[20] ^= 1;
    proof.verify(&record, key).unwrap_err();
}

/// One job for all; whoever looks later finds what it came to.
#[tokio::test]
async fn a_verification_is_a_job_that_all_see() {
    let service = Service::ready().await;
    let office = service.office();
    let at = "/v1/audit/verify";
    let never = service.get(&office, AUDITOR, at).await.json();
    assert_eq!(never["state"], "never", "{never}");
    let begun = service.ask(&office, Some(AUDITOR), "POST", at).await.json();
    schema::check("Verification", &begun);
    assert_eq!(
        begun["by"],
        format!("spiffe://acme.test/{AUDITOR}"),
        "{begun}"
    );
    let done = service.verified().await;
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["intact"], true, "{done}");
    assert!(
        done["report"]["records"].as_u64().unwrap() > 2 * EACH as u64,
        "{done}"
    );
    let rows = service.rows("class:audit_read verb:verify last:1h").await;
    assert!(rows.len() >= 3, "{rows:#?}");
    // What it came to is a record, and stays: the next has to wait.
    let rows = service.rows("class:admin verb:log_verified last:1h").await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(rows[0]["object"], "intact", "{rows:#?}");
    let office = service.office();
    let again = service.ask(&office, Some(READER), "POST", at).await;
    again.is_problem(429, "PLS7910");
    let still = service.get(&office, READER, at).await.json();
    assert_eq!(still, done);
}

/// A log of some finished segments.
async fn finished(dir: &std::path::Path) {
    use palisade_audit::log::{Log, LogOptions};
    let domain = palisade_mesh::spiffe_id::TrustDomain::parse("acme.test").unwrap();
    let options = LogOptions {
        segment_bytes: 1000,
        group_wait: Duration::ZERO,
        checkpoint_every: Duration::from_millis(20),
        ..LogOptions::new(domain.clone())
    };
    let clock = Clock::system();
    let log = Log::open(dir, options, clock.clone()).unwrap();
    let reporter = domain.id(ORDERS).unwrap();
    let mut stream = LocalSink::new(log.clone(), reporter, clock.clone()).open(7);
    let mut ids = DecisionIds::new();
    for n in 0..30 {
        let record = Record {
            id: ids.next(clock.now_us()).to_bytes().to_vec(),
            time_us: clock.now_us(),
            body: Some(decision("acme.test/shop/orders", n)),
            ..Record::default()
        };
        stream.append(&record).unwrap();
        stream.flush();
        stream.durable().await.unwrap();
    }
    drop(stream);
    log.close();
}

/// What lies in an archive that is away is not told as missing, nor the log as damaged.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_away_is_told_as_that() {
    use palisade_audit::archive::{After, Run};
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    std::fs::create_dir(&store).unwrap();
    finished(&dir.path().join("audit/log")).await;
    let archive = format!("  archive: {{ url: 'file://{}' }}\n", store.display());
    let service = Service::on(dir, &archive).await;
    let log = service.role.log.clone();
    let run = move || {
        let (log, now) = (&log, Clock::system().now());
        let go_on = &mut |_| std::ops::ControlFlow::Continue(());
        let behind = None;
        Run { log, now, behind }.go(&After::parse("0 days").unwrap(), go_on)
    };
    let moved = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    assert!(moved.segments > 0, "{moved:?}");
    let office = service.office();
    let entries = "/tile/entries/000.p/1";
    let there = service.get(&office, AUDITOR, entries).await;
    assert!(there.body.unwrap().len() > 2);
    std::fs::remove_dir_all(service._dir.path().join("audit/log/fetched")).unwrap();
    std::fs::rename(&store, store.with_extension("away")).unwrap();
    // It is held open until another takes its place: one that was not read yet.
    let size = service.role.log.checkpoint().size;
    let entries = format!("/tile/entries/000.p/{}", size.min(200));
    let reply = service.ask(&office, Some(AUDITOR), "GET", &entries).await;
    reply.is_problem(503, "PLS7581");
    let at = "/v1/audit/verify";
    let begun = service.ask(&office, Some(AUDITOR), "POST", at).await;
    assert_eq!(begun.status, 200, "{begun:?}");
    let done = service.verified().await;
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["intact"], Value::Null, "{done}");
    assert!(done["report"]["unread"].as_u64().unwrap() > 0, "{done}");
    let rows = service.rows("class:admin verb:log_verified last:1h").await;
    assert_eq!(rows[0]["object"], "unread", "{rows:#?}");
    let office = service.office();
    let metrics = service.get(&office, AUDITOR, "/metrics").await;
    let text = metrics.text();
    assert!(text.contains("\npalisade_archive_failing 1\n"), "{text}");
    assert!(!text.contains("palisade_log_verified_intact"), "{text}");
}

/// A log that agrees with itself under another key than the service's is not this log.
#[tokio::test]
async fn a_verification_trusts_the_key_of_the_service() {
    let (service, other) = (Service::ready().await, Service::ready().await);
    let of = |service: &Service| service._dir.path().join("audit/log");
    let (here, forged) = (of(&service), of(&other));
    std::fs::rename(&here, here.with_extension("true")).unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args([&forged, &here])
        .status()
        .unwrap();
    assert!(copied.success());
    let office = service.office();
    let at = "/v1/audit/verify";
    let begun = service.ask(&office, Some(AUDITOR), "POST", at).await;
    assert_eq!(begun.status, 200, "{begun:?}");
    let done = service.verified().await;
    assert_eq!(done["intact"], false, "{done}");
    assert_eq!(done["report"]["key_given"], true, "{done}");
    let key = service.role.log.verifier().to_string();
    assert_eq!(done["report"]["key"], key, "{done}");
    let metrics = service.get(&office, AUDITOR, "/metrics").await;
    let damaged = "\npalisade_log_verified_intact 0\n";
    assert!(metrics.text().contains(damaged), "{metrics:?}");
}

/// Who asked what, how much was given, by which policy; and who was not let.
#[tokio::test]
async fn every_read_leaves_a_record() {
    let service = Service::ready().await;
    let office = service.office();
    for (_, uri) in reads(&service.ids[0]) {
        service.get(&office, ORDERS, &uri).await;
    }
    let denied = "/v1/audit/search?q=decision:deny";
    let reply = service.ask(&office, Some(BANK), "GET", denied).await;
    reply.is_problem(403, "PLS7906");
    let reply = service
        .ask(&office, Some(WEB), "GET", "/v1/audit/export")
        .await;
    reply.is_problem(403, "PLS7906");
    assert_eq!(
        reply.json()["cause"],
        "forbidden by nobody-exports-the-shop"
    );
    let rows = service.rows("class:audit_read last:1h").await;
    let of = |verb: &str, actor: &str| -> Vec<&Value> {
        let actor = format!("spiffe://acme.test/{actor}");
        let all = rows
            .iter()
            .filter(|r| r["verb"] == verb && r["actor"] == *actor);
        all.collect()
    };
    for (verb, times) in [
        ("search", 3),
        ("facets", 1),
        ("timeline", 1),
        ("gaps", 1),
        // Where tile logs have it, too.
        ("checkpoint", 2),
        ("show", 1),
        ("proof", 1),
        ("saved", 1),
        ("reports", 1),
        ("tiles", 1),
        // Begun and ended, in two formats.
        ("export", 4),
    ] {
        let found = of(verb, ORDERS);
        assert_eq!(found.len(), times, "{verb}: {rows:#?}");
        for row in found {
            assert_eq!(row["decision"], "allow");
            assert_eq!(row["policy"][0], "shop-sees-its-own");
            assert_eq!(row["kept_to"], "service:shop/*");
            assert_eq!(row["request"].as_str().unwrap().len(), 26);
        }
    }
    let exports = of("export", ORDERS);
    let (begun, ended): (Vec<&Value>, Vec<&Value>) =
        exports.into_iter().partition(|row| row["begun"] == true);
    assert_eq!(begun.len(), 2);
    assert!(ended.iter().all(|row| row["rows"] == 2 * EACH), "{ended:?}");
    let bound = |row: &&Value| row["query"].as_str().unwrap().contains(" since:2");
    assert!(ended.iter().all(bound), "{ended:?}");
    let [show] = of("show", ORDERS)[..] else {
        panic!()
    };
    assert_eq!(show["query"], format!("id:{}", service.ids[0]));
    assert_eq!(show["rows"], 2);
    let [refused] = of("search", BANK)[..] else {
        panic!()
    };
    assert_eq!(refused["decision"], "not_permitted");
    assert_eq!(refused["query"], "decision:deny");
    assert_eq!(refused["rows"], 0);
    let [forbidden] = of("export", WEB)[..] else {
        panic!()
    };
    assert_eq!(forbidden["decision"], "forbidden");
    assert_eq!(forbidden["policy"][0], "nobody-exports-the-shop");
    // A log that takes no records gives none.
    service.role.reads.close();
    let reply = service.ask(&office, Some(ORDERS), "GET", denied).await;
    reply.is_problem(503, "PLS7901");
}

/// Each limit lets the last pass that it allows, and stops the next.
#[tokio::test]
async fn limits_hold_on_both_sides() {
    let service = Service::ready().await;
    let office = service.office();
    for (uri, last, most) in [
        ("search?limit=", 10_000, 10_000),
        ("facets?top=", 1000, 1000),
        ("timeline?top=", 1000, 1000),
    ] {
        let at = |n: usize| format!("/v1/audit/{uri}{n}");
        service.get(&office, AUDITOR, &at(last)).await;
        for beyond in [0, most + 1] {
            let reply = service
                .ask(&office, Some(AUDITOR), "GET", &at(beyond))
                .await;
            reply.is_problem(400, "PLS7909");
        }
    }
    // Records of an export.
    let q = "/v1/audit/export?q=class:decision";
    for (export_rows, fits) in [(2 * EACH as u64, true), (2 * EACH as u64 - 1, false)] {
        let office = service.office_within(Bounds {
            export_rows,
            ..Bounds::of(&service.section)
        });
        let reply = service.ask(&office, Some(AUDITOR), "GET", q).await;
        match fits {
            true => assert_eq!(reply.text().lines().count(), 2 * EACH),
            false => reply.is_problem(422, "PLS7912"),
        }
    }
    // Requests in flight of one caller, two; and of another.
    let caller = service.caller(&office, ORDERS);
    let first = office.enter(&caller).unwrap();
    let _second = office.enter(&caller).unwrap();
    let told = office.enter(&caller).unwrap_err();
    assert_eq!((told.status.as_u16(), told.told.code.0), (429, 7910));
    assert!(office.enter(&service.caller(&office, WEB)).is_ok());
    drop(first);
    // Requests of a second, four; what is left comes back with time.
    let caller = service.caller(&office, BANK);
    for _ in 0..4 {
        assert!(office.enter(&caller).is_ok());
    }
    let told = (0..1000).find_map(|_| office.enter(&caller).err()).unwrap();
    assert_eq!((told.status.as_u16(), told.told.code.0), (429, 7910));
    assert!(told.told.message.contains("a second"), "{told:?}");
    // Tails, one.
    let place = office.tail_place().unwrap();
    let reply = service
        .ask(&office, Some(AUDITOR), "GET", "/v1/audit/tail")
        .await;
    reply.is_problem(429, "PLS7910");
    assert_eq!(reply.header("retry-after"), "1");
    drop(place);
    assert!(office.tail_place().is_ok());
}

/// What a Parquet file has before its footer, and the footer.
fn halves(file: &[u8]) -> (&[u8], &[u8]) {
    let (rest, magic) = file.split_last_chunk::<4>().unwrap();
    assert_eq!(magic, b"PAR1");
    let (rest, len) = rest.split_last_chunk::<4>().unwrap();
    let len = usize::try_from(u32::from_le_bytes(*len)).unwrap();
    rest.split_at(rest.len() - len)
}

/// The columns are those of the rows that a search gives, and the file says what was asked.
#[tokio::test]
async fn an_export_as_parquet_has_the_rows_of_a_search() {
    let service = Service::ready().await;
    let office = service.office();
    let at = "/v1/audit/export?q=class:decision&format=parquet";
    let reply = service.get(&office, AUDITOR, at).await;
    assert_eq!(
        reply.header("content-type"),
        "application/vnd.apache.parquet"
    );
    let (columns, footer) = halves(reply.body.as_ref().unwrap());
    let mut made = ParquetFile::new(Vec::new()).unwrap();
    for row in service.rows("class:decision").await {
        made.row(row.as_object().unwrap()).unwrap();
    }
    let made = made.finish(&[]).unwrap();
    assert_eq!(columns, halves(&made).0);
    let footer = String::from_utf8_lossy(footer);
    for fact in ["palisade.query", "class:decision", "palisade.complete"] {
        assert!(footer.contains(fact), "{fact}: {footer}");
    }
}

/// Answers, tails and exports end in time; an export that does is cut, not ended.
#[tokio::test]
async fn what_takes_too_long_ends() {
    let service = Service::ready().await;
    let bounds = Bounds::of(&service.section);
    let none = Duration::ZERO;
    let office = service.office_within(Bounds {
        answer: none,
        ..bounds
    });
    // Others are being answered, and nobody's turn comes.
    let all = u32::try_from(TURNS).unwrap();
    let _busy = office.0.turns.acquire_many(all).await.unwrap();
    let reply = service
        .ask(&office, Some(AUDITOR), "GET", "/v1/audit/search")
        .await;
    reply.is_problem(503, "PLS7911");
    let office = service.office_within(Bounds {
        tail: none,
        ..bounds
    });
    let reply = service.get(&office, AUDITOR, "/v1/audit/tail").await;
    let last: Value = serde_json::from_str(reply.text().trim_end()).unwrap();
    assert_eq!(last["ended"], "its time is over: ask again");
    schema::check("TailLine", &last);
    let office = service.office_within(Bounds {
        export: none,
        ..bounds
    });
    let reply = service.get(&office, AUDITOR, "/v1/audit/export").await;
    assert!(reply.body.is_err(), "{reply:?}");
}

/// A proof that ends, ends a tail, too; and whoever is barred does not come in.
#[tokio::test]
async fn who_is_no_longer_proven_or_barred_gets_nothing_more() {
    let service = Service::ready().await;
    let office = service.office();
    let good = Arc::new(AtomicBool::new(true));
    let is_good = good.clone();
    let caller = service.caller_while(&office, AUDITOR, move || is_good.load(Ordering::Relaxed));
    let tailing = service.ask_by(&office, Some(caller.clone()), "GET", "/v1/audit/tail");
    good.store(false, Ordering::Relaxed);
    let reply = tailing.await;
    assert!(reply.text().contains("no longer proven"), "{reply:?}");
    let told = office.enter(&caller).unwrap_err();
    assert_eq!((told.status.as_u16(), told.told.code.0), (401, 7904));
    good.store(true, Ordering::Relaxed);
    assert!(office.enter(&caller).is_ok());
    let entry = Entry {
        id: ulid::Ulid::generate(),
        target: Target::Identity(caller.id.clone()),
        reason: "lost".into(),
        author: "ana".into(),
        created_us: 0,
        expires_us: None,
    };
    service
        .kill
        .send_replace(held(&service.config, vec![entry]));
    let told = office.enter(&caller).unwrap_err();
    assert_eq!((told.status.as_u16(), told.told.code.0), (403, 7905));
    assert!(office.enter(&service.caller(&office, ORDERS)).is_ok());
}

/// A tail gives what arrives, kept to what its reader may see.
#[tokio::test]
async fn a_tail_shows_what_arrives_and_its_reader_may_see() {
    let service = Service::ready().await;
    let office = service.office_within(Bounds {
        tail: Duration::from_secs(2),
        ..Bounds::of(&service.section)
    });
    let caller = service.caller(&office, ORDERS);
    let visit = Visit {
        caller: Some(caller),
        request: RequestId::of(&HeaderMap::new()),
    };
    let mut request = AxumRequest::builder()
        .uri("/v1/audit/tail")
        .body(Body::empty())
        .unwrap();
    request.extensions_mut().insert(visit);
    let answer = router(&office).oneshot(request).await.unwrap();
    // It follows from before its head was sent.
    let reporter = service.config.trust_domain.id(ORDERS).unwrap();
    let sink = LocalSink::new(service.role.log.clone(), reporter, Clock::system());
    let mut stream = sink.open(0);
    for name in ["acme.test/bank/accounts", "acme.test/shop/orders"] {
        let record = Record {
            time_us: Clock::system().now_us(),
            body: Some(decision(name, 1)),
            ..Record::default()
        };
        stream.append(&record).unwrap();
    }
    stream.flush();
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let lines: Vec<Value> = String::from_utf8(body.to_vec())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    lines
        .iter()
        .for_each(|line| schema::check("TailLine", line));
    let services: Vec<&str> = lines.iter().filter_map(|l| l["service"].as_str()).collect();
    assert_eq!(services, ["acme.test/shop/orders"], "{lines:?}");
    let rows = service.rows("class:audit_read verb:tail").await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[0]["rows"], 1);
    assert_eq!(rows[1]["begun"], true);
}
