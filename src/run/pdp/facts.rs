//! How the PDP is: what `status` and `check` say of the revision in force, of sources,
//! rollouts, and of the proxies that follow.

use std::sync::Arc;

use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::{
    analysis::codes::INVARIANT_UNPROVED,
    publish::{ProxyStatus, Published, codes::ROLLOUT_NO_CANARY},
};

use super::{
    super::{proxy, sources, unheard},
    Decisions, PdpRole,
};
use crate::{
    control::{
        api::{Fact, FactState},
        clocks::clocks_apart,
        status::{PdpStatus, RejectedStatus, RevisionStatus, SubscriberStatus, ago, ahead, span},
    },
    render,
};

impl PdpRole {
    pub(super) fn status(&self) -> PdpStatus {
        let state = self.state.borrow().clone();
        PdpStatus {
            folder: self.place.to_string(),
            sources: sources::status(&self.standings.borrow(), &self.clock),
            revision: state.current.as_deref().map(revision),
            rejected: state.rejected.map(|r| RejectedStatus {
                at_us: r.at_us,
                problems: r.diagnostics.iter().cloned().map(Into::into).collect(),
            }),
            proxies: {
                let proxies = self.distribution.proxies();
                let of = |p| subscriber(p, self.state.borrow().wanted(p.seat()));
                proxies.iter().map(of).collect()
            },
            rollout: self.rollouts.status(),
            decisions: self.decisions.as_ref().map(Decisions::status),
        }
    }

    pub(super) fn check(&self) -> Vec<Fact> {
        let status = self.status();
        let mut facts = vec![match &status.revision {
            Some(r) => Fact::ok(
                "policy",
                format!(
                    "revision {} ({}) in force for {}, {}",
                    r.sequence,
                    short(&r.digest),
                    span(&self.clock, r.since_us),
                    r.signed
                ),
            ),
            None => Fact::not_ok(
                "policy",
                FactState::Error,
                6002,
                "no policy revision is in force",
            )
            .fix(self.how_to_see()),
        }];
        facts.extend(status.revision.as_ref().and_then(unproved));
        facts.extend(self.check_stamp());
        if let Some(rejected) = &status.rejected {
            let first = rejected.problems.first().cloned().map(Diagnostic::from);
            facts.push(
                Fact::not_ok(
                    "policy",
                    FactState::Warning,
                    3021,
                    format!(
                        "a change of the policies was rejected {}",
                        ago(&self.clock, rejected.at_us)
                    ),
                )
                .cause(first.map_or_else(String::new, |d| d.to_string()))
                .fix(self.how_to_see()),
            );
        }
        facts.extend(self.rollouts.check());
        facts.extend(self.check_way_back());
        facts.extend(sources::check(&status.sources, &self.clock));
        let since_us = status.revision.as_ref().map_or(0, |r| r.since_us);
        for proxy in &status.proxies {
            facts.push(self.check_proxy(proxy, since_us));
            facts.extend(self.check_drift(proxy));
        }
        facts.extend(self.check_engine());
        facts.extend(self.unshelved.fact());
        facts.extend(self.gate.check());
        facts.extend(unheard::fact("policy", "the PDP", &self.kill));
        facts
    }

    /// Whether the decision APIs decide as Cedar's own authorizer does.
    fn check_engine(&self) -> Vec<Fact> {
        let found = self.decisions.as_ref().map(Decisions::self_checks);
        let found = found.into_iter().flatten();
        let facts =
            found.map(|(sequence, found)| proxy::engine_fact("policy", "the PDP", sequence, found));
        facts.flatten().collect()
    }

    /// Whether what is served would be taken by whoever demands a stamp as this PDP does.
    fn check_stamp(&self) -> Option<Fact> {
        let current = self.state.borrow().current.clone()?;
        let trust = self.trust.as_ref()?.load();
        let now_us = self.clock.now_us();
        let of = (current.digest(), current.sequence());
        let stamp = current.revision.stamp.as_ref();
        let domain = &current.compiled.trust_domain;
        let stamped = trust.and_then(|t| t.check_stamp(domain, of, stamp, now_us));
        let error = stamped.err()?;
        Some(
            Fact::not_ok("policy", FactState::Error, 3111, error.message)
                .cause(error.cause.unwrap_or_default())
                .fix(error.help.unwrap_or_default()),
        )
    }

    /// Whether what is on its way, or in force, had a way back that did not serve.
    fn check_way_back(&self) -> Option<Fact> {
        let state = self.state.borrow().clone();
        let underway = state.rollout.as_deref();
        let underway = underway.filter(|u| !u.rollout.has_ended());
        let published = underway.map(|u| &u.candidate).or(state.current.as_ref())?;
        let noted = |d: &&Diagnostic| d.code.0 == ROLLOUT_NO_CANARY;
        let note = published.diagnostics.iter().find(noted)?.clone();
        Some(
            Fact::not_ok(
                "rollout",
                FactState::Warning,
                ROLLOUT_NO_CANARY,
                note.message,
            )
            .cause(note.cause.unwrap_or_default())
            .fix(note.help.unwrap_or_default()),
        )
    }

    /// What does not fit about a proxy that is connected.
    fn check_drift(&self, proxy: &SubscriberStatus) -> Vec<Fact> {
        let name = &proxy.instance;
        let mut facts = Vec::new();
        if proxy.rivals > 0 {
            let text = format!("{} processes call themselves {name}", proxy.rivals + 1);
            facts.push(
                Fact::not_ok("proxies", FactState::Warning, 5317, text)
                    .cause(format!(
                        "all are `{}`; only the newest of them is shown",
                        proxy.spiffe_id
                    ))
                    .fix("give each its own `proxy.instance`, or end the one that is left over"),
            );
        }
        let ahead_us = proxy.clock_ahead_us.filter(|_| proxy.connected);
        facts.extend(ahead_us.and_then(|ahead_us| {
            clocks_apart("the PDP's", &format!("{name}'s"), proxy.seen_us, ahead_us)
        }));
        facts
    }

    fn check_proxy(&self, proxy: &SubscriberStatus, since_us: i64) -> Fact {
        let sequence = proxy.wanted;
        let name = &proxy.instance;
        if !proxy.connected {
            return Fact::not_ok(
                "proxies",
                FactState::Warning,
                3022,
                format!("{name} is not connected"),
            )
            .cause(format!(
                "last heard of {}, with revision {}",
                ago(&self.clock, proxy.seen_us),
                proxy.sequence
            ))
            .fix("see whether it runs; it goes on with the last good revision");
        }
        if let Some(nack) = &proxy.nack {
            return Fact::not_ok(
                "proxies",
                FactState::Error,
                3023,
                format!("{name} refused the revision"),
            )
            .cause(nack.clone())
            .fix("upgrade the proxy, or mend what it names");
        }
        if proxy.sequence != sequence {
            return Fact::not_ok(
                "proxies",
                FactState::Warning,
                3024,
                format!(
                    "{name} runs revision {} instead of {sequence}, for {}",
                    proxy.sequence,
                    span(&self.clock, since_us)
                ),
            )
            .cause("it is connected, and has neither taken nor refused the newer one yet")
            .fix("wait a second; if it stays so, see the proxy's log");
        }
        let ends = ahead(&self.clock, proxy.svid_not_after_s);
        Fact::ok(
            "proxies",
            format!("{name} runs revision {sequence}, certificate ends {ends}"),
        )
    }
}

/// What must never be possible, and nobody has proved that it is not.
fn unproved(revision: &RevisionStatus) -> Option<Fact> {
    let ids = &revision.unproved;
    let named: Vec<String> = ids.iter().map(|id| format!("`{id}`")).collect();
    let n = render::count(ids.len(), "invariant", "invariants");
    (!ids.is_empty()).then(|| {
        let text = format!("{n} of revision {} not proved", revision.sequence);
        Fact::not_ok("policy", FactState::Warning, INVARIANT_UNPROVED, text)
            .cause(format!("nothing is known to break {}; nobody has proved that nothing does", named.join(", ")))
            .fix("install cvc5 where the revision is built or put together; see docs/policy-changes.md")
    })
}

fn revision(published: &Published) -> RevisionStatus {
    RevisionStatus {
        sequence: published.sequence(),
        digest: published.digest().to_string(),
        since_us: published.since_us,
        policies: published.compiled.info.len(),
        services: published.compiled.catalogue.services().len(),
        git_revision: published.git_revision.clone(),
        signed: published.signed.to_string(),
        unproved: published.unproved.clone(),
    }
}

fn subscriber(proxy: &ProxyStatus, wanted: Option<&Arc<Published>>) -> SubscriberStatus {
    let status = proxy.status.clone().unwrap_or_default();
    SubscriberStatus {
        instance: proxy.instance.clone(),
        spiffe_id: proxy.identity.to_string(),
        sequence: proxy.acked_sequence,
        wanted: wanted.map_or(0, |wanted| wanted.sequence()),
        nack: proxy
            .nack
            .as_ref()
            .map(|n| format!("{}: {}", n.code, n.message)),
        svid_not_after_s: status.svid_not_after_s,
        requests: status.requests,
        allowed: status.allowed,
        denied: status.denied,
        undecided: status.undecided,
        spooled: status.spooled_records,
        connected: proxy.connected,
        seen_us: proxy.last_seen_us,
        draining: status.draining,
        clock_ahead_us: proxy.clock_ahead_us,
        rivals: proxy.rivals,
    }
}

fn short(digest: &str) -> String {
    digest.chars().take(8).collect()
}
