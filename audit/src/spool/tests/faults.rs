//! The spool on a disk that is full, slow, broken or cleared by somebody.

use std::{
    collections::HashSet,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use palisade_mesh::wire::record::{Record, SpoolEvent};

use super::*;
use crate::disk::Faults;

const MIB: u64 = 1 << 20;

struct Bench {
    dir: TempDir,
    spool: Arc<Spool>,
    faults: Arc<Faults>,
}

impl Bench {
    fn new(options: SpoolOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (disk, faults) = Disk::faulty();
        let clock = Clock::system();
        let spool = Spool::open_on(dir.path(), reporter(), options, clock, disk).unwrap();
        Self { dir, spool, faults }
    }

    /// Sends everything to a new log.
    async fn deliver(&self) -> (TempDir, Log) {
        deliver(&self.spool).await
    }

    fn files(&self) -> Vec<PathBuf> {
        let boot = self.dir.path().join(self.spool.boot().to_string());
        let mut files: Vec<_> = fs::read_dir(boot)
            .map(|found| found.map(|f| f.unwrap().path()).collect())
            .unwrap_or_default();
        files.sort();
        files
    }

    async fn until(&self, what: &str, holds: impl Fn(&SpoolStats) -> bool) {
        until(|| holds(&self.spool.stats())).await;
        assert!(holds(&self.spool.stats()), "{what}");
    }
}

fn of_mode(n: u64, mode: AuditMode) -> Record {
    Record {
        mode: mode.into(),
        ..decision(n)
    }
}

fn events(log: &Log) -> Vec<SpoolEvent> {
    received(log)
        .into_iter()
        .filter_map(|(_, record)| match record.body {
            Some(Body::SpoolEvent(event)) => Some(event),
            _ => None,
        })
        .collect()
}

fn verbs(log: &Log) -> Vec<String> {
    events(log).into_iter().map(|event| event.verb).collect()
}

/// Nothing that was acknowledged is lost with a file, and the incident is told.
#[tokio::test]
async fn files_that_lose_their_names_are_written_anew() {
    let bench = Bench::new(SpoolOptions {
        file_bytes: 1,
        ..SpoolOptions::default()
    });
    let mut stream = bench.spool.open(0);
    // Every chunk makes a file; all but the last are sealed.
    for n in 1..=3 {
        stream.append(&decision(n)).unwrap();
        soon(stream.durable()).await.unwrap();
    }
    let files = bench.files();
    assert_eq!(files.len(), 3);
    fs::remove_file(&files[0]).unwrap();
    fs::rename(&files[1], bench.dir.path().join("elsewhere")).unwrap();
    fs::write(&files[1], "somebody else's").unwrap();
    bench
        .until("sealed files are back", |stats| stats.restored == 2)
        .await;
    // The incident has a file of its own, a moment later.
    until(|| bench.files().len() >= 5).await;
    assert_eq!(
        bench.files().len(),
        5,
        "and the stranger is aside, the incident told"
    );

    let active = bench
        .files()
        .into_iter()
        .rfind(|f| f.extension().is_some_and(|e| e == "spool"));
    fs::remove_file(active.unwrap()).unwrap();
    fs::remove_dir_all(bench.dir.path().join(bench.spool.boot().to_string())).unwrap();
    stream.append(&decision(4)).unwrap();
    soon(stream.durable()).await.unwrap();
    drop(stream);
    let Bench { dir, spool, .. } = bench;
    spool.close();
    drop(spool);

    // The next start finds everything on disk.
    let spool = Spool::open(
        dir.path(),
        reporter(),
        SpoolOptions::default(),
        Clock::system(),
    );
    let (_, faults) = Disk::faulty();
    let bench = Bench {
        dir,
        spool: spool.unwrap(),
        faults,
    };
    let (_log_dir, log) = bench.deliver().await;
    assert_eq!(paths(&log), expected_paths(1..=4));
    assert!(
        verbs(&log)
            .iter()
            .filter(|verb| *verb == "restored")
            .count()
            >= 2
    );
    assert_eq!(log.gaps().len(), 0);
}

/// The file that is being written.
#[tokio::test]
async fn the_file_in_use_survives_being_removed_and_being_replaced() {
    let bench = Bench::new(SpoolOptions::default());
    let mut stream = bench.spool.open(0);
    for n in 1..=3 {
        stream.append(&decision(n)).unwrap();
        soon(stream.durable()).await.unwrap();
        let path = bench.files().remove(0);
        match n {
            1 => fs::remove_file(path).unwrap(),
            _ => {
                // In one step: what is removed alone may be back before the next line.
                let stranger = path.with_extension("stranger");
                fs::write(&stranger, "stranger").unwrap();
                fs::rename(stranger, path).unwrap();
            }
        }
    }
    stream.append(&decision(4)).unwrap();
    soon(stream.durable()).await.unwrap();
    // Counted a moment after what was lost is durable again.
    bench
        .until("each was noticed", |stats| stats.restored >= 3)
        .await;
    let (_log_dir, log) = bench.deliver().await;
    assert_eq!(paths(&log), expected_paths(1..=4));
    assert!(verbs(&log).contains(&"restored".to_owned()));
}

/// Somebody who removes each file as soon as it has its name hinders nobody: what is told to be
/// durable is delivered all the same.
#[tokio::test]
async fn files_that_lose_their_names_at_once_are_no_trouble() {
    let bench = Bench::new(SpoolOptions {
        file_bytes: 1,
        ..SpoolOptions::default()
    });
    let (dir, ended) = (
        bench.dir.path().to_owned(),
        Arc::new(AtomicBool::new(false)),
    );
    let remover = std::thread::spawn({
        let ended = ended.clone();
        move || {
            // Each once: all of them again and again would keep any disk from the rest.
            let mut removed = HashSet::new();
            while !ended.load(Ordering::Relaxed) || removed.is_empty() {
                remove_spool_files(&dir, &mut removed);
            }
        }
    });
    let mut stream = bench.spool.open(0);
    for n in 1..=10 {
        stream.append(&decision(n)).unwrap();
        soon(stream.durable()).await.unwrap();
    }
    ended.store(true, Ordering::Relaxed);
    remover.join().unwrap();
    let (_log_dir, log) = bench.deliver().await;
    assert_eq!(paths(&log), expected_paths(1..=10));
}

/// Removes those that were not removed before.
fn remove_spool_files(spool: &Path, removed: &mut HashSet<PathBuf>) {
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    for file in below(spool).flat_map(|boot| below(&boot.path())) {
        let path = file.path();
        let is_ours = path.extension().is_some_and(|e| e == "spool");
        if is_ours && !removed.contains(&path) && fs::remove_file(&path).is_ok() {
            removed.insert(path);
        }
    }
}

/// Room runs out: the reserve is given up, what may be lost goes first, what may
/// not is refused and said to be, and all of it ends with the shortage.
#[tokio::test]
async fn a_full_disk_sheds_in_order_and_recovers_by_itself() {
    let bench = Bench::new(SpoolOptions {
        reserve_bytes: 2 * MIB,
        ..SpoolOptions::default()
    });
    bench.faults.set_free(20 * MIB);
    let mut stream = bench.spool.open(0);
    let reserve = bench.dir.path().join("reserve");
    // Its file is there before its room is.
    until(|| bench.faults.space().free <= 18 * MIB).await;
    assert!(reserve.exists());
    // Somebody else fills the disk to the last byte.
    bench.faults.set_free(0);
    stream.append(&of_mode(1, AuditMode::Strict)).unwrap();
    soon(stream.durable()).await.unwrap();
    assert!(!reserve.exists(), "its room was used");
    let stats = bench.spool.stats();
    assert_eq!((stats.room, stats.failing), (Room::Full, false));
    assert_eq!(
        stream.append(&of_mode(2, AuditMode::BestEffort)),
        Err(SinkError::Full)
    );
    stream.append(&of_mode(3, AuditMode::Spool)).unwrap();
    soon(stream.durable()).await.unwrap();

    // The reserve is used up as well.
    bench.faults.set_free(0);
    stream.append(&of_mode(4, AuditMode::Strict)).unwrap();
    let refused = soon(stream.durable()).await;
    assert!(matches!(refused, Err(SinkError::Io(_))), "{refused:?}");
    assert!(bench.spool.stats().failing);
    assert_eq!(bench.spool.stats().dropped, [0, 0, 1]);

    // Room again: what was held in memory is written, nobody has to do anything.
    bench.faults.set_free(30 * MIB);
    bench
        .until("it recovers", |stats| {
            !stats.failing && stats.room == Room::Enough
        })
        .await;
    soon(stream.durable()).await.unwrap();
    stream.append(&of_mode(5, AuditMode::BestEffort)).unwrap();
    drop(stream);
    bench.spool.close();
    let (_log_dir, log) = bench.deliver().await;
    assert_eq!(paths(&log), {
        let mut paths: Vec<_> = [1, 3, 4, 5].map(|n| format!("/orders/{n}")).into();
        paths.sort();
        paths
    });
    let told = events(&log);
    let dropped: Vec<_> = told.iter().filter(|e| e.verb == "dropped").collect();
    assert_eq!(dropped.len(), 1);
    assert_eq!(
        (dropped[0].strict, dropped[0].spool, dropped[0].best_effort),
        (0, 0, 1)
    );
    for verb in ["disk_low", "disk_recovered"] {
        assert!(told.iter().any(|e| e.verb == verb), "{verb}: {told:?}");
    }
    // A declared loss is no gap.
    assert_eq!(log.gaps().len(), 0);
}

/// What is held when the process ends and the disk takes nothing is lost, and not without a
/// word: the next start tells how much of what, once.
#[tokio::test]
async fn what_is_lost_with_the_process_is_told_by_the_next() {
    let bench = Bench::new(SpoolOptions {
        reserve_bytes: 2 * MIB,
        ..SpoolOptions::default()
    });
    bench.faults.set_free(0);
    let mut stream = bench.spool.open(0);
    for mode in [AuditMode::Strict, AuditMode::Spool, AuditMode::BestEffort] {
        stream.append(&of_mode(7, mode)).unwrap();
    }
    let refused = soon(stream.durable()).await;
    assert!(matches!(refused, Err(SinkError::Io(_))), "{refused:?}");
    drop(stream);
    bench.spool.close();
    let Bench { dir, spool, faults } = bench;
    drop(spool);
    let mut told = Vec::new();
    for _ in 0..2 {
        let options = SpoolOptions::default();
        let spool = Spool::open(dir.path(), reporter(), options, Clock::system()).unwrap();
        spool.close();
        let bench = Bench {
            dir: tempfile::tempdir().unwrap(),
            spool,
            faults: faults.clone(),
        };
        let (_log_dir, log) = bench.deliver().await;
        told.extend(events(&log).into_iter().filter(|e| e.verb == "dropped"));
        assert!(paths(&log).is_empty());
    }
    assert_eq!(told.len(), 1, "{told:?}");
    // The closing head of the stream is one of mode `spool`, too.
    let counts = (told[0].strict, told[0].spool, told[0].best_effort);
    assert_eq!(counts, (1, 2, 1));
    assert_eq!((told[0].from_us, told[0].until_us > 7), (7, true));
}

/// The next start may have no better disk, and says what it lost itself beside that; one that
/// lost nothing keeps what there is to tell.
#[tokio::test]
async fn what_is_lost_is_told_by_the_first_start_that_can() {
    let dir = tempfile::tempdir().unwrap();
    for lost in [2, 0, 1] {
        let (disk, faults) = Disk::faulty();
        faults.set_free(0);
        let options = SpoolOptions {
            reserve_bytes: 2 * MIB,
            ..SpoolOptions::default()
        };
        let clock = Clock::system();
        let spool = Spool::open_on(dir.path(), reporter(), options, clock, disk).unwrap();
        if lost > 0 {
            let mut stream = spool.open(0);
            for _ in 0..lost {
                stream.append(&of_mode(7, AuditMode::Strict)).unwrap();
            }
            assert!(soon(stream.durable()).await.is_err());
        }
        spool.close();
    }
    let (disk, faults) = Disk::faulty();
    let (options, clock) = (SpoolOptions::default(), Clock::system());
    let spool = Spool::open_on(dir.path(), reporter(), options, clock, disk).unwrap();
    spool.close();
    let bench = Bench { dir, spool, faults };
    let (_log_dir, log) = bench.deliver().await;
    let told = events(&log);
    let dropped: Vec<_> = told.iter().filter(|e| e.verb == "dropped").collect();
    assert_eq!(dropped.len(), 1, "{told:?}");
    assert_eq!(dropped[0].strict, 3);
    assert_eq!((dropped[0].from_us, dropped[0].until_us > 7), (7, true));
}

/// Where nothing was lost there is nothing to tell.
#[tokio::test]
async fn a_start_that_loses_nothing_notes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, faults) = Disk::faulty();
    faults.set_free(0);
    let (options, clock) = (SpoolOptions::default(), Clock::system());
    let spool = Spool::open_on(dir.path(), reporter(), options, clock, disk).unwrap();
    // Its word about the disk is of its own stream, and finds no room.
    spool.close();
    assert!(
        fs::read(dir.path().join("loss"))
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
}

#[tokio::test]
async fn a_spool_at_its_limit_sheds_best_effort_before_it_refuses_the_rest() {
    let bench = Bench::new(SpoolOptions {
        spool_bytes: 40_000,
        ..SpoolOptions::default()
    });
    let mut stream = bench.spool.open(0);
    let mut fill = async |mode: AuditMode| {
        let mut n = 0;
        while stream.append(&of_mode(n, mode)).is_ok() {
            soon(stream.durable()).await.unwrap();
            n += 1;
        }
        bench.spool.stats().bytes
    };
    let shed_at = fill(AuditMode::BestEffort).await;
    assert!((35_000..36_000).contains(&shed_at), "{shed_at}");
    let full_at = fill(AuditMode::Spool).await;
    assert!((40_000..41_000).contains(&full_at), "{full_at}");
    assert_eq!(
        stream.append(&of_mode(0, AuditMode::Strict)),
        Err(SinkError::Full)
    );
    assert_eq!(bench.spool.stats().dropped, [1, 1, 1]);
    let (_log_dir, log) = bench.deliver().await;
    drop(stream);
    bench.spool.close();
    assert_eq!(log.gaps().len(), 0);
}

/// An fsync that does not come back: seen while it lasts, and what is only spooled
/// goes on up to the buffers' limit.
#[tokio::test]
async fn a_stalled_fsync_is_seen_and_holds_up_only_who_waits_for_it() {
    let bench = Bench::new(SpoolOptions {
        buffer_records: 100,
        ..SpoolOptions::default()
    });
    bench.faults.hold(true);
    let mut stream = bench.spool.open(0);
    stream.append(&of_mode(1, AuditMode::Strict)).unwrap();
    let waiting = stream.durable();
    let waited = tokio::time::timeout(Duration::from_millis(50), waiting).await;
    assert!(waited.is_err(), "it is not durable");
    bench
        .until("the stall is seen", |stats| stats.stalled.is_some())
        .await;
    let mut taken = 0;
    while stream.append(&of_mode(taken, AuditMode::Spool)).is_ok() {
        taken += 1;
        stream.flush();
    }
    assert!(taken >= 100 + QUEUE_CHUNKS as u64 - 1, "{taken} were taken");
    bench.faults.hold(false);
    bench
        .until("the stall is over", |stats| stats.stalled.is_none())
        .await;
    // What found no place in the queue goes with a later flush, which a worker's timer does.
    let flushed = async {
        let again = Duration::from_millis(50);
        while tokio::time::timeout(again, stream.durable()).await.is_err() {}
    };
    soon(flushed).await;
    let fsync = bench.spool.health().fsync;
    assert!(fsync.longest >= crate::disk::STALL_AFTER);
    assert!(fsync.counts.iter().sum::<u64>() > 1);
}

/// A thread that dies is not silent: waiting ends, nothing more is taken.
#[tokio::test]
async fn a_panic_of_the_writing_thread_closes_the_spool() {
    let bench = Bench::new(SpoolOptions::default());
    let mut stream = bench.spool.open(0);
    stream.append(&decision(1)).unwrap();
    soon(stream.durable()).await.unwrap();
    bench.faults.panic();
    stream.append(&of_mode(2, AuditMode::Strict)).unwrap();
    assert_eq!(soon(stream.durable()).await, Err(SinkError::Closed));
    assert!(bench.spool.stats().dead && bench.spool.health().dead);
    assert_eq!(stream.append(&decision(3)), Err(SinkError::Closed));
    let mut later = bench.spool.open(1);
    assert_eq!(later.append(&decision(4)), Err(SinkError::Closed));
    // What was durable is still delivered.
    let (_log_dir, log) = bench.deliver().await;
    assert_eq!(paths(&log), expected_paths(1..=1));
}

/// What somebody else left in the directory is not held against us.
#[test]
fn files_of_another_reporter_do_not_count_against_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let other = SpiffeId::parse("spiffe://acme.test/ns/shop/sa/other").unwrap();
    let boot = new_ulid(&Clock::system());
    let path = file::path(dir.path(), boot, 0);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut contents = file::header(&other, boot, &[7; 16]);
    contents.resize(100_000, 0);
    fs::write(&path, contents).unwrap();
    let options = SpoolOptions {
        spool_bytes: 50_000,
        ..SpoolOptions::default()
    };
    let spool = Spool::open(dir.path(), reporter(), options, Clock::system()).unwrap();
    assert_eq!(spool.stats().bytes, 0);
    let mut stream = spool.open(0);
    stream.append(&decision(1)).unwrap();
    assert!(path.exists(), "it is left as it is");
}
