//! The sink into a log of the same process.

use super::*;
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
