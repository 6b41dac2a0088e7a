//! Segments and tiles that are damaged: what is named, and what goes on.

use super::*;

/// A segment that is not what was signed is left as it is, and named; the others are done.
#[test]
fn a_damaged_segment_is_not_touched() {
    let mut stage = Stage::of_old(12);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let sealed = stage.log().sealed();
    let path = stage.folder().join(segment::relative(sealed[1].start));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let done = stage.run();
    assert_eq!(done.faults.len(), 1, "{:?}", done.faults);
    assert!(done.records() > 0 && done.records() < 24);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let last = stage.ledger.unwrap().last.unwrap();
    assert!(last.faults[0].contains("tampered"));
}

/// One flipped bit in each place of what was dropped: what follows is read as before.
#[test]
fn damage_to_what_was_dropped_does_not_hide_what_follows() {
    let mut stage = Stage::new();
    for _ in 0..6 {
        let id = new_ulid(&stage.clock);
        stage.append(vec![(id, Body::Decision(Decision::default()))]);
    }
    stage.request("/stays", 200);
    stage.clock.advance(61 * DAY);
    stage.fill();
    stage.run();
    stage.log().close();
    let first = stage.log().lacking()[0].segment;
    let path = stage.segment(first);
    let good = std::fs::read(&path).unwrap();
    let whole = stage.check();
    assert_eq!(whole.findings, []);
    let start = segment::HEADER_LEN as usize;
    let next = |at: &usize| {
        let (len, _) = segment::frame_header(*good.get(*at..)?.first_chunk()?);
        Some(at + segment::FRAME_HEADER_LEN + len as usize)
    };
    let frames: Vec<usize> = std::iter::successors(Some(start), next)
        .take_while(|at| *at < good.len())
        .collect();
    for (n, from) in frames.iter().enumerate() {
        let content = good[from + segment::FRAME_HEADER_LEN];
        if content == 0 {
            continue;
        }
        let to = frames.get(n + 1).copied().unwrap_or(good.len());
        // Length, CRC, kind, and what is said.
        for at in (*from..to).step_by(5) {
            let mut bytes = good.clone();
            bytes[at] ^= 16;
            std::fs::write(&path, bytes).unwrap();
            let report = stage.check();
            let named: Vec<_> = report.findings.iter().map(|f| (f.kind, f.offset)).collect();
            assert!(
                named.contains(&(FindingKind::Record, Some(*from as u64))),
                "byte {at}: {named:?}"
            );
            assert_eq!(named.len(), 1, "byte {at}: {:?}", report.findings);
            if n + 1 < frames.len() {
                assert_eq!(report.records, whole.records, "byte {at}");
            }
        }
    }
}

/// Segments that are damaged, however many, keep no other from being done.
#[test]
fn many_damaged_segments_do_not_end_a_run() {
    let mut stage = Stage::of_old(60);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let sealed = stage.log().sealed();
    let damaged = FAULTS_MAX + 2;
    assert!(sealed.len() > damaged + 2, "{}", sealed.len());
    for span in &sealed[..damaged] {
        let path = stage.segment(span.start);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let done = stage.run();
    assert_eq!(done.faults.len(), damaged, "{:?}", done.faults);
    assert!(!done.interrupted && done.records() > 0);
    let last = sealed.iter().rposition(|span| {
        let dropped = stage.log().dropped_from(span.start);
        dropped.is_ok_and(|ranges| !ranges.is_empty())
    });
    assert!(last.unwrap() >= damaged, "those after them are done");
}

/// Segments that the disk refuses, however many, keep others waiting for a run, and no longer.
#[test]
fn segments_that_cannot_be_read_do_not_end_every_run() {
    let mut stage = Stage::of_old(60);
    stage.fill();
    // What was dropped before is known by now.
    assert_eq!(stage.run().faults, [""; 0]);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let sealed = stage.log().sealed();
    let refused = FAULTS_MAX + 2;
    assert!(sealed.len() > refused + 2, "{}", sealed.len());
    for span in &sealed[..refused] {
        let path = stage.segment(span.start);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
    }
    let first = stage.run();
    assert_eq!(first.faults.len(), FAULTS_MAX, "{:?}", first.faults);
    assert!(first.interrupted && first.again && first.records() == 0);
    let second = stage.run();
    assert!(second.records() > 0, "{:?}", second.faults);
    assert!(second.faults.len() >= 2 && second.again);
}

/// A tile that rotted accuses no record: those lead to what was signed, and it is made again.
#[test]
fn a_tile_that_rotted_does_not_accuse_the_records() {
    let mut stage = Stage::of_old(100);
    stage.clock.advance(61 * DAY);
    stage.fill();
    assert!(stage.log().len() > 256);
    let tile = stage.folder().join("tile/0/000");
    let sound = std::fs::read(&tile).unwrap();
    let mut rotten = sound.clone();
    rotten[70] ^= 1;
    std::fs::write(&tile, &rotten).unwrap();
    let outcome = stage.run();
    assert_eq!(outcome.faults, [""; 0]);
    assert!(outcome.records() > 0);
    assert_eq!(std::fs::read(&tile).unwrap(), sound);
    // A record that is another is told as that still.
    std::fs::write(&tile, &rotten).unwrap();
    alter_record(&stage.segment(0), 0);
    let span = stage.log().sealed().remove(0);
    let weighed = Thinning::weigh(stage.log(), span, i64::MAX, |_, _, _, _| Fate::Keep);
    assert!(matches!(weighed, Err(LogError::Tampered(_))));
    assert!(std::fs::read(&tile).unwrap() == rotten);
}
