//! The mesh in this process, under a clock that the test moves.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::time::Duration;

use palisade::run::{self, Role};
use palisade_mesh::clock::Clock;
use support::inside::{config, control_plane, get, proxy, ready, start_app, statuses, until};

/// Certificates are renewed at half of their life, then again and again, while
/// requests pass; with the authority gone and the clock past the end, nothing does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_follow_the_clock_and_no_request_is_lost_to_it() {
    let home = support::Home::new();
    let name = format!("clock-{}", std::process::id());
    let clock = Clock::manual(jiff::Timestamp::now());
    let app = start_app().await;
    let plane_config = config(&home.path("plane"), &control_plane(&name, &sample()));
    let plane = run::control_plane(&plane_config, &Role::ALL, clock.clone())
        .await
        .unwrap();
    let pdp = plane.pdp.as_ref().unwrap().address;
    let audit = plane.audit.as_ref().unwrap().address.unwrap();
    let agent = plane_config.agent_socket();
    let mut proxies = Vec::new();
    for service in ["web", "orders"] {
        let yaml = proxy(&name, service, app, pdp, audit, &agent);
        let config = config(&home.path(service), &yaml);
        proxies.push(run::proxy::start(&config, clock.clone()).await.unwrap());
    }
    let outbound = ready(&name).await;

    let first = ends(&name).await;
    assert_eq!(get(outbound, "orders", "/orders").await, 200);
    for _ in 0..3 {
        let before = ends(&name).await;
        clock.advance(Duration::from_secs(45 * 60));
        until("every certificate is renewed", || async {
            ends(&name).await > before
        })
        .await;
        assert_eq!(get(outbound, "orders", "/orders").await, 200);
    }
    assert!(ends(&name).await >= first + 2 * 3600);

    plane.end().await;
    clock.advance(Duration::from_secs(2 * 3600));
    let status = get(outbound, "orders", "/orders").await;
    assert!(
        [502, 503].contains(&status),
        "an expired identity passed: {status}"
    );
    for proxy in proxies {
        proxy.end().await;
    }
}

/// Ten minutes ahead and back: nobody asked for it, no request fails, nothing passes
/// that is denied, and no snapshot grows old or young by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_costs_no_request() {
    let home = support::Home::new();
    let name = format!("jump-{}", std::process::id());
    let clock = Clock::manual(jiff::Timestamp::now());
    let app = start_app().await;
    let plane_config = config(&home.path("plane"), &control_plane(&name, &sample()));
    let plane = run::control_plane(&plane_config, &Role::ALL, clock.clone())
        .await
        .unwrap();
    let pdp = plane.pdp.as_ref().unwrap().address;
    let audit = plane.audit.as_ref().unwrap().address.unwrap();
    let agent = plane_config.agent_socket();
    let mut proxies = Vec::new();
    for service in ["web", "orders"] {
        let yaml = proxy(&name, service, app, pdp, audit, &agent);
        let config = config(&home.path(service), &yaml);
        proxies.push(run::proxy::start(&config, clock.clone()).await.unwrap());
    }
    let outbound = ready(&name).await;
    let jump = Duration::from_secs(600);
    let is_served = async |times: usize| {
        for _ in 0..times {
            assert_eq!(get(outbound, "orders", "/orders").await, 200);
            assert_eq!(get(outbound, "orders", "/nowhere").await, 403);
        }
    };
    is_served(20).await;
    clock.set_ahead(jump);
    is_served(20).await;
    clock.set_back(jump);
    is_served(20).await;
    for status in statuses(&name).await {
        assert!(
            !status.stale && status.snapshot_age_s == Some(0),
            "{status:?}"
        );
    }
    for proxy in proxies {
        proxy.end().await;
    }
    plane.end().await;
}

/// Root, intermediate and every certificate end while the control plane is down. The
/// authority is repaired, and all come back with the registrations they had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_whose_certificates_have_all_expired_is_repaired() {
    let home = support::Home::new();
    let name = format!("expiry-{}", std::process::id());
    let clock = Clock::manual(jiff::Timestamp::now());
    let app = start_app().await;
    let (pdp, audit) = (support::free_port(), support::free_port());
    let yaml = control_plane(&name, &sample())
        .replacen("127.0.0.1:0", &pdp.to_string(), 1)
        .replacen("127.0.0.1:0", &audit.to_string(), 1);
    let plane_config = config(&home.path("plane"), &yaml);
    let plane = run::control_plane(&plane_config, &Role::ALL, clock.clone())
        .await
        .unwrap();
    let agent = plane_config.agent_socket();
    let mut proxies = Vec::new();
    for service in ["web", "orders"] {
        let yaml = proxy(&name, service, app, pdp, audit, &agent);
        let config = config(&home.path(service), &yaml);
        proxies.push(run::proxy::start(&config, clock.clone()).await.unwrap());
    }
    let outbound = ready(&name).await;
    assert_eq!(get(outbound, "orders", "/orders").await, 200);
    let roots = plane.ca.as_ref().unwrap().trust().borrow().bundle.clone();
    plane.end().await;

    clock.advance(Duration::from_secs(400 * 86_400));
    assert_ne!(get(outbound, "orders", "/orders").await, 200);
    let folder = plane_config.state_dir.join("ca");
    let of_ca = palisade_ca::CaConfig::new(plane_config.trust_domain.clone(), folder);
    let repaired = palisade_ca::server::repair(&of_ca, clock.clone())
        .await
        .unwrap();
    assert_eq!(repaired.ended, 2);
    let plane = run::control_plane(&plane_config, &Role::ALL, clock.clone())
        .await
        .unwrap();
    assert_ne!(plane.ca.as_ref().unwrap().trust().borrow().bundle, roots);
    until("a request that passes", || async {
        get(outbound, "orders", "/orders").await == 200
    })
    .await;
    plane.end().await;
    for proxy in proxies {
        proxy.end().await;
    }
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
