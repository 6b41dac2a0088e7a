//! What is told of a store in trouble, and what it may hold up.

use super::*;
use crate::{
    index::{Options, Store as Index},
    query::Query,
    retention::tests::alter_record,
    segment::{self, FRAME_HEADER_LEN, FrameReader, HEADER_LEN},
};

/// What is wrong with an object is told until that object reads well, whatever else does.
#[test]
fn a_missing_object_is_told_until_it_is_there() {
    let mut scene = Scene::new();
    scene.run("30 days");
    scene.stage.restart();
    let fault = |scene: &Scene| scene.log().archive().unwrap().health().fault;
    let object = scene.objects()[0].clone();
    let bytes = fs::read(&object).unwrap();
    fs::remove_file(&object).unwrap();
    assert_eq!(why(&scene.log().leaf(0).unwrap_err()), Some(Why::Missing));
    let other = scene.log().moved(&mut Vec::new()).unwrap()[1].segment.start;
    scene.log().leaf(other).unwrap();
    let told = fault(&scene).unwrap();
    assert!(told.contains("begins with record 0 "), "{told}");
    fs::write(&object, bytes).unwrap();
    scene.believe_again();
    scene.log().leaf(0).unwrap();
    assert_eq!(fault(&scene), None);
}

/// Segments that are damaged, however many, keep no other here.
#[test]
fn damaged_segments_do_not_end_every_run() {
    let scene = Scene::of_many(28);
    let movable = scene.log().movable(&mut Vec::new());
    assert!(movable.len() > 14, "{}", movable.len());
    for (segment, _) in &movable[..10] {
        let path = scene.stage.segment(segment.start);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let outcome = scene.run("30 days");
    assert_eq!(outcome.faults.len(), 10, "{outcome:?}");
    assert!(!outcome.interrupted && outcome.segments > 3, "{outcome:?}");
}

/// A store that loses or alters what it is given is not given all, and not every hour; the next
/// run begins behind what it was given.
#[test]
fn a_store_that_alters_what_it_is_given_ends_a_run() {
    let scene = Scene::of_many(48);
    let movable = scene.log().movable(&mut Vec::new());
    assert!(movable.len() > 20, "{}", movable.len());
    let at_put = &mut |at| match at {
        Step::Put => Err(Error::other(Crash)),
        _ => Ok(()),
    };
    for (segment, _) in &movable[..12] {
        scene.log().move_away(segment, at_put).unwrap_err();
    }
    for object in scene.objects() {
        fs::write(object, b"another's").unwrap();
    }
    let outcome = scene.run("30 days");
    assert_eq!((outcome.segments, outcome.faults.len()), (0, 8));
    assert!(outcome.interrupted && !outcome.again, "{outcome:?}");
    let mut last = LastRun {
        ended_us: 0,
        outcome,
    };
    assert!(!last.is_again(), "a person has to mend that");
    assert_eq!(last.outcome.lost_at, Some(movable[7].0.start));
    scene.stage.signed();
    let run = Run {
        log: scene.log(),
        now: scene.stage.clock.now(),
        behind: last.outcome.lost_at,
    };
    let after = After::parse("30 days").unwrap();
    let outcome = run.go(&after, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(outcome.segments > 8, "{outcome:?}");
    // One that a version wrote which did not tell them apart.
    let json = r#"{"segments":0,"bytes":0,"faults":["it is away"],"interrupted":false}"#;
    last.outcome = serde_json::from_str(json).unwrap();
    assert!(last.is_again());
}

/// Of a fault of the disk here the store is not accused; nobody waits for it because of that.
#[test]
fn a_fault_here_is_told_as_one_and_the_archive_by_its_own_name() {
    let mut scene = Scene::new();
    scene.run("30 days");
    let url = scene.log().archive().unwrap().url().to_owned();
    let _ = fs::remove_dir_all(scene.stage.folder().join(CACHE));
    fs::write(scene.stage.folder().join(CACHE), b"in the way").unwrap();
    let error = scene.log().leaf(0).unwrap_err();
    assert_eq!(why(&error), Some(Why::Local));
    assert_eq!(error.diagnostic().code.0, 7593);
    fs::remove_file(scene.stage.folder().join(CACHE)).unwrap();
    scene.log().leaf(0).unwrap();
    assert_eq!(scene.log().archive().unwrap().health().fault, None);
    // Another address: what is told is where the segment was put.
    let other = tempfile::tempdir().unwrap();
    scene.stage.store = Some(other.path().to_owned());
    fs::remove_dir_all(scene.stage.folder().join(CACHE)).unwrap();
    scene.stage.restart();
    let told = scene.log().leaf(0).unwrap_err().to_string();
    assert!(told.contains(&format!("in the archive `{url}`")), "{told}");
    assert!(told.contains(other.path().to_str().unwrap()), "{told}");
}

/// The check reads what the store has now, and leaves nothing in the folder that it reads.
#[test]
fn a_verification_reads_past_the_cache_and_writes_nothing() {
    let scene = Scene::new();
    scene.run("30 days");
    scene.leaves();
    let cached = scene.cached();
    assert!(!cached.is_empty());
    let last = cached.last().unwrap().file_name().unwrap();
    let first = last.to_str().unwrap().split('-').next().unwrap().to_owned();
    let objects = scene.objects();
    let object = objects.iter().find(|object| {
        let name = object.file_name().unwrap().to_str().unwrap();
        name.starts_with(&first)
    });
    let object = object.unwrap();
    let bytes = fs::read(object).unwrap();
    fs::remove_file(object).unwrap();
    scene.log().leaf(first.parse().unwrap()).unwrap();
    assert_eq!(scene.kinds(), [FindingKind::Archive], "it is only cached");
    fs::write(object, bytes).unwrap();
    fs::remove_dir_all(scene.stage.folder().join(CACHE)).unwrap();
    scene.whole();
    assert!(!scene.stage.folder().join(CACHE).exists());
}

/// A folder that hangs keeps nobody longer than the time of an exchange, and no more threads
/// than there are places.
#[test]
fn a_store_that_hangs_keeps_nobody_for_ever() {
    let scene = Scene::new();
    scene.run("30 days");
    let mut archive = Archive::folder(scene.store.path(), &scene.stage.folder(), 8 << 10).unwrap();
    archive.hurry(Duration::from_millis(200));
    let stub = Stub::read(&scene.stage.folder(), 0).unwrap();
    archive.ask(&stub).unwrap();
    // Whoever opens a pipe that nobody writes waits for ever.
    let object = scene.objects()[0].clone();
    let bytes = fs::read(&object).unwrap();
    fs::remove_file(&object).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&object).status();
    assert!(made.unwrap().success());
    for n in 0..12 {
        let begun = Instant::now();
        let away = archive.ask(&stub).unwrap_err();
        assert_eq!(away.why, Why::Unreachable, "{n}: {away}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{n}");
    }
    // What hangs ends, and the places are free again.
    let begun = Instant::now();
    let pipe = object.with_extension("pipe");
    fs::rename(&object, &pipe).unwrap();
    fs::write(&object, bytes).unwrap();
    while archive.ask(&stub).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        // A writer that comes and goes ends all who wait.
        let writer = std::process::Command::new("sh")
            .args(["-c", ": <> \"$0\"", pipe.to_str().unwrap()])
            .status();
        assert!(writer.unwrap().success());
    }
}

/// A run that has something to delete in every segment waits once for a store that takes its
/// question and never answers.
#[test]
fn a_run_waits_once_for_a_store_that_hangs() {
    let mut scene = Scene::new();
    scene.run("30 days");
    scene.stage.clock.advance(30 * DAY);
    scene.stage.restart();
    assert!(scene.restore().segments > 3);
    assert_eq!(scene.stage.run().faults, [""; 0]);
    scene.stage.hurry = Some(Duration::from_millis(500));
    scene.stage.restart();
    let log = scene.objects()[0].parent().unwrap().to_owned();
    let (mark, aside) = (log.join(MARK), log.join("aside"));
    fs::rename(&mark, &aside).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&mark).status();
    assert!(made.unwrap().success());
    let outcome = scene.run("30 days");
    let of = |what: &str| {
        let faults = outcome.faults.iter();
        faults.filter(|fault| fault.contains(what)).count()
    };
    assert_eq!(of("no whole answer"), 1, "{outcome:?}");
    assert!(of("cannot be deleted") > 3, "{outcome:?}");
    // Whoever waits there ends.
    let ended = std::process::Command::new("sh")
        .args(["-c", ": <> \"$0\"", mark.to_str().unwrap()])
        .status();
    assert!(ended.unwrap().success());
    fs::rename(&aside, &mark).unwrap();
    scene.believe_again();
    assert_eq!(scene.run("30 days").faults, [""; 0]);
    scene.whole();
}

/// A place that was not the archive, and is again, is not accused any more once it was read.
#[test]
fn a_place_is_told_as_another_until_it_is_seen_to_be_the_archive() {
    let mut scene = Scene::new();
    scene.run("30 days");
    scene.stage.restart();
    let disk = scene.store.path().with_extension("disk");
    fs::rename(scene.store.path(), &disk).unwrap();
    fs::create_dir(scene.store.path()).unwrap();
    assert_eq!(why(&scene.log().leaf(0).unwrap_err()), Some(Why::Foreign));
    let fault = |scene: &Scene| scene.log().archive().unwrap().health().fault;
    assert!(fault(&scene).is_some());
    fs::remove_dir(scene.store.path()).unwrap();
    fs::rename(&disk, scene.store.path()).unwrap();
    scene.log().leaf(0).unwrap();
    assert_eq!(fault(&scene), None);
}

/// A record in the newest segment that is not what was signed is told as that, and not as
/// something that a start would need from the archive.
#[test]
fn a_contradiction_is_not_told_as_a_segment_that_is_needed() {
    let mut scene = Scene::new();
    scene.run("30 days");
    let dir = scene.stage.folder();
    let last = *segment::list(&dir).unwrap().last().unwrap();
    scene.stage.request("/the-newest", 200);
    scene.stage.signed();
    let last = last.max(*segment::list(&dir).unwrap().last().unwrap());
    scene.log().close();
    let path = scene.stage.segment(last);
    let mut bytes = fs::read(&path).unwrap();
    let file = Arc::new(fs::File::open(&path).unwrap());
    let mut reader = FrameReader::new(file, HEADER_LEN, bytes.len() as u64);
    let (at, mut payload) = match reader.next().unwrap() {
        Some(Ok(frame)) => (frame.offset as usize, frame.payload.to_vec()),
        _ => panic!("the newest segment has a record"),
    };
    // Its checksum is right again; it is the leaf that differs.
    let end = payload.len() - 1;
    payload[end] ^= 1;
    let mut frame = Vec::new();
    segment::frame(&mut frame, |buf| buf.extend_from_slice(&payload[1..]));
    bytes[at..at + FRAME_HEADER_LEN + payload.len()].copy_from_slice(&frame);
    fs::write(&path, bytes).unwrap();
    let options = LogOptions {
        archive: scene.stage.archive(),
        ..crate::testing::options()
    };
    let refused = Log::open(&dir, options, scene.stage.clock.clone()).err();
    assert!(
        matches!(&refused, Some(LogError::Tampered(_))),
        "{refused:?}"
    );
}

/// Nor is a tile that rotted told as a record that differs, though what could tell of all others
/// is in the archive.
#[test]
fn a_start_makes_a_tile_again_that_rotted() {
    let mut scene = Scene::new();
    scene.run("30 days");
    scene.stage.segment_bytes = 1 << 20;
    scene.stage.restart();
    for _ in 0..180 {
        scene.stage.request("/new", 200);
    }
    scene.stage.signed();
    let newest = scene.log().here_from();
    assert!(newest < 256 && scene.log().len() > 512, "{newest}");
    scene.log().close();
    let tile = scene.stage.folder().join("tile/0/001");
    let sound = fs::read(&tile).unwrap();
    let mut rotten = sound.clone();
    rotten[70] ^= 1;
    fs::write(&tile, &rotten).unwrap();
    scene.stage.restart();
    assert_eq!(fs::read(&tile).unwrap(), sound);
    assert_eq!(scene.log().archive().unwrap().health().fetched, 0);
    scene.whole();
    // Of a record that is another none is made.
    scene.log().close();
    fs::write(&tile, &rotten).unwrap();
    let segments = fs::read_dir(scene.stage.folder().join(segment::DIR)).unwrap();
    let starts = segments.filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_suffix(".seg")?.parse::<u64>().ok()
    });
    let newest = starts.max().unwrap();
    alter_record(&scene.stage.segment(newest), (300 - newest) as usize);
    let options = LogOptions {
        archive: scene.stage.archive(),
        ..crate::testing::options()
    };
    let refused = Log::open(&scene.stage.folder(), options, scene.stage.clock.clone());
    let refused = refused.err().unwrap();
    assert!(matches!(refused, LogError::Tampered(_)), "{refused}");
    assert_eq!(fs::read(&tile).unwrap(), rotten);
}

/// A tile that rotted is made again from what a run has fetched: no segment is fetched for it
/// again and again.
#[test]
fn a_tile_is_made_again_from_what_was_fetched() {
    let mut scene = Scene::new();
    scene.stage.segment_bytes = 200 << 10;
    scene.stage.restart();
    for n in 12..400 {
        scene.stage.request(&format!("/old/{n}"), 200);
    }
    scene.stage.segment_bytes = 1500;
    scene.stage.restart();
    scene.stage.clock.advance(40 * DAY);
    scene.stage.fill();
    // Nothing stays of what is fetched.
    scene.stage.cache_bytes = 0;
    let moved = scene.run("30 days").segments;
    scene.stage.restart();
    let tiles = scene.log().len() / 256;
    let sealed = scene.log().sealed();
    let longest = sealed.iter().map(|s| s.end - s.start);
    let longest = longest.max().unwrap();
    assert!(tiles > 2 && longest > 512, "{tiles} {longest}");
    for tile in 0..tiles {
        let path = scene.stage.folder().join(format!("tile/0/{tile:03}"));
        let mut bytes = fs::read(&path).unwrap();
        bytes[70] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    scene.stage.clock.advance(30 * DAY);
    let outcome = scene.stage.run();
    assert_eq!(outcome.faults, [""; 0]);
    // Each once for itself, and once more for a tile that it shares with the first.
    let sharing = sealed.iter().filter(|s| s.start < 256).count() as u64;
    let fetched = scene.log().archive().unwrap().health().fetched;
    assert!(fetched < moved + sharing, "{fetched} {moved} {sharing}");
    scene.whole();
}

/// A crash while a segment was begun needs the one before it again, and no other.
#[test]
fn a_newest_segment_that_was_torn_needs_nothing_from_the_archive() {
    let mut scene = Scene::new();
    let before = scene.leaves();
    assert!(scene.run("30 days").segments > 3);
    scene.log().close();
    let len = scene.log().len();
    fs::write(scene.stage.segment(len), b"").unwrap();
    scene.stage.restart();
    assert_eq!(scene.log().archive().unwrap().health().fetched, 0);
    assert_eq!(scene.leaves()[..before.len()], before);
    scene.whole();
}

/// While the archive cannot be asked new records are found, and what was dropped is let go of
/// when it can be asked again.
#[test]
fn the_index_goes_on_while_the_archive_is_away() {
    let mut scene = Scene::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let index = scene.stage.folder().join("index");
    let open = |scene: &Scene| {
        let source = Arc::new(scene.log().clone());
        Index::open(
            source,
            &index,
            scene.stage.clock.clone(),
            Options::default(),
        )
        .unwrap()
    };
    let store = open(&scene);
    runtime.block_on(store.flush()).unwrap();
    let count = |store: &Index, query: &str| store.count(&Query::parse(query).unwrap()).unwrap();
    let old = "class:decision path:/old/* last:300d";
    assert_eq!(count(&store, old), 12);
    drop(store);
    scene.run("30 days");
    scene.stage.clock.advance(30 * DAY);
    scene.stage.restart();
    assert_eq!(scene.stage.run().faults, [""; 0]);
    let _ = fs::remove_dir_all(scene.stage.folder().join(CACHE));
    let gone = scene.store.path().with_extension("away");
    fs::rename(scene.store.path(), &gone).unwrap();
    let store = open(&scene);
    scene.stage.request("/while-away", 200);
    let begun = Instant::now();
    let until = |what: &str, is: &dyn Fn() -> bool| {
        while !is() {
            assert!(begun.elapsed() < Duration::from_secs(120), "{what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let new = "class:decision path:/while-away last:1d";
    until("what is new", &|| count(&store, new) == 1);
    until("why it waits", &|| {
        store
            .status()
            .stalled
            .is_some_and(|why| why.contains("file://"))
    });
    fs::rename(&gone, scene.store.path()).unwrap();
    until("what was dropped", &|| count(&store, old) == 0);
    until("nothing waits", &|| store.status().stalled.is_none());
    assert_eq!(count(&store, new), 1);
}

/// A run beside a check lets files go at any moment, and brings them back: that is no finding.
#[test]
fn a_check_beside_a_run_names_nothing() {
    let scene = Scene::new();
    scene.run("30 days");
    let pairs: Vec<_> = scene
        .objects()
        .into_iter()
        .map(|object| {
            let name = object.file_name().unwrap().to_str().unwrap().to_owned();
            let first = name.split('-').next().unwrap().parse().unwrap();
            let path = scene.stage.segment(first);
            let aside = path.with_extension("x");
            fs::copy(object, &aside).unwrap();
            (path, aside)
        })
        .collect();
    let done = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        for (path, aside) in &pairs {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    fs::rename(aside, path).unwrap();
                    fs::rename(path, aside).unwrap();
                }
            });
        }
        let begun = Instant::now();
        let mut found = None;
        while found.is_none() && begun.elapsed() < Duration::from_secs(10) {
            let findings = scene.stage.check().findings;
            found = (!findings.is_empty()).then_some(findings);
        }
        done.store(true, Ordering::Relaxed);
        found
    });
    assert_eq!(found, None);
}

/// A file that cannot be looked at is there, for all that is known: nothing is put in order
/// as if it were not.
#[test]
fn what_cannot_be_looked_at_is_not_taken_for_gone() {
    let mut scene = Scene::new();
    scene.run("30 days");
    let now_us = scene.stage.clock.now_us();
    let crash = scene.log().bring_back(0, now_us, &mut |at| match at {
        Step::Placed => Err(Error::other(Crash)),
        _ => Ok(()),
    });
    assert!(crash.is_err());
    let (dir, path) = (scene.stage.folder(), scene.stage.segment(0));
    let aside = path.with_extension("x");
    fs::rename(&path, &aside).unwrap();
    // Whoever follows it never comes to an end.
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let outcome = scene.run("30 days");
    assert!(!outcome.faults.is_empty());
    assert!(segment::Back::read(&dir, 0).unwrap().is_some());
    assert!(scene.log().whereabouts().is_err());
    assert!(!scene.log().is_away(0));
    fs::remove_file(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    scene.stage.restart();
    assert_eq!(scene.run("30 days").faults, [""; 0]);
    scene.whole();
}

/// Questions about what is here fetch nothing, nor does when the log begins: they are answered
/// while the archive is away.
#[test]
fn questions_about_what_is_here_fetch_nothing() {
    let mut scene = Scene::new();
    let first_us = scene.log().received_us(0).unwrap();
    let before = scene.log().len();
    scene.run("30 days");
    scene.stage.restart();
    scene.stage.request("/newer", 200);
    let gone = scene.store.path().with_extension("away");
    fs::rename(scene.store.path(), &gone).unwrap();
    let query = Query::parse("class:decision last:1d").unwrap();
    let now_us = scene.stage.clock.now_us();
    let window = query
        .window(now_us, &crate::query::Limits::default())
        .unwrap();
    let mut decisions = crate::decisions::Decisions::new(scene.log(), &query, window).unwrap();
    assert!(decisions.position() > 0 && decisions.position() <= before);
    let mut paths = Vec::new();
    let visited = decisions.visit(|_, leaf| {
        let leaf = crate::envelope::DecisionRef::of_leaf(leaf).unwrap();
        paths.push(leaf.path.to_owned());
        ControlFlow::<()>::Continue(())
    });
    visited.unwrap();
    assert!(paths.contains(&"/newer".to_owned()), "{paths:?}");
    assert_eq!(scene.log().begins_us().unwrap(), Some(first_us));
    assert_eq!(decisions.log_begins_us().unwrap(), Some(first_us));
    assert_eq!(scene.log().archive().unwrap().health().failed, 0);
    fs::rename(&gone, scene.store.path()).unwrap();
    // What is asked about what went is found there.
    for us in [first_us, first_us + 1, i64::MIN, i64::MAX] {
        let found = crate::decisions::first_received(scene.log(), us).unwrap();
        let all = 0..scene.log().len();
        let mut all = all.filter(|index| scene.log().received_us(*index).unwrap() >= us);
        assert_eq!(found, all.next().unwrap_or(scene.log().len()), "{us}");
    }
}
