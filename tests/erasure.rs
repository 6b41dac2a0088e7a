//! A person in the log: found by name, shown to whoever says why, and erased for good.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use palisade_audit::privacy::Vault;
use serde_json::Value;
use support::{Home, LIMIT, demo::one_at_a_time, http, mesh::Separate, wait_for};

const ALICE: &str = "alice@example.org";
const BOB: &str = "bob@example.org";
/// Kept by every rule, so that the search through the files is known to find things.
const TENANT: &str = "tenant-that-is-kept";

/// What every process says of its records.
const PRIVACY: &str = "privacy:\n  mask: [source_ip]\n  pseudonym: [\"header:x-team\"]\n  seal: [\"header:x-user\"]\n";

/// What the audit service makes and sends by itself; nobody is at the receiver's port.
const BY_ITSELF: &str = "  schedules:\n    - { name: weekly, cron: \"0 6 * * 1\", report: digest, period: \"last:1h\", formats: [json, package], folder: reports }\n  syslog: { address: \"localhost:9\" }\n";

/// Nothing of it lets or stops a request of these tests, but all of it is read.
const POLICY: &str = r#"
@id("not-mallory")
forbid (principal, action in Action::"http", resource in Service::"demo.test/shop/orders")
when {
  (context.http.headers has "x-user" && context.http.headers["x-user"] == "mallory@example.org") ||
  (context.http.headers has "x-team" && context.http.headers["x-team"] == "none") ||
  (context.http.headers has "x-tenant" && context.http.headers["x-tenant"] == "none") ||
  context.source.ip.isInRange(ip("192.0.2.0/24"))
};
"#;

/// The whole story of one person, and of another who stays.
#[test]
fn a_person_is_erased_and_everything_still_verifies() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready_with(&home, "1h", PRIVACY, PRIVACY);
    let outbound = outbound(&home);
    read_headers(&home, outbound);
    let of_alice = wait_for("a record about alice", LIMIT, || {
        request(outbound, ALICE);
        let rows = home.rows(&format!("subject:{ALICE} last:1h"))?;
        rows.first().cloned()
    });
    request(outbound, BOB);
    wait_for("a record about bob", LIMIT, || {
        home.rows(&format!("subject:{BOB} last:1h"))?
            .first()
            .cloned()
    });

    // The row has pseudonyms where names were, and says what is missing.
    let id = of_alice["id"].as_str().unwrap();
    assert_eq!(
        of_alice["covered"]["header:x-user"], "sealed",
        "{of_alice:#}"
    );
    assert_eq!(of_alice["covered"]["header:x-team"], "pseudonym");
    assert_eq!(of_alice["covered"]["source_ip"], "masked");
    assert_eq!(of_alice["source"], Value::Null);
    let headers = &of_alice["context"]["http"]["headers"];
    assert_eq!(headers["x-tenant"], TENANT);
    assert_eq!(headers["x-user"], Value::Null);
    assert!(!of_alice.to_string().contains("alice"), "{of_alice:#}");
    let subjects = of_alice["subject"].as_array().unwrap();
    assert_eq!(subjects.len(), 2, "{of_alice:#}");

    // Whoever says why is shown the name, and the read is on record.
    home.says(&["audit", "show", id, "--reveal"], 2);
    let shown = home.json(&["audit", "show", id, "--reveal", "--reason", "ticket 12"]);
    assert_eq!(
        value_of(&shown, "header:x-user"),
        ("value".into(), ALICE.into())
    );
    assert_eq!(value_of(&shown, "header:x-team").0, "pseudonym");
    assert_eq!(value_of(&shown, "source_ip").0, "masked");
    let by = format!("subject:{ALICE} last:1h");
    home.json(&["audit", "search", &by, "--reason", "ticket 13"]);
    let reads = wait_for("records of the reads", LIMIT, || {
        let reads = home.rows("class:audit_read (verb:reveal OR verb:search) last:1h")?;
        let because = |why: &str| reads.iter().any(|r| r["because"] == why);
        (because("ticket 12") && because("ticket 13")).then_some(reads)
    });
    assert!(
        !format!("{reads:?}").contains("alice"),
        "a read names nobody"
    );

    // From here on a schedule makes reports, and records are sent to a receiver of syslog,
    // which both are copies that nobody asked for.
    mesh.end("audit");
    let config = fs::read_to_string(home.path("mesh.yaml")).unwrap();
    fs::write(home.path("mesh.yaml"), config + BY_ITSELF).unwrap();
    mesh.start("audit");
    wait_for("an audit service that answers", LIMIT, || home.decisions());
    let sent = wait_for("a record of what is forwarded", LIMIT, || {
        let rows = home.rows("class:admin verb:syslog_begun last:1h")?;
        rows.first().cloned()
    });
    assert_eq!(sent["object"], "localhost:9", "{sent:#}");
    wait_for("a record about alice that is forwarded", LIMIT, || {
        request(outbound, ALICE);
        let newest = &home.rows(&format!("subject:{ALICE} last:1h"))?[0];
        (newest["entry"].as_u64() > sent["entry"].as_u64()).then_some(())
    });
    let made = home.json(&["report", "schedule", "run", "weekly"]);
    let of_schedule = made["schedules"][0]["last"]["files"].as_array().unwrap();
    let of_schedule: Vec<_> = of_schedule.iter().filter_map(Value::as_str).collect();
    assert_eq!(of_schedule.len(), 2, "{made:#}");

    // An export with her records, one with his, and a proof of one of hers.
    let hers = home.path("hers.jsonl");
    let his = home.path("his.csv");
    export(&home, &format!("subject:{ALICE} last:1h"), &hers);
    export(&home, &format!("subject:{BOB} last:1h"), &his);
    let columns = home.path("hers.parquet");
    export(&home, &format!("subject:{ALICE} last:1h"), &columns);
    let kept = fs::read_to_string(&hers).unwrap();
    assert!(kept.contains(id) && !kept.contains("alice"), "{kept}");
    let proof = home.path("hers.tlog-proof");
    let (proof, record) = (text(&proof), text(&home.path("hers.record")));
    let files = ["--proof", &proof, "--record", &record];
    home.says(&[&["audit", "proof", id], &files[..]].concat(), 0);

    // A hold beats an erasure.
    let reason = ["--reason", "request 4711 of 3 May"];
    let erase = |extra: &[&'static str]| -> Vec<&'static str> {
        [&["audit", "erase", ALICE], &reason[..], extra].concat()
    };
    let hers_all = format!("subject:{ALICE}");
    let held = home.json(&[&["audit", "hold", "add", &hers_all], &reason[..]].concat());
    let hold = held["holds"][0]["id"].as_str().unwrap().to_owned();
    assert!(!held.to_string().contains("alice"), "{held}");
    let tried = home.json(&erase(&["--dry-run"]));
    assert_eq!(tried["state"], "would_erase");
    assert_eq!(tried["held_by"], serde_json::json!([hold]));
    assert_eq!(tried["whole"], true);
    let hers_alone = tried["subject"].as_str().unwrap().to_owned();
    assert!(
        has(&fs::read(&columns).unwrap(), hers_alone.as_bytes()),
        "what was asked"
    );
    let previews = wait_for("a record of the preview", LIMIT, || {
        let previews = home.rows("class:audit_read verb:erase_preview last:1h")?;
        (!previews.is_empty()).then_some(previews)
    });
    assert_eq!(previews.len(), 1, "{previews:#?}");
    assert_eq!(previews[0]["because"], "request 4711 of 3 May");
    let refused = home.says(&erase(&[]), 1);
    assert!(
        refused.contains("PLS7564") && refused.contains(&hold),
        "{refused}"
    );
    home.says(
        &[&["audit", "hold", "release", &hold], &reason[..]].concat(),
        0,
    );

    // Nothing was done so far, and a reason that names her is refused.
    let shown = home.json(&["audit", "show", id, "--reveal", "--reason", "ticket 14"]);
    assert_eq!(value_of(&shown, "header:x-user").1, ALICE);
    let named = [
        "audit",
        "erase",
        ALICE,
        "--reason",
        "alice@example.org asked",
    ];
    assert!(home.says(&named, 1).contains("PLS7565"));
    // So is one where she is given by her pseudonym, or by the hold on her records.
    let named = |mut args: Vec<&str>, words: &'static str| {
        args.extend(["--reason", words]);
        let said = home.says(&args, 1);
        assert!(said.contains("PLS7565"), "{args:?}: {said}");
    };
    named(
        vec!["audit", "erase", &hers_alone],
        "asked by Alice@example.org, 3 May",
    );
    let by_pseudonym = format!("subject:{hers_alone}");
    named(
        vec!["audit", "hold", "add", &by_pseudonym],
        "case alice@example.org",
    );
    let held = home.json(&[&["audit", "hold", "add", &by_pseudonym], &reason[..]].concat());
    let hold = held["holds"][0]["id"].as_str().unwrap().to_owned();
    named(
        vec!["audit", "hold", "release", &hold],
        "(alice@example.org) done",
    );
    named(
        vec!["audit", "search", &format!("{by_pseudonym} last:1h")],
        "of alice@example.org",
    );
    home.says(
        &[&["audit", "hold", "release", &hold], &reason[..]].concat(),
        0,
    );
    let of_her = text(&home.path("alice@example.org.jsonl"));
    let by_pseudonym = format!("{by_pseudonym} last:1h");
    let said = home.says(&["audit", "export", &by_pseudonym, "--to", &of_her], 1);
    assert!(said.contains("PLS7565"), "{said}");
    fs::remove_file(format!("{of_her}.part")).unwrap();
    let of_her = text(&home.path("alice@example.org.html"));
    for scope in [&hers_all, &format!("subject:{hers_alone}")] {
        let run = ["report", "run", "access", "--scope", scope, "--to", &of_her];
        let said = home.says(&run, 1);
        assert!(said.contains("PLS7565"), "{said}");
    }

    // Whoever took a proof has the whole record, and a report its rows.
    home.json(&["audit", "proof", id]);
    let report = text(&home.path("access.json"));
    let package = text(&home.path("access.tar.zst"));
    for to in [&report, &package] {
        home.json(&["report", "run", "access", "--period", "last:1h", "--to", to]);
    }
    let wrapped = wrapped_key(&home, &hers_alone);
    let state = home.path("state");
    assert!(!holding(&state, &wrapped).is_empty(), "the key is there");

    let erased = by_stdin(&home, ALICE, &reason);
    assert_eq!(erased["state"], "erased", "{erased:#}");
    assert!(erased["records"].as_u64().unwrap() > 0, "{erased:#}");
    assert_eq!(holding(&state, &wrapped), Vec::<PathBuf>::new(), "no key");
    let recall = erased["recall"].as_array().unwrap();
    let to: Vec<_> = recall.iter().map(|r| r["to"].as_str().unwrap()).collect();
    assert!(to.contains(&text(&hers).as_str()), "{erased:#}");
    assert!(to.contains(&text(&columns).as_str()), "{erased:#}");
    assert!(!to.contains(&text(&his).as_str()), "{erased:#}");
    for copy in [
        &*report,
        &*package,
        &*of_schedule.join(", "),
        "syslog+tls://localhost:9",
    ] {
        assert!(to.contains(&copy), "{copy}: {erased:#}");
    }
    // Of him nothing came since there is a receiver; of schedules it is not told.
    let tried = home.json(&[&["audit", "erase", BOB, "--dry-run"], &reason[..]].concat());
    let recall = tried["recall"].as_array().unwrap();
    assert!(
        recall.iter().any(|r| r["verb"] == "report_made"),
        "{tried:#}"
    );
    assert!(
        !recall.iter().any(|r| r["verb"] == "syslog_begun"),
        "{tried:#}"
    );
    let recall = erased["recall"].as_array().unwrap();
    for verb in ["proof", "report", "reveal"] {
        assert!(
            recall.iter().any(|r| r["verb"] == verb),
            "{verb}: {erased:#}"
        );
    }
    let again = home.json(&erase(&[]));
    assert_eq!(again["state"], "erased_before");
    assert_eq!(again["at"], erased["at"]);
    let nobody = home.json(&[&["audit", "erase", "carol@example.org"], &reason[..]].concat());
    assert_eq!(nobody["state"], "nothing_sealed");

    // Her records are there, her name is not: nowhere, and for nobody.
    let shown = home.json(&["audit", "show", id, "--reveal", "--reason", "ticket 15"]);
    assert_eq!(value_of(&shown, "header:x-user").0, "erased");
    let rows = home
        .rows(&format!("subject:{ALICE} class:decision last:1h"))
        .unwrap();
    assert!(rows.iter().any(|row| row["id"] == id));
    let told = home.rows("class:erasure last:1h").unwrap();
    assert_eq!(told.len(), 1, "once: {told:#?}");
    assert_eq!(told[0]["subject"][0], erased["subject"]);
    let his_id = home.rows(&format!("subject:{BOB} last:1h")).unwrap()[0]["id"].clone();
    let shown = home.json(&[
        "audit",
        "show",
        his_id.as_str().unwrap(),
        "--reveal",
        "--reason",
        "t",
    ]);
    assert_eq!(value_of(&shown, "header:x-user").1, BOB, "he stays");

    // Log, heads and the proof of before are what they were.
    verified(&home);
    let key = text(&home.path("state/audit/log/checkpoint.pub"));
    home.says(
        &[&["audit", "verify", "--key", &key], &files[..]].concat(),
        0,
    );
    let check = home.says(&["check"], 0);
    assert!(!check.contains("PLS7527"), "{check}");

    // Also after a start.
    mesh.end("audit");
    mesh.start("audit");
    wait_for("an audit service that answers", LIMIT, || home.decisions());
    let shown = home.json(&["audit", "show", id, "--reveal", "--reason", "ticket 16"]);
    assert_eq!(value_of(&shown, "header:x-user").0, "erased");
    verified(&home);

    // An order that was interrupted is withheld while there is a hold, and finished without.
    let his_all = format!("subject:{BOB}");
    let held = home.json(&[&["audit", "hold", "add", &his_all], &reason[..]].concat());
    let hold = held["holds"][0]["id"].as_str().unwrap().to_owned();
    let his = |home: &Home| {
        let show = [
            "audit",
            "show",
            his_id.as_str().unwrap(),
            "--reveal",
            "--reason",
            "t",
        ];
        value_of(&home.json(&show), "header:x-user")
    };
    interrupted(&home, &mut mesh);
    wait_for("an erasure that is withheld", LIMIT, || {
        let told = home.rows("class:admin verb:erasure_withheld last:1h")?;
        told.first().cloned()
    });
    assert_eq!(his(&home).1, BOB);
    home.says(
        &[&["audit", "hold", "release", &hold], &reason[..]].concat(),
        0,
    );
    interrupted(&home, &mut mesh);
    wait_for("an erasure that is finished", LIMIT, || {
        (home.decisions().is_some() && his(&home).0 == "erased").then_some(())
    });
    wait_for("the record of it", LIMIT, || {
        (home.rows("class:erasure last:1h")?.len() == 2).then_some(())
    });

    // A spool file goes once the log has signed for all of it and it grows no more: when it
    // is full, or at the next start.
    for name in ["proxy-web", "proxy-orders"] {
        mesh.end(name);
        mesh.start(name);
    }
    wait_for("spools without names", LIMIT, || {
        let left = |name: &str| holding(&home.path("state-orders"), name.as_bytes());
        (left(ALICE).is_empty() && left(BOB).is_empty()).then_some(())
    });

    // And nothing of either is in any byte of any file, with what the proxies keep.
    for name in ["proxy-web", "proxy-orders", "audit"] {
        mesh.end(name);
    }
    assert!(
        !holding(&home.path("state/audit"), TENANT.as_bytes()).is_empty(),
        "the search finds nothing"
    );
    for what in [ALICE.as_bytes(), BOB.as_bytes(), &wrapped] {
        assert_eq!(holding(&home.path(""), what), Vec::<PathBuf>::new());
    }
}

/// Ends the audit service, orders his erasure as an earlier process did that ended before
/// it was done, and starts it again.
fn interrupted(home: &Home, mesh: &mut Separate<'_>) {
    mesh.end("audit");
    let (dir, kek) = (
        home.path("state/audit/subjects"),
        home.path("state/audit/kek"),
    );
    let vault = Vault::open(&dir, &kek, false).unwrap();
    vault.doom(&vault.pseudonym(BOB)).unwrap();
    drop(vault);
    mesh.start("audit");
}

/// The wrapped key of a person, as the table has it.
fn wrapped_key(home: &Home, subject: &str) -> Vec<u8> {
    let digits = subject.strip_prefix("p-").unwrap();
    let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
    let pseudonym: Vec<u8> = (0..16).map(byte).collect();
    let table = fs::read(home.path("state/audit/subjects/keys")).unwrap();
    let at = table.windows(16).position(|w| w == pseudonym).unwrap();
    table[at + 28..at + 88].to_vec()
}

/// With an allow-list nothing is kept that nobody thought of: a header that a policy reads,
/// a path, an address; and each record says what it lacks.
#[test]
fn only_what_is_allowed_is_recorded_and_the_rest_is_said() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let allowed = "privacy:\n  allow: [\"header:x-tenant\"]\n";
    let _mesh = Separate::ready_with(&home, "1h", allowed, allowed);
    let outbound = outbound(&home);
    read_headers(&home, outbound);
    let row = wait_for("a record without a name", LIMIT, || {
        request(outbound, ALICE);
        let rows = home.rows("class:decision decision:allow last:1h")?;
        let said = |row: &Value| row["covered"]["header:x-user"] == "masked";
        rows.into_iter().find(said)
    });
    assert_eq!(
        row["context"]["http"]["headers"]["x-tenant"], TENANT,
        "{row:#}"
    );
    for field in ["header:x-team", "path", "source_ip"] {
        assert_eq!(row["covered"][field], "masked", "{field}: {row:#}");
    }
    assert_eq!(row["covered"]["header:x-tenant"], Value::Null, "{row:#}");
    for gone in ["path", "source"] {
        assert_eq!(row[gone], Value::Null, "{gone}: {row:#}");
    }
    let everything = home.rows("class:* last:1h").unwrap();
    for name in [ALICE, "mallory@example.org"] {
        assert!(!format!("{everything:?}").contains(name), "{name}");
    }
}

/// What policy masks at one service is in no file of the mesh, though no process has a rule for
/// it: neither the caller's proxy nor the destination's keeps it. What is masked in git is masked
/// from the next request on, and the record says so.
#[test]
fn what_policy_masks_is_in_no_file() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let seal = "privacy:\n  seal: [\"header:x-user\", \"header:x-team\"]\n";
    let _mesh = Separate::ready_with(&home, "1h", seal, seal);
    let outbound = outbound(&home);
    read_headers(&home, outbound);
    let before = wait_for("a record of before", LIMIT, || {
        request(outbound, BOB);
        let rows = home.rows(&format!("subject:{BOB} last:1h"))?;
        rows.first().cloned()
    });
    assert_eq!(before["path"], "/orders", "{before:#}");

    let file = home.path("policies/services/orders.yaml");
    let service = fs::read_to_string(&file).unwrap();
    let service = service.replace(
        "match: \"GET /orders/{id}\" }",
        "match: \"GET /orders/{id}\", mask: [path] }",
    );
    fs::write(&file, format!("{service}mask: [\"header:x-user\"]\n")).unwrap();
    let get = |path: &str, user: &str| {
        let host = format!("orders\r\nx-user: {user}\r\nx-team: red\r\nx-tenant: {TENANT}");
        http::send(outbound, "GET", &host, path, "").unwrap()
    };
    // Until both sides have it; what comes before is nobody's.
    let masked = |query: &str, field: &str| {
        let row = home.rows(query)?.first().cloned()?;
        (row["covered"][field] == "masked").then_some(row)
    };
    let decisions = "class:decision service:orders last:1h";
    let calls = "class:call service:orders last:1h";
    wait_for("the mask on both sides", LIMIT, || {
        get("/orders/1", "nobody");
        masked(decisions, "path").and(masked(calls, "path"))
    });
    // The header is the service's, and the path an operation's; what adds to what holds at once.
    let secret = "patient-4711-of-ward-nine";
    let reply = get(&format!("/orders/{secret}"), ALICE);
    let id = reply.header("palisade-decision-id").unwrap().to_owned();
    let decided = |id: &str| {
        wait_for("the record of it", LIMIT, || {
            home.rows(&format!("{decisions} id:{id}"))?.first().cloned()
        })
    };
    let row = decided(&id);
    let covered = &row["covered"];
    assert_eq!(covered["header:x-user"], "masked", "{row:#}");
    assert_eq!(covered["path"], "masked", "{row:#}");
    assert_eq!(covered["header:x-team"], "sealed", "{row:#}");
    assert_eq!(row["context"]["http"]["headers"]["x-tenant"], TENANT);
    assert_eq!(row["route"], "/orders/{id}", "{row:#}");
    // A misspelt one is no operation, and could have been meant to be that one.
    let reply = get(&format!("/order/{secret}"), ALICE);
    let misspelt = reply.header("palisade-decision-id").unwrap().to_owned();
    let row = decided(&misspelt);
    assert_eq!(row["covered"]["path"], "masked", "{row:#}");
    assert_eq!(row["route"], Value::Null, "{row:#}");
    // The caller's proxy has a record of either, too.
    for id in [&id, &misspelt] {
        let row = wait_for("the call of it", LIMIT, || {
            let rows = home.rows(calls)?;
            rows.into_iter().find(|row| row["decision_id"] == id[..])
        });
        assert_eq!(row["covered"]["path"], "masked", "{row:#}");
    }
    // Of the list the path is kept, and the person is not, whoever seals.
    request(outbound, ALICE);
    wait_for("the record of the list", LIMIT, || {
        let row = home.rows(decisions)?.first().cloned()?;
        (row["path"] == "/orders" && row["covered"]["header:x-user"] == "masked").then_some(())
    });
    for what in [secret, ALICE] {
        let found = holding(&home.path(""), what.as_bytes());
        assert_eq!(found, Vec::<PathBuf>::new(), "{what}");
    }
    assert!(!holding(&home.path(""), TENANT.as_bytes()).is_empty());
    verified(&home);
}

/// Queries of the configuration are in reports, alerts and records for good, and are asked of
/// records that have pseudonyms: one that names somebody is refused, a pseudonym is not.
#[test]
fn no_query_of_the_configuration_names_anybody() {
    let home = Home::new();
    let checked = |person: &str, expected: i32| {
        let config = format!(
            "trust_domain: acme.test\naudit:\n  listen: 127.0.0.1:0\n  alerts:\n    - {{ name: near, query: \"-subject:{person}\" }}\n  schedules:\n    - {{ name: weekly, cron: \"0 6 * * 1\", report: access, period: \"last:7d\", scope: \"subject:{person}\", folder: reports }}\n  syslog: {{ address: \"logs.acme.test:6514\", query: \"class:* -subject:{person}\" }}\n"
        );
        fs::write(home.path("audit.yaml"), config).unwrap();
        home.says(&["config", "check", "audit.yaml"], expected)
    };
    let said = checked(ALICE, 3);
    for code in ["PLS7940", "PLS7931", "PLS7721"] {
        assert!(said.contains(code), "{code}: {said}");
    }
    checked("p-00112233445566778899aabbccddeeff", 0);
}

/// Has every proxy read the headers that this is about. A request that is open while that
/// comes into force is ended, so this waits until the policy on them refuses.
fn read_headers(home: &Home, outbound: SocketAddr) {
    let file = home.path("policies/palisade.yaml");
    let declared = fs::read_to_string(&file).unwrap().replace(
        "headers: {}",
        "headers:\n  x-team: single\n  x-tenant: single\n  x-user: single",
    );
    fs::write(home.path("policies/policies/not-mallory.cedar"), POLICY).unwrap();
    fs::write(file, declared).unwrap();
    wait_for("the headers to be read", LIMIT, || {
        let reply = ask(outbound, "mallory@example.org");
        (reply.status == 403).then_some(())
    });
}

fn outbound(home: &Home) -> SocketAddr {
    let config = fs::read_to_string(home.path("proxy-web.yaml")).unwrap();
    let (_, rest) = config.split_once("outbound: { listen: \"").unwrap();
    rest.split('"').next().unwrap().parse().unwrap()
}

fn request(outbound: SocketAddr, user: &str) {
    let reply = ask(outbound, user);
    assert_eq!(reply.status, 200, "{reply:?}");
}

fn ask(outbound: SocketAddr, user: &str) -> http::Reply {
    let host = format!("orders\r\nx-user: {user}\r\nx-team: red\r\nx-tenant: {TENANT}");
    http::send(outbound, "GET", &host, "/orders", "").unwrap()
}

fn export(home: &Home, query: &str, to: &Path) {
    home.says(&["audit", "export", query, "--to", &text(to)], 0);
}

/// State and value of a field in what was revealed.
fn value_of(shown: &Value, field: &str) -> (String, String) {
    let records = shown["revealed"].as_array().unwrap();
    let mut values = records.iter().flat_map(|r| r["values"].as_array().unwrap());
    let value = values.find(|v| v["field"] == field);
    let value = value.unwrap_or_else(|| panic!("{field}: {shown:#}"));
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    (text("state"), text("value"))
}

/// Erases with the name on standard input, where no list of processes shows it.
fn by_stdin(home: &Home, name: &str, reason: &[&str]) -> Value {
    let args = [&["audit", "erase", "-"], reason, &["-o", "json"]].concat();
    let mut child = home
        .palisade(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{name}").unwrap();
    let output = child.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn verified(home: &Home) {
    let report = home.json(&["audit", "verify"]);
    assert_eq!(report["findings"], serde_json::json!([]), "{report:#}");
}

/// Files below `folder` that have these bytes somewhere; programs are left out.
fn holding(folder: &Path, what: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // What goes meanwhile has nothing.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() && !path.ends_with("bin") {
                folders.push(path);
            } else if kind.is_file() && has(&fs::read(&path).unwrap_or_default(), what) {
                found.push(path);
            }
        }
    }
    found
}

fn has(bytes: &[u8], what: &[u8]) -> bool {
    bytes
        .windows(what.len())
        .any(|w| w.eq_ignore_ascii_case(what))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
