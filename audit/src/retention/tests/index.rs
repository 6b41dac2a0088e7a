//! The index lets go of what the log has dropped, and answers say so.

use super::*;
use crate::{
    index::{BucketSpan, Options, Store},
    query::Query,
    source::{Entry, Source},
};

/// An index of the log in a folder beside it, which waits for nothing.
fn open(stage: &Stage, dir: &str) -> Store {
    open_on(Arc::new(stage.log().clone()), stage, dir)
}

/// As [`open`], of what is read from `source`.
fn open_on(source: Arc<dyn Source>, stage: &Stage, dir: &str) -> Store {
    let options = Options {
        bucket: BucketSpan::Day,
        commit_every: Duration::ZERO,
        hold: Duration::ZERO,
        ..Options::default()
    };
    let dir = stage.dir.path().join(dir);
    Store::open(source, &dir, stage.clock.clone(), options).unwrap()
}

/// The index lets go of what the log has dropped: it is what the log, read again, gives.
#[test]
fn the_index_lets_go_of_it_and_answers_say_so() {
    let mut stage = Stage::of_old(6);
    stage.hold("h", "path:/old/3");
    stage.clock.advance(61 * DAY);
    stage.fill();
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let open = |dir: &str| open(&stage, dir);
    let store = open("index");
    runtime.block_on(store.flush()).unwrap();
    let all = "last:90d class:*";
    let rows = |store: &Store, query: &str| {
        let found = store
            .search(&Query::parse(query).unwrap(), 1000, None)
            .unwrap();
        assert_eq!(found.coverage.unreadable, 0);
        let rows: Vec<_> = found
            .rows
            .iter()
            .map(|r| serde_json::to_value(r).unwrap())
            .collect();
        (rows, found.coverage)
    };
    assert!(rows(&store, all).1.complete);
    let buckets = store.status().buckets;
    let mut ledger = Ledger::new(stage.log());
    let (periods, now_us) = (
        periods(&[("decision", "60d"), ("outcome", "60d"), ("admin", "60d")]),
        stage.clock.now_us(),
    );
    let run = stage.plan(&periods);
    let mut turn = || {
        Ok(Turn {
            holds: stage.holds.held(now_us)?,
            guard: None,
        })
    };
    let done = run.go(&mut ledger, &mut turn, &mut |_| ControlFlow::Continue(()));
    assert_eq!(done.unwrap().records(), 16);
    runtime.block_on(store.flush()).unwrap();
    let (found, coverage) = rows(&store, all);
    assert!(!coverage.complete);
    let told: BTreeMap<&str, u64> = coverage
        .dropped
        .iter()
        .map(|d| (d.class, d.records))
        .collect();
    assert_eq!(
        told,
        BTreeMap::from([("admin", 6), ("decision", 5), ("outcome", 5)])
    );
    let again = open("again");
    runtime.block_on(again.flush()).unwrap();
    assert_eq!(found, rows(&again, all).0);
    let counted = |query: &str| store.count(&Query::parse(query).unwrap()).unwrap();
    assert_eq!(counted("last:90d"), 9);
    assert_eq!(counted("last:90d path:/old/**"), 1);
    // A time, and a class, of which nothing was dropped.
    assert!(rows(&store, "last:30d").1.complete);
    assert!(rows(&store, "last:90d class:log_lifecycle").1.complete);
    assert!(!rows(&store, "last:90d class:admin").1.complete);
    assert!(store.status().buckets <= buckets);
    drop(store);
    let store = open("index");
    assert_eq!(found, rows(&store, all).0);
}

/// A log of which records go while they are asked for.
struct Going {
    log: Log,
    gone: std::sync::atomic::AtomicBool,
}

impl Source for Going {
    fn len(&self) -> u64 {
        self.log.len()
    }

    fn read(&self, index: u64) -> Result<Entry, crate::source::SourceError> {
        match self.gone.load(std::sync::atomic::Ordering::SeqCst) {
            true => Err(crate::source::SourceError {
                index,
                cause: Box::new(LogError::Dropped { index }),
            }),
            false => Source::read(&self.log, index),
        }
    }

    fn scan(
        &self,
        from: u64,
    ) -> Box<dyn Iterator<Item = Result<Entry, crate::source::SourceError>> + '_> {
        Source::scan(&self.log, from)
    }

    fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        self.log.subscribe()
    }
}

/// An answer that lacks what went a moment ago is not complete.
#[test]
fn an_answer_from_which_records_go_is_not_complete() {
    let mut stage = Stage::new();
    stage.request("/old", 200);
    stage.signed();
    let source = Arc::new(Going {
        log: stage.log().clone(),
        gone: false.into(),
    });
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let store = open_on(source.clone(), &stage, "index");
    runtime.block_on(store.flush()).unwrap();
    let query = Query::parse("last:1d path:/old").unwrap();
    for (gone, rows) in [(false, 1), (true, 0)] {
        source.gone.store(gone, std::sync::atomic::Ordering::SeqCst);
        let found = store.search(&query, 10, None).unwrap();
        assert_eq!((found.rows.len(), found.coverage.complete), (rows, !gone));
    }
}

/// The index goes on past a segment that is damaged.
#[test]
fn a_damaged_segment_does_not_stop_the_index() {
    let mut stage = Stage::of_old(12);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let store = open(&stage, "index");
    runtime.block_on(store.flush()).unwrap();
    drop(store);
    stage.run();
    let lacking = stage.log().lacking();
    let path = stage.segment(lacking[0].segment);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    for dir in ["index", "anew"] {
        let store = open(&stage, dir);
        runtime.block_on(store.flush()).unwrap();
        let found = store.count(&Query::parse("last:90d path:/new class:decision").unwrap());
        assert_eq!(found.unwrap(), 8, "{dir}");
        let gone = store.count(&Query::parse("last:90d path:/old/11").unwrap());
        assert_eq!(gone.unwrap(), 0, "{dir}: what the others dropped is let go");
    }
}

/// Nor does one that cannot be read through.
#[test]
fn a_segment_that_is_cut_off_does_not_stop_the_index() {
    let mut stage = Stage::of_old(12);
    stage.fill();
    let span = stage.log().sealed().remove(1);
    stage.log().close();
    let path = stage.segment(span.start);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    let _ = std::fs::remove_file(path.with_extension("idx"));
    stage.restart();
    // What is before the cut is read.
    for from in span.start..span.end {
        let source: &dyn Source = stage.log();
        let read = source.scan(from).find_map(Result::err).unwrap();
        assert_eq!(read.index, span.end - 1);
    }
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let store = open(&stage, "index");
    runtime.block_on(store.flush()).unwrap();
    let found = store.count(&Query::parse("last:90d path:/new class:decision").unwrap());
    assert_eq!(found.unwrap(), 8);
}

/// An index that lacks what the log has is made again.
#[test]
fn an_index_that_has_let_go_of_what_is_there_begins_anew() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let kept = tempfile::tempdir().unwrap();
    stage.log().close();
    copy(&stage.folder(), kept.path());
    stage.restart();
    stage.run();
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let count = |stage: &Stage| {
        let store = open(stage, "index");
        runtime.block_on(store.flush()).unwrap();
        let found = store.count(&Query::parse("last:90d path:/old/**").unwrap());
        found.unwrap()
    };
    assert_eq!(count(&stage), 0);
    // The segments as they were before, as a disk may have them after a power cut.
    for lacking in stage.log().lacking().iter() {
        let name = segment::relative(lacking.segment);
        std::fs::copy(kept.path().join(&name), stage.folder().join(&name)).unwrap();
        let _ = std::fs::remove_file(stage.segment(lacking.segment).with_extension("idx"));
    }
    stage.restart();
    assert_eq!(count(&stage), 6);
}
