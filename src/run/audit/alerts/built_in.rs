//! Rules that need no configuration, and what is told though it is no record.

use std::collections::BTreeMap;

use palisade_audit::alert::{Firing, Rule, RuleText, Severity};
use palisade_mesh::diagnostic::Diagnostic;

use super::Inner;

/// How long what is no record is remembered after it is over, microseconds.
const TOLD_US: i64 = 24 * 3600 * 1_000_000;

/// Rules that need no configuration, where alerts go anywhere: what they ask for, whether
/// the log itself has to say it, and how bad that is.
pub(super) const BUILT_IN: [(&str, &str, bool, Severity); 4] = [
    (
        "palisade-engine",
        "class:admin verb:engine_differs",
        false,
        Severity::Critical,
    ),
    (
        "palisade-gap",
        "class:log_lifecycle verb:gap",
        true,
        Severity::High,
    ),
    (
        "palisade-lost",
        "class:spool_event verb:dropped",
        false,
        Severity::High,
    ),
    (
        "palisade-witness",
        "class:admin verb:witness_conflict",
        true,
        Severity::Critical,
    ),
];
/// Those of what is no record.
const SILENT: (&str, &str) = ("palisade-silent", "a reporter that stopped sending records");
const UNSIGNED: (&str, &str) = (
    "palisade-tampered",
    "records that are not what their reporter signed",
);

/// A rule of ours: each of what the log at `log` says is one, of others the first in an
/// hour of each reporter.
pub(super) fn built(
    name: &str,
    query: &str,
    log: Option<&str>,
    severity: Severity,
) -> Result<Rule, Diagnostic> {
    let query = match log {
        Some(log) => format!("{query} reporter:\"{log}\""),
        None => query.to_owned(),
    };
    Rule::new(&RuleText {
        name,
        query: &query,
        threshold: 1,
        window_us: 60 * 1_000_000,
        cooldown_us: if log.is_some() { 0 } else { 3600 * 1_000_000 },
        by: log.is_none().then_some("reporter"),
        severity,
    })
}

impl Inner {
    /// What is so and is no record. The id follows from what it is and since when: found
    /// again after a restart, it is the same.
    pub(super) fn states(&self) -> Vec<Firing> {
        let silent = self.watch.silent().into_iter();
        let silent = silent.map(|s| {
            let who = format!("{} boot {}", s.reporter, s.boot);
            (SILENT, who, s.heard_us)
        });
        let (faults, more) = self.watch.faults();
        let beyond = faults.first().filter(|_| more > 0).map(|first| {
            let what = format!("and more than these {}", faults.len());
            (UNSIGNED, what, first.at_us)
        });
        let unsigned = faults.iter().map(|f| (UNSIGNED, f.what.clone(), f.at_us));
        let now = silent.chain(unsigned).chain(beyond);
        now.map(|((rule, what), group, at_us)| {
            Firing::of_state(rule, Severity::Critical, &group, at_us, what)
        })
        .collect()
    }
}

/// Those of `now` that were not told yet. What is over is remembered for a day, so that
/// neither a restart nor a clock that jumps tells it again.
pub(super) fn new(told: &mut BTreeMap<String, i64>, now: Vec<Firing>, now_us: i64) -> Vec<Firing> {
    told.retain(|id, told_us| {
        let lately = now_us.saturating_sub(*told_us).saturating_abs() < TOLD_US;
        lately || now.iter().any(|firing| firing.id == *id)
    });
    let mut unknown = now;
    unknown.retain(|firing| told.insert(firing.id.clone(), now_us).is_none());
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(who: &str, since_us: i64) -> Firing {
        Firing::of_state(SILENT.0, Severity::Critical, who, since_us, SILENT.1)
    }

    /// Told once, across a restart and a clock that jumps; and again when it is new.
    #[test]
    fn what_is_no_record_is_told_once() {
        let day = TOLD_US;
        let mut told = BTreeMap::new();
        let now = || vec![silent("a", 5), silent("b", 6)];
        assert_eq!(new(&mut told, now(), 10), now());
        assert_eq!(new(&mut told, now(), 11), []);
        assert_eq!(new(&mut told, now(), 11 + 30 * day), [], "it goes on");
        assert_eq!(new(&mut told, now(), 12), [], "the clock is set back");
        // Gone for a moment, as after a start that has not read the log yet.
        assert_eq!(new(&mut told, Vec::new(), 13), []);
        assert_eq!(new(&mut told, now(), 14), []);
        let again = vec![silent("a", 7)];
        assert_eq!(new(&mut told, again.clone(), 15), again, "silent anew");
        assert_eq!(new(&mut told, Vec::new(), 16 + day), []);
        assert!(told.is_empty());
    }

    #[test]
    fn the_rules_that_need_no_configuration_can_be_read() {
        for (name, query, of_log, severity) in BUILT_IN {
            let log = of_log.then_some("spiffe://acme.test/palisade/audit");
            let rule = built(name, query, log, severity).unwrap();
            assert_eq!(rule.by().is_none(), of_log, "{name}");
        }
    }
}
