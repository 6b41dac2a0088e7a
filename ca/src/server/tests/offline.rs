//! What is done to an authority's folder while nothing runs on it.

use std::fs;

use palisade_mesh::kill::Target;

use super::*;
use crate::server::{KillOrder, offline};

fn config(dir: &Path) -> CaConfig {
    CaConfig::new(domain(), dir.join("ca"))
}

fn code(error: &CaError) -> u16 {
    error.diagnostic().code.0
}

#[tokio::test]
async fn a_first_root_is_made_once_and_stays() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let config = config(dir.path());
    let made = offline::init(&config, clock.clone()).await.unwrap();
    assert_eq!(made.len(), 2);
    let again = offline::init(&config, clock.clone()).await.unwrap_err();
    assert_eq!(code(&again), 4030);
    let ca = start(dir.path(), &clock).await.unwrap();
    assert_eq!(ca.standing().await.authorities, made);
}

#[tokio::test]
async fn a_repair_is_for_what_has_ended() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let config = config(dir.path());
    let nothing = repair(&config, clock.clone()).await.unwrap_err();
    assert_eq!(code(&nothing), 4031);
    let ca = start(dir.path(), &clock).await.unwrap();
    let in_use = repair(&config, clock.clone()).await.unwrap_err();
    assert_eq!(code(&in_use), 4016);
    let list = [RegistrationConfig {
        spiffe_id: "spiffe://acme.test/web".into(),
        selectors: vec!["unix:uid:1".into()],
        ..RegistrationConfig::default()
    }];
    ca.apply(parse(&list, &ca.rules()).unwrap()).await.unwrap();
    let before = ca.trust().borrow().clone();
    stop(ca).await;
    let healthy = repair(&config, clock.clone()).await.unwrap_err();
    assert_eq!(code(&healthy), 4040);
    clock.advance(400 * DAY);
    let repaired = repair(&config, clock.clone()).await.unwrap();
    assert_eq!((repaired.ended, repaired.authorities.len()), (2, 2));
    let ca = start(dir.path(), &clock).await.unwrap();
    assert_eq!(ca.standing().await.authorities, repaired.authorities);
    let trust = ca.trust().borrow().clone();
    assert!(trust.place() > before.place() && trust.epoch > before.epoch);
    assert_eq!(trust.registrations, before.registrations);
    assert_ne!(trust.bundle, before.bundle);
    let svid = ca.svid_for_role("pdp").await.unwrap();
    assert!(verifies(&clock, &svid, &bundle(&ca)));
}

/// Spent after the backup, a token would be good once more.
#[tokio::test]
async fn no_join_token_comes_back_with_a_backup() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    let order = crate::server::TokenOrder {
        node: crate::join::NodeName::parse("host-2").unwrap(),
        roles: Vec::new(),
        ttl: Duration::from_secs(600),
        address: "10.0.0.1:7440".into(),
    };
    ca.create_token(&order).await.unwrap();
    let file = dir.path().join("backup");
    backup(&config(dir.path()), &clock, &file).await.unwrap();
    assert_eq!(ca.tokens().await.unwrap().len(), 1);
    stop(ca).await;
    let to = empty_with_kek(dir.path());
    restore(&to, &clock, &file).await.unwrap();
    let stream = Records::default().stream();
    let ca = Ca::start(to, clock.clone(), stream).await.unwrap();
    assert!(ca.tokens().await.unwrap().is_empty());
}

/// A folder with a state, its backup, and an empty folder with the same key.
async fn backed_up() -> (tempfile::TempDir, Clock, PathBuf, Backup) {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    ca.svid_for_role("pdp").await.unwrap();
    let file = dir.path().join("backup");
    // While it runs.
    let made = backup(&config(dir.path()), &clock, &file).await.unwrap();
    stop(ca).await;
    (dir, clock, file, made)
}

fn empty_with_kek(dir: &Path) -> CaConfig {
    let to = CaConfig::new(domain(), dir.join("other"));
    fs::create_dir(&to.state_dir).unwrap();
    fs::set_permissions(
        &to.state_dir,
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    fs::copy(config(dir).kek_path(), to.kek_path()).unwrap();
    to
}

#[tokio::test]
async fn a_backup_is_put_back_and_taken_for_newer() {
    let (dir, clock, file, made) = backed_up().await;
    let bytes = fs::read(&file).unwrap();
    assert_eq!(made.len, bytes.len() as u64);
    assert_eq!(bytes[bytes.len() - 32..], made.digest.0);
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "nothing else is left beside it: {left:?}");

    // The world goes on after the backup.
    let ca = start(dir.path(), &clock).await.unwrap();
    ca.apply(vec![]).await.unwrap();
    let now = Rotation {
        kind: Kind::Root,
        stage: None,
        compromised: true,
        now: true,
    };
    ca.rotate(now, "test").await.unwrap();
    let order = KillOrder {
        target: Target::Identity(domain().role("pdp")),
        reason: String::new(),
        author: "test".into(),
        expires_us: None,
    };
    ca.kill(order).await.unwrap();
    let listed = ca.killed();
    let seen = ca.trust().borrow().clone();
    stop(ca).await;

    clock.advance(Duration::from_secs(60));
    let to = empty_with_kek(dir.path());
    let restored = restore(&to, &clock, &file).await.unwrap();
    assert_eq!(restored.header, made.header);
    let stream = Records::default().stream();
    let ca = Ca::start(to.clone(), clock.clone(), stream).await.unwrap();
    assert_eq!(ca.standing().await.authorities, restored.authorities);
    let trust = ca.trust().borrow().clone();
    ca.killed().check_supersedes(&listed).unwrap();
    assert!(ca.killed().entries().is_empty());
    assert!(
        trust.place() > seen.place(),
        "{:?} {:?}",
        trust.place(),
        seen.place()
    );
    assert_eq!(ca.issued(&IssuedFilter::default()).await.unwrap().len(), 1);
    let svid = ca.svid_for_role("pdp").await.unwrap();
    assert!(verifies(&clock, &svid, &bundle(&ca)));
    let refused = restore(&to, &clock, &file).await.unwrap_err();
    assert_eq!(refused.diagnostic().code.0, 4034);
}

#[tokio::test]
async fn what_is_not_the_backup_of_this_authority_is_refused() {
    let (dir, clock, file, _) = backed_up().await;
    let again = backup(&config(dir.path()), &clock, &file)
        .await
        .unwrap_err();
    assert_eq!(again.diagnostic().code.0, 4032);
    let to = empty_with_kek(dir.path());
    let bytes = fs::read(&file).unwrap();
    let damaged = dir.path().join("damaged");
    let middle = bytes.len() / 2;
    for (at, what) in [
        (0, "magic"),
        (22, "header"),
        (middle, "body"),
        (bytes.len() - 1, "digest"),
    ] {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        fs::write(&damaged, bad).unwrap();
        let error = restore(&to, &clock, &damaged).await.unwrap_err();
        assert_eq!(error.diagnostic().code.0, 4033, "{what}: {error}");
    }
    for len in [0, 10, 21, 25, 60, bytes.len() - 1] {
        fs::write(&damaged, &bytes[..len]).unwrap();
        let error = restore(&to, &clock, &damaged).await.unwrap_err();
        assert_eq!(error.diagnostic().code.0, 4033, "cut at {len}: {error}");
    }
    let other = CaConfig {
        trust_domain: palisade_mesh::spiffe_id::TrustDomain::parse("other.test").unwrap(),
        ..to.clone()
    };
    let error = restore(&other, &clock, &file).await.unwrap_err();
    assert_eq!(error.diagnostic().code.0, 4017);
    fs::write(to.kek_path(), [7; 32]).unwrap();
    let error = restore(&to, &clock, &file).await.unwrap_err();
    assert_eq!(error.diagnostic().code.0, 4035);
    fs::remove_file(to.kek_path()).unwrap();
    let error = restore(&to, &clock, &file).await.unwrap_err();
    assert_eq!(error.diagnostic().code.0, 4012);
    assert_eq!(
        fs::read_dir(&to.state_dir).unwrap().count(),
        0,
        "nothing was written"
    );
    let none = CaConfig::new(domain(), dir.path().join("none"));
    let error = backup(&none, &clock, &dir.path().join("b"))
        .await
        .unwrap_err();
    assert_eq!(error.diagnostic().code.0, 4031);
}
