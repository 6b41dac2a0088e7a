//! Rules over the log as it grows: so many records that a query asks for, within so long.
//!
//! Pure: records go in, in the order of the log, and what is met comes out. The only clock
//! is the time at which the log received a record, so whoever goes through the same
//! records again finds the same, and nothing that a reporter writes moves it. A firing's id
//! follows from rule, group and record: found again, it is the same.

use std::collections::{BTreeMap, VecDeque};

use palisade_mesh::wire::record::{Alert, record::Body};
use serde::{Deserialize, Serialize};

use crate::item::Item;

mod counts;
mod firing;
mod rule;

use counts::Counts;
pub use firing::Firing;
pub use rule::{
    BUILT_IN, GROUP_LEN_MAX, GROUPS_MAX, NAME_LEN_MAX, RULES_MAX, Rule, RuleText, Severity,
    THRESHOLD_MAX, TIMES_MAX, WINDOW_MAX_US, is_name,
};

/// Verb of the record of a message that was given up. It sets off no rule: what came of an
/// alert that cannot be delivered would be the next one.
pub const UNDELIVERED: &str = "undelivered";
/// Open firings that are listed; beyond, the oldest is forgotten here, and stays in the log.
pub const OPEN_MAX: usize = 1000;

/// An open firing: nobody has answered for it yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Its id.
    pub id: String,
    /// The rule.
    pub rule: String,
    /// The severity, as it was recorded.
    pub severity: String,
    /// The group.
    pub group: String,
    /// How many records met it.
    pub count: u64,
    /// When, microseconds since the Unix epoch.
    pub at_us: i64,
}

/// How far the rules have read, what they have counted, and what is open.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Book {
    /// Index of the next record to read.
    pub position: u64,
    counts: BTreeMap<String, Counts>,
    open: VecDeque<Open>,
}

impl Book {
    /// One that begins at `position`.
    pub fn at(position: u64) -> Self {
        Self {
            position,
            ..Self::default()
        }
    }

    /// Drops the counts of rules that are gone or ask something else now; those that are
    /// new begin at `end`.
    pub fn keep_to(&mut self, rules: &[Rule], end: u64) {
        self.counts.retain(|name, counts| {
            let rule = rules.iter().find(|rule| rule.name == *name);
            rule.is_some_and(|rule| rule.fingerprint() == counts.fingerprint)
        });
        for rule in rules {
            let counts = self.counts.entry(rule.name.clone());
            counts.or_insert_with(|| Counts {
                begins: end,
                ..Counts::of(rule)
            });
        }
    }

    /// Groups of the rule `name` that had to be forgotten while they were being counted.
    pub fn forgotten(&self, name: &str) -> u64 {
        self.counts.get(name).map_or(0, |counts| counts.forgotten)
    }

    /// Reads the next record of the log; what it meets.
    pub fn take(&mut self, rules: &[Rule], item: &Item) -> Vec<Firing> {
        self.position = item.at + 1;
        // What alerts leave behind does not set off others.
        match &item.record.body {
            Some(Body::Alert(alert)) => {
                self.note(alert, item);
                return Vec::new();
            }
            Some(Body::Admin(admin))
                if admin.verb == UNDELIVERED && admin.actor == item.record.reporter =>
            {
                return Vec::new();
            }
            _ => {}
        }
        let met = rules.iter().filter(|rule| rule.query.matches(item));
        met.filter_map(|rule| self.count(rule, item)).collect()
    }

    /// Firings that nobody has answered for, oldest first.
    pub fn open(&self) -> impl DoubleEndedIterator<Item = &Open> {
        self.open.iter()
    }

    /// Counts one record; whether that is enough.
    fn count(&mut self, rule: &Rule, item: &Item) -> Option<Firing> {
        let counts = self
            .counts
            .entry(rule.name.clone())
            .or_insert_with(|| Counts::of(rule));
        if item.at < counts.begins {
            return None;
        }
        let (name, now_us) = (rule.group_of(item), item.received_us);
        if counts.is_quiet(rule, &name, now_us) {
            return None;
        }
        let from_us = counts.reaches(rule, &name, now_us)?;
        counts.hush(rule, &name, now_us);
        Some(Firing {
            id: Firing::identify(&rule.name, &name, item.at, now_us),
            rule: rule.name.clone(),
            severity: rule.severity,
            group: name,
            count: rule.threshold,
            threshold: rule.threshold,
            from_us,
            until_us: now_us,
            query: rule.query().to_owned(),
            entry: item.at,
        })
    }

    fn note(&mut self, alert: &Alert, item: &Item) {
        let Ok(id) = <[u8; 16]>::try_from(alert.firing.as_slice()) else {
            return;
        };
        let id = ulid::Ulid::from_bytes(id).to_string();
        self.open.retain(|open| open.id != id);
        if alert.verb != "fired" {
            return;
        }
        if self.open.len() >= OPEN_MAX {
            self.open.pop_front();
        }
        self.open.push_back(Open {
            id,
            rule: alert.rule.clone(),
            severity: alert.severity.clone(),
            group: alert.group.clone(),
            count: alert.count,
            at_us: item.time_us,
        });
    }
}

#[cfg(test)]
mod tests;
