//! Keeps `docs/reference/audit-query.md` true: its table of fields is this
//! program's, its examples parse, its limits are the constants.

use std::fmt::Write;

use super::{FIELDS, QUERY_DEPTH_MAX, QUERY_TESTS_MAX, Query};

const PAGE: &str = include_str!("../../../docs/reference/audit-query.md");

fn table() -> String {
    let mut table =
        String::from("| field | values | | of | says | example |\n|---|---|---|---|---|---|\n");
    for field in FIELDS {
        let all = field.classes == super::field::CLASSES;
        let classes = if all {
            "every class".to_owned()
        } else {
            field.classes.join(", ")
        };
        let tick = if field.countable { "✓" } else { "" };
        writeln!(
            table,
            "| `{}` | {} | {tick} | {classes} | {} | `{}` |",
            field.name,
            field.kind.describe(),
            field.help,
            field.example
        )
        .unwrap();
    }
    table
}

#[test]
fn the_table_of_fields_is_this_one() {
    let (_, rest) = PAGE.split_once("<!-- fields: begin").unwrap();
    let (_, rest) = rest.split_once("-->\n").unwrap();
    let (on_page, _) = rest.split_once("<!-- fields: end").unwrap();
    let table = table();
    assert!(on_page == table, "put this between the marks:\n{table}");
}

#[test]
fn the_examples_of_the_page_parse() {
    let (_, rest) = PAGE.split_once("```\n").unwrap();
    let (examples, _) = rest.split_once("```").unwrap();
    for line in examples.lines() {
        Query::parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    let cells = PAGE
        .lines()
        .take_while(|line| !line.starts_with("## Fields"))
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.split(" | ").next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2));
    for query in cells {
        let query = query.replace("\\|", "|");
        Query::parse(&query).unwrap_or_else(|e| panic!("{query}: {e}"));
    }
}

#[test]
fn the_limits_of_the_page_are_the_constants() {
    for limit in [
        format!("{QUERY_TESTS_MAX} tests"),
        format!("{QUERY_DEPTH_MAX} levels"),
        format!("at most {} bytes", "4,096"),
    ] {
        assert!(PAGE.contains(&limit), "{limit}");
    }
    assert_eq!(super::QUERY_LEN_MAX, 4096);
    assert_eq!(super::TOP_DEFAULT, 20);
    assert_eq!(super::TOP_MAX, 1000);
    assert_eq!(super::BY_MAX, 4);
    assert_eq!(super::STEPS_MAX, 5000);
}
