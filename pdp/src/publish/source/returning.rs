//! Going back to a revision as its signers have numbered it.
//!
//! Whoever has numbered a revision may say in what is signed which one it may be taken back
//! to ([`trust::way_back`]). Where they have, it can go to some proxies before others and come
//! back by itself; what was taken back is refused from then on, until a higher number comes.

use palisade_mesh::{diagnostic::Diagnostic, snapshot::Digest, wire::policy::Revision};

use super::{Published, Source, rolling::name};
use crate::{
    bundle::trust,
    compiled::Compiled,
    publish::{
        bundled::Vouched,
        codes, older,
        rollout::{Name, Plan},
    },
};

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
            Ok(until_us) if self.clock.now_us().saturating_add(least_us) <= until_us => {
                return Course {
                    plan: Some(plan),
                    back_until_us: Some(until_us),
                    note: None,
                };
            }
            Ok(until_us) => {
                let at = jiff::Timestamp::from_microsecond(until_us).unwrap_or_default();
                let needed = plan.least().as_secs();
                Some(format!(
                    "it ends at {at:.0}, and the plan needs at least {needed} s until it could still be taken back at its end"
                ))
            }
            Err(refused) => Some(refused.cause.unwrap_or(refused.message)),
        };
        Course {
            plan: plan.irrevocable(),
            back_until_us: None,
            note: note.map(|cause| no_canary(release.sequence, &cause)),
        }
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
        let until_us = trust::way_back(trust.as_ref(), domain, &candidate, to, now_us)?;
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
        let trust = trust::load(self.trust.as_ref())?;
        let domain = &current.compiled.trust_domain;
        let (from, now_us) = (&current.revision, self.clock.now_us());
        trust::way_back(trust.as_ref(), domain, from, (digest, sequence), now_us).map(|_| ())
    }

    /// Puts in force what `from` is taken back to, and refuses `from` from now on.
    ///
    /// # Errors
    /// When it may not be in force, or cannot be kept.
    pub(super) fn take_back(
        &mut self,
        from: Name,
        (compiled, revision): (Compiled, Revision),
        diagnostics: Vec<Diagnostic>,
    ) -> Result<u64, Diagnostic> {
        let sequence = revision.sequence;
        // Point of no return: whatever a restart finds in force, this is not begun again.
        self.rolling.taken_back = Some(from);
        self.write_journal()?;
        let to = (
            Digest::from_slice(&revision.sha256).unwrap_or_default(),
            sequence,
        );
        let is_there = |c: &Published| (c.digest(), c.sequence()) == to;
        // Of those who have it first, the others never left it.
        if self.current().is_some_and(|c| is_there(&c)) {
            return Ok(sequence);
        }
        self.accepted(&compiled, &revision)?;
        self.keep.succeed(&revision)?;
        let next = self.published(compiled, self.clock.now_us(), revision, diagnostics);
        self.put_in_force(std::sync::Arc::new(next));
        Ok(sequence)
    }

    /// The source has the revision again that the one in force may be taken back to.
    pub(super) fn return_to(
        &mut self,
        current: &Published,
        (compiled, vouched): (Compiled, Vouched),
        diagnostics: Vec<Diagnostic>,
    ) -> Result<(), Diagnostic> {
        let revision = self.signed(&compiled, vouched, self.clock.now_us());
        self.may_return(current, (compiled.digest, revision.sequence))?;
        self.take_back(name(current), (compiled, revision), diagnostics)?;
        self.set_aside(None);
        Ok(())
    }

    /// Whether a revision of this number was taken back, or one of a higher.
    pub(super) fn was_taken_back(&self, sequence: u64) -> bool {
        let taken = self.rolling.taken_back;
        taken.is_some_and(|taken| sequence <= taken.sequence)
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
