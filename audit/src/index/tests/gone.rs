//! Finished segments of a real log that are damaged or gone.

use std::{fs, path::PathBuf, sync::Arc};

use palisade_mesh::clock::Clock;
use tempfile::TempDir;
use ulid::Ulid;

use super::fake::runtime;
use crate::{
    index::{Options, Store},
    log::{Log, LogError, LogOptions, Pending},
    query::Query,
    segment,
    stream::StreamKey,
    testing::{encoded, options, reporter},
};

const RECORDS: u64 = 60;

fn open(dir: &TempDir) -> Log {
    let small = LogOptions {
        segment_bytes: 2000,
        ..options()
    };
    Log::open(dir.path(), small, Clock::system()).unwrap()
}

/// A log of many segments that is closed, and where each begins.
fn closed() -> (TempDir, Vec<(u64, PathBuf)>) {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let stream = Arc::new(StreamKey {
        reporter: reporter(),
        boot: Ulid::from_parts(1, 1),
        worker: 0,
    });
    for sequence in 1..=RECORDS {
        let pending = Pending {
            stream: stream.clone(),
            sequence,
            record: encoded(sequence),
        };
        runtime()
            .block_on(log.append(vec![pending]).checkpointed())
            .unwrap();
    }
    drop(log);
    let firsts = segment::list(dir.path()).unwrap().into_iter();
    let segments: Vec<(u64, PathBuf)> = firsts
        .map(|first| (first, dir.path().join(segment::relative(first))))
        .collect();
    assert!(segments.len() > 5, "{segments:?}");
    (dir, segments)
}

/// Makes an index of all that can be read; how many records it has, and lacks.
fn indexed(log: &Log) -> (u64, u64) {
    let index = tempfile::tempdir().unwrap();
    let source = Arc::new(log.clone());
    let store = Store::open(source, index.path(), Clock::system(), Options::default()).unwrap();
    runtime().block_on(store.flush()).unwrap();
    let status = store.status();
    assert_eq!((status.stalled, status.searchable), (None, log.len()));
    let query = Query::parse("class:* last:40d").unwrap();
    let found = store.search(&query, 1000, None).unwrap();
    assert_eq!(found.coverage.unreadable, status.unreadable);
    assert_eq!(found.coverage.complete, status.unreadable == 0);
    (found.rows.len() as u64, status.unreadable)
}

#[test]
fn a_whole_log_has_nothing_to_tell() {
    let (dir, _) = closed();
    let log = open(&dir);
    assert!(log.damaged().is_empty());
    assert_eq!(indexed(&log), (log.len(), 0));
}

/// The first, and one in the middle: the start tells, the others can be read, and the index
/// has them.
#[test]
fn a_segment_that_is_gone_is_told_and_takes_no_other_along() {
    for gone in [0, 2] {
        let (dir, segments) = closed();
        let (first, path) = &segments[gone];
        let next = segments[gone + 1].0;
        let aside = dir.path().join("aside");
        fs::rename(path, &aside).unwrap();
        let log = open(&dir);
        let told = log.damaged();
        assert_eq!(told.len(), 1, "{told:?}");
        for index in 0..log.len() {
            let read = log.read(index);
            match (*first..next).contains(&index) {
                true => assert!(
                    matches!(read, Err(LogError::Tampered(_))),
                    "{index}: {read:?}"
                ),
                false => assert!(read.is_ok(), "{index}: {read:?}"),
            }
        }
        assert_eq!(indexed(&log), (log.len() - (next - first), next - first));
        drop(log);
        // Who puts it back has it told no more after a start.
        fs::rename(aside, path).unwrap();
        let log = open(&dir);
        assert!(log.damaged().is_empty());
        assert_eq!(indexed(&log), (log.len(), 0));
    }
}

/// So long a part of a segment that no count of single records would do: the index goes on behind
/// it, and takes it in from a copy.
#[test]
fn a_part_of_a_segment_that_is_written_over_holds_nothing_up() {
    const MANY: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options(), Clock::system()).unwrap();
    let stream = Arc::new(StreamKey {
        reporter: reporter(),
        boot: Ulid::from_parts(1, 1),
        worker: 0,
    });
    let pending = |sequence| Pending {
        stream: stream.clone(),
        sequence,
        record: encoded(sequence),
    };
    for first in (1..=MANY).step_by(1000) {
        let batch = (first..first + 1000).map(pending).collect();
        runtime()
            .block_on(log.append(batch).checkpointed())
            .unwrap();
    }
    drop(log);
    // One start later it is finished.
    let aged = || LogOptions {
        segment_age: std::time::Duration::ZERO,
        ..options()
    };
    let log = Log::open(dir.path(), aged(), Clock::system()).unwrap();
    runtime()
        .block_on(log.append(vec![pending(MANY + 1)]).checkpointed())
        .unwrap();
    drop(log);
    let segments = segment::list(dir.path()).unwrap();
    assert!(segments.len() > 1);
    let path = dir.path().join(segment::relative(0));
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    let (from, to) = (whole.len() / 4, whole.len() * 3 / 4);
    bytes[from..to].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let log = Log::open(dir.path(), aged(), Clock::system()).unwrap();
    let (_, unreadable) = indexed(&log);
    let lacks = MANY / 2 - 100..MANY / 2 + 100;
    assert!(lacks.contains(&unreadable), "{unreadable}");
}

/// A copy that takes the place of a cut segment is read at once.
#[test]
fn a_cut_segment_that_is_put_back_needs_no_restart() {
    let (dir, segments) = closed();
    let (_, path) = &segments[2];
    let last = segments[3].0 - 1;
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..whole.len() - 7]).unwrap();
    let log = open(&dir);
    for _ in 0..2 {
        let read = log.read(last);
        assert!(matches!(read, Err(LogError::Tampered(_))), "{read:?}");
    }
    let copy = path.with_extension("copy");
    fs::write(&copy, whole).unwrap();
    fs::rename(&copy, path).unwrap();
    assert!(log.read(last).is_ok());
    assert_eq!(indexed(&log), (log.len(), 0));
}

/// Cut, of another log, and not to be read on from somewhere.
#[test]
fn a_segment_that_is_damaged_is_told() {
    let change: [fn(&mut Vec<u8>); 3] = [
        |bytes| bytes.truncate(bytes.len() - 7),
        |bytes| bytes[25] ^= 1,
        // The length of the first frame.
        |bytes| bytes[42] ^= 0x80,
    ];
    for (n, change) in change.into_iter().enumerate() {
        let (dir, segments) = closed();
        let (first, path) = &segments[2];
        let next = segments[3].0;
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
        let log = open(&dir);
        let told = log.damaged();
        // What keeps its length is found by whoever reads it.
        assert_eq!(told.len(), usize::from(n < 2), "{n}: {told:?}");
        let (has, lacks) = indexed(&log);
        assert_eq!(has + lacks, log.len());
        assert!(lacks <= next - first, "{n}: {lacks} are lacking");
        assert_eq!(lacks == 0, n == 1, "the header is not what is indexed");
    }
}

/// While it runs, too: what is not open yet cannot be opened any more.
#[test]
fn a_segment_that_goes_while_the_log_is_open_is_passed_over() {
    let (dir, segments) = closed();
    let log = open(&dir);
    let (first, path) = &segments[1];
    fs::remove_file(path).unwrap();
    let lost = segments[2].0 - first;
    assert_eq!(indexed(&log), (log.len() - lost, lost));
}
