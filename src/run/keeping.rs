//! What is to be told of the keeping of records: room, a disk that does not answer,
//! loss.

use palisade_audit::buffer::DROPPED_EVERY;
use palisade_mesh::sink::SinkHealth;

use crate::{
    control::api::{Fact, FactState},
    render::{count, thousands},
};

/// Everything that is wrong with how `name` keeps its records.
pub(super) fn facts(group: &str, name: &str, health: &SinkHealth) -> Vec<Fact> {
    let tell = |state, code, text: &str| Fact::not_ok(group, state, code, format!("{name} {text}"));
    let mut facts = Vec::new();
    if health.dead {
        facts.push(
            tell(FactState::Error, 7607, "keeps no records any more")
                .cause("the thread that writes them has died; requests that need a record get 503")
                .fix("restart it, and report its log as a bug"),
        );
    }
    if let Some(stalled) = health.stalled {
        let since = format!("an fsync has not come back for {} s", stalled.as_secs());
        facts.push(
            tell(FactState::Error, 7603, "waits for a disk that stalls")
                .cause(since)
                .fix("see the disk: requests of mode `strict` get 503 meanwhile"),
        );
    }
    if health.failing {
        facts.push(
            tell(FactState::Error, 7602, "cannot write its records")
                .cause("the last write failed; it is tried again and again")
                .fix("make room on its disk, and see that the folder is writable"),
        );
    }
    if health.low {
        facts.push(
            tell(FactState::Warning, 7601, "has too little room for records")
                .cause("its disk is nearly full; what may be lost is shed first")
                .fix("make room on its disk; it recovers by itself"),
        );
    }
    if health.bytes_max > 0 && health.bytes >= health.bytes_max - health.bytes_max / 8 {
        facts.push(
            tell(FactState::Warning, 7604, "has a spool that is nearly full")
                .cause(format!(
                    "{} of {} bytes, {} records",
                    thousands(health.bytes),
                    thousands(health.bytes_max),
                    thousands(health.waiting)
                ))
                .fix("see why the audit service does not take them; when it is full, requests get 503"),
        );
    }
    let [strict, spool, best_effort] = health.dropped;
    if strict + spool + best_effort > 0 {
        facts.push(
            tell(FactState::Warning, 7605, "has refused records since its start")
                .cause(format!(
                    "{} strict, {} spool, {} best_effort",
                    thousands(strict),
                    thousands(spool),
                    thousands(best_effort)
                ))
                .fix(format!(
                    "its stream tells when, at most {} s late: palisade audit search 'class:spool_event verb:dropped'",
                    DROPPED_EVERY.as_secs()
                )),
        );
    }
    if health.restored > 0 {
        facts.push(
            tell(FactState::Warning, 7606, "lost files of its records while it used them")
                .cause(format!(
                    "{} removed or replaced by somebody; all were written anew",
                    thousands(health.restored)
                ))
                .fix("find out who clears that folder: palisade audit search 'class:spool_event verb:restored'"),
        );
    }
    if health.damaged > 0 {
        facts.push(
            tell(FactState::Error, 7610, "has damaged files of records")
                .cause(format!(
                    "of {} something cannot be read; what can be was or will be sent",
                    count(health.damaged, "file", "files")
                ))
                .fix("see the health of its disk; which they are: palisade audit search 'class:spool_event verb:damaged'"),
        );
    }
    if health.refused > 0 || health.refusal.is_some() {
        let aside = count(health.refused, "record is", "records are");
        let words = match &health.refusal {
            Some(words) => format!("the audit service said: {words}; {aside} set aside"),
            None => format!("{aside} set aside since earlier"),
        };
        facts.push(
            tell(FactState::Error, 7611, "has records that the audit service refuses")
                .cause(words)
                .fix("see that both are of the same version; which they are: palisade audit search 'class:spool_event verb:refused'"),
        );
    }
    facts
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_trouble_has_its_fact_and_health_has_none() {
        assert_eq!(facts("proxies", "web", &SinkHealth::default()), []);
        let health = SinkHealth {
            bytes: 88,
            bytes_max: 100,
            dropped: [0, 0, 1],
            restored: 1,
            damaged: 1,
            refused: 1,
            stalled: Some(Duration::from_secs(2)),
            low: true,
            failing: true,
            dead: true,
            ..SinkHealth::default()
        };
        let codes: Vec<_> = facts("proxies", "web", &health)
            .into_iter()
            .filter_map(|fact| fact.code)
            .collect();
        assert_eq!(
            codes,
            [7607, 7603, 7602, 7601, 7604, 7605, 7606, 7610, 7611]
        );
    }

    /// Before anything was set aside, and long after.
    #[test]
    fn what_the_audit_service_refuses_is_told_in_its_words() {
        let health = SinkHealth {
            refusal: Some("record 7 is malformed".into()),
            ..SinkHealth::default()
        };
        let told = facts("proxies", "web", &health);
        let cause = told[0].cause.clone().unwrap_or_default();
        assert!(cause.contains("record 7 is malformed"), "{cause}");
        assert_eq!((told.len(), told[0].code), (1, Some(7611)));
        let later = SinkHealth {
            refused: 2,
            ..SinkHealth::default()
        };
        assert_eq!(facts("proxies", "web", &later)[0].code, Some(7611));
    }

    #[test]
    fn a_spool_is_nearly_full_from_seven_eighths_on() {
        let of = |bytes| SinkHealth {
            bytes,
            bytes_max: 800,
            ..SinkHealth::default()
        };
        assert_eq!(facts("proxies", "web", &of(699)), []);
        assert_eq!(facts("proxies", "web", &of(700)).len(), 1);
    }
}
