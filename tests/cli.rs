//! What people and scripts meet at the command line: first words, exit codes, messages,
//! output for programs, and output into a pipe. The stories of a running mesh are in
//! one test: a demo takes a second to start.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use support::{Home, copy, said, sample_policies, wait_for};

mod support;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A home with the sample repository as `policies`.
fn with_policies() -> Home {
    let home = Home::new();
    copy(&sample_policies(), &home.path("policies"));
    home
}

#[test]
fn a_newcomer_is_told_three_things_to_do() {
    let home = Home::new();
    let output = home.run(&[]);
    let text = stdout(&output);
    assert!(
        output.status.success() && text.lines().count() <= 8,
        "{text}"
    );
    assert_eq!(text.matches("  palisade ").count(), 3, "{text}");
}

#[test]
fn help_ends_with_the_exit_codes_and_a_typing_error_has_a_tip() {
    let home = Home::new();
    assert!(stdout(&home.run(&["--help"])).contains("Exit codes: 0 done"));
    let output = home.run(&["statsu"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("'status'"), "{}", said(&output));
}

/// Scripts tell "nothing runs" from "no" and from "wrong question", for every command.
#[test]
fn without_a_mesh_every_question_to_it_exits_with_seven() {
    let home = Home::new();
    for args in [
        &["status"][..],
        &["check"],
        &["why", "01ABCDEFGH"],
        &["can", "web", "GET", "orders/orders"],
        &["audit", "search"],
        &["audit", "tail"],
        &["audit", "show", "01ABCDEFGH"],
        &["audit", "verify"],
        &["audit", "facets", "decision:deny"],
        &["audit", "timeline"],
        &["audit", "gaps"],
        &["audit", "export", "last:1h", "--to", "n.csv"],
        &["audit", "proof", "01ABCDEFGH"],
        &["report", "run", "integrity"],
        &["identity", "list"],
        &["identity", "show", "web"],
    ] {
        let output = home.run(args);
        assert_eq!(output.status.code(), Some(7), "{args:?}: {}", said(&output));
        assert!(stderr(&output).contains("PLS9101"), "{args:?}");
        assert!(stdout(&output).is_empty(), "{args:?}: {}", said(&output));
        let json = home.json(args);
        assert_eq!(
            json["diagnostics"][0]["code"], "PLS9101",
            "{args:?}: {json}"
        );
    }
}

#[test]
fn a_deny_is_an_answer_unless_the_exit_code_is_asked_for() {
    let home = with_policies();
    let ask = |args: &[&str]| {
        let given = [
            "can",
            "web",
            "POST",
            "orders/42/refund",
            "--policies",
            "policies",
        ];
        home.run(&[&given, args].concat()).status.code()
    };
    assert_eq!(ask(&[]), Some(0));
    assert_eq!(ask(&["--exit-code"]), Some(6));
    let wrong = home.run(&[
        "can",
        "wbe",
        "GET",
        "orders/orders",
        "--policies",
        "policies",
    ]);
    assert_eq!(wrong.status.code(), Some(3));
    assert!(
        stderr(&wrong).contains("did you mean `web`?"),
        "{}",
        said(&wrong)
    );
}

/// Mistakes in different files are told in one run, and each has code, place and pointer.
#[test]
fn all_mistakes_of_a_repository_are_told_at_once() {
    let home = with_policies();
    let edit = |file: &str, from: &str, to: &str| {
        let path = home.path("policies").join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(&path, text.replace(from, to)).unwrap();
    };
    edit("services/orders.yaml", "hosts:", "host:");
    edit("policies/guard-rails.cedar", "trustDomain", "trustDomian");
    edit(
        "palisade.yaml",
        "headers: {}",
        "headers:\n  x-tenant: sngle",
    );
    let output = home.run(&["policy", "validate", "policies"]);
    assert_eq!(output.status.code(), Some(3));
    let text = stderr(&output);
    for part in [
        "unknown key `host`",
        "services/orders.yaml:3:1",
        "did you mean `hosts`?",
        "policies/guard-rails.cedar:12:10",
        "`Workload` has no attribute `trustDomian`",
        "palisade.yaml:6:13",
        "palisade explain PLS1105",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    assert_eq!(stdout(&output), "✗ 3 errors\n");
    let json = home.json(&["policy", "validate", "policies"]);
    assert_eq!(json["diagnostics"].as_array().map(Vec::len), Some(3));
}

/// What keeps a repository from compiling does not hide what is wrong with its tests, nor does a
/// key that nothing reads hide what is wrong with policies.
#[test]
fn one_kind_of_file_hides_no_mistake_of_another() {
    let home = with_policies();
    let policy = "@id(\"x\") permit (principal, action == Action::\"GTE\", resource in Service::\"demo.test/shop/orders\");\n\
                  forbid (principal in Group::\"nobody\", action, resource);\n";
    for (file, text) in [
        ("policies/x.cedar", policy),
        ("services/x.yaml", "service: shop/x\nhosst: [x]\n"),
        ("entities/x.yaml", "groups:\n  x: { servces: [shop/web] }\n"),
        ("tests/b.yaml", "tests: [\n"),
        ("tests/bad.json", "[{]"),
        (
            "tests/c.yaml",
            "tests:\n  - { principal: nobody, reqest: GET /, request: GET orders/orders, expect: allow }\n",
        ),
    ] {
        fs::write(home.path("policies").join(file), text).unwrap();
    }
    let json = home.json(&["policy", "validate", "policies"]);
    let mut told: Vec<String> = json["diagnostics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| {
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            format!("{} {}", text(&d["code"]), text(&d["location"]["file"]))
        })
        .collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "PLS1007 tests/b.yaml",
            "PLS1009 entities/x.yaml",
            "PLS1009 services/x.yaml",
            "PLS1009 tests/c.yaml",
            "PLS1103 policies/x.cedar",
            "PLS1110 policies/x.cedar",
            "PLS1130 policies/x.cedar",
            "PLS2023 tests/bad.json",
        ]
    );
}

#[test]
fn a_mistake_in_a_test_table_is_found_by_validate_and_told_once() {
    let home = with_policies();
    let path = home.path("policies/tests/edges.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("principal: web", "principal: wbe", 1)).unwrap();
    let output = home.run(&["policy", "validate", "policies"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(stderr(&output).matches("nobody is called").count(), 1);
}

/// A failed case says on two lines who asked what, what was expected, and what decided.
#[test]
fn a_failed_case_names_what_decided() {
    let home = with_policies();
    let path = home.path("policies/tests/refusals.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replace(
            "expect: forbidden\n    policies: [card-data]",
            "expect: allow",
        ),
    )
    .unwrap();
    let output = home.run(&["policy", "test", "policies"]);
    assert_eq!(output.status.code(), Some(4));
    let text = stdout(&output);
    let at = text
        .find("web · GET payments/cards/7")
        .unwrap_or_else(|| panic!("{text}"));
    let case: String = text[at..].lines().take(2).collect();
    assert!(
        case.contains("expected allow, got forbidden")
            && case.contains("by card-data (policies/guard-rails.cedar:14)"),
        "{case}"
    );
}

/// Piped output has no colours and no hints, whatever the command; `--color always` has.
#[test]
fn colour_is_for_terminals_or_for_those_who_ask() {
    let home = with_policies();
    let ask = |color: &str| {
        let mut command = home.palisade(&[
            "can",
            "web",
            "GET",
            "orders/orders",
            "--policies",
            "policies",
            "--color",
            color,
        ]);
        stdout(&command.env_remove("NO_COLOR").output().unwrap())
    };
    for plain in [ask("auto"), ask("never")] {
        assert!(
            !plain.contains('\x1b') && !plain.contains("next"),
            "{plain}"
        );
    }
    assert!(ask("always").contains("\x1b[1m"));
}

#[test]
fn a_configuration_in_the_working_folder_finds_its_neighbours() {
    let home = with_policies();
    fs::write(
        home.path("mesh.yaml"),
        "trust_domain: demo.test\nca: {}\nagent: {socket: agent.sock}\npdp: {policies: nowhere, listen: 127.0.0.1:0}\naudit: {listen: 127.0.0.1:0}\n",
    )
    .unwrap();
    let output = home.run(&["run", "all", "--config", "mesh.yaml"]);
    let folder = home.path("nowhere");
    let text = stderr(&output);
    let told = text.contains(&folder.display().to_string()) || text.contains("/./nowhere");
    assert!(told, "the path is told whole:\n{text}");
}

/// One demo, asked as people ask it from a second terminal.
#[test]
fn a_running_demo_answers_people_and_programs() {
    let home = Home::new();
    let mut demo = home.start("demo", &["demo", "--rate", "40"]);
    let limit = Duration::from_secs(60);
    wait_for("a denied and an allowed edge", limit, || {
        let text = demo.printed();
        (text.contains("DENY ") && text.contains("ALLOW ")).then_some(())
    });
    let text = demo.printed();
    assert!(
        !text.contains('\x1b'),
        "cursor movements in a file:\n{text}"
    );
    let widest = text
        .lines()
        .take_while(|l| !l.contains("Ctrl-C"))
        .map(|l| l.chars().count())
        .max();
    assert!(
        widest <= Some(80),
        "the first words fit 80 columns:\n{text}"
    );

    let found = wait_for("a searched denial", limit, || {
        let answer = home.json(&["audit", "search", "decision:not_permitted", "-n", "1"]);
        answer["rows"][0]["id"].as_str().map(str::to_owned)
    });
    let why = home.run(&["why", &found]);
    assert!(
        stdout(&why).starts_with("DENY  web → orders   POST /orders/42/refund"),
        "{}",
        said(&why)
    );
    assert!(stdout(&why).contains("nearest policies"), "{}", said(&why));

    // The first ten characters are the millisecond: too little, and never a wall of ids.
    let ambiguous = home.run(&["audit", "show", &found[..6]]);
    assert_eq!(ambiguous.status.code(), Some(3), "{}", said(&ambiguous));
    assert!(stderr(&ambiguous).len() < 600, "{}", said(&ambiguous));

    let show = home.run(&["audit", "show", &found]);
    assert!(
        stdout(&show).contains("  context.tls.mtls  true\n"),
        "no JSON for people: {}",
        said(&show)
    );

    for (args, words) in [
        (&["status"][..], "5/5 proxies in sync"),
        (&["check"], "result: everything is in order"),
        (&["identity", "list"], "spiffe://demo.test/ns/shop/sa/web"),
        (&["audit", "verify"], "✓ verified: "),
    ] {
        let output = wait_for(words, limit, || {
            let output = home.run(args);
            stdout(&output).contains(words).then_some(output)
        });
        assert!(output.status.success(), "{}", said(&output));
        assert!(home.json(args) != Value::Null);
    }

    // The reader of a tail goes away, and the tail ends.
    let mut tail = home
        .palisade(&["audit", "tail"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(tail.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains(" → "), "{line}");
    wait_for("the tail ends with its reader", limit, || {
        tail.try_wait().unwrap()
    });

    assert!(demo.end().success());
    let last = demo.printed();
    assert!(
        last.contains("Everything that the demo made is gone."),
        "{last}"
    );
    assert!(!home.path("palisade-demo").exists());
}

/// Built in CI, signed by two of three, verified by anybody; each step's wrong input is
/// told by its code.
#[test]
fn a_bundle_is_built_signed_and_verified_offline() {
    let home = with_policies();
    for file in ["a.palisade", "b.palisade"] {
        home.says(&["bundle", "build", "policies", "-f", file], 0);
    }
    let bytes = |file: &str| fs::read(home.path(file)).unwrap();
    assert_eq!(bytes("a.palisade"), bytes("b.palisade"));

    let mut trusted = String::new();
    for name in ["ci", "release", "stranger"] {
        let file = format!("{name}.key");
        let output = home.run(&["bundle", "keygen", &file]);
        assert!(output.status.success(), "{}", said(&output));
        let line = String::from_utf8(output.stdout).unwrap();
        assert!(line.starts_with(&format!("{name} ed25519:")), "{line}");
        if name != "stranger" {
            trusted.push_str(&line);
        }
        let mode = fs::metadata(home.path(&file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(
            home.says(&["bundle", "keygen", &file], 1)
                .contains("PLS3105")
        );
    }
    fs::write(home.path("trusted.keys"), &trusted).unwrap();

    let verify = [
        "bundle",
        "verify",
        "a.palisade",
        "--keys",
        "trusted.keys",
        "--threshold",
        "2",
    ];
    assert!(
        home.says(&verify, 8)
            .contains("signed by nobody; `ci`, `release` could")
    );
    let stamp = [
        "bundle",
        "sign",
        "a.palisade",
        "--key",
        "ci.key",
        "--stamp",
        "1h",
    ];
    assert!(home.says(&stamp, 1).contains("PLS3109"));
    let sign = |key: &str, more: &[&str]| {
        let args = [
            "bundle",
            "sign",
            "a.palisade",
            "--key",
            key,
            "--sequence",
            "7",
        ];
        home.says(&[&args[..], more].concat(), 0)
    };
    sign("ci.key", &[]);
    sign("stranger.key", &[]);
    let told = home.says(&verify, 8);
    assert!(
        told.contains("PLS3102") && told.contains("an unknown key"),
        "{told}"
    );
    sign("release.key", &["--stamp", "1h"]);
    let told = home.says(&verify, 0);
    assert!(
        told.contains("signed in CI (2 of 2): ci, release · number 7"),
        "{told}"
    );
    let aged = [&verify[..], &["--stamp-age", "2h"]].concat();
    home.says(&aged, 0);
    let stale = [&verify[..], &["--stamp-age", "1us"]].concat();
    assert!(home.says(&stale, 8).contains("PLS3103"));

    let shown = home.json(&["bundle", "inspect", "a.palisade", "--keys", "trusted.keys"]);
    assert_eq!(shown["release"]["sequence"], 7);
    assert_eq!(shown["content"]["signers"].as_array().unwrap().len(), 3);
    assert_eq!(shown["policies"].as_array().unwrap().len(), 8);
    let told = home.says(
        &["bundle", "inspect", "a.palisade", "--keys", "trusted.keys"],
        0,
    );
    assert!(told.contains("signed in CI (2 of 2)"), "{told}");
    assert!(
        told.contains("Service::\"demo.test/shop/orders\""),
        "{told}"
    );

    // One changed letter of a policy, under the same signatures.
    let whole = bytes("a.palisade");
    let at = whole.windows(6).position(|w| w == b"forbid").unwrap();
    let mut changed = whole.clone();
    changed[at..at + 6].copy_from_slice(b"permit");
    fs::write(home.path("a.palisade"), changed).unwrap();
    assert!(home.says(&verify, 1).contains("PLS3002"));
    fs::write(home.path("a.palisade"), "policies").unwrap();
    assert!(home.says(&verify, 1).contains("PLS3108"));

    let settings = home.path("policies/palisade.yaml");
    let whole = fs::read_to_string(&settings).unwrap();
    let source = "sources: {pay: {namespaces: [pay], oci: \"127.0.0.1:1/pay:prod\"}}\n";
    fs::write(&settings, format!("{whole}{source}")).unwrap();
    let told = home.says(&["bundle", "build", "policies", "-f", "c.palisade"], 3);
    assert!(
        told.contains("PLS3201") && !home.path("c.palisade").exists(),
        "{told}"
    );
    fs::write(&settings, whole).unwrap();
    let of_itself = ["bundle", "build", "a.palisade", "-f", "c.palisade"];
    assert!(home.says(&of_itself, 3).contains("PLS1308"));
    fs::write(home.path("policies/policies/x.cedar"), "permit (").unwrap();
    let told = home.says(&["bundle", "build", "policies", "-f", "c.palisade"], 3);
    assert!(
        told.contains("PLS1100") && !home.path("c.palisade").exists(),
        "{told}"
    );
}
