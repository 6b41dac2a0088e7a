//! The authority through its life: first start, restarts, rotation, tampering.

use std::path::{Path, PathBuf};

use palisade_mesh::{
    svid::{TrustBundle, verify_chain},
    wire::record::record::Body,
};
use rustls_pki_types::UnixTime;
use sqlx::{SqliteConnection, query};

use super::*;
use crate::{
    authority::{Kind, State},
    journal::JournalError,
    keystore::KeystoreError,
    registration::{RegistrationConfig, parse},
    testing::{Records, domain, eventually, standing_clock},
};

mod offline;
mod rotation;

const DAY: Duration = Duration::from_secs(86_400);

async fn start(dir: &Path, clock: &Clock) -> Result<Arc<Ca>, CaError> {
    let config = CaConfig::new(domain(), dir.join("ca"));
    Ca::start(config, clock.clone(), Records::default().stream()).await
}

async fn stop(ca: Arc<Ca>) {
    ca.close().await;
    drop(ca);
}

fn bundle(ca: &Ca) -> TrustBundle {
    ca.trust().borrow().bundle.clone()
}

fn verifies(clock: &Clock, svid: &X509Svid, bundle: &TrustBundle) -> bool {
    let now = u64::try_from(clock.now_us()).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_micros(now));
    verify_chain(&svid.chain, bundle, now).is_ok()
}

async fn states(ca: &Ca) -> Vec<(Kind, State)> {
    ca.authorities()
        .await
        .iter()
        .map(|a| (a.kind, a.state))
        .collect()
}

/// Lets time pass in hours and does what is due, as the task does.
async fn pass(ca: &Ca, clock: &Clock, time: Duration) {
    let hour = Duration::from_secs(3600);
    for _ in 0..time.as_secs() / 3600 {
        clock.advance(hour);
        ca.maintain().await.unwrap();
    }
}

#[tokio::test]
async fn a_restart_keeps_authorities_registrations_and_sequence() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    let list = [RegistrationConfig {
        spiffe_id: "spiffe://acme.test/web".into(),
        selectors: vec!["unix:uid:1".into()],
        ttl: Some("60s".into()),
        hint: Some("h".into()),
        ..RegistrationConfig::default()
    }];
    ca.apply(parse(&list, &ca.rules()).unwrap()).await.unwrap();
    let svid = ca.svid_for_role("pdp").await.unwrap();
    assert_eq!(svid.id, domain().role("pdp"));
    let (authorities, trust) = (ca.authorities().await, ca.trust().borrow().clone());
    stop(ca).await;

    let ca = start(dir.path(), &clock).await.unwrap();
    assert_eq!(ca.authorities().await, authorities);
    assert_eq!(*ca.trust().borrow(), trust);
    assert!(verifies(&clock, &svid, &bundle(&ca)));
    let issued = ca.issued(&IssuedFilter::default()).await.unwrap();
    assert_eq!(issued[0].serial, svid.serial);
    clock.advance(Duration::from_secs(3601));
    assert!(
        ca.issued(&IssuedFilter::default())
            .await
            .unwrap()
            .is_empty()
    );
    let all = IssuedFilter {
        spiffe_id: Some(svid.id.clone()),
        include_ended: true,
    };
    assert_eq!(ca.issued(&all).await.unwrap().len(), 1);
}

#[tokio::test]
async fn registrations_are_replaced_whole_and_told_once() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    let mut trust = ca.trust();
    let list = |path: &str| {
        let config = RegistrationConfig {
            spiffe_id: format!("spiffe://acme.test/{path}"),
            selectors: vec!["unix:uid:1".into()],
            ..RegistrationConfig::default()
        };
        parse(&[config], &ca.rules()).unwrap()
    };
    let before = trust.borrow_and_update().sequence;
    ca.apply(list("web")).await.unwrap();
    assert!(trust.has_changed().unwrap());
    assert_eq!(trust.borrow_and_update().sequence, before + 1);
    ca.apply(list("web")).await.unwrap();
    assert!(!trust.has_changed().unwrap(), "nothing changed");
    ca.apply(list("db")).await.unwrap();
    let now = trust.borrow_and_update().clone();
    assert_eq!((now.sequence, now.registrations.len()), (before + 2, 1));
}

#[tokio::test]
async fn keys_do_not_open_without_their_key_encryption_key() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    stop(start(dir.path(), &clock).await.unwrap()).await;
    let kek = dir.path().join("ca/kek");
    let right = std::fs::read(&kek).unwrap();
    std::fs::write(&kek, [7; 32]).unwrap();
    let error = start(dir.path(), &clock).await.err().unwrap();
    assert!(
        matches!(error, CaError::Keystore(KeystoreError::Sealed(_))),
        "{error}"
    );
    assert_eq!(error.diagnostic().code.0, 4013);
    std::fs::remove_file(&kek).unwrap();
    let error = start(dir.path(), &clock).await.err().unwrap();
    assert!(
        matches!(error, CaError::Keystore(KeystoreError::Missing(_))),
        "{error}"
    );
    assert_eq!(error.diagnostic().code.0, 4012);
    assert!(!kek.exists(), "a key that opens nothing must not be made");
    std::fs::write(&kek, right).unwrap();
    let error = start(dir.path(), &clock).await.err().unwrap();
    assert_eq!(
        error.diagnostic().code.0,
        4012,
        "mode 0644 is refused: {error}"
    );
    std::fs::set_permissions(&kek, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert!(start(dir.path(), &clock).await.is_ok());
}

#[tokio::test]
async fn private_keys_are_nowhere_in_the_clear() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    stop(start(dir.path(), &clock).await.unwrap()).await;
    // Algorithm identifier that opens every PKCS#8 P-256 key, and version before it.
    let marker = [0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48];
    for file in std::fs::read_dir(dir.path().join("ca")).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(
            !bytes.windows(marker.len()).any(|w| w == marker),
            "{path:?}"
        );
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert!(
            mode & 0o077 == 0 || path.ends_with("lock"),
            "{path:?} has mode {mode:o}"
        );
    }
}

#[tokio::test]
async fn the_intermediate_rotates_at_half_of_its_life_and_old_leaves_live_on() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    let first = ca.authorities().await;
    pass(&ca, &clock, 3 * DAY).await;
    assert_eq!(ca.authorities().await, first);
    pass(&ca, &clock, Duration::from_secs(11 * 3600)).await;
    let old = ca.svid_for_role("pdp").await.unwrap();
    pass(&ca, &clock, Duration::from_secs(3600)).await;
    assert_eq!(
        states(&ca).await,
        [
            (Kind::Root, State::Active),
            (Kind::Intermediate, State::Retiring),
            (Kind::Intermediate, State::Active),
        ]
    );
    let new = ca.svid_for_role("pdp").await.unwrap();
    assert_ne!(old.chain[1], new.chain[1]);
    assert!(verifies(&clock, &new, &bundle(&ca)));
    clock.advance(Duration::from_secs(3601));
    ca.maintain().await.unwrap();
    assert_eq!(
        states(&ca).await.len(),
        2,
        "the old one goes with its last leaf"
    );
}

#[tokio::test]
async fn roots_overlap_and_every_leaf_verifies_all_the_time() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let mut ca = start(dir.path(), &clock).await.unwrap();
    let mut bundles = vec![bundle(&ca)];
    let mut sequence = ca.trust().borrow().sequence;
    for day in 0..100 {
        let svid = ca.svid_for_role("pdp").await.unwrap();
        // A peer that has not heard anything for ten days still accepts it.
        let heard = bundles.len().saturating_sub(10);
        assert!(verifies(&clock, &svid, &bundles[heard]), "day {day}");
        pass(&ca, &clock, DAY).await;
        if day % 30 == 29 {
            stop(ca).await;
            ca = start(dir.path(), &clock).await.unwrap();
        }
        bundles.push(bundle(&ca));
        let now = ca.trust().borrow().sequence;
        assert!(now >= sequence);
        sequence = now;
    }
    assert_eq!(bundles[40].roots.len(), 1);
    assert_eq!(
        bundles[50].roots.len(),
        2,
        "the next root is published early"
    );
    assert_eq!(bundles[100].roots.len(), 2, "and so is the one after it");
    assert!(
        !bundles[100].roots.contains(&bundles[0].roots[0]),
        "the first is gone"
    );
}

#[tokio::test]
async fn an_authority_that_slept_past_every_end_recovers() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    stop(start(dir.path(), &clock).await.unwrap()).await;
    clock.advance(400 * DAY);
    let ca = start(dir.path(), &clock).await.unwrap();
    let svid = ca.svid_for_role("pdp").await.unwrap();
    assert!(verifies(&clock, &svid, &bundle(&ca)));
}

async fn tamper(dir: &Path, sql: &'static str) {
    use sqlx::Connection;
    let path = dir.join("ca/ca.sqlite");
    let mut db = SqliteConnection::connect(path.to_str().unwrap())
        .await
        .unwrap();
    let changed = query(sql).execute(&mut db).await.unwrap();
    assert_ne!(changed.rows_affected(), 0, "{sql}");
    db.close().await.unwrap();
}

#[tokio::test]
async fn a_changed_journal_or_authority_is_noticed_at_the_next_start() {
    for sql in [
        "UPDATE journal SET reason = 'nothing to see' WHERE sequence = 2",
        "UPDATE journal SET time_us = time_us + 1 WHERE sequence = 4",
        "UPDATE journal SET state_after = 'revoked' WHERE sequence = 4",
        "DELETE FROM journal WHERE sequence = 1",
        "DELETE FROM journal WHERE sequence = 4",
        "DELETE FROM authorities WHERE kind = 'intermediate'",
        "UPDATE authorities SET certificate = x'3000' WHERE kind = 'root'",
        "UPDATE meta SET value = '3' WHERE name = 'journal_head'",
    ] {
        let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
        stop(start(dir.path(), &clock).await.unwrap()).await;
        tamper(dir.path(), sql).await;
        let error = start(dir.path(), &clock).await.err().expect(sql);
        assert!(matches!(error, CaError::Journal(_)), "{sql}: {error}");
        assert_eq!(error.diagnostic().code.0, 4014);
    }
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    stop(start(dir.path(), &clock).await.unwrap()).await;
    tamper(
        dir.path(),
        "UPDATE authorities SET sealed_key = x'01' WHERE kind = 'root'",
    )
    .await;
    let error = start(dir.path(), &clock).await.err().unwrap();
    assert!(
        matches!(error, CaError::Keystore(KeystoreError::Sealed(_))),
        "{error}"
    );
}

#[tokio::test]
async fn a_rogue_root_in_the_database_is_not_trusted() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    stop(start(dir.path(), &clock).await.unwrap()).await;
    tamper(
        dir.path(),
        "INSERT INTO authorities SELECT x'0102030405060708090a0b0c0d0e0f1011121314', kind, issuer, certificate, NULL, not_before, not_after FROM authorities WHERE kind = 'root'",
    )
    .await;
    let error = start(dir.path(), &clock).await.err().unwrap();
    assert!(
        matches!(error, CaError::Journal(JournalError::Authority(_))),
        "{error}"
    );
}

#[tokio::test]
async fn one_directory_serves_one_process_and_one_trust_domain() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    let error = start(dir.path(), &clock).await.err().unwrap();
    assert!(matches!(error, CaError::InUse(_)), "{error}");
    stop(ca).await;
    let other = palisade_mesh::spiffe_id::TrustDomain::parse("other.test").unwrap();
    let config = CaConfig::new(other, dir.path().join("ca"));
    let error = Ca::start(config, clock.clone(), Records::default().stream()).await;
    assert!(matches!(error.err(), Some(CaError::TrustDomain { .. })));
}

#[tokio::test]
async fn a_directory_that_others_may_enter_is_refused() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = dir.path().join("ca");
    std::fs::create_dir(&ca).unwrap();
    std::fs::set_permissions(&ca, std::os::unix::fs::PermissionsExt::from_mode(0o750)).unwrap();
    let error = start(dir.path(), &clock).await.err().unwrap();
    assert!(
        matches!(error, CaError::StateDirLoose { mode: 0o750, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn transitions_leave_records() {
    let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
    let config = CaConfig::new(domain(), dir.path().join("ca"));
    let _ca = Ca::start(config, standing_clock(), records.stream())
        .await
        .unwrap();
    let verbs: Vec<_> = records
        .bodies()
        .into_iter()
        .filter_map(|b| match b {
            Body::Credential(c) => Some(c.verb),
            _ => None,
        })
        .collect();
    assert_eq!(verbs, ["prepared", "active", "prepared", "active"]);
}

/// Whoever writes at the same time waits its turn: SQLite refuses one that has read
/// before another wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_at_the_same_time_wait_for_each_other() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    let issuing = (0..4).map(|_| {
        let ca = ca.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                ca.svid_for_role("pdp").await.unwrap();
            }
        })
    });
    let issuing: Vec<_> = issuing.collect();
    while !issuing.iter().all(tokio::task::JoinHandle::is_finished) {
        ca.store.prune(ca.now_s()).await.unwrap();
        ca.store.replace_kill_list(1, &[]).await.unwrap();
    }
    for task in issuing {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn ended_certificates_are_forgotten_after_a_day() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    ca.svid_for_role("pdp").await.unwrap();
    let all = IssuedFilter {
        include_ended: true,
        ..IssuedFilter::default()
    };
    clock.advance(DAY + Duration::from_secs(3600));
    ca.store.prune(ca.now_s()).await.unwrap();
    assert_eq!(ca.issued(&all).await.unwrap().len(), 1);
    clock.advance(Duration::from_secs(1));
    ca.store.prune(ca.now_s()).await.unwrap();
    assert!(ca.issued(&all).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_identity_of_a_role_is_renewed_and_follows_the_bundle() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let ca = start(dir.path(), &clock).await.unwrap();
    let identity = ca.identity_for_role("pdp").await.unwrap();
    let first = identity.svid().serial;
    clock.advance(Duration::from_secs(3600 * 2 / 5 - 1));
    ca.apply(vec![]).await.unwrap();
    assert_eq!(identity.svid().serial, first);
    clock.advance(Duration::from_secs(3600 / 5 + 1));
    eventually("the renewal", || identity.svid().serial != first).await;
    clock.advance(46 * DAY);
    eventually("the second root", || identity.bundle().roots.len() == 2).await;
    eventually("a valid certificate", || {
        verifies(&clock, &identity.svid(), &bundle(&ca))
    })
    .await;
}

#[cfg(feature = "agent")]
mod over_grpc {
    use futures_util::StreamExt;
    use tonic::transport::{Endpoint, Server};

    use super::*;
    use crate::agent::{Remote, Upstream, UpstreamError};

    #[tokio::test]
    async fn an_agent_in_another_process_watches_and_is_issued_certificates() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
        let ca = start(dir.path(), &clock).await.unwrap();
        let config = RegistrationConfig {
            spiffe_id: "spiffe://acme.test/web".into(),
            selectors: vec!["unix:uid:1".into()],
            ..RegistrationConfig::default()
        };
        ca.apply(parse(&[config], &ca.rules()).unwrap())
            .await
            .unwrap();
        let path = dir.path().join("run/s");
        let (quit, serving) = (CancellationToken::new(), ca.clone());
        let (stop, at) = (quit.clone().cancelled_owned(), path.clone());
        let server = tokio::spawn(async move { serving.serve(&at, stop).await });
        eventually("the socket", || path.exists()).await;
        let uri = format!("unix://{}", path.display());
        let remote = Remote::new(Endpoint::from_shared(uri).unwrap().connect_lazy());

        let mut states = remote.watch(0).await.unwrap();
        let state = states.next().await.unwrap().unwrap();
        assert_eq!(state, **ca.trust().borrow());
        let registration = &state.registrations[0];
        let key = SvidKey::generate().unwrap();
        let request = key
            .request(&domain(), &registration.spiffe_id, &registration.selectors)
            .unwrap();
        let response = remote.issue(request.clone()).await.unwrap();
        assert_eq!(response.chain.len(), 2);
        let refused = remote
            .issue(IssueRequest {
                proof: vec![],
                ..request
            })
            .await;
        let Err(UpstreamError::Status(status)) = refused else {
            panic!("not refused")
        };
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        ca.apply(vec![]).await.unwrap();
        let state = states.next().await.unwrap().unwrap();
        assert!(state.registrations.is_empty());
        quit.cancel();
        server.await.unwrap().unwrap();
        assert!(!path.exists());
    }

    /// A transport that proves nothing about its peer gets nothing.
    #[tokio::test]
    async fn tcp_callers_are_refused() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
        let ca = start(dir.path(), &clock).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = Server::builder()
            .add_service(ca.service())
            .serve_with_incoming(incoming);
        let server = tokio::spawn(server);
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let remote = Remote::new(endpoint.connect_lazy());
        let Err(UpstreamError::Status(status)) = remote.watch(0).await else {
            panic!("not refused")
        };
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
        server.abort();
    }
}
