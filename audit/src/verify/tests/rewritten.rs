//! A log that whoever has its key wrote anew: each of its own signatures holds.

use palisade_mesh::{diagnostic::Severity, wire::audit::Envelope};
use prost::Message as _;

use super::*;
use crate::{
    checkpoint::{Checkpoint, origin},
    merkle::{self, Tree},
    note::Signer,
    testing::{REPORTER, Speaker, append, open_log},
};

/// Index and name of the leaf that has a record of a worker of [`REPORTER`].
fn place_of(leaves: &[Envelope], worker: u32, sequence: u64) -> usize {
    let is_it = |leaf: &Envelope| {
        let stream = leaf.stream.as_ref().unwrap();
        stream.reporter == REPORTER && stream.worker == worker && leaf.sequence == sequence
    };
    leaves.iter().position(is_it).unwrap()
}

/// Writes a log anew with other leaves, as if it had received these, and signs it with its key.
fn write_anew(dir: &TempDir, change: impl FnOnce(&mut Vec<Envelope>)) {
    let path = dir.path().join(segment_of(dir, 0).0);
    assert_eq!(segment::list(dir.path()).unwrap().len(), 1);
    let bytes = fs::read(&path).unwrap();
    let leaf = |(start, end): &(usize, usize)| {
        Envelope::decode(&bytes[start + segment::FRAME_HEADER_LEN + 1..*end]).unwrap()
    };
    let mut leaves: Vec<Envelope> = frames(&bytes).iter().map(leaf).collect();
    change(&mut leaves);
    let mut written = bytes[..segment::HEADER_LEN as usize].to_vec();
    let mut tree = Tree::new();
    for leaf in leaves {
        let leaf = leaf.encode_to_vec();
        segment::frame(&mut written, |buf| buf.extend_from_slice(&leaf));
        tree.push(merkle::leaf(&leaf));
    }
    fs::write(&path, written).unwrap();
    let key = dir.path().join("checkpoint.key");
    let signer = Signer::load(&key, &origin("acme.test"), false).unwrap();
    let time = jiff::Timestamp::from_second(1_800_000_000).unwrap();
    let signed = Checkpoint::sign(&signer, tree.size(), tree.root(), time).unwrap();
    for file in ["checkpoint", "checkpoints"] {
        fs::write(dir.path().join(file), &signed.note).unwrap();
    }
    fs::remove_dir_all(dir.path().join("tile")).unwrap();
}

/// A log in which a start of a reporter has said how far it was after each three records of a
/// worker, and another worker of it speaks in between.
async fn told_three_times() -> (TempDir, Speaker) {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    let mut web = Speaker::new(1);
    let mut records = Vec::new();
    for _ in 0..3 {
        records.extend(web.decides(0, 3));
        records.extend(web.decides(1, 2));
        records.push(web.heads());
    }
    append(&log, records).await;
    log.close();
    (dir, web)
}

/// What is found of such a log that was written anew.
async fn found_in(change: impl FnOnce(&mut Vec<Envelope>)) -> (VerifyReport, Speaker) {
    let (dir, web) = told_three_times().await;
    write_anew(&dir, change);
    (check(&dir), web)
}

/// The words about records that are not what was signed, with which index of the log they came
/// to light.
fn contradictions(report: &VerifyReport) -> Vec<&str> {
    let found = report.findings.iter().map(|finding| {
        let of = (finding.severity, finding.kind);
        assert_eq!(of, (Severity::Error, FindingKind::Heads), "{finding:?}");
        assert!(finding.leaf.is_some() && finding.file.ends_with(".seg"));
        finding.what.as_str()
    });
    found.collect()
}

/// Nobody else has the key of the log; what is signed with it is believed as far as no reporter
/// contradicts.
#[tokio::test]
async fn a_log_that_was_written_anew_as_it_was_is_no_finding() {
    let (report, _) = found_in(|_| {}).await;
    assert_eq!(report.findings, []);
    assert!(report.intact() && report.complete());
}

/// A record that stands twice is named at its second place, wherever that is, whether the two
/// are alike or not, and though every signature of the log holds. It counts once.
#[tokio::test]
async fn a_record_that_is_in_the_log_twice_is_named() {
    type Forge = fn(&mut Envelope);
    let alike: Forge = |_| {};
    let received_later: Forge = |again| {
        again.received_us += 5;
        again.salt = vec![9; 16];
    };
    let other: Forge = |again| again.record = encoded(77);
    // Behind itself, behind the heads that are about it, and at the end.
    for (behind, forge) in [((0, 2), alike), ((1, 3), received_later), ((1, 6), other)] {
        let mut second = 0;
        let (report, web) = found_in(|leaves| {
            let first = place_of(leaves, 0, 2);
            let mut again = leaves[first].clone();
            forge(&mut again);
            second = place_of(leaves, behind.0, behind.1) + 1;
            leaves.insert(second, again);
        })
        .await;
        let finding = report.first_damage().unwrap();
        assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
        assert_eq!(
            (finding.severity, finding.kind, finding.leaf),
            (Severity::Error, FindingKind::Duplicate, Some(second as u64))
        );
        let record = finding.record.as_ref().unwrap();
        assert_eq!(
            (record.reporter.as_str(), record.boot.as_str()),
            (REPORTER, web.boot.to_string().as_str())
        );
        assert_eq!((record.worker, record.sequence), (0, 2));
        assert_eq!(record.class, "decision");
        assert!(finding.what.contains("is in the log before"), "{finding:?}");
        assert!(!report.intact() && report.verdict() == Some(false));
        let json = serde_json::to_value(finding).unwrap();
        assert_eq!(json["kind"], "duplicate");
    }
}

/// Heads that stand twice are named as any record that does.
#[tokio::test]
async fn heads_that_are_in_the_log_twice_are_named() {
    let (report, _) = found_in(|leaves| {
        let again = leaves[place_of(leaves, Speaker::OWN, 2)].clone();
        leaves.push(again);
    })
    .await;
    let found: Vec<_> = report.findings.iter().map(|f| f.kind).collect();
    assert_eq!(found, [FindingKind::Duplicate]);
    let record = report.findings[0].record.as_ref().unwrap();
    assert_eq!(
        (record.worker, record.sequence, record.class.as_str()),
        (Speaker::OWN, 2, "stream_heads")
    );
}

/// Records that have exchanged their contents, or their numbers, are named by stream and by the
/// numbers that were signed together; the other stream and the numbers around them are not.
#[tokio::test]
async fn records_that_have_changed_places_are_named() {
    let contents = |leaves: &mut Vec<Envelope>| {
        let (one, other) = (place_of(leaves, 0, 4), place_of(leaves, 0, 5));
        let record = leaves[one].record.clone();
        leaves[one].record = leaves[other].record.clone();
        leaves[other].record = record;
    };
    let numbers = |leaves: &mut Vec<Envelope>| {
        let (one, other) = (place_of(leaves, 0, 4), place_of(leaves, 0, 6));
        leaves[one].sequence = 6;
        leaves[other].sequence = 4;
    };
    type Forge = fn(&mut Vec<Envelope>);
    for forge in [contents as Forge, numbers] {
        let (report, web) = found_in(forge).await;
        let stream = web.stream(0);
        assert_eq!(
            contradictions(&report),
            [format!(
                "records 4 to 6 of {stream} are not those that their reporter signed"
            )]
        );
        assert!(!report.intact());
        // All numbers are there, each once.
        assert!(report.complete(), "{:?}", report.streams);
    }
    // Across what was signed together, both are named.
    let (report, web) = found_in(|leaves| {
        let (one, other) = (place_of(leaves, 0, 3), place_of(leaves, 0, 4));
        (leaves[one].sequence, leaves[other].sequence) = (4, 3);
    })
    .await;
    let stream = web.stream(0);
    let named = [(1, 3), (4, 6)].map(|(first, last)| {
        format!("records {first} to {last} of {stream} are not those that their reporter signed")
    });
    assert_eq!(contradictions(&report), named);
    // Where they stand in the log is nobody's word: their numbers are.
    let (report, _) = found_in(|leaves| {
        let (one, other) = (place_of(leaves, 0, 4), place_of(leaves, 0, 6));
        leaves.swap(one, other);
    })
    .await;
    assert_eq!(report.findings, []);
}

/// A record that was given to another worker is one too many there, and missing here.
#[tokio::test]
async fn a_record_that_was_moved_to_another_stream_is_named_and_missed() {
    let (report, web) = found_in(|leaves| {
        let (one, other) = (place_of(leaves, 0, 2), place_of(leaves, 1, 2));
        leaves[one].stream = leaves[other].stream.clone();
    })
    .await;
    let finding = &report.findings[0];
    let record = finding.record.as_ref().unwrap();
    assert_eq!((finding.kind, record.worker), (FindingKind::Duplicate, 1));
    assert!(!report.intact() && !report.complete());
    let boot = web.boot.to_string();
    let of_worker = |worker: u32| {
        let mut streams = report.streams.iter();
        streams
            .find(|s| s.boot == boot && s.worker == worker)
            .unwrap()
    };
    let missing = crate::stream::Range { from: 2, to: 2 };
    assert_eq!(of_worker(0).missing, [missing]);
    assert_eq!(of_worker(1).missing, []);
}

/// A record that was altered, however little, is named by its stream and numbers; so are two of
/// different times, each by itself.
#[tokio::test]
async fn altered_records_are_named_each_with_what_was_signed_together() {
    let alter = |leaves: &mut Vec<Envelope>, worker, sequence| {
        let at = place_of(leaves, worker, sequence);
        let mut record = leaves[at].record.to_vec();
        *record.last_mut().unwrap() ^= 1;
        leaves[at].record = record.into();
    };
    let (report, web) = found_in(|leaves| {
        alter(leaves, 0, 9);
        alter(leaves, 1, 1);
    })
    .await;
    let named = [(1, 1, 2), (0, 7, 9)].map(|(worker, first, last)| {
        let stream = web.stream(worker);
        format!("records {first} to {last} of {stream} are not those that their reporter signed")
    });
    assert_eq!(contradictions(&report), named);
    // What nobody has signed yet is what the log says it is.
    let (dir, _) = told_three_times().await;
    write_anew(&dir, |leaves| {
        leaves.remove(place_of(leaves, Speaker::OWN, 3));
        alter(leaves, 0, 9);
    });
    assert!(check(&dir).intact());
}
