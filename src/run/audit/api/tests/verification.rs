//! The log is verified for whoever asks.

use super::*;

impl Service {
    /// What a verification came to.
    async fn verified(&self) -> Value {
        let patience = std::time::Instant::now();
        loop {
            let (office, at) = (self.office(), "/v1/audit/verify");
            let now = self.get(&office, READER, at).await.json();
            schema::check("Verification", &now);
            if now["state"] != "running" {
                break now;
            }
            assert!(patience.elapsed() < Duration::from_secs(30), "{now}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One job for all; whoever looks later finds what it came to.
#[tokio::test]
async fn a_verification_is_a_job_that_all_see() {
    let service = Service::ready().await;
    let office = service.office();
    let at = "/v1/audit/verify";
    let never = service.get(&office, AUDITOR, at).await.json();
    assert_eq!(never["state"], "never", "{never}");
    let begun = service.ask(&office, Some(AUDITOR), "POST", at).await.json();
    schema::check("Verification", &begun);
    assert_eq!(
        begun["by"],
        format!("spiffe://acme.test/{AUDITOR}"),
        "{begun}"
    );
    let done = service.verified().await;
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["intact"], true, "{done}");
    assert!(
        done["report"]["records"].as_u64().unwrap() > 2 * EACH as u64,
        "{done}"
    );
    let rows = service.rows("class:audit_read verb:verify last:1h").await;
    assert!(rows.len() >= 3, "{rows:#?}");
    // What it came to is a record, and stays: the next has to wait.
    let rows = service.rows("class:admin verb:log_verified last:1h").await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(rows[0]["object"], "intact", "{rows:#?}");
    let office = service.office();
    let again = service.ask(&office, Some(READER), "POST", at).await;
    again.is_problem(429, "PLS7910");
    let still = service.get(&office, READER, at).await.json();
    assert_eq!(still, done);
}

/// A log of some finished segments.
async fn finished(dir: &std::path::Path) {
    use palisade_audit::log::{Log, LogOptions};
    let domain = palisade_mesh::spiffe_id::TrustDomain::parse("acme.test").unwrap();
    let options = LogOptions {
        segment_bytes: 1000,
        group_wait: Duration::ZERO,
        checkpoint_every: Duration::from_millis(20),
        ..LogOptions::new(domain.clone())
    };
    let clock = Clock::system();
    let log = Log::open(dir, options, clock.clone()).unwrap();
    let reporter = domain.id(ORDERS).unwrap();
    let mut stream = LocalSink::new(log.clone(), reporter, clock.clone()).open(7);
    let mut ids = DecisionIds::new();
    for n in 0..30 {
        let record = Record {
            id: ids.next(clock.now_us()).to_bytes().to_vec(),
            time_us: clock.now_us(),
            body: Some(decision("acme.test/shop/orders", n)),
            ..Record::default()
        };
        stream.append(&record).unwrap();
        stream.flush();
        stream.durable().await.unwrap();
    }
    drop(stream);
    log.close();
}

/// What lies in an archive that is away is not told as missing, nor the log as damaged.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_away_is_told_as_that() {
    use palisade_audit::archive::{After, Run};
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    std::fs::create_dir(&store).unwrap();
    finished(&dir.path().join("audit/log")).await;
    let archive = format!("  archive: {{ url: 'file://{}' }}\n", store.display());
    let service = Service::on(dir, &archive).await;
    let log = service.role.log.clone();
    let run = move || {
        let (log, now) = (&log, Clock::system().now());
        let go_on = &mut |_| std::ops::ControlFlow::Continue(());
        let behind = None;
        Run { log, now, behind }.go(&After::parse("0 days").unwrap(), go_on)
    };
    let moved = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    assert!(moved.segments > 0, "{moved:?}");
    let office = service.office();
    let entries = "/tile/entries/000.p/1";
    let there = service.get(&office, AUDITOR, entries).await;
    assert!(there.body.unwrap().len() > 2);
    std::fs::remove_dir_all(service._dir.path().join("audit/log/fetched")).unwrap();
    std::fs::rename(&store, store.with_extension("away")).unwrap();
    // It is held open until another takes its place: one that was not read yet.
    let size = service.role.log.checkpoint().size;
    let entries = format!("/tile/entries/000.p/{}", size.min(200));
    let reply = service.ask(&office, Some(AUDITOR), "GET", &entries).await;
    reply.is_problem(503, "PLS7581");
    let at = "/v1/audit/verify";
    let begun = service.ask(&office, Some(AUDITOR), "POST", at).await;
    assert_eq!(begun.status, 200, "{begun:?}");
    let done = service.verified().await;
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["intact"], Value::Null, "{done}");
    assert!(done["report"]["unread"].as_u64().unwrap() > 0, "{done}");
    let rows = service.rows("class:admin verb:log_verified last:1h").await;
    assert_eq!(rows[0]["object"], "unread", "{rows:#?}");
    let office = service.office();
    let metrics = service.get(&office, AUDITOR, "/metrics").await;
    let text = metrics.text();
    assert!(text.contains("\npalisade_archive_failing 1\n"), "{text}");
    assert!(!text.contains("palisade_log_verified_intact"), "{text}");
}

/// A log that agrees with itself under another key than the service's is not this log.
#[tokio::test]
async fn a_verification_trusts_the_key_of_the_service() {
    let (service, other) = (Service::ready().await, Service::ready().await);
    let of = |service: &Service| service._dir.path().join("audit/log");
    let (here, forged) = (of(&service), of(&other));
    std::fs::rename(&here, here.with_extension("true")).unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args([&forged, &here])
        .status()
        .unwrap();
    assert!(copied.success());
    let office = service.office();
    let at = "/v1/audit/verify";
    let begun = service.ask(&office, Some(AUDITOR), "POST", at).await;
    assert_eq!(begun.status, 200, "{begun:?}");
    let done = service.verified().await;
    assert_eq!(done["intact"], false, "{done}");
    assert_eq!(done["report"]["key_given"], true, "{done}");
    let key = service.role.log.verifier().to_string();
    assert_eq!(done["report"]["key"], key, "{done}");
    let metrics = service.get(&office, AUDITOR, "/metrics").await;
    let damaged = "\npalisade_log_verified_intact 0\n";
    assert!(metrics.text().contains(damaged), "{metrics:?}");
}
