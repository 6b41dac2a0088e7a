//! What was decided is decided again, years later and by somebody else: the revisions
//! beside the log, and records that say otherwise than these.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use palisade_audit::{
    ingest::Ingest,
    log::{Log, LogOptions},
};
use palisade_mesh::{
    clock::Clock,
    spiffe_id::TrustDomain,
    wire::audit::StreamId,
    wire::policy::Bundle,
    wire::record::{Decision, Record, Verdict, record::Body},
};
use prost::Message as _;
use serde_json::Value;
use support::{Home, LIMIT, copy, demo::one_at_a_time, mesh::Separate, said, wait_for};

/// Why a decision that is made again the same proves nothing.
const NOT_IN_FORCE: &str = "the same, but the log does not say that its revision was in force then";

/// A workload that is no service of the operation.
const FORGER: &str = "spiffe://demo.test/ns/shop/sa/web";

/// Across a change of policy, an audit service that was away when it came into force, and
/// without any mesh; and every way in which the archive or a record is not what it was.
#[test]
fn recorded_decisions_are_made_again_under_the_revisions_that_they_name() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    assert_eq!(mesh.get("/orders/42"), Some(200));
    assert_eq!(mesh.get("/nowhere"), Some(403));
    mesh.end("audit");
    let file = home.path("policies/policies/orders.cedar");
    let text = fs::read_to_string(&file).unwrap();
    let narrow = text.replace(
        "  resource == Operation::\"demo.test/shop/orders/read\" ||\n",
        "",
    );
    assert_ne!(text, narrow);
    fs::write(&file, narrow).unwrap();
    wait_for("the new revision", LIMIT, || {
        (mesh.get("/orders/42")? == 403).then_some(())
    });
    // That one may have been allowed and judged again on its way; this one is denied.
    assert_eq!(mesh.get("/orders/42"), Some(403));
    mesh.start("audit");
    wait_for("decisions under both revisions", LIMIT, || {
        let of = |query| Some(!home.rows(query)?.is_empty());
        let both = of("decision:allow path:/orders/42 last:1h")?
            && of("decision:deny path:/orders/42 last:1h")?;
        both.then_some(())
    });
    // The PDP gives the revision by itself, a little after it reaches the service again.
    let live = wait_for("both revisions", LIMIT, || {
        let report = home.json(&["audit", "verify", "--replay"]);
        (report["replay"]["revisions"] == 2 && kept_all(&report)).then_some(report)
    });
    same(&live);
    let asked = home.json(&["audit", "verify", "--replay", "path:/orders/42 last:1h"]);
    same(&asked);
    assert!(number(&asked, "decisions") < number(&live, "decisions"));
    // What an auditor took away a moment ago is continued.
    let kept = home
        .path("state/audit/log/checkpoint")
        .display()
        .to_string();
    let said = home.says(&["audit", "verify", "--checkpoint", &kept], 0);
    assert!(said.contains(&format!("continues {kept}")), "{said}");
    let without = home.json(&["audit", "verify"]);
    assert_eq!(without.get("replay"), None);

    // A PDP that has forgotten all explains what was decided by what is kept with the log.
    let query = "decision:allow path:/orders/42 last:1h";
    let rows = wait_for("the allowed request", LIMIT, || home.rows(query));
    let allowed = rows[0]["id"].as_str().unwrap();
    mesh.end("pdp");
    fs::remove_dir_all(home.path("state/pdp")).unwrap();
    mesh.start("pdp");
    let why = wait_for("an explanation", LIMIT, || {
        let output = home.run(&["why", allowed, "-o", "json"]);
        serde_json::from_slice::<Value>(&output.stdout)
            .ok()
            .filter(|why| why.get("exact").is_some())
    });
    assert_eq!(why["exact"], true, "{why:#}");
    let present = home.json(&["why", allowed, "--policies", "policies"]);
    assert_eq!(present["exact"], false);
    assert_ne!(
        why["explanation"]["verdict"],
        present["explanation"]["verdict"]
    );

    for role in ["proxy-web", "proxy-orders", "pdp", "agent", "audit", "ca"] {
        mesh.end(role);
    }
    let log = home.path("copy");
    copy(&home.path("state/audit/log"), &log);
    let dir = log.display().to_string();
    let (said, of_copy) = home.verifies_alike(&dir, &["--replay"], 0);
    assert!(said.contains("✓ policies"), "{said}");
    same(&of_copy);
    assert!(number(&of_copy, "same") >= number(&live, "same"));

    a_changed_revision_is_named(&home, &log);
    a_missing_revision_is_counted(&home, &log);
    a_false_record_is_named(&home, &log);
    a_package_of_any_period_says_what_was_in_force(&home, &log);
    no_package_takes_a_record_from_before_its_revision(&home, &log);
    what_contradicts_itself_or_proves_nothing_gets_no_tick(&home, &log);

    let [twice, false_one] = planted(&home.path("state/audit/log"));
    for role in ["ca", "agent", "audit", "pdp"] {
        mesh.start(role);
    }
    whoever_takes_an_id_is_not_believed(&home, &twice);
    a_record_that_its_revision_contradicts_is_said_to_be_false(&home, &false_one);
}

/// Whoever has an identity may write a record with an id that it has seen, before the service
/// itself does.
fn whoever_takes_an_id_is_not_believed(home: &Home, id: &str) {
    let why = wait_for("an explanation", LIMIT, || {
        let output = home.run(&["why", id, "-o", "json"]);
        serde_json::from_slice::<Value>(&output.stdout)
            .ok()
            .filter(|why| why.get("exact").is_some())
    });
    assert_eq!(why["record"]["decision"], "not_permitted", "{why:#}");
    assert_eq!(why["by_the_service"], true);
    assert_eq!(why["contradicted"], false);
    assert_eq!(why["others"][0]["reporter"], FORGER);
    assert!(why["others"][0]["entry"].as_u64() < why["record"]["entry"].as_u64());
    let said = home.says(&["why", id], 0);
    assert!(said.lines().any(|line| line.starts_with("DENY")), "{said}");
    assert!(
        said.contains(&format!("1 more of this id, by {FORGER}")),
        "{said}"
    );

    let said = home.says(&["audit", "proof", id], 1);
    assert!(said.contains("PLS7215") && said.contains(FORGER), "{said}");
    let entry = why["record"]["entry"].to_string();
    home.says(&["audit", "proof", id, "--entry", &entry], 0);
}

fn a_record_that_its_revision_contradicts_is_said_to_be_false(home: &Home, id: &str) {
    let why = home.json(&["why", id]);
    assert_eq!(why["exact"], true, "{why:#}");
    assert_eq!(why["record"]["decision"], "allow");
    assert_eq!(why["contradicted"], true);
    let said = home.says(&["why", id], 0);
    let lines: Vec<&str> = said.lines().skip(1).collect();
    assert!(lines[0].starts_with("ALLOW"), "{said}");
    assert!(
        lines[1].starts_with("DENY") && lines[1].contains("the record is not true"),
        "{said}"
    );
}

fn a_changed_revision_is_named(home: &Home, log: &Path) {
    let (file, dir) = (revisions(log).remove(0), log.display().to_string());
    let whole = fs::read(&file).unwrap();
    let at = whole.windows(6).position(|w| w == b"permit").unwrap();
    let mut changed = whole.clone();
    changed[at..at + 6].copy_from_slice(b"Permit");
    fs::write(&file, changed).unwrap();
    let (said, _) = home.verifies_alike(&dir, &["--replay"], 8);
    let digest = file.file_stem().unwrap().to_str().unwrap();
    assert!(said.contains(digest), "{said}");
    assert!(said.contains("every byte is as it was signed"), "{said}");
    // Who did not ask is told what is signed, and that is whole.
    home.says(&["audit", "verify", "--dir", &dir], 0);
    fs::write(&file, whole).unwrap();
}

fn a_missing_revision_is_counted(home: &Home, log: &Path) {
    let (file, dir) = (revisions(log).remove(0), log.display().to_string());
    let verify = ["audit", "verify", "--dir", &dir, "--replay"];
    let before = home.json(&verify);
    let aside = log.join("aside");
    fs::rename(&file, &aside).unwrap();
    home.says(&verify, 0);
    let report = home.json(&verify);
    let causes = report["replay"]["not_replayable"]["causes"]
        .as_object()
        .unwrap();
    let lacking = causes["its revision is not kept"]["count"].as_u64();
    let lacking = lacking.unwrap();
    assert!(lacking > 0);
    assert_eq!(number(&report, "same") + lacking, number(&before, "same"));
    assert_eq!(number(&report, "decisions"), number(&before, "decisions"));
    // Written by a later version: that is not known to be wrong, and no damage.
    let mut later = Bundle::decode(&*fs::read(&aside).unwrap()).unwrap();
    later.features.push("later-1".to_owned());
    fs::write(&file, later.encode_to_vec()).unwrap();
    home.says(&verify, 0);
    let report = home.json(&verify);
    assert_eq!(report["replay"]["damaged"], serde_json::json!([]));
    let cause = "its revision cannot be compiled by this version";
    let causes = &report["replay"]["not_replayable"]["causes"];
    assert_eq!(causes[cause]["count"], lacking, "{causes}");
    fs::rename(&aside, &file).unwrap();
}

/// Whoever has the log and a key to sign with writes it anew, with one decision turned
/// round: every byte is as it was signed, and no policy says so. In a package, too.
fn a_false_record_is_named(home: &Home, log: &Path) {
    let forged = home.path("forged");
    let id = rewritten(log, &forged, &|_, _| {}, true);
    copy(&log.join("policies"), &forged.join("policies"));
    let dir = forged.display().to_string();
    let (said, report) = home.verifies_alike(&dir, &["--replay"], 8);
    assert!(said.contains(&id), "{said}");
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!(report["replay"]["differ"], 1, "{}", report["replay"]);
    let difference = &report["replay"]["differences"][0];
    assert_eq!(difference["id"], id.as_str());
    assert_eq!(difference["recorded"]["decision"], "allow");
    assert_eq!(difference["replayed"]["decision"], "not_permitted");

    for (log, code) in [(log, 0), (&forged, 8)] {
        let (dir, key) = (log.display().to_string(), log.join("checkpoint.pub"));
        let file = home.path("evidence.tar.zst").display().to_string();
        let pack = ["report", "run", "denials", "--log", &dir, "--to", &file];
        home.says(&[&pack[..], &["--overwrite"]].concat(), 0);
        let verify = [
            "report",
            "verify",
            &file,
            "--key",
            &key.display().to_string(),
        ];
        let said = home.says(&verify, code);
        assert_eq!(said.contains(&id), code == 8, "{said}");
        let report = home.json(&verify);
        assert!(number(&report, "same") > 0, "{report}");
        assert_eq!(report["replay"]["revisions"], 2, "{report}");
        an_auditor_finds_the_same_but_makes_no_report(home, &file, (&key, code), report);
    }
    // The key of one log says nothing of the package of another.
    let file = home.path("evidence.tar.zst").display().to_string();
    let key = log.join("checkpoint.pub").display().to_string();
    let refused = home.verifier(&["package", &file, "--key", &key]);
    assert_eq!(refused.status.code(), Some(8), "{refused:?}");
    assert!(support::said(&refused).contains("PLS7823"), "{refused:?}");
}

/// What the auditors' program says of a package is what ours does, and that the report's figures
/// were not made again.
fn an_auditor_finds_the_same_but_makes_no_report(
    home: &Home,
    file: &str,
    (key, code): (&Path, i32),
    mut report: Value,
) {
    let key = key.display().to_string();
    let verify = ["package", file, "--key", &key];
    let output = home.verifier(&verify);
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    assert!(said(&output).contains("not compared: the figures and rows"));
    let encoded = home.verifier(&[&verify[..], &["-o", "json"]].concat());
    assert_eq!(encoded.status.code(), Some(code));
    let mut theirs: Value = serde_json::from_slice(&encoded.stdout).unwrap();
    let checked = theirs.as_object_mut().unwrap().remove("checked").unwrap();
    assert_eq!(checked["differences"], serde_json::json!([]));
    assert!(checked["compared"].as_u64() > Some(5), "{checked}");
    assert_eq!(checked["not_compared"].as_array().unwrap().len(), 1);
    report.as_object_mut().unwrap().remove("checked").unwrap();
    assert_eq!(theirs, report);
}

/// A period that begins after the PDP recorded the revisions of its decisions.
fn a_package_of_any_period_says_what_was_in_force(home: &Home, log: &Path) {
    let options = LogOptions {
        read_only: true,
        ..LogOptions::new(TrustDomain::parse("demo.test").unwrap())
    };
    let of_log = Log::open(log, options, Clock::system()).unwrap();
    let (mut activated_us, mut denied_us) = (Vec::new(), 0);
    for record in of_log.scan(0).map(|entry| entry.unwrap().record) {
        match &record.body {
            Some(Body::PolicyChange(_)) => activated_us.push(record.time_us),
            Some(Body::Decision(d)) if d.path == "/orders/42" && is_denied(d) => {
                denied_us = denied_us.max(record.time_us);
            }
            _ => {}
        }
    }
    // The PDP that had forgotten all put its revision in force anew, later.
    assert!(activated_us.iter().any(|us| *us < denied_us));
    assert!(!activated_us.contains(&denied_us));
    let at = |us| jiff::Timestamp::from_microsecond(us).unwrap();
    let dir = log.display().to_string();
    let period = format!("since:{} until:{}", at(denied_us), at(denied_us + 1));
    let file = home.path("later.tar.zst").display().to_string();
    let pack = [
        "report", "run", "denials", "--log", &dir, "--period", &period,
    ];
    home.says(&[&pack[..], &["--to", &file]].concat(), 0);
    let key = log.join("checkpoint.pub").display().to_string();
    let report = home.json(&["report", "verify", &file, "--key", &key]);
    let files = report["files"].as_array().unwrap();
    assert!(
        files.contains(&"records/in-force.jsonl".into()),
        "{files:?}"
    );
    same(&report);
    let causes = report["replay"]["not_replayable"]["causes"].as_object();
    let is_unknown = |cause: &String| cause.contains("was in force then");
    assert!(!causes.unwrap().keys().any(is_unknown), "{report}");
}

/// A closed period in which a revision came into force, and after which another one took its place:
/// what is recorded from before proves nothing of that revision.
fn no_package_takes_a_record_from_before_its_revision(home: &Home, log: &Path) {
    const HOUR_US: i64 = 3600 * 1_000_000;
    let forged = home.path("early");
    let early = |d: &mut Decision, time_us: &mut i64| {
        as_it_was(d);
        *time_us -= HOUR_US;
    };
    rewritten(log, &forged, &early, true);
    copy(&log.join("policies"), &forged.join("policies"));
    let options = LogOptions {
        read_only: true,
        ..LogOptions::new(TrustDomain::parse("demo.test").unwrap())
    };
    let of_log = Log::open(&forged, options, Clock::system()).unwrap();
    let records = of_log.scan(0).map(|entry| entry.unwrap().record);
    let is_change =
        |r: &Record| matches!(&r.body, Some(Body::PolicyChange(c)) if c.verb == "activated");
    let changed_us: Vec<i64> = records.filter(is_change).map(|r| r.time_us).collect();
    drop(of_log);
    let at = |us| jiff::Timestamp::from_microsecond(us).unwrap();
    let (first, second) = (changed_us[0], changed_us[1]);
    let period = format!("since:{} until:{}", at(first - 2 * HOUR_US), at(second));
    let (dir, file) = (forged.display().to_string(), home.path("early.tar.zst"));
    let file = file.display().to_string();
    let pack = ["report", "run", "soc2", "--log", &dir, "--period", &period];
    home.says(&[&pack[..], &["--to", &file]].concat(), 0);
    let key = forged.join("checkpoint.pub").display().to_string();
    let report = home.json(&["report", "verify", &file, "--key", &key]);
    assert!(number(&report, "same") > 0, "{report}");
    let causes = &report["replay"]["not_replayable"]["causes"];
    assert_eq!(causes[NOT_IN_FORCE]["count"], 1, "{report}");
}

/// What a false record says beside that it allows, and when it was.
type Lie<'l> = &'l dyn Fn(&mut Decision, &mut i64);

/// Whoever writes a false allowance chooses what it says, too. What no proxy writes is named;
/// what cannot be made again, or not under a revision that the PDP put in force, is counted.
fn what_contradicts_itself_or_proves_nothing_gets_no_tick(home: &Home, log: &Path) {
    let lies: [(&str, Lie<'_>, i32); 6] = [
        ("unenforced", &|d, _| d.enforced = false, 8),
        (
            "no_snapshot",
            &|d, _| d.reason = "no_snapshot".to_owned(),
            8,
        ),
        ("no_context", &|d, _| d.context_json.clear(), 8),
        ("no_action", &|d, _| d.action.clear(), 8),
        ("no_revision", &|d, _| d.versions = None, 8),
        (
            "invented",
            &|d, _| d.versions.as_mut().unwrap().policy_digest = vec![9; 32],
            0,
        ),
    ];
    for (name, lie, code) in lies {
        let forged = home.path(name);
        rewritten(log, &forged, lie, true);
        copy(&log.join("policies"), &forged.join("policies"));
        let dir = forged.display().to_string();
        let verify = ["audit", "verify", "--dir", &dir, "--replay"];
        let said = home.says(&verify, code);
        assert!(!said.contains("✓ policies"), "{name}: {said}");
        let report = home.json(&verify);
        let (differ, unproven) = if code == 8 { (1, 0) } else { (0, 1) };
        assert_eq!(number(&report, "differ"), differ, "{name}");
        assert_eq!(number(&report, "allowed_unproven"), unproven, "{name}");
        assert!(number(&report, "same") > 0, "{name}");
    }

    // The same decisions, and no word of the PDP that their revisions were ever in force.
    let forged = home.path("unsaid");
    rewritten(log, &forged, &|d, _| as_it_was(d), false);
    copy(&log.join("policies"), &forged.join("policies"));
    let dir = forged.display().to_string();
    let verify = ["audit", "verify", "--dir", &dir, "--replay"];
    let said = home.says(&verify, 0);
    assert!(said.contains("! policies"), "{said}");
    let report = home.json(&verify);
    assert_eq!(number(&report, "same"), 0, "{report}");
    let causes = &report["replay"]["not_replayable"]["causes"];
    assert!(causes[NOT_IN_FORCE]["count"].as_u64() > Some(0), "{causes}");
}

/// Writes the decisions of a log into another one, with the first denial of `/nowhere` turned
/// into the allowance of it, and then as `lie` says; its id. The changes of policy go along
/// where `changes` says so.
fn rewritten(from: &Path, to: &Path, lie: Lie<'_>, changes: bool) -> String {
    let domain = TrustDomain::parse("demo.test").unwrap();
    let read_only = LogOptions {
        read_only: true,
        ..LogOptions::new(domain.clone())
    };
    let of_log = Log::open(from, read_only, Clock::system()).unwrap();
    let options = LogOptions {
        checkpoint_every: Duration::from_millis(20),
        ..LogOptions::new(domain)
    };
    let forged = Log::open(to, options, Clock::system()).unwrap();
    let ingest = Ingest::new(forged.clone(), Clock::system());
    let mut turned = None;
    for entry in of_log.scan(0).map(Result::unwrap) {
        let mut record = entry.record;
        let decision = match &mut record.body {
            Some(Body::Decision(decision)) => decision,
            Some(Body::PolicyChange(_)) if changes => &mut Decision::default(),
            _ => continue,
        };
        if turned.is_none() && decision.path == "/nowhere" && is_denied(decision) {
            decision.verdict = Verdict::Allow.into();
            decision.reason = "permitted".to_owned();
            lie(decision, &mut record.time_us);
            turned = Some(id_of(&record));
        }
        let stream = entry.envelope.stream.unwrap();
        let (sequence, record) = (entry.envelope.sequence, record.encode_to_vec());
        let pushed = ingest.push(&stream, sequence, vec![record.into()]).unwrap();
        drop(pushed);
    }
    forged.close();
    turned.unwrap()
}

/// Adds three records about a request for `/nowhere`: that it was allowed, by somebody else;
/// with the same id that it was denied, by the service; and by the service that another one
/// was allowed. Gives both ids.
fn planted(log: &Path) -> [String; 2] {
    let options = LogOptions::new(TrustDomain::parse("demo.test").unwrap());
    let log = Log::open(log, options, Clock::system()).unwrap();
    let ingest = Ingest::new(log.clone(), Clock::system());
    let denied = log.scan(0).map(Result::unwrap).find(|entry| {
        let decision = match &entry.record.body {
            Some(Body::Decision(decision)) => decision,
            _ => return false,
        };
        decision.path == "/nowhere" && is_denied(decision)
    });
    let denied = denied.unwrap();
    let own = StreamId {
        boot: ulid::Ulid::generate().to_bytes().to_vec(),
        ..denied.envelope.stream.unwrap()
    };
    let forger = StreamId {
        reporter: FORGER.to_owned(),
        ..own.clone()
    };
    assert_ne!(own.reporter, FORGER);
    let of = |last_byte: u8, allowed: bool| {
        let mut record = denied.record.clone();
        *record.id.last_mut().unwrap() ^= last_byte;
        if allowed && let Some(Body::Decision(decision)) = &mut record.body {
            decision.verdict = Verdict::Allow.into();
            decision.reason = "permitted".to_owned();
        }
        record
    };
    for (stream, sequence, record) in [
        (&forger, 1, of(1, true)),
        (&own, 1, of(1, false)),
        (&own, 2, of(2, true)),
    ] {
        let record = Record {
            reporter: stream.reporter.clone(),
            ..record
        };
        let record = record.encode_to_vec().into();
        drop(ingest.push(stream, sequence, vec![record]).unwrap());
    }
    log.close();
    [id_of(&of(1, true)), id_of(&of(2, true))]
}

/// Takes back that a decision was turned round.
fn as_it_was(decision: &mut Decision) {
    decision.verdict = Verdict::NotPermitted.into();
    decision.reason = "no_permit".to_owned();
}

fn is_denied(decision: &Decision) -> bool {
    decision.verdict() == Verdict::NotPermitted
}

fn id_of(record: &Record) -> String {
    let id: [u8; 16] = record.id.as_slice().try_into().unwrap();
    palisade_mesh::decision::DecisionId(u128::from_be_bytes(id).into()).to_string()
}

fn revisions(log: &Path) -> Vec<PathBuf> {
    let folder = fs::read_dir(log.join("policies")).unwrap();
    let mut files: Vec<PathBuf> = folder.map(|e| e.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 2, "{files:?}");
    files
}

/// Nothing differs, and most of it was made again.
fn same(report: &Value) {
    assert_eq!(report["replay"]["differ"], 0, "{}", report["replay"]);
    assert_eq!(report["replay"]["damaged"], serde_json::json!([]));
    let lacking = &report["replay"]["not_replayable"]["count"];
    let all = number(report, "same") + lacking.as_u64().unwrap();
    assert_eq!(all, number(report, "decisions"));
    assert!(number(report, "same") > 0, "{}", report["replay"]);
}

/// Whether no decision lacks its revision.
fn kept_all(report: &Value) -> bool {
    let causes = report["replay"]["not_replayable"]["causes"].as_object();
    !causes
        .unwrap()
        .keys()
        .any(|cause| cause.contains("is not kept"))
}

fn number(report: &Value, key: &str) -> u64 {
    report["replay"][key].as_u64().unwrap()
}
