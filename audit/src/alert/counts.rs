//! What one rule has counted, group by group, bounded.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::rule::{GROUPS_MAX, Rule};

/// What a rule has counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) fingerprint: String,
    /// Index of the first record that it is asked about.
    pub(super) begins: u64,
    /// Times at which records of a group came, the newest last; fewer than the threshold,
    /// and none without one.
    pub(super) groups: BTreeMap<String, VecDeque<i64>>,
    /// Until when a group is quiet, microseconds since the Unix epoch. Apart from what is
    /// counted, so that many that were met push out none that will be.
    pub(super) quiet: BTreeMap<String, i64>,
    /// Groups that were forgotten while they were being counted.
    pub(super) forgotten: u64,
}

impl Counts {
    pub(super) fn of(rule: &Rule) -> Self {
        Self {
            fingerprint: rule.fingerprint(),
            ..Self::default()
        }
    }

    /// Whether a group was met a short time ago. An end that is further away than a
    /// cool-down lasts was set by a clock that was ahead, and holds nothing back.
    pub(super) fn is_quiet(&mut self, rule: &Rule, name: &str, now_us: i64) -> bool {
        let Some(until_us) = self.quiet.get(name) else {
            return false;
        };
        let left_us = until_us.saturating_sub(now_us);
        let quiet = left_us > 0 && left_us <= rule.cooldown_us;
        if !quiet {
            self.quiet.remove(name);
        }
        quiet
    }

    /// Counts a record of a group; when the first of them came, if these are enough.
    pub(super) fn reaches(&mut self, rule: &Rule, name: &str, now_us: i64) -> Option<i64> {
        let since_us = now_us.saturating_sub(rule.window_us);
        let full = self.groups.len() >= rule.groups_max();
        if full && !self.groups.contains_key(name) {
            self.forget_oldest(since_us);
        }
        let times = self.groups.entry(name.to_owned()).or_default();
        // Not those of before the window, nor of a clock that was ahead.
        times.retain(|time_us| (since_us..=now_us).contains(time_us));
        times.push_back(now_us);
        let enough = times.len() >= usize::try_from(rule.threshold).unwrap_or(usize::MAX);
        let from_us = times.front().copied().filter(|_| enough)?;
        self.groups.remove(name);
        Some(from_us)
    }

    /// Makes a group quiet, for as long as the rule says.
    pub(super) fn hush(&mut self, rule: &Rule, name: &str, now_us: i64) {
        if rule.cooldown_us == 0 {
            return;
        }
        if self.quiet.len() >= GROUPS_MAX {
            self.quiet.retain(|_, until_us| *until_us > now_us);
        }
        if self.quiet.len() >= GROUPS_MAX {
            let first = self.quiet.iter().min_by_key(|(_, until_us)| **until_us);
            if let Some(first) = first.map(|(name, _)| name.clone()) {
                self.quiet.remove(&first);
            }
        }
        let until_us = now_us.saturating_add(rule.cooldown_us);
        self.quiet.insert(name.to_owned(), until_us);
    }

    /// Forgets the group whose last record is oldest; that is a loss where it is of the
    /// window.
    fn forget_oldest(&mut self, since_us: i64) {
        let last = |times: &VecDeque<i64>| times.back().copied().unwrap_or(i64::MIN);
        let oldest = self.groups.iter().min_by_key(|(_, times)| last(times));
        if let Some((name, last_us)) = oldest.map(|(name, times)| (name.clone(), last(times))) {
            self.groups.remove(&name);
            self.forgotten += u64::from(last_us >= since_us);
        }
    }
}
