//! Alerts as an operator lives with them: a rule is met, somebody is told, it is open until
//! it is answered for; and neither a crash nor a target that is away loses or repeats one.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use aws_lc_rs::hmac;
use palisade_mesh::wire::record::SpoolEvent;
use serde_json::Value;
use support::{
    Home, LIMIT, Running, alerted, alerts_to, free_port,
    https::Https,
    lone::{self, search},
    records::{declare, grow_of},
    said, wait_for,
};

const SECRET: &str = "0123456789abcdef0123";

/// An audit service alone, with this in its section.
fn start(home: &Home, of_audit: &str) -> Running {
    lone::configure(home, of_audit);
    lone::start(home)
}

fn open(home: &Home) -> Vec<Value> {
    home.json(&["audit", "alerts", "list"])["open"]
        .as_array()
        .unwrap()
        .clone()
}

/// Records about alerts with this verb; what a killed service had in memory alone may be
/// missing from the log, which is no matter here.
fn recorded(home: &Home, verb: &str) -> Vec<Value> {
    let query = format!("class:alert verb:{verb} last:1h");
    found(home, &query)
}

/// What is found, though the log may lack something.
fn found(home: &Home, query: &str) -> Vec<Value> {
    let answer = home.json(&["audit", "search", query]);
    answer["rows"].as_array().unwrap().clone()
}

/// What a program was told, once all of it is there. A service that is killed between
/// telling and noting it tells again: those have the same id.
fn written(file: &Path) -> Option<Value> {
    let text = fs::read_to_string(file).ok()?;
    let told = serde_json::Deserializer::from_str(&text).into_iter();
    let mut told: Vec<Value> = told.collect::<Result<_, _>>().ok()?;
    told.dedup();
    assert!(told.len() < 2, "{told:#?}");
    told.pop()
}

/// A web server that refuses what comes first, and keeps what it takes.
struct Hook {
    got: Arc<Mutex<Vec<(String, Value)>>>,
    url: String,
}

impl Hook {
    fn start(refuse: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let got: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let keep = got.clone();
        thread::spawn(move || {
            for (n, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut byte = [0; 1];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                    request.push(byte[0]);
                }
                let head = String::from_utf8(request).unwrap().to_lowercase();
                let len = head.split("content-length: ").nth(1).unwrap();
                let len: usize = len.split("\r\n").next().unwrap().parse().unwrap();
                let mut body = vec![0; len];
                stream.read_exact(&mut body).unwrap();
                let status = if n < refuse {
                    "503 Not Now"
                } else {
                    "204 Taken"
                };
                let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                if n >= refuse {
                    signed(&head, &body);
                    let body = serde_json::from_slice(&body).unwrap();
                    keep.lock().unwrap().push((head, body));
                }
            }
        });
        Self { got, url }
    }

    /// What it took, once each: a service that is killed between telling and noting it
    /// tells again.
    fn got(&self) -> Vec<Value> {
        let got = self.got.lock().unwrap();
        let mut got: Vec<Value> = got.iter().map(|(_, body)| body.clone()).collect();
        got.dedup();
        got
    }
}

/// That the signature is over the time and the body.
fn signed(head: &str, body: &[u8]) {
    let field = head.split("palisade-signature: ").nth(1).unwrap();
    let (time, tag) = field
        .split("\r\n")
        .next()
        .unwrap()
        .split_once(",v1=")
        .unwrap();
    let mut message = format!("{}.", time.strip_prefix("t=").unwrap()).into_bytes();
    message.extend_from_slice(body);
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag: Vec<u8> = (0..tag.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&tag[i..i + 2], 16).unwrap())
        .collect();
    hmac::verify(&key, &message, &tag).unwrap();
}

/// A rule is met at its threshold and not before; the webhook and the program are told once,
/// through refusals and a `kill -9`; the alert is open, in `check`, until it is answered for.
#[test]
fn an_alert_is_recorded_once_delivered_once_and_open_until_answered_for() {
    let home = Home::new();
    let hook = Hook::start(2);
    fs::write(home.path("secret"), SECRET).unwrap();
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(home.path("secret"), mode).unwrap();
    let got = home.path("got");
    let of_audit = format!(
        "  deliver:\n    - {{ name: hook, webhook: \"{}\", secret: secret }}\n    - {{ name: file, exec: [/bin/sh, -c, \"cat >> {}\"] }}\n  alerts:\n    - {{ name: curious, query: \"class:audit_read verb:search\", threshold: 3, window: 1h, by: actor, severity: high }}\n",
        hook.url,
        got.display()
    );
    let mut audit = start(&home, &of_audit);
    search(&home);
    search(&home);
    assert_eq!(open(&home), Vec::<Value>::new());
    search(&home);
    let id = wait_for("an alert", LIMIT, || {
        Some(open(&home).first()?["id"].as_str()?.to_owned())
    });
    // Right after it is recorded, whatever was delivered by then.
    audit.kill();
    let mut audit = lone::start(&home);
    wait_for("both deliveries", LIMIT, || {
        (hook.got().len() == 1 && got.exists()).then_some(())
    });
    let message = &hook.got()[0];
    assert_eq!(message["id"], id.as_str());
    assert_eq!(message["rule"], "curious");
    assert_eq!(message["count"], 3);
    assert_eq!(
        message["group"].as_str().map(|g| g.starts_with("uid:")),
        Some(true)
    );
    let of_file = wait_for("the whole message", LIMIT, || written(&got));
    assert_eq!(&of_file, message);

    // More of the same are quiet; it stays one, also across another restart.
    for _ in 0..4 {
        search(&home);
    }
    audit.kill();
    let mut audit = lone::start(&home);
    // The rules have read to the end of the log, and nothing waits to be delivered.
    let listed = home.json(&["audit", "alerts", "list"]);
    assert_eq!(listed["open"].as_array().unwrap().len(), 1);
    assert_eq!(listed["waiting"], serde_json::json!([]), "{listed}");
    let records = recorded(&home, "fired");
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["severity"], "high");
    assert_eq!(hook.got().len(), 1);
    let said = support::said(&home.run(&["check"]));
    assert!(
        said.contains("PLS7930") && said.contains("curious"),
        "{said}"
    );
    let said = home.says(&["status"], 0);
    assert!(said.contains("1 alert open"), "{said}");

    for (args, code) in [
        (&["ack", &id, "--reason", " "][..], "PLS7938"),
        (&["ack", "01ZZZZZZ", "--reason", "x"], "PLS7937"),
        (&["test", "curios"], "PLS7937"),
    ] {
        let said = home.says(&[&["audit", "alerts"], args].concat(), 3);
        assert!(said.contains(code), "{args:?}: {said}");
    }
    let ack = ["audit", "alerts", "ack", &id[..16], "--reason", "it was me"];
    home.json(&ack);
    assert_eq!(open(&home), Vec::<Value>::new());
    let records = recorded(&home, "acknowledged");
    assert_eq!(records[0]["detail"], "it was me");
    assert_eq!(records[0]["firing"], id.as_str());
    let said = support::said(&home.run(&["check"]));
    assert!(
        said.contains("none met and open") && !said.contains("PLS7930"),
        "{said}"
    );

    let tested = home.json(&["audit", "alerts", "test", "curious", "--deliver"]);
    assert!(tested["met"].as_u64() >= Some(1), "{tested}");
    let taken = tested["delivered"].as_array().unwrap();
    assert!(
        taken.len() == 2 && taken.iter().all(|d| d["fault"].is_null()),
        "{tested}"
    );
    assert_eq!(hook.got()[1]["test"], true);
    audit.end();
}

/// A target that is away holds up nothing: neither the log nor the other target.
#[test]
fn a_target_that_is_away_holds_up_nothing() {
    let home = Home::new();
    let got = home.path("got");
    let gone = free_port();
    let of_audit = format!(
        "  deliver:\n    - {{ name: gone, webhook: \"http://{gone}/\" }}\n    - {{ name: file, exec: [/bin/sh, -c, \"cat >> {}\"] }}\n  alerts:\n    - {{ name: any, query: \"class:audit_read verb:search\" }}\n",
        got.display()
    );
    let mut audit = start(&home, &of_audit);
    search(&home);
    wait_for("the other target", LIMIT, || got.exists().then_some(()));
    let waiting = wait_for("a message that waits", LIMIT, || {
        let listed = home.json(&["audit", "alerts", "list"]);
        let waiting = listed["waiting"].as_array()?.first()?.clone();
        waiting["fault"].is_string().then_some(waiting)
    });
    assert_eq!(waiting["target"], "gone");
    assert_eq!(waiting["messages"], 1);
    let tested = home.run(&["audit", "alerts", "test", "any", "--deliver"]);
    assert_eq!(tested.status.code(), Some(1), "{}", said(&tested));
    search(&home);
    audit.end();
}

/// A message goes over TLS to the server that the configured roots vouch for. One with a certificate
/// of its own gets no request at all; that is told, and so is what is given up.
#[test]
fn a_webhook_over_tls_is_told_only_under_its_configured_roots() {
    let (home, elsewhere) = (Home::new(), Home::new());
    let (hook, stranger) = (Https::start(&home), Https::start(&elsewhere));
    for server in [&hook, &stranger] {
        server.put("hook", Vec::new());
    }
    let target = |name: &str, server: &Https| {
        let (url, ca) = (server.url("hook"), hook.ca().display());
        format!("    - {{ name: {name}, webhook: \"{url}\", ca: \"{ca}\" }}\n")
    };
    let (of_hook, of_stranger) = (target("hook", &hook), target("stranger", &stranger));
    let rule =
        "  alerts:\n    - { name: any, query: \"class:audit_read verb:search\", window: 1h }\n";
    let of_audit = format!("  deliver:\n{of_hook}{of_stranger}{rule}");
    let mut audit = start(&home, &of_audit);
    search(&home);
    let told: Value = wait_for("a message at the hook", LIMIT, || {
        serde_json::from_slice(hook.sent_to("hook").first()?).ok()
    });
    assert_eq!(
        (&told["kind"], &told["rule"]),
        (&"alert".into(), &"any".into())
    );
    let waiting = wait_for("a message that waits", LIMIT, || {
        let listed = home.json(&["audit", "alerts", "list"]);
        let waiting = listed["waiting"].as_array()?.clone();
        (waiting.len() == 1 && waiting[0]["fault"].is_string()).then(|| waiting[0].clone())
    });
    assert_eq!(waiting["target"], "stranger");
    assert_eq!(waiting["messages"], 1);
    let fault = waiting["fault"].as_str().unwrap();
    assert!(fault.contains("certificate"), "{fault}");

    // The same by hand.
    let test = ["audit", "alerts", "test", "any", "--deliver", "-o", "json"];
    let tested = home.run(&test);
    assert_eq!(tested.status.code(), Some(1), "{}", said(&tested));
    let tested: Value = serde_json::from_slice(&tested.stdout).unwrap();
    let delivered = tested["delivered"].as_array().unwrap().iter();
    for one in delivered {
        let is_stranger = one["target"] == "stranger";
        assert_eq!(one["fault"].is_string(), is_stranger, "{tested}");
    }
    assert_eq!(hook.sent_to("hook").len(), 2);
    assert!(!stranger.was_asked());

    // Whoever takes the target out of the configuration gives up what waits for it.
    audit.end();
    let file = home.path("audit.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&of_stranger, "")).unwrap();
    let _audit = lone::start(&home);
    let rows = wait_for("a record of it", LIMIT, || {
        let rows = home.rows("class:admin verb:undelivered last:1h")?;
        (!rows.is_empty()).then_some(rows)
    });
    let [row] = rows.as_slice() else {
        panic!("{rows:#?}");
    };
    let id = told["id"].as_str().unwrap();
    assert_eq!(row["object"], format!("stranger {id}"));
    assert_eq!(hook.sent_to("hook").len(), 2);
    assert!(!stranger.was_asked());
}

/// Numbers that a reporter left out, and records that it declared lost, are brought to whoever
/// takes alerts without any rule: each gap once, losses once in an hour for each reporter. An
/// alert is open until somebody answers for it, whether the gap closes or not.
#[test]
fn gaps_and_losses_are_told_without_a_rule() {
    let home = Home::new();
    let got = home.path("got");
    let mut audit = start(&home, &alerts_to(&got));
    assert!(audit.end().success());
    let log = home.path("state/audit/log");
    let (orders, web) = (
        "spiffe://acme.test/ns/shop/sa/orders",
        "spiffe://acme.test/ns/shop/sa/web",
    );
    let lost = |number, reporter| {
        let event = SpoolEvent {
            verb: "dropped".into(),
            strict: 4,
            ..SpoolEvent::default()
        };
        declare(&log, number, reporter, event);
    };
    grow_of(&log, orders, 1..=3, "/orders");
    grow_of(&log, orders, 6..=7, "/orders");
    lost(8, orders);

    let told = |rule: &str, count: usize| {
        wait_for(rule, LIMIT, || {
            alerted(&got, rule).filter(|told| told.len() >= count)
        })
    };
    let mut audit = lone::start(&home);
    let (gap, loss) = (told("palisade-gap", 1), told("palisade-lost", 1));
    for (message, group, query) in [
        (&gap[0], "", "class:log_lifecycle verb:gap"),
        (&loss[0], orders, "class:spool_event verb:dropped"),
    ] {
        assert_eq!(
            (&message["kind"], &message["test"], &message["mesh"]),
            (&"alert".into(), &false.into(), &"acme.test".into())
        );
        assert_eq!(message["severity"], "high", "{message}");
        assert_eq!(
            (&message["group"], &message["count"]),
            (&group.into(), &1.into())
        );
        let asked = message["query"].as_str().unwrap();
        assert!(asked.starts_with(query), "{message}");
        // It names the record with which the rule was met.
        let entry = &message["entry"];
        let row = wait_for("the record behind it", LIMIT, || {
            found(&home, &format!("class:* entry:{entry} last:1h")).pop()
        });
        let class = query.split([':', ' ']).nth(1).unwrap();
        assert_eq!(row["class"], class, "{row}");
        if group.is_empty() {
            let detail = row["detail"].as_str().unwrap();
            assert!(detail.contains(orders), "{row}");
        } else {
            assert_eq!(row["reporter"], group);
        }
        let its = wait_for("the record of it", LIMIT, || {
            let mut fired = recorded(&home, "fired");
            fired.retain(|row| row["firing"] == message["id"]);
            (!fired.is_empty()).then_some(fired)
        });
        assert_eq!(its.len(), 1, "{its:#?}");
    }
    assert_eq!(open(&home).len(), 2);
    assert!(audit.end().success());

    // The gap closes, and another one opens; one more loss of the same reporter is quiet, one of
    // another is not.
    grow_of(&log, orders, 4..=5, "/orders");
    lost(9, orders);
    grow_of(&log, orders, 12..=12, "/orders");
    lost(1, web);
    let mut audit = lone::start(&home);
    let (gaps, losses) = (told("palisade-gap", 2), told("palisade-lost", 2));
    assert_eq!((&gaps[0], &losses[0]), (&gap[0], &loss[0]));
    assert_eq!(losses[1]["group"], web);
    let closed = wait_for("a record of the gap that closed", LIMIT, || {
        let closed = found(&home, "class:log_lifecycle verb:gap_closed last:1h");
        (!closed.is_empty()).then_some(closed)
    });
    assert_eq!(closed.len(), 1, "{closed:#?}");
    let open_now = open(&home);
    assert_eq!(open_now.len(), 4, "{open_now:#?}");
    for alert in &open_now {
        let id = alert["id"].as_str().unwrap();
        home.json(&["audit", "alerts", "ack", id, "--reason", "seen"]);
    }
    assert_eq!(open(&home), Vec::<Value>::new());
    audit.end();
}

/// What was due while nobody ran is made once, recorded and told; the package it leaves is
/// verified with the log's key alone.
#[test]
fn a_report_that_was_due_while_nobody_ran_is_made_up_for_once() {
    let home = Home::new();
    let got = home.path("got");
    let of_audit = format!(
        "  deliver:\n    - {{ name: file, exec: [/bin/sh, -c, \"cat >> {}\"] }}\n  schedules:\n    - {{ name: hourly, cron: \"0 * * * *\", report: digest, period: \"last:2h\", formats: [json, package, oscal], folder: reports, deliver: [file] }}\n    - {{ name: broken, cron: \"0 0 1 1 *\", report: denials, period: previous-year, folder: secret/reports }}\n    - {{ name: review, cron: \"0 0 1 1 *\", report: access-review, period: \"last:1h\", formats: [json, csv, package], folder: reviews }}\n    - {{ name: reach, cron: \"0 0 1 1 *\", report: reach, period: \"last:1h\", formats: [json, package], folder: reviews }}\n    - {{ name: unused, cron: \"0 0 1 1 *\", report: unused, period: \"last:1h\", formats: [json], folder: reviews }}\n  policies: policies\n",
        got.display()
    );
    lone::policies(&home);
    fs::write(home.path("secret"), SECRET).unwrap();
    let mut audit = start(&home, &of_audit);
    search(&home);
    let listed = home.json(&["report", "schedule", "list"]);
    assert!(listed["schedules"][0]["next_us"].is_i64(), "{listed}");
    assert!(
        listed["schedules"][0]["last"]["made_us"].is_null(),
        "{listed}"
    );
    assert!(
        !home.path("reports").exists(),
        "a new schedule makes nothing up"
    );
    audit.end();

    // A file of state that is damaged is put aside and told; the log starts.
    fs::write(home.path("state/audit/alerts.json"), b"{\"book\"").unwrap();

    // As if it had been away for some hours.
    let file = home.path("state/audit/schedules.json");
    let mut state: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let hours = 3600 * 1_000_000;
    state["hourly"]["due_us"] = (jiff::Timestamp::now().as_microsecond() - 4 * hours).into();
    fs::write(&file, state.to_string()).unwrap();
    let mut audit = lone::start(&home);
    let made = wait_for("the report", LIMIT, || {
        let rows = home.rows("class:admin verb:report_made last:1h")?;
        (!rows.is_empty()).then_some(rows)
    });
    let detail = made[0]["detail"].as_str().unwrap();
    // One less in the minute after the hour, which waits for what reporters still have.
    let due = (3..=5).any(|n| detail.contains(&format!("for {n} that were due")));
    assert!(due, "{detail}");
    let message = wait_for("its message", LIMIT, || written(&got));
    assert_eq!(message["kind"], "report");
    let files = message["files"].as_array().unwrap();
    let key = home.path("state/audit/log/checkpoint.pub");
    let package = files[1].as_str().unwrap();
    let mode = fs::metadata(package).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let verify = ["report", "verify", package, "--key", key.to_str().unwrap()];
    let said = home.says(&verify, 0);
    assert!(said.contains("✓ holds"), "{said}");
    home.says(&["report", "verify", files[0].as_str().unwrap()], 0);
    let oscal = files[2].as_str().unwrap();
    assert!(oscal.ends_with(".oscal.json"), "{oscal}");
    let oscal: Value = serde_json::from_str(&fs::read_to_string(oscal).unwrap()).unwrap();
    let version = &oscal["assessment-results"]["metadata"]["oscal-version"];
    assert_eq!(version, "1.2.1");

    let said = support::said(&home.run(&["check"]));
    assert!(said.contains("PLS7934"), "{said}");
    assert!(home.path("state/audit/alerts.json.bad").exists());
    let rows = home.rows("class:admin verb:state_lost last:1h").unwrap();
    assert_eq!(rows.len(), 1, "{rows:#?}");

    // Again by hand, and where it cannot be.
    home.json(&["report", "schedule", "run", "hourly"]);
    let said = home.says(&["report", "schedule", "run", "broken"], 1);
    assert!(said.contains("PLS7942"), "{said}");
    let said = home.says(&["report", "schedule", "run", "hourli"], 3);
    assert!(
        said.contains("PLS7941") && said.contains("hourly"),
        "{said}"
    );
    // Those about policies ask the repository.
    for (name, section) in [("review", "access-in-force"), ("reach", "effective-access")] {
        let made = home.json(&["report", "schedule", "run", name]);
        let file = made["schedules"][0]["last"]["files"][0].as_str().unwrap();
        let report: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let first = &report["sections"][0];
        assert_eq!(first["id"], section, "{made}");
        let rows = first["table"]["rows"].as_array().unwrap();
        assert!(!rows.is_empty(), "what the policies grant: {first}");
        home.says(&["report", "verify", file, "--policies", "policies"], 0);
        // A package has the policies that it is about.
        let files = made["schedules"][0]["last"]["files"].as_array().unwrap();
        let package = files.last().unwrap().as_str().unwrap();
        let verify = ["report", "verify", package, "--key", key.to_str().unwrap()];
        let said = home.says(&verify, 0);
        assert!(!said.contains("policies were asked for"), "{said}");
    }
    // Of no decision nothing follows about what is unused.
    let said = home.says(&["report", "schedule", "run", "unused"], 1);
    assert!(said.contains("everything would be called unused"), "{said}");

    let said = home.run(&["check"]);
    assert!(
        support::said(&said).contains("PLS7942"),
        "{}",
        support::said(&said)
    );
    let made = home.rows("class:admin verb:report_made last:1h").unwrap();
    assert_eq!(made.len(), 4, "{made:#?}");
    audit.end();
}
