//! A file system that is really full: spool, log and index on a tmpfs of 16 MiB.
//!
//! Mounting needs a namespace of our own, so these run by name only. The test
//! starts itself again under `unshare`, with the mounted directory in an
//! environment variable.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use palisade_audit::{
    disk::Room,
    index::{Options, Store},
    log::{AppendError, Log, LogOptions, Pending},
    spool::{Spool, SpoolOptions},
    stream::StreamKey,
    verify::{VerifyOptions, verify},
};
use palisade_mesh::{
    clock::Clock,
    sink::{RecordSink as _, SinkError},
    spiffe_id::{SpiffeId, TrustDomain},
    wire::record::{AuditMode, Decision, Record, record::Body},
};
use prost::Message as _;
use tokio::runtime::Runtime;

const DIR: &str = "PALISADE_FULL_DISK";
const REPORTER: &str = "spiffe://acme.test/ns/shop/sa/web";

/// Runs the test of this name again, with a small disk; the disk, once it is there.
fn on_a_small_disk(name: &str) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(DIR) {
        return Some(dir.into());
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = r#"mount -t tmpfs -o size=16m palisade "$1" && exec "$2" --ignored --exact "$3""#;
    let status = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-ec", mount, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(DIR, dir.path())
        .status()
        .unwrap();
    assert!(status.success(), "{name} on a small disk");
    None
}

/// Fills the disk to the last byte.
fn fill(dir: &Path) {
    let path = dir.join("filler");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    for size in [1 << 20, 4096, 1] {
        let block = vec![1; size];
        while file.write_all(&block).is_ok() {}
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn record(n: u64, mode: AuditMode) -> Record {
    Record {
        id: u128::from(n + 1).to_be_bytes().to_vec(),
        time_us: Clock::system().now_us(),
        reporter: REPORTER.into(),
        mode: mode.into(),
        body: Some(Body::Decision(Decision {
            path: format!("/{n}/{}", "x".repeat(4000)),
            ..Decision::default()
        })),
        ..Record::default()
    }
}

#[test]
#[ignore = "mounts a tmpfs in namespaces of its own"]
fn a_spool_on_a_full_disk_sheds_refuses_and_recovers() {
    let Some(dir) = on_a_small_disk("a_spool_on_a_full_disk_sheds_refuses_and_recovers") else {
        return;
    };
    let runtime = Runtime::new().unwrap();
    let reporter = SpiffeId::parse(REPORTER).unwrap();
    let options = SpoolOptions::default();
    let spool = Spool::open(
        &dir.join("spool"),
        reporter.clone(),
        options,
        Clock::system(),
    )
    .unwrap();
    let reserve = dir.join("spool/reserve");
    until("a sixteenth of the disk is kept back", || {
        fs::metadata(&reserve).is_ok_and(|found| found.len() == 1 << 20)
    });
    let mut stream = spool.open(0);
    fill(&dir);
    let mut kept = 0;
    // The reserve is used first.
    let refused = loop {
        stream.append(&record(kept, AuditMode::Strict)).unwrap();
        match runtime.block_on(stream.durable()) {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, SinkError::Io(_)), "{refused}");
    assert!(
        (200..260).contains(&kept),
        "{kept} records of 4 KiB in 1 MiB"
    );
    let stats = spool.stats();
    assert!(!reserve.exists() && stats.failing && stats.room == Room::Full);
    let shed = stream.append(&record(0, AuditMode::BestEffort));
    assert_eq!(shed, Err(SinkError::Full));

    fs::remove_file(dir.join("filler")).unwrap();
    until("it recovers by itself", || {
        let stats = spool.stats();
        !stats.failing && stats.room == Room::Enough && reserve.exists()
    });
    runtime.block_on(stream.durable()).unwrap();
    stream.append(&record(0, AuditMode::BestEffort)).unwrap();
    drop(stream);
    spool.close();
    drop(spool);
    let spool = Spool::open(
        &dir.join("spool"),
        reporter,
        SpoolOptions::default(),
        Clock::system(),
    );
    // All that were durable, the one that was refused, the last, what the spool
    // itself told and two closing heads.
    let waiting = spool.unwrap().stats().waiting;
    assert!(waiting >= kept + 2, "{waiting} of {kept}");
}

#[test]
#[ignore = "mounts a tmpfs in namespaces of its own"]
fn a_log_on_a_full_disk_outlives_its_index_refuses_and_recovers() {
    let name = "a_log_on_a_full_disk_outlives_its_index_refuses_and_recovers";
    let Some(dir) = on_a_small_disk(name) else {
        return;
    };
    let runtime = Runtime::new().unwrap();
    let options = LogOptions::new(TrustDomain::parse("acme.test").unwrap());
    let log = Log::open(&dir.join("log"), options.clone(), Clock::system()).unwrap();
    let source = Arc::new(log.clone());
    let store = Store::open(
        source,
        &dir.join("index"),
        Clock::system(),
        Options::default(),
    );
    let store = store.unwrap();
    let reserve = dir.join("log/reserve");
    until("room is kept back", || reserve.exists());
    let stream = Arc::new(StreamKey {
        reporter: SpiffeId::parse(REPORTER).unwrap(),
        boot: ulid::Ulid::from_parts(1, 1),
        worker: 0,
    });
    let append = |n: u64| {
        let pending = Pending {
            stream: stream.clone(),
            sequence: n,
            record: Bytes::from(record(n, AuditMode::Spool).encode_to_vec()),
        };
        runtime.block_on(log.append(vec![pending]).durable())
    };
    append(1).unwrap();
    fill(&dir);
    let mut next = 2;
    let refused = loop {
        match append(next) {
            Ok(_) => next += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::Io(_)), "{refused}");
    // Checkpoints and tiles take their part of the reserve.
    assert!(next > 100, "{next} records went into the reserve");
    assert_eq!(log.health().room, Room::Full);
    until("the index waits", || store.status().stalled.is_some());

    fs::remove_file(dir.join("filler")).unwrap();
    until("there is room", || log.health().room == Room::Enough);
    append(next).unwrap();
    until("the index catches up", || {
        let status = store.status();
        status.stalled.is_none() && status.searchable == status.log_len
    });
    drop(store);
    log.close();
    drop(log);
    let report = verify(&dir.join("log"), VerifyOptions::default());
    assert!(report.intact(), "{report:?}");
    let again = Log::open(&dir.join("log"), options, Clock::system()).unwrap();
    assert_eq!(again.gaps().len(), 0);
    File::open(dir.join("log/reserve")).unwrap();
}
