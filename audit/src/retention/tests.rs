//! What is dropped, what stays, and what proves both.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use palisade_mesh::{
    clock::Clock,
    spiffe_id::SpiffeId,
    wire::{
        audit::Envelope,
        record::{Admin, Decision, Dropping, LogLifecycle, Outcome as Ended, Peer, record::Body},
    },
};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::{
    archive::Archive,
    holds::{Hold, Holds},
    index::{BucketSpan, Options, Store},
    log::{Lacking, LogOptions, Pending, Point},
    merkle::{self, Hash, Tree, leaf, verify_inclusion},
    query::Query,
    segment,
    source::Source,
    stream::{StreamKey, new_ulid},
    testing::{REPORTER, reporter},
    verify::{FindingKind, VerifyOptions, VerifyReport, verify},
};

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

#[test]
fn periods_are_limited_on_both_sides() {
    let codes = |written: &[(&'static str, &str)]| -> Vec<u16> {
        let found = Periods::parse(written.iter().copied()).err();
        found.iter().flatten().map(|d| d.code.0).collect()
    };
    for good in [
        "31 days",
        "31d",
        "5w",
        "2 months",
        "13 months",
        "7y",
        "100 years",
    ] {
        assert_eq!(codes(&[("decision", good)]), [0_u16; 0], "{good}");
    }
    for bad in [
        "30 days",
        "1 month",
        "4w",
        "101 years",
        "0d",
        "-60 days",
        "60",
        "60 days 3 hours",
        "9000h",
        "",
        "for ever",
    ] {
        assert_eq!(codes(&[("decision", bad)]), [7574], "{bad}");
    }
    // Answers about decisions rest on their outcomes, which may be kept longer and no shorter.
    let with = |decision: &'static str, outcome: &'static str| {
        codes(&[("decision", decision), ("outcome", outcome)])
    };
    assert_eq!(with("1y", "1y"), [0_u16; 0]);
    assert_eq!(with("1y", "11 months"), [7574]);
    // Which is longer is a matter of the calendar, not of 28 days.
    assert_eq!(with("13 months", "1y"), [7574]);
    assert_eq!(with("12 months", "1y"), [0_u16; 0]);
    // What is kept for ever is kept longer than any time.
    assert_eq!(codes(&[("outcome", "1y")]), [7574]);
}

/// The words and the numbers of what is always kept are the same.
#[test]
fn what_is_always_kept_has_no_period() {
    for class in ALWAYS_KEPT {
        let told = Periods::parse([(class, "1y")]).unwrap_err();
        assert_eq!(told[0].code.0, 7574, "{class}");
    }
    let always: BTreeSet<&str> = (0..64)
        .filter(|class| crate::envelope::is_always_kept(*class))
        .map(class_name)
        .collect();
    assert_eq!(always, BTreeSet::from(ALWAYS_KEPT));
    assert!(Periods::parse([("unknown", "1y")]).is_err());
}

/// Months are those of the calendar, and what is not named is never over.
#[test]
fn what_is_over_is_counted_back_from_now() {
    let periods = periods(&[("decision", "13 months")]);
    let now: Timestamp = "2026-03-31T12:00:00Z".parse().unwrap();
    let over: Timestamp = "2025-02-28T12:00:00Z".parse().unwrap();
    assert_eq!(
        periods.over_before_us("decision", now),
        Some(over.as_microsecond())
    );
    assert_eq!(periods.over_before_us("admin", now), None);
}

/// Each side of the moment, by class; the rest is there, proven, after a restart, too.
#[test]
fn what_is_over_goes_and_what_is_not_stays_and_is_proven() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(60 * DAY);
    stage.fill();
    let root = stage.log().checkpoint();
    let leaves: Vec<Hash> = (0..root.size)
        .map(|i| leaf(&stage.log().leaf(i).unwrap()))
        .collect();
    assert_eq!(stage.run().records(), 0, "received exactly so long ago");
    stage.clock.advance(Duration::from_secs(1));
    let preview = stage.run_of(&usual(), true, None);
    assert_eq!(stage.count("decision"), 14, "a preview drops nothing");
    let done = stage.run();
    assert_eq!(done.dropped, preview.dropped);
    let of = |class: &str| done.dropped.get(class).map(|d| d.records);
    assert_eq!(
        (of("decision"), of("outcome"), of("admin")),
        (Some(6), Some(6), None)
    );
    assert_eq!(stage.count("admin"), 14);
    for _ in 0..2 {
        assert_eq!(stage.paths(), ["/new"; 8]);
        let log = stage.log();
        assert!(matches!(log.read(1), Err(LogError::Dropped { index: 1 })));
        assert!(log.received_us(1).unwrap() < log.received_us(log.len() - 1).unwrap());
        for index in 0..root.size {
            let proof = log.prove_under(index, root.size).unwrap();
            let hash = leaves[index as usize];
            verify_inclusion(&hash, index, root.size, &proof, &root.root).unwrap();
            if let Ok(bytes) = log.leaf(index) {
                assert_eq!(leaf(&bytes), hash);
            }
        }
        let report = stage.check();
        assert_eq!(report.findings, []);
        assert_eq!((report.dropped, report.intact()), (12, true));
        let stream = report
            .streams
            .iter()
            .find(|s| s.reporter == REPORTER)
            .unwrap();
        assert!(stream.missing.is_empty(), "dropped is not missing");
        assert_eq!((stream.records, stream.dropped), (42, 12));
        stage.restart();
    }
    assert_eq!(stage.run().records(), 0, "there is nothing left to do");
    stage.clock.advance(300 * DAY);
    stage.fill();
    stage.run();
    assert_eq!(stage.count("admin"), 8);
    assert_eq!(stage.check().findings, []);
}

/// Nothing that is derived is needed: tiles and positions of streams are made again.
#[test]
fn a_log_from_which_records_were_dropped_is_recovered_from_its_segments() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(61 * DAY);
    stage.fill();
    stage.run();
    let lacking = stage.log().lacking();
    assert!(!lacking.is_empty());
    let next = stage.next;
    stage.log = None;
    std::fs::remove_dir_all(stage.folder().join("tile")).unwrap();
    std::fs::remove_file(stage.folder().join("streams")).unwrap();
    for name in std::fs::read_dir(stage.folder().join("segments")).unwrap() {
        let path = name.unwrap().path();
        if path.extension().is_some_and(|e| e == "idx") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let left = stage.folder().join("segments/00000000000000000000.sparse");
    std::fs::write(&left, b"half").unwrap();
    stage.restart();
    assert!(!left.exists(), "what a crash left aside");
    assert_eq!(stage.log().lacking(), lacking);
    assert_eq!(stage.paths(), ["/new"; 8]);
    // A number that was used is not used again, though its record is gone.
    stage.next = 2;
    let len = stage.log().len();
    stage.request("/again", 200);
    assert_eq!(stage.paths(), ["/new"; 8]);
    assert_eq!(stage.log().len(), len);
    stage.next = next;
    stage.fill();
    let report = stage.check();
    assert_eq!(report.findings, []);
    assert_eq!(report.dropped, 12);
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

/// What is held stays whatever its class, with what belongs to it; released, it goes.
#[test]
fn a_legal_hold_wins_until_it_is_released() {
    let mut stage = Stage::new();
    for n in 0..3 {
        stage.request(&format!("/held/{n}"), 200);
        stage.request(&format!("/free/{n}"), 500);
    }
    stage.hold("h", "path:/held/**");
    stage.clock.advance(61 * DAY);
    stage.fill();
    let done = stage.run();
    assert_eq!((done.records(), done.held), (6, 6));
    assert_eq!(stage.paths()[..3], ["/held/0", "/held/1", "/held/2"]);
    assert_eq!(stage.count("outcome"), 11);
    assert_eq!(stage.run().records(), 0);
    stage.holds.release("h").unwrap();
    assert_eq!(stage.run().records(), 6);
    assert_eq!(stage.paths(), ["/new"; 8]);
    assert_eq!(stage.check().findings, []);
}

/// A hold about how requests ended keeps decisions, too, though they say nothing of that.
#[test]
fn a_hold_about_outcomes_keeps_the_decisions_that_may_have_had_them() {
    let mut stage = Stage::new();
    stage.request("/a", 500);
    stage.hold("h", "status:>=500 path:/a");
    stage.request("/b", 200);
    stage.clock.advance(61 * DAY);
    stage.fill();
    stage.run();
    assert_eq!(stage.paths()[..2], ["/a".to_owned(), "/new".into()]);
}

/// What a decision says itself decides, whatever its outcome may say.
#[test]
fn a_hold_by_service_or_caller_keeps_no_decision_of_others() {
    for (query, free) in [
        ("service:shop/held", 1),
        ("principal:spiffe://acme.test/held", 1),
        ("service:shop/held status:>=500", 1),
        ("status:>=500", 0),
    ] {
        let mut stage = Stage::new();
        for name in ["held", "free"] {
            let decision = Decision {
                path: format!("/{name}"),
                service: format!("shop/{name}"),
                principal: Some(Peer {
                    spiffe_id: format!("spiffe://acme.test/{name}"),
                    ..Peer::default()
                }),
                ..Decision::default()
            };
            let id = new_ulid(&stage.clock);
            stage.append(vec![(id, Body::Decision(decision))]);
        }
        stage.hold("h", query);
        stage.clock.advance(61 * DAY);
        stage.fill();
        let done = stage.run();
        assert_eq!((done.records(), done.held), (free, 2 - free), "{query}");
        assert_eq!(stage.paths()[0], "/held", "{query}");
    }
}

/// Records an order of a hold as the audit service does.
fn order(stage: &mut Stage, verb: &str, id: &str, detail: String) {
    let ours = StreamKey {
        reporter: SpiffeId::parse("spiffe://acme.test/palisade/audit").unwrap(),
        boot: new_ulid(&stage.clock),
        worker: 0,
    };
    let admin = Admin {
        verb: verb.into(),
        object: id.into(),
        detail,
        ..Admin::default()
    };
    let (stream, next) = (
        std::mem::replace(&mut stage.stream, ours.into()),
        stage.next,
    );
    stage.next = 1;
    let record = (new_ulid(&stage.clock), Body::Admin(admin));
    stage.append(vec![record]);
    (stage.stream, stage.next) = (stream, next);
}

/// A run of which it is told why it is refused.
fn code(stage: &Stage) -> Result<u64, u16> {
    stage.signed();
    let now_us = stage.clock.now_us();
    let mut turn = || {
        Ok(Turn {
            holds: stage.holds.held(now_us)?,
            guard: None,
        })
    };
    let (periods, go_on) = (usual(), &mut |_| ControlFlow::Continue(()));
    let done = stage
        .plan(&periods)
        .go(&mut Ledger::new(stage.log()), &mut turn, go_on);
    done.map(|done| done.records()).map_err(|told| told.code.0)
}

/// Who can write the file of the holds, and has no key, lets nothing go.
#[test]
fn a_file_of_holds_that_is_not_what_was_ordered_lets_nothing_go() {
    let mut stage = Stage::new();
    stage.request("/held", 200);
    stage.request("/free", 200);
    let file = stage.dir.path().join("holds.json");
    let before = std::fs::read(&file).unwrap();
    stage.hold("h", "path:/held");
    let hold = stage.holds.active(stage.clock.now_us()).remove(0);
    order(&mut stage, "hold_added", "h", hold.told(&hold.reason));
    // Who is not the audit service orders nothing.
    let told = Admin {
        verb: "hold_released".into(),
        object: "h".into(),
        ..Admin::default()
    };
    let id = new_ulid(&stage.clock);
    stage.append(vec![(id, Body::Admin(told))]);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let now = std::fs::read(&file).unwrap();
    let narrowed = Hold {
        to_us: Some(1),
        ..hold.clone()
    };
    let narrowed = serde_json::to_vec(&[narrowed]).unwrap();
    for (bytes, told) in [(before, Err(7579)), (narrowed, Err(7579)), (now, Ok(2))] {
        std::fs::write(&file, bytes).unwrap();
        stage.holds = Holds::open(&file, false).unwrap();
        assert_eq!(code(&stage), told);
        assert!(stage.paths().contains(&"/held".into()));
    }
    stage.holds.release("h").unwrap();
    assert_eq!(code(&stage), Err(7579), "nobody has recorded that");
    order(&mut stage, "hold_released", "h", "case closed".into());
    assert_eq!(code(&stage), Ok(2));
    assert_eq!(stage.check().findings, []);
}

#[test]
fn a_hold_that_cannot_be_read_stops_the_run() {
    let mut stage = Stage::new();
    stage.request("/a", 200);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let periods = usual();
    let run = stage.plan(&periods);
    let mut turn = || Err(Diagnostic::error(7567, "hold `h` cannot be read"));
    let told = run.go(&mut Ledger::new(stage.log()), &mut turn, &mut |_| {
        ControlFlow::Continue(())
    });
    assert_eq!(told.unwrap_err().code.0, 7567);
    assert_eq!(stage.count("decision"), 9);
}

/// On both sides of the limit.
#[test]
fn holds_keep_so_many_ids_and_no_more() {
    let mut stage = Stage::new();
    for _ in 0..3 {
        stage.request("/a", 200);
    }
    stage.hold("h", "path:/a");
    let mut kept = Kept {
        holds: stage.holds.held(0).unwrap(),
        ..Kept::default()
    };
    let mut ids = |most| kept.held_ids(stage.log(), most);
    assert_eq!(ids(3).unwrap().len(), 3);
    assert_eq!(ids(2).unwrap_err().code.0, 7575);
}

/// It ends between two segments, and the next goes on from there.
#[test]
fn a_run_that_is_interrupted_is_gone_on_with() {
    let mut stage = Stage::of_old(12);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let periods = usual();
    let mut ledger = Ledger::new(stage.log());
    let run = stage.plan(&periods);
    let mut turn = || {
        Ok(Turn {
            holds: Vec::new(),
            guard: None,
        })
    };
    let first = run.go(&mut ledger, &mut turn, &mut |far| match far.segments {
        0..2 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    let first = first.unwrap();
    assert!(first.interrupted && first.segments == 2);
    let rest = run.go(&mut ledger, &mut turn, &mut |_| ControlFlow::Continue(()));
    let rest = rest.unwrap();
    assert!(!rest.interrupted);
    assert_eq!(first.records() + rest.records(), 24);
    let file = stage.dir.path().join("ledger");
    ledger.save(&file).unwrap();
    let log = stage.log();
    assert_eq!(Ledger::load(&file, log), ledger);
    // One of another log, or of another version, says nothing of this one.
    let other = Stage::new();
    assert_eq!(Ledger::load(&file, other.log()), Ledger::new(other.log()));
    let text = std::fs::read_to_string(&file).unwrap();
    for other in [text.replace("\"version\":2", "\"version\":1"), "{".into()] {
        assert_ne!(other, text);
        std::fs::write(&file, other).unwrap();
        assert_eq!(Ledger::load(&file, log), Ledger::new(log));
    }
}

/// A segment that is not what was signed is left as it is, and named; the others are done.
#[test]
fn a_damaged_segment_is_not_touched() {
    let mut stage = Stage::of_old(12);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let sealed = stage.log().sealed();
    let path = stage.folder().join(segment::relative(sealed[1].start));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let done = stage.run();
    assert_eq!(done.faults.len(), 1, "{:?}", done.faults);
    assert!(done.records() > 0 && done.records() < 24);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let last = stage.ledger.unwrap().last.unwrap();
    assert!(last.faults[0].contains("tampered"));
}

/// The index lets go of what the log has dropped: it is what the log, read again, gives.
#[test]
fn the_index_lets_go_of_it_and_answers_say_so() {
    let mut stage = Stage::of_old(6);
    stage.hold("h", "path:/old/3");
    stage.clock.advance(61 * DAY);
    stage.fill();
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let open = |dir: &str| {
        let source: Arc<dyn Source> = Arc::new(stage.log().clone());
        let options = Options {
            bucket: BucketSpan::Day,
            commit_every: Duration::ZERO,
            hold: Duration::ZERO,
            ..Options::default()
        };
        let dir = stage.dir.path().join(dir);
        Store::open(source, &dir, stage.clock.clone(), options).unwrap()
    };
    let store = open("index");
    runtime.block_on(store.flush()).unwrap();
    let all = "last:90d class:*";
    let rows = |store: &Store, query: &str| {
        let found = store
            .search(&Query::parse(query).unwrap(), 1000, None)
            .unwrap();
        assert_eq!(found.coverage.unreadable, 0);
        let rows: Vec<_> = found
            .rows
            .iter()
            .map(|r| serde_json::to_value(r).unwrap())
            .collect();
        (rows, found.coverage)
    };
    assert!(rows(&store, all).1.complete);
    let buckets = store.status().buckets;
    let mut ledger = Ledger::new(stage.log());
    let (periods, now_us) = (
        periods(&[("decision", "60d"), ("outcome", "60d"), ("admin", "60d")]),
        stage.clock.now_us(),
    );
    let run = stage.plan(&periods);
    let mut turn = || {
        Ok(Turn {
            holds: stage.holds.held(now_us)?,
            guard: None,
        })
    };
    let done = run.go(&mut ledger, &mut turn, &mut |_| ControlFlow::Continue(()));
    assert_eq!(done.unwrap().records(), 16);
    runtime.block_on(store.flush()).unwrap();
    let (found, coverage) = rows(&store, all);
    assert!(!coverage.complete);
    let told: BTreeMap<&str, u64> = coverage
        .dropped
        .iter()
        .map(|d| (d.class, d.records))
        .collect();
    assert_eq!(
        told,
        BTreeMap::from([("admin", 6), ("decision", 5), ("outcome", 5)])
    );
    let again = open("again");
    runtime.block_on(again.flush()).unwrap();
    assert_eq!(found, rows(&again, all).0);
    let counted = |query: &str| store.count(&Query::parse(query).unwrap()).unwrap();
    assert_eq!(counted("last:90d"), 9);
    assert_eq!(counted("last:90d path:/old/**"), 1);
    // A time, and a class, of which nothing was dropped.
    assert!(rows(&store, "last:30d").1.complete);
    assert!(rows(&store, "last:90d class:log_lifecycle").1.complete);
    assert!(!rows(&store, "last:90d class:admin").1.complete);
    assert!(store.status().buckets <= buckets);
    drop(store);
    let store = open("index");
    assert_eq!(found, rows(&store, all).0);
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

/// A segment that is put back has what the log says is dropped.
#[test]
fn a_segment_that_is_put_back_is_named() {
    let mut stage = Stage::of_old(12);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let first = stage.log().sealed()[0].start;
    let whole = std::fs::read(stage.segment(first)).unwrap();
    stage.run();
    let thinned = stage.log().lacking();
    assert!(thinned.len() > 1 && thinned[0].segment == first);
    stage.log().close();
    assert_eq!(stage.check().findings, []);
    std::fs::write(stage.segment(first), whole).unwrap();
    let report = stage.check();
    let named: Vec<_> = report.findings.iter().map(|f| (f.kind, f.leaf)).collect();
    assert_eq!(named, [(FindingKind::Dropped, Some(first))]);
    assert!(report.findings[0].what.contains("put back"));
    assert!(!report.intact());
}

/// The last of a run as well, once the run has ended, and the next run does not pass it over.
#[test]
fn the_segment_that_was_thinned_last_cannot_be_put_back_either() {
    let mut stage = Stage::of_old(12);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let whole: BTreeMap<u64, Vec<u8>> = stage
        .log()
        .sealed()
        .into_iter()
        .map(|span| {
            (
                span.start,
                std::fs::read(stage.segment(span.start)).unwrap(),
            )
        })
        .collect();
    stage.run();
    let last = stage.log().lacking().last().unwrap().segment;
    let thinned = std::fs::read(stage.segment(last)).unwrap();
    stage.log().close();
    assert_eq!(stage.check().findings, []);
    std::fs::write(stage.segment(last), &whole[&last]).unwrap();
    let _ = std::fs::remove_file(stage.segment(last).with_extension("idx"));
    assert_eq!(stage.kinds(), [(FindingKind::Dropped, Some(last))]);
    stage.restart();
    let told = stage.run();
    assert_eq!(told.faults.len(), 1, "{:?}", told.faults);
    assert!(told.faults[0].contains("put back"), "{:?}", told.faults);
    stage.log().close();
    std::fs::write(stage.segment(last), &thinned).unwrap();
    let _ = std::fs::remove_file(stage.segment(last).with_extension("idx"));
    stage.restart();
    assert_eq!(stage.run().faults, [""; 0]);
    stage.log().close();
    assert_eq!(stage.check().findings, []);
}

/// What was recorded and not done is recorded as that: who does it later is named.
#[test]
fn what_was_told_and_not_done_cannot_be_done_by_others_later() {
    for (point, crash) in [
        (Point::Recorded, true),
        (Point::Unindexed, true),
        (Point::Recorded, false),
        (Point::Unindexed, false),
    ] {
        let mut stage = Stage::new();
        for n in 0..6 {
            stage.request(&format!("/old/{n}"), 200);
        }
        stage.clock.advance(61 * DAY);
        stage.fill();
        // What the run would have put there.
        let twin = tempfile::tempdir().unwrap();
        let first = stage.log().sealed()[0].start;
        let aside = stage.segment(first).with_extension("sparse");
        let whole = std::fs::read(stage.segment(first)).unwrap();
        stage.run_of(
            &periods(&[("decision", "60 days")]),
            false,
            Some((point, crash)),
        );
        if crash {
            std::fs::copy(&aside, twin.path().join("new")).unwrap();
            stage.restart();
        }
        stage.signed();
        assert!(!aside.exists());
        let left = stage.log().scan(0).map(Result::unwrap).filter(|entry| {
            matches!(&entry.record.body, Some(Body::LogLifecycle(l)) if l.verb == "records_left")
        });
        assert!(left.count() > 0, "{point:?} {crash}");
        assert_eq!(std::fs::read(stage.segment(first)).unwrap(), whole);
        stage.log().close();
        assert_eq!(stage.check().findings, [], "{point:?} {crash}");
        if crash {
            std::fs::copy(twin.path().join("new"), stage.segment(first)).unwrap();
            assert_eq!(stage.kinds(), [(FindingKind::Dropped, Some(first))]);
            std::fs::write(stage.segment(first), &whole).unwrap();
        }
        stage.restart();
        assert_eq!(stage.run().records(), 12, "the next run does it");
        stage.log().close();
        assert_eq!(stage.check().findings, []);
    }
}

/// The leftover of a crash whose word is lost is settled by the next run.
#[test]
fn a_run_settles_what_an_earlier_process_has_left() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(61 * DAY);
    stage.fill();
    stage.run_of(&usual(), false, Some((Point::Recorded, true)));
    for entry in std::fs::read_dir(stage.folder().join("segments")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "sparse") {
            std::fs::remove_file(path).unwrap();
        }
    }
    stage.signed();
    stage.log().close();
    let report = stage.check();
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert!(report.intact(), "it may be done yet");
    stage.restart();
    stage.run();
    stage.log().close();
    assert_eq!(stage.check().findings, []);
}

/// Verification of a log that is thinned meanwhile, at each moment of it.
#[test]
fn a_log_that_is_thinned_while_it_is_verified_is_intact() {
    let mut stage = Stage::of_old(60);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let folder = stage.folder();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ended = stop.clone();
    let verifier = std::thread::spawn(move || {
        let mut reports = 0;
        while !ended.load(std::sync::atomic::Ordering::SeqCst) || reports == 0 {
            let report = verify(&folder, VerifyOptions::default());
            assert_eq!(report.findings, []);
            reports += 1;
        }
    });
    let done = stage.run();
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    verifier.join().unwrap();
    assert_eq!((done.records(), done.faults.len()), (120, 0));
}

/// A log that is closed meanwhile is nobody else's before the segment is in its place.
#[test]
fn a_log_is_locked_until_its_segment_is_in_place() {
    let mut stage = Stage::of_old(6);
    stage.fill();
    let span = stage.log().sealed().remove(1);
    let thinning = Thinning::weigh(stage.log(), span.clone(), i64::MAX, |_, _, _, _| Fate::Drop);
    let (folder, clock) = (stage.folder(), stage.clock.clone());
    let log = stage.log().clone();
    let mut looked = 0;
    let done = thinning
        .unwrap()
        .carry_out_to("of all".into(), &mut |point| {
            if point == Point::Recorded {
                log.close();
                let other = Log::open(&folder, stage.options(), clock.clone());
                assert!(matches!(other, Err(LogError::Locked(_))));
                looked += 1;
            }
            Ok(())
        });
    assert!(done.is_ok() && looked == 1, "{done:?}");
    drop(log);
    assert!(stage.check().intact());
    stage.restart();
    assert_eq!(stage.log().lacking()[0].segment, span.start);
}

/// A hold that is ordered while a run is under way counts from the next segment on.
#[test]
fn a_hold_that_is_added_during_a_run_counts() {
    let mut stage = Stage::of_old(12);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let periods = usual();
    let now_us = stage.clock.now_us();
    let mut segments = 0;
    let mut turn = || {
        if segments == 2 {
            stage.hold("h", "path:/old/**");
        }
        segments += 1;
        Ok(Turn {
            holds: stage.holds.held(now_us)?,
            guard: None,
        })
    };
    let go_on = &mut |_| ControlFlow::Continue(());
    let run = stage.plan(&periods);
    let done = run.go(&mut Ledger::new(stage.log()), &mut turn, go_on);
    let done = done.unwrap();
    assert!(done.records() > 0 && done.held > 0, "{done:?}");
    assert_eq!(stage.log().lacking().len(), 2);
    let old = stage
        .paths()
        .into_iter()
        .filter(|path| path != "/new")
        .count();
    assert!(old > 5, "{old}");
}

/// The log is read for what holds keep while nobody has to wait for that.
#[test]
fn orders_do_not_wait_until_the_log_is_read() {
    let mut stage = Stage::of_old(6);
    stage.hold("h", "path:/old/1");
    stage.clock.advance(61 * DAY);
    stage.fill();
    let orders = Arc::new(tokio::sync::Mutex::new(()));
    let now_us = stage.clock.now_us();
    let mut asked = 0;
    let mut turn = || {
        asked += 1;
        Ok(Turn {
            holds: stage.holds.held(now_us)?,
            guard: Some(orders.clone().try_lock_owned().unwrap()),
        })
    };
    let periods = usual();
    let run = stage.plan(&periods);
    let go_on = &mut |_| ControlFlow::Continue(());
    let done = run.go(&mut Ledger::new(stage.log()), &mut turn, go_on);
    let done = done.unwrap();
    assert_eq!(asked, done.segments + 1, "once more after it is read");
    assert_eq!((done.records(), done.held), (10, 2));
    assert!(orders.try_lock().is_ok());
}

/// A log of which records go while they are asked for.
struct Going {
    log: Log,
    gone: std::sync::atomic::AtomicBool,
}

impl Source for Going {
    fn len(&self) -> u64 {
        self.log.len()
    }

    fn read(&self, index: u64) -> Result<Entry, crate::source::SourceError> {
        match self.gone.load(std::sync::atomic::Ordering::SeqCst) {
            true => Err(crate::source::SourceError {
                index,
                cause: Box::new(LogError::Dropped { index }),
            }),
            false => Source::read(&self.log, index),
        }
    }

    fn scan(
        &self,
        from: u64,
    ) -> Box<dyn Iterator<Item = Result<Entry, crate::source::SourceError>> + '_> {
        Source::scan(&self.log, from)
    }

    fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        self.log.subscribe()
    }
}

/// An answer that lacks what went a moment ago is not complete.
#[test]
fn an_answer_from_which_records_go_is_not_complete() {
    let mut stage = Stage::new();
    stage.request("/old", 200);
    stage.signed();
    let source = Arc::new(Going {
        log: stage.log().clone(),
        gone: false.into(),
    });
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let options = Options {
        bucket: BucketSpan::Day,
        commit_every: Duration::ZERO,
        hold: Duration::ZERO,
        ..Options::default()
    };
    let dir = stage.dir.path().join("index");
    let store = Store::open(source.clone(), &dir, stage.clock.clone(), options).unwrap();
    runtime.block_on(store.flush()).unwrap();
    let query = Query::parse("last:1d path:/old").unwrap();
    for (gone, rows) in [(false, 1), (true, 0)] {
        source.gone.store(gone, std::sync::atomic::Ordering::SeqCst);
        let found = store.search(&query, 10, None).unwrap();
        assert_eq!((found.rows.len(), found.coverage.complete), (rows, !gone));
    }
}

/// What belongs to a held record may come long after it, and many records later.
#[test]
fn what_belongs_to_a_held_record_is_found_however_late_it_came() {
    let mut stage = Stage::new();
    let id = new_ulid(&stage.clock);
    let decision = Decision {
        path: "/a".into(),
        ..Decision::default()
    };
    stage.append(vec![(id, Body::Decision(decision))]);
    stage.request("/b", 200);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let ended = Ended {
        status: 599,
        ..Ended::default()
    };
    // Its outcome is what the hold is about, and is not over.
    stage.append(vec![(id, Body::Outcome(ended))]);
    stage.hold("h", "class:outcome status:599");
    stage.signed();
    let kept = {
        let mut kept = Kept::default();
        let holds = stage.holds.held(stage.clock.now_us()).unwrap();
        kept.follow(stage.log(), holds).unwrap();
        kept
    };
    assert!(kept.ids.contains(&id.to_bytes()));
    stage.run();
    assert!(stage.paths().contains(&"/a".into()));
    assert!(!stage.paths().contains(&"/b".into()));
}

/// A start learns from them that there must be holds.
#[test]
fn orders_of_holds_are_never_dropped() {
    let mut stage = Stage::new();
    let order = |verb: &str| {
        Body::Admin(Admin {
            verb: verb.into(),
            ..Admin::default()
        })
    };
    for verb in ["hold_added", "kill", "hold_released"] {
        let id = new_ulid(&stage.clock);
        stage.append(vec![(id, order(verb))]);
    }
    stage.clock.advance(301 * DAY);
    stage.fill();
    let done = stage.run();
    assert_eq!(done.dropped.get("admin").map(|d| d.records), Some(1));
    let verbs: Vec<String> = stage
        .log()
        .scan(0)
        .filter_map(|entry| match entry.unwrap().record.body {
            Some(Body::Admin(admin)) if admin.verb != "kill" => Some(admin.verb),
            _ => None,
        })
        .collect();
    assert_eq!(verbs, ["hold_added", "hold_released"]);
}

/// A clock that was behind for a while makes no record older than those before it.
#[test]
fn a_record_is_no_older_than_those_before_it() {
    let mut stage = Stage::new();
    stage.clock.advance(100 * DAY);
    stage.request("/a", 200);
    stage.clock.set_back(90 * DAY);
    stage.request("/behind", 200);
    stage.clock.advance(90 * DAY);
    stage.clock.advance(59 * DAY);
    stage.fill();
    assert_eq!(stage.run().records(), 0);
    stage.clock.advance(2 * DAY);
    assert_eq!(stage.run().records(), 4);
}

/// A clock that was far ahead for a while, and was put right, keeps nothing for longer than
/// what it stamped.
#[test]
fn a_clock_that_was_ahead_does_not_keep_what_follows() {
    let mut stage = Stage::new();
    stage.request("/before", 200);
    stage.clock.advance(1000 * DAY);
    stage.request("/ahead", 200);
    stage.clock.set_back(1000 * DAY);
    for n in 0..6 {
        stage.request(&format!("/after/{n}"), 200);
    }
    stage.clock.advance(59 * DAY);
    stage.fill();
    assert_eq!(stage.run().records(), 0);
    stage.clock.advance(2 * DAY);
    assert_eq!(stage.run().records(), 14);
    assert_eq!(stage.paths()[0], "/ahead", "its own time is not over");
    assert_eq!(stage.paths()[1..], ["/new"; 8]);
}

/// Records go by the same clock as runs: while there are some, it has not leapt.
#[test]
fn a_run_that_was_kept_waiting_for_long_is_no_leap() {
    let mut stage = Stage::new();
    stage.request("/old", 200);
    let ledger = &mut Ledger::new(stage.log());
    let periods = usual();
    let go = |stage: &Stage, ledger: &mut Ledger| {
        stage.signed();
        let mut turn = || {
            Ok(Turn {
                holds: Vec::new(),
                guard: None,
            })
        };
        let run = Run {
            sure: false,
            ..stage.plan(&periods)
        };
        let done = run.go(ledger, &mut turn, &mut |_| ControlFlow::Continue(()));
        done.map(|done| done.records()).map_err(|told| told.code.0)
    };
    assert_eq!(go(&stage, ledger), Ok(0));
    for _ in 0..4 {
        stage.clock.advance(20 * DAY);
        stage.fill();
    }
    assert!(go(&stage, ledger).unwrap() > 0, "80 days after the last");
    // A run vouches for it, too, where there are no records.
    stage.clock.advance(20 * DAY);
    assert!(go(&stage, ledger).is_ok());
    stage.clock.advance(20 * DAY);
    assert!(go(&stage, ledger).is_ok());
    stage.clock.advance(32 * DAY);
    assert_eq!(go(&stage, ledger), Err(7578));
}

fn periods_of_admin() -> Periods {
    periods(&[("admin", "100 years")])
}

/// On both sides of the limit, after a run and in a log of which nothing is known.
#[test]
fn a_clock_that_has_leapt_drops_nothing_until_somebody_has_looked() {
    let mut stage = Stage::new();
    stage.request("/old", 200);
    for _ in 0..3 {
        stage.clock.advance(31 * DAY);
        stage.fill();
    }
    let periods = usual();
    let go = |stage: &Stage, ledger: &mut Ledger, sure: bool| {
        let mut turn = || {
            Ok(Turn {
                holds: Vec::new(),
                guard: None,
            })
        };
        let run = Run {
            sure,
            ..stage.plan(&periods)
        };
        let go_on = &mut |_| ControlFlow::Continue(());
        let done = run.go(ledger, &mut turn, go_on);
        done.map(|done| done.records()).map_err(|told| told.code.0)
    };
    let ledger = &mut Ledger::new(stage.log());
    assert_eq!(go(&stage, ledger, false), Ok(18), "31 days at a time");
    stage.clock.advance(31 * DAY + Duration::from_secs(1));
    stage.fill();
    assert_eq!(go(&stage, ledger, false), Err(7578));
    let unknown = &mut Ledger::new(stage.log());
    assert_eq!(go(&stage, unknown, false), Err(7578), "between two records");
    let preview = Run {
        dry: true,
        sure: false,
        ..stage.plan(&periods)
    };
    let mut turn = || {
        Ok(Turn {
            holds: Vec::new(),
            guard: None,
        })
    };
    let seen = preview.go(unknown, &mut turn, &mut |_| ControlFlow::Continue(()));
    assert!(seen.unwrap().records() > 0);
    assert!(go(&stage, ledger, true).unwrap() > 0);
    assert_eq!(go(&stage, ledger, false), Ok(0), "it vouches for the clock");
    // Nothing is due, and still no run vouches for such a clock but one that is told to.
    stage.clock.advance(32 * DAY);
    let of_admin = periods_of_admin();
    let unasked = Run {
        sure: false,
        ..stage.plan(&of_admin)
    };
    let told = unasked.go(ledger, &mut turn, &mut |_| ControlFlow::Continue(()));
    assert_eq!(told.unwrap_err().code.0, 7578);
}

/// Records come first: what is written aside waits for room.
#[test]
fn nothing_is_written_aside_on_a_disk_that_is_nearly_full() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let len = stage.log().len();
    let free = stage.log().room_for(u64::MAX).unwrap_err();
    assert_eq!(free.kind(), io::ErrorKind::StorageFull);
    stage.log().room_for(1).unwrap();
    // A fault before the new one is in place leaves nothing aside.
    stage.run_of(&usual(), false, Some((Point::Written, false)));
    let left = std::fs::read_dir(stage.folder().join("segments")).unwrap();
    let left = left.map(|entry| entry.unwrap().path());
    assert_eq!(
        left.filter(|p| p.extension().is_some_and(|e| e == "sparse"))
            .count(),
        0
    );
    assert_eq!(stage.log().len(), len, "nothing was told");
}

/// One flipped bit in each place of what was dropped: what follows is read as before.
#[test]
fn damage_to_what_was_dropped_does_not_hide_what_follows() {
    let mut stage = Stage::new();
    for _ in 0..6 {
        let id = new_ulid(&stage.clock);
        stage.append(vec![(id, Body::Decision(Decision::default()))]);
    }
    stage.request("/stays", 200);
    stage.clock.advance(61 * DAY);
    stage.fill();
    stage.run();
    stage.log().close();
    let first = stage.log().lacking()[0].segment;
    let path = stage.segment(first);
    let good = std::fs::read(&path).unwrap();
    let whole = stage.check();
    assert_eq!(whole.findings, []);
    let start = segment::HEADER_LEN as usize;
    let next = |at: &usize| {
        let (len, _) = segment::frame_header(*good.get(*at..)?.first_chunk()?);
        Some(at + segment::FRAME_HEADER_LEN + len as usize)
    };
    let frames: Vec<usize> = std::iter::successors(Some(start), next)
        .take_while(|at| *at < good.len())
        .collect();
    for (n, from) in frames.iter().enumerate() {
        let content = good[from + segment::FRAME_HEADER_LEN];
        if content == 0 {
            continue;
        }
        let to = frames.get(n + 1).copied().unwrap_or(good.len());
        // Length, CRC, kind, and what is said.
        for at in (*from..to).step_by(5) {
            let mut bytes = good.clone();
            bytes[at] ^= 16;
            std::fs::write(&path, bytes).unwrap();
            let report = stage.check();
            let named: Vec<_> = report.findings.iter().map(|f| (f.kind, f.offset)).collect();
            assert!(
                named.contains(&(FindingKind::Record, Some(*from as u64))),
                "byte {at}: {named:?}"
            );
            assert_eq!(named.len(), 1, "byte {at}: {:?}", report.findings);
            if n + 1 < frames.len() {
                assert_eq!(report.records, whole.records, "byte {at}");
            }
        }
    }
}

/// The index goes on past a segment that is damaged.
#[test]
fn a_damaged_segment_does_not_stop_the_index() {
    let mut stage = Stage::of_old(12);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let open = |stage: &Stage, dir: &str| {
        let source: Arc<dyn Source> = Arc::new(stage.log().clone());
        let options = Options {
            bucket: BucketSpan::Day,
            commit_every: Duration::ZERO,
            hold: Duration::ZERO,
            ..Options::default()
        };
        let dir = stage.dir.path().join(dir);
        Store::open(source, &dir, stage.clock.clone(), options).unwrap()
    };
    let store = open(&stage, "index");
    runtime.block_on(store.flush()).unwrap();
    drop(store);
    stage.run();
    let lacking = stage.log().lacking();
    let path = stage.segment(lacking[0].segment);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    for dir in ["index", "anew"] {
        let store = open(&stage, dir);
        runtime.block_on(store.flush()).unwrap();
        let found = store.count(&Query::parse("last:90d path:/new class:decision").unwrap());
        assert_eq!(found.unwrap(), 8, "{dir}");
        let gone = store.count(&Query::parse("last:90d path:/old/11").unwrap());
        assert_eq!(gone.unwrap(), 0, "{dir}: what the others dropped is let go");
    }
}

/// Nor does one that cannot be read through.
#[test]
fn a_segment_that_is_cut_off_does_not_stop_the_index() {
    let mut stage = Stage::of_old(12);
    stage.fill();
    let span = stage.log().sealed().remove(1);
    stage.log().close();
    let path = stage.segment(span.start);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    let _ = std::fs::remove_file(path.with_extension("idx"));
    stage.restart();
    // What is before the cut is read.
    for from in span.start..span.end {
        let source: &dyn Source = stage.log();
        let read = source.scan(from).find_map(Result::err).unwrap();
        assert_eq!(read.index, span.end - 1);
    }
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let options = Options {
        bucket: BucketSpan::Day,
        commit_every: Duration::ZERO,
        hold: Duration::ZERO,
        ..Options::default()
    };
    let source: Arc<dyn Source> = Arc::new(stage.log().clone());
    let dir = stage.dir.path().join("index");
    let store = Store::open(source, &dir, stage.clock.clone(), options).unwrap();
    runtime.block_on(store.flush()).unwrap();
    let found = store.count(&Query::parse("last:90d path:/new class:decision").unwrap());
    assert_eq!(found.unwrap(), 8);
}

/// Segments that are damaged, however many, keep no other from being done.
#[test]
fn many_damaged_segments_do_not_end_a_run() {
    let mut stage = Stage::of_old(60);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let sealed = stage.log().sealed();
    let damaged = FAULTS_MAX + 2;
    assert!(sealed.len() > damaged + 2, "{}", sealed.len());
    for span in &sealed[..damaged] {
        let path = stage.segment(span.start);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let done = stage.run();
    assert_eq!(done.faults.len(), damaged, "{:?}", done.faults);
    assert!(!done.interrupted && done.records() > 0);
    let last = sealed.iter().rposition(|span| {
        let dropped = stage.log().dropped_from(span.start);
        dropped.is_ok_and(|ranges| !ranges.is_empty())
    });
    assert!(last.unwrap() >= damaged, "those after them are done");
}

/// Segments that the disk refuses, however many, keep others waiting for a run, and no longer.
#[test]
fn segments_that_cannot_be_read_do_not_end_every_run() {
    let mut stage = Stage::of_old(60);
    stage.fill();
    // What was dropped before is known by now.
    assert_eq!(stage.run().faults, [""; 0]);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let sealed = stage.log().sealed();
    let refused = FAULTS_MAX + 2;
    assert!(sealed.len() > refused + 2, "{}", sealed.len());
    for span in &sealed[..refused] {
        let path = stage.segment(span.start);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
    }
    let first = stage.run();
    assert_eq!(first.faults.len(), FAULTS_MAX, "{:?}", first.faults);
    assert!(first.interrupted && first.again && first.records() == 0);
    let second = stage.run();
    assert!(second.records() > 0, "{:?}", second.faults);
    assert!(second.faults.len() >= 2 && second.again);
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

/// A tile that rotted accuses no record: those lead to what was signed, and it is made again.
#[test]
fn a_tile_that_rotted_does_not_accuse_the_records() {
    let mut stage = Stage::of_old(100);
    stage.clock.advance(61 * DAY);
    stage.fill();
    assert!(stage.log().len() > 256);
    let tile = stage.folder().join("tile/0/000");
    let sound = std::fs::read(&tile).unwrap();
    let mut rotten = sound.clone();
    rotten[70] ^= 1;
    std::fs::write(&tile, &rotten).unwrap();
    let outcome = stage.run();
    assert_eq!(outcome.faults, [""; 0]);
    assert!(outcome.records() > 0);
    assert_eq!(std::fs::read(&tile).unwrap(), sound);
    // A record that is another is told as that still.
    std::fs::write(&tile, &rotten).unwrap();
    alter_record(&stage.segment(0), 0);
    let span = stage.log().sealed().remove(0);
    let weighed = Thinning::weigh(stage.log(), span, i64::MAX, |_, _, _, _| Fate::Keep);
    assert!(matches!(weighed, Err(LogError::Tampered(_))));
    assert!(std::fs::read(&tile).unwrap() == rotten);
}

/// What a run records of itself is read back by reports.
#[test]
fn how_long_records_were_kept_is_told_by_what_was_recorded() {
    let mut stage = Stage::of_old(6);
    stage.hold("h", "path:/old/1");
    stage.clock.advance(301 * DAY);
    stage.fill();
    stage.run();
    let mut told = BTreeSet::new();
    for entry in stage.log().scan(0).map(Result::unwrap) {
        if let Some(Body::LogLifecycle(said)) = entry.record.body
            && said.verb == "records_dropped"
        {
            let owned = |(class, period): (&str, &str)| format!("{class} {period}");
            told.extend(kept_for(&said.detail).map(owned));
        }
    }
    let told: Vec<String> = told.into_iter().collect();
    assert_eq!(
        told,
        ["admin 300 days", "decision 60 days", "outcome 60 days"]
    );
    for (period, days) in [("60 days", 60), ("12 months", 366), ("364 days", 364)] {
        assert_eq!(days_of(period), Some(days), "{period}");
    }
    assert!(days_of("6 years").unwrap() >= 6 * 365 + 2);
    assert_eq!(kept_for("12 records").count(), 0);
}

/// An index that lacks what the log has is made again.
#[test]
fn an_index_that_has_let_go_of_what_is_there_begins_anew() {
    let mut stage = Stage::of_old(6);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let kept = tempfile::tempdir().unwrap();
    stage.log().close();
    copy(&stage.folder(), kept.path());
    stage.restart();
    stage.run();
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let count = |stage: &Stage| {
        let source: Arc<dyn Source> = Arc::new(stage.log().clone());
        let options = Options {
            bucket: BucketSpan::Day,
            commit_every: Duration::ZERO,
            hold: Duration::ZERO,
            ..Options::default()
        };
        let dir = stage.dir.path().join("index");
        let store = Store::open(source, &dir, stage.clock.clone(), options).unwrap();
        runtime.block_on(store.flush()).unwrap();
        let found = store.count(&Query::parse("last:90d path:/old/**").unwrap());
        found.unwrap()
    };
    assert_eq!(count(&stage), 0);
    // The segments as they were before, as a disk may have them after a power cut.
    for lacking in stage.log().lacking().iter() {
        let name = segment::relative(lacking.segment);
        std::fs::copy(kept.path().join(&name), stage.folder().join(&name)).unwrap();
        let _ = std::fs::remove_file(stage.segment(lacking.segment).with_extension("idx"));
    }
    stage.restart();
    assert_eq!(count(&stage), 6);
}

/// A step of the story that a property tells.
#[derive(Debug, Clone, Copy)]
enum Step {
    Requests(u8, bool),
    Days(u8),
    Run,
    Crash(Point),
    Fail(Point),
    Hold,
    Release,
    Restart,
}

fn point() -> impl Strategy<Value = Point> {
    prop_oneof![
        Just(Point::Written),
        Just(Point::Recorded),
        Just(Point::Unindexed),
        Just(Point::Replaced),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..6u8, any::<bool>()).prop_map(|(n, held)| Step::Requests(n, held)),
        3 => (1..50u8).prop_map(Step::Days),
        3 => Just(Step::Run),
        2 => point().prop_map(Step::Crash),
        2 => point().prop_map(Step::Fail),
        1 => Just(Step::Hold),
        1 => Just(Step::Release),
        2 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: the tree is what it would have been, what is there
    /// is proven, what is not was over and not held, and verification agrees.
    #[test]
    fn the_tree_stays_and_only_what_is_over_and_free_goes(
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let mut stage = Stage::new();
        let mut leaves: Vec<Hash> = Vec::new();
        let mut ever_over = BTreeSet::new();
        let mut held = false;
        for step in steps {
            match step {
                Step::Requests(n, held) => for n in 0..n {
                    let path = if held { "/held" } else { "/free" };
                    stage.request(&format!("{path}/{n}"), 200);
                },
                Step::Days(days) => stage.clock.advance(u32::from(days) * DAY),
                Step::Run => drop(stage.run()),
                Step::Crash(point) => {
                    stage.run_of(&usual(), false, Some((point, true)));
                    stage.restart();
                }
                Step::Fail(point) => drop(stage.run_of(&usual(), false, Some((point, false)))),
                Step::Hold if !held => {
                    stage.hold("h", "path:/held/**");
                    held = true;
                }
                Step::Release if held => {
                    stage.holds.release("h").unwrap();
                    held = false;
                }
                Step::Hold | Step::Release => {}
                Step::Restart => stage.restart(),
            }
            // What is in the log now, before anything more of it may go.
            stage.signed();
            let log = stage.log();
            let checkpoint = log.checkpoint();
            let (periods, now) = (usual(), stage.clock.now());
            for index in 0..log.len() {
                match log.leaf(index) {
                    Ok(bytes) => {
                        let hash = leaf(&bytes);
                        match leaves.get(index as usize) {
                            Some(known) => prop_assert_eq!(*known, hash),
                            None => leaves.push(hash),
                        }
                        let entry = log.read(index).unwrap();
                        let class = crate::query::field::class_of(&entry.record);
                        let over = periods.over_before_us(class, now);
                        let received_us = entry.envelope.received_us;
                        let kept = held && matches!(&entry.record.body,
                            Some(Body::Decision(d)) if d.path.starts_with("/held"));
                        match over.is_some_and(|over| received_us < over) && !kept {
                            true => ever_over.insert(index),
                            false => ever_over.remove(&index),
                        };
                    }
                    Err(LogError::Dropped { .. }) => {
                        prop_assert!(ever_over.contains(&index), "{}", index);
                    }
                    Err(error) => prop_assert!(false, "{error}"),
                }
            }
            let mut tree = Tree::new();
            let signed = checkpoint.size as usize;
            leaves.iter().take(signed).for_each(|hash| tree.push(*hash));
            prop_assert_eq!(merkle::hex(&tree.root()), merkle::hex(&checkpoint.root));
        }
        let log = stage.log();
        let checkpoint = log.checkpoint();
        for index in 0..checkpoint.size {
            let proof = log.prove_under(index, checkpoint.size).unwrap();
            verify_inclusion(&leaves[index as usize], index, checkpoint.size, &proof, &checkpoint.root).unwrap();
        }
        let there = log.scan(0).map(|entry| entry.unwrap().index).collect::<BTreeSet<_>>();
        let gone = log.lacking().iter().map(Lacking::records).sum::<u64>();
        prop_assert_eq!(there.len() as u64 + gone, log.len());
        stage.log().close();
        let report = stage.check();
        prop_assert_eq!(report.findings, []);
        prop_assert_eq!(report.dropped, gone);
    }
}
