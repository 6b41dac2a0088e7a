//! What somebody who has no key has taken out, or written, is named and never signed for.

use std::collections::BTreeSet;

use palisade_mesh::{
    spiffe_id::SpiffeId,
    wire::{
        audit::Envelope,
        record::{Dropping, LogLifecycle},
    },
};

use super::*;
use crate::merkle::{self, leaf};

/// The same segment, dropped by whoever can write the file but not the log.
#[test]
fn what_was_dropped_without_a_record_of_it_is_named() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(61 * DAY);
    stage.fill();
    stage.log().close();
    let before = tempfile::tempdir().unwrap();
    copy(&stage.folder(), before.path());
    stage.restart();
    stage.run();
    stage.log().close();
    assert_eq!(stage.check().findings, []);
    let first = stage.log().lacking()[0].segment;
    let name = segment::relative(first);
    std::fs::copy(stage.folder().join(&name), before.path().join(&name)).unwrap();
    let report = verify(before.path(), VerifyOptions::default());
    let damage = report.first_damage().unwrap();
    assert_eq!(
        (damage.kind, damage.leaf),
        (FindingKind::Dropped, Some(first))
    );
    assert!(!report.intact());
}

/// Each byte of a segment from which records were dropped.
#[test]
fn whatever_is_changed_in_such_a_segment_is_named() {
    let mut stage = Stage::of_old(4);
    stage.clock.advance(61 * DAY);
    stage.fill();
    stage.run();
    stage.log().close();
    let first = stage.log().lacking()[0].segment;
    let path = stage.folder().join(segment::relative(first));
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        assert!(!stage.check().intact(), "byte {at} of {}", good.len());
    }
    // A hash is changed, and all that is around it made to fit.
    let sparse = {
        let file = std::fs::File::open(&path).unwrap();
        std::fs::write(&path, &good).unwrap();
        segment::sparse_of(&file).unwrap().unwrap()
    };
    let mut forged = sparse.clone();
    *forged.last_mut().unwrap() ^= 1;
    let mut frame = Vec::new();
    segment::frame_sparse(&mut frame, &forged);
    let start = segment::HEADER_LEN as usize;
    let mut bytes = good.clone();
    bytes[start..start + frame.len()].copy_from_slice(&frame);
    std::fs::write(&path, bytes).unwrap();
    let damage = stage.check().first_damage().unwrap().clone();
    assert_eq!(
        (damage.kind, damage.leaf),
        (FindingKind::Dropped, Some(first))
    );
    std::fs::write(&path, &good).unwrap();
    assert!(stage.check().intact());
}

/// Replaces the segment that begins with `first` by one that lacks `gone`, as whoever can
/// write the files and has no key would: every hash is right.
fn forge(stage: &Stage, first: u64, gone: impl Fn(u64) -> bool) {
    let log = stage.log();
    let span = log.sealed().into_iter().find(|span| span.start == first);
    let mut sum = segment::SparseSum::default();
    let (mut builder, mut frames) = (segment::GoneBuilder::default(), Vec::new());
    let end = |run: Option<Vec<u8>>, frames: &mut Vec<u8>, sum: &mut segment::SparseSum| {
        if let Some(run) = run {
            sum.run(&run);
            segment::frame_gone(frames, &run);
        }
    };
    for index in span.unwrap() {
        let bytes = log.leaf(index).unwrap();
        match gone(index) {
            true => {
                let envelope = crate::envelope::EnvelopeRef::decode(&bytes).unwrap();
                let peek = crate::envelope::RecordPeek::new(envelope.record).unwrap();
                let record = segment::GoneRecord::of(leaf(&bytes), &envelope, peek.class, 5);
                sum.count(peek.class, 5);
                end(builder.push(index, &record), &mut frames, &mut sum);
            }
            false => {
                end(builder.finish(), &mut frames, &mut sum);
                segment::frame(&mut frames, |buf| buf.extend_from_slice(&bytes));
            }
        }
    }
    end(builder.finish(), &mut frames, &mut sum);
    let path = stage.segment(first);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(segment::HEADER_LEN as usize);
    segment::frame_sparse(&mut bytes, &sum.encode());
    bytes.extend(frames);
    std::fs::write(&path, bytes).unwrap();
    let _ = std::fs::remove_file(path.with_extension("idx"));
}

/// What somebody has taken out of a segment is not signed over by the next run.
#[test]
fn a_run_does_not_sign_for_what_another_has_taken_out() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let first = stage.log().sealed()[0].start;
    // Something that an operator did, whose time is not over.
    let admin = stage.log().scan(first).map(Result::unwrap);
    let mut admin = admin.filter(|e| matches!(e.record.body, Some(Body::Admin(_))));
    let admin = admin.next().unwrap().index;
    assert!(stage.log().sealed()[0].contains(&admin));
    forge(&stage, first, |index| index == admin);
    stage.restart();
    let forged = std::fs::read(stage.segment(first)).unwrap();
    let done = stage.run();
    assert_eq!(done.faults.len(), 1, "{:?}", done.faults);
    assert!(
        done.faults[0].contains("no record of the log says so"),
        "{:?}",
        done.faults
    );
    assert!(done.records() > 0, "the others are done");
    assert_eq!(std::fs::read(stage.segment(first)).unwrap(), forged);
    assert_eq!(stage.kinds(), [(FindingKind::Dropped, Some(first))]);
}

/// Appends a record that the log seems to say of itself, as whoever can write the files would
/// while no service runs.
fn append_forged(stage: &mut Stage, said: LogLifecycle) {
    stage.log = None;
    let firsts = segment::list(&stage.folder()).unwrap();
    let record = Record {
        id: new_ulid(&stage.clock).to_bytes().to_vec(),
        time_us: stage.clock.now_us(),
        reporter: "spiffe://acme.test/palisade/audit".into(),
        body: Some(Body::LogLifecycle(said)),
        ..Record::default()
    };
    let stream = StreamKey {
        reporter: SpiffeId::parse(&record.reporter).unwrap(),
        boot: new_ulid(&stage.clock),
        worker: u32::MAX,
    };
    let envelope = Envelope {
        version: 1,
        stream: Some(stream.to_wire()),
        sequence: 1,
        received_us: stage.clock.now_us(),
        salt: vec![7; 16],
        record: record.encode_to_vec().into(),
        sealed: None,
    };
    let path = stage.segment(*firsts.last().unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    segment::frame(&mut bytes, |buf| envelope.encode(buf).unwrap());
    std::fs::write(&path, bytes).unwrap();
    stage.restart();
    stage.signed();
}

/// What a start finds unsigned tells of nothing that was done, whoever wrote it: it is signed
/// with the log, and counts for nothing.
#[test]
fn a_record_that_nobody_had_signed_explains_nothing() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let first = stage.log().sealed()[1].start;
    let whole = std::fs::read(stage.segment(first)).unwrap();
    forge(&stage, first, |index| index == first);
    let forged = std::fs::File::open(stage.segment(first)).unwrap();
    let sparse = segment::sparse_of(&forged).unwrap().unwrap();
    let dropping = Dropping {
        segment: first,
        digest: merkle::sha256(&sparse).to_vec(),
        previous: Vec::new(),
    };
    append_forged(
        &mut stage,
        LogLifecycle {
            verb: "records_dropped".into(),
            dropping: Some(dropping),
            ..LogLifecycle::default()
        },
    );
    let done = stage.run();
    assert_eq!(done.faults.len(), 1, "{:?}", done.faults);
    assert!(done.records() > 0, "the others are done");
    stage.log().close();
    assert_eq!(stage.kinds(), [(FindingKind::Dropped, Some(first))]);
    std::fs::write(stage.segment(first), whole).unwrap();
    let _ = std::fs::remove_file(stage.segment(first).with_extension("idx"));
    assert_eq!(stage.check().findings, []);
    // Nor does one that says that what was signed counts for nothing.
    append_forged(
        &mut stage,
        LogLifecycle {
            verb: "records_unsigned".into(),
            unsigned_from: Some(0),
            ..LogLifecycle::default()
        },
    );
    stage.log().close();
    assert_eq!(stage.check().findings, []);
}

/// Offsets lie beside a segment, unsigned: the frame says whether a record was dropped.
#[test]
fn offsets_that_lie_hide_no_record() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(61 * DAY);
    stage.fill();
    stage.run();
    let lacking = stage.log().lacking();
    let mut hidden = 0;
    for span in stage.log().sealed() {
        let path = stage.segment(span.start);
        let file = Arc::new(std::fs::File::open(&path).unwrap());
        let len = file.metadata().unwrap().len();
        let dropped = stage.log().dropped_from(span.start).unwrap();
        let is_gone = |index: &u64| dropped.iter().any(|range| range.contains(index));
        let there: Vec<u64> = span.clone().filter(|index| !is_gone(index)).collect();
        let Some(hide) = there.windows(2).find(|two| two[0] + 1 == two[1]) else {
            continue;
        };
        let hide = hide[0];
        let count = span.end - span.start;
        let good = segment::Offsets::load(&path, &file, span.start, count).unwrap();
        let mut forged = segment::Offsets::empty();
        let start = good.get(0).unwrap().0;
        if start > segment::HEADER_LEN {
            forged.begin(start);
        }
        for index in span.clone() {
            let (start, end) = good.get(index - span.start).unwrap();
            forged.push(if index == hide { start } else { end });
        }
        assert_eq!((forged.len(), forged.end()), (count, len));
        forged.save(&path).unwrap();
        stage.restart();
        let read = stage.log().read(hide);
        assert!(matches!(read, Err(LogError::Tampered(_))), "{read:?}");
        good.save(&path).unwrap();
        stage.restart();
        assert!(stage.log().read(hide).is_ok());
        for gone in dropped.into_iter().flatten() {
            let read = stage.log().read(gone);
            assert!(matches!(read, Err(LogError::Dropped { .. })), "{read:?}");
        }
        hidden += 1;
    }
    assert!(hidden > 0 && !lacking.is_empty());
}

/// The same in a segment from which a run has dropped something before.
#[test]
fn what_is_added_to_what_was_dropped_is_not_signed_for_either() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let first = stage.log().sealed()[0].start;
    let whole = std::fs::read(stage.segment(first)).unwrap();
    stage.run();
    assert_eq!(stage.check().findings, []);
    let before = stage.log().dropped_from(first).unwrap();
    assert!(!before.is_empty());
    // Back to the whole one, to take out more than was told.
    let thinned = std::fs::read(stage.segment(first)).unwrap();
    std::fs::write(stage.segment(first), &whole).unwrap();
    stage.restart();
    let admins: BTreeSet<u64> = stage
        .log()
        .scan(0)
        .map(Result::unwrap)
        .filter(|entry| matches!(entry.record.body, Some(Body::Admin(_))))
        .map(|entry| entry.index)
        .collect();
    let was = |index: u64| before.iter().any(|range| range.contains(&index));
    forge(&stage, first, |index| was(index) || admins.contains(&index));
    stage.restart();
    stage.clock.advance(300 * DAY);
    let done = stage.run();
    assert_eq!(done.faults.len(), 1, "{:?}", done.faults);
    assert!(stage.kinds().contains(&(FindingKind::Dropped, Some(first))));
    std::fs::write(stage.segment(first), &thinned).unwrap();
    let _ = std::fs::remove_file(stage.segment(first).with_extension("idx"));
    stage.restart();
    stage.run();
    assert_eq!(stage.check().findings, []);
}

/// What proves the rest is never dropped, whoever says so.
#[test]
fn what_is_always_kept_is_missed() {
    let mut stage = Stage::new();
    stage.fill();
    let first = stage.log().sealed()[0].start;
    // The first record of a log says that it was opened.
    assert_eq!(first, 0);
    forge(&stage, first, |index| index == 0);
    stage.log().close();
    let report = stage.check();
    let whats: Vec<&str> = report.findings.iter().map(|f| f.what.as_str()).collect();
    assert!(
        whats.contains(&"a record of the class log_lifecycle is never dropped"),
        "{whats:?}"
    );
    stage.restart();
    let weighed = Thinning::weigh(
        stage.log(),
        stage.log().sealed()[0].clone(),
        i64::MAX,
        |_, _, _, _| Fate::Drop,
    );
    let told = weighed.unwrap_err().to_string();
    assert!(told.contains("never dropped"), "{told}");
}
