//! Records whose time is over, as whoever operates the audit service sees them go.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{fs, path::Path, sync::Arc, time::Duration};

use palisade_audit::{
    log::{Log, LogOptions, Pending},
    stream::StreamKey,
};
use palisade_mesh::{
    clock::Clock,
    spiffe_id::{SpiffeId, TrustDomain},
    wire::record::{Admin, Decision, Record, record::Body},
};
use prost::Message as _;
use serde_json::{Value, json};
use support::{
    Home, LIMIT, Running,
    authority::Authority,
    free_port,
    report::{figure, section},
    wait_for,
};

const WEB: &str = "spiffe://acme.test/ns/shop/sa/web";
const OLD: u64 = 30;

/// The log of a service that ran a hundred days ago, in small segments: decisions, and what
/// operators did; gives the id of the first decision.
fn long_ago(dir: &Path) -> String {
    let start = jiff::Timestamp::now() - Duration::from_secs(100 * 86_400);
    let clock = Clock::manual(start);
    let options = LogOptions {
        segment_bytes: 4096,
        group_wait: Duration::ZERO,
        checkpoint_every: Duration::from_millis(20),
        ..LogOptions::new(TrustDomain::parse("acme.test").unwrap())
    };
    let log = Log::open(dir, options, clock.clone()).unwrap();
    let id = |n: u64| ulid::Ulid::from_parts(start.as_millisecond() as u64 + n, u128::from(n) << 8);
    let stream = Arc::new(StreamKey {
        reporter: SpiffeId::parse(WEB).unwrap(),
        boot: id(0),
        worker: 0,
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let append = |sequence: u64, id: ulid::Ulid, body: Body| {
        let record = Record {
            id: id.to_bytes().to_vec(),
            time_us: clock.now_us(),
            reporter: WEB.into(),
            body: Some(body),
            ..Record::default()
        };
        let pending = Pending {
            stream: stream.clone(),
            sequence,
            record: record.encode_to_vec().into(),
        };
        runtime
            .block_on(log.append(vec![pending]).durable())
            .unwrap();
    };
    for n in 0..OLD {
        let path = match n % 3 {
            0 => format!("/held/{n}"),
            _ => format!("/free/{n}"),
        };
        let decision = Decision {
            path,
            ..Decision::default()
        };
        append(2 * n + 1, id(2 * n + 1), Body::Decision(decision));
        let admin = Admin {
            verb: "kill".into(),
            ..Admin::default()
        };
        append(2 * n + 2, id(2 * n + 2), Body::Admin(admin));
    }
    log.close();
    id(1).to_string()
}

fn start(home: &Home, retention: &str) -> Running {
    let text = format!(
        "trust_domain: acme.test\nstate_dir: state\naudit:\n  listen: {}\n  identity:\n    files: {{ cert: identity/cert.pem, key: identity/key.pem, bundle: identity/bundle.pem }}\n{retention}",
        free_port()
    );
    fs::write(home.path("audit.yaml"), text).unwrap();
    let running = home.start("audit", &["run", "audit", "--config", "audit.yaml"]);
    wait_for("an audit service", LIMIT, || {
        home.run(&["status"]).status.success().then_some(())
    });
    running
}

fn search(home: &Home, query: &str) -> Value {
    home.json(&["audit", "search", query, "-n", "1000"])
}

/// The home of an audit service that has its certificate.
fn home() -> Home {
    let home = Home::new();
    let authority = Authority::new("acme.test");
    let leaf = authority.leaf("palisade/audit");
    authority.write(&leaf, &home.path("identity"));
    home
}

fn rows(home: &Home, query: &str) -> usize {
    search(home, query)["rows"].as_array().unwrap().len()
}

/// Nothing goes without a period, nothing by a preview, nothing that is held; then what is
/// over goes, every part says so, and the log verifies before and after a restart.
#[test]
fn records_go_when_their_time_is_over_and_every_part_says_so() {
    let home = home();
    let first = long_ago(&home.path("state/audit/log"));
    let all = "last:120d path:*";

    let mut audit = start(&home, "");
    let status = home.json(&["audit", "retention", "status"]);
    assert_eq!(
        (&status["periods"], &status["next_us"]),
        (&json!([]), &json!(null))
    );
    let done = home.json(&["audit", "retention", "run"]);
    assert_eq!(
        (&done["segments"], &done["dropped"]),
        (&json!(0), &json!({}))
    );
    audit.end();

    let mut audit = start(&home, "  retention: { decision: 60 days }\n");
    let index = || {
        wait_for("the index", LIMIT, || {
            let found = search(&home, "last:120d class:admin verb:kill");
            (found["rows"].as_array()?.len() as u64 == OLD).then_some(())
        });
    };
    index();
    assert_eq!(rows(&home, all) as u64, OLD);
    assert_eq!(search(&home, all)["complete"], true);
    let status = home.json(&["audit", "retention", "status"]);
    assert_eq!(status["periods"][0]["class"], "decision");
    assert_eq!(status["periods"][0]["period"], "60 days");
    home.json(&[
        "audit",
        "hold",
        "add",
        "path:/held/**",
        "--reason",
        "case 7",
    ]);
    let gaps = home.json(&["audit", "gaps"]);
    let free = search(&home, "last:120d path:/free/1");
    let free = free["rows"][0]["id"].as_str().unwrap().to_owned();
    let proof = ["--proof", "free.proof", "--record", "free.record"];
    home.says(&[&["audit", "proof", &free], &proof[..]].concat(), 0);
    let preview = home.json(&["audit", "retention", "run", "--dry-run"]);
    assert_eq!(rows(&home, all) as u64, OLD);
    // Between the log of then and today lie a hundred days: a service that was away, or a
    // clock that is wrong.
    let refused = home.says(&["audit", "retention", "run"], 1);
    assert!(refused.contains("PLS7578"), "{refused}");
    assert_eq!(rows(&home, all) as u64, OLD);
    let made = [
        "report",
        "run",
        "access",
        "--period",
        "last:120d",
        "--to",
        "before.json",
        "--to",
        "before.tar.zst",
    ];
    home.says(&made, 0);
    home.says(&["report", "verify", "before.json"], 0);
    let done = home.json(&["audit", "retention", "run", "--trust-clock"]);
    assert_eq!(done["dropped"], preview["dropped"]);
    let dropped = done["dropped"]["decision"]["records"].as_u64().unwrap();
    let held = done["held"].as_u64().unwrap();
    // The last segment was not finished when the service of then ended.
    assert!(dropped >= 10 && held >= 5, "{done}");
    assert_eq!(done["faults"], json!([]));

    let left = (OLD - dropped) as usize;
    wait_for("an index without them", LIMIT, || {
        (rows(&home, all) == left).then_some(())
    });
    assert_eq!(rows(&home, "last:120d path:/held/**"), 10);
    index();
    let found = search(&home, all);
    assert_eq!(found["complete"], false);
    assert_eq!(found["dropped"][0]["class"], "decision");
    assert_eq!(found["dropped"][0]["records"], dropped);
    assert_eq!(search(&home, "last:50d path:*")["complete"], true);
    let said = home.says(&["audit", "search", all], 0);
    assert!(said.contains("their time was over"), "{said}");
    let told = search(&home, "class:log_lifecycle verb:records_dropped last:1h");
    let details = format!("{}", told["rows"]);
    assert!(details.contains("decision kept for 60 days"), "{details}");
    assert!(details.contains("stay under a legal hold"), "{details}");
    let acted = search(&home, "class:admin verb:retention_run last:1h");
    assert_eq!(acted["rows"].as_array().unwrap().len(), 3);

    let verified = home.json(&["audit", "verify"]);
    assert_eq!(verified["findings"], json!([]), "{verified}");
    assert_eq!(verified["dropped"], dropped);
    let said = home.says(&["audit", "verify"], 0);
    assert!(said.contains("dropped"), "{said}");
    // The first decision is one that is held; another that is not is gone.
    home.says(&["audit", "show", &first], 0);
    for asked in ["show", "proof"] {
        let said = home.says(&["audit", asked, &free], 1);
        assert!(
            said.contains("PLS7111") && said.contains("dropped"),
            "{said}"
        );
    }
    // A number that was dropped is not one that never arrived.
    assert_eq!(home.json(&["audit", "gaps"])["gaps"], gaps["gaps"]);
    // Twelve months are not kept where decisions are for two.
    let pack = home.json(&["report", "run", "pci-dss", "--period", "last:120d"]);
    let sections = pack["sections"].as_array().unwrap().iter();
    let figures = sections.flat_map(|s| s["figures"].as_array().unwrap());
    let kept = figures.filter(|f| f["label"] == "12 months kept");
    let kept: Vec<&str> = kept.map(|f| f["value"].as_str().unwrap()).collect();
    assert_eq!(kept, ["no: decision kept for 60 days"]);
    let lacks = pack["header"]["lacks"].to_string();
    assert!(lacks.contains("of the class decision"), "{lacks}");
    // Nor are they by a report of a time in which nothing went.
    let since = format!("since:{}", jiff::Timestamp::now());
    for (report, id, label, said) in [
        (
            "pci-dss",
            "10.5.1",
            "12 months kept",
            "no: decision kept for 60 days",
        ),
        (
            "personal-data",
            "time-limits",
            "classes of which records were dropped",
            "decision kept for 60 days",
        ),
    ] {
        let made = home.json(&["report", "run", report, "--period", &since]);
        assert_eq!(figure(section(&made, id), label), said, "{report}");
    }
    // A sound report of what went is not called forged, and its package has its records.
    let said = home.says(&["report", "verify", "before.json"], 3);
    assert!(
        said.contains("PLS7817") && said.contains("of the class decision"),
        "{said}"
    );
    let key = home.path("state/audit/log/checkpoint.pub");
    let key = key.to_str().unwrap();
    home.says(&["report", "verify", "before.tar.zst", "--key", key], 0);
    let again = [
        "report",
        "run",
        "access",
        "--period",
        "last:120d",
        "--to",
        "after.json",
    ];
    home.says(&again, 0);
    home.says(&["report", "verify", "after.json"], 0);
    audit.end();
    let copy = home.path("state/audit/log");
    let key = copy.join("checkpoint.pub");
    let (copy, key) = (copy.to_str().unwrap(), key.to_str().unwrap());
    // What was proven before it went is proven for ever.
    home.says(
        &[&["audit", "verify", "--key", key], &proof[..]].concat(),
        0,
    );
    let verified = home.json(&["audit", "verify", "--dir", copy, "--key", key]);
    assert_eq!(
        (&verified["findings"], &verified["dropped"]),
        (&json!([]), &json!(dropped))
    );

    let mut audit = start(&home, "  retention: { decision: 60 days }\n");
    index();
    assert_eq!(rows(&home, all), left);
    let status = home.json(&["audit", "retention", "status"]);
    assert_eq!(status["dropped"][0]["records"], dropped);
    assert_eq!(status["last"]["records"], dropped);
    let again = home.json(&["audit", "retention", "run"]);
    assert_eq!(again["dropped"], json!({}));
    audit.end();
}

/// The file of the holds is put back as it was before a hold: nothing goes, until the file is
/// as it was ordered or the hold is released by name.
#[test]
fn a_file_of_holds_that_was_put_back_lets_nothing_go() {
    let home = home();
    long_ago(&home.path("state/audit/log"));
    let file = home.path("state/audit/holds.json");
    let retention = "  retention: { decision: 60 days }\n";
    let run = ["audit", "retention", "run", "--trust-clock"];

    let mut audit = start(&home, retention);
    let before = fs::read(&file).unwrap();
    let add = [
        "audit",
        "hold",
        "add",
        "path:/held/**",
        "--reason",
        "case 7",
    ];
    let held = home.json(&add);
    let id = held["holds"][0]["id"].as_str().unwrap().to_owned();
    audit.end();
    let ordered = fs::read(&file).unwrap();
    fs::write(&file, before).unwrap();
    let mut audit = start(&home, retention);
    let refused = home.says(&run, 1);
    assert!(
        refused.contains("PLS7579") && refused.contains(&id),
        "{refused}"
    );
    assert!(refused.contains("path:/held/**"), "{refused}");
    let said = support::said(&home.run(&["check"]));
    assert!(said.contains("PLS7576"), "{said}");
    audit.end();
    fs::write(&file, ordered).unwrap();
    let mut audit = start(&home, retention);
    let done = home.json(&run);
    assert!(done["held"].as_u64().unwrap() >= 5, "{done}");
    audit.end();
    fs::write(&file, "[]\n").unwrap();
    let mut audit = start(&home, retention);
    home.says(&["audit", "retention", "run", "--dry-run"], 1);
    let release = ["audit", "hold", "release", &id, "--reason", "case closed"];
    home.says(&release, 0);
    let done = home.json(&["audit", "retention", "run"]);
    assert!(
        done["dropped"]["decision"]["records"].as_u64() >= Some(5),
        "{done}"
    );
    assert_eq!(home.json(&["audit", "verify"])["findings"], json!([]));
    audit.end();
}
