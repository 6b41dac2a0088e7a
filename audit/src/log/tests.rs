//! The log through its public door: order, dedupe, recovery, damage.

use std::{fs, path::PathBuf, time::Duration};

use palisade_mesh::{
    spiffe_id::SpiffeId,
    wire::record::{Decision, Head, Heads, PolicyChange, StreamHeads, record::Body},
};
use proptest::prelude::*;
use prost::Message as _;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::{
    disk::Faults,
    merkle,
    privacy::{Handling, Known, Personal, Vault},
    stream::new_ulid,
    testing::{REPORTER, Speaker, TestSigner, unsign},
};

fn options() -> LogOptions {
    LogOptions {
        group_wait: Duration::ZERO,
        checkpoint_every: Duration::from_millis(20),
        ..LogOptions::new(TrustDomain::parse("acme.test").unwrap())
    }
}

fn open(dir: &TempDir) -> Log {
    Log::open(dir.path(), options(), Clock::system()).unwrap()
}

fn open_faulty(dir: &TempDir, reserve_bytes: u64) -> (Log, Arc<Faults>) {
    let (disk, faults) = Disk::faulty();
    let options = LogOptions {
        reserve_bytes,
        ..options()
    };
    let log = Log::open_on(dir.path(), options, Clock::system(), disk).unwrap();
    (log, faults)
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn key(worker: u32) -> Arc<StreamKey> {
    Arc::new(StreamKey {
        reporter: SpiffeId::parse("spiffe://acme.test/ns/shop/sa/web").unwrap(),
        boot: ulid::Ulid::from_parts(7, 7),
        worker,
    })
}

fn record(n: u64) -> Bytes {
    let record = Record {
        id: new_ulid(&Clock::system()).to_bytes().to_vec(),
        time_us: n as i64,
        reporter: "spiffe://acme.test/ns/shop/sa/web".into(),
        body: Some(Body::Decision(Decision {
            path: format!("/orders/{n}"),
            ..Decision::default()
        })),
        ..Record::default()
    };
    record.encode_to_vec().into()
}

fn batch(stream: &Arc<StreamKey>, sequences: impl IntoIterator<Item = u64>) -> Vec<Pending> {
    let pending = |sequence| Pending {
        stream: stream.clone(),
        sequence,
        record: record(sequence),
    };
    sequences.into_iter().map(pending).collect()
}

fn append(log: &Log, batch: Vec<Pending>) -> Result<Appended, AppendError> {
    Runtime::new()
        .unwrap()
        .block_on(log.append(batch).durable())
}

/// Worker and sequence of everything that is not the log's own.
fn contents(log: &Log) -> Vec<(u32, u64)> {
    entries(log)
        .into_iter()
        .filter(|(_, envelope, _)| envelope.stream.as_ref().unwrap().worker != writer::OWN_WORKER)
        .map(|(_, envelope, _)| (envelope.stream.unwrap().worker, envelope.sequence))
        .collect()
}

fn verbs(log: &Log) -> Vec<String> {
    entries(log)
        .into_iter()
        .filter_map(|(_, _, record)| match record.body {
            Some(Body::LogLifecycle(l)) => Some(l.verb),
            _ => None,
        })
        .collect()
}

fn entries(log: &Log) -> Vec<(u64, Envelope, Record)> {
    let entries: Vec<Entry> = log.scan(0).collect::<Result<_, _>>().unwrap();
    assert!(entries.iter().map(|e| e.index).eq(0..log.len()));
    let tuple = |e: Entry| (e.index, e.envelope, e.record);
    entries.into_iter().map(tuple).collect()
}

fn last_segment(dir: &TempDir) -> PathBuf {
    let first = *crate::segment::list(dir.path()).unwrap().last().unwrap();
    dir.path().join(crate::segment::relative(first))
}

#[test]
fn what_was_appended_is_read_back_in_order_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let stream = key(0);
    assert_eq!(append(&log, batch(&stream, 1..=3)).unwrap().accepted, 3);
    let appended = append(&log, batch(&stream, 4..=5)).unwrap();
    assert_eq!(appended.size, log.len());
    let entry = log.read(log.len() - 1).unwrap();
    assert_eq!(entry.envelope.sequence, 5);
    assert_eq!(entry.envelope.salt.len(), 16);
    assert_eq!(entry.record.encode_to_vec(), entry.envelope.record);
    assert!(matches!(
        log.read(log.len()),
        Err(LogError::NotFound { .. })
    ));
    drop(log);

    let log = open(&dir);
    assert_eq!(contents(&log), (1..=5).map(|n| (0, n)).collect::<Vec<_>>());
    assert_eq!(verbs(&log), ["opened", "closed", "opened"]);
    assert_eq!(log.scan(3).count() as u64, log.len() - 3);
}

#[test]
fn redelivered_records_are_acknowledged_and_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let stream = key(0);
    let log = open(&dir);
    append(&log, batch(&stream, 1..=10)).unwrap();
    let again = append(&log, batch(&stream, 5..=12)).unwrap();
    assert_eq!((again.accepted, again.duplicates), (2, 6));
    drop(log);
    // Also after a restart, with and without the snapshot of the positions.
    for lose_snapshot in [false, true] {
        if lose_snapshot {
            fs::remove_file(dir.path().join("streams")).unwrap();
        }
        let log = open(&dir);
        let again = append(&log, batch(&stream, 1..=12)).unwrap();
        assert_eq!((again.accepted, again.duplicates), (0, 12));
        assert_eq!(contents(&log).len(), 12);
    }
}

/// Appends and waits until it is under a checkpoint.
fn append_signed(log: &Log, batch: Vec<Pending>) {
    let mut receipt = log.append(batch);
    Runtime::new()
        .unwrap()
        .block_on(receipt.checkpointed())
        .unwrap();
}

/// Whoever asks sees what is missing now, also after a restart, with the time it
/// was first noticed.
#[test]
fn open_gaps_are_told_until_the_missing_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let stream = key(0);
    let missing = |log: &Log| -> Vec<(u64, u64)> {
        let gaps = log.gaps();
        gaps.iter()
            .map(|g| (g.missing.from, g.missing.to))
            .collect()
    };
    append_signed(&log, batch(&stream, [1, 2, 6, 9]));
    assert_eq!(missing(&log), [(3, 5), (7, 8)]);
    let noticed = log.gaps()[0].noticed_us;
    append_signed(&log, batch(&stream, [3, 7, 8]));
    assert_eq!(missing(&log), [(4, 5)]);
    assert_eq!(log.gaps()[0].noticed_us, noticed);
    log.close();
    drop(log);
    let log = open(&dir);
    assert_eq!(missing(&log), [(4, 5)]);
    append_signed(&log, batch(&stream, [4, 5]));
    assert_eq!(missing(&log), []);
}

#[test]
fn gaps_are_recorded_and_closed_when_the_missing_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let stream = key(0);
    append(&log, batch(&stream, [1, 2, 6])).unwrap();
    assert_eq!(verbs(&log), ["opened", "gap"]);
    append(&log, batch(&stream, 3..=6)).unwrap();
    assert_eq!(verbs(&log), ["opened", "gap", "gap_closed"]);
    let mut all = contents(&log);
    all.sort_unstable();
    assert_eq!(all, (1..=6).map(|n| (0, n)).collect::<Vec<_>>());
}

#[test]
fn batches_beyond_a_limit_are_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let stream = key(0);
    let with = |sequence, record: Vec<u8>| Pending {
        stream: stream.clone(),
        sequence,
        record: record.into(),
    };
    let max = crate::envelope::RECORD_LEN_MAX;
    let sequence_max = crate::stream::SEQUENCE_MAX;
    for bad in [
        with(2, vec![1; max + 1]),
        with(2, Vec::new()),
        with(0, vec![1]),
        with(sequence_max + 1, vec![1]),
    ] {
        let mut batch = batch(&stream, [1]);
        batch.push(bad);
        assert!(matches!(append(&log, batch), Err(AppendError::Refused(_))));
    }
    assert_eq!(contents(&log), []);
    append(&log, vec![with(1, vec![10; max])]).unwrap();
    append(&log, vec![with(sequence_max, record(1).to_vec())]).unwrap();
    // The first is no record; the scan says so and goes on.
    let bad = log
        .scan(0)
        .filter(|e| matches!(e, Err(LogError::Undecodable { .. })));
    assert_eq!(bad.count(), 1);
    assert_eq!(log.scan(0).count() as u64, log.len());
}

#[test]
fn checkpoints_follow_and_prove_records_and_their_own_past() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let stream = key(0);
    let old = log.checkpoint();
    let mut receipt = log.append(batch(&stream, 1..=700));
    let runtime = Runtime::new().unwrap();
    let new = runtime.block_on(receipt.checkpointed()).unwrap();
    assert!(new.size >= receipt.result().unwrap().unwrap().size);
    assert_eq!(new.origin, "palisade/acme.test");
    let read = Checkpoint::open(log.verifier(), &new.note).unwrap();
    assert_eq!(read, *new);

    let (checkpoint, proof) = log.prove(300).unwrap();
    let leaf = merkle::leaf(&log.read(300).unwrap().envelope.encode_to_vec());
    merkle::verify_inclusion(&leaf, 300, checkpoint.size, &proof, &checkpoint.root).unwrap();
    let (checkpoint, proof) = log.prove_prefix(old.size).unwrap();
    merkle::verify_consistency(
        old.size,
        &old.root,
        checkpoint.size,
        &checkpoint.root,
        &proof,
    )
    .unwrap();
    assert!(matches!(
        log.prove(checkpoint.size),
        Err(LogError::NotFound { .. })
    ));
}

#[test]
fn segments_roll_by_size_and_by_age_and_are_read_across() {
    let dir = tempfile::tempdir().unwrap();
    let small = LogOptions {
        segment_bytes: 2000,
        ..options()
    };
    let log = Log::open(dir.path(), small, Clock::system()).unwrap();
    for n in 1..=100 {
        append(&log, batch(&key(0), [n])).unwrap();
    }
    assert!(crate::segment::list(dir.path()).unwrap().len() > 5);
    drop(log);
    let aged = LogOptions {
        segment_age: Duration::ZERO,
        ..options()
    };
    let before = crate::segment::list(dir.path()).unwrap().len();
    let log = Log::open(dir.path(), aged, Clock::system()).unwrap();
    append(&log, batch(&key(0), [101])).unwrap();
    assert!(crate::segment::list(dir.path()).unwrap().len() > before);
    assert_eq!(
        contents(&log),
        (1..=101).map(|n| (0, n)).collect::<Vec<_>>()
    );
    for index in (0..log.len()).rev() {
        assert_eq!(log.read(index).unwrap().index, index);
    }
}

#[test]
fn only_one_process_writes_and_any_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    append(&log, batch(&key(0), 1..=3)).unwrap();
    let refused = Log::open(dir.path(), options(), Clock::system());
    assert!(matches!(refused, Err(LogError::Locked(_))));
    let reader = LogOptions {
        read_only: true,
        ..options()
    };
    let reader = Log::open(dir.path(), reader, Clock::system()).unwrap();
    assert_eq!(contents(&reader).len(), 3);
    assert_eq!(
        append(&reader, batch(&key(0), [4])),
        Err(AppendError::ReadOnly)
    );
    log.close();
    assert_eq!(append(&log, batch(&key(0), [4])), Err(AppendError::Closed));
    assert_eq!(contents(&log).len(), 3);
}

/// A crash leaves a torn tail above the checkpoint: everything whole is kept.
#[test]
fn a_torn_tail_is_cut_off_and_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    append(&log, batch(&key(0), 1..=3)).unwrap();
    drop(log);
    let path = last_segment(&dir);
    let mut bytes = fs::read(&path).unwrap();
    let whole = bytes.len();
    crate::segment::frame(&mut bytes, |buf| buf.extend_from_slice(&[9; 100]));
    bytes.truncate(whole + 57);
    fs::write(&path, bytes).unwrap();

    let log = open(&dir);
    assert_eq!(contents(&log).len(), 3);
    assert!(verbs(&log).contains(&"recovered".into()));
    let evidence: Vec<_> = fs::read_dir(dir.path().join("evidence")).unwrap().collect();
    assert_eq!(evidence.len(), 1);
    assert_eq!(
        fs::metadata(evidence[0].as_ref().unwrap().path())
            .unwrap()
            .len(),
        57
    );
}

#[test]
fn lost_tiles_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    append(&log, batch(&key(0), 1..=600)).unwrap();
    drop(log);
    // One interior tile wrong, then all gone: the segments decide.
    let tile = dir.path().join("tile/0/001");
    let mut bytes = fs::read(&tile).unwrap();
    bytes[5] ^= 1;
    fs::write(&tile, &bytes).unwrap();
    drop(open(&dir));
    bytes[5] ^= 1;
    assert_eq!(fs::read(&tile).unwrap(), bytes);
    fs::remove_dir_all(dir.path().join("tile")).unwrap();
    drop(open(&dir));
    assert_eq!(fs::read(&tile).unwrap(), bytes);
}

#[test]
fn a_removed_or_replaced_segment_is_put_back_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    append(&log, batch(&key(0), 1..=3)).unwrap();
    fs::remove_file(last_segment(&dir)).unwrap();
    append(&log, batch(&key(0), 4..=5)).unwrap();
    let path = last_segment(&dir);
    fs::rename(&path, dir.path().join("rotated")).unwrap();
    fs::write(&path, "stranger").unwrap();
    append(&log, batch(&key(0), 6..=7)).unwrap();
    append(&log, batch(&key(0), 8..=9)).unwrap();
    drop(log);
    let log = open(&dir);
    assert_eq!(contents(&log).len(), 9);
    let restored = verbs(&log).iter().filter(|v| *v == "restored").count();
    assert_eq!(restored, 2);
}

/// The reserve is given up for the log; beyond it appends fail, and all of it ends
/// with the shortage.
#[test]
fn a_full_disk_uses_the_reserve_refuses_beyond_it_and_recovers() {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let (log, faults) = open_faulty(&dir, 2 * MIB);
    faults.set_free(20 * MIB);
    let reserve = dir.path().join("reserve");
    // Its file is there before its room is.
    until("the reserve is taken", || faults.space().free <= 18 * MIB);
    assert!(reserve.exists());
    faults.set_free(2 * MIB - 1);
    until("it is tight", || log.health().room == Room::Tight);
    faults.set_free(0);
    let stream = key(0);
    append(&log, batch(&stream, 1..=10)).unwrap();
    assert!(!reserve.exists());
    assert_eq!(log.health().room, Room::Full);
    faults.set_free(0);
    let refused = append(&log, batch(&stream, 11..=20));
    assert!(matches!(refused, Err(AppendError::Io(_))), "{refused:?}");
    assert!(log.health().failing.is_some());
    faults.set_free(30 * MIB);
    until("there is room", || log.health().room == Room::Enough);
    append(&log, batch(&stream, 11..=20)).unwrap();
    assert_eq!(log.health().failing, None);
    let expected: Vec<_> = (1..=20).map(|n| (0, n)).collect();
    assert_eq!(contents(&log), expected);
    until("it is told", || {
        verbs(&log).contains(&"disk_recovered".to_owned())
    });
    assert!(verbs(&log).contains(&"disk_low".to_owned()));
    log.close();
    drop(log);
    assert_eq!(contents(&open(&dir)), expected);
}

#[test]
fn a_stalled_fsync_of_the_log_is_seen_while_it_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let (log, faults) = open_faulty(&dir, 0);
    faults.hold(true);
    let receipt = log.append(batch(&key(0), 1..=1));
    until("the stall is seen", || log.health().stalled.is_some());
    assert_eq!(receipt.result(), None);
    faults.hold(false);
    until("it is durable", || receipt.result().is_some());
    assert_eq!(log.health().stalled, None);
    assert!(log.health().fsync.longest >= crate::disk::STALL_AFTER);
}

/// Whoever waits hears of it, and nothing more is taken.
#[test]
fn a_panic_of_the_writer_is_told_and_ends_every_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (log, faults) = open_faulty(&dir, 0);
    faults.panic();
    assert_eq!(
        append(&log, batch(&key(0), 1..=1)),
        Err(AppendError::Closed)
    );
    until("it is told", || log.health().dead);
    assert_eq!(
        append(&log, batch(&key(0), 2..=2)),
        Err(AppendError::Closed)
    );
}

/// The log's own clock jumps: order is that of receipt, both clocks are kept,
/// and nothing hangs.
#[test]
fn a_clock_that_jumps_changes_neither_order_nor_progress() {
    let day = Duration::from_secs(86_400);
    let ten_minutes = Duration::from_secs(600);
    let dir = tempfile::tempdir().unwrap();
    let start = "2026-11-20T12:00:00Z".parse().unwrap();
    let clock = Clock::manual(start);
    let log = Log::open(dir.path(), options(), clock.clone()).unwrap();
    let stream = key(0);
    let mut received = Vec::new();
    for (n, jump) in [day, ten_minutes].into_iter().enumerate() {
        for (step, back) in [(0, false), (1, true), (2, true)] {
            let sequence = (n * 3 + step + 1) as u64;
            match (step, back) {
                (0, _) => clock.advance(jump),
                (1, _) => clock.set_back(jump * 2),
                _ => clock.advance(jump),
            }
            received.push(clock.now_us());
            append(&log, batch(&stream, [sequence])).unwrap();
            let size = log.len();
            until("it is under a checkpoint", || log.checkpoint().size >= size);
        }
    }
    let found: Vec<_> = entries(&log)
        .into_iter()
        .filter(|(_, envelope, _)| envelope.stream.as_ref().unwrap().worker == 0)
        .map(|(_, envelope, record)| (envelope.sequence, envelope.received_us, record.time_us))
        .collect();
    let expected: Vec<_> = (1..)
        .zip(received)
        .map(|(n, at)| (n, at, n as i64))
        .collect();
    assert_eq!(found, expected);
    log.close();
    drop(log);
    let report = crate::verify::verify(dir.path(), crate::verify::VerifyOptions::default());
    assert!(report.intact(), "{report:?}");
    Log::open(dir.path(), options(), clock).unwrap();
}

#[test]
fn a_deleted_or_older_checkpoint_keeps_the_log_shut() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let path = dir.path().join("checkpoint");
    let old = fs::read(&path).unwrap();
    append(&log, batch(&key(0), 1..=3)).unwrap();
    drop(log);
    let shut = || {
        let opened = Log::open(dir.path(), options(), Clock::system());
        assert!(matches!(opened, Err(LogError::Tampered(_))), "{opened:?}");
    };
    let new = fs::read(&path).unwrap();
    fs::write(&path, old).unwrap();
    shut();
    fs::remove_file(&path).unwrap();
    shut();
    fs::write(&path, new).unwrap();
    open(&dir);
}

#[test]
fn another_key_or_trust_domain_keeps_the_log_shut() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir));
    let other = LogOptions::new(TrustDomain::parse("other.test").unwrap());
    let opened = Log::open(dir.path(), other, Clock::system());
    assert!(matches!(opened, Err(LogError::Key(_))), "{opened:?}");
    fs::remove_file(dir.path().join("checkpoint.key")).unwrap();
    let opened = Log::open(dir.path(), options(), Clock::system());
    assert!(matches!(opened, Err(LogError::Key(_))), "{opened:?}");
}

/// A log of several segments, closed, hence wholly under its checkpoint.
fn closed_log() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let small = LogOptions {
        segment_bytes: 3000,
        ..options()
    };
    let log = Log::open(dir.path(), small, Clock::system()).unwrap();
    for n in 0..6 {
        append(&log, batch(&key(0), 10 * n + 1..=10 * n + 10)).unwrap();
    }
    drop(log);
    dir
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// In the newest segment, which every start reads, any change below the
    /// checkpoint is noticed and the log stays shut, with the record named.
    #[test]
    fn damage_below_the_checkpoint_keeps_the_log_shut(
        at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        static LOG: std::sync::OnceLock<TempDir> = std::sync::OnceLock::new();
        let dir = tempfile::tempdir().unwrap();
        copy(LOG.get_or_init(closed_log).path(), dir.path());
        let path = last_segment(&dir);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(&path, &bytes).unwrap();
        let opened = Log::open(dir.path(), options(), Clock::system());
        let Err(LogError::Tampered(damage)) = opened else {
            return Err(TestCaseError::fail(format!("byte {at}: {opened:?}")));
        };
        prop_assert_eq!(dir.path().join(&damage.file), path.clone());
        prop_assert!(damage.offset <= at as u64, "{damage}");
        // Nothing was changed, and reading stays possible.
        prop_assert_eq!(fs::read(&path).unwrap(), bytes);
        let reader = LogOptions { read_only: true, ..options() };
        let reader = Log::open(dir.path(), reader, Clock::system()).unwrap();
        prop_assert!(reader.read(0).is_ok());
    }

    /// Cut anywhere above the checkpoint, a log opens with a prefix of what was in it.
    #[test]
    fn a_tail_cut_anywhere_above_the_checkpoint_is_recovered(
        cut in any::<prop::sample::Index>(), junk in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let rare = LogOptions { checkpoint_every: Duration::from_secs(3600), ..options() };
        let log = Log::open(dir.path(), rare, Clock::system()).unwrap();
        let signed = fs::metadata(last_segment(&dir)).unwrap().len() as usize;
        append(&log, batch(&key(0), 1..=20)).unwrap();
        // As a killed process leaves it: copied before it can close.
        let copied = tempfile::tempdir().unwrap();
        copy(dir.path(), copied.path());
        let path = last_segment(&copied);
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(signed + cut.index(bytes.len() - signed + 1));
        bytes.extend(junk);
        fs::write(&path, bytes).unwrap();
        let log = open(&copied);
        let kept = contents(&log);
        prop_assert!(kept.iter().map(|(_, n)| *n).eq(1..=kept.len() as u64));
        // Redelivery completes it.
        append(&log, batch(&key(0), 1..=20)).unwrap();
        prop_assert!(contents(&log).iter().map(|(_, n)| *n).eq(1..=20));
    }
}

/// A reporter's signed word about its streams makes a withheld end a gap, which closes
/// when the records come after all; a restart comes to the same.
#[test]
fn what_a_head_promises_and_does_not_come_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let mut web = Speaker::new(1);
    let mut records = web.decides(0, 5);
    let late = records.split_off(3);
    append(&log, records).unwrap();
    append(&log, vec![web.heads()]).unwrap();
    let missing = |log: &Log| log.gaps().iter().map(|gap| gap.missing).collect::<Vec<_>>();
    let expected = [crate::stream::Range { from: 4, to: 5 }];
    until("the gap is told", || missing(&log) == expected);
    drop(log);
    let log = open(&dir);
    until("the gap is told again", || missing(&log) == expected);
    append(&log, late).unwrap();
    until("the gap is closed", || missing(&log).is_empty());
    let verbs = verbs(&log);
    assert!(verbs.contains(&"gap".into()) && verbs.contains(&"gap_closed".into()));
    assert_eq!(append(&log, web.decides(0, 1)).unwrap().accepted, 1);
}

/// What nobody has signed makes no gap.
#[test]
fn heads_that_nobody_has_signed_promise_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let mut web = Speaker::new(1);
    append(&log, web.decides(0, 3)).unwrap();
    append(&log, vec![web.heads()]).unwrap();
    let len = log.len();
    let ahead = |heads: &mut Heads| heads.streams[0].last_sequence = 9;
    append(&log, vec![web.heads_with(ahead, unsign)]).unwrap();
    append(&log, vec![web.heads_with(ahead, |s| s.signature[9] ^= 1)]).unwrap();
    assert_eq!(log.len(), len + 2);
    append(&log, vec![web.heads_with(ahead, |_| {})]).unwrap();
    assert_eq!(log.len(), len + 4, "the heads and a gap");
}

/// Nor does a certificate that comes with such heads take the place of the reporter's: what it
/// signs from then on is believed as before.
#[test]
fn a_certificate_that_nobody_has_signed_with_displaces_none() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let (mut web, mut other) = (Speaker::new(1), Speaker::new(1));
    append(&log, web.decides(0, 3)).unwrap();
    append(&log, vec![web.heads()]).unwrap();
    let foreign = match other.statement().certificate() {
        Some(foreign) => foreign.to_vec(),
        None => panic!("heads without a certificate"),
    };
    let swapped = web.heads_with(
        |_| {},
        |signed| {
            signed.certificate = crate::merkle::sha256(&foreign).to_vec();
            signed.certificates = vec![foreign];
        },
    );
    append(&log, vec![swapped]).unwrap();
    let len = log.len();
    let ahead = |heads: &mut Heads| heads.streams[0].last_sequence = 9;
    append(&log, vec![web.heads_with(ahead, |_| {})]).unwrap();
    assert_eq!(log.len(), len + 2, "the heads and a gap");
}

/// Nor does one that somebody made and signed with: it stands beside the reporter's.
#[test]
fn a_certificate_that_somebody_made_displaces_none() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let mut web = Speaker::new(1);
    append(&log, web.decides(0, 3)).unwrap();
    append(&log, vec![web.heads()]).unwrap();
    let foreign = TestSigner::new(REPORTER, 9);
    let own = std::mem::replace(&mut web.signer, foreign);
    append(&log, vec![web.heads()]).unwrap();
    web.signer = own;
    let len = log.len();
    let ahead = |heads: &mut Heads| heads.streams[0].last_sequence = 9;
    let bare = |signed: &mut StreamHeads| signed.certificates.clear();
    append(&log, vec![web.heads_with(ahead, bare)]).unwrap();
    assert_eq!(log.len(), len + 2, "the heads and a gap");
}

/// A reporter that was not answered sends again, perhaps after an erasure: what the log has
/// already makes no new key.
#[test]
fn what_is_sent_again_makes_no_key() {
    let (dir, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let vault = Vault::open(
        &keys.path().join("subjects"),
        &keys.path().join("kek"),
        true,
    );
    let vault = Arc::new(vault.unwrap());
    let options = LogOptions {
        vault: Some(vault.clone()),
        ..options()
    };
    let log = Log::open(dir.path(), options, Clock::system()).unwrap();
    let change = PolicyChange {
        authors: vec!["alice@example.org".into()],
        ..PolicyChange::default()
    };
    let record = Record {
        id: new_ulid(&Clock::system()).to_bytes().to_vec(),
        time_us: 10,
        body: Some(Body::PolicyChange(change)),
        ..Record::default()
    };
    let rules = Rules::new([(Personal::Author, Handling::Sealed)]);
    let covered = rules.cover(&record).unwrap();
    let sent = || {
        let pending = Pending {
            stream: key(0),
            sequence: 1,
            record: covered.encode_to_vec().into(),
        };
        append(&log, vec![pending]).unwrap()
    };
    assert_eq!((sent().accepted, sent().duplicates), (1, 1));
    let person = vault.pseudonym("alice@example.org");
    assert_eq!(vault.known(&person).unwrap(), Known::Sealed);
    vault.destroy(&person, 5).unwrap();
    assert_eq!(sent().duplicates, 1);
    assert_eq!(vault.known(&person).unwrap(), Known::Erased(5));
}

/// Of a log that is open for reading only as of one that is written: which, and that they were noticed
/// before; what came later is none.
#[test]
fn a_log_that_is_read_knows_the_gaps_that_its_records_leave_open() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    append(&log, batch(&key(0), [1, 5, 9])).unwrap();
    append(&log, batch(&key(0), [3, 6, 7, 8])).unwrap();
    append(&log, batch(&key(1), [4])).unwrap();
    append(&log, batch(&key(1), [1, 2, 3])).unwrap();
    let heads = Speaker::new(3).heads_with(
        |heads| {
            heads.streams.extend((2..4).map(|worker| Head {
                worker,
                last_sequence: 5,
                ..Head::default()
            }));
        },
        |_| {},
    );
    append(&log, vec![heads]).unwrap();
    until("the gaps are told", || log.gaps().len() == 4);
    let shown = |gaps: &[OpenGap]| -> Vec<(String, u64, u64)> {
        let one = |gap: &OpenGap| (gap.stream.to_string(), gap.missing.from, gap.missing.to);
        let mut shown: Vec<_> = gaps.iter().map(one).collect();
        shown.sort();
        shown
    };
    let open = shown(&log.gaps());
    drop(log);
    let read_only = LogOptions {
        read_only: true,
        ..options()
    };
    let read = Log::open(dir.path(), read_only, Clock::system()).unwrap();
    assert_eq!(read.gaps().len(), 0);
    let going = Going::default();
    read.find_gaps(&going, i64::MAX).unwrap();
    assert_eq!(shown(&read.gaps()), open);
    let noticed = |gap: &OpenGap| gap.noticed_us < i64::MAX;
    assert!(read.gaps().iter().all(noticed), "{:?}", read.gaps());
    going.end();
    assert!(read.find_gaps(&going, 0).is_err());
}

/// Heads about many streams that are not here are one record of the log about itself.
#[test]
fn heads_make_one_note_however_much_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let mut web = Speaker::new(1);
    let len = log.len();
    let much = |heads: &mut Heads| {
        heads.streams.extend((0..2000).map(|worker| Head {
            worker,
            last_sequence: 5,
            ..Head::default()
        }));
    };
    append(&log, vec![web.heads_with(much, |_| {})]).unwrap();
    assert_eq!(log.len(), len + 2);
    until("the gaps are told", || log.gaps().len() == 2000);
    let notes = log
        .scan(len)
        .filter_map(|entry| match entry.unwrap().record.body {
            Some(Body::LogLifecycle(note)) => Some(note.detail),
            _ => None,
        });
    let notes: Vec<String> = notes.collect();
    // It names as many as it has room for.
    let named = notes[0].split("; ").count();
    let more = format!(", and of {} streams more", 2000 - named);
    assert!(named > 30 && notes[0].ends_with(&more), "{notes:?}");
    assert!(notes[0].len() <= 4096, "{notes:?}");
    // Said again, it is nothing new.
    append(&log, vec![web.heads_with(much, |_| {})]).unwrap();
    assert_eq!(log.len(), len + 3);
}

/// On both sides of the limit; what is beyond comes with the next heads. Others have theirs.
#[test]
fn so_many_signatures_are_checked_at_once() {
    let told = |boots: u64, others: u64| {
        let dir = tempfile::tempdir().unwrap();
        let log = open(&dir);
        let ahead = |heads: &mut Heads| {
            heads.streams.push(Head {
                last_sequence: 5,
                ..Head::default()
            });
        };
        let orders = "spiffe://acme.test/ns/shop/sa/orders";
        let mut boots: Vec<Speaker> = (1..=boots).map(Speaker::new).collect();
        boots.extend((1..=others).map(|boot| Speaker::of(orders, boot)));
        let mut promises = || {
            boots
                .iter_mut()
                .map(|b| b.heads_with(ahead, |_| {}))
                .collect()
        };
        append(&log, promises()).unwrap();
        let first = verbs(&log).iter().filter(|verb| *verb == "gap").count();
        append(&log, promises()).unwrap();
        let then = verbs(&log).iter().filter(|verb| *verb == "gap").count();
        (first, then)
    };
    assert_eq!(told(64, 0), (64, 64));
    assert_eq!(told(65, 0), (64, 65));
    assert_eq!(told(65, 2), (66, 67));
}
