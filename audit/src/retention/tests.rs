//! What is dropped, what stays, and what proves both.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use palisade_mesh::{
    clock::Clock,
    wire::record::{Admin, Decision, Outcome as Ended, Record, record::Body},
};
use prost::Message as _;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::{
    archive::Archive,
    holds::{Hold, Holds},
    log::{LogOptions, Pending, Point},
    segment,
    stream::{StreamKey, new_ulid},
    testing::{REPORTER, reporter},
    verify::{FindingKind, VerifyOptions, VerifyReport, verify},
};

mod beside;
mod clocks;
mod damage;
mod dropped;
mod forged;
mod holds;
mod index;
mod periods;
mod put_back;
mod story;

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn periods(written: &[(&'static str, &str)]) -> Periods {
    Periods::parse(written.iter().copied()).unwrap()
}

/// Decisions and outcomes for two months, administration for ten, reads of the log for ever.
fn usual() -> Periods {
    periods(&[
        ("decision", "60 days"),
        ("outcome", "60 days"),
        ("admin", "300 days"),
    ])
}

/// A log with small segments, a clock that is moved, and holds.
pub(crate) struct Stage {
    dir: TempDir,
    pub(crate) clock: Clock,
    log: Option<Log>,
    holds: Holds,
    stream: Arc<StreamKey>,
    next: u64,
    ledger: Option<Ledger>,
    /// A folder for old segments.
    pub(crate) store: Option<PathBuf>,
    /// What may be fetched from there.
    pub(crate) cache_bytes: u64,
    /// Time of an exchange, where that is not the usual.
    pub(crate) hurry: Option<Duration>,
    /// Length of a segment.
    pub(crate) segment_bytes: u64,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual("2026-01-01T00:00:00Z".parse().unwrap());
        let holds = Holds::open(&dir.path().join("holds.json"), true).unwrap();
        let stream = StreamKey {
            reporter: reporter(),
            boot: ulid::Ulid::from_parts(7, 7),
            worker: 0,
        };
        let mut stage = Self {
            dir,
            clock,
            log: None,
            holds,
            stream: stream.into(),
            next: 1,
            ledger: None,
            store: None,
            cache_bytes: 8 << 10,
            hurry: None,
            segment_bytes: 1500,
        };
        stage.restart();
        stage
    }

    /// One whose log begins with so many requests, `/old/0` and on, that went well.
    fn of_old(requests: usize) -> Self {
        let mut stage = Self::new();
        for n in 0..requests {
            stage.request(&format!("/old/{n}"), 200);
        }
        stage
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn options(&self) -> LogOptions {
        LogOptions {
            segment_bytes: self.segment_bytes,
            archive: self.archive(),
            ..crate::testing::options()
        }
    }

    pub(crate) fn restart(&mut self) {
        self.log = None;
        let log = Log::open(&self.folder(), self.options(), self.clock.clone());
        self.log = Some(log.unwrap());
    }

    pub(crate) fn archive(&self) -> Option<Arc<Archive>> {
        let store = self.store.as_ref()?;
        let archive = Archive::folder(store, &self.folder(), self.cache_bytes);
        let mut archive = archive.unwrap();
        if let Some(time_max) = self.hurry {
            archive.hurry(time_max);
        }
        Some(Arc::new(archive))
    }

    pub(crate) fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    /// Appends records, each with its own fsync.
    fn append(&mut self, bodies: Vec<(ulid::Ulid, Body)>) {
        let runtime = Runtime::new().unwrap();
        for (id, body) in bodies {
            let record = Record {
                id: id.to_bytes().to_vec(),
                time_us: self.clock.now_us(),
                reporter: REPORTER.into(),
                body: Some(body),
                ..Record::default()
            };
            let pending = Pending {
                stream: self.stream.clone(),
                sequence: self.next,
                record: Bytes::from(record.encode_to_vec()),
            };
            self.next += 1;
            let mut receipt = self.log().append(vec![pending]);
            runtime.block_on(receipt.durable()).unwrap();
        }
    }

    /// Waits until everything is signed.
    pub(crate) fn signed(&self) {
        let (len, mut signed) = (self.log().len(), self.log().subscribe_checkpoints());
        let over = signed.wait_for(|checkpoint| checkpoint.size >= len);
        Runtime::new().unwrap().block_on(over).unwrap();
    }

    /// A request to `path` and how it ended, and something that an operator did.
    pub(crate) fn request(&mut self, path: &str, status: u32) {
        let id = new_ulid(&self.clock);
        let decision = Decision {
            path: path.into(),
            ..Decision::default()
        };
        let ended = Ended {
            status,
            ..Ended::default()
        };
        let admin = Admin {
            verb: "kill".into(),
            detail: path.into(),
            ..Admin::default()
        };
        self.append(vec![
            (id, Body::Decision(decision)),
            (id, Body::Outcome(ended)),
            (new_ulid(&self.clock), Body::Admin(admin)),
        ]);
    }

    pub(crate) fn hold(&self, id: &str, query: &str) {
        self.holds
            .add(Hold {
                id: id.into(),
                query: query.into(),
                from_us: None,
                to_us: None,
                reason: "case 7".into(),
                by: "uid:1000".into(),
                since_us: self.clock.now_us(),
                until_us: None,
            })
            .unwrap();
    }

    pub(crate) fn run_of(
        &mut self,
        periods: &Periods,
        dry: bool,
        crash: Option<(Point, bool)>,
    ) -> Outcome {
        self.try_run_of(periods, dry, crash).unwrap()
    }

    fn try_run_of(
        &mut self,
        periods: &Periods,
        dry: bool,
        crash: Option<(Point, bool)>,
    ) -> Result<Outcome, Diagnostic> {
        self.signed();
        let ledger = self.ledger.take();
        let mut ledger = ledger.unwrap_or_else(|| Ledger::new(self.log()));
        let run = Run {
            crash,
            dry,
            ..self.plan(periods)
        };
        let now_us = self.clock.now_us();
        let mut turn = || {
            Ok(Turn {
                holds: self.holds.held(now_us)?,
                guard: None,
            })
        };
        let go_on = &mut |_| ControlFlow::Continue(());
        let outcome = run.go(&mut ledger, &mut turn, go_on);
        self.ledger = Some(ledger);
        outcome
    }

    /// A run now; these clocks leap, and are right.
    fn plan<'a>(&'a self, periods: &'a Periods) -> Run<'a> {
        Run {
            log: self.log(),
            periods,
            now: self.clock.now(),
            dry: false,
            sure: true,
            crash: None,
        }
    }

    pub(crate) fn segment(&self, first: u64) -> PathBuf {
        self.folder().join(segment::relative(first))
    }

    /// What is known of the segments since the last run.
    pub(crate) fn ledger(&self) -> &Ledger {
        self.ledger.as_ref().unwrap()
    }

    fn kinds(&self) -> Vec<(FindingKind, Option<u64>)> {
        let report = self.check();
        report.findings.iter().map(|f| (f.kind, f.leaf)).collect()
    }

    pub(crate) fn run(&mut self) -> Outcome {
        self.run_of(&usual(), false, None)
    }

    pub(crate) fn try_run(&mut self) -> Result<Outcome, Diagnostic> {
        self.try_run_of(&usual(), false, None)
    }

    pub(crate) fn check(&self) -> VerifyReport {
        let options = VerifyOptions {
            archive: self
                .store
                .as_ref()
                .filter(|s| s.is_dir())
                .and_then(|_| self.archive()),
            ..VerifyOptions::default()
        };
        verify(&self.folder(), options)
    }

    /// What is there, by class.
    fn classes(&self) -> BTreeMap<&'static str, u64> {
        let mut classes = BTreeMap::new();
        for entry in self.log().scan(0) {
            let class = crate::query::field::class_of(&entry.unwrap().record);
            *classes.entry(class).or_default() += 1;
        }
        classes
    }

    pub(crate) fn count(&self, class: &str) -> u64 {
        self.classes().get(class).copied().unwrap_or(0)
    }

    /// Paths of the decisions that are there.
    pub(crate) fn paths(&self) -> Vec<String> {
        let all = self.log().scan(0).map(Result::unwrap);
        all.filter_map(|entry| match entry.record.body {
            Some(Body::Decision(decision)) => Some(decision.path),
            _ => None,
        })
        .collect()
    }

    /// Lets segments be finished.
    pub(crate) fn fill(&mut self) {
        for _ in 0..8 {
            self.request("/new", 200);
        }
        self.signed();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Makes another record of one that a segment has, `nth` of those that were not dropped, in as
/// sound a frame as it was.
pub(crate) fn alter_record(path: &Path, nth: usize) {
    let file = Arc::new(std::fs::File::open(path).unwrap());
    let length = file.metadata().unwrap().len();
    let mut reader = segment::FrameReader::new(file, segment::HEADER_LEN, length);
    let mut frames = Vec::new();
    while let Some(frame) = reader.next().unwrap() {
        let frame = frame.unwrap();
        if let segment::Content::Leaf(_) = frame.content() {
            frames.push(frame.offset as usize..frame.end() as usize);
        }
    }
    let range = frames[nth].clone();
    let mut bytes = std::fs::read(path).unwrap();
    let (header, payload) = bytes[range].split_at_mut(segment::FRAME_HEADER_LEN);
    *payload.last_mut().unwrap() ^= 1;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..4]);
    crc.update(payload);
    header[4..].copy_from_slice(&crc.finalize().to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}
