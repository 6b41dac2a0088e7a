//! What each format says about one report, and what it keeps from its reader.

use palisade_mesh::diagnostic::Location;

use super::*;

/// An error with a place, a warning without one, a passed and a failed case; in a folder
/// of the work tree.
fn report() -> Report {
    let text = "permit (\n  action == Action::\"GTE\",\n);";
    let at = |needle: &str| {
        let offset = text.find(needle).unwrap();
        Location::span("policies/a b.cedar", text, offset, needle.len())
    };
    let failure = Diagnostic::error(2003, "t: web · GET x")
        .label("expected allow, got forbidden")
        .at(Location::line("tests/t.yaml", "tests:\n  - x\n", 2));
    let case = |name: &str, failure| Case {
        file: "tests/t.yaml".to_owned(),
        line: 2,
        name: name.to_owned(),
        took: Duration::from_micros(1_500),
        failure,
    };
    Report {
        command: "palisade policy lint",
        root: "policy/".to_owned(),
        findings: vec![
            Diagnostic::error(1103, "action `GTE` is not in the schema")
                .label("did you mean `GET`?")
                .help("replace it")
                .at(at("Action::\"GTE\",\n)")),
            Diagnostic::warning(1150, "evil ::error::x\u{1b}[2J</failure> @team"),
        ],
        files: vec!["policies/b.cedar".to_owned()],
        cases: vec![case("passes", None), case("fails", Some(failure))],
        ..Report::default()
    }
}

#[test]
fn plain_is_sentences_without_drawings() {
    let text = report().text(Format::Plain);
    assert!(text.starts_with("palisade policy lint: 2 errors, 1 warning.\n2 cases, 1 failed.\n"));
    let told = "error PLS1103: action `GTE` is not in the schema\n\
                Where: policy/policies/a b.cedar, line 2, column 13\n\
                Text: Action::\"GTE\",\nNote: did you mean `GET`?\nFix: replace it\n\
                More: palisade explain PLS1103\n";
    assert!(text.contains(told), "{text}");
    assert!(!text.contains(['│', '┌', '✗', '\u{1b}']), "{text}");
}

#[test]
fn github_annotates_and_obeys_no_text() {
    let text = report().text(Format::Github);
    let commands: Vec<&str> = text
        .lines()
        .filter(|l| l.trim_start().starts_with("::"))
        .collect();
    let [group, stop, resume, end, error, case, warning] = commands.as_slice() else {
        panic!("{commands:#?}");
    };
    assert_eq!(*group, "::group::palisade policy lint: 2 errors, 1 warning");
    let token = stop.strip_prefix("::stop-commands::").unwrap();
    assert_eq!(
        (*resume, *end),
        (format!("::{token}::").as_str(), "::endgroup::")
    );
    assert_eq!(
        *error,
        "::error file=policy/policies/a b.cedar,line=2,endLine=3,title=PLS1103::\
         action `GTE` is not in the schema%0Adid you mean `GET`?%0Afix: replace it"
    );
    assert!(case.starts_with("::error file=policy/tests/t.yaml,line=2,endLine=2,col=3,"));
    assert!(warning.starts_with("::warning title=PLS1150::evil ::error::x\u{fffd}[2J"));
}

#[test]
fn gitlab_gets_unique_names_and_paths_of_the_work_tree() {
    let issues: Value = serde_json::from_str(&report().text(Format::Gitlab)).unwrap();
    let issues = issues.as_array().unwrap();
    let seen: Vec<_> = issues
        .iter()
        .map(|i| {
            let place = &i["location"];
            (
                i["check_name"].as_str().unwrap(),
                i["severity"].as_str().unwrap(),
                place["path"].as_str().unwrap(),
                place["lines"]["begin"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("PLS1103", "critical", "policy/policies/a b.cedar", 2),
            ("PLS1150", "minor", "policy/palisade.yaml", 1),
            ("PLS2003", "critical", "policy/tests/t.yaml", 2),
        ]
    );
    let names: std::collections::BTreeSet<_> =
        issues.iter().map(|i| i["fingerprint"].as_str()).collect();
    assert_eq!(names.len(), issues.len());
}

/// The properties that sections 3.13 to 3.30 of SARIF 2.1.0 require of what we write.
#[test]
fn sarif_has_rules_places_and_names_that_stay() {
    let log: Value = serde_json::from_str(&report().text(Format::Sarif)).unwrap();
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    for result in run["results"].as_array().unwrap() {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[index]["id"], result["ruleId"]);
        assert!(
            rules[index]["shortDescription"]["text"]
                .as_str()
                .unwrap()
                .len()
                > 10
        );
        assert!(["error", "warning", "note"].contains(&result["level"].as_str().unwrap()));
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
        let name = &result["partialFingerprints"]["primaryLocationLineHash"];
        assert_eq!(name.as_str().unwrap().len(), FINGERPRINT_LEN);
    }
    let place = &run["results"][0]["locations"][0]["physicalLocation"];
    assert_eq!(
        place["artifactLocation"]["uri"],
        "policy/policies/a%20b.cedar"
    );
    let region =
        serde_json::json!({"startLine": 2, "startColumn": 13, "endLine": 3, "endColumn": 2});
    assert_eq!(place["region"], region);
}

#[test]
fn junit_keeps_what_passed() {
    let text = report().text(Format::Junit);
    assert!(text.contains("<testsuites name=\"palisade policy lint\" tests=\"5\" failures=\"2\" errors=\"0\" time=\"0.003000\">"), "{text}");
    assert!(text.contains("name=\"policies/b.cedar was checked\""));
    assert!(
        text.contains(
            "name=\"passes\" file=\"policy/tests/t.yaml\" line=\"2\" time=\"0.001500\"/>"
        )
    );
    assert!(text.contains("<failure message=\"t: web · GET x\" type=\"PLS2003\">"));
    assert!(text.contains(
        "<system-out>warning: evil ::error::x\u{fffd}[2J&lt;/failure&gt; @team</system-out>"
    ));
    assert_eq!(
        text.matches("<testsuite ").count(),
        text.matches("</testsuite>").count()
    );
    let strict = Report {
        strict: true,
        ..report()
    };
    assert!(
        strict.text(Format::Junit).contains("failures=\"3\""),
        "warnings fail where they are asked to"
    );
}

#[test]
fn markdown_names_its_command_and_keeps_texts_quiet() {
    let text = report().text(Format::Markdown);
    let head = "<!-- palisade policy lint -->\n### palisade policy lint: 2 errors, 1 warning\n\n2 cases, 1 failed\n";
    assert!(text.starts_with(head), "{text}");
    assert!(text.contains("| error | `policy/policies/a b.cedar:2` | PLS1103<br>action `GTE` is not in the schema<br>"), "{text}");
    assert!(
        !text.contains("@team") && !text.contains("</failure>"),
        "{text}"
    );
}

/// Lines that come and go elsewhere do not make a new finding of an old one.
#[test]
fn a_finding_keeps_its_name_when_it_moves() {
    let at = |text: &str| {
        let offset = text.find("bad").unwrap();
        let diagnostic = Diagnostic::error(1100, "m").at(Location::span("a", text, offset, 3));
        let report = Report {
            findings: vec![diagnostic.clone(), diagnostic],
            ..Report::default()
        };
        report.fingerprints()
    };
    let (before, after) = (at("bad line\n"), at("one\ntwo\n  bad line\n"));
    assert_eq!(before, after);
    assert_ne!(before[0], before[1], "two at one place are two");
}

#[test]
fn a_folder_is_named_from_the_top_of_its_work_tree() {
    let top = tempfile::tempdir().unwrap();
    let inner = top.path().join("deploy/policy");
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::create_dir(top.path().join(".git")).unwrap();
    assert_eq!(root_of(&inner), "deploy/policy/");
    assert_eq!(root_of(top.path()), "");
    assert_eq!(root_of(Path::new("./nowhere/")), "nowhere/");
    assert_eq!(root_of(Path::new(".")).matches('.').count(), 0);
}
