//! Invariants of what a PDP puts together: refused, attested, or said not to be proved.

use std::sync::atomic::{AtomicBool, Ordering};

use palisade_mesh::diagnostic::Severity;

use super::*;
use crate::{
    author,
    bundle::{
        codes::NOT_PROVED,
        key,
        trust::{Keys, Trust},
    },
    compiled::Compiled,
    publish::{Content, Order, Prove, Proved, rollout::Plan},
};

const BROKEN: u16 = 2321;
const UNPROVED: u16 = 2322;
const NO_CARDS: &str =
    "@id(\"no-cards\")\nforbid (principal, action == Action::\"payments:read-cards\", resource);\n";

/// Says that the policy `wide` breaks everything; else proves all, or nothing.
#[derive(Debug, Default)]
struct Scripted(AtomicBool);

impl Prove for Scripted {
    fn prove(&self, compiled: &Compiled) -> Proved {
        let ids: Vec<String> = compiled
            .invariants
            .keys()
            .map(|id| id.to_string())
            .collect();
        let found = |code, severity| Diagnostic {
            severity,
            ..Diagnostic::error(code, "scripted")
        };
        let (findings, ids) = match self.0.load(Ordering::Relaxed) {
            _ if compiled.info.contains_key("wide") => (vec![found(BROKEN, Severity::Error)], ids),
            true => (Vec::new(), ids),
            false => (vec![found(UNPROVED, Severity::Warning)], Vec::new()),
        };
        Proved {
            findings,
            ids,
            solver: "scripted".to_owned(),
        }
    }
}

async fn open_with(dir: &Path, state: &Path, prove: Option<Arc<Scripted>>) -> Source {
    let config = SourceConfig {
        prove: prove.map(|p| p as Arc<dyn Prove>),
        ..config(dir, state)
    };
    let source = Source::open(config, Clock::system(), Records::default().recorder());
    source.await.unwrap()
}

/// What a proxy says that believes this PDP's key and demands that `id` is proved.
fn demanded(state: &Path, current: &Published, id: &str) -> Result<(), u16> {
    let key = key::read(&state.join("signing-key.pem")).unwrap();
    let keys = Keys::parse("keys", &format!("pdp {}\n", key.public())).unwrap();
    let trust = Trust::new(keys, 1).demanding(vec![id.to_owned()]);
    let domain = &current.compiled.trust_domain;
    let checked = trust.check(domain, current.digest(), &current.revision);
    checked.map(|_| ()).map_err(|d| d.code.0)
}

fn wide(dir: &Path) {
    let text = format!("@id(\"wide\")\n{PERMIT}");
    sample::write(dir, "policies/wide.cedar", &text);
}

#[tokio::test]
async fn what_does_not_hold_is_not_published_and_what_is_proved_is_signed() {
    let (dir, state) = (sample::copy(), tempfile::tempdir().unwrap());
    sample::write(dir.path(), "invariants/cards.cedar", NO_CARDS);
    let prover = Arc::new(Scripted(AtomicBool::new(true)));
    let source = open_with(dir.path(), state.path(), Some(prover.clone())).await;
    let mut seen = source.state();
    let orders = source.orders();
    let first = seen.borrow().current.clone().unwrap();
    assert!(first.unproved.is_empty());
    assert_eq!(demanded(state.path(), &first, "no-cards"), Ok(()));
    assert_eq!(demanded(state.path(), &first, "other"), Err(NOT_PROVED));
    let bare = author::load(dir.path()).compiled.unwrap();
    assert_eq!(first.digest(), bare.digest, "proofs stand beside it");

    let task = tokio::spawn(source.run());
    wide(dir.path());
    let code = |s: &State| Some(s.rejected.as_ref()?.diagnostics.last()?.code.0);
    let refused = until(&mut seen, "refused", |s| code(s) == Some(BROKEN)).await;
    assert_eq!(refused.current.unwrap().digest(), first.digest());
    // Nor by somebody's word, from a folder beside it.
    let compiled = author::load(dir.path()).compiled.unwrap();
    let content = Content::Bundle(compiled.bundle);
    let started = orders
        .give("ana", Order::Start(Plan::default(), content))
        .await;
    assert_eq!(started.unwrap_err().code.0, BROKEN);
    fs::remove_file(dir.path().join("policies/wide.cedar")).unwrap();
    until(&mut seen, "mended", |s| s.rejected.is_none()).await;
    task.abort();
    let _ = task.await;

    // The same content and the same proofs are the same revision.
    let again = open_with(dir.path(), state.path(), Some(prover)).await;
    let again = again.state().borrow().current.clone().unwrap();
    assert_eq!((again.sequence(), again.digest()), (1, first.digest()));
}

#[tokio::test]
async fn what_nobody_could_prove_is_published_and_says_so() {
    let (dir, state) = (sample::copy(), tempfile::tempdir().unwrap());
    sample::write(dir.path(), "invariants/cards.cedar", NO_CARDS);
    for prover in [None, Some(Arc::new(Scripted::default()))] {
        let told = prover.is_some();
        let source = open_with(dir.path(), state.path(), prover).await;
        let current = source.state().borrow().current.clone().unwrap();
        assert_eq!(
            (current.sequence(), &*current.unproved),
            (1, &["no-cards".to_owned()][..])
        );
        assert_eq!(
            demanded(state.path(), &current, "no-cards"),
            Err(NOT_PROVED)
        );
        assert!(source.state().borrow().rejected.is_none());
        // What is there from before has nothing new to tell.
        let found = current.diagnostics.iter().any(|d| d.code.0 == UNPROVED);
        assert!(!found || told);
    }
}
