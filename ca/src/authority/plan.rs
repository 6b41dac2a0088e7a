//! What the authorities need next, as a pure function of time and of who has
//! acknowledged what.
//!
//! Intermediates travel in every chain, so a new one can sign at once: it is made
//! at half of the old one's life. Roots must reach every verifier first: the next
//! one is published at half of the life, may sign from two thirds on, once everybody
//! has acknowledged it or the deadline has passed, and the old one stays in the
//! bundle until nothing under it is trusted any more. An order of the operator makes
//! the next one due at once; a tainted authority is due at once, too, and is revoked
//! as soon as its certificates are replaced.

use super::{Authority, KeyId, Kind, State, orders::Orders};

/// One change; the plan is asked again after each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make the next root and publish it.
    PrepareRoot,
    /// Make the next intermediate under this root.
    PrepareIntermediate {
        /// The signing root.
        root: KeyId,
    },
    /// Let it sign; the one before it retires.
    Activate(KeyId),
    /// Nothing it signed counts any more.
    Retire(KeyId),
    /// Nobody is to trust it any more.
    Revoke(KeyId),
}

/// What a rotation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Awaited {
    /// The prepared root that is to sign, or the tainted one that is to go.
    pub(crate) authority: KeyId,
    /// Its state.
    pub(crate) state: State,
    /// From when on it goes on without those who are missing, seconds since the
    /// Unix epoch.
    pub(crate) deadline_s: i64,
}

/// What the plan looks at.
pub(crate) struct View<'a> {
    /// Now, seconds since the Unix epoch.
    pub(crate) now_s: i64,
    /// Every authority that is not over.
    pub(crate) authorities: &'a [Authority],
    /// Lifetime of an intermediate in seconds.
    pub(crate) intermediate_life_s: i64,
    /// How long to wait for acknowledgements, in seconds.
    pub(crate) deadline_s: i64,
    /// What operators have asked for.
    pub(crate) orders: &'a Orders,
    /// Since when an authority is in its state, seconds since the Unix epoch.
    pub(crate) since_s: &'a dyn Fn(KeyId) -> i64,
    /// Whether everybody who is known holds a bundle with this root.
    pub(crate) is_known: &'a dyn Fn(KeyId) -> bool,
    /// Whether nobody who is known shows a certificate of a tainted authority.
    pub(crate) is_replaced: &'a dyn Fn() -> bool,
    /// End of the last leaf an intermediate has signed, if any is still valid.
    pub(crate) last_leaf: &'a dyn Fn(KeyId) -> Option<i64>,
}

impl View<'_> {
    /// The next step, if anything is due.
    pub(crate) fn next(&self) -> Option<Step> {
        self.root_step()
            .or_else(|| self.intermediate_step())
            .or_else(|| self.departure())
    }

    /// What is due but waits for acknowledgements.
    pub(crate) fn awaited(&self) -> Option<Awaited> {
        let awaited = |a: &Authority, deadline_s| Awaited {
            authority: a.key_id,
            state: a.state,
            deadline_s,
        };
        let prepared = self.usable(Kind::Root, State::Prepared);
        if let Some(next) = prepared.filter(|n| self.due_s(n) <= self.now_s) {
            return Some(awaited(next, self.due_s(next) + self.deadline_s));
        }
        let tainted = self
            .authorities
            .iter()
            .find(|a| a.is(Kind::Root, State::Tainted));
        tainted.map(|a| awaited(a, self.revocation_s(a)))
    }

    /// Whether an intermediate's certificates are to be replaced before their time.
    pub(crate) fn is_superseded(&self, intermediate: &Authority) -> bool {
        intermediate.kind == Kind::Intermediate
            && match intermediate.state {
                State::Tainted => self.signer().is_some(),
                State::Retiring => self.is_ordered(intermediate),
                _ => false,
            }
    }

    fn root_step(&self) -> Option<Step> {
        let prepared = self.usable(Kind::Root, State::Prepared);
        let Some(active) = self.usable(Kind::Root, State::Active) else {
            return match prepared {
                None => Some(Step::PrepareRoot),
                Some(next) => self.may_sign(next).then_some(Step::Activate(next.key_id)),
            };
        };
        match prepared {
            None if self.has_lived(active, 1, 2) || self.is_ordered(active) => {
                Some(Step::PrepareRoot)
            }
            Some(next) if self.may_sign(next) || !self.can_sign(active) => {
                Some(Step::Activate(next.key_id))
            }
            _ => None,
        }
    }

    fn intermediate_step(&self) -> Option<Step> {
        let root = self.usable(Kind::Root, State::Active)?;
        if self.signer().is_some() {
            return None;
        }
        // One that was made just before a crash is good enough while it is young.
        let waiting = self.young(State::Prepared);
        Some(
            waiting.map_or(Step::PrepareIntermediate { root: root.key_id }, |p| {
                Step::Activate(p.key_id)
            }),
        )
    }

    fn departure(&self) -> Option<Step> {
        self.authorities.iter().find_map(|a| match a.state {
            State::Tainted => self.may_revoke(a).then_some(Step::Revoke(a.key_id)),
            _ => (self.has_ended(a) || self.is_spent(a)).then_some(Step::Retire(a.key_id)),
        })
    }

    /// When a prepared root is due to sign: at two thirds of the present one's life,
    /// or as soon as it is there where that one is to be replaced.
    fn due_s(&self, next: &Authority) -> i64 {
        let since_s = (self.since_s)(next.key_id);
        match self.usable(Kind::Root, State::Active) {
            Some(active) if !self.is_ordered(active) => since_s.max(lived_s(active, 2, 3)),
            _ => since_s,
        }
    }

    /// Whether a prepared root may sign: it is due, and everybody knows it. Nobody
    /// is waited for where nothing else can sign anyway.
    fn may_sign(&self, next: &Authority) -> bool {
        let due_s = self.due_s(next);
        let at_once = self.usable(Kind::Root, State::Active).is_none()
            && (self.orders.revoke_now || !self.signs_meanwhile());
        at_once
            || (due_s <= self.now_s
                && ((self.is_known)(next.key_id) || due_s + self.deadline_s <= self.now_s))
    }

    /// Whether a tainted intermediate can still sign.
    fn signs_meanwhile(&self) -> bool {
        let mut tainted = self
            .authorities
            .iter()
            .filter(|a| a.state == State::Tainted);
        tainted.any(|a| a.kind == Kind::Intermediate && self.is_valid(a))
    }

    /// Whether a tainted authority may go: something else signs, and nobody shows a
    /// certificate under it any more.
    fn may_revoke(&self, tainted: &Authority) -> bool {
        self.has_ended(tainted)
            || (self.signer().is_some()
                && (self.orders.revoke_now
                    || self.revocation_s(tainted) <= self.now_s
                    || (self.is_replaced)()))
    }

    /// When a tainted authority goes at the latest. Its replacement may have used up
    /// a deadline of its own.
    fn revocation_s(&self, tainted: &Authority) -> i64 {
        let replaced_s = self
            .signer()
            .map_or(self.now_s, |a| (self.since_s)(a.key_id));
        (self.since_s)(tainted.key_id).max(replaced_s) + self.deadline_s
    }

    /// The intermediate that signs and may go on.
    fn signer(&self) -> Option<&Authority> {
        self.young(State::Active)
    }

    fn young(&self, state: State) -> Option<&Authority> {
        self.authorities.iter().find(|a| {
            a.is(Kind::Intermediate, state)
                && self.is_valid(a)
                && !self.has_lived(a, 1, 2)
                && self.is_anchored(a)
                && !self.is_ordered(a)
        })
    }

    /// Whether the operator wants it replaced. Intermediates go with their root, but
    /// only when another one can sign them.
    fn is_ordered(&self, authority: &Authority) -> bool {
        match authority.kind {
            Kind::Root => self.orders.root == Some(authority.key_id),
            Kind::Intermediate => {
                let root = self.usable(Kind::Root, State::Active).map(|r| r.key_id);
                self.orders.intermediate == Some(authority.key_id)
                    || (self.orders.root == Some(authority.issuer)
                        && root.is_some_and(|r| r != authority.issuer))
            }
        }
    }

    /// Whether a retiring authority's last certificate has ended.
    fn is_spent(&self, authority: &Authority) -> bool {
        authority.state == State::Retiring
            && match authority.kind {
                Kind::Intermediate => {
                    (self.last_leaf)(authority.key_id).is_none_or(|end| end < self.now_s)
                }
                Kind::Root => !self.authorities.iter().any(|child| {
                    child.kind == Kind::Intermediate
                        && child.issuer == authority.key_id
                        && child.state.is_trusted()
                }),
            }
    }

    fn usable(&self, kind: Kind, state: State) -> Option<&Authority> {
        self.authorities
            .iter()
            .find(|a| a.is(kind, state) && self.is_valid(a))
    }

    /// Whether the root above it is still trusted.
    fn is_anchored(&self, intermediate: &Authority) -> bool {
        self.authorities
            .iter()
            .any(|r| r.key_id == intermediate.issuer && r.state.is_trusted() && self.is_valid(r))
    }

    /// Whether a whole intermediate fits into what is left of the root.
    fn can_sign(&self, root: &Authority) -> bool {
        root.not_after_s - self.now_s >= self.intermediate_life_s
    }

    /// Whether it counts now. One that has not begun was made under a clock that
    /// has been set back since: waiting for it could take years.
    fn is_valid(&self, authority: &Authority) -> bool {
        authority.not_before_s <= self.now_s && !self.has_ended(authority)
    }

    fn has_ended(&self, authority: &Authority) -> bool {
        authority.not_after_s <= self.now_s
    }

    fn has_lived(&self, authority: &Authority, part: i64, of: i64) -> bool {
        self.now_s >= lived_s(authority, part, of)
    }
}

/// When this part of an authority's life is over.
fn lived_s(authority: &Authority, part: i64, of: i64) -> i64 {
    let life = authority.not_after_s - authority.not_before_s;
    authority.not_before_s + life / of * part
}

#[cfg(test)]
mod tests;
