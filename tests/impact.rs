//! What a change would have done to what was decided: replayed from the running mesh,
//! from the folder of its log and from a file, with gates; and permits drafted from
//! what was denied.

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
    process::Command,
};

use serde_json::Value;
use support::{Home, LIMIT, copy, demo::Demo, git::git, wait_for};

/// One demo, asked in turn: it is dear to start.
#[test]
fn a_change_is_seen_in_what_was_decided() {
    let home = Home::new();
    let demo = Demo::start(&home, &["--rate", "200"]);
    wait_for("denied refunds and allowed lists", LIMIT, || {
        let denied = home.rows("decision:not_permitted route:/orders/*/refund")?;
        let listed = home.rows("decision:allow principal:**/reports")?;
        (denied.len() > 3 && listed.len() > 3).then_some(())
    });
    let _ = demo.pause();
    nothing_flips_without_a_change(&home, &demo);
    a_wider_permit_names_what_it_allows(&home, &demo);
    a_commit_is_candidate_and_base(&home, &demo);
    a_narrower_one_names_what_it_denies(&home, &demo);
    what_is_not_recorded_is_counted_by_cause(&home, &demo);
    what_is_not_used_is_named(&home, &demo);
    a_draft_allows_what_was_denied_and_no_more(&home, &demo);
    who_can_is_the_same_of_mesh_and_folder(&home, &demo);
}

/// No decision, or none that can be made again, shows nothing.
#[test]
fn a_gate_over_nothing_fails() {
    let home = Home::new();
    copy(&support::sample_policies(), &home.path("policies"));
    for rows in ["", "{\"class\": \"decision\"}", "{\"rows\": []}"] {
        fs::write(home.path("rows.json"), rows).unwrap();
        let dir = home.path("policies");
        let log = ["--log", "rows.json"];
        impact(&home, &dir, &log, 0);
        impact(
            &home,
            &dir,
            &[&log[..], &["--max-newly-denied", "0"]].concat(),
            5,
        );
    }
    fs::write(home.path("rows.json"), "no rows").unwrap();
    home.says(&["policy", "impact", "policies", "--log", "rows.json"], 3);
}

/// A revision without a service refuses whatever is asked of it: one that has the service and
/// allows it allows more.
#[test]
fn a_service_that_the_base_lacks_is_newly_allowed() {
    let home = Home::new();
    copy(&support::sample_policies(), &home.path("base"));
    let dir = home.path("wider");
    copy(&support::sample_policies(), &dir);
    let service = "service: shop/extra\noperations:\n  - { name: list, match: GET /things }\n";
    fs::write(dir.join("services/extra.yaml"), service).unwrap();
    let permit = "@id(\"extra\") @owner(\"o\")\npermit (\n  principal in Service::\"demo.test/shop/web\",\n  action == Action::\"GET\",\n  resource in Service::\"demo.test/shop/extra\"\n);\n";
    fs::write(dir.join("policies/extra.cedar"), permit).unwrap();
    let asked = |who: &str, id: &str| {
        serde_json::json!({
            "class": "decision", "id": id, "time": "2026-11-28T10:00:00Z",
            "decision": "not_permitted", "reason": "no_permit", "enforced": true,
            "principal": format!("spiffe://demo.test/ns/shop/sa/{who}"), "serial": "01",
            "action": "GET", "resource_type": "Operation",
            "resource": "demo.test/shop/extra/list", "service": "demo.test/shop/extra",
            "method": "GET", "host": "extra", "path": "/things",
            "source": "127.0.0.1", "source_port": 1000, "context": {},
        })
    };
    let rows = [
        asked("web", "01M8J9ADGWN9V109X7C2MB7NDS"),
        asked("reports", "01M8J9ADFCSMZJW8R8ED7QVVM0"),
    ];
    let rows = rows.map(|row| row.to_string()).join("\n");
    fs::write(home.path("rows.json"), rows).unwrap();
    let log = ["--log", "rows.json", "--against", "base"];
    let gate = |most| [&log[..], &["--max-newly-allowed", most]].concat();
    let report = impact(&home, &dir, &gate("0"), 5);
    let counts = ["newly_allowed", "unchanged", "not_replayable"].map(|side| {
        let count = report[side]["count"].as_u64();
        count.unwrap()
    });
    assert_eq!(counts, [1, 1, 0], "{report}");
    assert_eq!(report["newly_served"], 1, "{report}");
    let group = &report["newly_allowed"]["groups"][0];
    assert_eq!(
        (&group["from"], &group["policies"][0]),
        (&"shop/web".into(), &"extra".into())
    );
    impact(&home, &dir, &gate("1"), 0);
    let said = home.says(&[&["policy", "impact", "wider"][..], &log[..]].concat(), 0);
    assert!(
        said.contains(
            "1 of them of services or operations that what it is compared with does not have"
        ),
        "{said}"
    );
    // The other way it is gone.
    let report = impact(
        &home,
        &home.path("base"),
        &["--log", "rows.json", "--against", "wider"],
        0,
    );
    assert_eq!(report["broken"]["count"], 2, "{report}");
}

/// What a broad permit allows of a path that is no operation is answered with 404: one that has the
/// operation allows more.
#[test]
fn an_operation_that_the_base_lacks_is_newly_allowed() {
    let home = Home::new();
    let service = "service: shop/extra\noperations:\n  - { name: list, match: GET /things }\n";
    let permit = "@id(\"extra\") @owner(\"o\")\npermit (\n  principal in Service::\"demo.test/shop/web\",\n  action == Action::\"GET\",\n  resource in Service::\"demo.test/shop/extra\"\n);\n";
    for (name, more) in [
        ("base", ""),
        ("wider", "  - { name: admin, match: GET /admin }\n"),
    ] {
        let dir = home.path(name);
        copy(&support::sample_policies(), &dir);
        fs::write(dir.join("services/extra.yaml"), format!("{service}{more}")).unwrap();
        fs::write(dir.join("policies/extra.cedar"), permit).unwrap();
    }
    let row = serde_json::json!({
        "class": "decision", "id": "01M8J9ADGWN9V109X7C2MB7NDS", "time": "2026-11-28T10:00:00Z",
        "decision": "allow", "reason": "operation_unknown", "enforced": true,
        "principal": "spiffe://demo.test/ns/shop/sa/web", "serial": "01",
        "action": "GET", "resource_type": "Service", "policy": ["extra"],
        "resource": "demo.test/shop/extra", "service": "demo.test/shop/extra",
        "method": "GET", "host": "extra", "path": "/admin",
        "source": "127.0.0.1", "source_port": 1000, "context": {},
    });
    fs::write(home.path("rows.json"), row.to_string()).unwrap();
    let gate = ["--log", "rows.json", "--max-newly-allowed", "0"];
    let counts = |report: &Value| {
        let of = ["newly_allowed", "unchanged"].map(|side| report[side]["count"].as_u64());
        (
            of.map(Option::unwrap),
            report["newly_served"].as_u64().unwrap(),
        )
    };
    for against in [&["--against", "base"][..], &[]] {
        let more = [&gate[..], against].concat();
        let report = impact(&home, &home.path("wider"), &more, 5);
        assert_eq!(counts(&report), ([1, 0], 1), "{report}");
        let report = impact(&home, &home.path("base"), &more, 0);
        assert_eq!(counts(&report), ([0, 1], 0), "{report}");
    }
    let against = ["--log", "rows.json", "--against", "wider"];
    let report = impact(&home, &home.path("base"), &against, 0);
    assert_eq!(report["broken"]["count"], 1, "{report}");
}

/// Figures are not asserted on; that each is there, and what is refused.
#[test]
fn a_benchmark_has_every_figure() {
    let home = Home::new();
    copy(&support::sample_policies(), &home.path("policies"));
    let report = home.json(&["policy", "bench", "policies"]);
    for span in ["compile", "index", "first", "evaluated", "found"] {
        assert!(
            report[span]["cpu_ns"].as_f64().unwrap() > 0.0,
            "{span}: {report}"
        );
    }
    assert!(!report["costs"]["policies"].as_array().unwrap().is_empty());
    let said = home.says(&["policy", "bench", "policies"], 0);
    assert!(
        said.contains("slowest policies") && said.contains("CPU"),
        "{said}"
    );
    home.says(&["policy", "bench", "nowhere"], 3);
}

/// A copy of the demo's repository under another name.
fn candidate(home: &Home, demo: &Demo, name: &str, edit: impl Fn(String) -> String) -> PathBuf {
    let dir = home.path(name);
    copy(&demo.policies, &dir);
    let file = dir.join("policies/orders.cedar");
    let text = edit(fs::read_to_string(&file).unwrap());
    fs::write(&file, text).unwrap();
    dir
}

fn impact(home: &Home, dir: &Path, more: &[&str], code: i32) -> Value {
    let args = [
        &["policy", "impact", dir.to_str().unwrap(), "-o", "json"],
        more,
    ]
    .concat();
    let output = home.run(&args);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{args:?}: {}",
        support::said(&output)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn nothing_flips_without_a_change(home: &Home, demo: &Demo) {
    let gates = ["--max-newly-denied", "0", "--max-newly-allowed", "0"];
    let report = impact(home, &demo.policies, &gates, 0);
    assert_eq!(report["newly_denied"]["count"], 0, "{report}");
    assert_eq!(report["newly_allowed"]["count"], 0, "{report}");
    assert_eq!(report["other_reason"], 0, "{report}");
    let (all, unchanged) = (&report["decisions"], &report["unchanged"]);
    let lacking = report["not_replayable"]["count"].as_u64().unwrap();
    assert_eq!(
        all.as_u64().unwrap(),
        unchanged["count"].as_u64().unwrap() + lacking,
        "{report}"
    );
    assert_eq!(
        Some(all.as_u64().unwrap()),
        home.decisions(),
        "every decision is looked at"
    );
    let against = impact(home, &demo.policies, &["--against", "running"], 0);
    assert_eq!(against["unchanged"]["count"], report["unchanged"]["count"]);
    // What stays is told by caller and operation, too, the most frequent first.
    let groups = report["unchanged"]["groups"].as_array().unwrap();
    let counts: Vec<u64> = groups
        .iter()
        .map(|g| g["count"].as_u64().unwrap())
        .collect();
    assert!(counts.is_sorted_by(|a, b| a >= b), "{counts:?}");
    assert_eq!(
        unchanged["count"].as_u64(),
        Some(counts.iter().sum()),
        "{report}"
    );
    assert!(groups.iter().any(|g| g["from"] == "shop/reports"
        && g["policies"][0] == "orders-list-for-reports"
        && g["samples"].as_array().unwrap().len() == 3));
    let sampled = impact(home, &demo.policies, &["--sample", "4"], 0);
    let part = sampled["decisions"].as_u64().unwrap();
    assert!(
        part > 0 && part < all.as_u64().unwrap() / 2,
        "{part} of {all}"
    );
}

fn a_wider_permit_names_what_it_allows(home: &Home, demo: &Demo) {
    let wider = candidate(home, demo, "wider", |text| {
        let (before, permit) = text.split_once("// @id(\"orders-refund").unwrap();
        format!(
            "{before}@id(\"orders-refund{}",
            permit.replace("\n// ", "\n")
        )
    });
    let denied = home
        .rows("decision:not_permitted route:/orders/*/refund")
        .unwrap();
    let report = impact(home, &wider, &["--max-newly-allowed", "0"], 5);
    assert_eq!(report["newly_denied"]["count"], 0, "{report}");
    let group = &report["newly_allowed"]["groups"][0];
    assert_eq!(group["from"], "shop/web");
    assert_eq!(group["action"], "orders:refund");
    assert_eq!(group["policies"][0], "orders-refund-from-web");
    assert_eq!(
        group["count"].as_u64().unwrap() as usize,
        denied.len(),
        "{report}"
    );
    let sample = group["samples"][0].as_str().unwrap();
    assert!(denied.iter().any(|row| row["id"] == sample), "{sample}");
    let said = home.says(
        &["policy", "impact", "wider", "--max-newly-allowed", "0"],
        5,
    );
    assert!(
        said.contains("newly allowed") && said.contains("at most 0 may be"),
        "{said}"
    );
    let markdown = home.says(&["policy", "impact", "wider", "--format", "markdown"], 0);
    assert!(
        markdown.contains("| newly denied | newly allowed |"),
        "{markdown}"
    );

    let status = home.json(&["status"]);
    let folder = status["audit"][0]["folder"].as_str().unwrap();
    let from_folder = impact(home, &wider, &["--log", folder], 0);
    assert_eq!(
        from_folder["newly_allowed"]["count"],
        report["newly_allowed"]["count"]
    );
    let export = home.run(&["audit", "search", "last:1h", "-n", "10000", "-o", "json"]);
    fs::write(home.path("rows.json"), &export.stdout).unwrap();
    let from_file = impact(home, &wider, &["--log", "rows.json"], 0);
    assert_eq!(
        from_file["newly_allowed"]["count"],
        report["newly_allowed"]["count"]
    );
    for log in ["nowhere/x", "wider", "nonsense:1", "last:1h | count"] {
        home.says(&["policy", "impact", "wider", "--log", log], 3);
    }
}

/// Against the commit before, a change does what it does against the revision in force; and
/// a commit can be the candidate.
fn a_commit_is_candidate_and_base(home: &Home, demo: &Demo) {
    let dir = candidate(home, demo, "reviewed", |text| text);
    let git = |args: &[&str]| git(&dir, args);
    git(&["init", "--quiet", "--initial-branch=main"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "in force"]);
    let file = dir.join("policies/orders.cedar");
    let text = fs::read_to_string(&file).unwrap();
    let narrow = text.replace("demo.test/shop/reports", "demo.test/shop/inventory");
    fs::write(&file, narrow).unwrap();

    let gate = ["--max-newly-denied", "0"];
    let of = |against: &str| {
        let report = impact(
            home,
            &dir,
            &[&["--against", against], &gate[..]].concat(),
            5,
        );
        let against = report["against"].as_str().unwrap().to_owned();
        (report["newly_denied"]["count"].clone(), against)
    };
    let (by_commit, name) = of("git:main");
    assert!(name.starts_with("git:main "), "{name}");
    assert_eq!(by_commit, of("running").0);

    git(&["commit", "--quiet", "--all", "--message", "narrower"]);
    let commits = ["policy", "impact", "git:HEAD", "--against", "git:HEAD~1"];
    let out = home
        .palisade(&[&commits[..], &gate[..], &["-o", "json"]].concat())
        .current_dir(&dir)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(5), "{}", support::said(&out));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["newly_denied"]["count"], by_commit, "{report}");
    let candidate = report["candidate"].as_str().unwrap();
    assert!(candidate.starts_with("git:HEAD "), "{candidate}");
    let nowhere = ["policy", "impact", "reviewed", "--against", "git:nowhere"];
    let said = home.says(&nowhere, 3);
    assert!(said.contains("PLS2310"), "{said}");
}

fn a_narrower_one_names_what_it_denies(home: &Home, demo: &Demo) {
    let narrower = candidate(home, demo, "narrower", |text| {
        text.replace("demo.test/shop/reports", "demo.test/shop/inventory")
    });
    let report = impact(home, &narrower, &["--max-newly-denied", "0"], 5);
    let group = &report["newly_denied"]["groups"][0];
    assert_eq!(
        (&group["from"], &group["reason"]),
        (&"shop/reports".into(), &"no_permit".into())
    );
    assert_eq!(
        group["policies"][0], "orders-list-for-reports",
        "what permitted it before"
    );
    let many = report["newly_denied"]["count"].to_string();
    impact(home, &narrower, &["--max-newly-denied", &many], 0);
}

fn what_is_not_recorded_is_counted_by_cause(home: &Home, demo: &Demo) {
    let reads = candidate(home, demo, "reads", |text| {
        format!(
            "{text}\n@id(\"query\")\n@owner(\"o\")\nforbid (principal, action in Action::\"http\", resource)\nwhen {{ context.http has query && context.http.query like \"*x*\" }};\n"
        )
    });
    let report = impact(home, &reads, &[], 0);
    let cause = &report["not_replayable"]["causes"]["the record lacks context.http.query"];
    assert!(cause["count"].as_u64().unwrap() > 0, "{report}");
    let said = home.says(&["policy", "impact", "reads"], 0);
    assert!(said.contains("PLS2207"), "{said}");
}

fn a_draft_allows_what_was_denied_and_no_more(home: &Home, demo: &Demo) {
    let dir = candidate(home, demo, "drafted", |text| text);
    let args = [
        "policy",
        "suggest",
        "drafted",
        "--service",
        "orders",
        "--last",
        "1h",
    ];
    let drafted = home.json(&args);
    let patch = drafted["patch"].as_str().unwrap();
    assert!(patch.contains("Action::\"orders:refund\""), "{patch}");
    fs::write(home.path("patch"), patch).unwrap();
    let applied = Command::new("git")
        .args(["apply", "../patch"])
        .current_dir(&dir)
        .env("GIT_CEILING_DIRECTORIES", home.path(""))
        .output()
        .unwrap();
    assert!(
        applied.status.success(),
        "{}\n{patch}",
        support::said(&applied)
    );
    home.says(&["policy", "validate", "drafted"], 0);
    home.says(&["policy", "fmt", "drafted", "--check"], 0);
    let report = impact(home, &dir, &[], 0);
    assert_eq!(
        report["newly_allowed"]["count"], drafted["allows"],
        "{drafted}"
    );
    assert_eq!(drafted["also_allows"].as_u64(), Some(0), "{drafted}");
    let again = home.json(&args);
    assert_eq!(again["permits"].as_array().unwrap().len(), 0, "{again}");
}

fn what_is_not_used_is_named(home: &Home, demo: &Demo) {
    let dir = candidate(home, demo, "idle", |text| {
        format!(
            "{text}\n@id(\"idle\")\n@owner(\"o\")\npermit (\n  principal in Service::\"demo.test/shop/inventory\",\n  action == Action::\"GET\",\n  resource == Operation::\"demo.test/shop/orders/list\"\n);\n\n@id(\"shadowed\")\n@owner(\"o\")\n@mode(\"shadow\")\npermit (\n  principal in Service::\"demo.test/shop/web\",\n  action == Action::\"orders:refund\",\n  resource == Operation::\"demo.test/shop/orders/refund\"\n);\n"
        )
    });
    let report = home.json(&["policy", "unused", dir.to_str().unwrap()]);
    let matched = |id: &str| {
        let policies = report["policies"].as_array().unwrap();
        let policy = policies.iter().find(|p| p["id"] == id).unwrap();
        policy["matched"].as_u64().unwrap()
    };
    assert_eq!(matched("idle"), 0);
    assert!(matched("orders-from-web") > 0, "{report}");
    let refunds = home
        .rows("decision:not_permitted route:/orders/*/refund")
        .unwrap();
    assert_eq!(matched("shadowed"), refunds.len() as u64, "{report}");
    assert!(
        report["shorter"].is_string(),
        "90 days are more than the demo has run"
    );
    let said = home.says(&["policy", "unused", "idle"], 0);
    assert!(said.contains("PLS2205") && said.contains("idle"), "{said}");
}

fn who_can_is_the_same_of_mesh_and_folder(home: &Home, demo: &Demo) {
    let dir = demo.policies.to_str().unwrap();
    let mesh = home.json(&["who-can", "orders:refund", "orders/refund"]);
    let folder = home.json(&[
        "who-can",
        "orders:refund",
        "orders/refund",
        "--policies",
        dir,
    ]);
    let told = |answers: &Value| -> Vec<(Value, Value)> {
        let answers = answers["answers"].as_array().unwrap();
        answers
            .iter()
            .map(|a| (a["principal"].clone(), a["may"].clone()))
            .collect()
    };
    assert_eq!(told(&mesh), told(&folder));
    assert!(told(&mesh).iter().all(|(_, may)| may == "no"), "{mesh}");
    let lists = home.json(&["what-can", "reports"]);
    let lists: Vec<&Value> = lists["answers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|a| a["may"] != "no")
        .collect();
    assert!(
        lists
            .iter()
            .any(|a| a["resource"] == "demo.test/shop/orders/list"),
        "{lists:?}"
    );
    home.says(&["who-can", "orders:refnd", "orders"], 3);
}
