//! What stands in a report, as it is encoded.

use serde_json::Value;

/// The section of this id.
pub fn section<'r>(report: &'r Value, id: &str) -> &'r Value {
    let mut sections = report["sections"].as_array().unwrap().iter();
    let found = sections.find(|section| section["id"] == id);
    found.unwrap_or_else(|| panic!("no section {id}: {report:#}"))
}

/// The figure of a section that has this label.
pub fn figure<'r>(section: &'r Value, label: &str) -> &'r str {
    let mut figures = section["figures"].as_array().unwrap().iter();
    let figure = figures.find(|figure| figure["label"] == label);
    let figure = figure.unwrap_or_else(|| panic!("no figure {label}: {section:#}"));
    figure["value"].as_str().unwrap()
}

/// The rows of a section, as lists of texts.
pub fn rows(section: &Value) -> Vec<Vec<&str>> {
    let rows = section["table"]["rows"].as_array().unwrap().iter();
    rows.map(|row| {
        let cells = row.as_array().unwrap().iter();
        cells.map(|cell| cell.as_str().unwrap()).collect()
    })
    .collect()
}

/// The cells of one column of a section, a row each.
pub fn column<'r>(section: &'r Value, name: &str) -> Vec<&'r str> {
    let mut columns = section["table"]["columns"].as_array().unwrap().iter();
    let at = columns.position(|column| column["name"] == name);
    let at = at.unwrap_or_else(|| panic!("no column {name}: {section:#}"));
    rows(section).into_iter().map(|row| row[at]).collect()
}
