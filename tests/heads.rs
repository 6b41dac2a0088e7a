//! What proxies sign about their streams, and what it brings to light.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    cell::Cell,
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
    wire::{
        audit::Envelope,
        record::{Credential, Record, record::Body},
    },
};
use prost::Message as _;
use serde_json::Value;
use support::{
    Home, LIMIT, Running, alerted, alerts_to,
    demo::one_at_a_time,
    free_port,
    mesh::Separate,
    report::{rows, section},
    spool::{alter, boot_of, find, fit, last_number, withhold},
    wait_for,
};

/// Idle proxies sign how far they are; one that is killed is named by an alarm until it
/// is back, and its next start clears it. Whoever takes alerts is told once.
#[test]
fn a_proxy_that_stops_sending_is_named_until_it_is_back() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    mesh.end("audit");
    let told = deliver(&home);
    mesh.start("audit");
    for service in ["web", "orders"] {
        let query = format!("class:stream_heads reporter:{service} last:1h");
        let rows = wait_for("heads of an idle proxy", LIMIT, || {
            home.rows(&query).filter(|rows| rows.len() >= 2)
        });
        assert!(!rows[0]["heads"].as_array().unwrap().is_empty(), "{rows:?}");
    }
    home.says(&["audit", "verify"], 0);
    assert!(!codes(&home).contains(&"PLS7526".into()));

    mesh.kill("proxy-orders");
    wait_for("an alarm", LIMIT, || {
        codes(&home).contains(&"PLS7526".into()).then_some(())
    });
    let status = home.json(&["status"]);
    assert_eq!(status["alarms"][0]["code"], 7526, "{status:#}");
    let cause = status["alarms"][0]["cause"].as_str().unwrap();
    assert!(cause.contains("sa/orders"), "{cause}");
    let silent = || alerted(&told, "palisade-silent");
    let message = wait_for("an alert", LIMIT, || silent()?.pop());
    assert_eq!(message["severity"], "critical");
    let group = message["group"].as_str().unwrap();
    assert!(group.contains("sa/orders boot 01"), "{message}");
    let said = message["query"].as_str().unwrap();
    assert!(said.contains("stopped sending records"), "{message}");
    let gaps = home.json(&["audit", "gaps"]);
    assert_eq!(gaps["silent"].as_array().unwrap().len(), 1, "{gaps:#}");
    let since = home.json(&["audit", "search", "class:decision last:1h"]);
    assert_eq!(since["complete"], false);
    assert_eq!(since["silent"], gaps["silent"]);
    let said = home.says(&["audit", "search", "class:decision last:1h"], 0);
    assert!(said.contains("1 reporter that has stopped"), "{said}");

    mesh.start("proxy-orders");
    wait_for("an alarm that ends", LIMIT, || {
        (!codes(&home).contains(&"PLS7526".into())).then_some(())
    });
    // That it is back answers for nothing: somebody has to.
    assert_eq!(
        wait_for("what was told", LIMIT, silent),
        std::slice::from_ref(&message)
    );
    let listed = home.json(&["audit", "alerts", "list"]);
    let open = listed["open"].as_array().unwrap();
    assert!(open.iter().any(|alert| alert["id"] == message["id"]));
    assert!(home.rows("class:decision last:1h").is_some());
}

/// Somebody with the right to write a proxy's spool alters a record there and takes
/// others away, checksums and all, before the log has them.
#[test]
fn records_that_were_altered_or_withheld_on_their_way_are_named() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    wait_for("records that have arrived", LIMIT, || home.decisions());
    mesh.end("audit");

    assert_eq!(mesh.get("/orders/4711"), Some(200));
    mesh.end("proxy-orders");
    let altered = spool_file(&home, |bytes| find(bytes, b"/orders/4711").is_some());
    alter(&altered);

    mesh.start("proxy-orders");
    mesh.wait_until_ready();
    mesh.end("proxy-orders");
    let before = boot_of(&altered);
    let withheld = spool_file(&home, |_| true);
    assert_ne!(boot_of(&withheld), before);
    withhold(&withheld);

    let told = deliver(&home);
    mesh.start("audit");
    mesh.start("proxy-orders");
    let report = wait_for("a contradiction", LIMIT, || {
        let report = home.json(&["audit", "verify"]);
        let found = report["findings"].as_array()?.first()?.clone();
        (found["kind"] == "heads").then_some(report)
    });
    let what = report["findings"][0]["what"].as_str().unwrap();
    assert!(
        what.contains("sa/orders") && what.contains(&before),
        "{what}"
    );
    let said = home.says(&["audit", "verify"], 8);
    assert!(
        said.contains("are not those that their reporter signed"),
        "{said}"
    );
    wait_for("both alarms", LIMIT, || {
        let codes = codes(&home);
        let both = ["PLS7523", "PLS7527"]
            .iter()
            .all(|c| codes.contains(&(*c).into()));
        both.then_some(())
    });
    // Each of them is an alert that nobody had to ask for.
    for (rule, severity, of) in [
        ("palisade-tampered", "critical", before.as_str()),
        ("palisade-gap", "high", ""),
    ] {
        let message = wait_for(rule, LIMIT, || alerted(&told, rule)?.pop());
        assert_eq!(message["severity"], severity, "{message}");
        let group = message["group"].as_str().unwrap();
        assert!(group.contains(of), "{message}");
        assert_eq!(group.is_empty(), of.is_empty(), "{message}");
    }
    let gaps = home.json(&["audit", "gaps"]);
    let open = gaps["open"].as_array().unwrap();
    assert_eq!(open[0]["boot"], boot_of(&withheld), "{gaps:#}");
    assert_eq!(
        (&open[0]["worker"], &open[0]["first"]),
        (&0.into(), &1.into())
    );
}

/// Somebody with the right to write a proxy's spool alters a record there, and makes the heads
/// say so. He has no key of the proxy's: nothing is believed that nobody has signed.
#[test]
fn heads_that_are_made_to_fit_what_was_altered_are_named() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    wait_for("records that have arrived", LIMIT, || home.decisions());
    mesh.end("audit");
    assert_eq!(mesh.get("/orders/4711"), Some(200));
    mesh.end("proxy-orders");
    let altered = spool_file(&home, |bytes| find(bytes, b"/orders/4711").is_some());
    let boot = boot_of(&altered);
    alter(&altered);
    assert!(fit(&altered) > 0);

    mesh.start("audit");
    mesh.start("proxy-orders");
    let report = wait_for("what was altered", LIMIT, || {
        let rows = home.rows("class:decision path:/orders/5711 last:1h")?;
        if rows.is_empty() {
            return None;
        }
        let report = home.json(&["audit", "verify"]);
        let found = report["findings"].as_array()?.first()?.clone();
        (found["kind"] == "heads").then_some(report)
    });
    let found = &report["findings"][0];
    assert_eq!(
        (&found["severity"], &found["record"]["boot"]),
        (&"error".into(), &boot.into())
    );
    let said = home.says(&["audit", "verify"], 8);
    assert!(
        said.contains("heads that its reporter has not signed"),
        "{said}"
    );
    wait_for("an alarm", LIMIT, || {
        codes(&home).contains(&"PLS7527".into()).then_some(())
    });
}

/// A proxy is killed while the audit service is away, and somebody removes what it had on its
/// disk: its next start says how far that was.
#[test]
fn records_that_a_killed_proxy_left_are_missed_when_they_are_gone() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    wait_for("records that have arrived", LIMIT, || home.decisions());
    mesh.end("audit");
    assert_eq!(mesh.get("/orders/4711"), Some(200));
    let (boot, number) = wait_for("how far it is on disk", LIMIT, || {
        let written = find_spool_file(&home, |bytes| find(bytes, b"/orders/4711").is_some())?;
        let (boot, number) = reached(&home)?;
        (boot == boot_of(&written) && number >= last_number(&written)).then_some((boot, number))
    });
    mesh.kill("proxy-orders");
    fs::remove_dir_all(home.path("state-orders/spool").join(&boot)).unwrap();

    mesh.start("audit");
    mesh.start("proxy-orders");
    wait_for("a gap", LIMIT, || {
        let gaps = home.json(&["audit", "gaps"]);
        let open = gaps["open"].as_array()?.clone();
        let lacks = |gap: &Value| {
            gap["boot"] == boot.as_str()
                && gap["worker"] == 0
                && gap["last"].as_u64() >= Some(number)
        };
        open.iter().any(lacks).then_some(())
    });
    wait_for("an alarm", LIMIT, || {
        codes(&home).contains(&"PLS7523".into()).then_some(())
    });
    assert_eq!(
        home.json(&["audit", "verify"])["findings"],
        serde_json::json!([])
    );
}

/// A workload that has a certificate and no proxy is listed, and nobody else; and where the
/// authority's word for a certificate is another, the heads that are signed with it are named.
#[test]
fn certificates_are_held_against_who_signs() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let ghost = "spiffe://demo.test/ns/shop/sa/reports";
    let program = home.path("bin/ghost");
    let registration = format!(
        "    - spiffe_id: {ghost}\n      selectors: [\"unix:path:{}\"]\n",
        program.display()
    );
    let mut mesh = Separate::ready_for(&home, &registration);
    let mut silent = start_silent(&home, &program);
    for service in ["web", "orders"] {
        let query = format!("class:stream_heads reporter:{service} last:1h");
        wait_for("heads of a proxy", LIMIT, || {
            home.rows(&query).filter(|rows| !rows.is_empty())
        });
    }
    wait_for("a certificate of the silent one", LIMIT, || {
        let rows = home.rows("class:credential verb:issued last:1h")?;
        let its = rows.iter().any(|row| row.to_string().contains(ghost));
        its.then_some(())
    });
    silent.kill();
    wait_for("heads under a checkpoint", LIMIT, || {
        let live = home.json(&["audit", "verify"]);
        (live["certificates"]["signed"] == 2).then_some(())
    });
    for role in ["proxy-web", "proxy-orders", "pdp", "agent", "audit", "ca"] {
        mesh.end(role);
    }
    let log = home.path("state/audit/log");

    let later = home.path("later");
    written_later(&log, &later, |_| {});
    let dir = later.display().to_string();
    let verify = ["audit", "verify", "--dir", &dir];
    let report = home.json(&verify);
    let found = &report["certificates"];
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!((&found["issued"], &found["signed"]), (&3.into(), &2.into()));
    assert_eq!(
        (&found["silent"], &found["settling"]),
        (&1.into(), &0.into())
    );
    assert_eq!(found["without"][0]["spiffe_id"], ghost);
    assert_eq!(found["without"][0]["reports"], false);
    let said = home.says(&verify, 0);
    assert!(
        said.contains(ghost) && said.contains("no records"),
        "{said}"
    );
    let run = [
        "report",
        "run",
        "integrity",
        "--log",
        &dir,
        "--period",
        "last:1d",
    ];
    let report = home.json(&run);
    let rows = rows(section(&report, "certificates-and-streams"));
    assert_eq!((rows.len(), rows[0][0]), (1, ghost));

    let forged = home.path("forged");
    let web = "spiffe://demo.test/ns/shop/sa/web";
    written_later(&log, &forged, |issued| {
        if issued.spiffe_id == web {
            issued.serial[1] ^= 1;
        }
    });
    let dir = forged.display().to_string();
    let said = home.says(&["audit", "verify", "--dir", &dir], 8);
    assert!(
        said.contains(&format!("heads of {web} are signed with")),
        "{said}"
    );
    let report = home.json(&["audit", "verify", "--dir", &dir]);
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0]["kind"], "certificate");

    // A certificate of this name and number was issued, and it is another.
    let remade = home.path("remade");
    written_later(&log, &remade, |issued| {
        if issued.spiffe_id == web {
            issued.certificate[0] ^= 1;
        }
    });
    let dir = remade.display().to_string();
    let said = home.says(&["audit", "verify", "--dir", &dir], 8);
    assert!(
        said.contains(&format!("heads of {web} are signed with")),
        "{said}"
    );
    assert!(said.contains("somebody made it"), "{said}");

    // A record of before it had a digest.
    let before = home.path("before");
    written_later(&log, &before, |issued| issued.certificate.clear());
    let dir = before.display().to_string();
    let report = home.json(&["audit", "verify", "--dir", &dir]);
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!(report["certificates"]["signed"], 2);

    // A serial number that was issued, to somebody else.
    let borrowed = home.path("borrowed");
    written_later(&log, &borrowed, |issued| {
        if issued.spiffe_id == web {
            issued.spiffe_id = "spiffe://demo.test/ns/shop/sa/other".to_owned();
        }
    });
    let dir = borrowed.display().to_string();
    let said = home.says(&["audit", "verify", "--dir", &dir], 8);
    let named = format!("heads of {web} are signed with");
    assert!(said.contains(&named), "{said}");
}

/// A proxy of `reports` whose records go nowhere.
fn start_silent(home: &Home, program: &Path) -> Running {
    let text = fs::read_to_string(home.path("proxy-orders.yaml")).unwrap();
    let mut text = text
        .replace("orders-1", "reports-1")
        .replace("state-orders", "state-reports")
        .replace("shop/orders", "shop/reports");
    for door in [
        "audit: \"",
        "inbound: { listen: \"",
        "outbound: { listen: \"",
    ] {
        let (before, rest) = text.split_once(door).unwrap();
        let (_, after) = rest.split_once('"').unwrap();
        text = format!("{before}{door}{}\"{after}", free_port());
    }
    fs::write(home.path("proxy-reports.yaml"), text).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_palisade"), program).unwrap();
    let run = ["run", "proxy", "--config", "proxy-reports.yaml"];
    home.start_program(program, "proxy-reports", &run)
}

/// Writes the records of a log into another one, with the certificates that were issued
/// changed, and two minutes later one more, so that nothing is too new to tell; the
/// authority's first word is as much earlier. Its own heads, which would contradict it, are left out.
fn written_later(from: &Path, to: &Path, change: impl Fn(&mut Credential)) {
    let domain = TrustDomain::parse("demo.test").unwrap();
    let read_only = LogOptions {
        read_only: true,
        ..LogOptions::new(domain.clone())
    };
    let of_log = Log::open(from, read_only, Clock::system()).unwrap();
    let clock = Clock::manual(jiff::Timestamp::now());
    let options = LogOptions {
        checkpoint_every: Duration::from_millis(20),
        ..LogOptions::new(domain)
    };
    let log = Log::open(to, options, clock.clone()).unwrap();
    let ingest = Ingest::new(log.clone(), clock.clone());
    let pushed = Cell::new(0);
    let push = |envelope: &Envelope, sequence, record: Vec<u8>| {
        let stream = envelope.stream.as_ref().unwrap();
        let receipt = ingest.push(stream, sequence, vec![record.into()]);
        receipt.unwrap();
        pushed.set(pushed.get() + 1);
    };
    let mut last: Option<(Envelope, Record)> = None;
    for entry in of_log.scan(0).map(Result::unwrap) {
        let (envelope, mut record) = (entry.envelope, entry.record);
        let of_authority = record.reporter.ends_with("/palisade/ca");
        let of_spool = matches!(
            record.body,
            Some(Body::StreamHeads(_) | Body::StreamHead(_) | Body::SpoolEvent(_))
        );
        if record.reporter.ends_with("/palisade/audit") || (of_authority && of_spool) {
            continue;
        }
        let mut bytes = envelope.record.to_vec();
        if let Some(Body::Credential(issued)) = &mut record.body {
            change(issued);
            if last.is_none() {
                record.time_us -= 120_000_000;
            }
            bytes = record.encode_to_vec();
        }
        push(&envelope, envelope.sequence, bytes);
        if of_authority && matches!(record.body, Some(Body::Credential(_))) {
            last = Some((envelope, record));
        }
    }
    // A record is given its time when it is written, the log's own first one before all.
    wait_for("what was pushed", LIMIT, || {
        (log.len() > pushed.get()).then_some(())
    });
    clock.advance(Duration::from_secs(120));
    let (envelope, mut record) = last.unwrap();
    record.time_us += 120_000_000;
    if let Some(Body::Credential(issued)) = &mut record.body {
        issued.spiffe_id = "spiffe://demo.test/palisade/pdp".into();
        issued.serial = vec![9; 16];
    }
    push(&envelope, envelope.sequence + 1, record.encode_to_vec());
    log.close();
}

/// Has alerts brought to a file, from the next start of the audit service on.
fn deliver(home: &Home) -> PathBuf {
    let (file, config) = (home.path("alerts"), home.path("mesh.yaml"));
    // Its last section is that of the audit service.
    let text = fs::read_to_string(&config).unwrap() + &alerts_to(&file);
    fs::write(&config, text).unwrap();
    file
}

/// Codes of everything that `check` finds wrong.
fn codes(home: &Home) -> Vec<String> {
    let facts = home.json(&["check"]);
    let codes = facts.as_array().unwrap().iter();
    codes
        .filter_map(|fact| Some(format!("PLS{}", fact["code"].as_u64()?)))
        .collect()
}

/// The newest start of orders, and the last number of its first worker, as is kept beside
/// its spool.
fn reached(home: &Home) -> Option<(String, u64)> {
    let text = fs::read_to_string(home.path("state-orders/spool/reached")).ok()?;
    let of_worker = text.lines().filter_map(|line| line.split_once(" 0 "));
    let (boot, number) = of_worker.max()?;
    Some((boot.to_owned(), number.parse().ok()?))
}

/// The newest spool file of orders whose bytes are such.
fn spool_file(home: &Home, such: impl Fn(&[u8]) -> bool) -> PathBuf {
    find_spool_file(home, such).unwrap()
}

fn find_spool_file(home: &Home, such: impl Fn(&[u8]) -> bool) -> Option<PathBuf> {
    let mut files = Vec::new();
    for boot in fs::read_dir(home.path("state-orders/spool")).unwrap() {
        let boot = boot.unwrap().path();
        if boot.is_dir() {
            files.extend(fs::read_dir(boot).unwrap().map(|e| e.unwrap().path()));
        }
    }
    files.sort();
    files
        .into_iter()
        .rev()
        .find(|f| such(&fs::read(f).unwrap()))
}
