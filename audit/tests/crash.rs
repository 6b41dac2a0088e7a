//! Kills a process that writes, at any moment, and looks at what is left.
//!
//! The child is this very program, started again with `PALISADE_CRASH_DIR` set. It
//! prints what was acknowledged to it; everything printed must be there once.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a panic here is a failed test"
)]

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use palisade_audit::{
    ingest::Ingest,
    log::{AppendError, Log, LogOptions, Pending},
    spool::{Spool, SpoolOptions},
    stream::StreamKey,
    verify::{VerifyOptions, verify},
};
use palisade_mesh::{
    clock::Clock,
    sink::RecordSink as _,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::Peer,
    wire::record::{Decision, Record, record::Body},
};
use prost::Message as _;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use ulid::Ulid;

const DIR: &str = "PALISADE_CRASH_DIR";
const FROM: &str = "PALISADE_CRASH_FROM";
const REPORTER: &str = "spiffe://acme.test/ns/shop/sa/web";
const BATCH: u64 = 25;

fn options() -> LogOptions {
    LogOptions {
        group_wait: Duration::from_millis(1),
        checkpoint_every: Duration::from_millis(15),
        segment_bytes: 100_000,
        ..LogOptions::new(TrustDomain::parse("acme.test").unwrap())
    }
}

fn reporter() -> SpiffeId {
    SpiffeId::parse(REPORTER).unwrap()
}

fn record(n: u64) -> Record {
    Record {
        id: Ulid::from_parts(n, n.into()).to_bytes().to_vec(),
        time_us: n as i64,
        reporter: REPORTER.into(),
        body: Some(Body::Decision(Decision {
            path: format!("/orders/{n}"),
            ..Decision::default()
        })),
        ..Record::default()
    }
}

fn batch(from: u64) -> Vec<Pending> {
    let stream = Arc::new(StreamKey {
        reporter: reporter(),
        boot: Ulid::from_parts(1, 1),
        worker: 0,
    });
    let pending = |sequence| Pending {
        stream: stream.clone(),
        sequence,
        record: record(sequence).encode_to_vec().into(),
    };
    (from..from + BATCH).map(pending).collect()
}

/// How often each decision is in the log, by its number.
fn numbers(log: &Log) -> BTreeMap<u64, usize> {
    let mut numbers = BTreeMap::new();
    for entry in log.scan(0) {
        let entry = entry.unwrap();
        if let Some(Body::Decision(_)) = entry.record.body {
            *numbers.entry(entry.record.time_us as u64).or_default() += 1;
        }
    }
    numbers
}

/// Starts `name`, one of the children below.
fn child(name: &str, dir: &Path, from: u64, prefix: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let program = std::env::current_exe().unwrap();
    let mut command = match prefix {
        [] => Command::new(program),
        [shell, rest @ ..] => {
            let mut command = Command::new(shell);
            command.args(rest).arg(program);
            command
        }
    };
    let mut child = command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(FROM, from.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

/// Reads acknowledged numbers until `enough`, kills the child, and gives the
/// highest number that it had printed.
fn kill_after(mut child: Child, out: BufReader<ChildStdout>, enough: Duration) -> u64 {
    let started = Instant::now();
    let mut acknowledged = 0;
    let mut killed = false;
    for line in out.lines() {
        // What it managed to print before the kill counts as well.
        let Ok(line) = line else { break };
        if let Some(n) = line.strip_prefix("acknowledged ") {
            acknowledged = n.parse().unwrap();
            if !killed && started.elapsed() >= enough {
                child.kill().unwrap();
                killed = true;
            }
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself");
    acknowledged
}

/// A time after start that differs from round to round.
fn some_time(round: u64) -> Duration {
    Duration::from_millis(RandomState::new().hash_one(round) % 120)
}

/// Kills per test; `PALISADE_CRASH_ROUNDS` asks for more.
fn rounds() -> u64 {
    let asked = std::env::var("PALISADE_CRASH_ROUNDS");
    asked.map_or(20, |rounds| rounds.parse().unwrap())
}

fn say(n: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "acknowledged {n}").unwrap();
    out.flush().unwrap();
}

#[test]
fn child_appends_to_a_log() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let mut from: u64 = std::env::var(FROM).unwrap().parse().unwrap();
    let log = Log::open(Path::new(&dir), options(), Clock::system()).unwrap();
    let runtime = Runtime::new().unwrap();
    println!();
    let mut ahead = Vec::new();
    loop {
        // Several in flight, as many connections would have them.
        while ahead.len() < 4 {
            ahead.push((from + BATCH - 1, log.append(batch(from))));
            from += BATCH;
        }
        let (last, mut receipt) = ahead.remove(0);
        runtime.block_on(receipt.durable()).unwrap();
        say(last);
    }
}

#[test]
fn a_killed_log_keeps_every_acknowledged_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut from = 1;
    for round in 0..rounds() {
        let (process, out) = child("child_appends_to_a_log", dir.path(), from, &[]);
        let acknowledged = kill_after(process, out, some_time(round));
        let log = Log::open(dir.path(), options(), Clock::system()).unwrap();
        let kept = numbers(&log);
        assert!(
            kept.values().all(|n| *n == 1),
            "round {round}: a record is doubled"
        );
        let highest = *kept.keys().last().unwrap();
        assert!(
            highest >= acknowledged,
            "round {round}: {highest} < {acknowledged}"
        );
        assert_eq!(
            kept.len() as u64,
            highest,
            "round {round}: a record is missing"
        );
        // The sender starts again somewhat earlier, not knowing how far it came.
        from = (acknowledged / BATCH).saturating_sub(2) * BATCH + 1;
    }
    let report = verify(dir.path(), VerifyOptions::default());
    assert!(report.intact(), "{:?}", report.findings);
}

#[test]
fn child_appends_to_a_spool() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let mut n: u64 = std::env::var(FROM).unwrap().parse().unwrap();
    let small = SpoolOptions {
        file_bytes: 20_000,
        ..SpoolOptions::default()
    };
    let spool = Spool::open(Path::new(&dir), reporter(), small, Clock::system()).unwrap();
    let runtime = Runtime::new().unwrap();
    let mut stream = spool.open(0);
    println!();
    loop {
        for _ in 0..BATCH {
            stream.append(&record(n)).unwrap();
            n += 1;
        }
        runtime.block_on(stream.durable()).unwrap();
        say(n - 1);
    }
}

/// Each round a boot is killed; at the end all boots are delivered, while the
/// uplink is cut and comes back.
#[test]
fn a_killed_spool_delivers_every_durable_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    let mut from = 1;
    for round in 0..rounds() {
        let (process, out) = child("child_appends_to_a_spool", dir.path(), from, &[]);
        let last = kill_after(process, out, some_time(round));
        acknowledged.push(from..=last);
        from = last + 1_000_000;
    }
    let log_dir = tempfile::tempdir().unwrap();
    let log = Log::open(log_dir.path(), options(), Clock::system()).unwrap();
    Runtime::new().unwrap().block_on(deliver(dir.path(), &log));
    let kept = numbers(&log);
    assert!(kept.values().all(|n| *n == 1), "a record is doubled");
    for range in acknowledged {
        for n in range {
            assert!(kept.contains_key(&n), "record {n} is missing");
        }
    }
}

async fn deliver(dir: &Path, log: &Log) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ingest = Ingest::new(log.clone(), Clock::system()).service();
    let peer = |mut request: tonic::Request<()>| {
        request.extensions_mut().insert(Peer {
            id: reporter(),
            serial: Arc::from([1u8]),
            not_before_s: 0,
            not_after_s: i64::MAX,
        });
        Ok(request)
    };
    let service = tonic::service::interceptor::InterceptedService::new(ingest, peer);
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let connect = move || async move {
        Endpoint::from_shared(format!("http://{address}"))?
            .connect()
            .await
    };
    for cut in [true, true, false] {
        let spool = Spool::open(dir, reporter(), SpoolOptions::default(), Clock::system());
        let spool = spool.unwrap();
        let uplink = tokio::spawn(spool.clone().uplink(connect));
        if cut {
            let before = log.len();
            let mut len = log.subscribe();
            let some = len.wait_for(|len| *len > before);
            let _ = tokio::time::timeout(Duration::from_secs(20), some).await;
        } else {
            tokio::time::timeout(Duration::from_secs(60), spool.delivered())
                .await
                .expect("everything is delivered");
        }
        uplink.abort();
        let _ = uplink.await;
        spool.close();
    }
}

/// Starts with a limit on the size of files, as a stand-in for a full disk.
#[test]
fn child_fills_the_disk() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let large = LogOptions {
        segment_bytes: 64 << 20,
        ..options()
    };
    let log = Log::open(Path::new(&dir), large, Clock::system()).unwrap();
    let runtime = Runtime::new().unwrap();
    let append = |from| runtime.block_on(log.append(batch(from)).durable());
    let mut n = 1;
    let failed = loop {
        match append(n) {
            Ok(_) => n += BATCH,
            Err(e) => break e,
        }
        assert!(n < 100_000, "the limit was not reached");
    };
    assert!(matches!(failed, AppendError::Io(_)), "{failed}");
    // Reading goes on, and nothing of the failed batch is there.
    assert_eq!(numbers(&log).len() as u64, n - 1);
    // What still fits is taken, in order and without a gap.
    let mut small = batch(n);
    small.truncate(1);
    runtime.block_on(log.append(small).durable()).unwrap();
    assert_eq!(numbers(&log).len() as u64, n);
    println!();
    say(n);
}

#[test]
fn a_full_disk_fails_appends_loudly_and_keeps_the_log_whole() {
    let dir = tempfile::tempdir().unwrap();
    // `sh` counts in blocks of 512 bytes; the signal that would end the process is
    // ignored, so that the write fails as on a full disk.
    let limit = [
        "sh",
        "-c",
        "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"",
    ];
    let (mut process, out) = child("child_fills_the_disk", dir.path(), 1, &limit);
    let lines: Vec<String> = out.lines().map_while(Result::ok).collect();
    assert!(process.wait().unwrap().success(), "{lines:?}");
    let last = lines
        .iter()
        .find_map(|line| line.strip_prefix("acknowledged "))
        .unwrap();
    let log = Log::open(dir.path(), options(), Clock::system()).unwrap();
    let kept = numbers(&log);
    assert_eq!(kept.len() as u64, last.parse::<u64>().unwrap());
    drop(log);
    let report = verify(dir.path(), VerifyOptions::default());
    assert!(report.intact(), "{:?}", report.findings);
}
