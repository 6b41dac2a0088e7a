//! Going back to a revision as its signers have numbered it.
//!
//! Whoever has numbered a revision may say in what is signed which one it may be taken back
//! to ([`trust::way_back`]). Where they have, it can go to some proxies before others and come
//! back, by an order or by a gate; what was taken back is refused from then on, until a higher
//! number comes. What a source has never takes anything back: a copy that lags behind looks like
//! somebody who puts the old file there.

use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Digest,
    spiffe_id::TrustDomain,
    wire::policy::{Revision, WayBack},
};

use super::{Published, Source};
use crate::{
    bundle::{codes::FORGED, trust},
    compiled::Compiled,
    publish::{
        bundled::Vouched,
        codes, older,
        rollout::{Name, Plan, named},
    },
};

/// How often the time is written down while something could be taken back, microseconds.
const NOTE_EVERY_US: i64 = 60_000_000;

/// How a candidate goes to the proxies.
#[derive(Debug, Clone)]
pub(super) struct Course {
    /// Step by step; none for everybody at once.
    pub(super) plan: Option<Plan>,
    /// Until when it may be taken back, where others have numbered it.
    pub(super) back_until_us: Option<i64>,
    /// Why its way back does not serve, if it has one and it does not.
    pub(super) note: Option<Diagnostic>,
}

impl Source {
    /// How a candidate goes in place of `current`, where `plan` is wanted.
    pub(super) fn course(
        &self,
        plan: Plan,
        compiled: &Compiled,
        vouched: &Vouched,
        current: &Published,
    ) -> Course {
        let Some(release) = &vouched.release else {
            return Course {
                plan: Some(plan),
                back_until_us: None,
                note: None,
            };
        };
        let least_us = i64::try_from(plan.least().as_micros()).unwrap_or(i64::MAX);
        let note = match self.returns_until(compiled, vouched, current) {
            _ if release.way_back.is_none() => None,
            Ok(until_us) if self.latest_us().saturating_add(least_us) > until_us => {
                let at = jiff::Timestamp::from_microsecond(until_us).unwrap_or_default();
                let needed = plan.least().as_secs();
                Some(format!(
                    "it ends at {at:.0}, and the plan needs at least {needed} s until it could still be taken back at its end"
                ))
            }
            Ok(until_us) => match self.who_cannot_return() {
                None => {
                    return Course {
                        plan: Some(plan),
                        back_until_us: Some(until_us),
                        note: None,
                    };
                }
                some => some,
            },
            Err(refused) => Some(refused.cause.unwrap_or(refused.message)),
        };
        Course {
            plan: plan.irrevocable(),
            back_until_us: None,
            note: note.map(|cause| no_canary(release.sequence, &cause)),
        }
    }

    /// Connected proxies of a build that takes no lower number, whoever signed it, in words.
    fn who_cannot_return(&self) -> Option<String> {
        let proxies = self.rolling.proxies();
        let old = proxies.iter().filter(|p| p.connected && !p.returns);
        let old: Vec<&str> = old.map(|p| p.instance.as_str()).collect();
        (!old.is_empty()).then(|| {
            format!(
                "these proxies are of a build that cannot go back: {}",
                named(&old)
            )
        })
    }

    /// Until when what is offered could be taken back to `current`.
    fn returns_until(
        &self,
        compiled: &Compiled,
        vouched: &Vouched,
        current: &Published,
    ) -> Result<i64, Diagnostic> {
        let now_us = self.clock.now_us();
        let candidate = self.signed(compiled, vouched.clone(), now_us);
        let trust = trust::load(self.trust.as_ref())?;
        let domain = &compiled.trust_domain;
        let to = (current.digest(), current.sequence());
        let until_us = trust::way_back(trust.as_ref(), domain, &candidate, to, self.latest_us())?;
        // Proxies that have it already, or come back to it, want a stamp that holds.
        let stamped_us = match &trust {
            Some(trust) => {
                trust.check_stamp(domain, to, current.revision.stamp.as_ref(), now_us)?
            }
            None => None,
        };
        Ok(stamped_us.map_or(until_us, |us| us.min(until_us)))
    }

    /// Whether what is in force says that it may be taken back to this revision. It must be
    /// the highest that ever was: who was taken back goes no further back.
    pub(super) fn may_return(
        &self,
        current: &Published,
        (digest, sequence): (Digest, u64),
    ) -> Result<(), Diagnostic> {
        if current.sequence() != self.sequence || current.revision.way_back.is_none() {
            return Err(older(sequence, self.sequence));
        }
        self.leads_back(current, (digest, sequence)).map(drop)
    }

    /// Until when a revision may be taken back to this one, as far as its signers go.
    pub(super) fn leads_back(
        &self,
        from: &Published,
        to: (Digest, u64),
    ) -> Result<i64, Diagnostic> {
        let trust = trust::load(self.trust.as_ref())?;
        let domain = &from.compiled.trust_domain;
        let now_us = self.latest_us();
        trust::way_back(trust.as_ref(), domain, &from.revision, to, now_us)
    }

    /// Puts in force what `from` is taken back to, and refuses `from` from now on.
    ///
    /// # Errors
    /// When it may not be in force, or cannot be kept; then `from` is not taken back yet.
    pub(super) fn take_back(
        &mut self,
        from: Name,
        (compiled, revision): (Compiled, Revision),
        diagnostics: Vec<Diagnostic>,
    ) -> Result<u64, Diagnostic> {
        let sequence = revision.sequence;
        let to = (compiled.digest, sequence);
        // Of those who have it first, the others never left it.
        let is_there = self
            .current()
            .is_some_and(|c| (c.digest(), c.sequence()) == to);
        if !is_there {
            self.accepted(&compiled, &revision)?;
        }
        // Point of no return: whatever a restart finds in force, this is not begun again.
        self.rolling.taken_back = Some(from);
        self.write_journal()?;
        if !is_there {
            self.keep.succeed(&revision)?;
            let next = self.published(compiled, self.clock.now_us(), revision, diagnostics);
            self.put_in_force(std::sync::Arc::new(next));
        }
        Ok(sequence)
    }

    /// The way back that a revision has once it came again with `given`. What does not serve
    /// takes the place of nothing; and while a rollout counts on one, no other takes its place
    /// that leads elsewhere or ends earlier.
    pub(super) fn renewed_way_back(
        &self,
        domain: &TrustDomain,
        revision: &Revision,
        given: WayBack,
    ) -> WayBack {
        let Some(held) = &revision.way_back else {
            return given;
        };
        let is_counted_on = self.rolling.running().is_some_and(|u| {
            u.candidate.sequence() == revision.sequence && u.rollout.back_until_us.is_some()
        });
        let is_as_good = (&given.sha256, given.sequence) == (&held.sha256, held.sequence)
            && given.until_us >= held.until_us;
        let to = Digest::from_slice(&given.sha256).unwrap_or_default();
        let to = (to, given.sequence);
        let with = Revision {
            way_back: Some(given.clone()),
            ..revision.clone()
        };
        let leads = trust::load(self.trust.as_ref())
            .and_then(|trust| trust::way_back(trust.as_ref(), domain, &with, to, self.latest_us()));
        match leads {
            Ok(_) if is_as_good || !is_counted_on => given,
            // That is told, as every forgery is.
            Err(error) if error.code.0 == FORGED => given,
            Ok(_) | Err(_) => held.clone(),
        }
    }

    /// Whether a revision of this number was taken back, or one of a higher.
    pub(super) fn was_taken_back(&self, sequence: u64) -> bool {
        let taken = self.rolling.taken_back;
        taken.is_some_and(|taken| sequence <= taken.sequence)
    }

    /// The time by which ways back are judged, microseconds since the Unix epoch: the latest
    /// that the clock ever showed here, so that setting it back opens none again.
    pub(super) fn latest_us(&self) -> i64 {
        self.clock.now_us().max(self.rolling.seen_us)
    }

    /// Whether a revision in force, or on its way, may be taken back as it is numbered.
    pub(super) fn has_way_back(&self) -> bool {
        let has = |p: &Published| p.revision.way_back.is_some();
        let candidate = self.rolling.running().map(|u| &u.candidate);
        self.current().is_some_and(|c| has(&c)) || candidate.is_some_and(|c| has(c))
    }

    /// Remembers what time it was, over restarts, too, where something depends on it.
    pub(super) fn note_time(&mut self) {
        self.rolling.seen_us = self.latest_us();
        let is_due = self.rolling.seen_us.saturating_sub(self.rolling.noted_us) >= NOTE_EVERY_US;
        if is_due && self.has_way_back() {
            self.rolling.noted_us = self.rolling.seen_us;
            self.log_failure(self.write_journal());
        }
    }
}

/// It was in force and is not any more, by somebody's word or that of a gate.
pub(super) fn taken_back(sequence: u64) -> Diagnostic {
    Diagnostic::error(
        codes::SEQUENCE,
        format!("policy revision {sequence} was taken back"),
    )
    .cause("its rollout was halted, or somebody put the revision before it in force again")
    .help("sign what shall be in force under a higher number: palisade bundle sign FILE --key KEY --sequence N")
}

fn no_canary(sequence: u64, cause: &str) -> Diagnostic {
    Diagnostic::warning(
        codes::ROLLOUT_NO_CANARY,
        format!("policy revision {sequence} goes to all proxies at once: its way back does not serve"),
    )
    .cause(cause)
    .help("sign the next one with --back-to the file that is in force, and --back-within longer than the plan")
}
