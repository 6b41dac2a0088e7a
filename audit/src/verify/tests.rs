//! Verification of logs that were changed behind our back.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use palisade_mesh::{clock::Clock, diagnostic::Severity, spiffe_id::SpiffeId};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use ulid::Ulid;

use super::*;
use crate::{
    log::{Log, LogOptions, Pending, stored::OWN_WORKER},
    segment,
    stream::StreamKey,
    testing::{encoded, open_log, options, reporter},
};

fn key(boot: u64, worker: u32) -> Arc<StreamKey> {
    Arc::new(StreamKey {
        reporter: reporter(),
        boot: Ulid::from_parts(boot, 0),
        worker,
    })
}

fn append(log: &Log, stream: &Arc<StreamKey>, sequences: impl IntoIterator<Item = u64>) {
    let pending = |sequence| Pending {
        stream: stream.clone(),
        sequence,
        record: encoded(sequence),
    };
    let batch = sequences.into_iter().map(pending).collect();
    let durable = Runtime::new()
        .unwrap()
        .block_on(log.append(batch).durable());
    durable.unwrap();
}

/// A closed log of several segments and starts.
fn closed_log() -> &'static TempDir {
    static LOG: OnceLock<TempDir> = OnceLock::new();
    LOG.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        for run in 0..3u64 {
            let small = LogOptions {
                segment_bytes: 6000,
                ..options()
            };
            let log = Log::open(dir.path(), small, Clock::system()).unwrap();
            for n in 0..13 {
                let from = run * 130 + n * 10;
                append(&log, &key(1, 0), from + 1..=from + 10);
            }
        }
        dir
    })
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

fn copied() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(closed_log().path(), dir.path());
    dir
}

/// A copy of the closed log whose segments are put back after each case.
struct Bench(Mutex<TempDir>);

/// A segment that is put back when this goes.
struct Segment<'a> {
    dir: MutexGuard<'a, TempDir>,
    relative: PathBuf,
    first: u64,
    bytes: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        Self(Mutex::new(copied()))
    }

    fn segment(&self, at: usize) -> Segment<'_> {
        let dir = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (relative, first) = segment_of(&dir, at);
        let bytes = fs::read(dir.path().join(&relative)).unwrap();
        Segment {
            dir,
            relative,
            first,
            bytes,
        }
    }
}

impl Segment<'_> {
    /// Verifies the log with other contents of the segment.
    fn check_with(&self, bytes: &[u8]) -> VerifyReport {
        fs::write(self.dir.path().join(&self.relative), bytes).unwrap();
        check(&self.dir)
    }
}

impl Drop for Segment<'_> {
    fn drop(&mut self) {
        fs::write(self.dir.path().join(&self.relative), &self.bytes).unwrap();
    }
}

fn check(dir: &TempDir) -> VerifyReport {
    verify(dir.path(), VerifyOptions::default())
}

fn segment_of(dir: &TempDir, at: usize) -> (PathBuf, u64) {
    let firsts = segment::list(dir.path()).unwrap();
    let first = firsts[at % firsts.len()];
    (segment::relative(first), first)
}

/// Where each record of a segment starts, and where it ends.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut at = segment::HEADER_LEN as usize;
    let mut frames = Vec::new();
    while at < bytes.len() {
        let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        frames.push((at, at + segment::FRAME_HEADER_LEN + len));
        at = frames.last().unwrap().1;
    }
    frames
}

#[test]
fn an_untouched_log_is_intact_and_all_of_it_is_checked() {
    let dir = copied();
    let mut last = None;
    let mut progress = |p: Progress| last = Some(p);
    let options = VerifyOptions {
        progress: Some(&mut progress),
        ..VerifyOptions::default()
    };
    let report = verify(dir.path(), options);
    assert_eq!(report.findings, []);
    assert!(report.intact() && report.complete() && !report.live);
    let checkpoint = report.checkpoint.as_ref().unwrap();
    assert_eq!((report.records, report.unsigned), (checkpoint.size, 0));
    assert!(report.segments > 10 && report.checkpoints > 6);
    assert_eq!(last.unwrap().records, report.records);
    let stream = report
        .streams
        .iter()
        .find(|s| s.reporter == reporter().as_str());
    let stream = stream.unwrap();
    assert_eq!((stream.records, stream.last_sequence), (390, 390));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["origin"], "palisade/acme.test");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// One flipped bit anywhere in any segment: header, length, CRC or payload.
    #[test]
    fn any_changed_byte_is_found_and_its_record_named(
        pick in any::<usize>(), at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        static BENCH: LazyLock<Bench> = LazyLock::new(Bench::new);
        let segment = BENCH.segment(pick);
        let mut bytes = segment.bytes.clone();
        let frames = frames(&bytes);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let report = segment.check_with(&bytes);
        let damage = report.first_damage().expect("it must be found");
        prop_assert_eq!(&damage.file, &segment.relative.to_string_lossy());
        match frames.iter().position(|(start, end)| (*start..*end).contains(&at)) {
            None => prop_assert_eq!(damage.kind, FindingKind::Header),
            Some(n) => {
                prop_assert_eq!(damage.leaf, Some(segment.first + n as u64));
                prop_assert_eq!(damage.offset, Some(frames[n].0 as u64));
                prop_assert_eq!(damage.kind, FindingKind::Record);
            }
        }
        prop_assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
        // And the rest of the log is still checked.
        prop_assert_eq!(report.records, report.checkpoint.as_ref().unwrap().size);
    }

    /// A record rewritten with everything around it made to fit.
    #[test]
    fn a_record_rewritten_with_a_fitting_crc_is_named(
        pick in any::<usize>(), n in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(),
    ) {
        static BENCH: LazyLock<Bench> = LazyLock::new(Bench::new);
        let segment = BENCH.segment(pick);
        let bytes = &segment.bytes;
        let frames = frames(bytes);
        let n = n.index(frames.len());
        let (start, end) = frames[n];
        let mut leaf = bytes[start + segment::FRAME_HEADER_LEN + 1..end].to_vec();
        let at = byte.index(leaf.len());
        leaf[at] ^= 1;
        let mut forged = bytes[..start].to_vec();
        segment::frame(&mut forged, |buf| buf.extend_from_slice(&leaf));
        forged.extend_from_slice(&bytes[end..]);
        let report = segment.check_with(&forged);
        let damage = report.first_damage().expect("it must be found");
        let duplicate = damage.kind == FindingKind::Duplicate;
        prop_assert!(duplicate || damage.kind == FindingKind::Leaf, "{damage:?}");
        let leaf = report.findings.iter().find(|f| f.kind == FindingKind::Leaf).unwrap();
        prop_assert_eq!(leaf.leaf, Some(segment.first + n as u64));
        prop_assert_eq!(&leaf.file, &segment.relative.to_string_lossy());
        prop_assert!(leaf.stored.is_some() && leaf.stored != leaf.computed);
    }

    /// Any segment cut anywhere: what is missing is named.
    #[test]
    fn a_shortened_segment_is_found(pick in any::<usize>(), at in any::<prop::sample::Index>()) {
        static BENCH: LazyLock<Bench> = LazyLock::new(Bench::new);
        let segment = BENCH.segment(pick);
        let at = at.index(segment.bytes.len());
        let whole = frames(&segment.bytes).iter().filter(|(_, end)| *end <= at).count();
        let report = segment.check_with(&segment.bytes[..at]);
        let damage = report.findings.iter().find(|f| f.kind != FindingKind::Header);
        let damage = damage.expect("it must be found");
        prop_assert_eq!(damage.severity, Severity::Error);
        prop_assert_eq!(damage.leaf, Some(segment.first + whole as u64), "{:?}", report.findings);
    }
}

/// It ends between two records, in whichever segment, and is no report of what it had read.
#[test]
fn a_verification_ends_when_nobody_waits_for_it() {
    let verified = |last: u64| {
        let going = Going::default();
        let mut seen = 0;
        let mut see = |index: u64, _: &[u8]| {
            seen = index;
            if index == last {
                going.end();
            }
        };
        let options = VerifyOptions {
            seen: Some(&mut see),
            ..VerifyOptions::default()
        };
        let found = verify_while(&going, closed_log().path(), options);
        (found.map(|report| report.records), seen)
    };
    assert_eq!(verified(3), (Err(Ended), 3));
    assert_eq!(verified(301), (Err(Ended), 301));
    let (all, _) = verified(u64::MAX);
    assert!(all.unwrap() > 390, "{all:?}");
}

#[test]
fn a_damaged_decision_is_named_by_its_id() {
    let dir = copied();
    let (relative, first) = segment_of(&dir, 1);
    let path = dir.path().join(&relative);
    let log = LogOptions {
        read_only: true,
        ..options()
    };
    let entry = Log::open(dir.path(), log, Clock::system())
        .unwrap()
        .read(first + 2)
        .unwrap();
    let id: [u8; 16] = entry.record.id.as_slice().try_into().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let (start, end) = frames(&bytes)[2];
    // The last byte is in the decision's path; then the length itself.
    for (at, bit) in [(end - 1, 1), (start, 4)] {
        bytes[at] ^= bit;
        fs::write(&path, &bytes).unwrap();
        let report = check(&dir);
        let record = report.first_damage().unwrap().record.clone().unwrap();
        assert_eq!(record.id, Ulid::from_bytes(id).to_string());
        assert_eq!(record.class, "decision");
        assert_eq!(record.sequence, entry.envelope.sequence);
        bytes[at] ^= bit;
    }
}

#[test]
fn removed_swapped_and_extended_segments_are_found() {
    let dir = copied();
    let firsts = segment::list(dir.path()).unwrap();
    fs::remove_file(dir.path().join(segment::relative(firsts[3]))).unwrap();
    let damage = check(&dir).first_damage().unwrap().clone();
    assert_eq!(
        (damage.kind, damage.leaf),
        (FindingKind::Segment, Some(firsts[3]))
    );

    let dir = copied();
    let (a, b) = (segment::relative(firsts[2]), segment::relative(firsts[3]));
    let (a, b) = (dir.path().join(a), dir.path().join(b));
    let bytes = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
    fs::write(&a, bytes.1).unwrap();
    fs::write(&b, bytes.0).unwrap();
    assert_eq!(
        check(&dir).first_damage().unwrap().kind,
        FindingKind::Header
    );

    let last = firsts.len() - 1;
    for (at, kind) in [(2, FindingKind::Segment), (last, FindingKind::Trailing)] {
        let dir = copied();
        let (relative, _) = segment_of(&dir, at);
        let path = dir.path().join(relative);
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.len() as u64;
        bytes.push(0);
        fs::write(&path, bytes).unwrap();
        let damage = check(&dir).first_damage().unwrap().clone();
        assert_eq!((damage.kind, damage.offset), (kind, Some(end)));
    }

    let dir = copied();
    let (relative, _) = segment_of(&dir, last);
    fs::remove_file(dir.path().join(relative)).unwrap();
    let damage = check(&dir).first_damage().unwrap().clone();
    assert_eq!(
        (damage.kind, damage.leaf),
        (FindingKind::Segment, Some(firsts[last]))
    );
}

/// Without the tiles nothing tells which record; the checkpoints still bracket it.
#[test]
fn a_rewritten_record_is_found_though_the_tiles_were_rewritten_too() {
    let dir = copied();
    fs::remove_dir_all(dir.path().join("tile")).unwrap();
    assert!(check(&dir).intact(), "tiles are derived");
    let (relative, first) = segment_of(&dir, 1);
    let path = dir.path().join(&relative);
    let bytes = fs::read(&path).unwrap();
    let (start, end) = frames(&bytes)[1];
    let mut forged = bytes[..start].to_vec();
    let mut leaf = bytes[start + segment::FRAME_HEADER_LEN + 1..end].to_vec();
    *leaf.last_mut().unwrap() ^= 1;
    segment::frame(&mut forged, |buf| buf.extend_from_slice(&leaf));
    forged.extend_from_slice(&bytes[end..]);
    fs::write(&path, forged).unwrap();
    let damage = check(&dir).first_damage().unwrap().clone();
    assert_eq!(damage.kind, FindingKind::Root);
    assert!(damage.leaf.unwrap() <= first + 1, "{damage:?}");
}

#[test]
fn a_damaged_tile_is_told_from_a_damaged_record() {
    let dir = copied();
    let tile = dir.path().join("tile/0/000");
    let mut bytes = fs::read(&tile).unwrap();
    bytes[32 * 40] ^= 1;
    fs::write(&tile, bytes).unwrap();
    let report = check(&dir);
    assert!(report.intact());
    let finding = &report.findings[0];
    assert_eq!((finding.kind, finding.leaf), (FindingKind::Tile, Some(40)));
}

#[test]
fn forged_rolled_back_and_unsigned_checkpoints_are_found() {
    let kinds = |dir: &TempDir| {
        let report = check(dir);
        assert!(!report.intact());
        report.first_damage().unwrap().kind
    };
    for file in ["checkpoint", "checkpoints"] {
        let dir = copied();
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("\ntime ", "\ntime 1", 1)).unwrap();
        assert_eq!(kinds(&dir), FindingKind::Checkpoint, "{file}");
    }
    let dir = copied();
    let history = fs::read_to_string(dir.path().join("checkpoints")).unwrap();
    let first = crate::checkpoint::notes(&history).next().unwrap();
    fs::write(dir.path().join("checkpoint"), first).unwrap();
    assert_eq!(kinds(&dir), FindingKind::Checkpoint);

    let dir = copied();
    fs::remove_file(dir.path().join("checkpoint.pub")).unwrap();
    assert_eq!(kinds(&dir), FindingKind::Key);

    let other = tempfile::tempdir().unwrap();
    let trusted = open_log(&other).verifier().clone();
    let dir = copied();
    let options = VerifyOptions {
        key: Some(trusted),
        ..VerifyOptions::default()
    };
    let report = verify(dir.path(), options);
    assert_eq!(report.first_damage().unwrap().kind, FindingKind::Key);
    assert!(!verify(&dir.path().join("nowhere"), VerifyOptions::default()).intact());
}

/// A full disk or a power cut leaves half a checkpoint in the history: the log goes on behind
/// the last whole one. What an earlier version glued to it is told, and is no tampering.
#[test]
fn a_checkpoint_that_was_cut_off_spoils_none_that_follows() {
    let half = "palisade/acme.test\n12\nAb";
    let dir = copied();
    let path = dir.path().join("checkpoints");
    let before = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{before}{half}")).unwrap();
    assert!(check(&dir).findings.is_empty());
    let log = open_log(&dir);
    append(&log, &key(9, 0), 1..=3);
    drop(log);
    let report = check(&dir);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let after = fs::read_to_string(&path).unwrap();
    assert!(after.len() > before.len() && !after.contains(half));

    let dir = copied();
    let path = dir.path().join("checkpoints");
    let last = crate::checkpoint::notes(&before).last().unwrap();
    let sound = before.strip_suffix(last).unwrap();
    fs::write(&path, format!("{sound}{half}{last}")).unwrap();
    let report = check(&dir);
    assert!(report.intact(), "{:?}", report.findings);
    let told = &report.findings[0];
    assert_eq!(
        (told.severity, told.kind),
        (Severity::Warning, FindingKind::Checkpoint)
    );
    // The whole one counts all the same.
    let first = crate::checkpoint::notes(&before).next().unwrap();
    fs::write(dir.path().join("checkpoint"), first).unwrap();
    assert!(!check(&dir).intact());
}

/// While the log is written, what is under its latest checkpoint is verified.
#[test]
fn a_live_log_is_verified_up_to_its_latest_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let rare = LogOptions {
        checkpoint_every: Duration::from_secs(3600),
        ..options()
    };
    let log = Log::open(dir.path(), rare, Clock::system()).unwrap();
    append(&log, &key(1, 0), 1..=5);
    let report = check(&dir);
    assert!(
        report.live && report.findings.is_empty(),
        "{:?}",
        report.findings
    );
    assert_eq!(report.records, log.checkpoint().size);
    assert!(report.records < log.len());

    // As a kill leaves it: a whole record above the checkpoint, and half of one.
    let copied = tempfile::tempdir().unwrap();
    copy(dir.path(), copied.path());
    let (relative, _) = segment_of(&copied, 0);
    let path = copied.path().join(relative);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let report = check(&copied);
    assert!(report.intact() && !report.live);
    assert_eq!(
        (report.unsigned, report.findings[0].kind),
        (4, FindingKind::Tail)
    );
}

/// The audit service has a stream of its own beside the log's: neither ends the other. The log's
/// own is over once the log was opened again.
#[test]
fn the_stream_of_the_log_is_ended_by_a_later_one_of_the_log_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    let own = |report: &VerifyReport| -> Vec<bool> {
        let of_log = report.streams.iter().filter(|s| s.worker == OWN_WORKER);
        of_log.map(|s| s.superseded).collect()
    };
    drop(log);
    let report = check(&dir);
    let mut streams = report.streams.iter();
    let of_log = streams.find(|s| s.worker == OWN_WORKER).unwrap();
    let later = Arc::new(StreamKey {
        reporter: SpiffeId::parse(&of_log.reporter).unwrap(),
        boot: Ulid::from_parts((1 << 48) - 1, 1),
        worker: 7,
    });
    let log = open_log(&dir);
    append(&log, &later, 1..=1);
    drop(log);
    assert_eq!(own(&check(&dir)), [true, false]);
}

#[test]
fn streams_with_gaps_and_boots_that_never_ended_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    append(&log, &key(1, 0), 1..=3);
    append(&log, &key(1, 1), [1, 5]);
    append(&log, &key(2, 0), 1..=3);
    drop(log);
    let report = check(&dir);
    assert!(report.intact() && !report.complete());
    let ours: Vec<_> = report
        .streams
        .iter()
        .filter(|s| s.reporter == reporter().as_str())
        .map(|s| (s.worker, s.missing.clone(), s.superseded, s.complete()))
        .collect();
    let gap = crate::stream::Range { from: 2, to: 4 };
    assert_eq!(
        ours,
        [
            (0, vec![], true, false),
            (1, vec![gap], true, false),
            (0, vec![], false, true),
        ]
    );
}

mod heads;
mod rewritten;

/// On both sides of the limit: a warning makes room for an error, and all errors are counted.
#[test]
fn an_error_always_has_a_place() {
    let finding = |severity, kind| Finding {
        severity,
        ..stored::about(kind, "", "")
    };
    let mut report = VerifyReport::default();
    for _ in 0..FINDINGS_MAX {
        report.find(finding(Severity::Warning, FindingKind::Tail));
    }
    assert!(report.intact() && report.findings_more == 0);
    report.find(finding(Severity::Error, FindingKind::Unread));
    assert_eq!((report.verdict(), report.findings_more), (None, 1));
    assert_eq!(report.first_damage().unwrap().kind, FindingKind::Unread);
    for _ in 0..FINDINGS_MAX {
        report.find(finding(Severity::Error, FindingKind::Unread));
    }
    assert_eq!(report.findings.len(), FINDINGS_MAX);
    assert_eq!(report.verdict(), None);
    report.find(finding(Severity::Error, FindingKind::Leaf));
    assert_eq!(report.verdict(), Some(false));
    assert_eq!(report.errors, FINDINGS_MAX as u64 + 2);
}
