//! The first minutes of somebody who writes policies, all offline.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::fs;

use support::Home;

/// What `init` writes passes everything without an edit.
#[test]
fn a_new_repository_passes_its_own_tests() {
    let home = Home::new();
    let said = home.says(&["init", "mine"], 0);
    assert!(said.contains("wrote 6 files to mine"), "{said}");
    home.says(&["policy", "validate", "mine"], 0);
    home.says(&["policy", "test", "mine"], 0);
    home.says(&["policy", "fmt", "--check", "mine"], 0);
    let report = home.json(&["policy", "test", "mine"]);
    let results = report["results"].as_array().unwrap();
    assert!(!results.is_empty());
    assert!(results.iter().all(|r| r["passed"] == true), "{report:#}");
    let can = ["can", "web", "GET", "orders/orders", "--policies", "mine"];
    let answer = home.json(&can);
    assert_eq!(answer["explanation"]["verdict"], "allow");
    let said = home.says(&["init", "mine"], 1);
    assert!(said.contains("PLS9111"), "{said}");
}

/// In the folder that one stands in, nothing has to be named.
#[test]
fn the_working_folder_is_the_default() {
    let home = Home::new();
    fs::create_dir(home.path("empty")).unwrap();
    let here = |args: &[&str]| {
        let mut command = home.palisade(args);
        command.current_dir(home.path("empty")).output().unwrap()
    };
    for args in [
        &["init"][..],
        &["policy", "validate"],
        &["policy", "test"],
        &["policy", "fmt", "--check"],
        &["can", "web", "GET", "orders/orders", "--why"],
    ] {
        let output = here(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            support::said(&output)
        );
    }
}

/// 3 for what is not valid, 4 for tests that fail; both name the place.
#[test]
fn mistakes_have_exit_codes_and_places() {
    let home = Home::new();
    home.says(&["init", "mine"], 0);
    let file = home.path("mine/policies/orders.cedar");
    let good = fs::read_to_string(&file).unwrap();

    fs::write(&file, good.replace("permit", "forbid")).unwrap();
    let said = home.says(&["policy", "test", "mine"], 4);
    assert!(said.contains("tests/orders.yaml"), "{said}");
    let report = home.json(&["policy", "test", "mine"]);
    assert!(
        report.to_string().contains("\"passed\":false"),
        "{report:#}"
    );

    fs::write(&file, good.replace("permit", "permitt")).unwrap();
    for command in ["validate", "test"] {
        let said = home.says(&["policy", command, "mine"], 3);
        assert!(said.contains("policies/orders.cedar"), "{said}");
        assert!(said.contains("permitt"), "{said}");
        assert!(said.contains("PLS1100"), "{said}");
    }
    let found = home.json(&["policy", "validate", "mine"]);
    assert_eq!(found["diagnostics"][0]["code"], "PLS1100");

    fs::write(&file, format!("\n\n\n{good}")).unwrap();
    home.says(&["policy", "validate", "mine"], 0);
    let output = home.run(&["policy", "fmt", "--check", "mine"]);
    assert!(!output.status.success(), "{}", support::said(&output));
    home.says(&["policy", "fmt", "mine"], 0);
    home.says(&["policy", "fmt", "--check", "mine"], 0);

    let said = home.says(&["policy", "validate", "nowhere"], 3);
    assert!(said.contains("PLS1001"), "{said}");
    home.says(&["no-such-command"], 2);
}

#[test]
fn codes_are_explained_offline() {
    let home = Home::new();
    for code in ["PLS1103", "pls1103", "1103"] {
        let said = home.says(&["explain", code], 0);
        assert!(
            said.contains("Unknown action") && said.contains("fix  "),
            "{said}"
        );
    }
    assert_eq!(home.json(&["explain", "PLS1103"])["code"], "PLS1103");
    let all = home.says(&["explain"], 0);
    assert!(all.lines().count() > 100);
    assert!(home.json(&["explain"]).as_array().unwrap().len() > 100);
    let said = home.says(&["explain", "PLS1193"], 1);
    assert!(said.contains("PLS9110"), "{said}");
}

#[test]
fn a_newcomer_is_told_three_things() {
    let home = Home::new();
    let said = home.says(&[], 0);
    for next in ["palisade demo", "palisade init", "palisade --help"] {
        assert!(said.contains(next), "{said}");
    }
    let help = home.says(&["--help"], 0);
    for command in ["demo", "init", "can", "why", "audit", "identity", "status"] {
        assert!(help.contains(command), "{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = home.says(&["completion", shell], 0);
        assert!(script.contains("palisade"), "{shell}");
    }
    // Without a mesh, a question about one says how to get one.
    let said = home.says(&["status"], 7);
    assert!(said.contains("palisade demo"), "{said}");
}

/// Every form of every checking command is what its reader takes, on the screen and in a
/// file at once.
#[test]
fn what_is_found_is_told_in_the_form_that_ci_reads() {
    let home = Home::new();
    home.says(&["init", "mine"], 0);
    let file = home.path("mine/policies/orders.cedar");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        good.replace("Action::\"http:read\"", "Action::\"http:rea\""),
    )
    .unwrap();
    let both = [
        "policy", "validate", "mine", "--format", "github", "--report",
    ];
    let said = home.says(&[&both[..], &["sarif=found.sarif"]].concat(), 3);
    let place = "::error file=mine/policies/orders.cedar,line=5,endLine=5,col=13,endColumn=31,title=PLS1103::";
    assert!(said.contains(place), "{said}");
    let sarif = fs::read_to_string(home.path("found.sarif")).unwrap();
    let sarif: serde_json::Value = serde_json::from_str(&sarif).unwrap();
    assert_eq!(sarif["runs"][0]["results"][0]["ruleId"], "PLS1103");
    let output = home.run(&["policy", "test", "mine", "--format", "gitlab"]);
    let issues: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(issues[0]["location"]["path"], "mine/policies/orders.cedar");

    fs::write(&file, format!("\n\n\n{good}")).unwrap();
    let said = home.says(
        &["policy", "fmt", "--check", "mine", "--format", "markdown"],
        1,
    );
    assert!(said.contains("\n<!-- palisade policy fmt -->\n"), "{said}");
    assert!(said.contains("`mine/policies/orders.cedar:1`"), "{said}");

    fs::write(&file, good.replace("permit", "forbid")).unwrap();
    let said = home.says(&["policy", "test", "mine", "--format", "junit"], 4);
    assert!(
        said.contains("failures=\"2\"") && said.contains("nobody refunds yet"),
        "{said}"
    );
    let said = home.says(&["policy", "test", "mine", "--format", "plain"], 4);
    assert!(
        said.contains("\npalisade policy test: 2 errors.\n4 cases, 2 failed.\n"),
        "{said}"
    );

    let said = home.says(
        &[
            "policy",
            "validate",
            "mine",
            "--report",
            "json=no/such/folder",
        ],
        1,
    );
    assert!(said.contains("PLS2030"), "{said}");
    home.says(&["policy", "validate", "mine", "--report", "sarf=x"], 2);
}

/// The job summary is appended to what the step wrote before.
#[test]
fn github_gets_a_summary_of_the_job() {
    let home = Home::new();
    home.says(&["init", "mine"], 0);
    let summary = home.path("summary.md");
    fs::write(&summary, "before\n").unwrap();
    let mut command = home.palisade(&["policy", "test", "mine", "--format", "github"]);
    let output = command
        .env("GITHUB_STEP_SUMMARY", &summary)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", support::said(&output));
    let text = fs::read_to_string(&summary).unwrap();
    assert!(
        text.starts_with("before\n<!-- palisade policy test -->\n"),
        "{text}"
    );
    assert!(text.contains("4 cases, all passed"), "{text}");
}
