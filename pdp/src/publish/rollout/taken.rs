//! Who is taken into a share that nobody stands in: one at least is part of it, and no more
//! than that.

use serde::{Deserialize, Serialize};

use super::{Phase, Proxy, Rollout, Seat, Seen, Target, after};

/// Most that are taken in, one after the other: each of them has gone before it had the candidate.
const TAKEN_MAX: usize = 64;

/// Somebody who is part of every share, wherever its place is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taken {
    identity: String,
    instance: String,
}

impl Taken {
    fn is(&self, seat: Seat<'_>) -> bool {
        self.identity == seat.identity.as_str() && self.instance == seat.instance
    }
}

impl Rollout {
    /// Takes the proxy that stands nearest into a share of which none is part. The decision APIs
    /// may be asked nothing: they are alone in it where no proxy came in `ready_within`, and the
    /// phase begins then.
    pub(super) fn fill_share(&mut self, seen: &Seen<'_>) {
        if !self.is_share() || self.ready || self.taken.len() >= TAKEN_MAX {
            return;
        }
        let can_leave = |p: &&Proxy| self.can_leave(p.seat());
        let (apis, proxies): (Vec<&Proxy>, Vec<&Proxy>) =
            seen.proxies.iter().filter(can_leave).partition(|p| p.apis);
        if proxies.iter().any(|p| self.is_of_share(p.seat())) {
            return;
        }
        let nearest = proxies.into_iter().min_by_key(|p| self.place(p.seat()));
        if let Some(nearest) = nearest {
            return self.take(nearest.seat());
        }
        let is_over = seen.now_us >= after(self.since_us, self.plan.ready_within);
        let alone = apis.into_iter().find(|p| !self.is_taken(p.seat()));
        if let Some(apis) = alone.filter(|_| is_over && self.paused.is_none()) {
            self.take(apis.seat());
            self.since_us = seen.now_us;
        }
    }

    fn take(&mut self, seat: Seat<'_>) {
        self.taken.push(Taken {
            identity: seat.identity.to_string(),
            instance: seat.instance.to_owned(),
        });
    }

    /// Whether the step is one of a share.
    pub(super) fn is_share(&self) -> bool {
        let Phase::Canary(step) = self.phase else {
            return false;
        };
        let target = self.plan.steps.get(step).map(|s| &s.target);
        matches!(target, Some(Target::Share(_)))
    }

    /// Whether somebody was taken in.
    pub(super) fn is_taken(&self, seat: Seat<'_>) -> bool {
        self.taken.iter().any(|taken| taken.is(seat))
    }

    /// Whether somebody is part of the share, by its place or because it was taken in.
    pub(super) fn is_of_share(&self, seat: Seat<'_>) -> bool {
        self.place(seat) < self.share || self.is_taken(seat)
    }
}
