//! Buckets that are over, in few segments.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use super::fake::{Log, NOW, caught_up, decision, open_with, options, outcome_of, runtime};
use crate::{
    index::{Cursor, Options, Store},
    query::Query,
    row::Row,
    source::Source as _,
};

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
/// So long before now is the middle of the oldest bucket.
const OLDEST: i64 = 5 * HOUR + HOUR / 2;

/// A decision with its outcome, as long before now.
fn tell(log: &Log, before_us: i64, id: u128) {
    let record = decision(NOW - before_us, id);
    let outcome = outcome_of(&record, NOW - before_us + 5000, 200);
    log.append(record);
    log.append(outcome);
}

/// A commit is of all that there is.
fn roomy() -> Options {
    Options {
        recent_max: 2000,
        ..options()
    }
}

/// Segments of each bucket in `dir`, oldest first.
fn segments(dir: &Path) -> Vec<usize> {
    let mut buckets: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("meta.json").exists())
        .collect();
    buckets.sort();
    let count = |bucket: &std::path::PathBuf| {
        let meta = fs::read(bucket.join("meta.json")).unwrap();
        let meta: serde_json::Value = serde_json::from_slice(&meta).unwrap();
        meta["segments"].as_array().unwrap().len()
    };
    buckets.iter().map(count).collect()
}

/// Everything, page by page from `cursor` on.
fn pages(store: &Store, mut cursor: Option<Cursor>) -> Vec<Row> {
    let query = Query::parse("class:* last:1d").unwrap();
    let mut rows = Vec::new();
    loop {
        let found = store.search(&query, 20, cursor).unwrap();
        assert!(found.coverage.complete, "{:?}", found.coverage);
        rows.extend(found.rows);
        cursor = found.cursor;
        if cursor.is_none() {
            return rows;
        }
    }
}

/// Whatever is merged, the same is found, also by who is in the middle of it. What is large stays,
/// so does what is not over, and of late records a few stay beside each other.
#[test]
fn small_segments_of_what_is_over_are_merged_and_answers_stay_the_same() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let store = open_with(&log, dir.path(), roomy());
    let runtime = runtime();
    let (scattered, newest) = (4 * HOUR + HOUR / 2, HOUR / 2);
    let mut ids = 0..;
    let mut tell_some = |before_us: i64, count: usize| {
        for id in ids.by_ref().take(count) {
            tell(&log, before_us - id as i64 * SECOND, id);
        }
        runtime.block_on(store.flush()).unwrap();
    };
    let segments_after = || {
        runtime.block_on(store.tidied_up()).unwrap();
        segments(dir.path())
    };
    tell_some(OLDEST, 400);
    (0..4).for_each(|_| tell_some(scattered, 50));
    (0..5).for_each(|_| tell_some(newest, 1));
    assert_eq!(segments(dir.path()), [1, 4, 5]);
    assert_eq!(segments_after(), [1, 4, 5]);
    for expected in [2, 3, 4] {
        tell_some(OLDEST, 1);
        assert_eq!(segments_after(), [expected, 4, 5]);
    }
    tell_some(OLDEST, 1);
    assert_eq!(segments(dir.path()), [5, 4, 5]);
    let before = pages(&store, None);
    assert_eq!(before.len(), 2 * 609);
    let query = Query::parse("class:* last:1d").unwrap();
    let first = store.search(&query, 20, None).unwrap();
    assert_eq!(segments_after(), [2, 4, 5]);
    assert_eq!(pages(&store, None), before);
    assert_eq!(pages(&store, first.cursor), before[20..]);

    drop(store);
    let again = open_with(&log, dir.path(), roomy());
    caught_up(&again);
    assert_eq!(pages(&again, None), before);
    assert_eq!(segments(dir.path()), [2, 4, 5]);
}

/// It happens by itself, between the records that come.
#[test]
fn small_segments_are_merged_when_nothing_else_is_to_be_done() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let often = Options {
        commit_every: Duration::from_millis(20),
        hold: Duration::ZERO,
        writer_idle: Duration::ZERO,
        ..roomy()
    };
    (0..400).for_each(|id| tell(&log, OLDEST + id as i64 * SECOND, id));
    tell(&log, HOUR / 2, 1000);
    let store = open_with(&log, dir.path(), often);
    runtime().block_on(store.flush()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let until = |holds: &dyn Fn(usize) -> bool| {
        while !holds(segments(dir.path())[0]) {
            assert!(Instant::now() < deadline, "{:?}", segments(dir.path()));
            std::thread::yield_now();
        }
    };
    // Of eight that are alike tantivy makes one by itself.
    for count in 2..6 {
        tell(&log, OLDEST, 2000 + count as u128);
        until(&|segments| segments == count || count == 5 && segments == 2);
    }
    until(&|segments| segments == 2);
    caught_up(&store);
    assert_eq!(pages(&store, None).len() as u64, log.len());
}
