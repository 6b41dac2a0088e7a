//! How durable a record must be, per operation, and what waits for it.

use std::time::Duration;

use palisade_mesh::{
    sink::SinkError,
    wire::record::{AuditMode, Verdict, outcome::End},
};

use super::support::{Reply, Setting, Stage, soon, until};

fn patient(audit_wait: Duration) -> Setting {
    let mut setting = Setting::default();
    setting.config.workers = 1;
    setting.config.limits.audit_wait = audit_wait;
    setting
}

/// Reads a metric of the proxy, summed over what `of` begins with.
async fn metric(stage: &Stage, of: &str) -> f64 {
    let mut admin = super::support::Client::plain_h1(stage.proxy.admin.unwrap()).await;
    let mut request = admin.request("/metrics", &[]);
    let host = "127.0.0.1".parse().unwrap();
    request.headers_mut().insert("host", host);
    let text = Reply::read(admin.send(request).await.unwrap()).await.body;
    text.lines()
        .filter(|line| line.starts_with(of))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[tokio::test]
async fn an_operation_says_how_durable_its_records_are_else_the_service() {
    let setting = Setting {
        audit: AuditMode::BestEffort,
        ..Setting::default()
    };
    let stage = Stage::set(setting).await;
    let mut client = stage.h2().await;
    for (path, mode) in [
        ("/strict/a", AuditMode::Strict),
        ("/loose/a", AuditMode::BestEffort),
        ("/public", AuditMode::BestEffort),
        ("/undeclared", AuditMode::BestEffort),
    ] {
        client.get(path, &[]).await;
        let (record, _) = stage.records.decisions().pop().unwrap();
        assert_eq!(record.mode(), mode, "{path}");
    }
    let modes: Vec<_> = stage.records.outcomes();
    assert_eq!(modes[0].0.mode(), AuditMode::Strict);
    let strict = "palisade_audit_records_total{mode=\"strict\"}";
    assert_eq!(metric(&stage, strict).await, 2.0);
}

/// A full buffer: what may be lost passes, what may not is refused.
#[tokio::test]
async fn the_mode_of_the_operation_decides_what_passes_unrecorded() {
    let stage = Stage::new().await;
    stage.records.set_full(true);
    let mut client = stage.h2().await;
    for (path, status) in [("/strict/a", 503), ("/public", 503), ("/loose/a", 200)] {
        assert_eq!(client.get(path, &[]).await.status, status, "{path}");
    }
    assert_eq!(stage.app.seen().len(), 1);
    assert!(metric(&stage, "palisade_audit_records_dropped_total").await >= 3.0);
}

/// A disk that does not answer: `strict` ends in time and is recorded as not
/// forwarded, the rest goes on.
#[tokio::test]
async fn a_record_that_is_late_refuses_the_request_and_holds_up_no_other() {
    let stage = Stage::set(patient(Duration::from_millis(100))).await;
    stage.records.set_durable(None);
    let mut slow = stage.h2().await;
    let waiting = tokio::spawn(async move { slow.get("/strict/a", &[]).await });
    let mut other = stage.h2().await;
    assert_eq!(soon(other.get("/public", &[])).await.status, 200);
    let reply = soon(waiting).await.unwrap();
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (503, "audit_unavailable")
    );
    assert_eq!(stage.app.seen().len(), 1, "only the other was forwarded");
    let find = || {
        stage
            .records
            .outcomes()
            .into_iter()
            .find(|(record, _)| record.mode() == AuditMode::Strict)
    };
    until("the refusal is recorded", || find().is_some()).await;
    let (record, outcome) = find().unwrap();
    assert_eq!((outcome.status, outcome.end()), (503, End::UpstreamFailed));
    assert_eq!(outcome.error, "audit_unavailable");
    let decisions = stage.records.decisions();
    let decision = decisions.iter().find(|(r, _)| r.id == record.id).unwrap();
    assert_eq!(decision.1.verdict(), Verdict::Allow);
    let late = "palisade_audit_strict_refused_total{reason=\"late\"}";
    assert_eq!(metric(&stage, late).await, 1.0);
    assert_eq!(
        metric(&stage, "palisade_audit_strict_wait_seconds_count").await,
        1.0
    );

    // The disk is back: the next request passes.
    stage.records.set_durable(Some(Ok(())));
    assert_eq!(other.get("/strict/b", &[]).await.status, 200);
}

/// Requests that wait while a round is under way share the next.
#[tokio::test]
async fn requests_share_the_wait_for_the_disk() {
    let stage = Stage::set(patient(Duration::from_secs(10))).await;
    stage.records.set_durable(None);
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = stage.h2().await;
        let request = client.request("/strict/a", &[]);
        waiting.push(tokio::spawn(async move {
            client.send(request).await.unwrap().status()
        }));
    }
    until("all are decided", || stage.records.decisions().len() == 20).await;
    assert!(stage.app.seen().is_empty());
    assert_eq!(stage.records.asked(), 1);
    stage.records.set_durable(Some(Ok(())));
    for asked in waiting {
        assert_eq!(soon(asked).await.unwrap(), 200);
    }
    assert_eq!(
        stage.records.asked(),
        2,
        "one round for the first, one for all others"
    );

    stage.records.set_durable(Some(Err(SinkError::Closed)));
    assert_eq!(stage.h2().await.get("/strict/a", &[]).await.status, 503);
}
