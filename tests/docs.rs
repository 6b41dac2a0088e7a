//! Promises of the documentation: every code is explained, every command of the
//! reference exists, and examples that can be run do what the page says.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use support::{Home, copy, said, sample_policies};

mod support;

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
    let mut found: Vec<(String, String)> = Vec::new();
    for block in text.split("```console\n").skip(1) {
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

/// Everything that a command prints, in the order in which a terminal shows it.
fn run(home: &Home, command: &str) -> String {
    let words = words(command);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let screen = home.path("screen");
    let both = fs::File::create(&screen).unwrap();
    let mut command = home.palisade(&words);
    command.stdout(both.try_clone().unwrap()).stderr(both);
    command.status().unwrap();
    fs::read_to_string(screen).unwrap()
}

/// Figures that differ from run to run: times and digests.
fn settled(text: &str) -> String {
    text.split('\n')
        .map(|line| {
            let words = line.split(' ').scan("", |before, word| {
                let is_time = matches!(word, "ms" | "s") && before.parse::<f64>().is_ok();
                *before = word;
                Some(if is_time { "TIME" } else { word })
            });
            let mut words: Vec<&str> = words.collect();
            for i in 1..words.len() {
                if words[i] == "TIME" {
                    words[i - 1] = "N";
                }
            }
            words.join(" ").trim_end().to_owned()
        })
        .collect::<Vec<_>>()
        .join("\n")
        .trim_end()
        .to_owned()
}

/// Runs the examples of a page that need no running mesh, in a folder that holds the
/// sample repository as `policies`, and compares what they print.
fn check_examples(name: &str) {
    let home = Home::new();
    copy(&sample_policies(), &home.path("policies"));
    let examples = examples(&page(name));
    assert!(!examples.is_empty(), "{name} has no examples");
    for (command, expected) in examples {
        let printed = run(&home, &command);
        assert_eq!(
            settled(&printed),
            settled(&expected),
            "{name}: $ palisade {command}\nprinted:\n{printed}"
        );
    }
}

#[test]
fn examples_of_the_command_line_reference_print_what_it_says() {
    check_examples("docs/reference/cli.md");
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

/// Each line `palisade …` in a block without output names a command that exists.
#[test]
fn commands_in_the_pages_exist() {
    let home = Home::new();
    for name in [
        "README.md",
        "docs/quick-start.md",
        "docs/concepts.md",
        "docs/deploy.md",
        "docs/operations/ci.md",
        "docs/operations/reports.md",
        "docs/operations/rotation.md",
        "docs/reference/cli.md",
        "docs/reference/lint.md",
        "policies/README.md",
    ] {
        for line in page(name).lines() {
            let line = line.trim_start().trim_start_matches("$ ");
            let Some(command) = line.strip_prefix("palisade ") else {
                continue;
            };
            let command = command.split('#').next().unwrap().trim_end();
            let verbs: Vec<String> = words(command)
                .into_iter()
                .take_while(|w| w.chars().all(|c| c.is_ascii_lowercase()))
                .take(2)
                .collect();
            let nested = matches!(
                verbs.first().map(String::as_str),
                Some("policy" | "audit" | "ca" | "config" | "identity" | "join" | "report")
            );
            let verbs = &verbs[..verbs.len().min(if nested { 2 } else { 1 })];
            let mut args: Vec<&str> = verbs.iter().map(String::as_str).collect();
            args.push("--help");
            let output = home.run(&args);
            assert!(output.status.success(), "{name}: {line}\n{}", said(&output));
        }
    }
}
