//! A small shop to ask the engine about: inline policies, a real schema.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use cedar_policy::{Effect, Entities, PolicyId, PolicySet, Schema};
use http::{HeaderMap, HeaderName, HeaderValue};
use palisade_mesh::{
    canonical::{CanonicalRequest, Method},
    catalogue::{Catalogue, DeclaredHeader, HeaderShape, Protocol, Service, ServiceId, Unmatched},
    decision::{Connection, Question, TlsFacts},
    operation::{Operation, OperationTable, Template},
    personal::Mask,
    snapshot::Digest,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::Peer,
    wire::record::AuditMode,
};
use serde_json::{Value, json};
use smol_str::SmolStr;

use super::Snapshot;
use crate::compiled::{Compiled, Coverage, PolicyInfo};

pub(crate) const SCHEMA: &str = r#"
entity TrustDomain;
entity Namespace in [TrustDomain];
entity Group in [Group];
entity Service in [Namespace, Group] { tier?: String } tags String;
entity Operation in [Service];
entity Workload in [Service, Namespace, TrustDomain, Group] {
  trustDomain: TrustDomain, namespace?: Namespace, service?: Service,
} tags String;
entity Unregistered in [TrustDomain] { trustDomain: TrustDomain };
entity User in [Group] { issuer: String, subject: String, email?: String };

type Source = { ip: ipaddr, port: Long };
type Tls = { version: String, mtls: Bool, sni?: String, alpn?: String };
type Clock = { now: datetime, hour: Long, weekday: Long };
type Http = {
  method: String, host: String, path: String, query?: String,
  headers: { "x-change-id"?: String, "x-roles"?: Set<String> },
};
type HttpCtx = { source: Source, tls: Tls, time: Clock, http: Http, user?: User };
type GrpcCtx = {
  source: Source, tls: Tls, time: Clock, grpc: { service: String, method: String }, user?: User,
};

action "call";
action "http" in ["call"];
action "http:read" in ["http"];
action "http:write" in ["http"];
action GET, HEAD, OPTIONS in ["http:read"]
  appliesTo { principal: [Workload, Unregistered], resource: [Operation, Service], context: HttpCtx };
action POST, PUT, PATCH, DELETE in ["http:write"]
  appliesTo { principal: [Workload, Unregistered], resource: [Operation, Service], context: HttpCtx };
action "orders:refund" in ["http:write"]
  appliesTo { principal: [Workload, Unregistered], resource: [Operation, Service], context: HttpCtx };
action "grpc:call" in ["call"]
  appliesTo { principal: [Workload, Unregistered], resource: [Operation, Service], context: GrpcCtx };
"#;

/// 2026-11-20T15:30:00Z, a Friday.
pub(crate) const NOW_US: i64 = 1_795_188_600_000_000;

pub(crate) const WEB: &str = "spiffe://acme.test/ns/shop/sa/web";
pub(crate) const ORDERS: &str = "spiffe://acme.test/ns/shop/sa/orders";
pub(crate) const BATCH: &str = "spiffe://acme.test/ns/jobs/sa/batch";
pub(crate) const STRANGER: &str = "spiffe://acme.test/ns/shop/sa/stranger";
pub(crate) const FOREIGNER: &str = "spiffe://evil.test/ns/shop/sa/web";

/// The shop with these policies; each has an `@id`.
pub(crate) fn compiled(policies: &str) -> Compiled {
    let store = entities(&catalogue());
    compiled_in(SCHEMA, store, policies)
}

/// The same with another schema and other entities.
pub(crate) fn compiled_in(schema: &str, store: Value, policies: &str) -> Compiled {
    let schema = Schema::from_cedarschema_str(schema)
        .unwrap_or_else(|e| panic!("{e:?}\n{schema}"))
        .0;
    let catalogue = Arc::new(catalogue());
    let entities = Entities::from_json_value(store, Some(&schema));
    let (policies, info) = parse(policies);
    let bundle = Bytes::from(policies.to_string());
    Compiled {
        trust_domain: catalogue.trust_domain().clone(),
        git_revision: String::new(),
        schema,
        policies,
        entities: entities.expect("entities"),
        catalogue,
        info,
        invariants: BTreeMap::new(),
        digest: Digest::of(&bundle),
        bundle,
        coverage: Coverage::Whole,
        absent: Vec::new(),
    }
}

/// The same as a snapshot, number 7.
pub(crate) fn snapshot(policies: &str) -> Arc<Snapshot> {
    Snapshot::new(compiled(policies), 7).expect("snapshot")
}

fn parse(text: &str) -> (PolicySet, BTreeMap<SmolStr, PolicyInfo>) {
    let parsed: PolicySet = text.parse().unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    let (mut set, mut info) = (PolicySet::new(), BTreeMap::new());
    for policy in parsed.policies() {
        let said = |key| policy.annotation(key).map(SmolStr::new);
        let id = said("id").expect("@id");
        let own = policy.to_cedar().expect("static");
        let before = text.split(&own).next().unwrap_or_default();
        let first_line = before.matches('\n').count() + 1;
        let expires = said("expires").map(|at| at.parse::<jiff::Timestamp>().expect("@expires"));
        let known = PolicyInfo {
            id: id.clone(),
            permit: policy.effect() == Effect::Permit,
            file: "policies/shop.cedar".into(),
            first_line,
            last_line: first_line + own.matches('\n').count(),
            text: own.into(),
            owner: said("owner"),
            deny_message: said("deny_message"),
            help_url: said("help_url"),
            expires_us: expires.map(jiff::Timestamp::as_microsecond),
            shadow: said("mode").as_deref() == Some("shadow"),
            commit: None,
            author: None,
        };
        set.add(policy.new_id(PolicyId::new(id.as_str())))
            .expect("unique @id");
        info.insert(id, known);
    }
    (set, info)
}

fn service(namespace: &str, name: &str, protocol: Protocol, operations: Vec<Operation>) -> Service {
    let domain = TrustDomain::parse("acme.test").unwrap();
    Service {
        id: ServiceId::new(&domain, namespace, name),
        namespace: namespace.into(),
        name: name.into(),
        identities: vec![domain.id(&format!("ns/{namespace}/sa/{name}")).unwrap()],
        hosts: vec![name.into()],
        protocol,
        operations: OperationTable::new(operations).unwrap(),
        unmatched: Unmatched::NotFound,
        audit: AuditMode::Spool,
        mask: Mask::NONE,
        endpoints: Vec::new(),
        request_timeout: Duration::from_secs(15),
    }
}

fn operation(id: &str, method: Method, template: &str, action: Option<&str>) -> Operation {
    Operation {
        id: format!("acme.test/shop/{id}").into(),
        name: id.split('/').next_back().unwrap_or_default().into(),
        methods: vec![method],
        hosts: Vec::new(),
        template: Template::parse(template).unwrap(),
        action: action.map(Into::into),
        audit: None,
        mask: Mask::NONE,
    }
}

pub(crate) fn catalogue() -> Catalogue {
    let orders = vec![
        operation("orders/list", Method::Get, "/orders", None),
        operation("orders/create", Method::Post, "/orders", None),
        operation("orders/read", Method::Get, "/orders/{id}", None),
        operation(
            "orders/refund",
            Method::Post,
            "/orders/{id}/refund",
            Some("orders:refund"),
        ),
    ];
    let stock = vec![operation(
        "inventory/reserve",
        Method::Post,
        "/shop.v1.Stock/Reserve",
        None,
    )];
    Catalogue::new(
        TrustDomain::parse("acme.test").unwrap(),
        vec![
            service("shop", "web", Protocol::Http, Vec::new()),
            service("shop", "orders", Protocol::Http, orders),
            service("shop", "inventory", Protocol::Grpc, stock),
            service("jobs", "batch", Protocol::Http, Vec::new()),
        ],
        vec![
            DeclaredHeader {
                name: "x-change-id".into(),
                shape: HeaderShape::Single,
            },
            DeclaredHeader {
                name: "x-roles".into(),
                shape: HeaderShape::List,
            },
        ],
    )
}

pub(crate) fn entities(catalogue: &Catalogue) -> Value {
    let entity = |kind: &str, id: &str, attrs: Value, parents: Value| json!({"uid": {"type": kind, "id": id}, "attrs": attrs, "parents": parents});
    let name = |kind: &str, id: &str| json!({"type": kind, "id": id});
    let reference = |kind: &str, id: &str| json!({"__entity": {"type": kind, "id": id}});
    let none = || json!({});
    let mut all = vec![
        entity("TrustDomain", "acme.test", none(), json!([])),
        entity("Group", "staff", none(), json!([])),
        entity("Group", "ops", none(), json!([name("Group", "staff")])),
        entity("Group", "quarantine", none(), json!([])),
    ];
    for namespace in ["shop", "jobs"] {
        let id = format!("acme.test/{namespace}");
        let above = json!([name("TrustDomain", "acme.test")]);
        all.push(entity("Namespace", &id, none(), above));
    }
    for service in catalogue.services() {
        let id = service.id.as_str();
        let namespace = format!("acme.test/{}", service.namespace);
        let tier = match service.name.as_str() {
            "orders" => json!({"tier": "gold"}),
            _ => none(),
        };
        all.push(entity(
            "Service",
            id,
            tier,
            json!([name("Namespace", &namespace)]),
        ));
        for operation in service.operations.iter() {
            all.push(entity(
                "Operation",
                &operation.id,
                none(),
                json!([name("Service", id)]),
            ));
        }
        for identity in &service.identities {
            let mut parents = vec![
                name("Service", id),
                name("Namespace", &namespace),
                name("TrustDomain", "acme.test"),
            ];
            if service.name == "batch" {
                parents.push(name("Group", "ops"));
            }
            let attrs = json!({
                "trustDomain": reference("TrustDomain", "acme.test"),
                "namespace": reference("Namespace", &namespace),
                "service": reference("Service", id),
            });
            let mut workload = entity("Workload", identity.as_str(), attrs, parents.into());
            workload["tags"] = json!({"env": "prod"});
            all.push(workload);
        }
    }
    all.into()
}

/// A request that can be asked about.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) connection: Connection,
    pub(crate) request: CanonicalRequest,
    pub(crate) headers: HeaderMap,
    pub(crate) now_us: i64,
}

impl Ask {
    /// `caller` sends `METHOD /path?query` to `host`.
    pub(crate) fn new(caller: &str, method: &str, host: &str, target: &str) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.into())),
            None => (target, None),
        };
        Self {
            connection: Connection {
                peer: Peer {
                    id: SpiffeId::parse(caller).unwrap(),
                    serial: Arc::new([1]),
                    not_before_s: 0,
                    not_after_s: i64::MAX,
                },
                source: SocketAddr::from(([10, 1, 2, 3], 40_000)),
                tls: TlsFacts {
                    version: "1.3",
                    mtls: true,
                    sni: None,
                    alpn: Some("h2".into()),
                },
            },
            request: CanonicalRequest {
                method: Method::parse(method).unwrap(),
                host: host.into(),
                path: path.into(),
                query,
                rewritten: false,
            },
            headers: HeaderMap::new(),
            now_us: NOW_US,
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &[u8]) -> Self {
        let name = HeaderName::from_static(name);
        self.headers
            .append(name, HeaderValue::from_bytes(value).unwrap());
        self
    }

    pub(crate) fn at(mut self, time: &str) -> Self {
        self.now_us = time.parse::<jiff::Timestamp>().unwrap().as_microsecond();
        self
    }

    /// Asks `f` the question; host and path are matched by `snapshot`'s catalogue.
    pub(crate) fn ask<T>(&self, snapshot: &Snapshot, f: impl FnOnce(&Question<'_>) -> T) -> T {
        let service = snapshot
            .catalogue()
            .by_host(&self.request.host)
            .expect("host");
        f(&Question {
            connection: &self.connection,
            request: &self.request,
            headers: &self.headers,
            service,
            operation: service.operations.find(&self.request),
            now_us: self.now_us,
        })
    }
}
