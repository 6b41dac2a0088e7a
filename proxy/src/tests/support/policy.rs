//! A PDP that is a closure.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use palisade_mesh::{
    canonical::Method,
    catalogue::{Catalogue, DeclaredHeader, HeaderShape, Protocol, Service, ServiceId, Unmatched},
    decision::{Answer, Decision, Question, SelfCheck, Undecided, Verdict},
    operation::{Operation, OperationTable, Template},
    personal::Mask,
    snapshot::{Digest, Versions},
    spiffe_id::{SpiffeId, TrustDomain},
    svid::PeerFacts,
    wire::record::AuditMode,
};

use smol_str::SmolStr;

use super::{PATIENCE, authority::DOMAIN};
use crate::{
    policy::{Decider, LivePolicy, PolicySlot, PolicySnapshot},
    shadow::Candidate,
};

type Decide = Arc<dyn Fn(&Question<'_>) -> Verdict + Send + Sync>;
type Matching = Arc<dyn Fn(&Question<'_>) -> Vec<SmolStr> + Send + Sync>;
type Bar = Arc<dyn Fn(&PeerFacts<'_>) -> Option<&'static str> + Send + Sync>;

/// What is allowed, by a closure.
#[derive(Clone)]
pub(crate) struct Rules {
    decide: Decide,
    bar: Bar,
    /// Moment at which the clock changes the answers.
    until_us: Option<i64>,
    /// Ids of the permits in shadow mode that match.
    shadow_permits: Matching,
    sequence: u64,
    kill_list: u64,
    declared: Vec<DeclaredHeader>,
    mask: Mask,
    /// How often the engine was found to differ from its reference.
    differed: Arc<AtomicU64>,
}

impl Rules {
    pub(crate) fn new(decide: impl Fn(&Question<'_>) -> Verdict + Send + Sync + 'static) -> Self {
        Self {
            decide: Arc::new(decide),
            bar: Arc::new(|_| None),
            until_us: None,
            shadow_permits: Arc::new(|_| Vec::new()),
            sequence: 1,
            kill_list: 3,
            mask: Mask::NONE,
            differed: Arc::new(AtomicU64::new(2)),
            declared: vec![
                DeclaredHeader {
                    name: "x-tenant".into(),
                    shape: HeaderShape::Single,
                },
                DeclaredHeader {
                    name: "x-role".into(),
                    shape: HeaderShape::List,
                },
            ],
        }
    }

    /// Nobody may do anything.
    pub(crate) fn nothing() -> Self {
        Self::new(|_| Verdict::NotPermitted).numbered(2)
    }

    /// The same until a moment, and then nothing.
    pub(crate) fn until(self, until_us: i64) -> Self {
        let before = self.decide.clone();
        let decide = move |q: &Question<'_>| match q.now_us < until_us {
            true => before(q),
            false => Verdict::NotPermitted,
        };
        Self {
            decide: Arc::new(decide),
            until_us: Some(until_us),
            ..self
        }
    }

    /// The same with a kill list.
    pub(crate) fn barring(
        self,
        bar: impl Fn(&PeerFacts<'_>) -> Option<&'static str> + Send + Sync + 'static,
    ) -> Self {
        Self {
            bar: Arc::new(bar),
            kill_list: 4,
            ..self
        }
    }

    /// The same with a permit in shadow mode, `p-shadow`, on `path`.
    pub(crate) fn trying(self, path: &'static str) -> Self {
        let matching = move |q: &Question<'_>| match q.request.path.starts_with(path) {
            true => vec!["p-shadow".into()],
            false => Vec::new(),
        };
        Self {
            shadow_permits: Arc::new(matching),
            ..self
        }
    }

    /// The same as a revision to try beside another.
    pub(crate) fn candidate(&self, every: u32) -> Arc<Candidate> {
        let orders = service("orders", &[super::id("ns/shop/sa/orders")]);
        let snapshot = self.snapshot(vec![orders]).snapshot().clone();
        Arc::new(Candidate::new(snapshot, every))
    }

    /// The same with one more header that policies may read.
    pub(crate) fn declaring(mut self, name: &str) -> Self {
        self.declared.push(DeclaredHeader {
            name: name.into(),
            shape: HeaderShape::List,
        });
        self
    }

    /// A permit on `/public` and `/files`, a forbid on `/admin`, and an engine
    /// that cannot decide on `/undecided`; everything else is not permitted.
    pub(crate) fn shop() -> Self {
        Self::new(|q| {
            let path = q.request.path.as_str();
            match path.split('/').nth(1) {
                _ if q.headers.get_all("x-role").iter().any(|v| v == "banned") => {
                    Verdict::Forbidden
                }
                Some("admin") => Verdict::Forbidden,
                Some("panic") => panic!("a broken engine"),
                Some("undecided") => Verdict::Undecided(Undecided::ForbidErrored),
                Some("public" | "files" | "strict" | "loose" | "undeclared" | "pkg.Service") => {
                    Verdict::Allow
                }
                _ if path == "*" => Verdict::Allow,
                _ => Verdict::NotPermitted,
            }
        })
    }

    /// As often as this the engine is found to differ.
    pub(crate) fn differing(mut self, differed: &Arc<AtomicU64>) -> Self {
        self.differed = Arc::clone(differed);
        self
    }

    pub(crate) fn numbered(mut self, sequence: u64) -> Self {
        self.sequence = sequence;
        self
    }

    /// The same, where records about no known service leave out `mask`.
    pub(crate) fn masking(self, mask: Mask) -> Self {
        Self { mask, ..self }
    }

    /// A snapshot with these services.
    pub(crate) fn snapshot(&self, services: Vec<Service>) -> Arc<LivePolicy> {
        let domain = TrustDomain::parse(DOMAIN).unwrap();
        let headers = self.declared.clone();
        let mut services = services;
        services.push(service("web", &[super::id("ns/shop/sa/web")]));
        Arc::new(LivePolicy::new(Arc::new(Snapshot {
            catalogue: Arc::new(
                Catalogue::new(domain, services, headers).masking(self.mask.clone()),
            ),
            rules: self.clone(),
        })))
    }

    pub(crate) fn slot(&self, services: Vec<Service>) -> PolicySlot {
        PolicySlot::new(self.snapshot(services))
    }
}

/// A service of the shop, reached under its name.
pub(crate) fn service(name: &str, identities: &[SpiffeId]) -> Service {
    let domain = TrustDomain::parse(DOMAIN).unwrap();
    let operation = |op: &str, methods: &[Method], template: &str| Operation {
        id: format!("{DOMAIN}/shop/{name}/{op}").into(),
        name: op.into(),
        methods: methods.to_vec(),
        hosts: vec![],
        template: Template::parse(template).unwrap(),
        action: None,
        audit: None,
        mask: Mask::NONE,
    };
    let all = Method::ALL;
    Service {
        id: ServiceId::new(&domain, "shop", name),
        namespace: "shop".into(),
        name: name.into(),
        identities: identities.to_vec(),
        hosts: vec![name.into(), format!("{name}.shop.test").into()],
        protocol: Protocol::Http,
        operations: OperationTable::new(vec![
            operation("public", &all, "/public"),
            operation("public-rest", &all, "/public/{*rest}"),
            operation("file", &all, "/files/{name}"),
            Operation {
                audit: Some(AuditMode::Strict),
                ..operation("strict", &all, "/strict/{*rest}")
            },
            Operation {
                audit: Some(AuditMode::BestEffort),
                ..operation("loose", &all, "/loose/{*rest}")
            },
            operation("admin", &all, "/admin/{*rest}"),
            operation("rpc", &[Method::Post], "/pkg.Service/{method}"),
        ])
        .unwrap(),
        unmatched: Unmatched::NotFound,
        audit: AuditMode::Spool,
        mask: Mask::NONE,
        endpoints: vec![],
        request_timeout: PATIENCE,
    }
}

struct Snapshot {
    catalogue: Arc<Catalogue>,
    rules: Rules,
}

impl PolicySnapshot for Snapshot {
    fn versions(&self) -> Versions {
        Versions {
            policy: Digest::of(&self.rules.sequence.to_be_bytes()),
            sequence: self.rules.sequence,
            discovery: 0,
            kill_list: self.rules.kill_list,
        }
    }

    fn barred(&self, peer: &PeerFacts<'_>) -> Option<&'static str> {
        (self.rules.bar)(peer)
    }

    fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    fn self_check(&self) -> SelfCheck {
        SelfCheck {
            checked: 7,
            mismatched: self.rules.differed.load(Ordering::Relaxed),
        }
    }

    fn decider(self: Arc<Self>) -> Box<dyn Decider> {
        Box::new(Engine(self.rules.clone()))
    }
}

struct Engine(Rules);

impl Decider for Engine {
    fn decide(&mut self, question: &Question<'_>) -> Answer {
        let verdict = (self.0.decide)(question);
        Answer {
            decision: Arc::new(Decision {
                verdict,
                action: question.request.method.as_str().into(),
                resource_type: "Operation",
                resource_id: question.operation.map(|o| o.id.clone()).unwrap_or_default(),
                determining: vec!["p1".into()],
                errors: vec![],
                shadow_permits: (self.0.shadow_permits)(question),
                deny_message: (verdict == Verdict::Forbidden)
                    .then(|| "Admins only; ask the shop team.".into()),
                help_url: None,
                context_json: "{}".into(),
                valid_until_us: self.0.until_us.filter(|until| question.now_us < *until),
            }),
            cached: false,
        }
    }
}
