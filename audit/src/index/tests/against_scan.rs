//! Index and recent records together give exactly what a scan of the log gives.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::fake::{Log, any_records, caught_up, open, runtime};
use crate::{
    index::{Answer, Cursor, Store, Total},
    query::{Query, tests::any_expr},
    row::Row,
};

/// What happens between records.
#[derive(Debug, Clone)]
enum Event {
    Append(usize),
    Flush,
    Reopen,
}

fn any_events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1_usize..20).prop_map(Event::Append),
        2 => Just(Event::Flush),
        1 => Just(Event::Reopen),
    ];
    prop::collection::vec(event, 1..12)
}

fn check(log: &Log, store: &Store, query: &Query) {
    let window = query
        .window(super::fake::NOW, &store.shared.options.limits)
        .unwrap();
    let expected = log.scan_for(query, window);
    let rows: Vec<Row> = expected.iter().map(Row::new).collect();

    let found = store.search(query, 1000, None).unwrap();
    assert_eq!(found.rows, rows, "{query}");
    assert_eq!(found.total, Total::Exact(rows.len() as u64), "{query}");
    assert!(found.coverage.complete);
    assert_eq!(store.count(query).unwrap(), rows.len() as u64, "{query}");

    // The same, seven at a time.
    let mut paged = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.search(query, 7, cursor).unwrap();
        assert!(page.rows.len() <= 7);
        paged.extend(page.rows);
        let Some(next) = page.cursor else { break };
        assert_eq!(Cursor::parse(&next.to_string()), Some(next));
        cursor = Some(next);
    }
    assert_eq!(paged, rows, "{query} by pages");

    // Facets count each value once per record.
    let faceted = store
        .facets(query, &["policy", "status", "service"], 100)
        .unwrap();
    assert_eq!(faceted.total, rows.len() as u64, "{query}");
    for facet in faceted.facets {
        let name = facet.field;
        let mut expected = BTreeMap::<String, u64>::new();
        for row in &rows {
            let mut values: Vec<String> = row.texts(name).into_iter().map(String::from).collect();
            values.extend(row.number(name).map(|n| n.to_string()));
            values.sort();
            values.dedup();
            for value in values {
                *expected.entry(value).or_default() += 1;
            }
        }
        let found: BTreeMap<_, _> = facet
            .groups
            .into_iter()
            .map(|group| (group.values[0].clone(), group.count))
            .collect();
        assert_eq!(found, expected, "{query} by {name}");
    }
    check_spans(store, query, &rows);
}

/// First and last times and counts of pairs, and a timeline, are those of the rows.
fn check_spans(store: &Store, query: &Query, rows: &[Row]) {
    let texts = |row: &Row, name: &str| {
        let mut values: Vec<String> = row.texts(name).into_iter().map(String::from).collect();
        values.sort();
        values.dedup();
        values
    };
    let mut expected = BTreeMap::<Vec<String>, (u64, String, String)>::new();
    let mut steps = BTreeMap::<String, u64>::new();
    for row in rows {
        let time = row.time();
        // Steps of an hour begin where the hour is written.
        *steps.entry(time[..13].to_owned()).or_default() += 1;
        for policy in texts(row, "policy") {
            for service in texts(row, "service") {
                let group = vec![policy.clone(), service];
                let known = expected
                    .entry(group)
                    .or_insert((0, time.clone(), time.clone()));
                known.0 += 1;
                known.1 = known.1.clone().min(time.clone());
                known.2 = known.2.clone().max(time.clone());
            }
        }
    }
    let summed = |stage: &str| {
        let stage = Query::parse(stage).unwrap().stage().unwrap().clone();
        store.answer(&query.summed_up(stage), 1, None).unwrap()
    };
    let Answer::Counted(counted) = summed("| first, last by policy, service | top 1000") else {
        panic!("not counted");
    };
    let found: BTreeMap<_, _> = counted
        .groups
        .into_iter()
        .map(|g| (g.values, (g.count, g.first, g.last)))
        .collect();
    assert_eq!(found, expected, "{query}");
    let Answer::ByTime(by_time) = summed("| timeline 1h") else {
        panic!("no timeline");
    };
    let found: BTreeMap<_, _> = by_time
        .steps
        .into_iter()
        .filter(|step| step.count > 0)
        .map(|step| (step.time[..13].to_owned(), step.count))
        .collect();
    assert_eq!(found, steps, "{query}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn index_and_scan_agree_through_commits_and_restarts(
        records in any_records(),
        events in any_events(),
        queries in prop::collection::vec(any_expr(), 12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new();
        let runtime = runtime();
        let mut store = open(&log, dir.path());
        let mut records = records.into_iter();
        for event in events.into_iter().chain([Event::Append(usize::MAX)]) {
            match event {
                Event::Append(n) => {
                    for record in records.by_ref().take(n) {
                        log.append(record);
                    }
                }
                Event::Flush => runtime.block_on(store.flush()).unwrap(),
                Event::Reopen => {
                    drop(store);
                    store = open(&log, dir.path());
                }
            }
        }
        caught_up(&store);
        for query in queries {
            check(&log, &store, &Query::parse(&query.to_string()).unwrap());
        }
        check(&log, &store, &Query::parse("").unwrap());
        check(&log, &store, &Query::parse("class:*").unwrap());
        check(&log, &store, &Query::parse("class:* since:-90m until:-20m").unwrap());
    }
}
