//! Segments that are not as was told: put back, or done by others later.

use super::*;

/// A segment that is put back has what the log says is dropped.
#[test]
fn a_segment_that_is_put_back_is_named() {
    let mut stage = Stage::of_old(12);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let first = stage.log().sealed()[0].start;
    let whole = std::fs::read(stage.segment(first)).unwrap();
    stage.run();
    let thinned = stage.log().lacking();
    assert!(thinned.len() > 1 && thinned[0].segment == first);
    stage.log().close();
    assert_eq!(stage.check().findings, []);
    std::fs::write(stage.segment(first), whole).unwrap();
    let report = stage.check();
    let named: Vec<_> = report.findings.iter().map(|f| (f.kind, f.leaf)).collect();
    assert_eq!(named, [(FindingKind::Dropped, Some(first))]);
    assert!(report.findings[0].what.contains("put back"));
    assert!(!report.intact());
}

/// The last of a run as well, once the run has ended, and the next run does not pass it over.
#[test]
fn the_segment_that_was_thinned_last_cannot_be_put_back_either() {
    let mut stage = Stage::of_old(12);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let whole: BTreeMap<u64, Vec<u8>> = stage
        .log()
        .sealed()
        .into_iter()
        .map(|span| {
            (
                span.start,
                std::fs::read(stage.segment(span.start)).unwrap(),
            )
        })
        .collect();
    stage.run();
    let last = stage.log().lacking().last().unwrap().segment;
    let thinned = std::fs::read(stage.segment(last)).unwrap();
    stage.log().close();
    assert_eq!(stage.check().findings, []);
    std::fs::write(stage.segment(last), &whole[&last]).unwrap();
    let _ = std::fs::remove_file(stage.segment(last).with_extension("idx"));
    assert_eq!(stage.kinds(), [(FindingKind::Dropped, Some(last))]);
    stage.restart();
    let told = stage.run();
    assert_eq!(told.faults.len(), 1, "{:?}", told.faults);
    assert!(told.faults[0].contains("put back"), "{:?}", told.faults);
    stage.log().close();
    std::fs::write(stage.segment(last), &thinned).unwrap();
    let _ = std::fs::remove_file(stage.segment(last).with_extension("idx"));
    stage.restart();
    assert_eq!(stage.run().faults, [""; 0]);
    stage.log().close();
    assert_eq!(stage.check().findings, []);
}

/// What was recorded and not done is recorded as that: who does it later is named.
#[test]
fn what_was_told_and_not_done_cannot_be_done_by_others_later() {
    for (point, crash) in [
        (Point::Recorded, true),
        (Point::Unindexed, true),
        (Point::Recorded, false),
        (Point::Unindexed, false),
    ] {
        let mut stage = Stage::new();
        for n in 0..6 {
            stage.request(&format!("/old/{n}"), 200);
        }
        stage.clock.advance(61 * DAY);
        stage.fill();
        // What the run would have put there.
        let twin = tempfile::tempdir().unwrap();
        let first = stage.log().sealed()[0].start;
        let aside = stage.segment(first).with_extension("sparse");
        let whole = std::fs::read(stage.segment(first)).unwrap();
        stage.run_of(
            &periods(&[("decision", "60 days")]),
            false,
            Some((point, crash)),
        );
        if crash {
            std::fs::copy(&aside, twin.path().join("new")).unwrap();
            stage.restart();
        }
        stage.signed();
        assert!(!aside.exists());
        let left = stage.log().scan(0).map(Result::unwrap).filter(|entry| {
            matches!(&entry.record.body, Some(Body::LogLifecycle(l)) if l.verb == "records_left")
        });
        assert!(left.count() > 0, "{point:?} {crash}");
        assert_eq!(std::fs::read(stage.segment(first)).unwrap(), whole);
        stage.log().close();
        assert_eq!(stage.check().findings, [], "{point:?} {crash}");
        if crash {
            std::fs::copy(twin.path().join("new"), stage.segment(first)).unwrap();
            assert_eq!(stage.kinds(), [(FindingKind::Dropped, Some(first))]);
            std::fs::write(stage.segment(first), &whole).unwrap();
        }
        stage.restart();
        assert_eq!(stage.run().records(), 12, "the next run does it");
        stage.log().close();
        assert_eq!(stage.check().findings, []);
    }
}

/// The leftover of a crash whose word is lost is settled by the next run.
#[test]
fn a_run_settles_what_an_earlier_process_has_left() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(61 * DAY);
    stage.fill();
    stage.run_of(&usual(), false, Some((Point::Recorded, true)));
    for entry in std::fs::read_dir(stage.folder().join("segments")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "sparse") {
            std::fs::remove_file(path).unwrap();
        }
    }
    stage.signed();
    stage.log().close();
    let report = stage.check();
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert!(report.intact(), "it may be done yet");
    stage.restart();
    stage.run();
    stage.log().close();
    assert_eq!(stage.check().findings, []);
}
