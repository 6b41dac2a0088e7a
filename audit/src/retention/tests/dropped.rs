//! What is over goes, what is not stays, and the rest is proven.

use super::*;
use crate::merkle::{Hash, leaf, verify_inclusion};

/// Each side of the moment, by class; the rest is there, proven, after a restart, too.
#[test]
fn what_is_over_goes_and_what_is_not_stays_and_is_proven() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(60 * DAY);
    stage.fill();
    let root = stage.log().checkpoint();
    let leaves: Vec<Hash> = (0..root.size)
        .map(|i| leaf(&stage.log().leaf(i).unwrap()))
        .collect();
    assert_eq!(stage.run().records(), 0, "received exactly so long ago");
    stage.clock.advance(Duration::from_secs(1));
    let preview = stage.run_of(&usual(), true, None);
    assert_eq!(stage.count("decision"), 14, "a preview drops nothing");
    let done = stage.run();
    assert_eq!(done.dropped, preview.dropped);
    let of = |class: &str| done.dropped.get(class).map(|d| d.records);
    assert_eq!(
        (of("decision"), of("outcome"), of("admin")),
        (Some(6), Some(6), None)
    );
    assert_eq!(stage.count("admin"), 14);
    for _ in 0..2 {
        assert_eq!(stage.paths(), ["/new"; 8]);
        let log = stage.log();
        assert!(matches!(log.read(1), Err(LogError::Dropped { index: 1 })));
        assert!(log.received_us(1).unwrap() < log.received_us(log.len() - 1).unwrap());
        for index in 0..root.size {
            let proof = log.prove_under(index, root.size).unwrap();
            let hash = leaves[index as usize];
            verify_inclusion(&hash, index, root.size, &proof, &root.root).unwrap();
            if let Ok(bytes) = log.leaf(index) {
                assert_eq!(leaf(&bytes), hash);
            }
        }
        let report = stage.check();
        assert_eq!(report.findings, []);
        assert_eq!((report.dropped, report.intact()), (12, true));
        let stream = report
            .streams
            .iter()
            .find(|s| s.reporter == REPORTER)
            .unwrap();
        assert!(stream.missing.is_empty(), "dropped is not missing");
        assert_eq!((stream.records, stream.dropped), (42, 12));
        stage.restart();
    }
    assert_eq!(stage.run().records(), 0, "there is nothing left to do");
    stage.clock.advance(300 * DAY);
    stage.fill();
    stage.run();
    assert_eq!(stage.count("admin"), 8);
    assert_eq!(stage.check().findings, []);
}

/// Nothing that is derived is needed: tiles and positions of streams are made again.
#[test]
fn a_log_from_which_records_were_dropped_is_recovered_from_its_segments() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(61 * DAY);
    stage.fill();
    stage.run();
    let lacking = stage.log().lacking();
    assert!(!lacking.is_empty());
    let next = stage.next;
    stage.log = None;
    std::fs::remove_dir_all(stage.folder().join("tile")).unwrap();
    std::fs::remove_file(stage.folder().join("streams")).unwrap();
    for name in std::fs::read_dir(stage.folder().join("segments")).unwrap() {
        let path = name.unwrap().path();
        if path.extension().is_some_and(|e| e == "idx") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let left = stage.folder().join("segments/00000000000000000000.sparse");
    std::fs::write(&left, b"half").unwrap();
    stage.restart();
    assert!(!left.exists(), "what a crash left aside");
    assert_eq!(stage.log().lacking(), lacking);
    assert_eq!(stage.paths(), ["/new"; 8]);
    // A number that was used is not used again, though its record is gone.
    stage.next = 2;
    let len = stage.log().len();
    stage.request("/again", 200);
    assert_eq!(stage.paths(), ["/new"; 8]);
    assert_eq!(stage.log().len(), len);
    stage.next = next;
    stage.fill();
    let report = stage.check();
    assert_eq!(report.findings, []);
    assert_eq!(report.dropped, 12);
}

/// It ends between two segments, and the next goes on from there.
#[test]
fn a_run_that_is_interrupted_is_gone_on_with() {
    let mut stage = Stage::of_old(12);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let periods = usual();
    let mut ledger = Ledger::new(stage.log());
    let run = stage.plan(&periods);
    let mut turn = || {
        Ok(Turn {
            holds: Vec::new(),
            guard: None,
        })
    };
    let first = run.go(&mut ledger, &mut turn, &mut |far| match far.segments {
        0..2 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    let first = first.unwrap();
    assert!(first.interrupted && first.segments == 2);
    let rest = run.go(&mut ledger, &mut turn, &mut |_| ControlFlow::Continue(()));
    let rest = rest.unwrap();
    assert!(!rest.interrupted);
    assert_eq!(first.records() + rest.records(), 24);
    let file = stage.dir.path().join("ledger");
    ledger.save(&file).unwrap();
    let log = stage.log();
    assert_eq!(Ledger::load(&file, log), ledger);
    // One of another log, or of another version, says nothing of this one.
    let other = Stage::new();
    assert_eq!(Ledger::load(&file, other.log()), Ledger::new(other.log()));
    let text = std::fs::read_to_string(&file).unwrap();
    for other in [text.replace("\"version\":2", "\"version\":1"), "{".into()] {
        assert_ne!(other, text);
        std::fs::write(&file, other).unwrap();
        assert_eq!(Ledger::load(&file, log), Ledger::new(log));
    }
}

/// Records come first: what is written aside waits for room.
#[test]
fn nothing_is_written_aside_on_a_disk_that_is_nearly_full() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let len = stage.log().len();
    let free = stage.log().room_for(u64::MAX).unwrap_err();
    assert_eq!(free.kind(), std::io::ErrorKind::StorageFull);
    stage.log().room_for(1).unwrap();
    // A fault before the new one is in place leaves nothing aside.
    stage.run_of(&usual(), false, Some((Point::Written, false)));
    let left = std::fs::read_dir(stage.folder().join("segments")).unwrap();
    let left = left.map(|entry| entry.unwrap().path());
    assert_eq!(
        left.filter(|p| p.extension().is_some_and(|e| e == "sparse"))
            .count(),
        0
    );
    assert_eq!(stage.log().len(), len, "nothing was told");
}
