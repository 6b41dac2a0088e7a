//! Promises of the documentation: every code is explained, every command of the
//! reference exists, and examples that can be run do what the page says.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use support::{Home, LIMIT, copy, demo::Demo, registry::registry, said, sample_policies, wait_for};

mod support;

const FORTIES: &str = "@id(\"refunds-of-the-forties\")
@owner(\"team-orders\")
permit (
  principal in Service::\"demo.test/shop/web\",
  action == Action::\"orders:refund\",
  resource in Service::\"demo.test/shop/orders\"
)
when { context.http.path like \"/orders/4/refund\" };
";
const FORTIES_TEST: &str = "tests:
  - name: a refund of the forties
    principal: web
    request: POST orders/42/refund
    expect: allow
";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// Rust files that are shipped, without their tests.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = [
        "src",
        "mesh/src",
        "proxy/src",
        "pdp/src",
        "ca/src",
        "audit/src",
    ]
    .iter()
    .map(|d| root().join(d))
    .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = entry.file_name().into_string().unwrap();
            if path.is_dir() {
                if !matches!(name.as_str(), "tests" | "sample" | "testing") {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") && !name.starts_with("test") && name != "sample.rs" {
                let text = fs::read_to_string(&path).unwrap();
                let shipped = text.split("#[cfg(test)]\nmod ").next().unwrap().to_owned();
                found.push((path, shipped));
            }
        }
    }
    found
}

/// Codes that a file gives to a diagnostic or a fact, over however many lines the call
/// is written.
fn codes(text: &str) -> BTreeSet<String> {
    let dense: String = text.split_whitespace().collect();
    let mut found = BTreeSet::new();
    for call in [
        "error(",
        "warning(",
        "u16=",
        "duplicate_key:",
        "syntax:",
        "too_deep:",
        "FactState::Error,",
        "FactState::Warning,",
        "FactState::Unknown,",
    ] {
        for rest in dense.split(call).skip(1) {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if digits.len() == 4 {
                found.insert(format!("PLS{digits}"));
            }
        }
    }
    found
}

fn documented() -> BTreeSet<String> {
    page("docs/reference/codes.md")
        .lines()
        .filter_map(|l| l.strip_prefix("## "))
        .filter_map(|l| l.split(' ').next().map(str::to_owned))
        .collect()
}

#[test]
fn every_code_of_every_part_is_explained() {
    let documented = documented();
    let missing: Vec<String> = sources()
        .iter()
        .flat_map(|(path, text)| {
            let missing = codes(text)
                .difference(&documented)
                .cloned()
                .collect::<Vec<_>>();
            missing
                .into_iter()
                .map(|c| format!("{c} in {}", path.display()))
        })
        .collect();
    assert!(
        missing.is_empty(),
        "not in docs/reference/codes.md: {missing:#?}"
    );
}

/// A code that nothing gives any more would send people the wrong way.
#[test]
fn every_explained_code_exists() {
    let all: BTreeSet<String> = sources().iter().flat_map(|(_, text)| codes(text)).collect();
    let stale: Vec<_> = documented().difference(&all).cloned().collect();
    assert!(
        stale.is_empty(),
        "in docs/reference/codes.md only: {stale:?}"
    );
}

#[test]
fn every_explanation_says_why_and_what_to_do() {
    let text = page("docs/reference/codes.md");
    for section in text.split("\n## ").skip(1) {
        assert!(
            section.contains("\nWhy: ") && section.contains("\nFix: "),
            "{section}"
        );
    }
}

/// People copy the annotated configuration: a key that it lacks is one they never find.
#[test]
fn every_configuration_key_is_in_the_annotated_file() {
    let shown = page("deploy/palisade.yaml");
    for file in [
        "src/config.rs",
        "src/config/proxy.rs",
        "proxy/src/config.rs",
        "src/net/identity.rs",
    ] {
        let text = page(file);
        for section in text.split("#[serde(deny_unknown_fields").skip(1) {
            let body = section.split("\n}").next().unwrap();
            for key in body
                .lines()
                .filter_map(|l| l.strip_prefix("    pub "))
                .filter_map(|l| l.split(':').next())
            {
                // Only the demo sets it.
                assert!(
                    key == "demo" || shown.contains(&format!("{key}:")),
                    "{key} of {file}"
                );
            }
        }
    }
}

/// Blocks of a page that begin with ```` ```console ````: each `$` line and what follows it.
fn examples(text: &str) -> Vec<(String, String)> {
    examples_in(text, "```console\n")
}

/// The same of blocks that begin with `fence`.
fn examples_in(text: &str, fence: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for block in text.split(fence).skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            match line.strip_prefix("$ palisade ") {
                Some(command) => found.push((command.to_owned(), String::new())),
                None => {
                    if let Some((_, output)) = found.last_mut() {
                        output.push_str(line);
                        output.push('\n');
                    }
                }
            }
        }
    }
    found
}

/// Splits at spaces outside single quotes, as a shell does.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

/// Everything that a command prints, in the order in which a terminal shows it; behind ` > `
/// may stand the file that its output goes to.
fn run(home: &Home, command: &str) -> String {
    let (command, file) = match command.split_once(" > ") {
        Some((command, file)) => (command, Some(file)),
        None => (command, None),
    };
    let words = words(command);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let screen = home.path("screen");
    let both = fs::File::create(&screen).unwrap();
    let mut command = home.palisade(&words);
    match file {
        Some(file) => command.stdout(fs::File::create(home.path(file)).unwrap()),
        None => command.stdout(both.try_clone().unwrap()),
    };
    command.stderr(both);
    command.status().unwrap();
    fs::read_to_string(screen).unwrap()
}

/// Without what differs from run to run, or with each change of the sample: times, digests and keys.
fn settled(text: &str) -> String {
    let digest = |word: &str| {
        let bare = word.trim_start_matches("sha256:").trim_end_matches(',');
        let hex = bare.bytes().all(|b| b"0123456789abcdef".contains(&b));
        bare.len() >= 8 && hex && bare.bytes().any(|b| b.is_ascii_digit())
    };
    let is_moment = |word: &str| word.len() == 20 && word.starts_with("20") && word.ends_with('Z');
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let is_time = |i: usize| {
            let unit = words
                .get(i)
                .is_some_and(|w| matches!(*w, "µs" | "ms" | "s"));
            unit && i > 0 && words[i - 1].parse::<f64>().is_ok()
        };
        let settled = words.iter().enumerate().map(|(i, word)| match *word {
            // Eight hex digits at random, of which none need be a decimal one.
            _ if i > 1 && words[i - 1] == "key" && words[i - 2] == "with" => "KEY",
            // Each solver has its own version, and needs its own number of questions.
            _ if i > 0
                && words[i - 1] == "cvc5"
                && word.starts_with(|c: char| c.is_ascii_digit()) =>
            {
                "VERSION"
            }
            _ if words
                .get(i + 1)
                .is_some_and(|w| matches!(*w, "question" | "questions")) =>
            {
                "N"
            }
            _ if is_time(i) => "TIME",
            _ if is_time(i + 1) => "N",
            word if digest(word) => "DIGEST",
            word if word.contains("ed25519:") => "KEY",
            word if is_moment(word) => "WHEN",
            word => word,
        });
        settled.collect::<Vec<_>>().join(" ").trim_end().to_owned()
    };
    let lines = text.split('\n').map(line);
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// What the examples are run on: the sample as `policies`; a copy in which the shop may
/// refund, as somebody would propose it, as `proposal`; one with a permit whose pattern lacks its `*`,
/// and a test that finds out, as `draft`; and what a mesh recorded, as `rows.json`.
fn examples_home() -> Home {
    let home = Home::new();
    copy(&sample_policies(), &home.path("policies"));
    copy(&sample_policies(), &home.path("proposal"));
    let file = home.path("proposal/policies/orders.cedar");
    let text = fs::read_to_string(&file).unwrap();
    let (before, permit) = text.split_once("// @id(\"orders-refund").unwrap();
    let permit = permit.replace("\n// @owner(\"team-orders\")", "");
    let permit = permit.replace("\n// ", "\n");
    fs::write(&file, format!("{before}@id(\"orders-refund{permit}")).unwrap();
    copy(&sample_policies(), &home.path("draft"));
    fs::write(home.path("draft/policies/refunds.cedar"), FORTIES).unwrap();
    fs::write(home.path("draft/tests/refunds.yaml"), FORTIES_TEST).unwrap();
    fs::copy(
        root().join("tests/examples/rows.json"),
        home.path("rows.json"),
    )
    .unwrap();
    home
}

/// What was printed and what the page says, both without what differs from run to run; a
/// last line `…` of the page stands for all that follows.
fn compared(printed: &str, expected: &str) -> (String, String) {
    let (printed, expected) = (settled(printed), settled(expected));
    match expected.strip_suffix("\n…") {
        Some(shown) => {
            let lines = printed.split('\n').take(shown.split('\n').count());
            (lines.collect::<Vec<_>>().join("\n"), shown.to_owned())
        }
        None => (printed, expected),
    }
}

/// Runs the examples of a page that need no running mesh, and compares what they print.
fn check_examples(name: &str) {
    check_examples_at(name, None);
}

/// The same, where the registry of the page is at this address.
fn check_examples_at(name: &str, registry: Option<std::net::SocketAddr>) {
    const REGISTRY: &str = "registry.acme.test";
    let address = registry.map_or_else(|| REGISTRY.to_owned(), |at| at.to_string());
    run_examples(name, &examples(&page(name)), |home, command| {
        let printed = run(home, &command.replace(REGISTRY, &address));
        printed.replace(&address, REGISTRY)
    });
}

/// Runs examples in their order, each by `run`, and compares what they print.
fn run_examples(name: &str, examples: &[(String, String)], run: impl Fn(&Home, &str) -> String) {
    let home = examples_home();
    assert!(!examples.is_empty(), "{name} has no examples");
    for (command, expected) in examples {
        let printed = run(&home, command);
        let (own, said) = compared(&printed, expected);
        assert_eq!(
            own, said,
            "{name}: $ palisade {command}\nprinted:\n{printed}"
        );
    }
}

/// Times, ids and numbers of a recorded decision, which each one has of its own.
fn anonymous(text: &str) -> String {
    let word = |word: &str| -> String {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let is_moment = word.len() > 7 && word.bytes().all(|b| b"0123456789-:.".contains(&b));
        let is_id = word.len() == 26 && word.bytes().all(|b| b.is_ascii_alphanumeric());
        let is_digest =
            [8, 32].contains(&word.len()) && word.bytes().all(|b| b.is_ascii_hexdigit());
        match word {
            _ if is_moment => "WHEN".to_owned(),
            _ if is_id => "ID".to_owned(),
            _ if is_digest => "DIGEST".to_owned(),
            _ => word
                .split('/')
                .map(|part| if digits(part) { "N" } else { part })
                .collect::<Vec<_>>()
                .join("/"),
        }
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    text.trim().lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The example of `palisade why` is a refund in a demo.
#[test]
fn the_example_of_why_is_what_a_mesh_says() {
    let page = page("docs/reference/cli.md");
    let section = page.split("\n## palisade why\n").nth(1).unwrap();
    let block = section.split("```text\n").nth(1).unwrap();
    let expected = block.split("```").next().unwrap();
    let home = Home::new();
    let _demo = Demo::start(&home, &["--rate", "200"]);
    let refunds = "decision:not_permitted route:/orders/*/refund";
    let id = wait_for("a denied refund", LIMIT, || {
        let rows = home.rows(refunds)?;
        Some(rows.first()?["id"].as_str()?.to_owned())
    });
    let printed = run(&home, &format!("why {id}"));
    assert_eq!(anonymous(&printed), anonymous(expected), "{printed}");
}

/// Without any number, unit of time or digest, and without the room that they take.
fn unnumbered(text: &str) -> String {
    let word = |word: &str| -> String {
        let bare = word.trim_matches(|c: char| "(),".contains(c));
        if bare.len() == 8 && bare.bytes().all(|b| b.is_ascii_hexdigit()) {
            return word.replace(bare, "DIGEST");
        }
        if matches!(word, "ms" | "s" | "min" | "h") {
            return "TIME".to_owned();
        }
        let mut bare = String::new();
        for c in word.chars() {
            let is_number = c.is_ascii_digit() || (c == ',' && bare.ends_with('N'));
            match (is_number, bare.ends_with('N')) {
                (true, true) => {}
                (true, false) => bare.push('N'),
                (false, _) => bare.push(c),
            }
        }
        bare
    };
    let line = |line: &str| {
        let words: Vec<String> = line.split_whitespace().map(word).collect();
        words.join(" ")
    };
    text.trim().lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The examples of a rollout are a story of one demo, in their order; what only looks is
/// asked again until it sees what the page says.
#[test]
fn examples_of_a_rollout_print_what_they_say() {
    let home = examples_home();
    let _demo = Demo::start(&home, &["--rate", "60"]);
    let examples = examples(&page("docs/operations/rollout.md"));
    for verb in [
        "plan", "start", "status", "pause", "resume", "promote", "abort", "rollback",
    ] {
        let command = format!("rollout {verb}");
        let shown = examples.iter().any(|(c, _)| c.starts_with(&command));
        assert!(shown, "{command} has no example");
    }
    for (command, expected) in examples {
        let expected = unnumbered(&expected);
        let shown = expected.strip_suffix("\n…").unwrap_or(&expected);
        let say = || {
            // A machine that is busy may not say in time who is there.
            let printed = wait_for("a mesh that answers", LIMIT, || {
                let printed = run(&home, &command);
                (!printed.contains("no running process")).then_some(printed)
            });
            let printed = unnumbered(&printed);
            let lines = printed.lines().take(shown.lines().count());
            lines.collect::<Vec<_>>().join("\n")
        };
        match command.starts_with("rollout status") {
            true => {
                let mut last = String::new();
                let begun = std::time::Instant::now();
                while last != shown && begun.elapsed() < LIMIT {
                    std::thread::park_timeout(std::time::Duration::from_millis(200));
                    last = say();
                }
                assert_eq!(last, shown, "$ palisade {command}");
            }
            false => assert_eq!(say(), shown, "$ palisade {command}"),
        }
    }
}

/// Each command of those who write policies has an example that is run.
#[test]
fn every_policy_command_has_an_example() {
    let pages = [
        "docs/reference/cli.md",
        "docs/policy-changes.md",
        "docs/policy-impact.md",
    ];
    let shown: Vec<String> = pages
        .iter()
        .flat_map(|name| examples(&page(name)))
        .map(|(command, _)| command)
        .collect();
    let help = Home::new().says(&["policy", "--help"], 0);
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let verbs = commands.lines().take_while(|line| !line.is_empty());
    let verbs = verbs.filter_map(|line| line.split_whitespace().next());
    let mut wanted: Vec<String> = verbs
        .filter(|verb| *verb != "help")
        .map(|verb| format!("policy {verb} "))
        .collect();
    assert!(wanted.len() >= 10, "{help}");
    wanted.extend(["can ", "who-can ", "what-can ", "init "].map(str::to_owned));
    wanted.retain(|verb| !shown.iter().any(|command| command.starts_with(verb)));
    assert!(wanted.is_empty(), "without an example: {wanted:?}");
}

#[test]
fn examples_of_the_command_line_reference_print_what_it_says() {
    check_examples("docs/reference/cli.md");
}

#[test]
fn examples_of_changes_and_their_impact_print_what_they_say() {
    check_examples("docs/policy-changes.md");
    check_examples("docs/policy-impact.md");
}

/// What a solver proves, and what it shows to be possible.
#[test]
#[ignore = "needs the solver cvc5; .ci/run installs it"]
fn examples_with_a_solver_print_what_they_say() {
    let name = "docs/policy-changes.md";
    let examples = examples_in(&page(name), "```console cvc5\n");
    run_examples(name, &examples, run);
    let printed: String = examples.into_iter().map(|(_, printed)| printed).collect();
    for part in [
        "✓ proved",
        "for example",
        "palisade can",
        "✓ --no-new-access",
    ] {
        assert!(printed.contains(part), "{part} is not shown");
    }
}

/// From a key to a bundle that was fetched, and what a PDP had in force.
#[test]
fn examples_of_bundles_print_what_they_say() {
    let name = "docs/reference/bundles.md";
    check_examples_at(name, Some(registry()));
    let page = page(name);
    let shown: Vec<String> = examples(&page).into_iter().map(|(c, _)| c).collect();
    for verb in [
        "keygen", "build", "sign", "verify", "inspect", "push", "pull",
    ] {
        let verb = format!("bundle {verb} ");
        assert!(shown.iter().any(|c| c.starts_with(&verb)), "{verb}");
    }
    let block = page.split("```text\npalisade bundle log\n").nth(1).unwrap();
    let expected = block.split("```").next().unwrap();
    let home = Home::new();
    let _demo = Demo::start(&home, &[]);
    let printed = run(&home, "bundle log");
    let words = |text: &str| -> Vec<String> {
        let settled = anonymous(&settled(text));
        settled.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(words(&printed), words(expected), "{printed}");
}

#[test]
fn examples_of_the_quick_start_print_what_it_says() {
    check_examples("docs/quick-start.md");
}

#[test]
fn examples_of_the_rules_and_of_ci_print_what_they_say() {
    check_examples("docs/reference/lint.md");
    check_examples("docs/operations/ci.md");
}

/// Every page for people.
fn pages() -> Vec<String> {
    let mut found = vec!["README.md".to_owned(), "policies/README.md".to_owned()];
    let mut folders = vec!["docs".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(path),
                false if path.ends_with(".md") => found.push(path),
                false => {}
            }
        }
    }
    found.sort_unstable();
    found
}

/// Each line `palisade …` names a command that exists, and options that it has.
#[test]
fn commands_in_the_pages_exist() {
    let home = Home::new();
    let mut helps: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut help_of = |verbs: &[String]| {
        let told = helps.entry(verbs.to_vec()).or_insert_with(|| {
            let mut args: Vec<&str> = verbs.iter().map(String::as_str).collect();
            args.push("--help");
            said(&home.run(&args))
        });
        told.clone()
    };
    let (mut checked, mut wrong) = (0, Vec::new());
    for name in pages() {
        for line in page(&name).lines() {
            let line = line.trim_start().trim_start_matches("$ ");
            let Some(command) = line.strip_prefix("palisade ") else {
                continue;
            };
            let command = command.split(['#', '|', '>', ';']).next().unwrap();
            let mut verbs: Vec<String> = Vec::new();
            let mut help = help_of(&verbs);
            let command = command.split(" && ").next().unwrap();
            // What follows is of another program.
            let command = command.split(" -- ").next().unwrap();
            let words = words(command.trim_end());
            for word in &words {
                let is_verb = word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
                if !help.contains("\nCommands:\n") || !is_verb {
                    break;
                }
                verbs.push(word.clone());
                let next = help_of(&verbs);
                if !next.starts_with("exit status: 0") {
                    // A signed text begins like a command.
                    if !line.ends_with(" v1") {
                        wrong.push(format!("{name}: {line}"));
                    }
                    break;
                }
                help = next;
            }
            for option in words.iter().filter(|w| w.starts_with("--") && w.len() > 2) {
                let option = option.split('=').next().unwrap();
                if !help.contains(option) {
                    wrong.push(format!("{name}: {line}"));
                }
            }
            checked += 1;
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(checked > 100, "{checked}");
}
