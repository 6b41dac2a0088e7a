//! The sink into a log of the same process.

use std::time::Duration;

use palisade_mesh::spiffe_id::TrustDomain;

use super::*;
use crate::log::LogOptions;
use crate::testing::{decision, expected_paths, open_log, paths, received, reporter, soon};

#[tokio::test]
async fn records_are_durable_in_the_log_and_the_stream_closes_itself() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    let sink = LocalSink::new(log.clone(), reporter(), Clock::system());
    let mut stream = sink.open(0);
    for n in 1..=10 {
        stream.append(&decision(n)).unwrap();
    }
    soon(stream.durable()).await.unwrap();
    assert_eq!(paths(&log), expected_paths(1..=10));
    stream.append(&decision(11)).unwrap();
    drop(stream);
    let mut len = log.subscribe();
    soon(len.wait_for(|_| received(&log).len() == 12))
        .await
        .unwrap();
    assert_eq!(sink.open(0).append(&decision(1)), Err(SinkError::Closed));
}

#[tokio::test]
async fn what_a_full_queue_turns_away_is_handed_over_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    let sink = LocalSink::new(log.clone(), reporter(), Clock::system());
    let mut stream = sink.open(0);
    let mut n = 0;
    while n < 2000 {
        match stream.append(&decision(n + 1)) {
            Ok(()) => n += 1,
            Err(e) => assert_eq!(e, SinkError::Full),
        }
        stream.flush();
    }
    let settled = async {
        while stream.durable().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(settled).await;
    assert_eq!(paths(&log), expected_paths(1..=2000));
}

#[tokio::test]
async fn a_closed_log_is_a_closed_sink() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    let sink = LocalSink::new(log.clone(), reporter(), Clock::system());
    let mut stream = sink.open(0);
    stream.append(&decision(1)).unwrap();
    log.close();
    assert_eq!(soon(stream.durable()).await, Err(SinkError::Closed));
}

/// A log that does not get on holds so much of a stream and no more; then the
/// buffer fills, and nothing is lost when it gets on again.
#[tokio::test]
async fn what_a_stalled_log_holds_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = LogOptions::new(TrustDomain::parse("acme.test").unwrap());
    // The first batch waits for others, which is as good as a stalled disk.
    options.group_wait = Duration::from_secs(3600);
    options.group_records = usize::MAX;
    let log = Log::open(dir.path(), options, Clock::system()).unwrap();
    let sink = LocalSink::new(log.clone(), reporter(), Clock::system());
    let mut stream = sink.stream(
        0,
        Limits {
            bytes: 1 << 20,
            records: 2,
        },
    );
    for n in 1..=3 {
        stream.append(&decision(n)).unwrap();
        stream.flush();
    }
    assert_eq!(stream.held().1, 2);
    assert!(stream.buffer.len() > 0);
    let receipts: Vec<Receipt> = stream.handed.iter().map(|(_, r)| r.clone()).collect();
    tokio::task::spawn_blocking(move || log.close())
        .await
        .unwrap();
    for mut receipt in receipts {
        soon(receipt.durable()).await.unwrap();
    }
    stream.settle();
    assert_eq!(stream.held(), (0, 0));
}
