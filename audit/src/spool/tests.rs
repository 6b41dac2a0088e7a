//! The spool through its public doors, against a real log over loopback.

use std::fs;

use palisade_mesh::{
    sink::SinkError,
    wire::{
        audit::Envelope,
        record::{Heads, Record, StreamHead, record::Body},
    },
};
use prost::Message as _;
use tempfile::TempDir;

use super::*;
use crate::{
    log::Log,
    testing::{
        REPORTER, TestServer, TestSigner, connect, decision, expected_paths, open_log, paths, peer,
        received, reporter, soon, until,
    },
};

mod damage;
mod faults;

fn open(dir: &TempDir) -> Arc<Spool> {
    open_with(dir, SpoolOptions::default())
}

fn open_with(dir: &TempDir, options: SpoolOptions) -> Arc<Spool> {
    Spool::open(dir.path(), reporter(), options, Clock::system()).unwrap()
}

async fn append(stream: &mut Box<dyn RecordStream>, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        stream.append(&decision(n)).unwrap();
    }
    soon(stream.durable()).await.unwrap();
}

async fn server(log: &Log) -> TestServer {
    TestServer::start(log.clone(), Some(peer(REPORTER, i64::MAX)), Clock::system()).await
}

fn uplink(spool: &Arc<Spool>, server: &TestServer) -> tokio::task::JoinHandle<()> {
    let address = server.address;
    tokio::spawn(spool.clone().uplink(move || connect(address)))
}

/// Sends everything to a new log.
async fn deliver(spool: &Arc<Spool>) -> (TempDir, Log) {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    let server = server(&log).await;
    let task = uplink(spool, &server);
    soon(spool.delivered()).await;
    task.abort();
    let _ = task.await;
    (dir, log)
}

fn spool_files(dir: &TempDir) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for boot in fs::read_dir(dir.path()).unwrap() {
        let boot = boot.unwrap().path();
        if boot.is_dir() {
            files.extend(fs::read_dir(boot).unwrap().map(|f| f.unwrap().path()));
        }
    }
    files.sort();
    files
}

#[tokio::test]
async fn records_of_all_workers_arrive_once_and_the_disk_is_freed() {
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open_log(&log_dir);
    let server = server(&log).await;
    let spool = open(&dir);
    let mut first = spool.open(0);
    let mut second = spool.open(1);
    append(&mut first, 1..=500).await;
    assert_eq!(spool.stats().waiting, 500);
    let task = uplink(&spool, &server);
    append(&mut second, 501..=900).await;
    soon(spool.delivered()).await;
    assert_eq!(paths(&log), expected_paths(1..=900));
    let stats = spool.stats();
    assert!(stats.connected && stats.last_ack_us.is_some() && stats.waiting == 0);

    drop((first, second));
    spool.close();
    soon(task).await.unwrap();
    assert_eq!(spool_files(&dir), Vec::<PathBuf>::new());
    assert_eq!(spool.stats().bytes, 0);
    // Both streams say that they ended.
    let closing = received(&log).into_iter().filter(|(_, record)| {
        matches!(
            record.body,
            Some(Body::StreamHead(StreamHead { closed: true, .. }))
        )
    });
    assert_eq!(closing.count(), 2);
}

/// Nobody starts such a reporter again, and its file is never full.
#[tokio::test]
async fn what_the_log_has_leaves_the_file_of_a_reporter_that_says_little() {
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open_log(&log_dir);
    let server = server(&log).await;
    let options = SpoolOptions {
        file_age: Duration::from_millis(500),
        ..SpoolOptions::default()
    };
    let spool = open_with(&dir, options);
    let mut stream = spool.open(0);
    append(&mut stream, 1..=3).await;
    let files = spool_files(&dir);
    assert_eq!(files.len(), 1);
    // Nobody has it yet, however old the file is.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(spool_files(&dir), files);
    uplink(&spool, &server);
    soon(spool.delivered()).await;
    soon(async {
        while !spool_files(&dir).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(spool.stats().bytes, 0);
    append(&mut stream, 4..=6).await;
    soon(spool.delivered()).await;
    assert_eq!(paths(&log), expected_paths(1..=6));
}

#[tokio::test]
async fn without_an_uplink_records_wait_and_the_next_boot_sends_them_first() {
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spool = open(&dir);
    let old_boot = spool.boot();
    let mut stream = spool.open(0);
    append(&mut stream, 1..=100).await;
    drop(stream);
    drop(spool);

    let spool = open(&dir);
    assert!(spool.boot() > old_boot);
    assert_eq!(spool.stats().waiting, 101);
    let mut stream = spool.open(0);
    append(&mut stream, 101..=120).await;
    let log = open_log(&log_dir);
    let server = server(&log).await;
    uplink(&spool, &server);
    soon(spool.delivered()).await;
    assert_eq!(paths(&log), expected_paths(1..=120));
    let boots: Vec<Vec<u8>> = received(&log)
        .into_iter()
        .map(|(envelope, _)| envelope.stream.unwrap().boot)
        .collect();
    assert!(boots.is_sorted(), "the older boot comes first");
    assert!(!dir.path().join(old_boot.to_string()).exists());
}

/// The log is cut off and comes back, again and again, under load.
#[tokio::test]
async fn a_log_that_comes_and_goes_gets_every_record_once() {
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let small = SpoolOptions {
        file_bytes: 20_000,
        ..SpoolOptions::default()
    };
    let spool = open_with(&dir, small);
    let mut stream = spool.open(0);
    let mut log = open_log(&log_dir);
    let address = Arc::new(Mutex::new(None));
    let target = address.clone();
    let connector = move || {
        let address = *target.lock().unwrap();
        async move {
            match address {
                Some(address) => connect(address).await.map_err(|e| e.to_string()),
                None => Err("nobody listens".to_owned()),
            }
        }
    };
    tokio::spawn(spool.clone().uplink(connector));
    for round in 0..5 {
        let server = server(&log).await;
        *address.lock().unwrap() = Some(server.address);
        append(&mut stream, 200 * round + 1..=200 * round + 200).await;
        // Somewhere in the middle of it.
        let mut len = log.subscribe();
        soon(len.wait_for(|len| *len > 200 * round + 50))
            .await
            .unwrap();
        *address.lock().unwrap() = None;
        server.stop().await;
        if round % 2 == 1 {
            log.close();
            drop(log);
            log = open_log(&log_dir);
        }
    }
    let server = server(&log).await;
    *address.lock().unwrap() = Some(server.address);
    soon(spool.delivered()).await;
    assert_eq!(paths(&log), expected_paths(1..=1000));
    assert!(spool_files(&dir).len() <= 1, "delivered files are removed");
}

#[tokio::test]
async fn a_full_spool_says_so_and_goes_on_once_there_is_room() {
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let small = SpoolOptions {
        spool_bytes: 4000,
        file_bytes: 1000,
        ..SpoolOptions::default()
    };
    let spool = open_with(&dir, small);
    let mut stream = spool.open(0);
    let mut n = 0;
    let full = loop {
        match stream.append(&decision(n + 1)) {
            Ok(()) => n += 1,
            Err(e) => break e,
        }
        soon(stream.durable()).await.unwrap();
    };
    assert_eq!(full, SinkError::Full);
    assert!(n > 10 && spool.stats().bytes >= 4000);
    let log = open_log(&log_dir);
    let server = server(&log).await;
    uplink(&spool, &server);
    soon(spool.delivered()).await;
    append(&mut stream, n + 1..=n + 5).await;
    soon(spool.delivered()).await;
    assert_eq!(paths(&log), expected_paths(1..=n + 5));
}

#[tokio::test]
async fn a_disk_that_refuses_fails_loudly_and_loses_nothing_when_it_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(&dir);
    let mut stream = spool.open(0);
    // Where the boot's folder should be made there is a file.
    let folder = dir.path().join(spool.boot().to_string());
    fs::write(&folder, "in the way").unwrap();
    stream.append(&decision(1)).unwrap();
    let failed = soon(stream.durable()).await;
    assert!(matches!(failed, Err(SinkError::Io(_))), "{failed:?}");
    assert!(spool.stats().failing);
    fs::remove_file(&folder).unwrap();
    stream.append(&decision(2)).unwrap();
    let kept = async {
        while stream.durable().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(kept).await;
    assert_eq!(spool.stats().waiting, 2);
}

/// A killed process leaves half a write: what was durable is sent, the rest is not there.
#[tokio::test]
async fn half_a_write_at_the_end_of_a_file_is_left_out() {
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spool = open(&dir);
    let mut stream = spool.open(0);
    append(&mut stream, 1..=10).await;
    drop(stream);
    drop(spool);
    let file = spool_files(&dir).pop().unwrap();
    let bytes = fs::read(&file).unwrap();
    // Into the chunk of the closing head.
    fs::write(&file, &bytes[..bytes.len() - 20]).unwrap();
    let spool = open(&dir);
    assert_eq!(spool.stats().waiting, 10);
    assert_eq!(spool.stats().damaged, 0, "as every kill may leave it");
    let log = open_log(&log_dir);
    let server = server(&log).await;
    uplink(&spool, &server);
    soon(spool.delivered()).await;
    assert_eq!(paths(&log), expected_paths(1..=10));
}

#[test]
fn one_process_and_one_stream_per_worker() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(&dir);
    let second = Spool::open(
        dir.path(),
        reporter(),
        SpoolOptions::default(),
        Clock::system(),
    );
    assert!(matches!(second, Err(SpoolError::Locked(_))));
    let mut stream = spool.open(3);
    let mut again = spool.open(3);
    assert_eq!(again.append(&decision(1)), Err(SinkError::Closed));
    assert_eq!(stream.append(&decision(1)), Ok(()));
    spool.close();
    assert_eq!(stream.append(&decision(2)), Err(SinkError::Closed));
}

#[tokio::test]
async fn what_cannot_be_kept_any_more_is_not_called_durable() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(&dir);
    let mut stream = spool.open(0);
    stream.append(&decision(1)).unwrap();
    spool.close();
    assert_eq!(soon(stream.durable()).await, Err(SinkError::Closed));
}

#[test]
fn files_of_another_reporter_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(&dir);
    let mut stream = spool.open(0);
    stream.append(&decision(1)).unwrap();
    drop(stream);
    drop(spool);
    let other = SpiffeId::parse("spiffe://acme.test/other").unwrap();
    let spool = Spool::open(dir.path(), other, SpoolOptions::default(), Clock::system()).unwrap();
    assert_eq!(spool.stats().waiting, 0);
    assert_eq!(spool_files(&dir).len(), 1);
}

/// How far a file went is kept before the next one is begun: a kill in between leaves no file
/// that could be lost unnoticed.
#[tokio::test]
async fn how_far_a_file_went_is_kept_before_the_next_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let options = SpoolOptions {
        file_bytes: 1,
        ..SpoolOptions::default()
    };
    let spool = open_with(&dir, options);
    let mut stream = spool.open(2);
    append(&mut stream, 1..=5).await;
    // The next file cannot be made.
    let next = file::path(dir.path(), spool.boot(), spool_files(&dir).len() as u64);
    fs::create_dir_all(next.join("in the way")).unwrap();
    stream.append(&decision(6)).unwrap();
    assert!(soon(stream.durable()).await.is_err());
    let reached = fs::read_to_string(dir.path().join("reached")).unwrap();
    let last = format!("{} 2 5\n", spool.boot());
    assert!(reached.contains(&last), "{reached}");
}

/// A process that was killed left records here, and somebody took its files away before the
/// log had any of it: the next start says how far they were, until the log has heard it.
#[tokio::test]
async fn files_of_a_killed_start_that_are_gone_are_missed() {
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = SpoolOptions {
        heads_every: Duration::from_millis(10),
        ..SpoolOptions::default()
    };
    let killed = open_with(&dir, options.clone());
    let mut stream = killed.open(2);
    append(&mut stream, 1..=5).await;
    let reached = format!("{} 2 5\n", killed.boot());
    let is_kept =
        || fs::read_to_string(dir.path().join("reached")).is_ok_and(|t| t.contains(&reached));
    soon(async {
        while !is_kept() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // As it is after a kill, without the folder of its files.
    let left = tempfile::tempdir().unwrap();
    fs::copy(dir.path().join("reached"), left.path().join("reached")).unwrap();
    // One that signs nothing, and ends, changes nothing of that.
    open_with(&left, options.clone()).close();
    let spool = open_with(&left, options);
    spool.sign_heads(Arc::new(TestSigner::new(REPORTER, 1)));
    let log = open_log(&log_dir);
    let server = server(&log).await;
    let task = uplink(&spool, &server);
    let mut gaps = Vec::new();
    soon(async {
        while gaps.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            gaps = log.gaps().to_vec();
        }
    })
    .await;
    let missing = (gaps[0].missing.from, gaps[0].missing.to);
    assert_eq!(
        (gaps.len(), gaps[0].stream.boot, gaps[0].stream.worker),
        (1, killed.boot(), 2)
    );
    assert_eq!(missing, (1, 5));
    soon(async {
        let gone =
            || fs::read_to_string(left.path().join("reached")).is_ok_and(|t| !t.contains(&reached));
        while !gone() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    task.abort();
}

/// A spool that is opened only to send what another process left says how far that was, also
/// when nothing of it is left to be sent; and it says nothing where the log has all.
#[tokio::test]
async fn what_a_spool_was_left_with_is_told_when_it_ends() {
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let older = open(&dir);
    let mut stream = older.open(2);
    append(&mut stream, 1..=5).await;
    let boot = older.boot();
    let is_kept =
        || fs::read_to_string(dir.path().join("reached")).is_ok_and(|t| t.contains(" 2 5\n"));
    until(is_kept).await;
    // As it is after a kill, without the folder of its files.
    let left = tempfile::tempdir().unwrap();
    fs::copy(dir.path().join("reached"), left.path().join("reached")).unwrap();
    let log = open_log(&log_dir);
    let server = server(&log).await;
    let taken_over = async |dir: &TempDir| {
        let spool = open(dir);
        let has_left = spool.has_left();
        spool.sign_heads(Arc::new(TestSigner::new(REPORTER, 1)));
        let task = uplink(&spool, &server);
        soon(spool.delivered()).await;
        spool.close();
        soon(task).await.unwrap();
        has_left
    };
    assert!(taken_over(&left).await);
    let gaps = log.gaps();
    assert_eq!((gaps.len(), gaps[0].stream.boot), (1, boot));
    assert_eq!((gaps[0].missing.from, gaps[0].missing.to), (1, 5));
    assert!(!taken_over(&left).await);
    // The same with what was delivered before it was killed.
    drop(stream);
    drop(older);
    assert!(taken_over(&dir).await);
    assert_eq!(log.gaps().to_vec(), []);
    assert!(!taken_over(&dir).await);
}

/// What was delivered is not told by the next start: a log that begins anew misses nothing of it.
#[tokio::test]
async fn what_the_log_has_is_not_missed_by_another() {
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spool = open(&dir);
    let mut stream = spool.open(2);
    append(&mut stream, 1..=5).await;
    let reached = || fs::read_to_string(dir.path().join("reached")).unwrap_or_default();
    until(|| reached().contains(" 2 5\n")).await;
    let log = open_log(&log_dir);
    let server = server(&log).await;
    let task = uplink(&spool, &server);
    let nothing = format!("{REPORTER}\n{} {OWN_WORKER} 0\n", spool.boot());
    until(|| reached() == nothing).await;
    append(&mut stream, 6..=6).await;
    soon(spool.delivered()).await;
    until(|| reached() == nothing).await;
    task.abort();
}

/// Nobody signs for a while: what is said then is about all that came meanwhile.
#[tokio::test]
async fn heads_that_could_not_be_signed_are_made_up_for() {
    struct Rarely(TestSigner, std::sync::atomic::AtomicU32);
    impl HeadSigner for Rarely {
        fn sign(&self, message: &[u8]) -> Option<crate::heads::HeadSignature> {
            let asked = self.1.fetch_add(1, Ordering::Relaxed);
            (asked % 3 == 2).then(|| self.0.sign(message))?
        }
    }
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = SpoolOptions {
        heads_every: Duration::from_millis(1),
        ..SpoolOptions::default()
    };
    // One before it, which is named.
    let first = open_with(&dir, options.clone());
    first.sign_heads(Arc::new(TestSigner::new(REPORTER, 1)));
    first.close();
    let before = first.boot();
    drop(first);
    let spool = open_with(&dir, options);
    let signer = Rarely(TestSigner::new(REPORTER, 2), Default::default());
    spool.sign_heads(Arc::new(signer));
    let log = open_log(&log_dir);
    let server = server(&log).await;
    let task = uplink(&spool, &server);
    let mut stream = spool.open(0);
    let heads = || {
        let of = |(envelope, record): (Envelope, Record)| match record.body {
            Some(Body::StreamHeads(signed)) => {
                let boot = envelope.stream.unwrap().boot;
                let heads = Heads::decode(signed.heads.as_slice()).unwrap();
                (boot == spool.boot().to_bytes()).then_some(heads)
            }
            _ => None,
        };
        received(&log)
            .into_iter()
            .filter_map(of)
            .collect::<Vec<_>>()
    };
    append(&mut stream, 1..=3).await;
    until(|| !heads().is_empty()).await;
    append(&mut stream, 4..=6).await;
    until(|| heads().len() >= 2).await;
    let mut next = 1;
    for heads in heads() {
        assert_eq!(heads.previous_boot, before.to_bytes());
        for head in heads.streams.iter().filter(|head| head.worker == 0) {
            assert_eq!(head.first_sequence, next);
            next = head.last_sequence + 1;
        }
    }
    task.abort();
}

/// A record has room for so many streams; heads about more are several, and verify.
#[tokio::test]
async fn heads_of_many_streams_are_several_records() {
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spool = open(&dir);
    let mut streams: Vec<_> = (0..1100).map(|worker| spool.open(worker)).collect();
    for stream in &mut streams {
        stream.append(&decision(1)).unwrap();
    }
    spool.sign_heads(Arc::new(TestSigner::new(REPORTER, 1)));
    drop(streams);
    let log = open_log(&log_dir);
    let server = server(&log).await;
    let task = uplink(&spool, &server);
    spool.close();
    soon(task).await.unwrap();
    let heads = received(&log)
        .into_iter()
        .filter_map(|(_, record)| match record.body {
            Some(Body::StreamHeads(signed)) => Heads::decode(signed.heads.as_slice()).ok(),
            _ => None,
        });
    let heads: Vec<Heads> = heads.collect();
    let of: Vec<usize> = heads.iter().map(|heads| heads.streams.len()).collect();
    assert_eq!(of.iter().sum::<usize>(), 1100, "{of:?}");
    assert!(of.iter().all(|n| *n <= 512), "{of:?}");
    assert!(
        heads
            .iter()
            .rev()
            .map(|heads| heads.last)
            .eq((0..of.len()).map(|n| n == 0))
    );
    log.close();
    let report = crate::verify::verify(log_dir.path(), crate::verify::VerifyOptions::default());
    assert_eq!(report.findings, []);
    assert!(report.complete());
}

/// What policy masks is in no file of a reporter, though a rule of the process seals it; the
/// next record has its own mask, and the one without any is as it was.
#[tokio::test]
async fn what_policy_masks_is_in_no_file_of_the_spool() {
    use palisade_mesh::personal::Mask;

    use crate::privacy::{Handling, Personal, Rules};

    let header = || Personal::Header("x-user".into());
    let dir = tempfile::tempdir().unwrap();
    let rules = Rules::new([
        (header(), Handling::Sealed),
        (Personal::SourceIp, Handling::Masked),
    ]);
    let options = SpoolOptions {
        rules: Arc::new(rules),
        ..SpoolOptions::default()
    };
    let spool = open_with(&dir, options);
    let mut stream = spool.open(0);
    let record = |n: u64, path: &str, user: &str| {
        let mut record = decision(n);
        let Some(Body::Decision(body)) = &mut record.body else {
            panic!("{record:?}");
        };
        let context =
            format!("{{\"http\":{{\"headers\":{{\"x-user\":\"{user}\"}},\"path\":\"{path}\"}}}}");
        (body.path, body.context_json) = (path.to_owned(), context);
        record
    };
    let masks = [
        Mask::of([Personal::Path, header()]),
        Mask::of([header()]),
        Mask::NONE,
    ];
    for (n, mask) in (1..).zip(masks) {
        let record = record(n, &format!("/path-{n}"), &format!("user-{n}"));
        stream.append_masked(&record, &mask).unwrap();
    }
    soon(stream.durable()).await.unwrap();
    let bytes: Vec<u8> = spool_files(&dir)
        .iter()
        .flat_map(|file| fs::read(file).unwrap())
        .collect();
    let has = |what: &str| bytes.windows(what.len()).any(|w| w == what.as_bytes());
    let kept = [
        "/path-1", "user-1", "/path-2", "user-2", "/path-3", "user-3",
    ]
    .map(has);
    // The last one is beside its record, on its way to the log, which seals it.
    assert_eq!(kept, [false, false, true, false, true, true]);
    drop(stream);

    let (_dir, log) = deliver(&spool).await;
    let covers = |record: &Record| {
        let covers = record.covers.iter();
        let named = covers.map(|c| format!("{} {}", c.field, c.handling().as_str_name()));
        named.collect::<Vec<_>>()
    };
    let kept = received(&log).into_iter().map(|(_, record)| record);
    let kept = kept.filter(|record| matches!(record.body, Some(Body::Decision(_))));
    let kept: Vec<_> = kept.map(|record| covers(&record)).collect();
    let masked = "header:x-user HANDLING_MASKED".to_owned();
    assert_eq!(kept[0], ["path HANDLING_MASKED".to_owned(), masked.clone()]);
    assert_eq!(kept[1], [masked]);
    assert_eq!(kept[2].len(), 1, "{kept:?}");
}
