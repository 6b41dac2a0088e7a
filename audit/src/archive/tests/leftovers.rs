//! What was dropped is nowhere any more.

use super::*;
use crate::retention::{Periods, tests::periods};

/// Whatever is about `/old/*` goes after 60 days.
fn all() -> Periods {
    periods(&[
        ("decision", "60 days"),
        ("outcome", "60 days"),
        ("admin", "60 days"),
    ])
}

impl Scene {
    /// One whose cache has room for everything.
    fn roomy() -> Self {
        let mut scene = Self::new();
        scene.stage.cache_bytes = 1 << 30;
        scene.stage.restart();
        scene
    }

    /// How many files that were fetched tell of `/old/*`.
    fn cached_old(&self) -> usize {
        let has = |path: &PathBuf| {
            let bytes = fs::read(path).unwrap();
            bytes.windows(5).any(|part| part == b"/old/")
        };
        self.cached().iter().filter(|path| has(path)).count()
    }
}

/// What was fetched of a segment goes when it is thinned, and so does what a crash has left
/// of that.
#[test]
fn what_is_dropped_leaves_what_was_fetched() {
    let mut scene = Scene::roomy();
    scene.run("30 days");
    scene.stage.restart();
    scene.leaves();
    let fetched = scene.cached();
    assert!(scene.cached_old() > 3);
    let name = fetched[0].file_name().unwrap().to_str().unwrap();
    let part = format!("{name}.{}-99.part", std::process::id());
    fs::write(fetched[0].with_file_name(&part), b"/old/3").unwrap();
    let another = "00000000000000999999-0011223344556677.seg";
    fs::write(fetched[0].with_file_name(another), b"/old/3").unwrap();
    scene.stage.clock.advance(30 * DAY);
    let outcome = scene.stage.run_of(&all(), false, None);
    assert_eq!(outcome.faults, [""; 0]);
    assert!(outcome.dropped["admin"].records >= 12);
    assert_eq!(scene.cached_old(), 0, "{:?}", scene.cached());
    scene.whole();
}

/// To see whether something is over leaves nothing beside the log.
#[test]
fn what_is_weighed_is_not_kept() {
    let mut scene = Scene::roomy();
    scene.run("30 days");
    scene.stage.clock.advance(30 * DAY);
    scene.stage.restart();
    let outcome = scene.stage.run_of(&all(), true, None);
    assert!(outcome.records() > 30);
    assert!(scene.log().archive().unwrap().health().fetched > 3);
    assert_eq!(scene.cached(), Vec::<PathBuf>::new());
}

/// What was fetched of a segment that came back goes: it may lack something soon.
#[test]
fn what_was_fetched_goes_when_the_segment_is_here() {
    let scene = Scene::roomy();
    scene.run("30 days");
    scene.leaves();
    assert!(!scene.cached().is_empty());
    scene.restore();
    assert_eq!(scene.cached(), Vec::<PathBuf>::new());
}

/// Somebody who fetches while the segment becomes another has what they asked for, and leaves
/// nothing of it.
#[test]
fn what_is_being_fetched_of_a_segment_that_is_thinned_does_not_stay() {
    let mut scene = Scene::roomy();
    scene.run("30 days");
    scene.stage.restart();
    let log = scene.log().clone();
    let segment = log.moved(&mut Vec::new()).unwrap()[0].segment.clone();
    let archive = log.archive().unwrap().clone();
    archive.meanwhile(move || {
        log.bring_back(segment.start, 0, &mut |_| Ok(())).unwrap();
    });
    scene.log().leaf(0).unwrap();
    assert_eq!(archive.health().fetched, 2);
    assert_eq!(scene.cached(), Vec::<PathBuf>::new());
}

/// What was to take the place of a segment when a process ended, in a copy of the folder that
/// has it beside a segment which went since, keeps no start from succeeding.
#[test]
fn what_a_thinning_has_left_beside_a_segment_that_went_is_no_obstacle() {
    let mut scene = Scene::new();
    let (segment, _) = scene.log().movable(&mut Vec::new()).swap_remove(0);
    scene.stage.clock.advance(30 * DAY);
    let crash = (crate::log::Point::Recorded, true);
    scene.stage.run_of(&all(), false, Some(crash));
    let aside = scene.stage.segment(segment.start).with_extension("sparse");
    let left = fs::read(&aside).unwrap();
    scene.stage.restart();
    assert_eq!(scene.run("30 days").faults, [""; 0]);
    assert!(scene.log().is_away(segment.start));
    scene.log().close();
    fs::write(&aside, left).unwrap();
    scene.stage.restart();
    scene.whole();
}
