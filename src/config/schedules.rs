//! Section `audit.schedules`: reports that are made by themselves.

use std::path::PathBuf;

#[cfg(feature = "full")]
use palisade_audit::{
    alert::is_name,
    query::{PSEUDONYM, Query},
    report::{
        Kind,
        package::RECORDS_MOST,
        schedule::{Cron, Span},
    },
};
#[cfg(feature = "full")]
use palisade_mesh::diagnostic::Diagnostic;
use serde::Deserialize;

#[cfg(feature = "full")]
use super::alerts::DeliverSection;

/// Most schedules.
#[cfg(feature = "full")]
const SCHEDULES_MAX: usize = 64;

/// One of `audit.schedules`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSection {
    /// Its name.
    pub name: String,
    /// When: `MINUTE HOUR DAY MONTH WEEKDAY`.
    pub cron: String,
    /// The time zone of that. Default: `UTC`.
    #[serde(default = "default_zone")]
    pub zone: String,
    /// Which report.
    pub report: String,
    /// What it is about: `previous-month`, `last:7d`.
    pub period: String,
    /// What decisions are kept to, as a query. Default: all.
    #[serde(default)]
    pub scope: String,
    /// The files. Default: PDF and JSON.
    #[serde(default = "default_formats")]
    pub formats: Vec<FormatWord>,
    /// Where they are put.
    pub folder: PathBuf,
    /// Most records of a package. Default: 50,000.
    #[serde(default = "default_records_max")]
    pub records_max: usize,
    /// Names of targets that are told. Default: none.
    #[serde(default)]
    pub deliver: Vec<String>,
}

/// A form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormatWord {
    /// A file for each table.
    Csv,
    /// A page.
    Html,
    /// The report itself.
    Json,
    /// OSCAL assessment results.
    Oscal,
    /// All of it, with records and proofs, signed.
    Package,
    /// For print.
    Pdf,
    /// A workbook.
    Xlsx,
}

#[cfg(feature = "full")]
impl ScheduleSection {
    /// When it is due, and what it is about then.
    ///
    /// # Errors
    /// `PLS7940` when it cannot be used.
    pub fn parsed(&self) -> Result<(Cron, Span), Diagnostic> {
        let cron = Cron::parse(&self.cron, &self.zone).map_err(|cause| self.wrong(&cause))?;
        let span = Span::parse(&self.period).map_err(|cause| self.wrong(&cause))?;
        if !is_name(&self.name) {
            return Err(
                self.wrong("its name has other characters than letters, digits, `-` and `_`")
            );
        }
        Kind::find(&self.report).map_err(|d| self.wrong(&d.message))?;
        match Query::parse(&self.scope) {
            Err(mistake) => Err(self.wrong(&mistake.message)),
            Ok(scope) if scope.stage().is_some() => Err(self.wrong("its scope has a summary")),
            Ok(scope) if !scope.names().is_empty() => Err(self
                .wrong("its scope names a person, whom each of its reports would name")
                .help(PSEUDONYM)),
            Ok(_) if self.formats.is_empty() => Err(self.wrong("it has no format")),
            Ok(_) if !(1..=RECORDS_MOST).contains(&self.records_max) => {
                Err(self.wrong(&format!("its `records_max` is not 1 to {RECORDS_MOST}")))
            }
            Ok(_) => Ok((cron, span)),
        }
    }

    fn wrong(&self, cause: &str) -> Diagnostic {
        let name = &self.name;
        Diagnostic::error(7940, format!("the schedule `{name}` cannot be used")).cause(cause)
    }
}

/// What does not fit together in schedules.
#[cfg(feature = "full")]
pub fn check(schedules: &[ScheduleSection], deliver: &[DeliverSection]) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = schedules
        .iter()
        .filter_map(|schedule| schedule.parsed().err())
        .collect();
    let known = |name: &String| deliver.iter().any(|target| target.name == *name);
    for (n, schedule) in schedules.iter().enumerate() {
        let unknown = schedule.deliver.iter().find(|name| !known(name));
        found.extend(
            unknown.map(|name| schedule.wrong(&format!("`audit.deliver` has no `{name}`"))),
        );
        if schedules
            .iter()
            .take(n)
            .any(|other| other.name == schedule.name)
        {
            found.push(schedule.wrong("another one has the same name"));
        }
    }
    if let Some(beyond) = schedules.get(SCHEDULES_MAX) {
        found.push(beyond.wrong(&format!("there are more than {SCHEDULES_MAX}")));
    }
    found
}

fn default_zone() -> String {
    "UTC".to_owned()
}

fn default_records_max() -> usize {
    50_000
}

fn default_formats() -> Vec<FormatWord> {
    vec![FormatWord::Pdf, FormatWord::Json]
}

#[cfg(all(test, feature = "full"))]
mod tests {
    use crate::config::Config;

    fn codes(change: (&str, &str)) -> Vec<u16> {
        let text = "trust_domain: acme.test\naudit:\n  listen: 127.0.0.1:0\n  schedules:\n    - name: monthly\n      cron: 0 6 1 * *\n      report: pci-dss\n      period: previous-month\n      folder: reports\n      zone: UTC\n";
        let text = text.replace(change.0, change.1);
        let found = Config::parse("m.yaml", &text).err().unwrap_or_default();
        found.iter().map(|d| d.code.0).collect()
    }

    #[test]
    fn schedules_are_checked_before_anything_starts() {
        assert_eq!(codes(("", "")), [0_u16; 0]);
        assert_eq!(
            codes((
                "UTC",
                "UTC\n      formats: [package, csv]\n      scope: service:orders\n      records_max: 1000000"
            )),
            [0_u16; 0]
        );
        assert_eq!(codes(("previous-month", "last:400d")), [0_u16; 0]);
        let of_somebody = "UTC\n      scope: subject:p-00112233445566778899aabbccddeeff";
        assert_eq!(codes(("UTC", of_somebody)), [0_u16; 0]);
        for of_policies in ["access-review", "reach", "unused"] {
            assert_eq!(codes(("pci-dss", of_policies)), [0_u16; 0]);
        }
        for (from, to) in [
            ("0 6 1 * *", "0 6 1 *"),
            ("zone: UTC", "zone: Nowhere/Land"),
            ("pci-dss", "pci"),
            ("previous-month", "last:401d"),
            ("UTC", "UTC\n      records_max: 0"),
            ("UTC", "UTC\n      records_max: 1000001"),
            ("previous-month", "next-month"),
            ("UTC", "UTC\n      scope: srvice:orders"),
            ("UTC", "UTC\n      scope: subject:alice@example.org"),
            ("UTC", "UTC\n      scope: -subject:alice@example.org"),
            ("UTC", "UTC\n      formats: []"),
            ("UTC", "UTC\n      deliver: [ops]"),
            ("name: monthly", "name: mon/thly"),
        ] {
            assert_eq!(codes((from, to)), [7940], "{to}");
        }
        assert_eq!(codes(("UTC", "UTC\n      formats: [docx]")), [8003]);
    }
}
