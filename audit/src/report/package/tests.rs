//! A package of a real log holds, and none that was changed does.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use palisade_mesh::{
    clock::Clock,
    spiffe_id::SpiffeId,
    wire::record::{
        Admin, AuditRead, AuthnFailure, Call, Credential, Decision, Erasure, Head, Peer,
        PolicyChange, Record, Rejudgement, Verdict, Versions, record::Body,
    },
};
use prost::Message as _;

use super::{
    pack::sealed,
    seal::{Seal, sums},
    *,
};
use crate::{
    checkpoint::Checkpoint,
    envelope::EnvelopeRef,
    going::Going,
    index::{Options, Store, StoreError},
    log::{Log, Pending},
    merkle::Hash,
    note::Verifier,
    report::{Checked, Evidence, Ground, KINDS, Kind, Period, check, covered, lacks::Missing, run},
    source::{Entry, Source, SourceError},
    stream::{StreamKey, new_ulid},
    testing::{REPORTER, Speaker, open_log, reporter},
};

mod again;
mod browser;
mod oscal;

/// A log with decisions of the last hours, its index, and what holds their folders.
pub(crate) struct Stage {
    log: Log,
    store: Store,
    dir: tempfile::TempDir,
    _index: tempfile::TempDir,
    now_us: i64,
    /// How many records each reporter has sent.
    sent: std::cell::RefCell<BTreeMap<String, u64>>,
}

const DENIED: u64 = 30;

fn record(n: u64, time_us: i64) -> Bytes {
    let record = Record {
        id: new_ulid(&Clock::system()).to_bytes().to_vec(),
        time_us,
        reporter: REPORTER.into(),
        body: Some(Body::Decision(Decision {
            verdict: if n.is_multiple_of(2) {
                Verdict::NotPermitted.into()
            } else {
                Verdict::Allow.into()
            },
            reason: "no_permit".into(),
            principal: Some(Peer {
                spiffe_id: REPORTER.into(),
                ..Peer::default()
            }),
            service: "acme.test/shop/orders".into(),
            path: format!("/orders/{n}"),
            ..Decision::default()
        })),
        ..Record::default()
    };
    record.encode_to_vec().into()
}

fn open_store(source: Arc<dyn Source>, dir: &Path) -> Store {
    Store::open(source, dir, Clock::system(), Options::default()).unwrap()
}

async fn stage() -> Stage {
    let now_us = Clock::system().now_us();
    // Two hours apart: half of them are of the time before the period.
    let ago = |n: u64| {
        if n <= DENIED {
            7_000_000_000
        } else {
            60_000_000
        }
    };
    let records = (1..=2 * DENIED).map(|n| record(n, now_us - ago(n)));
    Stage::of(records).await
}

impl Stage {
    /// A log of these records.
    pub(crate) async fn of(records: impl Iterator<Item = Bytes>) -> Self {
        let (dir, index) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let log = open_log(&dir);
        let store = open_store(Arc::new(log.clone()), index.path());
        let mut stage = Self {
            log,
            store,
            dir,
            _index: index,
            now_us: 0,
            sent: std::cell::RefCell::default(),
        };
        stage.add(records).await;
        stage.now_us = Clock::system().now_us();
        stage
    }

    /// Puts records into the log, under a checkpoint and into the index.
    async fn add(&self, records: impl Iterator<Item = Bytes>) {
        let pending: Vec<_> = records
            .map(|record| {
                let of = Record::decode(record.clone()).unwrap().reporter;
                let mut sent = self.sent.borrow_mut();
                let sequence = sent.entry(of.clone()).or_default();
                *sequence += 1;
                let stream = StreamKey {
                    reporter: SpiffeId::parse(&of).unwrap(),
                    boot: ulid::Ulid::from_parts(7, 7),
                    worker: 0,
                };
                Pending {
                    stream: Arc::new(stream),
                    sequence: *sequence,
                    record,
                }
            })
            .collect();
        self.log.append(pending).checkpointed().await.unwrap();
        self.store.flush().await.unwrap();
    }

    fn evidence(&self, scope: &str, checkpoint: &Checkpoint) -> Evidence<'_> {
        let period = Period::read("last:1h", self.now_us).unwrap();
        let ground = Ground::Log(&self.log, self.dir.path());
        Evidence::new(&self.store, ground, period, scope, checkpoint, self.now_us).unwrap()
    }

    pub(crate) fn made(&self, kind: &str) -> (Report, Checkpoint) {
        let checkpoint = self.log.checkpoint();
        (self.made_under(&checkpoint, kind, ""), checkpoint)
    }

    fn made_under(&self, checkpoint: &Checkpoint, kind: &str, scope: &str) -> Report {
        let evidence = self.evidence(scope, checkpoint);
        run(Kind::find(kind).unwrap(), &evidence).unwrap()
    }

    /// What comes of making a report again from the log.
    fn checked(&self, report: &Report) -> Result<Checked, StoreError> {
        check(report, &self.log, |period, checkpoint| {
            let ground = Ground::Log(&self.log, self.dir.path());
            let scope = &report.header.scope;
            Evidence::new(
                &self.store,
                ground,
                period,
                scope,
                checkpoint,
                Clock::system().now_us(),
            )
        })
    }

    /// A package of the report under the checkpoint that it has.
    fn pack(&self, report: &Report, most: usize) -> Result<Vec<u8>, StoreError> {
        let (checkpoint, _) = covered(report, &self.log)?;
        let evidence = self.evidence(&report.header.scope, &checkpoint);
        let attached = BTreeMap::from([(bundle(), b"texts".to_vec())]);
        let now = jiff::Timestamp::from_microsecond(self.now_us).unwrap();
        let beside = Beside {
            attached,
            kept: &|_| None,
            lacks: Vec::new(),
        };
        pack(report, &evidence, beside, most, now)
    }

    /// Puts changed files together, with right sums, and signed by the log's own key.
    fn resealed(&self, report: &Report, change: impl Fn(&mut Files)) -> Vec<u8> {
        let mut files = self.files(report);
        files.remove(SUMS);
        files.remove(NOTE);
        change(&mut files);
        sealed(
            files,
            report,
            (&self.log, self.store.going()),
            jiff::Timestamp::UNIX_EPOCH,
        )
        .unwrap()
    }

    fn files(&self, report: &Report) -> Files {
        let packed = self.pack(report, RECORDS_MAX).unwrap();
        let mut seal = Seal::new(self.log.verifier());
        archive::read(&packed, PACKAGE_BYTES_MAX, &mut seal).unwrap()
    }

    fn refused(&self, bytes: &[u8]) -> Diagnostic {
        Package::open(bytes, self.log.verifier()).unwrap_err()
    }
}

/// Parts tell how far a report is, and each of them hears that nobody waits; so do its check and
/// its package.
#[tokio::test]
async fn what_nobody_waits_for_is_given_up() {
    let stage = stage().await;
    let (report, checkpoint) = stage.made("pci-dss");
    let going = Going::default();
    let waited = Stage {
        store: stage.store.heeding(&going),
        ..stage
    };
    let made = waited.made_under(&checkpoint, "pci-dss", "");
    assert_eq!(made.sections.len(), report.sections.len());
    let far = going.far();
    assert!(
        far.records > DENIED && far.all > 1000 && far.done == far.all,
        "{far:?}"
    );
    waited.pack(&report, RECORDS_MAX).unwrap();
    let packed = going.far();
    assert!(packed.all > 2 * far.all, "{packed:?}");
    going.end();
    for kind in KINDS {
        let ended = run(kind, &waited.evidence("", &checkpoint));
        let ended = ended.map(|report| report.name);
        assert!(matches!(ended, Err(StoreError::Ended(_))), "{ended:?}");
    }
    assert!(matches!(waited.checked(&report), Err(StoreError::Ended(_))));
    let packed = waited.pack(&report, RECORDS_MAX);
    assert!(matches!(packed, Err(StoreError::Ended(_))));
    // Nor is what was put together written to its end.
    let files = Files::from([(REPORT.to_owned(), vec![0; 1 << 20])]);
    let now = jiff::Timestamp::UNIX_EPOCH;
    assert!(sealed(files, &report, (&waited.log, &going), now).is_err());
}

/// Where one note tells of the gaps of several streams, each of them was noticed.
#[tokio::test]
async fn every_gap_of_a_note_was_noticed() {
    let stage = stage().await;
    let heads = Speaker::new(1).heads_with(
        |heads| {
            heads.streams.extend((0..3).map(|worker| Head {
                worker,
                last_sequence: 5 + u64::from(worker),
                ..Head::default()
            }));
        },
        |_| {},
    );
    let mut appended = stage.log.append(vec![heads]);
    appended.checkpointed().await.unwrap();
    stage.store.flush().await.unwrap();
    let checkpoint = stage.log.checkpoint();
    let evidence = stage.evidence("", &checkpoint);
    let gap = |last| Missing {
        first: 1,
        last,
        reporter: REPORTER,
    };
    let noticed = evidence.noticed(&[gap(5), gap(6), gap(7), gap(8)]);
    assert_eq!(noticed.unwrap(), [true, true, true, false]);
}

/// When a revision was in force, the PDP alone says: earlier versions took such records of
/// anybody.
#[tokio::test]
async fn records_of_when_a_revision_was_in_force_are_the_pdp_s() {
    let digest = sha256(b"texts").to_vec();
    let versions = Some(Versions {
        policy_digest: digest,
        ..Versions::default()
    });
    let pdp = "spiffe://acme.test/palisade/pdp";
    let now_us = Clock::system().now_us();
    let of = |reporter: &str, minutes: i64, body: Body| -> Bytes {
        let record = Record {
            id: new_ulid(&Clock::system()).to_bytes().to_vec(),
            time_us: now_us - minutes * 60_000_000,
            reporter: reporter.into(),
            body: Some(body),
            ..Record::default()
        };
        record.encode_to_vec().into()
    };
    let change = Body::PolicyChange(PolicyChange {
        verb: "activated".into(),
        after: versions.clone(),
        ..PolicyChange::default()
    });
    let decided = Body::Decision(Decision {
        versions,
        ..Decision::default()
    });
    let records = [
        of(pdp, 120, change.clone()),
        of(REPORTER, 120, change),
        of(REPORTER, 1, decided),
    ];
    let stage = Stage::of(records.into_iter()).await;
    let (report, checkpoint) = stage.made("denials");
    let beside = Beside {
        attached: BTreeMap::new(),
        kept: &|_| Some(b"texts".to_vec()),
        lacks: Vec::new(),
    };
    let evidence = stage.evidence("", &checkpoint);
    let now = jiff::Timestamp::UNIX_EPOCH;
    let packed = pack(&report, &evidence, beside, RECORDS_MAX, now).unwrap();
    let package = Package::open(&packed, stage.log.verifier()).unwrap();
    let told: Vec<String> = package
        .in_force()
        .filter_map(|(_, leaf)| {
            let envelope = EnvelopeRef::decode(leaf)?;
            StreamKey::decode(envelope.stream).map(|key| key.reporter.to_string())
        })
        .collect();
    assert_eq!(told, [pdp]);
}

/// Name of what is attached.
fn bundle() -> String {
    format!("{}.bundle", hex(&sha256(b"texts")))
}

fn written(files: &Files) -> Vec<u8> {
    let mut out = Vec::new();
    archive::write(files, &mut out).unwrap();
    out
}

async fn checked(package: &Package) -> Checked {
    let index = tempfile::tempdir().unwrap();
    let store = open_store(package.source(), index.path());
    tokio::time::timeout(Duration::from_secs(60), store.flush())
        .await
        .unwrap()
        .unwrap();
    package.check(&store, Clock::system().now_us()).unwrap()
}

/// A record of each class that workloads and the parts of the mesh leave, a minute old.
fn others() -> impl Iterator<Item = Bytes> {
    let time_us = Clock::system().now_us() - 60_000_000;
    let named = || REPORTER.to_owned();
    let bodies = [
        Body::Admin(Admin {
            actor: "ana".into(),
            verb: "kill".into(),
            object: named(),
            ..Admin::default()
        }),
        Body::AuditRead(AuditRead {
            actor: "ben".into(),
            verb: "search".into(),
            query: "decision:deny".into(),
            ..AuditRead::default()
        }),
        Body::AuthnFailure(AuthnFailure {
            reason: "no_certificate".into(),
            listener: "inbound".into(),
            ..AuthnFailure::default()
        }),
        Body::Call(Call {
            service: "acme.test/shop/orders".into(),
            ..Call::default()
        }),
        Body::Credential(Credential {
            spiffe_id: named(),
            verb: "issued".into(),
            ..Credential::default()
        }),
        Body::Erasure(Erasure::default()),
        Body::PolicyChange(PolicyChange {
            verb: "activated".into(),
            ..PolicyChange::default()
        }),
        Body::Rejudgement(Rejudgement {
            cause: "policy".into(),
            ..Rejudgement::default()
        }),
    ];
    bodies.into_iter().map(move |body| {
        let record = Record {
            id: new_ulid(&Clock::system()).to_bytes().to_vec(),
            time_us,
            reporter: named(),
            body: Some(body),
            ..Record::default()
        };
        record.encode_to_vec().into()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_verified_with_the_key_alone_and_is_the_same_bytes_each_time() {
    let stage = stage().await;
    stage.add(others()).await;
    let now_us = Clock::system().now_us();
    let stage = Stage { now_us, ..stage };
    for kind in KINDS.iter().map(|kind| kind.name) {
        let (report, checkpoint) = stage.made(kind);
        let packed = stage.pack(&report, RECORDS_MAX).unwrap();
        assert_eq!(packed, stage.pack(&report, RECORDS_MAX).unwrap(), "{kind}");
        let key = Verifier::parse(&stage.log.verifier().to_string()).unwrap();
        let package = Package::open(&packed, &key).unwrap();
        assert_eq!(package.report, report);
        assert_eq!(package.checkpoint().size, checkpoint.size);
        // All of the period, and what came before it where the report looks there.
        assert!(package.records() > DENIED, "{}", package.records());
        assert!(
            package
                .files()
                .any(|name| name == format!("policy/{}", bundle()))
        );
        let checked = checked(&package).await;
        assert!(checked.holds(), "{kind}: {checked:#?}");
        let made = !report.sections.is_empty();
        assert!(checked.compared > 15, "{checked:#?}");
        assert_eq!(made, kind != "reach", "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_changed_missing_or_added_is_named() {
    let stage = stage().await;
    let (report, _) = stage.made("denials");
    let files = stage.files(&report);
    for name in files.keys() {
        let mut less = files.clone();
        less.remove(name);
        let told = stage.refused(&written(&less));
        assert!(told.message.contains(name.as_str()), "{name}: {told:?}");
        let mut other = files.clone();
        other.get_mut(name).unwrap().push(b'\n');
        let told = stage.refused(&written(&other));
        assert!(matches!(told.code.0, 7822 | 7823), "{name}: {told:?}");
        assert!(told.message.contains(name.as_str()), "{name}: {told:?}");
    }
    let mut more = files.clone();
    more.insert("report/extra.txt".into(), b"x".to_vec());
    let told = stage.refused(&written(&more));
    assert_eq!(told.code.0, 7822);
    assert!(told.message.contains("report/extra.txt"), "{told:?}");
    assert_eq!(stage.refused(b"no package").code.0, 7820);
    let other = open_log(&tempfile::tempdir().unwrap());
    let packed = written(&files);
    let told = Package::open(&packed, other.verifier()).unwrap_err();
    assert_eq!(told.code.0, 7823);
}

/// Packages have not always had every file that they have now.
#[tokio::test(flavor = "multi_thread")]
async fn a_package_from_before_the_page_still_verifies() {
    let stage = stage().await;
    let (report, _) = stage.made("soc2");
    let before = |words: &'static str| {
        stage.resealed(&report, move |files| {
            for name in LATER {
                files.remove(name).unwrap();
            }
            files.insert(ABOUT.into(), words.into());
        })
    };
    let package = Package::open(&before(README), stage.log.verifier()).unwrap();
    let found = checked(&package).await;
    assert!(found.holds(), "{found:#?}");
    let told = found.not_compared.join("; ");
    assert!(LATER.iter().all(|name| told.contains(name)), "{told}");
    let package = Package::open(&before("call us"), stage.log.verifier()).unwrap();
    assert!(!checked(&package).await.holds());
    // One that is there is the one that belongs there.
    for name in LATER {
        let packed = stage.resealed(&report, |files| {
            files.get_mut(name).unwrap().push(b' ');
        });
        let package = Package::open(&packed, stage.log.verifier()).unwrap();
        let found = checked(&package).await;
        let told: Vec<&str> = found.differences.iter().map(|d| d.what.as_str()).collect();
        assert_eq!(told, [name]);
    }
}

/// Whoever has the log's own key can sign what he likes; the records do not follow him.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_records_do_not_say_is_found_though_it_is_signed() {
    let stage = stage().await;
    let (report, _) = stage.made("denials");
    let mut forged = report.clone();
    let mut tables = forged.sections.iter_mut().filter_map(|s| s.table.as_mut());
    let table = tables.find(|table| !table.rows.is_empty()).unwrap();
    table.rows[0][0] = "spiffe://acme.test/ns/shop/sa/nobody".into();
    let packed = stage.resealed(&report, |files| files.extend(forms(&forged).unwrap()));
    let package = Package::open(&packed, stage.log.verifier()).unwrap();
    let found = checked(&package).await;
    assert!(
        found
            .differences
            .iter()
            .any(|d| d.report.contains("nobody")),
        "{found:#?}"
    );

    // A page for people that is not the report's.
    let page = stage.resealed(&report, |files| {
        let page = files.get_mut("report/report.pdf").unwrap();
        page.push(b' ');
    });
    let package = Package::open(&page, stage.log.verifier()).unwrap();
    let found = checked(&package).await;
    assert!(
        found
            .differences
            .iter()
            .any(|d| d.what == "report/report.pdf"),
        "{found:#?}"
    );

    // Forms that this program cannot make again are not said to hold.
    let mut newer = report.clone();
    newer.header.program = "palisade 99.0.0".into();
    let packed = stage.resealed(&report, |files| files.extend(forms(&newer).unwrap()));
    let package = Package::open(&packed, stage.log.verifier()).unwrap();
    let found = checked(&package).await;
    assert!(!found.holds(), "{found:#?}");
    assert!(found.differences[0].log.contains("not compared"));

    // What belongs to no package, and words that are not ours.
    for name in ["notes.txt", "report/more.pdf", "README.txt"] {
        let packed = stage.resealed(&report, |files| {
            files.insert(name.to_owned(), b"call us".to_vec());
        });
        let package = Package::open(&packed, stage.log.verifier()).unwrap();
        let found = checked(&package).await;
        let told: Vec<&str> = found.differences.iter().map(|d| d.what.as_str()).collect();
        assert_eq!(told, [name]);
    }
    let other = format!("policy/{}", bundle());
    let packed = stage.resealed(&report, |files| {
        files.insert(other.clone(), b"other texts".to_vec());
    });
    let told = stage.refused(&packed);
    assert_eq!(told.code.0, 7822);
    assert!(told.message.contains(&other), "{told:?}");

    // A statement that speaks of another report than the one beside it.
    let (other, _) = stage.made("soc2");
    let mut files = stage.files(&report);
    files.remove(SUMS);
    files.remove(NOTE);
    let packed = sealed(
        files,
        &other,
        (&stage.log, stage.store.going()),
        jiff::Timestamp::UNIX_EPOCH,
    )
    .unwrap();
    let told = stage.refused(&packed);
    assert_eq!(told.code.0, 7822, "{told:?}");
    assert!(told.message.contains(NOTE), "{told:?}");

    // Another root or time of the checkpoint than was signed.
    let mut moved = report.clone();
    moved.header.checkpoint.time = "2026-01-01T00:00:00.000000Z".into();
    let packed = stage.resealed(&report, |files| files.extend(forms(&moved).unwrap()));
    assert_eq!(stage.refused(&packed).code.0, 7822);

    // A record that is left out, or is another one.
    let lines = |files: &Files| -> Vec<String> {
        let text = String::from_utf8(files[PROOFS].clone()).unwrap();
        text.split_inclusive('\n').map(str::to_owned).collect()
    };
    let less = stage.resealed(&report, |files| {
        let mut lines = lines(files);
        lines.pop();
        files.insert(PROOFS.into(), lines.concat().into());
    });
    let package = Package::open(&less, stage.log.verifier()).unwrap();
    assert!(!checked(&package).await.holds());
    let moved = stage.resealed(&report, |files| {
        let mut lines = lines(files);
        let last = lines.len() - 1;
        let (a, b) = (lines[last].clone(), lines[last - 1].clone());
        let leaf = |line: &str| line.split('"').nth(5).unwrap().to_owned();
        lines[last] = a.replace(&leaf(&a), &leaf(&b));
        files.insert(PROOFS.into(), lines.concat().into());
    });
    let told = stage.refused(&moved);
    assert_eq!(told.code.0, 7824, "{told:?}");
    assert!(told.cause.unwrap().contains("is not in the log"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_that_the_log_does_not_say_nor_more_than_was_asked_for() {
    let stage = stage().await;
    let (report, _) = stage.made("denials");
    let code = |packed: Result<Vec<u8>, StoreError>| match packed {
        Err(StoreError::Query(told)) => told.code.0,
        other => panic!("{other:?}"),
    };
    let mut forged = report.clone();
    forged.header.decisions += 1;
    assert_eq!(code(stage.pack(&forged, RECORDS_MAX)), 7826);
    for (of, id) in [("denials", "effective-access"), ("denials", "invented")] {
        let (mut forged, _) = stage.made(of);
        let section = Section::new(id, "All is well", "So it is.").of_policies();
        forged.sections.push(section.clone());
        assert_eq!(code(stage.pack(&forged, RECORDS_MAX)), 7826, "{id}");
        // Signed all the same, by whoever has the key.
        let (report, _) = stage.made(of);
        let packed = stage.resealed(&report, |files| files.extend(forms(&forged).unwrap()));
        assert_eq!(stage.refused(&packed).code.0, 7826, "{id}");
    }
    let evidence = stage.evidence("", &stage.log.checkpoint());
    let none = |_: &Hash| None;
    let attached = BTreeMap::from([("0.bundle".to_owned(), b"texts".to_vec())]);
    let now = jiff::Timestamp::UNIX_EPOCH;
    let beside = |attached| Beside {
        attached,
        kept: &none,
        lacks: Vec::new(),
    };
    let named = pack(&report, &evidence, beside(attached), RECORDS_MAX, now);
    assert_eq!(code(named), 7827);
    // More files than a package is opened with.
    let numbered = |n: usize| (format!("{}.bundle", hex(&sha256(&n.to_be_bytes()))), n);
    let many = (0..FILES_MAX).map(numbered);
    let many = many.map(|(name, n)| (name, n.to_be_bytes().to_vec()));
    let many = pack(&report, &evidence, beside(many.collect()), RECORDS_MAX, now);
    assert_eq!(code(many), 7827);

    let packed = stage.pack(&report, RECORDS_MAX).unwrap();
    let package = Package::open(&packed, stage.log.verifier()).unwrap();
    let records = usize::try_from(package.records()).unwrap();
    assert!(stage.pack(&report, records).is_ok());
    assert_eq!(code(stage.pack(&report, records - 1)), 7821);
}

/// What describes the whole log is what the log says when it signs; time and program are
/// its own, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_signs_of_itself_is_its_own() {
    let stage = stage().await;
    let (report, _) = stage.made("integrity");
    let mut forged = report.clone();
    forged.header.made = "2020-01-01T00:00:00.000000Z".into();
    forged.header.program = "palisade 99.0.0".into();
    forged.header.lacks = vec!["what nobody knows".into()];
    forged.header.complete = false;
    let momentary = forged.sections.iter_mut().find(|s| s.momentary).unwrap();
    momentary.figures[0].value = "flawless".into();
    let packed = stage.pack(&forged, RECORDS_MAX).unwrap();
    let package = Package::open(&packed, stage.log.verifier()).unwrap();
    assert_eq!(package.report, report);
}

/// The log without one of its records.
struct Hiding(Log, u64);

impl Source for Hiding {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read(&self, index: u64) -> Result<Entry, SourceError> {
        Source::read(&self.0, index)
    }

    fn scan(&self, from: u64) -> Box<dyn Iterator<Item = Result<Entry, SourceError>> + '_> {
        let kept = (from..self.len()).filter(|index| *index != self.1);
        Box::new(kept.map(|index| self.read(index)))
    }

    fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// An index that has all is the same as the log, and one that lacks one record of the period is
/// not, by its class; clocks and witnesses are told beside it.
#[tokio::test]
async fn an_index_that_lacks_a_record_is_told_from_the_log() {
    let mut stage = stage().await;
    let figure = |report: &Report, section: &str, label: &str| {
        let section = report.sections.iter().find(|s| s.id == section).unwrap();
        let figure = section.figures.iter().find(|f| f.label == label);
        figure.unwrap().value.clone()
    };
    let (whole, _) = stage.made("integrity");
    assert_eq!(figure(&whole, "index-and-log", "result"), "the same");
    assert_eq!(figure(&whole, "index-and-log", "classes that differ"), "0");
    let in_log = figure(&whole, "index-and-log", "records of the period in the log");
    assert_eq!(in_log, whole.header.records.to_string());
    // Its decisions were an hour and a minute old when they came; the log's own were new.
    let apart = figure(&whole, "clock-offsets", "furthest apart, milliseconds");
    let apart: u64 = apart.parse().unwrap();
    // However long they took to arrive after the moment that they were given.
    assert!((60_000..600_000).contains(&apart), "{apart}");
    assert_eq!(figure(&whole, "witnesses", "cosigned checkpoint"), "none");

    let index = tempfile::tempdir().unwrap();
    let hiding = Hiding(stage.log.clone(), stage.log.len() - 2);
    stage.store = open_store(Arc::new(hiding), index.path());
    stage.store.flush().await.unwrap();
    let (lame, _) = stage.made("integrity");
    assert_eq!(figure(&lame, "index-and-log", "result"), "NOT THE SAME");
    assert_eq!(figure(&lame, "index-and-log", "classes that differ"), "1");
    assert_eq!(
        figure(&lame, "index-and-log", "records of the period in the log"),
        in_log
    );
}
