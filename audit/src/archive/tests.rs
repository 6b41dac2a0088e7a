//! What goes, what comes back, and what is noticed when it does not come back as it went.

use std::{
    fs,
    io::Error,
    ops::ControlFlow,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{mark::MARK, *};
use crate::{
    log::{Crash, Log, LogError, LogOptions, Step, restore_all},
    merkle::{TILE_WIDTH, TilePath},
    retention::tests::Stage,
    segment::{Content, FrameReader, HEADER_LEN},
    source::Source as _,
    verify::{FindingKind, VerifyOptions, verify},
};

mod copies;
mod joins;
mod leftovers;
mod lost;
mod offline;
mod safety;
mod troubles;

const DAY: Duration = Duration::from_secs(86_400);

/// A log of some finished segments, 40 days old, and a folder for them.
struct Scene {
    stage: Stage,
    store: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::of_days(1)
    }

    /// The same, over so many days.
    fn of_days(days: usize) -> Self {
        let store = tempfile::tempdir().unwrap();
        let mut stage = Stage::new();
        stage.store = Some(store.path().to_owned());
        stage.restart();
        for n in 0..12 {
            if n > 0 && n % (12 / days) == 0 {
                stage.clock.advance(DAY);
            }
            stage.request(&format!("/old/{n}"), 200);
        }
        stage.clock.advance(40 * DAY);
        stage.fill();
        Self { stage, store }
    }

    /// With so many requests more, forty days later.
    fn of_many(requests: usize) -> Self {
        let mut scene = Self::new();
        for n in 12..12 + requests {
            scene.stage.request(&format!("/old/{n}"), 200);
        }
        scene.stage.clock.advance(40 * DAY);
        scene.stage.fill();
        scene
    }

    fn log(&self) -> &Log {
        self.stage.log()
    }

    fn run(&self, after: &str) -> Outcome {
        let run = Run {
            log: self.log(),
            now: self.stage.clock.now(),
            behind: None,
        };
        self.stage.signed();
        let go_on = &mut |_| ControlFlow::Continue(());
        run.go(&After::parse(after).unwrap(), go_on).unwrap()
    }

    fn restore(&self) -> Outcome {
        let run = Run {
            log: self.log(),
            now: self.stage.clock.now(),
            behind: None,
        };
        let go_on = &mut |_| ControlFlow::Continue(());
        run.restore((i64::MIN, i64::MAX), go_on).unwrap()
    }

    /// Every record as it is hashed.
    fn leaves(&self) -> Vec<Bytes> {
        let all = (0..self.log().len()).map(|index| self.log().leaf(index).unwrap());
        all.collect()
    }

    /// Paths of the objects, the oldest segment first.
    fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.store.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.extension() {
                    Some(extension) if extension == "seg" => found.push(path),
                    _ if path.is_dir() => folders.push(path),
                    _ => {}
                }
            }
        }
        found.sort();
        found
    }

    /// Time passes, after which a store that was away, or an object, is asked for again.
    fn believe_again(&self) {
        self.log().archive().unwrap().doubt();
    }

    fn cached(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.stage.folder().join(CACHE));
        let paths = entries.into_iter().flatten();
        paths.map(|entry| entry.unwrap().path()).collect()
    }

    fn whole(&self) {
        let report = self.stage.check();
        assert_eq!(report.findings, []);
        assert_eq!(Some(report.records), report.checkpoint.map(|c| c.size));
    }

    fn kinds(&self) -> Vec<FindingKind> {
        let report = self.stage.check();
        report.findings.iter().map(|f| f.kind).collect()
    }
}

/// How many decisions about `/old/*` a segment has.
fn old_decisions(path: &Path) -> usize {
    let file = Arc::new(File::open(path).unwrap());
    let length = file.metadata().unwrap().len();
    let mut reader = FrameReader::new(file, HEADER_LEN, length);
    let mut count = 0;
    while let Some(frame) = reader.next().unwrap() {
        if let Content::Leaf(leaf) = frame.unwrap().content() {
            let decision = crate::envelope::DecisionRef::of_leaf(leaf);
            count += usize::from(decision.is_some_and(|d| d.path.starts_with("/old/")));
        }
    }
    count
}

fn why(error: &LogError) -> Option<Why> {
    match error {
        LogError::Away(away) => Some(away.why),
        _ => None,
    }
}

/// Only what is old goes; what went is read, proven and verified as before, also after a
/// start, which fetches nothing.
#[test]
fn old_segments_go_and_everything_is_read_as_before() {
    let mut scene = Scene::new();
    let before = scene.leaves();
    let outcome = scene.run("30 days");
    assert_eq!(outcome.faults, [""; 0]);
    assert!(outcome.segments > 3);
    let found = scene.log().whereabouts().unwrap();
    assert_eq!(found.moved, outcome.segments);
    assert_eq!(found.moved_bytes, outcome.bytes);
    assert!(found.here > 1, "what is new stays");
    assert_eq!(scene.objects().len() as u64, outcome.segments);
    // A second run has nothing to do.
    assert_eq!(scene.run("30 days").segments, 0);
    scene.stage.restart();
    let archive = scene.log().archive().unwrap().clone();
    assert_eq!(archive.health().fetched, 0, "a start fetches nothing");
    assert!(!scene.log().is_here(2) && scene.log().is_here(scene.log().len() - 1));
    assert_eq!(
        scene
            .log()
            .leap(None, scene.stage.clock.now_us())
            .unwrap()
            .map(|_| ()),
        Some(())
    );
    assert_eq!(
        archive.health().fetched,
        0,
        "nor does what the log says of itself"
    );
    let (checkpoint, proof) = scene.log().prove(3).unwrap();
    let leaf = crate::merkle::leaf(&before[3]);
    crate::merkle::verify_inclusion(&leaf, 3, checkpoint.size, &proof, &checkpoint.root).unwrap();
    assert_eq!(archive.health().fetched, 0, "nor does a proof");
    assert_eq!(scene.leaves()[..before.len()], before);
    assert!(archive.health().fetched >= outcome.segments);
    scene.whole();
    assert_eq!(scene.stage.check().moved, outcome.segments);
}

/// The cache keeps to its bound, and what it has is compared again after a start.
#[test]
fn the_cache_is_bounded_and_believed_only_once_it_was_compared() {
    let mut scene = Scene::new();
    let before = scene.leaves();
    scene.run("30 days");
    assert_eq!(scene.leaves()[..before.len()], before);
    let archive = scene.log().archive().unwrap().clone();
    let cached = archive.health().cached_bytes;
    assert!((1..=8 << 10).contains(&cached), "{cached}");
    let path = scene.cached()[0].clone();
    scene.stage.restart();
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(scene.leaves()[..before.len()], before);
    assert_ne!(fs::read(&path).unwrap_or_default(), bytes);
    // It is no data: without it all is as it was.
    fs::remove_dir_all(scene.stage.folder().join(CACHE)).unwrap();
    scene.stage.restart();
    assert_eq!(scene.leaves()[..before.len()], before);
    scene.whole();
}

/// Many who want the same segment fetch it once.
#[test]
fn a_segment_is_fetched_once_at_a_time() {
    let mut scene = Scene::new();
    scene.run("30 days");
    scene.stage.restart();
    let log = scene.log();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| log.leaf(2).unwrap());
        }
    });
    assert_eq!(log.archive().unwrap().health().fetched, 1);
}

/// After a crash at any step nothing is lost, and the next run goes on.
#[test]
fn a_move_that_ends_anywhere_is_gone_on_with() {
    for step in [Step::Put, Step::Recorded, Step::Stubbed, Step::Gone] {
        let mut scene = Scene::new();
        let before = scene.leaves();
        let (segment, _) = scene.log().movable(&mut Vec::new()).swap_remove(0);
        let crash = scene.log().move_away(&segment, &mut |at| match at == step {
            true => Err(Error::other(Crash)),
            false => Ok(()),
        });
        assert!(crash.is_err(), "{step:?}");
        assert_eq!(scene.leaves()[..before.len()], before, "{step:?}");
        scene.whole();
        scene.stage.restart();
        assert_eq!(scene.leaves()[..before.len()], before, "{step:?}");
        let outcome = scene.run("30 days");
        assert_eq!(outcome.faults, [""; 0], "{step:?}");
        assert!(scene.log().is_away(segment.start), "{step:?}");
        assert_eq!(scene.leaves()[..before.len()], before, "{step:?}");
        scene.whole();
        let moved = scene.log().whereabouts().unwrap().moved;
        assert_eq!(
            scene.objects().len() as u64,
            moved,
            "no object is left over"
        );
    }
}

/// The same on the way back.
#[test]
fn a_return_that_ends_anywhere_is_gone_on_with() {
    for step in [Step::Fetched, Step::Noted, Step::Placed] {
        let mut scene = Scene::new();
        let before = scene.leaves();
        let moved = scene.run("30 days").segments;
        let now_us = scene.stage.clock.now_us();
        let crash = scene
            .log()
            .bring_back(0, now_us, &mut |at| match at == step {
                true => Err(Error::other(Crash)),
                false => Ok(()),
            });
        assert!(crash.is_err(), "{step:?}");
        scene.whole();
        scene.stage.restart();
        assert_eq!(scene.leaves()[..before.len()], before, "{step:?}");
        let placed = u64::from(step == Step::Placed);
        assert_eq!(scene.restore().segments, moved - placed, "{step:?}");
        let found = scene.log().whereabouts().unwrap();
        assert_eq!((found.moved, found.back), (0, moved), "{step:?}");
        scene.whole();
    }
}

/// What was brought back stays as long as what is new, and goes again as the same object.
#[test]
fn what_comes_back_stays_its_time_and_goes_again() {
    let scene = Scene::new();
    let before = scene.leaves();
    let moved = scene.run("30 days").segments;
    let objects = scene.objects();
    assert_eq!(scene.restore().segments, moved);
    let segment = scene.stage.segment(0);
    assert!(segment.exists());
    scene.whole();
    assert_eq!(scene.run("30 days").segments, 0, "it has just come");
    scene.stage.clock.advance(31 * DAY);
    assert!(scene.run("30 days").segments >= moved);
    assert_eq!(scene.objects()[..objects.len()], objects);
    assert!(!segment.exists());
    assert_eq!(scene.leaves()[..before.len()], before);
    scene.whole();
}

/// A log that nobody writes, whose archive is given, gets all back without being opened.
#[test]
fn a_folder_gets_its_segments_back_by_itself() {
    let mut scene = Scene::new();
    let moved = scene.run("30 days").segments;
    let archive = scene.stage.archive().unwrap();
    assert!(matches!(
        restore_all(&scene.stage.folder(), &archive),
        Err(LogError::Locked(_))
    ));
    scene.log().close();
    // A start that needs all of it is refused until it is there.
    fs::remove_dir_all(scene.stage.folder().join("tile")).unwrap();
    let options = LogOptions {
        archive: Some(archive.clone()),
        ..crate::testing::options()
    };
    let dir = scene.stage.folder();
    let clock = scene.stage.clock.clone();
    let refused = Log::open(&dir, options, clock).err();
    assert_eq!(refused.as_ref().and_then(why), Some(Why::Start));
    let told = refused.unwrap().diagnostic();
    assert_eq!(told.code.0, 7587);
    let how_many = format!("{moved} segments with ");
    assert!(told.cause.is_some_and(|cause| cause.contains(&how_many)));
    let restored = restore_all(&dir, &archive).unwrap();
    assert_eq!(restored.bytes.len() as u64, moved);
    scene.stage.restart();
    scene.whole();
}

/// A store that is away is told by those who need it, and by nobody else.
#[test]
fn a_store_that_is_away_holds_up_only_what_needs_it() {
    let mut scene = Scene::new();
    let last = scene.log().len() - 1;
    scene.run("30 days");
    scene.stage.restart();
    let gone = scene.store.path().with_extension("away");
    fs::rename(scene.store.path(), &gone).unwrap();
    let error = scene.log().leaf(0).unwrap_err();
    assert_eq!(why(&error), Some(Why::Unreachable));
    let told = error.diagnostic();
    assert_eq!(told.code.0, 7581);
    let text = format!("{told} {:?}", told.help);
    for part in ["begins with record 0", "file://", ".seg", "palisade"] {
        assert!(text.contains(part), "{text}");
    }
    scene.log().leaf(last).unwrap();
    scene.stage.request("/while-away", 200);
    scene.stage.signed();
    assert!(scene.log().archive().unwrap().health().fault.is_some());
    scene.stage.clock.advance(DAY);
    scene.stage.fill();
    let outcome = scene.run("0 days");
    assert!(
        outcome.interrupted && outcome.faults.len() == 1,
        "{outcome:?}"
    );
    assert!(outcome.faults[0].contains("PLS7581"), "{outcome:?}");
    fs::rename(&gone, scene.store.path()).unwrap();
    // Whoever asks too soon is told the same; then it is asked again.
    assert!(scene.log().leaf(0).is_err());
    scene.believe_again();
    scene.log().leaf(0).unwrap();
    assert_eq!(scene.log().archive().unwrap().health().fault, None);
    assert_eq!(scene.run("0 days").faults, [""; 0]);
    scene.whole();
}

/// An object that is gone, or is not what it was, is named, by who reads and by the check.
#[test]
fn a_missing_or_altered_object_is_named() {
    let mut scene = Scene::new();
    scene.run("30 days");
    scene.stage.restart();
    let object = scene.objects()[0].clone();
    let bytes = fs::read(&object).unwrap();
    let name = object.file_name().unwrap().to_str().unwrap().to_owned();
    let told = |why_is: Why, code: u16| {
        let error = scene.log().leaf(0).unwrap_err();
        assert_eq!(why(&error), Some(why_is));
        assert_eq!(error.diagnostic().code.0, code);
        let report = scene.stage.check();
        let kinds: Vec<_> = report.findings.iter().map(|f| f.kind).collect();
        assert_eq!(kinds, [FindingKind::Archive]);
        assert!(report.findings[0].what.contains(&name), "{report:?}");
        assert!(!report.intact());
        assert_eq!(report.verdict(), Some(false));
    };
    fs::remove_file(&object).unwrap();
    told(Why::Missing, 7582);
    scene.believe_again();
    let mut other = bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(&object, &other).unwrap();
    told(Why::Altered, 7583);
    fs::write(&object, &bytes[..bytes.len() - 1]).unwrap();
    scene.believe_again();
    told(Why::Altered, 7583);
    fs::write(&object, &bytes).unwrap();
    scene.believe_again();
    scene.log().leaf(0).unwrap();
    scene.whole();
}

/// Without an archive it is said what could not be read; all else is verified.
#[test]
fn without_an_archive_it_is_said_what_was_not_read() {
    let mut scene = Scene::new();
    let moved = scene.run("30 days").segments;
    let report = verify(&scene.stage.folder(), VerifyOptions::default());
    let kinds: Vec<_> = report.findings.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, vec![FindingKind::Unread; moved as usize]);
    assert!(report.findings[0].what.contains("audit.archive"));
    assert!(report.checkpoints > 0);
    // A number that is not among what was read is not said to be missing.
    assert!(report.unread > 0 && !report.complete());
    // Nothing of it is known to be wrong.
    assert!(!report.intact());
    assert_eq!(report.verdict(), None);
    let signed = report.checkpoint.as_ref().map(|c| c.size);
    assert_eq!(Some(report.records + report.unread), signed);
    assert!(report.streams.iter().all(|s| s.missing.is_empty()));
    assert!(report.streams.iter().any(|s| !s.unknown.is_empty()));
    scene.stage.store = None;
    scene.stage.restart();
    let error = scene.log().leaf(0).unwrap_err();
    assert_eq!(why(&error), Some(Why::Unset));
    assert_eq!(error.diagnostic().code.0, 7585);
}

/// An object is put once. What is there with other bytes is told and stays, and so does the
/// segment.
#[test]
fn an_object_is_never_written_over() {
    let scene = Scene::new();
    let (segment, _) = scene.log().movable(&mut Vec::new()).swap_remove(0);
    let stop = scene.log().move_away(&segment, &mut |at| match at {
        Step::Put => Err(Error::other(Crash)),
        _ => Ok(()),
    });
    assert!(stop.is_err());
    let object = scene.objects()[0].clone();
    let bytes = fs::read(&object).unwrap();
    fs::write(&object, b"another's").unwrap();
    let error = scene
        .log()
        .move_away(&segment, &mut |_| Ok(()))
        .unwrap_err();
    assert_eq!(why(&error), Some(Why::Altered));
    assert_eq!(fs::read(&object).unwrap(), b"another's");
    assert!(scene.stage.segment(segment.start).exists());
    // One that is there with the same bytes is as good.
    fs::write(&object, &bytes).unwrap();
    scene.log().move_away(&segment, &mut |_| Ok(())).unwrap();
    scene.whole();
}

/// What is not what was signed does not go.
#[test]
fn a_damaged_segment_stays() {
    let scene = Scene::new();
    let (segment, _) = scene.log().movable(&mut Vec::new()).swap_remove(0);
    let path = scene.stage.segment(segment.start);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = scene
        .log()
        .move_away(&segment, &mut |_| Ok(()))
        .unwrap_err();
    assert!(matches!(error, LogError::Tampered(_)), "{error}");
    assert!(path.exists());
    assert!(scene.objects().is_empty());
}

/// What stays is believed only where the log says that it does.
#[test]
fn a_stub_that_nobody_signed_is_told() {
    let mut scene = Scene::new();
    scene.run("30 days");
    let dir = scene.stage.folder();
    let mut moved = Stub::read(&dir, 0).unwrap().moved;
    moved.said.clear();
    moved.latest_us += 1;
    Stub::new(moved).unwrap().save(&dir).unwrap();
    assert_eq!(scene.kinds(), [FindingKind::Archive]);
    scene.stage.restart();
    // Whoever asks is told, not only the first.
    for _ in 0..2 {
        let error = scene.log().leap(None, 0).unwrap_err();
        assert!(
            matches!(&error, LogError::Tampered(d) if d.what.contains("no record of the log says")),
            "{error}"
        );
    }
}

/// Its time over, a record goes out of the archive, too: another object, and the old one is
/// deleted.
#[test]
fn what_is_dropped_leaves_the_archive() {
    let mut scene = Scene::new();
    scene.run("30 days");
    let before = scene.objects();
    let decisions = |objects: &[PathBuf]| objects.iter().map(|o| old_decisions(o)).sum::<usize>();
    assert_eq!(decisions(&before), 12);
    scene.stage.restart();
    scene.stage.clock.advance(30 * DAY);
    let fetched = |scene: &Scene| scene.log().archive().unwrap().health().fetched;
    let outcome = scene.stage.run();
    assert_eq!(outcome.faults, [""; 0]);
    assert_eq!(outcome.dropped["decision"].records, 12);
    assert_eq!(fetched(&scene), before.len() as u64, "each is fetched once");
    let after = scene.objects();
    assert_eq!(after.len(), before.len());
    assert!(before.iter().any(|object| !after.contains(object)));
    for object in &after {
        assert_eq!(old_decisions(object), 0, "only administration stays");
    }
    assert!(
        scene
            .stage
            .paths()
            .iter()
            .all(|path| !path.starts_with("/old"))
    );
    assert_eq!(scene.stage.count("admin"), 20);
    scene.whole();
    // Nothing more is over, and nothing is fetched to find that.
    scene.stage.restart();
    assert_eq!(scene.stage.run().records(), 0);
    assert_eq!(fetched(&scene), 0);
    // The old object put back is no way back.
    assert_eq!(scene.run("30 days").faults, [""; 0]);
    scene.whole();
}

/// An object with what was dropped that cannot be deleted is told until it can.
#[test]
fn an_old_object_that_stays_is_told_until_it_is_gone() {
    let mut scene = Scene::new();
    scene.run("30 days");
    let before = scene.objects();
    scene.stage.clock.advance(30 * DAY);
    scene.stage.restart();
    // It is fetched by then, and the store goes away.
    scene.leaves();
    let gone = scene.store.path().with_extension("away");
    scene.log().bring_back(0, 0, &mut |_| Ok(())).unwrap();
    fs::rename(scene.store.path(), &gone).unwrap();
    let outcome = scene.stage.run();
    assert!(outcome.records() > 0);
    let outcome = scene.run("30 days");
    assert!(
        outcome
            .faults
            .iter()
            .any(|f| f.contains("cannot be deleted")),
        "{outcome:?}"
    );
    fs::rename(&gone, scene.store.path()).unwrap();
    assert!(scene.objects().contains(&before[0]));
    scene.believe_again();
    let outcome = scene.run("30 days");
    assert_eq!(outcome.faults, [""; 0]);
    assert!(!scene.objects().contains(&before[0]));
    scene.whole();
}

#[test]
fn times_are_whole_days() {
    for good in ["30 days", "0 days", "2 months", "1y", "6w"] {
        assert_eq!(After::parse(good).unwrap().text(), good);
    }
    for bad in ["", "soon", "12 h", "-3 days", "101y", "1 day 2 hours"] {
        assert_eq!(After::parse(bad).unwrap_err().code.0, 7580, "{bad}");
    }
}
