//! What a reload and an upgrade rest on: new workers on old sockets; a snapshot that
//! is too old; a drain that is cut short.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use palisade_mesh::wire::record::{Verdict, outcome::End};

use super::support::{Client, Reply, Setting, Stage, soon, until};
use crate::{
    RunningProxy,
    config::{AdminConfig, InboundConfig, ProxyConfig, UpstreamProtocol},
};

fn config(stage: &Stage, workers: usize) -> ProxyConfig {
    ProxyConfig {
        workers,
        inbound: Some(InboundConfig {
            listen: stage.inbound(),
            service: "shop/orders".into(),
            upstream: stage.app.address,
            upstream_protocol: UpstreamProtocol::Http1,
            upstream_off_host: false,
        }),
        admin: Some(AdminConfig {
            listen: stage.proxy.admin.unwrap(),
        }),
        ..ProxyConfig::default()
    }
}

async fn ready(proxy: &RunningProxy) -> (u16, String) {
    let mut admin = Client::plain_h1(proxy.admin.unwrap()).await;
    let mut request = admin.request("/readyz", &[]);
    request
        .headers_mut()
        .insert("host", "localhost".parse().unwrap());
    let reply = Reply::read(admin.send(request).await.unwrap()).await;
    (reply.status, reply.body)
}

/// Clients that open connection after connection, and one that stays on its own, meet
/// no gap while workers are replaced, by more of them and by fewer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_workers_are_replaced() {
    let stage = Stage::new().await;
    let identity = stage.authority.identity("ns/shop/sa/web");
    let address = stage.inbound();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let served = Arc::new(AtomicUsize::new(0));
    let counted = served.clone();
    let load = tokio::spawn(async move {
        while !*stopped.borrow() {
            let mut client = Client::h1(address, &identity).await;
            for _ in 0..3 {
                let reply = client.get("/public", &[]).await;
                assert_eq!(reply.status, 200);
                counted.fetch_add(1, Ordering::Relaxed);
                if reply
                    .headers
                    .get("connection")
                    .is_some_and(|v| v == "close")
                {
                    break;
                }
            }
        }
    });
    // Whatever the machine's pace, each generation serves some of the load.
    let more = async || {
        let enough = served.load(Ordering::Relaxed) + 5;
        let is_enough = || served.load(Ordering::Relaxed) >= enough;
        until("some more is served", is_enough).await;
    };
    more().await;
    let mut h1 = stage.h1().await;
    assert_eq!(h1.status("/public").await, 200);
    let mut present = stage.proxy.succeed(config(&stage, 3)).unwrap();
    assert_eq!(present.inbound, stage.proxy.inbound);
    let first = stage.proxy.retire(Duration::from_secs(5));
    // An idle HTTP/1.1 connection is told with the answer to its next request.
    let told = async {
        let reply = h1.get("/public", &[]).await;
        assert_eq!((reply.status, reply.header("connection")), (200, "close"));
    };
    let (report, ()) = tokio::join!(first, told);
    assert_eq!((report.cut, report.flushed), (0, true));
    for workers in [1, 2] {
        more().await;
        let next = present.succeed(config(&stage, workers)).unwrap();
        let report = present.retire(Duration::from_secs(5)).await;
        assert_eq!(report.cut, 0);
        present = next;
    }
    more().await;
    assert_eq!(ready(&present).await.0, 200);
    stop.send_replace(true);
    soon(load).await.unwrap();
    present.stop().await;
    assert!(std::net::TcpStream::connect(address).is_err());
    assert!(
        stage
            .records
            .outcomes()
            .iter()
            .all(|(_, o)| o.end() == End::Completed)
    );
}

/// Nothing has changed when the next configuration is wrong.
#[tokio::test]
async fn a_wrong_successor_leaves_the_present_one_alone() {
    let stage = Stage::new().await;
    let mut wrong = config(&stage, 1);
    wrong.limits.connections = 0;
    let codes = stage.proxy.succeed(wrong).unwrap_err().diagnostics();
    assert_eq!(codes.len(), 1);
    assert_eq!(stage.get("/public").await.status, 200);
}

/// A proxy that is about to leave fails its readiness, and serves.
#[tokio::test]
async fn a_leaving_proxy_still_serves() {
    let stage = Stage::new().await;
    stage.proxy.leave();
    assert!(stage.proxy.is_leaving());
    assert_eq!(ready(&stage.proxy).await, (503, "draining\n".to_owned()));
    assert_eq!(stage.get("/public").await.status, 200);
}

/// Invariant 9: beyond its limit a snapshot decides nothing, until it is confirmed.
#[tokio::test]
async fn a_stale_snapshot_decides_nothing() {
    let stage = Stage::set(Setting::default()).await;
    let fresh = stage.policy.load().clone().unwrap();
    stage.policy.store(Some(fresh.aged(true).into()));
    let reply = stage.get("/public").await;
    assert_eq!(
        (reply.status, reply.header("palisade-refused")),
        (503, "snapshot_stale")
    );
    assert!(!reply.header("retry-after").is_empty());
    assert_eq!(stage.records.decision().verdict(), Verdict::Undecided);
    let stale = (503, "policy snapshot is stale\n".to_owned());
    assert_eq!(ready(&stage.proxy).await, stale);
    stage.policy.store(Some(fresh.aged(false).into()));
    assert_eq!(stage.get("/public").await.status, 200);
}

/// Who asks twice does not want to wait.
#[tokio::test]
async fn a_second_drain_brings_the_deadline_nearer() {
    let stage = Stage::new().await;
    let mut h2 = stage.h2().await;
    let request = h2.request("/public/drip", &[]);
    let _response = h2.send(request).await.unwrap();
    let first = stage.proxy.drain(Duration::from_secs(600));
    let second = async {
        until("the drain has begun", || stage.proxy.is_leaving()).await;
        stage.proxy.stop().await
    };
    let (first, _) = soon(async { tokio::join!(first, second) }).await;
    assert_eq!(first.cut, 1);
    assert_eq!(stage.records.outcome().await.end(), End::Deadline);
}
