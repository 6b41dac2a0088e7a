//! What a reporter declared as lost is told by every answer about that time, for as long as the
//! log has it, and by no other.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{collections::BTreeSet, fs};

use jiff::{SignedDuration, Timestamp};
use palisade_mesh::wire::record::SpoolEvent;
use serde_json::Value;
use support::{
    Home, LIMIT, lone,
    records::{declare, grow_of},
    wait_for,
};

const REPORTER: &str = "spiffe://acme.test/ns/shop/sa/orders";
const WHY: &str = "no room for these records";

/// Seven records between two moments of a past hour, declared now.
struct Loss {
    from: Timestamp,
    until: Timestamp,
}

impl Loss {
    fn declared(home: &Home) -> Self {
        Self::declared_as(home, 1)
    }

    /// In the record with this number.
    fn declared_as(home: &Home, number: u64) -> Self {
        let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap();
        let from = now - SignedDuration::from_mins(90);
        let until = from + SignedDuration::from_secs(40);
        let event = SpoolEvent {
            verb: "dropped".into(),
            detail: WHY.into(),
            strict: 4,
            best_effort: 3,
            from_us: from.as_microsecond(),
            until_us: until.as_microsecond(),
            ..SpoolEvent::default()
        };
        declare(&home.path("state/audit/log"), number, REPORTER, event);
        Self { from, until }
    }

    /// Times that an answer is asked about, each with whether it is of the loss.
    fn times(&self) -> [(String, bool); 5] {
        let (from, until) = (self.from, self.until);
        let second = SignedDuration::from_secs(1);
        let between = |a: Timestamp, b: Timestamp| format!("since:{a} until:{b}");
        [
            (between(from - 60 * second, from), false),
            (between(from - 60 * second, from + second), true),
            (between(from + second, from + 2 * second), true),
            (between(until - second, until + 60 * second), true),
            (between(until + second, until + 60 * second), false),
        ]
    }

    fn is_told(&self, answer: &Value) {
        assert_eq!(answer["complete"], false, "{answer:#}");
        let [lost] = answer["lost"].as_array().unwrap().as_slice() else {
            panic!("{answer:#}");
        };
        let time = |key: &str| lost[key].as_str().unwrap().parse::<Timestamp>().unwrap();
        let us = |time: Timestamp| time.as_microsecond();
        assert_eq!(lost["reporter"], REPORTER);
        assert_eq!(lost["records"], 7);
        assert_eq!(us(time("from")), us(self.from));
        assert_eq!(us(time("until")), us(self.until));
    }
}

/// Whatever is asked, whenever the service was started; and no answer about another time.
#[test]
fn every_answer_about_the_time_of_a_loss_names_it() {
    let home = Home::new();
    lone::configure(&home, "");
    let loss = Loss::declared(&home);
    let mut audit = lone::start(&home);
    for _ in 0..2 {
        for (time, is_of_it) in loss.times() {
            let query = format!("class:* {time}");
            let counted = format!("{query} | count");
            for asked in [
                &["audit", "search", &query][..],
                &["audit", "search", &counted],
                &["audit", "facets", &query, "--by", "decision"],
                &["audit", "timeline", &query],
            ] {
                let answer = home.json(asked);
                match is_of_it {
                    true => loss.is_told(&answer),
                    false => {
                        assert_eq!(answer["complete"], true, "{asked:?}: {answer:#}");
                        assert_eq!(answer.get("lost"), None);
                    }
                }
            }
        }
        let said = home.says(&["audit", "search", "class:* last:3h"], 0);
        let from = loss.from.to_string();
        let from = format!("{}Z", &from[..19]);
        for word in ["not complete", "7 records", REPORTER, &from] {
            assert!(said.contains(word), "{word}: {said}");
        }
        // With another process the answers are the same.
        assert!(audit.end().success());
        audit = lone::start(&home);
    }
}

/// The row of the declaration and the table of a report have when the records were lost.
#[test]
fn a_declaration_has_its_time_in_its_row_and_in_a_report() {
    let home = Home::new();
    lone::configure(&home, "");
    let loss = Loss::declared(&home);
    let _audit = lone::start(&home);
    let told = wait_for("the declaration", LIMIT, || {
        home.rows("class:spool_event verb:dropped last:1h")?.pop()
    });
    let us = |time: &Value| time.as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!(us(&told["lost_from"]), loss.from);
    assert_eq!(us(&told["lost_until"]), loss.until);
    assert_eq!(
        (&told["dropped_strict"], &told["dropped_best_effort"]),
        (&4.into(), &3.into())
    );
    let made = home.json(&["report", "run", "integrity", "--period", "last:1h"]);
    let sections = made["sections"].as_array().unwrap();
    let losses = sections.iter().find(|s| s["id"] == "losses").unwrap();
    let columns = losses["table"]["columns"].as_array().unwrap();
    let [row] = losses["table"]["rows"].as_array().unwrap().as_slice() else {
        panic!("{losses:#}");
    };
    let cell = |name: &str| &row[columns.iter().position(|c| c["name"] == name).unwrap()];
    for name in ["reporter", "lost_from", "lost_until", "detail"] {
        assert_eq!(cell(name), &told[name]);
    }
    // What a section says to ask again by can be asked.
    let commands = sections
        .iter()
        .flat_map(|s| s["commands"].as_array().unwrap());
    let mut asked = BTreeSet::new();
    for command in commands.map(|command| command.as_str().unwrap()) {
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        let said = home.says(&words, 0);
        assert_eq!(words[1] == "gaps", said.contains(WHY), "{command}: {said}");
        asked.insert(words[1]);
    }
    assert_eq!(asked, BTreeSet::from(["gaps", "verify"]));
}

/// For people, what is missing stands in tables of its own: a loss with how many records, of which
/// time and why, a gap with its stream and its numbers.
#[test]
fn gaps_are_told_to_people_with_their_time_and_their_numbers() {
    let home = Home::new();
    lone::configure(&home, "");
    let log = home.path("state/audit/log");
    grow_of(&log, REPORTER, 1..=3, "/orders");
    grow_of(&log, REPORTER, 7..=7, "/orders");
    grow_of(&log, REPORTER, 4..=6, "/orders");
    let loss = Loss::declared_as(&home, 8);
    let _audit = lone::start(&home);
    let said = wait_for("what is missing", LIMIT, || {
        let said = home.says(&["audit", "gaps"], 0);
        said.contains("closed").then_some(said)
    });
    let line = |words: &[&str]| {
        let mut lines = said.lines();
        let found = lines.find(|line| words.iter().all(|word| line.contains(word)));
        found.unwrap_or_else(|| panic!("{words:?}: {said}"))
    };
    let heads = ["REPORTER", "RECORDS", "FROM (UTC)", "UNTIL (UTC)", "WHY"];
    line(&heads);
    let clock = |time: Timestamp| time.to_string()[..23].to_owned();
    let (from, until) = (clock(loss.from), clock(loss.until));
    let told = line(&[REPORTER, &from, &until, "strict 4, best_effort 3", WHY]);
    assert_eq!(told.split_whitespace().nth(1), Some("7"), "{told}");
    line(&["TIME (UTC)", "GAP", "STREAM", "FIRST", "LAST"]);
    // One that closed is told up to its last number.
    for (word, first) in [("noticed", "4"), ("closed", "…")] {
        let told = line(&[&format!(" {word} "), REPORTER, " worker 0 "]);
        let numbers: Vec<&str> = told.split_whitespace().rev().take(2).collect();
        assert_eq!(numbers, ["6", first], "{told}");
    }
    assert!(!said.contains("STATUS"), "{said}");
}

/// A log in a folder that nobody serves.
#[test]
fn a_report_of_a_folder_tells_what_was_declared_as_lost() {
    let home = Home::new();
    let loss = Loss::declared(&home);
    for (time, is_of_it) in loss.times() {
        let args = ["report", "run", "access", "--period", &time];
        let made = home.json(&[&args[..], &["--log", "state/audit/log"]].concat());
        let lacks = made["header"]["lacks"].as_array().unwrap();
        assert_eq!(made["header"]["complete"], !is_of_it, "{time}: {lacks:?}");
        assert_eq!(lacks.len(), usize::from(is_of_it), "{lacks:?}");
        for lack in lacks {
            let lack = lack.as_str().unwrap();
            assert!(lack.starts_with("7 records were lost by"), "{lack}");
            assert!(lack.contains(REPORTER), "{lack}");
        }
    }
}

/// What is declared later is no matter of a report; one that does not say what was declared before
/// it is found.
#[test]
fn a_report_says_what_was_declared_before_it() {
    let home = Home::new();
    let loss = Loss::declared(&home);
    let hour = SignedDuration::from_hours(1);
    let time = format!("since:{} until:{}", loss.from - hour, loss.until + hour);
    let place = ["--log", "state/audit/log"];
    let run = |to: &str| {
        let args = ["report", "run", "access", "--period", &time, "--to", to];
        let made = home.json(&[&args[..], &place].concat());
        made["header"]["lacks"].as_array().unwrap().len()
    };
    let differences = |file: &str| {
        let checked =
            home.run(&[&["report", "verify", file], &place[..], &["-o", "json"]].concat());
        let checked: Value = serde_json::from_slice(&checked.stdout).unwrap();
        checked["differences"].as_array().unwrap().clone()
    };
    assert_eq!(run("before.json"), 1);
    assert_eq!(differences("before.json"), Vec::<Value>::new());
    Loss::declared_as(&home, 2);
    assert_eq!(differences("before.json"), Vec::<Value>::new());
    assert_eq!(run("after.json"), 2);
    let text = fs::read_to_string(home.path("before.json")).unwrap();
    let mut report: Value = serde_json::from_str(&text).unwrap();
    report["header"]["lacks"] = serde_json::json!([]);
    report["header"]["complete"] = true.into();
    fs::write(home.path("silent.json"), report.to_string()).unwrap();
    let found = differences("silent.json");
    assert!(found.iter().any(|d| d["what"] == "lacks"), "{found:?}");
}
