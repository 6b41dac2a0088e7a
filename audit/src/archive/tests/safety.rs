//! Nothing goes here before the store has it, and nothing goes there that is not the log's.

use super::*;
use crate::segment::{Back, Intent};

impl Scene {
    fn url(&self) -> String {
        self.log().archive().unwrap().url().to_owned()
    }

    /// Trust domain and id of the log, as objects are named.
    fn log_name(&self) -> String {
        let object = self.objects()[0].clone();
        let folder = object.parent().unwrap();
        let name = folder.strip_prefix(self.store.path()).unwrap();
        name.to_str().unwrap().to_owned()
    }

    /// What is told of a run at once.
    fn told(&self) -> String {
        self.run("30 days").faults.join("\n")
    }

    /// Decisions are dropped of all old segments, which go again, and come back.
    fn thinned_and_back(&mut self) {
        self.run("30 days");
        self.stage.clock.advance(30 * DAY);
        self.stage.restart();
        assert_eq!(self.stage.run().faults, [""; 0]);
        assert!(self.restore().segments > 3);
    }

    fn signs(&self, verb: &str) -> bool {
        let all = self.log().scan(0).map(Result::unwrap);
        let mut bodies = all.filter_map(|entry| entry.record.body);
        bodies.any(|body| {
            matches!(body, palisade_mesh::wire::record::record::Body::LogLifecycle(l) if l.verb == verb)
        })
    }
}

/// A segment that is put back beside what stays of it, as from a backup when the bucket is
/// lost, goes only once the store has it again.
#[test]
fn a_segment_that_was_put_back_goes_only_once_the_store_has_it() {
    let scene = Scene::new();
    let (path, first) = (scene.stage.segment(0), scene.log().leaf(1).unwrap());
    let bytes = fs::read(&path).unwrap();
    scene.run("30 days");
    let object = scene.objects()[0].clone();
    let back = |scene: &Scene| {
        fs::write(&path, &bytes).unwrap();
        let told = scene.told();
        (path.exists(), told)
    };
    // All is lost.
    let lost = scene.store.path().with_extension("lost");
    fs::rename(scene.store.path(), &lost).unwrap();
    fs::create_dir(scene.store.path()).unwrap();
    let (here, told) = back(&scene);
    assert!(here && told.contains("PLS7592"), "{told}");
    // The store cannot be asked.
    fs::remove_dir_all(scene.store.path()).unwrap();
    let (here, told) = back(&scene);
    assert!(here && told.contains("PLS7581"), "{told}");
    scene.believe_again();
    fs::rename(&lost, scene.store.path()).unwrap();
    // The object has other bytes.
    let sound = fs::read(&object).unwrap();
    fs::write(&object, b"another's").unwrap();
    let (here, told) = back(&scene);
    assert!(here && told.contains("PLS7583"), "{told}");
    assert_eq!(fs::read(&object).unwrap(), b"another's");
    // It is missing: it is put again, and only then the segment goes.
    fs::remove_file(&object).unwrap();
    let (here, told) = back(&scene);
    assert!(!here, "{told}");
    assert_eq!(told, "");
    assert_eq!(fs::read(&object).unwrap(), sound);
    assert_eq!(scene.log().leaf(1).unwrap(), first);
    scene.whole();
}

/// The store is asked once more when all is signed: what it has lost since does not go here.
#[test]
fn the_last_copy_stays_when_the_object_goes_before_the_segment() {
    let scene = Scene::new();
    let (segment, _) = scene.log().movable(&mut Vec::new()).swap_remove(0);
    let error = scene.log().move_away(&segment, &mut |at| {
        if at == Step::Stubbed {
            fs::remove_file(&scene.objects()[0]).unwrap();
        }
        Ok(())
    });
    assert_eq!(why(&error.unwrap_err()), Some(Why::Missing));
    assert!(scene.stage.segment(segment.start).exists());
    scene.whole();
    assert_eq!(scene.told(), "", "the next run puts it again");
    assert!(!scene.stage.segment(segment.start).exists());
    scene.whole();
}

/// An object goes only for a segment that is here, record by record as it was signed.
#[test]
fn a_truncated_segment_keeps_its_object() {
    let mut scene = Scene::new();
    scene.thinned_and_back();
    let objects = scene.objects();
    let path = scene.stage.segment(0);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(HEADER_LEN).unwrap();
    let told = scene.told();
    assert!(told.contains("the segment ends before it"), "{told}");
    assert_eq!(scene.objects(), objects, "that is the only good copy");
}

/// What lies beside a segment can name any object: only one goes that a signed record names.
#[test]
fn no_object_goes_on_the_word_of_a_file_beside_the_log() {
    let mut scene = Scene::new();
    scene.thinned_and_back();
    let (dir, log) = (scene.stage.folder(), scene.log_name());
    let of_another = scene.objects()[1].clone();
    let of_another = of_another.file_name().unwrap().to_str().unwrap().to_owned();
    let unsigned = format!("{log}/{:020}-{}.seg", 0, "07".repeat(32));
    let elsewhere = "acme.test/0011/00000000000000000000-00.seg".to_owned();
    for object in [format!("{log}/{of_another}"), unsigned, elsewhere] {
        let path = scene.store.path().join(&object);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !path.exists() {
            fs::write(&path, b"somebody's").unwrap();
        }
        let back = Back {
            object: object.clone(),
            store: scene.url(),
            lacked: Some("00".into()),
            since_us: i64::MAX,
        };
        back.save(&dir, 0).unwrap();
        let told = scene.told();
        assert!(told.contains("cannot be deleted"), "{object}: {told}");
        assert!(path.exists(), "{object}");
    }
}

/// An object is looked for where it was put, not where segments go now.
#[test]
fn an_object_in_another_archive_is_told_and_not_deleted_here() {
    let mut scene = Scene::new();
    scene.run("30 days");
    let objects = scene.objects();
    scene.log().bring_back(0, 0, &mut |_| Ok(())).unwrap();
    let back = Back::read(&scene.stage.folder(), 0).unwrap().unwrap();
    let moved = Back {
        store: "file:///elsewhere".into(),
        ..back
    };
    moved.save(&scene.stage.folder(), 0).unwrap();
    scene.stage.clock.advance(30 * DAY);
    scene.stage.run();
    let told = scene.told();
    assert!(
        told.contains("file:///elsewhere") && told.contains(&scene.url()),
        "{told}"
    );
    assert!(scene.objects().contains(&objects[0]));
}

/// A mount point without its disk is a folder like any other, and no archive.
#[test]
fn a_folder_that_is_not_the_archive_gets_nothing() {
    let mut scene = Scene::new();
    scene.run("30 days");
    scene.stage.clock.advance(DAY);
    scene.stage.fill();
    let whereabouts = scene.log().whereabouts().unwrap();
    let disk = scene.store.path().with_extension("disk");
    fs::rename(scene.store.path(), &disk).unwrap();
    fs::create_dir(scene.store.path()).unwrap();
    scene.stage.restart();
    let outcome = scene.run("0 days");
    assert!(
        outcome.interrupted && outcome.faults[0].contains("PLS7592"),
        "{outcome:?}"
    );
    assert_eq!(fs::read_dir(scene.store.path()).unwrap().count(), 0);
    let now = scene.log().whereabouts().unwrap();
    assert_eq!((now.moved, now.here), (whereabouts.moved, whereabouts.here));
    assert_eq!(why(&scene.log().leaf(0).unwrap_err()), Some(Why::Foreign));
    let fault = scene.log().archive().unwrap().health().fault.unwrap();
    assert!(fault.contains(MARK), "{fault}");
    // So is another place than where segments are, and one that another log has marked.
    let other = tempfile::tempdir().unwrap();
    scene.stage.store = Some(other.path().to_owned());
    scene.stage.restart();
    let outcome = scene.run("0 days");
    assert!(outcome.faults[0].contains("PLS7592"), "{outcome:?}");
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
    fs::remove_dir(scene.store.path()).unwrap();
    fs::rename(&disk, scene.store.path()).unwrap();
    let log = scene.log_name();
    let mark = scene.store.path().join(&log).join(MARK);
    let own = fs::read(&mark).unwrap();
    fs::create_dir_all(other.path().join(&log)).unwrap();
    let there = other.path().join(&log).join(MARK);
    let another = String::from_utf8(own.clone()).unwrap();
    let another = another.replacen("\"id\":\"", "\"id\":\"00", 1);
    fs::write(&there, another).unwrap();
    let outcome = scene.run("0 days");
    assert!(outcome.faults[0].contains("PLS7592"), "{outcome:?}");
    // A copy of all that is there has its mark, too.
    fs::write(&there, &own).unwrap();
    for object in scene.objects() {
        fs::copy(
            &object,
            other.path().join(&log).join(object.file_name().unwrap()),
        )
        .unwrap();
    }
    assert_eq!(scene.run("0 days").faults, [""; 0]);
    scene.whole();
}

/// What was put of a segment that did not go, and that is another by then, does not stay in
/// the archive for ever with what was dropped.
#[test]
fn an_object_of_a_move_that_did_not_end_goes_when_the_segment_is_another() {
    for step in [Step::Put, Step::Recorded, Step::Stubbed] {
        let mut scene = Scene::new();
        let (segment, _) = scene.log().movable(&mut Vec::new()).swap_remove(0);
        let crash = scene.log().move_away(&segment, &mut |at| match at == step {
            true => Err(Error::other(Crash)),
            false => Ok(()),
        });
        assert!(crash.is_err(), "{step:?}");
        let left = scene.objects()[0].clone();
        scene.stage.restart();
        scene.stage.clock.advance(30 * DAY);
        let outcome = scene.stage.run();
        assert_eq!(outcome.faults, [""; 0], "{step:?}");
        assert!(outcome.records() > 0, "{step:?}");
        scene.whole();
        assert_eq!(scene.told(), "", "{step:?}");
        assert!(!left.exists(), "{step:?}");
        let whereabouts = scene.log().whereabouts().unwrap();
        assert_eq!(scene.objects().len() as u64, whereabouts.moved, "{step:?}");
        assert_eq!(scene.signs("segments_left"), step == Step::Put, "{step:?}");
        scene.whole();
    }
}

/// What a person has deleted at an address of before is not asked for any more; of the archive
/// that is used now nobody has to be believed.
#[test]
fn what_was_deleted_by_hand_at_another_address_can_be_said() {
    let mut scene = Scene::new();
    scene.run("30 days");
    scene.log().bring_back(0, 0, &mut |_| Ok(())).unwrap();
    let dir = scene.stage.folder();
    let back = Back::read(&dir, 0).unwrap().unwrap();
    let store = "file:///elsewhere".to_owned();
    Back { store, ..back }.save(&dir, 0).unwrap();
    scene.stage.clock.advance(30 * DAY);
    assert!(scene.stage.run().records() > 0);
    assert!(scene.told().contains("file:///elsewhere"));
    assert!(!scene.log().is_away(0), "it does not go before");
    let run = Run {
        log: scene.log(),
        now: scene.stage.clock.now(),
        behind: None,
    };
    let refused = run.written_off(&scene.url()).unwrap_err();
    assert_eq!(refused.code.0, 7596);
    assert_eq!(run.written_off("file:///nowhere").unwrap().segments, 0);
    assert!(scene.told().contains("file:///elsewhere"));
    assert_eq!(run.written_off("file:///elsewhere").unwrap().segments, 1);
    assert_eq!(scene.told(), "");
    assert!(scene.log().is_away(0));
    scene.whole();
}

/// What a move has left at an address of before, too.
#[test]
fn what_a_move_has_left_at_another_address_can_be_written_off() {
    let mut scene = Scene::new();
    let (segment, _) = scene.log().movable(&mut Vec::new()).swap_remove(0);
    let crash = scene.log().move_away(&segment, &mut |at| match at {
        Step::Put => Err(Error::other(Crash)),
        _ => Ok(()),
    });
    assert!(crash.is_err());
    let dir = scene.stage.folder();
    let intent = Intent::read(&dir, 0).unwrap().unwrap();
    let store = "file:///elsewhere".to_owned();
    Intent { store, ..intent }.save(&dir, 0).unwrap();
    let run = |scene: &Scene| {
        let run = Run {
            log: scene.log(),
            now: scene.stage.clock.now(),
            behind: None,
        };
        run.written_off("file:///elsewhere").unwrap().segments
    };
    assert_eq!(run(&scene), 0, "nothing was dropped that is in it");
    scene.stage.clock.advance(30 * DAY);
    scene.stage.restart();
    assert!(scene.stage.run().records() > 0);
    assert!(scene.told().contains("file:///elsewhere"));
    assert_eq!(run(&scene), 1);
    assert_eq!(scene.told(), "");
    scene.whole();
}
