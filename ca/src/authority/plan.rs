//! What the authorities need next, as a pure function of time.
//!
//! Intermediates travel in every chain, so a new one can sign at once: it is made
//! at half of the old one's life. Roots must reach every verifier first: the next
//! one is published at half of the life, signs from two thirds on, and the old
//! one stays in the bundle until nothing under it is trusted any more.

use super::{Authority, KeyId, Kind, State};

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
}

/// What the plan looks at.
pub(crate) struct View<'a> {
    /// Now, seconds since the Unix epoch.
    pub(crate) now_s: i64,
    /// Every authority that is not over.
    pub(crate) authorities: &'a [Authority],
    /// Lifetime of an intermediate in seconds.
    pub(crate) intermediate_life_s: i64,
    /// End of the last leaf an intermediate has signed, if any is still valid.
    pub(crate) last_leaf: &'a dyn Fn(KeyId) -> Option<i64>,
}

impl View<'_> {
    /// The next step, if anything is due.
    pub(crate) fn next(&self) -> Option<Step> {
        self.root_step()
            .or_else(|| self.intermediate_step())
            .or_else(|| self.retirement())
    }

    fn root_step(&self) -> Option<Step> {
        let prepared = self.usable(Kind::Root, State::Prepared);
        let Some(active) = self.usable(Kind::Root, State::Active) else {
            return Some(prepared.map_or(Step::PrepareRoot, |r| Step::Activate(r.key_id)));
        };
        match prepared {
            None if self.has_lived(active, 1, 2) => Some(Step::PrepareRoot),
            Some(next) if self.has_lived(active, 2, 3) || !self.can_sign(active) => {
                Some(Step::Activate(next.key_id))
            }
            _ => None,
        }
    }

    fn intermediate_step(&self) -> Option<Step> {
        let root = self.usable(Kind::Root, State::Active)?;
        let active = self
            .usable(Kind::Intermediate, State::Active)
            .filter(|a| !self.has_lived(a, 1, 2) && self.is_anchored(a));
        if active.is_some() {
            return None;
        }
        // One that was made just before a crash is good enough while it is young.
        let waiting = self
            .usable(Kind::Intermediate, State::Prepared)
            .filter(|p| !self.has_lived(p, 1, 2) && self.is_anchored(p));
        Some(
            waiting.map_or(Step::PrepareIntermediate { root: root.key_id }, |p| {
                Step::Activate(p.key_id)
            }),
        )
    }

    fn retirement(&self) -> Option<Step> {
        self.authorities
            .iter()
            .find(|a| a.state.is_trusted() && (self.has_ended(a) || self.is_spent(a)))
            .map(|a| Step::Retire(a.key_id))
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
        let life = authority.not_after_s - authority.not_before_s;
        self.now_s >= authority.not_before_s + life / of * part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    /// Runs the plan as the server does, with authorities that are only dates.
    struct World {
        now_s: i64,
        authorities: Vec<Authority>,
        made: u8,
        leaf_end: i64,
    }

    impl World {
        fn new() -> Self {
            Self {
                now_s: 0,
                authorities: vec![],
                made: 0,
                leaf_end: 0,
            }
        }

        fn make(&mut self, kind: Kind, issuer: Option<KeyId>, life: i64) {
            self.made += 1;
            let key_id = KeyId::from_slice(&[self.made; 20]).unwrap();
            self.authorities.push(Authority {
                kind,
                key_id,
                issuer: issuer.unwrap_or(key_id),
                state: State::Prepared,
                certificate: vec![].into(),
                not_before_s: self.now_s,
                not_after_s: self.now_s + life,
            });
        }

        fn set(&mut self, id: KeyId, state: State) {
            let a = self
                .authorities
                .iter_mut()
                .find(|a| a.key_id == id)
                .unwrap();
            assert!(a.state.may_become(state), "{:?} to {state:?}", a.state);
            a.state = state;
        }

        fn settle(&mut self) -> Vec<Step> {
            let mut steps = vec![];
            loop {
                let leaf_end = self.leaf_end;
                let view = View {
                    now_s: self.now_s,
                    authorities: &self.authorities,
                    intermediate_life_s: 7 * DAY,
                    last_leaf: &|_| Some(leaf_end),
                };
                let Some(step) = view.next() else {
                    return steps;
                };
                steps.push(step);
                assert!(steps.len() < 50, "does not settle: {steps:?}");
                match step {
                    Step::PrepareRoot => self.make(Kind::Root, None, 90 * DAY),
                    Step::PrepareIntermediate { root } => {
                        self.make(Kind::Intermediate, Some(root), 7 * DAY);
                    }
                    Step::Activate(id) => {
                        let kind = self
                            .authorities
                            .iter()
                            .find(|a| a.key_id == id)
                            .unwrap()
                            .kind;
                        let old = self.authorities.iter().find(|a| a.is(kind, State::Active));
                        if let Some(old) = old.map(|a| a.key_id) {
                            self.set(old, State::Retiring);
                        }
                        self.set(id, State::Active);
                    }
                    Step::Retire(id) => self.set(id, State::Retired),
                }
                self.authorities.retain(|a| !a.state.is_over());
            }
        }

        fn count(&self, kind: Kind, state: State) -> usize {
            self.authorities
                .iter()
                .filter(|a| a.is(kind, state))
                .count()
        }
    }

    #[test]
    fn a_new_domain_gets_one_root_and_one_intermediate() {
        let mut world = World::new();
        assert_eq!(world.settle().len(), 4);
        assert_eq!(world.count(Kind::Root, State::Active), 1);
        assert_eq!(world.count(Kind::Intermediate, State::Active), 1);
        assert_eq!(world.settle(), []);
    }

    #[test]
    fn a_year_of_hours_keeps_every_promise() {
        let mut world = World::new();
        let mut published = std::collections::HashMap::new();
        for hour in 0..365 * 24 {
            world.now_s = hour * 3600;
            world.settle();
            world.leaf_end = world.now_s + 3600;
            let of = |kind, state| world.authorities.iter().filter(move |a| a.is(kind, state));
            let root = of(Kind::Root, State::Active).next().unwrap();
            let signer = of(Kind::Intermediate, State::Active).next().unwrap();
            // The signing intermediate has half of its life before it and fits into its root.
            assert!(signer.not_after_s - world.now_s >= 3 * DAY);
            let anchor = world
                .authorities
                .iter()
                .find(|a| a.key_id == signer.issuer)
                .unwrap();
            assert!(anchor.state.is_trusted() && anchor.not_after_s >= signer.not_after_s);
            for r in of(Kind::Root, State::Prepared) {
                published.entry(r.key_id).or_insert(world.now_s);
            }
            // No root signs before it has been published for ten days, but for the first.
            if root.not_before_s > 0 {
                assert!(world.now_s - published[&root.key_id] >= 10 * DAY);
            }
            assert!(world.authorities.len() <= 5);
        }
        assert!(world.made > 100, "intermediates were not rotated");
    }

    #[test]
    fn a_domain_that_slept_past_every_end_recovers() {
        let mut world = World::new();
        world.settle();
        world.now_s = 400 * DAY;
        world.settle();
        assert_eq!(world.count(Kind::Root, State::Active), 1);
        assert_eq!(world.count(Kind::Intermediate, State::Active), 1);
        assert!(
            world
                .authorities
                .iter()
                .all(|a| a.not_after_s > world.now_s)
        );
    }

    #[test]
    fn a_domain_whose_clock_was_set_back_starts_over() {
        let mut world = World::new();
        world.now_s = 400 * DAY;
        world.settle();
        world.now_s = 0;
        world.settle();
        let valid = |kind| {
            world.authorities.iter().any(|a| {
                a.is(kind, State::Active) && (a.not_before_s..a.not_after_s).contains(&world.now_s)
            })
        };
        assert!(valid(Kind::Root) && valid(Kind::Intermediate));
        assert_eq!(world.count(Kind::Root, State::Active), 1);
        world.now_s = 400 * DAY;
        world.settle();
        assert_eq!(world.count(Kind::Intermediate, State::Active), 1);
    }

    #[test]
    fn a_prepared_intermediate_left_by_a_crash_is_used() {
        let mut world = World::new();
        world.settle();
        let root = world.authorities[0].key_id;
        world.now_s = 4 * DAY;
        world.make(Kind::Intermediate, Some(root), 7 * DAY);
        let waiting = world.authorities.last().unwrap().key_id;
        assert_eq!(world.settle().first(), Some(&Step::Activate(waiting)));
        assert_eq!(world.made, 3);
    }

    #[test]
    fn an_old_root_stays_until_nothing_under_it_counts() {
        let mut world = World::new();
        world.settle();
        world.now_s = 60 * DAY;
        // Leaves of the intermediate before are alive: it and its root must stay.
        world.leaf_end = world.now_s + 1;
        world.settle();
        assert_eq!(world.count(Kind::Root, State::Active), 1);
    }
}
