//! The table of the threat model and the tests name each other.

use std::{collections::BTreeSet, fs, ops::RangeInclusive, path::Path};

/// Numbers of the cases that the table must have.
const CASES: [RangeInclusive<u32>; 9] = [
    1..=19,
    20..=24,
    30..=34,
    40..=50,
    51..=58,
    60..=66,
    70..=76,
    80..=87,
    90..=106,
];

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

/// Names of the functions in the Rust files below a folder.
fn functions(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let names = text.lines().filter_map(|l| {
                    let line = l.trim_start();
                    let line = line.strip_prefix("async ").unwrap_or(line);
                    let (name, _) = line.strip_prefix("fn ")?.split_once('(')?;
                    Some(name.to_owned())
                });
                found.extend(names);
            }
        }
    }
    found
}

/// Names of the tests here that begin with the number of a case, `t12_…`.
fn tests() -> BTreeSet<String> {
    let mut found = functions(&root().join("tests/attacks"));
    found.retain(|name| !numbers(name).is_empty());
    found
}

/// Names of tests beside the code and of other stories, which have no number.
fn elsewhere() -> BTreeSet<String> {
    let folders = [
        "mesh/src",
        "proxy/src",
        "pdp/src",
        "ca/src",
        "audit/src",
        "audit/tests",
        "src",
        "tests",
    ];
    folders
        .iter()
        .flat_map(|f| functions(&root().join(f)))
        .collect()
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
    let known = elsewhere();
    for row in rows() {
        let reasoned = row.text.contains("does not apply");
        assert!(!row.tests.is_empty() || reasoned, "{}", row.text);
        for name in row.tests {
            assert!(known.contains(&name), "no test is called {name}");
            let own = numbers(&name);
            assert!(
                own.is_empty() || own.contains(&row.number),
                "{name}: {}",
                row.text
            );
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
