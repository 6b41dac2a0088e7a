//! The sections of a report, each against what came of making it again.

use std::collections::BTreeSet;

use super::{Checked, Difference};
use crate::report::{
    CellKind, Column, Report, Section, packs,
    sections::{beyond, integrity},
};

const CANNOT_SHOW: &str = "what it cannot show";

/// Figures of momentary sections that follow from the records under the checkpoint.
const OF_RECORDS: [&str; 4] = [
    integrity::SIZE,
    integrity::ROOT,
    integrity::SIGNED,
    beyond::CONFLICTS,
];

impl Checked {
    /// The controls at a glance, of which each word is from the sections below them.
    pub(super) fn at_a_glance(&mut self, report: &Report) {
        let own = packs::at_a_glance_of(&report.name, &report.sections);
        let said = own.as_ref().and_then(|own| {
            let mut sections = report.sections.iter();
            sections.find(|section| section.id == own.id)
        });
        // One that is absent is found where the sections are compared.
        if let (Some(said), Some(own)) = (said, own) {
            self.section(said, &own);
        }
    }

    /// `of_log` says whether both are of the same whole log.
    pub(super) fn sections(&mut self, report: &[Section], again: &[Section], of_log: bool) {
        let ids = |sections: &[Section]| -> String {
            let ids: Vec<&str> = sections.iter().map(|s| s.id.as_str()).collect();
            ids.join(", ")
        };
        self.same("header", "sections", &ids(report), &ids(again));
        for section in report {
            let Some(found) = again.iter().find(|s| s.id == section.id) else {
                self.same(&section.id, "section", "there", "absent");
                continue;
            };
            self.texts(section, found);
            if section.id == packs::AT_A_GLANCE {
                continue;
            }
            if found.momentary && !(of_log && beyond::is_of_period(found)) {
                self.momentary.push(section.id.clone());
                self.of_records(section, found);
                self.pictured(section, found);
                continue;
            }
            self.section(section, found);
        }
        for found in again {
            if !report.iter().any(|s| s.id == found.id) {
                self.same(&found.id, "section", "absent", "there");
            }
        }
    }

    /// What of sections that describe the log as it was then is otherwise now.
    pub(super) fn moved(&mut self, report: &[Section], again: &[Section]) {
        for section in report.iter().filter(|s| self.momentary.contains(&s.id)) {
            let Some(now) = again.iter().find(|now| now.id == section.id) else {
                continue;
            };
            let of = |section: &Section| -> Vec<(String, String)> {
                let figures = section.figures.iter();
                let figures = figures.map(|f| (f.label.clone(), f.value.clone()));
                let others = [
                    ("rows in all".to_owned(), total_of(section).to_string()),
                    (CANNOT_SHOW.to_owned(), section.cannot_show.join("\n")),
                ];
                figures.chain(others).collect()
            };
            let mut moved = |what: String, report: String, log: String| {
                self.moved.push(Difference {
                    section: section.id.clone(),
                    what,
                    report,
                    log,
                });
            };
            for ((what, then), (_, now)) in of(section).into_iter().zip(of(now)) {
                if then != now && !OF_RECORDS.contains(&what.as_str()) {
                    moved(what, then, now);
                }
            }
            if let Some((first, more)) = beyond(section, now) {
                moved("row".to_owned(), first, no_such_row(more));
            }
            if !is_cut_as(section, now)
                && let Some((first, more)) = beyond(now, section)
            {
                moved("row".to_owned(), no_such_row(more), first);
            }
        }
    }

    /// What is the same whenever the section is made.
    fn texts(&mut self, section: &Section, found: &Section) {
        let id = section.id.as_str();
        for (what, said, found) in [
            ("title", section.title.clone(), found.title.clone()),
            ("text", section.narrative.clone(), found.narrative.clone()),
            (
                "controls",
                section.controls.join("\n"),
                found.controls.join("\n"),
            ),
            (
                "queries",
                section.queries.join("\n"),
                found.queries.join("\n"),
            ),
            (
                "commands",
                section.commands.join("\n"),
                found.commands.join("\n"),
            ),
            (
                "momentary",
                section.momentary.to_string(),
                found.momentary.to_string(),
            ),
            (
                "of policies",
                section.of_policies.to_string(),
                found.of_policies.to_string(),
            ),
        ] {
            self.same(id, what, &said, &found);
        }
        let labels = |section: &Section| -> String {
            let labels: Vec<&str> = section.figures.iter().map(|f| f.label.as_str()).collect();
            labels.join("\n")
        };
        self.same(id, "names of the figures", &labels(section), &labels(found));
        // A momentary section may have a table only then, or only now.
        let columns = |section: &Section| {
            section
                .table
                .as_ref()
                .map(|t| format!("{:?}", names(&t.columns)))
        };
        match (columns(section), columns(found)) {
            (None, None) => {}
            (None, Some(_)) | (Some(_), None) if found.momentary => {}
            (said, found) => {
                let (said, found) = (said.unwrap_or_default(), found.unwrap_or_default());
                self.same(id, "columns", &said, &found);
            }
        }
    }

    /// The figures of a momentary section that are the same whenever it is made.
    fn of_records(&mut self, section: &Section, found: &Section) {
        for label in OF_RECORDS {
            let value = |section: &Section| {
                let mut figures = section.figures.iter();
                let figure = figures.find(|figure| figure.label == label);
                figure.map(|figure| figure.value.clone())
            };
            if let (Some(said), Some(found)) = (value(section), value(found)) {
                self.same(&section.id, label, &said, &found);
            }
        }
    }

    fn section(&mut self, section: &Section, found: &Section) {
        let id = section.id.as_str();
        let cannot = |section: &Section| section.cannot_show.join("\n");
        self.same(id, CANNOT_SHOW, &cannot(section), &cannot(found));
        let figures = |section: &Section| -> Vec<String> {
            let figures = section.figures.iter();
            figures
                .map(|f| format!("{}: {}", f.label, f.value))
                .collect()
        };
        self.list(id, "figure", figures(section), figures(found));
        self.pictured(section, found);
        // What people fill in is theirs: by the columns that were found, not those of the file.
        let columns = found.table.as_ref().map_or(&[][..], |t| &t.columns);
        let line = |row: &Vec<String>| line(row, columns);
        let (said, there) = (rows_of(section).iter(), rows_of(found).iter());
        self.list(id, "row", said.map(line), there.map(line));
        let (said, there) = (total_of(section), total_of(found));
        self.same(id, "rows in all", &said.to_string(), &there.to_string());
    }

    /// The chart, and the text that goes with a section. One that describes the whole log has
    /// neither.
    fn pictured(&mut self, section: &Section, found: &Section) {
        let id = section.id.as_str();
        let chart = |section: &Section| {
            let chart = section.chart.as_ref();
            chart.map_or_else(String::new, |c| {
                format!("{:?}, {:?}, {:?}", c.title, c.shape, c.series)
            })
        };
        self.same(id, "chart", &chart(section), &chart(found));
        let points = |section: &Section| -> Vec<String> {
            let points = section.chart.iter().flat_map(|chart| &chart.points);
            points
                .map(|p| format!("{}: {:?}", p.label, p.values))
                .collect()
        };
        self.list(id, "point of the chart", points(section), points(found));
        let listing = |section: &Section| section.listing.clone().unwrap_or_default();
        self.same(id, "listing", &listing(section), &listing(found));
    }

    fn list(
        &mut self,
        section: &str,
        what: &str,
        report: impl IntoIterator<Item = String>,
        again: impl IntoIterator<Item = String>,
    ) {
        let (mut said, mut found) = (report.into_iter(), again.into_iter());
        let mut n = 0_u64;
        loop {
            n += 1;
            let what = format!("{what} {n}");
            match (said.next(), found.next()) {
                (None, None) => return,
                (said, found) => {
                    let absent = || "absent".to_owned();
                    let (said, found) = (said.unwrap_or_else(absent), found.unwrap_or_else(absent));
                    self.same(section, &what, &said, &found);
                }
            }
        }
    }
}

fn rows_of(section: &Section) -> &[Vec<String>] {
    section.table.as_ref().map_or(&[][..], |table| &table.rows)
}

/// How many rows there are, those that are not shown among them.
fn total_of(section: &Section) -> u64 {
    section.table.as_ref().map_or(0, |table| table.total)
}

/// The first row of a section that another one does not have, and how many more there are.
fn beyond(section: &Section, other: &Section) -> Option<(String, usize)> {
    let other: BTreeSet<&Vec<String>> = rows_of(other).iter().collect();
    let mut beyond = rows_of(section).iter().filter(|row| !other.contains(row));
    let first = beyond.next()?.join(", ");
    Some((first, beyond.count()))
}

fn no_such_row(more: usize) -> String {
    match more {
        0 => "no such row".to_owned(),
        more => format!("no such row, nor {more} others"),
    }
}

/// Whether the tables of both end where a report has no room for more: then other rows may
/// stand in their place.
fn is_cut_as(then: &Section, now: &Section) -> bool {
    let is_cut = |section: &Section| {
        let rows = u64::try_from(rows_of(section).len()).unwrap_or(u64::MAX);
        total_of(section) > rows
    };
    is_cut(then) && is_cut(now) && rows_of(then).len() >= rows_of(now).len()
}

fn names(columns: &[Column]) -> Vec<(&str, CellKind)> {
    columns.iter().map(|c| (c.name.as_str(), c.kind)).collect()
}

/// The cells of a row without those that people fill in, told apart.
fn line(row: &[String], columns: &[Column]) -> String {
    let cells = row.iter().enumerate().filter(|(i, _)| {
        let column = columns.get(*i);
        column.is_none_or(|column| column.kind != CellKind::Blank)
    });
    let cells: Vec<&str> = cells.map(|(_, cell)| cell.as_str()).collect();
    format!("{cells:?}")
}
