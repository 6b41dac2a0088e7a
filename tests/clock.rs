//! The mesh in this process, under a clock that the test moves.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::time::Duration;

use support::{
    Home,
    inside::{Story, statuses, until},
};

/// Certificates are renewed at half of their life, then again and again, while
/// requests pass; with the authority gone and the clock past the end, nothing does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_follow_the_clock_and_no_request_is_lost_to_it() {
    let home = Home::new();
    let mut story = Story::start(&home, "clock", &sample()).await;
    let first = ends(&story.name).await;
    assert_eq!(story.orders().await, 200);
    for _ in 0..3 {
        let before = ends(&story.name).await;
        story.clock.advance(Duration::from_secs(45 * 60));
        until("every certificate is renewed", || async {
            ends(&story.name).await > before
        })
        .await;
        assert_eq!(story.orders().await, 200);
    }
    assert!(ends(&story.name).await >= first + 2 * 3600);

    story.stop_plane().await;
    story.clock.advance(Duration::from_secs(2 * 3600));
    let status = story.orders().await;
    assert!(
        [502, 503].contains(&status),
        "an expired identity passed: {status}"
    );
    story.end().await;
}

/// Ten minutes ahead and back: nobody asked for it, no request fails, nothing passes
/// that is denied, and no snapshot grows old or young by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_costs_no_request() {
    let home = Home::new();
    let story = Story::start(&home, "jump", &sample()).await;
    let jump = Duration::from_secs(600);
    let is_served = async |times: usize| {
        for _ in 0..times {
            assert_eq!(story.orders().await, 200);
            assert_eq!(story.get("/nowhere").await, 403);
        }
    };
    is_served(20).await;
    story.clock.set_ahead(jump);
    is_served(20).await;
    story.clock.set_back(jump);
    is_served(20).await;
    for status in statuses(&story.name).await {
        assert!(
            !status.stale && status.snapshot_age_s == Some(0),
            "{status:?}"
        );
    }
    story.end().await;
}

/// Root, intermediate and every certificate end while the control plane is down. The
/// authority is repaired, and all come back with the registrations they had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_whose_certificates_have_all_expired_is_repaired() {
    let home = Home::new();
    let mut story = Story::start(&home, "expiry", &sample()).await;
    assert_eq!(story.orders().await, 200);
    let roots = |story: &Story| {
        let ca = story.plane.as_ref().unwrap().ca.as_ref().unwrap();
        ca.trust().borrow().bundle.clone()
    };
    let before = roots(&story);
    story.stop_plane().await;

    story.clock.advance(Duration::from_secs(400 * 86_400));
    assert_ne!(story.orders().await, 200);
    let folder = story.plane_config.state_dir.join("ca");
    let of_ca = palisade_ca::CaConfig::new(story.plane_config.trust_domain.clone(), folder);
    let repaired = palisade_ca::server::repair(&of_ca, story.clock.clone())
        .await
        .unwrap();
    assert_eq!(repaired.ended, 2);
    story.start_plane().await;
    assert_ne!(roots(&story), before);
    until("a request that passes", || async {
        story.orders().await == 200
    })
    .await;
    story.end().await;
}

fn sample() -> String {
    support::sample_policies().display().to_string()
}

/// The earliest end of a certificate.
async fn ends(name: &str) -> i64 {
    statuses(name)
        .await
        .iter()
        .map(|p| p.svid_not_after_s)
        .min()
        .unwrap_or_default()
}
