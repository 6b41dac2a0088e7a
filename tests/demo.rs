//! The demo, as somebody meets it who has just built the binary.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::fs;

use serde_json::Value;
use support::{
    Home, LIMIT,
    demo::{Demo, SHOP, one_at_a_time},
    runs, wait_for,
};

/// Every question is answered from a second process that is told no address.
#[test]
fn a_second_terminal_asks_without_an_address() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let demo = Demo::start(&home, &[]);
    println!("ready after {:?}", demo.ready_after);
    let denied = wait_for("a denied refund", LIMIT, || {
        let rows = home.rows("decision:not_permitted route:/orders/*/refund")?;
        rows.first().cloned()
    });
    ask_about_policy(&home);
    ask_why(&home, denied["id"].as_str().unwrap());
    ask_the_log(&home, denied["id"].as_str().unwrap());
    ask_about_identities(&home);
    ask_how_it_stands(&home);
}

fn ask_about_policy(home: &Home) {
    let refund = ["can", "web", "POST", "orders/42/refund"];
    let answer = home.json(&[&refund[..], &["--why"]].concat());
    assert_eq!(answer["explanation"]["verdict"], "not_permitted");
    assert_eq!(answer["explanation"]["nearest"][0]["id"], "orders-from-web");
    let said = home.says(&[&refund[..], &["--why"]].concat(), 0);
    assert!(said.contains("orders-from-web"), "{said}");
    assert!(said.contains("running mesh demo"), "{said}");
    home.says(&[&refund[..], &["--exit-code"]].concat(), 6);
    let allowed = home.json(&["can", "web", "GET", "orders/orders"]);
    assert_eq!(allowed["explanation"]["verdict"], "allow");
    let said = home.says(&["can", "nobody", "GET", "orders/orders"], 3);
    assert!(said.contains("nobody"), "{said}");
}

/// Other policies may decide otherwise: what was decided stays first.
fn ask_why_by_other_policies(home: &Home, id: &str) {
    let other = home.path("other");
    support::copy(&home.path("palisade-demo/policies"), &other);
    let orders = other.join("policies/orders.cedar");
    let text = fs::read_to_string(&orders).unwrap();
    let (before, refund) = text.split_once("// @id(").unwrap();
    let refund = refund.replace("\n// ", "\n");
    fs::write(&orders, format!("{before}@id({refund}")).unwrap();
    let said = home.says(&["why", id, "--policies", other.to_str().unwrap()], 0);
    let lines: Vec<&str> = said.lines().skip(1).collect();
    assert!(lines[0].starts_with("DENY"), "{said}");
    assert!(
        lines[1].starts_with("ALLOW") && lines[1].contains("instead of the revision that decided"),
        "{said}"
    );
    assert!(
        said.contains("permitted by orders-refund-from-web"),
        "{said}"
    );
}

fn ask_why(home: &Home, id: &str) {
    let whole = home.json(&["why", id]);
    assert_eq!(whole["exact"], true);
    assert_eq!(whole["record"]["id"], id);
    assert_eq!(whole["explanation"]["verdict"], "not_permitted");
    ask_why_by_the_first_half(home);
    ask_why_by_other_policies(home, id);
    let said = home.says(&["why", id], 0);
    assert!(said.contains("policies/orders.cedar"), "{said}");
    let serial = whole["record"]["serial"].as_str().unwrap();
    assert!(said.contains(&format!("certificate {serial}")), "{said}");
    let said = home.says(&["why", &id[..6]], 3);
    assert!(said.contains("PLS7110"), "{said}");
    assert!(said.lines().count() < 9, "{said}");
    let said = home.says(&["why", "01ARZ3NDEKTSV4RRFFQ69G5FAV"], 1);
    assert!(said.contains("PLS"), "{said}");
}

/// The first half of an id is its millisecond and what one proxy began it with, so it
/// is enough unless that proxy recorded twice in that millisecond.
fn ask_why_by_the_first_half(home: &Home) {
    wait_for("a decision with a millisecond of its own", LIMIT, || {
        let rows = home.rows("decision:not_permitted")?;
        rows.iter().find_map(|row| {
            let id = row["id"].as_str().unwrap();
            let out = home.run(&["why", &id[..14], "-o", "json"]);
            let whole: Value = serde_json::from_slice(&out.stdout).unwrap();
            match out.status.code() {
                Some(0) => assert_eq!(whole["record"]["id"], id),
                _ => assert_eq!(whole["diagnostics"][0]["code"], "PLS7110", "{whole}"),
            }
            out.status.success().then_some(())
        })
    });
}

fn ask_the_log(home: &Home, id: &str) {
    let rows = wait_for("a whole answer", LIMIT, || home.rows("decision:deny"));
    assert!(rows.iter().any(|r| r["id"] == id));
    assert!(rows.iter().all(|r| r["decision"] != "allow"));
    let said = home.says(&["audit", "search", "decision:deny"], 0);
    assert!(said.contains("DENY"), "{said}");
    let said = home.says(&["audit", "search", "decisoin:deny"], 3);
    assert!(said.contains("did you mean `decision:`?"), "{said}");
    let shown = home.json(&["audit", "show", id]);
    assert_eq!(shown["rows"][0]["id"], id);
    home.says(&["audit", "show", id], 0);
    let tail = home.run(&["audit", "tail", "-n", "3", "-o", "json"]);
    let lines: Vec<Value> = String::from_utf8_lossy(&tail.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|l| l["class"] == "decision"), "{lines:?}");
    let said = home.says(&["audit", "tail", "-n", "3"], 0);
    assert_eq!(
        said.matches("ALLOW").count() + said.matches("DENY").count(),
        3
    );
    let report = home.json(&["audit", "verify"]);
    assert_eq!(report["findings"], serde_json::json!([]));
    assert!(report["records"].as_u64().unwrap() > 0);
    let said = home.says(&["audit", "verify"], 0);
    assert!(said.contains("verified"), "{said}");
}

fn ask_about_identities(home: &Home) {
    let listed = home.json(&["identity", "list"]);
    let ids: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["spiffe_id"].as_str().unwrap())
        .collect();
    for name in SHOP {
        let id = format!("spiffe://demo.test/ns/shop/sa/{name}");
        assert!(ids.contains(&id.as_str()), "{ids:?}");
        let shown = home.json(&["identity", "show", name]);
        assert_eq!(shown[0]["spiffe_id"], id.as_str());
    }
    assert!(home.says(&["identity", "list"], 0).contains("sa/web"));
    assert!(
        home.says(&["identity", "show", "web"], 0)
            .contains("unix:path:")
    );
    let said = home.says(&["identity", "show", "wbe"], 1);
    assert!(said.contains("PLS4301"), "{said}");
}

fn ask_how_it_stands(home: &Home) {
    let status = home.json(&["status"]);
    assert_eq!(
        status["processes"].as_array().unwrap().len(),
        1 + SHOP.len()
    );
    assert_eq!(status["pdp"][0]["revision"]["sequence"], 1);
    assert_eq!(
        status["pdp"][0]["proxies"].as_array().unwrap().len(),
        SHOP.len()
    );
    assert!(home.says(&["status"], 0).contains("5/5 proxies in sync"));
    let facts = home.json(&["check"]);
    let wrong = |f: &&Value| f["state"] != "ok";
    assert_eq!(facts.as_array().unwrap().iter().find(wrong), None);
    assert!(home.says(&["check"], 0).contains("everything is in order"));
}

/// Ctrl-C ends every process and removes every folder.
#[test]
fn ctrl_c_leaves_nothing_behind() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut demo = Demo::start(&home, &[]);
    let children = demo.running.children();
    assert_eq!(children.len(), 2 * SHOP.len());
    assert!(demo.running.interrupt().success());
    assert_eq!(children.into_iter().filter(|c| runs(*c)).count(), 0);
    assert!(demo.running.printed().contains("is gone"));
    drop(demo);
    let left = |folder: &str| -> Vec<_> {
        let entries = fs::read_dir(home.path(folder)).unwrap();
        entries.map(|e| e.unwrap().file_name()).collect()
    };
    assert_eq!(left("run/palisade"), [] as [&str; 0]);
    let mut here = left(".");
    here.sort();
    assert_eq!(here, ["demo.log", "run"]);
    let said = home.says(&["status"], 7);
    assert!(said.contains("PLS9101"), "{said}");
}

/// Policies that somebody has edited are theirs: a demo that found the folder leaves it.
#[test]
fn a_folder_that_was_there_is_left_there() {
    let _turn = one_at_a_time();
    let home = Home::new();
    support::copy(
        &support::sample_policies(),
        &home.path("palisade-demo/policies"),
    );
    let mut demo = Demo::start(&home, &["--rate", "0"]);
    assert!(demo.running.end().success());
    assert!(home.path("palisade-demo/policies/palisade.yaml").exists());
}

/// Two demos do not disturb each other, and `--mesh` says which is meant.
#[test]
fn two_at_once_have_different_names() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let first = Demo::start_as(&home, "first", &["--rate", "4"]);
    let mut second = Demo::start_as(&home, "second", &["--rate", "4"]);
    let said = home.says(&["status"], 7);
    assert!(said.contains("PLS9102"), "{said}");
    assert!(said.contains("demo, demo-2"), "{said}");
    for (name, demo) in [("demo", &first), ("demo-2", &second)] {
        let status = home.json(&["status", "--mesh", name]);
        let pid = status["processes"][0]["pid"].as_u64();
        assert_eq!(pid, Some(demo.running.id().into()));
        assert_eq!(status["processes"].as_array().unwrap().len(), 6);
    }
    let said = home.says(&["status", "--mesh", "dmeo"], 7);
    assert!(said.contains("did you mean `demo`?"), "{said}");
    assert!(second.running.interrupt().success());
    let only = home.json(&["status"]);
    assert_eq!(only["processes"][0]["mesh"], "demo");
    let facts = home.says(&["check"], 0);
    assert!(facts.contains("everything is in order"), "{facts}");
}

#[test]
fn an_address_that_others_reach_is_refused() {
    let home = Home::new();
    for address in ["0.0.0.0", "::", "192.0.2.1"] {
        let said = home.says(&["demo", "--address", address], 3);
        assert!(said.contains("PLS9001"), "{said}");
    }
}

/// A supervisor that dies without a word takes its children with it.
#[test]
fn kill_9_of_the_supervisor_ends_its_children() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut demo = Demo::start(&home, &[]);
    let children = demo.running.children();
    assert_eq!(children.len(), 2 * SHOP.len());
    demo.running.kill();
    wait_for("the end of every child", LIMIT, || {
        children.iter().all(|c| !runs(*c)).then_some(())
    });
    // What it left lying about does not hinder the next.
    let next = Demo::start_as(&home, "next", &[]);
    assert!(home.says(&["status"], 0).contains("5/5 proxies in sync"));
    drop(next);
}
