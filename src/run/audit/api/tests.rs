//! What the audit API answers to whom, and what is left of each question.

use axum::body::to_bytes;
use bytes::Bytes;
use palisade_audit::local::LocalSink;
use palisade_mesh::{
    clock::Clock,
    decision::DecisionIds,
    kill::{Entry, KillList},
    sink::RecordSink,
    wire::record::{
        Admin, AuditMode, Decision, Outcome, Peer as WirePeer, Record, Verdict,
        record::Body as What,
    },
};
use palisade_pdp::readers::Readers;
use serde_json::Value;
use tower::ServiceExt;

use super::*;

mod document;
mod exports;
mod limits;
mod persons;
mod reads;
mod rows;
mod saved;
mod schema;
mod tail;
mod tiles;
mod verification;

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
