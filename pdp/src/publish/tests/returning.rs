//! Revisions that their signers let be taken back: on the proxy's side with a stream, on the
//! PDP's with a file.

use std::sync::atomic::Ordering;

use palisade_mesh::wire::policy::WayBack;

use super::{
    rolling::{LONG, Stage, candidate, phase, plan, why},
    trust::{
        HOUR_US, Signers,
        streams::{answers, clock, message, play},
    },
    *,
};
use crate::{
    author,
    bundle::{codes as signing, file::BundleFile, key::SigningKey, statement},
    publish::{
        Order,
        rollout::{Phase, Plan, Stop},
    },
};

/// `from`, which these let be taken back to `to` until a time.
fn with_way_back(
    signers: &Signers,
    by: &[usize],
    from: &Revision,
    to: &Revision,
    until_us: i64,
) -> Revision {
    let mut back = WayBack {
        sha256: to.sha256.clone(),
        sequence: to.sequence,
        until_us,
        signatures: Vec::new(),
    };
    let domain = palisade_mesh::spiffe_id::TrustDomain::parse("demo.test").unwrap();
    let digest = Digest::from_slice(&from.sha256).unwrap();
    let said = statement::way_back(&domain, digest, from.sequence, &back).unwrap();
    back.signatures = by.iter().map(|i| said.sign(&signers.keys[*i])).collect();
    Revision {
        way_back: Some(back),
        ..from.clone()
    }
}

/// What a proxy with nothing on its disk answers to these, one after the other.
async fn told(signers: &Signers, clock: &Clock, script: &[&Revision]) -> Vec<String> {
    let state = tempfile::tempdir().unwrap();
    told_in(signers, clock, script, state.path()).await
}

async fn told_in(
    signers: &Signers,
    clock: &Clock,
    script: &[&Revision],
    state: &Path,
) -> Vec<String> {
    let messages = script.iter().map(|r| message((*r).clone())).collect();
    let (_seen, mut heard, task) = play(messages, signers, state, clock).await;
    let said = answers(&mut heard, script.len()).await;
    task.abort();
    said
}

/// Attack T104: an older revision comes in only after the one that names it, and only it.
#[tokio::test]
async fn a_proxy_goes_back_to_what_its_revision_names_and_to_nothing_else() {
    let (signers, clock) = (Signers::new(), clock());
    let now_us = clock.now_us();
    let of = |by: &[usize], content: &str, n| signers.revision(by, content, n, now_us);
    let (two, one) = ([0, 1], [0]);
    let old = of(&two, "old", 5);
    let named =
        |by: &[usize], until_us| with_way_back(&signers, by, &of(&two, "new", 6), &old, until_us);
    let new = named(&two, now_us + HOUR_US);
    let check = async |script: &[&Revision], expected: &[&str]| {
        assert_eq!(told(&signers, &clock, script).await, expected);
    };
    // Back once; then neither forth to what was taken back nor further back.
    let older = of(&two, "older", 4);
    let old_with_way = with_way_back(&signers, &two, &old, &older, now_us + HOUR_US);
    let next = of(&two, "new", 7);
    check(
        &[&old, &new, &old, &old, &new, &older, &next],
        &[
            "ack 5",
            "ack 6",
            "ack 5",
            "ack 5",
            "nack 6 PLS3004",
            "nack 4 PLS3004",
            "ack 7",
        ],
    )
    .await;
    check(
        &[&new, &old_with_way, &older, &next],
        &["ack 6", "ack 5", "nack 4 PLS3004", "ack 7"],
    )
    .await;
    // Not named: another number, another content, or nothing at all is.
    let renumbered = of(&two, "old", 4);
    let other = of(&two, "other", 5);
    check(
        &[&new, &renumbered, &other, &old],
        &["ack 6", "nack 4 PLS3117", "nack 5 PLS3117", "ack 5"],
    )
    .await;
    check(&[&of(&two, "new", 6), &old], &["ack 6", "nack 5 PLS3004"]).await;
    // A proxy that never had it, or has gone on since.
    check(&[&next, &old], &["ack 7", "nack 5 PLS3004"]).await;
    check(&[&new, &next, &old], &["ack 6", "ack 7", "nack 5 PLS3004"]).await;
    // What it leads to must be signed itself.
    let unsigned = of(&one, "old", 5);
    check(&[&new, &unsigned], &["ack 6", "nack 5 PLS3102"]).await;
    // Made up, given by too few, moved from another number, or stretched.
    let mut moved = of(&two, "new", 7);
    moved.way_back = new.way_back.clone();
    let mut stretched = new.clone();
    stretched.way_back.as_mut().unwrap().until_us += 1;
    let mut bare = new.clone();
    bare.way_back.as_mut().unwrap().signatures.clear();
    check(
        &[&named(&one, now_us + HOUR_US), &stretched, &bare, &moved],
        &[
            "nack 6 PLS3102",
            "nack 6 PLS3101",
            "nack 6 PLS3102",
            "nack 7 PLS3101",
        ],
    )
    .await;
    // Both sides of the time.
    check(&[&named(&two, now_us), &old], &["ack 6", "nack 5 PLS3117"]).await;
    check(&[&named(&two, now_us + 1), &old], &["ack 6", "ack 5"]).await;
}

/// What a proxy knows of the way there and back outlives it.
#[tokio::test]
async fn a_proxy_goes_back_over_restarts_and_stays_there() {
    let (signers, clock) = (Signers::new(), clock());
    let now_us = clock.now_us();
    let old = signers.revision(&[0, 1], "old", 5, now_us);
    let new = signers.revision(&[0, 1], "new", 6, now_us);
    let new = with_way_back(&signers, &[0, 1], &new, &old, now_us + HOUR_US);
    let next = signers.revision(&[0, 1], "new", 7, now_us);
    let state = tempfile::tempdir().unwrap();
    let word = state.path().join("word.pb");
    let tell = async |script: &[&Revision]| told_in(&signers, &clock, script, state.path()).await;
    assert_eq!(tell(&[&old, &new]).await, ["ack 5", "ack 6"]);
    let before = fs::read(&word).unwrap();
    assert_eq!(tell(&[&old]).await, ["ack 5"]);
    // Killed between the revision and the word about it: it goes back once more.
    let after = fs::read(&word).unwrap();
    fs::write(&word, before).unwrap();
    assert_eq!(tell(&[&old]).await, ["ack 5"]);
    fs::write(&word, after).unwrap();
    // It begins with what it went back to, and remembers what was taken back.
    let (mut seen, _heard, task) = play(Vec::new(), &signers, state.path(), &clock).await;
    until(&mut seen.state, "from disk", |s| s.sequence == 5).await;
    task.abort();
    assert_eq!(
        tell(&[&new, &old, &next]).await,
        ["nack 6 PLS3004", "ack 5", "ack 7"]
    );
}

/// The way back counts by the keys that are trusted when it is gone.
#[tokio::test]
async fn a_signer_who_was_removed_lets_nobody_back() {
    let (signers, clock) = (Signers::new(), clock());
    let now_us = clock.now_us();
    let old = signers.revision(&[0, 2], "old", 5, now_us);
    let new = signers.revision(&[0, 2], "new", 6, now_us);
    let new = with_way_back(&signers, &[0, 1], &new, &old, now_us + HOUR_US);
    let state = tempfile::tempdir().unwrap();
    assert_eq!(
        told_in(&signers, &clock, &[&new], state.path()).await,
        ["ack 6"]
    );
    signers.trust_without(&[1]);
    // What is on disk has a way back that too few have signed now.
    let said = told_in(&signers, &clock, &[&old], state.path()).await;
    assert_eq!(said, ["nack 5 PLS3102"]);
}

/// A file that CI signs, with a way back to the one it signed before.
struct Ci {
    key: SigningKey,
    path: std::path::PathBuf,
    last: Mutex<Option<BundleFile>>,
}

impl Ci {
    fn new(stage: &Stage) -> Self {
        Self {
            key: SigningKey::generate().unwrap().0,
            path: stage.path("shop.palisade"),
            last: Mutex::default(),
        }
    }

    /// Signs what the folder has; a way back lasts as long as is said.
    fn serve(&self, stage: &Stage, number: u64, back: Option<Duration>) -> BundleFile {
        let compiled = author::load(stage.dir.path()).compiled.unwrap();
        let mut bundle = BundleFile::new(compiled.bundle).unwrap();
        let now_us = Clock::system().now_us();
        bundle.sign_content(&self.key);
        bundle.sign_release(&self.key, number, now_us);
        if let Some(within) = back {
            let last = self.last.lock().unwrap().clone().unwrap();
            let within_us = i64::try_from(within.as_micros()).unwrap();
            let until_us = now_us + within_us;
            bundle.sign_way_back(&self.key, &last, until_us).unwrap();
        }
        self.put(&bundle);
        *self.last.lock().unwrap() = Some(bundle.clone());
        bundle
    }

    fn put(&self, bundle: &BundleFile) {
        let draft = self.path.with_extension("new");
        fs::write(&draft, bundle.encode()).unwrap();
        fs::rename(draft, &self.path).unwrap();
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A canary from the start, watched for long.
fn bold() -> Plan {
    Plan {
        shadow: None,
        watch: LONG,
        ..plan()
    }
}

fn rejected(state: &State) -> Option<u16> {
    Some(state.rejected.as_ref()?.diagnostics[0].code.0)
}

/// It goes to some first and back by itself, under the number that CI gave the old one; what
/// was taken back stays out, whoever restarts and whatever the source says.
#[tokio::test]
async fn a_signed_revision_that_does_harm_comes_back_by_itself() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    let old = ci.serve(&stage, 7, None);
    let source = stage.open_at(&ci.path, bold()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.proxy.denied.store(5, Ordering::Relaxed);
    stage.edit("x");
    let new = ci.serve(&stage, 8, Some(DAY));
    let stopped = |s: &State| matches!(phase(s), Some(Phase::RolledBack(_)));
    let halted = until(&mut seen, "halted", stopped).await;
    assert_eq!((sequence(&halted), why(&halted)), (7, Some(Stop::Gate)));
    let rollout = &halted.rollout.as_ref().unwrap().rollout;
    assert_eq!(rollout.restored, Some(7));
    assert!(rollout.stopped().unwrap().during.starts_with("canary"));
    let current = halted.current.unwrap();
    assert_eq!(
        current.revision.release_signatures[0].key,
        ci.key.public().as_bytes()
    );
    task.abort();
    let _ = task.await;

    stage.proxy.denied.store(0, Ordering::Relaxed);
    let source = stage.open_at(&ci.path, bold()).await;
    let mut seen = source.state();
    let orders = source.orders();
    let task = tokio::spawn(source.run());
    assert_eq!(sequence(&seen.borrow()), 7);
    assert!(seen.borrow().set_aside.is_some());
    let again = orders
        .give("ana", Order::Start(bold(), crate::publish::Content::Source))
        .await;
    assert_eq!(again.unwrap_err().code.0, codes::SEQUENCE);
    // Nor by way of the old file, or as other content under the number that is used up.
    ci.put(&old);
    until(&mut seen, "old file", |s| s.set_aside.is_none()).await;
    ci.put(&new);
    until(&mut seen, "taken back", |s| {
        rejected(s) == Some(codes::SEQUENCE)
    })
    .await;
    stage.edit("y");
    ci.serve(&stage, 8, None);
    let before = seen.borrow().rejected.clone();
    assert!(before.is_some());
    stage.edit("z");
    ci.put(&old);
    until(&mut seen, "old file", |s| s.rejected.is_none()).await;
    *ci.last.lock().unwrap() = Some(old);
    ci.serve(&stage, 9, Some(DAY));
    until(&mut seen, "full", |s| sequence(s) == 9).await;
    task.abort();
}

/// Also when everybody has it: an order, and a restart on either side of it.
#[tokio::test]
async fn a_signed_revision_that_everybody_has_is_taken_back_while_it_is_watched() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    ci.serve(&stage, 7, None);
    let source = stage.open_at(&ci.path, bold()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    ci.serve(&stage, 8, Some(DAY));
    until(&mut seen, "full", |s| sequence(s) == 8).await;
    task.abort();
    let _ = task.await;

    let source = stage.open_at(&ci.path, bold()).await;
    let mut seen = source.state();
    assert_eq!(phase(&seen.borrow()), Some(Phase::Full));
    let orders = source.orders();
    let task = tokio::spawn(source.run());
    orders.give("ana", Order::Abort).await.unwrap();
    let back = until(&mut seen, "back", |s| sequence(s) == 7).await;
    assert_eq!(why(&back), Some(Stop::Aborted));
    until(&mut seen, "rolled back", |s| {
        matches!(phase(s), Some(Phase::RolledBack(_)))
    })
    .await;
    task.abort();
    let _ = task.await;
    for _ in 0..2 {
        let source = stage.open_at(&ci.path, bold()).await;
        let now = source.state().borrow().clone();
        assert_eq!((sequence(&now), candidate(&now)), (7, 8));
    }
}

/// Without a way back that lasts, and leads to what is in force, nobody has it before all do;
/// where there is one that does not serve, it is said.
#[tokio::test]
async fn a_way_back_that_does_not_serve_is_told_and_not_taken() {
    for (within, leads, code) in [
        (
            Some(Duration::from_secs(60)),
            true,
            Some(codes::ROLLOUT_NO_CANARY),
        ),
        (Some(DAY), false, Some(codes::ROLLOUT_NO_CANARY)),
        (None, true, None),
    ] {
        let stage = Stage::new();
        let ci = Ci::new(&stage);
        ci.serve(&stage, 7, None);
        let source = stage.open_at(&ci.path, plan()).await;
        let mut seen = source.state();
        let task = tokio::spawn(source.run());
        if !leads {
            let mut last = ci.last.lock().unwrap().clone().unwrap();
            last.sign_release(&ci.key, 6, 1);
            *ci.last.lock().unwrap() = Some(last);
        }
        stage.edit("x");
        ci.serve(&stage, 8, within);
        let done = until(&mut seen, "completed", |s| {
            phase(s) == Some(Phase::Completed) && sequence(s) == 8
        })
        .await;
        let turns = &done.rollout.as_ref().unwrap().rollout.turns;
        assert!(
            turns.iter().all(|t| !t.what.starts_with("canary")),
            "{turns:?}"
        );
        let notes = &done.current.as_ref().unwrap().diagnostics;
        let told = notes.iter().find(|d| d.code.0 == codes::ROLLOUT_NO_CANARY);
        assert_eq!(told.map(|d| d.code.0), code, "{notes:?}");
        task.abort();
    }
}

/// Without a rollout: by an order, or by the old file; and no further than one step.
#[tokio::test]
async fn who_has_numbered_both_lets_somebody_go_back_at_once() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    let config = || SourceConfig {
        debounce: Duration::from_millis(20),
        ..config(&ci.path, stage.state.path())
    };
    let open = async || {
        let opened = Source::open(config(), Clock::system(), stage.records.recorder());
        opened.await.unwrap()
    };
    let first = ci.serve(&stage, 6, None);
    let source = open().await;
    let mut seen = source.state();
    let orders = source.orders();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    let second = ci.serve(&stage, 7, Some(DAY));
    until(&mut seen, "second", |s| sequence(s) == 7).await;
    stage.edit("y");
    let third = ci.serve(&stage, 8, Some(DAY));
    until(&mut seen, "third", |s| sequence(s) == 8).await;
    let far = orders.give("ana", Order::Rollback(Some("6".into()))).await;
    assert_eq!(far.unwrap_err().code.0, signing::WAY_BACK);
    orders.give("ana", Order::Rollback(None)).await.unwrap();
    assert_eq!(sequence(&seen.borrow()), 7);
    let twice = orders.give("ana", Order::Rollback(None)).await;
    assert_eq!(twice.unwrap_err().code.0, codes::SEQUENCE);
    task.abort();
    let _ = task.await;

    let source = open().await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    assert_eq!(
        sequence(&seen.borrow()),
        7,
        "the file still has 8, which is set aside"
    );
    ci.put(&first);
    until(&mut seen, "too far", |s| {
        rejected(s) == Some(codes::SEQUENCE)
    })
    .await;
    ci.put(&second);
    until(&mut seen, "what is in force", |s| s.rejected.is_none()).await;
    ci.put(&third);
    until(&mut seen, "taken back", |s| {
        rejected(s) == Some(codes::SEQUENCE)
    })
    .await;
    *ci.last.lock().unwrap() = Some(second.clone());
    stage.edit("z");
    ci.serve(&stage, 9, Some(DAY));
    until(&mut seen, "next", |s| sequence(s) == 9).await;
    ci.put(&first);
    until(&mut seen, "not named", |s| {
        rejected(s) == Some(signing::WAY_BACK)
    })
    .await;
    ci.put(&second);
    until(&mut seen, "the old file", |s| sequence(s) == 7).await;
    task.abort();
}
