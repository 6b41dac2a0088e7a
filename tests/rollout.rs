//! Revisions that go to the proxies step by step, under traffic: what does harm comes back
//! by itself, what does none arrives, and every request was decided by one of the two.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{collections::BTreeSet, fs};

use serde_json::Value;
use support::{
    Home, LIMIT,
    demo::one_at_a_time,
    mesh::{Separate, pause, to_orders},
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
    let rows = home.rows("class:decision last:1h").unwrap();
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
