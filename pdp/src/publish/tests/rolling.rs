//! A source with a rollout: over restarts, changes of mind, and losses on its disk.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use palisade_mesh::{
    spiffe_id::SpiffeId,
    wire::policy::{Ack, Health, Hello, Trial},
};
use tempfile::TempDir;

use super::*;
use crate::publish::{
    Content, Order, ProxyStatus,
    registry::Registry,
    rollout::{Gates, Phase, Plan, Seat, Step, Stop, Target},
};
use crate::{
    author,
    bundle::{WAY_BACK, file::BundleFile, key::SigningKey, trust::TrustConfig},
};

/// Longer than any test.
pub(super) const LONG: Duration = Duration::from_secs(600);
/// As short as it can be seen.
pub(super) const SHORT: Duration = Duration::from_millis(60);

pub(super) fn plan() -> Plan {
    Plan {
        shadow: Some(SHORT),
        every: 1,
        steps: vec![Step {
            target: Target::Share(10_000),
            last: SHORT,
        }],
        watch: SHORT,
        patience: LONG,
        ready_within: LONG,
        pause_limit: LONG,
        gates: Gates {
            min_decisions: 1,
            ..Gates::default()
        },
    }
}

/// A proxy that does what it is told, and tells of so many flips.
#[derive(Default)]
pub(super) struct Proxy {
    registry: Mutex<Registry>,
    asked: AtomicU64,
    pub(super) denied: AtomicU64,
    /// Whether it is of a build that takes no lower number.
    pub(super) old: AtomicBool,
}

impl Proxy {
    fn tell(&self, state: &State) -> Vec<ProxyStatus> {
        let mut registry = self.registry.lock().unwrap();
        let id = SpiffeId::parse("spiffe://demo.test/ns/shop/sa/web").unwrap();
        let hello = Hello {
            instance: "web".into(),
            features: match self.old.load(Ordering::Relaxed) {
                true => Vec::new(),
                false => vec![WAY_BACK.to_owned()],
            },
            ..Hello::default()
        };
        let key = registry.hello(&id, &hello, 1, 0).unwrap();
        let seat = Seat {
            identity: &id,
            instance: "web",
            returns: !self.old.load(Ordering::Relaxed),
        };
        let wanted = state.wanted(seat).unwrap();
        let ack = Ack {
            sha256: wanted.digest().0.to_vec(),
            sequence: wanted.sequence(),
        };
        registry.ack(&key, 1, &ack, 0);
        let asked = self.asked.fetch_add(10, Ordering::Relaxed) + 10;
        let trial = state.tried(seat).map(|tried| Trial {
            sequence: tried.sequence(),
            beside: wanted.sequence(),
            evaluated: asked,
            newly_denied: self.denied.load(Ordering::Relaxed),
            ..Trial::default()
        });
        let health = Health {
            sha256: wanted.digest().0.to_vec(),
            sequence: wanted.sequence(),
            decided: asked,
            ..Health::default()
        };
        let status = Status {
            trial,
            health: Some(health),
            ..Status::default()
        };
        registry.status(&key, 1, status, 0);
        registry.snapshot()
    }
}

/// A folder, a state folder, and one proxy.
pub(super) struct Stage {
    pub(super) dir: TempDir,
    pub(super) state: TempDir,
    pub(super) records: Records,
    pub(super) proxy: Arc<Proxy>,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self {
            dir: sample::copy(),
            state: tempfile::tempdir().unwrap(),
            records: Records::default(),
            proxy: Arc::default(),
        }
    }

    async fn open(&self, plan: Plan) -> Source {
        self.open_at(self.dir.path(), plan).await
    }

    pub(super) async fn open_at(&self, place: &Path, plan: Plan) -> Source {
        self.open_believing(place, plan, None).await
    }

    pub(super) async fn open_believing(
        &self,
        place: &Path,
        plan: Plan,
        trust: Option<TrustConfig>,
    ) -> Source {
        self.open_with(SourceConfig {
            rollout: Some(plan),
            trust,
            ..config(place, self.state.path())
        })
        .await
    }

    pub(super) async fn open_with(&self, config: SourceConfig) -> Source {
        let config = SourceConfig {
            look: Duration::from_millis(20),
            ..config
        };
        let source = Source::open(config, Clock::system(), self.records.recorder());
        let source = source.await.expect("opens");
        let (proxy, state) = (self.proxy.clone(), source.state());
        source.observing(move || proxy.tell(&state.borrow().clone()))
    }

    pub(super) fn edit(&self, id: &str) {
        let text = format!("@id(\"{id}\")\n{PERMIT}");
        sample::write(self.dir.path(), "policies/x.cedar", &text);
    }

    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.state.path().join(name)
    }
}

pub(super) fn phase(state: &State) -> Option<Phase> {
    state.rollout.as_ref().map(|u| u.rollout.phase.clone())
}

pub(super) fn candidate(state: &State) -> u64 {
    state.rollout.as_ref().map_or(0, |u| u.candidate.sequence())
}

pub(super) fn why(state: &State) -> Option<Stop> {
    Some(state.rollout.as_ref()?.rollout.stopped()?.by)
}

#[tokio::test]
async fn a_new_revision_is_in_force_once_every_phase_has_ended_well() {
    let stage = Stage::new();
    let source = stage.open(plan()).await;
    let mut seen = source.state();
    assert_eq!(sequence(&seen.borrow()), 1, "the first needs no rollout");
    let task = tokio::spawn(source.run());
    stage.edit("x");
    let canary = |s: &State| matches!(phase(s), Some(Phase::Canary(0)));
    let now = until(&mut seen, "canary", canary).await;
    assert_eq!((sequence(&now), candidate(&now)), (1, 2));
    until(&mut seen, "full", |s| sequence(s) == 2).await;
    let done = until(&mut seen, "completed", |s| {
        phase(s) == Some(Phase::Completed)
    })
    .await;
    assert_eq!((sequence(&done), done.set_aside), (2, None));
    task.abort();
    let said: Vec<String> = stage.records.verbs();
    let verbs: Vec<&str> = said.iter().filter_map(|v| v.split(' ').next()).collect();
    assert_eq!(verbs[0], "rollout_planned");
    assert_eq!(verbs.last(), Some(&"rollout_completed"));
    // Nothing is left to do for the next start.
    let again = stage.open(plan()).await;
    assert_eq!(sequence(&again.state().borrow()), 2);
    assert_eq!(phase(&again.state().borrow()), Some(Phase::Completed));
}

/// What others have numbered cannot be taken back under a number of ours, so nobody enforces
/// it before everybody does: it is tried, then complete.
#[tokio::test]
async fn a_revision_with_its_own_number_is_tried_and_enforced_by_nobody_before_all() {
    let stage = Stage::new();
    let file = stage.path("shop.palisade");
    let (key, _) = SigningKey::generate().unwrap();
    let serve = |number: u64| {
        let compiled = author::load(stage.dir.path()).compiled.unwrap();
        let mut bundle = BundleFile::new(compiled.bundle).unwrap();
        bundle.sign_content(&key);
        bundle.sign_release(&key, number, 1);
        let draft = file.with_extension("new");
        fs::write(&draft, bundle.encode()).unwrap();
        fs::rename(draft, &file).unwrap();
    };
    serve(7);
    let source = stage.open_at(&file, plan()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.proxy.denied.store(5, Ordering::Relaxed);
    stage.edit("x");
    serve(8);
    let stopped = |s: &State| matches!(phase(s), Some(Phase::RolledBack(_)));
    let halted = until(&mut seen, "halted", stopped).await;
    assert_eq!((sequence(&halted), why(&halted)), (7, Some(Stop::Gate)));

    stage.proxy.denied.store(0, Ordering::Relaxed);
    stage.edit("y");
    serve(9);
    let done = until(&mut seen, "completed", |s| {
        phase(s) == Some(Phase::Completed) && sequence(s) == 9
    })
    .await;
    let turns = &done.rollout.as_ref().unwrap().rollout.turns;
    assert!(
        turns.iter().all(|turn| !turn.what.starts_with("canary")),
        "{turns:?}"
    );
    let revision = &done.current.unwrap().revision;
    assert_eq!(revision.release_signatures[0].key, key.public().as_bytes());
    serve(8);
    let older = until(&mut seen, "older", |s| s.rejected.is_some()).await;
    assert_eq!(
        older.rejected.unwrap().diagnostics[0].code.0,
        codes::SEQUENCE
    );
    task.abort();
}

/// A rollout that has ended says nothing about what may be in force after the next start.
#[tokio::test]
async fn a_restart_asks_again_who_has_signed() {
    let stage = Stage::new();
    let source = stage.open(plan()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    until(&mut seen, "completed", |s| {
        phase(s) == Some(Phase::Completed)
    })
    .await;
    task.abort();
    let _ = task.await;
    let keys = stage.path("trusted.keys");
    let (key, _) = SigningKey::generate().unwrap();
    fs::write(&keys, format!("ci {}\n", key.public())).unwrap();
    let config = SourceConfig {
        rollout: Some(plan()),
        trust: Some(TrustConfig {
            keys,
            threshold: 1,
            stamp_age: None,
            stamp_keys: None,
            proved: Vec::new(),
        }),
        ..config(stage.dir.path(), stage.state.path())
    };
    let source = Source::open(config, Clock::system(), stage.records.recorder());
    let state = source.await.unwrap().state().borrow().clone();
    assert!(state.current.is_none(), "nobody but the PDP has signed it");
}

#[tokio::test]
async fn what_was_halted_stays_out_until_the_source_has_something_else() {
    let stage = Stage::new();
    stage.proxy.denied.store(5, Ordering::Relaxed);
    let source = stage.open(plan()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    let stopped = |s: &State| matches!(phase(s), Some(Phase::RolledBack(_)));
    let halted = until(&mut seen, "halted", stopped).await;
    assert_eq!((sequence(&halted), why(&halted)), (1, Some(Stop::Gate)));
    task.abort();
    let _ = task.await;

    stage.proxy.denied.store(0, Ordering::Relaxed);
    let source = stage.open(plan()).await;
    let mut seen = source.state();
    assert!(seen.borrow().set_aside.is_some(), "also after a restart");
    let orders = source.orders();
    let mut standings = source.standings();
    let task = tokio::spawn(source.run());
    // The folder is read again, twice, and still has it.
    for _ in 0..2 {
        let heard_us = standings.borrow()[0].heard_us;
        until(&mut standings, "a word of the folder", |all| {
            all[0].heard_us > heard_us
        })
        .await;
    }
    assert_eq!(
        (sequence(&seen.borrow()), candidate(&seen.borrow())),
        (1, 2)
    );
    stage.edit("y");
    let other = until(&mut seen, "something else", |s| sequence(s) == 3).await;
    assert_eq!(other.set_aside, None);
    until(&mut seen, "completed", |s| {
        phase(s) == Some(Phase::Completed)
    })
    .await;
    // Or somebody says so: what is in force already is nothing to try.
    let nothing = orders
        .give("ana", Order::Start(plan(), Content::Source))
        .await;
    assert_eq!(nothing.unwrap_err().code.0, codes::ROLLOUT_NOTHING);
    task.abort();
}

#[tokio::test]
async fn a_restart_goes_on_where_it_was() {
    let stage = Stage::new();
    // Nothing goes on by itself, however slow the machine.
    let long = Plan {
        shadow: Some(LONG),
        steps: vec![Step {
            target: Target::Share(10_000),
            last: LONG,
        }],
        watch: LONG,
        ..plan()
    };
    let source = stage.open(long.clone()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    let shadow = until(&mut seen, "shadow", |s| phase(s) == Some(Phase::Shadow)).await;
    let before = shadow.rollout.unwrap().rollout.clone();
    task.abort();
    let _ = task.await;

    let source = stage.open(long).await;
    let mut seen = source.state();
    let now = seen.borrow().clone();
    assert_eq!((sequence(&now), candidate(&now)), (1, 2));
    let rollout = &now.rollout.as_ref().unwrap().rollout;
    assert_eq!(
        (rollout.since_us, &rollout.phase),
        (before.since_us, &before.phase)
    );
    let orders = source.orders();
    let task = tokio::spawn(source.run());
    for _ in 0..3 {
        orders.give("ana", Order::Promote).await.unwrap();
    }
    until(&mut seen, "completed", |s| {
        phase(s) == Some(Phase::Completed)
    })
    .await;
    assert_eq!(sequence(&seen.borrow()), 2);
    task.abort();
}

/// The journal comes first: whatever was not done when the process died is done at the
/// next start.
#[tokio::test]
async fn a_crash_between_journal_and_revision_is_made_good() {
    let stage = Stage::new();
    let long = Plan {
        watch: LONG,
        ..plan()
    };
    let source = stage.open(long.clone()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    until(&mut seen, "full", |s| sequence(s) == 2).await;
    task.abort();
    let _ = task.await;
    fs::copy(stage.path("baseline.pb"), stage.path("revision.pb")).unwrap();

    let source = stage.open(long.clone()).await;
    assert_eq!(sequence(&source.state().borrow()), 2);
    let orders = source.orders();
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    orders.give("ana", Order::Abort).await.unwrap();
    let back = until(&mut seen, "old content", |s| sequence(s) == 3).await;
    let current = back.current.unwrap();
    let baseline = &back.rollout.unwrap().baseline;
    assert_eq!(current.digest(), baseline.digest());
    task.abort();
}

/// Proxies may have the candidate's number, so the old content needs a higher one.
#[tokio::test]
async fn a_rollout_whose_revision_is_lost_is_given_up() {
    let stage = Stage::new();
    let long = Plan {
        watch: LONG,
        ..plan()
    };
    let source = stage.open(long.clone()).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    until(&mut seen, "canary", |s| {
        matches!(phase(s), Some(Phase::Canary(_)))
    })
    .await;
    task.abort();
    let _ = task.await;
    fs::remove_file(stage.path("baseline.pb")).unwrap();
    let source = stage.open(long.clone()).await;
    let now = source.state().borrow().clone();
    assert_eq!(sequence(&now), 3);
    assert!(!now.current.unwrap().compiled.info.contains_key("x"));
    assert!(now.set_aside.is_some(), "the folder still has it");
    drop(source);

    fs::write(stage.path("rollout.json"), "{").unwrap();
    let config = config(stage.dir.path(), stage.state.path());
    let damaged = Source::open(config, Clock::system(), stage.records.recorder()).await;
    assert_eq!(
        damaged.unwrap_err().diagnostic().code.0,
        codes::ROLLOUT_JOURNAL
    );
}

#[tokio::test]
async fn the_newest_content_wins() {
    let stage = Stage::new();
    let long = Plan {
        watch: LONG,
        steps: vec![Step {
            target: Target::Share(10_000),
            last: LONG,
        }],
        ..plan()
    };
    let source = stage.open(long).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    stage.edit("x");
    until(&mut seen, "canary", |s| {
        matches!(phase(s), Some(Phase::Canary(_)))
    })
    .await;
    stage.edit("y");
    // 3 is the old content, for the canary; 4 is the new candidate.
    let newer = until(&mut seen, "the next candidate", |s| candidate(s) == 4).await;
    assert_eq!(sequence(&newer), 3);
    assert!(newer.set_aside.is_none());
    // Back to what is in force: it just stops.
    fs::remove_file(stage.dir.path().join("policies/x.cedar")).unwrap();
    let stopped = until(&mut seen, "stopped", |s| why(s).is_some()).await;
    assert_eq!(why(&stopped), Some(Stop::Superseded));
    assert_eq!(stopped.set_aside, None);
    task.abort();
    let halts = stage.records.verbs();
    let halts = halts.iter().filter(|v| v.starts_with("rollout_halted"));
    assert_eq!(halts.count(), 2);
}

/// One command, without a rollout: the last three are kept.
#[tokio::test]
async fn going_back_is_old_content_under_a_new_number() {
    let (dir, state) = (sample::copy(), tempfile::tempdir().unwrap());
    let records = Records::default();
    let source = open(dir.path(), state.path(), &records).await;
    let mut seen = source.state();
    let orders = source.orders();
    let task = tokio::spawn(source.run());
    let mut digests = vec![seen.borrow().current.as_ref().unwrap().digest()];
    for n in 2..=4 {
        let text = format!("@id(\"x{n}\")\n{PERMIT}");
        sample::write(dir.path(), "policies/x.cedar", &text);
        let now = until(&mut seen, "next", |s| sequence(s) == n).await;
        digests.push(now.current.unwrap().digest());
    }
    let digest = |seen: &watch::Receiver<State>| seen.borrow().current.as_ref().unwrap().digest();
    orders.give("ana", Order::Rollback(None)).await.unwrap();
    assert_eq!((sequence(&seen.borrow()), digest(&seen)), (5, digests[2]));
    orders
        .give("ana", Order::Rollback(Some("2".into())))
        .await
        .unwrap();
    assert_eq!((sequence(&seen.borrow()), digest(&seen)), (6, digests[1]));
    let gone = orders.give("ana", Order::Rollback(Some("1".into()))).await;
    assert_eq!(gone.unwrap_err().code.0, codes::ROLLOUT_UNKNOWN);
    let present = digests[1].to_string();
    let same = orders.give("ana", Order::Rollback(Some(present))).await;
    assert_eq!(same.unwrap_err().code.0, codes::ROLLOUT_NOTHING);
    let by_digest = digests[3].to_string();
    let by_digest = by_digest.get(..8).unwrap().to_owned();
    orders
        .give("ana", Order::Rollback(Some(by_digest)))
        .await
        .unwrap();
    assert_eq!((sequence(&seen.borrow()), digest(&seen)), (7, digests[3]));
    orders.give("ana", Order::Rollback(None)).await.unwrap();
    task.abort();
    let _ = task.await;
    let verbs = records.verbs();
    assert_eq!(
        verbs.iter().filter(|v| v.starts_with("rollback")).count(),
        4
    );
    // The folder has not changed, so it does not come back by itself.
    let source = open(dir.path(), state.path(), &records).await;
    assert_eq!(sequence(&source.state().borrow()), 8);
    assert_eq!(source.state().borrow().set_aside, Some(digests[3]));
}
