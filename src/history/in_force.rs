//! Which revisions were in force, and when: as the PDP itself recorded it in the log.
//!
//! A record may name any digest, and whoever has a log may put any bundle beside it. What a
//! revision decides says something of what was decided only where the PDP put it in force.

use std::collections::HashMap;

use palisade_audit::envelope::{DecisionRef, EnvelopeRef, RecordPeek};
use palisade_mesh::{
    snapshot::Digest,
    spiffe_id::TrustDomain,
    wire::{
        audit::StreamId,
        record::{Admin, PolicyChange, Versions},
    },
};
use prost::Message as _;

/// How much earlier than the PDP's record a decision may be, by the proxy's clock: microseconds.
const EARLY_MAX_US: i64 = 10 * 60 * 1_000_000;
/// How much later than its successor's record: as long as a proxy decides without its PDP where
/// nothing else is configured (`proxy.stale_after`), microseconds.
const LATE_MAX_US: i64 = 24 * 60 * 60 * 1_000_000;
/// Changes that are looked at; what only later ones name is not known to have been in force.
const CHANGES_MAX: usize = 1 << 17;

/// What the records of the PDP say was in force.
#[derive(Debug)]
pub(crate) struct InForce {
    pdp: Option<String>,
    /// Moment and what came into force, as the records lie in the log.
    changes: Vec<(i64, Digest)>,
    /// What was rolled out, as the record names it, and when first and last.
    tried: HashMap<String, (i64, i64)>,
    /// By digest, first and last moment of each time that it was in force.
    times: HashMap<Digest, Vec<(i64, i64)>>,
    /// Records of which nobody can say what they are.
    pub(crate) unreadable: u64,
}

impl InForce {
    /// Nothing yet, of the log of this name.
    pub(crate) fn of(origin: &str) -> Self {
        let domain = origin.strip_prefix("palisade/");
        let domain = domain.and_then(|domain| TrustDomain::parse(domain).ok());
        Self {
            pdp: domain.map(|domain| domain.role("pdp").to_string()),
            changes: Vec::new(),
            tried: HashMap::new(),
            times: HashMap::new(),
            unreadable: 0,
        }
    }

    /// Looks at a leaf of the log.
    pub(crate) fn take(&mut self, leaf: &[u8]) {
        let Some(envelope) = EnvelopeRef::decode(leaf) else {
            return;
        };
        let Some(peek) = RecordPeek::new(envelope.record) else {
            self.unreadable += 1;
            return;
        };
        let class = peek.class_name();
        if !["policy_change", "admin"].contains(&class) || !self.is_of_pdp(&envelope) {
            return;
        }
        match class {
            "policy_change" => {
                if let Ok(change) = PolicyChange::decode(peek.body) {
                    self.changed(peek.time_us, &change);
                }
            }
            _ => {
                if let Ok(admin) = Admin::decode(peek.body) {
                    self.acted(peek.time_us, admin);
                }
            }
        }
    }

    fn is_of_pdp(&self, envelope: &EnvelopeRef<'_>) -> bool {
        let stream = StreamId::decode(envelope.stream);
        stream.is_ok_and(|stream| self.pdp.as_deref() == Some(stream.reporter.as_str()))
    }

    fn changed(&mut self, time_us: i64, change: &PolicyChange) {
        if change.verb != "activated" || self.changes.len() >= CHANGES_MAX {
            return;
        }
        if let Some(before) = digest_of(change.before.as_ref())
            && self.changes.is_empty()
        {
            // What was in force before the first record that there is.
            self.changes.push((i64::MIN, before));
        }
        if let Some(after) = digest_of(change.after.as_ref()) {
            self.changes.push((time_us, after));
        }
    }

    fn acted(&mut self, time_us: i64, admin: Admin) {
        let is_new = !self.tried.contains_key(&admin.object);
        if !admin.verb.starts_with("rollout_") || is_new && self.tried.len() >= CHANGES_MAX {
            return;
        }
        let times = self.tried.entry(admin.object);
        let times = times.or_insert((time_us, time_us));
        times.1 = times.1.max(time_us);
    }

    /// All that there is was looked at.
    pub(crate) fn settle(&mut self) {
        self.changes.sort_by_key(|(time_us, _)| *time_us);
        self.times.clear();
        let (mut until_us, mut later) = (i64::MAX, None);
        for (from_us, digest) in self.changes.iter().rev() {
            if let Some((us, _)) = later.filter(|(_, of)| of != digest) {
                until_us = us;
            }
            let times = self.times.entry(*digest).or_default();
            times.push((*from_us, until_us));
            later = Some((*from_us, *digest));
        }
    }

    /// Whether the revision that a record names was in force at the moment of the record, or
    /// rolled out.
    pub(crate) fn was(&self, digest: &Digest, record: &DecisionRef<'_>) -> bool {
        let at_us = record.time_us;
        let within = |(from_us, to_us): &(i64, i64)| {
            from_us.saturating_sub(EARLY_MAX_US) <= at_us
                && at_us <= to_us.saturating_add(LATE_MAX_US)
        };
        let times = self.times.get(digest).into_iter().flatten();
        let name = || format!("revision {} ({})", record.policy_sequence, digest.short());
        times.into_iter().any(within) || self.tried.get(&name()).is_some_and(within)
    }
}

fn digest_of(versions: Option<&Versions>) -> Option<Digest> {
    Digest::from_slice(&versions?.policy_digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3600 * 1_000_000;

    fn nothing() -> InForce {
        InForce {
            pdp: None,
            changes: Vec::new(),
            tried: HashMap::new(),
            times: HashMap::new(),
            unreadable: 0,
        }
    }

    fn versions(digest: Digest) -> Option<Versions> {
        Some(Versions {
            policy_digest: digest.0.to_vec(),
            ..Versions::default()
        })
    }

    fn at(time_us: i64) -> DecisionRef<'static> {
        DecisionRef {
            time_us,
            policy_sequence: 4,
            ..DecisionRef::default()
        }
    }

    /// Before its record, while it was in force, while proxies may still go by it, and later.
    #[test]
    fn a_revision_was_in_force_from_its_record_until_a_day_after_the_next() {
        let of = |n: u8| Digest([n; 32]);
        let mut known = nothing();
        for (us, before, after) in [(100, 1, 2), (200, 2, 2), (300, 2, 3)] {
            let change = PolicyChange {
                verb: "activated".into(),
                before: versions(of(before)),
                after: versions(of(after)),
                ..PolicyChange::default()
            };
            known.changed(us * HOUR_US, &change);
        }
        let refused = PolicyChange {
            verb: "rejected".into(),
            after: versions(of(4)),
            ..PolicyChange::default()
        };
        known.changed(HOUR_US, &refused);
        for (verb, us) in [("rollout_started", 310), ("rollout_halted", 320)] {
            let admin = Admin {
                verb: verb.into(),
                object: format!("revision 4 ({})", of(5).short()),
                ..Admin::default()
            };
            known.acted(us * HOUR_US, admin);
        }
        known.settle();
        let was = |n: u8, hours: i64| known.was(&of(n), &at(hours * HOUR_US));
        for (n, hours, holds) in [
            (1, 1, true),
            (1, 124, true),
            (1, 125, false),
            (2, 99, false),
            (2, 100, true),
            (2, 324, true),
            (2, 325, false),
            (3, 299, false),
            (3, 10_000, true),
            (4, 300, false),
            (5, 309, false),
            (5, 344, true),
            (5, 345, false),
        ] {
            assert_eq!(was(n, hours), holds, "{n} at {hours}");
        }
    }
}
