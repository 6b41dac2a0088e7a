//! A sound report is the same when it is made again, whatever came since, and one that was
//! changed is not.

use palisade_mesh::wire::record::{LogLifecycle, Outcome};

use super::*;
use crate::report::{Chart, Shape};

/// Decisions of `ids` of a moment ago, or how their requests ended.
fn exchange(ids: &[ulid::Ulid], status: Option<u32>) -> impl Iterator<Item = Bytes> {
    ids.iter().map(move |id| {
        let time_us = i64::try_from(id.timestamp_ms()).unwrap() * 1000;
        let body = match status {
            None => Body::Decision(Decision {
                verdict: Verdict::Allow.into(),
                principal: Some(Peer {
                    spiffe_id: REPORTER.into(),
                    ..Peer::default()
                }),
                service: "acme.test/shop/orders".into(),
                ..Decision::default()
            }),
            Some(status) => Body::Outcome(Outcome {
                status,
                end: 1,
                ..Outcome::default()
            }),
        };
        let record = Record {
            id: id.to_bytes().to_vec(),
            time_us,
            reporter: REPORTER.into(),
            body: Some(body),
            ..Record::default()
        };
        record.encode_to_vec().into()
    })
}

/// How a request ended is in a report as far as it is under the report's checkpoint, too: what
/// ends later changes no report that was made, by no row and by no scope, nor does what ended
/// while one was made; and a package of it has all that it says.
#[tokio::test(flavor = "multi_thread")]
async fn what_ends_after_the_checkpoint_changes_no_report() {
    const SCOPES: [&str; 7] = [
        "",
        "status:5xx",
        "-status:5xx",
        "ended:false",
        "ended:true",
        "ended:* (end:completed OR service:orders)",
        "-(ended:false) status:200",
    ];
    let stage = stage().await;
    let ids: Vec<_> = (0..3).map(|_| new_ulid(&Clock::system())).collect();
    stage.add(exchange(&ids, None)).await;
    stage.add(exchange(&ids[..1], Some(503))).await;
    let checkpoint = stage.log.checkpoint();
    let now_us = Clock::system().now_us();
    let stage = Stage { now_us, ..stage };
    let made =
        |scope| ["access", "incident"].map(|kind| stage.made_under(&checkpoint, kind, scope));
    let before: Vec<[Report; 2]> = SCOPES.iter().map(|scope| made(scope)).collect();
    let decisions = |report: &Report| report.header.decisions;
    let counts: Vec<u64> = before.iter().map(|[report, _]| decisions(report)).collect();
    let all = counts[0];
    assert_eq!(counts, [all, 1, all - 1, all - 1, 1, all, 0]);

    stage.add(exchange(&ids[1..], Some(502))).await;
    for ([access, incident], scope) in before.iter().zip(SCOPES) {
        for report in [access, incident] {
            let found = stage.checked(report).unwrap();
            assert!(found.holds(), "{scope}: {found:#?}");
            let packed = stage.pack(report, RECORDS_MAX).unwrap();
            let package = Package::open(&packed, stage.log.verifier()).unwrap();
            let found = checked(&package).await;
            assert!(found.holds(), "{scope}: {found:#?}");
        }
        // What is made now under that checkpoint is what was made then.
        for (now, then) in made(scope).iter().zip([access, incident]) {
            assert_eq!(now.header, then.header, "{scope}");
            let lasting = |report: &Report| -> Vec<Section> {
                let sections = report.sections.iter().filter(|s| !s.momentary);
                sections.cloned().collect()
            };
            assert_eq!(lasting(now), lasting(then), "{scope}");
        }
    }
    // Under a newer one they have ended.
    let now = stage.made_under(&stage.log.checkpoint(), "access", "status:5xx");
    assert_eq!(decisions(&now), 3);
}

/// The controls at a glance follow from the sections below them, and are held against these: a
/// count, a word of the framework, a figure of the first table of a pack.
#[tokio::test(flavor = "multi_thread")]
async fn the_controls_at_a_glance_are_those_of_the_sections_below() {
    let stage = stage().await;
    for pack in ["pci-dss", "soc2", "iso27001", "hipaa"] {
        let (report, _) = stage.made(pack);
        let found = stage.checked(&report).unwrap();
        assert!(found.holds(), "{pack}: {found:#?}");
        let told = found.momentary.join(", ");
        assert!(!told.contains("at-a-glance"), "{pack}: {told}");
        let changes: [fn(&mut Section); 4] = [
            |glance| glance.table.as_mut().unwrap().rows[0][3] = "999".into(),
            |glance| glance.table.as_mut().unwrap().rows[1][2] = "all is well".into(),
            |glance| glance.figures[2].value = "0 of none".into(),
            |glance| drop(glance.table.as_mut().unwrap().rows.pop()),
        ];
        for change in changes {
            let mut forged = report.clone();
            assert_eq!(forged.sections[0].id, "at-a-glance");
            change(&mut forged.sections[0]);
            let found = stage.checked(&forged).unwrap();
            let mut told = found.differences.iter();
            assert!(
                told.any(|told| told.section == "at-a-glance"),
                "{pack}: {found:#?}"
            );
        }
    }
}

/// Of what describes the whole log as it was, that which follows from the records is compared;
/// of the rest, what is otherwise now is told beside the verdict, each figure and row.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_it_was_is_told() {
    let stage = stage().await;
    let (report, _) = stage.made("integrity");
    let found = stage.checked(&report).unwrap();
    assert!(found.holds() && found.moved.is_empty(), "{found:#?}");
    let section = |report: &mut Report, id: &str| -> usize {
        report.sections.iter().position(|s| s.id == id).unwrap()
    };
    let changed = |id: &str, label: &str, value: &str| {
        let mut forged = report.clone();
        let at = section(&mut forged, id);
        let figures = &mut forged.sections[at].figures;
        let figure = figures.iter_mut().find(|f| f.label == label).unwrap();
        figure.value = value.to_owned();
        stage.checked(&forged).unwrap()
    };
    for label in [
        "root",
        "signed",
        "records under the checkpoint of this report",
    ] {
        let found = changed("log-integrity", label, "7");
        assert_eq!(found.differences[0].what, label, "{found:#?}");
    }
    for (id, label) in [
        ("index-and-log", "result"),
        ("clock-offsets", "furthest apart, milliseconds"),
    ] {
        let found = changed(id, label, "7");
        assert_eq!(found.differences.len(), 1, "{found:#?}");
        assert!(found.moved.is_empty(), "{found:#?}");
    }
    let mut forged = report.clone();
    let at = section(&mut forged, "clock-offsets");
    forged.sections[at].table.as_mut().unwrap().rows[0][2] = "0".into();
    assert!(!stage.checked(&forged).unwrap().holds());
    let conflicts = "conflicts that a witness told in the period";
    assert!(!changed("witnesses", conflicts, "7").holds());
    for (id, label) in [
        ("both-sides", "one-sided requests"),
        ("streams", "streams that are not complete"),
    ] {
        let found = changed(id, label, "7");
        let [moved] = &found.moved[..] else {
            panic!("{found:#?}");
        };
        let told = (moved.section.as_str(), moved.what.as_str());
        assert_eq!((told, moved.report.as_str()), ((id, label), "7"));
        assert!(found.holds(), "it may have been so then: {found:#?}");
    }
    let mut forged = report.clone();
    let at = section(&mut forged, "streams");
    forged.sections[at].table.as_mut().unwrap().rows[0][0] = "nobody".into();
    let found = stage.checked(&forged).unwrap();
    assert!(found.moved[0].report.contains("nobody"), "{found:#?}");
    // A row that was taken out, whether the table says how many there were or not.
    for total in [0, 1] {
        let mut forged = report.clone();
        let table = forged.sections[at].table.as_mut().unwrap();
        let row = table.rows.remove(0);
        table.total -= total;
        forged.header.rows -= 1;
        let found = stage.checked(&forged).unwrap();
        let told = found
            .moved
            .iter()
            .find(|moved| moved.what == "row")
            .unwrap();
        assert_eq!(
            (told.report.as_str(), told.log.as_str()),
            ("no such row", &*row.join(", "))
        );
    }
    // A text or a chart that no such section has.
    let mut forged = report.clone();
    forged.sections[at].listing = Some("Verified by the auditor: all is well".into());
    let found = stage.checked(&forged).unwrap();
    assert_eq!(found.differences[0].what, "listing", "{found:#?}");
    let mut forged = report.clone();
    forged.sections[at].chart = Some(Chart {
        title: "All is well".into(),
        shape: Shape::Bars,
        series: Vec::new(),
        points: Vec::new(),
    });
    let found = stage.checked(&forged).unwrap();
    assert_eq!(found.differences[0].what, "chart", "{found:#?}");
    // What the log has since is told in the same way.
    stage.add(others()).await;
    let found = stage.checked(&report).unwrap();
    assert!(found.holds() && !found.moved.is_empty(), "{found:#?}");
}

/// A report was not made before the log signed what it rests on; one of a time to come, which
/// may be that of a clock that is behind here, is told. A moment of a clock that is a little off
/// is neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_says_no_moment_before_its_checkpoint() {
    let stage = stage().await;
    let (report, checkpoint) = stage.made("denials");
    let minute = jiff::SignedDuration::from_mins(1);
    for (minutes, holds, told) in [
        (-6, false, false),
        (-4, true, false),
        (4, true, false),
        (7, true, true),
    ] {
        let mut dated = report.clone();
        dated.header.made = (checkpoint.time + minute * minutes).to_string();
        let found = stage.checked(&dated).unwrap();
        assert_eq!(found.holds(), holds, "{minutes}: {found:#?}");
        let ahead = found
            .not_compared
            .iter()
            .any(|what| what.contains("is ahead"));
        assert_eq!(ahead, told, "{minutes}: {found:#?}");
    }
}

/// A timeline has what belongs to each decision, in the order of time.
#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_has_both_sides_and_the_end_in_order() {
    let stage = stage().await;
    let id = new_ulid(&Clock::system());
    let request = new_ulid(&Clock::system());
    let time_us = i64::try_from(id.timestamp_ms()).unwrap() * 1000;
    let by = |reporter: &str, id: ulid::Ulid, after_ms: i64, body| -> Bytes {
        let record = Record {
            id: id.to_bytes().to_vec(),
            time_us: time_us + after_ms * 1000,
            reporter: reporter.into(),
            body: Some(body),
            ..Record::default()
        };
        record.encode_to_vec().into()
    };
    let caller = "spiffe://acme.test/ns/shop/sa/till";
    let of = |id, after_ms, body| by(REPORTER, id, after_ms, body);
    let service = "acme.test/shop/stock".to_owned();
    let rejudged = || {
        Body::Rejudgement(Rejudgement {
            verdict: Verdict::Forbidden.into(),
            cause: "kill_list".into(),
            closed: true,
            ..Rejudgement::default()
        })
    };
    let records = [
        of(
            id,
            1,
            Body::Decision(Decision {
                verdict: Verdict::Allow.into(),
                service: service.clone(),
                request_id: request.to_bytes().to_vec(),
                principal: Some(Peer {
                    spiffe_id: caller.into(),
                    ..Peer::default()
                }),
                ..Decision::default()
            }),
        ),
        by(
            caller,
            request,
            0,
            Body::Call(Call {
                service: service.clone(),
                status: 200,
                ..Call::default()
            }),
        ),
        // Of others, who know the ids: the caller says nothing of its own stream, nor does
        // the proxy, or anybody else, of what the caller sent.
        by(caller, id, 2, rejudged()),
        of(
            request,
            2,
            Body::Call(Call {
                service: service.clone(),
                ..Call::default()
            }),
        ),
        by(
            "spiffe://acme.test/ns/shop/sa/other",
            new_ulid(&Clock::system()),
            2,
            Body::Call(Call {
                service: service.clone(),
                decision_id: id.to_bytes().to_vec(),
                ..Call::default()
            }),
        ),
        of(id, 3, rejudged()),
        of(
            id,
            5,
            Body::Outcome(Outcome {
                status: 200,
                end: 7,
                duration_us: 4_000,
                ..Outcome::default()
            }),
        ),
        // Of other requests.
        of(
            new_ulid(&Clock::system()),
            2,
            Body::Call(Call {
                service,
                ..Call::default()
            }),
        ),
    ];
    stage.add(records.into_iter()).await;
    let now_us = Clock::system().now_us();
    let stage = Stage { now_us, ..stage };
    let checkpoint = stage.log.checkpoint();
    let report = stage.made_under(&checkpoint, "incident", "service:stock");
    let timeline = report.sections.iter().find(|s| s.id == "timeline").unwrap();
    let table = timeline.table.as_ref().unwrap();
    let at = |name: &str| table.columns.iter().position(|c| c.name == name).unwrap();
    let (event, status, of) = (at("event"), at("status"), at("id"));
    let told: Vec<[&str; 2]> = table
        .rows
        .iter()
        .map(|row| [row[event].as_str(), row[status].as_str()])
        .collect();
    assert_eq!(
        told,
        [
            ["call", "200"],
            ["decision", ""],
            ["judged again, closed", ""],
            ["ended", "200"]
        ]
    );
    let id = id.to_string();
    assert!(table.rows.iter().all(|row| row[of] == id), "{table:#?}");
    let mut times: Vec<&String> = table.rows.iter().map(|row| &row[0]).collect();
    let order = times.clone();
    times.sort();
    assert_eq!(times, order);
    assert_eq!(table.total, 4);
    assert!(stage.checked(&report).unwrap().holds());
}

/// Whatever services the records of a workload name, the report is made, and each query is one
/// line of the file of queries.
#[tokio::test(flavor = "multi_thread")]
async fn services_of_any_name_keep_no_report_from_being_made() {
    let named = |service: String| {
        let record = Record {
            id: new_ulid(&Clock::system()).to_bytes().to_vec(),
            time_us: Clock::system().now_us() - 1_000_000,
            reporter: REPORTER.into(),
            body: Some(Body::Decision(Decision {
                service,
                ..Decision::default()
            })),
            ..Record::default()
        };
        Bytes::from(record.encode_to_vec())
    };
    let long = |n: usize, len: usize| format!("{n}").repeat(len);
    for (services, kept) in [
        ((0..4).map(|n| long(n, 1024)).collect::<Vec<_>>(), false),
        ((0..2).map(|n| long(n, 1000)).collect(), true),
        (vec![long(0, 1000), long(1, 1001)], false),
        (vec!["stock\n# forged".to_owned()], false),
        (vec!["stock\u{1b}[2J".to_owned()], false),
        (vec!["acme.test/shop/stock".to_owned()], true),
    ] {
        let stage = Stage::of(services.iter().cloned().map(named)).await;
        let (report, _) = stage.made("incident");
        let timeline = report.sections.iter().find(|s| s.id == "timeline").unwrap();
        assert_eq!(
            timeline.queries[1].contains("service:"),
            kept,
            "{services:?}"
        );
        assert!(stage.checked(&report).unwrap().holds(), "{services:?}");
        stage.pack(&report, RECORDS_MAX).unwrap();
    }
    let stage = stage().await;
    let mut report = stage.made("incident").0;
    report.sections[0].queries = vec!["path:\"a\n# forged\"\u{1b}".into()];
    report.sections[0].commands = vec!["palisade audit verify".into()];
    let checked = stage.checked(&report).unwrap();
    let what: Vec<&str> = checked
        .differences
        .iter()
        .map(|d| d.what.as_str())
        .collect();
    assert_eq!(what, ["queries", "commands"]);
    let said = forms(&report).unwrap().remove("queries.txt").unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(
        !said.contains("\n# forged") && !said.contains('\u{1b}'),
        "{said}"
    );
    assert!(said.contains("\n$ palisade audit verify\n#"), "{said}");
}

/// Records that were announced to be dropped, and then were not, are kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_announced_and_not_done_is_kept() {
    let stage = stage().await;
    let said = |verb: &str, detail: &str| -> Bytes {
        let record = Record {
            id: new_ulid(&Clock::system()).to_bytes().to_vec(),
            time_us: Clock::system().now_us(),
            reporter: REPORTER.into(),
            body: Some(Body::LogLifecycle(LogLifecycle {
                verb: verb.into(),
                detail: detail.into(),
                ..LogLifecycle::default()
            })),
            ..Record::default()
        };
        record.encode_to_vec().into()
    };
    let dropped = said(
        "records_dropped",
        "of records 7 to 9: 2 decision kept for 60 days",
    );
    let left = said(
        "records_left",
        "of the segment that begins with record 7: it was not done",
    );
    let other = said(
        "records_left",
        "of the segment that begins with record 70: it was not done",
    );
    let kept = || {
        let checkpoint = stage.log.checkpoint();
        let figure = |report: &str, label: &str| {
            let now_us = Clock::system().now_us();
            let period = Period::read("last:1h", now_us).unwrap();
            let ground = Ground::Log(&stage.log, stage.dir.path());
            let evidence = Evidence::new(&stage.store, ground, period, "", &checkpoint, now_us);
            let report = run(Kind::find(report).unwrap(), &evidence.unwrap()).unwrap();
            let figures = report.sections.iter().flat_map(|s| &s.figures);
            let mut figures = figures.filter(|f| f.label == label);
            figures.next().unwrap().value.clone()
        };
        [
            figure("pci-dss", "12 months kept"),
            figure("personal-data", "classes of which records were dropped"),
        ]
    };
    let gone = ["no: decision kept for 60 days", "decision kept for 60 days"];
    assert_eq!(kept(), ["not yet", "none"]);
    stage.add([dropped.clone(), other].into_iter()).await;
    assert_eq!(kept(), gone);
    stage.add([left].into_iter()).await;
    assert_eq!(kept(), ["not yet", "none"]);
    stage.add([dropped].into_iter()).await;
    assert_eq!(kept(), gone);
}

/// A decision that has answered the request itself has ended with that, whatever its reporter
/// says later.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_changes_no_answer_of_a_decision() {
    let stage = stage().await;
    let id = new_ulid(&Clock::system());
    let record = Record {
        id: id.to_bytes().to_vec(),
        time_us: i64::try_from(id.timestamp_ms()).unwrap() * 1000,
        reporter: REPORTER.into(),
        body: Some(Body::Decision(Decision {
            verdict: Verdict::Forbidden.into(),
            status: 403,
            ..Decision::default()
        })),
        ..Record::default()
    };
    stage.add([record.encode_to_vec().into()].into_iter()).await;
    let now_us = Clock::system().now_us();
    let stage = Stage { now_us, ..stage };
    let checkpoint = stage.log.checkpoint();
    let made = |kind| stage.made_under(&checkpoint, kind, "status:403");
    let before = [made("access"), made("incident")];
    assert_eq!(before[0].header.decisions, 1);
    stage.add(exchange(&[id], Some(200))).await;
    for report in before {
        let found = stage.checked(&report).unwrap();
        assert!(found.holds(), "{found:#?}");
    }
    let now = stage.made_under(&stage.log.checkpoint(), "access", "status:403");
    assert_eq!(now.header.decisions, 1);
}

/// A report that says that it is of fewer records is not compared; that its checkpoint is none
/// of this log is told all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_another_log_is_told_before_what_is_lacking() {
    let stage = stage().await;
    let (mut report, _) = stage.made("denials");
    report.header.lacks = vec!["the index waits: for the archive".into()];
    report.header.complete = false;
    let refused = stage.checked(&report).unwrap_err();
    assert!(matches!(refused, StoreError::Query(told) if told.code.0 == 7817));
    report.header.checkpoint.note = report.header.checkpoint.note.replace("acme", "other");
    let found = stage.checked(&report).unwrap();
    assert!(!found.checkpoint && !found.holds(), "{found:#?}");
}

/// What an auditor's program makes again: every text that follows from report and records is held
/// against it, and what else lies there is named; what it does not make again it says.
#[tokio::test(flavor = "multi_thread")]
async fn texts_are_made_again_without_an_index() {
    let stage = stage().await;
    let (report, _) = stage.made("denials");
    let texts_of = |packed: &[u8]| {
        let package = Package::open(packed, stage.log.verifier()).unwrap();
        let now_us = Clock::system().now_us();
        package.check_texts(&Going::default(), now_us).unwrap()
    };
    let sound = texts_of(&stage.pack(&report, RECORDS_MAX).unwrap());
    assert!(sound.holds(), "{:?}", sound.differences);
    let [said] = sound.not_compared.as_slice() else {
        panic!("{:?}", sound.not_compared);
    };
    assert!(said.contains(&report.title) && said.contains("report verify"));

    let names: Vec<String> = stage.files(&report).into_keys().collect();
    let given = [SUMS, NOTE, CHECKPOINT, KEY, PROOFS, in_force::FILE, REPORT];
    let others = names.iter().filter(|name| !given.contains(&name.as_str()));
    for name in others.filter(|name| !name.starts_with(ATTACHED)) {
        let packed = stage.resealed(&report, |files| {
            files.insert(name.clone(), b"Nobody was denied.".to_vec());
        });
        let differs: Vec<String> = texts_of(&packed)
            .differences
            .into_iter()
            .map(|difference| difference.what)
            .collect();
        match NOT_AS_TEXT.contains(&name.as_str()) {
            false => assert_eq!(differs, [name.as_str()]),
            true => {
                assert_eq!(differs, [""; 0], "{name}");
                assert!(said.contains(&format!("`{name}`")), "{said}");
            }
        }
    }
    let more = stage.resealed(&report, |files| {
        files.insert("invoice.exe".into(), b"MZ".to_vec());
    });
    let more = texts_of(&more);
    assert!(!more.holds());
    assert_eq!(more.differences[0].what, "invoice.exe");
}
