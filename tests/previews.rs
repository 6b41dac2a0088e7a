//! Commands that look at a revision before it is in force put together what a PDP would: also what
//! other teams contribute. Of a part they say that it is one, and prove nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{fs, path::PathBuf, process::Output};

use serde_json::Value;
use support::{Home, git::git, said};

const WEB: &str = "service: shop/web\nidentities: [ns/shop/sa/web]\nhosts: [web]\noperations:\n  - { name: home, match: GET / }\n";
const LEDGER: &str = "service: pay/ledger\nidentities: [ns/pay/sa/ledger]\nhosts: [ledger]\noperations:\n  - { name: list, match: GET /entries }\n  - { name: book, match: POST /entries }\n";
const LIST: &str = "@id(\"ledger-list\")\npermit (\n  principal in Service::\"acme.test/shop/web\",\n  action,\n  resource == Operation::\"acme.test/pay/ledger/list\"\n);\n";
const BOOK: &str = "@id(\"ledger-book\")\npermit (\n  principal in Service::\"acme.test/shop/web\",\n  action,\n  resource == Operation::\"acme.test/pay/ledger/book\"\n);\n";
const NOBODY_BOOKS: &str =
    "@id(\"nobody-writes\")\nforbid (principal, action == Action::\"PUT\", resource);\n";
const CASES: &str = "tests:\n  - name: the web lists entries\n    principal: web\n    request: GET ledger/entries\n    expect: allow\n";

const HOME: &str = "tests:\n  - name: nobody asks the web\n    principal: web\n    request: GET web/\n    expect: not_permitted\n";

/// What a mesh recorded: the web listed entries.
const ROWS: &str = r#"{"rows": [{"class": "decision", "id": "01M8J9ADH0ZWXX4W25XPWV6X3C", "time": "2026-11-28T23:54:48.224156Z", "decision": "allow", "reason": "permitted", "principal": "spiffe://acme.test/ns/shop/sa/web", "action": "GET", "resource_type": "Operation", "resource": "acme.test/pay/ledger/list", "service": "acme.test/pay/ledger", "method": "GET", "host": "ledger", "path": "/entries", "policy": ["ledger-list"], "sequence": 1, "enforced": true, "source": "127.0.0.1", "source_port": 54950, "context": {"tls": {"mtls": true}}}]}"#;

/// A clone with the repository of the platform in `repo/policy` and that of a team in `repo/pay`,
/// which is also a git repository of its own in `team`.
struct Story {
    home: Home,
}

impl Story {
    /// `place` is where the platform says that the team's source is.
    fn new(place: impl Fn(&Home) -> String) -> Self {
        let story = Self { home: Home::new() };
        story.write("repo/policy/services/web.yaml", WEB);
        let settings = format!(
            "trust_domain: acme.test\nsources:\n  pay: {{ namespaces: [pay], {} }}\n",
            place(&story.home)
        );
        story.write("repo/policy/palisade.yaml", &settings);
        story.write("repo/policy/tests/web_test.yaml", HOME);
        for team in ["repo/pay", "team"] {
            story.write(&format!("{team}/services/ledger.yaml"), LEDGER);
            story.write(&format!("{team}/policies/ledger.cedar"), LIST);
        }
        for clone in ["repo", "team"] {
            story.git(clone, &["init", "--quiet", "--initial-branch=main"]);
            story.commit(clone);
        }
        story
    }

    fn elsewhere() -> Self {
        Self::new(|home| format!("git: \"file://{}\", ref: main", home.path("team").display()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn git(&self, clone: &str, args: &[&str]) {
        git(&self.path(clone), args);
    }

    fn commit(&self, clone: &str) {
        self.git(clone, &["add", "--all"]);
        self.git(clone, &["commit", "--quiet", "--message", "change"]);
    }

    /// `palisade ARGS` in the clone.
    fn run(&self, args: &[&str], code: i32) -> Output {
        let mut command = self.home.palisade(args);
        let out = command.current_dir(self.path("repo")).output().unwrap();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}", said(&out));
        out
    }

    fn says(&self, args: &[&str], code: i32) -> String {
        said(&self.run(args, code))
    }

    fn json(&self, args: &[&str], code: i32) -> Value {
        let out = self.run(&[args, &["-o", "json"]].concat(), code);
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&out)))
    }

    /// What `policy diff git:main policy` names as different, without a proof.
    fn differs(&self, more: &[&str]) -> Vec<String> {
        let args = [
            &["policy", "diff", "git:main", "policy", "--no-proof"],
            more,
        ]
        .concat();
        ids(&self.json(&args, 0))
    }
}

fn ids(diff: &Value) -> Vec<String> {
    let items = diff["text"].as_array().unwrap().iter();
    items
        .map(|i| i["id"].as_str().unwrap().to_owned())
        .collect()
}

/// A source in a folder is in a commit as it is there, so that a change names what it changes and
/// nothing else.
#[test]
fn a_folder_is_put_together_at_a_commit_as_it_is_in_it() {
    let story = Story::new(|_| "folder: ../pay".to_owned());
    assert_eq!(story.differs(&[]), Vec::<String>::new());
    story.write("repo/pay/policies/book.cedar", BOOK);
    assert_eq!(story.differs(&[]), ["ledger-book"]);
    // The whole path, as a commit before it is the candidate.
    story.commit("repo");
    let past = ["policy", "diff", "git:main", "git:main~1", "--no-proof"];
    let mut command = story.home.palisade(&[&past[..], &["-o", "json"]].concat());
    let out = command
        .current_dir(story.path("repo/policy"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", said(&out));
    assert_eq!(
        ids(&serde_json::from_slice(&out.stdout).unwrap()),
        ["ledger-book"]
    );
    // A commit that has no such folder is no revision.
    story.git("repo", &["rm", "--quiet", "-r", "pay"]);
    story.commit("repo");
    let gone = story.says(&["policy", "diff", "git:main", "policy", "--no-proof"], 3);
    assert!(
        gone.contains("PLS1307") && gone.contains("git:main"),
        "{gone}"
    );
}

/// A folder outside of the clone, and a bundle in it: both sides see the same of the former, each
/// its own of the latter.
#[test]
fn what_is_outside_of_the_clone_is_the_same_on_both_sides() {
    let story = Story::new(|home| format!("folder: \"{}\"", home.path("team").display()));
    assert_eq!(story.differs(&[]), Vec::<String>::new());
    story.write("team/policies/book.cedar", BOOK);
    assert_eq!(story.differs(&[]), Vec::<String>::new());

    // Also where CI has put the clone of the other team into this one.
    let story = Story::new(|_| "folder: ../beside/pay".to_owned());
    story.write("repo/.gitignore", "/beside/\n");
    story.commit("repo");
    let team = story.path("team").display().to_string();
    story.git("repo", &["clone", "--quiet", &team, "beside/pay"]);
    assert_eq!(story.differs(&[]), Vec::<String>::new());
    story.write("repo/beside/pay/policies/book.cedar", BOOK);
    assert_eq!(story.differs(&[]), Vec::<String>::new());

    let story = Story::new(|_| "file: pay.palisade".to_owned());
    let build = || {
        story.write("team/palisade.yaml", "trust_domain: acme.test\n");
        let team = story.path("team").display().to_string();
        story.says(&["bundle", "build", &team, "-f", "policy/pay.palisade"], 0)
    };
    story.write(
        "team/policies/ledger.cedar",
        &LIST.replace("principal in Service::\"acme.test/shop/web\"", "principal"),
    );
    build();
    story.commit("repo");
    assert_eq!(story.differs(&[]), Vec::<String>::new());
    story.write(
        "team/policies/book.cedar",
        &BOOK.replace("principal in Service::\"acme.test/shop/web\"", "principal"),
    );
    build();
    assert_eq!(story.differs(&[]), ["ledger-book"]);
}

/// A submodule is read at the commit that the revision names.
#[test]
fn a_submodule_is_read_at_its_commit() {
    let story = Story::new(|_| "folder: ../team".to_owned());
    let team = story.path("team").display().to_string();
    let add = [
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "add",
        &team,
        "team",
    ];
    story.git("repo", &add);
    story.commit("repo");
    assert_eq!(story.differs(&[]), Vec::<String>::new());
    story.write("repo/team/policies/book.cedar", BOOK);
    story.commit("repo/team");
    assert_eq!(story.differs(&[]), ["ledger-book"]);
    story.git(
        "repo",
        &["submodule", "--quiet", "deinit", "--force", "team"],
    );
    fs::remove_dir_all(story.path("repo/.git/modules")).unwrap();
    let args = ["policy", "diff", "git:main", "git:main", "--no-proof"];
    let mut command = story.home.palisade(&args);
    let out = command
        .current_dir(story.path("repo/policy"))
        .output()
        .unwrap();
    let lost = said(&out);
    assert!(
        lost.contains("PLS1305") && lost.contains("submodule"),
        "{lost}"
    );
}

/// What is elsewhere is not asked for unasked. Every command says what it lacks, in words and to
/// programs, and how to have it.
#[test]
fn every_command_says_what_it_lacks() {
    let story = Story::elsewhere();
    let web = "spiffe://acme.test/ns/shop/sa/web";
    let on = ["--policies", "policy"];
    for (args, key) in [
        (vec!["policy", "validate", "policy"], "diagnostics"),
        (vec!["policy", "test", "policy"], "diagnostics"),
        (
            vec!["policy", "diff", "git:main", "policy", "--no-proof"],
            "absent",
        ),
        (vec!["can", web, "GET", "web/", on[0], on[1]], "absent"),
        (vec!["who-can", "*", "web", on[0], on[1]], "absent"),
        (vec!["what-can", web, on[0], on[1]], "absent"),
    ] {
        let told = story.says(&args, 0);
        for part in [
            "PLS1305",
            "`pay`",
            "file://",
            "--fetch",
            "--checkout pay=DIR",
        ] {
            assert!(told.contains(part), "{args:?}: {part}: {told}");
        }
        let json = story.json(&args, 0);
        assert!(json[key].to_string().contains("pay"), "{args:?}: {json}");
        let whole = [&args[..], &["--fetch"]].concat();
        let told = story.says(&whole, 0);
        assert!(!told.contains("PLS1305"), "{whole:?}: {told}");
    }
    // A report for a code host and one for a pull request say it as well.
    for format in ["markdown", "github", "sarif", "junit", "gitlab", "plain"] {
        let args = [
            "policy",
            "diff",
            "git:main",
            "policy",
            "--no-proof",
            "--format",
            format,
        ];
        let out = story.run(&args, 0);
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(
            text.contains("PLS1305") || text.contains("`pay`"),
            "{format}: {text}"
        );
    }
}

/// What is fetched is what is decided by; a check-out does as well.
#[test]
fn what_is_fetched_or_checked_out_counts() {
    let story = Story::elsewhere();
    story.write("repo/policy/tests/ledger_test.yaml", CASES);
    story.says(&["policy", "test", "policy"], 3);
    story.says(&["policy", "test", "policy", "--fetch"], 0);
    story.says(&["policy", "test", "policy", "--checkout", "pay=pay"], 0);
    let asked = [
        "can",
        "web",
        "GET",
        "ledger/entries",
        "--policies",
        "policy",
        "--exit-code",
    ];
    story.says(&[&asked[..], &["--fetch"]].concat(), 0);
    // Both sides see the same of it, whatever it is by now.
    story.write("team/policies/book.cedar", BOOK);
    story.commit("team");
    assert_eq!(story.differs(&["--fetch"]), Vec::<String>::new());
    story.says(
        &[
            &["can", "web", "POST", "ledger/entries"],
            &asked[4..],
            &["--fetch"],
        ]
        .concat(),
        0,
    );
    // A server that is gone is an error of whoever wanted it asked.
    fs::rename(story.path("team"), story.path("away")).unwrap();
    let gone = story.says(&["policy", "validate", "policy", "--fetch"], 1);
    assert!(gone.contains("PLS3201"), "{gone}");
    // In the form that was asked for, in reports too, and with one exit code.
    let report = story.path("gone.md").display().to_string();
    let report = format!("markdown={report}");
    for command in ["validate", "lint", "test"] {
        let args = ["policy", command, "policy", "--fetch", "--format", "github"];
        let told = story.says(&[&args[..], &["--report", &report]].concat(), 1);
        assert!(told.contains("\n::error "), "{command}: {told}");
        let text = fs::read_to_string(story.path("gone.md")).unwrap();
        assert!(text.contains("PLS3201"), "{command}: {text}");
        fs::remove_file(story.path("gone.md")).unwrap();
    }
    // What was fetched is gone, and nothing is left of it.
    let left = fs::read_dir(story.path("")).unwrap();
    let left = left.filter(|e| {
        e.as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("palisade-")
    });
    assert_eq!(left.count(), 0);
}

/// A gate of `impact` holds of nothing that is partial.
#[test]
fn no_gate_of_a_replay_holds_of_a_part() {
    let story = Story::elsewhere();
    story.write("rows.json", ROWS);
    let rows = story.path("rows.json").display().to_string();
    let base = [
        "policy",
        "impact",
        "policy",
        "--log",
        &rows,
        "--against",
        "git:main",
    ];
    let gates = ["--max-newly-denied", "0"];
    let told = story.says(&base, 0);
    assert!(
        told.contains("PLS1305") && told.contains("without source pay"),
        "{told}"
    );
    let args = [&base[..], &gates].concat();
    let told = story.says(&args, 5);
    assert!(told.contains("part of a revision is not here"), "{told}");
    assert_eq!(story.json(&args, 5)["absent"][0]["source"], "pay");
    for command in ["unused", "suggest", "bench"] {
        let args = ["policy", command, "policy", "--log", &rows];
        let args = match command {
            "suggest" => [&args[..], &["--from", "denials"]].concat(),
            _ => args.to_vec(),
        };
        let part = story.json(&args, 0);
        assert_eq!(part["absent"][0]["source"], "pay", "{command}: {part}");
    }
    let whole = story.json(&[&args[..], &["--fetch"]].concat(), 0);
    assert_eq!(whole["absent"], serde_json::json!([]));
    assert_eq!(whole["unchanged"]["count"], 1, "{whole}");
}

/// Of a part nothing is proved, whatever the solver says of it: no gate, no invariant.
#[test]
#[ignore = "needs the solver cvc5; .ci/run installs it"]
fn nothing_is_proved_of_a_part_of_a_revision() {
    let story = Story::elsewhere();
    story.write("repo/policy/invariants/nobody.cedar", NOBODY_BOOKS);
    story.commit("repo");
    let validate = ["policy", "validate", "policy"];
    let part = story.says(&validate, 0);
    assert!(
        part.contains("PLS2322") && part.contains("1 searched, not proved"),
        "{part}"
    );
    assert!(
        part.contains("part of the revision is not here: source `pay`"),
        "{part}"
    );
    let whole = story.says(&[&validate[..], &["--fetch"]].concat(), 0);
    assert!(whole.contains("1 invariant: 1 proved by cvc5"), "{whole}");

    for gates in [
        &["--no-new-access"][..],
        &["--not-public"],
        &["--no-access-to", "shop/web"],
    ] {
        let diff = [&["policy", "diff", "git:main", "policy"], gates].concat();
        let part = story.says(&diff, 5);
        for text in [
            "PLS2302",
            "part of the revision is not here",
            "not proved",
            "--fetch",
        ] {
            assert!(part.contains(text), "{text}: {part}");
        }
        assert_eq!(story.json(&diff, 5)["gates"][0]["verdict"], "unproved");
        assert_eq!(story.json(&diff, 5)["proof"]["verdict"], "unproved");
        let whole = story.json(&[&diff[..], &["--fetch"]].concat(), 0);
        assert_eq!(whole["gates"][0]["verdict"], "kept", "{whole}");
        let both = ["--fetch", "--checkout", "pay=pay"];
        let whole = story.json(&[&diff[..], &both].concat(), 0);
        assert_eq!(whole["gates"][0]["verdict"], "kept", "{whole}");
        // Of the older revision it is not there, so only what is about the newer one is known.
        let (code, verdict) = match gates[0] {
            "--no-new-access" => (5, "unproved"),
            _ => (0, "kept"),
        };
        let here = story.json(&[&diff[..], &both[1..]].concat(), code);
        assert_eq!(here["gates"][0]["verdict"], verdict, "{here}");
    }
}

/// A check-out of a source that no revision lists would leave the answer about something else.
#[test]
fn a_check_out_is_of_a_source_that_is_listed_once() {
    let story = Story::elsewhere();
    for (args, of) in [
        (
            vec!["policy", "diff", "git:main", "policy", "--no-proof"],
            3,
        ),
        (vec!["policy", "validate", "policy"], 3),
        (vec!["policy", "lint", "policy"], 3),
        (vec!["policy", "test", "policy"], 3),
        (vec!["who-can", "*", "web", "--policies", "policy"], 3),
    ] {
        let told = story.says(&[&args[..], &["--checkout", "pya=pay"]].concat(), of);
        assert!(
            told.contains("PLS1309") && told.contains("`pay`"),
            "{args:?}: {told}"
        );
        let twice = ["--checkout", "pay=pay", "--checkout", "pay=team"];
        let told = story.says(&[&args[..], &twice].concat(), of);
        assert!(told.contains("PLS1309"), "{args:?}: {told}");
    }
    // Where a running mesh would answer, they are about nothing.
    for args in [
        &["who-can", "*", "web"][..],
        &["why", "01M8M7BX"],
        &["report", "run", "unused"],
        &["report", "verify", "report.json"],
        &["report", "review", "start", "review.yaml"],
    ] {
        let told = story.says(&[args, &["--fetch"]].concat(), 3);
        let is_told = told.contains("PLS1309") && told.contains("--policies");
        assert!(is_told, "{args:?}: {told}");
    }
}

/// What is checked out is the change, and so no part of what it is compared with.
#[test]
fn a_check_out_is_of_the_newer_revision() {
    let story = Story::elsewhere();
    story.write("repo/pay/policies/book.cedar", BOOK);
    let here = ["--checkout", "pay=pay"];
    assert_eq!(
        story.differs(&[&["--fetch"], &here[..]].concat()),
        ["ledger-book"]
    );
    // Without the older one's nothing is told of it, and no gate answered that compares.
    assert_eq!(story.differs(&here), Vec::<String>::new());
    let gates = [
        &["policy", "diff", "git:main", "policy", "--no-proof"],
        &here[..],
        &["--no-new-access", "--no-new-access-to", "pay/ledger"],
    ]
    .concat();
    let unproved = [&gates[..], &["--allow-unproved"]].concat();
    let report = story.json(&unproved, 5);
    assert_eq!(report["access"]["untold"][0], "pay", "{report}");
    assert_eq!(report["access"]["changes"], serde_json::json!([]));
    for gate in report["gates"].as_array().unwrap() {
        assert_eq!(
            (&gate["verdict"], &gate["partial"]),
            (&"unproved".into(), &true.into()),
            "{gate}"
        );
    }
    assert!(story.says(&unproved, 5).contains("--allow-partial"));
    story.says(&[&gates[..], &["--allow-partial"]].concat(), 5);
    story.says(&[&unproved[..], &["--allow-partial"]].concat(), 0);
    let whole = [
        &gates[..],
        &["--fetch", "--allow-unproved", "--allow-partial"],
    ]
    .concat();
    assert_eq!(story.json(&whole, 5)["gates"][0]["verdict"], "broken");
}

/// A commit has what it has, whatever the way to it is called now.
#[test]
fn a_link_does_not_lead_from_a_commit_to_what_is_there_now() {
    let story = Story::new(|home| format!("folder: \"{}/pay\"", home.path("alias").display()));
    std::os::unix::fs::symlink(story.path("repo"), story.path("alias")).unwrap();
    story.write("repo/pay/policies/book.cedar", BOOK);
    assert_eq!(story.differs(&[]), ["ledger-book"]);

    // `..` is where the link leads, not where it stands.
    let story = Story::new(|home| format!("folder: \"{}/../pay\"", home.path("alias").display()));
    std::os::unix::fs::symlink(story.path("repo/policy"), story.path("alias")).unwrap();
    story.write("repo/pay/policies/book.cedar", BOOK);
    assert_eq!(story.differs(&[]), ["ledger-book"]);

    // A link of the clone may have led elsewhere.
    let story = Story::new(|_| "folder: ../way".to_owned());
    std::os::unix::fs::symlink("pay", story.path("repo/way")).unwrap();
    story.commit("repo");
    let diff = ["policy", "diff", "git:main", "policy", "--no-proof"];
    let told = story.json(&diff, 0);
    assert_eq!(told["access"]["untold"][0], "pay", "{told}");
    assert!(
        told["absent"][0]["why"].to_string().contains("`way`"),
        "{told}"
    );
}

/// Where a clone lacks the commit of a submodule that the older revision names, all of it is no
/// news; what lies within a submodule is of its commit.
#[test]
fn a_submodule_of_which_the_older_commit_is_not_here_is_no_news() {
    let story = Story::new(|_| "folder: ../mono/pay".to_owned());
    story.write("mono/pay/services/ledger.yaml", LEDGER);
    story.write("mono/pay/policies/ledger.cedar", LIST);
    story.git("mono", &["init", "--quiet", "--initial-branch=main"]);
    story.commit("mono");
    let mono = format!("file://{}", story.path("mono").display());
    let file = ["-c", "protocol.file.allow=always"];
    let add = ["submodule", "--quiet", "add", &mono, "mono"];
    story.git("repo", &[&file[..], &add].concat());
    story.commit("repo");
    assert_eq!(story.differs(&[]), Vec::<String>::new());
    story.write("repo/mono/pay/policies/book.cedar", BOOK);
    assert_eq!(story.differs(&[]), ["ledger-book"]);

    story.write("mono/pay/policies/book.cedar", BOOK);
    story.commit("mono");
    fs::remove_dir_all(story.path("repo/mono")).unwrap();
    story.git("repo", &["clone", "--quiet", "--depth=1", &mono, "mono"]);
    let diff = ["policy", "diff", "git:main", "policy", "--no-proof"];
    let gates = [&diff[..], &["--no-new-access"]].concat();
    let told = story.json(&gates, 5);
    assert_eq!(told["gates"][0]["verdict"], "unproved", "{told}");
    assert_eq!(ids(&told), Vec::<String>::new());
    let why = told["absent"][0]["why"].to_string();
    assert!(why.contains("git -C mono fetch"), "{why}");
}

/// A bundle of another trust domain is not what a PDP takes.
#[test]
fn a_bundle_of_another_trust_domain_is_no_source() {
    let story = Story::new(|_| "file: pay.palisade".to_owned());
    fs::remove_dir_all(story.path("team/policies")).unwrap();
    for (domain, code) in [("acme.test", 0), ("other.test", 3)] {
        story.write("team/palisade.yaml", &format!("trust_domain: {domain}\n"));
        let team = story.path("team").display().to_string();
        story.says(&["bundle", "build", &team, "-f", "policy/pay.palisade"], 0);
        let told = story.says(&["policy", "validate", "policy"], code);
        assert_eq!(told.contains("other.test"), code == 3, "{told}");
        let all = ["bundle", "build", "policy", "-f", "all.palisade"];
        let out = story
            .home
            .palisade(&all)
            .current_dir(story.path("repo"))
            .output()
            .unwrap();
        assert_eq!(out.status.success(), code == 0, "{}", said(&out));
    }
}

/// The lint looks at what a PDP would put together, and says of the part that is here nothing that
/// the other one may make false.
#[test]
fn the_lint_knows_what_sources_contribute() {
    let story = Story::elsewhere();
    let policy = |service: &str| {
        let text = format!(
            "@id(\"web-books\")\n@owner(\"ana\")\npermit (\n  principal in Service::\"acme.test/shop/web\",\n  action,\n  resource in Service::\"acme.test/pay/{service}\"\n);\n"
        );
        story.write("repo/policy/policies/books.cedar", &text);
    };
    policy("ledger");
    story.write(
        "repo/policy/tests/ledger_test.yaml",
        &CASES.replace("GET", "POST"),
    );
    let lint = ["policy", "lint", "policy", "--fail-on", "warn"];
    let part = story.says(&lint, 0);
    assert!(part.contains("without source pay"), "{part}");
    assert_eq!(story.json(&lint, 0)["absent"][0]["source"], "pay");
    for more in [&["--fetch"][..], &["--checkout", "pay=pay"]] {
        let whole = story.says(&[&lint[..], more].concat(), 0);
        assert!(!whole.contains("without"), "{whole}");
    }
    policy("legder");
    let wrong = story.says(&[&lint[..], &["--fetch"]].concat(), 9);
    assert!(wrong.contains("PLS1130"), "{wrong}");
}
