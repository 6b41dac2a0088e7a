//! What the index joins and leaves out while the archive has lost a part of it.

use std::{io, sync::mpsc};

use super::{lost::OLD, *};
use crate::{index::Store as Index, query::Query};
use tokio::runtime::Runtime;

const JOINED: &str = "class:decision path:/old/* status:200 last:300d";

fn count(index: &Index, query: &str) -> u64 {
    index.count(&Query::parse(query).unwrap()).unwrap()
}

/// Opens the index of what is in the store now, as after a start that has fetched nothing yet,
/// and lets it take in what it can.
fn flushed(scene: &mut Scene, runtime: &Runtime) -> Index {
    let _ = fs::remove_dir_all(scene.stage.folder().join(CACHE));
    scene.stage.restart();
    let index = scene.index();
    runtime.block_on(index.flush()).unwrap();
    index
}

/// Two segments that may have a decision and its outcome, lost one after the other and the
/// other way round: a join that cannot be made is not forgotten, and until then it is said that
/// something lacks.
#[test]
fn a_decision_gets_its_outcome_however_the_two_come_back() {
    let runtime = Runtime::new().unwrap();
    let mut scene = Scene::new();
    scene.run("30 days");
    let objects = scene.objects();
    let bytes: Vec<_> = objects.iter().map(|o| fs::read(o).unwrap()).collect();
    let mut open = 0;
    for first in 0..objects.len() - 1 {
        for (missing, other) in [(first, first + 1), (first + 1, first)] {
            let _ = fs::remove_dir_all(scene.stage.folder().join("index"));
            fs::remove_file(&objects[missing]).unwrap();
            drop(flushed(&mut scene, &runtime));
            fs::write(&objects[missing], &bytes[missing]).unwrap();
            fs::remove_file(&objects[other]).unwrap();
            let index = flushed(&mut scene, &runtime);
            let joined = count(&index, JOINED);
            let lost = index.status().unreadable;
            assert!(joined == 12 || lost > 0, "{missing} {other}");
            open += u64::from(joined < 12);
            drop(index);
            fs::write(&objects[other], &bytes[other]).unwrap();
            let index = flushed(&mut scene, &runtime);
            let found = (count(&index, OLD), count(&index, JOINED));
            assert_eq!(found, (12, 12), "{missing} {other}");
            assert_eq!(index.status().unreadable, 0, "{missing} {other}");
        }
    }
    assert!(open > 1, "some decisions are apart from their outcomes");
}

/// While a join waits for the archive everybody else goes on, and one that it waited for in
/// vain is made later.
#[test]
fn nobody_waits_for_a_join_that_the_archive_holds_up() {
    let runtime = Runtime::new().unwrap();
    let mut scene = Scene::new();
    scene.run("30 days");
    let objects = scene.objects();
    let mut held_up = 0;
    for object in &objects {
        let bytes = fs::read(object).unwrap();
        let _ = fs::remove_dir_all(scene.stage.folder().join("index"));
        fs::remove_file(object).unwrap();
        drop(flushed(&mut scene, &runtime));
        fs::write(object, bytes).unwrap();
        let _ = fs::remove_dir_all(scene.stage.folder().join(CACHE));
        scene.stage.restart();
        let index = Arc::new(scene.index());
        let archive = scene.log().archive().unwrap().clone();
        let gone = scene.store.path().with_extension("away");
        let (said, answers) = mpsc::channel();
        let (store, to) = (scene.store.path().to_owned(), gone.clone());
        let (asked, then) = (index.clone(), archive.clone());
        // The first that is read is the one that is back.
        archive.meanwhile(move || {
            then.meanwhile(move || {
                let (done, answer) = mpsc::channel();
                std::thread::spawn(move || done.send(asked.status().searchable));
                let answer = answer.recv_timeout(Duration::from_secs(10));
                said.send(answer.is_ok()).unwrap();
                fs::rename(store, to).unwrap();
            });
        });
        runtime.block_on(index.flush()).unwrap();
        if let Ok(answered) = answers.try_recv() {
            held_up += 1;
            assert!(answered, "who asks how the index stands has to wait");
            assert!(index.status().unreadable > 0, "{object:?}");
            let why = index.status().stalled.unwrap();
            assert!(why.contains("file://"), "{why}");
            fs::rename(&gone, scene.store.path()).unwrap();
            scene.believe_again();
            runtime.block_on(index.flush()).unwrap();
        }
        archive.meanwhile(|| {});
        let status = index.status();
        assert_eq!((status.unreadable, status.stalled), (0, None), "{object:?}");
        assert_eq!((count(&index, OLD), count(&index, JOINED)), (12, 12));
    }
    assert!(held_up > 0, "some decisions are apart from their outcomes");
}

/// A segment that is lost after something was dropped from it does not keep the index from
/// going on, whether that has it or is made anew; once it is there, what was dropped goes.
#[test]
fn a_lost_segment_with_dropped_records_does_not_hold_up_the_index() {
    for anew in [false, true] {
        let runtime = Runtime::new().unwrap();
        let mut scene = Scene::indexed_and_away(&runtime);
        assert_eq!(scene.stage.run().faults, [""; 0]);
        let object = scene.objects()[0].clone();
        let bytes = fs::read(&object).unwrap();
        fs::remove_file(&object).unwrap();
        if anew {
            fs::remove_dir_all(scene.stage.folder().join("index")).unwrap();
        }
        let index = flushed(&mut scene, &runtime);
        assert_eq!(index.status().stalled, None, "{anew}");
        let lost = index.status().unreadable;
        assert!(lost > 0, "{anew}");
        scene.believe_again();
        let flush = || runtime.block_on(index.flush()).unwrap();
        let ((), failed) = scene.failures(flush);
        assert!(failed <= 1, "{failed}");
        assert_eq!(
            (index.status().stalled, index.status().unreadable),
            (None, lost)
        );
        fs::write(&object, bytes).unwrap();
        scene.believe_again();
        runtime.block_on(index.flush()).unwrap();
        assert_eq!(
            (index.status().stalled, index.status().unreadable),
            (None, 0)
        );
        assert_eq!(count(&index, OLD), 0, "{anew}");
        assert_eq!(count(&index, "class:admin last:300d"), 20, "{anew}");
    }
}

/// However a run ends that lets go of what was dropped, an index that had to leave something
/// out says so.
#[test]
fn what_is_left_out_is_known_after_a_crash() {
    let runtime = Runtime::new().unwrap();
    let mut scene = Scene::of_days(3);
    scene.stage.cache_bytes = 4 << 10;
    let index = scene.index();
    runtime.block_on(index.flush()).unwrap();
    drop(index);
    scene.run("30 days");
    scene.stage.clock.advance(30 * DAY);
    scene.stage.restart();
    scene.alter();
    assert!(scene.stage.run().records() > 0);
    let _ = fs::remove_dir_all(scene.stage.folder().join(CACHE));
    scene.stage.restart();
    let index = scene.index();
    let archive = scene.log().archive().unwrap().clone();
    let (crashes, left) = (tempfile::tempdir().unwrap(), mpsc::channel());
    let folder = scene.stage.folder().join("index");
    at_each_read(&archive, folder, crashes.path().to_owned(), left.0);
    runtime.block_on(index.flush()).unwrap();
    archive.meanwhile(|| {});
    assert!(index.status().unreadable > 0);
    drop(index);
    let copies: Vec<PathBuf> = left.1.try_iter().collect();
    assert!(copies.len() > 3);
    for copy in copies {
        let index = scene.index_in(&copy);
        runtime.block_on(index.flush()).unwrap();
        assert!(index.status().unreadable > 0, "{copy:?}");
    }
}

/// Most times that a copy is begun anew.
const COPIES_MAX: usize = 20;

/// Copies the index before each read of an object, as a crash would leave it.
fn at_each_read(archive: &Arc<Archive>, index: PathBuf, to: PathBuf, left: mpsc::Sender<PathBuf>) {
    let then = archive.clone();
    archive.meanwhile(move || {
        left.send(copied(&index, &to)).unwrap();
        at_each_read(&then, index, to, left);
    });
}

/// A copy of the index. It goes on meanwhile, and what was there when its names were read can be
/// gone by its turn: then the copy is of no moment, and is taken again.
fn copied(index: &Path, to: &Path) -> PathBuf {
    for _ in 0..COPIES_MAX {
        let copy = to.join(ulid::Ulid::generate().to_string());
        match copy_all(index, &copy) {
            Ok(()) => return copy,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
        }
    }
    panic!("something of {index:?} was gone in each of {COPIES_MAX} copies");
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let copied = match from.is_dir() {
            true => copy_all(&from, &to),
            false => fs::copy(&from, to).map(drop),
        };
        if copied.is_err() && is_of_the_moment(&from) && !from.exists() {
            continue;
        }
        copied?;
    }
    Ok(())
}

/// Whether a file has its name only until it is renamed: by the index, or by tantivy, whose
/// temporary files begin so.
fn is_of_the_moment(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.ends_with(".new") || name.starts_with(".tmp")
}
