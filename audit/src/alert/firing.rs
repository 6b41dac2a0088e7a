//! That a rule was met, and the record of it.

use palisade_mesh::wire::record::{Alert, Record, record::Body};
use serde::{Deserialize, Serialize};

use super::rule::{Severity, bounded};
use crate::merkle::sha256;

/// That a rule was met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firing {
    /// ULID: of the moment, and the same for the same rule, group and record.
    pub id: String,
    /// The rule.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// The group; empty without one.
    pub group: String,
    /// How many records met it, and from how many on it is met.
    pub count: u64,
    /// The threshold.
    pub threshold: u64,
    /// When the first of them was received, microseconds since the Unix epoch.
    pub from_us: i64,
    /// When the last of them was received.
    pub until_us: i64,
    /// What the rule asks for.
    pub query: String,
    /// Index in the log of the last of them.
    pub entry: u64,
}

impl Firing {
    /// The id of a firing.
    pub(super) fn identify(rule: &str, group: &str, entry: u64, at_us: i64) -> String {
        let text = format!("{rule}\n{group}\n{entry}\n{at_us}");
        let digest = sha256(text.as_bytes());
        let random = digest
            .first_chunk::<16>()
            .map_or(0, |b| u128::from_be_bytes(*b));
        let ms = u64::try_from(at_us / 1000).unwrap_or_default();
        ulid::Ulid::from_parts(ms, random).to_string()
    }

    /// That something which is no record was met: `group`, as it is since `at_us`.
    pub fn of_state(rule: &str, severity: Severity, group: &str, at_us: i64, what: &str) -> Self {
        Self {
            id: Self::identify(rule, group, 0, at_us),
            rule: rule.to_owned(),
            severity,
            group: bounded(group).into_owned(),
            count: 1,
            threshold: 1,
            from_us: at_us,
            until_us: at_us,
            query: what.to_owned(),
            entry: 0,
        }
    }

    /// The record of it, without a reporter.
    pub fn record(&self) -> Record {
        let id = self
            .id
            .parse::<ulid::Ulid>()
            .map(|id| id.to_bytes().to_vec());
        let id = id.unwrap_or_default();
        Record {
            id: id.clone(),
            time_us: self.until_us,
            body: Some(Body::Alert(Alert {
                verb: "fired".to_owned(),
                rule: self.rule.clone(),
                severity: self.severity.as_str().to_owned(),
                group: self.group.clone(),
                count: self.count,
                threshold: self.threshold,
                from_us: self.from_us,
                until_us: self.until_us,
                query: self.query.clone(),
                firing: id,
                entry: self.entry,
                ..Alert::default()
            })),
            ..Record::default()
        }
    }
}
