//! The list through restarts, the clock and issuance.

use std::{path::Path, time::Duration};

use palisade_mesh::clock::Clock;
use rustls_pki_types::UnixTime;

use super::*;
use crate::{
    CaConfig,
    testing::{Records, domain, standing_clock},
};

const SECOND_US: i64 = 1_000_000;

struct Kept {
    dir: tempfile::TempDir,
    clock: Clock,
    records: Records,
    /// The list is signed for those who follow it.
    followers: std::sync::Mutex<Vec<watch::Receiver<Option<Arc<SignedKillList>>>>>,
}

impl Kept {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: standing_clock(),
            records: Records::default(),
            followers: Default::default(),
        }
    }

    async fn start(&self) -> Arc<Ca> {
        let config = CaConfig::new(domain(), Path::join(self.dir.path(), "ca"));
        let ca = Ca::start(config, self.clock.clone(), self.records.stream())
            .await
            .unwrap();
        let mut follower = ca.kill_list();
        follower.wait_for(Option::is_some).await.unwrap();
        self.followers.lock().unwrap().push(follower);
        ca
    }

    /// What whoever holds the bundle reads of the signed list.
    fn read(&self, ca: &Ca) -> KillList {
        let signed = ca.kill_list().borrow().clone().unwrap();
        let now = Duration::from_micros(u64::try_from(self.clock.now_us()).unwrap());
        let bundle = ca.trust().borrow().bundle.clone();
        kill::open(&signed, &bundle, UnixTime::since_unix_epoch(now)).unwrap()
    }
}

fn order(target: Target) -> KillOrder {
    KillOrder {
        target,
        reason: "laptop stolen".into(),
        author: "uid:1000".into(),
        expires_us: None,
    }
}

fn of_role(role: &str) -> KillOrder {
    order(Target::Identity(domain().role(role)))
}

#[tokio::test]
async fn an_entry_is_signed_recorded_and_kept_and_so_is_its_end() {
    let kept = Kept::new();
    let ca = kept.start().await;
    assert_eq!(kept.read(&ca).entries(), []);
    let entry = ca.kill(of_role("pdp")).await.unwrap();
    assert_eq!(kept.read(&ca).entries(), std::slice::from_ref(&entry));
    assert_eq!(kept.read(&ca).sequence(), 1);
    ca.close().await;
    drop(ca);

    let ca = kept.start().await;
    assert_eq!(kept.read(&ca).entries(), std::slice::from_ref(&entry));
    ca.pardon(entry.id, "uid:0").await.unwrap();
    assert_eq!(kept.read(&ca).entries(), []);
    assert_eq!(kept.read(&ca).sequence(), 2);
    let told: Vec<(String, String)> = kept
        .records
        .bodies()
        .into_iter()
        .filter_map(|b| match b {
            Body::Admin(a) => Some((a.verb, a.actor)),
            _ => None,
        })
        .collect();
    let expected = [("killed", "uid:1000"), ("pardoned", "uid:0")];
    assert_eq!(told, expected.map(|(v, a)| (v.into(), a.into())));
}

#[tokio::test]
async fn nobody_who_is_barred_gets_a_certificate() {
    let kept = Kept::new();
    let ca = kept.start().await;
    assert!(ca.svid_for_role("pdp").await.is_ok());
    let entry = ca.kill(of_role("pdp")).await.unwrap();
    assert!(matches!(
        ca.svid_for_role("pdp").await,
        Err(Refusal::Barred(id)) if id == entry.id
    ));
    assert!(ca.svid_for_role("audit").await.is_ok());
    ca.pardon(entry.id, "uid:0").await.unwrap();
    assert!(ca.svid_for_role("pdp").await.is_ok());
}

#[tokio::test]
async fn the_list_is_signed_anew_so_that_its_age_means_something() {
    let kept = Kept::new();
    let ca = kept.start().await;
    let first = kept.read(&ca);
    kept.clock.advance(Duration::from_secs(4));
    ca.keep_kill_list().await;
    assert_eq!(kept.read(&ca).issued_us(), first.issued_us());
    kept.clock.advance(Duration::from_secs(1));
    ca.keep_kill_list().await;
    let second = kept.read(&ca);
    assert_eq!(second.issued_us() - first.issued_us(), 5 * SECOND_US);
    assert_eq!(second.sequence(), first.sequence());
}

/// The signer's certificate ends like any other; the list must not end with it.
#[tokio::test]
async fn the_list_verifies_through_the_ends_of_many_certificates() {
    let kept = Kept::new();
    let ca = kept.start().await;
    ca.kill(of_role("pdp")).await.unwrap();
    for _ in 0..40 {
        kept.clock.advance(Duration::from_secs(6 * 3600));
        ca.maintain().await.unwrap();
        ca.keep_kill_list().await;
        assert_eq!(kept.read(&ca).entries().len(), 1);
    }
}

#[tokio::test]
async fn a_preview_names_the_certificates_that_would_be_hit() {
    let kept = Kept::new();
    let ca = kept.start().await;
    let pdp = ca.svid_for_role("pdp").await.unwrap();
    let audit = ca.svid_for_role("audit").await.unwrap();
    let serials = async |target: Target| -> Vec<Vec<u8>> {
        let hit = ca.hit_by(&target).await.unwrap();
        hit.into_iter().map(|c| c.serial).collect()
    };
    assert_eq!(serials(Target::Identity(pdp.id)).await, [pdp.serial]);
    let by_serial = Target::Serial(audit.serial.clone().into());
    assert_eq!(serials(by_serial).await, [audit.serial]);
    // Those two, and the one that signs the list.
    for authority in ca.authorities().await {
        let all = serials(Target::Authority(authority.key_id.as_bytes().into()));
        assert_eq!(all.await.len(), 3);
    }
    assert!(ca.killed().entries().is_empty());
}

#[tokio::test]
async fn what_cannot_stand_changes_nothing() {
    let kept = Kept::new();
    let ca = kept.start().await;
    let of_ca = ca.kill(of_role("ca")).await;
    assert!(matches!(of_ca, Err(KillError::List(_))));
    let mut past = of_role("pdp");
    past.expires_us = Some(kept.clock.now_us());
    assert!(matches!(ca.kill(past).await, Err(KillError::Ended)));
    let unknown = Ulid::from_parts(1, 1);
    let pardoned = ca.pardon(unknown, "uid:0").await;
    assert!(matches!(pardoned, Err(KillError::Unknown(id)) if id == unknown));
    kept.records.set_full(true);
    let unrecorded = ca.kill(of_role("pdp")).await;
    assert!(matches!(unrecorded, Err(KillError::Unrecorded(_))));
    assert_eq!(ca.killed().sequence(), 0);
    assert_eq!(kept.read(&ca).entries(), []);
}
