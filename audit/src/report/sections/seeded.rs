//! Logs whose reports can be worked out by hand, for the tests of sections.

use palisade_mesh::{
    clock::Clock,
    wire::record::{Record, record::Body},
};
use prost::Message as _;

use crate::{
    query::time::rfc3339,
    report::{Report, Section, package::tests::Stage},
    stream::new_ulid,
};

/// What the log says of itself.
pub(super) const AUDIT: &str = "spiffe://acme.test/palisade/audit";

pub(super) const SECOND: i64 = 1_000_000;
pub(super) const MINUTE: i64 = 60 * SECOND;

/// Records of a mesh, by how long ago they are. A report is about the last hour.
pub(super) struct Seeded {
    now_us: i64,
    records: Vec<Record>,
}

impl Seeded {
    pub(super) fn new() -> Self {
        Self {
            now_us: Clock::system().now_us(),
            records: Vec::new(),
        }
    }

    /// A record of so many microseconds ago.
    pub(super) fn ago(&mut self, us: i64, reporter: &str, body: Body) -> &mut Record {
        self.records.push(Record {
            id: new_ulid(&Clock::system()).to_bytes().to_vec(),
            time_us: self.now_us - us,
            reporter: reporter.into(),
            body: Some(body),
            ..Record::default()
        });
        self.records.last_mut().unwrap()
    }

    /// The time so many microseconds ago, as records have it.
    pub(super) fn time_us(&self, us: i64) -> i64 {
        self.now_us - us
    }

    /// The same as reports have it.
    pub(super) fn time(&self, us: i64) -> String {
        rfc3339(self.time_us(us))
    }

    /// A report about what was recorded.
    pub(super) async fn made(&self, kind: &str) -> Report {
        let records = self.records.iter();
        let records = records.map(|record| record.encode_to_vec().into());
        Stage::of(records).await.made(kind).0
    }
}

pub(super) fn section<'r>(report: &'r Report, id: &str) -> &'r Section {
    report.sections.iter().find(|s| s.id == id).unwrap()
}

/// All figures of a section, in order.
pub(super) fn figures(section: &Section) -> Vec<(&str, &str)> {
    let figures = section.figures.iter();
    figures
        .map(|f| (f.label.as_str(), f.value.as_str()))
        .collect()
}

/// These columns of the table of a section, row by row; that all rows are shown is part of it.
pub(super) fn cells<'s, const N: usize>(
    section: &'s Section,
    columns: [&str; N],
) -> Vec<[&'s str; N]> {
    let table = section.table.as_ref().unwrap();
    assert_eq!(table.total, table.rows.len() as u64, "{table:#?}");
    let places = columns.map(|name| {
        let place = table.columns.iter().position(|c| c.name == name);
        place.unwrap_or_else(|| panic!("no column `{name}`: {:?}", table.columns))
    });
    let cells = |row: &'s Vec<String>| places.map(|place| row[place].as_str());
    table.rows.iter().map(cells).collect()
}
