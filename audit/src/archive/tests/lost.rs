//! What one lost object, or a store that is away, may hold up.

use super::*;
use tokio::runtime::Runtime;

use crate::{
    index::{Options, Store as Index},
    log::{Fate, Thinning},
    query::Query,
    report,
    retention::{Ledger, Run as Retention, Turn, tests::periods},
};

pub(super) const OLD: &str = "class:decision path:/old/* last:300d";

impl Scene {
    /// What is indexed, away, and over.
    pub(super) fn indexed_and_away(runtime: &Runtime) -> Self {
        let mut scene = Self::new();
        let index = scene.index();
        runtime.block_on(index.flush()).unwrap();
        drop(index);
        scene.run("30 days");
        scene.stage.clock.advance(30 * DAY);
        scene.stage.restart();
        scene
    }

    /// More segments that are away than a run would let fail, and one of now that is here.
    fn many_away() -> Self {
        let scene = Self::of_many(28);
        assert!(scene.run("30 days").segments > 9);
        scene.last_comes_back();
        scene
    }

    pub(super) fn index(&self) -> Index {
        self.index_in(&self.stage.folder().join("index"))
    }

    pub(super) fn index_in(&self, dir: &Path) -> Index {
        let (source, clock) = (Arc::new(self.log().clone()), self.stage.clock.clone());
        Index::open(source, dir, clock, Options::default()).unwrap()
    }

    /// The store fails so many times while something is done.
    pub(super) fn failures<T>(&self, what: impl FnOnce() -> T) -> (T, u64) {
        let failed = || self.log().archive().unwrap().health().failed;
        let before = failed();
        let done = what();
        (done, failed() - before)
    }

    /// One byte of the object of the first segment is another.
    pub(super) fn alter(&self) -> (PathBuf, Vec<u8>) {
        let object = self.objects()[0].clone();
        let bytes = fs::read(&object).unwrap();
        let mut other = bytes.clone();
        *other.last_mut().unwrap() ^= 1;
        fs::write(&object, other).unwrap();
        (object, bytes)
    }

    fn go_away(&self) -> PathBuf {
        let gone = self.store.path().with_extension("away");
        fs::rename(self.store.path(), &gone).unwrap();
        gone
    }

    /// One segment of those that went is here again.
    fn last_comes_back(&self) {
        let last = self.log().moved(&mut Vec::new()).unwrap().pop().unwrap();
        let first = last.segment.start;
        self.log().bring_back(first, 0, &mut |_| Ok(())).unwrap();
    }
}

/// A page asks for an object that is altered once, and not for each of its records; nor does
/// the next page.
#[test]
fn a_page_asks_once_for_an_altered_object() {
    let mut scene = Scene::new();
    let runtime = Runtime::new().unwrap();
    let index = scene.index();
    runtime.block_on(index.flush()).unwrap();
    drop(index);
    scene.run("30 days");
    scene.stage.restart();
    scene.alter();
    let index = scene.index();
    let page = || {
        index
            .search(&Query::parse(OLD).unwrap(), 1000, None)
            .unwrap()
    };
    let (found, failed) = scene.failures(page);
    assert!(found.coverage.unreadable > 1, "{:?}", found.coverage);
    assert_eq!(found.rows.len() as u64, 12 - found.coverage.unreadable);
    assert_eq!(failed, 1);
    assert_eq!(scene.failures(page).1, 0);
}

/// A bucket of the index that is made again asks once, too, whatever was found before.
#[test]
fn a_bucket_that_is_made_again_asks_once_for_a_lost_segment() {
    let runtime = Runtime::new().unwrap();
    let mut scene = Scene::indexed_and_away(&runtime);
    let (object, bytes) = scene.alter();
    let outcome = scene.stage.run();
    assert!(outcome.records() > 0 && !outcome.interrupted, "{outcome:?}");
    assert!(object.exists());
    scene.believe_again();
    let index = scene.index();
    let (done, failed) = scene.failures(|| runtime.block_on(index.flush()));
    done.unwrap();
    assert!(failed <= 1, "{failed}");
    // What was dropped is let go of all the same.
    let count = |query: &str| index.count(&Query::parse(query).unwrap()).unwrap();
    assert!(count(OLD) < 12);
    assert!(index.status().unreadable > 1, "{:?}", index.status());
    // What was lost comes in when it is there again.
    fs::write(&object, bytes).unwrap();
    scene.believe_again();
    runtime.block_on(index.flush()).unwrap();
    let old = scene.stage.paths();
    let old = old.iter().filter(|path| path.starts_with("/old")).count();
    assert!(old > 0);
    assert_eq!((count(OLD), index.status().unreadable), (old as u64, 0));
}

/// A segment that was missing when it was its turn is looked for again: what it has is indexed,
/// each record once, and joined with what came after it.
#[test]
fn a_segment_that_was_missing_once_is_indexed_when_it_is_there() {
    let runtime = Runtime::new().unwrap();
    let mut scene = Scene::new();
    scene.run("30 days");
    scene.stage.restart();
    let joined = "class:decision path:/old/* status:200 last:300d";
    for object in scene.objects() {
        let bytes = fs::read(&object).unwrap();
        fs::remove_file(&object).unwrap();
        let _ = fs::remove_dir_all(scene.stage.folder().join(CACHE));
        let _ = fs::remove_dir_all(scene.stage.folder().join("index"));
        scene.stage.restart();
        let index = scene.index();
        let count = |query: &str| index.count(&Query::parse(query).unwrap()).unwrap();
        runtime.block_on(index.flush()).unwrap();
        let lost = index.status().unreadable;
        assert!(lost > 0, "{object:?}");
        let all = index.status().log_len;
        assert_eq!(count("class:* last:300d"), all - lost);
        // The store is not asked all the time, and then it has it.
        fs::write(&object, bytes).unwrap();
        runtime.block_on(index.flush()).unwrap();
        assert_eq!(index.status().unreadable, lost);
        scene.believe_again();
        runtime.block_on(index.flush()).unwrap();
        assert_eq!(index.status().unreadable, 0, "{object:?}");
        assert_eq!(count("class:* last:300d"), all);
        assert_eq!((count(OLD), count(joined)), (12, 12), "{object:?}");
        drop(index);
        let index = scene.index();
        runtime.block_on(index.flush()).unwrap();
        let count = |query: &str| index.count(&Query::parse(query).unwrap()).unwrap();
        assert_eq!((count(OLD), count(joined)), (12, 12), "after a start");
    }
}

/// A report says what it lacks while the index waits for the archive.
#[test]
fn a_report_says_that_the_index_waits() {
    let runtime = Runtime::new().unwrap();
    let mut scene = Scene::new();
    scene.run("30 days");
    scene.stage.restart();
    scene.stage.signed();
    let gone = scene.go_away();
    let index = scene.index();
    let lacks = |index: &Index| {
        let now_us = scene.stage.clock.now_us();
        let period = report::Period::read("last:300d", now_us).unwrap();
        let (dir, checkpoint) = (scene.stage.folder(), scene.log().checkpoint());
        let ground = report::Ground::Log(scene.log(), &dir);
        let evidence =
            report::Evidence::new(index, ground, period, "", &checkpoint, now_us).unwrap();
        let kind = report::Kind::find("denials").unwrap();
        report::run(kind, &evidence)
            .unwrap()
            .header
            .lacks
            .join("\n")
    };
    let waits = runtime.block_on(index.flush()).unwrap_err();
    assert!(waits.is_away(), "{waits}");
    let told = lacks(&index);
    assert!(told.contains("are not indexed yet"), "{told}");
    assert!(
        told.contains("the index waits: ") && told.contains("file://"),
        "{told}"
    );
    fs::rename(&gone, scene.store.path()).unwrap();
    scene.believe_again();
    runtime.block_on(index.flush()).unwrap();
    assert_eq!(lacks(&index), "");
}

/// What kept a flush from its end is not told any more once another came to it.
#[test]
fn what_a_flush_waited_for_is_told_no_longer_than_it_waits() {
    let runtime = Runtime::new().unwrap();
    let mut scene = Scene::new();
    scene.run("30 days");
    scene.stage.restart();
    let gone = scene.go_away();
    let index = scene.index();
    runtime.block_on(index.flush()).unwrap_err();
    let search = || index.search(&Query::parse(OLD).unwrap(), 1, None).unwrap();
    let found = search().coverage;
    assert!(!found.complete && found.behind > 0, "{found:?}");
    assert!(found.stalled.is_some_and(|why| why.contains("file://")));
    fs::rename(&gone, scene.store.path()).unwrap();
    scene.believe_again();
    runtime.block_on(index.flush()).unwrap();
    assert_eq!(index.status().stalled, None);
    assert!(search().coverage.complete);
}

/// A flush waits for no store that is away, and what comes in meanwhile is found.
#[test]
fn a_flush_goes_on_while_the_archive_is_away() {
    let runtime = Runtime::new().unwrap();
    let mut scene = Scene::indexed_and_away(&runtime);
    assert_eq!(scene.stage.run().faults, [""; 0]);
    let _ = fs::remove_dir_all(scene.stage.folder().join(CACHE));
    let gone = scene.go_away();
    let index = scene.index();
    runtime.block_on(index.flush()).unwrap();
    scene.stage.request("/while-away", 200);
    runtime.block_on(index.flush()).unwrap();
    let count = |query: &str| index.count(&Query::parse(query).unwrap()).unwrap();
    assert_eq!(count("class:decision path:/while-away last:1d"), 1);
    let why = index.status().stalled.unwrap_or_default();
    assert!(why.contains("file://"), "{why}");
    fs::rename(&gone, scene.store.path()).unwrap();
}

/// Objects that are lost, however many, do not keep what is here for longer than its time.
#[test]
fn lost_objects_do_not_stop_retention() {
    let mut scene = Scene::many_away();
    for object in scene.objects() {
        fs::remove_file(object).unwrap();
    }
    scene.stage.clock.advance(30 * DAY);
    let outcome = scene.stage.run();
    assert!(!outcome.interrupted && outcome.records() > 0, "{outcome:?}");
    assert!(outcome.faults.len() > 8, "each is named");
    assert!(!outcome.again, "nobody but a person mends that");
}

/// Nor does a fault here that keeps all of them from being fetched.
#[test]
fn what_cannot_be_fetched_does_not_stop_retention() {
    let mut scene = Scene::many_away();
    let cache = scene.stage.folder().join(CACHE);
    let _ = fs::remove_dir_all(&cache);
    fs::write(&cache, b"in the way").unwrap();
    scene.stage.clock.advance(30 * DAY);
    let outcome = scene.stage.run();
    assert!(!outcome.interrupted && outcome.records() > 0, "{outcome:?}");
    assert!(outcome.faults.len() > 8 && outcome.again, "{outcome:?}");
    fs::remove_file(&cache).unwrap();
    assert_eq!(scene.stage.run().faults, [""; 0]);
    scene.whole();
}

/// A store that is away is told once, and asked once; what is here goes when its time is over.
/// Who has orders does not wait for it.
#[test]
fn a_store_that_is_away_stops_retention_of_what_is_there_alone() {
    let mut scene = Scene::new();
    scene.run("30 days");
    scene.last_comes_back();
    let away = scene.log().whereabouts().unwrap().moved;
    scene.stage.clock.advance(30 * DAY);
    scene.stage.restart();
    scene.stage.signed();
    let here = scene.log().sealed();
    let here = here
        .iter()
        .filter(|s| !scene.log().is_away(s.start))
        .count();
    scene.go_away();
    let periods = periods(&[("decision", "60 days"), ("outcome", "60 days")]);
    let run = Retention {
        log: scene.log(),
        periods: &periods,
        now: scene.stage.clock.now(),
        dry: false,
        sure: true,
        crash: None,
    };
    let mut turns = 0;
    let mut turn = || {
        turns += 1;
        let (holds, guard) = (Vec::new(), None);
        Ok(Turn { holds, guard })
    };
    let mut ledger = Ledger::new(scene.log());
    let go_on = &mut |_| ControlFlow::Continue(());
    let (outcome, failed) = scene.failures(|| run.go(&mut ledger, &mut turn, go_on));
    let outcome = outcome.unwrap();
    assert!(away > 1 && !outcome.interrupted, "{outcome:?}");
    assert!(outcome.records() > 0, "{outcome:?}");
    assert_eq!((outcome.faults.len(), failed), (1, 1), "{outcome:?}");
    assert!(outcome.again, "it may answer within the hour");
    assert_eq!(turns, here, "nobody with orders waits for the store");
}

/// A lost object and a hold do not stop all: what may belong to what is lost stays, and is
/// told; what cannot goes.
#[test]
fn while_a_lost_object_may_have_what_is_held_nothing_is_dropped() {
    let mut scene = Scene::new();
    // Before anything goes, so that nothing of it was fetched.
    let all = scene.stage.paths();
    scene.run("30 days");
    scene.stage.hold("h", "path:/held");
    let object = scene.objects()[0].clone();
    let bytes = fs::read(&object).unwrap();
    fs::remove_file(&object).unwrap();
    // Those of the fortieth day are over, too.
    scene.stage.clock.advance(62 * DAY);
    scene.stage.fill();
    scene.stage.restart();
    let refused = scene.stage.try_run().unwrap_err();
    assert_eq!(refused.code.0, 7575, "{refused:?}");
    assert!(scene.stage.ledger().damaged, "that is not asked every hour");
    fs::write(&object, bytes).unwrap();
    scene.believe_again();
    let old = |scene: &Scene| {
        let paths = scene.stage.paths();
        paths.iter().filter(|path| path.starts_with("/old")).count()
    };
    assert!(
        scene.stage.paths().starts_with(&all),
        "something was dropped"
    );
    assert_eq!(old(&scene), 12);
    // It is there again: it is known what is held.
    let outcome = scene.stage.run();
    assert_eq!(outcome.faults, [""; 0]);
    assert!(!scene.stage.ledger().damaged);
    assert_eq!(old(&scene), 0);
    scene.whole();
}

/// A segment that becomes another while it is asked for, or comes back, is no lost one, for
/// readers and for the check.
#[test]
fn a_segment_that_is_replaced_meanwhile_is_not_lost() {
    for comes_back in [true, false] {
        for checked in [true, false] {
            let mut scene = Scene::new();
            scene.run("30 days");
            scene.stage.restart();
            let (log, object) = (scene.log().clone(), scene.objects()[0].clone());
            let segment = log.moved(&mut Vec::new()).unwrap()[0].segment.clone();
            let archive = match checked {
                true => scene.stage.archive().unwrap(),
                false => log.archive().unwrap().clone(),
            };
            let (gone, asked) = (object.clone(), archive.clone());
            archive.meanwhile(move || {
                if comes_back {
                    log.bring_back(segment.start, 0, &mut |_| Ok(())).unwrap();
                    return fs::remove_file(gone).unwrap();
                }
                let drop =
                    Thinning::weigh(&log, segment.clone(), i64::MAX, |_, _, _, _| Fate::Drop);
                drop.unwrap().carry_out("some".into()).unwrap();
                log.move_away(&segment, &mut |_| Ok(())).unwrap();
            });
            if checked {
                let options = VerifyOptions {
                    archive: Some(archive),
                    ..VerifyOptions::default()
                };
                let report = verify(&scene.stage.folder(), options);
                assert_eq!(report.findings, [], "{comes_back}");
            } else {
                let read = scene.log().leaf(0);
                assert_eq!(read.as_ref().err().and_then(why), None, "{read:?}");
            }
            assert!(!object.exists());
            assert_eq!(asked.health().fault, None, "{comes_back} {checked}");
        }
    }
}
