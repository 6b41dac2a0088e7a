//! The policy under attack, compiled and decided by the real engine, which tells
//! what it was asked.

use std::{
    fs,
    sync::{Arc, Mutex, OnceLock},
};

use palisade_mesh::{
    catalogue::Catalogue,
    decision::{Answer, Question},
    snapshot::Versions,
};
use palisade_pdp::{
    author,
    decide::{Engine, Snapshot},
};
use palisade_proxy::{Decider, LivePolicy, PolicySlot, PolicySnapshot};

pub(crate) const DOMAIN: &str = "demo.test";
pub(crate) const WEB: &str = "ns/shop/sa/web";
pub(crate) const ORDERS: &str = "ns/shop/sa/orders";

const FILES: [(&str, &str); 4] = [
    (
        "palisade.yaml",
        "trust_domain: demo.test\nheaders: { x-role: list, x-tenant: single }\n",
    ),
    (
        "services/web.yaml",
        "service: shop/web\noperations:\n  - { name: home, match: GET / }\n",
    ),
    (
        "services/orders.yaml",
        "service: shop/orders\nhosts: [orders, orders.shop.internal]\nunmatched: forward\noperations:\n  - { name: public, match: \"* /public\" }\n  - { name: public-rest, match: \"* /public/{*rest}\" }\n  - { name: admin, match: \"* /admin\" }\n  - { name: admin-rest, match: \"* /admin/{*rest}\" }\n",
    ),
    (
        "policies/attacks.cedar",
        r#"
@id("public")
permit (principal, action in Action::"http", resource in Service::"demo.test/shop/orders")
when { context.http.path like "/public*" || context.http.path == "*" };

@id("admin")
forbid (principal, action in Action::"http", resource)
when { context.http.path like "/admin*" };

@id("banned")
forbid (principal, action in Action::"http", resource)
when { context.http.headers has "x-role" && context.http.headers["x-role"].contains("banned") };

@id("other-tenant")
forbid (principal, action in Action::"http", resource)
when { context.http.headers has "x-tenant" && context.http.headers["x-tenant"] == "evil" };
"#,
    ),
];

/// What the engine was asked about one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
}

/// Everything the engine was asked.
pub(crate) type Questions = Arc<Mutex<Vec<Asked>>>;

/// A slot with the policy, and what its engine is asked; `hasty` gives a request one
/// second.
pub(crate) fn slot(hasty: bool) -> (PolicySlot, Questions) {
    let questions = Questions::default();
    let spied = Spied {
        snapshot: if hasty { hasty_snapshot() } else { snapshot() },
        questions: questions.clone(),
    };
    let slot = LivePolicy::empty_slot();
    slot.store(Some(Arc::new(LivePolicy::new(Arc::new(spied)))));
    (slot, questions)
}

/// Compiled once for all cases.
pub(crate) fn snapshot() -> Arc<Snapshot> {
    static COMPILED: OnceLock<Arc<Snapshot>> = OnceLock::new();
    COMPILED.get_or_init(|| compile(&FILES)).clone()
}

fn hasty_snapshot() -> Arc<Snapshot> {
    let mut files = FILES;
    files[0].1 = "trust_domain: demo.test\nheaders: { x-role: list, x-tenant: single }\ndefaults: { timeout: 1s }\n";
    compile(&files)
}

/// Compiles a repository of these files.
pub(crate) fn compile(files: &[(&str, &str)]) -> Arc<Snapshot> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let loaded = author::load(dir.path());
    let compiled = loaded.compiled;
    Snapshot::new(
        compiled.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics)),
        1,
    )
    .unwrap()
}

struct Spied {
    snapshot: Arc<Snapshot>,
    questions: Questions,
}

impl PolicySnapshot for Spied {
    fn versions(&self) -> Versions {
        self.snapshot.versions()
    }

    fn catalogue(&self) -> &Arc<Catalogue> {
        self.snapshot.catalogue()
    }

    fn decider(self: Arc<Self>) -> Box<dyn Decider> {
        Box::new(SpiedEngine {
            engine: self.snapshot.engine(),
            questions: self.questions.clone(),
        })
    }
}

struct SpiedEngine {
    engine: Engine,
    questions: Questions,
}

impl Decider for SpiedEngine {
    fn decide(&mut self, question: &Question<'_>) -> Answer {
        let request = question.request;
        self.questions.lock().unwrap().push(Asked {
            method: request.method.as_str().to_owned(),
            host: request.host.to_string(),
            path: request.path.to_string(),
            query: request.query.as_ref().map(ToString::to_string),
        });
        self.engine.decide(question)
    }
}
