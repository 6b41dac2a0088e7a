//! What is signed, and what is verified, is what the log says, and what policies say of it.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use palisade_audit::{
    index::{BucketSpan, Store},
    log::{Log, LogOptions, Pending},
    report::{Evidence, Ground, package},
    stream::StreamKey,
};
use palisade_mesh::{
    spiffe_id::{SpiffeId, TrustDomain},
    wire::record::{Decision, Record, record::Body},
};

use super::*;
use crate::run::audit::{RunReport, reports::Desk, store_of};

const WEB: &str = "spiffe://demo.test/ns/shop/sa/web";

/// A log that is written, and its index, as the audit service has them.
struct Service {
    log: Log,
    // Before the folder that it writes to.
    store: Store,
    _index: tempfile::TempDir,
    dir: PathBuf,
}

impl Service {
    fn open(dir: &Path) -> Self {
        let options = LogOptions {
            group_wait: Duration::ZERO,
            checkpoint_every: Duration::from_millis(20),
            ..LogOptions::new(TrustDomain::parse("demo.test").unwrap())
        };
        let (clock, index) = (Clock::system(), tempfile::tempdir().unwrap());
        let log = Log::open(dir, options, clock.clone()).unwrap();
        let store = store_of(&log, index.path(), &clock, BucketSpan::Month, None).unwrap();
        Self {
            log,
            store,
            _index: index,
            dir: dir.to_owned(),
        }
    }

    /// Adds a decision of a moment ago of each of these numbers, of a proxy that started then.
    async fn add(&self, boot_ms: u64, numbers: &[u64]) {
        let clock = Clock::system();
        let stream = Arc::new(StreamKey {
            reporter: SpiffeId::parse(WEB).unwrap(),
            boot: ulid::Ulid::from_parts(boot_ms, 7),
            worker: 0,
        });
        let pending = numbers.iter().map(|n| {
            let record = Record {
                id: u128::from(*n).to_be_bytes().to_vec(),
                time_us: clock.now_us() - 1_000_000,
                reporter: WEB.into(),
                body: Some(Body::Decision(Decision::default())),
                ..Record::default()
            };
            Pending {
                stream: stream.clone(),
                sequence: *n,
                record: record.encode_to_vec().into(),
            }
        });
        let mut added = self.log.append(pending.collect());
        added.checkpointed().await.unwrap();
        self.store.flush().await.unwrap();
    }

    fn desk(&self) -> Desk<'_> {
        Desk {
            store: &self.store,
            log: &self.log,
            dir: &self.dir,
            now_us: Clock::system().now_us(),
        }
    }

    /// A report of the log.
    fn made(&self, name: &str, period: &str) -> Report {
        let asked = RunReport {
            name: name.to_owned(),
            period: period.to_owned(),
            scope: String::new(),
            to: String::new(),
        };
        self.desk().run(&asked).unwrap()
    }

    /// What comes of making a report of the log again.
    fn checked(&self, report: &Report) -> Checked {
        self.desk().check(report).unwrap()
    }
}

/// What a proxy misses later is no matter of a report; what the log had noticed under the
/// checkpoint is, also when it was opened since.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_missed_later_do_not_make_a_report_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::open(dir.path());
    service.add(7, &[1]).await;
    let sound = service.made("denials", "last:1h");
    assert!(sound.header.complete, "{:?}", sound.header.lacks);
    service.add(7, &[2, 5]).await;
    let found = service.checked(&sound);
    assert!(found.holds(), "{found:#?}");
    let told = found.not_compared.join("; ");
    assert!(told.contains("records 3 to 4 of spiffe://"), "{told}");

    let later = service.made("denials", "last:1h");
    let lacks = later.header.lacks.join("; ");
    assert!(lacks.contains("records 3 to 4 of spiffe://"), "{lacks}");
    let mut forged = later.clone();
    forged.header.lacks.clear();
    forged.header.complete = true;
    // A part of what was missing then has come, and the log was opened once more.
    service.log.close();
    drop(service);
    let service = Service::open(dir.path());
    service.add(7, &[4, 6]).await;
    let found = service.checked(&later);
    assert!(found.holds(), "{found:#?}");
    let found = service.checked(&forged);
    let what: Vec<&str> = found.differences.iter().map(|d| d.what.as_str()).collect();
    assert_eq!(what, ["lacks"]);
}

fn policies() -> Bytes {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    palisade_pdp::author::load(&policies)
        .compiled
        .unwrap()
        .bundle
}

fn with_uses(report: &Report, uses: &str) -> Report {
    let mut report = report.clone();
    report.sections[0].table.as_mut().unwrap().rows[0][7] = uses.to_owned();
    report
}

/// As whoever has the key of a log could sign it.
fn signed(desk: &Desk<'_>, report: &Report, files: BTreeMap<String, Vec<u8>>) -> Package {
    let (checkpoint, period) = palisade_audit::report::covered(report, desk.log).unwrap();
    let ground = Ground::Log(desk.log, desk.dir);
    let evidence = Evidence::new(desk.store, ground, period, "", &checkpoint, desk.now_us);
    let now = jiff::Timestamp::now();
    let beside = package::Beside {
        attached: files,
        kept: &|_| None,
        lacks: Vec::new(),
    };
    let packed = package::pack(report, &evidence.unwrap(), beside, 1000, now);
    Package::open(&packed.unwrap(), desk.log.verifier()).unwrap()
}

/// How long records are kept is asked of all times, and what proxies miss at another time than
/// that of the report makes it no less complete.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_missed_at_another_time_makes_no_report_incomplete() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::open(dir.path());
    // Started an hour ago; the period ends before.
    let boot_us = Clock::system().now_us() - 3_600_000_000;
    let boot_ms = u64::try_from(boot_us / 1000).unwrap();
    service.add(boot_ms, &[1, 4]).await;
    let moment = |us: i64| jiff::Timestamp::from_microsecond(us).unwrap();
    let before = format!(
        "since:{} until:{}",
        moment(boot_us - 7_200_000_000),
        moment(boot_us - 3_600_000_000)
    );
    for name in ["pci-dss", "personal-data"] {
        let report = service.made(name, &before);
        assert!(report.header.complete, "{name}: {:?}", report.header.lacks);
        let report = service.made(name, "last:3h");
        let lacks = report.header.lacks.join("; ");
        assert!(lacks.contains("records 2 to 3 of"), "{name}: {lacks}");
    }
}

/// Neither does the log sign uses that its records do not bear out, nor does a package hold
/// that was signed with such; and no package of policies goes without these.
#[tokio::test(flavor = "multi_thread")]
async fn what_policies_were_asked_for_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::open(dir.path());
    service.add(7, &[1]).await;
    let mut report = service.made("access-review", "last:1h");
    let desk = service.desk();
    let bundle = policies();
    let of = granted::again(&report, &[], bundle.clone(), &mut |query, take| {
        desk.decisions(query, take)
    });
    report.put_first(of.unwrap().sections);

    let named = BTreeMap::from([attached(&bundle)]);
    let pack = |report: &Report, attached: &BTreeMap<String, String>| {
        let asked = PackReport {
            report: report.clone(),
            attached: attached.clone(),
            records_max: 1000,
            to: String::new(),
        };
        desk.pack(&asked).map_err(|error| error.to_string())
    };
    let packed = pack(&with_uses(&report, "0"), &named).unwrap();
    let package = Package::open(&packed, desk.log.verifier()).unwrap();
    let mut checked = Checked::default();
    of_policies(&package, &mut checked);
    assert_eq!(
        (checked.differences, checked.not_compared),
        (vec![], vec![])
    );
    assert!(checked.compared > 15, "{}", checked.compared);

    let forged = with_uses(&report, "7");
    let refused = pack(&forged, &named).unwrap_err();
    assert!(refused.contains("does not say"), "{refused}");
    let refused = pack(&report, &BTreeMap::new()).unwrap_err();
    assert!(refused.contains("does not say"), "{refused}");

    // Without them, the head has to say that there are none.
    let mut without = report.clone();
    without.take_of_policies();
    let refused = pack(&without, &BTreeMap::new()).unwrap_err();
    assert!(refused.contains("does not say"), "{refused}");
    let mut checked = Checked::default();
    of_policies(&signed(&desk, &without, BTreeMap::new()), &mut checked);
    assert!(!checked.differences.is_empty());
    let mut said = without.clone();
    said.header.lacks = vec![
        granted::NO_POLICIES.to_owned(),
        "what nobody knows".to_owned(),
    ];
    said.header.complete = false;
    let packed = pack(&said, &BTreeMap::new()).unwrap();
    let package = Package::open(&packed, desk.log.verifier()).unwrap();
    assert_eq!(package.report.header.lacks, [granted::NO_POLICIES]);
    let mut checked = Checked::default();
    of_policies(&package, &mut checked);
    assert_eq!(checked.differences, vec![]);
    // Nor does it lack decisions that can be made again.
    let mut lacking = report.clone();
    lacking.header.lacks = vec![format!(
        "1 of 1 recorded decisions {}",
        granted::NOT_REPLAYED
    )];
    lacking.header.complete = false;
    let refused = pack(&lacking, &named).unwrap_err();
    assert!(refused.contains("does not say"), "{refused}");

    let (name, _) = attached(&bundle);
    let files = BTreeMap::from([(name, bundle.to_vec())]);
    let mut checked = Checked::default();
    of_policies(&signed(&desk, &forged, files), &mut checked);
    let first = checked.differences.first().map(|d| d.what.as_str());
    assert_eq!(first, Some("row 1"));
    // Without its policies nothing can be said of it, and that is.
    let mut checked = Checked::default();
    of_policies(&signed(&desk, &forged, BTreeMap::new()), &mut checked);
    assert!(checked.differences.is_empty());
    assert!(checked.not_compared[0].contains("access-in-force"));
}
