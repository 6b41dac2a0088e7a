//! Rotation as operators order it: acknowledged, late, compromised, step by step, and
//! cut off by a crash after every transition.

use palisade_mesh::wire::ca::{Acknowledgement, Holder};

use super::*;
use crate::{
    authority::KeyId,
    server::{acks::Acks, books::Books, offline},
    store,
};

/// Time in which nobody comes back any more, and every word has settled.
const QUIET: Duration = Duration::from_secs(16);

fn order(kind: Kind) -> Rotation {
    Rotation {
        kind,
        stage: None,
        compromised: false,
        now: false,
    }
}

/// An agent whose only workload holds a certificate of this intermediate.
fn word(ca: &Ca, sequence: u64, issuer: KeyId) {
    let epoch = ca.trust().borrow().epoch;
    let told = Acknowledgement {
        agent: "host-a".into(),
        epoch,
        bundle_sequence: sequence,
        holders: vec![Holder {
            spiffe_id: "spiffe://acme.test/web".into(),
            streams: 1,
            bundle_sequence: sequence,
            issuers: vec![issuer.as_bytes().to_vec()],
        }],
    };
    ca.acknowledge(told).unwrap();
}

fn sequence(ca: &Ca) -> u64 {
    ca.trust().borrow().sequence
}

async fn signing(ca: &Ca) -> KeyId {
    let all = ca.authorities().await;
    let mut active = all
        .iter()
        .filter(|a| a.is(Kind::Intermediate, State::Active));
    active.next().unwrap().key_id
}

async fn after(ca: &Ca, clock: &Clock, time: Duration) {
    clock.advance(time);
    ca.maintain().await.unwrap();
}

use State::{Active, Prepared, Retiring, Tainted};

const ROOT: Kind = Kind::Root;
const LOWER: Kind = Kind::Intermediate;

#[tokio::test]
async fn a_forced_root_signs_when_agents_and_workloads_have_acknowledged_it() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    let (first, before) = (signing(&ca).await, sequence(&ca));
    let old = ca.svid_for_role("pdp").await.unwrap();
    word(&ca, before, first);
    ca.rotate(order(ROOT), "test").await.unwrap();
    let published = sequence(&ca);
    assert!(published > before);
    let waits = [(ROOT, Active), (ROOT, Prepared), (LOWER, Active)];
    assert_eq!(states(&ca).await, waits);
    after(&ca, &clock, QUIET).await;
    assert_eq!(states(&ca).await, waits);
    let waiting = ca.standing().await.waiting.unwrap();
    assert_eq!(waiting.missing.len(), 2, "agent and workload: {waiting:?}");
    assert_eq!(waiting.deadline_s, ca.now_s() - 16 + 3600);

    word(&ca, published, first);
    assert!(ca.standing().await.waiting.unwrap().missing.is_empty());
    ca.maintain().await.unwrap();
    assert_eq!(states(&ca).await, waits, "it needs a moment to use it");
    after(&ca, &clock, Duration::from_secs(4)).await;
    assert_eq!(states(&ca).await, waits);
    after(&ca, &clock, Duration::from_secs(1)).await;
    let overlap = [
        (ROOT, Retiring),
        (ROOT, Active),
        (LOWER, Retiring),
        (LOWER, Active),
    ];
    assert_eq!(states(&ca).await, overlap);
    let trust = ca.trust().borrow().clone();
    assert_eq!(trust.superseded.len(), 1);
    assert_eq!(trust.superseded[0].authority, first.as_bytes());
    assert!(!trust.superseded[0].tainted);
    let new = ca.svid_for_role("pdp").await.unwrap();
    for svid in [&old, &new] {
        assert!(verifies(&clock, svid, &bundle(&ca)));
    }
    after(&ca, &clock, Duration::from_secs(3601)).await;
    assert_eq!(states(&ca).await, [(ROOT, Active), (LOWER, Active)]);
    assert!(ca.trust().borrow().superseded.is_empty());
}

#[tokio::test]
async fn a_forced_root_signs_at_the_deadline_without_those_who_are_silent() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let mut config = CaConfig::new(domain(), dir.path().join("ca"));
    config.ack_deadline = Some(Duration::from_secs(600));
    let stream = Records::default().stream();
    let ca = Ca::start(config, clock.clone(), stream).await.unwrap();
    ca.svid_for_role("pdp").await.unwrap();
    word(&ca, sequence(&ca), signing(&ca).await);
    ca.rotate(order(ROOT), "test").await.unwrap();
    after(&ca, &clock, Duration::from_secs(599)).await;
    assert_eq!(states(&ca).await.len(), 3);
    after(&ca, &clock, Duration::from_secs(1)).await;
    assert_eq!(states(&ca).await.len(), 4);
}

#[tokio::test]
async fn an_order_outlives_the_process() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    ca.rotate(order(ROOT), "test").await.unwrap();
    stop(ca).await;
    let ca = start(dir.path(), &clock).await.unwrap();
    assert_eq!(states(&ca).await.len(), 3, "agents may still come back");
    after(&ca, &clock, QUIET).await;
    assert_eq!(ca.authorities().await[1].state, Active);
}

#[tokio::test]
async fn a_forced_issuer_is_replaced_at_once_under_the_same_root() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    let first = signing(&ca).await;
    // Without a valid leaf under it, it would retire at once.
    ca.svid_for_role("pdp").await.unwrap();
    ca.rotate(order(LOWER), "test").await.unwrap();
    assert_ne!(signing(&ca).await, first);
    let states = states(&ca).await;
    assert_eq!(states, [(ROOT, Active), (LOWER, Retiring), (LOWER, Active)]);
    assert_eq!(
        ca.trust().borrow().superseded[0].authority,
        first.as_bytes()
    );
}

#[tokio::test]
async fn a_compromised_root_is_revoked_when_its_certificates_are_replaced() {
    for kind in [ROOT, LOWER] {
        let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
        let ca = start(dir.path(), &clock).await.unwrap();
        let first = signing(&ca).await;
        let old = ca.svid_for_role("pdp").await.unwrap();
        word(&ca, sequence(&ca), first);
        let compromised = Rotation {
            compromised: true,
            ..order(kind)
        };
        ca.rotate(compromised, "test").await.unwrap();
        let waits = [(ROOT, Tainted), (ROOT, Prepared), (LOWER, Tainted)];
        assert_eq!(states(&ca).await, waits);
        // Until everybody knows the next root, the tainted one keeps the mesh alive.
        assert!(ca.trust().borrow().superseded.is_empty());
        let stopgap = ca.svid_for_role("pdp").await.unwrap();
        assert!(verifies(&clock, &stopgap, &bundle(&ca)));
        let again = ca.rotate(compromised, "test").await.unwrap_err();
        assert_eq!(again.diagnostic().code.0, 4037);

        clock.advance(QUIET);
        word(&ca, sequence(&ca), first);
        after(&ca, &clock, QUIET).await;
        let replacing = [
            (ROOT, Tainted),
            (ROOT, Active),
            (LOWER, Tainted),
            (LOWER, Active),
        ];
        assert_eq!(states(&ca).await, replacing);
        assert!(ca.trust().borrow().superseded[0].tainted);
        assert!(verifies(&clock, &old, &bundle(&ca)), "still in the bundle");
        word(&ca, sequence(&ca), first);
        after(&ca, &clock, QUIET).await;
        assert_eq!(
            states(&ca).await,
            replacing,
            "somebody shows an old certificate"
        );
        let waiting = ca.standing().await.waiting.unwrap();
        assert_eq!(waiting.state, Tainted);
        assert_eq!(
            waiting.missing[0].spiffe_id.as_deref(),
            Some("spiffe://acme.test/web")
        );

        word(&ca, sequence(&ca), signing(&ca).await);
        after(&ca, &clock, QUIET).await;
        assert_eq!(states(&ca).await, [(ROOT, Active), (LOWER, Active)]);
        assert!(!verifies(&clock, &old, &bundle(&ca)), "{kind}");
        let new = ca.svid_for_role("pdp").await.unwrap();
        assert!(verifies(&clock, &new, &bundle(&ca)));
    }
}

#[tokio::test]
async fn a_compromised_root_is_revoked_at_once_if_told() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    let old = ca.svid_for_role("pdp").await.unwrap();
    word(&ca, sequence(&ca), signing(&ca).await);
    let mut compromised = Rotation {
        compromised: true,
        ..order(ROOT)
    };
    ca.rotate(compromised, "test").await.unwrap();
    compromised.now = true;
    ca.rotate(compromised, "test").await.unwrap();
    assert_eq!(states(&ca).await, [(ROOT, Active), (LOWER, Active)]);
    assert!(!verifies(&clock, &old, &bundle(&ca)));
}

#[tokio::test]
async fn each_stage_by_hand_asks_for_what_it_needs() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    let first = signing(&ca).await;
    ca.svid_for_role("pdp").await.unwrap();
    clock.advance(QUIET);
    let stage = |kind, stage, now| Rotation {
        stage: Some(stage),
        now,
        ..order(kind)
    };
    let refused = async |rotation| {
        ca.rotate(rotation, "test")
            .await
            .unwrap_err()
            .diagnostic()
            .code
            .0
    };
    assert_eq!(refused(stage(ROOT, Stage::Activate, true)).await, 4039);
    assert_eq!(refused(stage(ROOT, Stage::Retire, true)).await, 4039);
    let contradiction = Rotation {
        compromised: true,
        ..stage(ROOT, Stage::Prepare, false)
    };
    assert_eq!(refused(contradiction).await, 4036);

    word(&ca, sequence(&ca), first);
    ca.rotate(stage(ROOT, Stage::Prepare, false), "test")
        .await
        .unwrap();
    after(&ca, &clock, DAY / 2).await;
    assert_eq!(
        ca.authorities().await[1].state,
        Prepared,
        "only told to prepare"
    );
    word(&ca, sequence(&ca) - 1, first);
    clock.advance(QUIET);
    assert_eq!(refused(stage(ROOT, Stage::Activate, false)).await, 4038);
    word(&ca, sequence(&ca), first);
    clock.advance(QUIET);
    ca.svid_for_role("pdp").await.unwrap();
    ca.rotate(stage(ROOT, Stage::Activate, false), "test")
        .await
        .unwrap();
    assert_eq!(ca.authorities().await[1].state, Active);
    // The intermediate under the old root goes on signing: it was not asked for.
    assert_eq!(signing(&ca).await, first);
    assert_eq!(refused(stage(ROOT, Stage::Retire, true)).await, 4039);
    ca.rotate(stage(LOWER, Stage::Prepare, false), "test")
        .await
        .unwrap();
    ca.rotate(stage(LOWER, Stage::Activate, false), "test")
        .await
        .unwrap();
    assert_ne!(signing(&ca).await, first);
    assert_eq!(refused(stage(ROOT, Stage::Retire, false)).await, 4038);
    ca.rotate(stage(ROOT, Stage::Retire, true), "test")
        .await
        .unwrap();
    assert_eq!(states(&ca).await, [(ROOT, Active), (LOWER, Active)]);
}

#[tokio::test]
async fn orders_and_what_comes_of_them_leave_records() {
    let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
    let config = CaConfig::new(domain(), dir.path().join("ca"));
    offline::init(&config, standing_clock()).await.unwrap();
    let ca = Ca::start(config, standing_clock(), records.stream())
        .await
        .unwrap();
    let now = Rotation {
        compromised: true,
        now: true,
        ..order(ROOT)
    };
    ca.rotate(now, "alice").await.unwrap();
    let told: Vec<String> = records
        .bodies()
        .into_iter()
        .map(|b| match b {
            Body::Credential(c) => c.verb,
            Body::Admin(a) => format!("{} {}", a.actor, a.verb),
            other => format!("{other:?}"),
        })
        .collect();
    let made_offline = ["prepared", "active", "prepared", "active"];
    assert_eq!(told[..4], made_offline, "the first start leaves them");
    assert_eq!(told[4..7], ["prepared", "tainted", "tainted"]);
    assert_eq!(told[7], "alice ca_rotate");
    assert_eq!(
        told[8..],
        ["active", "prepared", "active", "revoked", "revoked"]
    );
}

/// Every transition is one transaction: what a crash leaves is the state after some of
/// them. From each of those an authority starts, issues, and keeps to the order.
#[tokio::test]
async fn a_crash_after_any_transition_leaves_a_state_that_goes_on() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let config = CaConfig::new(domain(), dir.path().join("ca"));
    let acks = Arc::new(Acks::new(0, DAY));
    let mut books = Books::open(&config, clock.clone(), None, acks)
        .await
        .unwrap();
    let mut copies: Vec<(i64, tempfile::TempDir)> = Vec::new();
    for act in 0..7 {
        match act {
            1 => drop(books.replace(LOWER).await.unwrap()),
            2 => drop(books.replace(ROOT).await.unwrap()),
            3 => clock.advance(Duration::from_secs(2 * 3600)),
            4 => drop(books.taint("test", false).await.unwrap()),
            5 => clock.advance(4 * DAY),
            6 => clock.advance(60 * DAY),
            _ => {}
        }
        loop {
            let copy = tempfile::tempdir().unwrap();
            let ca = copy.path().join("ca");
            std::fs::create_dir(&ca).unwrap();
            std::fs::set_permissions(&ca, std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .unwrap();
            std::fs::copy(config.kek_path(), ca.join("kek")).unwrap();
            store::copy(&config.state_dir.join("ca.sqlite"), &ca.join("ca.sqlite"))
                .await
                .unwrap();
            copies.push((clock.now_us(), copy));
            if !books.step().await.unwrap() {
                break;
            }
        }
    }
    assert!(copies.len() > 20, "{}", copies.len());
    for (at_us, copy) in &copies {
        let clock = Clock::manual(jiff::Timestamp::from_microsecond(*at_us).unwrap());
        let ca = start(copy.path(), &clock).await.unwrap();
        for _ in 0..3 {
            let svid = ca.svid_for_role("pdp").await.unwrap();
            assert!(
                verifies(&clock, &svid, &bundle(&ca)),
                "{:?}",
                states(&ca).await
            );
            after(&ca, &clock, Duration::from_secs(3601)).await;
        }
        let left = states(&ca).await;
        assert_eq!(left.iter().filter(|s| s.1 == Active).count(), 2, "{left:?}");
        assert!(left.iter().all(|s| s.1 != Tainted), "{left:?}");
        stop(ca).await;
    }
}
