//! The first minutes of somebody who writes policies, all offline.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::fs;

use support::{Home, git::git};

/// What `init` writes passes everything without an edit.
#[test]
fn a_new_repository_passes_its_own_tests() {
    let home = Home::new();
    let said = home.says(&["init", "mine"], 0);
    assert!(said.contains("wrote 15 files to mine"), "{said}");
    home.says(&["policy", "validate", "mine"], 0);
    home.says(&["policy", "lint", "--fail-on", "warn", "mine"], 0);
    home.says(&["policy", "test", "--coverage=100%", "mine"], 0);
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
        said.contains("failures=\"5\"") && said.contains("a refund needs a change"),
        "{said}"
    );
    let said = home.says(&["policy", "test", "mine", "--format", "plain"], 4);
    assert!(
        said.contains("\npalisade policy test: 5 errors.\n9 cases, 5 failed.\n"),
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
    assert!(text.contains("9 cases, all passed"), "{text}");
}

/// The lines of a script in YAML, `run: |` or `- |`, that begins behind `after`.
fn script(yaml: &str, after: &str) -> String {
    let rest = yaml
        .split_once(after)
        .unwrap()
        .1
        .split_once("|\n")
        .unwrap()
        .1;
    let indent = rest.len() - rest.trim_start().len();
    let lines = rest
        .lines()
        .take_while(|l| l.is_empty() || l.starts_with(&" ".repeat(indent)));
    lines
        .map(|l| l.get(indent..).unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Runs a script of a CI file in `dir`, with the program in PATH.
fn run_script(home: &Home, dir: &str, text: &str, env: &[(&str, &str)]) -> std::process::Output {
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_palisade"))
        .parent()
        .unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = std::process::Command::new("bash");
    command.args(["-c", text]).current_dir(home.path(dir));
    command
        .env("PATH", path)
        .envs(env.iter().copied())
        .env_remove("GITHUB_STEP_SUMMARY");
    command.output().unwrap()
}

/// The script of a step of the action.
fn step(action: &str, name: &str) -> String {
    script(action, &format!("- name: {name}\n"))
}

/// What `init` writes for GitHub is the action of deploy/ci. Each check is a step, for GitHub
/// shows ten annotations of a step; each passes and fails as it should.
#[test]
fn the_github_action_checks_the_repository() {
    let home = Home::new();
    home.says(&["init", "mine"], 0);
    let action = fs::read_to_string(home.path("mine/.github/actions/palisade/action.yml")).unwrap();
    let env = [
        ("DIR", "."),
        ("FAIL_ON", "warn"),
        ("COVERAGE", "100"),
        ("REPORTS", "reports"),
    ];
    let run = |name: &str| run_script(&home, "mine", &step(&action, name), &env);
    let checks = ["Layout", "Lint", "Test"];
    for name in checks {
        let output = run(name);
        assert!(
            output.status.success(),
            "{name}: {}",
            support::said(&output)
        );
    }
    for report in ["lint.sarif", "tests.junit.xml"] {
        assert!(
            home.path(&format!("mine/reports/{report}")).exists(),
            "{report}"
        );
    }
    let file = home.path("mine/policies/orders.cedar");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.replace("@owner(\"team-orders\")\n", "")).unwrap();
    let output = run("Lint");
    assert_eq!(output.status.code(), Some(9), "{}", support::said(&output));
    let said = support::said(&output);
    assert!(
        said.contains("::warning file=policies/orders.cedar,line=2"),
        "{said}"
    );
    // The checks behind one that fails are made all the same, but not without the program.
    let condition = "if: ${{ !cancelled() && steps.program.outcome != 'failure' }}\n";
    assert_eq!(action.matches(condition).count(), checks.len());
    // An input is data, whatever it looks like.
    let hostile = [
        ("DIR", "$(touch pwned); echo ::error::x"),
        env[1],
        env[2],
        env[3],
    ];
    for name in checks {
        let output = run_script(&home, "mine", &step(&action, name), &hostile);
        assert!(!output.status.success(), "{name}");
    }
    assert!(!home.path("mine/pwned").exists());
}

/// A clone in which a branch adds a permit, and where its `main` was fetched from.
fn pull_request(home: &Home, init: &[&str]) {
    home.says(&[&["init", "origin"], init].concat(), 0);
    let git = |dir: &str, args: &[&str]| git(&home.path(dir), args);
    git("origin", &["init", "--quiet", "--initial-branch=main"]);
    git("origin", &["add", "."]);
    git("origin", &["commit", "--quiet", "--message", "first"]);
    git("", &["clone", "--quiet", "origin", "mine"]);
    git("mine", &["switch", "--quiet", "--create", "wider"]);
    let more = "\n@id(\"orders-delete\")\n@owner(\"team-orders\")\npermit (\n  \
        principal in Service::\"example.test/shop/web\",\n  action == Action::\"DELETE\",\n  \
        resource in Service::\"example.test/shop/orders\"\n);\n";
    let domain = fs::read_to_string(home.path("mine/palisade.yaml")).unwrap();
    let domain = domain
        .lines()
        .find_map(|l| l.strip_prefix("trust_domain: "))
        .unwrap();
    let file = home.path("mine/policies/orders.cedar");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + &more.replace("example.test", domain)).unwrap();
    git(
        "mine",
        &["commit", "--quiet", "--all", "--message", "wider"],
    );
    fs::write(home.path("mine/rows.json"), "").unwrap();
}

/// What the branch has and the change has not would pass for what the change takes away: the
/// change is compared once it has it, or with what it was merged into.
#[test]
fn a_change_without_what_the_branch_has_is_not_compared() {
    let home = Home::new();
    pull_request(&home, &[]);
    let action = fs::read_to_string(home.path("mine/.github/actions/palisade/action.yml")).unwrap();
    let outputs = home.path("outputs").display().to_string();
    let base = [("DIR", "."), ("BASE", "main"), ("GITHUB_OUTPUT", &outputs)];
    let found = || {
        let _ = fs::remove_file(home.path("outputs"));
        let output = run_script(&home, "mine", &step(&action, "Base"), &base);
        let told = fs::read_to_string(&outputs).unwrap_or_default();
        let commit = told.trim().strip_prefix("commit=").map(str::to_owned);
        assert_eq!(
            output.status.success(),
            commit.is_some(),
            "{}",
            support::said(&output)
        );
        commit
    };
    let git = |dir: &str, args: &[&str]| git(&home.path(dir), args);
    git(
        "origin",
        &["commit", "--quiet", "--allow-empty", "--message", "more"],
    );
    assert_eq!(found(), None);
    // As the change merges the branch: the whole branch is there.
    let change = git("mine", &["rev-parse", "HEAD"]);
    git("mine", &["merge", "--quiet", "--no-edit", "FETCH_HEAD"]);
    let tip = git("origin", &["rev-parse", "HEAD"]);
    assert_eq!(found().as_deref(), Some(tip.as_str()));
    // As GitHub merges the change into the branch, which has gone on since.
    git("mine", &["checkout", "--quiet", "--detach", &tip]);
    git(
        "mine",
        &["merge", "--quiet", "--no-edit", "--no-ff", &change],
    );
    git(
        "origin",
        &["commit", "--quiet", "--allow-empty", "--message", "later"],
    );
    assert_eq!(found().as_deref(), Some(tip.as_str()));
}

/// On a pull request the action compares it with the branch that it goes to.
#[test]
fn the_github_action_compares_a_pull_request_with_its_base() {
    let home = Home::new();
    pull_request(&home, &[]);
    let action = fs::read_to_string(home.path("mine/.github/actions/palisade/action.yml")).unwrap();
    // A change must not make the runner ask whom it names, unless somebody wanted that.
    assert!(!action.contains("default: --fetch"), "{action}");
    let outputs = home.path("outputs").display().to_string();
    let base = [("DIR", "."), ("BASE", "main"), ("GITHUB_OUTPUT", &outputs)];
    let output = run_script(&home, "mine", &step(&action, "Base"), &base);
    assert!(output.status.success(), "{}", support::said(&output));
    let commit = fs::read_to_string(&outputs).unwrap();
    let commit = commit.trim().strip_prefix("commit=").unwrap();
    let sources = std::cell::Cell::new("--checkout nothing");
    let run = |name: &str, gates: &str| {
        let env = [
            ("DIR", "."),
            ("COMMIT", commit),
            ("SOURCES", sources.get()),
            ("GATES", gates),
            ("LOG", "rows.json"),
            ("REPORTS", "reports"),
            ("CVC5", "/nowhere/cvc5"),
        ];
        run_script(&home, "mine", &step(&action, name), &env)
    };
    // What is elsewhere is had as the input says, or that is a mistake.
    for name in ["Diff", "Impact"] {
        let output = run(name, "");
        assert_eq!(output.status.code(), Some(2), "{}", support::said(&output));
    }
    sources.set("--fetch");
    let output = run("Diff", "");
    assert!(output.status.success(), "{}", support::said(&output));
    let text = fs::read_to_string(home.path("mine/reports/diff.md")).unwrap();
    assert!(
        text.starts_with("<!-- palisade policy diff -->\n") && text.contains("orders-delete"),
        "{text}"
    );
    // Over several lines, too.
    for gates in [
        "--no-new-access --no-proof",
        "--no-proof\n--no-new-access\n",
    ] {
        let output = run("Diff", gates);
        assert_eq!(output.status.code(), Some(5), "{}", support::said(&output));
    }
    let output = run("Impact", "");
    assert!(output.status.success(), "{}", support::said(&output));
    let text = fs::read_to_string(home.path("mine/reports/impact.md")).unwrap();
    assert!(
        text.starts_with("<!-- palisade policy impact -->\n"),
        "{text}"
    );
    // Nothing was recorded, so the gate knows nothing.
    let output = run("Impact", "--max-newly-allowed 0");
    assert_eq!(output.status.code(), Some(5), "{}", support::said(&output));
    let output = run("Diff", "$(touch pwned) `touch pwned` *");
    assert_eq!(output.status.code(), Some(2), "{}", support::said(&output));
    assert!(!home.path("mine/pwned").exists());
}

/// GitHub takes an action for one step, and shows ten annotations of a kind of it. All commands of
/// the action together make no more, whatever they find, so that those of the last ones are seen;
/// what has no room is counted, and is in the summary.
#[test]
fn a_job_on_github_annotates_no_more_than_is_shown_of_it() {
    let home = Home::new();
    pull_request(&home, &[]);
    let action = fs::read_to_string(home.path("mine/.github/actions/palisade/action.yml")).unwrap();
    let commit = git(&home.path("mine"), &["rev-parse", "origin/main"]);
    let mut rows = String::from("tests:\n");
    for i in 0..10 {
        let policy = format!(
            "@id(\"many-{i}\") permit (principal, action == Action::\"PUT\",\n resource in Service::\"acme.test/shop/orders\");\n"
        );
        fs::write(home.path(&format!("mine/policies/many-{i}.cedar")), policy).unwrap();
        rows += &format!(
            "  - name: case {i}\n    principal: web\n    request: GET orders/orders/{i}\n    expect: forbidden\n"
        );
    }
    fs::write(home.path("mine/tests/many.yaml"), rows).unwrap();
    let gates = ["orders", "web"].map(|service| {
        let of = ["to", "new"]
            .map(|_| format!("--no-access-to shop/{service} --no-new-access-to shop/{service}"));
        of.join(" ")
    });
    let gates = format!(
        "{} --no-new-access --not-public --no-proof",
        gates.join(" ")
    );
    let summary = home.path("summary.md");
    let env = [
        ("DIR", "."),
        ("FAIL_ON", "warn"),
        ("COVERAGE", "100"),
        ("REPORTS", "reports"),
        ("COMMIT", commit.as_str()),
        ("LOG", "rows.json"),
    ];
    let mut all = [0; 3];
    for (name, gates) in [
        ("Layout", ""),
        ("Lint", ""),
        ("Test", ""),
        ("Diff", gates.as_str()),
        ("Impact", "--max-newly-allowed 0"),
    ] {
        let text = format!(
            "export GITHUB_STEP_SUMMARY={}\n{}",
            summary.display(),
            step(&action, name)
        );
        let env = [&env[..], &[("GATES", gates)]].concat();
        let output = run_script(&home, "mine", &text, &env);
        let said = support::said(&output);
        let commands = ["::error ", "::warning ", "::notice "];
        let is_annotation = |l: &&str| commands.iter().any(|c| l.starts_with(c));
        let shown: Vec<&str> = said.lines().filter(is_annotation).collect();
        assert!(!shown.is_empty(), "{name}");
        for (kind, all) in commands.iter().zip(&mut all) {
            let of_kind = shown.iter().filter(|l| l.starts_with(kind)).count();
            // Five commands share the ten.
            assert!(of_kind <= 2, "{name}: {shown:#?}");
            *all += of_kind;
        }
        let counted: Vec<&&str> = shown.iter().filter(|l| l.contains("more")).collect();
        assert_eq!(counted.is_empty(), name == "Impact", "{name}: {shown:#?}");
    }
    assert!(all.iter().all(|all| *all <= 10), "{all:?}");
    let text = fs::read_to_string(&summary).unwrap();
    for i in 0..10 {
        assert!(text.contains(&format!("many-{i}")) && text.contains(&format!("case {i}")));
    }
}

/// The program that the action fetches is run only if its digest is the one that was said.
#[test]
fn the_github_action_runs_no_program_that_it_was_not_promised() {
    let action = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/deploy/ci/github/action.yml"
    ))
    .unwrap();
    let text = script(&action, "- name: Fetch palisade\n");
    let home = Home::new();
    fs::create_dir(home.path("bin")).unwrap();
    // Stands in for the network: gives whatever was asked for.
    let curl = "#!/bin/sh\nwhile [ \"$1\" != --output ]; do shift; done; printf program > \"$2\"\n";
    fs::write(home.path("bin/curl"), curl).unwrap();
    fs::set_permissions(
        home.path("bin/curl"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let run = |sha256: &str| {
        let path = format!(
            "{}:{}",
            home.path("bin").display(),
            std::env::var("PATH").unwrap()
        );
        let mut command = std::process::Command::new("bash");
        command
            .args(["-c", &text])
            .env("PATH", path)
            .env("URL", "https://x.test/p")
            .env("SHA256", sha256);
        command
            .env("RUNNER_TEMP", home.path("temp"))
            .env("GITHUB_PATH", home.path("path"));
        command.output().unwrap()
    };
    let wrong = "3c0e2ba28e3d1e5c39b79d4ac5cb4a0f0e3d1e5c39b79d4ac5cb4a0f0e3d1e5c";
    let output = run(wrong);
    assert_eq!(output.status.code(), Some(1), "{}", support::said(&output));
    assert!(!home.path("path").exists(), "it is not on the path");
    let sum = std::process::Command::new("sha256sum")
        .arg(home.path("temp/palisade-bin/palisade"))
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let output = run(sum.split(' ').next().unwrap());
    assert!(output.status.success(), "{}", support::said(&output));
    assert!(home.path("path").exists());
}

#[test]
fn the_gitlab_pipeline_checks_the_repository() {
    let home = Home::new();
    home.says(&["init", "mine", "--ci", "gitlab", "--pre-commit"], 0);
    assert!(home.path("mine/.pre-commit-config.yaml").exists());
    assert!(!home.path("mine/.github").exists());
    let pipeline = fs::read_to_string(home.path("mine/.gitlab-ci.yml")).unwrap();
    let text = script(&pipeline, "  script:\n");
    let env = [
        ("PALISADE_DIR", "."),
        ("PALISADE_FAIL_ON", "warn"),
        ("PALISADE_COVERAGE", "90"),
    ];
    let output = run_script(&home, "mine", &text, &env);
    assert!(output.status.success(), "{}", support::said(&output));
    assert_eq!(issues(&home, &pipeline), Vec::<String>::new());
    assert!(
        home.path("mine")
            .join(artifact(&pipeline, "junit"))
            .exists()
    );
    // What each command finds is in the one file, and nothing of the run before.
    let file = home.path("mine/policies/orders.cedar");
    let good = fs::read_to_string(&file).unwrap();
    let untidy = good.replace("@owner(\"team-orders\")\n", "") + "\n\n\n";
    fs::write(&file, untidy).unwrap();
    for _ in 0..2 {
        let output = run_script(&home, "mine", &text, &env);
        assert_eq!(output.status.code(), Some(1), "{}", support::said(&output));
        let mut found = issues(&home, &pipeline);
        found.sort_unstable();
        assert_eq!(found, ["PLS1160", "PLS1161", "PLS1161"]);
    }
    // What is there already is not overwritten where it is something else.
    fs::write(home.path("mine/other"), "mine").unwrap();
    let add = ["policy", "lint", "mine", "--report", "gitlab+=mine/other"];
    let said = home.says(&add, 1);
    assert!(said.contains("PLS2030"), "{said}");
    assert_eq!(fs::read_to_string(home.path("mine/other")).unwrap(), "mine");
    let said = home.says(&["policy", "lint", "mine", "--report", "json+=x"], 2);
    assert!(said.contains("gitlab"), "{said}");
}

/// The one file that a pipeline hands on as a report of this kind: GitLab's runner refuses more
/// than one.
fn artifact(pipeline: &str, kind: &str) -> String {
    let begin = format!("      {kind}:");
    let (_, rest) = pipeline.split_once(&begin).unwrap();
    let name = rest.lines().next().unwrap().trim();
    assert!(!name.is_empty(), "{kind} is a list: {rest}");
    name.to_owned()
}

/// Codes of what the pipeline hands on as Code Quality, each told once.
fn issues(home: &Home, pipeline: &str) -> Vec<String> {
    let file = home.path("mine").join(artifact(pipeline, "codequality"));
    let text = fs::read_to_string(file).unwrap();
    let issues: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let known: std::collections::BTreeSet<String> = issues
        .iter()
        .map(|i| i["fingerprint"].to_string())
        .collect();
    assert_eq!(known.len(), issues.len(), "{text}");
    let codes = issues.iter().map(|i| i["check_name"].as_str().unwrap());
    codes.map(str::to_owned).collect()
}

/// On a merge request the pipeline compares it with the branch that it goes to.
#[test]
fn the_gitlab_pipeline_compares_a_merge_request_with_its_base() {
    let home = Home::new();
    pull_request(&home, &["--ci", "gitlab"]);
    let pipeline = fs::read_to_string(home.path("mine/.gitlab-ci.yml")).unwrap();
    let text = script(&pipeline, "  script:\n");
    let run = |gates: &str, impact_gates: &str, target: &str| {
        let env = [
            ("PALISADE_DIR", "."),
            ("PALISADE_FAIL_ON", "error"),
            ("PALISADE_COVERAGE", "0"),
            ("PALISADE_SOURCES", "--fetch"),
            ("PALISADE_GATES", gates),
            ("PALISADE_LOG", "rows.json"),
            ("PALISADE_IMPACT_GATES", impact_gates),
            ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", target),
            ("CVC5", "/nowhere/cvc5"),
        ];
        run_script(&home, "mine", &text, &env)
    };
    let output = run("", "", "main");
    assert!(output.status.success(), "{}", support::said(&output));
    for (file, part) in [
        ("palisade-diff.md", "orders-delete"),
        ("palisade-impact.md", "<!-- palisade policy impact -->"),
    ] {
        let text = fs::read_to_string(home.path(&format!("mine/{file}"))).unwrap();
        assert!(text.contains(part), "{file}: {text}");
    }
    // What the gate says is in the one file, beside what the other commands said.
    let output = run("--no-new-access --no-proof", "", "main");
    assert_eq!(output.status.code(), Some(1), "{}", support::said(&output));
    assert!(issues(&home, &pipeline).contains(&"PLS2302".to_owned()));
    for (gates, impact_gates, target) in [
        ("", "--max-newly-allowed 0", "main"),
        ("", "", "no-such-branch"),
        ("$(touch pwned) *", "", "main"),
    ] {
        let output = run(gates, impact_gates, target);
        let said = support::said(&output);
        assert_eq!(output.status.code(), Some(1), "{gates} {target}: {said}");
    }
    assert!(!home.path("mine/pwned").exists());
}

/// Each entry of the hooks is a command that the new repository passes.
#[test]
fn the_hooks_pass_in_a_new_repository() {
    let home = Home::new();
    home.says(&["init", "mine", "--ci", "none", "--pre-commit"], 0);
    let hooks = fs::read_to_string(home.path("mine/.pre-commit-config.yaml")).unwrap();
    let entries: Vec<&str> = hooks
        .lines()
        .filter_map(|l| l.trim().strip_prefix("entry: "))
        .collect();
    assert_eq!(entries.len(), 3);
    for entry in entries {
        let output = run_script(&home, "mine", entry, &[]);
        assert!(
            output.status.success(),
            "{entry}: {}",
            support::said(&output)
        );
    }
}

#[test]
fn lint_has_exit_codes_a_list_and_fixes() {
    let home = Home::new();
    home.says(&["init", "mine"], 0);
    let file = home.path("mine/policies/orders.cedar");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.replace("like \"CHG-*\"", "like \"CHG-7\"")).unwrap();
    let said = home.says(&["policy", "lint", "mine"], 0);
    assert!(
        said.contains("PLS1165") && said.contains("1 of them has a safe fix"),
        "{said}"
    );
    home.says(&["policy", "lint", "mine", "--fail-on", "warn"], 9);
    home.says(
        &[
            "policy",
            "lint",
            "mine",
            "--fail-on",
            "warn",
            "--rule",
            "-like-exact",
        ],
        0,
    );
    let said = home.says(&["policy", "lint", "mine", "--rule", "-like-exct"], 3);
    assert!(
        said.contains("PLS1180") && said.contains("like-exact"),
        "{said}"
    );
    let said = home.says(&["policy", "lint", "mine", "--fix", "--fail-on", "warn"], 0);
    assert!(
        said.contains("policies/orders.cedar: 1 place mended"),
        "{said}"
    );
    assert!(fs::read_to_string(&file).unwrap().contains("== \"CHG-7\""));
    home.says(&["policy", "fmt", "--check", "mine"], 0);
    let rules = home.json(&["policy", "lint", "--list"]);
    assert!(rules.as_array().unwrap().len() > 20);
    fs::write(&file, good.replace("permit", "permitt")).unwrap();
    home.says(&["policy", "lint", "mine"], 3);
}

/// A failing case says why, clause by clause, and too little coverage fails the run.
/// Types and actions of the team's own compile, and no request is about them: the lint says so.
#[test]
fn a_policy_that_nobody_can_ask_for_is_told() {
    let home = Home::new();
    home.says(&["init", "mine"], 0);
    let schema = "entity Team in [TrustDomain] { trustDomain: TrustDomain };\nentity Document in [Team] { owner?: Team };\naction \"share\" in [\"http\"]\n  appliesTo { principal: [Team, Workload], resource: [Document, Service], context: HttpContext };\n";
    fs::write(home.path("mine/schema.cedarschema"), schema).unwrap();
    let lint = |scope: &str, condition: &str| {
        let text =
            format!("@id(\"own\")\n@owner(\"team-orders\")\npermit (\n  {scope}\n){condition};\n");
        fs::write(home.path("mine/policies/own.cedar"), text).unwrap();
        home.says(&["policy", "validate", "mine"], 0);
        let rules = "+never-asked,+never-carried";
        let found = home.json(&["policy", "lint", "mine", "--rule", rules]);
        let found = found["diagnostics"].as_array().unwrap().iter();
        let told = |d: &serde_json::Value| {
            assert!(d["help"].is_string() && d["cause"].is_string(), "{d}");
            assert_eq!(d["location"]["file"], "policies/own.cedar", "{d}");
            d["code"].as_str().unwrap().to_owned()
        };
        found.map(told).collect::<Vec<_>>()
    };
    let orders = "resource in Service::\"acme.test/shop/orders\"";
    for scope in [
        "principal is Team, action == Action::\"share\", resource is Document".to_owned(),
        "principal == Team::\"x\", action == Action::\"share\", resource".to_owned(),
        "principal, action, resource in Team::\"x\"".to_owned(),
        // What a request could be about, but for the action, which no operation has.
        format!("principal, action == Action::\"share\", {orders}"),
        format!("principal, action == Action::\"tcp:connect\", {orders}"),
    ] {
        assert_eq!(lint(&scope, ""), ["PLS1176"], "{scope}");
    }
    for scope in [
        format!("principal, action, {orders}"),
        format!("principal, action in Action::\"http\", {orders}"),
        format!("principal is Unregistered, action == Action::\"orders:refund\", {orders}"),
    ] {
        assert_eq!(lint(&scope, ""), [] as [&str; 0], "{scope}");
    }
    let scope = format!("principal, action in Action::\"http\", {orders}");
    for condition in [
        " when { context has jwt && context.jwt.scopes.contains(\"x\") }",
        " when { context has user && context.user.issuer == \"x\" }",
        " unless { context has jwt }",
    ] {
        assert_eq!(lint(&scope, condition), ["PLS1177"], "{condition}");
    }
    assert_eq!(lint(&scope, " when { context.tls.mtls }"), [] as [&str; 0]);
}

#[test]
fn a_failing_case_is_explained_and_coverage_can_fail() {
    let home = Home::new();
    home.says(&["init", "mine"], 0);
    let table = home.path("mine/tests/orders.yaml");
    let good = fs::read_to_string(&table).unwrap();
    fs::write(
        &table,
        good.replace("context: with-change\n    expect: allow", "expect: allow"),
    )
    .unwrap();
    let said = home.says(&["policy", "test", "mine", "--trace", "failed"], 4);
    for part in [
        "expected allow, got not_permitted",
        "✗ context.http.headers has \"x-change-id\"",
        "context.http.headers[\"x-change-id\"] = absent",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    // What CI reads says so without being asked, each in its own way.
    for format in ["github", "gitlab", "junit", "markdown", "plain", "sarif"] {
        let said = home.says(&["policy", "test", "mine", "--format", format], 4);
        for part in ["nearest policies", "x-change-id", " = absent"] {
            assert!(said.contains(part), "{format}: {part} in {said}");
        }
        assert!(!said.contains('\u{fffd}'), "{format}: {said}");
    }
    let said = home.says(&["policy", "test", "mine"], 4);
    assert!(!said.contains("nearest policies"), "{said}");
    fs::write(&table, good).unwrap();
    let said = home.says(
        &[
            "policy",
            "test",
            "mine",
            "--run",
            "quarantine",
            "--coverage=50%",
        ],
        4,
    );
    assert!(
        said.contains("PLS2021") && said.contains("never decides"),
        "{said}"
    );
    let said = home.says(
        &[
            "policy",
            "test",
            "mine",
            "--run",
            "quarantine",
            "--trace",
            "all",
        ],
        0,
    );
    assert!(
        said.contains("nearest") || said.contains("quarantine policies/guardrails.cedar"),
        "{said}"
    );
    home.says(&["policy", "test", "mine", "--coverage=101%"], 2);
    let said = home.says(&["policy", "test", "mine", "--update"], 0);
    assert!(said.contains("rows name the policies"), "{said}");
    let said = home.says(&["policy", "test", "mine", "--update"], 0);
    assert!(said.contains("0 rows name"), "{said}");
}

/// A repository of code that exists keeps what it has.
#[test]
fn files_beside_the_repository_are_kept() {
    let home = Home::new();
    fs::create_dir(home.path("mine")).unwrap();
    fs::write(home.path("mine/README.md"), "ours\n").unwrap();
    let said = home.says(&["init", "mine"], 0);
    assert!(
        said.contains("wrote 14 files to mine") && said.contains("kept as they are: README.md"),
        "{said}"
    );
    assert_eq!(
        fs::read_to_string(home.path("mine/README.md")).unwrap(),
        "ours\n"
    );
    home.says(&["policy", "test", "mine", "--coverage=100%"], 0);
}
