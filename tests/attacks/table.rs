//! The table of the threat model and the tests name each other.

use std::{collections::BTreeSet, fs, ops::RangeInclusive, path::Path};

/// Numbers of the cases that the table must have.
const CASES: [RangeInclusive<u32>; 5] = [1..=19, 20..=24, 30..=34, 70..=76, 80..=87];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A row of the page.
struct Row {
    number: u32,
    tests: BTreeSet<String>,
    text: String,
}

/// Every row that begins with the number of a case.
fn rows() -> Vec<Row> {
    let page = fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| T")?.split(" | ").collect();
        let digits = cells[0].split(' ').next()?;
        let last = cells.last()?;
        Some(Row {
            number: digits.parse().ok()?,
            tests: last
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect(),
            text: line.to_owned(),
        })
    };
    page.lines().filter_map(row).collect()
}

/// Names of the tests here that begin with the number of a case, `t12_…`.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(root().join("tests/attacks")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let names = text.lines().filter_map(|l| {
            let (name, _) = l.trim_start().strip_prefix("fn ")?.split_once('(')?;
            name.strip_prefix('t')?
                .starts_with(|c: char| c.is_ascii_digit())
                .then_some(name)
        });
        found.extend(names.map(str::to_owned));
    }
    found
}

/// The numbers at the start of a test's name: `t20_t21_x` is of two cases.
fn numbers(name: &str) -> Vec<u32> {
    name.split('_')
        .map_while(|part| part.strip_prefix('t')?.parse().ok())
        .collect()
}

#[test]
fn every_case_has_its_row() {
    let rows = rows();
    for number in CASES.into_iter().flatten() {
        assert!(
            rows.iter().any(|r| r.number == number),
            "T{number} has no row"
        );
    }
}

/// A row without a test says why, in words.
#[test]
fn every_row_names_tests_that_exist_or_a_reason() {
    let tests = tests();
    for row in rows() {
        let reasoned = row.text.contains("does not apply");
        assert!(!row.tests.is_empty() || reasoned, "{}", row.text);
        for name in row.tests {
            assert!(tests.contains(&name), "no test is called {name}");
            assert!(numbers(&name).contains(&row.number), "{name}: {}", row.text);
        }
    }
}

#[test]
fn every_test_of_a_case_is_in_the_table() {
    let rows = rows();
    for name in tests() {
        for number in numbers(&name) {
            let mut own = rows.iter().filter(|r| r.number == number);
            assert!(
                own.any(|r| r.tests.contains(&name)),
                "{name} is not in a row of T{number}"
            );
        }
    }
}
