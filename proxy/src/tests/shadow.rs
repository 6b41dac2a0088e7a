//! A revision tried beside the one in force: seen in the same record, never enforced.

use palisade_mesh::{
    decision::Verdict as PolicyVerdict,
    snapshot::Digest,
    wire::record::{Decision, Flip, Verdict},
};

use super::support::{Client, Reply, Rules, Setting, Stage};

/// Allows what the shop does not, and the other way round.
fn reversed() -> Rules {
    Rules::new(|q| match q.request.path.split('/').nth(1) {
        Some("public") => PolicyVerdict::NotPermitted,
        _ => PolicyVerdict::Allow,
    })
    .numbered(2)
}

fn last(stage: &Stage) -> Decision {
    stage.records.decisions().pop().unwrap().1
}

async fn metrics(stage: &Stage) -> String {
    let mut admin = Client::plain_h1(stage.proxy.admin.unwrap()).await;
    let mut request = admin.request("/metrics", &[]);
    let host = "127.0.0.1".parse().unwrap();
    request.headers_mut().insert("host", host);
    Reply::read(admin.send(request).await.unwrap()).await.body
}

/// The answer, its record and the counters: both verdicts in one record, one enforced.
#[tokio::test]
async fn what_a_candidate_would_have_decided_stands_in_the_record_of_what_was() {
    let stage = Stage::new().await;
    let mut client = stage.h2().await;
    assert_eq!(client.get("/public", &[]).await.status, 200);
    assert!(last(&stage).shadows.is_empty(), "nothing is tried");

    let candidate = reversed().candidate(1);
    stage.policy.try_beside(Some(candidate.clone()));
    for (path, status, verdict, shadow, flip) in [
        (
            "/public",
            200,
            Verdict::Allow,
            Verdict::NotPermitted,
            Flip::NewlyDenied,
        ),
        (
            "/admin/x",
            403,
            Verdict::Forbidden,
            Verdict::Allow,
            Flip::NewlyAllowed,
        ),
        (
            "/files/a",
            200,
            Verdict::Allow,
            Verdict::Allow,
            Flip::Unspecified,
        ),
    ] {
        assert_eq!(client.get(path, &[]).await.status, status, "{path}");
        let decision = last(&stage);
        assert_eq!(decision.verdict(), verdict, "{path}");
        let versions = decision.versions.clone().unwrap();
        assert_eq!(versions.policy_sequence, 1, "{path}");
        let [tried] = &decision.shadows[..] else {
            panic!("{path}: {:?}", decision.shadows);
        };
        assert_eq!((tried.verdict(), tried.flip()), (shadow, flip), "{path}");
        assert_eq!(tried.policy_sequence, 2);
        assert_eq!(tried.policy_digest, Digest::of(&2_u64.to_be_bytes()).0);
        assert_eq!(tried.policies, ["p1"]);
    }
    let counts = candidate.counts(1);
    assert_eq!((counts.evaluated, counts.errors), (3, 0));
    assert_eq!((counts.newly_allowed, counts.newly_denied), (1, 1));
    assert_eq!(candidate.counts(7).evaluated, 0, "beside another revision");
    let metrics = metrics(&stage).await;
    for line in [
        "palisade_shadow_evaluations_total 3",
        r#"palisade_shadow_flips_total{direction="newly_denied",of="revision"} 1"#,
        r#"palisade_shadow_flips_total{direction="newly_allowed",of="revision"} 1"#,
        r#"palisade_shadow_flips_total{direction="newly_undecided",of="revision"} 0"#,
        "palisade_shadow_duration_seconds_count 3",
        r#"revision="2"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }

    stage.policy.try_beside(None);
    assert_eq!(client.get("/public", &[]).await.status, 200);
    assert!(last(&stage).shadows.is_empty(), "the trial has ended");
}

#[tokio::test]
async fn a_candidate_that_panics_stops_nothing_and_is_asked_no_more() {
    let stage = Stage::new().await;
    let mut client = stage.h1().await;
    let candidate = Rules::new(|_| panic!("a broken candidate"))
        .numbered(2)
        .candidate(1);
    stage.policy.try_beside(Some(candidate.clone()));
    for _ in 0..3 {
        assert_eq!(client.get("/public", &[]).await.status, 200);
        assert!(last(&stage).shadows.is_empty());
    }
    let counts = candidate.counts(1);
    assert_eq!((counts.evaluated, counts.errors), (0, 1), "one worker");
    assert!(
        metrics(&stage)
            .await
            .contains("palisade_shadow_errors_total 1")
    );
}

#[tokio::test]
async fn a_sample_of_decisions_is_put_to_a_candidate() {
    let stage = Stage::new().await;
    let mut client = stage.h1().await;
    let candidate = reversed().candidate(3);
    stage.policy.try_beside(Some(candidate.clone()));
    for _ in 0..7 {
        assert_eq!(client.get("/public", &[]).await.status, 200);
    }
    assert_eq!(candidate.counts(1).evaluated, 3, "the 1st, 4th and 7th");
}

/// During a canary the proxies that have the new revision try the old one.
#[tokio::test]
async fn a_flip_goes_from_the_older_to_the_newer_revision() {
    let stage = Stage::set(Setting {
        rules: reversed(),
        ..Setting::default()
    })
    .await;
    let mut client = stage.h1().await;
    let older = Rules::shop().candidate(1);
    stage.policy.try_beside(Some(older.clone()));
    assert_eq!(client.get("/public", &[]).await.status, 403);
    let decision = last(&stage);
    assert_eq!(decision.versions.unwrap().policy_sequence, 2);
    assert_eq!(decision.shadows[0].policy_sequence, 1);
    assert_eq!(decision.shadows[0].flip(), Flip::NewlyDenied);
    assert_eq!(older.counts(2).newly_denied, 1);
}

/// A candidate with the content that is in force is none, and one that comes into force
/// is tried no longer.
#[tokio::test]
async fn the_revision_in_force_is_not_tried_beside_itself() {
    let stage = Stage::new().await;
    let mut client = stage.h1().await;
    let same = Rules::shop().candidate(1);
    stage.policy.try_beside(Some(same.clone()));
    assert_eq!(client.get("/public", &[]).await.status, 200);
    assert!(last(&stage).shadows.is_empty());
    assert_eq!(same.counts(1).evaluated, 0);
}

/// Where they matter, where something forbids, where nothing would serve the request,
/// where it passes anyway, and where none matches.
#[tokio::test]
async fn permits_in_shadow_mode_say_in_the_record_what_they_would_allow() {
    let check = async |rules: Rules, path: &str, expected: Option<(Verdict, Flip)>| {
        let stage = Stage::set(Setting {
            rules,
            ..Setting::default()
        })
        .await;
        stage.h1().await.get(path, &[]).await;
        let shadows = last(&stage).shadows;
        let said = shadows.first().map(|s| (s.verdict(), s.flip()));
        assert_eq!(said, expected, "{path}");
        if let Some(shadow) = shadows.first() {
            assert_eq!(shadow.policies, ["p-shadow"]);
            assert_eq!(shadow.policy_sequence, 0);
        }
        let line = r#"palisade_shadow_flips_total{direction="newly_allowed",of="permit"} "#;
        let flips = u32::from(expected.is_some_and(|(_, flip)| flip == Flip::NewlyAllowed));
        assert!(
            metrics(&stage).await.contains(&format!("{line}{flips}\n")),
            "{path}"
        );
    };
    let allow = |flip| Some((Verdict::Allow, flip));
    let nothing = || Rules::nothing().trying("/p");
    check(nothing(), "/public", allow(Flip::NewlyAllowed)).await;
    check(nothing(), "/private", allow(Flip::Unspecified)).await;
    check(nothing(), "/files/a", None).await;
    let shop = |path| Rules::shop().trying(path);
    check(
        shop("/admin"),
        "/admin/x",
        Some((Verdict::Forbidden, Flip::Unspecified)),
    )
    .await;
    check(shop("/public"), "/public", allow(Flip::Unspecified)).await;
}

/// What a rollout compares revisions by.
#[tokio::test]
async fn what_comes_of_requests_is_counted_for_the_revision_that_decided_them() {
    let stage = Stage::new().await;
    let mut client = stage.h1().await;
    for path in ["/public", "/undecided", "/admin/x", "/files/a"] {
        client.get(path, &[]).await;
    }
    let first = stage.policy.load().as_ref().unwrap().snapshot().versions();
    let orders = super::support::service("orders", &[]);
    let next = Rules::shop().numbered(2).snapshot(vec![orders]);
    stage.policy.store(Some(next));
    client.get("/public", &[]).await;
    let second = stage.policy.load().as_ref().unwrap().snapshot().versions();
    super::support::until("both ends are counted", || {
        stage.policy.health(&first).ended == 2 && stage.policy.health(&second).ended == 1
    })
    .await;
    let health = stage.policy.health(&first);
    assert_eq!(
        (health.decided, health.undecided, health.server_errors),
        (4, 1, 0)
    );
    assert_eq!(health.decision_times.iter().sum::<u64>(), 4);
    assert_eq!(health.request_times.iter().sum::<u64>(), 2);
    assert_eq!(stage.policy.health(&second).decided, 1);
}
