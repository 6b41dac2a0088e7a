//! The store through its door: damage, other logs, ids, tail, summaries.

use std::{fs, path::Path, sync::Arc, time::Duration};

use palisade_mesh::wire::record::{Record, record::Body};
use tokio_stream::StreamExt;

use super::fake::{
    Log, NOW, caught_up, decision, id_at, open, options, outcome_of, runtime, until,
};
use crate::{
    index::{
        Answer, BucketSpan, Cursor, FACETS_MAX, LAG_MAX, Options, Step, Store, StoreError,
        TailEvent, Total,
    },
    query::{Query, STEPS_MAX},
    row::Row,
    source::Source as _,
};

const SECOND: i64 = 1_000_000;

fn rows(store: &Store, query: &str) -> Vec<Row> {
    let query = Query::parse(query).unwrap();
    let found = store.search(&query, 1000, None).unwrap();
    assert!(found.coverage.complete, "{:?}", found.coverage);
    found.rows
}

/// `count` decisions, one each minute back from now, each with its outcome.
fn filled(count: u128) -> Arc<Log> {
    let log = Log::new();
    for i in 0..count {
        let time_us = NOW - 60 * SECOND * i as i64 - SECOND;
        let mut record = decision(time_us, i);
        if let Some(Body::Decision(d)) = &mut record.body
            && i % 3 == 0
        {
            d.verdict = 3;
        }
        let outcome = outcome_of(&record, time_us + 5000, if i % 2 == 0 { 200 } else { 500 });
        log.append(record);
        log.append(outcome);
    }
    log
}

fn indexed(log: &Arc<Log>, dir: &Path) -> Store {
    let store = open(log, dir);
    runtime().block_on(store.flush()).unwrap();
    store
}

#[test]
fn a_deleted_index_is_made_again_and_answers_the_same() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(200));
    let store = indexed(&log, dir.path());
    let before = rows(&store, "decision:deny status:5xx");
    assert!(!before.is_empty());
    drop(store);
    fs::remove_dir_all(dir.path()).unwrap();
    let store = open(&log, dir.path());
    caught_up(&store);
    assert_eq!(rows(&store, "decision:deny status:5xx"), before);
}

#[test]
fn a_damaged_bucket_is_made_again_and_the_others_stay() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(200));
    let store = indexed(&log, dir.path());
    let before = rows(&store, "class:*");
    drop(store);
    let bucket = dir.path().join("bucket-2026-11-20T10");
    let damaged = fs::read_dir(&bucket)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "term"))
        .unwrap();
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&damaged).unwrap();
    fs::write(&damaged, bytes).unwrap();

    let store = open(&log, dir.path());
    runtime().block_on(store.flush()).unwrap();
    caught_up(&store);
    assert_eq!(rows(&store, "class:*"), before);
    drop(store);
    let store = open(&log, dir.path());
    assert_eq!(store.status().remaking, 0);
    assert_eq!(rows(&store, "class:*"), before);
}

/// While a bucket is made again, every answer about its time is not complete and names it; one
/// about another time is whole.
#[test]
fn a_bucket_that_is_being_made_again_is_named() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(200));
    drop(indexed(&log, dir.path()));
    fs::remove_dir_all(dir.path().join("bucket-2026-11-20T10")).unwrap();
    // No room: it cannot be made again yet.
    log.press(Some("no room"));
    let store = open(&log, dir.path());
    let ask = |query: &str| {
        let query = Query::parse(query).unwrap();
        store.search(&query, 1000, None).unwrap().coverage
    };
    let of_it = "class:* since:2026-11-20T10:30:00Z until:2026-11-20T10:31:00Z";
    let of_others = "class:* since:2026-11-20T09:00:00Z until:2026-11-20T10:00:00Z";
    for query in ["class:*", of_it] {
        let found = ask(query);
        assert!(!found.complete, "{query}");
        assert_eq!(
            found.skipped_buckets,
            ["2026-11-20T10:00:00.000000Z"],
            "{query}"
        );
    }
    assert_eq!(ask(of_others).skipped_buckets, Vec::<String>::new());
    log.press(None);
    runtime().block_on(store.flush()).unwrap();
    caught_up(&store);
    for query in ["class:*", of_it, of_others] {
        let found = ask(query);
        assert!(found.complete, "{query}: {found:?}");
        assert_eq!(found.skipped_buckets, Vec::<String>::new(), "{query}");
    }
}

#[test]
fn a_crash_between_a_commit_and_the_state_doubles_nothing() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(40));
    let store = indexed(&log, dir.path());
    let state = fs::read(dir.path().join("state.json")).unwrap();
    let late = outcome_of(&decision(NOW, 99), NOW + 10, 200);
    log.append(decision(NOW, 99));
    runtime().block_on(store.flush()).unwrap();
    log.append(late);
    runtime().block_on(store.flush()).unwrap();
    let before = rows(&store, "class:*");
    drop(store);
    fs::write(dir.path().join("state.json"), state).unwrap();
    let store = open(&log, dir.path());
    caught_up(&store);
    assert_eq!(rows(&store, "class:*"), before);
    runtime().block_on(store.flush()).unwrap();
    assert_eq!(rows(&store, "class:*"), before);
    assert_eq!(rows(&store, "ended:false"), vec![]);
}

#[test]
fn another_log_under_the_same_name_is_noticed() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(40));
    drop(indexed(&log, dir.path()));
    log.truncate(10);
    for i in 0..60 {
        log.append(decision(NOW - i, 1000 + i as u128));
    }
    let store = open(&log, dir.path());
    caught_up(&store);
    assert_eq!(rows(&store, "class:decision").len(), 5 + 60);
}

#[test]
fn more_buckets_than_writers_and_a_changed_span_are_no_matter() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::new();
    for i in 0..40 {
        // Hours apart, to and fro.
        let record = decision(NOW - (i * 7 % 20) * 3_600 * SECOND, i as u128);
        log.append_received(record, NOW);
    }
    let store = indexed(&log, dir.path());
    assert_eq!(store.status().buckets, 20);
    assert_eq!(rows(&store, "").len(), 40);
    drop(store);
    let by_day = Options {
        bucket: BucketSpan::Day,
        ..options()
    };
    let store = super::fake::open_with(&log, dir.path(), by_day);
    runtime().block_on(store.flush()).unwrap();
    assert_eq!(store.status().buckets, 2);
    assert_eq!(rows(&store, "").len(), 40);
}

/// Times are their reporter's to choose within a month: however they go to and fro, a bucket is
/// committed once for all of a commit, and nobody's records wait for it.
#[test]
fn records_of_many_days_cost_no_commit_each() {
    const RECORDS: u64 = 300;
    const DAYS: u64 = 6;
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    for i in 0..RECORDS {
        let days = i64::try_from(i % DAYS).unwrap();
        let record = decision(NOW - days * 86_400 * SECOND, u128::from(i));
        log.append_received(record, NOW);
    }
    let by_day = Options {
        bucket: BucketSpan::Day,
        recent_max: 1000,
        ..options()
    };
    let store = super::fake::open_with(&log, dir.path(), by_day);
    runtime().block_on(store.flush()).unwrap();
    assert_eq!(store.status().buckets, usize::try_from(DAYS).unwrap());
    let all = rows(&store, "last:30d");
    assert_eq!(all.len(), usize::try_from(RECORDS).unwrap());
    // Each document and each commit is one step of a bucket.
    let steps: u64 = fs::read_dir(dir.path())
        .unwrap()
        .filter_map(|entry| fs::read(entry.unwrap().path().join("meta.json")).ok())
        .map(|meta| serde_json::from_slice::<serde_json::Value>(&meta).unwrap())
        .map(|meta| meta["opstamp"].as_u64().unwrap())
        .sum();
    assert!(steps <= RECORDS + 4 * DAYS, "{steps} steps");
}

/// Half of an id is indexed, and which half of them are alike is their reporter's to choose.
#[test]
fn ids_that_are_alike_cost_their_own_reporter_at_most() {
    const ALIKE: u128 = 300;
    const OUTCOMES: u64 = 20;
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let of = |reporter: &str, random: u128| Record {
        reporter: format!("spiffe://acme.test/palisade/proxy/{reporter}"),
        ..decision(NOW - SECOND, random)
    };
    let honest = of("orders", 7);
    log.append(honest.clone());
    for random in 0..ALIKE {
        log.append(of("web", 1000 + random));
    }
    let store = open(&log, dir.path());
    runtime().block_on(store.flush()).unwrap();
    let before = log.reads();
    for random in 0..OUTCOMES {
        let none = of("web", 5000 + u128::from(random));
        log.append(outcome_of(&none, NOW, 200));
    }
    log.append(outcome_of(&honest, NOW, 502));
    runtime().block_on(store.flush()).unwrap();
    let reads = log.reads() - before;
    assert!(reads <= OUTCOMES * 70, "{reads} reads");
    assert_eq!(rows(&store, "class:decision status:502").len(), 1);
    // The newest of those that are alike has its outcome, too.
    log.append(outcome_of(&of("web", 1000 + ALIKE - 1), NOW, 503));
    runtime().block_on(store.flush()).unwrap();
    assert_eq!(rows(&store, "class:decision status:503").len(), 1);
}

#[test]
fn an_unreadable_record_is_left_out_and_the_answer_says_so() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(20));
    log.break_entry(6);
    let store = indexed(&log, dir.path());
    let query = Query::parse("class:decision").unwrap();
    let found = store.search(&query, 100, None).unwrap();
    assert_eq!(found.rows.len(), 19);
    assert_eq!(found.coverage.unreadable, 1);
    assert!(!found.coverage.complete);
    // One that breaks after it was indexed.
    log.break_entry(8);
    let found = store.search(&query, 100, None).unwrap();
    assert_eq!(found.rows.len(), 18);
    assert_eq!(found.coverage.unreadable, 2);
}

/// Where the record itself has to tell whether it matches, a lost one may be a match.
#[test]
fn a_record_that_was_lost_makes_no_answer_whole() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(20));
    let store = indexed(&log, dir.path());
    let id = id_at(NOW - 60 * SECOND * 4 - SECOND, 4).try_into().unwrap();
    let query = Query::parse(&format!("id:{}", ulid::Ulid::from_bytes(id))).unwrap();
    let found = store.search(&query, 100, None).unwrap();
    assert_eq!((found.rows.len(), found.coverage.complete), (1, true));
    log.break_entry(8);
    let found = store.search(&query, 100, None).unwrap();
    assert_eq!((found.rows.len(), found.coverage.complete), (0, false));
    assert_eq!(found.coverage.unreadable, 1);
    let found = store.facets(&query, &["service"], 10).unwrap();
    assert!(!found.coverage.complete);
    assert_eq!(store.count_whole(&query).unwrap(), (0, false));
}

/// A cursor is what a caller sends: it widens no question.
#[test]
fn a_page_is_of_no_more_time_than_a_query() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(3));
    let store = indexed(&log, dir.path());
    let query = Query::parse("last:1h").unwrap();
    for (cursor, told) in [
        (format!("0.{}.{}.9", i64::MAX, i64::MAX), 7106),
        (format!("{}.{}.{NOW}.9", i64::MIN, i64::MAX), 7106),
        (format!("{NOW}.{NOW}.{NOW}.9"), 7105),
    ] {
        let cursor = Cursor::parse(&cursor).unwrap();
        match store.search(&query, 10, Some(cursor)) {
            Err(StoreError::Query(found)) => assert_eq!(found.code.0, told),
            other => panic!("{cursor}: {other:?}"),
        }
    }
}

/// A full disk: what room there is belongs to the log. Answers say so, and the
/// index catches up by itself.
#[test]
fn the_index_waits_for_room_and_then_catches_up() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(10));
    let store = indexed(&log, dir.path());
    log.press(Some("no room"));
    let record = decision(NOW - SECOND, 900);
    log.append(record);
    until(&store, |status| {
        status.stalled.as_deref() == Some("no room")
    });
    let query = Query::parse("decision:*").unwrap();
    let found = store.search(&query, 1000, None).unwrap();
    assert!(!found.coverage.complete);
    log.press(None);
    caught_up(&store);
    assert_eq!(store.status().stalled, None);
    assert_eq!(rows(&store, "decision:*").len(), 11);
}

/// Clocks that jump ten minutes or a day, either way: what is ahead of its receipt
/// is suspect and filed under its receipt, what is late is neither.
#[test]
fn a_record_from_the_future_is_suspect_and_found_under_its_receipt() {
    const MINUTE: i64 = 60 * SECOND;
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let jumps = [
        (10 * MINUTE, true),
        (24 * 60 * MINUTE, true),
        (4 * MINUTE, false),
        (-10 * MINUTE, false),
        (-23 * 60 * MINUTE, false),
    ];
    for (i, (jump, _)) in jumps.iter().enumerate() {
        let record = decision(NOW - 5 * MINUTE + jump, i as u128);
        log.append_received(record, NOW - 5 * MINUTE + i as i64);
    }
    let store = indexed(&log, dir.path());
    let entries = |query: &str| -> Vec<u64> {
        let query = Query::parse(query).unwrap();
        let found = store.search(&query, 1000, None).unwrap();
        assert!(found.coverage.complete);
        found
            .rows
            .iter()
            .map(|row| row.number("entry").unwrap())
            .collect()
    };
    assert_eq!(entries("suspect:true"), [1, 0], "newest receipt first");
    assert_eq!(entries("suspect:false"), [2, 3, 4]);
    assert_eq!(entries("suspect:true last:6m"), [1, 0]);
}

#[test]
fn a_record_is_found_at_once_and_its_outcome_joins_it_later() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(3));
    let store = indexed(&log, dir.path());
    let record = decision(NOW, 77);
    log.append(record.clone());
    caught_up(&store);
    assert_eq!(rows(&store, "ended:false").len(), 1);
    runtime().block_on(store.flush()).unwrap();
    assert_eq!(rows(&store, "ended:false").len(), 1);
    log.append(outcome_of(&record, NOW + 40_000, 502));
    caught_up(&store);
    let found = rows(&store, "status:502 latency:>=40ms");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].number("outcome_entry"), Some(7));
    assert_eq!(rows(&store, "ended:false").len(), 0);
}

#[test]
fn an_id_or_enough_of_it_finds_everything_that_belongs_to_it() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(30));
    let record = decision(NOW, 77);
    log.append(record.clone());
    let store = indexed(&log, dir.path());
    log.append(outcome_of(&record, NOW + 40_000, 200));
    caught_up(&store);
    let row = rows(&store, "ended:true").remove(0);
    let id = row.text("id").unwrap();
    assert_eq!(store.by_id(id).unwrap().len(), 2);
    assert_eq!(store.row_by_id(id).unwrap(), row);
    assert_eq!(store.by_id(&id[..10].to_lowercase()).unwrap().len(), 2);
    let code = |id: &str| match store.by_id(id) {
        Err(StoreError::Query(told)) => told.code.0,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(&id[..6]), 7110);
    assert_eq!(code(&id[..5]), 7110);
    assert_eq!(code("not an id"), 7110);
    assert_eq!(code("00000000000000000000000001"), 7111);
    assert_eq!(rows(&store, &format!("id:{id}")).len(), 1);
}

#[test]
fn a_search_counts_up_to_its_limit() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(50));
    let store = super::fake::open_with(
        &log,
        dir.path(),
        Options {
            count_max: 20,
            ..options()
        },
    );
    runtime().block_on(store.flush()).unwrap();
    let total = |query: &str| {
        let query = Query::parse(query).unwrap();
        store.search(&query, 5, None).unwrap().total
    };
    assert!(matches!(total("class:decision"), Total::AtLeast(n) if (20..50).contains(&n)));
    assert_eq!(total("decision:deny"), Total::Exact(17));
    // A tenth of it, and no less than there are rows, where some have to be asked about.
    let counted = total("decision:deny latency:>1us");
    assert!(
        matches!(counted, Total::AtLeast(n) if (5..17).contains(&n)),
        "{counted:?}"
    );
    assert_eq!(store.count(&Query::parse("").unwrap()).unwrap(), 50);
}

#[test]
fn matches_are_summed_up_by_value_and_by_time() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(60));
    let store = indexed(&log, dir.path());
    let answer = |query: &str| {
        store
            .answer(&Query::parse(query).unwrap(), 10, None)
            .unwrap()
    };
    let Answer::Counted(counted) = answer("| count by decision, status") else {
        panic!("not counted");
    };
    let groups: Vec<(String, u64)> = counted
        .groups
        .into_iter()
        .map(|group| (group.values.join(" "), group.count))
        .collect();
    let expected = [
        ("allow 200", 20),
        ("allow 500", 20),
        ("not_permitted 200", 10),
        ("not_permitted 500", 10),
    ];
    assert_eq!(groups, expected.map(|(group, n)| (group.to_owned(), n)));
    let Answer::Counted(counted) = answer("decision:deny | count") else {
        panic!("not counted");
    };
    assert_eq!(counted.groups[0].count, 20);
    assert!(counted.groups[0].values.is_empty());
    let refused = store.facets(&Query::parse("").unwrap(), &["path"], 5);
    assert!(matches!(refused, Err(StoreError::Query(told)) if told.code.0 == 7108));
    let facets = |n: usize| store.facets(&Query::parse("").unwrap(), &vec!["service"; n], 5);
    assert_eq!(facets(FACETS_MAX).unwrap().facets.len(), FACETS_MAX);
    assert!(facets(FACETS_MAX + 1).is_err());
    let refused = store.facets(&Query::parse("").unwrap(), &["servce"], 5);
    let Err(StoreError::Query(told)) = refused else {
        panic!("an unknown field was counted");
    };
    assert_eq!(
        (told.code.0, told.help.as_deref()),
        (7102, Some("did you mean `service`?"))
    );
}

/// A silent step is a finding: it is there, with 0.
#[test]
fn a_timeline_has_every_step_and_tells_values_apart() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(60));
    let store = indexed(&log, dir.path());
    let by_time = |query: &str| {
        let query = Query::parse(query).unwrap();
        match store.answer(&query, 10, None).unwrap() {
            Answer::ByTime(by_time) => by_time,
            other => panic!("no timeline: {other:?}"),
        }
    };
    let plain = by_time("since:-2h | timeline 30m");
    let counts = |steps: &[Step]| -> Vec<(String, u64)> {
        let hour = |s: &Step| s.time[11..16].to_owned();
        steps.iter().map(|s| (hour(s), s.count)).collect()
    };
    let expected = [
        ("10:00", 0),
        ("10:30", 0),
        ("11:00", 30),
        ("11:30", 30),
        ("12:00", 0),
    ];
    assert_eq!(
        counts(&plain.steps),
        expected.map(|(at, n)| (at.to_owned(), n))
    );
    assert!(
        plain
            .steps
            .iter()
            .all(|s| s.values.is_empty() && s.other == 0)
    );

    let apart = by_time("since:-2h | timeline 30m by decision | top 1");
    assert_eq!(counts(&apart.steps), counts(&plain.steps));
    for step in apart.steps.iter().filter(|s| s.count > 0) {
        assert_eq!(step.values, [("allow".to_owned(), 20)]);
        assert_eq!(step.other, 10);
    }
    // As many steps as there may be, and one more.
    let steps = |secs: i64| {
        let text =
            format!("since:2026-11-20T00:00:00Z until:2026-11-20T12:00:00Z | timeline {secs}s");
        store.answer(&Query::parse(&text).unwrap(), 10, None)
    };
    assert!(steps(43_200 / STEPS_MAX + 1).is_ok());
    let Err(StoreError::Query(told)) = steps(43_200 / STEPS_MAX) else {
        panic!("a timeline without end");
    };
    assert_eq!(told.code.0, 7112);
    assert!(told.help.unwrap().contains("timeline 10s"));
    let chosen = store.timeline(&Query::parse("since:-2h").unwrap(), None, None, 20);
    assert_eq!(chosen.unwrap().step_secs, 300);
}

/// What was first and last seen of each caller, in the order that is asked for.
#[test]
fn groups_know_their_first_and_last_record_and_are_sorted() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(60));
    let store = indexed(&log, dir.path());
    let counted = |query: &str| {
        let query = Query::parse(query).unwrap();
        match store.answer(&query, 10, None).unwrap() {
            Answer::Counted(counted) => counted,
            other => panic!("not counted: {other:?}"),
        }
    };
    let all = rows(&store, "class:decision");
    let spans = counted("| first, last by decision");
    assert_eq!((spans.distinct, spans.uncounted), (2, 0));
    for group in &spans.groups {
        let of = |row: &&Row| row.text("decision") == Some(group.values[0].as_str());
        let times: Vec<String> = all.iter().filter(of).map(Row::time).collect();
        assert_eq!(Some(&group.first), times.iter().min());
        assert_eq!(Some(&group.last), times.iter().max());
        assert_eq!(group.count, times.len() as u64);
    }
    assert!(
        spans.groups[0].last >= spans.groups[1].last,
        "the latest first"
    );
    let first = counted("| first, last by decision | sort decision | top 1");
    assert_eq!(first.groups.len(), 1);
    assert_eq!(first.groups[0].values, ["allow"]);
    let least = counted("| count by decision | sort count");
    assert_eq!(least.groups[0].values, ["not_permitted"]);
    let statuses = counted("| count by status | sort -status");
    assert_eq!(statuses.groups[0].values, ["500"]);
}

#[test]
fn a_row_is_a_flat_object_with_the_names_of_the_fields() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(1));
    let store = indexed(&log, dir.path());
    let row = rows(&store, "").remove(0);
    let json = serde_json::to_value(&row).unwrap();
    for (name, expected) in [
        ("time", serde_json::json!("2026-11-20T11:59:59.000000Z")),
        ("decision", "not_permitted".into()),
        ("status", 200.into()),
        ("latency", 5000.into()),
        ("cached", false.into()),
        ("policy", serde_json::json!(["p1"])),
        ("revision", "01010101".into()),
        ("revision_digest", "01".repeat(32).into()),
        ("outcome_entry", 1.into()),
        ("entry", 0.into()),
    ] {
        assert_eq!(json[name], expected, "{name}");
    }
    assert_eq!(
        row.compact(),
        "2026-11-20T11:59:59.000000Z not_permitted GET spiffe://acme.test/ns/shop/sa/web -> \
         acme.test/shop/orders /orders/7 permitted 200 5.000ms "
            .to_owned()
            + row.text("id").unwrap()
    );
}

/// The next event, within a time no working machine needs.
async fn next(stream: &mut (impl tokio_stream::Stream<Item = TailEvent> + Unpin)) -> TailEvent {
    let next = tokio::time::timeout(Duration::from_secs(20), stream.next());
    next.await
        .expect("an event comes")
        .expect("the tail goes on")
}

#[test]
fn the_tail_tells_matches_as_they_become_durable() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(3));
    let store = open(&log, dir.path());
    runtime().block_on(async {
        let mut denied = Box::pin(store.tail(&Query::parse("decision:deny").unwrap()));
        let mut failed = Box::pin(store.tail(&Query::parse("status:5xx").unwrap()));
        let mut record: Record = decision(NOW, 1);
        log.append(record.clone());
        if let Some(Body::Decision(d)) = &mut record.body {
            d.verdict = 2;
        }
        let denial = log.append(record.clone());
        let outcome = log.append(outcome_of(&record, NOW + 1, 503));
        let TailEvent::Row(row) = next(&mut denied).await else {
            panic!("no row");
        };
        assert_eq!(
            (row.entry, row.text("decision")),
            (denial, Some("forbidden"))
        );
        let TailEvent::Row(row) = next(&mut failed).await else {
            panic!("no row");
        };
        assert_eq!(
            (row.entry, row.number("outcome_entry")),
            (denial, Some(outcome))
        );
    });
}

/// A segment that an archive has lost is told once, and what follows it comes.
#[test]
fn a_tail_goes_on_behind_a_lost_segment() {
    let (dir, log) = (tempfile::tempdir().unwrap(), filled(3));
    let store = open(&log, dir.path());
    let first = log.len();
    log.lose(first..first + 5);
    runtime().block_on(async {
        let mut tail = Box::pin(store.tail(&Query::parse("class:decision").unwrap()));
        for n in 0..6 {
            log.append(decision(NOW, n));
        }
        let TailEvent::Unreadable(index) = next(&mut tail).await else {
            panic!("nothing is told of what is lost");
        };
        assert_eq!(index, first);
        let TailEvent::Row(row) = next(&mut tail).await else {
            panic!("it is told more than once");
        };
        assert_eq!(row.entry, first + 5);
    });
}

/// Decisions of programs that ask have no outcome: they crowd out no other.
#[test]
fn a_tail_waits_for_an_outcome_through_many_decisions_without_one() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let store = open(&log, dir.path());
    runtime().block_on(async {
        let mut tail = Box::pin(store.tail(&Query::parse("status:5xx").unwrap()));
        let slow = decision(NOW, 1 << 40);
        for i in 0..8191 {
            log.append(decision(NOW, i));
        }
        let at = log.append(slow.clone());
        for i in 8191..12_000 {
            log.append(decision(NOW, i));
        }
        log.append(outcome_of(&slow, NOW + 1, 503));
        let TailEvent::Row(row) = next(&mut tail).await else {
            panic!("no row");
        };
        assert_eq!((row.entry, row.number("status")), (at, Some(503)));
    });
}

#[test]
fn a_tail_that_is_too_slow_says_how_much_it_left_out() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let store = open(&log, dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut tail = Box::pin(store.tail(&Query::parse("").unwrap()));
        for i in 0..=LAG_MAX {
            log.append(decision(NOW, u128::from(i)));
        }
        let TailEvent::Skipped(skipped) = next(&mut tail).await else {
            panic!("nothing skipped");
        };
        assert_eq!(skipped, LAG_MAX + 1);
        log.append(decision(NOW, 1));
        assert!(matches!(next(&mut tail).await, TailEvent::Row(_)));
    });
}
