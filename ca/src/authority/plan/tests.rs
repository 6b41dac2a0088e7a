//! Years of an authority's life in milliseconds, and what operators ask for in it.

use std::collections::HashMap;

use super::*;

const DAY: i64 = 86_400;

/// Runs the plan as the server does, with authorities that are only dates.
struct World {
    now_s: i64,
    authorities: Vec<Authority>,
    made: u8,
    leaf_end: i64,
    orders: Orders,
    since: HashMap<KeyId, i64>,
    known: bool,
    replaced: bool,
}

/// How long the worlds wait for acknowledgements.
const DEADLINE_S: i64 = 3600;

impl World {
    /// A world in which everybody acknowledges everything.
    fn new() -> Self {
        Self {
            now_s: 0,
            authorities: vec![],
            made: 0,
            leaf_end: 0,
            orders: Orders::default(),
            since: HashMap::new(),
            known: true,
            replaced: true,
        }
    }

    /// One that has settled and in which nobody acknowledges anything.
    fn silent() -> Self {
        let mut world = Self::new();
        world.settle();
        (world.known, world.replaced) = (false, false);
        world.leaf_end = 3600;
        world
    }

    fn id(&self, kind: Kind, state: State) -> Option<KeyId> {
        self.authorities
            .iter()
            .find(|a| a.is(kind, state))
            .map(|a| a.key_id)
    }

    /// As the command does: the root and all under it.
    fn taint(&mut self) {
        let root = self.id(Kind::Root, State::Active).unwrap();
        let under: Vec<KeyId> = self
            .authorities
            .iter()
            .filter(|a| a.issuer == root)
            .map(|a| a.key_id)
            .collect();
        for id in under {
            self.set(id, State::Tainted);
        }
    }

    fn later(&mut self, seconds: i64) -> Vec<Step> {
        self.now_s += seconds;
        self.settle()
    }

    fn with_view<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        look(&View {
            now_s: self.now_s,
            authorities: &self.authorities,
            intermediate_life_s: 7 * DAY,
            deadline_s: DEADLINE_S,
            orders: &self.orders,
            since_s: &|id| self.since[&id],
            is_known: &|_| self.known,
            is_replaced: &|| self.replaced,
            last_leaf: &|_| Some(self.leaf_end),
        })
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
        self.since.insert(key_id, self.now_s);
    }

    fn set(&mut self, id: KeyId, state: State) {
        let a = self
            .authorities
            .iter_mut()
            .find(|a| a.key_id == id)
            .unwrap();
        assert!(a.state.may_become(state), "{:?} to {state:?}", a.state);
        a.state = state;
        self.since.insert(id, self.now_s);
    }

    fn settle(&mut self) -> Vec<Step> {
        let mut steps = vec![];
        loop {
            let Some(step) = self.with_view(|view| view.next()) else {
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
                Step::Revoke(id) => self.set(id, State::Revoked),
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

#[test]
fn a_published_root_waits_for_everybody_or_for_the_deadline() {
    let mut world = World::silent();
    let old = world.id(Kind::Root, State::Active).unwrap();
    world.orders.root = Some(old);
    assert_eq!(world.settle(), [Step::PrepareRoot]);
    let next = world.id(Kind::Root, State::Prepared).unwrap();
    let awaited = world.with_view(|view| view.awaited()).unwrap();
    assert_eq!(
        (awaited.authority, awaited.state, awaited.deadline_s),
        (next, State::Prepared, DEADLINE_S)
    );
    assert_eq!(world.later(DEADLINE_S - 1), []);
    let begun = world.later(1);
    assert_eq!(begun[0], Step::Activate(next));
    assert!(matches!(begun[1], Step::PrepareIntermediate { root } if root == next));
    assert_eq!(world.with_view(|view| view.awaited()), None);
    // The old ones stay until their last leaf has ended.
    assert_eq!(world.id(Kind::Root, State::Retiring), Some(old));
    let first = world.id(Kind::Intermediate, State::Retiring).unwrap();
    let superseded =
        |w: &World| w.with_view(|v| v.authorities.iter().filter(|a| v.is_superseded(a)).count());
    assert_eq!(superseded(&world), 1);
    assert_eq!(world.later(1), [Step::Retire(first), Step::Retire(old)]);
    assert_eq!(world.later(1), [], "an order that is done asks for nothing");
}

#[test]
fn a_published_root_signs_as_soon_as_everybody_knows_it() {
    let mut world = World::silent();
    world.orders.root = world.id(Kind::Root, State::Active);
    assert_eq!(world.settle(), [Step::PrepareRoot]);
    world.known = true;
    assert_eq!(world.later(1).len(), 3);
    assert_eq!(world.count(Kind::Root, State::Active), 1);
}

#[test]
fn a_routine_rotation_waits_as_well() {
    let mut world = World::silent();
    world.now_s = 45 * DAY;
    world.settle();
    assert_eq!(world.count(Kind::Root, State::Prepared), 1);
    assert_eq!(
        world.with_view(|view| view.awaited()),
        None,
        "it is not due"
    );
    world.now_s = 60 * DAY;
    world.settle();
    assert_eq!(world.count(Kind::Root, State::Prepared), 1);
    let awaited = world.with_view(|view| view.awaited()).unwrap();
    assert_eq!(awaited.deadline_s, 60 * DAY + DEADLINE_S);
    world.later(DEADLINE_S);
    assert_eq!(world.count(Kind::Root, State::Prepared), 0);
}

#[test]
fn an_ordered_intermediate_is_replaced_at_once_and_under_the_same_root() {
    let mut world = World::silent();
    let (root, old) = (
        world.id(Kind::Root, State::Active).unwrap(),
        world.id(Kind::Intermediate, State::Active).unwrap(),
    );
    world.orders.intermediate = Some(old);
    let steps = world.settle();
    assert!(
        matches!(steps[..], [Step::PrepareIntermediate { root: r }, Step::Activate(_)] if r == root)
    );
    assert_eq!(world.id(Kind::Intermediate, State::Retiring), Some(old));
    assert_eq!(world.settle(), []);
}

#[test]
fn a_tainted_root_signs_until_its_successor_is_known_and_goes_when_replaced() {
    let mut world = World::silent();
    let (old, under) = (
        world.id(Kind::Root, State::Active).unwrap(),
        world.id(Kind::Intermediate, State::Active).unwrap(),
    );
    world.taint();
    assert_eq!(world.settle(), [Step::PrepareRoot]);
    world.known = true;
    assert_eq!(world.later(1).len(), 3, "root, intermediate, and it signs");
    assert_eq!(world.id(Kind::Root, State::Tainted), Some(old));
    let awaited = world.with_view(|view| view.awaited()).unwrap();
    assert_eq!((awaited.authority, awaited.state), (old, State::Tainted));
    assert_eq!(awaited.deadline_s, world.now_s + DEADLINE_S);
    assert_eq!(world.later(1), []);
    world.replaced = true;
    assert_eq!(world.later(1), [Step::Revoke(old), Step::Revoke(under)]);
}

#[test]
fn a_tainted_root_goes_at_the_deadline_or_at_once_if_told() {
    let mut world = World::silent();
    world.taint();
    assert_eq!(world.settle().len(), 1);
    assert_eq!(world.later(DEADLINE_S).len(), 3, "the successor signs");
    assert_eq!(world.later(DEADLINE_S - 1), []);
    assert_eq!(world.later(1).len(), 2, "root and intermediate are revoked");

    let mut world = World::silent();
    world.taint();
    world.orders.revoke_now = true;
    assert_eq!(world.settle().len(), 6);
    assert_eq!(world.count(Kind::Root, State::Tainted), 0);
    assert_eq!(world.count(Kind::Intermediate, State::Active), 1);
}
