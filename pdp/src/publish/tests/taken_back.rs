//! Revisions that their signers let be taken back, on the PDP's side: with a file.

use std::sync::atomic::Ordering;

use super::{
    rolling::{LONG, Stage, candidate, phase, plan, why},
    *,
};
use crate::{
    author,
    bundle::{WAY_BACK, codes as signing, file::BundleFile, key::SigningKey, trust::TrustConfig},
    publish::{
        Content, Order,
        rollout::{Phase, Plan, Seat, Step, Stop, Target},
    },
};
use palisade_mesh::spiffe_id::SpiffeId;
use palisade_mesh::wire::policy::{Hello, distribution_client::DistributionClient, proxy_message};
use tokio_stream::StreamExt as _;

/// A file that CI signs, with a way back to the one it signed before.
struct Ci {
    key: SigningKey,
    path: std::path::PathBuf,
    keys: std::path::PathBuf,
    last: Mutex<Option<BundleFile>>,
    /// For how long it stamps, where stamps are demanded.
    stamps: Option<Duration>,
}

impl Ci {
    fn new(stage: &Stage) -> Self {
        let ci = Self {
            key: SigningKey::generate().unwrap().0,
            path: stage.path("shop.palisade"),
            keys: stage.path("trusted.keys"),
            last: Mutex::default(),
            stamps: None,
        };
        ci.trust_in(&ci.key);
        ci
    }

    /// Writes the file of the key that is trusted.
    fn trust_in(&self, key: &SigningKey) {
        fs::write(&self.keys, format!("ci {}\n", key.public())).unwrap();
    }

    fn trust(&self) -> TrustConfig {
        TrustConfig {
            keys: self.keys.clone(),
            threshold: 1,
            stamp_age: self.stamps.map(|_| DAY),
            stamp_keys: None,
            proved: Vec::new(),
        }
    }

    /// A PDP that believes this key alone.
    async fn open(&self, stage: &Stage, plan: Plan) -> Source {
        let trust = Some(self.trust());
        stage.open_believing(&self.path, plan, trust).await
    }

    /// What the folder has, signed by `key` under a number.
    fn signed(&self, stage: &Stage, key: &SigningKey, number: u64) -> BundleFile {
        let compiled = author::load(stage.dir.path()).compiled.unwrap();
        let mut bundle = BundleFile::new(compiled.bundle).unwrap();
        let now_us = Clock::system().now_us();
        bundle.sign_content(key);
        bundle.sign_release(key, number, now_us);
        if let Some(life) = self.stamps {
            let life_us = i64::try_from(life.as_micros()).unwrap();
            bundle.stamp(key, now_us, now_us + life_us);
        }
        bundle
    }

    /// Signs what the folder has; a way back lasts as long as is said.
    fn serve(&self, stage: &Stage, number: u64, back: Option<Duration>) -> BundleFile {
        let mut bundle = self.signed(stage, &self.key, number);
        let now_us = Clock::system().now_us();
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
    let source = ci.open(&stage, bold()).await;
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
    let source = ci.open(&stage, bold()).await;
    let mut seen = source.state();
    let orders = source.orders();
    let task = tokio::spawn(source.run());
    assert_eq!(sequence(&seen.borrow()), 7);
    assert!(seen.borrow().set_aside.is_some());
    let again = orders
        .give("ana", Order::Start(bold(), Content::Source))
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
    ci.put(&old);
    until(&mut seen, "old file", |s| s.rejected.is_none()).await;
    stage.edit("y");
    ci.serve(&stage, 8, None);
    until(&mut seen, "its number", |s| {
        rejected(s) == Some(codes::SEQUENCE)
    })
    .await;
    stage.edit("z");
    ci.put(&old);
    until(&mut seen, "old file", |s| s.rejected.is_none()).await;
    *ci.last.lock().unwrap() = Some(old);
    ci.serve(&stage, 9, Some(DAY));
    until(&mut seen, "full", |s| sequence(s) == 9).await;
    task.abort();
}

/// Number of the revision that a proxy of such a build is sent first.
async fn sent(pdp: &Pdp, features: &[&str]) -> u64 {
    let hello = Hello {
        instance: "late".to_owned(),
        features: features.iter().map(|f| (*f).to_owned()).collect(),
        ..Hello::default()
    };
    let hello = ProxyMessage {
        kind: Some(proxy_message::Kind::Hello(hello)),
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", pdp.address)).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut client = DistributionClient::new(channel);
    let said = tokio_stream::once(hello).chain(tokio_stream::pending());
    let mut heard = client.subscribe(said).await.unwrap().into_inner();
    let first = async {
        loop {
            let message = heard.message().await.unwrap().unwrap();
            if let Some(pdp_message::Kind::Revision(revision)) = message.kind {
                return revision.sequence;
            }
        }
    };
    tokio::time::timeout(PATIENCE, first)
        .await
        .expect("a revision")
}

/// A proxy that could not leave it again may come late: it gets the candidate when nobody has to
/// leave it any more.
#[tokio::test]
async fn who_cannot_go_back_and_comes_late_gets_what_nobody_has_to_leave() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    ci.serve(&stage, 7, None);
    let step = Step {
        target: Target::Share(10_000),
        last: LONG,
    };
    let slow = Plan {
        steps: vec![step],
        ..bold()
    };
    let source = ci.open(&stage, slow).await;
    let (mut seen, orders) = (source.state(), source.orders());
    let distribution = Distribution::new(
        DistributionConfig::default(),
        source.state(),
        Clock::system(),
        stage.records.recorder(),
    );
    let pdp = Pdp::serve(&distribution, Some("spiffe://demo.test/ns/shop/sa/web")).await;
    let task = tokio::spawn(source.run());
    stage.edit("x");
    ci.serve(&stage, 8, Some(DAY));
    until(&mut seen, "canary", |s| phase(s) == Some(Phase::Canary(0))).await;
    assert_eq!(
        (sent(&pdp, &[]).await, sent(&pdp, &[WAY_BACK]).await),
        (7, 8)
    );
    orders.give("ana", Order::Promote).await.unwrap();
    until(&mut seen, "full", |s| sequence(s) == 8).await;
    assert_eq!(
        (sent(&pdp, &[]).await, sent(&pdp, &[WAY_BACK]).await),
        (7, 8)
    );
    orders.give("ana", Order::Promote).await.unwrap();
    until(&mut seen, "completed", |s| {
        phase(s) == Some(Phase::Completed)
    })
    .await;
    assert_eq!(sent(&pdp, &[]).await, 8);
    task.abort();
}

/// Also when everybody has it: an order, and a restart on either side of it.
#[tokio::test]
async fn a_signed_revision_that_everybody_has_is_taken_back_while_it_is_watched() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    ci.serve(&stage, 7, None);
    let source = ci.open(&stage, bold()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    ci.serve(&stage, 8, Some(DAY));
    until(&mut seen, "full", |s| sequence(s) == 8).await;
    task.abort();
    let _ = task.await;

    let source = ci.open(&stage, bold()).await;
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
        let source = ci.open(&stage, bold()).await;
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
        let source = ci.open(&stage, plan()).await;
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

/// Without a rollout: by an order, and no further than one step; by no file.
#[tokio::test]
async fn who_has_numbered_both_lets_somebody_go_back_at_once() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    let open = async || at_once(&stage, &ci, Some(ci.trust()), Clock::system()).await;
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
    for (file, told) in [
        (&first, Some(codes::SEQUENCE)),
        (&second, None),
        (&third, Some(codes::SEQUENCE)),
    ] {
        ci.put(file);
        let now = until(&mut seen, "a file", |s| rejected(s) == told).await;
        assert_eq!(sequence(&now), 7);
    }
    *ci.last.lock().unwrap() = Some(second.clone());
    stage.edit("z");
    ci.serve(&stage, 9, Some(DAY));
    until(&mut seen, "next", |s| sequence(s) == 9).await;
    // What it leads to is there again, perhaps in a copy that lags behind.
    ci.put(&second);
    let stale = until(&mut seen, "stale", |s| rejected(s) == Some(codes::SEQUENCE)).await;
    assert_eq!(sequence(&stale), 9);
    task.abort();
}

/// A PDP without a plan.
async fn at_once(stage: &Stage, ci: &Ci, trust: Option<TrustConfig>, clock: Clock) -> Source {
    let config = SourceConfig {
        look: Duration::from_millis(20),
        trust,
        ..config(&ci.path, stage.state.path())
    };
    let opened = Source::open(config, clock, stage.records.recorder());
    opened.await.unwrap()
}

/// Where the PDP itself signs, no way back keeps it from putting old content in force again.
#[tokio::test]
async fn where_nobody_must_have_signed_a_number_of_the_pdp_does_as_well() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    let first = ci.serve(&stage, 6, None);
    let source = at_once(&stage, &ci, None, Clock::system()).await;
    let mut seen = source.state();
    let orders = source.orders();
    let task = tokio::spawn(source.run());
    for (id, number) in [("x", 7), ("y", 8)] {
        stage.edit(id);
        ci.serve(&stage, number, Some(DAY));
        until(&mut seen, "next", |s| sequence(s) == number).await;
    }
    let order = Order::Rollback(Some("6".into()));
    orders.give("ana", order).await.unwrap();
    let now = seen.borrow().current.clone().unwrap();
    assert_eq!((now.sequence(), now.digest()), (9, first.digest));
    task.abort();
}

/// A rollout that everybody has, or some, and what comes to the source meanwhile.
#[tokio::test]
async fn what_is_older_or_not_signed_ends_no_rollout() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    let old = ci.serve(&stage, 7, None);
    let slow = Plan {
        steps: vec![crate::publish::rollout::Step {
            last: LONG,
            ..bold().steps[0].clone()
        }],
        ..bold()
    };
    let source = ci.open(&stage, slow).await;
    let mut seen = source.state();
    let orders = source.orders();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    let new = ci.serve(&stage, 8, Some(DAY));
    let canary = |s: &State| matches!(phase(s), Some(Phase::Canary(_)));
    until(&mut seen, "canary", canary).await;
    let stranger = SigningKey::generate().unwrap().0;
    stage.edit("y");
    let made_up = ci.signed(&stage, &stranger, 9);
    for full in [false, true] {
        for (file, told) in [(&old, codes::SEQUENCE), (&made_up, signing::NOT_SIGNED)] {
            ci.put(file);
            let now = until(&mut seen, "refused", |s| rejected(s) == Some(told)).await;
            assert_eq!(candidate(&now), 8);
            assert_eq!(why(&now), None);
            assert_eq!(phase(&now) == Some(Phase::Full), full, "{:?}", phase(&now));
            ci.put(&new);
            until(&mut seen, "there again", |s| s.rejected.is_none()).await;
        }
        if !full {
            orders.give("ana", Order::Promote).await.unwrap();
            until(&mut seen, "full", |s| sequence(s) == 8).await;
        }
    }
    // What somebody paused is in doubt: it goes back before something newer begins.
    orders.give("ana", Order::Pause).await.unwrap();
    *ci.last.lock().unwrap() = Some(old);
    ci.serve(&stage, 9, Some(DAY));
    let next = until(&mut seen, "next", |s| candidate(s) == 9).await;
    let baseline = next.rollout.as_ref().unwrap().baseline.sequence();
    assert_eq!((sequence(&next), baseline), (7, 7));
    task.abort();
}

/// While a rollout counts on its way back, no other takes its place that leads elsewhere or
/// ends earlier, nor one that too few have signed.
#[tokio::test]
async fn a_running_rollout_keeps_the_way_back_that_it_counts_on() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    let old = ci.serve(&stage, 7, None);
    let source = ci.open(&stage, bold()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    let new = ci.serve(&stage, 8, Some(DAY));
    until(&mut seen, "full", |s| sequence(s) == 8).await;
    let until_us = |file: &BundleFile| {
        let release = file.signed.release.as_ref().unwrap();
        release.way_back.as_ref().unwrap().until_us
    };
    let in_force = |s: &State| {
        let current = s.current.as_ref().unwrap();
        let back = current.revision.way_back.as_ref().unwrap();
        (back.sequence, back.until_us, back.signatures.len())
    };
    let given_us = until_us(&new);
    let release = |file: &BundleFile| file.signed.release.clone().unwrap();
    let with = |to: &BundleFile, by: &SigningKey, end_us: i64| {
        let mut file = new.clone();
        file.signed.release.as_mut().unwrap().way_back = None;
        file.sign_way_back(by, to, end_us).unwrap();
        file
    };
    let mut elsewhere = old.clone();
    elsewhere.sign_release(&ci.key, 6, 1);
    let stranger = SigningKey::generate().unwrap().0;
    let worse = [
        with(&elsewhere, &ci.key, given_us + 1),
        with(&old, &ci.key, given_us - 1),
        with(&old, &stranger, given_us + 1),
    ];
    // Each comes with another signature of the number, to see when it was looked at.
    for (file, n) in worse.into_iter().zip(1..) {
        let mut file = file;
        let more: Vec<SigningKey> = (0..n).map(|_| SigningKey::generate().unwrap().0).collect();
        more.iter()
            .for_each(|key| file.sign_release(key, 8, release(&new).issued_us));
        ci.put(&file);
        let now = until(&mut seen, "seen", |s| {
            let current = s.rollout.as_ref().unwrap().candidate.clone();
            current.revision.release_signatures.len() == n + 1
        })
        .await;
        assert_eq!(in_force(&now), (7, given_us, 1));
    }
    task.abort();
    let _ = task.await;
    let source = ci.open(&stage, bold()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    ci.put(&with(&old, &ci.key, given_us + 1));
    until(&mut seen, "later", |s| {
        let candidate = &s.rollout.as_ref().unwrap().candidate;
        candidate.revision.way_back.as_ref().unwrap().until_us == given_us + 1
    })
    .await;
    task.abort();
}

/// What keeps the old revision from being in force again is told, and tried again.
#[tokio::test]
async fn a_way_back_that_is_blocked_is_gone_once_it_can_be() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    ci.serve(&stage, 7, None);
    let source = ci.open(&stage, bold()).await;
    let mut seen = source.state();
    let orders = source.orders();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    ci.serve(&stage, 8, Some(DAY));
    until(&mut seen, "full", |s| sequence(s) == 8).await;
    fs::remove_file(&ci.keys).unwrap();
    orders.give("ana", Order::Abort).await.unwrap();
    let now = until(&mut seen, "told", |s| rejected(s) == Some(signing::KEYS)).await;
    assert_eq!(sequence(&now), 8);
    assert!(matches!(phase(&now), Some(Phase::Halted(_))));
    // Whoever connects meanwhile does not get it any more.
    let id = SpiffeId::parse("spiffe://demo.test/ns/shop/sa/web").unwrap();
    for returns in [true, false] {
        let seat = Seat {
            identity: &id,
            instance: "late",
            returns,
        };
        assert_eq!(now.wanted(seat).unwrap().sequence(), 7);
    }
    ci.trust_in(&ci.key);
    let back = until(&mut seen, "back", |s| sequence(s) == 7).await;
    assert_eq!(why(&back), Some(Stop::Aborted));
    until(&mut seen, "mended", |s| s.rejected.is_none()).await;
    task.abort();
}

/// What those who are trusted have not signed any more is not brought to more of the proxies.
#[tokio::test]
async fn a_candidate_whose_key_is_taken_out_is_halted() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    ci.serve(&stage, 7, None);
    let slow = Plan {
        steps: vec![Step {
            last: LONG,
            ..bold().steps[0].clone()
        }],
        ..bold()
    };
    let source = ci.open(&stage, slow).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    ci.serve(&stage, 8, Some(DAY));
    until(&mut seen, "canary", |s| {
        matches!(phase(s), Some(Phase::Canary(_)))
    })
    .await;
    ci.trust_in(&SigningKey::generate().unwrap().0);
    let now = until(&mut seen, "halted", |s| why(s).is_some()).await;
    assert_eq!((sequence(&now), why(&now)), (7, Some(Stop::Refused)));
    task.abort();
}

/// A proxy of a build that takes no lower number would be left with the candidate.
#[tokio::test]
async fn nobody_is_first_while_a_proxy_cannot_go_back() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    ci.serve(&stage, 7, None);
    stage.proxy.old.store(true, Ordering::Relaxed);
    let source = ci.open(&stage, plan()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    ci.serve(&stage, 8, Some(DAY));
    let done = until(&mut seen, "completed", |s| {
        phase(s) == Some(Phase::Completed) && sequence(s) == 8
    })
    .await;
    let underway = done.rollout.as_ref().unwrap();
    let turns = &underway.rollout.turns;
    assert!(turns.iter().all(|t| !t.what.starts_with("canary")));
    let notes = &underway.candidate.diagnostics;
    let note = notes.iter().find(|d| d.code.0 == codes::ROLLOUT_NO_CANARY);
    let cause = note.unwrap().cause.clone().unwrap();
    assert!(cause.ends_with("cannot go back: web"), "{cause}");
    task.abort();
}

/// Where stamps are demanded, a way back is no longer than the stamp of what it leads to.
#[tokio::test]
async fn the_stamp_of_the_old_revision_ends_its_way_back() {
    for (life, steps) in [(Duration::from_secs(60), false), (DAY, true)] {
        let stage = Stage::new();
        let mut ci = Ci::new(&stage);
        ci.stamps = Some(life);
        ci.serve(&stage, 7, None);
        let source = ci.open(&stage, plan()).await;
        let mut seen = source.state();
        let task = tokio::spawn(source.run());
        stage.edit("x");
        ci.serve(&stage, 8, Some(DAY));
        let done = until(&mut seen, "completed", |s| {
            phase(s) == Some(Phase::Completed) && sequence(s) == 8
        })
        .await;
        let turns = &done.rollout.as_ref().unwrap().rollout.turns;
        let is_canary = turns.iter().any(|t| t.what.starts_with("canary"));
        assert_eq!(is_canary, steps, "{turns:?}");
        task.abort();
    }
}

/// A way back that has ended does not begin again because a clock is set back.
#[tokio::test]
async fn a_clock_that_is_set_back_lets_no_pdp_back() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    let clock = Clock::manual(jiff::Timestamp::now());
    let open = async || at_once(&stage, &ci, Some(ci.trust()), clock.clone()).await;
    let back = async |orders: &crate::publish::Orders| {
        let done = orders.give("ana", Order::Rollback(None)).await;
        done.map(drop).map_err(|d| d.code.0)
    };
    ci.serve(&stage, 7, None);
    let source = open().await;
    let (mut seen, orders) = (source.state(), source.orders());
    let task = tokio::spawn(source.run());
    stage.edit("x");
    ci.serve(&stage, 8, Some(DAY));
    until(&mut seen, "second", |s| sequence(s) == 8).await;
    clock.set_ahead(DAY * 2);
    let journal = stage.path("rollout.json");
    let late_us = clock.now_us().to_string();
    eventually("written down", || {
        fs::read_to_string(&journal).is_ok_and(|text| text.contains(&late_us))
    })
    .await;
    clock.set_back(DAY * 2);
    assert_eq!(back(&orders).await, Err(signing::WAY_BACK));
    task.abort();
    let _ = task.await;
    let source = open().await;
    let orders = source.orders();
    let task = tokio::spawn(source.run());
    assert_eq!(back(&orders).await, Err(signing::WAY_BACK));
    task.abort();
}

/// What is not believed any more at a restart is given up for good: some proxies had it.
#[tokio::test]
async fn a_rollout_that_is_not_believed_after_a_restart_is_not_begun_again() {
    let stage = Stage::new();
    let ci = Ci::new(&stage);
    ci.serve(&stage, 7, None);
    let slow = || Plan {
        steps: vec![crate::publish::rollout::Step {
            last: LONG,
            ..bold().steps[0].clone()
        }],
        ..bold()
    };
    let canary = |s: &State| matches!(phase(s), Some(Phase::Canary(_)));
    let source = ci.open(&stage, slow()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    ci.serve(&stage, 8, Some(DAY));
    until(&mut seen, "canary", canary).await;
    task.abort();
    let _ = task.await;
    // Keys that cannot be read are a matter of a moment.
    fs::remove_file(&ci.keys).unwrap();
    let source = ci.open(&stage, slow()).await;
    assert!(canary(&source.state().borrow()));
    drop(source);
    // A key that was taken out is none.
    ci.trust_in(&SigningKey::generate().unwrap().0);
    drop(ci.open(&stage, slow()).await);
    ci.trust_in(&ci.key);
    let source = ci.open(&stage, slow()).await;
    let now = source.state().borrow().clone();
    assert_eq!((sequence(&now), phase(&now)), (7, None));
    let orders = source.orders();
    let task = tokio::spawn(source.run());
    let again = Order::Start(slow(), Content::Source);
    let again = orders.give("ana", again).await;
    assert_eq!(again.unwrap_err().code.0, codes::SEQUENCE);
    task.abort();
}
