//! A copy of the log's folder, what is put before what is deleted, and what a start needs.

use super::*;
use crate::{
    index::{Options, Store as Index},
    log::adopt,
    query::Query,
};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

impl Scene {
    /// Opens a log in another folder, with the same archive.
    fn open(&self, dir: &Path) -> Log {
        let archive = Archive::folder(self.store.path(), dir, 8 << 10).unwrap();
        let options = LogOptions {
            archive: Some(Arc::new(archive)),
            ..crate::testing::options()
        };
        Log::open(dir, options, self.stage.clock.clone()).unwrap()
    }

    /// Decisions are dropped of the first segment, which went, and is here.
    fn thinned_here(&mut self) {
        self.run("30 days");
        self.log().bring_back(0, 0, &mut |_| Ok(())).unwrap();
        self.stage.clock.advance(30 * DAY);
        self.stage.restart();
        assert_eq!(self.stage.run().faults, [""; 0]);
    }
}

fn has_foreign(outcome: &Outcome) -> bool {
    outcome.faults.iter().any(|fault| fault.contains("PLS7592"))
}

/// One that is started reads, and puts and deletes nothing; and once it is the one that counts
/// the other does not.
#[test]
fn a_copy_of_the_folder_puts_and_deletes_nothing() {
    let scene = Scene::new();
    scene.run("30 days");
    let before = scene.leaves();
    scene.stage.clock.advance(40 * DAY);
    let objects = scene.objects();
    let copies = tempfile::tempdir().unwrap();
    let dir = copies.path().join("log");
    copy(&scene.stage.folder(), &dir);
    let log = scene.open(&dir);
    assert_eq!(log.leaf(0).unwrap(), before[0]);
    let run = |log: &Log| {
        let run = Run {
            log,
            now: scene.stage.clock.now(),
            behind: None,
        };
        let go_on = &mut |_| ControlFlow::Continue(());
        run.go(&After::parse("0 days").unwrap(), go_on).unwrap()
    };
    let outcome = run(&log);
    assert!(has_foreign(&outcome), "{outcome:?}");
    let object = objects[0].strip_prefix(scene.store.path()).unwrap();
    let object = object.to_str().unwrap().to_owned();
    let deleted = log.archive().unwrap().delete(&object);
    assert_eq!(deleted.unwrap_err().0, Why::Foreign);
    assert_eq!(scene.objects(), objects);
    log.close();
    drop(log);
    let archive = Archive::folder(scene.store.path(), &dir, 8 << 10).unwrap();
    adopt(&dir, &archive).unwrap();
    let outcome = scene.run("0 days");
    assert!(has_foreign(&outcome), "{outcome:?}");
    assert_eq!(scene.objects(), objects, "the other counts now");
    let deleted = scene.log().archive().unwrap().delete(&object);
    assert_eq!(deleted.unwrap_err().0, Why::Foreign);
    assert_eq!(scene.log().leaf(0).unwrap(), before[0], "and is read");
    let log = scene.open(&dir);
    let outcome = run(&log);
    assert_eq!(outcome.faults, [""; 0]);
}

/// So with a folder that was moved to another disk when all of its segments were back.
#[test]
fn a_folder_of_which_nothing_is_away_is_adopted_too() {
    let scene = Scene::new();
    scene.run("30 days");
    scene.restore();
    scene.log().close();
    let copies = tempfile::tempdir().unwrap();
    let dir = copies.path().join("log");
    copy(&scene.stage.folder(), &dir);
    let run = |log: &Log| {
        let run = Run {
            log,
            now: scene.stage.clock.now(),
            behind: None,
        };
        let go_on = &mut |_| ControlFlow::Continue(());
        run.go(&After::parse("0 days").unwrap(), go_on).unwrap()
    };
    scene.stage.clock.advance(40 * DAY);
    let log = scene.open(&dir);
    let outcome = run(&log);
    assert!(has_foreign(&outcome), "{outcome:?}");
    log.close();
    drop(log);
    let archive = Archive::folder(scene.store.path(), &dir, 8 << 10).unwrap();
    adopt(&dir, &archive).unwrap();
    let log = scene.open(&dir);
    let outcome = run(&log);
    assert_eq!(outcome.faults, [""; 0]);
    assert!(outcome.segments > 3, "{outcome:?}");
}

/// Who removes the mark beside the log, of which all is here, and runs, is told the way out.
#[test]
fn a_mark_that_was_removed_is_taken_from_the_archive_again() {
    for runs in [true, false] {
        let mut scene = Scene::new();
        scene.run("30 days");
        scene.restore();
        scene.stage.clock.advance(40 * DAY);
        fs::remove_file(scene.stage.folder().join(MARK)).unwrap();
        if runs {
            for _ in 0..2 {
                let outcome = scene.run("0 days");
                assert!(has_foreign(&outcome), "{outcome:?}");
                assert!(outcome.faults[0].contains("palisade audit archive adopt"));
            }
        }
        scene.log().close();
        let dir = scene.stage.folder();
        let archive = Archive::folder(scene.store.path(), &dir, 8 << 10).unwrap();
        adopt(&dir, &archive).unwrap();
        scene.stage.restart();
        let outcome = scene.run("0 days");
        assert_eq!(outcome.faults, [""; 0]);
        assert!(outcome.segments > 3, "{outcome:?}");
        scene.whole();
    }
}

/// A mark that was used is not given up for another of this log unless a person removes it.
#[test]
fn a_mark_that_was_used_is_given_up_by_hand() {
    let mut scene = Scene::new();
    scene.run("30 days");
    let mark = scene.stage.folder().join(MARK);
    let text = fs::read_to_string(&mark).unwrap();
    scene.log().close();
    fs::write(&mark, text.replacen("\"id\":\"", "\"id\":\"00", 1)).unwrap();
    let dir = scene.stage.folder();
    let archive = Archive::folder(scene.store.path(), &dir, 8 << 10).unwrap();
    let refused = adopt(&dir, &archive).unwrap_err().to_string();
    assert!(refused.contains("remove the one beside it"), "{refused}");
    fs::remove_file(&mark).unwrap();
    adopt(&dir, &archive).unwrap();
    scene.stage.restart();
    scene.stage.clock.advance(40 * DAY);
    assert_eq!(scene.run("0 days").faults, [""; 0]);
    scene.whole();
}

/// A snapshot of the disk that is put back has a turn that is over.
#[test]
fn what_was_put_back_from_before_a_run_is_told() {
    let scene = Scene::new();
    scene.run("30 days");
    let mark = scene.stage.folder().join(MARK);
    let before = fs::read(&mark).unwrap();
    scene.stage.clock.advance(40 * DAY);
    scene.restore();
    let (first, object) = (scene.objects(), scene.log().movable(&mut Vec::new()));
    assert!(!object.is_empty());
    scene.stage.clock.advance(40 * DAY);
    assert_eq!(scene.run("30 days").faults, [""; 0]);
    let objects = scene.objects();
    assert!(objects.len() >= first.len());
    fs::write(&mark, &before).unwrap();
    scene.restore();
    let outcome = scene.run("0 days");
    assert!(
        outcome.segments == 0 || has_foreign(&outcome),
        "{outcome:?}"
    );
    assert!(has_foreign(&outcome), "{outcome:?}");
    assert_eq!(scene.objects(), objects);
}

/// What is left of a segment is in the store before the object goes that has all of it.
#[test]
fn an_object_goes_only_once_the_rest_is_there() {
    let mut scene = Scene::new();
    scene.thinned_here();
    let before = scene.objects();
    let due = scene.log().movable(&mut Vec::new());
    assert_eq!(due[0].0.start, 0);
    let crash = scene
        .log()
        .move_away(&due[0].0, &mut |at| match at == Step::Put {
            true => Err(Error::other(Crash)),
            false => Ok(()),
        });
    assert!(crash.is_err());
    let after = scene.objects();
    assert!(
        before.iter().all(|object| after.contains(object)),
        "{after:?}"
    );
    scene.stage.restart();
    assert_eq!(scene.run("30 days").faults, [""; 0]);
    let rest = after.iter().find(|object| !before.contains(object));
    assert!(scene.objects().contains(rest.unwrap()));
    assert!(!scene.objects().contains(&before[0]));
    scene.whole();
}

/// A start reads again what is beyond the positions of streams: it stays here.
#[test]
fn nothing_goes_that_a_start_without_positions_of_streams_needs() {
    let mut scene = Scene::new();
    fs::remove_file(scene.stage.folder().join("streams")).unwrap();
    assert_eq!(scene.run("30 days").segments, 0);
    scene.stage.restart();
    scene.stage.fill();
    assert!(scene.run("30 days").segments > 3, "they are kept again");
    scene.whole();
}

/// What stays of one segment is damaged: the others come back.
#[test]
fn one_damaged_stub_keeps_no_other_segment_away() {
    let scene = Scene::new();
    let moved = scene.run("30 days").segments;
    let stub = scene.stage.segment(0).with_extension("moved");
    fs::write(&stub, b"palismov").unwrap();
    assert_eq!(scene.log().whereabouts().unwrap().moved, moved);
    let outcome = scene.restore();
    assert_eq!(outcome.segments, moved - 1, "{outcome:?}");
    assert_eq!(outcome.faults.len(), 1, "{outcome:?}");
}

/// An index that is built anew passes over what the archive has lost.
#[test]
fn the_index_passes_over_an_object_that_is_lost() {
    let mut scene = Scene::new();
    scene.run("30 days");
    fs::remove_file(&scene.objects()[1]).unwrap();
    scene.stage.restart();
    scene.stage.request("/newer", 200);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let source = Arc::new(scene.log().clone());
    let dir = scene.stage.folder().join("index");
    let clock = scene.stage.clock.clone();
    let store = Index::open(source, &dir, clock, Options::default()).unwrap();
    runtime.block_on(store.flush()).unwrap();
    let count = |query: &str| store.count(&Query::parse(query).unwrap()).unwrap();
    assert_eq!(count("class:decision path:/newer last:1d"), 1);
    let old = count("class:decision path:/old/* last:300d");
    assert!((1..12).contains(&old), "{old}");
    let status = store.status();
    assert!(status.unreadable > 0);
    assert_eq!(status.stalled, None);
}
