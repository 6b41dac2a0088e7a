//! Revisions that go to the proxies step by step, under traffic: what does harm comes back
//! by itself, what does none arrives, and every request was decided by one of the two.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use serde_json::Value;
use support::{
    Home, LIMIT,
    demo::{self, one_at_a_time},
    mesh::{Separate, pause, sent_to_orders, to_orders},
    wait_for,
};

/// Calls of web per second.
const RATE: f64 = 60.0;
/// Every phase is short, and long enough to be seen.
const PLAN: &str = "  rollout:
    shadow: 6s
    canary: [{ services: [shop/orders], for: 6s }]
    watch: 2s
    patience: 40s
    ready_within: 40s
    min_decisions: 20
    abort_on: { newly_denied: 5, p99: off }
";

/// A mesh whose PDP has this plan.
fn mesh<'h>(home: &'h Home, plan: &str) -> Separate<'h> {
    let mut mesh = Separate::ready(home);
    let config = home.path("mesh.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace(
        "  policies: policies\n",
        &format!("  policies: policies\n{plan}"),
    );
    assert!(text.contains("rollout:"));
    fs::write(config, text).unwrap();
    mesh.end("pdp");
    mesh.start("pdp");
    wait_for("both proxies at the PDP", LIMIT, || {
        let proxies = status(home)?["proxies"].as_array()?.clone();
        let connected = proxies.iter().filter(|p| p["connected"] == true);
        (connected.count() == 2).then_some(())
    });
    mesh
}

fn status(home: &Home) -> Option<Value> {
    let output = home.run(&["status", "-o", "json"]);
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    status["pdp"].get(0).cloned()
}

/// How the rollout stands, and with which exit code that is told.
fn rollout(home: &Home) -> Option<(Value, i32)> {
    let output = home.run(&["rollout", "status", "-o", "json"]);
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    status.get("phase")?;
    Some((status, output.status.code()?))
}

fn reaches(home: &Home, phase: &str) -> Value {
    wait_for(phase, LIMIT, || {
        let (status, _) = rollout(home)?;
        (status["phase"] == phase).then_some(status)
    })
}

/// Which revision a proxy enforces and tries; none while it is not connected.
fn part(status: &Value, instance: &str) -> Option<(u64, u64)> {
    let proxies = status["proxies"].as_array()?;
    let found = proxies.iter().find(|p| p["instance"] == instance)?;
    Some((found["enforces"].as_u64()?, found["tries"].as_u64()?))
}

fn edit(home: &Home, change: impl Fn(&str) -> String) {
    let file = home.path("policies/policies/orders.cedar");
    let text = fs::read_to_string(&file).unwrap();
    let changed = change(&text);
    assert_ne!(text, changed);
    fs::write(file, changed).unwrap();
}

/// Nobody may list orders any more.
fn deny_list(text: &str) -> String {
    text.replace(
        "  resource == Operation::\"demo.test/shop/orders/list\" ||\n",
        "",
    )
}

/// The shop may refund.
fn allow_refund(text: &str) -> String {
    text.replace(
        "  resource == Operation::\"demo.test/shop/orders/list\" ||\n",
        "  resource == Operation::\"demo.test/shop/orders/list\" ||\n  resource == Operation::\"demo.test/shop/orders/refund\" ||\n",
    )
}

/// Every decision of the log, once each, by the number of the revision that made it.
fn decided_by(home: &Home, at_least: u64) -> BTreeSet<u64> {
    wait_for("every decision in the log", LIMIT, || {
        home.decisions().filter(|n| *n >= at_least)
    });
    let rows = wait_for("an answer that is complete", LIMIT, || {
        home.rows("class:decision last:1h")
    });
    let ids: BTreeSet<&str> = rows.iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), rows.len(), "a request was decided twice");
    let by_policy = ["allow", "forbidden", "not_permitted"];
    let decided = rows
        .iter()
        .filter(|r| by_policy.iter().any(|word| r["decision"] == *word));
    decided.map(|r| r["sequence"].as_u64().unwrap()).collect()
}

/// Issue 4, shown by 5: in shadow, so that not one request fails of those that pass.
#[test]
fn what_flips_too_much_halts_in_shadow_and_no_request_fails() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mesh = mesh(&home, PLAN);
    mesh.start_calls(RATE);
    mesh.wait_for_calls(30);
    edit(&home, deny_list);
    let (halted, code) = wait_for("a halt", LIMIT, || {
        assert_eq!(mesh.get("/orders"), Some(200));
        let (status, code) = rollout(&home)?;
        (status["phase"] == "rolled_back").then_some((status, code))
    });
    assert_eq!(code, 5, "{halted:#}");
    assert_eq!(halted["stopped"]["by"], "gate", "{halted:#}");
    assert_eq!(halted["stopped"]["during"], "shadow", "{halted:#}");
    assert_eq!(halted["restored"], Value::Null, "nobody had enforced it");
    let candidate = halted["candidate"]["sequence"].as_u64().unwrap();
    assert_eq!(part(&halted, "orders-1"), Some((candidate - 1, 0)));

    // What would have changed is found by what it would have been.
    let flips = wait_for("flips in the log", LIMIT, || {
        let rows = home.rows("flip:newly_denied last:1h")?;
        (rows.len() > 5).then_some(rows)
    });
    for row in &flips {
        assert_eq!(row["decision"], "allow", "{row}");
        assert_eq!(row["shadow"][0], "not_permitted", "{row}");
        assert_eq!(row["shadow_sequence"], candidate, "{row}");
        assert_eq!(row["sequence"], candidate - 1, "{row}");
    }
    let id = flips[0]["id"].as_str().unwrap();
    let why = home.says(&["why", id], 0);
    assert!(why.contains("newly denied"), "{why}");
    let tally = pause(&mesh);
    assert_eq!(
        decided_by(&home, to_orders(&tally)),
        BTreeSet::from([candidate - 1]),
        "the candidate has decided nothing"
    );

    // It is told everywhere, and stays out until it is mended, also over a restart.
    let said = home.says(&["check"], 1);
    assert!(
        said.contains("PLS3300") && said.contains("newly_denied"),
        "{said}"
    );
    assert!(home.says(&["status"], 0).contains("rolled back"));
    let admin = home
        .rows("class:admin verb:rollout_halted last:1h")
        .unwrap();
    assert_eq!(admin.len(), 1, "{admin:?}");
}

/// Proxies of one service first; the PDP and that proxy are killed on the way.
#[test]
fn a_good_revision_arrives_step_by_step_also_over_restarts() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = mesh(&home, PLAN);
    mesh.start_calls(RATE);
    mesh.wait_for_calls(30);
    let before = status(&home).unwrap()["revision"]["sequence"]
        .as_u64()
        .unwrap();
    let candidate = before + 1;
    edit(&home, allow_refund);
    let shadow = reaches(&home, "shadow");
    home.says(&["rollout", "pause"], 0);
    assert_eq!(part(&shadow, "orders-1"), Some((before, candidate)));
    assert_eq!(part(&shadow, "web-1"), Some((before, candidate)));
    // Its disk has the revision in force and not the one that is tried.
    let first = pause(&mesh);
    mesh.kill("proxy-orders");
    mesh.start("proxy-orders");
    mesh.wait_until_ready();
    let enforced = support::wait_for("decisions on record", support::LIMIT, || {
        home.rows("class:decision last:1h")
    });
    assert_eq!(enforced[0]["sequence"], before, "{}", enforced[0]);
    mesh.kill("pdp");
    mesh.start("pdp");
    mesh.start_calls(RATE);
    wait_for("the PDP, which knows of the pause", LIMIT, || {
        let output = home.run(&["rollout", "resume"]);
        output.status.success().then_some(())
    });

    let canary = wait_for("a canary that has it", LIMIT, || {
        let (status, _) = rollout(&home)?;
        assert_ne!(status["phase"], "rolled_back", "{status:#}");
        let is_there = part(&status, "orders-1") == Some((candidate, before));
        (status["phase"] == "canary" && is_there).then_some(status)
    });
    assert_eq!(part(&canary, "web-1").unwrap().0, before);
    mesh.kill("pdp");
    mesh.start("pdp");
    let done = reaches(&home, "completed");
    for proxy in ["orders-1", "web-1"] {
        assert_eq!(part(&done, proxy).unwrap().0, candidate, "{proxy}");
    }
    assert!(done["newly_allowed"].as_u64().unwrap() > 0, "{done:#}");
    assert_eq!(status(&home).unwrap()["revision"]["sequence"], candidate);
    // Each start of the calls begins with the first of its six.
    let second = pause(&mesh).since(&first);
    assert_eq!(
        decided_by(&home, to_orders(&first) + to_orders(&second)),
        BTreeSet::from([before, candidate])
    );

    // Back at once: old content, a new number.
    home.says(&["rollout", "rollback"], 0);
    let restored = candidate + 1;
    wait_for("both proxies back", LIMIT, || {
        let now = status(&home)?;
        assert_eq!(now["revision"]["sequence"], restored);
        let proxies = now["proxies"].as_array()?;
        proxies
            .iter()
            .all(|p| p["sequence"] == restored)
            .then_some(())
    });
    let check = home.says(&["check"], 0);
    assert!(check.contains("PLS3309"), "{check}");
}

/// Without a shadow the canary itself shows what changes, because it tries what was before.
#[test]
fn a_canary_that_denies_too_much_goes_back_to_the_old_content() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let plan = PLAN.replace("shadow: 6s", "shadow: 0s");
    let mesh = mesh(&home, &plan);
    let before = status(&home).unwrap()["revision"]["sequence"]
        .as_u64()
        .unwrap();
    edit(&home, deny_list);
    let halted = wait_for("a halt", LIMIT, || {
        assert!(matches!(mesh.get("/orders"), Some(200 | 403)));
        let (status, _) = rollout(&home)?;
        (status["phase"] == "rolled_back").then_some(status)
    });
    assert_eq!(
        halted["stopped"]["during"], "canary 1 (shop/orders)",
        "{halted:#}"
    );
    assert_eq!(halted["restored"], before + 2);
    wait_for("orders as before", LIMIT, || {
        (mesh.get("/orders") == Some(200)).then_some(())
    });
    let decided = decided_by(&home, 1);
    assert!(
        decided.is_subset(&BTreeSet::from([before, before + 1, before + 2])),
        "{decided:?}"
    );
    let rows = wait_for("flips in the log", LIMIT, || {
        let rows = home.rows("flip:newly_denied last:1h")?;
        (rows.len() > 5).then_some(rows)
    });
    for row in rows {
        assert_eq!(row["sequence"], before + 1, "{row}");
        assert_eq!(
            (&row["decision"], &row["shadow"][0]),
            (&"not_permitted".into(), &"allow".into())
        );
    }
}

/// Signs what the folder has as revision `n`, which may be taken back to `back`, and puts it
/// where the PDP looks.
fn release(home: &Home, n: u64, back: Option<u64>) {
    let (file, number) = (format!("r{n}.palisade"), n.to_string());
    home.says(&["bundle", "build", "policies", "-f", &file], 0);
    let before = back.map(|n| format!("r{n}.palisade"));
    let mut args = vec!["bundle", "sign", &file, "--key", "ci.key"];
    args.extend(["--sequence", &number]);
    if let Some(before) = &before {
        args.extend(["--back-to", before]);
    }
    home.says(&args, 0);
    serve(home, n);
}

/// Puts a release where the PDP looks.
fn serve(home: &Home, n: u64) {
    let draft = home.path("live.new");
    fs::copy(home.path(&format!("r{n}.palisade")), &draft).unwrap();
    fs::rename(draft, home.path("live.palisade")).unwrap();
}

/// A mesh that enforces release 41, which CI has signed; nobody in it believes anybody else.
fn signed_mesh<'h>(home: &'h Home, plan: &str) -> Separate<'h> {
    const PROXIES: [&str; 2] = ["proxy-web", "proxy-orders"];
    let mut mesh = Separate::ready(home);
    let made = home.says(&["bundle", "keygen", "ci.key", "--name", "ci"], 0);
    let line = made.lines().find(|l| l.starts_with("ci ed25519:")).unwrap();
    fs::write(home.path("trusted.keys"), format!("{line}\n")).unwrap();
    release(home, 41, None);
    let trust = "  policy_trust: { keys: trusted.keys, threshold: 1 }\n";
    let source = format!("  policies: live.palisade\n{trust}{plan}");
    let config = home.path("mesh.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("  policies: policies\n", &source)).unwrap();
    for name in PROXIES {
        let config = home.path(&format!("{name}.yaml"));
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text + trust).unwrap();
    }
    for name in ["pdp"].iter().chain(&PROXIES) {
        mesh.end(name);
        mesh.start(name);
    }
    wait_for("both proxies with what CI has signed", LIMIT, || {
        let proxies = status(home)?["proxies"].as_array()?.clone();
        let has_it = |p: &&Value| p["connected"] == true && p["sequence"] == 41;
        (proxies.iter().filter(has_it).count() == 2).then_some(())
    });
    mesh.wait_until_ready();
    mesh
}

/// Issue 4, shown by 5, with numbers that the PDP cannot give: signers say what 42 may be taken
/// back to, so it reaches a canary, and comes back by itself. What they sign after it arrives
/// step by step, while PDP and proxy are killed.
#[test]
fn what_ci_has_signed_goes_back_and_arrives_under_live_traffic() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let plan = PLAN.replace("shadow: 6s", "shadow: 0s");
    let mut mesh = signed_mesh(&home, &plan);
    mesh.start_calls(RATE);
    mesh.wait_for_calls(30);
    edit(&home, deny_list);
    release(&home, 42, Some(41));
    let halted = reaches(&home, "rolled_back");
    assert_eq!(halted["stopped"]["by"], "gate", "{halted:#}");
    assert_eq!(
        halted["stopped"]["during"], "canary 1 (shop/orders)",
        "{halted:#}"
    );
    assert_eq!(halted["restored"], 41, "as CI has numbered it");
    assert_eq!(part(&halted, "orders-1"), Some((41, 0)));
    let pdp = status(&home).unwrap();
    assert_eq!(pdp["revision"]["sequence"], 41, "{pdp:#}");
    wait_for("orders as before", LIMIT, || {
        (mesh.get("/orders") == Some(200)).then_some(())
    });

    // Both remember: the one what it has, the other what it does not give out again.
    let first = pause(&mesh);
    mesh.kill("proxy-orders");
    mesh.kill("pdp");
    mesh.start("proxy-orders");
    mesh.wait_until_ready();
    mesh.start("pdp");
    wait_for("both proxies at the PDP", LIMIT, || {
        let proxies = status(&home)?["proxies"].as_array()?.clone();
        let has_it = |p: &&Value| p["connected"] == true && p["sequence"] == 41;
        (proxies.iter().filter(has_it).count() == 2).then_some(())
    });
    serve(&home, 41);
    let shown = home.json(&["bundle", "inspect", "r41.palisade"]);
    let digest = &shown["digest"].as_str().unwrap()[..8];
    wait_for("what is in force, at the source", LIMIT, || {
        (status(&home)?["sources"][0]["wanted"] == *digest).then_some(())
    });
    serve(&home, 42);
    wait_for("a refusal of what was taken back", LIMIT, || {
        let said = support::said(&home.run(&["status"]));
        said.contains("PLS3004").then_some(())
    });

    mesh.start_calls(RATE);
    edit(&home, |text| {
        allow_refund(&text.replace(
            "when\n{\n",
            "when\n{\n  resource == Operation::\"demo.test/shop/orders/list\" ||\n",
        ))
    });
    release(&home, 43, Some(41));
    wait_for("a canary that has it", LIMIT, || {
        let (status, _) = rollout(&home)?;
        (part(&status, "orders-1") == Some((43, 41))).then_some(())
    });
    mesh.kill("pdp");
    mesh.start("pdp");
    let done = reaches(&home, "completed");
    for proxy in ["orders-1", "web-1"] {
        assert_eq!(part(&done, proxy).unwrap().0, 43, "{proxy}");
    }
    let second = pause(&mesh).since(&first);
    let decided = decided_by(&home, to_orders(&first) + to_orders(&second));
    assert!(
        decided.is_subset(&BTreeSet::from([1, 41, 42, 43])),
        "{decided:?}"
    );
    assert!(
        decided.contains(&42) && decided.contains(&43),
        "{decided:?}"
    );

    // Back at once, to the number that was signed, on both; and no further.
    home.says(&["rollout", "rollback"], 0);
    wait_for("both proxies back", LIMIT, || {
        let now = status(&home)?;
        assert_eq!(now["revision"]["sequence"], 41);
        let proxies = now["proxies"].as_array()?;
        proxies.iter().all(|p| p["sequence"] == 41).then_some(())
    });
    let further = support::said(&home.run(&["rollout", "rollback"]));
    assert!(further.contains("PLS3102"), "{further}");
}

/// An application in which a refund goes wrong: it gives this status, after this long.
fn refunding(status: u16, pause: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || answer(&stream, status, pause));
        }
    });
    address
}

/// Answers one request after the other, until the other side has gone.
fn answer(stream: &TcpStream, status: u16, pause: Duration) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim() {
                "" => break,
                line => head.push(line.to_ascii_lowercase()),
            }
        }
        let len = head.iter().find_map(|l| l.strip_prefix("content-length:"));
        let len: usize = len.map_or(0, |len| len.trim().parse().unwrap());
        assert!(!head.iter().any(|l| l.starts_with("transfer-encoding")));
        reader.read_exact(&mut vec![0; len]).ok()?;
        let status = match head.first()?.contains("/refund ") {
            true => {
                thread::park_timeout(pause);
                status
            }
            false => 200,
        };
        let answer = format!("HTTP/1.1 {status} -\r\ncontent-length: 2\r\n\r\nok");
        let mut writer = stream;
        writer.write_all(answer.as_bytes()).ok()?;
    }
}

/// A rollout of the permit to refund, where `app` answers for orders; how it was stopped.
fn refunds_go_wrong(plan: &str, app: SocketAddr, rate: f64, calls: u64) -> Value {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = mesh(&home, plan);
    let config = home.path("proxy-orders.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let own = format!("upstream: \"{}\"", mesh.app("orders"));
    assert!(text.contains(&own));
    fs::write(&config, text.replace(&own, &format!("upstream: \"{app}\""))).unwrap();
    mesh.end("proxy-orders");
    mesh.start("proxy-orders");
    mesh.wait_until_ready();
    let before = status(&home).unwrap()["revision"]["sequence"]
        .as_u64()
        .unwrap();
    mesh.start_calls(rate);
    for _ in 0..calls / 100 {
        mesh.wait_for_calls(100);
    }
    edit(&home, allow_refund);
    let halted = wait_for("a halt", LIMIT * 3, || {
        assert_eq!(mesh.get("/orders"), Some(200));
        let (status, _) = rollout(&home)?;
        (status["phase"] == "rolled_back").then_some(status)
    });
    assert_eq!(halted["stopped"]["by"], "gate", "{halted:#}");
    assert_eq!(
        halted["stopped"]["during"], "canary 1 (shop/orders)",
        "{halted:#}"
    );
    assert_eq!(halted["restored"], before + 2);
    assert_eq!(part(&halted, "orders-1"), Some((before + 2, 0)));
    // Nothing was lost, and each was decided by one of the three.
    demo::pause(mesh.app("web"));
    let tally = demo::settled(mesh.app("web"));
    assert_eq!(tally.failed, 0, "{tally:?}");
    let decided = decided_by(&home, sent_to_orders(&tally));
    let three = BTreeSet::from([before, before + 1, before + 2]);
    assert!(decided.is_subset(&three), "{decided:?}");
    assert!(decided.contains(&(before + 1)), "{decided:?}");
    halted
}

/// Issue 4, shown by 5: what the new revision lets pass is answered with 500.
#[test]
fn a_canary_whose_requests_fail_goes_back() {
    let plan = PLAN
        .replace("shadow: 6s", "shadow: 0s")
        .replace("for: 6s", "for: 5m");
    let app = refunding(500, Duration::ZERO);
    let halted = refunds_go_wrong(&plan, app, RATE, 100);
    let why = halted["stopped"]["why"].as_str().unwrap();
    assert!(why.starts_with("server_errors: "), "{why}");
}

/// Issue 4, shown by 5: what the new revision lets pass takes far longer than what the old one
/// did, once there are a thousand of each.
#[test]
fn a_canary_whose_requests_are_slow_goes_back() {
    let plan = PLAN
        .replace("shadow: 6s", "shadow: 0s")
        .replace("for: 6s", "for: 5m")
        .replace("p99: off", "p99: 2");
    let app = refunding(201, Duration::from_millis(500));
    let halted = refunds_go_wrong(&plan, app, 250.0, 3_000);
    let why = halted["stopped"]["why"].as_str().unwrap();
    assert!(why.starts_with("p99: "), "{why}");
}

/// People decide: a folder beside the source, a pause, a promotion, an abort.
#[test]
fn people_start_hurry_and_stop_a_rollout() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mesh = Separate::ready(&home);
    support::copy(&support::sample_policies(), &home.path("next"));
    let file = home.path("next/policies/orders.cedar");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, allow_refund(&text)).unwrap();

    let none = home.says(&["rollout", "pause"], 1);
    assert!(none.contains("PLS3301"), "{none}");
    let nothing = home.says(&["rollout", "start"], 3);
    assert!(nothing.contains("PLS3302"), "{nothing}");
    let unknown = home.says(&["rollout", "start", "99"], 3);
    assert!(unknown.contains("PLS3303"), "{unknown}");
    let wrong = home.says(
        &["rollout", "start", "next", "--canary", "svc=shop/order"],
        3,
    );
    assert!(
        wrong.contains("PLS3304") && wrong.contains("shop/orders"),
        "{wrong}"
    );

    let args = ["next", "--shadow", "10m", "--canary", "svc=shop/orders,50%"];
    let plan = home.says(&[&["rollout", "plan"], &args[..]].concat(), 0);
    assert!(plan.contains("1 policy changed: orders-from-web"), "{plan}");
    assert!(plan.contains("canary 2 (50%)"), "{plan}");
    home.says(&[&["rollout", "start"], &args[..]].concat(), 0);
    let busy = home.says(&[&["rollout", "start"], &args[..]].concat(), 1);
    assert!(busy.contains("PLS3305"), "{busy}");
    reaches(&home, "shadow");
    home.says(&["rollout", "pause"], 0);
    let check = home.says(&["check"], 0);
    assert!(check.contains("PLS3310"), "{check}");
    home.says(&["rollout", "resume"], 0);
    let again = home.says(&["rollout", "resume"], 1);
    assert!(again.contains("PLS3306"), "{again}");
    home.says(&["rollout", "promote"], 0);
    wait_for("the canary has it", LIMIT, || {
        let (status, _) = rollout(&home)?;
        (part(&status, "orders-1")?.0 == 2).then_some(())
    });
    home.says(&["rollout", "abort"], 0);
    let back = reaches(&home, "rolled_back");
    assert_eq!(back["stopped"]["by"], "aborted", "{back:#}");
    assert_eq!(back["restored"], 3);
    assert_eq!(part(&back, "orders-1").unwrap().0, 3);
    assert_eq!(rollout(&home).unwrap().1, 0, "somebody wanted that");
    assert_eq!(mesh.get("/orders"), Some(200));
    let rows = wait_for("records of it", LIMIT, || {
        let rows = home.rows("class:admin verb:rollout_* last:1h")?;
        let back = |r: &Value| r["verb"] == "rollout_rolled_back";
        rows.iter().any(back).then_some(rows)
    });
    for (verb, actor) in [
        ("rollout_planned", "uid:"),
        ("rollout_shadow", "spiffe://demo.test/palisade/pdp"),
        ("rollout_paused", "uid:"),
        ("rollout_resumed", "uid:"),
        ("rollout_canary", "uid:"),
        ("rollout_halted", "uid:"),
    ] {
        let row = rows.iter().find(|r| r["verb"] == verb);
        let row = row.unwrap_or_else(|| panic!("{verb}: {rows:?}"));
        assert!(row["actor"].as_str().unwrap().starts_with(actor), "{row}");
    }
}
