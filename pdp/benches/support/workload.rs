//! The set of the study, from 10 to 10,000 policies: five unscoped guard rails, then five
//! policies for each service; and a request that one of five to seven candidates allows.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "each bench uses its part, and one that cannot build its input should stop"
)]

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use cedar_policy::{
    Effect, Entities, Entity, EntityId, EntityUid, PolicyId, PolicySet, RestrictedExpression,
    Schema,
};
use http::HeaderMap;
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
use palisade_pdp::{
    compiled::{Compiled, Coverage, PolicyInfo},
    decide::Snapshot,
};
use smol_str::SmolStr;

pub const DOMAIN: &str = "acme.test";
pub const NAMESPACES: usize = 20;
pub const GUARD_RAILS: [&str; 5] = [
    r#"@id("g-mtls") forbid (principal, action, resource) unless { context.tls.mtls };"#,
    r#"@id("g-tls") forbid (principal, action, resource) when { context.tls.version == "1.1" };"#,
    r#"@id("g-td") forbid (principal, action, resource) unless { principal.trustDomain == TrustDomain::"acme.test" };"#,
    r#"@id("g-admin") forbid (principal, action in Action::"http", resource) when { context.http.path like "/admin/*" && !(context has user && context.user in Group::"admins") };"#,
    r#"@id("g-quarantine") forbid (principal in Group::"quarantine", action, resource);"#,
];
pub const PER_SERVICE: usize = 5;

pub const SCHEMA: &str = r#"
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
type Context = {
  source: { ip: ipaddr, port: Long },
  tls: { version: String, mtls: Bool, sni?: String, alpn?: String },
  time: { now: datetime, hour: Long, weekday: Long },
  http: {
    method: String, host: String, path: String, query?: String,
    headers: { "x-change-id"?: String },
  },
  user?: User,
};
action "call";
action "http" in ["call"];
action "http:read" in ["http"];
action "http:write" in ["http"];
action GET in ["http:read"]
  appliesTo { principal: [Workload, Unregistered], resource: [Operation, Service], context: Context };
action POST, DELETE in ["http:write"]
  appliesTo { principal: [Workload, Unregistered], resource: [Operation, Service], context: Context };
"#;

pub fn policies(n: usize) -> String {
    let rails = GUARD_RAILS.len().min(n / 2);
    let mut text = GUARD_RAILS[..rails].join("\n");
    for i in 0..n - rails {
        let (k, kind) = (i / PER_SERVICE, i % PER_SERVICE);
        let to = service_id(k);
        text.push_str(&match kind {
            0 => format!(
                "@id(\"s{k}-a\") permit (principal == Workload::\"{}\", action in Action::\"http:read\", resource in Service::\"{to}\");\n",
                workload(k + 1)
            ),
            1 => format!(
                "@id(\"s{k}-b\") permit (principal in Service::\"{}\", action in Action::\"http:read\", resource in Service::\"{to}\") when {{ context.http.path like \"/orders/*\" }};\n",
                service_id(k + 2)
            ),
            2 => format!(
                "@id(\"s{k}-c\") permit (principal in Namespace::\"{}\", action == Action::\"POST\", resource in Service::\"{to}\") when {{ context.http.path like \"/orders/*\" && context.source.ip.isInRange(ip(\"10.0.0.0/8\")) }};\n",
                namespace(k + 1)
            ),
            3 => format!(
                "@id(\"s{k}-d\") permit (principal is Workload in Group::\"batch\", action, resource is Operation in Service::\"{to}\") when {{ context.time.hour >= 8 && context.time.hour < 18 }};\n"
            ),
            _ => format!(
                "@id(\"s{k}-e\") forbid (principal, action in Action::\"http:write\", resource in Service::\"{to}\") unless {{ context.http.headers has \"x-change-id\" && context.http.headers[\"x-change-id\"] like \"CHG-*\" }};\n"
            ),
        });
    }
    text
}

pub fn namespace(k: usize) -> String {
    format!("{DOMAIN}/n{}", k % NAMESPACES)
}

pub fn service_id(k: usize) -> String {
    format!("{}/s{k}", namespace(k))
}

pub fn workload(k: usize) -> String {
    format!("spiffe://{DOMAIN}/ns/n{}/sa/s{k}", k % NAMESPACES)
}

pub fn uid(kind: &str, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.parse().unwrap(), EntityId::new(id))
}

pub fn catalogue(services: usize) -> Catalogue {
    let domain = TrustDomain::parse(DOMAIN).unwrap();
    let service = |k: usize| {
        let namespace = format!("n{}", k % NAMESPACES);
        let operations = vec![Operation {
            id: format!("{}/read", service_id(k)).into(),
            name: "read".into(),
            methods: vec![Method::Get, Method::Post, Method::Delete],
            hosts: Vec::new(),
            template: Template::parse("/{*path}").unwrap(),
            action: None,
            audit: None,
            mask: Mask::NONE,
        }];
        Service {
            id: ServiceId::new(&domain, &namespace, &format!("s{k}")),
            namespace: namespace.into(),
            name: format!("s{k}").into(),
            identities: vec![SpiffeId::parse(&workload(k)).unwrap()],
            hosts: vec![format!("s{k}").into()],
            protocol: Protocol::Http,
            operations: OperationTable::new(operations).unwrap(),
            unmatched: Unmatched::NotFound,
            audit: AuditMode::Spool,
            mask: Mask::NONE,
            endpoints: Vec::new(),
            request_timeout: Duration::from_secs(15),
        }
    };
    let header = DeclaredHeader {
        name: "x-change-id".into(),
        shape: HeaderShape::Single,
    };
    Catalogue::new(
        domain.clone(),
        (0..services).map(service).collect(),
        vec![header],
    )
}

pub fn entities(catalogue: &Catalogue, schema: &Schema) -> Entities {
    let plain = |kind: &str, id: &str, parents: &[EntityUid]| {
        Entity::new_no_attrs(uid(kind, id), parents.iter().cloned().collect())
    };
    let domain = uid("TrustDomain", DOMAIN);
    let mut all = vec![plain("TrustDomain", DOMAIN, &[])];
    all.extend(["batch", "admins", "quarantine"].map(|g| plain("Group", g, &[])));
    all.extend(
        (0..NAMESPACES).map(|k| plain("Namespace", &namespace(k), std::slice::from_ref(&domain))),
    );
    for (k, service) in catalogue.services().iter().enumerate() {
        let (own, above) = (
            uid("Service", service.id.as_str()),
            uid("Namespace", &namespace(k)),
        );
        let refer = RestrictedExpression::new_entity_uid;
        let attributes = HashMap::from([
            ("trustDomain".to_owned(), refer(domain.clone())),
            ("namespace".to_owned(), refer(above.clone())),
            ("service".to_owned(), refer(own.clone())),
        ]);
        let parents = HashSet::from([own.clone(), above.clone(), domain.clone()]);
        all.push(Entity::new(own.clone(), HashMap::new(), HashSet::from([above])).unwrap());
        all.push(Entity::new(uid("Workload", &workload(k)), attributes, parents).unwrap());
        for operation in service.operations.iter() {
            all.push(plain(
                "Operation",
                &operation.id,
                std::slice::from_ref(&own),
            ));
        }
    }
    Entities::from_entities(all, Some(schema)).unwrap()
}

pub fn parse(text: &str) -> (PolicySet, BTreeMap<SmolStr, PolicyInfo>) {
    let parsed: PolicySet = text.parse().unwrap();
    let (mut set, mut info) = (PolicySet::new(), BTreeMap::new());
    for policy in parsed.policies() {
        let id = SmolStr::new(policy.annotation("id").unwrap());
        let known = PolicyInfo {
            id: id.clone(),
            permit: policy.effect() == Effect::Permit,
            file: "bench.cedar".into(),
            first_line: 1,
            last_line: 1,
            text: "".into(),
            owner: None,
            deny_message: None,
            help_url: None,
            expires_us: None,
            shadow: false,
            commit: None,
            author: None,
        };
        set.add(policy.new_id(PolicyId::new(id.as_str()))).unwrap();
        info.insert(id, known);
    }
    (set, info)
}

pub fn compiled(n: usize) -> Compiled {
    let schema = Schema::from_cedarschema_str(SCHEMA).unwrap().0;
    let catalogue = Arc::new(catalogue((n / PER_SERVICE).max(4)));
    let (policies, info) = parse(&policies(n));
    Compiled {
        trust_domain: catalogue.trust_domain().clone(),
        git_revision: String::new(),
        entities: entities(&catalogue, &schema),
        schema,
        policies,
        catalogue,
        info,
        invariants: BTreeMap::new(),
        bundle: Bytes::new(),
        digest: Digest::default(),
        coverage: Coverage::Whole,
        absent: Vec::new(),
    }
}

/// A request of service `k + 2` to service `k`, allowed by one of five to seven candidates.
pub struct Load {
    pub connection: Connection,
    pub request: CanonicalRequest,
    pub headers: HeaderMap,
    pub service: usize,
}

impl Load {
    pub fn new(snapshot: &Snapshot) -> Self {
        let k = match snapshot.catalogue().services().len() {
            0..=4 => 0,
            services => services / 2,
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-change-id", "CHG-1234".parse().unwrap());
        headers.insert("user-agent", "curl/8".parse().unwrap());
        Self {
            connection: Connection {
                peer: Peer {
                    id: SpiffeId::parse(&workload(k + 2)).unwrap(),
                    serial: Arc::new([1]),
                    not_before_s: 0,
                    not_after_s: i64::MAX,
                },
                source: "10.1.2.3:40000".parse().unwrap(),
                tls: TlsFacts {
                    version: "1.3",
                    mtls: true,
                    sni: None,
                    alpn: Some("h2".into()),
                },
            },
            request: CanonicalRequest {
                method: Method::Get,
                host: format!("s{k}").into(),
                path: "/orders/77".into(),
                query: None,
                rewritten: false,
            },
            headers,
            service: k,
        }
    }

    pub fn ask<T>(&self, snapshot: &Snapshot, f: impl FnOnce(&Question<'_>) -> T) -> T {
        let service = &snapshot.catalogue().services()[self.service];
        f(&Question {
            connection: &self.connection,
            request: &self.request,
            headers: &self.headers,
            service,
            operation: service.operations.iter().next(),
            now_us: 1_795_188_600_000_000,
        })
    }
}
