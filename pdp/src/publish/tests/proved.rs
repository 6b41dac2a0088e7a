//! Invariants of what a PDP puts together: refused, attested, or said not to be proved.

use std::sync::{
    Condvar,
    atomic::{AtomicBool, Ordering},
};

use palisade_mesh::{diagnostic::Severity, wire::policy::Proof};

use tokio::time::timeout;

use super::{
    rolling::{LONG, Stage},
    *,
};
use crate::{
    author,
    bundle::{
        codes::{NOT_PROVED, OLD_PROOFS},
        file::BundleFile,
        key::{self, SigningKey},
        trust::{Keys, Trust, TrustConfig},
    },
    compiled::Compiled,
    publish::{
        Content, Order, Prove, Proved,
        rollout::{Phase, Plan},
    },
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

/// Proves nothing for as long as it is held up.
#[derive(Debug, Default)]
struct Slow {
    work: Mutex<Work>,
    let_go: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    held: bool,
    asked: bool,
}

impl Slow {
    /// Holds it up until what is given is dropped.
    fn hold(self: &Arc<Self>) -> Hold {
        self.work.lock().unwrap().held = true;
        Hold(self.clone())
    }

    fn is_held(&self) -> bool {
        self.work.lock().unwrap().held
    }

    /// Whether it was asked for something while it was held up.
    fn is_asked(&self) -> bool {
        self.work.lock().unwrap().asked
    }
}

struct Hold(Arc<Slow>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.work.lock().unwrap().held = false;
        self.0.let_go.notify_all();
    }
}

impl Prove for Slow {
    fn prove(&self, _: &Compiled) -> Proved {
        let mut work = self.work.lock().unwrap();
        work.asked |= work.held;
        drop(self.let_go.wait_while(work, |work| work.held).unwrap());
        Proved::default()
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

/// A solver may take its time: orders are carried out, and a gate that is exceeded halts.
#[tokio::test]
async fn what_is_being_proved_holds_up_no_rollout() {
    let stage = Stage::new();
    sample::write(stage.dir.path(), "invariants/cards.cedar", NO_CARDS);
    let prover = Arc::new(Slow::default());
    let patient = Plan {
        shadow: Some(LONG),
        ..rolling::plan()
    };
    let opened = stage.open_with(SourceConfig {
        rollout: Some(patient),
        prove: Some(prover.clone()),
        ..config(stage.dir.path(), stage.state.path())
    });
    let source = opened.await;
    let (mut seen, orders) = (source.state(), source.orders());
    let task = tokio::spawn(source.run());
    wide(stage.dir.path());
    let is_in =
        |s: &State, phase: Phase| s.rollout.as_ref().is_some_and(|u| u.rollout.phase == phase);
    until(&mut seen, "in shadow", |s| is_in(s, Phase::Shadow)).await;

    let hold = prover.hold();
    let more = format!("@id(\"more\")\n{PERMIT}");
    sample::write(stage.dir.path(), "policies/more.cedar", &more);
    eventually("the solver is asked", || prover.is_asked()).await;
    let paused = timeout(PATIENCE, orders.give("ana", Order::Pause)).await;
    paused.expect("while the solver works").unwrap();
    let content = Content::Source;
    let preview = tokio::spawn(async move {
        let shown = orders.preview(Plan::default(), content).await;
        shown.map(|difference| difference.added)
    });
    stage.proxy.denied.store(1_000, Ordering::Relaxed);
    let halted = |s: &State| {
        s.rollout
            .as_ref()
            .is_some_and(|u| u.rollout.stopped().is_some())
    };
    until(&mut seen, "halted by a gate", halted).await;
    assert!(prover.is_held() && !preview.is_finished());

    drop(hold);
    let added = timeout(PATIENCE, preview).await.unwrap().unwrap().unwrap();
    assert_eq!(added, ["more", "wide"]);
    let is_next = |s: &State| {
        s.rollout
            .as_ref()
            .is_some_and(|u| u.candidate.compiled.info.contains_key("more"))
    };
    until(&mut seen, "the newer content", is_next).await;
    task.abort();
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

/// A trusted key, the file of it, and a place for bundles that it signs.
struct Signer {
    dir: tempfile::TempDir,
    key: SigningKey,
}

impl Signer {
    fn new() -> Self {
        let signer = Self {
            dir: tempfile::tempdir().unwrap(),
            key: SigningKey::generate().unwrap().0,
        };
        let line = format!("ci {}\n", signer.key.public());
        fs::write(signer.dir.path().join("trusted.keys"), line).unwrap();
        signer
    }

    fn place(&self) -> std::path::PathBuf {
        self.dir.path().join("shop.palisade")
    }

    fn sign(&self, file: &mut BundleFile, number: u64) {
        file.sign_content(&self.key);
        file.sign_release(&self.key, number, Clock::system().now_us());
    }

    fn put(&self, file: &BundleFile) {
        let draft = self.dir.path().join("draft");
        fs::write(&draft, file.encode()).unwrap();
        fs::rename(draft, self.place()).unwrap();
    }

    /// A PDP that believes this key, and demands that no cards are read.
    async fn open(&self, state: &Path) -> Source {
        let trust = TrustConfig {
            keys: self.dir.path().join("trusted.keys"),
            threshold: 1,
            stamp_age: None,
            stamp_keys: None,
            proved: vec!["no-cards".to_owned()],
        };
        let config = SourceConfig {
            trust: Some(trust),
            ..config(&self.place(), state)
        };
        let source = Source::open(config, Clock::system(), Records::default().recorder());
        source.await.unwrap()
    }
}

fn built() -> BundleFile {
    built_with(&[])
}

/// With more invariants of these ids.
fn built_with(more: &[&str]) -> BundleFile {
    let dir = sample::copy();
    for id in more {
        let text = NO_CARDS.replace("no-cards", id);
        sample::write(dir.path(), &format!("invariants/{id}.cedar"), &text);
    }
    sample::write(dir.path(), "invariants/cards.cedar", NO_CARDS);
    let compiled = author::load(dir.path()).compiled.unwrap();
    BundleFile::new(compiled.bundle).unwrap()
}

/// A mirror that lags behind, or somebody at it, may bring the same bundle with a word about its
/// proofs that nobody who is trusted has signed: it takes nothing away.
#[tokio::test]
async fn a_copy_takes_no_good_attestation_away() {
    let (signer, state) = (Signer::new(), tempfile::tempdir().unwrap());
    let bare = built();
    let mut good = bare.clone().attesting(["no-cards"], "cvc5");
    signer.sign(&mut good, 5);
    signer.put(&good);
    let source = signer.open(state.path()).await;
    let mut seen = source.state();
    assert_eq!(sequence(&seen.borrow()), 5);
    let task = tokio::spawn(source.run());
    let other = SigningKey::generate().unwrap().0;
    let mut lagging = bare.attesting(["no-cards"], "nobody");
    lagging.sign_content(&other);
    lagging.signed.content_signatures = good.signed.content_signatures.clone();
    lagging.signed.release = good.signed.release.clone();
    let now_us = Clock::system().now_us();
    lagging.stamp(&signer.key, now_us, now_us + 60_000_000);
    signer.put(&lagging);
    let stamped = |s: &State| {
        s.current
            .as_ref()
            .is_some_and(|c| c.revision.stamp.is_some())
    };
    let current = until(&mut seen, "stamped", stamped).await.current.unwrap();
    let attested = current.revision.attestation.as_ref().unwrap();
    assert_eq!(attested.proofs[0].solver, "cvc5");
    assert_eq!(attested.signatures[0].key, signer.key.public().as_bytes());
    task.abort();
}

/// More proofs are not the same proofs: a copy of whoever is trusted that says other things takes
/// away nothing that is demanded, and its stamp counts.
#[tokio::test]
async fn a_copy_that_proves_more_but_something_else_takes_nothing_away() {
    let (signer, state) = (Signer::new(), tempfile::tempdir().unwrap());
    let bare = built_with(&["no-x", "no-y"]);
    let mut good = bare.clone().attesting(["no-cards"], "cvc5");
    signer.sign(&mut good, 5);
    signer.put(&good);
    let source = signer.open(state.path()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    let mut other = bare.attesting(["no-x", "no-y"], "cvc5");
    other.sign_content(&signer.key);
    other.signed.release = good.signed.release.clone();
    let now_us = Clock::system().now_us();
    other.stamp(&signer.key, now_us, now_us + 60_000_000);
    signer.put(&other);
    let stamped = |s: &State| {
        s.current
            .as_ref()
            .is_some_and(|c| c.revision.stamp.is_some())
    };
    let current = until(&mut seen, "stamped", stamped).await.current.unwrap();
    let proofs = &current.revision.attestation.as_ref().unwrap().proofs;
    assert_eq!(proofs.len(), 1);
    assert_eq!(proofs[0].invariant, "no-cards");
    task.abort();
}

/// What somebody wants begun takes its time to be proved; what came into force meanwhile is newer,
/// and is not replaced by it.
#[tokio::test]
async fn an_order_that_was_overtaken_begins_nothing() {
    let stage = Stage::new();
    sample::write(stage.dir.path(), "invariants/cards.cedar", NO_CARDS);
    let prover = Arc::new(Slow::default());
    let opened = stage.open_with(SourceConfig {
        prove: Some(prover.clone()),
        ..config(stage.dir.path(), stage.state.path())
    });
    let source = opened.await;
    let (mut seen, orders) = (source.state(), source.orders());
    let task = tokio::spawn(source.run());
    stage.edit("x");
    until(&mut seen, "second", |s| sequence(s) == 2).await;

    let other = sample::copy();
    sample::write(other.path(), "invariants/cards.cedar", NO_CARDS);
    wide(other.path());
    let bundle = author::load(other.path()).compiled.unwrap().bundle;
    let hold = prover.hold();
    let content = Content::Bundle(bundle);
    let of_start = orders.clone();
    let started = tokio::spawn(async move {
        let order = Order::Start(Plan::default(), content);
        of_start.give("ana", order).await.map_err(|d| d.code.0)
    });
    eventually("the solver is asked", || prover.is_asked()).await;
    orders.give("bea", Order::Rollback(None)).await.unwrap();
    assert_eq!(sequence(&seen.borrow()), 3);
    drop(hold);
    let started = timeout(PATIENCE, started).await.unwrap().unwrap();
    assert_eq!(started.map(drop), Err(codes::ROLLOUT_BUSY));
    assert!(seen.borrow().rollout.is_none());
    task.abort();
}

/// After an upgrade what was in force stays, also where what was proved of it is demanded and
/// nobody has built it anew; and it is told that it has to be.
#[tokio::test]
async fn what_the_build_before_has_kept_stays_in_force() {
    let (signer, state) = (Signer::new(), tempfile::tempdir().unwrap());
    let mut bundle = Bundle::decode(&*built().signed.bundle).unwrap();
    bundle.features.push("proofs-1".to_owned());
    bundle.old_proofs = vec![Proof {
        invariant: "no-cards".to_owned(),
        solver: "cvc5".to_owned(),
    }];
    let mut file = BundleFile::new(bundle.encode_to_vec().into()).unwrap();
    signer.sign(&mut file, 5);
    let release = file.signed.release.clone().unwrap();
    let kept = Revision {
        bundle: file.signed.bundle.clone(),
        sha256: file.digest.0.to_vec(),
        content_signatures: file.signed.content_signatures.clone(),
        sequence: 5,
        issued_us: release.issued_us,
        release_signatures: release.signatures,
        ..Revision::default()
    };
    Keep::open(state.path()).unwrap().store(&kept).unwrap();
    let source = signer.open(state.path()).await;
    let current = source.state().borrow().current.clone().expect("not dark");
    assert_eq!((current.sequence(), current.digest()), (5, file.digest));
    assert_eq!(current.diagnostics[0].code.0, OLD_PROOFS);
    assert_eq!(current.unproved, ["no-cards"], "whoever looks is told");
    // A change of the proofs is another bundle, which nobody has signed.
    bundle.old_proofs[0].solver = "nobody".to_owned();
    let other = BundleFile::new(bundle.encode_to_vec().into()).unwrap();
    assert_ne!(other.digest, file.digest);
    bundle.old_proofs.clear();
    let unsaid = BundleFile::new(bundle.encode_to_vec().into());
    assert_eq!(unsaid.unwrap_err().code.0, BUNDLE_BROKEN);
}
