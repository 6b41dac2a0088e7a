//! What a proxy tells of itself on the local socket, and to its PDP.

use std::{sync::atomic::Ordering, time::Duration};

use palisade_mesh::{
    decision::SelfCheck, diagnostic::Diagnostic, snapshot::Versions, wire::policy::Status,
};

use super::{super::keeping, Core, beside, records::Spools};
use crate::{
    control::{
        api::{Fact, FactState},
        clocks::clocks_apart,
        status::{ProxyConfigStatus, ProxyStatus, ago, ahead},
    },
    render,
};

/// How long records may wait for an audit service that is not reached, before that
/// is worth a word; every rotation ends one link and opens the next.
const RECORDS_LATE: Duration = Duration::from_secs(5);
/// How long the PDP may be away before that is worth a word.
const PDP_LATE: Duration = Duration::from_secs(3);
/// Part of `stale_after` from which the age of the snapshot is worth a word, in percent.
const AGE_WARN_PERCENT: u32 = 80;
/// Part of a certificate's life by which it is renewed, in percent: half of it, and a
/// fifth of that for chance, with room for a second try.
const RENEWED_PERCENT: i64 = 75;

impl Core {
    fn versions(&self) -> Versions {
        self.policy
            .load()
            .as_ref()
            .map_or_else(Default::default, |live| live.snapshot().versions())
    }

    fn waiting(&self) -> u64 {
        self.kept.spools().map_or(0, Spools::waiting)
    }

    /// The status for the PDP; its subscription adds the time.
    pub(super) fn wire(&self) -> Status {
        let counters = self.counters();
        Status {
            policy_sequence: self.versions().sequence,
            discovery: self.versions().discovery,
            svid_not_after_s: self.identity.not_after_s(),
            requests: counters.requests,
            allowed: counters.allowed,
            denied: counters.denied,
            undecided: counters.undecided,
            spooled_records: self.waiting(),
            draining: self.running().is_leaving() && !self.succeeded.load(Ordering::Relaxed),
            now_us: 0,
            health: beside::health(&self.policy),
            trial: beside::trial(&self.policy),
        }
    }

    pub(super) fn status(&self) -> ProxyStatus {
        let versions = self.versions();
        let running = self.running();
        let freshness = self.subscribed.as_ref().map(|s| &s.freshness);
        let live = self.policy.load();
        ProxyStatus {
            instance: self.section().instance,
            spiffe_id: self.identity.id().to_string(),
            svid_not_after_s: self.identity.not_after_s(),
            sequence: versions.sequence,
            digest: versions.policy.to_string(),
            signed: self.signed(),
            engine: self.section().engine,
            endpoints: self.endpoints.load().iter().count(),
            inbound: running.inbound,
            outbound: running.outbound,
            admin: running.admin,
            requests: self.counters().requests,
            spooled: self.waiting(),
            draining: running.is_leaving(),
            kill_list: self.bars.sequence(),
            snapshot_age_s: freshness.and_then(|f| f.age()).map(|age| age.as_secs()),
            stale: live.as_ref().is_some_and(|live| live.is_stale()),
            connected: self.subscribed.as_ref().map(|s| s.state.borrow().connected),
        }
    }

    fn signed(&self) -> Option<String> {
        let state = self.subscribed.as_ref()?.state.borrow();
        state.signed.as_ref().map(ToString::to_string)
    }

    /// The configuration in force, and what was refused since.
    pub(super) fn config_status(&self) -> ProxyConfigStatus {
        let (config, section) = (self.config(), self.section());
        let rejected = self.rejected();
        ProxyConfigStatus {
            file: self.file.clone(),
            since_us: self.config_since_us(),
            listeners: section.listeners(config.demo),
            stale_after_s: section.stale_after.as_secs_f64(),
            drain_deadline_s: section.drain.deadline.as_secs_f64(),
            rejected_us: rejected.as_ref().map(|r| r.at_us),
            rejected: rejected.map_or_else(Vec::new, |r| {
                r.diagnostics.into_iter().map(Into::into).collect()
            }),
        }
    }

    pub(super) fn check(&self) -> Vec<Fact> {
        let name = self.section().instance;
        let mut facts = Vec::new();
        facts.extend(self.check_snapshot(&name));
        facts.extend(self.check_stamp(&name));
        facts.extend(self.check_certificate(&name));
        facts.extend(self.check_pdp(&name));
        facts.extend(self.check_config(&name));
        facts.extend(self.bars.check(&name, &self.identity));
        facts.extend(self.check_engine(&name));
        facts.extend(self.check_records(&name));
        facts.extend(keeping::facts("proxies", &name, &self.sink.health()));
        facts
    }

    fn check_snapshot(&self, name: &str) -> Option<Fact> {
        if self.versions().sequence == 0 {
            let refused = self.last_error();
            let text = format!("{name} has no policy snapshot");
            return Some(
                Fact::not_ok("proxies", FactState::Error, 5101, text)
                    .cause(refused.map_or_else(
                        || "every request is answered with 503".to_owned(),
                        |why| format!("every request is answered with 503; {why}"),
                    ))
                    .fix("see whether its PDP runs and can be reached"),
            );
        }
        let age = self.subscribed.as_ref()?.freshness.age()?;
        let limit = self.stale_after();
        let (age_text, limit_text) = (render::duration(age), render::duration(limit));
        if age > limit {
            let text = format!("{name} has a stale policy snapshot, every request is undecided");
            return Some(
                Fact::not_ok("proxies", FactState::Error, 5312, text)
                    .cause(format!(
                        "its PDP confirmed it {age_text} ago, the limit is {limit_text}"
                    ))
                    .fix("bring its PDP back; see why it is not reached, or not confirmed"),
            );
        }
        (age >= limit * AGE_WARN_PERCENT / 100).then(|| {
            let text = format!("{name} has a policy snapshot that is nearly stale");
            Fact::not_ok("proxies", FactState::Warning, 5313, text)
                .cause(format!(
                    "its PDP confirmed it {age_text} ago; after {limit_text} every request is undecided"
                ))
                .fix("bring its PDP back")
        })
    }

    /// Attack T104: a newer revision may be withheld.
    fn check_stamp(&self, name: &str) -> Option<Fact> {
        let demanded = self.section().policy_trust?.stamp_age.is_some();
        let subscribed = self.subscribed.as_ref()?;
        let refused = subscribed.state.borrow().unstamped.clone();
        let until_us = subscribed.freshness.stamp_until_us();
        let now_us = subscribed.freshness.now_us();
        let over = demanded && until_us.is_none_or(|until| until < now_us);
        if !over && refused.is_none() {
            return None;
        }
        let text = format!("{name} has no proof that its policy is the newest");
        let ended = || match until_us {
            Some(until) => format!("the last stamp ended {}", ago(&self.clock, until)),
            None => "no stamp has come".to_owned(),
        };
        let cause = refused.as_ref().and_then(|d| d.cause.clone());
        let limit = render::duration(self.stale_after());
        Some(
            Fact::not_ok("proxies", FactState::Error, 3112, text)
                .cause(format!(
                    "{}; {limit} after the PDP's last good word every request is undecided",
                    cause.unwrap_or_else(ended)
                ))
                .fix("find out whether a newer revision is withheld; else stamp this one: palisade bundle sign FILE --key KEY --stamp 24h"),
        )
    }

    fn check_certificate(&self, name: &str) -> Option<Fact> {
        let svid = self.identity.svid();
        let now_s = self.clock.now_us() / 1_000_000;
        if svid.not_after_s < now_s {
            let ended = ago(&self.clock, svid.not_after_s.saturating_mul(1_000_000));
            let text = format!("{name} has an expired certificate");
            return Some(
                Fact::not_ok("proxies", FactState::Error, 5102, text)
                    .cause(format!("it ended {ended}"))
                    .fix("see whether its agent runs and can be reached"),
            );
        }
        let life = svid.not_after_s.saturating_sub(svid.not_before_s);
        let late = svid.not_before_s + life / 100 * RENEWED_PERCENT;
        (now_s > late && life >= 100).then(|| {
            let text = format!("{name} has a certificate that should have been renewed");
            Fact::not_ok("proxies", FactState::Warning, 5316, text)
                .cause(format!("it ends {}", ahead(&self.clock, svid.not_after_s)))
                .fix("see whether its agent and the authority run and can be reached")
        })
    }

    fn check_pdp(&self, name: &str) -> Vec<Fact> {
        let Some(subscribed) = &self.subscribed else {
            return Vec::new();
        };
        let state = subscribed.state.borrow().clone();
        let mut facts = Vec::new();
        let now_us = self.clock.now_us();
        let away = state.away_since_us.filter(|since| {
            let away = u128::try_from(now_us - since).unwrap_or_default();
            away >= PDP_LATE.as_micros()
        });
        if let Some(since) = away {
            let text = format!(
                "{name} has not been connected to its PDP for {}",
                render::duration(micros(now_us - since))
            );
            let why = self.last_error();
            facts.push(
                Fact::not_ok("proxies", FactState::Warning, 5314, text)
                    .cause(format!(
                        "it runs revision {}{}",
                        state.sequence,
                        why.map_or_else(String::new, |w| format!("; {w}"))
                    ))
                    .fix("see whether the PDP runs and can be reached from here"),
            );
        } else if let (true, Some(refused)) = (state.connected, &state.last_error) {
            let text = format!("{name} refused what its PDP or its disk offered");
            facts.push(
                Fact::not_ok("proxies", FactState::Error, 5318, text)
                    .cause(refused.to_string())
                    .fix(refused.help.clone().unwrap_or_default()),
            );
        }
        let clocks = |ahead_us| clocks_apart(&format!("{name}'s"), "its PDP's", now_us, ahead_us);
        if let Some(fact) = state.clock_ahead_us.and_then(clocks) {
            facts.push(fact);
        }
        facts
    }

    fn check_config(&self, name: &str) -> Vec<Fact> {
        let mut facts = Vec::new();
        if self.running().is_leaving() {
            let text = format!("{name} is draining");
            facts.push(
                Fact::not_ok("proxies", FactState::Warning, 5307, text)
                    .cause("it was told to end")
                    .fix("wait; it ends by itself at its deadline"),
            );
        }
        let Some(rejected) = self.rejected() else {
            return facts;
        };
        let at = ago(&self.clock, rejected.at_us);
        facts.extend(rejected.diagnostics.iter().map(|why| {
            let text = format!("{name} does not run the configuration on disk, refused {at}");
            Fact::not_ok("proxies", FactState::Error, 5310, text)
                .cause(why.to_string())
                .fix(
                    why.help
                        .clone()
                        .unwrap_or_else(|| "mend the file".to_owned()),
                )
        }));
        facts
    }

    fn check_engine(&self, name: &str) -> Option<Fact> {
        let live = self.policy.load();
        let found = live.as_ref()?.snapshot().self_check();
        engine_fact("proxies", name, self.versions().sequence, found)
    }

    fn last_error(&self) -> Option<String> {
        let state = self.subscribed.as_ref()?.state.borrow().clone();
        state.last_error.as_ref().map(Diagnostic::to_string)
    }

    fn check_records(&self, name: &str) -> Option<Fact> {
        let spools = self.kept.spools()?;
        let stats = spools.own().stats();
        let last_us = stats.last_ack_us.unwrap_or(self.started_us);
        let late = u128::try_from(self.clock.now_us() - last_us).unwrap_or_default();
        let waiting = spools.waiting();
        if stats.connected || waiting == 0 || late < RECORDS_LATE.as_micros() {
            return None;
        }
        let text = format!("{name} does not reach the audit service");
        Some(
            Fact::not_ok("proxies", FactState::Warning, 5103, text)
                .cause(format!(
                    "{} records wait in its spool",
                    render::thousands(waiting)
                ))
                .fix("see whether it runs; nothing is lost while the disk has room"),
        )
    }
}

/// The alarm that engine and reference have disagreed in `who`, which is among `of`.
pub(crate) fn engine_fact(of: &str, who: &str, sequence: u64, found: SelfCheck) -> Option<Fact> {
    (found.mismatched > 0).then(|| {
        let text = format!("{who} decides otherwise than Cedar's own authorizer");
        Fact::not_ok(of, FactState::Error, 5231, text)
            .cause(format!(
                "{} of {} decisions that were compared under revision {sequence} differed",
                render::thousands(found.mismatched),
                render::thousands(found.checked)
            ))
            .fix("report it with its log, which has both answers; where they differed, the deny was enforced")
    })
}

fn micros(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_decision_that_differs_is_an_error() {
        let found = |checked, mismatched| SelfCheck {
            checked,
            mismatched,
        };
        assert_eq!(engine_fact("proxies", "orders", 3, found(5000, 0)), None);
        let fact = engine_fact("proxies", "orders", 3, found(5000, 1)).unwrap();
        assert_eq!(
            (fact.state, fact.code),
            (FactState::Error, Some(5231)),
            "{fact:?}"
        );
        assert!(fact.cause.unwrap().starts_with("1 of 5"));
    }
}
