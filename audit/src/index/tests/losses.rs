//! What reporters declared as lost, as answers tell it.

use std::{fs, path::Path, sync::Arc};

use palisade_mesh::{
    clock::Clock,
    wire::record::{Record, SpoolEvent, record::Body},
};

use super::fake::{Log, NOW, caught_up, decision, open, options, runtime};
use crate::{
    index::{Answer, Coverage, GAPS_TOLD_MAX, Store},
    item::{AHEAD_MAX_US, LATE_MAX_US},
    query::{Query, RowFilter, time::rfc3339},
    source::Source,
};

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const WEB: &str = "spiffe://acme.test/ns/shop/sa/web";

fn dropped(reporter: &str, at_us: i64, from_us: i64, until_us: i64) -> Record {
    Record {
        reporter: reporter.into(),
        time_us: at_us,
        body: Some(Body::SpoolEvent(SpoolEvent {
            verb: "dropped".into(),
            strict: 1,
            spool: 2,
            best_effort: 3,
            from_us,
            until_us,
            ..SpoolEvent::default()
        })),
        ..Record::default()
    }
}

fn indexed(log: &Arc<Log>, dir: &Path) -> Store {
    let store = open(log, dir);
    runtime().block_on(store.flush()).unwrap();
    store
}

fn asked(store: &Store, from_us: i64, to_us: i64) -> Coverage {
    let bounds = format!("since:{} until:{}", rfc3339(from_us), rfc3339(to_us));
    let query = Query::parse(&format!("class:* {bounds}")).unwrap();
    store.search(&query, 1, None).unwrap().coverage
}

/// How many records are told as lost in the hour before now, in how many losses.
fn told(store: &Store) -> (u64, usize) {
    let coverage = asked(store, NOW - HOUR, NOW);
    let records = coverage.lost.iter().map(|lost| lost.records).sum();
    (records, coverage.lost.len() + coverage.lost_more)
}

/// On both sides of both ends, of every kind of answer; also where it was told a day later, by
/// which time its bucket is another.
#[test]
fn an_answer_about_the_time_of_a_loss_names_it() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let (from, until) = (NOW - 30 * HOUR, NOW - 29 * HOUR);
    log.append(decision(from, 1));
    log.append(dropped(WEB, NOW - SECOND, from, until));
    let store = indexed(&log, dir.path());
    for (asked_from, asked_to, is_of_it) in [
        (from - HOUR, from, false),
        (from - HOUR, from + 1, true),
        (from + SECOND, from + 2 * SECOND, true),
        (until, until + HOUR, true),
        (until + 1, NOW, false),
    ] {
        let coverage = asked(&store, asked_from, asked_to);
        assert_eq!(coverage.complete, !is_of_it, "{coverage:?}");
        assert_eq!(coverage.lost.len(), usize::from(is_of_it));
        let bounds = (rfc3339(asked_from), rfc3339(asked_to));
        let text = format!("since:{} until:{}", bounds.0, bounds.1);
        let counted = format!("{text} | count by decision");
        let counted = Query::parse(&counted).unwrap();
        let Answer::Counted(counted) = store.answer(&counted, 10, None).unwrap() else {
            panic!("no count")
        };
        let query = Query::parse(&text).unwrap();
        let facets = store.facets(&query, &["decision"], 10).unwrap();
        let steps = store.timeline(&query, None, None, 10).unwrap();
        for other in [&counted.coverage, &facets.coverage, &steps.coverage] {
            assert_eq!((&other.lost, other.complete), (&coverage.lost, !is_of_it));
        }
    }
    let lost = asked(&store, from, until).lost.remove(0);
    assert_eq!(
        (lost.reporter.as_str(), lost.records, lost.entry),
        (WEB, 6, 1)
    );
    assert_eq!((lost.from, lost.until), (rfc3339(from), rfc3339(until)));
}

/// Who may not see everything hears that the answer is not complete, and not of whom.
#[test]
fn a_loss_is_not_told_to_who_sees_some_rows() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    log.append(dropped(WEB, NOW - SECOND, NOW - HOUR, NOW - SECOND));
    let store = indexed(&log, dir.path());
    let rows = RowFilter::parse("service:shop/*").unwrap();
    let query = Query::parse("last:2h").unwrap().restricted_to(&rows);
    let coverage = store.search(&query, 1, None).unwrap().coverage;
    assert_eq!((coverage.lost, coverage.complete), (Vec::new(), false));
}

/// What says nothing of its time is of the time when it was said; what says that nothing was
/// lost, or is not come yet, says nothing.
#[test]
fn a_declaration_is_taken_as_far_as_it_can_be() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    log.append(dropped(WEB, NOW - SECOND, 0, 0));
    let mut none = dropped(WEB, NOW - SECOND, NOW - HOUR, NOW);
    none.body = Some(Body::SpoolEvent(SpoolEvent {
        verb: "dropped".into(),
        from_us: NOW - HOUR,
        until_us: NOW,
        ..SpoolEvent::default()
    }));
    log.append(none);
    let mut other = dropped(WEB, NOW - SECOND, NOW - HOUR, NOW);
    if let Some(Body::SpoolEvent(event)) = &mut other.body {
        event.verb = "damaged".into();
    }
    log.append(other);
    let store = indexed(&log, dir.path());
    assert_eq!(told(&store), (6, 1));
    assert!(asked(&store, NOW - HOUR, NOW - SECOND).complete);
    log.append(dropped(WEB, NOW - SECOND, NOW - SECOND, i64::MAX));
    runtime().block_on(store.flush()).unwrap();
    assert!(!asked(&store, NOW - SECOND, NOW).complete);
    assert!(asked(&store, NOW + HOUR, NOW + 2 * HOUR).complete);
}

/// A clock that is a day ahead, or two months behind: the loss was so long before the receipt as
/// the reporter says that it was before the declaration.
#[test]
fn a_loss_by_a_wrong_clock_is_told_of_the_time_when_it_was() {
    const MINUTE: i64 = 60 * SECOND;
    let received = NOW - HOUR;
    let from = received - 10 * MINUTE;
    for (wrong, begins, ends) in [
        (24 * HOUR, from, received + AHEAD_MAX_US),
        (-60 * 24 * HOUR, received - LATE_MAX_US, received),
    ] {
        let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
        let by_it = received + wrong;
        let lost = dropped(WEB, by_it, from + wrong, by_it - SECOND);
        log.append_received(lost, received);
        let store = indexed(&log, dir.path());
        for (asked_from, asked_to, is_of_it) in [
            (begins - HOUR, begins, false),
            (begins, begins + 1, true),
            (from, from + 1, true),
            (received - MINUTE, received, true),
            (received, received + 1, true),
            (ends, ends + 1, true),
            (ends + 1, ends + MINUTE, false),
        ] {
            let coverage = asked(&store, asked_from, asked_to);
            assert_eq!(coverage.complete, !is_of_it, "{wrong}: {coverage:?}");
        }
    }
}

/// The clock was wrong when records were lost and right when that was declared, or the reporter
/// says whatever it likes: what is not credible is of the receipt, and of no time for ever.
#[test]
fn a_loss_of_no_credible_time_is_of_its_receipt() {
    let received = NOW - HOUR;
    let (first, last) = (received - LATE_MAX_US, received + AHEAD_MAX_US);
    let day = 24 * HOUR;
    for (from, until, begins, ends) in [
        (i64::MIN, i64::MAX, first, last),
        (received + day, received + 2 * day, received, last),
        (received - 60 * day, received - 59 * day, first, received),
    ] {
        let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
        log.append(dropped(WEB, received, from, until));
        let store = indexed(&log, dir.path());
        for (asked_from, asked_to, is_of_it) in [
            (begins - 60 * day, begins, false),
            (begins, begins + 1, true),
            (received, received + 1, true),
            (ends, ends + 1, true),
            (ends + 1, ends + HOUR, false),
        ] {
            let coverage = asked(&store, asked_from, asked_to);
            assert_eq!(coverage.complete, !is_of_it, "{from}: {coverage:?}");
        }
    }
}

/// A crash when its file was written and that of the index was not: what was passed over unread
/// by then is told once it is there, at that start or later.
#[test]
fn a_loss_that_could_not_be_read_before_a_crash_is_told_when_it_can() {
    for is_there_at_the_start in [true, false] {
        let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
        let file = dir.path().join("state.json");
        log.append(decision(NOW - SECOND, 1));
        let store = indexed(&log, dir.path());
        let state = fs::read(&file).unwrap();
        // Before it is there, or the index could read it in between.
        log.lose(1..2);
        for _ in 0..2 {
            log.append(dropped(WEB, NOW - SECOND, NOW - HOUR, NOW - SECOND));
        }
        runtime().block_on(store.flush()).unwrap();
        assert_eq!(told(&store), (6, 1));
        drop(store);
        fs::write(&file, &state).unwrap();
        if is_there_at_the_start {
            log.lose(0..0);
        }
        let store = indexed(&log, dir.path());
        let at_the_start = if is_there_at_the_start {
            (12, 2)
        } else {
            (6, 1)
        };
        assert_eq!(told(&store), at_the_start);
        log.lose(0..0);
        runtime().block_on(store.flush()).unwrap();
        assert_eq!(told(&store), (12, 2));
    }
}

/// A file that cannot be read at this moment is no reason to make the index anew.
#[test]
fn an_index_whose_files_cannot_be_read_is_left_as_it_is() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    log.append(dropped(WEB, NOW - SECOND, NOW - HOUR, NOW - SECOND));
    drop(indexed(&log, dir.path()));
    let path = |name: &str| dir.path().join(name);
    let files = ["state.json", "losses.json"];
    let whole = files.map(|name| fs::read(path(name)).unwrap());
    for name in files {
        fs::rename(path(name), path("aside")).unwrap();
        fs::create_dir(path(name)).unwrap();
        let source: Arc<dyn Source> = Arc::clone(&log) as _;
        let clock = Clock::manual(jiff::Timestamp::from_microsecond(NOW).unwrap());
        let Err(error) = Store::open(source, dir.path(), clock, options()) else {
            panic!("{name} was made anew")
        };
        assert!(error.to_string().contains(name), "{error}");
        fs::remove_dir(path(name)).unwrap();
        fs::rename(path("aside"), path(name)).unwrap();
        assert_eq!(files.map(|name| fs::read(path(name)).unwrap()), whole);
    }
    assert_eq!(told(&open(&log, dir.path())), (6, 1));
}

/// Through a start, a crash between its file and that of the index, and one in which it is gone.
#[test]
fn a_loss_is_told_once_whatever_happens_to_the_index() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    log.append(decision(NOW - SECOND, 1));
    let store = indexed(&log, dir.path());
    let state = fs::read(dir.path().join("state.json")).unwrap();
    log.append(dropped(WEB, NOW - SECOND, NOW - HOUR, NOW - SECOND));
    runtime().block_on(store.flush()).unwrap();
    assert_eq!(told(&store), (6, 1));
    let again = |store: Store, change: &dyn Fn()| {
        drop(store);
        change();
        let store = open(&log, dir.path());
        caught_up(&store);
        assert_eq!(told(&store), (6, 1));
        runtime().block_on(store.flush()).unwrap();
        assert_eq!(told(&store), (6, 1));
        store
    };
    let store = again(store, &|| {});
    let store = again(store, &|| {
        fs::write(dir.path().join("state.json"), &state).unwrap();
    });
    let losses = dir.path().join("losses.json");
    let store = again(store, &|| fs::remove_file(&losses).unwrap());
    let store = again(store, &|| fs::write(&losses, "{").unwrap());
    // Where it was not searched before the start, it is read then.
    drop(store);
    log.append(dropped(WEB, NOW - SECOND, NOW - HOUR, NOW - SECOND));
    let store = open(&log, dir.path());
    caught_up(&store);
    assert_eq!(told(&store), (12, 2));
}

/// Whose record could not be read, and then can.
#[test]
fn a_loss_in_a_segment_that_is_found_again_is_told_once() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    log.append(dropped(WEB, NOW - SECOND, NOW - HOUR, NOW - SECOND));
    log.append(decision(NOW - SECOND, 1));
    log.append(decision(NOW - SECOND, 2));
    log.lose(0..2);
    let store = indexed(&log, dir.path());
    assert_eq!(told(&store), (0, 0));
    assert!(!asked(&store, NOW - HOUR, NOW).complete);
    log.lose(0..0);
    runtime().block_on(store.flush()).unwrap();
    assert_eq!(told(&store), (6, 1));
    drop(store);
    let store = indexed(&log, dir.path());
    assert_eq!(told(&store), (6, 1));
}

/// On both sides of the limit of an answer.
#[test]
fn an_answer_names_so_many_losses_and_counts_the_others() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let add = |n: usize| {
        let reporter = format!("{WEB}{n}");
        log.append(dropped(&reporter, NOW - SECOND, NOW - HOUR, NOW - SECOND));
    };
    (0..GAPS_TOLD_MAX).for_each(add);
    let store = indexed(&log, dir.path());
    let found = || {
        let coverage = asked(&store, NOW - HOUR, NOW);
        (coverage.lost.len(), coverage.lost_more)
    };
    assert_eq!(found(), (GAPS_TOLD_MAX, 0));
    add(GAPS_TOLD_MAX);
    runtime().block_on(store.flush()).unwrap();
    assert_eq!(found(), (GAPS_TOLD_MAX, 1));
}
