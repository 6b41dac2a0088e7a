//! Roll-ups give what a scan gives, whatever happens to the index, and are used.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use proptest::prelude::*;

use super::fake::{Log, NOW, any_records, caught_up, decision, open_with, options, runtime};
use crate::{
    index::{
        BucketSpan, Options, RollUps, Store,
        rollup::KEY,
        tally::{Cell, Tally},
    },
    query::{BY_MAX, Field, Query, tests::any_expr},
};

const HOUR: i64 = 3_600_000_000;
const MINUTE: i64 = 60_000_000;

/// Everything is worth a file.
const EVERYTHING: RollUps = RollUps {
    rows_max: 100_000,
    bytes_max: u64::MAX,
};

fn by_day(rollups: RollUps) -> Options {
    Options {
        bucket: BucketSpan::Day,
        rollups,
        ..options()
    }
}

/// What a tally has come to: groups, matches, matches without a value.
type Sum = (BTreeMap<(i64, Vec<String>), Cell>, u64, u64);

/// Compares both ways to count, of what was there at one moment: the index goes on meanwhile.
/// Gives how many files were used.
fn check(store: &Store, query: &str, fields: &[&str], step_us: Option<i64>) -> usize {
    let query = Query::parse(query).unwrap();
    let snapshot = store.everything(&query, usize::MAX).unwrap();
    let summed = |by_rows: bool| -> (Sum, usize) {
        let fields = fields.iter().map(|name| Field::find(name).unwrap());
        let tally = Tally::new(fields.collect(), step_us);
        let (mut tallies, files) = store.summed(&snapshot, vec![tally], by_rows).unwrap();
        let tally = tallies.remove(0);
        let (counted, absent) = (tally.counted, tally.absent);
        ((tally.into_groups().collect(), counted, absent), files)
    };
    let (by_rows, files) = summed(true);
    let (scanned, none) = summed(false);
    assert_eq!(by_rows, scanned, "{query} by {fields:?}");
    assert_eq!(none, 0);
    files
}

fn roll(store: &Store) {
    let runtime = runtime();
    runtime.block_on(store.flush()).unwrap();
    runtime.block_on(store.rolled_up());
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let buckets = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<PathBuf> = buckets
        .filter(|bucket| bucket.is_dir())
        .flat_map(|bucket| fs::read_dir(bucket).unwrap().map(|e| e.unwrap().path()))
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("rollup-")
        })
        .collect();
    files.sort();
    files
}

/// A decision each minute of the last ten hours.
fn ten_hours() -> Arc<Log> {
    let log = Log::new();
    for i in (0..600).rev() {
        log.append(decision(NOW - i * MINUTE - 1, i as u128));
    }
    log
}

#[test]
fn whole_hours_come_from_files_and_the_rest_is_scanned() {
    let (dir, log) = (tempfile::tempdir().unwrap(), ten_hours());
    let store = open_with(&log, dir.path(), by_day(EVERYTHING));
    roll(&store);
    // The hour that goes on has none.
    assert_eq!(files(dir.path()).len(), 9);
    let all = check(
        &store,
        "last:24h",
        &["principal", "service", "policy"],
        None,
    );
    assert_eq!(all, 9);
    // From half past, to half past.
    let edges = "since:2026-11-20T04:30:00Z until:2026-11-20T09:30:00Z";
    assert_eq!(check(&store, edges, &["service"], None), 4);
    assert_eq!(check(&store, "last:24h", &["reason"], Some(HOUR)), 9);
    // A step that ends within an hour, and fields that no row has.
    assert_eq!(check(&store, "last:24h", &["reason"], Some(10 * MINUTE)), 0);
    assert_eq!(check(&store, "last:24h", &["host"], None), 0);
    assert_eq!(
        check(&store, "path:/orders/7 last:24h", &["service"], None),
        0
    );
    // Of an hour in which a bound of positions lies, nobody knows but the documents.
    assert_eq!(check(&store, "entry:<150 last:24h", &["service"], None), 8);
    assert_eq!(
        check(&store, "entry:<100000 last:24h", &["service"], None),
        9
    );
}

#[test]
fn a_bucket_that_is_over_is_rolled_up_whole() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    for day in (0..3).rev() {
        for i in 0..5 {
            log.append(decision(NOW - day * 24 * HOUR - i * HOUR, i as u128));
        }
    }
    let store = open_with(&log, dir.path(), by_day(EVERYTHING));
    roll(&store);
    let three = "since:2026-11-18 until:2026-11-20T12:00:01Z";
    // Two days, and four hours of the third.
    assert_eq!(check(&store, three, &["principal", "service"], None), 6);
    assert_eq!(check(&store, three, &["decision"], Some(24 * HOUR)), 2 + 4);
    // A day is in no step of six hours; its hours are.
    assert_eq!(
        check(&store, three, &["decision"], Some(6 * HOUR)),
        5 + 5 + 4
    );
}

/// A late record, and an outcome that changes what was counted.
#[test]
fn what_comes_later_makes_a_file_untrue_until_it_is_made_again() {
    let (dir, log) = (tempfile::tempdir().unwrap(), ten_hours());
    let store = open_with(&log, dir.path(), by_day(EVERYTHING));
    roll(&store);
    log.append_received(decision(NOW - 5 * HOUR, 9999), NOW);
    runtime().block_on(store.flush()).unwrap();
    assert_eq!(check(&store, "last:24h", &["service"], None), 8);
    roll(&store);
    assert_eq!(check(&store, "last:24h", &["service"], None), 9);
    let early = decision(NOW - 599 * MINUTE - 1, 599);
    let outcome = super::fake::outcome_of(&early, early.time_us + 500_000, 500);
    log.append_received(outcome, NOW);
    caught_up(&store);
    // While it is among the recent ones, and when it is in the index.
    assert_eq!(check(&store, "last:24h", &["status"], None), 8);
    runtime().block_on(store.flush()).unwrap();
    assert_eq!(check(&store, "last:24h", &["status"], None), 8);
    roll(&store);
    assert_eq!(check(&store, "class:* last:24h", &["status"], None), 9);
}

#[test]
fn a_damaged_missing_or_foreign_file_is_not_used_and_made_again() {
    let (dir, log) = (tempfile::tempdir().unwrap(), ten_hours());
    let store = open_with(&log, dir.path(), by_day(EVERYTHING));
    roll(&store);
    let made = files(dir.path());
    let mut bytes = fs::read(&made[2]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&made[2], bytes).unwrap();
    fs::remove_file(&made[4]).unwrap();
    fs::copy(&made[7], &made[6]).unwrap();
    assert_eq!(check(&store, "last:24h", &["service"], None), 6);
    roll(&store);
    assert_eq!(check(&store, "last:24h", &["service"], None), 9);
    // They go with their bucket, and another making of it does not take them.
    drop(store);
    let kept: Vec<(PathBuf, Vec<u8>)> = made
        .iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    fs::remove_dir_all(made[0].parent().unwrap()).unwrap();
    let store = open_with(&log, dir.path(), by_day(EVERYTHING));
    runtime().block_on(store.flush()).unwrap();
    caught_up(&store);
    for (path, bytes) in kept {
        fs::write(path, bytes).unwrap();
    }
    assert_eq!(check(&store, "last:24h", &["service"], None), 0);
    roll(&store);
    assert_eq!(check(&store, "last:24h", &["service"], None), 9);
}

#[test]
fn a_file_that_is_not_worth_it_has_no_rows() {
    // Each hour has one combination.
    let (log, query) = (ten_hours(), "last:24h");
    for (rows_max, bytes_max, used) in [
        (1, u64::MAX, 9),
        (0, u64::MAX, 0),
        (100, 100, 9),
        (100, 1, 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let limits = RollUps {
            rows_max,
            bytes_max,
        };
        let store = open_with(&log, dir.path(), by_day(limits));
        roll(&store);
        assert_eq!(files(dir.path()).len(), 9);
        assert_eq!(check(&store, query, &["service"], None), used, "{limits:?}");
    }
}

#[test]
fn every_field_of_a_row_can_be_counted() {
    for name in KEY {
        assert!(Field::find(name).unwrap().countable, "{name}");
    }
}

/// Fields to count by, of which rows have the first eleven.
const FIELDS: [&str; 13] = [
    "class",
    "decision",
    "reason",
    "principal",
    "service",
    "action",
    "route",
    "policy",
    "status",
    "reporter",
    "sequence",
    "host",
    "cached",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn rows_and_documents_agree_about_everything(
        records in any_records(),
        later in any_records(),
        by_hour in any::<bool>(),
        queries in prop::collection::vec(
            (any_expr(), prop::collection::vec(0_usize..13, 0..=BY_MAX), 0_usize..4),
            16,
        ),
        received in prop::collection::vec(-20_i64..60, 180),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new();
        let options = Options {
            bucket: if by_hour { BucketSpan::Hour } else { BucketSpan::Day },
            ..by_day(EVERYTHING)
        };
        let store = open_with(&log, dir.path(), options);
        let mut received = received.into_iter();
        // Some come late, and some from clocks that are ahead.
        let mut append = |record: palisade_mesh::wire::record::Record| {
            let by = received.next().unwrap_or(0) * MINUTE;
            let at = record.time_us + by;
            log.append_received(record, at);
        };
        records.into_iter().for_each(&mut append);
        roll(&store);
        // Of these, some are in the index and some are not.
        let half = later.len() / 2;
        let mut later = later.into_iter();
        later.by_ref().take(half).for_each(&mut append);
        runtime().block_on(store.flush()).unwrap();
        later.for_each(&mut append);
        caught_up(&store);
        for (expr, by, step) in queries {
            let fields: Vec<&str> = by.iter().map(|at| FIELDS[*at]).collect();
            let step = [None, Some(HOUR), Some(24 * HOUR), Some(10 * MINUTE)][step];
            for bounds in ["last:24h", "since:-110m until:-20m"] {
                check(&store, &format!("({expr}) {bounds}"), &fields, step);
                check(&store, &format!("class:* {bounds}"), &fields, step);
            }
        }
    }
}
