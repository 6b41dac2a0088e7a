//! A report as a document: what is written to files, shown to people, and made again.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use crate::{checkpoint::Checkpoint, query::time::rfc3339};

/// Version of the document: another one where a report of the same log has other sections,
/// columns or texts.
pub const FORMAT: u32 = 5;

/// A report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// What it is called on the command line.
    pub name: String,
    /// Its title.
    pub title: String,
    /// The question it answers.
    pub question: String,
    /// What it covers and what it rests on.
    pub header: Header,
    /// Its parts.
    pub sections: Vec<Section>,
}

/// What a report covers and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Which log: `palisade/TRUST_DOMAIN`.
    pub log: String,
    /// Beginning of the period, RFC 3339.
    pub from: String,
    /// End of the period, exclusive.
    pub to: String,
    /// What decisions were kept to, as a query; empty for all.
    pub scope: String,
    /// When it was made.
    pub made: String,
    /// Records of every class in the period, under the checkpoint.
    pub records: u64,
    /// Decisions of the scope among them.
    pub decisions: u64,
    /// Rows of evidence in the report.
    pub rows: u64,
    /// The signed checkpoint that every number is bounded by: records 0 to before its size.
    pub checkpoint: Mark,
    /// Whether everything that the log should have in the period was considered.
    pub complete: bool,
    /// Why not.
    pub lacks: Vec<String>,
    /// When the log begins, where that is after the period does: before it, nothing was
    /// recorded.
    pub begins: Option<String>,
    /// Whether it is about a demo mesh.
    pub demo: bool,
    /// Controls it is evidence for.
    pub controls: Vec<String>,
    /// The version of the program that made it.
    pub program: String,
}

/// A signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Records under it.
    pub size: u64,
    /// Root of the Merkle tree over them, base64.
    pub root: String,
    /// When it was signed.
    pub time: String,
    /// The signed note itself, for whoever has the log's public key.
    pub note: String,
}

impl Mark {
    /// That of a checkpoint.
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            size: checkpoint.size,
            root: BASE64.encode(checkpoint.root),
            time: rfc3339(checkpoint.time.as_microsecond()),
            note: checkpoint.note.clone(),
        }
    }
}

/// A part of a report: one query or fact, and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Its name within the report.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Controls it is evidence for.
    pub controls: Vec<String>,
    /// What it shows and how to read it.
    pub narrative: String,
    /// The queries that give its numbers.
    pub queries: Vec<String>,
    /// The commands that show the same of the running mesh, where no query does.
    pub commands: Vec<String>,
    /// Single numbers.
    pub figures: Vec<Figure>,
    /// A chart.
    pub chart: Option<Chart>,
    /// Rows of evidence.
    pub table: Option<Table>,
    /// A text that goes with it, such as a patch.
    pub listing: Option<String>,
    /// What the log cannot show.
    pub cannot_show: Vec<String>,
    /// Whether it describes the whole log as it was when the report was made. Such a
    /// section is not the same when it is made again later: what moved is told.
    pub momentary: bool,
    /// Whether policies were asked for it, too.
    pub of_policies: bool,
}

/// A number with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    /// What it counts.
    pub label: String,
    /// The number, or a word.
    pub value: String,
}

/// A chart of counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chart {
    /// What is counted.
    pub title: String,
    /// How it is drawn.
    pub shape: Shape,
    /// What is told apart within each point.
    pub series: Vec<String>,
    /// The points, in order.
    pub points: Vec<Point>,
}

/// How a chart is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Bars to the right, one below the other, with their names.
    Bars,
    /// Columns over time.
    Columns,
}

/// One bar or column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Its name, or its start in time.
    pub label: String,
    /// A count for each series.
    pub values: Vec<u64>,
}

/// Rows of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows that are shown.
    pub rows: Vec<Vec<Cell>>,
    /// How many there are.
    pub total: u64,
}

/// A text of a table; what it is says its column.
pub type Cell = String;

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its head.
    pub name: String,
    /// What its cells are.
    pub kind: CellKind,
}

/// What cells are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellKind {
    /// Left empty, for people to fill in.
    Blank,
    /// A whole number.
    Number,
    /// A text.
    Text,
    /// A moment, RFC 3339, UTC.
    Time,
}

impl Report {
    /// Puts sections before the others, and counts their rows.
    pub fn put_first(&mut self, sections: Vec<Section>) {
        self.header.rows = self.header.rows.saturating_add(rows_of(&sections));
        self.sections.splice(0..0, sections);
    }

    /// Rows of evidence in its tables.
    pub(super) fn rows(&self) -> u64 {
        rows_of(&self.sections)
    }

    /// The sections that policies have to be asked about.
    pub fn of_policies(&self) -> Vec<Section> {
        let sections = self.sections.iter();
        sections.filter(|s| s.of_policies).cloned().collect()
    }

    /// Takes out those of [`Report::of_policies`]; the others are made from the log alone.
    pub fn take_of_policies(&mut self) -> Vec<Section> {
        let sections = std::mem::take(&mut self.sections);
        let (of_policies, others) = sections.into_iter().partition(|s| s.of_policies);
        self.sections = others;
        self.header.rows = self.header.rows.saturating_sub(rows_of(&of_policies));
        of_policies
    }
}

fn rows_of(sections: &[Section]) -> u64 {
    let tables = sections.iter().filter_map(|s| s.table.as_ref());
    let rows: usize = tables.map(|table| table.rows.len()).sum();
    u64::try_from(rows).unwrap_or(u64::MAX)
}

impl Section {
    /// An empty section.
    pub fn new(id: &str, title: &str, narrative: &str) -> Self {
        Self {
            id: id.to_owned(),
            title: title.to_owned(),
            controls: Vec::new(),
            narrative: narrative.to_owned(),
            queries: Vec::new(),
            commands: Vec::new(),
            figures: Vec::new(),
            chart: None,
            table: None,
            listing: None,
            cannot_show: Vec::new(),
            momentary: false,
            of_policies: false,
        }
    }

    /// With one more number.
    #[must_use]
    pub fn figure(mut self, label: &str, value: impl ToString) -> Self {
        self.figures.push(Figure {
            label: label.to_owned(),
            value: value.to_string(),
        });
        self
    }

    /// With one more command that shows it.
    #[must_use]
    pub fn command(mut self, command: &str) -> Self {
        self.commands.push(command.to_owned());
        self
    }

    /// With one more thing that the log cannot show.
    #[must_use]
    pub fn cannot_show(mut self, what: &str) -> Self {
        self.cannot_show.push(what.to_owned());
        self
    }

    /// As one that policies were asked for, too.
    #[must_use]
    pub fn of_policies(mut self) -> Self {
        self.of_policies = true;
        self
    }

    /// As one that describes the whole log as it is now.
    #[must_use]
    pub fn momentary(mut self) -> Self {
        self.momentary = true;
        self
    }
}

impl Table {
    /// A table of these columns, without rows.
    pub fn new(columns: &[(&str, CellKind)]) -> Self {
        let column = |(name, kind): &(&str, CellKind)| Column {
            name: (*name).to_owned(),
            kind: *kind,
        };
        Self {
            columns: columns.iter().map(column).collect(),
            rows: Vec::new(),
            total: 0,
        }
    }
}
